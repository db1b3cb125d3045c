//! Gates: what may not come out of a comparison, where a script is to stop at it.

use std::{collections::BTreeMap, str::FromStr};

use super::{
    cell::{Cause, Cell, believed},
    comparison::{Comparison, LEAST_BLOCKS, Ratio, Verdict, judge},
    contender::short_name,
    scenario::{Point, Scenario},
};

/// A condition under which a comparison fails, like `mine.cpu > 1.05 * event-loop.cpu` or `mine.p99 > 10ms`: a figure of a
/// contender, at every point where it takes part, against another's there or against a bound.
#[derive(Clone, Debug)]
pub struct Gate {
    text: String,
    one: Figure,
    fails_above: bool,
    limit: Limit,
}

/// What a figure is held to.
#[derive(Clone, Debug)]
enum Limit {
    /// So many times another figure.
    Times(f64, Figure),
    /// A number in the figure's unit.
    Bound(f64),
}

/// A figure of a contender.
#[derive(Clone, Debug)]
struct Figure {
    contender: String,
    kind: &'static Kind,
}

/// A figure that gates know.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    of: fn(&Cell) -> Option<f64>,
    /// Whether it is a time, in microseconds.
    is_time: bool,
}

/// In `churn` a rate is of connections, and CPU time is a connection's.
const KINDS: [Kind; 6] = [
    Kind { name: "rate", of: |cell| cell.connections_per_s.or(cell.messages_per_s), is_time: false },
    Kind {
        name: "cpu",
        of: |cell| cell.server_cpu_us_per_connection.or(cell.server_cpu_us_per_message),
        is_time: true,
    },
    Kind { name: "p50", of: |cell| cell.p50_us, is_time: true },
    Kind { name: "p99", of: |cell| cell.p99_us, is_time: true },
    Kind { name: "p99.9", of: |cell| cell.p999_us, is_time: true },
    Kind { name: "memory", of: |cell| cell.peak_pss_bytes.map(|bytes| bytes as f64), is_time: false },
];

/// What a limit is called in a comparison.
const LIMIT: &str = "the limit";

const FORM: &str = "write it like 'mine.cpu > 1.05 * event-loop.cpu' or 'mine.p99 > 10ms'";

impl FromStr for Gate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>']).ok_or_else(|| format!("{text:?}; {FORM}"))?;
        let (one, limit) = (Figure::from_str(text[..at].trim())?, text[at + 1..].trim());
        let limit = match limit.split_once('*') {
            Some((factor, other)) => {
                let factor = factor.trim().parse().ok().filter(|factor: &f64| *factor > 0.0);
                Limit::Times(factor.ok_or_else(|| format!("{text:?}; {FORM}"))?, other.trim().parse()?)
            }
            None => match bound(limit, one.kind.is_time) {
                Some(bound) => Limit::Bound(bound),
                None => Limit::Times(1.0, limit.parse()?),
            },
        };
        Ok(Self { text: text.into(), one, fails_above: &text[at..=at] == ">", limit })
    }
}

impl FromStr for Figure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of = |kind: &'static Kind| Some((kind, text.strip_suffix(kind.name)?.strip_suffix('.')?));
        let found = KINDS.iter().find_map(of).filter(|(_, contender)| !contender.is_empty());
        let (kind, contender) = found.ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            format!("{text:?} is no figure of a contender; {FORM}; figures are {}", names.join(", "))
        })?;
        Ok(Self { contender: contender.into(), kind })
    }
}

/// A number, or a time in microseconds.
fn bound(text: &str, is_time: bool) -> Option<f64> {
    let number = match is_time {
        true => arguments::duration(text).ok()?.as_secs_f64() * 1e6,
        false => text.parse().ok()?,
    };
    (number.is_finite() && number > 0.0).then_some(number)
}

impl Figure {
    /// Wherever its contender was to take part: what it is in each block that is believed.
    fn in_blocks(&self, cells: &[Cell]) -> BTreeMap<(Scenario, Point), BTreeMap<usize, f64>> {
        let is_mine = |cell: &&Cell| {
            let is_called = cell.contender == self.contender || short_name(&cell.contender) == self.contender;
            is_called && cell.cause != Some(Cause::Plan)
        };
        let mut places: BTreeMap<(Scenario, Point), Vec<&Cell>> = BTreeMap::new();
        for cell in cells.iter().filter(is_mine) {
            places.entry((cell.scenario, cell.point())).or_default().push(cell);
        }
        let figures = |cells: Vec<&Cell>| {
            believed(cells).filter_map(|cell| Some((cell.block, (self.kind.of)(cell)?))).collect()
        };
        places.into_iter().map(|(at, cells)| (at, figures(cells))).collect()
    }
}

/// Where a figure stands to its limit at a point.
struct Place {
    scenario: Scenario,
    point: Point,
    /// How many times the limit it is; nothing where that is not known.
    ratio: Option<Ratio>,
}

impl Gate {
    /// Whose figures it asks for.
    pub fn contenders(&self) -> impl Iterator<Item = &str> {
        let other = match &self.limit {
            Limit::Times(_, other) => Some(&*other.contender),
            Limit::Bound(_) => None,
        };
        [&*self.one.contender].into_iter().chain(other)
    }

    /// What is wrong with a comparison, and by how much, in one sentence; nothing where it may be so. A figure fails where its interval is
    /// beyond the limit, or is not known; where `doubtful`, also where its interval holds the limit.
    pub fn complaint(&self, cells: &[Cell], doubtful: bool) -> Option<String> {
        let places = self.places(cells);
        if places.is_empty() {
            return Some(format!("{}: at no point is there anybody to hold to it", self.text));
        }
        let excess = |ratio: Ratio| if self.fails_above { ratio } else { ratio.inverse() };
        let fails = |place: &&Place| match place.ratio.map(excess) {
            Some(ratio) if doubtful => ratio.high > 1.0,
            Some(ratio) => ratio.low > 1.0,
            None => true,
        };
        let by = |place: &Place| place.ratio.map_or(f64::INFINITY, |ratio| excess(ratio).middle);
        let mut failed: Vec<&Place> = places.iter().filter(fails).collect();
        failed.sort_by(|a, b| by(b).total_cmp(&by(a)));
        let worst = failed.first()?;
        let others = match failed.len() - 1 {
            0 => String::new(),
            n => format!(", and so at {n} more"),
        };
        let title = worst.point.title(worst.scenario);
        Some(format!("{}: {}, {title}: {}{others}", self.text, worst.scenario.name(), self.seen(worst)))
    }

    /// Where more blocks would say more that matters, by the same rule as of figures that are compared: a point of a scenario.
    pub fn undecided(&self, cells: &[Cell], resolve: f64) -> Vec<(Scenario, Point)> {
        let is_open = |place: &Place| !place.ratio.is_some_and(|ratio| ratio.is_close(resolve));
        self.places(cells).iter().filter(|it| is_open(it)).map(|it| (it.scenario, it.point)).collect()
    }

    fn seen(&self, place: &Place) -> String {
        let Figure { contender, kind } = &self.one;
        let figure = format!("{contender}.{}", kind.name);
        let Some(Ratio { middle, low, high, .. }) = place.ratio else {
            return format!("{figure} is not known, or of fewer than {LEAST_BLOCKS} blocks");
        };
        match &self.limit {
            Limit::Bound(_) => format!("{figure} is {middle:.3} times that [{low:.3}, {high:.3}]"),
            Limit::Times(factor, Figure { contender, kind }) => {
                let [middle, low, high] = [middle, low, high].map(|ratio| factor * ratio);
                format!("{figure} is {middle:.3} times [{low:.3}, {high:.3}] {contender}.{}", kind.name)
            }
        }
    }

    /// All points where those whom it asks for were to take part, judged together.
    fn places(&self, cells: &[Cell]) -> Vec<Place> {
        let ones = self.one.in_blocks(cells);
        let others = match &self.limit {
            Limit::Times(_, other) => Some(other.in_blocks(cells)),
            Limit::Bound(_) => None,
        };
        let takes_part =
            |at: &(Scenario, Point)| others.as_ref().is_none_or(|others| others.contains_key(at));
        let limit_in = |at: &(Scenario, Point), block: &usize| match (&self.limit, &others) {
            (Limit::Times(factor, _), Some(others)) => Some(factor * others.get(at)?.get(block)?),
            (Limit::Times(bound, _) | Limit::Bound(bound), _) => Some(*bound),
        };
        let comparison = |(at, blocks): (&(Scenario, Point), &BTreeMap<usize, f64>)| {
            let log = |(block, figure): (&usize, &f64)| Some((figure / limit_in(at, block)?).ln());
            let names = [self.one.contender.clone(), LIMIT.to_owned()];
            let logs = blocks.iter().filter_map(log).filter(|log| log.is_finite()).collect();
            Comparison { scenario: at.0, point: at.1, names, logs }
        };
        let there = ones.iter().filter(|(at, _)| takes_part(at));
        let comparisons: Vec<Comparison> = there.map(comparison).collect();
        let place = |(verdict, of): (Verdict, &Comparison)| Place {
            scenario: of.scenario,
            point: of.point,
            ratio: (verdict.pairs >= LEAST_BLOCKS).then(|| verdict.ratio_of(&of.names[0])),
        };
        judge(&comparisons, 0.0).into_iter().zip(&comparisons).map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two contenders at one number of connections in five blocks: the CPU time of an answer of each, and the first one's p99.
    fn cells(mine: [f64; 5], theirs: [f64; 5]) -> Vec<Cell> {
        let cell = |name: &str, block: usize, cpu: f64| Cell {
            contender: name.into(),
            block: block + 1,
            connections: 64,
            size: 64,
            server_cpu_us_per_message: Some(cpu),
            p99_us: Some(1000.0 * cpu),
            messages_per_s: Some(1e6 / cpu),
            ..Cell::default()
        };
        (0..5).flat_map(|n| [cell("mine", n, mine[n]), cell("event-loop", n, theirs[n])]).collect()
    }

    const STEADY: [f64; 5] = [10.0, 10.1, 9.9, 10.05, 9.95];

    fn complaint(gate: &str, cells: &[Cell], doubtful: bool) -> Option<String> {
        gate.parse::<Gate>().unwrap().complaint(cells, doubtful)
    }

    #[test]
    fn a_gate_goes_off_where_the_interval_is_beyond_the_limit_and_only_there() {
        let slower = cells(STEADY.map(|cpu| 1.2 * cpu), STEADY);
        assert_eq!(
            complaint("mine.cpu > 1.05 * event-loop.cpu", &slower, false).unwrap(),
            "mine.cpu > 1.05 * event-loop.cpu: echo, 64 connections: mine.cpu is 1.200 times [1.200, 1.200] event-loop.cpu"
        );
        assert_eq!(complaint("mine.cpu > 1.25 * event-loop.cpu", &slower, true), None);
        assert!(complaint("mine.rate < event-loop.rate", &slower, false).is_some());
        assert_eq!(complaint("mine.rate > event-loop.rate", &slower, true), None);
        assert!(complaint("mine.p99 > 10ms", &slower, false).unwrap().contains("mine.p99 is 1.2"));
        assert_eq!(complaint("mine.p99 > 20ms", &slower, true), None);
    }

    #[test]
    fn what_may_be_beyond_the_limit_fails_where_doubt_does() {
        let like = cells([10.0, 12.0, 9.0, 11.0, 10.0], STEADY);
        let gate = "mine.cpu > 1.05 * event-loop.cpu";
        assert_eq!(complaint(gate, &like, false), None);
        assert!(complaint(gate, &like, true).is_some());
        let undecided = |cells: &[Cell]| gate.parse::<Gate>().unwrap().undecided(cells, 0.05).len();
        assert_eq!((undecided(&like), undecided(&cells(STEADY, STEADY))), (1, 0), "more time may tell");
    }

    #[test]
    fn what_is_not_known_is_wrong() {
        let mut few = cells(STEADY, STEADY);
        few.retain(|cell| cell.block <= 2);
        assert!(complaint("mine.p99 > 1s", &few, false).unwrap().contains("not known"));
        assert!(complaint("yours.p99 > 1s", &few, false).unwrap().contains("at no point"));
        let mut wrong = cells(STEADY, STEADY);
        (wrong[0].reason, wrong[0].cause) = ("wrong echo".into(), Some(Cause::Server));
        assert!(complaint("mine.p99 > 1s", &wrong, false).unwrap().contains("not known"));
    }

    #[test]
    fn what_is_no_gate_is_refused() {
        for text in
            ["", "mine.cpu", "mine.speed > 1", "cpu > 1", "mine.p99 > soon", "mine.cpu > 0 * other.cpu"]
        {
            assert!(text.parse::<Gate>().is_err(), "{text}");
        }
    }
}
