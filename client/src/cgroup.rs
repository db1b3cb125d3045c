//! A control group of a server's own (cgroups(7), version 2): the kernel's account of the CPU time of all that the server has
//! started, in microseconds, and whoever of it has ended stays in it.
//!
//! An inherited counter (perf_event_open(2), `inherit`) would be had without any right to make groups, but it disturbs what it
//! counts, and misses a part: METHODOLOGY has the figures.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use procfs::{
    FromRead as _,
    process::{MountInfo, MountInfos, Process},
};

/// How long its removal is tried, and how often: what is killed takes a moment to be gone.
const PATIENCE: Duration = Duration::from_millis(200);
const APART: Duration = Duration::from_millis(2);

/// The group, as long as it is held.
pub struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// Makes one below our own; `None` where nobody lets us. Root may, and who was given a group, as by
    /// `systemd-run --user --scope`.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("echo-client-{}-{}", process::id(), NEXT.fetch_add(1, Relaxed));
        let folder = own()?.join(name);
        fs::create_dir(&folder).ok()?;
        all().push(folder.clone());
        Some(Self { folder })
    }

    /// Has a command begin in it, and so all that this will start. Whether it could is told by [`Self::holds`].
    ///
    /// # Errors
    /// Where nobody may be moved there.
    #[allow(unsafe_code)]
    pub fn enclose(&self, command: &mut Command) -> io::Result<()> {
        let procs = File::options().write(true).open(self.procs())?;
        let join = move || {
            let _ = (&procs).write_all(b"0"); // whoever writes that
            Ok(())
        };
        // SAFETY: between fork and exec there is a write(2) alone, as a handler of signals may make it (signal-safety(7)).
        unsafe { command.pre_exec(join) };
        Ok(())
    }

    /// Whether a process is in it, or was to its end.
    pub fn holds(&self, pid: u32) -> bool {
        let told = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        self.folder
            .file_name()
            .is_some_and(|name| told.lines().any(|line| line.ends_with(&*name.to_string_lossy())))
    }

    fn procs(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The CPU time of all that has run in it.
    pub fn cpu(&self) -> Option<Duration> {
        let stat = fs::read_to_string(self.folder.join("cpu.stat")).ok()?;
        let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        usage.parse().ok().map(Duration::from_micros)
    }
}

/// The groups that there are.
static ALL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn all() -> MutexGuard<'static, Vec<PathBuf>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_until(|all| !all.contains(&self.folder));
    }
}

/// Removes those that nobody is in any more: with the end of all servers that is every one.
pub fn end() {
    remove_until(<[PathBuf]>::is_empty);
}

/// Removes those that nobody is in until that is enough, or it has been tried for long. Where a server has put something into the
/// background, that ends with the last server, and its group with that.
fn remove_until(is_enough: impl Fn(&[PathBuf]) -> bool) {
    let mut all = all();
    let deadline = Instant::now() + PATIENCE;
    loop {
        all.retain(|folder| fs::remove_dir(folder).is_err());
        if is_enough(&all) || Instant::now() > deadline {
            return;
        }
        thread::sleep(APART);
    }
}

/// The folder of the group that we are in.
fn own() -> Option<PathBuf> {
    let ours = Process::myself().and_then(|it| it.cgroups()).ok()?;
    let ours = ours.0.into_iter().find(|group| group.hierarchy == 0)?.pathname;
    let mounted = MountInfos::from_file("/proc/self/mountinfo").ok()?.0;
    let mount = mounted.into_iter().find(|mount| mount.fs_type == "cgroup2")?;
    within(&mount, Path::new(&ours))
}

/// Where a group is below a place at which the hierarchy, or a part of it, is mounted.
fn within(mount: &MountInfo, group: &Path) -> Option<PathBuf> {
    Some(mount.mount_point.join(group.strip_prefix(&mount.root).ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::cost::{Cost, children};

    #[test]
    fn what_an_ended_child_used_is_in_its_account_to_the_microsecond() {
        let Some(group) = Cgroup::new() else {
            return eprintln!("not tested: no control group may be made here");
        };
        let folder = group.folder.clone();
        let burns = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("({burns}); read go")]).stdin(Stdio::piped());
        group.enclose(&mut shell).unwrap();
        let mut child = shell.spawn().unwrap();
        assert!(group.holds(child.id()) && !group.holds(process::id()));
        let told = || Cost::cpu_of_tree(child.id()).unwrap();
        // /proc tells it once it has ended, in two counts of ticks of 10 ms.
        while told() < Duration::from_millis(40) || !children(child.id()).is_empty() {
            thread::sleep(Duration::from_millis(2));
        }
        let (used, told) = (group.cpu().unwrap(), told());
        assert!(used.abs_diff(told) < Duration::from_millis(25), "{used:?}, {told:?}");
        assert_ne!(used.as_micros() % 10_000, 0, "{used:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
        drop(group);
        assert!(!folder.exists());
    }

    #[test]
    fn a_group_is_found_below_the_mounted_part_of_the_hierarchy() {
        let line =
            |root: &str| format!("41 31 0:38 {root} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n");
        let found = |root: &str, group: &str| {
            let mounts = MountInfos::from_read(line(root).as_bytes()).unwrap();
            within(&mounts.0[0], Path::new(group)).map(|folder| folder.display().to_string())
        };
        assert_eq!(found("/", "/user/a").as_deref(), Some("/sys/fs/cgroup/user/a"));
        assert_eq!(found("/box", "/box/a").as_deref(), Some("/sys/fs/cgroup/a"));
        assert_eq!(found("/box", "/user/a"), None);
    }
}
