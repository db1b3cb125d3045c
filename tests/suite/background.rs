//! What a server puts into the background ends with it: with each cell, each check, each failed start, and with the
//! client itself. Who was there before stays.

use std::{
    fs,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::all_processes;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    stage::{PATIENCE, echo_client, echo_server, within},
    suite::{Promise, compare::has_run, promises},
};

pub const PROMISES: &[Promise] = promises![
    what_a_contender_puts_into_the_background_ends_with_its_cell,
    what_a_checked_server_puts_into_the_background_ends_with_its_check_and_a_daemon_is_examined,
    a_client_that_is_interrupted_leaves_nobody_in_the_background_also_where_it_has_no_time,
    who_was_there_before_the_client_is_not_ended,
];

const PLAIN: &str = "
import socket, sys, threading
l = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=1024)
def serve(c):
    with c:
        try:
            while d := c.recv(65536): c.sendall(d)
        except OSError: pass
";
const SERVES: &str =
    "while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()\n";
/// As daemon(3) has it, and once more: nobody who is left was started by us.
const GOES: &str = "
import os
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
";

/// A folder with servers, of which all processes are known by it: they stay in it.
fn stage() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name, text: String| fs::write(folder.path().join(name), text).unwrap();
    write("plain.py", format!("{PLAIN}{SERVES}"));
    write("daemon.py", format!("{PLAIN}{GOES}{SERVES}"));
    write("late.py", format!("{GOES}{PLAIN}{SERVES}"));
    write("behind.sh", "setsid sleep 300 &\nexec python3 plain.py $1\n".into());
    write("fails.sh", "setsid sleep 300 &\nuntil grep -q sleep /proc/$!/comm; do :; done\nexit 3\n".into());
    folder
}

const SERVERS: [&str; 4] = ["python3 plain.py", "python3 daemon.py", "python3 late.py", "sh behind.sh"];

/// What runs in it.
fn left(folder: &TempDir) -> Vec<String> {
    let here = fs::canonicalize(folder.path()).unwrap();
    let is_here = |process: &procfs::process::Process| process.cwd().is_ok_and(|cwd| cwd == here);
    let lives = |process: &procfs::process::Process| process.stat().is_ok_and(|stat| stat.state != 'Z');
    let all = all_processes().unwrap().flatten().filter(|process| is_here(process) && lives(process));
    all.map(|process| format!("{}: {:?}", process.pid, process.cmdline())).collect()
}

fn client(folder: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(echo_client());
    command.current_dir(folder.path()).args(args).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn compare(folder: &TempDir, server: &str, more: &[&str]) -> Command {
    let with = format!("x={server} {{port}}");
    let mut command =
        client(folder, &["compare", "--models", "none", "--with", &with, "-c", "1", "--no-calls"]);
    command.args(["--warmup", "20ms", "--blocks", "2"]).args(more);
    command.arg("--server").arg(echo_server());
    command
}

fn check(folder: &TempDir, server: &str, only: &str) -> Command {
    let mut command = client(folder, &["check", "--format", "json", "--only", only, "--"]);
    command.args(server.split(' ')).arg("{port}");
    command
}

/// Ends, with nobody left, and says so where there was somebody.
#[track_caller]
fn leaves_nobody(folder: &TempDir, command: &mut Command, is_told: bool) -> Output {
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(left(folder), [""; 0], "{command:?}: {said}");
    let told =
        said.lines().filter(|line| line.contains("in the background, which were ended: sleep (")).count();
    assert_eq!(told, usize::from(is_told), "{command:?}: {said}");
    output
}

fn what_a_contender_puts_into_the_background_ends_with_its_cell() {
    let folder = stage();
    for server in SERVERS {
        let output = leaves_nobody(
            &folder,
            &mut compare(&folder, server, &["--duration", "100ms"]),
            server.contains("behind"),
        );
        has_run(&output);
    }
    leaves_nobody(&folder, &mut compare(&folder, "sh fails.sh", &["--duration", "100ms"]), true);
}

fn what_a_checked_server_puts_into_the_background_ends_with_its_check_and_a_daemon_is_examined() {
    let folder = stage();
    for server in SERVERS {
        let only = "bytes,fd-leak";
        let output = leaves_nobody(&folder, &mut check(&folder, server, only), server.contains("behind"));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        for it in told["checks"].as_array().unwrap() {
            assert_eq!(it["status"], "pass", "{server}: {it:#}");
        }
    }
    let output = leaves_nobody(&folder, &mut check(&folder, "sh fails.sh", "bytes"), true);
    assert_eq!(output.status.code(), Some(1));
}

fn a_client_that_is_interrupted_leaves_nobody_in_the_background_also_where_it_has_no_time() {
    for signals in [1, 2] {
        let folder = stage();
        let mut command = compare(&folder, "sh behind.sh", &["--duration", "20s"]);
        let mut compare = command.spawn().unwrap();
        within(PATIENCE, "its server is there", || (left(&folder).len() >= 3).then_some(()));
        for _ in 0..signals {
            kill(Pid::from_raw(compare.id().cast_signed()), Signal::SIGTERM).unwrap();
            thread::sleep(Duration::from_millis(20)); // two that come together are one
        }
        let status = within(PATIENCE, "it ends", || compare.try_wait().unwrap());
        assert_eq!(status.code(), Some(130));
        assert_eq!(left(&folder), [""; 0], "after {signals}");
    }
}

fn who_was_there_before_the_client_is_not_ended() {
    let folder = stage();
    // A shell that becomes the client by exec leaves it a child, which is not the client's.
    let script = "sleep 300 & echo $!; exec \"$0\" check --only bytes -- sh behind.sh {port}";
    let output = Command::new("sh")
        .current_dir(folder.path())
        .args(["-c", script])
        .arg(echo_client())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::from(fs::File::create(folder.path().join("said")).unwrap()))
        .status()
        .unwrap();
    assert!(output.success());
    let said = fs::read_to_string(folder.path().join("said")).unwrap();
    let before: i32 = said.lines().next().unwrap().parse().unwrap();
    let left = left(&folder);
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    assert!(left.len() == 1 && left[0].starts_with(&format!("{before}: ")), "{left:?}");
}
