//! Two contenders, and all that can be said of them: each figure of the one over the other's.

use serde::Serialize;

use super::{
    cell::{Cell, believed},
    comparison::{Comparison, LEAST_BLOCKS, Ratio, judge},
    scenario::{Point, Scenario},
    statistics::median,
    verdict::Group,
};

/// The only two contenders at a point, in the order of their names.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// What they were put to.
    pub scenario: Scenario,
    /// Where.
    pub point: Point,
    /// The two.
    pub names: [String; 2],
    /// A row for each figure that is known of both.
    pub figures: Vec<Row>,
}

/// A figure of two contenders.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Its medians over the blocks.
    pub medians: [f64; 2],
    /// The one's over the other's within blocks; nothing where there are too few.
    pub ratio: Option<Ratio>,
}

/// A figure of a cell, and its name.
type Figure = (&'static str, fn(&Cell) -> Option<f64>);

const OF_MESSAGES: [Figure; 6] = [
    ("messages/s", |cell| cell.messages_per_s),
    ("server CPU us/message", |cell| cell.server_cpu_us_per_message),
    ("client CPU us/message", |cell| cell.client_cpu_us_per_message),
    ("p50 us", |cell| cell.p50_us),
    ("p99 us", |cell| cell.p99_us),
    ("memory MB", |cell| Some(cell.peak_pss_bytes? as f64 / 1e6)),
];

const OF_CONNECTIONS: [Figure; 7] = [
    ("connections/s", |cell| cell.connections_per_s),
    ("server CPU us/connection", |cell| cell.server_cpu_us_per_connection),
    ("client CPU us/connection", |cell| cell.client_cpu_us_per_message),
    ("connect p50 us", |cell| cell.connect_p50_us),
    ("p50 us", |cell| cell.p50_us),
    ("p99 us", |cell| cell.p99_us),
    ("memory MB", |cell| Some(cell.peak_pss_bytes? as f64 / 1e6)),
];

impl Pair {
    /// Whether it is of this point.
    pub fn is_of(&self, group: &Group) -> bool {
        (self.scenario, self.point) == (group.scenario, group.point)
    }
}

/// All points at which there are just two contenders; the figures of each are judged together, but for the scenario's own, of which
/// the slices have been judged.
pub fn pairs(groups: &[Group], cells: &[Cell]) -> Vec<Pair> {
    groups.iter().filter_map(|group| pair(group, cells)).collect()
}

fn pair(group: &Group, cells: &[Cell]) -> Option<Pair> {
    let Group { scenario, point, .. } = *group;
    let here = || cells.iter().filter(move |cell| (cell.scenario, cell.point()) == (scenario, point));
    let mut names: Vec<&str> = here().map(|cell| cell.contender.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let &[one, other] = &names[..] else { return None };
    let good: Vec<&Cell> = believed(here()).collect();
    let in_blocks = |name: &str, of: fn(&Cell) -> Option<f64>| -> Vec<(usize, f64)> {
        let mine = good.iter().filter(|cell| cell.contender == name);
        mine.filter_map(|cell| Some((cell.block, of(cell)?))).collect()
    };
    let known: &[Figure] = if scenario.churn().is_some() { &OF_CONNECTIONS } else { &OF_MESSAGES };
    let (mut comparisons, mut figures) = (Vec::new(), Vec::new());
    for &(name, of) in known {
        let sides = [in_blocks(one, of), in_blocks(other, of)];
        let medians = sides.each_ref().map(|side| median(&side.iter().map(|it| it.1).collect::<Vec<_>>()));
        let [Some(of_one), Some(of_other)] = medians else { continue };
        let log = |(block, figure): &(usize, f64)| {
            let (_, others) = sides[1].iter().find(|it| it.0 == *block)?;
            Some((figure / others).ln()).filter(|log| log.is_finite())
        };
        let logs = sides[0].iter().filter_map(log).collect();
        comparisons.push(Comparison { scenario, point, names: [one.into(), other.into()], logs });
        figures.push(Row { name, medians: [of_one, of_other], ratio: None });
    }
    for (row, verdict) in figures.iter_mut().zip(judge(&comparisons, 0.0)) {
        row.ratio = (verdict.pairs >= LEAST_BLOCKS).then(|| verdict.ratio_of(one));
    }
    let is_own = |of: fn(&Cell) -> Option<f64>| good.iter().all(|cell| of(cell) == scenario.figure(cell));
    let own = known.iter().find(|(_, of)| is_own(*of)).map(|(name, _)| *name);
    let verdict = group.verdicts.first().filter(|verdict| verdict.pairs >= LEAST_BLOCKS);
    if let Some((row, verdict)) = figures.iter_mut().find(|row| Some(row.name) == own).zip(verdict) {
        let merits = verdict.ratio_of(one); // who costs more has less of it
        row.ratio = Some(if scenario.merit(2.0) > 1.0 { merits } else { merits.inverse() });
    }
    (!figures.is_empty()).then(|| Pair { scenario, point, names: [one.into(), other.into()], figures })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cells: &[Cell]) -> Vec<Pair> {
        pairs(&[Group::of(Scenario::Echo, Point::default(), cells)], cells)
    }

    #[test]
    fn of_two_contenders_each_figure_is_one_over_the_other_and_of_three_there_is_no_pair() {
        let cell = |name: &str, block: usize, rate: f64| Cell {
            contender: name.into(),
            block,
            messages_per_s: Some(rate * (1.0 + 0.01 * block as f64)),
            p50_us: Some(1e6 / rate),
            ..Cell::default()
        };
        let mut cells: Vec<Cell> =
            (1..=4).flat_map(|block| [cell("a", block, 300.0), cell("b", block, 100.0)]).collect();
        let [pair] = &of(&cells)[..] else { panic!("there is one point") };
        let rows: Vec<(&str, f64)> =
            pair.figures.iter().map(|row| (row.name, row.ratio.unwrap().middle)).collect();
        assert!(rows[0].0 == "messages/s" && (rows[0].1 - 3.0).abs() < 1e-9, "{rows:?}");
        assert!(rows[1].0 == "p50 us" && (rows[1].1 - 1.0 / 3.0).abs() < 1e-9, "{rows:?}");
        assert_eq!(rows.len(), 2, "what is not known of both is no row");
        cells.push(cell("c", 1, 1.0));
        assert!(of(&cells).is_empty());
    }

    #[test]
    fn a_drift_common_to_both_cancels_out_of_their_ratio() {
        let cells: Vec<Cell> = [1.0, 0.6, 1.4, 0.9, 1.1]
            .into_iter()
            .enumerate()
            .flat_map(|(n, speed)| {
                let cell = |name: &str, rate: f64| Cell {
                    contender: name.into(),
                    block: n + 1,
                    messages_per_s: Some(rate * speed),
                    ..Cell::default()
                };
                [cell("a", 110.0), cell("b", 100.0)]
            })
            .collect();
        let ratio = of(&cells)[0].figures[0].ratio.unwrap();
        assert!((ratio.low - 1.1).abs() < 1e-9 && (ratio.high - 1.1).abs() < 1e-9, "{ratio:?}");
    }

    #[test]
    fn of_what_costs_less_is_better_and_its_ratio_is_of_the_costs() {
        let cell = |name: &str, block: usize, cpu: f64| Cell {
            scenario: Scenario::Churn,
            contender: name.into(),
            block,
            server_cpu_us_per_connection: Some(cpu * (1.0 + 0.01 * block as f64)),
            ..Cell::default()
        };
        let cells: Vec<Cell> =
            (1..=4).flat_map(|block| [cell("fork", block, 30.0), cell("pool", block, 10.0)]).collect();
        let mut group = Group::of(Scenario::Churn, Point::default(), &cells);
        group.verdicts = judge(&group.comparisons, 0.05);
        let ratio = pairs(&[group], &cells)[0].figures[0].ratio.unwrap();
        assert!((ratio.middle - 3.0).abs() < 1e-9, "{ratio:?}");
    }
}
