//! The catalogue: contenders that are not ours take part by their names, and whoever is missing is said to be.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::{
    stage::{ROOT, echo_client, echo_server},
    suite::{
        Promise,
        compare::{has_run, is_sound},
        contenders::Known,
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    every_contender_of_the_catalogue_that_is_there_takes_part_beside_our_models,
    who_is_missing_is_left_out_of_a_set_with_a_word_and_refused_by_its_name,
    a_contender_is_given_its_work_and_its_workers_and_a_folder_that_is_gone_afterwards,
    a_catalogue_that_is_wrong_is_refused_by_its_name,
];

/// Compares in short, in the folder of the suite, where its catalogue is found.
fn compare(results: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(echo_client());
    command.current_dir(ROOT).stdin(Stdio::null());
    command.args(["compare", "--blocks", "1", "--duration", "150ms", "--warmup", "50ms", "-c", "2"]);
    command.arg("--results").arg(results).arg("--server").arg(echo_server()).args(more);
    command.output().unwrap()
}

fn cells(results: &Path) -> Vec<Value> {
    let text = fs::read_to_string(results.join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    results["cells"].as_array().unwrap().clone()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A catalogue with somebody who is there, in Python, and two who are not; and a script that keeps what it was
/// given before it serves.
fn catalogue(folder: &Path) -> PathBuf {
    let contenders = Path::new(ROOT).join("examples/contenders");
    let script = format!(
        "import os, sys\n\
         open('given', 'a').write(' '.join(sys.argv[2:]) + '\\n')\n\
         open(os.path.join(sys.argv[4], 'a file'), 'x').close()\n\
         os.execvp('python3', ['python3', '{}/python-threads.py', sys.argv[1]])\n",
        contenders.display()
    );
    fs::write(folder.join("keeps.py"), script).unwrap();
    let catalogue = "built = 'built'\n\
        [[contender]]\nname = 'keeps'\nlanguage = 'Tongue'\nstyle = 'threads'\n\
        command = 'python3 keeps.py {port} {workers} {work} {scratch}'\n\
        [[contender]]\nname = 'ghost'\nlanguage = 'Tongue'\nstyle = 'one loop'\n\
        command = 'no-such-program {port}'\n\
        [[contender]]\nname = 'plan'\nlanguage = 'Tongue'\nstyle = 'loops'\nbuilt_with = 'patience'\n\
        command = '{built}/plan {port}'\n";
    let file = folder.join("catalogue.toml");
    fs::write(&file, catalogue).unwrap();
    file
}

fn every_contender_of_the_catalogue_that_is_there_takes_part_beside_our_models() {
    let folder = tempfile::tempdir().unwrap();
    // They are built first, where that is to be done.
    let mut expected: BTreeMap<String, String> =
        Known::that_are_there().into_iter().map(|known| (known.name, known.style)).collect();
    let output = compare(folder.path(), &["--models", "event-loop,languages"]);
    has_run(&output);
    let cells = cells(folder.path());
    expected.insert("event-loop".into(), "one loop".into());
    for cell in &cells {
        let name = cell["contender"].as_str().unwrap();
        is_sound(cell);
        assert_eq!(expected.remove(name).as_deref(), cell["style"].as_str(), "{cell}");
    }
    assert!(expected.is_empty(), "they did not take part: {expected:?}");
}

fn who_is_missing_is_left_out_of_a_set_with_a_word_and_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = catalogue(folder.path());
    let with = |who: &str| {
        compare(&folder.path().join("results"), &["--contenders", file.to_str().unwrap(), "--models", who])
    };
    let output = with("tongue,event-loop");
    has_run(&output);
    let said = stderr(&output);
    assert!(said.contains("ghost: skipped, there is no no-such-program"), "{said}");
    assert!(said.contains("plan: skipped, it is not built") && said.contains("patience"), "{said}");
    let cells = cells(&folder.path().join("results"));
    let mut names: Vec<&str> = cells.iter().filter_map(|cell| cell["contender"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["event-loop", "keeps"]);

    for (who, why) in [
        ("ghost", "there is no no-such-program"),
        ("plan", "not built"),
        ("keeps@udp", "does not serve udp"),
        ("tongue@udp", "nobody is there who serves udp"),
        ("cpython", "fork, prefork"),
        ("nobody", "ghost"),
    ] {
        let output = with(who);
        assert_eq!(output.status.code(), Some(2), "{who}");
        let said = stderr(&output);
        assert!(said.lines().count() == 1 && said.contains(why), "{who}: {said}");
    }
}

fn a_contender_is_given_its_work_and_its_workers_and_a_folder_that_is_gone_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let file = catalogue(folder.path());
    let told = ["--contenders", file.to_str().unwrap(), "--work", "sleep:1ms", "--models"];
    let results = folder.path().join("results");
    for who in ["keeps", "keeps --workers 7"] {
        let output = compare(&results, &[&told[..], &[who]].concat());
        has_run(&output);
        assert_eq!(cells(&results)[0]["contender"], who);
    }
    let given = fs::read_to_string(folder.path().join("given")).unwrap();
    let given: Vec<Vec<&str>> = given.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(given[0][..2], ["1", "sleep:1ms"], "it is rehearsed with one connection");
    assert_eq!(given[1][..2], ["2", "sleep:1ms"], "as many workers as connections");
    assert_eq!(given.last().unwrap()[3..], ["--workers", "7"], "what follows its name is for its program");
    for words in given {
        assert!(Path::new(words[2]).is_absolute() && !Path::new(words[2]).exists(), "{words:?}");
    }
}

fn a_catalogue_that_is_wrong_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalogue.toml");
    let entry = "built = '.'\n[[contender]]\nname = 'x'\nlanguage = 'x'\nstyle = 'threads'\n";
    for (wrong, word) in [
        ("built = 1", "line 1: "),
        (&format!("{entry}command = './x'\n"), "{port}"),
        (&format!("{entry}command = './x {{port}}'\ncolour = 'red'\n"), "colour"),
        (&format!("{entry}command = './x {{port}}'\n").replace("threads", "magic"), "magic"),
    ] {
        fs::write(&file, wrong).unwrap();
        let output = compare(folder.path(), &["--contenders", file.to_str().unwrap()]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("catalogue.toml: ") && said.contains(word), "{said}");
    }
    let output = compare(folder.path(), &["--contenders", "nowhere.toml"]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("nowhere.toml"), "{output:?}");
}
