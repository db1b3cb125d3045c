//! `confined`: becomes another program, as somebody else and under limits. The checks start servers by it; what a process
//! does to itself before it becomes another needs no code between a fork and an exec.

use std::{os::unix::process::CommandExt, process::Command};

use clap::Args;
use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::Signal,
    },
    unistd::{Gid, Uid, getppid, setgid, setgroups, setuid},
};

use super::{Failure, Outcome};

/// Become another program under limits.
#[derive(Debug, Args)]
pub struct Confined {
    /// RLIMIT_NOFILE
    #[arg(long)]
    descriptors: Option<u64>,

    /// RLIMIT_NPROC
    #[arg(long)]
    processes: Option<u64>,

    /// RLIMIT_AS
    #[arg(long)]
    memory: Option<u64>,

    /// The user and the group, by number
    #[arg(long, value_name = "UID:GID", value_parser = user)]
    user: Option<(u32, u32)>,

    /// Who starts it: the process that it is not to outlive
    #[arg(long)]
    parent: i32,

    /// A program that starts it, and its words, one each
    #[arg(long, allow_hyphen_values = true)]
    behind: Vec<String>,

    /// The program and its words
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Confined {
    /// Returns only where that cannot be.
    pub fn run(self) -> Outcome {
        let limits = [
            (Resource::RLIMIT_CORE, Some(0)),
            (Resource::RLIMIT_NOFILE, self.descriptors),
            (Resource::RLIMIT_NPROC, self.processes),
            (Resource::RLIMIT_AS, self.memory),
        ];
        for (resource, limit) in limits {
            if let Some(limit) = limit {
                setrlimit(resource, limit, limit).map_err(|error| refused("setrlimit", error))?;
            }
        }
        if let Some((user, group)) = self.user {
            setgroups(&[]).map_err(|error| refused("setgroups", error))?;
            setgid(Gid::from_raw(group)).map_err(|error| refused("setgid", error))?;
            setuid(Uid::from_raw(user)).map_err(|error| refused("setuid", error))?;
        }
        // What is started by us ends with us, also where we are killed. Another user's rights would reset this.
        let _ = prctl::set_pdeathsig(Signal::SIGKILL);
        if getppid().as_raw() != self.parent {
            return Err(Failure::Failed("whoever started this has ended".into())); // before that could be heard of
        }
        let mut words = self.behind.iter().chain(&self.command);
        let Some(program) = words.next() else { unreachable!("a program is required") };
        let error = Command::new(program).args(words).exec();
        Err(Failure::Usage(format!("{program}: {error}")))
    }
}

fn refused(what: &str, error: nix::Error) -> Failure {
    Failure::Failed(format!("{what}: {}", error.desc()))
}

fn user(text: &str) -> Result<(u32, u32), String> {
    let (user, group) = text.split_once(':').ok_or("write it like 65534:65534")?;
    let number = |text: &str| text.parse().map_err(|_| "write it like 65534:65534".to_owned());
    Ok((number(user)?, number(group)?))
}
