//! One thread's clients over UDP, driven at the plan's pace. A datagram that is lost stops nobody: it is given up
//! when its time is over, and in a closed loop the next one departs then.

use std::{
    io, mem,
    ops::Range,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};

use super::{
    Audit, Connecting, Fault, Faults, Pace, Plan, Punctuality, Window,
    batch::{Incoming, MOST, Outgoing},
    datagram::Format,
    engine::{Order, Seen, Share},
    flow::{Arrival, Flow},
    meter::{Meter, Phase, TICK, nanoseconds},
    opening::Opening,
    pace::{Departure, Pacer},
    schedule::Slot,
    timer::Timer,
};

/// How many calls a client may take in a row: one that is flooded keeps nobody from the others, and not from the end.
const IN_A_ROW: usize = 1024;

/// One thread's clients.
pub struct Flows {
    plan: Plan,
    format: Format,
    stop: Arc<AtomicBool>,
    poll: Poll,
    events: Events,
    /// What is received into, and what is sent from.
    incoming: Incoming,
    outgoing: Outgoing,
    /// By token.
    flows: Vec<Flow>,
    /// Those whose turn was over before all that had come was received, by token: nobody tells of it again.
    unfinished: Vec<usize>,
    /// Whose datagrams are due, and when they were: room for those of one look at the clock.
    due: Vec<Slot>,
    /// How many of them have answers to wait for.
    waiting: usize,
    pacer: Pacer,
    window: Window,
    audit: Audit,
    phase: Phase,
    /// When this stretch began, in nanoseconds of the clock.
    began: u64,
}

impl Share for Flows {
    /// Opens a socket for each client. No server hears of that, so there is no ramp.
    fn connect(&mut self, numbers: Range<usize>, thread: usize) -> Connecting {
        let Plan { threads, connect_rate: per_second, .. } = self.plan;
        let opening = Opening { first: numbers.start, end: numbers.end, threads, per_second };
        let mut connecting = Connecting::new();
        for number in opening.of_thread(thread) {
            connecting.asked += 1;
            let begun = Instant::now();
            match self.open(number) {
                Ok(()) => {
                    connecting.established += 1;
                    connecting.took.saturating_record(nanoseconds(begun.elapsed()));
                }
                Err(error) => {
                    let fault = match error.kind() {
                        io::ErrorKind::ConnectionRefused => Fault::Refused,
                        _ => Fault::Connect,
                    };
                    connecting.faults.add(fault, || format!("connection {number}: {error}"));
                }
            }
        }
        connecting
    }

    fn run(&mut self, order: Order, seen: &Seen) -> Window {
        self.window = Window::new();
        self.window.punctuality = self.plan.is_open().then(Punctuality::new);
        self.audit = Audit::default();
        self.began = self.pacer.now();
        self.pacer.begin(&self.plan, order);
        self.flows.iter_mut().for_each(Flow::begin);
        // A datagram that is late is given up soon after: within a quarter of its time.
        let mut meter = Meter::begins(order, (self.plan.timeout / 4).clamp(Duration::from_millis(1), TICK));
        self.phase = Phase::Loading { measuring: false };
        for token in 0..self.flows.len() {
            let now = self.pacer.now();
            self.depart(token, self.plan.at_first(), now);
        }
        while self.goes_on() {
            let now = Instant::now();
            let before = self.phase;
            self.phase = meter.next(before, now, self.stop.load(Relaxed), &mut self.window);
            if self.phase == Phase::Ending && before != Phase::Ending {
                self.pacer.end();
            }
            self.depart_in_turn();
            let most = if self.unfinished.is_empty() { meter.until_next(now) } else { Duration::ZERO };
            self.pacer.wait(&mut self.poll, &mut self.events, most);
            self.turn();
            let now = Instant::now();
            while meter.second(now) {
                seen.second(&mut self.window);
            }
            if meter.tick(now) {
                self.give_up_on_the_late();
                self.drop_what_is_too_late();
            }
        }
        if self.phase != Phase::Ending {
            meter.end(Instant::now(), &mut self.window); // nobody came up
            self.phase = Phase::Ending;
        }
        self.drop_what_is_too_late();
        // Nothing is awaited any more, but what comes twice may still be there.
        for token in 0..self.flows.len() {
            self.receive(token, usize::MAX);
        }
        self.audit.kernel_drops = self.flows.iter_mut().map(Flow::dropped).sum();
        self.window.by_connection.extend(self.flows.iter().map(|flow| flow.answers));
        self.window.audit = Some(self.audit);
        mem::replace(&mut self.window, Window::new())
    }

    /// A client that has its answers is gone without a word.
    fn finish(self) -> Faults {
        Faults::default()
    }
}

impl Flows {
    /// A thread's part of `plan`, with nothing opened yet.
    pub fn new(poll: Poll, pacer: Pacer, plan: Plan, format: Format, stop: Arc<AtomicBool>) -> Self {
        Self {
            incoming: Incoming::new(plan.depth()),
            outgoing: Outgoing::new(plan.depth(), plan.size.longest()),
            plan,
            format,
            stop,
            poll,
            events: Events::with_capacity(1024),
            flows: Vec::new(),
            unfinished: Vec::new(),
            due: Vec::with_capacity(MOST),
            waiting: 0,
            pacer,
            window: Window::new(),
            audit: Audit::default(),
            phase: Phase::Opening,
            began: 0,
        }
    }

    /// Whether the stretch is not over: it is loaded, or something is still to come, or to go.
    fn goes_on(&mut self) -> bool {
        let is_loading = matches!(self.phase, Phase::Loading { .. });
        self.waiting > 0 || !self.flows.is_empty() && (is_loading || self.pacer.next().is_some())
    }

    /// Lets those depart that are due. What is due together for one client leaves together.
    fn depart_in_turn(&mut self) {
        let mut due = mem::take(&mut self.due);
        if self.pacer.next().is_some() {
            let now = self.pacer.now();
            due.extend((0..MOST).map_while(|_| self.pacer.turn(now)));
        } // else nobody's turn is known, and no clock is asked
        due.sort_by_key(|slot| slot.place); // of one client's, the one that was due first stays the first
        for of_client in due.chunk_by(|a, b| a.place == b.place) {
            self.depart_together(of_client);
        }
        due.clear();
        self.due = due;
    }

    /// Lets a client's depart that are due; what would be one too many on their way is dropped.
    fn depart_together(&mut self, slots: &[Slot]) {
        let (token, now) = (slots[0].place, self.pacer.now());
        let Pace::Open { max_outstanding, .. } = self.plan.pace else {
            let datagrams = slots.len() * self.plan.burst.unwrap_or(1); // it has thought
            return self.depart(token, datagrams, now);
        };
        let room = self.flows.get(token).map_or(0, |flow| max_outstanding.saturating_sub(flow.awaits()));
        for (nth, slot) in slots.iter().enumerate() {
            if let Some(punctuality) =
                self.window.punctuality.as_mut().filter(|_| self.pacer.is_measured(slot.due))
            {
                punctuality.note(nth >= room, now - slot.due);
            }
        }
        let leaving = &slots[..room.min(slots.len())];
        self.send(token, leaving.iter().map(|slot| Departure { due: slot.due, left: now }));
    }

    /// What was due long before the end and could not leave is dropped.
    fn drop_what_is_too_late(&mut self) {
        if let (Phase::Ending, Some(punctuality)) = (self.phase, &mut self.window.punctuality) {
            self.pacer.abandon(punctuality);
        }
    }

    /// Opens client `number`.
    fn open(&mut self, number: usize) -> io::Result<()> {
        let flow = Flow::open(&self.plan, number)?;
        let (fd, token) = (flow.socket.as_raw_fd(), Token(self.flows.len()));
        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        self.flows.push(flow);
        Ok(())
    }

    /// Handles the events of one wait, and what the one before had left.
    fn turn(&mut self) {
        let events = mem::replace(&mut self.events, Events::with_capacity(0));
        for token in mem::take(&mut self.unfinished) {
            self.receive(token, usize::MAX);
        }
        for event in events.iter().filter(|event| event.token() != Timer::TOKEN) {
            // What had departed when the event came may be there; answers to what departs now are events of
            // their own. So a client with one datagram on its way is not asked for a second answer in vain.
            let token = event.token().0;
            let awaited = self.flows[token].awaits();
            self.receive(token, awaited.max(1));
        }
        self.events = events;
    }

    /// Receives until so many that were awaited have come, or nothing is there; then as many depart.
    fn receive(&mut self, token: usize, most: usize) {
        let was_waiting = self.flows[token].awaits() > 0;
        let mut incoming = mem::take(&mut self.incoming);
        let (mut settled, mut now, mut may_be_more, mut calls) = (0, 0, true, 0);
        while settled < most && may_be_more {
            if calls == IN_A_ROW {
                self.unfinished.push(token);
                break;
            }
            calls += 1;
            match self.flows[token].receive(&mut incoming, most - settled) {
                Ok(is_full) => {
                    (now, may_be_more) = (self.pacer.now(), is_full);
                    let came = incoming.datagrams();
                    settled += came.filter(|datagram| self.account(token, datagram, now)).count();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => may_be_more = false,
                // What is reported is reported once; what has come is still there.
                Err(error) => complain(&mut self.window, self.flows[token].number, &error),
            }
        }
        self.incoming = incoming;
        if was_waiting && self.flows[token].awaits() == 0 {
            self.waiting -= 1;
        }
        if settled > 0 {
            self.go_on(token, settled, now);
        }
    }

    /// Counts what came at `now`; says whether it settles one that was awaited.
    fn account(&mut self, token: usize, datagram: &[u8], now: u64) -> bool {
        let Self { flows, format, window, audit, phase, plan, pacer, .. } = self;
        let flow = &mut flows[token];
        audit.received += 1;
        let is_measuring = *phase == (Phase::Loading { measuring: true });
        match flow.judge(datagram, format) {
            Arrival::Answer { departure, .. } if now - departure.left > nanoseconds(plan.timeout) => {
                audit.late += 1
            }
            Arrival::Answer { departure, in_order } => {
                audit.answered += 1;
                audit.reordered += u64::from(!in_order);
                window.messages_in_all += 1;
                if is_measuring {
                    window.messages += 1;
                    window.bytes += datagram.len() as u64;
                    flow.answers += 1;
                }
                if pacer.records(departure, *phase) {
                    window.record(departure, now);
                }
            }
            Arrival::Late { is_of_before } => {
                audit.late += 1;
                match is_of_before {
                    true => audit.recovered += 1, // it was counted as lost in the stretch that it had left in
                    false => audit.lost -= 1,
                }
                return false;
            }
            Arrival::Duplicate => {
                audit.duplicated += 1;
                return false;
            }
            Arrival::Wrong { what, settled } => {
                audit.wrong += 1;
                audit.wrong_unawaited += u64::from(!settled);
                window.faults.add(Fault::Wrong, || what);
                return settled;
            }
            Arrival::Foreign { what } => {
                audit.foreign += 1;
                window.faults.add(Fault::Foreign, || what);
                return false;
            }
        }
        true
    }

    /// In a closed loop as many depart as were settled, perhaps after some thought; of a burst, when all of it is.
    fn go_on(&mut self, token: usize, settled: usize, now: u64) {
        let (Phase::Loading { .. }, Pace::Closed { think, .. }) = (self.phase, self.plan.pace) else {
            return;
        };
        let (turns, datagrams) = match self.plan.burst {
            None => (settled, settled),
            Some(burst) if self.flows[token].awaits() == 0 => (1, burst),
            Some(_) => return,
        };
        if think.is_zero() {
            self.depart(token, datagrams, now);
        } else {
            (0..turns).for_each(|_| self.pacer.think(token, now, think));
        }
    }

    /// So many of a client's depart now.
    fn depart(&mut self, token: usize, datagrams: usize, now: u64) {
        self.send(token, std::iter::repeat_n(Departure::at(now), datagrams));
    }

    /// Sends a client's next datagrams in as few calls as go.
    fn send(&mut self, token: usize, mut departures: impl ExactSizeIterator<Item = Departure>) {
        let Self { flows, format, outgoing, window, audit, .. } = self;
        let flow = &mut flows[token];
        if flow.awaits() == 0 && departures.len() > 0 {
            self.waiting += 1;
        }
        audit.sent += departures.len() as u64;
        let number = flow.number;
        while departures.len() > 0 {
            departures
                .by_ref()
                .take(outgoing.size())
                .for_each(|departure| flow.write(departure, format, outgoing));
            flow.send(outgoing, |error| complain(window, number, &error));
        }
    }

    fn give_up_on_the_late(&mut self) {
        let now = self.pacer.now();
        let bound = now.saturating_sub(nanoseconds(self.plan.timeout));
        for token in 0..self.flows.len() {
            if !self.flows[token].is_overdue(bound) {
                continue;
            }
            self.receive(token, usize::MAX); // it may be there: then it is late, and not lost
            let flow = &mut self.flows[token];
            let mut lost = 0;
            while flow.give_up(bound).is_some() {
                lost += 1;
            }
            if lost == 0 {
                continue;
            }
            self.waiting -= usize::from(flow.awaits() == 0);
            self.audit.lost += lost as u64;
            self.go_on(token, lost, now);
        }
    }
}

#[cold]
fn complain(window: &mut Window, number: usize, error: &io::Error) {
    match error.kind() {
        io::ErrorKind::Interrupted => {} // it is tried again
        io::ErrorKind::ConnectionRefused => window.faults.add(Fault::Refused, || {
            format!("connection {number}: nobody serves there (ICMP port unreachable)")
        }),
        _ => window.faults.add(Fault::Socket, || format!("connection {number}: {error}")),
    }
}
