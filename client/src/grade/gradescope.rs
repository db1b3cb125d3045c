//! Gradescope's results.json (gradescope-autograders.readthedocs.io, "Autograder Specifications").

use serde_json::{Value, json};

use super::{Entry, Sheet, people};
use crate::check::{examiner::Status, words::Language};

/// The sheet as Gradescope reads it. What `check` prints is the teacher's alone: it tells of hidden checks too.
pub fn write(sheet: &Sheet) -> String {
    let number = |(n, entry): (usize, &Entry)| test(entry, n + 1, sheet.language);
    let seen = sheet.entries.iter().filter(|entry| entry.is_visible());
    let told = json!({
        "score": sheet.score(),
        "execution_time": sheet.duration().as_secs_f64().round(),
        "output": people::summary(sheet, Entry::is_visible),
        "stdout_visibility": "hidden",
        "tests": sheet.entries.iter().enumerate().map(number).collect::<Vec<_>>(),
        // Everybody sees the leaderboard, as what is put out: so what is hidden is in neither.
        "leaderboard": [{ "name": "Points", "value": seen.map(Entry::points).sum::<f64>() }],
    });
    format!("{told:#}\n")
}

fn test(entry: &Entry, n: usize, language: Language) -> Value {
    let mut name = entry.heading(language);
    let status = match entry.status() {
        Some(Status::Pass | Status::Warn) => Some("passed"),
        Some(Status::Fail | Status::Unjudged | Status::Error) | None => Some("failed"),
        // It is neither, and Gradescope knows no third: its name says so.
        Some(Status::Skip | Status::ExpectedFailure) => {
            name = format!("{name} ({})", people::word(entry.status(), language));
            None
        }
    };
    let mut test = json!({
        "score": entry.points(),
        "max_score": entry.max_points(),
        "name": name,
        "number": n.to_string(),
        "output": entry.told(language),
        "visibility": entry.marks.visibility,
    });
    if let Some(status) = status {
        test["status"] = status.into();
    }
    test
}
