//! No false accusation: where the machine has no time for anybody, `check` takes more time itself, and finds nothing wrong
//! with servers that are right. Who wrote them did not write `check` for them: they are contenders of comparisons.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use serde_json::Value;

use crate::{
    stage::{echo_client, lesson},
    suite::{Promise, contenders, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_right_server_in_python_is_not_accused_beside_a_burner,
    a_right_server_in_go_is_not_accused_beside_a_burner,
    a_right_server_in_c_is_not_accused_on_half_a_cpu,
    a_right_server_of_datagrams_is_not_accused_on_half_a_cpu,
];

/// What `check` is short of, and the server with it.
struct Want {
    /// What a command begins with that is short of it.
    prefix: Vec<String>,
    burner: Option<Child>,
    group: Option<PathBuf>,
}

impl Want {
    /// One CPU, which somebody else wants as well, and all of it.
    fn beside_a_burner() -> Self {
        let prefix = ["taskset", "--cpu-list", "0"].map(str::to_owned).to_vec();
        let mut burner = Command::new(&prefix[0]);
        burner.args(&prefix[1..]).args(["sh", "-c", "while :; do :; done"]).stdin(Stdio::null());
        Self { prefix, burner: Some(burner.spawn().unwrap()), group: None }
    }

    /// Half a CPU (cgroups(7)); where no such group may be made, one beside a burner.
    fn of_half_a_cpu() -> Self {
        let Some(group) = half_a_cpu() else { return Self::beside_a_burner() };
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", group.display());
        let prefix = ["sh", "-c", &enter, "sh"].map(str::to_owned).to_vec();
        Self { prefix, burner: None, group: Some(group) }
    }

    /// Has a server checked that is right.
    fn finds_nothing_wrong_with(&self, transport: &str, server: &[&str]) {
        let endpoint = format!("{transport}://127.0.0.1:{{port}}");
        let mut command = Command::new(&self.prefix[0]);
        command.args(&self.prefix[1..]).arg(echo_client());
        command.args(["check", &endpoint, "--profile", "quick", "--format", "json"]);
        let output = command.arg("--").args(server).current_dir(contenders::folder()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let told: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        let checks = told["checks"].as_array().unwrap();
        let is_odd = |check: &&Value| !["pass", "skip"].iter().any(|status| check["status"] == *status);
        let odd: Vec<&Value> = checks.iter().filter(is_odd).collect();
        assert!(odd.is_empty(), "{server:?}: {odd:#?}");
        assert!(checks.iter().any(|check| check["status"] == "pass"), "{told:#}");
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        if let Some(burner) = &mut self.burner {
            let _ = burner.kill();
            let _ = burner.wait();
        }
        if let Some(group) = &self.group {
            let _ = fs::remove_dir(group); // empty by now: all that was in it has ended
        }
    }
}

/// A new group of processes that share half a CPU, of either version of cgroups; `None` where it may not be made.
fn half_a_cpu() -> Option<PathBuf> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let name = format!("echo-check-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
    let limits =
        [("/sys/fs/cgroup", "cpu.max", "50000 100000"), ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "50000")];
    limits.into_iter().find_map(|(root, file, limit)| {
        let group = Path::new(root).join(&name);
        let is_limited = Path::new(root).join("cgroup.procs").exists()
            && fs::create_dir(&group).is_ok()
            && fs::write(group.join(file), limit).is_ok();
        if !is_limited {
            let _ = fs::remove_dir(&group);
        }
        is_limited.then_some(group)
    })
}

/// Has a contender checked, if its program is there.
fn is_right(name: &str, want: &Want) {
    let Some(server) = contenders::command(name) else { return };
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    want.finds_nothing_wrong_with("tcp", &server);
}

fn a_right_server_in_python_is_not_accused_beside_a_burner() {
    is_right("python-selectors", &Want::beside_a_burner());
}

fn a_right_server_in_go_is_not_accused_beside_a_burner() {
    is_right("go", &Want::beside_a_burner());
}

fn a_right_server_in_c_is_not_accused_on_half_a_cpu() {
    is_right("c-epoll", &Want::of_half_a_cpu());
}

fn a_right_server_of_datagrams_is_not_accused_on_half_a_cpu() {
    let twin = lesson("twin");
    Want::of_half_a_cpu().finds_nothing_wrong_with("udp", &[twin.to_str().unwrap(), "udp-none", "{port}"]);
}
