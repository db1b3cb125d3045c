//! Lesson 26: ending well.
//!
//! The idea: SIGTERM asks. A server that ends in order closes its door, so that nobody new comes in, answers what was
//! said, lets its clients finish, and waits for them only so long. A signal may come between any two instructions, so its
//! handler does one thing: it writes a byte into a pipe, and the loop sees a descriptor that is ready.
//!
//! Type, in two terminals:
//!     cargo run --example 26_drain
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! Then `pkill -TERM 26_drain` in a third, while the client is there; and once more with `pkill -9 26_drain`. To see what happens to
//! what was said and not read yet: `pkill -STOP`, say a line, `pkill -TERM`, `pkill -CONT`.
//!
//! Predict before you run:
//!     1. ^C, and the client types on: is it answered? For how long? Does a new client get in?
//!     2. A client has sent 1,000 bytes that were not read yet: what does it get at ^C? And at `kill -9`?
//!     3. Why does the door close *first*?
//!
//! Read next: `server/src/shutdown.rs`.
//!
//! What breaks: who waited before the door is hung up on, for all that it had connected in time. The models accept once
//! more before they close. And what is in memory is lost: lesson 27 tells it first.

use std::{
    env,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use signal_hook::{consts::TERM_SIGNALS, low_level::pipe};

/// For how long clients may finish.
const DRAIN: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Clients {
    here: Mutex<Vec<(SocketAddr, TcpStream)>>,
    left: Condvar,
}

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let (signals, handler) = UnixStream::pair()?;
    for signal in TERM_SIGNALS {
        pipe::register(*signal, handler.try_clone()?)?;
    }
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    let clients = Clients::default();
    thread::scope(|scope| {
        loop {
            let mut watched =
                [listener.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut watched, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue, // the handler ran; what it wrote is seen the next time
                ready => ready?,
            };
            if watched[1].any() == Some(true) {
                break;
            }
            let (client, address) = listener.accept()?;
            clients.lock().push((address, client.try_clone()?));
            let clients = &clients;
            let serve = move || {
                println!("{address} left: {:?}", echo(client));
                clients.leaves(address);
            };
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, serve) {
                println!("{address} has no thread: {error}");
                clients.leaves(address);
            }
        }
        drop(listener);
        println!("asked to end; clients here: {}", clients.lock().len());
        clients.drain();
        Ok(())
    })
}

impl Clients {
    fn leaves(&self, address: SocketAddr) {
        self.lock().retain(|(other, _)| *other != address);
        self.left.notify_one();
    }

    /// Waits for all to leave, and then for no one.
    fn drain(&self) {
        let are_here = |here: &mut Vec<_>| !here.is_empty();
        let waited = self.left.wait_timeout_while(self.lock(), DRAIN, are_here);
        let (here, _) = waited.unwrap_or_else(PoisonError::into_inner);
        println!("hung up on, since they stayed for longer than {DRAIN:?}: {}", here.len());
        for (_, client) in here.iter() {
            let _ = client.shutdown(Shutdown::Both); // their threads' `read` returns 0
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(SocketAddr, TcpStream)>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
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
