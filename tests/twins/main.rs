//! Broken twins: small servers, each right but for one bug, for `echo-client check` to find out.
//!
//! `twin BUG PORT` serves on 127.0.0.1; `twin --list` says which there are. Each file is a family of bugs, as the checks' are.

// In a test, to unwrap is to assert.
#![allow(missing_docs, clippy::unwrap_used)]

mod children;
mod datagrams;
mod ending;
mod events;
mod leaks;
mod neighbours;
mod opening;
mod rest;
mod right;
mod rudeness;
mod shortage;
mod stream;

use std::{env, process::exit};

/// A server with one bug.
pub struct Twin {
    /// The check that finds it; behind a slash, in which other form it has the bug.
    pub bug: &'static str,
    /// Over what it serves.
    pub transport: &'static str,
    /// What else is wrong with whoever has that bug, as the table of checks says.
    pub implies: &'static [&'static str],
    /// Serves on this port, until it is ended.
    pub serve: fn(u16),
}

fn all() -> impl Iterator<Item = &'static Twin> {
    [
        right::TWINS,
        stream::TWINS,
        neighbours::TWINS,
        rudeness::TWINS,
        leaks::TWINS,
        children::TWINS,
        shortage::TWINS,
        rest::TWINS,
        opening::TWINS,
        ending::TWINS,
        datagrams::TWINS,
    ]
    .into_iter()
    .flatten()
}

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["--list"] => {
            for Twin { bug, transport, implies, .. } in all() {
                println!("{bug} {transport} {}", implies.join(","));
            }
        }
        [bug, port] => {
            let twin = all().find(|twin| twin.bug == bug);
            let (Some(twin), Ok(port)) = (twin, port.parse()) else { usage() };
            if twin.transport == "tcp" {
                right::end_in_order(port);
            }
            (twin.serve)(port);
        }
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!("twin BUG PORT, or twin --list");
    exit(2)
}
