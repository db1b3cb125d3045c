//! Lessons 1 to 4.

use std::{
    io::{ErrorKind, Read},
    net::{Shutdown, TcpStream},
};

use nix::sys::signal::Signal;

use super::{A_WHILE, hears, hears_nothing, is_hung_up_on, numbers, play, says, serve, stop, told};
use crate::{
    stage::{connect, datagrams, echo, noise, until_quiet},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    lesson_1_has_a_descriptor_for_the_door_and_one_for_its_client_and_is_gone_after_it,
    lesson_2_reads_four_writes_in_other_pieces_and_the_client_finds_its_lines_again,
    lesson_2_stops_for_ever_when_more_is_said_than_the_buffers_hold_before_anything_is_heard,
    lesson_3_serves_nobody_while_a_silent_client_is_there,
    lesson_3_has_room_for_three_before_its_door_and_none_for_a_fourth,
    lesson_4_keeps_each_datagram_whole_the_empty_one_too,
    lesson_4_loses_what_finds_a_buffer_full_and_the_client_can_only_count,
];

fn lesson_1_has_a_descriptor_for_the_door_and_one_for_its_client_and_is_gone_after_it() {
    let mut server = play("01_socket", &["127.0.0.1:0"]);
    let door = numbers(&server.says("socket: descriptor"))[0];
    server.address = server.says("listening on ").rsplit(' ').next().unwrap().parse().unwrap();
    let address = server.address;
    let mut client = connect(address);
    echo(&mut client, b"hello");
    assert!(numbers(&server.says("accept: descriptor"))[0] > door);
    let mut waits = connect(address);
    client.shutdown(Shutdown::Write).unwrap();
    let (status, said) = server.ended();
    assert!(status.success(), "{said:#?}");
    assert!(said.contains(&"read: 0 bytes".to_owned()), "{said:#?}");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    is_hung_up_on(&mut waits);
    let refused = TcpStream::connect(address).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

fn lesson_2_reads_four_writes_in_other_pieces_and_the_client_finds_its_lines_again() {
    let server = serve("02_stream", &[]);
    let address = server.address.to_string();
    // It is to look when everything is there.
    stop(&server);
    let client = play("02_stream", &["say", "10000", &address]);
    client.says("wrote: 10001 bytes");
    server.signal(Signal::SIGCONT);
    let first = numbers(&server.says("read: "));
    assert_eq!(first, [4096.0, 3.0], "three lines and the beginning of the fourth");
    let (status, reads) = server.ended();
    assert!(status.success());
    let reads: Vec<f64> = reads.iter().map(|read| numbers(read)[0]).collect();
    assert_eq!(reads, [4096.0, 1823.0, 0.0]);
    let (status, heard) = client.ended();
    assert!(status.success(), "{heard:#?}");
    let lines: Vec<f64> =
        heard.iter().filter(|line| line.contains("a line")).map(|line| numbers(line)[0]).collect();
    assert_eq!(lines, [4.0, 4.0, 6.0, 10_001.0]);
}

fn lesson_2_stops_for_ever_when_more_is_said_than_the_buffers_hold_before_anything_is_heard() {
    let mut server = serve("02_stream", &[]);
    let mut client = play("02_stream", &["say", "100000000", &server.address.to_string()]);
    server.says("read: 4096 bytes");
    until_quiet(server.pid());
    until_quiet(client.pid());
    assert!(server.is_alive() && client.is_alive());
}

fn lesson_3_serves_nobody_while_a_silent_client_is_there() {
    let server = serve("03_iterative", &[]);
    let silent = server.connect();
    server.says("is served");
    let mut waits = server.connect();
    says(&mut waits, b"hello");
    hears_nothing(&mut waits);
    drop(silent);
    server.says("left after 0 bytes, 1 wait");
    hears(&mut waits, b"hello");
}

fn lesson_3_has_room_for_three_before_its_door_and_none_for_a_fourth() {
    let server = serve("03_iterative", &["2"]);
    let served = server.connect();
    server.says("is served");
    let _queue = [server.connect(), server.connect(), server.connect()];
    let fourth = TcpStream::connect_timeout(&server.address, A_WHILE);
    assert_eq!(fourth.map(drop).unwrap_err().kind(), ErrorKind::TimedOut);
    drop(served);
    server.says("left after 0 bytes, 3 wait");
}

fn lesson_4_keeps_each_datagram_whole_the_empty_one_too() {
    let server = serve("04_udp", &[]);
    let client = datagrams::client(server.address);
    let mut heard = vec![0; datagrams::LONGEST];
    for length in [3, 0, datagrams::LONGEST] {
        let said = noise(length);
        client.send(&said).unwrap();
        let length = client.recv(&mut heard).unwrap();
        assert!(heard[..length] == said);
    }
    server.says("datagram 2: 0 bytes");
}

fn lesson_4_loses_what_finds_a_buffer_full_and_the_client_can_only_count() {
    let server = serve("04_udp", &[]);
    let said = told("04_udp", &["flood", "20000", &server.address.to_string()]);
    let [sent, heard, lost] = numbers(&said[0])[..] else { panic!("{said:#?}") };
    assert!(sent == 20_000.0 && lost > 0.0 && heard > 0.0 && heard + lost == sent, "{said:#?}");
}
