//! An event loop that is right, for those twins whose bug is in one: what a client wants next is what its turn says.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::right::listener;

/// A client, and what it is owed.
pub struct Guest {
    pub stream: TcpStream,
    pub owed: VecDeque<u8>,
    /// Whether it has sent all.
    pub has_ended: bool,
    /// What came at the last event.
    fin_seen: bool,
}

/// What is waited for next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Read,
    Write,
    Both,
    Close,
}

impl Guest {
    /// Sends what is owed, as far as the kernel takes it.
    pub fn pay(&mut self) -> io::Result<()> {
        while !self.owed.is_empty() {
            match self.stream.write(self.owed.as_slices().0) {
                Ok(n) => drop(self.owed.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once, and owes it.
    pub fn read(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 << 10];
        let n = self.stream.read(&mut buffer)?;
        self.owed.extend(&buffer[..n]);
        Ok(n)
    }
}

/// Serves in one loop, by levels; a turn may end with EAGAIN.
pub fn events(port: u16, turn: fn(&mut Guest) -> io::Result<Next>) {
    run(&listener(port), EpollFlags::empty(), turn);
}

/// Serves in one loop, by edges; who has seen the client's FIN is told so.
pub fn on_edges(port: u16, turn: fn(&mut Guest, bool) -> io::Result<Next>) {
    run(&listener(port), EpollFlags::EPOLLET, |guest| {
        let fin_seen = guest.fin_seen;
        turn(guest, fin_seen)
    });
}

fn run(listener: &TcpListener, how: EpollFlags, turn: impl Fn(&mut Guest) -> io::Result<Next>) {
    listener.set_nonblocking(true).unwrap();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let door = listener.as_raw_fd().cast_unsigned().into();
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, door)).unwrap();
    let mut guests: HashMap<u64, (Guest, Next)> = HashMap::new();
    let mut happened = [EpollEvent::empty(); 64];
    loop {
        let n = epoll.wait(&mut happened, EpollTimeout::NONE).unwrap_or(0); // EINTR: once more
        for event in &happened[..n] {
            let key = event.data();
            if key == door {
                accept(listener, &epoll, how, &mut guests);
                continue;
            }
            let Some((guest, before)) = guests.get_mut(&key) else { continue };
            guest.fin_seen |= event.events().contains(EpollFlags::EPOLLRDHUP);
            let next = match turn(guest) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => *before,
                next => next.unwrap_or(Next::Close),
            };
            if next == Next::Close {
                guests.remove(&key); // closes it, and so epoll forgets it
            } else if next != *before {
                *before = next;
                let mut event = EpollEvent::new(how | wanted(next), key);
                let _ = epoll.modify(&guest.stream, &mut event);
            }
        }
    }
}

fn accept(listener: &TcpListener, epoll: &Epoll, how: EpollFlags, guests: &mut HashMap<u64, (Guest, Next)>) {
    match listener.accept() {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            let key = stream.as_raw_fd().cast_unsigned().into();
            let first = if how.is_empty() { Next::Read } else { Next::Both };
            let prepared = stream.set_nonblocking(true).is_ok()
                && epoll.add(&stream, EpollEvent::new(how | wanted(first), key)).is_ok();
            if prepared {
                let guest = Guest { stream, owed: VecDeque::new(), has_ended: false, fin_seen: false };
                guests.insert(key, (guest, first));
            }
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        // No descriptor is left: who waits goes on waiting, and the processor is not burnt meanwhile.
        Err(_) => thread::sleep(Duration::from_millis(10)),
    }
}

fn wanted(next: Next) -> EpollFlags {
    match next {
        Next::Read => EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP,
        Next::Write => EpollFlags::EPOLLOUT,
        Next::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLOUT,
        Next::Close => EpollFlags::empty(),
    }
}
