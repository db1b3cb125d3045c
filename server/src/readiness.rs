//! The loops that the readiness pollers drive: one thread, many conversations, none of them blocks; or one socket
//! with the datagrams of all clients.
//!
//! The loop asks the poller which sockets are ready, lets each of their conversations take a turn, and asks
//! for what it wants next. How the kernel is asked is all that a poller is.

use std::{
    io::{self, ErrorKind},
    net,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use mio::{Events, Poll, Token, unix::SourceFd};
use slab::Slab;

use crate::{
    accept::{Attempt, Client, Door, Entrance},
    busy_poll::busy_poll,
    connection::{Connection, Next},
    datagram::PATIENCE,
    exchange::{self, Exchange},
    handoff::Hand,
    idle::{Idle, Signs, Watched},
    model::Context,
    scoreboard::{Tally, Trouble},
    shutdown::{Ending, Stage},
    socket::Datagrams,
};

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// To be readable.
    Read,
    /// To be writable.
    Write,
}

/// A descriptor that is ready.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The number that it is watched under.
    pub key: usize,
    /// The peer has sent its FIN: reading will come to an end of file.
    pub fin_seen: bool,
}

/// A way of asking the kernel which descriptors are ready. It may report a readiness once (edge-triggered)
/// or as long as it lasts (level-triggered), and may report one that is not: the loop is right with all.
pub trait Poller {
    /// Begins to watch `fd` under `key`.
    ///
    /// # Safety
    /// `fd` has to stay open until it is not watched any more ([`Poller::unwatch`], [`Poller::closes`]), or the poller is
    /// asked nothing more.
    ///
    /// # Errors
    /// Where the kernel, or the poller's size, does not allow another one.
    #[allow(unsafe_code)]
    unsafe fn watch(&mut self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()>;

    /// Watches `fd` for something else, or for the same anew: if it is ready now, that is reported again.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn watch_anew(&mut self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()>;

    /// Watches `fd` no more, for now or for good.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn unwatch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// `fd`, which is watched, is about to be closed. epoll(7) and kqueue forget it by themselves.
    fn closes(&mut self, _fd: BorrowedFd<'_>) {}

    /// Waits until something is ready or `timeout` has passed; what is ready is put into `ready`, which was
    /// empty. A signal may end the wait.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()>;
}

/// A descriptor as pollers keep it that hold lists of their own.
///
/// # Safety
/// That of [`Poller::watch`]; or it is not kept.
#[allow(unsafe_code)]
pub unsafe fn while_watched(fd: BorrowedFd<'_>) -> BorrowedFd<'static> {
    // SAFETY: as of the caller.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// How many events one wait of mio's brings.
const EVENTS: usize = 1024;

/// The poller that mio is: epoll or kqueue, both edge-triggered.
pub struct Mio {
    poll: Poll,
    events: Events,
}

impl Mio {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// Where descriptors ran out (epoll_create(2)).
    pub fn new() -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, events: Events::with_capacity(EVENTS) })
    }
}

impl Poller for Mio {
    #[allow(unsafe_code)]
    unsafe fn watch(&mut self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), Token(key), interest.into())
    }

    fn watch_anew(&mut self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        self.poll.registry().reregister(&mut SourceFd(&fd.as_raw_fd()), Token(key), interest.into())
    }

    fn unwatch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&fd.as_raw_fd()))
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        ready.extend(
            self.events.iter().map(|event| Ready { key: event.token().0, fin_seen: event.is_read_closed() }),
        );
        Ok(())
    }
}

impl From<Interest> for mio::Interest {
    fn from(interest: Interest) -> Self {
        match interest {
            Interest::Read => Self::READABLE,
            Interest::Write => Self::WRITABLE,
        }
    }
}

/// Answers the datagrams of `socket` until the server is told to end, and then those that have come by then.
///
/// # Errors
/// Where the poller or the socket fails.
#[allow(unsafe_code)]
pub fn serve_datagrams(
    mut poller: impl Poller,
    socket: &Datagrams,
    ctx: &Context,
    worker: usize,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut exchange = Exchange::of_many(ctx, worker)?;
    let (mut interest, mut ending): (_, Option<Ending>) = (Interest::Read, None);
    // SAFETY: both are open until this returns, and the poller ends with it.
    unsafe {
        poller.watch(socket.as_fd(), ENTRANCE, interest)?;
        poller.watch(ctx.shutdown.as_fd(), SHUTDOWN, Interest::Read)?;
    }
    ctx.ready(ctx.board.worker(worker));
    let mut ready = Vec::new();
    loop {
        let stage = ending.and_then(|ending| ending.until_next_stage());
        let sleep = [stage, (interest == Interest::Write).then_some(PATIENCE)].into_iter().flatten().min();
        busy_poll(ctx.settings.busy_poll, sleep, &mut ready, |timeout, ready| poller.wait(timeout, ready))?;
        if ready.drain(..).any(|it| it.key == SHUTDOWN) {
            poller.unwatch(ctx.shutdown.as_fd())?;
            ending = Some(ctx.ending());
            socket.stop();
        }
        let wanted = match exchange.turn(socket)? {
            exchange::Next::Read if ending.is_some() => return Ok(()),
            _ if ending.is_some_and(|ending| ending.stage() > Stage::Draining) => return Ok(()),
            exchange::Next::Read if interest == Interest::Read => continue,
            exchange::Next::Write if interest == Interest::Write => continue,
            exchange::Next::Read | exchange::Next::Turn => Interest::Read,
            exchange::Next::Write => Interest::Write,
        };
        interest = wanted;
        poller.watch_anew(socket.as_fd(), ENTRANCE, interest)?;
    }
}

const ENTRANCE: usize = usize::MAX - 1;
const SHUTDOWN: usize = usize::MAX - 2;
const STRAYS: usize = usize::MAX - 3;
/// What the entrances of a loop are watched under.
const KEYS: [usize; 2] = [ENTRANCE, STRAYS];

/// For so many that are heard in a round one client is let in, and one in any case. An accept(2) that finds nobody
/// costs a socket and a file all the same, so there is none to find out that nobody else waits.
const HEARD_FOR_ONE: usize = 16;

/// Serves who comes in by `entrance`, or by `strays` where another worker is missing, until the server is told to end and
/// the last conversation is over.
///
/// # Errors
/// Where the poller fails; a client's error is that client's.
pub fn serve(
    poller: impl Poller,
    entrance: Entrance,
    strays: Option<Hand>,
    ctx: &Context,
    tally: &Tally,
) -> io::Result<()> {
    if let Entrance::Listener(listener) = &entrance {
        listener.set_nonblocking(true)?;
    }
    let mut house = Loop {
        poller,
        entrances: [Some(entrance), strays.map(Entrance::Hand)],
        guests: Slab::new(),
        scratch: vec![0; ctx.settings.buffer],
        idle: Idle::new(ctx.settings.idle_timeout),
        ending: None,
        hung_up: false,
        ctx,
        tally,
        door: Door::new(ctx, tally),
    };
    house.run()
}

/// One client: its socket and seat, the conversation, what the poller was last asked about it, and what is known of its
/// silence.
struct Guest<'a> {
    client: Client<'a>,
    connection: Connection,
    interest: Interest,
    signs: Signs,
}

struct Loop<'a, P> {
    poller: P,
    entrances: [Option<Entrance>; 2],
    guests: Slab<Guest<'a>>,
    scratch: Vec<u8>,
    idle: Idle,
    ending: Option<Ending>,
    hung_up: bool,
    ctx: &'a Context,
    tally: &'a Tally,
    door: Door<'a>,
}

impl<'a, P: Poller> Loop<'a, P> {
    #[allow(unsafe_code)]
    fn run(&mut self) -> io::Result<()> {
        self.watch_entrances()?;
        // SAFETY: the context outlives the loop, and the poller with it.
        unsafe { self.poller.watch(self.ctx.shutdown.as_fd(), SHUTDOWN, Interest::Read) }?;
        self.ctx.ready(self.tally);
        let mut ready = Vec::new();
        while self.ending.is_none() || self.is_open() || !self.guests.is_empty() {
            self.wait(&mut ready)?;
            let heard = ready.len();
            for Ready { key, fin_seen } in ready.drain(..) {
                match key {
                    ENTRANCE => self.let_in(0, heard)?,
                    STRAYS => self.let_in(1, heard)?,
                    SHUTDOWN => {
                        self.poller.unwatch(self.ctx.shutdown.as_fd())?;
                        self.ending = Some(self.ctx.ending());
                        (0..KEYS.len()).try_for_each(|at| self.let_in(at, heard))?;
                    }
                    guest => self.turn(guest, fin_seen),
                }
            }
            if self.door.open_again() {
                self.end_pause()?;
            }
            self.see_off_the_idle();
            self.go_on_ending();
        }
        Ok(())
    }

    /// Waits for what is next.
    fn wait(&mut self, ready: &mut Vec<Ready>) -> io::Result<()> {
        let (spin, sleep) = (self.ctx.settings.busy_poll, self.timeout());
        busy_poll(spin, sleep, ready, |timeout, ready| self.poller.wait(timeout, ready))
    }

    /// How long to sleep: for ever, but for a pause at the door, a client that may be idle for too long, or a
    /// stage of the end.
    fn timeout(&self) -> Option<Duration> {
        let stage = self.ending.and_then(|ending| ending.until_next_stage());
        let idle = self.idle.until_look(!self.guests.is_empty());
        [self.door.pause(), idle, stage].into_iter().flatten().min()
    }

    fn is_open(&self) -> bool {
        self.entrances.iter().any(Option::is_some)
    }

    #[allow(unsafe_code)]
    fn watch_entrances(&mut self) -> io::Result<()> {
        for (entrance, key) in self.entrances.iter().zip(KEYS) {
            if let Some(entrance) = entrance {
                // SAFETY: it is open until it is closed, which the poller is told first (`close`).
                unsafe { self.poller.watch(entrance.as_fd(), key, Interest::Read) }?;
            }
        }
        Ok(())
    }

    /// Accepts, until the others should have their turn. Who waits yet is reported again. At the end accepts until
    /// nobody waits: then the entrance is closed.
    fn let_in(&mut self, at: usize, heard: usize) -> io::Result<()> {
        for n in 0.. {
            if !self.let_one_in(at)? {
                return Ok(());
            }
            let is_draining = self.ending.is_some_and(|ending| ending.stage() == Stage::Draining);
            if n >= heard / HEARD_FOR_ONE && !is_draining {
                break;
            }
        }
        match &self.entrances[at] {
            Some(entrance) => self.poller.watch_anew(entrance.as_fd(), KEYS[at], Interest::Read),
            None => Ok(()),
        }
    }

    /// Accepts once; says whether there may be another.
    fn let_one_in(&mut self, at: usize) -> io::Result<bool> {
        let Some(entrance) = &self.entrances[at] else { return Ok(false) };
        if self.door.pause().is_some() {
            return Ok(false);
        }
        match entrance.let_in(&mut self.door) {
            Attempt::Client(client) => {
                self.seat(client);
                return Ok(true);
            }
            Attempt::Lost => return Ok(true),
            // They stay readable, which would wake a level-triggered poller at once.
            Attempt::Pause => {
                for entrance in self.entrances.iter().flatten() {
                    self.poller.unwatch(entrance.as_fd())?;
                }
            }
            Attempt::Nobody if self.ending.is_some() && entrance.ends_when_empty() => self.close(at),
            Attempt::Nobody => {}
            Attempt::Closed => self.close(at),
        }
        Ok(false)
    }

    /// A client takes part from now on.
    #[allow(unsafe_code)]
    fn seat(&mut self, mut client: Client<'a>) {
        if self.hung_up {
            let _ = client.stream.shutdown(net::Shutdown::Read);
        }
        let entry = self.guests.vacant_entry();
        // SAFETY: a guest's socket is open until it leaves, which the poller is told first (`leave`).
        let watched = unsafe { self.poller.watch(client.stream.as_fd(), entry.key(), Interest::Read) };
        if let Err(error) = watched {
            return self.door.unwatchable(&error);
        }
        client.seat.served_by(self.tally);
        let mut signs = Signs::new();
        self.idle.hears(&mut signs);
        entry.insert(Guest { client, connection: Connection::default(), interest: Interest::Read, signs });
    }

    /// A pause at the door is over. The edge that announced who waits may have gone by meanwhile.
    fn end_pause(&mut self) -> io::Result<()> {
        self.watch_entrances()?;
        (0..KEYS.len()).try_for_each(|at| self.let_in(at, 0))
    }

    /// Lets a conversation take its turn, and does what it wants. A panic in it costs this client.
    fn turn(&mut self, key: usize, fin_seen: bool) {
        // A guest that left in this very round may still have an event in it.
        let Some(guest) = self.guests.get_mut(key) else { return };
        self.idle.hears(&mut guest.signs);
        let (stream, scratch) = (&mut guest.client.stream, &mut self.scratch[..]);
        let (work, tally) = (self.ctx.settings.work, self.tally);
        let turn = || guest.connection.turn(stream, scratch, fin_seen, work, tally);
        let wanted = match catch_unwind(AssertUnwindSafe(turn)) {
            Ok(Ok(Next::Read)) if guest.interest == Interest::Read => return,
            Ok(Ok(Next::Write)) if guest.interest == Interest::Write => return,
            Ok(Ok(Next::Read | Next::Turn)) => Interest::Read,
            Ok(Ok(Next::Write)) => Interest::Write,
            Ok(Ok(Next::Close)) => return self.leave(key),
            Ok(Err(error)) => return self.lose(key, &error),
            Err(_) => {
                self.tally.trouble(Trouble::Panic);
                return self.leave(key);
            }
        };
        guest.interest = wanted;
        if let Err(error) = self.poller.watch_anew(guest.client.stream.as_fd(), key, wanted) {
            self.lose(key, &error);
        }
    }

    fn lose(&mut self, key: usize, error: &io::Error) {
        self.tally.lost(error);
        self.leave(key);
    }

    fn leave(&mut self, key: usize) {
        let guest = self.guests.remove(key);
        self.poller.closes(guest.client.stream.as_fd());
    }

    fn close(&mut self, at: usize) {
        if let Some(entrance) = self.entrances[at].take() {
            self.poller.closes(entrance.as_fd());
            entrance.close();
        }
    }

    fn see_off_the_idle(&mut self) {
        self.idle.tick();
        let guests = self.guests.iter_mut().map(|(key, Guest { client, interest, signs, .. })| Watched {
            key,
            stream: &client.stream,
            signs,
            reading: *interest == Interest::Read,
        });
        for key in self.idle.overdue(guests) {
            self.tally.trouble(Trouble::IdleTimeout);
            self.leave(key);
        }
    }

    /// After the drain, sockets are shut for reading: each conversation still answers what has arrived,
    /// then finds an end of file. After the grace, what is left is cut.
    fn go_on_ending(&mut self) {
        match self.ending.map(|ending| ending.stage()) {
            Some(Stage::HangUp) if !self.hung_up => {
                self.hung_up = true;
                for (_, guest) in &self.guests {
                    let _ = guest.client.stream.shutdown(net::Shutdown::Read);
                }
            }
            Some(Stage::Cut) => {
                (0..KEYS.len()).for_each(|at| self.close(at));
                let left: Vec<usize> = self.guests.iter().map(|(key, _)| key).collect();
                for key in left {
                    self.tally.trouble(Trouble::Cut);
                    self.leave(key);
                }
            }
            _ => {}
        }
    }
}
