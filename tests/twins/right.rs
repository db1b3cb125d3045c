//! The twin that is right: what the broken ones differ from, in one place each.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use crate::Twin;

pub const TWINS: &[Twin] =
    &[Twin { bug: "none", transport: "tcp", implies: &[], serve: |port| threads(port, echo) }];

/// A listening socket with SO_REUSEADDR, as std makes it, and a queue long enough.
pub fn listener(port: u16) -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.listen(1024).unwrap();
    socket.into()
}

/// A thread for each client, who converses with it.
pub fn threads(port: u16, converse: fn(TcpStream) -> io::Result<()>) {
    for client in listener(port).incoming().flatten() {
        let _ = client.set_nodelay(true);
        let _ = thread::Builder::new().spawn(move || {
            let _ = converse(client);
        });
    }
}

/// Sends back what comes, until the client sends no more.
pub fn echo(mut client: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match client.read(&mut buffer)? {
            0 => return client.shutdown(Shutdown::Write),
            n => client.write_all(&buffer[..n])?,
        }
    }
}
