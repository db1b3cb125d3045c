//! The file that the groups are written to: replaced whole or not at all, also where the writer is killed or the power
//! fails.
//!
//! What is new is written beside it, to `.NAME.new`, and gets its name when it lies on the disk (rename(2), fsync(2)).
//! Who writes holds a lock on it (flock(2)): what is not locked was left by one who was killed, and is removed by the
//! next.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, ErrorKind, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use tempfile::{NamedTempFile, TempPath};

use super::Groups;

impl Groups {
    /// Writes the file at `path`, in place of what was there: whole or not at all.
    ///
    /// # Errors
    /// A sentence for the user, where the folder cannot be written to or the disk is full. What was there stays.
    pub fn write_whole(&self, path: &Path) -> Result<(), String> {
        self.replace(path).map_err(|error| refused(path, &error))
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let place = Place::of(path)?;
        let draft = place.draft()?;
        let mut text = BufWriter::new(draft.as_file());
        serde_json::to_writer(&mut text, self)?;
        text.write_all(b"\n")?;
        text.flush()?;
        draft.as_file().sync_all()?;
        drop(text);
        draft.persist(path)?;
        // It is there, whole; what can be lost now, with the power, is that it took the other's place.
        if let Err(error) = File::open(place.folder).and_then(|folder| folder.sync_all()) {
            log::warn!("{}: may be the one before after a power cut: {error}", path.display());
        }
        Ok(())
    }
}

/// Whether groups could be written to `path` now. Nothing is.
///
/// # Errors
/// A sentence for the user, where they could not.
pub fn can_be_written(path: &Path) -> Result<(), String> {
    let draft = Place::of(path).and_then(|place| place.may_be_taken().and_then(|()| place.draft()));
    match draft {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()), // one that is about to end does it now
        draft => draft.map(drop).map_err(|error| refused(path, &error)),
    }
}

/// Whether two paths are of one name in one folder, so that what is written to one replaces the other.
pub fn are_one(path: &Path, other: &Path) -> bool {
    let at = |path| {
        let place = Place::of(path).ok()?;
        let folder = fs::metadata(place.folder).ok()?;
        Some((folder.dev(), folder.ino(), place.name))
    };
    at(path).is_some_and(|place| at(other) == Some(place))
}

fn refused(path: &Path, error: &io::Error) -> String {
    let what = match error.kind() {
        ErrorKind::NotFound => "its folder does not exist".into(),
        ErrorKind::WouldBlock => "another server writes it now".into(),
        _ => error.to_string(),
    };
    format!("{}: {what}; choose a file in a folder that can be written to and has room", path.display())
}

/// Where a file is, or is to be.
struct Place<'a> {
    path: &'a Path,
    folder: &'a Path,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    fn of(path: &'a Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(io::Error::other("what is there is no file"));
        }
        let last = path.as_os_str().as_bytes().rsplit(|&byte| byte == b'/').next();
        let name = path.file_name().filter(|name| Some(name.as_bytes()) == last); // not that of `name/`
        let name = name.ok_or_else(|| io::Error::other("it names no file"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { path, folder, name })
    }

    /// Whether what is there may be replaced: in a folder with the sticky bit, another's file may not (inode(7)).
    ///
    /// The kernel is asked to remove a folder of that name. It looks first whether that is allowed, and then refuses,
    /// because it is none (rmdir(2): EPERM, ENOTDIR).
    fn may_be_taken(&self) -> io::Result<()> {
        match self.path.is_file().then(|| fs::remove_dir(self.path)) {
            Some(Err(error)) if error.kind() == ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        }
    }

    /// A file that can take the place of what is there, which everybody may read; it is removed when this is dropped.
    fn draft(&self) -> io::Result<NamedTempFile> {
        let path = self.draft_path();
        if let Ok(left) = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(&path) {
            lock(&left)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        lock(&file)?;
        Ok(NamedTempFile::from_parts(file, TempPath::try_from_path(path)?))
    }

    fn draft_path(&self) -> PathBuf {
        let name: OsString = [OsStr::new("."), self.name, OsStr::new(".new")].into_iter().collect();
        self.folder.join(name)
    }
}

/// Locks a file for as long as it is open, or says that another has done so. Where locks are not known, nobody has.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{super::Bounds, *};

    fn nothing() -> Groups {
        Groups::new(Bounds::default())
    }

    const NOTHING: &str = "{\"clients\":[],\"dropped\":{}}\n";

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("groups.json");
        fs::write(&path, "what was there").unwrap();
        can_be_written(&path).unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), files(folder.path())),
            ("what was there", 1)
        );
        nothing().write_whole(&path).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), files(folder.path())), (NOTHING, 1));
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("groups.json");
        let killed = || {
            let draft = Place::of(&path).unwrap().draft().unwrap();
            let (_file, mut name) = draft.into_parts();
            name.disable_cleanup(true); // and the kernel closes the file
        };
        killed();
        assert_eq!(files(folder.path()), 1);
        killed();
        assert_eq!(files(folder.path()), 1, "there is never more than one");
        can_be_written(&path).unwrap();
        assert_eq!(files(folder.path()), 0);
        killed();
        nothing().write_whole(&path).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), files(folder.path())), (NOTHING, 1));
    }

    #[test]
    fn what_somebody_writes_now_is_nobody_elses_to_remove() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("groups.json");
        let writer = Place::of(&path).unwrap().draft().unwrap();
        can_be_written(&path).unwrap();
        let sentence = nothing().write_whole(&path).unwrap_err();
        assert!(sentence.contains("another server writes it now; choose"), "{sentence}");
        writer.persist(&path).unwrap();
        nothing().write_whole(&path).unwrap();
        assert_eq!(files(folder.path()), 1);
    }

    #[test]
    fn what_cannot_be_written_is_a_sentence_and_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("nowhere/groups.json");
        let sentence = nothing().write_whole(&nowhere).unwrap_err();
        assert!(sentence.starts_with(&format!("{}: its folder does not", nowhere.display())), "{sentence}");
        assert!(sentence.contains("; choose"), "{sentence}");
        assert!(nothing().write_whole(folder.path()).unwrap_err().contains("what is there is no file"));
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn whoever_reads_the_file_need_not_be_who_runs_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("groups.json");
        nothing().write_whole(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o600, 0o600);
        // As the process's mask has it, like any file that it makes.
        let other = folder.path().join("other");
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(&other).unwrap();
        assert_eq!(mode, fs::metadata(&other).unwrap().permissions().mode());
    }
}
