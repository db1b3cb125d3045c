//! Lesson 3: one client after another.
//!
//! The idea: put a loop around `accept`. Whoever connects meanwhile waits in the listener's accept queue, already
//! connected as far as it can tell. How many may wait there is the backlog.
//!
//! Type, in two terminals:
//!     cargo run --example 03_iterative
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! And a second client in a third terminal, while the first is still there. Then the same with a backlog of two,
//! `cargo run --example 03_iterative 127.0.0.1:7007 2`, and five clients.
//!
//! Predict before you run:
//!     1. The second client connects: does `connect` return? It types a line: when does the answer come?
//!     2. With a backlog of two, one is served and three wait. What does the fifth client see?
//!     3. A client is killed, not ended (`kill -9`). Does the server notice? And one that is unplugged?
//!
//! Read next: `server/src/models/iterative.rs`, the same server, right in the unhappy path.
//!
//! What breaks: one client that connects and says nothing holds up all the others, for as long as it likes. From lesson 5
//! on they are served side by side.

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use socket2::{Domain, Socket, Type};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let door = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    door.set_reuse_address(true)?;
    door.bind(&address.into())?;
    let backlog = env::args().nth(2).map_or(Ok(128), |word| word.parse()).map_err(io::Error::other)?;
    door.listen(backlog)?; // `TcpListener::bind` says 128, always
    let listener: std::net::TcpListener = door.into();
    let port = listener.local_addr()?.port();
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (client, address) = listener.accept()?; // sleeps until somebody is there
        println!("{address} is served");
        match echo(client) {
            Ok(bytes) => println!("{address} left after {bytes} bytes, {} wait", waiting(port)?),
            // One client's misfortune is not the server's: without this arm, one reset ends it for all.
            Err(error) => println!("{address} was lost: {error}"),
        }
    }
}

/// The conversation: whatever comes is sent back, until the client has no more to say. Dropping the socket at the end
/// closes it, which is how the client learns that it has heard everything.
fn echo(mut client: TcpStream) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let mut total = 0;
    loop {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return Ok(total);
        }
        client.write_all(&buffer[..n])?;
        total += n;
    }
}

/// How many have connected and were not accepted yet: what `ss -ltn` calls Recv-Q. In /proc/net/tcp (proc(5)) state 0A
/// is a listener, those come first, and their receive queue is counted in clients.
fn waiting(port: u16) -> io::Result<u32> {
    let of_this_port = format!(":{port:04X}");
    for line in BufReader::new(File::open("/proc/net/tcp")?).lines() {
        let line = line?;
        let field: Vec<&str> = line.split_whitespace().collect();
        if field[1].ends_with(&of_this_port) && field[3] == "0A" {
            let queue = field[4].rsplit(':').next().unwrap_or_default();
            return Ok(u32::from_str_radix(queue, 16).unwrap_or(0));
        }
    }
    Ok(0)
}
