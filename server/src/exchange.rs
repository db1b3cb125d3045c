//! One batch of datagrams after another: received, judged, answered. Whoever runs it decides how to wait.
//!
//! An answer goes to whoever the source address names, who need not be who sent the datagram. So none is sent where
//! it would come back or set another service talking: to ports below 1024, to our own, to those of services that
//! answer, or for what was sent to a broadcast or multicast address. What is sent is never longer than what came.
//!
//! See also: RFC 862; CERT CA-1996-01, "UDP Port Denial-of-Service Attack" (two echo services, pointed at each
//! other); CISA TA14-017A, "UDP-Based Amplification Attacks".

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use crate::{
    archive::Keeper,
    config::Work,
    datagram::{BATCH, Batch, Outlet, Piece, Post},
    model::Context,
    scoreboard::{Dropped, Tally},
    socket::{Datagrams, Peer},
};

/// What an exchange wants next; whoever runs it obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To be called when the socket is readable.
    Read,
    /// To be called when the socket is writable, or `datagram::PATIENCE` is over. While answers are unsent, nothing is
    /// received.
    Write,
    /// To be called again soon: its turn is over, and more may be waiting.
    Turn,
}

/// How many full batches may be taken before something else has its turn.
const BATCHES_A_TURN: usize = 4;

/// How long the first answer of a batch may wait for the work that the others cost.
const PATIENCE: Duration = Duration::from_micros(200);

/// How many pieces a loop takes at once: many. Where each costs work beside the echo, and is then a datagram
/// (`SocketOptions::bursts`), as many as are worked on within [`PATIENCE`]. A power of two.
pub fn pieces_at_once(ctx: &Context) -> usize {
    match ctx.settings.work {
        Work::None => BATCH,
        Work::Cpu(each) | Work::Sleep(each) => {
            1 << (PATIENCE.as_nanos() / each.as_nanos().max(1)).clamp(1, BATCH as u128).ilog2()
        }
    }
}

/// The datagrams of one socket, as one worker sees them.
pub struct Exchange<'a> {
    batch: Batch,
    judge: Judge<'a>,
}

impl<'a> Exchange<'a> {
    /// For a loop: many at once.
    ///
    /// # Errors
    /// Those of [`Judge::new`].
    pub fn of_many(ctx: &'a Context, worker: usize) -> io::Result<Self> {
        Ok(Self { batch: Batch::new(pieces_at_once(ctx)), judge: Judge::new(ctx, worker)? })
    }

    /// For a worker that blocks: one at once.
    ///
    /// # Errors
    /// Those of [`Judge::new`].
    pub fn of_one(ctx: &'a Context, worker: usize) -> io::Result<Self> {
        Ok(Self { batch: Batch::new(1), judge: Judge::new(ctx, worker)? })
    }

    /// For the owner of a pool, in place of a worker: many at once, and no thread (`Judge::of_a_parent`).
    pub fn of_a_parent(ctx: &'a Context, worker: usize) -> Self {
        Self { batch: Batch::new(pieces_at_once(ctx)), judge: Judge::of_a_parent(ctx, worker) }
    }

    /// See [`Judge::bell`].
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.judge.bell()
    }

    /// See [`Judge::answer_the_bell`].
    pub fn answer_the_bell(&self) {
        self.judge.answer_the_bell();
    }

    /// Takes a turn on a socket that does not block: sends what is unsent, then receives and answers until nothing
    /// is there. A batch that is not full has emptied the socket (epoll(7): what comes later is a new edge).
    ///
    /// # Errors
    /// The socket's.
    pub fn turn(&mut self, socket: &impl Outlet) -> io::Result<Next> {
        if !self.batch.send(socket, &self.judge.tally) {
            return Ok(Next::Write);
        }
        // Where a datagram costs much work, the end is looked for after each.
        let batches = if self.batch.size() > 1 { BATCHES_A_TURN } else { 1 };
        for _ in 0..batches {
            let received = self.receive(socket, || false)?;
            if !self.batch.send(socket, &self.judge.tally) {
                return Ok(Next::Write);
            }
            // A batch of one says nothing about what is behind it.
            if received == 0 || received < self.batch.size() {
                return Ok(Next::Read);
            }
        }
        Ok(Next::Turn)
    }

    /// Receives on a socket that blocks, and answers, until the socket is told to end and is empty, or the drain
    /// is over. What was received is answered.
    ///
    /// # Errors
    /// The socket's.
    pub fn run(&mut self, socket: &impl Outlet, is_over: impl Fn() -> bool) -> io::Result<()> {
        self.judge.ctx.ready(self.judge.tally);
        while !is_over() && self.receive(socket, &is_over)? > 0 {
            self.batch.send_all(socket, &self.judge.tally);
        }
        Ok(())
    }

    /// Receives what is there, and decides what is to be answered.
    fn receive(&mut self, socket: &impl AsFd, is_over: impl Fn() -> bool) -> io::Result<usize> {
        let received = self.batch.receive(socket)?;
        for place in 0..received {
            let answered = self.judge.serve(&self.batch.piece(place), &is_over);
            if answered > 0 {
                self.batch.answer(place, answered);
            }
        }
        Ok(received)
    }
}

/// Waits until the server is told to end, and ends receiving for all who hold one of the sockets.
pub fn stop_at_the_end(sockets: &[Datagrams], ctx: &Context) {
    ctx.shutdown.wait(None);
    ctx.ending();
    sockets.iter().for_each(Datagrams::stop);
}

/// All workers have ended: counts what is still in the socket, because the drain was over before it was received.
///
/// # Errors
/// The socket's.
pub fn count_the_rest(socket: &Datagrams, tally: &Tally) -> io::Result<()> {
    if socket.is_inherited() {
        return Ok(()); // it is for the next server
    }
    socket.stop(); // where the model failed, it may not have been told to
    socket.set_nonblocking(true)?;
    let mut batch = Batch::new(BATCH);
    while let received @ 1.. = batch.receive(socket)? {
        (0..received).for_each(|place| cut(&batch.piece(place), tally));
    }
    Ok(())
}

/// Counts what is not answered because the drain is over.
pub fn cut(piece: &Piece<'_>, tally: &Tally) {
    for datagram in piece.datagrams() {
        tally.received_datagrams(1, datagram.len());
        tally.dropped(Dropped::Cut, 1);
    }
}

impl Post for &Tally {
    fn sent(&self, datagrams: usize, bytes: usize) {
        self.sent_datagrams(datagrams, bytes);
    }

    fn undeliverable(&self, datagrams: usize, error: &io::Error) {
        let no_room = error.kind() == io::ErrorKind::WouldBlock;
        self.dropped(if no_room { Dropped::SendBuffer } else { Dropped::Undeliverable }, datagrams as u64);
        log::info!("an answer was not sent: {error}");
    }
}

/// Decides which datagrams are answered, keeps those where they are to be kept, and counts them all.
pub struct Judge<'a> {
    ctx: &'a Context,
    tally: &'a Tally,
    keeper: Option<Keeper>,
}

impl<'a> Judge<'a> {
    /// Of a worker, in the process that it is or runs in.
    ///
    /// # Errors
    /// Where the thread is refused that hands over what is kept.
    pub fn new(ctx: &'a Context, worker: usize) -> io::Result<Self> {
        let mut judge = Self::of_a_parent(ctx, worker);
        judge.keeper = judge.keeper.map(Keeper::with_clerk).transpose()?;
        Ok(judge)
    }

    /// The same, without a thread: for a process that forks. It waits for the [`Judge::bell`] beside its socket.
    pub fn of_a_parent(ctx: &'a Context, worker: usize) -> Self {
        let keeper = ctx.archive.as_ref().map(|archive| archive.keeper(worker));
        Self { ctx, tally: ctx.board.worker(worker), keeper }
    }

    /// Readable when somebody wants to know what is kept, where something is. Then [`Judge::answer_the_bell`].
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.keeper.as_ref().map(Keeper::as_fd)
    }

    /// Hands over a copy of what is kept, if the bell was rung.
    pub fn answer_the_bell(&self) {
        self.keeper.iter().for_each(Keeper::answer);
    }

    /// Counts what came, and says how many of its datagrams are to be answered: the first so many. Those are kept.
    pub fn admit(&self, piece: &Piece<'_>) -> usize {
        let (count, bytes) =
            piece.datagrams().fold((0, 0), |(n, sum), datagram| (n + 1, sum + datagram.len()));
        self.tally.received_datagrams(count, bytes);
        let answered = match self.objection(piece) {
            None => self.within_limits(piece, count),
            Some(why) => {
                self.tally.dropped(why, count as u64);
                0
            }
        };
        if let Some(keeper) = self.keeper.as_ref().filter(|_| answered > 0) {
            let mut groups = keeper.lock();
            piece.datagrams().take(answered).for_each(|datagram| groups.keep(piece.from, piece.at, datagram));
        }
        answered
    }

    /// The same, and does the work for those that are to be answered, until the drain `is_over`.
    pub fn serve(&self, piece: &Piece<'_>, is_over: impl Fn() -> bool) -> usize {
        let (admitted, work) = (self.admit(piece), self.ctx.settings.work);
        if work == Work::None {
            return admitted;
        }
        let answered = (0..admitted).take_while(|_| !is_over()).map(|_| work.perform()).count();
        self.tally.dropped(Dropped::Unanswered, (admitted - answered) as u64);
        answered
    }

    /// How many of the `count` datagrams of a piece the limits let be answered.
    fn within_limits(&self, piece: &Piece<'_>, count: usize) -> usize {
        let no_loop = self.ctx.repeats.admit(piece.from, piece.datagrams());
        let answered = self.ctx.rate.admit(Peer::from(piece.from.ip()), no_loop);
        for (why, dropped) in [(Dropped::Loop, count - no_loop), (Dropped::RateLimit, no_loop - answered)] {
            if dropped > 0 {
                self.tally.dropped(why, dropped as u64);
            }
        }
        answered
    }

    fn objection(&self, piece: &Piece<'_>) -> Option<Dropped> {
        if piece.is_cut {
            return Some(Dropped::Truncated);
        }
        if !piece.to_one {
            return Some(Dropped::NotToOne);
        }
        let reflects = !self.ctx.settings.reflect_any && would_come_back(piece.from, self.ctx.settings.port);
        reflects.then_some(Dropped::Reflection)
    }
}

/// Ports from 1024 up whose services answer whatever they are sent, most of them with more than that. None from 32768
/// up, where clients get their ports from (ip_local_port_range, ip(7)): one in 28,000 would never be answered.
const ANSWERING: [u16; 15] = [
    1434,  // Microsoft SQL Server's browser
    1900,  // SSDP
    3283,  // Apple Remote Desktop
    3478,  // STUN
    3702,  // WS-Discovery
    5060,  // SIP
    5093,  // Sentinel licences
    5351,  // NAT-PMP
    5353,  // multicast DNS
    5355,  // LLMNR
    5683,  // CoAP
    10001, // Ubiquiti discovery
    11211, // memcached
    27015, // Source engine
    27960, // Quake 3
];

/// Whether an answer to `from` may come back, or set another service talking.
fn would_come_back(from: SocketAddr, own_port: u16) -> bool {
    let port = from.port();
    port < 1024 || port == own_port || ANSWERING.binary_search(&port).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_would_answer_an_answer_get_none() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert!(
            [0, 7, 19, 53, 123, 161, 1023, 1900, 5353, 11211, 7007]
                .map(at)
                .iter()
                .all(|&from| would_come_back(from, 7007))
        );
        assert!(![1024, 4242, 32768, 65535, 7006].map(at).iter().any(|&from| would_come_back(from, 7007)));
        assert!(ANSWERING.is_sorted() && ANSWERING.iter().all(|&port| port < 32768));
    }
}
