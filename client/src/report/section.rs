//! A scenario's part of the report: which charts there are of it, and what stands in them.

use std::collections::{BTreeMap, BTreeSet};

use hdrhistogram::Histogram;

use super::{
    chart::{Axis, Chart, Marks, Place, Series},
    measure::{Measure, measures},
    scale::Spacing,
    unit::Unit,
    view::Situation,
};
use crate::{
    cmd::load::decoded,
    compare::{
        calls::Counted,
        cell::{Cell, believed},
        results::Run,
        scalability::Law,
        scenario::{Drive, Point, Scenario},
        statistics::{Estimate, estimate},
    },
    load::histogram,
    saturation::{FIRST_RATE, p99_by_rate},
};

/// A scenario's part of the report.
pub struct Section {
    /// Which.
    pub scenario: Scenario,
    /// The figure that is compared in it.
    pub figure: &'static str,
    /// Which of the view's situations are its.
    pub situations: Vec<usize>,
    /// Its charts.
    pub charts: Vec<Chart>,
    /// How its contenders scale, where that can be said.
    pub laws: Vec<Law>,
}

impl Section {
    /// Of the cells of a run.
    pub fn of(scenario: Scenario, run: &Run, laws: &[Law], all: &[Situation], contenders: &[String]) -> Self {
        let situations: Vec<usize> = (0..all.len()).filter(|&n| all[n].group.scenario == scenario).collect();
        let here: Vec<&Situation> = situations.iter().map(|&n| &all[n]).collect();
        let good: Vec<&Cell> = believed(&run.cells).filter(|cell| cell.scenario == scenario).collect();
        let calls: Vec<&Counted> = run.calls.iter().filter(|row| row.scenario == scenario).collect();
        let laws: Vec<Law> = laws.iter().filter(|law| law.scenario == scenario).cloned().collect();
        let sheet =
            Sheet { scenario, contenders, cells: &good, calls: &calls, laws: &laws, situations: &here };
        let charts = sheet.charts();
        Self { scenario, figure: measures(scenario)[0].title, situations, charts, laws }
    }
}

/// What the charts of a scenario are made from.
struct Sheet<'a> {
    scenario: Scenario,
    contenders: &'a [String],
    /// Those that count.
    cells: &'a [&'a Cell],
    calls: &'a [&'a Counted],
    laws: &'a [Law],
    situations: &'a [&'a Situation],
}

/// A percentile: what it is called, and where a cell tells it.
type Percentile = (&'static str, fn(&Cell) -> Option<f64>);

/// The percentiles that a cell tells.
const PERCENTILES: [Percentile; 3] =
    [("p50", |cell| cell.p50_us), ("p99", |cell| cell.p99_us), ("p99.9", |cell| cell.p999_us)];

/// How many points of a decade the curve of a distribution has.
const A_DECADE: u32 = 5;

/// In how many steps a law is drawn.
const LAW_STEPS: i32 = 40;

/// How many rates of a doubling a search asks for, by halving it four times; doublings begin at its first one.
const RATES_OF_A_DOUBLING: f64 = 16.0;

/// A tenth of a second in a cell's timeline.
const TENTH: f64 = 0.1;

impl<'a> Sheet<'a> {
    fn charts(&self) -> Vec<Chart> {
        let Some(telling) = self.telling() else { return Vec::new() };
        let mut charts: Vec<Chart> = self.offered().into_iter().collect();
        for (n, measure) in measures(self.scenario).iter().enumerate() {
            let axis = if n == 0 { self.scenario.character().figure.axis } else { measure.axis };
            charts.extend(self.alike().iter().filter_map(|along| self.chart(measure, axis, along)));
            if n == 0 {
                charts.extend(self.percentiles(telling));
            }
        }
        charts.extend(self.calls());
        charts.extend(self.distribution(telling));
        charts.extend(self.timeline(telling));
        charts
    }

    /// The situations that one chart holds: those that differ in connections alone, or in who is there besides.
    fn alike(&self) -> Vec<Vec<&'a Situation>> {
        let rest = |it: &Situation| (it.point.drive == Drive::Search, it.point.size);
        let kinds: BTreeSet<(bool, usize)> = self.situations.iter().map(|it| rest(it)).collect();
        let of_kind = |kind| self.situations.iter().copied().filter(|it| rest(it) == kind).collect();
        kinds.into_iter().map(of_kind).collect()
    }

    /// The heaviest point at which many still have figures: where one point must stand for all.
    fn telling(&self) -> Option<&'a Situation> {
        let closed = || self.situations.iter().copied().filter(|it| it.point.drive != Drive::Search);
        let most = closed().map(Situation::figures).max().filter(|most| *most > 0)?;
        closed().rev().find(|it| 2 * it.figures() >= most)
    }

    fn of<'s>(&'s self, contender: &'s str, point: Point) -> impl Iterator<Item = &'a Cell> + 's {
        self.cells.iter().copied().filter(move |cell| cell.contender == contender && cell.point() == point)
    }

    fn estimate(&self, contender: &str, point: Point, of: impl Fn(&Cell) -> Option<f64>) -> Option<Estimate> {
        estimate(&self.of(contender, point).filter_map(of).collect::<Vec<_>>())
    }

    fn series(&self, places: impl Fn(&String) -> Vec<Place>) -> Vec<Series> {
        let all = self.contenders.iter().enumerate();
        let series = all.map(|(contender, name)| Series { contender, places: places(name), law: Vec::new() });
        series.filter(|it| !it.places.is_empty()).collect()
    }

    fn id(&self, key: &str, point: Point) -> String {
        let search = if point.drive == Drive::Search { "-search" } else { "" };
        let size = if point.size == 64 { String::new() } else { format!("-{}-bytes", point.size) };
        format!("{}-{key}{search}{size}", self.scenario.name())
    }

    /// A measure against the connections; where there is one number of them, a row a contender.
    fn chart(&self, measure: &Measure, axis: &str, along: &[&Situation]) -> Option<Chart> {
        let last = along.last()?;
        let numbers: BTreeSet<usize> = along.iter().map(|it| it.point.connections).collect();
        let is_a_row_each = numbers.len() == 1;
        let mut series = self.series(|contender| {
            let place = |(n, situation): (usize, &&Situation)| {
                let lines = &situation.group.lines;
                let line = lines.iter().find(|line| line.contender == *contender);
                Some(Place {
                    along: if is_a_row_each { n } else { situation.point.connections } as f64,
                    name: situation.title.clone(),
                    at_least: measure.is_a_rate && line.is_some_and(|line| line.client_bound),
                    value: self.estimate(contender, situation.point, measure.of)?,
                })
            };
            along.iter().enumerate().filter_map(place).collect()
        });
        let medians = || series.iter().flat_map(|it| it.places.iter().map(|place| place.value.median));
        if medians().all(|value| value == 0.0) {
            return None;
        }
        let better = if measure.more_is_better { "more" } else { "less" };
        let value = Axis {
            label: format!("{axis}; {better} is better"),
            unit: measure.unit,
            spacing: Spacing::that_shows(medians()),
        };
        if !is_a_row_each && measure.is_a_rate && last.point.drive == Drive::Closed {
            series.iter_mut().for_each(|it| it.law = self.law_of(it));
        }
        if is_a_row_each {
            let merit = |it: &Series| {
                let value = it.places.last().map_or(0.0, |place| place.value.median);
                if measure.more_is_better { -value } else { value }
            };
            series.sort_by(|a, b| merit(a).total_cmp(&merit(b)));
        }
        let where_ = match (is_a_row_each, along.len()) {
            (true, 1) => format!(", {}", last.title),
            (true, _) => String::new(),
            (false, _) if last.point.size == 64 => " against connections".into(),
            (false, _) => format!(" against connections, {} bytes", last.point.size),
        };
        let numbers: Vec<f64> = numbers.into_iter().map(|n| n as f64).collect();
        Some(Chart {
            id: self.id(measure.key, last.point),
            title: format!("{}{where_}", measure.title),
            about: format!("{} of each model in {}{where_}.", measure.title, self.scenario.name()),
            along: (!is_a_row_each).then(|| Axis {
                label: "connections".into(),
                unit: Unit::Number,
                spacing: Spacing::that_shows(numbers.into_iter()),
            }),
            marks: if along.len() > 1 && is_a_row_each { Marks::ByPlace } else { Marks::BySeries },
            value,
            series,
        })
    }

    /// What the law that is trusted says of a series' connections.
    fn law_of(&self, series: &Series) -> Vec<(f64, f64)> {
        let name = &self.contenders[series.contender];
        let fit = self.laws.iter().find(|law| law.contender == *name).and_then(|law| law.fit.as_ref());
        let fit = fit.filter(|fit| fit.doubts.is_empty());
        let ends = series.places.first().zip(series.places.last());
        let (Some(fit), Some((first, last))) = (fit, ends) else { return Vec::new() };
        let step = (last.along / first.along).powf(1.0 / f64::from(LAW_STEPS));
        let connections = (0..=LAW_STEPS).map(|n| first.along * step.powi(n));
        connections.map(|connections| (connections, fit.throughput(connections))).collect()
    }

    /// Latency against offered load, over the rates that were asked for in the searches: up to what a contender can do, and beyond.
    fn offered(&self) -> Option<Chart> {
        let situation = self.situations.iter().find(|it| it.point.drive == Drive::Search)?;
        let series = self.series(|contender| {
            let curves = self.of(contender, situation.point).map(|cell| cell.curve.as_str());
            by_rate(curves.flat_map(p99_by_rate))
        });
        let all = || series.iter().flat_map(|it| &it.places);
        all().next()?;
        let (name, point) = (self.scenario.name(), &situation.title);
        Some(Chart {
            id: self.id("offered", situation.point),
            title: format!("Latency against offered load, {point}"),
            about: format!("The p99 of an open loop at each rate that was asked for in {name}, {point}."),
            value: Axis {
                label: "p99, from when each message was due; less is better".into(),
                unit: Unit::Time,
                spacing: Spacing::Log,
            },
            along: Some(Axis {
                label: "messages offered a second".into(),
                unit: Unit::PerSecond,
                spacing: Spacing::Even,
            }),
            marks: Marks::BySeries,
            series,
        })
    }

    /// The percentiles at one point, a row a contender.
    fn percentiles(&self, situation: &Situation) -> Option<Chart> {
        let mut series = self.series(|contender| {
            let place = |(n, &(name, of)): (usize, &Percentile)| {
                let value = self.estimate(contender, situation.point, of)?;
                Some(Place { along: n as f64, name: name.into(), at_least: false, value })
            };
            PERCENTILES.iter().enumerate().filter_map(place).collect()
        });
        series.sort_by(|a, b| a.places[0].value.median.total_cmp(&b.places[0].value.median));
        let medians = || series.iter().flat_map(|it| it.places.iter().map(|place| place.value.median));
        medians().next()?;
        let (name, point) = (self.scenario.name(), &situation.title);
        Some(Chart {
            id: self.id("percentiles", situation.point),
            title: format!("Latency percentiles, {point}"),
            about: format!("How long 50, 99 and 99.9 % of the answers took at most in {name}, {point}."),
            value: Axis {
                label: "latency; less is better".into(),
                unit: Unit::Time,
                spacing: Spacing::that_shows(medians()),
            },
            along: None,
            marks: Marks::ByPlace,
            series,
        })
    }

    /// The system calls a message, where they were counted.
    fn calls(&self) -> Option<Chart> {
        let connections = self.calls.first()?.connections;
        let mut series = self.series(|contender| {
            let counted = self.calls.iter().filter(|row| row.contender == *contender);
            let place = |calls| Place {
                along: 0.0,
                name: "calls a message".into(),
                at_least: false,
                value: Estimate { median: calls, low: calls, high: calls },
            };
            counted.filter_map(|row| row.per_message.map(place)).take(1).collect()
        });
        series.sort_by(|a, b| a.places[0].value.median.total_cmp(&b.places[0].value.median));
        let medians = || series.iter().map(|it| it.places[0].value.median);
        medians().next()?;
        Some(Chart {
            id: format!("{}-calls", self.scenario.name()),
            title: format!("System calls per message, {connections} connections"),
            about: format!(
                "System calls of the server a message in {}, counted by strace.",
                self.scenario.name()
            ),
            value: Axis {
                label: "counted in a pass of its own; less is better".into(),
                unit: Unit::Number,
                spacing: Spacing::that_shows(medians()),
            },
            along: None,
            marks: Marks::BySeries,
            series,
        })
    }

    /// All latencies at one point, over the blocks: by percentile, the slow ones drawn out.
    fn distribution(&self, situation: &Situation) -> Option<Chart> {
        let series = self.series(|contender| {
            let mut all = histogram();
            for told in self.of(contender, situation.point).filter_map(|cell| decoded(&cell.latency).ok()) {
                all += told;
            }
            curve(&all)
        });
        let medians = || series.iter().flat_map(|it| it.places.iter().map(|place| place.value.median));
        medians().next()?;
        let (name, point) = (self.scenario.name(), &situation.title);
        Some(Chart {
            id: self.id("distribution", situation.point),
            title: format!("Latency distribution, {point}"),
            about: format!("The latency at each percentile in {name}, {point}, all blocks together."),
            value: Axis {
                label: "latency; less is better".into(),
                unit: Unit::Time,
                spacing: Spacing::that_shows(medians()),
            },
            along: Some(Axis { label: "percentile".into(), unit: Unit::Percentile, spacing: Spacing::Log }),
            marks: Marks::BySeries,
            series,
        })
    }

    /// The course of the first block's cells at one point.
    fn timeline(&self, situation: &Situation) -> Option<Chart> {
        let first =
            self.cells.iter().filter(|cell| cell.point() == situation.point).map(|cell| cell.block).min()?;
        let series = self.series(|contender| {
            let mut cells = self.of(contender, situation.point).filter(|cell| cell.block == first);
            cells.next().map_or(Vec::new(), |cell| course(&cell.timeline))
        });
        let medians = || series.iter().flat_map(|it| it.places.iter().map(|place| place.value.median));
        if medians().all(|value| value == 0.0) {
            return None;
        }
        let (name, point) = (self.scenario.name(), &situation.title);
        Some(Chart {
            id: self.id("timeline", situation.point),
            title: format!("Timeline, {point}"),
            about: format!("Answers in each tenth of a second of block {first} in {name}, {point}."),
            value: Axis {
                label: format!("answers a second, block {first}; more is better"),
                unit: Unit::PerSecond,
                spacing: Spacing::Even,
            },
            along: Some(Axis {
                label: "since the measuring began".into(),
                unit: Unit::Seconds,
                spacing: Spacing::Even,
            }),
            marks: Marks::BySeries,
            series,
        })
    }
}

/// A histogram's values at 1 - 1/x of all, up to the slowest.
fn curve(all: &Histogram<u64>) -> Vec<Place> {
    let steps = (0..).map(|k| 10f64.powf(f64::from(k) / f64::from(A_DECADE)));
    let place = |x: f64| {
        let us = all.value_at_quantile(1.0 - 1.0 / x) as f64 / 1000.0;
        let is_nines = (x.log10() - x.log10().round()).abs() < 1e-9;
        Place {
            along: x,
            name: if is_nines { Unit::Percentile.written(x) } else { String::new() },
            at_least: false,
            value: Estimate { median: us, low: us, high: us },
        }
    };
    steps.take_while(|x| *x <= all.len() as f64).map(place).collect()
}

/// The p99 at each rate.
fn by_rate(points: impl Iterator<Item = (f64, f64)>) -> Vec<Place> {
    let mut at: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for (rate, p99) in points {
        at.entry(((rate / FIRST_RATE).log2() * RATES_OF_A_DOUBLING).round() as i64).or_default().push(p99);
    }
    let place = |(&step, p99s): (&i64, &Vec<f64>)| {
        let along = FIRST_RATE * (step as f64 / RATES_OF_A_DOUBLING).exp2();
        let is_doubling = step % RATES_OF_A_DOUBLING as i64 == 0;
        let name = if is_doubling { Unit::PerSecond.written(along) } else { String::new() };
        Some(Place { along, name, at_least: false, value: estimate(p99s)? })
    };
    at.iter().filter_map(place).collect()
}

/// A cell's timeline: for each tenth of a second its answers, and behind a slash their p99.
fn course(timeline: &str) -> Vec<Place> {
    let answers = timeline.split(' ').filter_map(|word| word.split('/').next()?.parse::<f64>().ok());
    let place = |(n, answers): (usize, f64)| {
        let (seconds, rate) = ((n + 1) as f64 * TENTH, answers / TENTH);
        Place {
            along: seconds,
            name: Unit::Seconds.written(seconds),
            at_least: false,
            value: Estimate { median: rate, low: rate, high: rate },
        }
    };
    answers.enumerate().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_told_as_far_as_there_are_answers() {
        let mut all = histogram();
        (1..=1000u64).for_each(|us| all.record(us * 1000).unwrap());
        let places = curve(&all);
        assert_eq!(places.len(), 1 + 3 * A_DECADE as usize, "three decades of a thousand answers");
        let named: Vec<&str> =
            places.iter().map(|it| it.name.as_str()).filter(|name| !name.is_empty()).collect();
        assert_eq!(named, ["0\u{202f}%", "90\u{202f}%", "99\u{202f}%", "99.9\u{202f}%"]);
        assert!((places[2 * A_DECADE as usize].value.median - 990.0).abs() < 2.0);
        assert!(curve(&histogram()).is_empty());
    }

    #[test]
    fn a_curve_of_several_searches_has_a_place_for_each_rate_and_their_median() {
        let curves =
            ["4000:3990:50:100 8000:7990:60:200 16000:9000:-:-", "4000:3990:50:300 8001:7990:60:400"];
        let places = by_rate(curves.into_iter().flat_map(p99_by_rate));
        let seen: Vec<(f64, f64)> = places.iter().map(|it| (it.along, it.value.median)).collect();
        assert_eq!(seen, [(4000.0, 200.0), (8000.0, 300.0)], "where p99 is not known there is no place");
        assert!(by_rate(p99_by_rate("")).is_empty());
    }

    #[test]
    fn a_timeline_is_a_rate_for_each_tenth_of_a_second() {
        let rates: Vec<f64> = course("12/300 0/0 7/90").iter().map(|it| it.value.median).collect();
        assert_eq!(rates, [120.0, 0.0, 70.0]);
        assert!(course("").is_empty());
    }
}
