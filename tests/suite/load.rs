//! `echo-client load`: figures that add up, and lies that are found out.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, gettid},
};
use serde_json::Value;

use crate::{
    stage::{PATIENCE, Row, echo_client, run, stay_on_one_processor, within},
    suite::{Promise, liars, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_load_at_every_model_is_valid_and_agrees_with_the_servers_own_figures,
    depth_size_and_threads_of_every_kind_work_together,
    a_flipped_bit_in_a_million_bytes_is_found_and_named,
    a_wrong_byte_is_named_with_its_message_where_lengths_differ,
    a_flipped_bit_is_not_seen_by_who_does_not_look,
    a_dropped_tail_is_found_and_named,
    a_short_answer_is_found_and_named,
    bytes_that_nobody_sent_are_found_and_named,
    another_clients_bytes_are_found_and_their_owner_named,
    a_wrong_byte_on_the_second_connection_is_found_and_named,
    a_server_that_goes_between_two_answers_has_closed_and_answered_nothing_wrongly,
    every_connection_of_a_churn_is_accepted_and_closed_by_the_server,
    a_connection_is_closed_after_its_messages_whatever_their_size_and_depth,
    a_churn_whose_server_goes_away_ends_and_counts_who_was_refused,
    who_thinks_sends_no_more_than_thought_allows,
    a_client_that_is_kept_from_its_processor_is_the_bound_and_says_so,
    the_highest_rate_within_a_bound_is_searched_and_then_loaded,
    a_wrong_echo_at_whatever_rate_ends_a_search_without_a_figure,
    silence_is_no_result,
    an_honest_server_is_not_accused,
    where_nobody_listens_no_connection_comes_up_and_that_is_said,
    clients_beyond_the_servers_limit_are_counted_as_lost,
    a_summary_fits_eighty_columns,
    an_interrupted_load_ends_in_order_with_what_was_measured,
    a_stall_at_the_end_is_in_the_latencies,
    results_are_written_though_nobody_reads_stdout,
    the_histogram_log_is_the_standard_v2_log_and_holds_every_answer,
    no_process_is_left_by_a_client_whose_server_dies,
];

pub fn load(address: SocketAddr, more: &[&str]) -> (Output, Value) {
    load_at(&format!("tcp://{address}"), more)
}

/// Loads the server at an endpoint; what was said, and the result.
pub fn load_at(endpoint: &str, more: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let file = json.to_str().unwrap();
    let args = [&["load", endpoint, "--json", file, "--warmup", "50ms"], more].concat();
    let output = run(echo_client(), &args);
    let result = fs::read_to_string(&json).map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
    (output, result)
}

fn any_row() -> Row {
    Row::all().pop().unwrap()
}

/// A load has been measured, whether its result is valid or the machine was too busy for that.
#[track_caller]
pub fn is_measured(output: &Output) {
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// What a program said.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn a_load_at_every_model_is_valid_and_agrees_with_the_servers_own_figures() {
    for row in Row::all() {
        let server = row.start(&[]);
        let connections = if row.is_concurrent() { "16" } else { "1" };
        let (output, result) = load(server.address, &["-c", connections, "-d", "300ms", "--size", "100"]);
        assert!(output.status.success(), "{}: {}", row.label(), text(&output.stdout));
        assert_eq!((&result["schema"], &result["valid"]), (&1.into(), &true.into()), "{result}");
        let connections: u64 = connections.parse().unwrap();
        assert_eq!(result["connections"]["established"], connections);
        assert_eq!(result["connections"]["served"], connections);
        let [messages, rate, measured] =
            ["messages", "messages_per_s", "measured_s"].map(|name| result[name].as_f64().unwrap());
        assert!(messages > 10.0 && measured >= 0.3, "{result}");
        assert!((rate * measured / messages - 1.0).abs() < 1e-6, "{result}");
        let latency = |name: &str| result["latency_us"][name].as_f64().unwrap();
        assert!(latency("min") > 0.0 && latency("min") <= latency("p50"));
        assert!(latency("p50") <= latency("p99") && latency("p99") <= latency("max"));
        let figures = server.stop().well();
        assert_eq!(figures["accepted"], connections);
        assert_eq!(figures["bytes_in"], figures["bytes_out"]);
        // The server saw the measured messages, and those of the warm-up and the ends besides.
        assert!(figures["bytes_in"].as_f64().unwrap() >= messages * 100.0);
    }
}

fn depth_size_and_threads_of_every_kind_work_together() {
    let server = any_row().start(&[]);
    for more in [
        &["--pipeline", "16", "--size", "1"][..],
        &["--pipeline", "4", "--size", "300000", "-c", "3"],
        &["--threads", "4", "-c", "5"],
        &["--size", "65536", "-c", "2"],
        &["--no-verify"],
        &["--size", "1..3000", "--pipeline", "16"],
        &["--size", "exp:200", "--churn", "3"],
        &["--size", "lognormal:5000,2", "--rate", "500", "--max-lateness", "10s"],
    ] {
        let (output, result) = load(server.address, &[&["-d", "200ms"], more].concat());
        assert!(output.status.success(), "{more:?}: {}", text(&output.stdout));
        assert!(result["messages"].as_u64().unwrap() > 0, "{more:?}");
        assert_eq!(result["settings"]["verify"], !more.contains(&"--no-verify"));
    }
}

#[track_caller]
fn is_found_out(lie: liars::Lie, kind: &str, duration: &str, word: &str) {
    let args = ["-c", "4", "-d", duration, "--timeout", "1s", "--size", "1000"];
    let (output, result) = load(liars::start(lie), &args);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(result["errors"][kind].as_u64() > Some(0), "{kind}: {result}");
    assert_eq!(result["valid"], false);
    assert!(result["verdicts"].as_array().unwrap().contains(&"wrong-echo".into()), "{result}");
    assert!(said.contains(word), "{word:?} is missing: {said}");
    assert!(said.contains("connection "), "it says where: {said}");
}

fn a_flipped_bit_in_a_million_bytes_is_found_and_named() {
    is_found_out(liars::flips_a_bit, "wrong", "3s", "byte 1000000 of its stream: sent 0x");
}

fn a_wrong_byte_is_named_with_its_message_where_lengths_differ() {
    let args = ["-c", "1", "-d", "3s", "--size", "500..1500", "--pipeline", "8"];
    let (output, result) = load(liars::start(liars::flips_a_bit), &args);
    let said = text(&output.stdout);
    assert_eq!((output.status.code(), &result["errors"]["wrong"]), (Some(1), &1.into()), "{said}");
    assert!(said.contains("byte 1000000 of its stream: sent 0x"), "{said}");
    let message = said.split("message ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    let message: f64 = message.parse().unwrap();
    assert!((message - 1000.0).abs() < 60.0, "of a thousand bytes on average: {message}");
}

fn a_flipped_bit_is_not_seen_by_who_does_not_look() {
    let args = ["-c", "4", "-d", "1s", "--size", "1000", "--no-verify"];
    let (output, _) = load(liars::start(liars::flips_a_bit), &args);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("NOT checked"));
}

fn a_dropped_tail_is_found_and_named() {
    is_found_out(liars::drops_the_tail, "short", "200ms", "1000 bytes did not come back");
}

fn a_short_answer_is_found_and_named() {
    is_found_out(liars::answers_short, "short", "3s", "1 bytes did not come back");
}

fn bytes_that_nobody_sent_are_found_and_named() {
    is_found_out(liars::echoes_too_much, "wrong", "3s", "that nobody sent");
}

fn another_clients_bytes_are_found_and_their_owner_named() {
    is_found_out(liars::mixes_clients_up, "wrong", "3s", "it is connection ");
}

fn a_wrong_byte_on_the_second_connection_is_found_and_named() {
    let args = ["-c", "1", "--churn", "3", "-d", "300ms"];
    let (output, result) = load(liars::start(liars::is_good_once), &args);
    let said = text(&output.stdout);
    assert_eq!((output.status.code(), &result["errors"]["wrong"]), (Some(1), &1.into()), "{said}");
    assert!(said.contains("connection 1, message 0, byte 0 of its stream"), "{said}");
}

fn a_server_that_goes_between_two_answers_has_closed_and_answered_nothing_wrongly() {
    for depth in ["1", "4"] {
        let args = ["-c", "3", "-d", "2s", "--pipeline", depth];
        let (output, result) = load(liars::start(liars::leaves), &args);
        assert_eq!(output.status.code(), Some(1), "none is left: {}", text(&output.stdout));
        let others =
            result["errors"].as_object().unwrap().keys().any(|kind| !["closed", "reset"].contains(&&**kind));
        assert!(!others, "{result}");
        assert!(!result["verdicts"].as_array().unwrap().contains(&"wrong-echo".into()), "{result}");
    }
}

fn every_connection_of_a_churn_is_accepted_and_closed_by_the_server() {
    for row in Row::all() {
        let server = row.start(&[]);
        let (output, result) = load(server.address, &["-c", "8", "--churn", "2", "-d", "300ms"]);
        assert!(output.status.success(), "{}: {}", row.label(), text(&output.stdout));
        assert_eq!(result["valid"], true, "{}: {result}", row.label());
        let (rate, answers) =
            (result["connections_per_s"].as_f64().unwrap(), result["messages_per_s"].as_f64().unwrap());
        assert!((answers / rate / 2.0 - 1.0).abs() < 0.2, "two messages a connection: {result}");
        assert!(result["connect_us"]["p50"].as_f64() > Some(0.0), "{result}");
        assert_eq!(result["connections"]["served"], 8, "{}: {result}", row.label());
        let figures = server.stop().well();
        assert_eq!(figures["accepted"], result["connections"]["opened"], "{}", row.label());
    }
}

fn a_connection_is_closed_after_its_messages_whatever_their_size_and_depth() {
    let server = any_row().start(&[]);
    for more in [
        &["--churn", "1", "-c", "1"][..],
        &["--churn", "3", "--pipeline", "2"],
        &["--churn", "2", "--pipeline", "16", "--size", "300000", "-c", "3"],
        &["--churn", "1", "--threads", "3", "-c", "5"],
    ] {
        let (output, result) = load(server.address, &[&["-d", "200ms"], more].concat());
        assert!(output.status.success(), "{more:?}: {}", text(&output.stdout));
        let (opened, messages) = (&result["connections"]["opened"], &result["messages"]);
        assert!(opened.as_u64() > result["connections"]["asked"].as_u64(), "{more:?}: {result}");
        assert!(messages.as_u64() > Some(0), "{more:?}: {result}");
    }
}

fn a_churn_whose_server_goes_away_ends_and_counts_who_was_refused() {
    let server = any_row().start(&[]);
    let (address, pid) = (server.address, server.pid());
    echo_client(); // built before the clock runs
    let killed = thread::spawn(move || {
        thread::sleep(Duration::from_millis(400)); // in the middle of the load
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    });
    let (output, result) = load(address, &["-c", "4", "--churn", "1", "-d", "60s"]);
    killed.join().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert_eq!((&result["connections"]["lost"], &result["valid"]), (&4.into(), &false.into()), "{result}");
}

fn who_thinks_sends_no_more_than_thought_allows() {
    let server = any_row().start(&[]);
    for more in [&["--pipeline", "1"][..], &["--pipeline", "3"], &["--churn", "2"]] {
        let args = ["-c", "4", "-d", "500ms", "--think", "20ms"];
        let (output, result) = load(server.address, &[&args, more].concat());
        assert!(output.status.success(), "{more:?}: {}", text(&output.stdout));
        let depth = if more[1] == "3" { 3 } else { 1 };
        // Each connection has 25 thoughts in the time, and may just have come to one; of a churn each second is saved.
        let most = if more[0] == "--churn" { 2 } else { 1 } * depth * 4 * 26;
        let messages = result["messages"].as_u64().unwrap();
        assert!(messages <= most, "{more:?}: {messages} of {most}");
        assert!(messages >= most / 5, "{more:?}: {messages} of {most}");
        assert!(result["latency_us"]["p50"].as_f64() < Some(20_000.0), "a thought is no latency: {result}");
    }
}

fn a_client_that_is_kept_from_its_processor_is_the_bound_and_says_so() {
    let server = any_row().start(&[]);
    let address = server.address;
    echo_client(); // built before there is a crowd
    // What is started from that thread has one processor, which others use for something else and before it.
    let kept_from_it = thread::spawn(move || {
        stay_on_one_processor();
        let mut others: Vec<_> =
            (0..4).map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap()).collect();
        assert!(run("renice".as_ref(), &["-n", "10", "-p", &gettid().to_string()]).status.success());
        let run = || load(address, &["-c", "64", "-d", "500ms", "--threads", "1", "--pipeline", "16"]).1;
        let says_so = |result: &Value| result["verdicts"] == serde_json::json!(["client-bound"]);
        // Where the server is kept from its own, the client waits for it and not for a processor.
        let mut results = Vec::new();
        while results.len() < 8 && !results.last().is_some_and(says_so) {
            results.push(run());
        }
        for other in &mut others {
            other.kill().unwrap();
            other.wait().unwrap();
        }
        results
    });
    let results = kept_from_it.join().unwrap();
    let result = results.last().unwrap();
    assert_eq!(result["verdicts"], serde_json::json!(["client-bound"]), "{results:?}");
    assert_eq!(result["valid"], true, "it is doubtful, and a result: {result}");
    assert!(result["why"]["client-bound"].as_str().unwrap().contains("to run"), "{result}");
}

fn the_highest_rate_within_a_bound_is_searched_and_then_loaded() {
    let row = Row::all().into_iter().find(|row| row.model == "event-loop").unwrap();
    let server = row.start(&["--work", "sleep:1ms"]); // of one thread: less than 1,000 a second
    let (output, result) = load(server.address, &["-c", "8", "-d", "1s", "--find-rate", "p99 < 30ms"]);
    is_measured(&output);
    let highest = &result["highest_rate"];
    let rate = highest["per_s"].as_f64().unwrap();
    assert!((100.0..1000.0).contains(&rate), "{result}");
    assert_eq!(highest["bound"], "p99<30ms");
    assert_eq!(result["settings"]["rate"], highest["per_s"], "then it is loaded at that rate");
    for asked in highest["asked"].as_array().unwrap() {
        let of = |name: &str| asked[name].as_f64().unwrap_or(f64::MAX);
        assert!(asked["kept"] == false || of("p99_us") <= 30_000.0 && of("rate") < 1000.0, "{asked}");
        // Beyond what it can do messages wait, and none is dropped for that: the bound tells it.
        assert!(of("rate") < 2000.0 || of("p99_us") > 30_000.0 && of("messages_per_s") < 1000.0, "{asked}");
    }
    assert!(text(&output.stdout).contains("a second with p99<30ms"), "{}", text(&output.stdout));
}

fn a_wrong_echo_at_whatever_rate_ends_a_search_without_a_figure() {
    let (output, result) =
        load(liars::start(liars::inverts), &["-c", "4", "-d", "1s", "--find-rate", "p99<10ms"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(result["errors"]["wrong"].as_u64() > Some(0), "{result}");
    assert_eq!(result["highest_rate"], Value::Null, "{result}");
    assert!(result["messages_in_all"].as_u64() < Some(1000), "it ends at once: {result}");
}

fn silence_is_no_result() {
    let args = ["-c", "2", "-d", "200ms", "--timeout", "300ms"];
    let (output, result) = load(liars::start(liars::is_silent), &args);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert_eq!(result["errors"]["timeout"], 2);
    assert_eq!(result["messages"], 0);
}

fn an_honest_server_is_not_accused() {
    let (output, result) = load(liars::start(liars::honest), &["-c", "4", "-d", "500ms", "--size", "1000"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert_eq!((&result["errors"], &result["valid"]), (&serde_json::json!({}), &true.into()));
    // How busy this machine is, is not the server's.
    let others: Vec<&Value> =
        result["verdicts"].as_array().unwrap().iter().filter(|&verdict| verdict != "client-bound").collect();
    assert!(others.is_empty(), "{result}");
}

fn where_nobody_listens_no_connection_comes_up_and_that_is_said() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (output, result) = load(nobody, &["-c", "3", "-d", "100ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(result["errors"]["refused"], 3);
    assert_eq!(result["connections"]["established"], 0);
}

fn clients_beyond_the_servers_limit_are_counted_as_lost() {
    let server = any_row().start(&["--max-connections", "2"]);
    let (_, result) = load(server.address, &["-c", "5", "-d", "200ms"]);
    assert_eq!(result["valid"], false);
    assert_eq!(result["connections"]["served"], 2, "{result}");
    assert_eq!(result["connections"]["lost"], 3, "{result}");
    assert_eq!(result["errors"].get("wrong").or(result["errors"].get("short")), None, "{result}");
}

fn a_summary_fits_eighty_columns() {
    let server = any_row().start(&[]);
    let (output, _) = load(server.address, &["-c", "64", "-d", "200ms"]);
    let said = text(&output.stdout);
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
}

fn an_interrupted_load_ends_in_order_with_what_was_measured() {
    let server = any_row().start(&[]);
    let endpoint = format!("tcp://{}", server.address);
    let load = Command::new(echo_client())
        .args(["load", &endpoint, "-d", "60s", "--warmup", "10ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(600)); // something is to be measured
    kill(Pid::from_raw(load.id().cast_signed()), Signal::SIGINT).unwrap();
    let interrupted = Instant::now();
    let output = load.wait_with_output().unwrap();
    assert!(interrupted.elapsed() < Duration::from_secs(3));
    assert_eq!(output.status.code(), Some(130));
    assert!(text(&output.stdout).contains("interrupted") && text(&output.stdout).contains("answers"));
}

fn a_stall_at_the_end_is_in_the_latencies() {
    let server = any_row().start(&[]);
    let (address, pid) = (server.address, server.pid());
    let stalled = thread::spawn(move || {
        thread::sleep(Duration::from_millis(700)); // in the middle of the load
        killpg(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        thread::sleep(Duration::from_millis(900)); // the load is over by then
        killpg(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    });
    let (output, result) = load(address, &["-c", "4", "-d", "1s"]);
    stalled.join().unwrap();
    assert!(output.status.success(), "{}", text(&output.stdout));
    let max = result["latency_us"]["max"].as_f64().unwrap();
    assert!(max > 800_000.0, "the longest latency is {max} us");
}

fn results_are_written_though_nobody_reads_stdout() {
    let server = any_row().start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let mut load = Command::new(echo_client())
        .args(["load", &format!("tcp://{}", server.address), "-d", "200ms", "--json"])
        .arg(&json)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(load.stdout.take());
    assert!(load.wait().unwrap().success());
    let result: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(result["valid"], true);
}

fn the_histogram_log_is_the_standard_v2_log_and_holds_every_answer() {
    let server = any_row().start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let hdr = folder.path().join("load.hdr");
    let (_, result) = load(server.address, &["-c", "4", "-d", "300ms", "--hdr", hdr.to_str().unwrap()]);
    let log = fs::read_to_string(&hdr).unwrap();
    let line = log.lines().find(|line| line.contains("HIST")).expect("an interval");
    let histogram = line.rsplit(',').next().unwrap();
    assert!(histogram.starts_with("HIST"), "{histogram}");
    assert!(result["messages"].as_u64() > Some(0));
}

fn no_process_is_left_by_a_client_whose_server_dies() {
    let server = any_row().start(&[]);
    let endpoint = format!("tcp://{}", server.address);
    let mut load = Command::new(echo_client())
        .args(["load", &endpoint, "-d", "60s", "--timeout", "1s"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(300)); // it is in the middle
    server.signal(Signal::SIGKILL);
    let status = within(PATIENCE, "the load ends without a server", || load.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
}
