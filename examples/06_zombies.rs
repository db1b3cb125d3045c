//! Lesson 6: zombies, and the signal that announces them.
//!
//! The idea: a process that has ended stays in the table until its parent has asked how: its exit status must be
//! somewhere. The kernel says so by SIGCHLD. Signals do not queue: of five children that end while one SIGCHLD is
//! pending, one signal tells. So the handler asks until nobody is left to ask for.
//!
//! Type, in two terminals:
//!     cargo run --example 06_zombies
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! Then with several clients at once: stop the parent (`kill -STOP`, its number is told), let all clients leave, and let
//! it go on (`kill -CONT`). And the same with `cargo run --example 06_zombies 127.0.0.1:7007 once`.
//!
//! Predict before you run:
//!     1. Five clients leave while the parent is stopped. How many signals does it get?
//!     2. How many zombies are left if the handler asks once for each signal? When do these go away?
//!     3. A signal comes while the parent sleeps in `accept`. What does accept(2) return, and why not here?
//!
//! Read next: `reap` in `server/src/process.rs`.
//!
//! What breaks: a process for each client is made when the client is already waiting, and there is one for each, however
//! many come. Lesson 7 makes a few beforehand.
#![allow(unsafe_code)] // fork, and a signal's handler

use std::{
    env,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork, getpid},
};

static ONCE: AtomicBool = AtomicBool::new(false);
static SIGNALS: AtomicUsize = AtomicUsize::new(0);
static REAPED: AtomicUsize = AtomicUsize::new(0);

/// A handler may do little, for it comes between any two instructions: waitpid(2) and counting are allowed
/// (signal-safety(7)), printing is not.
extern "C" fn reap(_: i32) {
    let errno = Errno::last(); // whom the signal interrupted may be about to read it
    SIGNALS.fetch_add(1, Relaxed);
    while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) =
        waitpid(None, Some(WaitPidFlag::WNOHANG))
    {
        REAPED.fetch_add(1, Relaxed);
        if ONCE.load(Relaxed) {
            break;
        }
    }
    errno.set();
}

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let address = words.first().map_or("127.0.0.1:7007", String::as_str);
    ONCE.store(words.get(1).is_some_and(|word| word == "once"), Relaxed);
    // SA_RESTART: a call that slept when the signal came goes on sleeping; without it accept(2) returns EINTR.
    let action = SigAction::new(
        SigHandler::Handler(reap),
        SaFlags::SA_NOCLDSTOP | SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: what the handler does is safe at any time.
    unsafe { sigaction(Signal::SIGCHLD, &action)? };
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    println!("process {}", getpid());
    let mut forked = 0;
    loop {
        let (client, address) = listener.accept()?;
        let began = Instant::now();
        // SAFETY: this process has one thread, so nothing that the child inherits is locked.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                drop(listener);
                serve(client, address);
                process::exit(0);
            }
            Ok(ForkResult::Parent { child }) => {
                forked += 1;
                let (signals, reaped) = (SIGNALS.load(Relaxed), REAPED.load(Relaxed));
                println!("{address} has process {child}, made in {} us", began.elapsed().as_micros());
                println!("forked {forked}, signals {signals}, reaped {reaped}");
            }
            Err(error) => println!("{address} has no process: {error}"),
        } // here the parent's copy of `client` is dropped, which closes it
    }
}

fn serve(client: TcpStream, address: SocketAddr) {
    match echo(client) {
        Ok(bytes) => println!("{address} left process {} after {bytes} bytes", getpid()),
        Err(error) => println!("{address} was lost: {error}"),
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
