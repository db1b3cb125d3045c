//! The seam between the server and its models.
//!
//! A model is lent a bound socket and this process, until the server is told to end. It is a record of
//! plain functions: it keeps nothing between runs.

use std::{io, sync::Arc, time::Duration};

use arguments::Transport;

use crate::{
    archive::Archive,
    config::{Isolate, Settings},
    rate::RateLimit,
    repeats::RepeatLimit,
    scoreboard::{Scoreboard, Tally},
    seats::Seats,
    shutdown::{Ending, Shutdown},
    socket::{Datagrams, Listener},
    startup::{self, Startup},
};

/// A way of serving many clients at once.
pub struct Model {
    /// As the command line and the tables spell it.
    pub name: &'static str,
    /// What it is, in one sentence.
    pub summary: &'static str,
    /// How many clients it serves at once.
    pub at_once: AtOnce,
    /// Whether it is a loop, or several, that waits for what is ready or done, and may poll busily before it sleeps.
    pub is_loop: bool,
    /// What its workers may be; the first is the default. Empty: there is nothing to choose.
    pub isolates: &'static [Isolate],
    /// How it serves TCP; the first way is the default. Empty: it does not.
    pub tcp: &'static [Way<Listener>],
    /// How it serves UDP; the first way is the default. Empty: it does not.
    pub udp: &'static [Way<Datagrams>],
    /// Whether it can run on this system; if not, why, in one sentence.
    pub supported: fn() -> Result<(), String>,
}

/// How many clients a model serves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtOnce {
    /// One; the others wait.
    One,
    /// As many as its pool has workers: a worker serves one client until it leaves.
    OneAWorker,
    /// All that come; each of the pool's workers serves many.
    ManyAWorker,
    /// All that come; there is no pool.
    All,
}

impl AtOnce {
    /// As `models --json` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::OneAWorker => "one_a_worker",
            Self::ManyAWorker | Self::All => "all",
        }
    }
}

/// One way in which a model serves a transport: how its pool gets the connections, or the datagrams.
pub struct Way<S> {
    /// The name of the dispatch; empty where there is only one way.
    pub dispatch: &'static str,
    /// What is lent to whom.
    pub serve: Serve<S>,
}

/// Serves until `ctx.shutdown`, and returns when all that it started has ended. When it has what it needs to serve, it
/// says so ([`Context::ready`]).
pub enum Serve<S> {
    /// One socket, whoever serves it.
    One(fn(S, &Context) -> io::Result<()>),
    /// A socket for each worker, all of them on one port.
    OneEach(fn(Vec<S>, &Context) -> io::Result<()>),
}

impl<S> Way<S> {
    /// Whether each worker has a socket of its own, all of them on one port.
    pub fn reuse_port(&self) -> bool {
        matches!(self.serve, Serve::OneEach(_))
    }
}

/// What a model is lent; a copy is lent the same. Valid in every thread, and in every forked child.
#[derive(Clone)]
pub struct Context {
    /// What the command line asked for.
    pub settings: Settings,
    /// Where everything is counted.
    pub board: Arc<Scoreboard>,
    /// Who may come in.
    pub seats: Arc<Seats>,
    /// How many datagrams of one client are answered.
    pub rate: Arc<RateLimit>,
    /// How often the same datagram of one client is answered.
    pub repeats: Arc<RepeatLimit>,
    /// Where datagrams are kept by client address, where they are to be.
    pub archive: Option<Arc<Archive>>,
    /// Readable when the server is told to end.
    pub shutdown: Arc<Shutdown>,
    /// Whether it was announced.
    pub startup: Arc<Startup>,
}

impl Context {
    /// The clock of the end; the same for all of a process.
    pub fn ending(&self) -> Ending {
        self.shutdown.ending(self.drain())
    }

    /// Whether the drain is over, as far as this process has asked for that clock.
    pub fn is_over(&self) -> bool {
        self.shutdown.is_over(self.drain())
    }

    /// A server that was never announced owes nobody time.
    fn drain(&self) -> Duration {
        if self.startup.is_announced() && !self.startup.is_refused() {
            self.settings.drain
        } else {
            Duration::ZERO
        }
    }

    /// The worker that counts on `tally` has all that it needs to serve. When the first worker of each place has, the
    /// endpoint is ready; when all endpoints are, the server is announced.
    pub fn ready(&self, tally: &Tally) {
        if self.board.ready(tally) {
            self.startup.endpoint_is_ready();
        }
    }

    /// Refuses the start, unless the endpoint is ready: says whether it does. `what` could not be had, because of
    /// `error`.
    pub fn refuses_start(&self, what: &str, error: &io::Error) -> bool {
        let refuses = !self.board.is_ready();
        if refuses {
            self.startup.refuse(&startup::sentence(what, error, self.settings.workers));
        }
        refuses
    }
}

impl Model {
    /// The names of the model's dispatches for a transport; empty where there is nothing to choose.
    pub fn dispatches(&self, transport: Transport) -> Vec<&'static str> {
        let names: Vec<&str> = match transport {
            Transport::Tcp => self.tcp.iter().map(|way| way.dispatch).collect(),
            Transport::Udp => self.udp.iter().map(|way| way.dispatch).collect(),
        };
        names.into_iter().filter(|name| !name.is_empty()).collect()
    }

    /// The names of all its dispatches, each once.
    pub fn all_dispatches(&self) -> Vec<&'static str> {
        let mut names = self.dispatches(Transport::Tcp);
        let others = self.dispatches(Transport::Udp);
        names.extend(others.into_iter().filter(|name| !self.tcp.iter().any(|way| way.dispatch == *name)));
        names
    }

    /// The transports that it serves.
    pub fn transports(&self) -> Vec<Transport> {
        let served = [(Transport::Tcp, self.tcp.is_empty()), (Transport::Udp, self.udp.is_empty())];
        served.into_iter().filter(|&(_, empty)| !empty).map(|(transport, _)| transport).collect()
    }
}
