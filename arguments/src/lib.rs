//! What both programs take on their command lines, what a wrong argument is answered with, and what is
//! generated from it all: manual pages and completions.

mod cpus;
mod endpoint;
mod share;

pub use cpus::CpuList;
pub use endpoint::{Endpoint, Endpoints, Transport};

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    process::exit,
    time::Duration,
};

use bytesize::ByteSize;
use clap::{CommandFactory, FromArgMatches, error::ErrorKind};

/// Longer ones are a slip of the finger, and would overflow a clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads a duration as people write it: `300ms`, `5s`, `1m 30s`, `20us`; `0` is none.
///
/// # Errors
/// A sentence for the user, where the text is no duration.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 300ms, 5s or 2m"))?;
    if duration > LONGEST {
        return Err("longer than a year; write it like 300ms, 5s or 2m".into());
    }
    Ok(duration)
}

/// Reads a number of bytes as people write it: `4096`, `64KiB`, `1MB`.
///
/// # Errors
/// A sentence for the user, where the text is none, or none that fits into memory.
pub fn bytes(text: &str) -> Result<usize, String> {
    let advice = "write it like 4096, 64KiB or 1MB";
    let size: ByteSize = text.parse().map_err(|_| format!("that is no number of bytes; {advice}"))?;
    usize::try_from(size.as_u64()).map_err(|_| format!("more than there can be; {advice}"))
}

/// A text with a value in the place of each gap, like `{port}`. Either may be a path, of any bytes.
#[must_use]
pub fn filled(text: &OsStr, gap: &str, value: &OsStr) -> OsString {
    let (mut filled, mut rest, gap) = (Vec::new(), text.as_bytes(), gap.as_bytes());
    while let Some(at) = rest.windows(gap.len()).position(|window| window == gap) {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(value.as_bytes());
        rest = &rest[at + gap.len()..];
    }
    filled.extend_from_slice(rest);
    OsString::from_vec(filled)
}

/// Parses the command line; help and version go to stdout, and a wrong argument gets one line on stderr
/// and exit status 2. `generate DIR` is done here: it is no part of what a program does.
#[must_use]
pub fn parse<C: CommandFactory + FromArgMatches>() -> C {
    let matches = C::command().subcommand(share::command()).try_get_matches();
    if let Some(folder) = matches.as_ref().ok().and_then(share::asked_for) {
        match share::generate(C::command(), folder) {
            Ok(()) => exit(0),
            Err(error) => complain::<C>(&format!("{}: {error}", folder.display()), 2),
        }
    }
    matches.and_then(|matches| C::from_arg_matches(&matches)).unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => complain::<C>(&one_line(&error.to_string()), 2),
    })
}

fn complain<C: CommandFactory>(sentence: &str, status: i32) -> ! {
    eprintln!("{}: {sentence}", C::command().get_name());
    exit(status)
}

/// clap answers a wrong argument with paragraphs: the fault, tips, the usage, a pointer to the help. The
/// fault and the tips are kept, as one line.
fn one_line(message: &str) -> String {
    let said: Vec<&str> = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .map(|line| line.trim_start_matches("error: "))
        .collect();
    format!("{} (--help says more)", said.join(" ").replace(" tip: ", "; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        for (text, size) in
            [("0", 0), ("4096", 4096), ("64KiB", 65_536), ("64 KiB", 65_536), ("1MB", 1_000_000)]
        {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for wrong in ["", "many", "-1", "1 mouthful", "KiB"] {
            assert!(bytes(wrong).unwrap_err().contains("write it like"), "{wrong}");
        }
    }

    #[test]
    fn a_duration_is_read_as_people_write_it() {
        assert_eq!(duration("20us").unwrap(), Duration::from_micros(20));
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        assert!(duration("500000000000years").is_err());
        assert!(duration("soon").unwrap_err().contains("300ms"));
    }

    #[test]
    fn every_gap_is_filled_and_all_other_bytes_stay() {
        let filled = |text: &[u8], value: &[u8]| {
            super::filled(OsStr::from_bytes(text), "{rank}", OsStr::from_bytes(value)).into_vec()
        };
        assert_eq!(filled(b"{rank}/\xff-{rank}.json", b"3"), b"3/\xff-3.json");
        assert_eq!(filled(b"{rank", b"3"), b"{rank");
        assert_eq!(filled(b"{rank}", b"\xfe{rank}"), b"\xfe{rank}");
    }

    #[test]
    fn a_wrong_argument_is_answered_in_one_line() {
        let said = one_line(
            "error: invalid value 'x' for '--n <N>'\n\n  tip: try 3\n\nUsage: a b\n       a c\n\nFor more information, try '--help'.\n",
        );
        assert_eq!(said, "invalid value 'x' for '--n <N>'; try 3 (--help says more)");
    }
}
