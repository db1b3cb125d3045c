//! Letting clients in: the errors of accept(2), the pauses that they ask for, and the limits on clients.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use nix::{
    libc,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use crate::{
    handoff::{Hand, Taken},
    model::Context,
    queue::Queue,
    scoreboard::{Tally, Trouble},
    seats::Seat,
    shutdown::{Ending, Stage, wait_readable},
    socket::{Listener, Peer, Stream},
};

/// Whom an error of accept(2) concerns, and so what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody waits; come back when the listener is readable.
    NobodyThere,
    /// That client is lost; go on with the next.
    Client,
    /// Descriptors or memory ran out: pause, or the listener, which stays readable, makes a busy loop.
    Resources,
    /// The socket listens no more.
    Closed,
}

impl From<&io::Error> for Fault {
    /// The table of accept(2), "Error handling" included: Linux passes on network errors that are already
    /// pending on the new socket.
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Self::NobodyThere,
            Some(
                libc::EINTR
                | libc::ECONNABORTED
                | libc::EPROTO
                | libc::EPERM
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::ETIMEDOUT
                | libc::ECONNRESET,
            ) => Self::Client,
            #[cfg(target_os = "linux")]
            Some(libc::ENONET) => Self::Client,
            Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK) => Self::Closed,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; and whatever is unknown deserves patience, not an exit.
            _ => Self::Resources,
        }
    }
}

/// The pauses that a worker takes when the system is short of something: 10 ms, doubling to 1 s, and from
/// the start again after a second without trouble.
pub struct Pauses {
    delays: ExponentialBackoff,
    /// When the last pause ends.
    until: Instant,
    /// Whether it is still to be waited for.
    pending: bool,
}

impl Pauses {
    /// No pause yet.
    pub fn new() -> Self {
        Self { delays: delays(), until: Instant::now(), pending: false }
    }

    /// Something was refused: the next pause begins. Returns how long it is.
    pub fn begin(&mut self) -> Duration {
        if self.until.elapsed() > Duration::from_secs(1) {
            self.delays = delays();
        }
        let delay = self.delays.next().unwrap_or(Duration::from_secs(1));
        (self.until, self.pending) = (Instant::now() + delay, true);
        delay
    }

    /// What is left of a pause that was begun, which may be nothing; `None` where there is no pause.
    pub fn left(&self) -> Option<Duration> {
        self.pending.then(|| self.until.saturating_duration_since(Instant::now()))
    }

    /// Ends the pause if its time has come; says whether there was one and it did.
    pub fn end(&mut self) -> bool {
        let ends = self.left() == Some(Duration::ZERO);
        self.pending &= !ends;
        ends
    }
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(10))
        .with_max_delay(Duration::from_secs(1))
        .without_max_times()
        .build()
}

/// A client that was let in. Dropping it closes the socket, and then gives the seat back.
pub struct Client<'a, S = Stream> {
    /// Its socket.
    pub stream: S,
    /// Its place among those that the limits allow.
    pub seat: Seat<'a>,
}

/// What came of one accept(2).
pub enum Attempt<'a, S = Stream> {
    /// A client.
    Client(Client<'a, S>),
    /// That client was lost or refused; there may be another.
    Lost,
    /// Nobody waits.
    Nobody,
    /// The system is short of something: a pause began.
    Pause,
    /// The socket listens no more.
    Closed,
}

/// Accepts, sorts the errors, keeps the limit. How to wait is left to whom it belongs to.
pub struct Door<'a> {
    ctx: &'a Context,
    tally: &'a Tally,
    pauses: Pauses,
}

impl<'a> Door<'a> {
    /// A door whose errors and refusals are counted on `tally`.
    pub fn new(ctx: &'a Context, tally: &'a Tally) -> Self {
        Self { ctx, tally, pauses: Pauses::new() }
    }

    /// Sorts what an accept(2) brought.
    pub fn attempt<S>(&mut self, accepted: io::Result<(S, Peer)>) -> Attempt<'a, S> {
        match accepted {
            Ok((stream, peer)) => self.admit(stream, peer).map_or(Attempt::Lost, Attempt::Client),
            Err(error) => self.sort(&error),
        }
    }

    fn sort<S>(&mut self, error: &io::Error) -> Attempt<'a, S> {
        match Fault::from(error) {
            Fault::NobodyThere => Attempt::Nobody,
            Fault::Client => {
                log::info!("a client was lost at accept: {error}");
                self.tally.trouble(Trouble::AcceptClient);
                Attempt::Lost
            }
            Fault::Resources => {
                self.tally.trouble(Trouble::AcceptResources);
                self.pause_for("not accepting", error);
                Attempt::Pause
            }
            Fault::Closed => Attempt::Closed,
        }
    }

    /// Seats a client, or closes it at once where a limit says so.
    fn admit<S>(&mut self, stream: S, peer: Peer) -> Option<Client<'a, S>> {
        match self.ctx.seats.take(peer) {
            Ok(seat) => Some(Client { stream, seat }),
            Err(limit) => {
                self.turned_away(limit);
                None
            }
        }
    }

    /// Sorts what a dealer handed over.
    pub fn adopt(&mut self, taken: io::Result<Taken>) -> Attempt<'a> {
        match taken {
            Ok(taken) => self.takes_back(taken).map_or(Attempt::Lost, Attempt::Client),
            Err(error) => self.sort(&error),
        }
    }

    /// A client that was on its way to somebody is this process's from now on.
    pub fn takes_back(&mut self, Taken { stream, peer, from }: Taken) -> Option<Client<'a>> {
        let seat = from.map(|holder| self.ctx.seats.adopt(peer, holder));
        match (stream, seat) {
            (Some(stream), Some(seat)) => Some(Client { stream, seat }),
            (Some(stream), None) => self.admit(stream, peer), // it has no seat yet
            (None, _) => {
                self.turned_away(Trouble::Handoff);
                None
            }
        }
    }

    /// Lets everybody in who waits; says whether a pause began before that was done.
    fn take_all(
        &mut self,
        accept: impl Fn() -> io::Result<(Stream, Peer)>,
        into: &mut VecDeque<Client<'a>>,
    ) -> bool {
        loop {
            match self.attempt(accept()) {
                Attempt::Client(client) => into.push_back(client),
                Attempt::Lost => {}
                Attempt::Pause => return true,
                Attempt::Nobody | Attempt::Closed => return false,
            }
        }
    }

    /// These are closed without service: the server ends, and there is nobody left to serve them.
    pub fn nobody_serves(&mut self, left: VecDeque<Client<'_>>) {
        left.iter().for_each(|_| self.turned_away(Trouble::Handoff));
    }

    /// A client was closed without service, because a limit says so.
    pub fn turned_away(&mut self, why: Trouble) {
        log::info!("a client was refused: {why:?}");
        self.tally.refused(why);
    }

    /// A client was closed without service, because the system refused what it takes: a pause begins.
    pub fn refused(&mut self, why: Trouble, error: &io::Error) {
        self.tally.refused(why);
        self.pause_for("a client was refused", error);
    }

    /// A client was closed without service, because the poller cannot watch it.
    pub fn unwatchable(&mut self, error: &io::Error) {
        self.tally.refused(Trouble::Unwatchable);
        if self.ctx.board.may_speak() {
            log::warn!("a client was refused: {error}");
        }
    }

    fn pause_for(&mut self, what: &str, error: &io::Error) {
        let delay = self.pauses.begin();
        if self.ctx.board.may_speak() {
            log::warn!("{what}: {error}; trying again in {delay:?}");
        }
    }

    /// What is left of a pause, which may be nothing; nobody is let in before [`Door::open_again`].
    pub fn pause(&self) -> Option<Duration> {
        self.pauses.left()
    }

    /// Ends a pause whose time has come; says whether there was one and it did.
    pub fn open_again(&mut self) -> bool {
        self.pauses.end()
    }
}

/// Where a loop's clients come in.
pub enum Entrance {
    /// The accept queue of a listener.
    Listener(Listener),
    /// A dealer hands them over.
    Hand(Hand),
}

impl Entrance {
    /// Takes the next client; its socket does not block.
    pub fn let_in<'a>(&self, door: &mut Door<'a>) -> Attempt<'a> {
        match self {
            Self::Listener(listener) => door.attempt(listener.accept_nonblocking()),
            Self::Hand(hand) => door.adopt(hand.take()),
        }
    }

    /// Whether, once the server ends, nobody else comes after the last who waits now. A dealer says when.
    pub fn ends_when_empty(&self) -> bool {
        matches!(self, Self::Listener(_))
    }

    /// Lets nobody in any more.
    pub fn close(self) {
        match self {
            Self::Listener(listener) => listener.stop(),
            Self::Hand(_) => {}
        }
    }
}

impl AsFd for Entrance {
    /// Readable when somebody waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener(listener) => listener.as_fd(),
            Self::Hand(hand) => hand.as_fd(),
        }
    }
}

/// What [`Clients::next_or`] brings.
pub enum Arrival<'a> {
    /// A client.
    Client(Client<'a>),
    /// The other descriptor is readable, or the time is up.
    Other,
}

/// What else [`Clients::next_or`] waits for.
#[derive(Clone, Copy, Default)]
pub struct Other<'f> {
    /// A descriptor to become readable.
    pub fd: Option<BorrowedFd<'f>>,
    /// A time to pass.
    pub timeout: Option<Duration>,
}

/// The clients of a process that alone accepts from `listener`: waits for them, until the server is told to
/// end. Then it takes what is in the accept queue, closes the listener, and brings those last.
pub struct Clients<'a> {
    listener: Option<Listener>,
    accept: fn(&Listener) -> io::Result<(Stream, Peer)>,
    ending: Option<Ending>,
    late: VecDeque<Client<'a>>,
    ctx: &'a Context,
    /// Its errors and limits.
    pub door: Door<'a>,
}

impl<'a> Clients<'a> {
    /// Takes the listener over; errors and refusals are counted on `tally`.
    ///
    /// # Errors
    /// Where the listener cannot be made non-blocking.
    pub fn new(listener: Listener, ctx: &'a Context, tally: &'a Tally) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (late, door) = (VecDeque::new(), Door::new(ctx, tally));
        Ok(Self { listener: Some(listener), accept: Listener::accept, ending: None, late, ctx, door })
    }

    /// The same, and the clients' sockets do not block.
    pub fn nonblocking(self) -> Self {
        Self { accept: Listener::accept_nonblocking, ..self }
    }

    /// This one comes again before all others.
    pub fn put_back(&mut self, client: Client<'a>) {
        self.late.push_front(client);
    }

    /// The server ends, and nobody is waited for any more: those who have connected by now, and the door.
    pub fn the_last(mut self) -> (VecDeque<Client<'a>>, Door<'a>) {
        self.let_the_last_in();
        self.close();
        (self.late, self.door)
    }

    /// A forked child closes what is its parent's: the listener, and other clients' sockets.
    pub fn leave_to_parent(&mut self) {
        self.listener = None;
        while let Some(client) = self.late.pop_front() {
            client.seat.stays_taken();
        }
    }

    /// The next client, or word of something else; `None` when the server ends and all were brought.
    pub fn next_or(&mut self, other: Other<'_>) -> Option<Arrival<'a>> {
        loop {
            if let Some(client) = self.late.pop_front() {
                return Some(Arrival::Client(client));
            }
            match self.wait(other)? {
                Knock::Nothing => {}
                Knock::Other => return Some(Arrival::Other),
                Knock::End => {
                    self.ending = Some(self.ctx.ending());
                    self.let_the_last_in();
                }
                Knock::Client if self.ending.is_some() => self.let_the_last_in(),
                Knock::Client => match self.attempt() {
                    Attempt::Client(client) => return Some(Arrival::Client(client)),
                    Attempt::Lost | Attempt::Nobody | Attempt::Pause => {}
                    Attempt::Closed => self.listener = None,
                },
            }
        }
    }

    /// Waits for the next thing to do; `None` when there is nothing to wait for any more.
    fn wait(&mut self, other: Other<'_>) -> Option<Knock> {
        let listener = self.listener.as_ref()?;
        let pause = self.door.pause();
        let soonest = |stage: Option<Duration>| [pause, other.timeout, stage].into_iter().flatten().min();
        let knock = if let Some(ending) = self.ending {
            // The end has begun, and the last were not let in for want of descriptors: once more after a pause,
            // until the drain is over.
            if ending.stage() > Stage::Draining {
                self.close();
                return None;
            }
            let asked = wait_readable([other.fd], soonest(ending.until_next_stage()));
            if asked == [true] { Knock::Other } else { Knock::Nothing }
        } else {
            let door = pause.is_none().then(|| listener.as_fd());
            match wait_readable([Some(self.ctx.shutdown.as_fd()), other.fd, door], soonest(None)) {
                [true, _, _] => Knock::End,
                [_, true, _] => Knock::Other,
                [_, _, true] => Knock::Client,
                _ => Knock::Nothing,
            }
        };
        Some(match knock {
            Knock::Nothing if self.door.open_again() => Knock::Client,
            Knock::Nothing if other.timeout.is_some() => Knock::Other,
            knock => knock,
        })
    }

    fn attempt(&mut self) -> Attempt<'a> {
        match &self.listener {
            Some(listener) => self.door.attempt((self.accept)(listener)),
            None => Attempt::Closed,
        }
    }

    /// Takes everybody who has connected, and then listens no more. Where the system is short of something,
    /// the others wait until it is not.
    fn let_the_last_in(&mut self) {
        let Some(listener) = &self.listener else { return };
        if !self.door.take_all(|| (self.accept)(listener), &mut self.late) {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.stop();
        }
    }
}

/// What ended a wait at the door.
enum Knock {
    /// The server is told to end.
    End,
    /// The other descriptor is readable.
    Other,
    /// A client may be there.
    Client,
    /// Nothing in particular.
    Nothing,
}

impl<'a> Iterator for Clients<'a> {
    type Item = Client<'a>;

    fn next(&mut self) -> Option<Client<'a>> {
        match self.next_or(Other::default())? {
            Arrival::Client(client) => Some(client),
            Arrival::Other => None, // never: there is no other
        }
    }
}

/// The clients of one worker of a pool that shares `listener`: all of them block in accept(2), and the
/// kernel wakes one for each client. Or they block in `turn`, which lets one of them accept at a time.
pub struct SharedClients<'a, T> {
    listener: &'a Listener,
    turn: T,
    ctx: &'a Context,
    door: Door<'a>,
}

impl<'a, G, T: FnMut() -> G> SharedClients<'a, T> {
    /// Errors and refusals are counted on `tally`. What `turn` returns is held while accepting.
    pub fn new(listener: &'a Listener, turn: T, ctx: &'a Context, tally: &'a Tally) -> Self {
        Self { listener, turn, ctx, door: Door::new(ctx, tally) }
    }
}

impl<'a, T> SharedClients<'a, T> {
    /// A client was closed without service, because the system refused what it takes: a pause begins.
    pub fn refused(&mut self, why: Trouble, error: &io::Error) {
        self.door.refused(why, error);
    }
}

impl<'a, G, T: FnMut() -> G> Iterator for SharedClients<'a, T> {
    type Item = Client<'a>;

    fn next(&mut self) -> Option<Client<'a>> {
        loop {
            if self.door.pause().is_some() && !wait_out(&mut self.door, self.ctx) {
                return None;
            }
            let accepted = {
                let _my_turn = (self.turn)();
                if self.listener.is_inherited() && !wait_for_anybody(self.listener, self.ctx) {
                    return None;
                }
                self.listener.accept()
            };
            match self.door.attempt(accepted) {
                Attempt::Client(client) => return Some(client),
                Attempt::Lost | Attempt::Pause => {}
                Attempt::Nobody if self.listener.is_inherited() => {} // another was quicker
                // The server ends: the others are `the_last`.
                Attempt::Closed | Attempt::Nobody => return None,
            }
        }
    }
}

/// The clients of one worker of a pool that a dealer hands them to.
pub struct HandedClients<'h, 'a> {
    hand: &'h Hand,
    ctx: &'a Context,
    door: Door<'a>,
}

impl<'h, 'a> HandedClients<'h, 'a> {
    /// Those that come by `hand`, which workers may share. Errors are counted on `tally`.
    pub fn new(hand: &'h Hand, ctx: &'a Context, tally: &'a Tally) -> Self {
        Self { hand, ctx, door: Door::new(ctx, tally) }
    }
}

impl<'a> Iterator for HandedClients<'_, 'a> {
    type Item = Client<'a>;

    fn next(&mut self) -> Option<Client<'a>> {
        loop {
            match self.door.adopt(self.hand.take()) {
                Attempt::Client(client) => return Some(client),
                Attempt::Lost => {}
                Attempt::Nobody => drop(wait_readable([Some(self.hand.as_fd())], None)),
                Attempt::Closed => return None,
                Attempt::Pause if wait_out(&mut self.door, self.ctx) => {}
                Attempt::Pause => return None,
            }
        }
    }
}

/// Waits for a client without accepting; false when the server is told to end.
fn wait_for_anybody(listener: &Listener, ctx: &Context) -> bool {
    loop {
        match wait_readable([Some(ctx.shutdown.as_fd()), Some(listener.as_fd())], None) {
            [true, _] => return false,
            [_, true] => return true,
            _ => {}
        }
    }
}

/// Waits until the door's pause is over. At the end a worker that gets no descriptor leaves the rest to those
/// that have one: false.
fn wait_out(door: &mut Door<'_>, ctx: &Context) -> bool {
    let goes_on = !ctx.shutdown.wait(door.pause());
    door.open_again();
    goes_on
}

/// Listeners of which each worker of a pool has one. A worker takes the clients of its own accept queue; when
/// that is empty, it helps with the others', whose worker may be busy with one client for long.
pub struct Queues {
    listeners: Vec<Listener>,
    /// What all idle workers wait at, also those in other processes: level-triggered, so that who is woken may
    /// leave the rest to others (epoll(7)).
    anybody: Epoll,
}

impl Queues {
    /// The queues of these listeners.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn new(listeners: Vec<Listener>, ctx: &Context) -> io::Result<Self> {
        let anybody = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (n, listener) in (0..).zip(&listeners) {
            listener.set_nonblocking(true)?;
            anybody.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, n))?;
        }
        anybody.add(ctx.shutdown.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX))?;
        Ok(Self { listeners, anybody })
    }

    /// The listeners.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The clients of worker number `n`.
    pub fn clients<'a>(&'a self, n: usize, ctx: &'a Context, tally: &'a Tally) -> QueuedClients<'a> {
        QueuedClients { queues: self, n, ctx, door: Door::new(ctx, tally) }
    }

    /// Waits until somebody is in some queue, and says in which; `None` when the server ends.
    fn wait(&self, ctx: &Context) -> Option<usize> {
        let mut events = [EpollEvent::empty()];
        loop {
            let woken = self.anybody.wait(&mut events, EpollTimeout::NONE);
            match usize::try_from(events[0].data()) {
                Ok(n) if woken == Ok(1) && n < self.listeners.len() => return Some(n),
                _ if ctx.shutdown.is_requested() => return None,
                _ => {}
            }
        }
    }
}

/// See [`Queues`].
pub struct QueuedClients<'a> {
    queues: &'a Queues,
    n: usize,
    ctx: &'a Context,
    door: Door<'a>,
}

impl<'a> Iterator for QueuedClients<'a> {
    type Item = Client<'a>;

    fn next(&mut self) -> Option<Client<'a>> {
        let mut queue = self.n;
        loop {
            match self.door.attempt(self.queues.listeners[queue].accept()) {
                Attempt::Client(client) => return Some(client),
                Attempt::Lost => {}
                Attempt::Nobody => queue = self.queues.wait(self.ctx)?,
                Attempt::Closed => return None,
                Attempt::Pause if wait_out(&mut self.door, self.ctx) => {}
                Attempt::Pause => return None,
            }
        }
    }
}

/// Waits until the server is told to end, and then puts [`the_last`] into a queue: for a thread beside one that
/// blocks in accept(2), or in a conversation.
pub fn wait_for_the_last<'a>(listener: &Listener, ctx: &'a Context, queue: &Queue<'_, Client<'a>>) {
    ctx.shutdown.wait(None);
    let last = the_last(std::slice::from_ref(listener), ctx);
    last.into_iter().flatten().for_each(|client| queue.put(client));
    queue.close();
}

/// The server was told to end: those who have connected by now, to any of `listeners`, which listen no more.
/// That wakes the workers who are blocked in accept(2). Where the system is short of something, the others
/// wait until it is not, or the drain is over.
///
/// # Errors
/// Where a listener cannot be made non-blocking.
pub fn the_last<'a>(listeners: &[Listener], ctx: &'a Context) -> io::Result<VecDeque<Client<'a>>> {
    let (mut last, mut door) = (VecDeque::new(), Door::new(ctx, ctx.board.door()));
    let ending = ctx.ending();
    for listener in listeners {
        listener.set_nonblocking(true)?; // of the open file description: for all who share it
        while door.take_all(|| listener.accept(), &mut last) && ending.stage() == Stage::Draining {
            let timeout = [door.pause(), ending.until_next_stage()].into_iter().flatten().min();
            thread::sleep(timeout.unwrap_or_default());
            door.open_again();
        }
        listener.stop();
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(errno: i32) -> Fault {
        Fault::from(&io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn a_clients_error_concerns_that_client_alone() {
        for errno in [libc::ECONNABORTED, libc::EPROTO, libc::EPERM, libc::ENETDOWN, libc::EHOSTUNREACH] {
            assert_eq!(fault(errno), Fault::Client);
        }
    }

    #[test]
    fn a_shortage_and_whatever_is_unknown_make_a_pause() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ENOSR, 9999] {
            assert_eq!(fault(errno), Fault::Resources);
        }
    }

    #[test]
    fn pauses_double_from_ten_milliseconds_to_a_second_and_start_again() {
        let mut pauses = Pauses::new();
        let all: Vec<u128> = (0..9).map(|_| pauses.begin().as_millis().next_multiple_of(10)).collect();
        assert_eq!(all, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert!(pauses.left() > Some(Duration::from_millis(900)));
        assert!(!pauses.end(), "its time has not come");
        let mut pauses = Pauses { until: Instant::now() - Duration::from_secs(2), pending: true, ..pauses };
        assert_eq!(pauses.left(), Some(Duration::ZERO));
        assert!(pauses.end() && pauses.left().is_none());
        assert!(pauses.begin() <= Duration::from_millis(10), "after a quiet second");
    }
}
