//! A thread's clock, and what departs when by it. In a closed loop that is an answer's doing, perhaps after some
//! thought; in an open one, the schedule's.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    Pace, Plan, Punctuality,
    engine::Order,
    meter::{Phase, nanoseconds},
    schedule::{Schedule, Slot, Slots},
    tempo::Tempo,
};

/// When a message departed, in nanoseconds of its thread's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// When it was due: in an open loop, by the schedule; in a closed one, when it left.
    pub due: u64,
    /// When it left.
    pub left: u64,
}

impl Departure {
    /// One that nothing but an answer had to let go.
    pub fn at(now: u64) -> Self {
        Self { due: now, left: now }
    }
}

/// How long a thread sleeps.
#[derive(Clone, Copy, Debug)]
pub enum Sleep {
    /// To the millisecond.
    About(Duration),
    /// Until this time of its clock, which is so long from now: as exactly as can be.
    Until(u64, Duration),
}

/// A thread's clock, and what departs when by it.
pub struct Pacer {
    epoch: Instant,
    lane: usize,
    tempo: Arc<Tempo>,
    /// The measured time, in nanoseconds of the clock: messages that depart in it are the measured ones, whenever
    /// their answers come. Of an open loop it is that of the schedule; of a closed one, as the thread came to it.
    measured: Range<u64>,
    turns: Turns,
}

/// Who departs next.
enum Turns {
    /// Who has thought for long enough. All think equally long, so they stand in their order.
    Closed { thinking: VecDeque<Slot> },
    /// Who is next in the schedule, which begins at `begin`.
    Open { slots: Box<Slots>, begin: u64 },
}

impl Pacer {
    /// Of the thread of this lane; all threads have one tempo.
    pub fn new(lane: usize, tempo: Arc<Tempo>) -> Self {
        let turns = Turns::Closed { thinking: VecDeque::new() };
        Self { epoch: Instant::now(), lane, tempo, measured: 0..u64::MAX, turns }
    }

    /// Nanoseconds on the thread's clock.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, moment: Instant) -> u64 {
        nanoseconds(moment.saturating_duration_since(self.epoch))
    }

    /// A stretch of load begins.
    pub fn begin(&mut self, plan: &Plan, order: Order) {
        let begin = self.at(order.begin);
        self.measured = u64::MAX..u64::MAX;
        self.turns = match order.pace {
            Pace::Closed { .. } => Turns::Closed { thinking: VecDeque::new() },
            Pace::Open { per_second, arrivals, .. } => {
                let from = begin + nanoseconds(order.warmup);
                self.measured = from..from + nanoseconds(order.duration);
                let (lanes, seed) = (plan.lanes(), plan.seed);
                let Order { connections, .. } = order;
                let schedule = Schedule { per_second, arrivals, connections, lanes, seed };
                Turns::Open { slots: Box::new(schedule.of_lane(self.lane, &self.tempo)), begin }
            }
        };
    }

    /// The warm-up is over.
    pub fn measure(&mut self, now: Instant) {
        if let Turns::Closed { .. } = self.turns {
            self.measured.start = self.at(now);
        }
    }

    /// Nothing more becomes due: the stretch is over, or was stopped.
    pub fn end(&mut self, now: Instant) {
        self.measured.end = self.measured.end.min(self.at(now));
        if let Turns::Closed { thinking } = &mut self.turns {
            thinking.clear();
        }
    }

    /// Its next message departs when `place` has thought for so long.
    pub fn think(&mut self, place: usize, now: u64, thought: Duration) {
        if let Turns::Closed { thinking } = &mut self.turns {
            thinking.push_back(Slot { due: now + nanoseconds(thought), place });
        }
    }

    /// Another is at this place now, who has no thoughts yet.
    pub fn forget(&mut self, place: usize) {
        if let Turns::Closed { thinking } = &mut self.turns {
            thinking.retain(|slot| slot.place != place);
        }
    }

    /// When the next one departs, where it is known.
    pub fn next(&mut self) -> Option<u64> {
        match &mut self.turns {
            Turns::Closed { thinking } => thinking.front().map(|slot| slot.due),
            Turns::Open { slots, begin } => {
                slots.due().map(|due| begin.saturating_add(due)).filter(|&due| due < self.measured.end)
            }
        }
    }

    /// Who departs next, where that is due by now.
    pub fn turn(&mut self, now: u64) -> Option<Slot> {
        let due = self.next().filter(|&due| due <= now)?;
        let slot = match &mut self.turns {
            Turns::Closed { thinking } => thinking.pop_front(),
            Turns::Open { slots, .. } => slots.next(),
        };
        slot.map(|slot| Slot { due, ..slot })
    }

    /// Nobody is left who could send: what is still to come in the schedule is due, and dropped, until the user has
    /// enough of it.
    pub fn renounce(&mut self, punctuality: &mut Punctuality, stop: &AtomicBool) {
        while let Some(slot) = self.turn(u64::MAX).filter(|_| !stop.load(Relaxed)) {
            if self.is_measured(slot.due) {
                punctuality.note(true, 0);
            }
        }
    }

    /// Takes those out of the schedule that were due and have not left.
    pub fn abandon(&mut self, punctuality: &mut Punctuality) {
        let now = Instant::now();
        self.end(now);
        let now = self.at(now);
        while let Some(slot) = self.turn(now) {
            if self.is_measured(slot.due) {
                punctuality.abandon(now - slot.due);
            }
        }
    }

    /// Whether a message that was due then is one of the measured ones: by its departure alone, whenever its answer
    /// comes.
    pub fn is_measured(&self, due: u64) -> bool {
        self.measured.contains(&due)
    }

    /// Whether an answer that comes now counts towards the rate. In a closed loop that of each measured message does,
    /// for there one departs as another comes; in an open one whatever comes in the measured time: a server that falls
    /// behind answers later what was due then, and not at that rate.
    pub fn counts(&self, departure: Departure, phase: Phase) -> bool {
        match self.turns {
            Turns::Open { .. } => phase == (Phase::Loading { measuring: true }),
            Turns::Closed { .. } => self.is_measured(departure.due),
        }
    }

    /// How long a thread may sleep that has nothing else to do: up to the next departure, and no longer than `most`.
    pub fn sleep(&mut self, most: Duration) -> Sleep {
        match self.next() {
            None => Sleep::About(most),
            Some(due) => {
                let left = Duration::from_nanos(due.saturating_sub(self.now()));
                if left < most { Sleep::Until(due, left) } else { Sleep::About(most) }
            }
        }
    }
}
