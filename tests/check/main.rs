//! What `echo-client check` promises: each broken twin fails its own check and no other, every model passes all that
//! apply, and of the lessons the syllabus says what they fail. Who they are is known when this runs: each is a test by its name.

// In a test, to unwrap is to assert.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../stage/mod.rs"]
mod stage;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::Uid;
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
    trials.extend(lessons().into_iter().map(|(name, fails)| {
        let title = format!("a_lesson_fails_what_the_syllabus_says_and_nothing_else::{name}");
        let is_ignored = name.contains("io_uring") && !Row::all().iter().any(|row| row.model == "io-uring");
        Trial::test(title, move || shows(&name, &fails)).with_ignored_flag(is_ignored)
    }));
    libtest_mimic::run(&arguments, trials).exit();
}

/// The lessons that are servers, and the checks that each fails; and, in brackets, those of which it fails one at least: a
/// table of the syllabus.
fn lessons() -> Vec<(String, [BTreeSet<String>; 2])> {
    let syllabus = include_str!("../../examples/README.md");
    let table = syllabus.split("| lesson | shows, and so fails |").nth(1).expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
    rows.map(|row| {
        let (before, rest) = row.split_once('(').unwrap_or((row, ""));
        let (some, after) = rest.split_once(')').unwrap_or(("", rest));
        let ids = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let name = row.split(' ').nth(1).unwrap_or_default();
        (name.to_owned(), [ids(&format!("{before}{after}")), ids(some)])
    })
    .collect()
}

fn shows(name: &str, [fails, some]: &[BTreeSet<String>; 2]) -> Result<(), Failed> {
    let transport = if fails.iter().any(|id| id.starts_with("udp-")) { "udp" } else { "tcp" };
    let endpoint = format!("{transport}://127.0.0.1:{{port}}");
    let (failed, told) = failed_by(&endpoint, &[], &[lesson(name).to_str().unwrap(), "127.0.0.1:{port}"])?;
    let expected: BTreeSet<String> =
        fails.iter().filter(|id| !needs_more_rights(id, &told)).cloned().collect();
    let is_as_told = &failed - some == expected && (some.is_empty() || !failed.is_disjoint(some));
    if is_as_told { Ok(()) } else { Err(format!("{failed:?}: {told:#}").into()) }
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

fn twin(bug: &str, transport: &str, implies: &str) -> Result<(), Failed> {
    let twin = lesson("twin");
    let endpoint = format!("{transport}://127.0.0.1:{{port}}");
    let (failed, told) = failed_by(&endpoint, &[], &[twin.to_str().unwrap(), bug, "{port}"])?;
    let is_right = |bug: &str| ["none", "udp-none"].contains(&bug);
    let own = bug.split('/').take(1).filter(|bug| !is_right(bug) && !needs_more_rights(bug, &told));
    let expected: BTreeSet<String> =
        own.chain(implies.split(',').filter(|id| !id.is_empty())).map(str::to_owned).collect();
    if failed == expected { Ok(()) } else { Err(format!("{failed:?}: {told:#}").into()) }
}

/// The checks that were not made.
fn skipped(told: &Value) -> BTreeMap<&str, &Value> {
    let checks = told["checks"].as_array().into_iter().flatten();
    let skipped = checks.filter(|check| check["status"] == "skip");
    skipped.map(|check| (check["id"].as_str().unwrap_or_default(), &check["finding"])).collect()
}

/// Whether a check was skipped since this is not root; root is asked for all.
fn needs_more_rights(id: &str, told: &Value) -> bool {
    let why = skipped(told).get(id).copied().filter(|_| !Uid::effective().is_root());
    why.inspect(|why| eprintln!("{id} is not tested: {why}")).is_some()
}

fn model(row: &Row) -> Result<(), Failed> {
    let mut need_not_apply = vec!["dual-stack", "udp-address", "worker-killed"];
    if row.model == "io-uring" {
        need_not_apply.push("accept-error"); // a ring's accept is no system call that strace could have fail
    }
    passes_at(row, "127.0.0.1", &need_not_apply, &[])?;
    // Where it claims every address, it has to answer on each, and from that which was asked.
    match row.transport {
        stage::Transport::Tcp => passes_at(row, "[::]", &[], &["--only", "dual-stack"]),
        stage::Transport::Udp => passes_at(row, "0.0.0.0", &[], &[]),
    }
}

/// Passes every check where it is bound to an address, but for those that need not apply to it there.
fn passes_at(row: &Row, address: &str, need_not_apply: &[&str], more: &[&str]) -> Result<(), Failed> {
    let at = |address: &str| format!("{}://{address}:{{port}}", row.transport.name());
    let mut server = vec![echo_server().to_str().unwrap().to_owned()];
    server.extend(row.options(&[]));
    server.push(at(address));
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    let expected: &[&str] = if row.is_concurrent() { &[] } else { &["--expect", "iterative"] };
    let (failed, told) = failed_by(&at("127.0.0.1"), &[expected, more].concat(), &server)?;
    let ought_to_be = |id: &&&str| !need_not_apply.contains(*id) && !needs_more_rights(id, &told);
    let unmade: Vec<&str> = skipped(&told).keys().filter(ought_to_be).copied().collect();
    if failed.is_empty() && unmade.is_empty() {
        Ok(())
    } else {
        Err(format!("failed {failed:?}, not made {unmade:?}: {told:#}").into())
    }
}
