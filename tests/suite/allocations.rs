//! The load allocates nothing for a message: where messages are many, that would be what is measured.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    stage::{ROOT, Row, Server, echo_client},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_message_costs_the_load_no_allocation,
    a_million_verified_messages_cost_no_allocation_by_either_engine,
];

/// How many messages are sent in so long, and how many times memory is allocated meanwhile.
fn counted(endpoint: &str, duration: &str, more: &[&str], folder: &Path) -> (u64, u64) {
    let (count, json) = (folder.join("count"), folder.join("load.json"));
    let mut load = Command::new(echo_client());
    load.args(["load", endpoint, "-c", "4", "--threads", "1", "-d", duration, "--warmup", "100ms"]);
    load.args(more).arg("--json").arg(&json).stdout(Stdio::null());
    load.env("LD_PRELOAD", folder.join("allocations.so")).env("ALLOCATIONS", &count);
    assert!(load.status().unwrap().success(), "{more:?}");
    let result: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let allocations = fs::read_to_string(&count).unwrap().parse().unwrap();
    (result["messages"].as_u64().unwrap(), allocations)
}

/// The counter, and a server.
fn stage(folder: &Path) -> Server {
    let source = Path::new(ROOT).join("tests/suite/allocations.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(folder.join("allocations.so"))
        .arg(source)
        .status();
    assert!(compiled.unwrap().success());
    Row::all().into_iter().find(|row| row.model == "event-loop").unwrap().start(&[])
}

/// How many allocations there may be more in a long run than in a short one: a queue may grow once more, and a fault of
/// the machine may have its words.
const MORE: u64 = 100;

fn a_message_costs_the_load_no_allocation() {
    let folder = tempfile::tempdir().unwrap();
    let server = stage(folder.path());
    let endpoint = format!("tcp://{}", server.address);
    for more in [
        &["--pipeline", "16"][..],
        &["--size", "exp:200"],
        &["--think", "100us"],
        &["--rate", "5000", "--arrivals", "poisson", "--max-lateness", "10s"],
    ] {
        let (_, before) = counted(&endpoint, "100ms", more, folder.path());
        let (messages, after) = counted(&endpoint, "900ms", more, folder.path());
        let grown = after.saturating_sub(before);
        assert!(messages > 2000 && grown < MORE, "{more:?}: {grown} allocations for {messages} messages");
    }
}

fn a_million_verified_messages_cost_no_allocation_by_either_engine() {
    let folder = tempfile::tempdir().unwrap();
    let server = stage(folder.path());
    let endpoint = format!("tcp://{}", server.address);
    for engine in ["mio", "io-uring"] {
        let more = ["--pipeline", "16", "--engine", engine];
        let (_, before) = counted(&endpoint, "100ms", &more, folder.path());
        let of_so_long = |seconds: u64| {
            let (messages, after) = counted(&endpoint, &format!("{seconds}s"), &more, folder.path());
            (seconds, messages, after)
        };
        let run = [2, 8, 32].into_iter().map(of_so_long).find(|&(_, messages, _)| messages >= 1_000_000);
        let (seconds, messages, after) = run.expect("a million answers in half a minute");
        let grown = after.saturating_sub(before);
        // Each second of the run is packed, told and written by itself.
        assert!(grown < MORE + 60 * seconds, "{engine}: {grown} allocations for {messages} messages");
    }
}
