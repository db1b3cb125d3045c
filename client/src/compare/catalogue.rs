//! The catalogue of contenders that are not ours: a file of names, and how each is started.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

use arguments::Transport;
use serde::Deserialize;

use super::{
    contender::{Contender, Style, told_transport},
    plan::from_toml,
};

/// Where the suite's own is, below the folder in which it is worked on.
const IN_THE_TREE: &str = "examples/contenders/contenders.toml";
/// Where `make install` puts it, seen from the program.
const INSTALLED: &str = "../share/echo-suite/contenders/contenders.toml";

/// The servers that a catalogue names. By default it names none.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Where their commands are run.
    folder: PathBuf,
    /// Where what is built for them is.
    built: PathBuf,
    entries: Vec<Entry>,
    /// Of whom it was said that they are not there: a set may be asked for again and again.
    skipped: RefCell<BTreeSet<String>>,
}

/// The set of all.
const ALL: &str = "languages";

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    built: PathBuf,
    #[serde(rename = "contender")]
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    language: String,
    style: Style,
    built_with: Option<String>,
    command: String,
}

impl Catalogue {
    /// Reads the one that was told; unless told, the suite's, in the tree or where it was installed. Where there is
    /// none, it names nobody.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn find(told: Option<&Path>) -> Result<Self, String> {
        if let Some(file) = told {
            return Self::read(file);
        }
        let beside = env::current_exe().ok().and_then(|me| Some(me.parent()?.join(INSTALLED)));
        let usual =
            [Some(PathBuf::from(IN_THE_TREE)), beside].into_iter().flatten().find(|file| file.exists());
        usual.map_or_else(|| Ok(Self::default()), |file| Self::read(&file))
    }

    fn read(file: &Path) -> Result<Self, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let Written { built, entries } = from_toml(file)?;
        let whole = file.canonicalize().map_err(|error| named(&error))?;
        let folder = whole.parent().map(Path::to_owned).unwrap_or_default();
        let catalogue = Self { built: folder.join(built), folder, entries, skipped: RefCell::default() };
        match catalogue.entries.iter().find(|entry| !entry.command.contains("{port}")) {
            Some(entry) => Err(named(&format!("{}: there is no {{port}} in its command", entry.name))),
            None => Ok(catalogue),
        }
    }

    /// Those that `who` means: one by its name; `languages`, all that serve what they are told, or `usual`; or those of
    /// one language (`cpython`). A set leaves out who is not there, with a word of warning. The options are for their
    /// programs. `None` where nobody here is meant.
    ///
    /// # Errors
    /// A sentence for the user: who is not there.
    pub fn contenders(
        &self,
        who: &str,
        told: Option<Transport>,
        usual: Transport,
        options: &[&str],
    ) -> Option<Result<Vec<Contender>, String>> {
        if let Some(entry) = self.entries.iter().find(|entry| entry.who() == who) {
            return Some(self.one(entry, told, options).map(|contender| vec![contender]));
        }
        let is_meant = |entry: &&Entry| who == ALL || entry.is_of(who);
        let meant: Vec<&Entry> = self.entries.iter().filter(is_meant).collect();
        (!meant.is_empty()).then(|| self.set(who, &meant, told.unwrap_or(usual), options))
    }

    /// What can be asked for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let all = (!self.entries.is_empty()).then_some(ALL);
        self.entries.iter().map(Entry::who).chain(all)
    }

    fn one(&self, entry: &Entry, told: Option<Transport>, options: &[&str]) -> Result<Contender, String> {
        let who = entry.who();
        if let Some(other) = told.filter(|&transport| transport != entry.transport()) {
            return Err(format!("{who} does not serve {other}"));
        }
        match self.why_not(entry) {
            Some(why) => Err(format!("{who} cannot take part: {why}")),
            None => Ok(self.contender(entry, options)),
        }
    }

    fn set(
        &self,
        who: &str,
        meant: &[&Entry],
        over: Transport,
        options: &[&str],
    ) -> Result<Vec<Contender>, String> {
        let mut there = Vec::new();
        for entry in meant.iter().filter(|entry| entry.transport() == over) {
            match self.why_not(entry) {
                Some(why) if self.skipped.borrow_mut().insert(entry.name.clone()) => {
                    log::warn!("{}: skipped, {why}", entry.who());
                }
                Some(_) => {}
                None => there.push(self.contender(entry, options)),
            }
        }
        match there.is_empty() {
            true => Err(format!("{who}: nobody is there who serves {over}; --contenders FILE names others")),
            false => Ok(there),
        }
    }

    fn contender(&self, entry: &Entry, options: &[&str]) -> Contender {
        let words = entry.command.split_whitespace().map(|word| self.place(word));
        let words = words.chain(options.iter().map(|&word| word.into())).collect();
        Contender::of_program(&entry.name, words).known(entry.style, &entry.language, &self.folder, options)
    }

    /// A word of a command, with where built programs are.
    fn place(&self, word: &str) -> String {
        word.replace("{built}", &self.built.to_string_lossy())
    }

    /// Why it cannot be started: its command's first word is not there.
    fn why_not(&self, entry: &Entry) -> Option<String> {
        let program = self.place(entry.command.split_whitespace().next().unwrap_or_default());
        if program.contains('/') {
            let with =
                entry.built_with.as_ref().map(|tool| format!(", which needs {tool}")).unwrap_or_default();
            return (!self.folder.join(program).is_file())
                .then(|| format!("it is not built; `make contenders` does that{with}"));
        }
        let folders = env::var_os("PATH").unwrap_or_default();
        let is_there = env::split_paths(&folders).any(|folder| folder.join(&program).is_file());
        (!is_there).then(|| format!("there is no {program}"))
    }
}

impl Entry {
    /// Its name, without what it serves.
    fn who(&self) -> &str {
        told_transport(&self.name).0
    }

    fn transport(&self) -> Transport {
        told_transport(&self.name).1.unwrap_or(Transport::Tcp)
    }

    /// Whether it is written in this language, whose name is in small letters.
    fn is_of(&self, language: &str) -> bool {
        self.language.to_lowercase() == language
    }
}
