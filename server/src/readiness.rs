//! The loop that the readiness pollers drive: one thread, many conversations, none of them blocks.
//!
//! The loop asks the poller which sockets are ready, lets each of their conversations take a turn, and asks
//! for what it wants next. How the kernel is asked is all that a poller is.

use std::{
    io,
    net::{self, TcpListener},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use mio::net::TcpStream;
use slab::Slab;

use crate::{
    accept::{Attempt, Client, Door},
    connection::{Connection, Next},
    model::Context,
    scoreboard::{Tally, Trouble},
    shutdown::{Ending, Stage},
    socket::stop_listening,
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
    /// Begins to watch `fd` under `key`. It is forgotten when the descriptor is closed.
    ///
    /// # Errors
    /// Where the kernel, or the poller's size, does not allow another one.
    fn watch(&mut self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()>;

    /// Watches `fd` for something else, or for the same anew: if it is ready now, that is reported again.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn watch_anew(&mut self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()>;

    /// Waits until something is ready or `timeout` has passed; what is ready is put into `ready`, which was
    /// empty. A signal may end the wait.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()>;
}

const LISTENER: usize = usize::MAX - 1;
const SHUTDOWN: usize = usize::MAX - 2;

/// How many clients are let in before the others have their turn.
const ACCEPTS_A_TURN: usize = 64;

/// Serves `listener` until the server is told to end and the last conversation is over.
///
/// # Errors
/// Where the poller fails; a client's error is that client's.
pub fn serve(poller: impl Poller, listener: TcpListener, ctx: &Context, tally: &Tally) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut house = Loop {
        poller,
        listener: Some(mio::net::TcpListener::from_std(listener)),
        guests: Slab::new(),
        scratch: vec![0; ctx.settings.buffer],
        ending: None,
        hung_up: false,
        ctx,
        tally,
        door: Door::new(ctx, tally),
    };
    house.run()
}

/// One client: its socket and seat, the conversation, and what the poller was last asked about it.
struct Guest<'a> {
    client: Client<'a, TcpStream>,
    connection: Connection,
    interest: Interest,
}

struct Loop<'a, P> {
    poller: P,
    listener: Option<mio::net::TcpListener>,
    guests: Slab<Guest<'a>>,
    scratch: Vec<u8>,
    ending: Option<Ending>,
    hung_up: bool,
    ctx: &'a Context,
    tally: &'a Tally,
    door: Door<'a>,
}

impl<P: Poller> Loop<'_, P> {
    fn run(&mut self) -> io::Result<()> {
        if let Some(listener) = &self.listener {
            self.poller.watch(listener.as_fd(), LISTENER, Interest::Read)?;
        }
        self.poller.watch(self.ctx.shutdown.as_fd(), SHUTDOWN, Interest::Read)?;
        let mut ready = Vec::new();
        while self.ending.is_none() || self.listener.is_some() || !self.guests.is_empty() {
            self.poller.wait(self.timeout(), &mut ready)?;
            for Ready { key, fin_seen } in ready.drain(..) {
                match key {
                    LISTENER => self.let_in()?,
                    SHUTDOWN if self.ending.is_none() => {
                        self.ending = Some(self.ctx.ending());
                        self.let_in()?;
                    }
                    SHUTDOWN => {}
                    guest => self.turn(guest, fin_seen),
                }
            }
            if self.door.open_again() {
                self.let_in()?; // the edge that announced them went by during the pause
            }
            self.go_on_ending();
        }
        Ok(())
    }

    /// How long to sleep: for ever, but for a pause at the door or a stage of the end.
    fn timeout(&self) -> Option<Duration> {
        let stage = self.ending.and_then(|ending| ending.until_next_stage());
        [self.door.pause(), stage].into_iter().flatten().min()
    }

    /// Accepts until nobody waits, or the others should have their turn.
    fn let_in(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS_A_TURN {
            if !self.let_one_in() {
                return Ok(());
            }
        }
        match &self.listener {
            Some(listener) => self.poller.watch_anew(listener.as_fd(), LISTENER, Interest::Read),
            None => Ok(()),
        }
    }

    /// Accepts once; says whether there may be another.
    fn let_one_in(&mut self) -> bool {
        let Some(listener) = &self.listener else { return false };
        if self.door.pause().is_some() {
            return false;
        }
        match self.door.attempt(listener.accept().map(|(stream, _)| stream)) {
            Attempt::Client(mut client) => {
                client.seat.served_by(self.tally);
                if self.hung_up {
                    let _ = client.stream.shutdown(net::Shutdown::Read);
                }
                let entry = self.guests.vacant_entry();
                let (key, interest) = (entry.key(), Interest::Read);
                let guest = entry.insert(Guest { client, connection: Connection::default(), interest });
                if let Err(error) = self.poller.watch(guest.client.stream.as_fd(), key, interest) {
                    self.lose(key, &error);
                }
                true
            }
            Attempt::Lost => true,
            Attempt::Pause => false,
            Attempt::Nobody => {
                if self.ending.is_some() {
                    self.close(); // those who had connected are in
                }
                false
            }
            Attempt::Closed => {
                self.listener = None;
                false
            }
        }
    }

    /// Lets a conversation take its turn, and does what it wants.
    fn turn(&mut self, key: usize, fin_seen: bool) {
        // A guest that left in this very round may still have an event in it.
        let Some(guest) = self.guests.get_mut(key) else { return };
        let stream = &mut guest.client.stream;
        let work = self.ctx.settings.work;
        let wanted = match guest.connection.turn(stream, &mut self.scratch, fin_seen, work, self.tally) {
            Ok(Next::Read) if guest.interest == Interest::Read => return,
            Ok(Next::Write) if guest.interest == Interest::Write => return,
            Ok(Next::Read | Next::Turn) => Interest::Read,
            Ok(Next::Write) => Interest::Write,
            Ok(Next::Close) => return drop(self.guests.remove(key)),
            Err(error) => return self.lose(key, &error),
        };
        guest.interest = wanted;
        if let Err(error) = self.poller.watch_anew(guest.client.stream.as_fd(), key, wanted) {
            self.lose(key, &error);
        }
    }

    fn lose(&mut self, key: usize, error: &io::Error) {
        self.tally.trouble(Trouble::from(error));
        log::info!("a client was lost: {error}");
        self.guests.remove(key);
    }

    fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            stop_listening(&listener);
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
                self.close();
                self.guests.iter().for_each(|_| self.tally.trouble(Trouble::Cut));
                self.guests.clear();
            }
            _ => {}
        }
    }
}
