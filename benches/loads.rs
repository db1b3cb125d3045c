//! What an answer costs the load, beside a plain epoll client in C that verifies nothing, and beside sockperf where it
//! is installed. They take turns in the blocks of one run, there and back; a figure is the median over blocks of the
//! ratio within a block. The servers are on the first processor, the loads on the last. `make bench-loads`.

use std::{
    env,
    error::Error,
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};
use procfs::net::TcpState;
use serde_json::Value;

type Outcome<T> = Result<T, Box<dyn Error>>;

const BLOCKS: usize = 11;
const CONNECTIONS: &str = "64";
const BYTES: &str = "64";
const MILLISECONDS: &str = "600";

/// What was seen of a load, in one run or in several.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// CPU time an answer, in microseconds.
    cpu: f64,
    /// Answers a second.
    rate: f64,
}

/// Who takes part, and how it is run once.
struct Contender {
    name: &'static str,
    run: Box<dyn Fn() -> Outcome<Seen>>,
}

/// What runs for as long as this lives.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Outcome<()> {
    if env::args().any(|argument| argument == "--test") {
        return Ok(()); // it measures, and promises nothing
    }
    if thread::available_parallelism()?.get() < 2 {
        return Err("the servers and the loads want a processor each, and there is one".into());
    }
    let server = port()?;
    let _server = serve(server, Command::new("target/contenders/epoll").arg(server.to_string()))?;
    println!(
        "{CONNECTIONS} connections, {BYTES} bytes; {BLOCKS} blocks of {MILLISECONDS} ms each, there and back"
    );

    let theirs = port()?;
    let mut sockperf = Command::new("sockperf");
    sockperf.args(["server", "--tcp", "-i", "127.0.0.1", "-p", &theirs.to_string()]);
    let _sockperf = serve(theirs, &mut sockperf).ok();
    let mut contenders = of_depth(server, "1");
    match _sockperf {
        Some(_) => contenders
            .push(Contender { name: "sockperf ping-pong", run: Box::new(move || ping_pong(theirs)) }),
        None => println!("sockperf is not installed, and takes no part (Debian: sockperf)"),
    }
    let one = compare("a message on its way", &contenders)?;
    let many = compare("16 messages on their way", &of_depth(server, "16"))?;
    println!("\nload answers {:.1} times as many a second with 16 as with one", many / one);
    Ok(())
}

fn of_depth(port: u16, depth: &'static str) -> Vec<Contender> {
    let load = move |engine| Box::new(move || load(port, depth, engine));
    vec![
        Contender { name: "epoll client in C", run: Box::new(move || in_c(port, depth)) },
        Contender { name: "load, io-uring", run: load("io-uring") },
        Contender { name: "load, mio", run: load("mio") },
    ]
}

/// Prints what each costs, and against the first; returns the rate of the second.
fn compare(what: &str, contenders: &[Contender]) -> Outcome<f64> {
    let mut seen = vec![Vec::new(); contenders.len()];
    for _ in 0..BLOCKS {
        let mut block = vec![Seen::default(); contenders.len()];
        for n in (0..contenders.len()).chain((0..contenders.len()).rev()) {
            let Seen { cpu, rate } = (contenders[n].run)()?;
            block[n].cpu += cpu / 2.0;
            block[n].rate += rate / 2.0;
        }
        seen.iter_mut().zip(block).for_each(|(seen, of_block)| seen.push(of_block));
    }
    println!("\n{what:<26}  CPU an answer   against the first [least, most]   answers a second");
    for (Contender { name, .. }, of_this) in contenders.iter().zip(&seen) {
        let ratios = sorted(of_this.iter().zip(&seen[0]).map(|(this, first)| this.cpu / first.cpu));
        let [cpu, rate] =
            [|seen: &Seen| seen.cpu, |seen: &Seen| seen.rate].map(|of| median(of_this.iter().map(of)));
        let (ratio, least, most) = (ratios[BLOCKS / 2], ratios[0], ratios[BLOCKS - 1]);
        println!("{name:<26}  {cpu:>10.3} us   {ratio:>8.3} [{least:.3}, {most:.3}] {rate:>26.0}");
    }
    Ok(median(seen[1].iter().map(|seen| seen.rate)))
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    sorted(figures)[BLOCKS / 2]
}

fn in_c(port: u16, depth: &str) -> Outcome<Seen> {
    let port = port.to_string();
    let said = said(&mut on_the_last(&[
        "target/contenders/client",
        &port,
        CONNECTIONS,
        BYTES,
        MILLISECONDS,
        depth,
    ])?)?;
    let figure = |name: &str| -> Outcome<f64> {
        let word = said.split_whitespace().find_map(|word| word.strip_prefix(name));
        Ok(word.ok_or_else(|| format!("no {name} in {said:?}"))?.parse()?)
    };
    Ok(Seen { cpu: figure("cpu_us_per_message=")?, rate: figure("messages_per_s=")? })
}

fn load(port: u16, depth: &str, engine: &str) -> Outcome<Seen> {
    let (endpoint, file) = (format!("tcp://127.0.0.1:{port}"), Path::new("results/bench-load.json"));
    fs::create_dir_all("results")?;
    let duration = format!("{MILLISECONDS}ms");
    let mut words =
        vec!["target/release/echo-client", "load", &endpoint, "--threads", "1", "--warmup", "50ms"];
    words.extend(["--connections", CONNECTIONS, "--size", BYTES, "--pipeline", depth, "--engine", engine]);
    words.extend(["--duration", &duration, "--line", "--json", "results/bench-load.json"]);
    let line = said(&mut on_the_last(&words)?)?;
    let result: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let errors = result["errors"].as_object().is_none_or(|errors| !errors.is_empty());
    if errors || result["settings"]["verify"] != true {
        return Err(line.into());
    }
    let figure = |name: &str| result[name].as_f64().ok_or_else(|| format!("no {name}"));
    Ok(Seen { cpu: figure("client_cpu_us_per_message")?, rate: figure("messages_per_s")? })
}

/// One message on its way, over one connection: it has no other closed loop. Its CPU time is that of its whole life.
fn ping_pong(port: u16) -> Outcome<Seen> {
    let port = port.to_string();
    let words = ["sockperf", "ping-pong", "--tcp", "-i", "127.0.0.1", "-p", &port, "-m", BYTES, "-t", "1"];
    let before = of_children()?;
    let said = said(&mut on_the_last(&words)?)?;
    let cpu = of_children()? - before;
    let sent = said.split("SentMessages=").nth(1).and_then(|text| text.split(';').next());
    let sent: f64 = sent.ok_or_else(|| format!("sockperf says {said:?}"))?.parse()?;
    Ok(Seen { cpu: cpu.as_secs_f64() * 1e6 / sent, rate: sent })
}

/// The CPU time of all children that have ended (getrusage(2)).
fn of_children() -> Outcome<Duration> {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let [user, system] = [used.user_time(), used.system_time()]
        .map(|time| Duration::new(time.tv_sec().unsigned_abs(), time.tv_usec().unsigned_abs() as u32 * 1000));
    Ok(user + system)
}

/// On the last of the processors.
fn on_the_last(words: &[&str]) -> Outcome<Command> {
    let mut command = Command::new("taskset");
    let last = thread::available_parallelism()?.get() - 1;
    command.args(["-c", &last.to_string()]).args(words).stderr(Stdio::null());
    Ok(command)
}

fn said(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{command:?}: {said}").into()) }
}

/// A port that is free.
fn port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts a server on the first processor. /proc/net/tcp shows when it listens.
fn serve(port: u16, command: &mut Command) -> Outcome<Running> {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", "0"]).arg(command.get_program()).args(command.get_args());
    let mut server = Running(pinned.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let deadline = Instant::now() + Duration::from_secs(5);
    let listens = || -> Outcome<bool> {
        let sockets = procfs::net::tcp()?;
        Ok(sockets.iter().any(|it| it.state == TcpState::Listen && it.local_address.port() == port))
    };
    while !listens()? {
        if server.0.try_wait()?.is_some() || Instant::now() > deadline {
            return Err(format!("{command:?} does not listen").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(server)
}
