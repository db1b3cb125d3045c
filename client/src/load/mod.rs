//! The load: connections that send messages, check every echo, and time it.
//!
//! `plan` says what is to be done and `rank` which share of it is done here, `opening` when each connection is opened,
//! `schedule` when each message departs in an open loop, `sizes` how many bytes, and `payload` which ones are sent and must
//! come back. `ports` says whether there are enough for who come and go. `engine` holds the threads, `stretch` is what each of them goes through, `meter` its clock, `pace` what
//! departs when in it, `recorder` what was seen, and `series` that, second by second, of
//! which an `onlooker` is told, who may change a schedule's `tempo`.
//!
//! Over TCP a thread holds a `crew` of `connection`s, of which each was a `coming` one at first, on a `socket`. Their bytes
//! have a `carrier`: `readiness`, woken by a `timer`, or a `ring`. Over UDP it holds `flows`, a client's datagrams each
//! (`flow`), received and sent by the `batch`; `datagram` says what is in one, `drops` which ones the kernel dropped.
//! Beside them all `awkward` ones may be, who do not behave.

mod awkward;
mod batch;
mod carrier;
mod coming;
mod connection;
mod crew;
mod datagram;
mod drops;
mod engine;
mod flow;
mod flows;
mod meter;
mod onlooker;
mod opening;
mod pace;
mod pauses;
mod payload;
mod plan;
mod ports;
mod rank;
mod readiness;
mod recorder;
mod ring;
mod schedule;
mod series;
mod sizes;
mod socket;
mod stretch;
mod tempo;
mod timer;

pub use awkward::{Awkward, Conduct, Counts, Manner, Mix};
pub use datagram::{LONGEST, STAMP};
pub use drops::is_on_this_machine;
pub use engine::{Engine, Order};
pub use onlooker::{Nobody, Onlooker};
pub use pauses::Throttling;
pub use plan::{Beyond, Means, Pace, Plan};
pub use ports::Ports;
pub use rank::Rank;
pub use recorder::{
    Audit, CLIENT_BOUND, Connecting, Fault, Faults, Interval, Punctuality, Shares, Standing, Window,
    histogram, percentile,
};
pub use schedule::Arrivals;
pub use series::{Kept, Second};
pub use sizes::{MOST, Sizes};
pub use socket::{SocketOptions, destination};
pub use tempo::Change;
