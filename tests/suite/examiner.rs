//! `echo-client check` as its users run it: against a command, a process, an address; and when things go wrong.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::all_processes;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::{
    stage::{PATIENCE, echo_client, echo_server, is_listened_at, run, tree, within},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_server_that_runs_is_checked_at_its_address_and_what_needs_more_is_skipped_with_its_reason,
    a_server_that_dies_and_cannot_be_started_again_is_blamed_once,
    a_server_that_is_started_for_each_check_pays_for_its_death_where_it_dies,
    a_server_that_ends_with_its_first_client_fails_the_one_check_that_says_why,
    a_shell_that_has_started_the_server_is_not_taken_for_it,
    a_server_whose_first_thread_has_ended_is_neither_dead_nor_a_zombie,
    a_parent_that_waits_for_the_one_process_that_serves_is_no_pool,
    a_server_in_whose_queue_nobody_may_wait_fails_the_one_check_and_holds_nobody_up,
    nothing_that_a_server_started_outlives_the_examination,
    who_is_interrupted_leaves_a_whole_sheet_and_no_process,
    a_server_on_a_port_of_its_own_choice_is_checked_there_again_and_again,
    a_port_that_was_told_and_is_not_free_yet_is_waited_for_and_costs_nobody_a_check,
    a_small_buffer_and_nagles_algorithm_are_no_bug,
    a_port_where_somebody_else_listens_is_refused_before_the_first_check,
    a_process_that_does_not_listen_there_is_not_taken_for_the_server,
    a_bug_that_stands_in_the_way_of_another_check_is_named_there,
    a_server_that_sends_without_an_end_is_found_out_and_left,
    a_server_that_takes_few_clients_and_turns_others_away_is_not_said_to_confuse_them,
    a_server_whose_first_thread_has_ended_is_not_gone,
    a_port_that_somebody_else_has_taken_meanwhile_is_not_the_servers,
    a_server_that_a_script_starts_is_no_worker_of_the_script,
    why_nothing_was_judged_is_said_where_no_simpler_check_is_made,
    who_cannot_be_judged_for_a_bug_of_its_own_misses_those_points,
    a_server_of_both_transports_is_asked_over_both,
    what_cannot_be_checked_is_refused_in_one_line,
    an_address_where_nobody_listens_is_no_server_to_be_blamed,
    the_same_is_told_in_chinese,
];

/// A server as students write it, which does `trick` with each client's socket `s` before it echoes.
fn students(folder: &TempDir, trick: &str) -> PathBuf {
    let path = folder.path().join("server.py");
    let script = format!(
        "import os, signal, socket, sys, threading, time\n\
         def serve(s):\n\
         \x20   {trick}\n\
         \x20   while True:\n\
         \x20       data = s.recv(65536)\n\
         \x20       if not data: break\n\
         \x20       s.sendall(data)\n\
         \x20   s.close()\n\
         l = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=1024)\n\
         while True:\n\
         \x20   s, _ = l.accept()\n\
         \x20   threading.Thread(target=serve, args=(s,), daemon=True).start()\n"
    );
    fs::write(&path, script).unwrap();
    path
}

/// A port that nobody uses just now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn check(args: &[&str]) -> (Output, Value) {
    let output = run(echo_client(), &[&["check", "--format", "json"], args].concat());
    let told = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, told)
}

/// Has these checks made on a student's server.
fn checked(trick: &str, only: &str) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let script = students(&folder, trick);
    check(&["--only", only, "--", "python3", script.to_str().unwrap(), "{port}"])
}

/// What came of a check.
fn of<'t>(told: &'t Value, id: &str) -> &'t Value {
    told["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["id"] == id)
        .unwrap_or_else(|| panic!("{id}: {told:#}"))
}

/// A server that runs already.
struct Running(Child);

impl Running {
    fn start(script: &Path, port: u16) -> Self {
        let child =
            Command::new("python3").arg(script).arg(port.to_string()).stdin(Stdio::null()).spawn().unwrap();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        within(PATIENCE, "it listens", || is_listened_at(address).then_some(()));
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_server_that_runs_is_checked_at_its_address_and_what_needs_more_is_skipped_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (script, port) = (students(&folder, "pass"), free_port());
    let server = Running::start(&script, port);
    let endpoint = format!("tcp://127.0.0.1:{port}");
    let (output, told) = check(&["--only", "bytes,half-close,zombies", &endpoint]);
    assert_eq!(output.status.code(), Some(0), "{told:#}");
    assert_eq!(of(&told, "bytes")["status"], "pass", "{told:#}");
    assert_eq!(of(&told, "zombies")["status"], "skip", "{told:#}");
    assert!(of(&told, "zombies")["finding"].as_str().unwrap().contains("--pid"), "{told:#}");
    assert_eq!(told["score"], told["max_score"], "what is skipped costs nothing: {told:#}");

    let pid = server.0.id().to_string();
    let (_, told) = check(&["--only", "zombies,restart", "--pid", &pid, &endpoint]);
    assert_eq!(of(&told, "zombies")["status"], "pass", "{told:#}");
    assert_eq!(of(&told, "restart")["status"], "skip", "{told:#}");
}

fn a_server_that_dies_and_cannot_be_started_again_is_blamed_once() {
    let folder = tempfile::tempdir().unwrap();
    let script = students(&folder, "s.recv(1, socket.MSG_PEEK); os._exit(3)");
    let port = free_port();
    let server = Running::start(&script, port);
    let endpoint = format!("tcp://127.0.0.1:{port}");
    let (output, told) = check(&["--pid", &server.0.id().to_string(), &endpoint]);
    assert_eq!(output.status.code(), Some(1), "{told:#}");
    let failed = told["checks"].as_array().unwrap().iter().filter(|it| it["status"] == "fail").count();
    assert_eq!(failed, 1, "{told:#}");
    let last = told["checks"].as_array().unwrap().last().unwrap();
    assert_eq!(last["status"], "skip", "{told:#}");
    assert!(last["finding"].as_str().unwrap().contains("not run: the server died in bytes"), "{told:#}");
}

fn a_server_that_is_started_for_each_check_pays_for_its_death_where_it_dies() {
    // It cannot bear a NUL, which only `bytes` sends.
    let (output, told) =
        checked("b'\\0' in s.recv(4096, socket.MSG_PEEK) and os._exit(3)", "bytes,half-close");
    assert_eq!(output.status.code(), Some(1), "{told:#}");
    assert_eq!(of(&told, "bytes")["status"], "fail", "{told:#}");
    assert!(of(&told, "bytes")["finding"].as_str().unwrap().contains("died: exit status: 3"), "{told:#}");
    assert_eq!(of(&told, "half-close")["status"], "pass", "{told:#}");
}

/// Has a server in Python checked, full or by these options: which checks it failed, and what was told of it.
fn failed_by(folder: &TempDir, script: &str, options: &[&str]) -> (Vec<String>, Value) {
    let path = folder.path().join("own.py");
    fs::write(&path, script).unwrap();
    let server = ["--", "python3", path.to_str().unwrap(), "{port}"];
    let (_, told) = check(&[options, &server[..]].concat());
    let checks = told["checks"].as_array().unwrap_or_else(|| panic!("{told:#}"));
    let failed =
        checks.iter().filter(|it| it["status"] == "fail").map(|it| it["id"].as_str().unwrap().into());
    (failed.collect(), told)
}

/// A server in Python that has a process for each client.
const FORKS: &str = "
import os, signal, socket, sys
l = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=1024)
CHILDREN
while True:
    s, _ = l.accept()
    if os.fork() == 0:
        while data := s.recv(65536): s.sendall(data)
        os._exit(0)
    s.close()
";

fn a_server_that_ends_with_its_first_client_fails_the_one_check_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let by_a_signal =
        FORKS.replace("CHILDREN", "signal.signal(signal.SIGCHLD, lambda *_: sys.exit('accept'))");
    let at_the_end = FORKS.replace("CHILDREN", "").replace("if os.fork() == 0:", "if True:");
    for (script, expected) in [(by_a_signal, "eintr"), (at_the_end, "eof")] {
        let (failed, told) = failed_by(&folder, &script, &["--profile", "quick"]);
        assert_eq!(failed, [expected], "{told:#}");
        assert!(of(&told, "reset")["finding"].as_str().unwrap().contains(expected), "{told:#}");
    }
}

fn a_shell_that_has_started_the_server_is_not_taken_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let wrapper = folder.path().join("start.sh");
    let server = echo_server().display();
    fs::write(&wrapper, format!("sleep 1000 &\n{server} tcp://127.0.0.1:$1\n")).unwrap();
    let only = "eintr,zombies,restart,worker-killed";
    let (output, told) = check(&["--only", only, "--", "sh", wrapper.to_str().unwrap(), "{port}"]);
    assert_eq!(output.status.code(), Some(0), "{told:#}");
    assert_eq!(of(&told, "worker-killed")["status"], "skip", "{told:#}");
    fs::write(&wrapper, format!("{server} tcp://127.0.0.1:$1\n")).unwrap();
    let (output, told) = check(&["--only", "drain", "--", "sh", wrapper.to_str().unwrap(), "{port}"]);
    assert_eq!(output.status.code(), Some(0), "{told:#}");
}

fn a_server_whose_first_thread_has_ended_is_neither_dead_nor_a_zombie() {
    let folder = tempfile::tempdir().unwrap();
    let script = "
import ctypes, socket, sys, threading
l = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=1024)
def serve(s):
    with s:
        while data := s.recv(65536): s.sendall(data)
def accept():
    while True:
        threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
threading.Thread(target=accept).start()
ctypes.CDLL(None).pthread_exit(None)
";
    let only = "bytes,eof,eintr,zombies,fd-leak,thread-leak,idle-cpu";
    let (failed, told) = failed_by(&folder, script, &["--only", only]);
    assert!(failed.is_empty(), "{told:#}");
    assert_ne!(of(&told, "fd-leak")["evidence"]["count_before"], 0, "{told:#}");
}

fn a_parent_that_waits_for_the_one_process_that_serves_is_no_pool() {
    let folder = tempfile::tempdir().unwrap();
    let script = "
import os, socket, sys, threading
l = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=1024)
if os.fork():
    os.wait()
    sys.exit(1)
def serve(s):
    with s:
        while data := s.recv(65536): s.sendall(data)
while True:
    threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
";
    let (failed, told) = failed_by(&folder, script, &["--only", "worker-killed"]);
    assert!(failed.is_empty() && of(&told, "worker-killed")["status"] == "skip", "{told:#}");
}

fn a_server_in_whose_queue_nobody_may_wait_fails_the_one_check_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let script = students(&folder, "pass");
    let text = fs::read_to_string(&script).unwrap().replace("backlog=1024", "backlog=0");
    let began = std::time::Instant::now();
    let (failed, told) = failed_by(&folder, &text, &["--only", "reset,sigpipe,emfile-recover,backlog"]);
    assert!(!failed.contains(&"reset".into()) && failed.contains(&"backlog".into()), "{told:#}");
    assert!(began.elapsed() < Duration::from_secs(120), "{told:#}");
}

fn nothing_that_a_server_started_outlives_the_examination() {
    let mark = format!("31415.{}", std::process::id());
    // A daemon: in a session of its own, its parent gone.
    let trick = format!("os.system('setsid sleep {mark} > /dev/null 2>&1 &')");
    let (_, told) = checked(&trick, "bytes");
    assert_eq!(of(&told, "bytes")["status"], "pass", "{told:#}");
    let is_left =
        |process: &procfs::process::Process| process.cmdline().is_ok_and(|words| words.contains(&mark));
    assert!(
        !all_processes().unwrap().flatten().any(|process| is_left(&process)),
        "the daemon is still there"
    );
}

fn who_is_interrupted_leaves_a_whole_sheet_and_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let script = students(&folder, "time.sleep(1000)");
    // Its patience is a minute.
    let patient = ["--time-scale", "30"];
    let sheet = folder.path().join("sheet.json");
    let mut command = Command::new(echo_client());
    command.args(["check", "--format", &format!("json={}", sheet.display())]).args(patient);
    command
        .args(["--", "python3"])
        .arg(&script)
        .arg("{port}")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut examiner = command.spawn().unwrap();
    let pid = examiner.id().cast_signed();
    let servers = within(PATIENCE, "a server", || Some(tree(pid)).filter(|tree| tree.len() > 1));
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    let status = within(Duration::from_secs(5), "the end", || examiner.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
    let told: Value = serde_json::from_str(&fs::read_to_string(&sheet).unwrap()).unwrap();
    assert!(told["checks"].as_array().unwrap().iter().all(|it| it["status"] != "pass"), "{told:#}");
    assert_eq!(told["score"], 0.0);
    for server in servers.iter().skip(1) {
        within(PATIENCE, "its server is gone", || (!server.is_alive()).then_some(()));
    }
}

fn a_server_on_a_port_of_its_own_choice_is_checked_there_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let (script, port) = (students(&folder, "pass"), free_port());
    let text = fs::read_to_string(&script).unwrap().replace("int(sys.argv[1])", &port.to_string());
    fs::write(&script, text).unwrap();
    let endpoint = format!("tcp://127.0.0.1:{port}");
    let args = ["--only", "bytes,half-close", &endpoint, "--", "python3", script.to_str().unwrap()];
    let (output, told) = check(&args);
    assert_eq!(output.status.code(), Some(0), "{told:#}");
}

fn a_port_that_was_told_and_is_not_free_yet_is_waited_for_and_costs_nobody_a_check() {
    let folder = tempfile::tempdir().unwrap();
    let (script, port) = (students(&folder, "pass"), free_port());
    let holder = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    holder.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    // The whole check has 6 s, and its server none of them before the port is free.
    let freed = thread::spawn(move || {
        thread::sleep(Duration::from_secs(7));
        drop(holder);
    });
    let endpoint = format!("tcp://127.0.0.1:{port}");
    let server = ["--", "python3", script.to_str().unwrap(), &port.to_string()];
    let (output, told) =
        check(&[&["--only", "bytes", "--time-scale", "0.3", &endpoint], &server[..]].concat());
    freed.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{told:#}");
}

fn a_small_buffer_and_nagles_algorithm_are_no_bug() {
    let (output, told) = checked("while data := s.recv(256): s.sendall(data)", "bytes");
    assert_eq!(output.status.code(), Some(0), "{told:#}");
}

fn a_port_where_somebody_else_listens_is_refused_before_the_first_check() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tcp://{}", other.local_addr().unwrap());
    let output = run(echo_client(), &["check", &endpoint, "--", "cat"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.lines().count() == 1 && said.contains("is in use"), "{said}");
}

fn a_process_that_does_not_listen_there_is_not_taken_for_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = Running::start(&students(&folder, "pass"), port);
    let other = Running(Command::new("sleep").arg("1000").spawn().unwrap());
    let (pid, endpoint) = (other.0.id().to_string(), format!("tcp://127.0.0.1:{port}"));
    let output = run(echo_client(), &["check", "--pid", &pid, &endpoint]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.lines().count() == 1 && said.contains("does not listen"), "{said}");
}

fn a_bug_that_stands_in_the_way_of_another_check_is_named_there() {
    let folder = tempfile::tempdir().unwrap();
    let script = students(&folder, "kept.append(s)");
    let text = fs::read_to_string(&script).unwrap();
    let leaks = text
        .replace("    s.close()", "    s.shutdown(socket.SHUT_WR)")
        .replace("l = ", "kept = []\nl = ")
        .replace(
            "    s, _ = l.accept()",
            "    try: s, _ = l.accept()\n    except OSError: time.sleep(0.05); continue",
        );
    fs::write(&script, leaks).unwrap();
    let server = ["--", "python3", script.to_str().unwrap(), "{port}"];
    let (_, told) = check(&[&["--only", "fd-leak,emfile-recover"], &server[..]].concat());
    assert_eq!(of(&told, "fd-leak")["status"], "fail", "{told:#}");
    let in_its_way = &of(&told, "emfile-recover")["finding"];
    assert!(in_its_way.as_str().unwrap().contains("see fd-leak"), "{told:#}");
}

fn a_server_that_sends_without_an_end_is_found_out_and_left() {
    // As where the length that recv returned is not looked at.
    let (_, told) = checked("while True: data = s.recv(4096) or data; s.sendall(data)", "segments,eof");
    assert_eq!(of(&told, "segments")["status"], "pass", "{told:#}");
    assert_eq!(of(&told, "eof")["finding"], "bytes came that nobody had sent", "{told:#}");
}

fn a_server_that_takes_few_clients_and_turns_others_away_is_not_said_to_confuse_them() {
    let (output, told) = checked("if threading.active_count() > 20: return s.close()", "crosstalk");
    assert_eq!(output.status.code(), Some(0), "{told:#}");
}

fn a_server_whose_first_thread_has_ended_is_not_gone() {
    let folder = tempfile::tempdir().unwrap();
    let script = students(&folder, "pass");
    let text = fs::read_to_string(&script).unwrap();
    let (before, serves) = text.split_once("while True:\n    s, _").unwrap();
    let exits = "threading.Thread(target=main).start()\nimport ctypes\n\
                 ctypes.CDLL(None).syscall({'x86_64': 60}.get(os.uname().machine, 93), 0)\n";
    let serves = serves.replace("\n   ", "\n       ");
    fs::write(&script, format!("{before}def main():\n    while True:\n        s, _{serves}{exits}")).unwrap();
    let port = free_port();
    let server = Running::start(&script, port);
    let pid = server.0.id().to_string();
    let (output, told) =
        check(&["--only", "bytes,zombies", "--pid", &pid, &format!("tcp://127.0.0.1:{port}")]);
    assert_eq!(output.status.code(), Some(0), "{told:#}");
}

fn a_port_that_somebody_else_has_taken_meanwhile_is_not_the_servers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.py");
    // Another process than the server's gets the port first, and the server ends as soon as it cannot bind it.
    let script = "import os, socket, sys, time\n\
                  if os.fork() == 0:\n\
                  \x20   child = os.getpid()\n\
                  \x20   if os.fork(): os._exit(0)\n\
                  \x20   while os.getppid() == child: time.sleep(0.01)\n\
                  \x20   l = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
                  \x20   time.sleep(5)\n\
                  \x20   os._exit(0)\n\
                  os.wait()\n\
                  while True:\n\
                  \x20   s = socket.socket()\n\
                  \x20   s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                  \x20   try: s.bind(('127.0.0.1', int(sys.argv[1])))\n\
                  \x20   except OSError: sys.exit('the port is taken')\n\
                  \x20   s.close(); time.sleep(0.05)\n";
    fs::write(&path, script).unwrap();
    let (_, told) = check(&["--only", "bytes", "--", "python3", path.to_str().unwrap(), "{port}"]);
    let finding = of(&told, "bytes")["finding"].as_str().unwrap();
    assert!(finding.starts_with("the server ended before it listened"), "{told:#}");
}

fn a_server_that_a_script_starts_is_no_worker_of_the_script() {
    let folder = tempfile::tempdir().unwrap();
    students(&folder, "pass");
    let text = fs::read_to_string(folder.path().join("server.py")).unwrap();
    // The same in a pool of three, which is refilled; nobody may kill the master.
    let refills =
        "for n in range(10 ** 6):\n    n > 2 and os.wait()\n    if os.fork() == 0: break\nwhile True:";
    let (before, after) = text.rsplit_once("while True:").unwrap();
    fs::write(folder.path().join("pool.py"), format!("{before}{refills}{after}")).unwrap();
    for (server, status) in [("server", "skip"), ("pool", "pass")] {
        let script = folder.path().join("run.sh");
        let starts = format!("cd \"$(dirname \"$0\")\" && python3 {server}.py \"$1\"\necho ended\n");
        fs::write(&script, starts).unwrap();
        let (output, told) =
            check(&["--only", "worker-killed", "--", "sh", script.to_str().unwrap(), "{port}"]);
        assert_eq!(output.status.code(), Some(0), "{told:#}");
        assert_eq!(of(&told, "worker-killed")["status"], status, "{told:#}");
    }
}

fn why_nothing_was_judged_is_said_where_no_simpler_check_is_made() {
    let args = ["--only", "reset", "--", "sh", "-c", "echo no config file >&2; exit 3", "{port}"];
    let (output, told) = check(&args);
    assert_eq!(output.status.code(), Some(1), "{told:#}");
    assert!(of(&told, "reset")["finding"].as_str().unwrap().contains("no config file"), "{told:#}");
}

fn who_cannot_be_judged_for_a_bug_of_its_own_misses_those_points() {
    let folder = tempfile::tempdir().unwrap();
    let script = students(&folder, "pass");
    let text = fs::read_to_string(&script).unwrap();
    let mortal = "signal.signal(signal.SIGCONT, lambda *_: os._exit(1))\nl = socket.create_server";
    fs::write(&script, text.replace("l = socket.create_server", mortal)).unwrap();
    let script = script.to_str().unwrap();
    let (output, told) = check(&["--only", "drain", "--", "python3", script, "{port}"]);
    assert_eq!((output.status.code(), &told["score"]), (Some(1), &0.0.into()), "{told:#}");
    assert!(told["max_score"].as_f64().unwrap() > 0.0, "to mend eintr would cost points: {told:#}");
    assert_eq!(of(&told, "drain")["status"], "skip", "{told:#}");
}

fn a_server_of_both_transports_is_asked_over_both() {
    let endpoints = ["tcp://127.0.0.1:{port}", "udp://127.0.0.1:{port}"];
    let server = echo_server().to_str().unwrap();
    let only = ["--only", "bytes,udp-sizes"];
    let (output, told) = check(&[&only[..], &endpoints, &["--", server], &endpoints].concat());
    assert_eq!(output.status.code(), Some(0), "{told:#}");
    assert_eq!(of(&told, "bytes")["status"], "pass", "{told:#}");
    assert_eq!(of(&told, "udp-sizes")["status"], "pass", "{told:#}");
}

fn what_cannot_be_checked_is_refused_in_one_line() {
    for (args, word) in [
        (&[][..], "tcp://127.0.0.1:7007"),
        (&["--", "./no-such-server", "{port}"], "no such program"),
        (&["--", "no-such-server", "{port}"], "no such program"),
        (&["--", "cat"], "{port}"),
        (&["./server", "{port}"], "behind --"),
        (&["python3", "server.py", "{port}"], "behind --"),
        (&["--", "./README.md", "{port}"], "chmod +x"),
        (&["--", "README.md", "{port}"], "./README.md"),
        (&["unix:///run/echo.sock"], "tcp://"),
        (&["tcp://127.0.0.1:0"], "{port}"),
        (&["tcp://127.0.0.1:{port}"], "give its port"),
        (&["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"], "one after the other"),
        (&["--only", "magic", "tcp://127.0.0.1:1"], "--list"),
        (&["--skip", "magic", "tcp://127.0.0.1:1"], "--list"),
        (&["--only", "bytes", "--skip", "bytes", "tcp://127.0.0.1:1"], "no check is left"),
        (&["--only", "bytes", "udp://127.0.0.1:1"], "no check is left"),
        (&["--format", "magic", "tcp://127.0.0.1:1"], "gradescope"),
        (&["--format", "json", "--format", "tap", "tcp://127.0.0.1:1"], "tap=out.tap"),
        (&["--format", "json=/no/such/folder/out.json", "tcp://127.0.0.1:1"], "/no/such/folder"),
        (&["--rubric", "no-such.toml", "tcp://127.0.0.1:1"], "no-such.toml"),
        (&["--time-scale", "0", "tcp://127.0.0.1:1"], "auto"),
        (&["--expect", "magic", "tcp://127.0.0.1:1"], "iterative"),
        (&["--user", "nobody", "tcp://127.0.0.1:1"], "COMMAND"),
        (&["--user", "no-such-user", "--", "cat", "{port}"], "no-such-user"),
        (&["--pid", "1"], "ENDPOINT"),
        (&["explain", "magic"], "--list"),
        (&["explain"], "ID"),
    ] {
        let output = run(echo_client(), &[&["check"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(said.contains(word), "{args:?} should say {word:?}: {said}");
    }
}

fn an_address_where_nobody_listens_is_no_server_to_be_blamed() {
    let endpoint = format!("tcp://127.0.0.1:{}", free_port());
    let output = run(echo_client(), &["check", &endpoint]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.lines().count() == 1 && said.contains("nobody listens"), "{said}");
}

fn the_same_is_told_in_chinese() {
    let server = echo_server().to_str().unwrap();
    let endpoint = "tcp://127.0.0.1:{port}";
    let output = run(echo_client(), &["check", "--lang", "zh", "--only", "bytes", "--", server, endpoint]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("通过"), "{said}");
    let said =
        String::from_utf8_lossy(&run(echo_client(), &["check", "explain", "bytes", "--lang", "zh"]).stdout)
            .into_owned();
    assert!(said.chars().any(|letter| ('\u{4e00}'..='\u{9fff}').contains(&letter)), "{said}");
}
