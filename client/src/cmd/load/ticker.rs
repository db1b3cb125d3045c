//! How a run goes, in one line on the terminal.

use std::time::Duration;

use super::course::{Course, Display};
use crate::progress::Progress;

/// One line on stderr, where that is a terminal.
pub struct Ticker(Progress);

impl Ticker {
    /// One that says nothing yet; none where nobody would see it.
    pub fn on_terminal() -> Option<Self> {
        Progress::of_words().map(Self)
    }
}

impl Display for Ticker {
    const EVERY: Duration = Duration::from_millis(250);

    fn show(&mut self, course: &Course) -> Option<f64> {
        self.0.doing(fitting(words(course), self.0.columns()));
        None
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What may stay away where the line is short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Light,
    Middling,
    Heavy,
}

fn words(course: &Course) -> Vec<(Weight, String)> {
    let mut words = vec![(Weight::Middling, course.doing())];
    if let Some(second) = course.last() {
        words.push((Weight::Heavy, format!("{:.0}/s", second.answers)));
        let told = |figure| course.told(&second.latency, figure);
        words.push((Weight::Light, format!("p50 {}", told(second.latency.p50))));
        words.push((Weight::Heavy, format!("p99 {}", told(second.latency.p99))));
    }
    if let Some(missing @ 1..) = course.window.audit.map(|audit| audit.lost + audit.late) {
        words.push((Weight::Middling, format!("{missing} lost")));
    }
    words.push(match course.errors().values().sum() {
        0 => (Weight::Light, "no errors".into()),
        1 => (Weight::Heavy, "1 error".into()),
        errors => (Weight::Heavy, format!("{errors} errors")),
    });
    words
}

/// Those that fit into a line: of equally light ones the last goes first.
fn fitting(mut words: Vec<(Weight, String)>, columns: usize) -> String {
    loop {
        let texts: Vec<&str> = words.iter().map(|(_, text)| text.as_str()).collect();
        let line = texts.join("  ");
        let lightest = words.iter().enumerate().rev().min_by_key(|(_, (weight, _))| *weight);
        match lightest.map(|(n, _)| n).filter(|_| line.len() > columns) {
            Some(lightest) => drop(words.remove(lightest)),
            None => return line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_line_keeps_what_weighs_most() {
        let all = || {
            [
                (Weight::Middling, "7s left"),
                (Weight::Heavy, "22000/s"),
                (Weight::Light, "p50 91us"),
                (Weight::Heavy, "p99 1.21ms"),
                (Weight::Light, "no errors"),
            ]
            .map(|(weight, text)| (weight, text.to_owned()))
            .into()
        };
        let whole = "7s left  22000/s  p50 91us  p99 1.21ms  no errors";
        assert_eq!(fitting(all(), 80), whole);
        assert_eq!(fitting(all(), whole.len()), whole);
        assert_eq!(fitting(all(), whole.len() - 1), "7s left  22000/s  p50 91us  p99 1.21ms");
        assert_eq!(fitting(all(), 30), "7s left  22000/s  p99 1.21ms");
        assert_eq!(fitting(all(), 20), "22000/s  p99 1.21ms");
        assert_eq!(fitting(all(), 10), "22000/s");
        assert_eq!(fitting(all(), 3), "");
    }
}
