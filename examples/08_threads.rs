//! Lesson 8: a thread for each client.
//!
//! The idea: a thread is a worker inside the process. It is made faster than a process, and whatever one thread writes
//! the others can read, so a counter needs no shared page. Nobody closes copies: there is one table of descriptors.
//!
//! Type, in two terminals:
//!     cargo run --example 08_threads
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! And a second client in a third terminal. Say `panic` in one of them, then `abort`.
//!
//! Predict before you run:
//!     1. Compare with lesson 5: which lines are new, and which are gone?
//!     2. One thread panics. Which clients are lost? And when one aborts, as a fault of memory would?
//!     3. A thousand silent clients: how much memory is that, of the process (VmSize) and of the machine (VmRSS)?
//!
//! Read next: `server/src/models/thread.rs`.
//!
//! What breaks: one fault ends all, where lesson 5 lost one client. And there are as many threads as clients, until there
//! are too many: lesson 9 has a few, and a queue before them.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::Instant,
};

static SERVED: AtomicUsize = AtomicUsize::new(0);

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (client, address) = listener.accept()?;
        let began = Instant::now();
        let talk = move || {
            match echo(client) {
                Ok(bytes) => println!("{address} left after {bytes} bytes"),
                Err(error) => println!("{address} was lost: {error}"),
            }
            println!("{} served", SERVED.fetch_add(1, Relaxed) + 1);
        };
        match thread::Builder::new().spawn(talk) {
            Ok(_) => {
                println!("{address} has a thread, made in {} us; {}", began.elapsed().as_micros(), size()?)
            }
            // The client went into the closure, and is hung up on with it.
            Err(error) => println!("{address} has no thread: {error}"),
        }
    }
}

/// The conversation of lesson 3, and two ways to die.
fn echo(mut client: TcpStream) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let mut total = 0;
    loop {
        let n = client.read(&mut buffer)?;
        match &buffer[..n] {
            [] => return Ok(total),
            b"panic\n" => panic!("as the client asked"), // unwinds this thread, which closes its client
            b"abort\n" => process::abort(),              // SIGABRT, for the process
            said => client.write_all(said)?,
        }
        total += n;
    }
}

/// What /proc/self/status (proc(5)) says of this process.
fn size() -> io::Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let told = status
        .lines()
        .filter(|line| ["Threads", "VmSize", "VmRSS"].iter().any(|name| line.starts_with(name)));
    Ok(told.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", "))
}
