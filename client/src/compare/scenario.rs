//! What the servers are put to, and which figure then tells them apart.

use std::time::Duration;

use arguments::Transport;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::cell::Cell;

/// How many connections are busy while the others of `idle` are not.
pub const BUSY: usize = 16;

/// What the servers are put to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Connections that stay, each with a message on its way
    #[default]
    Echo,
    /// A connection a message: connect, one echo, close
    Churn,
    /// Connections that say one thing and stay, while a few others are busy
    Idle,
    /// Datagrams, one on its way from each client
    Udp,
}

impl Scenario {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Churn => "churn",
            Self::Idle => "idle",
            Self::Udp => "udp",
        }
    }

    /// What the servers are asked over, unless told.
    pub fn usual(self) -> Transport {
        if self == Self::Udp { Transport::Udp } else { Transport::Tcp }
    }

    /// Whether servers can be put to it over this.
    pub fn is_of(self, transport: Transport) -> bool {
        match self {
            Self::Echo => true,
            Self::Churn | Self::Idle => transport == Transport::Tcp,
            Self::Udp => transport == Transport::Udp,
        }
    }

    /// How many connections it is run with, unless told.
    pub fn connections(self) -> Vec<usize> {
        match self {
            Self::Echo | Self::Churn | Self::Udp => vec![1, 64, 512],
            Self::Idle => vec![10_000],
        }
    }

    /// How many clients must be served at once, so that each of so many connections has its answers.
    pub fn at_once(self, connections: usize) -> usize {
        match self {
            Self::Echo | Self::Udp => connections,
            Self::Churn => 1,
            Self::Idle => connections + BUSY,
        }
    }

    /// After how many messages a connection is closed.
    pub fn churn(self) -> Option<usize> {
        (self == Self::Churn).then_some(1)
    }

    /// How many connections are opened a second. Where their number is the question, it is not their rush.
    pub fn connect_rate(self) -> u32 {
        match self {
            Self::Echo | Self::Churn | Self::Udp => 5000,
            Self::Idle => 2000,
        }
    }

    /// How long a slice of a duet is: short against the machine's drift, long against its scheduler's ticks; and
    /// in `churn` against those of 10 ms, in which the CPU time of ended children is told.
    pub fn slice(self) -> Duration {
        match self {
            Self::Echo | Self::Idle | Self::Udp => Duration::from_millis(350),
            Self::Churn => Duration::from_secs(1),
        }
    }

    /// The figure that is compared.
    pub fn figure(self, cell: &Cell) -> f64 {
        match self {
            Self::Echo => cell.messages_per_s,
            Self::Churn => cell.server_cpu_us_per_connection.unwrap_or_default(),
            Self::Idle => cell.bytes_per_connection,
            Self::Udp => cell.server_cpu_us_per_message,
        }
    }

    /// A figure turned so that more is better.
    pub fn merit(self, figure: f64) -> f64 {
        match self {
            Self::Echo => figure,
            Self::Churn | Self::Idle | Self::Udp => 1.0 / figure,
        }
    }

    /// Whether the figure is worth nothing where the client was the bound: a rate is, a price is not.
    pub fn needs_a_free_client(self) -> bool {
        self == Self::Echo
    }
}
