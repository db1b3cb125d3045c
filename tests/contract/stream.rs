//! Points 1 to 6 of the contract: what comes back, and what it costs the others.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::LazyLock,
    thread,
    time::Duration,
};

use socket2::SockRef;

use crate::{
    contract::Promise,
    stage::{
        PATIENCE, Row, Transport, Watched, activity, echo, fill, holdings, noise, pss, settled, watch_idle,
        within,
    },
};

pub const PROMISES: &[Promise] = &[
    ("every_byte_comes_back_in_order_and_unchanged", |_| true, every_byte),
    ("bytes_that_arrive_one_by_one_come_back", |_| true, one_by_one),
    ("many_messages_in_one_write_come_back", |_| true, many_in_one),
    ("a_late_reader_gets_every_byte", |row| !row.is_bytewise(), late_reader),
    ("after_its_fin_a_client_gets_all_that_it_is_owed_and_then_the_end", |_| true, half_close),
    ("a_client_that_sends_nothing_is_closed_when_it_leaves", |_| true, nothing_at_all),
    ("a_client_sees_its_end_while_later_ones_stay", Row::is_concurrent, inherited),
    ("a_silent_client_delays_nobody", Row::is_concurrent, silent),
    ("while_one_is_served_the_next_one_waits_its_turn", |row| !row.is_concurrent(), waits_its_turn),
    ("a_client_that_never_reads_costs_bounded_memory_and_nobody_else", |row| !row.is_bytewise(), never_reads),
    ("interleaved_clients_get_their_own_bytes", Row::is_concurrent, crosstalk),
    (
        "two_thousand_clients_are_served_at_once",
        |row| row.is_plain() && row.is_concurrent() && row.model != "select",
        two_thousand,
    ),
    ("an_idle_server_with_idle_clients_does_nothing", Row::is_plain, idle),
    ("nothing_outlives_its_connection", |_| true, nothing_outlives),
    ("a_buffer_of_one_byte_is_enough", Row::is_plain, tiny_buffer),
    ("work_delays_an_answer_and_changes_none", Row::is_plain, work),
    ("the_final_figures_count_every_byte_and_message", |_| true, final_figures),
];

fn every_byte(row: &Row) {
    let server = row.start(&[]);
    let mut client = server.connect();
    let all: Vec<u8> = (0..=255).collect();
    echo(&mut client, &all);
    echo(&mut client, b"\0\r\n\r\0\x04\x1a");
    round_trip(&client, &row.much(1 << 20));
    drop(client);
    server.stop().well();
}

/// Sends and receives at the same time: against a server that applies backpressure, everything else deadlocks.
fn round_trip(client: &TcpStream, said: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| (&mut &*client).write_all(said).expect("sent"));
        let mut heard = vec![0; said.len()];
        (&mut &*client).read_exact(&mut heard).expect("all of it comes back");
        assert!(heard == said, "something else came back");
    });
}

fn one_by_one(row: &Row) {
    let server = row.start(&[]);
    let mut client = server.connect();
    for byte in b"one byte a segment" {
        echo(&mut client, &[*byte]);
    }
    let said = noise(300);
    for byte in &said {
        client.write_all(&[*byte]).expect("sent");
    }
    let mut heard = vec![0; said.len()];
    client.read_exact(&mut heard).expect("it comes back");
    assert_eq!(heard, said);
}

fn many_in_one(row: &Row) {
    let server = row.start(&[]);
    let said: Vec<u8> = (0..500).flat_map(|n| format!("message {n}\n").into_bytes()).collect();
    echo(&mut server.connect(), &said);
}

/// Far more than the buffers of both kernels hold is sent before the first byte is read.
fn late_reader(row: &Row) {
    let server = row.start(&[]);
    let client = server.connect();
    SockRef::from(&client).set_recv_buffer_size(64 << 10).expect("a small buffer");
    let said = noise(8 << 20); // more than a row that takes each byte alone has time for
    thread::scope(|scope| {
        scope.spawn(|| (&mut &client).write_all(&said).expect("sent"));
        until_stuck(&client);
        let mut heard = vec![0; said.len()];
        (&mut &client).read_exact(&mut heard).expect("all of it comes back");
        assert!(heard == said, "something else came back");
    });
}

/// Waits until the kernel's queue of unsent bytes stands still: nobody takes any more.
fn until_stuck(client: &TcpStream) {
    let mut last = (usize::MAX, 0);
    within(PATIENCE, "backpressure", || {
        let mut peeked = vec![0; 1 << 20];
        let here = client.peek(&mut peeked).unwrap_or(0);
        last = if last.0 == here { (here, last.1 + 1) } else { (here, 0) };
        (last.1 > 25).then_some(())
    });
}

fn half_close(row: &Row) {
    let server = row.start(&[]);
    let client = server.connect();
    let said = row.much(8 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            (&mut &client).write_all(&said).expect("sent");
            client.shutdown(Shutdown::Write).expect("half-closed");
        });
        let mut heard = Vec::new();
        (&mut &client).read_to_end(&mut heard).expect("all of it, and the end");
        assert!(heard == said, "{} of {} bytes came back", heard.len(), said.len());
    });
    // Data and FIN in one breath, of one segment: the end of file has no event of its own.
    for _ in 0..20 {
        let mut client = server.connect();
        client.write_all(b"last words").expect("sent");
        client.shutdown(Shutdown::Write).expect("half-closed");
        let mut heard = String::new();
        client.read_to_string(&mut heard).expect("all of it, and the end");
        assert_eq!(heard, "last words");
    }
    server.stop().well();
}

fn nothing_at_all(row: &Row) {
    let server = row.start(&[]);
    let mut client = server.connect();
    client.shutdown(Shutdown::Write).expect("half-closed");
    assert_eq!(client.read(&mut [0; 8]).expect("the end"), 0);
    assert_eq!(server.stop().well()["accepted"], 1);
}

fn inherited(row: &Row) {
    let server = row.start(&[]);
    let (mut a, mut b) = (server.connect(), server.connect());
    echo(&mut a, b"a");
    echo(&mut b, b"b");
    a.shutdown(Shutdown::Write).expect("half-closed");
    assert_eq!(a.read(&mut [0; 8]).expect("the end"), 0);
    echo(&mut b, b"still here");
}

fn silent(row: &Row) {
    let server = row.start(&[]);
    let silent: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    for _ in 0..8 {
        echo(&mut server.connect(), b"served beside the silent");
    }
    drop(silent);
}

fn waits_its_turn(row: &Row) {
    let server = row.start(&[]);
    let mut first = server.connect();
    echo(&mut first, b"first");
    let mut second = server.connect();
    second.write_all(b"second").expect("sent");
    second.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    second.read(&mut [0; 8]).expect_err("the second waits while the first is there");
    second.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    drop(first);
    let mut heard = [0; 6];
    second.read_exact(&mut heard).expect("served when the first has left");
    assert_eq!(&heard, b"second");
}

fn never_reads(row: &Row) {
    const STUCK: usize = 8;
    let server = row.start(&[]);
    let stuck_here = if row.is_concurrent() { STUCK } else { 1 };
    if row.is_concurrent() {
        echo(&mut server.connect(), b"warm");
    }
    let before = pss(server.pid());
    let stuck: Vec<(TcpStream, usize)> = (0..stuck_here)
        .map(|_| {
            let client = server.connect();
            let taken = fill(&client);
            (client, taken)
        })
        .collect();
    let grown = pss(server.pid()).saturating_sub(before);
    assert!(grown < stuck.len() as u64 * (1 << 20), "{grown} bytes for {} stuck clients", stuck.len());
    if row.is_concurrent() {
        echo(&mut server.connect(), b"served beside the stuck");
    }
    for (mut client, taken) in stuck {
        client.set_nonblocking(false).expect("blocking again");
        client.shutdown(Shutdown::Write).expect("half-closed");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("all of it, late");
        assert!(heard == noise(taken), "{} of {taken} bytes came back", heard.len());
    }
    server.stop().well();
}

fn crosstalk(row: &Row) {
    const CLIENTS: usize = 64;
    let server = row.start(&[]);
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| server.connect()).collect();
    for round in 0..20 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.write_all(format!("{n:04} {round:04};").as_bytes()).expect("sent");
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let mut heard = [0; 10];
            client.read_exact(&mut heard).expect("it comes back");
            assert_eq!(heard, *format!("{n:04} {round:04};").as_bytes());
        }
    }
    drop(clients);
    assert_eq!(server.stop().well()["accepted"], CLIENTS);
}

fn two_thousand(row: &Row) {
    const CLIENTS: usize = 2000;
    let server = row.start_for(CLIENTS, &[]);
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.write_all(b"here").expect("sent");
    }
    for client in &mut clients {
        let mut heard = [0; 4];
        client.read_exact(&mut heard).expect("served");
        assert_eq!(&heard, b"here");
    }
    drop(clients);
    assert_eq!(server.stop().well()["accepted"], CLIENTS);
}

fn idle(row: &Row) {
    static WATCHED: LazyLock<Watched> = LazyLock::new(|| {
        watch_idle(Transport::Tcp, |row| {
            let server = row.start(&[]);
            let clients: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
            (vec![server], clients)
        })
    });
    WATCHED[&row.label()].as_ref().expect("idle");
}

fn nothing_outlives(row: &Row) {
    let server = row.start_for(8, &[]);
    echo(&mut server.connect(), b"warm");
    let before = settled(server.pid());
    for _ in 0..10 {
        let at_once = if row.is_concurrent() { 8 } else { 1 };
        let mut clients: Vec<TcpStream> = (0..at_once).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| echo(client, b"come and gone"));
    }
    within(Duration::from_secs(2), "everything that was held for clients is given back", || {
        (holdings(server.pid()) <= before).then_some(())
    });
    server.stop().well();
}

fn tiny_buffer(row: &Row) {
    let server = row.start(&["--buffer", "1"]);
    let client = server.connect();
    round_trip(&client, &noise(20_000));
}

fn work(row: &Row) {
    let slow = row.start(&["--work", "sleep:50ms"]);
    let mut client = slow.connect();
    let began = std::time::Instant::now();
    echo(&mut client, b"slowly");
    assert!(began.elapsed() >= Duration::from_millis(50));
    let busy = row.start(&["--work", "cpu:20us"]);
    let mut client = busy.connect();
    (0..50).for_each(|_| echo(&mut client, b"busily"));
    assert!(activity(busy.pid()).0 >= Duration::from_millis(1));
}

fn final_figures(row: &Row) {
    let server = row.start(&[]);
    for n in 1..=5 {
        let mut client = server.connect();
        echo(&mut client, &noise(100 * n));
    }
    // One that resets in mid-message.
    let mut rude = server.connect();
    echo(&mut rude, b"hello");
    SockRef::from(&rude).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(rude);
    echo(&mut server.connect(), b"bye");
    let figures = server.stop().well();
    assert_eq!(figures["accepted"], 7, "{figures}");
    assert_eq!(figures["bytes_in"], 1508, "{figures}");
    assert_eq!(figures["bytes_out"], 1508, "{figures}");
    assert_eq!(figures["messages"], if row.is_bytewise() { 1508 } else { 7 }, "{figures}");
    assert_eq!(figures["errors"]["reset"], 1, "{figures}");
    let workers = figures["workers"].as_array().expect("workers");
    let sum: u64 = workers.iter().filter_map(|worker| worker["bytes_in"].as_u64()).sum();
    assert_eq!(sum, 1508, "over the workers: {figures}");
}
