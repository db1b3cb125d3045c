//! Lesson 14: what a message between two processes costs.
//!
//! The idea: pipes, sockets and shared memory carry the same bytes. Through a pipe or a socket they are copied into the
//! kernel and out again, and the kernel wakes who waits. Shared memory is one copy less and wakes nobody: who waits there
//! must look, again and again.
//!
//! Type, in two terminals:
//!     cargo run --example 14_messages
//!     top
//! (start the second first, `top -d 0.5`: the program is quick)
//!
//! Predict before you run:
//!     1. Put in order: two pipes, a Unix socket pair, TCP over loopback, shared memory. What is the factor from first to last?
//!     2. What does the processor do while a message is on its way through a pipe? And through shared memory?
//!     3. All of it on one processor (`taskset -c 0 target/debug/examples/14_messages`): who wins now?
//!
//! Read next: `server/src/shared.rs` (memory), `server/src/handoff.rs` (a socket between processes).
//!
//! What breaks: a wait that does not sleep. It is the fastest while it has a processor to itself, and takes it from others.
//! The first server of the next part makes the same mistake, on purpose.
#![allow(unsafe_code)] // fork, and shared memory

use std::{
    array, hint,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    num::NonZeroUsize,
    os::unix::net::UnixStream,
    process,
    sync::atomic::{
        AtomicU8, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
    time::Instant,
};

use nix::{
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        resource::{UsageWho, getrusage},
        time::TimeValLike,
        wait::wait,
    },
    unistd::{ForkResult, fork},
};

const ROUNDS: u32 = 20_000;
const LENGTH: usize = 64;

fn main() -> io::Result<()> {
    let (there, back) = (io::pipe()?, io::pipe()?);
    measure("two pipes", (back.0, there.1), (there.0, back.1))?;
    let (here, there) = UnixStream::pair()?;
    measure("Unix socket pair", (&here, &here), (&there, &there))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let here = TcpStream::connect(listener.local_addr()?)?;
    let (there, _) = listener.accept()?;
    [&here, &there].into_iter().try_for_each(|end| end.set_nodelay(true))?;
    measure("TCP over loopback", (&here, &here), (&there, &there))?;
    let page = shared_page()?;
    let [here, there] = [0, 1].map(|mine| Memory { page, mine });
    measure("shared memory", (here, here), (there, there))
}

/// A child echoes, the parent asks: how long a message there and back takes, and what processors did for it. Each has
/// what it reads from, and what it writes to.
fn measure(how: &str, here: (impl Read, impl Write), there: (impl Read, impl Write)) -> io::Result<()> {
    let ((mut here_from, mut here_to), (mut there_from, mut there_to)) = (here, there);
    // SAFETY: this process has one thread, so nothing that the child inherits is locked.
    if let ForkResult::Child = unsafe { fork()? } {
        let mut message = [0; LENGTH];
        for _ in 0..ROUNDS {
            there_from.read_exact(&mut message)?;
            there_to.write_all(&message)?;
        }
        process::exit(0);
    }
    let (began, used) = (Instant::now(), cpu_us()?);
    let mut heard = [0; LENGTH];
    for round in 0..ROUNDS {
        let said = array::from_fn(|n| round.to_be_bytes()[n % 4]);
        here_to.write_all(&said)?;
        here_from.read_exact(&mut heard)?;
        assert_eq!(said, heard);
    }
    let took = began.elapsed().as_micros() as f64;
    wait()?; // what the child used counts when it has been waited for
    let (took, used) = (took / f64::from(ROUNDS), (cpu_us()? - used) as f64 / f64::from(ROUNDS));
    println!("{how:20} {took:7.2} us there and back, {used:7.2} us of processors");
    Ok(())
}

fn cpu_us() -> io::Result<i64> {
    let of = |who| getrusage(who).map(|usage| (usage.user_time() + usage.system_time()).num_microseconds());
    Ok(of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?)
}

/// A message, and whose turn it is to read it.
#[repr(C)]
struct Page {
    turn: AtomicUsize,
    message: [AtomicU8; LENGTH],
}

/// One side of the page.
#[derive(Clone, Copy)]
struct Memory {
    page: &'static Page,
    mine: usize,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for looks in 0_u32.. {
            // Acquire: whoever sees the turn sees the message that was written before it.
            if self.page.turn.load(Acquire) % 2 == self.mine {
                break;
            }
            if looks % 1000 == 999 { thread::yield_now() } else { hint::spin_loop() }
        }
        buffer.iter_mut().zip(&self.page.message).for_each(|(to, from)| *to = from.load(Relaxed));
        Ok(LENGTH)
    }
}

impl Write for Memory {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.page.message.iter().zip(buffer).for_each(|(to, from)| to.store(*from, Relaxed));
        self.page.turn.fetch_add(1, Release);
        Ok(LENGTH)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As in lesson 7.
fn shared_page() -> io::Result<&'static Page> {
    let length = NonZeroUsize::new(size_of::<Page>()).ok_or(io::ErrorKind::InvalidInput)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, which nothing else refers to.
    let page = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_SHARED)? };
    // SAFETY: long enough, aligned to a page, zeroed, and never unmapped; zeroes are a valid page.
    Ok(unsafe { page.cast::<Page>().as_ref() })
}
