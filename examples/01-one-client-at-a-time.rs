//! Lesson 1: a server, as small as it can be.
//!
//! The idea: `socket`, `bind` and `listen` make a door; `accept` takes one client from the queue before it;
//! `read` and `write` are the conversation; `read` returns 0 when the client has said its last word.
//!
//! Type, in two terminals:
//!     cargo run --example 01-one-client-at-a-time
//!     cargo run --example 02-a-client 127.0.0.1:7007
//!
//! Predict before you run: start a second client while the first is still there, and type into it. When does
//! its answer come? Does its connecting succeed?
//!
//! Read next: `server/src/models/iterative.rs`, the same server, right in the unhappy path.
//!
//! What breaks: the second client waits in the accept queue for as long as the first one stays, be it for
//! ever. A later lesson serves both.

use std::{
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?; // socket, bind and listen
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (client, address) = listener.accept()?; // sleeps until somebody is there
        println!("{address} is served");
        match echo(client) {
            Ok(bytes) => println!("{address} left after {bytes} bytes"),
            // One client's misfortune is not the server's: without this arm, one reset ends it for all.
            Err(error) => println!("{address} was lost: {error}"),
        }
    }
}

/// The conversation: whatever comes is sent back, until the client has no more to say. Dropping the socket at
/// the end closes it, which is how the client learns that it has heard everything.
fn echo(mut client: TcpStream) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let mut total = 0;
    loop {
        let n = client.read(&mut buffer)?; // any number of bytes: TCP is a stream and keeps no messages
        if n == 0 {
            return Ok(total);
        }
        client.write_all(&buffer[..n])?; // write alone may take fewer than n
        total += n;
    }
}
