//! A pool of threads, each serving one client until it leaves.
//!
//! `accept`: all threads block in accept(2), and the kernel hands a client to one. `queue`: one thread
//! accepts and puts the clients into a bounded queue, from which the others take them.
//!
//! See also: Stevens, UNPv1, 30.11 and 30.12. Next: `event-loop`, which needs no thread for a client at all.

use std::{
    io,
    net::TcpListener,
    thread::{self, Builder, Scope, ScopedJoinHandle},
};

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::{
    accept::{Client, Clients, SharedClients, SharedEnd},
    config::WhenFull,
    model::{AtOnce, Context, Model, Way},
    scoreboard::{Tally, Trouble},
    session::{Buffer, Company},
};

pub const MODEL: Model = Model {
    name: "thread-pool",
    summary: "a pool of threads, each with one client",
    at_once: AtOnce::OneAWorker,
    tcp: &[Way { dispatch: "accept", serve: accept }, Way { dispatch: "queue", serve: queue }],
    udp: &[],
    supported: || Ok(()),
};

fn accept(listener: TcpListener, ctx: &Context) -> io::Result<()> {
    let company = Company::default();
    thread::scope(|scope| {
        let workers = start(scope, ctx, &company, |tally| SharedClients::new(&listener, ctx, tally))?;
        ctx.shutdown.wait(None);
        let mut end = SharedEnd::begins(&listener)?;
        company.drain(ctx, || {
            end.close_when_empty();
            workers.iter().all(ScopedJoinHandle::is_finished)
        });
        end.close();
        Ok(())
    })
}

fn queue(listener: TcpListener, ctx: &Context) -> io::Result<()> {
    let company = Company::default();
    let clients = Clients::new(listener, ctx, ctx.board.door())?;
    let (entrance, exit) = bounded(ctx.settings.queue);
    thread::scope(|scope| {
        Builder::new().spawn_scoped(scope, move || fill(&entrance, clients, ctx.settings.when_full))?;
        let workers = start(scope, ctx, &company, move |_| exit.clone().into_iter())?;
        ctx.shutdown.wait(None);
        company.drain(ctx, || workers.iter().all(ScopedJoinHandle::is_finished));
        Ok(())
    })
}

/// Starts the threads; each serves the clients that `clients` brings it, one after the other. Where the
/// system refuses some of the threads, the pool is smaller, and says so.
fn start<'scope, 'env, C: Iterator<Item = Client<'env>> + Send + 'env>(
    scope: &'scope Scope<'scope, 'env>,
    ctx: &'env Context,
    company: &'env Company,
    clients: impl Fn(&'env Tally) -> C,
) -> io::Result<Vec<ScopedJoinHandle<'scope, ()>>> {
    let mut workers = Vec::new();
    for n in 0..ctx.settings.workers {
        let tally = ctx.board.worker(n);
        tally.occupied();
        let clients = clients(tally);
        let worker = Builder::new().spawn_scoped(scope, move || {
            let mut buffer = Buffer::new(ctx.settings.buffer);
            for client in clients {
                company.join(client).converse(ctx, tally, &mut buffer);
            }
        });
        match worker {
            Ok(worker) => workers.push(worker),
            Err(error) if workers.is_empty() => {
                ctx.shutdown.request(); // for who runs already
                return Err(error);
            }
            Err(error) => {
                log::warn!("only {n} of {} workers could be started: {error}", ctx.settings.workers);
                tally.trouble(Trouble::Thread);
                break;
            }
        }
    }
    Ok(workers)
}

/// The producer: puts each client into the queue. A full queue blocks it, so that it stops accepting; or it
/// closes the client at once.
fn fill<'a>(entrance: &Sender<Client<'a>>, mut clients: Clients<'a>, when_full: WhenFull) {
    while let Some(client) = clients.next() {
        match when_full {
            WhenFull::Block => drop(entrance.send(client)),
            WhenFull::Reject => {
                if let Err(TrySendError::Full(client)) = entrance.try_send(client) {
                    drop(client);
                    clients.door.turned_away(Trouble::QueueFull);
                }
            }
        }
    }
}
