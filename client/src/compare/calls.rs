//! How many system calls a message costs a server, counted by strace(1).
//!
//! A traced call stops its process twice (ptrace(2)), so nothing that is timed may run meanwhile: this is a pass of its own,
//! and short.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::scenario::Scenario;
use crate::cost;

/// The system calls of all a server's processes. What a ring does, it does without: there
/// io_uring_enter stands for many.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Calls {
    /// All of them, a message.
    pub per_message: f64,
    /// Each by its name, a message.
    pub by_name: BTreeMap<String, f64>,
}

/// What was counted of a contender in a scenario: a row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// What it was put to.
    pub scenario: Scenario,
    /// Who.
    pub contender: String,
    /// With how many connections.
    pub connections: usize,
    /// System calls a message, of all the server's processes.
    pub per_message: Option<f64>,
    /// Each by its name, the most frequent first, like `recvfrom 1.00 sendto 1.00`.
    pub by_name: String,
    /// Why they could not be counted; empty where they were.
    pub reason: String,
}

impl Counted {
    /// A row.
    pub fn of(scenario: Scenario, contender: &str, connections: usize, calls: Result<Calls, String>) -> Self {
        let (per_message, by_name, reason) = match calls {
            Ok(calls) => (Some(calls.per_message), calls.most_frequent(), String::new()),
            Err(reason) => (None, String::new(), reason),
        };
        Self { scenario, contender: contender.into(), connections, per_message, by_name, reason }
    }
}

impl Calls {
    /// Those that a message has one of in a hundred times or more.
    fn most_frequent(&self) -> String {
        let mut calls: Vec<(&String, f64)> = self
            .by_name
            .iter()
            .map(|(name, &calls)| (name, calls))
            .filter(|&(_, calls)| calls >= 0.01)
            .collect();
        calls.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        calls.iter().map(|(name, calls)| format!("{name} {calls:.2}")).collect::<Vec<_>>().join(" ")
    }
}

/// How long strace may take to attach to all processes, and to say what it counted.
const PATIENCE: Duration = Duration::from_secs(10);

impl Calls {
    /// Counts the calls of the process `root`, its descendants, and those that they fork meanwhile, while `load` runs, which
    /// says how many messages were answered.
    ///
    /// # Errors
    /// Why they cannot be counted, in a word or two: there is no strace, it is not permitted to trace
    /// (ptrace(2), Yama), the server has ended, there was nothing to count by.
    pub fn count(root: u32, load: impl FnOnce() -> u64) -> Result<Self, String> {
        let mut strace = Strace::attach(&cost::pids(root))?;
        let messages = load();
        let counts = strace.detach()?;
        if messages == 0 {
            return Err("no message was answered".into());
        }
        let by_name: BTreeMap<String, f64> =
            counts.into_iter().map(|(name, calls)| (name, calls as f64 / messages as f64)).collect();
        Ok(Self { per_message: by_name.values().sum(), by_name })
    }
}

/// strace while it counts. Dropping it lets those go that it traces.
struct Strace {
    child: Child,
    /// What it says.
    lines: Receiver<String>,
}

impl Strace {
    /// Returns when all are traced: what is counted begins there.
    fn attach(pids: &[u32]) -> Result<Self, String> {
        if pids.is_empty() {
            return Err("it has ended".into());
        }
        let mut command = Command::new("strace");
        command.args(["-f", "-c"]);
        for pid in pids {
            command.arg("-p").arg(pid.to_string());
        }
        // A group of its own: ^C in the terminal is ours.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "no strace".to_owned(),
            _ => format!("strace: {error}"),
        })?;
        let (line, lines) = mpsc::channel();
        let stderr = child.stderr.take();
        thread::spawn(move || {
            let all = stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines());
            all.map_while(Result::ok).try_for_each(|text| line.send(text))
        });
        let strace = Self { child, lines };
        strace.await_all(pids)?;
        Ok(strace)
    }

    fn await_all(&self, pids: &[u32]) -> Result<(), String> {
        let mut missing = pids.to_vec();
        let deadline = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                // One that ended meanwhile is not missed.
                Ok(line) if line.contains("No such process") => missing.retain(|pid| !names(&line, *pid)),
                Ok(line) if line.contains("not permitted") => return Err("not permitted".into()),
                Ok(line) if line.contains(" attached") => missing.retain(|pid| !names(&line, *pid)),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err("strace did not attach".into()),
                Err(RecvTimeoutError::Disconnected) => return Err("strace ended".into()),
            }
        }
        Ok(())
    }

    /// Ends it, and returns how often each call was made.
    fn detach(&mut self) -> Result<BTreeMap<String, u64>, String> {
        self.interrupt();
        let mut counts = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => counts.extend(row(&line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(counts),
                Err(RecvTimeoutError::Timeout) => return Err("strace did not end".into()),
            }
        }
    }

    fn interrupt(&self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT);
    }
}

impl Drop for Strace {
    /// It is asked to let go of those that it traces; of one that is killed the kernel does so (ptrace(2)).
    fn drop(&mut self) {
        self.interrupt();
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a line is about this process.
fn names(line: &str, pid: u32) -> bool {
    line.split(|c: char| !c.is_ascii_digit()).any(|word| word.parse() == Ok(pid))
}

/// A row of strace's table, `% time seconds usecs/call calls errors syscall`, where there may be no errors; the
/// row of the total is none.
fn row(line: &str) -> Option<(String, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [share, seconds, each, calls, .., name] = words[..] else { return None };
    let is_a_row = [share, seconds, each].iter().all(|word| word.parse::<f64>().is_ok());
    (is_a_row && name != "total").then_some((name.to_owned(), calls.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_row_of_the_table_is_a_name_and_how_often() {
        for (line, expected) in [
            (" 61.04    0.004519           4       981           sendto", Some(("sendto", 981))),
            (" 25.45    0.001884           1       994        12 recvfrom", Some(("recvfrom", 994))),
            ("100.00    0.007403           2      2957        12 total", None),
            ("------ ----------- ----------- --------- --------- ----------------", None),
            ("% time     seconds  usecs/call     calls    errors syscall", None),
            ("strace: Process 17 attached with 3 threads", None),
            ("", None),
        ] {
            assert_eq!(row(line), expected.map(|(name, n)| (name.to_owned(), n)), "{line}");
        }
    }

    #[test]
    fn a_process_is_named_by_its_whole_number() {
        let line = "strace: Process 1234 attached with 3 threads";
        assert!(names(line, 1234) && !names(line, 123) && !names(line, 234));
    }

    /// An echo over a pipe, in a child of the process that is counted: a read and a write a message.
    const ECHO: &str = "$| = 1; exit wait unless fork; syswrite STDOUT, $_ while sysread STDIN, $_, 1";

    #[test]
    fn the_calls_of_a_child_are_counted_by_the_message() {
        let mut perl = Command::new("perl");
        let Ok(mut perl) = perl.args(["-e", ECHO]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            return eprintln!("skipped: there is no perl");
        };
        let (mut to, mut from) = (perl.stdin.take().unwrap(), perl.stdout.take().unwrap());
        let mut echo = |n: u64| {
            for _ in 0..n {
                to.write_all(b"x").unwrap();
                from.read_exact(&mut [0]).unwrap();
            }
            n
        };
        echo(1); // the child is there
        let calls = Calls::count(perl.id(), || echo(500));
        let nothing = Calls::count(perl.id(), || 0);
        drop(to);
        perl.wait().unwrap();
        match calls {
            Err(why) if why == "no strace" || why == "not permitted" => eprintln!("skipped: {why}"),
            calls => {
                let calls = calls.unwrap();
                assert!((1.95..2.05).contains(&calls.per_message), "{calls:?}");
                assert!((0.95..1.05).contains(&calls.by_name["read"]), "{calls:?}");
                assert_eq!(nothing.unwrap_err(), "no message was answered");
            }
        }
    }

    #[test]
    fn who_is_not_there_cannot_be_counted() {
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let why = Calls::count(gone.id(), || unreachable!("there is nobody to load")).unwrap_err();
        assert_eq!(why, "it has ended");
    }
}
