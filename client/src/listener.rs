//! What the kernel tells of a socket on this machine (sock_diag(7)): of one that listens how long its queue is, and whom it
//! takes; of one that is connected what waits in it.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Whether somebody listens on this port; `None` where the kernel does not tell.
pub fn is_there(port: u16) -> Option<bool> {
    let of = |family| all(family).map(|all| all.iter().any(|listener| listener.port == port));
    match (of(AddressFamily::Inet), of(AddressFamily::Inet6)) {
        (Ok(true), _) | (_, Ok(true)) => Some(true),
        (Err(_), _) => None,
        (Ok(false), _) => Some(false),
    }
}

/// How many who have connected wait for accept(2) at most, of those who listen on this port the least; `None` where the
/// kernel does not tell.
pub fn queue(port: u16) -> Option<u32> {
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    let listening = families.into_iter().filter_map(|family| all(family).ok()).flatten();
    listening.filter(|listener| listener.port == port).map(|listener| listener.queue).min()
}

/// Whether the queue of somebody who listens on this port is full: who connects now has to knock again after a second.
pub fn is_full(port: u16) -> bool {
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    let mut listening = families.into_iter().filter_map(|family| all(family).ok()).flatten();
    listening.any(|listener| listener.port == port && listener.waiting > listener.queue)
}

/// Their sockets' numbers, as /proc/PID/fd has them; none where the kernel does not tell.
pub fn inodes(port: u16) -> Vec<u64> {
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    let listening = families.into_iter().filter_map(|family| all(family).ok()).flatten();
    listening.filter(|listener| listener.port == port).map(|listener| listener.inode.into()).collect()
}

/// Whether somebody listens on this port on an address of this family, or on `::` for both.
pub fn takes(address: SocketAddr) -> bool {
    let port = address.port();
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let listens = |family| all(family).is_ok_and(|all| all.iter().any(|it| it.port == port));
    listens(family) || takes_both(port)
}

/// Whether somebody listens on this port on `::`, and so for both families of addresses (IPV6_V6ONLY, ipv6(7)).
pub fn takes_both(port: u16) -> bool {
    let listening = all(AddressFamily::Inet6).unwrap_or_default();
    listening.iter().any(|it| it.port == port && it.is_on_any_address && !it.is_of_one_family)
}

/// A listening socket.
struct Listener {
    port: u16,
    queue: u32,
    waiting: u32,
    inode: u32,
    is_on_any_address: bool,
    is_of_one_family: bool,
}

/// The header of a message (netlink(7)), and what is asked in it: `struct inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
/// What is answered: the header, a `struct inet_diag_msg`, and attributes behind it.
const ANSWER: usize = HEADER + 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const TCP_LISTEN: u32 = 10;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// How many bytes wait in a connected socket: to be read, and to be acknowledged by the other end or sent to it; `None` where
/// there is none of these addresses.
pub fn waiting(here: SocketAddr, there: SocketAddr) -> Option<[usize; 2]> {
    let family = if here.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut request = request(family, NLM_F_REQUEST, u32::MAX);
    let ports = [here.port(), there.port()].into_iter().flat_map(u16::to_be_bytes);
    let addresses = [here.ip(), there.ip()].into_iter().flat_map(|ip| {
        let bytes = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        bytes.into_iter().chain([0; 16]).take(16)
    });
    let name: Vec<u8> = ports.chain(addresses).chain([0; 4]).chain([0xff; 8]).collect(); // on any device, whatever its cookie
    request.splice(HEADER + 8.., name);
    let netlink = ask(&request).ok()?;
    let mut answer = [0; 4096];
    let n = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).ok()?;
    let told = &answer[..n];
    let is_told = told.len() >= ANSWER && u16::from_ne_bytes([told[4], told[5]]) == SOCK_DIAG_BY_FAMILY;
    is_told.then(|| [HEADER + 56, HEADER + 60].map(|at| number(told, at).unwrap_or(0) as usize))
}

/// A question of one kind or the other, of sockets in these states, with whatever address.
fn request(family: AddressFamily, flags: u16, states: u32) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST);
    request.extend((REQUEST as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]); // its number, and who asks
    request.extend([family as u8, nix::libc::IPPROTO_TCP as u8, 0, 0]);
    request.extend(states.to_ne_bytes());
    request.resize(REQUEST, 0);
    request
}

fn ask(request: &[u8]) -> nix::Result<OwnedFd> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&netlink, ReceiveTimeout, &TimeVal::seconds(1))?;
    send(netlink.as_raw_fd(), request, MsgFlags::empty())?;
    Ok(netlink)
}

/// All listening sockets of TCP.
fn all(family: AddressFamily) -> nix::Result<Vec<Listener>> {
    let netlink = ask(&request(family, NLM_F_REQUEST | NLM_F_DUMP, 1 << TCP_LISTEN))?;
    let mut listening = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut told = &buffer[..n];
        while let Some(length) = number(told, 0).map(|length| length as usize) {
            if length < HEADER || length > told.len() {
                return Ok(listening);
            }
            let kind = u16::from_ne_bytes([told[4], told[5]]);
            if kind == NLMSG_DONE {
                return Ok(listening);
            }
            if kind != SOCK_DIAG_BY_FAMILY {
                return Err(nix::Error::EOPNOTSUPP);
            }
            listening.extend(listener(&told[..length]));
            told = told.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn listener(message: &[u8]) -> Option<Listener> {
    let attributes = message.get(ANSWER..)?;
    Some(Listener {
        port: u16::from_be_bytes([message[HEADER + 4], message[HEADER + 5]]),
        is_on_any_address: message[HEADER + 8..HEADER + 24].iter().all(|byte| *byte == 0),
        queue: number(message, HEADER + 60)?,
        waiting: number(message, HEADER + 56)?,
        inode: number(message, HEADER + 68)?,
        is_of_one_family: attribute(attributes, INET_DIAG_SKV6ONLY).is_some_and(|value| value == [1]),
    })
}

/// The attribute of this kind: each is its length, its kind and its bytes (rtnetlink(3)).
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let head = attributes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        if u16::from_ne_bytes([head[2], head[3]]) == kind {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn listens(address: SocketAddr, length: i32, is_of_one_family: bool) -> (Socket, u16) {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(is_of_one_family).unwrap();
        }
        socket.bind(&address.into()).unwrap();
        socket.listen(length).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        (socket, port)
    }

    #[test]
    fn the_length_of_a_queue_is_what_listen_was_told_and_nobody_has_none() {
        let (listening, port) = listens((Ipv4Addr::LOCALHOST, 0).into(), 7, false);
        assert_eq!(queue(port), Some(7));
        drop(listening);
        assert_eq!(queue(port), None);
    }

    #[test]
    fn what_waits_in_a_connected_socket_is_told_to_either_end() {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let Ok(listener) = std::net::TcpListener::bind((ip, 0)) else { continue };
            let there = listener.local_addr().unwrap();
            let mut client = std::net::TcpStream::connect(there).unwrap();
            let here = client.local_addr().unwrap();
            let _server = listener.accept().unwrap();
            std::io::Write::write_all(&mut client, b"seven b").unwrap();
            assert_eq!(waiting(there, here).map(|[unread, _]| unread), Some(7), "{ip}");
            assert_eq!(waiting(here, there).map(|[unread, _]| unread), Some(0), "{ip}");
            assert_eq!(waiting(here, (ip, 9).into()), None, "{ip}");
        }
    }

    #[test]
    fn who_listens_on_the_wildcard_takes_both_families_unless_it_says_that_it_does_not() {
        for (address, is_of_one_family, expected) in [
            (Ipv6Addr::UNSPECIFIED, false, true),
            (Ipv6Addr::UNSPECIFIED, true, false),
            (Ipv6Addr::LOCALHOST, false, false),
        ] {
            let (_listening, port) = listens((address, 0).into(), 7, is_of_one_family);
            assert_eq!(takes_both(port), expected, "{address} {is_of_one_family}");
        }
    }
}
