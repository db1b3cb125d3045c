//! One contender under one load: started, loaded, stopped, and what was seen. A row of the results.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use arguments::{CpuList, Transport};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    contender::{AtOnce, Contender, OurServer},
    cost::Cost,
    scenario::{BUSY, Scenario},
    server::Server,
};
use crate::{
    cmd::load::{CLIENT_BOUND, Percentiles},
    load::{Connecting, Engine, Faults, Means, Mix, Pace, Plan, Rank, Sizes, SocketOptions, Window},
};

/// What is the same in all cells of a comparison.
pub struct Bench {
    /// Where our models come from.
    pub ours: OurServer,
    /// What the servers are put to.
    pub scenario: Scenario,
    /// The servers' processors.
    pub server_cpus: CpuList,
    /// The load's.
    pub client_cpus: CpuList,
    /// Bytes a message.
    pub size: usize,
    /// Over UDP: how many datagrams leave in one system call.
    pub burst: Option<usize>,
    /// How long each cell is loaded before it is measured.
    pub warmup: Duration,
    /// How long it is measured.
    pub duration: Duration,
    /// What the bytes are made from.
    pub seed: u64,
    /// Set by ^C.
    pub stop: Arc<AtomicBool>,
}

impl Bench {
    /// Starts a contender for so many connections.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn start(&self, contender: &Contender, connections: usize) -> Result<Server, String> {
        let workers = self.workers(contender, connections);
        contender.start(&self.ours, workers, (&self.server_cpus, &self.client_cpus))
    }

    /// How many workers a contender is given for so many connections: a pool one for each client that must be
    /// served at once. Where they come and go, it has as many as it pleases.
    pub fn workers(&self, contender: &Contender, connections: usize) -> Option<usize> {
        match self.scenario {
            Scenario::Churn => None,
            Scenario::Echo | Scenario::Idle | Scenario::Udp => {
                contender.workers(self.scenario.at_once(connections))
            }
        }
    }

    /// Whether a contender cannot serve so many connections, however long they wait.
    pub fn is_beyond(&self, contender: &Contender, connections: usize) -> bool {
        contender.at_once == AtOnce::One && self.scenario.at_once(connections) > 1
    }

    /// Opens the connections to a server.
    ///
    /// # Errors
    /// Where the system refuses threads.
    pub fn open(&self, server: &Server, connections: usize) -> io::Result<(Engine, Connecting)> {
        let burst = self.burst.filter(|_| server.transport == Transport::Udp);
        let plan = Plan {
            endpoint: server.endpoint(),
            means: Means::Mio,
            socket: SocketOptions { nodelay: true, ..SocketOptions::default() },
            connections,
            rank: Rank::ALONE,
            size: Sizes::fixed(self.size),
            pace: Pace::Closed { pipeline: 1, think: Duration::ZERO },
            burst,
            churn: self.scenario.churn(),
            half_close: false,
            threads: self.client_cpus.count().min(connections),
            connect_rate: self.scenario.connect_rate(),
            timeout: Duration::from_secs(5),
            verify: true,
            seed: self.seed,
            awkward: Mix::default(),
        };
        Engine::open(&plan, &self.stop)
    }
}

/// How much less busy than a busy client a server may be, and its figure still count: where both have one
/// processor, an answer costs either side nearly the same, and which of them idles is chance.
const TOLERATED_IDLENESS: f64 = 0.1;

/// Why the price of a connection is not known of some servers.
pub const FORGETS_CHILDREN: &str =
    "it ignores SIGCHLD, so nobody knows the CPU time of its ended children; let it reap them";

/// A row: every field a number or a word, so that it is a line of CSV too. Where `reason` says something, the
/// figures do not count.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cell {
    /// What the server was put to.
    pub scenario: Scenario,
    /// Which block it was run in, from 1.
    pub block: usize,
    /// Who.
    pub contender: String,
    /// How many connections.
    pub connections: usize,
    /// Bytes a message.
    pub size: usize,
    /// How many workers the contender was given, where it is a pool.
    pub workers: Option<usize>,
    /// Why it does not count; empty where it does.
    pub reason: String,
    /// Answers in the measured time.
    pub messages: u64,
    /// How long that was.
    pub measured_s: f64,
    /// Answers a second.
    pub messages_per_s: f64,
    /// Half of the answers took no longer.
    pub p50_us: f64,
    /// 99 % took no longer.
    pub p99_us: f64,
    /// 99.9 % took no longer.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// In `churn`: connections that came up in the measured time, a second.
    pub connections_per_s: Option<f64>,
    /// In `churn`: half of them took no longer to come up.
    pub connect_p50_us: Option<f64>,
    /// In `churn`: 99 % took no longer.
    pub connect_p99_us: Option<f64>,
    /// In `churn`: the server's CPU time a connection, over the whole run of the cell, all processes.
    pub server_cpu_us_per_connection: Option<f64>,
    /// The server's CPU time an answer, over the whole run of the cell, all processes.
    pub server_cpu_us_per_message: f64,
    /// The load's, in the measured time.
    pub client_cpu_us_per_message: f64,
    /// How much of its processors the server used, 0 to 1.
    pub server_busy: f64,
    /// How much of a processor the busiest thread of the load used, 0 to 1.
    pub client_busiest_thread: f64,
    /// Context switches an answer because a thread waited.
    pub voluntary_switches_per_message: f64,
    /// Context switches an answer because a thread was interrupted.
    pub involuntary_switches_per_message: f64,
    /// Proportional set size of all the server's processes, the larger of before and after the load.
    pub peak_pss_bytes: u64,
    /// How much that is more than before the first connection, a connection; of a pool that was given its
    /// workers, all of it.
    pub bytes_per_connection: f64,
    /// The server's processes, while all connections were open.
    pub processes: usize,
    /// Its threads.
    pub threads: usize,
    /// Connections that came up.
    pub established: usize,
    /// Connections that had an answer in the measured time; in `idle`, that had one at all.
    pub served: usize,
    /// Jain's fairness index over the connections.
    pub jain: f64,
    /// Throughput times mean response time, over the messages on their way: 1 by Little's law.
    pub little: f64,
    /// Connections that the client opened in all.
    pub opened: u64,
    /// Connections that the server says it accepted, where it says.
    pub accepted: Option<u64>,
    /// Connections that it says it closed.
    pub closed: Option<u64>,
    /// Over UDP: datagrams that the client sent, and what became of them.
    pub sent: Option<u64>,
    /// Those that never came back.
    pub lost: Option<u64>,
    /// Those that came back too late.
    pub late: Option<u64>,
    /// Those that came back twice.
    pub duplicated: Option<u64>,
    /// Those that came back after one that had left after them.
    pub reordered: Option<u64>,
    /// Those that the kernel dropped at the clients' sockets.
    pub kernel_drops: Option<u64>,
    /// Those that the kernel dropped at the server's socket.
    pub server_kernel_drops: Option<u64>,
    /// Datagrams that the server says it received.
    pub datagrams_in: Option<u64>,
    /// Datagrams that it says it sent.
    pub datagrams_out: Option<u64>,
}

impl Cell {
    /// Whether its figures count.
    pub fn counts(&self) -> bool {
        self.reason.is_empty()
    }

    /// A row for what was not run, or could not be.
    fn not_run(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// Runs it.
    pub fn run(bench: &Bench, contender: &Contender, connections: usize, block: usize) -> Self {
        let cell = Self {
            scenario: bench.scenario,
            block,
            contender: contender.name.clone(),
            connections,
            size: bench.size,
            workers: bench.workers(contender, connections),
            ..Self::default()
        };
        if bench.is_beyond(contender, connections) {
            return cell.not_run("one client at a time");
        }
        let server = match bench.start(contender, connections) {
            Ok(server) => server,
            Err(sentence) => return cell.not_run(format!("not started: {sentence}")),
        };
        match Sight::of(bench, contender, server, connections) {
            Ok(sight) => cell.with(bench, contender, sight),
            Err(error) => cell.not_run(format!("not loaded: {error}")),
        }
    }

    fn with(mut self, bench: &Bench, contender: &Contender, sight: Sight) -> Self {
        let Load { window, used, took, .. } = &sight.load;
        let latency = Percentiles::of(&window.latency);
        let all = (window.messages_in_all as f64).max(1.0);
        self.messages = window.messages;
        self.measured_s = window.measured.as_secs_f64();
        self.messages_per_s = window.rate();
        (self.p50_us, self.p99_us, self.p999_us) = (latency.p50, latency.p99, latency.p999);
        self.max_us = latency.max;
        if bench.scenario.churn().is_some() {
            let connect = Percentiles::of(&window.connect);
            self.connections_per_s = Some(window.connection_rate());
            (self.connect_p50_us, self.connect_p99_us) = (Some(connect.p50), Some(connect.p99));
            self.server_cpu_us_per_connection = Some(window.us_per_connection(used.cpu));
        }
        self.server_cpu_us_per_message = used.cpu.as_secs_f64() * 1e6 / all;
        self.client_cpu_us_per_message = window.cpu_us_per_message();
        // A server of one thread is as busy as it can be on one processor.
        let usable = bench.server_cpus.count().min(used.threads).max(1);
        self.server_busy = used.cpu.as_secs_f64() / took.as_secs_f64() / usable as f64;
        self.client_busiest_thread = window.busiest_thread;
        self.voluntary_switches_per_message = used.voluntary_switches as f64 / all;
        self.involuntary_switches_per_message = used.involuntary_switches as f64 / all;
        self.peak_pss_bytes = used.pss_bytes;
        self.bytes_per_connection =
            (used.pss_bytes as f64 - sight.pss_before as f64) / sight.held.max(1) as f64;
        (self.processes, self.threads) = (used.processes, used.threads);
        (self.established, self.served) = (sight.established, sight.served);
        self.opened = sight.held as u64 + window.opened_in_all;
        self.jain = window.jain();
        let on_their_way =
            sight.load.connections * bench.burst.filter(|_| window.audit.is_some()).unwrap_or(1);
        self.little = window.rate() * latency.mean / 1e6 / on_their_way as f64;
        let said = |key: &str| sight.last_words.as_ref().and_then(|words| words[key].as_u64());
        match window.audit {
            None => (self.accepted, self.closed) = (said("accepted"), said("closed")),
            Some(audit) => {
                (self.datagrams_in, self.datagrams_out) = (said("datagrams_in"), said("datagrams_out"));
                (self.sent, self.lost, self.late) = (Some(audit.sent), Some(audit.lost), Some(audit.late));
                (self.duplicated, self.reordered) = (Some(audit.duplicated), Some(audit.reordered));
                self.kernel_drops = audit.kernel_drops;
                self.server_kernel_drops = audit.server_kernel_drops;
            }
        }
        self.reason = self.doubt(&sight, contender).unwrap_or_default();
        self
    }

    /// Why the figures do not count.
    fn doubt(&self, sight: &Sight, contender: &Contender) -> Option<String> {
        if let Some((fault, n, what)) = sight.faults.worst() {
            return Some(format!("{n} x {}: {what}", fault.name()));
        }
        if self.established < self.connections {
            return Some(format!("only {} connections came up", self.established));
        }
        if let Some(doubt) = sight.load.window.audit.and_then(|audit| audit.doubt()) {
            return Some(doubt);
        }
        if self.served < self.connections {
            return Some(format!("only {} of {} connections were served", self.served, self.connections));
        }
        if contender.is_ours() && sight.last_words.is_none() {
            return Some("it did not end in order: no final figures".into());
        }
        if self.accepted != self.closed {
            return Some(format!("accepted {:?}, closed {:?}", self.accepted, self.closed));
        }
        if self.accepted.is_some_and(|accepted| accepted != self.opened) {
            return Some(format!("accepted {:?} of {} connections", self.accepted, self.opened));
        }
        if self.loss() == 0.0 && self.datagrams_in.is_some_and(|received| Some(received) != self.sent) {
            return Some(format!("received {:?} of {:?} datagrams", self.datagrams_in, self.sent));
        }
        if self.scenario == Scenario::Churn && sight.load.forgets_children {
            return Some(FORGETS_CHILDREN.into());
        }
        if self.is_client_bound() && self.scenario.needs_a_free_client() {
            let (client, server) = (self.client_busiest_thread * 100.0, self.server_busy * 100.0);
            return Some(format!(
                "client-bound: the client was {client:.0} % busy, the server {server:.0} %"
            ));
        }
        None
    }

    /// Over UDP: the share of the datagrams that did not come back in time.
    pub fn loss(&self) -> f64 {
        let missing = self.lost.unwrap_or(0) + self.late.unwrap_or(0);
        missing as f64 / self.sent.unwrap_or(0).max(1) as f64
    }

    /// Whether the client was what limited the rates. A busy client is, unless the server was about as busy:
    /// then both are.
    pub fn is_client_bound(&self) -> bool {
        let idle = self.client_busiest_thread - self.server_busy;
        self.client_busiest_thread >= CLIENT_BOUND && idle > TOLERATED_IDLENESS
    }
}

/// What was seen of one server.
struct Sight {
    /// Connections that came up, of those that were asked for.
    established: usize,
    /// Connections that were open at once, those included that were busy while the others were idle.
    held: usize,
    /// Connections that had their answers.
    served: usize,
    /// The server's memory before its first connection.
    pss_before: u64,
    load: Load,
    faults: Faults,
    last_words: Option<Value>,
}

impl Sight {
    fn of(bench: &Bench, contender: &Contender, server: Server, connections: usize) -> io::Result<Self> {
        // A pool's workers are there before their clients, and for them: all of it is the connections'.
        let is_given_workers = bench.workers(contender, connections).is_some();
        let pss_before = if is_given_workers { 0 } else { Cost::pss_of_tree(server.pid()) };
        let (engine, Connecting { established, mut faults, .. }) = bench.open(&server, connections)?;
        let (held, served, load);
        match bench.scenario {
            Scenario::Echo | Scenario::Churn | Scenario::Udp => {
                load = Load::watch(bench, &server, &engine, connections);
                (held, served) = (established, load.window.served());
            }
            Scenario::Idle => {
                // One answer each proves that they are served. Then they stay, and others are busy.
                let once = engine.run(Duration::ZERO, Duration::ZERO);
                let (busy, connecting) = bench.open(&server, BUSY)?;
                load = Load::watch(bench, &server, &busy, BUSY);
                (held, served) = (established + connecting.established, once.messages_in_all as usize);
                for more in [once.faults, connecting.faults, busy.finish()] {
                    faults.merge(more);
                }
            }
        }
        faults.merge(load.window.faults.clone());
        faults.merge(engine.finish());
        Ok(Self { established, held, served, pss_before, load, faults, last_words: server.stop() })
    }
}

/// A stretch of load, and what it cost the server.
struct Load {
    /// How many connections it had.
    connections: usize,
    window: Window,
    used: Cost,
    took: Duration,
    /// Whether the children that ended meanwhile are not in that cost.
    forgets_children: bool,
}

impl Load {
    fn watch(bench: &Bench, server: &Server, engine: &Engine, connections: usize) -> Self {
        let pid = server.pid();
        let pss_before = Cost::pss_of_tree(pid);
        let comes_and_goes = bench.scenario.churn().is_some();
        if comes_and_goes {
            Cost::await_rest(pid); // whom it has not let in yet would be paid for later
        }
        let (before, began) = (Cost::of_tree(pid), Instant::now());
        let window = engine.run(bench.warmup, bench.duration);
        let took = began.elapsed();
        if comes_and_goes {
            Cost::await_rest(pid);
        }
        let after = Cost::of_tree(pid);
        let used = Cost {
            cpu: after.cpu.saturating_sub(before.cpu),
            voluntary_switches: after.voluntary_switches.saturating_sub(before.voluntary_switches),
            involuntary_switches: after.involuntary_switches.saturating_sub(before.involuntary_switches),
            pss_bytes: pss_before.max(Cost::pss_of_tree(pid)),
            ..after
        };
        Self { connections, window, used, took, forgets_children: Cost::forgets_children(pid) }
    }
}
