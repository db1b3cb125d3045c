//! Lesson 21: an executor.
//!
//! The idea: an `async fn` is compiled into what lesson 18 wrote by hand: an object that remembers where its conversation
//! stands, and a function, `poll`, that goes on from there until something would block. An executor is a loop that polls
//! whoever has been woken; a reactor is epoll, and wakes those whose socket is ready. Both stand here, without a library.
//!
//! Type, in two terminals:
//!     cargo run --example 21_executor
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//!
//! Predict before you run:
//!     1. Read `echo` below. Where does the thread go at an `.await`? Where are `buffer` and `total` meanwhile?
//!     2. A client says one line: how often is its task polled?
//!     3. One task computes for a second without an `.await`. Who waits?
//!
//! Read next: `server/src/models/async.rs`, on tokio.
//!
//! What breaks: a task that does not await holds up all others, as in lesson 18: the tasks are concurrent, and nothing
//! runs in parallel. Lesson 22 shows that, and two cures.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    env,
    future::{Future, poll_fn},
    io::{
        self,
        ErrorKind::{Interrupted, WouldBlock},
        Read, Write,
    },
    pin::Pin,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    task::{Context, Poll::*, Wake, Waker},
};

use mio::{
    Events, Interest, Poll, Token,
    event::Source,
    net::{TcpListener, TcpStream},
};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let mut listener = TcpListener::bind(address.parse().map_err(io::Error::other)?)?;
    println!("listening on {}", listener.local_addr()?);
    let (asleep, spawned, next) = Default::default();
    let executor = Executor { poll: RefCell::new(Poll::new()?), asleep, spawned, ready: channel(), next };
    let executor: &Executor = Box::leak(Box::new(executor)); // the tasks refer to it, and it never ends
    executor.spawn(async move {
        loop {
            let accepted =
                executor.when(&mut listener, Interest::READABLE, |listener| listener.accept()).await;
            let (client, address) = accepted.expect("clients come in");
            executor.spawn(async move {
                println!("{address} left: {:?}", echo(client, executor).await);
            });
        }
    });
    executor.run()
}

/// The conversation of lesson 3, line by line, with `await` where that one slept.
async fn echo(mut client: TcpStream, executor: &Executor) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let mut total = 0;
    loop {
        let n = executor.when(&mut client, Interest::READABLE, |client| client.read(&mut buffer)).await?;
        if n == 0 {
            return Ok(total);
        }
        let mut owed = &buffer[..n];
        while !owed.is_empty() {
            let sent = executor.when(&mut client, Interest::WRITABLE, |client| client.write(owed)).await?;
            owed = &owed[sent..];
        }
        total += n;
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Executor {
    poll: RefCell<Poll>,
    asleep: RefCell<HashMap<Token, Waker>>,
    spawned: RefCell<Vec<Task>>,
    ready: (Sender<usize>, Receiver<usize>),
    next: Cell<usize>,
}

/// What a task leaves behind when it sleeps: its number, and where to say that it is ready.
struct Alarm(usize, Sender<usize>);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        let _ = self.1.send(self.0);
    }
}

impl Executor {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(task));
    }

    /// Polls whoever is ready; when nobody is, sleeps until a socket is.
    fn run(&self) -> io::Result<()> {
        let (tell, ready) = &self.ready;
        let mut tasks: HashMap<usize, Task> = HashMap::new();
        let mut events = Events::with_capacity(64);
        loop {
            for task in self.spawned.take() {
                let n = self.number();
                tasks.insert(n, task);
                let _ = tell.send(n);
            }
            if let Ok(n) = ready.try_recv() {
                let waker = Waker::from(Arc::new(Alarm(n, tell.clone())));
                let polled =
                    tasks.get_mut(&n).map(|task| task.as_mut().poll(&mut Context::from_waker(&waker)));
                println!("task {n}: {}", if polled == Some(Pending) { "sleeps" } else { "is done" });
                if polled != Some(Pending) {
                    tasks.remove(&n);
                }
                continue;
            }
            match self.poll.borrow_mut().poll(&mut events, None) {
                Err(error) if error.kind() == Interrupted => continue, // stopped, and continued
                ready => ready?,
            }
            let wakers = events.iter().filter_map(|event| self.asleep.borrow_mut().remove(&event.token()));
            wakers.for_each(Waker::wake);
        }
    }

    /// Does something to a socket, as soon as that does not block.
    async fn when<S: Source, T>(
        &self,
        socket: &mut S,
        readiness: Interest,
        mut something: impl FnMut(&mut S) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match something(socket) {
                Err(error) if error.kind() == WouldBlock => {}
                outcome => return outcome,
            }
            let token = Token(self.number());
            self.poll.borrow().registry().register(socket, token, readiness)?;
            let mut waits = None;
            poll_fn(|context| {
                waits.get_or_insert_with(|| self.asleep.borrow_mut().insert(token, context.waker().clone()));
                if self.asleep.borrow().contains_key(&token) { Pending } else { Ready(()) }
            })
            .await;
            self.poll.borrow().registry().deregister(socket)?;
        }
    }

    fn number(&self) -> usize {
        self.next.replace(self.next.get() + 1)
    }
}
