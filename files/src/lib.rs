//! Files that are written whole or not at all: whatever happens to the writer, the disk or the power, a reader finds the
//! old content or the new.
//!
//! The new content is written beside the file, to `.NAME.new`, and takes its name once it lies on the disk (rename(2),
//! fsync(2)). The writer holds a lock on it (flock(2)): what is not locked was left by a writer that was killed, and is
//! removed by the next.
//!
//! - A symbolic link stays; the file that it leads to is replaced.
//! - Owner, group and permissions stay where the system allows it. Access lists and extended attributes do not, and
//!   another hard link keeps the old content.
//! - Where nothing can take the file's place, because its folder cannot be written to or because it is a mount point (a
//!   file that is lent to a container), it is overwritten, after the disk has promised the room (posix_fallocate(3)).
//!   Then a full disk still costs nothing, but a killed writer does.
//! - A device, a pipe or a descriptor of this process (`/dev/stdout`) is never replaced. [`Output`] writes into it;
//!   everything else here refuses it.

mod pipe;
mod place;
#[cfg(test)]
mod tests;

use std::{
    error, fmt,
    fs::{self, File, Metadata},
    io::{self, BufWriter, ErrorKind, Seek, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use signal_hook::consts::SIGXFSZ;

use place::{Draft as Beside, Place};

/// What is to be written. It is asked twice where a file is overwritten, and says the same again.
pub trait Content: Fn(&mut dyn Write) -> io::Result<()> {}

impl<C: Fn(&mut dyn Write) -> io::Result<()>> Content for C {}

/// Why a file cannot be written: one line for the user, with what to do.
#[derive(Debug)]
pub struct Error {
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.error.kind() {
            ErrorKind::NotFound => "its folder does not exist".into(),
            ErrorKind::WouldBlock => "another program writes it now".into(),
            _ => self.error.to_string(),
        };
        let advice = match self.error.kind() {
            ErrorKind::FileTooLarge => "raise the limit on the size of files (ulimit -f)",
            _ => "choose a file in a folder that can be written to and has room",
        };
        write!(f, "{}: {what}; {advice}", self.path.display())
    }
}

impl error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.error.kind(), error)
    }
}

/// Adds to an error of the system which file it is about.
fn about(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| Error { path: path.into(), error }
}

/// From now on a limit on the size of files (RLIMIT_FSIZE) is an error of what is written, and no end without a word
/// (SIGXFSZ, setrlimit(2)). Programs that this process becomes or starts are not concerned (execve(2)).
///
/// # Errors
/// Where the system refuses the handler.
pub fn report_size_limits() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// Writes a file, in place of what was there.
///
/// # Errors
/// Where it cannot be written. What was there stays.
pub fn replace(path: &Path, content: impl Content) -> Result<(), Error> {
    Place::of_file(path).and_then(|place| place.replace(&content)).map_err(about(path))
}

/// Whether a file could be written now. Nothing is.
///
/// # Errors
/// Where it could not.
pub fn can_be_written(path: &Path) -> Result<(), Error> {
    Place::of_file(path).and_then(|place| place.can_be_replaced()).map_err(about(path))
}

/// A file that is filled before it takes its name, by other means than [`replace`]: a mapping of it, say. It is removed
/// where it is dropped before that.
pub struct Draft {
    beside: Beside,
    path: PathBuf,
}

impl Draft {
    /// An empty file beside the one at `path`.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let beside = Place::of_file(path).and_then(|place| place.draft()).map_err(about(path))?;
        Ok(Self { beside, path: path.into() })
    }

    /// Fills it.
    ///
    /// # Errors
    /// Where `fill` fails.
    pub fn fill<T>(&self, fill: impl FnOnce(&File) -> io::Result<T>) -> Result<T, Error> {
        fill(self.beside.file()).map_err(about(&self.path))
    }

    /// Gives it its name, in place of what was there.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn persist(self) -> Result<File, Error> {
        self.beside.persist().map_err(about(&self.path))
    }
}

/// Where a result goes that the user named: a file, or a device, a pipe or a descriptor, which is only written into.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    /// What is no file that another could take the place of.
    stream: Option<File>,
}

impl Output {
    /// Makes sure that it can be written, and changes nothing. A pipe is opened, which waits a moment for its reader (fifo(7)).
    ///
    /// # Errors
    /// Where it cannot.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::at(path).map_err(about(path))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let stream = match Place::of(path)? {
            Some(place) if place.there().is_some_and(is_stdout) => {
                return Err(io::Error::other("stdout goes there too"));
            }
            Some(place) => {
                place.can_be_replaced()?;
                None
            }
            // Opened anew it would have another position than stdout has, and one would overwrite the other.
            None if fs::metadata(path).is_ok_and(|there| is_stdout(&there)) => {
                Some(File::from(io::stdout().as_fd().try_clone_to_owned()?))
            }
            None => Some(pipe::open(File::options().write(true), path)?),
        };
        Ok(Self { path: path.into(), stream })
    }

    /// The path that the user named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file with content that would be replaced.
    pub fn holds_something(&self) -> bool {
        self.stream.is_none() && fs::metadata(&self.path).is_ok_and(|there| there.len() > 0)
    }

    /// Writes it: a file whole or not at all.
    ///
    /// # Errors
    /// Where it takes no more.
    pub fn write(&self, content: impl Content) -> Result<(), Error> {
        let Some(stream) = &self.stream else { return replace(&self.path, content) };
        let is_a_file = stream.metadata().is_ok_and(|there| there.is_file() && !is_stdout(&there));
        let written = if is_a_file { overwrite(stream, &content) } else { pour(stream, &content) };
        written.map_err(about(&self.path))
    }
}

/// Whether what is written to one path would also go to the other: they name one file, by whatever links. A device or
/// stdout may be written to twice.
pub fn are_one(path: &Path, other: &Path) -> bool {
    let there = |path| fs::metadata(path).ok().filter(|there| !is_stdout(there));
    let is_one = |there: &Metadata| there.is_file() || there.file_type().is_fifo();
    let inode = |path| there(path).filter(is_one).map(|there| (there.dev(), there.ino()));
    let name = |path| Place::of(path).ok().flatten().and_then(|place| place.identity());
    inode(path).is_some_and(|inode_of| inode(other) == Some(inode_of))
        || name(path).is_some_and(|name_of| name(other) == Some(name_of))
}

/// Whether this is what stdout goes to.
fn is_stdout(there: &Metadata) -> bool {
    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(|stdout| File::from(stdout).metadata());
    stdout.is_ok_and(|stdout| (stdout.dev(), stdout.ino()) == (there.dev(), there.ino()))
}

/// Writes all of it.
fn pour(file: &File, content: &impl Content) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    content(&mut file)?;
    file.flush()
}

/// Writes over what is in a file, once the disk has promised the room.
fn overwrite(file: &File, content: &impl Content) -> io::Result<()> {
    let mut length = Length(0);
    content(&mut length)?;
    let before = file.metadata()?.len();
    reserve(file, length.0).inspect_err(|_| drop(file.set_len(before)))?;
    (&*file).rewind()?;
    pour(file, content)?;
    file.set_len(length.0)?;
    file.sync_all()
}

/// Has the disk promise room for so many bytes from the beginning of a file.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if length > 0 {
        let length = i64::try_from(length).map_err(|_| ErrorKind::FileTooLarge)?;
        nix::fcntl::posix_fallocate(file, 0, length)?;
    }
    Ok(())
}

/// Counts the bytes, and keeps none.
struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
