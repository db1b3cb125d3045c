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
    num::NonZeroUsize,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    ptr::{self, NonNull},
    sync::atomic::{AtomicU16, Ordering::Release},
    time::Duration,
};

use io_uring::{
    IoUring, Probe, cqueue, opcode, squeue,
    types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec},
};
use nix::{
    libc,
    sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap},
};

use crate::socket::{Listener, Stream};

pub use datagram::DatagramRing;

/// How many events one wait brings, so that the queue has room for what is asked for because of them.
pub const EVENTS: usize = 256;

/// The name of the one group of buffers.
const GROUP: u16 = 0;

/// How much can be asked for between two waits.
const SUBMISSIONS: u32 = 4 * EVENTS as u32;

/// How many completions may wait to be heard; where there are more, multishot requests end.
const COMPLETIONS: u32 = 4096;

/// How many buffers there are at first, and how many there may be. The fewer go round, the better for the
/// cache; but a receive that finds none ends, and has to be asked for anew.
const FIRST: usize = 32;
const MOST: usize = 128;

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
    /// The watched descriptor is readable.
    Readable,
}

/// What one receive brought, in a buffer of the ring, which has to be given back.
#[must_use]
pub struct Piece {
    buffer: u16,
}

/// An io_uring for the thread that made it.
pub struct Ring {
    uring: IoUring,
    buffers: Buffers,
    /// What sends that wait are sending.
    owed: HashMap<usize, Vec<u8>>,
    /// How many bytes a multishot receive brings before it ends; `None` where this kernel knows no such limit.
    credit: Option<u32>,
}

const REFUSED: &str = "io_uring is refused here (EPERM); Docker's default seccomp profile and \
                       kernel.io_uring_disabled do that";

/// Whether this system has what a ring needs; if not, why.
///
/// # Errors
/// A sentence for the user.
pub fn supported() -> Result<(), String> {
    let why = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => REFUSED.into(),
        Some(libc::ENOSYS) => "this kernel has no io_uring".into(),
        _ => format!("io_uring does not work here: {error}"),
    };
    let mut ring = Ring::with(Buffers::new(1, MOST).map_err(why)?).map_err(why)?;
    let mut probe = Probe::new();
    ring.uring.submitter().register_probe(&mut probe).map_err(why)?;
    // The last of them came with Linux 6.0, as the multishot receives did, of which no probe tells.
    let needed =
        [opcode::AcceptMulti::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel::CODE, opcode::SendZc::CODE];
    if !needed.into_iter().all(|code| probe.is_supported(code)) {
        return Err("the io_uring of this kernel is older than Linux 6.0".into());
    }
    ring.try_credit(1).map_err(why)
}

impl Ring {
    /// A ring whose receives bring up to `buffer` bytes each.
    ///
    /// # Errors
    /// Where the kernel refuses the ring, or memory.
    pub fn new(buffer: usize) -> io::Result<Self> {
        let buffers = 1 << (POOL / buffer).clamp(4, MOST).ilog2();
        let mut ring = Self::with(Buffers::new(buffer, buffers)?)?;
        ring.try_credit(buffer)?;
        Ok(ring)
    }

    /// With completions that are worked on when they are waited for (Linux 6.1), else without interrupts for
    /// them (5.19), else as it may be.
    fn with(buffers: Buffers) -> io::Result<Self> {
        let plain = || {
            let mut builder = IoUring::builder();
            builder.setup_submit_all().setup_clamp().setup_cqsize(COMPLETIONS);
            builder
        };
        let uring = plain()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(SUBMISSIONS)
            .or_else(|_| plain().setup_coop_taskrun().build(SUBMISSIONS))
            .or_else(|_| plain().build(SUBMISSIONS))?;
        let ring = Self { buffers, owed: HashMap::new(), credit: None, uring };
        ring.buffers.register(&ring.uring)?;
        Ok(ring)
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
    pub fn accept(&mut self, listener: &Listener) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(fd(listener)).flags(libc::SOCK_CLOEXEC);
        self.ask(accept.build(), Tag::new(Op::Accept, 0))
    }

    /// Accepts no more; one last event says so.
    pub fn stop_accepting(&mut self) -> io::Result<()> {
        self.cancel(Tag::new(Op::Accept, 0))
    }

    fn cancel(&mut self, tag: Tag) -> io::Result<()> {
        let cancel = opcode::AsyncCancel::new(tag.into()).build();
        self.ask(cancel.flags(squeue::Flags::SKIP_SUCCESS), Tag::new(Op::Cancel, 0))
    }

    /// Receives from `socket`, again and again, until the credit is used up: as many bytes as one buffer holds,
    /// which the last receive may exceed by less than a buffer. Whoever asks only while nothing is owed is
    /// never owed more than that.
    ///
    /// The credit came with Linux 6.17. Without it, a flood would fill all buffers before we hear of the first,
    /// so on an older kernel this is one receive.
    pub fn receive(&mut self, socket: &impl AsFd, key: usize) -> io::Result<()> {
        let entry = match self.credit {
            Some(credit) => with_credit(opcode::RecvMulti::new(fd(socket), GROUP).build(), credit),
            None => opcode::Recv::new(fd(socket), ptr::null_mut(), 0)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        self.ask(entry, Tag::new(Op::Receive, key))
    }

    /// Sends `piece`, as far as the kernel takes it at once.
    pub fn send(&mut self, socket: &impl AsFd, key: usize, piece: Piece) -> io::Result<()> {
        let bytes = self.bytes(&piece);
        let send = opcode::Send::new(fd(socket), bytes.as_ptr(), length(bytes))
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        self.ask(send.build(), Tag { op: Op::Send, buffer: piece.buffer, key })
    }

    /// Sends of `owed` what the kernel takes, when it takes something. There is one such send for a key.
    pub fn pay(&mut self, socket: &impl AsFd, key: usize, owed: Vec<u8>) -> io::Result<()> {
        let send = opcode::Send::new(fd(socket), owed.as_ptr(), length(&owed)).flags(libc::MSG_NOSIGNAL);
        self.owed.insert(key, owed);
        self.ask(send.build(), Tag::new(Op::Pay, key))
    }

    /// Tells once when `descriptor` is readable.
    pub fn watch(&mut self, descriptor: &impl AsFd) -> io::Result<()> {
        let poll = opcode::PollAdd::new(fd(descriptor), libc::POLLIN as u32);
        self.ask(poll.build(), Tag::new(Op::Watch, 0))
    }

    /// What a receive brought.
    pub fn bytes(&self, piece: &Piece) -> &[u8] {
        self.buffers.bytes(piece)
    }

    /// Gives the buffer of a piece back.
    pub fn recycle(&mut self, piece: Piece) {
        self.buffers.provide(piece.buffer);
    }

    /// How many receives would find a buffer now.
    pub fn buffers(&self) -> usize {
        self.buffers.left
    }

    /// Hands over what was asked for, and waits until something is done, or `timeout` has passed; what is done
    /// is put into `events`, which was empty. A signal may end the wait.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let timespec = timeout.map(Timespec::from).unwrap_or_default();
        let mut args = SubmitArgs::new();
        if timeout.is_some() {
            args = args.timespec(&timespec);
        }
        match self.uring.submitter().submit_with_args(1, &args) {
            Err(error) if !is_passing(&error) => return Err(error),
            _ => {}
        }
        let Self { uring, buffers, owed, .. } = self;
        events.extend(uring.completion().take(EVENTS).filter_map(|done| event(&done, buffers, owed)));
        Ok(())
    }

    #[allow(unsafe_code)]
    fn ask(&mut self, entry: squeue::Entry, tag: Tag) -> io::Result<()> {
        let entry = entry.user_data(tag.into());
        if self.uring.submission().is_full() {
            self.uring.submit().or_else(|error| if is_passing(&error) { Ok(0) } else { Err(error) })?;
        }
        // SAFETY: the entry points to nothing, or into a buffer that is provided anew only when the event
        // brings its piece back, or to bytes that `owed` keeps until then, or to a form that outlives the ring;
        // `drop` ends what has no event by then.
        unsafe { self.uring.submission().push(&entry) }.map_err(io::Error::other)
    }
}

impl Drop for Ring {
    /// Nothing is under way any more when the memory goes.
    fn drop(&mut self) {
        let _ = self.uring.submitter().register_sync_cancel(None, CancelBuilder::any());
    }
}

/// Whether it is worth going on after an error of io_uring_enter(2): the timeout, a signal, completions or
/// memory that are to be freed first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
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
                    unused.into_iter().for_each(|piece| buffers.provide(piece.buffer));
                    if done.result() == -libc::ENOBUFS {
                        buffers.grow();
                    }
                    Event::Ended { key, how: result.map(drop) }
                }
            })
        }
        Op::Send => Some(Event::Sent { key, piece: Piece { buffer }, sent: result }),
        Op::Pay => Some(Event::Paid { key, owed: owed.remove(&key)?, paid: result }),
        Op::Watch => Some(Event::Readable),
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

/// The buffers that receives fill: a ring of entries, which the kernel takes from its front, and behind it the
/// memory that they tell of.
struct Buffers {
    memory: Memory,
    /// How far apart they are.
    stride: usize,
    size: u32,
    /// How much each was filled the last time.
    filled: Vec<usize>,
    /// How many there are by now.
    made: usize,
    /// How many times one was provided, modulo 2^16; the kernel reads it.
    tail: u16,
    /// How many the kernel has not taken yet.
    left: usize,
}

/// Where the first one begins: behind the entries.
const ENTRIES: usize = MOST * size_of::<BufRingEntry>();

/// A cache line. Each buffer begins one further into its page than the one before: the bytes at the same place
/// of every page share a few lines of the cache.
const LINE: usize = 64;

impl Buffers {
    /// So many of such a size; the number is a power of two.
    fn new(size: usize, count: usize) -> io::Result<Self> {
        let stride = size.next_multiple_of(LINE) + LINE;
        let memory = Memory::new(ENTRIES + count * stride)?;
        let size = u32::try_from(size).map_err(io::Error::other)?;
        let mut buffers = Self { memory, stride, size, filled: vec![0; count], made: 0, tail: 0, left: 0 };
        buffers.grow();
        Ok(buffers)
    }

    /// Provides as many new buffers as there are, up to the most; one that was never filled takes no memory.
    fn grow(&mut self) {
        let made = (self.made * 2).clamp(FIRST, MOST).min(self.filled.len());
        (self.made..made).for_each(|buffer| self.provide(buffer as u16));
        self.made = made;
    }

    /// Makes them the group that receives take theirs from.
    #[allow(unsafe_code)]
    fn register(&self, uring: &IoUring) -> io::Result<()> {
        let (start, count) = (self.memory.start.as_ptr() as u64, self.filled.len() as u16);
        // SAFETY: the entries begin the memory, at the start of a page, and fit into it; the ring holds
        // the memory for as long as the kernel may use it.
        unsafe { uring.submitter().register_buf_ring_with_flags(start, count, GROUP, 0) }
    }

    /// Gives a buffer to the kernel.
    #[allow(unsafe_code)]
    fn provide(&mut self, buffer: u16) {
        let entries = self.memory.start.cast::<BufRingEntry>();
        let next = usize::from(self.tail) % self.filled.len();
        let start = self.start(buffer) as u64;
        // SAFETY: the entry lies in the memory, and the kernel does not look at it before the tail has passed it.
        let entry = unsafe { entries.add(next).as_mut() };
        entry.set_addr(start);
        entry.set_len(self.size);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.left += 1;
        // SAFETY: the tail lies in the first entry, where none of the three fields above is, and is read by
        // the kernel alone.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Release);
    }

    /// The kernel has taken a buffer and filled it so far.
    fn taken(&mut self, buffer: u16, filled: usize) -> Piece {
        self.left -= 1;
        self.filled[usize::from(buffer)] = filled;
        Piece { buffer }
    }

    #[allow(unsafe_code)]
    fn bytes(&self, piece: &Piece) -> &[u8] {
        let filled = self.filled[usize::from(piece.buffer)];
        // SAFETY: so many bytes of the buffer were written by the kernel, which writes no more to it before it
        // is provided anew; for that the piece is given away.
        unsafe { std::slice::from_raw_parts(self.start(piece.buffer), filled) }
    }

    fn start(&self, buffer: u16) -> *mut u8 {
        self.memory.start.as_ptr().wrapping_add(ENTRIES + usize::from(buffer) * self.stride)
    }
}

/// Fresh pages, all zero; one that was never touched costs nothing.
struct Memory {
    start: NonNull<u8>,
    bytes: NonZeroUsize,
}

impl Memory {
    #[allow(unsafe_code)]
    fn new(bytes: usize) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::OutOfMemory)?;
        let (access, flags) =
            (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE);
        // SAFETY: a fresh anonymous mapping at an address that the kernel chooses touches no memory of ours.
        let start = unsafe { mmap_anonymous(None, bytes, access, flags) }?.cast();
        Ok(Self { start, bytes })
    }
}

impl Drop for Memory {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made, and this is the last use of it.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
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
