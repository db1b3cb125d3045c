//! One loop on select(2): two sets of bits, copied into the kernel and back each time.
//!
//! A set holds descriptors below FD_SETSIZE, which is 1024; a client beyond it is refused.
//!
//! See also: Stevens, UNPv1, 6.3 and 6.8; TLPI 63.2. The loop itself is `readiness`. Next: `poll`, which has no
//! such bound.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    libc::FD_SETSIZE,
    sys::{
        select::{FdSet, select},
        time::TimeVal,
    },
};

use crate::{
    accept::Entrance,
    model::{AtOnce, Context, Model, Serve, Way},
    readiness::{self, Interest, Poller, Ready, while_watched},
    socket::{Datagrams, Listener},
};

pub const MODEL: Model = Model {
    name: "select",
    summary: "one loop on select(2)",
    at_once: AtOnce::All,
    is_loop: true,
    isolates: &[],
    tcp: &[Way { dispatch: "", serve: Serve::One(serve) }],
    udp: &[Way { dispatch: "", serve: Serve::One(serve_datagrams) }],
    supported: || Ok(()),
};

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    readiness::serve(Select::new(), Entrance::Listener(listener), None, ctx, ctx.board.alone())
}

fn serve_datagrams(socket: Datagrams, ctx: &Context) -> io::Result<()> {
    ctx.board.alone();
    readiness::serve_datagrams(Select::new(), &socket, ctx, 0)
}

struct Select {
    read: FdSet<'static>,
    write: FdSet<'static>,
    /// The key of each descriptor that is in a set.
    keys: [usize; FD_SETSIZE],
}

impl Select {
    fn new() -> Self {
        Self { read: FdSet::new(), write: FdSet::new(), keys: [0; FD_SETSIZE] }
    }

    fn set_of(&mut self, interest: Interest) -> &mut FdSet<'static> {
        match interest {
            Interest::Read => &mut self.read,
            Interest::Write => &mut self.write,
        }
    }
}

impl Poller for Select {
    #[allow(unsafe_code)]
    unsafe fn watch(&mut self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        let number = fd.as_raw_fd();
        let Some(place) = usize::try_from(number).ok().and_then(|number| self.keys.get_mut(number)) else {
            let sentence =
                format!("descriptor {number} is beyond FD_SETSIZE, {FD_SETSIZE}: select cannot watch it");
            return Err(io::Error::other(sentence));
        };
        *place = key;
        // SAFETY: as of the caller.
        self.set_of(interest).insert(unsafe { while_watched(fd) });
        Ok(())
    }

    #[allow(unsafe_code)]
    fn watch_anew(&mut self, fd: BorrowedFd<'_>, _key: usize, interest: Interest) -> io::Result<()> {
        // SAFETY: it is kept only where it is watched, and stays open until it is not.
        let fd = unsafe { while_watched(fd) };
        if self.read.contains(fd) || self.write.contains(fd) {
            self.unwatch(fd)?;
            self.set_of(interest).insert(fd);
        }
        Ok(())
    }

    #[allow(unsafe_code)]
    fn unwatch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        for set in [&mut self.read, &mut self.write] {
            // SAFETY: it is not kept.
            set.remove(unsafe { while_watched(fd) });
        }
        Ok(())
    }

    fn closes(&mut self, fd: BorrowedFd<'_>) {
        let _ = self.unwatch(fd);
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        // The kernel leaves in the sets what is ready.
        let (mut read, mut write) = (self.read, self.write);
        let mut timeout = timeout.map(time_val);
        match select(None, &mut read, &mut write, None, timeout.as_mut()) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for set in [read, write] {
            // Level-triggered: an end of file behind the data is reported again.
            let all = set.fds(None).filter_map(|fd| self.keys.get(fd.as_raw_fd().unsigned_abs() as usize));
            ready.extend(all.map(|&key| Ready { key, fin_seen: false }));
        }
        Ok(())
    }
}

/// Whole microseconds, rounded up: a wait that rounds down would spin through its last one. A wait of more than
/// a day ends after a day.
fn time_val(timeout: Duration) -> TimeVal {
    let most = Duration::from_secs(24 * 3600);
    let timeout = (timeout + Duration::from_nanos(999)).min(most);
    TimeVal::new(timeout.as_secs().cast_signed(), i64::from(timeout.subsec_micros()))
}
