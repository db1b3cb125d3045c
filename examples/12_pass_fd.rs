//! Lesson 12: passing a descriptor to another process.
//!
//! The idea: over a Unix socket a process can send a *descriptor*: the kernel gives the receiver a copy, under a number of
//! its own. So one process may accept for all, and decide who serves whom, which nobody decided in lesson 7.
//!
//! Type, in two terminals:
//!     cargo run --example 12_pass_fd
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//!
//! Predict before you run:
//!     1. Eight clients, one after the other: how many does each of the two workers get? And each of the four in lesson 7?
//!     2. The connection is descriptor 6 in the parent. What number has it in the worker?
//!     3. The parent closes its copy at once, maybe before the worker has received it. Is the client lost?
//!
//! Read next: `server/src/rights.rs`, and `--dispatch pass-fd` in `server/src/models/prefork.rs`.
//!
//! What breaks: each client costs two system calls and a change of process more than in lesson 7, and goes to a worker
//! that may be busy with a silent one. Who deals should know how busy the hands are.
#![allow(unsafe_code)] // fork, and a descriptor that came as a number

use std::{
    env,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, FromRawFd, RawFd},
        unix::net::UnixStream,
    },
    process,
};

use nix::{
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
    unistd::{ForkResult, fork, getpid},
};

const WORKERS: usize = 2;

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let (ours, theirs) = UnixStream::pair()?; // socketpair(2): a pipe for both ways, and for descriptors
        // SAFETY: this process has one thread, so nothing that the child inherits is locked.
        if let ForkResult::Child = unsafe { fork()? } {
            drop((listener, ours, workers)); // the ends of the others too, or they would never read an end of file
            return work(&theirs);
        }
        workers.push(ours);
    }
    for turn in 0.. {
        let (client, address) = listener.accept()?;
        let worker = turn % WORKERS;
        println!("{address} is descriptor {} here, and goes to worker {worker}", client.as_raw_fd());
        if let Err(error) = pass(&workers[worker], &client) {
            println!("{address} is lost, worker {worker} is gone: {error}");
        }
    } // the parent's copy is dropped each time; the one on its way keeps the connection open
    Ok(())
}

/// Sends a descriptor, and one byte: a message of nothing but rights may be lost (unix(7)).
fn pass(worker: &UnixStream, client: &TcpStream) -> io::Result<()> {
    let rights = [client.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(worker.as_raw_fd(), &[IoSlice::new(b"!")], &message, MsgFlags::empty(), None)?;
    Ok(())
}

/// Serves whom the parent sends, until there is no parent.
fn work(parent: &UnixStream) -> io::Result<()> {
    while let Some(client) = receive(parent)? {
        println!("process {} has it as descriptor {}", getpid(), client.as_raw_fd());
        match echo(client) {
            Ok(bytes) => println!("process {} sent {bytes} bytes back", getpid()),
            Err(error) => println!("process {} lost it: {error}", getpid()),
        }
    }
    process::exit(0)
}

fn receive(parent: &UnixStream) -> io::Result<Option<TcpStream>> {
    let mut room = nix::cmsg_space!(RawFd);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(parent.as_raw_fd(), &mut bytes, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut rights = message.cmsgs()?.filter_map(|message| match message {
        ControlMessageOwned::ScmRights(rights) => rights.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(rights.next().map(|descriptor| unsafe { TcpStream::from_raw_fd(descriptor) }))
}

/// The conversation of lesson 3.
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
