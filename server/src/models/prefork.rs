//! A pool of processes, forked in advance, each serving one client until it leaves. A worker that dies is
//! replaced.
//!
//! `accept`: all of them block in accept(2) on the listener that they inherited, and the kernel hands a
//! client to one.
//!
//! See also: Stevens, UNPv1, 30.6. Next: `thread`, in which the processes become threads.

use std::{
    io,
    net::TcpListener,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use crate::{
    accept::{Pauses, SharedClients, SharedEnd},
    model::{AtOnce, Context, Model, Way},
    process::{Children, Ended, Rank, within_reach},
    scoreboard::Trouble,
    session::{Buffer, converse},
    shutdown::wait_readable,
};

pub const MODEL: Model = Model {
    name: "prefork",
    summary: "a pool of processes, each with one client",
    at_once: AtOnce::OneAWorker,
    tcp: &[Way { dispatch: "accept", serve: accept }],
    udp: &[],
    supported: || Ok(()),
};

fn accept(listener: TcpListener, ctx: &Context) -> io::Result<()> {
    let mut pool = Pool::new(ctx)?;
    loop {
        pool.fill(|n| serve(&listener, ctx, n));
        if ctx.shutdown.is_requested() {
            break;
        }
        pool.wait();
    }
    let mut end = SharedEnd::begins(&listener)?;
    pool.drain(|| end.close_when_empty());
    Ok(())
}

/// What a worker does until the server ends.
fn serve(listener: &TcpListener, ctx: &Context, n: usize) {
    let tally = ctx.board.worker(n);
    tally.occupied();
    let mut buffer = Buffer::new(ctx.settings.buffer);
    for mut client in SharedClients::new(listener, ctx, tally) {
        client.seat.served_by(tally);
        within_reach(&client.stream, || converse(&client.stream, ctx, tally, &mut buffer));
    }
}

/// The parent's side: which workers there are, and which places are empty.
struct Pool<'a> {
    ctx: &'a Context,
    children: Children<Worker>,
    empty: Vec<usize>,
    pauses: Pauses,
}

struct Worker {
    n: usize,
    started: Instant,
}

/// A worker that dies sooner than this is not replaced at once: it may die of what all would die of.
const TOO_YOUNG_TO_DIE: Duration = Duration::from_secs(1);

impl<'a> Pool<'a> {
    fn new(ctx: &'a Context) -> io::Result<Self> {
        let empty = (0..ctx.settings.workers).rev().collect();
        Ok(Self { ctx, children: Children::new()?, empty, pauses: Pauses::new() })
    }

    /// Forks a worker for each empty place, unless the last attempt asked for a pause.
    fn fill(&mut self, work: impl Fn(usize)) {
        self.pauses.end();
        while self.pauses.left().is_none() {
            let Some(n) = self.empty.pop() else { return };
            let worker = Worker { n, started: Instant::now() };
            let forked = self.children.fork(Rank::Worker, worker, || {
                work(n);
                0
            });
            if let Err(error) = forked {
                self.ctx.board.worker(n).trouble(Trouble::Fork);
                self.empty.push(n);
                let delay = self.pauses.begin();
                if self.ctx.board.may_speak() {
                    log::warn!("no worker could be forked: {error}; trying again in {delay:?}");
                }
            }
        }
    }

    /// Waits until a worker ends, a place can be filled, or the server is told to end.
    fn wait(&mut self) {
        let pause = if self.empty.is_empty() { None } else { self.pauses.left() };
        wait_readable([Some(self.children.as_fd()), Some(self.ctx.shutdown.as_fd())], pause);
        for ended in self.children.reap() {
            self.bury(&ended);
            self.empty.push(ended.who.n);
        }
    }

    fn bury(&mut self, ended: &Ended<Worker>) {
        let Worker { n, started } = ended.who;
        log::warn!("worker {n} died: {:?}", ended.status);
        self.ctx.board.worker(n).trouble(Trouble::WorkerDied);
        self.ctx.board.worker_gone(self.ctx.board.worker(n));
        if started.elapsed() < TOO_YOUNG_TO_DIE {
            self.pauses.begin();
        }
    }

    fn drain(&mut self, each_turn: impl FnMut() -> Duration) {
        let board = &self.ctx.board;
        let ending = self.ctx.ending();
        self.children.drain(ending, each_turn, |ended, cut| {
            if ended.is_well() {
                return;
            }
            let tally = board.worker(ended.who.n);
            let lost = board.worker_gone(tally);
            if cut {
                (0..lost).for_each(|_| tally.trouble(Trouble::Cut));
            } else {
                tally.trouble(Trouble::WorkerDied);
            }
        });
    }
}
