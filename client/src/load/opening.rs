//! When each connection is opened: one row over all threads, dealt out like cards.

use std::time::Duration;

/// The opening of a run's connections.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The numbers of the connections.
    pub first: usize,
    /// The number after them.
    pub end: usize,
    /// How many threads they are dealt to.
    pub threads: usize,
    /// How many are opened a second.
    pub per_second: u32,
}

impl Opening {
    /// The connections of one thread: every `threads`-th, so that the threads' connects do not bunch.
    pub fn of_thread(self, thread: usize) -> impl Iterator<Item = usize> {
        let first = self.first + (thread + self.threads - self.first % self.threads) % self.threads;
        (first..self.end).step_by(self.threads)
    }

    /// When connection number `n` is due, counted from the start.
    pub fn due(self, n: usize) -> Duration {
        Duration::from_secs(1).mul_f64((n - self.first) as f64 / f64::from(self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_connection_is_dealt_to_exactly_one_thread(
            first in 0usize..50, more in 0usize..500, threads in 1usize..9,
        ) {
            let end = first + more;
            let opening = Opening { first, end, threads, per_second: 1000 };
            let mut dealt: Vec<usize> = (0..threads).flat_map(|t| opening.of_thread(t)).collect();
            dealt.sort_unstable();
            prop_assert_eq!(dealt, (first..end).collect::<Vec<_>>());
            // A number's thread is the same, whichever it is opened with.
            prop_assert!((0..threads).all(|t| opening.of_thread(t).all(|number| number % threads == t)));
        }

        #[test]
        fn no_more_are_opened_in_a_second_than_the_rate_says(n in 0usize..100_000, per_second in 1u32..50_000) {
            let opening = Opening { first: 0, end: 1, threads: 1, per_second };
            let span = opening.due(n + per_second as usize) - opening.due(n);
            prop_assert!((span.as_secs_f64() - 1.0).abs() < 1e-6);
        }
    }
}
