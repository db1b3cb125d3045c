//! Where a server listens and a client connects: `tcp://127.0.0.1:7007`, `unix:///run/echo.sock`; `127.0.0.1:7007` is
//! of TCP.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
};

/// The services of RFC 862.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A stream: TCP, or a Unix-domain stream socket.
    Tcp,
    /// Datagrams: UDP.
    Udp,
}

impl Transport {
    /// The name as tables spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A transport and an address. Port 0 asks the kernel for a free port; a host name has been looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A UDP address.
    Udp(SocketAddr),
    /// The path of a Unix-domain stream socket (unix(7)).
    Unix(PathBuf),
}

impl Endpoint {
    /// Which service it is.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Transport::Tcp,
            Self::Udp(_) => Transport::Udp,
        }
    }

    /// Its port; 0 where it has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) | Self::Udp(address) => address.port(),
            Self::Unix(_) => 0,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it like tcp://127.0.0.1:7007, udp://[::1]:7007 or unix:///run/echo.sock";
        let (scheme, place) = text.split_once("://").unwrap_or(("tcp", text));
        let address = || -> Result<SocketAddr, String> {
            let mut found = place.to_socket_addrs().map_err(|error| format!("{error}; {FORM}"))?;
            found.next().ok_or_else(|| format!("{place} has no address"))
        };
        match scheme {
            "tcp" => address().map(Self::Tcp),
            "udp" => address().map(Self::Udp),
            "unix" if place.is_empty() => Err(format!("no path; {FORM}")),
            "unix" => Ok(Self::Unix(place.into())),
            _ => Err(format!("unknown transport {scheme:?}; {FORM}")),
        }
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
        for text in ["tcp://127.0.0.1:7007", "udp://[::1]:0", "tcp://[::]:80", "unix:///run/echo.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_address_without_a_transport_is_of_tcp() {
        for text in ["127.0.0.1:7007", "[::1]:0", "localhost:7007"] {
            let told = |text: &str| text.parse::<Endpoint>().unwrap();
            assert_eq!(told(text), told(&format!("tcp://{text}")));
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_the_form_to_use() {
        for text in
            ["", "7007", "127.0.0.1", "http://127.0.0.1:80", "tcp://127.0.0.1", "tcp://:99999", "unix://"]
        {
            assert!(text.parse::<Endpoint>().unwrap_err().contains("tcp://127.0.0.1:7007"), "{text}");
        }
    }
}
