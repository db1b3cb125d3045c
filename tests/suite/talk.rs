//! `echo-client talk`, in a pipe.

use std::{
    fs::File,
    io::{self, Write},
    net::{Shutdown, TcpListener},
    process::{Command, Stdio},
    thread,
};

use crate::{
    stage::{PATIENCE, Row, Transport, echo_client, noise, run, run_with, within},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    what_goes_through_talk_comes_back_bit_for_bit_from_every_model,
    a_short_word_comes_back_every_time,
    talk_ends_when_whoever_reads_it_has_had_enough,
    talk_says_in_one_line_when_nobody_listens,
    talk_takes_an_address_without_a_transport_for_tcp,
    talk_says_in_one_line_that_a_directory_cannot_be_read,
    talk_fails_when_less_comes_back_than_was_sent,
];

fn what_goes_through_talk_comes_back_bit_for_bit_from_every_model() {
    let said = noise(64 << 20);
    for row in Row::all() {
        let server = row.start(&[]);
        let output = run_with(echo_client(), &["talk", &format!("tcp://{}", server.address)], &said);
        assert!(output.status.success(), "{}: {}", row.label(), String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == said, "{}: {} bytes came back", row.label(), output.stdout.len());
        server.stop().well();
    }
}

fn a_short_word_comes_back_every_time() {
    let server = Row::all().pop().unwrap().start(&[]);
    for _ in 0..200 {
        let output = run_with(echo_client(), &["talk", &format!("tcp://{}", server.address)], b"hi\n");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, b"hi\n");
    }
}

fn talk_ends_when_whoever_reads_it_has_had_enough() {
    let server = Row::all()[0].start(&[]);
    let mut talk = Command::new(echo_client())
        .args(["talk", &format!("tcp://{}", server.address)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(talk.stdout.take());
    let mut input = talk.stdin.take().unwrap();
    let fed = thread::spawn(move || drop(input.write_all(&noise(4 << 20))));
    let status = within(PATIENCE, "talk ends", || talk.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    fed.join().unwrap();
}

fn talk_says_in_one_line_when_nobody_listens() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(echo_client(), &["talk", &format!("tcp://{nobody}")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("refused"), "{said}");
}

fn talk_takes_an_address_without_a_transport_for_tcp() {
    let server = Row::all().pop().unwrap().start(&[]);
    let output = run_with(echo_client(), &["talk", &server.address.to_string()], b"hello\n");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"hello\n"[..]));
}

fn talk_says_in_one_line_that_a_directory_cannot_be_read() {
    for transport in [Transport::Tcp, Transport::Udp] {
        let server = Row::table_of(transport)[0].start(&[]);
        let mut talk = Command::new(echo_client())
            .args(["talk", &format!("{}://{}", transport.name(), server.address)])
            .stdin(File::open("/").unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let status = within(PATIENCE, "talk ends", || talk.try_wait().unwrap());
        let said = io::read_to_string(talk.stderr.take().unwrap()).unwrap();
        assert_eq!((status.code(), said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains("stdin is a directory"), "{said}");
    }
}

fn talk_fails_when_less_comes_back_than_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut heard = [0; 10];
        std::io::Read::read_exact(&mut client, &mut heard).unwrap();
        client.write_all(&heard[..7]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let _ = std::io::Read::read(&mut client, &mut heard);
    });
    let output = run_with(echo_client(), &["talk", &format!("tcp://{address}")], b"0123456789");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"0123456");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("10 bytes were sent, 7 came back"), "{said}");
    server.join().unwrap();
}
