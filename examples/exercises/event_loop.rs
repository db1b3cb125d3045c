//! Exercise: one thread for all, and nobody makes another wait. Lessons 16 to 18.
//!
//! This server asks poll(2) who has said something, reads, and writes back at once, sleeping until the client has taken
//! it: one that does not read stops everybody. Change it, where it says YOUR TURN, so that
//!
//! 1. no call but `poll` sleeps;
//! 2. what a client has not taken yet is kept for it, and written when *it* is ready for that;
//! 3. who is owed something is not read, so nobody can fill the memory;
//! 4. after a client's last word it still gets all that it is owed.
//!
//! Its points: `make grade E=event_loop`

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
        // YOUR TURN (1): this is what makes calls sleep.
        socket.set_nonblocking(false)?;
        Ok(Self { socket, owed: Vec::new() })
    }

    /// What `poll` is to wait for.
    fn wants(&self) -> PollFlags {
        // YOUR TURN (2, 3): always?
        PollFlags::POLLIN
    }

    /// Goes on when that is so; whether the client may have more to say.
    fn go_on(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        // YOUR TURN (2, 3, 4): when is it right to read?
        match self.socket.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => self.owed.extend(&buffer[..n]),
            Err(error) if error.kind() == WouldBlock => {}
            Err(error) => return Err(error),
        }
        self.socket.write_all(&self.owed)?;
        self.owed.clear();
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
