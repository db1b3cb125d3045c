//! Datagrams by the batch: many are received in one system call (recvmmsg(2)), and sent in one: those of one length as
//! one piece that the kernel cuts (UDP_SEGMENT, udp(7)), others each with a header of its own (sendmmsg(2)). What came
//! in one piece is received as one (UDP_GRO); how long its datagrams were stands beside it, so none is ever joined with
//! another.

use std::{io, mem, net::UdpSocket, os::fd::AsRawFd, ptr};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        MsgFlags, recv, setsockopt,
        sockopt::{UdpGroSegment, UdpGsoSegment},
    },
};

use super::datagram::LONGEST;

/// How many datagrams leave in one system call, or are received in one, at most: Linux cuts no piece into more
/// (UDP_MAX_SEGMENTS, 64 before it was 128).
pub const MOST: usize = 64;

/// Room for the longest datagram, and for the longest piece.
const ROOM: usize = 1 << 16;

/// How a socket's datagrams leave and come. What the kernel refuses is done without.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Of how many bytes each is, where the kernel cuts what leaves together.
    cut: Option<usize>,
    /// Whether several are received in one call.
    is_batched: bool,
}

impl Way {
    /// One by one; or, where so many may be on their way `together`, by the batch. `size` is the length that all have.
    pub fn of(socket: &UdpSocket, together: usize, size: Option<usize>) -> Self {
        let is_batched = together > 1;
        // One alone needs no cutting.
        let size = size.filter(|size| is_batched && (1..=LONGEST / 2).contains(size));
        let cut = size.filter(|&size| set_cut(socket, size).is_ok());
        if is_batched {
            let _ = setsockopt(socket, UdpGroSegment, &true);
        }
        Self { cut, is_batched }
    }
}

fn set_cut(socket: &UdpSocket, size: usize) -> Result<(), Errno> {
    setsockopt(socket, UdpGsoSegment, &i32::try_from(size).unwrap_or_default())
}

/// Whether the kernel does not cut here: the device has no checksums, or less room for a datagram than it has bytes.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [libc::EINVAL, libc::EIO, libc::EMSGSIZE, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|code| refusals.contains(&code))
}

/// What stands beside a piece: how long its datagrams were, where there are several (cmsg(3)).
#[repr(C)]
#[derive(Clone, Copy)]
struct Aside {
    header: libc::cmsghdr,
    segment: libc::c_int,
}

/// What was received last.
#[derive(Default)]
pub struct Incoming {
    /// The pieces, each at the beginning of its room.
    memory: Vec<u8>,
    asides: Vec<Aside>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// How many pieces there are.
    received: usize,
    /// Whether the last one was of several datagrams: then the next is likely to be all that is awaited, and it is not
    /// looked for more in vain.
    is_joined: bool,
}

impl Incoming {
    /// Room for so many pieces.
    #[allow(unsafe_code)]
    pub fn new(pieces: usize) -> Self {
        let pieces = pieces.clamp(1, MOST);
        // SAFETY: all of these are integers and pointers, for which zero is a value.
        let (aside, part, header) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Self {
            memory: vec![0; pieces * ROOM],
            asides: vec![aside; pieces],
            parts: vec![part; pieces],
            headers: vec![header; pieces],
            received: 0,
            is_joined: false,
        }
    }

    /// Receives what waits, `most` pieces at most; says whether that may not have been all. Nothing is waited for.
    ///
    /// # Errors
    /// Where nothing is there, or an ICMP error is reported.
    pub fn receive(&mut self, socket: &UdpSocket, way: Way, most: usize) -> io::Result<bool> {
        self.received = 0;
        if way.is_batched {
            let most = if self.is_joined { 1 } else { most.min(self.headers.len()) };
            self.receive_batch(socket, most)?;
            self.is_joined = self.segment(self.received - 1).is_some();
            return Ok(self.received == most);
        }
        let length = recv(socket.as_raw_fd(), &mut self.memory, MsgFlags::MSG_DONTWAIT)?;
        self.headers[0].msg_len = length as u32; // a room's, at most
        self.received = 1;
        Ok(true)
    }

    #[allow(unsafe_code)]
    fn receive_batch(&mut self, socket: &UdpSocket, most: usize) -> io::Result<()> {
        let Self { memory, asides, parts, headers, .. } = self;
        let rooms = memory.chunks_exact_mut(ROOM).zip(asides).zip(parts);
        for (header, ((room, aside), part)) in headers[..most].iter_mut().zip(rooms) {
            *part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: ROOM };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = ptr::from_mut(aside).cast();
            header.msg_hdr.msg_controllen = mem::size_of::<Aside>() as _;
        }
        let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: each header leads to a part, that to a room, and to an aside, all of this batch's and of the
        // lengths that stand beside them.
        let n = unsafe {
            libc::recvmmsg(fd, headers.as_mut_ptr(), most as u32, flags.cast_unsigned() as _, ptr::null_mut())
        };
        self.received = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        Ok(())
    }

    /// The datagrams. One may be empty.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.received).flat_map(|place| self.piece(place))
    }

    fn piece(&self, place: usize) -> impl Iterator<Item = &[u8]> {
        let length = self.headers[place].msg_len as usize;
        let bytes = &self.memory[place * ROOM..][..length];
        let step = self.segment(place).unwrap_or(length).max(1);
        (0..length.max(1)).step_by(step).map(move |from| &bytes[from..length.min(from + step)])
    }

    /// Of how many bytes each datagram of a piece is, where the kernel says that there are several; the last one may
    /// be shorter.
    fn segment(&self, place: usize) -> Option<usize> {
        let Aside { header, segment } = self.asides[place];
        let is_there = self.headers[place].msg_hdr.msg_controllen > 0;
        let tells = is_there && (header.cmsg_level, header.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO);
        usize::try_from(segment).ok().filter(|_| tells)
    }
}

/// What is to leave next.
pub struct Outgoing {
    bytes: Vec<u8>,
    /// Where each datagram ends.
    ends: Vec<usize>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Outgoing {
    /// Room for so many datagrams, each of so many bytes at most.
    #[allow(unsafe_code)]
    pub fn new(datagrams: usize, longest: usize) -> Self {
        let datagrams = datagrams.clamp(1, MOST);
        // SAFETY: both are integers and pointers, for which zero is a value.
        let (part, header) = unsafe { (mem::zeroed(), mem::zeroed()) };
        Self {
            bytes: vec![0; datagrams * longest],
            ends: Vec::with_capacity(datagrams),
            parts: vec![part; datagrams],
            headers: vec![header; datagrams],
        }
    }

    /// Whether nothing is to leave.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether no more fit.
    pub fn is_full(&self) -> bool {
        self.ends.len() == self.headers.len()
    }

    /// Where the next datagram is to be written.
    pub fn room(&mut self, length: usize) -> &mut [u8] {
        let begin = self.begin(self.ends.len());
        self.ends.push(begin + length);
        &mut self.bytes[begin..begin + length]
    }

    /// Sends what was written, in as few system calls as go. What is reported meanwhile is told, and costs nobody but
    /// the datagram that could not be sent.
    pub fn send(&mut self, socket: &UdpSocket, way: &mut Way, mut complain: impl FnMut(io::Error)) {
        let (mut next, mut is_told) = (0, false);
        while next < self.ends.len() {
            match self.send_from(next, socket, way) {
                Ok(sent) => (next, is_told) = (next + sent, false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What is reported is of an earlier one (ICMP): this one has not been sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && !is_told => {
                    is_told = true;
                    complain(error);
                }
                Err(error) => {
                    (next, is_told) = (next + 1, false);
                    complain(error);
                }
            }
        }
        self.ends.clear();
    }

    /// One system call; how many it has taken.
    fn send_from(&mut self, next: usize, socket: &UdpSocket, way: &mut Way) -> io::Result<usize> {
        if let Some(size) = way.cut {
            let last = self.ends.len().min(next + LONGEST / size);
            match socket.send(&self.bytes[self.begin(next)..self.begin(last)]) {
                Err(error) if is_refusal(&error) => {
                    way.cut = None;
                    let _ = set_cut(socket, 0);
                }
                sent => return sent.map(|_| last - next),
            }
        }
        if next + 1 == self.ends.len() {
            return socket.send(&self.bytes[self.begin(next)..self.ends[next]]).map(|_| 1);
        }
        self.send_batch(next, socket)
    }

    #[allow(unsafe_code)]
    fn send_batch(&mut self, next: usize, socket: &UdpSocket) -> io::Result<usize> {
        let Self { bytes, ends, parts, headers } = self;
        let mut begin = if next == 0 { 0 } else { ends[next - 1] };
        for ((header, part), &end) in headers.iter_mut().zip(parts).zip(&ends[next..]) {
            *part = libc::iovec { iov_base: bytes[begin..end].as_mut_ptr().cast(), iov_len: end - begin };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            begin = end;
        }
        let (fd, datagrams) = (socket.as_raw_fd(), (ends.len() - next) as u32);
        // SAFETY: each header leads to a part, and that to bytes of this batch's, of the length that stands beside.
        let n = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), datagrams, 0) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Where a datagram begins: where the one before it ends.
    fn begin(&self, place: usize) -> usize {
        place.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}
