//! What is seen of one server under a load.

use std::{
    io, mem,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    bench::Bench,
    contender::Contender,
    plan::{TRIED_FOR, Trial},
    scenario::{BUSY, Drive, Point, Scenario},
};
use crate::{
    cost::{Cost, CpuFrom},
    load::{Awkward, Connecting, Engine, Faults, Nobody, Plan, Window},
    saturation::{self, Found},
    server::Server,
};

/// What was seen of one server.
pub struct Sight {
    /// Connections that came up, of those that were asked for.
    pub established: usize,
    /// Connections that were open at once, those included that were busy while the others were idle.
    pub held: usize,
    /// Connections that had their answers.
    pub served: usize,
    /// Connections of awkward clients that the server let in.
    pub awkward: u64,
    /// The server's memory before its first connection, where that is known.
    pub pss_before: Option<u64>,
    pub load: Load,
    pub faults: Faults,
    /// What kept the client from running, by its name.
    pub pauses: Vec<(&'static str, String)>,
    pub last_words: Option<Value>,
}

impl Sight {
    /// One that is up, under the load of a cell.
    ///
    /// # Errors
    /// Where the system refuses what the load needs.
    pub fn of(
        bench: &Bench,
        trial: &Trial,
        point: Point,
        contender: &Contender,
        server: Server,
    ) -> io::Result<Self> {
        // A pool's workers are there before their clients, and for them: all of it is the connections'.
        let is_given_workers = trial.workers(contender, point.connections).is_some();
        let pss_before = if is_given_workers { Some(0) } else { server.pid().and_then(Cost::pss_of_tree) };
        let plan = bench.plan(trial, point, &server);
        let mut engine = Engine::new(&plan, &bench.stop)?;
        // They come first, so a server of one client at a time is theirs.
        let awkward = Awkward::gather(&plan, &bench.stop)?;
        let Connecting { established, mut faults, .. } = engine.grow(point.connections, &mut Nobody);
        let (held, served, load);
        if trial.scenario == Scenario::Idle {
            // One answer each proves that they are served. Then they stay, and others are busy.
            let once = engine.run(Duration::ZERO, Duration::ZERO);
            let of_few = Plan { connections: BUSY, threads: plan.threads.min(BUSY), ..plan };
            let (busy, connecting) = Engine::open(&of_few, &bench.stop)?;
            load = Load::watch(bench, trial, &server, &busy, BUSY);
            (held, served) = (established + connecting.established, once.messages_in_all as usize);
            for more in [once.faults, connecting.faults, busy.finish()] {
                faults.merge(more);
            }
        } else if point.drive == Drive::Search {
            load = Load::search(bench, trial, &server, &engine);
            (held, served) = (established, load.window.served());
        } else {
            let at_once = plan.burst.unwrap_or(plan.at_first());
            load = Load::watch(bench, trial, &server, &engine, point.connections * at_once);
            (held, served) = (established, load.window.served());
        }
        let awkward = awkward.map_or(0, |awkward| awkward.dismiss().sum().opened);
        faults.merge(load.window.faults.clone());
        faults.merge(engine.finish());
        let pauses = load.window.pauses().collect();
        let last_words = server.stop();
        Ok(Self { established, held, served, awkward, pss_before, load, faults, pauses, last_words })
    }
}

/// A stretch of load, and what it cost the server.
pub struct Load {
    /// How many messages were on their way at once, in a closed loop.
    pub on_their_way: usize,
    /// What was seen; in a search, at the highest rate that was kept.
    pub window: Window,
    /// All answers, also those of other rates.
    pub messages_in_all: u64,
    /// What a search found.
    pub found: Option<Found>,
    /// Of a server that we did not start, nobody knows.
    pub used: Option<Cost>,
    /// Who has told its CPU time.
    pub cpu_from: CpuFrom,
    pub took: Duration,
    /// Whether the children that ended meanwhile are not in that cost.
    pub forgets_children: bool,
}

impl Load {
    fn watch(bench: &Bench, trial: &Trial, server: &Server, engine: &Engine, on_their_way: usize) -> Self {
        Self::of(trial, server, on_their_way, || {
            let window = engine.run(bench.warmup, bench.duration);
            (window.messages_in_all, window)
        })
    }

    /// One rate after the other.
    fn search(bench: &Bench, trial: &Trial, server: &Server, engine: &Engine) -> Self {
        let bound = trial.bound();
        let times = [bench.warmup, bench.duration / TRIED_FOR];
        let mut found = None;
        let mut load = Self::of(trial, server, 1, || {
            let Found { best, messages_in_all, .. } =
                found.insert(saturation::find(engine, bound, times, &bench.stop, &mut Nobody));
            (*messages_in_all, mem::replace(best, Window::new()))
        });
        if let Some(found) = &found {
            load.window.faults.merge(found.faults.clone());
        }
        load.found = found;
        load
    }

    /// What a stretch of load, or several, cost the server.
    fn of(trial: &Trial, server: &Server, on_their_way: usize, load: impl FnOnce() -> (u64, Window)) -> Self {
        let pid = server.pid();
        let comes_and_goes = trial.scenario.churn().is_some();
        let await_rest = || {
            if comes_and_goes {
                server.await_rest();
            }
        };
        let pss_before = pid.and_then(Cost::pss_of_tree);
        await_rest(); // whom it has not let in yet would be paid for later
        let (before, began) = (server.cost(), Instant::now());
        let (messages_in_all, window) = load();
        let took = began.elapsed();
        await_rest();
        let after = server.cost();
        let pss_after = pid.and_then(Cost::pss_of_tree);
        let used = after.zip(before).map(|(after, before)| Cost {
            pss_bytes: pss_before.zip(pss_after).map(|(before, after)| before.max(after)),
            ..after.since(before)
        });
        let forgets_children = server.forgets_children();
        let cpu_from = server.cpu_from();
        Self { on_their_way, window, messages_in_all, found: None, used, cpu_from, took, forgets_children }
    }
}
