//! One blocking conversation, and the company of those that threads of one process hold.
//!
//! The conversation is the same whoever runs it: the process itself, a child, a thread, a worker of a pool.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    accept::Client,
    idle::{LOOKS, Look, Signs},
    model::Context,
    scoreboard::{Tally, Trouble},
    shutdown::Stage,
    socket::{Held, Stream},
};

/// What a conversation reads into. It begins small and grows to `--buffer` as reads fill it, so that a
/// client of small messages costs next to nothing: a child that was just forked pays for each page that it
/// touches, so it begins on the stack. A worker keeps it from client to client.
pub struct Buffer {
    small: [u8; 1024],
    large: Vec<u8>,
    most: usize,
}

impl Buffer {
    /// A small one, that may grow to `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { small: [0; 1024], large: Vec::new(), most }
    }

    fn bytes(&mut self) -> &mut [u8] {
        if self.large.is_empty() {
            let most = self.small.len().min(self.most);
            &mut self.small[..most]
        } else {
            &mut self.large
        }
    }

    fn grow_if_filled_by(&mut self, n: usize) {
        if n < self.most && n == self.bytes().len() {
            self.large.resize((n * 2).min(self.most), 0);
        }
    }
}

/// Echoes what the client sends until it has sent all and got it back (RFC 862). A read that returns
/// nothing is the client's FIN; by then everything before it has been written. While a write blocks, nothing
/// is read: that is the backpressure.
pub fn converse(stream: &Stream, ctx: &Context, tally: &Tally, buffer: &mut Buffer) {
    match limit_silence(stream, ctx).and_then(|()| echo(stream, ctx, tally, buffer)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => tally.trouble(Trouble::IdleTimeout),
        Err(error) => tally.lost(&error),
    }
}

/// Has a read or write that moves nothing for a part of `--idle-timeout` fail with `EAGAIN` (SO_RCVTIMEO and
/// SO_SNDTIMEO, socket(7)): the kernel keeps the time, and no message costs anything.
fn limit_silence(stream: &Stream, ctx: &Context) -> io::Result<()> {
    let Some(limit) = ctx.settings.idle_timeout else { return Ok(()) };
    stream.set_read_timeout(Some(limit / LOOKS))?;
    stream.set_write_timeout(Some(limit / LOOKS))
}

fn echo(stream: &Stream, ctx: &Context, tally: &Tally, buffer: &mut Buffer) -> io::Result<()> {
    let mut silence = Silence { stream, limit: ctx.settings.idle_timeout, signs: Signs::new() };
    loop {
        let n = silence.limit(true, |mut stream| stream.read(buffer.bytes()))?;
        if n == 0 {
            return Ok(());
        }
        tally.received(n);
        ctx.settings.work.perform();
        send(&mut silence, &buffer.bytes()[..n], tally)?;
        buffer.grow_if_filled_by(n);
    }
}

/// Sends all of `bytes`: a short write is followed by another.
fn send(silence: &mut Silence<'_>, mut bytes: &[u8], tally: &Tally) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = silence.limit(false, |mut stream| stream.write(bytes))?;
        tally.sent(n);
        bytes = &bytes[n..];
    }
    Ok(())
}

/// `--idle-timeout` of a blocking conversation.
struct Silence<'a> {
    stream: &'a Stream,
    limit: Option<Duration>,
    signs: Signs,
}

impl Silence<'_> {
    /// Reads or writes until that moves something; `EAGAIN` where the client has been silent for too long.
    fn limit(
        &mut self,
        reading: bool,
        mut moves: impl FnMut(&Stream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match (moves(self.stream), self.limit) {
                (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                (Err(error), Some(limit)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let held = || Held::of(self.stream);
                    if self.signs.look(held, reading, Instant::now(), limit) == Look::Overdue {
                        return Err(error);
                    }
                }
                (moved, _) => {
                    self.signs.is_active();
                    return moved;
                }
            }
        }
    }
}

/// The conversations that threads of this process hold, so that the end of the drain can reach them: a
/// thread that blocks in read(2) looks at nothing else.
#[derive(Default)]
pub struct Company {
    state: Mutex<CompanyState>,
    someone_left: Condvar,
}

#[derive(Default)]
struct CompanyState {
    guests: Slab<Arc<Stream>>,
    /// Whether somebody waits for guests to leave; to tell nobody would cost each guest a system call.
    awaited: bool,
    /// How a guest's socket is shut: not yet, for reading (what has arrived is still answered), or wholly.
    shut: Option<Shutdown>,
}

/// A client whose conversation can be reached.
pub struct Guest<'a> {
    company: &'a Company,
    key: usize,
    client: Client<'a, Arc<Stream>>,
}

impl Company {
    fn state(&self) -> MutexGuard<'_, CompanyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a client in.
    pub fn join<'a>(&'a self, client: Client<'a>) -> Guest<'a> {
        let client = Client { stream: Arc::new(client.stream), seat: client.seat };
        let mut state = self.state();
        if let Some(how) = state.shut {
            let _ = client.stream.shutdown(how);
        }
        let key = state.guests.insert(Arc::clone(&client.stream));
        Guest { company: self, key, client }
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.state().guests.is_empty()
    }

    /// Waits until `all_left`: until the drain is over, when every socket is shut for reading, and through
    /// the grace, after which those that are left are cut. `all_left` is asked whenever somebody left, and
    /// every few milliseconds.
    pub fn drain(&self, ctx: &Context, mut all_left: impl FnMut() -> bool) {
        let ending = ctx.ending();
        while !all_left() {
            let stage = ending.stage();
            self.obey(stage, ctx);
            if stage == Stage::Cut {
                return;
            }
            let mut state = self.state();
            state.awaited = true;
            drop(self.someone_left.wait_timeout(state, Duration::from_millis(5)));
        }
    }

    /// Does once what a stage of the end asks for.
    pub fn obey(&self, stage: Stage, ctx: &Context) {
        let mut state = self.state();
        match stage {
            Stage::Draining => {}
            Stage::HangUp => state.shut_all(Shutdown::Read),
            Stage::Cut if state.shut == Some(Shutdown::Both) => {}
            Stage::Cut => {
                state.guests.iter().for_each(|_| ctx.board.door().trouble(Trouble::Cut));
                state.shut_all(Shutdown::Both);
            }
        }
    }
}

impl CompanyState {
    fn shut_all(&mut self, how: Shutdown) {
        if self.shut.replace(how) != Some(how) {
            for (_, stream) in &self.guests {
                let _ = stream.shutdown(how);
            }
        }
    }
}

impl<'a> Guest<'a> {
    /// Its socket.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.client.stream
    }

    /// The worker with this tally begins to serve it.
    pub fn served_by(&mut self, tally: &'a Tally) {
        self.client.seat.served_by(tally);
    }

    /// Holds the conversation. A panic in it costs this client.
    pub fn converse(mut self, ctx: &Context, tally: &'a Tally, buffer: &mut Buffer) {
        self.served_by(tally);
        if self.company.state().shut == Some(Shutdown::Both) {
            return tally.trouble(Trouble::Cut);
        }
        let stream = &self.client.stream;
        if catch_unwind(AssertUnwindSafe(|| converse(stream, ctx, tally, buffer))).is_err() {
            tally.trouble(Trouble::Panic);
        }
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let mut state = self.company.state();
        state.guests.remove(self.key);
        if state.awaited {
            self.company.someone_left.notify_one();
        }
    }
}
