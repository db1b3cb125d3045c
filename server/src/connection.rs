//! One non-blocking conversation: the bytes that are owed, and what it wants next. There is no poller in it.

use std::io::{self, Read, Write};

use crate::{config::Work, scoreboard::Tally};

/// What a conversation wants next; whoever runs it obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To be called when the socket is readable. Nothing is owed.
    Read,
    /// To be called when the socket is writable. While bytes are owed, nothing is read: that is the
    /// backpressure.
    Write,
    /// To be called again soon: its turn is over, and more may be waiting.
    Turn,
    /// To be closed: the client has sent all, and got it back.
    Close,
}

/// How many full reads one conversation may take before the others have their turn.
const READS_A_TURN: usize = 4;

/// A conversation. An idle one holds no memory but this.
#[derive(Default)]
pub struct Connection {
    /// What the kernel did not take yet, from `sent` on.
    owed: Vec<u8>,
    sent: usize,
}

impl Connection {
    /// Takes a turn: sends what is owed, then reads and echoes until nothing more is there.
    ///
    /// Each read goes into `scratch` and is written from there at once; only what a short write leaves is
    /// kept, at most a scratch's length. A read that does not fill `scratch` has emptied the socket, so it is
    /// the last one (epoll(7): the edge after it comes with new data), unless `fin_seen`: an end of file
    /// that is queued behind the data raises no edge of its own.
    ///
    /// # Errors
    /// The socket's; the conversation is over then.
    pub fn turn<S: Read + Write>(
        &mut self,
        socket: &mut S,
        scratch: &mut [u8],
        fin_seen: bool,
        work: Work,
        tally: &Tally,
    ) -> io::Result<Next> {
        if !self.owed.is_empty() && !self.pay(socket, tally)? {
            return Ok(Next::Write);
        }
        for _ in 0..READS_A_TURN {
            let n = match read(socket, scratch)? {
                Some(0) => return Ok(Next::Close),
                Some(n) => n,
                None => return Ok(Next::Read),
            };
            tally.received(n);
            work.perform();
            let sent = write(socket, &scratch[..n])?;
            tally.sent(sent);
            if sent < n {
                self.owed = scratch[sent..n].to_vec();
                self.sent = 0;
                return Ok(Next::Write);
            }
            if n < scratch.len() && !fin_seen {
                return Ok(Next::Read);
            }
        }
        Ok(Next::Turn)
    }

    /// Finishes a short write, as far as the kernel takes it; says whether nothing is owed any more.
    fn pay<S: Write>(&mut self, socket: &mut S, tally: &Tally) -> io::Result<bool> {
        let sent = write(socket, &self.owed[self.sent..])?;
        tally.sent(sent);
        self.sent += sent;
        let paid = self.sent == self.owed.len();
        if paid {
            *self = Self::default(); // gives the memory back
        }
        Ok(paid)
    }
}

/// `None`: nothing is there yet.
fn read<S: Read>(socket: &mut S, into: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match socket.read(into) {
            Ok(n) => return Ok(Some(n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// How many bytes the kernel took, which may be none.
fn write<S: Write>(socket: &mut S, from: &[u8]) -> io::Result<usize> {
    loop {
        match socket.write(from) {
            Ok(n) => return Ok(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A socket that takes and gives as it is told: each number is how much the next call moves, 0 for
    /// "would block".
    struct Scripted {
        inbox: VecDeque<u8>,
        outbox: Vec<u8>,
        script: VecDeque<usize>,
    }

    impl Scripted {
        fn allowance(&mut self) -> io::Result<usize> {
            match self.script.pop_front().unwrap_or(usize::MAX) {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                usize::MAX if self.script.is_empty() => Ok(usize::MAX),
                n if n % 7 == 6 => Err(io::ErrorKind::Interrupted.into()),
                n => Ok(n),
            }
        }
    }

    impl Read for Scripted {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.allowance()?.min(into.len()).min(self.inbox.len());
            for (to, byte) in into.iter_mut().zip(self.inbox.drain(..n)) {
                *to = byte;
            }
            Ok(n)
        }
    }

    impl Write for Scripted {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            let n = self.allowance()?.min(from.len());
            self.outbox.extend(&from[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn every_byte_comes_back_in_order_however_reads_and_writes_are_cut(
            sent in prop::collection::vec(any::<u8>(), 0..600),
            script in prop::collection::vec(0usize..40, 0..200),
            buffer in 1usize..64,
        ) {
            let mut socket = Scripted { inbox: sent.clone().into(), outbox: vec![], script: script.into() };
            let (mut connection, mut scratch, tally) = (Connection::default(), vec![0; buffer], Tally::default());
            loop {
                let next = connection.turn(&mut socket, &mut scratch, true, Work::None, &tally).unwrap();
                prop_assert!(connection.owed.len() <= buffer, "owes more than its buffer");
                prop_assert_eq!(next == Next::Write, !connection.owed.is_empty());
                if next == Next::Close {
                    break;
                }
                prop_assert!(next != Next::Write || connection.owed.capacity() > 0);
                prop_assert!(next == Next::Write || connection.owed.capacity() == 0, "idle, and holds memory");
            }
            prop_assert_eq!(socket.outbox, sent);
        }
    }

    #[test]
    fn a_short_read_ends_the_turn_without_another_call() {
        let mut socket = Scripted { inbox: vec![7; 10].into(), outbox: vec![], script: [10, 10].into() };
        let next =
            Connection::default().turn(&mut socket, &mut [0; 64], false, Work::None, &Tally::default());
        assert_eq!(next.unwrap(), Next::Read);
        assert_eq!(socket.outbox.len(), 10);
    }

    #[test]
    fn a_flood_gives_the_others_their_turn() {
        let mut socket = Scripted { inbox: vec![7; 100_000].into(), outbox: vec![], script: VecDeque::new() };
        let next =
            Connection::default().turn(&mut socket, &mut [0; 64], false, Work::None, &Tally::default());
        assert_eq!(next.unwrap(), Next::Turn);
        assert_eq!(socket.outbox.len(), READS_A_TURN * 64);
    }
}
