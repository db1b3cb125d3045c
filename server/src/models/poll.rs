//! One loop on poll(2): every descriptor is handed to the kernel each time, and looked at each time.
//!
//! See also: Stevens, UNPv1, 6.11; TLPI 63.2. The loop itself is `readiness`. Next: `event-loop`, in which the
//! kernel remembers what is watched.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags},
};

use crate::{
    accept::Entrance,
    model::{AtOnce, Context, Model, Serve, Way},
    readiness::{self, Interest, Poller, Ready, while_watched},
    shutdown::poll_all,
    socket::{Datagrams, Listener},
};

pub const MODEL: Model = Model {
    name: "poll",
    summary: "one loop on poll(2)",
    at_once: AtOnce::All,
    is_loop: true,
    isolates: &[],
    tcp: &[Way { dispatch: "", serve: Serve::One(serve) }],
    udp: &[Way { dispatch: "", serve: Serve::One(serve_datagrams) }],
    supported: || Ok(()),
};

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    readiness::serve(Poll::default(), Entrance::Listener(listener), None, ctx, ctx.board.alone())
}

fn serve_datagrams(socket: Datagrams, ctx: &Context) -> io::Result<()> {
    ctx.board.alone();
    readiness::serve_datagrams(Poll::default(), &socket, ctx, 0)
}

/// The array that poll(2) is given, and beside it the key of each entry.
#[derive(Default)]
struct Poll {
    fds: Vec<PollFd<'static>>,
    keys: Vec<usize>,
    /// Where in the array a descriptor is.
    places: Vec<usize>,
}

impl Poll {
    fn place(&self, fd: BorrowedFd<'_>) -> Option<usize> {
        let place = *self.places.get(number(fd))?;
        self.fds.get(place).filter(|there| there.as_fd().as_raw_fd() == fd.as_raw_fd())?;
        Some(place)
    }
}

fn number(fd: BorrowedFd<'_>) -> usize {
    fd.as_raw_fd().unsigned_abs() as usize // a descriptor is never negative
}

impl Poller for Poll {
    #[allow(unsafe_code)]
    unsafe fn watch(&mut self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        self.places.resize(self.places.len().max(number(fd) + 1), usize::MAX);
        self.places[number(fd)] = self.fds.len();
        // SAFETY: as of the caller.
        self.fds.push(PollFd::new(unsafe { while_watched(fd) }, interest.into()));
        self.keys.push(key);
        Ok(())
    }

    fn watch_anew(&mut self, fd: BorrowedFd<'_>, _key: usize, interest: Interest) -> io::Result<()> {
        if let Some(place) = self.place(fd) {
            self.fds[place].set_events(interest.into());
        }
        Ok(())
    }

    /// The last entry moves to where the hole is.
    fn unwatch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(place) = self.place(fd) {
            self.fds.swap_remove(place);
            self.keys.swap_remove(place);
            if let Some(moved) = self.fds.get(place) {
                self.places[number(moved.as_fd())] = place;
            }
        }
        Ok(())
    }

    fn closes(&mut self, fd: BorrowedFd<'_>) {
        let _ = self.unwatch(fd);
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let found = match poll_all(&mut self.fds, timeout) {
            Ok(n) => n.unsigned_abs() as usize,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        // Level-triggered: an end of file behind the data is reported again.
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let all = self.fds.iter().zip(&self.keys).filter(|(fd, _)| is_ready(fd));
        ready.extend(all.take(found).map(|(_, &key)| Ready { key, fin_seen: false }));
        Ok(())
    }
}

impl From<Interest> for PollFlags {
    fn from(interest: Interest) -> Self {
        match interest {
            Interest::Read => Self::POLLIN,
            Interest::Write => Self::POLLOUT,
        }
    }
}
