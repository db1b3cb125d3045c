//! Bugs of those who have children. The only fork of the twins is here.

#![allow(unsafe_code)]

use std::{net::TcpStream, process::exit, thread, time::Duration};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::Signal,
        wait::{WaitPidFlag, wait, waitpid},
    },
    unistd::{ForkResult, fork, pause},
};

use crate::{
    Twin,
    leaks::every_second,
    right::{accept, echo, listener, threads_on},
};

pub const TWINS: &[Twin] = &[
    Twin { bug: "zombies", transport: "tcp", implies: &[], serve: waits_for_one },
    Twin { bug: "process-leak", transport: "tcp", implies: &[], serve: children_that_stay },
    Twin { bug: "worker-killed", transport: "tcp", implies: &[], serve: pool_that_nobody_refills },
];

/// Has a child do this; it ends after it, and with us. Where there is no child, nothing is done.
fn child(work: impl FnOnce()) {
    // SAFETY: the other threads of this process wait in system calls, for a signal or for a child, and hold no lock.
    if let Ok(ForkResult::Child) = unsafe { fork() } {
        let _ = set_pdeathsig(Signal::SIGKILL);
        work();
        exit(0);
    }
}

fn converse(client: TcpStream) {
    let _ = client.set_nodelay(true);
    let _ = echo(client);
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

fn bury_the_dead() -> ! {
    loop {
        if wait().is_err() {
            thread::sleep(Duration::from_millis(10)); // there are no children just now
        }
    }
}
