//! The highest rate that a server keeps, and its latency on the way there: an open loop at one rate after the other.
//!
//! `bound` says what is to hold, `rate` asks a server at one rate, `search` which rates are asked for.

mod bound;
mod rate;
mod search;

pub use bound::{Bound, LATE};
pub use rate::{Found, STARVING, find, length, pace};
pub use search::{Asked, End, FIRST_RATE, Saturation, p99_by_rate};
