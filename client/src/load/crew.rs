//! One thread's connections: streams, driven at the plan's pace.

use std::{
    collections::{BTreeMap, VecDeque},
    io, mem,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use arguments::Endpoint;
use mio::Interest;

use super::{
    Audit, Connecting, Fault, Faults, Pace, Plan, Window,
    carrier::{Carrier, Event},
    coming::Coming,
    connection::{Complaint, Connection, Received},
    meter::{Phase, TICK, nanoseconds},
    opening::Opening,
    pace::Departure,
    payload::{Payload, TRACE},
    stretch::{Desk, Outlook, Share},
};

/// How often a Unix-domain server is asked again whose accept queue was full.
const KNOCK: Duration = Duration::from_millis(1);

/// One thread's connections.
pub struct Crew<C> {
    desk: Desk,
    payload: Arc<Payload>,
    carrier: C,
    /// What has happened, and is not handled.
    events: Vec<Event>,
    /// The answers of connections that were lost, in the measured time.
    answers_of_lost: Vec<u64>,
    /// By token; one that was lost leaves its place empty.
    connections: Vec<Option<Connection>>,
    /// Those that are being opened, by the token of their place.
    coming: BTreeMap<usize, Coming>,
    /// How many connections are up.
    living: usize,
    /// In an open loop that churns, or has a queue: when the messages were due that wait for the connection of their place.
    held: Vec<VecDeque<u64>>,
}

impl<C: Carrier> Share for Crew<C> {
    /// Opens this thread's share of the connections, each when it is due.
    fn connect(&mut self, numbers: Range<usize>, lane: usize) -> Connecting {
        let (lanes, per_second) = (self.desk.plan.lanes(), self.desk.plan.connect_rate);
        let opening = Opening { first: numbers.start, end: numbers.end, lanes, per_second };
        self.desk.phase = Phase::Opening;
        let mut due = opening.of_lane(lane).peekable();
        let begun = Instant::now();
        loop {
            let now = begun.elapsed();
            while let Some(number) = due.next_if(|&n| opening.due(n) <= now) {
                self.connections.push(None);
                self.open(self.connections.len() - 1, number, 0);
            }
            let next = due.peek().map(|&n| opening.due(n).saturating_sub(now));
            if (self.coming.is_empty() && next.is_none()) || self.desk.is_stopped() {
                break;
            }
            self.wait(next.unwrap_or(TICK).min(TICK));
            self.turn();
            self.give_up_on_who_does_not_come();
        }
        for (token, coming) in mem::take(&mut self.coming) {
            self.carrier.close(coming.socket, token);
        }
        self.listen();
        let Window { opened_in_all, connect, faults, .. } =
            mem::replace(&mut self.desk.window, Window::new());
        Connecting {
            asked: opening.of_lane(lane).count(),
            established: opened_in_all as usize,
            took: connect,
            faults,
        }
    }

    fn desk(&mut self) -> &mut Desk {
        &mut self.desk
    }

    fn places(&self) -> usize {
        self.connections.len()
    }

    fn living(&self) -> (usize, bool) {
        (self.living, !self.coming.is_empty())
    }

    fn audit(&self) -> Option<Audit> {
        None
    }

    fn depart(&mut self, token: usize, messages: usize, departure: Departure) {
        let Some(Some(connection)) = self.connections.get_mut(token) else { return };
        if messages == 0 {
            return;
        }
        if !connection.is_waiting() {
            self.desk.waiting += 1;
        }
        let awaited = connection.awaits();
        let departed = connection.depart(messages, departure, &mut self.carrier, &self.payload);
        self.desk.departs(connection.awaits() - awaited, departure);
        match departed {
            Ok(()) if connection.blocked => self.watch(token, Interest::READABLE | Interest::WRITABLE),
            Ok(()) => {}
            Err(complaint) => self.lose(token, complaint),
        }
    }

    fn outlook(&self, place: usize, max_outstanding: usize) -> Outlook {
        let connection = self.connections.get(place).and_then(Option::as_ref);
        let held = self.held.get(place).map_or(0, VecDeque::len);
        let waits = match connection {
            Some(connection) => connection.is_spent(),
            None => self.coming.contains_key(&place),
        };
        let is_full = connection.map_or(0, Connection::awaits) + held >= max_outstanding;
        match () {
            () if connection.is_none() && !waits => Outlook::Dropped,
            () if is_full && !self.desk.plan.pace.has_a_queue() => Outlook::Dropped,
            () if is_full || waits => Outlook::Waits,
            () => Outlook::Departs,
        }
    }

    fn hold(&mut self, place: usize, due: u64) {
        self.held[place].push_back(due);
    }

    /// Nobody says when the accept queue of a Unix-domain server has room again, so it is asked.
    fn wait(&mut self, most: Duration) {
        let knocks = !self.coming.is_empty() && matches!(self.desk.plan.endpoint, Endpoint::Unix(_));
        let most = if knocks { most.min(KNOCK) } else { most };
        self.carrier.wait(self.desk.pacer.sleep(most), &mut self.events);
        if knocks {
            for (token, coming) in mem::take(&mut self.coming) {
                self.look_at(token, coming);
            }
        }
    }

    fn turn(&mut self) {
        let mut events = mem::take(&mut self.events);
        for Event { token, is_writable, is_readable, is_last } in events.drain(..) {
            if let Some(coming) = self.coming.remove(&token) {
                self.look_at(token, coming);
                continue;
            }
            if self.desk.phase == Phase::Opening {
                continue;
            }
            if is_writable {
                self.send(token);
            }
            if is_readable {
                self.receive(token, is_last);
            }
        }
        self.events = events;
    }

    fn give_up_on_the_late(&mut self) {
        let bound = self.desk.pacer.now().saturating_sub(nanoseconds(self.desk.plan.timeout));
        for token in 0..self.connections.len() {
            let late = self.connections[token]
                .as_ref()
                .filter(|connection| connection.is_waiting() && connection.last_heard < bound)
                .map(Connection::timed_out);
            if let Some(complaint) = late {
                self.lose(token, complaint);
            }
        }
        self.give_up_on_who_does_not_come();
        if self.desk.phase == Phase::Ending && self.desk.plan.pace.has_a_queue() {
            let given_up = if self.desk.is_stopped() { u64::MAX } else { bound };
            (0..self.held.len()).for_each(|token| self.drop_held_until(token, given_up));
        }
    }

    fn begin(&mut self, counts_on: bool) {
        if counts_on {
            return;
        }
        self.answers_of_lost.clear();
        self.connections.iter_mut().flatten().for_each(|connection| connection.answers = 0);
    }

    fn conclude(&mut self) {
        let of_living = self.connections.iter().flatten().map(|connection| connection.answers);
        let all = of_living.chain(self.answers_of_lost.iter().copied());
        self.desk.window.by_connection.extend(all);
    }

    /// The end of all connections. The last message leaves together with the FIN: a server that forgets what
    /// it owes when it sees the end of file is found out here.
    fn finish(mut self) -> Faults {
        self.desk.window = Window::new();
        self.desk.phase = Phase::Ending;
        for token in 0..self.connections.len() {
            let now = self.desk.pacer.now();
            self.depart(token, 1, Departure::at(now));
        }
        let deadline = Instant::now() + self.desk.plan.timeout;
        let mut half_closed = vec![false; self.connections.len()];
        loop {
            for (token, done) in half_closed.iter_mut().enumerate() {
                let Some(connection) = &mut self.connections[token] else { continue };
                if connection.blocked || *done {
                    continue;
                }
                *done = true;
                if let Err(complaint) = connection.half_close(&mut self.carrier) {
                    self.lose(token, complaint);
                }
            }
            self.desk.phase = Phase::HalfClosed;
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
        self.desk.window.faults
    }
}

impl<C: Carrier> Crew<C> {
    /// A thread's, with nothing opened yet.
    pub fn new(desk: Desk, carrier: C, payload: Arc<Payload>) -> Self {
        let Plan { churn, connections, .. } = desk.plan;
        let holds = desk.plan.is_open() && churn.is_some() || desk.plan.pace.has_a_queue();
        Self {
            held: vec![VecDeque::new(); if holds { connections } else { 0 }],
            desk,
            payload,
            carrier,
            events: Vec::new(),
            answers_of_lost: Vec::new(),
            connections: Vec::new(),
            coming: BTreeMap::new(),
            living: 0,
        }
    }

    /// Begins to open connection `number` at a place that had so many answers before. On loopback it is up at
    /// once, but where the accept queue is full.
    fn open(&mut self, token: usize, number: usize, answers: u64) {
        match Coming::begin(&self.desk.plan, number, answers) {
            Ok(coming) => self.look_at(token, coming),
            Err(error) => self.refused(token, number, answers, &error),
        }
    }

    /// Takes a connection in that is up; waits for one that is not.
    fn look_at(&mut self, token: usize, mut coming: Coming) {
        let outcome = coming.outcome(&self.desk.plan).and_then(|is_up| {
            if !is_up {
                coming.watch(&mut self.carrier, token, Interest::WRITABLE)?;
            }
            Ok(is_up)
        });
        match outcome {
            Ok(true) => self.take_in(token, coming),
            Ok(false) => drop(self.coming.insert(token, coming)),
            Err(error) => {
                let Coming { number, answers, socket, .. } = coming;
                self.carrier.close(socket, token);
                self.refused(token, number, answers, &error);
            }
        }
    }

    /// A connection is up; while the load runs, its first messages depart, and those that waited for it.
    fn take_in(&mut self, token: usize, coming: Coming) {
        let took = nanoseconds(coming.begun.elapsed());
        self.desk.window.opened_in_all += 1;
        if matches!(self.desk.phase, Phase::Opening | Phase::Loading { measuring: true }) {
            self.desk.window.opened += 1;
            self.desk.window.connect.saturating_record(took);
        }
        self.connections[token] = Some(Connection::new(coming, token, &self.desk.plan));
        self.living += 1;
        if self.desk.phase != Phase::Opening {
            self.watch(token, Interest::READABLE);
        }
        if matches!(self.desk.phase, Phase::Loading { .. }) {
            self.depart(token, self.desk.plan.at_first(), Departure::at(self.desk.pacer.now()));
        }
        self.let_go(token);
    }

    /// Those that waited for this connection depart, as many as may.
    fn let_go(&mut self, token: usize) {
        while let Some(due) = self.next_held(token) {
            self.depart(token, 1, Departure { due, left: self.desk.pacer.now() });
        }
    }

    /// When the next message was due that waited for this connection, as long as it has any left and another may be on
    /// its way.
    fn next_held(&mut self, token: usize) -> Option<u64> {
        let Self { connections, held, desk, .. } = self;
        let connection = connections[token].as_ref().filter(|connection| !connection.is_spent())?;
        let is_full = desk.plan.pace.has_a_queue() && connection.awaits() >= desk.plan.depth();
        if is_full { None } else { held.get_mut(token)?.pop_front() }
    }

    /// A connection has had its messages: it is closed, and another takes its place. Numbers are not used again,
    /// so its successor's stream is none that was sent before.
    fn renew(&mut self, token: usize) {
        let Some(spent) = self.connections.get_mut(token).and_then(Option::take) else { return };
        let (number, answers) = (spent.number + self.desk.plan.connections, spent.answers);
        self.living -= 1;
        self.desk.pacer.forget(token);
        spent.close(&mut self.carrier); // first by us: nothing is owed, so this is a FIN
        self.open(token, number, answers);
    }

    fn refused(&mut self, token: usize, number: usize, answers: u64, error: &io::Error) {
        let fault = match error.kind() {
            io::ErrorKind::ConnectionRefused => Fault::Refused,
            _ => Fault::Connect,
        };
        self.desk.window.faults.add(fault, || format!("connection {number}: {error}"));
        self.answers_of_lost.push(answers);
        self.drop_held(token);
    }

    fn give_up_on_who_does_not_come(&mut self) {
        let timeout = self.desk.plan.timeout;
        let is_late = |coming: &Coming| coming.begun.elapsed() > timeout;
        while let Some(token) =
            self.coming.iter().find_map(|(&token, coming)| is_late(coming).then_some(token))
        {
            let Some(late) = self.coming.remove(&token) else { return };
            let what = || format!("connection {}: not established in time", late.number);
            self.desk.window.faults.add(Fault::Timeout, what);
            self.answers_of_lost.push(late.answers);
            self.carrier.close(late.socket, token);
            self.drop_held(token);
        }
    }

    /// Those that wait for this connection do not depart any more.
    fn drop_held(&mut self, token: usize) {
        self.drop_held_until(token, u64::MAX);
    }

    /// The same of those that were due by then.
    fn drop_held_until(&mut self, token: usize, then: u64) {
        let Some(held) = self.held.get_mut(token) else { return };
        let Some(punctuality) = &mut self.desk.window.punctuality else { return };
        let late = held.partition_point(|&due| due <= then);
        punctuality.dropped +=
            held.drain(..late).filter(|&due| self.desk.pacer.is_measured(due)).count() as u64;
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
        if let Err(error) = connection.watch(&mut self.carrier, interest) {
            let what = format!("connection {}: {error}", connection.number);
            self.lose(token, Complaint::new(Fault::Socket, what));
        }
    }

    /// Reads what is there; lets the next message depart for each answer.
    fn receive(&mut self, token: usize, is_last: bool) {
        loop {
            let Some(Some(connection)) = self.connections.get_mut(token) else { return };
            let payload = self.desk.plan.verify.then_some(&*self.payload);
            let n = match connection.receive(&mut self.carrier, payload) {
                Ok(Received::Bytes(n)) => n,
                Ok(Received::Nothing) => return,
                Ok(Received::End) => return self.ended(token),
                Err(complaint) => return self.lose(token, complaint),
            };
            let now = self.desk.pacer.now();
            connection.last_heard = now;
            let mut answers = 0;
            while let Some((departure, bytes)) = connection.next_answer() {
                answers += 1;
                connection.answers += u64::from(self.desk.answered(departure, bytes, now));
            }
            if answers > 0 && !connection.is_waiting() {
                self.desk.waiting -= 1;
            }
            // What has begun is not kept for the next stretch: a server of one client at a time has others to serve.
            let is_over = self.desk.phase == Phase::Ending && self.desk.plan.churn.is_some();
            if !connection.is_waiting()
                && (is_over || connection.is_spent())
                && self.desk.phase != Phase::HalfClosed
            {
                return self.renew(token);
            }
            if answers > 0 && matches!(self.desk.phase, Phase::Loading { .. }) {
                self.go_on(token, answers, now);
            }
            if answers > 0 && self.desk.plan.pace.has_a_queue() {
                self.let_go(token);
            }
            if !is_last && !self.carrier.is_more(n) {
                return;
            }
        }
    }

    /// In a closed loop as many depart as were answered, perhaps after some thought.
    fn go_on(&mut self, token: usize, answers: usize, now: u64) {
        match self.desk.plan.pace {
            Pace::Open { .. } => {}
            Pace::Closed { think: Duration::ZERO, .. } => self.depart(token, answers, Departure::at(now)),
            Pace::Closed { think, .. } => (0..answers).for_each(|_| self.desk.pacer.think(token, now, think)),
        }
    }

    /// There is room again for what the kernel did not take.
    fn send(&mut self, token: usize) {
        let Some(Some(connection)) = self.connections.get_mut(token) else { return };
        if !connection.blocked {
            return;
        }
        match connection.send(&mut self.carrier, &self.payload) {
            Ok(()) if connection.blocked => {}
            Ok(()) => self.watch(token, Interest::READABLE),
            Err(complaint) => self.lose(token, complaint),
        }
    }

    /// The server's FIN, with nothing owed. Before ours, it is a connection less.
    fn ended(&mut self, token: usize) {
        let is_half_closed = self.connections[token].as_ref().is_some_and(Connection::is_half_closed);
        if is_half_closed && self.desk.phase != Phase::HalfClosed {
            self.desk.waiting -= 1;
            return self.renew(token);
        }
        let Some(connection) = self.connections.get_mut(token).and_then(Option::take) else { return };
        self.living -= 1;
        self.answers_of_lost.push(connection.answers);
        self.drop_held(token);
        if self.desk.phase != Phase::HalfClosed {
            let what = || format!("connection {}: the server closed it", connection.number);
            self.desk.window.faults.add(Fault::Closed, what);
        }
        connection.close(&mut self.carrier);
    }

    fn lose(&mut self, token: usize, complaint: Complaint) {
        let Some(connection) = self.connections.get_mut(token).and_then(Option::take) else { return };
        if connection.is_waiting() {
            self.desk.waiting -= 1;
        }
        self.living -= 1;
        self.answers_of_lost.push(connection.answers);
        connection.unanswered().for_each(|departure| self.desk.loses(departure));
        self.drop_held(token);
        let Self { connections, payload, desk, .. } = self;
        let owner =
            |trace: [u8; TRACE]| owner_of(&trace, connections.iter().flatten().chain([&connection]), payload);
        desk.window.faults.add(complaint.fault, || match complaint.trace.and_then(owner) {
            Some((number, offset)) => {
                format!("{}: it is connection {number}'s byte {offset}", complaint.what)
            }
            None => complaint.what,
        });
        connection.close(&mut self.carrier);
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
