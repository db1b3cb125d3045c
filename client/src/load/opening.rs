//! When each connection is opened: one row over all threads, dealt out like cards.

use std::time::Duration;

/// The opening of a run's connections.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// How many connections in all.
    pub connections: usize,
    /// How many threads they are dealt to.
    pub threads: usize,
    /// How many are opened a second.
    pub per_second: u32,
}

impl Opening {
    /// The connections of one thread: every `threads`-th, so that the threads' connects do not bunch.
    pub fn of_thread(self, thread: usize) -> impl Iterator<Item = usize> {
        (thread..self.connections).step_by(self.threads)
    }

    /// When connection number `n` is due, counted from the start.
    pub fn due(self, n: usize) -> Duration {
        Duration::from_secs(1).mul_f64(n as f64 / f64::from(self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_connection_is_dealt_to_exactly_one_thread(connections in 0usize..500, threads in 1usize..9) {
            let opening = Opening { connections, threads, per_second: 1000 };
            let mut dealt: Vec<usize> = (0..threads).flat_map(|t| opening.of_thread(t)).collect();
            dealt.sort_unstable();
            prop_assert_eq!(dealt, (0..connections).collect::<Vec<_>>());
        }

        #[test]
        fn no_more_are_opened_in_a_second_than_the_rate_says(n in 0usize..100_000, per_second in 1u32..50_000) {
            let opening = Opening { connections: 1, threads: 1, per_second };
            let span = opening.due(n + per_second as usize) - opening.due(n);
            prop_assert!((span.as_secs_f64() - 1.0).abs() < 1e-6);
        }
    }
}
