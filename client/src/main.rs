//! `echo-client`: talks to echo servers, loads them, compares them.
//!
//! It knows nothing of the server but its command line and its JSON lines. ARCHITECTURE.md is the map.

mod background;
mod cgroup;
mod check;
mod cmd;
mod compare;
mod cost;
mod environment;
mod grade;
mod interrupt;
mod listener;
mod load;
mod progress;
mod reach;
mod report;
mod saturation;
mod server;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The client of the echo suite: talks to any echo server (RFC 862), loads it, compares several.
#[derive(Debug, Parser)]
#[command(name = "echo-client", version, after_help = cmd::EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send stdin to a server and print what comes back, as the textbook's echo client
    Talk(cmd::talk::Talk),
    /// Load one server and print the result
    Load(Box<cmd::load::Load>),
    /// Make one result of those that several generators wrote
    Merge(cmd::merge::Merge),
    /// Start servers, load them in interleaved blocks, and say which is faster
    Compare(Box<cmd::compare::Compare>),
    /// Look for the classic bugs of a server, and grade it
    Check(Box<cmd::check::Check>),
    /// Make the report again from stored results
    Report(cmd::report::Report),
    /// Become another program under limits
    #[command(hide = true)]
    Confined(cmd::confined::Confined),
}

/// Raises the limit on descriptors as far as it goes: each connection takes one (setrlimit(2)).
fn use_all_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let cli: Cli = arguments::parse();
    use_all_descriptors();
    let _ = files::report_size_limits();
    if let Err(error) = interrupt::heed_the_meaningless() {
        log::warn!("signals: {error}");
    }
    let result = match cli.command {
        Command::Talk(talk) => talk.run(),
        Command::Load(load) => load.run(),
        Command::Merge(merge) => merge.run(),
        Command::Compare(compare) => compare.run(),
        Command::Check(check) => check.run(),
        Command::Report(report) => report.run(),
        Command::Confined(confined) => confined.run(),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("echo-client: {failure}");
        ExitCode::from(failure.status())
    })
}
