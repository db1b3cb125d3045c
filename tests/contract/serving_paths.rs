//! By which code a row serves, and who stands for it under an option.
//!
//! An option such as `--work` acts where a conversation is held, and that is the same code in several rows: who accepts the
//! client and hands it over comes before. So under an option the first row of each path stands for the others; all of them
//! are put to the test by `make test-all`.

use std::collections::BTreeSet;

use crate::{
    schedule::Test,
    stage::{Row, Transport},
};

/// What serves a client, and the rows in which it does.
const PATHS: [(&str, &[&str]); 14] = [
    ("a blocking conversation, in the server's own thread", &["iterative"]),
    ("a blocking conversation, in a child for each client", &["fork"]),
    (
        "a blocking conversation, in one process of a pool after the other",
        &["prefork/accept", "prefork/flock", "prefork/mutex", "prefork/reuseport", "prefork/pass-fd"],
    ),
    ("a blocking conversation, in a thread for each client", &["thread"]),
    (
        "a blocking conversation, in one thread of a pool after the other",
        &["thread-pool/queue", "thread-pool/accept", "thread-pool/mutex"],
    ),
    (
        "a turn of a loop that is told what is ready",
        &[
            "event-loop",
            "select",
            "poll",
            "multi-reactor/reuseport/threads",
            "multi-reactor/reuseport/processes",
            "multi-reactor/handoff/threads",
            "multi-reactor/handoff/processes",
        ],
    ),
    ("a turn of a loop that is told what is done", &["io-uring/threads", "io-uring/processes"]),
    ("a task", &["async", "async/workers=1"]),
    (
        "an exchange of datagrams in a thread that blocks in receiving",
        &["udp/iterative", "udp/thread-pool", "udp/prefork/shared", "udp/prefork/reuseport"],
    ),
    ("a session of datagrams in a child", &["udp/fork"]),
    ("a session of datagrams in a thread", &["udp/thread"]),
    (
        "an exchange of datagrams in a loop that is told what is ready",
        &[
            "udp/event-loop",
            "udp/select",
            "udp/poll",
            "udp/multi-reactor/reuseport/threads",
            "udp/multi-reactor/reuseport/processes",
        ],
    ),
    (
        "an exchange of datagrams in a loop that is told what is done",
        &["udp/io-uring/threads", "udp/io-uring/processes"],
    ),
    ("an exchange of datagrams in a task", &["udp/async", "udp/async/workers=1"]),
];

/// Whether this row stands for all of its path.
pub fn stands_for_others(row: &Row) -> bool {
    let plain = Row { option: None, ..row.clone() }.label();
    PATHS.iter().any(|(_, rows)| rows[0] == plain)
}

pub fn tests() -> Vec<Test> {
    vec![Test::new("every_row_serves_by_one_path".into(), || {
        let declared: Vec<&str> = PATHS.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
        let rows = [Transport::Tcp, Transport::Udp].into_iter().flat_map(Row::table_of);
        let all: BTreeSet<String> = rows.map(|row| row.label()).collect();
        assert_eq!(declared.iter().map(|&label| label.to_owned()).collect::<BTreeSet<_>>(), all);
        assert_eq!(declared.len(), all.len(), "a row is in two paths");
        Ok(())
    })]
}
