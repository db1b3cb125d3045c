//! Everything, for programs.

use serde_json::{Value, json};

use super::Sheet;

/// Which form this is; a field that is gone, or means something else, makes it another.
const SCHEMA: u32 = 1;

/// The sheet as JSON.
pub fn write(sheet: &Sheet) -> String {
    let language = sheet.language;
    let check = |entry: &super::Entry| {
        let record = entry.record.as_ref();
        json!({
            "id": entry.check.id,
            "title": entry.title(language),
            "transport": entry.check.transport.name(),
            "status": entry.status_name(),
            "points": entry.points(),
            "max_points": entry.max_points(),
            "visibility": entry.marks.visibility,
            "finding": entry.finding(language),
            "evidence": record.map_or(Value::Null, |record| record.evidence(language).into()),
            "done": entry.check.done.told(language),
            "hint": entry.check.hint.told(language),
            "seed": record.map_or(sheet.seed, |record| record.seed),
            "duration_ms": entry.duration().as_millis(),
        })
    };
    let told = json!({
        "schema": SCHEMA,
        "title": sheet.title,
        "target": sheet.target,
        "seed": sheet.seed,
        "score": sheet.score(),
        "max_score": sheet.max_score(),
        "checks": sheet.entries.iter().map(check).collect::<Vec<_>>(),
    });
    format!("{told:#}\n")
}
