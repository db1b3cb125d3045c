//! Bugs of those to whom the system refuses something.

use std::{io, process::exit, thread, time::Duration};

use nix::libc::{EMFILE, ENFILE};

use crate::{
    Twin,
    right::{accept, echo, listener, start},
};

pub const TWINS: &[Twin] = &[
    Twin { bug: "emfile-spin", transport: "tcp", implies: &[], serve: asks_again_at_once },
    Twin { bug: "emfile-recover", transport: "tcp", implies: &[], serve: gives_up },
    Twin { bug: "fork-refused", transport: "tcp", implies: &[], serve: must_have_a_thread },
    Twin { bug: "accept-error", transport: "tcp", implies: &[], serve: ends_with_one_client },
];

/// The client whom accept(2) has no descriptor for stays where it is, and so does the reason to accept.
fn asks_again_at_once(port: u16) {
    let listener = listener(port);
    loop {
        if let Ok((client, _)) = listener.accept() {
            start(client, echo);
        }
    }
}

/// Out of descriptors, it does not accept any more, and serves whom it has.
fn gives_up(port: u16) {
    let listener = listener(port);
    loop {
        match listener.accept() {
            Ok((client, _)) => start(client, echo),
            Err(error) if is_shortage(&error) => loop {
                thread::park();
            },
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Panics where there is no thread: `thread::spawn` does.
fn must_have_a_thread(port: u16) {
    let listener = listener(port);
    loop {
        let client = accept(&listener);
        let _ = client.set_nodelay(true);
        thread::spawn(move || echo(client));
    }
}

/// A client that went away before it was accepted takes the server with it.
fn ends_with_one_client(port: u16) {
    let listener = listener(port);
    loop {
        match listener.accept() {
            Ok((client, _)) => start(client, echo),
            Err(error) if is_shortage(&error) => thread::sleep(Duration::from_millis(20)),
            Err(error) => {
                eprintln!("accept: {error}");
                exit(1);
            }
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    [Some(EMFILE), Some(ENFILE)].contains(&error.raw_os_error())
}
