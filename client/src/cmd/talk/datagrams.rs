//! Talking over UDP: each line of stdin is a datagram, its newline included, as of Stevens's `dg_cli` (UNPv1, 8.6).
//! So what is printed equals what was typed, byte for byte, also where the last line has no newline.
//!
//! One datagram is on its way at a time. Nobody says that one was lost, so its answer is waited for, and not for
//! ever: the one that Stevens's client waits for without an end.

use std::{
    collections::VecDeque,
    io::{self, BufRead, ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    cmd::{Failure, Outcome},
    load::LONGEST,
};

/// How many lines are remembered, to know an answer that comes too late or twice.
const REMEMBERED: usize = 16;

/// Who is talked to, and what was said lately.
struct Talk {
    server: UdpSocket,
    timeout: Duration,
    said: VecDeque<Vec<u8>>,
    room: Vec<u8>,
}

/// Talks until the end of the input. Exit status 1 where an answer was lost, or was not what had been sent.
pub fn talk(address: SocketAddr, timeout: Duration) -> Outcome {
    let name = format!("udp://{address}");
    let server = connect(address).map_err(Failure::of_server(&name))?;
    let mut talk = Talk { server, timeout, said: VecDeque::new(), room: vec![0; 1 << 16] };
    let (mut stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    let (mut sent, mut lost, mut changed) = (0, 0, 0);
    while let Some(line) = next_line(&mut stdin).map_err(Failure::io("stdin"))? {
        sent += 1;
        if line.len() > LONGEST {
            let more =
                format!("line {sent} is longer than {LONGEST} bytes, which is all that a datagram holds");
            return Err(Failure::Usage(format!("{more}; cut it up, or talk over tcp://")));
        }
        match talk.ask(&line).map_err(|error| refused(&name, &error))? {
            None => lost += 1,
            Some(answer) => match stdout.write_all(answer).and_then(|()| stdout.flush()) {
                // Whoever read our output has had enough (`… | head`).
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                written => {
                    written.map_err(Failure::io("stdout"))?;
                    changed += u64::from(answer != line);
                }
            },
        }
        talk.remember(line);
    }
    match (lost, changed) {
        (0, 0) => Ok(ExitCode::SUCCESS),
        (_, 0) => Err(Failure::Failed(format!("{name}: {lost} of {sent} datagrams lost"))),
        _ => Err(Failure::Failed(format!(
            "{name}: {lost} of {sent} datagrams lost; {changed} came back changed"
        ))),
    }
}

fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let server = UdpSocket::bind(any)?;
    server.connect(address)?;
    Ok(server)
}

/// A line with its newline; one byte more than a datagram holds tells that it is too long.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.take(LONGEST as u64 + 1).read_until(b'\n', &mut line)?;
    Ok((!line.is_empty()).then_some(line))
}

fn refused(name: &str, error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            let what = "nobody serves there: the port is unreachable (ICMP)";
            Failure::Failed(format!("{name}: {what}"))
        }
        _ => Failure::Failed(format!("{name}: {error}")),
    }
}

impl Talk {
    /// Sends a line, and waits for its answer; `None` where none came in time. An answer to an earlier line, which
    /// came too late or twice, is not printed: it would stand where this one's belongs.
    fn ask(&mut self, line: &[u8]) -> io::Result<Option<&[u8]>> {
        self.server.send(line)?;
        let deadline = Instant::now() + self.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.server.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
            match self.server.recv(&mut self.room) {
                Ok(n) => {
                    let got = &self.room[..n];
                    if got == line || !self.said.iter().any(|earlier| earlier == got) {
                        return Ok(Some(&self.room[..n]));
                    }
                    log::info!("an answer to an earlier line came late, or twice");
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn remember(&mut self, line: Vec<u8>) {
        if self.said.len() == REMEMBERED {
            self.said.pop_front();
        }
        self.said.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_newlines_and_the_last_one_may_have_none() {
        let mut input = &b"one\n\ntwo"[..];
        let lines: Vec<Vec<u8>> = std::iter::from_fn(|| next_line(&mut input).unwrap()).collect();
        assert_eq!(lines, [&b"one\n"[..], b"\n", b"two"]);
    }
}
