//! The start of a server: it is announced when all that it needs is there, or refused in one line.
//!
//! Whoever has the last piece, in whichever process or thread, announces all endpoints; so nobody has to wait for a
//! message that a worker which died would never send. Whoever lacks a piece refuses the start, and has the server told
//! to end: what was started by then ends as it always does.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire},
        },
    },
};

use nix::libc;

use crate::{shared::Shared, shutdown::Shutdown};

/// Whether the server was announced, or its start refused: one answer for all processes of it.
pub struct Startup {
    endpoints: u64,
    announce: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
    shutdown: Arc<Shutdown>,
    /// How many endpoints are ready; how often the start was refused.
    page: Shared<AtomicU64>,
}

impl Startup {
    /// Of a server of so many endpoints, for which `announce` says that they are served.
    ///
    /// # Errors
    /// Where the kernel refuses the memory.
    pub fn new(
        endpoints: usize,
        shutdown: Arc<Shutdown>,
        announce: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (endpoints, announce) = (endpoints as u64, Box::new(announce));
        Ok(Self { endpoints, announce, shutdown, page: Shared::new(2)? })
    }

    /// One endpoint more is ready; after the last one the server is announced. What cannot be announced is refused.
    pub fn endpoint_is_ready(&self) {
        if self.page[0].fetch_add(1, AcqRel) + 1 == self.endpoints && !self.is_refused() {
            (self.announce)().unwrap_or_else(|error| self.refuse(&error.to_string()));
        }
    }

    /// Whether all endpoints are ready.
    pub fn is_announced(&self) -> bool {
        self.page[0].load(Acquire) >= self.endpoints
    }

    /// Says why the start is refused, unless that was said already, and has the server told to end.
    pub fn refuse(&self, sentence: &str) {
        if self.page[1].fetch_add(1, AcqRel) == 0 {
            let _ = writeln!(io::stderr(), "echo-server: {sentence}"); // where anybody is there to read it
        }
        self.shutdown.request();
    }

    /// Whether the start was refused.
    pub fn is_refused(&self) -> bool {
        self.page[1].load(Acquire) > 0
    }
}

/// What could not be had, why, and what to do, for the user of a server of so many workers.
pub fn sentence(what: &str, error: &io::Error, workers: usize) -> String {
    let raise = match error.raw_os_error() {
        Some(libc::EAGAIN) => "raise ulimit -u, or the pids.max of the cgroup",
        Some(libc::EMFILE) => "raise ulimit -n",
        Some(libc::ENFILE) => "raise fs.file-max (sysctl)",
        Some(libc::ENOMEM | libc::ENOBUFS) => "free memory",
        None if error.kind() == io::ErrorKind::OutOfMemory => "raise ulimit -l", // it says what locks how much
        _ => "",
    };
    let fewer = if workers > 1 { "use fewer --workers" } else { "" };
    let remedies: Vec<&str> = [raise, fewer].into_iter().filter(|remedy| !remedy.is_empty()).collect();
    match remedies.join(", or ") {
        none if none.is_empty() => format!("{what}: {error}"),
        remedies => format!("{what}: {error}; {remedies}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[test]
    fn a_server_is_announced_once_and_when_all_of_its_endpoints_are_ready() {
        static ANNOUNCED: AtomicUsize = AtomicUsize::new(0);
        let shutdown = Arc::new(Shutdown::by_hand().unwrap());
        let announce = || {
            ANNOUNCED.fetch_add(1, Relaxed);
            Ok(())
        };
        let startup = Startup::new(2, shutdown, announce).unwrap();
        startup.endpoint_is_ready();
        assert!(!startup.is_announced() && ANNOUNCED.load(Relaxed) == 0);
        startup.endpoint_is_ready();
        assert!(startup.is_announced() && ANNOUNCED.load(Relaxed) == 1);
    }

    #[test]
    fn a_sentence_says_what_could_not_be_had_and_what_to_do() {
        let refused = |errno| io::Error::from_raw_os_error(errno);
        let threads = sentence("worker 3 of 4", &refused(libc::EAGAIN), 4);
        assert!(threads.starts_with("worker 3 of 4: ") && threads.contains("ulimit -u"), "{threads}");
        assert!(threads.ends_with(", or use fewer --workers"), "{threads}");
        let descriptors = sentence("a socket", &refused(libc::EMFILE), 1);
        assert!(descriptors.ends_with("; raise ulimit -n"), "{descriptors}");
        let other = sentence("a socket", &refused(libc::EACCES), 1);
        assert!(!other.contains(';'), "{other}");
    }
}
