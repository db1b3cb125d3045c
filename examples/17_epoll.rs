//! Lesson 17: the kernel keeps the list.
//!
//! The idea: epoll (here through mio, which is kqueue elsewhere) is told once whom to watch, and reports only who is
//! ready: what a wake-up costs does not grow with those who are silent. Edge-triggered, as mio asks for, it reports that
//! something *came*, once: whoever is told must read until nothing is left.
//!
//! Type, in two terminals:
//!     cargo run --example 17_epoll
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! Then with `cargo run --example 17_epoll 127.0.0.1:7007 once`, which reads 16 bytes at a time, and only once for each event:
//! say a line of 40 letters.
//!
//! Predict before you run:
//!     1. A thousand silent clients and one that talks: how many descriptors go to the kernel for each message?
//!     2. 10,000 bytes are there at once, and the buffer holds 4,096: how many events, how many reads?
//!     3. With `once`: what does the client get of its 40 letters, and when the rest?
//!
//! Read next: `server/src/models/event_loop.rs` and `server/src/readiness.rs`.
//!
//! What breaks: a client that says much and reads nothing is hung up on, as soon as the kernel takes no more of what it
//! is owed. It has done nothing wrong: lesson 18.

use std::{
    collections::HashMap,
    env,
    io::{
        self,
        ErrorKind::{Interrupted, WouldBlock},
        Read, Write,
    },
    net::SocketAddr,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

const DOOR: Token = Token(0);

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let address = words.first().map_or("127.0.0.1:7007", String::as_str);
    let reads_once = words.get(1).is_some_and(|word| word == "once");
    let mut listener = TcpListener::bind(address.parse().map_err(io::Error::other)?)?;
    println!("listening on {}", listener.local_addr()?);
    let mut poll = Poll::new()?; // epoll_create
    poll.registry().register(&mut listener, DOOR, Interest::READABLE)?; // epoll_ctl
    let mut events = Events::with_capacity(64);
    let mut clients: HashMap<Token, (TcpStream, SocketAddr)> = HashMap::new();
    let mut next = 1;
    loop {
        match poll.poll(&mut events, None) {
            // epoll_wait: sleeps until somebody is ready
            Err(error) if error.kind() == Interrupted => continue, // stopped, and continued
            ready => ready?,
        }
        println!("epoll: of {} clients {} are ready", clients.len(), events.iter().count());
        for event in &events {
            if event.token() == DOOR {
                while let Some((mut client, address)) = unless_none(listener.accept())? {
                    poll.registry().register(&mut client, Token(next), Interest::READABLE)?;
                    clients.insert(Token(next), (client, address));
                    next += 1;
                }
                continue;
            }
            let Some((client, address)) = clients.get_mut(&event.token()) else { continue };
            match serve(client, reads_once) {
                Ok(true) => continue,
                Ok(false) => println!("{address} left"),
                Err(error) => println!("{address} was lost: {error}"),
            }
            clients.remove(&event.token()); // closing it is enough: epoll forgets a descriptor that is no more
        }
    }
}

/// Sends back all that is there; whether the client may have more to say.
fn serve(client: &mut TcpStream, reads_once: bool) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let room = if reads_once { 16 } else { buffer.len() }; // so small that one read is seldom enough
    while let Some(n) = unless_none(client.read(&mut buffer[..room]))? {
        println!("read: {n} bytes");
        if n == 0 {
            return Ok(false);
        }
        client.write_all(&buffer[..n])?; // "would block" is an error here: see what breaks
        if reads_once {
            break;
        }
    }
    Ok(true)
}

/// Nothing is there, which is no error.
fn unless_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
