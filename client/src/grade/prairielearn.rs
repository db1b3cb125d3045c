//! PrairieLearn's results.json (docs.prairielearn.com, "External grading").

use serde_json::{Value, json};

use super::{Entry, Sheet, people};
use crate::check::words::Language;

/// The sheet as PrairieLearn reads it. Students read all of it.
pub fn write(sheet: &Sheet) -> String {
    let most = sheet.max_score();
    // Nothing could be made, so nothing was found: that costs no student an attempt.
    let is_gradable = most > 0.0;
    let mut told = json!({
        "gradable": is_gradable,
        "score": if is_gradable { sheet.score() / most } else { 0.0 },
        "message": people::summary(sheet, |_| true),
        "tests": sheet.entries.iter().map(|entry| test(entry, sheet.language)).collect::<Vec<_>>(),
    });
    if !is_gradable {
        told["format_errors"] = people::summary(sheet, |_| true).into();
    }
    format!("{told:#}\n")
}

fn test(entry: &Entry, language: Language) -> Value {
    let is_visible = entry.is_visible();
    let for_students = |text: &str| if is_visible { text.to_owned() } else { String::new() };
    json!({
        "name": entry.public_heading(language),
        "description": for_students(entry.check.done.told(language)),
        "points": entry.points(),
        "max_points": entry.max_points(),
        "message": people::word(entry.status(), language),
        "output": for_students(&entry.told(language)),
    })
}
