//! A process per connection: the parent accepts and forks, the child serves and exits, the parent reaps.
//!
//! See also: Stevens, UNPv1, 5.12; TLPI 60.3. Next: `prefork`, which pays for the processes in advance.

use std::{io, os::fd::AsFd, time::Duration};

use crate::{
    accept::{Arrival, Clients, Other},
    model::{AtOnce, Context, Model, Way},
    process::{Children, Ended, Rank, within_reach},
    scoreboard::{Tally, Trouble},
    session::{Buffer, converse},
    socket::{Listener, Peer},
};

pub const MODEL: Model = Model {
    name: "fork",
    summary: "a process per connection",
    at_once: AtOnce::All,
    is_loop: false,
    isolates: &[],
    tcp: &[Way { dispatch: "", reuse_port: false, serve }],
    udp: &[],
    supported: || Ok(()),
};

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    let tally = ctx.board.alone();
    let mut children = Children::new()?;
    let mut clients = Clients::new(listener, ctx, tally)?;
    while let Some(arrival) = clients.next_or(Other { fd: Some(children.as_fd()), timeout: None }) {
        let mut client = match arrival {
            Arrival::Client(client) => client,
            Arrival::Other => {
                children.reap().iter().for_each(|child| bury(child, ctx, tally));
                continue;
            }
        };
        let forked = children.fork(Rank::Worker, client.seat.peer(), || {
            clients.leave_to_parent();
            let mut buffer = Buffer::new(ctx.settings.buffer);
            within_reach(&client.stream, || converse(&client.stream, ctx, tally, &mut buffer));
            0
        });
        match forked {
            Ok(_) => {
                client.seat.served_by(tally);
                client.seat.stays_taken();
            }
            Err(error) => clients.door.refused(Trouble::Fork, &error),
        }
    }
    children.drain(
        ctx.ending(),
        || Duration::MAX,
        |child, cut| {
            if cut && !child.is_well() {
                tally.trouble(Trouble::Cut);
                child_left(&child, ctx, tally);
            } else {
                bury(&child, ctx, tally);
            }
        },
    );
    Ok(())
}

fn bury(child: &Ended<Peer>, ctx: &Context, tally: &Tally) {
    if !child.is_well() {
        log::warn!("a child serving a client ended early: {:?}", child.status);
        tally.trouble(Trouble::WorkerDied);
    }
    child_left(child, ctx, tally);
}

/// The child's client is gone with it.
fn child_left(child: &Ended<Peer>, ctx: &Context, tally: &Tally) {
    tally.closed();
    ctx.seats.leave(child.who);
}
