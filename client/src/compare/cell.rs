//! One contender under one load: started, loaded, stopped, and what was seen. A row of the results.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use arguments::CpuList;
use serde::Serialize;
use serde_json::Value;

use super::{
    contender::{AtOnce, Contender, OurServer},
    cost::Cost,
    server::Server,
};
use crate::{
    cmd::load::{CLIENT_BOUND, Percentiles},
    load::{Connecting, Engine, Faults, Plan, Window},
};

/// What is the same in all cells of a comparison.
pub struct Bench {
    /// Where our models come from.
    pub ours: OurServer,
    /// The servers' processors.
    pub server_cpus: CpuList,
    /// The load's.
    pub client_cpus: CpuList,
    /// Bytes a message.
    pub size: usize,
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
        contender.start(&self.ours, connections, (&self.server_cpus, &self.client_cpus))
    }

    /// Opens the connections to a server.
    ///
    /// # Errors
    /// Where the system refuses threads.
    pub fn open(&self, server: &Server, connections: usize) -> io::Result<(Engine, Connecting)> {
        let plan = Plan {
            address: server.address,
            connections,
            size: self.size,
            pipeline: 1,
            churn: None,
            threads: self.client_cpus.count().min(connections),
            connect_rate: 5000,
            timeout: Duration::from_secs(5),
            verify: true,
            seed: self.seed,
        };
        Engine::open(&plan, &self.stop)
    }
}

/// How much less busy than a busy client a server may be, and its figure still count: where both have one
/// processor, an answer costs either side nearly the same, and which of them idles is chance.
const TOLERATED_IDLENESS: f64 = 0.1;

/// A row: every field a number or a word, so that it is a line of CSV too. Where `reason` says something, the
/// figures do not count.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cell {
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
    /// The server's processes, while all connections were open.
    pub processes: usize,
    /// Its threads.
    pub threads: usize,
    /// Connections that came up.
    pub established: usize,
    /// Connections that had an answer in the measured time.
    pub served: usize,
    /// Jain's fairness index over the connections.
    pub jain: f64,
    /// Throughput times mean response time, over the messages on their way: 1 by Little's law.
    pub little: f64,
    /// Connections that the server says it accepted, where it says.
    pub accepted: Option<u64>,
    /// Connections that it says it closed.
    pub closed: Option<u64>,
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
            block,
            contender: contender.name.clone(),
            connections,
            size: bench.size,
            workers: contender.workers(connections),
            ..Self::default()
        };
        if contender.at_once == AtOnce::One && connections > 1 {
            return cell.not_run("one client at a time");
        }
        let server = match bench.start(contender, connections) {
            Ok(server) => server,
            Err(sentence) => return cell.not_run(format!("not started: {sentence}")),
        };
        match Sight::of(bench, server, connections) {
            Ok(sight) => cell.with(bench, contender, sight),
            Err(error) => cell.not_run(format!("not loaded: {error}")),
        }
    }

    fn with(mut self, bench: &Bench, contender: &Contender, sight: Sight) -> Self {
        let Sight { window, used, took, .. } = &sight;
        let latency = Percentiles::of(&window.latency);
        let all = (window.messages_in_all as f64).max(1.0);
        self.messages = window.messages;
        self.measured_s = window.measured.as_secs_f64();
        self.messages_per_s = window.rate();
        (self.p50_us, self.p99_us, self.p999_us) = (latency.p50, latency.p99, latency.p999);
        self.max_us = latency.max;
        self.server_cpu_us_per_message = used.cpu.as_secs_f64() * 1e6 / all;
        self.client_cpu_us_per_message = window.cpu_us_per_message();
        // A server of one thread is as busy as it can be on one processor.
        let usable = bench.server_cpus.count().min(used.threads).max(1);
        self.server_busy = used.cpu.as_secs_f64() / took.as_secs_f64() / usable as f64;
        self.client_busiest_thread = window.busiest_thread;
        self.voluntary_switches_per_message = used.voluntary_switches as f64 / all;
        self.involuntary_switches_per_message = used.involuntary_switches as f64 / all;
        self.peak_pss_bytes = used.pss_bytes;
        (self.processes, self.threads) = (used.processes, used.threads);
        (self.established, self.served) = (sight.connecting.established, window.served());
        self.jain = window.jain();
        self.little = window.rate() * latency.mean / 1e6 / self.connections as f64;
        let said = |key: &str| sight.last_words.as_ref().and_then(|words| words[key].as_u64());
        (self.accepted, self.closed) = (said("accepted"), said("closed"));
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
        if self.served < self.connections {
            return Some(format!("only {} of {} connections were served", self.served, self.connections));
        }
        if contender.is_ours() && self.accepted.is_none() {
            return Some("it did not end in order: no final figures".into());
        }
        if self.accepted != self.closed {
            return Some(format!("accepted {:?}, closed {:?}", self.accepted, self.closed));
        }
        // A busy client limits the result, unless the server was about as busy: then both do.
        let idle = self.client_busiest_thread - self.server_busy;
        if self.client_busiest_thread >= CLIENT_BOUND && idle > TOLERATED_IDLENESS {
            let (client, server) = (self.client_busiest_thread * 100.0, self.server_busy * 100.0);
            return Some(format!(
                "client-bound: the client was {client:.0} % busy, the server {server:.0} %"
            ));
        }
        None
    }
}

/// What was seen of one server.
struct Sight {
    connecting: Connecting,
    window: Window,
    faults: Faults,
    used: Cost,
    took: Duration,
    last_words: Option<Value>,
}

impl Sight {
    fn of(bench: &Bench, server: Server, connections: usize) -> io::Result<Self> {
        let pid = server.pid();
        let (engine, connecting) = bench.open(&server, connections)?;
        let pss_before = Cost::pss_of_tree(pid);
        let (before, began) = (Cost::of_tree(pid), Instant::now());
        let window = engine.run(bench.warmup, bench.duration);
        let took = began.elapsed();
        let after = Cost::of_tree(pid);
        let used = Cost {
            cpu: after.cpu.saturating_sub(before.cpu),
            voluntary_switches: after.voluntary_switches.saturating_sub(before.voluntary_switches),
            involuntary_switches: after.involuntary_switches.saturating_sub(before.involuntary_switches),
            pss_bytes: pss_before.max(Cost::pss_of_tree(pid)),
            ..after
        };
        let mut faults = connecting.faults.clone();
        faults.merge(window.faults.clone());
        faults.merge(engine.finish());
        Ok(Self { connecting, window, faults, used, took, last_words: server.stop() })
    }
}
