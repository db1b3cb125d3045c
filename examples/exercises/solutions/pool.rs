//! A pool of threads and a bounded queue: what `exercises/pool.rs` asked for.

use std::{
    collections::VecDeque,
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

const WORKERS: usize = 64;
const PLACES: usize = 16;

#[derive(Default)]
struct Queue {
    clients: Mutex<VecDeque<TcpStream>>,
    changed: Condvar,
}

impl Queue {
    fn put(&self, client: TcpStream) {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |clients: &mut VecDeque<_>| clients.len() == PLACES;
        let mut clients = self.changed.wait_while(clients, is_full).unwrap_or_else(PoisonError::into_inner);
        clients.push_back(client);
        // All, since workers and the acceptor wait for the same thing to change; two conditions would wake fewer.
        self.changed.notify_all();
    }

    fn get(&self) -> Option<TcpStream> {
        let clients = self.clients.lock().ok()?;
        let mut clients = self.changed.wait_while(clients, |clients| clients.is_empty()).ok()?;
        self.changed.notify_all();
        clients.pop_front()
    }
}

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    let queue = Queue::default();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(client) = queue.get() {
                    serve(client)
                }
            });
        }
        loop {
            queue.put(listener.accept()?.0);
        }
    })
}

fn serve(client: TcpStream) {
    if let Err(error) = echo(client) {
        println!("a client was lost: {error}");
    }
}

fn echo(mut client: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..n])?;
    }
}
