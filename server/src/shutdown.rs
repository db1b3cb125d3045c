//! How the server is told to end: signals become one descriptor that is readable for everyone, for ever.
//!
//! SIGTERM, SIGINT, SIGHUP and SIGQUIT write a byte into a pipe that nobody reads. Every thread and every forked child can
//! wait for its read end beside whatever else it waits for, and all of them see it. That the second signal
//! ends the process at once is the business of `process`.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::resource::{Resource, getrlimit},
    unistd::pipe2,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    low_level,
};

/// What a conversation gets after the drain's end to flush what it still owes.
pub const GRACE: Duration = Duration::from_millis(250);

/// The signals that tell the server to end.
pub const SIGNALS: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];

/// The descriptor.
pub struct Shutdown {
    requested: OwnedFd,
    request: File,
    seen: OnceLock<Instant>,
}

impl Shutdown {
    /// Makes the pipe and puts it under those of `signals`, of [`SIGNALS`] (sigaction(2)).
    ///
    /// # Errors
    /// Where the kernel refuses the pipe or the handlers.
    pub fn on(signals: impl IntoIterator<Item = i32>) -> io::Result<Self> {
        let shutdown = Self::by_hand()?;
        for signal in signals {
            low_level::pipe::register(signal, shutdown.request.try_clone()?)?;
        }
        Ok(shutdown)
    }

    /// The pipe without signals.
    ///
    /// # Errors
    /// Where descriptors ran out.
    pub fn by_hand() -> io::Result<Self> {
        let (requested, request) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self { requested, request: File::from(request), seen: OnceLock::new() })
    }

    /// Does what the first signal does.
    pub fn request(&self) {
        // A full pipe is readable already.
        let _ = (&self.request).write(&[0]);
    }

    /// Whether the server was told to end.
    pub fn is_requested(&self) -> bool {
        wait_readable([Some(self.as_fd())], Some(Duration::ZERO)) == [true]
    }

    /// The clock of the end, which runs from the moment when this process first asks for it.
    pub fn ending(&self, drain: Duration) -> Ending {
        Ending::from(*self.seen.get_or_init(Instant::now), drain)
    }

    /// Whether this process has asked for the clock of the end, and its clients have had `drain` since.
    pub fn is_over(&self, drain: Duration) -> bool {
        self.seen.get().is_some_and(|&began| Ending::from(began, drain).stage() > Stage::Draining)
    }

    /// Waits until the server is told to end, or `timeout` has passed.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if wait_readable([Some(self.as_fd())], left) == [true] {
                return true;
            }
            if left == Some(Duration::ZERO) {
                return false;
            }
        }
    }
}

impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.requested.as_fd()
    }
}

/// Waits until one of `fds` is readable (or has failed), a signal came, or `timeout` has passed; says of
/// each whether it is. Where there is `None`, nothing is looked at. poll(2).
///
/// # Panics
/// Where poll(2) fails for another reason than a signal: the arguments were wrong.
pub fn wait_readable<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> [bool; N] {
    let Some(any) = fds.iter().flatten().next().copied() else {
        let _ = poll_all(&mut [], timeout);
        return [false; N];
    };
    // Where there is nothing to look at, another stands in, of which nothing is asked: so no memory is taken,
    // which a parent would pay for after each fork(2).
    let mut polled = fds.map(|fd| match fd {
        Some(fd) => PollFd::new(fd, PollFlags::POLLIN),
        None => PollFd::new(any, PollFlags::empty()),
    });
    match poll_all(&mut polled, timeout) {
        Ok(_) => std::array::from_fn(|n| fds[n].is_some() && polled[n].any().unwrap_or(true)),
        Err(Errno::EINTR) => [false; N],
        Err(error) => panic!("poll: {error}"),
    }
}

/// poll(2), also where RLIMIT_NOFILE was lowered (prlimit(1)) below the number of descriptors, at which the kernel refuses
/// with `EINVAL`: then they are asked about in parts, a hundred times a second.
///
/// # Errors
/// `EINTR`.
pub fn poll_all(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> nix::Result<i32> {
    match poll(fds, timeout.map_or(PollTimeout::NONE, whole_milliseconds)) {
        Err(Errno::EINVAL) => {}
        polled => return polled,
    }
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(limit, _)| limit);
    let parts = fds.chunks_mut(usize::try_from(limit).unwrap_or(usize::MAX).max(1));
    let found = parts.map(|part| poll(part, PollTimeout::ZERO).unwrap_or(0)).sum();
    if found == 0 {
        let pause = Duration::from_millis(10);
        thread::sleep(timeout.map_or(pause, |timeout| timeout.min(pause)));
    }
    Ok(found)
}

/// poll(2) counts in milliseconds; a wait that rounds down would spin through its last one.
fn whole_milliseconds(timeout: Duration) -> PollTimeout {
    let up = timeout.as_nanos().div_ceil(1_000_000);
    i32::try_from(up).ok().and_then(|ms| PollTimeout::try_from(ms).ok()).unwrap_or(PollTimeout::MAX)
}

/// Where the end of a server stands, counted from the moment it was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Clients are waited for.
    Draining,
    /// The drain is over: conversations are hung up, and flush what they owe.
    HangUp,
    /// The grace is over too: whatever is left is cut.
    Cut,
}

/// The clock of a server's end.
#[derive(Clone, Copy)]
pub struct Ending {
    hang_up: Instant,
    cut: Instant,
}

impl Ending {
    /// The server was told to end at `began`, and its clients have `drain` to finish.
    fn from(began: Instant, drain: Duration) -> Self {
        let hang_up = began + drain;
        Self { hang_up, cut: hang_up + GRACE }
    }

    /// The same, with another grace before the cut: for who waits for others that cut by themselves.
    pub fn and_a_moment(self) -> Self {
        Self { cut: self.cut + GRACE, ..self }
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        match Instant::now() {
            now if now >= self.cut => Stage::Cut,
            now if now >= self.hang_up => Stage::HangUp,
            _ => Stage::Draining,
        }
    }

    /// How long until it stands elsewhere; `None` once it stands at [`Stage::Cut`].
    pub fn until_next_stage(&self) -> Option<Duration> {
        let next = match self.stage() {
            Stage::Draining => self.hang_up,
            Stage::HangUp => self.cut,
            Stage::Cut => return None,
        };
        Some(next.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_seen_again_and_again() {
        let shutdown = Shutdown::by_hand().unwrap();
        assert!(!shutdown.wait(Some(Duration::from_millis(1))));
        shutdown.request();
        for _ in 0..3 {
            assert!(shutdown.is_requested());
            assert!(shutdown.wait(None));
        }
    }

    #[test]
    fn an_ending_goes_from_draining_over_hanging_up_to_cutting() {
        let ending = Ending::from(Instant::now(), Duration::from_secs(60));
        assert_eq!(ending.stage(), Stage::Draining);
        let ending = Ending::from(Instant::now(), Duration::ZERO);
        assert_eq!(ending.stage(), Stage::HangUp);
        assert!(ending.until_next_stage().unwrap() <= GRACE);
    }

    #[test]
    fn an_end_has_one_clock_whoever_asks() {
        let shutdown = Shutdown::by_hand().unwrap();
        let first = shutdown.ending(Duration::from_secs(1));
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(first.hang_up, shutdown.ending(Duration::from_secs(1)).hang_up);
    }

    #[test]
    fn a_poll_timeout_is_never_rounded_down() {
        assert_eq!(whole_milliseconds(Duration::from_micros(1)), PollTimeout::from(1u8));
        assert_eq!(whole_milliseconds(Duration::ZERO), PollTimeout::ZERO);
    }
}
