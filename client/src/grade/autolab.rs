//! What Autolab reads (docs.autolabproject.com, "Guide for Lab Authors"): students see all that goes to stdout, and its
//! last line has the scores, by the names of the lab's problems. Those are the names of the checks.

use serde_json::{Map, Value, json};

use super::{Entry, Sheet, people};

/// The sheet for students, and the scores as its last line.
pub fn write(sheet: &Sheet) -> String {
    let counting = sheet.entries.iter().filter(|entry| entry.counts());
    let scores: Map<String, Value> =
        counting.map(|entry| (entry.check.id.to_owned(), entry.points().into())).collect();
    format!("{}{}\n", people::told(sheet, Entry::is_visible), json!({ "scores": scores }))
}
