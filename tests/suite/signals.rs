//! Which signals end a client, and how; and what does not keep it from ending.

use std::{
    fs,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use nix::{
    libc::{SIGRTMAX, SIGRTMIN},
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use serde_json::Value;

use crate::{
    stage::{PATIENCE, Row, children, echo_client, lesson, within},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_signal_that_means_nothing_ends_no_load,
    who_is_about_to_lose_processor_or_power_ends_in_order_with_a_result,
    a_signal_that_means_nothing_ends_no_comparison_and_no_check_and_their_servers_do_not_ignore_it,
    a_result_for_a_pipe_that_nobody_reads_is_refused_in_a_line,
];

/// A client that has its handlers: its thread for signals is there.
fn client(args: &[&str]) -> Child {
    let mut command = Command::new(echo_client());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let client = command.spawn().unwrap();
    let has_handlers = || {
        let threads = procfs::process::Process::new(client.id().cast_signed()).unwrap().tasks().unwrap();
        threads.flatten().any(|it| it.stat().is_ok_and(|stat| stat.comm == "signals")).then_some(())
    };
    within(PATIENCE, "it heeds signals", has_handlers);
    client
}

fn end(mut client: Child) -> ExitStatus {
    within(PATIENCE, "it ends", || client.try_wait().unwrap())
}

/// By its number: nix knows no signals of real time.
fn send(client: &Child, signal: i32) {
    let sent = Command::new("kill").args([format!("-{signal}"), client.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn a_signal_that_means_nothing_ends_no_load() {
    let server = Row::all().pop().unwrap().start(&[]);
    let endpoint = format!("tcp://{}", server.address);
    for engine in ["mio", "io-uring"] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let json = file.path().to_str().unwrap();
        let args = [
            "load", &endpoint, "-c", "4", "-d", "600ms", "--warmup", "0", "--engine", engine, "--json", json,
        ];
        let load = client(&args);
        for signal in [
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGALRM,
            Signal::SIGVTALRM,
            Signal::SIGPROF,
            Signal::SIGIO,
            Signal::SIGSTKFLT,
        ] {
            send(&load, signal as i32);
        }
        send(&load, SIGRTMIN());
        send(&load, SIGRTMAX());
        let output = load.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("cannot run here") {
            continue;
        }
        let told: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
        assert!(told["messages"].as_u64() > Some(0) && told["errors"] == serde_json::json!({}), "{told:#}");
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}: {said}", output.status);
    }
}

fn who_is_about_to_lose_processor_or_power_ends_in_order_with_a_result() {
    let server = Row::all().pop().unwrap().start(&[]);
    let endpoint = format!("tcp://{}", server.address);
    for signal in [Signal::SIGXCPU, Signal::SIGPWR, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let json = file.path().to_str().unwrap();
        let load = client(&["load", &endpoint, "-c", "1", "-d", "1m", "--warmup", "0", "--json", json]);
        thread::sleep(Duration::from_millis(100)); // something is measured
        send(&load, signal as i32);
        assert_eq!(end(load).code(), Some(130), "{signal}");
        let told: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
        assert!(told["messages"].is_u64(), "{signal}: {told:#}");
    }
}

fn a_signal_that_means_nothing_ends_no_comparison_and_no_check_and_their_servers_do_not_ignore_it() {
    let folder = tempfile::tempdir().unwrap();
    // Not one of ours, which ignore such signals by themselves.
    let [server, results] = [lesson("03_iterative"), folder.path()].map(|path| path.to_str().unwrap());
    let contender = format!("x={server} 127.0.0.1:{{port}}");
    let compare = [
        &["compare", "--models", "none", "-c", "1", "--blocks", "2", "--no-calls", "-d", "300ms"][..],
        &["--warmup", "0", "--with", &contender, "--results", results, "--scenario", "echo"],
    ]
    .concat();
    let check = ["check", "--only", "bytes,idle-cpu", "--", server, "127.0.0.1:{port}"];
    for args in [&compare[..], &check] {
        let mut client = client(args);
        let pid = client.id().cast_signed();
        // Until it has become the server it is a copy of the client.
        let is_server = |pid: &i32| {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("03_iterative"))
        };
        let started = || children(pid).into_iter().find(is_server);
        let child = within(PATIENCE, "a server is started", started);
        send(&client, Signal::SIGUSR1 as i32);
        let ignored = procfs::process::Process::new(child).and_then(|it| it.status()).map(|it| it.sigign);
        assert!(
            ignored.is_ok_and(|mask| mask & (1 << (Signal::SIGALRM as u64 - 1)) == 0) || started().is_none()
        );
        let status = within(PATIENCE, "it ends", || client.try_wait().unwrap());
        assert!(matches!(status.code(), Some(0 | 1 | 3)), "{args:?}: {status}");
    }
}

fn a_result_for_a_pipe_that_nobody_reads_is_refused_in_a_line() {
    let server = Row::all()[0].start(&[]);
    let endpoint = format!("tcp://{}", server.address);
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let pipe = pipe.to_str().unwrap();
    let as_json = format!("json={pipe}");
    for args in [
        &["load", &endpoint, "-c", "1", "-d", "100ms", "--json", pipe][..],
        &["load", &endpoint, "-c", "1", "-d", "100ms", "--hdr", pipe],
        &["check", "--only", "bytes", "--format", &as_json, &endpoint],
    ] {
        let mut command = Command::new(echo_client());
        let mut client = command.args(args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let status = within(PATIENCE, "it ends", || client.try_wait().unwrap());
        let said = std::io::read_to_string(client.stderr.take().unwrap()).unwrap();
        assert_eq!((status.code(), said.lines().count()), (Some(2), 1), "{args:?}: {said}");
        assert!(said.contains("nobody reads it"), "{said}");
    }
    // Who comes in time gets it all, though it is more than fits into a pipe.
    let mut load = client(&["load", &endpoint, "-c", "1", "-d", "100ms", "--warmup", "0", "--json", pipe]);
    let told: Value = serde_json::from_slice(&fs::read(pipe).unwrap()).unwrap();
    assert!(told["messages"].as_u64() > Some(0), "{told:#}");
    within(PATIENCE, "it ends", || load.try_wait().unwrap());
}
