//! Groups as bytes, for another process of this program: each client's ring is copied as it is.
//!
//! What is copied while others keep more is copied a piece at a time: each client as it was at one moment, and those
//! that are dropped meanwhile are told with the drops. The end says that it is whole.

use std::io::{self, Read};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{A_CLIENT, A_PLACE, Address, Bounds, Client, Drops, Frames, Groups};

/// How much is copied at a time, roughly: a tenth of a millisecond's worth of memory traffic.
const PIECE: usize = 256 << 10;

/// What precedes a client's ring.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    ip: [u8; 16],
    scope: u32,
    port: u32,
    /// 1: a client; 0: the end, of which nothing else means something.
    more: u64,
    first_heard: u64,
    last_heard: u64,
    received_messages: u64,
    received_bytes: u64,
    dropped_until: u64,
    count: u64,
    /// How long the ring is that follows.
    ring: u64,
}

impl Head {
    fn of(address: &Address, client: &Client) -> Self {
        Self {
            ip: address.ip,
            scope: address.scope,
            port: address.port,
            more: 1,
            first_heard: client.first_heard,
            last_heard: client.last_heard,
            received_messages: client.received_messages,
            received_bytes: client.received_bytes,
            dropped_until: client.dropped_until,
            count: client.frames.count() as u64,
            ring: client.frames.len() as u64,
        }
    }

    fn address(&self) -> Address {
        Address { ip: self.ip, scope: self.scope, port: self.port }
    }
}

/// A copy that is being made.
pub struct Copying {
    /// Who is still to be copied; the last one is next.
    left: Vec<Address>,
    over: bool,
}

impl Groups {
    /// Begins to copy.
    pub fn copying(&self) -> Copying {
        Copying { left: self.clients.iter().map(|(&address, _)| address).collect(), over: false }
    }

    /// Adds the next piece of a copy to `bytes`; says whether there was one.
    pub fn copy(&self, copying: &mut Copying, bytes: &mut Vec<u8>) -> bool {
        if copying.over {
            return false;
        }
        while bytes.len() < PIECE {
            let Some(address) = copying.left.pop() else {
                let end = Head::new_zeroed();
                bytes.extend(end.as_bytes());
                bytes.extend(self.dropped.as_bytes());
                copying.over = true;
                break;
            };
            if let Some(client) = self.clients.peek(&address) {
                let (first, second) = client.frames.slices();
                bytes.extend(Head::of(&address, client).as_bytes());
                bytes.extend(first);
                bytes.extend(second);
            }
        }
        true
    }

    /// Reads a copy; more than `bounds` allow is not held, and counted.
    ///
    /// # Errors
    /// Those of the reader, and `InvalidData` or `UnexpectedEof` where it is no whole copy.
    pub fn read_from(mut from: impl Read, bounds: Bounds) -> io::Result<Self> {
        let mut groups = Self::new(bounds);
        loop {
            let mut head = Head::new_zeroed();
            from.read_exact(head.as_mut_bytes())?;
            if head.more == 0 {
                let mut dropped = Drops::default();
                from.read_exact(dropped.as_mut_bytes())?;
                groups.dropped.iter_mut().zip(dropped).for_each(|(sum, messages)| *sum += messages);
                groups.told = dropped; // where it was copied
                return Ok(groups);
            }
            let mut ring = Vec::new();
            ring.try_reserve_exact(head.ring as usize)?;
            from.by_ref().take(head.ring).read_to_end(&mut ring)?;
            let frames = Frames::from_ring(ring, head.count as usize).ok_or(io::ErrorKind::InvalidData)?;
            let client = Client {
                frames,
                first_heard: head.first_heard,
                last_heard: head.last_heard,
                received_messages: head.received_messages,
                received_bytes: head.received_bytes,
                dropped_until: head.dropped_until,
            };
            groups.takes_in(head.address(), client);
        }
    }

    /// A client that was heard after all that are here already, with its ring as it is, where the bounds allow.
    fn takes_in(&mut self, address: Address, client: Client) {
        let ring = client.frames.capacity();
        let memory = self.memory() + A_CLIENT + A_PLACE + ring;
        let is_new = self.clients.len() < self.bounds.clients && !self.clients.contains(&address);
        if !is_new || memory > self.bounds.memory || !client.is_within(&self.bounds) {
            return self.adopt(&[(address, &client)]);
        }
        self.rings += ring;
        self.messages += client.frames.count();
        self.clients.put(address, client);
        self.most = self.most.max(self.clients.len());
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const SOME: u64 = 1000;

    fn some_groups(bounds: Bounds) -> Groups {
        let mut groups = Groups::new(bounds);
        for n in 0..SOME {
            let from = SocketAddr::from(([10, 0, 0, (n % 23) as u8], 7));
            groups.keep(from, n, &vec![n as u8; (n * 31 % 1000) as usize]);
        }
        groups
    }

    fn copy(groups: &Groups) -> Vec<u8> {
        let (mut copying, mut bytes, mut piece) = (groups.copying(), Vec::new(), Vec::new());
        while groups.copy(&mut copying, &mut piece) {
            bytes.append(&mut piece);
        }
        bytes
    }

    #[test]
    fn a_copy_is_the_same_in_every_respect() {
        let groups = some_groups(Bounds { messages: 10, clients: 20, ..Bounds::default() });
        let read = Groups::read_from(&copy(&groups)[..], Bounds::default()).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), serde_json::to_string(&groups).unwrap());
        assert_eq!((read.messages(), read.clients()), (groups.messages(), groups.clients()));
        assert_eq!(read.dropped(), groups.dropped());
        assert_eq!(copy(&read), copy(&groups), "also who was heard last");
        assert!(read.memory() <= groups.memory(), "rings are as big as what lies in them");
    }

    #[test]
    fn a_copy_that_is_read_where_less_is_allowed_holds_less_and_counts_it() {
        let groups = some_groups(Bounds::default());
        for bounds in [
            Bounds { clients: 5, ..Bounds::default() },
            Bounds { messages: 3, ..Bounds::default() },
            Bounds { bytes: 1500, ..Bounds::default() },
            Bounds { memory: 20_000, ..Bounds::default() },
        ] {
            let read = Groups::read_from(&copy(&groups)[..], bounds).unwrap();
            let dropped: u64 = read.dropped().values().sum();
            assert!(dropped > 0 && read.memory() <= bounds.memory && read.clients() <= bounds.clients);
            assert_eq!(read.messages() as u64 + dropped, SOME);
        }
    }

    #[test]
    fn what_is_kept_while_a_copy_is_made_does_not_tear_it() {
        let mut groups = some_groups(Bounds { clients: 23, ..Bounds::default() });
        let (mut copying, mut bytes) = (groups.copying(), Vec::new());
        for n in 0.. {
            let mut piece = Vec::new();
            if !groups.copy(&mut copying, &mut piece) {
                break;
            }
            bytes.extend(piece);
            groups.keep(([10, 1, 0, n], 7).into(), 1000, b"somebody new, for whom somebody goes");
        }
        assert!(bytes.len() > PIECE, "else it was one piece");
        let read = Groups::read_from(&bytes[..], Bounds::default()).unwrap();
        assert_eq!(read.clients(), 23);
    }

    #[test]
    fn a_torn_copy_is_an_error() {
        let bytes = copy(&some_groups(Bounds { messages: 2, ..Bounds::default() }));
        for length in (0..bytes.len()).step_by(7) {
            assert!(Groups::read_from(&bytes[..length], Bounds::default()).is_err(), "{length}");
        }
        let mut wrong = bytes;
        wrong[size_of::<Head>()] ^= 0xff; // how long the first message is
        assert!(Groups::read_from(&wrong[..], Bounds::default()).is_err());
    }
}
