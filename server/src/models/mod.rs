//! The table. A new model is one new file and one row here, in reading order.

mod r#async;
mod event_loop;
mod fork;
mod iterative;
mod multi_reactor;
mod poll;
mod prefork;
mod select;
mod thread;
mod thread_pool;

use crate::model::Model;

/// Every model: the command line, `models`, the tests, `compare` and the README's table come from here.
pub const MODELS: &[&Model] = &[
    &iterative::MODEL,
    &fork::MODEL,
    &prefork::MODEL,
    &thread::MODEL,
    &thread_pool::MODEL,
    &select::MODEL,
    &poll::MODEL,
    &event_loop::MODEL,
    &multi_reactor::MODEL,
    &r#async::MODEL,
];
