//! `echo-client load --stall --dribble --reset --silent`: clients that do not behave, beside the others, who are
//! measured.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use socket2::SockRef;

use crate::{
    stage::{Row, count, echo_client, within},
    suite::{
        Promise, liars,
        load::{load, load_at, text},
        promises,
        shapes::of_a_short_queue,
    },
};

pub const PROMISES: &[Promise] = promises![
    beside_awkward_clients_of_every_kind_the_others_are_served,
    every_reset_in_mid_message_is_a_reset_for_the_server,
    a_server_of_one_client_at_a_time_is_held_by_one_and_that_is_said,
    whom_the_server_ends_is_counted_and_stays_away,
    a_reset_is_the_servers_at_once,
    whom_the_server_resets_is_no_error_of_the_run,
    awkward_clients_that_nobody_lets_in_are_counted_as_refused,
    a_server_that_takes_everything_is_not_given_all_that_there_is,
    awkward_clients_cost_the_load_next_to_nothing,
    over_a_unix_domain_socket_they_wait_for_room_in_the_queue,
    an_interrupted_load_sends_its_awkward_clients_home_in_order,
    a_load_is_interrupted_also_while_its_awkward_clients_are_still_to_come,
    people_and_scripts_are_told_as_well,
];

/// Two of each kind.
const ALL: &[&str] = &["--stall", "2", "--dribble", "2", "--reset", "2", "--silent", "2"];

fn concurrent() -> impl Iterator<Item = Row> {
    Row::all().into_iter().filter(Row::is_concurrent)
}

fn event_loop() -> Row {
    concurrent().find(|row| row.model == "event-loop").unwrap()
}

fn opened(result: &Value) -> u64 {
    result["awkward"].as_object().unwrap().values().map(|counts| count(&counts["opened"])).sum()
}

fn beside_awkward_clients_of_every_kind_the_others_are_served() {
    for row in concurrent() {
        let server = row.start_for(16, &[]);
        let (output, result) = load(server.address, &[&["-c", "4", "-d", "400ms"], ALL].concat());
        assert!(output.status.success(), "{}: {}", row.label(), text(&output.stdout));
        assert_eq!((&result["valid"], &result["errors"]), (&true.into(), &json!({})), "{result}");
        assert_eq!(result["connections"]["served"], 4, "{}: {result}", row.label());
        let awkward = &result["awkward"];
        for (kind, stays) in [("stall", true), ("dribble", true), ("reset", false), ("silent", true)] {
            let counts = &awkward[kind];
            assert_eq!(counts["asked"], 2, "{}: {kind}: {result}", row.label());
            for trouble in ["refused", "failed", "closed_by_server", "reset_by_server"] {
                assert_eq!(counts[trouble], 0, "{}: {kind}: {result}", row.label());
            }
            if stays {
                let there = (&counts["opened"], &counts["connected"], &counts["reset_by_us"]);
                assert_eq!(there, (&2.into(), &2.into(), &0.into()), "{}: {kind}: {result}", row.label());
            }
        }
        let bytes = |kind: &str| (count(&awkward[kind]["bytes_sent"]), count(&awkward[kind]["bytes_back"]));
        assert_eq!(bytes("silent"), (0, 0));
        assert!(bytes("stall").0 > 100_000 && bytes("stall").1 == 0, "{}: {result}", row.label());
        assert!(bytes("dribble").0 > 10 && bytes("dribble").0 < 1000, "{}: {result}", row.label());
        assert_eq!(bytes("dribble").0, bytes("dribble").1, "{}: {result}", row.label());
        let figures = server.stop().well();
        assert_eq!(count(&figures["accepted"]), 4 + opened(&result), "{}: {result}", row.label());
    }
}

fn every_reset_in_mid_message_is_a_reset_for_the_server() {
    for row in concurrent() {
        let server = row.start_for(16, &[]);
        let args = ["-c", "2", "-d", "300ms", "--reset", "3", "--size", "1000"];
        let (output, result) = load(server.address, &args);
        assert!(output.status.success(), "{}: {}", row.label(), text(&output.stdout));
        let counts = &result["awkward"]["reset"];
        let resets = count(&counts["reset_by_us"]);
        assert!(resets > 10, "{}: {result}", row.label());
        assert_eq!(counts["opened"], resets);
        assert_eq!(counts["bytes_sent"], 500 * resets, "half of a message each");
        let figures = server.stop().well();
        assert_eq!(figures["errors"], json!({"reset": resets}), "{}: {result}", row.label());
        assert_eq!(figures["accepted"], 2 + resets, "{}", row.label());
    }
}

fn a_server_of_one_client_at_a_time_is_held_by_one_and_that_is_said() {
    let row = Row::all().into_iter().find(|row| !row.is_concurrent()).unwrap();
    for kind in ["--silent", "--stall", "--dribble"] {
        let server = row.start(&[]);
        let begun = Instant::now();
        let args = ["-c", "3", "-d", "300ms", "--timeout", "700ms", kind, "1"];
        let (output, result) = load(server.address, &args);
        assert!(begun.elapsed() < Duration::from_secs(10), "{kind}: {:?}", begun.elapsed());
        assert_eq!(output.status.code(), Some(1), "{kind}: {}", text(&output.stdout));
        assert_eq!((&result["messages"], &result["errors"]), (&0.into(), &json!({"timeout": 3})), "{result}");
        assert_eq!(result["verdicts"], json!(["no-answers", "errors"]), "{kind}: {result}");
        let why = result["why"]["no-answers"].as_str().unwrap();
        assert!(why.contains("did not get past 1 awkward client"), "{kind}: {why}");
        // They came first and left last; then the others had their turn, who were gone by then.
        assert_eq!(server.stop().well()["accepted"], 4, "{kind}");
    }
}

fn whom_the_server_ends_is_counted_and_stays_away() {
    let server = event_loop().start(&["--idle-timeout", "200ms"]);
    let args = ["-c", "2", "-d", "700ms", "--silent", "3", "--dribble", "1"];
    let (output, result) = load(server.address, &args);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert_eq!((&result["valid"], &result["errors"]), (&true.into(), &json!({})), "{result}");
    let silent = &result["awkward"]["silent"];
    assert_eq!((&silent["opened"], &silent["connected"]), (&3.into(), &0.into()), "{result}");
    assert_eq!(silent["closed_by_server"], 3, "{result}");
    assert_eq!(result["awkward"]["dribble"]["connected"], 1, "a byte now and then is no silence: {result}");
    server.stop().well();
}

/// A server of one client at a time gets past those that are reset: each is gone for it at once.
fn a_reset_is_the_servers_at_once() {
    let row = Row::all().into_iter().find(|row| row.model == "iterative").unwrap();
    let server = row.start(&[]);
    let (output, result) = load(server.address, &["-c", "1", "-d", "500ms", "--reset", "1"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert!(count(&result["messages"]) > 0, "{result}");
    let figures = server.stop().well();
    assert_eq!(figures["errors"]["reset"], result["awkward"]["reset"]["reset_by_us"], "{figures}");
}

/// Resets whoever begins with less than a message, and echoes to the others.
fn is_impatient() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut room = [0; 4096];
                while let Ok(n @ 1..) = client.read(&mut room) {
                    if n < 64 {
                        return SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                    }
                    client.write_all(&room[..n]).unwrap();
                }
            });
        }
    });
    address
}

fn whom_the_server_resets_is_no_error_of_the_run() {
    let (output, result) = load(is_impatient(), &["-c", "2", "-d", "300ms", "--dribble", "3"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert_eq!((&result["valid"], &result["errors"]), (&true.into(), &json!({})), "{result}");
    let dribble = &result["awkward"]["dribble"];
    assert_eq!((&dribble["reset_by_server"], &dribble["connected"]), (&3.into(), &0.into()), "{result}");
    assert!(count(&dribble["bytes_sent"]) >= 3, "{result}");
    assert_eq!(dribble["bytes_back"], 0, "{result}");
}

fn awkward_clients_that_nobody_lets_in_are_counted_as_refused() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (output, result) = load(nobody, &[&["-c", "1", "-d", "100ms"], ALL].concat());
    assert_eq!(output.status.code(), Some(1));
    for kind in ["stall", "dribble", "silent"] {
        let counts = &result["awkward"][kind];
        assert_eq!((&counts["refused"], &counts["opened"]), (&2.into(), &0.into()), "{kind}: {result}");
    }
    assert!(count(&result["awkward"]["reset"]["refused"]) >= 2, "they try again and again: {result}");
}

fn a_server_that_takes_everything_is_not_given_all_that_there_is() {
    let begun = Instant::now();
    let args = ["-c", "1", "-d", "300ms", "--timeout", "500ms", "--stall", "1", "--awkward-every", "100ms"];
    let (_, result) = load(liars::start(liars::is_silent), &args);
    let bursts = count(&result["awkward"]["stall"]["bytes_sent"]) >> 20;
    assert!(bursts >= 2, "{result}");
    assert!(u128::from(bursts) <= begun.elapsed().as_millis() / 100 + 2, "{result}");
}

fn awkward_clients_cost_the_load_next_to_nothing() {
    let server = event_loop().start(&[]);
    let args = ["-c", "2", "-d", "1s", "--rate", "100", "--max-lateness", "10s"];
    let many = ["--silent", "500", "--stall", "8", "--dribble", "8"];
    let (output, result) = load(server.address, &[&args[..], &many].concat());
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert_eq!(result["awkward"]["silent"]["connected"], 500, "{result}");
    assert!(result["awkward"]["cpu_s"].as_f64() < Some(0.5), "{result}");
}

fn over_a_unix_domain_socket_they_wait_for_room_in_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let (server, endpoint) = of_a_short_queue(folder.path());
    let more = ["-c", "4", "-d", "300ms", "--connect-rate", "100000"];
    let (output, result) =
        load_at(&endpoint, &[&more[..], &["--silent", "20", "--stall", "2", "--dribble", "2"]].concat());
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!((&result["valid"], &result["errors"]), (&true.into(), &json!({})), "{result}");
    for (kind, n) in [("silent", 20), ("stall", 2), ("dribble", 2)] {
        assert_eq!(result["awkward"][kind]["connected"], n, "{kind}: {result}");
    }
    assert_eq!(server.stop().well()["accepted"], 28);
}

fn an_interrupted_load_sends_its_awkward_clients_home_in_order() {
    let server = event_loop().start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let load = Command::new(echo_client())
        .args(["load", &format!("tcp://{}", server.address), "-c", "2", "-d", "60s", "--warmup", "10ms"])
        .args(ALL)
        .arg("--json")
        .arg(&json)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(700)); // something is to be measured
    kill(Pid::from_raw(load.id().cast_signed()), Signal::SIGINT).unwrap();
    let interrupted = Instant::now();
    let output = load.wait_with_output().unwrap();
    assert!(interrupted.elapsed() < Duration::from_secs(3));
    assert_eq!(output.status.code(), Some(130));
    let result: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((&result["valid"], &result["verdicts"]), (&true.into(), &json!(["interrupted"])), "{result}");
    assert_eq!(result["awkward"]["silent"]["connected"], 2, "{result}");
    assert_eq!(count(&server.stop().well()["accepted"]), 2 + opened(&result));
}

fn a_load_is_interrupted_also_while_its_awkward_clients_are_still_to_come() {
    // Nobody accepts, and the queue holds one more than the backlog.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(1).unwrap();
    let listener: TcpListener = socket.into();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let mut load = Command::new(echo_client())
        .args(["load", &endpoint, "-c", "2", "-d", "60s", "--silent", "5", "--timeout", "60s"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(300)); // two have come, the others are waited for
    kill(Pid::from_raw(load.id().cast_signed()), Signal::SIGINT).unwrap();
    drop(listener); // those that have come are ended, so nobody waits for their end
    let status = within(Duration::from_secs(5), "the end", || load.try_wait().unwrap());
    assert_eq!(status.code(), Some(130), "no connection came up, and the user ended it");
}

fn people_and_scripts_are_told_as_well() {
    let server = event_loop().start(&[]);
    let (output, _) = load(server.address, &[&["-c", "2", "-d", "200ms"], ALL].concat());
    let said = text(&output.stdout);
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    for words in ["2 x --stall: 2 still there", "2 x --silent: 2 still there", "reset in mid-message"] {
        assert!(said.contains(words), "{words:?} is missing: {said}");
    }
    let (output, _) = load(server.address, &[&["-c", "2", "-d", "200ms", "--line"], ALL].concat());
    let said = text(&output.stdout);
    assert!(said.contains(" awkward=8 awkward_connected=") && said.lines().count() == 1, "{said}");
    let (output, _) = load(server.address, &["-c", "2", "-d", "200ms", "--line"]);
    assert!(!text(&output.stdout).contains("awkward"), "where there are none, nothing is said of them");
}
