//! `load`: loads one server in a closed or an open loop, checks every echo, and prints what came of it. Over UDP
//! each datagram is accounted for.

use std::{
    io,
    net::IpAddr,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arguments::{CpuList, Endpoint, Transport};
use clap::Args;
use log::warn;
use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Map, Value, json};

mod barrier;
mod course;
mod gate;
mod highest;
mod launcher;
mod live;
mod percentiles;
mod record;
mod run;
mod start;
mod summary;
mod ticker;
mod verdict;

pub use launcher::Placed;
pub use percentiles::{Percentiles, UNKNOWN, us};
pub use record::{Files, decoded, encoded};
pub use run::Run;
pub use summary::{OWN, Part, SCHEMA, Subject, Summary};
pub use verdict::{OUTAGE, Outage, UNSYNCHRONISED, Verdict};

use barrier::{Barrier, Introduction, Meeting};
use course::{Course, Shown};
use gate::Gate;
use live::Live;
use run::Timetable;
use screen::Screen;
use start::{Start, moment};
use summary::Settings;
use ticker::Ticker;

use super::{Failure, Outcome, fits_a_datagram, number};
use crate::{
    environment::{Environment, command_line},
    interrupt,
    load::{
        Arrivals, Beyond, Engine, LONGEST, MOST, Means, Mix, Nobody, Onlooker, Pace, Plan, Ports, Rank,
        STAMP, Sizes, SocketOptions, destination, is_on_this_machine,
    },
    reach,
    saturation::{self, Bound},
};

/// What stands below the options in the help of what writes a result.
pub const AFTERWARDS: &str = "\
A result is valid unless one of its verdicts voids it. `interrupted`, `started-late`, `outage`, `not-sustained`, `client-bound` and, of one \
rank, `unsynchronised` do not: the figures count, and client-bound says that the server may be faster than they are. In an \
open loop whose departures were late or dropped, client-bound voids.

Exit status: 0 valid, 1 the server failed: a wrong echo, nothing came up, no connection was left, or a figure is beyond \
--fail-if; 2 the command line is wrong, 3 measured and not valid, or this program or the machine failed; 130 interrupted, with the files written.";

/// Load one server and print the result.
#[derive(Debug, Args)]
#[command(after_help = AFTERWARDS)]
pub struct Load {
    /// The server, like tcp://127.0.0.1:7007, udp://192.0.2.1:7007 or unix:///run/echo.sock; without a transport it is
    /// tcp://
    #[arg(value_name = "ENDPOINT", value_parser = reach::endpoint)]
    #[allow(rustdoc::broken_intra_doc_links, reason = "an address is no link")]
    endpoint: Endpoint,

    /// How many connections are held at once, over all ranks and at most 1048576 in each; over UDP: how many clients,
    /// each with a socket of its own
    #[arg(short, long, value_name = "N", default_value = "64", value_parser = number(1 << 30))]
    connections: usize,

    /// How long is measured
    #[arg(short, long, value_name = "DURATION", default_value = "5s", value_parser = some_time)]
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

    /// First search the highest rate at which a percentile is within a bound, like 'p99<10ms', and the answers keep up; then load
    /// at that rate. Each rate, from 250 a second on, is tried for a tenth of --duration, or ten times the bound where that is longer.
    /// Messages are due at random times; over a stream they wait where their connection has one on its way, and latency is
    /// counted from when each was due
    #[arg(long, value_name = "PERCENTILE<BOUND", conflicts_with_all = ["rate", "pipeline", "burst", "think", "ramp", "live",
        "rank", "barrier", "start_at"])]
    find_rate: Option<Bound>,

    /// How departures follow each other
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Arrivals::Constant, requires = "rate")]
    arrivals: Arrivals,

    /// How many messages of a connection may be on their way at once; what is due beyond that is dropped, and counted
    #[arg(long, value_name = "N", default_value = "65536", value_parser = number(1 << 20), requires = "rate")]
    max_outstanding: usize,

    /// How late one send in a hundred may leave; beyond that the result is schedule-late, and none
    #[arg(long, value_name = "DURATION", default_value = "1ms", value_parser = arguments::duration, requires = "rate")]
    max_lateness: Duration,

    /// Over UDP: send N datagrams in one system call (UDP_SEGMENT), and the next N when all are back or lost;
    /// --pipeline does not wait for all
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

    #[command(flatten)]
    awkward: Mix,

    /// Climb in N equal steps to --rate, or without that to --connections; each step is warmed up, and they share
    /// the --duration
    #[arg(long, value_name = "N", default_value = "1", value_parser = number(1000))]
    ramp: usize,

    /// I/O backend
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t)]
    engine: Means,

    /// How many threads share the connections [default: half of the processors that it may use; where the
    /// server is on another machine, all]
    #[arg(long, value_name = "N", value_parser = number(1024))]
    threads: Option<usize>,

    /// How many connections are opened a second
    #[arg(long, value_name = "N", default_value = "5000", value_parser = clap::value_parser!(u32).range(1..))]
    connect_rate: u32,

    /// How long a connection, an answer or the end may take; a datagram whose answer takes longer is lost
    /// [default: 5s, over UDP 1s]
    #[arg(long, value_name = "DURATION", value_parser = some_time)]
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

    /// Which one of several generators of one load this is, like 0/4: each has its share of the connections and of
    /// the schedule. In the name of a file {rank} stands for the number [default: as mpirun, srun or an Indexed Job
    /// of Kubernetes says]
    #[arg(long, value_name = "K/N")]
    rank: Option<Rank>,

    /// Where the ranks meet to begin together: rank 0 listens there, at an address or a name of its own [default:
    /// where all were started together on this host, on this host]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "start_at")]
    barrier: Option<Meeting>,

    /// How long the ranks wait there for each other
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = arguments::duration)]
    barrier_timeout: Duration,

    /// When the load begins, by this host's clock: like 2026-11-21T12:00:00Z, or in seconds since 1970. The
    /// connections are up before
    #[arg(long, value_name = "TIME", value_parser = moment)]
    start_at: Option<SystemTime>,

    /// Show on the whole terminal how it goes: rate, latency, errors, verdicts. In an open loop the keys up and down change
    /// the rate by a tenth, PgUp and PgDn double and halve it; p pauses the view, q ends the load early, with a result
    #[arg(long)]
    live: bool,

    /// Fail (1) where a figure is beyond a bound, like 'p99>10ms', 'messages_per_s<50000', 'errors>0': p50, p90, p99, p99.9, max,
    /// and every figure of --json by its path, like connect_us.p99; can be given again
    #[arg(long, value_name = "FIGURE>BOUND")]
    fail_if: Vec<Gate>,

    #[command(flatten)]
    files: Files,
}

impl Load {
    /// Loads the server. The exit status is [`Run::exit_status`].
    pub fn run(self) -> Outcome {
        let mut environment = Environment::read();
        let placed = match self.rank {
            Some(rank) => Some(Placed::by_option(rank)),
            None => Placed::by_environment().map_err(Failure::Usage)?,
        };
        let mut plan = self.plan(placed.as_ref().map_or(Rank::ALONE, |placed| placed.rank));
        let (stop, files, engine) = self.prepare(&plan, placed.as_ref()).inspect_err(|why| {
            let at_once = AtomicBool::new(true); // a name that is not there yet is not waited for
            if let Ok(mut start) = self.start(&plan, placed.as_ref(), &at_once) {
                start.give_up(why, &AtomicBool::new(false));
            }
        })?;
        let mut start = self.start(&plan, placed.as_ref(), &stop)?;
        let doubt = start.doubt(plan.rank);
        if let Some(Verdict { why, .. }) = &doubt {
            warn!("{why}; --barrier HOST:PORT lets all begin together, and so does --start-at TIME");
        }

        let onlooker = self.onlooker(&plan, &stop)?;
        let Self { warmup, duration, ramp, find_rate, .. } = self;
        let timetable = Timetable { warmup, duration, ramp, find_rate };
        let run = Run::of(engine, timetable, &mut start, &stop, onlooker)
            .inspect_err(|why| start.give_up(why, &stop))?;
        if let Some(highest) = &run.highest {
            plan.pace = plan.pace.at(highest.per_s);
        }
        environment.end();

        let max_lateness = find_rate.map_or(self.max_lateness, Bound::lateness);
        let mut verdicts = Verdict::all(&run.evidence(), max_lateness);
        let ports = plan.churn.and_then(|_| Ports::of(&self.endpoint, &self.source));
        verdicts.extend(ports.as_ref().and_then(Verdict::of_ports));
        let bound = find_rate.filter(|_| run.highest.is_some() && !run.interrupted);
        verdicts.extend(bound.and_then(|bound| Verdict::of_bound(bound, &run.window)));
        verdicts.extend(doubt);
        let result = Summary::new(self.subject(plan, placed, start.run(), &environment), &run, verdicts);
        files.write(&result, &run)?;
        match run.exit_status(result.valid) {
            0 => self.passes(&json!(result)),
            status => Ok(ExitCode::from(status)),
        }
    }

    /// A result that counts: whether it passes all gates.
    fn passes(&self, result: &Value) -> Outcome {
        let complaints: Vec<String> = self.fail_if.iter().filter_map(|gate| gate.complaint(result)).collect();
        match complaints.is_empty() {
            true => Ok(ExitCode::SUCCESS),
            false => Err(Failure::Failed(format!("--fail-if {}", complaints.join("; ")))),
        }
    }

    /// Finds out whether all can be done, and makes ready what needs no server: the flag that ^C sets, the files, the
    /// threads.
    fn prepare(
        &self,
        plan: &Plan,
        placed: Option<&Placed>,
    ) -> Result<(Arc<AtomicBool>, record::Opened, Engine), Failure> {
        let wrong = contradiction(plan).or_else(|| self.misfit(plan, placed));
        wrong.map_or(Ok(()), |sentence| Err(Failure::Usage(sentence)))?;
        if self.live {
            if self.files.is_json_printed() {
                return Err(Failure::Usage("--live and --json - would share stdout; name a file".into()));
            }
            Screen::exists().map_err(|why| Failure::Usage(format!("--live: {why}")))?;
        }
        let last_act = if self.live { screen::give_back } else { || {} };
        let stop = interrupt::on_signals(last_act).map_err(Failure::io("signals"))?;
        let engine = Engine::new(plan, &stop).map_err(no_engine)?;
        let files = self.files.open(plan.rank)?;
        Ok((stop, files, engine))
    }

    /// Who is to see how it goes.
    fn onlooker(&self, plan: &Plan, stop: &Arc<AtomicBool>) -> Result<Box<dyn Onlooker>, Failure> {
        let course = Course::new(plan, self.ramp, self.max_lateness, stop);
        if self.live {
            let display = Live::take(stop).map_err(Failure::Harness)?;
            return Ok(Box::new(Shown { course, display }));
        }
        Ok(match Ticker::on_terminal() {
            Some(display) => Box::new(Shown { course, display }),
            None => Box::new(Nobody),
        })
    }

    /// What the result is of.
    fn subject(
        &self,
        plan: Plan,
        rank: Option<Placed>,
        run: Option<String>,
        environment: &Environment,
    ) -> Subject {
        Subject {
            rank,
            run,
            ranks: Vec::new(),
            endpoint: self.endpoint.to_string(),
            command: command_line(),
            seed: self.seed,
            environment: json!(environment),
            settings: self.settings(plan),
        }
    }

    /// What was asked for, by name.
    fn settings(&self, plan: Plan) -> Map<String, Value> {
        let start_at = self.start_at.and_then(|moment| moment.duration_since(UNIX_EPOCH).ok());
        let settings = Settings {
            plan,
            warmup_s: self.warmup.as_secs_f64(),
            duration_s: self.duration.as_secs_f64(),
            ramp: self.ramp,
            start_at: start_at.map(|since| since.as_secs_f64()),
        };
        match json!(settings) {
            Value::Object(settings) => settings,
            _ => unreachable!("settings have names"),
        }
    }

    /// When the load begins. Ranks of one host meet without being told to.
    fn start(&self, plan: &Plan, placed: Option<&Placed>, stop: &AtomicBool) -> Result<Start, Failure> {
        if let Some(moment) = self.start_at {
            return Ok(Start::At(moment));
        }
        let Some(Placed { job, neighbours, .. }) = placed.filter(|placed| placed.rank.ranks > 1) else {
            return Ok(Start::AtOnce);
        };
        let meeting = self.barrier.clone().or_else(|| neighbours.clone().map(Meeting::Here));
        let Some(meeting) = meeting else { return Ok(Start::AtOnce) };
        let (endpoint, settings) = (self.endpoint.to_string(), self.settings(plan.clone()));
        let own = Introduction::new(plan.rank, job.clone(), &endpoint, &settings);
        let barrier = Barrier::new(own, meeting, self.barrier_timeout, stop)?;
        Ok(Start::Together(Box::new(barrier)))
    }

    /// What several ranks cannot do.
    fn disagreement(&self, Rank { ranks, .. }: Rank, placed: Option<&Placed>) -> Option<String> {
        let connections = self.connections;
        let Some(Placed { by, .. }) = placed else {
            if self.barrier.is_some() {
                return Some("--barrier is for several ranks; say --rank too, like 0/4".into());
            }
            return (connections > MOST_OF_A_RANK).then(|| {
                format!("--connections: one generator holds {MOST_OF_A_RANK}; start several (--rank)")
            });
        };
        if self.live && ranks > 1 {
            return Some(format!(
                "--live shows one generator, and there are {ranks} (by {by}); leave it out"
            ));
        }
        if self.find_rate.is_some() && ranks > 1 {
            return Some(format!(
                "--find-rate is of one generator, and there are {ranks} (by {by}); leave it out"
            ));
        }
        if connections < ranks {
            return Some(format!("--connections: {connections} are too few for {ranks} ranks; choose more"));
        }
        if connections.div_ceil(ranks) > MOST_OF_A_RANK {
            return Some(format!(
                "--connections: {connections} of {ranks} ranks are more than {MOST_OF_A_RANK} each; start more ranks"
            ));
        }
        // Who was told the rank by an option can be told a name as well; the others are all told the same.
        let shared = self.files.shared().filter(|_| ranks > 1 && self.rank.is_none())?;
        Some(format!("{shared}: {ranks} ranks (by {by}) would write one file; put {{rank}} into its name"))
    }

    /// What does not go with the endpoint, or with the machine.
    fn misfit(&self, plan: &Plan, placed: Option<&Placed>) -> Option<String> {
        if let Some(sentence) = self.disagreement(plan.rank, placed) {
            return Some(sentence);
        }
        if let Err(error) = destination(&self.endpoint) {
            return Some(format!("{}: {error}", self.endpoint));
        }
        if self.engine == Means::IoUring && self.endpoint.transport() == Transport::Udp {
            return Some("--engine: io-uring carries streams; over UDP choose mio".into());
        }
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let own = plan.rank.share(self.connections) + self.awkward.share(plan.rank).count();
        let others = if plan.rank.rank == 0 { plan.rank.ranks - 1 } else { 0 }; // they come to the barrier
        if (own + others) as u64 + SPARE > descriptors {
            return Some(format!("--connections: only {descriptors} descriptors may be open (ulimit -n)"));
        }
        if self.rate.is_none() && self.ramp > self.connections / plan.rank.ranks {
            let (ramp, connections) = (self.ramp, self.connections);
            return Some(format!("--ramp: {ramp} steps to {connections} connections; choose fewer steps"));
        }
        let (Endpoint::Tcp(server) | Endpoint::Udp(server)) = self.endpoint else {
            let inapt = [
                ("--nodelay", self.nodelay.is_some()),
                ("--source", !self.source.is_empty()),
                ("--reset", self.awkward.reset > 0),
            ];
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
        if self.find_rate.is_some() {
            return saturation::pace(self.endpoint.transport());
        }
        let beyond = Beyond::Dropped;
        rate.map_or(Pace::Closed { pipeline, think }, |per_second| Pace::Open {
            per_second,
            arrivals,
            max_outstanding,
            beyond,
        })
    }

    fn plan(&self, rank: Rank) -> Plan {
        let cpus = CpuList::allowed().map_or(1, |cpus| cpus.count());
        // The other half is the server's, where it is here.
        let usual = match self.endpoint {
            Endpoint::Tcp(server) | Endpoint::Udp(server) if !is_on_this_machine(server) => cpus,
            _ => cpus.div_ceil(2),
        };
        let (timeout, bounds) = match self.endpoint.transport() {
            Transport::Tcp => (Duration::from_secs(5), 1..=MOST),
            Transport::Udp => (Duration::from_secs(1), STAMP..=LONGEST),
        };
        Plan {
            endpoint: self.endpoint.clone(),
            means: self.engine,
            socket: SocketOptions {
                nodelay: self.nodelay.unwrap_or(true),
                send_buffer: self.send_buffer,
                receive_buffer: self.receive_buffer,
                sources: self.source.clone(),
            },
            connections: self.connections,
            rank,
            size: self.size.clone().drawn(self.seed, bounds),
            pace: self.pace(),
            burst: self.burst,
            churn: self.churn,
            half_close: self.half_close,
            threads: self.threads.unwrap_or(usual).min(rank.share(self.connections).max(1)),
            connect_rate: self.connect_rate,
            timeout: self.timeout.unwrap_or(timeout),
            interval: Duration::from_secs(1),
            verify: !self.no_verify,
            seed: self.seed,
            awkward: self.awkward.clone(),
        }
    }
}

/// The threads of the load, or what they need of the system, are refused.
fn no_engine(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::Unsupported => Failure::Usage(format!("--engine: {error}; choose mio")),
        _ => Failure::io("load")(error),
    }
}

/// How many connections a generator holds, at most.
const MOST_OF_A_RANK: usize = 1 << 20;

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

/// A duration that is one.
fn some_time(text: &str) -> Result<Duration, String> {
    let duration = arguments::duration(text)?;
    if duration.is_zero() {
        Err("longer than nothing; write it like 300ms, 5s or 2m".into())
    } else {
        Ok(duration)
    }
}

/// Messages a second.
fn rate(text: &str) -> Result<f64, String> {
    const ADVICE: &str = "write it like 20000 or 20000/s, from 0.000001 to 10000000";
    let number = text.strip_suffix("/s").unwrap_or(text);
    let rate: f64 = number.parse().map_err(|_| format!("that is no rate; {ADVICE}"))?;
    match (1e-6..=1e7).contains(&rate) {
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
        Transport::Udp if plan.awkward.count() > 0 => {
            let option = plan.awkward.option().unwrap_or_default();
            Some(format!("{option} is of connections, and UDP has none; use a tcp:// endpoint"))
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
