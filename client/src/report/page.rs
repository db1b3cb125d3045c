//! The page: one file that asks nobody for anything.

use base64::{Engine, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::{
    changes::{Change, Changes},
    chart::Chart,
    csv, draw, method,
    section::Section,
    view::{Situation, Standing, View},
};
use crate::compare::{comparison::Ratio, pair::Pair, results::Run, sentence, table, textbook};

const LIGHT: &str = include_str!("light.css");
const DARK: &str = include_str!("dark.css");
const CHART: &str = include_str!("chart.css");
const PAGE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What keeps the page from asking anybody for anything, should a name ever get out of its quotes.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/// The style of a chart that is a file of its own.
pub fn style_of_a_file() -> String {
    format!(".alone{{{LIGHT}}}@media (prefers-color-scheme:dark){{.alone{{{DARK}}}}}{CHART}")
}

fn style() -> String {
    format!(
        ":root{{{LIGHT}}}@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{DARK}}}}}\
         :root[data-theme=dark]{{{DARK}}}@media print{{:root,:root[data-theme=dark],:root:not([data-theme=light]){{{LIGHT}}}}}\
         {CHART}{PAGE}"
    )
}

/// The whole page.
///
/// # Errors
/// Where the rows cannot be written, which memory always takes.
pub fn of(view: &View, run: &Run) -> Result<String, String> {
    let rows = csv::compressed(&run.cells)?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="color-scheme" content="light dark";
                title { "Which model, when: echo servers compared" }
                link rel="icon" href="data:,";
                style { (PreEscaped(style())) }
            }
            body {
                (draw::shared())
                a.skip href="#matrix" { "To the matrix" }
                (header(view, run))
                main {
                    (matrix(view))
                    @for changes in &view.changes { (self::changes(changes)) }
                    @for section in &view.sections { (self::section(section, view)) }
                    (environment(run))
                    (method())
                    section #rows {
                        h2 { "Raw rows" }
                        p {
                            "One row a cell, " (run.cells.len()) " of them; everything above is a view of these. "
                            a download="cells.csv.gz" href=(format!("data:application/gzip;base64,{}", STANDARD.encode(rows))) {
                                "Download the rows (CSV, gzip)"
                            }
                            ". The histograms of their latencies are in cells.csv, beside this page."
                        }
                    }
                    (again(run))
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

fn header(view: &View, run: &Run) -> Markup {
    let machine = method::machine(&method::environment(run));
    html! {
        header {
            div.top {
                p.eyebrow { "echo-client compare" @if !machine.is_empty() { " · " (machine) } }
                button.theme type="button" aria-pressed="false" hidden { "Dark" }
            }
            h1 { "Which model, when" }
            ol.findings { @for finding in view.findings() { li { small { (finding.about) } (finding.sentence) } } }
        }
    }
}

/// Who stands where.
fn matrix(view: &View) -> Markup {
    html! {
        section #matrix {
            h2.quiet { "Every model in every situation" }
            p.note {
                b { "best" } " has the best figure; " b { "≈ best" } " is not told apart from it, and surely not half as bad again; " b { "?" } " may be; " b { "2× worse" }
                ": the best one’s figure is twice as good. In brackets the interval of that ratio, as wide as the number of all comparisons demands."
            }
            (cards(view))
            div.scroll.wide tabindex="0" role="region" aria-label="Matrix of models and situations" {
                table.matrix style=(format!("--n:{}", view.situations.len())) {
                    thead {
                        tr {
                            th rowspan="2" scope="col" { "Model" }
                    @for section in &view.sections {
                                th scope="colgroup" colspan=(section.situations.len()) {
                                    a href=(format!("#{}", section.scenario.name())) { (section.scenario.name()) }
                                    small { (section.figure) }
                                }
                            }
                        }
                        tr {
                            @for situation in &view.situations {
                                th.point scope="col" { (situation.title) }
                            }
                        }
                    }
                    tbody {
                        @for name in &view.contenders {
                            tr {
                                th scope="row" { (name) }
                                @for situation in &view.situations {
                                    @let (class, said) = standing(&situation.standing(name), situation);
                                    td class=(class) { (said) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How many characters of a reason the matrix has room for.
const REASON: usize = 30;

/// What a standing looks like, and what it says.
fn standing(standing: &Standing, situation: &Situation) -> (&'static str, Markup) {
    match standing {
        Standing::Best => ("best", html! { b { "best" } small { (situation.best_figure()) } }),
        Standing::AsGood(ratio) => ("good", html! { "≈ best" (interval(*ratio)) }),
        Standing::Unsure(ratio) => ("void", html! { "?" (interval(*ratio)) }),
        Standing::Worse(ratio) => ("", html! { (times(ratio.middle)) "× worse" (interval(*ratio)) }),
        Standing::Better(ratio) => ("good", html! { (times(ratio.middle)) "× better" (interval(*ratio)) }),
        Standing::Unsaid => ("void", html! { "?" small { "too few blocks" } }),
        Standing::Void(reason) => ("void", html! { "void" small title=(reason) { (cut(reason)) } }),
        Standing::LeftOut(reason) => (
            "void",
            html! { span title=(reason) aria-hidden="true" { "–" } span.unseen { "left out: " (reason) } },
        ),
        Standing::Absent => ("void", html! { span aria-hidden="true" { "–" } span.unseen { "not entered" } }),
    }
}

/// The same for a narrow screen: a card for each situation, who is best first.
fn cards(view: &View) -> Markup {
    html! {
        div.cards {
            @for situation in &view.situations {
                article {
                    h3 { (situation.group.scenario.name()) ", " (situation.title) }
                    ol {
                        @for line in situation.group.there() {
                            @let (class, said) = standing(&situation.standing(&line.contender), situation);
                            li { span.who { (line.contender) } span class=(class) { (said) } }
                        }
                    }
                }
            }
        }
    }
}

fn interval(ratio: Ratio) -> Markup {
    html! { small { "[" (times(ratio.low)) ", " (times(ratio.high)) "]" } }
}

/// A ratio with as many digits as say something.
pub fn times(ratio: f64) -> String {
    match ratio {
        _ if ratio.is_infinite() => "∞".into(),
        _ if ratio >= 1000.0 => ">1000".into(),
        _ if ratio < 10.0 => format!("{ratio:.2}"),
        _ if ratio < 100.0 => format!("{ratio:.1}"),
        _ => format!("{ratio:.0}"),
    }
}

/// A reason in short: what stands before its details.
fn cut(reason: &str) -> String {
    let reason = reason.split_once(": ").map_or(reason, |(short, _)| short);
    match reason.chars().count() > REASON {
        true => reason.chars().take(REASON - 1).collect::<String>() + "…",
        false => reason.into(),
    }
}

/// What became of an earlier run's figures: those that are sure, and below them all.
fn changes(changes: &Changes) -> Markup {
    let sure = || changes.rows.iter().filter(|row| matches!(row.verdict(), "better" | "worse"));
    html! {
        section.changes {
            h2 { "What changed since " (changes.since) }
            p {
                "Of " (changes.rows.len()) " figures that both runs have, " (changes.count("better")) " are better now, "
                (changes.count("worse")) " worse, and " (changes.count("not told apart")) " not told apart."
                @if let Some(common) = changes.common() {
                    " In the middle they are " (times(common)) " times as good as then: what all have in common is the \
                     machine’s doing, and no interval knows of it."
                }
            }
            @if !changes.surroundings.is_empty() {
                p {
                    "The surroundings differ: "
                    @for (n, (name, then, now)) in changes.surroundings.iter().enumerate() {
                        @if n > 0 { "; " } (name) " " (then) " → " (now)
                    }
                    "."
                }
            }
            @if sure().next().is_some() { (table_of_changes("Figures that changed", sure())) }
            details {
                summary { "All of them" }
                (table_of_changes("All figures, then and now", changes.rows.iter()))
            }
        }
    }
}

fn table_of_changes<'a>(label: &str, rows: impl Iterator<Item = &'a Change>) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table {
                thead {
                    tr {
                        @for head in ["model", "situation", "then", "now", "times better", ""] {
                            th scope="col" { (head) }
                        }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { (row.contender) }
                            td { (row.scenario.name()) ", " (row.point) }
                            td { (row.unit.written(row.then.median)) }
                            td { (row.unit.written(row.now.median)) }
                            td {
                                @if let Some(gain) = row.gain {
                                    (times(gain.middle)) " [" (times(gain.low)) ", " (times(gain.high)) "]"
                                }
                            }
                            td { (row.verdict()) }
                        }
                    }
                }
            }
        }
    }
}

/// A scenario: charts, and the tables of its points.
fn section(section: &Section, view: &View) -> Markup {
    let name = section.scenario.name();
    let situations = || section.situations.iter().map(|&n| &view.situations[n]);
    html! {
        section.scenario id=(name) aria-labelledby=(format!("{name}-name")) {
            p.eyebrow { (name) }
            h2 id=(format!("{name}-name")) { (section.scenario.character().title) }
            p.about { (section.scenario.character().shows) }
            ul.notes.said {
                @for situation in situations() {
                    @if let Some(said) = sentence::of_point(&situation.group) {
                        li { b { (situation.title) } ": " (said) "." }
                    }
                }
                @if let Some(left_out) = sentence::left_out(situations().map(|it| &it.group)) {
                    li { (left_out) "." }
                }
            }
            @for situation in situations() { (textbook_table(situation)) }
            (legend(section, view))
            div.charts { @for chart in &section.charts { (figure(chart, &view.contenders)) } }
            (table_of_laws(section))
            @for situation in situations() { (table_of(situation)) }
        }
    }
}

/// The textbook's table, where the situation has one.
fn textbook_table(situation: &Situation) -> Markup {
    let rows = textbook::rows(&situation.group);
    html! {
        @if !rows.is_empty() {
            h3 { (situation.title) ", " (textbook::TITLE) }
            div.scroll.textbook tabindex="0" role="region" aria-label=(format!("The textbook’s table, {}", situation.title)) {
                table {
                    thead { tr { @for head in textbook::HEADS { th scope="col" { (head) } } } }
                    tbody {
                        @for (row, who) in &rows {
                            tr { th scope="row" { (row[0]) small { (who.split_once(": ").map_or(who.as_str(), |(_, names)| names)) } } @for entry in &row[1..] { td { (entry) } } }
                        }
                    }
                }
            }
        }
    }
}

/// The series' switches, which are the key to their colours and marks.
fn legend(section: &Section, view: &View) -> Markup {
    let here = |number: usize| {
        section.charts.iter().any(|chart| chart.series.iter().any(|series| series.contender == number))
    };
    html! {
        div.legend role="group" aria-label=(format!("Series of {}", section.scenario.name())) {
            @for (number, name) in view.contenders.iter().enumerate().filter(|(number, _)| here(*number)) {
                button type="button" aria-pressed="true" data-of=(number) { (draw::key(number)) (name) }
            }
        }
    }
}

fn figure(chart: &Chart, names: &[String]) -> Markup {
    html! {
        figure id=(chart.id) {
            figcaption {
                h3 id=(format!("{}-title", chart.id)) { (chart.title) }
                p.unseen id=(format!("{}-about", chart.id)) { (chart.about) }
            }
            div.plot tabindex="0" role="application"
                aria-label=(format!("{}. Arrow keys walk along the points; a table follows.", chart.title)) {
                (draw::inline(chart, names))
                output.tip hidden {}
            }
            details {
                summary { "Table" span.unseen { " of " (chart.title) } }
                (table_behind(chart, names))
            }
        }
    }
}

fn table_behind(chart: &Chart, names: &[String]) -> Markup {
    let columns = chart.columns();
    html! {
        div.scroll tabindex="0" role="region" aria-label=(format!("Table: {}", chart.title)) {
            table {
                thead { tr { th scope="col" { "model" } @for column in &columns { th scope="col" { (column) } } } }
                tbody {
                    @for series in &chart.series {
                        tr {
                            th scope="row" { (names[series.contender]) }
                            @for column in &columns { td { (chart.entry(series, column)) } }
                        }
                    }
                }
            }
        }
    }
}

/// How the scenario's contenders scale, with the doubts.
fn table_of_laws(section: &Section) -> Markup {
    let (rows, notes) = table::written_laws(&section.laws.iter().collect::<Vec<_>>());
    html! {
        @if !section.laws.is_empty() {
            details.figures {
                summary { "How they scale: " (table::TITLE_OF_LAWS) }
                div.scroll tabindex="0" role="region" aria-label=(format!("The law of {}", section.scenario.name())) {
                    table {
                        thead { tr { @for head in table::HEADS_OF_LAWS { th scope="col" { (head) } } } }
                        tbody {
                            @for row in &rows {
                                tr { th scope="row" { (row[0]) } @for entry in &row[1..] { td { (entry) } } }
                            }
                        }
                    }
                }
                ul.notes { @for note in notes { li { (note) } } }
                p.note { "Dotted lines in the chart of throughput are the laws that are trusted." }
            }
        }
    }
}

/// All figures of one point, what is said of them, and what does not count.
fn table_of(situation: &Situation) -> Markup {
    let group = &situation.group;
    let (head, rows) = table::written(group, table::Form::Markdown);
    html! {
        details.figures {
            summary { "All figures, " (situation.title) }
            div.scroll tabindex="0" role="region" aria-label=(format!("Figures of {}, {}", group.scenario.name(), situation.title)) {
                table {
                    thead { tr { @for name in &head { th scope="col" { (name) } } } }
                    tbody {
                        @for row in &rows {
                            tr { th scope="row" { (row[0]) } @for entry in &row[1..] { td { (entry) } } }
                        }
                    }
                }
            }
            @if let Some(pair) = &situation.pair { (table_of_a_pair(pair)) }
            ul.notes { @for note in table::notes(group) { li { (note) } } }
            p.note { (table::legend(group.scenario)) (table::LEGEND_OF_A_PAGE) }
        }
    }
}

fn table_of_a_pair(pair: &Pair) -> Markup {
    html! {
        h3 { (table::TITLE_OF_A_PAIR) }
        div.scroll tabindex="0" role="region" aria-label=(table::TITLE_OF_A_PAIR) {
            table {
                thead { tr { @for head in table::heads_of_a_pair(pair) { th scope="col" { (head) } } } }
                tbody {
                    @for row in table::rows_of_a_pair(pair) {
                        tr { th scope="row" { (row[0]) } @for entry in &row[1..] { td { (entry) } } }
                    }
                }
            }
        }
    }
}

fn environment(run: &Run) -> Markup {
    html! {
        section #environment {
            h2 { "Environment" }
            @for sitting in &run.sittings {
                p.note {
                    "Begun " (sitting.began)
                    @if let Some(took) = sitting.took_s { ", took " (format!("{took:.0}")) " s" }
                }
                @if let Value::Object(fields) = &sitting.environment {
                    dl {
                        @for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                            div { dt { (name.replace('_', " ")) } dd { (method::plain(value)) } }
                        }
                    }
                }
            }
        }
    }
}

fn method() -> Markup {
    html! {
        section #method {
            h2 { "Method" }
            @for paragraph in method::METHOD { p { (paragraph) } }
        }
        section #biases {
            h2 { "Biases" }
            ul { @for bias in method::BIASES { li { (bias) } } }
        }
    }
}

fn again(run: &Run) -> Markup {
    let plan = run.plan.to_toml().unwrap_or_default();
    html! {
        section #again {
            h2 { "Again" }
            @if let Some(sitting) = run.sittings.first() {
                p { "What was typed:" }
                (code("What was typed", &sitting.command))
            }
            p { "What repeats it, with the plan that is kept beside the rows:" }
            (code("What repeats it", "echo-client compare --plan plan.toml"))
            details { summary { "plan.toml" } (code("plan.toml", &plan)) }
        }
    }
}

fn code(label: &str, text: &str) -> Markup {
    html! { div.scroll tabindex="0" role="region" aria-label=(label) { pre { code { (text) } } } }
}
