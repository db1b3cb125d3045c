//! A process per connection: the parent accepts and forks, the child serves and exits, the parent reaps.
//!
//! UDP knows no connections, so it is a process per client address: the parent receives, forks when it hears of a client
//! for the first time, and hands each client's datagrams to its child; the child answers.
//!
//! See also: Stevens, UNPv1, 5.12; TLPI 60.3. Next: `prefork`, which pays for the processes in advance.

use std::{io, os::fd::AsFd, time::Duration};

use crate::{
    accept::{Arrival, Clients, Other},
    config::Isolate,
    model::{AtOnce, Context, Model, Serve, Way},
    process::{Children, Ended, Rank, is_over, within_reach},
    scoreboard::{Tally, Trouble},
    session::{Buffer, converse},
    sessions::{self, Newcomer, News, Sessions},
    socket::{Datagrams, Listener, Peer},
};

pub const MODEL: Model = Model {
    name: "fork",
    summary: "a process per client",
    at_once: AtOnce::All,
    is_loop: false,
    isolates: &[],
    tcp: &[Way { dispatch: "", serve: Serve::One(serve) }],
    udp: &[Way { dispatch: "", serve: Serve::One(serve_datagrams) }],
    supported: || Ok(()),
};

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    let tally = ctx.board.alone();
    let mut children = Children::new()?;
    let mut clients = Clients::new(listener, ctx, tally)?;
    let bury = |child: &Ended<Peer>, cut| {
        bury(child, cut, tally);
        ctx.seats.leave(child.who);
    };
    ctx.ready(tally);
    while let Some(arrival) = clients.next_or(Other { fd: Some(children.as_fd()), timeout: None }) {
        let mut client = match arrival {
            Arrival::Client(client) => client,
            Arrival::Other => {
                children.reap().iter().for_each(|child| bury(child, false));
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
    children.drain(ctx.ending(), || Duration::MAX, |child, cut| bury(&child, cut));
    Ok(())
}

fn serve_datagrams(socket: Datagrams, ctx: &Context) -> io::Result<()> {
    let tally = ctx.board.alone();
    let mut children = Children::new()?;
    let mut sessions = Sessions::new(&socket, Isolate::Processes, ctx);
    ctx.ready(tally);
    while let Some(news) = sessions.next_or(Some(children.as_fd()))? {
        let Newcomer { id, mailbox } = match news {
            News::Newcomer(newcomer) => newcomer,
            News::Other => {
                for child in children.reap() {
                    bury(&child, false, tally);
                    sessions.ended(child.who);
                }
                continue;
            }
        };
        let forked = children.fork(Rank::Worker, id, || {
            sessions.leave_to_parent();
            sessions::converse(mailbox, &socket, ctx, tally, is_over);
            0
        });
        match forked {
            Ok(_) => tally.accepted(),
            Err(error) => sessions.refused(id, Trouble::Fork, &error),
        }
    }
    drop(sessions); // each child answers what is in its mailbox, and ends
    children.drain(ctx.ending(), || Duration::MAX, |child, cut| bury(&child, cut, tally));
    Ok(())
}

/// A child has ended, and its client is gone with it.
fn bury<T>(child: &Ended<T>, cut: bool, tally: &Tally) {
    if !child.is_well() && cut {
        tally.trouble(Trouble::Cut);
    } else if !child.is_well() {
        log::warn!("a child serving a client ended early: {:?}", child.status);
        tally.trouble(Trouble::WorkerDied);
    }
    tally.closed();
}
