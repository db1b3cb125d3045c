//! `--idle-timeout` of a loop: no timer a connection, and no system call a message.
//!
//! The clock is read once a turn of the loop, each connection keeps when it was last active, and the loop looks
//! at all of them when the one that was silent longest may be overdue, but not more often than eight times
//! a timeout. So a client is seen off between one timeout and a quarter more after its last sign of life,
//! and an idle server that has no clients sleeps for ever.

use std::time::{Duration, Instant};

/// When to look for idle clients.
pub struct Idle {
    limit: Option<Duration>,
    now: Instant,
    look: Option<Instant>,
}

impl Idle {
    /// Clients that are silent for `limit` are overdue; `None`: never.
    pub fn new(limit: Option<Duration>) -> Self {
        Self { limit, now: Instant::now(), look: None }
    }

    /// A turn of the loop begins.
    pub fn tick(&mut self) {
        if self.limit.is_some() {
            self.now = Instant::now();
        }
    }

    /// The time at the beginning of this turn; stands still where there is no limit.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How long the loop may sleep before it is to look; `None`: for ever.
    pub fn until_look(&self, anybody: bool) -> Option<Duration> {
        let limit = self.limit.filter(|_| anybody)?;
        Some(self.look.map_or(limit, |look| look.saturating_duration_since(self.now)))
    }

    /// Those of `guests`, given as key and last activity, that are overdue.
    pub fn overdue(&mut self, guests: impl Iterator<Item = (usize, Instant)>) -> Vec<usize> {
        let Some(limit) = self.limit else { return Vec::new() };
        if self.look.is_some_and(|look| self.now < look) {
            return Vec::new();
        }
        let mut overdue = Vec::new();
        let mut oldest = self.now;
        for (key, active) in guests {
            if active + limit <= self.now {
                overdue.push(key);
            } else {
                oldest = oldest.min(active);
            }
        }
        self.look = Some((oldest + limit).max(self.now + limit / 8));
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_looks_when_the_most_silent_client_may_be_overdue() {
        let limit = Duration::from_secs(8);
        let mut idle = Idle::new(Some(limit));
        let start = idle.now();
        assert_eq!(idle.until_look(false), None, "nobody is there");
        assert_eq!(idle.until_look(true), Some(limit));

        assert!(idle.overdue([(1, start), (2, start)].into_iter()).is_empty());
        idle.now = start + limit;
        let two_spoke = [(1, start), (2, start + Duration::from_secs(5))];
        assert_eq!(idle.overdue(two_spoke.into_iter()), [1]);
        assert_eq!(idle.until_look(true), Some(Duration::from_secs(5)));
        assert!(idle.overdue(two_spoke.into_iter()).is_empty(), "it has just looked");
    }

    #[test]
    fn without_a_limit_nobody_is_overdue() {
        let mut idle = Idle::new(None);
        assert_eq!(idle.until_look(true), None);
        let long_ago = idle.now();
        assert!(idle.overdue([(1, long_ago)].into_iter()).is_empty());
    }
}
