//! One thread's clients over UDP, driven at the plan's pace. A datagram that is lost stops nobody: it is given up
//! when its time is over, and in a closed loop the next one departs then.

use std::{
    io,
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
    datagram::Format,
    engine::{Order, Seen, Share},
    flow::{Arrival, Flow, Room},
    meter::{Meter, Phase, TICK, nanoseconds},
    opening::Opening,
    pace::{Departure, Pacer},
    timer::Timer,
};

/// How many calls a client may take in a row: one that is flooded keeps nobody from the others, and not from the end.
const IN_A_ROW: usize = 1024;

/// How many datagrams that are due depart before it is looked at what has come.
const AT_ONCE: usize = 64;

/// One thread's clients.
pub struct Flows {
    plan: Plan,
    format: Format,
    stop: Arc<AtomicBool>,
    poll: Poll,
    events: Events,
    /// What is received into, and what is sent from.
    room: Room,
    outgoing: Vec<u8>,
    /// By token.
    flows: Vec<Flow>,
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
    fn connect(&mut self, numbers: Range<usize>, lane: usize) -> Connecting {
        let (lanes, per_second) = (self.plan.lanes(), self.plan.connect_rate);
        let opening = Opening { first: numbers.start, end: numbers.end, lanes, per_second };
        let mut connecting = Connecting::new();
        for number in opening.of_lane(lane) {
            connecting.asked += 1;
            let begun = Instant::now();
            match self.open(number) {
                Ok(inode) => {
                    connecting.established += 1;
                    connecting.took.saturating_record(nanoseconds(begun.elapsed()));
                    connecting.inodes.extend(inode);
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
        self.flows.iter_mut().for_each(|flow| flow.answers = 0);
        // A datagram that is late is given up soon after: within a quarter of its time.
        let mut meter = Meter::begins(order, (self.plan.timeout / 4).clamp(Duration::from_millis(1), TICK));
        self.phase = Phase::Loading { measuring: false };
        for token in 0..self.flows.len() {
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
            self.pacer.wait(&mut self.poll, &mut self.events, meter.until_next(now));
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
        self.window.by_connection.extend(self.flows.iter().map(|flow| flow.answers));
        self.window.audit = Some(self.audit);
        std::mem::replace(&mut self.window, Window::new())
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
            outgoing: vec![0; plan.size.longest() * plan.burst.unwrap_or(1)],
            plan,
            format,
            stop,
            poll,
            events: Events::with_capacity(1024),
            room: Room::new(),
            flows: Vec::new(),
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

    /// Lets those depart that are due; one whose client has too many on their way is dropped.
    fn depart_in_turn(&mut self) {
        for _ in 0..AT_ONCE {
            if self.pacer.next().is_none() {
                return; // nobody's turn is known, and no clock is asked
            }
            let now = self.pacer.now();
            let Some(slot) = self.pacer.turn(now) else { return };
            let Pace::Open { max_outstanding, .. } = self.plan.pace else {
                self.depart(slot.place, self.plan.burst.unwrap_or(1), Departure::at(now)); // it has thought
                continue;
            };
            let is_dropped = self.flows.get(slot.place).is_none_or(|flow| flow.awaits() >= max_outstanding);
            if let Some(punctuality) =
                self.window.punctuality.as_mut().filter(|_| self.pacer.is_measured(slot.due))
            {
                punctuality.note(is_dropped, now - slot.due);
            }
            if !is_dropped {
                self.depart(slot.place, 1, Departure { due: slot.due, left: now });
            }
        }
    }

    /// What was due long before the end and could not leave is dropped.
    fn drop_what_is_too_late(&mut self) {
        if let (Phase::Ending, Some(punctuality)) = (self.phase, &mut self.window.punctuality) {
            self.pacer.abandon(punctuality);
        }
    }

    /// Opens client `number`; returns its socket's inode.
    fn open(&mut self, number: usize) -> io::Result<Option<u64>> {
        let flow = Flow::open(&self.plan, number)?;
        let (fd, token) = (flow.socket.as_raw_fd(), Token(self.flows.len()));
        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        let inode = flow.inode();
        self.flows.push(flow);
        Ok(inode)
    }

    /// Handles the events of one wait.
    fn turn(&mut self) {
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
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
        let mut room = std::mem::take(&mut self.room);
        let (mut settled, mut now) = (0, 0);
        for _ in 0..IN_A_ROW {
            if settled >= most {
                break;
            }
            match self.flows[token].receive(&mut room) {
                Ok(datagrams) => {
                    now = self.pacer.now();
                    settled += datagrams.filter(|datagram| self.account(token, datagram, now)).count();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What is reported is reported once; what has come is still there.
                Err(error) => complain(&mut self.window, self.flows[token].number, &error),
            }
        }
        self.room = room;
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
        window.bytes += if is_measuring { datagram.len() as u64 } else { 0 };
        match flow.judge(datagram, format) {
            Arrival::Answer { departure, .. } if now - departure.left > nanoseconds(plan.timeout) => {
                audit.late += 1
            }
            Arrival::Answer { departure, in_order } => {
                audit.reordered += u64::from(!in_order);
                window.messages_in_all += 1;
                if is_measuring {
                    window.messages += 1;
                    flow.answers += 1;
                }
                if pacer.records(departure, *phase) {
                    window.record(departure, now);
                }
            }
            Arrival::Late { departure } => {
                match departure {
                    // It was counted as lost in the stretch that it had left in: in this one, or before.
                    Some(departure) if departure.left < self.began => audit.received -= 1,
                    Some(_) => (audit.late, audit.lost) = (audit.late + 1, audit.lost - 1),
                    None => audit.late += 1,
                }
                return false;
            }
            Arrival::Duplicate => {
                audit.duplicated += 1;
                return false;
            }
            Arrival::Wrong { what, settled } => {
                audit.wrong += 1;
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
            self.depart(token, datagrams, Departure::at(now));
        } else {
            (0..turns).for_each(|_| self.pacer.think(token, now, think));
        }
    }

    fn depart(&mut self, token: usize, datagrams: usize, departure: Departure) {
        if datagrams == 0 {
            return;
        }
        let Self { flows, format, outgoing, window, audit, plan, .. } = self;
        let flow = &mut flows[token];
        if flow.awaits() == 0 {
            self.waiting += 1;
        }
        let at_once = plan.burst.map_or(1, |_| datagrams);
        for _ in 0..datagrams / at_once {
            if let Err(error) = flow.depart(at_once, departure, format, outgoing) {
                complain(window, flow.number, &error);
            }
        }
        audit.sent += datagrams as u64;
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
