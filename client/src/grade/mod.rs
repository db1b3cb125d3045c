//! What checks are worth, and the forms in which that is told: to people, to programs, to the systems of courses.
//!
//! A [`Sheet`] is all of it, from the start: checks that are still to be made are on it, with nothing earned. So whenever
//! it is written, and whatever ends the examination, it is a complete grade. Each form is a file with a function
//! of the sheet ([`FORMS`]).

mod json;
pub mod people;
pub mod rubric;

use std::time::Duration;

use crate::check::{
    Check,
    examiner::{Record, Status},
    words::Language,
};
use rubric::Marks;

/// All that is told of an examination.
#[derive(Debug)]
pub struct Sheet {
    /// What a teacher calls it, or the target.
    pub title: String,
    /// What was examined.
    pub target: String,
    /// Of all that is random.
    pub seed: u64,
    /// In which language it is told.
    pub language: Language,
    /// The checks, in their order.
    pub entries: Vec<Entry>,
}

/// A check on the sheet.
#[derive(Debug)]
pub struct Entry {
    /// What is looked for.
    pub check: &'static Check,
    /// What it is worth, and to whom it is shown.
    pub marks: Marks,
    /// What came of it; `None` until it has been made.
    pub record: Option<Record>,
}

impl Entry {
    /// What came of it, once that is known.
    pub fn status(&self) -> Option<Status> {
        self.record.as_ref().map(|record| record.status)
    }

    /// Whether it counts: what could not be made, what failed as expected, and what the examiner failed at, is
    /// neither earned nor missed.
    pub fn counts(&self) -> bool {
        !matches!(self.status(), Some(Status::Skip | Status::ExpectedFailure | Status::Error))
    }

    /// What it could earn.
    pub fn max_points(&self) -> f64 {
        if self.counts() { self.marks.points } else { 0.0 }
    }

    /// What it earned.
    pub fn points(&self) -> f64 {
        match self.status() {
            Some(Status::Pass | Status::Warn) => self.marks.points,
            _ => 0.0,
        }
    }

    /// The bug's name in the sheet's language, what is right.
    pub fn title(&self, language: Language) -> &str {
        self.check.title.told(language)
    }

    /// How long it took.
    pub fn duration(&self) -> Duration {
        self.record.as_ref().map_or(Duration::ZERO, |record| record.duration)
    }

    /// What was found, in a sentence.
    pub fn finding(&self, language: Language) -> &str {
        let pending = match language {
            Language::En => "not run: the time was out before it",
            Language::Zh => "未执行：在此之前时间已用完",
        };
        self.record.as_ref().map_or(pending, |record| record.finding.told(language))
    }

    /// All that is to be said of it, for a system that shows one text: what was seen, and of a failure what was done,
    /// the evidence, and where to look.
    pub fn told(&self, language: Language) -> String {
        let finding = self.finding(language);
        let Some(record) = self.record.as_ref().filter(|record| record.status != Status::Pass) else {
            return finding.to_owned();
        };
        if record.status == Status::Skip {
            return finding.to_owned();
        }
        let [done, seen, look] = people::headings(language);
        let mut text = format!("{done}{}\n{seen}{finding}\n", self.check.done.told(language));
        for (name, value) in &record.evidence {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text += &format!("    {name}: {}\n", value.replace('\n', "\n        "));
        }
        text + &format!("{look}{}", self.check.hint.told(language))
    }
}

impl Sheet {
    /// What was earned.
    pub fn score(&self) -> f64 {
        self.entries.iter().map(Entry::points).sum()
    }

    /// What could be earned.
    pub fn max_score(&self) -> f64 {
        self.entries.iter().map(Entry::max_points).sum()
    }

    /// How many came out so.
    pub fn count(&self, status: Status) -> usize {
        self.entries.iter().filter(|entry| entry.status() == Some(status)).count()
    }

    /// The exit status: 0 where nothing failed, 1 where something did or was not made in time, 3 where the examiner failed.
    pub fn exit_status(&self) -> u8 {
        let is_pending = self.entries.iter().any(|entry| entry.record.is_none());
        if self.count(Status::Error) > 0 { 3 } else { u8::from(self.count(Status::Fail) > 0 || is_pending) }
    }
}

/// A form in which a sheet is told.
#[derive(Debug)]
pub struct Form {
    /// What `--format` calls it.
    pub name: &'static str,
    /// What it is, for the help.
    pub summary: &'static str,
    /// The sheet in it, whole.
    pub write: fn(&Sheet) -> String,
}

/// Every form.
pub static FORMS: &[Form] = &[
    Form {
        name: "people",
        summary: "a table, and of each failure what was done, seen, and where to look",
        write: people::write,
    },
    Form { name: "json", summary: "everything, for programs", write: json::write },
];
