//! `echo-client load`: every message of the measured time is one thing, however its connection ends. What is due is dropped
//! or sent, and what is sent is answered or lost in flight; what was lost ranks behind all that was answered.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::Value;
use socket2::SockRef;

use crate::{
    stage::{Row, Server, echo_client},
    suite::{
        Promise,
        liars::{self, State},
        load::{load, load_at, text},
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    every_message_is_one_thing_however_its_connection_ends,
    every_message_is_one_thing_where_all_goes_well,
    every_datagram_is_one_thing_whatever_becomes_of_it,
    a_stall_beyond_the_timeout_is_in_the_percentiles_and_told_as_more_than_it,
    a_closed_loop_chooses_its_messages_by_when_they_leave,
    a_load_that_is_interrupted_loses_no_message_either,
];

fn row(model: &str) -> Row {
    Row::all().into_iter().find(|row| row.model == model).unwrap()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// Holds a result to the two sums; returns how many messages were lost in flight.
#[track_caller]
fn is_conserved(result: &Value) -> u64 {
    let part = |name: &str| count(&result["departures"][name]);
    let lost = part("lost_in_flight");
    assert_eq!(part("due"), part("dropped") + part("sent"), "{result}");
    assert_eq!(part("sent"), part("answered") + lost, "{result}");
    assert_eq!(part("answered"), count(&result["latency_us"]["count"]), "{result}");
    if result["settings"]["loop"] == "closed" {
        assert_eq!((part("dropped"), part("answered")), (0, count(&result["messages"])), "{result}");
    }
    let series = result["series"].as_array().unwrap();
    let sum = |name: &str| series.iter().map(|second| count(&second[name])).sum::<u64>();
    assert_eq!((sum("recorded"), sum("lost_in_flight")), (part("answered"), lost), "{result}");
    let latency = &result["latency_us"];
    assert_eq!(latency["max"].is_null(), lost > 0 || part("answered") == 0, "{result}");
    assert_eq!(latency["mean"].is_null(), latency["max"].is_null(), "{result}");
    assert_eq!(latency["censored"]["count"].as_u64().unwrap_or(0), lost, "{result}");
    lost
}

/// How many milliseconds after its start a server goes on to behave: the warm-up is over by then.
const WELL: Duration = Duration::from_millis(300);

/// Since when this client is served.
fn since(state: &State) -> Duration {
    state.since.elapsed()
}

fn falls_silent(_: &mut TcpStream, state: &mut State, bytes: &mut Vec<u8>) -> bool {
    if since(state) > WELL {
        bytes.clear();
    }
    true
}

/// A server that resets each client that has been there for a while.
fn resets() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (came, mut room) = (Instant::now(), [0; 4096]);
                while let Ok(n @ 1..) = client.read(&mut room) {
                    if came.elapsed() > WELL {
                        return SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                    }
                    if client.write_all(&room[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn closes(_: &mut TcpStream, state: &mut State, bytes: &mut Vec<u8>) -> bool {
    if since(state) > WELL {
        bytes.clear();
    }
    since(state) <= WELL
}

fn cuts_short(_: &mut TcpStream, state: &mut State, bytes: &mut Vec<u8>) -> bool {
    if since(state) > WELL {
        bytes.truncate(bytes.len() / 2);
    }
    since(state) <= WELL
}

#[allow(clippy::ptr_arg, reason = "the others change its length")]
fn lies(_: &mut TcpStream, state: &mut State, bytes: &mut Vec<u8>) -> bool {
    if since(state) > WELL {
        bytes[0] ^= 1;
    }
    true
}

const ENGINES: [&str; 2] = ["mio", "io-uring"];

/// In either loop, and where connections come and go.
const LOOPS: [&[&str]; 4] = [
    &["--pipeline", "8"],
    &["--pipeline", "4", "--churn", "1000000"],
    &["--rate", "4000", "--max-lateness", "10s"],
    &["--rate", "2000", "--churn", "50", "--max-lateness", "10s"],
];

fn every_message_is_one_thing_however_its_connection_ends() {
    let ends = [
        (liars::start(falls_silent), "timeout"),
        (resets(), "reset"),
        (liars::start(closes), "closed"),
        (liars::start(cuts_short), "short"),
        (liars::start(lies), "wrong"),
    ];
    for (address, kind) in ends {
        for engine in ENGINES {
            for pace in LOOPS {
                let args = ["-c", "4", "-d", "600ms", "--timeout", "200ms", "--engine", engine];
                let (output, result) = load(address, &[&args, pace].concat());
                assert!(result.is_object(), "{kind} {engine} {pace:?}: {}", text(&output.stderr));
                let lost = is_conserved(&result);
                // Where clients come and go, each is gone before its server has enough of it.
                let is_met = !pace.contains(&"50");
                let errors = result["errors"].as_object().unwrap();
                assert!(!is_met || (!errors.is_empty() && lost > 0), "{kind} {engine} {pace:?}: {result}");
            }
        }
    }
}

fn every_message_is_one_thing_where_all_goes_well() {
    for engine in ENGINES {
        for pace in LOOPS {
            let server = row("event-loop").start(&[]);
            let args = ["-c", "4", "-d", "300ms", "--threads", "2", "--engine", engine];
            let (output, result) = load(server.address, &[&args, pace].concat());
            assert!(output.status.success(), "{}", text(&output.stdout));
            assert_eq!(is_conserved(&result), 0, "{result}");
        }
    }
}

/// Of ten datagrams one is forgotten, one is answered too late, and one is damaged.
fn forgets() -> SocketAddr {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((n, client)) = server.recv_from(&mut room) {
            let mut datagram = room[..n].to_vec();
            match SEEN.fetch_add(1, Relaxed) % 10 {
                3 => continue,
                5 => {
                    let server = server.try_clone().unwrap();
                    thread::spawn(move || {
                        thread::sleep(Duration::from_millis(150));
                        drop(server.send_to(&datagram, client));
                    });
                    continue;
                }
                7 => datagram[n - 1] ^= 1,
                _ => {}
            }
            drop(server.send_to(&datagram, client));
        }
    });
    address
}

fn every_datagram_is_one_thing_whatever_becomes_of_it() {
    let address = forgets();
    for pace in [&["--pipeline", "4"][..], &["--burst", "4"], &["--rate", "500", "--max-lateness", "10s"]] {
        let args = ["-c", "4", "-d", "600ms", "--timeout", "100ms"];
        let (_, result) = load_at(&format!("udp://{address}"), &[&args, pace].concat());
        let (lost, sent) = (is_conserved(&result), count(&result["departures"]["sent"]));
        assert!(lost * 10 >= sent * 2 && lost * 10 <= sent * 4, "{lost} of {sent}: {result}");
        assert!(result["latency_us"]["p50"].is_f64() && result["latency_us"]["p90"].is_null(), "{result}");
    }
}

/// Stops a server while it is loaded, and lets it go on.
fn stalled(server: &Server, stall: Duration) -> thread::JoinHandle<()> {
    let pid = Pid::from_raw(server.pid());
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(600)); // in the middle of the load
        killpg(pid, Signal::SIGSTOP).unwrap();
        thread::sleep(stall);
        killpg(pid, Signal::SIGCONT).unwrap();
    })
}

fn a_stall_beyond_the_timeout_is_in_the_percentiles_and_told_as_more_than_it() {
    for engine in ENGINES {
        let server = row("event-loop").start(&[]);
        let stall = stalled(&server, Duration::from_millis(1500));
        let args =
            ["-c", "8", "-d", "1500ms", "--timeout", "500ms", "--rate", "2000", "--max-lateness", "10s"];
        let (output, result) = load(server.address, &[&args[..], &["--engine", engine]].concat());
        stall.join().unwrap();
        let (said, latency) = (text(&output.stdout), &result["latency_us"]);
        let lost = is_conserved(&result);
        // About half a second of a schedule of 2,000 a second was on its way when the connections were given up.
        assert!((500..2000).contains(&lost), "{lost}: {result}");
        assert!(latency["p99"].is_null() && latency["max"].is_null(), "{result}");
        assert!(latency["p50"].is_f64() || lost > 1000, "{result}");
        assert!(said.contains("p99 > 500ms") && said.contains("max > 500ms"), "{said}");
        assert!(said.contains(&format!("{lost} of ")) && said.contains("lost in flight"), "{said}");
        let mut figures = said.lines().filter(|line| !line.starts_with("ERROR"));
        assert!(figures.all(|line| line.chars().count() <= 80), "{said}");
    }
}

/// Each answer takes 200 ms, so the messages leave at 0, 200, 400, ... ms. In a measured time of a second that begins 500 ms
/// after the first, each of the ten sends five of them, and the last of their answers come after it.
fn a_closed_loop_chooses_its_messages_by_when_they_leave() {
    for engine in ENGINES {
        let server = row("thread").start(&["--work", "sleep:200ms"]);
        let args = ["-c", "10", "-d", "1s", "--warmup", "500ms", "--engine", engine, "--line"];
        let endpoint = format!("tcp://{}", server.address);
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("load.json");
        let mut load = Command::new(echo_client());
        load.args(["load", &endpoint, "--json"]).arg(&json).args(args).stdout(Stdio::null());
        assert!(load.status().unwrap().success());
        let result: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
        assert_eq!(is_conserved(&result), 0);
        // On a busy machine a round may be one less.
        let messages = count(&result["messages"]);
        assert!((40..=50).contains(&messages), "{result}");
        assert!(result["latency_us"]["min"].as_f64() > Some(199_000.0), "{result}");
    }
}

fn a_load_that_is_interrupted_loses_no_message_either() {
    let server = row("thread").start(&["--work", "sleep:100ms"]);
    let folder = tempfile::tempdir().unwrap();
    for pace in [&["--pipeline", "3"][..], &["--rate", "50", "--max-lateness", "10s"]] {
        let json = folder.path().join("load.json");
        let endpoint = format!("tcp://{}", server.address);
        let mut load = Command::new(echo_client());
        load.args(["load", &endpoint, "-c", "8", "-d", "60s", "--warmup", "10ms", "--json"]).arg(&json);
        let load = load.args(pace).stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(700)); // something is to be measured
        kill(Pid::from_raw(load.id().cast_signed()), Signal::SIGINT).unwrap();
        let asked = Instant::now();
        assert_eq!(load.wait_with_output().unwrap().status.code(), Some(130));
        assert!(asked.elapsed() < Duration::from_secs(10));
        let result: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
        assert!(is_conserved(&result) == 0 && count(&result["messages"]) > 0, "{result}");
    }
}
