//! Bugs of one conversation.

use std::{
    io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write},
    mem,
    net::{Shutdown, TcpStream},
};

use crate::{
    Twin,
    events::{Guest, Next, events, on_edges},
    right::threads,
};

pub const TWINS: &[Twin] = &[
    Twin { bug: "bytes", transport: "tcp", implies: &[], serve: |port| threads(port, by_lines) },
    Twin {
        bug: "segments",
        transport: "tcp",
        implies: &[],
        serve: |port| threads(port, a_message_a_receive),
    },
    Twin {
        bug: "partial-write",
        transport: "tcp",
        implies: &[],
        serve: |port| events(port, write_and_forget),
    },
    Twin {
        bug: "half-close",
        transport: "tcp",
        implies: &[],
        serve: |port| events(port, |guest| close_at_the_fin(guest, 8 << 20)),
    },
    Twin {
        bug: "half-close/little",
        transport: "tcp",
        implies: &[],
        serve: |port| events(port, |guest| close_at_the_fin(guest, 64 << 10)),
    },
    Twin { bug: "eof", transport: "tcp", implies: &["fd-leak"], serve: |port| threads(port, never_close) },
    Twin { bug: "edge-trigger", transport: "tcp", implies: &[], serve: |port| on_edges(port, read_once) },
];

/// Waits for a line, and takes what it reads for text.
fn by_lines(client: TcpStream) -> io::Result<()> {
    let (mut lines, mut answers) = (BufReader::new(&client), BufWriter::new(&client));
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        answers.write_all(line.as_bytes())?;
        if !lines.buffer().contains(&b'\n') {
            answers.flush()?;
        }
        line.clear();
    }
    client.shutdown(Shutdown::Write)
}

/// Takes what one receive brings for one message, which ends with its newline.
fn a_message_a_receive(mut client: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return client.shutdown(Shutdown::Write);
        }
        let message = buffer[..n].split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        client.write_all(message)?;
    }
}

/// Does not look at how much a write took.
fn write_and_forget(guest: &mut Guest) -> io::Result<Next> {
    let mut buffer = [0; 64 << 10];
    match guest.stream.read(&mut buffer)? {
        0 => Ok(Next::Close),
        n => match guest.stream.write(&buffer[..n]) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(Next::Read),
        },
    }
}

/// Keeps what a short write leaves, and reads on while that is not too much; but closes at the client's FIN, whatever
/// it still owes.
fn close_at_the_fin(guest: &mut Guest, enough: usize) -> io::Result<Next> {
    guest.pay()?;
    while guest.owed.len() < enough {
        match guest.read() {
            Ok(0) => return Ok(Next::Close),
            Ok(_) => guest.pay()?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(if guest.owed.is_empty() { Next::Read } else { Next::Both });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Next::Write)
}

/// Leaves the loop at the end, and forgets to close.
fn never_close(mut client: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match client.read(&mut buffer)? {
            0 => break,
            n => client.write_all(&buffer[..n])?,
        }
    }
    mem::forget(client);
    Ok(())
}

/// Reads once for each edge. Only the client's FIN, which it is told of, makes it read to the end.
fn read_once(guest: &mut Guest, fin_seen: bool) -> io::Result<Next> {
    let mut buffer = [0; 4 << 10];
    loop {
        guest.pay()?;
        if !guest.owed.is_empty() {
            return Ok(Next::Both);
        }
        match guest.stream.read(&mut buffer)? {
            0 => return Ok(Next::Close),
            n => guest.owed.extend(&buffer[..n]),
        }
        if !fin_seen {
            guest.pay()?;
            return Ok(Next::Both);
        }
    }
}
