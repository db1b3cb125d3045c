//! Lesson 7: a pool of processes, and memory that they share.
//!
//! The idea: fork before the clients come. Four workers sleep in `accept` on the same door, and the kernel wakes one for
//! each client. The parent serves nobody: it waits for workers that end, and makes others. What a worker counts in a
//! variable stays its own, for after fork each has its own memory; a page that was mapped as *shared* before is one for all.
//!
//! Type, in two terminals:
//!     cargo run --example 07_prefork
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! Then kill a worker (`kill -9`, the numbers are told) while its client is there.
//!
//! Predict before you run:
//!     1. Eight clients come and go, one after the other. Do all four workers get some?
//!     2. `mine` is an ordinary variable, `ours` is on the shared page. What does each worker print?
//!     3. Four clients connect and say nothing. What does a fifth see?
//!
//! Read next: `server/src/models/prefork.rs`, and `server/src/scoreboard.rs` for the page.
//!
//! What breaks: there are as many clients at once as workers. And counting on the shared page went well only because
//! the counters are atomic: lesson 10.
#![allow(unsafe_code)] // fork, and shared memory

use std::{
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    num::NonZeroUsize,
    process,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use nix::{
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        prctl,
        signal::Signal,
        wait::wait,
    },
    unistd::{ForkResult, Pid, fork, getpid},
};

const WORKERS: usize = 4;

/// How many clients each worker has served.
type Served = [AtomicU64; WORKERS];

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    let served = shared_page()?;
    let mut workers: Vec<Pid> =
        (0..WORKERS).map(|n| worker(n, &listener, served)).collect::<io::Result<_>>()?;
    println!("workers: {workers:?}");
    loop {
        let ended = wait()?; // sleeps until a child has ended, and takes its status: no zombies, and no signals needed
        println!("ended: {ended:?}");
        if let Some(n) = workers.iter().position(|pid| ended.pid() == Some(*pid)) {
            workers[n] = worker(n, &listener, served)?;
            println!("worker {n} is now process {}", workers[n]);
        }
    }
}

/// A page of zeroes that stays one page after fork (mmap(2), `MAP_SHARED`).
fn shared_page() -> io::Result<&'static Served> {
    let length = NonZeroUsize::new(size_of::<Served>()).ok_or(io::ErrorKind::InvalidInput)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, which nothing else refers to.
    let page = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_SHARED)? };
    // SAFETY: long enough, aligned to a page, zeroed, and never unmapped; zero is a valid counter.
    Ok(unsafe { page.cast::<Served>().as_ref() })
}

/// Makes worker `n`; returns in the parent alone.
fn worker(n: usize, listener: &TcpListener, served: &Served) -> io::Result<Pid> {
    // SAFETY: this process has one thread, so nothing that the child inherits is locked.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let error = prctl::set_pdeathsig(Signal::SIGTERM) // whose parent dies does not stay
                .map_err(io::Error::from)
                .and_then(|()| work(n, listener, served));
            println!("worker {n}: {error:?}");
            process::exit(1);
        }
    }
}

fn work(n: usize, listener: &TcpListener, served: &Served) -> io::Result<()> {
    let mut mine = 0;
    loop {
        let (client, address) = listener.accept()?; // all sleep here, one is woken
        match echo(client) {
            Ok(bytes) => println!("{address} left worker {n}, process {}, after {bytes} bytes", getpid()),
            Err(error) => println!("{address} was lost: {error}"),
        }
        mine += 1;
        served[n].fetch_add(1, Relaxed);
        println!("worker {n}: mine {mine}, ours {:?}", served.each_ref().map(|count| count.load(Relaxed)));
    }
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
