//! Two runs side by side: what both have measured, then and now.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    method,
    stored::Stored,
    unit::Unit,
    view::{At, Measure, measures, scenarios},
};
use crate::compare::{
    cell::Cell,
    scenario::Scenario,
    statistics::{Estimate, estimate, median, ratio_of_strangers},
    verdict::BLOCKS_FOR_A_GLANCE,
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
    pub gain: Option<Estimate>,
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
    pub fn between(then: &Stored, now: &Stored) -> Self {
        let rows = scenarios(&now.cells).into_iter().flat_map(|scenario| {
            let points: BTreeSet<(At, &str)> = now
                .cells
                .iter()
                .filter(|cell| cell.scenario == scenario)
                .map(|cell| (At::of(cell), cell.contender.as_str()))
                .collect();
            points.into_iter().filter_map(move |(at, name)| change(scenario, at, name, then, now))
        });
        let rows = rows.collect();
        Self {
            since: then.name.clone(),
            surroundings: differences(&then.environment, &now.environment),
            rows,
        }
    }

    /// How many have become so.
    pub fn count(&self, verdict: &str) -> usize {
        self.rows.iter().filter(|row| row.verdict() == verdict).count()
    }

    /// How many times better all figures together have become: what is common to them is the machine's doing.
    pub fn common(&self) -> Option<f64> {
        median(&self.rows.iter().filter_map(|row| Some(row.gain?.median)).collect::<Vec<_>>())
    }
}

fn change(scenario: Scenario, at: At, contender: &str, then: &Stored, now: &Stored) -> Option<Change> {
    let Measure { of, unit, more_is_better, .. } = measures(scenario).first()?;
    let figures = |run: &Stored| -> Vec<f64> {
        let is_here = |cell: &&Cell| cell.scenario == scenario && At::of(cell) == at;
        let mine =
            run.cells.iter().filter(is_here).filter(|cell| cell.contender == contender && cell.counts());
        mine.filter_map(of).collect()
    };
    let (before, after) = (figures(then), figures(now));
    let enough = before.len().min(after.len()) >= BLOCKS_FOR_A_GLANCE;
    let gain = ratio_of_strangers(&after, &before).filter(|_| enough);
    Some(Change {
        scenario,
        point: at.written(scenario),
        contender: contender.into(),
        unit: *unit,
        then: estimate(&before)?,
        now: estimate(&after)?,
        gain: if *more_is_better { gain } else { gain.map(Estimate::inverse) },
    })
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

    fn run(name: &str, figures: &[f64]) -> Stored {
        let cell = |(n, figure): (usize, &f64)| Cell {
            block: n + 1,
            contender: "it".into(),
            connections: 64,
            messages_per_s: *figure,
            ..Cell::default()
        };
        let cells = figures.iter().enumerate().map(cell).collect();
        Stored { name: name.into(), cells, environment: serde_json::json!({ "kernel": name }) }
    }

    #[test]
    fn a_change_has_a_verdict_only_where_its_interval_leaves_one_out() {
        let then = run("old", &[100.0, 101.0, 99.0, 102.0, 98.0]);
        let verdict = |now: &[f64]| Changes::between(&then, &run("new", now)).rows[0].verdict();
        assert_eq!(verdict(&[200.0, 202.0, 198.0]), "better");
        assert_eq!(verdict(&[50.0, 52.0, 48.0]), "worse");
        assert_eq!(verdict(&[100.0, 104.0, 96.0]), "not told apart");
        assert_eq!(verdict(&[300.0, 300.0]), "too few blocks");
    }

    #[test]
    fn what_one_run_alone_has_is_no_change_and_surroundings_that_differ_are_told() {
        let mut other = run("new", &[1.0, 1.0, 1.0]);
        other.cells.iter_mut().for_each(|cell| cell.connections = 1);
        let changes = Changes::between(&run("old", &[1.0]), &other);
        assert!(changes.rows.is_empty());
        assert_eq!(changes.surroundings, [("kernel".into(), "old".into(), "new".into())]);
    }
}
