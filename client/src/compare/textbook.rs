//! The textbook's table: one job, done serially, by threads and by processes, in each language that is there.

use comfy_table::Table;

use super::{
    comparison::LEAST_BLOCKS,
    contender::Style,
    scenario::Scenario,
    table::Form,
    verdict::{Group, Line},
};
use crate::cmd::load::UNKNOWN;

/// The columns, the one that the others are compared with first.
const STYLES: [(Style, &str); 3] =
    [(Style::OneLoop, "one loop"), (Style::Threads, "threads"), (Style::Processes, "processes")];

/// The table of a point of `cpu`; nothing where no language has a single loop and another style.
pub fn table(group: &Group, form: Form) -> String {
    let rows = rows(group);
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.set_header(HEADS);
    let (cells, names): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    table.add_rows(cells);
    format!("{}{}\n{}", form.heading(TITLE), form.draw(table), form.notes(&names))
}

/// What it is called.
pub const TITLE: &str = "serially, by threads, by processes: times the single loop [interval]";

/// The heads of its columns.
pub const HEADS: [&str; 4] = ["msgs/s", STYLES[0].1, STYLES[1].1, STYLES[2].1];

/// A row a language, and who stands in it; nothing but of `cpu`.
pub fn rows(group: &Group) -> Vec<(Vec<String>, String)> {
    if group.scenario != Scenario::Cpu {
        return Vec::new();
    }
    let mut languages: Vec<&str> = group.lines.iter().map(|line| line.language.as_str()).collect();
    languages.sort_by_key(|language| (*language != OURS, *language));
    languages.dedup();
    languages.into_iter().filter_map(|language| row(group, language)).collect()
}

/// In which language ours are.
pub const OURS: &str = "Rust";

/// A language's row, and who stands in it.
fn row(group: &Group, language: &str) -> Option<(Vec<String>, String)> {
    // The lines come in the order of their figures, the best first.
    let best = |style| {
        let mut of_it = group.lines.iter().filter(|line| line.language == language);
        of_it.find(|line| line.style == Some(style) && line.figure.is_some())
    };
    let serial = best(Style::OneLoop)?;
    let all: Vec<Option<&Line>> = STYLES.iter().map(|&(style, _)| best(style)).collect();
    let written = |line: &Line| {
        let Some(rate) = line.figure.map(|figure| figure.median) else { return UNKNOWN.into() };
        match times(group, line, serial) {
            Some(times) => format!("{rate:.0} {times}"),
            None => format!("{rate:.0}"),
        }
    };
    let cells = all.iter().map(|line| line.map_or(UNKNOWN.into(), written));
    let names: Vec<&str> = all.iter().flatten().map(|line| line.contender.as_str()).collect();
    (names.len() > 1).then(|| {
        (
            [language.to_owned()].into_iter().chain(cells).collect(),
            format!("{language}: {}", names.join(", ")),
        )
    })
}

/// How many times the single loop's figure a line's is, within blocks.
fn times(group: &Group, line: &Line, serial: &Line) -> Option<String> {
    if line.contender == serial.contender {
        return None;
    }
    let verdict =
        group.verdicts.iter().find(|it| it.is_about(&line.contender) && it.is_about(&serial.contender))?;
    let ratio = if verdict.leader == line.contender { verdict.ratio } else { verdict.ratio.inverse() };
    (verdict.pairs >= LEAST_BLOCKS)
        .then(|| format!("x{:.2} [{:.2}, {:.2}]", ratio.middle, ratio.low, ratio.high))
}
