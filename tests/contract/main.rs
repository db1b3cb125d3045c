//! The contract: every promise, over every row of the models' table.
//!
//! A promise is a function named as a sentence. A row that a promise does not concern is not listed for it.

#![allow(missing_docs)]

mod ending;
mod faults;
mod limits;
mod stream;

#[path = "../stage/mod.rs"]
mod stage;

use libtest_mimic::{Arguments, Trial};
use stage::Row;

/// A sentence, the rows that it is about, and how it is put to the test.
type Promise = (&'static str, fn(&Row) -> bool, fn(&Row));

fn main() {
    let rows = Row::all();
    let promises = [stream::PROMISES, ending::PROMISES, limits::PROMISES, faults::PROMISES].concat();
    let trials = promises.into_iter().flat_map(|(sentence, concerns, test)| {
        rows.iter().filter(move |row| concerns(row)).cloned().map(move |row| {
            Trial::test(format!("{sentence}::{}", row.label()), move || {
                test(&row);
                Ok(())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
