//! What is to be done to a server.

use std::{net::SocketAddr, time::Duration};

use arguments::Transport;
use serde::Serialize;

/// A closed loop: each connection sends its next message when an answer is back.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Over a stream a connection, or in datagrams from a socket each.
    #[serde(serialize_with = "as_word")]
    pub transport: Transport,
    /// The server.
    pub address: SocketAddr,
    /// How many connections.
    pub connections: usize,
    /// How many bytes a message has.
    pub size: usize,
    /// How many messages a connection has on their way at once.
    pub pipeline: usize,
    /// How many datagrams leave in one system call, the next when all are back; one by one, unless told.
    pub burst: Option<usize>,
    /// After how many messages a connection is closed and a new one opened in its place; never, unless told.
    pub churn: Option<usize>,
    /// How many threads share the connections.
    pub threads: usize,
    /// How many connections are opened a second, over all threads.
    pub connect_rate: u32,
    /// How long an answer, a connection or an end may take.
    #[serde(serialize_with = "as_seconds")]
    pub timeout: Duration,
    /// Whether every byte that comes back is compared.
    pub verify: bool,
    /// What the bytes are made from.
    pub seed: u64,
}

impl Plan {
    /// How many messages a connection has on their way at once.
    pub fn depth(&self) -> usize {
        self.burst.unwrap_or(self.pipeline)
    }
}

fn as_word<S: serde::Serializer>(transport: &Transport, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(transport)
}

fn as_seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
