//! The limits: how many clients, how full a queue, how many workers.

use std::{io::Read, io::Write, net::TcpStream, time::Duration};

use crate::{
    Promise,
    stage::{PATIENCE, Row, address_in, children, connect, echo, parent, within},
};

pub const PROMISES: &[Promise] = &[
    ("beyond_max_connections_a_client_is_closed_at_once", Row::is_concurrent, max_connections),
    ("a_pool_serves_as_many_as_it_has_workers_and_then_the_next", Row::is_pool, as_many_as_workers),
    ("a_full_queue_refuses_or_blocks_as_told", |row| row.dispatch.as_deref() == Some("queue"), full_queue),
    ("several_endpoints_have_a_process_each_and_end_together", |_| true, several_endpoints),
];

/// The end, whether it came as a FIN or as a reset: the client was closed unserved.
fn is_closed(client: &mut TcpStream) -> bool {
    matches!(client.read(&mut [0; 8]), Ok(0)) || client.take_error().is_ok_and(|error| error.is_some())
}

fn max_connections(row: &Row) {
    let server = row.start(&["--max-connections", "3"]);
    let mut seated: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    seated.iter_mut().for_each(|client| echo(client, b"in"));
    for _ in 0..5 {
        assert!(is_closed(&mut server.connect()));
    }
    seated.iter_mut().for_each(|client| echo(client, b"still in"));
    seated.pop();
    within(PATIENCE, "a seat that was given back is taken", || {
        let mut client = server.connect();
        client.write_all(b"in").ok()?;
        client.read_exact(&mut [0; 2]).ok()
    });
    drop(seated);
    let figures = server.stop().well();
    assert!(figures["refused"].as_u64() >= Some(5), "{figures}");
    assert_eq!(figures["refused"], figures["errors"]["max_connections"]);
    assert_eq!(figures["accepted"], 4, "{figures}");
}

fn as_many_as_workers(row: &Row) {
    let server = row.start_for(2, &[]);
    let (mut a, mut b) = (server.connect(), server.connect());
    echo(&mut a, b"a");
    echo(&mut b, b"b");
    let mut c = server.connect();
    c.write_all(b"c").expect("sent");
    c.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    c.read(&mut [0; 1]).expect_err("the third waits");
    drop(a);
    c.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    c.read_exact(&mut [0; 1]).expect("served when a worker is free");
    drop((b, c));
    let figures = server.stop().well();
    assert_eq!(figures["workers"].as_array().map(Vec::len), Some(2));
}

fn full_queue(row: &Row) {
    let args = ["--workers", "1", "--queue", "1", "--when-full"];
    let rejecting = row.start(&[&args[..], &["reject"]].concat());
    let mut served = rejecting.connect();
    echo(&mut served, b"served");
    let _queued = rejecting.connect();
    assert!(is_closed(&mut rejecting.connect()), "the queue is full");
    drop((served, _queued));
    let figures = rejecting.stop().well();
    assert_eq!((&figures["refused"], &figures["errors"]["queue_full"]), (&1.into(), &1.into()));

    let blocking = row.start(&[&args[..], &["block"]].concat());
    let mut clients: Vec<TcpStream> = (0..6).map(|_| blocking.connect()).collect();
    for mut client in clients.drain(..) {
        echo(&mut client, b"everybody in turn");
    }
    let figures = blocking.stop().well();
    assert_eq!((&figures["accepted"], &figures["refused"]), (&6.into(), &0.into()));
}

fn several_endpoints(row: &Row) {
    let server = row.start(&["tcp://127.0.0.1:0", "--drain", "1s"]);
    let second = address_in(&server.line());
    assert_ne!(server.address, second);
    let (mut a, mut b) = (server.connect(), connect(second));
    echo(&mut a, b"a");
    echo(&mut b, b"b");
    assert_eq!(
        children(server.pid()).iter().filter(|&&child| parent(child) == Some(server.pid())).count(),
        2
    );
    drop((a, b));
    assert_eq!(server.stop().well()["accepted"], 1);
}
