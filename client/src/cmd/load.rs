//! `load`: loads one server in a closed or an open loop, checks every echo, and prints what came of it. Over UDP
//! each datagram is accounted for.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use arguments::{CpuList, Endpoint, Transport};
use clap::Args;
use hdrhistogram::{
    Histogram,
    serialization::{V2DeflateSerializer, interval_log::IntervalLogWriterBuilder},
};
use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;

mod verdict;

pub use verdict::CLIENT_BOUND;

use verdict::Verdict;

use super::{Failure, Outcome, create, fits_a_datagram, number, print};
use crate::{
    environment::{Environment, command_line},
    interrupt,
    load::{
        Arrivals, Audit, Connecting, Engine, Faults, LONGEST, MOST, Pace, Plan, STAMP, Sizes, SocketOptions,
        Window, destination,
    },
    progress::Progress,
};

/// Load one server and print the result.
#[derive(Debug, Args)]
pub struct Load {
    /// The server, like tcp://127.0.0.1:7007, udp://[::1]:7007 or unix:///run/echo.sock
    #[arg(value_name = "ENDPOINT")]
    endpoint: Endpoint,

    /// How many connections are held at once; over UDP: how many clients, each with a socket of its own
    #[arg(short, long, value_name = "N", default_value = "64", value_parser = number(1 << 20))]
    connections: usize,

    /// How long is measured
    #[arg(short, long, value_name = "DURATION", default_value = "5s", value_parser = arguments::duration)]
    duration: Duration,

    /// How long is loaded before that, unmeasured
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = arguments::duration)]
    warmup: Duration,

    /// How many bytes messages have: N, A..B, exp:MEAN, lognormal:MEAN,SIGMA or a FILE.csv of lengths and how often
    /// each occurs. A datagram may have none, and at most 65507; where lengths differ, at least 24
    #[arg(short, long, value_name = "BYTES", default_value = "64")]
    size: Sizes,

    /// How many messages a connection has on their way at once
    #[arg(long, value_name = "DEPTH", default_value = "1", value_parser = number(1 << 16))]
    pipeline: usize,

    /// How long after an answer the next message departs
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = arguments::duration)]
    think: Duration,

    /// An open loop: so many messages depart a second, over all connections, whatever the server does; latency is
    /// counted from when each was due. Write it like 20000 or 20000/s
    #[arg(long, value_name = "RATE", value_parser = rate, conflicts_with_all = ["pipeline", "burst", "think"])]
    rate: Option<f64>,

    /// How departures follow each other
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Arrivals::Constant, requires = "rate")]
    arrivals: Arrivals,

    /// How many messages of a connection may be on their way at once; what is due beyond that is dropped, and counted
    #[arg(long, value_name = "N", default_value = "65536", value_parser = number(1 << 20), requires = "rate")]
    max_outstanding: usize,

    /// How late one send in a hundred may leave; beyond that the result is schedule-late, and none
    #[arg(long, value_name = "DURATION", default_value = "1ms", value_parser = arguments::duration, requires = "rate")]
    max_lateness: Duration,

    /// Over UDP: send N datagrams in one system call (UDP_SEGMENT), and the next N when all are back or lost
    #[arg(long, value_name = "N", value_parser = number(64), conflicts_with = "pipeline")]
    burst: Option<usize>,

    /// Close a connection after N messages, and open another in its place
    #[arg(long, value_name = "N", value_parser = number(1 << 30))]
    churn: Option<usize>,

    /// Send our FIN with the last message before --churn closes, and wait for the server's
    #[arg(long, requires = "churn")]
    half_close: bool,

    /// Whether messages leave at once (TCP_NODELAY); without that, small ones wait for the answer to the last
    #[arg(long, value_name = "on|off", value_parser = switch)]
    nodelay: Option<bool>,

    /// How many bytes the kernel may keep that a connection has sent (SO_SNDBUF) [default: the kernel's]
    #[arg(long, value_name = "BYTES", value_parser = buffer)]
    send_buffer: Option<usize>,

    /// How many bytes it may keep that have come (SO_RCVBUF) [default: the kernel's; over UDP what --pipeline needs]
    #[arg(long, value_name = "BYTES", value_parser = buffer)]
    receive_buffer: Option<usize>,

    /// Where connections come from, in turns [default: to loopback 10000 each from 127.0.0.1, 127.0.0.2, …; else
    /// where the kernel says]
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',')]
    source: Vec<IpAddr>,

    /// How many threads share the connections [default: half of the processors that it may use]
    #[arg(long, value_name = "N", value_parser = number(1024))]
    threads: Option<usize>,

    /// How many connections are opened a second
    #[arg(long, value_name = "N", default_value = "5000", value_parser = clap::value_parser!(u32).range(1..))]
    connect_rate: u32,

    /// How long a connection, an answer or the end may take; a datagram whose answer takes longer is lost
    /// [default: 5s, over UDP 1s]
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    timeout: Option<Duration>,

    /// Compare every byte that comes back with what was sent (the default)
    #[arg(long)]
    verify: bool,

    /// Do not compare; the result says so
    #[arg(long, conflicts_with = "verify")]
    no_verify: bool,

    /// What the bytes are made from
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the latencies as an HdrHistogram log (V2), in nanoseconds
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,
}

impl Load {
    /// Loads the server. Exit status 1 where an echo was wrong or no connection came up.
    pub fn run(self) -> Outcome {
        let mut environment = Environment::read();
        let plan = self.plan();
        let wrong = contradiction(&plan).or_else(|| self.misfit());
        wrong.map_or(Ok(()), |sentence| Err(Failure::Usage(sentence)))?;
        let stop = interrupt::on_signals(|| {}).map_err(Failure::io("signals"))?;
        // Opened before the load, so that a wrong path does not cost a run.
        let json = self.json.as_deref().map(create).transpose()?;
        let hdr = self.hdr.as_deref().map(create).transpose()?;

        let began = SystemTime::now();
        let run = Run::of(&plan, self.warmup, self.duration, &stop).map_err(Failure::io("load"))?;
        environment.end();

        let result = Summary::new(&self, &plan, &run, environment);
        if let Some(file) = json {
            write_json(file, &result).map_err(Failure::io("--json"))?;
        }
        if let Some(file) = hdr {
            write_hdr(file, &run.window, began).map_err(Failure::io("--hdr"))?;
        }
        print(&result.for_people(&run));
        Ok(match () {
            () if run.is_worth_nothing() => ExitCode::from(1),
            () if run.interrupted => ExitCode::from(130),
            () => ExitCode::SUCCESS,
        })
    }

    /// What does not go with the endpoint, or with the machine.
    fn misfit(&self) -> Option<String> {
        if let Err(error) = destination(&self.endpoint) {
            return Some(format!("{}: {error}", self.endpoint));
        }
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        if self.connections as u64 + SPARE > descriptors {
            return Some(format!("--connections: only {descriptors} descriptors may be open (ulimit -n)"));
        }
        let (Endpoint::Tcp(server) | Endpoint::Udp(server)) = self.endpoint else {
            let inapt = [("--nodelay", self.nodelay.is_some()), ("--source", !self.source.is_empty())];
            let inapt = inapt.into_iter().find(|&(_, is_given)| is_given);
            return inapt.map(|(name, _)| format!("{name} is of TCP; a unix:// endpoint has none"));
        };
        if self.nodelay.is_some() && self.endpoint.transport() == Transport::Udp {
            return Some("--nodelay is of TCP; datagrams leave at once".into());
        }
        let alien = self.source.iter().find(|source| source.is_ipv4() != server.is_ipv4())?;
        Some(format!("--source: {alien} and the server's address are of different families"))
    }

    fn pace(&self) -> Pace {
        let Self { pipeline, think, rate, arrivals, max_outstanding, .. } = *self;
        rate.map_or(Pace::Closed { pipeline, think }, |per_second| Pace::Open {
            per_second,
            arrivals,
            max_outstanding,
        })
    }

    fn plan(&self) -> Plan {
        let half = CpuList::allowed().map_or(1, |cpus| cpus.count().div_ceil(2));
        let (timeout, bounds) = match self.endpoint.transport() {
            Transport::Tcp => (Duration::from_secs(5), 1..=MOST),
            Transport::Udp => (Duration::from_secs(1), STAMP..=LONGEST),
        };
        Plan {
            endpoint: self.endpoint.clone(),
            socket: SocketOptions {
                nodelay: self.nodelay.unwrap_or(true),
                send_buffer: self.send_buffer,
                receive_buffer: self.receive_buffer,
                sources: self.source.clone(),
            },
            connections: self.connections,
            size: self.size.clone().drawn(self.seed, bounds),
            pace: self.pace(),
            burst: self.burst,
            churn: self.churn,
            half_close: self.half_close,
            threads: self.threads.unwrap_or(half).min(self.connections),
            connect_rate: self.connect_rate,
            timeout: self.timeout.unwrap_or(timeout),
            verify: !self.no_verify,
            seed: self.seed,
        }
    }
}

/// How many descriptors are used beside those of the connections, and those for each thread.
const SPARE: u64 = 32;

/// `on` or `off`.
fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is on or off".into()),
    }
}

/// The size of a buffer of the kernel's.
fn buffer(text: &str) -> Result<usize, String> {
    let bytes = arguments::bytes(text)?;
    if (1..=1 << 30).contains(&bytes) { Ok(bytes) } else { Err("from 1 byte to 1GiB".into()) }
}

/// Messages a second.
fn rate(text: &str) -> Result<f64, String> {
    const ADVICE: &str = "write it like 20000 or 20000/s, up to 10000000";
    let number = text.strip_suffix("/s").unwrap_or(text);
    let rate: f64 = number.parse().map_err(|_| format!("that is no rate; {ADVICE}"))?;
    match rate > 0.0 && rate <= 1e7 {
        true => Ok(rate),
        false => Err(format!("not that many a second; {ADVICE}")),
    }
}

/// What the transport does not have.
fn contradiction(plan: &Plan) -> Option<String> {
    match plan.transport() {
        Transport::Tcp if plan.size.shortest() == 0 => {
            Some("--size: a message of a stream has at least a byte".into())
        }
        Transport::Tcp if plan.burst.is_some() => {
            Some("--burst is of datagrams; use a udp:// endpoint".into())
        }
        Transport::Udp if plan.churn.is_some() => {
            Some("--churn closes connections, and UDP has none; use a tcp:// endpoint".into())
        }
        Transport::Udp if plan.size.all().is_none() && plan.burst.is_some() => {
            Some("--burst: all of a burst have one length; choose one --size".into())
        }
        Transport::Udp if plan.size.all().is_none() && plan.size.shortest() < STAMP => {
            Some(format!("--size: datagrams whose lengths differ have at least {STAMP} bytes each"))
        }
        Transport::Udp => fits_a_datagram(plan.size.longest(), plan.burst),
        Transport::Tcp => None,
    }
}

/// What came of one load, from the first connect to the last FIN.
struct Run {
    connecting: Connecting,
    window: Window,
    faults: Faults,
    interrupted: bool,
}

impl Run {
    fn of(plan: &Plan, warmup: Duration, duration: Duration, stop: &Arc<AtomicBool>) -> io::Result<Self> {
        let progress = Progress::of_time("loading", warmup + duration);
        let (engine, connecting) = Engine::open(plan, stop)?;
        let window = engine.run(warmup, duration);
        progress.end();
        let interrupted = interrupt::requested(stop);
        let mut faults = connecting.faults.clone();
        faults.merge(window.faults.clone());
        faults.merge(engine.finish());
        Ok(Self { connecting, window, faults, interrupted })
    }

    /// Connections that came up and were lost before the end. Who sends datagrams has none to lose.
    fn lost(&self) -> usize {
        if self.window.audit.is_some() {
            return 0;
        }
        self.window.faults.counts().values().sum::<u64>() as usize
    }

    fn is_worth_nothing(&self) -> bool {
        self.connecting.established == 0
            || self.lost() >= self.connecting.established // none was left
            || self.window.messages_in_all == 0
            || self.faults.iter().any(|(fault, _, _)| fault.is_wrong_echo())
    }
}

/// The version of the JSON's form.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Summary {
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
    /// What became of the datagrams, those of the warm-up included.
    #[serde(skip_serializing_if = "Option::is_none")]
    udp: Option<Audit>,
    errors: BTreeMap<&'static str, u64>,
    complaints: Vec<String>,
    connections: Connections,
    client_cpu_us_per_message: f64,
    client_busiest_thread: f64,
    series: Vec<Second>,
}

#[derive(Serialize)]
struct Settings {
    #[serde(flatten)]
    plan: Plan,
    warmup_s: f64,
    duration_s: f64,
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

#[derive(Serialize)]
struct Second {
    second: usize,
    messages: u64,
}

/// A histogram of nanoseconds, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Percentiles {
    /// The smallest.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// Half are no larger.
    pub p50: f64,
    /// 90 % are no larger.
    pub p90: f64,
    /// 99 % are no larger.
    pub p99: f64,
    /// 99.9 % are no larger.
    pub p999: f64,
    /// 99.99 % are no larger.
    pub p9999: f64,
    /// The largest.
    pub max: f64,
}

impl Percentiles {
    /// Of all that was recorded; all zero where nothing was.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |percentile| us(histogram.value_at_percentile(percentile));
        Self {
            min: us(histogram.min()),
            mean: histogram.mean() / 1000.0,
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            p9999: at(99.99),
            max: us(histogram.max()),
        }
    }
}

impl Summary {
    fn new(load: &Load, plan: &Plan, run: &Run, environment: Environment) -> Self {
        let (window, verdicts) = (&run.window, Verdict::all(run, load.max_lateness));
        let kept = window.punctuality.as_ref();
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
            },
            valid: !verdicts.iter().any(|verdict| verdict.voids),
            verdicts: verdicts.iter().map(|verdict| verdict.name).collect(),
            why: verdicts.into_iter().map(|verdict| (verdict.name, verdict.why)).collect(),
            measured_s: window.measured.as_secs_f64(),
            messages: window.messages,
            messages_per_s: window.rate(),
            bytes_per_s: window.byte_rate(),
            latency_us: Percentiles::of(&window.latency),
            service_us: kept.map(|kept| Percentiles::of(&kept.service)),
            send_lateness_us: kept.map(|kept| Percentiles::of(&kept.lateness)),
            departures: kept.map(|kept| Departures { due: kept.due, dropped: kept.dropped }),
            connections_per_s: plan.churn.map(|_| window.connection_rate()),
            connect_us: Percentiles::of(if plan.churn.is_some() {
                &window.connect
            } else {
                &run.connecting.took
            }),
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
            series: (0..)
                .zip(&window.per_second)
                .map(|(second, &messages)| Second { second, messages })
                .collect(),
        }
    }

    /// The result in at most 80 columns.
    fn for_people(&self, run: &Run) -> String {
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

/// Microseconds for people: three digits, and the unit that fits.
pub fn us(us: f64) -> String {
    match us {
        _ if us < 10.0 => format!("{us:.2}us"),
        _ if us < 100.0 => format!("{us:.1}us"),
        _ if us < 1e3 => format!("{us:.0}us"),
        _ if us < 1e4 => format!("{:.2}ms", us / 1e3),
        _ if us < 1e5 => format!("{:.1}ms", us / 1e3),
        _ if us < 1e6 => format!("{:.0}ms", us / 1e3),
        _ => format!("{:.2}s", us / 1e6),
    }
}

fn write_json(mut file: File, result: &Summary) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut file, result)?;
    io::Write::write_all(&mut file, b"\n")
}

/// One interval, the measured time, in the format of HdrHistogram's log processors.
fn write_hdr(mut file: File, window: &Window, began: SystemTime) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("latencies in nanoseconds").with_start_time(began).with_base_time(began);
    // Divides nanoseconds by this for the line's readable maximum, which is in milliseconds.
    builder.with_max_value_divisor(1e6);
    let mut log = builder.begin_log_with(&mut file, &mut serializer)?;
    log.write_histogram(&window.latency, Duration::ZERO, window.measured, None)
        .map_err(|error| io::Error::other(format!("{error:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_keep_three_digits_and_find_their_unit() {
        let seen: Vec<String> = [1.234, 56.78, 456.7, 1234.0, 56_780.0, 456_700.0, 2e6].map(us).into();
        assert_eq!(seen, ["1.23us", "56.8us", "457us", "1.23ms", "56.8ms", "457ms", "2.00s"]);
    }
}
