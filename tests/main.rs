//! All tests of the programs, in one schedule: the contract, what `check` says of servers, and the suite.
//!
//! `cargo test --test all -- WORDS` runs those whose name has these words in it, `-- --include-ignored` also those that
//! `make test` leaves to `make test-all`.

// In a test, to unwrap is to assert.
#![allow(missing_docs, clippy::unwrap_used)]

mod check;
mod contract;
mod schedule;
mod stage;
mod suite;

fn main() {
    // As their users start the programs: there the catalogue of contenders is found.
    std::env::set_current_dir(stage::ROOT).expect("the folder of the workspace");
    schedule::run([contract::tests(), check::tests(), suite::tests()].concat());
}
