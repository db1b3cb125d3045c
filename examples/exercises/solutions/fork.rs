//! A process for each client: what `exercises/fork.rs` asked for.
#![allow(unsafe_code)] // fork

use std::{
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process,
};

use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::{ForkResult, fork},
};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    // Who does not want to know how its children ended may say so beforehand: then none becomes a zombie (wait(2)).
    let nobody_asks = SigAction::new(SigHandler::SigIgn, SaFlags::SA_NOCLDWAIT, SigSet::empty());
    // SAFETY: no handler is installed, so nothing can run at a bad time.
    unsafe { sigaction(Signal::SIGCHLD, &nobody_asks)? };
    loop {
        let (client, address) = listener.accept()?;
        // SAFETY: this process has one thread, so nothing that the child inherits is locked.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                drop(listener);
                let served = echo(client);
                process::exit(i32::from(served.is_err()));
            }
            Ok(ForkResult::Parent { .. }) => drop(client),
            Err(error) => println!("{address} has no process: {error}"),
        }
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
