//! What a killed worker costs, and whom.

use std::{
    net::UdpSocket,
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
    Promise,
    stage::{
        PATIENCE, Row, Server, children, count,
        datagrams::{ask, hear, status, tell, try_hear},
        within,
    },
};

pub const PROMISES: &[Promise] = &[
    ("a_killed_worker_is_replaced_and_the_others_clients_lose_nothing", Row::is_kept_whole, killed_worker),
    ("what_waits_at_the_socket_of_a_dead_worker_is_answered_by_its_successor", has_sockets, inherited),
];

/// Whether each of its workers, which are processes, has a socket.
fn has_sockets(row: &Row) -> bool {
    row.is_kept_whole() && !row.shares_a_listener()
}

/// A server with four workers, each of which stands on its page.
fn start(row: &Row) -> Server {
    let server = row.start(&["--workers", "4"]);
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
fn divided(row: &Row, server: &Server) -> (i32, Vec<UdpSocket>, Vec<UdpSocket>) {
    let mut clients: Vec<UdpSocket> = (0..12).map(|_| server.client()).collect();
    let victim = who_answers(server, &clients[0]);
    let others = match has_sockets(row) {
        true => clients.extract_if(.., |client| who_answers(server, client) != victim).collect(),
        false => clients.split_off(4),
    };
    (victim, clients, others)
}

fn killed_worker(row: &Row) {
    let server = start(row);
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
    let server = start(row);
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
