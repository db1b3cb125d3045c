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
    shutdown::wait_readable,
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
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::ETIMEDOUT
                | libc::ECONNRESET,
            ) => Self::Client,
            Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK) => Self::Closed,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; and whatever is unknown deserves patience, not an exit.
            _ => Self::Resources,
        }
    }
}

/// The pauses that a worker takes when the system is short of something: 10 ms, doubling to 1 s, and from
/// the start again once something succeeded.
pub struct Pauses {
    delays: ExponentialBackoff,
    until: Option<Instant>,
}

impl Pauses {
    /// No pause yet.
    pub fn new() -> Self {
        Self { delays: delays(), until: None }
    }

    /// Something was refused: the next pause begins. Returns how long it is.
    pub fn begin(&mut self) -> Duration {
        let delay = self.delays.next().unwrap_or(Duration::from_secs(1));
        self.until = Some(Instant::now() + delay);
        delay
    }

    /// What is left of the pause; `None` when there is none.
    pub fn left(&self) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// It worked again.
    pub fn over(&mut self) {
        if self.until.take().is_some() {
            self.delays = delays();
        }
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
    /// Nobody waits, or a pause began.
    Nobody,
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
            Ok(stream) => {
                self.pauses.over();
                self.admit(stream).map_or(Attempt::Lost, Attempt::Client)
            }
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
                Attempt::Nobody
            }
            Fault::Closed => Attempt::Closed,
        }
    }

    /// Seats a client, or closes it at once where all seats are taken.
    pub fn admit<S>(&mut self, stream: S) -> Option<Client<'a, S>> {
        let seat = self.ctx.board.take_seat(self.ctx.settings.max_connections);
        if seat.is_none() {
            self.turned_away(Trouble::MaxConnections);
        }
        Some(Client { stream, seat: seat? })
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

    /// What is left of a pause; nobody is let in meanwhile.
    pub fn pause(&self) -> Option<Duration> {
        self.pauses.left()
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
    late: VecDeque<TcpStream>,
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
        Ok(Self { listener: Some(listener), late: VecDeque::new(), ctx, door: Door::new(ctx, tally) })
    }

    /// The next client, or word that `other` is readable; `None` when the server ends and all were brought.
    pub fn next_or(&mut self, other: BorrowedFd<'_>) -> Option<Arrival<'a>> {
        self.arrival(Some(other))
    }

    /// A forked child closes what is its parent's: the listener, and other clients' sockets.
    pub fn leave_to_parent(&mut self) {
        self.listener = None;
        self.late.clear();
    }

    fn arrival(&mut self, other: Option<BorrowedFd<'_>>) -> Option<Arrival<'a>> {
        loop {
            let Some(listener) = &self.listener else {
                let stream = self.late.pop_front()?;
                match self.door.admit(stream) {
                    Some(client) => return Some(Arrival::Client(client)),
                    None => continue,
                }
            };
            let end = self.ctx.shutdown.as_fd();
            let pause = self.door.pause();
            // A pause is a wait that does not look at the listener.
            let door = if pause.is_some() { end } else { listener.as_fd() };
            let [ended, asked, knocked] = wait_readable([end, other.unwrap_or(end), door], pause);
            if ended {
                self.close();
            } else if asked {
                return Some(Arrival::Other);
            } else if knocked || pause.is_some() {
                match self.door.attempt(listener.accept().map(|(stream, _)| stream)) {
                    Attempt::Client(client) => return Some(Arrival::Client(client)),
                    Attempt::Lost | Attempt::Nobody => {}
                    Attempt::Closed => self.listener = None,
                }
            }
        }
    }

    fn close(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        while let Ok((stream, _)) = listener.accept() {
            self.late.push_back(stream);
        }
        stop_listening(&listener);
    }
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
                Attempt::Closed => return None,
                Attempt::Nobody => {
                    // Without a pause: `close_when_empty` made the socket non-blocking, and nobody waits.
                    self.ctx.shutdown.wait(Some(self.door.pause()?));
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
            if wait_readable([listener.as_fd()], Some(Duration::ZERO)) == [true] {
                return LOOK_AGAIN; // whoever waits there has connected in time
            }
            stop_listening(listener);
            self.listener = None;
        }
        Duration::MAX
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
        pauses.over();
        assert!(pauses.left().is_none());
        pauses.begin();
        assert!(pauses.left().unwrap() <= Duration::from_millis(10));
    }
}
