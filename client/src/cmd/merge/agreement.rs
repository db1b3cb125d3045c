//! Which results may be merged: those of ranks of one run, which were asked for the same; and whether the sum is one,
//! because they loaded at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs,
    path::Path,
};

use serde_json::Value;

use super::Kept;
use crate::{
    cmd::load::{OUTAGE, OWN, Placed, Run, SCHEMA, Subject, Summary, UNSYNCHRONISED, Verdict},
    load::{Rank, Second},
};

/// A result that was read.
pub struct Told {
    /// Where it was.
    pub file: String,
    /// Whose it is.
    pub rank: Rank,
    /// What it says.
    pub summary: Summary,
    /// What it is made from.
    pub run: Run,
}

impl Told {
    /// Reads a result.
    ///
    /// # Errors
    /// A sentence for the user, where it is none.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| format!("{file}: {error}"))?;
        Self::parse(file, &text)
    }

    /// What is written in a file.
    ///
    /// # Errors
    /// A sentence for the user, where it is no result.
    pub fn parse(file: String, text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err(format!("{file}: it is empty: its rank wrote no result"));
        }
        let alas = |what: &dyn Display| format!("{file}: no result of load --json: {what}");
        let json: Value = serde_json::from_str(text).map_err(|error| alas(&error))?;
        match json["schema"].as_u64() {
            None => return Err(alas(&"it names no schema")),
            Some(schema) if schema != u64::from(SCHEMA) => {
                return Err(format!("{file}: a result of schema {schema}, which another version reads"));
            }
            Some(_) => {}
        }
        let summary: Summary = serde_json::from_value(json).map_err(|error| alas(&error))?;
        if !summary.subject.ranks.is_empty() {
            return Err(format!("{file}: it is merged already; merge what it was made from"));
        }
        let run = summary.run().map_err(|error| alas(&error))?;
        let rank = summary.subject.rank.as_ref().map_or(Rank::ALONE, |Placed { rank, .. }| *rank);
        Ok(Self { file, rank, summary, run })
    }
}

/// The share of the longest measured time that all have to have in common. What lies outside of it was measured under
/// less than the whole load; ranks that met begin within milliseconds of each other.
const IN_COMMON: f64 = 0.9;

/// How many ranks the run of a result has.
pub fn ranks(subject: &Subject) -> usize {
    subject.rank.as_ref().map_or(Rank::ALONE, |Placed { rank, .. }| *rank).ranks
}

/// Holds two results to be of one run, whose ranks were asked for the same.
///
/// # Errors
/// What they do not have in common, and should.
pub fn between((a, x): (&str, &Subject), (b, y): (&str, &Subject)) -> Result<(), String> {
    let differs = |name: &str, of_one: &str, of_other: &str| match of_one == of_other {
        true => Ok(()),
        false => Err(format!("{a} and {b} differ in {name}: {of_one} and {of_other}")),
    };
    let setting =
        |subject: &Subject, name: &str| subject.settings.get(name).unwrap_or(&Value::Null).to_string();
    differs("the number of ranks", &ranks(x).to_string(), &ranks(y).to_string())?;
    differs("the server", &x.endpoint, &y.endpoint)?;
    let names: BTreeSet<&String> = x.settings.keys().chain(y.settings.keys()).collect();
    for name in names.into_iter().filter(|name| !OWN.contains(&name.as_str())) {
        differs(name, &setting(x, name), &setting(y, name))?;
    }
    if x.run != y.run {
        return Err(format!("{a} and {b} are of different runs"));
    }
    Ok(())
}

/// What is wrong with a whole though it is wrong with none of its parts: their load was not the whole load for long
/// enough.
pub fn doubts(parts: &BTreeMap<usize, Kept>, run: &Run) -> Vec<Verdict> {
    let longest = parts.values().map(|kept| kept.part.measured_s).fold(0.0, f64::max);
    let apart = apart(parts, longest).map(|why| Verdict::void(UNSYNCHRONISED, why));
    apart.into_iter().chain(outages(parts, run, longest).map(|why| Verdict::void(OUTAGE, why))).collect()
}

/// Who did not measure at the same time as the others.
fn apart(parts: &BTreeMap<usize, Kept>, longest: f64) -> Option<String> {
    let begin = |kept: &&Kept| kept.part.measured_since;
    let end = |kept: &&Kept| kept.part.measured_since + kept.part.measured_s;
    let last = parts.values().max_by(|a, b| begin(a).total_cmp(&begin(b)))?;
    let first = parts.values().min_by(|a, b| end(a).total_cmp(&end(b)))?;
    let common = (end(&first) - begin(&last)).max(0.0);
    (common < IN_COMMON * longest).then(|| {
        format!(
            "only {common:.2} s of {longest:.2} s were measured by all, and {:.0} % is the least: {} began last, {} \
             ended first; --barrier and --start-at let all begin together",
            100.0 * IN_COMMON,
            last.file,
            first.file
        )
    })
}

/// Who had no answers for long while others had.
fn outages(parts: &BTreeMap<usize, Kept>, run: &Run, longest: f64) -> Option<String> {
    let others_had = |second: &&Second| second.messages > 0;
    let lost = |kept: &Kept| {
        let has_none = |second: &Second| kept.outages.iter().any(|outage| outage.holds(second));
        let seconds = run.window.series.iter().filter(others_had).filter(|second| has_none(second));
        seconds.map(|second| second.length.as_secs_f64()).sum::<f64>()
    };
    let (rank, longest_lost) =
        parts.iter().map(|(&rank, kept)| (rank, lost(kept))).max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    (longest_lost > (1.0 - IN_COMMON) * longest + 1e-9).then(|| {
        format!("rank {rank} had no answer for {longest_lost:.0} s of {longest:.2} s in which others had: they loaded alone")
    })
}
