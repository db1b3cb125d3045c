//! What could not be measured is absent: a dash for people, null in JSON, nothing in CSV, and never 0.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    stage::{Row, echo_client, echo_server},
    suite::{
        Promise,
        load::{load_at, text},
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    of_a_server_that_runs_already_nobody_knows_what_it_costs_and_where_it_runs,
    what_was_not_run_has_no_figures,
    a_load_without_an_answer_has_no_latencies,
];

/// What the costs of a server are called in a cell.
const COSTS: [&str; 10] = [
    "server_cpu_us_per_message",
    "server_busy",
    "voluntary_switches_per_message",
    "involuntary_switches_per_message",
    "minor_faults_per_message",
    "peak_pss_bytes",
    "bytes_per_connection",
    "processes",
    "threads",
    "descriptors",
];

fn event_loop() -> Row {
    Row::all().into_iter().find(|row| row.model == "event-loop").unwrap()
}

fn of_a_server_that_runs_already_nobody_knows_what_it_costs_and_where_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let server = event_loop().start(&[]);
    let with = format!("there={}", server.address);
    let compare = |more: &[&str]| {
        let mut command = Command::new(echo_client());
        command.args(["compare", "-d", "150ms", "--warmup", "50ms", "-c", "2", "--with", &with, "--server"]);
        command.arg(echo_server()).arg("--results").arg(folder.path()).args(more).stdin(Stdio::null());
        text(&command.output().unwrap().stdout)
    };
    let said = compare(&["-b", "1", "-m", "none"]);
    assert!(
        said.contains("servers run already, client on CPU ") && !said.contains("servers on CPU"),
        "{said}"
    );
    let row = said.lines().find(|line| line.starts_with("there ")).unwrap_or_else(|| panic!("{said}"));
    assert!(row.ends_with("–/–") || row.trim_end().ends_with('–'), "{said}");
    assert!(!said.contains("the server 0 %") && !said.contains("0.0M"), "{said}");

    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let results: Value = serde_json::from_str(&read("results.json")).unwrap();
    let mut rows = csv::Reader::from_path(folder.path().join("cells.csv")).unwrap();
    let heads = rows.headers().unwrap().clone();
    let cell = rows.records().next().unwrap().unwrap();
    for cost in COSTS {
        assert!(results["cells"][0][cost].is_null(), "{cost}: {}", results["cells"][0]);
        let at = heads.iter().position(|head| head == cost).unwrap();
        assert_eq!(&cell[at], "", "{cost}");
    }
    let line = &results["groups"][0]["lines"][0];
    for cost in COSTS.iter().filter(|cost| **cost != "server_busy") {
        assert!(line[*cost].is_null(), "{cost}: {line}");
    }
    // Nobody else needs the processors.
    let plan = read("plan.toml");
    assert!(!plan.contains("server_cpus"), "{plan}");
    let cpus = std::thread::available_parallelism().unwrap().get();
    let own = plan.lines().find_map(|line| line.strip_prefix("client_cpus = ")).unwrap();
    assert_eq!(own.trim_matches('"').split(',').count() == cpus, !own.contains('-'), "{plan}");
    assert!(own.contains(&(cpus - 1).to_string()) && own.contains('0'), "{plan}");

    let said = compare(&["-b", "3", "--duet", "there", "there"]);
    assert!(said.contains("servers run already"), "{said}");
    assert!(said.contains("messages/s") && !said.contains("server CPU us/message"), "{said}");
    let results: Value = serde_json::from_str(&read("results.json")).unwrap();
    let rows = results["pairs"][0]["figures"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["name"] != "server CPU us/message"), "{results}");
}

fn what_was_not_run_has_no_figures() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(echo_client());
    command.args([
        "compare",
        "-d",
        "100ms",
        "--warmup",
        "0",
        "-c",
        "2",
        "-b",
        "1",
        "-m",
        "iterative,event-loop",
    ]);
    command.args(["--no-calls", "--server"]).arg(echo_server()).arg("--results").arg(folder.path());
    command.output().unwrap();
    let results: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("results.json")).unwrap()).unwrap();
    let cells = results["cells"].as_array().unwrap();
    let cell = cells.iter().find(|cell| cell["contender"] == "iterative").unwrap();
    assert_eq!((&cell["reason"], &cell["cause"]), (&"one client at a time".into(), &"plan".into()));
    for figure in ["messages", "messages_per_s", "p50_us", "max_us", "jain", "established", "little"] {
        assert!(cell[figure].is_null(), "{figure}: {cell}");
    }
}

fn a_load_without_an_answer_has_no_latencies() {
    // Somebody listens, and nobody accepts: the connections come up, and nothing comes back.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("load.csv");
    let args = ["-c", "2", "-d", "300ms", "--timeout", "1s", "--csv", csv.to_str().unwrap()];
    let (output, result) = load_at(&endpoint, &args);
    assert_eq!(output.status.code(), Some(1));
    for figure in ["min", "p50", "p99", "max", "mean"] {
        assert!(result["latency_us"][figure].is_null(), "{figure}: {result}");
    }
    assert!(result["connections"]["jain"].is_null(), "{result}");
    assert!(result["client_cpu_us_per_message"].is_null(), "{result}");
    let said = text(&output.stdout);
    assert!(said.contains("Jain's index –") && said.contains("– us of CPU"), "{said}");
    let mut rows = csv::Reader::from_path(&csv).unwrap();
    let at = rows.headers().unwrap().iter().position(|head| head == "p50_us").unwrap();
    assert!(rows.records().all(|row| row.unwrap()[at].is_empty()));
    let (output, _) = load_at(&endpoint, &[&args[..6], &["--line"]].concat());
    assert!(text(&output.stdout).contains(" p50_us=- "), "{}", text(&output.stdout));
}
