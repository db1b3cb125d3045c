//! The load: connections that send messages, check every echo, and time it.
//!
//! `plan` says what is to be done, `schedule` when each connection is opened, `coming` is one that is being
//! opened, `payload` which bytes are sent and must come back, `connection` is one conversation, `crew` a thread's
//! share of them, `engine` holds the threads, `meter` is the clock of a stretch of load, and `recorder` what was seen.

mod coming;
mod connection;
mod crew;
mod engine;
mod meter;
mod payload;
mod plan;
mod recorder;
mod schedule;

pub use engine::Engine;
pub use plan::Plan;
pub use recorder::{Connecting, Fault, Faults, Window};
