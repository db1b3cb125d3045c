//! What `echo-client check` promises: each broken twin fails its own check and no other, and every model passes all that
//! apply. The twins and the models are known when this runs, so each is a test by its name.

// In a test, to unwrap is to assert.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../stage/mod.rs"]
mod stage;

use std::{collections::BTreeSet, process::Command};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use stage::{Row, echo_client, echo_server, lesson};

fn main() {
    let mut arguments = Arguments::from_args();
    // Most of a check is waiting.
    arguments.test_threads.get_or_insert(8);
    let twins =
        String::from_utf8(Command::new(lesson("twin")).arg("--list").output().unwrap().stdout).unwrap();
    let mut trials: Vec<Trial> = twins
        .lines()
        .map(|line| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let [bug, transport, implies] = <[String; 3]>::try_from(words).unwrap();
            let name = format!("the_twin_fails_its_own_check_and_no_other::{transport}/{bug}");
            Trial::test(name, move || twin(&bug, &transport, &implies))
        })
        .collect();
    trials.extend([stage::Transport::Tcp, stage::Transport::Udp].into_iter().flat_map(Row::table_of).map(
        |row| {
            let name = format!("a_model_passes_every_check_that_applies::{}", row.label());
            let is_ignored = row.why_not.is_some();
            Trial::test(name, move || model(&row)).with_ignored_flag(is_ignored)
        },
    ));
    libtest_mimic::run(&arguments, trials).exit();
}

/// The checks that a server fails, and all that was told of it.
fn failed_by(endpoint: &str, more: &[&str], server: &[&str]) -> Result<(BTreeSet<String>, Value), Failed> {
    let mut command = Command::new(echo_client());
    command.args(["check", endpoint, "--format", "json"]).args(more).arg("--").args(server);
    let output = command.output()?;
    let told: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let checks = told["checks"].as_array().ok_or("no checks")?;
    let is_odd = |check: &&Value| ["fail", "error", "warn"].iter().any(|status| check["status"] == *status);
    let failed: BTreeSet<String> =
        checks.iter().filter(is_odd).map(|check| check["id"].as_str().unwrap_or_default().into()).collect();
    Ok((failed, told))
}

/// What a check may lack: root, strace, IPv6, a machine that is not busy. Any other has to find its twin's bug.
const MAY_BE_SKIPPED: [&str; 4] = ["fork-refused", "accept-error", "dual-stack", "nagle"];

fn twin(bug: &str, transport: &str, implies: &str) -> Result<(), Failed> {
    let twin = lesson("twin");
    let endpoint = format!("{transport}://127.0.0.1:{{port}}");
    let (failed, told) = failed_by(&endpoint, &[], &[twin.to_str().unwrap(), bug, "{port}"])?;
    let is_at_hand = |id: &str| {
        let checks = told["checks"].as_array().into_iter().flatten();
        let is_skipped = |check: &&Value| check["id"] == id && check["status"] == "skip";
        let skipped = checks.filter(|check| MAY_BE_SKIPPED.contains(&id) && is_skipped(check));
        skipped.map(|check| eprintln!("{id} is not tested: {}", check["finding"])).count() == 0
    };
    let is_right = |bug: &str| ["none", "udp-none"].contains(&bug);
    let own = [bug].into_iter().filter(|bug| !is_right(bug) && is_at_hand(bug));
    let expected: BTreeSet<String> =
        own.chain(implies.split(',').filter(|id| !id.is_empty())).map(str::to_owned).collect();
    if failed == expected { Ok(()) } else { Err(format!("{failed:?}: {told:#}").into()) }
}

fn model(row: &Row) -> Result<(), Failed> {
    passes_at(row, "127.0.0.1")?;
    if row.transport == stage::Transport::Udp {
        let told = passes_at(row, "0.0.0.0")?; // where it has to know which address was asked
        let mut checks = told["checks"].as_array().into_iter().flatten();
        let passed = checks.any(|check| check["id"] == "udp-address" && check["status"] == "pass");
        if !passed {
            return Err(format!("it is not seen to be bound to every address: {told:#}").into());
        }
    }
    Ok(())
}

/// Passes every check where it is bound to an address.
fn passes_at(row: &Row, address: &str) -> Result<Value, Failed> {
    let at = |address: &str| format!("{}://{address}:{{port}}", row.transport.name());
    let mut server = vec![echo_server().to_str().unwrap().to_owned()];
    server.extend(row.options(&[]));
    server.push(at(address));
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    let more: &[&str] = if row.is_concurrent() { &[] } else { &["--expect", "iterative"] };
    let (failed, told) = failed_by(&at("127.0.0.1"), more, &server)?;
    if failed.is_empty() { Ok(told) } else { Err(format!("{failed:?}: {told:#}").into()) }
}
