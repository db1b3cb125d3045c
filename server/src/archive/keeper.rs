//! What one worker keeps, and how it is handed over.

use std::{
    fs::File,
    io::{self, Write},
    ops::{Deref, DerefMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, SeqCst},
        },
    },
    thread::{Builder, JoinHandle},
};

use nix::sys::{
    eventfd::EventFd,
    memfd::{MFdFlags, memfd_create},
    signal::SigSet,
};

use super::{Archive, Letter};
use crate::{groups::Groups, scoreboard::Tally, shutdown::wait_readable};

/// The groups of one worker, and their way to the archivist. When it is dropped they are handed over for good.
///
/// Whoever asks for a copy rings a bell. A clerk hears it ([`Keeper::with_clerk`]); or, in a process that forks, who waits
/// for it beside its socket ([`AsFd`]) and calls [`Keeper::answer`].
pub struct Keeper {
    desk: Arc<Desk>,
    clerk: Option<JoinHandle<()>>,
}

struct Desk {
    archive: Arc<Archive>,
    /// The worker's number.
    worker: usize,
    groups: Mutex<Groups>,
    /// The clerk is to end.
    leaves: AtomicBool,
}

/// The groups of a worker, held to keep a batch of messages. How much there is becomes known when this is dropped.
pub struct Keeping<'a> {
    groups: MutexGuard<'a, Groups>,
    tally: &'a Tally,
}

impl Keeper {
    pub(super) fn new(archive: Arc<Archive>, worker: usize) -> Self {
        let office = &archive.office;
        let groups = Mutex::new(Groups::new(office.plan.bounds.a_share_of(office.bells.len())));
        let desk = Arc::new(Desk { archive, worker, groups, leaves: AtomicBool::new(false) });
        desk.send(Letter::BEGINS, desk.tally().forgets(), None);
        Self { desk, clerk: None }
    }

    /// The same, with a thread that answers the bell, so that the worker goes on meanwhile. A process that forks must not
    /// have one.
    ///
    /// # Errors
    /// Where a thread is refused.
    pub fn with_clerk(mut self) -> io::Result<Self> {
        let desk = Arc::clone(&self.desk);
        self.clerk = Some(Builder::new().name("clerk".into()).spawn(move || desk.is_attended())?);
        Ok(self)
    }

    /// Holds the groups, to keep messages. A copy is made a piece at a time, so this never waits long.
    pub fn lock(&self) -> Keeping<'_> {
        Keeping { groups: self.desk.groups(), tally: self.desk.tally() }
    }

    /// Sends a copy, if the bell was rung.
    pub fn answer(&self) {
        self.desk.answer();
    }
}

impl AsFd for Keeper {
    /// Readable when the bell was rung.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.desk.bell().as_fd()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(clerk) = self.clerk.take() {
            self.desk.leaves.store(true, SeqCst);
            let _ = self.desk.bell().write(1);
            let _ = clerk.join();
        }
        self.desk.hands_over();
    }
}

impl Desk {
    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tally(&self) -> &Tally {
        self.archive.office.board.worker(self.worker)
    }

    fn bell(&self) -> &EventFd {
        &self.archive.office.bells[self.worker]
    }

    /// A clerk's work. Signals are for the others of its process.
    fn is_attended(&self) {
        let _ = SigSet::all().thread_block();
        while !self.leaves.load(SeqCst) {
            wait_readable([Some(self.bell().as_fd())], None);
            self.answer();
        }
    }

    fn answer(&self) {
        // The bell falls silent before the round is read: who rings meanwhile asks for another copy.
        if self.bell().read().is_err() || self.leaves.load(SeqCst) {
            return;
        }
        let round = self.archive.office.round[0].load(Acquire);
        match self.copy() {
            Ok(copy) => drop(self.send(Letter::COPY, round, Some(copy))),
            Err(error) => self.regrets(&error),
        }
    }

    /// Sends what there is for good. Where that fails, it counts as lost.
    fn hands_over(&self) {
        let messages = self.groups().messages() as u64;
        let copy = self.copy().inspect_err(|error| self.regrets(error));
        if self.send(Letter::ENDS, messages, copy.ok()) {
            self.tally().forgets();
        }
    }

    /// The groups as bytes, in memory that has a descriptor.
    fn copy(&self) -> io::Result<OwnedFd> {
        let mut copy = File::from(memfd_create(c"echo-server-groups", MFdFlags::MFD_CLOEXEC)?);
        let mut copying = self.groups().copying();
        let mut piece = Vec::new();
        // The lock is held while a piece is copied, and not while it is written.
        while self.groups().copy(&mut copying, &mut piece) {
            copy.write_all(&piece)?;
            piece.clear();
            self.tally().copies_a_piece();
        }
        Ok(copy.into())
    }

    /// Says whether it was sent.
    fn send(&self, what: u64, number: u64, copy: Option<OwnedFd>) -> bool {
        let letter = Letter { what, worker: self.worker as u64, pid: process::id().into(), number };
        let sent = self.archive.send(letter, copy);
        if let Err(error) = &sent {
            self.regrets(error);
        }
        sent.is_ok()
    }

    fn regrets(&self, error: &io::Error) {
        if self.archive.office.board.may_speak() {
            log::error!("worker {}: its groups do not reach the archivist: {error}", self.worker);
        }
    }
}

impl Deref for Keeping<'_> {
    type Target = Groups;

    fn deref(&self) -> &Groups {
        &self.groups
    }
}

impl DerefMut for Keeping<'_> {
    fn deref_mut(&mut self) -> &mut Groups {
        &mut self.groups
    }
}

impl Drop for Keeping<'_> {
    fn drop(&mut self) {
        self.groups.tell(|reason, messages| self.tally.dropped(reason, messages));
        self.tally.holds(self.groups.clients(), self.groups.messages(), self.groups.memory());
    }
}
