//! What the kernel holds for a server's sockets, and has dropped before them, as it lists them (proc(5)).
//!
//! The lists are the server's own view: it may live in another network namespace.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
};

use arguments::Endpoint;
use procfs::process::Stat;

use crate::scoreboard::Identity;

/// How many connections wait to be accepted, over all listeners of the endpoint: of a socket that listens, the
/// receive queue is the accept queue (proc_net_tcp(5)).
pub fn accept_queue(server: &Stat, identity: &Identity) -> Option<u64> {
    let Ok(Endpoint::Tcp(address)) = identity.endpoint.parse() else { return None };
    let name = if address.is_ipv4() { "tcp" } else { "tcp6" };
    let list = File::open(format!("/proc/{}/net/{name}", server.pid)).ok()?;
    let lines = BufReader::new(list).lines().skip(1).map_while(Result::ok);
    Some(waiting_at(address, lines))
}

/// Who listens comes first in the list. Then there is a line for every connection, those that ended a minute ago included:
/// they are not read.
fn waiting_at(address: SocketAddr, lines: impl Iterator<Item = String>) -> u64 {
    const LISTEN: &str = "0A"; // TCP_LISTEN of linux/tcp_states.h
    let local = as_listed(address);
    let mut waiting = 0;
    for line in lines {
        let mut columns = line.split_whitespace().skip(1);
        let (at, _peer, state, queues) = (columns.next(), columns.next(), columns.next(), columns.next());
        if state != Some(LISTEN) {
            break;
        }
        waiting += queues.and_then(to_be_received).filter(|_| at == Some(&local)).unwrap_or_default();
    }
    waiting
}

/// Of what is written as `sent:received`.
fn to_be_received(queues: &str) -> Option<u64> {
    queues.split_once(':').and_then(|(_, received)| u64::from_str_radix(received, 16).ok())
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
    let waiting = to_be_received(queues)?;
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
    fn who_waits_at_the_listeners_of_an_address_is_added_up_and_no_connection_is_read() {
        let list = [
            "0: 0100007F:1B5F 00000000:0000 0A 00000000:00000003 00:00000000 00000000 0 0 11 1 0 100 0 0 10 0",
            "1: 0100007F:1B5F 00000000:0000 0A 00000000:00000010 00:00000000 00000000 0 0 12 1 0 100 0 0 10 0",
            "2: 0200007F:1B5F 00000000:0000 0A 00000000:00000001 00:00000000 00000000 0 0 13 1 0 100 0 0 10 0",
            "3: 0100007F:1B5F 0100007F:C350 01 00000000:00000007 00:00000000 00000000 0 0 14 1 0 20 4 30 10 -1",
        ];
        let mut lines = list.iter().chain([&"4: never read"]).map(ToString::to_string);
        assert_eq!(waiting_at("127.0.0.1:7007".parse().unwrap(), &mut lines), 0x13);
        assert_eq!(lines.next().as_deref(), Some("4: never read"));
    }

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
