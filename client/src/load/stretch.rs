//! A stretch of load, as each thread goes through it, whoever its clients are: connections or senders of datagrams.

use std::{
    mem,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    Audit, Connecting, Faults, Pace, Plan, Punctuality, Window,
    engine::{Order, Seen},
    meter::{Meter, Phase},
    pace::{Departure, Pacer},
    schedule::Slot,
    tempo::Tempo,
};

/// How many messages that are due depart before it is looked at what has come.
const AT_ONCE: usize = 64;

/// What a thread of the load has, whoever its clients are.
pub struct Desk {
    /// What is to be done.
    pub plan: Plan,
    /// Its clock.
    pub pacer: Pacer,
    /// What it saw in this stretch.
    pub window: Window,
    /// What it is doing.
    pub phase: Phase,
    /// How many of its clients have answers to wait for.
    pub waiting: usize,
    /// Who is to depart now.
    due: Vec<Slot>,
    stop: Arc<AtomicBool>,
}

impl Desk {
    /// That of the thread of this lane of `plan`; all threads keep one `tempo`. `stop` ends whatever it does, early and in order.
    pub fn new(plan: &Plan, lane: usize, tempo: &Arc<Tempo>, stop: &Arc<AtomicBool>) -> Self {
        Self {
            plan: plan.clone(),
            pacer: Pacer::new(lane, Arc::clone(tempo)),
            window: Window::new(),
            phase: Phase::Opening,
            waiting: 0,
            due: Vec::with_capacity(AT_ONCE),
            stop: Arc::clone(stop),
        }
    }

    /// Whether the user asked for an end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// The next phase, where it is time for that.
    fn go_on(&mut self, meter: &mut Meter, now: Instant) {
        let before = self.phase;
        self.phase = meter.next(before, now, self.is_stopped(), &mut self.window);
        if before == (Phase::Loading { measuring: false }) && self.phase != before {
            self.pacer.measure(now);
        }
        if before != Phase::Ending && self.phase == Phase::Ending {
            self.pacer.end(now);
        }
    }

    /// So many messages of a client depart.
    pub fn departs(&mut self, messages: usize, departure: Departure) {
        if self.pacer.is_measured(departure.due) {
            self.window.sent += messages as u64;
        }
    }

    /// The answer to a message of so many bytes has come: whether it is one of the measured time.
    pub fn answered(&mut self, departure: Departure, bytes: u64, now: u64) -> bool {
        let Self { window, pacer, phase, .. } = self;
        window.messages_in_all += 1;
        if pacer.is_measured(departure.due) {
            window.record(departure, now);
        }
        let counts = pacer.counts(departure, *phase);
        if counts {
            window.messages += 1;
            window.bytes += bytes;
        }
        counts
    }

    /// No answer to a message comes any more.
    pub fn loses(&mut self, departure: Departure) {
        self.window.lost_in_flight += u64::from(self.pacer.is_measured(departure.due));
    }

    /// What was due long before the end and could not leave is dropped.
    fn drop_what_is_too_late(&mut self) {
        if let (Phase::Ending, Some(punctuality)) = (self.phase, &mut self.window.punctuality) {
            self.pacer.abandon(punctuality);
        }
    }
}

/// What becomes of a message that is due in an open loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It departs.
    Departs,
    /// It waits for its connection, which is coming, or for those before it.
    Waits,
    /// It is dropped: too many of its client's are on their way, or there is no such client any more.
    Dropped,
}

/// A thread's share of the clients.
pub trait Share {
    /// Opens those of these numbers that are of this thread's lane.
    fn connect(&mut self, numbers: Range<usize>, lane: usize) -> Connecting;

    /// What the thread has besides them.
    fn desk(&mut self) -> &mut Desk;

    /// How many places there are for clients, by which the schedule knows them.
    fn places(&self) -> usize;

    /// How many clients there are, and whether others are coming.
    fn living(&self) -> (usize, bool);

    /// Over UDP: what became of the datagrams so far.
    fn audit(&self) -> Option<Audit>;

    /// Lets a client's next messages depart, at the latest when its thread waits.
    fn depart(&mut self, place: usize, messages: usize, departure: Departure);

    /// What becomes of one that is due.
    fn outlook(&self, place: usize, max_outstanding: usize) -> Outlook;

    /// Keeps one that waits: when it was due.
    fn hold(&mut self, place: usize, due: u64);

    /// Waits for what comes, no longer than until the next departure or so long.
    fn wait(&mut self, most: Duration);

    /// Handles what has come.
    fn turn(&mut self);

    /// Gives up on what has not come in time.
    fn give_up_on_the_late(&mut self);

    /// A stretch begins: what earlier ones counted is forgotten.
    fn begin(&mut self, counts_on: bool);

    /// A stretch is over: what was counted by client belongs to what was seen.
    fn conclude(&mut self);

    /// Ends every client as it should. Returns what went wrong.
    fn finish(self) -> Faults;

    /// One stretch of load. What each second of it has seen is told as it ends.
    fn run(&mut self, order: Order, seen: &Seen) -> Window {
        let desk = self.desk();
        desk.window = Window::new();
        desk.window.punctuality = desk.plan.is_open().then(Punctuality::new);
        desk.pacer.begin(&desk.plan, order);
        desk.phase = Phase::Loading { measuring: false };
        let (mut meter, at_first) = (Meter::begins(order, desk.plan.timeout), desk.plan.at_first());
        self.begin(order.counts_on);
        self.desk().go_on(&mut meter, Instant::now()); // where nothing is warmed up, the first messages are measured
        for place in 0..self.places() {
            let now = self.desk().pacer.now();
            self.depart(place, at_first, Departure::at(now));
        }
        while self.goes_on() {
            let now = Instant::now();
            self.desk().go_on(&mut meter, now);
            let (begun, asleep) = (now, meter.until_next(now));
            self.depart_in_turn();
            self.wait(asleep);
            self.turn();
            let now = Instant::now();
            meter.watch([begun, now], asleep, &mut self.desk().window);
            while meter.second(now, &mut self.desk().window) {
                let ((up, _), audit) = (self.living(), self.audit());
                let window = &mut self.desk().window;
                (window.up, window.audit) = (up, audit);
                seen.second(window);
            }
            if meter.tick(now) {
                self.give_up_on_the_late();
                self.desk().drop_what_is_too_late();
            }
        }
        let desk = self.desk();
        if desk.phase != Phase::Ending {
            if let Some(punctuality) = &mut desk.window.punctuality {
                desk.pacer.renounce(punctuality, &desk.stop);
            }
            meter.end(Instant::now(), &mut desk.window); // every client was lost
            desk.phase = Phase::Ending;
        }
        desk.drop_what_is_too_late();
        self.conclude();
        mem::replace(&mut self.desk().window, Window::new())
    }

    /// Whether the stretch is not over: it is loaded, or something is still to come, or to go.
    fn goes_on(&mut self) -> bool {
        let (living, is_coming) = self.living();
        let desk = self.desk();
        let is_loading = matches!(desk.phase, Phase::Loading { .. });
        desk.waiting > 0 || is_coming || living > 0 && (is_loading || desk.pacer.next().is_some())
    }

    /// Lets those depart that are due, of each client one behind the other: so they may leave together.
    fn depart_in_turn(&mut self) {
        let Desk { pacer, due, .. } = self.desk();
        if pacer.next().is_none() {
            return; // nobody's turn is known, and no clock is asked
        }
        let now = pacer.now();
        due.extend((0..AT_ONCE).map_while(|_| pacer.turn(now)));
        due.sort_by_key(|slot| slot.place); // of one client's, the one that was due first stays the first
        let mut due = mem::take(due);
        for slot in due.drain(..) {
            let now = self.desk().pacer.now();
            self.keep(slot, now);
        }
        self.desk().due = due;
    }

    /// A slot of the schedule: its message departs, or waits for its connection, or is dropped. In a closed loop the
    /// client of the slot has thought.
    fn keep(&mut self, Slot { due, place }: Slot, now: u64) {
        let plan = &self.desk().plan;
        let Pace::Open { max_outstanding, .. } = plan.pace else {
            let messages = plan.burst.unwrap_or(1);
            return self.depart(place, messages, Departure::at(now));
        };
        let outlook = self.outlook(place, max_outstanding);
        let Desk { window, pacer, .. } = self.desk();
        if let Some(punctuality) = window.punctuality.as_mut().filter(|_| pacer.is_measured(due)) {
            punctuality.note(outlook == Outlook::Dropped, now - due);
        }
        match outlook {
            Outlook::Departs => self.depart(place, 1, Departure { due, left: now }),
            Outlook::Waits => self.hold(place, due),
            Outlook::Dropped => {}
        }
    }
}
