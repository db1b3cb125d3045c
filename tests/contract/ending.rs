//! How a server ends: by a signal, in order, and with nobody left behind.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    contract::Promise,
    stage::{
        PATIENCE, Row, Server, activity, children, connect, echo, echo_server, few_workers, fill,
        first_served, nobody_was_replaced, noise, send_unused_signals, within,
    },
};

pub const PROMISES: &[Promise] = &[
    // One after the other, and byte by byte: more than the grace has time for.
    (
        "a_signal_loses_no_answer_that_is_pending",
        |row| row.is_concurrent() || !row.is_bytewise(),
        pending_answers,
    ),
    ("clients_may_finish_while_the_server_drains", |_| true, finish),
    ("a_client_that_stays_is_closed_when_the_drain_is_over", |_| true, stays),
    ("a_client_that_never_reads_does_not_hold_up_the_end", |row| !row.is_bytewise(), never_reads),
    ("new_clients_are_refused_while_the_server_drains", |_| true, refused),
    ("who_has_connected_in_time_is_served_though_workers_retire", Row::is_pool, retiring),
    ("a_successor_on_the_same_path_is_left_alone", Row::shares_a_listener, succession),
    ("the_second_signal_ends_the_server_at_once_with_status_1", |_| true, second_signal),
    ("a_signal_to_the_whole_group_ends_it_as_one_to_the_server", |_| true, group),
    ("a_terminal_that_goes_away_ends_it_in_order_though_it_says_so_twice", Row::is_plain, hangup),
    ("sigquit_ends_it_in_order_and_a_second_signal_at_once", Row::is_plain, quit),
    ("a_signal_that_means_nothing_changes_nothing", Row::is_plain, unused_signals),
    ("who_cannot_say_that_it_listens_does_not_serve", Row::is_plain, full_stdout),
    ("without_a_drain_the_end_comes_at_once", |_| true, no_drain),
    ("the_end_comes_though_clients_keep_coming", |_| true, keep_coming),
    ("without_descriptors_the_end_comes_quietly_too", Row::is_plain, no_descriptors),
    ("when_the_server_is_killed_its_children_die_too", Row::forks, orphans),
];

/// 32 clients have sent, none has read: they get their answers and an end of file, nothing else.
fn pending_answers(row: &Row) {
    let server = row.start(&["--drain", "5s"]);
    let mut clients: Vec<TcpStream> = (0..32).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&noise(1000 + n)).expect("sent");
    }
    server.signal(Signal::SIGTERM);
    for (n, client) in clients.iter_mut().enumerate() {
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("the answer, and the end");
        assert!(heard == noise(1000 + n), "client {n} got {} bytes", heard.len());
    }
    let ended = server.end();
    assert!(ended.took < Duration::from_secs(2), "it took {:?}", ended.took);
    assert_eq!(ended.well()["accepted"], 32);
}

fn finish(row: &Row) {
    let server = row.start(&["--drain", "20s"]);
    let mut client = server.connect();
    echo(&mut client, b"before");
    server.signal(Signal::SIGTERM);
    let said = row.much(1 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            (&mut &client).write_all(&said).expect("sent");
            client.shutdown(Shutdown::Write).expect("half-closed");
        });
        let mut heard = Vec::new();
        (&mut &client).read_to_end(&mut heard).expect("all of it, and the end");
        assert!(heard == said);
    });
    let ended = server.end();
    assert!(ended.took < Duration::from_secs(5), "it waited for nobody for {:?}", ended.took);
    ended.well();
}

fn stays(row: &Row) {
    let server = row.start(&["--drain", "300ms"]);
    let mut client = server.connect();
    echo(&mut client, b"here");
    let began = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(client.read(&mut [0; 8]).expect("an end of file, no reset"), 0);
    assert!(began.elapsed() >= Duration::from_millis(300), "closed after {:?}", began.elapsed());
    let ended = server.end();
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    let figures = ended.well();
    assert_eq!(figures["errors"], serde_json::json!({}), "it was hung up on, not cut");
}

fn never_reads(row: &Row) {
    let server = row.start(&["--drain", "300ms"]);
    let client = server.connect();
    fill(&client);
    let began = Instant::now();
    let ended = server.stop();
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    // When the drain is over the kernel may find room for all that the server has received: then it owes nothing.
    let figures = ended.well();
    let owes = figures["bytes_in"] != figures["bytes_out"];
    assert_eq!(figures["errors"]["cut"].as_u64(), owes.then_some(1), "{figures}");
}

/// One more has connected when the server hears that it is to end, and is served as well.
fn refused(row: &Row) {
    let server = row.start(&["--drain", "20s"]);
    let mut client = server.connect();
    echo(&mut client, b"here");
    server.signal(Signal::SIGSTOP);
    let mut waiting = server.connect();
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGCONT);
    within(PATIENCE, "connections are refused", || {
        let error = TcpStream::connect(server.address).err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    echo(&mut client, b"still served");
    drop(client);
    echo(&mut waiting, b"served too");
    drop(waiting);
    server.end().well();
}

fn second_signal(row: &Row) {
    let server = row.start(&["--drain", "60s"]);
    let mut client = server.connect();
    echo(&mut client, b"here");
    server.signal(Signal::SIGTERM);
    // A server that drains still answers; by then the first signal has been seen.
    echo(&mut client, b"still here");
    server.signal(Signal::SIGINT);
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.took < Duration::from_secs(2), "it took {:?}", ended.took);
}

/// As a terminal does with ^C, and a service manager with SIGTERM.
fn group(row: &Row) {
    let server = row.start(&["--drain", "1s"]);
    let mut client = server.connect();
    echo(&mut client, b"here");
    server.signal_all(Signal::SIGINT);
    echo(&mut client, b"still here");
    drop(client);
    server.end().well();
}

/// The kernel sends SIGHUP to the foreground group, and the shell to its jobs.
fn hangup(row: &Row) {
    let server = row.start(&["--drain", "20s"]);
    let mut client = server.connect();
    echo(&mut client, b"here");
    server.signal_all(Signal::SIGHUP);
    thread::sleep(Duration::from_millis(100)); // no longer taken for the same request
    server.signal_all(Signal::SIGHUP);
    echo(&mut client, b"still here");
    drop(client);
    assert_eq!(server.end().well()["accepted"], 1);
}

fn quit(row: &Row) {
    let server = row.start(&["--drain", "60s"]);
    let mut client = server.connect();
    echo(&mut client, b"here");
    server.signal_all(Signal::SIGQUIT);
    echo(&mut client, b"still here");
    drop(client);
    server.end().well();

    let server = row.start(&["--drain", "60s"]);
    let mut client = server.connect();
    echo(&mut client, b"here");
    server.signal(Signal::SIGQUIT);
    echo(&mut client, b"still here");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().status.code(), Some(1));
}

/// To the server, and to each process that it has started.
fn unused_signals(row: &Row) {
    let server = row.start(&["--workers", "2"]);
    let mut before = row.is_concurrent().then(|| server.connect());
    before.iter_mut().for_each(|client| echo(client, b"before"));
    send_unused_signals(&server);
    before.iter_mut().for_each(|client| echo(client, b"and after"));
    drop(before);
    (0..20).for_each(|_| echo(&mut server.connect(), b"served as before"));
    nobody_was_replaced(&server);
    server.stop().well();
}

fn full_stdout(row: &Row) {
    let mut limited = Command::new("timeout");
    limited.arg("10").arg(echo_server()); // else one that serves would do so for ever
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut command = row.command(limited, &["--workers", "2"]);
    let child =
        command.arg("tcp://127.0.0.1:0").stdout(full).stderr(Stdio::piped()).spawn().expect("it starts");
    let ended = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.lines().filter(|line| line.contains("stdout: No space left")).count() == 1, "{said}");
}

fn no_drain(row: &Row) {
    let server = row.start(&["--drain", "0"]);
    let mut client = server.connect();
    echo(&mut client, b"here");
    let ended = server.stop();
    assert!(ended.took < Duration::from_secs(1), "it took {:?}", ended.took);
    ended.well();
    assert_eq!(client.read(&mut [0; 8]).expect("an end of file"), 0);
}

fn orphans(row: &Row) {
    let server = row.start(&[]);
    let mut client = connect(server.address);
    echo(&mut client, b"here");
    assert!(!children(server.pid()).is_empty());
    server.signal(Signal::SIGKILL);
    assert!(!server.end().status.success());
}

/// Clients that come again as soon as they are closed, more than a small pool can serve.
fn keep_coming(row: &Row) {
    let server = row.start_for(2, &["--work", "sleep:5ms", "--drain", "300ms"]);
    let (address, over) = (server.address, AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let Ok(mut client) = TcpStream::connect(address) else { continue };
                    let _ = client.set_read_timeout(Some(Duration::from_secs(1)));
                    let _ = client.write_all(b"again").and_then(|()| client.read(&mut [0; 8]).map(drop));
                }
            });
        }
        thread::sleep(Duration::from_millis(200)); // they are to be many
        let began = Instant::now();
        let ended = server.stop();
        over.store(true, Relaxed);
        assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
        ended.well();
    });
}

fn no_descriptors(row: &Row) {
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""]).arg(echo_server());
    let server = row.start_by(limited, &[&["--drain", "600ms"], few_workers(row)].concat());
    let mut clients: Vec<TcpStream> = (0..60).map(|_| server.connect()).collect();
    first_served(&mut clients);
    server.signal(Signal::SIGTERM);
    let before = activity(server.pid()).0;
    thread::sleep(Duration::from_millis(400)); // the time that is measured
    let used = activity(server.pid()).0.saturating_sub(before);
    assert!(used < Duration::from_millis(100), "used {used:?} of CPU while it waited for its clients");
    let ended = server.end();
    assert!(ended.took < Duration::from_secs(2), "it took {:?}", ended.took);
    ended.well();
}

/// More clients than workers, each of which would retire after one.
fn retiring(row: &Row) {
    let server = row.start(&["--workers", "2", "--max-requests-per-worker", "1", "--drain", "20s"]);
    let mut clients: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.write_all(b"in time").expect("sent");
        client.shutdown(Shutdown::Write).expect("half-closed");
    }
    server.signal(Signal::SIGTERM);
    for client in &mut clients {
        let mut heard = String::new();
        client.read_to_string(&mut heard).expect("the answer, and the end");
        assert_eq!(heard, "in time");
    }
    let ended = server.end();
    assert!(ended.took < Duration::from_secs(5), "it waited for nobody for {:?}", ended.took);
    assert_eq!(ended.well()["accepted"], 8);
}

/// A new server takes the path over while the old one drains.
fn succession(row: &Row) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("echo.sock");
    let start = || {
        let mut command = row.command(Command::new(echo_server()), &["--drain", "20s"]);
        command.arg(format!("unix://{}", path.display()));
        let server = Server::spawn(command);
        server.line();
        server
    };
    let old = start();
    let mut client = UnixStream::connect(&path).expect("connected");
    client.write_all(b"old").expect("sent");
    client.read_exact(&mut [0; 3]).expect("served");
    old.signal(Signal::SIGTERM);
    within(PATIENCE, "the old one listens no more", || UnixStream::connect(&path).is_err().then_some(()));
    let new = start();
    drop(client);
    old.end().well();
    UnixStream::connect(&path).expect("the new one's path is there");
    new.stop().well();
    assert!(!path.exists());
}
