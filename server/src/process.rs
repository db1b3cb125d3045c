//! The only place that forks, and what a parent owes its children: to count them, to reap them, to end them.
//!
//! Here is also what needs a signal handler of our own, since that is as unsafe as fork(2) is.
//!
//! A child dies with its parent (PR_SET_PDEATHSIG, prctl(2)). A worker leaves the signals that end the server to its
//! parent, which hears them also when a terminal or a service manager sends them to everybody; to a worker
//! the end comes through the shutdown descriptor.

use std::{
    collections::HashMap,
    fs, io, mem, net,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    time::{ClockId, clock_gettime},
    unistd::{ForkResult, Pid, fork, getppid},
};
use signal_hook::{
    SigId,
    consts::{SIGCHLD, SIGHUP, SIGUSR1, SIGUSR2},
    low_level,
};

use crate::{
    shared::Shared,
    shutdown::{Ending, SIGNALS, Stage, wait_readable},
    socket::Stream,
};

/// What a child is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// It serves clients; its parent hears the signals.
    Worker,
    /// It serves an endpoint, and hears the signals itself.
    Server,
}

/// The children of this process. `T` says what the parent wants to know about each.
pub struct Children<T> {
    alive: HashMap<Pid, T>,
    ended: UnixStream,
    handlers: [SigId; 2],
    /// Above 0 once the drain is over: SIGUSR2, which anybody may send, hangs up on nobody before.
    drain_is_over: Arc<Shared<AtomicU64>>,
}

/// A child that ended, and was reaped.
pub struct Ended<T> {
    /// What the parent said about it.
    pub who: T,
    /// How it ended.
    pub status: WaitStatus,
}

impl<T> Ended<T> {
    /// Whether it ended by itself, with exit status 0.
    pub fn is_well(&self) -> bool {
        matches!(self.status, WaitStatus::Exited(_, 0))
    }

    /// Whether a signal ended it, so that it could not say why.
    pub fn was_killed(&self) -> bool {
        matches!(self.status, WaitStatus::Signaled(..))
    }
}

impl<T> Children<T> {
    /// No children yet. Whoever holds this may fork, so no other thread may exist, now or later.
    ///
    /// # Errors
    /// Where the kernel refuses the signal handlers.
    ///
    /// # Panics
    /// Where another thread exists: a forked child would find its locks held for ever (fork(2)).
    pub fn new() -> io::Result<Self> {
        assert_eq!(threads().unwrap_or(1), 1, "only a process of one thread may fork");
        let (ended, end) = UnixStream::pair()?;
        ended.set_nonblocking(true)?;
        let drain_is_over = Arc::new(Shared::new(1)?);
        let sigchld = low_level::pipe::register(SIGCHLD, end)?;
        let sigusr2 = hang_up_on_sigusr2(Arc::clone(&drain_is_over))?;
        Ok(Self { alive: HashMap::new(), ended, handlers: [sigchld, sigusr2], drain_is_over })
    }

    /// How many have not been reaped.
    pub fn count(&self) -> usize {
        self.alive.len()
    }

    /// Runs `child` in a new process, which exits with the status that it returns; a panic is status 101.
    /// Returns the number of the process.
    /// The child's memory is a copy: nothing that it does is seen here but what it counts on the scoreboard.
    ///
    /// # Errors
    /// Where the kernel refuses (`EAGAIN`, `ENOMEM`; fork(2)).
    #[allow(unsafe_code)]
    pub fn fork(&mut self, rank: Rank, who: T, child: impl FnOnce() -> u8) -> io::Result<u32> {
        let parent = Pid::this();
        debug_assert_eq!(threads().unwrap_or(1), 1, "only a process of one thread may fork");
        // A worker is born with its parent's signals blocked: to block them itself would cost it page faults.
        let leaves = if rank == Rank::Worker { ending_signals() } else { SigSet::empty() };
        let heard = leaves.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        // SAFETY: a process of one thread may do in the child whatever it likes. That there is no other was
        // asserted in `new`, and who holds this starts none (in a debug build, asserted above).
        let forked = unsafe { fork() };
        if !matches!(forked, Ok(ForkResult::Child)) {
            heard.thread_set_mask()?;
        }
        match forked? {
            ForkResult::Parent { child } => {
                self.alive.insert(child, who);
                Ok(child.as_raw().cast_unsigned())
            }
            ForkResult::Child => {
                let status = catch_unwind(AssertUnwindSafe(|| {
                    self.grow_up(rank, parent);
                    child()
                }));
                // SAFETY: _exit(2) only ends the process. No destructor and no exit handler of the parent's
                // runs in the child: what they would tidy up is the parent's.
                unsafe { libc::_exit(status.unwrap_or(101).into()) }
            }
        }
    }

    /// What a new child does first.
    #[allow(unsafe_code)]
    fn grow_up(&self, rank: Rank, parent: Pid) {
        #[cfg(target_os = "linux")]
        if nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != parent {
            // The parent died before its death could be asked for.
            // SAFETY: _exit(2) only ends the process.
            unsafe { libc::_exit(1) }
        }
        if rank == Rank::Server {
            self.unregister(); // its own children's ends are not its parent's business
        }
    }

    /// Takes up to `timeout` until a child ends, and reaps all that have (waitpid(2)).
    pub fn wait(&mut self, timeout: Option<Duration>) -> Vec<Ended<T>> {
        wait_readable([Some(self.as_fd())], timeout);
        self.reap()
    }

    /// Reaps all children that have ended.
    pub fn reap(&mut self) -> Vec<Ended<T>> {
        // Emptied first: a child that ends after this makes it readable again; so does what is left.
        let _ = io::Read::read(&mut self.ended, &mut [0; 1024]);
        let mut ended = Vec::new();
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { break };
            if let Some(who) = self.alive.remove(&pid) {
                ended.push(Ended { who, status });
            }
        }
        ended
    }

    /// Waits for every child to end: until the drain is over, when each is told to hang up on its client,
    /// and through the grace, after which those that are left are killed. `each_turn` runs before each
    /// wait; `on_end` gets every child that ended, and whether it was cut.
    pub fn drain(
        &mut self,
        ending: Ending,
        each_turn: impl FnMut() -> Duration,
        on_end: impl FnMut(Ended<T>, bool),
    ) {
        self.drain_sparing(ending, |_| false, each_turn, on_end);
    }

    /// The same, but that a child is not killed for as long as it is spared: it serves nobody any more, and has yet to
    /// hand over what it holds.
    pub fn drain_sparing(
        &mut self,
        ending: Ending,
        mut is_spared: impl FnMut(&T) -> bool,
        mut each_turn: impl FnMut() -> Duration,
        mut on_end: impl FnMut(Ended<T>, bool),
    ) {
        let mut told = Stage::Draining;
        while self.count() > 0 {
            let stage = ending.stage();
            match stage {
                Stage::Cut => self.signal(Signal::SIGKILL, |who| !is_spared(who)),
                Stage::HangUp if stage > told => {
                    self.drain_is_over[0].store(1, SeqCst);
                    self.signal(Signal::SIGUSR2, |_| true);
                }
                _ => {}
            }
            told = stage;
            let timeout = ending.until_next_stage().unwrap_or(Duration::from_secs(1)).min(each_turn());
            for ended in self.wait(Some(timeout)) {
                on_end(ended, told == Stage::Cut);
            }
        }
    }

    fn signal(&self, signal: Signal, mut is_meant: impl FnMut(&T) -> bool) {
        for (&pid, _) in self.alive.iter().filter(|(_, who)| is_meant(who)) {
            let _ = kill(pid, signal);
        }
    }

    fn unregister(&self) {
        for handler in self.handlers {
            low_level::unregister(handler);
        }
    }
}

impl<T> AsFd for Children<T> {
    /// Readable when a child may have ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl<T> Drop for Children<T> {
    fn drop(&mut self) {
        self.unregister(); // nobody reads any more what they write
    }
}

/// Waits until a child has ended that is nobody's [`Children`] any more, and reaps it: else it would be left to init.
pub fn bury(pid: u32) {
    while waitpid(Pid::from_raw(pid.cast_signed()), None) == Err(Errno::EINTR) {}
}

/// How many threads this process has; `None` where the kernel does not tell (no /proc).
fn threads() -> Option<usize> {
    Some(fs::read_dir("/proc/self/task").ok()?.count())
}

/// The socket that this process is reading from, where it serves one client at a time; -1 for none.
static CLIENT: AtomicI32 = AtomicI32::new(-1);
/// Whether the parent said that the drain is over.
static OVER: AtomicBool = AtomicBool::new(false);

/// Holds a conversation that the parent can hang up on. A worker that blocks in read(2) cannot look at the
/// shutdown descriptor; when the drain is over its parent sends SIGUSR2, whose handler shuts the socket
/// for reading: what has arrived is still read and answered, then comes an end of file, and the
/// conversation ends as after a client's FIN.
pub fn within_reach<R>(client: &Stream, conversation: impl FnOnce() -> R) -> R {
    CLIENT.store(client.as_raw_fd(), SeqCst);
    if OVER.load(SeqCst) {
        let _ = client.shutdown(net::Shutdown::Read);
    }
    let _until_the_end = Reach;
    conversation()
}

/// Whether the parent said that the drain is over, to a worker that holds no conversation.
pub fn is_over() -> bool {
    OVER.load(SeqCst)
}

/// Ends the reach, also when a conversation ends in a panic.
struct Reach;

impl Drop for Reach {
    fn drop(&mut self) {
        CLIENT.store(-1, SeqCst);
    }
}

/// A signal that comes again within this time is the same request: timeout(1) and the like signal their child, and then
/// all of its process group.
const ECHO: Duration = Duration::from_millis(50);

/// The second of the signals that tell the server to end ends this process at once, with status 1, and with it
/// its children. SIGHUP is never the second: when a terminal goes away, the kernel and the shell send one each.
///
/// # Errors
/// Where the kernel refuses the handlers.
#[allow(unsafe_code)]
pub fn exit_at_the_second_signal() -> io::Result<()> {
    /// When the first came, in nanoseconds of the monotonic clock; 0 before.
    static FIRST: [AtomicU64; SIGNALS.len()] = [const { AtomicU64::new(0) }; SIGNALS.len()];
    for (n, signal) in SIGNALS.into_iter().enumerate().filter(|&(_, signal)| is_heard(signal)) {
        let exit = move || {
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
                .map_or(1, |now| Duration::from(now).as_nanos() as u64);
            let first = FIRST[n].compare_exchange(0, now, SeqCst, SeqCst);
            let is_echo = first.is_err_and(|first| now.saturating_sub(first) < ECHO.as_nanos() as u64);
            let others = FIRST.iter().enumerate().any(|(other, at)| other != n && at.load(SeqCst) > 0);
            if signal != SIGHUP && (others || first.is_err() && !is_echo) {
                // SAFETY: _exit(2) is async-signal-safe (signal-safety(7)), and only ends the process.
                unsafe { libc::_exit(1) }
            }
        };
        // SAFETY: the handler touches atomics and makes two async-signal-safe calls.
        unsafe { low_level::register(signal, exit) }?;
    }
    Ok(())
}

/// The signals that tell the server to end, as a set.
fn ending_signals() -> SigSet {
    SIGNALS.into_iter().filter_map(|signal| Signal::try_from(signal).ok()).collect()
}

/// Signals that mean nothing to a server, and whose default action is to end it.
const UNUSED: &[i32] = &[
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGXCPU,
    libc::SIGXFSZ, // a write beyond RLIMIT_FSIZE reports EFBIG then
    #[cfg(target_os = "linux")]
    libc::SIGIO,
    #[cfg(target_os = "linux")]
    libc::SIGPWR,
    #[cfg(target_os = "linux")]
    libc::SIGSTKFLT,
];

/// Ignores the signals that mean nothing to a server; its children inherit that (signal(7)). Those that are used get
/// their handlers later. SIGXCPU warns of a limit that the kernel enforces by itself.
pub fn ignore_unused_signals() {
    UNUSED.iter().copied().for_each(ignore);
    #[cfg(target_os = "linux")]
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).for_each(ignore);
}

#[allow(unsafe_code)]
fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is no handler, so nothing of ours can be called at a bad time.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Whether this server hears one of [`SIGNALS`]. nohup(1) starts it with SIGHUP ignored, so that it outlives its terminal;
/// then that stays so. (A shell without job control ignores SIGINT and SIGQUIT for what it starts in the background;
/// who sends them there means this server.)
pub fn is_heard(signal: i32) -> bool {
    signal != SIGHUP || !is_ignored(signal)
}

#[allow(unsafe_code)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zero bytes are a sigaction: no handler, no flags, an empty set.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: sigaction(2) only writes what is set now into `action`, which is ours.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// SIGUSR1, whose default action is to end the process, says `line` on stderr instead.
///
/// # Errors
/// Where the kernel refuses the handler.
#[allow(unsafe_code)]
pub fn answer_sigusr1(line: &'static str) -> io::Result<()> {
    let answer = move || {
        // SAFETY: write(2) is async-signal-safe (signal-safety(7)), and reads no more than the text; errno is kept by
        // signal-hook.
        unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
    };
    // SAFETY: the handler makes one async-signal-safe call.
    unsafe { low_level::register(SIGUSR1, answer) }?;
    Ok(())
}

/// Rust gives each thread a stack of its own for the handler that explains a stack overflow: seven system calls a
/// thread, a tenth of what a connection costs that gets one. It does so only where SIGSEGV and SIGBUS have their
/// default action when the program starts; so they do not, until `main` calls [`default_faults`].
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod faults {
    use super::libc;

    // SAFETY: the loader calls what stands in this section once, before `main`; signal(2) needs nothing that is
    // set up later.
    #[unsafe(link_section = ".init_array")]
    #[used]
    static IGNORED: extern "C" fn() = ignored;

    extern "C" fn ignored() {
        set(libc::SIG_IGN);
    }

    pub fn set(action: libc::sighandler_t) {
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            // SAFETY: neither of the two actions is a handler of ours, so nothing of ours can be called at a bad time.
            unsafe { libc::signal(signal, action) };
        }
    }
}

/// A fault of this program's ends it from now on, as is usual.
pub fn default_faults() {
    #[cfg(target_os = "linux")]
    faults::set(libc::SIG_DFL);
}

#[allow(unsafe_code)]
fn hang_up_on_sigusr2(drain_is_over: Arc<Shared<AtomicU64>>) -> io::Result<SigId> {
    let hang_up = move || {
        if drain_is_over[0].load(SeqCst) == 0 {
            return; // it was not the parent
        }
        OVER.store(true, SeqCst);
        // SAFETY: shutdown(2) is async-signal-safe (signal-safety(7)); -1 is refused with EBADF. `CLIENT` is
        // cleared before its socket is closed, so the number is never another file's.
        unsafe { libc::shutdown(CLIENT.load(SeqCst), libc::SHUT_RD) };
    };
    // SAFETY: the handler touches three atomics and makes one async-signal-safe call; errno is kept by
    // signal-hook.
    unsafe { low_level::register(SIGUSR2, hang_up) }
}
