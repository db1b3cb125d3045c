//! A thread per connection: the main thread accepts, each client is served by a thread of its own.
//!
//! See also: Stevens, UNPv1, 26.4; TLPI 60. Next: `thread-pool`, which keeps its threads.

use std::{
    io,
    thread::{self, Builder},
};

use crate::{
    accept::Clients,
    model::{AtOnce, Context, Model, Way},
    scoreboard::Trouble,
    session::{Buffer, Company},
    socket::Listener,
};

pub const MODEL: Model = Model {
    name: "thread",
    summary: "a thread per connection",
    at_once: AtOnce::All,
    is_loop: false,
    isolates: &[],
    tcp: &[Way { dispatch: "", reuse_port: false, serve }],
    udp: &[],
    supported: || Ok(()),
};

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    let tally = ctx.board.alone();
    let mut clients = Clients::new(listener, ctx, tally)?;
    let company = Company::default();
    thread::scope(|scope| {
        while let Some(client) = clients.next() {
            let guest = company.join(client);
            let served = Builder::new().spawn_scoped(scope, move || {
                guest.converse(ctx, tally, &mut Buffer::new(ctx.settings.buffer));
            });
            if let Err(error) = served {
                clients.door.refused(Trouble::Thread, &error);
            }
        }
        company.drain(ctx, || company.is_empty());
    });
    Ok(())
}
