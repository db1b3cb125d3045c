//! Every lesson is played, with both of its terminals and with what breaks, so that it stays true.

pub mod copies;
pub mod exercises;
pub mod loops;
pub mod measuring;
pub mod one_client;
pub mod syllabus;
pub mod tasks;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use procfs::process::Process;

use crate::stage::{PATIENCE, Server, lesson, within};

/// For how long nothing must happen, where nothing is to happen.
const A_WHILE: Duration = Duration::from_millis(300);

/// What is typed into the first terminal.
fn play(name: &str, args: &[&str]) -> Server {
    let mut command = Command::new(lesson(name));
    command.args(args);
    Server::spawn(command)
}

/// A lesson that listens, as it says.
#[track_caller]
fn serve(name: &str, more: &[&str]) -> Server {
    let mut server = play(name, &[&["127.0.0.1:0"], more].concat());
    let line = server.says("listening on ");
    server.address = line.rsplit(' ').next().unwrap().parse().unwrap();
    server
}

/// A lesson that ends by itself, well: what it said.
#[track_caller]
fn told(name: &str, args: &[&str]) -> Vec<String> {
    let (status, said) = play(name, args).ended();
    assert!(status.success(), "{status}: {said:#?}");
    said
}

/// Stops a server, until SIGCONT: what comes meanwhile has come when it looks again.
fn stop(server: &Server) {
    server.signal(Signal::SIGSTOP);
    within(PATIENCE, "its stop", || (state(server.pid()) == Some('T')).then_some(()));
}

/// What a process does, as `ps` has it: T is stopped, Z a zombie.
fn state(pid: i32) -> Option<char> {
    Some(Process::new(pid).ok()?.stat().ok()?.state)
}

/// The numbers in a line.
fn numbers(line: &str) -> Vec<f64> {
    let words = line.split(|c: char| !c.is_ascii_digit() && c != '.');
    words.filter_map(|word| word.trim_matches('.').parse().ok()).collect()
}

/// That nothing comes back for a while.
#[track_caller]
fn hears_nothing(client: &mut TcpStream) {
    client.set_read_timeout(Some(A_WHILE)).unwrap();
    let heard = client.read(&mut [0; 16]);
    let kind = heard.as_ref().map_err(std::io::Error::kind);
    assert_eq!(kind, Err(ErrorKind::WouldBlock), "it heard {heard:?}");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// That a server has hung up.
#[track_caller]
fn is_hung_up_on(client: &mut TcpStream) {
    assert!(matches!(client.read(&mut [0; 16]), Ok(0) | Err(_)), "it is still there");
}

/// What a client says that is not to be echoed at once.
fn says(client: &mut TcpStream, words: &[u8]) {
    client.write_all(words).unwrap();
}

/// The answer to it.
#[track_caller]
fn hears(client: &mut TcpStream, words: &[u8]) {
    let mut heard = vec![0; words.len()];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(heard, words);
}
