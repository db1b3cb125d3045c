//! The comparison for people, in 80 columns.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::{
    statistics::Estimate,
    verdict::{BLOCKS_FOR_A_GLANCE, BLOCKS_FOR_A_VERDICT, Group, Line, Verdict},
};
use crate::cmd::load::us;

/// A table, its notes, and its verdicts.
pub fn text(group: &Group) -> String {
    let mut text =
        format!("\n{} connection{}\n", group.connections, if group.connections == 1 { "" } else { "s" });
    let _ = writeln!(text, "{}", table(&group.lines));
    for line in &group.lines {
        for note in &line.notes {
            let _ = writeln!(text, "  {}: {note}", line.contender);
        }
    }
    for verdict in &group.verdicts {
        let _ = writeln!(text, "  {}", sentence(verdict));
    }
    text
}

/// What the columns mean; printed once, above the tables.
pub const LEGEND: &str = "\
msgs/s: answers a second, median of the blocks [95 % interval]; p50, p99, p99.9:
latency; srv, cli: CPU time an answer of server and client in us; mem: peak PSS
of all processes of the server; p/t: its processes/threads; (n): its workers
";

fn table(lines: &[Line]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["model", "msgs/s", "[95 %]", "p50", "p99", "p99.9", "srv", "cli", "mem", "p/t"]);
    for line in lines {
        table.add_row(row(line));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
        if column.index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn row(line: &Line) -> Vec<String> {
    let name = match line.workers {
        Some(workers) => format!("{}({workers})", line.contender),
        None => line.contender.clone(),
    };
    let Some(rate) = line.messages_per_s else {
        return [name, "-".into()].into_iter().chain(std::iter::repeat_n(String::new(), 8)).collect();
    };
    vec![
        name,
        thousands(rate.median),
        format!("[{},{}]", thousands(rate.low), thousands(rate.high)),
        us(line.p50_us),
        us(line.p99_us),
        us(line.p999_us),
        format!("{:.2}", line.server_cpu_us_per_message),
        format!("{:.2}", line.client_cpu_us_per_message),
        megabytes(line.peak_pss_bytes),
        format!("{:.0}/{:.0}", line.processes, line.threads),
    ]
}

/// Says who is faster by how much, or that they are not told apart.
fn sentence(verdict: &Verdict) -> String {
    let Verdict { leader, other, ratio, pairs, told_apart } = verdict;
    if *pairs < BLOCKS_FOR_A_GLANCE {
        return format!(
            "{leader} and {other}: {pairs} block(s) of both say nothing; {BLOCKS_FOR_A_GLANCE} would"
        );
    }
    if !told_apart {
        return format!("{leader} and {other}: not told apart {}", percent(*ratio));
    }
    let word = if *pairs < BLOCKS_FOR_A_VERDICT { "looks" } else { "is" };
    format!("{leader} {word} {:.0} % {} faster than {other}", 100.0 * (ratio.median - 1.0), percent(*ratio))
}

/// An interval of a ratio, in percent above 1.
fn percent(ratio: Estimate) -> String {
    format!("[{:+.0}, {:+.0}]", 100.0 * (ratio.low - 1.0), 100.0 * (ratio.high - 1.0))
}

fn thousands(n: f64) -> String {
    match n {
        _ if n < 1e3 => format!("{n:.0}"),
        _ if n < 1e5 => format!("{:.1}k", n / 1e3),
        _ if n < 1e6 => format!("{:.0}k", n / 1e3),
        _ => format!("{:.2}M", n / 1e6),
    }
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
    use super::*;

    fn line(contender: &str) -> Line {
        let rate = Some(Estimate { median: 123_456.0, low: 98_765.0, high: 134_567.0 });
        Line {
            contender: contender.into(),
            workers: Some(512),
            messages_per_s: rate,
            p50_us: 12_345.0,
            p99_us: 123_456.0,
            p999_us: 1_234_567.0,
            server_cpu_us_per_message: 12.34,
            client_cpu_us_per_message: 12.34,
            peak_pss_bytes: 123e6,
            processes: 513.0,
            threads: 513.0,
            notes: vec![],
        }
    }

    #[test]
    fn a_table_fits_eighty_columns() {
        let text = table(&[line("thread-pool"), line("prefork")]);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 80, "{widest} columns:\n{text}");
        assert!(LEGEND.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn a_verdict_is_a_sentence_and_few_blocks_only_look() {
        let ratio = Estimate { median: 1.08, low: 1.05, high: 1.11 };
        let verdict = Verdict { leader: "a".into(), other: "b".into(), ratio, pairs: 5, told_apart: true };
        assert_eq!(sentence(&verdict), "a is 8 % [+5, +11] faster than b");
        let verdict = Verdict { pairs: 3, ..verdict };
        assert_eq!(sentence(&verdict), "a looks 8 % [+5, +11] faster than b");
        let ratio = Estimate { median: 1.01, low: 0.97, high: 1.04 };
        let verdict = Verdict { told_apart: false, ratio, ..verdict };
        assert_eq!(sentence(&verdict), "a and b: not told apart [-3, +4]");
    }
}
