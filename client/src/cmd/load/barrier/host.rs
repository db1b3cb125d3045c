//! Rank 0's side of the barrier: all that connect are heard at once, so that none keeps another waiting.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use log::{info, warn};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;

use super::{
    roll::{Roll, Token},
    stays_alive,
    words::{Introduction, LINE, Word},
};

/// How long one that connects has to say who it is: it may be anybody.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// How many may be connected that have not said so, beside as many as there are ranks; then the oldest has to go.
const STRANGERS: usize = 64;

/// How many are let in before those that are there are heard again.
const AT_ONCE: usize = 256;

/// How often one is read before the others are: two lines and an end are three.
const READS: usize = 4;

/// Rank 0's side.
pub struct Host {
    /// Until all have met: nobody can join a run that has begun.
    listener: Option<Socket>,
    peers: BTreeMap<Token, Peer>,
    next: Token,
    roll: Roll,
}

/// One that has connected.
struct Peer {
    socket: Socket,
    since: Instant,
    /// What it has said since its last line.
    heard: Vec<u8>,
    /// Whose connection it is, once it is let in.
    rank: Option<usize>,
    /// Whether it was not let in: nothing that it says is heard.
    is_refused: bool,
}

impl Host {
    /// Where others come to, who have to be as this one is.
    ///
    /// # Errors
    /// Of the system.
    pub fn new(listener: Socket, own: Introduction) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: Some(listener), peers: BTreeMap::new(), next: 0, roll: Roll::new(own) })
    }

    /// Whether all are here and wait.
    pub fn is_complete(&self) -> bool {
        self.roll.is_complete()
    }

    /// Who did not come.
    pub fn absence(&self, place: &str, patience: &str) -> String {
        self.roll.absence(place, patience)
    }

    /// Waits for whatever comes next, and hears it (poll(2)).
    ///
    /// # Errors
    /// Why there will be no run, or no more of it.
    pub fn attend(&mut self, patience: Duration) -> Result<(), String> {
        let sockets = self.peers.values().map(|peer| &peer.socket).chain(&self.listener);
        let mut awaited: Vec<_> =
            sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        // An interrupted wait is as good as one that is over.
        let _ = poll(&mut awaited, PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO));
        let said = self.peers.keys().zip(&awaited).filter(|(_, socket)| socket.any().unwrap_or(true));
        let said: Vec<Token> = said.map(|(&token, _)| token).collect();
        // Who left is known before its successor comes.
        said.into_iter().try_for_each(|token| self.hear(token))?;
        self.let_in()?;
        let is_late = |peer: &Peer| peer.rank.is_none() && peer.since.elapsed() >= INTRODUCTION;
        self.peers.retain(|_, peer| !is_late(peer));
        Ok(())
    }

    fn let_in(&mut self) -> Result<(), String> {
        for _ in 0..AT_ONCE {
            let Some(accepted) = self.listener.as_ref().map(Socket::accept) else { return Ok(()) };
            match accepted {
                Ok((socket, _)) => self.connected(socket)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Descriptors are short: strangers go first.
                Err(error) if !self.sees_a_stranger_off() => return Err(format!("the barrier: {error}")),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn connected(&mut self, socket: Socket) -> Result<(), String> {
        let is_usable = socket.set_nonblocking(true).and_then(|()| stays_alive(&socket));
        if is_usable.is_err() {
            return Ok(()); // it has left already
        }
        let strangers = self.peers.values().filter(|peer| peer.rank.is_none()).count();
        if strangers >= STRANGERS + self.roll.ranks() {
            self.sees_a_stranger_off();
        }
        let token = self.next;
        self.next += 1;
        let (since, heard) = (Instant::now(), Vec::new());
        self.peers.insert(token, Peer { socket, since, heard, rank: None, is_refused: false });
        self.hear(token)
    }

    /// Whether there was one.
    fn sees_a_stranger_off(&mut self) -> bool {
        let oldest = self.peers.iter().find(|(_, peer)| peer.rank.is_none()).map(|(&token, _)| token);
        oldest.is_some_and(|token| self.peers.remove(&token).is_some())
    }

    /// Hears what one has said; who never ends does not keep the others waiting.
    fn hear(&mut self, token: Token) -> Result<(), String> {
        for _ in 0..READS {
            let Some(peer) = self.peers.get_mut(&token) else { return Ok(()) };
            let mut bytes = [0; LINE];
            let room = &mut bytes[..LINE - peer.heard.len()];
            match peer.socket.read(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return self.leaves(token), // also one whose line is too long
                Ok(_) if peer.is_refused => {}
                Ok(n) => {
                    peer.heard.extend(&bytes[..n]);
                    self.hear_lines(token)?;
                }
            }
        }
        Ok(())
    }

    fn hear_lines(&mut self, token: Token) -> Result<(), String> {
        while let Some(peer) = self.peers.get_mut(&token)
            && let Some(end) = peer.heard.iter().position(|&byte| byte == b'\n')
            && !peer.is_refused
        {
            let line: Vec<u8> = peer.heard.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            match peer.rank {
                None => self.introduce(token, &line)?,
                Some(rank) => match line.parse() {
                    Ok(report) => self.roll.hear(rank, report)?,
                    Err(()) => self.leaves(token)?,
                },
            }
        }
        Ok(())
    }

    fn introduce(&mut self, token: Token, line: &str) -> Result<(), String> {
        let told = Introduction::read(line);
        // Who had the place may have left just now.
        let before = told.as_ref().ok().and_then(|told| self.roll.token(told.rank));
        before.map_or(Ok(()), |before| self.hear(before))?;
        let let_in = told.and_then(|told| self.roll.introduce(&told, token).map(|()| told.rank));
        let Some(peer) = self.peers.get_mut(&token) else { return Ok(()) };
        match let_in {
            Ok(rank) => {
                info!("the barrier: rank {rank} is here");
                peer.rank = Some(rank);
                let welcomed = peer.say(&Word::Welcome);
                if welcomed.is_err() { self.leaves(token) } else { Ok(()) }
            }
            Err(sentence) => {
                warn!("the barrier: somebody was not let in: {sentence}");
                peer.is_refused = true;
                peer.heard = Vec::new();
                // What it has still to say is read, or its end would cost it our word (RFC 1122, 4.2.2.13).
                let _ = peer.say(&Word::No(sentence));
                Ok(())
            }
        }
    }

    fn leaves(&mut self, token: Token) -> Result<(), String> {
        match self.peers.remove(&token).and_then(|peer| peer.rank) {
            None => Ok(()),
            Some(rank) => {
                self.roll.leaves(rank)?;
                warn!("the barrier: rank {rank} has left; another may take its place");
                Ok(())
            }
        }
    }

    /// Lets all begin.
    ///
    /// # Errors
    /// Who has left in this moment.
    pub fn release(&mut self, word: &Word) -> Result<(), String> {
        self.listener = None;
        self.peers.retain(|_, peer| peer.rank.is_some());
        self.roll.begin();
        let gone: Vec<Token> =
            self.peers.iter().filter_map(|(&token, peer)| peer.say(word).is_err().then_some(token)).collect();
        gone.into_iter().try_for_each(|token| self.leaves(token))
    }

    /// Tells those that are here, and those that come until `until`, that there will be no run.
    pub fn dismiss(&mut self, why: &str, until: Instant) {
        let word = Word::Over(why.into());
        let mut told = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let _ = self.attend(left); // whatever another says of itself: it is over
            for peer in self.peers.values_mut().filter(|peer| peer.rank.is_some()) {
                let _ = peer.say(&word);
                (peer.rank, peer.is_refused, told) = (None, true, told + 1);
            }
            if left.is_zero() || told + 1 >= self.roll.ranks() {
                return;
            }
        }
    }
}

impl Peer {
    /// A line is short, and nothing else is on its way: it is sent at once or not at all.
    fn say(&self, word: &Word) -> io::Result<()> {
        (&self.socket).write_all(format!("{word}\n").as_bytes())
    }
}
