//! One load from the first connect to the last FIN.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use log::warn;
use serde::{Deserialize, Serialize};

use super::{highest::Highest, start::Start, verdict::Evidence};
use crate::{
    cmd::{Failure, INTERRUPTED, NOT_VALID},
    interrupt,
    load::{Awkward, Change, Conduct, Connecting, Engine, Faults, Interval, Onlooker, Pace, Window},
    saturation::{self, Bound, End},
};

/// How a load goes on.
#[derive(Clone, Copy)]
pub struct Timetable {
    /// How long each step is loaded unmeasured.
    pub warmup: Duration,
    /// How long all steps are measured.
    pub duration: Duration,
    /// In how many steps.
    pub ramp: usize,
    /// What is to hold at the rate that is searched before.
    pub find_rate: Option<Bound>,
}

/// Each rate of a search is warmed up and measured for this part of the load's own times.
const SHORT_WARMUP: u32 = 5;
const SHORT: u32 = 10;

/// What came of one load, from the first connect to the last FIN.
#[derive(Clone)]
pub struct Run {
    /// What came of opening them.
    pub connecting: Connecting,
    /// When the measured time began.
    pub since: SystemTime,
    /// What was seen.
    pub window: Window,
    /// What was seen in each step, where there are several.
    pub steps: Vec<Step>,
    /// How the user changed the rate of an open loop.
    pub changes: Vec<RateChange>,
    /// Connections that came up and were lost before the end. Who sends datagrams has none to lose.
    pub lost: usize,
    /// What became of the awkward clients, where there were any.
    pub awkward: Option<Conduct>,
    /// What a search before it has found.
    pub highest: Option<Highest>,
    /// All that went wrong.
    pub faults: Faults,
    /// How long after it should it began.
    pub late: Duration,
    /// Whether the user ended it.
    pub interrupted: bool,
}

/// Another rate of an open loop, from a moment on.
#[derive(Clone, Serialize, Deserialize)]
pub struct RateChange {
    /// When, since the measured time began; in the warm-up it is less than nothing.
    pub at_s: f64,
    /// Messages a second from then on.
    pub rate: f64,
}

impl RateChange {
    fn of(change: &Change, warmup: Duration) -> Self {
        Self { at_s: change.at.as_secs_f64() - warmup.as_secs_f64(), rate: change.per_second }
    }
}

/// A step of a staircase.
#[derive(Clone)]
pub struct Step {
    /// How many connections there were, over all ranks.
    pub connections: usize,
    /// In an open loop: how many messages were due a second, over all ranks.
    pub rate: Option<f64>,
    /// How long it was measured.
    pub measured: Duration,
    /// What was seen in that time.
    pub seen: Interval,
    /// The busiest thread's share of a processor.
    pub busiest_thread: f64,
}

impl Step {
    fn of(connections: usize, pace: Pace, window: &Window) -> Self {
        Self {
            connections,
            rate: match pace {
                Pace::Open { per_second, .. } => Some(per_second),
                Pace::Closed { .. } => None,
            },
            measured: window.measured,
            seen: Interval {
                messages: window.messages,
                bytes: window.bytes,
                latency: window.latency.clone(),
                lost_in_flight: window.lost_in_flight,
                punctuality: window.punctuality.clone(),
                ..Interval::new()
            },
            busiest_thread: window.busiest_thread,
        }
    }

    /// Adds another rank's.
    fn merge(&mut self, other: &Self) {
        self.measured = self.measured.max(other.measured);
        self.seen.merge(&other.seen);
        self.busiest_thread = self.busiest_thread.max(other.busiest_thread);
    }
}

impl Run {
    /// Has `engine` do what its plan says, before an onlooker, who may change the rate where there is one step.
    ///
    /// # Errors
    /// Where the system refuses the awkward clients; where a rank does not come to the start, or this one has no
    /// connection to come with; where no rate is found that is searched for.
    pub fn of(
        mut engine: Engine,
        Timetable { mut warmup, mut duration, ramp, find_rate }: Timetable,
        start: &mut Start,
        stop: &Arc<AtomicBool>,
        mut onlooker: Box<dyn Onlooker>,
    ) -> Result<Self, Failure> {
        let plan = &engine.plan().clone();
        let (mut highest, mut broken) = (None, Faults::default());
        // Its threads have taken over the descriptors that are there: what is opened now is nobody else's.
        let awkward = Awkward::gather(plan, stop).map_err(Failure::io("load"))?;
        let (mut connecting, mut window, mut steps) = (Connecting::new(), Window::new(), Vec::new());
        let (mut since, mut is_left) = (None, false);
        for step in 1..=ramp {
            let (connections, mut pace) = plan.step(step, ramp);
            connecting.merge(engine.grow(connections, &mut *onlooker));
            if let (Start::Together(_), Some(why)) = (&*start, nothing(&connecting))
                && !interrupt::requested(stop)
            {
                return Err(Failure::Failed(why));
            }
            match start.wait(stop, &mut *onlooker) {
                Err(error) if step > 1 => {
                    warn!("{error}; the steps until then are measured");
                    is_left = true;
                    break;
                }
                begun => begun?,
            }
            if let Some(bound) = find_rate.filter(|_| connecting.established > 0) {
                let times = [warmup / SHORT_WARMUP, duration / SHORT];
                let found = saturation::find(&engine, bound, times, stop, &mut *onlooker);
                broken = found.faults.clone();
                if found.saturation.end == End::Broken {
                    (warmup, duration) = (Duration::ZERO, Duration::ZERO); // there is no rate to load at
                } else if !interrupt::requested(stop) {
                    let found = Highest::of(bound, found).map_err(Failure::Failed)?;
                    pace = pace.at(found.per_s);
                    highest = Some(found);
                }
            }
            let now = start.now();
            let first = *since.get_or_insert(now);
            let seen = engine.run_at(pace, warmup, duration / ramp as u32, &mut *onlooker);
            steps.push(Step::of(connections, pace, &seen));
            window.follow(seen, now.duration_since(first).unwrap_or_default());
            if interrupt::requested(stop) {
                break;
            }
        }
        let awkward = awkward.map(Awkward::dismiss);
        drop(onlooker); // the terminal is as it was: who asks for an end now has it at once
        let over = warmup + window.measured;
        let changes = engine.changes().into_iter().filter(|change| change.at < over);
        let changes = changes.map(|change| RateChange::of(&change, warmup)).collect();
        let interrupted = is_left || interrupt::requested(stop);
        let mut faults = connecting.faults.clone();
        for more in [broken, window.faults.clone(), engine.finish()] {
            faults.merge(more);
        }
        let begun = since.unwrap_or_else(|| start.now());
        let lost = window.lost();
        Ok(Self {
            connecting,
            since: begun + warmup,
            window,
            steps: if ramp > 1 { steps } else { Vec::new() },
            changes,
            lost,
            awkward,
            highest,
            faults,
            late: start.lateness(begun),
            interrupted,
        })
    }

    /// What there is to judge it by.
    pub fn evidence(&self) -> Evidence<'_> {
        Evidence {
            asked: self.connecting.asked,
            established: self.connecting.established,
            window: &self.window,
            faults: &self.faults,
            awkward: self.awkward.as_ref().map_or(0, |awkward| awkward.sum().connected),
            late: self.late,
            interrupted: self.interrupted,
            rate_was_changed: !self.changes.is_empty(),
        }
    }

    /// Adds what another rank saw beside this.
    pub fn merge(&mut self, other: Self) {
        self.connecting.merge(other.connecting);
        self.since = self.since.min(other.since);
        self.window.beside(other.window);
        for (step, other) in self.steps.iter_mut().zip(&other.steps) {
            step.merge(other);
        }
        self.lost += other.lost;
        if let Some(awkward) = other.awkward {
            self.awkward.get_or_insert_default().merge(&awkward);
        }
        self.faults.merge(other.faults);
        self.late = self.late.max(other.late);
        self.interrupted |= other.interrupted;
    }

    /// The exit status of a load, and of what was merged: that of a result which counts, or does not.
    pub fn exit_status(&self, is_valid: bool) -> u8 {
        match () {
            () if self.has_wrong_echoes() => 1, // whoever ended it
            () if self.interrupted => INTERRUPTED,
            () if self.is_worth_nothing() => 1,
            () if !is_valid => NOT_VALID,
            () => 0,
        }
    }

    /// Whether nobody answered, nor said anything wrong.
    pub fn is_of_nobody(&self) -> bool {
        self.window.messages_in_all == 0 && !self.has_wrong_echoes()
    }

    /// Whether there is no result at all.
    fn is_worth_nothing(&self) -> bool {
        self.connecting.established == 0
            || self.lost >= self.connecting.established // none was left
            || self.window.messages_in_all == 0
    }

    fn has_wrong_echoes(&self) -> bool {
        self.faults.iter().any(|(fault, _, _)| fault.is_wrong_echo())
    }
}

/// What is to be said where no connection came up at all.
fn nothing(connecting: &Connecting) -> Option<String> {
    let Connecting { asked, established, ref faults, .. } = *connecting;
    let (_, _, what) = faults.worst().filter(|_| established == 0)?;
    Some(format!("none of {asked} connections came up: {what}"))
}
