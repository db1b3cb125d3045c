//! Bugs by which one client suffers from another.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::Mutex,
    thread,
};

use crate::{
    Twin,
    events::{Guest, Next, events},
    right::{accept, echo, listener, start, threads},
};

pub const TWINS: &[Twin] = &[
    Twin { bug: "silent-client", transport: "tcp", implies: &[], serve: hear_first_then_hire },
    Twin {
        bug: "stuck-writer",
        transport: "tcp",
        implies: &[],
        serve: |port| events(port, block_in_the_loop),
    },
    Twin { bug: "backpressure", transport: "tcp", implies: &[], serve: |port| events(port, keep_all) },
    Twin { bug: "crosstalk", transport: "tcp", implies: &[], serve: |port| threads(port, share_a_buffer) },
];

/// Waits for a client's first byte before it accepts another one.
fn hear_first_then_hire(port: u16) {
    let listener = listener(port);
    loop {
        let client = accept(&listener);
        if client.peek(&mut [0]).is_ok() {
            start(client, echo);
        }
    }
}

/// Writes as if there was one client.
fn block_in_the_loop(guest: &mut Guest) -> io::Result<Next> {
    let mut buffer = [0; 64 << 10];
    match guest.stream.read(&mut buffer)? {
        0 => Ok(Next::Close),
        n => {
            guest.stream.set_nonblocking(false)?;
            guest.stream.write_all(&buffer[..n])?;
            guest.stream.set_nonblocking(true)?;
            Ok(Next::Read)
        }
    }
}

/// Reads whatever comes, however much it owes already.
fn keep_all(guest: &mut Guest) -> io::Result<Next> {
    guest.pay()?;
    if !guest.has_ended {
        match guest.read() {
            Ok(0) => guest.has_ended = true,
            Ok(_) => guest.pay()?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(match (guest.has_ended, guest.owed.is_empty()) {
        (true, true) => Next::Close,
        (true, false) => Next::Write,
        (false, true) => Next::Read,
        (false, false) => Next::Both,
    })
}

/// What every thread reads into.
static BUFFER: Mutex<[u8; 64 << 10]> = Mutex::new([0; 64 << 10]);

/// One buffer for all clients: a static one, in C. It is locked while it is touched, but another client's bytes may
/// be in it by the time that these are sent.
fn share_a_buffer(mut client: TcpStream) -> io::Result<()> {
    loop {
        let mut received = vec![0; 64 << 10];
        let n = client.read(&mut received)?;
        if n == 0 {
            return client.shutdown(Shutdown::Write);
        }
        BUFFER.lock().unwrap()[..n].copy_from_slice(&received[..n]);
        thread::yield_now();
        let sent = BUFFER.lock().unwrap()[..n].to_vec();
        client.write_all(&sent)?;
    }
}
