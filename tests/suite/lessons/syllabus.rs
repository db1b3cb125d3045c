//! What the syllabus says of the lessons is true, in both languages.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::{
    stage::{ROOT, echo_client, echo_server, run},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_lesson_says_what_a_lesson_says_and_is_not_longer_than_a_lesson,
    every_lesson_is_in_the_syllabus_and_its_predictions_are_answered_there,
    every_file_that_a_lesson_or_the_syllabus_names_is_there,
    every_concept_points_at_what_there_is,
    what_is_to_be_changed_in_a_lesson_is_what_the_lesson_fails,
];

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

fn read(page: &str) -> String {
    fs::read_to_string(Path::new(EXAMPLES).join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The lessons, by their names.
fn lessons() -> BTreeSet<String> {
    let files =
        fs::read_dir(EXAMPLES).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // What has no number is a learner's own.
    let numbered = files.filter(|file| file.starts_with(|c: char| c.is_ascii_digit()));
    numbered.filter_map(|file| Some(file.strip_suffix(".rs")?.to_owned())).collect()
}

/// What stands between two marks, each time.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Vec<&'t str> {
    text.split(open).skip(1).filter_map(|rest| rest.split(close).next()).collect()
}

fn a_lesson_says_what_a_lesson_says_and_is_not_longer_than_a_lesson() {
    for name in lessons() {
        let text = read(&format!("{name}.rs"));
        let number = name[..2].parse::<usize>().unwrap();
        assert!(text.starts_with(&format!("//! Lesson {number}: ")), "{name}");
        for words in [
            "The idea: ",
            "Type, in two terminals:",
            "Predict before you run:",
            "Read next: ",
            "What breaks: ",
        ] {
            assert!(text.contains(&format!("\n//! {words}")), "{name} has no {words:?}");
        }
        assert!(
            text.contains(&format!("cargo run --example {name}"))
                || text.contains(&format!("--example {name}"))
        );
        let code = text.lines().filter(|line| !line.starts_with("//!")).count();
        assert!((30..=145).contains(&code), "{name} has {code} lines");
    }
}

fn every_lesson_is_in_the_syllabus_and_its_predictions_are_answered_there() {
    for page in ["README.md", "README.zh.md"] {
        let text = read(page);
        let listed: BTreeSet<String> = between(&text, "\n| [", "](").into_iter().map(str::to_owned).collect();
        assert!(listed.is_superset(&lessons()), "{page}: {:?}", lessons().difference(&listed));
        for name in lessons() {
            let answers = text.split(&format!("\n**{}.**", &name[..2])).nth(1);
            let answers = answers.unwrap_or_else(|| panic!("{page} does not answer {name}"));
            let answers = answers.split("\n**").next().unwrap().replace('\n', " ");
            assert!(
                ["1. ", "2. ", "3. "].iter().all(|n| answers.contains(n)),
                "{page} answers not all of {name}"
            );
        }
    }
}

fn every_file_that_a_lesson_or_the_syllabus_names_is_there() {
    let root = Path::new(ROOT);
    for page in ["README.md", "README.zh.md", "CONCEPTS.md", "CONCEPTS.zh.md", "../README.md"] {
        for link in between(&read(page), "](", ")") {
            let file = link.split('#').next().unwrap();
            let is_there = file.is_empty()
                || link.contains("://")
                || Path::new(EXAMPLES).join(page).parent().unwrap().join(file).exists();
            assert!(is_there, "{page} links to {link}");
        }
    }
    for name in lessons() {
        let text = read(&format!("{name}.rs"));
        for path in between(&text, "`", "`").into_iter().filter(|word| word.ends_with(".rs")) {
            assert!(root.join(path).exists(), "{name} names {path}");
        }
    }
}

/// The commands of ours on a page.
fn commands(page: &str) -> Vec<Vec<String>> {
    let text = read(page);
    let ours = between(&text, "`", "`").into_iter().filter(|code| code.starts_with("echo-"));
    ours.map(|command| command.split(' ').map(str::to_owned).collect()).collect()
}

fn every_concept_points_at_what_there_is() {
    for page in ["CONCEPTS.md", "CONCEPTS.zh.md"] {
        let text = read(page);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        assert_eq!(rows.len(), 19, "{page}");
        for row in rows {
            let cells: Vec<&str> = row.split('|').skip(1).collect();
            let pointed: Vec<&str> = between(cells[1], "[", "]");
            assert!(pointed.iter().all(|name| lessons().contains(*name)), "{row}");
            assert!(cells[2].contains("`echo-") || cells[2].contains("](../"), "{row}");
        }
        for command in commands(page) {
            is_understood(&command);
        }
    }
}

/// That the program knows each option, and what stands after it: by its `--help`, and where that does not start
/// anything, by doing it.
fn is_understood(command: &[String]) {
    let program = if command[0] == "echo-server" { echo_server() } else { echo_client() };
    let subcommand: Vec<&str> =
        command[1..].iter().take(1).filter(|word| !word.starts_with('-')).map(String::as_str).collect();
    let help = run(program, &[&subcommand[..], &["--help"]].concat());
    let help = String::from_utf8(help.stdout).unwrap();
    for option in command.iter().filter(|word| word.starts_with("--")) {
        assert!(help.contains(option.as_str()), "{command:?}: no {option}");
    }
    if let Some(models) = command.iter().position(|word| word == "--models") {
        // An unknown name is refused before anything is started; so is what cannot be measured.
        let folder = tempfile::tempdir().unwrap();
        let mut compare = Command::new(program);
        compare
            .args(["compare", "--plan", "/dev/null", "--models", &command[models + 1]])
            .current_dir(folder.path());
        let told = String::from_utf8(compare.output().unwrap().stderr).unwrap();
        assert!(!told.contains("unknown"), "{command:?}: {told}");
    }
    if command.get(1).map(String::as_str) == Some("check") {
        let args: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        assert!(run(program, &args).status.success(), "{command:?}");
    }
}

fn what_is_to_be_changed_in_a_lesson_is_what_the_lesson_fails() {
    for page in ["README.md", "README.zh.md"] {
        let text = read(page);
        let changes: Vec<&str> = text.lines().filter(|line| line.contains("| `--only ")).collect();
        assert!(changes.len() >= 7, "{page}: {changes:?}");
        for change in changes {
            let lesson = change[2..].split(':').next().unwrap();
            let fails = text.lines().find(|line| line.starts_with(&format!("| {lesson} |")));
            let fails = between(fails.unwrap_or_else(|| panic!("{page}: {change}")), "`", "`");
            let named: Vec<&str> = between(change, "--only ", "`")[0].split(',').collect();
            assert!(named.iter().all(|id| fails.contains(id)), "{page}: {change}, but it fails {fails:?}");
        }
    }
}
