//! A table, and of each failure three lines: what was done, what was seen, what to look for.

use std::collections::BTreeSet;

use comfy_table::{CellAlignment, ContentArrangement, Row, Table, presets};
use textwrap::{Options, WordSplitter, core::display_width};

use super::{Entry, Sheet};
use crate::{
    check::{Check, examiner::Status, words::Language},
    compare::table::folded,
};

/// How wide a terminal is taken to be.
const COLUMNS: usize = 80;
/// How many lines of the table a finding gets; behind the table is all of it.
const LINES: usize = 3;

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
        Some(Status::Unjudged) => ["unjudged", "未判定"],
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
    told(sheet, |_| true)
}

/// The same of some checks, and the sum of all.
pub fn told(sheet: &Sheet, is_shown: fn(&Entry) -> bool) -> String {
    let language = sheet.language;
    let shown: Vec<&Entry> = sheet.entries.iter().filter(|entry| is_shown(entry)).collect();
    let row = |entry: &&Entry| {
        let earned = if entry.counts() {
            format!("{}/{}", points(entry.points()), points(entry.max_points()))
        } else {
            "-".into()
        };
        [
            word(entry.status(), language).to_owned(),
            entry.check.id.to_owned(),
            earned,
            entry.finding(language).to_owned(),
        ]
    };
    let mut text = table(shown.iter().map(row).collect(), 2);
    let mut said = BTreeSet::new();
    for entry in shown {
        // A server that does not start has one cause, and every check finds it.
        if needs_words(entry) && said.insert(entry.finding(language)) {
            text += &paragraph(entry, language);
        }
    }
    format!("{text}\n{}\n", folded(&summary(sheet, |_| true), "", ""))
}

fn needs_words(entry: &Entry) -> bool {
    matches!(entry.status(), Some(Status::Fail | Status::Warn | Status::ExpectedFailure | Status::Error))
}

/// What was done, what was seen, and where to look.
fn paragraph(entry: &Entry, language: Language) -> String {
    let heading = format!("{} {}", word(entry.status(), language), entry.heading(language));
    let mut text = format!("\n{}\n", folded(&heading, "", "  "));
    for line in entry.told(language).lines() {
        let indent = 2 + line.chars().take_while(|character| *character == ' ').count();
        let [first, others] = [indent, indent + 4].map(|columns| " ".repeat(columns));
        text += &format!("{}\n", folded(line.trim_start(), &first, &others));
    }
    text
}

/// How many points some of the checks have, and how many of them came out how.
pub fn summary(sheet: &Sheet, is_told: fn(&Entry) -> bool) -> String {
    let told: Vec<&Entry> = sheet.entries.iter().filter(|entry| is_told(entry)).collect();
    let sum = |of: fn(&Entry) -> f64| points(told.iter().map(|entry| of(entry)).sum());
    let (score, most, seed) = (sum(Entry::points), sum(Entry::max_points), sheet.seed);
    let came_out = |status| told.iter().filter(|entry| entry.status() == status).count();
    let of = |status| came_out(Some(status));
    let counts = [
        (of(Status::Pass), "passed", "项通过"),
        (of(Status::Fail), "failed", "项失败"),
        (of(Status::Warn), "with a warning", "项有警告"),
        (of(Status::ExpectedFailure), "failed as expected", "项如预期失败"),
        (of(Status::Skip), "skipped", "项跳过"),
        (of(Status::Unjudged), "not judged", "项未判定"),
        (
            of(Status::Error),
            "could not be made: not the server's fault, check again",
            "项检查程序出错，与服务器无关，请重新检查",
        ),
        (came_out(None), "not run", "项未执行"),
        (sheet.entries.len() - told.len(), "not shown", "项不公开"),
    ];
    let counts = counts.into_iter().filter(|(count, ..)| *count > 0);
    match sheet.language {
        Language::En => {
            let counts: Vec<_> = counts.map(|(count, en, _)| format!("{count} {en}")).collect();
            format!("{score} of {most} points: {} (seed {seed})", counts.join(", "))
        }
        Language::Zh => {
            let counts: Vec<_> = counts.map(|(count, _, zh)| format!("{count} {zh}")).collect();
            format!("{most} 分中得 {score} 分：{}（种子 {seed}）", counts.join("，"))
        }
    }
}

/// The checks, and what each needs.
pub fn list(checks: &[&'static Check], language: Language) -> String {
    let row = |check: &&'static Check| {
        let quick = if check.is_quick { "quick" } else { "" };
        let title = check.title.told(language).to_owned();
        [check.id.to_owned(), check.needs.letter().into(), quick.into(), points(check.points), title]
    };
    let needs = match language {
        Language::En => {
            "B needs an address; P --pid too, or a command; S a command; R a command, and root or ptrace. \
             `check explain ID` says more"
        }
        Language::Zh => {
            "B 只需地址；P 还需要 --pid 或启动命令；S 需要启动命令；R 需要启动命令以及 root 或 ptrace。\
             check explain ID 有详细说明"
        }
    };
    format!("{}\n{}\n", table(checks.iter().map(row).collect(), 3), folded(needs, "", ""))
}

/// A table without lines, for a terminal of 80 columns: its last column is folded, and the one of that number holds
/// figures.
fn table<const N: usize>(rows: Vec<[String; N]>, figures: usize) -> String {
    let widest = |n: usize| rows.iter().map(|row| display_width(&row[n])).max().unwrap_or_default();
    let room = COLUMNS - (0..N - 1).map(|n| widest(n) + 2).sum::<usize>();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for mut cells in rows {
        cells[N - 1] =
            textwrap::fill(&cells[N - 1], Options::new(room).word_splitter(WordSplitter::NoHyphenation));
        let mut row = Row::from(cells);
        row.max_height(LINES);
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, if column.index < N - 1 { 2 } else { 0 }));
        if column.index == figures {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}
