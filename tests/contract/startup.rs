//! The start, and what is served when a part of it is missing later: a server announces only what it can serve, and no
//! socket stays without a reader.
//!
//! Root has no limit on processes or locked memory, so these servers run as somebody else, whom only root can be.

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    contract::Promise,
    stage::{
        PATIENCE, Row, Server, Transport, count,
        datagrams::{ask, status},
        echo, echo_server, within,
    },
};

pub const PROMISES: &[Promise] = &[
    ("a_start_without_all_its_processes_or_threads_is_refused", starts_more, too_few_processes),
    ("a_start_without_memory_for_all_its_rings_is_refused", has_rings, too_little_memory),
    ("a_start_of_several_endpoints_announces_all_or_none", has_rings, one_of_two_endpoints),
    ("a_start_without_the_thread_that_hands_over_the_groups_is_refused", keeps_beside_itself, no_clerk),
    ("nobody_waits_at_the_socket_of_a_worker_that_cannot_be_replaced", is_pool_of_its_own, missing_worker),
    (
        "a_worker_that_is_killed_as_it_takes_a_client_costs_no_slot_and_no_seat",
        is_dealt_to,
        killed_as_it_takes,
    ),
];

fn as_root(row: &Row) -> bool {
    let root = Uid::effective().is_root();
    if !root {
        eprintln!("not root: the starts of {} are not tested", row.label());
    }
    root && row.is_plain() && row.workers.is_none()
}

/// Whether it has workers.
fn has_workers(row: &Row) -> bool {
    ["prefork", "thread-pool", "multi-reactor", "async", "io-uring"].contains(&row.model.as_str())
}

/// Whether it starts a process or a thread before the first client comes.
fn starts_more(row: &Row) -> bool {
    let has_helper = row.model == "iterative" || row.model == "thread" && row.transport == Transport::Tcp;
    as_root(row) && (has_workers(row) || has_helper)
}

fn has_rings(row: &Row) -> bool {
    as_root(row) && row.model == "io-uring"
}

fn keeps_beside_itself(row: &Row) -> bool {
    as_root(row) && row.model == "iterative" && row.transport == Transport::Udp
}

/// Whether its workers can be killed one by one, and a place stays empty where no other may be started.
fn is_pool_of_its_own(row: &Row) -> bool {
    as_root(row) && has_workers(row) && !["async", "thread-pool"].contains(&row.model.as_str())
}

fn is_dealt_to(row: &Row) -> bool {
    let dispatch = row.dispatch.as_deref().unwrap_or_default();
    as_root(row) && row.forks() && ["pass-fd", "handoff"].contains(&dispatch)
}

/// A copy of the program that every user can reach.
static PROGRAM: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::Builder::new().prefix("echo-").tempdir().expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("reachable");
    let copy = folder.path().join("echo-server");
    fs::copy(echo_server(), &copy).expect("a copy");
    (folder, copy)
});

/// A user who owns no other process, not even that of another row.
fn new_user() -> u32 {
    static USERS: AtomicU32 = AtomicU32::new(0);
    20_000 + std::process::id() % 400 * 100 + USERS.fetch_add(1, Relaxed) % 100
}

/// What runs the program as a user, within limits as prlimit(1) writes them.
fn run_as(user: u32, limits: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "prlimit"]);
    command.args(limits).arg(&PROGRAM.1);
    command
}

/// A server that cannot start says why in one line, which has these words in it, and nothing else; no process of it is
/// left.
#[track_caller]
fn is_refused(mut command: Command, words: &str) {
    command.stderr(Stdio::piped());
    let mut server = Server::spawn(command);
    let mut stderr = server.stderr().expect("its stderr is a pipe");
    let (status, said) = server.ended();
    let mut why = String::new();
    stderr.read_to_string(&mut why).expect("text"); // ends when the last process has
    assert_eq!(status.code(), Some(2), "{why}");
    assert!(said.is_empty(), "it announced {said:?}, and then: {why}");
    assert!(why.lines().count() == 1 && why.starts_with("echo-server: ") && why.contains(words), "{why}");
}

fn at_any_port(row: &Row, command: Command, more: &[&str]) -> Command {
    let mut command = row.command(command, more);
    command.arg(format!("{}://127.0.0.1:0", row.transport.name()));
    command
}

fn too_few_processes(row: &Row) {
    let (limit, workers): (_, &[&str]) =
        if has_workers(row) { ("--nproc=3", &["--workers", "8"]) } else { ("--nproc=1", &[]) };
    is_refused(at_any_port(row, run_as(new_user(), &[limit]), workers), "ulimit -u");
}

fn too_little_memory(row: &Row) {
    let limited = run_as(new_user(), &["--memlock=500000"]);
    is_refused(at_any_port(row, limited, &["--workers", "4"]), "ulimit -l");
}

fn one_of_two_endpoints(row: &Row) {
    let limited = run_as(new_user(), &["--memlock=500000"]);
    let mut command = at_any_port(row, limited, &["--workers", "2"]);
    command.arg("tcp://127.0.0.1:0");
    is_refused(command, "ulimit -l");
}

fn no_clerk(row: &Row) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("anybody's");
    let groups = folder.path().join("groups.json");
    let groups = groups.to_str().expect("UTF-8");
    // The server, who writes the groups, and the thread that waits for the end.
    is_refused(at_any_port(row, run_as(new_user(), &["--nproc=3"]), &["--groups", groups]), "ulimit -u");
    assert!(!fs::exists(groups).expect("a folder"), "groups of nobody were written");
}

/// How many processes and threads the server may start from now on: none, or any number.
fn may_start(server: &Server, user: u32, soft: &str) {
    let mut prlimit = Command::new("setpriv");
    prlimit.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "prlimit"]);
    prlimit.args(["--pid", &server.pid().to_string(), &format!("--nproc={soft}:")]);
    assert!(prlimit.status().expect("prlimit").success());
}

fn workers(server: &Server) -> Vec<Value> {
    status(server)["workers"].as_array().expect("workers").clone()
}

/// Ends worker number `n`: a process is killed, and a thread fails at its next wait.
fn lose(row: &Row, server: &Server, n: usize) {
    if row.forks() {
        let pid = i32::try_from(count(&workers(server)[n]["pid"])).expect("a process");
        return kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
    }
    let mut threads: Vec<u32> = fs::read_dir(format!("/proc/{}/task", server.pid()))
        .expect("threads")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    threads.sort_unstable();
    let mut strace = Command::new("strace");
    strace.args(["-q", "-o", "/dev/null", "-e", "trace=epoll_wait,io_uring_enter"]);
    strace.args(["-e", "inject=epoll_wait,io_uring_enter:error=EBADF", "-p", &threads[n + 1].to_string()]);
    let mut strace = strace.stderr(Stdio::null()).spawn().expect("strace starts");
    within(PATIENCE, "the thread fails", || strace.try_wait().expect("strace"));
}

fn is_served(row: &Row, server: &Server) {
    match row.transport {
        Transport::Tcp => echo(&mut server.connect(), b"is anybody there?"),
        Transport::Udp => ask(&server.client(), b"is anybody there?"),
    }
}

fn missing_worker(row: &Row) {
    let user = new_user();
    let server = row.start_by(run_as(user, &["--nproc=100"]), &["--workers", "4"]);
    may_start(&server, user, "1");
    lose(row, &server, 3);
    within(PATIENCE, "its place is empty", || (workers(&server)[3]["state"] == "gone").then_some(()));
    (0..40).for_each(|_| is_served(row, &server));
    let left = workers(&server);
    assert!(left[..3].iter().all(|worker| worker["state"] != "gone"), "{left:?}");
    assert_eq!(left[3]["state"], "gone");

    may_start(&server, user, "100");
    within(PATIENCE, "its place is filled", || (workers(&server)[3]["state"] == "idle").then_some(()));
    (0..20).for_each(|_| is_served(row, &server));
    may_start(&server, user, "1");
    lose(row, &server, 3);
    within(PATIENCE, "its place is empty again", || (workers(&server)[3]["state"] == "gone").then_some(()));
    let ended = server.stop();
    assert!(ended.took < Duration::from_secs(4), "it took {:?} to end", ended.took);
    let figures = ended.well();
    assert_eq!(figures["errors"]["worker_died"], 2, "{figures}");
    match row.transport {
        Transport::Tcp => assert_eq!(figures["accepted"], 60, "{figures}"),
        Transport::Udp => {
            assert_eq!((&figures["datagrams_out"], &figures["dropped"]), (&60.into(), &serde_json::json!({})))
        }
    }
}

/// Between the system call that brings the client, and the first thing that the worker does with it.
fn killed_as_it_takes(row: &Row) {
    let server = row.start(&["--workers", "2", "--max-connections", "2"]);
    let mut first = server.connect();
    echo(&mut first, b"in");
    let idle = workers(&server).into_iter().find(|worker| worker["state"] == "idle").expect("an idle one");
    let victim = i32::try_from(count(&idle["pid"])).expect("a process");
    let mut strace = Command::new("strace");
    strace.args(["-q", "-o", "/dev/null", "-e", "trace=recvmsg", "-e", "inject=recvmsg:delay_exit=2000000"]);
    let mut strace = strace.args(["-p", &victim.to_string()]).stderr(Stdio::null()).spawn().expect("strace");
    let stat = || procfs::process::Process::new(victim).ok()?.status().ok();
    within(PATIENCE, "it is watched", || stat().filter(|stat| stat.tracerpid > 0));

    let second = server.connect();
    // A stop for each call is short; the long one is the one that was asked for.
    let mut stops = 0;
    within(PATIENCE, "it has taken the client", || {
        stops = if stat()?.state.starts_with('t') { stops + 1 } else { 0 };
        (stops > 20).then_some(())
    });
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("killed");
    within(PATIENCE, "strace ends", || strace.try_wait().expect("strace"));
    within(PATIENCE, "the pool is whole again", || {
        let is_there = |worker: &Value| worker["state"] == "idle" || worker["state"] == "serving";
        workers(&server).iter().all(is_there).then_some(())
    });
    drop(second);
    echo(&mut first, b"undisturbed");
    let served =
        |mut client: TcpStream| client.write_all(b"in").and_then(|()| client.read_exact(&mut [0; 2])).is_ok();
    within(PATIENCE, "the slot and the seat are free", || served(server.connect()).then_some(()));
    drop(first);
    server.stop().well();
}
