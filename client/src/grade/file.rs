//! A file in which a sheet stands, whole at every moment: whatever ends us, it holds a complete grade.

use std::{fs, io::Write, path::Path};

use files::Output;

use super::{Form, Sheet};

/// A file, and the form in which a sheet stands in it.
#[derive(Debug)]
pub struct GradeFile {
    form: &'static Form,
    output: Output,
    /// What stood there before, and stays.
    before: String,
}

impl GradeFile {
    /// A file for a form; it need not be there yet.
    ///
    /// # Errors
    /// A sentence for the user, where what is to stay in it cannot be read.
    pub fn open(form: &'static Form, path: &Path) -> Result<Self, String> {
        let output = Output::open(path).map_err(|error| error.to_string())?;
        let mut before = String::new();
        if form.is_appended && path.is_file() {
            before = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            if !before.is_empty() && !before.ends_with('\n') {
                before.push('\n');
            }
        }
        Ok(Self { form, output, before })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.output.path()
    }

    /// Writes the sheet in the place of what it was.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn write(&self, sheet: &Sheet) -> Result<(), String> {
        let text = format!("{}{}", self.before, (self.form.write)(sheet));
        let write = |file: &mut dyn Write| file.write_all(text.as_bytes());
        self.output.write(write).map_err(|error| error.to_string())
    }
}
