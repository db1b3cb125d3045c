//! `echo-server status`: what a server counts, read from outside while it serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use prometheus_parse::{Scrape, Value as Sample};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    stage::{
        AtOnce, PATIENCE, Row, Server, Transport, children, count,
        datagrams::{ask, tell},
        echo, echo_server, parent, run,
        terminal::Terminal,
        within,
    },
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    the_status_of_every_model_is_that_of_the_traffic_and_then_its_final_figures,
    who_waits_is_seen_in_the_pools_queue_and_in_the_kernels,
    the_accept_queue_is_the_sum_over_the_sockets_of_one_port,
    a_worker_that_was_killed_is_seen_to_have_been_replaced,
    the_parent_of_several_endpoints_shows_each_and_a_server_only_its_own,
    the_table_fits_a_terminal_however_many_workers_there_are,
    what_the_kernel_drops_and_holds_is_seen_while_it_does,
    the_status_of_datagrams_speaks_of_no_connections_and_fits_a_terminal,
    prometheus_reads_the_same_figures,
    an_errors_kind_is_a_label_and_what_is_odd_in_a_label_is_escaped,
    what_is_no_page_gets_one_line_that_says_so,
    a_page_that_cannot_be_made_is_refused,
    where_a_process_has_another_number_it_is_unknown_whether_the_server_runs,
    who_got_the_number_of_a_killed_server_is_not_taken_for_it,
    the_live_view_shows_what_moves_and_leaves_the_terminal_as_it_was,
    every_key_that_should_end_the_live_view_does_and_so_does_no_other,
    the_live_view_leaves_the_terminal_as_it_was_when_it_is_told_to_end,
    the_live_view_says_that_the_server_has_ended,
    the_live_view_bears_every_size_of_terminal,
];

/// What `status` prints; it must succeed.
#[track_caller]
fn status(of: &str, form: &[&str]) -> String {
    let output = run(echo_server(), &[&["status", of], form].concat());
    assert!(output.status.success(), "{of}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(of: impl ToString) -> Value {
    serde_json::from_str(&status(&of.to_string(), &["--json"])).unwrap()
}

fn row(model: &str, dispatch: Option<&str>) -> Row {
    let dispatch = |row: &Row| dispatch.is_none_or(|wanted| row.dispatch.as_deref() == Some(wanted));
    Row::all().into_iter().find(|row| row.model == model && dispatch(row)).unwrap()
}

/// A server whose page is a file.
fn with_a_page(row: &Row, more: &[&str]) -> (Server, TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page").to_str().unwrap().to_owned();
    let server = row.start_for(4, &[&["--stats", &page], more].concat());
    (server, folder, page)
}

fn the_status_of_every_model_is_that_of_the_traffic_and_then_its_final_figures() {
    for row in Row::all() {
        let (server, _folder, page) = with_a_page(&row, &[]);
        let said = [10, 200, 3000];
        for length in said {
            echo(&mut server.connect(), &vec![7; length]);
        }
        let shown = within(PATIENCE, "three clients have left", || {
            Some(json(&page)).filter(|shown| shown["closed"] == 3)
        });
        assert_eq!(shown["event"], "status");
        assert_eq!(shown["state"], "running");
        assert_eq!(shown["model"], row.model);
        assert_eq!(shown["pid"], server.pid());
        assert_eq!(shown["bytes_in"], said.iter().sum::<usize>(), "{}: {shown}", row.label());
        assert_eq!(json(server.pid())["bytes_in"], shown["bytes_in"], "{}: by its number", row.label());
        let figures = server.stop().well();
        let shown = json(&page);
        assert_eq!((&shown["state"], &shown["accept_queue"]), (&"ended".into(), &Value::Null));
        for name in ["accepted", "closed", "refused", "active", "messages", "bytes_in", "bytes_out", "errors"]
        {
            assert_eq!(shown[name], figures[name], "{}: {name}", row.label());
        }
        let workers = shown["workers"].as_array().unwrap();
        assert_eq!(workers.len(), figures["workers"].as_array().unwrap().len());
        assert!(workers.iter().all(|worker| worker["state"] == "gone"), "{}: {shown}", row.label());
    }
}

fn who_waits_is_seen_in_the_pools_queue_and_in_the_kernels() {
    for (row, queue) in
        [(row("thread-pool", Some("queue")), "queued"), (row("iterative", None), "accept_queue")]
    {
        let server = match row.at_once {
            AtOnce::One => row.start(&[]),
            _ => row.start(&["--workers", "1"]),
        };
        let mut served = server.connect();
        echo(&mut served, b"first");
        let _waiting = [server.connect(), server.connect(), server.connect()];
        let shown = within(PATIENCE, "three clients wait", || {
            Some(json(server.pid())).filter(|shown| shown[queue] == 3)
        });
        assert_eq!(shown["active"], 1, "{shown}");
        assert_eq!(shown["workers"][0]["state"], "serving", "{shown}");
        assert!(status(&server.pid().to_string(), &[]).contains("serving 1"));
    }
}

fn the_accept_queue_is_the_sum_over_the_sockets_of_one_port() {
    let server = row("prefork", Some("reuseport")).start(&["--workers", "2"]);
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    within(PATIENCE, "18 clients wait, and whoever does not is served", || {
        let shown = json(server.pid());
        let [active, waiting] = ["active", "accept_queue"].map(|key| shown[key].as_u64().unwrap());
        (waiting >= 18 && active + waiting == 20).then_some(())
    });
    clients.clear();
}

fn a_worker_that_was_killed_is_seen_to_have_been_replaced() {
    let server = row("prefork", None).start(&["--workers", "2"]);
    let victim = within(PATIENCE, "a worker", || children(server.pid()).first().copied());
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    let shown = within(PATIENCE, "another worker in its place", || {
        let shown = json(server.pid());
        let idle = |worker: &Value| worker["state"] == "idle";
        let whole = shown["workers"].as_array().unwrap().iter().all(idle);
        (whole && shown["errors"]["worker_died"] == 1).then_some(shown)
    });
    let mut starts: Vec<u64> = shown["workers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|worker| worker["starts"].as_u64().unwrap())
        .collect();
    starts.sort_unstable();
    assert_eq!(starts, [1, 2]);
}

fn the_parent_of_several_endpoints_shows_each_and_a_server_only_its_own() {
    let row = row("event-loop", None);
    let server = row.start(&["tcp://127.0.0.1:0"]);
    let second = server.line();
    let servers: BTreeSet<i32> = children(server.pid()).into_iter().collect();
    assert_eq!(parent(second["pid"].as_i64().unwrap() as i32), Some(server.pid()));
    let shown = status(&server.pid().to_string(), &["--json"]);
    let shown: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pids = shown.iter().map(|shown| shown["pid"].as_i64().unwrap() as i32).collect();
    assert_eq!(servers, pids, "{shown:?}");
    for shown in shown {
        assert_eq!(json(&shown["pid"])["endpoint"], shown["endpoint"]);
    }
    let text = status(&server.pid().to_string(), &["--prometheus"]);
    let families = text.lines().filter(|line| line.starts_with("# TYPE echo_server_messages_total ")).count();
    assert_eq!(families, 1, "{text}");
}

fn the_table_fits_a_terminal_however_many_workers_there_are() {
    let row = row("prefork", None);
    let server = row.start(&["--workers", "100"]);
    let mut client = server.connect();
    echo(&mut client, b"hi");
    let table = within(PATIENCE, "every worker", || {
        Some(status(&server.pid().to_string(), &[])).filter(|table| table.contains("99 idle"))
    });
    assert!(table.contains("serving 1") && table.lines().count() < 24, "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
}

/// A server of datagrams that was stopped, and the status of it when the kernel had dropped some.
fn flooded() -> (Server, Value) {
    let server = udp("event-loop").start(&[]);
    ask(&server.client(), b"it serves");
    server.signal(Signal::SIGSTOP);
    let client = server.client();
    let shown = within(PATIENCE, "the kernel has dropped some", || {
        (0..50).for_each(|_| tell(&client, &[7; 60_000]));
        Some(json(server.pid())).filter(|shown| count(&shown["dropped"]["kernel"]) > 0)
    });
    (server, shown)
}

fn udp(model: &str) -> Row {
    Row::table_of(Transport::Udp).into_iter().find(|row| row.model == model).unwrap()
}

fn what_the_kernel_drops_and_holds_is_seen_while_it_does() {
    let (server, shown) = flooded();
    assert_eq!((&shown["datagrams_in"], &shown["accept_queue"]), (&1.into(), &Value::Null));
    assert!(count(&shown["receive_queue"]) > 60_000, "{shown}");
    let (_, samples) = scrape(&status(&server.pid().to_string(), &["--prometheus"]));
    let value = |name: &str| samples.iter().find(|sample| sample.metric == name).unwrap().value.clone();
    let Sample::Gauge(waiting) = value("echo_server_receive_queue_bytes") else { panic!("no gauge") };
    assert_eq!(Some(waiting), shown["receive_queue"].as_f64());
    let Sample::Counter(dropped) = value("echo_server_dropped_total") else { panic!("no counter") };
    assert_eq!(Some(dropped), shown["dropped"]["kernel"].as_f64());
    server.signal(Signal::SIGCONT);
    within(PATIENCE, "nothing waits any more", || (json(server.pid())["receive_queue"] == 0).then_some(()));
    let figures = server.stop().well();
    assert_eq!(figures["dropped"]["kernel"], shown["dropped"]["kernel"], "{figures}");
}

fn the_status_of_datagrams_speaks_of_no_connections_and_fits_a_terminal() {
    let (server, shown) = flooded();
    let table = status(&server.pid().to_string(), &[]);
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(table.contains(&format!("\ndropped: kernel {}\n", shown["dropped"]["kernel"])), "{table}");
    assert!(!table.contains("sessions"), "{table}");
    let view = watch(server.pid(), (80, 24));
    view.shows("datagrams in 0/s  out 0/s");
    view.shows("dropped: kernel");
    let screen = view.contents();
    let rates = screen.lines().find(|line| line.starts_with("datagrams in ")).unwrap();
    assert!(!rates.contains("accepted") && !screen.contains("sessions"), "{screen}");
    server.signal(Signal::SIGCONT);
    ends_at(view, "q");

    let sessions = udp("thread").start(&[]);
    ask(&sessions.client(), b"hello");
    // A session counts as begun once its thread is there; it may have answered before that.
    within(PATIENCE, "a session is counted", || {
        status(&sessions.pid().to_string(), &[]).contains("\nsessions 1  begun 1  refused 0\n").then_some(())
    });
}

/// The samples of an exposition by metric name, and the name's type; the lines that no reader may have to guess
/// at are checked beforehand.
fn scrape(text: &str) -> (BTreeMap<String, String>, Vec<prometheus_parse::Sample>) {
    assert!(text.ends_with('\n'));
    let (mut types, mut helps, mut family) = (BTreeMap::new(), BTreeSet::new(), String::new());
    let mut samples = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["#", "HELP", name, _, ..] => assert!(helps.insert(name.to_owned()), "{name} has two HELPs"),
            ["#", "TYPE", name, kind] => {
                assert!(helps.contains(name) && ["counter", "gauge"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} has two TYPEs");
                family = name.to_owned();
            }
            _ => {
                samples += 1;
                let (name, rest) = line.split_once('{').expect(line);
                assert_eq!(name, family, "a sample outside its family");
                let (_, value) = rest.rsplit_once("} ").expect(line);
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();
    assert_eq!(scrape.samples.len(), samples, "a parser reads every sample: {text}");
    (types, scrape.samples)
}

fn prometheus_reads_the_same_figures() {
    let (server, _folder, page) = with_a_page(&row("thread-pool", Some("queue")), &["--when-full", "reject"]);
    let mut client = server.connect();
    echo(&mut client, &[0; 1000]);
    // The answer is heard a moment before it is counted.
    let shown = within(PATIENCE, "the answer is counted", || {
        Some(json(&page)).filter(|shown| shown["bytes_out"] == 1000)
    });
    let text = status(&page, &["--prometheus"]);
    let (types, samples) = scrape(&text);
    let value = |name: &str, label: Option<(&str, &str)>| {
        let of = |sample: &&prometheus_parse::Sample| {
            sample.metric == name && label.is_none_or(|(name, value)| sample.labels.get(name) == Some(value))
        };
        let sample = samples.iter().find(of).unwrap_or_else(|| panic!("{name} is not in {text}"));
        assert_eq!(sample.labels.get("model"), Some("thread-pool"));
        assert_eq!(sample.labels.get("dispatch"), Some("queue"));
        assert_eq!(sample.labels.get("endpoint"), shown["endpoint"].as_str());
        match sample.value {
            Sample::Counter(value) | Sample::Gauge(value) => value,
            ref other => panic!("{name} is {other:?}"),
        }
    };
    for (name, field) in [
        ("echo_server_connections_accepted_total", "accepted"),
        ("echo_server_connections_active", "active"),
        ("echo_server_connections_refused_total", "refused"),
        ("echo_server_messages_total", "messages"),
        ("echo_server_bytes_received_total", "bytes_in"),
        ("echo_server_bytes_sent_total", "bytes_out"),
        ("echo_server_queue_length", "queued"),
        ("echo_server_accept_queue", "accept_queue"),
        ("echo_server_start_time_seconds", "started_unix_s"),
    ] {
        assert_eq!(Some(value(name, None)), shown[field].as_f64(), "{name}");
    }
    assert_eq!(value("echo_server_bytes_sent_total", None), 1000.0);
    assert_eq!(value("echo_server_up", None), 1.0);
    for worker in shown["workers"].as_array().unwrap() {
        let n = worker["n"].to_string();
        let messages = value("echo_server_worker_messages_total", Some(("worker", &n)));
        assert_eq!(Some(messages), worker["messages"].as_f64());
    }
    assert_eq!(types["echo_server_messages_total"], "counter");
    drop(server);
    let (_, samples) = scrape(&status(&page, &["--prometheus"]));
    let up = samples.iter().find(|sample| sample.metric == "echo_server_up").unwrap();
    assert_eq!(up.value, Sample::Gauge(0.0), "a killed server is down");
    assert_eq!(json(&page)["state"], "gone");
}

fn an_errors_kind_is_a_label_and_what_is_odd_in_a_label_is_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let (odd, page) = (folder.path().join("a\"b\\c"), folder.path().join("page"));
    let mut command = Command::new(echo_server());
    command.args(["--max-connections", "1", "--stats"]).arg(&page).arg(format!("unix://{}", odd.display()));
    let server = Server::spawn(command);
    assert_eq!(server.line()["event"], "listening");
    let _clients = [(); 3].map(|()| UnixStream::connect(&odd).unwrap());
    let page = page.to_str().unwrap();
    within(PATIENCE, "two clients are refused", || (json(page)["refused"] == 2).then_some(()));
    assert_eq!(json(page)["accept_queue"], Value::Null);
    let text = status(page, &["--prometheus"]);
    assert!(!text.contains("accept_queue"), "{text}");
    let line = text.lines().find(|line| line.starts_with("echo_server_errors_total{")).unwrap();
    assert!(line.contains(r#"kind="max_connections""#) && line.ends_with("} 2"), "{line}");
    assert!(line.contains(r#"a\"b\\c""#), "{line}");
}

fn what_is_no_page_gets_one_line_that_says_so() {
    let (server, folder, page) = with_a_page(&row("event-loop", None), &[]);
    let whole = fs::read(&page).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let changed = |at: usize, to: [u8; 4]| {
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&to);
        bytes
    };
    // The magic has 8 bytes; then come the layout, the sizes of its parts, the number of workers: 4 bytes each.
    for (of, word) in [
        (folder.path().join("nothing").to_str().unwrap(), "No such file"),
        (folder.path().to_str().unwrap(), "no page"),
        (&file("empty", b""), "no page"),
        (&file("foreign", &[b'x'; 10_000]), "no page"),
        (&file("magic", b"echopage"), "cut short"),
        (&file("short", &whole[..whole.len() - 1]), "cut short"),
        (&file("head", &whole[..700]), "cut short"),
        (&file("many", &changed(20, [0xff; 4])), "cut short"),
        (&file("newer", &changed(8, [9, 0, 0, 0])), "another version"),
        (&file("wider", &changed(16, [0, 1, 1, 0])), "another version"),
        ("/dev/null", "no page"),
        ("/dev/zero", "no page"),
        (&std::process::id().to_string(), "is it an echo-server?"),
        ("2147483647", "no such process"),
        ("0", "no such process"),
    ] {
        for form in [&[][..], &["--json"], &["--prometheus"]] {
            is_refused(&[&["status", of], form].concat(), word);
        }
    }
    is_refused(&["status", &page, "--watch"], "stdout is none");
    is_refused(&["status", &page, "--watch", "--json"], "--json");
    is_refused(&["status"], "FILE|PID");
    let mut garbled = whole.clone();
    garbled[24..].fill(0xff);
    for form in ["--json", "--prometheus"] {
        status(&file("garbled", &garbled), &[form]); // figures without sense, and no crash
    }
    server.stop().well();
}

#[track_caller]
fn is_refused(args: &[&str], word: &str) {
    let output = run(echo_server(), args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{args:?}: {said}");
    assert!(said.contains(word), "{args:?} should say {word:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?}");
}

fn a_page_that_cannot_be_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let (nowhere, here) = (format!("{folder}/no/page"), format!("{folder}/page"));
    let endpoint = "tcp://127.0.0.1:0";
    for (path, word) in [(folder, "no file"), ("/dev/null", "no file"), (&nowhere, "--stats")] {
        is_refused(&["--stats", path, endpoint], word);
    }
    is_refused(&["--stats", &here, endpoint, endpoint], "one endpoint");
    assert!(!Path::new(&here).exists());
}

/// The words before which a command sees other processes than ours by their numbers, or none.
const ELSEWHERE: [&[&str]; 3] = [
    &["unshare", "-pf", "--mount-proc", "--kill-child"],
    &["unshare", "-pf", "--kill-child"], // with a /proc that is not its own
    &["unshare", "-m", "sh", "-c", "umount -l /proc && exec \"$0\" \"$@\""], // with none at all
];

/// What `status` prints of a page, run behind such words.
#[track_caller]
fn status_behind(words: &[&str], page: &str, form: &[&str]) -> String {
    let args = [words, &[echo_server().to_str().unwrap(), "status", page], form].concat();
    let output = run(args[0].as_ref(), &args[1..]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// No view says of the server, or of a worker, that it runs, is gone, or for how long it has run.
#[track_caller]
fn is_unknown(words: &[&str], page: &str) {
    let shown: Value = serde_json::from_str(&status_behind(words, page, &["--json"])).unwrap();
    for name in ["state", "uptime_s", "accept_queue"] {
        assert_eq!(shown[name], Value::Null, "{words:?}: {name}: {shown}");
    }
    let workers = shown["workers"].as_array().unwrap();
    assert!(workers.iter().all(|worker| worker["state"] == Value::Null), "{words:?}: {shown}");
    assert_eq!((&shown["accepted"], &shown["model"]), (&1.into(), &"prefork".into()), "{shown}");
    let table = status_behind(words, page, &[]);
    assert!(table.contains("unknown: its processes cannot be seen from here"), "{words:?}: {table}");
    assert_eq!(table.matches("unknown").count(), 2 + workers.len(), "{words:?}: {table}");
    let samples = status_behind(words, page, &["--prometheus"]);
    assert!(!samples.contains("echo_server_up"), "{words:?}: {samples}");
    assert!(samples.contains("echo_server_connections_accepted_total"), "{words:?}: {samples}");
}

/// A container, say: the same number is another process there.
fn where_a_process_has_another_number_it_is_unknown_whether_the_server_runs() {
    if !Uid::effective().is_root() {
        return eprintln!("skipped: not root, who alone can have another pid namespace");
    }
    let (server, _folder, page) = with_a_page(&row("prefork", None), &[]);
    echo(&mut server.connect(), b"hello");
    within(PATIENCE, "it is counted", || (json(&page)["closed"] == 1).then_some(()));
    ELSEWHERE.iter().for_each(|words| is_unknown(words, &page));
    drop(server);
    assert_eq!(json(&page)["state"], "gone");
    ELSEWHERE.iter().for_each(|words| is_unknown(words, &page));

    // And the other way round: what runs there, seen from here.
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page").to_str().unwrap().to_owned();
    let mut inside = Command::new(ELSEWHERE[0][0]);
    inside.args(&ELSEWHERE[0][1..]).arg(echo_server());
    let server = row("prefork", None).start_by(inside, &["--workers", "2", "--stats", &page]);
    echo(&mut server.connect(), b"hello");
    within(PATIENCE, "it is counted", || (json(&page)["closed"] == 1).then_some(()));
    is_unknown(&["env"], &page);
    let view = watch(&page, (80, 24));
    view.shows("unknown: its processes");
    ends_at(view, "q");
    server.signal_all(Signal::SIGTERM);
    let shown = within(PATIENCE, "its end", || Some(json(&page)).filter(|shown| shown["state"] == "ended"));
    assert!(shown["uptime_s"].as_f64().is_some(), "that it ended it has said itself: {shown}");
    assert!(
        status(&page, &["--prometheus"])
            .lines()
            .any(|line| { line.starts_with("echo_server_up{") && line.ends_with("} 0") })
    );
}

fn who_got_the_number_of_a_killed_server_is_not_taken_for_it() {
    let (server, _folder, page) = with_a_page(&row("event-loop", None), &[]);
    assert_eq!(json(&page)["state"], "running");
    let pid = server.pid().cast_unsigned().to_ne_bytes();
    drop(server);
    // We have run for longer than it had.
    let mut bytes = fs::read(&page).unwrap();
    let at = bytes.windows(4).position(|bytes| bytes == pid).unwrap();
    bytes[at..at + 4].copy_from_slice(&std::process::id().to_ne_bytes());
    fs::write(&page, bytes).unwrap();
    let shown = json(&page);
    assert_eq!((&shown["pid"], &shown["state"]), (&std::process::id().into(), &"gone".into()), "{shown}");
}

/// `status --watch` in a terminal of its own.
fn watch(of: impl ToString, size: (u16, u16)) -> Terminal {
    Terminal::start(echo_server(), &["status", &of.to_string(), "--watch"], size)
}

fn uptime(screen: &str) -> Option<String> {
    screen.split_once("running for ").and_then(|(_, rest)| rest.lines().next().map(str::to_owned))
}

/// Presses a key, which ends it.
#[track_caller]
fn ends_at(mut watch: Terminal, key: &str) {
    assert!(watch.is_taken());
    watch.press(key);
    watch.ends(0);
}

fn the_live_view_shows_what_moves_and_leaves_the_terminal_as_it_was() {
    let server = row("prefork", None).start(&["--workers", "2"]);
    let view = watch(server.pid(), (80, 24));
    view.shows("prefork/accept");
    view.shows("clients 0  accepted 0");
    let mut client = server.connect();
    view.shows("serving 1");
    // The rate of what is going on now is not zero.
    within(PATIENCE, "a rate", || {
        (0..50).for_each(|_| echo(&mut client, b"again"));
        let screen = view.contents();
        (screen.contains("messages ") && !screen.contains("messages 0/s")).then_some(())
    });
    drop(client);
    view.shows("accepted 1 ");
    ends_at(view, "q");
}

fn every_key_that_should_end_the_live_view_does_and_so_does_no_other() {
    let server = row("event-loop", None).start(&[]);
    for key in ["\x1b", "\x03"] {
        let mut view = watch(server.pid(), (80, 24));
        view.shows("event-loop");
        view.press("x\r ");
        let began = uptime(&view.contents());
        view.comes_to("another uptime", |screen| (uptime(screen) != began).then_some(()));
        ends_at(view, key);
    }
}

fn the_live_view_leaves_the_terminal_as_it_was_when_it_is_told_to_end() {
    let server = row("event-loop", None).start(&[]);
    let view = watch(server.pid(), (80, 24));
    view.shows("event-loop");
    assert!(view.is_taken());
    kill(Pid::from_raw(view.pid()), Signal::SIGTERM).unwrap();
    view.ends(0);
}

fn the_live_view_says_that_the_server_has_ended() {
    for killed in [false, true] {
        let server = row("event-loop", None).start(&[]);
        let view = watch(server.pid(), (80, 24));
        view.shows("running");
        match killed {
            true => drop(server),
            false => drop(server.stop().well()),
        }
        view.shows(if killed { "gone without a word" } else { "ended after" });
        ends_at(view, "q");
    }
}

fn the_live_view_bears_every_size_of_terminal() {
    let server = row("prefork", None).start(&["--workers", "70"]);
    let mut client = server.connect();
    echo(&mut client, b"hi");
    let of = server.pid();
    let small = watch(of, (20, 5));
    small.shows("tcp://");
    ends_at(small, "q");
    let view = watch(of, (80, 24));
    view.shows("69 idle");
    for (cols, rows) in [(20, 5), (1, 1), (3, 200), (200, 2), (80, 1), (250, 100)] {
        view.resize(cols, rows);
        thread::sleep(std::time::Duration::from_millis(50)); // for it to draw in each
    }
    view.shows("serving 1");
    view.shows("running for");
    ends_at(view, "q");
}
