//! The contract of datagrams: what comes back and to whom, what is not answered, how it ends, what goes wrong, and
//! what is kept.

mod echo;
mod ending;
mod faults;
mod groups;
mod unanswered;

use crate::contract::Promise;

pub fn promises() -> Vec<Promise> {
    [echo::PROMISES, unanswered::PROMISES, ending::PROMISES, faults::PROMISES, groups::PROMISES].concat()
}
