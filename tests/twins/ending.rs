//! Bugs of signals and of ends.

use std::process::exit;

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    signal::SigSet,
};

use crate::{
    Twin,
    right::{QUEUE, accept, echo, listener, listening, start, threads, threads_on},
};

pub const TWINS: &[Twin] = &[
    Twin { bug: "eintr", transport: "tcp", implies: &[], serve: by_epoll },
    Twin { bug: "restart", transport: "tcp", implies: &[], serve: without_reuse },
    Twin { bug: "drain", transport: "tcp", implies: &[], serve: without_a_handler },
];

/// Waits by epoll_wait(2), which fails with EINTR also where the process was only stopped and goes on.
fn by_epoll(port: u16) {
    let listener = listener(port);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
    loop {
        if let Err(error) = epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE) {
            eprintln!("epoll_wait: {error}");
            exit(1);
        }
        start(accept(&listener), echo);
    }
}

/// Forgets SO_REUSEADDR.
fn without_reuse(port: u16) {
    threads_on(&listening((std::net::Ipv4Addr::LOCALHOST, port).into(), false, QUEUE), echo);
}

/// Leaves SIGTERM to its default action: the end, whoever waits for an answer.
fn without_a_handler(port: u16) {
    SigSet::empty().thread_set_mask().unwrap();
    threads(port, echo);
}
