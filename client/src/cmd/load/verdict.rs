//! Why a result does not count, or is to be doubted: names for programs, sentences for people.

use std::time::Duration;

use super::us;
use crate::{
    load::{CLIENT_BOUND, Faults, Ports, Punctuality, Second, Window},
    saturation::Bound,
};

/// The verdict that ranks did not load at the same time.
pub const UNSYNCHRONISED: &str = "unsynchronised";

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
            outage(window, established).map(|why| Self::doubt(OUTAGE, why)),
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

    /// That a rate which held for the short time of a search does not for the load's.
    pub fn of_bound(bound: Bound, window: &Window) -> Option<Self> {
        let figure = bound.figure(window);
        let told = || figure.map_or("not known".into(), us);
        let why = || {
            format!(
                "over the whole load {} was {}; in the search, for shorter times, the bound held",
                bound.name(),
                told()
            )
        };
        (!bound.holds(figure)).then(|| Self::doubt("not-sustained", why()))
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

    /// One for which the figures do not count.
    pub fn void(name: &str, why: impl Into<String>) -> Self {
        Self { name: name.into(), why: why.into(), voids: true }
    }

    /// One for which they are to be doubted.
    pub fn doubt(name: &str, why: impl Into<String>) -> Self {
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

/// The verdict that nothing came back for a while.
pub const OUTAGE: &str = "outage";

/// How many usual intervals without an answer are none that is usual.
const UNUSUAL: f64 = 2.0;

/// A part of the measured time in which nothing came back, though something was to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When it began, counted from the beginning of the measured time.
    pub from: Duration,
    /// How long it was, in whole seconds (of the series).
    pub length: Duration,
}

impl Outage {
    /// Those of a run that had so many connections: seconds without an answer, together longer than any wait that is
    /// usual in that run. In an open loop something was due in each.
    pub fn all(window: &Window, connections: usize) -> Vec<Self> {
        // Of a connection in a closed loop, which waits for its answer; of all, where messages depart whatever comes.
        let waiting = if window.punctuality.is_some() { 1 } else { connections };
        let usual = window.measured.as_secs_f64() * waiting as f64 / window.messages.max(1) as f64;
        let mut all = Vec::<Self>::new();
        for second in window.series.iter().filter(|second| is_empty(second)) {
            match all.last_mut() {
                Some(last) if last.from + last.length == second.begin => last.length += second.length,
                _ => all.push(Self { from: second.begin, length: second.length }),
            }
        }
        all.retain(|outage| outage.length.as_secs_f64() > UNUSUAL * usual);
        all
    }

    /// Whether a second of the series lies in it.
    pub fn holds(&self, second: &Second) -> bool {
        (self.from..self.from + self.length).contains(&second.begin)
    }
}

/// Whether a whole second has no answer, and should.
fn is_empty(second: &Second) -> bool {
    let is_whole = second.length >= Duration::from_secs(1);
    is_whole && second.messages == 0 && second.kept.as_ref().is_none_or(|kept| kept.due > 0)
}

/// How many outages are told one by one.
const TOLD: usize = 3;

fn outage(window: &Window, connections: usize) -> Option<String> {
    let all = Outage::all(window, connections);
    if all.is_empty() || window.messages == 0 {
        return None;
    }
    let times = all.iter().take(TOLD).map(|Outage { from, length }| {
        format!("{:.0} s from {:.0} s on", length.as_secs_f64(), from.as_secs_f64())
    });
    let times: Vec<String> = times.collect();
    let more = match all.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let percentiles = match window.punctuality {
        Some(_) => "",
        None => "; few messages waited, so the percentiles do not tell of it",
    };
    Some(format!("nothing came back for at least {}{more}{percentiles}", times.join(", ")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Interval, Punctuality};

    /// A run with so many answers in each second; in an open loop with so many that were due.
    fn run(answers: &[u64], due: Option<&[u64]>) -> Window {
        let mut window = Window::new();
        for (n, &messages) in answers.iter().enumerate() {
            let punctuality = due.map(|due| Punctuality { due: due[n], ..Punctuality::new() });
            let second = Interval { messages, punctuality, ..Interval::new() };
            window.series.push(Second::of(&second, Duration::from_secs(n as u64), Duration::from_secs(1)));
            window.put(&second);
        }
        window.measured = Duration::from_secs(answers.len() as u64);
        window
    }

    fn outages(window: &Window, connections: usize) -> Vec<(u64, u64)> {
        let all = Outage::all(window, connections).into_iter();
        all.map(|outage| (outage.from.as_secs(), outage.length.as_secs())).collect()
    }

    #[test]
    fn seconds_without_an_answer_are_an_outage_and_said_to_be_one() {
        let window = run(&[900, 0, 0, 900, 900, 0, 900], None);
        assert_eq!(outages(&window, 64), [(1, 2), (5, 1)]);
        let said = outage(&window, 64).unwrap();
        assert!(said.contains("at least 2 s from 1 s on, 1 s from 5 s on"), "{said}");
        assert!(said.contains("percentiles"), "{said}");
        let open = run(&[900, 0, 900], Some(&[900, 900, 900]));
        assert_eq!(outages(&open, 64), [(1, 1)]);
        assert!(!outage(&open, 64).unwrap().contains("percentiles"), "there each message tells");
    }

    #[test]
    fn what_is_slow_is_no_outage() {
        // An answer takes two seconds and a half.
        assert_eq!(outages(&run(&[0, 0, 1, 0, 1, 0, 0, 1], None), 1), []);
        // Nothing was due.
        assert_eq!(outages(&run(&[1, 0, 0, 1], Some(&[1, 0, 0, 1])), 1), []);
        // Nothing came at all: there is another verdict for that.
        assert_eq!(outage(&run(&[0, 0, 0], None), 64), None);
        // The last part of a second.
        let mut short = run(&[900, 900], None);
        let rest = Second::of(&Interval::new(), Duration::from_secs(2), Duration::from_millis(3));
        short.series.push(rest);
        assert_eq!(outages(&short, 64), []);
    }
}
