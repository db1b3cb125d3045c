//! Lessons 15 to 19.

use std::{
    collections::HashSet,
    io::Read,
    net::{Shutdown, TcpStream},
};

use nix::sys::signal::Signal;

use super::{hears, hears_nothing, is_hung_up_on, numbers, says, serve, stop};
use crate::{
    stage::{echo, fill, noise, until_quiet},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    lesson_15_asks_thousands_of_times_though_nobody_says_anything,
    lesson_16_sleeps_until_somebody_is_ready_and_hands_all_descriptors_over_each_time,
    lesson_16_is_stopped_for_all_by_a_client_that_does_not_read,
    lesson_17_reads_all_for_one_event,
    lesson_17_leaves_the_rest_until_more_is_said_when_it_reads_once_for_each_event,
    lesson_17_hangs_up_on_a_client_that_does_not_read,
    lesson_18_lets_a_client_that_does_not_read_wait_and_nobody_else,
    lesson_19_stops_the_clients_of_one_loop_and_no_others_while_that_computes,
    lesson_15_hangs_up_on_a_client_that_does_not_read_and_serves_the_others,
];

fn lesson_15_asks_thousands_of_times_though_nobody_says_anything() {
    let server = serve("15_busy_loop", &[]);
    let mut clients: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| echo(client, b"hello"));
    server.says("asked ");
    let line = server.says(", 0 had said something");
    assert!(numbers(&line)[0] > 1000.0, "{line}");
}

fn lesson_16_sleeps_until_somebody_is_ready_and_hands_all_descriptors_over_each_time() {
    let server = serve("16_poll", &[]);
    let _silent: Vec<TcpStream> = (0..10).map(|_| server.connect()).collect();
    server.says("of 10 descriptors");
    until_quiet(server.pid());
    let mut client = server.connect();
    echo(&mut client, b"hello");
    server.says("poll: of 12 descriptors 1 are ready");
}

fn lesson_16_is_stopped_for_all_by_a_client_that_does_not_read() {
    let server = serve("16_poll", &[]);
    let mut other = server.connect();
    echo(&mut other, b"hello");
    let deaf = server.connect();
    fill(&deaf);
    says(&mut other, b"there?");
    hears_nothing(&mut other);
    drop(deaf);
    hears(&mut other, b"there?");
}

fn lesson_17_reads_all_for_one_event() {
    let server = serve("17_epoll", &[]);
    let mut client = server.connect();
    echo(&mut client, b"hello");
    stop(&server);
    says(&mut client, &noise(10_000));
    server.signal(Signal::SIGCONT);
    hears(&mut client, &noise(10_000));
    server.says("read: 5 bytes");
    server.says("read: 4096 bytes");
    // No event comes between.
    assert_eq!([server.says(""), server.says("")], ["read: 4096 bytes", "read: 1808 bytes"]);
}

fn lesson_17_leaves_the_rest_until_more_is_said_when_it_reads_once_for_each_event() {
    let server = serve("17_epoll", &["once"]);
    let mut client = server.connect();
    let said = noise(40);
    says(&mut client, &said);
    hears(&mut client, &said[..16]);
    hears_nothing(&mut client);
    says(&mut client, b"!");
    hears(&mut client, &said[16..32]);
    hears_nothing(&mut client);
}

fn lesson_17_hangs_up_on_a_client_that_does_not_read() {
    let server = serve("17_epoll", &[]);
    let deaf = server.connect();
    fill(&deaf);
    server.says("was lost: ");
    echo(&mut server.connect(), b"and the next");
}

fn lesson_18_lets_a_client_that_does_not_read_wait_and_nobody_else() {
    let server = serve("18_backpressure", &[]);
    let mut other = server.connect();
    let mut deaf = server.connect();
    let taken = fill(&deaf);
    server.says("waits to be written to");
    echo(&mut other, b"undisturbed");
    // Then it reads, and nothing was lost.
    deaf.set_nonblocking(false).unwrap();
    deaf.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    deaf.read_to_end(&mut heard).unwrap();
    assert!(heard == noise(taken));
}

/// Clients, by the loop that has them.
fn dealt(server: &crate::stage::Server, count: usize) -> Vec<(TcpStream, usize)> {
    let deal = |client: TcpStream| {
        let address = client.local_addr().unwrap().to_string();
        let line = server.says(&address);
        (client, numbers(&line)[0] as usize)
    };
    (0..count).map(|_| deal(server.connect())).collect()
}

fn lesson_19_stops_the_clients_of_one_loop_and_no_others_while_that_computes() {
    let server = serve("19_loop_a_core", &[]);
    let mut clients = dealt(&server, 32);
    let loops: HashSet<usize> = clients.iter().map(|(_, n)| *n).collect();
    assert!(loops.len() >= 2, "32 clients went to {loops:?}");
    let busy = clients[0].1;
    says(&mut clients[0].0, b"work\n");
    for (client, n) in clients.iter_mut().skip(1) {
        if *n != busy {
            echo(client, b"undisturbed");
        }
    }
    hears(&mut clients[0].0, b"work\n");
    clients.iter_mut().for_each(|(client, _)| echo(client, b"all of them"));
}

fn lesson_15_hangs_up_on_a_client_that_does_not_read_and_serves_the_others() {
    let server = serve("15_busy_loop", &[]);
    let mut other = server.connect();
    let mut deaf = server.connect();
    fill(&deaf);
    server.says("was lost: ");
    deaf.set_nonblocking(false).unwrap();
    echo(&mut other, b"undisturbed");
    let mut heard = vec![0; 1 << 20];
    while matches!(deaf.read(&mut heard), Ok(1..)) {}
    is_hung_up_on(&mut deaf);
}
