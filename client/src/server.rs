//! A server that is compared or examined: started as anybody would start it, and stopped.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
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
    unistd::Pid,
};
use procfs::net::TcpState;
use serde_json::Value;

use crate::{cost, listener};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(10);
/// How long it may take until a killed process is gone.
const GONE: Duration = Duration::from_secs(2);
/// How long a server may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(7);

/// A server that runs. Dropping it kills it, and all that it started; but not one that was there before.
pub struct Server {
    /// Our child, unless it was there before.
    child: Option<Child>,
    lines: Option<Receiver<String>>,
    /// What it is asked over.
    pub transport: Transport,
    /// Where it listens.
    pub address: SocketAddr,
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
        let mut running = groups(); // held until the new one is among them: see kill_all
        let mut child = command.process_group(0).stdin(Stdio::null()).spawn()?;
        running.insert(child.id().cast_signed());
        drop(running);
        let lines = child.stdout.take().map(|stdout| {
            let (line, lines) = mpsc::channel();
            thread::spawn(move || {
                BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|text| line.send(text))
            });
            lines
        });
        Ok(Self { child: Some(child), lines, transport, address: (Ipv4Addr::LOCALHOST, 0).into() })
    }

    /// One that runs already, at an address.
    pub fn that_runs(transport: Transport, address: SocketAddr) -> Self {
        Self { child: None, lines: None, transport, address }
    }

    /// Its process; of one that was there before, nobody knows it.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it has ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// What it says of its troubles, where that is a pipe; once.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.as_mut().and_then(|child| child.stderr.take())
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
            if let Some(status) = self.ended() {
                return Err(format!("it ended before it listened: {status}"));
            }
            if is_bound(self.transport, port) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(format!("it does not listen on port {port}"))
    }

    /// Ends it with SIGTERM; returns its final figures, where it prints such.
    pub fn stop(mut self) -> Option<Value> {
        let child = self.child.as_mut()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + STOP;
        let mut last = None;
        if let Some(lines) = &self.lines {
            // Ends when the last process that holds its stdout has ended.
            while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                last = Some(line);
            }
        }
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        serde_json::from_str(&last?).ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let group = child.id().cast_signed();
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        // Whom we may not kill, since it became another user (sudo), is not waited for.
        if kill(Pid::from_raw(group), Signal::SIGKILL) != Err(nix::Error::EPERM) {
            let _ = child.wait();
        }
        groups().remove(&group);
    }
}

/// Whether somebody on this machine listens on a port, or has a socket of datagrams there.
pub fn is_bound(transport: Transport, port: u16) -> bool {
    !sockets_at(transport, port).is_empty()
}

/// The sockets on this machine that listen on a port, or take datagrams there, by their inodes.
pub fn sockets_at(transport: Transport, port: u16) -> BTreeSet<u64> {
    match transport {
        // Of those who listen the kernel tells apart: /proc/net/tcp has a line for every connection that has ended lately.
        Transport::Tcp => listener::inodes(port).unwrap_or_else(|| {
            let lists = [procfs::net::tcp(), procfs::net::tcp6()];
            let listening = lists.into_iter().flatten().flatten().filter(|it| it.state == TcpState::Listen);
            listening.filter(|it| it.local_address.port() == port).map(|it| it.inode).collect()
        }),
        Transport::Udp => {
            let lists = [procfs::net::udp(), procfs::net::udp6()];
            let bound = lists.into_iter().flatten().flatten();
            bound.filter(|it| it.local_address.port() == port).map(|it| it.inode).collect()
        }
    }
}

/// The process groups of the servers that run.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every server that runs, and all that they started: the last act of an impatient end. None can be started
/// any more, for the lock is kept.
pub fn kill_all() {
    let running = groups();
    for &group in running.iter() {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    std::mem::forget(running);
}

/// Ends all that descends from this process, unless a server of ours runs: what a server left behind that had left its
/// process group, and what was killed with that and has not gone yet. They come to us where we are their subreaper
/// (prctl(2)). Who is gone no longer has a port, nor a place among its user's processes.
pub fn end_orphans() {
    let running = groups();
    if !running.is_empty() {
        return;
    }
    let deadline = Instant::now() + GONE;
    let ends = |pid: &u32| kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).is_ok();
    while cost::pids(std::process::id()).iter().skip(1).filter(|pid| ends(pid)).count() > 0 {
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status != WaitStatus::StillAlive) {
        }
        if Instant::now() > deadline {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}
