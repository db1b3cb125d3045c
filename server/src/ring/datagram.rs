//! Datagrams on a ring: a multishot receive brings them, each with who sent it and what the kernel tells beside, in
//! a buffer of the ring; they are answered from where they lie, all that a wait brought by one system call.
//!
//! The answers are no requests of the ring: one a datagram, with its completion, costs as much as sendmmsg(2) does
//! (measured), and that keeps them in order, and takes no note of what is under way.
//!
//! See also: io_uring_prep_recvmsg_multishot(3), sendmmsg(2).

use std::{io, os::fd::AsFd, time::Duration};

use io_uring::{opcode, types::RecvMsgOut};
use nix::libc;

use uring::{GROUP, Piece};

use super::{Event, Op, Ring, Tag, fd};
use crate::datagram::{self, Answers, Outlet, Post, Told, no_header, now};

/// How much of a buffer lies before the bytes: the kernel's header, a name, and what it tells beside them: at most
/// which address was asked, in the words of both families, and how long each of a burst is. Both begin where they are aligned.
const NAME: usize = 32;
const ASIDE: usize = 112;
const BEFORE: usize = 16 + NAME + ASIDE;
const _: () = assert!(NAME >= size_of::<libc::sockaddr_in6>() && NAME.is_multiple_of(8));

/// Room for the longest datagram, and for the longest burst.
const ROOM: usize = BEFORE + (1 << 16);

/// A ring that brings the datagrams of one socket, and the answers to them that are to be sent.
pub struct DatagramRing {
    ring: Ring,
    /// How much of a name and of what stands beside a receive is to bring, as the kernel is told.
    form: Box<libc::msghdr>,
    clock: u64,
    answers: Answers,
    /// Where the answers lie.
    held: Vec<Piece>,
}

impl DatagramRing {
    /// Room for so many pieces, a power of two; the memory is taken when they come.
    ///
    /// # Errors
    /// Where the kernel refuses the ring, or memory.
    pub fn new(pieces: usize) -> io::Result<Self> {
        let ring = Ring::with(ROOM, pieces)?;
        let mut form = Box::new(no_header());
        (form.msg_namelen, form.msg_controllen) = (NAME as u32, ASIDE);
        Ok(Self { ring, form, clock: 0, answers: Answers::new(pieces), held: Vec::with_capacity(pieces) })
    }

    /// Receives from `socket`, again and again. An empty datagram ends it too.
    ///
    /// # Errors
    /// Where the kernel does not take what is queued.
    #[allow(unsafe_code)]
    pub fn receive(&mut self, socket: &impl AsFd) -> io::Result<()> {
        let receive = opcode::RecvMsgMulti::new(fd(socket), &raw const *self.form, GROUP);
        // SAFETY: the form is dropped after the ring, which ends what is under way.
        unsafe { self.ring.ask(receive.build(), Tag::new(Op::Receive, 0)) }
    }

    /// Receives no more; one last event says so.
    ///
    /// # Errors
    /// Where the kernel does not take what is queued.
    pub fn stop_receiving(&mut self) -> io::Result<()> {
        self.ring.cancel(Tag::new(Op::Receive, 0))
    }

    /// Tells once when `descriptor` is readable.
    ///
    /// # Errors
    /// Where the kernel does not take what is queued.
    pub fn watch(&mut self, descriptor: &impl AsFd) -> io::Result<()> {
        self.ring.watch(descriptor, 0)
    }

    /// See [`Ring::wait`].
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.ring.wait(timeout, events)?;
        self.clock = now();
        Ok(())
    }

    /// Has as many datagrams of a piece answered as `admit` says.
    #[allow(unsafe_code)]
    pub fn answer(&mut self, piece: Piece, admit: impl FnOnce(&datagram::Piece<'_>) -> usize) {
        let Ok(message) = RecvMsgOut::parse(self.ring.bytes(&piece), &self.form) else {
            return self.ring.recycle(piece); // it has no header, which no kernel leaves out
        };
        let header = libc::msghdr {
            msg_name: message.name_data().as_ptr().cast_mut().cast(),
            msg_namelen: message.name_data().len() as u32,
            msg_control: message.control_data().as_ptr().cast_mut().cast(),
            msg_controllen: message.control_data().len(),
            msg_flags: message.flags().cast_signed(),
            ..no_header()
        };
        if header.msg_namelen == 0 {
            return self.ring.recycle(piece); // nobody sent it: the socket was told to end
        }
        // SAFETY: the kernel has filled both; what stands beside begins at a multiple of 8, since a buffer does.
        let told = unsafe { Told::of(&header) };
        let bytes = message.payload_data();
        match admit(&told.piece(bytes, self.clock)) {
            0 => self.ring.recycle(piece),
            datagrams => {
                // SAFETY: the buffer goes back to the kernel when the answer was sent.
                unsafe { self.answers.add(bytes, &told, datagrams) };
                self.held.push(piece);
            }
        }
    }

    /// Sends the answers, and waits for room; the buffers that they lie in are free then.
    pub fn send(&mut self, socket: &impl Outlet, post: &impl Post) {
        self.answers.send_all(socket, post);
        self.held.drain(..).for_each(|piece| self.ring.recycle(piece));
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;
    use crate::socket::{Datagrams, SocketOptions};

    struct Nobody;

    impl Post for Nobody {
        fn sent(&self, _: usize, _: usize) {}
        fn undeliverable(&self, _: usize, error: &io::Error) {
            panic!("{error}");
        }
    }

    /// Answers until so many datagrams have come; returns how long each was.
    fn answer(ring: &mut DatagramRing, socket: &Datagrams, datagrams: usize) -> Vec<usize> {
        let (mut lengths, mut events) = (Vec::new(), Vec::new());
        ring.receive(socket).unwrap();
        while lengths.len() < datagrams {
            ring.wait(Some(Duration::from_secs(5)), &mut events).unwrap();
            assert!(!events.is_empty(), "{lengths:?} came, and then nothing");
            for event in events.drain(..) {
                if let Event::Received { piece, last, .. } = event {
                    ring.answer(piece, |piece| {
                        let before = lengths.len();
                        lengths.extend(piece.datagrams().map(<[u8]>::len));
                        lengths.len() - before
                    });
                    if last {
                        ring.receive(socket).unwrap();
                    }
                }
            }
            ring.send(socket, &Nobody);
        }
        lengths
    }

    #[test]
    fn what_a_ring_receives_is_answered_from_where_it_lies_with_every_boundary() {
        if let Err(why) = super::super::supported() {
            return eprintln!("skipped: {why}");
        }
        for here in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let options = SocketOptions {
                backlog: 8,
                nodelay: true,
                keepalive: None,
                listeners: 1,
                reflect_any: false,
                bursts: true,
                arrivals: false,
            };
            let socket = Datagrams::bind(here.parse().unwrap(), options).unwrap().remove(0);
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.connect(("127.0.0.1", socket.address().unwrap().port())).unwrap();
            let mut ring = DatagramRing::new(4).unwrap();
            let bytes: Vec<u8> = (0..65507u32).map(|n| n as u8).collect();
            let mut came = vec![0; 1 << 16];
            for length in [0, 1, 65507] {
                client.send(&bytes[..length]).unwrap();
                assert_eq!(answer(&mut ring, &socket, 1), [length]);
                assert_eq!(client.recv(&mut came).unwrap(), length);
                assert_eq!(came[..length], bytes[..length]);
            }
            setsockopt(&client, sockopt::UdpGsoSegment, &100).unwrap();
            client.send(&bytes[..250]).unwrap();
            assert_eq!(answer(&mut ring, &socket, 3), [100, 100, 50], "{here}");
            for part in bytes[..250].chunks(100) {
                let n = client.recv(&mut came).unwrap();
                assert_eq!(&came[..n], part);
            }
        }
    }
}
