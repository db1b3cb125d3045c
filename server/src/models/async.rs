//! A task per connection, on tokio. A task is what a thread would be, but that it says where it waits, and
//! so costs no stack; the runtime's threads run whichever tasks can go on. Datagrams know no connection: there a
//! task has a socket, and there is one a worker.
//!
//! With one worker the runtime is single-threaded. Work is done inside the task, where it holds up the others
//! of its thread, on purpose; `--offload` hands it to threads that may block.
//!
//! See also: tokio.rs; "Asynchronous Programming in Rust". Next: `io-uring`, in which the kernel does the waiting
//! and the receiving.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    pin::{Pin, pin},
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::{Builder, Runtime},
    task::{JoinError, JoinSet, spawn_blocking, yield_now},
    time::{Sleep, sleep, timeout},
};

use crate::{
    accept::{Attempt, Door},
    connection::{Connection, Next},
    datagram::{Batch, Outlet, PATIENCE},
    exchange::{self, Exchange, Judge},
    idle::{LOOKS, Look, Signs},
    model::{AtOnce, Context, Model, Serve, Way},
    scoreboard::{Tally, Trouble},
    session::{Company, Guest},
    shutdown::Stage,
    socket::{Datagrams, Held, Listener, Stream},
};

pub const MODEL: Model = Model {
    name: "async",
    summary: "a tokio task per connection",
    at_once: AtOnce::ManyAWorker,
    is_loop: false,
    isolates: &[],
    tcp: &[Way { dispatch: "", serve: Serve::One(serve) }],
    udp: &[Way { dispatch: "", serve: Serve::OneEach(serve_datagrams) }],
    supported: || Ok(()),
};

/// What all tasks use.
struct House {
    ctx: Context,
    company: Company,
}

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    on_a_runtime(ctx, |house| run(listener, house))
}

fn serve_datagrams(sockets: Vec<Datagrams>, ctx: &Context) -> io::Result<()> {
    sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    on_a_runtime(ctx, |house| run_datagrams(sockets, house))
}

/// Runs a model's main task until it ends.
fn on_a_runtime<T>(ctx: &Context, main: impl FnOnce(&'static House) -> T) -> io::Result<()>
where
    T: Future<Output = io::Result<()>> + Send + 'static,
{
    // A task may outlive whoever spawned it, so what it uses has to stay: as long as the process.
    let house: &'static House = Box::leak(Box::new(House { ctx: ctx.clone(), company: Company::default() }));
    ask_for_threads(ctx.settings.workers)?;
    runtime(house)?.block_on(async {
        let mut tasks = JoinSet::new();
        tasks.spawn(main(house));
        tasks.join_next().await.map_or(Ok(()), |ended| ended?)
    })
}

thread_local! {
    /// Which worker this thread is.
    static WORKER: Cell<usize> = const { Cell::new(0) };
    /// What the conversations of this thread read into, one at a time.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// tokio panics where it is refused a thread, so whether there are enough is asked first.
fn ask_for_threads(n: usize) -> io::Result<()> {
    let gate = RwLock::new(());
    thread::scope(|scope| {
        let _closed = gate.write();
        (0..n).try_for_each(|_| thread::Builder::new().spawn_scoped(scope, || drop(gate.read())).map(drop))
    })
}

fn runtime(house: &'static House) -> io::Result<Runtime> {
    let settings = &house.ctx.settings;
    let mut builder = match settings.workers {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let workers = settings.workers;
    if workers == 1 {
        settings.pin_worker(0); // this thread, which no hook is called for
    }
    let started = AtomicUsize::new(usize::from(workers == 1));
    builder.worker_threads(workers).enable_io().enable_time();
    // How many tasks run between two waits: as many as one wait may wake. The default, 61, asks the kernel for more
    // while many still wait.
    builder.event_interval(1024);
    builder.on_thread_start(move || {
        // Threads that may block come after the workers, and count with them.
        let n = started.fetch_add(1, Relaxed);
        WORKER.set(n % workers);
        if n < workers {
            settings.pin_worker(n);
        }
    });
    (0..workers).for_each(|n| house.ctx.board.worker(n).occupied_by(std::process::id()));
    builder.build()
}

/// The tally of the worker that this thread is.
fn tally(ctx: &Context) -> &Tally {
    ctx.board.worker(WORKER.get())
}

/// Lets clients in until the server is told to end, and waits until all have left.
async fn run(listener: Listener, house: &'static House) -> io::Result<()> {
    let ctx = &house.ctx;
    let shutdown = watched(ctx.shutdown.as_fd(), Interest::READABLE)?;
    let listener = watched(listener, Interest::READABLE)?;
    let mut door = Door::new(ctx, ctx.board.door());
    let mut tasks = JoinSet::new();
    (0..ctx.settings.workers).for_each(|n| ctx.ready(ctx.board.worker(n)));
    loop {
        let pause = door.pause();
        tokio::select! {
            _ = shutdown.readable() => break,
            Some(ended) = tasks.join_next() => bury(&ended, ctx),
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => drop(door.open_again()),
            ready = listener.readable(), if pause.is_none() => {
                let mut ready = ready?;
                if matches!(let_in(&listener, &mut door, &mut tasks, house), Attempt::Nobody) {
                    ready.clear_ready();
                }
            }
        }
    }
    let ending = ctx.ending();
    while ending.stage() == Stage::Draining {
        match let_in(&listener, &mut door, &mut tasks, house) {
            Attempt::Client(_) | Attempt::Lost => {}
            Attempt::Nobody | Attempt::Closed => break,
            Attempt::Pause => {
                sleep(door.pause().unwrap_or_default()).await;
                door.open_again();
            }
        }
    }
    listener.get_ref().stop();
    drop(listener);
    while !tasks.is_empty() {
        house.company.obey(ending.stage(), ctx);
        tokio::select! {
            Some(ended) = tasks.join_next() => bury(&ended, ctx),
            () = sleep(ending.until_next_stage().unwrap_or(Duration::MAX)) => {}
        }
    }
    Ok(())
}

/// What has one descriptor, which is open and the same for as long as this lives.
///
/// # Safety
/// That has to be so, and both traits have to tell of that one.
#[allow(unsafe_code)]
unsafe trait Steady: AsFd + AsRawFd {}

// SAFETY: it borrows one.
#[allow(unsafe_code)]
unsafe impl Steady for BorrowedFd<'_> {}
// SAFETY: it owns its socket.
#[allow(unsafe_code)]
unsafe impl Steady for Listener {}
// SAFETY: it owns its socket.
#[allow(unsafe_code)]
unsafe impl Steady for Datagrams {}

/// Has the runtime watch a descriptor.
#[allow(unsafe_code)]
fn watched<T: Steady>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: it keeps its descriptor open and the same while it is watched.
    Ok(unsafe { AsyncFd::register_with_interest(owner, interest) }?)
}

/// Accepts once, and spawns the client's task.
fn let_in(
    listener: &AsyncFd<Listener>,
    door: &mut Door<'static>,
    tasks: &mut JoinSet<()>,
    house: &'static House,
) -> Attempt<'static, ()> {
    match door.attempt(listener.get_ref().accept_nonblocking()) {
        Attempt::Client(client) => {
            let mut guest = house.company.join(client);
            guest.served_by(tally(&house.ctx));
            tasks.spawn(serve_client(guest, &house.ctx));
            Attempt::Lost
        }
        Attempt::Lost => Attempt::Lost,
        Attempt::Nobody => Attempt::Nobody,
        Attempt::Pause => Attempt::Pause,
        Attempt::Closed => Attempt::Closed,
    }
}

/// A task that panicked costs its client.
fn bury(ended: &Result<(), JoinError>, ctx: &Context) {
    if ended.is_err() {
        ctx.board.door().trouble(Trouble::Panic);
    }
}

/// A client's task.
async fn serve_client(guest: Guest<'static>, ctx: &'static Context) {
    match converse(&guest, ctx).await {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => tally(ctx).trouble(Trouble::IdleTimeout),
        Err(error) => tally(ctx).lost(&error),
    }
}

/// The conversation says what it wants next, and the task waits for that.
async fn converse(guest: &Guest<'static>, ctx: &'static Context) -> io::Result<()> {
    // The descriptor itself lies in the task: the fewer places a message touches, the fewer are not in the cache.
    let socket = watched(guest.stream().as_fd(), Interest::READABLE | Interest::WRITABLE)?;
    let mut silence = ctx.settings.idle_timeout.map(Silence::new);
    let mut connection = Connection::default();
    let mut wanted = Next::Read;
    while wanted != Next::Close {
        let ready = poll_fn(|task| match wanted {
            Next::Write => socket.poll_write_ready(task),
            _ => socket.poll_read_ready(task),
        });
        let mut ready = match &mut silence {
            None => ready.await?,
            Some(silence) => silence.limit(ready, guest.stream(), wanted != Next::Write).await?,
        };
        let fin_seen = ready.ready().is_read_closed();
        let next;
        (connection, next) = match ctx.settings.offload {
            false => turn(connection, &SockRef::from(socket.get_ref()), fin_seen, ctx),
            true => {
                let stream = Arc::clone(guest.stream());
                spawn_blocking(move || turn(connection, &stream, fin_seen, ctx)).await?
            }
        };
        wanted = next?;
        match wanted {
            Next::Turn => yield_now().await,
            _ => ready.clear_ready(),
        }
    }
    Ok(())
}

/// Lets a conversation take its turn, on the thread that this is.
fn turn(
    mut connection: Connection,
    mut stream: &Stream,
    fin_seen: bool,
    ctx: &Context,
) -> (Connection, io::Result<Next>) {
    let next = SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(ctx.settings.buffer, 0);
        connection.turn(&mut stream, scratch, fin_seen, ctx.settings.work, tally(ctx))
    });
    (connection, next)
}

/// `--idle-timeout` of a task: one timer, which is set anew when it goes off, and not with each message.
struct Silence {
    limit: Duration,
    signs: Signs,
    alarm: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Self { limit, signs: Signs::new(), alarm: Box::pin(sleep(limit / LOOKS)) }
    }

    /// Waits until `stream` is `ready` to be read or written.
    async fn limit<T>(
        &mut self,
        ready: impl Future<Output = io::Result<T>>,
        stream: &Stream,
        reading: bool,
    ) -> io::Result<T> {
        let mut ready = pin!(ready);
        loop {
            tokio::select! {
                biased;
                ready = &mut ready => {
                    self.signs.is_active();
                    return ready;
                }
                () = &mut self.alarm => {}
            }
            let now = Instant::now();
            if self.signs.look(|| Held::of(stream), reading, now, self.limit) == Look::Overdue {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.alarm.as_mut().reset((now + self.limit / LOOKS).into());
        }
    }
}

/// Has a task per socket answer, until the server is told to end and they have answered what has come.
async fn run_datagrams(sockets: Vec<Datagrams>, house: &'static House) -> io::Result<()> {
    let ctx = &house.ctx;
    let shutdown = watched(ctx.shutdown.as_fd(), Interest::READABLE)?;
    let (mut open, mut tasks) = (Vec::new(), JoinSet::new());
    for (n, socket) in sockets.into_iter().enumerate() {
        let socket = Arc::new(watched(socket, Interest::READABLE | Interest::WRITABLE)?);
        open.push(Arc::clone(&socket));
        tasks.spawn(serve_socket(socket, ctx, n));
    }
    tokio::select! {
        _ = shutdown.readable() => {}
        Some(ended) = tasks.join_next() => return ended?, // before its time: it failed
    }
    let ending = ctx.ending();
    open.iter().for_each(|socket| socket.get_ref().stop());
    while !tasks.is_empty() && ending.stage() == Stage::Draining {
        tokio::select! {
            Some(ended) = tasks.join_next() => ended??,
            () = sleep(ending.until_next_stage().unwrap_or_default()) => {}
        }
    }
    Ok(())
}

/// The task of a socket, which is a worker's life.
async fn serve_socket(
    socket: Arc<AsyncFd<Datagrams>>,
    ctx: &'static Context,
    worker: usize,
) -> io::Result<()> {
    let tally = ctx.board.worker(worker);
    if ctx.settings.offload {
        let judge = Judge::new(ctx, worker)?;
        ctx.ready(tally);
        answer_offloaded(&socket, judge, ctx, worker).await
    } else {
        let exchange = Exchange::of_many(ctx, worker)?;
        ctx.ready(tally);
        answer(&socket, exchange).await
    }
}

/// The exchange says what it wants next, and the task waits for that.
async fn answer(socket: &AsyncFd<Datagrams>, mut exchange: Exchange<'_>) -> io::Result<()> {
    let mut wanted = exchange::Next::Read;
    loop {
        let mut ready = match wanted {
            exchange::Next::Write => {
                // Room, or the end of the patience: the exchange takes its turn in any case.
                if let Ok(room) = timeout(PATIENCE, poll_fn(|task| socket.poll_write_ready(task))).await {
                    room?.clear_ready();
                }
                wanted = exchange.turn(socket.get_ref())?;
                continue;
            }
            _ => poll_fn(|task| socket.poll_read_ready(task)).await?,
        };
        match exchange.turn(socket.get_ref())? {
            exchange::Next::Read if ready.ready().is_read_closed() => return Ok(()),
            exchange::Next::Turn => yield_now().await,
            next if next == wanted => ready.clear_ready(),
            next => wanted = next,
        }
    }
}

/// How many datagrams, or bursts of them, a socket may have in work: as many as tokio has threads that may block.
const IN_WORK: usize = 512;

/// The same, and the work is done by threads that may block; the task receives meanwhile.
async fn answer_offloaded(
    socket: &Arc<AsyncFd<Datagrams>>,
    judge: Judge<'_>,
    ctx: &'static Context,
    worker: usize,
) -> io::Result<()> {
    let tally = ctx.board.worker(worker);
    let (mut idle, mut busy) = (Vec::new(), JoinSet::new());
    loop {
        let mut ready = tokio::select! {
            Some(done) = busy.join_next() => {
                idle.push(done??);
                continue;
            }
            ready = poll_fn(|task| socket.poll_read_ready(task)), if busy.len() < IN_WORK => ready?,
        };
        let mut batch = idle.pop().unwrap_or_else(|| Batch::new(1));
        if batch.receive(socket.get_ref())? == 0 {
            if ready.ready().is_read_closed() {
                break;
            }
            ready.clear_ready();
            idle.push(batch);
            continue;
        }
        match judge.admit(&batch.piece(0)) {
            0 => idle.push(batch),
            datagrams => {
                let socket = Arc::clone(socket);
                busy.spawn_blocking(move || {
                    (0..datagrams).for_each(|_| ctx.settings.work.perform());
                    batch.answer(0, datagrams);
                    send(batch, &socket, tally)
                });
            }
        }
    }
    while let Some(done) = busy.join_next().await {
        done??;
    }
    Ok(())
}

/// Sends an answer, on a thread that may block.
fn send(mut batch: Batch, socket: &AsyncFd<Datagrams>, tally: &Tally) -> io::Result<Batch> {
    loop {
        if batch.send(socket.get_ref(), &tally) {
            return Ok(batch);
        }
        socket.get_ref().wait_for_room();
    }
}
