//! Where answers leave, also when some of them cannot.
//!
//! An answer to a neighbour that does not answer ARP (or IPv6's neighbour discovery) waits in the kernel for about three
//! seconds, and takes room in the send buffer of its socket meanwhile. A few such destinations fill the buffer, and
//! then no answer leaves by that socket, to anybody. So an answer waits for room for [`PATIENCE`] at most. Then the
//! sockets of the reserve are tried, which send from the same address and port, each from a buffer of its own; an
//! answer that finds no room there either is dropped.
//!
//! See also: arp(7) (`unres_qlen_bytes`), socket(7) (SO_SNDBUF).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::shared::Shared;

/// How long an answer waits for room in the send buffer, while no other answer leaves. A network that carries an
/// Ethernet frame in that time (120 kbit/s) loses nothing by it.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// How long the reserve is used without waiting for room first, since the buffer was last found full. Longer than the
/// kernel looks for a neighbour (three requests, a second apart).
const OPEN: Duration = Duration::from_secs(5);

/// A socket that answers leave by.
pub trait Outlet: AsFd {
    /// What stands in for it.
    fn reserve(&self) -> &Reserve;

    /// Waits until there is room for answers, or [`PATIENCE`] is over.
    fn wait_for_room(&self) {
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLOUT)], patience);
    }
}

/// Sockets that send from the same address and port as another does, and receive nothing.
pub struct Reserve {
    sockets: Vec<OwnedFd>,
    began: Instant,
    /// Until when it is used at once, by all workers, in milliseconds since it began; 0: it is not.
    open_until: Shared<AtomicU64>,
}

impl Reserve {
    /// Of these sockets; there may be none.
    ///
    /// # Errors
    /// Where the kernel refuses the memory.
    pub fn new(sockets: Vec<OwnedFd>) -> io::Result<Self> {
        Ok(Self { sockets, began: Instant::now(), open_until: Shared::new(1)? })
    }

    /// Each of its sockets.
    pub fn sockets(&self) -> &[OwnedFd] {
        &self.sockets
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn is_open(&self) -> bool {
        self.now() < self.open_until[0].load(Relaxed)
    }

    fn open(&self) {
        if !self.is_open() {
            log::warn!(
                "no answer has left for {PATIENCE:?}: the send buffer is full, as destinations that do not answer \
                 ARP fill it; {} sockets in reserve are used",
                self.sockets.len()
            );
        }
        self.open_until[0].store(self.now() + OPEN.as_millis() as u64, Relaxed);
    }
}

/// Since when answers wait for room.
#[derive(Default)]
pub struct Wait(Option<Instant>);

impl Wait {
    /// Sends by `socket`, or where that has no room for too long, by its reserve; `send` is asked to, does not block, and
    /// is asked again until it says that nothing is left. `None`: there is no room, and it is not time to give up yet.
    ///
    /// # Errors
    /// `EAGAIN` where there is no room anywhere; else what `send` reports.
    pub fn send(
        &mut self,
        socket: &impl Outlet,
        mut send: impl FnMut(RawFd) -> io::Result<Left>,
    ) -> Option<io::Result<()>> {
        let reserve = socket.reserve();
        let first = socket.as_fd();
        for fd in [first].into_iter().chain(reserve.sockets.iter().map(AsFd::as_fd)) {
            loop {
                match send(fd.as_raw_fd()) {
                    Ok(Left::Nothing) => {
                        self.0 = None;
                        return Some(Ok(()));
                    }
                    Ok(Left::Some) => self.0 = None,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Some(Err(error)),
                }
            }
            if fd.as_raw_fd() == first.as_raw_fd() {
                let began = *self.0.get_or_insert_with(Instant::now);
                if !reserve.is_open() && began.elapsed() < PATIENCE {
                    return None;
                }
                reserve.open();
            }
        }
        self.0 = None;
        Some(Err(io::ErrorKind::WouldBlock.into()))
    }
}

/// What is left to send.
pub enum Left {
    /// Nothing.
    Nothing,
    /// Something.
    Some,
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, net::UdpSocket, os::fd::BorrowedFd, thread::sleep};

    use super::*;

    struct Pair(UdpSocket, Reserve);

    impl Pair {
        fn new(reserved: usize) -> Self {
            let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
            Self(socket(), Reserve::new((0..reserved).map(|_| socket().into()).collect()).unwrap())
        }
    }

    impl AsFd for Pair {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl Outlet for Pair {
        fn reserve(&self) -> &Reserve {
            &self.1
        }
    }

    fn full() -> io::Error {
        io::ErrorKind::WouldBlock.into()
    }

    #[test]
    fn what_finds_no_room_waits_then_leaves_by_the_reserve_and_the_next_does_not_wait() {
        let socket = Pair::new(2);
        let (first, last) = (socket.as_fd().as_raw_fd(), socket.1.sockets()[1].as_raw_fd());
        let tried = RefCell::new(Vec::new());
        let only_the_last_has_room = |fd| {
            tried.borrow_mut().push(fd);
            if fd == last { Ok(Left::Nothing) } else { Err(full()) }
        };
        let mut wait = Wait::default();
        assert!(wait.send(&socket, only_the_last_has_room).is_none());
        assert_eq!(tried.take(), [first]);
        sleep(PATIENCE);
        for mut wait in [wait, Wait::default()] {
            assert!(matches!(wait.send(&socket, only_the_last_has_room), Some(Ok(()))));
            assert_eq!(tried.take().len(), 3);
        }
    }

    #[test]
    fn what_finds_no_room_anywhere_is_given_up_and_another_error_is_told_at_once() {
        let socket = Pair::new(1);
        let mut wait = Wait::default();
        assert!(wait.send(&socket, |_| Err(full())).is_none());
        sleep(PATIENCE);
        let given_up = wait.send(&socket, |_| Err(full())).unwrap().unwrap_err();
        assert_eq!(given_up.kind(), io::ErrorKind::WouldBlock);
        let refused = |_| Err(io::ErrorKind::PermissionDenied.into());
        let told = Wait::default().send(&socket, refused).unwrap().unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn who_sees_an_answer_leave_begins_to_wait_anew() {
        let socket = Pair::new(0);
        let (mut wait, mut goes) = (Wait::default(), true);
        assert!(wait.send(&socket, |_| Err(full())).is_none());
        sleep(PATIENCE);
        let slow = |_| if std::mem::take(&mut goes) { Ok(Left::Some) } else { Err(full()) };
        assert!(wait.send(&socket, slow).is_none());
    }
}
