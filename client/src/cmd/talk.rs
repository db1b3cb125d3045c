//! `talk`: the textbook's client. What comes on stdin goes to the server, what comes back goes to stdout.
//!
//! Both directions run at the same time, a thread each: a client that sends everything before it reads
//! deadlocks against a server that applies backpressure (lesson 2 shows it). Over UDP a line is a datagram: see
//! `datagrams`.

mod datagrams;

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::fd::AsFd,
    process::ExitCode,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
    time::Duration,
};

use arguments::Endpoint;
use clap::Args;
use socket2::{SockAddr, Socket, Type};

use super::{Failure, Outcome};
use crate::reach;

/// What stands below the options in the help.
const AFTERWARDS: &str = "\
Exit status: 0 all came back, 1 the server failed: it was not reached, or less or something else came back, 2 the command \
line is wrong, 3 stdin or stdout failed.";

/// Send stdin to a server and print what comes back.
#[derive(Debug, Args)]
#[command(after_help = AFTERWARDS)]
pub struct Talk {
    /// The server, like tcp://127.0.0.1:7007, udp://127.0.0.1:7007 or unix:///run/echo.sock; without a transport it is
    /// tcp://
    #[arg(value_name = "ENDPOINT", value_parser = reach::endpoint)]
    endpoint: Endpoint,

    /// Over UDP, where a line is a datagram: how long an answer may take before it counts as lost [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    timeout: Option<Duration>,
}

const BUFFER: usize = 64 * 1024;

impl Talk {
    /// Talks until the server has closed, or over UDP until the end of the input. Exit status 1 where less came
    /// back than was sent.
    pub fn run(self) -> Outcome {
        if is_stdin_a_folder() {
            return Err(Failure::Usage("stdin is a directory; give it a file, like < FILE".into()));
        }
        if let Endpoint::Udp(address) = self.endpoint {
            return datagrams::talk(address, self.timeout.unwrap_or(Duration::from_secs(1)));
        }
        if self.timeout.is_some() {
            return Err(Failure::Usage(
                "--timeout is of datagrams; leave it out, or use a udp:// endpoint".into(),
            ));
        }
        let server = connect(&self.endpoint).map_err(Failure::of_server(&self.endpoint))?;
        let (sent, said_all) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let speaker = thread::Builder::new().spawn_scoped(scope, || speak(&server, &sent, &said_all));
            let speaker = speaker.map_err(Failure::io("no thread to send with"))?;
            let heard = match listen(&server) {
                Ok(heard) => heard,
                // Whoever read our output has had enough (`… | head`).
                Err(Ear::Output(error)) if error.kind() == ErrorKind::BrokenPipe => leave(0),
                Err(Ear::Output(error)) => complain(&Failure::io("stdout")(error)),
                Err(Ear::Server(error)) => complain(&Failure::of_server(&self.endpoint)(error)),
            };
            if !said_all.load(Acquire) {
                // The server closed first, and stdin may never end: nobody waits for it.
                let sent = sent.load(Relaxed);
                let early = "the server closed before the end of the input";
                let sentence =
                    format!("{}: {early}; {sent} bytes were sent, {heard} came back", self.endpoint);
                complain(&Failure::Failed(sentence));
            }
            match speaker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Failure::of_server(&self.endpoint)(error)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
            let sent = sent.load(Relaxed);
            if heard != sent {
                let sentence = format!("{}: {sent} bytes were sent, {heard} came back", self.endpoint);
                return Err(Failure::Failed(sentence));
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn connect(endpoint: &Endpoint) -> io::Result<Socket> {
    let address = match endpoint {
        Endpoint::Tcp(address) | Endpoint::Udp(address) => SockAddr::from(*address),
        Endpoint::Unix(path) => SockAddr::unix(path)?,
    };
    let server = Socket::new(address.domain(), Type::STREAM, None)?;
    server.connect(&address)?;
    if !address.is_unix() {
        server.set_tcp_nodelay(true)?;
    }
    Ok(server)
}

/// A folder can be opened and not be read (EISDIR, read(2)).
fn is_stdin_a_folder() -> bool {
    let stdin = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    stdin.and_then(|stdin| stdin.metadata()).is_ok_and(|stdin| stdin.is_dir())
}

/// Sends stdin, then the FIN: "that was all".
fn speak(mut server: &Socket, sent: &AtomicU64, said_all: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut stdin = io::stdin().lock();
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                sent.fetch_add(n as u64, Relaxed); // before its echo can be here
                server.write_all(&buffer[..n])?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => complain(&Failure::io("stdin")(error)), // the server says nothing more, and would be waited for
        }
    }
    said_all.store(true, Release); // before its FIN can be answered
    match server.shutdown(Shutdown::Write) {
        Err(error) if error.kind() != ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}

/// Which side of listening failed.
enum Ear {
    Server(io::Error),
    Output(io::Error),
}

/// Prints what comes back, until the server's FIN; how much it was.
fn listen(mut server: &Socket) -> Result<u64, Ear> {
    let mut buffer = vec![0; BUFFER];
    let mut stdout = io::stdout().lock();
    let mut heard = 0;
    loop {
        match server.read(&mut buffer) {
            Ok(0) => return Ok(heard),
            Ok(n) => {
                stdout.write_all(&buffer[..n]).and_then(|()| stdout.flush()).map_err(Ear::Output)?;
                heard += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Ear::Server(error)),
        }
    }
}

fn complain(failure: &Failure) -> ! {
    eprintln!("echo-client: {failure}");
    leave(failure.status().into())
}

/// Ends the process though the other thread may be blocked on stdin.
fn leave(status: i32) -> ! {
    std::process::exit(status)
}
