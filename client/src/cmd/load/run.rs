//! One load from the first connect to the last FIN.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use crate::{
    interrupt,
    load::{Connecting, Engine, Faults, Plan, Window},
    progress::Progress,
};

/// What came of one load, from the first connect to the last FIN.
pub struct Run {
    /// What came of opening them.
    pub connecting: Connecting,
    /// When the measured time began.
    pub since: SystemTime,
    /// What was seen.
    pub window: Window,
    /// All that went wrong.
    pub faults: Faults,
    /// Whether the user ended it.
    pub interrupted: bool,
}

impl Run {
    /// Does what `plan` says.
    ///
    /// # Errors
    /// Where the system refuses threads or pollers.
    pub fn of(plan: &Plan, warmup: Duration, duration: Duration, stop: &Arc<AtomicBool>) -> io::Result<Self> {
        let progress = Progress::of_time("loading", warmup + duration);
        let (engine, connecting) = Engine::open(plan, stop)?;
        let since = SystemTime::now() + warmup;
        let window = engine.run(warmup, duration);
        progress.end();
        let interrupted = interrupt::requested(stop);
        let mut faults = connecting.faults.clone();
        faults.merge(window.faults.clone());
        faults.merge(engine.finish());
        Ok(Self { connecting, since, window, faults, interrupted })
    }

    /// Connections that came up and were lost before the end. Who sends datagrams has none to lose.
    pub fn lost(&self) -> usize {
        if self.window.audit.is_some() {
            return 0;
        }
        self.window.faults.counts().values().sum::<u64>() as usize
    }

    /// Whether there is no result at all: exit status 1.
    pub fn is_worth_nothing(&self) -> bool {
        self.connecting.established == 0
            || self.lost() >= self.connecting.established // none was left
            || self.window.messages_in_all == 0
            || self.faults.iter().any(|(fault, _, _)| fault.is_wrong_echo())
    }
}
