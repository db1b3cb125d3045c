//! What `make install` puts beside the programs: manual pages and completions, made from what can be typed.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    stage::{ROOT, echo_client, echo_server, run},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    every_option_of_the_help_is_in_the_manual_and_completed_by_bash,
    what_is_generated_is_uninstalled,
    a_folder_that_cannot_be_written_is_answered_in_one_line,
];

fn programs() -> [(&'static str, &'static Path); 2] {
    [("echo-server", echo_server()), ("echo-client", echo_client())]
}

/// A prefix in which both programs have generated theirs.
fn prefix() -> tempfile::TempDir {
    let prefix = tempfile::tempdir().unwrap();
    for (_, program) in programs() {
        let said = run(program, &["generate", prefix.path().join("share").to_str().unwrap()]);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
    prefix
}

fn help(program: &Path, command: &[&str]) -> String {
    let said = run(program, &[command, &["--help"]].concat()).stdout;
    String::from_utf8(said).unwrap()
}

/// The subcommands that a help lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(Into::into).collect()
}

/// The long options in lines that define one.
fn long_options(text: &str) -> BTreeSet<String> {
    let definitions = text.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = definitions.filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")));
    words.map(Into::into).collect()
}

/// The page as its reader would define options: without the marks of bold, roman and italic.
fn plain(page: &Path) -> String {
    let page = fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    ["\\fB", "\\fR", "\\fI"].iter().fold(page.replace("\\-", "-"), |page, mark| page.replace(mark, ""))
}

/// What bash offers after these words and `--`.
fn completed(file: &Path, words: &[&str]) -> BTreeSet<String> {
    let script = r#"
        source "$1"; shift
        handler=$(complete -p "$1"); handler=${handler#*-F }
        COMP_WORDS=("$@" --); COMP_CWORD=$#
        ${handler%% *} "$1" -- "${!#}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut bash = Command::new("bash");
    let said = bash.args(["-c", script, "bash"]).arg(file).args(words).stderr(Stdio::inherit()).output();
    long_options(&String::from_utf8(said.unwrap().stdout).unwrap())
}

fn every_option_of_the_help_is_in_the_manual_and_completed_by_bash() {
    let prefix = prefix();
    let share = prefix.path().join("share");
    for (name, program) in programs() {
        let completions = share.join(format!("bash-completion/completions/{name}.bash"));
        let subcommands = commands(&help(program, &[]));
        assert!(!subcommands.is_empty());
        for command in [&[][..]].into_iter().chain(subcommands.chunks(1)) {
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            let words = [&[name], &command[..]].concat();
            let options = long_options(&help(program, &command));
            assert!(options.contains("--help"));
            let page = share.join(format!("man/man1/{}.1", words.join("-")));
            assert_eq!(long_options(&plain(&page)), options, "the manual page of {words:?}");
            assert_eq!(completed(&completions, &words), options, "the completions of {words:?}");
        }
    }
}

fn what_is_generated_is_uninstalled() {
    let prefix = prefix();
    let files = |folder: &str| fs::read_dir(prefix.path().join("share").join(folder)).unwrap().count();
    let folders =
        ["man/man1", "bash-completion/completions", "zsh/site-functions", "fish/vendor_completions.d"];
    assert_eq!(folders.map(files), [11, 2, 2, 2]);
    let mut make = Command::new("make");
    make.args(["-s", "uninstall"]).arg(format!("PREFIX={}", prefix.path().display()));
    assert!(make.current_dir(ROOT).status().unwrap().success());
    assert_eq!(folders.map(files), [0; 4]);
}

fn a_folder_that_cannot_be_written_is_answered_in_one_line() {
    for (name, program) in programs() {
        let said = run(program, &["generate", "/proc/no"]);
        let line = String::from_utf8_lossy(&said.stderr);
        assert!(line.starts_with(&format!("{name}: /proc/no: ")) && line.lines().count() == 1, "{line}");
        assert_eq!(said.status.code(), Some(2));
    }
}
