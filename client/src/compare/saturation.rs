//! The highest rate that a server keeps: searched from below and from above, each several times.
//!
//! As the throughput of RFC 2544 (section 26.1) it is the highest rate at which a condition holds, found by asking anew
//! at another rate; here by doubling, then by bisection on a logarithmic scale. A server is no wire: how it does at a
//! rate may depend on whether it comes from rest or from overload, whose queues it has to work off. So there are two
//! figures, and each rate is met from its own side: from below after one that was kept, from above after one that was
//! not. And a rate may fail by another's fault: one that fails is asked again before it is believed.

use serde::Serialize;

use super::statistics::median;

/// What is searched, and how finely.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Search {
    /// The lowest rate that is asked for, a second: any server that works keeps it.
    pub least: f64,
    /// The first one, better below the figure than above it.
    pub first: f64,
    /// The highest.
    pub most: f64,
    /// How much higher than the figure a rate that is not kept may be, as a share of it: 0.05 is 5 %.
    pub resolution: f64,
    /// How often it is searched from each side.
    pub repeats: usize,
    /// How many rates may be asked for in all.
    pub probes: usize,
}

/// What was seen at a rate.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Probe {
    /// Whether p99 was below its bound, and the answers kept up.
    pub kept: bool,
    /// 99 % of the answers took no longer.
    pub p99_us: f64,
    /// Answers a second.
    pub messages_per_s: f64,
}

/// From where a rate is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// From rest.
    Below,
    /// From overload.
    Above,
}

/// A rate that was asked for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Asked {
    /// From which side.
    pub side: Side,
    /// Messages a second.
    pub rate: f64,
    /// Whether it was only to bring the server to rest or into overload.
    pub is_approach: bool,
    /// What was seen.
    #[serde(flatten)]
    pub probe: Probe,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Every repeat found its figure.
    Found,
    /// The lowest rate was not kept.
    NeverKept,
    /// The highest rate was kept: the figure is more than that.
    AlwaysKept,
    /// More rates would have had to be asked for.
    OutOfProbes,
    /// ^C.
    Interrupted,
}

impl End {
    /// As a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Found => "every repeat found its figure",
            Self::NeverKept => "not even the lowest rate was kept",
            Self::AlwaysKept => "the highest rate was kept",
            Self::OutOfProbes => "the rates that are kept could not be told from the others",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What a search found.
#[derive(Clone, Debug, Serialize)]
pub struct Saturation {
    /// How it ended. What was found until then is there.
    pub end: End,
    /// The highest rates kept, each repeat's, as they are met from below.
    pub from_below: Vec<f64>,
    /// The same from above.
    pub from_above: Vec<f64>,
    /// Whether the sides are further apart than the resolution and their repeats explain.
    pub hysteresis: bool,
    /// Every rate that was asked for, in order.
    pub asked: Vec<Asked>,
}

impl Saturation {
    /// The lower and the higher of the two sides' medians, messages a second. `None` where a side found nothing.
    pub fn bounds(&self) -> Option<(f64, f64)> {
        let (below, above) = (median(&self.from_below)?, median(&self.from_above)?);
        Some((below.min(above), below.max(above)))
    }
}

impl Search {
    /// Searches, with a probe that loads at a rate; `None` of it ends the search as interrupted.
    pub fn run(&self, probe: impl FnMut(f64) -> Option<Probe>) -> Saturation {
        let mut hunt = Hunt { search: self, probe, beyond: self.most, asked: Vec::new() };
        let (mut from_below, mut from_above) = (Vec::new(), Vec::new());
        let end = hunt.both_sides(&mut from_below, &mut from_above).err().unwrap_or(End::Found);
        let hysteresis = are_apart(&from_below, &from_above, 1.0 + self.resolution);
        Saturation { end, from_below, from_above, hysteresis, asked: hunt.asked }
    }
}

/// Whether all of one side are more than `by` times all of the other.
fn are_apart(a: &[f64], b: &[f64], by: f64) -> bool {
    let range = |side: &[f64]| {
        side.iter().fold((f64::INFINITY, 0.0f64), |(low, high), &rate| (low.min(rate), high.max(rate)))
    };
    let ((a_low, a_high), (b_low, b_high)) = (range(a), range(b));
    !a.is_empty() && !b.is_empty() && (a_low > b_high * by || b_low > a_high * by)
}

/// How often a rate is asked for before it is believed that it is not kept.
const ASKED_BEFORE_BELIEVED: usize = 2;

/// The same of the lowest: who does not keep that has no figure at all.
const ASKED_OF_THE_LOWEST: usize = 4;

struct Hunt<'a, F> {
    search: &'a Search,
    probe: F,
    /// A rate that is surely not kept, as far as is known.
    beyond: f64,
    asked: Vec<Asked>,
}

impl<F: FnMut(f64) -> Option<Probe>> Hunt<'_, F> {
    /// Each repeat begins where the last one found something.
    fn both_sides(&mut self, from_below: &mut Vec<f64>, from_above: &mut Vec<f64>) -> Result<(), End> {
        let Search { least, first, most, repeats, .. } = *self.search;
        let mut start = first.clamp(least, most);
        for _ in 0..repeats {
            let knee = self.climb(start)?;
            from_below.push(knee);
            self.beyond = (2.0 * knee).min(most);
            let again = self.descend()?;
            from_above.push(again);
            if knee == most && again == most {
                return Err(End::AlwaysKept);
            }
            start = (again / 2.0).max(least);
        }
        Ok(())
    }

    /// Doubles until a rate is not kept.
    fn climb(&mut self, start: f64) -> Result<f64, End> {
        let Search { least, most, .. } = *self.search;
        let (mut rate, mut kept, mut failed) = (start, None, None);
        loop {
            if self.keeps(Side::Below, rate)? {
                kept = Some(rate);
                if rate >= most {
                    return Ok(most);
                }
                rate = (2.0 * rate).min(most);
            } else {
                failed = Some(rate);
                if kept.is_none() && rate <= least {
                    return Err(End::NeverKept);
                }
                rate = (rate / 2.0).max(least);
            }
            if let (Some(kept), Some(failed)) = (kept, failed) {
                return self.bisect(Side::Below, kept, failed);
            }
        }
    }

    /// Halves until a rate is kept.
    fn descend(&mut self) -> Result<f64, End> {
        let Search { least, most, .. } = *self.search;
        let mut failed = None;
        let mut rate = self.beyond;
        loop {
            if self.keeps(Side::Above, rate)? {
                match failed {
                    Some(failed) => return self.bisect(Side::Above, rate, failed),
                    None if rate >= most => return Ok(most),
                    None => rate = (2.0 * rate).min(most), // it was not beyond
                }
                self.beyond = rate;
            } else if rate <= least {
                return Err(End::NeverKept);
            } else {
                failed = Some(rate);
                rate = (rate / 2.0).max(least);
            }
        }
    }

    /// Halves what lies between a rate that is kept and one that is not; returns what is kept.
    fn bisect(&mut self, side: Side, mut kept: f64, mut failed: f64) -> Result<f64, End> {
        while failed > kept * (1.0 + self.search.resolution) {
            let between = (kept * failed).sqrt();
            if self.keeps(side, between)? { kept = between } else { failed = between }
        }
        Ok(kept)
    }

    /// Whether a rate is kept, met from this side.
    fn keeps(&mut self, side: Side, rate: f64) -> Result<bool, End> {
        let is_the_lowest = rate <= self.search.least;
        for _ in 0..if is_the_lowest { ASKED_OF_THE_LOWEST } else { ASKED_BEFORE_BELIEVED } {
            self.approach(side)?;
            if self.ask(side, rate, false)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings the server to rest, or into overload, where the last rate did not leave it there.
    fn approach(&mut self, side: Side) -> Result<(), End> {
        let was_kept = self.asked.last().map(|last| last.probe.kept);
        match side {
            Side::Below if was_kept == Some(false) => self.ask(side, self.search.least, true)?,
            Side::Above if was_kept != Some(false) => self.ask(side, self.beyond, true)?,
            _ => true,
        };
        Ok(())
    }

    fn ask(&mut self, side: Side, rate: f64, is_approach: bool) -> Result<bool, End> {
        if self.asked.len() >= self.search.probes {
            return Err(End::OutOfProbes);
        }
        let probe = (self.probe)(rate).ok_or(End::Interrupted)?;
        self.asked.push(Asked { side, rate, is_approach, probe });
        Ok(probe.kept)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const SEARCH: Search =
        Search { least: 1000.0, first: 1000.0, most: 1_000_000.0, resolution: 0.05, repeats: 3, probes: 300 };

    fn seen(kept: bool) -> Option<Probe> {
        Some(Probe { kept, p99_us: if kept { 100.0 } else { 1e6 }, messages_per_s: 0.0 })
    }

    fn is_near(rate: f64, knee: f64) -> bool {
        rate <= knee && knee <= rate * 1.05
    }

    proptest! {
        #[test]
        fn an_exact_knee_is_found_from_both_sides(knee in 1000.0f64..999_000.0) {
            let found = SEARCH.run(|rate| seen(rate <= knee));
            prop_assert_eq!((found.end, found.hysteresis), (End::Found, false));
            prop_assert_eq!((found.from_below.len(), found.from_above.len()), (3, 3));
            prop_assert!(found.from_below.iter().chain(&found.from_above).all(|&rate| is_near(rate, knee)));
        }

        #[test]
        fn whatever_is_answered_the_search_ends_within_its_probes(answers in prop::collection::vec(any::<bool>(), 1..300)) {
            let mut answers = answers.into_iter().cycle();
            let found = SEARCH.run(|rate| {
                assert!((SEARCH.least..=SEARCH.most).contains(&rate), "{rate}");
                seen(answers.next().unwrap())
            });
            prop_assert!(found.asked.len() <= SEARCH.probes);
        }
    }

    #[test]
    fn a_knee_under_noise_is_found_and_noise_is_no_hysteresis() {
        let mut random = StdRng::seed_from_u64(1);
        let (mut near, mut hystereses, runs) = (0, 0, 200);
        for _ in 0..runs {
            // One probe in twenty fails by another's fault, and the knee lies somewhere else each time.
            let found = SEARCH.run(|rate| {
                let knee = 50_000.0 * random.random_range(0.95..1.05);
                seen(rate <= knee && !random.random_bool(0.05))
            });
            near += u32::from(found.bounds().is_some_and(|(low, high)| low > 45_000.0 && high < 55_000.0));
            hystereses += u32::from(found.hysteresis);
        }
        assert!(near > runs * 95 / 100 && hystereses < runs / 20, "{near}, {hystereses}");
    }

    #[test]
    fn who_recovers_late_from_overload_shows_hysteresis() {
        // Keeps up to 80,000; once overloaded, only from 40,000 down again.
        let mut is_overloaded = false;
        let found = SEARCH.run(|rate| {
            is_overloaded = rate > if is_overloaded { 40_000.0 } else { 80_000.0 };
            seen(!is_overloaded)
        });
        assert!(found.hysteresis, "{found:?}");
        assert!(found.from_below.iter().all(|&rate| is_near(rate, 80_000.0)), "{:?}", found.from_below);
        assert!(found.from_above.iter().all(|&rate| is_near(rate, 40_000.0)), "{:?}", found.from_above);
        let (low, high) = found.bounds().unwrap();
        assert!(low < 41_000.0 && high > 76_000.0);
    }

    #[test]
    fn who_never_keeps_a_rate_has_no_figure() {
        let found = SEARCH.run(|_| seen(false));
        assert_eq!((found.end, found.bounds()), (End::NeverKept, None));
        assert!(found.asked.len() <= 8);
    }

    #[test]
    fn who_keeps_every_rate_keeps_more_than_the_highest() {
        let found = SEARCH.run(|_| seen(true));
        assert_eq!((found.end, found.bounds()), (End::AlwaysKept, Some((1e6, 1e6))));
    }

    #[test]
    fn a_first_rate_near_the_figure_saves_probes_and_one_above_it_costs_no_figure() {
        for first in [1.0, 30_000.0, 400_000.0, 1e9] {
            let found = Search { first, repeats: 1, ..SEARCH }.run(|rate| seen(rate <= 50_000.0));
            assert!(is_near(found.from_below[0], 50_000.0) && is_near(found.from_above[0], 50_000.0));
            assert!(first != 30_000.0 || found.asked.len() < 30, "{}", found.asked.len());
        }
    }

    #[test]
    fn who_runs_out_of_probes_or_is_interrupted_keeps_what_was_found() {
        let few = Search { probes: 30, ..SEARCH }.run(|rate| seen(rate <= 50_000.0));
        assert_eq!((few.end, few.asked.len(), few.from_below.len()), (End::OutOfProbes, 30, 1));
        let mut left = 30;
        let cut = SEARCH.run(|rate| {
            left -= 1;
            (left > 0).then(|| seen(rate <= 50_000.0))?
        });
        assert_eq!((cut.end, cut.from_below.len()), (End::Interrupted, 1));
    }
}
