//! A path may be any bytes but a zero: what is not UTF-8 is a file as any other, and what has to be text is refused in a line.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    stage::{Row, Server, Transport, echo_client, echo_server},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    results_go_into_files_whose_names_are_no_text,
    a_server_writes_and_reads_files_whose_names_are_no_text,
    what_has_to_be_text_and_is_none_is_answered_in_one_line,
];

/// No text: 0xff is in no UTF-8.
fn odd(before: &str, after: &str) -> OsString {
    OsStr::from_bytes(&[before.as_bytes(), b"\xff", after.as_bytes()].concat()).to_owned()
}

fn run(program: &Path, folder: &Path, args: &[&OsStr]) -> Output {
    let mut command = Command::new(program);
    command.current_dir(folder).args(args).stdin(Stdio::null()).output().unwrap()
}

fn words(text: &str) -> Vec<OsString> {
    text.split(' ').map(Into::into).collect()
}

fn results_go_into_files_whose_names_are_no_text() {
    let server = Row::all()[0].start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let there = |name: OsString| folder.path().join(name).exists();
    let load = format!("load tcp://{} -d 100ms --warmup 0 -c 1 --rank 0/1", server.address);
    let check = format!("check tcp://{} --only bytes --format", server.address);
    let compare = format!(
        "compare --models none --with x=tcp://{} -c 1 --blocks 1 -d 100ms --no-calls",
        server.address
    );
    let compare = format!("{compare} --server {} --results", echo_server().display());
    for (command, more) in [
        (&load, vec!["--json".into(), odd("load", "{rank}.json"), "--csv".into(), odd("load", ".csv")]),
        (&check, vec![odd("json=check", ".json")]),
        (&compare, vec![odd("compare", "")]),
        (&"merge --json".into(), vec![odd("merged", ".json"), odd("load", "0.json")]),
        (&"report -o".into(), vec![odd("report", ""), odd("compare", "")]),
    ] {
        let args = [words(command), more].concat();
        let output =
            run(echo_client(), folder.path(), &args.iter().map(OsString::as_os_str).collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        // A machine that is busy makes a result of so little time invalid; it is written all the same.
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{args:?}: {said}");
    }
    for name in [odd("load", "0.json"), odd("load", ".csv"), odd("check", ".json"), odd("merged", ".json")] {
        assert!(there(name.clone()), "{name:?}");
    }
    assert!(there(odd("compare", "/results.json")) && there(odd("report", "/index.html")));
    let told: Value =
        serde_json::from_slice(&fs::read(folder.path().join(odd("load", "0.json"))).unwrap()).unwrap();
    assert!(
        told["command"].as_str().unwrap().contains("--json $'load\\xff{rank}.json'"),
        "{}",
        told["command"]
    );
}

fn a_server_writes_and_reads_files_whose_names_are_no_text() {
    let row = &Row::table_of(Transport::Udp)[0];
    let folder = tempfile::tempdir().unwrap();
    let mut command = row.command(Command::new(echo_server()), &["udp://127.0.0.1:0"]);
    command.current_dir(folder.path());
    command.arg("--stats").arg(odd("page", "")).arg("--groups").arg(odd("groups", ".json"));
    let server = Server::start(command);
    let status = run(echo_server(), folder.path(), &["status".as_ref(), &odd("page", ""), "--json".as_ref()]);
    assert!(status.status.success(), "{status:?}");
    server.signal(Signal::SIGTERM);
    let (status, _) = server.ended();
    assert!(status.success());
    assert!(folder.path().join(odd("groups", ".json")).exists());
}

fn what_has_to_be_text_and_is_none_is_answered_in_one_line() {
    let odd = odd("", "");
    let [tcp, unix] = ["tcp://", "unix:///tmp/"]
        .map(|scheme| OsStr::from_bytes(&[scheme.as_bytes(), b"\xff"].concat()).to_owned());
    let client: &[&[&OsStr]] = &[
        &["talk".as_ref(), &tcp],
        &["load".as_ref(), &unix],
        &["load".as_ref(), &tcp],
        &["compare".as_ref(), "--with".as_ref(), &odd],
        &["compare".as_ref(), "--models".as_ref(), &odd],
        &["check".as_ref(), "--".as_ref(), &odd],
        &["check".as_ref(), &tcp],
        &[&odd],
    ];
    let server: &[&[&OsStr]] = &[&[&tcp], &["--model".as_ref(), &odd], &["--groups".as_ref(), &odd, &unix]];
    for (program, all) in [(echo_client(), client), (echo_server(), server)] {
        for args in all {
            let output = run(program, Path::new("/"), args);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{args:?}: {said}");
        }
    }
}
