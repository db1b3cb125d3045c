//! Lesson 1: a socket is a descriptor, and a server needs two of them.
//!
//! The idea: `socket` makes a descriptor, `bind` gives it an address, and `listen` makes it a door with a queue before
//! it. `accept` takes one client out of that queue and gives it a descriptor of its own. Nothing is said through the
//! door, and nobody comes in through the other.
//!
//! Type, in two terminals:
//!     cargo run --example 01_socket
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! Type a few lines into the second, and end it with ^D.
//!
//! Predict before you run:
//!     1. Descriptors 0, 1 and 2 are taken. Which will the door have, and which the client?
//!     2. What does `read` return when you type ^D?
//!     3. A second client connects while the first is there. Does it get in? What does it see when the first has left?
//!
//! Read next: `server/src/socket.rs`, which opens the doors of all models.
//!
//! What breaks: one client, and the server is gone. Lesson 3 takes the next one.

use std::{
    env,
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::AsRawFd,
};

use socket2::{Domain, Socket, Type};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;

    let door = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    println!("socket: descriptor {}", door.as_raw_fd());
    door.set_reuse_address(true)?; // or it could not be started again while the kernel remembers an old connection
    door.bind(&address.into())?;
    door.listen(128)?; // so many clients may wait before it
    let address = door.local_addr()?;
    println!("listening on {}", address.as_socket().ok_or(io::ErrorKind::Unsupported)?);

    let (mut client, from) = door.accept()?; // sleeps until somebody has connected
    let from = from.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    println!("accept: descriptor {} is {from}", client.as_raw_fd());

    let mut buffer = [0; 4096];
    loop {
        let n = client.read(&mut buffer)?; // sleeps until something has come
        println!("read: {n} bytes");
        if n == 0 {
            break; // the end of file: it has no more to say
        }
        client.write_all(&buffer[..n])?; // copies them into the kernel; when they leave is its affair
        println!("write: {n} bytes");
    }
    println!("close: both descriptors, and with the door all who wait before it");
    Ok(())
}
