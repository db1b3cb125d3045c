//! The examiner: which of the classic bugs an echo server has, whoever wrote it, and by what that was seen.
//!
//! THE TABLE is [`CHECKS`]. Each row is a bug, a stimulus that provokes it, and a function that says what came of it; the
//! rows of one family are one file. `exam` is what such a function is lent, `client` and `peer` talk to the server,
//! `examinee` is the server, `target` says where that comes from, `examiner` goes through the table, `calibration`
//! asks how slow this machine is just now.

mod calibration;
mod client;
mod crowd;
mod exam;
pub mod examinee;
pub mod examiner;
mod peer;
pub mod target;
pub mod words;

mod accepting;
mod conversation;
mod datagrams;
mod ending;
mod leaks;
mod neighbours;
mod opening;
mod rest;
mod rudeness;
mod shortage;
mod signals;
mod workers;

use std::time::Duration;

use arguments::Transport;

use exam::{Exam, Examined};
use words::Words;

/// A bug, and how it is looked for.
#[derive(Debug)]
pub struct Check {
    /// What it is called on a command line, in a rubric and in results.
    pub id: &'static str,
    /// Over what the server is asked.
    pub transport: Transport,
    /// What has to be at hand.
    pub needs: Needs,
    /// What it is worth, unless a rubric says otherwise.
    pub points: f64,
    /// Whether the quick profile has it.
    pub is_quick: bool,
    /// Whether a server that serves one client after the other has this bug by its nature.
    pub is_iteratives: bool,
    /// How long it may take in all, on a machine that is not slow.
    pub limit: Duration,
    /// What is right, as a short sentence.
    pub title: Words,
    /// What is done to the server.
    pub done: Words,
    /// Where to look for the bug.
    pub hint: Words,
    /// What the bug is, how it is provoked, what to read; Markdown.
    pub explanation: Words,
    /// Looks for it.
    pub look: fn(&Exam<'_>) -> Examined,
}

/// What has to be at hand for a check. Each needs what those before it need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// An address.
    BlackBox,
    /// The server's process, which /proc tells of.
    Pid,
    /// That we start the server.
    Spawned,
    /// The rights of root, or of ptrace(2).
    Root,
}

impl Needs {
    /// The letter of the list.
    pub fn letter(self) -> &'static str {
        match self {
            Self::BlackBox => "B",
            Self::Pid => "P",
            Self::Spawned => "S",
            Self::Root => "R",
        }
    }
}

/// The text that `check explain` prints.
macro_rules! explanation {
    ($id:literal) => {
        $crate::check::words::Words::of(
            include_str!(concat!("explanations/en/", $id, ".md")),
            include_str!(concat!("explanations/zh/", $id, ".md")),
        )
    };
}

use explanation;

/// Every check, in the order in which they are made.
pub static CHECKS: &[&Check] = &[
    &conversation::BYTES,
    &conversation::SEGMENTS,
    &conversation::PARTIAL_WRITE,
    &conversation::HALF_CLOSE,
    &conversation::EOF,
    &neighbours::INHERITED,
    &conversation::EDGE_TRIGGER,
    &neighbours::SILENT_CLIENT,
    &neighbours::STUCK_WRITER,
    &neighbours::BACKPRESSURE,
    &neighbours::CROSSTALK,
    &rudeness::RESET,
    &rudeness::SIGPIPE,
    &signals::EINTR,
    &leaks::ZOMBIES,
    &leaks::FD_LEAK,
    &leaks::THREAD_LEAK,
    &leaks::PROCESS_LEAK,
    &shortage::EMFILE_SPIN,
    &shortage::EMFILE_RECOVER,
    &shortage::FORK_REFUSED,
    &accepting::ACCEPT_ERROR,
    &rest::IDLE_CPU,
    &opening::BACKLOG,
    &opening::NAGLE,
    &ending::RESTART,
    &ending::DRAIN,
    &workers::WORKER_KILLED,
    &opening::DUAL_STACK,
    &datagrams::SIZES,
    &datagrams::EMPTY,
    &datagrams::ADDRESS,
    &datagrams::DEAD_CLIENT,
    &datagrams::CROSSTALK,
    &datagrams::REFLECT,
];

/// Those that say what is wrong with a server which does not even send two lines back; the others are not asked then.
pub static ELEMENTARY: &[&Check] =
    &[&conversation::BYTES, &conversation::SEGMENTS, &conversation::HALF_CLOSE, &conversation::EOF];

/// The check of that name.
///
/// # Errors
/// A sentence for the user, with the name that may have been meant.
pub fn named(id: &str) -> Result<&'static Check, String> {
    CHECKS.iter().copied().find(|check| check.id == id).ok_or_else(|| {
        let likeness = |check: &&Check| strsim::jaro_winkler(check.id, id);
        let alike = CHECKS.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let meant = alike.filter(|check| likeness(check) > 0.7).map(|check| format!(" {}?", check.id));
        format!("there is no check {id:?};{} check --list shows them", meant.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use unicode_width::UnicodeWidthStr;

    use super::*;

    /// The repository, whose files the explanations name.
    fn house() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    /// The explanations in one language, by the check's id.
    fn explanations(language: &str) -> BTreeMap<String, String> {
        let folder = house().join("client/src/check/explanations").join(language);
        let explanation = |path: &Path| {
            (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap())
        };
        fs::read_dir(folder).unwrap().map(|entry| explanation(&entry.unwrap().path())).collect()
    }

    /// All of them, each with its name.
    fn all() -> Vec<(String, String)> {
        let named = |language: &'static str| {
            explanations(language).into_iter().map(move |(id, text)| (format!("{language}/{id}"), text))
        };
        ["en", "zh"].into_iter().flat_map(named).collect()
    }

    /// What is to be read: the items of the list at the end.
    fn reading(text: &str) -> Vec<&str> {
        text.split("\n- ").skip(1).collect()
    }

    /// The files of this repository that a text names.
    fn files(text: &str) -> Vec<&str> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && !"/_-.".contains(c))
            .map(|word| word.trim_end_matches('.'))
            .filter(|word| ["server/src/", "client/src/", "examples/"].iter().any(|it| word.starts_with(it)))
            .collect()
    }

    #[test]
    fn every_check_is_explained_in_both_languages() {
        let [en, zh] = ["en", "zh"].map(explanations);
        assert!(en.keys().eq(zh.keys()), "{:?} and {:?}", en.keys(), zh.keys());
        assert_eq!(en.len(), CHECKS.len(), "one for each check, and none without: {:?}", en.keys());
        for Check { id, explanation, .. } in CHECKS {
            assert!(explanation.en.starts_with(&format!("# {id}: ")), "{id} in English");
            assert!(explanation.zh.starts_with(&format!("# {id}：")), "{id} in Chinese");
        }
    }

    #[test]
    fn every_explanation_has_a_diagram_and_something_to_read_and_fits_a_terminal() {
        for (name, text) in all() {
            assert!(text.contains("\n```text\n"), "{name} has no diagram");
            let is_page = |item: &str| (1..=8).any(|section| item.contains(&format!("({section})")));
            let is_source = |item: &&str| item.contains("RFC ") || is_page(item);
            assert!(reading(&text).iter().any(is_source), "{name} names no manual page and no RFC");
            for line in text.lines() {
                assert!(line.width() <= 80, "{name} is too wide: {line}");
            }
        }
    }

    #[test]
    fn what_an_explanation_points_to_is_there() {
        for (name, text) in all() {
            assert!(!files(&text).is_empty(), "{name} shows nobody who does it right");
            for item in reading(&text) {
                let open = |file: &&str| {
                    fs::read_to_string(house().join(file))
                        .unwrap_or_else(|error| panic!("{name}: {file}: {error}"))
                };
                let sources: Vec<String> = files(item).iter().map(open).collect();
                // `Connection::turn` in a file: at least its last word is there.
                let named = item.split('`').skip(1).step_by(2).filter_map(|code| code.rsplit("::").next());
                for word in named.filter(|_| !sources.is_empty()) {
                    let is_there = sources.iter().any(|source| source.contains(word));
                    assert!(is_there, "{name}: there is no {word} in {:?}", files(item));
                }
            }
        }
    }
}
