//! Something outlives its connection: every second one, so that a few of them do not use up all there is.

use std::{
    io, mem,
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use crate::{
    Twin,
    right::{accept, answer, echo, listener, threads},
};

pub const TWINS: &[Twin] = &[
    Twin { bug: "fd-leak", transport: "tcp", implies: &[], serve: |port| threads(port, forgets_to_close) },
    Twin { bug: "thread-leak", transport: "tcp", implies: &[], serve: |port| threads(port, stays) },
    Twin { bug: "thread-leak/stack", transport: "tcp", implies: &[], serve: neither_joined_nor_detached },
];

/// Whether it is a second one's turn.
pub fn every_second() -> bool {
    static TURNS: AtomicUsize = AtomicUsize::new(0);
    TURNS.fetch_add(1, Relaxed) % 2 == 1
}

/// Ends the conversation, which is not the descriptor.
fn forgets_to_close(client: TcpStream) -> io::Result<()> {
    answer(&client)?;
    let _ = client.shutdown(Shutdown::Both);
    if every_second() {
        mem::forget(client);
    }
    Ok(())
}

/// The thread ends, and nobody says that its stack is not wanted any more: std would detach a thread whose handle is
/// dropped (pthread_detach(3)).
fn neither_joined_nor_detached(port: u16) {
    let listener = listener(port);
    loop {
        let client = accept(&listener);
        let _ = client.set_nodelay(true);
        mem::forget(thread::Builder::new().spawn(move || echo(client)));
    }
}

/// The thread waits for work that nobody gives it.
fn stays(client: TcpStream) -> io::Result<()> {
    echo(client)?;
    if every_second() {
        loop {
            thread::park();
        }
    }
    Ok(())
}
