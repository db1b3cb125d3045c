//! A file in which a sheet stands, whole at every moment: whatever ends us, it holds a complete grade.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{self, Path, PathBuf},
};

use super::{Form, Sheet};
use crate::pipe;

/// A file, and the form in which a sheet stands in it.
#[derive(Debug)]
pub struct GradeFile {
    form: &'static Form,
    path: PathBuf,
    /// What stood there before, and stays.
    before: String,
}

impl GradeFile {
    /// A file for a form; it need not be there yet.
    ///
    /// # Errors
    /// A sentence for the user, where what is to stay in it cannot be read.
    pub fn open(form: &'static Form, path: &Path) -> Result<Self, String> {
        let path = fs::canonicalize(path)
            .or_else(|_| path::absolute(path))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let mut before = String::new();
        if form.is_appended && path.is_file() {
            before = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            if !before.is_empty() && !before.ends_with('\n') {
                before.push('\n');
            }
        }
        Ok(Self { form, path, before })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the sheet in the place of what it was.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn write(&self, sheet: &Sheet) -> Result<(), String> {
        let text = format!("{}{}", self.before, (self.form.write)(sheet));
        self.replace(&text).map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        if self.path.exists() && !self.path.is_file() {
            // A pipe or a device, which no file can take the place of.
            return pipe::open(File::options().write(true), &self.path)?.write_all(text.as_bytes());
        }
        let mut beside = self.path.clone().into_os_string();
        beside.push(".part");
        let replaced = fs::write(&beside, text).and_then(|()| fs::rename(&beside, &self.path));
        replaced.inspect_err(|_| {
            let _ = fs::remove_file(&beside); // on a full disk a part of it may be there
        })
    }
}
