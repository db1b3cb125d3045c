//! A pool's workers: hired, replaced when they end early, and waited for at the end.
//!
//! The server is ready when the first worker of each place is; where one of those cannot be had, the start is refused.
//! What is refused later leaves a place empty for a while. Where each worker has a socket of its own, the pool's owner
//! then stands in at that socket (`stand_in`), so that no client waits at a socket that nobody reads.
//!
//! They are threads or processes. Who ends in order before the server does has retired, and is replaced at
//! once; who dies young, or ends young and has served nothing, is replaced with patience, for it may end of what all
//! would end of.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    iter,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, Builder, Scope},
    time::{Duration, Instant},
};

use crate::{
    accept::{Client, Other, Pauses},
    config::Isolate,
    model::Context,
    process::{Children, Ended, Rank},
    scoreboard::{Tally, Trouble},
    seats::Holder,
    shutdown::{Ending, wait_readable},
    stand_in::{Nobody, StandIn},
};

/// The workers of a server, numbered from 0.
pub struct Pool<'scope, 'env> {
    ctx: &'env Context,
    crew: Crew<'scope, 'env>,
    empty: Vec<usize>,
    pauses: Pauses,
}

enum Crew<'scope, 'env> {
    Processes(Children<Worker>),
    Threads(Threads<'scope, 'env>),
}

struct Worker {
    n: usize,
    hired: Instant,
    /// How much those in its place had served before it.
    served_before: u64,
}

/// Threads that say when they end: each writes its number, and whether it ended in order, into a socket.
struct Threads<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    alive: HashMap<usize, Worker>,
    ended: UnixStream,
    end: Arc<UnixStream>,
}

/// A worker that ended.
struct Gone {
    worker: Worker,
    /// The process that it was; `None` of a thread.
    pid: Option<u32>,
    well: bool,
    how: String,
}

/// How long a worker that has yet to hand over its groups may go without getting on with it, when the drain is over.
/// That is longer than the archivist may keep it waiting.
const GETS_ON_WITHIN: Duration = Duration::from_secs(5);

/// A worker that dies sooner than this is not replaced at once.
const TOO_YOUNG_TO_DIE: Duration = Duration::from_secs(1);

/// Runs `serve` with a pool of what `ctx` says workers are.
///
/// # Errors
/// Those of `serve`, and where the system refuses what a pool needs.
pub fn with<'env, F>(ctx: &'env Context, serve: F) -> io::Result<()>
where
    F: for<'scope> FnOnce(Pool<'scope, 'env>) -> io::Result<()>,
{
    match ctx.settings.isolate {
        Isolate::Processes => serve(Pool::of_processes(ctx)?),
        Isolate::Threads => thread::scope(|scope| serve(Pool::of_threads(ctx, scope)?)),
    }
}

/// The clients that a worker serves before it retires. Once the server ends nobody does, since nobody would come
/// after.
pub fn until_retired<'a>(
    mut clients: impl Iterator<Item = Client<'a>>,
    ctx: &'a Context,
) -> impl Iterator<Item = Client<'a>> {
    let mut served = 0;
    iter::from_fn(move || {
        if served >= ctx.settings.clients_a_worker && !ctx.shutdown.is_requested() {
            return None;
        }
        served += 1;
        clients.next()
    })
}

/// Runs workers until the server is told to end, and waits until they have ended. `hire` says what worker number n is to
/// do; for who is missing `stand_in` does what can be done.
///
/// A single thread is this one: in a process of several threads each system call takes a reference on its
/// descriptor (fdget in the kernel), which costs two percent of an echo.
///
/// # Errors
/// Where the system refuses what a pool needs; those of a single worker.
pub fn run<'env, W>(
    ctx: &'env Context,
    stand_in: &mut impl StandIn,
    mut hire: impl FnMut(usize) -> io::Result<W>,
) -> io::Result<()>
where
    W: FnOnce() -> io::Result<()> + Send + 'env,
{
    if ctx.settings.workers == 1 && ctx.settings.isolate == Isolate::Threads {
        ctx.settings.pin_worker(0);
        ctx.board.alone();
        stand_in.ends(true);
        return hire(0)?();
    }
    with(ctx, |mut pool| {
        pool.keep_served(stand_in, hire);
        pool.drain_loops(|| stand_in.ends(true));
        Ok(())
    })
}

impl<'scope, 'env> Pool<'scope, 'env> {
    /// A pool of processes, all places empty.
    ///
    /// # Errors
    /// Where the kernel refuses the signal handlers.
    pub fn of_processes(ctx: &'env Context) -> io::Result<Self> {
        Ok(Self::of(ctx, Crew::Processes(Children::new()?)))
    }

    /// A pool of threads, all places empty.
    ///
    /// # Errors
    /// Where descriptors ran out.
    pub fn of_threads(ctx: &'env Context, scope: &'scope Scope<'scope, 'env>) -> io::Result<Self> {
        let (ended, end) = UnixStream::pair()?;
        ended.set_nonblocking(true)?;
        let (alive, end) = (HashMap::new(), Arc::new(end));
        Ok(Self::of(ctx, Crew::Threads(Threads { scope, alive, ended, end })))
    }

    fn of(ctx: &'env Context, crew: Crew<'scope, 'env>) -> Self {
        let empty = (0..ctx.settings.workers).rev().collect();
        Self { ctx, crew, empty, pauses: Pauses::new() }
    }

    /// Hires a worker for each empty place, unless the last attempt asked for a pause. `hire` says what
    /// worker number n is to do until the server ends, or it retires. Returns which places were filled.
    pub fn fill<W>(&mut self, mut hire: impl FnMut(usize) -> io::Result<W>) -> Vec<usize>
    where
        W: FnOnce() -> io::Result<()> + Send + 'scope,
    {
        let mut filled = Vec::new();
        self.pauses.end();
        while self.pauses.left().is_none() && !self.ctx.startup.is_refused() {
            let Some(n) = self.empty.pop() else { break };
            let ctx = self.ctx;
            let hired = hire(n).and_then(|work| {
                let served_before = ctx.board.worker(n).served();
                let worker = Worker { n, hired: Instant::now(), served_before };
                self.crew.start(worker, ctx, move || {
                    ctx.settings.pin_worker(n);
                    work()
                })
            });
            match hired {
                Ok(()) => filled.push(n),
                Err(error) => {
                    self.ctx.board.worker(n).trouble(self.crew.refusal());
                    self.empty.push(n);
                    if ctx.refuses_start(&what(n, ctx), &error) {
                        break;
                    }
                    self.pause(&format!("worker {n} could not be started: {error}"));
                }
            }
        }
        filled
    }

    /// Keeps the pool whole until the server is told to end; then it is made whole for the last time, for who
    /// is yet to be served.
    pub fn keep_whole<W>(&mut self, hire: impl FnMut(usize) -> io::Result<W>)
    where
        W: FnOnce() -> io::Result<()> + Send + 'scope,
    {
        self.keep_served(&mut Nobody, hire);
    }

    /// The same, and has `stand_in` do the work of empty places meanwhile.
    pub fn keep_served<W>(
        &mut self,
        stand_in: &mut impl StandIn,
        mut hire: impl FnMut(usize) -> io::Result<W>,
    ) where
        W: FnOnce() -> io::Result<()> + Send + 'scope,
    {
        loop {
            self.bury_the_dead();
            let ends = self.ctx.shutdown.is_requested();
            self.fill(|n| {
                stand_in.leaves(n);
                hire(n)
            });
            self.empty.iter().for_each(|&n| stand_in.takes_over(n));
            let others = !self.is_empty();
            if ends {
                stand_in.ends(others);
                return;
            }
            let [_, _, waits] = wait_readable(
                [Some(self.as_fd()), Some(self.ctx.shutdown.as_fd()), stand_in.work(others)],
                self.pause_left(),
            );
            if waits {
                stand_in.turn();
            }
        }
    }

    /// What a pool's owner waits for beside its clients: a worker that ended, or an empty place to fill.
    pub fn news(&self) -> Other<'_> {
        Other { fd: Some(self.as_fd()), timeout: self.pause_left() }
    }

    /// What is left of the pause before an empty place is filled, which may be nothing; `None`: no place is
    /// empty.
    fn pause_left(&self) -> Option<Duration> {
        (!self.empty.is_empty()).then(|| self.pauses.left().unwrap_or_default())
    }

    /// Accounts for workers that have ended, whose places are empty now. Returns their numbers.
    pub fn bury_the_dead(&mut self) -> Vec<usize> {
        let gone = self.crew.gone();
        gone.iter().for_each(|gone| self.bury(gone));
        gone.into_iter().map(|gone| gone.worker.n).collect()
    }

    fn bury(&mut self, gone: &Gone) {
        let Worker { n, hired, served_before } = gone.worker;
        self.clear_up_after(gone);
        self.empty.push(n);
        let tally = self.ctx.board.worker(n);
        if !gone.well {
            tally.trouble(Trouble::WorkerDied);
            if self.ctx.refuses_start(&what(n, self.ctx), &io::Error::other(gone.how.as_str())) {
                return;
            }
            log::warn!("worker {n} died: {}", gone.how);
        }
        let retired = gone.well && (tally.served() > served_before || self.ctx.shutdown.is_requested());
        if !retired && hired.elapsed() < TOO_YOUNG_TO_DIE {
            self.pause("a worker died young, or ended and had served nothing");
        }
    }

    /// What a worker held is given back. Returns how many clients it lost.
    fn clear_up_after(&self, gone: &Gone) -> u64 {
        self.ctx.board.worker(gone.worker.n).ended();
        let Some(pid) = gone.pid else { return 0 }; // a thread's seats were dropped in order
        self.ctx.seats.leave_all_of(Holder::process(pid));
        self.ctx.board.worker(gone.worker.n).vacated()
    }

    fn pause(&mut self, what: &str) {
        let delay = self.pauses.begin();
        if self.ctx.board.may_speak() {
            log::warn!("{what}; trying again in {delay:?}");
        }
    }

    /// Whether no worker is left.
    pub fn is_empty(&self) -> bool {
        match &self.crew {
            Crew::Processes(children) => children.count() == 0,
            Crew::Threads(threads) => threads.alive.is_empty(),
        }
    }

    /// Waits until all processes have ended, and helps them through the stages of the end (`Children::drain`),
    /// since they block in calls. `each_turn` runs before each wait, and says when it is to run again.
    pub fn drain(&mut self, each_turn: impl FnMut() -> Duration) {
        self.drain_until(self.ctx.ending(), each_turn);
    }

    /// The same for loops, which go through the stages of the end by themselves. One that is a process and is
    /// still there a moment later is killed.
    pub fn drain_loops(&mut self, mut each_turn: impl FnMut() -> Duration) {
        self.drain_until(self.ctx.ending().and_a_moment(), &mut each_turn);
        while !self.is_empty() {
            wait_readable([Some(self.as_fd())], Some(each_turn()));
            self.bury_the_dead();
        }
    }

    fn drain_until(&mut self, ending: Ending, each_turn: impl FnMut() -> Duration) {
        let Crew::Processes(children) = &mut self.crew else { return };
        let (mut ended, mut patience) = (Vec::new(), Patience::default());
        let is_spared = |worker: &Worker| patience.has_with(worker.n, self.ctx.board.worker(worker.n));
        children
            .drain_sparing(ending, is_spared, each_turn, |child, cut| ended.push((Gone::from(child), cut)));
        for (gone, cut) in ended {
            let lost = self.clear_up_after(&gone);
            let tally = self.ctx.board.worker(gone.worker.n);
            match (gone.well, cut) {
                (true, _) => {}
                (false, true) => (0..lost).for_each(|_| tally.trouble(Trouble::Cut)),
                (false, false) => tally.trouble(Trouble::WorkerDied),
            }
        }
    }
}

/// With workers that hold groups when the drain is over: by number, how much of them was copied when it was last seen
/// to grow, and when that was.
#[derive(Default)]
struct Patience(HashMap<usize, (u64, Instant)>);

impl Patience {
    /// Whether the worker holds groups, and gets on with handing them over.
    fn has_with(&mut self, n: usize, tally: &Tally) -> bool {
        let (held, copied) = tally.copied();
        let seen = self.0.entry(n).or_insert((copied, Instant::now()));
        if seen.0 != copied {
            *seen = (copied, Instant::now());
        }
        held > 0 && seen.1.elapsed() < GETS_ON_WITHIN
    }
}

impl AsFd for Pool<'_, '_> {
    /// Readable when a worker may have ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.crew {
            Crew::Processes(children) => children.as_fd(),
            Crew::Threads(threads) => threads.ended.as_fd(),
        }
    }
}

/// How a worker is called where the start is refused because of it.
fn what(n: usize, ctx: &Context) -> String {
    format!("worker {} of {} cannot be started", n + 1, ctx.settings.workers)
}

impl<'scope, 'env> Crew<'scope, 'env> {
    fn start<W>(&mut self, worker: Worker, ctx: &'env Context, work: W) -> io::Result<()>
    where
        W: FnOnce() -> io::Result<()> + Send + 'scope,
    {
        let n = worker.n;
        let work = move || {
            ctx.board.worker(n).occupied_by(std::process::id());
            let worked = work();
            if let Err(error) = &worked
                && !ctx.refuses_start(&what(n, ctx), error)
            {
                log::error!("worker {n}: {error}");
            }
            worked.is_ok()
        };
        match self {
            Self::Processes(children) => children.fork(Rank::Worker, worker, || u8::from(!work())).map(drop),
            Self::Threads(threads) => threads.spawn(worker, work),
        }
    }

    fn gone(&mut self) -> Vec<Gone> {
        match self {
            Self::Processes(children) => children.reap().into_iter().map(Gone::from).collect(),
            Self::Threads(threads) => threads.gone(),
        }
    }

    /// What it is called when a worker is refused.
    fn refusal(&self) -> Trouble {
        match self {
            Self::Processes(_) => Trouble::Fork,
            Self::Threads(_) => Trouble::Thread,
        }
    }
}

impl<'scope> Threads<'scope, '_> {
    fn spawn(&mut self, worker: Worker, work: impl FnOnce() -> bool + Send + 'scope) -> io::Result<()> {
        let n = worker.n;
        let end = Arc::clone(&self.end);
        Builder::new().spawn_scoped(self.scope, move || {
            let well = catch_unwind(AssertUnwindSafe(work)).unwrap_or(false);
            let _ = (&*end).write_all(&message(n, well));
        })?;
        self.alive.insert(n, worker);
        Ok(())
    }

    fn gone(&mut self) -> Vec<Gone> {
        let mut gone = Vec::new();
        let mut said = [0; 8];
        while self.ended.read_exact(&mut said).is_ok() {
            let n = (u64::from_ne_bytes(said) >> 1) as usize;
            let well = said == message(n, true);
            let how = "its thread panicked or failed".to_owned();
            gone.extend(self.alive.remove(&n).map(|worker| Gone { worker, pid: None, well, how }));
        }
        gone
    }
}

/// What a thread says when it ends, in one write.
fn message(n: usize, well: bool) -> [u8; 8] {
    ((n as u64) << 1 | u64::from(well)).to_ne_bytes()
}

impl From<Ended<Worker>> for Gone {
    fn from(child: Ended<Worker>) -> Self {
        let well = child.is_well();
        let pid = child.status.pid().map(|pid| pid.as_raw().cast_unsigned());
        Self { how: format!("{:?}", child.status), worker: child.who, pid, well }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use clap::Parser;

    use super::*;
    use crate::{
        cli::Cli, config::Config, rate::RateLimit, repeats::RepeatLimit, scoreboard::Scoreboard,
        seats::Seats, shutdown::Shutdown, startup::Startup,
    };

    #[test]
    fn who_ends_at_once_and_has_served_nothing_is_replaced_with_patience() {
        let typed = Cli::parse_from(["echo-server", "--model", "thread-pool", "--workers", "2"]);
        let shutdown = Arc::new(Shutdown::on([]).unwrap());
        let ctx = Context {
            settings: Config::new(typed.serve).unwrap().settings,
            board: Arc::new(Scoreboard::new(2).unwrap()),
            seats: Arc::new(Seats::new(Default::default()).unwrap()),
            rate: Arc::new(RateLimit::new(None).unwrap()),
            repeats: Arc::new(RepeatLimit::new(None).unwrap()),
            archive: None,
            startup: Arc::new(Startup::new(1, Arc::clone(&shutdown), || Ok(())).unwrap()),
            shutdown,
        };
        let hired = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(300)); // the time that is measured
                ctx.shutdown.request();
            });
            let mut pool = Pool::of_threads(&ctx, scope).unwrap();
            pool.keep_whole(|_| {
                hired.fetch_add(1, Relaxed);
                Ok(|| Ok(()))
            });
        });
        let hired = hired.load(Relaxed);
        assert!(hired < 30, "{hired} were hired in 300 ms, to do nothing");
    }
}
