//! The status for people: a few lines for the server, then one a worker.

use std::{collections::BTreeMap, time::Duration};

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use textwrap::{Options, WordSeparator, WordSplitter, core::Word};

use super::{Doing, State, Status, Worker};

/// Columns that fit every terminal.
const WIDTH: u16 = 80;
/// With more workers than this, those that are idle share a line.
const ROOM: usize = 16;

/// The whole status of a server.
pub fn text(status: &Status) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_width(WIDTH).set_header(HEADER).add_rows(rows(status, ROOM));
    table.column_iter_mut().enumerate().for_each(|(n, column)| {
        column.set_padding((0, 2));
        column.set_cell_alignment(if n == STATE { CellAlignment::Left } else { CellAlignment::Right });
    });
    let lines =
        [Some(headline(status)), clients(status), Some(totals(status)), kept(status), dropped(status)];
    let lines = lines.into_iter().flatten().chain([errors(status)]);
    let lines = lines.flat_map(|line| wrapped(&line, WIDTH.into()));
    lines.chain([table.trim_fmt(), String::new()]).collect::<Vec<_>>().join("\n")
}

/// A line, as several of at most `width` columns where it is longer. What belongs together, like a name and its
/// number, stays so.
pub fn wrapped(line: &str, width: usize) -> Vec<String> {
    let options = Options::new(width)
        .subsequent_indent("  ")
        .word_separator(WordSeparator::Custom(parts))
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(line, options).into_iter().map(Into::into).collect()
}

/// The parts of a line: a comma or two spaces end each.
fn parts(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    Box::new(line.split_inclusive("  ").flat_map(|part| part.split_inclusive(", ")).map(Word::from))
}

/// What the columns of the workers are.
pub const HEADER: [&str; 8] = ["n", "pid", "state", "starts", "accepted", "messages", "in", "out"];
/// The column that is no number.
pub const STATE: usize = 2;

/// A line a worker; where there is no room for so many, those that are idle share the first.
pub fn rows(status: &Status, room: usize) -> Vec<[String; 8]> {
    let (idle, busy): (Vec<&Worker>, Vec<&Worker>) =
        status.workers.iter().partition(|worker| worker.state == Some(Doing::Idle));
    if status.workers.len() <= room || idle.is_empty() {
        return status.workers.iter().map(row).collect();
    }
    let mut together = <[String; 8]>::default();
    together[STATE] = format!("{} idle", idle.len());
    [together].into_iter().chain(busy.into_iter().map(row)).collect()
}

fn row(worker: &Worker) -> [String; 8] {
    let (told, figures) = (&worker.told, &worker.told.figures);
    let state = match worker.state {
        Some(Doing::Starting) => "starting".into(),
        Some(Doing::Idle) => "idle".into(),
        Some(Doing::Serving) => format!("serving {}", figures.active),
        Some(Doing::Gone) => "gone".into(),
        None => "unknown".into(),
    };
    let numbers = [figures.accepted, figures.messages, figures.bytes_in, figures.bytes_out];
    let [accepted, messages, bytes_in, bytes_out] = numbers.map(|number| number.to_string());
    let (n, pid, starts) = (worker.n.to_string(), told.pid.to_string(), told.starts.to_string());
    [n, pid, state, starts, accepted, messages, bytes_in, bytes_out]
}

/// Which server it is.
pub fn headline(status: &Status) -> String {
    let identity = &status.identity;
    let parts =
        [Some(identity.model.as_str()), Some(identity.dispatch.as_str()), identity.isolate.as_deref()];
    let way: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    let uptime = Duration::from_secs(status.uptime_s.unwrap_or_default() as u64);
    let uptime = humantime::format_duration(uptime);
    let state = match status.state {
        Some(State::Starting) => "starting".into(),
        Some(State::Running) => format!("running for {uptime}"),
        Some(State::Ended) => format!("ended after {uptime}"),
        Some(State::Gone) => "gone without a word".into(),
        None => "unknown: its processes cannot be seen from here".into(),
    };
    format!("{}  {}  pid {}  {state}", identity.endpoint, way.join("/"), status.pid)
}

/// Its clients: those that it serves, has served, and lets wait. Of datagrams there is nothing to say where the model
/// has no sessions.
pub fn clients(status: &Status) -> Option<String> {
    let figures = &status.figures;
    if figures.udp.is_some() {
        let (active, accepted, refused) = (figures.active, figures.accepted, figures.refused);
        let any = [active, accepted, refused].iter().any(|&n| n > 0);
        return any.then(|| format!("sessions {active}  begun {accepted}  refused {refused}"));
    }
    let accept_queue = status.accept_queue.map_or("unknown".into(), |length| length.to_string());
    Some(format!(
        "clients {}  accepted {}  refused {}  queue {}  accept queue {accept_queue}",
        figures.active, figures.accepted, figures.refused, status.queued
    ))
}

/// What it has moved.
fn totals(status: &Status) -> String {
    let figures = &status.figures;
    if let Some(datagrams) = &figures.udp {
        let (came, left) = (datagrams.datagrams_in, datagrams.datagrams_out);
        return format!(
            "datagrams in {came}  out {left}  bytes in {}  out {}  receive queue {}",
            figures.bytes_in,
            figures.bytes_out,
            status.receive_queue.map_or("unknown".into(), size)
        );
    }
    format!("messages {}  bytes in {}  bytes out {}", figures.messages, figures.bytes_in, figures.bytes_out)
}

/// What is kept of datagrams, where any are to be.
pub fn kept(status: &Status) -> Option<String> {
    let datagrams = status.figures.udp.as_ref()?;
    let ((clients, messages), memory) =
        datagrams.clients.zip(datagrams.messages_held).zip(datagrams.group_memory)?;
    Some(format!("kept: {messages} datagrams of {clients} clients in {}", size(memory)))
}

/// Which datagrams were not answered, or are not kept.
pub fn dropped(status: &Status) -> Option<String> {
    status.figures.udp.as_ref().map(|datagrams| format!("dropped: {}", kinds(&datagrams.dropped)))
}

/// So many bytes, as people write it.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().to_string()
}

/// What went wrong.
pub fn errors(status: &Status) -> String {
    format!("errors: {}", kinds(&status.figures.errors))
}

fn kinds(counted: &BTreeMap<&'static str, u64>) -> String {
    let kinds: Vec<String> = counted.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    if kinds.is_empty() { "none".into() } else { kinds.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::scoreboard::{Datagrams, Dropped, Figures, Identity};

    #[test]
    fn a_long_line_is_wrapped_between_its_parts_and_loses_nothing() {
        let reasons = Dropped::ALL.map(|reason| format!("{} 123456789", reason.name()));
        let line = format!("dropped: {}", reasons.join(", "));
        let lines = wrapped(&line, 80);
        assert!(lines.len() > 3 && lines.iter().all(|line| line.len() <= 80), "{lines:?}");
        assert!(reasons.iter().all(|reason| lines.iter().any(|line| line.contains(reason))), "{lines:?}");
        let joined: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
        assert_eq!(joined.join(" "), line);
        let narrow = wrapped(&line, 7);
        assert!(narrow.iter().all(|line| line.len() <= 7), "where nothing fits, it is broken: {narrow:?}");
        assert_eq!(narrow.concat().replace(' ', ""), line.replace(' ', ""));
    }

    #[test]
    fn whatever_there_is_to_say_of_datagrams_fits_eighty_columns() {
        let many = u64::MAX / 1000;
        let udp = Datagrams {
            datagrams_in: many,
            datagrams_out: many,
            dropped: Dropped::ALL.iter().map(|reason| (reason.name(), many)).collect(),
            clients: Some(many),
            messages_held: Some(many),
            group_memory: Some(many),
        };
        let errors = ["max_connections", "accept_resources", "worker_died", "idle_timeout"];
        let figures = Figures {
            accepted: many,
            active: 1,
            bytes_in: many,
            bytes_out: many,
            errors: errors.map(|kind| (kind, many)).into(),
            udp: Some(udp),
            ..Figures::default()
        };
        let identity = Identity {
            endpoint: "udp://[2001:db8:1111:2222:3333:4444:5555:6666]:65535".into(),
            model: "multi-reactor".into(),
            dispatch: "reuseport".into(),
            isolate: Some("processes".into()),
            workers: 0,
        };
        let status = Status {
            event: "status",
            identity,
            pid: 4_194_304,
            state: Some(State::Running),
            started_unix_s: 0.0,
            uptime_s: Some(1e8),
            read: Instant::now(),
            queued: 0,
            accept_queue: None,
            receive_queue: Some(many),
            figures,
            workers: Vec::new(),
        };
        let shown = text(&status);
        assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
        assert!(shown.contains("\nsessions 1  begun ") && shown.contains("\ndropped: "), "{shown}");
        let nobody = Figures { udp: Some(Datagrams::default()), ..Figures::default() };
        let shown = text(&Status { figures: nobody, ..status });
        assert!(!shown.contains("sessions") && !shown.contains("kept"), "{shown}");
    }
}
