//! The threads of the load. Each has a poller and its share of the connections, and drives them at the plan's
//! pace. An engine is opened once, runs one stretch of load or several, and is closed.

use std::{
    io, mem,
    ops::Range,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arguments::{Endpoint, Transport};
use nix::sched::{CloneFlags, unshare};

use super::{
    Connecting, Faults, Pace, Plan, Window,
    crew::Crew,
    datagram::Format,
    drops::Sockets,
    flows::Flows,
    payload::Payload,
    readiness::Readiness,
    recorder::Interval,
    series::Gathering,
    stretch::{Desk, Share},
};

/// A run's threads, which hold its connections.
pub struct Engine {
    plan: Plan,
    workers: Vec<Worker>,
    seen: Receiver<Part>,
    /// How many connections were to be opened so far.
    connections: usize,
    /// Where datagrams are lost by the kernel; of streams none are.
    sockets: Option<Sockets>,
}

struct Worker {
    tasks: Sender<Task>,
    thread: JoinHandle<Faults>,
}

/// What the threads are told to do, all at the same moment.
#[derive(Clone)]
enum Task {
    /// To open the connections of these numbers.
    Open(Range<usize>),
    /// One stretch of load.
    Load(Order),
}

/// A stretch of load.
#[derive(Clone, Copy)]
pub struct Order {
    /// When it begins.
    pub begin: Instant,
    /// When messages depart in it.
    pub pace: Pace,
    /// How many connections there are, over all threads.
    pub connections: usize,
    /// How long the server is loaded unmeasured.
    pub warmup: Duration,
    /// How long after that it is measured.
    pub duration: Duration,
}

/// What a thread says.
enum Part {
    /// That it has what it needs of the system, or why not.
    Ready(io::Result<()>),
    /// Of its connections as they were opened.
    Opened(Box<Connecting>),
    /// In a second of the measured time, which is over.
    Second(usize, Box<Interval>),
    /// Since then, and in all.
    Rest(Box<Window>),
}

/// Where a thread says what it saw.
pub struct Seen(Sender<Part>);

impl Seen {
    /// Tells that the system refuses what the thread needs.
    fn refused(&self, error: io::Error) -> Faults {
        let _ = self.0.send(Part::Ready(Err(error)));
        Faults::default()
    }

    /// Takes what was seen in the second that is over.
    pub fn second(&self, window: &mut Window) {
        let (second, interval) = window.cut();
        let _ = self.0.send(Part::Second(second, Box::new(interval)));
    }
}

impl Engine {
    /// Opens the connections of `plan`; returns when each came up or failed. `stop` ends whatever the
    /// engine does, early and in order.
    ///
    /// # Errors
    /// Where the system refuses threads or pollers. A connection that fails is in [`Connecting`].
    pub fn open(plan: &Plan, stop: &Arc<AtomicBool>) -> io::Result<(Self, Connecting)> {
        let mut engine = Self::new(plan, stop)?;
        let connecting = engine.grow(plan.connections);
        Ok((engine, connecting))
    }

    /// The threads, with no connections yet.
    ///
    /// # Errors
    /// Where the system refuses threads or pollers.
    pub fn new(plan: &Plan, stop: &Arc<AtomicBool>) -> io::Result<Self> {
        let payload = Arc::new(Payload::new(plan.seed));
        let run = rand::random();
        let (parts, seen) = mpsc::channel();
        let mut workers = Vec::new();
        for n in 0..plan.threads {
            let (tasks, to_do) = mpsc::channel();
            let parts = Seen(parts.clone());
            let desk = Desk::new(plan, n, stop);
            let payload = Arc::clone(&payload);
            let thread = thread::Builder::new().name(format!("load-{n}")).spawn(move || {
                have_descriptors_of_its_own();
                let readiness = match Readiness::new() {
                    Ok(readiness) => readiness,
                    Err(error) => return parts.refused(error),
                };
                match desk.plan.transport() {
                    Transport::Tcp => work(Crew::new(desk, readiness, payload), n, to_do, &parts),
                    Transport::Udp => {
                        let Plan { size, verify, .. } = &desk.plan;
                        let format = Format { run, sizes: size.clone(), verify: *verify, payload };
                        work(Flows::new(desk, readiness, format), n, to_do, &parts)
                    }
                }
            })?;
            workers.push(Worker { tasks, thread });
        }
        let sockets = match plan.endpoint {
            Endpoint::Udp(server) => Some(Sockets::new(Vec::new(), server)),
            Endpoint::Tcp(_) | Endpoint::Unix(_) => None,
        };
        let engine = Self { plan: plan.clone(), workers, seen, connections: 0, sockets };
        let mut ready = Ok(());
        engine.hear(|part| {
            let Part::Ready(of_thread) = part else { return false };
            ready = mem::replace(&mut ready, Ok(())).and(of_thread);
            true
        });
        ready.map(|()| engine)
    }

    /// Opens connections until there are so many; returns when each came up or failed.
    pub fn grow(&mut self, connections: usize) -> Connecting {
        self.tell(&Task::Open(self.connections..connections));
        self.connections = connections;
        let mut connecting = Connecting::new();
        self.hear(|part| {
            let Part::Opened(of_thread) = part else { return false };
            connecting.merge(*of_thread);
            true
        });
        if let Some(sockets) = &mut self.sockets {
            sockets.watch(mem::take(&mut connecting.inodes));
        }
        connecting
    }

    fn tell(&self, task: &Task) {
        for worker in &self.workers {
            let _ = worker.tasks.send(task.clone());
        }
    }

    /// Hears what the threads say until each has come to its end, which `hear` tells.
    fn hear(&self, mut hear: impl FnMut(Part) -> bool) {
        let mut ends = 0;
        while ends < self.workers.len() {
            match self.seen.recv_timeout(Duration::from_secs(1)) {
                Ok(part) => ends += usize::from(hear(part)),
                // A thread that has panicked says nothing more; `finish` passes that on.
                Err(_) if self.workers.iter().any(|worker| worker.thread.is_finished()) => break,
                Err(_) => {}
            }
        }
    }

    /// Loads the server for `warmup` and then `duration`, of which only the latter is measured, and waits for
    /// the last answers. The connections stay open.
    pub fn run(&self, warmup: Duration, duration: Duration) -> Window {
        self.run_at(self.plan.pace, warmup, duration)
    }

    /// The same at another pace than the plan's.
    pub fn run_at(&self, pace: Pace, warmup: Duration, duration: Duration) -> Window {
        let before = self.sockets.as_ref().map(Sockets::drops);
        let Self { connections, .. } = *self;
        self.tell(&Task::Load(Order { begin: Instant::now(), pace, connections, warmup, duration }));
        let mut gathering = Gathering::new(self.workers.len());
        self.hear(|part| match part {
            Part::Second(second, interval) => {
                gathering.second(second, &interval);
                false
            }
            Part::Rest(window) => {
                gathering.rest(*window);
                true
            }
            Part::Opened(_) | Part::Ready(_) => false,
        });
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
fn work<S: Share>(mut share: S, number: usize, to_do: Receiver<Task>, seen: &Seen) -> Faults {
    let _ = seen.0.send(Part::Ready(Ok(())));
    for task in to_do {
        let _ = seen.0.send(match task {
            Task::Open(numbers) => Part::Opened(Box::new(share.connect(numbers, number))),
            Task::Load(order) => Part::Rest(Box::new(share.run(order, seen))),
        });
    }
    share.finish()
}

/// The calling thread has its own table of descriptors from now on (unshare(2)): in a table that threads share, every
/// system call counts who uses the descriptor. What it opens is closed by it. Where that is refused, they are shared.
fn have_descriptors_of_its_own() {
    let _ = unshare(CloneFlags::CLONE_FILES);
}
