//! Handing a client over to a worker: its descriptor travels over a socket, from a dealer to a hand.
//!
//! SCM_RIGHTS, unix(7). What arrives is a descriptor of the receiver's own, for the same connection. It works
//! between processes and, in the same way, between threads.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, recvmsg,
        sendmsg, shutdown, socketpair,
    },
};
use socket2::SockRef;

use crate::{
    accept::{Client, Door},
    model::Context,
    scoreboard::Trouble,
    socket::{Peer, Stream},
};

/// The end that gives.
pub struct Dealer(OwnedFd);

/// The end that takes; it is readable when a client, or the end, is there.
pub struct Hand(OwnedFd);

/// Both ends.
///
/// # Errors
/// Where descriptors ran out (socketpair(2)).
pub fn channel() -> io::Result<(Dealer, Hand)> {
    let (dealer, hand) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    SockRef::from(&dealer).set_write_timeout(Some(PATIENCE))?;
    Ok((Dealer(dealer), Hand(hand)))
}

/// How long a dealer waits for a worker that has not yet taken the hundreds that the socket holds. While it waits
/// nobody is let in: that is the backpressure.
const PATIENCE: Duration = Duration::from_secs(1);

impl Dealer {
    /// Sends a client over, and waits until there is room for it, unless `flags` say otherwise. The message is
    /// the peer's number, its ancillary data the descriptor.
    ///
    /// # Errors
    /// `WouldBlock` where the worker has not taken so many others yet; `BrokenPipe` where it is gone.
    fn deal(&self, stream: &Stream, peer: Peer, flags: MsgFlags) -> io::Result<()> {
        let message = peer.number().to_ne_bytes();
        let descriptors = [stream.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&message)], &rights, flags, None)?;
        Ok(())
    }

    /// Deals those that are left at the end, as far as they are taken, and closes when all are; says when to try
    /// again.
    pub fn deal_the_last(&self, last: &mut VecDeque<Client<'_>>) -> Duration {
        const TRY_AGAIN: Duration = Duration::from_millis(5);
        while let Some(client) = last.pop_front() {
            match self.deal(&client.stream, client.seat.peer(), MsgFlags::MSG_DONTWAIT) {
                Ok(()) => drop(client.seat.stays_taken()),
                Err(_) => {
                    last.push_front(client);
                    return TRY_AGAIN;
                }
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
    /// closed, `EMFILE` where there is no descriptor for another: it stays with the dealer then.
    pub fn take(&self) -> io::Result<(Stream, Peer)> {
        // A descriptor that finds no room is lost with its message, so whether there is room is asked first.
        drop(self.0.try_clone()?);
        let mut message = [0; size_of::<u64>()];
        let mut rights = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let mut slices = [IoSliceMut::new(&mut message)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let received = recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut rights), flags)?;
        let (bytes, stream) = (received.bytes, received.cmsgs()?.find_map(stream_in));
        match stream {
            Some(stream) => Ok((stream, Peer::numbered(u64::from_ne_bytes(message)))),
            None if bytes == 0 => Err(Errno::EINVAL.into()),
            None => Err(Errno::ECONNABORTED.into()),
        }
    }
}

#[allow(unsafe_code)]
fn stream_in(message: ControlMessageOwned) -> Option<Stream> {
    let ControlMessageOwned::ScmRights(descriptors) = message else { return None };
    // SAFETY: the kernel has just made this descriptor for this message, and nobody else knows of it.
    descriptors.first().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

impl AsFd for Hand {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The acceptor's side of a pool: a dealer for each worker, and who is how busy.
pub struct Dealers<'a> {
    ctx: &'a Context,
    places: Vec<Option<Place>>,
}

struct Place {
    dealer: Dealer,
    /// How many clients the worker was dealt.
    dealt: u64,
    /// How many clients its predecessors, and so its tally, had closed before.
    closed_before: u64,
}

impl<'a> Dealers<'a> {
    /// Nobody to deal to.
    pub fn new(ctx: &'a Context) -> Self {
        Self { ctx, places: (0..ctx.settings.workers).map(|_| None).collect() }
    }

    /// The hand of a new worker number `n`.
    ///
    /// # Errors
    /// Where descriptors ran out.
    pub fn hire(&mut self, n: usize) -> io::Result<Hand> {
        let (dealer, hand) = channel()?;
        let closed_before = self.ctx.board.worker(n).closed_so_far();
        self.places[n] = Some(Place { dealer, dealt: 0, closed_before });
        Ok(hand)
    }

    /// Worker number `n` is gone.
    pub fn forget(&mut self, n: usize) {
        self.places[n] = None;
    }

    /// The worker that serves the fewest clients, and how many those are; `None` where there is no worker.
    fn least_busy(&self) -> Option<(usize, u64)> {
        let (places, most) = (self.places.iter().enumerate(), self.ctx.settings.clients_a_worker as u64);
        let busy = places.filter_map(|(n, place)| {
            let place = place.as_ref().filter(|place| place.dealt < most)?;
            let closed = self.ctx.board.worker(n).closed_so_far() - place.closed_before;
            Some((n, place.dealt.saturating_sub(closed)))
        });
        busy.min_by_key(|&(_, clients)| clients)
    }

    /// The worker that has no client, if there is one, and may have another before it retires.
    pub fn idle(&self) -> Option<usize> {
        self.least_busy().filter(|&(_, clients)| clients == 0).map(|(n, _)| n)
    }

    /// Hands a client to the worker that serves the fewest. Where that is gone, or does not take any more, the
    /// client is closed.
    pub fn deal_to_least_busy(&mut self, client: Client<'_>, door: &mut Door<'_>) {
        let worker = self.least_busy().map(|(n, _)| n).ok_or(io::ErrorKind::NotFound.into());
        if let Err(error) = worker.and_then(|n| self.deal(n, client)) {
            door.refused(Trouble::Handoff, &error);
        }
    }

    /// Hands a client to worker number `n`; its seat goes with it.
    fn deal(&mut self, n: usize, client: Client<'_>) -> io::Result<()> {
        let place = self.places[n].as_mut().ok_or(io::ErrorKind::NotFound)?;
        place.dealer.deal(&client.stream, client.seat.peer(), MsgFlags::empty())?;
        place.dealt += 1;
        client.seat.goes_to(self.ctx.board.worker(n).pid());
        Ok(())
    }

    /// No more will come, for anybody.
    pub fn close(&self) {
        self.places.iter().flatten().for_each(|place| place.dealer.close());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;
    use crate::accept::Fault;

    #[test]
    fn a_client_that_is_handed_over_is_the_same_connection() {
        let (dealer, hand) = channel().unwrap();
        let (mut client, server) = UnixStream::pair().unwrap();
        let stream = Stream::from(OwnedFd::from(server));
        dealer.deal(&stream, Peer::numbered(4711), MsgFlags::empty()).unwrap();
        drop(stream);
        let (mut taken, peer) = hand.take().unwrap();
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        taken.read_exact(&mut heard).unwrap();
        assert_eq!((&heard, peer), (b"hello", Peer::numbered(4711)));
    }

    #[test]
    fn an_empty_hand_has_nobody_and_a_closed_dealer_is_the_end() {
        let (dealer, hand) = channel().unwrap();
        assert_eq!(Fault::from(&hand.take().err().unwrap()), Fault::NobodyThere);
        dealer.close();
        assert_eq!(Fault::from(&hand.take().err().unwrap()), Fault::Closed);
    }
}
