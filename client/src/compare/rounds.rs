//! Rounds: at a point all contenders are up, their connections open, and each has a short slice of load in turn, in an order
//! drawn anew for every round. What the machine does in those seconds it does to all of them (a duet of all; Bulej and
//! others, 2020). A block is some rounds among servers that were started for it.

use std::{io, time::Duration};

use rand::{rngs::StdRng, seq::SliceRandom};

use super::{
    bench::Bench,
    cell::Cell,
    contender::Contender,
    plan::Turn,
    scenario::Slice,
    scratch::Scratch,
    sight::{Load, Sight},
};
use crate::{
    cost::Cost,
    interrupt,
    load::{Connecting, Engine, Faults, Window},
    server::Server,
};

/// No slice is made longer than this.
const LONGEST_SLICE: Duration = Duration::from_millis(500);

/// Plays a block at a point where each must have the machine for itself: one after the other; the cells of those that came to
/// their end before it was interrupted.
pub fn alone(bench: &Bench, turns: &[(Turn<'_>, &Contender)]) -> Vec<Cell> {
    let cells = turns.iter().map(|(turn, contender)| Cell::run(bench, contender, turn));
    cells.take_while(|_| !interrupt::requested(&bench.stop)).collect()
}

/// Plays a block at a point: the cells of all turns, in their order; none where it was interrupted.
pub fn play(
    bench: &Bench,
    turns: &[(Turn<'_>, &Contender)],
    slice: Slice,
    rounds: usize,
    random: &mut StdRng,
) -> Vec<Cell> {
    let _scratch = match Scratch::at(&bench.scratch) {
        Ok(scratch) => scratch,
        Err(error) => {
            let void = |(turn, contender): &(_, &_)| Cell::without_scratch(bench, contender, turn, &error);
            return turns.iter().map(void).collect();
        }
    };
    let mut sides: Vec<Result<Side<'_>, Box<Cell>>> =
        turns.iter().map(|(turn, contender)| Side::open(bench, turn, contender, slice.measured)).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..sides.len()).collect();
        order.shuffle(random);
        for n in order {
            if let Ok(side) = &mut sides[n] {
                side.slice(if round == 0 { bench.warmup } else { slice.lead_in });
            }
            if interrupt::requested(&bench.stop) {
                return Vec::new();
            }
        }
    }
    sides.into_iter().map(|side| side.map_or_else(|cell| *cell, Side::close)).collect()
}

/// A contender that is up, and what was seen of it so far.
struct Side<'t> {
    turn: &'t Turn<'t>,
    contender: &'t Contender,
    cell: Cell,
    server: Server,
    engine: Engine,
    established: usize,
    /// How long its slices are measured.
    measured: Duration,
    pss_before: Option<u64>,
    faults: Faults,
    /// All slices that count, one after the other.
    all: Window,
    messages_in_all: u64,
    /// How busy the load's busiest thread was, and how busy it wanted to be, weighted by the measured time.
    busiest: Duration,
    demand: Option<Duration>,
    /// What the server had used before its first slice.
    before: Option<Cost>,
    /// How long all slices took.
    took: Duration,
    /// The figure of each slice; nothing where it does not count.
    slices: Vec<Option<f64>>,
    /// What kept the client from running in those.
    pauses: Vec<(&'static str, String)>,
}

impl<'t> Side<'t> {
    /// Starts it, and opens its connections; or says in its cell why it could not.
    fn open(
        bench: &Bench,
        turn: &'t Turn<'t>,
        contender: &'t Contender,
        measured: Duration,
    ) -> Result<Self, Box<Cell>> {
        let (cell, server) = Cell::start(bench, contender, turn)?;
        // A pool's workers are there before their clients, and for them: all of it is the connections'.
        let is_given_workers = turn.trial.workers(contender, turn.point.connections).is_some();
        let pss_before = if is_given_workers { Some(0) } else { server.pid().and_then(Cost::pss_of_tree) };
        let plan = bench.plan(turn.trial, turn.point, &server);
        let opened: io::Result<(Engine, Connecting)> = Engine::open(&plan, &bench.stop);
        let (engine, Connecting { established, faults, .. }) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(Box::new(cell.not_loaded(&error))),
        };
        Ok(Self {
            turn,
            contender,
            cell,
            engine,
            established,
            measured,
            pss_before,
            faults,
            all: Window::new(),
            messages_in_all: 0,
            busiest: Duration::ZERO,
            demand: Some(Duration::ZERO),
            before: server.cost(),
            server,
            took: Duration::ZERO,
            slices: Vec::new(),
            pauses: Vec::new(),
        })
    }

    /// One slice. What the server uses in it is asked only where that is compared: between its slices it rests. One in which the
    /// connections did not have two answers each does not count, and the next are longer: of a server whose answers take 40 ms,
    /// as Nagle's algorithm and a delayed ACK make them (RFC 1122, 4.2.3.2), a slice of 30 ms sees none.
    fn slice(&mut self, lead_in: Duration) {
        let measured = self.measured;
        let scenario = self.turn.trial.scenario;
        let is_compared = scenario.character().figure.is_the_servers_cost;
        let cpu = || if is_compared { self.server.cpu() } else { None };
        let before = cpu();
        let window = self.engine.go_on(lead_in, measured);
        if scenario.churn().is_some() {
            // Those who came last are let in at its own cost, not the next one's.
            self.server.await_rest();
        }
        let used = cpu().zip(before).map(|(after, before)| after.saturating_sub(before));
        self.faults.merge(window.faults.clone());
        let pauses: Vec<_> = window.pauses().collect();
        let is_too_short =
            window.messages < 2 * self.turn.point.connections as u64 && 2 * measured <= LONGEST_SLICE;
        if is_too_short {
            self.measured = 2 * measured;
        }
        let counts = pauses.is_empty() && !is_too_short;
        let figure = || Cell::figure_of_slice(self.turn, &window, used);
        self.slices.push(counts.then(figure).flatten());
        self.pauses.extend(pauses);
        self.messages_in_all += window.messages_in_all;
        self.took += lead_in + window.measured;
        if !counts {
            // What the server has done for it stands in its books all the same.
            self.all.opened_in_all += window.opened_in_all;
            if let Some(audit) = window.audit {
                self.all.audit.get_or_insert_default().merge(audit);
            }
            return;
        }
        self.busiest += window.measured.mul_f64(window.busiest_thread);
        let wanted = window.busiest_demand.map(|share| window.measured.mul_f64(share));
        self.demand = self.demand.zip(wanted).map(|(all, this)| all + this);
        let (so_far, in_all) = (self.all.measured, window.by_connection);
        self.all.follow(window, so_far);
        self.all.by_connection = in_all;
    }

    /// Ends it: its cell.
    fn close(self) -> Cell {
        let Self { turn, contender, cell, server, engine, mut faults, mut all, .. } = self;
        let after = server.cost();
        let pss_bytes = server.pid().and_then(Cost::pss_of_tree);
        let (cpu_from, forgets_children) = (server.cpu_from(), server.forgets_children());
        faults.merge(engine.finish());
        let share = |of: Duration| of.as_secs_f64() / all.measured.as_secs_f64().max(1e-9);
        let (busiest, demand) = (share(self.busiest), self.demand.map(share));
        (all.busiest_thread, all.busiest_demand) = (busiest, demand);
        let at_once = turn.trial.burst.unwrap_or(turn.trial.scenario.character().pipeline);
        let load = Load {
            on_their_way: turn.point.connections * at_once,
            window: all,
            messages_in_all: self.messages_in_all,
            found: None,
            used: after.zip(self.before).map(|(after, before)| Cost { pss_bytes, ..after.since(before) }),
            cpu_from,
            took: self.took,
            forgets_children,
        };
        let sight = Sight {
            established: self.established,
            held: self.established,
            served: load.window.served(),
            awkward: 0,
            pss_before: self.pss_before,
            load,
            faults,
            pauses: self.pauses,
            last_words: server.stop(),
        };
        cell.in_slices(&self.slices).with(turn.trial, contender, sight)
    }
}
