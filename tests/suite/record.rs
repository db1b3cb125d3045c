//! What `echo-client load` writes: for programs, for spreadsheets, for HdrHistogram's tools, for scripts.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    },
};
use serde_json::Value;

use crate::{
    stage::{ROOT, Row, echo_client, run},
    suite::{
        Promise,
        load::{load, text},
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    every_file_of_a_run_holds_every_answer_once_second_by_second,
    a_percentile_says_how_many_answers_it_stands_on,
    one_line_for_scripts_says_what_the_json_says,
    hdrhistograms_own_package_reads_the_log_and_the_result,
    jq_reads_percentiles_series_and_verdicts,
    a_series_has_as_many_seconds_as_were_measured,
    a_file_that_takes_no_more_costs_neither_the_others_nor_what_is_printed,
    a_result_stays_until_there_is_another_to_take_its_place,
];

/// Loads for two seconds and a half, and keeps everything.
fn kept(address: SocketAddr, folder: &Path, more: &[&str]) -> (Output, Value) {
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (json, csv, hdr) = (file("load.json"), file("load.csv"), file("load.hdr"));
    let endpoint = format!("tcp://{address}");
    let args = ["load", &endpoint, "-c", "4", "--threads", "2", "-d", "2500ms", "--warmup", "50ms"];
    let files = ["--json", &json, "--csv", &csv, "--hdr", &hdr];
    let output = run(echo_client(), &[&args, &files[..], more].concat());
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    (output, serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap())
}

fn decoded(encoded: &str) -> Histogram<u64> {
    Deserializer::new().deserialize(&mut STANDARD.decode(encoded).unwrap().as_slice()).unwrap()
}

/// The sums of a log's intervals by their tag, and how many there are.
fn sums(log: &Path) -> BTreeMap<String, (usize, Histogram<u64>)> {
    let mut sums = BTreeMap::new();
    for entry in IntervalLogIterator::new(&fs::read(log).unwrap()) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            let tag = interval.tag().map_or(String::new(), |tag| tag.as_str().to_owned());
            let histogram = decoded(interval.encoded_histogram());
            let (n, sum) = sums.entry(tag).or_insert_with(|| (0, Histogram::new_from(&histogram)));
            *n += 1;
            sum.add(histogram).unwrap();
        }
    }
    sums
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn every_file_of_a_run_holds_every_answer_once_second_by_second() {
    let server = Row::all().pop().unwrap().start(&[]);
    let folder = tempfile::tempdir().unwrap();
    for open in [false, true] {
        let more: &[&str] = if open { &["--rate", "1000", "--max-lateness", "10s"] } else { &[] };
        let (_, result) = kept(server.address, folder.path(), more);
        let series = result["series"].as_array().unwrap();
        assert_eq!(series.len(), 3, "{result}");
        let sum = |name: &str| series.iter().map(|second| number(&second[name])).sum::<f64>();
        assert_eq!(sum("messages"), number(&result["messages"]));
        assert_eq!(sum("recorded"), number(&result["latency_us"]["count"]));
        assert!((sum("length_s") - number(&result["measured_s"])).abs() < 1e-6, "{result}");
        if open {
            assert_eq!((sum("due"), &result["departures"]["due"]), (2500.0, &2500.into()));
        }

        let csv = fs::read_to_string(folder.path().join("load.csv")).unwrap();
        let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let column = rows.next().unwrap().iter().position(|&name| name == "messages").unwrap();
        let messages: f64 = rows.map(|row| row[column].parse::<f64>().unwrap()).sum();
        assert_eq!(messages, number(&result["messages"]));

        let sums = sums(&folder.path().join("load.hdr"));
        let whole = |name: &str| decoded(result["histograms"][name].as_str().unwrap());
        let told = [("", "latency"), ("service", "service"), ("send-lateness", "send_lateness")];
        for (tag, name) in told.into_iter().take(if open { 3 } else { 1 }) {
            let (intervals, sum) = &sums[tag];
            assert_eq!((*intervals, sum), (3, &whole(name)), "{name}");
        }
        assert_eq!(sums.len(), if open { 3 } else { 1 });
    }
}

fn a_percentile_says_how_many_answers_it_stands_on() {
    let server = Row::all().pop().unwrap().start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (_, result) = kept(server.address, folder.path(), &["--rate", "2000", "--max-lateness", "10s"]);
    let latency = &result["latency_us"];
    let all = decoded(result["histograms"]["latency"].as_str().unwrap());
    assert_eq!(latency["count"], all.len());
    for (name, percentile) in [("p50", 50.0), ("p99", 99.0), ("p999", 99.9), ("p99999", 99.999)] {
        let value = all.value_at_percentile(percentile);
        assert_eq!(number(&latency[name]), value as f64 / 1000.0);
        let behind = number(&latency["behind"][name]);
        // At least as many as the percentile leaves, and those that share its bucket.
        assert!(behind >= (5000.0 * (1.0 - percentile / 100.0)).floor().max(1.0), "{name}: {latency}");
        assert_eq!(behind, all.count_between(value, all.max()) as f64, "{name}: {latency}");
    }
}

fn one_line_for_scripts_says_what_the_json_says() {
    let server = Row::all().pop().unwrap().start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (output, result) = kept(server.address, folder.path(), &["--line"]);
    let said = text(&output.stdout);
    assert_eq!(said.lines().count(), 1, "{said}");
    let words: BTreeMap<&str, &str> =
        said.split_whitespace().map(|word| word.split_once('=').unwrap()).collect();
    assert_eq!(words["messages"], result["messages"].to_string());
    assert_eq!(words["p99_us"].parse::<f64>().ok(), result["latency_us"]["p99"].as_f64());
    assert_eq!((words["errors"], words["valid"]), ("0", result["valid"].to_string().as_str()));
}

/// What a program said that did what it was to do.
#[track_caller]
fn said_by(program: impl AsRef<OsStr>, args: &[&str], folder: &Path) -> String {
    let output = Command::new(program).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A run whose every message is due and answered: there are 2,500, so that no percentile is between two ranks.
fn fixed_run(folder: &Path) -> Value {
    let server = Row::all().pop().unwrap().start(&[]);
    kept(server.address, folder, &["--rate", "1000", "--max-lateness", "10s"]).1
}

fn hdrhistograms_own_package_reads_the_log_and_the_result() {
    let root = Path::new(ROOT);
    said_by("make", &["-s", "tools"], root);
    let folder = tempfile::tempdir().unwrap();
    let result = fixed_run(folder.path());
    let program = root.join("tests/suite/record.py");
    let args = [program.to_str().unwrap(), "load.hdr", "load.json"];
    let read = said_by(root.join("target/tools/python/bin/python"), &args, folder.path());
    let read: Value = serde_json::from_str(&read).unwrap();
    let (log, whole) = (&read["log"], &read["whole"]);
    let told = [
        ("", "latency", "latency_us"),
        ("service", "service", "service_us"),
        ("send-lateness", "send_lateness", "send_lateness_us"),
    ];
    assert_eq!(log["intervals"].as_object().unwrap().len(), told.len(), "{log}");
    for (tag, name, percentiles) in told {
        assert!(log["sums"][tag] == whole[name], "{name}: another bucket: {read}");
        assert_eq!(whole[name]["count"], 2500, "{name}");
        for percentile in ["p50", "p99", "p999"] {
            let (ns, us) = (&whole[name][percentile], &result[percentiles][percentile]);
            assert!((number(ns) / 1000.0 - number(us)).abs() < 1e-6, "{name}: {percentile}: {ns}, {us}");
        }
        // Each interval begins where the last one ends, in milliseconds since 1970.
        let intervals: Vec<_> = log["intervals"][tag].as_array().unwrap().iter().collect();
        assert_eq!(intervals.len(), result["series"].as_array().unwrap().len(), "{tag}");
        assert!(intervals.windows(2).all(|pair| pair[0][1] == pair[1][0]), "{tag}: {intervals:?}");
        let begin = number(&intervals[0][0]) / 1000.0;
        assert!((begin - number(&result["measured_since"])).abs() < 0.01, "{tag}: {begin}");
        let counts: u64 = intervals.iter().map(|interval| interval[2].as_u64().unwrap()).sum();
        assert_eq!(counts, 2500, "{tag}");
    }
    let recorded = |row: &Value| row["recorded"].as_u64();
    let series: Vec<_> = result["series"].as_array().unwrap().iter().map(recorded).collect();
    let intervals: Vec<_> =
        log["intervals"][""].as_array().unwrap().iter().map(|interval| interval[2].as_u64()).collect();
    assert_eq!(intervals, series);
    assert_eq!(number(&whole["connect"]["count"]), 4.0, "{whole}");
}

fn jq_reads_percentiles_series_and_verdicts() {
    let folder = tempfile::tempdir().unwrap();
    let result = fixed_run(folder.path());
    let program = "\
        ([.series[].messages] | add) == .messages,\
        ([.series[].recorded] | add) == .latency_us.count,\
        ([.series[].due] | add) == .departures.due,\
        .latency_us.p50 <= .latency_us.p99 and .latency_us.p99 <= .latency_us.max,\
        .valid == true and (.verdicts - [\"client-bound\"]) == [] and (.verdicts | length) == (.why | length),\
        .latency_us.p99, .latency_us.behind.p99, .messages";
    let said = said_by("jq", &["-c", program, "load.json"], folder.path());
    let said: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let latency = &result["latency_us"];
    let figures = [latency["p99"].clone(), latency["behind"]["p99"].clone(), result["messages"].clone()];
    assert_eq!(said[..5], [true; 5].map(Value::from), "{result}");
    assert_eq!(said[5..], figures, "{result}");
}

fn a_series_has_as_many_seconds_as_were_measured() {
    let server = Row::all().pop().unwrap().start(&[]);
    for (duration, seconds) in [("1s", 1), ("2s", 2), ("1500ms", 2)] {
        for pace in [&[][..], &["--rate", "500", "--max-lateness", "10s"]] {
            let (_, result) = load(server.address, &[&["-c", "2", "-d", duration], pace].concat());
            assert_eq!(result["series"].as_array().unwrap().len(), seconds, "{duration} {pace:?}: {result}");
        }
    }
}

fn a_file_that_takes_no_more_costs_neither_the_others_nor_what_is_printed() {
    let server = Row::all().pop().unwrap().start(&[]);
    let (endpoint, folder) = (format!("tcp://{}", server.address), tempfile::tempdir().unwrap());
    let csv = folder.path().join("load.csv");
    let args =
        ["load", &endpoint, "-c", "2", "-d", "100ms", "--json", "/dev/full", "--csv", csv.to_str().unwrap()];
    let output = run(echo_client(), &args);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--json /dev/full: No space left") && said.lines().count() == 1, "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("answers"));
    assert_eq!(fs::read_to_string(&csv).unwrap().lines().count(), 2, "a title and a line");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut load = Command::new(echo_client());
    load.args(["load", &endpoint, "-c", "2", "-d", "100ms"]).stdout(full).stderr(Stdio::null());
    assert_eq!(load.status().unwrap().code(), Some(3), "who prints nothing has not succeeded");
}

fn a_result_stays_until_there_is_another_to_take_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept.json");
    fs::write(&kept, "the last result, which is longer than what comes after it".repeat(1000)).unwrap();
    let file = kept.to_str().unwrap();
    let alone = ["--rank", "1/2", "--barrier", "127.0.0.1:1", "--barrier-timeout", "100ms", "-c", "2"];
    let server = Row::all().pop().unwrap().start(&[]);
    let endpoint = format!("tcp://{}", server.address);
    let output = run(echo_client(), &[&["load", &endpoint, "--json", file], &alone[..]].concat());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(fs::read_to_string(&kept).unwrap().starts_with("the last result"));
    let output = run(echo_client(), &["load", &endpoint, "-c", "2", "-d", "100ms", "--json", file]);
    assert_eq!(output.status.code(), Some(0));
    let result: Value = serde_json::from_str(&fs::read_to_string(&kept).unwrap()).unwrap();
    assert_eq!(result["valid"], true);
    let output = run(echo_client(), &["load", &endpoint, "--json", file, "--csv", file]);
    assert_eq!(output.status.code(), Some(2), "one file holds one result");
}
