//! The status for people: a few lines for the server, then one a worker.

use std::{collections::BTreeMap, time::Duration};

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};

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
    let workers = table.trim_fmt();
    let lines = [Some(headline(status)), Some(clients(status)), Some(totals(status))];
    let more = [datagrams(status), Some(errors(status)), Some(workers), Some(String::new())];
    lines.into_iter().chain(more).flatten().collect::<Vec<_>>().join("\n")
}

/// What the columns of the workers are.
pub const HEADER: [&str; 8] = ["n", "pid", "state", "starts", "accepted", "messages", "in", "out"];
/// The column that is no number.
pub const STATE: usize = 2;

/// A line a worker; where there is no room for so many, those that are idle share the first.
pub fn rows(status: &Status, room: usize) -> Vec<[String; 8]> {
    let (idle, busy): (Vec<&Worker>, Vec<&Worker>) =
        status.workers.iter().partition(|worker| worker.state == Doing::Idle);
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
        Doing::Starting => "starting".into(),
        Doing::Idle => "idle".into(),
        Doing::Serving => format!("serving {}", figures.active),
        Doing::Gone => "gone".into(),
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
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_s as u64));
    let state = match status.state {
        State::Starting => "starting".into(),
        State::Running => format!("running for {uptime}"),
        State::Ended => format!("ended after {uptime}"),
        State::Gone => "gone without a word".into(),
    };
    format!("{}  {}  pid {}  {state}", identity.endpoint, way.join("/"), status.pid)
}

/// Its clients: those that it serves, has served, and lets wait. Datagrams have none that wait; and sessions only where
/// a model has them.
pub fn clients(status: &Status) -> String {
    let figures = &status.figures;
    if figures.udp.is_some() {
        let (active, accepted, refused) = (figures.active, figures.accepted, figures.refused);
        return format!("sessions {active}  begun {accepted}  refused {refused}");
    }
    let accept_queue = status.accept_queue.map_or("unknown".into(), |length| length.to_string());
    format!(
        "clients {}  accepted {}  refused {}  queue {}  accept queue {accept_queue}",
        figures.active, figures.accepted, figures.refused, status.queued
    )
}

/// What it has moved.
fn totals(status: &Status) -> String {
    let figures = &status.figures;
    if let Some(datagrams) = &figures.udp {
        let (came, left) = (datagrams.datagrams_in, datagrams.datagrams_out);
        return format!(
            "datagrams in {came}  out {left}  bytes in {}  out {}",
            figures.bytes_in, figures.bytes_out
        );
    }
    format!("messages {}  bytes in {}  bytes out {}", figures.messages, figures.bytes_in, figures.bytes_out)
}

/// Of datagrams: what was dropped, and what is kept.
pub fn datagrams(status: &Status) -> Option<String> {
    let datagrams = status.figures.udp.as_ref()?;
    let dropped = format!("dropped: {}", kinds(&datagrams.dropped));
    let held = datagrams.clients.zip(datagrams.messages_held).zip(datagrams.group_memory);
    Some(match held {
        None => dropped,
        Some(((clients, messages), memory)) => {
            let memory = ByteSize(memory).display();
            format!("kept: {messages} datagrams of {clients} clients in {memory}  {dropped}")
        }
    })
}

/// What went wrong.
pub fn errors(status: &Status) -> String {
    format!("errors: {}", kinds(&status.figures.errors))
}

fn kinds(counted: &BTreeMap<&'static str, u64>) -> String {
    let kinds: Vec<String> = counted.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    if kinds.is_empty() { "none".into() } else { kinds.join(", ") }
}
