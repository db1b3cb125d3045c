//! Where each client of UDP has a process or a thread of its own: when it begins, what its death costs, and when it ends.

use std::{
    net::UdpSocket,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    stage::{Server, children, datagrams::status, echo_server, holdings, within},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    each_client_has_a_session_and_none_waits_for_anothers_work,
    a_silent_clients_session_ends_and_its_next_datagram_begins_another,
    the_most_silent_clients_session_makes_room_when_there_are_as_many_as_may_be,
    a_killed_session_costs_its_client_what_waited_for_it_and_nobody_else_anything,
    what_a_slow_session_has_no_room_for_is_dropped_and_what_it_has_not_done_in_time_is_counted,
    what_was_sent_before_the_end_is_answered_by_every_session,
];

const PATIENCE: Duration = Duration::from_secs(10);

/// The models of which this is said.
const MODELS: [&str; 2] = ["fork", "thread"];

fn start(model: &str, more: &[&str]) -> Server {
    let mut command = Command::new(echo_server());
    command.args(["--model", model]).args(more).arg("udp://127.0.0.1:0").stdin(Stdio::null());
    let mut server = Server::spawn(command);
    let endpoint = server.line()["endpoint"].as_str().unwrap().to_owned();
    server.address = endpoint.strip_prefix("udp://").unwrap().parse().unwrap();
    server
}

fn client(server: &Server) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn clients(server: &Server, n: usize) -> Vec<UdpSocket> {
    (0..n).map(|_| client(server)).collect()
}

fn send(client: &UdpSocket, said: &[u8], times: usize) {
    (0..times).for_each(|_| assert_eq!(client.send(said).unwrap(), said.len()));
}

#[track_caller]
fn hear(client: &UdpSocket, said: &[u8]) {
    let mut heard = [0; 1000];
    let length = client.recv(&mut heard).expect("an answer");
    assert_eq!(&heard[..length], said);
}

#[track_caller]
fn echo(client: &UdpSocket, said: &[u8]) {
    send(client, said, 1);
    hear(client, said);
}

/// How many sessions there are, from outside: processes and threads beside the first.
fn sessions(server: &Server) -> usize {
    holdings(server.pid()).threads - 1
}

#[track_caller]
fn end_up(server: &Server, n: usize) {
    within(PATIENCE, "the sessions' end", || (sessions(server) == n).then_some(()));
}

/// The figures of the end, in which every datagram that came was answered or dropped.
#[track_caller]
fn figures(server: Server) -> Value {
    let figures = server.stop().well();
    let dropped: u64 = figures["dropped"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    let answered = figures["datagrams_out"].as_u64().unwrap();
    assert_eq!(figures["datagrams_in"].as_u64().unwrap(), answered + dropped, "{figures}");
    figures
}

fn each_client_has_a_session_and_none_waits_for_anothers_work() {
    for model in MODELS {
        let server = start(model, &["--work", "sleep:200ms"]);
        let clients = clients(&server, 20);
        let began = Instant::now();
        clients.iter().for_each(|client| send(client, b"at once", 1));
        clients.iter().for_each(|client| hear(client, b"at once"));
        assert!(began.elapsed() < Duration::from_secs(2), "{model}: 20 clients took {:?}", began.elapsed());
        assert_eq!(sessions(&server), 20, "{model}");
        assert_eq!(figures(server)["accepted"], 20, "{model}");
    }
}

fn a_silent_clients_session_ends_and_its_next_datagram_begins_another() {
    for model in MODELS {
        let server = start(model, &["--idle-timeout", "200ms"]);
        let clients = clients(&server, 5);
        clients.iter().for_each(|client| echo(client, b"hello"));
        end_up(&server, 0);
        echo(&clients[0], b"hello again");
        assert_eq!(figures(server)["accepted"], 6, "{model}");
    }
}

fn the_most_silent_clients_session_makes_room_when_there_are_as_many_as_may_be() {
    for model in MODELS {
        let server = start(model, &["--max-connections", "3"]);
        let (faithful, others) = (client(&server), clients(&server, 30));
        for other in &others {
            echo(&faithful, b"still here");
            echo(other, b"here too");
        }
        end_up(&server, 3);
        let figures = figures(server);
        assert_eq!(figures["accepted"], 31, "{model}: who is heard keeps its session");
        assert_eq!(figures["errors"]["max_connections"], 28, "{model}");
    }
}

fn a_killed_session_costs_its_client_what_waited_for_it_and_nobody_else_anything() {
    let server = start("fork", &[]);
    let (victim, other) = (client(&server), client(&server));
    echo(&victim, b"one");
    let session = Pid::from_raw(children(server.pid())[0]);
    echo(&other, b"two");
    // An answer is heard before it is counted.
    within(PATIENCE, "both are counted", || (status(&server)["datagrams_out"] == 2).then_some(()));
    kill(session, Signal::SIGSTOP).unwrap();
    send(&victim, b"lost", 50);
    echo(&other, b"three"); // so those before it were handed over
    kill(session, Signal::SIGKILL).unwrap();
    end_up(&server, 1);
    echo(&victim, b"four");
    echo(&other, b"five");
    let figures = figures(server);
    assert_eq!((&figures["accepted"], &figures["errors"]["worker_died"]), (&3.into(), &1.into()));
    assert_eq!((&figures["datagrams_out"], &figures["dropped"]["unanswered"]), (&5.into(), &50.into()));
}

fn what_a_slow_session_has_no_room_for_is_dropped_and_what_it_has_not_done_in_time_is_counted() {
    for model in MODELS {
        let server = start(model, &["--work", "sleep:20ms", "--drain", "200ms"]);
        let slow = client(&server);
        send(&slow, &[7; 1000], 1000);
        hear(&slow, &[7; 1000]);
        let figures = figures(server);
        assert!(figures["dropped"]["busy"].as_u64() > Some(0), "{model}: {figures}");
        assert!(figures["dropped"]["unanswered"].as_u64() > Some(0), "{model}: {figures}");
    }
}

fn what_was_sent_before_the_end_is_answered_by_every_session() {
    for model in MODELS {
        let server = start(model, &["--work", "sleep:50ms"]);
        let clients = clients(&server, 10);
        clients.iter().for_each(|client| send(client, b"please", 3));
        assert_eq!(figures(server)["datagrams_out"], 30, "{model}");
        clients.iter().for_each(|client| (0..3).for_each(|_| hear(client, b"please")));
    }
}
