//! The contract: every promise, over every row of the models' table.
//!
//! A promise is a function named as a sentence. A row that a promise does not concern is not listed for it; a
//! row that cannot run here is listed once, and ignored with the reason.

mod datagrams;
mod ending;
mod faults;
mod limits;
mod serving_paths;
mod startup;
mod stream;

use crate::{
    schedule::Test,
    stage::{OPTIONS, Row, Transport},
};

/// A sentence, the rows that it is about, and how it is put to the test.
pub type Promise = (&'static str, fn(&Row) -> bool, fn(&Row));

pub fn tests() -> Vec<Test> {
    let streams =
        [startup::PROMISES, stream::PROMISES, ending::PROMISES, limits::PROMISES, faults::PROMISES].concat();
    let datagrams = [startup::PROMISES, &datagrams::promises()].concat();
    [
        over_rows(Transport::Tcp, &OPTIONS, &streams),
        over_rows(Transport::Udp, &OPTIONS[..1], &datagrams),
        serving_paths::tests(),
    ]
    .concat()
}

/// Those that load the machine, or measure.
const BUSY: [&str; 4] = [
    "an_idle_server_with_idle_clients_does_nothing",
    "every_client_gets_its_own_answers_and_what_is_lost_is_counted",
    "more_clients_than_it_could_remember_cost_bounded_memory",
    "two_thousand_clients_are_served_at_once",
];

/// Every promise over every row that takes `transport`, as it is and under each option. Under an option, one row of each
/// serving path stands for the others.
fn over_rows(
    transport: Transport,
    options: &[(&'static str, &'static str)],
    promises: &[Promise],
) -> Vec<Test> {
    let (here, not_here): (Vec<Row>, Vec<Row>) =
        Row::table_of(transport).into_iter().partition(|row| row.why_not.is_none());
    let under = |&option| here.iter().map(move |row: &Row| row.under(option));
    let rows: Vec<Row> = here.iter().cloned().chain(options.iter().flat_map(under)).collect();
    let kept = promises.iter().flat_map(|&(sentence, concerns, test)| {
        rows.iter().filter(move |row| concerns(row)).cloned().map(move |row| {
            let name = format!("{sentence}::{}", row.label());
            let is_extra = !row.is_plain() && !serving_paths::stands_for_others(&row);
            let make = move || {
                test(&row);
                Ok(())
            };
            Test { is_extra, is_busy: BUSY.contains(&sentence), ..Test::new(name, make) }
        })
    });
    let skipped =
        not_here.into_iter().map(|row| Test::that_cannot_run(row.label(), row.why_not.unwrap_or_default()));
    kept.chain(skipped).collect()
}
