//! What the kernel holds for a server's sockets, and has dropped before them, as it lists them (proc(5)).
//!
//! The lists are the server's own view: it may live in another network namespace.

use std::{collections::BTreeMap, fs, net::SocketAddr};

use arguments::Endpoint;
use procfs::{
    net::TcpState,
    process::{Process, Stat},
};

use crate::scoreboard::Identity;

/// How many connections wait to be accepted, over all listeners of the endpoint: of a socket that listens, the
/// receive queue is the accept queue (proc_net_tcp(5)).
pub fn accept_queue(server: &Stat, identity: &Identity) -> Option<u64> {
    let Ok(Endpoint::Tcp(address)) = identity.endpoint.parse() else { return None };
    let process = Process::new(server.pid).ok()?;
    let sockets = if address.is_ipv4() { process.tcp() } else { process.tcp6() }.ok()?;
    let ours = sockets.iter().filter(|at| at.state == TcpState::Listen && at.local_address == address);
    Some(ours.map(|listener| u64::from(listener.rx_queue)).sum())
}

/// What sockets of datagrams hold, and have dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    /// The memory of what waits to be received, in bytes, as the kernel counts it against the receive buffer: with its
    /// own cost.
    pub waiting: u64,
    /// How many datagrams found no room, or were not let through by a filter.
    pub dropped: u64,
}

/// What all sockets of the endpoint hold and have dropped together (proc_net_udp(5)).
pub fn inbox(server: &Stat, identity: &Identity) -> Option<Inbox> {
    let Ok(Endpoint::Udp(address)) = identity.endpoint.parse() else { return None };
    let name = if address.is_ipv4() { "udp" } else { "udp6" };
    let list = fs::read_to_string(format!("/proc/{}/net/{name}", server.pid)).ok()?;
    Some(inbox_at(address, &list))
}

fn inbox_at(address: SocketAddr, list: &str) -> Inbox {
    let local = as_listed(address);
    // While sockets come and go one may be listed twice.
    let sockets: BTreeMap<&str, Inbox> = list.lines().filter_map(|line| socket(line, &local)).collect();
    sockets.into_values().fold(Inbox::default(), |sum, socket| Inbox {
        waiting: sum.waiting + socket.waiting,
        dropped: sum.dropped + socket.dropped,
    })
}

/// The inode of the socket in a line, and what it holds, if it is bound to `local`. `procfs` reads this list too, but
/// for the last column.
fn socket<'a>(line: &'a str, local: &str) -> Option<(&'a str, Inbox)> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let &[_, at, _, _, queues, _, _, _, _, inode, _, _, dropped] = columns.as_slice() else { return None };
    let waiting = queues.split_once(':').and_then(|(_, received)| u64::from_str_radix(received, 16).ok())?;
    (at == local).then_some((inode, Inbox { waiting, dropped: dropped.parse().ok()? }))
}

/// An address as the kernel lists it: the words of memory in which it lies, as numbers, and the port.
fn as_listed(address: SocketAddr) -> String {
    let bytes = match address {
        SocketAddr::V4(address) => address.ip().octets().to_vec(),
        SocketAddr::V6(address) => address.ip().octets().to_vec(),
    };
    let (words, _) = bytes.as_chunks::<4>();
    let words: String = words.iter().map(|&word| format!("{:08X}", u32::from_ne_bytes(word))).collect();
    format!("{words}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_sockets_of_an_address_are_added_up_each_once() {
        let list = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 0100007F:1B5F 00000000:0000 07 00000000:00000A00 00:00000000 00000000     0        0 11 2 0000000000000000 7
  100: 0100007F:1B5F 00000000:0000 07 00000000:00000100 00:00000000 00000000     0        0 12 2 0000000000000000 40
  100: 0100007F:1B5F 00000000:0000 07 00000000:00000A00 00:00000000 00000000     0        0 11 2 0000000000000000 7
  101: 0200007F:1B5F 00000000:0000 07 00000000:00000001 00:00000000 00000000     0        0 13 2 0000000000000000 9
  102: 0100007F:1B60 00000000:0000 07 00000000:00000001 00:00000000 00000000     0        0 14 2 0000000000000000 9\n";
        let here = "127.0.0.1:7007".parse().unwrap();
        assert_eq!(inbox_at(here, list), Inbox { waiting: 0xb00, dropped: 47 });
        let at_v6 = as_listed("[::1]:7007".parse().unwrap());
        assert_eq!(at_v6, "00000000000000000000000001000000:1B5F");
    }
}
