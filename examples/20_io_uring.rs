//! Lesson 20: say what is to be done, and hear when it is done.
//!
//! The idea: readiness says "you may read now", and then you call. Completion turns it round: *read into this buffer* is
//! put into a queue that the kernel sees, and the answer comes in another, when the bytes are already there. One system
//! call hands over any number of wishes and waits for any number of answers.
//!
//! Type, in two terminals:
//!     cargo run --example 20_io_uring
//!     cargo run --bin echo-client load tcp://127.0.0.1:7007 --connections 32 --duration 2s
//!
//! Predict before you run:
//!     1. 32 clients talk. How many system calls is that for each message? (Lesson 18 needs three.)
//!     2. To whom does a buffer belong between the wish and its answer? What if it were freed meanwhile?
//!     3. Who reads the bytes: this thread or the kernel? When?
//!
//! Read next: `server/src/completion.rs`, where one wish brings many answers and the kernel chooses among buffers.
//!
//! What breaks: the conversation has come apart. What follows a read stands in another arm of a `match`, and what was known
//! there must be kept in a table until then. Lesson 21 puts it together again.
#![allow(unsafe_code)] // the kernel writes into our buffers while we do something else

use std::{
    collections::HashMap,
    env,
    io::{self, Error},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, RawFd},
    ptr,
};

use io_uring::{IoUring, opcode, squeue::Entry, types::Fd};

const ACCEPT: u64 = 0;
const READ: u64 = 1;
const WRITE: u64 = 2;

/// What must be known when an answer comes. Each has one wish on its way at a time.
struct Conversation {
    socket: TcpStream,
    buffer: Box<[u8; 4096]>, // stays where it is, however the table grows
    filled: usize,
    sent: usize,
}

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?;
    let mut ring = IoUring::new(256).map_err(|error| {
        Error::new(
            error.kind(),
            format!("no ring here: {error} (see kernel.io_uring_disabled, and Docker's seccomp)"),
        )
    })?;
    println!("listening on {}", listener.local_addr()?);
    let mut clients: HashMap<RawFd, Conversation> = HashMap::new();
    let accept = opcode::Accept::new(Fd(listener.as_raw_fd()), ptr::null_mut(), ptr::null_mut());
    let accept = accept.build().user_data(ACCEPT);
    let mut wishes = vec![accept.clone()];
    let (mut calls, mut answers) = (0_u64, 0_u64);
    loop {
        for wish in wishes.drain(..) {
            // SAFETY: the listener lives for ever, and a conversation's buffer until its wish was answered: see below.
            while unsafe { ring.submission().push(&wish) }.is_err() {
                ring.submit()?; // the queue was full
            }
        }
        ring.submit_and_wait(1)?; // io_uring_enter(2), the only system call
        calls += 1;
        for answer in ring.completion() {
            answers += 1;
            let (fd, what) = ((answer.user_data() >> 2) as RawFd, answer.user_data() & 3);
            if what == ACCEPT {
                let fd = outcome(answer.result())?;
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
                let socket = unsafe { TcpStream::from_raw_fd(fd as RawFd) };
                let client = Conversation { socket, buffer: Box::new([0; 4096]), filled: 0, sent: 0 };
                wishes.push(clients.entry(fd as RawFd).insert_entry(client).get_mut().read());
                wishes.push(accept.clone());
                continue;
            }
            let Some(client) = clients.get_mut(&fd) else { continue };
            match client.go_on(what, outcome(answer.result())) {
                Some(wish) => wishes.push(wish),
                None => {
                    clients.remove(&fd); // nothing of it is on its way now
                    println!("client {fd} left; {answers} answers so far in {calls} system calls");
                }
            }
        }
    }
}

/// The answer as the system call would have given it: a number, or an error with its sign turned.
fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| Error::from_raw_os_error(-result))
}

impl Conversation {
    /// What comes after this answer; nothing when the client is gone.
    fn go_on(&mut self, what: u64, answer: io::Result<usize>) -> Option<Entry> {
        match (what, answer) {
            (READ, Ok(n @ 1..)) => (self.filled, self.sent) = (n, 0),
            (WRITE, Ok(n)) => self.sent += n,
            (_, Ok(_)) => return None,
            (_, Err(error)) => {
                println!("client {} was lost: {error}", self.socket.as_raw_fd());
                return None;
            }
        }
        Some(if self.sent < self.filled { self.write() } else { self.read() })
    }

    fn read(&mut self) -> Entry {
        let fd = self.socket.as_raw_fd();
        let wish = opcode::Recv::new(Fd(fd), self.buffer.as_mut_ptr(), self.buffer.len() as u32);
        wish.build().user_data((fd as u64) << 2 | READ)
    }

    fn write(&self) -> Entry {
        let (fd, owed) = (self.socket.as_raw_fd(), &self.buffer[self.sent..self.filled]);
        opcode::Send::new(Fd(fd), owed.as_ptr(), owed.len() as u32)
            .build()
            .user_data((fd as u64) << 2 | WRITE)
    }
}
