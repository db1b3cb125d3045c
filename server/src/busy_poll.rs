//! Asking before sleeping: a wake-up costs more time than an event that comes soon.

use std::{
    io,
    time::{Duration, Instant},
};

/// Waits, by `wait`, until there are `events` or `sleep` has passed; `None` is for ever. For the first `spin` of it
/// the kernel is asked again and again, and the thread does not sleep (`--busy-poll`).
///
/// # Errors
/// Those of `wait`.
pub fn busy_poll<E>(
    spin: Option<Duration>,
    sleep: Option<Duration>,
    events: &mut Vec<E>,
    mut wait: impl FnMut(Option<Duration>, &mut Vec<E>) -> io::Result<()>,
) -> io::Result<()> {
    if let Some(spin) = spin {
        let until = Instant::now() + sleep.map_or(spin, |sleep| sleep.min(spin));
        while events.is_empty() && Instant::now() < until {
            wait(Some(Duration::ZERO), events)?;
        }
        if !events.is_empty() {
            return Ok(());
        }
    }
    wait(sleep, events)
}
