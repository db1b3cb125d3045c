//! The ring: an io_uring for one thread, and the memory that the kernel uses behind its back.
//!
//! What is asked for is queued, and handed over by [`Ring::wait`]: the requests and the wait for what comes of
//! them are one system call. Whatever the kernel may still read or write belongs to the ring, not to who
//! asked: the buffers that receives fill, and the bytes of sends that wait.
//!
//! See also: io_uring(7), io_uring_multishot(7), io_uring_register_buf_ring(3).

mod datagram;

use std::{
    collections::HashMap,
    io::{self, Write},
    mem,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    ptr,
    time::Duration,
};

use io_uring::{Probe, cqueue, opcode, squeue, types::Fd};
use nix::libc;
use uring::{Buffers, EVENTS, GROUP, MOST, Piece, Uring, refusal};

use crate::socket::{Listener, Stream};

pub use datagram::DatagramRing;

/// How much memory the buffers may take, if they are to be more than four.
const POOL: usize = 8 << 20;

/// What the kernel has done.
pub enum Event {
    /// A client came, or accept(2) failed. After the last one [`Ring::accept`] has to ask anew.
    Accepted { accepted: io::Result<Stream>, last: bool },
    /// Bytes came. After the last one [`Ring::receive`] has to ask anew.
    Received { key: usize, piece: Piece, last: bool },
    /// Receiving ended, with the end of file or an error: `ENOBUFS` where all buffers were in use.
    Ended { key: usize, how: io::Result<()> },
    /// So much of the piece was sent as the kernel took at once, which may be nothing.
    Sent { key: usize, piece: Piece, sent: io::Result<usize> },
    /// So much of what was owed was sent.
    Paid { key: usize, owed: Vec<u8>, paid: io::Result<usize> },
    /// A watched descriptor is readable.
    Readable { key: usize },
}

/// An io_uring for the thread that made it.
pub struct Ring {
    uring: Uring,
    /// What sends that wait are sending.
    owed: HashMap<usize, Vec<u8>>,
    /// How many bytes a multishot receive brings before it ends; `None` where this kernel knows no such limit.
    credit: Option<u32>,
}

/// Whether this system has what a ring needs; if not, why.
///
/// # Errors
/// A sentence for the user.
pub fn supported() -> Result<(), String> {
    let mut ring = Ring::with(1, MOST).map_err(refusal)?;
    let mut probe = Probe::new();
    ring.uring.register_probe(&mut probe).map_err(refusal)?;
    // The last of them came with Linux 6.0, as the multishot receives did, of which no probe tells.
    let needed =
        [opcode::AcceptMulti::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel::CODE, opcode::SendZc::CODE];
    if !needed.into_iter().all(|code| probe.is_supported(code)) {
        return Err("the io_uring of this kernel is older than Linux 6.0".into());
    }
    ring.try_credit(1).map_err(refusal)
}

impl Ring {
    /// A ring whose receives bring up to `buffer` bytes each.
    ///
    /// # Errors
    /// Where the kernel refuses the ring, or memory.
    pub fn new(buffer: usize) -> io::Result<Self> {
        let buffers = 1 << (POOL / buffer).clamp(4, MOST).ilog2();
        let mut ring = Self::with(buffer, buffers)?;
        ring.try_credit(buffer)?;
        Ok(ring)
    }

    fn with(size: usize, buffers: usize) -> io::Result<Self> {
        Ok(Self { uring: Uring::new(size, buffers)?, owed: HashMap::new(), credit: None })
    }

    /// Finds out, by receiving a byte, whether a receive can be given a credit.
    fn try_credit(&mut self, buffer: usize) -> io::Result<()> {
        let (here, mut there) = UnixStream::pair()?;
        there.write_all(b"?")?;
        for credit in [Some(1), None] {
            self.credit = credit;
            self.receive(&here, 0)?;
            let mut events = Vec::new();
            self.wait(Some(Duration::from_secs(1)), &mut events)?;
            match events.pop() {
                Some(Event::Received { piece, last: true, .. }) => {
                    self.recycle(piece);
                    self.credit = credit.and(u32::try_from(buffer).ok());
                    return Ok(());
                }
                Some(Event::Ended { how: Err(error), .. }) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Some(Event::Ended { how: Err(error), .. }) => return Err(error),
                _ => break,
            }
        }
        Err(io::Error::other("a receive into a provided buffer brings nothing"))
    }

    /// Accepts from `listener`, again and again.
    ///
    /// # Errors
    /// Where the kernel does not take what is queued; so it is for all that is asked for.
    #[allow(unsafe_code)]
    pub fn accept(&mut self, listener: &Listener) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(fd(listener)).flags(libc::SOCK_CLOEXEC);
        // SAFETY: it points to nothing.
        unsafe { self.ask(accept.build(), Tag::new(Op::Accept, 0)) }
    }

    /// Accepts no more; one last event says so.
    pub fn stop_accepting(&mut self) -> io::Result<()> {
        self.cancel(Tag::new(Op::Accept, 0))
    }

    #[allow(unsafe_code)]
    fn cancel(&mut self, tag: Tag) -> io::Result<()> {
        let cancel = opcode::AsyncCancel::new(tag.into()).build();
        // SAFETY: it points to nothing.
        unsafe { self.ask(cancel.flags(squeue::Flags::SKIP_SUCCESS), Tag::new(Op::Cancel, 0)) }
    }

    /// Receives from `socket`, again and again, until the credit is used up: as many bytes as one buffer holds,
    /// which the last receive may exceed by less than a buffer. Whoever asks only while nothing is owed is
    /// never owed more than that.
    ///
    /// The credit came with Linux 6.17. Without it, a flood would fill all buffers before we hear of the first,
    /// so on an older kernel this is one receive.
    #[allow(unsafe_code)]
    pub fn receive(&mut self, socket: &impl AsFd, key: usize) -> io::Result<()> {
        let entry = match self.credit {
            Some(credit) => with_credit(opcode::RecvMulti::new(fd(socket), GROUP).build(), credit),
            None => opcode::Recv::new(fd(socket), ptr::null_mut(), 0)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        // SAFETY: it points to nothing: the buffer is one of those that are provided.
        unsafe { self.ask(entry, Tag::new(Op::Receive, key)) }
    }

    /// Sends `piece`, as far as the kernel takes it at once.
    #[allow(unsafe_code)]
    pub fn send(&mut self, socket: &impl AsFd, key: usize, piece: Piece) -> io::Result<()> {
        let bytes = self.bytes(&piece);
        let send = opcode::Send::new(fd(socket), bytes.as_ptr(), length(bytes))
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        // SAFETY: it points into the piece's buffer, which is provided anew only when the event brings the piece back.
        unsafe { self.ask(send.build(), Tag { op: Op::Send, buffer: piece.buffer(), key }) }
    }

    /// Sends of `owed` what the kernel takes, when it takes something. There is one such send for a key.
    #[allow(unsafe_code)]
    pub fn pay(&mut self, socket: &impl AsFd, key: usize, owed: Vec<u8>) -> io::Result<()> {
        let send = opcode::Send::new(fd(socket), owed.as_ptr(), length(&owed)).flags(libc::MSG_NOSIGNAL);
        self.owed.insert(key, owed);
        // SAFETY: it points to bytes that `owed` keeps until its event.
        unsafe { self.ask(send.build(), Tag::new(Op::Pay, key)) }
    }

    /// Tells once when `descriptor` is readable.
    #[allow(unsafe_code)]
    pub fn watch(&mut self, descriptor: &impl AsFd, key: usize) -> io::Result<()> {
        let poll = opcode::PollAdd::new(fd(descriptor), libc::POLLIN as u32);
        // SAFETY: it points to nothing.
        unsafe { self.ask(poll.build(), Tag::new(Op::Watch, key)) }
    }

    /// What a receive brought.
    pub fn bytes(&self, piece: &Piece) -> &[u8] {
        self.uring.buffers.bytes(piece)
    }

    /// Gives the buffer of a piece back.
    pub fn recycle(&mut self, piece: Piece) {
        self.uring.buffers.recycle(piece);
    }

    /// How many receives would find a buffer now.
    pub fn buffers(&self) -> usize {
        self.uring.buffers.left()
    }

    /// Hands over what was asked for, and waits until something is done, or `timeout` has passed; what is done
    /// is put into `events`, which was empty. A signal may end the wait.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.uring.wait(timeout)?;
        let Self { uring, owed, .. } = self;
        for _ in 0..EVENTS {
            let Some(done) = uring.done() else { break };
            events.extend(event(&done, &mut uring.buffers, owed));
        }
        Ok(())
    }

    /// # Safety
    /// What the entry points to has to stay as it is until the event of this tag, or the end of the ring.
    #[allow(unsafe_code)]
    unsafe fn ask(&mut self, entry: squeue::Entry, tag: Tag) -> io::Result<()> {
        // SAFETY: as of the caller.
        unsafe { self.uring.ask(entry.user_data(tag.into())) }
    }
}

/// What a completion tells.
#[allow(unsafe_code)]
fn event(done: &cqueue::Entry, buffers: &mut Buffers, owed: &mut HashMap<usize, Vec<u8>>) -> Option<Event> {
    let Tag { op, buffer, key } = Tag::from(done.user_data());
    let last = !cqueue::more(done.flags());
    let result = match done.result() {
        n @ 0.. => Ok(n.unsigned_abs() as usize),
        n => Err(io::Error::from_raw_os_error(-n)),
    };
    match op {
        Op::Accept => {
            // SAFETY: a descriptor that the kernel has just made is nobody else's.
            let client = |_| unsafe { OwnedFd::from_raw_fd(done.result()) }.into();
            Some(Event::Accepted { accepted: result.map(client), last })
        }
        Op::Receive => {
            let filled = result.as_ref().map_or(0, |n| *n);
            let piece = cqueue::buffer_select(done.flags()).map(|buffer| buffers.taken(buffer, filled));
            Some(match piece {
                Some(piece) if filled > 0 => Event::Received { key, piece, last },
                unused => {
                    unused.into_iter().for_each(|piece| buffers.recycle(piece));
                    if done.result() == -libc::ENOBUFS {
                        buffers.grow();
                    }
                    Event::Ended { key, how: result.map(drop) }
                }
            })
        }
        // SAFETY: `send` kept the number of the piece that it was given.
        Op::Send => Some(Event::Sent { key, piece: unsafe { Piece::of(buffer) }, sent: result }),
        Op::Pay => Some(Event::Paid { key, owed: owed.remove(&key)?, paid: result }),
        Op::Watch => Some(Event::Readable { key }),
        Op::Cancel => None,
    }
}

/// What a multishot receive may bring in all: `optlen`, at byte 44 of a submission (io_uring_enter(2)), for which
/// the crate has no name yet.
#[allow(unsafe_code)]
fn with_credit(entry: squeue::Entry, credit: u32) -> squeue::Entry {
    // SAFETY: an entry is the 64 bytes that the kernel reads, all of them set, and any value of them is an entry.
    let mut words: [u32; 16] = unsafe { mem::transmute(entry) };
    words[11] = credit;
    // SAFETY: as above.
    unsafe { mem::transmute(words) }
}

fn fd(of: &impl AsFd) -> Fd {
    Fd(of.as_fd().as_raw_fd())
}

/// As much as one request can be about.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Whose completion it is: the user data of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    op: Op,
    buffer: u16,
    key: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Accept,
    Receive,
    Send,
    Pay,
    Watch,
    Cancel,
}

impl Tag {
    fn new(op: Op, key: usize) -> Self {
        Self { op, buffer: 0, key }
    }
}

impl From<Tag> for u64 {
    /// 8 bits, 16 bits, 40 bits.
    fn from(Tag { op, buffer, key }: Tag) -> Self {
        (op as Self) << 56 | Self::from(buffer) << 40 | key as Self
    }
}

impl From<u64> for Tag {
    fn from(data: u64) -> Self {
        let op = match data >> 56 {
            0 => Op::Accept,
            1 => Op::Receive,
            2 => Op::Send,
            3 => Op::Pay,
            4 => Op::Watch,
            _ => Op::Cancel,
        };
        Self { op, buffer: (data >> 40) as u16, key: (data & ((1 << 40) - 1)) as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_again_by_its_user_data() {
        for op in [Op::Accept, Op::Receive, Op::Send, Op::Pay, Op::Watch, Op::Cancel] {
            for tag in [Tag { op, buffer: u16::MAX, key: 7 }, Tag { op, buffer: 0, key: (1 << 40) - 1 }] {
                assert_eq!(Tag::from(u64::from(tag)), tag);
            }
        }
    }
}
