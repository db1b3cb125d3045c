//! Where a file is, or is to be, and how another takes its place.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError},
    io::{self, ErrorKind},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};

use nix::libc::{ELOOP, O_NOFOLLOW, O_NONBLOCK};
use tempfile::{NamedTempFile, TempPath};

use crate::{Content, overwrite, pour};

/// How many symbolic links are followed, as by the kernel (path_resolution(7)).
const LINKS: usize = 40;

/// A name in a folder, which no symbolic link is.
pub struct Place {
    folder: PathBuf,
    name: OsString,
    /// The file that is there.
    there: Option<Metadata>,
}

/// What is to take a place: a file beside it, which is removed where it does not come to that.
pub struct Draft {
    file: NamedTempFile,
    path: PathBuf,
}

impl Place {
    /// Where a path leads, through all symbolic links. `None`: to a device, a pipe, a socket or a descriptor.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        // The kernel follows the links first: it refuses those that others laid into /tmp (proc_sys_fs(5),
        // protected_symlinks).
        let there = match fs::metadata(path) {
            Ok(there) if there.is_dir() => return Err(io::Error::other("what is there is no file")),
            Ok(there) if !there.is_file() => return Ok(None),
            Ok(there) => Some(there),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut path = path.to_owned();
        for _ in 0..=LINKS {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")))?;
            if folder.starts_with("/proc") {
                return Ok(None); // a descriptor, which reads as a link to what it was opened as
            }
            let name = name(&path)?.to_owned();
            match fs::read_link(folder.join(&name)) {
                Ok(target) => path = folder.join(target),
                Err(_) => return Ok(Some(Self { folder, name, there })), // no link, or nothing
            }
        }
        Err(io::Error::from_raw_os_error(ELOOP))
    }

    /// The same, of what may only be a file.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        Self::of(path)?.ok_or_else(|| io::Error::other("what is there is no file"))
    }

    /// The file that is there.
    pub fn there(&self) -> Option<&Metadata> {
        self.there.as_ref()
    }

    /// The same for every path that leads here.
    pub fn identity(self) -> Option<(u64, u64, OsString)> {
        fs::metadata(&self.folder).ok().map(|folder| (folder.dev(), folder.ino(), self.name))
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Writes what is to be there, in place of what is.
    pub fn replace(&self, content: &impl Content) -> io::Result<()> {
        match (self.old()?, self.draft().and_then(|draft| draft.fill(content))) {
            (Some(old), Err(error)) if is_of_the_place(&error) => overwrite(&old, content),
            (_, replaced) => replaced,
        }
    }

    /// Whether it could be replaced now. Nothing is.
    pub fn can_be_replaced(&self) -> io::Result<()> {
        match (self.old()?, self.draft()) {
            (Some(_), Err(error)) if is_of_the_place(&error) => Ok(()), // it will be overwritten
            (_, Err(error)) if error.kind() == ErrorKind::WouldBlock => Ok(()), // who is about to end writes it now
            (_, draft) => draft.map(drop),
        }
    }

    /// What is there, to be written to: a file that may not be is not replaced either.
    fn old(&self) -> io::Result<Option<File>> {
        self.there.as_ref().map(|_| File::options().write(true).open(self.path())).transpose()
    }

    /// An empty file beside this one, with its owner, group and permissions.
    pub fn draft(&self) -> io::Result<Draft> {
        let name: OsString = [OsStr::new("."), &self.name, OsStr::new(".new")].into_iter().collect();
        let path = self.folder.join(name);
        if let Ok(left) = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(&path) {
            lock(&left)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Until it has the old one's owner and permissions nobody else may look into it.
        let mode = if self.there.is_some() { 0o600 } else { 0o666 };
        let file = OpenOptions::new().write(true).read(true).create_new(true).mode(mode).open(&path)?;
        let draft = NamedTempFile::from_parts(file, TempPath::try_from_path(path)?);
        lock(draft.as_file())?;
        if let Some(there) = &self.there {
            take_after(draft.as_file(), there)?;
        }
        Ok(Draft { file: draft, path: self.path() })
    }
}

impl Draft {
    /// The file.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Writes it, to the disk, and gives it the place.
    fn fill(self, content: &impl Content) -> io::Result<()> {
        pour(self.file(), content)?;
        self.file().sync_all()?;
        let path = self.path.clone();
        self.persist()?;
        // It is there, whole; what can be lost now, with the power, is that it took the other's place.
        let folder = path.parent().unwrap_or(Path::new("/"));
        if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
            log::warn!("{}: may be the one before after a power cut: {error}", path.display());
        }
        Ok(())
    }

    /// Gives it the place.
    pub fn persist(self) -> io::Result<File> {
        Ok(self.file.persist(self.path)?)
    }
}

/// Whether all that is refused is another file in the place of one: the folder is not ours, or the file in a folder with
/// the sticky bit (EACCES, EPERM, EROFS; inode(7)), or it is a mount point (EBUSY).
pub fn is_of_the_place(error: &io::Error) -> bool {
    use ErrorKind::{PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | ResourceBusy)
}

/// The name of a file that a path ends in: not that of `name/`.
fn name(path: &Path) -> io::Result<&OsStr> {
    let last = path.as_os_str().as_bytes().rsplit(|&byte| byte == b'/').next();
    let name = path.file_name().filter(|name| Some(name.as_bytes()) == last);
    name.ok_or_else(|| io::Error::other("it names no file"))
}

/// Gives a new file the owner, the group and the permissions of an old one. Only root may give a file away (chown(2));
/// where the group is another's too, it gets what everybody else had.
fn take_after(file: &File, old: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    let mut mode = old.mode() & 0o777;
    if (new.uid(), new.gid()) != (old.uid(), old.gid())
        && fchown(file, Some(old.uid()), Some(old.gid())).is_err()
        && new.gid() != old.gid()
        && fchown(file, None, Some(old.gid())).is_err()
    {
        mode = mode & !0o070 | (mode & 0o007) << 3;
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// Locks a file for as long as it is open, or says that another has done so. Where locks are not known, nobody has.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}
