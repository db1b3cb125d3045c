//! The report as Markdown, for a README or a pull request.

use super::{
    changes::Changes,
    method,
    page::times,
    view::{Situation, Standing, View},
};
use crate::compare::{
    comparison::Ratio,
    results::Run,
    sentence,
    table::{self, Form},
    textbook,
};

/// The findings, the matrix, and the tables.
pub fn of(run: &Run, earlier: &[(String, Run)]) -> String {
    let earlier: Vec<(String, Run)> =
        earlier.iter().map(|(name, run)| (plain(name), in_words(run))).collect();
    let view = View::of(&in_words(run), &earlier);
    let mut text = String::from("## Which model, when\n\n");
    text += &view.findings().iter().map(|finding| format!("1. {finding}\n")).collect::<String>();
    text += &matrix(&view);
    text += "\n≈: not told apart from the best; 2×: the best one's figure is twice as good. In brackets the interval\n\
             of that ratio, as wide as the number of all comparisons demands.\n";
    text += &view.changes.iter().map(changes).collect::<String>();
    let of_situation = |it: &Situation| {
        let of_pair = it.pair.as_ref().map_or(String::new(), |pair| table::of_pair(pair, Form::Markdown));
        table::of_group(&it.group, Form::Markdown) + &of_pair + &textbook::table(&it.group, Form::Markdown)
    };
    for section in &view.sections {
        let situations = || section.situations.iter().map(|&n| &view.situations[n]);
        text += &situations().map(of_situation).collect::<String>();
        text += &sentence::left_out(situations().map(|it| &it.group))
            .map_or(String::new(), |left_out| format!("\n{left_out}\n"));
    }
    let laws = view.sections.iter().map(|it| table::of_laws(it.scenario, &it.laws, Form::Markdown));
    text += &laws.collect::<String>();
    let machine = method::machine(&method::environment(run));
    if !machine.is_empty() {
        text += &format!("\n{machine}\n");
    }
    if let Some(sitting) = run.sittings.first() {
        text += &format!("\n```\n{}\n```\n", sitting.command);
    }
    text
}

/// Nobody's words are markup: neither a contender's name nor a reason, in which a server may have its say.
fn in_words(run: &Run) -> Run {
    let mut run = run.clone();
    for cell in &mut run.cells {
        (cell.contender, cell.reason) = (plain(&cell.contender), plain(&cell.reason));
    }
    for name in run.plan.trial.iter_mut().flat_map(|trial| &mut trial.contenders) {
        *name = plain(name);
    }
    run
}

fn matrix(view: &View) -> String {
    let heads = view.situations.iter().map(|it| format!(" {}, {} |", it.group.scenario.name(), it.title));
    let mut text = format!("\n| model |{}\n", heads.collect::<String>());
    text += &format!("|---|{}\n", "--:|".repeat(view.situations.len()));
    for name in &view.contenders {
        let standings = view.situations.iter().map(|it| format!(" {} |", standing(&it.standing(name))));
        text += &format!("| {name} |{}\n", standings.collect::<String>());
    }
    text
}

fn standing(standing: &Standing) -> String {
    let interval = |Ratio { low, high, .. }: &Ratio| format!("[{}, {}]", times(*low), times(*high));
    match standing {
        Standing::Best => "best".into(),
        Standing::AsGood(ratio) => format!("≈ {}", interval(ratio)),
        Standing::Unsure(ratio) => format!("? {}", interval(ratio)),
        Standing::Worse(ratio) => format!("{}× {}", times(ratio.middle), interval(ratio)),
        Standing::Better(ratio) => format!("{}× better {}", times(ratio.middle), interval(ratio)),
        Standing::Unsaid => "?".into(),
        Standing::Void(reason) => format!("void: {reason}"),
        Standing::LeftOut(_) | Standing::Absent => "–".into(),
    }
}

/// What became of an earlier run's figures.
fn changes(changes: &Changes) -> String {
    let mut text = format!("\n### What changed since {}\n\n", changes.since);
    text += "| model | situation | then | now | times better | |\n|---|---|--:|--:|--:|---|\n";
    for row in &changes.rows {
        let gain = row.gain.map_or(String::new(), |gain| {
            format!("{} [{}, {}]", times(gain.middle), times(gain.low), times(gain.high))
        });
        let (name, unit, verdict) = (&row.contender, row.unit, row.verdict());
        let (then, now) = (unit.written(row.then.median), unit.written(row.now.median));
        text += &format!(
            "| {name} | {}, {} | {then} | {now} | {gain} | {verdict} |\n",
            row.scenario.name(),
            row.point
        );
    }
    text
}

/// Without what Markdown or HTML would take for its own.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_markdown_would_take_for_its_own_is_written_as_words() {
        assert_eq!(plain("<b>a|b*c_d`e`\\&\n"), "&lt;b>a\\|b\\*c\\_d\\`e\\`\\\\&amp; ");
    }
}
