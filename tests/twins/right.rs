//! The twin that is right: what the broken ones differ from, in one place each.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::exit,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, Signal};
use procfs::net::TcpState;
use socket2::{Domain, Socket, Type};

use crate::Twin;

pub const TWINS: &[Twin] =
    &[Twin { bug: "none", transport: "tcp", implies: &[], serve: |port| threads(port, echo) }];

/// A listening socket with SO_REUSEADDR, as std makes it, and a queue long enough.
pub fn listener(port: u16) -> TcpListener {
    listening((Ipv4Addr::LOCALHOST, port).into(), true, QUEUE)
}

/// How many may wait.
pub const QUEUE: i32 = 1024;

/// A listening socket, with SO_REUSEADDR or without, and a queue of that length.
pub fn listening(address: SocketAddr, reuse: bool, queue: i32) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(reuse).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(queue).unwrap();
    socket.into()
}

/// The next client. Whatever accept(2) fails with, it is no reason to end, nor to ask again at once.
pub fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept() {
            Ok((client, _)) => return client,
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A thread for each client, who converses with it.
pub fn threads(port: u16, converse: fn(TcpStream) -> io::Result<()>) {
    threads_on(&listener(port), converse);
}

/// The same, on a listener.
pub fn threads_on(listener: &TcpListener, converse: fn(TcpStream) -> io::Result<()>) {
    loop {
        start(accept(listener), converse);
    }
}

/// A thread for a client; who gets none is closed.
pub fn start(client: TcpStream, converse: fn(TcpStream) -> io::Result<()>) {
    let _ = client.set_nodelay(true);
    let _ = thread::Builder::new().spawn(move || {
        let _ = converse(client);
    });
}

/// Sends back what comes, until the client sends no more; then closes.
pub fn echo(client: TcpStream) -> io::Result<()> {
    answer(&client)
}

/// The same, and leaves it to the caller to close.
pub fn answer(mut client: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match client.read(&mut buffer)? {
            0 => return client.shutdown(Shutdown::Write),
            n => client.write_all(&buffer[..n])?,
        }
    }
}

/// On SIGTERM this process ends when the last client of the port has ended, whoever serves it. The signal is blocked from
/// here on, in threads and children that are started later too, and one thread waits for it.
pub fn end_in_order(port: u16) {
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    term.thread_block().unwrap();
    thread::spawn(move || {
        term.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline && has_clients(port) {
            thread::sleep(Duration::from_millis(5));
        }
        exit(0)
    });
}

/// Whether a connection of the port is still to be ended by the server.
fn has_clients(port: u16) -> bool {
    let open = [TcpState::Established, TcpState::CloseWait];
    let mut entries = procfs::net::tcp().into_iter().flatten();
    entries.any(|entry| entry.local_address.port() == port && open.contains(&entry.state))
}
