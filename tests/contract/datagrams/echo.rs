//! One datagram in, the same datagram out, to its sender, from the address that it was sent to; and what it costs.

use std::{
    collections::HashSet,
    mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use nix::{ifaddrs::getifaddrs, sys::signal::Signal};

use super::groups;
use crate::{
    contract::Promise,
    stage::{
        PATIENCE, Row, Server, Transport, Watched, activity, address_in, anonymous_memory, connect, count,
        datagrams::{
            Everybody, LONGEST, ask, backlog_drops, burst, client, client_at, hear, hear_all, losses,
            receive, status, tell, waiting,
        },
        echo, echo_server,
        groups::GroupsFile,
        holdings, noise, settled, watch_idle, within,
    },
};

pub const PROMISES: &[Promise] = &[
    ("a_datagram_comes_back_as_it_was", |_| true, sizes),
    ("a_burst_comes_back_with_every_boundary", |_| true, bursts),
    ("every_client_gets_its_own_answers_and_what_is_lost_is_counted", |_| true, crowd),
    ("an_answer_comes_from_the_address_that_was_asked", |_| true, addresses),
    ("clients_that_vanish_cost_nobody_else", |_| true, vanishing),
    ("more_clients_than_it_could_remember_cost_bounded_memory", Row::is_plain, many_addresses),
    ("what_the_kernel_drops_is_counted_apart", Row::is_plain, kernel_drops),
    ("an_idle_server_with_idle_clients_does_nothing", Row::is_plain, idle),
    ("nothing_outlives_its_clients", |_| true, nothing_outlives),
    ("work_delays_an_answer_and_changes_none", Row::is_plain, work),
    ("streams_and_datagrams_are_served_side_by_side", serves_streams, both_transports),
    (
        "a_socket_that_a_service_manager_passes_is_served_and_left_to_the_next_server",
        Row::is_plain,
        activation,
    ),
];

/// A frame of Ethernet holds 1,472 bytes; the first is empty, the last the longest there is.
const SIZES: [usize; 7] = [0, 1, 512, 1472, 1473, 9000, LONGEST];

fn sizes(row: &Row) {
    let server = row.start(&[]);
    let client = server.client();
    for length in SIZES {
        ask(&client, &noise(length));
    }
    // All at once, beside another's: none is joined with another, or cut.
    let other = server.client();
    let said = SIZES.map(noise);
    for datagram in &said {
        tell(&client, datagram);
        tell(&other, &datagram[datagram.len() / 2..]);
    }
    hear_all(&client, &said);
    hear_all(&other, &said.map(|datagram| datagram[datagram.len() / 2..].to_vec()));
    assert_eq!(status(&server)["datagrams_in"], 21, "{}", status(&server));
    let figures = server.stop().well();
    assert_eq!((&figures["datagrams_in"], &figures["dropped"]), (&21.into(), &serde_json::json!({})));
    let bytes = SIZES.iter().map(|length| 2 * length + length.div_ceil(2)).sum::<usize>();
    assert_eq!((&figures["bytes_in"], &figures["bytes_out"]), (&bytes.into(), &bytes.into()));
}

/// Pieces that the kernel takes and gives as one: of many, of two, of one byte each, of the longest; with and
/// without a shorter last one.
fn bursts(row: &Row) {
    let server = row.start(&[]);
    let clients = [server.client(), server.client()];
    let shapes = [(1600, 100), (1601, 100), (1637, 100), (101, 100), (99, 100), (64, 1), (LONGEST, 1400)];
    for (length, segment) in shapes {
        // What differs at every place shows a datagram that begins elsewhere.
        let said = noise(length);
        let datagrams: Vec<Vec<u8>> = said.chunks(segment).map(<[u8]>::to_vec).collect();
        clients.iter().for_each(|client| burst(client, &said, segment));
        clients.iter().for_each(|client| hear_all(client, &datagrams));
    }
    // Among others.
    let said = noise(4000);
    let mut datagrams: Vec<Vec<u8>> = said.chunks(1100).map(<[u8]>::to_vec).collect();
    datagrams.extend([noise(5), noise(0), noise(1100)]);
    for client in &clients {
        tell(client, &noise(5));
        burst(client, &said, 1100);
        tell(client, &noise(0));
        tell(client, &noise(1100));
    }
    clients.iter().for_each(|client| hear_all(client, &datagrams));
    server.stop().well();
}

/// One of many, and what it has heard.
struct Talker {
    number: usize,
    socket: UdpSocket,
    heard: HashSet<usize>,
}

impl Talker {
    fn message(&self, number: usize) -> Vec<u8> {
        let said = format!("client {} message {number} ", self.number).into_bytes();
        said.into_iter().cycle().take(40 + number % 100).collect()
    }

    /// Takes what has come by now: each is one of its own, for the first time.
    fn hear(&mut self) {
        let mut room = [0; 256];
        while let Ok(length) = receive(&self.socket, &mut room) {
            let text = String::from_utf8_lossy(&room[..length]);
            let number = text.split(' ').nth(3).and_then(|number| number.parse().ok());
            let number = number.unwrap_or_else(|| panic!("client {} got {text:?}", self.number));
            assert!(room[..length] == self.message(number), "client {} got {text:?}", self.number);
            assert!(self.heard.insert(number), "client {} got {number} twice", self.number);
        }
    }
}

/// 200 clients, 128 numbered messages each; 16 of each are on their way. What is kept of them stands under the right
/// one, in order.
fn crowd(row: &Row) {
    let messages = if row.is_plain() { 128 } else { 16 };
    let file = GroupsFile::new();
    let server = groups::start(row, &file, &[]);
    let talker = |number| {
        let socket = server.client();
        socket.set_nonblocking(true).expect("non-blocking");
        Talker { number, socket, heard: HashSet::new() }
    };
    let mut crowd: Vec<Talker> = (0..200).map(talker).collect();
    let numbers: Vec<usize> = (0..messages).collect();
    let (mut said, backlog) = (0, backlog_drops());
    let nobodys = || (backlog_drops() - backlog) as usize;
    for numbers in numbers.chunks(16) {
        for talker in &crowd {
            for &number in numbers {
                tell(&talker.socket, &talker.message(number));
                said += 1;
            }
        }
        let mut last = 0;
        within(PATIENCE, "every answer, or a count of what is lost", || {
            crowd.iter_mut().for_each(Talker::hear);
            let heard: usize = crowd.iter().map(|talker| talker.heard.len()).sum();
            let stands_still = mem::replace(&mut last, heard) == heard;
            let is_accounted = || {
                let known = heard + losses(&server) as usize;
                known <= said && said <= known + nobodys()
            };
            (heard == said || stands_still && is_accounted()).then_some(())
        });
    }
    let (groups, figures) = groups::last_file(server, &file);
    crowd.iter_mut().for_each(Talker::hear);
    let heard: usize = crowd.iter().map(|talker| talker.heard.len()).sum();
    assert_eq!(count(&figures["datagrams_out"]), heard as u64, "{figures}");
    let came = count(&figures["datagrams_in"]) + count(&figures["dropped"]["kernel"]);
    let never_came = (said as u64).checked_sub(came);
    assert!(
        never_came.is_some_and(|n| n <= nobodys() as u64),
        "of {said}, {} nobody's: {figures}",
        nobodys()
    );
    assert_eq!((groups.clients.len(), groups.messages()), (crowd.len(), heard), "{figures}");
    for talker in &crowd {
        let kept = &groups.clients[&talker.socket.local_addr().expect("an address")].messages;
        let mut all = (0..messages).map(|number| talker.message(number));
        let in_order = kept.iter().all(|message| all.any(|next| next == *message));
        assert!(in_order, "client {}: {kept:?}", talker.number);
    }
}

fn start_at(row: &Row, address: &str) -> Server {
    row.start_at(address, Command::new(echo_server()), &[])
}

/// A client that is connected hears whoever has the address that it asked, and nobody else.
fn addresses(row: &Row) {
    const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    for wildcard in ["0.0.0.0:0", "[::]:0"] {
        let server = start_at(row, wildcard);
        let mut asked = vec![client(server.at(Ipv4Addr::LOCALHOST)), client(server.at(SECOND))];
        asked.push(client_at(Ipv4Addr::new(127, 0, 0, 3), server.at(SECOND)));
        if server.address.is_ipv6() {
            asked.push(client(server.at(Ipv6Addr::LOCALHOST)));
            asked.extend(of_one_link(&server));
        }
        for client in &asked {
            SIZES.iter().for_each(|&length| ask(client, &noise(length)));
            burst(client, &noise(4000), 1100);
            hear_all(client, &noise(4000).chunks(1100).map(<[u8]>::to_vec).collect::<Vec<_>>());
        }
        server.stop().well();
    }
}

/// A client of an address that means something on its interface alone, if this machine has one.
fn of_one_link(server: &Server) -> Option<UdpSocket> {
    let addresses = getifaddrs().expect("the interfaces").filter_map(|interface| interface.address);
    let v6 = addresses.filter_map(|address| address.as_sockaddr_in6().map(|it| SocketAddrV6::from(*it)));
    let mut address = v6.into_iter().find(|address| address.ip().is_unicast_link_local())?;
    let client = UdpSocket::bind(address).ok()?; // the interface may be down
    address.set_port(server.address.port());
    client.connect(address).expect("connected");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    Some(client)
}

/// They are gone before their answer, and ICMP says so to the server.
fn vanishing(row: &Row) {
    let server = row.start(&[]);
    let bystander = server.client();
    for n in 0..100 {
        let client = server.client();
        (0..3).for_each(|_| drop(client.send(&noise(n))));
        drop(client);
        ask(&bystander, b"undisturbed");
    }
    let figures = server.stop().well();
    assert_eq!(figures["datagrams_in"], 400, "{figures}");
    assert_eq!((&figures["errors"], &figures["dropped"]), (&serde_json::json!({}), &serde_json::json!({})));
}

/// More for one of the loops, and fewer where each costs a process or a thread. The first quarter touches what is
/// touched for the first time; after it, fifty bytes for each would be too much.
fn many_addresses(row: &Row) {
    let (clients, most) = match row.model.as_str() {
        "fork" => (5_000, 512 << 20),
        "thread" => (20_000, 512 << 20),
        "event-loop" => (200_000, 2 << 20),
        _ => (50_000, 2 << 20),
    };
    let server = row.start(&["--workers", "4", "--idle-timeout", "500ms"]);
    let everybody = Everybody::new();
    let a_quarter = clients / 4;
    everybody.ask(&server, 0..a_quarter);
    let before = anonymous_memory(server.pid());
    everybody.ask(&server, a_quarter..clients);
    let grown = anonymous_memory(server.pid()).saturating_sub(before);
    assert!(grown < most, "{grown} bytes more after {clients} clients");
    // While too many sessions are ending at once, nobody new has one.
    let (client, mut sent) = (server.client(), clients);
    within(PATIENCE, "somebody new is served", || {
        tell(&client, b"after all");
        sent += 1;
        (!waiting(&client).is_empty()).then_some(())
    });
    let figures = server.stop().well();
    let came = count(&figures["datagrams_in"]) + count(&figures["dropped"]["kernel"]);
    assert_eq!(came, u64::from(sent), "{figures}");
}

/// A server that is stopped for a moment, while more comes than its buffers hold.
fn kernel_drops(row: &Row) {
    let server = row.start(&[]);
    let client = server.client();
    ask(&client, b"before");
    server.signal_all(Signal::SIGSTOP);
    let said = noise(60_000);
    let mut sent = 1;
    while losses(&server) == 0 {
        (0..50).for_each(|_| tell(&client, &said));
        sent += 50;
        assert!(sent < 5_000, "it takes without bound");
    }
    server.signal_all(Signal::SIGCONT);
    // Its answers may find no room here.
    within(PATIENCE, "it answers again", || {
        tell(&client, b"after");
        sent += 1;
        waiting(&client).contains(&b"after".to_vec()).then_some(())
    });
    let figures = server.stop().well();
    let (came, dropped) = (count(&figures["datagrams_in"]), count(&figures["dropped"]["kernel"]));
    assert!(came > 1 && dropped > 0, "{figures}");
    assert_eq!(came + dropped, sent, "{figures}");
}

/// Nor does one that keeps groups.
fn idle(row: &Row) {
    static WATCHED: LazyLock<Watched> = LazyLock::new(|| {
        watch_idle(Transport::Udp, |row| {
            let file = GroupsFile::new();
            let workers = ["--workers", "8"];
            let servers = vec![row.start(&workers), groups::start(row, &file, &workers)];
            let crowd = |server: &Server| (0..100).map(|_| server.client()).collect::<Vec<UdpSocket>>();
            let clients: Vec<UdpSocket> = servers.iter().flat_map(crowd).collect();
            clients.iter().for_each(|client| ask(client, b"once"));
            (servers, (clients, file))
        })
    });
    WATCHED[&row.label()].as_ref().expect("idle");
}

/// What stands for a client, where something does, ends when it has been silent for long enough.
fn nothing_outlives(row: &Row) {
    let server = row.start(&["--workers", "4", "--idle-timeout", "300ms"]);
    let alone = || within(PATIENCE, "nobody is served", || (status(&server)["active"] == 0).then_some(()));
    ask(&server.client(), b"warm");
    alone();
    let before = settled(server.pid());
    for _ in 0..3 {
        let clients: Vec<UdpSocket> = (0..8).map(|_| server.client()).collect();
        clients.iter().for_each(|client| ask(client, b"come and gone"));
    }
    alone();
    within(Duration::from_secs(2), "everything that was held for clients is given back", || {
        (holdings(server.pid()) <= before).then_some(())
    });
    server.stop().well();
}

fn work(row: &Row) {
    let slow = row.start(&["--work", "sleep:50ms"]);
    let client = slow.client();
    let began = Instant::now();
    ask(&client, b"slowly");
    assert!(began.elapsed() >= Duration::from_millis(50));
    // Each datagram of a burst is a message.
    let busy = row.start(&["--work", "cpu:100us"]);
    let client = busy.client();
    let before = activity(busy.pid()).0;
    burst(&client, &noise(2000), 100);
    (0..20).for_each(|_| drop(hear(&client)));
    let used = activity(busy.pid()).0 - before;
    assert!(used >= Duration::from_millis(2), "{used:?}");
}

/// Those whose dispatch is one of streams too.
fn serves_streams(row: &Row) -> bool {
    row.is_plain() && row.dispatch.as_deref() != Some("shared")
}

fn both_transports(row: &Row) {
    let mut command = row.command(Command::new(echo_server()), &["--drain", "1s"]);
    command.args(["tcp://127.0.0.1:0", "udp://127.0.0.1:0"]);
    let server = Server::start(command);
    let second = server.line();
    let mut endpoints = [server.address, address_in(&second)];
    if second["endpoint"].as_str().is_some_and(|it| it.starts_with("tcp")) {
        endpoints.reverse();
    }
    let [streams, datagrams] = endpoints;
    echo(&mut connect(streams), b"a stream");
    ask(&client(datagrams), b"a datagram");
    server.stop().well();
}

/// sd_listen_fds(3). Who blocks in receiving could not be woken at the end without ending the socket for all who hold it, so
/// only loops take one.
fn activation(row: &Row) {
    let passed = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = passed.local_addr().expect("an address");
    let start = || {
        let mut passing = Command::new("sh");
        passing
            .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 0</dev/null"])
            .arg(echo_server());
        let mut command = row.command(passing, &[]);
        command.stdin(Stdio::from(OwnedFd::from(passed.try_clone().expect("a copy"))));
        command
    };
    if !row.is_loop() {
        let output = start().output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), said.lines().count(), output.stdout.len()),
            (Some(2), 1, 0),
            "{said}"
        );
        assert!(said.contains("--model event-loop"), "{said}");
        return;
    }
    for _ in 0..2 {
        let server = Server::spawn(start());
        assert_eq!(address_in(&server.line()), address);
        ask(&client(address), b"passed on");
        assert_eq!(server.stop().well()["datagrams_out"], 1);
    }
    // It is the service manager's, who would start the next server for this datagram.
    passed.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    passed.set_nonblocking(false).expect("blocking");
    tell(&client(address), b"for the next");
    assert_eq!(passed.recv(&mut [0; 99]).expect("it receives still"), 12);
}
