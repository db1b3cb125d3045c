//! `echo-client compare`, end to end.

use std::{
    collections::BTreeSet,
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

use crate::{
    stage::{PATIENCE, Row, children, echo_client, echo_server, lesson, within},
    suite::{Promise, contenders, liars, promises},
};

pub const PROMISES: &[Promise] = promises![
    every_model_is_compared_and_every_cell_is_a_row,
    anybodys_server_takes_part_and_a_liar_has_no_figure,
    a_contender_is_a_model_with_the_options_that_follow_it,
    one_word_means_every_model_in_every_way,
    in_churn_every_model_takes_part_and_accepts_whom_the_client_opened,
    idle_connections_have_a_price_in_memory_and_are_all_proved_to_be_served,
    a_server_whose_answers_take_longer_than_a_slice_has_its_figure,
    a_duet_of_churns_compares_the_price_of_a_connection,
    a_duet_of_one_with_itself_is_even,
    an_interrupted_comparison_keeps_its_cells_and_leaves_no_process,
    the_second_signal_leaves_no_server,
    where_both_sides_share_processors_the_table_says_so,
    over_udp_the_servers_cpu_time_is_compared_and_every_datagram_accounted_for,
    every_model_that_serves_udp_takes_part_in_every_way_and_counts_what_the_client_sent,
    a_duet_over_udp_may_be_of_bursts,
    a_server_that_forgets_over_udp_or_answers_wrongly_has_no_figure,
];

fn compare(results: &Path, more: &[&str]) -> Command {
    compare_for("150ms", results, more)
}

fn compare_for(duration: &str, results: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(echo_client());
    command.args(["compare", "--duration", duration, "--warmup", "50ms", "--results"]).arg(results);
    command.arg("--server").arg(echo_server()).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(mut command: Command) -> (Output, String) {
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, said)
}

fn read(results: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(results.join("results.json")).unwrap()).unwrap()
}

/// The raw rows, which are there as their cells end.
fn rows(results: &Path) -> Vec<String> {
    let csv = fs::read_to_string(results.join("cells.csv")).unwrap_or_default();
    csv.lines().skip(1).map(Into::into).collect()
}

fn every_model_is_compared_and_every_cell_is_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let at = &folder.path().join("new/results");
    let (output, said) = run(compare(at, &["--connections", "1,8", "--blocks", "2"]));
    has_run(&output);
    assert!(said.lines().all(|line| line.chars().count() <= 90), "{said}");

    let results = read(at);
    let models: BTreeSet<String> = Row::all().into_iter().map(|row| row.model).collect();
    let cells = results["cells"].as_array().unwrap();
    assert_eq!(cells.len(), models.len() * 2 * 2);
    assert_eq!(rows(at).len(), cells.len());
    for cell in cells {
        let (name, connections) =
            (cell["contender"].as_str().unwrap(), cell["connections"].as_u64().unwrap());
        if name == "iterative" && connections > 1 {
            assert_eq!(cell["reason"], "one client at a time");
            continue;
        }
        if is_of_the_machine(cell["reason"].as_str().unwrap()) {
            continue;
        }
        is_sound(cell);
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
        // A pause of the machine at the edge of so short a slice is on one side of the law alone.
        let slices = cell["slices"].as_str().unwrap().split(' ').count() as f64;
        let slice_us = cell["measured_s"].as_f64().unwrap() * 1e6 / slices;
        if cell["max_us"].as_f64() < Some(slice_us * 2.0 / 15.0) {
            assert!((cell["little"].as_f64().unwrap() - 1.0).abs() < 0.3, "Little's law: {cell}");
        }
    }
}

fn anybodys_server_takes_part_and_a_liar_has_no_figure() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let honest = lesson("03_iterative");
    let honest = format!("lesson={} 127.0.0.1:{{port}}", honest.display());
    let liar = format!("liar=tcp://{}", liars::start(liars::flips_a_bit));
    let args =
        ["--models", "event-loop", "--with", &honest, "--with", &liar, "--size", "10000", "--no-calls"];
    let more = ["--connections", "1", "--blocks", "2"];
    let (output, said) = run(compare_for("1s", at, &[&args[..], &more].concat()));
    assert_eq!(output.status.code(), Some(1), "a wrong echo is no valid run: {said}");
    for cell in read(at)["cells"].as_array().unwrap() {
        match cell["contender"].as_str().unwrap() {
            "liar" if cell["block"] == 1 => {
                assert!(cell["reason"].as_str().unwrap().contains(" x wrong: "), "{cell}");
                assert_eq!(cell["cause"], "server", "{cell}");
            }
            "liar" => {}
            _ => is_sound(cell),
        }
    }
    assert!(said.contains("liar: 1 x wrong"), "{said}");
}

/// A cell may be void because others use the machine as well: the client was kept from running, or from its schedule.
pub fn is_of_the_machine(reason: &str) -> bool {
    OF_THE_MACHINE.iter().any(|kind| reason.starts_with(kind))
}

const OF_THE_MACHINE: [&str; 5] =
    ["client-bound", "client-stopped", "client-throttled", "schedule-late", "Little's law"];

/// Nothing is wrong with a cell but what the machine was too busy for.
#[track_caller]
pub fn is_sound(cell: &Value) {
    let reason = cell["reason"].as_str().unwrap();
    assert!(reason.is_empty() || is_of_the_machine(reason), "{cell}");
}

/// A comparison has run to its end; with status 3 only where the machine was too busy for a figure.
#[track_caller]
pub fn has_run(output: &Output) {
    let [said, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    // A narrow table folds its words, at hyphens too.
    let unfolded = |text: &str| text.split_whitespace().collect::<String>();
    let is_of_the_machine = OF_THE_MACHINE.iter().any(|reason| unfolded(&said).contains(&unfolded(reason)));
    let is_well = output.status.success() || (output.status.code() == Some(3) && is_of_the_machine);
    assert!(is_well, "{:?}: {said}{stderr}", output.status);
}

fn a_contender_is_a_model_with_the_options_that_follow_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let models = "thread-pool/queue --workers 4 --queue 7,thread-pool/queue,event-loop --max-connections 1";
    let (output, said) =
        run(compare(at, &["--models", models, "--connections", "3", "--blocks", "1", "--seed", "2"]));
    assert_eq!(output.status.code(), Some(3), "one of them lets too few in: {said}");
    let results = read(at);
    let cell = |name: &str| {
        let mut cells = results["cells"].as_array().unwrap().iter();
        cells.find(|cell| cell["contender"] == name).unwrap_or_else(|| panic!("no {name}: {results}")).clone()
    };
    let told = cell("thread-pool/queue --workers 4 --queue 7");
    is_sound(&told);
    assert!(told["workers"].is_null(), "{told}");
    let threads = |cell: &Value| cell["threads"].as_u64().unwrap();
    assert_eq!(threads(&told), threads(&cell("thread-pool/queue")) + 1, "a worker more: {results}");
    assert_eq!(cell("thread-pool/queue")["workers"], 3);
    assert_ne!(cell("event-loop --max-connections 1")["reason"], "", "its option was handed over: {results}");
    assert!(said.contains("thread-pool/queue --workers 4 --queue 7  "), "{said}");
}

fn one_word_means_every_model_in_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (output, _) = run(compare(at, &["--models", "all", "--connections", "1", "--blocks", "1"]));
    has_run(&output);
    let results = read(at);
    let cells = results["cells"].as_array().unwrap().iter();
    let names: Vec<String> = cells.map(|cell| cell["contender"].as_str().unwrap().into()).collect();
    let way = |row: Row| [Some(row.model), row.dispatch].into_iter().flatten().collect::<Vec<_>>().join("/");
    let ways: BTreeSet<String> = Row::all().into_iter().map(way).collect();
    assert_eq!(names.len(), ways.len(), "{names:?}");
    assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), ways);
}

fn in_churn_every_model_takes_part_and_accepts_whom_the_client_opened() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (output, said) = run(compare(at, &["--scenario", "churn", "--connections", "8", "--blocks", "1"]));
    has_run(&output);
    let results = read(at);
    assert_eq!(results["plan"]["trial"][0]["scenario"], "churn");
    let cells = results["cells"].as_array().unwrap();
    let models: BTreeSet<String> = Row::all().into_iter().map(|row| row.model).collect();
    assert_eq!(cells.len(), models.len());
    for cell in cells {
        is_sound(cell);
        assert_eq!(cell["served"], 8, "{cell}");
        assert_eq!(cell["workers"], Value::Null, "a pool has as many workers as it pleases: {cell}");
        assert_eq!((&cell["accepted"], &cell["closed"]), (&cell["opened"], &cell["opened"]), "{cell}");
        assert!(cell["opened"].as_u64() > Some(8), "{cell}");
        let figures = [
            "connections_per_s",
            "connect_p50_us",
            "server_cpu_us_per_connection",
            "server_cpu_us_per_message",
        ];
        for figure in figures {
            assert!(cell[figure].as_f64() > Some(0.0), "{figure}: {cell}");
        }
        let from = cell["server_cpu_from"].as_str();
        assert!(from == Some("cgroup") || from == Some("proc"), "it is told who has told it: {cell}");
    }
    let cpu = |model: &str| {
        let cell = cells.iter().find(|cell| cell["contender"] == model).unwrap();
        cell["server_cpu_us_per_connection"].as_f64().unwrap()
    };
    assert!(cpu("fork") > 1.5 * cpu("event-loop"), "ended children are counted: {results}");
    assert!(said.contains("conns/s"), "{said}");
}

fn idle_connections_have_a_price_in_memory_and_are_all_proved_to_be_served() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let args = ["--scenario", "idle", "--connections", "900", "--blocks", "1"];
    let (output, said) = run(compare(at, &args));
    has_run(&output);
    let results = read(at);
    let price = |model: &str| {
        let mut cells = results["cells"].as_array().unwrap().iter();
        let cell = cells.find(|cell| cell["contender"] == model).unwrap();
        is_sound(cell);
        assert_eq!((&cell["established"], &cell["served"]), (&900.into(), &900.into()), "{cell}");
        assert_eq!((&cell["accepted"], &cell["closed"]), (&916.into(), &916.into()), "{cell}");
        assert!(cell["messages_per_s"].as_f64() > Some(0.0), "the busy ones are served: {cell}");
        cell["bytes_per_connection"].as_f64().unwrap()
    };
    let (event_loop, thread, fork) = (price("event-loop"), price("thread"), price("fork"));
    assert!(event_loop < thread && thread < fork, "{event_loop}, {thread}, {fork}");
    assert!(fork > 10_000.0, "{fork}");
    assert_eq!(results["cells"][0]["connections"], 900);
    assert!(said.contains("900 idle connections, and 16 busy"), "{said}");
    assert!(said.contains("left out: iterative (one client at a time)"), "{said}");
}

fn a_server_whose_answers_take_longer_than_a_slice_has_its_figure() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--models", "event-loop --work sleep:45ms", "-c", "1", "--blocks", "1", "--no-calls"];
    let (output, said) = run(compare_for("300ms", folder.path(), &args));
    has_run(&output);
    let cell = &read(folder.path())["cells"][0];
    if is_of_the_machine(cell["reason"].as_str().unwrap()) {
        return;
    }
    is_sound(cell);
    let rate = cell["messages_per_s"].as_f64().unwrap();
    assert!((5.0..30.0).contains(&rate), "one answer each 45 ms: {said}");
}

/// The ratio of a figure of the only pair, with its interval.
fn ratio_of_the_pair(results: &Value, figure: &str) -> [f64; 3] {
    let [pair] = &results["pairs"].as_array().unwrap()[..] else { panic!("one pair: {results}") };
    let row = pair["figures"].as_array().unwrap().iter().find(|row| row["name"] == figure);
    let ratio = &row.unwrap_or_else(|| panic!("{figure}: {pair}"))["ratio"];
    ["low", "middle", "high"].map(|name| ratio[name].as_f64().unwrap())
}

/// Plays a duet again and again until both have figures: others keep the client from running now and then.
fn judged(duet: &[&str]) -> (Value, String) {
    within(PATIENCE, "figures of both", || {
        let folder = tempfile::tempdir().unwrap();
        let (output, said) = run(compare(folder.path(), duet));
        has_run(&output);
        output.status.success().then(|| (read(folder.path()), said))
    })
}

fn a_duet_of_churns_compares_the_price_of_a_connection() {
    let (results, said) =
        judged(&["--duet", "fork", "thread-pool --workers 4", "--scenario", "churn", "-c", "8", "-b", "3"]);
    let [_, price, _] = ratio_of_the_pair(&results, "server CPU us/connection");
    assert!(price > 1.0, "a process costs more than a turn of a thread: {said}");
    assert!(said.contains("server CPU us/connection"), "{said}");
}

fn a_duet_of_one_with_itself_is_even() {
    let (results, said) =
        judged(&["--duet", "event-loop", "event-loop", "--connections", "8", "--blocks", "4"]);
    assert_eq!(results["pairs"][0]["names"], serde_json::json!(["event-loop", "event-loop (again)"]));
    for figure in ["messages/s", "server CPU us/message"] {
        // An interval misses the true ratio now and then, as it says; by a quarter it does not.
        let [low, middle, high] = ratio_of_the_pair(&results, figure);
        assert!(low < 1.25 && high > 0.8 && low <= middle && middle <= high, "{figure}: {said}");
    }
    assert!(said.contains("server CPU us/message"), "{said}");
}

fn an_interrupted_comparison_keeps_its_cells_and_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut running =
        compare(at, &["--models", "fork,thread", "--connections", "4", "--blocks", "500"]).spawn().unwrap();
    let pid = running.id().cast_signed();
    within(PATIENCE, "three cells", || (rows(at).len() > 2).then_some(()));
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
    let results = read(at);
    assert_eq!(results["interrupted"], true);
    let kept = results["cells"].as_array().unwrap();
    assert!(kept.len() >= 3, "{results}");
    kept.iter().for_each(is_sound);
    assert_eq!(rows(at).len(), kept.len());
}

fn the_second_signal_leaves_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let args = ["--models", "event-loop", "--connections", "4", "--blocks", "500"];
    let mut running = compare(at, &args).spawn().unwrap();
    let pid = running.id().cast_signed();
    within(PATIENCE, "the first cells", || at.join("cells.csv").exists().then_some(()));
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

fn where_both_sides_share_processors_the_table_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--models", "event-loop", "--connections", "4", "--blocks", "1"];
    let cpus = ["--server-cpus", "0", "--client-cpus", "0"];
    let (_, said) = run(compare(folder.path(), &[&args[..], &cpus].concat()));
    assert!(said.contains("share processors"), "{said}");
}

/// Compares programs over UDP that are given like `name=command`; the rows by their names, and what was said.
fn over_udp(with: &[String], more: &[&str]) -> (Output, String, Value) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut command = compare_for("500ms", at, more);
    with.iter().for_each(|program| {
        command.args(["--with", program]);
    });
    let (output, said) = run(command);
    let results = read(at);
    (output, said, results)
}

fn yardstick(name: &str) -> String {
    format!("{name}={} {{port}}", contenders::over_udp().display())
}

fn over_udp_the_servers_cpu_time_is_compared_and_every_datagram_accounted_for() {
    let with = [yardstick("c"), yardstick("same@udp")];
    let (output, said, results) =
        over_udp(&with, &["--scenario", "udp", "--models", "none", "--connections", "1,8", "--blocks", "1"]);
    has_run(&output);
    let cells = results["cells"].as_array().unwrap();
    assert_eq!((cells.len(), &results["plan"]["trial"][0]["scenario"]), (4, &"udp".into()), "{results}");
    for cell in cells {
        assert!(["c@udp", "same@udp"].contains(&cell["contender"].as_str().unwrap()), "{cell}");
        is_sound(cell);
        assert_eq!(cell["served"], cell["connections"], "{cell}");
        assert_eq!(
            (&cell["lost"], &cell["duplicated"], &cell["accepted"]),
            (&0.into(), &0.into(), &Value::Null)
        );
        assert!(cell["sent"].as_u64() >= cell["messages"].as_u64(), "{cell}");
        for figure in ["messages_per_s", "p50_us", "server_cpu_us_per_message", "client_cpu_us_per_message"] {
            assert!(cell[figure].as_f64() > Some(0.0), "{figure}: {cell}");
        }
    }
    assert!(said.contains("8 clients") && said.contains("the server's CPU time a datagram"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 90), "{said}");
}

fn every_model_that_serves_udp_takes_part_in_every_way_and_counts_what_the_client_sent() {
    let args = ["--models", "all@udp", "--connections", "4", "--blocks", "1"];
    let (output, _, results) = over_udp(&[], &args);
    has_run(&output);
    let cells = results["cells"].as_array().unwrap();
    assert!(cells.iter().any(|cell| cell["contender"] == "event-loop@udp"), "{results}");
    for cell in cells.iter().filter(|cell| !is_of_the_machine(cell["reason"].as_str().unwrap())) {
        is_sound(cell);
        assert_eq!((&cell["datagrams_in"], &cell["datagrams_out"]), (&cell["sent"], &cell["sent"]), "{cell}");
        assert!(cell["messages_per_s"].as_f64() > Some(0.0), "{cell}");
    }
}

fn a_duet_over_udp_may_be_of_bursts() {
    let with = [yardstick("a@udp"), yardstick("b")];
    let args = ["--scenario", "udp", "--duet", "a", "b@udp", "-c", "4", "-b", "3", "--burst", "16"];
    let (output, said, results) = over_udp(&with, &args);
    has_run(&output);
    assert_eq!(results["pairs"][0]["names"], serde_json::json!(["a@udp", "b@udp"]));
    assert_eq!(
        (&results["cells"][5]["block"], &results["plan"]["trial"][0]["burst"]),
        (&3.into(), &16.into())
    );
    assert!(said.contains("server CPU us/message") && said.contains("bursts of 16"), "{said}");
}

fn a_server_that_forgets_over_udp_or_answers_wrongly_has_no_figure() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("liar.pl");
    fs::write(&script, LIAR).unwrap();
    if Command::new("perl").args(["-MIO::Socket::INET", "-e", "1"]).status().is_ok_and(|it| it.success()) {
        let liar = |name: &str| format!("{name}@udp=perl {} {name} {{port}}", script.display());
        let with = ["honest", "wrong", "forgets"].map(liar);
        let (output, said, results) = over_udp(
            &with,
            &["--scenario", "udp", "--models", "none", "--connections", "4", "--blocks", "1"],
        );
        let reason = |name: &str| {
            let mut cells = results["cells"].as_array().unwrap().iter();
            let cell = cells.find(|cell| cell["contender"] == format!("{name}@udp")).unwrap();
            cell["reason"].as_str().unwrap().to_owned()
        };
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(reason("honest"), "", "{said}");
        assert!(reason("wrong").contains(" x wrong: connection "), "{}", reason("wrong"));
        assert!(reason("forgets").contains(" lost and 0 late of "), "{}", reason("forgets"));
    } else {
        eprintln!("skipped: there is no perl with IO::Socket::INET");
    }
}

/// An echo over UDP in Perl, or a liar.
const LIAR: &str = "
use IO::Socket::INET;
my ($how, $port) = @ARGV;
my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'udp') or die;
while (defined(my $client = $server->recv(my $said, 65536))) {
    my $lies = ++$heard % 10 == 0;
    next if $how eq 'forgets' && $lies;
    substr($said, 40, 1) ^= 'x' if $how eq 'wrong' && $lies;
    $server->send($said, 0, $client);
}
";
