//! Latencies as they are told.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A histogram of nanoseconds, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    /// The smallest.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// Half are no larger.
    pub p50: f64,
    /// 90 % are no larger.
    pub p90: f64,
    /// 99 % are no larger.
    pub p99: f64,
    /// 99.9 % are no larger.
    pub p999: f64,
    /// 99.99 % are no larger.
    pub p9999: f64,
    /// 99.999 % are no larger.
    pub p99999: f64,
    /// The largest.
    pub max: f64,
    /// How many there are.
    pub count: u64,
    /// How many there are from each percentile on: what it stands on.
    pub behind: Behind,
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
    /// Of all that was recorded; all zero where nothing was.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |percentile| us(histogram.value_at_percentile(percentile));
        let from =
            |percentile| histogram.count_between(histogram.value_at_percentile(percentile), histogram.max());
        Self {
            min: us(histogram.min()),
            mean: histogram.mean() / 1000.0,
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            p9999: at(99.99),
            p99999: at(99.999),
            max: us(histogram.max()),
            count: histogram.len(),
            behind: Behind {
                p50: from(50.0),
                p90: from(90.0),
                p99: from(99.0),
                p999: from(99.9),
                p9999: from(99.99),
                p99999: from(99.999),
            },
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
        _ => format!("{:.2}s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_keep_three_digits_and_find_their_unit() {
        let seen: Vec<String> = [1.234, 56.78, 456.7, 1234.0, 56_780.0, 456_700.0, 2e6].map(us).into();
        assert_eq!(seen, ["1.23us", "56.8us", "457us", "1.23ms", "56.8ms", "457ms", "2.00s"]);
    }
}
