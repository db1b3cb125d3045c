//! The loop that the completions of a ring drive: one thread, many conversations, none of them blocks; or one socket
//! with the datagrams of all clients.
//!
//! A readiness loop asks what can be done, and does it; this one asks for things to be done, and hears that
//! they are. What a receive brings is sent from where it lies. Only what the kernel does not take at once is
//! copied, so that its buffer goes back: no client, however slow, keeps a buffer from the others, and no
//! buffer is held over a wait.

use std::{collections::VecDeque, io, mem::take, net::Shutdown, thread, time::Duration};

use nix::libc;
use slab::Slab;
use uring::{EVENTS, Piece};

use crate::{
    accept::{Attempt, Client, Door},
    busy_poll::busy_poll,
    datagram::{SHORTAGE, is_passing, is_shortage},
    exchange::{Judge, cut, pieces_at_once},
    handoff::Hand,
    idle::{Idle, Signs, Watched},
    model::Context,
    ring::{DatagramRing, Event, Ring},
    scoreboard::{Tally, Trouble},
    shutdown::{Ending, Stage},
    socket::{Datagrams, Listener, Peer, Stream},
};

/// Serves `listener`, and who comes by `strays` where another worker is missing, until the server is told to end and the
/// last conversation is over. The ring is the calling thread's.
///
/// # Errors
/// Where the ring fails; a client's error is that client's.
pub fn serve(listener: Listener, strays: Hand, ctx: &Context, tally: &Tally) -> io::Result<()> {
    listener.set_nonblocking(false)?; // or each accept would end when nobody waits
    let mut house = Loop {
        ring: Ring::new(ctx.settings.buffer).map_err(|error| no_ring(error, ctx))?,
        listener: Some(listener),
        strays: Some(strays),
        are_strays_watched: false,
        accepting: false,
        guests: Slab::new(),
        hungry: VecDeque::new(),
        idle: Idle::new(ctx.settings.idle_timeout),
        ending: None,
        stage: Stage::Draining,
        ctx,
        tally,
        door: Door::new(ctx, tally),
    };
    house.run()
}

/// Answers the datagrams of `socket` until the server is told to end, and then those that have come by then, as worker
/// number `worker`. The ring is the calling thread's. There is one thing to send at a time, so sending blocks.
///
/// # Errors
/// Where the ring or the socket fails.
pub fn serve_datagrams(socket: &Datagrams, ctx: &Context, worker: usize) -> io::Result<()> {
    socket.set_nonblocking(false)?; // or each receive would end when nothing is there
    let tally = ctx.board.worker(worker);
    let ring = DatagramRing::new(pieces_at_once(ctx)).map_err(|error| no_ring(error, ctx));
    let (mut ring, judge) = (ring?, Judge::new(ctx, worker)?);
    let (mut events, mut receiving, mut ending, mut stopped) = (Vec::new(), false, None::<Ending>, false);
    ring.watch(&*ctx.shutdown)?;
    ctx.ready(tally);
    while receiving || !stopped {
        if !receiving {
            ring.receive(socket)?;
            receiving = true;
        }
        let sleep = ending.filter(|_| !stopped).map(|_| Duration::ZERO);
        busy_poll(ctx.settings.busy_poll, sleep, &mut events, |timeout, events| ring.wait(timeout, events))?;
        let is_over = ending.is_some_and(|ending| ending.stage() > Stage::Draining);
        // A socket that was told to end does not end its receive, which would keep the port; but then nothing more comes.
        if !stopped && (is_over || ending.is_some() && events.is_empty()) {
            stopped = true;
            ring.stop_receiving()?;
        }
        for event in events.drain(..) {
            match event {
                Event::Received { piece, last, .. } => {
                    receiving &= !last;
                    ring.answer(piece, |piece| match is_over {
                        false => judge.serve(piece, || false),
                        true => {
                            cut(piece, tally);
                            0
                        }
                    });
                }
                Event::Ended { how, .. } => {
                    receiving = false;
                    match how {
                        // All buffers were in use; those of the answers are free when these are sent.
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                        Err(error) if is_shortage(&error) => thread::sleep(SHORTAGE),
                        Err(error) if !is_passing(&error) && !stopped => return Err(error),
                        _ => {}
                    }
                }
                Event::Readable { .. } => {
                    ending = Some(ctx.ending());
                    socket.stop();
                }
                _ => {}
            }
        }
        ring.send(socket, &tally);
    }
    Ok(())
}

/// Why there is no ring. Its memory is locked (`RLIMIT_MEMLOCK`, getrlimit(2)), and the limit is one for all that a user
/// runs. The one by which io_uring was tried counts for a while after it was closed.
fn no_ring(error: io::Error, ctx: &Context) -> io::Error {
    if error.raw_os_error() != Some(libc::ENOMEM) {
        return error;
    }
    let (one, rings) = (uring::LOCKED >> 10, ctx.settings.workers);
    let all = (rings + 1) * one;
    let why =
        format!("{error}; {rings} rings and one that is tried first lock {one} KiB each, {all} KiB in all");
    io::Error::new(io::ErrorKind::OutOfMemory, why)
}

/// What is watched beside the clients.
const SHUTDOWN: usize = 0;
const STRAYS: usize = 1;

/// One client: its socket and seat, and the conversation.
struct Guest<'a> {
    client: Client<'a>,
    talk: Talk,
    /// What is known of its silence.
    signs: Signs,
}

struct Loop<'a> {
    ring: Ring,
    listener: Option<Listener>,
    /// Closed by the pool's owner when nobody more comes.
    strays: Option<Hand>,
    /// Whether it is asked whether one is there; the answer comes once.
    are_strays_watched: bool,
    accepting: bool,
    guests: Slab<Guest<'a>>,
    /// Whose receive found no buffer.
    hungry: VecDeque<usize>,
    idle: Idle,
    ending: Option<Ending>,
    /// The last stage of the end that was acted on.
    stage: Stage,
    ctx: &'a Context,
    tally: &'a Tally,
    door: Door<'a>,
}

impl<'a> Loop<'a> {
    fn run(&mut self) -> io::Result<()> {
        self.ring.watch(&*self.ctx.shutdown, SHUTDOWN)?;
        self.watch_strays()?;
        self.ctx.ready(self.tally);
        let mut events = Vec::new();
        while self.ending.is_none() || self.is_open() || !self.guests.is_empty() {
            self.accept()?;
            self.wait(&mut events)?;
            let all_are_here = events.len() < EVENTS;
            for event in events.drain(..) {
                self.handle(event)?;
            }
            self.feed_the_hungry()?;
            if self.door.open_again() {
                if self.ending.is_some() {
                    self.let_the_last_in()?;
                }
                self.watch_strays()?;
            }
            if all_are_here {
                self.see_off_the_idle();
            }
            self.go_on_ending()?;
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.listener.is_some() || self.accepting || self.strays.is_some()
    }

    fn watch_strays(&mut self) -> io::Result<()> {
        match &self.strays {
            Some(strays) if !self.are_strays_watched => {
                self.are_strays_watched = true;
                self.ring.watch(strays, STRAYS)
            }
            _ => Ok(()),
        }
    }

    /// Takes those in whom a missing worker would have served.
    fn let_strays_in(&mut self) -> io::Result<()> {
        self.are_strays_watched = false;
        while let Some(strays) = &self.strays {
            match self.door.adopt(strays.take()) {
                Attempt::Client(client) => self.seat(client)?,
                Attempt::Lost => {}
                Attempt::Nobody => return self.watch_strays(),
                Attempt::Pause => break, // they are watched again after it
                Attempt::Closed => self.strays = None,
            }
        }
        Ok(())
    }

    /// Waits for what is done next.
    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let (spin, sleep) = (self.ctx.settings.busy_poll, self.timeout());
        busy_poll(spin, sleep, events, |timeout, events| self.ring.wait(timeout, events))
    }

    /// How long to sleep: for ever, but for a pause at the door, a client that may be idle for too long, or a
    /// stage of the end.
    fn timeout(&self) -> Option<Duration> {
        let stage = self.ending.and_then(|ending| ending.until_next_stage());
        let idle = self.idle.until_look(!self.guests.is_empty());
        [self.door.pause(), idle, stage].into_iter().flatten().min()
    }

    /// Asks for clients, unless that is asked already, or not the time for it.
    fn accept(&mut self) -> io::Result<()> {
        match &self.listener {
            Some(listener) if !self.accepting && self.ending.is_none() && self.door.pause().is_none() => {
                self.accepting = true;
                self.ring.accept(listener)
            }
            _ => Ok(()),
        }
    }

    fn handle(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Accepted { accepted, last } => {
                self.accepting = !last;
                match accepted {
                    Err(_) if self.ending.is_some() => Ok(()), // it was told to stop
                    accepted => self.let_in(accepted.map(|stream| self.with_peer(stream))).map(drop),
                }
            }
            Event::Received { key, piece, last } => self.received(key, piece, last),
            Event::Ended { key, how } => self.ended(key, how),
            Event::Sent { key, piece, sent } => self.sent(key, piece, sent),
            Event::Paid { key, owed, paid } => self.paid(key, &owed, paid),
            Event::Readable { key: STRAYS } => self.let_strays_in(),
            Event::Readable { .. } => {
                self.ending = Some(self.ctx.ending());
                if self.accepting {
                    self.ring.stop_accepting()?;
                }
                self.let_the_last_in()
            }
        }
    }

    /// A multishot accept does not say who came; that is asked where it counts.
    fn with_peer(&self, stream: Stream) -> (Stream, Peer) {
        let peer = if self.ctx.seats.tell_peers_apart() { Peer::of(&stream) } else { Peer::default() };
        (stream, peer)
    }

    /// Lets in whom an accept(2) brought; says whether there may be another.
    fn let_in(&mut self, accepted: io::Result<(Stream, Peer)>) -> io::Result<bool> {
        match self.door.attempt(accepted) {
            Attempt::Client(client) => self.seat(client).map(|()| true),
            Attempt::Lost => Ok(true),
            Attempt::Pause => Ok(false),
            Attempt::Nobody => {
                if self.ending.is_some() {
                    self.close(); // those who had connected are in
                }
                Ok(false)
            }
            Attempt::Closed => {
                self.listener = None;
                Ok(false)
            }
        }
    }

    /// A client takes part from now on.
    fn seat(&mut self, mut client: Client<'a>) -> io::Result<()> {
        client.seat.served_by(self.tally);
        let mut guest = Guest { client, talk: Talk::default(), signs: Signs::new() };
        self.idle.hears(&mut guest.signs);
        guest.hang_up(self.stage, self.tally);
        let key = self.guests.insert(guest);
        self.go_on(key)
    }

    /// At the end: takes everybody who has connected, without waiting for more.
    fn let_the_last_in(&mut self) -> io::Result<()> {
        while let Some(listener) = &self.listener {
            let accepted = listener.set_nonblocking(true).and_then(|()| listener.accept());
            if !self.let_in(accepted)? {
                break;
            }
        }
        Ok(())
    }

    fn received(&mut self, key: usize, piece: Piece, last: bool) -> io::Result<()> {
        let Some(guest) = self.guests.get_mut(key) else {
            self.ring.recycle(piece);
            return Ok(());
        };
        let bytes = self.ring.bytes(&piece);
        self.tally.received(bytes.len());
        self.ctx.settings.work.perform();
        self.idle.hears(&mut guest.signs);
        guest.talk.receiving = !last;
        if guest.talk.hears(bytes) {
            self.ring.send(&guest.client.stream, key, piece)?;
        } else {
            self.ring.recycle(piece);
        }
        self.go_on(key)
    }

    fn ended(&mut self, key: usize, how: io::Result<()>) -> io::Result<()> {
        let Some(guest) = self.guests.get_mut(key) else { return Ok(()) };
        guest.talk.receiving = false;
        match how {
            Ok(()) => guest.talk.over = true,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => {
                    self.hungry.push_back(key);
                    return Ok(());
                }
                _ => guest.lose(&error, self.tally),
            },
        }
        self.go_on(key)
    }

    fn sent(&mut self, key: usize, piece: Piece, sent: io::Result<usize>) -> io::Result<()> {
        if let Some(guest) = self.guests.get_mut(key) {
            self.idle.hears(&mut guest.signs);
            guest.has_sent(self.ring.bytes(&piece), sent, self.tally);
        }
        self.ring.recycle(piece);
        self.go_on(key)
    }

    fn paid(&mut self, key: usize, owed: &[u8], paid: io::Result<usize>) -> io::Result<()> {
        if let Some(guest) = self.guests.get_mut(key) {
            self.idle.hears(&mut guest.signs);
            guest.has_sent(owed, paid, self.tally);
        }
        self.go_on(key)
    }

    /// Does what a conversation wants next.
    fn go_on(&mut self, key: usize) -> io::Result<()> {
        let Some(Guest { client, talk, .. }) = self.guests.get_mut(key) else { return Ok(()) };
        match talk.next() {
            Next::Wait => {}
            Next::Receive => {
                talk.receiving = true;
                self.ring.receive(&client.stream, key)?;
            }
            Next::Pay => {
                talk.sending = true;
                self.ring.pay(&client.stream, key, take(&mut talk.owed))?;
            }
            Next::Close => drop(self.guests.remove(key)),
        }
        Ok(())
    }

    /// Receives go on when buffers are back; where there are none, all are being sent from, which ends. Half of
    /// them are left to the receives that wait already: else those would be the next to find none.
    fn feed_the_hungry(&mut self) -> io::Result<()> {
        let fed = self.ring.buffers().div_ceil(2).min(self.hungry.len());
        for key in self.hungry.drain(..fed).collect::<Vec<_>>() {
            self.go_on(key)?;
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.stop();
        }
    }

    fn see_off_the_idle(&mut self) {
        self.idle.tick();
        let there = self.guests.iter_mut().filter(|(_, guest)| !guest.talk.lost);
        let guests = there.map(|(key, Guest { client, talk, signs })| Watched {
            key,
            stream: &client.stream,
            signs,
            reading: !talk.sending && talk.owed.is_empty(),
        });
        for key in self.idle.overdue(guests) {
            self.tally.trouble(Trouble::IdleTimeout);
            self.guests[key].give_up();
        }
    }

    /// After the drain, sockets are shut for reading: each conversation still answers what has arrived, then
    /// finds an end of file. After the grace, what is left is cut: shut both ways, which ends whatever the
    /// kernel still does for it.
    fn go_on_ending(&mut self) -> io::Result<()> {
        let stage = self.ending.map_or(Stage::Draining, |ending| ending.stage());
        if stage == self.stage {
            return Ok(());
        }
        self.stage = stage;
        for (_, guest) in &mut self.guests {
            guest.hang_up(stage, self.tally);
        }
        if stage == Stage::Cut {
            self.strays = None;
            self.close();
            for key in self.guests.iter().map(|(key, _)| key).collect::<Vec<_>>() {
                self.go_on(key)?;
            }
        }
        Ok(())
    }
}

impl Guest<'_> {
    /// The kernel took so much of `bytes`; the rest is owed.
    fn has_sent(&mut self, bytes: &[u8], sent: io::Result<usize>, tally: &Tally) {
        match sent {
            Ok(n) => {
                tally.sent(n);
                self.talk.has_sent(&bytes[n..]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.talk.has_sent(bytes),
            Err(error) => {
                self.talk.has_sent(&[]);
                self.lose(&error, tally);
            }
        }
    }

    fn lose(&mut self, error: &io::Error, tally: &Tally) {
        if !self.talk.lost {
            tally.lost(error);
        }
        self.give_up();
    }

    /// Ends a conversation that came to no good end: what is under way for it ends by itself then.
    fn give_up(&mut self) {
        (self.talk.over, self.talk.lost) = (true, true);
        let _ = self.client.stream.shutdown(Shutdown::Both);
    }

    /// Does what a stage of the server's end demands.
    fn hang_up(&mut self, stage: Stage, tally: &Tally) {
        match stage {
            Stage::Draining => {}
            Stage::HangUp => drop(self.client.stream.shutdown(Shutdown::Read)),
            Stage::Cut => {
                tally.trouble(Trouble::Cut);
                self.give_up();
            }
        }
    }
}

/// What a conversation wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// To hear of what is under way.
    Wait,
    /// To receive. While bytes are owed, no receive is asked for: that is the backpressure.
    Receive,
    /// To send what it owes.
    Pay,
    /// To be closed: nothing is under way any more, and nothing is to come.
    Close,
}

/// The books of one conversation. An idle one holds no memory but this.
#[derive(Default)]
struct Talk {
    /// What waits until the kernel is done with what is being sent.
    owed: Vec<u8>,
    /// Whether something is being sent: one thing at a time, or they would overtake each other.
    sending: bool,
    /// Whether a receive is under way.
    receiving: bool,
    /// Nothing more comes: an end of file, or the client was lost.
    over: bool,
    /// The client was lost: nothing is owed any more.
    lost: bool,
}

impl Talk {
    fn next(&self) -> Next {
        if self.sending {
            Next::Wait
        } else if !self.owed.is_empty() && !self.lost {
            Next::Pay
        } else if self.receiving {
            Next::Wait
        } else if self.over {
            Next::Close
        } else {
            Next::Receive
        }
    }

    /// Bytes have come: whether they are to be sent from where they lie, now. Else their turn is later, and
    /// they are kept.
    fn hears(&mut self, bytes: &[u8]) -> bool {
        let now = !self.sending && self.owed.is_empty();
        if now {
            self.sending = true;
        } else {
            self.owed.extend_from_slice(bytes);
        }
        now
    }

    /// A send has ended; `rest` is what it left, which comes before all that came after it.
    fn has_sent(&mut self, rest: &[u8]) {
        self.sending = false;
        self.owed.splice(..0, rest.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the kernel does first, and however little of each send it takes: receives on a credit of
        /// `credit` bytes, the last of which may exceed it by less than a buffer of as many.
        #[test]
        fn every_byte_goes_out_in_order_and_no_more_is_owed_than_was_lent(
            said in prop::collection::vec(any::<u8>(), 0..600),
            script in prop::collection::vec((any::<bool>(), 0usize..40), 0..400),
            credit in 1usize..64,
        ) {
            let (mut talk, mut heard, mut left) = (Talk::default(), Vec::new(), 0);
            let (mut inbox, mut flying) = (&said[..], None::<Vec<u8>>);
            let mut script = script.into_iter().chain([(true, 40), (false, 40)].into_iter().cycle());
            loop {
                match talk.next() {
                    Next::Wait => {}
                    Next::Receive => (talk.receiving, left) = (true, credit),
                    Next::Pay => (talk.sending, flying) = (true, Some(take(&mut talk.owed))),
                    Next::Close => break,
                }
                let (receives, n) = script.next().unwrap_or_default();
                if receives && talk.receiving && inbox.is_empty() {
                    (talk.receiving, talk.over) = (false, true);
                } else if receives && talk.receiving {
                    let (bytes, rest) = inbox.split_at(n.clamp(1, credit).min(inbox.len()));
                    (inbox, left) = (rest, left.saturating_sub(bytes.len()));
                    talk.receiving = left > 0;
                    if talk.hears(bytes) {
                        flying = Some(bytes.to_vec());
                    }
                } else if let Some(bytes) = flying.take_if(|_| !receives) {
                    let (taken, rest) = bytes.split_at(n.min(bytes.len()));
                    heard.extend_from_slice(taken);
                    talk.has_sent(rest);
                }
                let owed = talk.owed.len() + flying.as_ref().map_or(0, Vec::len);
                prop_assert!(owed < 2 * credit, "owes {owed} on a credit of {credit}");
            }
            prop_assert_eq!(heard, said);
        }
    }

    #[test]
    fn a_client_that_was_lost_is_closed_when_nothing_is_under_way_for_it() {
        let mut talk = Talk { receiving: true, ..Talk::default() };
        assert!(talk.hears(b"sent at once"));
        assert!(!talk.hears(b"kept"));
        (talk.over, talk.lost) = (true, true);
        talk.has_sent(b"at once");
        assert_eq!(talk.next(), Next::Wait);
        talk.receiving = false;
        assert_eq!(talk.next(), Next::Close);
    }
}
