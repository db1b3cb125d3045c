//! The contract of datagrams: what comes back and to whom, what is not answered, how it ends, and what goes wrong.

mod echo;
mod ending;
mod faults;
mod unanswered;

use crate::Promise;

pub fn promises() -> Vec<Promise> {
    [echo::PROMISES, unanswered::PROMISES, ending::PROMISES, faults::PROMISES].concat()
}
