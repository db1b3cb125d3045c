//! Clients of datagrams: some that hear their server alone, bursts, forged ones, and what the kernel has dropped.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    mem,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    ops::Range,
    os::fd::AsRawFd,
    panic::resume_unwind,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::Duration,
};

use nix::{
    cmsg_space,
    libc::{in_addr, in_pktinfo},
    sched::{CloneFlags, unshare},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
    },
    unistd::Uid,
};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::{PATIENCE, Server, echo_server, run, unanswered, within};

/// The longest datagram (65,535 bytes of IPv4, without the headers).
pub const LONGEST: usize = 65_507;

/// A client that hears its server alone, and waits for nothing longer than [`PATIENCE`].
pub fn client(server: SocketAddr) -> UdpSocket {
    client_at(server.ip(), server)
}

/// The same, at an address.
pub fn client_at(source: impl Into<IpAddr>, server: SocketAddr) -> UdpSocket {
    let source = source.into();
    loop {
        let client = UdpSocket::bind((source, 0)).expect("a socket");
        // On another address the server's port is free, but whoever asks from there is not answered.
        if client.local_addr().expect("an address").port() != server.port() {
            return connected(client, server);
        }
    }
}

/// A client at an address and port; `None` where it may not be (bind(2), EACCES).
pub fn client_of_port(source: IpAddr, port: u16, server: SocketAddr) -> Option<UdpSocket> {
    match UdpSocket::bind((source, port)) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        bound => Some(connected(bound.expect("a socket"), server)),
    }
}

fn connected(client: UdpSocket, server: SocketAddr) -> UdpSocket {
    client.connect(server).expect("connected");
    // What was meant for somebody who had its port before may have come until now.
    client.set_nonblocking(true).expect("non-blocking");
    while client.recv(&mut [0]).is_ok() {}
    client.set_nonblocking(false).expect("blocking");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client
}

/// A client that has every address of 127/8: it says from where it sends (IP_PKTINFO, ip(7)), and where it was
/// answered.
pub struct Everybody(UdpSocket);

impl Everybody {
    pub fn new() -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).expect("an option");
        socket.set_read_timeout(Some(Duration::from_millis(10))).expect("a timeout");
        Self(socket)
    }

    /// The `numbers`th of the addresses say what theirs is, some of them at once; and each is answered, or what is
    /// lost is counted.
    pub fn ask(&self, server: &Server, numbers: Range<u32>) {
        let SocketAddr::V4(to) = server.address else { panic!("{}", server.address) };
        let (mut lost, mut last, backlog) = (losses(server), 0, backlog_drops());
        for from in numbers.clone().step_by(128) {
            let some = from..numbers.end.min(from + 128);
            some.clone().for_each(|n| self.say(Self::address(n), to));
            let (mut heard, said) = (0, some.len());
            within(PATIENCE, "every answer, or a count of what is lost", || {
                while heard < said && self.hear() {
                    heard += 1;
                }
                let stands_still = mem::replace(&mut last, heard) == heard;
                let accounted = || {
                    let missing = said.checked_sub(heard + (losses(server) - lost) as usize);
                    missing.is_some_and(|missing| missing as u64 <= backlog_drops() - backlog)
                };
                (heard == said || stands_still && accounted()).then_some(())
            });
            if heard < said {
                lost = losses(server);
            }
        }
    }

    /// The `n`th of its addresses.
    pub fn address(n: u32) -> Ipv4Addr {
        (0x7f00_0100 + n).into()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.0.local_addr().expect("an address").port()
    }

    /// Says its address, from there.
    fn say(&self, from: Ipv4Addr, to: SocketAddrV4) {
        let [nowhere, source] =
            [Ipv4Addr::UNSPECIFIED, from].map(|it| in_addr { s_addr: u32::from_ne_bytes(it.octets()) });
        let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: nowhere };
        let (beside, said) = ([ControlMessage::Ipv4PacketInfo(&info)], from.octets());
        let to = SockaddrIn::from(to);
        sendmsg(self.0.as_raw_fd(), &[IoSlice::new(&said)], &beside, MsgFlags::empty(), Some(&to))
            .expect("sent");
    }

    /// Whether an answer comes within a moment; it came to the address that said it.
    fn hear(&self) -> bool {
        let (mut said, mut beside) = ([0; 8], cmsg_space!(in_pktinfo));
        let mut room = [IoSliceMut::new(&mut said)];
        let heard = recvmsg::<()>(self.0.as_raw_fd(), &mut room, Some(&mut beside), MsgFlags::empty());
        let Ok(heard) = heard else { return false };
        let asked = heard.cmsgs().expect("what stands beside").find_map(|it| match it {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(info.ipi_addr.s_addr.to_ne_bytes()),
            _ => None,
        });
        assert_eq!(heard.iovs().next(), asked.as_ref().map(|it| &it[..]), "another's answer");
        true
    }
}

/// An address of this machine that no other test uses, also of another run.
pub fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let ours = Ipv4Addr::new(127, 128, 0, 0).to_bits() + (std::process::id() % 8192) * 1024;
    let n = NEXT.fetch_add(1, Relaxed);
    assert!(n < 1024, "they would be another run's");
    Ipv4Addr::from_bits(ours + n).into()
}

/// Says something, and waits for no answer.
#[track_caller]
pub fn tell(client: &UdpSocket, said: &[u8]) {
    client.send(said).expect("sent");
}

/// The next datagram that comes.
#[track_caller]
pub fn hear(client: &UdpSocket) -> Vec<u8> {
    try_hear(client).expect("a datagram comes")
}

/// The same, where none may come.
pub fn try_hear(client: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut heard = vec![0; 1 << 16];
    let length = receive(client, &mut heard)?;
    heard.truncate(length);
    Ok(heard)
}

/// recv(2). One that waits for so long at most is not taken up again when the process was stopped and goes on
/// (signal(7)).
pub fn receive(client: &UdpSocket, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match client.recv(room) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// Says something, and hears the same.
#[track_caller]
pub fn ask(client: &UdpSocket, said: &[u8]) {
    tell(client, said);
    let heard = hear(client);
    assert!(heard == said, "of {} bytes {} came back, or others", said.len(), heard.len());
}

/// What has come by now, and is not taken yet.
pub fn waiting(client: &UdpSocket) -> Vec<Vec<u8>> {
    client.set_nonblocking(true).expect("non-blocking");
    let mut room = vec![0; 1 << 16];
    let heard = std::iter::from_fn(|| receive(client, &mut room).ok().map(|length| room[..length].to_vec()));
    let heard = heard.collect();
    client.set_nonblocking(false).expect("blocking");
    heard
}

/// Hears what comes until these have come back, each once, in whatever order.
#[track_caller]
pub fn hear_all(client: &UdpSocket, said: &[Vec<u8>]) {
    let mut missing: Vec<&[u8]> = said.iter().map(Vec::as_slice).collect();
    while !missing.is_empty() {
        let heard = hear(client);
        let place = missing.iter().position(|&it| it == heard);
        let lengths = || missing.iter().map(|it| it.len()).collect::<Vec<_>>();
        let place = place.unwrap_or_else(|| panic!("{} bytes came, of {:?}", heard.len(), lengths()));
        missing.swap_remove(place);
    }
}

/// Sends datagrams of `length` bytes, of which the last may be shorter, in one piece (UDP_SEGMENT, udp(7)).
pub fn burst(client: &UdpSocket, said: &[u8], length: usize) {
    let length = u16::try_from(length).expect("a length");
    let beside = [ControlMessage::UdpGsoSegments(&length)];
    let sent = sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(said)], &beside, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(said.len()), "sent");
}

/// Whether datagrams can be sent that say that they come from somewhere else: by root alone (raw(7)).
pub fn can_forge() -> bool {
    let can = Uid::effective().is_root() && Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).is_ok();
    if !can {
        eprintln!("not root: nothing is forged, and what that would show is not tested");
    }
    can
}

/// Sends a datagram that says that it comes from `from`, whose address has to be this machine's.
pub fn forge(from: SocketAddr, to: SocketAddr, said: &[u8]) {
    let raw = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::UDP)).expect("a raw socket");
    raw.bind(&SocketAddr::new(from.ip(), 0).into()).expect("bound");
    let length = u16::try_from(8 + said.len()).expect("a length");
    let mut datagram = Vec::new();
    for half in [from.port(), to.port(), length, 0] {
        datagram.extend(half.to_be_bytes());
    }
    datagram.extend(said);
    let sum = checksum(from.ip(), to.ip(), &datagram);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    raw.send_to(&datagram, &SocketAddr::new(to.ip(), 0).into()).expect("sent");
}

/// RFC 768: over the addresses, the protocol, the length and the datagram, whose own checksum is zero yet.
fn checksum(from: IpAddr, to: IpAddr, datagram: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u16::try_from(datagram.len()).expect("a length");
    let summed = [octets(from), octets(to), vec![0, 17], length.to_be_bytes().to_vec(), datagram.to_vec()];
    let halves = summed
        .concat()
        .chunks(2)
        .map(|half| u32::from(half[0]) << 8 | half.get(1).map_or(0, |&low| low.into()))
        .sum::<u32>();
    let folded = (halves & 0xffff) + (halves >> 16);
    match !(((folded & 0xffff) + (folded >> 16)) as u16) {
        0 => 0xffff,
        sum => sum,
    }
}

/// Runs a test in a network with a neighbourhood, 10.77.0.1/16, in which nobody answers ARP.
pub fn among_silent_neighbours(test: impl FnOnce() + Send) {
    let made_by = "ip link set lo up && ip link add silent type veth peer name nobody && ip link set nobody up && ip link set silent up && \
                   ip addr add 10.77.0.1/16 dev silent && \
                   for filter in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $filter; done";
    in_a_network(made_by, test);
}

/// Who sends from an address that is not this machine's (IP_TRANSPARENT, ip(7)).
pub fn elsewhere(source: Ipv4Addr) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    socket.set_ip_transparent_v4(true).expect("an option");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("bound");
    socket.into()
}

/// Runs a test in a network whose loopback interface lets 20 Mbit/s through and makes the others wait (tc-tbf(8)).
pub fn in_a_slow_network(test: impl FnOnce() + Send) {
    in_a_network("ip link set lo up && tc qdisc add dev lo root tbf rate 20mbit burst 20k limit 10mb", test);
}

/// Runs a test in a network that nobody else uses, made by these commands. Only root can make one.
pub fn in_a_network(made_by: &str, test: impl FnOnce() + Send) {
    if !Uid::effective().is_root() {
        return eprintln!("not root: what a network of another kind would show is not tested");
    }
    let tested = thread::scope(|scope| {
        let own = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own"); // this thread's, and its children's
            let made = run("sh".as_ref(), &["-c", made_by]);
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            test();
        });
        own.join()
    });
    tested.unwrap_or_else(|panic| resume_unwind(panic));
}

/// What a server counts by now, as `echo-server status` tells it.
pub fn status(server: &Server) -> Value {
    let said = run(echo_server(), &["status", &server.pid().to_string(), "--json"]).stdout;
    serde_json::from_slice(&said).expect("status --json is JSON")
}

/// How many datagrams are known to be lost: to the kernel, before the server's sockets, and to the server.
pub fn losses(server: &Server) -> u64 {
    kernel_drops(server.address) + unanswered(&status(server))
}

/// How many packets the kernel has dropped before they were any socket's, since a processor's queue of them was full
/// (the second number of a line of /proc/net/softnet_stat). Whose they were it does not tell.
pub fn backlog_drops() -> u64 {
    let lines = fs::read_to_string("/proc/net/softnet_stat").expect("/proc/net/softnet_stat");
    let of_each = lines.lines().map(|line| line.split_whitespace().nth(1).expect("a second number"));
    of_each.map(|number| u64::from_str_radix(number, 16).expect("it is hexadecimal")).sum()
}

/// How many datagrams the kernel has dropped before the sockets at an address.
fn kernel_drops(address: SocketAddr) -> u64 {
    let drops: HashMap<_, _> = at(address).map(|socket| (socket.inode, socket.drops)).collect();
    drops.into_values().sum()
}

/// The inodes of the sockets at an address.
pub fn inodes(address: SocketAddr) -> HashSet<String> {
    at(address).map(|socket| socket.inode).collect()
}

/// Those of the sockets that are open yet, wherever they are.
pub fn still_open(inodes: &HashSet<String>) -> HashSet<String> {
    sockets().map(|socket| socket.inode).filter(|inode| inodes.contains(inode)).collect()
}

fn at(address: SocketAddr) -> impl Iterator<Item = Listed> {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = ip.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes")));
    let local = words.map(|word| format!("{word:08X}")).collect::<String>();
    let local = format!("{local}:{:04X}", address.port());
    sockets().filter(move |socket| socket.local == local)
}

/// A socket as the kernel lists it (proc_net_udp(5)): twice or not at all, at times, where others come and go
/// while the list is read.
struct Listed {
    local: String,
    inode: String,
    drops: u64,
}

fn sockets() -> impl Iterator<Item = Listed> {
    let lists = ["/proc/net/udp", "/proc/net/udp6"].map(|list| fs::read_to_string(list).expect(list));
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [local, inode, drops] = [1, 9, 12].map(|n| words[n].to_owned());
        Listed { local, inode, drops: drops.parse().expect("a number") }
    };
    lists.into_iter().flat_map(move |list| list.lines().skip(1).map(socket).collect::<Vec<_>>())
}

impl Server {
    /// A client of datagrams of this server's.
    pub fn client(&self) -> UdpSocket {
        client(self.address)
    }

    /// Where it listens at another address of this machine, if it listens at all of them.
    pub fn at(&self, address: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), self.address.port())
    }
}
