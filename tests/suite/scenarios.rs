//! `echo-client compare`: what its scenarios show, and that an experiment can be ended, finished and repeated.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    stage::{PATIENCE, Row, echo, echo_client, echo_server, within},
    suite::{
        Promise,
        compare::{has_run, is_of_the_machine, is_sound},
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    where_messages_block_a_loop_collapses_and_threads_do_not,
    where_messages_are_work_whoever_has_workers_uses_the_second_processor,
    beside_a_client_that_never_reads_the_iterative_server_starves_the_others_and_loops_do_not,
    every_scenario_runs_and_says_what_it_shows,
    a_plan_that_was_kept_repeats_the_run_and_the_run_before_it_is_kept_too,
    a_kept_plan_names_everybody_so_that_they_are_found_again,
    a_server_that_runs_already_takes_part_and_is_left_running,
    two_comparisons_do_not_write_into_one_folder,
    a_plan_that_is_written_by_hand_says_what_is_unusual_and_is_kept_whole,
    a_run_that_was_ended_is_finished_without_repeating_a_cell,
    a_client_that_is_kept_from_running_voids_the_cells_instead_of_ranking_them,
];

fn compare(results: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(echo_client());
    command.arg("compare").arg("--results").arg(results).arg("--server").arg(echo_server()).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(mut command: Command) -> (Output, String) {
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, said)
}

fn cells(results: &Path) -> Vec<Value> {
    let text = fs::read_to_string(results.join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    results["cells"].as_array().unwrap().clone()
}

/// The one cell of a contender for which this holds.
fn cell<'c>(cells: &'c [Value], contender: &str, key: &str, value: &str) -> &'c Value {
    let mut found = cells.iter().filter(|cell| cell["contender"] == contender && cell[key] == value);
    found.next().unwrap_or_else(|| panic!("no {contender} with {key} {value}: {cells:?}"))
}

/// Its rate, also where others kept the client from running: the tests share the machine.
fn rate(cell: &Value) -> f64 {
    is_sound(cell);
    cell["messages_per_s"].as_f64().unwrap()
}

fn where_messages_block_a_loop_collapses_and_threads_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let args =
        ["--scenario", "sleep", "--blocks", "1", "-c", "8", "-m", "event-loop,thread,fork,async --offload"];
    let (output, _) = run(compare(folder.path(), &args));
    has_run(&output);
    let cells = cells(folder.path());
    let of = |name| rate(cell(&cells, name, "work", "sleep:5ms"));
    for name in ["thread", "fork", "async --offload"] {
        assert!(of(name) > 3.0 * of("event-loop"), "{name}: {} against {}", of(name), of("event-loop"));
    }
}

fn where_messages_are_work_whoever_has_workers_uses_the_second_processor() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--scenario", "cpu", "--blocks", "1", "-c", "8", "-m", "event-loop,thread,fork"];
    let (output, _) = run(compare(folder.path(), &args));
    has_run(&output);
    let cells = cells(folder.path());
    let busy = |name| cell(&cells, name, "work", "cpu:2ms")["server_busy"].as_f64().unwrap();
    // Of two processors, the loop can use one; how much of them others leave is the machine's affair.
    assert!(busy("event-loop") <= 1.05, "{}", busy("event-loop"));
    let price = |name| cell(&cells, name, "work", "cpu:2ms")["server_cpu_us_per_message"].as_f64().unwrap();
    for name in ["event-loop", "thread", "fork"] {
        assert!(price(name) > 1999.0, "the work is done: {name} {}", price(name));
    }
}

fn beside_a_client_that_never_reads_the_iterative_server_starves_the_others_and_loops_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--scenario", "stall", "--blocks", "1", "--rate", "100", "-m", "iterative,event-loop,thread"];
    let (output, said) = run(compare(folder.path(), &args));
    // Where the machine is busy, sends may be late, and no cell counts; who is answered is known all the same.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    let cells = cells(folder.path());
    for beside in ["stall", "dribble"] {
        let starving = cell(&cells, "iterative", "beside", beside);
        assert!(starving["reason"].as_str().unwrap().starts_with("starved: 0 %"), "{starving}");
        for name in ["event-loop", "thread"] {
            let served = cell(&cells, name, "beside", beside);
            assert!(served["answered_share"].as_f64() >= Some(0.99), "{served}");
        }
    }
    assert!(cell(&cells, "iterative", "beside", "nobody")["answered_share"].as_f64() >= Some(0.99));
    assert!(said.contains("iterative: starved"), "{said}");
}

fn every_scenario_runs_and_says_what_it_shows() {
    let folder = tempfile::tempdir().unwrap();
    let short = ["--blocks", "1", "--duration", "100ms", "--warmup", "20ms", "--connections", "4"];
    let args = ["--scenario", "all", "--models", "event-loop"];
    let (output, said) = run(compare(folder.path(), &[&args[..], &short].concat()));
    has_run(&output);
    let names: BTreeSet<String> =
        cells(folder.path()).iter().map(|cell| cell["scenario"].as_str().unwrap().to_owned()).collect();
    let all = ["churn", "cpu", "echo", "fair", "idle", "overload", "sleep", "stall", "udp"];
    assert_eq!(names, all.map(str::to_owned).into());
    assert!(said.lines().all(|line| line.chars().count() <= 90), "{said}");
    // Where others use the machine as well, the client may be kept from running.
    cells(folder.path()).iter().filter(|cell| cell["drive"] != "search").for_each(is_sound);
    let report = fs::read_to_string(folder.path().join("report/report.md")).unwrap();
    assert!(all.iter().all(|name| report.contains(name)), "{report}");
}

fn a_plan_that_was_kept_repeats_the_run_and_the_run_before_it_is_kept_too() {
    let folder = tempfile::tempdir().unwrap();
    let args =
        ["--scenario", "echo,churn", "-m", "event-loop,thread", "-b", "2", "-d", "50ms", "--warmup", "20ms"];
    let (output, _) = run(compare(folder.path(), &[&args[..], &["-c", "2,3", "--seed", "7"]].concat()));
    has_run(&output);
    let order = || -> Vec<String> {
        let key = |cell: &Value| {
            let Value::Object(cell) = cell else { panic!("{cell}") };
            ["block", "scenario", "contender", "connections"].map(|key| cell[key].to_string()).join(" ")
        };
        cells(folder.path()).iter().map(key).collect()
    };
    let first = order();
    assert_eq!(first.len(), 2 * 2 * 2 * 2);
    let plan = folder.path().join("plan.toml");
    let kept = fs::read_to_string(&plan).unwrap();
    let (output, _) = run(compare(folder.path(), &["--plan", plan.to_str().unwrap()]));
    has_run(&output);
    assert_eq!(order(), first);
    assert_eq!(fs::read_to_string(&plan).unwrap(), kept);
    let earlier: Vec<_> = fs::read_dir(folder.path().join("earlier")).unwrap().flatten().collect();
    assert_eq!(earlier.len(), 1, "{earlier:?}");
    assert_eq!(fs::read_to_string(earlier[0].path().join("plan.toml")).unwrap(), kept);
    assert!(earlier[0].path().join("cells.csv").exists());
}

fn a_kept_plan_names_everybody_so_that_they_are_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = echo_server().display();
    let mine = format!("mine={server} --model thread udp://127.0.0.1:{{port}}");
    let models = "prefork/shared,event-loop --groups {scratch}/groups.json,thread-pool --workers 3";
    let short = ["-b", "1", "-d", "50ms", "--warmup", "20ms", "-c", "2", "--no-calls"];
    let args = ["--scenario", "udp", "--models", models, "--with", &mine];
    let names = || -> Vec<String> {
        let told = |cell: &Value| {
            let reason = cell["reason"].as_str().unwrap();
            format!("{} {:?}", cell["contender"], if is_of_the_machine(reason) { "" } else { reason })
        };
        cells(folder.path()).iter().map(told).collect()
    };
    let (output, _) = run(compare(folder.path(), &[&args[..], &short].concat()));
    has_run(&output);
    let first = names();
    assert!(first.len() == 4 && first.iter().all(|name| name.ends_with("\"\"")), "{first:?}");
    let plan = folder.path().join("plan.toml");
    let (output, _) = run(compare(folder.path(), &["--plan", plan.to_str().unwrap()]));
    has_run(&output);
    assert_eq!(names(), first);
    assert!(!folder.path().join("scratch").exists());
}

fn a_server_that_runs_already_takes_part_and_is_left_running() {
    let folder = tempfile::tempdir().unwrap();
    let row = Row::all().into_iter().find(|row| row.model == "event-loop").unwrap();
    let server = row.start(&[]);
    let with = format!("there=tcp://{}", server.address);
    let args =
        ["--scenario", "echo,churn", "-m", "thread", "--with", &with, "-c", "2", "-b", "1", "-d", "50ms"];
    let (output, said) = run(compare(folder.path(), &args));
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let cells = cells(folder.path());
    assert!(rate(cell(&cells, "there", "scenario", "echo")) > 0.0);
    let unknown = cell(&cells, "there", "scenario", "churn")["reason"].as_str().unwrap().to_owned();
    assert!(unknown.contains("nobody knows what it costs"), "{unknown}");
    echo(&mut server.connect(), b"still here");
}

fn two_comparisons_do_not_write_into_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["-m", "event-loop", "-b", "500", "-d", "50ms", "-c", "2"];
    let mut running = compare(folder.path(), &args).spawn().unwrap();
    within(PATIENCE, "its first rows", || folder.path().join("cells.csv").exists().then_some(()));
    let (output, _) = run(compare(folder.path(), &args));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("another compare"), "{said}");
    kill(Pid::from_raw(running.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = within(PATIENCE, "the end", || running.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
}

fn a_plan_that_is_written_by_hand_says_what_is_unusual_and_is_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("mine.toml");
    let mine = format!("{} --model thread tcp://127.0.0.1:{{port}}", echo_server().display());
    let text = format!(
        "blocks = 1\nduration = '50ms'\n[with]\nmine = \"{mine}\"\n\
         [[trial]]\nscenario = 'echo'\ncontenders = ['event-loop', 'mine']\nconnections = [2]\n"
    );
    fs::write(&plan, &text).unwrap();
    let results = folder.path().join("results");
    let (output, _) = run(compare(&results, &["--plan", plan.to_str().unwrap()]));
    has_run(&output);
    let names: BTreeSet<String> =
        cells(&results).iter().map(|cell| cell["contender"].as_str().unwrap().into()).collect();
    assert_eq!(names, ["event-loop", "mine"].map(str::to_owned).into());
    let kept = fs::read_to_string(results.join("plan.toml")).unwrap();
    assert!(kept.contains("warmup = ") && kept.contains("server_cpus = "), "{kept}");
    fs::write(&plan, text.replace("connections", "conections")).unwrap();
    let (output, _) = run(compare(&results, &["--plan", plan.to_str().unwrap()]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("mine.toml: line 8") && said.contains("conections"), "{said}");
}

fn a_run_that_was_ended_is_finished_without_repeating_a_cell() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["-m", "event-loop,thread", "-b", "12", "-d", "50ms", "--warmup", "20ms", "-c", "2"];
    let mut running = compare(folder.path(), &args).spawn().unwrap();
    let rows = || fs::read_to_string(folder.path().join("cells.csv")).unwrap_or_default();
    within(PATIENCE, "three cells", || (rows().lines().count() > 3).then_some(()));
    kill(Pid::from_raw(running.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = within(PATIENCE, "the end", || running.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
    let before = rows();
    // A machine that lost its power leaves half a line.
    fs::write(folder.path().join("cells.csv"), format!("{before}echo,1,event-l")).unwrap();
    let (output, _) = run(compare(folder.path(), &["--resume"]));
    has_run(&output);
    assert!(rows().starts_with(&before), "what was measured stays");
    let turns: BTreeSet<String> =
        cells(folder.path()).iter().map(|cell| format!("{} {}", cell["block"], cell["contender"])).collect();
    assert_eq!((turns.len(), cells(folder.path()).len()), (24, 24));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|it| it.file_name()).collect();
    assert!(!left.iter().any(|name| name == "scratch" || name == "plan.new"), "{left:?}");
    let rows_of_another_version = rows().replacen("server_cpu_from,", "", 1);
    let (output, said) = run(compare(folder.path(), &["--resume"]));
    has_run(&output); // whether its cells count or not
    assert!(said.contains("nothing is left to run"), "{said}");
    // Where there is something left, rows of other columns are not mixed with ours.
    let header_alone = rows_of_another_version.lines().next().unwrap().to_owned() + "\n";
    fs::write(folder.path().join("cells.csv"), &header_alone).unwrap();
    let (output, _) = run(compare(folder.path(), &["--resume"]));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && complaint.contains("another version's"), "{complaint}");
    assert_eq!(rows(), header_alone);
}

/// Somebody who uses a processor for nothing.
struct Burner(Child);

impl Burner {
    fn on(cpu: usize) -> Self {
        let mut shell = Command::new("taskset");
        Self(shell.args(["-c", &cpu.to_string(), "sh", "-c", "while :; do :; done"]).spawn().unwrap())
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_client_that_is_kept_from_running_voids_the_cells_instead_of_ranking_them() {
    let folder = tempfile::tempdir().unwrap();
    let last = std::thread::available_parallelism().unwrap().get() - 1;
    let args = ["-m", "event-loop,thread", "-c", "64", "-b", "2", "-d", "400ms", "--client-cpus"];
    let last_cpu = last.to_string();
    let args = [&args[..], &[&last_cpu]].concat();
    let mut seen = Vec::new();
    // Where others use the machine as well, the servers may be kept from running no less than the client; not always.
    let is_void = (1..=10).any(|_| {
        let burners = [(); 3].map(|()| Burner::on(last));
        let (output, said) = run(compare(folder.path(), &args));
        drop(burners);
        assert!(!said.contains("faster"), "{said}");
        let reason = |cell: &Value| cell["reason"].as_str().unwrap().to_owned();
        seen = cells(folder.path()).iter().map(reason).collect();
        let of_client = |reason: &String| reason.starts_with("client-bound") && reason.contains("to run");
        assert!(output.status.code() == Some(3) || seen.iter().any(String::is_empty), "{seen:?}");
        seen.iter().all(of_client)
    });
    assert!(is_void, "{seen:?}");
}
