//! One client at a time: accept, serve, close, accept the next. The others wait in the accept queue.
//!
//! See also: Stevens, UNPv1, 1.5; TLPI 60.1. Next: `fork`, in which the parent accepts while children serve.

use std::{
    io, iter, slice,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread::{self, Builder},
};

use crate::{
    accept::{SharedClients, wait_for_the_last},
    config::QueueOrder,
    exchange::{Exchange, stop_at_the_end},
    model::{AtOnce, Context, Model, Serve, Way},
    queue::Queue,
    session::{Buffer, Company},
    socket::{Datagrams, Listener},
};

pub const MODEL: Model = Model {
    name: "iterative",
    summary: "one client at a time, the others wait",
    at_once: AtOnce::One,
    is_loop: false,
    isolates: &[],
    tcp: &[Way { dispatch: "", serve: Serve::One(serve) }],
    udp: &[Way { dispatch: "", serve: Serve::One(serve_datagrams) }],
    supported: || Ok(()),
};

fn serve_datagrams(socket: Datagrams, ctx: &Context) -> io::Result<()> {
    thread::scope(|scope| {
        Builder::new().spawn_scoped(scope, || stop_at_the_end(slice::from_ref(&socket), ctx))?;
        ctx.board.alone();
        let served = Exchange::of_one(ctx, 0).and_then(|mut it| it.run(&socket, || ctx.is_over()));
        ctx.shutdown.request(); // where it failed, the thread still waits for the end
        served
    })
}

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    let tally = ctx.board.alone();
    let (company, last) = (Company::default(), Queue::new(usize::MAX, QueueOrder::Fifo, &ctx.board));
    let (mut buffer, done) = (Buffer::new(ctx.settings.buffer), AtomicBool::new(false));
    thread::scope(|scope| {
        // While one client is served, or waited for, nobody here can look at the shutdown descriptor but this
        // thread.
        Builder::new().spawn_scoped(scope, || {
            wait_for_the_last(&listener, ctx, &last);
            company.drain(ctx, || done.load(Relaxed));
        })?;
        let clients = SharedClients::new(&listener, || (), ctx, tally);
        ctx.ready(tally);
        for client in clients.chain(iter::from_fn(|| last.take())) {
            company.join(client).converse(ctx, tally, &mut buffer);
        }
        done.store(true, Relaxed);
        Ok(())
    })
}
