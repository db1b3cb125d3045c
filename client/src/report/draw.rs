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
const LONG: usize = 21;

/// Where a line has more places than these, a chart shows no marks until somebody looks at one.
const MARKED: usize = 12;

/// How many ticks there are at most below lines that have places of their own.
const TICKS: usize = 7;

/// How far from the right edge a line may end and still have its name there.
const NEAR: f64 = 60.0;

/// How high the title of a file is.
const HEADING: f64 = 40.0;

/// How far a chart is from the edges of its file.
const MARGIN: f64 = 12.0;

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
    let (width, height) = (WIDTH + 2.0 * MARGIN, height + HEADING + MARGIN);
    let whole = html! {
        svg xmlns="http://www.w3.org/2000/svg" class="alone" role="img" aria-labelledby="title about"
            viewBox=(format!("{} {} {width} {height}", -MARGIN, -HEADING)) width=(width) height=(height) {
            title id="title" { (chart.title) }
            desc id="about" { (chart.about) }
            style { (PreEscaped(style)) }
            (outlines())
            rect.paper x=(-MARGIN) y=(-HEADING) width=(width) height=(height) {}
            text.heading x="0" y="-14" { (chart.title) }
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
    let end = |it: &Series| it.places.last().map(|last| (x.at(last.along), y.at(last.value.median)));
    let near = chart.series.iter().filter(|it| end(it).is_some_and(|(x, _)| x > right - NEAR));
    let labelled: Vec<&Series> = near.take(((bottom - top) / LABEL) as usize + 1).collect();
    let ends: Vec<(f64, f64)> = labelled.iter().filter_map(|it| end(it)).collect();
    let labels = spread(&ends.iter().map(|end| end.1).collect::<Vec<_>>(), top, bottom);
    let body = html! {
        text.axis x="0" y="16" { (chart.value.label) }
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
            @let number = labelled.iter().position(|it| it.contender == series.contender);
            (group(series, names, &html! {
                (line(chart, series, &x, &y))
                @if let Some(n) = number { (label(series, names, ends[n], right, labels[n])) }
            }))
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

fn line(chart: &Chart, series: &Series, x: &Scale, y: &Scale) -> Markup {
    let at = |place: &Place| (x.at(place.along), y.at(place.value.median));
    html! {
        @for place in &series.places {
            @let (low, high) = (y.at(place.value.low), y.at(place.value.high));
            @if low - high > 1.0 {
                path.whisker d=(format!("M{x} {}V{}", px(low), px(high), x = px(x.at(place.along)))) {}
            }
        }
        @if !series.law.is_empty() {
            path.law d=(path(series.law.iter().map(|(along, value)| (x.at(*along), y.at(*value))))) {}
        }
        path.line d=(path(series.places.iter().map(at))) {}
        @for place in &series.places { (mark(chart, place, series.contender, at(place))) }
    }
}

/// A name at a line's end.
fn label(series: &Series, names: &[String], end: (f64, f64), right: f64, at: f64) -> Markup {
    let lead = [(end.0 + 6.0, end.1), (right + 4.0, at), (right + 8.0, at)];
    html! {
        path.lead d=(path(lead.into_iter())) {}
        text.name x=(px(right + 11.0)) y=(px(at + 4.0)) { (cut(&names[series.contender], SHORT)) }
    }
}

/// Where labels go that want these heights: as near as they can be without touching each other.
fn spread(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    // Labels that touch are a stack, which hangs at the mean of what they want.
    let mut stacks: Vec<(f64, usize)> = Vec::new();
    for &n in &order {
        let (mut middle, mut many) = (wanted[n], 1);
        loop {
            let half = LABEL * many as f64 / 2.0;
            middle = middle.min(bottom + LABEL / 2.0 - half).max(top - LABEL / 2.0 + half);
            match stacks.pop() {
                Some((above, of)) if above + LABEL * of as f64 / 2.0 > middle - half => {
                    middle = (above * of as f64 + middle * many as f64) / (of + many) as f64;
                    many += of;
                }
                Some(stack) => {
                    stacks.push(stack);
                    break;
                }
                None => break,
            }
        }
        stacks.push((middle, many));
    }
    let of_stack = |(middle, many): (f64, usize)| {
        (0..many).map(move |n| middle + LABEL * (n as f64 - (many - 1) as f64 / 2.0))
    };
    let mut placed = vec![0.0; wanted.len()];
    order.iter().zip(stacks.into_iter().flat_map(of_stack)).for_each(|(&n, at)| placed[n] = at);
    placed
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
        text.axis x="0" y="16" { (chart.value.label) }
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
    let starts = widths.scan(0.0, |x, width| Some(std::mem::replace(x, *x + width)));
    html! {
        @for (n, (name, x)) in columns.iter().zip(starts).enumerate() {
            use.sample href=(symbol(n)) x=(px(x + 5.0)) y="33" {}
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
        @for place in &series.places { (mark(chart, place, number(place), at(place))) }
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

fn mark(chart: &Chart, place: &Place, number: usize, (x, y): (f64, f64)) -> Markup {
    let class = if chart.series.iter().any(|it| it.places.len() > MARKED) { "mark quiet" } else { "mark" };
    html! { use class=(class) href=(symbol(number)) x=(px(x)) y=(px(y)) data-said=(said(chart, place)) {} }
}

/// What a mark says, behind the name of its series.
fn said(chart: &Chart, place: &Place) -> String {
    let where_ = match (&chart.along, place.name.as_str()) {
        (Some(along), "") => along.unit.written(place.along),
        (_, name) => name.to_owned(),
    };
    format!("{where_}: {}", chart.said(place))
}

/// The outlines of the marks, which the charts of a page share: a shape for each colour, all of about one area.
const OUTLINES: [&str; COLOURS] = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "M-3.6 -3.6h7.2v7.2h-7.2Z",
    "M0 -4.8L4.8 3.6H-4.8Z",
    "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",
    "M0 4.8L4.8 -3.6H-4.8Z",
    "M-1.7 -5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3Z",
    "M-4.8 0L-2.4 -4.3H2.4L4.8 0L2.4 4.3H-2.4Z",
    "M0 -5.6L1.5 -1.6H5.4L2.3 .9L3.4 5L0 2.6L-3.4 5L-2.3 .9L-5.4 -1.6H-1.5Z",
];

fn symbol(number: usize) -> String {
    format!("#mark{}", number % COLOURS)
}

fn outlines() -> Markup {
    html! { defs { @for (n, outline) in OUTLINES.iter().enumerate() { path id=(format!("mark{n}")) d=(outline) {} } } }
}

/// What the charts of a page share.
pub fn shared() -> Markup {
    html! { svg.shared width="0" height="0" aria-hidden="true" { (outlines()) } }
}

/// A name that has room.
fn cut(name: &str, most: usize) -> String {
    match name.chars().count() > most {
        true => name.chars().take(most - 1).collect::<String>().trim_end().to_owned() + "…",
        false => name.into(),
    }
}

/// A contender's mark by itself, for a key.
pub fn key(number: usize) -> Markup {
    html! {
        svg.key viewBox="0 0 26 12" width="26" height="12" aria-hidden="true" {
            g class=(class(number)) {
                path.line d="M1 6H25" {}
                use.mark href=(symbol(number)) x="13" y="6" {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn labels_keep_their_order_do_not_touch_and_stay_within(wanted in prop::collection::vec(0.0f64..100.0, 1..8)) {
            let placed = spread(&wanted, 0.0, 100.0);
            for (n, at) in placed.iter().enumerate() {
                prop_assert!((-1e-6..=100.0 + 1e-6).contains(at), "{placed:?}");
                for other in 0..n {
                    prop_assert!((at - placed[other]).abs() >= LABEL - 1e-6, "{wanted:?}: {placed:?}");
                    prop_assert!((wanted[n] - wanted[other]) * (at - placed[other]) >= 0.0, "{wanted:?}: {placed:?}");
                }
            }
        }
    }

    #[test]
    fn a_label_that_is_alone_stands_where_it_wants() {
        assert_eq!(spread(&[40.0, 80.0, 10.0], 0.0, 100.0), [40.0, 80.0, 10.0]);
        assert_eq!(spread(&[40.0, 40.0], 0.0, 100.0), [40.0 - LABEL / 2.0, 40.0 + LABEL / 2.0]);
    }

    #[test]
    fn a_long_name_is_cut_and_says_so() {
        assert_eq!(cut("multi-reactor/reuseport", 10), "multi-rea…");
        assert_eq!(cut("échoécho", 8), "échoécho");
    }
}
