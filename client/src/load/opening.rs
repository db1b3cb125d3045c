//! When each connection is opened: one row over all lanes (threads of all ranks), dealt out like cards.

use std::time::Duration;

/// The opening of a run's connections.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The numbers of the connections.
    pub first: usize,
    /// The number after them.
    pub end: usize,
    /// How many lanes they are dealt to.
    pub lanes: usize,
    /// How many are opened a second.
    pub per_second: u32,
}

impl Opening {
    /// The connections of one lane: every `lanes`-th, so that the lanes' connects do not bunch.
    pub fn of_lane(self, lane: usize) -> impl Iterator<Item = usize> {
        let first = self.first + (lane + self.lanes - self.first % self.lanes) % self.lanes;
        (first..self.end).step_by(self.lanes)
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
        fn every_connection_is_dealt_to_exactly_one_lane(
            first in 0usize..50, more in 0usize..500, lanes in 1usize..9,
        ) {
            let end = first + more;
            let opening = Opening { first, end, lanes, per_second: 1000 };
            let mut dealt: Vec<usize> = (0..lanes).flat_map(|lane| opening.of_lane(lane)).collect();
            dealt.sort_unstable();
            prop_assert_eq!(dealt, (first..end).collect::<Vec<_>>());
            // A number's lane is the same, whichever it is opened with.
            prop_assert!((0..lanes).all(|lane| opening.of_lane(lane).all(|number| number % lanes == lane)));
        }

        #[test]
        fn no_more_are_opened_in_a_second_than_the_rate_says(n in 0usize..100_000, per_second in 1u32..50_000) {
            let opening = Opening { first: 0, end: 1, lanes: 1, per_second };
            let span = opening.due(n + per_second as usize) - opening.due(n);
            prop_assert!((span.as_secs_f64() - 1.0).abs() < 1e-6);
        }
    }
}
