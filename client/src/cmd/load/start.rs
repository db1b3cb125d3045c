//! When the load begins, once the connections are up: at once, at a moment, or with the other ranks.

use std::{
    sync::Arc,
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;

use super::{UNSYNCHRONISED, Verdict, barrier::Barrier};
use crate::{
    cmd::Failure,
    interrupt,
    load::{Onlooker, Rank},
};

/// How often a wait looks for a ^C.
pub const TICK: Duration = Duration::from_millis(100);

/// When the load begins.
pub enum Start {
    /// As soon as the connections are up.
    AtOnce,
    /// At this moment, by this host's clock.
    At(SystemTime),
    /// When all ranks are there.
    Together(Box<Barrier>),
}

impl Start {
    /// Waits until a stretch of load is to begin, or `stop` is asked for, before an onlooker.
    ///
    /// # Errors
    /// Where a rank does not come, or cannot load.
    pub fn wait(&mut self, stop: &Arc<AtomicBool>, onlooker: &mut dyn Onlooker) -> Result<(), Failure> {
        onlooker.look();
        match self {
            Self::AtOnce => {}
            Self::At(moment) => {
                while let Ok(left) = moment.duration_since(SystemTime::now())
                    && !left.is_zero()
                    && !interrupt::requested(stop)
                {
                    thread::sleep(left.min(TICK));
                    onlooker.look();
                }
            }
            Self::Together(barrier) => barrier.pass(stop)?,
        }
        Ok(())
    }

    /// Tells ranks that would wait for this one that it does not load, and why.
    pub fn give_up(&mut self, why: &Failure, stop: &AtomicBool) {
        if let Self::Together(barrier) = self {
            barrier.give_up(&why.to_string(), stop);
        }
    }

    /// What is to be said of a generator of several that waits for none of the others.
    pub fn doubt(&self, Rank { ranks, .. }: Rank) -> Option<Verdict> {
        let is_alone = ranks == 1 || !matches!(self, Self::AtOnce);
        (!is_alone).then(|| {
            Verdict::doubt(UNSYNCHRONISED, format!("each of the {ranks} ranks begins when it is ready"))
        })
    }

    /// What time it is: for ranks that met, on one clock.
    pub fn now(&self) -> SystemTime {
        match self {
            Self::AtOnce | Self::At(_) => SystemTime::now(),
            Self::Together(barrier) => barrier.now(),
        }
    }

    /// The name of the run, which ranks that met have in common.
    pub fn run(&self) -> Option<String> {
        match self {
            Self::AtOnce | Self::At(_) => None,
            Self::Together(barrier) => barrier.run(),
        }
    }

    /// How much later than it should what began at `since` has begun.
    pub fn lateness(&self, since: SystemTime) -> Duration {
        match self {
            Self::At(moment) => since.duration_since(*moment).unwrap_or_default(),
            Self::AtOnce | Self::Together(_) => Duration::ZERO,
        }
    }
}

/// A moment as people and programs write it: `2026-11-21T12:00:00Z` (RFC 3339), or seconds since 1970.
pub fn moment(text: &str) -> Result<SystemTime, String> {
    const FORM: &str = "write it like 2026-11-21T12:00:00Z, or in seconds since 1970";
    if let Ok(seconds) = text.parse() {
        let since = Duration::try_from_secs_f64(seconds).ok();
        let moment = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        return moment.ok_or_else(|| format!("there is no such moment; {FORM}"));
    }
    text.parse::<Timestamp>().map(SystemTime::from).map_err(|_| format!("that is no moment; {FORM}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_as_people_and_programs_write_it() {
        let moments = ["2026-11-21T12:00:00.5Z", "2026-11-21 13:00:00.5+01:00", "1795262400.5"].map(moment);
        assert_eq!(moments[0], moments[1]);
        assert_eq!(moments[0], moments[2]);
        for wrong in ["", "noon", "-5", "2026-11-21T12:00:00", "1e300", "inf"] {
            assert!(moment(wrong).unwrap_err().contains("1970"), "{wrong}");
        }
    }
}
