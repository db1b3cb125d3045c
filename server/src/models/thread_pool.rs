//! A pool of threads, each serving one client until it leaves.
//!
//! `accept`: all threads block in accept(2), and the kernel hands a client to one. `mutex`: they block in a
//! lock, and its holder accepts. `queue`: one thread accepts and puts the clients into a bounded queue, from
//! which the others take them.
//!
//! See also: Stevens, UNPv1, 30.11 and 30.12. Next: `select`, which needs no thread for a client at all.

use std::{
    io, iter, slice,
    sync::{Mutex, PoisonError},
    thread::{self, Builder},
    time::Duration,
};

use crate::{
    accept::{Arrival, Client, Clients, Door, Other, SharedClients, the_last},
    config::{QueueOrder, WhenFull},
    exchange::{Exchange, stop_at_the_end},
    idle::{Idle, Signs, Watched},
    model::{AtOnce, Context, Model, Serve, Way},
    pool::{Pool, until_retired},
    queue::Queue,
    scoreboard::Trouble,
    session::{Buffer, Company},
    socket::{Datagrams, Listener},
};

pub const MODEL: Model = Model {
    name: "thread-pool",
    summary: "a pool of threads, each with one client",
    at_once: AtOnce::OneAWorker,
    is_loop: false,
    isolates: &[],
    tcp: &[
        Way { dispatch: "accept", serve: Serve::One(accept) },
        Way { dispatch: "mutex", serve: Serve::One(mutex) },
        Way { dispatch: "queue", serve: Serve::One(queue) },
    ],
    udp: &[Way { dispatch: "", serve: Serve::One(shared) }],
    supported: || Ok(()),
};

/// All threads block in receiving from the one socket, and the kernel hands a datagram to one.
fn shared(socket: Datagrams, ctx: &Context) -> io::Result<()> {
    let socket = &socket;
    thread::scope(|scope| {
        let mut pool = Pool::of_threads(ctx, scope)?;
        pool.keep_whole(|n| Ok(move || Exchange::of_one(ctx, n)?.run(socket, || ctx.is_over())));
        stop_at_the_end(slice::from_ref(socket), ctx);
        Ok(())
    })
}

fn accept(listener: Listener, ctx: &Context) -> io::Result<()> {
    in_turn(listener, ctx, || ())
}

fn mutex(listener: Listener, ctx: &Context) -> io::Result<()> {
    let lock = Mutex::new(());
    in_turn(listener, ctx, || lock.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A pool whose threads accept themselves, each while it holds what `turn` returns; but the last ones, who wait
/// when the server ends, are let in here, so that nobody new can come.
fn in_turn<G>(listener: Listener, ctx: &Context, turn: impl Fn() -> G + Sync) -> io::Result<()> {
    let (company, last) = (Company::default(), Queue::new(usize::MAX, QueueOrder::Fifo, &ctx.board));
    let (listener, turn) = (&listener, &turn);
    thread::scope(|scope| {
        let (company, last) = (&company, &last);
        let mut pool = Pool::of_threads(ctx, scope)?;
        pool.keep_whole(|n| {
            let clients = SharedClients::new(listener, turn, ctx, ctx.board.worker(n));
            Ok(move || serve(clients.chain(iter::from_fn(|| last.take())), company, ctx, n))
        });
        the_last(slice::from_ref(listener), ctx)?.into_iter().for_each(|client| last.put(client));
        last.close();
        company.drain(ctx, || {
            pool.bury_the_dead();
            pool.is_empty()
        });
        Ok(())
    })
}

fn queue(listener: Listener, ctx: &Context) -> io::Result<()> {
    let company = Company::default();
    let clients = Clients::new(listener, ctx, ctx.board.door())?;
    let queue = Queue::new(ctx.settings.queue, ctx.settings.queue_order, &ctx.board);
    thread::scope(|scope| {
        let (company, queue) = (&company, &queue);
        let mut pool = Pool::of_threads(ctx, scope)?;
        Builder::new().spawn_scoped(scope, || fill(queue, clients, ctx))?;
        pool.keep_whole(|n| {
            Ok(move || serve(iter::from_fn(|| queue.take().map(|waiting| waiting.client)), company, ctx, n))
        });
        queue.opens(); // so that everybody gets in who has connected, and nobody else
        company.drain(ctx, || {
            pool.bury_the_dead();
            pool.is_empty()
        });
        Ok(())
    })
}

/// A client in the queue.
struct Waiting<'a> {
    client: Client<'a>,
    signs: Signs,
}

/// The producer: puts each client into the queue. A full queue blocks it, so that it stops accepting; or it
/// closes the client at once.
fn fill<'a>(queue: &Queue<'_, Waiting<'a>>, mut clients: Clients<'a>, ctx: &Context) {
    let mut idle = Idle::new(ctx.settings.idle_timeout);
    while let Some(arrival) = clients.next_or(Other { fd: None, timeout: idle.until_look(!queue.is_empty()) })
    {
        see_off_the_idle(queue, &mut idle, &mut clients.door);
        let Arrival::Client(client) = arrival else { continue };
        let mut waiting = Waiting { client, signs: Signs::new() };
        loop {
            let patience = match ctx.settings.when_full {
                WhenFull::Block => idle.until_look(true).unwrap_or(Duration::MAX),
                WhenFull::Reject => Duration::ZERO,
            };
            waiting = match queue.put_within(patience, waiting) {
                Ok(()) => break,
                Err(waiting) => waiting,
            };
            if ctx.settings.when_full == WhenFull::Reject {
                drop(waiting);
                clients.door.turned_away(Trouble::QueueFull);
                break;
            }
            see_off_the_idle(queue, &mut idle, &mut clients.door);
        }
    }
    queue.close();
}

/// Closes those in the queue who have been silent for `--idle-timeout`.
fn see_off_the_idle(queue: &Queue<'_, Waiting<'_>>, idle: &mut Idle, door: &mut Door<'_>) {
    idle.tick();
    let overdue = queue.remove(|waiting| {
        idle.overdue((0..).zip(waiting).map(|(key, Waiting { client, signs })| Watched {
            key,
            stream: &client.stream,
            signs,
            reading: true,
        }))
    });
    overdue.iter().for_each(|_| door.turned_away(Trouble::IdleTimeout));
}

/// A worker's life.
fn serve<'a>(
    clients: impl Iterator<Item = Client<'a>>,
    company: &'a Company,
    ctx: &'a Context,
    n: usize,
) -> io::Result<()> {
    let mut buffer = Buffer::new(ctx.settings.buffer);
    ctx.ready(ctx.board.worker(n));
    for client in until_retired(clients, ctx) {
        company.join(client).converse(ctx, ctx.board.worker(n), &mut buffer);
    }
    Ok(())
}
