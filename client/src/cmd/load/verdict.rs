//! Why a result does not count, or is to be doubted: names for programs, sentences for people.

use std::time::Duration;

use super::us;
use crate::load::{Faults, Ports, Punctuality, Window};

/// The share of a processor from which on a thread of the load may be what limits the result.
pub const CLIENT_BOUND: f64 = 0.9;

/// The share of the departures that may be dropped, and the figures still count.
const DROPPED: f64 = 0.001;

/// How long after `--start-at` a load may begin: about what a sleep is late.
const LATE: Duration = Duration::from_millis(50);

/// What is wrong with a result.
pub struct Verdict {
    /// Its name in the JSON.
    pub name: String,
    /// What it means, with figures where there are any.
    pub why: String,
    /// Whether the figures do not count.
    pub voids: bool,
}

/// What there is to judge a run by, or one that still goes on.
pub struct Evidence<'r> {
    /// How many connections were asked for.
    pub asked: usize,
    /// How many came up.
    pub established: usize,
    /// What was seen.
    pub window: &'r Window,
    /// All that went wrong.
    pub faults: &'r Faults,
    /// How many awkward clients there were.
    pub awkward: u64,
    /// How long after it should it began.
    pub late: Duration,
    /// Whether the user ended it.
    pub interrupted: bool,
    /// Whether the user changed its rate.
    pub rate_was_changed: bool,
}

impl Verdict {
    /// All that apply to a run whose sends may be so late.
    pub fn all(evidence: &Evidence<'_>, max_lateness: Duration) -> Vec<Self> {
        let Evidence { asked, established, window, faults, awkward, late: begun_late, .. } = *evidence;
        let Evidence { interrupted, rate_was_changed, .. } = *evidence;
        let wrong = faults.iter().any(|(fault, _, _)| fault.is_wrong_echo());
        let others = faults.iter().any(|(fault, _, _)| !fault.is_wrong_echo());
        let audit = window.audit.as_ref();
        let kept = window.punctuality.as_ref();
        [
            wrong.then(|| Self::void("wrong-echo", "the server answered wrongly; no figure here counts")),
            (established < asked)
                .then(|| Self::void("connections-short", format!("{established} of {asked} came up"))),
            (window.messages == 0).then(|| Self::void("no-answers", silence(awkward))),
            others
                .then(|| Self::void("errors", "some were refused or failed; the figures are of the others")),
            audit.is_some_and(|audit| audit.is_lossy()).then(|| Self::void("lossy", lossy(kept.is_some()))),
            audit
                .is_some_and(|audit| audit.is_repetitive())
                .then(|| Self::void("repetitive", "too many datagrams came twice")),
            kept.and_then(|kept| late(kept, max_lateness)).map(|why| Self::void("schedule-late", why)),
            kept.and_then(dropped).map(|why| Self::void("departures-dropped", why)),
            rate_was_changed.then(|| {
                Self::void("rate-changed", "it was changed by hand; the figures are of no one rate")
            }),
            interrupted.then(|| Self::doubt("interrupted", "less was measured than asked for")),
            (begun_late > LATE).then(|| Self::doubt("started-late", tardy(begun_late))),
            // What a busy client did not send in time would have been other figures.
            bound(window).map(|why| match kept {
                Some(kept) if kept.dropped > 0 || late(kept, max_lateness).is_some() => {
                    Self::void("client-bound", why)
                }
                _ => Self::doubt("client-bound", why),
            }),
        ]
        .into_iter()
        .flatten()
        .chain(window.pauses().map(|(name, why)| Self::void(name, why)))
        .collect()
    }

    /// That connecting is slow because ports are scarce, and not because the server is.
    pub fn of_ports(ports: &Ports) -> Option<Self> {
        let Ports { used, range, .. } = *ports;
        let why = format!(
            "{used} of the {range} ports of {} are in use towards the server, closed ones for a minute; a free one is \
             searched for ever longer: give more addresses with --source",
            ports.source
        );
        ports.are_short().then(|| Self::void("ports-short", why))
    }

    fn void(name: &str, why: impl Into<String>) -> Self {
        Self { name: name.into(), why: why.into(), voids: true }
    }

    fn doubt(name: &str, why: impl Into<String>) -> Self {
        Self { name: name.into(), why: why.into(), voids: false }
    }
}

/// A server of one client at a time is held by a client that says nothing.
fn silence(awkward: u64) -> String {
    let held = match awkward {
        0 => String::new(),
        n => format!(": the server did not get past {n} awkward client(s)"),
    };
    format!("nothing came back in the measured time{held}")
}

/// In a closed loop one that is lost keeps its place from the next one until it is given up.
fn lossy(is_open: bool) -> &'static str {
    if is_open {
        "too many datagrams lost or late"
    } else {
        "too many datagrams lost or late; each delays the next"
    }
}

/// A client that is kept from its processors is as much of a bound as one that is busy.
fn bound(window: &Window) -> Option<String> {
    let Window { busiest_thread, busiest_demand, .. } = *window;
    if busiest_thread >= CLIENT_BOUND {
        return Some("this client was busy; the server may be faster".into());
    }
    let demand = busiest_demand.filter(|demand| *demand >= CLIENT_BOUND)?;
    let (ran, waited) = (100.0 * busiest_thread, 100.0 * (demand - busiest_thread));
    Some(format!("it ran {ran:.0} % of the time and waited {waited:.0} % to run"))
}

fn tardy(late: Duration) -> String {
    format!("the connections were up {} after --start-at", us(late.as_secs_f64() * 1e6))
}

fn late(kept: &Punctuality, max_lateness: Duration) -> Option<String> {
    let p99 = kept.usual_lateness();
    let micros = |duration: Duration| us(duration.as_secs_f64() * 1e6);
    (p99 > max_lateness).then(|| format!("one send in 100 left {} late or later", micros(p99)))
}

fn dropped(kept: &Punctuality) -> Option<String> {
    let Punctuality { due, dropped, .. } = *kept;
    (dropped as f64 > due as f64 * DROPPED).then(|| format!("{dropped} of {due} messages did not leave"))
}
