//! The buffers that receives fill.

use std::{
    io,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering::Release},
};

use io_uring::{IoUring, types::BufRingEntry};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The name of the one group of buffers.
pub const GROUP: u16 = 0;

/// How many buffers there are at first. The fewer go round, the better for the cache; but a receive that finds none
/// ends, and has to be asked for anew.
const FIRST: usize = 32;

/// How many buffers there may be.
pub const MOST: usize = 128;

/// What one receive brought, in a buffer of the ring, which has to be given back.
#[must_use]
#[derive(Debug)]
pub struct Piece {
    buffer: u16,
}

impl Piece {
    /// The number of its buffer, by which it is known again: see [`Piece::of`].
    pub fn buffer(&self) -> u16 {
        self.buffer
    }

    /// The piece again whose number was kept in its stead.
    ///
    /// # Safety
    /// There was such a piece, and it was not given back: then the kernel would fill its buffer while it is read.
    #[allow(unsafe_code)]
    pub unsafe fn of(buffer: u16) -> Self {
        Self { buffer }
    }
}

/// The buffers that receives fill: a ring of entries, which the kernel takes from its front, and behind it the
/// memory that they tell of.
pub struct Buffers {
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
    pub(crate) fn new(size: usize, count: usize) -> io::Result<Self> {
        let stride = size.next_multiple_of(LINE) + LINE;
        let memory = Memory::new(ENTRIES + count * stride)?;
        let size = u32::try_from(size).map_err(io::Error::other)?;
        let mut buffers = Self { memory, stride, size, filled: vec![0; count], made: 0, tail: 0, left: 0 };
        buffers.grow();
        Ok(buffers)
    }

    /// How many receives would find one now.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Provides as many new buffers as there are, up to the most; one that was never filled takes no memory.
    pub fn grow(&mut self) {
        let made = (self.made * 2).clamp(FIRST, MOST).min(self.filled.len());
        (self.made..made).for_each(|buffer| self.provide(buffer as u16));
        self.made = made;
    }

    /// Makes them the group that receives take theirs from.
    #[allow(unsafe_code)]
    pub(crate) fn register(&self, uring: &IoUring) -> io::Result<()> {
        let (start, count) = (self.memory.start.as_ptr() as u64, self.filled.len() as u16);
        // SAFETY: the entries begin the memory, at the start of a page, and fit into it; the ring holds
        // the memory for as long as the kernel may use it.
        unsafe { uring.submitter().register_buf_ring_with_flags(start, count, GROUP, 0) }
    }

    /// Gives the buffer of a piece back.
    pub fn recycle(&mut self, piece: Piece) {
        self.provide(piece.buffer);
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
    pub fn taken(&mut self, buffer: u16, filled: usize) -> Piece {
        self.left -= 1;
        self.filled[usize::from(buffer)] = filled;
        Piece { buffer }
    }

    /// What a receive brought.
    #[allow(unsafe_code)]
    pub fn bytes(&self, piece: &Piece) -> &[u8] {
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
