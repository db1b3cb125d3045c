//! One thread's connections: streams, driven at the plan's pace.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arguments::Endpoint;
use mio::{Events, Interest, Poll, Token, unix::SourceFd};

use super::{
    Connecting, Fault, Faults, Pace, Plan, Punctuality, Window,
    coming::Coming,
    connection::{Complaint, Connection, Received},
    engine::{Order, Seen, Share},
    meter::{Meter, Phase, TICK, nanoseconds},
    opening::Opening,
    pace::{Departure, Pacer},
    payload::{Payload, TRACE},
    schedule::Slot,
    timer::Timer,
};

/// How much one read takes.
const SCRATCH: usize = 64 * 1024;

/// How often a Unix-domain server is asked again whose accept queue was full.
const KNOCK: Duration = Duration::from_millis(1);

/// How many messages that are due depart before it is looked at what has come.
const AT_ONCE: usize = 64;

/// One thread's connections.
pub struct Crew {
    plan: Plan,
    payload: Arc<Payload>,
    stop: Arc<AtomicBool>,
    poll: Poll,
    events: Events,
    scratch: Vec<u8>,
    /// The answers of connections that were lost, in the measured time.
    answers_of_lost: Vec<u64>,
    /// By token; one that was lost leaves its place empty.
    connections: Vec<Option<Connection>>,
    /// Those that are being opened, by the token of their place.
    coming: BTreeMap<usize, Coming>,
    /// How many connections are up.
    living: usize,
    /// How many of them have answers to wait for.
    waiting: usize,
    /// In an open loop that churns: when the messages were due that wait for the next connection of their place.
    held: Vec<VecDeque<u64>>,
    pacer: Pacer,
    window: Window,
    phase: Phase,
}

impl Share for Crew {
    /// Opens this thread's share of the connections, each when it is due.
    fn connect(&mut self, numbers: Range<usize>, thread: usize) -> Connecting {
        let Plan { threads, connect_rate: per_second, .. } = self.plan;
        let opening = Opening { first: numbers.start, end: numbers.end, threads, per_second };
        self.phase = Phase::Opening;
        let mut due = opening.of_thread(thread).peekable();
        let begun = Instant::now();
        loop {
            let now = begun.elapsed();
            while let Some(number) = due.next_if(|&n| opening.due(n) <= now) {
                self.connections.push(None);
                self.open(self.connections.len() - 1, number, 0);
            }
            let next = due.peek().map(|&n| opening.due(n).saturating_sub(now));
            if (self.coming.is_empty() && next.is_none()) || self.stop.load(Relaxed) {
                break;
            }
            self.wait(next.unwrap_or(TICK).min(TICK));
            self.turn();
            self.give_up_on_who_does_not_come();
        }
        self.coming.clear();
        self.listen();
        let Window { opened_in_all, connect, faults, .. } =
            std::mem::replace(&mut self.window, Window::new());
        Connecting {
            asked: opening.of_thread(thread).count(),
            established: opened_in_all as usize,
            took: connect,
            faults,
        }
    }

    /// One stretch of load.
    fn run(&mut self, order: Order, seen: &Seen) -> Window {
        self.window = Window::new();
        self.window.punctuality = self.plan.is_open().then(Punctuality::new);
        self.answers_of_lost.clear();
        self.pacer.begin(&self.plan, order);
        self.connections.iter_mut().flatten().for_each(|connection| connection.answers = 0);
        let mut meter = Meter::begins(order, TICK);
        self.phase = Phase::Loading { measuring: false };
        for token in 0..self.connections.len() {
            let now = self.pacer.now();
            self.depart(token, self.plan.at_first(), Departure::at(now));
        }
        while self.goes_on() {
            let now = Instant::now();
            let before = self.phase;
            self.phase = meter.next(before, now, self.stop.load(Relaxed), &mut self.window);
            if self.phase == Phase::Ending && before != Phase::Ending {
                self.pacer.end();
            }
            self.depart_in_turn();
            self.wait(meter.until_next(now));
            self.turn();
            let now = Instant::now();
            while meter.second(now) {
                seen.second(&mut self.window);
            }
            if meter.tick(now) {
                self.give_up_on_the_late();
                self.give_up_on_who_does_not_come();
                self.drop_what_is_too_late();
            }
        }
        if self.phase != Phase::Ending {
            meter.end(Instant::now(), &mut self.window); // every connection was lost
            self.phase = Phase::Ending;
        }
        self.drop_what_is_too_late();
        let of_living = self.connections.iter().flatten().map(|connection| connection.answers);
        self.window.by_connection.extend(of_living.chain(self.answers_of_lost.drain(..)));
        std::mem::replace(&mut self.window, Window::new())
    }

    /// The end of all connections. The last message leaves together with the FIN: a server that forgets what
    /// it owes when it sees the end of file is found out here.
    fn finish(mut self) -> Faults {
        self.window = Window::new();
        self.phase = Phase::Ending;
        for token in 0..self.connections.len() {
            let now = self.pacer.now();
            self.depart(token, 1, Departure::at(now));
        }
        let deadline = Instant::now() + self.plan.timeout;
        let mut half_closed = vec![false; self.connections.len()];
        loop {
            for (token, done) in half_closed.iter_mut().enumerate() {
                let Some(connection) = &mut self.connections[token] else { continue };
                if connection.blocked || *done {
                    continue;
                }
                *done = true;
                if let Err(complaint) = connection.half_close() {
                    self.lose(token, complaint);
                }
            }
            self.phase = Phase::HalfClosed;
            let left = self.connections.iter().flatten().count();
            if left == 0 || Instant::now() >= deadline {
                break;
            }
            self.wait(TICK);
            self.turn();
        }
        for token in 0..self.connections.len() {
            let open = self.connections[token].as_ref();
            let complaint = open.map(|c| if c.is_waiting() { c.timed_out() } else { c.unclosed() });
            if let Some(complaint) = complaint {
                self.lose(token, complaint);
            }
        }
        self.window.faults
    }
}

impl Crew {
    /// A thread's part of `plan`, with nothing opened yet.
    pub fn new(poll: Poll, pacer: Pacer, plan: Plan, payload: Arc<Payload>, stop: Arc<AtomicBool>) -> Self {
        let holds = plan.is_open() && plan.churn.is_some();
        Self {
            held: vec![VecDeque::new(); if holds { plan.connections } else { 0 }],
            plan,
            payload,
            stop,
            poll,
            events: Events::with_capacity(1024),
            scratch: vec![0; SCRATCH],
            answers_of_lost: Vec::new(),
            connections: Vec::new(),
            coming: BTreeMap::new(),
            living: 0,
            waiting: 0,
            pacer,
            window: Window::new(),
            phase: Phase::Opening,
        }
    }

    /// Whether the stretch is not over: it is loaded, or something is still to come, or to go.
    fn goes_on(&mut self) -> bool {
        let is_loading = matches!(self.phase, Phase::Loading { .. });
        self.waiting > 0
            || !self.coming.is_empty()
            || self.living > 0 && (is_loading || self.pacer.next().is_some())
    }

    /// Lets those depart that are due.
    fn depart_in_turn(&mut self) {
        for _ in 0..AT_ONCE {
            if self.pacer.next().is_none() {
                return; // nobody's turn is known, and no clock is asked
            }
            let now = self.pacer.now();
            let Some(slot) = self.pacer.turn(now) else { return };
            self.keep(slot, now);
        }
    }

    /// A slot of the schedule: its message departs, or waits for its connection, or is dropped.
    fn keep(&mut self, Slot { due, place }: Slot, now: u64) {
        let Pace::Open { max_outstanding, .. } = self.plan.pace else {
            return self.depart(place, 1, Departure::at(now)); // it has thought
        };
        let connection = self.connections.get(place).and_then(Option::as_ref);
        let held = self.held.get(place).map_or(0, VecDeque::len);
        let waits = match connection {
            Some(connection) => connection.is_spent(),
            None => self.coming.contains_key(&place),
        };
        let is_full = connection.map_or(0, Connection::awaits) + held >= max_outstanding;
        let is_dropped = is_full || (connection.is_none() && !waits);
        if let Some(punctuality) = self.window.punctuality.as_mut().filter(|_| self.pacer.is_measured(due)) {
            punctuality.note(is_dropped, now - due);
        }
        match () {
            () if is_dropped => {}
            () if waits => self.held[place].push_back(due),
            () => self.depart(place, 1, Departure { due, left: now }),
        }
    }

    /// What was due long before the end and could not leave is dropped.
    fn drop_what_is_too_late(&mut self) {
        if let (Phase::Ending, Some(punctuality)) = (self.phase, &mut self.window.punctuality) {
            self.pacer.abandon(punctuality);
        }
    }

    /// Begins to open connection `number` at a place that had so many answers before. On loopback it is up at
    /// once, but where the accept queue is full.
    fn open(&mut self, token: usize, number: usize, answers: u64) {
        match Coming::begin(&self.plan, number, answers) {
            Ok(coming) => self.look_at(token, coming),
            Err(error) => self.refused(token, number, answers, &error),
        }
    }

    /// Waits for events. Nobody says when the accept queue of a Unix-domain server has room again, so it is asked.
    fn wait(&mut self, most: Duration) {
        let knocks = !self.coming.is_empty() && matches!(self.plan.endpoint, Endpoint::Unix(_));
        let most = if knocks { most.min(KNOCK) } else { most };
        self.pacer.wait(&mut self.poll, &mut self.events, most);
        if knocks {
            for (token, coming) in std::mem::take(&mut self.coming) {
                self.look_at(token, coming);
            }
        }
    }

    /// Takes a connection in that is up; waits for one that is not.
    fn look_at(&mut self, token: usize, mut coming: Coming) {
        let outcome = coming.outcome(&self.plan).and_then(|up| {
            let interest = if up { Interest::READABLE } else { Interest::WRITABLE };
            coming.watch(self.poll.registry(), token, interest)?;
            Ok(up)
        });
        match outcome {
            Ok(true) => self.take_in(token, coming),
            Ok(false) => drop(self.coming.insert(token, coming)),
            Err(error) => self.refused(token, coming.number, coming.answers, &error),
        }
    }

    /// A connection is up; while the load runs, its first messages depart, and those that waited for it.
    fn take_in(&mut self, token: usize, coming: Coming) {
        let took = nanoseconds(coming.begun.elapsed());
        self.window.opened_in_all += 1;
        if matches!(self.phase, Phase::Opening | Phase::Loading { measuring: true }) {
            self.window.opened += 1;
            self.window.connect.saturating_record(took);
        }
        let Coming { number, socket, answers, .. } = coming;
        self.connections[token] = Some(Connection::new(number, socket, answers, &self.plan));
        self.living += 1;
        if matches!(self.phase, Phase::Loading { .. }) {
            self.depart(token, self.plan.at_first(), Departure::at(self.pacer.now()));
        }
        while let Some(due) = self.next_held(token) {
            self.depart(token, 1, Departure { due, left: self.pacer.now() });
        }
    }

    /// When the next message was due that waited for this connection, as long as it has any left.
    fn next_held(&mut self, token: usize) -> Option<u64> {
        let is_spent = self.connections[token].as_ref().is_none_or(Connection::is_spent);
        if is_spent { None } else { self.held.get_mut(token)?.pop_front() }
    }

    /// A connection has had its messages: it is closed, and another takes its place. Numbers are not used again,
    /// so its successor's stream is none that was sent before.
    fn renew(&mut self, token: usize) {
        let Some(spent) = self.connections.get_mut(token).and_then(Option::take) else { return };
        let (number, answers) = (spent.number + self.plan.connections, spent.answers);
        self.living -= 1;
        self.pacer.forget(token);
        drop(spent); // closed first by us: nothing is owed, so this is a FIN
        self.open(token, number, answers);
    }

    fn refused(&mut self, token: usize, number: usize, answers: u64, error: &io::Error) {
        let fault = match error.kind() {
            io::ErrorKind::ConnectionRefused => Fault::Refused,
            _ => Fault::Connect,
        };
        self.window.faults.add(fault, || format!("connection {number}: {error}"));
        self.answers_of_lost.push(answers);
        self.drop_held(token);
    }

    fn give_up_on_who_does_not_come(&mut self) {
        let timeout = self.plan.timeout;
        let is_late = |coming: &Coming| coming.begun.elapsed() > timeout;
        while let Some(token) =
            self.coming.iter().find_map(|(&token, coming)| is_late(coming).then_some(token))
        {
            let Some(late) = self.coming.remove(&token) else { return };
            let what = || format!("connection {}: not established in time", late.number);
            self.window.faults.add(Fault::Timeout, what);
            self.answers_of_lost.push(late.answers);
            self.drop_held(token);
        }
    }

    /// No connection comes for those that waited for one.
    fn drop_held(&mut self, token: usize) {
        let Some(held) = self.held.get_mut(token) else { return };
        let Some(punctuality) = &mut self.window.punctuality else { return };
        punctuality.dropped += held.drain(..).filter(|&due| self.pacer.is_measured(due)).count() as u64;
    }

    /// Hears from now on what comes, and what has come since the connections were opened.
    fn listen(&mut self) {
        for token in 0..self.connections.len() {
            self.watch(token, Interest::READABLE);
        }
    }

    /// Watches a connection for something else than before.
    fn watch(&mut self, token: usize, interest: Interest) {
        let Some(Some(connection)) = self.connections.get_mut(token) else { return };
        let watched = self.poll.registry().reregister(
            &mut SourceFd(&connection.socket.as_raw_fd()),
            Token(token),
            interest,
        );
        if let Err(error) = watched {
            let what = format!("connection {}: {error}", connection.number);
            self.lose(token, Complaint::new(Fault::Socket, what));
        }
    }

    /// Handles the events of one wait.
    fn turn(&mut self) {
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in events.iter().filter(|event| event.token() != Timer::TOKEN) {
            let token = event.token().0;
            if let Some(coming) = self.coming.remove(&token) {
                self.look_at(token, coming);
                continue;
            }
            if self.phase == Phase::Opening {
                continue;
            }
            if event.is_writable() {
                self.send(token);
            }
            if event.is_readable() || event.is_error() {
                self.receive(token, event.is_read_closed());
            }
        }
        self.events = events;
    }

    /// Reads what is there; lets the next message depart for each answer.
    fn receive(&mut self, token: usize, fin_seen: bool) {
        loop {
            let Some(Some(connection)) = self.connections.get_mut(token) else { return };
            let payload = self.plan.verify.then_some(&*self.payload);
            let n = match connection.receive(&mut self.scratch, payload) {
                Ok(Received::Bytes(n)) => n,
                Ok(Received::Nothing) => return,
                Ok(Received::End) => return self.ended(token),
                Err(complaint) => return self.lose(token, complaint),
            };
            let now = self.pacer.now();
            connection.last_heard = now;
            let measuring = self.phase == (Phase::Loading { measuring: true });
            let mut answers = 0;
            while let Some(departure) = connection.next_answer() {
                answers += 1;
                if self.pacer.records(departure, self.phase) {
                    self.window.record(departure, now);
                }
            }
            self.window.messages_in_all += answers as u64;
            if measuring {
                self.window.bytes += n as u64;
                self.window.messages += answers as u64;
                connection.answers += answers as u64;
            }
            if answers > 0 && !connection.is_waiting() {
                self.waiting -= 1;
            }
            // What has begun is not kept for the next stretch: a server of one client at a time has others to serve.
            let is_last = self.phase == Phase::Ending && self.plan.churn.is_some();
            if !connection.is_waiting()
                && (is_last || connection.is_spent())
                && self.phase != Phase::HalfClosed
            {
                return self.renew(token);
            }
            if answers > 0 && matches!(self.phase, Phase::Loading { .. }) {
                self.go_on(token, answers, now);
            }
            // A read that does not fill the buffer has emptied the socket; an end of file may be behind it.
            if n < SCRATCH && !fin_seen {
                return;
            }
        }
    }

    /// In a closed loop as many depart as were answered, perhaps after some thought.
    fn go_on(&mut self, token: usize, answers: usize, now: u64) {
        match self.plan.pace {
            Pace::Open { .. } => {}
            Pace::Closed { think: Duration::ZERO, .. } => self.depart(token, answers, Departure::at(now)),
            Pace::Closed { think, .. } => (0..answers).for_each(|_| self.pacer.think(token, now, think)),
        }
    }

    fn depart(&mut self, token: usize, messages: usize, departure: Departure) {
        let Some(Some(connection)) = self.connections.get_mut(token) else { return };
        if messages == 0 {
            return;
        }
        if !connection.is_waiting() {
            self.waiting += 1;
        }
        match connection.depart(messages, departure, &self.payload) {
            Ok(()) if connection.blocked => self.watch(token, Interest::READABLE | Interest::WRITABLE),
            Ok(()) => {}
            Err(complaint) => self.lose(token, complaint),
        }
    }

    /// There is room again for what the kernel did not take.
    fn send(&mut self, token: usize) {
        let Some(Some(connection)) = self.connections.get_mut(token) else { return };
        if !connection.blocked {
            return;
        }
        match connection.send(&self.payload) {
            Ok(()) if connection.blocked => {}
            Ok(()) => self.watch(token, Interest::READABLE),
            Err(complaint) => self.lose(token, complaint),
        }
    }

    /// The server's FIN, with nothing owed. Before ours, it is a connection less.
    fn ended(&mut self, token: usize) {
        let is_half_closed = self.connections[token].as_ref().is_some_and(Connection::is_half_closed);
        if is_half_closed && self.phase != Phase::HalfClosed {
            self.waiting -= 1;
            return self.renew(token);
        }
        let Some(connection) = self.connections.get_mut(token).and_then(Option::take) else { return };
        self.living -= 1;
        self.answers_of_lost.push(connection.answers);
        self.drop_held(token);
        if self.phase != Phase::HalfClosed {
            let what = || format!("connection {}: the server closed it", connection.number);
            self.window.faults.add(Fault::Closed, what);
        }
    }

    fn lose(&mut self, token: usize, complaint: Complaint) {
        let Some(connection) = self.connections.get_mut(token).and_then(Option::take) else { return };
        if connection.is_waiting() {
            self.waiting -= 1;
        }
        self.living -= 1;
        self.answers_of_lost.push(connection.answers);
        self.drop_held(token);
        let Self { connections, payload, window, .. } = self;
        let owner =
            |trace: [u8; TRACE]| owner_of(&trace, connections.iter().flatten().chain([&connection]), payload);
        window.faults.add(complaint.fault, || match complaint.trace.and_then(owner) {
            Some((number, offset)) => {
                format!("{}: it is connection {number}'s byte {offset}", complaint.what)
            }
            None => complaint.what,
        });
    }

    fn give_up_on_the_late(&mut self) {
        let bound = self.pacer.now().saturating_sub(nanoseconds(self.plan.timeout));
        for token in 0..self.connections.len() {
            let late = self.connections[token]
                .as_ref()
                .filter(|connection| connection.is_waiting() && connection.last_heard < bound)
                .map(Connection::timed_out);
            if let Some(complaint) = late {
                self.lose(token, complaint);
            }
        }
    }
}

/// Whose bytes these are, among the connections of a thread and what they sent lately. Where two streams have
/// them, nobody is named.
#[cold]
fn owner_of<'a>(
    trace: &[u8],
    connections: impl Iterator<Item = &'a Connection>,
    payload: &Payload,
) -> Option<(usize, u64)> {
    let mut owners = connections.filter_map(|c| Some((c.number, c.find(payload, trace)?)));
    owners.next().filter(|_| owners.next().is_none())
}
