//! The datagrams that the kernel dropped because the server's socket was full, as /proc/net/udp has them
//! (proc_net_udp(5)); and what it dropped before it was any socket's.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

/// How often the list is read, at least: where sockets come and go meanwhile, it may name one twice, or not at all.
const AT_LEAST: usize = 2;

/// And at most.
const AT_MOST: usize = 6;

/// A server whose sockets are on this machine.
pub struct Server(SocketAddr);

/// How many datagrams were dropped at each of its sockets, by its inode, since that was opened.
#[derive(Debug, PartialEq, Eq)]
pub struct Drops(BTreeMap<u64, u64>);

impl Server {
    /// The server at this address; `None`, where that is another machine's.
    pub fn on_this_machine(address: SocketAddr) -> Option<Self> {
        is_on_this_machine(address).then_some(Self(address))
    }

    /// What was dropped until now. The list is read until it names nobody new.
    pub fn drops(&self) -> Drops {
        let mut drops = BTreeMap::new();
        for reading in 1..=AT_MOST {
            let known = drops.len();
            for list in ["/proc/net/udp", "/proc/net/udp6"] {
                let Ok(text) = fs::read_to_string(list) else { continue };
                for entry in text.lines().filter_map(Entry::read).filter(|entry| self.is_at(entry.address)) {
                    let most = drops.entry(entry.inode).or_insert(0);
                    *most = entry.drops.max(*most);
                }
            }
            if reading >= AT_LEAST && drops.len() == known {
                break;
            }
        }
        Drops(drops)
    }

    fn is_at(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        address.port() == self.0.port() && (ip.is_unspecified() || ip == self.0.ip().to_canonical())
    }
}

impl Drops {
    /// How many more there are than before; `None`, where no socket is known.
    pub fn since(&self, before: &Self) -> Option<u64> {
        let more = self.0.iter().map(|(inode, drops)| drops - before.0.get(inode).unwrap_or(&0).min(drops));
        (!self.0.is_empty()).then(|| more.sum())
    }
}

/// Whether that is an address of this machine.
pub fn is_on_this_machine(address: SocketAddr) -> bool {
    UdpSocket::bind((address.ip(), 0)).is_ok()
}

/// How many packets this machine has dropped since it was started because a processor's queue of them was full
/// (net.core.netdev_max_backlog, which loopback goes through too): the second number of each line of
/// /proc/net/softnet_stat, in hexadecimal. Whose they were is not told.
pub fn of_the_backlog() -> Option<u64> {
    let lines = fs::read_to_string("/proc/net/softnet_stat").ok()?;
    let of_each = lines.lines().map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    of_each.sum()
}

/// What is read of a line.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    address: SocketAddr,
    inode: u64,
    drops: u64,
}

impl Entry {
    fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = words.get(1)?.split_once(':')?;
        let address = SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?);
        Some(Self { address, inode: words.get(9)?.parse().ok()?, drops: words.get(12)?.parse().ok()? })
    }
}

/// An address in hexadecimal: words of 32 bits, each as the machine keeps it.
fn address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    if text.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (n, part) in bytes.chunks_mut(4).enumerate() {
        part.copy_from_slice(&word(8 * n)?);
    }
    Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends more than fits; how many were dropped.
    fn overflow(socket: &UdpSocket) -> u64 {
        let address = socket.local_addr().unwrap();
        let client = UdpSocket::bind((address.ip(), 0)).unwrap();
        client.connect(address).unwrap();
        (0..2000).for_each(|_| assert_eq!(client.send(&[0; 1000]).unwrap(), 1000));
        socket.set_nonblocking(true).unwrap();
        2000 - std::iter::from_fn(|| socket.recv(&mut [0; 1]).ok()).count() as u64
    }

    #[test]
    fn what_does_not_fit_into_the_servers_socket_is_counted_from_when_it_was_looked_at() {
        for family in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let socket = UdpSocket::bind(family).unwrap();
            let server = Server::on_this_machine(socket.local_addr().unwrap()).unwrap();
            overflow(&socket);
            let before = server.drops();
            assert_eq!(server.drops().since(&before), Some(0));
            let dropped = overflow(&socket);
            assert!(dropped > 0);
            assert_eq!(server.drops().since(&before), Some(dropped), "{family}");
        }
    }

    #[test]
    fn a_socket_at_all_addresses_is_not_another_machines_server() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let elsewhere = SocketAddr::new("192.0.2.1".parse().unwrap(), socket.local_addr().unwrap().port());
        assert!(Server::on_this_machine(elsewhere).is_none() && !is_on_this_machine(elsewhere));
    }

    #[test]
    fn a_list_that_names_a_socket_twice_or_not_any_more_counts_none_twice() {
        let drops = |of: &[(u64, u64)]| Drops(of.iter().copied().collect());
        let before = drops(&[(1, 5), (2, 7)]);
        assert_eq!(
            drops(&[(1, 6), (3, 2)]).since(&before),
            Some(3),
            "one more at the first, and two at a new one"
        );
        assert_eq!(drops(&[]).since(&before), None);
    }
}
