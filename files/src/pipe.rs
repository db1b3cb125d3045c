//! A result may go to a named pipe, and whoever reads it may not be there (fifo(7)).

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    libc::ENXIO,
};

/// How long a reader is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens what is there or not for writing, and waits for no reader for ever: to open a pipe that nobody reads blocks, and
/// what blocks heeds no signal that only sets a flag.
///
/// # Errors
/// Where it cannot be opened, or nobody reads it.
pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let deadline = Instant::now() + PATIENCE;
    let file = loop {
        match options.custom_flags(OFlag::O_NONBLOCK.bits()).open(path) {
            Err(error) if error.raw_os_error() == Some(ENXIO) && path.exists() => {
                if Instant::now() > deadline {
                    return Err(io::Error::other("nobody reads it; start its reader first"));
                }
                thread::sleep(Duration::from_millis(10));
            }
            opened => break opened?,
        }
    };
    // What is written later may wait for a reader who is slow.
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}
