//! From figures to places on paper: scales, and where an axis has its ticks.

/// How an axis runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Evenly, from zero.
    Even,
    /// By factors: for what spans decades.
    Log,
}

/// From how large a ratio of the largest to the smallest figure an even axis shows the small ones as nothing.
const DECADES: f64 = 20.0;

impl Spacing {
    /// What shows all of these.
    pub fn that_shows(figures: impl Iterator<Item = f64>) -> Self {
        let (least, most) = figures.fold((f64::MAX, 0.0f64), |(a, b), x| (a.min(x), b.max(x)));
        if least > 0.0 && most / least > DECADES { Self::Log } else { Self::Even }
    }
}

/// A figure's place between two ends.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    spacing: Spacing,
    from: f64,
    to: f64,
    places: (f64, f64),
}

/// How many ticks an even axis has at most, besides zero.
const EVEN_TICKS: f64 = 4.0;

impl Scale {
    /// Holds all of the figures between round ends.
    pub fn over(spacing: Spacing, figures: impl Iterator<Item = f64>, places: (f64, f64)) -> Self {
        let good = figures.filter(|x| x.is_finite() && (spacing == Spacing::Even || *x > 0.0));
        let (least, most) = good.fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        let (from, to) = match spacing {
            _ if most < least => (if spacing == Spacing::Even { 0.0 } else { 1.0 }, 10.0), // nothing to hold
            Spacing::Even => {
                let step = step(most - least.min(0.0));
                ((least.min(0.0) / step).floor() * step, (most / step).ceil().max(1.0) * step)
            }
            Spacing::Log => (round_down(least), round_up(most)),
        };
        Self { spacing, from, to: if to > from { to } else { from * 2.0 }, places }
    }

    /// Holds what lies along an axis, up to the last of it: evenly from zero, by factors from the first.
    pub fn along(spacing: Spacing, steps: impl Iterator<Item = f64>, places: (f64, f64)) -> Self {
        let (least, most) = steps.fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        let from = if spacing == Spacing::Even { 0.0 } else { least };
        Self { spacing, from, to: if most > from { most } else { 2.0 * from + 1.0 }, places }
    }

    /// Where a figure stands. What lies outside stands at the end.
    pub fn at(&self, figure: f64) -> f64 {
        let share = match self.spacing {
            Spacing::Even => (figure - self.from) / (self.to - self.from),
            Spacing::Log => (figure.max(f64::MIN_POSITIVE) / self.from).ln() / (self.to / self.from).ln(),
        };
        self.places.0 + (self.places.1 - self.places.0) * share.clamp(0.0, 1.0)
    }

    /// Round figures, few, from the first end to the last.
    pub fn ticks(&self) -> Vec<f64> {
        match self.spacing {
            Spacing::Even => {
                let step = step(self.to - self.from);
                let n = ((self.to - self.from) / step + 1e-6).floor() as usize;
                (0..=n).map(|k| self.from + k as f64 * step).collect()
            }
            Spacing::Log => {
                let all = |mantissas: &[f64]| -> Vec<f64> {
                    let decades = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
                    let of = |decade: i32| mantissas.iter().map(move |m| m * 10f64.powi(decade));
                    let within = |x: &f64| *x >= self.from * 0.999 && *x <= self.to * 1.001;
                    decades.flat_map(of).filter(within).collect()
                };
                match (self.to / self.from).log10() {
                    decades if decades < 1.2 => all(&[1.0, 2.0, 5.0]),
                    decades if decades < 2.0 => all(&[1.0, 3.0]),
                    _ => all(&[1.0]),
                }
            }
        }
    }
}

/// 1, 2, 2.5 or 5 times a power of ten, so that few steps make up the length.
fn step(length: f64) -> f64 {
    round_up(length.max(f64::MIN_POSITIVE) / EVEN_TICKS)
}

fn round_up(figure: f64) -> f64 {
    let decade = 10f64.powf(figure.log10().floor());
    let mantissa = figure / decade;
    [1.0, 2.0, 2.5, 5.0].into_iter().find(|m| mantissa <= m * 1.0001).unwrap_or(10.0) * decade
}

fn round_down(figure: f64) -> f64 {
    let decade = 10f64.powf(figure.log10().floor());
    let mantissa = figure / decade;
    [5.0, 2.0].into_iter().find(|m| mantissa >= m * 0.9999).unwrap_or(1.0) * decade
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn over(spacing: Spacing, figures: &[f64]) -> Scale {
        Scale::over(spacing, figures.iter().copied(), (0.0, 100.0))
    }

    #[test]
    fn an_even_axis_begins_at_zero_and_ends_round() {
        let scale = over(Spacing::Even, &[31_000.0, 97_000.0]);
        assert_eq!(scale.ticks(), [0.0, 25e3, 50e3, 75e3, 100e3]);
        assert_eq!((scale.at(0.0), scale.at(50e3), scale.at(100e3)), (0.0, 50.0, 100.0));
    }

    #[test]
    fn an_axis_of_decades_has_a_tick_a_decade_and_a_short_one_more() {
        assert_eq!(over(Spacing::Log, &[12.0, 52_000.0]).ticks(), [10.0, 100.0, 1e3, 1e4, 1e5]);
        assert_eq!(over(Spacing::Log, &[12.0, 90.0]).ticks(), [10.0, 20.0, 50.0, 100.0]);
        assert!((over(Spacing::Log, &[10.0, 1000.0]).at(100.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn what_spans_decades_is_shown_by_factors() {
        assert_eq!(Spacing::that_shows([1.0, 19.0].into_iter()), Spacing::Even);
        assert_eq!(Spacing::that_shows([1.0, 21.0].into_iter()), Spacing::Log);
        assert_eq!(
            Spacing::that_shows([0.0, 21.0].into_iter()),
            Spacing::Even,
            "there is no factor of nothing"
        );
    }

    #[test]
    fn nothing_is_no_fault() {
        assert!(
            over(Spacing::Even, &[]).at(3.0).is_finite() && over(Spacing::Log, &[0.0]).at(3.0).is_finite()
        );
        assert!(over(Spacing::Even, &[0.0, 0.0]).at(0.0).is_finite());
        assert!(over(Spacing::Log, &[5.0]).at(5.0).is_finite());
    }

    proptest! {
        #[test]
        fn every_figure_lies_between_the_ticks_and_in_its_order(
            figures in prop::collection::vec(1e-3f64..1e9, 2..9), factors in any::<bool>(),
        ) {
            let scale = over(if factors { Spacing::Log } else { Spacing::Even }, &figures);
            let ticks = scale.ticks();
            prop_assert!((1..=14).contains(&ticks.len()), "{ticks:?}");
            for pair in figures.windows(2) {
                prop_assert_eq!(pair[0] <= pair[1], scale.at(pair[0]) <= scale.at(pair[1]));
            }
        }
    }
}
