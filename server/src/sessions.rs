//! A session per client address, whoever holds it, a process or a thread: one receives for all, and hands each
//! datagram to its client's session, which begins when the client is first heard.
//!
//! UDP has no connections, so nobody says when a client comes or leaves: a session ends when its client has been silent
//! for `--idle-timeout`, or for longest when there are `--max-connections` and another client comes. (To refuse the
//! other instead would let whoever forges addresses keep everybody out.) Whoever holds it then answers what is still in
//! its mailbox, and ends.
//!
//! Who receives never waits for a session: what finds its mailbox full is dropped, and counted. Within a session
//! nothing overtakes. (A client that is heard again while its session, which was ended, has envelopes left to answer
//! gets another beside it.)

use std::{
    hash::RandomState,
    io,
    net::SocketAddr,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use lru::LruCache;
use nix::libc;

use crate::{
    accept::Pauses,
    config::{Isolate, Work},
    datagram::{BATCH, Batch, Envelope},
    exchange::Judge,
    mailbox::{Mailbox, Mailboxes, Sender, TrySendError},
    model::Context,
    scoreboard::{Dropped, Tally, Trouble},
    seats::Seat,
    shutdown::wait_readable,
    socket::{Datagrams, Peer},
};

/// How many sessions there are at once unless told: a process takes more than a thread does.
fn most(isolate: Isolate) -> usize {
    match isolate {
        Isolate::Processes => 1024,
        Isolate::Threads => 4096,
    }
}

/// The sessions of all clients, as the one sees them who receives for them.
pub struct Sessions<'a> {
    socket: &'a Datagrams,
    isolate: Isolate,
    ctx: &'a Context,
    tally: &'a Tally,
    batch: Batch,
    judge: Judge<'a>,
    /// Which pieces of the batch are still to be handed over.
    places: Range<usize>,
    register: Register<Session<'a>>,
    mailboxes: Mailboxes,
    /// Of how many each mailbox that the kernel keeps is one, so far.
    shared_by: usize,
    /// How many sessions have begun.
    begun: u64,
    pauses: Pauses,
    ends: bool,
}

struct Session<'a> {
    number: u64,
    sender: Sender,
    /// Free again when this is dropped.
    _seat: Seat<'a>,
}

/// What [`Sessions::next_or`] brings.
pub enum News {
    /// A client that had no session.
    Newcomer(Newcomer),
    /// The other descriptor is readable.
    Other,
}

/// A session that begins: somebody is to start who [`converse`]s, or it is [`Sessions::refused`].
pub struct Newcomer {
    /// Which session it is.
    pub id: SessionId,
    /// Where its datagrams wait.
    pub mailbox: Mailbox,
}

/// Tells a session from others, also from others of the same client.
#[derive(Clone, Copy)]
pub struct SessionId {
    client: SocketAddr,
    number: u64,
    /// How many datagrams were in its mailbox when it began.
    first: usize,
}

impl<'a> Sessions<'a> {
    /// None yet. Each will be held by what `isolate` says; all is counted as done by the one worker that there is.
    pub fn new(socket: &'a Datagrams, isolate: Isolate, ctx: &'a Context) -> Self {
        let most = ctx.seats.most().unwrap_or_else(|| most(isolate));
        Self {
            socket,
            isolate,
            ctx,
            tally: ctx.board.worker(0),
            batch: Batch::new(BATCH),
            judge: Judge::of_a_parent(ctx, 0),
            places: 0..0,
            register: Register::new(most, ctx.settings.session_timeout),
            mailboxes: Mailboxes::new(most),
            shared_by: 1,
            begun: 0,
            pauses: Pauses::new(),
            ends: false,
        }
    }

    /// Hands over what comes, until a client comes that has no session; `None` when the server ends and all that had
    /// come was handed over, or the drain is over.
    ///
    /// # Errors
    /// The socket's.
    pub fn next(&mut self) -> io::Result<Option<Newcomer>> {
        Ok(match self.next_or(None)? {
            Some(News::Newcomer(newcomer)) => Some(newcomer),
            Some(News::Other) | None => None,
        })
    }

    /// The same, or until `other` is readable.
    ///
    /// # Errors
    /// The socket's.
    pub fn next_or(&mut self, other: Option<BorrowedFd<'_>>) -> io::Result<Option<News>> {
        loop {
            while let Some(place) = self.places.next() {
                if let Some(newcomer) = self.hand_over(place) {
                    return Ok(Some(News::Newcomer(newcomer)));
                }
            }
            if self.ends && self.ctx.is_over() {
                return Ok(None);
            }
            self.see_off_the_silent();
            let end = (!self.ends).then(|| self.ctx.shutdown.as_fd());
            let [ends, bell, other, datagrams] = wait_readable(
                [end, self.judge.bell(), other, Some(self.socket.as_fd())],
                self.register.until_overdue(),
            );
            self.register.now = Instant::now();
            if bell {
                self.judge.answer_the_bell();
            }
            if ends {
                // What comes from now on finds no port; what has come is still received.
                self.ends = true;
                self.ctx.ending();
                self.socket.stop();
            } else if datagrams {
                self.places = 0..self.batch.receive(self.socket)?;
                if self.ends && self.places.is_empty() {
                    return Ok(None);
                }
            }
            if other {
                return Ok(Some(News::Other));
            }
        }
    }

    /// Hands the piece at a place to its client's session; where there is none, one begins.
    fn hand_over(&mut self, place: usize) -> Option<Newcomer> {
        let piece = self.batch.piece(place);
        let admitted = self.judge.admit(&piece);
        if admitted == 0 {
            return None;
        }
        let envelope = self.batch.envelope(place, admitted);
        match self.register.hears(piece.from).map(|session| session.sender.try_send(&envelope)) {
            Some(Ok(())) => None,
            Some(Err(TrySendError::Full)) => {
                self.tally.dropped(Dropped::Busy, admitted as u64);
                None
            }
            None | Some(Err(TrySendError::Disconnected)) => {
                let begun = self.begin(place, admitted);
                begun.map_err(|why| self.tally.dropped(why, admitted as u64)).ok()
            }
        }
    }

    /// Begins a session, with the first `admitted` datagrams of the piece at a place in its mailbox.
    fn begin(&mut self, place: usize, admitted: usize) -> Result<Newcomer, Dropped> {
        let client = self.batch.piece(place).from;
        self.register.leaves(client); // who held its session before has died
        let pauses = self.pauses.left().is_some() && !self.pauses.end();
        if pauses || self.ctx.is_over() {
            return Err(Dropped::Unserved);
        }
        if self.too_many_finish() {
            self.warn("no session began: too many that were ended have not finished");
            return Err(Dropped::Unserved);
        }
        if self.register.is_full() {
            self.make_room(Trouble::MaxConnections);
        }
        let seat = self.seat(client).ok_or(Dropped::Unserved)?;
        let (sender, mailbox) = match self.mailbox() {
            Ok(ends) => ends,
            Err(error) => {
                self.pause_for(Trouble::AcceptResources, &error);
                return Err(Dropped::Unserved);
            }
        };
        sender.try_send(&self.batch.envelope(place, admitted)).map_err(|_| Dropped::Busy)?;
        self.begun += 1;
        let id = SessionId { client, number: self.begun, first: admitted };
        self.register.comes(client, Session { number: id.number, sender, _seat: seat });
        self.share_evenly();
        Ok(Newcomer { id, mailbox })
    }

    /// Where there are twice as many sessions as before, each has half as much of what the kernel keeps for them.
    fn share_evenly(&mut self) {
        if self.register.len() > self.shared_by {
            self.shared_by = self.register.len().next_power_of_two();
            self.register.all().for_each(|session| session.sender.is_one_of(self.shared_by));
        }
    }

    /// Whether so many that were ended have not finished that there could soon be any number of them.
    fn too_many_finish(&self) -> bool {
        let finishing = self.tally.active().saturating_sub(self.register.len() as u64);
        finishing >= BATCH.max(self.register.most / 8) as u64
    }

    /// A seat for a client; whom another has to make room for is of all endpoints together.
    fn seat(&mut self, client: SocketAddr) -> Option<Seat<'a>> {
        loop {
            match self.ctx.seats.take(Peer::from(client.ip())) {
                Ok(seat) => return Some(seat),
                Err(Trouble::MaxConnections) if self.make_room(Trouble::MaxConnections) => {}
                Err(limit) => {
                    self.tally.refused(limit);
                    return None;
                }
            }
        }
    }

    /// A mailbox. Where this process has no descriptors for it, another session makes room.
    fn mailbox(&mut self) -> io::Result<(Sender, Mailbox)> {
        loop {
            match self.mailboxes.add(self.isolate, self.shared_by.saturating_sub(1)) {
                Err(error)
                    if error.raw_os_error() == Some(libc::EMFILE)
                        && self.make_room(Trouble::AcceptResources) => {}
                made => return made,
            }
        }
    }

    /// Ends the session that has not been heard for longest; says whether there was one.
    fn make_room(&mut self, why: Trouble) -> bool {
        let made = self.register.most_silent_leaves().is_some();
        if made {
            self.tally.trouble(why);
        }
        made
    }

    /// Ends the sessions of clients that have been silent for too long.
    fn see_off_the_silent(&mut self) {
        while self.register.overdue_leaves().is_some() {
            self.tally.trouble(Trouble::IdleTimeout);
        }
    }

    /// Nobody holds a session, because the system refused it: no other begins for a while.
    pub fn refused(&mut self, id: SessionId, why: Trouble, error: &io::Error) {
        self.tally.dropped(Dropped::Unserved, id.first as u64);
        self.ended(id);
        self.pause_for(why, error);
    }

    /// Who held a session has ended. Where it died, the session may still be registered.
    pub fn ended(&mut self, id: SessionId) {
        if self.register.peek(id.client).is_some_and(|session| session.number == id.number) {
            self.register.leaves(id.client);
        }
    }

    fn pause_for(&mut self, why: Trouble, error: &io::Error) {
        self.tally.refused(why);
        let delay = self.pauses.begin();
        self.warn(&format!("no session began: {error}; trying again in {delay:?}"));
    }

    fn warn(&self, what: &str) {
        if self.ctx.board.may_speak() {
            log::warn!("{what}");
        }
    }

    /// A forked child closes what is its parent's: all senders. They are closed where they stand, and the register is
    /// left as it is, since to tidy it up the child would have to copy it first; it ends without dropping it.
    pub fn leave_to_parent(&self) {
        self.register.all().for_each(|session| session.sender.close_here());
    }
}

/// Answers the envelopes of one client, until no more come. A panic in it costs this client.
pub fn converse(
    mut mailbox: Mailbox,
    socket: &Datagrams,
    ctx: &Context,
    tally: &Tally,
    is_over: impl Fn() -> bool,
) {
    let answer_all = || {
        while let Some(envelope) = mailbox.receive() {
            if !answer(&envelope, socket, ctx.settings.work, tally, &is_over) {
                return tally.trouble(Trouble::Cut);
            }
        }
    };
    if catch_unwind(AssertUnwindSafe(answer_all)).is_err() {
        tally.trouble(Trouble::Panic);
    }
}

/// Answers one envelope. Where each datagram costs work beside the echo, none waits for those behind it, and when the
/// drain is over the others have no answer: false.
fn answer(
    envelope: &Envelope<'_>,
    socket: &Datagrams,
    work: Work,
    tally: &Tally,
    is_over: impl Fn() -> bool,
) -> bool {
    if work == Work::None {
        envelope.answer(socket, &tally);
        return true;
    }
    envelope.each().all(|datagram| {
        let in_time = !is_over();
        if in_time {
            work.perform();
            datagram.answer(socket, &tally);
        }
        in_time
    })
}

/// Who was heard when, in that order. `T` is what is kept about each.
struct Register<T> {
    most: usize,
    limit: Option<Duration>,
    by_client: LruCache<SocketAddr, (T, Instant), RandomState>,
    /// The clock is read once a turn, not once a datagram.
    now: Instant,
}

impl<T> Register<T> {
    /// Of `most` clients; who was silent for `limit` is overdue.
    fn new(most: usize, limit: Option<Duration>) -> Self {
        // Hashes that no client can foresee.
        let by_client = LruCache::unbounded_with_hasher(RandomState::new());
        Self { most, limit, by_client, now: Instant::now() }
    }

    fn len(&self) -> usize {
        self.by_client.len()
    }

    fn is_full(&self) -> bool {
        self.len() >= self.most
    }

    /// How long nobody will be overdue; `None`: for ever.
    fn until_overdue(&self) -> Option<Duration> {
        let (_, &(_, heard)) = self.by_client.peek_lru()?;
        Some(self.limit?.saturating_sub(self.now.saturating_duration_since(heard)))
    }

    /// The most silent client leaves, if it is overdue.
    fn overdue_leaves(&mut self) -> Option<T> {
        let overdue = self.until_overdue()?.is_zero();
        overdue.then(|| self.most_silent_leaves())?
    }

    /// Who has not been heard for longest leaves.
    fn most_silent_leaves(&mut self) -> Option<T> {
        self.by_client.pop_lru().map(|(_, (kept, _))| kept)
    }

    fn hears(&mut self, client: SocketAddr) -> Option<&mut T> {
        let (kept, heard) = self.by_client.get_mut(&client)?;
        *heard = self.now;
        Some(kept)
    }

    fn peek(&self, client: SocketAddr) -> Option<&T> {
        self.by_client.peek(&client).map(|(kept, _)| kept)
    }

    fn comes(&mut self, client: SocketAddr, kept: T) {
        self.by_client.put(client, (kept, self.now));
    }

    fn leaves(&mut self, client: SocketAddr) -> Option<T> {
        self.by_client.pop(&client).map(|(kept, _)| kept)
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.by_client.iter().map(|(_, (kept, _))| kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u16) -> SocketAddr {
        ([127, 0, 0, 1], n).into()
    }

    #[test]
    fn who_is_silent_for_too_long_leaves_and_who_is_heard_stays() {
        let second = Duration::from_secs(1);
        let mut register = Register::new(10, Some(8 * second));
        assert_eq!(register.until_overdue(), None, "nobody is there");
        (1..=3).for_each(|n| register.comes(client(n), n));
        assert_eq!((register.overdue_leaves(), register.until_overdue()), (None, Some(8 * second)));
        register.now += 5 * second;
        assert_eq!(register.hears(client(2)), Some(&mut 2));
        register.now += 3 * second;
        let left = [(); 3].map(|()| register.overdue_leaves());
        assert_eq!(left, [Some(1), Some(3), None]);
        assert_eq!(register.until_overdue(), Some(5 * second));
        register.now += 6 * second;
        assert_eq!((register.overdue_leaves(), register.hears(client(2))), (Some(2), None));
        assert_eq!(register.until_overdue(), None);
    }

    #[test]
    fn whoever_was_not_heard_for_longest_makes_room() {
        let mut register = Register::new(3, None);
        (1..=3).for_each(|n| register.comes(client(n), n));
        assert!(register.is_full());
        register.hears(client(1));
        assert_eq!(register.most_silent_leaves(), Some(2));
        register.comes(client(4), 4);
        assert_eq!(register.peek(client(3)), Some(&3));
        assert_eq!(register.most_silent_leaves(), Some(3), "to peek is not to hear");
        assert_eq!((register.leaves(client(1)), register.leaves(client(1))), (Some(1), None));
        assert_eq!((register.len(), register.overdue_leaves(), register.until_overdue()), (1, None, None));
    }
}
