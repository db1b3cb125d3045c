//! Who gathers the groups of all workers, and writes them.
//!
//! For a while that takes as much memory as the bounds allow up to three times, beside what the workers hold: what
//! those left that have ended, the copies, and both merged.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufReader, IoSlice, IoSliceMut, Read, Seek, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering::Release},
    time::{Duration, Instant},
};

use nix::{errno::Errno, sys::signal::kill, sys::socket::MsgFlags, unistd::Pid};
use zerocopy::{FromZeros, IntoBytes};

use super::{Letter, Office, Plan};
use crate::{groups::Groups, rights, scoreboard::Dropped, shutdown::wait_readable};

/// How long the workers have to answer. What one holds that blocks elsewhere for longer is not in the file.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// Why a datagram never came to be kept, or is lost with who kept it.
const NEVER_KEPT: [Dropped; 7] = [
    Dropped::Kernel,
    Dropped::Reflection,
    Dropped::NotToOne,
    Dropped::Truncated,
    Dropped::RateLimit,
    Dropped::Cut,
    Dropped::WorkerDied,
];

/// Why one was kept, and is no more. While the workers go on, a copy of their groups knows this better than the server;
/// when they have ended, the server also knows it of those that were killed.
const KEPT_NO_MORE: [Dropped; 4] =
    [Dropped::Clients, Dropped::ClientMessages, Dropped::ClientBytes, Dropped::GroupMemory];

/// The archivist.
pub struct Archivist {
    office: Arc<Office>,
    mail: OwnedFd,
    /// Readable when the file is asked for.
    asked: File,
    patience: Duration,
    /// The workers that keep groups, and the processes that they are or run in.
    keeping: BTreeMap<usize, u32>,
    /// What workers handed over that have ended.
    ended: Vec<Groups>,
    /// How many messages those held that ended in order and could not hand them over.
    not_handed_over: u64,
    round: Option<Round>,
    /// When it may ask again: whoever sends SIGUSR1 all the time has half of its time, and of the disk's.
    rests_until: Instant,
}

/// What is being gathered for a file.
struct Round {
    number: u64,
    /// Who has yet to answer.
    awaited: BTreeSet<usize>,
    copies: Vec<Groups>,
    began: Instant,
}

impl Archivist {
    pub(super) fn new(office: Arc<Office>, mail: OwnedFd, asked: File) -> Self {
        let (keeping, ended) = (BTreeMap::new(), Vec::new());
        Self {
            office,
            mail,
            asked,
            patience: ANSWERED_WITHIN,
            keeping,
            ended,
            not_handed_over: 0,
            round: None,
            rests_until: Instant::now(),
        }
    }

    /// The same, with less patience.
    #[cfg(test)]
    pub(super) fn that_waits(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Works until all workers have ended and the last file is written, or until nobody is left who could say so.
    ///
    /// # Errors
    /// Where the last file was not written, or nobody was left.
    pub(super) fn works(mut self) -> io::Result<()> {
        loop {
            let left = self.round.as_ref().map_or(self.rests_until, |round| round.began + self.patience);
            let left = left.saturating_duration_since(Instant::now());
            let may_ask = self.round.is_none() && left.is_zero();
            let asked = may_ask.then(|| self.asked.as_fd());
            wait_readable([Some(self.mail.as_fd()), asked], Some(left).filter(|_| !may_ask));
            while let Some((letter, copy)) = self.next_letter()? {
                match letter.what {
                    Letter::CLOSES => return self.closes(),
                    _ => self.reads(letter, copy),
                }
            }
            if may_ask && self.is_asked() {
                self.asks();
            }
            let patience = self.patience;
            let is_over = |round: &mut Round| round.awaited.is_empty() || round.began.elapsed() >= patience;
            if let Some(round) = self.round.take_if(is_over) {
                self.has_gathered(round);
            }
        }
    }

    /// The next letter, if there is one, and what came with it.
    fn next_letter(&self) -> io::Result<Option<(Letter, Option<OwnedFd>)>> {
        let mut letter = Letter::new_zeroed();
        let mut bytes = [IoSliceMut::new(letter.as_mut_bytes())];
        match rights::receive(&self.mail, &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, copy)) => Ok(Some((letter, copy))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn reads(&mut self, letter: Letter, copy: Option<OwnedFd>) {
        let worker = letter.worker as usize;
        if letter.what == Letter::COPY {
            let round = self.round.as_mut().filter(|round| round.number == letter.number);
            if let Some(round) = round
                && round.awaited.remove(&worker)
            {
                round.copies.extend(self.office.opens(worker, copy));
            }
            return;
        }
        if let Some(round) = &mut self.round {
            round.awaited.remove(&worker); // what it holds is here, or gone
        }
        if letter.what == Letter::BEGINS {
            self.keeping.insert(worker, letter.pid as u32);
            return self.loses(worker, letter.number);
        }
        self.keeping.remove(&worker);
        match self.office.opens(worker, copy) {
            Some(groups) => self.takes(groups),
            None => {
                self.office.board.worker(worker).dropped(Dropped::WorkerDied, letter.number);
                self.not_handed_over += letter.number;
            }
        }
    }

    /// Holds what a worker held that has ended.
    fn takes(&mut self, groups: Groups) {
        self.ended.push(groups);
        let bounds = self.office.plan.bounds;
        if self.ended.iter().map(Groups::memory).sum::<usize>() > bounds.memory {
            let mut merged = Groups::merge(bounds, &self.ended);
            self.office.tells(&mut merged);
            self.ended = vec![merged];
        }
        let [clients, messages, memory] = [Groups::clients, Groups::messages, Groups::memory]
            .map(|figure| self.ended.iter().map(figure).sum());
        self.office.board.door().holds(clients, messages, memory);
    }

    fn loses(&mut self, worker: usize, messages: u64) {
        self.office.board.worker(worker).dropped(Dropped::WorkerDied, messages);
        if messages > 0 {
            log::warn!("worker {worker} ended without a word; {messages} messages that it held are lost");
        }
    }

    /// Whether the file was asked for since this was last called, however often.
    fn is_asked(&mut self) -> bool {
        let mut asked = false;
        while self.asked.read(&mut [0; 1024]).is_ok_and(|bytes| bytes > 0) {
            asked = true;
        }
        asked
    }

    /// Rings for every worker that keeps groups.
    fn asks(&mut self) {
        for worker in self.keeping.keys().copied().collect::<Vec<_>>() {
            if is_gone(self.keeping[&worker]) {
                self.keeping.remove(&worker);
                self.loses(worker, self.office.board.worker(worker).forgets());
            }
        }
        let number = self.office.round[0].fetch_add(1, Release) + 1;
        let awaited: BTreeSet<usize> = self.keeping.keys().copied().collect();
        for &worker in &awaited {
            let _ = self.office.bells[worker].write(1); // one that cannot be rung louder rings already
        }
        self.round = Some(Round { number, awaited, copies: Vec::new(), began: Instant::now() });
    }

    fn has_gathered(&mut self, round: Round) {
        for worker in round.awaited {
            let file = self.office.plan.file.display();
            log::warn!("worker {worker} does not answer; what it holds is missing from {file}");
        }
        if let Err(sentence) = self.writes(&mut self.merged(&round.copies), &NEVER_KEPT) {
            log::error!("--groups {sentence}");
        }
        self.rests_until = Instant::now() + round.began.elapsed();
    }

    /// Writes the last file, and tells who waits for it.
    fn closes(mut self) -> io::Result<()> {
        for worker in std::mem::take(&mut self.keeping).into_keys() {
            self.loses(worker, self.office.board.worker(worker).forgets());
        }
        let mut groups = self.merged(&[]);
        self.office.tells(&mut groups);
        self.office.board.door().holds(groups.clients(), groups.messages(), groups.memory());
        let written = self.writes(&mut groups, &[&NEVER_KEPT[..], &KEPT_NO_MORE].concat());
        let file = self.office.plan.file.display();
        let written = written.and_then(|()| match self.not_handed_over {
            0 => Ok(()),
            messages => Err(format!("{file}: {messages} messages could not be copied, and are missing")),
        });
        let sentence = written.as_ref().err().map_or(&[][..], String::as_bytes);
        rights::send(&self.mail, &[IoSlice::new(&[0]), IoSlice::new(sentence)], None::<OwnedFd>)?;
        written.map_err(io::Error::other)
    }

    /// What those held that have ended, and what others copied.
    fn merged(&self, copies: &[Groups]) -> Groups {
        Groups::merge(self.office.plan.bounds, self.ended.iter().chain(copies))
    }

    /// Writes the file: what is held, and how many datagrams are not. Of the reasons in `counted` the server knows that.
    fn writes(&self, groups: &mut Groups, counted: &[Dropped]) -> Result<(), String> {
        let Office { plan: Plan { file, .. }, board, .. } = &*self.office;
        counted.iter().for_each(|&reason| groups.have_dropped(reason, board.dropped(reason)));
        files::replace(file, |to: &mut dyn Write| groups.write(to)).map_err(|error| error.to_string())?;
        log::info!("what {} clients said is written to {}", groups.clients(), file.display());
        Ok(())
    }
}

impl Office {
    /// Has what was dropped in merging counted.
    fn tells(&self, merged: &mut Groups) {
        merged.tell(|reason, messages| self.board.door().dropped(reason, messages));
    }

    /// The groups that a worker copied.
    fn opens(&self, worker: usize, copy: Option<OwnedFd>) -> Option<Groups> {
        let read = |copy: OwnedFd| {
            let mut copy = File::from(copy);
            copy.rewind()?;
            Groups::read_from(BufReader::with_capacity(1 << 16, copy), self.plan.bounds)
        };
        let groups = read(copy?);
        groups.inspect_err(|error| log::error!("worker {worker}: no groups in its copy: {error}")).ok()
    }
}

/// Whether there is no such process any more.
fn is_gone(pid: u32) -> bool {
    kill(Pid::from_raw(pid.cast_signed()), None) == Err(Errno::ESRCH)
}
