//! How often the same datagram of one client is answered: as often as no client asks for, and not for ever.
//!
//! A datagram that somebody forged in the name of another echo server goes back and forth between that one and this for
//! ever. Nothing tells it from a client that says the same again and again as soon as it is answered, but how often it
//! comes. So after [`DEFAULT`] answers one is left out: that ends what goes round, and costs a client one answer.
//!
//! Each datagram has a cell that says how often it was answered, in one table in memory that all workers share. A datagram
//! finds its cell by a hash, which no client can foresee, of its sender's address and port, of its length, and of
//! its first and last [`PART`] bytes. Where two datagrams share a cell the one that comes more often keeps it (the
//! majority vote of Boyer and Moore).
//!
//! It costs a datagram 10 to 30 ns, about a hundredth of what answering it does.
//!
//! See also: CERT CA-1996-01, "UDP Port Denial-of-Service Attack".

use std::{
    hash::{BuildHasher, Hash, Hasher},
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use foldhash::fast::RandomState;

use crate::shared::Shared;

/// How often unless told. Between two programs of one machine that is some seconds.
pub const DEFAULT: usize = 1 << 18;

/// How often at most: what a cell can count.
pub const MOST: usize = COUNT as usize;

/// How many cells there are.
const CELLS: usize = 1 << 16;

/// The bits of a cell that count; the others are the datagram's.
const COUNT: u64 = (1 << 24) - 1;

/// How many bytes at each end are looked at.
const PART: usize = 64;

/// Of how many bytes all are.
const WHOLE: usize = 2 * PART;

/// The limit.
pub struct RepeatLimit {
    limit: Option<Limit>,
}

struct Limit {
    cells: Shared<AtomicU64>,
    most: u64,
    hasher: RandomState,
}

impl RepeatLimit {
    /// So many answers to the same datagram, and then one fewer; `None` is no limit.
    ///
    /// # Errors
    /// Where the kernel refuses the memory.
    pub fn new(most: Option<usize>) -> io::Result<Self> {
        let limit = most.map(|most| {
            let most = most.min(MOST) as u64;
            Ok::<_, io::Error>(Limit { cells: Shared::new(CELLS)?, most, hasher: RandomState::default() })
        });
        Ok(Self { limit: limit.transpose()? })
    }

    /// How many of these datagrams, which came from one client in this order, may be answered: the first so many.
    pub fn admit<'d>(&self, from: SocketAddr, mut datagrams: impl Iterator<Item = &'d [u8]>) -> usize {
        match &self.limit {
            None => datagrams.count(),
            Some(limit) => {
                let mut admitted = 0;
                while datagrams.next().is_some_and(|datagram| limit.admits(from, datagram)) {
                    admitted += 1;
                }
                admitted
            }
        }
    }
}

impl Limit {
    fn admits(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        let mut hasher = self.hasher.build_hasher();
        from.hash(&mut hasher);
        hasher.write_usize(datagram.len());
        match datagram.len() {
            0..=WHOLE => hasher.write(datagram),
            length => {
                hasher.write(&datagram[..PART]);
                hasher.write(&datagram[length - PART..]);
            }
        }
        let hash = hasher.finish();
        let (cell, owner) = (&self.cells[hash as usize % CELLS], hash & !COUNT);
        // Two workers that count at once may count once: a lock would cost each datagram more than that is worth.
        let before = cell.load(Relaxed);
        let (kept_by, count) = (before & !COUNT, before & COUNT);
        let (after, admitted) = match (kept_by == owner, count) {
            (true, count) if count >= self.most => (owner, false),
            (true, count) => (owner | (count + 1), true),
            (false, 0) => (owner | 1, true),
            (false, _) => (before - 1, true),
        };
        cell.store(after, Relaxed);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn after_so_many_of_the_same_one_is_left_out_again_and_again() {
        let limit = RepeatLimit::new(Some(5)).unwrap();
        let answered: Vec<usize> =
            (0..12).map(|_| limit.admit(client(1), [&b"ping"[..]].into_iter())).collect();
        assert_eq!(answered, [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0]);
        assert_eq!(limit.admit(client(2), [&b"ping"[..]; 9].into_iter()), 5, "in a burst");
    }

    #[test]
    fn what_differs_in_bytes_length_or_sender_is_never_left_out() {
        let limit = RepeatLimit::new(Some(2)).unwrap();
        for n in 0..20_000u32 {
            let (bytes, port) = (n.to_be_bytes(), (n % 60_000) as u16);
            let long = [&[7; 300][..], &bytes].concat();
            for (from, datagram) in [
                (client(1), &bytes[..]),
                (client(2), &long),
                (client(port), b"the same"),
                (client(3), &vec![0; n as usize % 1400][..]),
            ] {
                if from != client(3) || n < 1400 {
                    assert_eq!(limit.admit(from, [datagram].into_iter()), 1);
                }
            }
        }
    }

    #[test]
    fn what_goes_round_is_found_among_many_that_do_not() {
        let limit = RepeatLimit::new(Some(1000)).unwrap();
        let mut answered = 0;
        for n in 0..400_000u64 {
            limit.admit(client(9), [&n.to_be_bytes()[..]].into_iter());
            if n % 20 == 0 {
                match limit.admit(client(7), [&b"loop"[..]].into_iter()) {
                    0 => break,
                    _ => answered += 1,
                }
            }
        }
        assert!((1000..1100).contains(&answered), "{answered}");
    }

    #[test]
    fn without_a_limit_all_are_answered() {
        let free = RepeatLimit::new(None).unwrap();
        assert!((0..1000).all(|_| free.admit(client(1), [&b""[..]; 3].into_iter()) == 3));
    }
}
