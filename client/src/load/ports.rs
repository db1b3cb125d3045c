//! Whether the ports of an address suffice for connections that come and go.
//!
//! Who closes first keeps the port for a minute (TIME_WAIT), and the load does. Where connect(2) chooses the port, it
//! tries those of one parity first, in their order from a random one on, and the others when none of them is free
//! (`__inet_hash_connect` in net/ipv4/inet_hashtables.c). So when half of them are in use each connect looks at all of
//! that half, and what is measured is the search.
//!
//! See also: `ip_local_port_range` in ip(7), sock_diag(7).

use std::{collections::HashMap, fs, net::IpAddr};

use arguments::Endpoint;

use crate::listener;

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
    /// Of these sources, or, where none were told, of all. As the kernel tells; nothing, where it does not, or the endpoint has
    /// no ports.
    pub fn of(endpoint: &Endpoint, sources: &[IpAddr]) -> Option<Self> {
        let Endpoint::Tcp(server) = endpoint else { return None };
        let range = range(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?)?;
        let (source, used) = busiest(listener::towards(*server)?, sources)?;
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

/// Which of these sources, or, where none were told, of all stands here most often, and how often.
fn busiest(all: Vec<IpAddr>, sources: &[IpAddr]) -> Option<(IpAddr, u64)> {
    let mut used = HashMap::<IpAddr, u64>::new();
    for source in all {
        if sources.is_empty() || sources.contains(&source) {
            *used.entry(source).or_default() += 1;
        }
    }
    used.into_iter().max_by_key(|&(_, used)| used)
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
    fn the_source_with_the_most_ports_is_found() {
        let near = |last| IpAddr::from([127, 0, 0, last]);
        let all = || [1, 2, 2].map(near).to_vec();
        assert_eq!(busiest(all(), &[]), Some((near(2), 2)));
        assert_eq!(busiest(all(), &[near(1), near(3)]), Some((near(1), 1)));
        assert_eq!(busiest(vec![], &[]), None);
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
