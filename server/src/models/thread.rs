//! A thread per connection: the main thread accepts, each client is served by a thread of its own.
//!
//! UDP knows no connections, so it is a thread per client address: the main thread receives, starts a thread when it
//! hears of a client for the first time, and hands each client's datagrams to its thread; that answers.
//!
//! See also: Stevens, UNPv1, 26.4; TLPI 60. Next: `thread-pool`, which keeps its threads.

use std::{
    io,
    thread::{self, Builder},
};

use crate::{
    accept::{SharedClients, wait_for_the_last},
    config::{Isolate, QueueOrder},
    model::{AtOnce, Context, Model, Serve, Way},
    queue::Queue,
    scoreboard::Trouble,
    session::{Buffer, Company},
    sessions::{Newcomer, Sessions, converse},
    socket::{Datagrams, Listener},
};

pub const MODEL: Model = Model {
    name: "thread",
    summary: "a thread per client",
    at_once: AtOnce::All,
    is_loop: false,
    isolates: &[],
    tcp: &[Way { dispatch: "", serve: Serve::One(serve) }],
    udp: &[Way { dispatch: "", serve: Serve::One(serve_datagrams) }],
    supported: || Ok(()),
};

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    let tally = ctx.board.alone();
    let (company, last) = (Company::default(), Queue::new(usize::MAX, QueueOrder::Fifo, &ctx.board));
    let mut clients = SharedClients::new(&listener, || (), ctx, tally);
    thread::scope(|scope| {
        // This thread blocks in accept(2), and cannot look at the shutdown descriptor.
        Builder::new().spawn_scoped(scope, || wait_for_the_last(&listener, ctx, &last))?;
        ctx.ready(tally);
        while let Some(client) = clients.next().or_else(|| last.take()) {
            let guest = company.join(client);
            let served = Builder::new().spawn_scoped(scope, move || {
                guest.converse(ctx, tally, &mut Buffer::new(ctx.settings.buffer));
            });
            if let Err(error) = served {
                clients.refused(Trouble::Thread, &error);
            }
        }
        company.drain(ctx, || company.is_empty());
        Ok(())
    })
}

fn serve_datagrams(socket: Datagrams, ctx: &Context) -> io::Result<()> {
    let (socket, tally) = (&socket, ctx.board.alone());
    thread::scope(|scope| {
        let mut sessions = Sessions::new(socket, Isolate::Threads, ctx);
        ctx.ready(tally);
        while let Some(Newcomer { id, mailbox }) = sessions.next()? {
            let started = Builder::new().spawn_scoped(scope, move || {
                converse(mailbox, socket, ctx, tally, || ctx.is_over());
                tally.closed();
            });
            match started {
                Ok(_) => tally.accepted(),
                Err(error) => sessions.refused(id, Trouble::Thread, &error),
            }
        }
        Ok(()) // the sessions are dropped: each thread answers what is in its mailbox, and ends
    })
}
