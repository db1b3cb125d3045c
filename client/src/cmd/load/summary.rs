//! The result: as JSON for programs, in eighty columns for people; and the run again, of what was written.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Percentiles, Placed, Run, UNKNOWN, Verdict,
    highest::Highest,
    record::{Entry, Histograms, decoded, encoded, seconds},
    run::{RateChange, Step},
    us,
};
use crate::load::{
    Audit, Conduct, Connecting, Counts, Fault, Faults, Interval, Manner, Plan, Rank, Shares, Throttling,
    Window, histogram,
};

/// The version of the JSON's form.
pub const SCHEMA: u32 = 1;

/// The result, as JSON and for people.
#[derive(Clone, Serialize, Deserialize)]
pub struct Summary {
    /// The version of its form.
    pub schema: u32,
    /// What it is of.
    #[serde(flatten)]
    pub subject: Subject,
    /// Whether the figures count.
    pub valid: bool,
    /// Why not, or what else is to be doubted.
    pub verdicts: Vec<String>,
    /// What each verdict means.
    pub why: BTreeMap<String, String>,
    /// When the measured time began, in seconds since 1970.
    pub measured_since: f64,
    /// How long it was.
    pub measured_s: f64,
    /// The answers that make the rate: in a closed loop those to the messages that left in it, in an open one those that
    /// came in it.
    pub messages: u64,
    /// All answers, with those of the warm-up and of the last moments.
    pub messages_in_all: u64,
    /// Answers a second; of no time there is none.
    pub messages_per_s: Option<f64>,
    bytes_per_s: Option<f64>,
    /// With `--churn`.
    connections_per_s: Option<f64>,
    /// From when each message was due; in a closed loop, from when it left.
    pub latency_us: Percentiles,
    /// In an open loop: from when each left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_us: Option<Percentiles>,
    /// In an open loop: how late each left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    send_lateness_us: Option<Percentiles>,
    /// What became of the messages of the measured time.
    departures: Departures,
    /// Of the connections in the measured time; without `--churn` of those before it.
    connect_us: Percentiles,
    /// What became of the clients that did not behave; nothing of theirs is in the other figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    awkward: Option<Conduct>,
    /// What became of the datagrams, those of the warm-up included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    udp: Option<Audit>,
    /// With `--find-rate`: what was searched before; all other figures are of that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    highest_rate: Option<Highest>,
    errors: BTreeMap<Fault, u64>,
    complaints: Vec<String>,
    connections: Connections,
    client_cpu_us_per_message: Option<f64>,
    /// The busiest thread's share of a processor.
    pub client_busiest_thread: Option<f64>,
    /// The same with the time that it was ready to run and had no processor, where the kernel tells that.
    client_busiest_demand: Option<f64>,
    /// How long a thread was stopped that was to run (SIGSTOP, a freezer), where the kernel tells that.
    #[serde(default)]
    client_stopped_s: Option<f64>,
    /// What the CPU quota of the client's cgroup did to it, where there is one.
    #[serde(default)]
    client_throttled: Option<Throttling>,
    /// In an open loop whose rate the user changed: how.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rate_changes: Vec<RateChange>,
    /// With `--ramp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepOf>,
    histograms: Histograms,
    series: Vec<Entry>,
}

/// The settings that ranks of one run may have chosen for themselves: see [`crate::load::Plan::lanes`].
pub const OWN: [&str; 2] = ["threads", "engine"];

/// What a result is of.
#[derive(Clone, Serialize, Deserialize)]
pub struct Subject {
    /// Where several generators make one load: which one it is of.
    pub rank: Option<Placed>,
    /// The run, where its ranks met; it is random.
    pub run: Option<String>,
    /// Of a merged result: what it is made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<Part>,
    /// The server.
    pub endpoint: String,
    /// What was typed.
    pub command: String,
    /// What bytes and schedule were made from.
    pub seed: u64,
    /// The machine.
    pub environment: Value,
    /// What was asked for, by name.
    pub settings: Map<String, Value>,
}

/// A rank's part of a merged result: what its own says.
#[derive(Clone, Serialize, Deserialize)]
pub struct Part {
    /// Which one.
    #[serde(flatten)]
    pub rank: Rank,
    pub command: String,
    pub environment: Value,
    pub valid: bool,
    pub verdicts: Vec<String>,
    pub measured_since: f64,
    pub measured_s: f64,
    pub messages: u64,
    pub messages_per_s: Option<f64>,
    pub latency_us: Percentiles,
    pub client_busiest_thread: Option<f64>,
}

/// What was asked for.
#[derive(Serialize)]
pub struct Settings {
    /// The load.
    #[serde(flatten)]
    pub plan: Plan,
    /// How long it was loaded unmeasured.
    pub warmup_s: f64,
    /// How long it was to be measured.
    pub duration_s: f64,
    /// In how many steps.
    pub ramp: usize,
    /// When it was to begin, in seconds since 1970, where that was said.
    pub start_at: Option<f64>,
}

/// What became of the messages of the measured time: each that was due was dropped or sent, and each that was sent was
/// answered or lost in flight. In a closed loop those are due that leave.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Departures {
    due: u64,
    /// Those of them that did not leave.
    dropped: u64,
    sent: u64,
    /// As many latencies are there.
    answered: u64,
    /// Those that had no answer, or none in time: its connection was lost, or its datagram.
    lost_in_flight: u64,
}

impl Departures {
    fn of(window: &Window) -> Self {
        let kept = window.punctuality.as_ref();
        Self {
            due: kept.map_or(window.sent, |kept| kept.due),
            dropped: kept.map_or(0, |kept| kept.dropped),
            sent: window.sent,
            answered: window.latency.len(),
            lost_in_flight: window.lost_in_flight,
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Connections {
    asked: usize,
    established: usize,
    /// All that came up: those at first, and those that `--churn` opened in their places.
    opened: u64,
    lost: usize,
    served: usize,
    /// Over all that were asked for.
    jain: Option<f64>,
    /// What the last two are made from.
    shares: Shares,
}

/// A step of a staircase.
#[derive(Clone, Serialize, Deserialize)]
struct StepOf {
    connections: usize,
    /// In an open loop.
    rate: Option<f64>,
    measured_s: f64,
    messages: u64,
    bytes: u64,
    messages_per_s: Option<f64>,
    /// As in the whole result.
    latency_us: Percentiles,
    send_lateness_us: Option<Percentiles>,
    due: Option<u64>,
    dropped: Option<u64>,
    /// Those of its messages that had no answer.
    #[serde(default)]
    lost_in_flight: u64,
    client_busiest_thread: Option<f64>,
    histograms: Histograms,
}

impl StepOf {
    fn of(step: &Step) -> Self {
        let Step { connections, rate, measured, ref seen, busiest_thread } = *step;
        let kept = seen.punctuality.as_ref();
        Self {
            connections,
            rate,
            measured_s: measured.as_secs_f64(),
            messages: seen.messages,
            bytes: seen.bytes,
            messages_per_s: of_some_time(measured, seen.messages as f64 / measured.as_secs_f64()),
            latency_us: Percentiles::with_lost(&seen.latency, seen.lost_in_flight),
            send_lateness_us: kept.map(|kept| Percentiles::of(&kept.lateness)),
            due: kept.map(|kept| kept.due),
            dropped: kept.map(|kept| kept.dropped),
            lost_in_flight: seen.lost_in_flight,
            client_busiest_thread: of_some_time(measured, busiest_thread),
            histograms: Histograms::of(seen),
        }
    }

    fn step(&self) -> Result<Step, String> {
        let Self { connections, rate, measured_s, messages, bytes, due, dropped, lost_in_flight, .. } = *self;
        let seen = self.histograms.interval(messages, bytes, due, dropped)?;
        Ok(Step {
            connections,
            rate,
            measured: seconds(measured_s)?,
            seen: Interval { lost_in_flight, ..seen },
            busiest_thread: self.client_busiest_thread.unwrap_or_default(),
        })
    }
}

/// What was seen in that time; where it is none, nothing was.
fn of_some_time(measured: Duration, figure: f64) -> Option<f64> {
    (!measured.is_zero()).then_some(figure)
}

impl Summary {
    /// What came of a run.
    pub fn new(subject: Subject, run: &Run, verdicts: Vec<Verdict>) -> Self {
        let window = &run.window;
        let kept = window.punctuality.as_ref();
        let churns = subject.settings.get("churn").is_some_and(|churn| !churn.is_null());
        let connect = if churns { &window.connect } else { &run.connecting.took };
        let seen = Interval {
            messages: window.messages,
            bytes: window.bytes,
            latency: window.latency.clone(),
            lost_in_flight: window.lost_in_flight,
            punctuality: window.punctuality.clone(),
            ..Interval::new()
        };
        Self {
            schema: SCHEMA,
            subject,
            valid: !verdicts.iter().any(|verdict| verdict.voids),
            verdicts: verdicts.iter().map(|verdict| verdict.name.clone()).collect(),
            why: verdicts.into_iter().map(|verdict| (verdict.name, verdict.why)).collect(),
            measured_since: run.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            measured_s: window.measured.as_secs_f64(),
            messages: window.messages,
            messages_in_all: window.messages_in_all,
            messages_per_s: window.rate(),
            bytes_per_s: window.byte_rate(),
            latency_us: Percentiles::with_lost(&window.latency, window.lost_in_flight),
            service_us: kept.map(|kept| Percentiles::with_lost(&kept.service, window.lost_in_flight)),
            send_lateness_us: kept.map(|kept| Percentiles::of(&kept.lateness)),
            departures: Departures::of(window),
            connections_per_s: window.connection_rate().filter(|_| churns),
            connect_us: Percentiles::of(connect),
            awkward: run.awkward.clone(),
            udp: window.audit,
            highest_rate: run.highest.clone(),
            errors: run.faults.iter().map(|(fault, n, _)| (fault, n)).collect(),
            complaints: run
                .faults
                .iter()
                .map(|(fault, _, what)| format!("{}: {what}", fault.name()))
                .collect(),
            connections: Connections {
                asked: run.connecting.asked,
                established: run.connecting.established,
                opened: run.connecting.established as u64 + window.opened_in_all,
                lost: run.lost,
                served: window.served(),
                jain: window.jain(run.connecting.asked),
                shares: window.by_connection,
            },
            client_cpu_us_per_message: window.cpu_us_per_message(),
            client_busiest_thread: of_some_time(window.measured, window.busiest_thread),
            client_busiest_demand: window.busiest_demand,
            client_stopped_s: window.stopped.map(|pause| pause.as_secs_f64()),
            client_throttled: window.throttled,
            rate_changes: run.changes.clone(),
            steps: run.steps.iter().map(StepOf::of).collect(),
            histograms: Histograms { connect: Some(encoded(connect)), ..Histograms::of(&seen) },
            series: Entry::all(&window.series).collect(),
        }
    }

    /// The run that it is of, as it was before it was told.
    ///
    /// # Errors
    /// What in it is not as we write it.
    pub fn run(&self) -> Result<Run, String> {
        let Self { messages, measured_s, connections, departures, histograms, .. } = self;
        let measured = seconds(*measured_s)?;
        let connect = histograms.connect.as_deref().map_or_else(|| Ok(histogram()), decoded)?;
        let bytes = (self.bytes_per_s.unwrap_or_default() * measured_s).round() as u64;
        let Departures { due, dropped, sent, lost_in_flight, .. } = *departures;
        let seen = histograms.interval(*messages, bytes, Some(due), Some(dropped))?;
        let Interval { latency, punctuality, .. } = seen;
        let mut faults = Faults::default();
        for (&fault, &n) in &self.errors {
            let begins = format!("{}: ", fault.name());
            let what = self.complaints.iter().find_map(|complaint| complaint.strip_prefix(&begins));
            faults.add_all(fault, n, what.unwrap_or_default().into());
        }
        Ok(Run {
            connecting: Connecting {
                asked: connections.asked,
                established: connections.established,
                took: connect.clone(),
                ..Connecting::new()
            },
            since: UNIX_EPOCH.checked_add(seconds(self.measured_since)?).ok_or("no such time")?,
            window: Window {
                measured,
                messages: *messages,
                bytes,
                messages_in_all: self.messages_in_all,
                sent,
                lost_in_flight,
                latency,
                opened: (self.connections_per_s.unwrap_or(0.0) * measured_s).round() as u64,
                opened_in_all: connections.opened.saturating_sub(connections.established as u64),
                connect,
                cpu: seconds(self.client_cpu_us_per_message.unwrap_or_default() * *messages as f64 / 1e6)?,
                busiest_thread: self.client_busiest_thread.unwrap_or_default(),
                busiest_demand: self.client_busiest_demand,
                stopped: self.client_stopped_s.map(seconds).transpose()?,
                throttled: self.client_throttled,
                series: self.series.iter().map(Entry::second).collect::<Result<_, _>>()?,
                by_connection: connections.shares,
                audit: self.udp,
                punctuality,
                ..Window::new()
            },
            steps: self.steps.iter().map(StepOf::step).collect::<Result<_, _>>()?,
            changes: self.rate_changes.clone(),
            lost: connections.lost,
            awkward: self.awkward.clone(),
            highest: self.highest_rate.clone(),
            faults,
            late: Duration::ZERO,
            interrupted: false, // who merges was not; the verdict stays
        })
    }

    /// As a part of a merged result.
    pub fn part(&self, rank: Rank) -> Part {
        Part {
            rank,
            command: self.subject.command.clone(),
            environment: self.subject.environment.clone(),
            valid: self.valid,
            verdicts: self.verdicts.clone(),
            measured_since: self.measured_since,
            measured_s: self.measured_s,
            messages: self.messages,
            messages_per_s: self.messages_per_s,
            latency_us: self.latency_us,
            client_busiest_thread: self.client_busiest_thread,
        }
    }

    /// After how many microseconds an answer is given up.
    fn timeout_us(&self) -> f64 {
        1e6 * self.subject.settings.get("timeout").and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// A setting, as it is told.
    fn setting(&self, name: &str) -> String {
        match self.subject.settings.get(name) {
            Some(Value::String(text)) => text.clone(),
            other => other.unwrap_or(&Value::Null).to_string(),
        }
    }

    /// The result as one line of words that a script can split.
    pub fn line(&self) -> String {
        let l = &self.latency_us;
        let written = |figure: Option<f64>| figure.map_or("-".into(), |figure| figure.to_string());
        let [p50, p90, p99, p999, max] = [l.p50, l.p90, l.p99, l.p999, l.max].map(written);
        let rate = self.messages_per_s.map_or("-".into(), |rate| format!("{rate:.1}"));
        let errors: u64 = self.errors.values().sum();
        let verdicts = if self.verdicts.is_empty() { "-".into() } else { self.verdicts.join(",") };
        let awkward = self.awkward.as_ref().map_or(String::new(), |conduct| {
            let Counts { asked, connected, refused, closed_by_server, reset_by_server, .. } = conduct.sum();
            format!(
                " awkward={asked} awkward_connected={connected} awkward_refused={refused} \
                 awkward_closed={closed_by_server} awkward_reset={reset_by_server}"
            )
        });
        format!(
            "messages={} messages_per_s={rate} p50_us={p50} p90_us={p90} p99_us={p99} p999_us={p999} max_us={max} \
             errors={errors} lost_in_flight={} valid={} verdicts={verdicts}{awkward}\n",
            self.messages, self.departures.lost_in_flight, self.valid
        )
    }

    /// Where no connection came up there is one thing to say.
    fn nobody(&self, run: &Run) -> String {
        let Connections { asked, .. } = self.connections;
        let why = run.faults.worst().map_or(String::new(), |(fault, n, what)| {
            let what = what.split_once(": ").map_or(what, |(_, what)| what); // whichever connection it was
            format!(": {n} x {}: {what}", fault.name())
        });
        format!("{}: none of {asked} connections came up{why}\n", self.subject.endpoint)
    }

    /// The result in at most 80 columns.
    pub fn for_people(&self, run: &Run) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let (subject, l, c) = (&self.subject, &self.latency_us, &self.connections);
        if c.established == 0 && run.window.messages_in_all == 0 {
            return self.nobody(run);
        }
        let timeout_us = self.timeout_us();
        let told = |l: &Percentiles, figure| l.told(figure, timeout_us);
        let in_short = |l: &Percentiles| {
            format!("p50 {}  p99 {}  max {}", told(l, l.p50), told(l, l.p99), told(l, l.max))
        };
        let checked = if subject.settings.get("verify") == Some(&Value::Bool(true)) {
            "every echo checked"
        } else {
            "echoes NOT checked"
        };
        let clients = if self.udp.is_some() { "clients" } else { "connections" };
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<12}{value}");
        };
        line(
            "server",
            format!(
                "{}, {} {clients}, {} bytes, {checked}",
                subject.endpoint,
                self.setting("connections"),
                self.setting("size")
            ),
        );
        if let Some(Placed { rank: Rank { rank, ranks }, by, .. }) = &subject.rank {
            line("rank", format!("{rank} of {ranks}, by {by}: {} {clients} here", c.asked));
        }
        for (n, said) in self.highest_rate.iter().flat_map(Highest::lines).enumerate() {
            line(if n == 0 { "highest" } else { "" }, said);
        }
        line(
            "answers",
            format!("{} in {:.2} s, {} a second", self.messages, self.measured_s, whole(self.messages_per_s)),
        );
        let megabytes = self.bytes_per_s.map_or(UNKNOWN.into(), |bytes| format!("{:.1}", bytes / 1e6));
        line("bytes", format!("{megabytes} MB a second each way"));
        let latency = match (l.count, l.censored) {
            (0, None) => "none".into(),
            _ => format!(
                "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
                told(l, l.p50),
                told(l, l.p90),
                told(l, l.p99),
                told(l, l.p999),
                told(l, l.max)
            ),
        };
        line("latency", latency);
        let Departures { due, dropped, sent, lost_in_flight, .. } = self.departures;
        if lost_in_flight > 0 {
            line("", format!("{lost_in_flight} of {sent} lost in flight: no answer in time"));
        }
        if let (Some(service), Some(late)) = (&self.service_us, &self.send_lateness_us) {
            line("", format!("from leaving: {}", in_short(service)));
            line("sends", format!("late by {}", in_short(late)));
            if dropped > 0 {
                line("", format!("{dropped} of {due} did not leave"));
            }
        }
        for Part { rank, messages_per_s, latency_us: l, .. } in &subject.ranks {
            let figures = format!("{} a second; {}", whole(*messages_per_s), in_short(l));
            line(&format!("rank {}", rank.rank), figures);
        }
        if let Some(RateChange { at_s, rate }) = self.rate_changes.last() {
            let times = self.rate_changes.len();
            line("rate", format!("changed by hand, {times} time(s): {rate} a second since {at_s:.1} s"));
        }
        for step in &self.steps {
            let rate = step.rate.map_or(String::new(), |rate| format!(" of {rate:.0}"));
            let (connections, figures) = (step.connections, in_short(&step.latency_us));
            line("step", format!("{connections}: {}{rate} a second; {figures}", whole(step.messages_per_s)));
        }
        match &self.udp {
            None => {
                let took = match (self.connect_us.p50, self.connect_us.max) {
                    (Some(p50), Some(max)) => format!("; p50 {}  max {}", us(p50), us(max)),
                    _ => String::new(),
                };
                line("connecting", format!("{} of {} up{took}", c.established, c.asked));
            }
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
                if let Some(drops @ 1..) = audit.backlog_drops.filter(|_| lost + late > 0) {
                    line(
                        "",
                        format!("{drops} dropped by the kernel before any socket, of all on this machine"),
                    );
                }
            }
        }
        if let Some(rate) = self.connections_per_s {
            let messages = self.setting("churn");
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
        let jain = c.jain.map_or(UNKNOWN.into(), |index| format!("{index:.3}"));
        line("fairness", format!("{} of {} {clients} served; Jain's index {jain}", c.served, c.asked));
        line(
            "client",
            format!(
                "{} us of CPU an answer; busiest thread {} %",
                self.client_cpu_us_per_message.map_or(UNKNOWN.into(), |us| format!("{us:.2}")),
                whole(self.client_busiest_thread.map(|share| 100.0 * share))
            ),
        );
        for (fault, n, what) in run.faults.iter() {
            line("ERROR", format!("{n} x {}: {what}", fault.name()));
        }
        for verdict in &self.verdicts {
            let why = self.why.get(verdict).map_or("", String::as_str);
            let said = format!("{verdict}: {why}");
            for (n, said) in textwrap::wrap(&said, 68).into_iter().enumerate() {
                line(if n == 0 { "VERDICT" } else { "" }, said.into_owned());
            }
        }
        text
    }
}

/// A figure without its fraction.
fn whole(figure: Option<f64>) -> String {
    figure.map_or(UNKNOWN.into(), |figure| format!("{figure:.0}"))
}
