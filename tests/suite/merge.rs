//! `echo-client load --rank` and `merge`: several generators make one load, and one result.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    },
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    stage::{PATIENCE, Row, Server, Transport, echo_client, run, within},
    suite::{
        Promise,
        load::{is_measured, text},
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    a_run_of_mpirun_ends_in_one_result_whose_counts_are_the_servers,
    every_launcher_gives_each_its_rank_and_all_begin_at_the_moment_that_was_said,
    ranks_that_one_launcher_started_on_this_host_meet_without_being_told_to,
    a_moment_that_has_passed_is_a_late_start_and_said_to_be_one,
    a_rank_that_was_told_is_believed_before_any_launcher,
    one_schedule_is_dealt_out_over_ranks_and_every_answer_is_in_the_merged_result_once,
    the_steps_of_a_staircase_begin_together_and_are_merged,
    what_voids_a_rank_voids_the_run_and_the_rank_is_named,
    who_is_interrupted_together_is_one_result_and_who_is_interrupted_alone_makes_none,
    a_rank_that_does_not_come_is_named_in_one_line,
    a_rank_that_leaves_the_barrier_is_missed_and_a_newcomer_takes_its_place,
    ranks_that_were_asked_for_something_else_or_by_another_job_do_not_join,
    a_rank_that_cannot_load_says_so_and_none_of_the_others_waits_for_it,
    silent_strangers_at_the_barrier_cost_nobody,
    ranks_without_a_barrier_say_so_and_are_no_result_where_they_did_not_load_at_once,
    a_server_that_stands_still_for_seconds_is_an_outage_in_a_closed_loop_too,
    what_cannot_be_merged_is_refused_in_one_line,
    a_result_on_stdout_is_all_that_is_there_and_one_line,
];

/// Without which srun has started nothing.
const STEP: &str = "SLURM_STEP_ID";

/// Those who start several processes, each by the variables of the rank and of how many there are.
const LAUNCHERS: [[&str; 2]; 4] = [
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
    ["PMI_RANK", "PMI_SIZE"],
    ["SLURM_PROCID", "SLURM_NTASKS"],
    ["JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"],
];

fn event_loop(transport: Transport) -> Server {
    let rows = Row::table_of(transport);
    rows.into_iter().find(|row| row.model == "event-loop").unwrap().start(&[])
}

/// A load that no launcher has anything to say to.
fn load(endpoint: &str, args: &[&str]) -> Command {
    let mut command = Command::new(echo_client());
    for name in LAUNCHERS.iter().flatten().chain([&STEP]) {
        command.env_remove(name);
    }
    // A machine that others use may keep sends from leaving in time.
    let busy: &[&str] = if args.contains(&"--rate") { &["--max-lateness", "10s"] } else { &[] };
    command.args(["load", endpoint, "--warmup", "100ms"]).args(busy).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts as many ranks as there are lists of arguments of their own. They meet, where no other start is told.
fn ranks(endpoint: &str, folder: &Path, args: &[&str], own: &[&[&str]]) -> Vec<Child> {
    let meeting = meeting();
    let start = |rank| ranked(endpoint, folder, &meeting, rank, own.len(), &[args, own[rank]].concat());
    (0..own.len()).map(start).collect()
}

/// An address that was free a moment ago, and that nobody else uses.
fn meeting() -> String {
    TcpListener::bind("127.7.7.7:0").unwrap().local_addr().unwrap().to_string()
}

/// Starts rank `rank` of so many, which meet there.
fn ranked(endpoint: &str, folder: &Path, meeting: &str, rank: usize, ranks: usize, args: &[&str]) -> Child {
    let (json, place) = (folder.join("{rank}.json"), format!("{rank}/{ranks}"));
    let place = ["--rank", &place, "--barrier", meeting, "--json", json.to_str().unwrap()];
    load(endpoint, &[&place, args].concat()).env("RUST_LOG", "info").spawn().unwrap()
}

/// A barrier at which somebody listens.
fn is_open(meeting: &str) {
    within(PATIENCE, "rank 0 listens", || TcpStream::connect(meeting).ok());
}

/// What one said that did not do what it was asked to.
#[track_caller]
fn failed(rank: Child, status: i32, words: &str) {
    let Output { status: ended, stderr, .. } = rank.wait_with_output().unwrap();
    let said = text(&stderr);
    let last = said.lines().last().unwrap_or_default();
    assert!(ended.code() == Some(status) && last.contains(words), "{ended}, should say {words:?}: {said}");
}

fn ends(ranks: Vec<Child>) -> Vec<Output> {
    ranks.into_iter().map(|rank| rank.wait_with_output().unwrap()).collect()
}

#[track_caller]
fn end_well(ranks: Vec<Child>) {
    ends(ranks).iter().for_each(is_measured);
}

/// The results of so many ranks.
fn files(folder: &Path, ranks: usize) -> Vec<PathBuf> {
    (0..ranks).map(|rank| folder.join(format!("{rank}.json"))).collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Merges the results of so many ranks.
fn merge(folder: &Path, ranks: usize, more: &[&str]) -> (Output, Value) {
    let (parts, all) = (files(folder, ranks), folder.join("all.json"));
    let parts: Vec<&str> = parts.iter().map(|path| path.to_str().unwrap()).collect();
    let output =
        run(echo_client(), &[&["merge", "--json", all.to_str().unwrap()], &parts[..], more].concat());
    let result = if all.exists() { read(&all) } else { Value::Null };
    (output, result)
}

fn decoded(encoded: &Value) -> Histogram<u64> {
    let bytes = STANDARD.decode(encoded.as_str().unwrap()).unwrap();
    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap()
}

fn sum(histograms: impl Iterator<Item = Histogram<u64>>) -> Histogram<u64> {
    let add = |mut sum: Histogram<u64>, next| {
        sum.add(next).unwrap();
        sum
    };
    histograms.reduce(add).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn a_run_of_mpirun_ends_in_one_result_whose_counts_are_the_servers() {
    for (transport, more) in
        [(Transport::Tcp, &[][..]), (Transport::Tcp, &["--churn", "3"]), (Transport::Udp, &[])]
    {
        let server = event_loop(transport);
        let endpoint = format!("{}://{}", transport.name(), server.address);
        let folder = tempfile::tempdir().unwrap();
        let mpirun = Command::new("mpirun")
            .args(["--allow-run-as-root", "--oversubscribe", "-n", "4"])
            .arg(echo_client())
            .args(["load", &endpoint, "-c", "8", "-d", "1s", "--json", "{rank}.json", "--line"])
            .args(more)
            .current_dir(folder.path())
            .output()
            .expect("openmpi-bin is installed: make tools");
        assert!(mpirun.status.success(), "{}{}", text(&mpirun.stdout), text(&mpirun.stderr));
        assert_eq!(text(&mpirun.stdout).lines().count(), 4, "a line of each rank");
        let (output, all) = merge(folder.path(), 4, &[]);
        assert!(output.status.success(), "{}{}", text(&output.stderr), all["why"]);
        assert_eq!((&all["valid"], &all["errors"]), (&true.into(), &serde_json::json!({})), "{all}");
        let figures = server.stop().well();
        if transport == Transport::Udp {
            assert_eq!(all["udp"]["sent"], figures["datagrams_in"]);
            assert_eq!(all["udp"]["received"], figures["datagrams_out"]);
            continue;
        }
        assert_eq!(all["connections"]["opened"], figures["accepted"]);
        // And one more message of each connection, with its FIN.
        let messages = number(&all["messages_in_all"]) + 8;
        assert_eq!(
            (&figures["bytes_in"], &figures["bytes_out"]),
            (&(64 * messages).into(), &(64 * messages).into())
        );
        let begun: BTreeSet<String> =
            read_all(folder.path(), 4).iter().map(|it| it["run"].to_string()).collect();
        assert_eq!(begun.len(), 1, "they met");
    }
}

fn read_all(folder: &Path, ranks: usize) -> Vec<Value> {
    files(folder, ranks).iter().map(|path| read(path)).collect()
}

fn every_launcher_gives_each_its_rank_and_all_begin_at_the_moment_that_was_said() {
    let server = event_loop(Transport::Tcp);
    let endpoint = format!("tcp://{}", server.address);
    let folder = tempfile::tempdir().unwrap();
    echo_client(); // built before the clock runs
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() + 1.5;
    let mut started = Vec::new();
    for [rank, ranks] in LAUNCHERS {
        fs::create_dir(folder.path().join(rank)).unwrap();
        for number in ["0", "1"] {
            let json = folder.path().join(rank).join("{rank}.json");
            let start = ["--start-at", &moment.to_string(), "--json", json.to_str().unwrap()];
            let mut one = load(&endpoint, &[&["-c", "3", "-d", "1s", "--rate", "100"], &start[..]].concat());
            if rank.starts_with("SLURM") {
                one.env(STEP, "0");
            }
            started.push(one.env(rank, number).env(ranks, "2").spawn().unwrap());
        }
    }
    end_well(started);
    for [name, _] in LAUNCHERS {
        let (output, all) = merge(&folder.path().join(name), 2, &[]);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        for (rank, result) in read_all(&folder.path().join(name), 2).iter().enumerate() {
            assert_eq!(result["rank"], serde_json::json!({ "rank": rank, "ranks": 2, "by": name }));
            assert_eq!(result["connections"]["asked"], 2 - rank);
            let begun = result["measured_since"].as_f64().unwrap() - moment;
            assert!((0.1..1.0).contains(&begun), "the warm-up begins then: {begun}");
        }
        assert_eq!((&all["departures"]["due"], &all["connections"]["asked"]), (&100.into(), &3.into()));
    }
}

fn ranks_that_one_launcher_started_on_this_host_meet_without_being_told_to() {
    let server = event_loop(Transport::Tcp);
    let folder = tempfile::tempdir().unwrap();
    let job = format!("test-{}", std::process::id());
    let here: [&[(&str, &str)]; 3] = [
        &[("OMPI_COMM_WORLD_LOCAL_SIZE", "2"), ("PMIX_NAMESPACE", &job)],
        &[("MPI_LOCALNRANKS", "2")],
        &[("SLURM_STEP_TASKS_PER_NODE", "2"), ("SLURM_JOB_ID", &job), ("SLURM_STEP_ID", "0")],
    ];
    let mut started = Vec::new();
    for ([rank, ranks], here) in LAUNCHERS.into_iter().zip(here) {
        fs::create_dir(folder.path().join(rank)).unwrap();
        let json = folder.path().join(rank).join("{rank}.json");
        for number in ["1", "0"] {
            let args = ["-c", "2", "-d", "300ms", "--rate", "50", "--json", json.to_str().unwrap()];
            let mut one = load(&format!("tcp://{}", server.address), &args);
            one.env(rank, number).env(ranks, "2").envs(here.iter().copied());
            started.push(one.spawn().unwrap());
        }
    }
    end_well(started);
    for [name, _] in &LAUNCHERS[..3] {
        let runs = read_all(&folder.path().join(name), 2).into_iter().map(|mut result| result["run"].take());
        let runs: BTreeSet<String> = runs.map(|run| run.as_str().expect("they met").to_owned()).collect();
        assert_eq!(runs.len(), 1, "{name}");
    }
}

fn a_moment_that_has_passed_is_a_late_start_and_said_to_be_one() {
    let server = event_loop(Transport::Tcp);
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("late.json");
    let args =
        ["-c", "2", "-d", "100ms", "--start-at", "2026-01-01T00:00:00Z", "--json", json.to_str().unwrap()];
    end_well(vec![load(&format!("tcp://{}", server.address), &args).spawn().unwrap()]);
    let result = read(&json);
    assert!(result["why"]["started-late"].as_str().unwrap().contains("after --start-at"), "{result}");
    assert_eq!(result["settings"]["start_at"], 1_767_225_600.0, "{result}");
}

fn a_rank_that_was_told_is_believed_before_any_launcher() {
    let server = event_loop(Transport::Tcp);
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("alone.json");
    let args = ["--rank", "0/1", "-c", "3", "-d", "100ms", "--json", json.to_str().unwrap()];
    let mut alone = load(&format!("tcp://{}", server.address), &args);
    end_well(vec![alone.env("PMI_RANK", "1").env("PMI_SIZE", "2").spawn().unwrap()]);
    let result = read(&json);
    assert_eq!((&result["rank"]["by"], &result["connections"]["asked"]), (&"--rank".into(), &3.into()));
}

fn one_schedule_is_dealt_out_over_ranks_and_every_answer_is_in_the_merged_result_once() {
    let server = event_loop(Transport::Tcp);
    let folder = tempfile::tempdir().unwrap();
    let args = ["-c", "7", "-d", "2s", "--rate", "1000"];
    // How many threads a rank has is its own affair.
    let own: [&[&str]; 3] = [&["--threads", "1"], &["--threads", "2"], &["--threads", "2"]];
    end_well(ranks(&format!("tcp://{}", server.address), folder.path(), &args, &own));
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (output, all) = merge(folder.path(), 3, &["--csv", &file("all.csv"), "--hdr", &file("all.hdr")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!((&all["schema"], &all["valid"], &all["rank"]), (&1.into(), &true.into(), &Value::Null));
    assert_eq!((&all["departures"]["due"], &all["departures"]["dropped"]), (&2000.into(), &0.into()));
    assert_eq!((&all["settings"]["threads"], &all["connections"]["served"]), (&5.into(), &7.into()));

    let parts = read_all(folder.path(), 3);
    for name in ["latency", "service", "send_lateness", "connect"] {
        let of_parts = sum(parts.iter().map(|part| decoded(&part["histograms"][name])));
        assert_eq!(decoded(&all["histograms"][name]), of_parts, "{name}");
    }
    let latency = decoded(&all["histograms"]["latency"]);
    assert_eq!(latency.len(), 2000);
    let p99 = latency.value_at_percentile(99.0) as f64 / 1000.0;
    assert_eq!(all["latency_us"]["p99"].as_f64(), Some(p99), "of the sum");

    let series = all["series"].as_array().unwrap();
    assert_eq!(sum(series.iter().map(|second| decoded(&second["histograms"]["latency"]))), latency);
    let log = fs::read(file("all.hdr")).unwrap();
    let logged = IntervalLogIterator::new(&log).filter_map(|entry| match entry.unwrap() {
        LogEntry::Interval(interval) if interval.tag().is_none() => {
            Some(decoded(&interval.encoded_histogram().into()))
        }
        _ => None,
    });
    assert_eq!(sum(logged), latency);
    assert_eq!(fs::read_to_string(file("all.csv")).unwrap().lines().count(), 1 + series.len());

    let said = text(&output.stdout);
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    for (part, rank) in parts.iter().zip(all["ranks"].as_array().unwrap()) {
        assert_eq!((&rank["rank"], &rank["latency_us"]), (&part["rank"]["rank"], &part["latency_us"]));
        assert_eq!(rank["environment"]["host"], part["environment"]["host"]);
        let line = format!("rank {} ", rank["rank"]);
        assert!(said.lines().any(|said| said.starts_with(&line) && said.contains("p99")), "{said}");
    }
    let (output, _) = merge(folder.path(), 3, &["--line"]);
    let line = text(&output.stdout);
    assert!(line.contains(&format!("messages={} ", all["messages"])), "{line}");
}

fn the_steps_of_a_staircase_begin_together_and_are_merged() {
    let server = event_loop(Transport::Tcp);
    let folder = tempfile::tempdir().unwrap();
    let args = ["-c", "4", "-d", "1s", "--ramp", "2"];
    end_well(ranks(&format!("tcp://{}", server.address), folder.path(), &args, &[&[], &[]]));
    let (output, all) = merge(folder.path(), 2, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let parts = read_all(folder.path(), 2);
    let steps = all["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    for (n, step) in steps.iter().enumerate() {
        assert_eq!(step["connections"], 2 * (n + 1));
        let of_parts = sum(parts.iter().map(|part| decoded(&part["steps"][n]["histograms"]["latency"])));
        assert_eq!(decoded(&step["histograms"]["latency"]), of_parts);
    }
}

fn what_voids_a_rank_voids_the_run_and_the_rank_is_named() {
    let server = event_loop(Transport::Tcp);
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("{rank}.json");
    let meeting = TcpListener::bind("127.7.7.7:0").unwrap().local_addr().unwrap().to_string();
    let endpoint = format!("tcp://{}", server.address);
    let start = |rank: &str, max_lateness: &str| {
        let mut command = Command::new(echo_client());
        command.args([
            "load",
            &endpoint,
            "-c",
            "2",
            "-d",
            "1s",
            "--rate",
            "200",
            "--max-lateness",
            max_lateness,
        ]);
        command.args(["--rank", rank, "--barrier", &meeting, "--json"]).arg(&json).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    end_well(vec![start("0/2", "10s"), start("1/2", "1ns")]);
    let (output, all) = merge(folder.path(), 2, &[]);
    assert_eq!((output.status.code(), &all["valid"]), (Some(3), &false.into()), "{}", text(&output.stderr));
    assert!(all["why"]["schedule-late"].as_str().unwrap().starts_with("rank 1: one send in 100"), "{all}");
    let said = text(&output.stdout);
    assert!(said.contains("VERDICT     schedule-late: rank 1"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
}

/// Two ranks of a load without end, of which so many are interrupted a while before the others.
fn interrupted(folder: &Path, first: usize) {
    let server = event_loop(Transport::Tcp);
    let mut ranks =
        ranks(&format!("tcp://{}", server.address), folder, &["-c", "2", "-d", "60s"], &[&[], &[]]);
    let interrupt = |ranks: &[Child]| {
        thread::sleep(Duration::from_millis(1500)); // something is to be measured
        ranks.iter().for_each(|rank| kill(Pid::from_raw(rank.id().cast_signed()), Signal::SIGINT).unwrap());
    };
    let others = ranks.split_off(first);
    interrupt(&ranks);
    if !others.is_empty() {
        interrupt(&others);
    }
    for output in ends(ranks).into_iter().chain(ends(others)) {
        assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    }
}

fn who_is_interrupted_together_is_one_result_and_who_is_interrupted_alone_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    interrupted(folder.path(), 2);
    let (output, all) = merge(folder.path(), 2, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!((&all["valid"], &all["verdicts"][0]), (&true.into(), &"interrupted".into()), "{all}");
    interrupted(folder.path(), 1);
    let (output, all) = merge(folder.path(), 2, &[]);
    assert_eq!((output.status.code(), &all["valid"]), (Some(3), &false.into()), "{}", text(&output.stderr));
    let why = all["why"]["unsynchronised"].as_str().unwrap();
    assert!(why.contains("90 %") && why.contains("0.json ended first"), "{why}");
}

fn a_rank_that_does_not_come_is_named_in_one_line() {
    let server = event_loop(Transport::Tcp);
    let (endpoint, folder) = (format!("tcp://{}", server.address), tempfile::tempdir().unwrap());
    let (meeting, args) = (meeting(), ["-c", "3", "-d", "60s"]);
    let start =
        |rank, more: &[&str]| ranked(&endpoint, folder.path(), &meeting, rank, 3, &[&args, more].concat());
    // The other one waits for rank 0's word.
    for rank in [start(0, &["--barrier-timeout", "3s"]), start(1, &[])] {
        failed(rank, 3, "rank 2 of 3 did not come to 127.7.7.7:");
    }
}

fn a_rank_that_leaves_the_barrier_is_missed_and_a_newcomer_takes_its_place() {
    let server = event_loop(Transport::Tcp);
    let (endpoint, folder) = (format!("tcp://{}", server.address), tempfile::tempdir().unwrap());
    let (meeting, args) = (meeting(), ["-c", "3", "-d", "1s"]);
    let start = |rank| ranked(&endpoint, folder.path(), &meeting, rank, 3, &args);
    let mut host = start(0);
    let mut heard = BufReader::new(host.stderr.take().unwrap()).lines().map(Result::unwrap);
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let one = start(1);
        assert!(heard.any(|said| said.contains("rank 1 is here")));
        failed(start(1), 2, "there is a rank 1 of 3 already");
        kill(Pid::from_raw(one.id().cast_signed()), signal).unwrap();
        one.wait_with_output().unwrap();
        assert!(heard.any(|said| said.contains("rank 1 has left")), "rank 0 says so at once");
    }
    let others = [start(1), start(2)];
    for rank in others.into_iter().chain([host]) {
        let output = rank.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let (_, all) = merge(folder.path(), 3, &[]);
    assert_eq!((&all["valid"], &all["connections"]["served"]), (&true.into(), &3.into()), "{}", all["why"]);
}

fn ranks_that_were_asked_for_something_else_or_by_another_job_do_not_join() {
    let server = event_loop(Transport::Tcp);
    let (endpoint, folder) = (format!("tcp://{}", server.address), tempfile::tempdir().unwrap());
    let (meeting, args) = (meeting(), ["-c", "2", "-d", "1s"]);
    let json = folder.path().join("{rank}.json");
    let of_job = |job: &str, rank: &str, more: &[&str]| {
        let meet = ["--barrier", &meeting, "--json", json.to_str().unwrap()];
        let mut one = load(&endpoint, &[&args, &meet, more].concat());
        one.envs([("SLURM_JOB_ID", job), (STEP, "0"), ("SLURM_PROCID", rank), ("SLURM_NTASKS", "2")]);
        one.spawn().unwrap()
    };
    let host = of_job("7", "0", &[]);
    is_open(&meeting);
    failed(of_job("8", "1", &[]), 2, "rank 0 is of job 7.0, not of 8.0");
    failed(of_job("7", "1", &["--size", "99"]), 2, "ranks 0 and 1 differ in size: 64 and 99");
    end_well(vec![of_job("7", "1", &[]), host]);
    let (_, all) = merge(folder.path(), 2, &[]);
    assert_eq!(all["valid"], true, "{}", all["why"]);
}

fn a_rank_that_cannot_load_says_so_and_none_of_the_others_waits_for_it() {
    let server = event_loop(Transport::Tcp);
    let (endpoint, folder) = (format!("tcp://{}", server.address), tempfile::tempdir().unwrap());
    let args = ["-c", "3", "-d", "60s"];
    for [cannot, one, other] in [[0, 1, 2], [1, 0, 2]] {
        let meeting = meeting();
        let start = |rank, more: &[&str]| {
            ranked(&endpoint, folder.path(), &meeting, rank, 3, &[&args, more].concat())
        };
        let others = [start(one, &[]), start(other, &[])];
        failed(start(cannot, &["--csv", "/nowhere/at/all"]), 2, "/nowhere/at/all");
        for rank in others {
            failed(rank, 3, &format!("rank {cannot} of 3 cannot load: --csv /nowhere/at/all"));
        }
    }
    let closed = TcpListener::bind("127.7.7.7:0").unwrap().local_addr().unwrap();
    for child in ranks(&format!("tcp://{closed}"), folder.path(), &args, &[&[], &[]]) {
        failed(child, 1, "connections came up");
    }
}

fn silent_strangers_at_the_barrier_cost_nobody() {
    let server = event_loop(Transport::Tcp);
    let (endpoint, folder) = (format!("tcp://{}", server.address), tempfile::tempdir().unwrap());
    let (meeting, args) = (meeting(), ["-c", "2", "-d", "300ms", "--barrier-timeout", "20s"]);
    let host = ranked(&endpoint, folder.path(), &meeting, 0, 2, &args);
    is_open(&meeting);
    let strangers: Vec<_> = (0..60).map(|_| TcpStream::connect(&meeting).unwrap()).collect();
    end_well(vec![ranked(&endpoint, folder.path(), &meeting, 1, 2, &args), host]);
    drop(strangers);
}

fn ranks_without_a_barrier_say_so_and_are_no_result_where_they_did_not_load_at_once() {
    let server = event_loop(Transport::Tcp);
    let (endpoint, folder) = (format!("tcp://{}", server.address), tempfile::tempdir().unwrap());
    for rank in ["0/2", "1/2"] {
        let json = folder.path().join("{rank}.json");
        let args = ["--rank", rank, "-c", "2", "-d", "300ms", "--json", json.to_str().unwrap()];
        let output = load(&endpoint, &args).output().unwrap();
        assert!(
            output.status.success() && text(&output.stderr).contains("--barrier"),
            "{}",
            text(&output.stderr)
        );
    }
    for part in read_all(folder.path(), 2) {
        assert!(part["why"]["unsynchronised"].is_string(), "{part}");
    }
    let (output, all) = merge(folder.path(), 2, &[]);
    assert_eq!((output.status.code(), &all["valid"]), (Some(3), &false.into()), "{}", text(&output.stderr));
    assert!(all["why"]["unsynchronised"].as_str().unwrap().contains("only 0.00 s"), "{all}");
}

fn a_server_that_stands_still_for_seconds_is_an_outage_in_a_closed_loop_too() {
    let server = event_loop(Transport::Tcp);
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("outage.json");
    let args = ["-c", "4", "-d", "5s", "--json", json.to_str().unwrap()];
    let running = load(&format!("tcp://{}", server.address), &args).spawn().unwrap();
    // It is loaded from now on: it has used processor time.
    let used = || fs::read_to_string(format!("/proc/{}/schedstat", server.pid())).unwrap_or_default();
    within(PATIENCE, "the server is loaded", || {
        let ran: u64 = used().split(' ').next()?.parse().ok()?;
        (ran > 50_000_000).then_some(())
    });
    server.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_millis(2500)); // two whole seconds, wherever they begin, less a half
    server.signal(Signal::SIGCONT);
    running.wait_with_output().unwrap();
    let result = read(&json);
    let why = result["why"]["outage"].as_str().unwrap_or_else(|| panic!("{result}"));
    assert!(why.contains("nothing came back for at least"), "{why}");
}

fn what_cannot_be_merged_is_refused_in_one_line() {
    let server = event_loop(Transport::Tcp);
    let endpoint = format!("tcp://{}", server.address);
    let folder = tempfile::tempdir().unwrap();
    let args = ["-c", "2", "-d", "300ms", "--rate", "100"];
    let moment = (SystemTime::now() + Duration::from_secs(1)).duration_since(UNIX_EPOCH).unwrap();
    let apart = |rank, size| {
        let (json, moment) = (folder.path().join("{rank}.json"), moment.as_secs_f64().to_string());
        let own = ["--rank", rank, "--size", size, "--start-at", &moment, "--json", json.to_str().unwrap()];
        load(&endpoint, &[&args, &own[..]].concat()).spawn().unwrap()
    };
    end_well(vec![apart("0/2", "64"), apart("1/2", "99")]);
    let refused = |names: &[&str], word: &str| {
        let paths: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
        let paths: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
        let output = run(echo_client(), &[&["merge"], &paths[..]].concat());
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{names:?}: {said}");
        assert!(said.contains(word), "{names:?} should say {word:?}: {said}");
    };
    fs::write(folder.path().join("text"), "no JSON").unwrap();
    fs::write(folder.path().join("other"), "{\"schema\": 1}").unwrap();
    refused(&["0.json", "1.json"], "differ in size: 64 and 99");
    refused(&["0.json"], "rank 1 of 2 wrote no result; --partial");
    fs::write(folder.path().join("empty"), "").unwrap();
    refused(&["0.json", "empty"], "empty: its rank wrote no result");
    // What is there is merged where that is asked for, and is no valid result.
    let (some, part) = (folder.path().join("some.json"), folder.path().join("0.json"));
    let paths =
        [some.to_str().unwrap(), part.to_str().unwrap(), folder.path().join("empty").to_str().unwrap()]
            .map(ToOwned::to_owned);
    let output = run(echo_client(), &["merge", "--partial", "--json", &paths[0], &paths[1], &paths[2]]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert_eq!(read(&some)["why"]["partial"], "rank 1 of 2 wrote no result");
    refused(&["0.json", "0.json"], "rank 0 is there twice");
    refused(&["0.json", "text"], "no result of load --json");
    refused(&["0.json", "other"], "no result of load --json");
    refused(&["0.json", "missing"], "No such file");
    let alone = folder.path().join("alone.json");
    end_well(vec![load(&endpoint, &["-d", "100ms", "--json", alone.to_str().unwrap()]).spawn().unwrap()]);
    refused(&["0.json", "alone.json"], "differ in the number of ranks: 2 and 1");
    // One that is alone is all of its run; merged it is the same result, and not to be merged again.
    let merged = folder.path().join("merged.json");
    let args = ["merge", alone.to_str().unwrap(), "--json", merged.to_str().unwrap()];
    assert!(run(echo_client(), &args).status.success());
    assert_eq!(read(&merged)["latency_us"], read(&alone)["latency_us"]);
    refused(&["merged.json"], "merged already");
}

fn a_result_on_stdout_is_all_that_is_there_and_one_line() {
    let server = event_loop(Transport::Tcp);
    let (endpoint, folder) = (format!("tcp://{}", server.address), tempfile::tempdir().unwrap());
    let meeting = meeting();
    let start = |rank: &str| {
        let args = ["-c", "2", "-d", "1s", "--barrier", &meeting, "--json", "-"];
        load(&endpoint, &args).env("PMI_RANK", rank).env("PMI_SIZE", "2").spawn().unwrap()
    };
    for (rank, output) in ends(vec![start("0"), start("1")]).into_iter().enumerate() {
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout).lines().count(), 1);
        fs::write(folder.path().join(format!("{rank}.json")), &output.stdout).unwrap();
    }
    let (output, all) = merge(folder.path(), 2, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let parts = files(folder.path(), 2);
    let parts: Vec<&str> = parts.iter().map(|path| path.to_str().unwrap()).collect();
    let printed = run(echo_client(), &[&["merge", "--json", "-"], &parts[..]].concat());
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!((&printed["valid"], &printed["latency_us"]), (&true.into(), &all["latency_us"]));
    for (args, words) in [
        (&["--json", "-", "--line"][..], "--line and --json -"),
        (&["--csv", "-"], "--csv: - is for --json"),
        (&["-c", "1048577"], "one generator holds 1048576"),
        (&["-c", "2097153", "--rank", "0/2"], "more than 1048576 each"),
    ] {
        failed(load(&endpoint, args).spawn().unwrap(), 2, words);
    }
}
