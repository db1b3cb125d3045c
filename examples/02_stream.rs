//! Lesson 2: a stream of bytes has no messages in it.
//!
//! The idea: what one side writes in three calls, the other may read in one, or in thirty. TCP promises the bytes and
//! their order, and nothing about where one call ended. Whoever wants messages must put marks between them: here, the
//! end of a line.
//!
//! Type, in two terminals:
//!     cargo run --example 02_stream
//!     cargo run --example 02_stream say 10000
//! The server sleeps a little before it reads, as one that is busy does.
//!
//! Predict before you run:
//!     1. The client writes "one\n", "two\n" and "three\n" in three calls. How many reads see them?
//!     2. Then it writes a line of 10,000 bytes in one call. How many reads see that, into a buffer of 4,096?
//!     3. What does the last line say if the half-close below is made a close of both halves (`Shutdown::Both`)?
//!
//! Read next: `client/src/cmd/talk.rs`, which reads and writes at the same time.
//!
//! What breaks: this client says everything before it listens. With `say 100000000` both stop for ever: the server
//! cannot send the echo that nobody reads, so it reads no more, so the client cannot send. That is backpressure, and it
//! is good for those who are ready for it: lesson 18.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

const HERE: &str = "127.0.0.1:7007";

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["say", length] => say(HERE, length.parse().map_err(io::Error::other)?),
        ["say", length, address] => say(address, length.parse().map_err(io::Error::other)?),
        [address] => serve(address),
        _ => serve(HERE),
    }
}

/// One client: what each read returns is told, and sent back.
fn serve(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?; // socket, bind and listen in one
    println!("listening on {}", listener.local_addr()?);
    let (mut client, _) = listener.accept()?;
    thread::sleep(Duration::from_millis(500)); // busy elsewhere
    let mut buffer = [0; 4096];
    loop {
        let n = client.read(&mut buffer)?;
        println!(
            "read: {n} bytes, {} ends of lines",
            buffer[..n].iter().filter(|byte| **byte == b'\n').count()
        );
        if n == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..n])?; // `write` alone may take fewer than n
    }
}

/// Three short lines in three calls, and a long one in one; then the echo, line by line.
fn say(address: &str, length: usize) -> io::Result<()> {
    let mut server = TcpStream::connect(address)?;
    server.set_nodelay(true)?; // each call leaves in a segment of its own, and even that does not help
    let long = format!("{}\n", "x".repeat(length));
    for line in ["one\n", "two\n", "three\n", &long] {
        server.write_all(line.as_bytes())?;
        println!("wrote: {} bytes", line.len());
    }
    server.shutdown(Shutdown::Write)?; // the half-close: that was all, and I am still listening
    for line in BufReader::new(&server).lines() {
        println!("heard: a line of {} bytes", line?.len() + 1);
    }
    println!("heard: the end");
    Ok(())
}
