//! What checks are worth, and the forms in which that is told: to people, to programs, to the systems of courses.
//!
//! A [`Sheet`] is all of it, from the start: checks that are still to be made are on it, with nothing earned. So whenever
//! it is written, and whatever ends the examination, it is a complete grade. Each form is a file with a function
//! of the sheet ([`FORMS`]). What a server says of itself stands on the sheet as `printable` leaves it.

mod autolab;
mod classroom;
pub mod file;
mod gradescope;
mod json;
mod junit;
pub mod people;
mod prairielearn;
mod printable;
pub mod rubric;
mod tap;

use std::time::Duration;

use serde_json::{Value, json};

use crate::check::{
    Check,
    examiner::{Record, Status},
    words::{Language, Words},
};
use printable::{printable, printable_value};
use rubric::{Marks, Visibility};

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
    /// A check that has not been made.
    pub fn new(check: &'static Check, marks: Marks) -> Self {
        Self { check, marks, record: None }
    }

    /// Keeps what came of it.
    pub fn enter(&mut self, record: Record) {
        let shown = |words: Words| Words { en: printable(&words.en).into(), zh: printable(&words.zh).into() };
        let (finding, at_first) = (shown(record.finding), record.at_first.map(shown));
        let evidence =
            record.evidence.into_iter().map(|(name, value)| (name, printable_value(value))).collect();
        self.record = Some(Record { finding, at_first, evidence, ..record });
    }

    /// What came of it, once that is known.
    pub fn status(&self) -> Option<Status> {
        self.record.as_ref().map(|record| record.status)
    }

    /// That as programs read it: what has not been made is skipped so far.
    pub fn status_name(&self) -> Value {
        json!(self.status().unwrap_or(Status::Skip))
    }

    /// Whether it counts: what could not be made, what failed as expected, and what the examiner failed at, is
    /// neither earned nor missed. What the server itself stood in the way of is missed, and what has not been made yet:
    /// else a server would be asked for less because it hangs, dies or fails at something simpler, and to mend
    /// it could cost points.
    pub fn counts(&self) -> bool {
        !matches!(self.status(), Some(Status::Skip | Status::ExpectedFailure | Status::Error))
    }

    /// Whether students see it at once.
    pub fn is_visible(&self) -> bool {
        self.marks.visibility == Visibility::Visible
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
            Language::En => "not run: the examination ended before it",
            Language::Zh => "未执行：还没轮到它，检查就结束了",
        };
        self.record.as_ref().map_or(pending, |record| record.finding.told(language))
    }

    /// Its name and its title, as one line.
    pub fn heading(&self, language: Language) -> String {
        format!("{}: {}", self.check.id, self.title(language))
    }

    /// The same for everybody to read: of a check that students do not see, only that there is one.
    pub fn public_heading(&self, language: Language) -> String {
        let hidden = match language {
            Language::En => "a hidden check",
            Language::Zh => "一项隐藏的检查",
        };
        if self.is_visible() { self.heading(language) } else { hidden.to_owned() }
    }

    /// All that is to be said of it, for a system that shows one text: what was seen, and of a failure what was done,
    /// the evidence, and where to look.
    pub fn told(&self, language: Language) -> String {
        let finding = self.finding(language);
        let is_plain =
            |record: &&Record| matches!(record.status, Status::Pass | Status::Skip | Status::Unjudged);
        let Some(record) = self.record.as_ref().filter(|record| !is_plain(record)) else {
            return finding.to_owned();
        };
        let [done, seen, look] = people::headings(language);
        let mut text = format!("{done}{}\n{seen}{finding}\n", self.check.done.told(language));
        for (name, value) in &record.evidence(language) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text += &format!("    {name}: {}\n", value.replace('\n', "\n        "));
        }
        text + &format!("{look}{}", self.check.hint.told(language))
    }
}

impl Sheet {
    /// A sheet of checks of which none has been made.
    pub fn new(title: &str, target: &str, seed: u64, language: Language, entries: Vec<Entry>) -> Self {
        Self { title: printable(title), target: printable(target), seed, language, entries }
    }

    /// What was earned.
    pub fn score(&self) -> f64 {
        self.entries.iter().map(Entry::points).sum()
    }

    /// What could be earned.
    pub fn max_score(&self) -> f64 {
        self.entries.iter().map(Entry::max_points).sum()
    }

    /// How long all of it took.
    pub fn duration(&self) -> Duration {
        self.entries.iter().map(Entry::duration).sum()
    }

    /// How many came out so.
    pub fn count(&self, status: Status) -> usize {
        self.entries.iter().filter(|entry| entry.status() == Some(status)).count()
    }

    /// The exit status: 0 where nothing failed, 1 where something did, or could not be judged or made in time, 3 where
    /// the examiner failed.
    pub fn exit_status(&self) -> u8 {
        let is_wrong = |entry: &Entry| matches!(entry.status(), Some(Status::Fail | Status::Unjudged) | None);
        if self.count(Status::Error) > 0 { 3 } else { u8::from(self.entries.iter().any(is_wrong)) }
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
    /// Whether it is a line of a file that others write to as well: what stood there stays, and this comes last.
    pub is_appended: bool,
}

/// Every form.
pub static FORMS: &[Form] = &[
    Form {
        name: "people",
        summary: "a table, and of each failure what was done, seen, and where to look",
        write: people::write,
        is_appended: false,
    },
    Form { name: "json", summary: "everything, for programs", write: json::write, is_appended: false },
    Form {
        name: "tap",
        summary: "the Test Anything Protocol, version 14",
        write: tap::write,
        is_appended: false,
    },
    Form {
        name: "junit",
        summary: "JUnit's XML, as Jenkins and GitLab read it",
        write: junit::write,
        is_appended: false,
    },
    Form {
        name: "gradescope",
        summary: "Gradescope's results.json",
        write: gradescope::write,
        is_appended: false,
    },
    Form {
        name: "classroom",
        summary: "a step's output for GitHub Classroom: classroom=$GITHUB_OUTPUT",
        write: classroom::write,
        is_appended: true,
    },
    Form {
        name: "autolab",
        summary: "for students to read, and Autolab's scores as the last line",
        write: autolab::write,
        is_appended: false,
    },
    Form {
        name: "prairielearn",
        summary: "PrairieLearn's results.json",
        write: prairielearn::write,
        is_appended: false,
    },
];
