//! A table, and of each failure three lines: what was done, what was seen, what to look for.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

use super::{Entry, Sheet};
use crate::check::{Check, examiner::Status, words::Language};

/// How wide a terminal is taken to be.
const COLUMNS: u16 = 80;

/// What stands before what was done, what was seen, and where to look.
pub fn headings(language: Language) -> [&'static str; 3] {
    match language {
        Language::En => ["done: ", "seen: ", "look: "],
        Language::Zh => ["做了什么：", "看到什么：", "检查哪里："],
    }
}

/// A status in a word.
pub fn word(status: Option<Status>, language: Language) -> &'static str {
    let [en, zh] = match status {
        Some(Status::Pass) => ["pass", "通过"],
        Some(Status::Fail) => ["FAIL", "失败"],
        Some(Status::Warn) => ["warn", "警告"],
        Some(Status::ExpectedFailure) => ["expected", "预期失败"],
        Some(Status::Skip) => ["skip", "跳过"],
        Some(Status::Error) => ["ERROR", "出错"],
        None => ["not run", "未执行"],
    };
    match language {
        Language::En => en,
        Language::Zh => zh,
    }
}

/// Points as people write them: `2`, `2.5`.
pub fn points(points: f64) -> String {
    format!("{}", (points * 100.0).round() / 100.0)
}

/// The sheet, for a terminal of 80 columns.
pub fn write(sheet: &Sheet) -> String {
    let language = sheet.language;
    let mut table = plain();
    for entry in &sheet.entries {
        let earned = if entry.counts() {
            format!("{}/{}", points(entry.points()), points(entry.max_points()))
        } else {
            "-".into()
        };
        table.add_row(vec![
            word(entry.status(), language).to_owned(),
            entry.check.id.to_owned(),
            earned,
            entry.finding(language).to_owned(),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if column.index == 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if column.index < 3 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        } else {
            column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(COLUMNS)));
        }
    }
    let mut text = format!("{}\n", table.trim_fmt());
    let needs_words = |entry: &&Entry| {
        matches!(entry.status(), Some(Status::Fail | Status::Warn | Status::ExpectedFailure | Status::Error))
    };
    for entry in sheet.entries.iter().filter(needs_words) {
        let told = entry.told(language);
        let id = entry.check.id;
        text += &format!("\n{} {id}: {}\n", word(entry.status(), language), entry.title(language));
        for line in told.lines() {
            text += &format!("  {line}\n");
        }
    }
    text + &sum(sheet)
}

/// The checks, and what each needs.
pub fn list(checks: &[&'static Check], language: Language) -> String {
    let mut table = plain();
    for check in checks {
        let quick = if check.is_quick { "quick" } else { "" };
        let title = check.title.told(language).to_owned();
        table.add_row(vec![
            check.id.to_owned(),
            check.needs.letter().into(),
            quick.into(),
            points(check.points),
            title,
        ]);
    }
    let needs = match language {
        Language::En => {
            "B an address; P --pid; S a command; R a command, and root or ptrace. check explain ID says more"
        }
        Language::Zh => {
            "B 只需地址；P 需要 --pid；S 需要启动命令；R 需要启动命令以及 root 或 ptrace。check explain ID 有详细说明"
        }
    };
    format!("{}\n\n{needs}\n", table.trim_fmt())
}

/// A table without lines, for a terminal of 80 columns.
fn plain() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(COLUMNS);
    table
}

fn sum(sheet: &Sheet) -> String {
    let (score, most) = (points(sheet.score()), points(sheet.max_score()));
    let [passed, failed, skipped] =
        [Status::Pass, Status::Fail, Status::Skip].map(|status| sheet.count(status));
    match sheet.language {
        Language::En => {
            format!("\n{score} of {most} points: {passed} passed, {failed} failed, {skipped} skipped\n")
        }
        Language::Zh => {
            format!("\n{most} 分中得 {score} 分：{passed} 项通过，{failed} 项失败，{skipped} 项跳过\n")
        }
    }
}
