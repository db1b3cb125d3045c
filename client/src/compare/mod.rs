//! The comparison: servers of several kinds, loaded in turn, in blocks, and what can be said of them.
//!
//! `scenario` is what they are put to, `contender` is who takes part, `server` one that runs, `cost` reads what it uses, `cell` is one contender under one load,
//! `plan` all that is run, `blocks` in which order, `results` the folder where it is kept, `duet` the finer comparison of two, `statistics` and `verdict`
//! what follows from the cells, `table` how it is printed.

pub mod blocks;
pub mod cell;
pub mod contender;
pub mod cost;
pub mod duet;
pub mod plan;
pub mod results;
pub mod scenario;
pub mod server;
pub mod statistics;
pub mod table;
pub mod verdict;
