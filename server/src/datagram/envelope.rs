//! An envelope: what came in one piece from one client, on its way to who answers it, in another process or in another
//! thread, and on it what the answer needs.

use std::io;

use nix::libc;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{Asked, Name, Outlet, Post, ROOM, Told, bytes_of, count, datagrams, read, send, zeroed};

/// A piece, or the first datagrams of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'b> {
    label: Label,
    bytes: &'b [u8],
}

/// What stands on an envelope: what its answer needs beside the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct Label {
    /// Who sent it, as the kernel wrote it.
    name: [u8; size_of::<Name>()],
    name_length: u32,
    /// Which of our addresses it was sent to, and of what family that is: 0 where nobody needs to know.
    asked: [u8; size_of::<libc::in6_pktinfo>()],
    family: u32,
    /// How long each datagram is, but perhaps the last.
    segment: u32,
    /// How many bytes follow.
    length: u32,
}

impl Label {
    /// The same of one datagram.
    fn alone(self, bytes: &[u8]) -> Envelope<'_> {
        let length = bytes.len() as u32;
        Envelope { label: Self { segment: length, length, ..self }, bytes }
    }

    fn asked(&self) -> Option<Asked> {
        match self.family {
            4 => read(&self.asked).map(Asked::V4),
            6 => read(&self.asked).map(Asked::V6),
            _ => None,
        }
    }
}

impl<'b> Envelope<'b> {
    /// How long an envelope may be.
    pub const LONGEST: usize = size_of::<Label>() + ROOM;

    /// For the answer to a piece, or to the first datagrams of it: so many `bytes`, each datagram `segment` long.
    pub(super) fn new(told: &Told, segment: usize, bytes: &'b [u8]) -> Self {
        let (name_length, segment, length) = (told.from_length, segment as u32, bytes.len() as u32);
        let mut label = Label { name_length, segment, length, ..Label::new_zeroed() };
        label.name.copy_from_slice(bytes_of(&told.from));
        let (family, asked) = match &told.asked {
            None => (0, &[][..]),
            Some(Asked::V4(info)) => (4, bytes_of(info)),
            Some(Asked::V6(info)) => (6, bytes_of(info)),
        };
        label.family = family;
        label.asked[..asked.len()].copy_from_slice(asked);
        Self { label, bytes }
    }

    /// One from nobody.
    #[cfg(test)]
    pub fn of(bytes: &'b [u8]) -> Self {
        Self::new(&Told::default(), bytes.len(), bytes)
    }

    /// What is to be sent, one part after the other, and read at the other side.
    pub fn parts(&self) -> [&[u8]; 2] {
        [self.label.as_bytes(), self.bytes]
    }

    /// The envelope that `bytes` begin with, and what follows it; `None` where there is no whole one.
    pub fn read(bytes: &'b [u8]) -> Option<(Self, &'b [u8])> {
        let (label, rest) = Label::read_from_prefix(bytes).ok()?;
        let (bytes, rest) = rest.split_at_checked(label.length as usize)?;
        Some((Self { label, bytes }, rest))
    }

    /// How many datagrams it holds.
    pub fn count(&self) -> usize {
        count(self.bytes.len(), self.label.segment as usize)
    }

    /// Each of its datagrams as an envelope of its own.
    pub fn each(&self) -> impl Iterator<Item = Envelope<'b>> + use<'b> {
        let Self { label, bytes } = *self;
        datagrams(bytes, label.segment as usize).map(move |bytes| label.alone(bytes))
    }

    /// Sends it back as it is, from the address that it was sent to. Waits for room, and drops it where there is none in
    /// time.
    pub fn answer(&self, socket: &impl Outlet, post: &impl Post) {
        let Label { name, name_length, segment, .. } = &self.label;
        let (to, count) = ((read(name).unwrap_or_else(zeroed), *name_length), self.count());
        let segment = Some(*segment as usize).filter(|_| count > 1);
        match send(socket, to, self.label.asked(), segment, self.bytes) {
            Ok(()) => post.sent(count, self.bytes.len()),
            // What does not go as a burst may go one by one.
            Err(error) if count > 1 && error.kind() != io::ErrorKind::WouldBlock => {
                self.each().for_each(|one| one.answer(socket, post));
            }
            Err(error) => post.undeliverable(count, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A name as the kernel writes it, of either family.
    fn name() -> impl Strategy<Value = (Name, u32)> {
        (any::<bool>(), any::<u16>(), any::<[u8; 16]>(), any::<u32>()).prop_map(|(v6, port, ip, scope)| {
            let mut name = zeroed::<Name>();
            (name.sin6_family, name.sin6_port) = (libc::AF_INET6 as _, port);
            (name.sin6_addr.s6_addr, name.sin6_scope_id) = (ip, scope);
            if v6 { (name, size_of::<Name>() as u32) } else { (name, size_of::<libc::sockaddr_in>() as u32) }
        })
    }

    fn asked() -> impl Strategy<Value = Option<Asked>> {
        let v4 = any::<[u32; 2]>().prop_map(|[to, us]| {
            let [ipi_addr, ipi_spec_dst] = [to, us].map(|s_addr| libc::in_addr { s_addr });
            Some(Asked::V4(libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr }))
        });
        let v6 = any::<([u8; 16], u32)>().prop_map(|(s6_addr, interface)| {
            let ipi6_addr = libc::in6_addr { s6_addr };
            Some(Asked::V6(libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: interface as _ }))
        });
        prop_oneof![Just(None), v4, v6]
    }

    fn told(name: &Name, asked: Option<Asked>) -> String {
        let asked = match asked {
            None => String::new(),
            Some(Asked::V4(it)) => {
                format!("{} {} {}", it.ipi_ifindex, it.ipi_spec_dst.s_addr, it.ipi_addr.s_addr)
            }
            Some(Asked::V6(it)) => format!("{:?} {}", it.ipi6_addr.s6_addr, it.ipi6_ifindex),
        };
        let Name { sin6_family, sin6_port, sin6_flowinfo, sin6_addr, sin6_scope_id, .. } = name;
        format!("{sin6_family} {sin6_port} {sin6_flowinfo} {:?} {sin6_scope_id} {asked}", sin6_addr.s6_addr)
    }

    proptest! {
        #[test]
        fn an_envelope_is_read_as_it_was_written_wherever_it_lies(
            (name, name_length) in name(),
            asked in asked(),
            segment in 0..2000usize,
            bytes in vec(any::<u8>(), 0..4000),
            behind in vec(any::<u8>(), 0..200),
        ) {
            let said = Told { from: name, from_length: name_length, asked, ..Told::default() };
            let envelope = Envelope::new(&said, segment, &bytes);
            let written = [envelope.parts().concat(), behind.clone()].concat();
            let (heard, rest) = Envelope::read(&written).unwrap();
            prop_assert_eq!(heard, envelope);
            prop_assert_eq!(rest, &behind[..]);
            prop_assert_eq!(told(&read(&heard.label.name).unwrap(), heard.label.asked()), told(&name, asked));

            let all: Vec<Envelope<'_>> = heard.each().collect();
            prop_assert_eq!(all.len(), heard.count());
            prop_assert!(all.iter().all(|one| one.count() == 1 && one.label.name == envelope.label.name));
            prop_assert_eq!(all.iter().map(|one| one.bytes).collect::<Vec<_>>().concat(), bytes);
        }

        #[test]
        fn what_is_cut_short_is_no_envelope(bytes in vec(any::<u8>(), 0..100), missing in 1..200usize) {
            let written = Envelope::of(&bytes).parts().concat();
            prop_assert_eq!(Envelope::read(&written[..written.len().saturating_sub(missing)]), None);
        }
    }
}
