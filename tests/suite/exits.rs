//! Exit statuses: 0 is a valid result and nothing else; 1 is the server's failure, 2 a wrong command line, 3 what was
//! measured and is not valid, or a failure of ours. What is interrupted (130) stands with each command's other tests.

use std::{
    fs::File,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::{
    stage::{Row, Server, echo_client, echo_server, run, run_with},
    suite::{
        Promise,
        compare::{has_run, is_sound},
        liars,
        load::{load, text},
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    a_load_whose_messages_did_not_leave_is_not_valid_and_ends_with_three,
    what_is_merged_of_an_invalid_result_ends_with_three_and_of_a_wrong_echo_with_one,
    where_no_connection_comes_up_one_line_says_it_all,
    a_gate_that_a_result_does_not_pass_is_one_line_and_status_one,
    a_gate_of_a_comparison_goes_off_where_its_interval_is_beyond_the_limit_and_only_there,
    a_contender_that_does_not_start_or_cannot_be_served_ends_a_comparison_before_it_is_measured,
    a_contender_that_says_nothing_over_udp_is_found_in_the_rehearsal,
    a_comparison_in_which_a_contender_has_no_figure_ends_with_three_and_so_does_its_report,
    a_duet_in_which_one_side_lets_too_few_in_ends_with_three,
    a_search_that_finds_no_rate_ends_with_three,
    talk_that_cannot_print_has_failed_itself_and_not_the_server,
    an_address_without_a_transport_is_tcp_for_every_command_and_for_the_server,
    every_command_says_what_its_exit_status_means_in_its_help_and_its_manual_page,
];

fn event_loop() -> Row {
    Row::all().into_iter().find(|row| row.model == "event-loop").unwrap()
}

/// More is due than a connection that waits for each answer can send.
const TOO_MUCH: [&str; 8] = ["-c", "1", "-d", "300ms", "--rate", "1000", "--max-outstanding", "1"];

fn a_load_whose_messages_did_not_leave_is_not_valid_and_ends_with_three() {
    let server = event_loop().start(&["--work", "sleep:5ms"]);
    let (output, result) = load(server.address, &TOO_MUCH);
    assert_eq!((output.status.code(), &result["valid"]), (Some(3), &false.into()), "{result}");
    assert!(result["verdicts"].as_array().unwrap().contains(&"departures-dropped".into()), "{result}");
    let (output, _) = load(server.address, &[&TOO_MUCH[..], &["--line"]].concat());
    let line = text(&output.stdout);
    assert!(line.contains(" valid=false ") && output.status.code() == Some(3), "{line}");
}

fn what_is_merged_of_an_invalid_result_ends_with_three_and_of_a_wrong_echo_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = event_loop().start(&["--work", "sleep:5ms"]);
    let file = folder.path().join("0.json");
    let of_one = ["--rank", "0/1", "--json", file.to_str().unwrap()];
    let merged = |endpoint: &str, more: &[&str]| {
        run(echo_client(), &[&["load", endpoint], more, &of_one].concat());
        run(echo_client(), &["merge", file.to_str().unwrap()]).status.code()
    };
    assert_eq!(merged(&server.address.to_string(), &TOO_MUCH), Some(3));
    let liar = liars::start(liars::inverts).to_string();
    assert_eq!(merged(&liar, &["-c", "2", "-d", "1s", "--timeout", "1s"]), Some(1));
}

fn where_no_connection_comes_up_one_line_says_it_all() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(echo_client(), &["load", &nobody.to_string(), "-c", "64", "-d", "100ms"]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    for word in [&nobody.to_string(), "none of 64", "64 x refused: Connection refused"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

fn a_gate_that_a_result_does_not_pass_is_one_line_and_status_one() {
    let server = event_loop().start(&[]);
    let endpoint = format!("tcp://{}", server.address);
    let load = |gates: &[&str]| {
        let gates = gates.iter().flat_map(|gate| ["--fail-if", gate]);
        let args = ["load", &endpoint, "-c", "1", "-d", "100ms", "--line"].into_iter().chain(gates);
        run(echo_client(), &args.collect::<Vec<_>>())
    };
    let passed = load(&["p99>1m", "messages<1", "errors>0"]);
    assert_eq!(passed.status.code(), Some(0), "{}", text(&passed.stderr));
    let stopped = load(&["p99>1m", "messages>0", "p50>1ns"]);
    let said = text(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{said}");
    assert!(text(&stopped.stdout).starts_with("messages="), "the result is told all the same");
    let line = said.lines().next_back().unwrap();
    assert!(
        line.contains("messages>0: messages is ") && line.contains("p50>1ns: latency_us.p50 is "),
        "{said}"
    );
    assert!(!line.contains("1m"), "{said}");
    let refused = load(&["latency>1ms"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("there is no figure"), "{}", text(&refused.stderr));
}

fn compare(results: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(echo_client());
    command.args(["compare", "-d", "150ms", "--warmup", "50ms", "--no-calls", "--server"]);
    command.arg(echo_server()).arg("--results").arg(results).args(more).stdin(Stdio::null());
    command.output().unwrap()
}

fn a_gate_of_a_comparison_goes_off_where_its_interval_is_beyond_the_limit_and_only_there() {
    let folder = tempfile::tempdir().unwrap();
    let slow = format!(
        "mine={} --model event-loop --work cpu:2ms tcp://127.0.0.1:{{port}}",
        echo_server().display()
    );
    let quick = slow.replace(" --work cpu:2ms", "");
    let run = |name: &str, mine: &str, more: &[&str]| {
        let args = ["--models", "event-loop", "--with", mine, "-c", "1", "--blocks", "6"];
        compare(&folder.path().join(name), &[&args, more].concat())
    };
    let passed =
        run("quick", &quick, &["--fail-if", "mine.p50 > 10 * event-loop.p50", "--fail-if", "mine.cpu > 1s"]);
    has_run(&passed);
    let stopped =
        run("slow", &slow, &["--fail-if", "mine.p50>2*event-loop.p50", "--fail-if", "mine.p50 > 1s"]);
    let said = text(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{said}");
    let line = said.lines().next_back().unwrap();
    assert!(line.contains("mine.p50>2*event-loop.p50: echo, 1 connection: mine.p50 is "), "{said}");
    assert!(!line.contains("1s"), "{said}");
    let unknown = run("unknown", &quick, &["--fail-if", "yours.p50 > 1s"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("\"yours\" does not take part"), "{}", text(&unknown.stderr));
    let report = |then: &str, now: &str| {
        let [then, now] = [then, now].map(|name| folder.path().join(name));
        let mut command = Command::new(echo_client());
        command.arg("report").args([&then, &now]).args(["--fail-if", "slower > 50%"]).output().unwrap()
    };
    has_run(&report("slow", "slow"));
    has_run(&report("slow", "quick"));
    let slower = report("quick", "slow");
    assert_eq!(slower.status.code(), Some(1));
    let said = text(&slower.stderr);
    assert!(said.contains("--fail-if slower>50%: echo, 1 connection: mine is "), "{said}");
}

/// It is one line that names it, and nothing was measured, nor an earlier run moved away.
#[track_caller]
fn is_found_in_the_rehearsal(args: &[&str], name: &str, word: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = compare(folder.path(), args);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{args:?}: {said}");
    assert!(said.starts_with(&format!("echo-client: {name}: ")), "{args:?}: {said}");
    assert!(said.contains(word), "{word:?}: {said}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing was begun");
}

fn a_contender_that_does_not_start_or_cannot_be_served_ends_a_comparison_before_it_is_measured() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = format!("mine={nobody}");
    let liar = format!("mine=tcp://{}", liars::start(liars::inverts));
    for (program, word) in [
        ("mine=./nope {port}", "No such file"),
        ("mine=false {port}", "it ended before it listened: exit status: 1"),
        ("mine=ls /nowhere/{port}", "it said: ls: "),
        (&refused, "refused"),
        (&liar, "wrong: connection 0, message 0"),
    ] {
        is_found_in_the_rehearsal(&["-m", "event-loop", "--with", program], "mine", word);
        let duet = ["--duet", "event-loop", "mine", "--with", program];
        is_found_in_the_rehearsal(&duet, "mine", word);
    }
    for (model, word) in
        [("event-loop --magic", "--magic"), ("fork --dispatch accept", "leave --dispatch out")]
    {
        is_found_in_the_rehearsal(&["-m", model], model, word);
    }
}

fn a_contender_that_says_nothing_over_udp_is_found_in_the_rehearsal() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let with = format!("mine@udp=udp://{}", silent.local_addr().unwrap());
    // What it costs nobody knows, so that it is no contender of the scenario `udp`.
    is_found_in_the_rehearsal(&["-m", "none", "--with", &with], "mine@udp", "it does not answer");
}

fn a_comparison_in_which_a_contender_has_no_figure_ends_with_three_and_so_does_its_report() {
    let folder = tempfile::tempdir().unwrap();
    let models = "event-loop,event-loop --max-connections 1";
    let output = compare(folder.path(), &["-m", models, "-c", "3", "-b", "1"]);
    assert_eq!(output.status.code(), Some(3), "{}{}", text(&output.stdout), text(&output.stderr));
    let report = || run(echo_client(), &["report", folder.path().to_str().unwrap()]).status.code();
    assert_eq!(report(), Some(3));
    let output = compare(folder.path(), &["-m", "event-loop,iterative", "-c", "2", "-b", "1"]);
    has_run(&output); // who serves one client at a time was not to take part, and has not failed
    assert_eq!(report(), output.status.code());
}

fn a_duet_in_which_one_side_lets_too_few_in_ends_with_three() {
    let folder = tempfile::tempdir().unwrap();
    let duet = ["--duet", "event-loop", "event-loop --max-connections 1", "-c", "3", "-b", "3"];
    let output = compare(folder.path(), &duet);
    assert_eq!(output.status.code(), Some(3), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(
        text(&output.stdout).contains("the server closed it without an answer"),
        "{}",
        text(&output.stdout)
    );
}

fn a_search_that_finds_no_rate_ends_with_three() {
    let folder = tempfile::tempdir().unwrap();
    let output = compare(
        folder.path(),
        &["--scenario", "overload", "-m", "event-loop", "-c", "1", "--p99", "1us", "-b", "1"],
    );
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{said}{}", text(&output.stderr));
    assert!(said.contains("not even the lowest rate was kept"), "{said}");
}

fn talk_that_cannot_print_has_failed_itself_and_not_the_server() {
    let server = event_loop().start(&[]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut talk = Command::new(echo_client());
    talk.args(["talk", &format!("tcp://{}", server.address)]).stdin(Stdio::piped()).stdout(full);
    let mut talk = talk.stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut talk.stdin.take().unwrap(), b"hello\n").unwrap();
    let output = talk.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}

fn an_address_without_a_transport_is_tcp_for_every_command_and_for_the_server() {
    let mut server = Command::new(echo_server());
    server.arg("127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::piped());
    let server = Server::start(server);
    let address = server.address.to_string();
    let said = run_with(echo_client(), &["talk", &address], b"hello\n");
    assert_eq!((said.status.code(), &said.stdout[..]), (Some(0), &b"hello\n"[..]));
    assert_eq!(run(echo_client(), &["check", "--only", "bytes", &address]).status.code(), Some(0));
    let folder = tempfile::tempdir().unwrap();
    let output =
        compare(folder.path(), &["-m", "none", "--with", &format!("there={address}"), "-c", "2", "-b", "1"]);
    has_run(&output);
    let results = std::fs::read_to_string(folder.path().join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    is_sound(&results["cells"][0]);
}

fn every_command_says_what_its_exit_status_means_in_its_help_and_its_manual_page() {
    let prefix = tempfile::tempdir().unwrap();
    assert!(run(echo_client(), &["generate", prefix.path().to_str().unwrap()]).status.success());
    for command in ["", "talk", "load", "merge", "compare", "check", "report"] {
        let args = if command.is_empty() { vec!["--help"] } else { vec![command, "--help"] };
        let help = text(&run(echo_client(), &args).stdout);
        assert!(help.contains("Exit status: 0 "), "{command}: {help}");
        let name = if command.is_empty() { "echo-client".into() } else { format!("echo-client-{command}") };
        let page = std::fs::read_to_string(prefix.path().join(format!("man/man1/{name}.1"))).unwrap();
        assert!(page.contains("Exit status: 0 "), "{name}");
    }
}
