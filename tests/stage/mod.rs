//! The stage of the tests: the two programs, servers that are started and surely ended, clients with deadlines,
//! and what /proc says of processes. Clients of datagrams are in `datagrams`, what is kept of them in `groups`, and a
//! program's own terminal in `terminal`.

pub mod datagrams;
pub mod groups;
pub mod terminal;

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio},
    sync::{
        OnceLock,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use escargot::CargoBuild;
use nix::{
    libc,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use procfs::process::Process;
use serde_json::Value;

/// The folder of the whole workspace.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// How long anything may take before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `echo-server`, freshly built.
pub fn echo_server() -> &'static Path {
    built("echo-server")
}

/// `echo-client`, freshly built.
pub fn echo_client() -> &'static Path {
    built("echo-client")
}

/// A lesson, freshly built.
pub fn lesson(name: &str) -> &'static Path {
    built(name)
}

/// All programs are built together: for one alone cargo would choose other features of what it stands on, and
/// compile that again.
fn built(name: &str) -> &'static Path {
    static BUILT: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let manifest = Path::new(ROOT).join("Cargo.toml");
        let cargo = CargoBuild::new().manifest_path(manifest).arg("--workspace").bins().examples();
        let messages = cargo.exec().expect("cargo build");
        messages.filter_map(|message| program(&message.expect("a message of cargo's"))).collect()
    });
    built.get(name).unwrap_or_else(|| panic!("nothing here is called {name}"))
}

/// What cargo says that it has built, and where.
fn program(message: &escargot::Message) -> Option<(String, PathBuf)> {
    match message.decode().expect("cargo's messages are known") {
        escargot::format::Message::CompilerArtifact(artifact) => {
            Some((artifact.target.name.into_owned(), artifact.executable?.into_owned()))
        }
        _ => None,
    }
}

/// Asks again and again until there is an answer; fails the test when there is none in time.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < patience, "{what}: not within {patience:?}");
        // What is asked for long is asked for less often: others need the processor too.
        thread::sleep((began.elapsed() / 16).clamp(Duration::from_millis(2), Duration::from_millis(50)));
    }
}

/// What the calling thread does from now on, and what it starts, happens on one processor: loopback keeps the order of
/// what one sends.
pub fn stay_on_one_processor() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the processors allowed");
    let first = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu) == Ok(true)).expect("one at least");
    let mut one = CpuSet::new();
    one.set(first).expect("a processor that is allowed");
    sched_setaffinity(Pid::from_raw(0), &one).expect("this thread is ours");
}

/// Whether somebody listens at an address of IPv4. (Those who listen come first in /proc/net/tcp; behind them is a line for
/// every connection that has ended lately.)
pub fn is_listened_at(address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else { panic!("{address} is not of IPv4") };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let lines =
        BufReader::new(File::open("/proc/net/tcp").expect("/proc/net/tcp")).lines().map_while(Result::ok);
    let mut listening = lines.skip(1).take_while(|line| line.split_whitespace().nth(3) == Some("0A"));
    listening.any(|line| line.split_whitespace().nth(1) == Some(&local))
}

/// What a server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// As endpoints and `models --json` spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A row of the models' table, with one of its dispatches, and one of the things that its workers may be.
#[derive(Clone, Debug)]
pub struct Row {
    pub transport: Transport,
    pub model: String,
    pub dispatch: Option<String>,
    pub isolate: Option<String>,
    pub workers: Option<usize>,
    pub at_once: AtOnce,
    /// An option that its server is given, unless a test gives another value.
    pub option: Option<(&'static str, &'static str)>,
    /// Why it cannot run here.
    pub why_not: Option<String>,
}

/// Under which every row is to keep its promises as well. Datagrams know no buffer.
pub const OPTIONS: [(&str, &str); 2] = [("--work", "cpu:20us"), ("--buffer", "1")];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtOnce {
    One,
    OneAWorker,
    All,
}

impl Row {
    /// Every row of TCP that can run here.
    pub fn all() -> Vec<Self> {
        Self::table().into_iter().filter(|row| row.why_not.is_none()).collect()
    }

    /// Every row of TCP.
    pub fn table() -> Vec<Self> {
        Self::table_of(Transport::Tcp)
    }

    /// Every row that takes `transport`, as `echo-server models --json` tells it.
    pub fn table_of(transport: Transport) -> Vec<Self> {
        let said = run(echo_server(), &["models", "--json"]).stdout;
        let table: Value = serde_json::from_slice(&said).expect("models --json is JSON");
        let mut rows = Vec::new();
        let serves = |model: &&Value| {
            let transports = model["transports"].as_array().expect("a list of transports");
            transports.iter().any(|name| name == transport.name())
        };
        for model in table["models"].as_array().expect("a list of models").iter().filter(serves) {
            let why_not = model["why_not"].as_str().map(str::to_owned);
            let at_once = match model["clients_at_once"].as_str() {
                Some("one") => AtOnce::One,
                Some("one_a_worker") => AtOnce::OneAWorker,
                _ => AtOnce::All,
            };
            let name = model["name"].as_str().expect("a name").to_owned();
            for dispatch in choices(&model["dispatches"][transport.name()]) {
                for isolate in choices(&model["isolates"]) {
                    let dispatch = dispatch.clone();
                    let model = name.clone();
                    let (workers, option, why_not) = (None, None, why_not.clone());
                    rows.push(Self {
                        transport,
                        model,
                        dispatch,
                        isolate,
                        workers,
                        at_once,
                        option,
                        why_not,
                    });
                }
            }
            if name == "async" {
                // Its single-threaded runtime is another one.
                rows.extend(rows.last().map(|row| Self { workers: Some(1), ..row.clone() }));
            }
        }
        rows
    }

    pub fn label(&self) -> String {
        let workers = self.workers.map(|n| format!("workers={n}"));
        let option = self.option.map(|(name, value)| format!("{name} {value}"));
        let transport = (self.transport == Transport::Udp).then(|| "udp".to_owned());
        let model = Some(self.model.clone());
        let parts = [transport, model, self.dispatch.clone(), self.isolate.clone(), workers, option];
        parts.into_iter().flatten().collect::<Vec<_>>().join("/")
    }

    /// The same under an option.
    pub fn under(&self, option: (&'static str, &'static str)) -> Self {
        Self { option: Some(option), ..self.clone() }
    }

    /// Whether it is to be tested as it is, under no option.
    pub fn is_plain(&self) -> bool {
        self.option.is_none()
    }

    /// So much noise as it echoes in a moment: little, where each byte is a message.
    pub fn much(&self, length: usize) -> Vec<u8> {
        noise(if self.is_bytewise() { length >> 7 } else { length })
    }

    /// Whether each byte is a message.
    pub fn is_bytewise(&self) -> bool {
        self.option == Some(("--buffer", "1"))
    }

    /// Whether several clients are served at once.
    pub fn is_concurrent(&self) -> bool {
        self.at_once != AtOnce::One
    }

    /// Whether all its workers listen on one socket.
    pub fn shares_a_listener(&self) -> bool {
        self.dispatch.as_deref() != Some("reuseport")
    }

    /// Whether it is a loop, or several, that asks the kernel what is ready or done.
    pub fn is_loop(&self) -> bool {
        ["select", "poll", "event-loop", "multi-reactor", "io-uring"].contains(&self.model.as_str())
    }

    pub fn is_pool(&self) -> bool {
        self.at_once == AtOnce::OneAWorker
    }

    /// Whether it has children that serve.
    pub fn forks(&self) -> bool {
        ["fork", "prefork"].contains(&self.model.as_str()) || self.isolate.as_deref() == Some("processes")
    }

    /// Whether its workers are processes that are replaced.
    pub fn is_kept_whole(&self) -> bool {
        self.forks() && self.model != "fork"
    }

    /// What its server is told on the command line; `more` goes before what is usual.
    pub fn options(&self, more: &[&str]) -> Vec<String> {
        let mut args = vec!["--model".into(), self.model.clone()];
        if let Some(dispatch) = &self.dispatch {
            args.extend(["--dispatch".into(), dispatch.clone()]);
        }
        if let Some(isolate) = &self.isolate {
            args.extend(["--isolate".into(), isolate.clone()]);
        }
        if let Some(workers) = self.workers.filter(|_| !more.contains(&"--workers")) {
            args.extend(["--workers".into(), workers.to_string()]);
        }
        if let Some((name, value)) = self.option.filter(|(name, _)| !more.contains(name)) {
            args.extend([name.into(), value.into()]);
        }
        args
    }

    /// A server of this row, on a free port of 127.0.0.1.
    pub fn start(&self, more: &[&str]) -> Server {
        self.start_by(Command::new(echo_server()), more)
    }

    /// A server of this row, for so many clients at once.
    pub fn start_for(&self, clients: usize, more: &[&str]) -> Server {
        let clients = clients.to_string();
        let mut args = more.to_vec();
        if self.is_pool() {
            args.extend(["--workers", &clients]);
        }
        self.start(&args)
    }

    /// A server of this row, by a command that ends with the program's name.
    pub fn start_by(&self, command: Command, more: &[&str]) -> Server {
        self.start_at("127.0.0.1:0", command, more)
    }

    /// The same, at an address.
    pub fn start_at(&self, address: &str, command: Command, more: &[&str]) -> Server {
        let mut command = self.command(command, more);
        command.arg(format!("{}://{address}", self.transport.name()));
        Server::start(command)
    }

    /// The command, which ends with the program's name, with the arguments that make it this row's server; the
    /// endpoint is left to say.
    pub fn command(&self, mut command: Command, more: &[&str]) -> Command {
        command.args(self.options(more)).args(more).stdin(Stdio::null());
        command
    }
}

/// What there is to choose from in a list of names; where it is empty, nothing.
fn choices(names: &Value) -> Vec<Option<String>> {
    let names = names.as_array().expect("a list of names");
    match names.is_empty() {
        true => vec![None],
        false => names.iter().map(|name| name.as_str().map(Into::into)).collect(),
    }
}

/// A server that runs. When this is dropped, it and all that it started are killed.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    pub address: SocketAddr,
}

/// How a server ended.
pub struct Ended {
    pub status: ExitStatus,
    pub took: Duration,
    pub figures: Value,
}

impl Server {
    /// Starts it, and waits for its `listening` line.
    pub fn start(command: Command) -> Self {
        let mut server = Self::spawn(command);
        server.address = address_in(&server.line());
        server
    }

    /// Starts it, and leaves it to find out where it listens.
    pub fn spawn(mut command: Command) -> Self {
        command.process_group(0).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the server starts");
        let stdout = child.stdout.take().expect("its stdout is a pipe");
        let (line, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|text| line.send(text))
        });
        let address = ([127, 0, 0, 1], 0).into();
        Self { child, lines, address }
    }

    /// Its stderr, where that is a pipe.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Its next line on stdout.
    pub fn line(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("a line on the server's stdout");
        serde_json::from_str(&line).expect("a line of JSON")
    }

    /// Its next line that has these words in it.
    #[track_caller]
    pub fn says(&self, words: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("it did not say {words:?}: {error}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    /// All that it still says, and how it ends.
    #[track_caller]
    pub fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let mut said = Vec::new();
        let error = loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => said.push(line),
                Err(error) => break error,
            }
        };
        assert_eq!(error, RecvTimeoutError::Disconnected, "it does not end; it said {said:#?}");
        (within(PATIENCE, "its end", || self.child.try_wait().ok().flatten()), said)
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the server is there");
    }

    /// To it, and to all that it has started.
    pub fn signal_all(&self, signal: Signal) {
        killpg(Pid::from_raw(self.pid()), signal).expect("the server is there");
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGTERM, and what follows.
    pub fn stop(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.end()
    }

    /// Waits for its end; no process may be left.
    pub fn end(mut self) -> Ended {
        let began = Instant::now();
        let status = within(PATIENCE, "the server's end", || self.child.try_wait().ok().flatten());
        let took = began.elapsed();
        let group = Pid::from_raw(self.pid());
        // Orphans count until init has reaped them, which takes its time.
        within(PATIENCE, "all its processes' end", || killpg(group, None).is_err().then_some(()));
        let lines: Vec<String> = self.lines.iter().collect();
        let figures = lines.last().map_or(Value::Null, |line| serde_json::from_str(line).expect("JSON"));
        Ended { status, took, figures }
    }
}

impl Ended {
    /// It ended as it should, and closed whom it accepted. A datagram that it received was answered, or counted
    /// under the reason why not; unless the worker that had it was killed.
    #[track_caller]
    pub fn well(self) -> Value {
        assert!(self.status.success(), "{}", self.status);
        let figures = &self.figures;
        assert_eq!(figures["event"], "final");
        assert_eq!(figures["accepted"], figures["closed"], "{figures}");
        assert_eq!(figures["active"], 0, "{figures}");
        if figures["errors"]["worker_died"].is_null() {
            let received = count(&figures["datagrams_in"]);
            assert_eq!(received, count(&figures["datagrams_out"]) + unanswered(figures), "{figures}");
        }
        self.figures
    }
}

/// Sends a server, and each process that it has started, every signal that it does not use and whose default action is to
/// end it.
pub fn send_unused_signals(server: &Server) {
    let unused = [
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGSTKFLT,
        libc::SIGXCPU,
        libc::SIGXFSZ,
    ];
    let signals = unused.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
    let numbers = signals.map(|signal| signal.to_string()).collect::<Vec<_>>().join(" ");
    let pids = tree(server.pid()).iter().map(|process| process.pid.to_string()).collect::<Vec<_>>().join(" ");
    let send = format!("for signal in {numbers}; do kill -$signal {pids} || exit; done");
    assert!(run("sh".as_ref(), &["-c", &send]).status.success(), "{send}");
}

/// No worker's place was filled twice by now, and nothing went wrong. (When the server ends, a worker that ends first may be
/// replaced once more.)
#[track_caller]
pub fn nobody_was_replaced(server: &Server) {
    let status = datagrams::status(server);
    assert_eq!(status["errors"], serde_json::json!({}), "{status}");
    let starts = status["workers"].as_array().expect("workers").iter().map(|worker| count(&worker["starts"]));
    assert!(starts.max() == Some(1), "{status}");
}

/// Why a datagram that was received is not answered.
const UNANSWERED: [&str; 11] = [
    "reflection",
    "not_to_one",
    "truncated",
    "rate_limit",
    "undeliverable",
    "send_buffer",
    "loop",
    "busy",
    "unserved",
    "unanswered",
    "cut",
];

/// How many datagrams were received and not answered.
pub fn unanswered(figures: &Value) -> u64 {
    UNANSWERED.iter().map(|why| count(&figures["dropped"][why])).sum()
}

/// A counter of the figures; one that never counted is not there.
pub fn count(figure: &Value) -> u64 {
    figure.as_u64().unwrap_or(0)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

pub fn address_in(listening: &Value) -> SocketAddr {
    assert_eq!(listening["event"], "listening");
    let endpoint = listening["endpoint"].as_str().expect("an endpoint");
    let address = endpoint.strip_prefix("tcp://").or_else(|| endpoint.strip_prefix("udp://"));
    address.and_then(|address| address.parse().ok()).expect("an endpoint with an address")
}

/// A client that waits for nothing longer than [`PATIENCE`].
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server takes connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// Says something and waits until it has come back.
#[track_caller]
pub fn echo(stream: &mut TcpStream, said: &[u8]) {
    stream.write_all(said).expect("sent");
    let mut heard = vec![0; said.len()];
    stream.read_exact(&mut heard).expect("it comes back");
    assert!(heard == said, "something else came back");
}

/// Where descriptors are few: a pool that needs some for each worker is to have few workers.
pub fn few_workers(row: &Row) -> &'static [&'static str] {
    match row.dispatch.as_deref() {
        Some("reuseport" | "pass-fd") if row.is_pool() => &["--workers", "8"],
        _ => &[],
    }
}

/// All of them speak; which one is answered first. (A server that has several accept queues and few descriptors
/// may leave one of them waiting.)
pub fn first_served(clients: &mut [TcpStream]) -> usize {
    for client in clients.iter_mut() {
        client.write_all(b"in").expect("sent");
        client.set_nonblocking(true).expect("non-blocking");
    }
    let first = within(PATIENCE, "somebody is served", || {
        clients.iter_mut().position(|client| matches!(client.read(&mut [0; 2]), Ok(2)))
    });
    clients.iter().for_each(|client| client.set_nonblocking(false).expect("blocking"));
    first
}

/// Bytes that differ from place to place, of every value.
pub fn noise(length: usize) -> Vec<u8> {
    endless_noise()[..length].to_vec()
}

/// More noise than any server may take.
fn endless_noise() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut x = 0x9e37_79b9u32;
        let noise = std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x.to_le_bytes()[1]
        });
        noise.take(64 << 20).collect()
    })
}

/// Writes [`noise`] until nothing more is taken for a while; how much was taken.
pub fn fill(client: &TcpStream) -> usize {
    client.set_nonblocking(true).expect("non-blocking");
    let all = endless_noise();
    let mut taken = 0;
    let mut refusals = 0;
    // Also a server that has not come to it yet takes nothing: that it does shows in what has come back.
    while refusals < 50 || client.peek(&mut [0]).is_err() {
        match (&mut &*client).write(&all[taken..]) {
            Ok(n) => (taken, refusals) = (taken + n, 0),
            Err(_) => {
                refusals += 1;
                thread::sleep(Duration::from_millis(2));
            }
        }
        assert!(refusals < 15_000, "nobody serves this client");
        assert!(taken < all.len(), "the server takes without bound");
    }
    taken
}

/// Runs a program to its end.
pub fn run(program: &Path, args: &[&str]) -> Output {
    run_with(program, args, b"")
}

/// Runs a program to its end, with something on its stdin.
pub fn run_with(program: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut input = child.stdin.take().expect("a pipe");
    thread::scope(|scope| {
        scope.spawn(move || drop(input.write_all(stdin)));
        child.wait_with_output().expect("it ends")
    })
}

/// A process and its descendants.
pub fn tree(root: i32) -> Vec<Process> {
    let mut found = Vec::new();
    let mut to_look_at = vec![root];
    while let Some(pid) = to_look_at.pop() {
        let Ok(process) = Process::new(pid) else { continue };
        for task in process.tasks().into_iter().flatten().flatten() {
            to_look_at.extend(task.children().unwrap_or_default().into_iter().map(u32::cast_signed));
        }
        found.push(process);
    }
    found
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    tree(pid).iter().map(|process| process.pid).filter(|&child| child != pid).collect()
}

/// The parent of a process.
pub fn parent(pid: i32) -> Option<i32> {
    Some(Process::new(pid).ok()?.stat().ok()?.ppid)
}

/// What a server holds: processes (zombies included), threads, descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holdings {
    pub processes: usize,
    pub threads: usize,
    pub descriptors: usize,
}

pub fn holdings(root: i32) -> Holdings {
    let tree = tree(root);
    Holdings {
        processes: tree.len(),
        threads: tree.iter().filter_map(|p| p.tasks().ok()).map(Iterator::count).sum(),
        descriptors: tree.iter().filter_map(|p| p.fd_count().ok()).sum(),
    }
}

/// Memory of a server, in bytes (PSS over its processes).
pub fn pss(root: i32) -> u64 {
    rollup(root, "Pss")
}

/// The same without its files, a part of which is the less a server's the more others run.
pub fn anonymous_memory(root: i32) -> u64 {
    rollup(root, "Pss_Anon")
}

/// A sum over what proc_pid_smaps(5) tells of its processes.
fn rollup(root: i32, what: &str) -> u64 {
    let rollups = tree(root).into_iter().filter_map(|process| process.smaps_rollup().ok());
    rollups
        .flat_map(|rollup| rollup.memory_map_rollup)
        .filter_map(|map| map.extension.map.get(what).copied())
        .sum()
}

/// What a server holds once that stands still.
pub fn settled(pid: i32) -> Holdings {
    let mut last = (holdings(pid), 0);
    within(PATIENCE, "what the server holds stands still", || {
        let now = holdings(pid);
        last = (now, if now == last.0 { last.1 + 1 } else { 0 });
        (last.1 > 25).then_some(now)
    })
}

/// Waits until a server does nothing any more.
pub fn until_quiet(pid: i32) {
    const QUIET: Duration = Duration::from_millis(250);
    let (mut last, mut since) = (activity(pid), Instant::now());
    within(PATIENCE, "quiet", || {
        let now = activity(pid);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > QUIET).then_some(())
    });
}

/// What went wrong with whom, by the rows' labels.
pub type Watched = HashMap<String, Result<(), String>>;

/// Watches each row's servers while nobody speaks to them: they do nothing. All rows share the time in which they are
/// watched.
pub fn watch_idle<C>(transport: Transport, start: impl Fn(&Row) -> (Vec<Server>, C)) -> Watched {
    let rows = Row::table_of(transport).into_iter().filter(|row| row.why_not.is_none());
    // A row that does not start is not the others' failure.
    let started = |row: Row| (row.label(), catch_unwind(AssertUnwindSafe(|| start(&row))).ok());
    let all: Vec<_> = rows.map(started).collect();
    let servers = || all.iter().filter_map(|(_, started)| started.as_ref()).flat_map(|(servers, _)| servers);
    servers().for_each(|server| until_quiet(server.pid()));
    let activities =
        || servers().map(|server| (server.pid(), activity(server.pid()))).collect::<HashMap<_, _>>();
    let before = activities();
    thread::sleep(Duration::from_secs(2)); // the time that is measured
    let after = activities();
    let judge = |(servers, _): &(Vec<Server>, C)| {
        let seen = |server: &Server| [before[&server.pid()], after[&server.pid()]];
        let restless = servers.iter().map(seen).find(|[before, after]| before != after);
        restless.map_or(Ok(()), |seen| Err(format!("CPU time and wake-ups of an idle server: {seen:?}")))
    };
    let judged = |(label, started): &(String, Option<_>)| {
        (label.clone(), started.as_ref().map_or(Err("it does not start".into()), judge))
    };
    all.iter().map(judged).collect()
}

/// CPU time of a server, and how often its threads have slept and been woken or interrupted.
pub fn activity(root: i32) -> (Duration, u64) {
    let mut cpu = Duration::ZERO;
    let mut switches = 0;
    for process in tree(root) {
        for task in process.tasks().into_iter().flatten().flatten() {
            let Ok(status) = task.status() else { continue };
            switches += status.voluntary_ctxt_switches.unwrap_or(0);
            switches += status.nonvoluntary_ctxt_switches.unwrap_or(0);
            cpu +=
                task.schedstat().map_or(Duration::ZERO, |stat| Duration::from_nanos(stat.sum_exec_runtime));
        }
    }
    (cpu, switches)
}
