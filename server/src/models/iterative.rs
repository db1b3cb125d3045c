//! One client at a time: accept, serve, close, accept the next. The others wait in the accept queue.
//!
//! See also: Stevens, UNPv1, 1.5; TLPI 60.1. Next: `fork`, in which the parent accepts while children serve.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread::{self, Builder},
};

use crate::{
    accept::Clients,
    model::{AtOnce, Context, Model, Way},
    session::{Buffer, Company},
    socket::Listener,
};

pub const MODEL: Model = Model {
    name: "iterative",
    summary: "one client at a time, the others wait",
    at_once: AtOnce::One,
    isolates: &[],
    tcp: &[Way { dispatch: "", reuse_port: false, serve }],
    udp: &[],
    supported: || Ok(()),
};

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    let tally = ctx.board.alone();
    let clients = Clients::new(listener, ctx, tally)?;
    let mut buffer = Buffer::new(ctx.settings.buffer);
    let (company, done) = (Company::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        // While one client is served, nobody here can look at the shutdown descriptor but this thread.
        Builder::new().spawn_scoped(scope, || {
            ctx.shutdown.wait(None);
            company.drain(ctx, || done.load(Relaxed));
        })?;
        for client in clients {
            company.join(client).converse(ctx, tally, &mut buffer);
        }
        done.store(true, Relaxed);
        Ok(())
    })
}
