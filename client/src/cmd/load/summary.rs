//! The result: as JSON for programs, in eighty columns for people.

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use arguments::Endpoint;
use serde::Serialize;

use super::{
    Load, Percentiles, Run, Verdict,
    record::{Row, encoded},
    run::Step,
    us,
};
use crate::{
    environment::{Environment, command_line},
    load::{Audit, Conduct, Counts, Manner, Plan},
};

/// The version of the JSON's form.
const SCHEMA: u32 = 1;

/// The result, as JSON and for people.
#[derive(Serialize)]
pub struct Summary<'r> {
    schema: u32,
    endpoint: Endpoint,
    command: String,
    seed: u64,
    environment: Environment,
    settings: Settings,
    valid: bool,
    verdicts: Vec<&'static str>,
    /// What each verdict means.
    why: BTreeMap<&'static str, String>,
    /// When the measured time began, in seconds since 1970.
    measured_since: f64,
    measured_s: f64,
    messages: u64,
    messages_per_s: f64,
    bytes_per_s: f64,
    /// With `--churn`.
    connections_per_s: Option<f64>,
    /// From when each message was due; in a closed loop, from when it left.
    latency_us: Percentiles,
    /// In an open loop: from when each left.
    #[serde(skip_serializing_if = "Option::is_none")]
    service_us: Option<Percentiles>,
    /// In an open loop: how late each left.
    #[serde(skip_serializing_if = "Option::is_none")]
    send_lateness_us: Option<Percentiles>,
    /// In an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    departures: Option<Departures>,
    /// Of the connections in the measured time; without `--churn` of those before it.
    connect_us: Percentiles,
    /// What became of the clients that did not behave; nothing of theirs is in the other figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    awkward: Option<&'r Conduct>,
    /// What became of the datagrams, those of the warm-up included.
    #[serde(skip_serializing_if = "Option::is_none")]
    udp: Option<Audit>,
    errors: BTreeMap<&'static str, u64>,
    complaints: Vec<String>,
    connections: Connections,
    client_cpu_us_per_message: f64,
    client_busiest_thread: f64,
    /// The same with the time that it was ready to run and had no processor.
    client_busiest_demand: f64,
    /// With `--ramp`.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    steps: &'r [Step],
    histograms: Histograms,
    series: Vec<Row>,
}

#[derive(Serialize)]
struct Settings {
    #[serde(flatten)]
    plan: Plan,
    warmup_s: f64,
    duration_s: f64,
    ramp: usize,
}

/// In the measured time.
#[derive(Serialize)]
struct Departures {
    /// By the schedule.
    due: u64,
    /// Those of them that did not leave.
    dropped: u64,
}

#[derive(Serialize)]
struct Connections {
    asked: usize,
    established: usize,
    /// All that came up: those at first, and those that `--churn` opened in their places.
    opened: u64,
    lost: usize,
    served: usize,
    jain: f64,
}

/// The histograms, in nanoseconds, as HdrHistogram has them (V2, deflated), in base64.
#[derive(Serialize)]
struct Histograms {
    latency: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send_lateness: Option<String>,
    connect: String,
}

impl<'r> Summary<'r> {
    /// What came of a run.
    pub fn new(load: &Load, plan: &Plan, run: &'r Run, environment: Environment) -> Self {
        let (window, verdicts) = (&run.window, Verdict::all(run, load.max_lateness));
        let kept = window.punctuality.as_ref();
        let connect = if plan.churn.is_some() { &window.connect } else { &run.connecting.took };
        Self {
            schema: SCHEMA,
            endpoint: load.endpoint.clone(),
            command: command_line(),
            seed: plan.seed,
            environment,
            settings: Settings {
                plan: plan.clone(),
                warmup_s: load.warmup.as_secs_f64(),
                duration_s: load.duration.as_secs_f64(),
                ramp: load.ramp,
            },
            valid: !verdicts.iter().any(|verdict| verdict.voids),
            verdicts: verdicts.iter().map(|verdict| verdict.name).collect(),
            why: verdicts.into_iter().map(|verdict| (verdict.name, verdict.why)).collect(),
            measured_since: run.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            measured_s: window.measured.as_secs_f64(),
            messages: window.messages,
            messages_per_s: window.rate(),
            bytes_per_s: window.byte_rate(),
            latency_us: Percentiles::of(&window.latency),
            service_us: kept.map(|kept| Percentiles::of(&kept.service)),
            send_lateness_us: kept.map(|kept| Percentiles::of(&kept.lateness)),
            departures: kept.map(|kept| Departures { due: kept.due, dropped: kept.dropped }),
            connections_per_s: plan.churn.map(|_| window.connection_rate()),
            connect_us: Percentiles::of(connect),
            awkward: run.awkward.as_ref(),
            udp: window.audit,
            errors: run.faults.counts(),
            complaints: run
                .faults
                .iter()
                .map(|(fault, _, what)| format!("{}: {what}", fault.name()))
                .collect(),
            connections: Connections {
                asked: run.connecting.asked,
                established: run.connecting.established,
                opened: run.connecting.established as u64 + window.opened_in_all,
                lost: run.lost(),
                served: window.served(),
                jain: window.jain(),
            },
            client_cpu_us_per_message: window.cpu_us_per_message(),
            client_busiest_thread: window.busiest_thread,
            client_busiest_demand: window.busiest_demand,
            steps: &run.steps,
            histograms: Histograms {
                latency: encoded(&window.latency),
                service: kept.map(|kept| encoded(&kept.service)),
                send_lateness: kept.map(|kept| encoded(&kept.lateness)),
                connect: encoded(connect),
            },
            series: Row::all(&window.series).collect(),
        }
    }

    /// The result as one line of words that a script can split.
    pub fn line(&self) -> String {
        let l = &self.latency_us;
        let errors: u64 = self.errors.values().sum();
        let verdicts = if self.verdicts.is_empty() { "-".into() } else { self.verdicts.join(",") };
        let awkward = self.awkward.map_or(String::new(), |conduct| {
            let Counts { asked, connected, refused, closed_by_server, reset_by_server, .. } = conduct.sum();
            format!(
                " awkward={asked} awkward_connected={connected} awkward_refused={refused} \
                 awkward_closed={closed_by_server} awkward_reset={reset_by_server}"
            )
        });
        format!(
            "messages={} messages_per_s={:.1} p50_us={} p90_us={} p99_us={} p999_us={} max_us={} errors={errors} \
             valid={} verdicts={verdicts}{awkward}\n",
            self.messages, self.messages_per_s, l.p50, l.p90, l.p99, l.p999, l.max, self.valid
        )
    }

    /// The result in at most 80 columns.
    pub fn for_people(&self, run: &Run) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let (plan, l, c) = (&self.settings.plan, &self.latency_us, &self.connections);
        let checked = if plan.verify { "every echo checked" } else { "echoes NOT checked" };
        let clients = if self.udp.is_some() { "clients" } else { "connections" };
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<12}{value}");
        };
        line(
            "server",
            format!("{}, {} {clients}, {} bytes, {checked}", self.endpoint, plan.connections, plan.size),
        );
        line(
            "answers",
            format!("{} in {:.2} s, {:.0} a second", self.messages, self.measured_s, self.messages_per_s),
        );
        line("bytes", format!("{:.1} MB a second each way", self.bytes_per_s / 1e6));
        line(
            "latency",
            format!(
                "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
                us(l.p50),
                us(l.p90),
                us(l.p99),
                us(l.p999),
                us(l.max)
            ),
        );
        if let (Some(service), Some(late), Some(departures)) =
            (&self.service_us, &self.send_lateness_us, &self.departures)
        {
            line(
                "",
                format!(
                    "from leaving: p50 {}  p99 {}  max {}",
                    us(service.p50),
                    us(service.p99),
                    us(service.max)
                ),
            );
            line(
                "sends",
                format!("late by p50 {}  p99 {}  max {}", us(late.p50), us(late.p99), us(late.max)),
            );
            if departures.dropped > 0 {
                line("", format!("{} of {} did not leave", departures.dropped, departures.due));
            }
        }
        for step in self.steps {
            let rate = step.rate.map_or(String::new(), |rate| format!(" of {rate:.0}"));
            let (connections, l) = (step.connections, &step.latency_us);
            let figures = format!("p50 {}  p99 {}  max {}", us(l.p50), us(l.p99), us(l.max));
            line("step", format!("{connections}: {:.0}{rate} a second; {figures}", step.messages_per_s));
        }
        match &self.udp {
            None => line(
                "connecting",
                format!(
                    "{} of {} up; p50 {}  max {}",
                    c.established,
                    c.asked,
                    us(self.connect_us.p50),
                    us(self.connect_us.max)
                ),
            ),
            Some(audit) => {
                let Audit { lost, late, duplicated, reordered, .. } = audit;
                line(
                    "datagrams",
                    format!("{} sent, warm-up included; {} came back", audit.sent, audit.received),
                );
                line("", format!("{lost} lost, {late} late, {duplicated} twice, {reordered} out of order"));
                for (drops, whose) in [(audit.server_kernel_drops, "server"), (audit.kernel_drops, "client")]
                {
                    if let Some(drops @ 1..) = drops {
                        line("", format!("{drops} dropped by the kernel: the {whose}'s socket was full"));
                    }
                }
            }
        }
        if let (Some(messages), Some(rate)) = (plan.churn, self.connections_per_s) {
            line("churn", format!("{rate:.0} connections a second, closed after {messages} message(s)"));
        }
        for (manner, counts) in self.awkward.iter().flat_map(|conduct| &conduct.counts) {
            let Counts { asked, connected, bytes_sent, bytes_back, reset_by_us, .. } = counts;
            let stayed = match manner {
                Manner::Reset => format!("{reset_by_us} reset in mid-message"),
                _ => format!("{connected} still there"),
            };
            let option = manner.option();
            line(
                "awkward",
                format!("{asked} x {option}: {stayed}; bytes sent {bytes_sent}, back {bytes_back}"),
            );
            let Counts { refused, failed, closed_by_server: closed, reset_by_server: reset, .. } = counts;
            if refused + failed + closed + reset > 0 {
                line(
                    "",
                    format!("the server refused {refused}, closed {closed}, reset {reset}; {failed} failed"),
                );
            }
        }
        line("fairness", format!("{} {clients} served; Jain's index {:.3}", c.served, c.jain));
        line(
            "client",
            format!(
                "{:.2} us of CPU an answer; busiest thread {:.0} %",
                self.client_cpu_us_per_message,
                100.0 * self.client_busiest_thread
            ),
        );
        for (fault, n, what) in run.faults.iter() {
            line("ERROR", format!("{n} x {}: {what}", fault.name()));
        }
        for verdict in &self.verdicts {
            line("VERDICT", format!("{verdict}: {}", self.why[verdict]));
        }
        text
    }
}
