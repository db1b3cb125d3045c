//! The machine and the settings that a result was made with; they travel with it.

use std::{env, fs};

use arguments::CpuList;
use nix::sys::{
    resource::{Resource, getrlimit},
    utsname::uname,
};
use serde::Serialize;

/// Where, and with what, something was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    host: String,
    kernel: String,
    machine: String,
    cpu_model: Option<String>,
    cpus: usize,
    client_cpus: Option<CpuList>,
    somaxconn: Option<String>,
    ip_local_port_range: Option<String>,
    descriptors: Option<u64>,
    version: &'static str,
    steal_ticks: Option<u64>,
}

impl Environment {
    /// Reads it. What the system does not tell is left out.
    pub fn read() -> Self {
        let name = uname().ok();
        let word = |of: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            name.as_ref().map_or(String::new(), |name| of(name).to_string_lossy().into_owned())
        };
        Self {
            host: word(|n| n.nodename()),
            kernel: format!("{} {}", word(|n| n.sysname()), word(|n| n.release())),
            machine: word(|n| n.machine()),
            cpu_model: cpu_model(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            client_cpus: CpuList::allowed().ok(),
            somaxconn: sysctl("net/core/somaxconn"),
            ip_local_port_range: sysctl("net/ipv4/ip_local_port_range"),
            descriptors: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            version: env!("CARGO_PKG_VERSION"),
            steal_ticks: steal_ticks(),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let model = self.cpu_model.as_deref().unwrap_or("unknown processor");
        format!("{}, {} x {model}", self.kernel, self.cpus)
    }

    /// Notes what the hypervisor took away since this was read (proc(5), /proc/stat), in clock ticks.
    pub fn end(&mut self) {
        self.steal_ticks = steal_ticks().zip(self.steal_ticks).map(|(now, then)| now.saturating_sub(then));
    }
}

/// The command line, as it can be typed again.
pub fn command_line() -> String {
    let quoted = |word: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+[]".contains(c);
        if word.chars().all(plain) && !word.is_empty() {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    env::args().map(quoted).collect::<Vec<_>>().join(" ")
}

fn cpu_model() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn sysctl(name: &str) -> Option<String> {
    let value = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn steal_ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().next()?.split_whitespace().nth(8)?.parse().ok()
}
