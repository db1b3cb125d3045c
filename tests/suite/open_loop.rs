//! `echo-client load --rate`: messages leave when they are due, whatever the server does, and a stall is charged to
//! all that it delayed.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    stage::{Row, echo_client},
    suite::{
        Promise, liars,
        load::{load, text},
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    a_stall_is_charged_to_every_message_that_was_due_in_it,
    every_departure_of_the_schedule_is_due_once_and_answered_once,
    a_rate_that_cannot_be_kept_is_no_result_and_says_why,
    what_is_due_while_too_many_are_on_their_way_is_dropped_and_counted,
    what_is_due_on_a_connection_that_was_lost_is_dropped_and_counted,
    what_is_due_between_two_connections_of_a_churn_leaves_with_the_next,
    what_waits_for_a_connection_that_does_not_come_is_dropped_and_counted,
    an_open_loop_over_udp_accounts_for_every_datagram,
    an_open_loop_that_is_interrupted_has_a_result_of_what_was_measured,
    an_open_loop_of_a_low_rate_sleeps,
    a_server_that_takes_half_of_the_connections_leaves_the_result_short,
    what_is_due_when_nobody_is_left_to_send_it_is_dropped,
    a_rate_that_is_next_to_nothing_is_one_message_or_refused,
];

fn any() -> Row {
    Row::all().pop().unwrap()
}

/// Where punctuality is not what is asked for: a machine that others use may keep every send from leaving in time.
const BUSY: &[&str] = &["--max-lateness", "10s"];

/// That it holds in one of three attempts: the others may be kept from it by who else uses the machine.
pub fn in_the_end(attempt: impl Fn() -> Result<(), String>) {
    let failures: Vec<String> = (0..3).map_while(|_| attempt().err()).collect();
    assert!(failures.len() < 3, "{failures:#?}");
}

#[track_caller]
fn open(address: SocketAddr, more: &[&str]) -> Value {
    let (output, result) = load(address, &[BUSY, more].concat());
    assert!(!result.is_null(), "{}{}", text(&output.stdout), text(&output.stderr));
    result
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Those that were due, and what became of them: dropped, answered, lost in flight.
fn departures(result: &Value) -> [u64; 4] {
    ["due", "dropped", "answered", "lost_in_flight"].map(|part| result["departures"][part].as_u64().unwrap())
}

/// The stalls are 500 ms of every 2.5 s, and two periods are measured. What comes while it stalls waits for what is
/// left of it: so of all messages a share of (500 ms - x)/2.5 s waits longer than x, and a hundredth, 475 ms.
fn a_stall_is_charged_to_every_message_that_was_due_in_it() {
    let address = liars::start(liars::stalls);
    in_the_end(|| {
        let result = open(address, &["-c", "16", "-d", "5s", "--rate", "1000"]);
        assert_eq!(result["valid"], true, "{result}");
        let p99 = number(&result["latency_us"]["p99"]);
        assert!(p99 > 450_000.0, "{p99} us, by the schedule");
        if p99 < 500_000.0 { Ok(()) } else { Err(format!("{p99} us, by the schedule")) }
    });
    // Who waits for answers sends next to nothing into a stall, and is told next to nothing of it.
    let (_, closed) = load(address, &["-c", "4", "-d", "2500ms"]);
    let p99 = number(&closed["latency_us"]["p99"]);
    assert!(p99 < 100_000.0, "{p99} us, in a closed loop");
    assert!(number(&closed["latency_us"]["max"]) > 400_000.0, "{closed}");
}

fn every_departure_of_the_schedule_is_due_once_and_answered_once() {
    for row in Row::all().iter().filter(|row| row.is_concurrent()) {
        let server = row.start(&[]);
        for how in ["constant", "poisson"] {
            let args = ["-c", "8", "-d", "500ms", "--rate", "2000/s", "--arrivals", how, "--threads", "3"];
            let result = open(server.address, &args);
            assert_eq!(
                (&result["valid"], &result["errors"]),
                (&true.into(), &serde_json::json!({})),
                "{result}"
            );
            let due = number(&result["departures"]["due"]);
            let spread = if how == "constant" { 1.0 } else { 160.0 }; // five standard deviations
            assert!((due - 1000.0).abs() <= spread, "{}: {result}", row.label());
            assert_eq!(result["departures"]["dropped"], 0);
            assert_eq!(result["connections"]["served"], 8);
            let settings = &result["settings"];
            assert_eq!((&settings["loop"], &settings["arrivals"]), (&"open".into(), &how.into()));
            let (all, service) = (&result["latency_us"], &result["service_us"]);
            assert!(
                number(&all["p50"]) >= number(&service["p50"]),
                "what was late is in the one alone: {result}"
            );
        }
        let figures = server.stop().well();
        assert_eq!(figures["bytes_in"], figures["bytes_out"]);
    }
}

fn a_rate_that_cannot_be_kept_is_no_result_and_says_why() {
    let server = any().start(&[]);
    let late =
        |more: &[&str]| load(server.address, &[&["-c", "4", "--max-lateness", "200ms"], more].concat()).1;
    let result = late(&["-d", "1s", "--rate", "9000000", "--threads", "1"]);
    assert_eq!(result["valid"], false);
    let verdicts = result["verdicts"].as_array().unwrap();
    assert!(verdicts.contains(&"schedule-late".into()), "{result}");
    assert!(result["why"]["schedule-late"].as_str().unwrap().contains("late or later"), "{result}");
    assert!(
        number(&result["departures"]["dropped"]) > 0.0,
        "what did not come to leave is counted: {result}"
    );
    in_the_end(|| {
        let result = late(&["-d", "500ms", "--rate", "200"]);
        let is_calm = result["verdicts"] == serde_json::json!([]) && result["why"] == serde_json::json!({});
        if is_calm { Ok(()) } else { Err(result.to_string()) }
    });
}

fn what_is_due_while_too_many_are_on_their_way_is_dropped_and_counted() {
    let address = liars::start(liars::is_silent);
    let args = ["-c", "2", "-d", "500ms", "--timeout", "700ms", "--rate", "200", "--max-outstanding", "3"];
    let result = open(address, &args);
    let departures = &result["departures"];
    assert_eq!(departures["due"], 100, "{result}");
    // Ten were due in the warm-up: of them six left, and none since.
    assert_eq!(departures["dropped"], 100, "{result}");
    assert_eq!(result["errors"]["timeout"], 2, "{result}");
    assert!(result["why"]["departures-dropped"].as_str().unwrap().contains("100 of 100"), "{result}");
}

fn what_is_due_on_a_connection_that_was_lost_is_dropped_and_counted() {
    let server = any().start(&["--max-connections", "1"]);
    let result = open(server.address, &["-c", "2", "-d", "300ms", "--rate", "1000"]);
    assert_eq!(result["connections"]["lost"], 1, "{result}");
    assert_eq!(departures(&result), [300, 150, 150, 0], "{result}");
}

fn what_is_due_between_two_connections_of_a_churn_leaves_with_the_next() {
    let server = any().start(&[]);
    for more in [&["--churn", "1"][..], &["--churn", "3", "--size", "100000"]] {
        let args = ["-c", "4", "-d", "500ms", "--rate", "1000", "--threads", "2"];
        let result = open(server.address, &[&args, more].concat());
        assert_eq!((&result["valid"], &result["errors"]), (&true.into(), &serde_json::json!({})), "{result}");
        assert_eq!(departures(&result), [500, 0, 500, 0], "{result}");
        assert!(number(&result["connections"]["opened"]) > 166.0, "{result}");
    }
    server.stop().well();
}

fn what_waits_for_a_connection_that_does_not_come_is_dropped_and_counted() {
    let address = liars::start(liars::is_silent);
    let args = ["-c", "2", "-d", "500ms", "--timeout", "300ms", "--rate", "200", "--churn", "1"];
    let result = open(address, &args);
    // Two left in the warm-up and were not answered, so nobody takes their connections' places; then it is over.
    let departures = &result["departures"];
    assert!(number(&departures["due"]) >= 40.0, "{result}");
    assert_eq!(departures["due"], departures["dropped"], "{result}");
    assert_eq!(result["errors"]["timeout"], 2, "{result}");
}

fn an_open_loop_over_udp_accounts_for_every_datagram() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("udp://{}", server.local_addr().unwrap());
    thread::spawn(move || {
        let mut room = [0; 2048];
        for heard in 0.. {
            let (n, from) = server.recv_from(&mut room).unwrap();
            if heard % 100 != 50 {
                server.send_to(&room[..n], from).unwrap();
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let load = Command::new(echo_client())
        .args(["load", &endpoint, "-c", "10", "-d", "1s", "--warmup", "0", "--rate", "1000", "--json"])
        .arg(&json)
        .args(BUSY)
        .stdout(Stdio::null())
        .status();
    assert_eq!(load.unwrap().code(), Some(3));
    let result: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(departures(&result), [1000, 0, 990, 10], "{result}");
    let of_udp = &result["udp"];
    assert_eq!(
        (&of_udp["sent"], &of_udp["lost"], &of_udp["received"]),
        (&1000.into(), &10.into(), &990.into())
    );
    assert_eq!(result["verdicts"], serde_json::json!(["lossy"]), "{result}");
    // On a schedule a lost one delays nobody.
    assert_eq!(result["why"]["lossy"], "too many datagrams lost or late", "{result}");
}

fn an_open_loop_that_is_interrupted_has_a_result_of_what_was_measured() {
    let server = any().start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let load = Command::new(echo_client())
        .args(["load", &format!("tcp://{}", server.address), "-d", "60s", "--warmup", "10ms"])
        .args(["--rate", "500", "--json"])
        .arg(&json)
        .args(BUSY)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(900)); // something is to be measured
    kill(Pid::from_raw(load.id().cast_signed()), Signal::SIGINT).unwrap();
    let interrupted = Instant::now();
    let output = load.wait_with_output().unwrap();
    assert!(interrupted.elapsed() < Duration::from_secs(3));
    assert_eq!(output.status.code(), Some(130));
    let result: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((&result["valid"], &result["verdicts"]), (&true.into(), &serde_json::json!(["interrupted"])));
    let (due, measured) = (number(&result["departures"]["due"]), number(&result["measured_s"]));
    assert!((due / measured / 500.0 - 1.0).abs() < 0.2, "{result}");
}

fn an_open_loop_of_a_low_rate_sleeps() {
    let server = any().start(&[]);
    let result = open(server.address, &["-c", "4", "-d", "1s", "--rate", "100"]);
    assert!(number(&result["client_busiest_thread"]) < 0.1, "{result}");
}

fn a_server_that_takes_half_of_the_connections_leaves_the_result_short() {
    // Nobody accepts, and the queue holds one more than the backlog.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(3).unwrap();
    let listener: TcpListener = socket.into();
    let args = ["-c", "8", "-d", "100ms", "--rate", "100", "--timeout", "500ms"];
    let result = open(listener.local_addr().unwrap(), &args);
    assert_eq!(
        (&result["connections"]["asked"], &result["connections"]["established"]),
        (&8.into(), &4.into())
    );
    assert!(result["verdicts"].as_array().unwrap().contains(&"connections-short".into()), "{result}");
    assert_eq!(result["why"]["connections-short"], "4 of 8 came up", "{result}");
}

fn what_is_due_when_nobody_is_left_to_send_it_is_dropped() {
    let address = liars::start(liars::leaves);
    let (output, result) = load(address, &[BUSY, &["-c", "2", "-d", "2s", "--rate", "1000"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let (due, dropped) = (&result["departures"]["due"], number(&result["departures"]["dropped"]));
    assert_eq!(due, 2000, "{result}");
    assert!(dropped > 1700.0, "{result}");
}

fn a_rate_that_is_next_to_nothing_is_one_message_or_refused() {
    let server = any().start(&[]);
    let result = open(server.address, &["-c", "1", "-d", "300ms", "--rate", "0.000001"]);
    assert!(number(&result["departures"]["due"]) <= 1.0, "{result}");
    let (output, _) = load(server.address, &["--rate", "1e-11"]);
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(2), 1));
}
