//! Exercise: datagrams, grouped by client. Lesson 27.
//!
//! This server works in batches: it hears all datagrams that are there, and answers them afterwards. It keeps them in one
//! list and answers the client that it heard last. Change it, where it says YOUR TURN, so that
//!
//! 1. the messages are kept by client: a map, its key the client's address, its value the list of what it has said;
//! 2. each client gets its own messages back, each as a datagram of its own, in the order in which they came;
//! 3. what was answered is not kept, so the memory is bounded.
//!
//! Its points: `make grade E=groups`

use std::{
    env,
    io::{self, ErrorKind::WouldBlock},
    net::{SocketAddr, UdpSocket},
};

/// After so many it answers, whoever else is waiting.
const BATCH: usize = 64;

// YOUR TURN (1): what is it a list *of*?
#[derive(Default)]
struct Groups {
    last: Option<SocketAddr>,
    messages: Vec<Vec<u8>>,
}

impl Groups {
    fn keep(&mut self, client: SocketAddr, message: Vec<u8>) {
        // YOUR TURN (1)
        self.last = Some(client);
        self.messages.push(message);
    }

    fn answer(&mut self, socket: &UdpSocket) {
        // YOUR TURN (2, 3)
        let Some(client) = self.last else { return };
        for message in self.messages.drain(..) {
            if let Err(error) = socket.send_to(&message, client) {
                println!("no answer to {client}: {error}");
            }
        }
    }
}

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let socket = UdpSocket::bind(address)?;
    println!("listening on {}", socket.local_addr()?);
    let mut groups = Groups::default();
    let mut buffer = [0; 65_507];
    loop {
        socket.set_nonblocking(false)?; // sleeps for the first of a batch, and for that alone
        for _ in 0..BATCH {
            match socket.recv_from(&mut buffer) {
                Ok((length, client)) => groups.keep(client, buffer[..length].to_vec()),
                Err(error) if error.kind() == WouldBlock => break,
                Err(error) => return Err(error),
            }
            socket.set_nonblocking(true)?;
        }
        groups.answer(&socket);
    }
}
