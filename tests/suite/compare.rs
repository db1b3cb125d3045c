//! `echo-client compare`, end to end.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::stage::{PATIENCE, Row, children, echo_client, echo_server, lesson, within};

fn compare(json: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(echo_client());
    command.args(["compare", "--duration", "150ms", "--warmup", "50ms", "--json"]).arg(json);
    command.arg("--server").arg(echo_server()).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(mut command: Command) -> (Output, String) {
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, said)
}

fn read(json: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap()
}

#[test]
fn every_model_is_compared_and_every_cell_is_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("new/compare.json");
    let (output, said) = run(compare(&json, &["--connections", "1,8", "--blocks", "2"]));
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().all(|line| line.chars().count() <= 90), "{said}");

    let results = read(&json);
    let models: std::collections::BTreeSet<String> = Row::all().into_iter().map(|row| row.model).collect();
    let cells = results["cells"].as_array().unwrap();
    assert_eq!(cells.len(), models.len() * 2 * 2);
    let rows = fs::read_to_string(json.with_extension("csv")).unwrap();
    assert_eq!(rows.lines().count(), 1 + cells.len());
    for cell in cells {
        let (name, connections) =
            (cell["contender"].as_str().unwrap(), cell["connections"].as_u64().unwrap());
        if name == "iterative" && connections > 1 {
            assert_eq!(cell["reason"], "one client at a time");
            continue;
        }
        if cell["reason"].as_str().unwrap().starts_with("client-bound") {
            continue;
        }
        assert_eq!(cell["reason"], "", "{cell}");
        assert_eq!(
            (&cell["served"], &cell["accepted"]),
            (&connections.into(), &connections.into()),
            "{cell}"
        );
        for figure in ["messages_per_s", "p50_us", "server_cpu_us_per_message", "client_cpu_us_per_message"] {
            assert!(cell[figure].as_f64() > Some(0.0), "{figure}: {cell}");
        }
        assert!(cell["peak_pss_bytes"].as_u64() > Some(100_000), "{cell}");
        let expected = if name == "fork" || name == "prefork" { connections + 1 } else { 1 };
        assert_eq!(cell["processes"], expected, "{cell}");
        assert!((cell["little"].as_f64().unwrap() - 1.0).abs() < 0.3, "Little's law: {cell}");
    }
}

#[test]
fn anybodys_server_takes_part_and_a_liar_has_no_figure() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("compare.json");
    let honest = lesson("01-one-client-at-a-time");
    let honest = format!("lesson={} 127.0.0.1:{{port}}", honest.display());
    let args = ["--models", "event-loop", "--with", &honest, "--with", "false=false {port}"];
    let (output, said) = run(compare(&json, &[&args[..], &["--connections", "1", "--blocks", "1"]].concat()));
    assert!(output.status.success(), "{said}");
    let reasons: Vec<(String, String)> = read(&json)["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| (cell["contender"].as_str().unwrap().into(), cell["reason"].as_str().unwrap().into()))
        .collect();
    for (name, reason) in reasons {
        match name.as_str() {
            "false" => assert!(reason.contains("ended before it listened"), "{reason}"),
            _ => assert_eq!(reason, "", "{name}"),
        }
    }
    assert!(said.contains("false: not started"), "{said}");
}

#[test]
fn a_contender_is_a_model_with_the_options_that_follow_it() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("compare.json");
    let models = "thread-pool/queue --workers 4 --queue 7,thread-pool/queue,event-loop --max-connections 1";
    let (output, said) =
        run(compare(&json, &["--models", models, "--connections", "3", "--blocks", "1", "--seed", "2"]));
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let results = read(&json);
    let cell = |name: &str| {
        let mut cells = results["cells"].as_array().unwrap().iter();
        cells.find(|cell| cell["contender"] == name).unwrap_or_else(|| panic!("no {name}: {results}")).clone()
    };
    let told = cell("thread-pool/queue --workers 4 --queue 7");
    assert_eq!((&told["workers"], &told["reason"]), (&Value::Null, &"".into()), "{told}");
    let threads = |cell: &Value| cell["threads"].as_u64().unwrap();
    assert_eq!(threads(&told), threads(&cell("thread-pool/queue")) + 1, "a worker more: {results}");
    assert_eq!(cell("thread-pool/queue")["workers"], 3);
    assert_ne!(cell("event-loop --max-connections 1")["reason"], "", "its option was handed over: {results}");
    assert!(said.contains("thread-pool/queue --workers 4 --queue 7  "), "{said}");
}

#[test]
fn one_word_means_every_model_in_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("compare.json");
    let (output, said) = run(compare(&json, &["--models", "all", "--connections", "1", "--blocks", "1"]));
    assert!(output.status.success(), "{said}");
    let results = read(&json);
    let cells = results["cells"].as_array().unwrap().iter();
    let mut names: Vec<&str> = cells.map(|cell| cell["contender"].as_str().unwrap()).collect();
    let mut rows: Vec<String> = Row::all().iter().map(Row::label).collect();
    (names.sort_unstable(), rows.sort_unstable());
    assert_eq!(names, rows);
}

#[test]
fn a_duet_of_one_with_itself_is_even() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("duet.json");
    let args = ["--duet", "event-loop", "event-loop", "--connections", "8", "--blocks", "4"];
    let (output, said) = run(compare(&json, &args));
    assert!(output.status.success(), "{said}");
    let results = read(&json);
    let pairs = results["duets"][0]["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 4);
    for slice in pairs.iter().flat_map(|pair| pair.as_array().unwrap()) {
        assert!(
            slice["messages_per_s"].as_f64() > Some(0.0)
                && slice["server_cpu_us_per_message"].as_f64() > Some(0.0)
        );
    }
    assert!(said.contains("server CPU us/message"), "{said}");
}

#[test]
fn an_interrupted_comparison_keeps_its_cells_and_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("compare.json");
    let mut running = compare(&json, &["--models", "fork,thread", "--connections", "4", "--blocks", "500"])
        .spawn()
        .unwrap();
    let pid = running.id().cast_signed();
    let csv = json.with_extension("csv");
    within(PATIENCE, "two cells", || {
        (fs::read_to_string(&csv).unwrap_or_default().lines().count() > 3).then_some(())
    });
    let started = within(PATIENCE, "a server in the middle of its cell", || {
        let children = children(pid);
        (!children.is_empty()).then_some(children)
    });
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    let interrupted = Instant::now();
    let status = within(PATIENCE, "the end", || running.try_wait().unwrap());
    assert!(interrupted.elapsed() < Duration::from_secs(4), "after {:?}", interrupted.elapsed());
    assert_eq!(status.code(), Some(130));
    for child in started {
        within(Duration::from_secs(2), "its servers' end", || {
            kill(Pid::from_raw(child), None).is_err().then_some(())
        });
    }
    let results = read(&json);
    assert_eq!(results["interrupted"], true);
    let kept = results["cells"].as_array().unwrap();
    assert!(kept.len() >= 3 && kept.iter().all(|cell| cell["reason"] == ""), "{results}");
    assert_eq!(fs::read_to_string(&csv).unwrap().lines().count(), 1 + kept.len());
}

#[test]
fn the_second_signal_leaves_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("compare.json");
    let args = ["--models", "event-loop", "--connections", "4", "--blocks", "500"];
    let mut running = compare(&json, &args).spawn().unwrap();
    let pid = running.id().cast_signed();
    within(PATIENCE, "the first cells", || json.with_extension("csv").exists().then_some(()));
    let started = within(PATIENCE, "a server in the middle of its cell", || {
        let children = children(pid);
        (!children.is_empty()).then_some(children)
    });
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let _ = kill(Pid::from_raw(pid), signal);
    }
    let status = within(PATIENCE, "the end", || running.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
    for child in started {
        within(Duration::from_secs(2), "its servers' end", || {
            kill(Pid::from_raw(child), None).is_err().then_some(())
        });
    }
}

#[test]
fn where_both_sides_share_processors_the_table_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--models", "event-loop", "--connections", "4", "--blocks", "1"];
    let cpus = ["--server-cpus", "0", "--client-cpus", "0"];
    let (_, said) = run(compare(&folder.path().join("compare.json"), &[&args[..], &cpus].concat()));
    assert!(said.contains("share processors"), "{said}");
}
