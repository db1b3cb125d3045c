//! Lessons 20 to 22.

use std::{net::Shutdown, thread};

use super::{hears, numbers, play, says, serve};
use crate::{
    stage::{Row, Server, echo, fill, noise},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    lesson_20_needs_one_kind_of_system_call_and_no_more_of_them_than_answers,
    lesson_20_lets_a_client_that_does_not_read_wait_and_nobody_else,
    lesson_21_polls_a_task_when_its_socket_is_ready_and_not_otherwise,
    lesson_22_holds_up_all_clients_by_a_call_that_blocks_and_none_by_one_that_awaits,
];

/// Lesson 20, unless the kernel refuses rings here, which it must say.
fn ring() -> Option<Server> {
    if Row::all().iter().any(|row| row.model == "io-uring") {
        return Some(serve("20_io_uring", &[]));
    }
    let (status, _) = play("20_io_uring", &["127.0.0.1:0"]).ended();
    assert_eq!(status.code(), Some(1));
    eprintln!("lesson 20 was not played: no ring here");
    None
}

fn lesson_20_needs_one_kind_of_system_call_and_no_more_of_them_than_answers() {
    let Some(server) = ring() else { return };
    thread::scope(|scope| {
        for n in 1..=16 {
            let mut client = server.connect();
            scope.spawn(move || {
                (0..50).for_each(|_| echo(&mut client, &noise(100 * n)));
                client.shutdown(Shutdown::Write).unwrap();
            });
        }
    });
    let lines: Vec<String> = (0..16).map(|_| server.says(" left; ")).collect();
    let last = numbers(lines.last().unwrap());
    let [_, answers, calls] = last[..] else { panic!("{last:?}") };
    assert!(answers >= 16.0 * 100.0 && calls <= answers + 2.0, "{last:?}");
}

fn lesson_20_lets_a_client_that_does_not_read_wait_and_nobody_else() {
    let Some(server) = ring() else { return };
    let deaf = server.connect();
    fill(&deaf);
    echo(&mut server.connect(), b"undisturbed");
}

fn lesson_21_polls_a_task_when_its_socket_is_ready_and_not_otherwise() {
    let server = serve("21_executor", &[]);
    let deaf = server.connect();
    fill(&deaf);
    let mut client = server.connect();
    echo(&mut client, &noise(100_000));
    client.shutdown(Shutdown::Write).unwrap();
    server.says("left: Ok(100000)");
    server.says("is done");
    drop(deaf);
    server.says("is done");
}

fn lesson_22_holds_up_all_clients_by_a_call_that_blocks_and_none_by_one_that_awaits() {
    let server = serve("22_async", &[]);
    let (mut a, mut b) = (server.connect(), server.connect());
    for kind in [&b"nap\n"[..], b"offload\n"] {
        says(&mut a, kind);
        echo(&mut b, b"undisturbed");
        a.set_nonblocking(true).unwrap();
        assert!(a.peek(&mut [0]).is_err(), "{kind:?} took no second");
        a.set_nonblocking(false).unwrap();
        hears(&mut a, kind);
    }
    says(&mut a, b"block\n");
    let line = server.says("6 bytes"); // said before it is sent back, and after the second
    assert!(numbers(&line)[1] >= 1.0, "{line}");
    hears(&mut a, b"block\n");
}
