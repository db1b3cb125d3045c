//! The contract: every promise, over every row of the models' table.
//!
//! A promise is a function named as a sentence. A row that a promise does not concern is not listed for it; a
//! row that cannot run here is listed once as ignored, with the reason.

#![allow(missing_docs)]

mod datagrams;
mod ending;
mod faults;
mod limits;
mod startup;
mod stream;

#[path = "../stage/mod.rs"]
mod stage;

use libtest_mimic::{Arguments, Trial};
use stage::{OPTIONS, Row, Transport};

/// A sentence, the rows that it is about, and how it is put to the test.
type Promise = (&'static str, fn(&Row) -> bool, fn(&Row));

fn main() {
    let streams =
        [startup::PROMISES, stream::PROMISES, ending::PROMISES, limits::PROMISES, faults::PROMISES].concat();
    let datagrams = [startup::PROMISES, &datagrams::promises()].concat();
    let mut trials = trials(Transport::Tcp, &OPTIONS, streams);
    trials.extend(self::trials(Transport::Udp, &OPTIONS[..1], datagrams));
    let mut arguments = Arguments::from_args();
    // Most of a promise is waiting.
    arguments.test_threads.get_or_insert(8);
    libtest_mimic::run(&arguments, trials).exit();
}

/// Every promise over every row that takes `transport`, as it is and under each option.
fn trials(
    transport: Transport,
    options: &[(&'static str, &'static str)],
    promises: Vec<Promise>,
) -> Vec<Trial> {
    let (here, not_here): (Vec<Row>, Vec<Row>) =
        Row::table_of(transport).into_iter().partition(|row| row.why_not.is_none());
    let under = |&option| here.iter().map(move |row: &Row| row.under(option));
    let rows: Vec<Row> = here.iter().cloned().chain(options.iter().flat_map(under)).collect();
    let kept = promises.into_iter().flat_map(|(sentence, concerns, test)| {
        rows.iter().filter(move |row| concerns(row)).cloned().map(move |row| {
            Trial::test(format!("{sentence}::{}", row.label()), move || {
                test(&row);
                Ok(())
            })
        })
    });
    let skipped = not_here.iter().map(|row| {
        let why = row.why_not.as_deref().unwrap_or_default();
        Trial::test(format!("{} cannot run here: {why}", row.label()), || Ok(())).with_ignored_flag(true)
    });
    kept.chain(skipped).collect()
}
