//! Which address of a host name is talked to: each is tried, the next one soon after the last (RFC 8305, "happy eyeballs").

use std::{
    io,
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::mpsc,
    thread,
    time::Duration,
};

use arguments::{Endpoint, Endpoints};

/// How long one address is tried before the next one is tried as well (RFC 8305, 5).
const DELAY: Duration = Duration::from_millis(250);
/// How long an address may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads an endpoint; of a name with several addresses the first one that answers, or where none does the first. Only then
/// somebody is asked: over TCP by a connection that says nothing, over UDP by a datagram of one byte.
///
/// # Errors
/// A sentence for the user.
pub fn endpoint(text: &str) -> Result<Endpoint, String> {
    let endpoints: Endpoints = text.parse()?;
    let all = endpoints.all();
    let first = if all.len() > 1 { first_that_answers(all, is_there) } else { None };
    Ok(all[first.unwrap_or(0)].clone())
}

/// Asks each, the next one when the last has refused or after a while, and returns which answers first.
fn first_that_answers(all: &[Endpoint], is_there: fn(&Endpoint) -> bool) -> Option<usize> {
    let (answer, answers) = mpsc::channel();
    for (n, endpoint) in all.iter().enumerate() {
        let (endpoint, answer) = (endpoint.clone(), answer.clone());
        thread::spawn(move || answer.send((n, is_there(&endpoint))));
        if let Ok((n, true)) = answers.recv_timeout(DELAY) {
            return Some(n);
        }
    }
    drop(answer);
    answers.into_iter().find(|(_, is_there)| *is_there).map(|(n, _)| n)
}

fn is_there(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Tcp(address) => TcpStream::connect_timeout(address, PATIENCE).is_ok(),
        Endpoint::Udp(address) => echoes(*address).unwrap_or(false),
        Endpoint::Unix(_) => true,
    }
}

/// Whether a datagram comes back.
fn echoes(address: SocketAddr) -> io::Result<bool> {
    let socket = UdpSocket::bind(match address {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    })?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"\n")?;
    Ok(socket.recv(&mut [0; 16]).is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn named(ports: &[u16]) -> Vec<Endpoint> {
        ports.iter().map(|port| Endpoint::Tcp(([127, 0, 0, 1], *port).into())).collect()
    }

    #[test]
    fn who_refuses_is_passed_over_at_once_and_who_is_silent_after_a_while() {
        // A port stands for what its server does.
        let is_there = |endpoint: &Endpoint| match endpoint.port() {
            1 => false,
            2 => {
                thread::sleep(Duration::from_secs(5));
                true
            }
            _ => true,
        };
        for (ports, expected) in
            [(&[3, 3][..], Some(0)), (&[1, 3], Some(1)), (&[2, 1, 3], Some(2)), (&[1, 1], None)]
        {
            let began = Instant::now();
            assert_eq!(first_that_answers(&named(ports), is_there), expected, "{ports:?}");
            assert!(began.elapsed() < Duration::from_secs(3), "{ports:?}: {:?}", began.elapsed());
        }
    }

    #[test]
    fn an_echo_of_either_transport_answers_and_nobody_does_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(is_there(&Endpoint::Tcp(address)) && !is_there(&Endpoint::Udp(address)));
        drop(listener);
        assert!(!is_there(&Endpoint::Tcp(address)));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let echo = thread::spawn(move || {
            let (n, from) = socket.recv_from(&mut [0; 16]).unwrap();
            socket.send_to(&b"\n"[..n], from).unwrap();
        });
        assert!(is_there(&Endpoint::Udp(address)));
        echo.join().unwrap();
    }
}
