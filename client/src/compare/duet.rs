//! The duet: two servers stay up, and the load alternates between them in short slices, A B B A. The machine's
//! drift is slower than a pair of slices, so the ratio within a pair is free of it.

use std::time::Duration;

use serde::Serialize;

use super::{
    cell::{Bench, FORGETS_CHILDREN},
    comparison::BLOCKS_FOR_A_GLANCE,
    contender::Contender,
    plan::Trial,
    scenario::{Point, Scenario},
    scratch::Scratch,
    statistics::{Estimate, estimate, ratio},
};
use crate::{
    cmd::load::Percentiles,
    cost::Cost,
    interrupt,
    load::{Audit, Engine, Fault, Faults, Window},
    server::Server,
};

/// One contender in one slice.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Slice {
    /// Answers a second.
    pub messages_per_s: f64,
    /// The median latency; as the next, none where it is not known.
    pub p50_us: Option<f64>,
    /// 99 % took no longer.
    pub p99_us: Option<f64>,
    /// In `churn`: connections a second.
    pub connections_per_s: Option<f64>,
    /// In `churn`: half of them took no longer to come up.
    pub connect_p50_us: Option<f64>,
    /// In `churn`: the server's CPU time a connection.
    pub server_cpu_us_per_connection: Option<f64>,
    /// The server's CPU time an answer.
    pub server_cpu_us_per_message: f64,
    /// The load's.
    pub client_cpu_us_per_message: f64,
}

/// What came of a duet.
#[derive(Clone, Debug, Serialize)]
pub struct Duet {
    /// What they were put to.
    pub scenario: Scenario,
    /// Where.
    pub point: Point,
    /// The two.
    pub names: [String; 2],
    /// Each pair's slices.
    pub pairs: Vec<[Slice; 2]>,
    /// Why it does not count; empty where it does.
    pub reason: String,
}

/// A server that is up, and the connections to it.
struct Side {
    scenario: Scenario,
    /// How long a slice is.
    slice: Duration,
    server: Server,
    engine: Engine,
}

impl Duet {
    /// Plays `pairs` pairs of slices.
    ///
    /// # Errors
    /// A sentence for the user, where a server does not start or is not reached.
    pub fn play(
        bench: &Bench,
        trial: &Trial,
        contenders: [&Contender; 2],
        point: Point,
        pairs: usize,
        mut each_pair: impl FnMut(),
    ) -> Result<Self, String> {
        let _scratch = Scratch::at(&bench.scratch).map_err(|error| error.to_string())?;
        let (mut faults, mut audit) = (Faults::default(), Audit::default());
        let mut sides = Vec::new();
        for contender in contenders {
            sides.push(Side::open(bench, trial, contender, point, &mut faults)?);
        }
        let [a, b] = &sides[..] else { unreachable!("there are two contenders") };
        for side in [a, b] {
            faults.merge(side.engine.run(Duration::ZERO, bench.warmup).faults);
        }
        let mut played = Vec::new();
        for n in 0..pairs {
            let (mut of_pair, mut sent) = (Faults::default(), Audit::default());
            let pair = if n % 2 == 0 {
                let first = a.slice(&mut of_pair, &mut sent);
                [first, b.slice(&mut of_pair, &mut sent)]
            } else {
                let first = b.slice(&mut of_pair, &mut sent);
                [a.slice(&mut of_pair, &mut sent), first]
            };
            if interrupt::requested(&bench.stop) {
                break; // the pair was cut short, and does not count
            }
            faults.merge(of_pair);
            audit.merge(sent);
            played.push(pair);
            each_pair();
        }
        let mut forgets = false;
        for Side { server, engine, .. } in sides {
            forgets |= trial.scenario == Scenario::Churn && Cost::forgets_children(server.pid());
            faults.merge(engine.finish());
            server.stop();
        }
        let reason = faults.worst().map(|(fault, n, what)| format!("{n} x {}: {what}", fault.name()));
        let too_few = (played.len() < BLOCKS_FOR_A_GLANCE)
            .then(|| format!("{} pairs say nothing; {BLOCKS_FOR_A_GLANCE} would", played.len()));
        Ok(Self {
            scenario: trial.scenario,
            point,
            names: contenders.map(|contender| contender.name.clone()),
            pairs: played,
            reason: reason
                .or(audit.doubt())
                .or(too_few)
                .or(forgets.then(|| FORGETS_CHILDREN.to_owned()))
                .unwrap_or_default(),
        })
    }

    /// A's figure over B's: the median of the pairs' ratios.
    pub fn ratio(&self, figure: fn(&Slice) -> f64) -> Option<Estimate> {
        let pairs: Vec<(f64, f64)> = self.pairs.iter().map(|[a, b]| (figure(a), figure(b))).collect();
        ratio(&pairs)
    }

    /// One side's figure: the median of its slices.
    pub fn figure(&self, side: usize, figure: fn(&Slice) -> f64) -> Option<Estimate> {
        let slices: Vec<f64> = self.pairs.iter().map(|pair| figure(&pair[side])).collect();
        estimate(&slices)
    }
}

impl Side {
    fn open(
        bench: &Bench,
        trial: &Trial,
        contender: &Contender,
        point: Point,
        faults: &mut Faults,
    ) -> Result<Self, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", contender.name);
        let server = bench.start(trial, contender, point.connections).map_err(|error| named(&error))?;
        let (engine, connecting) =
            Engine::open(&bench.plan(trial, point, &server), &bench.stop).map_err(|error| named(&error))?;
        faults.merge(connecting.faults);
        Ok(Self { scenario: trial.scenario, slice: bench.duration, server, engine })
    }

    /// One slice: the server's CPU time from before the first message to after the last, over all of them.
    fn slice(&self, faults: &mut Faults, audit: &mut Audit) -> Slice {
        let before = Cost::cpu_of_tree(self.server.pid());
        let window = self.engine.run(Duration::ZERO, self.slice);
        if self.scenario.churn().is_some() {
            Cost::await_rest(self.server.pid()); // those who came last are let in at its own cost, not the other's
        }
        let used = Cost::cpu_of_tree(self.server.pid()).saturating_sub(before);
        let slice = slice(self.scenario, &window, used);
        faults.merge(window.faults);
        audit.merge(window.audit.unwrap_or_default());
        if window.messages == 0 {
            faults.add(Fault::Timeout, || "a slice without an answer".into());
        }
        slice
    }
}

fn slice(scenario: Scenario, window: &Window, server_cpu: Duration) -> Slice {
    let latency = Percentiles::with_lost(&window.latency, window.lost_in_flight);
    let comes_and_goes = scenario.churn().is_some();
    Slice {
        messages_per_s: window.rate(),
        p50_us: latency.p50,
        p99_us: latency.p99,
        connections_per_s: comes_and_goes.then(|| window.connection_rate()),
        connect_p50_us: Percentiles::of(&window.connect).p50.filter(|_| comes_and_goes),
        server_cpu_us_per_connection: comes_and_goes.then(|| window.us_per_connection(server_cpu)),
        server_cpu_us_per_message: server_cpu.as_secs_f64() * 1e6 / (window.messages_in_all as f64).max(1.0),
        client_cpu_us_per_message: window.cpu_us_per_message(),
    }
}
