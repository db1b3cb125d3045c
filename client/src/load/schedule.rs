//! When messages depart in an open loop: one schedule for a whole run, whatever the server does. It is dealt out
//! like cards: connection k of n takes every n-th slot, so that connections do not leave in step.

use clap::ValueEnum;
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp1};
use serde::Serialize;

/// How departures follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// At equal distances
    Constant,
    /// Independently of each other, as many strangers come: distances are exponentially distributed
    Poisson,
}

/// The schedule of a run.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// How many messages depart a second, over all connections.
    pub per_second: f64,
    /// How they follow each other.
    pub arrivals: Arrivals,
    /// How many connections they are dealt to.
    pub connections: usize,
    /// How many lanes, the threads of all ranks, share these.
    pub lanes: usize,
    /// What chance is made from.
    pub seed: u64,
}

/// A message's place in the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When it is due, in nanoseconds.
    pub due: u64,
    /// Over which of its lane's connections.
    pub place: usize,
}

impl Schedule {
    /// The slots of one lane's connections, in their order; they do not end, but where it has none. Each lane draws
    /// all of the schedule and takes its own.
    pub fn of_lane(self, lane: usize) -> Slots {
        Slots { schedule: self, lane, chance: StdRng::seed_from_u64(self.seed), gaps: 0.0, next: 0 }
    }
}

/// The slots of a lane.
pub struct Slots {
    schedule: Schedule,
    lane: usize,
    chance: StdRng,
    /// When the next slot is due, in mean distances.
    gaps: f64,
    /// The connection that it is dealt to.
    next: usize,
}

impl Iterator for Slots {
    type Item = Slot;

    fn next(&mut self) -> Option<Slot> {
        let Schedule { per_second, arrivals, connections, lanes, .. } = self.schedule;
        if self.lane >= connections {
            return None; // there is no connection for it
        }
        loop {
            let (due, connection) = (self.gaps, self.next);
            self.gaps += match arrivals {
                Arrivals::Constant => 1.0,
                Arrivals::Poisson => Exp1.sample(&mut self.chance),
            };
            self.next = (connection + 1) % connections;
            if connection % lanes == self.lane {
                return Some(Slot { due: (due * 1e9 / per_second) as u64, place: connection / lanes });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(arrivals: Arrivals, connections: usize, lanes: usize) -> Schedule {
        Schedule { per_second: 20_000.0, arrivals, connections, lanes, seed: 1 }
    }

    proptest! {
        #[test]
        fn a_schedule_is_the_same_however_many_ranks_and_threads_share_it(
            poisson: bool, connections in 1usize..40, threads in prop::collection::vec(1usize..5, 1..5),
        ) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Constant };
            let whole: Vec<_> = schedule(arrivals, connections, 1).of_lane(0).take(500).collect();
            let until = whole[499].due;
            let mut dealt: Vec<Slot> = Vec::new();
            // Each rank has as many threads as it likes.
            let ranks = threads.len();
            for (rank, threads) in threads.into_iter().enumerate() {
                let lanes = ranks * threads;
                for lane in (0..threads).map(|thread| rank + ranks * thread) {
                    let slots = schedule(arrivals, connections, lanes).of_lane(lane);
                    let of_lane = slots.take_while(|slot| slot.due < until);
                    dealt.extend(of_lane.map(|slot| Slot { place: slot.place * lanes + lane, ..slot }));
                }
            }
            dealt.sort_by_key(|slot| slot.due);
            prop_assert_eq!(&dealt, &whole[..499]);
        }
    }

    #[test]
    fn each_connection_takes_every_nth_slot() {
        let slots = schedule(Arrivals::Constant, 4, 1).of_lane(0);
        let of_the_third: Vec<u64> =
            slots.filter(|slot| slot.place == 2).map(|slot| slot.due).take(3).collect();
        assert_eq!(of_the_third, [100_000, 300_000, 500_000]);
    }

    /// Kolmogorov and Smirnov's test of 100,000 distances: the largest difference of their distribution from the
    /// exponential one is below 1.63/sqrt(n), which chance passes once in a hundred times (the seed is fixed).
    #[test]
    fn distances_of_a_poisson_schedule_are_exponentially_distributed() {
        const N: usize = 100_000;
        for seed in 0..3 {
            let slots = Schedule { seed, ..schedule(Arrivals::Poisson, 1, 1) }.of_lane(0);
            let due: Vec<u64> = slots.take(N + 1).map(|slot| slot.due).collect();
            let mut gaps: Vec<f64> =
                due.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 50_000.0).collect();
            gaps.sort_by(f64::total_cmp);
            let n = N as f64;
            let largest = (0..N).map(|i| {
                let expected = 1.0 - (-gaps[i]).exp();
                (expected - i as f64 / n).max((i + 1) as f64 / n - expected)
            });
            let largest = largest.fold(0.0, f64::max);
            assert!(largest < 1.63 / n.sqrt(), "seed {seed}: {largest}");
        }
    }

    #[test]
    fn a_constant_schedule_keeps_its_rate_to_the_nanosecond_for_a_day() {
        let day = 20_000.0 * 86_400.0;
        let mut slots = schedule(Arrivals::Constant, 1, 1).of_lane(0);
        slots.gaps = day;
        assert_eq!(slots.next().map(|slot| slot.due), Some(86_400_000_000_000));
    }
}
