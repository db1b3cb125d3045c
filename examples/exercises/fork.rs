//! Exercise: a process for each client. Lessons 5 and 6.
//!
//! This server serves one client after the other. Change it, where it says YOUR TURN, so that
//!
//! 1. each client has a process of its own, and none waits for another;
//! 2. nobody holds a descriptor that is another's: the client learns the end as soon as *its* process has closed;
//! 3. no process is left as a zombie, and a client that cannot have a process costs nobody else.
//!
//! Its points: `make grade E=fork`
#![allow(unsafe_code)] // you will need it for `fork`

use std::{
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    // YOUR TURN (3): who asks how the children ended?
    loop {
        let (client, address) = listener.accept()?;
        // YOUR TURN (1, 2): who serves, and who closes what?
        if let Err(error) = echo(client) {
            println!("{address} was lost: {error}");
        }
    }
}

fn echo(mut client: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..n])?;
    }
}
