//! The programs from outside, end to end; and the tree itself.

// In a test, to unwrap is to assert.
#![allow(missing_docs, clippy::unwrap_used)]

mod accusations;
mod allocations;
mod arguments;
mod audit;
mod awkward;
mod background;
mod browser;
mod calls;
mod catalogue;
mod compare;
mod conservation;
mod contenders;
mod engines;
mod examiner;
mod exits;
mod files;
mod grading;
mod groups;
mod lessons;
mod liars;
mod live;
mod load;
mod merge;
mod names;
mod open_loop;
mod options;
mod paths;
mod pauses;
mod record;
mod relay;
mod report;
mod scenarios;
mod sessions;
mod shapes;
mod share;
mod signals;
mod status;
mod talk;
mod tree;
mod udp;
mod unknown;
mod verdicts;

#[path = "../stage/mod.rs"]
mod stage;
