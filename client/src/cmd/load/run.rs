//! One load from the first connect to the last FIN.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::Percentiles;
use crate::{
    interrupt,
    load::{Awkward, Conduct, Connecting, Engine, Faults, Pace, Plan, Window},
    progress::Progress,
};

/// What came of one load, from the first connect to the last FIN.
pub struct Run {
    /// What came of opening them.
    pub connecting: Connecting,
    /// When the measured time began.
    pub since: SystemTime,
    /// What was seen.
    pub window: Window,
    /// What was seen in each step, where there are several.
    pub steps: Vec<Step>,
    /// What became of the awkward clients, where there were any.
    pub awkward: Option<Conduct>,
    /// All that went wrong.
    pub faults: Faults,
    /// Whether the user ended it.
    pub interrupted: bool,
}

/// A step of a staircase.
#[derive(Serialize)]
pub struct Step {
    /// How many connections there were.
    pub connections: usize,
    /// In an open loop: how many messages were due a second.
    pub rate: Option<f64>,
    /// Answers a second.
    pub messages_per_s: f64,
    /// As in the whole result.
    pub latency_us: Percentiles,
    send_lateness_us: Option<Percentiles>,
    dropped: Option<u64>,
    client_busiest_thread: f64,
}

impl Step {
    fn of(connections: usize, pace: Pace, seen: &Window) -> Self {
        let kept = seen.punctuality.as_ref();
        Self {
            connections,
            rate: match pace {
                Pace::Open { per_second, .. } => Some(per_second),
                Pace::Closed { .. } => None,
            },
            messages_per_s: seen.rate(),
            latency_us: Percentiles::of(&seen.latency),
            send_lateness_us: kept.map(|kept| Percentiles::of(&kept.lateness)),
            dropped: kept.map(|kept| kept.dropped),
            client_busiest_thread: seen.busiest_thread,
        }
    }
}

impl Run {
    /// Does what `plan` says.
    ///
    /// # Errors
    /// Where the system refuses threads or pollers.
    pub fn of(
        plan: &Plan,
        warmup: Duration,
        duration: Duration,
        ramp: usize,
        stop: &Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let progress = Progress::of_time("loading", warmup * ramp as u32 + duration);
        let awkward = Awkward::gather(plan, stop)?;
        let mut engine = Engine::new(plan, stop)?;
        let (mut connecting, mut window, mut steps) = (Connecting::new(), Window::new(), Vec::new());
        let mut since = None;
        for step in 1..=ramp {
            let (connections, pace) = plan.step(step, ramp);
            connecting.merge(engine.grow(connections));
            let now = SystemTime::now();
            let first = *since.get_or_insert(now);
            let seen = engine.run_at(pace, warmup, duration / ramp as u32);
            steps.push(Step::of(connections, pace, &seen));
            window.follow(seen, now.duration_since(first).unwrap_or_default());
            if interrupt::requested(stop) {
                break;
            }
        }
        let awkward = awkward.map(Awkward::dismiss);
        progress.end();
        let interrupted = interrupt::requested(stop);
        let mut faults = connecting.faults.clone();
        faults.merge(window.faults.clone());
        faults.merge(engine.finish());
        let since = since.unwrap_or_else(SystemTime::now) + warmup;
        let steps = if ramp > 1 { steps } else { Vec::new() };
        Ok(Self { connecting, since, window, steps, awkward, faults, interrupted })
    }

    /// Connections that came up and were lost before the end. Who sends datagrams has none to lose.
    pub fn lost(&self) -> usize {
        if self.window.audit.is_some() {
            return 0;
        }
        self.window.faults.counts().values().sum::<u64>() as usize
    }

    /// Whether there is no result at all: exit status 1.
    pub fn is_worth_nothing(&self) -> bool {
        self.connecting.established == 0
            || self.lost() >= self.connecting.established // none was left
            || self.window.messages_in_all == 0
            || self.faults.iter().any(|(fault, _, _)| fault.is_wrong_echo())
    }
}
