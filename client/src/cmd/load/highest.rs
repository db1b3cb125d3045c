//! `--find-rate`: what the search before the load has found.

use serde::{Deserialize, Serialize};

use super::us;
use crate::saturation::{Asked, Bound, End, Found, Saturation};

/// The highest rate at which a bound holds, as it is told.
#[derive(Clone, Serialize, Deserialize)]
pub struct Highest {
    /// The bound, as it is typed.
    bound: String,
    /// The rate, messages a second.
    pub per_s: f64,
    /// Whether no higher rate is asked for, or we could not send at the next.
    is_at_least: bool,
    #[serde(flatten)]
    found: Saturation,
}

impl Highest {
    /// What was found.
    ///
    /// # Errors
    /// A sentence for the user, where no rate was.
    pub fn of(bound: Bound, found: Found) -> Result<Self, String> {
        let is_at_least = found.saturation.end == End::AlwaysKept || found.too_fast_for_us().is_some();
        let found = found.saturation;
        let Some(per_s) = found.highest() else {
            let last = found.asked.last().map_or(String::new(), |Asked { rate, probe, .. }| {
                let figure = probe.bound_us.map_or("not known".into(), us);
                let whose = if probe.is_late { ", and this client was late" } else { "" };
                format!(": at {rate:.0} a second {} was {figure}{whose}", bound.name())
            });
            return Err(format!("--find-rate {bound}: {}{last}", found.end.sentence()));
        };
        Ok(Self { bound: bound.to_string(), per_s, is_at_least, found })
    }

    /// For people: what was found, and a line for each rate.
    pub fn lines(&self) -> Vec<String> {
        let Self { bound, per_s, found, .. } = self;
        let more = if self.is_at_least { "or more " } else { "" };
        let mut lines = vec![format!("{per_s:.0} {more}a second with {bound}")];
        if let (true, Some(below), Some(above)) = (found.hysteresis, found.from_below, found.from_above) {
            lines.push(format!("from below {below:.0}, but {above:.0} coming from overload"));
        }
        let mut asked: Vec<&Asked> = found.asked.iter().filter(|asked| !asked.is_approach).collect();
        asked.sort_by(|a, b| a.rate.total_cmp(&b.rate).then(b.probe.kept.cmp(&a.probe.kept)));
        asked.dedup_by_key(|asked| asked.rate.round() as u64); // of several the one that was kept
        lines.extend(asked.into_iter().map(line));
        lines
    }
}

fn line(Asked { rate, probe, .. }: &Asked) -> String {
    let told = |figure: Option<f64>| figure.map_or("not known".into(), us);
    let kept = match (probe.kept, probe.is_late) {
        (true, _) => "kept",
        (false, true) => "this client was late",
        (false, false) => "not kept",
    };
    format!(
        "{rate:>8.0} offered: {:>8.0} answered; p50 {:>7} p99 {:>7}; {kept}",
        probe.messages_per_s,
        told(probe.p50_us),
        told(probe.p99_us)
    )
}
