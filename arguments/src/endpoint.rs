//! Where a server listens and a client connects: `tcp://127.0.0.1:7007`, `unix:///run/echo.sock`; `127.0.0.1:7007` is
//! of TCP.

use std::{
    fmt, io,
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

    /// The same at another port.
    #[must_use]
    pub fn at_port(&self, port: u16) -> Self {
        let mut other = self.clone();
        if let Self::Tcp(address) | Self::Udp(address) = &mut other {
            address.set_port(port);
        }
        other
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
            let found = addresses(place).map_err(|error| format!("{error}; {FORM}"))?;
            found.into_iter().next().ok_or_else(|| format!("{place} has no address"))
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

/// What an endpoint means that was typed: of a host name with several addresses one endpoint for each, in the order in
/// which they are to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(Vec<Endpoint>);

impl Endpoints {
    /// All of them; there is at least one.
    #[must_use]
    pub fn all(&self) -> &[Endpoint] {
        &self.0
    }
}

impl FromStr for Endpoints {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let first: Endpoint = text.parse()?;
        let place = text.split_once("://").map_or(text, |(_, place)| place);
        let each = |of: fn(SocketAddr) -> Endpoint| {
            let all = addresses(place).unwrap_or_default();
            if all.len() > 1 { Self(all.into_iter().map(of).collect()) } else { Self(vec![first.clone()]) }
        };
        Ok(match first {
            Endpoint::Tcp(_) => each(Endpoint::Tcp),
            Endpoint::Udp(_) => each(Endpoint::Udp),
            Endpoint::Unix(_) => Self(vec![first]),
        })
    }
}

/// The addresses of `HOST:PORT`: the system's (getaddrinfo(3), ordered by RFC 6724), by turns.
fn addresses(place: &str) -> io::Result<Vec<SocketAddr>> {
    let zoned = place
        .strip_prefix('[')
        .and_then(|rest| rest.rsplit_once("]:"))
        .filter(|(host, _)| host.contains('%'));
    let found = match zoned.map(|(host, port)| (host, port.parse())) {
        // With the name of its zone, `[fe80::1%eth0]:7007`, which getaddrinfo(3) knows (RFC 4007, 11).
        Some((host, Ok(port))) => (host, port).to_socket_addrs()?,
        _ => place.to_socket_addrs()?,
    };
    Ok(by_turns(found))
}

/// Addresses of both families in turns, the first one's first (RFC 8305, 4), and each once.
fn by_turns(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut each: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !each.contains(&address) {
            each.push(address);
        }
    }
    let is_of_the_first = |address: &SocketAddr| address.is_ipv4() == each[0].is_ipv4();
    let (first, second): (Vec<SocketAddr>, Vec<_>) =
        each.iter().partition(|address| is_of_the_first(address));
    let mut turns = [first.into_iter(), second.into_iter()];
    let mut all = Vec::new();
    while all.len() < each.len() {
        all.extend(turns.iter_mut().filter_map(Iterator::next));
    }
    all
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
    fn the_addresses_of_a_name_are_tried_by_turns_of_the_families_and_each_once() {
        let read = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let found = read(&["[::1]:7", "[::2]:7", "[::1]:7", "[::3]:7", "1.1.1.1:7", "2.2.2.2:7"]);
        let expected = read(&["[::1]:7", "1.1.1.1:7", "[::2]:7", "2.2.2.2:7", "[::3]:7"]);
        assert_eq!(by_turns(found.into_iter()), expected);
        let found = read(&["1.1.1.1:7", "2.2.2.2:7", "[::1]:7"]);
        assert_eq!(by_turns(found.into_iter()), read(&["1.1.1.1:7", "[::1]:7", "2.2.2.2:7"]));
        assert_eq!(by_turns(std::iter::empty()), []);
    }

    #[test]
    fn an_endpoint_that_is_one_address_is_one() {
        for text in ["tcp://127.0.0.1:7007", "udp://[::1]:0", "unix:///run/echo.sock"] {
            assert_eq!(text.parse::<Endpoints>().unwrap().all(), [text.parse().unwrap()]);
        }
        assert!("tcp://127.0.0.1".parse::<Endpoints>().is_err());
    }

    #[test]
    fn a_zone_may_be_named() {
        // The loopback interface is the first one in every network namespace.
        assert_eq!("tcp://[fe80::1%lo]:7".parse(), "tcp://[fe80::1%1]:7".parse::<Endpoint>());
        assert!("udp://[fe80::1%no-such-zone]:7".parse::<Endpoint>().is_err());
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
