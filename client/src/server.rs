//! A server that is compared or examined: started as anybody would start it, and stopped.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use arguments::{Endpoint, Transport};
use nix::{
    sys::{
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpgid},
};
use serde_json::Value;

use crate::{
    background,
    cgroup::{self, Cgroup},
    cost::{self, Cost, CpuFrom},
    listener::{self, StateFlags},
};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(10);
/// How long a server may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(7);

/// A server that runs. Dropping it kills it, and all that it started; but not one that was there before.
pub struct Server {
    /// Its first process, unless it was there before.
    process: Option<RefCell<Process>>,
    lines: Option<Receiver<String>>,
    /// What it is asked over.
    pub transport: Transport,
    /// Where it listens.
    pub address: SocketAddr,
    /// What tells its CPU time exactly, where it is asked for and may be had. Removed after it has ended.
    cgroup: Option<Cgroup>,
}

impl Server {
    /// What a client connects to.
    pub fn endpoint(&self) -> Endpoint {
        match self.transport {
            Transport::Tcp => Endpoint::Tcp(self.address),
            Transport::Udp => Endpoint::Udp(self.address),
        }
    }

    /// Starts it, in a process group of its own: ^C in the terminal is ours, and all that it starts can be ended.
    ///
    /// # Errors
    /// Where there is no such program, or the system refuses a process.
    pub fn spawn(command: &mut Command, transport: Transport) -> io::Result<Self> {
        Self::spawn_in(None, command, transport)
    }

    /// Starts it in a control group, where one may be made: what it uses is told exactly.
    ///
    /// # Errors
    /// As [`Self::spawn`].
    pub fn spawn_with_an_account(command: &mut Command, transport: Transport) -> io::Result<Self> {
        let group = Cgroup::new().filter(|group| group.enclose(command).is_ok());
        Self::spawn_in(group, command, transport)
    }

    fn spawn_in(group: Option<Cgroup>, command: &mut Command, transport: Transport) -> io::Result<Self> {
        let mut running = running(); // held until the new one is among them: see kill_all
        background::follow(command)?;
        let mut child = command.process_group(0).stdin(Stdio::null()).spawn()?;
        running.insert(child.id());
        drop(running);
        let lines = child.stdout.take().map(|stdout| {
            let (line, lines) = mpsc::channel();
            thread::spawn(move || {
                BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|text| line.send(text))
            });
            lines
        });
        let cgroup = group.filter(|group| group.holds(child.id()));
        let process = Some(RefCell::new(Process::Started(child)));
        Ok(Self { process, lines, transport, address: (Ipv4Addr::LOCALHOST, 0).into(), cgroup })
    }

    /// One that runs already, at an address.
    pub fn that_runs(transport: Transport, address: SocketAddr) -> Self {
        Self { process: None, lines: None, transport, address, cgroup: None }
    }

    /// Who tells its CPU time.
    pub fn cpu_from(&self) -> CpuFrom {
        if self.cgroup.is_some() { CpuFrom::Cgroup } else { CpuFrom::Proc }
    }

    /// The CPU time that it, and all that it has started, has used by now.
    pub fn cpu(&self) -> Option<Duration> {
        match &self.cgroup {
            Some(group) => group.cpu(),
            None => self.pid().and_then(Cost::cpu_of_tree),
        }
    }

    /// All that it has used by now, and holds.
    pub fn cost(&self) -> Option<Cost> {
        let cost = Cost::of_tree(self.pid()?)?;
        Some(Cost { cpu: self.cpu()?, ..cost })
    }

    /// Waits until it rests: it has then taken in those who came last. Not for longer than a second.
    pub fn await_rest(&self) {
        cost::await_rest(|| self.cpu());
    }

    /// Whether the kernel has forgotten what its ended children have used.
    pub fn forgets_children(&self) -> bool {
        self.cpu_from() == CpuFrom::Proc && self.pid().is_some_and(Cost::forgets_children)
    }

    /// Its first process; of one that was there before, nobody knows it.
    pub fn pid(&self) -> Option<u32> {
        self.follow(background::is_in_another_session);
        self.process.as_ref().map(|process| process.borrow().id())
    }

    /// How it has ended; `None` while it runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.follow(background::is_in_another_session);
        self.process.as_ref()?.borrow_mut().try_wait()
    }

    /// How it has ended before it listened; `None` while it, or what it has put into the background, may still come to that.
    pub fn gave_up(&self) -> Option<ExitStatus> {
        self.follow(|_| true);
        let may_listen = |status: ExitStatus| status.success() && !background::orphans(&running()).is_empty();
        self.ended().filter(|status| !may_listen(*status))
    }

    /// A server whose first process has ended in order has put itself into the background, where another of its processes
    /// listens: that is the first one now. Once it has come up, only a daemon may be that: a pool of which the parent
    /// ended has not put itself anywhere.
    fn follow(&self, may_be: fn(u32) -> bool) {
        let Some(mut process) = self.process.as_ref().map(RefCell::borrow_mut) else { return };
        while process.try_wait().is_some_and(|status| status.success()) {
            let mut running = running();
            let listening = sockets_at(self.transport, self.address.port());
            let listens = |pid: &u32| cost::sockets(*pid).keys().any(|socket| listening.contains(socket));
            let mut orphans = background::orphans(&running).into_iter().filter(|pid| may_be(*pid));
            let Some(pid) = orphans.find(listens) else { return };
            running.remove(&process.id());
            running.insert(pid);
            *process = Process::Adopted(pid, None);
        }
    }

    /// What it says of its troubles, where that is a pipe; once.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        match self.process.as_mut()?.get_mut() {
            Process::Started(child) => child.stderr.take(),
            Process::Adopted(..) => None,
        }
    }

    /// Our server's first line says where it listens.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn announces_itself(&mut self) -> Result<(), String> {
        let line = self.lines.as_ref().and_then(|lines| lines.recv_timeout(START).ok());
        let line = line.ok_or("it did not say that it listens")?;
        let said: Value = serde_json::from_str(&line).map_err(|error| format!("{line}: {error}"))?;
        match (said["endpoint"].as_str().unwrap_or_default().parse()?, self.transport) {
            (Endpoint::Tcp(address), Transport::Tcp) | (Endpoint::Udp(address), Transport::Udp) => {
                self.address = address;
                Ok(())
            }
            (other, _) => Err(format!("it listens on {other}")),
        }
    }

    /// Anybody else's shows in /proc/net/tcp or udp. A connection to try it would be its first client, and of a
    /// datagram nobody knows whether it is still to be answered.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn listens_on(&mut self, port: u16) -> Result<(), String> {
        self.address = (Ipv4Addr::LOCALHOST, port).into();
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            let is_bound = is_bound(self.transport, port);
            if let Some(status) = self.gave_up() {
                return Err(format!("it ended before it listened: {status}"));
            }
            if is_bound {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(format!("it does not listen on port {port}"))
    }

    /// Ends it with SIGTERM; returns its final figures, where it prints such.
    pub fn stop(self) -> Option<Value> {
        let _ = kill(pid_of(self.pid()?), Signal::SIGTERM);
        let deadline = Instant::now() + STOP;
        let mut last = None;
        if let Some(lines) = &self.lines {
            // Ends when the last process that holds its stdout has ended.
            while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                last = Some(line);
            }
        }
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        serde_json::from_str(&last?).ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(pid) = self.pid() else { return };
        let Some(process) = self.process.as_mut().map(RefCell::get_mut) else { return };
        let group = getpgid(Some(pid_of(pid)));
        // Once it is reaped, its number may be another's.
        if process.try_wait().is_none() {
            let _ = group.map(|group| killpg(group, Signal::SIGKILL));
            // Whom we may not kill, since it became another user (sudo), is not waited for.
            if kill(pid_of(pid), Signal::SIGKILL) != Err(nix::Error::EPERM) {
                process.wait();
            }
        }
        let mut running = running();
        running.remove(&pid);
        if running.is_empty() {
            let group = group.map_or(pid.cast_signed(), Pid::as_raw);
            let left = background::end().into_iter().filter(|(_, its_group)| *its_group != group);
            say_what_was_left(left.map(|(name, _)| name).collect());
        }
    }
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

/// A server's first process: one that we have started, or one whose parent has ended, and how it has if it has.
enum Process {
    Started(Child),
    Adopted(u32, Option<ExitStatus>),
}

impl Process {
    fn id(&self) -> u32 {
        match self {
            Self::Started(child) => child.id(),
            Self::Adopted(pid, _) => *pid,
        }
    }

    /// How it has ended; `None` while it runs.
    fn try_wait(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Started(child) => child.try_wait().ok().flatten(),
            Self::Adopted(pid, ended) => {
                *ended = ended.or_else(|| wait_for(*pid, WaitPidFlag::WNOHANG));
                *ended
            }
        }
    }

    fn wait(&mut self) {
        match self {
            Self::Started(child) => drop(child.wait()),
            Self::Adopted(pid, ended) => *ended = ended.or_else(|| wait_for(*pid, WaitPidFlag::empty())),
        }
    }
}

/// How a child has ended (wait(2)).
fn wait_for(pid: u32, how: WaitPidFlag) -> Option<ExitStatus> {
    match waitpid(pid_of(pid), Some(how)) {
        Ok(WaitStatus::Exited(_, status)) => Some(ExitStatus::from_raw(status << 8)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(ExitStatus::from_raw(signal as i32)),
        _ => None,
    }
}

/// The first time a line for the user, later for the log alone: each cell and each check has a server.
fn say_what_was_left(names: Vec<String>) {
    static WAS_SAID: AtomicBool = AtomicBool::new(false);
    if names.is_empty() {
        return;
    }
    let level = if WAS_SAID.swap(true, Relaxed) { log::Level::Info } else { log::Level::Warn };
    log::log!(level, "a server left processes in the background, which were ended: {}", names.join(", "));
}

/// Whether somebody on this machine listens on a port, or has a socket of datagrams there.
pub fn is_bound(transport: Transport, port: u16) -> bool {
    !sockets_at(transport, port).is_empty()
}

/// The sockets on this machine that listen on a port, or take datagrams there, by their inodes.
pub fn sockets_at(transport: Transport, port: u16) -> BTreeSet<u64> {
    match transport {
        Transport::Tcp => listener::ends(port, &StateFlags::LISTEN).iter().map(|it| it.inode).collect(),
        Transport::Udp => {
            let lists = [procfs::net::udp(), procfs::net::udp6()];
            let bound = lists.into_iter().flatten().flatten();
            bound.filter(|it| it.local_address.port() == port).map(|it| it.inode).collect()
        }
    }
}

/// The first processes of the servers that run.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every server that runs, and all that they started: the last act of an impatient end. None can be started
/// any more, for the lock is kept.
pub fn kill_all() {
    let running = running();
    let _ = background::end();
    cgroup::end();
    std::mem::forget(running);
}
