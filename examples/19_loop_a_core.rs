//! Lesson 19: a loop for each processor.
//!
//! The idea: lesson 18's loop, once a processor, and nothing shared: each has a door of its own on the *same* port
//! (`SO_REUSEPORT`), and the kernel deals the clients out by a hash of their addresses. No lock, no queue, no message
//! between the loops.
//!
//! Type, in two terminals:
//!     cargo run --example 19_loop_a_core
//!     cargo run --bin echo-client load tcp://127.0.0.1:7007 --connections 32 --duration 2s
//!
//! Predict before you run:
//!     1. 32 clients and two loops: how many does each get?
//!     2. A client says `work`, and its loop computes for a second. Which of the others wait?
//!     3. Is it twice as fast as lesson 18, on two processors, with the client on the same machine?
//!
//! Read next: `server/src/models/multi_reactor.rs`, whose `handoff` deals the clients out evenly.
//!
//! What breaks: the hash does not know who is busy; and closing one of the doors loses those who wait before it. And still
//! each message costs three system calls: lesson 20.

use std::{
    collections::HashMap,
    env,
    io::{
        self,
        ErrorKind::{Interrupted, WouldBlock},
        Read, Write,
    },
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use socket2::{Domain, Socket, Type};

const DOOR: Token = Token(0);

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let mut address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let loops = thread::available_parallelism()?.get().max(2);
    let mut doors = Vec::new();
    for _ in 0..loops {
        let door = door(address)?;
        address = door.local_addr()?; // where a free port was asked for, the others take the same
        doors.push(door);
    }
    println!("listening on {address}");
    thread::scope(|scope| {
        for (n, door) in doors.into_iter().enumerate() {
            scope.spawn(move || println!("loop {n} ended: {:?}", run(n, door)));
        }
    });
    Ok(())
}

fn door(address: SocketAddr) -> io::Result<TcpListener> {
    let door = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    door.set_reuse_port(true)?; // all of them say so, or the second bind fails
    door.set_nonblocking(true)?;
    door.bind(&address.into())?;
    door.listen(128)?;
    Ok(TcpListener::from_std(door.into()))
}

/// The loop of lesson 18.
fn run(n: usize, mut listener: TcpListener) -> io::Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, DOOR, Interest::READABLE)?;
    let mut events = Events::with_capacity(64);
    let mut clients: HashMap<Token, (TcpStream, Vec<u8>)> = HashMap::new();
    let mut next = 1;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == Interrupted => continue, // stopped, and continued
            ready => ready?,
        }
        for event in &events {
            if event.token() == DOOR {
                while let Some((mut socket, address)) = unless_none(listener.accept())? {
                    println!("loop {n} has {address}, and {} others", clients.len());
                    poll.registry().register(&mut socket, Token(next), Interest::READABLE)?;
                    clients.insert(Token(next), (socket, Vec::new()));
                    next += 1;
                }
                continue;
            }
            let Some((socket, owed)) = clients.get_mut(&event.token()) else { continue };
            if matches!(go_on(socket, owed), Ok(true)) {
                let wants = if owed.is_empty() { Interest::READABLE } else { Interest::WRITABLE };
                poll.registry().reregister(socket, event.token(), wants)?;
            } else {
                clients.remove(&event.token());
            }
        }
    }
}

fn go_on(socket: &mut TcpStream, owed: &mut Vec<u8>) -> io::Result<bool> {
    if owed.is_empty() {
        let mut buffer = [0; 4096];
        let Some(n) = unless_none(socket.read(&mut buffer))? else { return Ok(true) };
        if n == 0 {
            return Ok(false);
        }
        if &buffer[..n] == b"work\n" {
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(1) {} // a second of computing
        }
        owed.extend(&buffer[..n]);
    }
    if let Some(sent) = unless_none(socket.write(owed))? {
        owed.drain(..sent);
    }
    Ok(true)
}

fn unless_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
