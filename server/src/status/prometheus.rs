//! The status for Prometheus: its text format, version 0.0.4.

use prometheus::{GaugeVec, IntCounterVec, Opts, Registry, TextEncoder, core::Collector};

use super::Status;
use crate::scoreboard::{Datagrams, Figures};

/// The name of a metric, what it is, and where it is found.
type Metric<T, N> = (&'static str, &'static str, fn(&T) -> N);

const COUNTERS: [Metric<Figures, u64>; 6] = [
    ("connections_accepted_total", "Clients whose service began.", |all| all.accepted),
    ("connections_closed_total", "Clients whose service ended.", |all| all.closed),
    ("connections_refused_total", "Clients closed without service.", |all| all.refused),
    ("messages_total", "Receives that brought data.", |all| all.messages),
    ("bytes_received_total", "Bytes received.", |all| all.bytes_in),
    ("bytes_sent_total", "Bytes sent.", |all| all.bytes_out),
];

/// What comes and goes; a figure that nobody knows is left out.
const GAUGES: [Metric<Status, Option<f64>>; 9] = [
    ("up", "1 while the server runs.", |status| status.is_running().map(f64::from)),
    ("start_time_seconds", "When the server began, since 1970.", |status| Some(status.started_unix_s)),
    ("connections_active", "Clients being served.", |status| Some(status.figures.active as f64)),
    ("queue_length", "Clients in the queue of the pool.", |status| Some(status.queued as f64)),
    ("accept_queue", "Clients that the kernel holds until they are accepted.", |status| {
        status.accept_queue.map(|length| length as f64)
    }),
    (
        "receive_queue_bytes",
        "What the datagrams take that the kernel holds until they are received.",
        |status| status.receive_queue.map(|bytes| bytes as f64),
    ),
    ("clients_kept", "Clients of whom datagrams are kept; each worker's.", |status| {
        of_datagrams(status, |datagrams| datagrams.clients)
    }),
    ("datagrams_kept", "Datagrams that are kept.", |status| {
        of_datagrams(status, |datagrams| datagrams.messages_held)
    }),
    ("group_memory_bytes", "What the kept datagrams take.", |status| {
        of_datagrams(status, |datagrams| datagrams.group_memory)
    }),
];

fn of_datagrams(status: &Status, figure: fn(&Datagrams) -> Option<u64>) -> Option<f64> {
    status.figures.udp.as_ref().and_then(figure).map(|figure| figure as f64)
}

/// Which server a sample is of.
const SERVER: [&str; 3] = ["endpoint", "model", "dispatch"];

fn server(status: &Status) -> [&str; 3] {
    let identity = &status.identity;
    [&identity.endpoint, &identity.model, &identity.dispatch]
}

/// The servers' status, as one exposition.
///
/// # Errors
/// What the encoder reports.
pub fn text(all: &[Status]) -> Result<String, String> {
    metrics(all)
        .and_then(|metrics| TextEncoder::new().encode_to_string(&metrics.gather()))
        .map_err(|error| error.to_string())
}

fn metrics(all: &[Status]) -> prometheus::Result<Registry> {
    let metrics = Registry::new_custom(Some("echo_server".into()), None)?;
    for (name, help, gauge) in GAUGES {
        let family = GaugeVec::new(Opts::new(name, help), &SERVER)?;
        for status in all {
            gauge(status).into_iter().for_each(|value| family.with_label_values(&server(status)).set(value));
        }
        register(&metrics, family)?;
    }
    for (name, help, counter) in COUNTERS {
        let family = counters(name, help, None)?;
        let of_worker =
            counters(&format!("worker_{name}"), &format!("Of each worker: {help}"), Some("worker"))?;
        for status in all {
            family.with_label_values(&server(status)).inc_by(counter(&status.figures));
            for worker in &status.workers {
                count(&of_worker, status, &worker.n.to_string(), counter(&worker.told.figures));
            }
        }
        register(&metrics, family)?;
        register(&metrics, of_worker)?;
    }
    let errors = counters("errors_total", "What went wrong.", Some("kind"))?;
    let sent = counters("datagrams_sent_total", "Datagrams sent.", None)?;
    let dropped = counters("dropped_total", "Datagrams not answered, or not kept.", Some("reason"))?;
    let starts =
        counters("worker_starts_total", "How often the place of a worker was filled.", Some("worker"))?;
    for status in all {
        status.figures.errors.iter().for_each(|(kind, &n)| count(&errors, status, kind, n));
        if let Some(datagrams) = &status.figures.udp {
            sent.with_label_values(&server(status)).inc_by(datagrams.datagrams_out);
            datagrams.dropped.iter().for_each(|(reason, &n)| count(&dropped, status, reason, n));
        }
        for worker in &status.workers {
            count(&starts, status, &worker.n.to_string(), worker.told.starts.into());
        }
    }
    register(&metrics, errors)?;
    register(&metrics, sent)?;
    register(&metrics, dropped)?;
    register(&metrics, starts)?;
    Ok(metrics)
}

/// A family of counters, one for each server, or for each of something that it has.
fn counters(name: &str, help: &str, each: Option<&str>) -> prometheus::Result<IntCounterVec> {
    let labels: Vec<&str> = SERVER.into_iter().chain(each).collect();
    IntCounterVec::new(Opts::new(name, help), &labels)
}

fn count(family: &IntCounterVec, status: &Status, each: &str, n: u64) {
    let [endpoint, model, dispatch] = server(status);
    family.with_label_values(&[endpoint, model, dispatch, each]).inc_by(n);
}

fn register(metrics: &Registry, family: impl Collector + 'static) -> prometheus::Result<()> {
    metrics.register(Box::new(family))
}
