//! The load's sockets: how they are set up, and where they come from.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use arguments::{Endpoint, Transport};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use serde::Serialize;
use socket2::{Domain, SockAddr, Socket, Type};

/// How sockets are set up; what is not told is left to the kernel.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SocketOptions {
    /// Over TCP: whether messages leave at once (TCP_NODELAY).
    pub nodelay: bool,
    /// How many bytes the kernel may keep that were sent (SO_SNDBUF).
    pub send_buffer: Option<usize>,
    /// How many it may keep that came (SO_RCVBUF).
    pub receive_buffer: Option<usize>,
    /// The addresses that connections come from, in turns.
    pub sources: Vec<IpAddr>,
}

/// The server as the kernel wants it.
///
/// # Errors
/// Where a path is too long for an address (unix(7)).
pub fn destination(endpoint: &Endpoint) -> io::Result<SockAddr> {
    match endpoint {
        Endpoint::Tcp(address) | Endpoint::Udp(address) => Ok((*address).into()),
        Endpoint::Unix(path) => SockAddr::unix(path),
    }
}

impl SocketOptions {
    /// A socket for connection `number`, which is not connected yet. It does not block, but for datagrams.
    ///
    /// # Errors
    /// Where the system refuses the socket, an option or its address.
    pub fn socket(&self, endpoint: &Endpoint, number: usize) -> io::Result<Socket> {
        let kind = match endpoint.transport() {
            Transport::Tcp => Type::STREAM.nonblocking(),
            Transport::Udp => Type::DGRAM,
        };
        let socket = match endpoint {
            Endpoint::Tcp(address) | Endpoint::Udp(address) => {
                Socket::new(Domain::for_address(*address), kind, None)?
            }
            Endpoint::Unix(_) => Socket::new(Domain::UNIX, kind, None)?,
        };
        if let Endpoint::Tcp(_) = endpoint {
            socket.set_tcp_nodelay(self.nodelay)?;
        }
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = self.source(endpoint, number) {
            if let Endpoint::Tcp(_) = endpoint {
                // The port is chosen when the destination is known, so that it need not be free for all others.
                setsockopt(&socket, IpBindAddressNoPort, &true)?;
            }
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        Ok(socket)
    }

    /// Where connection `number` comes from, where that is ours to choose: it was told, or the server is on
    /// loopback. There the first come from 127.0.0.1 as everybody's do.
    fn source(&self, endpoint: &Endpoint, number: usize) -> Option<IpAddr> {
        let (Endpoint::Tcp(server) | Endpoint::Udp(server)) = endpoint else { return None };
        if !self.sources.is_empty() {
            return Some(self.sources[number % self.sources.len()]);
        }
        let turn = number / IN_A_ROW % SOURCES;
        match server.ip() {
            IpAddr::V4(address) if address.is_loopback() && turn > 0 => {
                Some(Ipv4Addr::new(127, 0, 0, 1 + u8::try_from(turn).unwrap_or_default()).into())
            }
            _ => None,
        }
    }
}

/// How many connections in a row come from one address: a third of the ports that Linux has for it.
const IN_A_ROW: usize = 10_000;

/// How many addresses take turns, from 127.0.0.1 on. Who closes first keeps the port for a minute (TIME_WAIT),
/// and this client does: by its next turn, 1.2 million connections later, an address has ports again.
const SOURCES: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    fn source(options: &SocketOptions, endpoint: &str, number: usize) -> Option<String> {
        options.source(&endpoint.parse().unwrap(), number).map(|address| address.to_string())
    }

    #[test]
    fn to_loopback_sources_take_turns_and_elsewhere_the_kernel_chooses() {
        let from = |number| source(&SocketOptions::default(), "tcp://127.0.0.1:7007", number);
        assert_eq!(from(9_999), None);
        assert_eq!(from(10_000).as_deref(), Some("127.0.0.2"));
        assert_eq!(from(1_199_999).as_deref(), Some("127.0.0.120"));
        assert_eq!(from(1_200_000), None);
        for elsewhere in ["tcp://192.0.2.1:7007", "udp://[::1]:7007", "unix:///run/echo.sock"] {
            assert_eq!(source(&SocketOptions::default(), elsewhere, 10_000), None);
        }
    }

    #[test]
    fn sources_that_were_told_take_turns() {
        let sources = ["192.0.2.7", "192.0.2.8"].map(|source| source.parse().unwrap()).into();
        let options = SocketOptions { sources, ..SocketOptions::default() };
        let seen = [0, 1, 2].map(|number| source(&options, "tcp://192.0.2.1:7007", number).unwrap());
        assert_eq!(seen, ["192.0.2.7", "192.0.2.8", "192.0.2.7"]);
    }
}
