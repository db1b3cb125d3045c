//! Figures with their units, as a page writes them.

use crate::{cmd::load::us, compare::scenario::thousands};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// So many a second.
    PerSecond,
    /// Time, in microseconds.
    Time,
    /// Memory.
    Bytes,
    /// A number, or an index.
    Number,
    /// A share, 0 to 1.
    Share,
    /// Seconds since the beginning.
    Seconds,
    /// A percentile p, told as 1/(1-p): the first of how many is slower.
    Percentile,
}

impl Unit {
    /// With three digits or so, and a narrow space before the unit.
    pub fn written(self, figure: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", thousands(figure)),
            Self::Time => spaced(&us(figure).replace("us", "µs")),
            Self::Bytes => spaced(&format!("{}B", thousands(figure))),
            Self::Number if figure < 10.0 && figure.fract() != 0.0 => format!("{figure:.3}"),
            Self::Number => thousands(figure),
            Self::Share => format!("{:.3}\u{202f}%", 100.0 * figure),
            Self::Seconds => format!("{figure:.1}\u{202f}s"),
            Self::Percentile => {
                format!("{}\u{202f}%", trimmed(&format!("{:.4}", 100.0 * (1.0 - 1.0 / figure))))
            }
        }
    }

    /// As an axis says it: without zeros that say nothing.
    pub fn tick(self, figure: f64) -> String {
        let text = match self {
            Self::PerSecond => thousands(figure),
            _ if figure == 0.0 => "0".into(),
            _ => self.written(figure),
        };
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        format!("{}{unit}", trimmed(number))
    }

    /// A figure and its interval.
    pub fn interval(self, low: f64, high: f64) -> String {
        format!("[{}, {}]", self.written(low), self.written(high))
    }
}

/// Without the zeros behind the point that say nothing.
fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// A narrow space that does not break, between a number and its unit.
fn spaced(text: &str) -> String {
    let digits = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    format!("{}\u{202f}{}", &text[..digits], &text[digits..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_their_units_and_ticks_no_zeros_that_say_nothing() {
        let narrow = |text: String| text.replace('\u{202f}', " ");
        let written = |unit: Unit, figure| narrow(unit.written(figure));
        assert_eq!(written(Unit::PerSecond, 123_456.0), "123k/s");
        assert_eq!(written(Unit::Time, 12.34), "12.3 µs");
        assert_eq!(written(Unit::Bytes, 12_345.0), "12.3 kB");
        assert_eq!(written(Unit::Bytes, 312.0), "312 B");
        assert_eq!(written(Unit::Percentile, 1000.0), "99.9 %");
        let tick = |unit: Unit, figure| narrow(unit.tick(figure));
        assert_eq!(tick(Unit::Time, 10.0), "10 µs");
        assert_eq!(tick(Unit::Time, 5000.0), "5 ms");
        assert_eq!(tick(Unit::PerSecond, 20_000.0), "20k");
        assert_eq!(tick(Unit::Bytes, 2e6), "2 MB");
        assert_eq!(tick(Unit::Time, 0.0), "0");
    }
}
