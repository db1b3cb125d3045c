//! The machine and the settings that a result was made with; they travel with it.

use std::{env, ffi::OsString, fs, os::unix::ffi::OsStrExt};

use arguments::CpuList;
use nix::sys::{
    resource::{Resource, getrlimit},
    utsname::uname,
};
use procfs::{CpuInfo, Current};
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
        let cpus = CpuInfo::current().ok(); // the machine's, wherever this thread may run
        let word = |of: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            name.as_ref().map_or(String::new(), |name| of(name).to_string_lossy().into_owned())
        };
        Self {
            host: word(|n| n.nodename()),
            kernel: format!("{} {}", word(|n| n.sysname()), word(|n| n.release())),
            machine: word(|n| n.machine()),
            cpu_model: cpus.as_ref().and_then(|cpus| cpus.model_name(0).map(str::to_owned)),
            cpus: cpus.map_or(1, |cpus| cpus.num_cores()),
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
    env::args_os().map(quoted).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it; what is not UTF-8 (a path may be any bytes) in the form of bash, zsh and POSIX.1-2024.
fn quoted(word: OsString) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+[]".contains(c);
    match word.into_string() {
        Ok(word) if word.chars().all(plain) && !word.is_empty() => word,
        Ok(word) => format!("'{}'", word.replace('\'', "'\\''")),
        Err(word) => format!("$'{}'", word.as_bytes().escape_ascii()),
    }
}

fn sysctl(name: &str) -> Option<String> {
    let value = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn steal_ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().next()?.split_whitespace().nth(8)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::ffi::OsStringExt, process::Command};

    use super::*;

    #[test]
    fn the_machine_has_its_processors_wherever_the_client_is_confined_to() {
        let all = Environment::read().cpus;
        let first = CpuList::allowed().unwrap().split_last(1).1;
        let confined = std::thread::spawn(move || first.confine().map(|()| Environment::read().cpus));
        assert_eq!(confined.join().unwrap().unwrap(), all);
    }

    #[test]
    fn a_quoted_word_is_read_back_by_a_shell_whatever_its_bytes() {
        let words: [&[u8]; 5] =
            [b"plain-1.json", b"", b"it's $HOME", "größe".as_bytes(), b"\xff'\\\" \n$x\x01"];
        for word in words {
            let word = OsString::from_vec(word.into());
            let script = format!("printf %s {}", quoted(word.clone()));
            let Ok(read) = Command::new("bash").args(["-c", &script]).output() else { return };
            assert_eq!(OsString::from_vec(read.stdout), word, "{script}");
        }
    }
}
