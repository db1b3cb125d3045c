//! Lesson 5: a process for each client, and who closes what.
//!
//! The idea: `fork` returns twice, and afterwards both processes hold every descriptor. The child talks to its client and
//! has no use for the door; the parent goes back to the door and has no use for the client. A connection ends when the
//! *last* copy of its descriptor is closed, so each closes what is the other's.
//!
//! Type, in two terminals:
//!     cargo run --example 05_fork
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! And a second client in a third terminal. Then the same with `cargo run --example 05_fork 127.0.0.1:7007 keep`, whose
//! parent forgets to close.
//!
//! Predict before you run:
//!     1. One client says nothing. Is another served?
//!     2. The parent keeps its copy, the client half-closes (^D), and the child ends. What does the client see?
//!     3. `ps` after three clients have come and gone: how many processes are there, and in which state?
//!
//! Read next: `server/src/models/fork.rs` and `server/src/process.rs`, the only place that forks.
//!
//! What breaks: who ends stays as a zombie, until the parent asks how it ended; this one never asks. After enough clients
//! the system has no process left to give. Lesson 6 reaps.
#![allow(unsafe_code)] // fork

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process,
};

use nix::unistd::{ForkResult, fork, getpid};

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let address = words.first().map_or("127.0.0.1:7007", String::as_str);
    let forgets = words.get(1).is_some_and(|word| word == "keep");
    let mut kept = Vec::new();
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (client, address) = listener.accept()?;
        // SAFETY: this process has one thread, so nothing that the child inherits is locked.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                drop(listener); // or nobody could listen here again before this client leaves
                kept.clear(); // and the clients of others are none of its business either
                tell(address, echo(client));
                process::exit(0); // the child's life is this conversation: it must not go on to `accept`
            }
            Ok(ForkResult::Parent { child }) => {
                println!("{address} has process {child}; of my children {} are zombies", zombies()?);
                // The child has a copy. While this one is open, the client never hears that all was said.
                if forgets {
                    kept.push(client);
                } else {
                    drop(client);
                }
            }
            // Too many processes: this client is hung up on, by the drop, and the server goes on.
            Err(error) => println!("{address} has no process: {error}"),
        }
    }
}

fn tell(client: std::net::SocketAddr, told: io::Result<usize>) {
    match told {
        Ok(bytes) => println!("{client} left process {} after {bytes} bytes", getpid()),
        Err(error) => println!("{client} was lost: {error}"),
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

/// How many children have ended and were not asked how: state Z in /proc/PID/stat (proc(5)), whose fourth field is the
/// parent.
fn zombies() -> io::Result<usize> {
    let me = getpid().to_string();
    let is_mine = |stat: &String| {
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        fields.next() == Some("Z") && fields.next() == Some(&me)
    };
    let stats =
        fs::read_dir("/proc")?.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    Ok(stats.filter(is_mine).count())
}
