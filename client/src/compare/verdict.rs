//! What follows from the cells: a line a contender, and who is faster than whom.

use std::time::Duration;

use serde::Serialize;

use super::{
    cell::{Cause, Cell, believed},
    comparison::{self, Comparison, Verdict, is_known},
    contender::Style,
    fit::{Rounds, calmed, differences},
    plan::Plan,
    scenario::{Point, Scenario},
    statistics::{Estimate, estimate, mean, median},
};

/// A contender at one number of connections, over all blocks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    /// Who.
    pub contender: String,
    /// Who in it serves the clients, where that is known.
    pub style: Option<Style>,
    /// In which language it is written, where that is known.
    pub language: String,
    /// How many workers it was given, where it is a pool.
    pub workers: Option<usize>,
    /// The scenario's figure; `None` where no cell counts.
    pub figure: Option<Estimate>,
    /// Medians over the blocks of the cells' other figures, where they are known.
    pub p50_us: Option<f64>,
    /// 99 % took no longer.
    pub p99_us: Option<f64>,
    /// 99.9 % took no longer.
    pub p999_us: Option<f64>,
    /// The server's CPU time an answer.
    pub server_cpu_us_per_message: Option<f64>,
    /// The load's.
    pub client_cpu_us_per_message: Option<f64>,
    /// The server's memory.
    pub peak_pss_bytes: Option<f64>,
    /// Memory that came with the connections, for each, in bytes.
    pub bytes_per_connection: Option<f64>,
    /// Answers a second.
    pub messages_per_s: Option<f64>,
    /// In `churn`: connections a second.
    pub connections_per_s: Option<f64>,
    /// In `churn`: half of the connections took no longer to come up.
    pub connect_p50_us: Option<f64>,
    /// Jain's fairness index over the connections.
    pub jain: Option<f64>,
    /// Context switches an answer because a thread waited.
    pub voluntary_switches_per_message: Option<f64>,
    /// Context switches an answer because a thread was interrupted.
    pub involuntary_switches_per_message: Option<f64>,
    /// Page faults an answer.
    pub minor_faults_per_message: Option<f64>,
    /// Its descriptors.
    pub descriptors: Option<f64>,
    /// The highest rate that was kept, found from below.
    pub from_below_per_s: Option<f64>,
    /// The same, found from above.
    pub from_above_per_s: Option<f64>,
    /// On a schedule: the share of the messages that were answered, in all cells, also those that do not count.
    pub answered: Option<f64>,
    /// In `udp`: the share of the datagrams that did not come back in time.
    pub loss: Option<f64>,
    /// Whether the client was the bound in a cell, so that the server may be faster.
    pub client_bound: bool,
    /// Its processes.
    pub processes: Option<f64>,
    /// Its threads.
    pub threads: Option<f64>,
    /// Why it was not to take part here, where that is so.
    pub left_out: Option<String>,
    /// Why cells do not count, each reason once, with how many cells say so.
    pub notes: Vec<String>,
}

/// All contenders at one point of a scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Group {
    /// What they were put to.
    pub scenario: Scenario,
    /// Where.
    pub point: Point,
    /// A line each, the best within blocks first, those without a figure last.
    pub lines: Vec<Line>,
    /// About how long a block of it takes.
    #[serde(skip)]
    pub block_takes: Duration,
    /// The smallest difference that matters, as a share.
    #[serde(skip)]
    pub resolve: f64,
    /// Each of those that have a figure against each that comes after it, in the order of the lines.
    #[serde(skip)]
    pub comparisons: Vec<Comparison>,
    /// What is said of each comparison: nothing until those of the whole run are judged together.
    pub verdicts: Vec<Verdict>,
}

/// All groups of an experiment of which there are cells, in the plan's order, judged together: how sure each comparison is
/// depends on how many there are.
pub fn groups(plan: &Plan, cells: &[Cell]) -> Vec<Group> {
    let points =
        plan.trial.iter().flat_map(|trial| trial.points().into_iter().map(move |point| (trial, point))).map(
            |(trial, point)| Group {
                block_takes: plan.estimate(trial, point),
                resolve: plan.resolve,
                ..Group::of(trial.scenario, point, cells)
            },
        );
    let mut groups: Vec<Group> = points.filter(|group| !group.lines.is_empty()).collect();
    judge(&mut groups, plan.resolve);
    groups
}

fn judge(groups: &mut [Group], resolve: f64) {
    let all: Vec<Comparison> = groups.iter().flat_map(|group| group.comparisons.iter().cloned()).collect();
    let mut verdicts = comparison::judge(&all, resolve).into_iter();
    for group in groups {
        group.verdicts = verdicts.by_ref().take(group.comparisons.len()).collect();
    }
}

impl Group {
    /// Sorts and judges the cells of one point.
    pub fn of(scenario: Scenario, point: Point, cells: &[Cell]) -> Self {
        let is_here = |cell: &&Cell| cell.scenario == scenario && cell.point() == point;
        let here: Vec<&Cell> = cells.iter().filter(is_here).collect();
        let mut names: Vec<&str> = here.iter().map(|cell| cell.contender.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let (lines, without): (Vec<Line>, Vec<Line>) =
            names.iter().map(|name| Line::of(scenario, name, &here)).partition(|line| line.figure.is_some());
        let names: Vec<String> = lines.iter().map(|line| line.contender.clone()).collect();
        let here: Vec<&Cell> = believed(here).collect();
        let blocks = calmed(&blocks_of(scenario, &names, &here));
        let order = by_merit(scenario, &lines, &blocks);
        let pairs = (0..order.len()).flat_map(|n| order[n + 1..].iter().map(move |&other| (n, other)));
        let comparison = |(n, other): (usize, usize)| Comparison {
            scenario,
            point,
            names: [names[order[n]].clone(), names[other].clone()],
            logs: differences(&blocks, order[n], other),
        };
        let comparisons = pairs.map(comparison).collect();
        let lines = order.iter().map(|&it| lines[it].clone()).chain(without).collect();
        Self { scenario, point, lines, comparisons, ..Self::default() }
    }

    /// Whether more blocks would say no more that matters. Of one contender alone there is nothing to decide.
    pub fn is_decided(&self) -> bool {
        let Some(blocks) = self.verdicts.iter().map(|verdict| verdict.pairs).min() else { return true };
        let rivals = self.lines.iter().filter(|line| line.figure.is_some()).count() - 1;
        is_known(rivals, blocks) && self.verdicts.iter().all(|verdict| verdict.ratio.is_close(self.resolve))
    }

    /// Who is best within blocks; `None` where nobody has a figure.
    pub fn leader(&self) -> Option<&str> {
        let best = self.lines.first().filter(|line| line.figure.is_some());
        best.map(|line| line.contender.as_str())
    }

    /// Those who were to take part.
    pub fn there(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.left_out.is_none())
    }

    /// What is said of the best and each other.
    pub fn verdicts_of_the_leader(&self) -> impl Iterator<Item = &Verdict> {
        let leader = self.leader();
        self.verdicts.iter().filter(move |verdict| leader.is_some_and(|leader| verdict.is_about(leader)))
    }
}

impl Line {
    fn of(scenario: Scenario, name: &str, cells: &[&Cell]) -> Self {
        let all: Vec<&Cell> = cells.iter().copied().filter(|cell| cell.contender == name).collect();
        let good: Vec<&Cell> = believed(all.iter().copied()).collect();
        let middle = |figure: fn(&Cell) -> Option<f64>| {
            median(&good.iter().filter_map(|cell| figure(cell)).collect::<Vec<_>>())
        };
        // What is not known is longer than what is.
        let time = |figure: fn(&Cell) -> Option<f64>| {
            let times = good.iter().map(|cell| figure(cell).unwrap_or(f64::INFINITY));
            median(&times.collect::<Vec<_>>()).filter(|time| time.is_finite())
        };
        Self {
            contender: name.into(),
            style: all.iter().find_map(|cell| cell.style),
            language: all.first().map(|cell| cell.language.clone()).unwrap_or_default(),
            workers: all.iter().find_map(|cell| cell.workers),
            figure: estimate(&good.iter().filter_map(|cell| scenario.figure(cell)).collect::<Vec<_>>()),
            p50_us: time(|cell| cell.p50_us),
            p99_us: time(|cell| cell.p99_us),
            p999_us: time(|cell| cell.p999_us),
            server_cpu_us_per_message: middle(|cell| cell.server_cpu_us_per_message),
            client_cpu_us_per_message: middle(|cell| cell.client_cpu_us_per_message),
            peak_pss_bytes: middle(|cell| Some(cell.peak_pss_bytes? as f64)),
            bytes_per_connection: middle(|cell| cell.bytes_per_connection),
            messages_per_s: middle(|cell| cell.messages_per_s),
            connections_per_s: middle(|cell| cell.connections_per_s),
            connect_p50_us: middle(|cell| cell.connect_p50_us),
            jain: middle(|cell| cell.jain),
            voluntary_switches_per_message: middle(|cell| cell.voluntary_switches_per_message),
            involuntary_switches_per_message: middle(|cell| cell.involuntary_switches_per_message),
            minor_faults_per_message: middle(|cell| cell.minor_faults_per_message),
            descriptors: middle(|cell| Some(cell.descriptors? as f64)),
            from_below_per_s: middle(|cell| cell.from_below_per_s),
            from_above_per_s: middle(|cell| cell.from_above_per_s),
            answered: median(&all.iter().filter_map(|cell| cell.answered_share).collect::<Vec<_>>()),
            loss: middle(Cell::loss),
            client_bound: good.iter().any(|cell| cell.is_client_bound()),
            processes: middle(|cell| Some(cell.processes? as f64)),
            threads: middle(|cell| Some(cell.threads? as f64)),
            left_out: all.iter().find(|cell| cell.cause == Some(Cause::Plan)).map(|cell| cell.reason.clone()),
            notes: notes(&all, good.is_empty()),
        }
    }
}

/// The reasons of the cells that do not count, with how many of how many; of those of one kind, which stands before the
/// colon, the first. Last, why those that count are not believed.
fn notes(cells: &[&Cell], none_is_believed: bool) -> Vec<String> {
    let mut reasons: Vec<&str> = cells.iter().map(|c| c.reason.as_str()).filter(|r| !r.is_empty()).collect();
    let kind = |reason: &str| reason.split(':').next().map(str::to_owned);
    reasons.sort_by_key(|reason| kind(reason));
    let told = reasons.chunk_by(|a, b| kind(a) == kind(b)).map(|same| match same.len() {
        n if n == cells.len() => same[0].to_owned(),
        n => format!("{} ({n} of {} cells)", same[0], cells.len()),
    });
    let some_count = none_is_believed && reasons.len() < cells.len();
    let is_by_their_number = some_count && cells.iter().all(|cell| cell.cause != Some(Cause::Server));
    let last = is_by_their_number.then(|| "no figure: fewer than four fifths of its cells count".to_owned());
    told.chain(last).collect()
}

/// Lines from the best to the worst by what they are against all others within blocks: so their order agrees with what is said of
/// each pair. Where two have no block in common, their medians must do.
fn by_merit(scenario: Scenario, lines: &[Line], blocks: &[Rounds]) -> Vec<usize> {
    let median_of = |line: &Line| line.figure.map_or(f64::NAN, |figure| scenario.merit(figure.median).ln());
    let merit = |one: usize| -> f64 {
        let against = |other: usize| {
            let medians = || median_of(&lines[one]) - median_of(&lines[other]);
            mean(&differences(blocks, one, other)).unwrap_or_else(medians)
        };
        (0..lines.len()).map(against).sum()
    };
    let merits: Vec<f64> = (0..lines.len()).map(merit).collect();
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by(|&a, &b| merits[b].total_cmp(&merits[a]));
    order
}

/// The blocks of some contenders at a point: a slice of each in each round, as the logarithm of its merit, where it counts.
fn blocks_of(scenario: Scenario, names: &[String], cells: &[&Cell]) -> Vec<Rounds> {
    let last = cells.iter().map(|cell| cell.block).max().unwrap_or(0);
    let block = |block: usize| {
        let slices_of = |name: &String| {
            let mut found = cells.iter().filter(|cell| cell.contender == *name);
            found.find(|cell| cell.block == block).map(|cell| cell.slices()).unwrap_or_default()
        };
        let slices: Vec<Vec<Option<f64>>> = names.iter().map(slices_of).collect();
        let log = |figure: Option<f64>| figure.map(|it| scenario.merit(it).ln()).filter(|it| it.is_finite());
        let round = |n: usize| slices.iter().map(|of_one| log(of_one.get(n).copied().flatten())).collect();
        (0..slices.iter().map(Vec::len).max().unwrap_or(0)).map(round).collect()
    };
    (1..=last).map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(block: usize, contender: &str, messages_per_s: f64) -> Cell {
        let messages_per_s = Some(messages_per_s);
        Cell { block, contender: contender.into(), connections: 64, messages_per_s, ..Cell::default() }
    }

    fn of(scenario: Scenario, cells: &[Cell]) -> Group {
        Group::of(scenario, Point { connections: 64, ..Point::default() }, cells)
    }

    fn judged(cells: &[Cell]) -> Group {
        let mut groups = [of(Scenario::Echo, cells)];
        judge(&mut groups, 0.05);
        let [group] = groups;
        group
    }

    #[test]
    fn a_contender_that_leads_in_every_block_is_told_apart_however_the_machine_drifts() {
        let cells: Vec<Cell> = (1..=5)
            .flat_map(|block| {
                let speed = 1000.0 * block as f64;
                [cell(block, "slow", speed), cell(block, "fast", speed * 1.1)]
            })
            .collect();
        let group = judged(&cells);
        assert_eq!((&*group.lines[0].contender, &*group.verdicts[0].leader), ("fast", "fast"));
        assert!(group.verdicts[0].told_apart && (group.verdicts[0].ratio.middle - 1.1).abs() < 1e-9);
    }

    #[test]
    fn of_two_blocks_nothing_is_said() {
        let cells: Vec<Cell> =
            (1..=2).flat_map(|block| [cell(block, "a", 100.0), cell(block, "b", 200.0)]).collect();
        assert!(!judged(&cells).verdicts[0].told_apart);
    }

    #[test]
    fn equals_are_not_told_apart() {
        let noise = [1.02, 0.97, 1.01, 0.99, 1.03];
        let cells: Vec<Cell> = (1..=5)
            .flat_map(|b| [cell(b, "one", 1000.0 * noise[b - 1]), cell(b, "two", 1000.0 * noise[5 - b])])
            .collect();
        assert!(!judged(&cells).verdicts[0].told_apart);
    }

    #[test]
    fn each_is_compared_with_each_and_all_groups_of_a_run_are_had_in_mind() {
        let of = |scenario| {
            let cell = |b, name, rate| Cell { scenario, jain: Some(rate / 1e3), ..cell(b, name, rate) };
            let block = |b| [cell(b, "a", 300.0), cell(b, "b", 200.0), cell(b, "c", 100.0)];
            of(scenario, &(1..=5).flat_map(block).collect::<Vec<_>>())
        };
        let mut groups = [of(Scenario::Echo), of(Scenario::Fair)];
        judge(&mut groups, 0.05);
        let pair = |verdict: &Verdict| format!("{}{}", verdict.leader, verdict.other);
        assert_eq!(groups[0].verdicts.iter().map(pair).collect::<Vec<_>>(), ["ab", "ac", "bc"]);
        assert_eq!(groups[0].verdicts_of_the_leader().map(pair).collect::<Vec<_>>(), ["ab", "ac"]);
        assert_eq!((groups[1].verdicts.len(), groups[0].verdicts[0].comparisons), (3, 6));
    }

    #[test]
    fn whose_server_has_failed_in_one_block_has_no_figure_there() {
        let failed = Cell { reason: "wrong".into(), cause: Some(Cause::Server), ..cell(1, "liar", 9e9) };
        let late = Cell { reason: "late".into(), cause: Some(Cause::Client), ..cell(1, "honest", 9e9) };
        let later = (2..=5).flat_map(|block| [cell(block, "liar", 9e9), cell(block, "honest", 10.0)]);
        let group = judged(&[failed, late].into_iter().chain(later).collect::<Vec<_>>());
        let figure = |line: &Line| line.figure.map(|figure| figure.median);
        assert_eq!((&*group.lines[0].contender, figure(&group.lines[0])), ("honest", Some(10.0)));
        assert_eq!((&*group.lines[1].contender, figure(&group.lines[1])), ("liar", None));
    }

    #[test]
    fn a_point_is_decided_by_the_difference_that_matters_in_its_plan() {
        let of = |resolve: f64| {
            let plan = format!(
                "seed = 1\nblocks = 9\nduration = '1s'\nwarmup = '0s'\ncount_calls = false\nclient_cpus = '1'\nresolve = {resolve}\n\
                 [[trial]]\nscenario = 'echo'\ncontenders = ['a', 'b']\nconnections = [64]\nsizes = [0]\nserver_cpus = '0'"
            );
            let noise = [1.02, 0.98, 1.01, 0.99, 1.02, 0.98, 1.01, 0.99, 1.0];
            let both =
                |n: usize| [cell(n + 1, "a", 100.0 * noise[n]), cell(n + 1, "b", 100.0 * noise[8 - n])];
            let cells: Vec<Cell> = (0..9).flat_map(both).collect();
            groups(&toml::from_str(&plan).unwrap(), &cells).remove(0)
        };
        assert!(of(0.1).is_decided() && of(0.1).verdicts[0].equal_within.is_some());
        assert!(!of(0.001).is_decided() && of(0.001).verdicts[0].equal_within.is_none());
        assert!(judged(&[cell(1, "alone", 1.0)]).is_decided());
    }

    #[test]
    fn of_whose_cells_fewer_than_four_fifths_count_there_is_no_figure_but_one_may_be_lost() {
        let of = |good: usize, void: usize, cause: Cause| {
            let void_cell =
                move |n| Cell { reason: "void".into(), cause: Some(cause), ..cell(100 + n, "it", 9e9) };
            let good = (1..=good).map(|block| cell(block, "it", 9.0));
            judged(&good.chain((0..void).map(void_cell)).collect::<Vec<_>>()).lines.remove(0)
        };
        let has_figure = |good, void| of(good, void, Cause::Measure).figure.is_some();
        assert!(has_figure(8, 2) && has_figure(2, 1), "one may be an accident");
        assert!(!has_figure(7, 2) && !has_figure(2, 2));
        assert!(of(2, 5, Cause::Client).figure.is_some(), "what the client fails at is nobody's advantage");
        let last = of(7, 2, Cause::Measure).notes.pop();
        assert_eq!(last.as_deref(), Some("no figure: fewer than four fifths of its cells count"));
    }

    #[test]
    fn a_cell_that_does_not_count_is_a_note_and_no_figure() {
        let void = Cell { reason: "wrong".into(), ..cell(1, "liar", 9e9) };
        let group = judged(&[cell(1, "honest", 10.0), void]);
        assert_eq!(group.lines[1].contender, "liar");
        assert_eq!((group.lines[1].figure, group.lines[1].notes.clone()), (None, vec!["wrong".into()]));
        assert!(group.verdicts.is_empty());
    }
}
