//! One loop on mio: epoll on Linux, kqueue on BSD and macOS, both edge-triggered.
//!
//! See also: epoll(7); Kegel, "The C10K problem". The loop itself is `readiness`.

use std::{
    io::{self, ErrorKind},
    net::TcpListener,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use mio::{Events, Poll, Token, unix::SourceFd};

use crate::{
    model::{AtOnce, Context, Model, Way},
    readiness::{self, Interest, Poller, Ready},
};

pub const MODEL: Model = Model {
    name: "event-loop",
    summary: "one loop on mio (epoll, kqueue)",
    at_once: AtOnce::All,
    tcp: &[Way { dispatch: "", serve }],
    udp: &[],
    supported: || Ok(()),
};

fn serve(listener: TcpListener, ctx: &Context) -> io::Result<()> {
    let tally = ctx.board.worker(0);
    tally.occupied();
    let poller = Mio { poll: Poll::new()?, events: Events::with_capacity(1024) };
    readiness::serve(poller, listener, ctx, tally)
}

struct Mio {
    poll: Poll,
    events: Events,
}

impl Poller for Mio {
    fn watch(&mut self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), Token(key), interest.into())
    }

    fn watch_anew(&mut self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        self.poll.registry().reregister(&mut SourceFd(&fd.as_raw_fd()), Token(key), interest.into())
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        ready.extend(
            self.events.iter().map(|event| Ready { key: event.token().0, fin_seen: event.is_read_closed() }),
        );
        Ok(())
    }
}

impl From<Interest> for mio::Interest {
    fn from(interest: Interest) -> Self {
        match interest {
            Interest::Read => Self::READABLE,
            Interest::Write => Self::WRITABLE,
        }
    }
}
