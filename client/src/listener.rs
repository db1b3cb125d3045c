//! What the kernel tells of a socket on this machine (sock_diag(7)): of one that listens which it is, how long its queue is,
//! and whom it takes; of one that is connected what waits in it.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
pub use netlink_packet_sock_diag::inet::StateFlags;
use netlink_packet_sock_diag::{
    SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, nlas::Nla},
};
use nix::{
    libc::IPPROTO_TCP,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
};

/// An end of a connection on this machine, or who listens for them.
pub struct End {
    /// Zero of those that have been closed.
    pub inode: u64,
    /// The port of the other end; zero of who listens.
    pub peer: u16,
}

/// The ends on this port that are in one of these states (tcp(7)): from sock_diag, for /proc/net/tcp has a line for every
/// connection that has ended lately; from there all the same where the kernel has no other answer.
pub fn ends(port: u16, states: &StateFlags) -> Vec<End> {
    // There may be no IPv6.
    let told = on(port, states, AddressFamily::Inet).map(|mut ends| {
        ends.extend(on(port, states, AddressFamily::Inet6).unwrap_or_default());
        ends
    });
    match told {
        Ok(ends) => ends
            .iter()
            .map(|it| &it.header)
            .map(|it| End { inode: it.inode.into(), peer: it.socket_id.destination_port })
            .collect(),
        Err(_) => {
            let lists = [procfs::net::tcp(), procfs::net::tcp6()].into_iter().flatten().flatten();
            let ends = lists
                .filter(|it| it.local_address.port() == port && states.bits() & (1 << it.state.to_u8()) != 0);
            ends.map(|it| End { inode: it.inode, peer: it.remote_address.port() }).collect()
        }
    }
}

/// How many who have connected wait for accept(2) at most, of those who listen on this port the least; `None` where the
/// kernel does not tell.
pub fn queue(port: u16) -> Option<u32> {
    of_both_families(port).map(|socket| socket.header.send_queue).min()
}

/// Whether the queue of somebody who listens on this port is full: who connects now has to knock again after a second.
pub fn is_full(port: u16) -> bool {
    of_both_families(port).any(|socket| socket.header.recv_queue > socket.header.send_queue)
}

/// Whether somebody listens on this port on an address of this family, or on `::` for both.
pub fn takes(address: SocketAddr) -> bool {
    on(address.port(), &StateFlags::LISTEN, family(address)).is_ok_and(|all| !all.is_empty())
        || takes_both(address.port())
}

/// Whether somebody listens on this port on `::`, and so for both families of addresses (IPV6_V6ONLY, ipv6(7)).
pub fn takes_both(port: u16) -> bool {
    let is_of_one_family = |socket: &InetResponse| socket.nlas.contains(&Nla::SkV6Only(true));
    let is_on_any_address = |socket: &InetResponse| socket.header.socket_id.source_address.is_unspecified();
    let listening = on(port, &StateFlags::LISTEN, AddressFamily::Inet6).unwrap_or_default();
    listening.iter().any(|socket| is_on_any_address(socket) && !is_of_one_family(socket))
}

/// How many bytes wait in a connected socket: to be read, and to be acknowledged by the other end or sent to it; `None` where
/// there is none of these addresses.
pub fn waiting(here: SocketAddr, there: SocketAddr) -> Option<[usize; 2]> {
    let any = SocketId::new_v4(); // on any device, whatever its cookie
    let named = SocketId {
        source_port: here.port(),
        source_address: here.ip(),
        destination_port: there.port(),
        destination_address: there.ip(),
        cookie: [0xff; 8],
        ..any
    };
    let netlink = ask(&request(family(here), NLM_F_REQUEST, &StateFlags::all(), named)).ok()?;
    let mut buffer = vec![0; 4 << 10];
    let n = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
    match NetlinkMessage::deserialize(&buffer[..n]).ok()?.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
            Some([socket.header.recv_queue, socket.header.send_queue].map(|bytes| bytes as usize))
        }
        _ => None,
    }
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
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

/// Those that listen on this port, of both families as far as the kernel tells.
fn of_both_families(port: u16) -> impl Iterator<Item = InetResponse> {
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    families.into_iter().filter_map(move |family| on(port, &StateFlags::LISTEN, family).ok()).flatten()
}

/// The local addresses of the connections to this server, one for each, those in TIME_WAIT included; `None` where the kernel
/// does not tell.
pub fn towards(server: SocketAddr) -> Option<Vec<IpAddr>> {
    let there = SocketId { destination_port: server.port(), ..SocketId::new_v4() };
    let mut all = dump(there, &StateFlags::all(), family(server)).ok()?;
    all.retain(|it| it.header.socket_id.destination_address == server.ip());
    Some(all.iter().map(|it| it.header.socket_id.source_address).collect())
}

/// All sockets of TCP on this port that are in one of these states.
fn on(port: u16, states: &StateFlags, family: AddressFamily) -> nix::Result<Vec<InetResponse>> {
    dump(SocketId { source_port: port, ..SocketId::new_v4() }, states, family)
}

/// All sockets of TCP that have the ports of `named`, those that are not zero, and are in one of these states.
fn dump(named: SocketId, states: &StateFlags, family: AddressFamily) -> nix::Result<Vec<InetResponse>> {
    let netlink = ask(&request(family, NLM_F_REQUEST | NLM_F_DUMP, states, named))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut told = &buffer[..n];
        while !told.is_empty() {
            let message = NetlinkMessage::deserialize(told).map_err(|_| nix::Error::EBADMSG)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                    found.push(*socket);
                }
                _ => return Err(nix::Error::EOPNOTSUPP),
            }
            // Each begins at a multiple of four bytes (netlink(3), NLMSG_ALIGN).
            let length = message.header.length as usize;
            told = told.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Asks for the sockets of a family in these states: for the one that is named, or for all.
fn request(family: AddressFamily, flags: u16, states: &StateFlags, socket_id: SocketId) -> Vec<u8> {
    let wanted = InetRequest {
        family: family as u8,
        protocol: IPPROTO_TCP as u8,
        extensions: ExtensionFlags::empty(),
        states: states.clone(),
        socket_id,
    };
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(wanted).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
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
            ends(port, &StateFlags::LISTEN).iter().map(|it| format!("socket:[{}]", it.inode)).collect();
        assert_eq!(told, [own.to_str().unwrap()]);
        drop(listening);
        assert!(ends(port, &StateFlags::LISTEN).is_empty());
    }

    #[test]
    fn a_connection_is_known_by_its_peer_and_its_state() {
        for ip in [std::net::IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let Ok(listener) = std::net::TcpListener::bind((ip, 0)) else { continue };
            let port = listener.local_addr().unwrap().port();
            let client = std::net::TcpStream::connect((ip, port)).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let peers = |states: StateFlags| ends(port, &states).iter().map(|it| it.peer).collect::<Vec<_>>();
            assert_eq!(peers(StateFlags::ESTABLISHED), [peer.port()]);
            assert_eq!(peers(StateFlags::LISTEN | StateFlags::ESTABLISHED).len(), 2);
            assert!(peers(StateFlags::TIME_WAIT).is_empty());
            drop(server); // first, and so it is its end that stays
            drop(client);
            assert_eq!(peers(StateFlags::TIME_WAIT), [peer.port()]);
        }
    }

    #[test]
    fn the_connections_to_a_server_are_told_by_where_they_come_from() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = listener.local_addr().unwrap();
        let sources = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 3)];
        let _clients = sources.map(|source| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.bind(&SocketAddr::from((source, 0)).into()).unwrap();
            client.connect(&server.into()).unwrap();
            client
        });
        let mut told = towards(server).unwrap();
        told.sort();
        assert_eq!(told, sources.map(IpAddr::from));
        assert_eq!(towards((Ipv4Addr::new(127, 0, 0, 9), server.port()).into()), Some(vec![]));
    }

    #[test]
    fn what_waits_in_a_connected_socket_is_told_to_either_end() {
        for ip in [std::net::IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
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
