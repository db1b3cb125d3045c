//! An io_uring for the thread that made it, and the memory that the kernel fills behind its back. What is asked for
//! is queued, and handed over together with the wait for what comes of it: one system call.
//!
//! See also: io_uring(7), io_uring_register_buf_ring(3).

mod buffers;

use std::{io, time::Duration};

use io_uring::{
    IoUring, Probe, cqueue, squeue,
    types::{CancelBuilder, SubmitArgs, Timespec},
};
use nix::libc;

pub use buffers::{Buffers, GROUP, MOST, Piece};

/// How many events are heard between two waits, so that the queue has room for what is asked for because of them.
pub const EVENTS: usize = 256;

/// How much can be asked for between two waits.
const SUBMISSIONS: u32 = 4 * EVENTS as u32;

/// How many completions may wait to be heard; where there are more, multishot requests end.
const COMPLETIONS: u32 = 4096;

/// How many bytes of memory a ring locks on a kernel that counts them against `RLIMIT_MEMLOCK` (before Linux 5.12, and
/// since 6.14): the requests of 64 bytes, the completions of 16 with the queue's heads beside them, and the entries of the
/// buffers, each in whole pages.
pub const LOCKED: usize = {
    let page = 4096;
    let requests = (SUBMISSIONS as usize * 64).next_multiple_of(page);
    let completions = (COMPLETIONS as usize * 16 + SUBMISSIONS as usize * 4 + 1).next_multiple_of(page);
    requests + completions + (MOST * 16).next_multiple_of(page)
};

const REFUSED: &str = "io_uring is refused here (EPERM); Docker's default seccomp profile and \
                       kernel.io_uring_disabled do that";

/// Why there is no ring, in a sentence for the user.
pub fn refusal(error: io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => REFUSED.into(),
        Some(libc::ENOSYS) => "this kernel has no io_uring".into(),
        Some(libc::ENOMEM) => {
            format!("{error}: a ring locks {} KiB of memory; raise ulimit -l", LOCKED >> 10)
        }
        _ => format!("io_uring does not work here: {error}"),
    }
}

/// A ring with its buffers.
pub struct Uring {
    uring: IoUring,
    /// What receives fill.
    pub buffers: Buffers,
}

impl Uring {
    /// A ring whose receives bring up to `size` bytes each into one of so many buffers, a power of two up to
    /// [`MOST`]. Its completions are worked on when they are waited for (Linux 6.1), else without interrupts for
    /// them (5.19), else as it may be.
    ///
    /// # Errors
    /// Where the kernel refuses the ring, or memory.
    pub fn new(size: usize, buffers: usize) -> io::Result<Self> {
        let buffers = Buffers::new(size, buffers)?;
        let plain = || {
            let mut builder = IoUring::builder();
            builder.setup_submit_all().setup_clamp().setup_cqsize(COMPLETIONS);
            builder
        };
        let uring = plain()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(SUBMISSIONS)
            .or_else(|_| plain().setup_coop_taskrun().build(SUBMISSIONS))
            .or_else(|_| plain().build(SUBMISSIONS))?;
        buffers.register(&uring)?;
        Ok(Self { uring, buffers })
    }

    /// Asks the kernel what it can do.
    ///
    /// # Errors
    /// Where it does not tell.
    pub fn register_probe(&self, probe: &mut Probe) -> io::Result<()> {
        self.uring.submitter().register_probe(probe)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// Where the kernel does not take what is queued.
    ///
    /// # Safety
    /// What the entry points to has to stay as it is until the completion is heard, or the ring is gone: that ends
    /// what has none by then.
    #[allow(unsafe_code)]
    pub unsafe fn ask(&mut self, entry: squeue::Entry) -> io::Result<()> {
        if self.uring.submission().is_full() {
            self.submit()?;
        }
        // SAFETY: as of the caller.
        unsafe { self.uring.submission().push(&entry) }.map_err(io::Error::other)
    }

    /// Hands over what was asked for, and waits for nothing.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn submit(&mut self) -> io::Result<()> {
        self.uring.submit().map(drop).or_else(|error| if is_passing(&error) { Ok(()) } else { Err(error) })
    }

    /// Hands over what was asked for, and waits until something is done, or `timeout` has passed. A signal may end
    /// the wait.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timespec = timeout.map(Timespec::from).unwrap_or_default();
        let mut args = SubmitArgs::new();
        if timeout.is_some() {
            args = args.timespec(&timespec);
        }
        match self.uring.submitter().submit_with_args(1, &args) {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The next of what is done.
    pub fn done(&mut self) -> Option<cqueue::Entry> {
        self.uring.completion().next()
    }
}

impl Drop for Uring {
    /// Nothing is under way any more when the memory goes.
    fn drop(&mut self) {
        let _ = self.uring.submitter().register_sync_cancel(None, CancelBuilder::any());
    }
}

/// Whether it is worth going on after an error of io_uring_enter(2): the timeout, a signal, completions or
/// memory that are to be freed first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}
