//! Two runs side by side: what both have measured, then and now.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{
    measure::{Measure, measures},
    method,
    unit::Unit,
};
use crate::compare::{
    cell::{Cell, believed},
    comparison::{ERROR_OF_A_RUN, LEAST_BLOCKS, Ratio},
    plan::{Plan, Trial},
    results::Run,
    scenario::{Point, Scenario},
    statistics::{Estimate, estimate, median},
};

/// What became of an earlier run's figures.
pub struct Changes {
    /// The earlier run.
    pub since: String,
    /// What differs in the environments: a name, then, now.
    pub surroundings: Vec<(String, String, String)>,
    /// A row for each figure that both runs have.
    pub rows: Vec<Change>,
}

/// A figure, then and now.
pub struct Change {
    /// Of which scenario.
    pub scenario: Scenario,
    /// Where in it.
    pub point: String,
    /// Whose.
    pub contender: String,
    /// What it counts.
    pub unit: Unit,
    /// Then.
    pub then: Estimate,
    /// Now.
    pub now: Estimate,
    /// How many times better it is now; nothing where there are too few blocks.
    pub gain: Option<Ratio>,
}

impl Change {
    /// What can be said of it.
    pub fn verdict(&self) -> &'static str {
        match self.gain {
            None => "too few blocks",
            Some(gain) if gain.low > 1.0 => "better",
            Some(gain) if gain.high < 1.0 => "worse",
            Some(_) => "not told apart",
        }
    }
}

impl Changes {
    /// From an earlier run to this one.
    pub fn between(since: &str, then: &Run, now: &Run) -> Self {
        let same = |trial: &&Trial| then.plan.trial.iter().any(|it| is_alike(it, trial));
        let both: Vec<Both> = now
            .plan
            .trial
            .iter()
            .filter(same)
            .flat_map(|trial| {
                let names = move |point| trial.contenders.iter().map(move |name| (point, name));
                let places = trial.points().into_iter().flat_map(names);
                places.filter_map(move |(point, name)| Both::of(trial.scenario, point, name, then, now))
            })
            .collect();
        // With a probability of 1 % at most any of them tells equals apart (Bonferroni).
        let level = 1.0 - ERROR_OF_A_RUN / both.len() as f64;
        let rows = both.into_iter().filter_map(|both| both.change(level));
        Self {
            since: since.into(),
            surroundings: [
                differences(&method::environment(then), &method::environment(now)),
                differences(&settings(then), &settings(now)),
            ]
            .concat(),
            rows: rows.collect(),
        }
    }

    /// How many have become so.
    pub fn count(&self, verdict: &str) -> usize {
        self.rows.iter().filter(|row| row.verdict() == verdict).count()
    }

    /// What has become worse by more than a share, in one sentence: surely, or where `doubtful` perhaps. What is not known is worse.
    pub fn complaint(&self, share: f64, doubtful: bool) -> Option<String> {
        if self.rows.is_empty() {
            return Some(format!("no figure is in {} as well", self.since));
        }
        let bound = 1.0 / (1.0 + share);
        let fails = |gain: Ratio| if doubtful { gain.low < bound } else { gain.high < bound };
        let mut failed: Vec<&Change> = self.rows.iter().filter(|row| row.gain.is_none_or(fails)).collect();
        failed.sort_by(|a, b| middle(a).total_cmp(&middle(b)));
        let worst = failed.first()?;
        let others = match failed.len() - 1 {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let by = match worst.gain {
            None => "is of too few blocks to say".into(),
            Some(Ratio { middle, low, high, .. }) => {
                format!("is {middle:.2} times as good [{low:.2}, {high:.2}] as in {}", self.since)
            }
        };
        let common = self.common().filter(|common| *common < bound);
        let common = common.map_or(String::new(), |common| {
            format!("; in the middle all figures are {common:.2} times as good: is it the machine?")
        });
        let Change { scenario, point, contender, .. } = worst;
        Some(format!("{}, {point}: {contender} {by}{others}{common}", scenario.name()))
    }

    /// How many times better all figures together have become: what is common to them is the machine's doing.
    pub fn common(&self) -> Option<f64> {
        median(&self.rows.iter().filter_map(|row| Some(row.gain?.middle)).collect::<Vec<_>>())
    }
}

/// How many times better it is; nothing known is the worst.
fn middle(change: &Change) -> f64 {
    change.gain.map_or(0.0, |gain| gain.middle)
}

/// Whether both put their contenders to the same: figures of other work, or of another schedule, are others.
fn is_alike(one: &Trial, other: &Trial) -> bool {
    let load = |trial: &Trial| (trial.scenario, trial.work.clone(), trial.rate, trial.burst, trial.p99);
    load(one) == load(other)
}

/// What else was chosen for a run.
fn settings(run: &Run) -> Value {
    let Plan { duration, warmup, client_cpus, trial, .. } = &run.plan;
    let servers: BTreeSet<String> =
        trial.iter().filter_map(|trial| Some(trial.server_cpus.as_ref()?.to_string())).collect();
    json!({
        "cell": format!("{duration:?} after {warmup:?}"),
        "client's processors": client_cpus.to_string(),
        "servers' processors": servers.into_iter().collect::<Vec<_>>().join("; "),
    })
}

/// A figure that both runs have: what it was in each block that counts.
struct Both {
    scenario: Scenario,
    point: Point,
    contender: String,
    before: Vec<f64>,
    after: Vec<f64>,
}

impl Both {
    fn of(scenario: Scenario, point: Point, contender: &str, then: &Run, now: &Run) -> Option<Self> {
        let of = measures(scenario)[0].of;
        let figures = |run: &Run| -> Vec<f64> {
            let is_here = |cell: &&Cell| cell.scenario == scenario && cell.point() == point;
            let mine = believed(&run.cells).filter(is_here).filter(|cell| cell.contender == contender);
            mine.filter_map(of).collect()
        };
        let (before, after) = (figures(then), figures(now));
        let is_there = !before.is_empty() && !after.is_empty();
        is_there.then(|| Self { scenario, point, contender: contender.into(), before, after })
    }

    /// Beside so many others.
    fn change(self, level: f64) -> Option<Change> {
        let Measure { unit, more_is_better, .. } = measures(self.scenario)[0];
        let merits = |figures: &[f64]| -> Vec<f64> {
            figures.iter().map(|figure| if more_is_better { figure.ln() } else { -figure.ln() }).collect()
        };
        Some(Change {
            scenario: self.scenario,
            point: self.point.title(self.scenario),
            contender: self.contender,
            unit,
            then: estimate(&self.before)?,
            now: estimate(&self.after)?,
            gain: between_strangers(&merits(&self.before), &merits(&self.after), level),
        })
    }
}

/// The ratio of two figures that have no block in common, from their logarithms, with an interval of this level: Welch's
/// (1947), for what shook the one is not what shook the other. `None` of fewer blocks than allow a glance.
fn between_strangers(before: &[f64], after: &[f64], level: f64) -> Option<Ratio> {
    if before.len().min(after.len()) < LEAST_BLOCKS {
        return None;
    }
    let moments = |logs: &[f64]| {
        let n = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / n;
        (mean, logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0) / n, n - 1.0)
    };
    let ((then, of_then, n), (now, of_now, m)) = (moments(before), moments(after));
    let variance = of_then + of_now;
    let freedom = variance.powi(2) / (of_then.powi(2) / n + of_now.powi(2) / m);
    let reach = match StudentsT::new(0.0, 1.0, freedom) {
        Ok(student) => -student.inverse_cdf((1.0 - level) / 2.0) * variance.sqrt(),
        Err(_) => 0.0, // both are the same in every block
    };
    let middle = now - then;
    Some(Ratio { middle: middle.exp(), low: (middle - reach).exp(), high: (middle + reach).exp(), level })
}

/// What was measured in other surroundings.
fn differences(then: &Value, now: &Value) -> Vec<(String, String, String)> {
    let (Value::Object(then), Value::Object(now)) = (then, now) else { return Vec::new() };
    let differ = now.iter().filter(|(name, value)| then.get(*name).is_some_and(|old| old != *value));
    differ
        .map(|(name, value)| (name.replace('_', " "), method::plain(&then[name]), method::plain(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::Sitting;

    fn run(kernel: &str, connections: usize, figures: &[f64]) -> Run {
        let cell = |(n, figure): (usize, &f64)| Cell {
            block: n + 1,
            contender: "it".into(),
            size: 64,
            connections,
            messages_per_s: Some(*figure),
            ..Cell::default()
        };
        let plan = format!(
            "seed = 1\nblocks = 5\nduration = '1s'\nwarmup = '0s'\ncount_calls = false\nclient_cpus = '1'\n[[trial]]\nscenario = 'echo'\n\
             contenders = ['it']\nconnections = [{connections}]\nsizes = [64]\nserver_cpus = '0'"
        );
        let sitting = Sitting {
            began: String::new(),
            took_s: None,
            command: String::new(),
            server: None,
            environment: serde_json::json!({ "kernel": kernel }),
        };
        let cells = figures.iter().enumerate().map(cell).collect();
        Run { plan: toml::from_str(&plan).unwrap(), sittings: vec![sitting], cells, calls: Vec::new() }
    }

    #[test]
    fn a_change_has_a_verdict_only_where_its_interval_leaves_one_out() {
        let then = run("old", 64, &[100.0, 101.0, 99.0, 102.0, 98.0]);
        let verdict = |now: &[f64]| Changes::between("then", &then, &run("new", 64, now)).rows[0].verdict();
        assert_eq!(verdict(&[200.0, 202.0, 198.0, 201.0]), "better");
        assert_eq!(verdict(&[50.0, 52.0, 48.0, 51.0]), "worse");
        assert_eq!(verdict(&[100.0, 104.0, 96.0]), "not told apart");
        assert_eq!(verdict(&[300.0, 300.0]), "too few blocks");
    }

    #[test]
    fn the_same_figures_again_are_no_change_however_steady() {
        let then = run("old", 64, &[100.0; 5]);
        let again = Changes::between("then", &then, &then);
        assert_eq!((again.rows[0].verdict(), again.common()), ("not told apart", Some(1.0)));
    }

    #[test]
    fn what_one_run_alone_has_is_no_change_and_surroundings_that_differ_are_told() {
        let changes = Changes::between("then", &run("old", 64, &[1.0]), &run("new", 1, &[1.0, 1.0, 1.0]));
        assert!(changes.rows.is_empty());
        assert_eq!(changes.surroundings, [("kernel".into(), "old".into(), "new".into())]);
    }

    #[test]
    fn what_has_become_surely_worse_by_more_than_a_share_is_a_complaint() {
        let then = run("old", 64, &[100.0, 101.0, 99.0, 102.0, 98.0]);
        let complaint = |rates: &[f64], doubtful| {
            let mut now = run("old", 64, rates);
            now.plan = then.plan.clone();
            Changes::between("then", &then, &now).complaint(0.05, doubtful)
        };
        let slower = complaint(&[80.0, 81.0, 79.0, 80.5, 79.5], false).unwrap();
        assert!(slower.contains("0.80 times as good"), "{slower}");
        assert_eq!(complaint(&[99.0, 100.0, 98.0, 101.0, 97.0], false), None);
        let doubtful = [85.0, 106.0, 95.0, 99.0, 90.0];
        assert_eq!(complaint(&doubtful, false), None);
        assert!(complaint(&doubtful, true).is_some());
        assert!(complaint(&[80.0], false).unwrap().contains("too few blocks"));
    }
}
