//! What a report shows of a run: who stands where, which charts there are, and what is to be said first. No word of
//! HTML or SVG.

use std::{collections::BTreeSet, fmt};

use clap::ValueEnum;

use super::{
    changes::Changes,
    chart::{Axis, Chart, Point, Series},
    scale::Spacing,
    stored::Stored,
    unit::Unit,
};
use crate::compare::{
    cell::Cell,
    scenario::Scenario,
    statistics::{Estimate, estimate},
    table,
    verdict::{BLOCKS_FOR_A_GLANCE, BLOCKS_FOR_A_VERDICT, Group},
};

/// A report, before it is a page or a text.
pub struct View {
    /// What became of earlier runs' figures.
    pub changes: Vec<Changes>,
    /// All who take part, those first who stand best most often. A contender's place here is its number: its colour
    /// and its mark.
    pub contenders: Vec<String>,
    /// Scenarios at a point, in the order of the scenarios and then of the points.
    pub situations: Vec<Situation>,
    /// A section a scenario.
    pub sections: Vec<Section>,
}

/// What is to be said first.
pub struct Finding {
    /// What it is about, in a few words.
    pub about: String,
    /// The finding.
    pub sentence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.sentence)
    }
}

/// All contenders in one scenario at one point, judged.
pub struct Situation {
    /// Where a link leads.
    pub anchor: String,
    /// Like `64 connections`.
    pub point: String,
    /// How many blocks there are of it.
    pub blocks: usize,
    /// What was judged.
    pub group: Group,
    at: At,
}

/// What varies within a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    size: usize,
    connections: usize,
}

/// A scenario's part of the report.
pub struct Section {
    /// Which.
    pub scenario: Scenario,
    /// What the servers are put to, in a sentence.
    pub about: String,
    /// The figure that is compared in it.
    pub figure: &'static str,
    /// Which of the view's situations are its.
    pub situations: Vec<usize>,
    /// Its charts.
    pub charts: Vec<Chart>,
}

/// How a contender stands in a situation.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Nobody has a better figure.
    Best,
    /// Not told apart from the best, whose figure is so many times better.
    AsGood(Estimate),
    /// The best has a figure so many times better.
    Worse(Estimate),
    /// Its median is not the best, but within blocks it is so many times better than the one with the best.
    Better(Estimate),
    /// There are too few blocks to say.
    Unsaid,
    /// Its cells do not count.
    Void(String),
    /// It did not take part.
    Absent,
}

impl View {
    /// Of a run, and of others before it.
    pub fn of(run: &Stored, earlier: &[Stored]) -> Self {
        let cells = &run.cells[..];
        let changes = earlier.iter().map(|then| Changes::between(then, run)).collect();
        let situations: Vec<Situation> = scenarios(cells)
            .into_iter()
            .flat_map(|scenario| {
                let of_it = of_scenario(cells, scenario);
                let points: BTreeSet<At> = of_it.iter().map(|cell| At::of(cell)).collect();
                points.into_iter().map(|at| Situation::of(scenario, at, &of_it)).collect::<Vec<_>>()
            })
            .collect();
        let contenders = ranked(cells, &situations);
        let sections = scenarios(cells)
            .into_iter()
            .map(|scenario| Section::of(scenario, cells, &situations, &contenders))
            .collect();
        Self { changes, contenders, situations, sections }
    }

    /// What is to be said first: who is good nearly everywhere, and where the choice matters most.
    pub fn findings(&self) -> Vec<Finding> {
        let mut contrasts: Vec<(f64, Finding)> =
            self.sections.iter().filter_map(|section| self.contrast(section)).collect();
        contrasts.sort_by(|a, b| b.0.total_cmp(&a.0));
        let widest = contrasts.into_iter().map(|(_, finding)| finding);
        let mut findings: Vec<Finding> = self.overall().into_iter().chain(widest).take(FINDINGS).collect();
        if findings.len() < 2 {
            let sentence =
                "Nobody is told apart from the best. More blocks, or longer cells, may do it.".into();
            findings.push(Finding { about: "the rest".into(), sentence });
        }
        findings
    }

    /// Who is good most often.
    fn overall(&self) -> Option<Finding> {
        let good = |name: &String| self.situations.iter().filter(|it| it.is_good(name)).count();
        let most = self.contenders.iter().map(good).max().filter(|most| *most > 0)?;
        let first: Vec<&str> =
            self.contenders.iter().filter(|name| good(name) == most).map(String::as_str).collect();
        let who = match first[..] {
            [one] => format!("{one} is"),
            [a, b] => format!("{a} and {b} are each"),
            [a, b, c] => format!("{a}, {b} and {c} are each"),
            _ => format!("{} of {} models are each", first.len(), self.contenders.len()),
        };
        let in_all = self.situations.len();
        let sentence =
            format!("{who} best, or not told apart from the best, in {most} of {in_all} situations.");
        Some(Finding { about: "over all".into(), sentence })
    }

    /// A scenario's widest gap that is sure: its least, and a sentence.
    fn contrast(&self, section: &Section) -> Option<(f64, Finding)> {
        let verdicts = section.situations.iter().flat_map(|&n| {
            let situation = &self.situations[n];
            situation.group.verdicts.iter().filter(|it| it.told_apart).map(move |it| (situation, it))
        });
        let (situation, verdict) = verdicts.max_by(|a, b| a.1.ratio.low.total_cmp(&b.1.ratio.low))?;
        let about = format!("{}, {}", section.scenario.name(), situation.point);
        let sentence = format!("{}.", table::sentence(section.scenario, verdict));
        Some((verdict.ratio.low, Finding { about, sentence }))
    }
}

/// How many findings are main ones.
const FINDINGS: usize = 3;

/// Those that there are cells of, in the order of the command line's help.
pub fn scenarios(cells: &[Cell]) -> Vec<Scenario> {
    let all = Scenario::value_variants().iter().copied();
    all.filter(|scenario| cells.iter().any(|cell| cell.scenario == *scenario)).collect()
}

fn of_scenario(cells: &[Cell], scenario: Scenario) -> Vec<&Cell> {
    cells.iter().filter(|cell| cell.scenario == scenario).collect()
}

/// Those first who are best or as good most often, and of these those who are void least often.
fn ranked(cells: &[Cell], situations: &[Situation]) -> Vec<String> {
    let names: BTreeSet<&str> = cells.iter().map(|cell| cell.contender.as_str()).collect();
    let mut ranked: Vec<String> = names.into_iter().map(str::to_owned).collect();
    ranked.sort_by_cached_key(|name| {
        let standings: Vec<Standing> = situations.iter().map(|it| it.standing(name)).collect();
        let count = |is: fn(&Standing) -> bool| standings.iter().filter(|standing| is(standing)).count();
        let good = count(|it| matches!(it, Standing::Best | Standing::AsGood(_)));
        (usize::MAX - good, count(|it| matches!(it, Standing::Void(_) | Standing::Absent)), name.clone())
    });
    ranked
}

impl At {
    /// Where a cell was measured.
    pub fn of(cell: &Cell) -> Self {
        Self { size: cell.size, connections: cell.connections }
    }

    /// In words.
    pub fn written(self, scenario: Scenario) -> String {
        let clients = if scenario == Scenario::Udp { "client" } else { "connection" };
        let plural = if self.connections == 1 { "" } else { "s" };
        let size = if self.size == 64 { String::new() } else { format!(", {} bytes", self.size) };
        format!("{} {clients}{plural}{size}", self.connections)
    }
}

impl Situation {
    fn of(scenario: Scenario, at: At, cells: &[&Cell]) -> Self {
        let here: Vec<Cell> =
            cells.iter().filter(|cell| At::of(cell) == at).map(|&cell| cell.clone()).collect();
        Self {
            anchor: format!("{}-{}-{}", scenario.name(), at.connections, at.size),
            point: at.written(scenario),
            blocks: here.iter().map(|cell| cell.block).max().unwrap_or(0),
            group: Group::of(scenario, at.connections, &here),
            at,
        }
    }

    /// How it stands.
    pub fn standing(&self, contender: &str) -> Standing {
        let Group { lines, verdicts, .. } = &self.group;
        let Some(line) = lines.iter().find(|line| line.contender == contender) else {
            return Standing::Absent;
        };
        if line.figure.is_none() {
            return Standing::Void(line.notes.join("; "));
        }
        let best = &lines[0].contender;
        if best == contender {
            return Standing::Best;
        }
        let between = |a: &str, b: &str| verdicts.iter().find(|it| it.leader == a && it.other == b);
        match (between(best, contender), between(contender, best)) {
            (Some(verdict), _) | (_, Some(verdict)) if verdict.pairs < BLOCKS_FOR_A_GLANCE => {
                Standing::Unsaid
            }
            (Some(verdict), _) if verdict.told_apart => Standing::Worse(verdict.ratio),
            (Some(verdict), _) => Standing::AsGood(verdict.ratio),
            (_, Some(verdict)) if verdict.told_apart => Standing::Better(verdict.ratio),
            (_, Some(verdict)) => Standing::AsGood(verdict.ratio.inverse()),
            (None, None) => Standing::Unsaid,
        }
    }

    fn is_good(&self, contender: &str) -> bool {
        matches!(self.standing(contender), Standing::Best | Standing::AsGood(_) | Standing::Better(_))
    }

    /// Whether there are enough blocks for a verdict.
    pub fn is_a_glance(&self) -> bool {
        self.blocks < BLOCKS_FOR_A_VERDICT
    }

    /// The best one's figure.
    pub fn best_figure(&self) -> String {
        let figure = self.group.lines.first().and_then(|line| line.figure);
        figure.map_or(String::new(), |figure| measures(self.group.scenario)[0].unit.written(figure.median))
    }

    fn figures(&self) -> usize {
        self.group.lines.iter().filter(|line| line.figure.is_some()).count()
    }
}

/// A figure of a cell that a chart is made of.
pub struct Measure {
    /// Its name in the chart's.
    key: &'static str,
    /// The chart's title.
    title: &'static str,
    /// What stands at the axis.
    axis: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// Or else less is.
    pub more_is_better: bool,
    /// Whether a busy client makes it a lower bound.
    is_a_rate: bool,
    /// Where it is found.
    pub of: fn(&Cell) -> Option<f64>,
}

const THROUGHPUT: Measure = Measure {
    key: "throughput",
    title: "Throughput",
    axis: "answers a second",
    unit: Unit::PerSecond,
    more_is_better: true,
    is_a_rate: true,
    of: |cell| Some(cell.messages_per_s),
};

const CONNECTIONS: Measure = Measure {
    key: "connections",
    title: "Connections",
    axis: "opened, served once and closed a second",
    of: |cell| cell.connections_per_s,
    ..THROUGHPUT
};

const CPU: Measure = Measure {
    key: "cpu",
    title: "CPU per message",
    axis: "the server's CPU time an answer",
    unit: Unit::Time,
    more_is_better: false,
    is_a_rate: false,
    of: |cell| Some(cell.server_cpu_us_per_message),
};

const CPU_OF_A_CONNECTION: Measure = Measure {
    title: "CPU per connection",
    axis: "the server's CPU time a connection",
    of: |cell| cell.server_cpu_us_per_connection,
    ..CPU
};

const P99: Measure = Measure {
    key: "p99",
    title: "Latency of the slowest hundredth",
    axis: "99 % of the answers took no longer",
    of: |cell| Some(cell.p99_us),
    ..CPU
};

const MEMORY_EACH: Measure = Measure {
    key: "memory",
    title: "Memory per connection",
    axis: "what came with the connections, for each (PSS)",
    unit: Unit::Bytes,
    of: |cell| (cell.bytes_per_connection > 0.0).then_some(cell.bytes_per_connection),
    ..CPU
};

const MEMORY: Measure = Measure {
    key: "memory",
    title: "Memory",
    axis: "of all the server's processes (PSS)",
    unit: Unit::Bytes,
    of: |cell| Some(cell.peak_pss_bytes as f64),
    ..CPU
};

/// What is drawn of a scenario, its own figure first.
pub fn measures(scenario: Scenario) -> &'static [Measure] {
    match scenario {
        Scenario::Echo => &[THROUGHPUT, P99, CPU, MEMORY_EACH],
        Scenario::Churn => &[CPU_OF_A_CONNECTION, CONNECTIONS, P99, MEMORY],
        Scenario::Idle => &[MEMORY_EACH, P99, CPU],
        Scenario::Udp => &[CPU, THROUGHPUT, P99, MEMORY],
    }
}

/// The percentiles that a cell tells.
const PERCENTILES: [(&str, fn(&Cell) -> f64); 3] =
    [("p50", |cell| cell.p50_us), ("p99", |cell| cell.p99_us), ("p99.9", |cell| cell.p999_us)];

impl Section {
    fn of(scenario: Scenario, cells: &[Cell], all: &[Situation], contenders: &[String]) -> Self {
        let situations: Vec<usize> = (0..all.len()).filter(|&n| all[n].group.scenario == scenario).collect();
        let good: Vec<&Cell> =
            of_scenario(cells, scenario).into_iter().filter(|cell| cell.counts()).collect();
        let here: Vec<&Situation> = situations.iter().map(|&n| &all[n]).collect();
        let drawer = Drawer { scenario, contenders, cells: &good, situations: &here };
        let charts = match here.is_empty() {
            true => Vec::new(),
            false => drawer.charts(),
        };
        let help = scenario.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string));
        let figure = measures(scenario)[0].title;
        Self { scenario, about: help.unwrap_or_default(), figure, situations, charts }
    }
}

/// What the charts of a scenario are made from.
struct Drawer<'a> {
    scenario: Scenario,
    contenders: &'a [String],
    /// Those that count.
    cells: &'a [&'a Cell],
    situations: &'a [&'a Situation],
}

impl Drawer<'_> {
    fn charts(&self) -> Vec<Chart> {
        let sizes: BTreeSet<usize> = self.situations.iter().map(|it| it.at.size).collect();
        let mut charts = Vec::new();
        for (n, measure) in measures(self.scenario).iter().enumerate() {
            for size in &sizes {
                let along: Vec<&Situation> =
                    self.situations.iter().copied().filter(|it| it.at.size == *size).collect();
                charts.extend(self.chart(measure, &along));
            }
            if n == 0 {
                charts.extend(self.percentiles(self.telling()));
            }
        }
        charts
    }

    /// The heaviest point at which many still have figures: where one point must stand for all.
    fn telling(&self) -> &Situation {
        let most = self.situations.iter().map(|it| it.figures()).max().unwrap_or(0);
        let mut heaviest_first = self.situations.iter().rev();
        heaviest_first.find(|it| 2 * it.figures() >= most).unwrap_or(&self.situations[0])
    }

    fn estimate(&self, contender: &str, at: At, of: impl Fn(&Cell) -> Option<f64>) -> Option<Estimate> {
        let mine = self.cells.iter().filter(|cell| cell.contender == contender && At::of(cell) == at);
        estimate(&mine.filter_map(|cell| of(cell)).collect::<Vec<_>>())
    }

    /// A measure against the connections; with one number of them, a row a contender.
    fn chart(&self, measure: &Measure, along: &[&Situation]) -> Option<Chart> {
        let mut series: Vec<Series> = Vec::new();
        for (number, contender) in self.contenders.iter().enumerate() {
            let points = along.iter().filter_map(|situation| {
                let value = self.estimate(contender, situation.at, measure.of)?;
                let lines = &situation.group.lines;
                let is_bound =
                    |it: &crate::compare::verdict::Line| it.contender == *contender && it.client_bound;
                Some(Point {
                    along: situation.at.connections as f64,
                    name: situation.point.clone(),
                    at_least: measure.is_a_rate && lines.iter().any(is_bound),
                    value,
                })
            });
            series.push(Series { contender: number, points: points.collect() });
        }
        series.retain(|it| !it.points.is_empty());
        let values = || series.iter().flat_map(|it| it.points.iter().map(|point| point.value.median));
        if values().all(|value| value == 0.0) {
            return None;
        }
        let better = if measure.more_is_better { "more" } else { "less" };
        let label = format!("{}; {better} is better", measure.axis);
        let axis = Axis { label, unit: measure.unit, spacing: Spacing::that_shows(values()) };
        let is_a_row_each = along.len() == 1;
        if is_a_row_each {
            let merit = |it: &Series| {
                let value = it.points[0].value.median;
                if measure.more_is_better { -value } else { value }
            };
            series.sort_by(|a, b| merit(a).total_cmp(&merit(b)));
        }
        let last = along.last()?;
        let (against, of) = match is_a_row_each {
            true => (String::new(), last.point.clone()),
            false => (" against connections".into(), format!("{} numbers of connections", along.len())),
        };
        Some(Chart {
            id: format!("{}-{}-{}", self.scenario.name(), measure.key, last.at.size),
            title: format!("{}{against}", measure.title),
            about: format!("{} in {}, {of}.", capital(&axis.label), self.scenario.name()),
            value: axis,
            along: (!is_a_row_each).then(|| Axis {
                label: "connections".into(),
                unit: Unit::Number,
                spacing: Spacing::that_shows(along.iter().map(|it| it.at.connections as f64)),
            }),
            series,
        })
    }

    /// The percentiles at one point, a row a contender.
    fn percentiles(&self, situation: &Situation) -> Option<Chart> {
        let of = |contender: &String| -> Vec<Point> {
            let point = |&(name, of): &(&str, fn(&Cell) -> f64)| {
                let value = self.estimate(contender, situation.at, |cell| Some(of(cell)))?;
                Some(Point { along: 0.0, name: name.into(), at_least: false, value })
            };
            PERCENTILES.iter().filter_map(point).collect()
        };
        let mut series: Vec<Series> = self
            .contenders
            .iter()
            .enumerate()
            .map(|(contender, name)| Series { contender, points: of(name) })
            .filter(|it| !it.points.is_empty())
            .collect();
        series.sort_by(|a, b| a.points[0].value.median.total_cmp(&b.points[0].value.median));
        let values = || series.iter().flat_map(|it| it.points.iter().map(|point| point.value.median));
        values().next()?;
        Some(Chart {
            id: format!("{}-percentiles", self.scenario.name()),
            title: format!("Latency percentiles, {}", situation.point),
            about: format!(
                "How long 50, 99 and 99.9 % of the answers took at most in {}, {}; less is better.",
                self.scenario.name(),
                situation.point
            ),
            value: Axis {
                label: "p50, p99, p99.9; less is better".into(),
                unit: Unit::Time,
                spacing: Spacing::that_shows(values()),
            },
            along: None,
            series,
        })
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
