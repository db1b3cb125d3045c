//! Lesson 28: the lessons compared, as processes.
//!
//! The idea: the same load for each server, from outside, one server at a time and each in its turn, several times over:
//! what the machine does meanwhile hits all alike. Every answer is looked at, or the fastest server would be one that
//! answers nonsense. And what a message costs the server's processor says more than how many there were.
//!
//! Type, in two terminals:
//!     cargo build --examples && cargo run --example 28_compare
//!     top
//!
//! Predict before you run:
//!     1. Four clients that stay: which lesson is first, fork, threads or epoll?
//!     2. A connection for each message: which is last now, and by what factor?
//!     3. Lesson 15 asks all the time. Where does it stand in messages a second, and where in processor time?
//!
//! Read next: METHODOLOGY.md, and `target/debug/echo-client compare --help`, which does this rightly: with intervals, with the client's
//! own limits, and with a refusal to print what is not valid.
//!
//! What breaks: three rounds are an anecdote. What of this would hold on another machine, with other messages, with more
//! clients? Ask `echo-client compare`.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const LESSONS: [&str; 7] =
    ["06_zombies", "07_prefork", "08_threads", "15_busy_loop", "16_poll", "18_backpressure", "22_async"];
const ROUNDS: usize = 3;
const CLIENTS: usize = 4;

/// Messages, and the server's processor time.
type Cell = (f64, f64);

fn main() -> io::Result<()> {
    let slice = env::args().nth(1).map_or(Ok(400), |word| word.parse()).map_err(io::Error::other)?;
    let slice = Duration::from_millis(slice);
    for (what, each) in [("clients that stay", usize::MAX), ("a connection for each message", 1)] {
        let mut cells: Vec<Vec<Cell>> = vec![Vec::new(); LESSONS.len()];
        for _ in 0..ROUNDS {
            for (lesson, cells) in LESSONS.iter().zip(&mut cells) {
                cells.push(measure(lesson, slice, each)?);
            }
        }
        println!("{what:32} messages/s   of the server's processor");
        for (lesson, cells) in LESSONS.iter().zip(cells) {
            let median = |of: fn(&Cell) -> f64| {
                let mut values: Vec<f64> = cells.iter().map(of).collect();
                values.sort_by(f64::total_cmp);
                values[ROUNDS / 2]
            };
            println!("{lesson:32} {:10.0}   {:7.1} us each", median(|cell| cell.0), median(|cell| cell.1));
        }
    }
    Ok(())
}

/// One server, from its first line to its end.
fn measure(lesson: &str, slice: Duration, each: usize) -> io::Result<Cell> {
    let beside_me = env::current_exe()?.with_file_name(lesson);
    let mut server = Command::new(beside_me).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn()?;
    let measured = load(&mut server, slice, each);
    server.kill()?;
    server.wait()?;
    measured
}

fn load(server: &mut Child, slice: Duration, each: usize) -> io::Result<Cell> {
    let mut log = BufReader::new(server.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
    let mut line = String::new();
    log.read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening on ").ok_or(io::ErrorKind::InvalidData)?;
    thread::spawn(move || io::copy(&mut log, &mut io::sink())); // or it would stop when the pipe is full
    let (began, used) = (Instant::now(), cpu_us(server.id())?);
    let counts: io::Result<Vec<u32>> = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|n| scope.spawn(move || talk(address, n as u8, slice, each))).collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
            .collect()
    });
    let messages = f64::from(counts?.iter().sum::<u32>());
    Ok((messages / began.elapsed().as_secs_f64(), (cpu_us(server.id())? - used) / messages))
}

/// One client: says, listens, compares; so many messages on a connection.
fn talk(address: &str, client: u8, slice: Duration, each: usize) -> io::Result<u32> {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < slice {
        let mut server = TcpStream::connect(address)?;
        server.set_nodelay(true)?;
        for n in 0..each {
            if began.elapsed() >= slice {
                break;
            }
            let said = [client, n as u8, b'!'];
            let mut heard = [0; 3];
            server.write_all(&said)?;
            server.read_exact(&mut heard)?;
            if said != heard {
                return Err(io::Error::other(format!("said {said:?}, heard {heard:?}")));
            }
            count += 1;
        }
    }
    Ok(count)
}

/// What a server, its children, and those of them that have ended had of the processors: /proc/PID/stat (proc(5)), in
/// hundredths of a second.
fn cpu_us(server: u32) -> io::Result<f64> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((pid, after_its_name)) =
            stat.split_once(" (").zip(stat.rsplit_once(") ")).map(|(a, b)| (a.0, b.1))
        else {
            continue;
        };
        let fields: Vec<&str> = after_its_name.split(' ').collect();
        if [pid, fields[1]].contains(&server.to_string().as_str()) {
            ticks += fields[11..15].iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(ticks as f64 * 10_000.0)
}
