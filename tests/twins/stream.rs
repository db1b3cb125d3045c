//! Bugs of one conversation.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Shutdown, TcpStream},
};

use crate::{Twin, right::threads};

pub const TWINS: &[Twin] =
    &[Twin { bug: "bytes", transport: "tcp", implies: &[], serve: |port| threads(port, by_lines) }];

/// Waits for a line, and takes what it reads for text.
fn by_lines(mut client: TcpStream) -> io::Result<()> {
    for line in BufReader::new(client.try_clone()?).lines() {
        client.write_all(line?.as_bytes())?;
        client.write_all(b"\n")?;
    }
    client.shutdown(Shutdown::Write)
}
