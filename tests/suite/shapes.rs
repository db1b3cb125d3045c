//! `echo-client load`: over which sockets, from where, and how connections end.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

use crate::{
    stage::{Row, Server, echo_server},
    suite::{
        Promise,
        load::{load, load_at, text},
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    a_unix_domain_server_is_loaded_like_any_other,
    a_path_that_is_too_long_is_refused_in_one_line,
    every_connection_that_is_half_closed_is_closed_by_the_server,
    a_server_that_does_not_close_after_our_fin_is_found_out,
    connections_come_from_the_sources_in_turns,
    a_staircase_climbs_in_equal_steps_to_all_connections_or_to_the_rate,
    both_families_and_every_option_of_a_socket_are_served,
];

/// A server at a path in a folder; more at once than its accept queue takes have to ask again until it has room.
pub fn of_a_short_queue(folder: &Path) -> (Server, String) {
    let endpoint = format!("unix://{}", folder.join("echo.sock").display());
    let mut command = Command::new(echo_server());
    command.args(["--model", "thread", "--backlog", "1", &endpoint]);
    let server = Server::spawn(command);
    server.line();
    (server, endpoint)
}

fn a_unix_domain_server_is_loaded_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let (server, endpoint) = of_a_short_queue(folder.path());
    for more in [
        &["--size", "1..70000", "--pipeline", "4"][..],
        &["--churn", "1"],
        &["--churn", "2", "--half-close"],
        &["--rate", "1000", "--max-lateness", "10s"],
    ] {
        let (output, result) = load_at(&endpoint, &[&["-c", "32", "-d", "1s"], more].concat());
        assert!(output.status.success(), "{more:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(
            (&result["valid"], &result["errors"]),
            (&true.into(), &serde_json::json!({})),
            "{more:?}: {result}"
        );
        assert_eq!(result["connections"]["served"], 32, "{more:?}: {result}");
    }
    server.stop().well();
}

fn a_path_that_is_too_long_is_refused_in_one_line() {
    let (output, _) = load_at(&format!("unix:///{}", "long".repeat(50)), &[]);
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(2), 1));
}

fn every_connection_that_is_half_closed_is_closed_by_the_server() {
    for row in Row::all() {
        let server = row.start(&[]);
        let args = ["-c", "8", "--churn", "2", "--half-close", "-d", "300ms"];
        let (output, result) = load(server.address, &args);
        assert!(output.status.success(), "{}: {}", row.label(), text(&output.stdout));
        assert_eq!((&result["valid"], &result["errors"]), (&true.into(), &serde_json::json!({})), "{result}");
        assert_eq!(server.stop().well()["accepted"], result["connections"]["opened"], "{}", row.label());
    }
}

fn a_server_that_does_not_close_after_our_fin_is_found_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut room = [0; 4096];
        let mut kept = Vec::new();
        for mut client in listener.incoming().map_while(Result::ok) {
            while let Ok(n @ 1..) = client.read(&mut room) {
                client.write_all(&room[..n]).unwrap();
            }
            kept.push(client);
        }
    });
    let args = ["-c", "1", "--churn", "2", "--half-close", "-d", "2s", "--timeout", "300ms"];
    let (output, result) = load(address, &args);
    assert_eq!(output.status.code(), Some(1), "{result}");
    assert_eq!(result["errors"], serde_json::json!({"unclosed": 1}), "{result}");
}

fn connections_come_from_the_sources_in_turns() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peers = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&peers);
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            seen.lock().unwrap().insert(client.peer_addr().unwrap().ip());
            thread::spawn(move || {
                let mut room = [0; 4096];
                while let Ok(n @ 1..) = client.read(&mut room) {
                    client.write_all(&room[..n]).unwrap();
                }
            });
        }
    });
    let (output, _) = load(address, &["-c", "4", "-d", "100ms", "--source", "127.0.0.7,127.0.0.9"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    let expected = [7, 9].map(|last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last)));
    assert_eq!(*peers.lock().unwrap(), BTreeSet::from(expected));
}

fn a_staircase_climbs_in_equal_steps_to_all_connections_or_to_the_rate() {
    let server = Row::all().pop().unwrap().start(&[]);
    let args = ["-c", "10", "--threads", "3", "-d", "600ms", "--ramp", "3"];
    let (output, result) = load(server.address, &args);
    assert!(output.status.success(), "{}", text(&output.stdout));
    let steps = |result: &Value, name: &str| -> Vec<f64> {
        result["steps"].as_array().unwrap().iter().map(|step| step[name].as_f64().unwrap()).collect()
    };
    assert_eq!(steps(&result, "connections"), [4.0, 7.0, 10.0], "{result}");
    assert_eq!(
        (&result["connections"]["established"], &result["connections"]["served"]),
        (&10.into(), &10.into())
    );
    assert_eq!((&result["valid"], result["series"].as_array().unwrap().len()), (&true.into(), 3), "{result}");
    let from: Vec<f64> =
        result["series"].as_array().unwrap().iter().map(|row| row["from_s"].as_f64().unwrap()).collect();
    assert!(from[0] == 0.0 && from[1] >= 0.25 && from[2] >= 0.5, "with their warm-ups: {from:?}");
    let figures = server.stop().well();
    assert_eq!(figures["accepted"], 10);

    let server = Row::all().pop().unwrap().start(&[]);
    let args =
        ["-c", "1", "--threads", "1", "-d", "1s", "--ramp", "4", "--rate", "400", "--max-lateness", "10s"];
    let (output, result) = load(server.address, &args);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert_eq!(steps(&result, "rate"), [100.0, 200.0, 300.0, 400.0], "{result}");
    let (departures, all) = (&result["departures"], (&250.into(), &0.into()));
    assert_eq!((&departures["due"], &departures["dropped"]), all, "{result}");
    assert!(text(&output.stdout).lines().all(|line| line.chars().count() <= 80), "{}", text(&output.stdout));
}

fn both_families_and_every_option_of_a_socket_are_served() {
    let mut command = Command::new(echo_server());
    command.args(["--model", "event-loop", "tcp://[::1]:0"]);
    let server = Server::start(command);
    for more in [
        &[][..],
        &["--source", "::1"],
        &["--nodelay", "off"],
        &["--send-buffer", "4KiB", "--receive-buffer", "4KiB", "--size", "300000"],
    ] {
        let (output, result) = load(server.address, &[&["-c", "3", "-d", "200ms"], more].concat());
        assert!(output.status.success(), "{more:?}: {}", text(&output.stdout));
        assert_eq!(result["valid"], true, "{more:?}: {result}");
    }
    let mut command = Command::new(echo_server());
    command.args(["--model", "event-loop", "udp://[::1]:0"]);
    let server = Server::spawn(command);
    let endpoint = server.line()["endpoint"].as_str().unwrap().to_owned();
    for more in [&["--source", "::1"][..], &["--receive-buffer", "64KiB"], &["--burst", "8"]] {
        let (output, result) = load_at(&endpoint, &[&["-c", "3", "-d", "200ms"], more].concat());
        assert!(output.status.success(), "{more:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(result["messages"].as_u64() > Some(0), "{more:?}: {result}");
    }
}
