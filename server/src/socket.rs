//! Listeners and their options. socket2 lives here.

use std::{
    fmt, fs,
    io::{self, IoSliceMut},
    iter,
    net::{self, IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arguments::Endpoint;
use nix::{
    cmsg_space, getsockopt_impl,
    libc::{self, SOCK_CLOEXEC, SOCK_NONBLOCK},
    setsockopt_impl, sockopt_impl,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, getsockopt, recvmsg, setsockopt, sockopt},
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
};
use socket2::{SockAddr, Socket, TcpKeepalive, Type};

use crate::datagram::{Outlet, Reserve, kernel_drops};

/// A connected stream socket, TCP's or a Unix-domain one.
pub use socket2::Socket as Stream;

/// What can be chosen about the sockets of a server; the same for every model.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// How many connections the accept queue holds (listen(2)).
    pub backlog: i32,
    /// TCP_NODELAY: answers leave at once (tcp(7)).
    pub nodelay: bool,
    /// How long a client's host may be gone before its connection ends; `None`: nobody asks for it.
    pub keepalive: Option<Duration>,
    /// How many sockets listen on one port, each with an accept queue of its own (SO_REUSEPORT, socket(7)).
    pub listeners: usize,
    /// Whether datagrams are answered that look like answers themselves.
    pub reflect_any: bool,
    /// Whether several datagrams that came as one burst may be received in one piece (UDP_GRO, udp(7)).
    pub bursts: bool,
    /// Whether the kernel notes when each datagram arrives, so that several who receive from a socket can say what came
    /// first (SO_TIMESTAMPNS, socket(7)).
    pub arrivals: bool,
}

/// A bound and listening stream socket. A set of several on one port is a list of them, so that nothing can be done to
/// the set that reaches its first member alone.
pub struct Listener {
    socket: Socket,
    /// A service manager holds it too, and goes on listening.
    is_inherited: bool,
}

impl Listener {
    /// Binds as many as the options say, all on one port, and listens; port 0 becomes a free one.
    ///
    /// TCP_NODELAY is set on the listener: on Linux an accepted socket inherits it, which saves a system call
    /// a connection. SO_REUSEADDR lets a server start again beside the TIME_WAIT of its last run (socket(7)).
    /// A Unix-domain socket that nobody listens on any more is removed from the path first.
    ///
    /// # Errors
    /// What socket(2), bind(2) and listen(2) report, `EADDRINUSE` above all; `EOPNOTSUPP` where a
    /// Unix-domain socket is to share its path.
    pub fn bind(endpoint: &Endpoint, options: SocketOptions) -> io::Result<Vec<Self>> {
        let address = match endpoint {
            Endpoint::Tcp(address) | Endpoint::Udp(address) => SockAddr::from(*address),
            Endpoint::Unix(path) => {
                remove_if_dead(path)?;
                SockAddr::unix(path)?
            }
        };
        let sockets = on_one_port(address, options, listen)?;
        Ok(sockets.into_iter().map(|socket| Self { socket, is_inherited: false }).collect())
    }

    /// Takes over a socket that was bound and listens already (socket activation).
    ///
    /// # Errors
    /// `EINVAL` where it is no listening stream socket.
    pub fn inherit(fd: OwnedFd, options: SocketOptions) -> io::Result<Self> {
        let socket = Socket::from(fd);
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
        }
        socket.listen(options.backlog)?; // only changes the backlog (listen(2))
        socket.set_nonblocking(true)?;
        let listener = Self { socket, is_inherited: true };
        if matches!(listener.endpoint()?, Endpoint::Tcp(_)) {
            optional("TCP_NODELAY", NODELAY, listener.socket.set_tcp_nodelay(options.nodelay));
            optional("SO_KEEPALIVE", KEEPALIVE, find_vanished_peers(&listener.socket, options.keepalive));
        }
        Ok(listener)
    }

    /// Where it really listens.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` where it has neither an IP address nor a path.
    pub fn endpoint(&self) -> io::Result<Endpoint> {
        let address = self.socket.local_addr()?;
        let path = || address.as_pathname().map(|path| Endpoint::Unix(path.to_owned()));
        address
            .as_socket()
            .map(Endpoint::Tcp)
            .or_else(path)
            .ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EAFNOSUPPORT))
    }

    /// The same socket under another descriptor.
    ///
    /// # Errors
    /// Where descriptors ran out.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, is_inherited: self.is_inherited })
    }

    /// The path that this listener made, if it is a Unix-domain one.
    pub fn path(&self) -> Option<OwnPath> {
        match self.endpoint().ok().filter(|_| !self.is_inherited)? {
            Endpoint::Unix(path) => OwnPath::of(path),
            Endpoint::Tcp(_) | Endpoint::Udp(_) => None,
        }
    }

    /// Whether a service manager holds the socket too: it never stops listening, so nobody who is blocked in
    /// accept(2) on it could be woken.
    pub fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// Whether several workers have to share this socket: it was passed, or a path has no second one.
    pub fn is_shared(&self) -> bool {
        self.is_inherited || !matches!(self.endpoint(), Ok(Endpoint::Tcp(_)))
    }

    /// Takes the next client from the accept queue; its socket blocks. accept(2); a signal does not end it.
    ///
    /// # Errors
    /// See `accept::Fault`, which sorts them.
    pub fn accept(&self) -> io::Result<(Stream, Peer)> {
        self.accept_with(SOCK_CLOEXEC)
    }

    /// The same, and its socket does not block.
    ///
    /// # Errors
    /// See `accept::Fault`, which sorts them.
    pub fn accept_nonblocking(&self) -> io::Result<(Stream, Peer)> {
        self.accept_with(SOCK_CLOEXEC | SOCK_NONBLOCK)
    }

    fn accept_with(&self, flags: i32) -> io::Result<(Stream, Peer)> {
        loop {
            match self.socket.accept4(flags) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                accepted => return accepted.map(|(stream, address)| (stream, Peer::at(&address))),
            }
        }
    }

    /// Whether accepting blocks while nobody waits; for all who hold the socket.
    ///
    /// # Errors
    /// What fcntl(2) reports.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    /// Ends listening for everyone who holds the socket: who is blocked in accept(2) on it gets `EINVAL`, and
    /// new clients are refused. What is still in the accept queue is reset, so it should be empty. A socket that
    /// was inherited goes on: who comes now is for the next who inherits it.
    pub fn stop(&self) {
        if !self.is_inherited {
            let _ = self.socket.shutdown(net::Shutdown::Read);
        }
    }
}

/// As many sockets as the options say, all on one port, which is the first one's.
///
/// The first is bound before it shares the port: else it might share that of another server, which may be the one
/// that was asked for, and may be the one that the kernel takes for a free one (udp_lib_get_port).
fn on_one_port(
    address: SockAddr,
    options: SocketOptions,
    open: fn(&SockAddr, SocketOptions, Share) -> io::Result<Socket>,
) -> io::Result<Vec<Socket>> {
    let first = open(&address, options, Share::Alone)?;
    let address = first.local_addr()?;
    if options.listeners > 1 {
        needed("SO_REUSEPORT", ANOTHER_DISPATCH, first.set_reuse_port(true))?; // EOPNOTSUPP on a path
    }
    let siblings = (1..options.listeners).map(|_| open(&address, options, Share::WithSiblings));
    iter::once(Ok(first)).chain(siblings).collect()
}

/// Sets an option that a server does without where the kernel, or a sandbox, refuses it: a line in the log says what
/// that costs.
fn optional<E: fmt::Display>(option: &str, costs: &str, set: Result<(), E>) {
    if let Err(error) = set {
        log::warn!("the socket option {option} is refused: {error}; {costs}");
    }
}

/// Sets an option that a server cannot do without.
///
/// # Errors
/// `Unsupported`, with a sentence that names it and says what to do.
fn needed<E: fmt::Display>(option: &str, remedy: &str, set: Result<(), E>) -> io::Result<()> {
    set.map_err(|error| {
        let sentence = format!("the socket option {option} is refused: {error}; {remedy}");
        io::Error::new(io::ErrorKind::Unsupported, sentence)
    })
}

const NODELAY: &str = "--nodelay has no effect";
const NO_ARRIVALS: &str = "what several workers keep of one client may be out of order";
const KEEPALIVE: &str = "peers that vanish may not be found out";
const ANOTHER_DISPATCH: &str = "use one worker, or another --dispatch or --model";
const ONE_ADDRESS: &str = "name one IPv4 address of this machine";

/// Whether a socket is bound where others may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Alone,
    WithSiblings,
}

fn listen(address: &SockAddr, options: SocketOptions, share: Share) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    if !address.is_unix() {
        let restart = "the port of a server that has just ended may be in use for a minute";
        optional("SO_REUSEADDR", restart, socket.set_reuse_address(true));
        optional("TCP_NODELAY", NODELAY, socket.set_tcp_nodelay(options.nodelay));
        optional("SO_KEEPALIVE", KEEPALIVE, find_vanished_peers(&socket, options.keepalive));
    }
    if address.is_ipv6() {
        // The system's default differs between systems; [::] is for both families here.
        needed("IPV6_V6ONLY", ONE_ADDRESS, socket.set_only_v6(false))?;
    }
    if share == Share::WithSiblings {
        needed("SO_REUSEPORT", ANOTHER_DISPATCH, socket.set_reuse_port(true))?;
    }
    socket.bind(address)?;
    socket.listen(options.backlog)?;
    Ok(socket)
}

/// Has the kernel find out, within about `limit`, that a peer is gone without a word: unplugged, or its network cut. The
/// accepted sockets inherit this from the listener, so it costs no system call a connection.
///
/// A connection on which nothing moves is asked whether it is there, with the last three questions in the second half of
/// the limit (SO_KEEPALIVE, tcp(7)). Where bytes wait for an acknowledgement nobody asks, but they are sent again, up to
/// 15 times (tcp_retries2): so the pauses between are bounded (TCP_RTO_MAX_MS, since Linux 6.15), by a second at least,
/// which makes it 15 seconds at least. TCP_USER_TIMEOUT would be exact, but also ends a connection whose peer is there
/// and does not read.
fn find_vanished_peers(socket: &Socket, limit: Option<Duration>) -> io::Result<()> {
    let Some(limit) = limit else { return socket.set_keepalive(false) };
    let seconds =
        u32::try_from(limit.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX).clamp(2, 32_767);
    let interval = (seconds / 6).max(1);
    let questions = (seconds - 1).min(3);
    let silence = seconds - questions * interval;
    let [silence, interval] = [silence, interval].map(|seconds| Duration::from_secs(seconds.into()));
    let keepalive = TcpKeepalive::new().with_time(silence).with_interval(interval).with_retries(questions);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    if let Err(error) = setsockopt(socket, RtoMax, &(seconds * 1000 / 12).clamp(1000, 120_000)) {
        // As on every kernel before 6.15: no warning at each start.
        log::info!(
            "the socket option TCP_RTO_MAX_MS is refused: {error}; peers that vanish while bytes wait for them are found \
             out in a quarter of an hour"
        );
    }
    Ok(())
}

#[cfg(target_os = "linux")]
sockopt_impl!(
    /// How many milliseconds pass at most before bytes are sent again (TCP_RTO_MAX_MS, linux/tcp.h).
    RtoMax,
    Both,
    libc::IPPROTO_TCP,
    TCP_RTO_MAX_MS,
    u32
);

#[cfg(target_os = "linux")]
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// A bound UDP socket. A set of several on one port is a list of them; it is opened once and stands still: then the
/// kernel keeps each client on one of them.
pub struct Datagrams {
    socket: Socket,
    /// What answers leave by where it is full; the same for all of the port.
    reserve: Arc<Reserve>,
    /// A service manager holds it too, and the next server is to receive from it.
    is_inherited: bool,
    /// How many datagrams the kernel had dropped before it was this server's.
    dropped_before: u64,
}

/// How many bytes the kernel may hold for us, over all sockets of a port, where it allows it: a pause of some
/// milliseconds then loses nothing.
const RECEIVE_BUFFERS: usize = 8 << 20;

impl Datagrams {
    /// Binds as many as the options say, all on one port; port 0 becomes a free one.
    ///
    /// Unless `reflect_any`, our answers bear a mark, and what bears it is not received: two servers that a forged
    /// datagram has pointed at each other stop at once.
    ///
    /// # Errors
    /// What socket(2) and bind(2) report, `EADDRINUSE` above all.
    pub fn bind(address: net::SocketAddr, options: SocketOptions) -> io::Result<Vec<Self>> {
        let sockets = on_one_port(address.into(), options, receive_at)?;
        if options.arrivals {
            let note = |socket| optional("SO_TIMESTAMPNS", NO_ARRIVALS, note_arrivals(socket));
            sockets.iter().for_each(note);
        }
        let reserve = Arc::new(Reserve::new(reserve(&sockets, options))?);
        let one = |socket| {
            let reserve = Arc::clone(&reserve);
            Self { socket, reserve, is_inherited: false, dropped_before: 0 }
        };
        Ok(sockets.into_iter().map(one).collect())
    }

    /// Takes over a socket that was bound already (socket activation).
    ///
    /// # Errors
    /// `EINVAL` where it is no UDP socket; where it refuses an option that is needed.
    pub fn inherit(fd: OwnedFd, options: SocketOptions) -> io::Result<Self> {
        let socket = Socket::from(fd);
        let address = socket.local_addr()?;
        if socket.r#type()? != Type::DGRAM || address.as_socket().is_none() {
            return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
        }
        set_options_of_datagrams(&socket, &address, options)?;
        if options.arrivals {
            optional("SO_TIMESTAMPNS", NO_ARRIVALS, note_arrivals(&socket));
        }
        let dropped_before = kernel_drops(&socket);
        let reserve = Arc::new(Reserve::new(reserve(std::slice::from_ref(&socket), options))?);
        Ok(Self { socket, reserve, is_inherited: true, dropped_before })
    }

    /// Whether a service manager holds the socket too: what comes when this server has ended is for the next.
    pub fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// Where it really receives.
    ///
    /// # Errors
    /// What getsockname(2) reports.
    pub fn address(&self) -> io::Result<net::SocketAddr> {
        let address = self.socket.local_addr()?.as_socket();
        address.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EAFNOSUPPORT))
    }

    /// The same socket under another descriptor.
    ///
    /// # Errors
    /// Where descriptors ran out.
    pub fn try_clone(&self) -> io::Result<Self> {
        let (socket, reserve) = (self.socket.try_clone()?, Arc::clone(&self.reserve));
        let Self { is_inherited, dropped_before, .. } = *self;
        Ok(Self { socket, reserve, is_inherited, dropped_before })
    }

    /// Whether receiving blocks while nothing is there; for all who hold the socket.
    ///
    /// # Errors
    /// What fcntl(2) reports.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    /// Ends receiving for everyone who holds the socket: what comes now finds no port (ICMP tells its sender), what
    /// has come is still received, and who blocks wakes when there is nothing more.
    ///
    /// A socket that is connected to itself receives from nobody else; it may still send to all.
    pub fn stop(&self) {
        if self.is_inherited {
            return; // nothing of this could be undone for the next server
        }
        let connected = itself(&self.socket).and_then(|address| self.socket.connect(&address.into()));
        // Without a way to itself (a loopback that is down) it receives nothing all the same; but nobody is told.
        if connected.is_err()
            && let Err(error) = receive_nothing(&self.socket)
        {
            log::warn!("the socket goes on receiving: {error}");
        }
        let _ = self.socket.shutdown(net::Shutdown::Read);
    }

    /// How many datagrams the kernel dropped because the buffer was full.
    pub fn kernel_drops(&self) -> u64 {
        kernel_drops(&self.socket).saturating_sub(self.dropped_before)
    }

    /// The same of the sockets in reserve, which all of the port have in common.
    pub fn reserve_drops(&self) -> u64 {
        self.reserve.sockets().iter().map(kernel_drops).sum()
    }
}

/// Where a socket reaches itself.
fn itself(socket: &Socket) -> io::Result<net::SocketAddr> {
    let mut address = socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EAFNOSUPPORT))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.is_ipv6() {
            true => Ipv6Addr::LOCALHOST.into(),
            false => Ipv4Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

/// How many bytes of answers the kernel may hold beside those of the sockets themselves, with its own cost: those to 78
/// neighbours that do not answer, where it holds as much as by default for each (arp(7), unres_qlen_bytes).
const SEND_BUFFERS: usize = 16 << 20;

/// How many sockets the reserve has at most. Who may have no larger buffers than net.core.wmem_max is by default gets
/// enough for eight such neighbours; each costs the kernel a look at every datagram that it delivers.
const MOST_RESERVED: usize = 4;

/// Sockets for [`Reserve`]: as many as have such buffers. They come from the same address and port as those do that they
/// are for. Without one there is a line in the log, and the server does without.
fn reserve(sockets: &[Socket], options: SocketOptions) -> Vec<OwnedFd> {
    let (mut reserved, mut room) = (Vec::new(), 0);
    while room < SEND_BUFFERS && reserved.len() < MOST_RESERVED {
        let added = add_to_reserve(sockets, options).and_then(|socket| {
            room += socket.send_buffer_size()?;
            reserved.push(socket.into());
            Ok(())
        });
        if let Err(error) = added {
            log::warn!("no reserve for answers that find no room in the send buffer: {error}");
            break;
        }
    }
    reserved
}

/// A socket that is connected to a port of this machine's that nobody has, so that the kernel delivers nothing to it; it
/// may still send to all. That several have the port is allowed while it is bound, and not afterwards.
fn add_to_reserve(sockets: &[Socket], options: SocketOptions) -> io::Result<Socket> {
    let shared = |allowed| sockets.iter().try_for_each(|socket| socket.set_reuse_address(allowed));
    let Some(first) = sockets.first() else { return Err(io::ErrorKind::NotFound.into()) };
    let address = first.local_addr()?;
    let socket = Socket::new(address.domain(), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    #[cfg(target_os = "linux")]
    if !options.reflect_any {
        mark(&socket, address.is_ipv6());
    }
    receive_nothing(&socket)?;
    #[cfg(target_os = "linux")]
    let _ = setsockopt(&socket, sockopt::SndBufForce, &(SEND_BUFFERS / 2)); // the kernel doubles it
    if socket.send_buffer_size()? < SEND_BUFFERS {
        socket.set_send_buffer_size(SEND_BUFFERS / 2)?;
    }
    socket.set_reuse_address(true)?;
    let bound = shared(true).and_then(|()| socket.bind(&address));
    shared(false)?;
    bound?;
    let mut nobody = itself(first)?;
    nobody.set_port(DISCARD);
    socket.connect(&nobody.into())?;
    Ok(socket)
}

/// The port of RFC 863, from which no datagram is answered (`exchange`).
const DISCARD: u16 = 9;

/// Has the kernel note when each datagram arrives, and waits until it does: the first who asks for that gets it a little
/// later (net_enable_timestamp), and until then the kernel notes when a datagram is received, which may be in another
/// order.
fn note_arrivals(socket: &Socket) -> io::Result<()> {
    setsockopt(socket, sockopt::ReceiveTimestampns, &true)?;
    let deadline = Instant::now() + NOTED_WITHIN;
    // Where there is no loopback interface to try it on, there is nothing to wait for.
    while matches!(arrivals_are_noted(), Ok(false)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// How long the kernel has to begin to note arrivals. On a busy machine it took 50 ms.
const NOTED_WITHIN: Duration = Duration::from_secs(1);

/// Whether the time that stands beside a datagram is that of its arrival: over the loopback interface it has arrived
/// when it is sent.
fn arrivals_are_noted() -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    socket.send_to(&[0], socket.local_addr()?)?;
    let sent = clock_gettime(ClockId::CLOCK_REALTIME)?;
    let (mut byte, mut beside) = ([0], cmsg_space!(TimeSpec));
    let mut room = [IoSliceMut::new(&mut byte)];
    let told = recvmsg::<()>(socket.as_raw_fd(), &mut room, Some(&mut beside), MsgFlags::MSG_DONTWAIT)?;
    let noted = told.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(at) => Some(at),
        _ => None,
    });
    Ok(noted.is_some_and(|at| at <= sent))
}

fn receive_at(address: &SockAddr, options: SocketOptions, share: Share) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::DGRAM, None)?;
    if address.is_ipv6() {
        needed("IPV6_V6ONLY", ONE_ADDRESS, socket.set_only_v6(false))?;
    }
    if share == Share::WithSiblings {
        needed("SO_REUSEPORT", ANOTHER_DISPATCH, socket.set_reuse_port(true))?;
    }
    set_options_of_datagrams(&socket, address, options)?;
    socket.bind(address)?;
    if is_broadcast(address)? {
        return Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "a broadcast address is no server's alone",
        ));
    }
    Ok(socket)
}

fn set_options_of_datagrams(socket: &Socket, address: &SockAddr, options: SocketOptions) -> io::Result<()> {
    let anywhere = address.as_socket().is_some_and(|address| address.ip().is_unspecified());
    if anywhere {
        // Which address it was sent to, so that the answer can come from there.
        if address.is_ipv6() {
            let set = setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true);
            needed("IPV6_RECVPKTINFO", ONE_ADDRESS, set)?;
        }
        // Of both families it knows a broadcast address.
        needed("IP_PKTINFO", ONE_ADDRESS, setsockopt(socket, sockopt::Ipv4PacketInfo, &true))?;
    }
    let buffer = (RECEIVE_BUFFERS / options.listeners).max(1 << 18);
    #[cfg(target_os = "linux")]
    {
        let costs = "each datagram costs a receive of its own";
        optional("UDP_GRO", costs, setsockopt(socket, sockopt::UdpGroSegment, &options.bursts));
        if !options.reflect_any {
            mark(socket, address.is_ipv6());
            let costs = "answers of other servers like this one are answered";
            optional("SO_ATTACH_FILTER", costs, receive_nothing_marked(socket));
        }
        // Who may not have that much gets what net.core.rmem_max allows.
        let _ = setsockopt(socket, sockopt::RcvBufForce, &buffer);
    }
    if socket.recv_buffer_size()? < buffer {
        let costs = "the kernel holds less, and drops more";
        optional("SO_RCVBUF", costs, socket.set_recv_buffer_size(buffer));
    }
    Ok(())
}

/// Whether a socket may have this address here; only of one that may not because this machine does not have it, that is
/// false.
pub fn is_of_this_machine(endpoint: &Endpoint) -> bool {
    let (Endpoint::Tcp(address) | Endpoint::Udp(address)) = endpoint else { return true };
    let bound = UdpSocket::bind((address.ip(), 0));
    !bound.is_err_and(|error| {
        matches!(error.raw_os_error(), Some(nix::libc::EADDRNOTAVAIL | nix::libc::EAFNOSUPPORT))
    })
}

/// Whether the kernel knows the address as one of many hosts: who may not broadcast may not connect to it (ip(7),
/// EACCES).
fn is_broadcast(address: &SockAddr) -> io::Result<bool> {
    let asker = Socket::new(address.domain(), Type::DGRAM, None)?;
    Ok(asker.connect(address).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied))
}

/// A filter that lets nothing through.
#[cfg(target_os = "linux")]
fn receive_nothing(socket: &Socket) -> io::Result<()> {
    use nix::libc::{BPF_K, BPF_RET};
    socket.attach_filter(&[socket2::SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, 0)])
}

#[cfg(not(target_os = "linux"))]
fn receive_nothing(_socket: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The mark of our answers, a code point for local use (DSCP, RFC 2474, pool 3), 43. The two bits below are ECN's.
#[cfg(target_os = "linux")]
const MARK: u32 = 43 << 2;

/// Marks all that the socket sends.
#[cfg(target_os = "linux")]
fn mark(socket: &Socket, ipv6: bool) {
    let costs = "other servers like this one answer its answers";
    if ipv6 {
        optional("IPV6_TCLASS", costs, socket.set_tclass_v6(MARK));
    }
    optional("IP_TOS", costs, socket.set_tos_v4(MARK));
}

/// Has the socket receive nothing that is marked; who is asked in such a packet by somebody else does not hear of it.
#[cfg(target_os = "linux")]
fn receive_nothing_marked(socket: &Socket) -> io::Result<()> {
    use nix::libc::{
        BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_RSH,
        SKF_NET_OFF,
    };
    use socket2::SockFilter;

    let header = SKF_NET_OFF.cast_unsigned();
    let step = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    // BPF: the first four bits are the version, and the code point follows them in IPv6, four bits later in IPv4.
    let filter = [
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, header),
        step(BPF_ALU | BPF_RSH | BPF_K, 0, 0, 4),
        step(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 6),
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, header + 1),
        step(BPF_JMP | BPF_JA, 0, 0, 2),
        step(BPF_LD | BPF_H | BPF_ABS, 0, 0, header),
        step(BPF_ALU | BPF_RSH | BPF_K, 0, 0, 4),
        step(BPF_ALU | BPF_AND | BPF_K, 0, 0, 0xfc),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, MARK),
        step(BPF_RET | BPF_K, 0, 0, 0),
        step(BPF_RET | BPF_K, 0, 0, u32::MAX),
    ];
    socket.attach_filter(&filter)
}

impl AsRawFd for Datagrams {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Outlet for Datagrams {
    fn reserve(&self) -> &Reserve {
        &self.reserve
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A path that is removed when this is dropped, unless somebody else has put another file there meanwhile.
pub struct OwnPath {
    path: PathBuf,
    file: (u64, u64),
}

impl OwnPath {
    fn of(path: PathBuf) -> Option<Self> {
        let file = fs::metadata(&path).ok()?;
        Some(Self { path, file: (file.dev(), file.ino()) })
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        if fs::metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A server that was killed leaves its path behind, and nobody could bind it again. A path is dead if it is a
/// socket and connecting to it is refused. (Where the backlog is full it is not: `EAGAIN`.)
fn remove_if_dead(path: &Path) -> io::Result<()> {
    if !fs::metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
        return Ok(());
    }
    let address = SockAddr::unix(path)?;
    let asks = Socket::new(address.domain(), Type::STREAM, None)?;
    asks.set_nonblocking(true)?;
    match asks.connect(&address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

sockopt_impl!(
    /// How much memory a socket's queues take (SO_MEMINFO, socket(7)).
    MemInfo,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    [u32; 9]
);

/// What the kernel holds of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Whether something has come that was not read.
    pub unread: bool,
    /// How much memory takes what the other side has not taken; on TCP, not acknowledged. It falls as it is taken.
    pub untaken: u32,
}

impl Held {
    /// What it holds now; nothing where it does not tell.
    pub fn of(stream: &impl AsFd) -> Self {
        let [unread, _, sending, _, _, queued, ..] = getsockopt(stream, MemInfo).unwrap_or_default();
        // What a Unix-domain socket has sent is charged to `sending`, what TCP keeps until it is acknowledged to `queued`.
        Self { unread: unread > 0, untaken: sending.saturating_add(queued) }
    }
}

/// Who a client is, as far as a limit on clients of one address goes: an IPv4 address, an IPv6 network
/// of 64 bits (which is what one customer gets), or nobody in particular on a Unix-domain socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer(u64);

impl Peer {
    fn at(address: &SockAddr) -> Self {
        address.as_socket().map_or(Self(0), |address| Self::from(address.ip()))
    }

    /// Who is at the other end (getpeername(2)).
    pub fn of(stream: &impl AsFd) -> Self {
        let address = socket2::SockRef::from(stream).peer_addr();
        address.map_or(Self(0), |address| Self::at(&address))
    }

    /// A number that is this peer's alone; 0 is nobody in particular.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The peer that has this number.
    pub fn numbered(number: u64) -> Self {
        Self(number)
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            // No client has an address in ffff::/16, which is multicast, nor in ::/64, but for ::1; and all that a link
            // has are in fe80::/64.
            IpAddr::V4(address) => Self(0xffff << 48 | u64::from(address.to_bits())),
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                Self(0xfe80 << 48 | address.to_bits() as u64 & 0xffff_ffff_ffff)
            }
            IpAddr::V6(address) => Self(((address.to_bits() >> 64) as u64).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, TcpStream},
        os::unix::net::UnixStream,
    };

    use super::*;

    fn options() -> SocketOptions {
        SocketOptions {
            backlog: 8,
            nodelay: true,
            keepalive: None,
            listeners: 1,
            reflect_any: false,
            bursts: true,
            arrivals: false,
        }
    }

    fn anywhere() -> Endpoint {
        "tcp://127.0.0.1:0".parse().unwrap()
    }

    /// One listener.
    fn listener(endpoint: &Endpoint, options: SocketOptions) -> io::Result<Listener> {
        Listener::bind(endpoint, options).map(|mut all| all.remove(0))
    }

    fn address(listener: &Listener) -> SocketAddr {
        match listener.endpoint().unwrap() {
            Endpoint::Tcp(address) => address,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_accepted_socket_inherits_nodelay_from_its_listener() {
        for nodelay in [true, false] {
            let listener = listener(&anywhere(), SocketOptions { nodelay, ..options() }).unwrap();
            let _client = TcpStream::connect(address(&listener)).unwrap();
            assert_eq!(listener.accept().unwrap().0.tcp_nodelay().unwrap(), nodelay);
        }
    }

    #[test]
    fn an_accepted_socket_inherits_how_a_vanished_peer_is_found_out() {
        for (limit, [silence, interval, questions, again]) in [
            (60, [30, 10, 3, 5000]),
            (5, [2, 1, 3, 1000]),
            (2, [1, 1, 1, 1000]),
            (600, [300, 100, 3, 50_000]),
        ] {
            let keepalive = Some(Duration::from_secs(limit));
            let listener = listener(&anywhere(), SocketOptions { keepalive, ..options() }).unwrap();
            let _client = TcpStream::connect(address(&listener)).unwrap();
            let accepted = listener.accept().unwrap().0;
            assert!(accepted.keepalive().unwrap());
            assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(silence));
            assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(interval));
            assert_eq!(u64::from(accepted.tcp_keepalive_retries().unwrap()), questions);
            // Before Linux 6.15 there is no such option.
            if let Ok(ms) = getsockopt(&accepted, RtoMax) {
                assert_eq!(u64::from(ms), again);
            }
        }
        let listener = listener(&anywhere(), options()).unwrap();
        let _client = TcpStream::connect(address(&listener)).unwrap();
        assert!(!listener.accept().unwrap().0.keepalive().unwrap());
    }

    #[test]
    fn a_listener_that_stopped_refuses_and_wakes_who_waits() {
        let folder = tempfile::tempdir().unwrap();
        for endpoint in [anywhere(), Endpoint::Unix(folder.path().join("echo.sock"))] {
            let listener = listener(&endpoint, options()).unwrap();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| listener.accept());
                while !waiting.is_finished() {
                    listener.stop();
                    std::thread::yield_now();
                }
                let error = waiting.join().unwrap().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(nix::libc::EINVAL), "{endpoint}");
            });
            let refused = match listener.endpoint().unwrap() {
                Endpoint::Unix(path) => UnixStream::connect(path).unwrap_err(),
                _ => TcpStream::connect(address(&listener)).unwrap_err(),
            };
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{endpoint}");
        }
    }

    #[test]
    fn a_path_that_nobody_listens_on_is_taken_over_and_any_other_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(folder.path().join("echo.sock"));
        drop(listener(&endpoint, options()).unwrap());
        let there = listener(&endpoint, options()).unwrap();
        assert_eq!(there.endpoint().unwrap(), endpoint);
        let in_use = listener(&endpoint, options()).err().unwrap();
        assert_eq!(in_use.kind(), io::ErrorKind::AddrInUse);
        let file = folder.path().join("precious");
        fs::write(&file, "not a socket").unwrap();
        assert!(Listener::bind(&Endpoint::Unix(file.clone()), options()).is_err());
        assert!(file.exists());
    }

    #[test]
    fn siblings_listen_on_one_port_and_each_client_comes_to_one_of_them() {
        let options = SocketOptions { listeners: 3, ..options() };
        let all = Listener::bind(&anywhere(), options).unwrap();
        all.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
        let clients: Vec<_> = (0..8).map(|_| TcpStream::connect(address(&all[2])).unwrap()).collect();
        let accepted: usize =
            all.iter().map(|listener| std::iter::from_fn(|| listener.accept().ok()).count()).sum();
        assert_eq!(accepted, clients.len());
    }

    #[test]
    fn a_free_port_is_no_other_servers() {
        let options = SocketOptions { listeners: 2, ..options() };
        let here = "127.0.0.1:0".parse().unwrap();
        let all: Vec<Vec<Datagrams>> = (0..300).map(|_| Datagrams::bind(here, options).unwrap()).collect();
        let ports: std::collections::HashSet<u16> =
            all.iter().map(|set| set[0].address().unwrap().port()).collect();
        assert_eq!(ports.len(), all.len());
        let theirs = all[0][0].address().unwrap();
        assert_eq!(Datagrams::bind(theirs, options).err().unwrap().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_reserve_sends_from_the_same_address_and_receives_nothing() {
        for (here, client) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("0.0.0.0:0", "127.0.0.1:0"),
            ("[::1]:0", "[::1]:0"),
            ("[::]:0", "[::1]:0"),
        ] {
            for listeners in [1, 2] {
                let options = SocketOptions { listeners, ..options() };
                let datagrams = Datagrams::bind(here.parse().unwrap(), options).unwrap();
                let client = UdpSocket::bind(client).unwrap();
                client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let server = SocketAddr::new(
                    client.local_addr().unwrap().ip(),
                    datagrams[0].address().unwrap().port(),
                );
                let reserved = datagrams[0].reserve().sockets();
                assert!((1..=MOST_RESERVED).contains(&reserved.len()));
                for socket in reserved {
                    let socket = socket2::SockRef::from(socket);
                    socket.send_to(b"answer", &client.local_addr().unwrap().into()).unwrap();
                    assert_eq!(client.recv_from(&mut [0; 10]).unwrap(), (6, server));
                }
                (0..20).for_each(|_| assert_eq!(client.send_to(b"question", server).unwrap(), 8));
                let came = datagrams.iter().map(|Datagrams { socket, .. }| {
                    socket.set_nonblocking(true).unwrap();
                    std::iter::from_fn(|| io::Read::read(&mut &*socket, &mut [0; 10]).ok()).count()
                });
                let drops = datagrams.iter().map(Datagrams::kernel_drops).sum::<u64>();
                let lost = drops + datagrams[0].reserve_drops();
                assert_eq!((came.sum::<usize>(), lost), (20, 0), "{here}");
            }
        }
    }

    #[test]
    fn an_arrival_is_noted_when_it_comes_and_not_when_it_is_received() {
        for _ in 0..50 {
            let noting = SocketOptions { arrivals: true, ..options() };
            let _datagrams = Datagrams::bind("127.0.0.1:0".parse().unwrap(), noting).unwrap();
            assert!(arrivals_are_noted().unwrap());
        }
    }

    #[test]
    fn a_peer_is_an_ipv4_address_or_an_ipv6_network() {
        let peer = |text: &str| Peer::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(peer("127.0.0.1"), peer("::ffff:127.0.0.1"));
        assert_ne!(peer("127.0.0.1"), peer("127.0.0.2"));
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::2"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_ne!(peer("::1").number(), 0);
    }
}
