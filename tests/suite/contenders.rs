//! The contenders in C: an echo as ours, so that a comparison with them is one of like with like.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::{net::TcpState, process::Process};
use socket2::SockRef;

use crate::stage::{PATIENCE, Row, Server, activity, children, echo, echo_client, noise, run, tree, within};

/// Every contender that serves over TCP.
fn contenders() -> impl Iterator<Item = &'static PathBuf> {
    all().iter().filter(|program| !program.ends_with("udp") && !program.ends_with("client"))
}

/// The yardstick of loads.
fn client() -> &'static Path {
    all().iter().find(|program| program.ends_with("client")).expect("client.c is there")
}

/// The yardstick over UDP.
pub fn over_udp() -> &'static Path {
    all().iter().find(|program| program.ends_with("udp")).expect("udp.c is there")
}

/// Every contender, freshly built as the Makefile builds it.
fn all() -> &'static [PathBuf] {
    static BUILT: OnceLock<Vec<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = fs::read_dir(root.join("examples/contenders")).unwrap();
        let programs: Vec<PathBuf> = files
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
            .map(|path| Path::new("target/contenders").join(path.file_stem().unwrap()))
            .collect();
        let made = Command::new("make").arg("-s").args(&programs).current_dir(root).output().unwrap();
        assert!(made.stderr.is_empty(), "{}", String::from_utf8_lossy(&made.stderr));
        programs.iter().map(|program| root.join(program)).collect()
    })
}

fn start(program: &Path) -> Server {
    start_by(Command::new(program))
}

/// Starts one on a port that is free, which it cannot choose itself. It announces nothing; /proc/net/tcp
/// shows when it listens, whereas a connection to try it would be its first client.
fn start_by(mut command: Command) -> Server {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    command.arg(address.port().to_string());
    let mut server = Server::spawn(command);
    server.address = address;
    within(PATIENCE, "it listens", || {
        let sockets = procfs::net::tcp().unwrap();
        sockets.iter().find(|it| it.state == TcpState::Listen && it.local_address == address).map(|_| ())
    });
    server
}

#[test]
fn a_contender_echoes_under_load_survives_rude_clients_and_ends_with_its_children() {
    for program in contenders() {
        let name = program.display();
        let server = start(program);
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

#[test]
fn a_forking_contender_reaps_who_left_and_a_pool_replaces_who_died() {
    for program in contenders() {
        let server = start(program);
        let count = |n: usize| {
            within(PATIENCE, "its processes", || (children(server.pid()).len() == n).then_some(()));
        };
        match program.file_name().unwrap().to_str() {
            Some("fork") => {
                let mut client = server.connect();
                echo(&mut client, b"one");
                count(1);
                drop(client);
                count(0);
            }
            Some("prefork") => {
                count(64);
                let victim = children(server.pid())[0];
                kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
                within(PATIENCE, "its burial", || (!children(server.pid()).contains(&victim)).then_some(()));
                count(64);
                for _ in 0..64 {
                    echo(&mut server.connect(), b"served");
                }
            }
            _ => count(0),
        }
    }
}

#[test]
fn a_contender_without_descriptors_waits_for_some() {
    for program in contenders() {
        if program.ends_with("epoll") || program.ends_with("poll") {
            continue; // they do nothing that an echo can do without
        }
        let limit = |args: &[&str]| {
            let mut command = Command::new("prlimit");
            command.args(args);
            command
        };
        // Room for the standard three and the listener; the hard limit stays.
        let server = start_by(limit(&["--nofile=4:", program.to_str().unwrap()]));
        let mut client = server.connect();
        thread::sleep(Duration::from_millis(300));
        let (cpu, _) = activity(server.pid());
        assert!(cpu < Duration::from_millis(100), "{}: {cpu:?}", program.display());
        for process in tree(server.pid()) {
            let pid = process.pid.to_string();
            assert!(limit(&["--nofile=5:", "--pid", &pid]).status().unwrap().success());
        }
        echo(&mut client, b"there is one");
    }
}

#[test]
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

#[test]
fn a_wrong_argument_of_a_contender_is_answered_with_its_usage() {
    for program in all() {
        for wrong in [&[][..], &["0"], &["70000"], &["port"], &["7007", "x"], &["7007", "1", "1"]] {
            let said = run(program, wrong);
            assert_eq!(said.status.code(), Some(2), "{wrong:?}");
            assert!(String::from_utf8_lossy(&said.stderr).starts_with("usage: "), "{wrong:?}");
        }
    }
}

/// What is in its line.
fn counted(said: &str, name: &str) -> f64 {
    let word = said.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name}: {said}"))
}

#[test]
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

#[test]
fn the_yardstick_of_loads_says_what_it_wants() {
    let output = run(client(), &["7007"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("PORT CONNECTIONS BYTES MILLISECONDS [DEPTH]"));
}
