//! A connection that is being opened.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use mio::{Interest, Registry, Token, net::TcpStream};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, SockRef, Socket, Type};

use super::Plan;

/// A connection that is being opened, for a place that had so many answers before.
pub struct Coming {
    /// Its number in the run.
    pub number: usize,
    /// Its socket.
    pub stream: TcpStream,
    /// When connect(2) was called.
    pub begun: Instant,
    /// The answers that its place had so far.
    pub answers: u64,
    is_watched: bool,
}

impl Coming {
    /// Begins to open connection `number`.
    ///
    /// # Errors
    /// Where the system refuses the socket, its address or the connection at once.
    pub fn begin(plan: &Plan, number: usize, answers: u64) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(plan.address), Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source(plan.address, number) {
            // The port is chosen when the destination is known, so that it need not be free for all others.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        let begun = Instant::now();
        match socket.connect(&plan.address.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from_std(socket.into());
        Ok(Self { number, stream, begun, answers, is_watched: false })
    }

    /// Whether it is up; not yet, or how it failed.
    ///
    /// # Errors
    /// Why it will not come up.
    pub fn outcome(&self) -> io::Result<bool> {
        let peer = match self.stream.peer_addr() {
            Ok(peer) => peer,
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                return self.stream.take_error()?.map_or(Ok(false), Err);
            }
            Err(error) => return Err(error),
        };
        // On loopback a socket may meet itself, when the port lies in the ephemeral range.
        if SockRef::from(&self.stream).local_addr()?.as_socket() == Some(peer) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(true)
    }

    /// Has the poller watch it, for something else than before perhaps.
    ///
    /// # Errors
    /// Where the poller refuses.
    pub fn watch(&mut self, registry: &Registry, token: usize, interest: Interest) -> io::Result<()> {
        if self.is_watched {
            return registry.reregister(&mut self.stream, Token(token), interest);
        }
        self.is_watched = true;
        registry.register(&mut self.stream, Token(token), interest)
    }
}

/// How many connections in a row come from one address: a third of the ports that Linux has for it.
const IN_A_ROW: usize = 10_000;

/// How many addresses take turns, from 127.0.0.1 on. Who closes first keeps the port for a minute (TIME_WAIT),
/// and this client does: by its next turn, 1.2 million connections later, an address has ports again.
const SOURCES: usize = 120;

/// Where connection `number` comes from, where that is ours to choose: to loopback. The first come from
/// 127.0.0.1 as everybody's do.
pub fn source(destination: SocketAddr, number: usize) -> Option<Ipv4Addr> {
    let turn = number / IN_A_ROW % SOURCES;
    match destination.ip() {
        IpAddr::V4(address) if address.is_loopback() && turn > 0 => {
            Some(Ipv4Addr::new(127, 0, 0, 1 + u8::try_from(turn).unwrap_or_default()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_loopback_sources_take_turns_and_elsewhere_the_kernel_chooses() {
        let here = "127.0.0.1:7007".parse().unwrap();
        let from = |number| source(here, number).map(|address| address.to_string());
        assert_eq!(from(9_999), None);
        assert_eq!(from(10_000).as_deref(), Some("127.0.0.2"));
        assert_eq!(from(1_199_999).as_deref(), Some("127.0.0.120"));
        assert_eq!(from(1_200_000), None);
        for elsewhere in ["192.0.2.1:7007", "[::1]:7007"] {
            assert_eq!(source(elsewhere.parse().unwrap(), 10_000), None);
        }
    }
}
