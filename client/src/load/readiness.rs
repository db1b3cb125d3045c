//! What carries a thread's bytes where the kernel says which socket is ready: mio.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    ops::Range,
    os::fd::AsRawFd,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};
use socket2::Socket;

use super::{
    carrier::{Carrier, Event},
    pace::Sleep,
    payload::Payload,
    timer::Timer,
};

/// How much one read takes.
const SCRATCH: usize = 64 * 1024;

/// A poller, and a timer that wakes it.
pub struct Readiness {
    poll: Poll,
    timer: Timer,
    ready: Events,
    scratch: Vec<u8>,
}

impl Readiness {
    /// A poller that watches nothing.
    ///
    /// # Errors
    /// Where the system refuses the descriptors.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let (timer, ready) = (Timer::new(&poll)?, Events::with_capacity(1024));
        Ok(Self { poll, timer, ready, scratch: vec![0; SCRATCH] })
    }

    /// What ends a wait from another thread, as an event of `token`.
    ///
    /// # Errors
    /// Where the system refuses the descriptor.
    pub fn waker(&self, token: usize) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), Token(token))
    }

    /// Tells from now on when something has come.
    ///
    /// # Errors
    /// Where the poller refuses.
    pub fn listen(&self, socket: &impl AsRawFd, token: usize) -> io::Result<()> {
        let socket = &mut SourceFd(&socket.as_raw_fd());
        self.poll.registry().register(socket, Token(token), Interest::READABLE)
    }
}

impl Carrier for Readiness {
    fn watch(&mut self, socket: &Socket, token: usize, interest: Interest, known: bool) -> io::Result<()> {
        let (socket, registry) = (&mut SourceFd(&socket.as_raw_fd()), self.poll.registry());
        if known {
            registry.reregister(socket, Token(token), interest)
        } else {
            registry.register(socket, Token(token), interest)
        }
    }

    fn wait(&mut self, sleep: Sleep, events: &mut Vec<Event>) {
        let most = match sleep {
            Sleep::About(most) => most,
            Sleep::Until(_, Duration::ZERO) => Duration::ZERO,
            Sleep::Until(due, left) => {
                self.timer.set(due, left);
                left
            }
        };
        if let Err(error) = self.poll.poll(&mut self.ready, Some(most)) {
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "poll: {error}");
        }
        let of_sockets = self.ready.iter().filter(|ready| ready.token() != Timer::TOKEN);
        events.extend(of_sockets.map(|ready| Event {
            token: ready.token().0,
            is_writable: ready.is_writable(),
            is_readable: ready.is_readable() || ready.is_error(),
            is_last: ready.is_read_closed(),
        }));
    }

    fn send(
        &mut self,
        mut socket: &Socket,
        _: usize,
        payload: &Payload,
        span: Range<usize>,
    ) -> io::Result<usize> {
        socket.write(payload.bytes(span))
    }

    fn receive(&mut self, mut socket: &Socket, _: usize) -> io::Result<&[u8]> {
        let n = socket.read(&mut self.scratch)?;
        Ok(&self.scratch[..n])
    }

    /// A read that does not fill the buffer has emptied the socket.
    fn is_more(&self, bytes: usize) -> bool {
        bytes == SCRATCH
    }

    fn half_close(&mut self, socket: &Socket, _: usize) -> io::Result<()> {
        socket.shutdown(Shutdown::Write)
    }

    fn close(&mut self, socket: Socket, _: usize) {
        drop(socket);
    }
}
