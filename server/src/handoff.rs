//! Handing a client over to a worker: its descriptor travels over a socket, from a dealer to a hand.
//!
//! What arrives is a descriptor of the receiver's own, for the same connection (`rights`). It works between processes
//! and, in the same way, between threads.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
    sys::socket::{AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, shutdown, socketpair},
};

use crate::{
    accept::{Arrival, Client, Clients, Door, Other},
    model::Context,
    pool::Pool,
    rights,
    seats::Holder,
    shutdown::{Stage, wait_readable},
    socket::{Peer, Stream},
};

/// The end that gives.
pub struct Dealer(OwnedFd);

/// The end that takes; it is readable when a client, or the end, is there.
pub struct Hand(OwnedFd);

/// What a hand takes.
pub struct Taken {
    /// The client's socket; `None` where there was no descriptor left for it.
    pub stream: Option<Stream>,
    /// Who it is.
    pub peer: Peer,
    /// Who holds its seat until now; nobody where it has none yet.
    pub from: Option<Holder>,
}

/// Both ends. Neither blocks.
///
/// # Errors
/// Where descriptors ran out (socketpair(2)).
pub fn channel() -> io::Result<(Dealer, Hand)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (dealer, hand) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    Ok((Dealer(dealer), Hand(hand)))
}

/// When to try again to deal to workers that take no more for now.
pub const TRY_AGAIN: Duration = Duration::from_millis(5);

impl Dealer {
    /// Sends a client over, with its seat, which `holder` holds on the way; gives it back where there is no room for it.
    pub fn deal<'a>(&self, client: Client<'a>, holder: Holder) -> Result<(), Client<'a>> {
        client.seat.passes_to(holder);
        match self.send(&client.stream, client.seat.peer(), Some(holder)) {
            Ok(()) => {
                client.seat.stays_taken();
                Ok(())
            }
            Err(_) => {
                client.seat.comes_back_from(holder);
                Err(client)
            }
        }
    }

    /// Sends a client over that has no seat; there is room for it.
    pub fn pass(&self, stream: &Stream, peer: Peer) {
        if let Err(error) = self.send(stream, peer, None) {
            log::error!("a client was lost on its way to a worker: {error}");
        }
    }

    /// The message says who the client is and who holds its seat, its ancillary data is the descriptor.
    fn send(&self, stream: &Stream, peer: Peer, from: Option<Holder>) -> nix::Result<()> {
        let peer = peer.number().to_ne_bytes();
        let from = from.map_or(0, Holder::number).to_ne_bytes();
        rights::send(&self.0, &[IoSlice::new(&peer), IoSlice::new(&from)], Some(stream))
    }

    /// Whether another client can be sent over (POLLOUT, unix(7)).
    pub fn has_room(&self) -> bool {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        poll(&mut polled, PollTimeout::ZERO) == Ok(1)
    }

    /// Deals those that are left at the end, as far as they are taken, and closes when all are; says when to try
    /// again.
    pub fn deal_the_last(&self, last: &mut VecDeque<Client<'_>>) -> Duration {
        while let Some(client) = last.pop_front() {
            if let Err(client) = self.deal(client, Holder::this_process()) {
                last.push_front(client);
                return TRY_AGAIN;
            }
        }
        self.close();
        Duration::MAX
    }

    /// No more will come: a hand that has taken all finds the end, also where forked children hold copies
    /// of this dealer.
    pub fn close(&self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Write);
    }
}

impl Hand {
    /// Takes the next client.
    ///
    /// # Errors
    /// As accept(2) reports them (`accept::Fault`): `EAGAIN` while nobody is there, `EINVAL` when the dealer
    /// closed, `EMFILE` where there is no descriptor for another: it stays in the channel then.
    pub fn take(&self) -> io::Result<Taken> {
        // A descriptor that finds no room is lost with its message, so whether there is room is asked first.
        drop(self.0.try_clone()?);
        self.take_anyway()
    }

    /// The same; where there is no descriptor for the client, it is lost.
    ///
    /// # Errors
    /// `EAGAIN` while nobody is there, `EINVAL` when the dealer closed.
    fn take_anyway(&self) -> io::Result<Taken> {
        let (mut peer, mut from) = ([0; size_of::<u64>()], [0; size_of::<u64>()]);
        let mut slices = [IoSliceMut::new(&mut peer), IoSliceMut::new(&mut from)];
        let (length, stream) = rights::receive(&self.0, &mut slices, MsgFlags::empty())?;
        if length == 0 {
            return Err(Errno::EINVAL.into());
        }
        let stream = stream.map(Stream::from);
        let peer = Peer::numbered(u64::from_ne_bytes(peer));
        Ok(Taken { stream, peer, from: Holder::numbered(u64::from_ne_bytes(from)) })
    }

    /// The same hand under another descriptor.
    ///
    /// # Errors
    /// Where descriptors ran out.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for Hand {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The acceptor's side of a pool: a dealer for each worker, and who is how busy.
///
/// The channels are made once. What was dealt to a worker that dies before it takes it comes back, and is dealt anew.
pub struct Dealers<'a> {
    ctx: &'a Context,
    /// How many clients a worker serves at once.
    at_once: u64,
    places: Vec<Place>,
}

struct Place {
    dealer: Dealer,
    hand: Hand,
    /// Whether there is a worker.
    staffed: bool,
    /// How many clients were dealt to this place, but for those that came back or were lost on the way.
    dealt: u64,
    /// How many of them its present worker may have been dealt at most before it retires.
    retires_at: u64,
}

impl<'a> Dealers<'a> {
    /// Places for all workers of the pool, none of them staffed, to each of which up to `at_once` clients are dealt
    /// at the same time.
    ///
    /// # Errors
    /// Where descriptors ran out.
    pub fn new(ctx: &'a Context, at_once: u64) -> io::Result<Self> {
        let place = |_| {
            let (dealer, hand) = channel()?;
            Ok(Place { dealer, hand, staffed: false, dealt: 0, retires_at: 0 })
        };
        let workers = ctx.settings.workers;
        let places = (0..workers).map(place).collect::<io::Result<_>>().map_err(|error| {
            io::Error::other(format!("a channel for each of {workers} workers: {error}; use fewer --workers"))
        })?;
        Ok(Self { ctx, at_once, places })
    }

    /// Has a worker hired for each place that has none; `hire` says what it is to do with its hand.
    pub fn staff<'scope, W>(
        &mut self,
        pool: &mut Pool<'scope, '_>,
        mut hire: impl FnMut(usize, Hand) -> io::Result<W>,
    ) where
        W: FnOnce() -> io::Result<()> + Send + 'scope,
    {
        for n in pool.fill(|n| hire(n, self.places[n].hand.try_clone()?)) {
            let in_flight = self.busy(n);
            let place = &mut self.places[n];
            place.staffed = true;
            place.retires_at =
                (place.dealt - in_flight).saturating_add(self.ctx.settings.clients_a_worker as u64);
        }
        self.serve_for_the_missing();
    }

    /// These places have none any more.
    pub fn vacated(&mut self, places: Vec<usize>) {
        for n in places {
            self.places[n].staffed = false;
            self.deal_anew(n);
        }
    }

    /// Deals those again who wait at a place that has no worker: to another, or else to the same, where they wait for
    /// its successor. Whom the worker had taken, but not begun to serve, is lost with it: its seat is free, and it is
    /// not counted as dealt any more, since it will never be done. They stay in the channels: what this process holds
    /// while it forks, its child holds too.
    fn deal_anew(&mut self, n: usize) {
        let mut door = Door::new(self.ctx, self.ctx.board.door());
        let mut left = VecDeque::new();
        while let Ok(taken) = self.places[n].hand.take_anyway() {
            left.extend(door.takes_back(taken));
        }
        self.ctx.seats.leave_all_of(Holder::on_the_way_to(n));
        self.places[n].dealt = self.ctx.board.worker(n).done();
        while let Some(client) = left.pop_front() {
            let other = self.least_busy().unwrap_or(n);
            let dealt = self.deal(other, client).or_else(|client| self.deal(n, client));
            door.nobody_serves(dealt.err().into_iter().collect());
        }
    }

    /// Has the others serve those who wait at places that are still empty, as far as they may have another.
    fn serve_for_the_missing(&mut self) {
        for n in 0..self.places.len() {
            if !self.places[n].staffed && self.busy(n) > 0 && self.least_busy().is_some() {
                self.deal_anew(n);
            }
        }
    }

    /// How many clients worker number `n` serves or is to take.
    fn busy(&self, n: usize) -> u64 {
        self.places[n].dealt.saturating_sub(self.ctx.board.worker(n).done())
    }

    /// The worker that serves the fewest clients, if there is one that may have another.
    pub fn least_busy(&self) -> Option<usize> {
        let places = self.places.iter().enumerate();
        let may_have = |place: &Place| place.staffed && place.dealt < place.retires_at;
        let busy = places.filter(|(_, place)| may_have(place)).map(|(n, _)| (self.busy(n), n));
        busy.min().filter(|&(clients, _)| clients < self.at_once).map(|(_, n)| n)
    }

    /// The next client for whom there is a worker, or word of something else; `None` when the server ends. While
    /// all workers are busy nobody is let in; one of them rings `idle` when it is not any more.
    pub fn next_of<'c>(
        &self,
        clients: &mut Clients<'c>,
        other: Other<'_>,
        idle: Option<&EventFd>,
    ) -> Option<Arrival<'c>> {
        if self.least_busy().is_some() {
            return clients.next_or(other);
        }
        let shutdown = Some(self.ctx.shutdown.as_fd());
        let [_, _, ends] = wait_readable([idle.map(AsFd::as_fd), other.fd, shutdown], other.timeout);
        let _ = idle.map(EventFd::read);
        (!ends).then_some(Arrival::Other)
    }

    /// Hands a client to the worker that serves the fewest; where that takes no more for now, the client goes back,
    /// and is tried again a little later. Nobody is let in meanwhile: that is the backpressure. Says whether to
    /// go on: when the server's end is over, nobody takes any more.
    #[must_use]
    pub fn deal_or_wait<'c>(&mut self, client: Client<'c>, clients: &mut Clients<'c>) -> bool {
        let dealt = match self.least_busy() {
            Some(n) => self.deal(n, client),
            None => Err(client),
        };
        let Err(client) = dealt else { return true };
        clients.put_back(client);
        thread::sleep(TRY_AGAIN);
        !self.ctx.shutdown.is_requested() || self.ctx.ending().stage() < Stage::Cut
    }

    /// Hands a client to worker number `n`; gives it back where that one has not yet taken the hundreds that its
    /// channel holds.
    fn deal<'c>(&mut self, n: usize, client: Client<'c>) -> Result<(), Client<'c>> {
        let place = &mut self.places[n];
        place.dealer.deal(client, Holder::on_the_way_to(n))?;
        place.dealt += 1;
        Ok(())
    }

    /// Deals those that are left at the end, as far as there is a worker for them, and closes when all are dealt;
    /// says when to try again.
    pub fn deal_the_last(&mut self, last: &mut VecDeque<Client<'_>>) -> Duration {
        self.places.iter_mut().for_each(|place| place.retires_at = u64::MAX); // nobody does any more
        self.serve_for_the_missing();
        while let Some(client) = last.pop_front() {
            let dealt = match self.least_busy() {
                Some(n) => self.deal(n, client),
                None => Err(client),
            };
            if let Err(client) = dealt {
                last.push_front(client);
                return TRY_AGAIN;
            }
        }
        self.places.iter().for_each(|place| place.dealer.close());
        Duration::MAX
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;
    use crate::{
        accept::Fault,
        seats::{Limits, Seats},
    };

    #[test]
    fn a_client_that_is_handed_over_is_the_same_connection() {
        let (dealer, hand) = channel().unwrap();
        let seats = Seats::new(Limits::default()).unwrap();
        let (mut client, server) = UnixStream::pair().unwrap();
        let stream = Stream::from(OwnedFd::from(server));
        assert!(
            dealer
                .deal(
                    Client { stream, seat: seats.take(Peer::numbered(4711)).unwrap() },
                    Holder::on_the_way_to(3)
                )
                .is_ok()
        );
        let taken = hand.take().unwrap();
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        taken.stream.unwrap().read_exact(&mut heard).unwrap();
        assert_eq!((&heard, taken.peer), (b"hello", Peer::numbered(4711)));
        assert_eq!(taken.from, Some(Holder::on_the_way_to(3)));
    }

    #[test]
    fn a_full_channel_gives_the_client_back() {
        let (dealer, _hand) = channel().unwrap();
        let seats = Seats::new(Limits::default()).unwrap();
        let given_back = (0..100_000).find_map(|_| {
            let stream = Stream::from(OwnedFd::from(UnixStream::pair().unwrap().0));
            dealer
                .deal(Client { stream, seat: seats.take(Peer::default()).unwrap() }, Holder::this_process())
                .err()
        });
        assert!(given_back.is_some());
    }

    #[test]
    fn an_empty_hand_has_nobody_and_a_closed_dealer_is_the_end() {
        let (dealer, hand) = channel().unwrap();
        assert_eq!(Fault::from(&hand.take().err().unwrap()), Fault::NobodyThere);
        dealer.close();
        assert_eq!(Fault::from(&hand.take().err().unwrap()), Fault::Closed);
    }
}
