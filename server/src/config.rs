//! What was typed, and what it means: every choice made, every contradiction refused.

use std::{net::TcpListener, str::FromStr, time::Duration};

use arguments::{CpuList, Endpoint, Transport};
use clap::ValueEnum;
use nix::time::{ClockId, clock_gettime};

use crate::{
    cli::Serve,
    model::{AtOnce, Model, Way},
    models::MODELS,
    socket::SocketOptions,
};

/// How many workers a pool of blocking workers has unless told: each serves one client until it leaves, so
/// this is how many clients are served at once.
const BLOCKING_WORKERS: usize = 64;

/// A server that can be started.
pub struct Config {
    /// The model.
    pub model: &'static Model,
    /// How it serves TCP.
    pub way: &'static Way<TcpListener>,
    /// Where.
    pub endpoints: Vec<Endpoint>,
    /// Its listeners.
    pub sockets: SocketOptions,
    /// The processors that it may use.
    pub cpus: Option<CpuList>,
    /// What its model is told.
    pub settings: Settings,
}

/// What a model is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many workers a pool has; 1 where there is no pool.
    pub workers: usize,
    /// How many clients the queue of `thread-pool` holds.
    pub queue: usize,
    /// What happens to a client that finds the queue full.
    pub when_full: WhenFull,
    /// What serving a message costs besides the echo.
    pub work: Work,
    /// How many bytes one receive takes, and one connection may owe.
    pub buffer: usize,
    /// How many clients are served at once; more are refused.
    pub max_connections: Option<usize>,
    /// How long the clients have to finish when the server is told to end.
    pub drain: Duration,
}

/// What happens to a client that finds the queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenFull {
    /// It waits in the accept queue: the server stops accepting.
    Block,
    /// It is closed at once, and counted.
    Reject,
}

/// What serving a message costs besides the echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    None,
    /// Computing, for so much CPU time of the thread that serves.
    Cpu(Duration),
    /// Blocking, for so long.
    Sleep(Duration),
}

impl Work {
    /// Does it.
    pub fn perform(self) {
        match self {
            Self::None => {}
            Self::Cpu(amount) => compute(amount),
            Self::Sleep(amount) => std::thread::sleep(amount),
        }
    }
}

/// Uses `amount` of this thread's CPU time. The clock is the thread's own, so that being preempted is not
/// taken for computing (clock_gettime(2), CLOCK_THREAD_CPUTIME_ID).
fn compute(amount: Duration) {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or(Duration::MAX);
    let end = now().saturating_add(amount);
    while now() < end {
        std::hint::spin_loop();
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            Some(("cpu", amount)) => arguments::duration(amount).map(Self::Cpu),
            Some(("sleep", amount)) => arguments::duration(amount).map(Self::Sleep),
            _ => Err("write it like none, cpu:20us or sleep:1ms".into()),
        }
    }
}

impl Config {
    /// Makes every choice that was left open.
    ///
    /// # Errors
    /// A sentence for the user, where the choices do not go together.
    pub fn new(typed: Serve) -> Result<Self, String> {
        let model = find(&typed.model)?;
        (model.supported)().map_err(|why| format!("{} cannot run here: {why}", model.name))?;
        let way = way(model, typed.dispatch.as_deref())?;
        if way.dispatch != "queue" && (typed.queue.is_some() || typed.when_full.is_some()) {
            return Err("--queue and --when-full belong to --model thread-pool --dispatch queue".into());
        }
        for endpoint in &typed.endpoints {
            if endpoint.transport == Transport::Udp && model.udp.is_empty() {
                return Err(format!("{endpoint}: {} serves TCP only; use a tcp:// endpoint", model.name));
            }
        }
        Ok(Self {
            model,
            way,
            sockets: SocketOptions { backlog: typed.backlog, nodelay: typed.nodelay.into() },
            cpus: typed.cpus,
            settings: Settings {
                workers: workers(model, typed.workers),
                queue: typed.queue.unwrap_or(1024),
                when_full: typed.when_full.unwrap_or(WhenFull::Block),
                work: typed.work,
                buffer: typed.buffer,
                max_connections: typed.max_connections,
                drain: typed.drain,
            },
            endpoints: typed.endpoints,
        })
    }
}

fn find(name: &str) -> Result<&'static Model, String> {
    MODELS.iter().copied().find(|model| model.name == name).ok_or_else(|| {
        let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        format!("there is no model {name:?}; there are {}", names.join(", "))
    })
}

fn way(model: &'static Model, dispatch: Option<&str>) -> Result<&'static Way<TcpListener>, String> {
    let wanted = match dispatch {
        None => model.tcp.first(),
        Some(name) => model.tcp.iter().find(|way| way.dispatch == name && !name.is_empty()),
    };
    wanted.ok_or_else(|| {
        let name = dispatch.unwrap_or_default();
        match model.dispatches(Transport::Tcp).join(", ") {
            none if none.is_empty() => {
                format!("{} has no dispatch to choose; leave --dispatch out", model.name)
            }
            names => format!("{} has no dispatch {name:?}; it has {names}", model.name),
        }
    })
}

fn workers(model: &Model, typed: Option<usize>) -> usize {
    if model.at_once == AtOnce::OneAWorker {
        return typed.unwrap_or(BLOCKING_WORKERS);
    }
    if typed.is_some_and(|n| n > 1) {
        log::warn!("{} is no pool: --workers changes nothing", model.name);
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_read_as_it_is_written_in_the_help() {
        assert_eq!("none".parse(), Ok(Work::None));
        assert_eq!("cpu:20us".parse(), Ok(Work::Cpu(Duration::from_micros(20))));
        assert_eq!("sleep:1ms".parse(), Ok(Work::Sleep(Duration::from_millis(1))));
        for wrong in ["", "cpu", "cpu:", "nap:1ms", "sleep:soon"] {
            assert!(wrong.parse::<Work>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn computing_uses_the_threads_cpu_time() {
        let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let before = cpu();
        Work::Cpu(Duration::from_millis(5)).perform();
        assert!(cpu() - before >= Duration::from_millis(5));
    }
}
