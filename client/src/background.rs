//! What servers put into the background: daemons, and whatever has left its server's process group.
//!
//! This process is the subreaper of all that it starts (PR_SET_CHILD_SUBREAPER, prctl(2)): a process whose parent has
//! ended becomes its child, however often it forked and whichever session it is in. So nothing that a server started is out
//! of sight, and all of it can be ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io,
    process::{self, Command},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{Pid, getsid},
};
use procfs::process::Process;

use crate::cost;

/// How long it may take until a killed process is gone.
const GONE: Duration = Duration::from_secs(2);

/// Stands in the environment of all that is started here: the pid of this process.
const MARK: &str = "ECHO_CLIENT_PID";

/// Whether this process had children when it began, as one has that a shell became by exec(2). Their orphans come to us
/// too, so there only what has the mark is ours.
static HAS_STRANGERS: OnceLock<bool> = OnceLock::new();

/// Has all that a command puts into the background come to this process.
///
/// # Errors
/// Where the system refuses it.
pub fn follow(command: &mut Command) -> io::Result<()> {
    if HAS_STRANGERS.get().is_none() {
        prctl::set_child_subreaper(true)?;
        // In a test of this program, other tests have children of their own; to process 1 come all orphans.
        HAS_STRANGERS
            .get_or_init(|| cfg!(test) || process::id() == 1 || !cost::children(process::id()).is_empty());
    }
    command.env(MARK, process::id().to_string());
    Ok(())
}

/// The children of this process that live and whose parents have ended: all but the `known` ones.
pub fn orphans(known: &BTreeSet<u32>) -> Vec<u32> {
    let children = cost::children(process::id()).into_iter();
    let processes = children.filter(|pid| !known.contains(pid) && cost::lives(*pid));
    let processes = processes.filter_map(|pid| Process::new(pid.cast_signed()).ok());
    processes.filter(is_ours).map(|process| process.pid.cast_unsigned()).collect()
}

/// Whether it is in another session than this process: a daemon makes itself one (setsid(2), daemon(3)).
pub fn is_in_another_session(pid: u32) -> bool {
    getsid(Some(Pid::from_raw(pid.cast_signed()))) != getsid(None)
}

/// Ends all that descends from this process, and waits until it is gone: who is gone no longer has a port, nor a place
/// among its user's processes. Returns their names, each with its process group.
pub fn end() -> Vec<(String, i32)> {
    let deadline = Instant::now() + GONE;
    let mut ended = BTreeMap::new();
    loop {
        cost::children(process::id()).into_iter().for_each(reap);
        let ours = cost::tree(process::id()).into_iter().skip(1).filter(is_ours);
        // Whom we may not kill, since it became another user (sudo), is not waited for.
        let killed: Vec<Process> =
            ours.filter(|it| kill(Pid::from_raw(it.pid), Signal::SIGKILL).is_ok()).collect();
        if killed.is_empty() || Instant::now() > deadline {
            return ended.into_values().collect();
        }
        for stat in killed.iter().filter_map(|process| process.stat().ok()) {
            ended.entry(stat.pid).or_insert_with(|| (format!("{} ({})", stat.comm, stat.pid), stat.pgrp));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// A child that has ended and is ours is left to nobody else.
fn reap(child: u32) {
    if Process::new(child.cast_signed()).is_ok_and(|process| is_ours(&process)) {
        let _ = waitpid(Pid::from_raw(child.cast_signed()), Some(WaitPidFlag::WNOHANG));
    }
}

fn is_ours(process: &Process) -> bool {
    let is_marked = || {
        let environment = process.environ().ok()?;
        Some(environment.get(OsStr::new(MARK))?.to_str()? == process::id().to_string())
    };
    HAS_STRANGERS.get() == Some(&false) || is_marked() == Some(true)
}
