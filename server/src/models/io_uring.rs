//! One loop on io_uring: it asks the kernel to do things, and hears when they are done.
//!
//! A multishot accept and, for each client, a multishot receive stay armed; what they bring lies in buffers
//! that all clients share. The sends of a round, the next one's wait and whatever else was asked for are one
//! system call.
//!
//! See also: io_uring(7), io_uring_multishot(7); Axboe, "Efficient IO with io_uring". The loop itself is
//! `completion`, the ring is `ring`.

use std::{io, net::TcpListener};

use crate::{
    completion,
    model::{AtOnce, Context, Model, Way},
    ring,
};

pub const MODEL: Model = Model {
    name: "io-uring",
    summary: "one loop on io_uring: multishot accept and receive, provided buffers",
    at_once: AtOnce::All,
    tcp: &[Way { dispatch: "", serve }],
    udp: &[],
    supported: ring::supported,
};

fn serve(listener: TcpListener, ctx: &Context) -> io::Result<()> {
    let tally = ctx.board.worker(0);
    tally.occupied();
    completion::serve(listener, ctx, tally)
}
