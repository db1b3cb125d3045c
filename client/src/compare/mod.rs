//! The comparison: servers of several kinds, loaded in turn, in blocks, and what can be said of them.
//!
//! `scenario` is what they are put to, `contender` is who takes part, `catalogue` those that are not ours, `server` one that runs, `cost` reads what it uses, `cell` is one contender under one load,
//! `blocks` the order in which cells are run, `duet` the finer comparison of two, `statistics` and `verdict`
//! what follows from the cells, `table` how it is printed.

pub mod blocks;
pub mod catalogue;
pub mod cell;
pub mod contender;
pub mod cost;
pub mod duet;
pub mod scenario;
pub mod server;
pub mod statistics;
pub mod table;
pub mod verdict;
