//! The status for people: a few lines for the server, then one a worker.

use std::time::Duration;

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
    [headline(status), clients(status), totals(status), errors(status), workers, String::new()].join("\n")
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

/// Its clients: those that it serves, has served, and lets wait.
pub fn clients(status: &Status) -> String {
    let figures = &status.figures;
    let accept_queue = status.accept_queue.map_or("unknown".into(), |length| length.to_string());
    format!(
        "clients {}  accepted {}  refused {}  queue {}  accept queue {accept_queue}",
        figures.active, figures.accepted, figures.refused, status.queued
    )
}

/// What it has moved.
fn totals(status: &Status) -> String {
    let figures = &status.figures;
    format!("messages {}  bytes in {}  bytes out {}", figures.messages, figures.bytes_in, figures.bytes_out)
}

/// What went wrong.
pub fn errors(status: &Status) -> String {
    let kinds: Vec<String> = status.figures.errors.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    format!("errors: {}", if kinds.is_empty() { "none".into() } else { kinds.join(", ") })
}
