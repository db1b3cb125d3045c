//! What is in a datagram of the load: who sent it, which one it is, and when it left; after that, bytes of its
//! connection's stream. So whatever comes back says whose it is, and whether it is what was sent.
//!
//! A datagram that is shorter than that has its first bytes, and is held to them: see METHODOLOGY.md.

use std::{
    fmt::{self, Display},
    sync::Arc,
};

use super::{
    payload::{Mismatch, Payload},
    sizes::Sizes,
};

/// The longest that UDP carries over IPv4: 65,535 bytes less the headers of IP and UDP.
pub const LONGEST: usize = 65_507;

/// How long what a datagram says of itself is: in this order, as [`Stamp`] has it, each number with its lowest
/// byte first.
pub const STAMP: usize = 24;

/// Up to where it says which one of its connection's it is.
const NUMBER: usize = 8;

/// Up to where it says whose it is.
const OWNER: usize = 16;

/// What a datagram says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Which one of its connection's it is, counted from 0.
    pub number: u64,
    /// Its connection.
    pub client: u32,
    /// The run.
    pub run: u32,
    /// When it left, in nanoseconds of the clock of its connection's thread.
    pub departed: u64,
}

impl Stamp {
    fn bytes(self) -> [u8; STAMP] {
        let mut bytes = [0; STAMP];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.client.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.run.to_le_bytes());
        bytes[16..].copy_from_slice(&self.departed.to_le_bytes());
        bytes
    }

    /// What a datagram says of itself; what it is too short for is zero.
    pub fn of(datagram: &[u8]) -> Self {
        let mut bytes = [0; STAMP];
        let n = datagram.len().min(STAMP);
        bytes[..n].copy_from_slice(&datagram[..n]);
        let part = |from| u64::from_le_bytes(*bytes[from..].first_chunk().unwrap_or(&[0; 8]));
        let (number, owner, departed) = (part(0), part(NUMBER), part(OWNER));
        Self { number, client: owner as u32, run: (owner >> 32) as u32, departed }
    }
}

/// Which part of a number stands in a datagram of so many bytes: all of it, or its lowest bytes.
pub fn mask(length: usize) -> u64 {
    match length {
        0 => 0,
        NUMBER.. => u64::MAX,
        n => (1 << (8 * n)) - 1,
    }
}

/// How all datagrams of a run are made.
#[derive(Clone)]
pub struct Format {
    /// The run.
    pub run: u32,
    /// How many bytes each has.
    pub sizes: Sizes,
    /// Whether the bytes after the stamp are compared.
    pub verify: bool,
    /// The streams that they are taken from.
    pub payload: Arc<Payload>,
}

/// How a datagram differs from the one that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It has so many bytes more or fewer.
    Length { sent: usize, got: usize },
    /// This is its first byte that differs.
    Byte { at: usize, sent: u8, got: u8 },
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Length { sent, got } => write!(f, "{sent} bytes were sent, {got} came back"),
            Self::Byte { at, sent, got } => {
                let bits = (sent ^ got).count_ones();
                write!(f, "byte {at}: sent 0x{sent:02x}, got 0x{got:02x}, {bits} bit(s) changed")
            }
        }
    }
}

impl Format {
    /// How many bytes a client's datagram has.
    pub fn size_of(&self, client: u32, number: u64) -> usize {
        self.sizes.of(client as usize, number)
    }

    /// Writes a datagram; `room` has its size.
    pub fn write(&self, stamp: Stamp, room: &mut [u8]) {
        let said = room.len().min(STAMP);
        let (of_stamp, rest) = room.split_at_mut(said);
        of_stamp.copy_from_slice(&stamp.bytes()[..said]);
        self.payload.fill(stamp.client as usize, self.offset(stamp.number), rest);
    }

    /// Compares what came back with what was sent.
    pub fn check(&self, sent: Stamp, got: &[u8]) -> Result<(), Difference> {
        self.check_as(sent, sent.client, got)
    }

    /// Whether this is what was sent, but for the name of its sender: one that is damaged there is nobody else's.
    pub fn is_with_another_name(&self, sent: Stamp, got: &[u8]) -> bool {
        let Stamp { client, run, .. } = Stamp::of(got);
        self.sizes.shortest() >= STAMP
            && self.check_as(Stamp { client, run, ..sent }, sent.client, got).is_ok()
    }

    /// Whether this is what was sent, but for its number.
    pub fn is_with_another_number(&self, sent: Stamp, got: &[u8]) -> bool {
        let mut healed = *got.first_chunk().unwrap_or(&[0; STAMP]);
        healed[..NUMBER].copy_from_slice(&sent.number.to_le_bytes());
        self.sizes.shortest() >= STAMP
            && healed == sent.bytes()
            && got.len() == self.size_of(sent.client, sent.number)
            && self.check_rest(sent, sent.client, got).is_ok()
    }

    /// Whether `got` says that it is `client`'s, as far as it has room for that.
    pub fn is_of(&self, client: u32, got: &[u8]) -> bool {
        let known = got.len().min(self.sizes.shortest()).min(OWNER);
        let name = Stamp { client, run: self.run, ..Stamp::default() }.bytes();
        known <= NUMBER || got[NUMBER..known] == name[NUMBER..known]
    }

    /// Which part of a number stands in what came back.
    pub fn mask(&self, got: &[u8]) -> u64 {
        mask(got.len().min(self.sizes.shortest()))
    }

    /// Compares with a stamp, and with the stream of `client`.
    fn check_as(&self, stamp: Stamp, client: u32, got: &[u8]) -> Result<(), Difference> {
        let sent = self.size_of(client, stamp.number);
        if got.len() != sent {
            return Err(Difference::Length { sent, got: got.len() });
        }
        let said = &got[..got.len().min(STAMP)];
        let expected = stamp.bytes();
        if *said != expected[..said.len()] {
            let at = said.iter().zip(expected).position(|(&a, b)| a != b).unwrap_or_default();
            return Err(Difference::Byte { at, sent: expected[at], got: said[at] });
        }
        self.check_rest(stamp, client, got)
    }

    /// Compares what is behind the stamp with the stream of `client`.
    fn check_rest(&self, stamp: Stamp, client: u32, got: &[u8]) -> Result<(), Difference> {
        let rest = got.get(STAMP..).unwrap_or_default();
        if !self.verify {
            return Ok(());
        }
        let from = self.offset(stamp.number);
        self.payload.check(client as usize, from, rest).map_err(
            |Mismatch { offset, expected, got, .. }| Difference::Byte {
                at: STAMP + (offset - from) as usize,
                sent: expected,
                got,
            },
        )
    }

    /// Where in its connection's stream a datagram's bytes stand: each has a part of its own.
    fn offset(&self, number: u64) -> u64 {
        number.wrapping_mul(self.sizes.longest() as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn format(size: usize) -> Format {
        Format { run: 7, sizes: Sizes::fixed(size), verify: true, payload: Arc::new(Payload::new(1)) }
    }

    fn datagram(format: &Format, stamp: Stamp) -> Vec<u8> {
        let mut bytes = vec![0; format.sizes.longest()];
        format.write(stamp, &mut bytes);
        bytes
    }

    fn stamp(number: u64) -> Stamp {
        Stamp { number, client: 3, run: 7, departed: 123_456_789 }
    }

    proptest! {
        #[test]
        fn what_was_sent_is_recognised_and_a_changed_bit_is_named(
            size in 1usize..3000, number in 0u64..1 << 40, at in 0usize..3000, bit in 0u8..8,
        ) {
            let (format, at) = (format(size), at % size);
            let mut bytes = datagram(&format, stamp(number));
            prop_assert_eq!(format.check(stamp(number), &bytes), Ok(()));
            prop_assert!(format.is_of(3, &bytes));
            let sent = bytes[at];
            bytes[at] ^= 1 << bit;
            let difference = Difference::Byte { at, sent, got: bytes[at] };
            prop_assert_eq!(format.check(stamp(number), &bytes), Err(difference));
        }

        #[test]
        fn a_stamp_reads_back_as_far_as_there_is_room(size in 0usize..100, number in any::<u64>()) {
            let said = Stamp::of(&datagram(&format(size), stamp(number)));
            prop_assert_eq!(said.number, number & mask(size));
            if size >= STAMP {
                prop_assert_eq!(said, stamp(number));
            }
        }
    }

    #[test]
    fn another_clients_is_told_from_ones_own_that_is_damaged_in_its_name() {
        let format = format(64);
        let foreign = datagram(&format, Stamp { client: 4, ..stamp(9) });
        assert!(!format.is_of(3, &foreign) && !format.is_with_another_name(stamp(9), &foreign));
        let mut damaged = datagram(&format, stamp(9));
        damaged[8] ^= 4;
        assert!(!format.is_of(3, &damaged) && format.is_with_another_name(stamp(9), &damaged));
    }

    #[test]
    fn what_is_cut_is_a_difference_of_length() {
        let format = format(64);
        let bytes = datagram(&format, stamp(1));
        assert_eq!(format.check(stamp(1), &bytes[..63]), Err(Difference::Length { sent: 64, got: 63 }));
        assert!(format.check(stamp(1), &[]).is_err());
    }
}
