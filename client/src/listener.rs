//! What the kernel tells of a listening socket on this machine: which it is, how long its queue is, and whom it takes
//! (sock_diag(7)).

use std::{collections::BTreeSet, os::fd::AsRawFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The sockets that listen on this port, by their inodes; `None` where the kernel does not tell.
pub fn inodes(port: u16) -> Option<BTreeSet<u64>> {
    // There may be no IPv6.
    let listening =
        all(AddressFamily::Inet).ok()?.into_iter().chain(all(AddressFamily::Inet6).unwrap_or_default());
    Some(listening.filter(|listener| listener.port == port).map(|listener| listener.inode).collect())
}

/// How many who have connected wait for accept(2) at most, of those who listen on this port the least; `None` where the
/// kernel does not tell.
pub fn queue(port: u16) -> Option<u32> {
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    let listening = families.into_iter().filter_map(|family| all(family).ok()).flatten();
    listening.filter(|listener| listener.port == port).map(|listener| listener.queue).min()
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
    inode: u64,
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
const NLM_F_REQUEST_AND_DUMP: u16 = 0x301;
const TCP_LISTEN: u32 = 10;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// All listening sockets of TCP.
fn all(family: AddressFamily) -> nix::Result<Vec<Listener>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&netlink, ReceiveTimeout, &TimeVal::seconds(1))?;
    let mut request = Vec::with_capacity(REQUEST);
    request.extend((REQUEST as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST_AND_DUMP.to_ne_bytes());
    request.extend([0; 8]); // its number, and who asks
    request.extend([family as u8, nix::libc::IPPROTO_TCP as u8, 0, 0]);
    request.extend((1u32 << TCP_LISTEN).to_ne_bytes());
    request.resize(REQUEST, 0); // of any address
    send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
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
        inode: number(message, HEADER + 68)?.into(),
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
    fn a_listening_socket_is_known_by_its_inode() {
        let (listening, port) = listens((Ipv4Addr::LOCALHOST, 0).into(), 7, false);
        let own = std::fs::read_link(format!("/proc/self/fd/{}", listening.as_raw_fd())).unwrap();
        let told: Vec<String> =
            inodes(port).unwrap().iter().map(|inode| format!("socket:[{inode}]")).collect();
        assert_eq!(told, [own.to_str().unwrap()]);
        drop(listening);
        assert_eq!(inodes(port), Some(BTreeSet::new()));
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
