//! A step's output for GitHub Classroom's reporter (classroom-resources/autograding-grading-reporter): `result=`, and
//! JSON in base64. A step's outputs are lines of the file that GITHUB_OUTPUT names, of which the last one with a
//! name counts.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Entry, Sheet};
use crate::check::{examiner::Status, words::Language};

/// How much is told of each check: all of it travels in one variable of the environment, of at most 128 KiB
/// (execve(2), MAX_ARG_STRLEN).
const TOLD: usize = 600;

/// The sheet as one line. Everybody reads it, and it knows only what counts.
pub fn write(sheet: &Sheet) -> String {
    let is_told = |entry: &&Entry| entry.counts() || entry.status() == Some(Status::Error);
    let told: Vec<&Entry> = sheet.entries.iter().filter(is_told).collect();
    let has = |status: &&str| told.iter().any(|entry| status_of(entry) == *status);
    let status = ["error", "fail"].into_iter().find(|status| has(status)).unwrap_or("pass");
    let result = json!({
        "version": 1,
        "status": status,
        "max_score": sheet.max_score(),
        "tests": told.iter().map(|entry| test(entry, sheet.language)).collect::<Vec<_>>(),
    });
    format!("result={}\n", STANDARD.encode(result.to_string()))
}

fn status_of(entry: &Entry) -> &'static str {
    match entry.status() {
        Some(Status::Fail | Status::Unjudged) | None => "fail",
        Some(Status::Error) => "error",
        Some(Status::Pass | Status::Warn | Status::Skip | Status::ExpectedFailure) => "pass",
    }
}

fn test(entry: &Entry, language: Language) -> Value {
    let (mut message, mut code) = (Value::Null, "");
    if entry.is_visible() {
        code = entry.check.done.told(language);
        if status_of(entry) != "pass" {
            let finding: String = entry.finding(language).chars().take(TOLD).collect();
            message = format!("{finding}\n{}", entry.check.hint.told(language)).into();
        }
    }
    json!({
        "name": entry.public_heading(language),
        "status": status_of(entry),
        "score": entry.points(),
        "message": message,
        "test_code": code,
        "filename": "",
        "line_no": 0,
        "execution_time": entry.duration().as_millis() as u64,
    })
}
