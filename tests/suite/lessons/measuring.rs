//! Lessons 23 to 28.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream, UdpSocket},
};

use nix::sys::signal::Signal;

use super::{is_hung_up_on, numbers, serve, stop, told};
use crate::{
    stage::{datagrams, echo, noise},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    lesson_23_finds_in_the_99th_percentile_what_a_polite_client_leaves_out,
    lesson_24_does_the_same_work_three_times,
    lesson_25_keeps_littles_law_and_its_queue_grows_with_the_load,
    lesson_26_answers_what_was_said_lets_nobody_in_and_ends_when_its_clients_have_left,
    lesson_26_hangs_up_on_who_stays_for_longer_than_its_patience,
    lesson_27_keeps_what_each_client_has_said_under_its_address,
    lesson_28_measures_every_lesson_that_it_names_in_both_ways,
];

fn lesson_23_finds_in_the_99th_percentile_what_a_polite_client_leaves_out() {
    let said = told("23_percentiles", &[]);
    let p99 = |from: &str| numbers(said.iter().find(|line| line.starts_with(from)).unwrap())[3];
    let (sent, due) = (p99("from sent"), p99("from due"));
    assert!(due >= 300_000.0 && sent < due / 2.0, "{said:#?}");
}

fn lesson_24_does_the_same_work_three_times() {
    let said = told("24_cpu_bound", &[]);
    let used: Vec<f64> = said[1..].iter().map(|line| *numbers(line).last().unwrap()).collect();
    assert_eq!(used.len(), 3, "{said:#?}");
    assert!(used.iter().all(|it| *it > used[0] / 3.0 && *it < used[0] * 3.0), "{said:#?}");
}

fn lesson_25_keeps_littles_law_and_its_queue_grows_with_the_load() {
    let said = told("25_littles_law", &[]);
    let rows: Vec<Vec<f64>> = said[1..].iter().map(|line| numbers(line)).collect();
    assert_eq!(rows.len(), 4, "{said:#?}");
    for row in &rows {
        let [_, _, _, law, looked_at, _] = row[..] else { panic!("{row:?}") };
        assert!((law - looked_at).abs() < 1.0 + 0.3 * law, "{said:#?}");
    }
    assert!(rows[3][5] > rows[0][5], "{said:#?}");
}

fn lesson_26_answers_what_was_said_lets_nobody_in_and_ends_when_its_clients_have_left() {
    let server = serve("26_drain", &[]);
    let mut client = server.connect();
    echo(&mut client, b"hello");
    stop(&server);
    client.write_all(&noise(1000)).unwrap();
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGCONT);
    server.says("asked to end; clients here: 1");
    let mut heard = vec![0; 1000];
    client.read_exact(&mut heard).unwrap();
    assert!(heard == noise(1000));
    assert!(TcpStream::connect(server.address).is_err(), "the door is closed");
    echo(&mut client, b"one more");
    client.shutdown(Shutdown::Write).unwrap();
    let (status, said) = server.ended();
    assert!(status.success(), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("hung up on") && line.ends_with(": 0")), "{said:#?}");
}

fn lesson_26_hangs_up_on_who_stays_for_longer_than_its_patience() {
    let server = serve("26_drain", &[]);
    let mut client = server.connect();
    echo(&mut client, b"hello");
    server.signal(Signal::SIGINT);
    is_hung_up_on(&mut client);
    let (status, said) = server.ended();
    assert!(
        status.success() && said.iter().any(|line| line.starts_with("hung up on") && line.ends_with(": 1")),
        "{said:#?}"
    );
}

fn lesson_27_keeps_what_each_client_has_said_under_its_address() {
    let server = serve("27_groups", &[]);
    let clients = [0, 1].map(|_| datagrams::client(server.address));
    for (words, client) in ["one", "two", "three"].iter().zip(clients.iter().cycle()) {
        client.send(words.as_bytes()).unwrap();
        client.recv(&mut [0; 8]).unwrap();
    }
    server.signal(Signal::SIGUSR1);
    let told: serde_json::Value = serde_json::from_str(&server.says("clients")).unwrap();
    let said_by = |client: &UdpSocket| {
        let address = client.local_addr().unwrap().to_string();
        let mut groups = told["clients"].as_array().unwrap().iter();
        groups.find(|group| group["address"] == address.as_str()).unwrap()["messages"].clone()
    };
    assert_eq!(
        clients.each_ref().map(said_by),
        [serde_json::json!(["one", "three"]), serde_json::json!(["two"])]
    );
    server.signal(Signal::SIGTERM);
    let (status, said) = server.ended();
    assert!(status.success() && said == [told.to_string()], "{said:#?}");
}

fn lesson_28_measures_every_lesson_that_it_names_in_both_ways() {
    let said = told("28_compare", &["200"]);
    assert_eq!(said.len(), 2 * (1 + 7), "{said:#?}");
    for line in said.iter().filter(|line| line.contains(" us each")) {
        assert!(
            numbers(line).iter().skip(1).all(|figure| *figure >= 0.0) && numbers(line)[1] > 0.0,
            "{line}"
        );
    }
}
