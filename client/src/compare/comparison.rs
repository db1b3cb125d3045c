//! Who is told apart: all comparisons of a run, judged together.
//!
//! Within a block both contenders met about the same machine, so what is looked at is the logarithms of their
//! ratios within blocks. Some are far off, where the machine changed its speed between the two: the mean is a
//! trimmed one. Who makes many comparisons finds something by chance alone: the interval of each is as wide as their
//! number demands.

use serde::Serialize;
use special::Gamma;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::scenario::Scenario;

/// With fewer blocks than these nothing is said.
pub const BLOCKS_FOR_A_GLANCE: usize = 3;

/// How probable it may be that one or more of a run's comparisons tell equals apart.
pub const ERROR_OF_A_RUN: f64 = 0.01;

/// Two contenders at one point of a scenario, block by block.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What they were put to. Comparisons of one scenario are about equally unsteady.
    pub scenario: Scenario,
    /// The one, and the other.
    pub names: [String; 2],
    /// The logarithm of the one's merit over the other's, for each block in which both count.
    pub logs: Vec<f64>,
}

/// By how much one is better than another, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The trimmed mean of the ratios within blocks (their geometric one).
    pub middle: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end; infinite, in JSON `null`, where too few blocks say anything.
    pub high: f64,
    /// How sure it is by itself that the interval holds the true ratio, 0 to 1. All intervals of a run together are
    /// less sure.
    pub level: f64,
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
    /// Whether that is enough for a glance, and the interval leaves 1 out.
    pub told_apart: bool,
    /// How many comparisons were made, and had in mind.
    pub comparisons: usize,
}

impl Ratio {
    /// Two of whom next to nothing is known.
    fn unknown(middle: f64) -> Self {
        Self { middle, low: 0.0, high: f64::INFINITY, level: 1.0 }
    }

    /// The other's to the one.
    pub fn inverse(self) -> Self {
        Self { middle: 1.0 / self.middle, low: 1.0 / self.high, high: 1.0 / self.low, ..self }
    }
}

impl Verdict {
    fn of(comparison: &Comparison, ratio: Ratio, told_apart: bool, comparisons: usize) -> Self {
        let [one, other] = comparison.names.clone();
        let (leader, other, ratio) =
            if ratio.middle >= 1.0 { (one, other, ratio) } else { (other, one, ratio.inverse()) };
        Self { leader, other, ratio, pairs: comparison.logs.len(), told_apart, comparisons }
    }

    /// Whether it is about this one.
    pub fn is_about(&self, contender: &str) -> bool {
        self.leader == contender || self.other == contender
    }
}

/// Judges all comparisons of a run, so that with a probability of 1 % at most any of them tells equals apart;
/// the verdicts come in the order of the comparisons.
///
/// Each is a t-test of the trimmed mean (Tukey and McLaughlin, 1963), whose variance leans on those of its
/// scenario's other comparisons (Smyth, 2004). The least probable by chance is held to 1 % over their number, the next
/// to 1 % over one less, until one fails, and the rest to what that one was held to (Holm, 1979). The interval of
/// each has the level that it was held to, so it leaves 1 out where the two are told apart, and nowhere else.
pub fn judge(comparisons: &[Comparison]) -> Vec<Verdict> {
    let mut samples: Vec<Sample> = comparisons.iter().map(|it| Sample::of(&it.logs)).collect();
    lean_on_each_other(comparisons, &mut samples);
    let mut order: Vec<usize> =
        (0..samples.len()).filter(|&n| comparisons[n].logs.len() >= BLOCKS_FOR_A_GLANCE).collect();
    order.sort_by(|&a, &b| samples[a].chance().total_cmp(&samples[b].chance()));
    let mut verdicts: Vec<Verdict> = (comparisons.iter().zip(&samples))
        .map(|(it, sample)| Verdict::of(it, Ratio::unknown(sample.mean.exp()), false, order.len()))
        .collect();
    let (mut told_apart, mut held_to) = (true, ERROR_OF_A_RUN);
    for (before, &n) in order.iter().enumerate() {
        if told_apart {
            held_to = ERROR_OF_A_RUN / (order.len() - before) as f64;
            told_apart = samples[n].chance() <= held_to;
        }
        verdicts[n] = Verdict::of(&comparisons[n], samples[n].ratio(1.0 - held_to), told_apart, order.len());
    }
    verdicts
}

/// The share that is trimmed off either end: one block of five to nine, two of ten to fourteen.
const TRIMMED: f64 = 0.2;

/// A trimmed mean, and how sure it is.
#[derive(Clone, Copy, Debug)]
struct Sample {
    mean: f64,
    /// Of the mean.
    variance: f64,
    /// Degrees of freedom of that.
    freedom: f64,
}

impl Sample {
    /// The mean of those in the middle; its variance is that of all, with those trimmed off put where the
    /// middle ends (winsorized).
    fn of(logs: &[f64]) -> Self {
        let n = logs.len();
        let trimmed = (n as f64 * TRIMMED) as usize;
        let kept = (n - 2 * trimmed) as f64;
        let mut sorted = logs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = &sorted[trimmed..n - trimmed];
        let [Some(&first), Some(&last)] = [middle.first(), middle.last()] else {
            return Self { mean: 0.0, variance: 0.0, freedom: 0.0 };
        };
        let winsorized = || sorted.iter().map(|log| log.clamp(first, last));
        let centre = winsorized().sum::<f64>() / n as f64;
        let squares: f64 = winsorized().map(|log| (log - centre).powi(2)).sum();
        Self {
            mean: middle.iter().sum::<f64>() / kept,
            variance: squares / (kept * (kept - 1.0)),
            freedom: kept - 1.0,
        }
    }

    fn student(&self) -> StudentsT {
        StudentsT::new(0.0, 1.0, self.freedom).expect("the freedom of three blocks or more is positive")
    }

    /// How probable a mean as far from 0, of two who are equal.
    fn chance(&self) -> f64 {
        match self.mean.abs() / self.variance.sqrt() {
            t if t.is_nan() => 1.0, // the same in every block
            t => 2.0 * self.student().cdf(-t),
        }
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
/// logarithms tell the prior's variance and freedom). The others never weigh more than a comparison's own blocks.
fn lean_on_each_other(comparisons: &[Comparison], samples: &mut [Sample]) {
    let mut seen = Vec::new();
    for Comparison { scenario, .. } in comparisons {
        if seen.contains(scenario) {
            continue;
        }
        seen.push(*scenario);
        let of_it: Vec<usize> = (0..samples.len())
            .filter(|&n| comparisons[n].scenario == *scenario)
            .filter(|&n| comparisons[n].logs.len() >= BLOCKS_FOR_A_GLANCE && samples[n].variance > 0.0)
            .collect();
        let Some((variance, freedom)) = prior(of_it.iter().map(|&n| samples[n])) else { continue };
        for n in of_it {
            let own = samples[n];
            let lent = freedom.min(own.freedom);
            samples[n].freedom = own.freedom + lent;
            samples[n].variance = (own.freedom * own.variance + lent * variance) / samples[n].freedom;
        }
    }
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

    fn comparison(logs: &[f64]) -> Comparison {
        Comparison { scenario: Scenario::Echo, names: ["a".into(), "b".into()], logs: logs.into() }
    }

    /// Contenders called by their number, one and two of them equals, three of them a tenth slower, the others far from that, on a
    /// machine with two speeds a third apart that changes between them every half a minute.
    struct Run {
        contenders: usize,
        points: usize,
        blocks: usize,
    }

    const SLOWER: f64 = 0.9;

    impl Run {
        /// All pairs of them, as a run would see them.
        fn comparisons(&self, random: &mut StdRng) -> Vec<Comparison> {
            let (noise, change) = (Normal::new(0.0, 0.021).unwrap(), Exp::new(1.0 / 30.0).unwrap());
            let merits = [1.0, 1.0, SLOWER, 0.5, 0.74, 0.3];
            let (mut now, mut next, mut fast) = (0.0, change.sample(random), true);
            let mut logs = vec![vec![vec![0.0; self.contenders]; self.blocks]; self.points];
            for block in 0..self.blocks {
                for point in &mut logs {
                    let mut order: Vec<usize> = (0..self.contenders).collect();
                    order.shuffle(random);
                    for contender in order {
                        let (mut answers, end) = (0.0, now + 1.0);
                        while now < end {
                            let until = f64::min(next, end);
                            answers += (until - now) * if fast { 4.0 / 3.0 } else { 1.0 };
                            now = until;
                            if now == next {
                                (next, fast) = (now + change.sample(random), !fast);
                            }
                        }
                        point[block][contender] = f64::ln(answers * merits[contender]) + noise.sample(random);
                        now += 0.4; // it is stopped, and the next started
                        while next < now {
                            (next, fast) = (next + change.sample(random), !fast);
                        }
                    }
                }
            }
            let pairs = (0..self.contenders).flat_map(|a| (a + 1..self.contenders).map(move |b| (a, b)));
            let pairs: Vec<_> = pairs.collect();
            logs.iter()
                .flat_map(|blocks| {
                    pairs.iter().map(|&(a, b)| Comparison {
                        scenario: Scenario::Echo,
                        names: [(a + 1).to_string(), (b + 1).to_string()],
                        logs: blocks.iter().map(|block| block[a] - block[b]).collect(),
                    })
                })
                .collect()
        }

        /// In how many of so many runs a verdict tells the equals apart; and in how many of those about the tenth it is
        /// found, the right way round, with the true ratio inside the interval.
        fn errors_and_finds(&self, runs: u32) -> (f64, f64) {
            let mut random = StdRng::seed_from_u64(6);
            let (mut errors, mut finds, mut tenths) = (0, 0, 0);
            for _ in 0..runs {
                let verdicts = judge(&self.comparisons(&mut random));
                let equals = |verdict: &&Verdict| verdict.is_about("1") && verdict.is_about("2");
                errors += u32::from(verdicts.iter().filter(equals).any(|verdict| verdict.told_apart));
                for verdict in verdicts.iter().filter(|it| it.is_about("1") && it.is_about("3")) {
                    let holds_it = verdict.ratio.low * SLOWER <= 1.0 && verdict.ratio.high * SLOWER >= 1.0;
                    tenths += 1;
                    finds += u32::from(verdict.told_apart && verdict.leader == "1" && holds_it);
                }
            }
            (f64::from(errors) / f64::from(runs), f64::from(finds) / f64::from(tenths.max(1)))
        }
    }

    #[test]
    fn of_a_hundred_runs_two_at_most_tell_equals_apart() {
        for (contenders, points, blocks) in [(2, 1, 5), (2, 3, 10), (3, 3, 5), (3, 3, 10), (6, 3, 10)] {
            let (errors, _) = Run { contenders, points, blocks }.errors_and_finds(2000);
            assert!(errors <= 0.02, "{contenders} contenders, {points} points, {blocks} blocks: {errors}");
        }
    }

    #[test]
    fn a_tenth_is_found_by_ten_blocks_nineteen_times_in_twenty() {
        for (contenders, points) in [(3, 1), (3, 3), (6, 3)] {
            let (_, finds) = Run { contenders, points, blocks: 10 }.errors_and_finds(500);
            assert!(finds >= 0.95, "{contenders} contenders, {points} points: {finds}");
        }
    }

    #[test]
    fn five_blocks_tell_apart_what_is_half_as_fast() {
        let mut random = StdRng::seed_from_u64(1);
        let run = Run { contenders: 4, points: 3, blocks: 5 };
        let found = (0..100).filter(|_| {
            let verdicts = judge(&run.comparisons(&mut random));
            verdicts.iter().filter(|it| it.is_about("1") && it.is_about("4")).all(|it| it.told_apart)
        });
        assert!(found.count() >= 95);
    }

    #[test]
    fn the_more_is_compared_the_wider_are_the_intervals() {
        let one = comparison(&[0.1, 0.12, 0.08, 0.11, 0.09]);
        let (alone, among) = (judge(std::slice::from_ref(&one)), judge(&vec![one; 50]));
        assert!(alone[0].told_apart && alone[0].comparisons == 1 && among[0].comparisons == 50);
        assert!(among[0].ratio.level > alone[0].ratio.level);
    }

    #[test]
    fn two_blocks_say_nothing_and_are_no_comparison() {
        let verdicts = judge(&[comparison(&[0.7, 0.7]), comparison(&[]), comparison(&[0.1; 5])]);
        let told: Vec<bool> = verdicts.iter().map(|verdict| verdict.told_apart).collect();
        assert_eq!((told, verdicts[0].comparisons), (vec![false, false, true], 1));
        assert_eq!(verdicts[0].ratio, Ratio::unknown(f64::exp(0.7)));
    }

    #[test]
    fn who_are_the_same_in_every_block_are_not_told_apart() {
        let verdict = &judge(&[comparison(&[0.0; 5])])[0];
        assert_eq!((verdict.told_apart, verdict.ratio.low, verdict.ratio.high), (false, 1.0, 1.0));
    }

    #[test]
    fn a_block_that_is_far_off_changes_little() {
        let calm = [0.1, 0.12, 0.08, 0.11, 0.09, 0.1, 0.12, 0.08, 0.11, 0.09];
        let mut odd = calm;
        odd[3] -= 0.29;
        let (calm, odd) = (&judge(&[comparison(&calm)])[0], &judge(&[comparison(&odd)])[0]);
        assert!(odd.told_apart && (calm.ratio.middle / odd.ratio.middle - 1.0).abs() < 0.01);
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
            for (there, back) in judge(&there).iter().zip(judge(&back)) {
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
