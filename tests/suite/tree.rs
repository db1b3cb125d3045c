//! The tree itself: what ARCHITECTURE.md says of it is true.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    stage::{ROOT, Row},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    every_file_of_models_is_a_row_of_the_table,
    models_do_not_name_each_other,
    the_conversations_do_not_know_which_model_runs_them,
    only_process_forks,
    unsafe_lives_in_its_rooms_and_each_block_says_why_it_is_safe,
    the_client_does_not_know_the_server,
    nothing_points_back,
    the_readmes_table_of_models_is_the_models,
    the_map_names_every_room,
];

fn root() -> &'static Path {
    Path::new(ROOT)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below a folder.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut to_look_at = vec![root().join(folder)];
    while let Some(folder) = to_look_at.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                to_look_at.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// A file without its tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

fn models() -> BTreeSet<String> {
    Row::table().into_iter().map(|row| row.model).collect()
}

fn every_file_of_models_is_a_row_of_the_table() {
    let files: BTreeSet<String> = sources("server/src/models")
        .iter()
        .map(|path| stem(path).replace('_', "-"))
        .filter(|name| name != "mod")
        .collect();
    assert_eq!(files, models());
}

fn models_do_not_name_each_other() {
    for path in sources("server/src/models") {
        if stem(&path) == "mod" {
            continue;
        }
        let code = code(&path);
        for other in models() {
            let other = other.replace('-', "_");
            let named =
                code.contains(&format!("super::{other}")) || code.contains(&format!("models::{other}"));
            assert!(!named, "{} names {other}", path.display());
        }
    }
}

fn the_conversations_do_not_know_which_model_runs_them() {
    for room in ["session", "sessions", "connection", "exchange", "readiness", "completion", "ring"] {
        let code = code(&root().join(format!("server/src/{room}.rs")));
        assert!(!code.contains("models"), "{room} knows the models");
    }
    let connection = code(&root().join("server/src/connection.rs"));
    assert!(
        !connection.contains("mio") && !connection.contains("Poll"),
        "there is a poller in connection.rs"
    );
}

fn only_process_forks() {
    for path in sources("server/src").into_iter().filter(|path| stem(path) != "process") {
        let code = code(&path);
        assert!(!code.contains("unistd::{") || !code.contains(" fork"), "{} imports fork", path.display());
        assert!(!code.contains("libc::fork") && !code.contains("unistd::fork"), "{} forks", path.display());
    }
}

fn unsafe_lives_in_its_rooms_and_each_block_says_why_it_is_safe() {
    let rooms = [
        "process",
        "shared",
        "scoreboard",
        "seats",
        "rights",
        "readiness",
        "select",
        "poll",
        "async",
        "ring",
        "datagram",
    ];
    let folders = [
        "arguments/src",
        "files/src",
        "screen/src",
        "uring/src",
        "server/src",
        "client/src",
        "tests",
        "examples",
    ];
    for path in folders.into_iter().flat_map(sources) {
        let text = fs::read_to_string(&path).unwrap();
        let blocks = text
            .lines()
            .filter(|line| ["unsafe {", "unsafe impl", "#[unsafe("].iter().any(|it| line.contains(it)))
            .count();
        let is_a_room = path.starts_with(root().join("server/src")) && rooms.contains(&stem(&path).as_str());
        let in_its_room = is_a_room
            || path.starts_with(root().join("uring/src"))
            || path.starts_with(root().join("examples")) // a lesson is self-contained
            || path.ends_with("tests/twins/children.rs")
            || ["load/ring", "load/batch", "cgroup"]
                .iter()
                .any(|room| path.ends_with(format!("client/src/{room}.rs")));
        if path.ends_with("tests/suite/tree.rs") {
            continue; // it speaks of them
        }
        assert!(blocks == 0 || in_its_room, "unsafe in {}", path.display());
        assert_eq!(blocks, text.matches("// SAFETY: ").count(), "SAFETY sentences in {}", path.display());
    }
}

fn the_client_does_not_know_the_server() {
    let manifest = read("client/Cargo.toml");
    assert!(!manifest.contains("echo-server"), "the client links the server");
}

fn nothing_points_back() {
    // Each room, and what it may not name: the rooms that stand on it.
    for (room, above) in [
        ("scoreboard", &["model", "models", "session", "connection", "readiness", "process", "accept"][..]),
        ("shutdown", &["model", "models", "session", "connection", "readiness", "process", "accept"]),
        ("socket", &["model", "models", "session", "connection", "readiness", "process", "accept"]),
        ("connection", &["model", "models", "session", "readiness", "process", "accept"]),
        (
            "datagram",
            &[
                "model",
                "models",
                "exchange",
                "mailbox",
                "sessions",
                "socket",
                "readiness",
                "process",
                "accept",
            ],
        ),
        ("datagram/envelope", &["model", "models", "exchange", "mailbox", "sessions", "process", "accept"]),
        ("mailbox", &["model", "models", "exchange", "sessions", "socket", "readiness", "process", "accept"]),
        (
            "exchange",
            &["models", "session", "sessions", "connection", "readiness", "completion", "process", "accept"],
        ),
        ("sessions", &["models", "session", "connection", "readiness", "completion", "pool", "process"]),
        ("rate", &["model", "models", "exchange", "readiness", "process", "accept"]),
        ("process", &["model", "models", "session", "connection", "readiness", "accept"]),
        ("shared", &["model", "models", "session", "seats", "scoreboard", "process", "accept"]),
        ("seats", &["model", "models", "session", "pool", "handoff", "process", "accept"]),
        ("groups", &["model", "models", "session", "archive", "process", "accept"]),
        ("archive", &["model", "models", "session", "pool", "handoff", "readiness", "accept"]),
        ("archive/keeper", &["model", "models", "session", "pool", "handoff", "readiness", "accept"]),
        ("archive/archivist", &["model", "models", "session", "pool", "handoff", "readiness", "accept"]),
        ("rights", &["model", "models", "session", "handoff", "archive", "accept"]),
        ("queue", &["model", "models", "session", "pool", "handoff", "process", "accept"]),
        ("idle", &["model", "models", "session", "readiness", "completion", "accept"]),
        ("busy_poll", &["model", "models", "session", "readiness", "completion", "accept"]),
        ("ring", &["model", "models", "session", "completion", "accept"]),
        ("pool", &["models", "session", "connection", "readiness", "completion", "handoff"]),
        ("handoff", &["models", "session", "connection", "readiness", "completion"]),
        ("session", &["models", "connection", "readiness", "process"]),
        ("readiness", &["models", "session", "process"]),
        ("completion", &["models", "session", "connection", "readiness", "process"]),
        (
            "ring",
            &["model", "models", "session", "connection", "readiness", "completion", "process", "accept"],
        ),
    ] {
        let code = code(&root().join(format!("server/src/{room}.rs")));
        // What it uses of its own crate, each use as one text.
        let uses: Vec<&str> =
            code.split("crate::").skip(1).filter_map(|text| text.split(';').next()).collect();
        for other in above {
            let names = |used: &&str| {
                let mut words = used.split(|c: char| !c.is_alphanumeric() && c != '_');
                words.any(|word| word == *other)
            };
            assert!(!uses.iter().any(names), "{room} names {other}");
        }
    }
}

fn the_readmes_table_of_models_is_the_models() {
    let readme = read("README.md");
    let mut table: BTreeSet<(String, String)> = BTreeSet::new();
    for line in readme.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        table.insert((cells[1].trim_matches('`').into(), cells[2].replace('`', "")));
    }
    let mut told: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for row in Row::table() {
        let dispatches = told.entry(row.model).or_default();
        dispatches.extend(row.dispatch.filter(|dispatch| !dispatches.contains(dispatch)));
    }
    let told = told.into_iter().map(|(model, dispatches)| (model, dispatches.join(", "))).collect();
    assert_eq!(table, told);
}

fn the_map_names_every_room() {
    let map = read("ARCHITECTURE.md");
    for path in ["server/src", "client/src"].into_iter().flat_map(sources) {
        let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        if folder == "models" || stem(&path) == "mod" {
            continue;
        }
        assert!(map.contains(&stem(&path)), "{} is not on the map", path.display());
    }
}
