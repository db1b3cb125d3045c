//! What kept this client from running while it measured: a signal that stopped it, or a quota of its cgroup. A pause of
//! the client is in every latency that it delays, and is not the server's.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use procfs::process::{MountInfo, Process};
use serde::{Deserialize, Serialize};

/// The share of the measured time for which a client may be kept from running, and the figures still count.
const TOLERATED: f64 = 0.001;

/// The shortest pause that is told from a busy machine.
const LEAST: Duration = Duration::from_millis(100);

/// How often the CPU quota of a cgroup has stopped those in it, and for how long (cpu.stat; cgroups(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throttling {
    /// In how many periods.
    pub times: u64,
    /// The time in all, over all processors.
    #[serde(rename = "time_s")]
    pub seconds: f64,
}

impl Throttling {
    /// Of the cgroup of this process, and of those that it lies in, by now. `None` where none of them tells.
    pub fn by_now() -> Option<Self> {
        let read = |folder: PathBuf| Self::read(&fs::read_to_string(folder.join("cpu.stat")).ok()?);
        folders().into_iter().filter_map(read).reduce(Self::and)
    }

    /// From the lines of cpu.stat: microseconds in version 2, nanoseconds in version 1.
    fn read(text: &str) -> Option<Self> {
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line?.trim().parse::<u64>().ok()
        };
        let seconds = number("throttled_usec").map(|time| time as f64 / 1e6);
        let seconds = seconds.or_else(|| number("throttled_time").map(|time| time as f64 / 1e9))?;
        Some(Self { times: number("nr_throttled")?, seconds })
    }

    /// Together with that of another cgroup, or of a later time.
    pub fn and(self, other: Self) -> Self {
        Self { times: self.times + other.times, seconds: self.seconds + other.seconds }
    }

    /// What has come since.
    pub fn since(self, before: Self) -> Self {
        Self {
            times: self.times.saturating_sub(before.times),
            seconds: (self.seconds - before.seconds).max(0.0),
        }
    }
}

/// Where the kernel tells of the CPU quota of this process's cgroup, and of those above it that are to be seen.
fn folders() -> Vec<PathBuf> {
    let Ok(me) = Process::myself() else { return Vec::new() };
    let (Ok(groups), Ok(mounts)) = (me.cgroups(), me.mountinfo()) else { return Vec::new() };
    let mut found = Vec::new();
    for group in groups {
        let is_of_it = |mount: &&MountInfo| match group.hierarchy {
            0 => mount.fs_type == "cgroup2",
            _ => mount.fs_type == "cgroup" && mount.super_options.contains_key("cpu"),
        };
        if group.hierarchy != 0 && !group.controllers.iter().any(|controller| controller == "cpu") {
            continue;
        }
        let Some(mount) = mounts.iter().find(is_of_it) else { continue };
        let Ok(inner) = Path::new(&group.pathname).strip_prefix(&mount.root) else { continue };
        let own = mount.mount_point.join(inner);
        found.extend(
            own.ancestors().take_while(|folder| folder.starts_with(&mount.mount_point)).map(Into::into),
        );
    }
    found
}

/// Watches whether the calling thread runs when it wants to.
pub struct Watch {
    /// The thread's schedstat, where the kernel has one.
    schedstat: Option<File>,
    /// When it was read last, and what the thread had then run and waited for a processor.
    spent: Option<Duration>,
    read: Instant,
}

impl Watch {
    /// Begins now.
    pub fn begins() -> Self {
        let mut watch = Self {
            schedstat: File::open("/proc/thread-self/schedstat").ok(),
            spent: None,
            read: Instant::now(),
        };
        watch.spent = watch.spent();
        watch
    }

    /// How long the thread has run and waited for a processor: the first two numbers of its schedstat
    /// (Documentation/scheduler/sched-stats.rst). Nothing is allocated for that.
    fn spent(&self) -> Option<Duration> {
        let mut text = [0; 96];
        let n = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
        let mut numbers = str::from_utf8(&text[..n]).ok()?.split_ascii_whitespace();
        let mut next = || numbers.next()?.parse().ok().map(Duration::from_nanos);
        Some(next()? + next()?)
    }

    /// Between these two looks at the clock the thread was to sleep for no longer than `asleep`. How much longer it was kept
    /// from running than its own work and others on its processors explain; `None` where the kernel does not tell these. It
    /// is asked now and then, and where much time is missing, but not for each message.
    pub fn pause(&mut self, from: Instant, to: Instant, asleep: Duration) -> Option<Duration> {
        let missing = (to - from).saturating_sub(asleep);
        if missing < LEAST && to - self.read < LEAST {
            return Some(Duration::ZERO);
        }
        let spent = self.spent();
        let explained = spent.zip(self.spent).map(|(now, then)| now.saturating_sub(then));
        (self.spent, self.read) = (spent, to);
        Some(missing.saturating_sub(explained?))
            .map(|pause| if pause < LEAST { Duration::ZERO } else { pause })
    }
}

/// Which pauses are in the figures of so long a time, so that these do not count: names for programs, sentences for people.
pub fn in_figures(
    measured: Duration,
    stopped: Option<Duration>,
    throttled: Option<Throttling>,
) -> impl Iterator<Item = (&'static str, String)> {
    let much = TOLERATED * measured.as_secs_f64();
    let stopped = stopped.map(|pause| pause.as_secs_f64()).filter(|seconds| *seconds > much);
    let throttled = throttled.filter(|it| it.times > 0 && it.seconds > much);
    let of_stop = stopped.map(|seconds| {
        ("client-stopped", format!("this client was stopped for {seconds:.1} s; its pause is in the figures"))
    });
    let of_quota = throttled.map(|Throttling { times, seconds }| {
        let why =
            format!("the CPU quota of its cgroup stopped this client {times} times, for {seconds:.2} s");
        ("client-throttled", why)
    });
    of_stop.into_iter().chain(of_quota)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cpu_stat_are_read_and_one_without_a_quota_tells_nothing() {
        let two = "usage_usec 9\nnr_periods 8\nnr_throttled 3\nthrottled_usec 250000\nnr_bursts 0\n";
        let one = "nr_periods 8\nnr_throttled 3\nthrottled_time 250000000\n";
        let seen = Some(Throttling { times: 3, seconds: 0.25 });
        assert_eq!((Throttling::read(two), Throttling::read(one)), (seen, seen));
        assert_eq!(Throttling::read("usage_usec 9\nuser_usec 3\n"), None);
    }

    #[test]
    fn work_and_sleep_that_was_asked_for_are_no_pause() {
        let mut watch = Watch::begins();
        let begun = Instant::now();
        while begun.elapsed() < 2 * LEAST {
            std::hint::black_box(begun);
        }
        std::thread::sleep(2 * LEAST);
        let pause = watch.pause(begun, Instant::now(), 2 * LEAST);
        assert!(pause.is_none_or(|pause| pause.is_zero()), "{pause:?}");
    }

    #[test]
    fn time_in_which_the_thread_neither_worked_nor_was_to_sleep_is_a_pause() {
        let mut watch = Watch::begins();
        let begun = Instant::now();
        std::thread::sleep(3 * LEAST); // as one that is stopped, by its own account
        let pause = watch.pause(begun, Instant::now(), Duration::ZERO);
        assert!(pause.is_none_or(|pause| pause > 2 * LEAST), "{pause:?}");
    }
}
