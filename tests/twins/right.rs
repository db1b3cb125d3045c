//! The twin that is right: what the broken ones differ from, in one place each.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use socket2::{Domain, Socket, Type};

use crate::Twin;

pub const TWINS: &[Twin] =
    &[Twin { bug: "none", transport: "tcp", implies: &[], serve: |port| threads(port, echo) }];

/// A listening socket with SO_REUSEADDR, as std makes it, and a queue long enough.
pub fn listener(port: u16) -> TcpListener {
    listening((Ipv4Addr::LOCALHOST, port).into(), 1024)
}

/// A listening socket with a queue of that length.
pub fn listening(address: SocketAddr, queue: i32) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(queue).unwrap();
    socket.into()
}

/// A thread for each client, who converses with it.
pub fn threads(port: u16, converse: fn(TcpStream) -> io::Result<()>) {
    threads_of(&listener(port), converse);
}

/// A thread for each client of that listening socket.
pub fn threads_of(listener: &TcpListener, converse: fn(TcpStream) -> io::Result<()>) {
    for client in listener.incoming().flatten() {
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
