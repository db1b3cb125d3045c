//! What is the same in all cells of a comparison: how a contender is started, and what is done to it.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arguments::{CpuList, Transport};

use super::{
    calls::{Calls, Counted},
    contender::{Contender, OurServer, Terms},
    plan::Trial,
    scenario::{Beside, Drive, Point},
    scratch::{self, Scratch},
};
use crate::{
    cost::Cost,
    load::{Arrivals, Beyond, Engine, Means, Mix, Pace, Plan, Rank, Sizes, SocketOptions},
    saturation,
    server::Server,
};

/// What is the same in all cells of a comparison.
pub struct Bench {
    /// Where our models come from.
    pub ours: OurServer,
    /// The load's processors.
    pub client_cpus: CpuList,
    /// How long each cell is loaded before it is measured.
    pub warmup: Duration,
    /// How long it is measured.
    pub duration: Duration,
    /// What the bytes are made from.
    pub seed: u64,
    /// Where contenders may write; each cell's own folder in it is removed with it.
    pub scratch: PathBuf,
    /// Set by ^C.
    pub stop: Arc<AtomicBool>,
}

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take on a schedule: who waits for longer than that starves.
const STARVED: Duration = Duration::from_secs(1);

/// How many messages of a connection may be on their way, on a schedule.
const MAX_OUTSTANDING: usize = 64;

/// How often an awkward client does something.
const BEAT: Duration = Duration::from_millis(10);

/// With how many connections system calls are counted, and how long.
const COUNTED_AT: usize = 16;
const COUNTING: Duration = Duration::from_millis(200);

/// How finely the course of a cell is kept.
pub const INTERVAL: Duration = Duration::from_millis(100);

impl Bench {
    /// Starts a contender for so many connections.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn start(&self, trial: &Trial, contender: &Contender, connections: usize) -> Result<Server, String> {
        contender.start(&self.ours, &self.terms(trial, contender, connections))
    }

    /// Starts it for one connection, has one message answered, and ends it.
    ///
    /// # Errors
    /// A sentence for the user that names it, where it does not start or cannot be served.
    pub fn rehearse(&self, trial: &Trial, contender: &Contender) -> Result<(), String> {
        contender.rehearse(&self.ours, &self.terms(trial, contender, 1), |server| {
            let point = Point { connections: 1, size: trial.sizes[0], ..Point::default() };
            let plan = Plan { churn: None, ..self.plan(trial, point, server) };
            let (engine, connecting) =
                Engine::open(&plan, &self.stop).map_err(|error| format!("not loaded: {error}"))?;
            let seen = engine.run(Duration::ZERO, Duration::ZERO);
            let mut faults = connecting.faults;
            faults.merge(seen.faults);
            faults.merge(engine.finish());
            match faults.worst() {
                Some((fault, _, what)) => Err(format!("it cannot be served: {}: {what}", fault.name())),
                None if seen.messages_in_all == 0 => Err("it does not answer".into()),
                None => Ok(()),
            }
        })
    }

    fn terms<'t>(&'t self, trial: &'t Trial, contender: &Contender, connections: usize) -> Terms<'t> {
        Terms {
            workers: trial.workers(contender, connections),
            work: trial.work(),
            scratch: scratch::folder_in(&self.scratch),
            server_cpus: trial.server_cpus.as_ref(),
            client_cpus: &self.client_cpus,
        }
    }

    /// What is done to a server.
    pub fn plan(&self, trial: &Trial, point: Point, server: &Server) -> Plan {
        let character = trial.scenario.character();
        let pace = match (point.drive, trial.rate) {
            (Drive::Open, Some(rate)) => on_schedule(rate),
            (Drive::Search, _) => saturation::pace(server.transport),
            _ => Pace::Closed { pipeline: character.pipeline, think: Duration::ZERO },
        };
        let alone = |beside| usize::from(point.beside == beside);
        Plan {
            endpoint: server.endpoint(),
            means: Means::Mio,
            socket: SocketOptions { nodelay: true, ..SocketOptions::default() },
            connections: point.connections,
            rank: Rank::ALONE,
            size: Sizes::fixed(point.size),
            pace,
            burst: trial.burst.filter(|_| server.transport == Transport::Udp),
            churn: trial.scenario.churn(),
            half_close: false,
            threads: self.client_cpus.count().min(point.connections),
            connect_rate: character.connect_rate,
            timeout: if point.drive == Drive::Closed { PATIENCE } else { STARVED },
            interval: INTERVAL,
            verify: true,
            seed: self.seed,
            awkward: Mix {
                stall: alone(Beside::Stall),
                dribble: alone(Beside::Dribble),
                every: BEAT,
                ..Mix::default()
            },
        }
    }

    /// Counts the system calls of a contender, in a pass of its own.
    pub fn count_calls(&self, trial: &Trial, contender: &Contender) -> Counted {
        let connections = if contender.serves_one() { 1 } else { COUNTED_AT };
        let point = Point { connections, size: trial.sizes[0], ..Point::default() };
        let counted = || {
            if let Some(reason) = trial.excludes(contender, connections) {
                return Err(reason.into());
            }
            if contender.runs_already() {
                return Err("it runs already".into());
            }
            let started = |error: io::Error| format!("not started: {error}");
            let _scratch = Scratch::at(&self.scratch).map_err(started)?;
            let server = self.start(trial, contender, connections)?;
            let opened = Engine::open(&self.plan(trial, point, &server), &self.stop);
            let (engine, _) = opened.map_err(started)?;
            let pid = server.pid().ok_or("it runs already")?;
            Cost::await_rest(pid); // all who serve are there then, and traced
            let calls = Calls::count(pid, || engine.run(Duration::ZERO, COUNTING).messages_in_all);
            engine.finish();
            server.stop();
            calls
        };
        Counted::of(trial.scenario, &contender.name, connections, counted())
    }
}

/// So many messages a second, whatever the server does.
fn on_schedule(per_second: f64) -> Pace {
    let (arrivals, beyond) = (Arrivals::Constant, Beyond::Dropped);
    Pace::Open { per_second, arrivals, max_outstanding: MAX_OUTSTANDING, beyond }
}
