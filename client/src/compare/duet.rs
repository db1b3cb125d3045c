//! The duet: two servers stay up, and the load alternates between them in short slices, A B B A. The machine's
//! drift is slower than a pair of slices, so the ratio within a pair is free of it.

use std::time::Duration;

use serde::Serialize;

use super::{
    bench::Bench,
    cell::{Cause, FORGETS_CHILDREN},
    comparison::LEAST_BLOCKS,
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

/// One contender in one slice; what was not measured, or could not be, is absent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Slice {
    /// Answers a second.
    pub messages_per_s: Option<f64>,
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
    pub server_cpu_us_per_message: Option<f64>,
    /// The load's.
    pub client_cpu_us_per_message: Option<f64>,
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
    /// Whose doing that is.
    pub cause: Option<Cause>,
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
        let (mut faults, mut audit, mut pauses) = (Faults::default(), Audit::default(), Vec::new());
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
            let mut slice = |side: &Side| side.slice(&mut of_pair, &mut sent, &mut pauses);
            let pair = if n % 2 == 0 {
                let first = slice(a);
                [first, slice(b)]
            } else {
                let first = slice(b);
                [slice(a), first]
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
            forgets |= trial.scenario == Scenario::Churn && server.pid().is_some_and(Cost::forgets_children);
            faults.merge(engine.finish());
            server.stop();
        }
        let worst = faults.worst();
        let told = |(fault, n, what): (Fault, u64, &str)| format!("{n} x {}: {what}", fault.name());
        let wrong = worst.filter(|(fault, ..)| fault.is_wrong_echo()).map(told);
        let is_wrong = wrong.is_some();
        let reason = wrong.or(pauses.into_iter().next()).or(worst.map(told));
        let too_few = (played.len() < LEAST_BLOCKS)
            .then(|| format!("{} pairs say nothing; {LEAST_BLOCKS} would", played.len()));
        let reason = reason.or(audit.doubt()).or(too_few).or(forgets.then(|| FORGETS_CHILDREN.to_owned()));
        Ok(Self {
            scenario: trial.scenario,
            point,
            names: contenders.map(|contender| contender.name.clone()),
            pairs: played,
            cause: reason.as_ref().map(|_| if is_wrong { Cause::Server } else { Cause::Measure }),
            reason: reason.unwrap_or_default(),
        })
    }

    /// A's figure over B's: the median of the pairs' ratios.
    pub fn ratio(&self, figure: fn(&Slice) -> Option<f64>) -> Option<Estimate> {
        let pairs: Vec<(f64, f64)> =
            self.pairs.iter().filter_map(|[a, b]| figure(a).zip(figure(b))).collect();
        ratio(&pairs)
    }

    /// One side's figure: the median of its slices.
    pub fn figure(&self, side: usize, figure: fn(&Slice) -> Option<f64>) -> Option<Estimate> {
        let slices: Vec<f64> = self.pairs.iter().filter_map(|pair| figure(&pair[side])).collect();
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
        if connecting.established == 0 {
            let why = connecting.faults.worst().map_or("", |(_, _, what)| what);
            return Err(named(&format!("no connection came up: {why}")));
        }
        faults.merge(connecting.faults);
        Ok(Self { scenario: trial.scenario, slice: bench.duration, server, engine })
    }

    /// One slice: the server's CPU time from before the first message to after the last, over all of them.
    fn slice(&self, faults: &mut Faults, audit: &mut Audit, pauses: &mut Vec<String>) -> Slice {
        let pid = self.server.pid();
        let before = pid.and_then(Cost::cpu_of_tree);
        let window = self.engine.run(Duration::ZERO, self.slice);
        if self.scenario.churn().is_some() {
            // Those who came last are let in at its own cost, not the other's.
            let _ = pid.map(Cost::await_rest);
        }
        let after = pid.and_then(Cost::cpu_of_tree);
        let used = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        let slice = slice(self.scenario, &window, used);
        pauses.extend(window.pauses().map(|(name, why)| format!("{name}: {why}")));
        faults.merge(window.faults);
        audit.merge(window.audit.unwrap_or_default());
        if window.messages == 0 {
            faults.add(Fault::Timeout, || "a slice without an answer".into());
        }
        slice
    }
}

fn slice(scenario: Scenario, window: &Window, server_cpu: Option<Duration>) -> Slice {
    let latency = Percentiles::with_lost(&window.latency, window.lost_in_flight);
    let connect = Percentiles::of(&window.connect);
    let comes_and_goes = scenario.churn().is_some();
    let answers = Some(window.messages_in_all as f64).filter(|answers| *answers > 0.0);
    let each_connection = server_cpu.and_then(|cpu| window.us_per_connection(cpu));
    let each_message = server_cpu.zip(answers).map(|(cpu, answers)| cpu.as_secs_f64() * 1e6 / answers);
    Slice {
        messages_per_s: window.rate(),
        p50_us: latency.p50,
        p99_us: latency.p99,
        connections_per_s: window.connection_rate().filter(|_| comes_and_goes),
        connect_p50_us: connect.p50.filter(|_| comes_and_goes),
        server_cpu_us_per_connection: each_connection.filter(|_| comes_and_goes),
        server_cpu_us_per_message: each_message,
        client_cpu_us_per_message: window.cpu_us_per_message(),
    }
}
