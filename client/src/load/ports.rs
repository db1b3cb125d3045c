//! Whether the ports of an address suffice for connections that come and go.
//!
//! Who closes first keeps the port for a minute (TIME_WAIT), and the load does. Where connect(2) chooses the port, it
//! tries those of one parity first, in their order from a random one on, and the others when none of them is free
//! (`__inet_hash_connect` in net/ipv4/inet_hashtables.c). So when half of them are in use each connect looks at all of
//! that half, and what is measured is the search.
//!
//! See also: `ip_local_port_range` in ip(7), proc_pid_net(5) of /proc/net/tcp.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
};

use arguments::Endpoint;

/// The source address that has the most ports in use towards a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The address.
    pub source: IpAddr,
    /// How many of its ports are in use towards the server, those in TIME_WAIT included.
    pub used: u64,
    /// How many there are to choose from.
    pub range: u64,
}

impl Ports {
    /// Of these sources, or, where none were told, of all. As /proc tells; nothing, where it does not, or the endpoint has
    /// no ports.
    pub fn of(endpoint: &Endpoint, sources: &[IpAddr]) -> Option<Self> {
        let Endpoint::Tcp(server) = endpoint else { return None };
        let sockets = if server.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
        let range = range(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?)?;
        let (source, used) = busiest(BufReader::new(File::open(sockets).ok()?), *server, sources)?;
        Some(Self { source, used, range })
    }

    /// Whether so many are in use that a free one is hard to find.
    pub fn are_short(&self) -> bool {
        self.used >= self.range.div_ceil(2)
    }
}

/// How many ports lie in a range that is written as its first and its last one.
fn range(text: &str) -> Option<u64> {
    let mut bounds = text.split_whitespace().map(str::parse::<u64>);
    let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

/// Of a list of sockets as in /proc/net/tcp: the local address, of these or of all, that most of those connected to
/// `server` have.
fn busiest(sockets: impl BufRead, server: SocketAddr, sources: &[IpAddr]) -> Option<(IpAddr, u64)> {
    let remote = format!("{}:{:04X}", in_hex(server.ip()), server.port());
    let mut used = HashMap::<String, u64>::new();
    for line in sockets.lines().map_while(Result::ok) {
        let mut words = line.split_whitespace().skip(1);
        let (Some(local), Some(peer)) = (words.next(), words.next()) else { continue };
        if let Some((address, _)) = local.split_once(':').filter(|_| peer == remote) {
            match used.get_mut(address) {
                Some(used) => *used += 1,
                None => drop(used.insert(address.to_owned(), 1)),
            }
        }
    }
    let used = used.into_iter().filter_map(|(address, used)| Some((of_hex(&address)?, used)));
    used.filter(|(source, _)| sources.is_empty() || sources.contains(source)).max_by_key(|&(_, used)| used)
}

/// An address as the kernel writes it there: words of 32 bits, each as a number of this machine's.
fn in_hex(address: IpAddr) -> String {
    let words = |octets: &[u8]| -> String {
        let words = octets.as_chunks().0.iter().map(|&word| format!("{:08X}", u32::from_ne_bytes(word)));
        words.collect()
    };
    match address {
        IpAddr::V4(address) => words(&address.octets()),
        IpAddr::V6(address) => words(&address.octets()),
    }
}

fn of_hex(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(8 * at..8 * at + 8)?, 16).ok()?.to_ne_bytes());
    if text.len() == 8 {
        return Some(word(0)?.into());
    }
    let mut octets = [0; 16];
    for (at, four) in octets.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *four = word(at)?;
    }
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_short_from_half_of_the_range_on() {
        let ports = |used| Ports { source: [127, 0, 0, 1].into(), used, range: 28_232 };
        assert_eq!(range("32768\t60999\n"), Some(28_232));
        assert_eq!([14_115, 14_116].map(|used| ports(used).are_short()), [false, true]);
    }

    #[test]
    fn the_source_with_the_most_ports_towards_the_server_is_found() {
        for server in ["127.0.0.1:7007", "[::1]:7007"] {
            let server: SocketAddr = server.parse().unwrap();
            let other = SocketAddr::new(server.ip(), 7008);
            let near = |last| match server.ip() {
                IpAddr::V4(_) => IpAddr::from([127, 0, 0, last]),
                IpAddr::V6(_) => format!("::{last}").parse().unwrap(),
            };
            let line = |(n, (from, to)): (usize, (u8, SocketAddr))| {
                let (from, peer) = (in_hex(near(from)), in_hex(to.ip()));
                format!("{n:4}: {from}:{:04X} {peer}:{:04X} 06 00000000:00000000\n", 40_000 + n, to.port())
            };
            let sockets = [(1, server), (2, server), (1, other), (2, server), (1, other)];
            let list: String = sockets.into_iter().enumerate().map(line).collect();
            let list = format!("  sl  local_address rem_address   st tx_queue rx_queue\n{list}");
            assert_eq!(busiest(list.as_bytes(), server, &[]), Some((near(2), 2)));
            assert_eq!(busiest(list.as_bytes(), server, &[near(1), near(3)]), Some((near(1), 1)));
            assert_eq!(busiest("".as_bytes(), server, &[]), None);
        }
    }

    /// The list is the kernel's own.
    #[test]
    fn a_connection_of_ones_own_is_found_in_the_list() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let server = listener.local_addr().unwrap();
            let client = std::net::TcpStream::connect(server).unwrap();
            let ports = Ports::of(&Endpoint::Tcp(server), &[]).unwrap();
            assert_eq!((ports.source, ports.used), (client.local_addr().unwrap().ip(), 1));
        }
    }
}
