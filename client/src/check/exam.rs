//! What a check is lent: a server to examine, time, bytes, and a place for what it sees.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use arguments::Transport;
use nix::poll::{PollFd, PollTimeout, poll};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value};

use super::{
    Check,
    client::Client,
    examinee::{Confinement, Examinee},
    peer::Peer,
    target::Target,
    words::{Words, words},
};
use crate::{interrupt, listener};

/// What a check found: that all is well, in a sentence; or why it stopped.
pub type Examined = Result<Words, Stop>;

/// Why a check stopped.
#[derive(Debug)]
pub enum Stop {
    /// The server has the bug.
    Fault(Words),
    /// The server took too long. On a machine that is slow just now a good one may, so it is asked again with more
    /// patience before it is said.
    Late(Words),
    /// Nothing is wrong, but somebody should look at it.
    Doubt(Words),
    /// What the check needs is not at hand.
    Skip(Words),
    /// Nothing can be said of this bug: the server was late at something simpler, or cannot be asked.
    Unjudged(Words),
    /// The server has a simpler bug, so nothing can be said of this one.
    Masked(Words),
    /// The fault is ours, or this machine's; a sentence.
    Harness(String),
}

impl Stop {
    /// An error of a system call of ours.
    pub fn harness(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Harness(format!("{what}: {error}"))
    }

    /// What a server fails already that is asked for less than the bug in question: it has another one, that of
    /// `check`, and of this one nothing can be said.
    pub fn other(check: &'static str) -> impl FnOnce(Self) -> Self {
        let because = move |seen: &Words| {
            words!(
                "not judged: something simpler is wrong, see {check}",
                "未作判断：更基本的地方就有问题，见 {check}"
            )
            .and(seen)
        };
        move |stop| match stop {
            Self::Fault(seen) => Self::Masked(because(&seen)),
            Self::Late(seen) => Self::Unjudged(because(&seen)),
            stop => stop,
        }
    }
}

/// How long a process may take to die once its sockets are closed: a core is written meanwhile, or much memory freed.
const DYING: Duration = Duration::from_millis(300);

/// How long a server may take to accept those who wait, where it serves several at once.
const ROOM: Duration = Duration::from_millis(200);

/// For how long nobody looks up from what is awaited: a signal may have asked for an end.
const GLANCE: Duration = Duration::from_millis(100);

/// A check under way.
pub struct Exam<'e> {
    target: &'e Target,
    transport: Transport,
    scale: f64,
    deadline: Cell<Instant>,
    stop: &'e AtomicBool,
    seed: u64,
    evidence: RefCell<Map<String, Value>>,
    /// Whether a connection ended as those of a dying server do.
    is_suspicious: Cell<bool>,
    death: RefCell<Option<Words>>,
    /// Whether few may wait in the server's queue, once somebody has asked.
    has_short_queue: Cell<Option<bool>>,
    /// Whether datagrams are answered from the port that they were sent to.
    answers_from_its_port: Cell<bool>,
}

impl<'e> Exam<'e> {
    /// Of a target, which begins now; all durations are stretched by `scale`. Once `stop` is set nothing is waited for.
    pub fn new(target: &'e Target, check: &Check, scale: f64, seed: u64, stop: &'e AtomicBool) -> Self {
        Self {
            target,
            stop,
            transport: check.transport,
            scale,
            deadline: Cell::new(Instant::now() + check.limit.mul_f64(scale)),
            seed,
            evidence: RefCell::default(),
            is_suspicious: Cell::default(),
            death: RefCell::default(),
            has_short_queue: Cell::default(),
            answers_from_its_port: Cell::default(),
        }
    }

    /// The server: one that nobody has talked to yet, where we can start it.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn server(&self) -> Result<Examinee<'_>, Stop> {
        self.server_under(&Confinement::default())
    }

    /// The server, within limits of its own. Only a target that is started can be confined.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn server_under(&self, confinement: &Confinement) -> Result<Examinee<'_>, Stop> {
        self.target.examinee(self, confinement)
    }

    /// The server, started again on the port where it has just been ended. Only a target that is started can be.
    ///
    /// # Errors
    /// [`Stop::Fault`] where it does not listen there.
    pub fn server_again(&self, port: u16) -> Result<Examinee<'_>, Stop> {
        self.target.again(self, port)
    }

    /// A client of that server that has connected.
    ///
    /// # Errors
    /// Where that fails.
    pub fn client<'s>(&'s self, server: &Examinee<'_>) -> Result<Client<'s>, Stop> {
        Client::connect(self, server.address(self.transport)?)
    }

    /// A client of that server's datagrams.
    ///
    /// # Errors
    /// Where there is no socket for it.
    pub fn peer<'s>(&'s self, server: &Examinee<'_>) -> Result<Peer<'s>, Stop> {
        Peer::of(self, server.address(self.transport)?)
    }

    /// Over what the server is asked.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// A duration as long as this machine needs it to be.
    pub fn scaled(&self, duration: Duration) -> Duration {
        duration.mul_f64(self.scale)
    }

    /// So long from now, but not beyond what the check has in all.
    pub fn until(&self, duration: Duration) -> Instant {
        let now = Instant::now();
        if interrupt::requested(self.stop) {
            now
        } else {
            self.deadline.get().min(now + self.scaled(duration))
        }
    }

    /// Waits until one of the sockets that are asked is ready (poll(2)), or it is time; whether one may be. A signal wakes
    /// as well, so whoever is woken looks again.
    ///
    /// # Errors
    /// [`Stop::Harness`].
    pub fn ready_by(&self, asked: &mut [PollFd<'_>], deadline: Instant) -> Result<bool, Stop> {
        loop {
            let left = if interrupt::requested(self.stop) {
                Duration::ZERO
            } else {
                deadline.saturating_duration_since(Instant::now())
            };
            // Rounded up: to wait for less than a millisecond is to spin.
            let timeout = PollTimeout::try_from(left.min(GLANCE).as_micros().div_ceil(1000))
                .unwrap_or(PollTimeout::MAX);
            match poll(asked, timeout) {
                Ok(0) if !left.is_zero() => {}
                Ok(n) => return Ok(n > 0),
                Err(nix::Error::EINTR) => return Ok(true),
                Err(error) => return Err(Stop::Harness(format!("poll: {error}"))),
            }
        }
    }

    /// Asks again and again until there is an answer, or for no longer than (a scaled) `patience`.
    pub fn within<T>(&self, patience: Duration, ask: impl FnMut() -> Option<T>) -> Option<T> {
        self.by(self.until(patience), ask)
    }

    /// The same for what takes its time on any machine, and is none of the check's: all of its limit is left to it.
    pub fn beforehand<T>(&self, patience: Duration, ask: impl FnMut() -> Option<T>) -> Option<T> {
        let began = Instant::now();
        let answer = self.by(began + patience, ask);
        self.deadline.set(self.deadline.get() + began.elapsed());
        answer
    }

    fn by<T>(&self, deadline: Instant, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return Some(answer);
            }
            if Instant::now() >= deadline || interrupt::requested(self.stop) {
                return None;
            }
            // What is asked for long is asked for less often: to look at many processes takes its time as well.
            std::thread::sleep((began.elapsed() / 16).clamp(Duration::from_millis(5), GLANCE));
        }
    }

    /// Where a server's queue is short, waits until there is room in it: a client that finds it full loses a second, which
    /// is one bug, and not that of every check.
    pub(super) fn awaits_room(&self, server: SocketAddr) {
        const SHORT: u32 = 16;
        if !server.ip().is_loopback() {
            return;
        }
        let is_short = || listener::queue(server.port()).is_some_and(|length| length < SHORT);
        if self.has_short_queue.get().unwrap_or_else(is_short) {
            self.has_short_queue.set(Some(true));
            self.within(ROOM, || (!listener::is_full(server.port())).then_some(()));
        } else {
            self.has_short_queue.set(Some(false));
        }
    }

    /// Lets time pass: a span in which something is measured.
    pub fn pass(&self, span: Duration) {
        let _ = self.within(span, || None::<()>);
    }

    /// Bytes of all values; the same for the same seed.
    pub fn noise(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        StdRng::seed_from_u64(self.seed).fill_bytes(&mut bytes);
        bytes
    }

    /// Lines of letters, the last one ended as well: who takes bytes for text has another bug, and is not blamed for it
    /// twice.
    pub fn text(&self, length: usize) -> Vec<u8> {
        let mut text = self.noise(length);
        let letter = |(at, byte): (usize, &mut u8)| {
            *byte = if at % 64 == 63 || at + 1 == length { b'\n' } else { b'a' + *byte % 26 };
        };
        text.iter_mut().enumerate().for_each(letter);
        text
    }

    /// Whether a datagram may be the server's. Who has answered from the port that was asked does not send from others:
    /// what does is meant for somebody who had the client's port before.
    pub fn may_be_of(&self, server: SocketAddr, from: SocketAddr) -> bool {
        let is_its_port = from.port() == server.port();
        if is_its_port {
            self.answers_from_its_port.set(true);
        }
        is_its_port || !self.answers_from_its_port.get()
    }

    /// Keeps a figure or a text as evidence, under a name with its unit: `bytes_sent`, `cpu_share`.
    pub fn saw(&self, name: &str, value: impl Into<Value>) {
        self.evidence.borrow_mut().insert(name.into(), value.into());
    }

    /// A connection ended as those of a dying server do.
    pub(super) fn suspects_death(&self) {
        self.is_suspicious.set(true);
    }

    /// Looks for a death; a moment longer where one is suspected, for the sockets of a process that dies are closed
    /// before it is dead.
    pub(super) fn look_for_death(&self, mut look: impl FnMut() -> Option<Words>) {
        let patience = if self.is_suspicious.get() { DYING } else { Duration::ZERO };
        if let Some(how) = self.within(patience, &mut look) {
            self.death.borrow_mut().get_or_insert(how);
        }
    }

    /// All that was seen, and how the server died if it did.
    pub(super) fn end(self) -> (Map<String, Value>, Option<Words>) {
        (self.evidence.into_inner(), self.death.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::CHECKS, *};
    use crate::check::target::Source;

    #[test]
    fn what_is_waited_for_beforehand_takes_nothing_of_a_checks_time() {
        let target = Target::new(vec!["tcp://127.0.0.1:1".parse().unwrap()], Source::Address).unwrap();
        let (stop, limit) = (AtomicBool::new(false), Duration::from_millis(100));
        let exam = Exam::new(&target, CHECKS[0], limit.div_duration_f64(CHECKS[0].limit), 0, &stop);
        assert!(exam.beforehand(2 * limit, || None::<()>).is_none());
        assert!(exam.until(CHECKS[0].limit) > Instant::now() + limit / 2, "most of its time is left");
    }
}
