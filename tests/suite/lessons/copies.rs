//! Lessons 5 to 14.

use std::{io::Read, net::Shutdown};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::Process;

use super::{hears, hears_nothing, is_hung_up_on, numbers, play, says, serve, state, stop, told};
use crate::{
    stage::{PATIENCE, Server, children, connect, echo, within},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    lesson_5_serves_beside_a_silent_client_and_leaves_zombies,
    lesson_5_never_ends_a_connection_whose_descriptor_the_parent_keeps,
    lesson_6_reaps_five_for_one_signal,
    lesson_6_leaves_four_of_five_when_it_asks_once_for_each_signal,
    lesson_7_counts_its_own_in_a_variable_and_everybodys_on_the_shared_page,
    lesson_7_has_no_worker_for_a_fifth_client_until_one_is_killed_and_replaced,
    lesson_7_leaves_no_worker_when_the_parent_is_killed,
    lesson_8_loses_one_client_to_a_panic_and_all_to_an_abort,
    lesson_9_holds_up_the_acceptor_when_the_queue_is_full,
    lesson_9_refuses_at_once_when_it_is_told_to,
    lesson_10_loses_what_is_counted_without_a_lock_and_nothing_otherwise,
    lesson_11_is_deadlocked_until_its_deadline_and_done_when_all_keep_one_order,
    lesson_12_deals_its_clients_out_in_turn_and_each_process_has_a_number_of_its_own_for_them,
    lesson_13_shares_every_page_until_it_is_written_to,
    lesson_14_measures_four_ways_and_each_carries_every_message,
];

/// Waits until so many of its children have ended and were not reaped.
fn has_zombies(server: &Server, count: usize) {
    let zombies = || children(server.pid()).into_iter().filter(|pid| state(*pid) == Some('Z')).count();
    within(PATIENCE, "zombies", || (zombies() == count).then_some(()));
}

fn lesson_5_serves_beside_a_silent_client_and_leaves_zombies() {
    let server = serve("05_fork", &[]);
    let _silent = server.connect();
    for _ in 0..3 {
        let mut client = server.connect();
        echo(&mut client, b"hello");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    has_zombies(&server, 3);
    let _fifth = server.connect();
    server.says("of my children 3 are zombies");
}

fn lesson_5_never_ends_a_connection_whose_descriptor_the_parent_keeps() {
    let server = serve("05_fork", &["keep"]);
    let mut client = server.connect();
    echo(&mut client, b"hello");
    client.shutdown(Shutdown::Write).unwrap();
    server.says("left process");
    has_zombies(&server, 1);
    hears_nothing(&mut client);
    drop(server);
    is_hung_up_on(&mut client);
}

/// Five children end while the parent is stopped: one signal tells of all.
fn five_end_together(more: &[&str]) -> Server {
    let server = serve("06_zombies", more);
    let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| echo(client, b"hello"));
    stop(&server);
    drop(clients);
    has_zombies(&server, 5);
    server.signal(Signal::SIGCONT);
    server
}

fn lesson_6_reaps_five_for_one_signal() {
    let server = five_end_together(&[]);
    has_zombies(&server, 0);
    let _sixth = server.connect();
    server.says("forked 6, signals 1, reaped 5");
}

fn lesson_6_leaves_four_of_five_when_it_asks_once_for_each_signal() {
    let server = five_end_together(&["once"]);
    has_zombies(&server, 4);
    let _sixth = server.connect();
    server.says("forked 6, signals 1, reaped 1");
}

fn lesson_7_counts_its_own_in_a_variable_and_everybodys_on_the_shared_page() {
    let server = serve("07_prefork", &[]);
    for served in 1..=8 {
        echo(&mut server.connect(), b"hello");
        let line = server.says("mine ");
        let (mine, ours) = line.split_once("ours").unwrap();
        let mine = numbers(mine).pop().unwrap();
        assert_eq!(numbers(ours).iter().sum::<f64>(), f64::from(served), "{line}");
        assert!(numbers(ours).contains(&mine), "{line}");
    }
}

fn lesson_7_has_no_worker_for_a_fifth_client_until_one_is_killed_and_replaced() {
    let server = serve("07_prefork", &[]);
    let mut four: Vec<_> = (0..4).map(|_| server.connect()).collect();
    four.iter_mut().for_each(|client| echo(client, b"hello"));
    let mut fifth = server.connect();
    says(&mut fifth, b"hello");
    hears_nothing(&mut fifth);
    let victim = children(server.pid())[0];
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    server.says("is now process");
    hears(&mut fifth, b"hello");
    // One of the four has lost its server, the others have not.
    let served = four.iter_mut().filter_map(|client| {
        std::io::Write::write_all(client, b"there?").ok()?;
        client.read_exact(&mut [0; 6]).ok()
    });
    assert_eq!(served.count(), 3);
}

fn lesson_7_leaves_no_worker_when_the_parent_is_killed() {
    let server = serve("07_prefork", &[]);
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| echo(client, b"so each is at work"));
    let workers = children(server.pid());
    server.signal(Signal::SIGKILL);
    within(PATIENCE, "their end", || workers.iter().all(|pid| Process::new(*pid).is_err()).then_some(()));
}

fn lesson_8_loses_one_client_to_a_panic_and_all_to_an_abort() {
    let mut server = serve("08_threads", &[]);
    let (mut a, mut b, mut c) = (server.connect(), server.connect(), server.connect());
    [&mut a, &mut b, &mut c].into_iter().for_each(|client| echo(client, b"hello"));
    says(&mut a, b"panic\n");
    is_hung_up_on(&mut a);
    echo(&mut b, b"still here");
    assert!(server.is_alive());
    says(&mut b, b"abort\n");
    is_hung_up_on(&mut b);
    is_hung_up_on(&mut c);
    within(PATIENCE, "its end", || (!server.is_alive()).then_some(()));
}

/// Two silent clients with the workers, two in the queue.
fn full(more: &[&str]) -> (Server, Vec<std::net::TcpStream>) {
    let server = serve("09_queue", more);
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(server.connect());
        server.says("is served by worker");
    }
    for depth in ["1 deep", "2 deep"] {
        clients.push(server.connect());
        server.says(depth);
    }
    (server, clients)
}

fn lesson_9_holds_up_the_acceptor_when_the_queue_is_full() {
    let (server, mut clients) = full(&[]);
    let mut fifth = server.connect();
    says(&mut fifth, b"hello");
    hears_nothing(&mut fifth);
    clients.truncate(1); // three leave, of whom two were never served
    server.says("is in the queue");
    hears(&mut fifth, b"hello");
}

fn lesson_9_refuses_at_once_when_it_is_told_to() {
    let (server, mut clients) = full(&["reject"]);
    let mut fifth = server.connect();
    is_hung_up_on(&mut fifth);
    server.says("is refused: the queue is full");
    echo(&mut clients[0], b"undisturbed");
}

fn lesson_10_loses_what_is_counted_without_a_lock_and_nothing_otherwise() {
    let said = told("10_locks", &[]);
    let lost: Vec<(&str, f64)> =
        said.iter().map(|line| (line.split(' ').next().unwrap(), 4e7 - numbers(line)[0])).collect();
    let names: Vec<&str> = lost.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["racy", "locked", "atomic", "sharded"]);
    assert!(lost[0].1 > 400_000.0, "a visible share: {lost:?}");
    assert!(lost[1..].iter().all(|(_, lost)| *lost == 0.0), "{lost:?}");
}

fn lesson_11_is_deadlocked_until_its_deadline_and_done_when_all_keep_one_order() {
    let (status, said) = play("11_deadlock", &[]).ended();
    assert_eq!(status.code(), Some(1), "{said:#?}");
    assert_eq!(said.iter().filter(|line| line.contains("has the lock of")).count(), 2, "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("deadlock: ")), "{said:#?}");
    assert!(said.iter().filter(|line| line.contains("sleeps in futex")).count() >= 2, "{said:#?}");
    let said = told("11_deadlock", &["ordered"]);
    assert_eq!(said.last().unwrap(), "both transfers are done: [110, 90]");
}

fn lesson_12_deals_its_clients_out_in_turn_and_each_process_has_a_number_of_its_own_for_them() {
    let server = serve("12_pass_fd", &[]);
    for turn in 0..4 {
        let mut client = connect(server.address);
        echo(&mut client, b"hello");
        let here = server.says("is descriptor");
        assert!(here.ends_with(&format!("goes to worker {}", turn % 2)), "{here}");
        let there = server.says("has it as descriptor");
        assert_ne!(
            numbers(here.split_once("is descriptor").unwrap().1)[0],
            numbers(&there)[1],
            "{here}; {there}"
        );
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the parent holds no copy");
        server.says("sent 5 bytes back");
    }
}

fn lesson_13_shares_every_page_until_it_is_written_to() {
    let said = told("13_copy_on_write", &[]);
    let private = |who: &str| {
        let line = said.iter().find(|line| line.starts_with(who)).unwrap();
        numbers(line.split_once("private").unwrap().1)[0]
    };
    assert!(private("parent, alone  ") >= 64.0, "{said:#?}");
    assert!(private("child, has written nothing") < 1.0, "{said:#?}");
    let half = private("child, a byte a page of a half");
    assert!((32.0..34.0).contains(&half), "{said:#?}");
    let pages = private("child, a byte a MiB of the rest");
    assert!(pages > half && pages <= 64.0, "{said:#?}");
    assert!(private("parent, alone again") >= 64.0, "{said:#?}");
}

fn lesson_14_measures_four_ways_and_each_carries_every_message() {
    let said = told("14_messages", &[]);
    assert_eq!(said.len(), 4, "{said:#?}");
    for (line, name) in
        said.iter().zip(["two pipes", "Unix socket pair", "TCP over loopback", "shared memory"])
    {
        assert!(line.starts_with(name) && numbers(line).iter().all(|us| *us > 0.0), "{said:#?}");
    }
}
