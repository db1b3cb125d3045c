//! The comparison for people, in 80 columns.

use comfy_table::{CellAlignment, Table, presets};

use super::{
    calls::Counted,
    pair::{Pair, Row},
    scalability::{Law, Scalability},
    scenario::{Scenario, thousands},
    sentence,
    statistics::Estimate,
    verdict::{Group, Line},
};
use crate::cmd::load::{UNKNOWN, us};

/// A text in lines of 80 columns, the first and the others indented so; a name stays whole, also where it has a hyphen.
pub fn folded(text: &str, first: &str, others: &str) -> String {
    let form = textwrap::Options::new(80).initial_indent(first).subsequent_indent(others);
    textwrap::fill(text, form.word_splitter(textwrap::WordSplitter::NoHyphenation))
}

/// How tables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For a terminal.
    Plain,
    /// GitHub's Markdown.
    Markdown,
}

impl Form {
    /// A line above a table.
    pub fn heading(self, text: &str) -> String {
        match self {
            Self::Plain => format!("\n{text}\n"),
            Self::Markdown => format!("\n### {text}\n\n"),
        }
    }

    /// A table as text.
    pub fn draw(self, mut table: Table) -> String {
        table.load_style(match self {
            Self::Plain => presets::NOTHING,
            Self::Markdown => presets::ASCII_MARKDOWN,
        });
        for column in table.column_iter_mut() {
            if self == Self::Plain {
                column.set_padding((0, 1));
            }
            if column.index > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    }

    /// Sentences below a table.
    pub fn notes(self, notes: &[String]) -> String {
        match self {
            Self::Plain => notes.iter().map(|note| folded(note, "  ", "      ") + "\n").collect(),
            Self::Markdown if notes.is_empty() => String::new(),
            Self::Markdown => "\n".to_owned() + &notes.iter().map(|n| format!("- {n}\n")).collect::<String>(),
        }
    }
}

/// A table, its notes, and its verdicts.
pub fn of_group(group: &Group, form: Form) -> String {
    let Group { scenario, point, .. } = group;
    let heading = match scenario {
        Scenario::Echo => point.title(*scenario),
        _ => format!("{}: {}", scenario.name(), point.title(*scenario)),
    };
    let notes = form.notes(&notes(group));
    format!("{}{}\n{notes}", form.heading(&heading), form.draw(table(group, form)))
}

/// Why cells do not count, and what is said of the best and the others: sentences for below a table.
pub fn notes(group: &Group) -> Vec<String> {
    let reasons =
        group.there().flat_map(|line| line.notes.iter().map(|n| format!("{}: {n}", line.contender)));
    let sides = group.lines.iter().filter_map(|line| {
        let (below, above) = (thousands(line.from_below_per_s?), thousands(line.from_above_per_s?));
        Some(format!("{}: {below} a second from below, {above} from above", line.contender))
    });
    sentence::of_point(group).into_iter().chain(sides).chain(reasons).collect()
}

/// The system calls a message, where they were counted.
pub fn of_calls(scenario: Scenario, calls: &[Counted]) -> String {
    let here: Vec<&Counted> = calls.iter().filter(|row| row.scenario == scenario).collect();
    if here.is_empty() {
        return String::new();
    }
    let words = here.iter().map(|row| match row.per_message {
        Some(calls) => format!("{} {calls:.1}", row.contender),
        None => format!("{} {UNKNOWN} ({})", row.contender, row.reason),
    });
    let text = format!("system calls a message: {}", words.collect::<Vec<_>>().join(", "));
    format!("\n{}\n", folded(&text, "", "  "))
}

/// How contenders scale, with the doubts.
pub fn of_laws(scenario: Scenario, laws: &[Law], form: Form) -> String {
    let here: Vec<&Law> = laws.iter().filter(|law| law.scenario == scenario).collect();
    if here.is_empty() {
        return String::new();
    }
    let (rows, notes) = written_laws(&here);
    let mut table = Table::new();
    table.set_header(HEADS_OF_LAWS).add_rows(rows);
    format!("{}{}\n{}", form.heading(TITLE_OF_LAWS), form.draw(table), form.notes(&notes))
}

/// What a table of laws is called.
pub const TITLE_OF_LAWS: &str = "the Universal Scalability Law of connections and msgs/s";

/// The heads of its columns.
pub const HEADS_OF_LAWS: [&str; 7] =
    ["model", "of one", "contention", "[95 %]", "coherency", "[95 %]", "peak"];

/// A row for each law that was fitted; and the doubts, and why the others were not.
pub fn written_laws(laws: &[&Law]) -> (Vec<Vec<String>>, Vec<String>) {
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for Law { contender, fit, reason, .. } in laws {
        let Some(fit) = fit else {
            notes.push(format!("{contender}: no law is fitted, {reason}"));
            continue;
        };
        let Scalability { lambda, contention, coherency, peak, doubts, .. } = fit;
        rows.push(vec![
            contender.clone(),
            thousands(lambda.fitted),
            format!("{:.3}", contention.fitted),
            format!("[{:.3},{:.3}]", contention.low, contention.high),
            format!("{:.1e}", coherency.fitted),
            format!("[{:.0e},{:.0e}]", coherency.low, coherency.high),
            whole(peak.map(|peak| peak.fitted)),
        ]);
        if !doubts.is_empty() {
            notes.push(format!("{contender}: do not trust it, {}", doubts.join("; ")));
        }
    }
    (rows, notes)
}

/// All figures of two contenders.
pub fn of_pair(pair: &Pair, form: Form) -> String {
    let mut table = Table::new();
    table.set_header(heads_of_a_pair(pair)).add_rows(rows_of_a_pair(pair));
    format!("{}{}\n", form.heading(TITLE_OF_A_PAIR), form.draw(table))
}

/// What a table of two is called.
pub const TITLE_OF_A_PAIR: &str = "all figures of the two";

/// The heads of its columns.
pub fn heads_of_a_pair(pair: &Pair) -> [&str; 5] {
    let [one, other] = &pair.names;
    ["", one, other, "ratio", "[interval]"]
}

/// A row a figure.
pub fn rows_of_a_pair(pair: &Pair) -> Vec<[String; 5]> {
    let row = |Row { name, medians: [one, other], ratio }: &Row| {
        let middle = known(ratio.map(|ratio| ratio.middle), |middle| format!("{middle:.3}"));
        let interval = ratio.map(|ratio| format!("[{:.3}, {:.3}]", ratio.low, ratio.high));
        [(*name).into(), format!("{one:.2}"), format!("{other:.2}"), middle, interval.unwrap_or_default()]
    };
    pair.figures.iter().map(row).collect()
}

/// What the columns mean.
pub fn legend(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::Echo | Scenario::Cpu | Scenario::Sleep | Scenario::Overload => {
            "\
msgs/s: answers a second, median of the blocks [95 % interval]; p50, p99, p99.9:
latency; srv, cli: CPU time an answer of server and client in us; mem: peak
memory of all processes of the server (PSS without files); p/t: its
processes/threads; (n): its workers
"
        }
        Scenario::Churn => {
            "\
srv: the server's CPU time a connection, median of the blocks [95 % interval];
conns/s: connections opened, served once and closed a second, with >
where the client was the bound; connect: median time to connect; p50, p99:
latency of the echo; mem: peak memory of all processes of the server (PSS
without files); p/t: its processes/threads
"
        }
        Scenario::Idle => {
            "\
B/conn: the server's memory a connection in bytes (PSS without files, of all its
processes), median of the blocks [95 % interval]; p50, p99: latency of the busy
ones; srv: CPU time an answer to them in us; mem: peak memory; p/t: the server's
processes/threads; (n): its workers
"
        }
        Scenario::Stall => {
            "\
p99: latency of the others from when each message was due, median of the blocks
[95 % interval]; p50, p99.9: the same; ans: the share of their messages that
were answered within a second; p/t: the server's processes/threads
"
        }
        Scenario::Fair => {
            "\
Jain: fairness index over the connections, 1 where all get the same, median of
the blocks [95 % interval]; msgs/s: answers a second; p50, p99: latency; p/t:
the server's processes/threads; (n): its workers
"
        }
        Scenario::Udp => {
            "\
srv: the server's CPU time a datagram, median of the blocks [95 % interval];
msgs/s: answers a second, with > where the client was the bound; p50, p99:
latency; cli: the client's CPU time a datagram in us; lost: datagrams that did
not come back in time; p/t: the server's processes/threads
"
        }
    }
}

/// A figure as it is written, where it is known.
fn known(figure: Option<f64>, written: impl Fn(f64) -> String) -> String {
    figure.map_or(UNKNOWN.into(), written)
}

fn fine(figure: Option<f64>) -> String {
    known(figure, |figure| format!("{figure:.2}"))
}

fn whole(figure: Option<f64>) -> String {
    known(figure, |figure| format!("{figure:.0}"))
}

/// A rate, which is a lower bound where the client was what limited it.
fn rate(per_second: Option<f64>, client_bound: bool) -> String {
    let bound = if client_bound { ">" } else { "" };
    known(per_second, |per_second| format!("{bound}{}", thousands(per_second)))
}

/// A column: its head, and what stands in it. The first three are the contender, the figure, and its interval.
type Column = (&'static str, fn(&Line) -> String);

const P50: Column = ("p50", |line| known(line.p50_us, us));
const P99: Column = ("p99", |line| known(line.p99_us, us));
const P999: Column = ("p99.9", |line| known(line.p999_us, us));
const SRV: Column = ("srv", |line| fine(line.server_cpu_us_per_message));
const CLI: Column = ("cli", |line| fine(line.client_cpu_us_per_message));
const EACH: Column = ("B/conn", |line| known(line.bytes_per_connection, thousands));
const MEM: Column = ("mem", |line| known(line.peak_pss_bytes, megabytes));
const P_T: Column = ("p/t", |line| format!("{}/{}", whole(line.processes), whole(line.threads)));
const MSGS: Column = ("msgs/s", |line| rate(line.messages_per_s, line.client_bound));
const ANSWERED: Column = ("ans", |line| known(line.answered, |share| format!("{:.0}%", 100.0 * share)));
const LOST: Column = ("lost", |line| match line.loss {
    Some(0.0) => "0".into(),
    loss => known(loss, |loss| format!("{:.3}%", 100.0 * loss)),
});

/// What else a page has room for, where it does not stand there already.
const ON_A_PAGE: [Column; 11] = [
    MSGS,
    P999,
    SRV,
    CLI,
    EACH,
    MEM,
    P_T,
    ("vcs", |line| fine(line.voluntary_switches_per_message)),
    ("ics", |line| fine(line.involuntary_switches_per_message)),
    ("flt", |line| fine(line.minor_faults_per_message)),
    ("fd", |line| whole(line.descriptors)),
];

/// What the columns mean that a page alone has room for.
pub const LEGEND_OF_A_PAGE: &str = "\
B/conn: memory a connection in bytes; vcs, ics: context switches an answer because a
thread waited, or was interrupted; flt: page faults an answer; fd: the server's descriptors
";

/// What stands beside the figure.
fn columns(scenario: Scenario, form: Form) -> Vec<Column> {
    let own: &[Column] = match scenario {
        Scenario::Echo | Scenario::Overload => &[P50, P99, P999, SRV, CLI, MEM, P_T],
        Scenario::Cpu | Scenario::Sleep => &[P50, P99, SRV, MEM, P_T],
        Scenario::Churn => &[
            ("conns/s", |line| rate(line.connections_per_s, line.client_bound)),
            ("connect", |line| known(line.connect_p50_us, us)),
            P50,
            P99,
            MEM,
            P_T,
        ],
        Scenario::Idle => &[P50, P99, SRV, MEM, P_T],
        Scenario::Stall => &[P50, P999, ANSWERED, P_T],
        Scenario::Fair => &[MSGS, P50, P99, P_T],
        Scenario::Udp => &[MSGS, P50, P99, CLI, LOST, P_T],
    };
    let more: &[Column] = if form == Form::Markdown { &ON_A_PAGE } else { &[] };
    let figure = scenario.character().figure.head;
    let is_new = |(head, _): &&Column| *head != figure && !own.iter().any(|(there, _)| there == head);
    own.iter().chain(more.iter().filter(is_new)).copied().collect()
}

fn table(group: &Group, form: Form) -> Table {
    let (heads, rows) = written(group, form);
    let mut table = Table::new();
    table.set_header(heads).add_rows(rows);
    table
}

/// The heads of the columns, and a row for each contender that was to take part.
pub fn written(group: &Group, form: Form) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let scenario = group.scenario;
    let head = scenario.character().figure.head;
    let beside = columns(scenario, form).into_iter().map(|(head, _)| head);
    let heads = ["model", head, "[95 %]"].into_iter().chain(beside).collect();
    (heads, group.there().map(|line| row(scenario, form, line)).collect())
}

fn row(scenario: Scenario, form: Form, line: &Line) -> Vec<String> {
    let name = match line.workers {
        Some(workers) => format!("{}({workers})", line.contender),
        None => line.contender.clone(),
    };
    let columns = columns(scenario, form);
    let Some(Estimate { median, low, high }) = line.figure else {
        return [name, UNKNOWN.into()].into_iter().chain(vec![String::new(); 1 + columns.len()]).collect();
    };
    let written = scenario.character().figure.written;
    let figures = [name, written(median), format!("[{},{}]", written(low), written(high))];
    figures.into_iter().chain(columns.iter().map(|(_, cell)| cell(line))).collect()
}

fn megabytes(bytes: f64) -> String {
    match bytes / 1e6 {
        mb if mb < 10.0 => format!("{mb:.1}M"),
        mb if mb < 1e3 => format!("{mb:.0}M"),
        mb => format!("{:.1}G", mb / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn line(contender: &str) -> Line {
        let rate = Some(Estimate { median: 123_456.0, low: 98_765.0, high: 134_567.0 });
        Line {
            contender: contender.into(),
            workers: Some(512),
            figure: rate,
            p50_us: Some(12_345.0),
            p99_us: Some(123_456.0),
            p999_us: Some(1_234_567.0),
            server_cpu_us_per_message: Some(12.34),
            client_cpu_us_per_message: Some(12.34),
            peak_pss_bytes: Some(123e6),
            bytes_per_connection: Some(123_456.0),
            connections_per_s: Some(12_345.0),
            connect_p50_us: Some(123_456.0),
            messages_per_s: Some(123_456.0),
            jain: Some(0.123),
            voluntary_switches_per_message: Some(1.0),
            involuntary_switches_per_message: Some(1.0),
            minor_faults_per_message: Some(1.0),
            descriptors: Some(512.0),
            answered: Some(1.0),
            loss: Some(0.000_99),
            client_bound: true,
            processes: Some(513.0),
            threads: Some(513.0),
            ..Line::default()
        }
    }

    #[test]
    fn a_table_fits_eighty_columns() {
        for &scenario in Scenario::value_variants() {
            let lines = vec![line("thread-pool"), line("prefork")];
            let text = Form::Plain.draw(table(&Group { scenario, lines, ..Group::default() }, Form::Plain));
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= 80, "{widest} columns:\n{text}");
            assert!(legend(scenario).lines().all(|line| line.chars().count() <= 80));
        }
    }
}
