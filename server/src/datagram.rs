//! Datagrams by the batch: many are received by one system call, and answered by one, each from where it lies.
//!
//! A datagram that is as long as UDP allows fits, so none is ever cut. The kernel may hand over several of one
//! client's that came as one burst in one piece (UDP_GRO, udp(7)), and takes their answers back in one
//! (UDP_SEGMENT); their length stands beside them, so that none is ever joined with another.
//!
//! Where somebody else is to answer, a piece travels to them in an envelope (`envelope`).
//!
//! See also: recvmmsg(2), sendmmsg(2), cmsg(3), ip(7) (IP_PKTINFO), ipv6(7).

mod envelope;
mod outlet;

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    ptr, slice, thread,
    time::{Duration, SystemTime},
};

use nix::libc;

pub use envelope::Envelope;
pub use outlet::{Left, Outlet, PATIENCE, Reserve, Wait};

/// How many datagrams, or bursts of them, a batch of a loop's holds.
pub const BATCH: usize = 64;

/// Room for the longest datagram (65,507 bytes of UDP over IPv4), and for the longest burst.
const ROOM: usize = 1 << 16;

/// How long receiving pauses when the kernel is short of memory.
pub const SHORTAGE: Duration = Duration::from_millis(10);

/// What came in one piece from one client: a datagram, or several of one length, of which the last may be shorter.
#[derive(Clone, Copy)]
pub struct Piece<'b> {
    /// Who sent it. An IPv4 address is plain also on a socket of both families.
    pub from: SocketAddr,
    /// Whether it was sent to one address alone: not to a broadcast or multicast address.
    pub to_one: bool,
    /// Whether the kernel had to cut it.
    pub is_cut: bool,
    /// When it came, in nanoseconds since 1970.
    pub at: u64,
    bytes: &'b [u8],
    segment: usize,
}

impl<'b> Piece<'b> {
    /// The datagrams in it. One may be empty.
    pub fn datagrams(&self) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        datagrams(self.bytes, self.segment)
    }
}

/// The datagrams that lie in `bytes` one behind the other, each `segment` long, but perhaps the last.
fn datagrams(bytes: &[u8], segment: usize) -> impl Iterator<Item = &[u8]> {
    let step = segment.max(1);
    let ends = (step..bytes.len()).step_by(step).chain([bytes.len()]);
    ends.scan(0, move |from, to| Some(&bytes[mem::replace(from, to)..to]))
}

/// How many those are.
fn count(length: usize, segment: usize) -> usize {
    length.div_ceil(segment.max(1)).max(1)
}

/// What becomes of the answers that are sent.
pub trait Post {
    /// So many datagrams of so many bytes in all were sent.
    fn sent(&self, datagrams: usize, bytes: usize);
    /// The kernel did not take answers of so many datagrams, and will not; `WouldBlock`: there was no room for them.
    fn undeliverable(&self, datagrams: usize, error: &io::Error);
}

/// Received datagrams, and the answers to them that are still to be sent.
pub struct Batch {
    memory: Vec<u8>,
    _names: Box<[Name]>,
    _asides: Box<[Aside]>,
    _iovs: Box<[libc::iovec]>,
    incoming: Box<[libc::mmsghdr]>,
    told: Box<[Told]>,
    received: usize,
    clock: u64,
    answers: Answers,
}

/// An address as the kernel writes it: IPv4's is the shorter.
type Name = libc::sockaddr_in6;

/// Room for what comes beside a datagram, aligned for its header.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Aside([u8; 192]);

// SAFETY: all pointers lead into this batch's own boxes and memory, which move with it and are nobody else's.
#[allow(unsafe_code)]
unsafe impl Send for Batch {}

impl Batch {
    /// Room for so many pieces; the memory is taken when they come.
    pub fn new(pieces: usize) -> Self {
        let mut memory = vec![0; pieces * ROOM];
        let mut names = vec![zeroed::<Name>(); pieces].into_boxed_slice();
        let mut asides = vec![Aside([0; 192]); pieces].into_boxed_slice();
        let iov =
            |bytes: &mut [u8]| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut iovs: Box<[libc::iovec]> = memory.chunks_mut(ROOM).map(iov).collect();
        let incoming = (0..pieces).map(|n| {
            let mut header = libc::mmsghdr { msg_hdr: no_header(), msg_len: 0 };
            header.msg_hdr.msg_name = ptr::from_mut(&mut names[n]).cast();
            header.msg_hdr.msg_iov = ptr::from_mut(&mut iovs[n]);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = asides[n].0.as_mut_ptr().cast();
            make_room(&mut header);
            header
        });
        let incoming = incoming.collect();
        let told = vec![Told::default(); pieces].into_boxed_slice();
        let (_names, _asides, _iovs, answers) = (names, asides, iovs, Answers::new(pieces));
        Self { memory, _names, _asides, _iovs, incoming, told, received: 0, clock: 0, answers }
    }

    /// How many pieces fit.
    pub fn size(&self) -> usize {
        self.incoming.len()
    }

    /// Receives what waits, or, where the socket blocks, waits for the first. Returns how many pieces came: none
    /// where a socket that does not block has none, and where a socket that blocks is told to end
    /// (`Datagrams::stop`). No answer may be unsent.
    ///
    /// # Errors
    /// The socket's; those of clients that have vanished are none.
    #[allow(unsafe_code)]
    pub fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.answers.unsent(), 0, "an answer lies where the next datagram would");
        self.incoming[..self.received].iter_mut().for_each(make_room);
        let (first, most) = (self.incoming.as_mut_ptr(), self.size() as u32);
        let n = loop {
            // SAFETY: each header leads to memory of this batch's, of the length that stands beside.
            let n = unsafe {
                libc::recvmmsg(
                    socket.as_fd().as_raw_fd(),
                    first,
                    most,
                    libc::MSG_WAITFORONE.cast_unsigned() as _,
                    ptr::null_mut(),
                )
            };
            if n >= 0 {
                break n.unsigned_abs() as usize;
            }
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => break 0,
                error if is_passing(&error) => {}
                // What waits can be received when there is memory again.
                error if is_shortage(&error) => thread::sleep(SHORTAGE),
                error => return Err(error),
            }
        };
        // A socket that was told to end gives what it has, and then something from nobody.
        let there = self.incoming[..n].iter().take_while(|header| header.msg_hdr.msg_namelen > 0).count();
        self.received = n;
        for (told, header) in self.told.iter_mut().zip(&self.incoming[..there]) {
            // SAFETY: the kernel has filled it, and it leads to this batch's names and asides, which are aligned.
            *told = unsafe { Told::of(&header.msg_hdr) };
        }
        self.clock = now();
        self.answers.forget();
        Ok(there)
    }

    /// The piece at a place among those that were received last.
    pub fn piece(&self, place: usize) -> Piece<'_> {
        debug_assert!(place < self.received);
        let length = self.incoming[place].msg_len as usize;
        self.told[place].piece(&self.memory[place * ROOM..][..length], self.clock)
    }

    /// The first `datagrams` of a piece, in an envelope.
    pub fn envelope(&self, place: usize, datagrams: usize) -> Envelope<'_> {
        let piece = self.piece(place);
        let bytes = &piece.bytes[..piece.bytes.len().min(piece.segment * datagrams)];
        Envelope::new(&self.told[place], piece.segment, bytes)
    }

    /// Has the first `datagrams` of a piece sent back as they are, from the address that they were sent to. The
    /// places are to be answered in their order.
    #[allow(unsafe_code)]
    pub fn answer(&mut self, place: usize, datagrams: usize) {
        let length = self.incoming[place].msg_len as usize;
        let bytes = &self.memory[place * ROOM..][..length];
        // SAFETY: they stay as they are until the next batch is received, before which the answers are forgotten.
        unsafe { self.answers.add(bytes, &self.told[place], datagrams) };
    }

    /// Sends the answers, or drops those that find no room for [`PATIENCE`]; does not block. Returns false where there is
    /// no room now: some are unsent then, and nothing may be received before this returned true. To be called again when
    /// the socket is writable, or the patience is over.
    pub fn send(&mut self, socket: &impl Outlet, post: &impl Post) -> bool {
        self.answers.send(socket, post)
    }

    /// The same, and waits for room.
    pub fn send_all(&mut self, socket: &impl Outlet, post: &impl Post) {
        self.answers.send_all(socket, post);
    }
}

fn make_room(header: &mut libc::mmsghdr) {
    header.msg_hdr.msg_namelen = size_of::<Name>() as u32;
    header.msg_hdr.msg_controllen = size_of::<Aside>();
}

/// Whether it is worth receiving again after an error: a signal, or ICMP's word on an answer before, which is not
/// the next datagram's business.
pub fn is_passing(error: &io::Error) -> bool {
    let passing = [libc::EINTR, libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EMSGSIZE];
    error.raw_os_error().is_some_and(|error| passing.contains(&error))
}

/// Whether the kernel has no memory or no buffers for now.
pub fn is_shortage(error: &io::Error) -> bool {
    [libc::ENOMEM, libc::ENOBUFS].map(Some).contains(&error.raw_os_error())
}

/// Now, as pieces tell it.
pub fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64)
}

/// Answers that are to be sent, from where the datagrams lie.
pub struct Answers {
    replies: Box<[Reply]>,
    headers: Box<[libc::mmsghdr]>,
    unsent: Range<usize>,
    wait: Wait,
}

/// What the header of an answer leads to.
#[derive(Clone, Copy)]
struct Reply {
    told: Told,
    iov: libc::iovec,
    aside: Aside,
    /// How long each datagram is, where there are several.
    segment: usize,
}

impl Reply {
    fn datagrams(&self) -> usize {
        count(self.iov.iov_len, self.segment)
    }

    /// Has the header lead here: anew whenever this may have moved, or was looked at in another way, which ends what
    /// pointers may do (Stacked Borrows).
    fn lead(&mut self, header: &mut libc::msghdr) {
        header.msg_name = ptr::from_mut(&mut self.told.from).cast();
        header.msg_iov = ptr::from_mut(&mut self.iov);
        header.msg_iovlen = 1;
        header.msg_control = self.aside.0.as_mut_ptr().cast();
    }
}

impl Answers {
    /// Room for the answers to so many pieces.
    pub fn new(pieces: usize) -> Self {
        let iov = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let nothing = Reply { told: Told::default(), iov, aside: Aside([0; 192]), segment: 0 };
        let replies = vec![nothing; pieces].into_boxed_slice();
        let headers = (0..pieces).map(|_| libc::mmsghdr { msg_hdr: no_header(), msg_len: 0 }).collect();
        Self { replies, headers, unsent: 0..0, wait: Wait::default() }
    }

    /// How many are unsent.
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Has the first `datagrams` of a piece sent back as they are, from the address that they were sent to.
    ///
    /// # Safety
    /// The bytes of the piece have to stay where they are until the answer was sent, or is forgotten.
    #[allow(unsafe_code)]
    pub unsafe fn add(&mut self, bytes: &[u8], told: &Told, datagrams: usize) {
        let segment = told.segment.unwrap_or(bytes.len());
        let length = bytes.len().min(segment * datagrams);
        let (reply, header) =
            (&mut self.replies[self.unsent.end], &mut self.headers[self.unsent.end].msg_hdr);
        reply.told = *told;
        reply.iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: length };
        reply.segment = segment;
        header.msg_namelen = told.from_length;
        reply.lead(header);
        // SAFETY: it leads to the aside of its reply.
        unsafe { tell_beside(header, told.asked, Some(segment).filter(|&segment| length > segment)) };
        self.unsent.end += 1;
    }

    /// None of them is to be sent.
    pub fn forget(&mut self) {
        self.unsent = 0..0;
    }

    /// See [`Batch::send`].
    #[allow(unsafe_code)]
    pub fn send(&mut self, socket: &impl Outlet, post: &impl Post) -> bool {
        while !self.unsent.is_empty() {
            let Self { replies, headers, unsent, wait } = self;
            let sent = wait.send(socket, |fd| {
                let headers = &mut headers[unsent.clone()];
                for (reply, header) in replies[unsent.clone()].iter_mut().zip(&mut *headers) {
                    reply.lead(&mut header.msg_hdr);
                }
                // SAFETY: each header leads to its reply, and that to bytes which are there yet (`add`).
                let n = unsafe {
                    libc::sendmmsg(
                        fd,
                        headers.as_mut_ptr(),
                        headers.len() as u32,
                        libc::MSG_DONTWAIT.cast_unsigned() as _,
                    )
                };
                if n < 0 {
                    return Err(io::Error::last_os_error());
                }
                let n = n.unsigned_abs() as usize;
                let sent = &replies[unsent.start..][..n];
                post.sent(
                    sent.iter().map(Reply::datagrams).sum(),
                    sent.iter().map(|it| it.iov.iov_len).sum(),
                );
                unsent.start += n;
                Ok(if unsent.start == unsent.end { Left::Nothing } else { Left::Some })
            });
            let Some(sent) = sent else { return false };
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = &self.replies[self.unsent.clone()];
                    post.undeliverable(left.iter().map(Reply::datagrams).sum(), &error);
                    break;
                }
                Err(error) if is_not_its_own(&error) => {}
                Err(error) => self.send_the_first_apart(socket, post, &error),
            }
        }
        self.forget();
        true
    }

    /// See [`Batch::send_all`].
    pub fn send_all(&mut self, socket: &impl Outlet, post: &impl Post) {
        while !self.send(socket, post) {
            socket.wait_for_room();
        }
    }

    /// The kernel refused the first of the answers. What does not go as a burst may go one by one.
    #[allow(unsafe_code)]
    fn send_the_first_apart(&mut self, socket: &impl Outlet, post: &impl Post, error: &io::Error) {
        let Some(first) = self.unsent.next() else { return };
        let Reply { told, iov, segment, .. } = &self.replies[first];
        if self.replies[first].datagrams() == 1 {
            return post.undeliverable(1, error);
        }
        // SAFETY: these bytes are there yet (`add`).
        let bytes = unsafe { slice::from_raw_parts(iov.iov_base.cast::<u8>(), iov.iov_len) };
        Envelope::new(told, *segment, bytes).each().for_each(|one| one.answer(socket, post));
    }
}

/// What the kernel told of a piece.
#[derive(Clone, Copy)]
pub struct Told {
    from: Name,
    from_length: libc::socklen_t,
    is_cut: bool,
    /// How long each is, where there are several.
    segment: Option<usize>,
    /// When it came.
    at: Option<u64>,
    to_one: bool,
    /// The address that it was sent to, where the socket has several.
    asked: Option<Asked>,
}

/// Which of our addresses a datagram was sent to, in the form in which its answer says where it comes from.
#[derive(Clone, Copy, Debug)]
enum Asked {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Default for Told {
    fn default() -> Self {
        let (from, from_length) = (zeroed(), 0);
        Self { from, from_length, is_cut: false, segment: None, at: None, to_one: true, asked: None }
    }
}

impl Told {
    /// Reads what a header leads to.
    ///
    /// # Safety
    /// The kernel has to have filled the name and what stands beside the bytes, as far as the header says; the latter
    /// is aligned for a message's header.
    #[allow(unsafe_code)]
    pub unsafe fn of(header: &libc::msghdr) -> Self {
        let mut told = Self { is_cut: header.msg_flags & libc::MSG_TRUNC != 0, ..Self::default() };
        told.from_length = header.msg_namelen.min(size_of::<Name>() as u32);
        let (from, name) = (ptr::from_mut(&mut told.from).cast::<u8>(), header.msg_name.cast::<u8>());
        // SAFETY: so much of the name is there, and fits.
        unsafe { ptr::copy_nonoverlapping(name, from, told.from_length as usize) };
        // SAFETY: the kernel has filled `msg_controllen` bytes of the aside with whole, aligned messages; the
        // macros step from one to the next, and give null after the last.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !next.is_null() {
            // SAFETY: as above, it points to a message's header, which says how long it is with its data, which follow.
            let (message, data) = unsafe {
                let length = ((*next).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                (*next, slice::from_raw_parts(libc::CMSG_DATA(next), length))
            };
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let length = read::<libc::c_int>(data).and_then(|length| usize::try_from(length).ok());
                    told.segment = length.filter(|&length| length > 0);
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    told.at = read::<libc::timespec>(data)
                        .and_then(|at| u64::try_from(at.tv_sec * 1_000_000_000 + at.tv_nsec).ok());
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    read(data).into_iter().for_each(|info| told.asked_v4(info));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    read(data).into_iter().for_each(|info| told.asked_v6(info));
                }
                _ => {}
            }
            // SAFETY: as above.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        told
    }

    /// The piece whose bytes these are; `clock` is when it came, where the kernel does not tell.
    pub fn piece<'b>(&self, bytes: &'b [u8], clock: u64) -> Piece<'b> {
        Piece {
            from: address(&self.from),
            to_one: self.to_one,
            is_cut: self.is_cut,
            at: self.at.unwrap_or(clock),
            bytes,
            segment: self.segment.unwrap_or(bytes.len()),
        }
    }

    /// ip(7): beside where it was sent to stands which of our addresses that is; of a broadcast or multicast
    /// address none. The interface is left to the routes.
    fn asked_v4(&mut self, info: libc::in_pktinfo) {
        self.to_one &= info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr;
        self.asked = Some(Asked::V4(libc::in_pktinfo { ipi_ifindex: 0, ..info }));
    }

    /// ipv6(7). An address of one link means something on its interface alone.
    fn asked_v6(&mut self, info: libc::in6_pktinfo) {
        let to = Ipv6Addr::from(info.ipi6_addr.s6_addr);
        self.to_one &= match to.to_canonical() {
            IpAddr::V4(to) => !to.is_multicast() && !to.is_broadcast(),
            IpAddr::V6(to) => !to.is_multicast(),
        };
        let interface = if to.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
        self.asked = Some(Asked::V6(libc::in6_pktinfo { ipi6_ifindex: interface, ..info }));
    }
}

/// Writes beside an answer where it comes from, and, of a burst, how long each is.
///
/// # Safety
/// The header has to lead to an [`Aside`] for that.
#[allow(unsafe_code)]
unsafe fn tell_beside(header: &mut libc::msghdr, asked: Option<Asked>, segment: Option<usize>) {
    header.msg_controllen = size_of::<Aside>();
    // SAFETY: the aside is aligned for a message's header, and has room for both messages.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    let mut length = 0;
    let mut write = |level, kind, data: &[u8]| {
        let size = data.len() as u32;
        // SAFETY: as above; the data follow the header.
        unsafe {
            ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(next), data.len());
            (*next).cmsg_level = level;
            (*next).cmsg_type = kind;
            (*next).cmsg_len = libc::CMSG_LEN(size) as _;
            length += libc::CMSG_SPACE(size) as usize;
            next = next.wrapping_byte_add(libc::CMSG_SPACE(size) as usize);
        }
    };
    match asked {
        Some(Asked::V4(info)) => write(libc::IPPROTO_IP, libc::IP_PKTINFO, bytes_of(&info)),
        Some(Asked::V6(info)) => write(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, bytes_of(&info)),
        None => {}
    }
    if let Some(segment) = segment {
        write(libc::SOL_UDP, libc::UDP_SEGMENT, bytes_of(&(segment as u16)));
    }
    header.msg_controllen = length;
}

/// Whether a signal or ICMP's word on another answer kept one from being sent: it can be sent again.
fn is_not_its_own(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECONNREFUSED))
}

/// Sends one answer, or several in one piece, each `segment` long but perhaps the last. Waits for room.
///
/// # Errors
/// The socket's; those of clients that have vanished are none. `WouldBlock` where no room was found in time.
#[allow(unsafe_code)]
fn send(
    socket: &impl Outlet,
    (mut to, name_length): (Name, u32),
    asked: Option<Asked>,
    segment: Option<usize>,
    bytes: &[u8],
) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut aside = Aside([0; 192]);
    let mut header = no_header();
    header.msg_name = ptr::from_mut(&mut to).cast();
    header.msg_namelen = name_length;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = aside.0.as_mut_ptr().cast();
    // SAFETY: it leads to the aside that lies here.
    unsafe { tell_beside(&mut header, asked, segment) };
    let send = |fd| {
        // SAFETY: the header leads to what lies here until the call returns, of the length that stands beside.
        match unsafe { libc::sendmsg(fd, &raw const header, libc::MSG_DONTWAIT) } {
            0.. => Ok(Left::Nothing),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let mut wait = Wait::default();
    loop {
        match wait.send(socket, send) {
            None => socket.wait_for_room(),
            Some(Err(error)) if is_not_its_own(&error) => {}
            Some(sent) => return sent,
        }
    }
}

/// A structure of the kernel's interface.
///
/// # Safety
/// It has no padding, and whatever its bytes are, they are a value of it.
#[allow(unsafe_code)]
unsafe trait Plain: Copy {}

// SAFETY: an integer.
#[allow(unsafe_code)]
unsafe impl Plain for u16 {}
// SAFETY: an integer.
#[allow(unsafe_code)]
unsafe impl Plain for libc::c_int {}
// SAFETY: integers, and nothing between them.
#[allow(unsafe_code)]
unsafe impl Plain for libc::timespec {}
// SAFETY: integers, and nothing between them.
#[allow(unsafe_code)]
unsafe impl Plain for libc::in_pktinfo {}
// SAFETY: integers, and nothing between them.
#[allow(unsafe_code)]
unsafe impl Plain for libc::in6_pktinfo {}
// SAFETY: integers, and nothing between them.
#[allow(unsafe_code)]
unsafe impl Plain for Name {}

/// The structure that `bytes` begin with, wherever they lie; `None` where they are too few.
#[allow(unsafe_code)]
fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: so many bytes are there, and whatever they are, they are a T.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes of a structure.
#[allow(unsafe_code)]
fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: it has no padding, so all of its bytes have a value.
    unsafe { slice::from_raw_parts(ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A structure that is all zero.
#[allow(unsafe_code)]
fn zeroed<T: Plain>() -> T {
    // SAFETY: whatever its bytes are, they are a T.
    unsafe { mem::zeroed() }
}

/// A header that leads to nothing.
#[allow(unsafe_code)]
pub fn no_header() -> libc::msghdr {
    // SAFETY: numbers and pointers, for which all zero bytes are a value.
    unsafe { mem::zeroed() }
}

/// The address that the kernel wrote.
#[allow(unsafe_code)]
fn address(name: &Name) -> SocketAddr {
    if i32::from(name.sin6_family) == libc::AF_INET {
        // SAFETY: the kernel wrote the shorter address here, and its family says so.
        let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
        return (Ipv4Addr::from_bits(u32::from_be(name.sin_addr.s_addr)), u16::from_be(name.sin_port)).into();
    }
    let (ip, port) = (Ipv6Addr::from(name.sin6_addr.s6_addr), u16::from_be(name.sin6_port));
    match ip.to_canonical() {
        IpAddr::V4(ip) => (ip, port).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into(),
    }
}

/// How many datagrams the kernel dropped because the socket's buffer was full, since it was made (SO_MEMINFO,
/// socket(7)). 0 where it does not tell.
#[allow(unsafe_code)]
pub fn kernel_drops(socket: &impl AsFd) -> u64 {
    const DROPS: usize = 8; // SK_MEMINFO_DROPS
    let mut info = [0u32; DROPS + 1];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done == 0 { info[DROPS].into() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagrams(bytes: &[u8], segment: Option<usize>) -> Vec<&[u8]> {
        Told { segment, ..Told::default() }.piece(bytes, 0).datagrams().collect()
    }

    #[test]
    fn a_burst_is_taken_apart_by_the_length_that_stands_beside_it() {
        assert_eq!(datagrams(b"abcdefgh", Some(4)), [b"abcd", b"efgh"]);
        assert_eq!(datagrams(b"abcdef", Some(4)), [&b"abcd"[..], b"ef"]);
        assert_eq!(datagrams(b"abc", Some(4)), [b"abc"]);
        assert_eq!(datagrams(b"abc", None), [b"abc"]);
        assert_eq!(datagrams(b"", None), [b""]);
    }

    #[test]
    #[allow(unsafe_code)]
    fn the_answer_to_the_first_of_a_burst_ends_where_they_end() {
        let bytes = [7; 250];
        for (segment, admitted, length, count) in
            [(Some(100), 3, 250, 3), (Some(100), 2, 200, 2), (Some(100), 1, 100, 1), (None, 1, 250, 1)]
        {
            let mut answers = Answers::new(1);
            let told = Told { segment, ..Told::default() };
            // SAFETY: the bytes outlive the answers, which are not sent.
            unsafe { answers.add(&bytes, &told, admitted) };
            let reply = &answers.replies[0];
            assert_eq!((reply.iov.iov_len, reply.datagrams()), (length, count));
            // A burst says how long each is, a single datagram does not.
            let beside = answers.headers[0].msg_hdr.msg_controllen;
            assert_eq!(beside > 0, count > 1);
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn what_the_kernel_refuses_as_a_burst_is_sent_one_by_one() {
        let [server, client] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let server = Alone(server, Reserve::new(Vec::new()).unwrap());
        client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let bytes = vec![7; 200 * 30 + 5];
        // The longer address begins as the shorter one does: with the family, the port and an address of four bytes.
        let to = Name {
            sin6_family: libc::AF_INET as _,
            sin6_port: client.local_addr().unwrap().port().to_be(),
            sin6_flowinfo: u32::from(Ipv4Addr::LOCALHOST).to_be(),
            ..zeroed()
        };
        // More than UDP_MAX_SEGMENTS (128) at once: EINVAL.
        let from_length = size_of::<libc::sockaddr_in>() as u32;
        let told = Told { from: to, from_length, segment: Some(30), ..Told::default() };
        let (mut answers, sent) = (Answers::new(1), Counted::default());
        // SAFETY: the bytes outlive the answers.
        unsafe { answers.add(&bytes, &told, 201) };
        assert!(answers.send(&server, &sent));
        assert_eq!((answers.unsent(), sent.datagrams.get(), sent.bytes.get()), (0, 201, bytes.len()));
        let lengths = (0..201).map(|_| client.recv(&mut [0; 100]).unwrap());
        assert_eq!(lengths.collect::<Vec<_>>(), [vec![30; 200], vec![5]].concat());
    }

    struct Alone(std::net::UdpSocket, Reserve);

    impl AsFd for Alone {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl Outlet for Alone {
        fn reserve(&self) -> &Reserve {
            &self.1
        }
    }

    #[derive(Default)]
    struct Counted {
        datagrams: std::cell::Cell<usize>,
        bytes: std::cell::Cell<usize>,
    }

    impl Post for Counted {
        fn sent(&self, datagrams: usize, bytes: usize) {
            self.datagrams.update(|n| n + datagrams);
            self.bytes.update(|n| n + bytes);
        }

        fn undeliverable(&self, _: usize, error: &io::Error) {
            panic!("{error}");
        }
    }
}
