//! The system calls that a message costs, counted by strace(1).

use std::{collections::BTreeMap, fs, process::Command};

use serde_json::Value;

use crate::{
    stage::{PATIENCE, Row, echo_client, echo_server, run, within},
    suite::{Promise, compare::has_run, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_loop_receives_once_and_sends_once_a_message_and_registers_nothing,
    a_ring_makes_far_less_than_one_call_a_message,
    compare_counts_the_calls_of_a_server_that_runs_and_of_its_children,
];

/// Loads a server over some connections, so few that what each costs at its begin is little, and returns how often it made each system call, by message.
fn calls_per_message(row: &Row) -> BTreeMap<String, f64> {
    let folder = tempfile::tempdir().unwrap();
    let counts = folder.path().join("counts");
    let mut strace = Command::new("strace");
    strace.args(["-DD", "-f", "-c", "-o"]).arg(&counts).arg(echo_server());
    let server = row.start_by(strace, &["--workers", "1"]);
    let endpoint = format!("tcp://{}", server.address);
    let output = run(echo_client(), &["load", &endpoint, "-c", "32", "-d", "2s"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let messages = server.stop().well()["messages"].as_f64().unwrap();
    assert!(messages > 1000.0, "{messages} messages are too few to count by");
    // strace writes when the last process that it traces has ended.
    let table = within(PATIENCE, "strace's counts", || {
        fs::read_to_string(&counts).ok().filter(|table| table.contains("total"))
    });
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter_map(|words| {
        Some(((*words.last()?).to_owned(), words.get(3)?.parse::<f64>().ok()? / messages))
    })
    .collect()
}

fn row(model: &str) -> Option<Row> {
    Row::all().into_iter().find(|row| row.model == model)
}

fn a_loop_receives_once_and_sends_once_a_message_and_registers_nothing() {
    for model in ["select", "poll", "event-loop", "multi-reactor", "async"] {
        let calls = calls_per_message(&row(model).unwrap());
        let count = |name: &str| calls.get(name).copied().unwrap_or_default();
        for call in ["recvfrom", "sendto"] {
            assert!((0.95..1.05).contains(&count(call)), "{model}: {} {call} a message", count(call));
        }
        let waits: f64 = ["select", "pselect6", "poll", "epoll_wait"].into_iter().map(count).sum();
        assert!(waits < 1.05, "{model}: {waits} waits a message");
        assert!(count("epoll_ctl") < 0.1, "{model}: {} epoll_ctl a message", count("epoll_ctl"));
        let all: f64 = calls.iter().filter(|(name, _)| *name != "total").map(|(_, n)| n).sum();
        assert!(all < 2.1 + waits, "{model}: {all} calls a message: {calls:?}");
    }
}

fn a_ring_makes_far_less_than_one_call_a_message() {
    let Some(row) = row("io-uring") else {
        return eprintln!("skipped: io-uring cannot run here; `echo-server models` says why");
    };
    let calls = calls_per_message(&row);
    let all: f64 = calls.iter().filter(|(name, _)| *name != "total").map(|(_, n)| n).sum();
    assert!(all < 0.75, "{all} calls a message: {calls:?}");
}

fn compare_counts_the_calls_of_a_server_that_runs_and_of_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let mut compare = Command::new(echo_client());
    compare.args(["compare", "-m", "iterative,event-loop,fork,prefork", "-c", "1", "--blocks", "1"]);
    compare.args(["-d", "50ms", "--results"]).arg(folder.path()).arg("--server").arg(echo_server());
    let output = compare.output().unwrap();
    has_run(&output);
    let results = fs::read_to_string(folder.path().join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    let counted = results["calls"].as_array().unwrap();
    assert_eq!(counted.len(), 4);
    for row in counted {
        let calls = row["per_message"].as_f64().unwrap_or_else(|| panic!("{row}"));
        // A loop also waits, once for all that are ready; the others only receive and send.
        let most = if row["contender"] == "event-loop" { 3.1 } else { 2.2 };
        assert!((1.9..most).contains(&calls), "{row}");
        let words: Vec<&str> = row["by_name"].as_str().unwrap().split(' ').collect();
        let of = |name| {
            words.iter().position(|word| *word == name).map(|at| words[at + 1].parse::<f64>().unwrap())
        };
        for name in ["sendto", "recvfrom"] {
            assert!(of(name).is_some_and(|calls| (0.95..1.05).contains(&calls)), "{name}: {row}");
        }
    }
    assert!(String::from_utf8_lossy(&output.stdout).contains("system calls a message: "));
}
