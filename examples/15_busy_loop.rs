//! Lesson 15: one thread for all, by asking everybody, always.
//!
//! The idea: a socket in non-blocking mode never lets its caller sleep: `read` returns at once, with bytes or with "would
//! block". So one thread can hold all conversations, if it goes round and asks.
//!
//! Type, in two terminals:
//!     cargo run --example 15_busy_loop
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! And `top` in a third.
//!
//! Predict before you run:
//!     1. Nobody is there. What does the processor do?
//!     2. A hundred silent clients: how many times a second is each asked, and how late is who speaks?
//!     3. A sleep of 10 ms in the loop would spare the processor. What would it cost, and whom?
//!
//! Read next: `server/src/busy_poll.rs`: the same for 50 us, before it sleeps; then it can be worth its price.
//!
//! What breaks: it works all day to find out that there is nothing to do. Only the kernel knows when something has come:
//! lesson 16 asks it.

use std::{
    env,
    io::{self, ErrorKind::WouldBlock, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);
    let mut clients: Vec<(TcpStream, SocketAddr)> = Vec::new();
    let (mut asked, mut answered) = (0_u64, 0_u64);
    let (mut told, mut used) = (Instant::now(), cpu()?);
    loop {
        match listener.accept() {
            Ok((client, address)) => {
                client.set_nonblocking(true)?; // on Linux it does not inherit this from the listener
                println!("{address} is client {}", clients.len());
                clients.push((client, address));
            }
            Err(error) if error.kind() == WouldBlock => {}
            Err(error) => println!("nobody came in: {error}"),
        }
        clients.retain_mut(|(client, address)| match serve(client) {
            Ok(Some(0)) => {
                println!("{address} left");
                false
            }
            Ok(bytes) => {
                answered += u64::from(bytes.is_some());
                true
            }
            Err(error) => {
                println!("{address} was lost: {error}");
                false
            }
        });
        asked += 1 + clients.len() as u64;
        if told.elapsed() >= Duration::from_secs(1) {
            let now = cpu()?;
            let busy = (now - used).as_secs_f64() * 100.0 / told.elapsed().as_secs_f64();
            println!("asked {asked} times, {answered} had said something; processor {busy:.0} % busy");
            (asked, answered, told, used) = (0, 0, Instant::now(), now);
        }
    }
}

/// What the client has said, if anything, goes back: how many bytes; 0 is the end.
fn serve(client: &mut TcpStream) -> io::Result<Option<usize>> {
    let mut buffer = [0; 4096];
    match client.read(&mut buffer) {
        Ok(n) => {
            // Who does not read fills its buffer and is hung up on here; lesson 18 does better.
            client.write_all(&buffer[..n])?;
            Ok(Some(n))
        }
        Err(error) if error.kind() == WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// What this process has had of the processors.
fn cpu() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let used = usage.user_time() + usage.system_time();
    Ok(Duration::from_micros(used.num_microseconds().unsigned_abs()))
}
