//! What was typed, and what it means: every choice made, every contradiction refused.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroUsize,
    path::PathBuf,
    str::FromStr,
    thread,
    time::Duration,
};

use arguments::{CpuList, Endpoint, Endpoints, Transport};
use bytesize::ByteSize;
use clap::ValueEnum;
use nix::time::{ClockId, clock_gettime};

use crate::{
    archive::Plan,
    cli::{GroupBounds, Serve},
    groups::Bounds,
    model::{AtOnce, Model, Way},
    models::MODELS,
    repeats,
    seats::Limits,
    socket::{Datagrams, Listener, SocketOptions},
};

/// How many workers a pool of blocking workers has unless told: each serves one client until it leaves, so
/// this is how many clients are served at once.
const BLOCKING_WORKERS: usize = 64;

/// How long a client may be silent unless told until its session ends, where datagrams are served by sessions.
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);

/// A server that can be started.
pub struct Config {
    /// The model.
    pub model: &'static Model,
    /// How it serves streams, where it is to.
    pub streams: Option<&'static Way<Listener>>,
    /// How it serves datagrams, where it is to.
    pub datagrams: Option<&'static Way<Datagrams>>,
    /// Where; empty where a service manager passes the sockets, or not even that.
    pub endpoints: Vec<Endpoints>,
    /// Its listeners.
    pub sockets: SocketOptions,
    /// How many clients there may be.
    pub limits: Limits,
    /// How many datagrams a second of one client are answered.
    pub rate_limit: Option<usize>,
    /// How often the same datagram of one client is answered before one answer is left out.
    pub repeat_limit: Option<usize>,
    /// What is to become of the datagrams that are kept by client address, where they are to be.
    pub groups: Option<Plan>,
    /// The file in which its counters lie.
    pub stats: Option<PathBuf>,
    /// What its model is told.
    pub settings: Settings,
}

/// What a model is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many workers a pool has; 1 where there is no pool.
    pub workers: usize,
    /// What they are.
    pub isolate: Isolate,
    /// After how many clients a worker of a blocking pool retires, and is replaced.
    pub clients_a_worker: usize,
    /// How many clients the queue of `thread-pool` holds.
    pub queue: usize,
    /// What happens to a client that finds the queue full.
    pub when_full: WhenFull,
    /// Which client of the queue is next.
    pub queue_order: QueueOrder,
    /// What serving a message costs besides the echo.
    pub work: Work,
    /// Whether `async` has the work done by threads that may block.
    pub offload: bool,
    /// How long a loop asks for what is ready before it sleeps.
    pub busy_poll: Option<Duration>,
    /// How many bytes one receive takes, and one connection may owe.
    pub buffer: usize,
    /// Its port; 0 on a path.
    pub port: u16,
    /// Whether datagrams are answered where the answer may come back.
    pub reflect_any: bool,
    /// How long a client may say and take nothing.
    pub idle_timeout: Option<Duration>,
    /// How long the client of a session of datagrams may be silent; nobody says when it leaves.
    pub session_timeout: Option<Duration>,
    /// The processors that the server may use.
    pub cpus: Option<CpuList>,
    /// How long the clients have to finish when the server is told to end.
    pub drain: Duration,
}

/// What the workers of a pool are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Isolate {
    /// Threads of one process.
    Threads,
    /// A process each: what one of them does to itself costs only its own clients.
    Processes,
}

impl Isolate {
    /// As the command line and `models --json` spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
        }
    }
}

/// Which client of the queue is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QueueOrder {
    /// The one that has waited longest: fair.
    Fifo,
    /// The one that came last: under overload some are served in time, and not all too late.
    Lifo,
}

/// What happens to a client that finds the queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenFull {
    /// It waits in the accept queue: the server stops accepting.
    Block,
    /// It is closed at once, and counted.
    Reject,
}

/// What serving a message costs besides the echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    None,
    /// Computing, for so much CPU time of the thread that serves.
    Cpu(Duration),
    /// Blocking, for so long.
    Sleep(Duration),
}

impl Settings {
    /// Confines worker number `n` of a loop a core, which is the calling thread, to one of the processors
    /// that the user named; the others are spread by the kernel.
    pub fn pin_worker(&self, n: usize) {
        let pinned = self.cpus.as_ref().map_or(Ok(()), |cpus| cpus.nth(n).confine());
        if let Err(error) = pinned {
            log::warn!("worker {n} could not be pinned: {error}");
        }
    }
}

impl Work {
    /// Does it.
    #[inline]
    pub fn perform(self) {
        if self != Self::None {
            self.toil();
        }
    }

    #[cold]
    fn toil(self) {
        match self {
            Self::None => {}
            Self::Cpu(amount) => compute(amount),
            Self::Sleep(amount) => std::thread::sleep(amount),
        }
    }
}

/// Uses `amount` of this thread's CPU time. The clock is the thread's own, so that being preempted is not
/// taken for computing (clock_gettime(2), CLOCK_THREAD_CPUTIME_ID).
fn compute(amount: Duration) {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or(Duration::MAX);
    let end = now().saturating_add(amount);
    while now() < end {
        std::hint::spin_loop();
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            Some(("cpu", amount)) => arguments::duration(amount).map(Self::Cpu),
            Some(("sleep", amount)) => arguments::duration(amount).map(Self::Sleep),
            _ => Err("write it like none, cpu:20us or sleep:1ms".into()),
        }
    }
}

impl Config {
    /// Makes every choice that was left open.
    ///
    /// # Errors
    /// A sentence for the user, where the choices do not go together.
    pub fn new(typed: Serve) -> Result<Self, String> {
        let model = find(&typed.model)?;
        (model.supported)().map_err(|why| format!("{} cannot run here: {why}", model.name))?;
        let dispatch = typed.dispatch.as_deref();
        let (streams, datagrams) = (way(model.tcp, dispatch), way(model.udp, dispatch));
        if let Some(dispatch) = dispatch.filter(|_| streams.is_none() && datagrams.is_none()) {
            return Err(no_such_dispatch(model, dispatch));
        }
        belongs(&typed, model, streams)?;
        for endpoint in typed.endpoints.iter().flat_map(Endpoints::all) {
            let transport = endpoint.transport();
            let served = match transport {
                Transport::Tcp => streams.is_some(),
                Transport::Udp => datagrams.is_some(),
            };
            if !served {
                return Err(match (model.dispatches(transport).join(", "), dispatch) {
                    (names, Some(dispatch)) if !names.is_empty() => {
                        format!(
                            "{endpoint}: {} does not serve {transport} by {dispatch}, but by {names}",
                            model.name
                        )
                    }
                    (_, Some(dispatch)) if model.transports().contains(&transport) => {
                        format!(
                            "{endpoint}: {} does not serve {transport} by {dispatch}; leave --dispatch out",
                            model.name
                        )
                    }
                    _ => {
                        format!("{endpoint}: {} does not serve {transport}; use another endpoint", model.name)
                    }
                });
            }
            match (endpoint, streams) {
                (Endpoint::Unix(_), Some(way)) if way.reuse_port() && !way.dispatch.is_empty() => {
                    return Err(format!(
                        "{endpoint}: a path has one listener; use another --dispatch than {}",
                        way.dispatch
                    ));
                }
                (Endpoint::Udp(address), _) if is_of_many(address.ip()) => {
                    return Err(format!(
                        "{endpoint}: no server has that address alone; choose one of this machine"
                    ));
                }
                _ => {}
            }
        }
        if let Some(cpus) = &typed.cpus {
            let allowed = CpuList::allowed().map_err(|error| format!("--cpus {cpus}: {error}"))?;
            if !cpus.is_subset(&allowed) {
                return Err(format!("--cpus {cpus}: this process may use {allowed} (nproc(1))"));
            }
            cpus.confine().map_err(|error| format!("--cpus {cpus}: {error}"))?;
        }
        let workers = workers(model, typed.workers);
        let groups = typed.groups.map(|file| Plan { file, bounds: bounds(&typed.group_bounds), workers });
        groups.as_ref().map_or(Ok(()), has_room)?;
        Ok(Self {
            model,
            streams,
            datagrams,
            sockets: SocketOptions {
                backlog: typed.backlog,
                nodelay: typed.nodelay.into(),
                keepalive: Some(typed.keepalive).filter(|time| !time.is_zero()),
                listeners: 1,
                reflect_any: typed.reflect_any,
                // Where each datagram costs work beside the echo, it comes alone, and is answered when that is done.
                bursts: typed.work == Work::None,
                arrivals: false,
            },
            rate_limit: typed.rate_limit,
            repeat_limit: Some(typed.max_repeats.unwrap_or(repeats::DEFAULT)).filter(|_| !typed.reflect_any),
            groups,
            limits: Limits { connections: typed.max_connections, per_ip: typed.max_per_ip },
            settings: Settings {
                workers,
                isolate: typed.isolate.or(model.isolates.first().copied()).unwrap_or(Isolate::Threads),
                clients_a_worker: typed.max_requests_per_worker.unwrap_or(usize::MAX),
                queue: typed.queue.unwrap_or(1024),
                when_full: typed.when_full.unwrap_or(WhenFull::Block),
                queue_order: typed.queue_order.unwrap_or(QueueOrder::Fifo),
                work: typed.work,
                offload: typed.offload,
                busy_poll: typed.busy_poll.filter(|time| !time.is_zero()),
                buffer: typed.buffer,
                port: 0,
                reflect_any: typed.reflect_any,
                idle_timeout: typed.idle_timeout.filter(|time| !time.is_zero()),
                session_timeout: Some(typed.idle_timeout.unwrap_or(SESSION_TIMEOUT))
                    .filter(|time| !time.is_zero()),
                cpus: typed.cpus.filter(|_| model.at_once == AtOnce::ManyAWorker),
                drain: typed.drain,
            },
            endpoints: typed.endpoints,
            stats: typed.stats,
        })
    }
}

impl<S> Way<S> {
    /// The options of its sockets: as many as there are workers, where each has one of its own. Where several receive
    /// from one, and what comes is kept, its order has to be known: that of arrival; and what came together, in a
    /// burst, stays together.
    pub fn sockets(&self, config: &Config) -> SocketOptions {
        let workers = config.settings.workers;
        let arrivals = config.groups.is_some() && !self.reuse_port() && workers > 1;
        let (listeners, bursts) =
            (if self.reuse_port() { workers } else { 1 }, config.sockets.bursts || arrivals);
        SocketOptions { listeners, bursts, arrivals, ..config.sockets }
    }
}

/// What may be kept: what was typed, or else the default.
fn bounds(typed: &GroupBounds) -> Bounds {
    let default = Bounds::default();
    Bounds {
        clients: typed.max_clients.unwrap_or(default.clients),
        messages: typed.max_messages.unwrap_or(default.messages),
        bytes: typed.max_bytes.unwrap_or(default.bytes),
        memory: typed.max_group_memory.unwrap_or(default.memory),
    }
}

/// Refuses a memory of which a worker's share holds not even one longest datagram: it would keep nothing but short
/// ones, and say so only in its counters.
fn has_room(plan: &Plan) -> Result<(), String> {
    let Plan { bounds, workers, .. } = plan;
    let (share, needs) = (bounds.a_share_of(*workers).memory, bounds.of_the_longest());
    if share >= needs {
        return Ok(());
    }
    let [share_text, needs_text] = [share, needs].map(|bytes| ByteSize(bytes as u64).display());
    let enough = (needs * workers).div_ceil(1 << 10);
    Err(match workers {
        1 => format!(
            "--max-group-memory: {share_text} hold no datagram of the longest, which takes {needs_text}; allow \
             {enough}KiB or more, or fewer --max-bytes"
        ),
        _ => format!(
            "--max-group-memory: {share_text} for each of {workers} workers hold no datagram of the longest, which \
             takes {needs_text}; allow {enough}KiB or more, or choose fewer --workers"
        ),
    })
}

/// Refuses the options that mean nothing for a model, and says to which they belong.
fn belongs(typed: &Serve, model: &Model, way: Option<&Way<Listener>>) -> Result<(), String> {
    let queue = typed.queue.is_some() || typed.when_full.is_some() || typed.queue_order.is_some();
    if queue && way.is_none_or(|way| way.dispatch != "queue") {
        return Err(
            "--queue, --when-full and --queue-order belong to --model thread-pool --dispatch queue".into()
        );
    }
    if typed.max_requests_per_worker.is_some() && model.at_once != AtOnce::OneAWorker {
        return Err("--max-requests-per-worker belongs to the blocking pools, prefork and thread-pool".into());
    }
    if typed.busy_poll.is_some() && !model.is_loop {
        return Err(format!("--busy-poll belongs to the loops and rings; {} has none", model.name));
    }
    if typed.offload && model.name != "async" {
        return Err("--offload belongs to --model async".into());
    }
    match typed.isolate {
        Some(isolate) if !model.isolates.contains(&isolate) => {
            Err(format!("{} has no --isolate {}; leave it out", model.name, isolate.name()))
        }
        _ => Ok(()),
    }
}

fn find(name: &str) -> Result<&'static Model, String> {
    MODELS.iter().copied().find(|model| model.name == name).ok_or_else(|| {
        let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        format!("there is no model {name:?}; there are {}", names.join(", "))
    })
}

/// The way that is asked for, if there is one; the first where none is.
fn way<S>(ways: &'static [Way<S>], dispatch: Option<&str>) -> Option<&'static Way<S>> {
    match dispatch {
        None => ways.first(),
        Some(name) => ways.iter().find(|way| way.dispatch == name && !name.is_empty()),
    }
}

fn no_such_dispatch(model: &Model, name: &str) -> String {
    match model.all_dispatches().join(", ") {
        none if none.is_empty() => format!("{} has no dispatch to choose; leave --dispatch out", model.name),
        names => format!("{} has no dispatch {name:?}; it has {names}", model.name),
    }
}

/// Whether it is no address of one machine alone: a broadcast or multicast address.
fn is_of_many(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn workers(model: &Model, typed: Option<usize>) -> usize {
    match model.at_once {
        AtOnce::OneAWorker => typed.unwrap_or(BLOCKING_WORKERS),
        // Of the processors that it may run on, no more than its control group's quota is worth (cpu.max, cgroups(7)).
        AtOnce::ManyAWorker => {
            typed.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZeroUsize::get))
        }
        AtOnce::One | AtOnce::All => {
            if typed.is_some_and(|n| n > 1) {
                log::warn!("{} is no pool: --workers changes nothing", model.name);
            }
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_read_as_it_is_written_in_the_help() {
        assert_eq!("none".parse(), Ok(Work::None));
        assert_eq!("cpu:20us".parse(), Ok(Work::Cpu(Duration::from_micros(20))));
        assert_eq!("sleep:1ms".parse(), Ok(Work::Sleep(Duration::from_millis(1))));
        for wrong in ["", "cpu", "cpu:", "nap:1ms", "sleep:soon"] {
            assert!(wrong.parse::<Work>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn computing_uses_the_threads_cpu_time() {
        let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let before = cpu();
        Work::Cpu(Duration::from_millis(5)).perform();
        assert!(cpu() - before >= Duration::from_millis(5));
    }
}
