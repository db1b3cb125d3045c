//! The Universal Scalability Law (Gunther, 1993): throughput is `lambda n / (1 + contention (n - 1) + coherency n (n - 1))`
//! at n connections. It is fitted to what was measured, with an interval for each coefficient, and with the reasons
//! not to trust it.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::Serialize;
use usl::{MIN_MEASUREMENTS, Measurement, Model};

use super::{
    cell::{Cell, believed},
    comparison::LEAST_BLOCKS,
    plan::{Plan, Trial},
    scenario::{Drive, Scenario},
    statistics::median,
};

/// Throughput at a number of connections, answers a second.
pub type Point = (u32, f64);

/// A fitted figure, and the 95 % interval of the bootstrap over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Coefficient {
    /// Of all blocks together.
    pub fitted: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The law as it is fitted to one contender.
#[derive(Clone, Debug, Serialize)]
pub struct Scalability {
    /// Answers a second of one connection alone.
    pub lambda: Coefficient,
    /// The share of the work that must wait for others, 0 to 1: sigma.
    pub contention: Coefficient,
    /// What each pair of connections costs each other: kappa.
    pub coherency: Coefficient,
    /// Beyond so many connections throughput falls. `None` where coherency is not told apart from 0.
    pub peak: Option<Coefficient>,
    /// How much of the medians' spread the law explains; 1 is all of it.
    pub r_squared: f64,
    /// Why it is not to be trusted; empty where it is.
    pub doubts: Vec<String>,
}

/// How many numbers of connections a curve of three coefficients takes, and shows by the rest that it fits.
const FEWEST_NUMBERS: usize = 5;

/// With less of the medians' spread explained the law does not describe them.
const LEAST_R_SQUARED: f64 = 0.95;

/// No median may be further from the curve, as a share of it.
const FARTHEST: f64 = 0.2;

/// An interval may be as wide as this many times what was fitted,
const WIDEST: f64 = 1.5;

/// or a coefficient so small that it is less than this share of what the most connections cost each other.
const NEGLIGIBLE: f64 = 0.1;

/// How many times the blocks are drawn anew.
const RESAMPLES: usize = 400;

/// What is known of how one contender scales.
#[derive(Clone, Debug, Serialize)]
pub struct Law {
    /// What it was put to.
    pub scenario: Scenario,
    /// Who.
    pub contender: String,
    /// The law as it is fitted to it.
    pub fit: Option<Scalability>,
    /// Why there is none.
    pub reason: String,
}

/// The laws of all contenders, in every trial that has enough numbers of connections and a rate for each.
pub fn laws(plan: &Plan, cells: &[Cell]) -> Vec<Law> {
    let is_enough = |trial: &&Trial| {
        trial.connections.len() >= FEWEST_NUMBERS && trial.scenario.character().figure.needs_a_free_client
    };
    let of_trial = |trial: &'_ Trial| -> Vec<Law> {
        let law = |contender: &String| Law::of(trial, contender, plan.blocks, cells);
        trial.contenders.iter().map(law).collect()
    };
    plan.trial.iter().filter(is_enough).flat_map(of_trial).collect()
}

impl Law {
    fn of(trial: &Trial, contender: &str, blocks: usize, cells: &[Cell]) -> Self {
        let is_of = |cell: &&Cell| {
            cell.scenario == trial.scenario
                && cell.contender == contender
                && cell.drive == Drive::Closed
                && cell.size == trial.sizes[0]
        };
        let point = |cell: &Cell| Some((cell.connections as u32, cell.messages_per_s?));
        let block = |block| {
            believed(cells).filter(is_of).filter(|cell| cell.block == block).filter_map(point).collect()
        };
        let points: Vec<Vec<Point>> =
            (1..=blocks).map(block).filter(|points: &Vec<_>| !points.is_empty()).collect();
        let (fit, reason) = match Scalability::fit(&points) {
            Ok(fit) => (Some(fit), String::new()),
            Err(reason) => (None, reason),
        };
        Self { scenario: trial.scenario, contender: contender.into(), fit, reason }
    }
}

impl Scalability {
    /// Fits the law to the points of each block.
    ///
    /// # Errors
    /// A sentence, where there is too little to fit it to, or what is no throughput.
    pub fn fit(blocks: &[Vec<Point>]) -> Result<Self, String> {
        let medians = medians(blocks)?;
        let model = model(&blocks.concat());
        let draws = redrawn(blocks);
        if draws.len() < RESAMPLES / 2 {
            return Err("too few blocks have enough numbers of connections in common".into());
        }
        let of = |figure: fn(&Model) -> f64| Coefficient::of(figure, &model, &draws);
        let (contention, coherency) = (of(|model| model.sigma), of(|model| model.kappa));
        let peak = (coherency.low > 0.0 && model.sigma < 1.0).then(|| of(peak));
        let r_squared = r_squared(&model, &medians);
        let mut fit = Self {
            lambda: of(|model| model.lambda),
            contention,
            coherency,
            peak,
            r_squared,
            doubts: Vec::new(),
        };
        fit.doubts = fit.doubts(&medians);
        Ok(fit)
    }

    /// What it says of so many connections, answers a second.
    pub fn throughput(&self, connections: f64) -> f64 {
        let contended = self.contention.fitted * (connections - 1.0);
        let coherent = self.coherency.fitted * connections * (connections - 1.0);
        self.lambda.fitted * connections / (1.0 + contended + coherent)
    }

    fn doubts(&self, medians: &[Point]) -> Vec<String> {
        let Self { contention, coherency, peak, r_squared, .. } = self;
        let mut doubts = Vec::new();
        if *r_squared < LEAST_R_SQUARED {
            doubts.push(format!("it explains {r_squared:.2} of the spread (R²), {LEAST_R_SQUARED} would do"));
        }
        let off = |&(n, seen): &Point| (seen / self.throughput(f64::from(n)) - 1.0).abs();
        if let Some(worst) = medians.iter().max_by(|a, b| off(a).total_cmp(&off(b)))
            && off(worst) > FARTHEST
        {
            let (n, off) = (worst.0, 100.0 * off(worst));
            doubts.push(format!("at {n} connections it is {off:.0} % off, {:.0} would do", 100.0 * FARTHEST));
        }
        let most = f64::from(medians.iter().map(|&(n, _)| n).max().unwrap_or(1));
        let cost = 1.0 + (contention.fitted + coherency.fitted * most) * (most - 1.0);
        for (name, coefficient, weight) in
            [("contention", contention, most - 1.0), ("coherency", coherency, most * (most - 1.0))]
        {
            let Coefficient { fitted, low, high } = *coefficient;
            if high < 0.0 {
                doubts
                    .push(format!("its {name} is negative, {fitted:.2e}: more than each by itself would do"));
            } else if (high - low) > WIDEST * fitted.abs() && high * weight > NEGLIGIBLE * cost {
                doubts.push(format!("its {name} is hardly known: [{low:.2e}, {high:.2e}]"));
            }
        }
        if contention.low > 1.0 {
            doubts.push(format!("its contention is {:.2}, more than all of the work", contention.fitted));
        }
        if let Some(peak) = peak.filter(|peak| peak.fitted > most) {
            doubts.push(format!(
                "its peak, {:.0} connections, is beyond the {most} that were measured",
                peak.fitted
            ));
        }
        doubts
    }
}

impl Coefficient {
    fn of(figure: fn(&Model) -> f64, model: &Model, draws: &[Model]) -> Self {
        let mut drawn: Vec<f64> = draws.iter().map(figure).collect();
        drawn.sort_by(f64::total_cmp);
        let at = |share: f64| drawn[((drawn.len() - 1) as f64 * share).round() as usize];
        Self { fitted: figure(model), low: at(0.025), high: at(0.975) }
    }
}

/// The medians over the blocks, by the number of connections; or why they are not enough.
fn medians(blocks: &[Vec<Point>]) -> Result<Vec<Point>, String> {
    let mut of: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for &(n, throughput) in blocks.iter().flatten() {
        if n == 0 || !throughput.is_finite() || throughput <= 0.0 {
            return Err(format!("{throughput} answers a second at {n} connections are no throughput"));
        }
        of.entry(n).or_default().push(throughput);
    }
    let points = blocks.iter().flatten().count();
    match (of.len(), blocks.len()) {
        _ if points < MIN_MEASUREMENTS => {
            Err(format!("{points} cells that count are too few, {MIN_MEASUREMENTS} would do"))
        }
        (numbers, _) if numbers < FEWEST_NUMBERS => {
            Err(format!("{numbers} numbers of connections are too few, {FEWEST_NUMBERS} would do"))
        }
        (_, blocks) if blocks < LEAST_BLOCKS => {
            Err(format!("{blocks} blocks are too few, {LEAST_BLOCKS} would do"))
        }
        _ => Ok(of.into_iter().filter_map(|(n, all)| Some((n, median(&all)?))).collect()),
    }
}

/// Least squares. With points that are throughputs, and enough of them, the fitter cannot fail.
fn model(points: &[Point]) -> Model {
    points.iter().map(|&(n, throughput)| Measurement::concurrency_and_throughput(n, throughput)).collect()
}

/// The law, fitted to whole blocks that are drawn anew with replacement. A draw with too little in it is left out.
fn redrawn(blocks: &[Vec<Point>]) -> Vec<Model> {
    let mut random = StdRng::seed_from_u64(0);
    (0..RESAMPLES)
        .filter_map(|_| {
            let drawn: Vec<Point> =
                blocks.iter().flat_map(|_| &blocks[random.random_range(0..blocks.len())]).copied().collect();
            let mut numbers: Vec<u32> = drawn.iter().map(|&(n, _)| n).collect();
            numbers.sort_unstable();
            numbers.dedup();
            (numbers.len() >= FEWEST_NUMBERS && drawn.len() >= MIN_MEASUREMENTS).then(|| model(&drawn))
        })
        .collect()
}

/// At how many connections the throughput is highest.
fn peak(model: &Model) -> f64 {
    if model.kappa > 0.0 { ((1.0 - model.sigma).max(0.0) / model.kappa).sqrt() } else { f64::INFINITY }
}

fn r_squared(model: &Model, medians: &[Point]) -> f64 {
    let mean = medians.iter().map(|&(_, seen)| seen).sum::<f64>() / medians.len() as f64;
    let spread: f64 = medians.iter().map(|&(_, seen)| (seen - mean).powi(2)).sum();
    let unexplained: f64 =
        medians.iter().map(|&(n, seen)| (seen - model.throughput_at_concurrency(n)).powi(2)).sum();
    if spread > 0.0 { 1.0 - unexplained / spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_distr::{Distribution, Normal};

    use super::*;

    const NUMBERS: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

    fn law(lambda: f64, contention: f64, coherency: f64) -> impl Fn(u32) -> f64 {
        move |n| {
            let n = f64::from(n);
            lambda * n / (1.0 + contention * (n - 1.0) + coherency * n * (n - 1.0))
        }
    }

    /// What so many blocks see of a law, each figure off by some 3 %.
    fn seen(
        law: impl Fn(u32) -> f64,
        numbers: &[u32],
        blocks: usize,
        random: &mut StdRng,
    ) -> Vec<Vec<Point>> {
        let noise = Normal::new(1.0, 0.03).unwrap();
        (0..blocks).map(|_| numbers.iter().map(|&n| (n, law(n) * noise.sample(random))).collect()).collect()
    }

    fn holds(it: Coefficient, truth: f64) -> bool {
        it.low <= truth && truth <= it.high
    }

    #[test]
    fn a_law_is_recovered_from_what_ten_blocks_saw_of_it() {
        let mut random = StdRng::seed_from_u64(2);
        let (mut covered, runs) = (0, 20);
        for _ in 0..runs {
            let fit = Scalability::fit(&seen(law(9000.0, 0.05, 0.0004), &NUMBERS, 10, &mut random)).unwrap();
            assert_eq!(fit.doubts, [] as [String; 0]);
            assert!(fit.r_squared > 0.98 && (fit.contention.fitted - 0.05).abs() < 0.01, "{fit:?}");
            assert!((fit.throughput(16.0) / law(9000.0, 0.05, 0.0004)(16) - 1.0).abs() < 0.05);
            let peak = fit.peak.unwrap();
            covered += [(fit.lambda, 9000.0), (fit.contention, 0.05), (fit.coherency, 0.0004), (peak, 48.73)]
                .iter()
                .filter(|(it, truth)| holds(*it, *truth))
                .count();
        }
        assert!(covered >= 4 * runs * 8 / 10, "{covered} of {}", 4 * runs);
    }

    #[test]
    fn a_law_without_coherency_has_no_peak_and_is_trusted() {
        let mut random = StdRng::seed_from_u64(3);
        let fit = Scalability::fit(&seen(law(9000.0, 0.1, 0.0), &NUMBERS, 10, &mut random)).unwrap();
        assert_eq!((fit.peak, fit.doubts.len()), (None, 0), "{fit:?}");
    }

    #[test]
    fn a_peak_beyond_what_was_measured_is_doubted() {
        let mut random = StdRng::seed_from_u64(4);
        let fit = Scalability::fit(&seen(law(9000.0, 0.01, 0.0004), &NUMBERS[..6], 10, &mut random)).unwrap();
        assert!(fit.doubts.iter().any(|doubt| doubt.contains("beyond the 32")), "{fit:?}");
    }

    #[test]
    fn what_is_no_such_law_is_doubted() {
        for wave in [
            [100.0, 500.0, 100.0, 500.0, 100.0, 500.0, 100.0, 500.0],
            [500.0, 400.0, 300.0, 200.0, 100.0, 200.0, 300.0, 400.0],
            [100.0; 8],
        ] {
            let block: Vec<Point> = NUMBERS.into_iter().zip(wave).collect();
            let fit = Scalability::fit(&vec![block; 5]).unwrap();
            assert!(!fit.doubts.is_empty(), "{fit:?}");
        }
    }

    #[test]
    fn what_differs_from_block_to_block_is_hardly_known() {
        let mut random = StdRng::seed_from_u64(5);
        let blocks: Vec<Vec<Point>> = (0..5)
            .flat_map(|_| {
                let (contention, coherency) = (random.random_range(0.0..0.5), random.random_range(0.0..0.01));
                seen(law(9000.0, contention, coherency), &NUMBERS, 1, &mut random)
            })
            .collect();
        let fit = Scalability::fit(&blocks).unwrap();
        assert!(fit.doubts.iter().any(|doubt| doubt.contains("hardly known")), "{fit:?}");
    }

    #[test]
    fn too_little_is_refused_with_a_reason() {
        let block: Vec<Point> = NUMBERS.iter().map(|&n| (n, law(9000.0, 0.05, 0.0004)(n))).collect();
        let reason = |blocks: &[Vec<Point>]| Scalability::fit(blocks).unwrap_err();
        assert_eq!(reason(&vec![block[..4].to_vec(); 9]), "4 numbers of connections are too few, 5 would do");
        assert_eq!(reason(&vec![block.clone(); 2]), "2 blocks are too few, 3 would do");
        assert!(reason(&[]).contains("too few"));
        for nonsense in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            assert!(reason(&vec![vec![(1, nonsense)]; 5]).ends_with("are no throughput"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn no_throughput_whatever_breaks_the_fit(
            blocks in prop::collection::vec(prop::collection::vec((1u32..5000, 1e-3f64..1e7), 0..12), 0..6),
        ) {
            let _ = Scalability::fit(&blocks);
        }
    }
}
