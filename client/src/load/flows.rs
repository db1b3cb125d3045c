//! One thread's clients over UDP, driven at the plan's pace. A datagram that is lost stops nobody: it is given up
//! when its time is over, and in a closed loop the next one departs then.

use std::{
    io,
    ops::Range,
    time::{Duration, Instant},
};

use mio::Interest;

use super::{
    Audit, Connecting, Fault, Faults, Pace, Plan, Window,
    datagram::Format,
    flow::{Arrival, Flow, Room},
    meter::{Phase, nanoseconds},
    opening::Opening,
    pace::Departure,
    readiness::Readiness,
    stretch::{Desk, Outlook, Share},
    timer::Timer,
};

/// How many calls a client may take in a row: one that is flooded keeps nobody from the others, and not from the end.
const IN_A_ROW: usize = 1024;

/// One thread's clients.
pub struct Flows {
    desk: Desk,
    format: Format,
    readiness: Readiness,
    /// What is received into, and what is sent from.
    room: Room,
    outgoing: Vec<u8>,
    /// By token.
    flows: Vec<Flow>,
    audit: Audit,
    /// When this stretch began, in nanoseconds of the clock.
    began: u64,
}

impl Share for Flows {
    /// Opens a socket for each client. No server hears of that, so there is no ramp.
    fn connect(&mut self, numbers: Range<usize>, thread: usize) -> Connecting {
        let Plan { threads, connect_rate: per_second, .. } = self.desk.plan;
        let opening = Opening { first: numbers.start, end: numbers.end, threads, per_second };
        let mut connecting = Connecting::new();
        for number in opening.of_thread(thread) {
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

    fn desk(&mut self) -> &mut Desk {
        &mut self.desk
    }

    fn places(&self) -> usize {
        self.flows.len()
    }

    fn living(&self) -> (usize, bool) {
        (self.flows.len(), false)
    }

    fn depart(&mut self, token: usize, datagrams: usize, departure: Departure) {
        if datagrams == 0 {
            return;
        }
        let Self { flows, format, outgoing, audit, desk: Desk { window, plan, waiting, .. }, .. } = self;
        let flow = &mut flows[token];
        *waiting += usize::from(flow.awaits() == 0);
        let at_once = plan.burst.map_or(1, |_| datagrams);
        for _ in 0..datagrams / at_once {
            if let Err(error) = flow.depart(at_once, departure, format, outgoing) {
                complain(window, flow.number, &error);
            }
        }
        audit.sent += datagrams as u64;
    }

    fn outlook(&self, place: usize, max_outstanding: usize) -> Outlook {
        let is_full = self.flows.get(place).is_none_or(|flow| flow.awaits() >= max_outstanding);
        if is_full { Outlook::Dropped } else { Outlook::Departs }
    }

    /// No datagram waits for a connection.
    fn hold(&mut self, _: usize, _: u64) {}

    fn wait(&mut self, most: Duration) {
        self.readiness.wait(self.desk.pacer.sleep(most));
    }

    fn turn(&mut self) {
        let events = self.readiness.take();
        for event in events.iter().filter(|event| event.token() != Timer::TOKEN) {
            // What had departed when the event came may be there; answers to what departs now are events of
            // their own. So a client with one datagram on its way is not asked for a second answer in vain.
            let token = event.token().0;
            let awaited = self.flows[token].awaits();
            self.receive(token, awaited.max(1));
        }
        self.readiness.give_back(events);
    }

    fn give_up_on_the_late(&mut self) {
        let now = self.desk.pacer.now();
        let bound = now.saturating_sub(nanoseconds(self.desk.plan.timeout));
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
            self.desk.waiting -= usize::from(flow.awaits() == 0);
            self.audit.lost += lost as u64;
            self.go_on(token, lost, now);
        }
    }

    fn begin(&mut self) {
        self.audit = Audit::default();
        self.began = self.desk.pacer.now();
        self.flows.iter_mut().for_each(|flow| flow.answers = 0);
    }

    /// Nothing is awaited any more, but what comes twice may still be there.
    fn conclude(&mut self) {
        for token in 0..self.flows.len() {
            self.receive(token, usize::MAX);
        }
        self.desk.window.by_connection.extend(self.flows.iter().map(|flow| flow.answers));
        self.desk.window.audit = Some(self.audit);
    }

    /// A client that has its answers is gone without a word.
    fn finish(self) -> Faults {
        Faults::default()
    }
}

impl Flows {
    /// A thread's, with nothing opened yet.
    pub fn new(desk: Desk, readiness: Readiness, format: Format) -> Self {
        Self {
            outgoing: vec![0; desk.plan.size.longest() * desk.plan.burst.unwrap_or(1)],
            desk,
            format,
            readiness,
            room: Room::new(),
            flows: Vec::new(),
            audit: Audit::default(),
            began: 0,
        }
    }

    /// Opens client `number`; returns its socket's inode.
    fn open(&mut self, number: usize) -> io::Result<Option<u64>> {
        let flow = Flow::open(&self.desk.plan, number)?;
        self.readiness.watch(&flow.socket, self.flows.len(), Interest::READABLE)?;
        let inode = flow.inode();
        self.flows.push(flow);
        Ok(inode)
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
                    now = self.desk.pacer.now();
                    settled += datagrams.filter(|datagram| self.account(token, datagram, now)).count();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What is reported is reported once; what has come is still there.
                Err(error) => complain(&mut self.desk.window, self.flows[token].number, &error),
            }
        }
        self.room = room;
        if was_waiting && self.flows[token].awaits() == 0 {
            self.desk.waiting -= 1;
        }
        if settled > 0 {
            self.go_on(token, settled, now);
        }
    }

    /// Counts what came at `now`; says whether it settles one that was awaited.
    fn account(&mut self, token: usize, datagram: &[u8], now: u64) -> bool {
        let Self { flows, format, audit, desk, .. } = self;
        let flow = &mut flows[token];
        audit.received += 1;
        let is_measuring = desk.is_measuring();
        let Desk { window, phase, plan, pacer, .. } = desk;
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
        let (Phase::Loading { .. }, Pace::Closed { think, .. }) = (self.desk.phase, self.desk.plan.pace)
        else {
            return;
        };
        let (turns, datagrams) = match self.desk.plan.burst {
            None => (settled, settled),
            Some(burst) if self.flows[token].awaits() == 0 => (1, burst),
            Some(_) => return,
        };
        if think.is_zero() {
            self.depart(token, datagrams, Departure::at(now));
        } else {
            (0..turns).for_each(|_| self.desk.pacer.think(token, now, think));
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
