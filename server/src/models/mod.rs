//! The table. A new model is one new file and one row here, in reading order.

mod event_loop;
mod fork;
#[cfg(target_os = "linux")]
mod io_uring;
mod iterative;
mod prefork;
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
    &event_loop::MODEL,
    #[cfg(target_os = "linux")]
    &io_uring::MODEL,
];
