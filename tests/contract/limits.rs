//! The limits: how many clients, how long they may be silent, how full a queue, how many workers, and on which
//! sockets.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use crate::{
    contract::Promise,
    stage::{
        PATIENCE, Row, Server, address_in, children, connect, echo, echo_server, fill, noise, parent,
        until_quiet, within,
    },
};

pub const PROMISES: &[Promise] = &[
    ("beyond_max_connections_a_client_is_closed_at_once", Row::is_concurrent, max_connections),
    ("clients_that_reset_give_their_seats_back", Row::is_concurrent, seats_come_back),
    ("a_port_in_use_is_refused_before_anything_is_announced", Row::is_plain, port_in_use),
    ("beyond_max_per_ip_a_client_of_that_address_is_closed_at_once", Row::is_concurrent, max_per_ip),
    ("a_client_that_is_silent_for_too_long_is_closed_and_the_others_stay", |_| true, idle_timeout),
    ("a_client_that_takes_nothing_for_too_long_is_closed", |row| !row.is_bytewise(), stuck_timeout),
    ("a_client_that_takes_a_little_at_a_time_is_not_silent", |row| !row.is_bytewise(), slow_reader),
    ("a_client_that_waits_for_a_busy_server_is_not_silent", Row::is_plain, waits_for_us),
    ("select_refuses_whom_it_cannot_watch_and_serves_the_others", |row| row.model == "select", fd_setsize),
    ("a_worker_retires_after_so_many_clients_and_is_replaced", Row::is_pool, retires),
    ("a_path_is_served_like_a_port", Row::shares_a_listener, unix_domain),
    ("an_ipv6_wildcard_serves_both_families", |_| true, dual_stack),
    ("a_socket_that_a_service_manager_passes_is_served", Row::shares_a_listener, activation),
    ("a_loop_that_polls_busily_sleeps_when_nobody_speaks", |row| row.is_loop() && row.is_plain(), busy_poll),
    ("a_pool_serves_as_many_as_it_has_workers_and_then_the_next", Row::is_pool, as_many_as_workers),
    ("a_full_queue_refuses_or_blocks_as_told", |row| row.dispatch.as_deref() == Some("queue"), full_queue),
    (
        "a_silent_client_that_waits_in_the_queue_is_seen_off",
        |row| row.dispatch.as_deref() == Some("queue"),
        idle_in_queue,
    ),
    ("several_endpoints_have_a_process_each_and_end_together", |_| true, several_endpoints),
];

/// The end, whether it came as a FIN or as a reset: the client was closed unserved.
fn is_closed(client: &mut TcpStream) -> bool {
    matches!(client.read(&mut [0; 8]), Ok(0)) || client.take_error().is_ok_and(|error| error.is_some())
}

fn max_connections(row: &Row) {
    let server = row.start(&["--max-connections", "3"]);
    let mut seated: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    seated.iter_mut().for_each(|client| echo(client, b"in"));
    for _ in 0..5 {
        assert!(is_closed(&mut server.connect()));
    }
    seated.iter_mut().for_each(|client| echo(client, b"still in"));
    seated.pop();
    within(PATIENCE, "a seat that was given back is taken", || {
        let mut client = server.connect();
        client.write_all(b"in").ok()?;
        client.read_exact(&mut [0; 2]).ok()
    });
    drop(seated);
    let figures = server.stop().well();
    assert!(figures["refused"].as_u64() >= Some(5), "{figures}");
    assert_eq!(figures["refused"], figures["errors"]["max_connections"]);
    assert_eq!(figures["accepted"], 4, "{figures}");
}

fn as_many_as_workers(row: &Row) {
    let server = row.start_for(2, &[]);
    let (mut a, mut b) = (server.connect(), server.connect());
    echo(&mut a, b"a");
    echo(&mut b, b"b");
    let mut c = server.connect();
    c.write_all(b"c").expect("sent");
    c.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    c.read(&mut [0; 1]).expect_err("the third waits");
    drop(a);
    c.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    c.read_exact(&mut [0; 1]).expect("served when a worker is free");
    drop((b, c));
    let figures = server.stop().well();
    assert_eq!(figures["workers"].as_array().map(Vec::len), Some(2));
}

fn full_queue(row: &Row) {
    let args = ["--workers", "1", "--queue", "1", "--when-full"];
    let rejecting = row.start(&[&args[..], &["reject"]].concat());
    let mut served = rejecting.connect();
    echo(&mut served, b"served");
    let _queued = rejecting.connect();
    assert!(is_closed(&mut rejecting.connect()), "the queue is full");
    drop((served, _queued));
    let figures = rejecting.stop().well();
    assert_eq!((&figures["refused"], &figures["errors"]["queue_full"]), (&1.into(), &1.into()));

    let blocking = row.start(&[&args[..], &["block"]].concat());
    let mut clients: Vec<TcpStream> = (0..6).map(|_| blocking.connect()).collect();
    for mut client in clients.drain(..) {
        echo(&mut client, b"everybody in turn");
    }
    let figures = blocking.stop().well();
    assert_eq!((&figures["accepted"], &figures["refused"]), (&6.into(), &0.into()));
}

fn several_endpoints(row: &Row) {
    let server = row.start(&["tcp://127.0.0.1:0", "--drain", "1s"]);
    let second = address_in(&server.line());
    assert_ne!(server.address, second);
    let (mut a, mut b) = (server.connect(), connect(second));
    echo(&mut a, b"a");
    echo(&mut b, b"b");
    assert_eq!(
        children(server.pid()).iter().filter(|&&child| parent(child) == Some(server.pid())).count(),
        2
    );
    drop((a, b));
    assert_eq!(server.stop().well()["accepted"], 1);
}

fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    let source: IpAddr = source.parse().expect("an address");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("bound");
    socket.connect(&address.into()).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.into()
}

fn max_per_ip(row: &Row) {
    let server = row.start(&["--max-per-ip", "2", "--max-connections", "5"]);
    let mut seated: Vec<TcpStream> = ["127.0.0.1", "127.0.0.1", "127.0.0.2"]
        .iter()
        .map(|source| {
            let mut client = connect_from(source, server.address);
            echo(&mut client, b"in");
            client
        })
        .collect();
    assert!(is_closed(&mut connect_from("127.0.0.1", server.address)));
    echo(&mut connect_from("127.0.0.2", server.address), b"another address");
    seated.remove(0);
    within(PATIENCE, "the address's seat is free again", || {
        let mut client = connect_from("127.0.0.1", server.address);
        client.write_all(b"in").ok()?;
        client.read_exact(&mut [0; 2]).ok()
    });
    drop(seated);
    let figures = server.stop().well();
    assert!(figures["errors"]["max_per_ip"].as_u64() > Some(0), "{figures}");
    assert_eq!(figures["refused"], figures["errors"]["max_per_ip"], "{figures}");
}

fn idle_timeout(row: &Row) {
    const LIMIT: Duration = Duration::from_secs(1); // a busy machine may keep anybody waiting for a while
    let server = row.start(&["--idle-timeout", "1s"]);
    let mut active = row.is_concurrent().then(|| server.connect());
    let mut silent = server.connect();
    echo(&mut silent, b"and no more");
    let began = Instant::now();
    silent.set_nonblocking(true).expect("non-blocking");
    within(PATIENCE, "the silent client's end", || {
        if let Some(active) = &mut active {
            echo(active, b"still talking");
        }
        matches!(silent.read(&mut [0; 8]), Ok(0)).then_some(())
    });
    assert!(began.elapsed() >= LIMIT - Duration::from_millis(20), "after {:?}", began.elapsed());
    assert!(began.elapsed() < 4 * LIMIT, "after {:?}", began.elapsed());
    echo(&mut server.connect(), b"the next");
    drop(active);
    let figures = server.stop().well();
    assert!(figures["errors"]["idle_timeout"].as_u64() > Some(0), "{figures}");
}

fn stuck_timeout(row: &Row) {
    let server = row.start(&["--idle-timeout", "400ms"]);
    let stuck = server.connect();
    fill(&stuck);
    within(Duration::from_secs(5), "the stuck client's end", || match (&stuck).write(b"there?") {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Some(()),
        _ => None,
    });
    assert_eq!(server.stop().well()["errors"]["idle_timeout"], 1);
}

/// It sends more than anybody holds for it, and in the time that it may be silent for it reads a tenth of a send buffer.
fn slow_reader(row: &Row) {
    const LIMIT: Duration = Duration::from_millis(800);
    let (server, said) = (row.start(&["--idle-timeout", "800ms", "--drain", "0s"]), noise(48 << 20));
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    client.set_recv_buffer_size(32 << 10).expect("a small buffer"); // so that its kernel tells at once what is taken
    client.connect(&server.address.into()).expect("connected");
    client.set_nonblocking(true).expect("non-blocking");
    let (mut client, mut sent) = (TcpStream::from(client), 0);
    let (mut heard, mut room, until) = (Vec::<u8>::new(), [0; 8 << 10], Instant::now() + 4 * LIMIT);
    while Instant::now() < until {
        match client.write(&said[sent..]) {
            Ok(n) => sent += n,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "after {} bytes", heard.len()),
        }
        match client.read(&mut room) {
            Ok(n @ 1..) => heard.extend(&room[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            end => panic!("{end:?} after {} bytes", heard.len()),
        }
        thread::sleep(Duration::from_millis(20)); // it is slow
    }
    assert!(!heard.is_empty() && heard.len() < sent && heard == said[..heard.len()]);
    drop(client);
    assert_eq!(server.stop().well()["errors"]["idle_timeout"], serde_json::Value::Null);
}

/// Sixteen talk, and each answer takes longer than they may be silent for.
fn waits_for_us(row: &Row) {
    let server = row.start_for(17, &["--idle-timeout", "400ms", "--work", "sleep:50ms"]);
    let silent = row.is_concurrent().then(|| server.connect());
    let address = server.address;
    thread::scope(|scope| {
        let talk = move || {
            let mut client = connect(address);
            (0..2).for_each(|_| echo(&mut client, b"is it done?"));
        };
        (0..if row.is_concurrent() { 16 } else { 1 }).for_each(|_| drop(scope.spawn(talk)));
    });
    if let Some(mut silent) = silent {
        assert!(is_closed(&mut silent));
    }
    let seen_off = server.stop().well()["errors"]["idle_timeout"].as_u64();
    assert_eq!(seen_off, row.is_concurrent().then_some(1));
}

/// Its only worker is busy with one that talks; of those who wait for it, one has spoken. The queue has room for two: the
/// last two are in the producer's hand, and not yet accepted.
fn idle_in_queue(row: &Row) {
    let server = row.start(&["--workers", "1", "--queue", "2", "--idle-timeout", "400ms"]);
    let mut served = server.connect();
    echo(&mut served, b"served");
    let mut spoken = server.connect();
    spoken.write_all(b"spoken").expect("sent");
    let mut silent: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    silent.iter().for_each(|client| client.set_nonblocking(true).expect("non-blocking"));
    within(PATIENCE, "the end of all who are silent", || {
        echo(&mut served, b"still talking");
        silent.retain_mut(|client| !matches!(client.read(&mut [0; 8]), Ok(0)));
        silent.is_empty().then_some(())
    });
    drop(served);
    let mut heard = [0; 6];
    spoken.read_exact(&mut heard).expect("its turn");
    assert_eq!(&heard, b"spoken");
    drop(spoken);
    let figures = server.stop().well();
    assert_eq!((&figures["accepted"], &figures["refused"]), (&2.into(), &3.into()), "{figures}");
    assert_eq!(figures["errors"], serde_json::json!({"idle_timeout": 3}));
}

/// A set of select(2) holds descriptors below 1024.
fn fd_setsize(row: &Row) {
    let server = row.start(&[]);
    let clients: Vec<TcpStream> = (0..1100).map(|_| server.connect()).collect();
    let mut served = 0;
    for mut client in &clients {
        let _ = client.write_all(b"in");
        served += usize::from(client.read_exact(&mut [0; 2]).is_ok());
    }
    assert!((1000..1024).contains(&served), "{served} were served");
    drop(clients);
    within(PATIENCE, "served again", || {
        let mut client = server.connect();
        client.write_all(b"in").ok()?;
        client.read_exact(&mut [0; 2]).ok()
    });
    let figures = server.stop().well();
    assert!(figures["errors"]["unwatchable"].as_u64() >= Some(1100 - 1024), "{figures}");
}

fn retires(row: &Row) {
    let server = row.start(&["--workers", "2", "--max-requests-per-worker", "3"]);
    let first = children(server.pid());
    for _ in 0..30 {
        echo(&mut server.connect(), b"in and out");
    }
    if row.forks() {
        within(PATIENCE, "both workers have been replaced", || {
            let now = children(server.pid());
            (now.len() == 2 && now.iter().all(|child| !first.contains(child))).then_some(())
        });
    }
    let figures = server.stop().well();
    assert_eq!(figures["accepted"], 30);
    assert_eq!(figures["errors"], serde_json::json!({}), "to retire is no misfortune");
}

fn unix_domain(row: &Row) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("echo.sock");
    let mut command = row.command(Command::new(echo_server()), &["--drain", "1s"]);
    command.arg(format!("unix://{}", path.display()));
    let server = Server::spawn(command);
    assert_eq!(server.line()["endpoint"], format!("unix://{}", path.display()));
    let said = row.much(1 << 20);
    for _ in 0..3 {
        let client = UnixStream::connect(&path).expect("connected");
        thread::scope(|scope| {
            scope.spawn(|| {
                (&client).write_all(&said).expect("sent");
                client.shutdown(Shutdown::Write).expect("half-closed");
            });
            let mut heard = Vec::new();
            (&client).read_to_end(&mut heard).expect("all of it, and the end");
            assert!(heard == said);
        });
    }
    assert_eq!(server.stop().well()["accepted"], 3);
    assert!(!path.exists(), "the path is left behind");
}

fn dual_stack(row: &Row) {
    let mut command = row.command(Command::new(echo_server()), &[]);
    command.arg("tcp://[::]:0");
    let server = Server::start(command);
    let port = server.address.port();
    echo(&mut connect((Ipv6Addr::LOCALHOST, port).into()), b"IPv6");
    echo(&mut connect(([127, 0, 0, 1], port).into()), b"IPv4");
    assert_eq!(server.stop().well()["accepted"], 2);
}

/// sd_listen_fds(3): the sockets are the descriptors from 3 on.
fn activation(row: &Row) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut passing = Command::new("sh");
    passing.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 0</dev/null"]).arg(echo_server());
    let mut command = row.command(passing, &[]);
    command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().expect("a copy"))));
    let server = Server::spawn(command);
    assert_eq!(address_in(&server.line()), address);
    echo(&mut connect(address), b"passed on");
    assert_eq!(server.stop().well()["accepted"], 1);
    // It is the service manager's, who would start the next server for this client.
    connect(address);
    listener.accept().expect("it listens still");
}

fn busy_poll(row: &Row) {
    let server = row.start(&["--busy-poll", "20ms"]);
    let mut client = server.connect();
    (0..100).for_each(|_| echo(&mut client, b"quick"));
    until_quiet(server.pid());
    echo(&mut client, b"and wakes");
    drop(client);
    server.stop().well();
}

fn seats_come_back(row: &Row) {
    let server = row.start(&["--workers", "4", "--max-connections", "4"]);
    for _ in 0..200 {
        let client = server.connect();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
    }
    let mut seated: Vec<TcpStream> = Vec::new();
    within(PATIENCE, "all four seats are free", || {
        let mut client = server.connect();
        client.write_all(b"in").ok()?;
        client.read_exact(&mut [0; 2]).ok()?;
        seated.push(client);
        (seated.len() == 4).then_some(())
    });
    assert!(row.is_pool() || is_closed(&mut server.connect()));
    drop(seated);
    server.stop().well();
}

fn port_in_use(row: &Row) {
    let there = row.start(&[]);
    let mut command = row.command(Command::new(echo_server()), &["--workers", "2"]);
    let refused = command.arg(format!("tcp://{}", there.address)).output().expect("it ends");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{said}");
    assert!(said.contains("in use") && said.contains("another port"), "{said}");
}
