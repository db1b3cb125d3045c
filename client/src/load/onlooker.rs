//! Who looks on while the load runs.

use std::time::Duration;

use super::{Connecting, engine::Order, recorder::Interval};

/// Who looks on while the load runs, and may change its rate. It is told in the thread that asked for the load, which
/// has nothing else to do meanwhile.
pub trait Onlooker {
    /// How long it may be left alone.
    fn every(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Whether what is told is heard by nobody, so that it can wait until the end.
    fn is_nobody(&self) -> bool {
        false
    }

    /// So many connections are to be opened.
    fn opening(&mut self, _connections: usize) {}

    /// What came of that.
    fn opened(&mut self, _connecting: &Connecting) {}

    /// What can be done is searched: this rate is tried, messages a second.
    fn searches(&mut self, _rate: f64) {}

    /// A stretch of load begins.
    fn begins(&mut self, _order: &Order) {}

    /// A second of its measured time is over for all threads, or the last part of one, which was so long.
    fn second(&mut self, _seen: &Interval, _length: Duration) {}

    /// Time has passed. Returns how many messages are to depart a second from now on, where that is another number.
    fn look(&mut self) -> Option<f64> {
        None
    }
}

/// Nobody looks on.
pub struct Nobody;

impl Onlooker for Nobody {
    fn is_nobody(&self) -> bool {
        true
    }
}
