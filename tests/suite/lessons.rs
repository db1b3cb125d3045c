//! Every lesson is run, so that it stays true.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::stage::{lesson, noise, run_with};

/// A lesson that serves says where on its first line.
fn serve(name: &str) -> (Child, BufReader<ChildStdout>, String) {
    let mut server = Command::new(lesson(name)).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut log = BufReader::new(server.stdout.take().unwrap());
    log.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    (server, log, address)
}

#[test]
fn lesson_2_talks_to_lesson_1_and_hears_what_it_said() {
    let (mut server, _log, address) = serve("01-one-client-at-a-time");
    let client = lesson("02-a-client");
    for said in [&b"hello\n"[..], b"", &noise(100_000)] {
        let output = run_with(client, &[&address], said);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == said);
    }
    server.kill().unwrap();
    server.wait().unwrap();
}
