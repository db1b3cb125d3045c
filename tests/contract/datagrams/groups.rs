//! The groups: who said what, as the file tells it, and that what it does not hold is counted; the same whoever
//! serves.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::faults::{divided, four_workers};
use crate::{
    contract::Promise,
    stage::{
        PATIENCE, Row, Server, anonymous_memory, children, count,
        datagrams::{Everybody, LONGEST, ask, burst, client, client_at, hear_all, status, tell},
        echo_server,
        groups::{Client, Groups, GroupsFile},
        holdings, noise, settled, within,
    },
};

pub const PROMISES: &[Promise] = &[
    ("the_groups_are_what_each_client_said_in_order", |_| true, said),
    ("a_file_that_is_asked_for_is_whole_and_the_last_has_everything", |_| true, storm),
    ("a_client_keeps_its_last_messages_within_its_bounds", Row::is_plain, client_bounds),
    ("over_max_clients_who_was_heard_least_recently_goes", Row::is_plain, max_clients),
    ("over_max_group_memory_who_was_heard_least_recently_goes", Row::is_plain, max_memory),
    ("more_clients_than_fit_take_no_more_memory_than_they_may", Row::is_plain, many_addresses),
    ("what_gets_no_answer_is_not_kept_and_is_counted", Row::is_plain, not_kept),
    ("what_is_answered_while_the_server_ends_is_kept", Row::is_plain, flood),
    ("what_is_kept_is_handed_over_however_short_the_drain_is", |_| true, short_drain),
    ("what_a_killed_worker_held_is_said_to_be_lost", Row::is_kept_whole, killed_worker),
    ("a_killed_archivist_costs_the_file_and_no_answer", Row::is_plain, killed_archivist),
    ("where_the_file_cannot_be_written_the_end_is_said_to_have_failed", Row::is_plain, no_folder),
    ("however_the_server_ends_the_archivist_ends_too", Row::is_plain, no_orphan),
    ("without_groups_who_asks_for_them_ends_nothing", Row::is_plain, no_groups),
];

/// A server that keeps groups.
pub fn start(row: &Row, file: &GroupsFile, more: &[&str]) -> Server {
    start_at(row, "127.0.0.1:0", file, more)
}

fn start_at(row: &Row, address: &str, file: &GroupsFile, more: &[&str]) -> Server {
    let args = [&["--groups", file.path()], more].concat();
    row.start_at(address, Command::new(echo_server()), &args)
}

/// Stops it; the file and the final figures say the same, and each datagram that came is held or counted.
#[track_caller]
pub fn last_file(server: Server, file: &GroupsFile) -> (Groups, Value) {
    let figures = server.stop().well();
    let groups = file.read();
    assert_eq!(figures["clients"], groups.clients.len(), "{figures}");
    assert_eq!(figures["messages_held"], groups.messages(), "{figures}");
    let mut dropped = figures["dropped"].clone();
    for kept in ["undeliverable", "busy", "unserved", "unanswered"] {
        dropped.as_object_mut().expect("a map").remove(kept); // what could not be answered is held
    }
    assert_eq!(dropped, groups.dropped, "{figures}");
    let came = count(&figures["datagrams_in"]) + count(&dropped["kernel"]);
    assert_eq!(groups.messages() as u64 + groups.dropped_in_all(), came, "{figures}");
    assert!(file.is_alone(), "something is left beside the file");
    (groups, figures)
}

/// To copy what is kept takes each worker a second, as where that is much, and the drain is over at once.
fn short_drain(row: &Row) {
    let (file, folder) = (GroupsFile::new(), tempfile::tempdir().expect("a folder"));
    let page = folder.path().join("page");
    let mut strace = Command::new("strace");
    strace.args(["-DD", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=memfd_create"]);
    strace.args(["-e", "inject=memfd_create:delay_enter=1000000"]).arg(echo_server());
    let args =
        ["--groups", file.path(), "--drain", "0s", "--stats", page.to_str().expect("a path that is text")];
    let server = row.start_at("127.0.0.1:0", strace, &args);
    let clients: Vec<UdpSocket> = (0..8).map(|_| server.client()).collect();
    let said: Vec<Vec<u8>> = (1..4).map(noise).collect();
    said.iter().for_each(|message| clients.iter().for_each(|client| ask(client, message)));
    let (groups, figures) = last_file(server, &file);
    assert_eq!(groups.clients, expected(clients.iter().map(|client| (client, &said[..]))), "{figures}");
    assert_eq!(figures["errors"]["worker_died"], Value::Null, "{figures}");
}

/// What is kept of clients who said so much.
fn expected<'a>(
    said: impl IntoIterator<Item = (&'a UdpSocket, &'a [Vec<u8>])>,
) -> BTreeMap<SocketAddr, Client> {
    let all = |(client, messages): (&UdpSocket, &[Vec<u8>])| {
        let address = client.local_addr().expect("an address");
        (address, Client::who_said(messages.iter().cloned()))
    };
    said.into_iter().map(all).collect()
}

/// Text, what is special in JSON, what is no text, and what is long; by clients of several addresses, one of which
/// an IPv6 socket knows as v4-mapped: in turns, back to back, and as bursts.
fn said(row: &Row) {
    let mut said: Vec<Vec<u8>> =
        ["hello", "", "\"\\\n\u{0}\u{7f}\u{2028}", "Grüße, 世界 👋"].map(Into::into).to_vec();
    said.extend([vec![0xff, 0], vec![0xed, 0xa0, 0x80], b"half a \xf0\x9f\x91".to_vec()]);
    said.extend([vec![b'a'; 9000], noise(1473), noise(LONGEST)]);
    for at in ["127.0.0.1:0", "[::]:0"] {
        let file = GroupsFile::new();
        let server = start_at(row, at, &file, &[]);
        let here = server.at(Ipv4Addr::LOCALHOST);
        let mut clients = vec![client(here), client(here), client_at(Ipv4Addr::new(127, 9, 9, 9), here)];
        if server.address.is_ipv6() {
            clients.push(client(server.at(Ipv6Addr::LOCALHOST)));
        }
        let mut all = said.clone();
        all.iter().for_each(|message| clients.iter().for_each(|client| ask(client, message)));
        let rows: Vec<Vec<u8>> = (0..30).map(|n| vec![n; 1 + usize::from(n) * 7]).collect();
        let pieces = noise(2600);
        for client in &clients {
            rows.iter().for_each(|message| tell(client, message));
            burst(client, &pieces, 500);
        }
        all.extend(rows.iter().cloned().chain(pieces.chunks(500).map(<[u8]>::to_vec)));
        clients.iter().for_each(|client| hear_all(client, &all[said.len()..]));
        let (groups, _) = last_file(server, &file);
        assert_eq!(groups.dropped, json!({}));
        assert_eq!(groups.clients, expected(clients.iter().map(|client| (client, &all[..]))));
    }
}

/// It is asked for again and again, by signals to any of its processes, while clients go on speaking.
fn storm(row: &Row) {
    let file = GroupsFile::new();
    let server = start(row, &file, &["--workers", "4", "--idle-timeout", "500ms"]);
    let before = settled(server.pid());
    let clients: Vec<UdpSocket> = (0..6).map(|_| server.client()).collect();
    let said: Vec<Vec<u8>> = (0..300).map(|n| noise(n % 100)).collect();
    let seen = AtomicBool::new(false);
    thread::scope(|scope| {
        let speaking = scope.spawn(|| {
            for (n, some) in said.chunks(4).enumerate() {
                for client in &clients {
                    some.iter().for_each(|message| tell(client, message));
                    hear_all(client, some);
                }
                if n == said.len() / 8 {
                    // A disk takes its time.
                    within(PATIENCE, "a file with some of it", || seen.load(Relaxed).then_some(()));
                }
            }
        });
        let mut last = 0;
        while !speaking.is_finished() {
            (0..5).for_each(|_| server.signal(Signal::SIGUSR1));
            server.signal_all(Signal::SIGUSR1);
            if file.is_there() {
                let held = file.read().messages();
                assert!(held >= last, "a later file holds {held}, the one before {last}");
                seen.fetch_or(held > 0, Relaxed);
                last = held;
            }
        }
    });
    // What was answered before it was asked for is in it.
    server.signal(Signal::SIGUSR1);
    within(PATIENCE, "a file with everything", || {
        (file.read().messages() == said.len() * clients.len()).then_some(())
    });
    within(PATIENCE, "nothing of what was asked for is left in the server", || {
        (holdings(server.pid()) <= before).then_some(())
    });
    let (groups, _) = last_file(server, &file);
    assert_eq!(groups.clients, expected(clients.iter().map(|client| (client, &said[..]))));
}

/// The last three, or the last hundred bytes.
fn client_bounds(row: &Row) {
    let said: Vec<Vec<u8>> = (0..10).map(|n| vec![n; 20]).chain([vec![10; 70], vec![11; 101]]).collect();
    for (bound, most, held, dropped) in [
        ("--max-messages", "3", [0..2, 0..3, 1..4, 7..10, 9..12], json!({ "client_messages": 1 + 7 + 9 })),
        ("--max-bytes", "100B", [0..2, 0..3, 0..4, 5..10, 9..11], json!({ "client_bytes": 5 + 10 })),
    ] {
        let file = GroupsFile::new();
        let server = start(row, &file, &["--workers", "4", bound, most]);
        let clients: Vec<UdpSocket> = (0..5).map(|_| server.client()).collect();
        for (client, says) in clients.iter().zip([2, 3, 4, 10, 12]) {
            said[..says].iter().for_each(|message| ask(client, message));
        }
        let (groups, _) = last_file(server, &file);
        let kept = |client: &UdpSocket| &groups.clients[&client.local_addr().expect("an address")];
        for (client, held) in clients.iter().zip(held) {
            assert_eq!(kept(client).messages, said[held], "{bound}");
        }
        assert_eq!((kept(&clients[4]).received_messages, kept(&clients[4]).received_bytes), (12, 371));
        assert_eq!(groups.dropped, dropped, "{bound}");
    }
}

/// Whether all that one client says is heard by one worker. (Where several receive from one socket, each bounds what it
/// heard itself: old messages of a client that speaks on may go with those whom this worker has not heard since.)
fn has_one_hearer(row: &Row) -> bool {
    !row.shares_a_listener() || ["iterative", "select", "poll", "event-loop"].contains(&row.model.as_str())
}

/// In turns, so that who was heard least recently is not who came first.
fn max_clients(row: &Row) {
    let file = GroupsFile::new();
    let server = start(row, &file, &["--workers", "4", "--max-clients", "3"]);
    let clients: Vec<UdpSocket> = (0..6).map(|_| server.client()).collect();
    for n in [0, 1, 2, 0, 3, 4, 0, 5] {
        ask(&clients[n], &[n as u8]);
    }
    let (groups, _) = last_file(server, &file);
    let held: Vec<SocketAddr> =
        [0, 4, 5].map(|n: usize| clients[n].local_addr().expect("an address")).to_vec();
    assert_eq!(groups.clients.len(), 3);
    assert!(held.iter().all(|address| groups.clients.contains_key(address)), "{:?}", groups.clients);
    assert_eq!(groups.dropped, json!({ "clients": 8 - groups.messages() }));
    if has_one_hearer(row) {
        assert_eq!(groups.clients[&held[0]].messages, [[0], [0], [0]]);
        assert_eq!(groups.messages(), 5);
    }
}

/// A worker holds its share, so how many that are depends on who heard whom; the last that was heard is among them.
fn max_memory(row: &Row) {
    const MEMORY: u64 = 1 << 20;
    let file = GroupsFile::new();
    let memory = MEMORY.to_string();
    let server = start(row, &file, &["--workers", "4", "--max-group-memory", &memory]);
    let clients: Vec<UdpSocket> = (0..100).map(|_| server.client()).collect();
    clients.iter().for_each(|client| (0..2).for_each(|_| ask(client, &noise(20_000))));
    assert!(count(&status(&server)["group_memory"]) <= MEMORY, "{}", status(&server));
    let (groups, figures) = last_file(server, &file);
    assert!(count(&figures["group_memory"]) <= MEMORY, "{figures}");
    assert!(groups.messages() >= 2 && groups.messages() < 100, "{figures}");
    let last = clients[99].local_addr().expect("an address");
    assert!(groups.clients.contains_key(&last), "who spoke last is not held");
    assert_eq!(groups.dropped, json!({ "group_memory": 200 - groups.messages() }));
}

/// More for one of the loops, and fewer where each costs a process or a thread.
fn many_addresses(row: &Row) {
    let clients = match row.model.as_str() {
        "fork" => 2_000,
        "event-loop" => 200_000,
        _ => 20_000,
    };
    const MEMORY: u64 = 1 << 20;
    let file = GroupsFile::new();
    let memory = MEMORY.to_string();
    let bounds = ["--max-group-memory", &memory, "--max-clients", "1000000", "--idle-timeout", "500ms"];
    let server = start(row, &file, &[&["--workers", "4"], &bounds[..]].concat());
    let everybody = Everybody::new();
    ask(&server.client(), b"warm");
    let before = anonymous_memory(server.pid());
    everybody.ask(&server, 0..clients);
    let grown = anonymous_memory(server.pid()).saturating_sub(before);
    if !["fork", "thread"].contains(&row.model.as_str()) {
        // Beside what is held, what is touched for the first time.
        assert!(grown < MEMORY + (3 << 20), "{grown} bytes more after {clients} clients");
    }
    let (groups, figures) = last_file(server, &file);
    assert!(count(&figures["group_memory"]) <= MEMORY, "{figures}");
    assert!(groups.clients.len() > 1000, "{figures}");
    for (address, client) in &groups.clients {
        let IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
        assert!(
            address.port() != everybody.port() || client.messages == [ip.octets()],
            "{address}: {client:?}"
        );
    }
    let last = SocketAddr::from((Everybody::address(clients - 1), everybody.port()));
    let lost = count(&figures["dropped"]["kernel"]) > 0;
    assert!(lost || groups.clients.contains_key(&last), "who spoke last is not held");
}

/// A port that would answer the answer, and what is over the rate.
fn not_kept(row: &Row) {
    let file = GroupsFile::new();
    let server = start(row, &file, &["--rate-limit", "5"]);
    let client = server.client();
    let same_port = client_at(Ipv4Addr::new(127, 0, 0, 9), server.address);
    ask(&same_port, b"another address");
    (0..30).for_each(|_| tell(&client, b"more"));
    within(PATIENCE, "all has come", || (status(&server)["datagrams_in"] == 31).then_some(()));
    let (groups, figures) = last_file(server, &file);
    let limited = count(&figures["dropped"]["rate_limit"]);
    assert!((20..=25).contains(&limited), "{figures}");
    assert_eq!(groups.messages() as u64, 31 - limited);
    assert_eq!(count(&figures["datagrams_out"]), 31 - limited);
}

/// Clients that send on until nobody is at the port.
fn flood(row: &Row) {
    let file = GroupsFile::new();
    let server = start(row, &file, &["--workers", "4", "--drain", "1s", "--max-messages", "1000000"]);
    let clients: Vec<UdpSocket> = (0..4).map(|_| server.client()).collect();
    let over = AtomicBool::new(false);
    let (groups, figures) = thread::scope(|scope| {
        for client in &clients {
            client.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let _ = client.send(b"again");
                    let _ = client.recv(&mut [0; 8]);
                }
            });
        }
        within(PATIENCE, "they are many", || (count(&status(&server)["datagrams_in"]) > 500).then_some(()));
        let last = last_file(server, &file);
        over.store(true, Relaxed);
        last
    });
    assert_eq!(groups.messages() as u64, count(&figures["datagrams_out"]), "{figures}");
    let received: u64 = groups.clients.values().map(|client| client.received_messages).sum();
    assert_eq!(received, count(&figures["datagrams_in"]), "{figures}");
}

fn killed_worker(row: &Row) {
    let file = GroupsFile::new();
    let server = four_workers(row, &["--groups", file.path()]);
    let (victim, theirs, others) = divided(row, &server);
    let workers = status(&server)["workers"].as_array().expect("workers").clone();
    let worker = workers.iter().find(|worker| worker["pid"] == victim).expect("the worker");
    let held = count(&worker["messages_held"]);
    assert!(held > 0 && held == count(&worker["datagrams_in"]), "{worker}");
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("killed");
    within(PATIENCE, "it is replaced", || {
        let now = children(server.pid());
        (!now.contains(&victim)).then_some(())
    });
    theirs.iter().chain(&others).for_each(|client| ask(client, b"are you new?"));
    // Also while it goes on, it is said.
    server.signal(Signal::SIGUSR1);
    within(PATIENCE, "a file", || file.is_there().then_some(()));
    assert_eq!(file.read().dropped, json!({ "worker_died": held }));
    let (groups, figures) = last_file(server, &file);
    assert_eq!(groups.dropped, json!({ "worker_died": held }), "{figures}");
    for client in theirs.iter().chain(&others) {
        let kept = &groups.clients[&client.local_addr().expect("an address")];
        assert_eq!(kept.messages.last(), Some(&b"are you new?".to_vec()), "{kept:?}");
    }
}

/// The process that gathers and writes.
fn archivist(server: &Server) -> i32 {
    let is_archivist = |child: &i32| {
        fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "archivist")
    };
    within(PATIENCE, "an archivist", || children(server.pid()).into_iter().find(is_archivist))
}

fn killed_archivist(row: &Row) {
    let file = GroupsFile::new();
    let server = start(row, &file, &["--workers", "4"]);
    let client = server.client();
    ask(&client, b"before");
    kill(Pid::from_raw(archivist(&server)), Signal::SIGKILL).expect("killed");
    (0..100).for_each(|n| ask(&client, &noise(n)));
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(1), "nothing was written");
    assert!(ended.took < Duration::from_secs(2), "it took {:?}", ended.took);
    assert_eq!(ended.figures["datagrams_out"], 101, "{}", ended.figures);
    assert!(!file.is_there());
}

fn no_folder(row: &Row) {
    let file = GroupsFile::new();
    let server = start(row, &file, &["--workers", "4"]);
    let client = server.client();
    ask(&client, b"before");
    file.is_taken_away();
    server.signal(Signal::SIGUSR1);
    ask(&client, b"after");
    let ended = server.stop();
    assert_eq!((ended.status.code(), &ended.figures["datagrams_out"]), (Some(1), &2.into()));
}

fn no_orphan(row: &Row) {
    for at_once in [Signal::SIGKILL, Signal::SIGTERM] {
        let file = GroupsFile::new();
        let server = start(row, &file, &["--workers", "1", "--work", "sleep:2s", "--drain", "60s"]);
        archivist(&server);
        let client = server.client();
        (0..10).for_each(|_| tell(&client, b"work"));
        server.signal(at_once);
        if at_once == Signal::SIGTERM {
            server.signal(Signal::SIGINT);
        }
        let ended = server.end();
        assert!(!ended.status.success() && ended.took < Duration::from_secs(1), "after {:?}", ended.took);
        assert!(!file.is_there() || file.is_alone());
    }
}

fn no_groups(row: &Row) {
    let server = row.start(&[]);
    let client = server.client();
    ask(&client, b"before");
    server.signal(Signal::SIGUSR1);
    server.signal_all(Signal::SIGUSR1);
    ask(&client, b"after");
    assert_eq!(server.stop().well()["datagrams_out"], 2);
}
