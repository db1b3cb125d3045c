//! Latencies as they are told.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::load::percentile;

/// What stands for people where a figure is not known.
pub const UNKNOWN: &str = "–";

/// A histogram of nanoseconds, in microseconds. What cannot be known is absent: all of it where nothing was recorded,
/// and what lies among the messages that had no answer, who rank behind all that had one.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    /// The smallest.
    pub min: Option<f64>,
    /// The arithmetic mean; none, where there are messages without an answer.
    pub mean: Option<f64>,
    /// Half are no larger.
    pub p50: Option<f64>,
    /// 90 % are no larger.
    pub p90: Option<f64>,
    /// 99 % are no larger.
    pub p99: Option<f64>,
    /// 99.9 % are no larger.
    pub p999: Option<f64>,
    /// 99.99 % are no larger.
    pub p9999: Option<f64>,
    /// 99.999 % are no larger.
    pub p99999: Option<f64>,
    /// The largest; none, where there are messages without an answer.
    pub max: Option<f64>,
    /// How many were recorded.
    pub count: u64,
    /// How many there are from each percentile on, with those that had no answer: what it stands on.
    pub behind: Behind,
    /// Where there are messages without an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub censored: Option<Censored>,
}

/// The messages without an answer: theirs would have been the largest values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Censored {
    /// How many they are.
    pub count: u64,
    /// The largest value that is known.
    pub largest_known: Option<f64>,
}

/// How many values are at least as large as each percentile.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Behind {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    p9999: u64,
    p99999: u64,
}

impl Percentiles {
    /// Of all that was recorded.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self::with_lost(histogram, 0)
    }

    /// Of the answers that were recorded, and so many messages that had none.
    pub fn with_lost(histogram: &Histogram<u64>, lost: u64) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        let ns = |percent| percentile(histogram, lost, percent);
        let at = |percent| ns(percent).map(us);
        let from = |percent| {
            let known = ns(percent).map(|value| histogram.count_between(value, histogram.max()));
            lost + known.unwrap_or(0)
        };
        let largest_known = (!histogram.is_empty()).then(|| us(histogram.max()));
        let is_all_known = lost == 0 && !histogram.is_empty();
        Self {
            min: (!histogram.is_empty()).then(|| us(histogram.min())),
            mean: is_all_known.then(|| histogram.mean() / 1000.0),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            p9999: at(99.99),
            p99999: at(99.999),
            max: largest_known.filter(|_| is_all_known),
            count: histogram.len(),
            behind: Behind {
                p50: from(50.0),
                p90: from(90.0),
                p99: from(99.0),
                p999: from(99.9),
                p9999: from(99.99),
                p99999: from(99.999),
            },
            censored: (lost > 0).then_some(Censored { count: lost, largest_known }),
        }
    }

    /// One of these figures for people, where an answer was given up after `timeout_us`.
    pub fn told(&self, figure: Option<f64>, timeout_us: f64) -> String {
        match (figure, self.censored) {
            (Some(figure), _) => us(figure),
            (None, Some(Censored { largest_known, .. })) => {
                format!("> {}", us(largest_known.unwrap_or(0.0).max(timeout_us)))
            }
            (None, None) => UNKNOWN.into(),
        }
    }
}

/// Microseconds for people: three digits, and the unit that fits.
pub fn us(us: f64) -> String {
    match us {
        _ if us < 10.0 => format!("{us:.2}us"),
        _ if us < 100.0 => format!("{us:.1}us"),
        _ if us < 1e3 => format!("{us:.0}us"),
        _ if us < 1e4 => format!("{:.2}ms", us / 1e3),
        _ if us < 1e5 => format!("{:.1}ms", us / 1e3),
        _ if us < 1e6 => format!("{:.0}ms", us / 1e3),
        _ if us < 1e7 => format!("{:.2}s", us / 1e6),
        _ if us < 1e8 => format!("{:.1}s", us / 1e6),
        _ => format!("{:.0}s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::histogram;

    #[test]
    fn of_nothing_no_figure_is_written_or_read_as_zero() {
        let nothing = serde_json::to_value(Percentiles::default()).unwrap();
        assert!(nothing["p50"].is_null() && nothing["max"].is_null() && nothing["count"] == 0, "{nothing}");
        let again: Percentiles = serde_json::from_value(nothing).unwrap();
        assert_eq!((again.p99, again.told(again.p99, 1e6)), (None, "–".into()));
    }

    #[test]
    fn microseconds_keep_three_digits_and_find_their_unit() {
        let seen = [1.234, 56.78, 456.7, 1234.0, 56_780.0, 456_700.0, 2e6, 6e7, 1.2e8].map(us);
        let told = ["1.23us", "56.8us", "457us", "1.23ms", "56.8ms", "457ms", "2.00s", "60.0s", "120s"];
        assert_eq!(seen, told);
    }

    #[test]
    fn what_is_not_known_is_absent_and_told_as_more_than_what_is() {
        let mut answers = histogram();
        (0..98).for_each(|_| answers.saturating_record(5_000));
        let latency = Percentiles::with_lost(&answers, 2);
        assert_eq!((latency.count, latency.behind.p90, latency.behind.p99), (98, 100, 2));
        assert_eq!((latency.min, latency.p90), (Some(5.0), Some(5.003)));
        assert_eq!((latency.p99, latency.max, latency.mean), (None, None, None));
        let told = |figure| latency.told(figure, 2e6);
        assert_eq!((told(latency.p90), told(latency.p99)), ("5.00us".into(), "> 2.00s".into()));
        assert_eq!(latency.told(latency.max, 1.0), "> 5.00us", "no less than what is known");
        let nothing = Percentiles::of(&histogram());
        assert_eq!((nothing.told(nothing.p50, 2e6), nothing.max), ("–".into(), None));
    }
}
