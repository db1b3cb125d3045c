//! What was seen: latencies, counts, and everything that went wrong.

use std::{collections::BTreeMap, io, mem, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{
    pace::Departure,
    pauses::{self, Throttling},
    series::Second,
};

/// Latencies in nanoseconds, three significant digits up to 60 s; what is longer counts as 60 s.
pub fn histogram() -> Histogram<u64> {
    let bounded = Histogram::new_with_bounds(1, 60_000_000_000, 3);
    bounded.unwrap_or_else(|_| unreachable!("the bounds are constants, and right"))
}

/// The share of a processor from which on a thread of the load may be what limits the result.
pub const CLIENT_BOUND: f64 = 0.9;

/// The latency that so many percent of the messages do not exceed, with those that had no answer as the slowest of all;
/// none, where it is one of these, or there are no messages.
pub fn percentile(latency: &Histogram<u64>, lost: u64, percentile: f64) -> Option<u64> {
    let (known, all) = (latency.len() as f64, (latency.len() + lost) as f64);
    let rank = percentile / 100.0 * all;
    (known > 0.0 && rank.ceil() <= known).then(|| latency.value_at_quantile(rank / known))
}

/// What can go wrong with a connection, as the results name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// Nobody listens (ECONNREFUSED).
    Refused,
    /// Connecting failed otherwise.
    Connect,
    /// The connection was reset (ECONNRESET, EPIPE).
    Reset,
    /// Another error of the socket.
    Socket,
    /// No answer in time.
    Timeout,
    /// The server closed before our FIN, with every answer given that it began.
    Closed,
    /// Fewer bytes came back than were sent, and no more came.
    Short,
    /// A byte came back changed, or that nobody sent.
    Wrong,
    /// A datagram came back to a client that had not sent it.
    Foreign,
    /// The server did not close after our FIN.
    Unclosed,
}

impl Fault {
    /// The key in a result's `errors`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Socket => "socket",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Short => "short",
            Self::Wrong => "wrong",
            Self::Foreign => "foreign",
            Self::Unclosed => "unclosed",
        }
    }

    /// Whether the server gave a wrong answer; nothing that it answered can be believed then.
    pub fn is_wrong_echo(self) -> bool {
        matches!(self, Self::Short | Self::Wrong | Self::Foreign)
    }

    /// Sorts the error of a connected socket.
    pub fn of_socket(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Socket,
        }
    }
}

/// Everything that went wrong: how often, and the first of each kind in words.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    kinds: BTreeMap<Fault, (u64, String)>,
}

impl Faults {
    /// One more; `what` says what happened and where.
    pub fn add(&mut self, fault: Fault, what: impl FnOnce() -> String) {
        self.kinds.entry(fault).or_insert_with(|| (0, what())).0 += 1;
    }

    /// So many more of a kind; of the first of them, `what` says what happened and where.
    pub fn add_all(&mut self, fault: Fault, n: u64, what: String) {
        self.kinds.entry(fault).or_insert_with(|| (0, what)).0 += n;
    }

    /// Adds another's.
    pub fn merge(&mut self, other: Self) {
        for (fault, (n, what)) in other.kinds {
            self.add_all(fault, n, what);
        }
    }

    /// Each kind that happened, how often, and the first in words.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64, &str)> {
        self.kinds.iter().map(|(&fault, (n, what))| (fault, *n, what.as_str()))
    }

    /// A wrong echo, where there was one; else the first kind that happened.
    pub fn worst(&self) -> Option<(Fault, u64, &str)> {
        self.iter().find(|(fault, _, _)| fault.is_wrong_echo()).or_else(|| self.iter().next())
    }

    /// How often each kind happened, by its name.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.iter().map(|(fault, n, _)| (fault.name(), n)).collect()
    }
}

/// What came of opening the connections.
#[derive(Clone)]
pub struct Connecting {
    /// How many were asked for.
    pub asked: usize,
    /// How many came up.
    pub established: usize,
    /// How long each took from connect(2) to being up, in nanoseconds.
    pub took: Histogram<u64>,
    /// Those that did not.
    pub faults: Faults,
}

impl Connecting {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { asked: 0, established: 0, took: histogram(), faults: Faults::default() }
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: Self) {
        self.asked += other.asked;
        self.established += other.established;
        add(&mut self.took, &other.took);
        self.faults.merge(other.faults);
    }
}

/// What became of the datagrams of a stretch of load, those of its warm-up and of its last moments included. Each
/// that was sent is one thing, and so is each that came:
///
/// - `sent` = `answered` + `lost` + `late` + (`wrong` - `wrong_unawaited`)
/// - `received` = `answered` + `late` + `duplicated` + `foreign` + `wrong`
///
/// The first holds over all stretches together: what is given up in one may come in the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Those that were sent.
    pub sent: u64,
    /// Whatever came back.
    pub received: u64,
    /// Those that came back in time, unchanged.
    pub answered: u64,
    /// Those that were sent and never came back.
    pub lost: u64,
    /// Those that came back when they had been given up.
    pub late: u64,
    /// Those that came back once more.
    pub duplicated: u64,
    /// Those that came back in time, and after one that had left after them.
    pub reordered: u64,
    /// Those that came to a client that had not sent them.
    pub foreign: u64,
    /// Those that came back changed, cut or grown, or that nobody had sent.
    pub wrong: u64,
    /// Those of them that do not tell which one that was awaited they are.
    pub wrong_unawaited: u64,
    /// Those that the kernel dropped because a client's socket was full, where it says. What it has joined (UDP_GRO)
    /// it counts as one, here and at the server.
    pub kernel_drops: Option<u64>,
    /// Those that it dropped because the server's socket was full, where that is on this machine.
    pub server_kernel_drops: Option<u64>,
    /// The packets that this machine's kernel dropped meanwhile before they were any socket's, whosever they were.
    pub backlog_drops: Option<u64>,
    /// Those of the late that an earlier stretch has counted as lost, until they are added up.
    #[serde(skip)]
    pub recovered: u64,
}

/// The share of the datagrams that may be lost, or come twice, and the figures still count: each that is lost keeps
/// its place from the next one until it is given up, and each that comes twice is work that nobody asked for.
const TOLERATED: f64 = 0.001;

impl Audit {
    /// Adds another's.
    pub fn merge(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.answered += other.answered;
        self.lost += other.lost;
        self.late += other.late;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.foreign += other.foreign;
        self.wrong += other.wrong;
        self.wrong_unawaited += other.wrong_unawaited;
        self.recovered += other.recovered;
        let recovered = self.lost.min(self.recovered);
        (self.lost, self.recovered) = (self.lost - recovered, self.recovered - recovered);
        self.kernel_drops = sum(self.kernel_drops, other.kernel_drops);
        self.server_kernel_drops = sum(self.server_kernel_drops, other.server_kernel_drops);
        self.backlog_drops = sum(self.backlog_drops, other.backlog_drops);
    }

    /// The share of those that were sent which did not come back in time.
    pub fn loss(&self) -> Option<f64> {
        ratio((self.lost + self.late) as f64, self.sent as f64)
    }

    /// Whether so many are missing that the figures do not count.
    pub fn is_lossy(&self) -> bool {
        self.loss().is_some_and(|loss| loss > TOLERATED)
    }

    /// Whether so many came twice that the figures do not count.
    pub fn is_repetitive(&self) -> bool {
        self.duplicated as f64 > self.sent as f64 * TOLERATED
    }

    /// Why the figures do not count, in words.
    pub fn doubt(&self) -> Option<String> {
        if self.is_repetitive() {
            return Some(format!("{} of {} datagrams came twice", self.duplicated, self.sent));
        }
        self.is_lossy().then(|| self.losses())
    }

    /// How many are missing, and whose fault that is, as far as it is known.
    pub fn losses(&self) -> String {
        let (lost, late, percent) = (self.lost, self.late, 100.0 * self.loss().unwrap_or_default());
        let mut text = format!("{lost} lost and {late} late of {} datagrams ({percent:.2} %)", self.sent);
        for (drops, whose) in [(self.server_kernel_drops, "server"), (self.kernel_drops, "client")] {
            if let Some(drops @ 1..) = drops {
                text += &format!("; {drops} dropped by the kernel at the {whose}'s socket");
            }
        }
        if let Some(drops @ 1..) = self.backlog_drops {
            text += &format!("; {drops} packets of all on this machine dropped before any socket");
        }
        text
    }
}

/// Adds what is known.
fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.or(b).map(|_| a.unwrap_or(0) + b.unwrap_or(0))
}

/// How a schedule was kept in the measured time.
#[derive(Clone)]
pub struct Punctuality {
    /// The departures that were due.
    pub due: u64,
    /// Those that were dropped: too many of their connection's were on their way, or it was lost, or the time was
    /// over before they could leave.
    pub dropped: u64,
    /// How much later than it was due each was taken up, in nanoseconds: it left then, or waited for its connection. Also
    /// those that could not before the time was over; not those that were dropped at once.
    pub lateness: Histogram<u64>,
    /// How long each answer took from when its message left, in nanoseconds; [`Window::latency`] is counted from
    /// when it was due.
    pub service: Histogram<u64>,
}

impl Punctuality {
    /// Nothing was due yet.
    pub fn new() -> Self {
        Self { due: 0, dropped: 0, lateness: histogram(), service: histogram() }
    }

    /// Forgets all; its memory stays.
    fn clear(&mut self) {
        (self.due, self.dropped) = (0, 0);
        self.lateness.reset();
        self.service.reset();
    }

    /// A departure is taken up, so much later than it was due, and perhaps dropped.
    pub fn note(&mut self, is_dropped: bool, lateness: u64) {
        self.due += 1;
        if is_dropped {
            self.dropped += 1;
        } else {
            self.lateness.saturating_record(lateness);
        }
    }

    /// One did not come to leave, and is so late already.
    pub fn abandon(&mut self, lateness: u64) {
        self.note(false, lateness);
        self.dropped += 1;
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.due += other.due;
        self.dropped += other.dropped;
        add(&mut self.lateness, &other.lateness);
        add(&mut self.service, &other.service);
    }

    /// How late the latest of a hundred sends left, but for one.
    pub fn usual_lateness(&self) -> Duration {
        Duration::from_nanos(self.lateness.value_at_percentile(99.0))
    }
}

/// What was seen in a part of the measured time.
#[derive(Clone)]
pub struct Interval {
    /// The answers that came in it, as in [`Window::messages`].
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The latencies of those that came in it, as in [`Window::latency`].
    pub latency: Histogram<u64>,
    /// The messages that were given up in it, as in [`Window::lost_in_flight`].
    pub lost_in_flight: u64,
    /// In an open loop: how its schedule was kept.
    pub punctuality: Option<Punctuality>,
    /// What went wrong in it.
    pub faults: Faults,
    /// How things stand at its end.
    pub standing: Standing,
}

/// How things stand in a stretch of load that goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// How many connections are up; over UDP: how many clients there are.
    pub up: usize,
    /// Over UDP: what became of the datagrams so far.
    pub audit: Option<Audit>,
    /// As [`Window::busiest_thread`], so far.
    pub busiest_thread: f64,
    /// As [`Window::busiest_demand`], so far.
    pub busiest_demand: Option<f64>,
    /// As [`Window::stopped`], so far.
    pub stopped: Option<Duration>,
}

impl Standing {
    /// Adds another thread's.
    fn merge(&mut self, other: Self) {
        self.up += other.up;
        if let Some(audit) = other.audit {
            self.audit.get_or_insert_default().merge(audit);
        }
        self.busiest_thread = self.busiest_thread.max(other.busiest_thread);
        self.busiest_demand = larger(self.busiest_demand, other.busiest_demand);
        self.stopped = self.stopped.max(other.stopped);
    }
}

impl Interval {
    /// Nothing was seen.
    pub fn new() -> Self {
        let (faults, standing) = (Faults::default(), Standing::default());
        Self {
            messages: 0,
            bytes: 0,
            latency: histogram(),
            lost_in_flight: 0,
            punctuality: None,
            faults,
            standing,
        }
    }

    /// Forgets all; its memory stays.
    pub fn clear(&mut self) {
        let Self { messages, bytes, latency, lost_in_flight, punctuality, faults, standing } = self;
        (*messages, *bytes, *lost_in_flight) = (0, 0, 0);
        latency.reset();
        punctuality.iter_mut().for_each(Punctuality::clear);
        (*faults, *standing) = (Faults::default(), Standing::default());
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        add(&mut self.latency, &other.latency);
        self.lost_in_flight += other.lost_in_flight;
        if let Some(punctuality) = &other.punctuality {
            self.punctuality.get_or_insert_with(Punctuality::new).merge(punctuality);
        }
        self.faults.merge(other.faults.clone());
        self.standing.merge(other.standing);
    }
}

/// What was seen in a stretch of load; while it lasts, in the second that is not over.
#[derive(Clone)]
pub struct Window {
    /// How long it was measured: from the end of the warm-up on.
    pub measured: Duration,
    /// The answers that make the rate. In a closed loop, those to the messages that departed in the measured time,
    /// whenever they came; in an open one, those that came in it, whenever their messages were due.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// All answers, those of the warm-up and of the last moments included.
    pub messages_in_all: u64,
    /// The messages that departed in the measured time; in an open loop, those of them that were due in it. Each is
    /// in `latency`, or lost in flight.
    pub sent: u64,
    /// Those of them that had no answer, or none in time.
    pub lost_in_flight: u64,
    /// The latency of each of the others, from when it was due to depart, in nanoseconds: the slowest are among them,
    /// which came after the measured time.
    pub latency: Histogram<u64>,
    /// The connections that came up in the measured time.
    pub opened: u64,
    /// All connections that came up, those of the warm-up and of the last moments included.
    pub opened_in_all: u64,
    /// How long each of those in the measured time took to come up, in nanoseconds.
    pub connect: Histogram<u64>,
    /// The CPU time that the load's threads used in the measured time.
    pub cpu: Duration,
    /// The busiest thread's share of a processor in the measured time, 0 to 1.
    pub busiest_thread: f64,
    /// The same with the time that a thread was ready to run and had no processor, where the kernel tells that.
    pub busiest_demand: Option<f64>,
    /// How long a thread was stopped that was to run, the longest of all; where the kernel tells that.
    pub stopped: Option<Duration>,
    /// How often, and how long, the CPU quota of this client's cgroup stopped it, the warm-up included.
    pub throttled: Option<Throttling>,
    /// While it lasts: how many connections are up.
    pub up: usize,
    /// The measured time, second by second.
    pub series: Vec<Second>,
    /// How many seconds were cut off.
    pub seconds: usize,
    /// The answers in the measured time by connection, those that were lost included.
    pub by_connection: Shares,
    /// Over UDP: what became of the datagrams.
    pub audit: Option<Audit>,
    /// In an open loop: how its schedule was kept.
    pub punctuality: Option<Punctuality>,
    /// What went wrong.
    pub faults: Faults,
}

impl Window {
    /// Nothing seen.
    pub fn new() -> Self {
        Self {
            measured: Duration::ZERO,
            messages: 0,
            bytes: 0,
            messages_in_all: 0,
            sent: 0,
            lost_in_flight: 0,
            latency: histogram(),
            opened: 0,
            opened_in_all: 0,
            connect: histogram(),
            cpu: Duration::ZERO,
            busiest_thread: 0.0,
            busiest_demand: None,
            stopped: None,
            throttled: None,
            up: 0,
            series: Vec::new(),
            seconds: 0,
            by_connection: Shares::default(),
            audit: None,
            punctuality: None,
            faults: Faults::default(),
        }
    }

    /// Adds another thread's view of the same stretch.
    pub fn merge(&mut self, other: Self) {
        self.measured = self.measured.max(other.measured);
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.messages_in_all += other.messages_in_all;
        self.sent += other.sent;
        self.lost_in_flight += other.lost_in_flight;
        add(&mut self.latency, &other.latency);
        self.opened += other.opened;
        self.opened_in_all += other.opened_in_all;
        add(&mut self.connect, &other.connect);
        self.cpu += other.cpu;
        self.busiest_thread = self.busiest_thread.max(other.busiest_thread);
        self.busiest_demand = larger(self.busiest_demand, other.busiest_demand);
        self.stopped = self.stopped.max(other.stopped);
        self.throttled = longer(self.throttled, other.throttled);
        self.by_connection.merge(other.by_connection);
        if let Some(audit) = other.audit {
            self.audit.get_or_insert_default().merge(audit);
        }
        if let Some(punctuality) = other.punctuality {
            self.punctuality.get_or_insert_with(Punctuality::new).merge(&punctuality);
        }
        self.faults.merge(other.faults);
    }

    /// Cuts off the second that has ended: its number, and what was seen in it.
    pub fn cut(&mut self) -> (usize, Interval) {
        let mut interval = Interval::new();
        (self.cut_into(&mut interval), interval)
    }

    /// The same, into one in which nothing is: they change their memory.
    pub fn cut_into(&mut self, interval: &mut Interval) -> usize {
        interval.messages = mem::take(&mut self.messages);
        interval.bytes = mem::take(&mut self.bytes);
        mem::swap(&mut interval.latency, &mut self.latency);
        interval.lost_in_flight = mem::take(&mut self.lost_in_flight);
        if self.punctuality.is_some() {
            interval.punctuality.get_or_insert_with(Punctuality::new);
            mem::swap(&mut interval.punctuality, &mut self.punctuality);
        } else {
            interval.punctuality = None;
        }
        interval.faults = mem::take(&mut self.faults);
        interval.standing = Standing {
            up: self.up,
            audit: self.audit,
            busiest_thread: self.busiest_thread,
            busiest_demand: self.busiest_demand,
            stopped: self.stopped,
        };
        self.seconds += 1;
        self.seconds - 1
    }

    /// Puts one back that was cut off.
    pub fn put(&mut self, interval: &Interval) {
        self.messages += interval.messages;
        self.bytes += interval.bytes;
        add(&mut self.latency, &interval.latency);
        self.lost_in_flight += interval.lost_in_flight;
        if let Some(punctuality) = &interval.punctuality {
            self.punctuality.get_or_insert_with(Punctuality::new).merge(punctuality);
        }
        self.faults.merge(interval.faults.clone());
    }

    /// Adds a later stretch, whose measured time began so long after this one's.
    pub fn follow(&mut self, mut later: Self, after: Duration) {
        let measured = self.measured + later.measured;
        let throttled = self.throttled.into_iter().chain(later.throttled).reduce(Throttling::and);
        let seconds = later.series.drain(..).map(|second| Second { begin: after + second.begin, ..second });
        self.series.extend(seconds);
        self.by_connection = Shares::default(); // earlier there may have been fewer
        self.merge(later);
        (self.measured, self.throttled) = (measured, throttled);
    }

    /// Adds what another generator saw at the same time, second by second.
    pub fn beside(&mut self, mut other: Self) {
        let mut seconds = other.series.drain(..);
        self.series.iter_mut().zip(&mut seconds).for_each(|(second, other)| second.merge(&other));
        self.series.extend(seconds);
        // Each that is on the server's machine has seen what was dropped there.
        let server_drops = |audit: &Option<Audit>| audit.as_ref().and_then(|audit| audit.server_kernel_drops);
        let of_server = server_drops(&self.audit).max(server_drops(&other.audit));
        self.merge(other);
        if let Some(audit) = &mut self.audit {
            audit.server_kernel_drops = of_server;
        }
    }

    /// An answer that is recorded came at `now`.
    pub fn record(&mut self, departure: Departure, now: u64) {
        self.latency.saturating_record(now.saturating_sub(departure.due));
        if let Some(punctuality) = &mut self.punctuality {
            punctuality.service.saturating_record(now.saturating_sub(departure.left));
        }
    }

    /// The latency that so many percent of the messages do not exceed; none, where it is not known.
    pub fn percentile(&self, percent: f64) -> Option<u64> {
        percentile(&self.latency, self.lost_in_flight, percent)
    }

    /// Answers a second; of no time there is none, as of the figures below.
    pub fn rate(&self) -> Option<f64> {
        ratio(self.messages as f64, self.measured.as_secs_f64())
    }

    /// Bytes a second, each way.
    pub fn byte_rate(&self) -> Option<f64> {
        ratio(self.bytes as f64, self.measured.as_secs_f64())
    }

    /// Connections that came up a second.
    pub fn connection_rate(&self) -> Option<f64> {
        ratio(self.opened as f64, self.measured.as_secs_f64())
    }

    /// A CPU time shared out among all connections that came up, in microseconds.
    pub fn us_per_connection(&self, cpu: Duration) -> Option<f64> {
        ratio(cpu.as_secs_f64() * 1e6, self.opened_in_all as f64)
    }

    /// The load's own CPU time an answer, in microseconds.
    pub fn cpu_us_per_message(&self) -> Option<f64> {
        ratio(self.cpu.as_secs_f64() * 1e6, self.messages as f64)
    }

    /// Connections that came up and were lost. Who sends datagrams has none to lose.
    pub fn lost(&self) -> usize {
        if self.audit.is_some() { 0 } else { self.faults.counts().values().sum::<u64>() as usize }
    }

    /// Why what was seen is not the server's: pauses of this client, their names and what they were.
    pub fn pauses(&self) -> impl Iterator<Item = (&'static str, String)> {
        pauses::in_figures(self.measured, self.stopped, self.throttled)
    }

    /// How many connections had an answer at all.
    pub fn served(&self) -> usize {
        self.by_connection.served
    }

    /// Jain's fairness index over all connections that were asked for: one that never came up had nothing.
    pub fn jain(&self, asked: usize) -> Option<f64> {
        self.by_connection.jain(asked)
    }
}

/// How many answers each connection had: what is to be known of that to say how fair it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// How many connections these are.
    connections: usize,
    /// How many of them had an answer at all.
    pub served: usize,
    /// The sum of the answers, and that of their squares.
    answers: f64,
    squares: f64,
}

impl Shares {
    /// Adds those of other connections.
    pub fn merge(&mut self, other: Self) {
        self.connections += other.connections;
        self.served += other.served;
        self.answers += other.answers;
        self.squares += other.squares;
    }

    /// Jain's fairness index over so many, those that are not among these with no answer: 1 when all had the same,
    /// 1/n when one had everything, undefined when nobody had anything (Jain, Chiu and Hawe, DEC-TR-301, 1984).
    pub fn jain(&self, asked: usize) -> Option<f64> {
        ratio(self.answers * self.answers, self.squares * self.connections.max(asked) as f64)
    }
}

impl Extend<u64> for Shares {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, answers: I) {
        for n in answers {
            self.connections += 1;
            self.served += usize::from(n > 0);
            self.answers += n as f64;
            self.squares += (n as f64).powi(2);
        }
    }
}

/// The larger of what is known.
fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::max)
}

/// That of two generators which was stopped for longer: they may be in one cgroup.
fn longer(a: Option<Throttling>, b: Option<Throttling>) -> Option<Throttling> {
    a.into_iter().chain(b).max_by(|a, b| a.seconds.total_cmp(&b.seconds))
}

/// Nothing has no share of anything.
fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

/// Adds histograms that were made by [`histogram`].
fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    to.add(from).unwrap_or_else(|_| unreachable!("all histograms have the same bounds"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_windows_hold_every_sample_once() {
        let window = |samples: &[u64]| {
            let mut window = Window::new();
            samples.iter().for_each(|&ns| window.latency.saturating_record(ns));
            window.messages = samples.len() as u64;
            window.by_connection.extend([samples.len() as u64]);
            window
        };
        let mut merged = window(&[1_000, 2_000]);
        merged.merge(window(&[3_000]));
        assert_eq!(merged.latency, window(&[1_000, 2_000, 3_000]).latency);
        assert_eq!((merged.messages, merged.served()), (3, 2));
    }

    #[test]
    fn latency_is_counted_from_when_a_message_was_due_and_service_from_when_it_left() {
        let mut window = Window { punctuality: Some(Punctuality::new()), ..Window::new() };
        window.record(Departure { due: 100, left: 300 }, 500);
        let service = &window.punctuality.as_ref().unwrap().service;
        assert_eq!((window.latency.max(), service.max()), (400, 200));
    }

    #[test]
    fn what_had_no_answer_ranks_behind_all_that_had_one() {
        let mut latency = histogram();
        (1..=98).for_each(|ns| latency.saturating_record(ns));
        let at = |lost, percent| percentile(&latency, lost, percent);
        assert_eq!([at(0, 50.0), at(0, 100.0)], [Some(49), Some(98)]);
        assert_eq!([at(2, 50.0), at(2, 98.0), at(2, 99.0), at(2, 100.0)], [Some(50), Some(98), None, None]);
        assert_eq!([at(98, 50.0), at(99, 50.0)], [Some(98), None]);
        assert_eq!(percentile(&histogram(), 0, 50.0), None, "of nothing");
        for percent in [50.0, 90.0, 99.0, 99.9, 99.99, 100.0] {
            assert_eq!(at(0, percent), Some(latency.value_at_percentile(percent)));
        }
    }

    #[test]
    fn jains_index_is_one_for_equals_and_one_nth_for_a_monopoly() {
        let shares = |answers: &[u64]| {
            let mut shares = Shares::default();
            shares.extend(answers.iter().copied());
            shares
        };
        let jain = |of: &[u64], asked| shares(of).jain(asked).map(|index| (index * 1e9).round() / 1e9);
        assert_eq!((jain(&[5; 4], 4), jain(&[9, 0, 0, 0], 4)), (Some(1.0), Some(0.25)));
        assert_eq!((jain(&[5; 4], 16), jain(&[0; 4], 4), jain(&[], 4)), (Some(0.25), None, None));
        let mut merged = shares(&[9, 0]);
        merged.merge(shares(&[0, 0]));
        assert_eq!((merged, merged.served), (shares(&[9, 0, 0, 0]), 1));
    }

    #[test]
    fn what_one_stretch_has_lost_and_a_later_one_heard_of_is_late_in_all() {
        let mut all = Audit { sent: 3, answered: 1, lost: 2, ..Audit::default() };
        all.merge(Audit { sent: 1, answered: 1, late: 1, recovered: 1, ..Audit::default() });
        assert_eq!(all, Audit { sent: 4, answered: 2, lost: 1, late: 1, ..Audit::default() });
    }

    #[test]
    fn an_interval_whose_memory_is_used_again_holds_nothing_of_before() {
        let mut window = Window { punctuality: Some(Punctuality::new()), ..Window::new() };
        let mut see = |ns: u64, interval: &mut Interval| {
            window.messages += 1;
            window.record(Departure { due: 0, left: 0 }, ns);
            window.punctuality.as_mut().unwrap().note(false, ns);
            window.faults.add(Fault::Closed, String::new);
            window.cut_into(interval)
        };
        let mut interval = Interval::new();
        assert_eq!(see(1_000_000, &mut interval), 0);
        interval.clear();
        assert_eq!(see(5, &mut interval), 1);
        let kept = interval.punctuality.unwrap();
        assert_eq!((interval.messages, interval.latency.len(), interval.latency.max()), (1, 1, 5));
        assert_eq!((kept.due, kept.lateness.max(), kept.service.max()), (1, 5, 5));
        assert_eq!(interval.faults.iter().map(|(_, n, _)| n).sum::<u64>(), 1);
    }

    #[test]
    fn a_fault_keeps_the_words_of_its_first() {
        let mut faults = Faults::default();
        faults.add(Fault::Wrong, || "first".into());
        faults.add(Fault::Wrong, || "second".into());
        assert_eq!(faults.iter().collect::<Vec<_>>(), [(Fault::Wrong, 2, "first")]);
    }
}
