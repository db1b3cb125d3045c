//! A ring a core: it asks the kernel to do things, and hears when they are done.
//!
//! A multishot accept and, for each client, a multishot receive stay armed; what they bring lies in buffers
//! that all clients of the ring share. The sends of a round, the next one's wait and whatever else was asked
//! for are one system call. Of datagrams a multishot receive brings all that come, and one more system call answers
//! them.
//!
//! See also: io_uring(7), io_uring_multishot(7); Axboe, "Efficient IO with io_uring". The loop itself is
//! `completion`, the ring is `ring`.

use std::io;

use crate::{
    completion,
    config::Isolate,
    model::{AtOnce, Context, Model, Serve, Way},
    pool, ring,
    socket::{Datagrams, Listener},
    stand_in::{Acceptor, Answerer},
};

pub const MODEL: Model = Model {
    name: "io-uring",
    summary: "a ring a core: multishot accept and receive, provided buffers",
    at_once: AtOnce::ManyAWorker,
    is_loop: true,
    isolates: &[Isolate::Threads, Isolate::Processes],
    tcp: &[Way { dispatch: "", serve: Serve::OneEach(serve) }],
    udp: &[Way { dispatch: "", serve: Serve::OneEach(serve_datagrams) }],
    supported: ring::supported,
};

/// The listeners were opened once, and are held here: the queue of a worker that dies is served by the others, or by its
/// successor.
fn serve(listeners: Vec<Listener>, ctx: &Context) -> io::Result<()> {
    let mut acceptor = Acceptor::new(&listeners, Listener::accept, ctx)?;
    let strays = acceptor.hand()?;
    pool::run(ctx, &mut acceptor, |n| {
        let (own, strays) = (listeners[n].try_clone()?, strays.try_clone()?);
        Ok(move || completion::serve(own, strays, ctx, ctx.board.worker(n)))
    })
}

/// The set of sockets stands still: a client stays with its socket, whoever answers there.
fn serve_datagrams(sockets: Vec<Datagrams>, ctx: &Context) -> io::Result<()> {
    pool::run(ctx, &mut Answerer::new(&sockets, ctx)?, |n| {
        let own = &sockets[n];
        Ok(move || completion::serve_datagrams(own, ctx, n))
    })
}
