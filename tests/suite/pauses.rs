//! A client that is kept from running charges that to the server: it is seen, and no such result counts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    stage::{PATIENCE, Row, Server, activity, echo_client, within},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_client_that_was_stopped_says_so_and_has_no_valid_result_in_either_loop,
    a_server_that_is_stopped_is_not_taken_for_a_client_that_was,
    a_client_whose_cgroup_was_throttled_says_so_and_has_no_valid_result,
];

fn event_loop() -> Server {
    Row::all().into_iter().find(|row| row.model == "event-loop").unwrap().start(&[])
}

fn result(json: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap()
}

/// It has used some time: the load goes on.
fn is_loading(load: &Child) {
    let busy = |load: &Child| activity(load.id().cast_signed()).0 > Duration::from_millis(100);
    within(PATIENCE, "the load", || busy(load).then_some(()));
}

fn a_client_that_was_stopped_says_so_and_has_no_valid_result_in_either_loop() {
    let server = event_loop();
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    for more in [
        &["--engine", "mio"][..],
        &["--engine", "mio", "--think", "1ms"],
        &["--rate", "2000", "--max-lateness", "10s", "--max-outstanding", "1000000"],
    ] {
        let mut load = Command::new(echo_client());
        load.args(["load", &server.address.to_string(), "-c", "4", "-d", "3s", "--warmup", "0", "--json"]);
        let mut load = load.arg(&json).args(more).stdout(Stdio::null()).spawn().unwrap();
        is_loading(&load);
        let pid = Pid::from_raw(load.id().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        thread::sleep(Duration::from_secs(1)); // for so long it is stopped
        kill(pid, Signal::SIGCONT).unwrap();
        let status = load.wait().unwrap();
        let result = result(&json);
        assert_eq!((status.code(), &result["valid"]), (Some(3), &false.into()), "{more:?}: {result}");
        let verdicts = result["verdicts"].as_array().unwrap();
        assert!(verdicts.contains(&"client-stopped".into()), "{more:?}: {}", result["verdicts"]);
        let stopped = result["client_stopped_s"].as_f64().unwrap();
        assert!((0.3..3.0).contains(&stopped), "{more:?}: {stopped} s");
        assert!(result["why"]["client-stopped"].as_str().unwrap().contains(" was stopped for "), "{result}");
    }
}

fn a_server_that_is_stopped_is_not_taken_for_a_client_that_was() {
    let server = event_loop();
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let mut load = Command::new(echo_client());
    load.args(["load", &server.address.to_string(), "-c", "4", "-d", "2s", "--warmup", "0", "--json"]);
    let mut load = load.arg(&json).stdout(Stdio::null()).spawn().unwrap();
    is_loading(&load);
    server.signal_all(Signal::SIGSTOP);
    thread::sleep(Duration::from_millis(800)); // for so long it is stopped
    server.signal_all(Signal::SIGCONT);
    load.wait().unwrap();
    let result = result(&json);
    assert!(result["latency_us"]["max"].as_f64() > Some(700_000.0), "{result}");
    assert!(!result["verdicts"].as_array().unwrap().contains(&"client-stopped".into()), "{result}");
}

/// A cgroup whose processes have three hundredths of a processor; it is removed when this is dropped.
struct Quota(PathBuf);

impl Quota {
    /// Why there is none, where that is not allowed.
    fn new() -> Result<Self, String> {
        let name = format!("echo-suite-test-{}", std::process::id());
        let cpu = Path::new("/sys/fs/cgroup/cpu");
        let quota = match cpu.exists() {
            true => Self(cpu.join(name)),
            false => Self(Path::new("/sys/fs/cgroup").join(name)),
        };
        let made = fs::create_dir(&quota.0).and_then(|()| match cpu.exists() {
            true => fs::write(quota.0.join("cpu.cfs_quota_us"), "3000"),
            false => fs::write(quota.0.join("cpu.max"), "3000 100000"),
        });
        made.map(|()| quota).map_err(|error| format!("no cgroup with a CPU quota can be made here: {error}"))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn a_client_whose_cgroup_was_throttled_says_so_and_has_no_valid_result() {
    let quota = match Quota::new() {
        Ok(quota) => quota,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let server = event_loop();
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let script = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";
    let mut load = Command::new("sh");
    load.args(["-c", script, "sh"]).arg(&quota.0).arg(echo_client());
    load.args(["load", &server.address.to_string(), "-c", "16", "-d", "1s", "--json"]).arg(&json);
    let status = load.stdout(Stdio::null()).status().unwrap();
    let result = result(&json);
    assert_eq!((status.code(), &result["valid"]), (Some(3), &false.into()), "{result}");
    assert!(result["verdicts"].as_array().unwrap().contains(&"client-throttled".into()), "{result}");
    let throttled = &result["client_throttled"];
    assert!(throttled["times"].as_u64() > Some(0) && throttled["time_s"].as_f64() > Some(0.01), "{result}");
}
