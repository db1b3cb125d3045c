//! Which results may be merged: those of all ranks of one run, who asked for the same at the same time.

use std::{collections::BTreeSet, fmt::Display, fs, path::Path};

use serde_json::Value;

use crate::{
    cmd::load::{Placed, Run, SCHEMA, Subject, Summary},
    load::Rank,
};

/// A result that was read.
pub struct Told {
    /// Where it was.
    file: String,
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

    /// When its measured time began and ended, in seconds since 1970.
    fn window(&self) -> (f64, f64) {
        let Summary { measured_since, measured_s, .. } = self.summary;
        (measured_since, measured_since + measured_s)
    }
}

/// The share of the longest measured time that all have to have in common. What lies outside of it was measured under
/// less than the whole load; ranks that met begin within milliseconds of each other.
const IN_COMMON: f64 = 0.9;

/// What ranks of one run may have chosen for themselves: see [`crate::load::Plan::lanes`].
const OWN: [&str; 2] = ["threads", "engine"];

/// The results in the order of their ranks, where they may be merged.
///
/// # Errors
/// A sentence for the user, where they may not.
pub fn of(mut parts: Vec<Told>) -> Result<Vec<Told>, String> {
    if let Some((first, others)) = parts.split_first() {
        others.iter().find_map(|other| difference(first, other)).map_or(Ok(()), Err)?;
    }
    parts.sort_by_key(|told| told.rank);
    let double = parts.windows(2).find(|pair| pair[0].rank == pair[1].rank);
    if let Some([one, other]) = double {
        return Err(format!("rank {} is there twice: {} and {}", one.rank.rank, one.file, other.file));
    }
    let ranks = parts.first().map_or(0, |told| told.rank.ranks);
    let there: BTreeSet<usize> = parts.iter().map(|told| told.rank.rank).collect();
    let missing: Vec<usize> = (0..ranks).filter(|rank| !there.contains(rank)).collect();
    if !missing.is_empty() {
        return Err(format!("no result of {} of {ranks}", Rank::list(&missing)));
    }
    apart(&parts).map_or(Ok(parts), Err)
}

/// What two results do not have in common, and should.
fn difference(one: &Told, other: &Told) -> Option<String> {
    let ((a, b), (x, y)) = ((&one.file, &other.file), (&one.summary.subject, &other.summary.subject));
    let differs = |name: &str, of_one: &str, of_other: &str| {
        (of_one != of_other).then(|| format!("{a} and {b} differ in {name}: {of_one} and {of_other}"))
    };
    let setting =
        |subject: &Subject, name: &str| subject.settings.get(name).unwrap_or(&Value::Null).to_string();
    let names: BTreeSet<&String> = x.settings.keys().chain(y.settings.keys()).collect();
    differs("the number of ranks", &one.rank.ranks.to_string(), &other.rank.ranks.to_string())
        .or_else(|| differs("the server", &x.endpoint, &y.endpoint))
        .or_else(|| {
            let mut names = names.into_iter().filter(|name| !OWN.contains(&name.as_str()));
            names.find_map(|name| differs(name, &setting(x, name), &setting(y, name)))
        })
        .or_else(|| (x.run != y.run).then(|| format!("{a} and {b} are of different runs")))
}

/// Who did not measure at the same time as the others.
fn apart(parts: &[Told]) -> Option<String> {
    let last = parts.iter().max_by(|a, b| a.window().0.total_cmp(&b.window().0))?;
    let first = parts.iter().min_by(|a, b| a.window().1.total_cmp(&b.window().1))?;
    let longest = parts.iter().map(|told| told.summary.measured_s).fold(0.0, f64::max);
    let common = (first.window().1 - last.window().0).max(0.0);
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
