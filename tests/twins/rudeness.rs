//! Bugs that end a server when a client is rude.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    process::exit,
    sync::{Arc, atomic::AtomicBool},
};

use nix::unistd::write;
use signal_hook::{consts::SIGPIPE, flag::register_conditional_default};

use crate::{Twin, right::threads};

pub const TWINS: &[Twin] = &[
    Twin { bug: "reset", transport: "tcp", implies: &[], serve: |port| threads(port, give_up) },
    Twin { bug: "sigpipe", transport: "tcp", implies: &[], serve: unprepared },
];

/// Takes any error of recv for its own end.
fn give_up(mut client: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return client.shutdown(Shutdown::Write),
            Ok(n) => client.write_all(&buffer[..n])?,
            Err(error) => {
                eprintln!("recv: {error}");
                exit(1)
            }
        }
    }
}

/// Leaves SIGPIPE what it is in C, where Rust ignores it: the end of the process.
fn unprepared(port: u16) {
    register_conditional_default(SIGPIPE, Arc::new(AtomicBool::new(true))).unwrap();
    threads(port, write_all);
}

/// As in C: std would ask for no signal (MSG_NOSIGNAL, send(2)).
fn write_all(mut client: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return client.shutdown(Shutdown::Write);
        }
        let mut unsent = &buffer[..n];
        while !unsent.is_empty() {
            match write(&client, unsent) {
                Ok(sent) => unsent = &unsent[sent..],
                Err(error) if io::Error::from(error).kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
