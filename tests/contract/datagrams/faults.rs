//! The faults: what a killed worker, a slow network or an error of the kernel's costs, and whom.

use std::{
    net::UdpSocket,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    contract::Promise,
    stage::{
        PATIENCE, Row, Server, children, count,
        datagrams::{
            among_silent_neighbours, ask, elsewhere, hear, hear_all, in_a_slow_network, losses, status, tell,
            try_hear, waiting,
        },
        echo_server, noise, within,
    },
};

pub const PROMISES: &[Promise] = &[
    ("a_killed_worker_is_replaced_and_the_others_clients_lose_nothing", Row::is_kept_whole, killed_worker),
    ("what_waits_at_the_socket_of_a_dead_worker_is_answered_by_its_successor", has_sockets, inherited),
    ("answers_wait_for_room_and_a_signal_loses_none", |_| true, slow_network),
    ("destinations_that_do_not_answer_arp_cost_nobody_else_an_answer", Row::is_plain, silent_neighbours),
    ("an_answer_that_the_kernel_refuses_is_counted_and_costs_nothing_else", receives_by_system_call, refused),
    ("an_error_that_is_not_its_own_costs_a_datagram_nothing", receives_by_system_call, others_errors),
    ("a_shortage_at_receiving_is_waited_out", receives_by_system_call, shortages),
];

/// Whether each of its workers, which are processes, has a socket.
fn has_sockets(row: &Row) -> bool {
    row.is_kept_whole() && !row.shares_a_listener()
}

/// A server with four workers, each of which stands on its page.
pub fn four_workers(row: &Row, more: &[&str]) -> Server {
    let server = row.start(&[&["--workers", "4"], more].concat());
    within(PATIENCE, "four workers", || {
        let status = status(&server);
        let workers = status["workers"].as_array()?;
        (workers.len() == 4 && workers.iter().all(|worker| count(&worker["pid"]) > 0)).then_some(())
    });
    server
}

/// Which of the processes answers a client now.
fn who_answers(server: &Server, client: &UdpSocket) -> i32 {
    let workers = || status(server)["workers"].as_array().expect("workers").clone();
    let heard = |worker: &Value| count(&worker["datagrams_in"]);
    let before = workers();
    ask(client, b"who are you?");
    let after = workers();
    let mut both = after.iter().zip(&before);
    let (worker, _) =
        both.find(|(after, before)| heard(after) > heard(before)).expect("a worker has counted it");
    let pid = worker["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    pid.filter(|&pid| children(server.pid()).contains(&pid)).expect("a process of the server's")
}

/// Clients of a server with four workers: the process that answers the first of them, whom else it answers, and the
/// others. Where all share a socket, whoever is idle answers.
pub fn divided(row: &Row, server: &Server) -> (i32, Vec<UdpSocket>, Vec<UdpSocket>) {
    let mut clients: Vec<UdpSocket> = (0..12).map(|_| server.client()).collect();
    let victim = who_answers(server, &clients[0]);
    let others = match has_sockets(row) {
        true => clients.extract_if(.., |client| who_answers(server, client) != victim).collect(),
        false => clients.split_off(4),
    };
    (victim, clients, others)
}

fn killed_worker(row: &Row) {
    let server = four_workers(row, &[]);
    let (victim, theirs, others) = divided(row, &server);
    let (rounds, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        // One at a time: no more than one of theirs can be in a worker's hands.
        let bystanders = scope.spawn(|| {
            let mut lost = 0;
            while !over.load(Relaxed) {
                lost += others.iter().filter(|client| !is_answered(client, rounds.load(Relaxed))).count();
                rounds.fetch_add(1, Relaxed);
            }
            lost
        });
        let a_round = |rounds_before| {
            within(PATIENCE, "a round of the others", || {
                (rounds.load(Relaxed) > rounds_before + 1).then_some(())
            });
        };
        a_round(0);
        kill(Pid::from_raw(victim), Signal::SIGKILL).expect("killed");
        within(PATIENCE, "it is dead", || (!children(server.pid()).contains(&victim)).then_some(()));
        let died = Instant::now();
        theirs.iter().for_each(|client| ask(client, b"is anybody there?"));
        assert!(died.elapsed() < Duration::from_secs(1), "answered after {:?}", died.elapsed());
        within(Duration::from_secs(1), "the pool is whole again", || {
            (children(server.pid()).len() == 4).then_some(())
        });
        a_round(rounds.load(Relaxed));
        over.store(true, Relaxed);
        let lost = bystanders.join().expect("the bystanders");
        assert!(lost <= usize::from(!has_sockets(row)), "{lost} were lost");
    });
    let figures = server.stop().well();
    assert_eq!(figures["errors"], serde_json::json!({ "worker_died": 1 }), "{figures}");
}

fn is_answered(client: &UdpSocket, number: usize) -> bool {
    let said = number.to_be_bytes();
    tell(client, &said);
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let heard = try_hear(client);
    assert!(heard.as_ref().is_ok_and(|heard| *heard == said) || heard.is_err(), "something else came");
    heard.is_ok()
}

/// A worker that is stopped takes nothing, but the kernel goes on filling the buffer of its socket.
fn inherited(row: &Row) {
    let server = four_workers(row, &[]);
    let (victim, theirs, _) = divided(row, &server);
    kill(Pid::from_raw(victim), Signal::SIGSTOP).expect("stopped");
    within(PATIENCE, "it stands still", || {
        let stat = procfs::process::Process::new(victim).ok()?.stat().ok()?;
        (stat.state == 'T').then_some(())
    });
    for n in 0..20u8 {
        theirs.iter().for_each(|client| tell(client, &[n]));
    }
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("killed");
    for n in 0..20u8 {
        theirs.iter().for_each(|client| assert_eq!(hear(client), [n]));
    }
    let figures = server.stop().well();
    assert_eq!(figures["dropped"], serde_json::json!({}), "{figures}");
}

/// More answers than a socket may have on their way: they wait for room (EAGAIN, send(2)), and so does what is
/// received after them.
fn slow_network(row: &Row) {
    in_a_slow_network(|| {
        let server = row.start(&[]);
        let said: Vec<Vec<u8>> = (0..30).map(|n| noise(1400 - n)).collect();
        let clients: Vec<UdpSocket> = (0..8).map(|_| server.client()).collect();
        let everything = || said.iter().for_each(|it| clients.iter().for_each(|client| tell(client, it)));
        everything();
        clients.iter().for_each(|client| hear_all(client, &said));
        everything();
        hear(&clients[0]);
        let figures = server.stop().well();
        // What came too late found nobody at the port.
        let answers = count(&figures["datagrams_out"]) as usize - said.len() * clients.len();
        let mut heard = 1;
        within(PATIENCE, "every answer", || {
            heard += clients.iter().map(|client| waiting(client).len()).sum::<usize>();
            (heard >= answers).then_some(())
        });
        assert_eq!(heard, answers, "{figures}");
    });
}

/// What waits for the address of a neighbour fills the send buffer for three seconds.
fn silent_neighbours(row: &Row) {
    among_silent_neighbours(|| {
        let server = row.start_at("10.77.0.1:0", Command::new(echo_server()), &["--workers", "2"]);
        let honest: Vec<UdpSocket> = (0..4).map(|_| server.client()).collect();
        honest.iter().for_each(|client| ask(client, b"before"));
        let said = noise(1400);
        for n in 71..79 {
            let neighbour = elsewhere([10, 77, 0, n].into());
            (0..300).for_each(|_| drop(neighbour.send_to(&said, server.address)));
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            for client in &honest {
                client.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
                tell(client, b"is anybody there?");
                let heard = try_hear(client);
                assert!(heard.is_ok(), "no answer {:?} after the neighbours: {heard:?}", began.elapsed());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let figures = server.stop().well();
        assert_eq!(figures["errors"], serde_json::json!({}), "{figures}");
    });
}

/// Whose receiving and sending strace(1) can make fail; a ring does both inside the kernel.
fn receives_by_system_call(row: &Row) -> bool {
    row.is_plain() && row.model != "io-uring"
}

/// A server whose first calls of a system call, in each process and thread, fail with `errno`.
fn failing(row: &Row, call: &str, errno: &str) -> Server {
    let mut strace = Command::new("strace");
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={errno}:when=1..2"));
    strace.args(["-DD", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject]).arg(echo_server());
    row.start_by(strace, &["--workers", "2"])
}

fn refused(row: &Row) {
    for errno in ["EPERM", "ENOBUFS", "EHOSTUNREACH"] {
        let server = failing(row, "sendmmsg", errno);
        let client = server.client();
        // Two of each worker's, at most, are refused.
        let mut said = 0;
        within(PATIENCE, "an answer", || {
            tell(&client, b"again");
            said += 1;
            within(PATIENCE, "it is answered, or counted", || {
                (count(&status(&server)["datagrams_out"]) + losses(&server) == said).then_some(())
            });
            (!waiting(&client).is_empty()).then_some(())
        });
        let figures = server.stop().well();
        assert_eq!(count(&figures["dropped"]["undeliverable"]), said - 1, "{errno}: {figures}");
    }
}

/// ICMP's words on answers before, and a signal.
fn others_errors(row: &Row) {
    for (call, errno) in [
        ("recvmmsg", "ECONNREFUSED"),
        ("recvmmsg", "EHOSTUNREACH"),
        ("recvmmsg", "EINTR"),
        ("sendmmsg", "ECONNREFUSED"),
        ("sendmmsg", "EINTR"),
    ] {
        let server = failing(row, call, errno);
        let client = server.client();
        (0..4).for_each(|n| ask(&client, &noise(n)));
        let figures = server.stop().well();
        assert_eq!(figures["datagrams_out"], 4, "{call}: {errno}: {figures}");
        assert_eq!(figures["errors"], serde_json::json!({}), "{call}: {errno}: {figures}");
    }
}

fn shortages(row: &Row) {
    for errno in ["ENOMEM", "ENOBUFS"] {
        let server = failing(row, "recvmmsg", errno);
        (0..4).for_each(|n| ask(&server.client(), &noise(n)));
        let figures = server.stop().well();
        assert_eq!(figures["errors"], serde_json::json!({}), "{errno}: {figures}");
    }
}
