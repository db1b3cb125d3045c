//! `echo-client load` over UDP holds its books: whatever a relay does to known datagrams is counted as that, and exactly.

use std::{
    fs,
    process::{Command, Stdio},
    sync::atomic::Ordering::Relaxed,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    stage::{PATIENCE, Row, Server, Transport, echo_client, echo_server, within},
    suite::{
        Promise, promises,
        relay::{Deeds, Fate, Load, Relay},
    },
};

pub const PROMISES: &[Promise] = promises![
    in_a_closed_loop_each_datagram_is_counted_as_what_became_of_it,
    in_an_open_loop_each_datagram_is_counted_as_what_became_of_it,
    what_comes_in_a_later_stretch_than_it_left_in_is_late_or_double_there,
    a_load_that_is_interrupted_accounts_for_all_that_it_sent,
];

/// Long against whatever a busy machine does.
const TIMEOUT: Duration = Duration::from_millis(1500);

fn a_server(address: &str) -> Server {
    let row = Row::table_of(Transport::Udp).into_iter().find(|row| row.model == "event-loop").unwrap();
    // So that a closed loop has time for others.
    row.start_at(address, Command::new(echo_server()), &["--work", "sleep:300us"])
}

/// Loads a server through a relay, and interrupts the load when so many datagrams have left; the result, and what the
/// relay did. Where others kept the machine so busy that the relay may have been late itself, or that the kernel dropped
/// packets before it came to anybody, once more.
fn relayed(address: &str, more: &[&str], at_first: usize, interrupt: Option<u64>) -> (Value, Deeds) {
    let mut attempts = (0..3).map(|_| attempt(address, more, at_first, interrupt));
    attempts
        .find(|(result, deeds)| !deeds.is_hurried && result["udp"]["backlog_drops"] == 0)
        .expect("a machine that is not too busy, in one of three attempts")
}

fn attempt(address: &str, more: &[&str], at_first: usize, interrupt: Option<u64>) -> (Value, Deeds) {
    let server = a_server(address);
    let relay = Relay::start(server.address, Load { timeout: TIMEOUT, clients: at_first });
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let timeout = format!("{}ms", TIMEOUT.as_millis());
    let mut load = Command::new(echo_client())
        .args(["load", &format!("udp://{}", relay.address), "--warmup", "100ms", "--timeout", &timeout])
        .arg("--json")
        .arg(&json)
        .args(more)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    if let Some(heard) = interrupt {
        within(PATIENCE, "the load", || (relay.heard.load(Relaxed) >= heard).then_some(()));
        kill(Pid::from_raw(load.id().cast_signed()), Signal::SIGINT).unwrap();
    }
    let status = load.wait().unwrap();
    let deeds = relay.end();
    assert_eq!(status.code(), Some(1), "it found wrong ones: {deeds:?}");
    server.stop().well();
    (serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap(), deeds)
}

/// Every count of a result is that of what was done, and they add up.
#[track_caller]
fn agree(result: &Value, deeds: &Deeds) {
    let seen = |name: &str| result["udp"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {result}"));
    let names =
        ["sent", "received", "answered", "lost", "late", "duplicated", "reordered", "foreign", "wrong"];
    for name in names.into_iter().chain(["wrong_unawaited"]) {
        let done = deeds.counts.get(name).copied().unwrap_or(0);
        assert_eq!(seen(name), done, "{name}: {result:#}\n{deeds:?}");
    }
    let recognised = seen("wrong") - seen("wrong_unawaited");
    assert_eq!(seen("sent"), seen("answered") + seen("lost") + seen("late") + recognised);
    let others = seen("duplicated") + seen("foreign") + seen("wrong");
    assert_eq!(seen("received"), seen("answered") + seen("late") + others);
    assert_eq!((seen("kernel_drops"), seen("server_kernel_drops")), (0, 0));
    let errors = serde_json::json!({"wrong": seen("wrong"), "foreign": seen("foreign")});
    assert_eq!(result["errors"], errors);
}

/// Under each of these loads, at once, every count is exact; and there was something to be counted.
fn are_exact(loads: &[(&str, &[&str])]) {
    echo_client(); // built before the clocks run
    thread::scope(|scope| {
        for (address, more) in loads {
            scope.spawn(move || {
                let more = [&["-d", "5s"], *more].concat();
                let (result, deeds) = relayed(address, &more, usize::MAX, None);
                agree(&result, &deeds);
                let done = |name| deeds.counts.contains_key(name);
                let is_deep = deeds.counts.contains_key("reordered");
                assert!(
                    ["late", "duplicated", "foreign", "wrong_unawaited"].into_iter().all(done),
                    "{deeds:?}"
                );
                assert!(deeds.counts["lost"] > 0 && deeds.fates.len() > 20, "{more:?}: {deeds:?}");
                assert_eq!(is_deep, more.iter().any(|arg| ["--pipeline", "--rate", "--burst"].contains(arg)));
            });
        }
    });
}

fn in_a_closed_loop_each_datagram_is_counted_as_what_became_of_it() {
    are_exact(&[
        ("127.0.0.1:0", &["-c", "4", "--size", "100"]),
        ("127.0.0.1:0", &["-c", "4", "--size", "100", "--pipeline", "16"]),
        ("127.0.0.1:0", &["-c", "6", "--size", "64..1400", "--pipeline", "16", "--threads", "3"]),
        ("127.0.0.1:0", &["-c", "4", "--size", "100", "--pipeline", "3", "--think", "5ms", "--threads", "2"]),
        ("127.0.0.1:0", &["-c", "6", "--size", "200", "--burst", "8"]),
        ("[::1]:0", &["-c", "4", "--size", "64..1400", "--pipeline", "4"]),
        ("[::1]:0", &["-c", "5", "--size", "500", "--pipeline", "16", "--threads", "2"]),
    ]);
}

fn in_an_open_loop_each_datagram_is_counted_as_what_became_of_it() {
    const LATE: &str = "10s"; // what others do to this machine's punctuality is not what is asked for
    are_exact(&[
        ("127.0.0.1:0", &["-c", "4", "--size", "100", "--rate", "400", "--max-lateness", LATE]),
        (
            "127.0.0.1:0",
            &[
                "-c",
                "6",
                "--size",
                "64..1400",
                "--rate",
                "600",
                "--arrivals",
                "poisson",
                "--threads",
                "3",
                "--max-lateness",
                LATE,
            ],
        ),
        ("[::1]:0", &["-c", "2", "--size", "300", "--rate", "400", "--threads", "2", "--max-lateness", LATE]),
    ]);
}

fn what_comes_in_a_later_stretch_than_it_left_in_is_late_or_double_there() {
    for more in [&["--size", "100"][..], &["--size", "64..300", "--pipeline", "4", "--threads", "2"]] {
        let args = [&["-c", "8", "--ramp", "2", "-d", "6s"], more].concat();
        let (result, deeds) = relayed("127.0.0.1:0", &args, 4, None);
        agree(&result, &deeds);
        let expected = [Fate::MuchLater, Fate::AgainMuchLater];
        assert!(expected.iter().all(|fate| deeds.fates.contains(fate)), "{deeds:?}");
        assert_eq!(result["steps"].as_array().map(Vec::len), Some(2));
    }
}

fn a_load_that_is_interrupted_accounts_for_all_that_it_sent() {
    for more in [
        &["--size", "100", "--pipeline", "16"][..],
        &["--size", "64..300", "--rate", "500", "--max-lateness", "10s"],
    ] {
        let (result, deeds) =
            relayed("127.0.0.1:0", &[&["-c", "4", "-d", "60s"], more].concat(), usize::MAX, Some(700));
        agree(&result, &deeds);
        assert!(result["verdicts"].as_array().unwrap().contains(&"interrupted".into()), "{result}");
        assert!(deeds.counts["lost"] > 0, "{deeds:?}");
    }
}
