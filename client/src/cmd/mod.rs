//! The subcommands, a file each.

pub mod check;
pub mod compare;
pub mod confined;
pub mod load;
pub mod merge;
pub mod report;
pub mod talk;

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use clap::builder::RangedU64ValueParser;

use crate::load::LONGEST;

/// The exit statuses of every command, as its help and its manual page end.
pub const EXIT_STATUS: &str = "\
Exit status: 0 valid, and every check passed; 1 the server failed: a wrong echo, nothing came up, a contender that does \
not start or is refused, a check that failed; 2 the command line is wrong; 3 measured, and not valid; or this program or \
the machine failed; 130 interrupted, with the files written.";

/// The exit status of what was measured and does not count.
pub const NOT_VALID: u8 = 3;

/// The exit status of what was interrupted, as shells expect of what ^C ended.
pub const INTERRUPTED: u8 = 130;

/// Why a command did not do what it was asked to: one line for the user.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for cannot be: exit status 2.
    Usage(String),
    /// The server failed: exit status 1.
    Failed(String),
    /// This program failed, or the machine did, and not the server: exit status 3.
    Harness(String),
}

impl Failure {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
            Self::Harness(_) => NOT_VALID,
        }
    }

    /// An error of the system, with what it happened to.
    pub fn io(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Harness(format!("{what}: {error}"))
    }

    /// An error of a conversation with the server.
    pub fn of_server(server: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Failed(format!("{server}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(sentence) | Self::Failed(sentence) | Self::Harness(sentence) => f.write_str(sentence),
        }
    }
}

/// How a command ends: a status, or a line.
pub type Outcome = Result<ExitCode, Failure>;

/// Why datagrams of so many bytes cannot be sent, one by one or so many in one system call.
fn fits_a_datagram(size: usize, burst: Option<usize>) -> Option<String> {
    match burst {
        _ if size > LONGEST => Some(format!("--size: a datagram has at most {LONGEST} bytes")),
        Some(_) if size == 0 => {
            Some("--burst: empty datagrams cannot be sent in one call; choose a --size".into())
        }
        Some(burst) if burst * size > LONGEST => Some(format!(
            "--burst: {burst} of {size} bytes are more than {LONGEST}; choose fewer, or smaller ones"
        )),
        _ => None,
    }
}

/// A whole number from 1 to `most`.
fn number(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// A share, as people write it.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').map(str::trim).and_then(|number| number.parse::<f64>().ok());
    number.map(|number| number / 100.0).ok_or_else(|| format!("{text:?}; write it like 5%"))
}

/// Writes to stdout. Whoever has read enough of it does not end the work (`… | head`).
///
/// # Errors
/// Where it takes no more.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::io("stdout")(error)),
        _ => Ok(()),
    }
}
