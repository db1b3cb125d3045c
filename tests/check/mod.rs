//! What `echo-client check` promises: each broken twin fails its own check and no other, every model passes all that
//! apply, and of the lessons the syllabus says what they fail.
//!
//! What there is no other of costs the most to find out: `make test` asks twins and lessons for what they are known by and
//! for what is elementary, `make test-all` for everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::Arc,
};

use libtest_mimic::Failed;
use nix::unistd::Uid;
use serde_json::Value;

use crate::{
    schedule::Test,
    stage::{Row, Transport, echo_client, echo_server, lesson},
};

pub fn tests() -> Vec<Test> {
    let rows = [Transport::Tcp, Transport::Udp].into_iter().flat_map(Row::table_of);
    [twins(), rows.map(of_a_model).collect(), lessons()].concat()
}

fn of_a_model(row: Row) -> Test {
    let name = format!("a_model_passes_every_check_that_applies::{}", row.label());
    match row.why_not.clone() {
        Some(why) => Test::that_cannot_run(name, why),
        None => Test { is_long: true, ..Test::new(name, move || model(&row)) },
    }
}

/// The servers with one bug each, as they list themselves: the check that finds it, behind a slash which bug of those, and
/// what else it implies.
fn twins() -> Vec<Test> {
    let list = Command::new(lesson("twin")).arg("--list").output().unwrap().stdout;
    let of_a_twin = |line: &str| {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let [bug, transport, implied] = <[String; 3]>::try_from(words).unwrap();
        let own = bug.split('/').take(1).filter(|own| !["none", "udp-none"].contains(own));
        let fails = own.chain(implied.split(',')).filter(|id| !id.is_empty()).map(str::to_owned).collect();
        let name = format!("{transport}/{bug}");
        let server = vec![lesson("twin").display().to_string(), bug, "{port}".into()];
        let twin = Known { server, transport, fails, some: BTreeSet::new() };
        twin.tests(["the_twin_fails_its_own_check", "the_twin_fails_its_own_check_and_no_other"], &name)
    };
    String::from_utf8(list).unwrap().lines().flat_map(of_a_twin).collect()
}

/// The lessons that are servers, and the checks that each fails; and, in brackets, those of which it fails one at least: a
/// table of the syllabus.
fn lessons() -> Vec<Test> {
    let syllabus = include_str!("../../examples/README.md");
    let table = syllabus.split("| lesson | shows, and so fails |").nth(1).expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
    let of_a_lesson = |row: &str| {
        let (before, rest) = row.split_once('(').unwrap_or((row, ""));
        let (some, after) = rest.split_once(')').unwrap_or(("", rest));
        let ids = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let name = row.split(' ').nth(1).unwrap_or_default();
        let (fails, some): (BTreeSet<String>, _) = (ids(&format!("{before}{after}")), ids(some));
        let is_of_datagrams = fails.iter().any(|id| id.starts_with("udp-"));
        let transport = if is_of_datagrams { "udp" } else { "tcp" }.to_owned();
        let server = vec![lesson(name).display().to_string(), "127.0.0.1:{port}".into()];
        let sentences = [
            "a_lesson_fails_what_the_syllabus_says",
            "a_lesson_fails_what_the_syllabus_says_and_nothing_else",
        ];
        let ring = Row::table().into_iter().find(|row| row.model == "io-uring" && name.contains("io_uring"));
        match ring.and_then(|row| row.why_not) {
            Some(why) => vec![Test::that_cannot_run(format!("{}::{name}", sentences[1]), why)],
            None => Known { server, transport, fails, some }.tests(sentences, name),
        }
    };
    rows.flat_map(of_a_lesson).collect()
}

/// What every server is asked first.
const ELEMENTARY: [&str; 5] = ["bytes", "segments", "half-close", "eof", "udp-sizes"];

/// A server of which it is known what it fails.
struct Known {
    server: Vec<String>,
    transport: String,
    fails: BTreeSet<String>,
    /// It fails one at least of these, if there are any.
    some: BTreeSet<String>,
}

impl Known {
    /// Two tests: that it fails what it is known to fail, and none that is elementary; and, with all tests, that there is
    /// no other which it fails.
    fn tests(self, [near, whole]: [&str; 2], name: &str) -> Vec<Test> {
        let [near, whole] = [near, whole].map(|sentence| format!("{sentence}::{name}"));
        let known = Arc::new(self);
        let also = Arc::clone(&known);
        vec![
            Test { is_long: true, ..Test::new(near, move || known.fails_what_is_known(&known.near())) },
            Test { is_extra: true, ..Test::new(whole, move || also.fails_what_is_known(&[])) },
        ]
    }

    /// What `check` is told, to make only those checks that it is known by; of who fails none, all.
    fn near(&self) -> Vec<String> {
        if self.fails.is_empty() && self.some.is_empty() {
            return Vec::new();
        }
        let is_of_datagrams = self.transport == "udp";
        let elementary = ELEMENTARY.into_iter().filter(|id| id.starts_with("udp") == is_of_datagrams);
        let near: BTreeSet<String> = elementary.map(str::to_owned).collect();
        let near: Vec<String> = near.union(&(&self.fails | &self.some)).cloned().collect();
        vec!["--only".into(), near.join(",")]
    }

    fn fails_what_is_known(&self, more: &[String]) -> Result<(), Failed> {
        let endpoint = format!("{}://127.0.0.1:{{port}}", self.transport);
        let [more, server] =
            [more, &self.server].map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        let (failed, told) = failed_by(&endpoint, &more, &server)?;
        let expected: BTreeSet<String> =
            self.fails.iter().filter(|id| !needs_more_rights(id, &told)).cloned().collect();
        let is_as_known =
            &failed - &self.some == expected && (self.some.is_empty() || !failed.is_disjoint(&self.some));
        if is_as_known { Ok(()) } else { Err(format!("{failed:?}: {told:#}").into()) }
    }
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
        Transport::Tcp => passes_at(row, "[::]", &[], &["--only", "dual-stack"]),
        Transport::Udp => passes_at(row, "0.0.0.0", &[], &[]),
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
