//! The comparison: servers of several kinds, loaded in turn, and what can be said of them.
//!
//! `scenario` is what they are put to, `contender` is who takes part, `catalogue` those that are not ours, `scratch` where it may write, `cell` is one contender under one load, `sight` what was seen of it, `rounds` many of them in turn, `blocks` when it is enough,
//! `plan` all that is run, `draft` one with choices left open, `results` the folder where it is kept, `pair` all figures of two, `statistics` and `verdict`
//! what follows from the cells, `fit` what of a figure is the contender's, `comparison` who is told apart, judged over a whole run, `scalability` the law that is fitted to
//! one contender, `calls` its system calls by message, `sentence` what is said of it, `gate` what may not come out, `table` how
//! it is printed.

pub mod bench;
pub mod blocks;
pub mod calls;
pub mod catalogue;
pub mod cell;
pub mod comparison;
pub mod contender;
pub mod draft;
pub mod fit;
pub mod gate;
pub mod pair;
pub mod plan;
pub mod results;
pub mod rounds;
pub mod scalability;
pub mod scenario;
pub mod scratch;
pub mod sentence;
pub mod sight;
pub mod statistics;
pub mod table;
pub mod textbook;
pub mod verdict;
