//! The Test Anything Protocol, version 14 (testanything.org). What is known of a check beyond its title is a YAML block
//! behind it: JSON is YAML, so its texts are written as JSON has them.

use serde_json::{Value, json};

use super::{Entry, Sheet};
use crate::check::{examiner::Status, words::Language};

/// The sheet as TAP.
pub fn write(sheet: &Sheet) -> String {
    let mut text = format!("TAP version 14\n1..{}\n", sheet.entries.len());
    for (n, entry) in sheet.entries.iter().enumerate() {
        text += &point(entry, n + 1, sheet.language);
    }
    text
}

/// A line, and the block behind it.
fn point(entry: &Entry, n: usize, language: Language) -> String {
    let status = entry.status();
    let is_ok = matches!(status, Some(Status::Pass | Status::Warn | Status::Skip | Status::Unjudged));
    let ok = if is_ok { "ok" } else { "not ok" };
    let finding = entry.finding(language);
    let directive = match status {
        Some(Status::Skip | Status::Unjudged) => format!(" # SKIP {}", line(finding)),
        Some(Status::ExpectedFailure) => format!(" # TODO {}", line(finding)),
        _ => String::new(),
    };
    let mut text = format!("{ok} {n} - {}{directive}\n", line(&entry.heading(language)));
    if matches!(status, Some(Status::Pass | Status::Skip | Status::Unjudged)) {
        return text;
    }
    text += "  ---\n";
    add(&mut text, "status", entry.status_name());
    add(&mut text, "finding", finding.into());
    if let Some(record) = &entry.record {
        add(&mut text, "done", entry.check.done.told(language).into());
        add(&mut text, "hint", entry.check.hint.told(language).into());
        add(&mut text, "seed", record.seed.into());
        add(&mut text, "duration_ms", json!(entry.duration().as_millis()));
        let evidence = record.evidence(language);
        if !evidence.is_empty() {
            text += "  evidence:\n";
        }
        for (name, value) in &evidence {
            // Perl's own reader knows texts and figures, and nothing that is nested on a line.
            let is_nested = value.is_array() || value.is_object();
            let value = if is_nested { value.to_string().into() } else { value.clone() };
            text += &format!("    {name}: {value}\n");
        }
    }
    text + "  ...\n"
}

fn add(text: &mut String, name: &str, value: Value) {
    *text += &format!("  {name}: {value}\n");
}

/// A text as one line, in which nothing is a directive.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('\\', r"\\").replace('#', r"\#")
}
