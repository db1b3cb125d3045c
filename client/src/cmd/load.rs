//! `load`: loads one server in a closed or an open loop, checks every echo, and prints what came of it. Over UDP
//! each datagram is accounted for.

use std::{
    net::IpAddr,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arguments::{CpuList, Endpoint, Transport};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Value, json};

mod barrier;
mod course;
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
pub use percentiles::{Percentiles, us};
pub use record::{Files, decoded, encoded};
pub use run::Run;
pub use summary::{SCHEMA, Subject, Summary};
pub use verdict::{CLIENT_BOUND, Verdict};

use barrier::{Barrier, Meeting};
use course::{Course, Shown};
use live::Live;
use screen::Screen;
use start::{Start, moment};
use summary::Settings;
use ticker::Ticker;

use super::{Failure, Outcome, fits_a_datagram, number};
use crate::{
    environment::{Environment, command_line},
    interrupt,
    load::{
        Arrivals, LONGEST, MOST, Means, Mix, Nobody, Onlooker, Pace, Plan, Rank, STAMP, Sizes, SocketOptions,
        destination, is_ring_supported,
    },
    reach,
};

/// Load one server and print the result.
#[derive(Debug, Args)]
pub struct Load {
    /// The server, like tcp://127.0.0.1:7007, udp://192.0.2.1:7007 or unix:///run/echo.sock
    #[arg(value_name = "ENDPOINT", value_parser = reach::endpoint)]
    #[allow(rustdoc::broken_intra_doc_links, reason = "an address is no link")]
    endpoint: Endpoint,

    /// How many connections are held at once; over UDP: how many clients, each with a socket of its own
    #[arg(short, long, value_name = "N", default_value = "64", value_parser = number(1 << 20))]
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

    /// By which means of the kernel's [default: io-uring, where there is one, in a closed loop over streams with messages
    /// up to 1 KiB; else mio]
    #[arg(long, value_name = "ENGINE", value_enum)]
    engine: Option<Means>,

    /// How many threads share the connections [default: half of the processors that it may use]
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

    /// Where the ranks meet to begin together: rank 0 listens there [default: where all were started together on
    /// this host, on this host]
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

    #[command(flatten)]
    files: Files,
}

impl Load {
    /// Loads the server. Exit status 1 where an echo was wrong or no connection came up.
    pub fn run(self) -> Outcome {
        let mut environment = Environment::read();
        let placed = match self.rank {
            Some(rank) => Some(Placed::by_option(rank)),
            None => Placed::by_environment().map_err(Failure::Usage)?,
        };
        let plan = self.plan(placed.as_ref().map_or(Rank::ALONE, |placed| placed.rank));
        let wrong = contradiction(&plan).or_else(|| self.misfit(&plan, placed.as_ref()));
        wrong.map_or(Ok(()), |sentence| Err(Failure::Usage(sentence)))?;
        if self.live {
            Screen::exists().map_err(|why| Failure::Usage(format!("--live: {why}")))?;
        }
        let last_act = if self.live { screen::give_back } else { || {} };
        let stop = interrupt::on_signals(last_act).map_err(Failure::io("signals"))?;
        let files = self.files.open(plan.rank)?;
        let mut start = self.start(placed.as_ref())?;

        let onlooker = self.onlooker(&plan, &stop)?;
        let run = Run::of(&plan, self.warmup, self.duration, self.ramp, &mut start, &stop, onlooker)
            .map_err(Failure::io("load"))?;
        environment.end();

        let verdicts = Verdict::all(&run.evidence(), self.max_lateness);
        let result = Summary::new(self.subject(plan, placed, start.run(), &environment), &run, verdicts);
        files.write(&result, &run)?;
        Ok(match () {
            () if run.has_wrong_echoes() => ExitCode::from(1),
            () if run.interrupted => ExitCode::from(130),
            () if run.is_worth_nothing() => ExitCode::from(1),
            () => ExitCode::SUCCESS,
        })
    }

    /// Who is to see how it goes.
    fn onlooker(&self, plan: &Plan, stop: &Arc<AtomicBool>) -> Result<Box<dyn Onlooker>, Failure> {
        let course = Course::new(plan, self.ramp, self.max_lateness, stop);
        if self.live {
            let display = Live::take(stop).map_err(Failure::Failed)?;
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
        let start_at = self.start_at.and_then(|moment| moment.duration_since(UNIX_EPOCH).ok());
        let settings = Settings {
            plan,
            warmup_s: self.warmup.as_secs_f64(),
            duration_s: self.duration.as_secs_f64(),
            ramp: self.ramp,
            start_at: start_at.map(|since| since.as_secs_f64()),
        };
        Subject {
            rank,
            run,
            ranks: Vec::new(),
            endpoint: self.endpoint.to_string(),
            command: command_line(),
            seed: self.seed,
            environment: json!(environment),
            settings: match json!(settings) {
                Value::Object(settings) => settings,
                _ => unreachable!("settings have names"),
            },
        }
    }

    /// When the load begins. Ranks of one host meet without being told to.
    fn start(&self, placed: Option<&Placed>) -> Result<Start, Failure> {
        if let Some(moment) = self.start_at {
            return Ok(Start::At(moment));
        }
        let Some(Placed { rank, neighbours, .. }) = placed.filter(|placed| placed.rank.ranks > 1) else {
            return Ok(Start::AtOnce);
        };
        let meeting = self.barrier.clone().or_else(|| neighbours.clone().map(Meeting::Here));
        let Some(meeting) = meeting else { return Ok(Start::AtOnce) };
        let refused = |error| Failure::Usage(format!("--barrier: {meeting}: {error}"));
        Barrier::new(*rank, meeting.clone(), self.barrier_timeout).map(Start::Together).map_err(refused)
    }

    /// What several ranks cannot do.
    fn disagreement(&self, Rank { ranks, .. }: Rank, placed: Option<&Placed>) -> Option<String> {
        let connections = self.connections;
        let Some(Placed { by, .. }) = placed else {
            let inapt =
                self.barrier.as_ref().map(|_| "--barrier is for several ranks; say --rank too, like 0/4");
            return inapt.map(Into::into);
        };
        if self.live && ranks > 1 {
            return Some(format!(
                "--live shows one generator, and there are {ranks} (by {by}); leave it out"
            ));
        }
        if connections < ranks {
            return Some(format!("--connections: {connections} are too few for {ranks} ranks; choose more"));
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
        if self.engine == Some(Means::IoUring) {
            if self.endpoint.transport() == Transport::Udp {
                return Some("--engine: io-uring carries streams; over UDP choose mio".into());
            }
            if let Err(why) = is_ring_supported() {
                return Some(format!("--engine: {why}; choose mio"));
            }
        }
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let own = plan.rank.share(self.connections) + self.awkward.share(plan.rank).count();
        if own as u64 + SPARE > descriptors {
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
        rate.map_or(Pace::Closed { pipeline, think }, |per_second| Pace::Open {
            per_second,
            arrivals,
            max_outstanding,
        })
    }

    /// The one that costs less, where none is told: METHODOLOGY.md has the figures.
    fn means(&self) -> Means {
        let is_stream = self.endpoint.transport() == Transport::Tcp;
        let pays = is_stream && self.rate.is_none() && self.size.longest() <= 1024;
        self.engine.unwrap_or_else(|| match pays && is_ring_supported().is_ok() {
            true => Means::IoUring,
            false => Means::Mio,
        })
    }

    fn plan(&self, rank: Rank) -> Plan {
        let half = CpuList::allowed().map_or(1, |cpus| cpus.count().div_ceil(2));
        let (timeout, bounds) = match self.endpoint.transport() {
            Transport::Tcp => (Duration::from_secs(5), 1..=MOST),
            Transport::Udp => (Duration::from_secs(1), STAMP..=LONGEST),
        };
        Plan {
            endpoint: self.endpoint.clone(),
            means: self.means(),
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
            threads: self.threads.unwrap_or(half).min(rank.share(self.connections).max(1)),
            connect_rate: self.connect_rate,
            timeout: self.timeout.unwrap_or(timeout),
            interval: Duration::from_secs(1),
            verify: !self.no_verify,
            seed: self.seed,
            awkward: self.awkward.clone(),
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
