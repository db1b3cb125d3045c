//! The programs from outside, end to end; and the tree itself.

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

use crate::schedule::Test;

/// A sentence with its module, and how it is put to the test.
pub type Promise = (&'static str, fn());

/// Those of a module, each a function whose name is the sentence.
macro_rules! promises {
    ($($name:ident),* $(,)?) => { &[$((concat!(module_path!(), "::", stringify!($name)), $name)),*] };
}
use promises;

/// Those that load the machine, or measure.
const BUSY: &[&[Promise]] = &[
    accusations::PROMISES,
    allocations::PROMISES,
    audit::PROMISES,
    awkward::PROMISES,
    calls::PROMISES,
    catalogue::PROMISES,
    compare::PROMISES,
    conservation::PROMISES,
    contenders::PROMISES,
    engines::PROMISES,
    examiner::PROMISES,
    exits::PROMISES,
    lessons::exercises::PROMISES,
    lessons::measuring::PROMISES,
    live::PROMISES,
    load::PROMISES,
    merge::PROMISES,
    open_loop::PROMISES,
    pauses::PROMISES,
    record::PROMISES,
    report::PROMISES,
    scenarios::PROMISES,
    shapes::PROMISES,
    unknown::PROMISES,
    verdicts::PROMISES,
];

const OTHERS: &[&[Promise]] = &[
    arguments::PROMISES,
    background::PROMISES,
    files::PROMISES,
    grading::PROMISES,
    groups::PROMISES,
    lessons::copies::PROMISES,
    lessons::loops::PROMISES,
    lessons::one_client::PROMISES,
    lessons::syllabus::PROMISES,
    lessons::tasks::PROMISES,
    names::PROMISES,
    options::PROMISES,
    paths::PROMISES,
    sessions::PROMISES,
    share::PROMISES,
    signals::PROMISES,
    status::PROMISES,
    talk::PROMISES,
    tree::PROMISES,
    udp::PROMISES,
];

pub fn tests() -> Vec<Test> {
    let of = |modules: &[&[Promise]], is_busy| {
        let promises = modules.concat().into_iter();
        promises
            .map(move |(path, test)| {
                let name = path.rsplit("suite::").next().unwrap_or(path).to_owned();
                let make = move || {
                    test();
                    Ok(())
                };
                Test { is_busy, ..Test::new(name, make) }
            })
            .collect::<Vec<_>>()
    };
    [of(BUSY, true), of(OTHERS, false)].concat()
}
