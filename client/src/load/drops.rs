//! The datagrams that the kernel dropped because a socket was full, as /proc/net/udp has them (proc(5)).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// How often the list is read, at most: sockets that come and go meanwhile may hide others.
const ATTEMPTS: usize = 5;

/// The sockets that are looked at.
pub struct Sockets {
    clients: BTreeSet<u64>,
    server: SocketAddr,
}

/// How many datagrams were dropped since the sockets were opened; of whom the kernel says nothing, `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// At the clients' sockets.
    pub of_clients: Option<u64>,
    /// At the server's, where it is on this machine.
    pub of_server: Option<u64>,
}

impl Sockets {
    /// The clients' sockets by their inodes, and the server's by its address.
    pub fn new(clients: Vec<u64>, server: SocketAddr) -> Self {
        Self { clients: clients.into_iter().collect(), server }
    }

    /// Looks at these clients' too.
    pub fn watch(&mut self, clients: Vec<u64>) {
        self.clients.extend(clients);
    }

    /// What was dropped until now.
    pub fn drops(&self) -> Drops {
        let (mut clients, mut servers) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..ATTEMPTS {
            for list in ["/proc/net/udp", "/proc/net/udp6"] {
                let Ok(text) = fs::read_to_string(list) else { continue };
                for entry in text.lines().filter_map(Entry::read) {
                    if self.clients.contains(&entry.inode) {
                        clients.insert(entry.inode, entry.drops);
                    } else if self.is_server(entry.address) {
                        servers.insert(entry.inode, entry.drops);
                    }
                }
            }
            if clients.len() == self.clients.len() {
                break;
            }
        }
        let all = |seen: BTreeMap<u64, u64>| (!seen.is_empty()).then(|| seen.values().sum());
        Drops { of_clients: all(clients), of_server: all(servers) }
    }

    fn is_server(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        address.port() == self.server.port() && (ip.is_unspecified() || ip == self.server.ip().to_canonical())
    }
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
    use std::{net::UdpSocket, os::fd::AsFd};

    use super::*;

    fn inode(socket: impl AsFd) -> u64 {
        nix::sys::stat::fstat(socket).unwrap().st_ino
    }

    fn overflown(address: &str) -> (UdpSocket, UdpSocket) {
        let (server, client) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
        client.connect(server.local_addr().unwrap()).unwrap();
        for _ in 0..2000 {
            client.send(&[0; 1000]).unwrap();
        }
        (server, client)
    }

    #[test]
    fn what_does_not_fit_into_a_socket_is_told_by_whose_it_is() {
        for family in ["127.0.0.1:0", "[::1]:0"] {
            let (server, client) = overflown(family);
            server.set_nonblocking(true).unwrap();
            let mut received = 0;
            while server.recv(&mut [0; 1]).is_ok() {
                received += 1;
            }
            let dropped = Some(2000 - received);
            assert!(dropped > Some(0), "{received} were received");
            let of_server = Sockets::new(vec![inode(&client)], server.local_addr().unwrap()).drops();
            assert_eq!(of_server, Drops { of_clients: Some(0), of_server: dropped });
            let elsewhere = "192.0.2.1:9".parse().unwrap();
            let of_clients = Sockets::new(vec![inode(&server)], elsewhere).drops();
            assert_eq!(of_clients, Drops { of_clients: dropped, of_server: None });
        }
    }
}
