//! Lesson 4: datagrams.
//!
//! The idea: UDP keeps messages and nothing else. No connection, so no accept and one descriptor for everybody; each
//! datagram comes whole, with the address it came from, or it does not come at all.
//!
//! Type, in two terminals:
//!     cargo run --example 04_udp
//!     cargo run --bin echo-client talk udp://127.0.0.1:7007
//! And then, in the second, an empty datagram, and many:
//!     python3 -c "import socket; socket.socket(2, 2).sendto(b'', ('127.0.0.1', 7007))"
//!     cargo run --example 04_udp flood 20000
//!
//! Predict before you run:
//!     1. Two clients talk at the same time. How many descriptors has the server, and who waits for whom?
//!     2. An empty datagram: what does `recv_from` return, and is it the end of something?
//!     3. 20,000 datagrams are sent and nobody reads the answers meanwhile. How many come back? Who tells of the others?
//!
//! Read next: `server/src/datagram.rs` and `server/src/exchange.rs`.
//!
//! What breaks: what finds a buffer full is dropped without a word. Over UDP whoever asks must count, wait and ask again;
//! TCP does it for everybody. What a client has said so far is known to nobody either: lesson 27 keeps it.

use std::{
    env, fs,
    io::{self, ErrorKind::WouldBlock},
    net::UdpSocket,
    time::Duration,
};

const HERE: &str = "127.0.0.1:7007";

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["flood", count] => flood(HERE, count.parse().map_err(io::Error::other)?),
        ["flood", count, address] => flood(address, count.parse().map_err(io::Error::other)?),
        [address] => serve(address),
        _ => serve(HERE),
    }
}

/// Sends every datagram back to where it came from.
fn serve(address: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?; // socket and bind; there is nothing to listen to and nobody to accept
    println!("listening on {}", socket.local_addr()?);
    let mut buffer = [0; 65_507]; // the longest datagram over IPv4; of a longer one the rest would be lost
    let mut heard = 0;
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        heard += 1;
        if heard <= 10 || length == 0 {
            println!("datagram {heard}: {length} bytes from {from}");
        }
        // A client that is gone, or a buffer that is full, costs this datagram and nothing else.
        if let Err(error) = socket.send_to(&buffer[..length], from) {
            println!("no answer to {from}: {error}");
        }
    }
}

/// Sends without reading; then reads what is there.
fn flood(address: &str, count: usize) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address)?; // for UDP: where `send` sends to, and from whom `recv` takes
    for _ in 0..count {
        socket.send(&[b'.'; 1000])?;
    }
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut answers = 0;
    loop {
        match socket.recv(&mut [0; 1000]) {
            Ok(_) => answers += 1,
            Err(error) if error.kind() == WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    println!("sent {count}, heard {answers}, lost {}", count - answers);
    println!(
        "the kernel dropped {} answers before this socket; the rest were lost on the way there",
        dropped(socket.local_addr()?.port())?
    );
    Ok(())
}

/// How many datagrams found a socket's buffer full: the last column of /proc/net/udp (proc(5)).
fn dropped(port: u16) -> io::Result<u64> {
    let sockets = fs::read_to_string("/proc/net/udp")?;
    let of_this_port = format!(":{port:04X}");
    let mut fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let socket = fields.find(|field| field[1].ends_with(&of_this_port));
    Ok(socket.and_then(|field| field.last()?.parse().ok()).unwrap_or(0))
}
