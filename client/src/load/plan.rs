//! What is to be done to a server.

use std::time::Duration;

use arguments::{Endpoint, Transport};
use clap::ValueEnum;
use serde::Serialize;

use super::{awkward::Mix, rank::Rank, schedule::Arrivals, sizes::Sizes, socket::SocketOptions};

/// When messages depart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "loop", rename_all = "lowercase")]
pub enum Pace {
    /// A connection's next message departs when an answer is back.
    Closed {
        /// How many messages a connection has on their way at once.
        pipeline: usize,
        /// How long after it.
        #[serde(rename = "think_s", serialize_with = "as_seconds")]
        think: Duration,
    },
    /// Messages depart on a schedule, whatever the server does.
    Open {
        /// How many a second, over all connections of all ranks.
        #[serde(rename = "rate")]
        per_second: f64,
        /// How they follow each other.
        arrivals: Arrivals,
        /// How many of a connection's may be on their way at once.
        max_outstanding: usize,
        /// What becomes of those that are due beyond that.
        beyond: Beyond,
    },
}

/// What becomes of a message that is due when its connection may have no more on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Beyond {
    /// It is dropped.
    Dropped,
    /// It waits for an answer before it departs, as in a queue before the server; its latency is counted from when it was
    /// due. What still waits when the time for an answer is over is dropped. Datagrams do not wait.
    Waits,
}

impl Pace {
    /// The same schedule at another rate; a closed loop has none.
    pub fn at(self, rate: f64) -> Self {
        match self {
            Self::Open { arrivals, max_outstanding, beyond, .. } => {
                Self::Open { per_second: rate, arrivals, max_outstanding, beyond }
            }
            Self::Closed { .. } => self,
        }
    }

    /// Whether what is due waits for its turn.
    pub fn has_a_queue(self) -> bool {
        matches!(self, Self::Open { beyond: Beyond::Waits, .. })
    }
}

/// By which means of the kernel's a load is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// The kernel says which socket is ready (epoll, through mio)
    #[default]
    Mio,
    /// It is asked to send and to receive, and says when that is done; of TCP and Unix-domain sockets
    IoUring,
}

/// What is to be done to a server.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The server: over a stream a connection, or in datagrams from a socket each.
    #[serde(rename = "transport", serialize_with = "as_transport")]
    pub endpoint: Endpoint,
    /// By which means.
    #[serde(rename = "engine")]
    pub means: Means,
    /// How the sockets are set up.
    #[serde(flatten)]
    pub socket: SocketOptions,
    /// How many connections, over all ranks.
    pub connections: usize,
    /// Which share of them is opened here.
    #[serde(skip)]
    pub rank: Rank,
    /// How many bytes messages have.
    pub size: Sizes,
    /// When messages depart.
    #[serde(flatten)]
    pub pace: Pace,
    /// How many datagrams leave in one system call, the next when all are back; one by one, unless told.
    pub burst: Option<usize>,
    /// After how many messages a connection is closed and a new one opened in its place; never, unless told.
    pub churn: Option<usize>,
    /// Whether its last message leaves with our FIN, and the server's is waited for.
    pub half_close: bool,
    /// How many threads share this rank's connections.
    pub threads: usize,
    /// How many connections are opened a second, over all threads of all ranks.
    pub connect_rate: u32,
    /// How long an answer, a connection or an end may take.
    #[serde(serialize_with = "as_seconds")]
    pub timeout: Duration,
    /// How long the parts are in which what was seen is kept beside the whole.
    #[serde(skip)]
    pub interval: Duration,
    /// Whether every byte that comes back is compared.
    pub verify: bool,
    /// What the bytes and the schedule are made from.
    pub seed: u64,
    /// Who is there besides, and does not behave.
    pub awkward: Mix,
}

/// How many messages of a connection memory is kept ready for, at most.
const READY: usize = 256;

impl Plan {
    /// Over a stream a connection, or in datagrams.
    pub fn transport(&self) -> Transport {
        self.endpoint.transport()
    }

    /// Whether messages depart on a schedule.
    pub fn is_open(&self) -> bool {
        matches!(self.pace, Pace::Open { .. })
    }

    /// How many lanes the run's connections are dealt to: each rank's threads are a lane each. So many as if all
    /// ranks had as many threads as this one; where others have not, the shares of the ranks are the same.
    pub fn lanes(&self) -> usize {
        self.rank.ranks * self.threads
    }

    /// Which of them is that of thread number `thread` here.
    pub fn lane(&self, thread: usize) -> usize {
        self.rank.rank + self.rank.ranks * thread
    }

    /// How many connections there are in step number `step` of so many, and when messages depart: the last one is
    /// the whole plan. Where there is a rate it climbs, else the connections do.
    pub fn step(&self, step: usize, steps: usize) -> (usize, Pace) {
        match self.pace {
            Pace::Open { per_second, .. } => {
                let per_second = per_second * step as f64 / steps as f64;
                (self.connections, self.pace.at(per_second))
            }
            Pace::Closed { .. } => ((self.connections * step).div_ceil(steps), self.pace),
        }
    }

    /// How many messages each connection begins a stretch with.
    pub fn at_first(&self) -> usize {
        match self.pace {
            Pace::Closed { pipeline, .. } => self.burst.unwrap_or(pipeline),
            Pace::Open { .. } => 0,
        }
    }

    /// How many messages a connection may have on their way at once.
    pub fn depth(&self) -> usize {
        match self.pace {
            Pace::Closed { .. } => self.at_first(),
            Pace::Open { max_outstanding, .. } => max_outstanding,
        }
    }

    /// How many messages on their way memory is kept ready for; it grows with more.
    pub fn usual_depth(&self) -> usize {
        self.depth().min(READY)
    }
}

fn as_transport<S: serde::Serializer>(endpoint: &Endpoint, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&endpoint.transport())
}

/// For results.
///
/// # Errors
/// Those of the serializer.
pub fn as_seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
