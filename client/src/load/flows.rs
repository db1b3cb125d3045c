//! One thread's clients over UDP, driven in a closed loop. A datagram that is lost stops nobody: it is given up
//! when its time is over, and the next one departs.

use std::{
    io,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};

use super::{
    Audit, Connecting, Fault, Faults, Plan, Window,
    datagram::Format,
    engine::{Order, Share},
    flow::{Arrival, Flow, Room},
    meter::{Meter, Phase, TICK, nanoseconds},
    opening::Opening,
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
    room: Room,
    outgoing: Vec<u8>,
    /// By token.
    flows: Vec<Flow>,
    /// How many of them have answers to wait for.
    waiting: usize,
    epoch: Instant,
    window: Window,
    audit: Audit,
    phase: Phase,
    /// When this stretch began, and its measured time, in nanoseconds of the clock; before it does, never.
    began: u64,
    measured_from: u64,
}

impl Share for Flows {
    /// Opens a socket for each client. No server hears of that, so there is no ramp.
    fn connect(&mut self, thread: usize) -> Connecting {
        let Plan { connections, threads, connect_rate: per_second, .. } = self.plan;
        let mut connecting = Connecting::new();
        for number in (Opening { connections, threads, per_second }).of_thread(thread) {
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

    fn run(&mut self, order: Order) -> Window {
        self.window = Window::new();
        self.audit = Audit::default();
        (self.began, self.measured_from) = (self.now(), u64::MAX);
        self.flows.iter_mut().for_each(|flow| flow.answers = 0);
        // A datagram that is late is given up soon after: within a quarter of its time.
        let mut meter = Meter::begins(order, (self.plan.timeout / 4).clamp(Duration::from_millis(1), TICK));
        self.phase = Phase::Loading { measuring: false };
        for token in 0..self.flows.len() {
            let now = self.now();
            self.depart(token, self.plan.depth(), now);
        }
        while self.waiting > 0 {
            let now = Instant::now();
            self.phase = meter.next(self.phase, now, self.stop.load(Relaxed), &mut self.window);
            if self.phase == (Phase::Loading { measuring: true }) {
                self.measured_from = self.measured_from.min(nanoseconds(now - self.epoch));
            }
            self.wait(meter.until_next(now));
            self.turn();
            if meter.tick(Instant::now(), &mut self.window) {
                self.give_up_on_the_late();
            }
        }
        if self.phase != Phase::Ending {
            meter.end(Instant::now(), &mut self.window); // nobody came up
        }
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
    pub fn new(poll: Poll, plan: Plan, format: Format, stop: Arc<AtomicBool>) -> Self {
        Self {
            outgoing: vec![0; plan.size * plan.burst.unwrap_or(1)],
            plan,
            format,
            stop,
            poll,
            events: Events::with_capacity(1024),
            room: Room::new(),
            flows: Vec::new(),
            waiting: 0,
            epoch: Instant::now(),
            window: Window::new(),
            audit: Audit::default(),
            phase: Phase::Opening,
            began: 0,
            measured_from: u64::MAX,
        }
    }

    /// Nanoseconds on the engine's clock.
    fn now(&self) -> u64 {
        nanoseconds(self.epoch.elapsed())
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

    /// Waits for events, up to `timeout`. A signal may end it.
    fn wait(&mut self, timeout: Duration) {
        if let Err(error) = self.poll.poll(&mut self.events, Some(timeout)) {
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "poll: {error}");
        }
    }

    /// Handles the events of one wait.
    fn turn(&mut self) {
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
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
                    now = self.now();
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
        let Self { flows, format, window, audit, phase, plan, .. } = self;
        let flow = &mut flows[token];
        audit.received += 1;
        match flow.judge(datagram, format) {
            Arrival::Answer { departed, .. } if now - departed > nanoseconds(plan.timeout) => audit.late += 1,
            Arrival::Answer { departed, in_order } => {
                audit.reordered += u64::from(!in_order);
                window.messages_in_all += 1;
                let measuring = *phase == (Phase::Loading { measuring: true });
                if measuring {
                    window.messages += 1;
                    flow.answers += 1;
                }
                // In the end, those are still recorded that departed in the measured time: the slowest.
                if measuring || (*phase == Phase::Ending && departed >= self.measured_from) {
                    window.latency.saturating_record(now - departed);
                }
            }
            Arrival::Late { departed } => {
                match departed {
                    // It was counted as lost in the stretch that it had left in: in this one, or before.
                    Some(departed) if departed < self.began => audit.received -= 1,
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

    /// As many depart as were settled; of a burst, when all of it is.
    fn go_on(&mut self, token: usize, settled: usize, now: u64) {
        if !matches!(self.phase, Phase::Loading { .. }) {
            return;
        }
        match self.plan.burst {
            None => self.depart(token, settled, now),
            Some(burst) if self.flows[token].awaits() == 0 => self.depart(token, burst, now),
            Some(_) => {}
        }
    }

    fn depart(&mut self, token: usize, datagrams: usize, now: u64) {
        let Self { flows, format, outgoing, window, audit, plan, .. } = self;
        let flow = &mut flows[token];
        if flow.awaits() == 0 {
            self.waiting += 1;
        }
        let at_once = plan.burst.map_or(1, |_| datagrams);
        for _ in 0..datagrams / at_once {
            if let Err(error) = flow.depart(at_once, now, format, outgoing) {
                complain(window, flow.number, &error);
            }
        }
        audit.sent += datagrams as u64;
    }

    fn give_up_on_the_late(&mut self) {
        let now = self.now();
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
