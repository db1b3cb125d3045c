//! The report as Markdown, for a README or a pull request.

use super::{
    changes::Changes,
    method,
    page::times,
    view::{Standing, View},
};
use crate::compare::{
    results::Run,
    statistics::Estimate,
    table::{self, Form},
};

/// The findings, the matrix, and the tables.
pub fn of(view: &View, run: &Run) -> String {
    let mut text = String::from("## Which model, when\n\n");
    for finding in view.findings() {
        text += &format!("1. {}\n", plain(&finding.to_string()));
    }
    text += "\n| model |";
    for situation in &view.situations {
        text += &format!(" {}, {} |", situation.group.scenario.name(), situation.title);
    }
    text += &format!("\n|---|{}\n", "--:|".repeat(view.situations.len()));
    for name in &view.contenders {
        text += &format!("| {} |", plain(name));
        for situation in &view.situations {
            text += &format!(" {} |", plain(&standing(&situation.standing(name))));
        }
        text.push('\n');
    }
    text +=
        "\n≈: not told apart from the best; 2×: the best one's figure is twice as good [95 % interval].\n";
    view.changes.iter().for_each(|since| text += &changes(since));
    for situation in &view.situations {
        text += &format!(
            "\n## {}\n{}",
            situation.group.scenario.name(),
            table::of_group(&situation.group, Form::Markdown)
        );
    }
    let machine = method::machine(&method::environment(run));
    if !machine.is_empty() {
        text += &format!("\n{machine}\n");
    }
    if let Some(sitting) = run.sittings.first() {
        text += &format!("\n```\n{}\n```\n", sitting.command);
    }
    text
}

fn standing(standing: &Standing) -> String {
    let interval = |Estimate { low, high, .. }: &Estimate| format!("[{}, {}]", times(*low), times(*high));
    match standing {
        Standing::Best => "best".into(),
        Standing::AsGood(ratio) => format!("≈ {}", interval(ratio)),
        Standing::Worse(ratio) => format!("{}× {}", times(ratio.median), interval(ratio)),
        Standing::Better(ratio) => format!("{}× better {}", times(ratio.median), interval(ratio)),
        Standing::Unsaid => "?".into(),
        Standing::Void(reason) => format!("void: {reason}"),
        Standing::Absent => "–".into(),
    }
}

/// What became of an earlier run's figures.
fn changes(changes: &Changes) -> String {
    let mut text = format!("\n### What changed since {}\n\n", plain(&changes.since));
    text += "| model | situation | then | now | times better [95 %] | |\n|---|---|--:|--:|--:|---|\n";
    for row in &changes.rows {
        let gain = row.gain.map_or(String::new(), |gain| {
            format!("{} [{}, {}]", times(gain.median), times(gain.low), times(gain.high))
        });
        let (name, unit, verdict) = (plain(&row.contender), row.unit, row.verdict());
        let (then, now) = (unit.written(row.then.median), unit.written(row.now.median));
        text += &format!(
            "| {name} | {}, {} | {then} | {now} | {gain} | {verdict} |\n",
            row.scenario.name(),
            row.point
        );
    }
    text
}

/// Nobody's name is markup.
fn plain(text: &str) -> String {
    let mut written = String::new();
    for letter in text.chars() {
        match letter {
            '<' => written += "&lt;",
            '&' => written += "&amp;",
            '\n' | '\r' => written.push(' '),
            '|' | '*' | '_' | '`' | '\\' => written.extend(['\\', letter]),
            other => written.push(other),
        }
    }
    written
}
