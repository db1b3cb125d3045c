//! Lesson 16: one thread for all, and the kernel says who is ready.
//!
//! The idea: `poll` takes a list of descriptors and sleeps until one of them is ready: a client that has said something,
//! or the door before which one stands. Then `read` and `accept` return at once. (`select` is the same with a set of bits
//! instead of a list, which ends at descriptor 1,023.)
//!
//! Type, in two terminals:
//!     cargo run --example 16_poll
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! Then a client that says much and reads nothing, and another beside it:
//!     head -c 100M /dev/zero | cargo run --bin echo-client talk tcp://127.0.0.1:7007 | sleep 1000
//! ^C ends it.
//!
//! Predict before you run:
//!     1. Nobody is there: what does the processor do now?
//!     2. A thousand silent clients and one that talks: how many descriptors go to the kernel for each message?
//!     3. The client that reads nothing: whom does it stop, and in which call?
//!
//! Read next: `server/src/models/poll.rs` and `server/src/models/select.rs`.
//!
//! What breaks: two things. The list goes to the kernel anew each time, and all of it is looked at: lesson 17. And "ready"
//! was asked for reading alone: `write_all` sleeps for a client that does not read, and everybody with it: lesson 18.

use std::{
    env,
    io::{self, Read, Write},
    iter,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    let mut clients: Vec<(TcpStream, SocketAddr)> = Vec::new();
    loop {
        let door = iter::once(listener.as_fd());
        let everybody = door.chain(clients.iter().map(|(client, _)| client.as_fd()));
        let mut list: Vec<PollFd<'_>> = everybody.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let ready = poll(&mut list, PollTimeout::NONE)?; // sleeps until somebody is ready
        println!("poll: of {} descriptors {ready} are ready", list.len());
        let mut is_ready = list.iter().map(|fd| fd.any() == Some(true)).collect::<Vec<_>>().into_iter();
        let at_the_door = is_ready.next() == Some(true);
        clients.retain_mut(|(client, address)| {
            is_ready.next() != Some(true) || matches!(serve(client, *address), Some(1..))
        });
        if at_the_door {
            clients.push(listener.accept()?);
        }
    }
}

/// One read, and what it brought goes back: how many bytes, unless the client was lost.
fn serve(client: &mut TcpStream, address: SocketAddr) -> Option<usize> {
    let mut buffer = [0; 4096];
    let served = client.read(&mut buffer).and_then(|n| client.write_all(&buffer[..n]).map(|()| n));
    match &served {
        Ok(0) => println!("{address} left"),
        Ok(_) => {}
        Err(error) => println!("{address} was lost: {error}"),
    }
    served.ok()
}
