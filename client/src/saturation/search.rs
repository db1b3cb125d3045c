//! The highest rate that is kept: searched from below and from above.
//!
//! As the throughput of RFC 2544 (section 26.1) it is the highest rate at which a condition holds, found by asking anew
//! at another rate; here by doubling, then by bisection on a logarithmic scale. A server is no wire: how it does at a
//! rate may depend on whether it comes from rest or from overload, whose queues it has to work off. So there are two
//! figures, and each rate is met from its own side: from below after one that was kept, from above after one that was
//! not. And a rate may fail by another's fault: one that fails is asked again before it is believed.

use serde::{Deserialize, Serialize};

/// What is searched, and how finely.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The lowest rate that is asked for, a second: any server that works keeps it.
    pub least: f64,
    /// The first one, better below the figure than above it.
    pub first: f64,
    /// The highest.
    pub most: f64,
    /// How much higher than the figure a rate that is not kept may be, as a share of it: 0.05 is 5 %.
    pub resolution: f64,
    /// How many rates may be asked for in all.
    pub probes: usize,
}

/// What was seen at a rate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// Whether it was kept.
    pub kept: bool,
    /// Whether it was not, and we sent late, so that it says nothing of the server.
    pub is_late: bool,
    /// Whether that was since we had no processor to spare: the server may keep more.
    pub is_ours: bool,
    /// Answers a second.
    pub messages_per_s: f64,
    /// Half of the answers took no longer, from when each message was due.
    pub p50_us: Option<f64>,
    /// 99 % of them.
    pub p99_us: Option<f64>,
    /// The percentile that is bound.
    pub bound_us: Option<f64>,
}

/// From where a rate is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// From rest.
    Below,
    /// From overload.
    Above,
}

/// A rate that was asked for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Both sides found their figure.
    Found,
    /// The lowest rate was not kept.
    NeverKept,
    /// The highest rate was kept: the figure is more than that.
    AlwaysKept,
    /// More rates would have had to be asked for.
    OutOfProbes,
    /// The server answered wrongly, or lost connections: what is asked for then is less than it seems.
    Broken,
    /// ^C.
    Interrupted,
}

impl End {
    /// As a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Found => "both sides found their figure",
            Self::NeverKept => "not even the lowest rate was kept",
            Self::AlwaysKept => "the highest rate was kept",
            Self::OutOfProbes => "the rates that are kept could not be told from the others",
            Self::Broken => "something went wrong with a connection, so that no more rates were asked for",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What a search found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saturation {
    /// How it ended. What was found until then is there.
    pub end: End,
    /// The highest rate kept, as it is met from below, messages a second.
    #[serde(rename = "from_below_per_s")]
    pub from_below: Option<f64>,
    /// The same from above.
    #[serde(rename = "from_above_per_s")]
    pub from_above: Option<f64>,
    /// Whether the sides are further apart than noise explains.
    pub hysteresis: bool,
    /// Every rate that was asked for, in order.
    pub asked: Vec<Asked>,
}

/// The rates of a written curve, and their p99 in microseconds, where that is known.
pub fn p99_by_rate(curve: &str) -> impl Iterator<Item = (f64, f64)> {
    curve.split(' ').filter_map(|point| {
        let mut figures = point.split(':');
        Some((figures.next()?.parse().ok()?, figures.next_back()?.parse().ok()?))
    })
}

impl Saturation {
    /// Each rate that we could send at in time, in their order: `rate:answers:p50:p99`, a second and in microseconds, a dash for what
    /// is not known.
    pub fn curve(&self) -> String {
        let mut asked: Vec<&Asked> =
            self.asked.iter().filter(|it| !it.is_approach && !it.probe.is_late).collect();
        asked.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let known = |us: Option<f64>| us.map_or("-".into(), |us| format!("{us:.0}"));
        let point = |Asked { rate, probe, .. }: &Asked| {
            format!("{rate:.0}:{:.0}:{}:{}", probe.messages_per_s, known(probe.p50_us), known(probe.p99_us))
        };
        asked.into_iter().map(point).collect::<Vec<_>>().join(" ")
    }

    /// The figure: the lower of the two sides'. `None` where a side found nothing.
    pub fn highest(&self) -> Option<f64> {
        Some(self.from_below?.min(self.from_above?))
    }
}

/// The rate that a search begins with.
pub const FIRST_RATE: f64 = 4000.0;

/// How finely the figure is found.
pub const RESOLUTION: f64 = 0.05;

impl Search {
    /// From 250 messages a second to a million, once from each side.
    pub const USUAL: Self =
        Self { least: 250.0, first: FIRST_RATE, most: 1e6, resolution: RESOLUTION, probes: 120 };

    /// Searches, with a probe that loads at a rate; an end of it ends the search.
    pub fn run(&self, probe: impl FnMut(f64) -> Result<Probe, End>) -> Saturation {
        let mut hunt = Hunt { search: self, probe, beyond: self.most, asked: Vec::new() };
        let (mut from_below, mut from_above) = (None, None);
        let end = hunt.both_sides(&mut from_below, &mut from_above).err().unwrap_or(End::Found);
        let apart = |below: f64, above: f64| below.max(above) > below.min(above) * APART;
        let hysteresis = from_below.zip(from_above).is_some_and(|(below, above)| apart(below, above));
        Saturation { end, from_below, from_above, hysteresis, asked: hunt.asked }
    }
}

/// How many times one side's figure must be the other's, before that is the server's doing: of servers without hysteresis, simulated
/// with noise, less than one search in a hundred has as much.
const APART: f64 = 1.25;

/// How often a rate is asked for before it is believed that it is not kept.
const ASKED_BEFORE_BELIEVED: usize = 4;

struct Hunt<'a, F> {
    search: &'a Search,
    probe: F,
    /// A rate that is surely not kept, as far as is known.
    beyond: f64,
    asked: Vec<Asked>,
}

impl<F: FnMut(f64) -> Result<Probe, End>> Hunt<'_, F> {
    fn both_sides(&mut self, from_below: &mut Option<f64>, from_above: &mut Option<f64>) -> Result<(), End> {
        let Search { least, first, most, .. } = *self.search;
        let knee = self.climb(first.clamp(least, most))?;
        *from_below = Some(knee);
        self.beyond = (2.0 * knee).min(most);
        let again = self.descend()?;
        *from_above = Some(again);
        if knee == most && again == most { Err(End::AlwaysKept) } else { Ok(()) }
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
        self.approach(side)?;
        for _ in 0..ASKED_BEFORE_BELIEVED {
            if self.ask(side, rate, false)?.kept {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings the server to rest, or into overload, where the last rate did not leave it there.
    fn approach(&mut self, side: Side) -> Result<(), End> {
        let was_kept = self.asked.last().map(|last| last.probe.kept);
        let rate = match side {
            Side::Below if was_kept == Some(false) => self.search.least,
            Side::Above if was_kept != Some(false) => self.beyond,
            _ => return Ok(()),
        };
        self.ask(side, rate, true)?;
        Ok(())
    }

    fn ask(&mut self, side: Side, rate: f64, is_approach: bool) -> Result<Probe, End> {
        if self.asked.len() >= self.search.probes {
            return Err(End::OutOfProbes);
        }
        let probe = (self.probe)(rate)?;
        self.asked.push(Asked { side, rate, is_approach, probe });
        Ok(probe)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn seen(kept: bool) -> Result<Probe, End> {
        let (p50_us, p99_us, bound_us) = (Some(50.0), Some(100.0), Some(100.0));
        Ok(Probe { kept, is_late: false, is_ours: false, messages_per_s: 0.0, p50_us, p99_us, bound_us })
    }

    fn is_near(rate: Option<f64>, knee: f64) -> bool {
        rate.is_some_and(|rate| rate <= knee && knee <= rate * (1.0 + RESOLUTION))
    }

    proptest! {
        #[test]
        fn an_exact_knee_is_found_from_both_sides(knee in 250.0f64..999_000.0) {
            let found = Search::USUAL.run(|rate| seen(rate <= knee));
            prop_assert_eq!((found.end, found.hysteresis), (End::Found, false));
            prop_assert!(is_near(found.from_below, knee) && is_near(found.from_above, knee));
        }

        #[test]
        fn whatever_is_answered_the_search_ends_within_its_probes(answers in prop::collection::vec(any::<bool>(), 1..300)) {
            let mut answers = answers.into_iter().cycle();
            let found = Search::USUAL.run(|rate| {
                assert!((Search::USUAL.least..=Search::USUAL.most).contains(&rate), "{rate}");
                seen(answers.next().unwrap())
            });
            prop_assert!(found.asked.len() <= Search::USUAL.probes);
        }
    }

    /// Searches of a server without hysteresis, whose knee lies up to 5 % somewhere else each time, where so many of the probes
    /// fail by another's fault: how many figures are within 10 % of it, how many have hysteresis, and how often a rate was asked
    /// for, in the mean.
    fn under_noise(runs: usize, failing: f64) -> (usize, usize, usize) {
        let mut random = StdRng::seed_from_u64(1);
        let (mut near, mut hystereses, mut asked) = (0, 0, 0);
        for _ in 0..runs {
            let found = Search::USUAL.run(|rate| {
                let knee = 50_000.0 * random.random_range(0.95..1.05);
                seen(rate <= knee && !random.random_bool(failing))
            });
            near += usize::from(found.highest().is_some_and(|rate| (45_000.0..55_000.0).contains(&rate)));
            hystereses += usize::from(found.hysteresis);
            asked += found.asked.len();
        }
        (near, hystereses, asked / runs)
    }

    #[test]
    fn a_knee_under_noise_is_found_and_noise_is_no_hysteresis() {
        for failing in [0.05, 0.2] {
            let (near, hystereses, asked) = under_noise(2000, failing);
            let told = format!("{failing}: {near} near, {hystereses} with hysteresis, {asked} asked");
            assert!(near >= 1960 && hystereses <= 20 && asked <= 45, "{told}");
        }
    }

    #[test]
    fn who_recovers_late_from_overload_shows_hysteresis() {
        // Keeps up to 80,000; once overloaded, only from 40,000 down again.
        let mut is_overloaded = false;
        let found = Search::USUAL.run(|rate| {
            is_overloaded = rate > if is_overloaded { 40_000.0 } else { 80_000.0 };
            seen(!is_overloaded)
        });
        assert!(found.hysteresis, "{found:?}");
        assert!(is_near(found.from_below, 80_000.0) && is_near(found.from_above, 40_000.0), "{found:?}");
        assert_eq!(found.highest(), found.from_above);
    }

    #[test]
    fn who_never_keeps_a_rate_has_no_figure() {
        let found = Search::USUAL.run(|_| seen(false));
        assert_eq!((found.end, found.highest()), (End::NeverKept, None));
        assert!(found.asked.len() <= 24, "{}", found.asked.len());
    }

    #[test]
    fn who_keeps_every_rate_keeps_more_than_the_highest() {
        let found = Search::USUAL.run(|_| seen(true));
        assert_eq!((found.end, found.highest()), (End::AlwaysKept, Some(1e6)));
    }

    #[test]
    fn a_first_rate_near_the_figure_saves_probes_and_one_above_it_costs_no_figure() {
        for first in [1.0, 30_000.0, 400_000.0, 1e9] {
            let found = Search { first, ..Search::USUAL }.run(|rate| seen(rate <= 50_000.0));
            assert!(is_near(found.from_below, 50_000.0) && is_near(found.from_above, 50_000.0));
            assert!(first != 30_000.0 || found.asked.len() < 40, "{}", found.asked.len());
        }
    }

    #[test]
    fn who_runs_out_of_probes_or_is_interrupted_keeps_what_was_found() {
        let few = Search { probes: 30, ..Search::USUAL }.run(|rate| seen(rate <= 50_000.0));
        assert_eq!((few.end, few.asked.len()), (End::OutOfProbes, 30));
        assert!(is_near(few.from_below, 50_000.0) && few.from_above.is_none(), "{few:?}");
        let mut left = 30;
        let cut = Search::USUAL.run(|rate| {
            left -= 1;
            if left > 0 { seen(rate <= 50_000.0) } else { Err(End::Interrupted) }
        });
        assert_eq!((cut.end, cut.from_below), (End::Interrupted, few.from_below));
    }
}
