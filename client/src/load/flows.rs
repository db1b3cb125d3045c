//! One thread's clients over UDP, driven at the plan's pace. A datagram that is lost stops nobody: it is given up
//! when its time is over, and in a closed loop the next one departs then.

use std::{
    io, mem,
    ops::Range,
    time::{Duration, Instant},
};

use super::{
    Audit, Connecting, Fault, Faults, Pace, Window,
    batch::{Incoming, Outgoing},
    carrier::{Carrier, Event},
    datagram::Format,
    flow::{Arrival, Flow},
    meter::{Phase, nanoseconds},
    opening::Opening,
    pace::Departure,
    readiness::Readiness,
    stretch::{Desk, Outlook, Share},
};

/// How many calls a client may take in a row: one that is flooded keeps nobody from the others, and not from the end.
const IN_A_ROW: usize = 1024;

/// One thread's clients.
pub struct Flows {
    desk: Desk,
    format: Format,
    readiness: Readiness,
    /// What has happened, and is not handled.
    events: Vec<Event>,
    /// What is received into, and what is sent from.
    incoming: Incoming,
    outgoing: Outgoing,
    /// Whose datagrams are in there, by token.
    leaving: usize,
    /// By token.
    flows: Vec<Flow>,
    /// Those whose turn was over before all that had come was received, by token: nobody tells of it again.
    unfinished: Vec<usize>,
    audit: Audit,
}

impl Share for Flows {
    /// Opens a socket for each client. No server hears of that, so there is no ramp.
    fn connect(&mut self, numbers: Range<usize>, lane: usize) -> Connecting {
        let (lanes, per_second) = (self.desk.plan.lanes(), self.desk.plan.connect_rate);
        let opening = Opening { first: numbers.start, end: numbers.end, lanes, per_second };
        let mut connecting = Connecting::new();
        for number in opening.of_lane(lane) {
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

    fn desk(&mut self) -> &mut Desk {
        &mut self.desk
    }

    fn places(&self) -> usize {
        self.flows.len()
    }

    fn living(&self) -> (usize, bool) {
        (self.flows.len(), false)
    }

    fn audit(&self) -> Option<Audit> {
        Some(self.audit)
    }

    fn depart(&mut self, token: usize, datagrams: usize, departure: Departure) {
        if self.leaving != token {
            self.leave();
            self.leaving = token;
        }
        for _ in 0..datagrams {
            let Self { flows, format, outgoing, audit, desk, .. } = self;
            let flow = &mut flows[token];
            desk.waiting += usize::from(flow.awaits() == 0);
            audit.sent += 1;
            desk.departs(1, departure);
            flow.write(departure, format, outgoing);
            if outgoing.is_full() {
                self.leave();
            }
        }
    }

    fn outlook(&self, place: usize, max_outstanding: usize) -> Outlook {
        let is_full = self.flows.get(place).is_none_or(|flow| flow.awaits() >= max_outstanding);
        if is_full { Outlook::Dropped } else { Outlook::Departs }
    }

    /// No datagram waits for a connection.
    fn hold(&mut self, _: usize, _: u64) {}

    fn wait(&mut self, most: Duration) {
        self.leave();
        let most = if self.unfinished.is_empty() { most } else { Duration::ZERO };
        self.readiness.wait(self.desk.pacer.sleep(most), &mut self.events);
    }

    fn turn(&mut self) {
        for token in mem::take(&mut self.unfinished) {
            self.receive(token, usize::MAX);
        }
        let mut events = mem::take(&mut self.events);
        for Event { token, .. } in events.drain(..) {
            // What had departed when the event came may be there; answers to what departs now are events of
            // their own. So a client with one datagram on its way is not asked for a second answer in vain.
            let awaited = self.flows[token].awaits();
            self.receive(token, awaited.max(1));
        }
        self.events = events;
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
            while let Some(sent) = flow.give_up(bound) {
                self.desk.loses(sent.departure);
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

    fn begin(&mut self, counts_on: bool) {
        self.audit = Audit::default();
        self.flows.iter_mut().for_each(|flow| flow.begin(counts_on));
    }

    /// Nothing is awaited any more, but what comes twice may still be there.
    fn conclude(&mut self) {
        for token in 0..self.flows.len() {
            self.receive(token, usize::MAX);
        }
        self.audit.kernel_drops = self.flows.iter_mut().map(Flow::dropped).sum();
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
            incoming: Incoming::new(desk.plan.depth()),
            outgoing: Outgoing::new(desk.plan.depth(), desk.plan.size.longest()),
            leaving: 0,
            desk,
            format,
            readiness,
            events: Vec::new(),
            flows: Vec::new(),
            unfinished: Vec::new(),
            audit: Audit::default(),
        }
    }

    /// Opens client `number`.
    fn open(&mut self, number: usize) -> io::Result<()> {
        let flow = Flow::open(&self.desk.plan, number)?;
        self.readiness.listen(&flow.socket, self.flows.len())?;
        self.flows.push(flow);
        Ok(())
    }

    /// Sends what has departed, in as few calls as go.
    fn leave(&mut self) {
        let Some(flow) = self.flows.get_mut(self.leaving).filter(|_| !self.outgoing.is_empty()) else {
            return;
        };
        let number = flow.number;
        flow.send(&mut self.outgoing, |error| complain(&mut self.desk.window, number, &error));
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
                    (now, may_be_more) = (self.desk.pacer.now(), is_full);
                    let came = incoming.datagrams();
                    settled += came.filter(|datagram| self.account(token, datagram, now)).count();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => may_be_more = false,
                // What is reported is reported once; what has come is still there.
                Err(error) => complain(&mut self.desk.window, self.flows[token].number, &error),
            }
        }
        self.incoming = incoming;
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
        let timeout = nanoseconds(desk.plan.timeout);
        match flow.judge(datagram, format) {
            Arrival::Answer { departure, .. } if now - departure.left > timeout => {
                audit.late += 1;
                desk.loses(departure);
            }
            Arrival::Answer { departure, in_order } => {
                audit.answered += 1;
                audit.reordered += u64::from(!in_order);
                flow.answers += u64::from(desk.answered(departure, datagram.len() as u64, now));
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
                audit.wrong_unawaited += u64::from(settled.is_none());
                settled.into_iter().for_each(|departure| desk.loses(departure));
                desk.window.faults.add(Fault::Wrong, || what);
                return settled.is_some();
            }
            Arrival::Foreign { what } => {
                audit.foreign += 1;
                desk.window.faults.add(Fault::Foreign, || what);
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
            self.leave();
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
