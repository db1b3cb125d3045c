//! What the owner of a pool does for a worker that is missing, where each worker has a socket of its own.
//!
//! The sockets of all workers were opened before them and stay in their group. So the kernel goes on dealing clients to
//! a socket whose worker has died and cannot be replaced yet, because a process, a thread or a ring was refused. The
//! pool's owner stands in there until the place is filled. It answers datagrams itself, since nobody has to stay with
//! them. It accepts connections, and passes them to the workers that live, over a channel from which all of them take
//! (`handoff`). Where none lives, connections wait in the accept queue for the first that does.

use std::{
    io, mem,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::{
    accept::{Attempt, Door},
    exchange::{Exchange, Next},
    handoff::{Dealer, Hand, TRY_AGAIN, channel},
    model::Context,
    socket::{Datagrams, Listener, Peer, Stream},
};

/// Who stands in for workers that are missing.
pub trait StandIn {
    /// The place of worker number `n` is empty. That may have been said before.
    fn takes_over(&mut self, n: usize);

    /// The place of worker number `n` is about to be filled.
    fn leaves(&mut self, n: usize);

    /// Readable when there is something to do, for which there may have to be `others`, workers that live.
    fn work(&mut self, others: bool) -> Option<BorrowedFd<'_>>;

    /// Does what there is to do.
    fn turn(&mut self);

    /// The server ends: does what there is to do for the last time, and says when to try again.
    fn ends(&mut self, others: bool) -> Duration;
}

/// Where the workers share a socket, there is nothing to do: the others serve it.
pub struct Nobody;

impl StandIn for Nobody {
    fn takes_over(&mut self, _n: usize) {}

    fn leaves(&mut self, _n: usize) {}

    fn work(&mut self, _others: bool) -> Option<BorrowedFd<'_>> {
        None
    }

    fn turn(&mut self) {}

    fn ends(&mut self, _others: bool) -> Duration {
        Duration::MAX
    }
}

/// How a listener is accepted from: the clients' sockets block, or they do not.
type Accept = fn(&Listener) -> io::Result<(Stream, Peer)>;

/// Accepts from the listeners of workers that are missing.
pub struct Acceptor<'a> {
    listeners: &'a [Listener],
    /// Whether all have one socket, which those who live serve anyway.
    is_one: bool,
    accept: Accept,
    empty: Places,
    dealer: Dealer,
    hand: Hand,
    /// Sorts the errors of accept(2). The limits on clients are kept by who serves them.
    door: Door<'a>,
}

impl<'a> Acceptor<'a> {
    /// For workers of which each has one of `listeners`.
    ///
    /// # Errors
    /// Where descriptors ran out.
    pub fn new(listeners: &'a [Listener], accept: Accept, ctx: &'a Context) -> io::Result<Self> {
        let (dealer, hand) = channel()?;
        let (empty, door) = (Places::new(listeners.len())?, Door::new(ctx, ctx.board.door()));
        let is_one = listeners.iter().any(Listener::is_shared);
        Ok(Self { listeners, is_one, accept, empty, dealer, hand, door })
    }

    /// Where each worker takes clients of those that are missing. It is closed when the server ends.
    ///
    /// # Errors
    /// Where descriptors ran out.
    pub fn hand(&self) -> io::Result<Hand> {
        self.hand.try_clone()
    }

    /// Accepts from a listener as long as somebody waits and those who live have room; says whether nobody waits.
    fn accepts(&mut self, n: usize) -> bool {
        self.door.open_again();
        while self.door.pause().is_none() && self.dealer.has_room() {
            match (self.accept)(&self.listeners[n]) {
                Ok((stream, peer)) => self.dealer.pass(&stream, peer),
                Err(error) => match self.door.attempt::<Stream>(Err(error)) {
                    Attempt::Nobody | Attempt::Closed => return true,
                    Attempt::Client(_) | Attempt::Lost | Attempt::Pause => {}
                },
            }
        }
        false
    }
}

impl StandIn for Acceptor<'_> {
    fn takes_over(&mut self, n: usize) {
        if self.is_one {
            return;
        }
        let listener = &self.listeners[n];
        self.empty.begins(n, |ready| {
            listener.set_nonblocking(true)?;
            Ok(ready.add(listener, readable(n))?)
        });
    }

    fn leaves(&mut self, n: usize) {
        let listener = &self.listeners[n];
        self.empty.ends(n, |ready| Ok(ready.delete(listener)?));
    }

    fn work(&mut self, others: bool) -> Option<BorrowedFd<'_>> {
        self.door.open_again();
        let may_accept = others && self.door.pause().is_none() && self.dealer.has_room();
        may_accept.then(|| self.empty.ready.0.as_fd())
    }

    fn turn(&mut self) {
        for n in self.empty.ready() {
            self.accepts(n);
        }
    }

    fn ends(&mut self, others: bool) -> Duration {
        if !others {
            return Duration::MAX; // there is nobody to pass a client to
        }
        for n in self.empty.all() {
            if self.accepts(n) {
                self.leaves(n);
                self.listeners[n].stop();
            }
        }
        if !self.empty.all().is_empty() {
            return TRY_AGAIN;
        }
        self.dealer.close();
        Duration::MAX
    }
}

/// Answers the datagrams of workers that are missing.
pub struct Answerer<'a> {
    sockets: &'a [Datagrams],
    ctx: &'a Context,
    empty: Places,
    exchanges: Vec<Option<Exchange<'a>>>,
}

impl<'a> Answerer<'a> {
    /// For workers of which each has one of `sockets`.
    ///
    /// # Errors
    /// Where descriptors ran out.
    pub fn new(sockets: &'a [Datagrams], ctx: &'a Context) -> io::Result<Self> {
        let exchanges = sockets.iter().map(|_| None).collect();
        Ok(Self { sockets, ctx, empty: Places::new(sockets.len())?, exchanges })
    }

    /// Receives and answers in place of worker number `n`, for a while; says whether nothing waits.
    fn answers(&mut self, n: usize) -> bool {
        let Some(exchange) = &mut self.exchanges[n] else { return true };
        exchange.answer_the_bell();
        let next = exchange.turn(&self.sockets[n]).unwrap_or_else(|error| {
            if self.ctx.board.may_speak() {
                log::error!("in place of worker {n}: {error}");
            }
            Next::Read
        });
        let mut wanted = readable(n);
        if next == Next::Write {
            // What comes meanwhile has the exchange look whether its patience is over.
            wanted = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT, n as u64);
        }
        let _ = self.empty.ready.modify(&self.sockets[n], &mut wanted);
        next == Next::Read
    }
}

impl StandIn for Answerer<'_> {
    fn takes_over(&mut self, n: usize) {
        // One that was passed is served by those who live anyway.
        if self.exchanges[n].is_some() || self.sockets[n].is_inherited() {
            return;
        }
        let (socket, exchange) = (&self.sockets[n], Exchange::of_a_parent(self.ctx, n));
        self.empty.begins(n, |ready| {
            socket.set_nonblocking(true)?;
            exchange.bell().map_or(Ok(()), |bell| ready.add(bell, readable(n)))?;
            Ok(ready.add(socket, readable(n))?)
        });
        self.exchanges[n] = Some(exchange);
    }

    fn leaves(&mut self, n: usize) {
        let Some(exchange) = self.exchanges[n].take() else { return };
        let socket = &self.sockets[n];
        self.empty.ends(n, |ready| {
            exchange.bell().map_or(Ok(()), |bell| ready.delete(bell))?;
            ready.delete(socket)?;
            socket.set_nonblocking(false)
        });
    }

    fn work(&mut self, _others: bool) -> Option<BorrowedFd<'_>> {
        Some(self.empty.ready.0.as_fd())
    }

    fn turn(&mut self) {
        for n in self.empty.ready() {
            self.answers(n);
        }
    }

    fn ends(&mut self, _others: bool) -> Duration {
        for n in self.empty.all() {
            self.sockets[n].stop();
            if self.answers(n) {
                self.leaves(n);
            }
        }
        if self.empty.all().is_empty() { Duration::MAX } else { TRY_AGAIN }
    }
}

/// Places that are empty, and what is readable there.
struct Places {
    empty: Vec<bool>,
    ready: Epoll,
}

impl Places {
    fn new(places: usize) -> io::Result<Self> {
        Ok(Self { empty: vec![false; places], ready: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Place `n` is empty: has it watched, if it is not yet.
    fn begins(&mut self, n: usize, watch: impl FnOnce(&Epoll) -> io::Result<()>) {
        if mem::replace(&mut self.empty[n], true) {
            return;
        }
        if let Err(error) = watch(&self.ready) {
            log::error!("nobody stands in for worker {n}: {error}");
        }
    }

    /// Place `n` is filled: has it watched no more.
    fn ends(&mut self, n: usize, unwatch: impl FnOnce(&Epoll) -> io::Result<()>) {
        if mem::take(&mut self.empty[n])
            && let Err(error) = unwatch(&self.ready)
        {
            log::error!("who stood in for worker {n} goes on: {error}");
        }
    }

    fn all(&self) -> Vec<usize> {
        (0..self.empty.len()).filter(|&n| self.empty[n]).collect()
    }

    /// The places where there is something to do now.
    fn ready(&self) -> Vec<usize> {
        let mut events = [EpollEvent::empty(); 64];
        let n = self.ready.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        events[..n].iter().map(|event| event.data() as usize).collect()
    }
}

fn readable(n: usize) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, n as u64)
}
