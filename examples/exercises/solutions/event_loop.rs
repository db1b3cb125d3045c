//! One thread for all: what `exercises/event_loop.rs` asked for.

use std::{
    env,
    io::{self, ErrorKind::WouldBlock, Read, Write},
    iter,
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

struct Conversation {
    socket: TcpStream,
    owed: Vec<u8>,
}

impl Conversation {
    fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, owed: Vec::new() })
    }

    /// What `poll` is to wait for.
    fn wants(&self) -> PollFlags {
        if self.owed.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT }
    }

    /// Goes on when that is so; whether the client may have more to say.
    fn go_on(&mut self) -> io::Result<bool> {
        match self.step() {
            Err(error) if error.kind() == WouldBlock => Ok(true),
            outcome => outcome,
        }
    }

    /// One read, if nothing is owed, and one write. So at the last word nothing is owed.
    fn step(&mut self) -> io::Result<bool> {
        if self.owed.is_empty() {
            let mut buffer = [0; 4096];
            let n = self.socket.read(&mut buffer)?;
            if n == 0 {
                return Ok(false);
            }
            self.owed.extend(&buffer[..n]);
        }
        let n = self.socket.write(&self.owed)?;
        self.owed.drain(..n);
        Ok(true)
    }
}

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    let mut clients: Vec<Conversation> = Vec::new();
    loop {
        let door = iter::once(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        let everybody = clients.iter().map(|client| PollFd::new(client.socket.as_fd(), client.wants()));
        let mut list: Vec<PollFd<'_>> = door.chain(everybody).collect();
        poll(&mut list, PollTimeout::NONE)?;
        let mut is_ready = list.iter().map(|fd| fd.any() == Some(true)).collect::<Vec<_>>().into_iter();
        let at_the_door = is_ready.next() == Some(true);
        clients.retain_mut(|client| {
            is_ready.next() != Some(true)
                || client.go_on().unwrap_or_else(|error| {
                    println!("a client was lost: {error}");
                    false
                })
        });
        if at_the_door {
            clients.push(Conversation::new(listener.accept()?.0)?);
        }
    }
}
