//! Bugs of who gets in, and how soon answers come.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
};

use crate::{
    Twin,
    right::{QUEUE, echo, listening, threads, threads_on},
};

pub const TWINS: &[Twin] = &[
    Twin { bug: "backlog", transport: "tcp", implies: &[], serve: few_may_wait },
    Twin { bug: "nagle", transport: "tcp", implies: &[], serve: |port| threads(port, in_two_writes) },
    Twin { bug: "dual-stack", transport: "tcp", implies: &[], serve: one_family },
];

/// The queue of the textbooks of 1983, in which five may wait.
fn few_may_wait(port: u16) {
    threads_on(&listening((Ipv4Addr::LOCALHOST, port).into(), true, 5), echo);
}

/// Writes a line and its end apart, and lets the second wait for the acknowledgement of the first.
fn in_two_writes(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(false)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return client.shutdown(Shutdown::Write);
        }
        let end = if buffer[..n].ends_with(b"\n") { n - 1 } else { n };
        client.write_all(&buffer[..end])?;
        client.write_all(&buffer[end..n])?;
    }
}

/// Listens on both families, and knows what a client of one of them looks like.
fn one_family(port: u16) {
    threads_on(&listening((Ipv6Addr::UNSPECIFIED, port).into(), true, QUEUE), |client| {
        match client.peer_addr()? {
            SocketAddr::V6(peer) if peer.ip().to_ipv4_mapped().is_none() => Ok(()),
            _ => echo(client),
        }
    });
}
