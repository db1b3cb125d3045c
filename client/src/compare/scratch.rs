//! Where contenders may write while their cells last: each into a folder of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// The folder, which is removed with all that is in it when this is dropped. There is one at a time.
pub struct Scratch;

static PLACE: Mutex<Option<PathBuf>> = Mutex::new(None);

impl Scratch {
    /// Makes it.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn at(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.into());
        Ok(Self)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove();
    }
}

/// Makes a folder in it for one contender, who tells where it cannot be made: it cannot write there.
pub fn folder_in(path: &Path) -> PathBuf {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let folder = path.join(MADE.fetch_add(1, Relaxed).to_string());
    let _ = fs::create_dir_all(&folder);
    folder
}

/// Removes it, if it is there: also the last act of an impatient end.
pub fn remove() {
    if let Some(path) = PLACE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = fs::remove_dir_all(path);
    }
}
