//! The contenders: an echo as ours, so that a comparison with them is one of like with like. What a comparison knows
//! of them stands in their catalogue.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use procfs::process::Process;
use serde_json::Value;
use socket2::SockRef;

use crate::{
    stage::{
        PATIENCE, ROOT, Row, Server, activity, children, echo, echo_client, fill, is_listened_at, noise, run,
        settled, tree, within,
    },
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_contender_echoes_under_load_survives_rude_clients_and_ends_with_its_children,
    a_contender_does_not_read_from_who_does_not_read_and_is_at_rest_meanwhile,
    a_forking_contender_reaps_who_left_and_a_pool_replaces_who_died,
    a_contender_without_descriptors_waits_for_some,
    many_can_wait_for_a_contender_that_is_slow_to_accept,
    a_contender_works_as_long_as_it_is_told,
    who_waits_for_whom_in_a_contender_is_as_its_style_says,
    the_contender_over_udp_echoes_every_size_to_whom_it_belongs_and_outlives_rude_clients,
    a_wrong_argument_of_a_contender_is_answered_with_its_usage,
    the_yardstick_of_loads_counts_what_the_server_answered,
    the_yardstick_of_loads_says_what_it_wants,
];

/// An entry of the catalogue.
pub struct Known {
    pub name: String,
    pub style: String,
    words: Vec<String>,
}

impl Known {
    /// All of them, built as far as the compilers are there.
    fn all() -> Vec<Self> {
        built();
        let text = fs::read_to_string(folder().join("contenders.toml")).unwrap();
        let catalogue: Value = toml::from_str(&text).unwrap();
        let built = folder().join(catalogue["built"].as_str().unwrap());
        let known = |entry: &Value| {
            let word = |of: &str| entry[of].as_str().unwrap().to_owned();
            let command = word("command").replace("{built}", built.to_str().unwrap());
            let words = command.split_whitespace().map(Into::into).collect();
            Self { name: word("name"), style: word("style"), words }
        };
        catalogue["contender"].as_array().unwrap().iter().map(known).collect()
    }

    /// Whether its program is there.
    fn is_there(&self) -> bool {
        let folders = env::var_os("PATH").unwrap_or_default();
        let is_file = |folder: PathBuf| folder.join(&self.words[0]).is_file();
        env::split_paths(&folders).any(is_file) || is_file(folder())
    }

    /// Those over TCP that are there; of the others it is said, also where the test's own words are kept from view.
    pub fn that_are_there() -> Vec<Self> {
        let (there, missing): (Vec<_>, Vec<_>) = Self::all().into_iter().partition(Self::is_there);
        for Self { name, words, .. } in missing {
            let _ = writeln!(io::stderr(), "{name}: skipped, there is no {}", words[0]);
        }
        there.into_iter().filter(|known| !known.name.ends_with("@udp")).collect()
    }

    /// Whether it has workers before it has clients.
    fn is_pool(&self) -> bool {
        self.words.iter().any(|word| word == "{workers}")
    }

    /// Its program, and what comes before the port.
    fn program(&self) -> Command {
        let mut words = self.words.iter().take_while(|word| *word != "{port}");
        let mut command = Command::new(words.next().unwrap());
        command.args(words).current_dir(folder());
        command
    }

    fn start(&self) -> Server {
        self.start_with("none")
    }

    fn start_with(&self, work: &str) -> Server {
        let rest = self.words.iter().skip_while(|word| *word != "{port}").skip(1);
        let rest = rest.map(|word| word.replace("{workers}", &WORKERS.to_string()).replace("{work}", work));
        start_by(self.program(), rest.collect())
    }
}

/// How many a pool is given.
const WORKERS: usize = 64;

/// How one over TCP is started in its folder, at `{port}`; `None` where its program is not there.
pub fn command(name: &str) -> Option<Vec<String>> {
    let known = Known::that_are_there().into_iter().find(|known| known.name == name)?;
    Some(known.words.iter().map(|word| word.replace("{work}", "none")).collect())
}

pub fn folder() -> PathBuf {
    Path::new(ROOT).join("examples/contenders")
}

/// The yardstick of loads.
fn client() -> &'static Path {
    built().iter().find(|program| program.ends_with("client")).expect("client.c is there")
}

/// The yardstick over UDP.
pub fn over_udp() -> &'static Path {
    built().iter().find(|program| program.ends_with("udp")).expect("udp.c is there")
}

/// Every program in C, freshly built as the Makefile builds it; and what other compilers there are for.
fn built() -> &'static [PathBuf] {
    static BUILT: OnceLock<Vec<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(ROOT);
        let made = Command::new("make").args(["-s", "contenders"]).current_dir(root).output().unwrap();
        assert!(made.stderr.is_empty(), "{}", String::from_utf8_lossy(&made.stderr));
        let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
        let sources = files.filter(|path| path.extension().is_some_and(|extension| extension == "c"));
        sources.map(|path| root.join("target/contenders").join(path.file_stem().unwrap())).collect()
    })
}

/// Starts one on a port that is free, which it cannot choose itself. It announces nothing; /proc/net/tcp
/// shows when it listens, whereas a connection to try it would be its first client.
fn start_by(mut command: Command, rest: Vec<String>) -> Server {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    command.arg(address.port().to_string()).args(rest);
    let mut server = Server::spawn(command);
    server.address = address;
    within(PATIENCE, "it listens", || is_listened_at(address).then_some(()));
    server
}

fn a_contender_echoes_under_load_survives_rude_clients_and_ends_with_its_children() {
    for known in Known::that_are_there() {
        let name = &known.name;
        let server = known.start();
        let mut witness = server.connect();
        echo(&mut witness, b"before");

        let endpoint = format!("tcp://{}", server.address);
        let args = ["load", &endpoint, "-c", "16", "-d", "200ms", "--warmup", "50ms", "--size", "20000"];
        let load = run(echo_client(), &args);
        assert!(load.status.success(), "{name}: {}", String::from_utf8_lossy(&load.stdout));

        hears_all_after_its_fin(server.connect());
        for n in 0..100 {
            resets_while_owed(server.connect(), n % 2 == 0);
        }
        echo(&mut witness, b"after");
        echo(&mut server.connect(), b"somebody new");

        ends_with_its_children(&server); // and with the witness still there
    }
}

/// Nobody runs any more. A child that has lost its parent is buried by init, which may take its time.
fn ends_with_its_children(server: &Server) {
    let family = tree(server.pid());
    server.signal(Signal::SIGTERM);
    within(PATIENCE, "its end", || {
        let runs = |process: &Process| process.stat().is_ok_and(|stat| stat.state != 'Z');
        (!family.iter().any(runs)).then_some(())
    });
}

fn hears_all_after_its_fin(client: TcpStream) {
    let (said, mut heard) = (noise(8 << 20), Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            (&client).write_all(&said).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        (&client).read_to_end(&mut heard).unwrap();
    });
    assert!(heard == said, "{} of {} bytes came back", heard.len(), said.len());
}

/// A reset after a FIN is what raises SIGPIPE in a server that does not ask it not to.
fn resets_while_owed(mut client: TcpStream, after_a_fin: bool) {
    client.write_all(&noise(100_000)).unwrap();
    if after_a_fin {
        client.shutdown(Shutdown::Write).unwrap();
    }
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

fn a_contender_does_not_read_from_who_does_not_read_and_is_at_rest_meanwhile() {
    for known in Known::that_are_there() {
        let server = known.start();
        let mut witness = server.connect();
        echo(&mut witness, b"before");
        let mut client = server.connect();
        let taken = fill(&client);
        client.set_nonblocking(false).unwrap();
        echo(&mut witness, b"meanwhile");
        settled(server.pid());

        let (cpu, _) = activity(server.pid());
        thread::sleep(Duration::from_millis(500)); // a stretch of rest, which is what is measured
        let spent = activity(server.pid()).0 - cpu;
        assert!(spent < Duration::from_millis(50), "{}: {spent:?} of CPU at rest", known.name);

        client.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert!(heard == noise(taken), "{}: {} of {taken} bytes came back", known.name, heard.len());
    }
}

fn a_forking_contender_reaps_who_left_and_a_pool_replaces_who_died() {
    for known in Known::that_are_there() {
        let server = known.start();
        let count = |n: usize| {
            let what = format!("{n} processes of {}", known.name);
            within(PATIENCE, &what, || (children(server.pid()).len() == n).then_some(()));
        };
        match (known.style.as_str(), known.is_pool()) {
            ("processes", false) => {
                let mut client = server.connect();
                echo(&mut client, b"one");
                count(1);
                drop(client);
                count(0);
            }
            ("processes", true) => {
                count(WORKERS);
                let victim = children(server.pid())[0];
                kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
                within(PATIENCE, "its burial", || (!children(server.pid()).contains(&victim)).then_some(()));
                count(WORKERS);
                for _ in 0..WORKERS {
                    echo(&mut server.connect(), b"served");
                }
            }
            _ => count(0),
        }
    }
}

fn a_contender_without_descriptors_waits_for_some() {
    for known in Known::that_are_there() {
        let server = known.start();
        echo(&mut server.connect(), b"all that it opens is open");
        within(PATIENCE, "only they are left who stay", || {
            let stay = if known.is_pool() { WORKERS } else { 0 };
            (children(server.pid()).len() == stay).then_some(())
        });
        settled(server.pid());
        let limit = |allowed: &dyn Fn(&Process) -> String| {
            for process in tree(server.pid()) {
                let args = [&format!("--nofile={}:", allowed(&process)), "--pid", &process.pid.to_string()];
                assert!(Command::new("prlimit").args(args).status().unwrap().success());
            }
        };
        let before = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
        limit(&|process| lowest_free_descriptor(process).to_string());
        let (cpu, _) = activity(server.pid());
        let mut client = server.connect();
        thread::sleep(Duration::from_millis(300)); // a stretch of want, which is what is measured
        let spent = activity(server.pid()).0 - cpu;
        assert!(spent < Duration::from_millis(100), "{}: {spent:?} of CPU in want", known.name);

        let usual = before.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let usual = usual.split_whitespace().next().unwrap().to_owned();
        limit(&|_| usual.clone());
        if known.name == "node" {
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "it closes whom it cannot keep");
        } else {
            echo(&mut client, b"there is one");
        }
        echo(&mut server.connect(), b"and more");
    }
}

/// The one that it would open next.
fn lowest_free_descriptor(process: &Process) -> i32 {
    let open: Vec<i32> = process.fd().unwrap().flatten().map(|descriptor| descriptor.fd).collect();
    (0..).find(|descriptor| !open.contains(descriptor)).unwrap()
}

fn many_can_wait_for_a_contender_that_is_slow_to_accept() {
    const MANY: usize = 600; // more than Node's 511, which is the largest default of a queue
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(8192)), hard).unwrap();
    for known in Known::that_are_there() {
        let server = known.start();
        echo(&mut server.connect(), b"it is there");
        server.signal_all(Signal::SIGSTOP);
        let wait = |n| {
            let waiting = TcpStream::connect_timeout(&server.address, Duration::from_millis(900));
            waiting.unwrap_or_else(|error| panic!("{}: client {n}: {error}", known.name))
        };
        let waiting: Vec<TcpStream> = (1..=MANY).map(wait).collect();
        drop(waiting);
        server.signal_all(Signal::SIGCONT);
        echo(&mut server.connect(), b"and served");
    }
}

fn a_contender_works_as_long_as_it_is_told() {
    for known in Known::that_are_there() {
        let server = known.start_with("cpu:100ms");
        let mut client = server.connect();
        echo(&mut client, b"awake");
        let (cpu, _) = activity(server.pid());
        echo(&mut client, b"work");
        let worked = activity(server.pid()).0 - cpu;
        let told = Duration::from_millis(95)..Duration::from_millis(150); // others of its threads have their share
        assert!(told.contains(&worked), "{}: {worked:?}", known.name);
    }
}

fn who_waits_for_whom_in_a_contender_is_as_its_style_says() {
    const CLIENTS: u32 = 4;
    let pause = Duration::from_millis(300);
    for known in Known::that_are_there() {
        let server = known.start_with("sleep:300ms");
        let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| echo(client, b"awake"));
        let began = Instant::now();
        clients.iter_mut().for_each(|client| client.write_all(b"!").unwrap());
        clients.iter_mut().for_each(|client| client.read_exact(&mut [0]).unwrap());
        let took = began.elapsed();
        match known.style.as_str() {
            "one loop" => assert!(took >= pause * CLIENTS, "{}: {took:?}", known.name),
            "tasks" | "threads" | "processes" => {
                assert!(took >= pause && took < pause * (CLIENTS - 1), "{}: {took:?}", known.name);
            }
            other => panic!("{}: {other}", known.name),
        }
    }
}

fn the_contender_over_udp_echoes_every_size_to_whom_it_belongs_and_outlives_rude_clients() {
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(over_udp());
    command.arg(address.port().to_string());
    let server = Server::spawn(command);
    within(PATIENCE, "its socket", || {
        procfs::net::udp().unwrap().iter().find(|it| it.local_address == address).map(|_| ())
    });
    let client = || {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    };
    let mut room = vec![0; 1 << 16];
    let clients = [client(), client()];
    for size in [0, 1, 512, 1472, 1473, 9000, 65507] {
        for (n, client) in clients.iter().enumerate() {
            client.send(&noise(size + n)[n..]).unwrap();
        }
        for (n, client) in clients.iter().enumerate() {
            let heard = client.recv(&mut room).unwrap();
            assert!(room[..heard] == noise(size + n)[n..], "{size} bytes");
        }
    }
    for _ in 0..100 {
        client().send(b"gone before the answer").unwrap();
    }
    let endpoint = format!("udp://{address}");
    let args = ["load", &endpoint, "-c", "16", "-d", "200ms", "--warmup", "50ms", "--size", "1000"];
    let load = run(echo_client(), &args);
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stdout));
    ends_with_its_children(&server);
}

fn a_wrong_argument_of_a_contender_is_answered_with_its_usage() {
    let is_refused = |program: Command, wrong: &[&str]| {
        let mut command = Command::new("timeout"); // who takes it for right serves for ever
        command.arg(PATIENCE.as_secs().to_string()).arg(program.get_program()).args(program.get_args());
        let said = command.args(wrong).current_dir(folder()).output().unwrap();
        assert_eq!(said.status.code(), Some(2), "{command:?}");
        assert!(String::from_utf8_lossy(&said.stderr).starts_with("usage: "), "{command:?}: {said:?}");
    };
    let wrong = [&[][..], &["0"], &["70000"], &["port"], &["7007", "x"], &["7007", "1", "1"]];
    let wrong_work =
        [&["7007", "--work"][..], &["7007", "--work", "much"], &["7007", "--work", "cpu:2parsecs"]];
    for known in Known::that_are_there() {
        wrong.iter().chain(&wrong_work).for_each(|words| is_refused(known.program(), words));
    }
    for program in [client(), over_udp()] {
        wrong.iter().for_each(|words| is_refused(Command::new(program), words));
    }
}

/// What is in its line.
fn counted(said: &str, name: &str) -> f64 {
    let word = said.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name}: {said}"))
}

fn the_yardstick_of_loads_counts_what_the_server_answered() {
    for depth in ["1", "16"] {
        let server = Row::all().pop().unwrap().start(&[]);
        let port = server.address.port().to_string();
        let output = run(client(), &[&port, "8", "64", "200", depth]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        let answers = counted(&said, "messages");
        assert!(answers > 1000.0 && counted(&said, "cpu_us_per_message") > 0.0, "{said}");
        let figures = server.stop().well();
        assert_eq!((&figures["accepted"], &figures["closed"]), (&8.into(), &8.into()), "{figures}");
        // What was on its way at the end is not counted by the client.
        let beyond = figures["bytes_out"].as_f64().unwrap() / 64.0 - answers;
        let most = 8.0 * depth.parse::<f64>().unwrap();
        assert!((0.0..=most).contains(&beyond), "{beyond}: {figures} {said}");
    }
}

fn the_yardstick_of_loads_says_what_it_wants() {
    let output = run(client(), &["7007"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("PORT CONNECTIONS BYTES MILLISECONDS [DEPTH]"));
}
