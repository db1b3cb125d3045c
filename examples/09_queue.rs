//! Lesson 9: a bounded queue between one who accepts and a few who serve.
//!
//! The idea: producer and consumer. The acceptor puts clients into a queue, the workers take them out; a lock guards the
//! queue, and two conditions say when to look again: *not empty* and *not full*. What to do when it is full is the
//! decision that every server takes, knowingly or not: wait, or refuse.
//!
//! Type, in two terminals:
//!     cargo run --example 09_queue
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! Two workers, two places in the queue: start five clients. Then end it, and the
//! same with `cargo run --example 09_queue 127.0.0.1:7007 reject`.
//!
//! Predict before you run:
//!     1. Three silent clients are there. How many are served, how many are in the queue, and who knows?
//!     2. The fifth client, when the acceptor waits: what does it see? And the sixth?
//!     3. The fifth client, when the acceptor refuses?
//!
//! Read next: `server/src/queue.rs` and `server/src/models/thread_pool.rs`.
//!
//! What breaks: nothing, as long as everybody takes the lock and waits in a loop. Leave out either and it fails once a
//! week: lessons 10 and 11.

use std::{
    collections::VecDeque,
    env,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

const WORKERS: usize = 2;
const PLACES: usize = 2;

type Waiting = (TcpStream, SocketAddr);

#[derive(Default)]
struct Queue {
    clients: Mutex<VecDeque<Waiting>>,
    not_empty: Condvar,
    not_full: Condvar,
}

impl Queue {
    /// Python's `put`: waits for a place.
    fn put(&self, client: Waiting) -> usize {
        // A wait may end for no reason, and another may have been quicker: so `wait_while`, and never an `if`.
        let is_full = |clients: &mut VecDeque<_>| clients.len() == PLACES;
        let clients = self.not_full.wait_while(self.lock(), is_full).unwrap_or_else(PoisonError::into_inner);
        self.put_last(clients, client)
    }

    /// Python's `put_nowait`: gives it back when there is no place.
    fn try_put(&self, client: Waiting) -> Result<usize, Waiting> {
        let clients = self.lock();
        if clients.len() == PLACES { Err(client) } else { Ok(self.put_last(clients, client)) }
    }

    fn put_last(&self, mut clients: MutexGuard<'_, VecDeque<Waiting>>, client: Waiting) -> usize {
        clients.push_back(client);
        self.not_empty.notify_one();
        clients.len()
    }

    /// Python's `get`: waits for a client.
    fn get(&self) -> Waiting {
        loop {
            let empty = |clients: &mut VecDeque<_>| clients.is_empty();
            let mut clients =
                self.not_empty.wait_while(self.lock(), empty).unwrap_or_else(PoisonError::into_inner);
            if let Some(client) = clients.pop_front() {
                self.not_full.notify_one();
                return client;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let listener = TcpListener::bind(words.first().map_or("127.0.0.1:7007", String::as_str))?;
    let refuses = words.get(1).is_some_and(|word| word == "reject");
    println!("listening on {}", listener.local_addr()?);
    let queue = Queue::default();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let queue = &queue;
            scope.spawn(move || {
                loop {
                    serve(worker, queue.get());
                }
            });
        }
        loop {
            let client = listener.accept()?;
            let address = client.1;
            let put = if refuses { queue.try_put(client) } else { Ok(queue.put(client)) };
            match put {
                Ok(depth) => println!("{address} is in the queue, {depth} deep"),
                Err(_hung_up_on) => println!("{address} is refused: the queue is full"),
            }
        }
    })
}

fn serve(worker: usize, (client, address): Waiting) {
    println!("{address} is served by worker {worker}");
    match echo(client) {
        Ok(bytes) => println!("{address} left after {bytes} bytes"),
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
