//! What is to hold at a rate that is kept.

use std::{fmt, str::FromStr, time::Duration};

use crate::load::Window;

/// How long so many percent of the answers may take, from when each message was due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    name: &'static str,
    percent: f64,
    most: Duration,
}

/// The same on a schedule without a bound.
pub const LATE: Duration = Duration::from_millis(1);

/// The percentiles that may be bound.
const NAMES: [(&str, f64); 6] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99), ("max", 100.0)];

impl Bound {
    /// Of the percentile that is bound most.
    pub fn of_p99(most: Duration) -> Self {
        Self { name: "p99", percent: 99.0, most }
    }

    /// How much later than it was due a send may leave, but for one in 100: that is in the percentile, and is to be short against
    /// the bound.
    pub fn lateness(self) -> Duration {
        LATE.max(self.most / 10)
    }

    /// Its percentile.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// How long that may be.
    pub fn most(self) -> Duration {
        self.most
    }

    /// The percentile that is bound, in microseconds, of what was seen.
    pub fn figure(self, window: &Window) -> Option<f64> {
        window.percentile(self.percent).map(|ns| ns as f64 / 1000.0)
    }

    /// Whether such a percentile, in microseconds, is within it; one that is not known is not.
    pub fn holds(self, figure: Option<f64>) -> bool {
        figure.is_some_and(|us| us <= self.most.as_secs_f64() * 1e6)
    }
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("{text:?}; write it like 'p99<10ms', of {}", names.join(", "))
        };
        let (name, most) = text.split_once('<').ok_or_else(form)?;
        let &(name, percent) = NAMES.iter().find(|(it, _)| *it == name.trim()).ok_or_else(form)?;
        let most = arguments::duration(most.trim()).map_err(|_| form())?;
        if most.is_zero() { Err(form()) } else { Ok(Self { name, percent, most }) }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<{}", self.name, humantime::format_duration(self.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_read_as_it_is_written_and_holds_up_to_itself() {
        let bound: Bound = "p99.9 < 2ms".parse().unwrap();
        assert_eq!(bound.to_string(), "p99.9<2ms");
        assert!(bound.holds(Some(2000.0)) && !bound.holds(Some(2000.1)) && !bound.holds(None));
        assert_eq!("p99<10ms".parse(), Ok(Bound::of_p99(Duration::from_millis(10))));
    }

    #[test]
    fn what_is_no_bound_is_refused() {
        for text in ["", "p99", "p99>10ms", "p98<1ms", "p99<0s", "p99<soon", "rate<10ms"] {
            assert!(text.parse::<Bound>().is_err(), "{text}");
        }
    }
}
