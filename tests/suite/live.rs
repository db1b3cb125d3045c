//! `echo-client load` before somebody who looks on: a line on the terminal, or all of it; and who ends it early.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    stage::{
        PATIENCE, Row, Server, Transport, children, echo_client, echo_server, holdings, run, settled,
        terminal::Terminal, within,
    },
    suite::{Promise, compare::is_of_the_machine, liars, promises},
};

pub const PROMISES: &[Promise] = promises![
    the_live_view_shows_what_there_is_to_see_and_q_ends_it_with_a_result,
    keys_change_the_rate_of_an_open_loop_and_the_result_says_so,
    the_live_view_bears_every_size_of_terminal_and_follows_it,
    the_live_view_of_a_run_that_is_not_disturbed_ends_with_it,
    the_live_view_names_what_goes_wrong_while_it_does,
    the_terminal_is_as_it_was_however_the_live_view_is_ended,
    a_terminal_that_is_gone_ends_the_load_with_a_result,
    without_a_terminal_there_is_no_live_view_and_one_line_says_so,
    a_line_on_the_terminal_says_how_it_goes_and_is_gone_at_the_end,
    on_a_pipe_nothing_says_how_it_goes,
    whatever_is_interrupted_has_a_result_of_what_was_measured_and_all_its_files,
    who_interrupts_before_a_connection_is_up_or_while_it_warms_up_is_told_that_nothing_was_measured,
];

fn server() -> Server {
    Row::all().into_iter().find(|row| row.model == "event-loop").unwrap().start(&[])
}

/// A load in a terminal of its own, and where its result will stand.
struct Load {
    terminal: Terminal,
    folder: TempDir,
}

impl Load {
    fn at(address: SocketAddr, size: (u16, u16), more: &[&str]) -> Self {
        Self::at_endpoint(&format!("tcp://{address}"), size, more)
    }

    fn at_endpoint(endpoint: &str, size: (u16, u16), more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("load.json");
        let args = ["load", endpoint, "-c", "4", "--warmup", "100ms", "--json", json.to_str().unwrap()];
        let args = [&args, more].concat();
        Self { terminal: Terminal::start(echo_client(), &args, size), folder }
    }

    /// Its end, with this status: what is on the screen then, and the result.
    #[track_caller]
    fn ends(self, code: u32) -> (String, Value) {
        (self.terminal.ends(code), result(self.folder.path()))
    }
}

fn result(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("load.json")).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The number before a word on the screen.
fn before(screen: &str, word: &str) -> Option<f64> {
    screen.split_once(word)?.0.split_whitespace().last()?.parse().ok()
}

/// Whether all these words are on the screen.
fn has(screen: &str, words: &[&str]) -> bool {
    words.iter().all(|word| screen.contains(word))
}

const SIZES: [(u16, u16); 2] = [(80, 24), (200, 50)];

fn the_live_view_shows_what_there_is_to_see_and_q_ends_it_with_a_result() {
    let server = server();
    for size in SIZES {
        let mut load = Load::at(server.address, size, &["-d", "100s", "--live"]);
        let screen = load.terminal.comes_to("all there is to see", |screen| {
            let figures =
                ["/s", "p99 ", "so far", "answers/s", "latency max p99 p50", "latency of all so far"];
            let words = ["closed loop, 64 bytes", "4 of 4 up, 0 lost", "errors      none", "busiest thread"];
            let all = has(screen, &figures) && has(screen, &words) && has(screen, &["s left", "q ends it"]);
            all.then(|| screen.to_owned())
        });
        assert!(load.terminal.is_taken());
        assert!(!screen.contains("PgUp"), "a closed loop has no rate:\n{screen}");
        load.terminal.press("\x1b[A");
        load.terminal.press("q");
        let (screen, result) = load.ends(130);
        assert!(screen.contains("latency     p50") || screen.contains("fairness"), "the result:\n{screen}");
        assert_eq!((&result["valid"], &result["rate_changes"]), (&true.into(), &Value::Null), "{result}");
        assert!(result["verdicts"].as_array().unwrap().contains(&"interrupted".into()), "{result}");
        assert!(number(&result["messages"]) > 0.0);
    }
}

fn keys_change_the_rate_of_an_open_loop_and_the_result_says_so() {
    let server = server();
    for size in SIZES {
        let mut load = Load::at(
            server.address,
            size,
            &["-d", "100s", "--rate", "200", "--max-lateness", "10s", "--threads", "2", "--live"],
        );
        load.terminal.shows("of 200 asked for");
        load.terminal.press("\x1b[6~\x1b[5~\x1b[5~"); // PgDn, PgUp, PgUp: pressed at once, they are one change
        load.terminal.shows("of 400 asked for");
        load.terminal.comes_to("what was asked for", |screen| {
            before(screen, "/s of 400 asked for").filter(|rate| (360.0..=440.0).contains(rate))
        });
        load.terminal.press("\x1b[A");
        load.terminal.shows("of 440 asked for");
        load.terminal.press("\x1b[B");
        load.terminal.shows("of 396 asked for");
        load.terminal.shows("rate-changed");
        let seconds = |screen: &str| before(screen, "s left");
        let then = load.terminal.comes_to("the time left", seconds);
        load.terminal.comes_to("a while", |screen| seconds(screen).filter(|&now| now + 2.0 < then));
        load.terminal.press("q");
        let (_, result) = load.ends(130);
        let changes = result["rate_changes"].as_array().unwrap();
        let rates: Vec<f64> = changes.iter().map(|change| number(&change["rate"])).collect();
        assert_eq!(rates, [400.0, 440.0, 396.0], "{result}");
        assert!(changes.is_sorted_by_key(|change| number(&change["at_s"])), "{result}");
        // It is a result of no one rate, and says so.
        assert_eq!(result["valid"], false);
        assert_eq!(result["verdicts"], json!(["rate-changed", "interrupted"]), "{result}");
        assert_eq!(result["errors"], json!({}));
        // As many messages were due as the rates say, each for as long as it lasted.
        let over = number(&result["measured_s"]);
        let moments: Vec<f64> = changes.iter().map(|change| number(&change["at_s"])).collect();
        let begins = [&[0.0], &moments[..]].concat();
        let ends = [&moments[..], &[over]].concat();
        let lengths = begins.iter().zip(&ends).map(|(begin, end)| end - begin);
        let expected: f64 =
            lengths.zip([200.0, 400.0, 440.0, 396.0]).map(|(length, rate)| length * rate).sum();
        let due = number(&result["departures"]["due"]);
        assert!((due - expected).abs() < 80.0, "{due}, and not {expected}: {result}");
        assert_eq!(result["departures"]["dropped"], 0, "{result}");
    }
}

fn the_live_view_bears_every_size_of_terminal_and_follows_it() {
    let server = server();
    let mut load = Load::at(
        server.address,
        (80, 24),
        &["-d", "100s", "--rate", "500", "--max-lateness", "10s", "--live"],
    );
    load.terminal.shows("of 500 asked for");
    for (cols, rows) in [(1, 1), (59, 24), (80, 19), (3, 200), (200, 2), (60, 20), (250, 100)] {
        load.terminal.resize(cols, rows);
        if cols < 60 || rows < 20 {
            let small = |screen: &str| (cols < 40 || screen.contains("too small")).then_some(());
            load.terminal.comes_to("its excuse", small);
        } else {
            // A key that comes at once with another size is heard with the next one (crossterm 0.29): it is waited for.
            load.terminal.comes_to("the whole width", |screen| {
                let head = screen.lines().next().unwrap_or_default().trim_end();
                (head.ends_with("left") && head.len() + 1 == usize::from(cols)).then_some(())
            });
            load.terminal.shows("of 500 asked for");
            load.terminal.shows("q ends it");
        }
    }
    load.terminal.press("p");
    load.terminal.shows("PAUSED");
    load.terminal.press("p\x1b"); // it goes on, and escape ends it
    let (_, result) = load.ends(130);
    assert_eq!((&result["valid"], &result["verdicts"]), (&true.into(), &json!(["interrupted"])), "{result}");
}

fn the_live_view_of_a_run_that_is_not_disturbed_ends_with_it() {
    let server = server();
    let load = Load::at(
        server.address,
        (80, 24),
        &["-d", "5s", "--ramp", "2", "--rate", "400", "--max-lateness", "10s", "--live"],
    );
    let screen = load.terminal.comes_to("a rate", |screen| {
        before(screen, "/s of 200 asked for").filter(|&rate| rate > 0.0).map(|_| screen.to_owned())
    });
    assert!(!screen.contains("PgUp"), "a staircase has its own rates:\n{screen}");
    let (screen, result) = load.ends(0);
    assert!(screen.contains("fairness"), "{screen}");
    let mut doubts = result["verdicts"].as_array().unwrap().iter().map(|doubt| doubt.as_str().unwrap());
    assert!(result["valid"] == true && doubts.all(is_of_the_machine), "{result}");
}

fn the_live_view_names_what_goes_wrong_while_it_does() {
    let server = Row::all().pop().unwrap().start(&["--max-connections", "3"]);
    let mut load = Load::at(server.address, (80, 24), &["-d", "100s", "--live"]);
    load.terminal.shows("3 of 4 up, 1 lost");
    load.terminal.comes_to("the error", |screen| {
        let kinds = ["errors      closed 1", "errors      reset 1"];
        kinds.iter().any(|kind| screen.contains(kind)).then_some(())
    });
    load.terminal.shows("errors: some were refused or failed");
    load.terminal.press("q");
    assert_eq!(load.ends(130).1["connections"]["lost"], 1);

    // Every tenth datagram is lost.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("udp://{}", socket.local_addr().unwrap());
    thread::spawn(move || {
        let mut room = [0; 2048];
        for heard in 0.. {
            let (n, from) = socket.recv_from(&mut room).unwrap();
            if heard % 10 != 5 {
                socket.send_to(&room[..n], from).unwrap();
            }
        }
    });
    let more = ["-d", "100s", "--rate", "500", "--max-lateness", "10s", "--timeout", "200ms", "--live"];
    let mut load = Load::at_endpoint(&endpoint, (80, 24), &more);
    load.terminal.comes_to("losses", |screen| before(screen, " lost").filter(|&lost| lost > 0.0));
    load.terminal.shows("clients     4 of 4 up");
    load.terminal.shows("lossy:");
    load.terminal.press("q");
    let (_, result) = load.ends(130);
    assert!(number(&result["udp"]["lost"]) > 0.0, "{result}");
}

fn the_terminal_is_as_it_was_however_the_live_view_is_ended() {
    let server = server();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let load = Load::at(server.address, (80, 24), &["-d", "100s", "--live"]);
        load.terminal.comes_to("a rate", |screen| before(screen, "/s").filter(|&rate| rate > 0.0));
        kill(Pid::from_raw(load.terminal.pid()), signal).unwrap();
        let (_, result) = load.ends(130);
        assert!(result["verdicts"].as_array().unwrap().contains(&"interrupted".into()), "{result}");
    }
    // Nobody answers: the first ^C waits for that, the second does not.
    let silent = liars::start(liars::is_silent);
    let mut load = Load::at(silent, (80, 24), &["-d", "100s", "--timeout", "90s", "--live"]);
    load.terminal.shows("s left");
    load.terminal.press("\x03");
    load.terminal.shows("waiting for the last answers");
    let pressed = Instant::now();
    load.terminal.press("\x03");
    load.terminal.ends(130);
    assert!(pressed.elapsed() < PATIENCE);
}

/// script(1) is the terminal, and is killed: whoever sat before it has closed the window.
fn a_terminal_that_is_gone_ends_the_load_with_a_result() {
    let server = server();
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let command = format!(
        "stty cols 80 rows 24; exec {} load tcp://{} -c 4 -d 100s --live --json {}",
        echo_client().display(),
        server.address,
        json.display()
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--command", &command, "/dev/null"]);
    let mut script = script.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let before = messages(&server);
    within(PATIENCE, "messages", || (messages(&server) > before + 500).then_some(()));
    let load = children(script.id().cast_signed());
    script.kill().unwrap();
    script.wait().unwrap();
    let whole = || serde_json::from_str::<Value>(&fs::read_to_string(&json).ok()?).ok();
    let result = within(PATIENCE, "its result", whole);
    assert!(result["verdicts"].as_array().unwrap().contains(&"interrupted".into()), "{result}");
    let lives = |pid: &i32| {
        procfs::process::Process::new(*pid).and_then(|it| it.stat()).is_ok_and(|it| it.state != 'Z')
    };
    within(PATIENCE, "its end", || (!load.iter().any(lives)).then_some(()));
    server.stop().well();
}

fn without_a_terminal_there_is_no_live_view_and_one_line_says_so() {
    let output = run(echo_client(), &["load", "tcp://127.0.0.1:9", "--live"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("--live") && said.contains("terminal"), "{said}");
    assert!(output.stdout.is_empty());
}

fn a_line_on_the_terminal_says_how_it_goes_and_is_gone_at_the_end() {
    let server = server();
    for columns in [80, 40, 24] {
        let load = Load::at(server.address, (columns, 24), &["-d", "2500ms", "--threads", "2"]);
        let all: &[&str] =
            if columns == 80 { &["s left", "/s", "p50 ", "p99 ", "no errors"] } else { &["/s", "p99 "] };
        let line = load
            .terminal
            .comes_to("the line", |screen| has(screen, all).then(|| screen.trim_end().to_owned()));
        assert!(line.lines().count() == 1 && line.len() <= columns.into(), "{columns}: {line}");
        assert!(columns == 80 || !line.contains("no errors"), "{columns}: {line}");
        let screen = load.terminal.ends(0);
        assert!(!screen.contains("s left") && screen.contains("server      tcp://"), "{screen}");
    }
}

fn on_a_pipe_nothing_says_how_it_goes() {
    let server = server();
    let output =
        run(echo_client(), &["load", &format!("tcp://{}", server.address), "-c", "2", "-d", "1200ms"]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

fn whatever_is_interrupted_has_a_result_of_what_was_measured_and_all_its_files() {
    let of_streams = server();
    let row = Row::table_of(Transport::Udp).into_iter().find(|row| row.model == "event-loop");
    let of_datagrams = row.unwrap().start(&[]);
    let endpoint = |server: &Server, scheme: &str| format!("{scheme}://{}", server.address);
    let (tcp, udp) = (endpoint(&of_streams, "tcp"), endpoint(&of_datagrams, "udp"));
    for (endpoint, mode) in [
        (&tcp, &["--pipeline", "8"][..]),
        (&tcp, &["--think", "1ms"]),
        (&tcp, &["--churn", "5"]),
        (&tcp, &["--churn", "5", "--half-close"]),
        (&tcp, &["--rate", "2000", "--churn", "2"]),
        (&tcp, &["--rate", "2000", "--arrivals", "poisson", "--ramp", "4"]),
        (&tcp, &["--ramp", "2", "--size", "1..3000"]),
        (&udp, &["--pipeline", "8"]),
        (&udp, &["--burst", "4"]),
        (&udp, &["--rate", "2000"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let mut load = Command::new(echo_client());
        load.args(["load", endpoint, "-c", "4", "-d", "100s", "--warmup", "0"]).args(mode);
        if mode.contains(&"--rate") {
            load.args(["--max-lateness", "10s"]);
        }
        load.arg("--json").arg(file("load.json")).arg("--csv").arg(file("csv")).arg("--hdr").arg(file("hdr"));
        let load = load.stdout(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_raw(load.id().cast_signed());
        let of_it = if *endpoint == tcp { &of_streams } else { &of_datagrams };
        let (before, enough) = (messages(of_it), 500);
        within(PATIENCE, "messages", || (messages(of_it) > before + enough).then_some(()));
        kill(pid, Signal::SIGINT).unwrap();
        let output = load.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{mode:?}");
        let result = result(folder.path());
        assert_eq!((&result["valid"], &result["errors"]), (&true.into(), &json!({})), "{mode:?}: {result}");
        assert!(result["verdicts"].as_array().unwrap().contains(&"interrupted".into()), "{mode:?}: {result}");
        assert!(number(&result["messages"]) > 0.0 && number(&result["measured_s"]) < 99.0, "{mode:?}");
        assert_eq!(
            fs::read_to_string(file("csv")).unwrap().lines().next().map(|head| &head[..6]),
            Some("second")
        );
        assert!(fs::read_to_string(file("hdr")).unwrap().contains("#[StartTime"), "{mode:?}");
    }
    of_streams.stop().well();
    of_datagrams.stop().well();
}

/// How many messages have come to a server.
fn messages(server: &Server) -> u64 {
    let output = run(echo_server(), &["status", &server.pid().to_string(), "--json"]);
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["messages"].as_u64().unwrap()
}

fn who_interrupts_before_a_connection_is_up_or_while_it_warms_up_is_told_that_nothing_was_measured() {
    let server = server();
    // One connection a second: a hundred are not up for a while.
    for (address, more) in [
        (server.address, &["-c", "100", "--connect-rate", "1"][..]),
        (server.address, &["-c", "2", "--warmup", "100s"]),
    ] {
        let before = settled(server.pid());
        let folder = tempfile::tempdir().unwrap();
        let mut load = Command::new(echo_client());
        load.args(["load", &format!("tcp://{address}"), "-d", "100s"]).args(more);
        let load =
            load.arg("--json").arg(folder.path().join("load.json")).stdout(Stdio::null()).spawn().unwrap();
        let pid = load.id().cast_signed();
        within(PATIENCE, "a connection", || (holdings(server.pid()) > before).then_some(()));
        kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
        let output = load.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{more:?}");
        let result = result(folder.path());
        assert_eq!((&result["valid"], &result["messages"]), (&false.into(), &0.into()), "{more:?}: {result}");
        for verdict in ["no-answers", "interrupted"] {
            assert!(result["verdicts"].as_array().unwrap().contains(&verdict.into()), "{more:?}: {result}");
        }
    }
}
