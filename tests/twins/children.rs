//! Bugs of those who have children. The only fork of the twins is here.

#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    io::{self, Read, Write, pipe},
    net::TcpStream,
    process::exit,
    sync::Mutex,
    thread,
    time::Duration,
};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::Signal,
        wait::{WaitPidFlag, wait, waitpid},
    },
    unistd::{ForkResult, Pid, fork, pause},
};

use crate::{
    Twin,
    leaks::every_second,
    right::{accept, echo, listener, threads_on},
};

pub const TWINS: &[Twin] = &[
    Twin { bug: "inherited", transport: "tcp", implies: &[], serve: closes_after_its_child },
    Twin { bug: "zombies", transport: "tcp", implies: &[], serve: waits_for_one },
    Twin { bug: "process-leak", transport: "tcp", implies: &[], serve: children_that_stay },
    Twin { bug: "worker-killed", transport: "tcp", implies: &[], serve: pool_that_nobody_refills },
    Twin { bug: "worker-killed/lock", transport: "tcp", implies: &[], serve: pool_with_a_token },
];

/// Has a child do this; it ends after it, and with us. Where there is no child, nothing is done.
fn child(work: impl FnOnce()) -> Option<Pid> {
    // SAFETY: the other threads of this process wait in system calls, for a signal or for a child, and hold no lock
    // that a child asks for.
    match unsafe { fork() }.ok()? {
        ForkResult::Parent { child } => Some(child),
        ForkResult::Child => {
            let _ = set_pdeathsig(Signal::SIGKILL);
            work();
            exit(0)
        }
    }
}

fn converse(client: TcpStream) {
    let _ = client.set_nodelay(true);
    let _ = echo(client);
}

/// The clients whose children have not ended.
static CLIENTS: Mutex<BTreeMap<Pid, TcpStream>> = Mutex::new(BTreeMap::new());

/// Closes a client's socket when its child has ended: who is forked meanwhile inherits it, and keeps it open.
fn closes_after_its_child(port: u16) {
    thread::spawn(|| {
        loop {
            match wait() {
                Ok(ended) => drop(ended.pid().and_then(|pid| CLIENTS.lock().unwrap().remove(&pid))),
                Err(_) => thread::sleep(Duration::from_millis(10)), // there are no children just now
            }
        }
    });
    let listener = listener(port);
    loop {
        let client = accept(&listener);
        let _ = client.set_nodelay(true);
        let mut clients = CLIENTS.lock().unwrap(); // until it is among them
        if let Some(pid) = child(|| drop(send_back(&client))) {
            clients.insert(pid, client);
        }
    }
}

/// Sends back what comes. Its end is for whoever holds the socket to say.
fn send_back(mut client: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match client.read(&mut buffer)? {
            0 => return Ok(()),
            n => client.write_all(&buffer[..n])?,
        }
    }
}

/// Waits for one child whenever a client comes: of those who end together all but one stay.
fn waits_for_one(port: u16) {
    let listener = listener(port);
    loop {
        let client = accept(&listener);
        let _ = waitpid(None, Some(WaitPidFlag::WNOHANG));
        child(move || converse(client));
    }
}

/// Every second child waits for another client, whom nobody gives it.
fn children_that_stay(port: u16) {
    thread::spawn(|| bury_the_dead());
    let listener = listener(port);
    loop {
        let (client, is_to_stay) = (accept(&listener), every_second());
        child(move || {
            converse(client);
            if is_to_stay {
                pause();
            }
        });
    }
}

/// Two workers, with a thread for each client; who dies is buried, and not missed.
fn pool_that_nobody_refills(port: u16) {
    let listener = listener(port);
    for _ in 0..2 {
        child(|| threads_on(&listener, echo));
    }
    bury_the_dead();
}

/// Sixteen workers, and another for each that dies. Whoever has the token, a byte in a pipe, accepts; who dies with it takes
/// it along.
fn pool_with_a_token(port: u16) {
    let listener = listener(port);
    let (mut lock, mut unlock) = pipe().unwrap();
    unlock.write_all(b"!").unwrap();
    let mut start = || {
        child(|| {
            loop {
                lock.read_exact(&mut [0]).unwrap();
                let client = accept(&listener);
                unlock.write_all(b"!").unwrap();
                converse(client);
            }
        })
    };
    for _ in 0..16 {
        start();
    }
    loop {
        if wait().is_ok() {
            start();
        }
    }
}

fn bury_the_dead() -> ! {
    loop {
        if wait().is_err() {
            thread::sleep(Duration::from_millis(10)); // there are no children just now
        }
    }
}
