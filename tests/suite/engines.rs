//! `echo-client load --engine`: whatever carries the bytes, the load is the same.

use std::{
    fs::{self, Permissions},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
    thread,
    time::Duration,
};

use nix::unistd::Uid;
use serde_json::json;

use crate::{
    stage::{Row, Server, echo_client, run},
    suite::{
        Promise, liars,
        load::{load, load_at, text},
        promises,
        shapes::of_a_short_queue,
    },
};

pub const PROMISES: &[Promise] = promises![
    every_shape_is_loaded_by_either_engine_and_the_servers_figures_agree,
    every_lie_is_found_out_by_either_engine,
    who_does_not_get_in_is_told_by_either_engine,
    a_connection_that_is_lost_is_closed_at_once_by_either_engine,
    a_unix_domain_server_is_loaded_by_either_engine,
    the_engine_is_mio_unless_another_is_asked_for,
    a_ring_that_may_not_be_entered_is_refused_in_one_line,
    rings_for_which_too_little_memory_may_be_locked_are_refused_in_one_line,
    a_ring_that_is_taken_away_fails_its_connections_and_the_load_ends_in_order,
    datagrams_have_no_ring,
];

const ENGINES: [&str; 2] = ["mio", "io-uring"];

fn event_loop() -> Server {
    Row::all().into_iter().find(|row| row.model == "event-loop").unwrap().start(&[])
}

fn every_shape_is_loaded_by_either_engine_and_the_servers_figures_agree() {
    let shapes: [&[&str]; 12] = [
        &[],
        &["--pipeline", "16"],
        &["--pipeline", "4", "--size", "300000", "-c", "3"],
        &["--size", "1..3000", "--pipeline", "8"],
        &["--size", "65536", "--receive-buffer", "4096", "--send-buffer", "4096", "-c", "2"],
        &["--churn", "1"],
        &["--churn", "3", "--pipeline", "2", "--half-close"],
        &["--churn", "2", "--size", "100000", "-c", "3", "--half-close"],
        &["--threads", "3", "-c", "7"],
        &["--think", "1ms"],
        &["--rate", "3000", "--max-lateness", "10s"],
        &["--rate", "2000", "--churn", "2", "--max-lateness", "10s"],
    ];
    for engine in ENGINES {
        for shape in shapes {
            let server = event_loop();
            let many: &[&str] = if shape.contains(&"-c") { &[] } else { &["-c", "8"] };
            let args = [&["-d", "200ms", "--engine", engine], many, shape].concat();
            let (output, result) = load(server.address, &args);
            let said = text(&output.stdout);
            assert!(output.status.success(), "{engine} {shape:?}: {said}{}", text(&output.stderr));
            assert_eq!(result["settings"]["engine"], engine);
            assert_eq!(
                (&result["valid"], &result["errors"]),
                (&true.into(), &json!({})),
                "{shape:?}: {result}"
            );
            let figures = server.stop().well();
            assert_eq!(figures["accepted"], result["connections"]["opened"], "{engine} {shape:?}: {figures}");
            assert_eq!(
                (&figures["bytes_in"], &figures["errors"]),
                (&figures["bytes_out"], &json!({})),
                "{figures}"
            );
        }
    }
}

fn every_lie_is_found_out_by_either_engine() {
    let lies: [(liars::Lie, &str); 5] = [
        (liars::flips_a_bit, "wrong"),
        (liars::drops_the_tail, "short"),
        (liars::answers_short, "short"),
        (liars::echoes_too_much, "wrong"),
        (liars::is_silent, "timeout"),
    ];
    for engine in ENGINES {
        for (lie, kind) in lies {
            let args = ["-c", "4", "-d", "3s", "--timeout", "500ms", "--size", "1000", "--engine", engine];
            let (output, result) = load(liars::start(lie), &args);
            let said = text(&output.stdout);
            assert_eq!(output.status.code(), Some(1), "{engine}, {kind}: {said}");
            assert!(result["errors"][kind].as_u64() > Some(0), "{engine}, {kind}: {result}");
            assert!(said.contains("connection "), "it says where: {said}");
        }
    }
}

/// Its accept queue holds two, and nobody accepts; those who do not get in give up in time.
fn who_does_not_get_in_is_told_by_either_engine() {
    for engine in ENGINES {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(1).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let args = ["-c", "5", "-d", "200ms", "--timeout", "300ms", "--engine", engine];
        let (output, result) = load(address, &args);
        assert_eq!(output.status.code(), Some(1), "{engine}: {}", text(&output.stdout));
        assert_eq!(result["connections"]["established"], 2, "{engine}: {result}");
        // Three did not get in, and two had no answer.
        assert_eq!(result["errors"]["timeout"], 5, "{engine}: {result}");
    }
}

/// What is under way for a connection that is given up is ended with it: the server sees it go.
fn a_connection_that_is_lost_is_closed_at_once_by_either_engine() {
    for engine in ENGINES {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut silent, _) = listener.accept().unwrap();
            let (mut honest, _) = listener.accept().unwrap();
            let echo =
                thread::spawn(move || std::io::copy(&mut honest.try_clone().unwrap(), &mut honest).map(drop));
            silent.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let heard = ended(&mut silent);
            echo.join().unwrap().unwrap();
            heard
        });
        let args = ["-c", "2", "-d", "3s", "--timeout", "200ms", "--threads", "1", "--engine", engine];
        let (output, result) = load(address, &args);
        assert!(server.join().unwrap(), "{engine}: the server hears of it while the other is loaded");
        assert_eq!(
            (output.status.code(), &result["errors"]),
            (Some(3), &json!({ "timeout": 1 })),
            "{result}"
        );
    }
}

/// Whether a client that is not answered goes before the read timeout.
fn ended(client: &mut TcpStream) -> bool {
    let mut room = [0; 4096];
    loop {
        match std::io::Read::read(client, &mut room) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

fn a_unix_domain_server_is_loaded_by_either_engine() {
    for engine in ENGINES {
        let folder = tempfile::tempdir().unwrap();
        let (server, endpoint) = of_a_short_queue(folder.path());
        for more in [&["--pipeline", "4"][..], &["--churn", "1"], &["--churn", "2", "--half-close"]] {
            let args = [&["-c", "32", "-d", "300ms", "--engine", engine], more].concat();
            let (output, result) = load_at(&endpoint, &args);
            assert!(output.status.success(), "{engine} {more:?}: {}", text(&output.stdout));
            assert_eq!(
                (&result["valid"], &result["errors"]),
                (&true.into(), &json!({})),
                "{more:?}: {result}"
            );
        }
        server.stop().well();
    }
}

fn the_engine_is_mio_unless_another_is_asked_for() {
    let server = event_loop();
    for shape in [&[][..], &["--size", "1025"], &["--rate", "100"]] {
        let (_, result) = load(server.address, &[&["-c", "2", "-d", "100ms"], shape].concat());
        assert_eq!(result["settings"]["engine"], "mio", "{shape:?}");
    }
}

/// A filter may let a ring be made and not entered: so does strace here.
fn where_no_ring_is_entered(when: &str) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_enter", "-e"]);
    strace.arg(format!("inject=io_uring_enter:error=EPERM:when={when}")).arg(echo_client());
    strace
}

/// By whoever `limited` runs the client: with a ring it is one line and status 2, without it is loaded.
fn has_no_ring(limited: impl Fn() -> Command, why: &str) {
    let server = event_loop();
    let endpoint = format!("tcp://{}", server.address);
    let args = ["load", &endpoint, "-c", "4", "-d", "100ms", "--threads", "2"];
    let output = limited().args(args).args(["--engine", "io-uring"]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains(why) && said.contains("choose mio"), "{said}");
    assert!(output.stdout.is_empty());
    let output = limited().args(args).output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

fn a_ring_that_may_not_be_entered_is_refused_in_one_line() {
    has_no_ring(|| where_no_ring_is_entered("1+"), "io_uring is refused here");
}

fn rings_for_which_too_little_memory_may_be_locked_are_refused_in_one_line() {
    if !Uid::effective().is_root() {
        return eprintln!("skipped: not root, who alone can be another user");
    }
    let folder = tempfile::Builder::new().prefix("echo-").tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("echo-client");
    fs::copy(echo_client(), &copy).unwrap();
    let limited = || {
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--memlock=65536:65536", "setpriv", "--reuid=64000", "--clear-groups"]).arg(&copy);
        prlimit
    };
    has_no_ring(limited, "ulimit -l");
}

fn a_ring_that_is_taken_away_fails_its_connections_and_the_load_ends_in_order() {
    let server = event_loop();
    let endpoint = format!("tcp://{}", server.address);
    let args = ["load", &endpoint, "-c", "4", "-d", "60s", "--engine", "io-uring", "--threads", "1"];
    let output = where_no_ring_is_entered("100+").args(args).output().unwrap();
    let (said, complaints) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), complaints.as_str()), (Some(1), ""), "{said}");
    assert!(said.contains("4 x socket: ") && said.contains("io_uring_enter: "), "{said}");
}

fn datagrams_have_no_ring() {
    let output = run(echo_client(), &["load", "udp://127.0.0.1:9", "--engine", "io-uring"]);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("over UDP choose mio"), "{said}");
}
