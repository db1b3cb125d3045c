//! Socket options that the kernel, or a sandbox, refuses: a server does without those that it can do without, and names
//! the others.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    stage::{address_in, connect, datagrams, echo_server},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] =
    promises![a_refused_socket_option_stops_the_start_only_where_it_is_needed_and_is_named,];

/// Sockets of every kind.
const KINDS: [&str; 6] = [
    "udp://127.0.0.1:0",
    "udp://[::]:0",
    "--model prefork --dispatch reuseport --workers 2 udp://127.0.0.1:0",
    "tcp://127.0.0.1:0",
    "tcp://[::]:0",
    "--model prefork --dispatch reuseport --workers 2 tcp://127.0.0.1:0",
];

/// The options that a server may not be able to do without.
const NEEDED: [&str; 4] = ["SO_REUSEPORT", "IPV6_V6ONLY", "IPV6_RECVPKTINFO", "IP_PKTINFO"];

fn a_refused_socket_option_stops_the_start_only_where_it_is_needed_and_is_named() {
    thread::scope(|scope| {
        for kind in KINDS {
            scope.spawn(move || {
                let refused = (1..).take_while(|&nth| is_done_without_or_named(kind, nth)).count();
                assert!(refused >= 2, "{kind}: {refused}");
            });
        }
    });
}

/// Starts a server whose `nth` setsockopt(2) is refused; false where it makes fewer.
fn is_done_without_or_named(kind: &str, nth: usize) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let (calls, said) = (folder.path().join("calls"), folder.path().join("said"));
    let inject = format!("inject=setsockopt:error=ENOPROTOOPT:when={nth}");
    let mut server = Command::new("strace")
        .args(["-f", "-e", "trace=setsockopt", "-e", &inject, "-o"])
        .arg(&calls)
        .arg(echo_server())
        .args(kind.split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&said).expect("a file"))
        .spawn()
        .expect("strace");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line, or the end");
    if !line.is_empty() {
        let listening: Value = serde_json::from_str(&line).expect("a line of JSON");
        let pid = listening["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid");
        match kind.contains("udp") {
            true => datagrams::ask(&datagrams::client(address_in(&listening)), b"hello"),
            false => {
                let (mut client, mut heard) = (connect(address_in(&listening)), [0; 5]);
                client.write_all(b"hello").and_then(|()| client.read_exact(&mut heard)).expect("an echo");
            }
        }
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is there");
    }
    let ended = server.wait().expect("its end");
    let [calls, said] = [calls, said].map(|file| fs::read_to_string(file).expect("text"));
    let Some(call) = calls.lines().find(|call| call.contains("INJECTED")) else { return false };
    let option = call.split(", ").nth(2).expect("an option");
    if line.is_empty() {
        assert!(NEEDED.contains(&option), "{kind} without {option}: {said}");
        assert_eq!(ended.code(), Some(2), "{kind} without {option}: {said}");
        let names = said.contains(&format!("the socket option {option} is refused"));
        assert!(names && said.lines().count() == 1 && !said.contains("choose an address"), "{said}");
    } else if !option.ends_with("FORCE")
        && !["TCP_RTO_MAX_MS", "0x2c"].iter().any(|it| option.starts_with(it))
    {
        // Who may not force a buffer's size asks for it; a longest pause between retransmissions is news (Linux 6.15).
        let option = if option.starts_with("TCP_KEEP") { "SO_KEEPALIVE" } else { option };
        assert!(said.contains(option) || said.contains("no reserve"), "{kind} without {option}: {said:?}");
    }
    true
}
