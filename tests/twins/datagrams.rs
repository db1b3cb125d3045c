//! Bugs of datagrams.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{Mutex, mpsc},
    thread,
};

use nix::sys::socket::{setsockopt, sockopt::Ipv4RecvErr};

use crate::Twin;

const fn twin(bug: &'static str, serve: fn(u16)) -> Twin {
    Twin { bug, transport: "udp", implies: &[], serve }
}

pub const TWINS: &[Twin] = &[
    twin("udp-none", |port| echo(bound("127.0.0.1", port), LONGEST)),
    twin("udp-sizes", |port| echo(bound("127.0.0.1", port), 1024)),
    twin("udp-empty", |port| until_the_end(&bound("127.0.0.1", port))),
    twin("udp-address", |port| echo(bound("0.0.0.0", port), LONGEST)),
    twin("udp-dead-client", |port| until_an_error(&bound("127.0.0.1", port)).unwrap()),
    twin("udp-crosstalk", |port| to_the_latest(&bound("127.0.0.1", port))),
    twin("udp-reflect", |port| to_anybody(&bound("127.0.0.1", port))),
];

const LONGEST: usize = 1 << 16;

fn bound(address: &str, port: u16) -> UdpSocket {
    UdpSocket::bind((address, port)).unwrap()
}

/// Right, with room enough; else the rest of a datagram is lost (recvfrom(2)).
fn echo(server: UdpSocket, room: usize) {
    let mut buffer = vec![0; room];
    loop {
        if let Ok((n, client)) = server.recv_from(&mut buffer) {
            answer(&server, &buffer[..n], client);
        }
    }
}

/// Answers nobody who would answer in turn.
fn answer(server: &UdpSocket, datagram: &[u8], client: SocketAddr) {
    let own_port = server.local_addr().map_or(0, |address| address.port());
    if client.port() >= 1024 && client.port() != own_port {
        let _ = server.send_to(datagram, client);
    }
}

/// Takes no bytes for the end, as of a stream.
fn until_the_end(server: &UdpSocket) {
    let mut buffer = vec![0; LONGEST];
    while let Ok((n @ 1.., client)) = server.recv_from(&mut buffer) {
        answer(server, &buffer[..n], client);
    }
}

/// Asks to be told of errors (IP_RECVERR, ip(7)), and takes one client's for its own.
fn until_an_error(server: &UdpSocket) -> io::Result<()> {
    setsockopt(server, Ipv4RecvErr, &true)?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let (n, client) = server.recv_from(&mut buffer)?;
        answer(server, &buffer[..n], client);
    }
}

/// One thread receives and another answers; what they share is who the client is.
fn to_the_latest(server: &UdpSocket) {
    let client = Mutex::new(None);
    let (datagrams, received) = mpsc::channel::<Vec<u8>>();
    thread::scope(|scope| {
        scope.spawn(|| {
            for datagram in received {
                let latest = *client.lock().unwrap();
                latest.into_iter().for_each(|client| answer(server, &datagram, client));
            }
        });
        let mut buffer = vec![0; LONGEST];
        while let Ok((n, from)) = server.recv_from(&mut buffer) {
            *client.lock().unwrap() = Some(from);
            datagrams.send(buffer[..n].to_vec()).unwrap();
        }
    });
}

/// Answers whoever the source address names.
fn to_anybody(server: &UdpSocket) {
    let mut buffer = vec![0; LONGEST];
    loop {
        if let Ok((n, client)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&buffer[..n], client);
        }
    }
}
