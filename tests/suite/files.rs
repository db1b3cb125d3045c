//! The files that both programs write: whole or not at all, in the place that the user named, and nobody else's.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
    process::{Command, Output},
};

use nix::unistd::Uid;
use tempfile::TempDir;

use crate::{
    stage::{Row, Server, Transport, datagrams::ask, echo_client, echo_server, noise, run},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    whatever_writes_a_file_leaves_the_link_to_it_its_owner_and_its_permissions,
    a_limit_on_the_size_of_files_is_one_line_and_costs_no_old_one,
    groups_that_a_limit_keeps_from_being_handed_over_are_missed_aloud,
    a_full_disk_costs_no_old_result_and_leaves_nothing_beside_it,
    a_file_that_is_a_mount_point_is_overwritten_and_keeps_its_content_on_a_full_disk,
    two_results_are_not_one_file_however_it_is_spelled,
    a_link_to_a_descriptor_is_no_file_for_the_server_and_stays_one_for_the_client,
    a_load_that_nobody_answers_leaves_the_earlier_result,
];

/// What writes a file, as the command line says it: an option and a name.
type Writer<'w> = &'w dyn Fn(&str) -> Output;

fn udp() -> Row {
    Row::table_of(Transport::Udp).into_iter().find(|row| row.model == "event-loop").unwrap()
}

fn server() -> Server {
    Row::table().into_iter().find(|row| row.model == "event-loop").unwrap().start(&[])
}

/// A load of a moment.
fn load(endpoint: &str, more: &[&str]) -> Output {
    run(echo_client(), &[&["load", endpoint, "-c", "2", "-d", "100ms", "--warmup", "0s"], more].concat())
}

/// A folder, and a path in it as text.
fn folder() -> (TempDir, impl Fn(&str) -> String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    (folder, move |name: &str| path.join(name).to_str().unwrap().to_owned())
}

/// Runs what writes a file over one that is another's, and through a link.
#[track_caller]
fn keeps_link_owner_and_permissions(what: &str, writer: Writer<'_>) {
    let (_folder, at) = folder();
    fs::write(at("real"), "old").unwrap();
    if Uid::effective().is_root() {
        chown(at("real"), Some(1000), Some(1001)).unwrap();
    }
    fs::set_permissions(at("real"), Permissions::from_mode(0o600)).unwrap();
    symlink("real", at("link")).unwrap();
    let before = fs::metadata(at("real")).unwrap();
    writer(&at("link"));
    let after = fs::metadata(at("real")).unwrap();
    assert!(Path::new(&at("link")).is_symlink(), "{what}: the link is gone");
    assert_ne!(fs::read(at("real")).unwrap(), b"old", "{what}: it was not written");
    let about = |file: &fs::Metadata| (file.uid(), file.gid(), file.mode());
    assert_eq!(about(&before), about(&after), "{what}");
    assert_eq!(fs::read_dir(&_folder).unwrap().count(), 2, "{what}: something else is left");
}

fn whatever_writes_a_file_leaves_the_link_to_it_its_owner_and_its_permissions() {
    let server = server();
    let endpoint = format!("tcp://{}", server.address);
    for option in ["--json", "--csv", "--hdr"] {
        keeps_link_owner_and_permissions(option, &|file| load(&endpoint, &[option, file]));
    }
    for option in ["--groups", "--stats"] {
        keeps_link_owner_and_permissions(option, &|file| {
            udp().start(&[option, file]).stop().well();
            run("true".as_ref(), &[])
        });
    }
    keeps_link_owner_and_permissions("check", &|file| {
        let format = format!("json={file}");
        run(echo_client(), &["check", &endpoint, "--only", "bytes", "--format", &format])
    });
    let (_folder, at) = folder();
    load(&endpoint, &["--rank", "0/1", "--json", &at("0")]);
    keeps_link_owner_and_permissions("merge", &|file| {
        run(echo_client(), &["merge", &at("0"), "--json", file])
    });
}

/// Has a writer meet the end of the room for files, of which an old one has some, and is to keep it.
#[track_caller]
fn costs_no_old_file(what: &str, folder: &Path, file: &str, writer: Writer<'_>) {
    fs::write(file, "old").unwrap();
    let count = || fs::read_dir(folder).unwrap().count();
    let files = count();
    let output = writer(file);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_ne!(output.status.code(), Some(0), "{what}: {said}");
    assert!(output.status.code().is_some(), "{what} was ended: {}", output.status);
    assert_eq!(said.lines().count(), 1, "{what}: {said}");
    assert!(said.contains("File too large") || said.contains("No space left"), "{what}: {said}");
    assert_eq!((fs::read_to_string(file).unwrap().as_str(), count()), ("old", files), "{what}: {said}");
}

fn a_limit_on_the_size_of_files_is_one_line_and_costs_no_old_one() {
    let server = server();
    let endpoint = format!("tcp://{}", server.address);
    let (folder, at) = folder();
    let limited = |bytes: usize, args: &[&str]| {
        let limit = format!("--fsize={bytes}");
        run("prlimit".as_ref(), &[&[&limit, echo_client().to_str().unwrap()], args].concat())
    };
    load(&endpoint, &["--rank", "0/1", "--json", &at("0")]);
    for (option, bytes) in [("--json", 512), ("--csv", 20), ("--hdr", 100)] {
        costs_no_old_file(option, folder.path(), &at("file"), &|file| {
            limited(bytes, &["load", &endpoint, "-c", "2", "-d", "100ms", option, file])
        });
        costs_no_old_file("merge", folder.path(), &at("file"), &|file| {
            limited(bytes, &["merge", &at("0"), option, file])
        });
    }
    costs_no_old_file("check", folder.path(), &at("file"), &|file| {
        let format = format!("json={file}");
        limited(512, &["check", &endpoint, "--only", "bytes", "--format", &format])
    });
    // What a client said is text that JSON writes longer than it is, so its copy is within the limit.
    costs_no_old_file("--groups", folder.path(), &at("file"), &|file| {
        let complaint = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("prlimit");
        command.arg("--fsize=200000").arg(echo_server()).args(["--groups", file, "udp://127.0.0.1:0"]);
        let server = Server::start({
            command.stderr(complaint.reopen().unwrap());
            command
        });
        let client = server.client();
        (0..3).for_each(|_| ask(&client, &noise(60_000)));
        let status = server.stop().status;
        Output { status, stdout: Vec::new(), stderr: fs::read(complaint.path()).unwrap() }
    });
}

/// What cannot be copied is not lost without a word either.
fn groups_that_a_limit_keeps_from_being_handed_over_are_missed_aloud() {
    let (_folder, at) = folder();
    let complaint = File::create(at("stderr")).unwrap();
    let mut command = Command::new("prlimit");
    command.arg("--fsize=20000").arg(echo_server()).args(["--groups", &at("groups"), "udp://127.0.0.1:0"]);
    command.stderr(complaint);
    let server = Server::start(command);
    ask(&server.client(), &noise(60_000));
    let ended = server.stop();
    let said = fs::read_to_string(at("stderr")).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
    assert!(said.contains("groups: 1 messages could not be copied, and are missing"), "{said}");
    assert_eq!(ended.figures["dropped"]["worker_died"], 1, "{}", ended.figures);
}

/// Runs a script in a mount namespace of its own, where `$1` is an empty disk of 128 KiB, and `$0` a file.
fn beside_a_small_disk(script: &str, args: &[&str]) -> Option<Output> {
    if !Uid::effective().is_root() {
        eprintln!("skipped: not root, who alone can mount a small disk");
        return None;
    }
    let disk = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=128k small {0} && cd {0} && {script}", disk.path().display());
    Some(run("unshare".as_ref(), &[&["-m", "sh", "-c", &mount], args].concat()))
}

fn a_full_disk_costs_no_old_result_and_leaves_nothing_beside_it() {
    let server = server();
    let endpoint = format!("tcp://{}", server.address);
    let script = "echo old > result && { cat /dev/zero > filler 2> /dev/null; truncate -s -4096 filler; }
                  \"$0\" load \"$1\" -c 2 -d 100ms --json result > /dev/null; echo $?; cat result; ls -A";
    let Some(output) = beside_a_small_disk(script, &[echo_client().to_str().unwrap(), &endpoint]) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3\nold\nfiller\nresult\n", "{said}");
    assert!(
        said.starts_with("echo-client: --json result: No space left") && said.lines().count() == 1,
        "{said}"
    );
}

/// As a container is lent a file: no other can take its place, so it is overwritten, if the disk promises the room.
fn a_file_that_is_a_mount_point_is_overwritten_and_keeps_its_content_on_a_full_disk() {
    let server = server();
    let endpoint = format!("tcp://{}", server.address);
    let script = "echo old > lent && touch point && mount --bind lent point
                  \"$0\" load \"$1\" -c 2 -d 100ms --json point > /dev/null; echo $?; head -c 1 lent; ls -A
                  echo old > lent; { cat /dev/zero > filler 2> /dev/null; truncate -s -4096 filler; }
                  \"$0\" load \"$1\" -c 2 -d 100ms --json point > /dev/null; echo $?; cat lent; ls -A";
    let Some(output) = beside_a_small_disk(script, &[echo_client().to_str().unwrap(), &endpoint]) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let told = "0\n{lent\npoint\n3\nold\nfiller\nlent\npoint\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), told, "{said}");
    assert!(said.contains("No space left") && said.lines().count() == 1, "{said}");
}

fn two_results_are_not_one_file_however_it_is_spelled() {
    let (folder, at) = folder();
    symlink("same", at("alias")).unwrap();
    fs::write(at("other"), "").unwrap();
    fs::hard_link(at("other"), at("its second name")).unwrap();
    let client = echo_client().to_str().unwrap().to_owned();
    for (one, other) in
        [("same", "./same"), ("same", "alias"), ("alias", "../*/same"), ("other", "its second name")]
    {
        let other = other.replace('*', folder.path().file_name().unwrap().to_str().unwrap());
        for command in [
            vec!["load", "tcp://127.0.0.1:9", "--csv", one, "--hdr", &other],
            vec!["check", "tcp://127.0.0.1:9", "--format", "json=a", "--format", "tap=a"],
        ] {
            let names = [one, &other];
            let mut names = names.into_iter();
            let args = command.iter().map(|arg| match arg.strip_suffix("=a") {
                Some(form) => format!("{form}={}", names.next().unwrap()),
                None => (*arg).to_owned(),
            });
            let output = Command::new(&client).args(args).current_dir(&folder).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{command:?}: {said}");
            assert!(said.contains("one file"), "{command:?}: {said}");
        }
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3, "nothing was written");
}

/// `--groups /dev/stdout` of root would have replaced the machine's link, where stdout is a file.
fn a_link_to_a_descriptor_is_no_file_for_the_server_and_stays_one_for_the_client() {
    let (_folder, at) = folder();
    symlink("/proc/self/fd/1", at("stdout")).unwrap();
    for option in ["--groups", "--stats"] {
        let stdout = File::create(at("file")).unwrap();
        let mut command = Command::new("timeout");
        command.arg("5").arg(echo_server()).args([option, &at("stdout"), "udp://127.0.0.1:0"]).stdout(stdout);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("what is there is no file"), "{said}");
    }
    let server = server();
    let mut command = Command::new(echo_client());
    command.args(["load", &format!("tcp://{}", server.address), "-c", "2", "-d", "100ms"]);
    command.args(["--json", &at("stdout")]).stdout(File::create(at("file")).unwrap());
    assert!(command.status().unwrap().success());
    let said = fs::read_to_string(at("file")).unwrap();
    assert!(said.starts_with("{\n") && said.contains("\n}\n"), "the result: {said}");
    assert!(said.split_once("\n}\n").unwrap().1.contains("answers"), "and what is printed after it: {said}");
    assert!(Path::new(&at("stdout")).is_symlink());
}

fn a_load_that_nobody_answers_leaves_the_earlier_result() {
    let (folder, at) = folder();
    for file in ["json", "csv", "hdr"] {
        fs::write(at(file), "the earlier result").unwrap();
    }
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for endpoint in [format!("tcp://{closed}"), format!("udp://{}", silent.local_addr().unwrap())] {
        let files = ["--json", &at("json"), "--csv", &at("csv"), "--hdr", &at("hdr"), "--timeout", "100ms"];
        let output = load(&endpoint, &files);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let stays = said.lines().find(|line| line.contains("the earlier result stays in")).expect(&said);
        for file in ["json", "csv", "hdr"] {
            assert_eq!(fs::read_to_string(at(file)).unwrap(), "the earlier result");
            assert!(stays.contains(&at(file)), "{said}");
        }
        let new = at("new");
        assert_eq!(load(&endpoint, &["--json", &new, "--timeout", "100ms"]).status.code(), Some(1));
        let result: serde_json::Value = serde_json::from_slice(&fs::read(&new).unwrap()).unwrap();
        assert_eq!(result["valid"], false, "where there was none, it says that nothing came");
        fs::remove_file(new).unwrap();
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
}
