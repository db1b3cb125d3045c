//! What can be typed.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use arguments::{CpuList, Endpoints};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser};

use crate::{
    config::{Isolate, QueueOrder, WhenFull, Work},
    repeats,
};

/// One echo (RFC 862), served in every way Unix knows to serve many clients at once.
///
/// Prints one JSON line per endpoint once it listens, and one line of final figures when it ends. SIGTERM,
/// ^C, SIGQUIT or a terminal that goes away ends it: it answers what was sent, and gives its clients --drain to finish. RUST_LOG=info logs
/// every client that was lost.
#[derive(Debug, Parser)]
#[command(name = "echo-server", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Something else than serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to serve, and how.
    #[command(flatten)]
    pub serve: Serve,
}

/// Something else than serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List every model: transports, dispatches, and whether it can run here
    Models {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a running server has done, and does
    Status {
        /// The file that --stats named, or the number of the server's process
        #[arg(value_name = "FILE|PID")]
        of: OsString,
        /// How
        #[command(flatten)]
        form: Form,
    },
}

/// How the status is shown; a table unless told.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub struct Form {
    /// As JSON, one line a server
    #[arg(long)]
    pub json: bool,
    /// As Prometheus reads it (text format 0.0.4)
    #[arg(long)]
    pub prometheus: bool,
    /// Live, twice a second; q ends it
    #[arg(long)]
    pub watch: bool,
}

/// What to serve, and how.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where to listen: tcp://ADDRESS:PORT or udp://ADDRESS:PORT (0 takes a free port, `[::]` is IPv4 too), or
    /// unix:///PATH; without a transport it is tcp://. A name with several addresses is each of them, on one port. Each
    /// endpoint has a process of its own. Sockets that a service manager passes (LISTEN_FDS) are served as well
    /// [default: tcp://127.0.0.1:7007 and udp://127.0.0.1:7007]
    #[arg(value_name = "ENDPOINT")]
    pub endpoints: Vec<Endpoints>,

    /// How clients are served; `echo-server models` lists the ways
    #[arg(long, value_name = "MODEL", default_value = "event-loop")]
    pub model: String,

    /// Threads or processes of a pool [default: 64 where each serves one client until it leaves, otherwise one
    /// a processor]
    #[arg(long, value_name = "N", value_parser = number(65_536))]
    pub workers: Option<usize>,

    /// How a pool gets its connections [default: the model's first]
    #[arg(long, value_name = "DISPATCH")]
    pub dispatch: Option<String>,

    /// What the workers of multi-reactor and io-uring are [default: threads]
    #[arg(long, value_enum)]
    pub isolate: Option<Isolate>,

    /// After how many clients a worker of prefork or thread-pool retires and is replaced
    #[arg(long, value_name = "N", value_parser = number(1 << 40))]
    pub max_requests_per_worker: Option<usize>,

    /// How many clients the queue of thread-pool holds [default: 1024]
    #[arg(long, value_name = "N", value_parser = number(1 << 20))]
    pub queue: Option<usize>,

    /// A full queue stops accepting, or refuses the client at once [default: block]
    #[arg(long, value_enum)]
    pub when_full: Option<WhenFull>,

    /// Who of the queue is served next: who has waited longest, or who came last [default: fifo]
    #[arg(long, value_enum)]
    pub queue_order: Option<QueueOrder>,

    /// What serving a message costs besides the echo: none, cpu:DURATION or sleep:DURATION
    #[arg(long, value_name = "WORK", default_value = "none")]
    pub work: Work,

    /// Have the work of async done by threads that may block, and not inside its tasks
    #[arg(long)]
    pub offload: bool,

    /// How long a loop or ring asks for what is ready before it sleeps: less latency for more CPU time
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    pub busy_poll: Option<Duration>,

    /// How many connections the kernel holds until they are accepted
    #[arg(long, value_name = "N", default_value = "4096", value_parser = clap::value_parser!(i32).range(0..))]
    pub backlog: i32,

    /// How many bytes one receive takes at most, and one connection may owe
    #[arg(long, value_name = "BYTES", default_value = "65536", value_parser = number(1 << 30))]
    pub buffer: usize,

    /// Whether answers leave at once (TCP_NODELAY)
    #[arg(long, value_enum, default_value = "on")]
    pub nodelay: Switch,

    /// The processors to run on, like 0 or 0,2-3; loops and rings have one each
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<CpuList>,

    /// How many clients are served at once; more are closed at once. Where fork and thread serve UDP, and each client
    /// has a process or a thread of its own, the most silent one's ends instead [default for those: 1024 processes,
    /// 4096 threads]
    #[arg(long, value_name = "N", value_parser = number(1 << 30))]
    pub max_connections: Option<usize>,

    /// How many clients of one address are served at once; an IPv6 /64 is one address
    #[arg(long, value_name = "N", value_parser = number(1 << 30))]
    pub max_per_ip: Option<usize>,

    /// How long a client may say and take nothing before it is closed; 0s is for ever. While it waits to be
    /// accepted, which is where a pool has most of its clients wait for a worker, that is not seen [default: for ever; 60s
    /// for the processes and threads that fork and thread have for each client of UDP]
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    pub idle_timeout: Option<Duration>,

    /// How long the host of a TCP client may be gone, unplugged or cut off, before its connection is closed; 0s: for ever.
    /// In whole seconds, 2 at least; where it vanishes before it has acknowledged all, 15 at least (a quarter of an hour
    /// before Linux 6.15). A client that is there and says nothing stays: see --idle-timeout
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = arguments::duration)]
    pub keepalive: Duration,

    /// How many datagrams a second of one client address are answered, a second's worth of which may come at once; an
    /// IPv6 /64 is one address
    #[arg(long, value_name = "N", value_parser = number(1 << 30))]
    pub rate_limit: Option<usize>,

    /// How many times the same datagram of one client address and port is answered before one answer is left out, which
    /// ends a datagram that circulates between this server and another echo server [default: 262144]
    #[arg(long, value_name = "N", value_parser = number(repeats::MOST as u64))]
    pub max_repeats: Option<usize>,

    /// Answer datagrams also where the answer may come back: to ports below 1024, to ports of services that
    /// answer, to other echo servers; without --max-repeats
    #[arg(long)]
    pub reflect_any: bool,

    /// Keep datagrams by client address, and write them to FILE as JSON on SIGUSR1 and when the server ends
    #[arg(long, value_name = "FILE")]
    pub groups: Option<PathBuf>,

    /// How much of them is kept
    #[command(flatten)]
    pub group_bounds: GroupBounds,

    /// How long clients have to finish when the server ends
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = arguments::duration)]
    pub drain: Duration,

    /// Where the counters lie, for `echo-server status FILE`. Who truncates the file ends the server; without
    /// one, `status PID` finds them
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
}

/// How much --groups keeps. What is over a bound is dropped, and counted: who was heard least recently goes first.
#[derive(Debug, Args)]
#[group(id = "bounds", multiple = true, requires = "groups")]
pub struct GroupBounds {
    /// How many clients --groups keeps; who was heard least recently goes first [default: 65536]
    #[arg(long, value_name = "N", value_parser = number(1 << 30))]
    pub max_clients: Option<usize>,

    /// How many datagrams of a client --groups keeps; the oldest goes first [default: 1024]
    #[arg(long, value_name = "N", value_parser = number(1 << 30))]
    pub max_messages: Option<usize>,

    /// How many bytes of a client --groups keeps; the oldest goes first [default: 1MiB]
    #[arg(long, value_name = "BYTES", value_parser = arguments::bytes)]
    pub max_bytes: Option<usize>,

    /// How much memory the groups of all workers take together; a pool splits it evenly, and each worker's share has
    /// to hold one longest datagram. Who was heard least recently goes first [default: 256MiB]
    #[arg(long, value_name = "BYTES", value_parser = arguments::bytes)]
    pub max_group_memory: Option<usize>,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

impl From<Switch> for bool {
    fn from(switch: Switch) -> Self {
        switch == Switch::On
    }
}

/// A whole number from 1 to `most`.
fn number(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}
