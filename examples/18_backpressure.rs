//! Lesson 18: a conversation says what it waits for.
//!
//! The idea: who is owed something waits to be able to *write*, and is not read until it has taken that; who is owed
//! nothing waits to be read. So no client is hung up on, none makes another wait, and none takes more memory than one
//! buffer: a client that does not read is not read from, its own kernel's buffers fill, and it has to stop sending.
//!
//! Type, in two terminals:
//!     cargo run --example 18_backpressure
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! Then a client that says much and reads nothing, and another beside it:
//!     head -c 100M /dev/zero | cargo run --bin echo-client talk tcp://127.0.0.1:7007 | sleep 1000
//!
//! Predict before you run:
//!     1. The client that reads nothing: how many bytes does the server take from it? Where are they?
//!     2. Does the other client notice?
//!     3. What would happen if the server waited for both, readable *and* writable, all the time?
//!
//! Read next: `server/src/connection.rs`, the same without a poller in it.
//!
//! What breaks: one thread, one processor. While it computes for one client it serves nobody: lesson 19 has a loop for
//! each processor.

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
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let mut listener = TcpListener::bind(address.parse().map_err(io::Error::other)?)?;
    println!("listening on {}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, DOOR, Interest::READABLE)?;
    let mut events = Events::with_capacity(64);
    let mut clients: HashMap<Token, Conversation> = HashMap::new();
    let mut next = 1;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == Interrupted => continue, // stopped, and continued
            ready => ready?,
        }
        for event in &events {
            if event.token() == DOOR {
                while let Some((socket, address)) = unless_none(listener.accept())? {
                    let mut client = Conversation { socket, address, owed: Vec::new(), taken: 0 };
                    poll.registry().register(&mut client.socket, Token(next), Interest::READABLE)?;
                    clients.insert(Token(next), client);
                    next += 1;
                }
                continue;
            }
            let Some(client) = clients.get_mut(&event.token()) else { continue };
            let wanted = client.wants();
            match client.go_on() {
                Ok(true) => {
                    let wants = client.wants();
                    if wants != wanted {
                        let what = if client.owed.is_empty() { "read" } else { "written to" };
                        println!("{} waits to be {what}, {} bytes were taken", client.address, client.taken);
                    }
                    // Told anew, even if it is the same, the kernel reports anew what is so already.
                    poll.registry().reregister(&mut client.socket, event.token(), wants)?;
                    continue;
                }
                Ok(false) => println!("{} left after {} bytes", client.address, client.taken),
                Err(error) => println!("{} was lost: {error}", client.address),
            }
            clients.remove(&event.token());
        }
    }
}

struct Conversation {
    socket: TcpStream,
    address: SocketAddr,
    owed: Vec<u8>,
    taken: usize,
}

impl Conversation {
    /// What the loop is to wait for.
    fn wants(&self) -> Interest {
        if self.owed.is_empty() { Interest::READABLE } else { Interest::WRITABLE }
    }

    /// A step: one read, if nothing is owed, and one write. Whether the client may have more to say.
    fn go_on(&mut self) -> io::Result<bool> {
        if self.owed.is_empty() {
            let mut buffer = [0; 4096];
            let Some(n) = unless_none(self.socket.read(&mut buffer))? else { return Ok(true) };
            self.owed.extend(&buffer[..n]);
            self.taken += n;
            if n == 0 {
                return Ok(false); // all that it said has been sent back, for nothing is owed
            }
        }
        if let Some(sent) = unless_none(self.socket.write(&self.owed))? {
            self.owed.drain(..sent);
        }
        Ok(true)
    }
}

/// Nothing is there, or no room, which is no error.
fn unless_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
