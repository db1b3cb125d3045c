//! A loop a core. The loops share nothing but the counters; each is the loop of `event-loop`.
//!
//! `reuseport`: each loop listens on a socket of its own, and the kernel deals the clients out. `handoff`: one
//! acceptor takes all clients, and hands each to the loop that serves the fewest.
//!
//! See also: Schmidt, "Reactor"; socket(7), SO_REUSEPORT; unix(7), SCM_RIGHTS. Next: `async`, in which a client
//! is a task again.

use std::io;

use crate::{
    accept::{Arrival, Clients, Entrance},
    config::Isolate,
    handoff::Dealers,
    model::{AtOnce, Context, Model, Serve, Way},
    pool,
    readiness::{self, Mio},
    socket::{Datagrams, Listener},
    stand_in::{Acceptor, Answerer},
};

pub const MODEL: Model = Model {
    name: "multi-reactor",
    summary: "a loop a core",
    at_once: AtOnce::ManyAWorker,
    is_loop: true,
    isolates: &[Isolate::Threads, Isolate::Processes],
    tcp: &[
        Way { dispatch: "reuseport", serve: Serve::OneEach(reuseport) },
        Way { dispatch: "handoff", serve: Serve::One(handoff) },
    ],
    udp: &[Way { dispatch: "reuseport", serve: Serve::OneEach(reuseport_datagrams) }],
    supported: || Ok(()),
};

/// The listeners were opened once, and are held here: the queue of a worker that dies is served by the others, or by its
/// successor.
fn reuseport(listeners: Vec<Listener>, ctx: &Context) -> io::Result<()> {
    let mut acceptor = Acceptor::new(&listeners, Listener::accept_nonblocking, ctx)?;
    let strays = acceptor.hand()?;
    pool::run(ctx, &mut acceptor, |n| {
        let (poller, own, strays) = (Mio::new()?, listeners[n].try_clone()?, strays.try_clone()?);
        let entrance = Entrance::Listener(own);
        Ok(move || readiness::serve(poller, entrance, Some(strays), ctx, ctx.board.worker(n)))
    })
}

/// The set of sockets stands still: a client stays with its socket, whoever answers there.
fn reuseport_datagrams(sockets: Vec<Datagrams>, ctx: &Context) -> io::Result<()> {
    pool::run(ctx, &mut Answerer::new(&sockets, ctx)?, |n| {
        let (poller, own) = (Mio::new()?, &sockets[n]);
        Ok(move || readiness::serve_datagrams(poller, own, ctx, n))
    })
}

fn handoff(listener: Listener, ctx: &Context) -> io::Result<()> {
    let mut clients = Clients::new(listener, ctx, ctx.board.door())?.nonblocking();
    let mut loops = Dealers::new(ctx, u64::MAX)?;
    pool::with(ctx, move |mut pool| {
        loop {
            loops.staff(&mut pool, |n, hand| {
                let poller = Mio::new()?;
                Ok(move || readiness::serve(poller, Entrance::Hand(hand), None, ctx, ctx.board.worker(n)))
            });
            match loops.next_of(&mut clients, pool.news(), None) {
                Some(Arrival::Client(client)) => {
                    if !loops.deal_or_wait(client, &mut clients) {
                        break;
                    }
                }
                Some(Arrival::Other) => loops.vacated(pool.bury_the_dead()),
                None => break,
            }
        }
        let (mut last, mut door) = clients.the_last();
        pool.drain_loops(|| loops.deal_the_last(&mut last));
        door.nobody_serves(last);
        Ok(())
    })
}
