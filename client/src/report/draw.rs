//! A chart as SVG. What it looks like is said in `chart.css`; here is where everything stands.

use maud::{Markup, PreEscaped, html};

use super::{
    chart::{Axis, Chart, Marks, Place, Series},
    scale::{Scale, Spacing},
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

/// How many ticks there are at most below lines that have places of their own.
const TICKS: usize = 7;

/// How far from the right edge a line may end and still have its name there.
const NEAR: f64 = 60.0;

/// How high the title of a file is.
const HEADING: f64 = 40.0;

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
    let whole = html! {
        svg xmlns="http://www.w3.org/2000/svg" class="alone" role="img" aria-labelledby="title about"
            viewBox=(format!("0 {} {WIDTH} {}", -HEADING, height + HEADING)) width=(WIDTH) height=(height + HEADING) {
            title id="title" { (chart.title) }
            desc id="about" { (chart.about) }
            style { (PreEscaped(style)) }
            rect.paper x="0" y=(-HEADING) width="100%" height="100%" {}
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

fn path(places: impl Iterator<Item = (f64, f64)>) -> String {
    let steps: Vec<String> = places.map(|(x, y)| format!("{} {}", px(x), px(y))).collect();
    format!("M{}", steps.join("L"))
}

/// Both ends of every interval.
fn ends(chart: &Chart) -> impl Iterator<Item = f64> {
    chart.series.iter().flat_map(|it| &it.places).flat_map(|place| [place.value.low, place.value.high])
}

/// A series' group: whoever looks at a mark in it is told its name.
fn group(series: &Series, names: &[String], drawn: &Markup) -> Markup {
    html! { g class=(class(series.contender)) data-of=(series.contender) data-name=(names[series.contender]) { (drawn) } }
}

fn class(contender: usize) -> String {
    let turn = match contender / COLOURS {
        0 => "",
        odd if odd % 2 == 1 => " turn1",
        _ => " turn2",
    };
    format!("series c{}{turn}", contender % COLOURS)
}

/// Values against something: a line a contender.
fn lines(chart: &Chart, along: &Axis, names: &[String]) -> (Markup, f64) {
    let (left, right, top, bottom) = (56.0, WIDTH - 124.0, 34.0, 34.0 + HEIGHT);
    let y = Scale::over(chart.value.spacing, ends(chart), (bottom, top));
    let steps = || chart.series.iter().flat_map(|it| it.places.iter().map(|place| place.along));
    let x = Scale::along(along.spacing, steps(), (left + 8.0, right - 8.0));
    let mut labels = Labels::within(top, bottom);
    let body = html! {
        text.axis x="8" y="16" { (chart.value.label) }
        @for tick in y.ticks() {
            line.grid x1=(px(left)) x2=(px(right)) y1=(px(y.at(tick))) y2=(px(y.at(tick))) {}
            text.tick.end x=(px(left - 8.0)) y=(px(y.at(tick) + 4.0)) { (chart.value.unit.tick(tick)) }
        }
        line.base x1=(px(left)) x2=(px(right)) y1=(px(bottom)) y2=(px(bottom)) {}
        @for step in steps_told(chart, &x) {
            line.notch x1=(px(x.at(step))) x2=(px(x.at(step))) y1=(px(bottom)) y2=(px(bottom + 4.0)) {}
            text.tick.middle x=(px(x.at(step))) y=(px(bottom + 18.0)) { (along.unit.tick(step)) }
        }
        text.axis.middle x=(px(f64::midpoint(left, right))) y=(px(bottom + 38.0)) { (along.label) }
        @for series in &chart.series {
            (group(series, names, &line(chart, series, &x, &y, &label(series, names, &x, &y, right, &mut labels))))
        }
    };
    (body, bottom + 46.0)
}

/// What the ticks below lines say: the places that have names, if they are few, else round figures.
fn steps_told(chart: &Chart, x: &Scale) -> Vec<f64> {
    let named = chart.series.iter().flat_map(|it| it.places.iter().filter(|place| !place.name.is_empty()));
    let mut steps: Vec<f64> = named.map(|place| place.along).collect();
    steps.sort_by(f64::total_cmp);
    steps.dedup();
    if steps.len() <= TICKS { steps } else { x.ticks() }
}

fn line(chart: &Chart, series: &Series, x: &Scale, y: &Scale, label: &Markup) -> Markup {
    let at = |place: &Place| (x.at(place.along), y.at(place.value.median));
    html! {
        @for place in &series.places {
            @let (low, high) = (y.at(place.value.low), y.at(place.value.high));
            @if low - high > 1.0 {
                path.whisker d=(format!("M{x} {}V{}", px(low), px(high), x = px(x.at(place.along)))) {}
            }
        }
        path.line d=(path(series.places.iter().map(at))) {}
        @for place in &series.places { (mark(chart, place, series.places.len(), shape(series.contender, at(place)))) }
        (label)
    }
}

/// A name at a line's end, where that is near the right edge and there is room.
fn label(series: &Series, names: &[String], x: &Scale, y: &Scale, right: f64, labels: &mut Labels) -> Markup {
    let end = series.places.last().map(|last| (x.at(last.along), y.at(last.value.median)));
    let near = end.filter(|(end, _)| *end > right - NEAR);
    let placed = near.and_then(|(end, height)| Some((end, height, labels.place(height)?)));
    html! {
        @if let Some((end, height, at)) = placed {
            path.lead d=(path([(end + 6.0, height), (right + 4.0, at), (right + 8.0, at)].into_iter())) {}
            text.name x=(px(right + 11.0)) y=(px(at + 4.0)) { (cut(&names[series.contender], SHORT)) }
        }
    }
}

/// A value each, or a few: a row a contender. Bars where there is one and the axis begins at zero, else marks.
fn rows(chart: &Chart, names: &[String]) -> (Markup, f64) {
    let key = if chart.marks == Marks::ByPlace { 22.0 } else { 0.0 };
    let (left, right, top) = (164.0, WIDTH - 14.0, 30.0 + key);
    let bottom = top + ROW * chart.series.len() as f64 + 6.0;
    let is_bars = chart.value.spacing == Spacing::Even && chart.series.iter().all(|it| it.places.len() == 1);
    let room = if is_bars { 68.0 } else { 10.0 };
    let x = Scale::over(chart.value.spacing, ends(chart), (left, right - room));
    let columns = chart.columns();
    let body = html! {
        text.axis x="8" y="16" { (chart.value.label) }
        @if chart.marks == Marks::ByPlace { (key_of_places(&columns)) }
        @for tick in x.ticks() {
            line.grid x1=(px(x.at(tick))) x2=(px(x.at(tick))) y1=(px(top)) y2=(px(bottom)) {}
            text.tick.middle x=(px(x.at(tick))) y=(px(bottom + 16.0)) { (chart.value.unit.tick(tick)) }
        }
        @for (n, series) in chart.series.iter().enumerate() {
            @let middle = top + ROW * (n as f64 + 0.5) + 3.0;
            (group(series, names, &html! {
                text.name.end x=(px(left - 10.0)) y=(px(middle + 4.0)) { (cut(&names[series.contender], LONG)) }
                @if is_bars { (bar(chart, &series.places[0], &x, middle)) }
                @else { (dots(chart, series, &columns, &x, middle)) }
            }))
        }
        @if chart.value.spacing == Spacing::Even {
            line.base x1=(px(x.at(0.0))) x2=(px(x.at(0.0))) y1=(px(top)) y2=(px(bottom)) {}
        }
    };
    (body, bottom + 28.0)
}

/// What the shapes of a row's marks mean.
fn key_of_places(columns: &[&str]) -> Markup {
    let widths = columns.iter().map(|name| 26.0 + 6.6 * name.chars().count() as f64);
    let starts = widths.scan(8.0, |x, width| Some(std::mem::replace(x, *x + width)));
    html! {
        @for (n, (name, x)) in columns.iter().zip(starts).enumerate() {
            path.sample d=(shape(n, (x + 5.0, 33.0))) {}
            text.tick x=(px(x + 14.0)) y="37" { (name) }
        }
    }
}

fn bar(chart: &Chart, place: &Place, x: &Scale, middle: f64) -> Markup {
    let width = (x.at(place.value.median) - x.at(0.0)).max(0.5);
    html! {
        rect.mark.bar x=(px(x.at(0.0))) y=(px(middle - 7.0)) height="14" width=(px(width)) data-said=(said(chart, place)) {}
        (whisker(place, x, middle))
        text.value x=(px(x.at(place.value.high) + 6.0)) y=(px(middle + 4.0)) {
            @if place.at_least { ">\u{202f}" }
            (chart.value.unit.written(place.value.median))
        }
    }
}

fn dots(chart: &Chart, series: &Series, columns: &[&str], x: &Scale, middle: f64) -> Markup {
    let number = |place: &Place| match chart.marks {
        Marks::BySeries => series.contender,
        Marks::ByPlace => columns.iter().position(|name| *name == place.name).unwrap_or(0),
    };
    let at = |place: &Place| (x.at(place.value.median), middle);
    html! {
        path.line d=(path(series.places.iter().map(at))) {}
        @for place in &series.places { (whisker(place, x, middle)) }
        @for place in &series.places { (mark(chart, place, series.places.len(), shape(number(place), at(place)))) }
    }
}

/// The interval in a row.
fn whisker(place: &Place, x: &Scale, middle: f64) -> Markup {
    let (low, high) = (x.at(place.value.low), x.at(place.value.high));
    html! {
        @if high - low > 1.0 {
            path.whisker d=(format!("M{low} {middle}H{high}M{low} {from}v6M{high} {from}v6",
                low = px(low), high = px(high), middle = px(middle), from = px(middle - 3.0))) {}
        }
    }
}

fn mark(chart: &Chart, place: &Place, of: usize, outline: String) -> Markup {
    let class = if of > MARKED { "mark quiet" } else { "mark" };
    html! { path class=(class) d=(outline) data-said=(said(chart, place)) {} }
}

/// What a mark says, behind the name of its series.
fn said(chart: &Chart, place: &Place) -> String {
    let where_ = match (&chart.along, place.name.as_str()) {
        (Some(along), "") => along.unit.written(place.along),
        (_, name) => name.to_owned(),
    };
    format!("{where_}: {}", chart.said(place))
}

/// A mark's outline: a shape for each colour, all of about one area.
fn shape(number: usize, (x, y): (f64, f64)) -> String {
    let at = |corners: &[(f64, f64)]| path(corners.iter().map(|(dx, dy)| (x + dx, y + dy))) + "Z";
    match number % COLOURS {
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
    html! {
        svg.key viewBox="0 0 26 12" width="26" height="12" aria-hidden="true" {
            g class=(class(number)) {
                path.line d="M1 6H25" {}
                path.mark d=(shape(number, (13.0, 6.0))) {}
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
