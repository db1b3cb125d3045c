//! The faults: what a client, a limit of the system or a killed worker costs, and whom.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, gettid},
};
use socket2::SockRef;

use crate::{
    contract::Promise,
    stage::{
        PATIENCE, Row, Server, activity, children, connect,
        datagrams::{in_a_network, status},
        echo, echo_server, few_workers, first_served, noise, run, tree, within,
    },
};

pub const PROMISES: &[Promise] = &[
    ("clients_that_reset_cost_nobody_else", |_| true, resets),
    ("without_descriptors_the_server_waits_quietly_and_recovers", Row::is_plain, no_descriptors),
    ("an_error_of_accept_that_is_one_clients_costs_nothing_else", accepts_by_system_call, client_errors),
    ("a_shortage_at_accept_is_waited_out", accepts_by_system_call, shortages),
    ("a_killed_worker_costs_its_clients_and_is_replaced", Row::is_kept_whole, killed_worker),
    ("who_waits_in_the_queue_of_a_dead_worker_is_served_by_its_successor", has_queues, inherited_queue),
    ("a_killed_holder_of_the_lock_leaves_the_pool_serving", locks, killed_holder),
    ("a_child_holds_no_listener_and_no_other_clients_socket", |row| row.model == "fork", own_sockets),
    ("a_killed_child_costs_its_client", |row| row.model == "fork", killed_child),
    ("a_worker_that_keeps_dying_is_replaced_with_patience", Row::is_kept_whole, keeps_dying),
    ("a_refused_process_or_thread_costs_that_client", refusable, refused_process),
    ("a_limit_on_descriptors_that_is_lowered_costs_nobody_who_is_there", Row::is_plain, lowered_limit),
    ("a_peer_that_vanishes_is_found_out_and_keeps_nobody_waiting", Row::is_plain, vanished_peer),
];

fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(client);
}

fn resets(row: &Row) {
    let server = row.start(&[]);
    let mut bystander = row.is_concurrent().then(|| server.connect());
    for n in 0..100 {
        let mut client = server.connect();
        match n % 4 {
            0 => {}                                               // a reset instead of a word
            1 => client.write_all(b"half a mess").expect("sent"), // in mid-message
            2 => drop(client.write_all(&noise(100_000))),         // with answers on their way
            _ => {
                // Data, FIN, RST: the writer gets EPIPE, and SIGPIPE would follow.
                client.write_all(&noise(50_000)).expect("sent");
                client.shutdown(Shutdown::Write).expect("half-closed");
            }
        }
        reset(client);
        if let Some(bystander) = &mut bystander {
            echo(bystander, b"undisturbed");
        }
    }
    echo(&mut server.connect(), b"and the next");
    drop(bystander);
    let figures = server.stop().well();
    assert!(figures["errors"]["reset"].as_u64() > Some(0), "{figures}");
}

/// 64 descriptors and 100 clients: whoever has come in is served, the server lives, hardly uses the processor
/// while it waits, and takes the others when descriptors are free again.
fn no_descriptors(row: &Row) {
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(echo_server());
    let mut server = row.start_by(limited, few_workers(row));
    let mut clients: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    let lucky = first_served(&mut clients);
    let before = activity(server.pid()).0;
    thread::sleep(Duration::from_secs(1)); // the time that is measured
    let used = activity(server.pid()).0.saturating_sub(before);
    assert!(used < Duration::from_millis(200), "used {used:?} of CPU in a second of waiting");
    assert!(server.is_alive());
    echo(&mut clients[lucky], b"still served");

    let mut last = clients.pop().expect("a last one");
    drop(clients);
    let freed = Instant::now();
    last.write_all(b"the last").expect("sent");
    last.read_exact(&mut [0; 8]).expect("served in the end");
    // A loop that could not be started waits for a second at most, and then perhaps at its door.
    assert!(freed.elapsed() < Duration::from_secs(3), "served after {:?}", freed.elapsed());
    drop(last);
    server.stop().well();
}

fn killed_worker(row: &Row) {
    let clients = if row.is_pool() { 4 } else { 32 };
    let server = row.start(&["--workers", "4", "--max-connections", &clients.to_string()]);
    let mut clients: Vec<TcpStream> = (0..clients).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| echo(client, b"in"));
    // A worker may be too young to be replaced at once; this one is not.
    thread::sleep(Duration::from_millis(1100));
    let victim = children(server.pid())[0];
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("killed");
    within(Duration::from_secs(1), "the pool is whole again", || {
        let now = children(server.pid());
        (now.len() == 4 && !now.contains(&victim)).then_some(())
    });
    // Its clients lost their server; the others did not notice.
    let all = clients.len();
    clients.retain_mut(|client| {
        client.write_all(b"there?").is_ok_and(|()| client.read_exact(&mut [0; 6]).is_ok())
    });
    let lost = all - clients.len();
    assert!(if row.is_pool() { lost == 1 } else { (1..all).contains(&lost) }, "{lost} of {all} were lost");
    // The seats that the dead worker held are free: as many may come as were lost.
    for _ in 0..lost {
        let mut client = server.connect();
        echo(&mut client, b"a new one");
        clients.push(client);
    }
    drop(clients);
    let figures = server.stop().well();
    assert_eq!(figures["errors"], serde_json::json!({ "worker_died": 1 }), "{figures}");
    assert_eq!(figures["accepted"], all + lost, "{figures}");
}

/// Whether each of its workers, which are processes, has an accept queue, and waits for it without being in
/// accept(2). (One that is killed in accept(2), or whose ring accepts, may take a client with it: the kernel
/// hands it over first.)
fn has_queues(row: &Row) -> bool {
    row.is_kept_whole() && row.dispatch.as_deref() == Some("reuseport")
}

/// A worker that is stopped accepts nobody, but the kernel goes on filling its queue.
fn inherited_queue(row: &Row) {
    let server = row.start(&["--workers", "2"]);
    // It may be too young to be replaced at once.
    thread::sleep(Duration::from_millis(1100));
    let victim = children(server.pid())[0];
    kill(Pid::from_raw(victim), Signal::SIGSTOP).expect("stopped");
    let at_once = if row.is_pool() { 2 } else { 32 };
    let mut clients: Vec<TcpStream> = (0..at_once).map(|_| server.connect()).collect();
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("killed");
    clients.iter_mut().for_each(|client| echo(client, b"served after all"));
    drop(clients);
    assert_eq!(server.stop().well()["accepted"], at_once);
}

fn locks(row: &Row) -> bool {
    row.forks() && ["mutex", "flock"].contains(&row.dispatch.as_deref().unwrap_or_default())
}

/// The holder of the lock is the one that is in accept(2).
fn killed_holder(row: &Row) {
    let server = row.start(&["--workers", "4"]);
    let in_accept = |child: &i32| {
        let call = std::fs::read_to_string(format!("/proc/{child}/syscall")).unwrap_or_default();
        call.split_whitespace().next() == Some(&nix::libc::SYS_accept4.to_string())
    };
    for _ in 0..5 {
        let holder = within(PATIENCE, "one worker, and only one, accepts", || {
            let accepting: Vec<i32> = children(server.pid()).into_iter().filter(in_accept).collect();
            (accepting.len() == 1).then(|| accepting[0])
        });
        kill(Pid::from_raw(holder), Signal::SIGKILL).expect("killed");
        within(PATIENCE, "it is dead", || (!children(server.pid()).contains(&holder)).then_some(()));
        let mut clients: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| echo(client, b"served by those who are left"));
    }
    let figures = server.stop().well();
    assert_eq!(figures["errors"]["worker_died"], 5, "{figures}");
    assert_eq!(figures["accepted"], 15, "{figures}");
}

/// Whose accept(2) strace(1) can make fail; a ring accepts inside the kernel.
fn accepts_by_system_call(row: &Row) -> bool {
    row.is_plain() && row.model != "io-uring"
}

/// A server whose first calls of accept4(2), in each process and thread, fail with `errno`.
fn failing(row: &Row, errno: &str) -> Server {
    let mut strace = Command::new("strace");
    let inject = format!("inject=accept4:error={errno}:when=1..2");
    strace.args(["-DD", "-f", "-o", "/dev/null", "-e", "trace=accept4", "-e", &inject]).arg(echo_server());
    row.start_by(strace, &["--workers", "2"])
}

fn client_errors(row: &Row) {
    for errno in [
        "ECONNABORTED",
        "EPROTO",
        "EPERM",
        "ENETDOWN",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
        "ETIMEDOUT",
        "ECONNRESET",
    ] {
        let server = failing(row, errno);
        for _ in 0..4 {
            echo(&mut server.connect(), b"served all the same");
        }
        let figures = server.stop().well();
        assert!(figures["errors"]["accept_client"].as_u64() >= Some(2), "{errno}: {figures}");
        assert_eq!(figures["accepted"], 4, "{errno}: {figures}");
    }
    let server = failing(row, "EINTR");
    echo(&mut server.connect(), b"a signal is nobody's error");
    assert_eq!(server.stop().well()["errors"], serde_json::json!({}));
}

fn shortages(row: &Row) {
    for errno in ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"] {
        let began = Instant::now(); // who blocks in accept(2) is there, and fails, before the server is announced
        let server = failing(row, errno);
        let announced = Instant::now();
        echo(&mut server.connect(), b"served a little later");
        // 10 ms, then 20.
        assert!(began.elapsed() >= Duration::from_millis(10), "{errno}: after {:?}", began.elapsed());
        assert!(announced.elapsed() < Duration::from_secs(2), "{errno}: after {:?}", announced.elapsed());
        let figures = server.stop().well();
        assert!(figures["errors"]["accept_resources"].as_u64() >= Some(2), "{errno}: {figures}");
    }
}

/// What a child forgot to close would keep the port, and other clients' ends, for as long as it lives.
fn own_sockets(row: &Row) {
    let server = row.start(&[]);
    let mut clients: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| echo(client, b"in"));
    // The kernel lists sockets while others come and go: an entry may be missing or stand twice, and a port that
    // another server had before has entries without an inode, in TIME_WAIT.
    let inodes = within(PATIENCE, "the listener and three clients are listed", || {
        let tcp = procfs::net::tcp().expect("/proc/net/tcp");
        let ours =
            |entry: &&procfs::net::TcpNetEntry| entry.local_address == server.address && entry.inode != 0;
        let inodes: HashSet<u64> = tcp.iter().filter(ours).map(|entry| entry.inode).collect();
        (inodes.len() == 4).then_some(inodes)
    });
    for child in children(server.pid()) {
        let files = procfs::process::Process::new(child).and_then(|child| child.fd()).expect("its files");
        let held = files.flatten().filter(|file| match file.target {
            procfs::process::FDTarget::Socket(inode) => inodes.contains(&inode),
            _ => false,
        });
        assert_eq!(held.count(), 1, "TCP sockets of child {child}");
    }
}

fn killed_child(row: &Row) {
    let server = row.start(&["--max-connections", "2"]);
    let mut first = server.connect();
    echo(&mut first, b"in");
    let victim = children(server.pid())[0];
    let mut second = server.connect();
    echo(&mut second, b"in");
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("killed");
    assert!(matches!(first.read(&mut [0; 8]), Ok(0) | Err(_)), "the first is closed");
    echo(&mut second, b"still in");
    within(PATIENCE, "the seat of the killed child's client is free", || {
        let mut third = server.connect();
        third.write_all(b"in").ok()?;
        third.read_exact(&mut [0; 2]).ok()
    });
    drop(second);
    assert_eq!(server.stop().well()["errors"]["worker_died"], 1);
}

fn keeps_dying(row: &Row) {
    let server = row.start(&["--workers", "2"]);
    let until = Instant::now() + Duration::from_secs(1);
    let mut killed = HashSet::new(); // who is not reaped yet can be killed again
    while Instant::now() < until {
        let dies = |&child: &i32| kill(Pid::from_raw(child), Signal::SIGKILL).is_ok();
        killed.extend(children(server.pid()).into_iter().filter(dies));
        thread::sleep(Duration::from_millis(1));
    }
    assert!(killed.len() < 100, "{} workers were started in a second to die", killed.len());
    within(Duration::from_secs(3), "the pool is whole again", || {
        (children(server.pid()).len() == 2).then_some(())
    });
    echo(&mut server.connect(), b"served after all");
    server.stop().well();
}

/// Those that start something for each client. Root has no limit on processes, so the server runs as somebody
/// else, whom only root can be.
fn refusable(row: &Row) -> bool {
    let root = Uid::effective().is_root();
    if !root {
        eprintln!(
            "not root: a_refused_process_or_thread_costs_that_client is not tested for {}",
            row.label()
        );
    }
    root && row.is_plain() && ["fork", "thread"].contains(&row.model.as_str())
}

fn refused_process(row: &Row) {
    // A user who owns no other process, not even that of another row, and a copy of the program that this user
    // can reach.
    let user = 60_000 + (2 * std::process::id() + u32::from(row.forks())) % 5_000;
    let folder = tempfile::Builder::new().prefix("echo-").tempdir().expect("a folder");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("reachable");
    let copy = folder.path().join("echo-server");
    std::fs::copy(echo_server(), &copy).expect("a copy");
    let mut limited = Command::new("setpriv");
    limited.args([&format!("--reuid={user}"), "--clear-groups", "prlimit", "--nproc=10"]).arg(copy);
    let mut server = row.start_by(limited, &[]);

    let mut clients: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    let served = clients
        .iter_mut()
        .filter_map(|client| client.write_all(b"in").and_then(|()| client.read_exact(&mut [0; 2])).ok())
        .count();
    assert!((5..20).contains(&served), "{served} of 20 were served");
    assert!(server.is_alive());
    drop(clients);
    within(Duration::from_secs(3), "served again", || {
        let mut client = server.connect();
        client.write_all(b"in").ok()?;
        client.read_exact(&mut [0; 2]).ok()
    });
    let figures = server.stop().well();
    assert!(figures["errors"][&row.model].as_u64() > Some(0), "{figures}");
}

/// Below what is open, in each of its processes. Who comes then waits until the limit is raised.
fn lowered_limit(row: &Row) {
    let clients = if row.is_concurrent() { 20 } else { 1 };
    let mut server = row.start_for(clients + 1, &[]);
    let mut clients: Vec<TcpStream> = (0..clients).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| echo(client, b"in"));
    let limit = |limit: &str| {
        for process in tree(server.pid()) {
            let limited = run("prlimit".as_ref(), &["--pid", &process.pid.to_string(), limit]);
            assert!(limited.status.success(), "{}", String::from_utf8_lossy(&limited.stderr));
        }
    };
    limit("--nofile=4:1024");
    for _ in 0..3 {
        clients.iter_mut().for_each(|client| echo(client, b"still served"));
    }
    limit("--nofile=1024:1024");
    if row.is_concurrent() {
        echo(&mut server.connect(), b"and the next");
    }
    drop(clients);
    assert!(server.is_alive());
    server.stop().well();
}

/// Peers in a network of their own, which is cut: no end and no reset comes from there.
fn vanished_peer(row: &Row) {
    in_a_network("ip link set lo up", || {
        let peers = if row.is_concurrent() { 2 } else { 1 };
        let args = ["--keepalive", "2s", "--workers", "2"];
        let server = row.start_at("0.0.0.0:0", Command::new(echo_server()), &args);
        let port = server.address.port();
        thread::scope(|scope| {
            let (cut, is_cut) = mpsc::channel::<Vec<TcpStream>>();
            let (here, there) = mpsc::channel();
            scope.spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own");
                let thread = gettid();
                here.send(format!("/proc/self/task/{thread}/ns/net")).expect("said");
                sh("until ip link set peer up 2>/dev/null; do sleep 0.01; done; ip addr add 10.78.0.2/24 dev peer");
                let to = SocketAddr::from(([10, 78, 0, 1], port));
                let mut peers: Vec<TcpStream> = (0..peers).map(|_| connect(to)).collect();
                peers.iter_mut().for_each(|peer| echo(peer, b"here"));
                sh("ip link set peer down");
                cut.send(peers).expect("said");
            });
            let network = there.recv().expect("the other network");
            let network = network.replace("self", &std::process::id().to_string());
            sh(&format!(
                "ip link add gate type veth peer name peer netns {network} && \
                         ip addr add 10.78.0.1/24 dev gate && ip link set gate up"
            ));
            let _held = is_cut.recv().expect("the peers have vanished");
            let began = Instant::now();
            let mut next = connect(([127, 0, 0, 1], port).into());
            echo(&mut next, b"who comes next is served");
            drop(next);
            within(PATIENCE, "both are found out", || {
                (status(&server)["errors"]["timed_out"] == peers).then_some(())
            });
            assert!(began.elapsed() < Duration::from_secs(6), "after {:?}", began.elapsed());
        });
        assert_eq!(server.stop().well()["errors"], serde_json::json!({ "timed_out": peers }));
    });
}

fn sh(commands: &str) {
    let done = run("sh".as_ref(), &["-c", commands]);
    assert!(done.status.success(), "{commands}: {}", String::from_utf8_lossy(&done.stderr));
}
