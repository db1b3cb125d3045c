//! The load allocates nothing for a message: where messages are many, that would be what is measured.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::stage::{Row, echo_client};

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

#[test]
fn a_message_costs_the_load_no_allocation() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/allocations.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(folder.path().join("allocations.so"))
        .arg(source)
        .status();
    assert!(compiled.unwrap().success());
    let server = Row::all().into_iter().find(|row| row.model == "event-loop").unwrap().start(&[]);
    let endpoint = format!("tcp://{}", server.address);
    for more in [
        &["--pipeline", "16"][..],
        &["--size", "exp:200"],
        &["--think", "100us"],
        &["--rate", "5000", "--arrivals", "poisson", "--max-lateness", "10s"],
    ] {
        let (_, before) = counted(&endpoint, "100ms", more, folder.path());
        let (messages, after) = counted(&endpoint, "900ms", more, folder.path());
        // A queue may grow once more, and a fault of the machine may have its words.
        let grown = after.saturating_sub(before);
        assert!(messages > 2000 && grown < 100, "{more:?}: {grown} allocations for {messages} messages");
    }
}
