//! Lesson 27: datagrams by client.
//!
//! The idea: over UDP a client is an address and nothing else. Whoever wants to know what each has said keeps a map: the
//! key is the client's address, the value a list. The server tells it as JSON when SIGUSR1 comes, and at the end.
//!
//! Type, in two terminals:
//!     cargo run --example 27_groups
//!     cargo run --bin echo-client talk udp://127.0.0.1:7007
//! And a second client in a third terminal; then `pkill -USR1 27_groups`, and ^C.
//!
//! Predict before you run:
//!     1. A client ends and starts again. Is it the same one for the server?
//!     2. Two clients behind one router: are they told apart?
//!     3. Somebody sends with a million forged addresses. What does that cost the server, and what the sender?
//!
//! Read next: `server/src/groups.rs`, which is bounded, and `server/src/archive.rs`, where workers are processes.
//!
//! What breaks: the map has no bound, so anybody can fill the memory. With several processes each has a map of its own,
//! and somebody must merge them. Which of the lessons serves best? Lesson 28 measures.

use std::{
    collections::BTreeMap,
    env, io,
    net::{SocketAddr, UdpSocket},
    os::{fd::AsFd, unix::net::UnixStream},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde_json::json;
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    low_level::pipe,
};

type Groups = BTreeMap<SocketAddr, Vec<String>>;

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let (tell, teller) = UnixStream::pair()?;
    let (end, ender) = UnixStream::pair()?;
    pipe::register(SIGUSR1, teller)?;
    pipe::register(SIGINT, ender.try_clone()?)?;
    pipe::register(SIGTERM, ender)?;
    let socket = UdpSocket::bind(address)?;
    println!("listening on {}", socket.local_addr()?);
    let mut groups = Groups::new();
    loop {
        let mut watched =
            [socket.as_fd(), tell.as_fd(), end.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut watched, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue, // the handler ran; what it wrote is seen the next time
            ready => ready?,
        };
        let [said, is_asked, is_over] = watched.map(|fd| fd.any() == Some(true));
        if said {
            hear(&socket, &mut groups)?;
        }
        if is_asked {
            io::Read::read(&mut &tell, &mut [0])?; // the byte that the handler wrote
        }
        if is_asked || is_over {
            println!("{}", written(&groups));
        }
        if is_over {
            return Ok(());
        }
    }
}

/// One datagram goes back, and into its client's list.
fn hear(socket: &UdpSocket, groups: &mut Groups) -> io::Result<()> {
    let mut buffer = [0; 65_507];
    let (length, from) = socket.recv_from(&mut buffer)?;
    if let Err(error) = socket.send_to(&buffer[..length], from) {
        println!("no answer to {from}: {error}");
    }
    let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
    groups.entry(from).or_default().push(said);
    Ok(())
}

fn written(groups: &Groups) -> serde_json::Value {
    let clients =
        groups.iter().map(|(address, said)| json!({"address": address.to_string(), "messages": said}));
    json!({"clients": clients.collect::<Vec<_>>()})
}
