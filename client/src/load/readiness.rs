//! What carries a thread's bytes where the kernel says which socket is ready: mio.

use std::{io, os::fd::AsRawFd, time::Duration};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use super::{pace::Sleep, timer::Timer};

/// A poller, the events of its last wait, and a timer that wakes it.
pub struct Readiness {
    poll: Poll,
    timer: Timer,
    events: Events,
}

impl Readiness {
    /// A poller that watches nothing.
    ///
    /// # Errors
    /// Where the system refuses the descriptors.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        Ok(Self { timer: Timer::new(&poll)?, poll, events: Events::with_capacity(1024) })
    }

    /// What ends a wait from another thread, as an event of `token`.
    ///
    /// # Errors
    /// Where the system refuses the descriptor.
    pub fn waker(&self, token: usize) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), Token(token))
    }

    /// Watches a socket from now on.
    ///
    /// # Errors
    /// Where the poller refuses.
    pub fn watch(&self, socket: &impl AsRawFd, token: usize, interest: Interest) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(token), interest)
    }

    /// Watches a socket for something else than before; what is there already is an event of its own.
    ///
    /// # Errors
    /// Where the poller refuses.
    pub fn watch_anew(&self, socket: &impl AsRawFd, token: usize, interest: Interest) -> io::Result<()> {
        self.poll.registry().reregister(&mut SourceFd(&socket.as_raw_fd()), Token(token), interest)
    }

    /// Waits for events. A signal may end it.
    pub fn wait(&mut self, sleep: Sleep) {
        let most = match sleep {
            Sleep::About(most) => most,
            Sleep::Until(_, Duration::ZERO) => Duration::ZERO,
            Sleep::Until(due, left) => {
                self.timer.set(due, left);
                left
            }
        };
        if let Err(error) = self.poll.poll(&mut self.events, Some(most)) {
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "poll: {error}");
        }
    }

    /// The events of the last wait. They are given back for the next one.
    pub fn take(&mut self) -> Events {
        std::mem::replace(&mut self.events, Events::with_capacity(0))
    }

    /// Gives the room for events back.
    pub fn give_back(&mut self, events: Events) {
        self.events = events;
    }
}
