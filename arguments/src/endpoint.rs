//! Where a server listens and a client connects: `tcp://127.0.0.1:7007`.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
};

/// The transports that an endpoint can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A stream: RFC 862's TCP based echo service.
    Tcp,
    /// Datagrams: RFC 862's UDP based echo service.
    Udp,
}

impl Transport {
    /// The name as endpoints and tables spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A transport and an address. Port 0 asks the kernel for a free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The transport.
    pub transport: Transport,
    /// The address; a host name has been looked up.
    pub address: SocketAddr,
}

impl Endpoint {
    /// A TCP endpoint at `address`.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self { transport: Transport::Tcp, address }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport.name(), self.address)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it like tcp://127.0.0.1:7007 or tcp://[::1]:7007";
        let (scheme, place) = text.split_once("://").ok_or_else(|| format!("no transport; {FORM}"))?;
        let transport = match scheme {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(format!("unknown transport {scheme:?}; {FORM}")),
        };
        let mut found = place.to_socket_addrs().map_err(|error| format!("{error}; {FORM}"))?;
        let address = found.next().ok_or_else(|| format!("{place} has no address"))?;
        Ok(Self { transport, address })
    }
}

impl serde::Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_reads_back_as_it_was_written() {
        for text in ["tcp://127.0.0.1:7007", "udp://[::1]:0", "tcp://[::]:80"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_the_form_to_use() {
        for text in ["", "7007", "127.0.0.1:7007", "http://127.0.0.1:80", "tcp://127.0.0.1", "tcp://:99999"] {
            assert!(text.parse::<Endpoint>().unwrap_err().contains("tcp://127.0.0.1:7007"), "{text}");
        }
    }
}
