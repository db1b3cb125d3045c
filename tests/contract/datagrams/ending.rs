//! How a server of datagrams ends: what was sent in time is answered, and nothing after it.

use std::{
    collections::HashSet,
    io::{self, ErrorKind},
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    contract::Promise,
    stage::{
        PATIENCE, Row, children,
        datagrams::{ask, client, hear_all, inodes, still_open, tell, waiting},
        echo_server,
        groups::GroupsFile,
        nobody_was_replaced, noise, send_unused_signals, within,
    },
};

pub const PROMISES: &[Promise] = &[
    ("a_signal_loses_no_answer_and_what_comes_later_gets_none", Row::is_plain, pending_answers),
    ("work_that_takes_too_long_does_not_hold_up_the_end", Row::is_plain, too_much_work),
    ("the_end_comes_though_datagrams_keep_coming", |_| true, keep_coming),
    ("the_second_signal_ends_the_server_at_once_with_status_1", Row::is_plain, second_signal),
    ("a_signal_that_means_nothing_changes_nothing", Row::is_plain, unused_signals),
    ("a_hangup_and_sigquit_end_it_in_order_and_the_groups_are_written", Row::is_plain, hangup_and_quit),
    ("when_the_server_is_killed_its_children_die_too", Row::forks, orphans),
    ("a_port_in_use_is_refused_before_anything_is_announced", Row::is_plain, port_in_use),
];

/// Ten clients have sent ten datagrams each, of which hardly one is answered yet.
fn pending_answers(row: &Row) {
    for at in ["127.0.0.1:0", "[::]:0"] {
        let server =
            row.start_at(at, Command::new(echo_server()), &["--work", "sleep:2ms", "--drain", "20s"]);
        let address = server.at(Ipv4Addr::LOCALHOST);
        let clients: Vec<UdpSocket> = (0..10).map(|_| client(address)).collect();
        let said: Vec<Vec<u8>> = (0..10).map(|n| noise(1000 + n)).collect();
        for datagram in &said {
            clients.iter().for_each(|client| tell(client, datagram));
        }
        let late = client(address);
        let its_own = within(PATIENCE, "its sockets are listed, at that port and among all", || {
            let listed = inodes(server.address);
            (!listed.is_empty() && still_open(&listed) == listed).then_some(listed)
        });
        let (mut sent, mut answered) = (0, 0);
        server.signal(Signal::SIGTERM);
        late.set_nonblocking(true).expect("non-blocking");
        within(PATIENCE, "nobody is at the port", || match late.send(b"late") {
            Ok(_) => {
                sent += 1;
                None
            }
            Err(error) => (error.kind() == ErrorKind::ConnectionRefused).then_some(()),
        });
        clients.iter().for_each(|client| hear_all(client, &said));
        let ended = server.end();
        assert!(ended.took < Duration::from_secs(5), "it waited for nobody for {:?}", ended.took);
        let figures = ended.well();
        answered += waiting(&late).len() as u64;
        assert_eq!(figures["datagrams_out"], 100 + answered, "{figures}");
        assert!(answered <= sent);
        // A ring gives its socket back a moment after its process has ended.
        // Another test may take the port at once; what the server had there is gone.
        assert_eq!(still_open(&its_own), HashSet::new(), "of the sockets that it had");
    }
}

/// More than the drain and the grace have time for.
fn too_much_work(row: &Row) {
    let server = row.start_for(1, &["--work", "sleep:50ms", "--drain", "300ms"]);
    let client = server.client();
    (0..100).for_each(|_| tell(&client, b"work"));
    let began = Instant::now();
    let ended = server.stop();
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    ended.well();
}

/// Clients that send on until nobody is at the port.
fn keep_coming(row: &Row) {
    let server = row.start_for(2, &["--drain", "300ms"]);
    let answers = AtomicUsize::new(0);
    let client = || {
        let client = server.client();
        client.set_nonblocking(true).expect("non-blocking");
        client
    };
    let clients = [client(), client()];
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| {
                let deadline = Instant::now() + PATIENCE;
                // ICMP's word comes to whichever call is next.
                let is_refused = |error: &io::Error| error.kind() == ErrorKind::ConnectionRefused;
                while !client.send(b"again").is_err_and(|error| is_refused(&error)) {
                    match client.recv(&mut [0; 8]) {
                        Ok(_) => {
                            answers.fetch_add(1, Relaxed);
                        }
                        Err(error) if is_refused(&error) => break,
                        Err(_) => {}
                    }
                    assert!(Instant::now() < deadline, "somebody is still at the port");
                }
            });
        }
        within(PATIENCE, "they are many", || (answers.load(Relaxed) > 1000).then_some(()));
        let began = Instant::now();
        let ended = server.stop();
        assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
        ended.well();
    });
}

fn second_signal(row: &Row) {
    let server = row.start_for(1, &["--work", "sleep:2s", "--drain", "60s"]);
    let client = server.client();
    (0..100).for_each(|_| tell(&client, b"work"));
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGINT);
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.took < Duration::from_secs(1), "it took {:?}", ended.took);
}

/// To the server, and to each process that it has started, the sessions of clients among them.
fn unused_signals(row: &Row) {
    let server = row.start(&["--workers", "2"]);
    let before = server.client();
    ask(&before, b"before");
    send_unused_signals(&server);
    ask(&before, b"and after");
    (0..20).for_each(|_| ask(&server.client(), b"served as before"));
    nobody_was_replaced(&server);
    server.stop().well();
}

fn hangup_and_quit(row: &Row) {
    for signal in [Signal::SIGHUP, Signal::SIGQUIT] {
        let file = GroupsFile::new();
        let server = row.start(&["--workers", "2", "--groups", file.path()]);
        ask(&server.client(), b"kept");
        server.signal_all(signal);
        server.end().well();
        assert_eq!(file.read().messages(), 1, "{signal}");
    }
}

fn orphans(row: &Row) {
    let server = row.start(&[]);
    let client = server.client();
    ask(&client, b"here");
    assert!(!children(server.pid()).is_empty());
    server.signal(Signal::SIGKILL);
    assert!(!server.end().status.success());
}

/// Also where several sockets share it: those are one server's.
fn port_in_use(row: &Row) {
    let there = row.start(&[]);
    let mut command = row.command(Command::new(echo_server()), &["--workers", "2"]);
    let refused = command.arg(format!("udp://{}", there.address)).output().expect("it ends");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{said}");
    assert!(said.contains("in use") && said.contains("another port"), "{said}");
}
