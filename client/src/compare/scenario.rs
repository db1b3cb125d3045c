//! What the servers are put to: for each scenario a record of what is done to them, and of the figure that then tells
//! them apart.

use std::time::Duration;

use arguments::Transport;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::cell::Cell;
use crate::cmd::load::us;

/// How many connections are busy while the others of `idle` are not.
pub const BUSY: usize = 16;

/// What the servers are put to.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Connections that stay, each with a message on its way
    #[default]
    Echo,
    /// A connection a message: connect, one echo, close
    Churn,
    /// Every message is work for a processor
    Cpu,
    /// Every message blocks whoever serves it
    Sleep,
    /// Connections that say one thing and stay, while a few others are busy
    Idle,
    /// One client that does not read, or sends a byte at a time, beside others
    Stall,
    /// Many clients that want all they can get
    Fair,
    /// More and more connections, and a schedule up to the highest rate that is kept
    Overload,
    /// Datagrams, one on its way from each client
    Udp,
}

/// How thorough a comparison is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// The least that allows a verdict
    Quick,
    /// Enough for verdicts
    #[default]
    Usual,
    /// For claims of a few per cent
    Thorough,
}

impl Depth {
    /// How many blocks there are at least, where there is time for more.
    pub fn blocks(self) -> usize {
        [3, 6, 10][self as usize]
    }

    /// The smallest difference that matters, as a share.
    pub fn resolve(self) -> f64 {
        [0.1, 0.05, 0.025][self as usize]
    }

    /// How long a point may take.
    pub fn time(self) -> Duration {
        Duration::from_secs([21, 60, 180][self as usize])
    }

    /// How long each is measured.
    pub fn duration(self) -> Duration {
        Duration::from_millis([300, 600, 1200][self as usize])
    }

    /// How long each is loaded before that.
    pub fn warmup(self) -> Duration {
        Duration::from_millis([80, 100, 200][self as usize])
    }
}

/// How the clients of a scenario meet a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// They stay, and all must be served at once: a blocking pool is given a worker for each.
    Stay,
    /// They stay, and a pool has as many workers as it pleases.
    Press,
    /// They come and go, so one after the other can be served.
    ComeAndGo,
}

/// What the servers are put to, in figures. Of three numbers one is for each [`Depth`].
pub struct Character {
    /// As it is typed.
    pub name: &'static str,
    /// What it is about, as a heading.
    pub title: &'static str,
    /// What it shows, in a sentence or two.
    pub shows: &'static str,
    /// How many connections there are, one number after the other.
    pub connections: [&'static [usize]; 3],
    /// How many bytes a message has, one number after the other.
    pub sizes: [&'static [usize]; 3],
    /// How the clients meet the server.
    pub clients: Clients,
    /// How many messages of each are on their way at once.
    pub pipeline: usize,
    /// On a schedule: how many messages a second, over all.
    pub rate: Option<f64>,
    /// What a message costs the server besides the echo, as its `--work` has it.
    pub work: &'static str,
    /// Who is there besides, one after the other.
    pub beside: &'static [Beside],
    /// Where all contenders are up, and take turns: of what length a turn is. Nothing where each must have the machine for
    /// itself.
    pub slice: Option<Slice>,
    /// Whether the servers have all processors, the client's too: it is light.
    pub on_all_cpus: bool,
    /// How many connections are opened a second.
    pub connect_rate: u32,
    /// The figure that is compared.
    pub figure: Figure,
}

/// A turn of a contender while others are up.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// How long it is loaded before it is measured: its connections and caches are warm then.
    pub lead_in: Duration,
    /// How long it is measured: short against the changes of the machine's speed, and long enough that every connection has
    /// several answers.
    pub measured: Duration,
}

impl Slice {
    const fn of(lead_in_ms: u64, measured_ms: u64) -> Self {
        Self { lead_in: Duration::from_millis(lead_in_ms), measured: Duration::from_millis(measured_ms) }
    }
}

/// A figure of a cell, and how it is spoken of.
pub struct Figure {
    /// The head of its column.
    pub head: &'static str,
    /// The same for an axis, with its unit.
    pub axis: &'static str,
    /// The figure, where it is known.
    pub of: fn(&Cell) -> Option<f64>,
    /// How it is written.
    pub written: fn(f64) -> String,
    /// What having more of it is.
    pub more: More,
    /// Whether it is worth nothing where the client was the bound: a rate is, a price is not.
    pub needs_a_free_client: bool,
    /// Whether it is what the server's processes use.
    pub is_the_servers_cost: bool,
}

/// What it is to have more of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// It is better: the server is `more` than another, or so many times `as_much` as it.
    Better {
        /// As in "8 % faster than".
        more: &'static str,
        /// As in "3 times as fast as".
        as_much: &'static str,
    },
    /// It costs more of `what`, for `each`.
    Costs {
        /// As in "… more CPU".
        what: &'static str,
        /// As in "… a connection than".
        each: &'static str,
    },
}

const RATE: Figure = Figure {
    head: "msgs/s",
    axis: "messages a second",
    of: |cell| cell.messages_per_s,
    written: thousands,
    more: More::Better { more: "faster", as_much: "as fast" },
    needs_a_free_client: true,
    is_the_servers_cost: false,
};

const ECHO: Character = Character {
    name: "echo",
    title: "Clients that stay",
    shows: "Connections that stay, each with a message on its way: how many messages a second are answered.",
    connections: [&[64, 512], &[1, 64, 512], &[1, 8, 64, 256, 1024]],
    sizes: [&[64], &[64], &[64, 16_384]],
    clients: Clients::Stay,
    pipeline: 1,
    rate: None,
    work: "none",
    beside: &[Beside::Nobody],
    slice: Some(Slice::of(10, 30)),
    on_all_cpus: false,
    connect_rate: 5000,
    figure: RATE,
};

const CHURN: Character = Character {
    name: "churn",
    title: "Clients that come and go",
    shows: "A connection a message (connect, one echo, close): what a process, a thread, an accept costs.",
    connections: [&[64], &[64], &[1, 64, 512]],
    clients: Clients::ComeAndGo,
    slice: Some(Slice::of(20, 40)),
    figure: Figure {
        head: "srv",
        axis: "CPU time of the server a connection",
        of: |cell| cell.server_cpu_us_per_connection,
        written: us,
        more: More::Costs { what: "CPU", each: "connection" },
        needs_a_free_client: false,
        is_the_servers_cost: true,
    },
    ..ECHO
};

const CPU: Character = Character {
    name: "cpu",
    title: "Messages that are work",
    shows: "Every message is work for a processor: who uses the second one. A single loop works serially.",
    connections: [&[16], &[16], &[4, 16, 64]],
    sizes: [&[64]; 3],
    work: "cpu:2ms",
    slice: Some(Slice::of(40, 160)), // a loop needs 32 ms to serve each of 16 once
    on_all_cpus: true,
    ..ECHO
};

const SLEEP: Character = Character {
    name: "sleep",
    title: "Messages that block",
    shows: "Every message blocks whoever serves it: a loop stands still for all its clients, a thread for one.",
    connections: [&[32], &[32], &[8, 32, 128]],
    sizes: [&[64]; 3],
    work: "sleep:5ms",
    slice: Some(Slice::of(30, 480)), // a loop needs 160 ms to serve each of 32 once
    on_all_cpus: true,
    ..ECHO
};

const IDLE: Character = Character {
    name: "idle",
    title: "Clients that wait",
    shows: "Connections that said one thing and stay, while 16 others are busy: the memory that each takes.",
    connections: [&[500], &[1000], &[1000, 5000]],
    sizes: [&[64]; 3],
    slice: None, // the memory of each is told by what it holds more than before
    connect_rate: 2000,
    figure: Figure {
        head: "B/conn",
        axis: "memory a connection, in bytes",
        of: Cell::memory_of_each,
        written: thousands,
        more: More::Costs { what: "memory", each: "connection" },
        needs_a_free_client: false,
        is_the_servers_cost: true,
    },
    ..ECHO
};

const STALL: Character = Character {
    name: "stall",
    title: "A client that does not behave",
    shows: "One client that never reads, or sends a byte at a time, beside others that come and go on a schedule: \
            what these pay.",
    connections: [&[8]; 3],
    sizes: [&[64]; 3],
    clients: Clients::ComeAndGo,
    rate: Some(1000.0),
    beside: &[Beside::Nobody, Beside::Stall, Beside::Dribble],
    slice: None, // who is awkward is so all the time
    figure: Figure {
        head: "p99",
        axis: "latency of the others, p99",
        of: |cell| Some(cell.p99_us.unwrap_or(f64::INFINITY)), // of a cell that counts it is known
        written: us,
        more: More::Costs { what: "time (p99)", each: "message" },
        needs_a_free_client: false,
        is_the_servers_cost: false,
    },
    ..ECHO
};

const FAIR: Character = Character {
    name: "fair",
    title: "Clients that want all",
    shows: "Many clients with 16 messages on their way each: how equally they are served (Jain's index).",
    connections: [&[256], &[256], &[64, 256, 1024]],
    sizes: [&[64]; 3],
    pipeline: 16,
    slice: Some(Slice::of(30, 800)), // in a short time nobody is fair
    figure: Figure {
        head: "Jain",
        axis: "Jain's fairness index",
        of: |cell| cell.jain,
        written: |index| format!("{index:.3}"),
        more: More::Better { more: "fairer", as_much: "as fair" },
        needs_a_free_client: false,
        is_the_servers_cost: false,
    },
    ..ECHO
};

const OVERLOAD: Character = Character {
    name: "overload",
    title: "More than it can do",
    shows: "More and more connections, then a schedule that climbs and falls to the highest rate whose p99 stays \
            within its bound.",
    connections: [&[1, 2, 4, 16, 64], &[1, 2, 4, 8, 16, 32, 64], &[1, 2, 4, 8, 16, 24, 32, 48, 64]],
    sizes: [&[64]; 3],
    clients: Clients::Press,
    work: "cpu:20us",
    slice: None, // a search takes its time
    figure: Figure {
        head: "msgs/s",
        axis: "messages a second",
        of: |cell| cell.highest_rate_per_s.or(cell.messages_per_s),
        written: thousands,
        more: More::Better { more: "faster", as_much: "as fast" },
        needs_a_free_client: true,
        is_the_servers_cost: false,
    },
    ..ECHO
};

const UDP: Character = Character {
    name: "udp",
    title: "Datagrams",
    shows: "Clients with a datagram on its way each: what one costs the server, and whether any is lost.",
    connections: [&[64], &[1, 64], &[1, 64, 512]],
    sizes: [&[64], &[64], &[64, 1400]],
    figure: Figure {
        head: "srv",
        axis: "CPU time of the server a datagram",
        of: |cell| cell.server_cpu_us_per_message,
        written: us,
        more: More::Costs { what: "CPU", each: "datagram" },
        needs_a_free_client: false,
        is_the_servers_cost: true,
    },
    ..ECHO
};

impl Scenario {
    /// What distinguishes it.
    pub fn character(self) -> &'static Character {
        match self {
            Self::Echo => &ECHO,
            Self::Churn => &CHURN,
            Self::Cpu => &CPU,
            Self::Sleep => &SLEEP,
            Self::Idle => &IDLE,
            Self::Stall => &STALL,
            Self::Fair => &FAIR,
            Self::Overload => &OVERLOAD,
            Self::Udp => &UDP,
        }
    }

    /// As it is typed.
    pub fn name(self) -> &'static str {
        self.character().name
    }

    /// What the servers are asked over, unless told.
    pub fn usual(self) -> Transport {
        if self == Self::Udp { Transport::Udp } else { Transport::Tcp }
    }

    /// Whether servers can be put to it over this.
    pub fn is_of(self, transport: Transport) -> bool {
        match self {
            Self::Echo | Self::Cpu | Self::Sleep => true,
            Self::Churn | Self::Idle | Self::Stall | Self::Fair | Self::Overload => {
                transport == Transport::Tcp
            }
            Self::Udp => transport == Transport::Udp,
        }
    }

    /// Who takes part unless told, as it is typed; who is not there is left out.
    pub fn contenders(self, depth: Depth) -> &'static [&'static str] {
        match (self, depth) {
            (Self::Cpu, Depth::Quick) => &["main", "python-selectors", "python-threads", "python-processes"],
            (Self::Cpu, _) => &["default", "python-selectors", "python-threads", "python-processes"],
            (Self::Sleep, Depth::Quick) => &["main", "async --offload"],
            (Self::Sleep, _) => &["default", "async --offload"],
            (Self::Udp, Depth::Quick) => &["main", "event-loop --groups {scratch}/groups.json"],
            (Self::Udp, _) => &["default", "event-loop --groups {scratch}/groups.json"],
            (Self::Overload, Depth::Quick) => &["fork", "thread", "event-loop", "async"],
            (Self::Overload, _) => &["fork", "thread", "thread-pool", "event-loop", "multi-reactor", "async"],
            (_, Depth::Quick) => &["main"],
            _ => &["default"],
        }
    }

    /// How many clients must be served at once, so that each of so many connections has its answers.
    pub fn at_once(self, connections: usize) -> usize {
        match (self, self.character().clients) {
            (_, Clients::ComeAndGo) => 1,
            (Self::Idle, _) => connections + BUSY,
            _ => connections,
        }
    }

    /// Whether a message's system calls tell the models apart.
    pub fn is_of_calls(self) -> bool {
        matches!(self, Self::Echo | Self::Churn | Self::Udp)
    }

    /// After how many messages a connection is closed.
    pub fn churn(self) -> Option<usize> {
        (self.character().clients == Clients::ComeAndGo).then_some(1)
    }

    /// The figure that is compared.
    pub fn figure(self, cell: &Cell) -> Option<f64> {
        (self.character().figure.of)(cell)
    }

    /// A figure turned so that more is better.
    pub fn merit(self, figure: f64) -> f64 {
        match self.character().figure.more {
            More::Better { .. } => figure,
            More::Costs { .. } => 1.0 / figure,
        }
    }
}

/// Who is there beside the clients that are measured.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Beside {
    /// Nobody
    #[default]
    Nobody,
    /// One that sends as much as the kernel takes, and never reads
    Stall,
    /// One that sends a byte at a time
    Dribble,
}

/// When messages depart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drive {
    /// When an answer is back.
    #[default]
    Closed,
    /// On a schedule.
    Open,
    /// On one schedule after the other, up to the highest rate that is kept.
    Search,
}

/// What varies within a scenario; contenders are compared at one point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Point {
    /// When messages depart.
    pub drive: Drive,
    /// Who is there besides.
    pub beside: Beside,
    /// How many bytes a message has.
    pub size: usize,
    /// How many connections there are.
    pub connections: usize,
}

impl Point {
    /// As a heading: what is the same for all who are compared.
    pub fn title(&self, scenario: Scenario) -> String {
        let Self { drive, beside, size, connections } = *self;
        let plural = if connections == 1 { "" } else { "s" };
        let mut text = match scenario {
            Scenario::Idle => format!("{connections} idle connection{plural}, and {BUSY} busy"),
            Scenario::Udp => format!("{connections} client{plural}"),
            Scenario::Stall => match beside {
                Beside::Nobody => format!("{connections} client{plural}, nobody is awkward"),
                Beside::Stall => format!("{connections} client{plural}, one more never reads"),
                Beside::Dribble => format!("{connections} client{plural}, one more sends a byte at a time"),
            },
            _ => format!("{connections} connection{plural}"),
        };
        if drive == Drive::Search {
            text += ", the highest rate that is kept";
        }
        if size != 64 {
            text += &format!(", {size} bytes");
        }
        text
    }
}

/// A number of many, in a few characters.
pub fn thousands(n: f64) -> String {
    match n {
        _ if n < 1e3 => format!("{n:.0}"),
        _ if n < 1e5 => format!("{:.1}k", n / 1e3),
        _ if n < 1e6 => format!("{:.0}k", n / 1e3),
        _ => format!("{:.2}M", n / 1e6),
    }
}
