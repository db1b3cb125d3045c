//! Who gets no answer: whom it would make talk in turn, and who asks too much; and that each is counted.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::Command,
    time::Instant,
};

use socket2::SockRef;

use crate::{
    contract::Promise,
    stage::{
        PATIENCE, Row, Server, count,
        datagrams::{
            ask, burst, can_forge, client, client_at, client_of_port, forge, hear, own_address, status, tell,
            waiting,
        },
        echo_server, within,
    },
};

pub const PROMISES: &[Promise] = &[
    ("a_port_that_would_answer_the_answer_gets_none", |_| true, reflection),
    ("with_reflect_any_every_port_is_answered", Row::is_plain, reflect_any),
    ("what_is_sent_to_many_gets_no_answer", |_| true, sent_to_many),
    ("two_servers_that_are_pointed_at_each_other_do_not_loop", |_| true, two_servers),
    ("what_another_server_has_answered_is_not_answered", Row::is_plain, marked),
    ("a_datagram_that_another_echo_server_sends_back_and_back_ends", Row::is_plain, circulating),
    ("beyond_the_rate_limit_an_address_gets_no_answer_and_the_others_do", |_| true, rate_limit),
];

/// Ports whose services answer, and two that are kept for the system's: echo, chargen, domain, NTP; SQL Server's
/// browser, SSDP, Apple Remote Desktop, STUN, WS-Discovery, SIP, Sentinel, NAT-PMP, mDNS, LLMNR, CoAP, Ubiquiti's
/// discovery, memcached, Source, Quake 3.
const ANSWERING: [u16; 21] = [
    7, 19, 53, 123, 900, 1023, 1434, 1900, 3283, 3478, 3702, 5060, 5093, 5351, 5353, 5355, 5683, 10001,
    11211, 27015, 27960,
];

/// Clients at such ports, and at the server's own.
fn tempters(server: &Server) -> Vec<UdpSocket> {
    let (ports, address) = (ANSWERING.into_iter().chain([server.address.port()]), own_address());
    ports.filter_map(|port| client_of_port(address, port, server.address)).collect()
}

fn reflection(row: &Row) {
    let server = row.start(&[]);
    let honest = server.client();
    let tempters = tempters(&server);
    ask(&honest, b"before");
    let address = own_address();
    let beside = [1024, 1899, 1901, 27961].map(|port| client_of_port(address, port, server.address));
    beside.iter().flatten().for_each(|client| ask(client, b"a port like any other"));
    tempters.iter().for_each(|client| tell(client, b"answer me"));
    let mut refused = tempters.len();
    if can_forge() {
        forge(SocketAddr::new(own_address(), 0), server.address, b"from nowhere");
        refused += 1;
    }
    ask(&honest, b"after");
    let figures = server.stop().well();
    assert_eq!(figures["dropped"], serde_json::json!({ "reflection": refused }), "{figures}");
    assert_eq!(figures["datagrams_out"], 6, "{figures}");
    assert!(tempters.iter().all(|client| waiting(client).is_empty()), "somebody got an answer");
}

/// But for port 0, which nobody has.
fn reflect_any(row: &Row) {
    let server = row.start(&["--reflect-any"]);
    for client in tempters(&server) {
        ask(&client, b"answer me");
    }
    let nowhere = can_forge();
    if nowhere {
        forge(SocketAddr::new(own_address(), 0), server.address, b"from nowhere");
    }
    ask(&server.client(), b"after");
    let figures = server.stop().well();
    assert_eq!(count(&figures["dropped"]["undeliverable"]), u64::from(nowhere), "{figures}");
    assert_eq!(figures["dropped"]["reflection"], serde_json::Value::Null, "{figures}");
}

/// A broadcast address, and a multicast address whose members all hosts are; on the loopback interface.
fn sent_to_many(row: &Row) {
    for wildcard in ["0.0.0.0:0", "[::]:0"] {
        let server = row.start_at(wildcard, Command::new(echo_server()), &[]);
        let caller = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        caller.set_broadcast(true).expect("an option");
        SockRef::from(&caller).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).expect("an option");
        for many in [[127, 255, 255, 255], [224, 0, 0, 1]] {
            caller.send_to(b"everybody", server.at(many)).expect("sent");
        }
        let is_ipv6 = server.address.is_ipv6();
        ask(&client(server.at(Ipv4Addr::LOCALHOST)), b"one");
        let figures = server.stop().well();
        assert_eq!(figures["datagrams_out"], 1, "{figures}");
        let dropped = &figures["dropped"];
        // Each socket of several gets a copy. One of both families is not told what a broadcast address is, and no
        // member of an IPv4 group.
        let counted = count(&dropped["not_to_one"]) + count(&dropped["undeliverable"]);
        assert!(counted >= if is_ipv6 { 1 } else { 2 }, "{figures}");
        assert!(waiting(&caller).is_empty(), "it answers everybody");
    }
}

/// The first datagram says to one that it comes from the other.
fn two_servers(row: &Row) {
    if !can_forge() {
        return;
    }
    let (v4, v6): (IpAddr, IpAddr) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    for (wheres, ip) in [(["127.0.0.1:0"; 2], v4), (["[::1]:0"; 2], v6), (["[::]:0", "0.0.0.0:0"], v4)] {
        let servers = wheres.map(|at| row.start_at(at, Command::new(echo_server()), &[]));
        let [a, b] = servers.each_ref().map(|server| server.at(ip));
        forge(a, b, b"ping");
        forge(b, a, b"pong");
        let figures = || servers.each_ref().map(|server| count(&status(server)["datagrams_in"]));
        let came = within(PATIENCE, "both have heard it", || {
            let came = figures();
            (came.iter().all(|&n| n > 0)).then_some(came)
        });
        // They would exchange many a millisecond.
        assert!(came.iter().all(|&n| n < 4), "they talk: {came:?}");
        within(PATIENCE, "silence", || (figures() == figures()).then_some(()));
        for server in servers {
            let figures = server.stop().well();
            assert!(count(&figures["datagrams_in"]) < 4, "{figures}");
        }
    }
}

/// The mark of an answer, a code point of RFC 2474; the last two bits are not its.
const MARK: u32 = 43 << 2;

fn marked(row: &Row) {
    for (at, ip) in [("127.0.0.1:0", IpAddr::V4(Ipv4Addr::LOCALHOST)), ("[::]:0", Ipv6Addr::LOCALHOST.into())]
    {
        let server = row.start_at(at, Command::new(echo_server()), &[]);
        let client = client(server.at(ip));
        ask(&client, b"before");
        let mark = |mark| match ip.is_ipv4() {
            true => SockRef::from(&client).set_tos_v4(mark),
            false => SockRef::from(&client).set_tclass_v6(mark),
        };
        for marked in [MARK, MARK | 1, MARK | 2] {
            mark(marked).expect("an option");
            tell(&client, b"an answer");
        }
        mark(MARK + 4).expect("an option");
        ask(&client, b"another code point");
        let figures = server.stop().well();
        assert_eq!((&figures["datagrams_in"], &figures["dropped"]["kernel"]), (&2.into(), &3.into()));
        assert!(waiting(&client).is_empty());
    }
}

/// The client is that server: it says again whatever it hears.
fn circulating(row: &Row) {
    let limit = ["--workers", "2", "--max-repeats", "50"];
    let server = row.start(&limit);
    let (foreign, honest) = (server.client(), server.client());
    tell(&foreign, b"round and round");
    for _ in 0..50 {
        let heard = hear(&foreign);
        tell(&foreign, &heard);
    }
    within(PATIENCE, "an answer is left out", || {
        (count(&status(&server)["dropped"]["loop"]) == 1).then_some(())
    });
    assert!(waiting(&foreign).is_empty(), "it goes round");
    (0..100).for_each(|n| ask(&honest, &[n]));
    ask(&foreign, b"round and round");
    let figures = server.stop().well();
    assert_eq!(figures["dropped"], serde_json::json!({ "loop": 1 }), "{figures}");

    let reflecting = row.start(&[&limit[..], &["--reflect-any"]].concat());
    let foreign = reflecting.client();
    (0..60).for_each(|_| ask(&foreign, b"round and round"));
}

fn rate_limit(row: &Row) {
    let began = Instant::now();
    let server = row.start(&["--rate-limit", "20"]);
    // One address, and many ports, so that every worker hears of it.
    let greedy: Vec<UdpSocket> = (0..10).map(|_| server.client()).collect();
    // Two others, since one address in 65,536 shares the first one's rate.
    let modest = [(); 2].map(|()| client_at(own_address(), server.address));
    for _ in 0..10 {
        greedy.iter().chain(&modest).for_each(|client| tell(client, b"more"));
    }
    // A burst counts as what is in it.
    burst(&greedy[0], &[7; 300], 3);
    let figures = server.stop().well();
    let answers = |client| waiting(client).len();
    let answered: usize = greedy.iter().map(answers).sum();
    let may = (20.0 * (1.0 + began.elapsed().as_secs_f64())) as usize;
    assert!((20..=may).contains(&answered), "{answered} of 200 were answered, {may} may be");
    let others = modest.each_ref().map(answers);
    assert!(others.contains(&10), "{others:?} of 10 were answered");
    let all = answered + others.iter().sum::<usize>();
    assert_eq!(figures["dropped"], serde_json::json!({ "rate_limit": 220 - all }), "{figures}");
    assert_eq!(figures["datagrams_out"], all, "{figures}");
}
