//! A lock in a file, for processes.

use std::{fs::File, io, os::fd::AsRawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file that nobody else knows, to be locked by flock(2).
pub struct FileLock(File);

/// One process's way to the lock.
pub struct Mine(File);

impl FileLock {
    /// Unlocked. The file has no name, so nothing is left behind.
    ///
    /// # Errors
    /// Where memory or descriptors ran out (memfd_create(2)).
    pub fn new() -> io::Result<Self> {
        Ok(Self(memfd_create("echo-server-lock", MFdFlags::MFD_CLOEXEC)?.into()))
    }

    /// Opens the file anew. The lock belongs to an open file description, which fork(2) does not copy:
    /// children that used the parent's would all hold it at once.
    ///
    /// # Errors
    /// Where descriptors ran out, or there is no /proc.
    pub fn open(&self) -> io::Result<Mine> {
        File::open(format!("/proc/self/fd/{}", self.0.as_raw_fd())).map(Mine)
    }
}

/// The lock, held. The kernel gives it back when its holder dies.
pub struct Held<'a>(&'a File);

impl Mine {
    /// Waits for the lock.
    ///
    /// # Panics
    /// Where the kernel cannot lock: it has no memory for one more lock.
    pub fn hold(&self) -> Held<'_> {
        while let Err(error) = self.0.lock() {
            assert!(error.kind() == io::ErrorKind::Interrupted, "flock: {error}");
        }
        Held(&self.0)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_who_opened_it_exclude_each_other() {
        let lock = FileLock::new().unwrap();
        let (a, b) = (lock.open().unwrap(), lock.open().unwrap());
        let held = a.hold();
        assert!(matches!(b.0.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
        drop(held);
        drop(b.hold());
    }
}
