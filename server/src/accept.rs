//! Letting clients in: the errors of accept(2), the pauses that they ask for, and the limit on clients.

use std::{
    collections::VecDeque,
    io,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use nix::libc;

use crate::{
    model::Context,
    scoreboard::{Seat, Tally, Trouble},
    shutdown::{Ending, Stage, wait_readable},
    socket::stop_listening,
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
pub struct Client<'a, S = TcpStream> {
    /// Its socket.
    pub stream: S,
    /// Its place among `--max-connections`.
    pub seat: Seat<'a>,
}

/// What came of one accept(2).
pub enum Attempt<'a, S> {
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
    pub fn attempt<S>(&mut self, accepted: io::Result<S>) -> Attempt<'a, S> {
        match accepted {
            Ok(stream) => self.admit(stream).map_or(Attempt::Lost, Attempt::Client),
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

    /// Seats a client, or closes it at once where all seats are taken.
    pub fn admit<S>(&mut self, stream: S) -> Option<Client<'a, S>> {
        let Some(seat) = self.ctx.board.take_seat(self.ctx.settings.max_connections) else {
            self.turned_away(Trouble::MaxConnections);
            return None;
        };
        Some(Client { stream, seat })
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

/// What [`Clients::next_or`] brings.
pub enum Arrival<'a> {
    /// A client.
    Client(Client<'a>),
    /// The other descriptor is readable.
    Other,
}

/// The clients of a process that alone accepts from `listener`: waits for them, until the server is told to
/// end. Then it takes what is in the accept queue, closes the listener, and brings those last.
pub struct Clients<'a> {
    listener: Option<TcpListener>,
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
    pub fn new(listener: TcpListener, ctx: &'a Context, tally: &'a Tally) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (late, door) = (VecDeque::new(), Door::new(ctx, tally));
        Ok(Self { listener: Some(listener), ending: None, late, ctx, door })
    }

    /// The next client, or word that `other` is readable; `None` when the server ends and all were brought.
    pub fn next_or(&mut self, other: BorrowedFd<'_>) -> Option<Arrival<'a>> {
        self.arrival(Some(other))
    }

    /// A forked child closes what is its parent's: the listener, and other clients' sockets.
    pub fn leave_to_parent(&mut self) {
        self.listener = None;
        for client in self.late.drain(..) {
            client.seat.stays_taken();
        }
    }

    fn arrival(&mut self, other: Option<BorrowedFd<'_>>) -> Option<Arrival<'a>> {
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
    fn wait(&mut self, other: Option<BorrowedFd<'_>>) -> Option<Knock> {
        let listener = self.listener.as_ref()?;
        let pause = self.door.pause();
        let Some(ending) = self.ending else {
            let door = pause.is_none().then(|| listener.as_fd());
            let woken = wait_readable([Some(self.ctx.shutdown.as_fd()), other, door], pause);
            return Some(match woken {
                [true, _, _] => Knock::End,
                [_, true, _] => Knock::Other,
                [_, _, true] => Knock::Client,
                _ if self.door.open_again() => Knock::Client,
                _ => Knock::Nothing,
            });
        };
        // The end has begun, and the last were not let in for want of descriptors: once more after a pause,
        // until the drain is over.
        if ending.stage() > Stage::Draining {
            self.close();
            return None;
        }
        let timeout = [pause, ending.until_next_stage()].into_iter().flatten().min();
        let [asked] = wait_readable([other], timeout);
        Some(match asked {
            true => Knock::Other,
            false if self.door.open_again() => Knock::Client,
            false => Knock::Nothing,
        })
    }

    fn attempt(&mut self) -> Attempt<'a, TcpStream> {
        match &self.listener {
            Some(listener) => self.door.attempt(listener.accept().map(|(stream, _)| stream)),
            None => Attempt::Closed,
        }
    }

    /// Takes everybody who has connected, and then listens no more. Where the system is short of something,
    /// the others wait until it is not.
    fn let_the_last_in(&mut self) {
        loop {
            match self.attempt() {
                Attempt::Client(client) => self.late.push_back(client),
                Attempt::Lost => {}
                Attempt::Pause => return,
                Attempt::Nobody | Attempt::Closed => return self.close(),
            }
        }
    }

    fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            stop_listening(&listener);
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
        match self.arrival(None)? {
            Arrival::Client(client) => Some(client),
            Arrival::Other => None, // never: there is no other
        }
    }
}

/// The clients of one worker of a pool that shares `listener`: all of them block in accept(2), and the
/// kernel wakes one for each client.
pub struct SharedClients<'a> {
    listener: &'a TcpListener,
    ctx: &'a Context,
    door: Door<'a>,
}

impl<'a> SharedClients<'a> {
    /// Errors and refusals are counted on `tally`.
    pub fn new(listener: &'a TcpListener, ctx: &'a Context, tally: &'a Tally) -> Self {
        Self { listener, ctx, door: Door::new(ctx, tally) }
    }
}

impl<'a> Iterator for SharedClients<'a> {
    type Item = Client<'a>;

    fn next(&mut self) -> Option<Client<'a>> {
        loop {
            match self.door.attempt(self.listener.accept().map(|(stream, _)| stream)) {
                Attempt::Client(client) => return Some(client),
                Attempt::Lost => {}
                // The socket was made non-blocking, or closed, and nobody waits: see `SharedEnd`.
                Attempt::Closed | Attempt::Nobody => return None,
                Attempt::Pause => {
                    // At the end a worker that gets no descriptor leaves the rest to those that have one.
                    if self.ctx.shutdown.wait(self.door.pause()) {
                        return None;
                    }
                    self.door.open_again();
                }
            }
        }
    }
}

/// The end of a listener that a pool shares, seen by the pool's owner, who accepts nothing itself.
pub struct SharedEnd<'a> {
    listener: Option<&'a TcpListener>,
}

impl<'a> SharedEnd<'a> {
    /// Workers that look for a client from now on find one or leave.
    ///
    /// # Errors
    /// Where the listener cannot be made non-blocking.
    pub fn begins(listener: &'a TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?; // of the open file description: for all who share it
        Ok(Self { listener: Some(listener) })
    }

    /// Ends listening once the accept queue is empty: that wakes the workers that were blocked in
    /// accept(2) before it began. Says when to look again.
    pub fn close_when_empty(&mut self) -> Duration {
        const LOOK_AGAIN: Duration = Duration::from_millis(5);
        if let Some(listener) = self.listener {
            if wait_readable([Some(listener.as_fd())], Some(Duration::ZERO)) == [true] {
                return LOOK_AGAIN; // whoever waits there has connected in time
            }
            self.close();
        }
        Duration::MAX
    }

    /// Ends listening, whoever waits there.
    pub fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            stop_listening(listener);
        }
    }
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
