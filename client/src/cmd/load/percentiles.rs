//! Latencies as they are told.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What stands for people where a figure is not known.
pub const UNKNOWN: &str = "–";

/// A histogram of nanoseconds, in microseconds. Of nothing none of them is known: zero here, and told nowhere.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
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

/// As they are written: those of nothing are absent.
#[derive(Serialize, Deserialize)]
struct Written {
    min: Option<f64>,
    mean: Option<f64>,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p999: Option<f64>,
    p9999: Option<f64>,
    p99999: Option<f64>,
    max: Option<f64>,
    count: u64,
    behind: Behind,
}

impl From<Percentiles> for Written {
    fn from(all: Percentiles) -> Self {
        let known = |figure: fn(&Percentiles) -> f64| all.known(figure);
        Self {
            min: known(|all| all.min),
            mean: known(|all| all.mean),
            p50: known(|all| all.p50),
            p90: known(|all| all.p90),
            p99: known(|all| all.p99),
            p999: known(|all| all.p999),
            p9999: known(|all| all.p9999),
            p99999: known(|all| all.p99999),
            max: known(|all| all.max),
            count: all.count,
            behind: all.behind,
        }
    }
}

impl From<Written> for Percentiles {
    fn from(written: Written) -> Self {
        let Written { count, behind, .. } = written;
        let figure = |figure: Option<f64>| figure.unwrap_or_default();
        Self {
            min: figure(written.min),
            mean: figure(written.mean),
            p50: figure(written.p50),
            p90: figure(written.p90),
            p99: figure(written.p99),
            p999: figure(written.p999),
            p9999: figure(written.p9999),
            p99999: figure(written.p99999),
            max: figure(written.max),
            count,
            behind,
        }
    }
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
    /// One of them, where anything was recorded.
    pub fn known(&self, figure: fn(&Self) -> f64) -> Option<f64> {
        (self.count > 0).then(|| figure(self))
    }

    /// The same for people.
    pub fn told(&self, figure: fn(&Self) -> f64) -> String {
        self.known(figure).map_or(UNKNOWN.into(), us)
    }

    /// Half, 99 % and the largest, in words.
    pub fn in_short(&self) -> String {
        let [p50, p99, max] = [self.told(|l| l.p50), self.told(|l| l.p99), self.told(|l| l.max)];
        format!("p50 {p50}  p99 {p99}  max {max}")
    }

    /// Of all that was recorded.
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
    fn of_nothing_no_figure_is_written_or_read_as_zero() {
        let nothing = serde_json::to_value(Percentiles::default()).unwrap();
        assert!(nothing["p50"].is_null() && nothing["max"].is_null() && nothing["count"] == 0, "{nothing}");
        let again: Percentiles = serde_json::from_value(nothing).unwrap();
        assert_eq!((again.known(|l| l.p99), again.told(|l| l.p99)), (None, "–".into()));
    }

    #[test]
    fn microseconds_keep_three_digits_and_find_their_unit() {
        let seen: Vec<String> = [1.234, 56.78, 456.7, 1234.0, 56_780.0, 456_700.0, 2e6].map(us).into();
        assert_eq!(seen, ["1.23us", "56.8us", "457us", "1.23ms", "56.8ms", "457ms", "2.00s"]);
    }
}
