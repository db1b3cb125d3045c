//! Datagrams, grouped by client: what `exercises/groups.rs` asked for.

use std::{
    collections::BTreeMap,
    env,
    io::{self, ErrorKind::WouldBlock},
    net::{SocketAddr, UdpSocket},
};

/// After so many it answers, whoever else is waiting.
const BATCH: usize = 64;

/// What each client has said and was not answered yet, in its order.
#[derive(Default)]
struct Groups(BTreeMap<SocketAddr, Vec<Vec<u8>>>);

impl Groups {
    fn keep(&mut self, client: SocketAddr, message: Vec<u8>) {
        self.0.entry(client).or_default().push(message);
    }

    fn answer(&mut self, socket: &UdpSocket) {
        while let Some((client, messages)) = self.0.pop_first() {
            for message in messages {
                if let Err(error) = socket.send_to(&message, client) {
                    println!("no answer to {client}: {error}");
                }
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
