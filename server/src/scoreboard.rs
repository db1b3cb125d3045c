//! The counters of a server, on one page that its threads and its forked children share.
//!
//! A worker counts in the same way whatever it is. Each has a [`Tally`] of its own, on cache lines of its
//! own; the figures for the whole server are always sums over them. All counters only grow, and are updated
//! with relaxed atomics: they order nothing. `echo-server status` reads the page from outside, which costs the
//! server nothing.

mod page;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    ops::AddAssign,
    path::Path,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use arguments::Transport;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use zerocopy::FromBytes;

use crate::shared::Sharable;

pub use page::{Copied, Identity};
use page::{Header, Page, Served};

/// What can go wrong, as the final figures name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The client reset its connection (ECONNRESET).
    Reset,
    /// The client was gone when its answer was sent (EPIPE).
    BrokenPipe,
    /// The client's host stopped answering (ETIMEDOUT, or what the network said of it meanwhile: EHOSTUNREACH).
    TimedOut,
    /// Any other error of one client's socket.
    Socket,
    /// accept(2) reported an error of one client.
    AcceptClient,
    /// accept(2) ran out of descriptors or memory.
    AcceptResources,
    /// A client was refused because `--max-connections` were being served.
    MaxConnections,
    /// A client was refused because `--max-per-ip` of its address were being served.
    MaxPerIp,
    /// A client was refused because the poller cannot watch its descriptor.
    Unwatchable,
    /// A client was refused because the queue was full.
    QueueFull,
    /// fork(2) was refused.
    Fork,
    /// A thread was refused.
    Thread,
    /// A client could not be handed to a worker.
    Handoff,
    /// A conversation ended in a panic.
    Panic,
    /// A worker ended that should have lived.
    WorkerDied,
    /// A client said and took nothing for `--idle-timeout`.
    IdleTimeout,
    /// A client had not finished when the drain ended.
    Cut,
}

impl Trouble {
    /// Every kind, in the order of their numbers.
    const ALL: [Self; 17] = [
        Self::Reset,
        Self::BrokenPipe,
        Self::TimedOut,
        Self::Socket,
        Self::AcceptClient,
        Self::AcceptResources,
        Self::MaxConnections,
        Self::MaxPerIp,
        Self::Unwatchable,
        Self::QueueFull,
        Self::Fork,
        Self::Thread,
        Self::Handoff,
        Self::Panic,
        Self::WorkerDied,
        Self::IdleTimeout,
        Self::Cut,
    ];

    /// The key in the final figures' `errors`.
    fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::BrokenPipe => "broken_pipe",
            Self::TimedOut => "timed_out",
            Self::Socket => "socket",
            Self::AcceptClient => "accept_client",
            Self::AcceptResources => "accept_resources",
            Self::MaxConnections => "max_connections",
            Self::MaxPerIp => "max_per_ip",
            Self::Unwatchable => "unwatchable",
            Self::QueueFull => "queue_full",
            Self::Fork => "fork",
            Self::Thread => "thread",
            Self::Handoff => "handoff",
            Self::Panic => "panic",
            Self::WorkerDied => "worker_died",
            Self::IdleTimeout => "idle_timeout",
            Self::Cut => "cut",
        }
    }
}

impl From<&io::Error> for Trouble {
    /// Sorts the error of one client's socket.
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset => Self::Reset,
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Self::TimedOut
            }
            _ => Self::Socket,
        }
    }
}

/// Why a datagram was not answered, or is not kept, as the final figures name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The kernel's buffer for the socket was full, or its filter knew the datagram for an answer.
    Kernel,
    /// An answer to the port that it came from would come back, or hit a service that answers.
    Reflection,
    /// It was sent to a broadcast or multicast address.
    NotToOne,
    /// The kernel had to cut it.
    Truncated,
    /// Its client sent more than `--rate-limit`.
    RateLimit,
    /// The kernel did not take the answer.
    Undeliverable,
    /// Who serves its client had no room for another.
    Busy,
    /// Nobody could be started to serve its client.
    Unserved,
    /// Who was to answer it was killed, or cut at the end.
    Unanswered,
    /// The drain was over before it was received.
    Cut,
    /// It was dropped with its client, which had been silent for longest when there were `--max-clients`.
    Clients,
    /// Its client had `--max-messages` others.
    ClientMessages,
    /// Its client had `--max-bytes` of others.
    ClientBytes,
    /// The groups took `--max-group-memory`.
    GroupMemory,
    /// The worker that kept it was killed.
    WorkerDied,
}

impl Dropped {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Kernel,
        Self::Reflection,
        Self::NotToOne,
        Self::Truncated,
        Self::RateLimit,
        Self::Undeliverable,
        Self::Busy,
        Self::Unserved,
        Self::Unanswered,
        Self::Cut,
        Self::Clients,
        Self::ClientMessages,
        Self::ClientBytes,
        Self::GroupMemory,
        Self::WorkerDied,
    ];

    /// Whether it says why a datagram that was received has no answer. The kernel's own were never received; and what the
    /// groups let go has its answer.
    fn is_of_an_answer(self) -> bool {
        match self {
            Self::Kernel
            | Self::Clients
            | Self::ClientMessages
            | Self::ClientBytes
            | Self::GroupMemory
            | Self::WorkerDied => false,
            Self::Reflection
            | Self::NotToOne
            | Self::Truncated
            | Self::RateLimit
            | Self::Undeliverable
            | Self::Busy
            | Self::Unserved
            | Self::Unanswered
            | Self::Cut => true,
        }
    }

    /// The key in `dropped`, of the final figures and of the groups.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Reflection => "reflection",
            Self::NotToOne => "not_to_one",
            Self::Truncated => "truncated",
            Self::RateLimit => "rate_limit",
            Self::Undeliverable => "undeliverable",
            Self::Busy => "busy",
            Self::Unserved => "unserved",
            Self::Unanswered => "unanswered",
            Self::Cut => "cut",
            Self::Clients => "clients",
            Self::ClientMessages => "client_messages",
            Self::ClientBytes => "client_bytes",
            Self::GroupMemory => "group_memory",
            Self::WorkerDied => "worker_died",
        }
    }
}

/// What one worker has done. All zeroes is a worker that has done nothing.
#[derive(Default, FromBytes)]
#[repr(C, align(128))]
pub struct Tally {
    pid: AtomicU32,
    /// How often its place was filled.
    starts: AtomicU32,
    accepted: AtomicU64,
    closed: AtomicU64,
    refused: AtomicU64,
    messages: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    troubles: [AtomicU64; Trouble::ALL.len()],
    /// How many datagrams were sent.
    answers: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
    /// What its groups hold now: these go up and down.
    clients_held: AtomicU64,
    messages_held: AtomicU64,
    group_memory: AtomicU64,
}

impl Tally {
    /// This worker is, or runs in, the process `pid`.
    pub fn occupied_by(&self, pid: u32) {
        self.pid.store(pid, Relaxed);
        self.starts.fetch_add(1, Relaxed);
    }

    /// The process that it is, or runs in; 0 where it has not been started.
    pub fn pid(&self) -> u32 {
        self.pid.load(Relaxed)
    }

    /// A worker process is gone without a word: whom it was serving, the kernel has closed. Returns how many
    /// those were.
    pub fn vacated(&self) -> u64 {
        let lost = self.active();
        (0..lost).for_each(|_| self.closed());
        lost
    }

    /// A client's service began.
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    /// A client's service ended; its socket is closed.
    pub fn closed(&self) {
        self.closed.fetch_add(1, Relaxed);
    }

    /// How many clients are being served.
    pub fn active(&self) -> u64 {
        // `closed` is read first: a connection that begins and ends meanwhile is then one too many, not too few.
        let closed = self.closed.load(Relaxed);
        self.accepted.load(Relaxed).saturating_sub(closed)
    }

    /// With how many clients this worker is done.
    pub fn done(&self) -> u64 {
        self.closed.load(Relaxed) + self.refused.load(Relaxed)
    }

    /// How much it has served, in clients and messages: more than before, if it has served anything meanwhile.
    pub fn served(&self) -> u64 {
        self.accepted.load(Relaxed) + self.messages.load(Relaxed)
    }

    /// A client was closed without service.
    pub fn refused(&self, why: Trouble) {
        self.refused.fetch_add(1, Relaxed);
        self.trouble(why);
    }

    /// A receive brought `bytes`. TCP keeps no boundaries, so this is what counts as a message.
    pub fn received(&self, bytes: usize) {
        self.messages.fetch_add(1, Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    /// The kernel took `bytes` to send.
    pub fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    /// So many datagrams of so many bytes in all came.
    pub fn received_datagrams(&self, datagrams: usize, bytes: usize) {
        self.messages.fetch_add(datagrams as u64, Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    /// The kernel took so many datagrams of so many bytes in all.
    pub fn sent_datagrams(&self, datagrams: usize, bytes: usize) {
        self.answers.fetch_add(datagrams as u64, Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    /// So many datagrams were not answered, or are not kept.
    pub fn dropped(&self, why: Dropped, datagrams: u64) {
        self.dropped[why as usize].fetch_add(datagrams, Relaxed);
    }

    /// It has ended, and so have those who answered for it: what came, and was neither answered nor dropped, is lost.
    fn the_rest_is_lost(&self) {
        let unanswered = Dropped::ALL.iter().filter(|why| why.is_of_an_answer());
        let dropped: u64 = unanswered.map(|&why| self.dropped[why as usize].load(Relaxed)).sum();
        let accounted_for = self.answers.load(Relaxed) + dropped;
        self.dropped(Dropped::Unanswered, self.messages.load(Relaxed).saturating_sub(accounted_for));
    }

    /// Something went wrong, for one client or for the worker.
    pub fn trouble(&self, what: Trouble) {
        self.troubles[what as usize].fetch_add(1, Relaxed);
    }

    /// A client was lost through an error of its socket.
    pub fn lost(&self, error: &io::Error) {
        self.trouble(Trouble::from(error));
        log::info!("a client was lost: {error}");
    }

    /// Its groups hold `messages` of `clients` now, in so many bytes of memory.
    pub fn holds(&self, clients: usize, messages: usize, memory: usize) {
        self.clients_held.store(clients as u64, Relaxed);
        self.messages_held.store(messages as u64, Relaxed);
        self.group_memory.store(memory as u64, Relaxed);
    }

    /// Its groups are gone, or somebody else's. Returns how many messages they held.
    pub fn forgets(&self) -> u64 {
        self.clients_held.store(0, Relaxed);
        self.group_memory.store(0, Relaxed);
        self.messages_held.swap(0, Relaxed)
    }

    /// What went wrong so far, without the kinds that never did.
    fn troubles(&self) -> BTreeMap<&'static str, u64> {
        Trouble::ALL
            .iter()
            .map(|&kind| (kind.name(), self.troubles[kind as usize].load(Relaxed)))
            .filter(|&(_, n)| n > 0)
            .collect()
    }

    fn datagrams(&self, keeps_groups: bool) -> Datagrams {
        let held = |gauge: &AtomicU64| keeps_groups.then(|| gauge.load(Relaxed));
        let dropped = |&why: &Dropped| (why.name(), self.dropped[why as usize].load(Relaxed));
        Datagrams {
            datagrams_in: self.messages.load(Relaxed),
            datagrams_out: self.answers.load(Relaxed),
            dropped: Dropped::ALL.iter().map(dropped).filter(|&(_, n)| n > 0).collect(),
            clients: held(&self.clients_held),
            messages_held: held(&self.messages_held),
            group_memory: held(&self.group_memory),
        }
    }

    fn figures(&self, of: Served) -> Figures {
        let (active, closed) = (self.active(), self.closed.load(Relaxed));
        Figures {
            accepted: active + closed,
            closed,
            refused: self.refused.load(Relaxed),
            active,
            messages: self.messages.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            errors: self.troubles(),
            udp: (of.transport == Transport::Udp).then(|| self.datagrams(of.keeps_groups)),
        }
    }
}

/// Counters read at one moment; `errors` holds the kinds that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Clients whose service began.
    pub accepted: u64,
    /// Clients whose service ended.
    pub closed: u64,
    /// Clients closed without service.
    pub refused: u64,
    /// Clients being served.
    pub active: u64,
    /// Receives that brought data.
    pub messages: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// How often each kind of trouble happened.
    pub errors: BTreeMap<&'static str, u64>,
    /// What there is to say about datagrams, where those are what is served.
    #[serde(flatten)]
    pub udp: Option<Datagrams>,
}

/// The counters of datagrams, read at one moment; `dropped` holds the reasons that occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Datagrams {
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// How many were not answered, or are not kept, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Clients of whom something is kept, where that is done at all. While the server runs, whom several workers hear
    /// counts with each.
    pub clients: Option<u64>,
    /// How many datagrams are kept.
    pub messages_held: Option<u64>,
    /// How much memory that takes, in bytes.
    pub group_memory: Option<u64>,
}

impl AddAssign<&Self> for Figures {
    fn add_assign(&mut self, other: &Self) {
        for (sum, n) in [
            (&mut self.accepted, other.accepted),
            (&mut self.closed, other.closed),
            (&mut self.refused, other.refused),
            (&mut self.active, other.active),
            (&mut self.messages, other.messages),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_out, other.bytes_out),
        ] {
            *sum = sum.saturating_add(n); // whoever reads a page from outside may read anything
        }
        add(&mut self.errors, &other.errors);
        if let (Some(sum), Some(other)) = (&mut self.udp, &other.udp) {
            sum.datagrams_in = sum.datagrams_in.saturating_add(other.datagrams_in);
            sum.datagrams_out = sum.datagrams_out.saturating_add(other.datagrams_out);
            add(&mut sum.dropped, &other.dropped);
            for (sum, held) in [
                (&mut sum.clients, other.clients),
                (&mut sum.messages_held, other.messages_held),
                (&mut sum.group_memory, other.group_memory),
            ] {
                *sum = sum.zip(held).map(|(sum, held)| sum.saturating_add(held));
            }
        }
    }
}

fn add(sums: &mut BTreeMap<&'static str, u64>, others: &BTreeMap<&'static str, u64>) {
    for (kind, &n) in others {
        let sum = sums.entry(kind).or_default();
        *sum = sum.saturating_add(n);
    }
}

/// One worker's figures.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerFigures {
    /// The process that it is, or runs in.
    pub pid: u32,
    /// How often its place was filled; from the second time on, the worker before it had ended.
    pub starts: u32,
    /// What it has done.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The page, as the server holds it.
pub struct Scoreboard {
    page: Page,
    /// Kept open, so that `echo-server status PID` finds it.
    _file: File,
}

impl Scoreboard {
    /// A page for the workers of the server that `identity` names, all counters zero: in the file `stats`, or
    /// in one that is found through this process alone.
    ///
    /// # Errors
    /// Where the file cannot be made, or the kernel refuses the memory.
    pub fn of(identity: &Identity, stats: Option<&Path>) -> io::Result<Self> {
        let (page, file) = page::lay(identity, stats)?;
        Ok(Self { page, _file: file })
    }

    /// A page for `workers` workers of nobody.
    #[cfg(test)]
    pub fn new(workers: usize) -> io::Result<Self> {
        Self::of(&Identity { workers, ..Identity::default() }, None)
    }

    /// This process begins to serve.
    pub fn begins(&self) {
        self.page.head().begins();
    }

    /// Its workers keep datagrams by client address.
    pub fn keeps_groups(&self) {
        self.page.head().keeps_groups();
    }

    /// The server has ended; the figures are final.
    pub fn ends(&self) {
        self.page.head().ends();
    }

    /// The tally of worker number `n`.
    pub fn worker(&self, n: usize) -> &Tally {
        &self.page[n]
    }

    /// The tally of a server without a pool: this process is its only worker.
    pub fn alone(&self) -> &Tally {
        let tally = self.worker(0);
        tally.occupied_by(std::process::id());
        tally
    }

    /// The tally of an acceptor that is no worker itself.
    pub fn door(&self) -> &Tally {
        &self.page.head().door
    }

    /// All who received and answered datagrams have ended.
    pub fn nobody_answers(&self) {
        self.page.iter().for_each(Tally::the_rest_is_lost);
    }

    /// How many datagrams all of them dropped for a reason.
    pub fn dropped(&self, why: Dropped) -> u64 {
        let dropped = |tally: &Tally| tally.dropped[why as usize].load(Relaxed);
        dropped(self.door()) + self.page.iter().map(dropped).sum::<u64>()
    }

    /// So many clients wait in the queue of a pool now.
    pub fn queued(&self, clients: usize) {
        self.page.head().queued.store(clients as u64, Relaxed);
    }

    /// Whether what happens again and again, in many workers, may be logged now: once a second for all.
    pub fn may_speak(&self) -> bool {
        let second = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec());
        self.page.head().last_said.swap(second, Relaxed) != second
    }

    /// The whole server's figures, and each worker's.
    pub fn figures(&self) -> (Figures, Vec<WorkerFigures>) {
        figures(self.door(), &self.page, self.page.head().served())
    }
}

/// What a door and its workers have done, and each worker.
fn figures(door: &Tally, workers: &[Tally], of: Served) -> (Figures, Vec<WorkerFigures>) {
    let figures = |tally: &Tally| WorkerFigures {
        pid: tally.pid(),
        starts: tally.starts.load(Relaxed),
        figures: tally.figures(of),
    };
    let workers: Vec<WorkerFigures> = workers.iter().map(figures).collect();
    let mut all = door.figures(of);
    for worker in &workers {
        all += &worker.figures;
    }
    (all, workers)
}

// SAFETY: atomic integers alone, in arrays and tallies.
#[allow(unsafe_code)]
unsafe impl Sharable for Header {}

// SAFETY: atomic integers alone.
#[allow(unsafe_code)]
unsafe impl Sharable for Tally {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_the_server_are_the_sum_over_its_workers() {
        let board = Scoreboard::new(3).unwrap();
        for n in 0..3 {
            board.worker(n).received(10 * (n + 1));
            board.worker(n).trouble(Trouble::Reset);
        }
        board.door().refused(Trouble::QueueFull);
        let (all, workers) = board.figures();
        assert_eq!((all.messages, all.bytes_in, all.refused), (3, 60, 1));
        assert_eq!(all.errors, BTreeMap::from([("reset", 3), ("queue_full", 1)]));
        assert_eq!(workers.iter().map(|w| w.figures.bytes_in).collect::<Vec<_>>(), [10, 20, 30]);
    }

    #[test]
    fn what_may_be_said_once_a_second_is() {
        let board = Scoreboard::new(1).unwrap();
        let spoken = (0..1000).filter(|_| board.may_speak()).count();
        assert!((1..=2).contains(&spoken), "{spoken} times");
    }

    #[test]
    fn a_dead_workers_clients_are_closed() {
        let board = Scoreboard::new(1).unwrap();
        (0..2).for_each(|_| board.worker(0).accepted());
        assert_eq!(board.worker(0).vacated(), 2);
        assert_eq!(board.figures().0.active, 0);
    }

    #[test]
    fn every_kind_of_trouble_has_its_own_place_and_name() {
        for (place, kind) in Trouble::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
        let names: std::collections::BTreeSet<_> = Trouble::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Trouble::ALL.len());
    }
}
