//! One contender under one load: started, loaded, stopped, and what was seen. A row of the results.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    bench::{Bench, INTERVAL},
    contender::{Contender, Style},
    plan::{Trial, Turn},
    scenario::{Beside, Drive, Point, Scenario, thousands},
    scratch::Scratch,
    sight::{Load, Sight},
};
use crate::{
    cmd::load::{Percentiles, UNKNOWN, encoded, us},
    cost::{Cost, CpuFrom},
    load::{CLIENT_BOUND, Fault, Shares, Window},
    saturation::{End, Found, LATE, STARVING},
    server::Server,
};

/// The least memory a connection that is told from none, in bytes: a page more or less says nothing of so many.
const LEAST_BYTES: f64 = 64.0;

/// How much less busy than a busy client a server may be, and its figure still count: where both have one
/// processor, an answer costs either side nearly the same, and which of them idles is chance.
const TOLERATED_IDLENESS: f64 = 0.2;

/// The share of the slices that must count.
pub const COUNTING: f64 = 0.8;

/// By how much Little's law may be broken for no known reason.
const TOLERATED_BREACH: f64 = 0.1;

/// Why the price of a connection is not known of some servers.
pub const FORGETS_CHILDREN: &str =
    "it ignores SIGCHLD, so nobody knows the CPU time of its ended children; let it reap them";

/// Whose doing it is that a cell does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody's: it was not to take part there.
    Plan,
    /// The server's: it did not start, answered wrongly, let nobody in, or did not end in order.
    Server,
    /// It was measured, and is not valid.
    Measure,
    /// This client's: it was kept from running, or late.
    Client,
}

/// A row: every field a number or a word, so that it is a line of CSV too. Where `reason` says something, the
/// figures do not count. What was not measured, or could not be, is absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cell {
    /// What the server was put to.
    pub scenario: Scenario,
    /// Which block it was run in, from 1.
    pub block: usize,
    /// Who.
    pub contender: String,
    /// Who in it serves the clients, where that is known.
    pub style: Option<Style>,
    /// In which language it is written, where that is known.
    pub language: String,
    /// How many connections.
    pub connections: usize,
    /// Bytes a message.
    pub size: usize,
    /// When messages departed.
    pub drive: Drive,
    /// Who was there besides.
    pub beside: Beside,
    /// What a message cost besides the echo.
    pub work: String,
    /// When it began, in seconds since 1970.
    pub began_s: f64,
    /// How many workers the contender was given, where it is a pool.
    pub workers: Option<usize>,
    /// Why it does not count; empty where it does.
    pub reason: String,
    /// Whose doing that is.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// Answers in the measured time.
    pub messages: Option<u64>,
    /// How long that was.
    pub measured_s: Option<f64>,
    /// Answers a second.
    pub messages_per_s: Option<f64>,
    /// Half of the answers took no longer. As the next three, none where it is not known: what had no answer ranks
    /// behind all that had one.
    pub p50_us: Option<f64>,
    /// 99 % took no longer.
    pub p99_us: Option<f64>,
    /// 99.9 % took no longer.
    pub p999_us: Option<f64>,
    /// The longest.
    pub max_us: Option<f64>,
    /// In `churn`: connections that came up in the measured time, a second.
    pub connections_per_s: Option<f64>,
    /// In `churn`: half of them took no longer to come up.
    pub connect_p50_us: Option<f64>,
    /// In `churn`: 99 % took no longer.
    pub connect_p99_us: Option<f64>,
    /// In `churn`: the server's CPU time a connection, over the whole run of the cell, all processes.
    pub server_cpu_us_per_connection: Option<f64>,
    /// The server's CPU time an answer, over the whole run of the cell, all processes.
    pub server_cpu_us_per_message: Option<f64>,
    /// Who has told it: a control group, to the microsecond, or /proc, which tells that of ended children in ticks of 10 ms.
    #[serde(default)]
    pub server_cpu_from: Option<CpuFrom>,
    /// The load's, in the measured time.
    pub client_cpu_us_per_message: Option<f64>,
    /// How much of its processors the server used, 0 to 1; of one that we did not start, nobody knows, as of its other
    /// costs.
    pub server_busy: Option<f64>,
    /// How much of a processor the busiest thread of the load used, 0 to 1.
    pub client_busiest_thread: Option<f64>,
    /// How much of one it would have used had it always had one: with the time that it was ready to run and waited.
    pub client_demand: Option<f64>,
    /// Context switches an answer because a thread waited.
    pub voluntary_switches_per_message: Option<f64>,
    /// Context switches an answer because a thread was interrupted.
    pub involuntary_switches_per_message: Option<f64>,
    /// Page faults an answer that did not read from the disk, over the whole run of the cell, all processes.
    pub minor_faults_per_message: Option<f64>,
    /// Page faults that did, in all.
    pub major_faults: Option<u64>,
    /// Proportional set size of all the server's processes, the larger of before and after the load.
    pub peak_pss_bytes: Option<u64>,
    /// How much that is more than before the first connection, a connection; of a pool that was given its
    /// workers, all of it.
    pub bytes_per_connection: Option<f64>,
    /// The server's processes, while all connections were open.
    pub processes: Option<usize>,
    /// Its threads.
    pub threads: Option<usize>,
    /// Its descriptors, each as often as processes hold it.
    pub descriptors: Option<usize>,
    /// Connections that came up.
    pub established: Option<usize>,
    /// Connections that had an answer in the measured time; in `idle`, that had one at all.
    pub served: Option<usize>,
    /// Jain's fairness index over the connections.
    pub jain: Option<f64>,
    /// The same over the server's workers, where it says what each has done.
    pub jain_workers: Option<f64>,
    /// On a schedule: how many messages were due a second.
    pub rate_per_s: Option<f64>,
    /// In a search: the highest rate that was kept, a second.
    pub highest_rate_per_s: Option<f64>,
    /// The same, found from below.
    pub from_below_per_s: Option<f64>,
    /// The same, found from above.
    pub from_above_per_s: Option<f64>,
    /// Whether one is more than a quarter above the other.
    pub hysteresis: Option<bool>,
    /// In a search: each rate that was asked for and could be sent at in time, `rate:answers:p50:p99`, a second and in microseconds.
    #[serde(default)]
    pub curve: String,
    /// On a schedule: the share of the messages that were due which were answered.
    pub answered_share: Option<f64>,
    /// On a schedule: 99 % of the messages left no later than this after they were due.
    pub lateness_p99_us: Option<f64>,
    /// Throughput times mean response time, over the messages on their way: 1 by Little's law.
    pub little: Option<f64>,
    /// Connections that the client opened in all.
    pub opened: Option<u64>,
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
    /// For each tenth of a second of the measured time: the answers in it, and their p99 in microseconds; nothing where it was
    /// cut into slices.
    pub timeline: String,
    /// Where the cell was cut into slices: the compared figure of each, a dash where it does not count.
    #[serde(default)]
    pub slices: String,
    /// The latencies in nanoseconds, as HdrHistogram has them (V2, deflated), in base64.
    pub latency: String,
}

impl Cell {
    /// The memory of a connection, in bytes; at least as much as is told from none.
    pub fn memory_of_each(&self) -> Option<f64> {
        self.bytes_per_connection.map(|bytes| bytes.max(LEAST_BYTES))
    }

    /// Whether its figures count.
    pub fn counts(&self) -> bool {
        self.reason.is_empty()
    }

    /// A row for what was not run, or could not be.
    fn not_run(self, cause: Cause, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), cause: Some(cause), ..self }
    }

    /// Where it was run.
    pub fn point(&self) -> Point {
        let Self { drive, beside, size, connections, .. } = *self;
        Point { drive, beside, size, connections }
    }

    /// Whether it is the row of this turn.
    pub fn is_of(&self, turn: &Turn<'_>) -> bool {
        (self.block, self.scenario, self.point()) == (turn.block, turn.trial.scenario, turn.point)
            && self.contender == turn.contender
    }

    /// Runs it, alone.
    pub fn run(bench: &Bench, contender: &Contender, turn: &Turn<'_>) -> Self {
        let _scratch = match Scratch::at(&bench.scratch) {
            Ok(scratch) => scratch,
            Err(error) => return Self::without_scratch(bench, contender, turn, &error),
        };
        let (cell, server) = match Self::start(bench, contender, turn) {
            Ok(started) => started,
            Err(cell) => return *cell,
        };
        match Sight::of(bench, turn.trial, turn.point, contender, server) {
            Ok(sight) => cell.with(turn.trial, contender, sight),
            Err(error) => cell.not_loaded(&error),
        }
    }

    /// There is no place where its server could write.
    pub fn without_scratch(bench: &Bench, contender: &Contender, turn: &Turn<'_>, error: &io::Error) -> Self {
        let reason = format!("{}: {error}", bench.scratch.display());
        Self::of(contender, turn).not_run(Cause::Measure, reason)
    }

    /// Nothing is known of it yet.
    fn of(contender: &Contender, turn: &Turn<'_>) -> Self {
        let Turn { block, trial, point, .. } = *turn;
        Self {
            scenario: trial.scenario,
            block,
            contender: contender.name.clone(),
            style: contender.style,
            language: contender.language.clone(),
            connections: point.connections,
            size: point.size,
            drive: point.drive,
            beside: point.beside,
            work: trial.work.clone(),
            began_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            workers: trial.workers(contender, point.connections),
            ..Self::default()
        }
    }

    /// Starts its server; or says why there is none.
    ///
    /// # Errors
    /// The cell that was not run.
    pub fn start(bench: &Bench, contender: &Contender, turn: &Turn<'_>) -> Result<(Self, Server), Box<Self>> {
        let cell = Self::of(contender, turn);
        if let Some(reason) = turn.trial.excludes(contender, turn.point.connections) {
            return Err(Box::new(cell.not_run(Cause::Plan, reason)));
        }
        match bench.start(turn.trial, contender, turn.point.connections) {
            Ok(server) => Ok((cell, server)),
            Err(sentence) => Err(Box::new(cell.not_run(Cause::Server, format!("not started: {sentence}")))),
        }
    }

    /// It is up, and the load is not.
    pub fn not_loaded(self, error: &io::Error) -> Self {
        self.not_run(Cause::Measure, format!("not loaded: {error}"))
    }

    /// Keeps the figures of its slices.
    pub fn in_slices(mut self, slices: &[Option<f64>]) -> Self {
        let written = |figure: &Option<f64>| figure.map_or("-".into(), |figure| figure.to_string());
        self.slices = slices.iter().map(written).collect::<Vec<String>>().join(" ");
        self
    }

    /// Who it is of, and where.
    pub fn place(&self) -> (Scenario, Point, &str) {
        (self.scenario, self.point(), &self.contender)
    }

    /// The figure of each slice, nothing where it does not count; of a cell that was not cut into slices, its own.
    pub fn slices(&self) -> Vec<Option<f64>> {
        match self.slices.is_empty() {
            true => vec![self.scenario.figure(self)],
            false => self.slices.split(' ').map(|word| word.parse().ok()).collect(),
        }
    }

    /// The figure of a slice by itself.
    pub fn figure_of_slice(turn: &Turn<'_>, window: &Window, cpu: Option<Duration>) -> Option<f64> {
        let used = cpu.map(|cpu| Cost { cpu, ..Cost::default() });
        let cell =
            Self { scenario: turn.trial.scenario, connections: turn.point.connections, ..Self::default() };
        let cell = cell.with_figures(turn.trial, window, used.as_ref(), window.messages_in_all);
        cell.scenario.figure(&cell)
    }

    /// What follows from the load alone.
    fn with_figures(
        mut self,
        trial: &Trial,
        window: &Window,
        used: Option<&Cost>,
        messages_in_all: u64,
    ) -> Self {
        let latency = Percentiles::with_lost(&window.latency, window.lost_in_flight);
        let all = Some(messages_in_all as f64).filter(|all| *all > 0.0);
        let each = |figure: fn(&Cost) -> f64| Some(figure(used?) / all?);
        self.messages = Some(window.messages);
        self.measured_s = Some(window.measured.as_secs_f64());
        self.messages_per_s = window.rate();
        (self.p50_us, self.p99_us) = (latency.p50, latency.p99);
        (self.p999_us, self.max_us) = (latency.p999, latency.max);
        if trial.scenario.churn().is_some() {
            let connect = Percentiles::of(&window.connect);
            self.connections_per_s = window.connection_rate();
            (self.connect_p50_us, self.connect_p99_us) = (connect.p50, connect.p99);
            self.server_cpu_us_per_connection = used.and_then(|used| window.us_per_connection(used.cpu));
        }
        self.server_cpu_us_per_message = each(|used| used.cpu.as_secs_f64() * 1e6);
        self.client_cpu_us_per_message = window.cpu_us_per_message();
        self.voluntary_switches_per_message = each(|used| used.voluntary_switches as f64);
        self.involuntary_switches_per_message = each(|used| used.involuntary_switches as f64);
        self.minor_faults_per_message = each(|used| used.minor_faults as f64);
        self.jain = window.jain(self.connections);
        self
    }

    /// What was seen of it.
    pub fn with(self, trial: &Trial, contender: &Contender, sight: Sight) -> Self {
        let Load { window, took, .. } = &sight.load;
        let used = sight.load.used.as_ref();
        let mut cell = self.with_figures(trial, window, used, sight.load.messages_in_all);
        if let Some(found) = &sight.load.found {
            let found = &found.saturation;
            (cell.from_below_per_s, cell.from_above_per_s) = (found.from_below, found.from_above);
            cell.highest_rate_per_s = found.highest();
            cell.rate_per_s = cell.highest_rate_per_s;
            cell.hysteresis = Some(found.hysteresis);
            cell.curve = found.curve();
        }
        if let Some(kept) = &window.punctuality {
            cell.rate_per_s = cell.rate_per_s.or(trial.rate);
            cell.answered_share = Some(window.latency.len() as f64 / (kept.due as f64).max(1.0));
            cell.lateness_p99_us = Some(kept.usual_lateness().as_secs_f64() * 1e6);
        }
        // A server of one thread is as busy as it can be on one processor.
        cell.server_busy = used.zip(trial.server_cpus.as_ref()).map(|(used, cpus)| {
            let usable = cpus.count().min(used.threads).max(1);
            used.cpu.as_secs_f64() / took.as_secs_f64() / usable as f64
        });
        cell.client_busiest_thread = Some(window.busiest_thread);
        cell.client_demand = window.busiest_demand;
        cell.server_cpu_from = used.map(|_| sight.load.cpu_from);
        cell.major_faults = used.map(|used| used.major_faults);
        cell.peak_pss_bytes = used.and_then(|used| used.pss_bytes);
        let grown = cell.peak_pss_bytes.zip(sight.pss_before);
        cell.bytes_per_connection =
            grown.map(|(peak, before)| (peak as f64 - before as f64) / sight.held.max(1) as f64);
        (cell.processes, cell.threads) = used.map(|used| (used.processes, used.threads)).unzip();
        cell.descriptors = used.and_then(|used| used.descriptors);
        (cell.established, cell.served) = (Some(sight.established), Some(sight.served));
        cell.opened = Some(sight.held as u64 + window.opened_in_all);
        cell.jain_workers = sight.last_words.as_ref().and_then(among_workers);
        let in_flight = |rate: f64| rate * window.latency.mean() / 1e9 / sight.load.on_their_way as f64;
        cell.little = window.rate().filter(|_| !window.latency.is_empty()).map(in_flight);
        let said = |key: &str| sight.last_words.as_ref().and_then(|words| words[key].as_u64());
        match window.audit {
            None => (cell.accepted, cell.closed) = (said("accepted"), said("closed")),
            Some(audit) => {
                (cell.datagrams_in, cell.datagrams_out) = (said("datagrams_in"), said("datagrams_out"));
                (cell.sent, cell.lost, cell.late) = (Some(audit.sent), Some(audit.lost), Some(audit.late));
                (cell.duplicated, cell.reordered) = (Some(audit.duplicated), Some(audit.reordered));
                cell.kernel_drops = audit.kernel_drops;
                cell.server_kernel_drops = audit.server_kernel_drops;
            }
        }
        cell.timeline = if cell.slices.is_empty() { timeline(window) } else { String::new() };
        cell.latency = encoded(&window.latency);
        if let Some((cause, reason)) = cell.doubt(&sight, contender) {
            (cell.cause, cell.reason) = (Some(cause), reason);
        }
        cell
    }

    /// Why the figures do not count.
    fn doubt(&self, sight: &Sight, contender: &Contender) -> Option<(Cause, String)> {
        let of_server = self.failure(sight, contender).map(|reason| (Cause::Server, reason));
        of_server
            .or_else(|| Some((Cause::Client, self.pause(sight)?)))
            .or_else(|| Some((Cause::Measure, self.invalidity(sight)?)))
            .or_else(|| Some((Cause::Client, self.lateness(sight)?)))
            .or_else(|| Some((Cause::Measure, self.nothing_measured()?)))
    }

    /// What the server has done wrong.
    fn failure(&self, sight: &Sight, contender: &Contender) -> Option<String> {
        let told = |(fault, n, what): (Fault, u64, &str)| format!("{n} x {}: {what}", fault.name());
        if let Some(worst) = sight.faults.worst().filter(|(fault, ..)| fault.is_wrong_echo()) {
            return Some(told(worst));
        }
        if sight.established == 0 {
            let why = sight.faults.worst().map_or(String::new(), |worst| format!(": {}", told(worst)));
            return Some(format!("no connection came up{why}"));
        }
        // Where something else went wrong, that is the reason for what follows.
        if sight.faults.worst().is_some()
            || self.starved()
            || self.is_lossy(sight)
            || sight.served < self.connections
        {
            return None;
        }
        if contender.is_ours() && sight.last_words.is_none() {
            return Some("it did not end in order: no final figures".into());
        }
        if self.accepted != self.closed {
            return Some(format!("accepted {}, closed {}", known(self.accepted), known(self.closed)));
        }
        let opened = self.opened.map(|opened| opened + sight.awkward);
        if self.accepted.is_some() && self.accepted != opened {
            return Some(format!("accepted {} of {} connections", known(self.accepted), known(opened)));
        }
        if self.loss() == Some(0.0) && self.datagrams_in.is_some() && self.datagrams_in != self.sent {
            return Some(format!("received {} of {} datagrams", known(self.datagrams_in), known(self.sent)));
        }
        None
    }

    fn is_lossy(&self, sight: &Sight) -> bool {
        sight.load.window.audit.is_some_and(|audit| audit.doubt().is_some())
    }

    /// What kept the client from running, where too few slices are left.
    fn pause(&self, sight: &Sight) -> Option<String> {
        let (name, why) = sight.pauses.first()?;
        let (counting, slices) = (self.slices().iter().flatten().count(), self.slices().len());
        let is_too_much = self.slices.is_empty() || (counting as f64) < COUNTING * slices as f64;
        is_too_much.then(|| format!("{name}: {why}"))
    }

    /// Why it was measured, and is not valid.
    fn invalidity(&self, sight: &Sight) -> Option<String> {
        if let Some((fault, n, what)) = sight.faults.worst().filter(|_| !self.starved()) {
            return Some(format!("{n} x {}: {what}", fault.name()));
        }
        if self.starved() {
            let percent = 100.0 * self.answered_share.unwrap_or_default();
            return Some(format!("starved: {percent:.0} % of the messages were answered within a second"));
        }
        if sight.established < self.connections {
            return Some(format!("only {} connections came up", sight.established));
        }
        let found = sight.load.found.as_ref().map(|found| &found.saturation);
        if let Some(found) = found.filter(|found| found.end != End::Found) {
            return Some(format!("{}; {} rates were tried", found.end.sentence(), found.asked.len()));
        }
        if let Some(doubt) = sight.load.window.audit.and_then(|audit| audit.doubt()) {
            return Some(doubt);
        }
        if sight.served < self.connections {
            return Some(format!("only {} of {} connections were served", sight.served, self.connections));
        }
        if self.scenario == Scenario::Churn && sight.load.forgets_children {
            return Some(FORGETS_CHILDREN.into());
        }
        if let Some(rate) = sight.load.found.as_ref().and_then(Found::too_fast_for_us) {
            return Some(format!("client-bound: at {} a second the client did not keep up", thousands(rate)));
        }
        None
    }

    /// What this client did not do as it should.
    fn lateness(&self, sight: &Sight) -> Option<String> {
        // At a rate that was kept, lateness and all, it does not matter.
        let late = self.lateness_p99_us.filter(|_| self.drive != Drive::Search);
        if let Some(late) = late.filter(|&late| late > LATE.as_secs_f64() * 1e6) {
            return Some(format!("schedule-late: one send in 100 left {} late or later", us(late)));
        }
        if let Some(little) = self.little.filter(|_| self.breaks_littles_law(sight.load.on_their_way)) {
            return Some(format!(
                "Little's law does not hold ({little:.2} instead of 1): the fault is the measure's, not the server's"
            ));
        }
        None
    }

    /// Why its figure says nothing of the server.
    fn nothing_measured(&self) -> Option<String> {
        if self.is_client_bound() && self.scenario.character().figure.needs_a_free_client {
            return Some(self.who_was_busy());
        }
        if self.scenario.figure(self).is_none() {
            return Some("its figure could not be read: may its processes be looked into?".into());
        }
        None
    }

    /// That the client was the bound, with what is known of either side.
    fn who_was_busy(&self) -> String {
        let percent = |share: Option<f64>| share.map(|share| 100.0 * share);
        let [ran, wanted, server] =
            [self.client_busiest_thread, self.client_demand, self.server_busy].map(percent);
        let mut text = format!("client-bound: the client was {} % busy", whole(ran));
        if let Some(waited) =
            wanted.zip(ran).map(|(wanted, ran)| wanted - ran).filter(|waited| *waited >= 10.0)
        {
            text += &format!(" and waited {waited:.0} % to run");
        }
        if server.is_some() {
            text += &format!(", the server {} %", whole(server));
        }
        text
    }

    /// Whether, on a schedule, many were not answered while others would have been.
    pub fn starved(&self) -> bool {
        self.drive == Drive::Open && self.answered_share.is_some_and(|share| share < 1.0 - STARVING)
    }

    /// In a closed loop there are as many messages on their way as the rate times the time that each takes. What is on
    /// its way at either end of the measured time may be on one side of that alone; and between an answer and the next
    /// message there is none, for as long as the client works on that, or waits for a processor to do so.
    fn breaks_littles_law(&self, on_their_way: usize) -> bool {
        let (Some(little), Some(max_us), Some(measured_s)) = (self.little, self.max_us, self.measured_s)
        else {
            return false;
        };
        let slices = self.slices().len() as f64; // each has its ends
        let at_the_ends = 2.0 * slices * max_us / 1e6 / measured_s.max(1e-9);
        let in_between = self.demand_of_client().unwrap_or(1.0) / on_their_way as f64;
        self.drive == Drive::Closed
            && self.scenario.churn().is_none()
            && self.loss().is_none_or(|loss| loss == 0.0)
            && (little - 1.0).abs() > TOLERATED_BREACH + at_the_ends + in_between
    }

    /// Over UDP: the share of the datagrams that did not come back in time.
    pub fn loss(&self) -> Option<f64> {
        let missing = self.lost? + self.late?;
        Some(missing as f64 / self.sent.filter(|sent| *sent > 0)? as f64)
    }

    /// How much of a processor the client needed, as far as that is known.
    fn demand_of_client(&self) -> Option<f64> {
        self.client_demand.or(self.client_busiest_thread)
    }

    /// Whether the client was what limited the rates. One that is busy, or kept from running, is, unless the server was
    /// about as busy: then both are. Of a server that nobody can look into it is not known that it was.
    pub fn is_client_bound(&self) -> bool {
        let Some(demand) = self.demand_of_client() else { return false };
        let is_as_busy = |server: f64| demand - server <= TOLERATED_IDLENESS;
        demand >= CLIENT_BOUND && !self.server_busy.is_some_and(is_as_busy)
    }
}

/// The cells whose figures are believed: those that count, of contenders whose server has failed in no block at that point, and of whom
/// all cells but one count there, or four fifths: nobody is to win by the blocks in which it happened not to fail. What this client
/// failed at itself is left out of that.
pub fn believed<'c>(cells: impl IntoIterator<Item = &'c Cell> + Clone) -> impl Iterator<Item = &'c Cell> {
    let mut whose: BTreeMap<_, Vec<&Cell>> = BTreeMap::new();
    for cell in cells.clone().into_iter().filter(|cell| cell.cause != Some(Cause::Plan)) {
        whose.entry(cell.place()).or_default().push(cell);
    }
    whose.retain(|_, cells| {
        let counting = cells.iter().filter(|cell| cell.counts()).count();
        let void = cells.iter().filter(|cell| cell.cause == Some(Cause::Measure)).count();
        let has_failed = cells.iter().any(|cell| cell.cause == Some(Cause::Server));
        !has_failed && (void <= 1 || counting as f64 >= COUNTING * (counting + void) as f64)
    });
    cells.into_iter().filter(move |cell| cell.counts() && whose.contains_key(&cell.place()))
}

/// A count that the server may not have told.
fn known(count: Option<u64>) -> String {
    count.map_or(UNKNOWN.into(), |count| count.to_string())
}

fn whole(figure: Option<f64>) -> String {
    figure.map_or(UNKNOWN.into(), |figure| format!("{figure:.0}"))
}

/// Jain's index over what the server says that its workers have done, where there are several.
fn among_workers(words: &Value) -> Option<f64> {
    let done = |worker: &Value| worker["messages"].as_u64().or(worker["datagrams_in"].as_u64());
    let shares: Vec<u64> = words["workers"].as_array()?.iter().filter_map(done).collect();
    let mut all = Shares::default();
    (shares.len() > 1).then(|| {
        all.extend(shares);
        all.jain(0)
    })?
}

/// Of each interval the answers and their p99; of the last one only where it is whole.
fn timeline(window: &Window) -> String {
    let whole = window.series.iter().filter(|interval| interval.length >= INTERVAL * 9 / 10);
    let words = whole.map(|interval| {
        let p99 = interval.latency.histogram().value_at_percentile(99.0) / 1000;
        format!("{}/{p99}", interval.messages)
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_client_is_the_bound_unless_the_server_is_known_to_be_as_busy() {
        let is_bound = |client_demand, server_busy| {
            Cell { client_demand, server_busy, ..Cell::default() }.is_client_bound()
        };
        assert!(is_bound(Some(0.95), Some(0.5)) && !is_bound(Some(0.95), Some(0.9)));
        assert!(is_bound(Some(0.95), None), "nobody knows that the server was as busy");
        assert!(!is_bound(Some(0.5), None) && !is_bound(None, None), "nor that the client was");
        let cell = Cell { client_busiest_thread: Some(0.95), ..Cell::default() };
        assert_eq!(cell.who_was_busy(), "client-bound: the client was 95 % busy");
    }

    #[test]
    fn of_datagrams_that_were_not_sent_none_is_lost() {
        let loss = |sent| Cell { sent, lost: Some(1), late: Some(0), ..Cell::default() }.loss();
        assert_eq!((loss(None), loss(Some(0)), loss(Some(4))), (None, None, Some(0.25)));
    }
}
