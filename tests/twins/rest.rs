//! A loop that never sleeps.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Twin, right::listener};

pub const TWINS: &[Twin] =
    &[Twin { bug: "idle-cpu", transport: "tcp", implies: &[], serve: always_wants_to_write }];

/// How long it does not accept after accept(2) has failed.
const PAUSE: Duration = Duration::from_millis(20);

/// One loop on poll(2), which asks of every client whether it can be written to, also where nothing is owed: it can.
fn always_wants_to_write(port: u16) {
    let listener = listener(port);
    listener.set_nonblocking(true).unwrap();
    let mut clients: Vec<Client> = Vec::new();
    let mut accepts_from = Instant::now();
    loop {
        let accepts = if Instant::now() < accepts_from { PollFlags::empty() } else { PollFlags::POLLIN };
        let both = PollFlags::POLLIN | PollFlags::POLLOUT;
        let mut asked = vec![PollFd::new(listener.as_fd(), accepts)];
        asked.extend(clients.iter().map(|client| PollFd::new(client.stream.as_fd(), both)));
        let timeout = if accepts.is_empty() { 20u16.into() } else { PollTimeout::NONE };
        if poll(&mut asked, timeout).is_err() {
            continue; // EINTR
        }
        let somebody_comes = asked[0].any().unwrap_or(false);
        clients.retain_mut(|client| client.turn().is_ok());
        if somebody_comes {
            match listener.accept() {
                Ok((stream, _)) => clients.extend(Client::of(stream)),
                Err(_) => accepts_from = Instant::now() + PAUSE,
            }
        }
    }
}

/// A conversation, and what is owed in it.
struct Client {
    stream: TcpStream,
    owed: Vec<u8>,
    has_ended: bool,
}

impl Client {
    fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, owed: Vec::new(), has_ended: false })
    }

    /// Does what can be done; an error where that was the last.
    fn turn(&mut self) -> io::Result<()> {
        loop {
            if self.owed.is_empty() && self.has_ended {
                self.stream.shutdown(Shutdown::Write)?;
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let done = if self.owed.is_empty() { self.read() } else { self.write() };
            match done {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                done => done?,
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        let n = self.stream.read(&mut buffer)?;
        self.has_ended = n == 0;
        self.owed.extend(&buffer[..n]);
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let n = self.stream.write(&self.owed)?;
        self.owed.drain(..n);
        Ok(())
    }
}
