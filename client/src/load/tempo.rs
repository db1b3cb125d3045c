//! How fast a schedule runs, where that is changed while it does. Every thread reads the same changes, each before its
//! moment, so the schedule stays one.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::meter::TICK;

/// From a moment of a stretch of load on, so many messages depart a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// When, counted from when the stretch began, its warm-up included.
    pub at: Duration,
    /// How many, over all connections.
    pub per_second: f64,
}

/// How long before its moment a change is made known. A thread of the load sleeps for a tick at most, so each has heard
/// of it by then.
const AHEAD: Duration = Duration::from_millis(2 * TICK.as_millis() as u64);

/// The changes of a stretch's rate, in their order.
pub struct Tempo {
    /// How many there are, for who has read them all and need not ask again.
    known: AtomicUsize,
    score: Mutex<Score>,
}

struct Score {
    begin: Instant,
    changes: Vec<Change>,
}

impl Tempo {
    /// That of the plan.
    pub fn new() -> Self {
        let score = Score { begin: Instant::now(), changes: Vec::new() };
        Self { known: AtomicUsize::new(0), score: Mutex::new(score) }
    }

    /// That of these changes.
    #[cfg(test)]
    pub fn of(changes: Vec<Change>) -> Self {
        let known = AtomicUsize::new(changes.len());
        Self { known, score: Mutex::new(Score { begin: Instant::now(), changes }) }
    }

    /// A stretch begins, at the plan's rate. No thread plays meanwhile.
    pub fn restart(&self, begin: Instant) {
        *self.score() = Score { begin, changes: Vec::new() };
        self.known.store(0, Ordering::Release);
    }

    /// Another rate, from a moment on that is near.
    pub fn change(&self, per_second: f64) {
        let mut score = self.score();
        let at = score.begin.elapsed() + AHEAD;
        score.changes.push(Change { at, per_second });
        self.known.store(score.changes.len(), Ordering::Release);
    }

    /// Change number `n`, where there are so many.
    pub fn nth(&self, n: usize) -> Option<Change> {
        if n < self.known.load(Ordering::Acquire) { self.score().changes.get(n).copied() } else { None }
    }

    /// All of them.
    pub fn changes(&self) -> Vec<Change> {
        self.score().changes.clone()
    }

    fn score(&self) -> MutexGuard<'_, Score> {
        self.score.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
