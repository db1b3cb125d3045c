//! The threads of the load. Each has a poller and its share of the connections, and drives them at the plan's
//! pace. An engine is opened once, runs one stretch of load or several, and is closed.

use std::{
    cell::Cell,
    io, mem,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arguments::{Endpoint, Transport};
use nix::sched::{CloneFlags, unshare};

use super::{
    Change, Connecting, Faults, Nobody, Onlooker, Pace, Plan, Window,
    crew::Crew,
    datagram::Format,
    drops::{Server, of_the_backlog},
    flows::Flows,
    meter::TICK,
    pauses::Throttling,
    payload::Payload,
    plan::Means,
    readiness::Readiness,
    recorder::{Interval, Punctuality},
    ring::Ring,
    series::Gathering,
    stretch::{Desk, Share},
    tempo::Tempo,
};

/// A run's threads, which hold its connections.
pub struct Engine {
    plan: Plan,
    workers: Vec<Worker>,
    seen: Receiver<Part>,
    /// In an open loop: all threads keep it.
    tempo: Arc<Tempo>,
    /// How many connections were to be opened so far.
    connections: usize,
    /// Whose socket may be too full for datagrams; for streams it is not.
    server: Option<Server>,
    /// Whether the user asked for an end.
    stop: Arc<AtomicBool>,
}

struct Worker {
    tasks: Sender<Task>,
    /// Where it has its intervals from, and has them back; and how many there are.
    spare: Sender<Box<Interval>>,
    spares: Cell<usize>,
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
    /// How many connections there are, over all threads of all ranks.
    pub connections: usize,
    /// How long the server is loaded unmeasured.
    pub warmup: Duration,
    /// How long after that it is measured.
    pub duration: Duration,
    /// How long the parts are that it is cut into.
    pub interval: Duration,
    /// Whether each connection's answers are counted on from the stretch before.
    pub counts_on: bool,
}

/// What a thread says.
enum Part {
    /// That it has what it needs of the system, or why not.
    Ready(io::Result<()>),
    /// Of its connections as they were opened.
    Opened(Box<Connecting>),
    /// In a second of the measured time, which is over; of which worker's memory it is.
    Second(usize, Box<Interval>, usize),
    /// Since then, and in all.
    Rest(Box<Window>),
}

/// Where a thread says what it saw.
pub struct Seen {
    parts: Sender<Part>,
    /// Which of the workers it is.
    worker: usize,
    /// Empty intervals, which have come back from where they were read: the thread makes none while it loads.
    spare: Receiver<Box<Interval>>,
}

/// How long a load is left alone at most where nobody looks on.
const MOST_ALONE: Duration = Duration::from_secs(1);

/// How many intervals a thread has besides those that nobody has read yet.
const SPARE: usize = 2;

impl Seen {
    /// Tells that the system refuses what the thread needs.
    fn refused(&self, error: io::Error) -> Faults {
        self.tell(Part::Ready(Err(error)));
        Faults::default()
    }

    /// Takes what was seen in the second that is over.
    pub fn second(&self, window: &mut Window) {
        let mut interval = self.spare.try_recv().unwrap_or_else(|_| Box::new(Interval::new()));
        let second = window.cut_into(&mut interval);
        self.tell(Part::Second(second, interval, self.worker));
    }

    fn tell(&self, part: Part) {
        let _ = self.parts.send(part);
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
        let connecting = engine.grow(plan.connections, &mut Nobody);
        Ok((engine, connecting))
    }

    /// The threads, with no connections yet.
    ///
    /// # Errors
    /// Where the system refuses threads or pollers.
    pub fn new(plan: &Plan, stop: &Arc<AtomicBool>) -> io::Result<Self> {
        let payload = Arc::new(Payload::new(plan.seed));
        let run = rand::random();
        let tempo = Arc::new(Tempo::new());
        let (parts, seen) = mpsc::channel();
        let mut workers = Vec::new();
        for n in 0..plan.threads {
            let (tasks, to_do) = mpsc::channel();
            let (spare, spares) = mpsc::channel();
            let parts = Seen { parts: parts.clone(), worker: n, spare: spares };
            let lane = plan.lane(n);
            let desk = Desk::new(plan, lane, &tempo, stop);
            let payload = Arc::clone(&payload);
            let thread = thread::Builder::new().name(format!("load-{n}")).spawn(move || {
                have_descriptors_of_its_own();
                let begun = match (desk.plan.transport(), desk.plan.means) {
                    (Transport::Tcp, Means::Mio) => Readiness::new()
                        .map(|readiness| work(Crew::new(desk, readiness, payload), lane, to_do, &parts)),
                    (Transport::Tcp, Means::IoUring) => Ring::new(Arc::clone(&payload))
                        .map(|ring| work(Crew::new(desk, ring, payload), lane, to_do, &parts)),
                    (Transport::Udp, _) => {
                        let Plan { size, verify, .. } = &desk.plan;
                        let format = Format { run, sizes: size.clone(), verify: *verify, payload };
                        Readiness::new()
                            .map(|readiness| work(Flows::new(desk, readiness, format), lane, to_do, &parts))
                    }
                };
                begun.unwrap_or_else(|error| parts.refused(error))
            })?;
            workers.push(Worker { tasks, spare, spares: Cell::new(0), thread });
        }
        let server = match plan.endpoint {
            Endpoint::Udp(server) => Server::on_this_machine(server),
            Endpoint::Tcp(_) | Endpoint::Unix(_) => None,
        };
        let stop = Arc::clone(stop);
        let engine = Self { plan: plan.clone(), workers, seen, tempo, connections: 0, server, stop };
        let mut ready = Ok(());
        engine.hear(&mut Nobody, |part, _| {
            let Part::Ready(of_thread) = part else { return false };
            ready = mem::replace(&mut ready, Ok(())).and(of_thread);
            true
        });
        ready.map(|()| engine)
    }

    /// What it does.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Opens connections until there are so many; returns when each came up or failed.
    pub fn grow(&mut self, connections: usize, onlooker: &mut dyn Onlooker) -> Connecting {
        onlooker.opening(connections);
        self.tell(&Task::Open(self.connections..connections));
        self.connections = connections;
        let mut connecting = Connecting::new();
        self.hear(onlooker, |part, _| {
            let Part::Opened(of_thread) = part else { return false };
            connecting.merge(*of_thread);
            true
        });
        onlooker.opened(&connecting);
        connecting
    }

    /// Has each thread have so many intervals, so that it makes none while it loads.
    fn have_spares(&self, spares: usize) {
        let punctuality = || self.plan.is_open().then(Punctuality::new);
        for worker in &self.workers {
            for _ in worker.spares.get()..spares {
                let _ =
                    worker.spare.send(Box::new(Interval { punctuality: punctuality(), ..Interval::new() }));
            }
            worker.spares.set(worker.spares.get().max(spares));
        }
    }

    /// Sleeps until then, or until the user has enough of it.
    fn leave_alone(&self, until: Instant) {
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.stop.load(Relaxed) {
                return;
            }
            thread::sleep(left.min(TICK));
        }
    }

    fn tell(&self, task: &Task) {
        for worker in &self.workers {
            let _ = worker.tasks.send(task.clone());
        }
    }

    /// Hears what the threads say until each has come to its end, which `hear` tells.
    fn hear(&self, onlooker: &mut dyn Onlooker, mut hear: impl FnMut(Part, &mut dyn Onlooker) -> bool) {
        let mut ends = 0;
        while ends < self.workers.len() {
            match self.seen.recv_timeout(onlooker.every()) {
                Ok(part) => ends += usize::from(hear(part, onlooker)),
                // A thread that has panicked says nothing more; `finish` passes that on.
                Err(_) if self.workers.iter().any(|worker| worker.thread.is_finished()) => break,
                Err(_) => {}
            }
            if let Some(per_second) = onlooker.look() {
                self.tempo.change(per_second);
            }
        }
    }

    /// Loads the server for `warmup` and then `duration`, of which only the latter is measured, and waits for
    /// the last answers. The connections stay open.
    pub fn run(&self, warmup: Duration, duration: Duration) -> Window {
        self.load(self.plan.pace, [warmup, duration], false, &mut Nobody)
    }

    /// The same as one more slice of what came before: each connection's answers are counted on.
    pub fn go_on(&self, warmup: Duration, duration: Duration) -> Window {
        self.load(self.plan.pace, [warmup, duration], true, &mut Nobody)
    }

    /// The same at another pace than the plan's, and before an onlooker.
    pub fn run_at(
        &self,
        pace: Pace,
        warmup: Duration,
        duration: Duration,
        onlooker: &mut dyn Onlooker,
    ) -> Window {
        self.load(pace, [warmup, duration], false, onlooker)
    }

    fn load(
        &self,
        pace: Pace,
        [warmup, duration]: [Duration; 2],
        counts_on: bool,
        onlooker: &mut dyn Onlooker,
    ) -> Window {
        let Self { connections, plan: Plan { interval, .. }, .. } = *self;
        let before = self.server.as_ref().map(Server::drops);
        let (backlog, throttled) = (of_the_backlog(), Throttling::by_now());
        // Where nobody looks on, what the threads have seen is put together afterwards: that takes a processor, which may be
        // theirs.
        let alone = if onlooker.is_nobody() { (warmup + duration).min(MOST_ALONE) } else { Duration::ZERO };
        self.have_spares(SPARE + alone.div_duration_f64(interval) as usize);
        let begin = Instant::now();
        let order = Order { begin, pace, connections, warmup, duration, interval, counts_on };
        self.tempo.restart(order.begin);
        onlooker.begins(&order);
        self.tell(&Task::Load(order));
        self.leave_alone(begin + alone);
        let mut gathering = Gathering::new(self.workers.len(), interval);
        self.hear(onlooker, |part, onlooker| match part {
            Part::Second(second, mut interval, worker) => {
                gathering.second(second, &interval, onlooker);
                interval.clear();
                let _ = self.workers[worker].spare.send(interval);
                false
            }
            Part::Rest(window) => {
                gathering.rest(*window);
                true
            }
            Part::Opened(_) | Part::Ready(_) => false,
        });
        let mut all = gathering.whole(onlooker);
        all.throttled = Throttling::by_now().zip(throttled).map(|(now, before)| now.since(before));
        if let Some(audit) = &mut all.audit {
            let server = before.zip(self.server.as_ref());
            audit.server_kernel_drops = server.and_then(|(before, server)| server.drops().since(&before));
            audit.backlog_drops =
                of_the_backlog().zip(backlog).map(|(now, before)| now.saturating_sub(before));
        }
        all
    }

    /// How the rate was changed in the last stretch.
    pub fn changes(&self) -> Vec<Change> {
        self.tempo.changes()
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
fn work<S: Share>(mut share: S, lane: usize, to_do: Receiver<Task>, seen: &Seen) -> Faults {
    seen.tell(Part::Ready(Ok(())));
    for task in to_do {
        seen.tell(match task {
            Task::Open(numbers) => Part::Opened(Box::new(share.connect(numbers, lane))),
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
