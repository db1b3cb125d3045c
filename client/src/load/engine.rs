//! The threads of the load. Each has a poller and its share of the connections, and drives them at the plan's
//! pace. An engine is opened once, runs one stretch of load or several, and is closed.

use std::{
    io,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arguments::{Endpoint, Transport};
use mio::Poll;

use super::{
    Connecting, Faults, Plan, Window, crew::Crew, datagram::Format, drops::Sockets, flows::Flows,
    pace::Pacer, payload::Payload, recorder::Interval, series::Gathering,
};

/// A run's threads, which hold its connections.
pub struct Engine {
    workers: Vec<Worker>,
    seen: Receiver<Part>,
    /// Where datagrams are lost by the kernel; of streams none are.
    sockets: Option<Sockets>,
}

struct Worker {
    orders: Sender<Order>,
    thread: JoinHandle<Faults>,
}

/// What the threads are told to do, all at the same moment.
#[derive(Clone, Copy)]
pub struct Order {
    /// When it begins.
    pub begin: Instant,
    /// How long the server is loaded unmeasured.
    pub warmup: Duration,
    /// How long after that it is measured.
    pub duration: Duration,
}

/// What a thread saw.
enum Part {
    /// In a second of the measured time, which is over.
    Second(usize, Box<Interval>),
    /// Since then, and in all.
    Rest(Box<Window>),
}

/// Where a thread says what it saw.
pub struct Seen(Sender<Part>);

impl Seen {
    /// Takes what was seen in the second that is over.
    pub fn second(&self, window: &mut Window) {
        let (second, interval) = window.cut();
        let _ = self.0.send(Part::Second(second, Box::new(interval)));
    }
}

/// A thread's share of the connections.
pub trait Share {
    /// Opens those of thread number `thread`.
    fn connect(&mut self, thread: usize) -> Connecting;
    /// One stretch of load. What each second of it has seen is told as it ends.
    fn run(&mut self, order: Order, seen: &Seen) -> Window;
    /// Ends every connection as a client should. Returns what went wrong.
    fn finish(self) -> Faults;
}

impl Engine {
    /// Opens the connections of `plan`; returns when each came up or failed. `stop` ends whatever the
    /// engine does, early and in order.
    ///
    /// # Errors
    /// Where the system refuses threads or pollers. A connection that fails is in [`Connecting`].
    pub fn open(plan: &Plan, stop: &Arc<AtomicBool>) -> io::Result<(Self, Connecting)> {
        let payload = Arc::new(Payload::new(plan.seed));
        let run = rand::random();
        let (report, reports) = mpsc::channel();
        let (parts, seen) = mpsc::channel();
        let mut workers = Vec::new();
        for n in 0..plan.threads {
            let poll = Poll::new()?;
            let pacer = Pacer::new(&poll, n)?;
            let (orders, to_do) = mpsc::channel();
            let parts = Seen(parts.clone());
            let report = report.clone();
            let (plan, payload, stop) = (plan.clone(), Arc::clone(&payload), Arc::clone(stop));
            let thread =
                thread::Builder::new().name(format!("load-{n}")).spawn(move || match plan.transport() {
                    Transport::Tcp => {
                        work(Crew::new(poll, pacer, plan, payload, stop), n, report, to_do, &parts)
                    }
                    Transport::Udp => {
                        let format = Format { run, sizes: plan.size.clone(), verify: plan.verify, payload };
                        work(Flows::new(poll, pacer, plan, format, stop), n, report, to_do, &parts)
                    }
                })?;
            workers.push(Worker { orders, thread });
        }
        let mut connecting = Connecting::new();
        drop(report);
        reports.iter().for_each(|part| connecting.merge(part));
        let inodes = std::mem::take(&mut connecting.inodes);
        let sockets = match plan.endpoint {
            Endpoint::Udp(server) => Some(Sockets::new(inodes, server)),
            Endpoint::Tcp(_) | Endpoint::Unix(_) => None,
        };
        Ok((Self { workers, seen, sockets }, connecting))
    }

    /// Loads the server for `warmup` and then `duration`, of which only the latter is measured, and waits for
    /// the last answers. The connections stay open.
    pub fn run(&self, warmup: Duration, duration: Duration) -> Window {
        let before = self.sockets.as_ref().map(Sockets::drops);
        let order = Order { begin: Instant::now(), warmup, duration };
        for worker in &self.workers {
            let _ = worker.orders.send(order);
        }
        let mut gathering = Gathering::new(self.workers.len());
        let mut ends = 0;
        while ends < self.workers.len() {
            match self.seen.recv_timeout(Duration::from_secs(1)) {
                Ok(Part::Second(second, interval)) => gathering.second(second, &interval),
                Ok(Part::Rest(window)) => {
                    gathering.rest(*window);
                    ends += 1;
                }
                // A thread that has panicked says nothing more; `finish` passes that on.
                Err(_) if self.workers.iter().any(|worker| worker.thread.is_finished()) => break,
                Err(_) => {}
            }
        }
        let mut all = gathering.whole();
        if let (Some(audit), Some(before), Some(sockets)) = (&mut all.audit, before, &self.sockets) {
            audit.blame_the_kernel(before, sockets.drops());
        }
        all
    }

    /// Ends every connection as a client should: a last message, FIN, and whatever comes back until the
    /// server's FIN. Returns what went wrong.
    pub fn finish(self) -> Faults {
        let mut faults = Faults::default();
        let threads: Vec<_> = self.workers.into_iter().map(|worker| worker.thread).collect();
        for thread in threads {
            match thread.join() {
                Ok(of_thread) => faults.merge(of_thread),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        faults
    }
}

/// A thread's life.
fn work<S: Share>(
    mut share: S,
    number: usize,
    report: Sender<Connecting>,
    to_do: Receiver<Order>,
    seen: &Seen,
) -> Faults {
    let _ = report.send(share.connect(number));
    drop(report); // who counts the reports waits for all to go
    for order in to_do {
        let _ = seen.0.send(Part::Rest(Box::new(share.run(order, seen))));
    }
    share.finish()
}
