//! The file of `--groups`: it is whole whatever happens, and what could not be written is said before anything begins.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

use nix::unistd::Uid;

use crate::{
    stage::{Row, Server, Transport, datagrams::ask, echo_server, groups::GroupsFile, noise, run},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_file_that_could_not_be_written_at_the_end_is_refused_at_the_start,
    a_file_that_is_anothers_and_may_not_be_replaced_is_refused_at_the_start,
    a_disk_that_is_full_is_one_line_that_names_the_file_and_no_other,
    the_file_lies_on_the_disk_before_it_gets_its_name_and_the_name_does_before_the_server_ends,
    the_page_and_the_groups_are_not_one_file_however_it_is_spelled,
    a_workers_share_that_holds_no_longest_datagram_is_refused_and_what_is_advised_is_not,
];

const ENDPOINT: &str = "udp://127.0.0.1:0";

fn plain() -> Row {
    Row::table_of(Transport::Udp).into_iter().find(|row| row.model == "event-loop").unwrap()
}

/// The server refuses, in one line, before it says that it listens.
#[track_caller]
fn is_refused(output: &Output, word: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{word}: {said}");
    assert!(said.contains(word), "it should say {word:?}: {said}");
    assert!(output.stdout.is_empty(), "{said}");
}

/// Starts a server that should refuse at once; one that does not is ended.
fn start(args: &[&str]) -> Output {
    run("timeout".as_ref(), &[&["5", echo_server().to_str().unwrap()], args, &[ENDPOINT]].concat())
}

/// A copy of the server that everybody may run, in a folder that everybody may search.
fn copy_for_everybody() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("echo-").tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    fs::copy(echo_server(), folder.path().join("echo-server")).unwrap();
    folder
}

fn a_file_that_could_not_be_written_at_the_end_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(at("folder")).unwrap();
    std::os::unix::fs::symlink(at("folder"), at("link")).unwrap();
    for (file, word) in [
        (at("folder"), "no file"),
        (at("link"), "no file"),
        (at("new/"), "no file"),
        (at("new/."), "no file"),
        (at("folder/.."), "no file"),
        ("/".into(), "no file"),
        ("/dev/null".into(), "no file"),
        (at("nowhere/groups"), "its folder does not exist"),
        (at(&"n".repeat(300)), "too long"),
    ] {
        let refused = start(&["--groups", &file]);
        is_refused(&refused, word);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.starts_with(&format!("echo-server: --groups {file}: ")), "{said}");
        assert!(said.contains("; choose "), "{said}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left");
}

/// Where everybody may write, nobody may take away what is another's (inode(7), the sticky bit).
fn a_file_that_is_anothers_and_may_not_be_replaced_is_refused_at_the_start() {
    if !Uid::effective().is_root() {
        return eprintln!("skipped: not root, who alone can be two users");
    }
    let (folder, program) = (tempfile::tempdir().unwrap(), copy_for_everybody());
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    let file = folder.path().join("groups.json");
    fs::write(&file, "precious").unwrap();
    let run_as = |user: &str| {
        let mut command = Command::new("setpriv");
        command.args([user, "--clear-groups"]).arg(program.path().join("echo-server"));
        command.arg("--groups").arg(&file).args(["--stats", "/nowhere/at/all", ENDPOINT]);
        command.output().unwrap()
    };
    is_refused(&run_as("--reuid=65534"), "Permission denied");
    is_refused(&run_as("--reuid=0"), "--stats /nowhere/at/all");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A file may not grow beyond a limit, as on a full disk (setrlimit(2)). The copy of what a client said is smaller than
/// the limit, and the file is not, in base64.
fn a_disk_that_is_full_is_one_line_that_names_the_file_and_no_other() {
    let (folder, file) = (tempfile::tempdir().unwrap(), GroupsFile::new());
    let complaint = folder.path().join("stderr");
    let mut command = Command::new("prlimit");
    command.arg("--fsize=700000").arg(echo_server());
    command.args(["--groups", file.path(), ENDPOINT]).stderr(fs::File::create(&complaint).unwrap());
    let server = Server::start(command);
    let client = server.client();
    (0..10).for_each(|_| ask(&client, &noise(60_000)));
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(1));
    let said = fs::read_to_string(&complaint).unwrap();
    assert!(said.starts_with(&format!("echo-server: --groups {}: File too large", file.path())), "{said}");
    assert_eq!(
        (said.lines().count(), said.matches('/').count()),
        (1, file.path().matches('/').count()),
        "{said}"
    );
    assert!(!file.is_there());
}

/// What a name leads to after the power fails is what lay on the disk before it was given the name.
fn the_file_lies_on_the_disk_before_it_gets_its_name_and_the_name_does_before_the_server_ends() {
    let (folder, file) = (tempfile::tempdir().unwrap(), GroupsFile::new());
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-DD", "-f", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2", "-o"]).arg(&trace);
    strace.arg(echo_server());
    let server = plain().start_by(strace, &["--groups", file.path()]);
    ask(&server.client(), b"hello");
    server.stop().well();
    let traced = fs::read_to_string(&trace).unwrap();
    let calls: Vec<&str> = traced
        .lines()
        .filter(|line| line.contains('(') && line.ends_with("= 0"))
        .filter_map(|line| line.split_whitespace().nth(1)?.split('(').next())
        .collect();
    assert!(matches!(calls[..], ["fsync", "rename" | "renameat" | "renameat2", "fsync"]), "{traced}");
    assert!(file.is_alone());
}

fn the_page_and_the_groups_are_not_one_file_however_it_is_spelled() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(at("inner")).unwrap();
    std::os::unix::fs::symlink(folder.path(), at("inner/link")).unwrap();
    for stats in ["same", "./same", "inner/../same", "inner/link/same"] {
        let refused = start(&["--groups", &at("same"), "--stats", &at(stats)]);
        is_refused(&refused, "--stats and --groups name one file");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was written");
}

fn a_workers_share_that_holds_no_longest_datagram_is_refused_and_what_is_advised_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("groups.json").to_str().unwrap().to_owned();
    for (memory, more, words) in [
        ("1MiB", &["--workers", "64"][..], "16.0 KiB for each of 64 workers"),
        ("10KiB", &["--workers", "1"], "10.0 KiB hold no datagram"),
        ("2KiB", &["--workers", "1", "--max-bytes", "2KiB"], "2.0 KiB hold no datagram"),
    ] {
        let all = |memory| {
            [&["--model", "thread-pool", "--groups", &file, "--max-group-memory", memory], more].concat()
        };
        let refused = start(&all(memory));
        is_refused(&refused, words);
        let said = String::from_utf8(refused.stderr).unwrap();
        let advised = said.split_once("; allow ").unwrap().1.split(' ').next().unwrap();
        let mut command = Command::new(echo_server());
        command.args(all(advised)).arg(ENDPOINT);
        Server::start(command).stop().well();
    }
    let help = String::from_utf8(run(echo_server(), &["--help"]).stdout).unwrap();
    assert!(
        help.split_whitespace().collect::<Vec<_>>().join(" ").contains("a pool splits it evenly"),
        "{help}"
    );
}
