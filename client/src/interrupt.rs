//! ^C: the first one asks for an early end in order, the second ends at once.

use std::{
    io, process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
};

/// A flag that the first SIGINT, SIGTERM, SIGHUP or SIGQUIT sets. At the second, unless that is a SIGHUP, `last_act` is
/// done and the process exits with status 130, as shells expect of what ^C ended.
///
/// # Errors
/// Where the system refuses the handlers.
pub fn on_signals(last_act: fn()) -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
    let first = Arc::clone(&stop);
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in &mut signals {
            // A terminal that goes says so to its session's leader, and to the foreground's group: who is both may hear it
            // twice, and nobody is impatient.
            if first.swap(true, Relaxed) && signal != SIGHUP {
                last_act();
                process::exit(130);
            }
        }
    })?;
    Ok(stop)
}

/// Whether the user asked for an end.
pub fn requested(stop: &AtomicBool) -> bool {
    stop.load(Relaxed)
}
