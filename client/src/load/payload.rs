//! The bytes that are sent: a function of seed, connection and offset, so that a wrong byte says whose it was.
//!
//! A connection's stream is a sequence of blocks, and each block a window into one table of random bytes. Where
//! the window begins is a hash of seed, connection and block. So a stream has no period, no two streams are
//! alike, and yet sending needs no copy and checking is a comparison of memory.

use std::ops::Range;

use rand::{Rng, SeedableRng, rngs::StdRng};

const BLOCK: u64 = 256 * 1024;
/// Many against the bytes that are on their way at once, so that a stray one is rarely at home in two streams;
/// few against the processor's caches.
const WINDOWS: u64 = 1024 * 1024;

/// The streams of all connections of a run.
pub struct Payload {
    table: Vec<u8>,
    seed: u64,
}

/// The first byte that came back wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Where in the connection's stream, counted from 0.
    pub offset: u64,
    /// What was sent there.
    pub expected: u8,
    /// What came back.
    pub got: u8,
    /// That and what followed it, where there was enough to know it again by: see [`Payload::is_at`].
    pub trace: Option<[u8; TRACE]>,
}

/// How many bytes are enough to know them again: by chance they stand elsewhere once in 2^64 places.
pub const TRACE: usize = 8;

impl Payload {
    /// The streams that `seed` makes.
    pub fn new(seed: u64) -> Self {
        let mut table = vec![0; (BLOCK + WINDOWS) as usize];
        StdRng::seed_from_u64(seed).fill_bytes(&mut table);
        Self { table, seed }
    }

    /// The stream of `connection` from `offset` on, up to the end of its block: at least one byte.
    pub fn from(&self, connection: usize, offset: u64) -> &[u8] {
        self.bytes(self.span(connection, offset))
    }

    /// Where these bytes lie.
    pub fn span(&self, connection: usize, offset: u64) -> Range<usize> {
        let begin = self.window(connection, offset / BLOCK);
        begin + (offset % BLOCK) as usize..begin + BLOCK as usize
    }

    /// The bytes that lie there.
    pub fn bytes(&self, span: Range<usize>) -> &[u8] {
        &self.table[span]
    }

    /// Writes the stream of `connection` from `offset` on.
    pub fn fill(&self, connection: usize, offset: u64, mut room: &mut [u8]) {
        let mut at = offset;
        while !room.is_empty() {
            let bytes = self.from(connection, at);
            let n = bytes.len().min(room.len());
            let (now, later) = room.split_at_mut(n);
            now.copy_from_slice(&bytes[..n]);
            (at, room) = (at + n as u64, later);
        }
    }

    /// Compares what came back of `connection` at `offset` with what was sent.
    ///
    /// # Errors
    /// The first byte that differs.
    pub fn check(&self, connection: usize, offset: u64, got: &[u8]) -> Result<(), Mismatch> {
        let (mut at, mut rest) = (offset, got);
        while !rest.is_empty() {
            let expected = self.from(connection, at);
            let n = expected.len().min(rest.len());
            if expected[..n] != rest[..n] {
                return Err(explain(at, expected, rest));
            }
            (at, rest) = (at + n as u64, &rest[n..]);
        }
        Ok(())
    }

    /// Whether `trace` is what `connection` sends at `offset`.
    pub fn is_at(&self, connection: usize, offset: u64, trace: &[u8]) -> bool {
        self.check(connection, offset, trace).is_ok()
    }

    /// Where in the table a block begins. The hash is SplitMix64's finaliser (Steele, Lea and Flood, 2014).
    fn window(&self, connection: usize, block: u64) -> usize {
        let mut x = self.seed ^ (connection as u64).rotate_left(32) ^ block;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % WINDOWS) as usize
    }
}

#[cold]
fn explain(offset: u64, expected: &[u8], got: &[u8]) -> Mismatch {
    let wrong = expected.iter().zip(got).position(|(a, b)| a != b).unwrap_or(0);
    Mismatch {
        offset: offset + wrong as u64,
        expected: expected[wrong],
        got: got[wrong],
        trace: got[wrong..].first_chunk().copied(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(payload: &Payload, connection: usize, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            bytes.extend(payload.from(connection, offset + bytes.len() as u64));
        }
        bytes.truncate(length);
        bytes
    }

    proptest! {
        #[test]
        fn a_stream_is_the_same_however_it_is_cut(offset in 0..3 * BLOCK, length in 1usize..9000, cut in 0usize..9000) {
            let payload = Payload::new(7);
            let whole = stream(&payload, 3, offset, length);
            let cut = cut.min(length);
            let mut parts = stream(&payload, 3, offset, cut);
            parts.extend(stream(&payload, 3, offset + cut as u64, length - cut));
            prop_assert_eq!(&whole, &parts);
            let mut filled = vec![0; length];
            payload.fill(3, offset, &mut filled);
            prop_assert_eq!(&whole, &filled);
            prop_assert_eq!(payload.check(3, offset, &whole), Ok(()));
        }

        #[test]
        fn one_flipped_bit_is_found_where_it_is(offset in 0..3 * BLOCK, at in 0usize..5000, bit in 0u8..8) {
            let payload = Payload::new(7);
            let mut bytes = stream(&payload, 3, offset, 5000);
            bytes[at] ^= 1 << bit;
            let mismatch = payload.check(3, offset, &bytes).unwrap_err();
            prop_assert_eq!((mismatch.offset, mismatch.got), (offset + at as u64, bytes[at]));
        }
    }

    #[test]
    fn another_connections_bytes_are_known_again_and_nobody_elses() {
        let payload = Payload::new(1);
        let foreign = stream(&payload, 5, 1000, 64);
        let trace = payload.check(2, 640, &foreign).unwrap_err().trace.unwrap();
        let matches = (0..64).flat_map(|c| (640..1100).map(move |offset| (c, offset)));
        let owners: Vec<(usize, u64)> = matches.filter(|&(c, at)| payload.is_at(c, at, &trace)).collect();
        assert_eq!(owners, [(5, 1000)]);
    }

    #[test]
    fn two_seeds_make_different_streams() {
        assert_ne!(stream(&Payload::new(1), 0, 0, 64), stream(&Payload::new(2), 0, 0, 64));
    }
}
