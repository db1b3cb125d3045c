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
    model::{AtOnce, Context, Model, Way},
    pool, ring,
    socket::{Datagrams, Listener},
};

pub const MODEL: Model = Model {
    name: "io-uring",
    summary: "a ring a core: multishot accept and receive, provided buffers",
    at_once: AtOnce::ManyAWorker,
    is_loop: true,
    isolates: &[Isolate::Threads, Isolate::Processes],
    tcp: &[Way { dispatch: "", reuse_port: true, serve }],
    udp: &[Way { dispatch: "", reuse_port: true, serve: serve_datagrams }],
    supported: ring::supported,
};

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    // Opened once, and held here: the queue of a worker that dies is its successor's.
    let listeners = listener.one_each(ctx.settings.workers)?;
    pool::run(ctx, |n| {
        let own = listeners[n].try_clone()?;
        Ok(move || completion::serve(own, ctx, ctx.board.worker(n)))
    })
}

fn serve_datagrams(socket: Datagrams, ctx: &Context) -> io::Result<()> {
    // The set stands still: a client stays with its socket, also when the worker there is another.
    let sockets = socket.one_each(ctx.settings.workers)?;
    pool::run(ctx, |n| {
        let own = &sockets[n];
        Ok(move || completion::serve_datagrams(own, ctx, n))
    })
}
