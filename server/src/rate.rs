//! How many datagrams a second of one client address are answered: over all workers, also over processes.
//!
//! The generic cell rate algorithm (ITU-T I.371): each address has a cell that says until when its share is spent;
//! a datagram moves that time on by its cost, and is refused where it lies too far ahead. The cells are one table in
//! shared memory, of fixed size, in which an address is found by a hash that no client can foresee; two addresses
//! that meet there share a rate.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{shared::Shared, socket::Peer};

/// How many cells there are.
const CELLS: usize = 1 << 16;

/// How many datagrams may come at once, in time: a second's share.
const BURST: Duration = Duration::from_secs(1);

/// The limit.
pub struct RateLimit {
    limit: Option<Limit>,
}

struct Limit {
    cells: Shared<AtomicU64>,
    /// What a datagram costs, in nanoseconds.
    cost: u64,
    hasher: RandomState,
    began: Instant,
}

impl RateLimit {
    /// So many datagrams a second; `None` is no limit.
    ///
    /// # Errors
    /// Where the kernel refuses the memory.
    pub fn new(per_second: Option<usize>) -> io::Result<Self> {
        let limit = per_second.map(|per_second| {
            let cost = (1_000_000_000 / per_second.max(1) as u64).max(1);
            Ok::<_, io::Error>(Limit {
                cells: Shared::new(CELLS)?,
                cost,
                hasher: RandomState::new(),
                began: Instant::now(),
            })
        });
        Ok(Self { limit: limit.transpose()? })
    }

    /// How many of the `wanted` datagrams of `peer` that have come now may be answered.
    pub fn admit(&self, peer: Peer, wanted: usize) -> usize {
        let Some(limit) = &self.limit else { return wanted };
        limit.admit(peer, wanted as u64, limit.began.elapsed()) as usize
    }
}

impl Limit {
    fn admit(&self, peer: Peer, wanted: u64, now: Duration) -> u64 {
        let cell = &self.cells[self.hasher.hash_one(peer.number()) as usize % CELLS];
        let now = now.as_nanos() as u64;
        let share = |spent_until: u64| {
            let from = spent_until.max(now);
            let room = (now + BURST.as_nanos() as u64).saturating_sub(from) / self.cost;
            (from, room.min(wanted))
        };
        let spend = |spent_until| {
            let (from, share) = share(spent_until);
            Some(from + share * self.cost)
        };
        cell.fetch_update(Relaxed, Relaxed, spend).map_or(0, |before| share(before).1)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn limit(per_second: usize) -> Limit {
        RateLimit::new(Some(per_second)).unwrap().limit.unwrap()
    }

    #[test]
    fn a_seconds_share_may_come_at_once_and_then_so_many_a_second() {
        let limit = limit(10);
        let peer = Peer::from(IpAddr::from([127, 0, 0, 1]));
        let at = |ms| Duration::from_millis(ms);
        assert_eq!(limit.admit(peer, 8, at(0)), 8);
        assert_eq!(limit.admit(peer, 8, at(0)), 2);
        assert_eq!(limit.admit(peer, 1, at(99)), 0);
        assert_eq!(limit.admit(peer, 5, at(200)), 2);
        assert_eq!(limit.admit(peer, 50, at(10_000)), 10);
    }

    #[test]
    fn without_a_limit_all_are_answered() {
        let free = RateLimit::new(None).unwrap();
        assert_eq!(free.admit(Peer::default(), 1 << 40), 1 << 40);
    }
}
