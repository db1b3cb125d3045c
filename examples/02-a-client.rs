//! Lesson 2: the other side.
//!
//! The idea: `connect` finds the server; what is typed goes there and what comes back is shown. At the end of
//! the input the client closes *its half* of the connection: it has no more to say, but goes on listening.
//!
//! Type, in two terminals:
//!     cargo run --example 01-one-client-at-a-time
//!     cargo run --example 02-a-client 127.0.0.1:7007
//! and end the input with ^D. Or give it a file: `cargo run --example 02-a-client < README.md`
//!
//! Predict before you run: what does the last line do if you replace the half-close by closing the whole
//! socket? How much of a large file comes back then?
//!
//! Read next: `client/src/cmd/talk.rs`, which reads and writes at the same time.
//!
//! What breaks: this client sends everything before it reads anything. Give it a file larger than the buffers
//! of both kernels (10 MB do) and it stops for ever: the server cannot send the echo that nobody reads, so it
//! reads no more, so the client cannot send. That is backpressure, and two threads are the answer.

use std::{
    env,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let mut server = TcpStream::connect(address)?;
    let mut said = Vec::new();
    io::stdin().read_to_end(&mut said)?;
    server.write_all(&said)?;
    server.shutdown(Shutdown::Write)?; // the FIN: "that was all", and the server's read returns 0
    let mut heard = Vec::new();
    server.read_to_end(&mut heard)?; // until the server closes its half too
    io::stdout().write_all(&heard)?;
    if heard != said {
        return Err(io::Error::other(format!("said {} bytes, heard {}", said.len(), heard.len())));
    }
    Ok(())
}
