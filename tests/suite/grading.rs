//! Grades, in the forms that courses read: each is read here by somebody else's reader, or held to its documentation.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Once,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use nix::unistd::geteuid;
use procfs::process::{Process, all_processes};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{
    stage::{PATIENCE, ROOT, echo_client, run, within},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_right_server_earns_all_points_in_every_form,
    what_a_hostile_server_says_breaks_no_form,
    every_outcome_has_its_place_in_every_form,
    a_server_that_never_answers_is_graded_all_the_same,
    a_server_that_does_not_start_scores_nothing_and_soon,
    who_is_killed_in_the_middle_leaves_a_whole_grade,
    a_hidden_check_counts_and_is_told_to_teachers_alone,
    a_steps_other_outputs_stay_and_its_result_is_the_last,
    autolabs_scores_are_the_last_line_behind_what_students_read,
    people_read_it_in_eighty_columns_whatever_the_language,
    a_wrong_rubric_is_one_line_and_costs_nobody_a_grade,
    what_fails_here_is_never_the_servers_fault,
    the_autograder_for_gradescope_gives_a_right_server_all_points,
    the_autograder_for_gradescope_gives_a_submission_that_does_not_compile_a_complete_zero,
    the_archive_for_gradescope_has_its_files_at_the_root,
];

/// A server as students write it: what it does first, and what with each client `c` before it echoes.
struct Students {
    begins: &'static str,
    serves: &'static str,
    threads: bool,
}

const RIGHT: Students = Students { begins: "pass", serves: "pass", threads: true };
/// It says what no form can bear, and dies of its first byte.
const HOSTILE: Students = Students {
    begins: r"sys.stderr.buffer.write(b'\x1b[31m]]></failure> # SKIP \\ <&\x00\x07\xff\xfe\r\n  ...\n1..9\nok 9\n\xe2\x80\xae\xef\xbf\xbf')",
    serves: "c.recv(1); os._exit(7)",
    threads: true,
};
const SILENT: Students = Students { begins: "pass", serves: "time.sleep(1000)", threads: true };
/// It answers whoever says little at once, as in `bytes`, and nobody else.
const SILENT_AFTER_BYTES: Students = Students {
    begins: "pass",
    serves: "len(c.recv(4096, socket.MSG_PEEK)) < 4096 or time.sleep(1000)",
    threads: true,
};
const STILLBORN: Students =
    Students { begins: "sys.exit('no config file\\nthat I can read')", serves: "pass", threads: true };
/// One client after the other, and a NUL is more than it takes.
const ITERATIVE: Students = Students {
    begins: "pass",
    serves: r"b'\0' in c.recv(4096, socket.MSG_PEEK) and c.shutdown(socket.SHUT_RDWR)",
    threads: false,
};

impl Students {
    fn write(&self, folder: &Path) -> PathBuf {
        let Self { begins, serves, threads } = self;
        let call = if *threads {
            "threading.Thread(target=serve, args=(c,), daemon=True).start()"
        } else {
            "serve(c)"
        };
        let script = format!(
            "import os, socket, sys, threading, time\n\
             {begins}\n\
             sys.stderr.flush()\n\
             def serve(c):\n\
             \x20   try:\n\
             \x20       {serves}\n\
             \x20       while data := c.recv(65536):\n\
             \x20           c.sendall(data)\n\
             \x20   except OSError:\n\
             \x20       pass\n\
             \x20   c.close()\n\
             l = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=1024)\n\
             while True:\n\
             \x20   c, _ = l.accept()\n\
             \x20   {call}\n"
        );
        let path = folder.join("server.py");
        fs::write(&path, script).unwrap();
        path
    }
}

const FORMS: [&str; 7] = ["json", "tap", "junit", "gradescope", "classroom", "autolab", "prairielearn"];

/// A folder with a server in it, and the grades that it gets.
struct Course {
    folder: TempDir,
}

impl Course {
    fn of(server: &Students) -> Self {
        let folder = tempfile::tempdir().unwrap();
        server.write(folder.path());
        Self { folder }
    }

    fn file(&self, form: &str) -> PathBuf {
        self.folder.path().join(form)
    }

    fn read(&self, form: &str) -> String {
        fs::read_to_string(self.file(form)).unwrap()
    }

    fn json(&self, form: &str) -> Value {
        serde_json::from_str(&self.read(form)).unwrap()
    }

    /// `check` with these words, and every form in a file.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(echo_client());
        command.arg("check").current_dir(&self.folder).stdin(Stdio::null());
        command.args(FORMS.iter().map(|form| format!("--format={form}={form}"))).args(args);
        command
    }

    /// The same, with a fresh server for each of two checks.
    fn examines(&self, args: &[&str]) -> Output {
        let two = ["--only", "bytes,half-close"];
        let server = ["--", "python3", "server.py", "{port}"];
        self.command(&[&two, args, &server].concat()).output().unwrap()
    }
}

fn root() -> &'static Path {
    Path::new(ROOT)
}

/// A program of others that `make tools` fetches.
fn tool(name: &str) -> PathBuf {
    static FETCHED: Once = Once::new();
    FETCHED.call_once(|| {
        let fetched = Command::new("make").args(["-s", "tools"]).current_dir(root()).status();
        assert!(fetched.unwrap().success(), "make tools");
    });
    root().join("target/tools").join(name)
}

#[track_caller]
fn said_by(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The names and kinds of an object's fields.
fn kinds(value: &Value) -> Vec<(&str, char)> {
    let kind = |value: &Value| match value {
        Value::Null => '0',
        Value::Bool(_) => 'b',
        Value::Number(_) => 'n',
        Value::String(_) => 's',
        Value::Array(_) => '[',
        Value::Object(_) => '{',
    };
    value.as_object().unwrap().iter().map(|(name, value)| (name.as_str(), kind(value))).collect()
}

/// Asserts that there are no fields but documented ones, and all that are required.
#[track_caller]
fn is_documented(value: &Value, documented: &[(&str, &str)], required: &[&str]) {
    for (name, kind) in kinds(value) {
        let known = documented.iter().find(|known| known.0 == name);
        assert!(known.is_some_and(|known| known.1.contains(kind)), "{name}: {kind}: {value:#}");
    }
    assert!(required.iter().all(|name| value.get(name).is_some()), "{required:?}: {value:#}");
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// What the parser of TAP 14's own author sees, who takes nothing that is not TAP.
fn tap(course: &Course) -> Vec<Value> {
    let mut parser = Command::new("node");
    parser.arg(tool("node_modules/tap-parser/bin/cmd.cjs"));
    parser.args(["--strict", "--json"]).stdin(fs::File::open(course.file("tap")).unwrap());
    let events: Value = serde_json::from_slice(&parser.output().unwrap().stdout).unwrap();
    let of = |kind: &str| {
        list(&events).iter().filter(|event| event[0] == kind).map(|event| event[1].clone()).collect()
    };
    let points: Vec<Value> = of("assert");
    assert_eq!(of("version"), [14]);
    assert!(of("extra").is_empty() && points.iter().all(|point| point["tapError"].is_null()), "{events:#}");
    assert_eq!(of("complete")[0]["plan"]["end"], points.len(), "{events:#}");
    let failures = list(&of("complete")[0]["failures"]).to_vec();
    assert!(failures.iter().all(|failure| failure["tapError"].is_null()), "{failures:?}");
    points
}

/// What Perl's own harness says. Its newest known version is 13, of which ours is one as well.
fn prove(course: &Course) -> String {
    let old = course.file("old.tap");
    fs::write(&old, course.read("tap").replacen("version 14", "version 13", 1)).unwrap();
    let output = Command::new("prove").args(["-e", "cat"]).arg(old).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("Parse errors"), "{said}");
    said
}

fn junit(course: &Course) -> Value {
    let mut reader = Command::new(tool("python/bin/python"));
    reader.arg(root().join("tests/suite/grading.py")).arg(tool("junit-10.xsd")).arg(course.file("junit"));
    serde_json::from_str(&said_by(reader)).unwrap()
}

/// What the result of a step is, as the runner of GitHub's actions reads its file, and the reporter the result.
fn classroom(course: &Course) -> Value {
    let file = course.read("classroom");
    let result = file.lines().rev().find_map(|line| line.strip_prefix("result=")).unwrap();
    assert!(result.len() < 128 << 10, "it travels in a variable of the environment");
    let told: Value = serde_json::from_slice(&STANDARD.decode(result).unwrap()).unwrap();
    is_documented(
        &told,
        &[("version", "n"), ("status", "s"), ("max_score", "n"), ("tests", "[")],
        &["tests"],
    );
    let documented = [
        ("name", "s"),
        ("status", "s"),
        ("score", "n"),
        ("message", "s0"),
        ("test_code", "s"),
        ("filename", "s"),
        ("line_no", "n"),
        ("execution_time", "n"),
    ];
    for test in list(&told["tests"]) {
        is_documented(test, &documented, &documented.map(|(name, _)| name));
        assert!(["pass", "fail", "error"].iter().any(|status| test["status"] == *status), "{test}");
    }
    told
}

fn gradescope(course: &Course) -> Value {
    let told = course.json("gradescope");
    let whole = [
        ("score", "n"),
        ("execution_time", "n"),
        ("output", "s"),
        ("output_format", "s"),
        ("test_output_format", "s"),
        ("test_name_format", "s"),
        ("visibility", "s"),
        ("stdout_visibility", "s"),
        ("extra_data", "{"),
        ("tests", "["),
        ("leaderboard", "["),
    ];
    is_documented(&told, &whole, &["score", "tests"]);
    let one = [
        ("score", "n"),
        ("max_score", "n"),
        ("status", "s"),
        ("name", "s"),
        ("name_format", "s"),
        ("number", "s"),
        ("output", "s"),
        ("output_format", "s"),
        ("tags", "["),
        ("visibility", "s"),
        ("extra_data", "{"),
    ];
    let visibilities = ["visible", "hidden", "after_due_date", "after_published"];
    for test in list(&told["tests"]) {
        is_documented(test, &one, &["score", "max_score", "name"]);
        assert!(test.get("status").is_none_or(|status| status == "passed" || status == "failed"), "{test}");
        assert!(visibilities.iter().any(|visibility| test["visibility"] == *visibility), "{test}");
        assert!((0.0..=number(&test["max_score"])).contains(&number(&test["score"])), "{test}");
    }
    for row in list(&told["leaderboard"]) {
        is_documented(row, &[("name", "s"), ("value", "ns"), ("order", "s")], &["name", "value"]);
    }
    let sum: f64 = list(&told["tests"]).iter().map(|test| number(&test["score"])).sum();
    assert_eq!(sum, number(&told["score"]), "{told:#}");
    told
}

fn autolab(said: &str) -> Map<String, Value> {
    let told: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    is_documented(&told, &[("scores", "{"), ("scoreboard", "[")], &["scores"]);
    assert!(told["scores"].as_object().unwrap().values().all(Value::is_number), "{told}");
    told["scores"].as_object().unwrap().clone()
}

fn prairielearn(course: &Course) -> Value {
    let told = course.json("prairielearn");
    let whole = [
        ("gradable", "b"),
        ("score", "n"),
        ("message", "s"),
        ("output", "s"),
        ("images", "["),
        ("format_errors", "s["),
        ("tests", "["),
    ];
    is_documented(&told, &whole, &["gradable", "score", "tests"]);
    assert!((0.0..=1.0).contains(&number(&told["score"])), "{told:#}");
    let one = [
        ("name", "s"),
        ("description", "s"),
        ("points", "n"),
        ("max_points", "n"),
        ("message", "s"),
        ("output", "s"),
        ("images", "["),
    ];
    list(&told["tests"]).iter().for_each(|test| is_documented(test, &one, &["name", "points", "max_points"]));
    assert!(course.read("prairielearn").len() < 1 << 20, "PrairieLearn takes no more");
    told
}

/// Reads all that was written, each by its reader, and asserts that all say the same.
fn scores(course: &Course) -> (f64, f64) {
    let told = course.json("json");
    let (score, most) = (number(&told["score"]), number(&told["max_score"]));
    let checks = list(&told["checks"]);
    let named = |entries: &[Value], name: &str| -> Vec<String> {
        entries.iter().map(|it| it[name].as_str().unwrap().split(": ").next().unwrap().to_owned()).collect()
    };
    let ids = named(checks, "id");
    assert_eq!(named(&tap(course), "name"), ids);
    prove(course);
    let junit = junit(course);
    assert_eq!(named(list(&junit["cases"]), "name"), ids);
    let unique: BTreeSet<String> =
        list(&junit["cases"]).iter().map(|case| format!("{}{}", case["classname"], case["name"])).collect();
    assert_eq!(unique.len(), ids.len());
    assert_eq!(
        (named(list(&gradescope(course)["tests"]), "name"), number(&gradescope(course)["score"])),
        (ids, score)
    );
    let classroom = classroom(course);
    let earned: f64 = list(&classroom["tests"]).iter().map(|test| number(&test["score"])).sum();
    assert_eq!((earned, number(&classroom["max_score"])), (score, most));
    let earned: f64 = autolab(&course.read("autolab")).values().map(number).sum();
    assert_eq!(earned, score);
    let share = if most > 0.0 { score / most } else { 0.0 };
    assert_eq!(number(&prairielearn(course)["score"]), share);
    (score, most)
}

fn a_right_server_earns_all_points_in_every_form() {
    let course = Course::of(&RIGHT);
    let output = course.examines(&[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (score, most) = scores(&course);
    assert!(score == most && most > 0.0);
    assert!(tap(&course).iter().all(|point| point["ok"] == true));
    assert!(prove(&course).contains("Result: PASS"));
    assert_eq!(
        (&classroom(&course)["status"], &prairielearn(&course)["gradable"]),
        (&json!("pass"), &json!(true))
    );
}

fn what_a_hostile_server_says_breaks_no_form() {
    let course = Course::of(&HOSTILE);
    let output = course.examines(&["--format", "people"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(scores(&course).0, 0.0);
    let points = tap(&course);
    assert!(points.iter().all(|point| point["ok"] == false && point["skip"] == false), "{points:?}");
    let said = points[0]["diag"]["evidence"]["stderr"].as_str().unwrap();
    assert!(
        said.contains(r"\u{1b}[31m]]></failure> # SKIP \ <&\0\u{7}") && said.contains("\n1..9\nok 9\n"),
        "{said}"
    );
    for case in list(&junit(&course)["cases"]) {
        let outcome = &list(&case["outcomes"])[0];
        assert_eq!(outcome["kind"], "failure", "{case}");
        let (message, body) = (outcome["message"].as_str().unwrap(), outcome["body"].as_str().unwrap());
        assert!(body.contains(message) && body.contains("]]></failure>"), "{case}");
    }
    let people = String::from_utf8(output.stdout).unwrap();
    assert!(!people.contains(|letter: char| letter.is_control() && letter != '\n'), "{people:?}");
}

/// A server that runs already.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn every_outcome_has_its_place_in_every_form() {
    let course = Course::of(&ITERATIVE);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("python3");
    server.arg(course.file("server.py")).arg(port.to_string()).stdin(Stdio::null());
    let _server = Running(server.spawn().unwrap());
    let endpoint = format!("tcp://127.0.0.1:{port}");
    let is_there =
        || run(echo_client(), &["check", "--only", "half-close", &endpoint]).status.success().then_some(());
    within(PATIENCE, "it listens", is_there);
    let args = ["--only", "bytes,half-close,silent-client,zombies", "--expect", "iterative", &endpoint];
    let output = course.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (score, most) = scores(&course);
    let told = course.json("json");
    let checks = list(&told["checks"]);
    let at = |id: &str| checks.iter().position(|check| check["id"] == id).unwrap();
    let [failed, passed, expected, skipped] = ["bytes", "half-close", "silent-client", "zombies"].map(at);
    let statuses = [failed, passed, expected, skipped].map(|n| checks[n]["status"].as_str().unwrap());
    assert_eq!(statuses, ["fail", "pass", "expected-failure", "skip"], "{told:#}");
    let of = |n: usize, name: &str| number(&checks[n][name]);
    assert_eq!((score, most), (of(passed, "points"), of(failed, "max_points") + of(passed, "max_points")));
    let points = tap(&course);
    assert!(points[expected]["todo"].is_string() && points[skipped]["skip"].is_string(), "{points:?}");
    let junit = junit(&course);
    let kinds = [failed, passed, expected, skipped].map(|n| junit["cases"][n]["outcomes"][0]["kind"].clone());
    assert_eq!(kinds, ["failure", "system-out", "skipped", "skipped"]);
    assert_eq!((&junit["suite"]["failures"], &junit["suite"]["skipped"]), (&json!("1"), &json!("2")));
    assert_eq!(list(&classroom(&course)["tests"]).len(), 2, "only what counts");
    assert_eq!(autolab(&course.read("autolab")).len(), 2, "only what counts");
}

fn a_server_that_never_answers_is_graded_all_the_same() {
    let course = Course::of(&SILENT);
    let output = course.examines(&["--time-scale", "0.3"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (score, most) = scores(&course);
    assert!(score == 0.0 && most > 0.0);
}

fn a_server_that_does_not_start_scores_nothing_and_soon() {
    let course = Course::of(&STILLBORN);
    let began = Instant::now();
    let output = course.examines(&[]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((output.status.code(), scores(&course).0), (Some(1), 0.0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.matches("stderr: no config file").count(), 1, "one cause is told once: {said}");
}

fn who_is_killed_in_the_middle_leaves_a_whole_grade() {
    let course = Course::of(&SILENT_AFTER_BYTES);
    let server = ["--only", "bytes,half-close", "--", "python3", "server.py", "{port}"];
    let mut examiner = Running(course.command(&server).stdout(Stdio::null()).spawn().unwrap());
    within(PATIENCE, "the first grade, in the last of the files", || {
        let told: Value =
            serde_json::from_str(&fs::read_to_string(course.file("prairielearn")).ok()?).unwrap();
        (number(&told["score"]) > 0.0).then_some(())
    });
    examiner.0.kill().unwrap();
    examiner.0.wait().unwrap();
    let is_a_server = |process: Process| process.cwd().is_ok_and(|folder| folder == course.folder.path());
    within(PATIENCE, "its servers are gone, also who was just being started", || {
        (!all_processes().unwrap().flatten().any(is_a_server)).then_some(())
    });
    let (score, most) = scores(&course);
    let told = course.json("json");
    assert_eq!((&told["checks"][1]["status"], &told["checks"][1]["points"]), (&json!("skip"), &json!(0.0)));
    assert_eq!((score, most), (number(&told["checks"][0]["points"]), number(&told["max_score"])));
    assert!(most > score, "what was not run was missed");
    assert_eq!(list(&gradescope(&course)["tests"])[1]["status"], "failed");
    assert_eq!((&tap(&course)[1]["ok"], &classroom(&course)["status"]), (&json!(false), &json!("fail")));
}

fn a_hidden_check_counts_and_is_told_to_teachers_alone() {
    let course = Course::of(&HOSTILE);
    let rubric = "title = 'Lab 3'\n[checks]\nbytes = 2\nhalf-close = { points = 3, visibility = 'hidden' }\n";
    fs::write(course.file("rubric.toml"), rubric).unwrap();
    course.examines(&["--rubric", "rubric.toml"]);
    assert_eq!(number(&course.json("json")["max_score"]), 5.0);
    assert_eq!(course.json("json")["title"], "Lab 3");
    let test = gradescope(&course)["tests"][1].clone();
    assert_eq!((&test["visibility"], &test["max_score"]), (&json!("hidden"), &json!(3.0)));
    assert_eq!(gradescope(&course)["stdout_visibility"], "hidden");
    let summary = gradescope(&course)["output"].to_string();
    assert!(summary.contains("0 of 2 points") && summary.contains("1 not shown"), "{summary}");
    for told in [prairielearn(&course).to_string(), classroom(&course).to_string()] {
        assert!(told.contains("bytes: ") && told.contains("a hidden check"), "{told}");
        assert!(!told.contains("half-close") && !told.contains("FIN"), "{told}");
    }
    let feedback = course.read("autolab");
    let (for_students, _) = feedback.trim_end().rsplit_once('\n').unwrap();
    assert!(for_students.contains("bytes") && !for_students.contains("half-close"), "{feedback}");
}

fn a_steps_other_outputs_stay_and_its_result_is_the_last() {
    let course = Course::of(&RIGHT);
    fs::write(course.file("classroom"), "compiler=gcc\nresult=b2xk").unwrap();
    course.examines(&[]);
    let outputs = course.read("classroom");
    let names: Vec<&str> = outputs.lines().map(|line| line.split_once('=').unwrap().0).collect();
    assert_eq!(names, ["compiler", "result", "result"]);
    assert_eq!(classroom(&course)["status"], "pass");
}

fn autolabs_scores_are_the_last_line_behind_what_students_read() {
    let course = Course::of(&HOSTILE);
    let output = course.examines(&["--format", "autolab"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(autolab(&said)["bytes"], 0.0);
    assert!(said.contains("FAIL bytes") && said.contains("look: "), "{said}");
}

fn people_read_it_in_eighty_columns_whatever_the_language() {
    let course = Course::of(&HOSTILE);
    let width = |line: &str| -> usize {
        // What lies from the Chinese punctuation on is two columns wide.
        line.chars().map(|letter| if letter >= '\u{2e80}' && letter != '\u{fffd}' { 2 } else { 1 }).sum()
    };
    for language in ["en", "zh"] {
        let output = course.examines(&["--lang", language]);
        let list = run(echo_client(), &["check", "--list", "--lang", language]);
        for said in [output.stdout, list.stdout] {
            let said = String::from_utf8(said).unwrap();
            assert!(said.lines().all(|line| width(line) <= 80), "{said}");
            assert_eq!(said.contains("字节"), language == "zh", "{said}");
        }
    }
}

fn a_wrong_rubric_is_one_line_and_costs_nobody_a_grade() {
    let course = Course::of(&RIGHT);
    for (rubric, word) in [
        ("[checks]\nbytes = -1\n", "bytes: -1 points"),
        ("[checks]\nbites = 1\n", "bytes?"),
        ("[checks]\nudp-sizes = 1\n", "udp-sizes"),
        ("[checks]\n", "no check is left"),
        ("[checks\n", "rubric.toml: line 1"),
    ] {
        fs::write(course.file("rubric.toml"), rubric).unwrap();
        let output = course.examines(&["--rubric", "rubric.toml"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{rubric:?}: {said}");
        assert!(said.contains(word), "{rubric:?} should say {word:?}: {said}");
        assert!(!course.file("json").exists());
    }
}

fn what_fails_here_is_never_the_servers_fault() {
    let course = Course::of(&RIGHT);
    let examine = |args: &[&str], stdout: Stdio| {
        let server = ["--only", "bytes", "--", "python3", "server.py", "{port}"];
        let mut command = Command::new(echo_client());
        command.arg("check").args([args, &server].concat()).current_dir(&course.folder).stdout(stdout);
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.lines().count(), 1, "{said}");
        (output.status.code(), said)
    };
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(examine(&[], full.into()).0, Some(3), "who cannot say it has failed");
    let (status, said) = examine(&["--format", "json=a", "--format", "tap=./a"], Stdio::null());
    assert!(status == Some(2) && said.contains("one file holds one result"), "{said}");
    let (status, said) = examine(&["--format", "json="], Stdio::null());
    assert!(status == Some(2) && said.contains("json=FILE"), "{said}");
}

/// A folder as Gradescope lays it out, with our autograder in it and a submission of these files.
fn autograded(submission: &[(&str, &str)]) -> (Output, Course) {
    let course = Course { folder: tempfile::tempdir().unwrap() };
    let (source, submitted) = (course.file("source"), course.file("submission"));
    fs::create_dir_all(&source).unwrap();
    fs::create_dir_all(&submitted).unwrap();
    for file in ["run_autograder", "rubric.toml"] {
        fs::copy(root().join("examples/grading/gradescope").join(file), source.join(file)).unwrap();
    }
    fs::copy(echo_client(), source.join("echo-client")).unwrap();
    submission.iter().for_each(|(name, text)| fs::write(submitted.join(name), text).unwrap());
    let student = if geteuid().is_root() { "nobody" } else { "" };
    let mut autograder = Command::new(source.join("run_autograder"));
    autograder.env("AUTOGRADER", course.folder.path()).env("STUDENT", student).stdin(Stdio::null());
    let output = autograder.output().unwrap();
    fs::copy(course.file("results/results.json"), course.file("gradescope")).unwrap();
    (output, course)
}

const MAKEFILE: &str = "server: server.c\n\tcc -O2 -pthread -o $@ $<\n";

fn the_autograder_for_gradescope_gives_a_right_server_all_points() {
    let read = |name: &str| fs::read_to_string(root().join("examples/contenders").join(name)).unwrap();
    let headers = ["blocking.h", "listen.h", "work.h"].map(|name| (name, read(name)));
    let server = read("thread.c");
    let mut files: Vec<(&str, &str)> = headers.iter().map(|(name, text)| (*name, text.as_str())).collect();
    files.extend([("server.c", server.as_str()), ("Makefile", MAKEFILE)]);
    let (output, course) = autograded(&files);
    assert!(output.status.success(), "{output:?}");
    for ours in ["source", "results"] {
        let mode = fs::metadata(course.file(ours)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{ours} is nothing for students");
    }
    let told = gradescope(&course);
    let most: f64 = list(&told["tests"]).iter().map(|test| number(&test["max_score"])).sum();
    assert!(number(&told["score"]) == most && most > 0.0, "{told:#}");
}

fn the_autograder_for_gradescope_gives_a_submission_that_does_not_compile_a_complete_zero() {
    for makefile in [Some(MAKEFILE), None] {
        let mut files = vec![("server.c", "int main(\n")];
        files.extend(makefile.map(|makefile| ("Makefile", makefile)));
        let began = Instant::now();
        let (output, course) = autograded(&files);
        assert!(output.status.success(), "a student's fault is none of the autograder's: {output:?}");
        let told = gradescope(&course);
        assert_eq!(told["score"], 0.0);
        let tests = list(&told["tests"]);
        assert!(
            tests.iter().all(|test| test["status"] == "failed" && number(&test["max_score"]) > 0.0),
            "{told:#}"
        );
        let said = tests[0]["output"].as_str().unwrap();
        assert!(said.contains("make made no ./server"), "{said}");
        assert_eq!(said.contains("error: expected"), makefile.is_some(), "the compiler's words: {said}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}

fn the_archive_for_gradescope_has_its_files_at_the_root() {
    let course = Course { folder: tempfile::tempdir().unwrap() };
    for file in ["Makefile", "setup.sh", "run_autograder", "rubric.toml"] {
        fs::copy(root().join("examples/grading/gradescope").join(file), course.file(file)).unwrap();
    }
    let examiner = format!("ECHO_CLIENT={}", echo_client().display());
    let mut make = Command::new("make");
    make.args(["-s", &examiner]).current_dir(&course.folder);
    said_by(make);
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-l", "autograder.zip"]).current_dir(&course.folder);
    let listed = said_by(unzip);
    let names: BTreeSet<&str> =
        listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, BTreeSet::from(["echo-client", "rubric.toml", "run_autograder", "setup.sh"]));
    fs::remove_file(course.file("autograder.zip")).unwrap();
    let mut make = Command::new("make");
    make.args(["-s", "ECHO_CLIENT="]).current_dir(&course.folder);
    let output = make.output().unwrap();
    assert!(!output.status.success() && !course.file("autograder.zip").exists(), "without the examiner");
}
