//! How a run has gone so far: what is shown while it lasts.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use super::{Percentiles, Verdict, verdict::Evidence};
use crate::{
    interrupt,
    load::{Audit, Connecting, Faults, Interval, Onlooker, Order, Pace, Plan, Standing, Window},
};

/// How a course is shown.
pub trait Display {
    /// How often it may be looked at.
    const EVERY: Duration;

    /// Shows it, where it is time to. Returns how many messages are to depart a second, where that is to change.
    fn show(&mut self, course: &Course) -> Option<f64>;
}

/// A course, and how it is shown: who looks on while a load runs.
pub struct Shown<D> {
    /// How the run has gone so far.
    pub course: Course,
    /// How that is shown.
    pub display: D,
}

impl<D: Display> Onlooker for Shown<D> {
    fn every(&self) -> Duration {
        D::EVERY
    }

    fn opening(&mut self, connections: usize) {
        (self.course.opening, self.course.order) = (Some(connections), None);
    }

    fn opened(&mut self, connecting: &Connecting) {
        self.course.opening = None;
        self.course.asked += connecting.asked;
        self.course.established += connecting.established;
        self.course.standing.up = self.course.established;
        self.course.faults.merge(connecting.faults.clone());
    }

    fn searches(&mut self, rate: f64) {
        self.course.searched = Some(rate);
        let _ = self.display.show(&self.course);
    }

    fn begins(&mut self, order: &Order) {
        self.course.begins(order);
    }

    fn second(&mut self, seen: &Interval, length: Duration) {
        self.course.second(seen, length);
    }

    fn look(&mut self) -> Option<f64> {
        let changed = self.display.show(&self.course)?;
        (self.course.rate, self.course.changes) = (Some(changed), self.course.changes + 1);
        Some(changed)
    }
}

/// How a run has gone so far.
pub struct Course {
    /// What is to be done.
    pub plan: Plan,
    /// How many steps the load climbs in.
    pub steps: usize,
    max_lateness: Duration,
    stop: Arc<AtomicBool>,
    /// In which step it is, from one on; before that it is zero.
    step: usize,
    order: Option<Order>,
    /// How many connections are to be opened, while they are.
    opening: Option<usize>,
    /// Which rate is tried, while one is searched.
    searched: Option<f64>,
    /// How many were asked for so far.
    pub asked: usize,
    established: usize,
    /// In an open loop: how many messages are to depart a second.
    pub rate: Option<f64>,
    /// How often that was changed.
    pub changes: usize,
    /// How things stood when the last second ended.
    pub standing: Standing,
    /// What became of the datagrams of earlier steps.
    audit_of_earlier: Audit,
    /// The seconds so far, added up.
    pub window: Window,
    /// What went wrong when connections were opened.
    faults: Faults,
    /// The latencies so far.
    pub latency: Percentiles,
    /// How late each message left, so far.
    pub lateness: Option<Percentiles>,
    /// Second by second.
    pub seconds: Vec<Point>,
    /// What is wrong with it so far.
    pub verdicts: Vec<Verdict>,
}

/// A second of the measured time, or the larger part of one.
pub struct Point {
    /// Answers a second.
    pub answers: f64,
    /// In an open loop: how many messages were to depart a second when it ended.
    pub rate: Option<f64>,
    /// Latencies.
    pub latency: Percentiles,
}

impl Course {
    /// Of a run that is to begin.
    pub fn new(plan: &Plan, steps: usize, max_lateness: Duration, stop: &Arc<AtomicBool>) -> Self {
        Self {
            plan: plan.clone(),
            steps,
            max_lateness,
            stop: Arc::clone(stop),
            step: 0,
            order: None,
            opening: None,
            searched: None,
            asked: 0,
            established: 0,
            rate: None,
            changes: 0,
            standing: Standing::default(),
            audit_of_earlier: Audit::default(),
            window: Window::new(),
            faults: Faults::default(),
            latency: Percentiles::default(),
            lateness: None,
            seconds: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    fn begins(&mut self, order: &Order) {
        self.step += 1;
        self.order = Some(*order);
        self.rate = match order.pace {
            Pace::Open { per_second, .. } => Some(per_second),
            Pace::Closed { .. } => None,
        };
        self.audit_of_earlier = self.window.audit.unwrap_or_default();
    }

    fn second(&mut self, seen: &Interval, length: Duration) {
        self.standing = seen.standing;
        self.window.put(seen);
        self.window.audit = seen.standing.audit.map(|mut audit| {
            audit.merge(self.audit_of_earlier);
            audit
        });
        self.window.busiest_thread = seen.standing.busiest_thread;
        self.window.busiest_demand = seen.standing.busiest_demand;
        self.window.stopped = seen.standing.stopped;
        self.latency = Percentiles::with_lost(&self.window.latency, self.window.lost_in_flight);
        self.lateness = self.window.punctuality.as_ref().map(|kept| Percentiles::of(&kept.lateness));
        // In the last moments of a second there is too little to be seen.
        if length * 2 > Duration::from_secs(1) {
            let answers = seen.messages as f64 / length.as_secs_f64();
            let latency = Percentiles::with_lost(&seen.latency, seen.lost_in_flight);
            self.seconds.push(Point { answers, rate: self.rate, latency });
        }
        let evidence = Evidence {
            asked: self.asked,
            established: self.established,
            window: &self.window,
            faults: &self.faults(),
            awkward: self.plan.awkward.share(self.plan.rank).count() as u64,
            late: Duration::ZERO,
            interrupted: false,
            rate_was_changed: self.changes > 0,
        };
        self.verdicts = Verdict::all(&evidence, self.max_lateness);
    }

    /// The second that was over last.
    pub fn last(&self) -> Option<&Point> {
        self.seconds.last()
    }

    /// What went wrong so far, by its name.
    pub fn errors(&self) -> BTreeMap<&'static str, u64> {
        self.faults().counts()
    }

    fn faults(&self) -> Faults {
        let mut faults = self.faults.clone();
        faults.merge(self.window.faults.clone());
        faults
    }

    /// A figure of latencies for people: what is not known is more than the timeout.
    pub fn told(&self, latency: &Percentiles, figure: Option<f64>) -> String {
        latency.told(figure, self.plan.timeout.as_secs_f64() * 1e6)
    }

    /// Whether the user may set how many messages depart a second: in an open loop, where no staircase does.
    pub fn takes_another_rate(&self) -> bool {
        self.rate.is_some() && self.steps == 1
    }

    /// What is being done, in words: how long it takes, where that is known.
    pub fn doing(&self) -> String {
        let now = Instant::now();
        let Some(order) = self.order else {
            return match (self.opening, self.searched) {
                (Some(connections), _) => format!("connecting {connections}"),
                (None, Some(rate)) => format!("searching: {rate:.0} a second"),
                (None, None) => "waiting for the start".into(),
            };
        };
        let end = order.begin + order.warmup + order.duration;
        if interrupt::requested(&self.stop) || now >= end {
            return "waiting for the last answers".into();
        }
        let steps_left = self.steps.saturating_sub(self.step) as u32;
        let left = end - now + (order.warmup + order.duration) * steps_left;
        let left = humantime::format_duration(Duration::from_secs(left.as_secs_f64().ceil() as u64));
        let warming = if now < order.begin + order.warmup { "warming up, " } else { "" };
        format!("{warming}{left} left")
    }
}
