//! Who is told apart: all comparisons of a run, judged together.
//!
//! What is looked at is the logarithms of two contenders' ratios, one a block: in a block both met the same machine, and were
//! started anew for it. Who makes many comparisons finds something by chance alone: the interval of each is as wide as their
//! number demands.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use special::Gamma;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::scenario::{Point, Scenario};

/// With fewer blocks than these nothing is said.
pub const LEAST_BLOCKS: usize = 3;

/// How probable it is taken to be that one or more of a run's intervals leave the true ratio out. The machine's jumps, and what
/// is lent between comparisons, add to it: on simulated machines of three kinds it stays below one run in twenty.
pub const ERROR_OF_A_RUN: f64 = 0.015;

/// Of how many degrees of freedom a variance must be, so that a point is decided by it: who looks after every block, and stops where
/// it happens to look small, must not be taken in by few.
const LEAST_FREEDOM: usize = 8;

/// Whether so many blocks of a contender and so many rivals tell how unsteady they are.
pub fn is_known(rivals: usize, blocks: usize) -> bool {
    rivals * blocks.saturating_sub(1) >= LEAST_FREEDOM
}

/// Two contenders at one point of a scenario, block by block.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What they were put to. Comparisons of one scenario are about equally unsteady.
    pub scenario: Scenario,
    /// Where.
    pub point: Point,
    /// The one, and the other.
    pub names: [String; 2],
    /// The logarithm of the one's merit over the other's, for each block in which both count.
    pub logs: Vec<f64>,
}

/// By how much one is better than another, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The geometric mean of the ratios within blocks.
    pub middle: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end; infinite, in JSON `null`, where too few blocks say anything.
    pub high: f64,
    /// How sure it is by itself that the interval holds the true ratio, 0 to 1. All intervals of a run together are
    /// less sure.
    pub level: f64,
}

/// The logarithm of the largest ratio of two that are equal, where a difference of `resolve` matters.
fn equality(resolve: f64) -> f64 {
    (1.0 + resolve).ln()
}

/// What can be said of two contenders.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The one with the better figure within blocks.
    pub leader: String,
    /// The other.
    pub other: String,
    /// By how much the leader's figure is better than the other's, within blocks: a ratio of at least 1.
    pub ratio: Ratio,
    /// How many blocks have a cell of both that counts.
    pub pairs: usize,
    /// Whether that is enough, and the interval leaves 1 out.
    pub told_apart: bool,
    /// Of two who are not told apart: by what share they surely differ no more, where a difference of that size does not matter.
    pub equal_within: Option<f64>,
    /// How many comparisons were made, and had in mind.
    pub comparisons: usize,
}

impl Ratio {
    /// Two of whom next to nothing is known.
    fn unknown(middle: f64) -> Self {
        Self { middle, low: 0.0, high: f64::INFINITY, level: 1.0 }
    }

    /// Whether it is known closely enough: all of the interval within `resolve`, so that they are equal, or its half no longer than
    /// half of the difference that is seen. That it has left 1 out decides nothing, so who stops here does not favour what chance has
    /// shown.
    pub fn is_close(self, resolve: f64) -> bool {
        self.reach() <= f64::max(equality(resolve) - self.middle.ln().abs(), self.middle.ln().abs() / 2.0)
    }

    /// How many times as many blocks would tell the two apart, or find them equal, if nothing new came up: an interval's width falls
    /// with the square root of the blocks.
    pub fn times_the_blocks(self, resolve: f64) -> f64 {
        let seen = self.middle.ln().abs();
        (self.reach() / f64::max(equality(resolve) - seen, seen)).powi(2)
    }

    /// Half of its width, as a logarithm.
    fn reach(self) -> f64 {
        (self.high / self.middle).ln()
    }

    /// The other's to the one.
    pub fn inverse(self) -> Self {
        Self { middle: 1.0 / self.middle, low: 1.0 / self.high, high: 1.0 / self.low, ..self }
    }
}

impl Verdict {
    fn of(comparison: &Comparison, ratio: Ratio, resolve: f64, comparisons: usize) -> Self {
        let [one, other] = comparison.names.clone();
        let (leader, other, ratio) =
            if ratio.middle >= 1.0 { (one, other, ratio) } else { (other, one, ratio.inverse()) };
        let told_apart = ratio.low > 1.0;
        let bound = f64::max(ratio.high, 1.0 / ratio.low) - 1.0;
        let equal_within = (!told_apart && bound <= resolve).then_some(bound);
        Self { leader, other, ratio, pairs: comparison.logs.len(), told_apart, equal_within, comparisons }
    }

    /// Whether it is about this one.
    pub fn is_about(&self, contender: &str) -> bool {
        self.leader == contender || self.other == contender
    }

    /// The one of the two that is not this one.
    pub fn against(&self, contender: &str) -> &str {
        if self.leader == contender { &self.other } else { &self.leader }
    }

    /// How many times better this one is than the other.
    pub fn ratio_of(&self, contender: &str) -> Ratio {
        if self.leader == contender { self.ratio } else { self.ratio.inverse() }
    }
}

/// Judges all comparisons of a run, so that all intervals hold together with a probability of about 98.5 %; the verdicts come in
/// the order of the comparisons.
///
/// Each is the t-interval of a mean, whose variance leans on those of its scenario's other comparisons (Smyth, 2004), at the
/// level that their number demands (Bonferroni). Two are told apart where it leaves 1 out, and equal where it does not reach a
/// difference of `resolve`.
pub fn judge(comparisons: &[Comparison], resolve: f64) -> Vec<Verdict> {
    let mut samples: Vec<Sample> = comparisons.iter().map(|it| Sample::of(&it.logs)).collect();
    lean_on_each_other(comparisons, &mut samples);
    let is_one = |comparison: &Comparison| comparison.logs.len() >= LEAST_BLOCKS;
    let all = comparisons.iter().filter(|it| is_one(it)).count();
    let level = 1.0 - ERROR_OF_A_RUN / all.max(1) as f64;
    let verdict = |(comparison, sample): (&Comparison, &Sample)| {
        let ratio = match is_one(comparison) {
            true => sample.ratio(level),
            false => Ratio::unknown(sample.mean.exp()),
        };
        Verdict::of(comparison, ratio, resolve, all)
    };
    comparisons.iter().zip(&samples).map(verdict).collect()
}

/// A mean, and how sure it is.
#[derive(Clone, Copy, Debug)]
struct Sample {
    mean: f64,
    /// Of the mean.
    variance: f64,
    /// Degrees of freedom of that.
    freedom: f64,
}

impl Sample {
    fn of(logs: &[f64]) -> Self {
        let (n, freedom) = (logs.len() as f64, logs.len().saturating_sub(1) as f64);
        let mean = logs.iter().sum::<f64>() / n.max(1.0);
        let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
        Self { mean, variance: squares / freedom.max(1.0) / n.max(1.0), freedom }
    }

    fn student(&self) -> StudentsT {
        StudentsT::new(0.0, 1.0, self.freedom).expect("the freedom of three blocks or more is positive")
    }

    fn ratio(&self, level: f64) -> Ratio {
        let reach = -self.student().inverse_cdf((1.0 - level) / 2.0) * self.variance.sqrt();
        Ratio {
            middle: self.mean.exp(),
            low: (self.mean - reach).exp(),
            high: (self.mean + reach).exp(),
            level,
        }
    }
}

/// Of few blocks a variance is hardly known. Where those of a scenario's comparisons resemble each other, each is
/// drawn to what they have in common, the more the closer they are (Smyth, 2004, section 6.2: the moments of their
/// logarithms tell the prior's variance and freedom). The pairs of a point are not independent: k contenders lend what k - 1
/// differences have seen.
fn lean_on_each_other(comparisons: &[Comparison], samples: &mut [Sample]) {
    let mut scenarios: BTreeMap<Scenario, Vec<usize>> = BTreeMap::new();
    for (n, comparison) in comparisons.iter().enumerate() {
        if comparison.logs.len() >= LEAST_BLOCKS && samples[n].variance > 0.0 {
            scenarios.entry(comparison.scenario).or_default().push(n);
        }
    }
    for of_it in scenarios.values() {
        let Some((variance, freedom)) = prior(of_it.iter().map(|&n| samples[n])) else { continue };
        let seen = independent(of_it.iter().map(|&n| (&comparisons[n], samples[n].freedom)));
        for &n in of_it {
            let own = samples[n];
            let lent = freedom.min((seen - own.freedom).max(0.0));
            samples[n].freedom = own.freedom + lent;
            samples[n].variance = (own.freedom * own.variance + lent * variance) / samples[n].freedom;
        }
    }
}

/// How many degrees of freedom the differences at all points have that do not follow from each other.
fn independent<'c>(comparisons: impl Iterator<Item = (&'c Comparison, f64)>) -> f64 {
    let mut points: BTreeMap<Point, (BTreeSet<&str>, f64)> = BTreeMap::new();
    for (comparison, freedom) in comparisons {
        let (names, least) = points.entry(comparison.point).or_insert((BTreeSet::new(), freedom));
        names.extend(comparison.names.iter().map(String::as_str));
        *least = least.min(freedom);
    }
    points.values().map(|(names, freedom)| (names.len() - 1) as f64 * freedom).sum()
}

/// The variance that samples have in common, and of how many degrees of freedom that is. `None` of fewer than three.
fn prior(samples: impl Iterator<Item = Sample>) -> Option<(f64, f64)> {
    let (logs, spreads): (Vec<f64>, Vec<f64>) = samples
        .map(|Sample { variance, freedom, .. }| {
            let half = freedom / 2.0;
            (variance.ln() - half.digamma() + half.ln(), half.trigamma())
        })
        .unzip();
    let n = logs.len() as f64;
    if n < 3.0 {
        return None;
    }
    let mean = logs.iter().sum::<f64>() / n;
    // How much they differ beyond what chance explains.
    let differ = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0)
        - spreads.iter().sum::<f64>() / n;
    let half = trigamma_is(differ);
    Some(((mean + half.digamma() - half.ln()).exp(), 2.0 * half))
}

/// Where the trigamma function, which falls, has this value; of too little, far out.
fn trigamma_is(value: f64) -> f64 {
    let (mut low, mut high) = (1e-6f64, 1e6f64);
    while high / low > 1.0 + 1e-9 {
        let between = (low * high).sqrt();
        if between.trigamma() > value { low = between } else { high = between }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
    use rand_distr::{Distribution, Exp, Normal};

    use super::*;
    use crate::compare::fit::{Rounds, calmed, differences};

    fn comparison(logs: &[f64]) -> Comparison {
        let names = ["a".into(), "b".into()];
        Comparison { scenario: Scenario::Echo, point: Point::default(), names, logs: logs.into() }
    }

    /// How a simulated machine's speed changes.
    #[derive(Clone, Copy, Debug)]
    enum Machine {
        /// Not at all.
        Calm,
        /// Between two speeds a third apart, every half a minute.
        TwoSpeeds,
        /// One slice in twenty is slower, by a third or so.
        Spikes,
    }

    /// A simulated run: contenders called by their number, one and two of them equals, three of them a little slower, the others far
    /// from that.
    #[derive(Clone, Copy, Debug)]
    struct Run {
        machine: Machine,
        contenders: usize,
        points: usize,
        blocks: usize,
        rounds: usize,
        /// Whether it ends when all is decided.
        stops: bool,
        /// The noise of a slice.
        noise: f64,
    }

    const SLOWER: f64 = 0.95;

    /// Which difference matters.
    const RESOLVE: f64 = 0.05;

    impl Run {
        /// The blocks at each point.
        fn played(&self, random: &mut StdRng) -> Vec<Vec<Rounds>> {
            const SLICE: f64 = 0.18;
            const STARTING: f64 = 1.5;
            let (noise, dealt) = (Normal::new(0.0, self.noise).unwrap(), Normal::new(0.0, 0.01).unwrap());
            let (change, spike) = (Exp::new(1.0 / 30.0).unwrap(), Exp::new(1.0 / 0.3).unwrap());
            let merits = [1.0, 1.0, SLOWER, 0.5, 0.74, 0.3, 0.8, 0.6];
            let (mut now, mut next, mut is_fast) = (0.0, change.sample(random), true);
            let mut point = || {
                let mut block = || -> Rounds {
                    let dealt: Vec<f64> = (0..self.contenders).map(|_| dealt.sample(random)).collect();
                    now += STARTING;
                    let mut round = |_| {
                        let mut logs = vec![None; self.contenders];
                        let mut order: Vec<usize> = (0..self.contenders).collect();
                        order.shuffle(random);
                        for contender in order {
                            now += SLICE;
                            while next < now {
                                (next, is_fast) = (next + change.sample(random), !is_fast);
                            }
                            let speed = match self.machine {
                                Machine::Calm => 0.0,
                                Machine::TwoSpeeds => f64::from(u8::from(is_fast)) * f64::ln(4.0 / 3.0),
                                Machine::Spikes if random.random_bool(0.05) => -spike.sample(random),
                                Machine::Spikes => 0.0,
                            };
                            let own = f64::ln(merits[contender]) + dealt[contender];
                            logs[contender] = Some(own + speed + noise.sample(random));
                        }
                        logs
                    };
                    (0..self.rounds).map(&mut round).collect()
                };
                (0..self.blocks).map(|_| block()).collect()
            };
            (0..self.points).map(|_| point()).collect()
        }

        /// What is said of all pairs after the first so many blocks.
        fn verdicts(&self, played: &[Vec<Rounds>], blocks: usize) -> Vec<Verdict> {
            let mut all = Vec::new();
            for (n, of_point) in played.iter().enumerate() {
                let point = Point { connections: n + 1, ..Point::default() };
                let calm = calmed(&of_point[..blocks]);
                let pairs = (0..self.contenders).flat_map(|a| (a + 1..self.contenders).map(move |b| (a, b)));
                all.extend(pairs.map(|(a, b)| Comparison {
                    scenario: Scenario::Echo,
                    point,
                    names: [(a + 1).to_string(), (b + 1).to_string()],
                    logs: differences(&calm, a, b),
                }));
            }
            judge(&all, RESOLVE)
        }

        /// What is said at its end: when all is decided, where it stops then.
        fn verdicts_at_the_end(&self, random: &mut StdRng) -> Vec<Verdict> {
            let played = self.played(random);
            let is_enough = |blocks: &usize| {
                let verdicts = self.verdicts(&played, *blocks);
                is_known(self.contenders - 1, *blocks)
                    && verdicts.iter().all(|verdict| verdict.ratio.is_close(RESOLVE))
            };
            let first = LEAST_BLOCKS.min(self.blocks);
            let end = (first..self.blocks).find(is_enough).filter(|_| self.stops).unwrap_or(self.blocks);
            self.verdicts(&played, end)
        }

        /// In how many of so many runs a verdict tells the equals apart; in how many of the comparisons with the slower one it
        /// is found, the right way round; and in how many of these the true ratio is in the interval.
        fn errors_finds_and_covers(&self, runs: u32) -> [f64; 3] {
            let mut random = StdRng::seed_from_u64(6);
            let (mut errors, mut finds, mut covers, mut slower) = (0, 0, 0, 0);
            for _ in 0..runs {
                let verdicts = self.verdicts_at_the_end(&mut random);
                let equals = |verdict: &&Verdict| verdict.is_about("1") && verdict.is_about("2");
                errors += u32::from(verdicts.iter().filter(equals).any(|verdict| verdict.told_apart));
                for verdict in verdicts.iter().filter(|it| it.is_about("1") && it.is_about("3")) {
                    let ratio = if verdict.leader == "1" { verdict.ratio } else { verdict.ratio.inverse() };
                    slower += 1;
                    finds += u32::from(verdict.told_apart && verdict.leader == "1");
                    covers += u32::from(ratio.low * SLOWER <= 1.0 && ratio.high * SLOWER >= 1.0);
                }
            }
            let share = |n: u32, of: u32| if of == 0 { 1.0 } else { f64::from(n) / f64::from(of) };
            [share(errors, runs), share(finds, slower), share(covers, slower)]
        }
    }

    const MACHINES: [Machine; 3] = [Machine::Calm, Machine::TwoSpeeds, Machine::Spikes];

    /// What is promised of runs of every size on every machine, with some room for the chance of so many runs.
    fn hold(runs: u32, room: f64) {
        let sizes = [(2, 1, 8, 2), (2, 3, 5, 2), (3, 1, 5, 3), (8, 2, 3, 8)];
        for machine in MACHINES {
            for (contenders, points, blocks, rounds) in sizes {
                let run = Run { machine, contenders, points, blocks, rounds, stops: false, noise: 0.03 };
                let [errors, finds, covers] = run.errors_finds_and_covers(runs);
                println!("{run:?}: {errors:.3} {finds:.3} {covers:.3}");
                assert!(errors <= 0.05 + room && covers >= 0.95 - room, "{run:?}: {errors} {covers}");
            }
            for (contenders, rounds) in [(2, 2), (3, 4)] {
                let run =
                    Run { machine, contenders, points: 1, blocks: 12, rounds, stops: true, noise: 0.03 };
                let [errors, finds, covers] = run.errors_finds_and_covers(runs);
                println!("{run:?}: {errors:.3} {finds:.3} {covers:.3}");
                assert!(errors <= 0.05 + room && covers >= 0.95 - room, "{run:?}: {errors} {covers}");
            }
            let long =
                Run { machine, contenders: 3, points: 1, blocks: 12, rounds: 4, stops: false, noise: 0.03 };
            let [errors, finds, covers] = long.errors_finds_and_covers(runs);
            println!("{long:?}: {errors:.3} {finds:.3} {covers:.3}");
            assert!(finds >= 0.9 - room, "{long:?}: {finds}");
        }
    }

    #[test]
    fn one_run_in_twenty_at_most_tells_equals_apart_and_what_is_slower_by_a_twentieth_is_found() {
        hold(200, 0.03);
    }

    #[test]
    #[ignore = "some minutes where nothing is optimised: make test-all makes them, and make honesty"]
    fn two_thousand_simulated_runs_of_each_kind_keep_what_is_promised() {
        hold(2000, 0.0);
        for machine in MACHINES {
            for (contenders, rounds) in [(2, 20), (3, 12)] {
                let run =
                    Run { machine, contenders, points: 1, blocks: 30, rounds, stops: true, noise: 0.15 };
                let [errors, finds, covers] = run.errors_finds_and_covers(2000);
                println!("{run:?}: {errors:.3} {finds:.3} {covers:.3}");
                assert!(errors <= 0.05 && covers >= 0.95, "{run:?}: {errors} {covers}");
            }
        }
    }

    #[test]
    fn the_more_is_compared_the_wider_are_the_intervals() {
        let one = comparison(&[0.1, 0.12, 0.08, 0.11, 0.09]);
        let (alone, among) = (judge(std::slice::from_ref(&one), RESOLVE), judge(&vec![one; 50], RESOLVE));
        assert!(alone[0].told_apart && alone[0].comparisons == 1 && among[0].comparisons == 50);
        assert!(among[0].ratio.level > alone[0].ratio.level);
    }

    #[test]
    fn two_blocks_say_nothing_and_are_no_comparison() {
        let verdicts = judge(&[comparison(&[0.7, 0.7]), comparison(&[]), comparison(&[0.1; 5])], RESOLVE);
        let told: Vec<bool> = verdicts.iter().map(|verdict| verdict.told_apart).collect();
        assert_eq!((told, verdicts[0].comparisons), (vec![false, false, true], 1));
        assert_eq!(verdicts[0].ratio, Ratio::unknown(f64::exp(0.7)));
    }

    #[test]
    fn who_are_the_same_in_every_block_are_not_told_apart() {
        let verdict = &judge(&[comparison(&[0.0; 5])], RESOLVE)[0];
        assert_eq!((verdict.told_apart, verdict.ratio.low, verdict.ratio.high), (false, 1.0, 1.0));
    }

    #[test]
    fn the_trigamma_function_is_turned_round() {
        for x in [0.01, 0.5, 3.0, 1000.0] {
            assert!((trigamma_is(x.trigamma()) / x - 1.0).abs() < 1e-3, "{x}");
        }
    }

    proptest! {
        #[test]
        fn the_verdict_and_the_interval_agree_and_whoever_comes_first_they_are_the_same(
            all in prop::collection::vec(prop::collection::vec(-0.3f64..0.5, 3..12), 1..20),
        ) {
            let there: Vec<Comparison> = all.iter().map(|logs| comparison(logs)).collect();
            let back: Vec<Comparison> = all
                .iter()
                .map(|logs| Comparison {
                    names: ["b".into(), "a".into()],
                    ..comparison(&logs.iter().map(|log| -log).collect::<Vec<_>>())
                })
                .collect();
            for (there, back) in judge(&there, RESOLVE).iter().zip(judge(&back, RESOLVE)) {
                prop_assert_eq!(there.told_apart, there.ratio.low > 1.0);
                prop_assert!(there.ratio.low <= there.ratio.middle && there.ratio.middle <= there.ratio.high);
                prop_assert_eq!((there.told_apart, &there.leader), (back.told_apart, &back.leader));
            }
        }
    }

    #[test]
    fn chance_has_no_favourite_among_the_blocks() {
        let mut random = StdRng::seed_from_u64(3);
        let logs: Vec<f64> = (0..10).map(|_| random.random_range(-0.1..0.2)).collect();
        let mut shuffled = logs.clone();
        shuffled.shuffle(&mut random);
        assert!((Sample::of(&logs).mean - Sample::of(&shuffled).mean).abs() < 1e-12);
    }
}
