//! A chart as SVG. What it looks like is said in `chart.css`; here is where everything stands.

use maud::{Markup, PreEscaped, html};

use super::{
    chart::{Axis, Chart, Point, Series},
    scale::Scale,
};

/// The width of every chart, in pixels when it is not scaled.
const WIDTH: f64 = 480.0;

/// How high the lines of a chart may climb.
const HEIGHT: f64 = 250.0;

/// How far a row is from the next.
const ROW: f64 = 24.0;

/// How far two labels must be from each other.
const LABEL: f64 = 14.0;

/// How many characters of a name stand beside a line, and before a row.
const SHORT: usize = 16;
const LONG: usize = 24;

/// With more points than these a line has no marks, until somebody looks at one.
const MARKED: usize = 12;

/// Colours there are; the next ones have hollow marks and broken lines.
const COLOURS: usize = 8;

/// A chart within a page that has its style.
pub fn inline(chart: &Chart, names: &[String]) -> Markup {
    let (body, height) = body(chart, names);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-labelledby=(format!("{0}-title {0}-about", chart.id)) {
            (body)
        }
    }
}

/// A chart as a file of its own, readable in light and dark.
pub fn standalone(chart: &Chart, names: &[String], style: &str) -> String {
    let (body, height) = body(chart, names);
    let header = 40.0;
    let whole = html! {
        svg xmlns="http://www.w3.org/2000/svg" class="alone" viewBox=(format!("0 {} {WIDTH} {}", -header, height + header))
            width=(WIDTH) height=(height + header) role="img" aria-labelledby="title about" {
            title id="title" { (chart.title) }
            desc id="about" { (chart.about) }
            style { (PreEscaped(style)) }
            rect.paper x="0" y=(-header) width="100%" height="100%" {}
            text.heading x="8" y="-16" { (chart.title) }
            (body)
        }
    };
    whole.into_string()
}

fn body(chart: &Chart, names: &[String]) -> (Markup, f64) {
    match &chart.along {
        Some(along) => lines(chart, along, names),
        None => rows(chart, names),
    }
}

/// A length or a place, to the tenth of a pixel.
fn px(length: f64) -> String {
    let text = format!("{length:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Values against something: a line a contender.
fn lines(chart: &Chart, along: &Axis, names: &[String]) -> (Markup, f64) {
    let (left, right, top, bottom) = (56.0, WIDTH - 124.0, 34.0, 34.0 + HEIGHT);
    let points = || chart.series.iter().flat_map(|it| &it.points);
    let highs = points().flat_map(|point| [point.value.low, point.value.high]);
    let y = Scale::over(chart.value.spacing, highs, (bottom, top));
    let places = |places| along_scale(along, points().map(|point| point.along), places);
    let x = places((left + 8.0, right - 8.0));
    let mut steps: Vec<f64> = points().map(|point| point.along).collect();
    steps.sort_by(f64::total_cmp);
    steps.dedup();
    if steps.len() > 6 {
        steps = x.ticks();
    }
    let mut labels = Labels::within(top, bottom);
    let body = html! {
        text.axis x="8" y="16" { (chart.value.label) }
        @for tick in y.ticks() {
            line.grid x1=(px(left)) x2=(px(right)) y1=(px(y.at(tick))) y2=(px(y.at(tick))) {}
            text.tick.end x=(px(left - 8.0)) y=(px(y.at(tick) + 4.0)) { (chart.value.unit.tick(tick)) }
        }
        line.base x1=(px(left)) x2=(px(right)) y1=(px(bottom)) y2=(px(bottom)) {}
        @for step in &steps {
            line.notch x1=(px(x.at(*step))) x2=(px(x.at(*step))) y1=(px(bottom)) y2=(px(bottom + 4.0)) {}
            text.tick.middle x=(px(x.at(*step))) y=(px(bottom + 18.0)) { (along.unit.tick(*step)) }
        }
        text.axis.middle x=(px(f64::midpoint(left, right))) y=(px(bottom + 38.0)) { (along.label) }
        @for series in &chart.series {
            @let place = |point: &Point| (x.at(point.along), y.at(point.value.median));
            g class=(class(series)) data-of=(series.contender) {
                @if series.points.len() <= MARKED {
                    @for point in &series.points { (whisker(x.at(point.along), point, &y)) }
                }
                path.line d=(path(series.points.iter().map(place))) {}
                @for point in &series.points { (mark(chart, series, point, place(point), names)) }
                @if let Some(last) = series.points.last().filter(|last| x.at(last.along) > right - 9.0) {
                    @if let Some(at) = labels.place(y.at(last.value.median)) {
                        polyline.lead points=(format!("{},{} {},{} {},{}", px(x.at(last.along) + 6.0),
                            px(y.at(last.value.median)), px(right + 4.0), px(at), px(right + 8.0), px(at))) {}
                        text.name x=(px(right + 11.0)) y=(px(at + 4.0)) { (cut(&names[series.contender], SHORT)) }
                    }
                }
            }
        }
    };
    (body, bottom + 46.0)
}

fn along_scale(along: &Axis, steps: impl Iterator<Item = f64>, places: (f64, f64)) -> Scale {
    let (least, most) = steps.fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
    Scale::between(along.spacing, least, most, places)
}

/// A value each, or a few: a row a contender. Bars where the axis begins at zero and there is one, else marks.
fn rows(chart: &Chart, names: &[String]) -> (Markup, f64) {
    let (left, right, top) = (164.0, WIDTH - 14.0, 30.0);
    let bottom = top + ROW * chart.series.len() as f64 + 6.0;
    let points = || chart.series.iter().flat_map(|it| &it.points);
    let is_bars = chart.value.spacing == super::scale::Spacing::Even
        && chart.series.iter().all(|series| series.points.len() == 1);
    let ends = points().flat_map(|point| [point.value.low, point.value.high]);
    let room = if is_bars { 68.0 } else { 10.0 };
    let x = Scale::over(chart.value.spacing, ends, (left, right - room));
    let body = html! {
        text.axis x="8" y="16" { (chart.value.label) }
        @for tick in x.ticks() {
            line.grid x1=(px(x.at(tick))) x2=(px(x.at(tick))) y1=(px(top)) y2=(px(bottom)) {}
            text.tick.middle x=(px(x.at(tick))) y=(px(bottom + 16.0)) { (chart.value.unit.tick(tick)) }
        }
        @for (n, series) in chart.series.iter().enumerate() {
            @let middle = top + ROW * (n as f64 + 0.5) + 3.0;
            g class=(class(series)) data-of=(series.contender) {
                text.name.end x=(px(left - 10.0)) y=(px(middle + 4.0)) { (cut(&names[series.contender], LONG)) }
                @if is_bars {
                    @let point = &series.points[0];
                    rect.mark.bar x=(px(x.start())) y=(px(middle - 7.0)) height="14"
                        width=(px((x.at(point.value.median) - x.start()).max(0.5))) data-said=(said(chart, series, point, names)) {}
                    (bar_whisker(middle, point, &x))
                    text.value x=(px(x.at(point.value.high) + 6.0)) y=(px(middle + 4.0)) {
                        @if point.at_least { "> " }
                        (chart.value.unit.written(point.value.median))
                    }
                } @else {
                    path.line d=(path(series.points.iter().map(|point| (x.at(point.value.median), middle)))) {}
                    @for point in &series.points {
                        (bar_whisker(middle, point, &x))
                        (mark(chart, series, point, (x.at(point.value.median), middle), names))
                    }
                }
            }
        }
        line.base x1=(px(x.start())) x2=(px(x.start())) y1=(px(top)) y2=(px(bottom)) {}
    };
    (body, bottom + 28.0)
}

fn class(series: &Series) -> String {
    let turn = series.contender / COLOURS;
    format!(
        "series c{}{}",
        series.contender % COLOURS,
        if turn == 0 { String::new() } else { format!(" turn{}", 1 + (turn - 1) % 2) }
    )
}

/// The sentence that a mark has for whoever looks at it.
fn said(chart: &Chart, series: &Series, point: &Point, names: &[String]) -> String {
    let place = match (&chart.along, point.name.is_empty()) {
        (Some(along), true) => format!(", {}", along.unit.written(point.along)),
        (_, true) => String::new(),
        (_, false) => format!(", {}", point.name),
    };
    format!("{}{place}: {}", names[series.contender], chart.said(point))
}

fn path(places: impl Iterator<Item = (f64, f64)>) -> String {
    let steps: Vec<String> = places.map(|(x, y)| format!("{} {}", px(x), px(y))).collect();
    format!("M{}", steps.join("L"))
}

fn mark(chart: &Chart, series: &Series, point: &Point, (x, y): (f64, f64), names: &[String]) -> Markup {
    let class = if series.points.len() > MARKED { "mark quiet" } else { "mark" };
    html! {
        path class=(class) d=(shape(series.contender % COLOURS, x, y)) data-said=(said(chart, series, point, names)) {}
    }
}

/// A mark's outline: a shape for each colour, all of about one area.
pub fn shape(number: usize, x: f64, y: f64) -> String {
    let at = |corners: &[(f64, f64)]| path(corners.iter().map(|(dx, dy)| (x + dx, y + dy))) + "Z";
    match number {
        0 => format!("M{} {}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z", px(x - 4.0), px(y)),
        1 => at(&[(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)]),
        2 => at(&[(0.0, -4.8), (4.8, 3.6), (-4.8, 3.6)]),
        3 => at(&[(0.0, -5.2), (5.2, 0.0), (0.0, 5.2), (-5.2, 0.0)]),
        4 => at(&[(0.0, 4.8), (4.8, -3.6), (-4.8, -3.6)]),
        5 => at(&[
            (-1.7, -5.0),
            (1.7, -5.0),
            (1.7, -1.7),
            (5.0, -1.7),
            (5.0, 1.7),
            (1.7, 1.7),
            (1.7, 5.0),
            (-1.7, 5.0),
            (-1.7, 1.7),
            (-5.0, 1.7),
            (-5.0, -1.7),
            (-1.7, -1.7),
        ]),
        6 => at(&[(-4.8, 0.0), (-2.4, -4.3), (2.4, -4.3), (4.8, 0.0), (2.4, 4.3), (-2.4, 4.3)]),
        _ => at(&[
            (0.0, -5.6),
            (1.5, -1.6),
            (5.4, -1.6),
            (2.3, 0.9),
            (3.4, 5.0),
            (0.0, 2.6),
            (-3.4, 5.0),
            (-2.3, 0.9),
            (-5.4, -1.6),
            (-1.5, -1.6),
        ]),
    }
}

/// The interval of a point of a line.
fn whisker(x: f64, point: &Point, y: &Scale) -> Markup {
    let (low, high) = (y.at(point.value.low), y.at(point.value.high));
    html! {
        @if low - high > 1.0 {
            path.whisker d=(format!("M{x} {low}V{high}M{from} {low}h6M{from} {high}h6",
                x = px(x), low = px(low), high = px(high), from = px(x - 3.0))) {}
        }
    }
}

/// The interval of a row.
fn bar_whisker(middle: f64, point: &Point, x: &Scale) -> Markup {
    let (low, high) = (x.at(point.value.low), x.at(point.value.high));
    html! {
        @if high - low > 1.0 {
            path.whisker d=(format!("M{low} {middle}H{high}M{low} {from}v6M{high} {from}v6",
                low = px(low), high = px(high), middle = px(middle), from = px(middle - 3.0))) {}
        }
    }
}

/// A name that has room.
fn cut(name: &str, most: usize) -> String {
    match name.chars().count() > most {
        true => name.chars().take(most - 1).collect::<String>().trim_end().to_owned() + "…",
        false => name.into(),
    }
}

/// Where labels at the ends of lines may stand. Who comes first has the better place; who finds none has none.
struct Labels {
    top: f64,
    bottom: f64,
    taken: Vec<f64>,
}

impl Labels {
    fn within(top: f64, bottom: f64) -> Self {
        Self { top, bottom, taken: Vec::new() }
    }

    /// The free place that is nearest to `wanted`, if there is one near.
    fn place(&mut self, wanted: f64) -> Option<f64> {
        let is_free = |at: &f64| {
            (self.top..=self.bottom).contains(at)
                && self.taken.iter().all(|other| (at - other).abs() >= LABEL)
        };
        let far = (4.0 * LABEL) as i32;
        let found = (0..=far).flat_map(|d| [wanted + f64::from(d), wanted - f64::from(d)]).find(is_free)?;
        self.taken.push(found);
        Some(found)
    }
}

/// A contender's mark by itself, for a key.
pub fn key(number: usize) -> Markup {
    let series = Series { contender: number, points: Vec::new() };
    html! {
        svg.key viewBox="0 0 26 12" width="26" height="12" aria-hidden="true" {
            g class=(class(&series)) {
                path.line d="M1 6H25" {}
                path.mark d=(shape(number % COLOURS, 13.0, 6.0)) {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_would_collide_move_apart_or_are_left_out() {
        let mut labels = Labels::within(0.0, 40.0);
        let placed: Vec<Option<f64>> = [20.0, 21.0, 20.0, 20.0].map(|at| labels.place(at)).into();
        assert_eq!(placed[0], Some(20.0));
        for pair in [(0, 1), (0, 2), (1, 2)] {
            let (a, b) = (placed[pair.0].unwrap(), placed[pair.1].unwrap());
            assert!((a - b).abs() >= LABEL, "{placed:?}");
        }
        assert_eq!(placed[3], None);
    }

    #[test]
    fn a_long_name_is_cut_and_says_so() {
        assert_eq!(cut("multi-reactor/reuseport", 10), "multi-rea…");
        assert_eq!(cut("échoécho", 8), "échoécho");
    }
}
