//! What wakes a poll at a moment, finer than the poll's own timeout, which counts in milliseconds.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use mio::{Interest, Poll, Token, unix::SourceFd};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A timer beside the sockets of a poll (timerfd_create(2)). The poll hears the edge only, so it is never read.
pub struct Timer {
    fd: TimerFd,
    /// What it was last set to.
    due: u64,
}

impl Timer {
    /// Under this token `poll` hears of it.
    pub const TOKEN: Token = Token(usize::MAX);

    /// One that is not set.
    ///
    /// # Errors
    /// Where the system refuses the descriptor.
    pub fn new(poll: &Poll) -> io::Result<Self> {
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&fd.as_fd().as_raw_fd()), Self::TOKEN, Interest::READABLE)?;
        Ok(Self { fd, due: 0 })
    }

    /// Wakes the poll at `due`, which is so long from now.
    pub fn set(&mut self, due: u64, left: Duration) {
        if self.due == due {
            return; // it is set to that
        }
        self.due = due;
        let left = Expiration::OneShot(left.max(Duration::from_nanos(1)).into());
        let set = self.fd.set(left, TimerSetTimeFlags::empty());
        set.unwrap_or_else(|error| unreachable!("a timer of ours, and a time to come: {error}"));
    }
}
