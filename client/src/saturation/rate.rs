//! A server at a rate, and at all rates of a search.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arguments::Transport;

use super::{
    Bound,
    search::{Asked, End, Probe, RESOLUTION, Saturation, Search},
};
use crate::{
    interrupt,
    load::{Arrivals, Beyond, CLIENT_BOUND, Engine, Faults, Nobody, Onlooker, Pace, Window},
};

/// The share of the messages that were due which may have no answer, or none in the time, and the rate is kept.
pub const STARVING: f64 = 0.01;

/// What a search has found.
pub struct Found {
    /// The rates.
    pub saturation: Saturation,
    /// What was seen at the highest rate that was kept.
    pub best: Window,
    /// All answers, also those at other rates.
    pub messages_in_all: u64,
    /// What went wrong with a connection, which was the end of it.
    pub faults: Faults,
}

/// How long each rate is loaded, of so long where that is enough for the bound: what piles up must be seen to.
pub fn length(bound: Bound, usual: Duration) -> Duration {
    usual.max(10 * bound.most())
}

/// Searches the highest rate at which `bound` holds, each for [`length`] of `usual` after `warmup`. The engine has its connections;
/// its plan is an open loop. The onlooker is told which rates are tried.
pub fn find(
    engine: &Engine,
    bound: Bound,
    [warmup, usual]: [Duration; 2],
    stop: &Arc<AtomicBool>,
    onlooker: &mut dyn Onlooker,
) -> Found {
    let (mut kept, mut messages_in_all) = (Vec::new(), 0);
    let mut faults = Faults::default();
    let saturation = Search::USUAL.run(|rate| {
        onlooker.searches(rate);
        let pace = engine.plan().pace.at(rate);
        let window = engine.run_at(pace, warmup, length(bound, usual), &mut Nobody);
        messages_in_all += window.messages_in_all;
        if interrupt::requested(stop) {
            return Err(End::Interrupted);
        }
        if window.faults.iter().next().is_some() {
            faults.merge(window.faults);
            return Err(End::Broken);
        }
        let probe = judge(&window, bound);
        if probe.kept {
            kept.push((rate, window));
        }
        Ok(probe)
    });
    let highest = saturation.highest();
    let best = kept.into_iter().rfind(|(rate, _)| Some(*rate) == highest);
    Found { saturation, best: best.map_or_else(Window::new, |(_, window)| window), messages_in_all, faults }
}

impl Found {
    /// The rate next to the figure that we could not send at: the server may keep more than the figure.
    pub fn too_fast_for_us(&self) -> Option<f64> {
        let highest = self.saturation.highest()?;
        let next = highest..=highest * (1.0 + 2.0 * RESOLUTION);
        let asked: Vec<&Asked> =
            self.saturation.asked.iter().filter(|asked| next.contains(&asked.rate)).collect();
        let is_ours =
            |rate: f64| asked.iter().filter(|asked| asked.rate == rate).all(|asked| asked.probe.is_ours);
        asked.iter().map(|asked| asked.rate).find(|&rate| is_ours(rate))
    }
}

/// What a search begins with. Independent clients come by chance, as many strangers do, and stand in a queue before their
/// connection, which has one message on its way: a server reads together what has come together, and would do the work of one message
/// for all of that. Datagrams stay apart, so of those some may be on their way.
pub fn pace(transport: Transport) -> Pace {
    let (max_outstanding, beyond) = match transport {
        Transport::Tcp => (1, Beyond::Waits),
        Transport::Udp => (64, Beyond::Dropped),
    };
    Pace::Open { per_second: Search::USUAL.least, arrivals: Arrivals::Poisson, max_outstanding, beyond }
}

/// Whether a rate was kept: the bound holds, and the answers came and kept up. Where we sent late, that is in the
/// latencies: so a rate that was kept was kept all the more, and of one that was not nothing is known.
fn judge(window: &Window, bound: Bound) -> Probe {
    let punctuality = window.punctuality.as_ref();
    let due = punctuality.map_or(0, |kept| kept.due);
    // By Little's law so many are on their way at any time, also at the end.
    let on_their_way = window.rate().unwrap_or_default() * window.latency.mean() / 1e9;
    let missing = |answers: u64| due.saturating_sub(answers) as f64;
    let few = STARVING * due as f64 + 1.0;
    let keeps_up = window.messages > 0
        && missing(window.latency.len()) <= few
        && missing(window.messages) <= few + on_their_way;
    let figure = bound.figure(window);
    let kept = keeps_up && bound.holds(figure);
    let left_late = punctuality.is_some_and(|it| it.usual_lateness() > bound.lateness());
    let is_late = !kept && (left_late || window.pauses().next().is_some());
    let us = |percent: f64| window.percentile(percent).map(|ns| ns as f64 / 1000.0);
    let demand = window.busiest_demand.unwrap_or(window.busiest_thread);
    Probe {
        kept,
        is_late,
        is_ours: is_late && demand >= CLIENT_BOUND,
        messages_per_s: window.rate().unwrap_or_default(),
        p50_us: us(50.0),
        p99_us: us(99.0),
        bound_us: figure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Punctuality;

    /// A second in which 1,000 messages were due: so many were answered, of them so many in that second, in so many
    /// milliseconds each; sends left that late.
    fn second(answered: u64, in_time: u64, took_ms: u64, late_ms: u64) -> Window {
        let mut window = Window { measured: Duration::from_secs(1), messages: in_time, ..Window::new() };
        window.latency.record_n(took_ms * 1_000_000, answered).unwrap();
        let mut punctuality = Punctuality { due: 1000, ..Punctuality::new() };
        punctuality.lateness.record_n(late_ms * 1_000_000, 1000).unwrap();
        Window { punctuality: Some(punctuality), ..window }
    }

    fn judged(window: &Window) -> (bool, bool) {
        let Probe { kept, is_late, .. } = judge(window, Bound::of_p99(Duration::from_millis(20)));
        (kept, is_late)
    }

    #[test]
    fn a_rate_is_kept_where_answers_come_within_the_bound_and_keep_up() {
        assert_eq!(judged(&second(1000, 1000, 19, 0)), (true, false));
        assert_eq!(judged(&second(1000, 1000, 21, 0)), (false, false), "the bound");
        assert_eq!(judged(&second(1000, 980, 10, 0)), (true, false), "10 are on their way at the end");
        assert_eq!(judged(&second(1000, 970, 10, 0)), (false, false), "30 are: it falls behind");
        assert_eq!(judged(&second(980, 980, 1, 0)), (false, false), "20 had no answer");
        assert_eq!(judged(&second(0, 0, 1, 0)), (false, false), "nothing came");
    }

    #[test]
    fn lateness_of_ours_is_in_the_latencies_and_matters_only_where_a_rate_is_not_kept() {
        assert_eq!(judged(&second(1000, 1000, 15, 5)), (true, false));
        assert_eq!(judged(&second(1000, 1000, 25, 5)), (false, true), "nobody knows whose doing that was");
    }
}
