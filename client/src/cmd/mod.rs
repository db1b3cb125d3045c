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
    fs::File,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::builder::RangedU64ValueParser;

use crate::{load::LONGEST, pipe};

/// Why a command did not do what it was asked to: one line for the user.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for cannot be: exit status 2.
    Usage(String),
    /// It was tried: exit status 1.
    Failed(String),
    /// An examiner failed, not whom it examined: exit status 3.
    Examiner(String),
}

impl Failure {
    /// The exit status.
    pub fn status(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
            Self::Examiner(_) => ExitCode::from(3),
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
            Self::Usage(sentence) | Self::Failed(sentence) | Self::Examiner(sentence) => {
                f.write_str(sentence)
            }
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

/// A file for a result. Opened before the work, so that a wrong path does not cost it; what is in it stays there until
/// there is something to write.
fn create(path: &Path) -> Result<File, Failure> {
    let opened = pipe::open(File::options().write(true).create(true).truncate(false), path);
    opened.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
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
