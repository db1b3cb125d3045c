//! What a server uses, read from /proc (proc(5)): all its processes, those that it forked included.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::Signal,
    time::{ClockId, clock_getcpuclockid},
    unistd::Pid,
};
use procfs::{
    ProcError, ProcResult,
    process::{FDTarget, MemoryMap, ProcState, Process, Task},
};
use serde::{Deserialize, Serialize};

/// What a tree of processes has used by now, and holds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// CPU time, that of children which ended and were reaped included.
    pub cpu: Duration,
    /// Context switches because a thread waited.
    pub voluntary_switches: u64,
    /// Context switches because a thread was interrupted.
    pub involuntary_switches: u64,
    /// Page faults without the disk: a page's first touch, or its copy after a fork. Those of ended children included.
    pub minor_faults: u64,
    /// Page faults that read from the disk, likewise.
    pub major_faults: u64,
    /// Proportional set size without the pages of files: memory that is its own, shared pages divided among those who share
    /// them. `None` where a process may not be looked into.
    pub pss_bytes: Option<u64>,
    /// Processes.
    pub processes: usize,
    /// Threads over all of them.
    pub threads: usize,
    /// Descriptors, each as often as processes hold it. `None` where a process may not be looked into.
    pub descriptors: Option<usize>,
}

/// Who tells the CPU time of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuFrom {
    /// A control group of its own: all that ever ran in it, to the microsecond.
    Cgroup,
    /// The processes: each tells its own to the nanosecond, and that of its children which ended and were reaped in ticks of
    /// 10 ms.
    Proc,
}

impl Cost {
    /// What the process `root` and its descendants have used; `None` where there is no such process. One that ends
    /// meanwhile is left out.
    pub fn of_tree(root: u32) -> Option<Self> {
        let tree = tree(root);
        let mut cost = Self { descriptors: sum(&tree, Process::fd_count), ..Self::default() };
        for process in &tree {
            cost.cpu += cpu(process);
            cost.processes += 1;
            let _ = cost.add_faults(process);
            let _ = cost.add_threads(process);
        }
        (!tree.is_empty()).then_some(cost)
    }

    /// The CPU time alone.
    pub fn cpu_of_tree(root: u32) -> Option<Duration> {
        let tree = tree(root);
        (!tree.is_empty()).then(|| tree.iter().map(cpu).sum())
    }

    /// Waits until the tree rests: a server has then taken in those who came last. Not for longer than a second.
    pub fn await_rest(root: u32) {
        await_rest(|| Self::cpu_of_tree(root));
    }

    /// The memory that the tree holds now. Reading it takes the kernel some time, so it is asked for apart.
    pub fn pss_of_tree(root: u32) -> Option<u64> {
        sum(&tree(root), pss)
    }

    /// Whether the kernel forgets what the ended children of `root` have used: it does where SIGCHLD is ignored
    /// (wait(2)). Only who has children is asked.
    pub fn forgets_children(root: u32) -> bool {
        let tree = tree(root);
        let ignores = |process: &Process| process.status().is_ok_and(|s| s.sigign & SIGCHLD_BIT != 0);
        tree.len() > 1 && tree.first().is_some_and(ignores)
    }

    /// What was used from `before` to now; what is held, now.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            voluntary_switches: self.voluntary_switches.saturating_sub(before.voluntary_switches),
            involuntary_switches: self.involuntary_switches.saturating_sub(before.involuntary_switches),
            minor_faults: self.minor_faults.saturating_sub(before.minor_faults),
            major_faults: self.major_faults.saturating_sub(before.major_faults),
            ..self
        }
    }

    fn add_faults(&mut self, process: &Process) -> ProcResult<()> {
        let stat = process.stat()?;
        self.minor_faults += stat.minflt + stat.cminflt;
        self.major_faults += stat.majflt + stat.cmajflt;
        Ok(())
    }

    fn add_threads(&mut self, process: &Process) -> ProcResult<()> {
        for task in process.tasks()?.flatten() {
            self.threads += 1;
            let Ok(status) = task.status() else { continue };
            self.voluntary_switches += status.voluntary_ctxt_switches.unwrap_or(0);
            self.involuntary_switches += status.nonvoluntary_ctxt_switches.unwrap_or(0);
        }
        Ok(())
    }
}

/// A figure of all processes that have one: those that end meanwhile have none any more. `None` where one may not be
/// looked into, or where nobody tells it.
fn sum<N: std::iter::Sum>(tree: &[Process], figure: impl Fn(&Process) -> ProcResult<N>) -> Option<N> {
    let told = tree.iter().filter_map(|process| match figure(process) {
        Ok(told) => Some(Some(told)),
        Err(ProcError::PermissionDenied(_)) => Some(None),
        Err(_) => None,
    });
    let all: Option<Vec<N>> = told.collect();
    all.filter(|all| !all.is_empty()).map(|all| all.into_iter().sum())
}

/// How the threads of a tree of processes have spent their time by a moment.
pub struct Demand {
    at: Instant,
    threads: BTreeMap<i32, Spent>,
    /// CPU time of children that ended and were reaped.
    reaped: Duration,
}

/// The time of a thread: on a processor, and waiting for one (/proc/PID/task/TID/schedstat), where a wait is counted once
/// it is over.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    ran: Duration,
    waited: Duration,
    /// How often it has gone to sleep.
    sleeps: u64,
    /// Whether it is awake: it has a processor, or waits for one.
    is_awake: bool,
}

impl Demand {
    /// Of the process `root` and its descendants.
    pub fn of_tree(root: u32) -> Self {
        let processes = tree(root);
        let tasks = processes.iter().filter_map(|process| process.tasks().ok()).flatten().flatten();
        let threads = tasks.filter_map(|task| {
            let spent = task.schedstat().ok()?;
            let [ran, waited] = [spent.sum_exec_runtime, spent.run_delay].map(Duration::from_nanos);
            let sleeps = task.status().ok()?.voluntary_ctxt_switches.unwrap_or(0);
            let is_awake = task.stat().ok()?.state().ok()? == ProcState::Running;
            Some((task.tid, Spent { ran, waited, sleeps, is_awake }))
        });
        Self { at: Instant::now(), threads: threads.collect(), reaped: processes.iter().map(reaped).sum() }
    }

    /// How many processors they would have used since `before`, had each been theirs whenever they wanted it. Time in which
    /// a thread waited for a processor is no time of its own: so who spins is seen to on a machine that is busy, and who
    /// rests is not blamed for its neighbours.
    pub fn since(&self, before: &Self) -> f64 {
        let span = self.at.saturating_duration_since(before.at);
        let of_a_thread = |(tid, now): (&i32, &Spent)| {
            let then = before.threads.get(tid).copied().unwrap_or_default();
            let ran = now.ran.saturating_sub(then.ran);
            if then.is_awake && now.is_awake && now.sleeps == then.sleeps && !ran.is_zero() {
                return 1.0; // it never slept, however long it waits by now
            }
            let own = span.saturating_sub(now.waited.saturating_sub(then.waited));
            share(ran, own)
        };
        let of_threads: f64 = self.threads.iter().map(of_a_thread).sum();
        of_threads + share(self.reaped.saturating_sub(before.reaped), span)
    }
}

/// What part of a span was used; all of it at most.
fn share(used: Duration, span: Duration) -> f64 {
    if used.is_zero() { 0.0 } else { (used.as_secs_f64() / span.max(used).as_secs_f64()).min(1.0) }
}

/// Waits until somebody rests who tells the CPU time that was used by now. Not for longer than a second.
pub fn await_rest(cpu: impl Fn() -> Option<Duration>) {
    let Some(mut seen) = cpu() else { return };
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        thread::sleep(REST);
        let Some(now) = cpu() else { return };
        if now.saturating_sub(seen) < REST / 100 {
            return;
        }
        seen = now;
    }
}

/// Who uses less than a hundredth of this time rests.
const REST: Duration = Duration::from_millis(10);

/// SIGCHLD in a mask of signals, as /proc/PID/status has it.
const SIGCHLD_BIT: u64 = 1 << (Signal::SIGCHLD as u64 - 1);

/// The process `root` and all that descend from it, itself first.
pub fn pids(root: u32) -> Vec<u32> {
    tree(root).iter().map(|process| process.pid.cast_unsigned()).collect()
}

/// Whether there is such a process that has not ended; one that waits to be reaped has.
pub fn lives(pid: u32) -> bool {
    let state = Process::new(pid.cast_signed()).and_then(|process| state(&process));
    state.is_ok_and(|state| !has_ended(state))
}

/// What a process does. One whose first thread has ended (pthread_exit(3)) looks like a zombie while its other threads
/// run: then it does what one of those does.
///
/// # Errors
/// Where it is gone.
pub fn state(process: &Process) -> ProcResult<ProcState> {
    let stat = process.stat()?;
    let first = stat.state()?;
    if !has_ended(first) || stat.num_threads <= 1 {
        return Ok(first);
    }
    let mut others = process.tasks()?.flatten().filter_map(|task| task.stat().ok()?.state().ok());
    Ok(others.find(|state| !has_ended(*state)).unwrap_or(first))
}

/// Whether that is the state of one that has ended, reaped or not.
pub fn has_ended(state: ProcState) -> bool {
    matches!(state, ProcState::Zombie | ProcState::Dead)
}

/// What a thread that lives has: descriptors, memory, a program. Where the first one has ended, /proc/PID has none of it.
pub fn of_the_living(process: Process) -> Process {
    if process.stat().and_then(|stat| stat.state()).is_ok_and(|state| !has_ended(state)) {
        return process;
    }
    let lives = |task: &Task| task.stat().and_then(|stat| stat.state()).is_ok_and(|state| !has_ended(state));
    let thread = process.tasks().into_iter().flatten().flatten().find(lives);
    let as_it_sees_it = |thread: Task| {
        let folder = format!("/proc/{}/task/{}", process.pid, thread.tid);
        Process::new_with_root(folder.into()).ok()
    };
    thread.and_then(as_it_sees_it).unwrap_or(process)
}

/// Which processes of a tree have each socket, by its inode (proc_pid_fd(5)); those that may be looked into.
pub fn sockets(root: u32) -> BTreeMap<u64, BTreeSet<u32>> {
    let mut held: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    for process in tree(root) {
        let pid = process.pid.cast_unsigned();
        for fd in of_the_living(process).fd().into_iter().flatten().flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                held.entry(inode).or_default().insert(pid);
            }
        }
    }
    held
}

/// Those that a process has started, whichever of its threads did, and that it has not reaped.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = Process::new(pid.cast_signed()).and_then(|process| process.tasks());
    let of_a_task = |task: Task| task.children().unwrap_or_default();
    tasks.into_iter().flatten().flatten().flat_map(of_a_task).collect()
}

/// A process and all that descend from it, itself first.
pub fn tree(root: u32) -> Vec<Process> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut to_look_at = vec![root];
    while let Some(pid) = to_look_at.pop() {
        let Ok(process) = Process::new(pid.cast_signed()) else { continue };
        if !seen.insert(pid) {
            continue;
        }
        to_look_at.extend(children(pid));
        found.push(process);
    }
    found
}

/// The CPU time of a process, and of its children that ended and were reaped. Its own clock counts in
/// nanoseconds, /proc/PID/stat in ticks of 10 ms.
fn cpu(process: &Process) -> Duration {
    let own = clock_getcpuclockid(Pid::from_raw(process.pid)).and_then(ClockId::now);
    own.map_or(Duration::ZERO, Duration::from) + reaped(process)
}

/// That of the children of a process which ended and were reaped.
fn reaped(process: &Process) -> Duration {
    let ticks = process.stat().map_or(0, |stat| stat.cutime + stat.cstime).max(0) as f64;
    Duration::from_secs_f64(ticks / procfs::ticks_per_second() as f64)
}

/// The memory that is its own, and its share of what it shares with its relatives: PSS without the pages of files, of which a server
/// has fewer the more others of its program are up. All of its PSS, where the kernel does not tell them apart (before Linux 5.3).
fn pss(process: &Process) -> ProcResult<u64> {
    let rollup = process.smaps_rollup()?;
    let of = |map: &MemoryMap| {
        let told = |name: &str| map.extension.map.get(name).copied();
        told("Pss_Anon").zip(told("Pss_Shmem")).map(|(own, shared)| own + shared).or(told("Pss"))
    };
    Ok(rollup.memory_map_rollup.into_iter().filter_map(|map| of(&map)).sum())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        process::{Command, Stdio},
    };

    use nix::sys::signal::kill;

    use super::*;

    #[test]
    fn this_process_uses_cpu_time_memory_and_a_thread() {
        let before = Cost::of_tree(std::process::id()).unwrap();
        let mut sum = 0u64;
        while Cost::of_tree(std::process::id()).unwrap().cpu < before.cpu + Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(before.processes >= 1 && before.threads >= 1);
        assert!(Cost::pss_of_tree(std::process::id()) > Some(100_000));
    }

    #[test]
    fn nobody_costs_nothing_that_is_known() {
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        assert!(Cost::of_tree(gone.id()).is_none() && Cost::cpu_of_tree(gone.id()).is_none());
        assert!(Cost::pss_of_tree(gone.id()).is_none());
    }

    #[test]
    fn who_spins_is_told_from_who_rests_also_where_a_processor_is_waited_for() {
        let [spinners, sleeper] = [vec![0; 4], vec![1]].map(|scripts| {
            let start = |n: &i32| {
                Command::new("sh").args(["-c", ["while :; do :; done", "sleep 9"][*n as usize]]).spawn()
            };
            scripts.iter().map(start).collect::<Result<Vec<_>, _>>().unwrap()
        });
        let demands =
            || spinners.iter().chain(&sleeper).map(|it| Demand::of_tree(it.id())).collect::<Vec<_>>();
        let before = demands();
        thread::sleep(Duration::from_millis(300));
        let shares: Vec<f64> = demands().iter().zip(&before).map(|(now, then)| now.since(then)).collect();
        for mut child in spinners.into_iter().chain(sleeper) {
            for process in tree(child.id()) {
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
            child.wait().unwrap();
        }
        assert!(shares[..4].iter().all(|share| *share > 0.5) && shares[4] < 0.05, "{shares:?}");
    }

    #[test]
    fn who_runs_on_without_its_first_thread_lives_and_a_zombie_does_not() {
        let script = "import ctypes, os, threading, time; threading.Thread(target=time.sleep, args=(9,)).start(); \
                      exit = {'x86_64': 60}.get(os.uname().machine, 93); ctypes.CDLL(None).syscall(exit, 0)";
        let Ok(mut python) = Command::new("python3").args(["-c", script]).spawn() else {
            return eprintln!("skipped: there is no python3");
        };
        let pid = python.id();
        let first = || Process::new(pid.cast_signed()).unwrap().stat().unwrap().state().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while first() != ProcState::Zombie && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let runs_on = (first(), lives(pid));
        python.kill().unwrap();
        while lives(pid) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let is_killed = (first(), lives(pid));
        python.wait().unwrap();
        assert_eq!((runs_on, is_killed), ((ProcState::Zombie, true), (ProcState::Zombie, false)));
    }

    #[test]
    fn pages_that_ended_children_touched_and_descriptors_that_are_open_are_counted() {
        let script = "$| = 1; sub touch { my $x = 'x' x 8_000_000; print 'x'; sysread STDIN, $_, 1 } touch();
            open my $file, '<', '/dev/null'; if (fork) { wait } else { touch(); exit } print 'x'; sysread STDIN, $_, 1";
        let mut perl = Command::new("perl");
        let Ok(mut perl) = perl.args(["-e", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            return eprintln!("skipped: there is no perl");
        };
        let (mut to, mut from) = (perl.stdin.take().unwrap(), perl.stdout.take().unwrap());
        let mut seen = Vec::new();
        for _ in 0..3 {
            from.read_exact(&mut [0]).unwrap();
            seen.push(Cost::of_tree(perl.id()).unwrap());
            to.write_all(b"x").unwrap();
        }
        perl.wait().unwrap();
        let [alone, with_a_child, after_it] = seen[..] else { unreachable!() };
        let pages = 8_000_000 / 4096;
        assert!(with_a_child.since(alone).minor_faults > pages / 2, "{alone:?} {with_a_child:?}");
        assert!(after_it.since(alone).minor_faults > pages / 2, "{alone:?} {after_it:?}");
        let descriptors = [alone, with_a_child, after_it].map(|cost| cost.descriptors.unwrap());
        assert_eq!(descriptors, [descriptors[0], 2 * (descriptors[0] + 1), descriptors[0] + 1]);
    }

    #[test]
    fn who_ignores_the_end_of_its_children_is_known_and_who_has_none_is_not_accused() {
        for (script, expected) in [
            ("$SIG{CHLD} = 'IGNORE'; fork; $| = 1; print 'x'; sleep 9", true),
            ("fork; $| = 1; print 'x'; sleep 9", false),
            ("$SIG{CHLD} = 'IGNORE'; $| = 1; print 'x'; sleep 9", false),
        ] {
            let Ok(mut perl) = Command::new("perl").args(["-e", script]).stdout(Stdio::piped()).spawn()
            else {
                return eprintln!("skipped: there is no perl");
            };
            perl.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
            assert_eq!(Cost::forgets_children(perl.id()), expected, "{script}");
            for process in tree(perl.id()) {
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
            perl.wait().unwrap();
        }
    }
}
