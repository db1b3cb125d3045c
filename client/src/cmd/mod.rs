//! The subcommands, a file each.

pub mod compare;
pub mod load;
pub mod talk;

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
};

use arguments::{Endpoint, Transport};
use clap::builder::RangedU64ValueParser;

/// Why a command did not do what it was asked to: one line for the user.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for cannot be: exit status 2.
    Usage(String),
    /// It was tried: exit status 1.
    Failed(String),
}

impl Failure {
    /// The exit status.
    pub fn status(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }

    /// An error of the system, with what it happened to.
    pub fn io(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Failed(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(sentence) | Self::Failed(sentence) => f.write_str(sentence),
        }
    }
}

/// How a command ends: a status, or a line.
pub type Outcome = Result<ExitCode, Failure>;

/// The address of a TCP endpoint.
fn tcp_only(text: &str) -> Result<SocketAddr, String> {
    match text.parse()? {
        Endpoint::Tcp(address) => Ok(address),
        _ => Err("this command speaks TCP only; use a tcp:// endpoint".into()),
    }
}

/// An endpoint of a stream.
fn stream_only(text: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = text.parse()?;
    match endpoint.transport() {
        Transport::Tcp => Ok(endpoint),
        Transport::Udp => Err("this command speaks TCP only; use a tcp:// or unix:// endpoint".into()),
    }
}

/// A whole number from 1 to `most`.
fn number(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// A file for a result. Made before the work, so that a wrong path does not cost it.
fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// Writes to stdout. Whoever has read enough of it does not end the work (`… | head`).
fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
