//! A pool of processes, forked in advance, each serving one client until it leaves. A worker that dies is
//! replaced.
//!
//! `accept`: all of them block in accept(2) on the listener that they inherited, and the kernel hands a
//! client to one. `flock` and `mutex`: they block in a lock, and its holder accepts. `reuseport`: each listens
//! on a socket of its own, and helps with the others' while it is idle. `pass-fd`: the parent accepts, and
//! passes the connection to an idle worker.
//!
//! See also: Stevens, UNPv1, 30.6 to 30.9. Next: `thread`, in which the processes become threads.

use std::{io, iter, slice};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{
    accept::{Arrival, Client, Clients, Door, HandedClients, Queues, SharedClients, the_last},
    exchange::{Exchange, stop_at_the_end},
    handoff::{Dealers, Hand, channel},
    lock::FileLock,
    model::{AtOnce, Context, Model, Serve, Way},
    pool::{Pool, until_retired},
    process::{is_over, within_reach},
    session::{Buffer, converse},
    shared::SharedMutex,
    socket::{Datagrams, Listener},
    stand_in::{Answerer, Nobody, StandIn},
};

pub const MODEL: Model = Model {
    name: "prefork",
    summary: "a pool of processes, each with one client",
    at_once: AtOnce::OneAWorker,
    is_loop: false,
    isolates: &[],
    tcp: &[
        Way { dispatch: "accept", serve: Serve::One(accept) },
        Way { dispatch: "flock", serve: Serve::One(flock) },
        Way { dispatch: "mutex", serve: Serve::One(mutex) },
        Way { dispatch: "reuseport", serve: Serve::OneEach(reuseport) },
        Way { dispatch: "pass-fd", serve: Serve::One(pass_fd) },
    ],
    udp: &[
        Way { dispatch: "shared", serve: Serve::One(shared_datagrams) },
        Way { dispatch: "reuseport", serve: Serve::OneEach(reuseport_datagrams) },
    ],
    supported: || Ok(()),
};

/// All processes block in receiving from one socket, and the kernel hands a datagram to one of them.
fn shared_datagrams(socket: Datagrams, ctx: &Context) -> io::Result<()> {
    datagrams(slice::from_ref(&socket), &mut Nobody, ctx)
}

/// Each process blocks in receiving from a socket of its own, and the kernel keeps a client with one. The set of sockets
/// stands still: what waits for a worker that dies is answered by the owner, or by its successor.
fn reuseport_datagrams(sockets: Vec<Datagrams>, ctx: &Context) -> io::Result<()> {
    datagrams(&sockets, &mut Answerer::new(&sockets, ctx)?, ctx)
}

fn datagrams(sockets: &[Datagrams], stand_in: &mut impl StandIn, ctx: &Context) -> io::Result<()> {
    let mut pool = Pool::of_processes(ctx)?;
    pool.keep_served(stand_in, |n| {
        let own = &sockets[n % sockets.len()];
        Ok(move || Exchange::of_one(ctx, n)?.run(own, is_over))
    });
    stop_at_the_end(sockets, ctx);
    pool.drain(|| stand_in.ends(true));
    Ok(())
}

fn accept(listener: Listener, ctx: &Context) -> io::Result<()> {
    pool(slice::from_ref(&listener), ctx, |n, last| {
        let clients = SharedClients::new(&listener, || (), ctx, ctx.board.worker(n));
        serve(clients.chain(last), ctx, n)
    })
}

fn flock(listener: Listener, ctx: &Context) -> io::Result<()> {
    let lock = FileLock::new()?;
    pool(slice::from_ref(&listener), ctx, |n, last| {
        let mine = lock.open()?;
        let clients = SharedClients::new(&listener, || mine.hold(), ctx, ctx.board.worker(n));
        serve(clients.chain(last), ctx, n)
    })
}

fn mutex(listener: Listener, ctx: &Context) -> io::Result<()> {
    let lock = SharedMutex::<()>::new()?;
    pool(slice::from_ref(&listener), ctx, |n, last| {
        let clients = SharedClients::new(&listener, || lock.lock(), ctx, ctx.board.worker(n));
        serve(clients.chain(last), ctx, n)
    })
}

fn reuseport(listeners: Vec<Listener>, ctx: &Context) -> io::Result<()> {
    let queues = Queues::new(listeners, ctx)?;
    pool(queues.listeners(), ctx, |n, last| {
        serve(queues.clients(n, ctx, ctx.board.worker(n)).chain(last), ctx, n)
    })
}

fn pass_fd(listener: Listener, ctx: &Context) -> io::Result<()> {
    let mut clients = Clients::new(listener, ctx, ctx.board.door())?;
    let mut workers = Dealers::new(ctx, 1)?;
    let mut pool = Pool::of_processes(ctx)?;
    let idle = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let work = |n: usize, hand: &Hand| {
        let mut handed = HandedClients::new(hand, ctx, ctx.board.worker(n));
        let next = || {
            let _ = idle.write(1); // where it overflows, it has been rung often enough
            handed.next()
        };
        serve(iter::from_fn(next), ctx, n)
    };
    loop {
        workers.staff(&mut pool, |n, hand| Ok(move || work(n, &hand)));
        match workers.next_of(&mut clients, pool.news(), Some(&idle)) {
            Some(Arrival::Client(client)) => {
                if !workers.deal_or_wait(client, &mut clients) {
                    break;
                }
            }
            Some(Arrival::Other) => workers.vacated(pool.bury_the_dead()),
            None => break,
        }
    }
    let (mut last, mut door) = clients.the_last();
    workers.vacated(pool.bury_the_dead());
    workers.staff(&mut pool, |n, hand| Ok(move || work(n, &hand)));
    pool.drain(|| workers.deal_the_last(&mut last));
    door.nobody_serves(last);
    Ok(())
}

/// A pool whose workers find their clients themselves; but the last ones, who wait when the server ends, the
/// parent lets in and hands over, so that nobody new can come.
fn pool(
    listeners: &[Listener],
    ctx: &Context,
    work: impl Fn(usize, HandedClients<'_, '_>) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let (dealer, hand) = channel()?;
    let mut pool = Pool::of_processes(ctx)?;
    let (hand, work) = (&hand, &work);
    pool.keep_whole(|n| Ok(move || work(n, HandedClients::new(hand, ctx, ctx.board.worker(n)))));
    let mut last = the_last(listeners, ctx)?;
    pool.drain(|| dealer.deal_the_last(&mut last));
    Door::new(ctx, ctx.board.door()).nobody_serves(last);
    Ok(())
}

/// A worker's life.
fn serve<'a>(clients: impl Iterator<Item = Client<'a>>, ctx: &'a Context, n: usize) -> io::Result<()> {
    let tally = ctx.board.worker(n);
    let mut buffer = Buffer::new(ctx.settings.buffer);
    ctx.ready(tally);
    for mut client in until_retired(clients, ctx) {
        client.seat.served_by(tally);
        within_reach(&client.stream, || converse(&client.stream, ctx, tally, &mut buffer));
    }
    Ok(())
}
