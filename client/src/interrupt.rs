//! ^C and the other signals that ask for an end: the first one for an early end in order, the second ends at once. Signals
//! that mean nothing to us end nothing.

use std::{
    io, process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use nix::libc::{
    SIGALRM, SIGIO, SIGPROF, SIGPWR, SIGRTMAX, SIGRTMIN, SIGSTKFLT, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    flag,
    iterator::Signals,
};

/// Has those signals end nothing that have no meaning here, and would end a process that does not heed them (signal(7)). They
/// are heeded and not ignored: what a process ignores, the servers that it starts ignore too (execve(2)).
///
/// # Errors
/// Where the system refuses the handlers.
pub fn heed_the_meaningless() -> io::Result<()> {
    let came = Arc::new(AtomicBool::new(false));
    let meaningless = [SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGSTKFLT];
    for signal in meaningless.into_iter().chain(SIGRTMIN()..=SIGRTMAX()) {
        flag::register(signal, Arc::clone(&came))?;
    }
    Ok(())
}

/// A flag that the first SIGINT, SIGTERM, SIGHUP or SIGQUIT sets, and also SIGXCPU and SIGPWR: the CPU time that was granted
/// (setrlimit(2)), or the power, is about to end. At the second, `last_act` is done and the process exits with status 130,
/// as shells expect of what ^C ended; unless it is one that comes again by itself.
///
/// # Errors
/// Where the system refuses the handlers.
pub fn on_signals(last_act: fn()) -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGPWR])?;
    let first = Arc::clone(&stop);
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in &mut signals {
            // A terminal that goes says so to its session's leader, and to the foreground's group: who is both may hear it
            // twice, and nobody is impatient. SIGXCPU comes every second.
            let comes_again = matches!(signal, SIGHUP | SIGXCPU | SIGPWR);
            if first.swap(true, Relaxed) && !comes_again {
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
