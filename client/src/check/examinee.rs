//! The server that is examined, and what /proc tells of it (proc(5)).

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::Read,
    net::SocketAddr,
    process::ChildStderr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use arguments::{Endpoint, Transport};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::{ProcState, Process};

use super::{
    exam::{Exam, Stop},
    target::is_heard_of,
    words::{Words, words},
};
use crate::{
    cost::{self, Cost, Demand},
    listener,
    server::{Server, sockets_at},
};

/// Whom a server runs as, under which limits, and behind what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// The most descriptors that one of its processes may have (RLIMIT_NOFILE).
    pub descriptors: Option<u64>,
    /// The most processes and threads that its user may have (RLIMIT_NPROC); root is exempt.
    pub processes: Option<u64>,
    /// The most memory that one of its processes may map, in bytes (RLIMIT_AS).
    pub memory: Option<u64>,
    /// The user and the group that it runs as, by number.
    pub user: Option<(u32, u32)>,
    /// A program that starts it, with its words: `strace …`.
    pub behind: Vec<String>,
}

impl Confinement {
    /// This, and for the rest that.
    pub fn over(&self, usual: &Self) -> Self {
        Self {
            descriptors: self.descriptors.or(usual.descriptors),
            processes: self.processes.or(usual.processes),
            memory: self.memory.or(usual.memory),
            user: self.user.or(usual.user),
            behind: if self.behind.is_empty() { usual.behind.clone() } else { self.behind.clone() },
        }
    }

    /// As `confined` takes it.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let limits =
            [("--descriptors", self.descriptors), ("--processes", self.processes), ("--memory", self.memory)];
        for (name, limit) in limits {
            options.extend(limit.map(|limit| format!("{name}={limit}")));
        }
        options.extend(self.user.map(|(user, group)| format!("--user={user}:{group}")));
        options.extend(self.behind.iter().map(|word| format!("--behind={word}")));
        options
    }
}

/// The server. Dropping it ends it, with all that it started, if we started it.
pub struct Examinee<'e> {
    exam: &'e Exam<'e>,
    server: RefCell<Option<Server>>,
    /// The first process of all that were started: itself, or a shell that has started it.
    root: Cell<Option<u32>>,
    pid: Cell<Option<u32>>,
    endpoints: Vec<Endpoint>,
    tail: Option<Tail>,
    may_end: Cell<bool>,
}

impl<'e> Examinee<'e> {
    /// One that we have started.
    pub fn started(exam: &'e Exam<'e>, server: Server, tail: Option<Tail>, endpoints: Vec<Endpoint>) -> Self {
        let (server, root, pid) = (Some(server).into(), Cell::default(), Cell::default());
        let started = Self { exam, server, root, pid, endpoints, tail, may_end: Cell::default() };
        let _ = started.root(); // now that it lives
        started
    }

    /// One that runs, perhaps with a process that is known.
    pub fn that_runs(exam: &'e Exam<'e>, pid: Option<u32>, endpoints: Vec<Endpoint>) -> Self {
        let (root, tail) = (pid.into(), None);
        Self { exam, server: None.into(), root, pid: pid.into(), endpoints, tail, may_end: Cell::default() }
    }

    /// Where it listens: the first address, of those that are told the first where somebody does.
    ///
    /// # Errors
    /// Where it does not, over this.
    pub fn address(&self, transport: Transport) -> Result<SocketAddr, Stop> {
        let told = self.addresses(transport);
        let listens = |address: &&SocketAddr| {
            transport == Transport::Udp || !address.ip().is_loopback() || listener::takes(**address)
        };
        let first = told.iter().find(listens).or(told.first()).copied();
        first.ok_or_else(|| Stop::Harness(format!("there is no endpoint of {transport}")))
    }

    /// Where it listens: an address of each family, where both were told.
    pub fn addresses(&self, transport: Transport) -> Vec<SocketAddr> {
        let address = |endpoint: &Endpoint| match (endpoint, transport) {
            (Endpoint::Tcp(address), Transport::Tcp) | (Endpoint::Udp(address), Transport::Udp) => {
                Some(*address)
            }
            _ => None,
        };
        self.endpoints.iter().filter_map(address).collect()
    }

    /// Its process, the first of those that are the server: see [`who_listens`].
    ///
    /// # Errors
    /// [`Stop::Skip`] where it is not known.
    pub fn pid(&self) -> Result<u32, Stop> {
        self.root()?;
        self.pid.get().ok_or(NOT_KNOWN)
    }

    /// Another than before, where the server has put itself into the background meanwhile.
    fn root(&self) -> Result<u32, Stop> {
        let root =
            self.server.borrow().as_ref().and_then(Server::pid).or(self.root.get()).ok_or(NOT_KNOWN)?;
        if self.root.replace(Some(root)) != Some(root) {
            let port = self.endpoints.iter().find(|it| it.transport() == Transport::Tcp).map(Endpoint::port);
            self.pid.set(Some(port.map_or(root, |port| who_listens(root, port))));
        }
        Ok(root)
    }

    /// All its processes, the first of them first, and before that what has started it.
    ///
    /// # Errors
    /// [`Stop::Skip`] where they are not known.
    pub fn pids(&self) -> Result<Vec<u32>, Stop> {
        Ok(cost::pids(self.root()?))
    }

    /// What they have used by now, and hold.
    ///
    /// # Errors
    /// As [`Examinee::pids`].
    pub fn cost(&self) -> Result<Cost, Stop> {
        Ok(Cost::of_tree(self.root()?).unwrap_or_default())
    }

    /// What they want of processors, by now.
    ///
    /// # Errors
    /// As [`Examinee::pids`].
    pub fn demand(&self) -> Result<Demand, Stop> {
        Ok(Demand::of_tree(self.root()?))
    }

    /// Each of its processes, by its number, whether it runs or has ended and was not reaped.
    ///
    /// # Errors
    /// As [`Examinee::pids`].
    pub fn processes(&self) -> Result<BTreeMap<u32, ProcState>, Stop> {
        let state = |process: Process| Some((process.pid.cast_unsigned(), cost::state(&process).ok()?));
        Ok(cost::tree(self.root()?).into_iter().filter_map(state).collect())
    }

    /// Those that have not ended.
    ///
    /// # Errors
    /// As [`Examinee::pids`].
    pub fn living(&self) -> Result<BTreeSet<u32>, Stop> {
        let lives = |(pid, state)| (!cost::has_ended(state)).then_some(pid);
        Ok(self.processes()?.into_iter().filter_map(lives).collect())
    }

    /// Sends a signal to each of its processes, the first of them first.
    ///
    /// # Errors
    /// [`Stop::Skip`] where they are not known, or not ours to signal.
    pub fn signal_all(&self, signal: Signal) -> Result<(), Stop> {
        self.pids()?.into_iter().try_for_each(|pid| send(signal, pid))
    }

    /// Sends a signal to each thread of each of its processes: the kernel wakes the one whose number is told, unless that
    /// blocks the signal.
    ///
    /// # Errors
    /// As [`Examinee::signal_all`].
    pub fn signal_threads(&self, signal: Signal) -> Result<(), Stop> {
        for process in cost::tree(self.root()?) {
            let threads = process.tasks().into_iter().flatten().flatten();
            threads.map(|thread| thread.tid.cast_unsigned()).try_for_each(|tid| send(signal, tid))?;
        }
        Ok(())
    }

    /// Stops all its processes (SIGSTOP), and waits until they have stopped.
    ///
    /// # Errors
    /// As [`Examinee::signal_all`].
    pub fn freeze(&self) -> Result<(), Stop> {
        let stands = |state: &ProcState| {
            !matches!(state, ProcState::Running | ProcState::Sleeping | ProcState::Waiting)
        };
        self.signal_all(Signal::SIGSTOP)?;
        // One that was being forked meanwhile has not been told.
        let all_stand = || {
            let _ = self.signal_all(Signal::SIGSTOP);
            self.processes().is_ok_and(|all| all.values().all(stands)).then_some(())
        };
        if self.exam.within(Duration::from_secs(1), all_stand).is_none() {
            self.thaw()?;
            return Err(Stop::Harness("SIGSTOP does not stop the server".into()));
        }
        Ok(())
    }

    /// Lets them go on (SIGCONT).
    ///
    /// # Errors
    /// As [`Examinee::signal_all`].
    pub fn thaw(&self) -> Result<(), Stop> {
        self.signal_all(Signal::SIGCONT)
    }

    /// Sends a signal to its first process.
    ///
    /// # Errors
    /// Where that is not known, or not ours to signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Stop> {
        let pid = Pid::from_raw(self.pid()?.cast_signed());
        kill(pid, signal).map_err(|error| Stop::Harness(format!("kill {pid}: {error}")))
    }

    /// From here on it may end: that is what the check asks of it.
    pub fn may_end(&self) {
        self.may_end.set(true);
    }

    /// How it ended, if we started it and it has.
    pub fn ended(&self) -> Option<std::process::ExitStatus> {
        self.server.borrow().as_ref().and_then(Server::ended)
    }

    /// How it died: as far as that can be seen from here. `None` while it lives.
    pub fn death(&self) -> Option<Words> {
        // How it ended is known once it has, so that is asked last.
        let pid = self.pid().ok();
        let is_gone = pid.is_some_and(|pid| !cost::lives(pid));
        if let Some(status) = self.ended() {
            let Words { en, zh } = Words::of_end(status);
            return Some(words!("the server died: {en}", "服务器死了：{zh}"));
        }
        if let Some(pid) = pid {
            return is_gone.then(|| words!("process {pid} is gone", "进程 {pid} 已经不在了"));
        }
        let gone = self.endpoints.iter().find(|endpoint| is_heard_of(endpoint) == Some(false))?;
        Some(words!("nobody listens on {gone} any more", "{gone} 上已经没有进程在监听"))
    }
}

impl Drop for Examinee<'_> {
    fn drop(&mut self) {
        if !self.may_end.get() {
            self.exam.look_for_death(|| self.death());
        }
        drop(self.server.take());
        if let Some(said) = self.tail.as_ref().map(Tail::text).filter(|said| !said.is_empty()) {
            self.exam.saw("stderr", said);
        }
    }
}

fn send(signal: Signal, pid: u32) -> Result<(), Stop> {
    // Who has ended meanwhile needs no signal.
    if kill(Pid::from_raw(pid.cast_signed()), signal) == Err(nix::Error::EPERM) {
        return Err(Stop::Skip(words!(
            "process {pid} is another user's: it may not be signalled",
            "进程 {pid} 属于其他用户，无权向它发送信号"
        )));
    }
    Ok(())
}

const NOT_KNOWN: Stop = Stop::Skip(Words::of("the server's process is not known", "不知道服务器的进程"));

/// Which of the processes that were started as `root` is the server, where it listens on this port: the first that
/// listens, or is of the same program as those that do. A shell, `timeout` or `go run` has only started it.
fn who_listens(root: u32, port: u16) -> u32 {
    let started = cost::tree(root);
    if started.len() < 2 {
        return root;
    }
    let held = cost::sockets(root);
    let listening: BTreeSet<u32> = sockets_at(Transport::Tcp, port)
        .iter()
        .filter_map(|inode| held.get(inode))
        .flatten()
        .copied()
        .collect();
    let listening: Vec<&Process> =
        started.iter().filter(|it| listening.contains(&it.pid.cast_unsigned())).collect();
    let program = |process: &Process| Some((process.exe().ok()?, process.cmdline().ok()?));
    let is_server = |process: &&Process| {
        let is_same = |it: &&Process| it.pid == process.pid || program(it) == program(process);
        listening.iter().any(is_same)
    };
    // Those that all who listen descend from, the first of them first.
    let has_all = |process: &&Process| {
        let pids = cost::pids(process.pid.cast_unsigned());
        listening.iter().all(|it| pids.contains(&it.pid.cast_unsigned()))
    };
    let ancestors: Vec<&Process> = started.iter().filter(has_all).collect();
    let found = ancestors.iter().copied().find(is_server).or(ancestors.last().copied());
    found.filter(|_| !listening.is_empty()).map_or(root, |process| process.pid.cast_unsigned())
}

/// The last of what a server says on its stderr: much may come, and none of it may stop the server.
pub struct Tail {
    kept: Arc<Mutex<VecDeque<u8>>>,
    reader: JoinHandle<()>,
}

impl Tail {
    /// How many bytes are kept.
    const LENGTH: usize = 2000;

    /// Reads until the last process that has it open is gone.
    pub fn of(mut stderr: ChildStderr) -> Self {
        let kept = Arc::new(Mutex::new(VecDeque::new()));
        let keeper = Arc::clone(&kept);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut buffer) {
                let mut kept = keeper.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&buffer[..n]);
                let surplus = kept.len().saturating_sub(Self::LENGTH);
                kept.drain(..surplus);
            }
        });
        Self { kept, reader }
    }

    /// All that is kept.
    pub fn text(&self) -> String {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(kept.make_contiguous()).trim().to_owned()
    }

    /// Whether the last process that had it open is gone, and all is kept that was to be.
    pub fn is_complete(&self) -> bool {
        self.reader.is_finished()
    }
}
