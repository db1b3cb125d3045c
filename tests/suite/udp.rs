//! `echo-client` over UDP: what becomes of each datagram is told, and servers that do it wrong are found out.

use std::{
    collections::BTreeSet,
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    cmsg_space,
    sys::{
        resource::{Resource, getrlimit},
        socket::{
            ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
            sockopt::UdpGroSegment,
        },
    },
};
use serde_json::Value;
use socket2::SockRef;

use crate::{
    stage::{
        PATIENCE, Row, Server, Transport,
        datagrams::{in_a_network, status},
        echo_client, noise, run_with, stay_on_one_processor, unanswered, within,
    },
    suite::{
        Promise,
        load::{is_measured, load_at, text},
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    an_honest_server_is_not_accused_whatever_the_size_and_depth,
    a_lost_datagram_is_counted_and_stops_nobody,
    a_datagram_that_comes_twice_is_counted,
    a_datagram_that_comes_after_a_later_one_is_counted_and_is_no_fault,
    a_datagram_that_comes_too_late_is_told_from_one_that_is_lost,
    a_flipped_bit_is_found_and_named,
    a_flipped_bit_is_not_seen_by_who_does_not_look,
    a_bit_flipped_in_a_clients_name_makes_it_nobody_elses,
    a_datagram_that_is_cut_is_found_and_named,
    datagrams_that_are_joined_are_found_and_named,
    another_clients_bytes_are_found_and_their_owner_named,
    bytes_that_nobody_sent_are_foreign,
    a_server_that_floods_its_clients_does_not_keep_the_load_from_its_end,
    silence_is_no_result_and_the_kernel_says_what_did_not_fit,
    where_nobody_serves_that_is_said,
    a_summary_of_datagrams_fits_eighty_columns,
    who_thinks_sends_no_more_than_thought_allows,
    bursts_leave_in_one_call_and_every_boundary_is_kept,
    a_burst_goes_on_when_some_of_it_are_lost,
    what_departs_together_leaves_in_one_call_in_either_loop_and_every_boundary_is_kept,
    where_the_kernel_does_not_cut_they_leave_all_the_same,
    what_the_kernel_drops_at_a_clients_socket_is_told_from_what_others_lose,
    what_the_kernel_drops_at_the_servers_socket_is_told_from_what_others_lose,
    what_the_server_itself_drops_is_not_put_down_to_the_kernel,
    clients_come_from_the_sources_in_turns_and_from_more_of_loopback_where_one_has_too_few_ports,
    what_is_typed_is_what_is_printed_a_datagram_a_line,
    talk_counts_what_was_lost_and_goes_on,
    talk_does_not_print_a_late_answer_where_anothers_belongs,
    talk_prints_a_changed_answer_and_fails,
    talk_says_in_one_line_when_nobody_serves_there_or_a_line_is_too_long,
];

/// What a liar does with a datagram: what it sends, and to whom.
type Lie = fn(&mut State, SocketAddr, Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)>;

/// What a liar remembers.
struct State {
    heard: u64,
    kept: Vec<(Instant, SocketAddr, Vec<u8>)>,
    /// How often it has lied.
    lies: Arc<AtomicU64>,
}

impl State {
    /// Every tenth time, a lie.
    fn is_to_lie(&self) -> bool {
        let lies = self.heard.is_multiple_of(10);
        self.lies.fetch_add(lies.into(), Relaxed);
        lies
    }
}

/// With room for all that a test sends, so that the kernel drops nothing.
fn bound() -> (UdpSocket, SocketAddr) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    SockRef::from(&server).set_recv_buffer_size(4 << 20).unwrap();
    let address = server.local_addr().unwrap();
    (server, address)
}

/// Serves for as long as the test runs; returns where, and how often it has lied.
fn start(lie: Lie) -> (SocketAddr, Arc<AtomicU64>) {
    let (server, address) = bound();
    let lies = Arc::new(AtomicU64::new(0));
    let mut state = State { heard: 0, kept: Vec::new(), lies: Arc::clone(&lies) };
    thread::spawn(move || {
        let mut room = vec![0; 1 << 16];
        while let Ok((n, from)) = server.recv_from(&mut room) {
            state.heard += 1;
            for (to, bytes) in lie(&mut state, from, room[..n].to_vec()) {
                let _ = server.send_to(&bytes, to);
            }
        }
    });
    (address, lies)
}

fn honest(_: &mut State, from: SocketAddr, bytes: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    vec![(from, bytes)]
}

fn loses(state: &mut State, from: SocketAddr, bytes: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    if state.is_to_lie() { vec![] } else { vec![(from, bytes)] }
}

fn duplicates(state: &mut State, from: SocketAddr, bytes: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    vec![(from, bytes); if state.is_to_lie() { 2 } else { 1 }]
}

/// Keeps one until that client's next is there, and answers that one first.
fn reorders(state: &mut State, from: SocketAddr, bytes: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    if let Some(at) = state.kept.iter().position(|(_, client, _)| *client == from) {
        let (_, _, earlier) = state.kept.remove(at);
        return vec![(from, bytes), (from, earlier)];
    }
    if state.is_to_lie() {
        state.kept.push((Instant::now(), from, bytes));
        return vec![];
    }
    vec![(from, bytes)]
}

/// Keeps one for longer than a client waits.
fn is_late(state: &mut State, from: SocketAddr, bytes: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    let is_due = |(since, ..): &mut (Instant, SocketAddr, Vec<u8>)| since.elapsed() > 2 * TIMEOUT;
    let mut answers: Vec<_> = state.kept.extract_if(.., is_due).map(|(_, to, bytes)| (to, bytes)).collect();
    if state.is_to_lie() {
        state.kept.push((Instant::now(), from, bytes));
    } else {
        answers.push((from, bytes));
    }
    answers
}

const TIMEOUT: Duration = Duration::from_millis(400);

/// Flips a bit of its 31st byte: one that is noise.
fn flips_a_bit(state: &mut State, from: SocketAddr, mut bytes: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    bytes[30] ^= if state.is_to_lie() { 0x20 } else { 0 };
    vec![(from, bytes)]
}

/// Flips a bit where a datagram says whose it is.
fn flips_a_bit_of_the_name(
    state: &mut State,
    from: SocketAddr,
    mut bytes: Vec<u8>,
) -> Vec<(SocketAddr, Vec<u8>)> {
    bytes[8] ^= u8::from(state.is_to_lie());
    vec![(from, bytes)]
}

fn cuts(state: &mut State, from: SocketAddr, mut bytes: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    bytes.truncate(bytes.len() - usize::from(state.is_to_lie()));
    vec![(from, bytes)]
}

fn joins(state: &mut State, from: SocketAddr, mut bytes: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    if state.is_to_lie() {
        bytes.extend_from_within(..);
    }
    vec![(from, bytes)]
}

/// Answers one client with what another one said.
fn mixes_clients_up(state: &mut State, from: SocketAddr, bytes: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    let other = state.kept.iter().find(|(_, client, _)| *client != from).map(|(_, _, said)| said.clone());
    state.kept.retain(|(_, client, _)| *client != from);
    state.kept.push((Instant::now(), from, bytes.clone()));
    match other {
        Some(other) if state.is_to_lie() => vec![(from, other)],
        _ => vec![(from, bytes)],
    }
}

/// Answers with what nobody of this run has sent.
fn invents(state: &mut State, from: SocketAddr, mut bytes: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    if state.is_to_lie() {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
    }
    vec![(from, bytes)]
}

fn is_silent(_: &mut State, _: SocketAddr, _: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
    vec![]
}

fn load(address: SocketAddr, more: &[&str]) -> (Output, Value) {
    load_at(&format!("udp://{address}"), more)
}

fn count(result: &Value, kind: &str) -> u64 {
    result["udp"][kind].as_u64().unwrap_or_else(|| panic!("no {kind}: {result}"))
}

/// Each datagram that was sent came back, or is lost; and whatever came is counted as one thing.
fn adds_up(result: &Value) {
    let of = |kind| count(result, kind);
    assert!(of("answered") >= result["messages"].as_u64().unwrap(), "{result}");
    let recognised = of("wrong") - of("wrong_unawaited");
    assert_eq!(of("sent"), of("answered") + of("lost") + of("late") + recognised, "{result}");
    let others = of("duplicated") + of("foreign") + of("wrong");
    assert_eq!(of("received"), of("answered") + of("late") + others, "{result}");
}

const KINDS: [&str; 6] = ["lost", "late", "duplicated", "reordered", "foreign", "wrong"];

/// What a liar does is counted as often as it does it, under these names and no other.
#[track_caller]
fn is_found_out(lie: Lie, kinds: &[&str], duration: &str, more: &[&str]) -> (Output, Value) {
    let (address, lies) = start(lie);
    let (output, result) = load(address, &[&["-c", "4", "-d", duration], more].concat());
    let lies = lies.load(Relaxed);
    assert!(lies > 0, "{result}");
    for kind in KINDS {
        let expected = if kinds.contains(&kind) { lies } else { 0 };
        assert_eq!(count(&result, kind), expected, "{kind}: {result}");
    }
    adds_up(&result);
    (output, result)
}

#[track_caller]
fn makes_it_worthless(kind: &str, word: &str, (output, result): (Output, Value)) {
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(
        (&result["valid"], &result["errors"][kind]),
        (&false.into(), &result["udp"][kind]),
        "{result}"
    );
    assert!(said.contains(word) && said.contains("connection "), "{word:?} is missing: {said}");
    assert!(said.contains("VERDICT") && said.contains("wrong-echo"), "{said}");
}

fn an_honest_server_is_not_accused_whatever_the_size_and_depth() {
    let (address, _) = start(honest);
    for size in [
        "0",
        "1",
        "7",
        "8",
        "11",
        "16",
        "23",
        "24",
        "25",
        "64",
        "1472",
        "1473",
        "9000",
        "65507",
        "24..1400",
        "exp:300",
        "lognormal:300,1",
    ] {
        for depth in ["1", "3"] {
            let args = ["-c", "5", "-d", "60ms", "--timeout", "20s", "--size", size, "--pipeline", depth];
            let (output, result) = load(address, &args);
            assert!(output.status.success(), "{size}: {}", text(&output.stdout));
            assert_eq!(result["schema"], 1);
            for kind in KINDS {
                assert_eq!(count(&result, kind), 0, "{kind} at {size} bytes: {result}");
            }
            assert_eq!(count(&result, "sent"), count(&result, "received"), "{result}");
            assert_eq!(result["errors"], serde_json::json!({}));
            assert_eq!(result["settings"]["transport"], "udp");
        }
    }
    let (output, result) = load(address, &["-c", "5", "-d", "500ms", "--threads", "2"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert_eq!((&result["connections"]["served"], &result["connections"]["lost"]), (&5.into(), &0.into()));
    let latency = |name: &str| result["latency_us"][name].as_f64().unwrap();
    assert!(latency("min") > 0.0 && latency("min") <= latency("p50") && latency("p50") <= latency("max"));
    let (messages, rate) = (result["messages"].as_f64().unwrap(), result["messages_per_s"].as_f64().unwrap());
    let measured = result["measured_s"].as_f64().unwrap(); // a busy machine may take longer over it
    assert!(messages > 10.0 && (rate * measured / messages - 1.0).abs() < 0.001, "{result}");
}

fn a_lost_datagram_is_counted_and_stops_nobody() {
    let (output, result) = is_found_out(loses, &["lost"], "2500ms", &["--pipeline", "4"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stdout));
    assert_eq!((&result["valid"], &result["verdicts"][0]), (&false.into(), &"lossy".into()), "{result}");
    assert!(count(&result, "lost") > 4 * 4, "each client lost several, and went on: {result}");
    assert_eq!(
        (&result["udp"]["kernel_drops"], &result["udp"]["server_kernel_drops"]),
        (&0.into(), &0.into())
    );
    assert!(text(&output.stdout).contains("lossy"), "{}", text(&output.stdout));
}

fn a_datagram_that_comes_twice_is_counted() {
    let (address, lies) = start(duplicates);
    let (output, result) = load(address, &["-c", "4", "-d", "300ms"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stdout));
    // Of the last answer of each client the second may not be there yet when the load is over.
    let (lies, seen) = (lies.load(Relaxed), count(&result, "duplicated"));
    assert!((lies.saturating_sub(4)..=lies).contains(&seen) && seen > 0, "{lies}: {result}");
    assert_eq!((count(&result, "lost"), count(&result, "reordered")), (0, 0), "{result}");
    assert_eq!(result["verdicts"][0], "repetitive", "{result}");
    adds_up(&result);
    let in_all = |what: &str| -> u64 {
        result["series"].as_array().unwrap().iter().map(|second| second[what].as_u64().unwrap()).sum()
    };
    assert_eq!(in_all("bytes"), 64 * in_all("messages"), "bytes are those of answers: {result}");
}

fn a_datagram_that_comes_after_a_later_one_is_counted_and_is_no_fault() {
    let (address, lies) = start(reorders);
    let (output, result) = load(address, &["-c", "4", "-d", "300ms", "--pipeline", "4"]);
    is_measured(&output);
    // One that is kept when nothing follows is lost.
    let (lost, reordered) = (count(&result, "lost"), count(&result, "reordered"));
    assert!(reordered > 0 && reordered + lost == lies.load(Relaxed), "{result}");
    assert_eq!((count(&result, "duplicated"), count(&result, "wrong")), (0, 0), "{result}");
    adds_up(&result);
}

fn a_datagram_that_comes_too_late_is_told_from_one_that_is_lost() {
    let (address, _) = start(is_late);
    let timeout = format!("{}ms", TIMEOUT.as_millis());
    let (output, result) = load(address, &["-c", "4", "-d", "3s", "--timeout", &timeout, "--pipeline", "40"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stdout));
    assert!(count(&result, "late") > 0, "{result}");
    let missing = count(&result, "sent") - count(&result, "received");
    assert_eq!(count(&result, "lost"), missing, "who came late is not lost: {result}");
    for kind in ["duplicated", "foreign", "wrong"] {
        assert_eq!(count(&result, kind), 0, "{result}");
    }
}

fn a_flipped_bit_is_found_and_named() {
    makes_it_worthless(
        "wrong",
        "byte 30: sent 0x",
        is_found_out(flips_a_bit, &["wrong"], "300ms", &["--pipeline", "3"]),
    );
}

fn a_flipped_bit_is_not_seen_by_who_does_not_look() {
    let (address, _) = start(flips_a_bit);
    let (output, _) = load(address, &["-c", "4", "-d", "200ms", "--no-verify"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("NOT checked"));
}

fn a_bit_flipped_in_a_clients_name_makes_it_nobody_elses() {
    makes_it_worthless(
        "wrong",
        "byte 8: sent 0x",
        is_found_out(flips_a_bit_of_the_name, &["wrong"], "300ms", &[]),
    );
}

fn a_datagram_that_is_cut_is_found_and_named() {
    makes_it_worthless(
        "wrong",
        "64 bytes were sent, 63 came back",
        is_found_out(cuts, &["wrong"], "300ms", &[]),
    );
    makes_it_worthless(
        "wrong",
        "1 bytes were sent",
        is_found_out(cuts, &["wrong"], "300ms", &["--size", "1"]),
    );
    makes_it_worthless(
        "wrong",
        " bytes were sent, ",
        is_found_out(cuts, &["wrong"], "300ms", &["--size", "100..1400"]),
    );
}

fn datagrams_that_are_joined_are_found_and_named() {
    makes_it_worthless("wrong", "64 bytes were sent, 128", is_found_out(joins, &["wrong"], "300ms", &[]));
    makes_it_worthless(
        "wrong",
        "20 bytes were sent, 40",
        is_found_out(joins, &["wrong"], "300ms", &["--size", "20"]),
    );
}

fn another_clients_bytes_are_found_and_their_owner_named() {
    let of_another = is_found_out(mixes_clients_up, &["foreign", "lost"], "300ms", &[]);
    makes_it_worthless("foreign", "'s message ", of_another);
}

fn bytes_that_nobody_sent_are_foreign() {
    let invented = is_found_out(invents, &["foreign", "lost"], "300ms", &[]);
    makes_it_worthless("foreign", "not of this run", invented);
}

fn a_server_that_floods_its_clients_does_not_keep_the_load_from_its_end() {
    let (server, address) = bound();
    thread::spawn(move || {
        let (_, client) = server.recv_from(&mut [0; 100]).unwrap();
        server.connect(client).unwrap(); // so that its end is heard of
        while server.send(&[0xff; 64]).is_ok() {}
    });
    let began = Instant::now();
    let (output, result) = load(address, &["-c", "2", "-d", "200ms", "--timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    assert!(count(&result, "foreign") > 100 && count(&result, "lost") == count(&result, "sent"), "{result}");
}

fn silence_is_no_result_and_the_kernel_says_what_did_not_fit() {
    let (address, _) = start(is_silent);
    let (output, result) = load(address, &["-c", "2", "-d", "200ms", "--timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert_eq!((count(&result, "lost"), count(&result, "received")), (count(&result, "sent"), 0), "{result}");

    let nobody_reads = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody_reads.local_addr().unwrap();
    let args = ["-c", "2", "-d", "100ms", "--timeout", "300ms", "--pipeline", "2000", "--size", "1000"];
    let (_, result) = load(address, &args);
    nobody_reads.set_nonblocking(true).unwrap();
    let held = std::iter::from_fn(|| nobody_reads.recv(&mut [0; 1]).ok()).count() as u64;
    assert_eq!(count(&result, "server_kernel_drops") + held, count(&result, "sent"), "{result}");
    assert_eq!(count(&result, "lost"), count(&result, "sent"), "{result}");
}

fn where_nobody_serves_that_is_said() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (output, result) = load(nobody, &["-c", "3", "-d", "100ms", "--timeout", "200ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(result["errors"]["refused"].as_u64() >= Some(3), "{result}");
    assert!(text(&output.stdout).contains("ICMP port unreachable"), "{}", text(&output.stdout));
}

fn a_summary_of_datagrams_fits_eighty_columns() {
    let (address, _) = start(loses);
    let (output, _) = load(address, &["-c", "64", "-d", "200ms", "--timeout", "200ms"]);
    let said = text(&output.stdout);
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    assert!(said.contains(" lost, 0 late, 0 twice, 0 out of order"), "{said}");
}

/// Receives and answers by the burst: the kernel joins what came as one, and cuts what is sent as one.
fn by_the_burst() -> (SocketAddr, Arc<AtomicU64>) {
    let (server, address) = bound();
    setsockopt(&server, UdpGroSegment, &true).unwrap();
    let longest = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&longest);
    thread::spawn(move || {
        let (mut room, mut control) = (vec![0; 1 << 16], cmsg_space!(i32));
        loop {
            let (fd, flags) = (server.as_raw_fd(), MsgFlags::empty());
            let mut parts = [IoSliceMut::new(&mut room)];
            let Ok(burst) = recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut control), flags) else { return };
            let segment = burst.cmsgs().unwrap().find_map(|beside| match beside {
                ControlMessageOwned::UdpGroSegments(segment) => Some(segment as u16),
                _ => None,
            });
            let (n, from) = (burst.bytes, burst.address);
            let beside = segment.as_ref().map(ControlMessage::UdpGsoSegments);
            seen.fetch_max(segment.map_or(1, |segment| n as u64 / u64::from(segment)), Relaxed);
            sendmsg(fd, &[IoSlice::new(&room[..n])], beside.as_slice(), flags, from.as_ref()).unwrap();
        }
    });
    (address, longest)
}

fn who_thinks_sends_no_more_than_thought_allows() {
    let (address, _) = start(honest);
    for (more, at_once) in [(&["--pipeline", "3"][..], 3), (&["--burst", "4"], 4)] {
        let args = ["-c", "2", "-d", "500ms", "--think", "20ms"];
        let (output, result) = load(address, &[&args, more].concat());
        assert!(output.status.success(), "{more:?}: {}", text(&output.stdout));
        // Each client has 25 thoughts in the time, and may just have come to one.
        let (messages, most) = (result["messages"].as_u64().unwrap(), 2 * at_once * 26);
        assert!((most / 5..=most).contains(&messages), "{more:?}: {messages} of {most}");
    }
}

fn bursts_leave_in_one_call_and_every_boundary_is_kept() {
    let (plain, _) = start(honest);
    let (joined, longest) = by_the_burst();
    for address in [plain, joined] {
        for more in
            [&["--burst", "16"][..], &["--burst", "3", "--size", "20000"], &["--burst", "64", "--size", "1"]]
        {
            let (output, result) = load(address, &[&["-c", "4", "-d", "200ms"], more].concat());
            assert!(output.status.success(), "{more:?}: {}", text(&output.stdout));
            assert_eq!(result["valid"], true, "{more:?}: {result}");
            assert_eq!(count(&result, "sent"), count(&result, "received"), "{result}");
            let burst = more[1].parse().unwrap();
            assert!(count(&result, "sent").is_multiple_of(burst), "{result}");
        }
    }
    assert_eq!(longest.load(Relaxed), 64, "they came as they were sent: in one");
}

fn a_burst_goes_on_when_some_of_it_are_lost() {
    let (output, result) = is_found_out(loses, &["lost"], "2500ms", &["--burst", "16"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stdout));
    assert!(count(&result, "sent") > 2 * 4 * 16, "{result}");
}

fn what_departs_together_leaves_in_one_call_in_either_loop_and_every_boundary_is_kept() {
    let (joined, longest) = by_the_burst();
    for (more, least) in [
        (&["--pipeline", "16"][..], 16),
        (&["--pipeline", "200", "--size", "1000"], 64),
        // Nobody is woken every five microseconds, so several are due at once.
        (&["-c", "1", "--rate", "200000", "--max-lateness", "10s"], 2),
    ] {
        longest.store(0, Relaxed);
        let clients = if more.contains(&"-c") { &[][..] } else { &["-c", "4"] };
        let (output, result) = load(joined, &[clients, &["-d", "300ms"], more].concat());
        is_measured(&output); // not every machine keeps that rate
        assert!(longest.load(Relaxed) >= least, "{more:?}: {longest:?} at once");
        for kind in ["late", "duplicated", "reordered", "foreign", "wrong"] {
            assert_eq!(count(&result, kind), 0, "{more:?}: {kind}: {result}");
        }
        adds_up(&result);
    }
}

/// What is longer than the device carries is not cut by the kernel, but sent in fragments (ip(7)). On one processor
/// these come as they were sent; of two, the kernel now and then finds no whole datagram in them.
fn where_the_kernel_does_not_cut_they_leave_all_the_same() {
    in_a_network("ip link set lo mtu 1280 up", || {
        stay_on_one_processor();
        let (address, _) = start(honest);
        for more in
            [&["--pipeline", "16"][..], &["--burst", "16"], &["--rate", "3000", "--max-lateness", "10s"]]
        {
            let args = ["-c", "2", "-d", "300ms", "--size", "2000"];
            let (output, result) = load(address, &[&args, more].concat());
            assert!(output.status.success(), "{more:?}: {}", text(&output.stdout));
            assert_eq!(result["errors"], serde_json::json!({}), "{more:?}: {result}");
            assert_eq!(count(&result, "sent"), count(&result, "answered"), "{more:?}: {result}");
        }
    });
}

fn what_the_kernel_drops_at_a_clients_socket_is_told_from_what_others_lose() {
    let (address, _) = start(honest);
    for more in [&["--pipeline", "64"][..], &["--pipeline", "64", "--size", "64..200", "--threads", "2"]] {
        let args = ["-c", "2", "-d", "700ms", "--timeout", "500ms", "--receive-buffer", "4096"];
        let (_, result) = load(address, &[&args, more].concat());
        assert!(count(&result, "lost") > 0, "{result}");
        assert_eq!(
            count(&result, "kernel_drops"),
            count(&result, "lost") + count(&result, "late"),
            "{result}"
        );
        assert_eq!(count(&result, "server_kernel_drops"), 0, "{result}");
        adds_up(&result);
    }
}

fn event_loop(more: &[&str]) -> Server {
    let row = Row::table_of(Transport::Udp).into_iter().find(|row| row.model == "event-loop").unwrap();
    row.start(more)
}

fn what_the_kernel_drops_at_the_servers_socket_is_told_from_what_others_lose() {
    let server = event_loop(&["--work", "sleep:1ms"]);
    // More than any buffer holds.
    let args = ["-c", "64", "--size", "8000", "-d", "300ms", "--timeout", "300ms", "--rate", "20000"];
    let (_, result) = load(server.address, &[&args, &["--max-lateness", "10s"][..]].concat());
    let dropped = count(&result, "server_kernel_drops");
    assert!(dropped > 0 && dropped <= count(&result, "lost"), "{result}");
    assert_eq!(count(&result, "kernel_drops"), 0, "{result}");
    let reached = count(&result, "sent") - dropped;
    within(PATIENCE, "the server's taking all others", || {
        (status(&server)["datagrams_in"].as_u64() == Some(reached)).then_some(())
    });
    server.stop().well();
}

fn what_the_server_itself_drops_is_not_put_down_to_the_kernel() {
    let server = event_loop(&["--rate-limit", "5"]);
    let (_, result) =
        load(server.address, &["-c", "8", "-d", "500ms", "--timeout", "300ms", "--pipeline", "4"]);
    let figures = server.stop().well();
    assert!(count(&result, "lost") > 0, "{result}");
    assert_eq!(count(&result, "lost"), unanswered(&figures), "{result}: {figures}");
    assert_eq!((count(&result, "kernel_drops"), count(&result, "server_kernel_drops")), (0, 0), "{result}");
}

/// Where the datagrams of a load have come from.
fn sources(args: &[&str]) -> BTreeSet<IpAddr> {
    let (server, address) = bound();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let sources = Arc::clone(&seen);
    thread::spawn(move || {
        let mut room = [0; 100];
        while let Ok((n, from)) = server.recv_from(&mut room) {
            sources.lock().unwrap().insert(from.ip());
            let _ = server.send_to(&room[..n], from);
        }
    });
    let (output, _) = load(address, args);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let sources = seen.lock().unwrap();
    sources.clone()
}

fn clients_come_from_the_sources_in_turns_and_from_more_of_loopback_where_one_has_too_few_ports() {
    let addresses = |last: &[u8]| last.iter().map(|&last| Ipv4Addr::new(127, 0, 0, last).into()).collect();
    let told: BTreeSet<IpAddr> = addresses(&[7, 9]);
    for more in [&["--pipeline", "4"][..], &["--rate", "1000", "--max-lateness", "10s"]] {
        let args = ["-c", "4", "-d", "100ms", "--threads", "2", "--source", "127.0.0.7,127.0.0.9"];
        assert_eq!(sources(&[&args, more].concat()), told);
    }
    if getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 < 10_100 {
        return eprintln!("too few descriptors: not tested with more clients than one address has ports");
    }
    let many = ["-c", "10010", "-d", "2s", "--rate", "10010", "--threads", "2", "--max-lateness", "10s"];
    assert_eq!(sources(&many), addresses(&[1, 2]));
}

fn talk(address: SocketAddr, more: &[&str], input: &[u8]) -> Output {
    run_with(echo_client(), &[&["talk", &format!("udp://{address}")], more].concat(), input)
}

fn what_is_typed_is_what_is_printed_a_datagram_a_line() {
    let (address, _) = start(honest);
    let longest = [noise(65_506).iter().map(|byte| byte | 0x80).collect(), b"\n".to_vec()].concat();
    for said in
        [&b""[..], b"hi\n", b"one\n\ntwo\n", b"no newline at the end", b"\xff\x00\xfe\n\n\n", &longest]
    {
        let output = talk(address, &[], said);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(output.stdout == said && output.stderr.is_empty(), "{}", text(&output.stdout));
    }
}

fn talk_counts_what_was_lost_and_goes_on() {
    let (address, _) = start(loses);
    let lines = |range: std::ops::RangeInclusive<u32>| range.map(|n| format!("line {n}\n"));
    let output = talk(address, &["--timeout", "1s"], lines(1..=21).collect::<String>().as_bytes());
    let expected: String =
        lines(1..=21).filter(|line| !["line 10\n", "line 20\n"].contains(&&**line)).collect();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), expected));
    assert_eq!(text(&output.stderr), format!("echo-client: udp://{address}: 2 of 21 datagrams lost\n"));
}

fn talk_does_not_print_a_late_answer_where_anothers_belongs() {
    // The first is answered when the second is there, and the second only then.
    let (address, _) = start(|state, from, bytes| {
        state.kept.push((Instant::now(), from, bytes));
        if state.heard < 2 {
            vec![]
        } else {
            state.kept.drain(..).map(|(_, to, bytes)| (to, bytes)).collect()
        }
    });
    let output = talk(address, &[], b"one\ntwo\nthree\n");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), "two\nthree\n".into()));
    assert!(text(&output.stderr).contains("1 of 3 datagrams lost"), "{}", text(&output.stderr));
}

fn talk_prints_a_changed_answer_and_fails() {
    let (address, _) = start(|_, from, bytes| vec![(from, bytes.to_ascii_uppercase())]);
    let output = talk(address, &[], b"hi\nHO\n");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), "HI\nHO\n".into()));
    assert!(text(&output.stderr).contains("1 came back changed"), "{}", text(&output.stderr));
}

fn talk_says_in_one_line_when_nobody_serves_there_or_a_line_is_too_long() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = talk(nobody, &[], b"hi\n");
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("the port is unreachable (ICMP)"), "{said}");

    let (address, _) = start(honest);
    let output = talk(address, &[], &[b"short\n".to_vec(), vec![b'x'; 70_000]].concat());
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("line 2 is longer than 65507 bytes"), "{said}");
    assert_eq!(output.stdout, b"short\n");
}
