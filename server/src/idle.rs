//! `--idle-timeout`: a client is idle that says nothing and takes nothing, whatever we do meanwhile.
//!
//! What it says is seen when it is received. What it takes is not: a socket becomes writable when a third of its buffer is
//! free, which takes a slow reader long. So a client that seems to be silent is looked at eight times a timeout ([`Signs`]):
//! the kernel says whether what it has not taken became less, and whether it has said something that nobody read yet. That
//! costs no timer a connection, and neither the clock nor a system call a message.
//!
//! A client is seen off between one timeout and a quarter more after its last sign of life. How much it takes is known as
//! well as its kernel tells, which may wait for a sixteenth of its receive buffer to be free. An idle server that has no
//! clients sleeps for ever.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use crate::socket::Held;

/// How often a client that may be taking something is looked at while a timeout passes.
pub const LOOKS: u32 = 8;

/// What is known of a client's silence.
#[derive(Clone, Copy, Debug)]
pub struct Signs {
    /// When it was last known to be active.
    active: Instant,
    /// What it had not taken when it was last looked at; `None` where it has been active since.
    untaken: Option<u32>,
}

/// What becomes of a client that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It has been silent for the whole timeout.
    Overdue,
    /// It has taken all that there is for it: nothing is to be seen before it is overdue, at this time.
    Nothing(Instant),
    /// It may be taking something: it is to be looked at again soon.
    Something,
}

impl Signs {
    /// Of a client that comes now.
    pub fn new() -> Self {
        Self { active: Instant::now(), untaken: None }
    }

    /// It said or took something.
    pub fn is_active(&mut self) {
        self.untaken = None;
    }

    /// Looks at what the kernel holds for it. It is active if it took something since the last look, or if something
    /// that it said waits for us, who are `reading` from it.
    pub fn look(
        &mut self,
        held: impl FnOnce() -> Held,
        reading: bool,
        now: Instant,
        limit: Duration,
    ) -> Look {
        if self.untaken == Some(0) && now < self.active + limit {
            return Look::Nothing(self.active + limit);
        }
        let Held { unread, untaken } = held();
        if unread && reading || self.untaken.is_none_or(|before| untaken < before) {
            self.active = now;
        }
        self.untaken = Some(untaken);
        match self.active + limit {
            due if due <= now => Look::Overdue,
            due if untaken == 0 => Look::Nothing(due),
            _ => Look::Something,
        }
    }
}

/// A client of a loop.
pub struct Watched<'a, S> {
    /// Its key.
    pub key: usize,
    /// Its socket.
    pub stream: &'a S,
    /// What is known of its silence.
    pub signs: &'a mut Signs,
    /// Whether what it says is read now; while bytes are owed to it, it is not.
    pub reading: bool,
}

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

    /// A turn of the loop is over.
    pub fn tick(&mut self) {
        if self.limit.is_some() {
            self.now = Instant::now();
        }
    }

    /// A client is active in this turn, and is to be looked at soon.
    pub fn hears(&mut self, signs: &mut Signs) {
        signs.is_active();
        if let (Some(limit), Some(look)) = (self.limit, &mut self.look) {
            *look = (*look).min(self.now + limit / LOOKS);
        }
    }

    /// How long the loop may sleep before it is to look; `None`: for ever.
    pub fn until_look(&self, anybody: bool) -> Option<Duration> {
        let limit = self.limit.filter(|_| anybody)?;
        Some(self.look.map_or(limit / LOOKS, |look| look.saturating_duration_since(self.now)))
    }

    /// Those of `clients` that are overdue.
    pub fn overdue<'a, S: AsFd + 'a>(&mut self, clients: impl Iterator<Item = Watched<'a, S>>) -> Vec<usize> {
        let Some(limit) = self.limit else { return Vec::new() };
        if self.look.is_some_and(|look| self.now < look) {
            return Vec::new();
        }
        let (now, soon) = (self.now, self.now + limit / LOOKS);
        let (mut overdue, mut next) = (Vec::new(), now + limit);
        for Watched { key, stream, signs, reading } in clients {
            match signs.look(|| Held::of(stream), reading, now, limit) {
                Look::Overdue => overdue.push(key),
                Look::Nothing(due) => next = next.min(due),
                Look::Something => next = soon,
            }
        }
        self.look = Some(next.max(soon));
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);
    const SECOND: Duration = Duration::from_secs(1);

    fn untaken(untaken: u32) -> Held {
        Held { unread: false, untaken }
    }

    #[test]
    fn who_takes_something_between_two_looks_is_active() {
        let mut signs = Signs::new();
        let start = signs.active;
        let mut look = |after, held| signs.look(|| held, true, start + after * SECOND, LIMIT);
        assert_eq!(look(1, untaken(900)), Look::Something, "it has just come");
        assert_eq!(look(8, untaken(800)), Look::Something, "it has taken 100 by now");
        assert_eq!(look(15, untaken(800)), Look::Something);
        assert_eq!(look(16, untaken(800)), Look::Overdue);
    }

    #[test]
    fn who_has_taken_all_is_not_asked_about_before_it_is_overdue() {
        let mut signs = Signs::new();
        let start = signs.active;
        assert_eq!(signs.look(|| untaken(0), true, start, LIMIT), Look::Nothing(start + LIMIT));
        let unasked = || panic!("nothing is to be seen");
        assert_eq!(signs.look(unasked, true, start + 7 * SECOND, LIMIT), Look::Nothing(start + LIMIT));
        assert_eq!(signs.look(|| untaken(0), true, start + LIMIT, LIMIT), Look::Overdue);
    }

    #[test]
    fn who_has_spoken_and_waits_for_us_is_active_unless_it_takes_nothing() {
        let spoken = Held { unread: true, untaken: 900 };
        for (reading, seen) in [(true, Look::Something), (false, Look::Overdue)] {
            let mut signs = Signs::new();
            let start = signs.active;
            signs.look(|| spoken, reading, start, LIMIT);
            assert_eq!(signs.look(|| spoken, reading, start + 2 * LIMIT, LIMIT), seen);
        }
    }

    #[test]
    fn the_loop_looks_soon_after_somebody_was_active_and_when_somebody_is_overdue() {
        let (client, _server) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut idle = Idle::new(Some(LIMIT));
        let start = idle.now;
        assert_eq!(idle.until_look(false), None, "nobody is there");
        assert_eq!(idle.until_look(true), Some(SECOND));

        let mut both = [Signs::new(), Signs::new()];
        let look = |idle: &mut Idle, after, all: &mut [Signs]| {
            idle.now = start + after * SECOND;
            let watched = |(key, signs)| Watched { key, stream: &client, signs, reading: true };
            idle.overdue(all.iter_mut().enumerate().map(watched))
        };
        assert!(look(&mut idle, 1, &mut both).is_empty());
        assert_eq!(idle.until_look(true), Some(LIMIT), "there is nothing to see before");
        idle.now = start + 4 * SECOND;
        idle.hears(&mut both[1]);
        assert_eq!(idle.until_look(true), Some(SECOND));
        assert!(look(&mut idle, 5, &mut both).is_empty());
        assert_eq!(look(&mut idle, 9, &mut both), [0]);
        assert!(look(&mut idle, 9, &mut both).is_empty(), "it has just looked");
        assert_eq!(look(&mut idle, 13, &mut both[1..]), [0]);
    }

    #[test]
    fn without_a_limit_nobody_is_overdue() {
        let (client, _server) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut idle = Idle::new(None);
        assert_eq!(idle.until_look(true), None);
        let mut signs = Signs::new();
        let watched = Watched { key: 1, stream: &client, signs: &mut signs, reading: true };
        assert!(idle.overdue([watched].into_iter()).is_empty());
    }
}
