//! A server that takes part in a comparison: started as anybody would start it, and stopped.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use arguments::{CpuList, Endpoint};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use procfs::net::TcpState;
use serde::Deserialize;
use serde_json::Value;

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(10);
/// How long a server may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(7);

/// A server that can be started.
#[derive(Clone, Debug)]
pub struct Contender {
    /// As the tables call it.
    pub name: String,
    /// How many clients it serves at once.
    pub at_once: AtOnce,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    /// Our server, with a model and perhaps a dispatch.
    Ours { model: String, dispatch: Option<String> },
    /// Any program; `{port}` stands for its port.
    Command(Vec<String>),
}

/// How many clients a server serves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtOnce {
    /// One.
    One,
    /// As many as it has workers; it gets as many as the cell has connections.
    OneAWorker,
    /// All.
    All,
}

/// What `echo-server models --json` says.
#[derive(Debug, Deserialize)]
struct Models {
    models: Vec<Model>,
}

#[derive(Debug, Deserialize)]
struct Model {
    name: String,
    clients_at_once: AtOnce,
    dispatches: Dispatches,
    why_not: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Dispatches {
    tcp: Vec<String>,
}

/// Our server's program and its models.
pub struct OurServer {
    program: PathBuf,
    models: Vec<Model>,
}

impl OurServer {
    /// Asks the program for its models. Unless told, it is the one beside this program, or in PATH.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn find(told: Option<PathBuf>) -> Result<Self, String> {
        let beside = std::env::current_exe().ok().map(|me| me.with_file_name("echo-server"));
        let program = told.or(beside.filter(|path| path.exists())).unwrap_or_else(|| "echo-server".into());
        let asked = Command::new(&program).args(["models", "--json"]).output();
        let said = asked
            .map_err(|error| format!("{}: {error}; build it, or use --server PATH", program.display()))?;
        let models: Models = serde_json::from_slice(&said.stdout)
            .map_err(|error| format!("{} models --json: {error}", program.display()))?;
        Ok(Self { program, models: models.models })
    }

    /// Every model in its default way, as far as it can run here.
    pub fn all(&self) -> Vec<Contender> {
        let runs = self.models.iter().filter(|model| model.why_not.is_none());
        runs.map(|model| contender(model, None)).collect()
    }

    /// The contender that `name` means: a model, or a model and a dispatch (`thread-pool/queue`).
    ///
    /// # Errors
    /// A sentence for the user, with the names there are.
    pub fn contender(&self, name: &str) -> Result<Contender, String> {
        let (model, dispatch) = name.split_once('/').map_or((name, None), |(m, d)| (m, Some(d)));
        let Some(model) = self.models.iter().find(|m| m.name == model) else {
            let names: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
            return Err(format!("there is no contender {name:?}; there are {}", names.join(", ")));
        };
        if let Some(why) = &model.why_not {
            return Err(format!("{} cannot run here: {why}", model.name));
        }
        match dispatch {
            Some(wanted) if !model.dispatches.tcp.iter().any(|there| there == wanted) => {
                Err(format!("{} has no dispatch {wanted:?}; it has {:?}", model.name, model.dispatches.tcp))
            }
            _ => Ok(contender(model, dispatch)),
        }
    }
}

fn contender(model: &Model, dispatch: Option<&str>) -> Contender {
    let name = dispatch.map_or(model.name.clone(), |dispatch| format!("{}/{dispatch}", model.name));
    let how = How::Ours { model: model.name.clone(), dispatch: dispatch.map(Into::into) };
    Contender { name, at_once: model.clients_at_once, how }
}

impl Contender {
    /// Reads `NAME=COMMAND {port}`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn from_command(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it like 'go=./go-echo {port}'";
        let (name, command) = text.split_once('=').ok_or_else(|| format!("no name; {FORM}"))?;
        let words: Vec<String> = command.split_whitespace().map(Into::into).collect();
        if name.is_empty() || words.is_empty() || !command.contains("{port}") {
            return Err(format!("name, command or {{port}} is missing; {FORM}"));
        }
        Ok(Self { name: name.into(), at_once: AtOnce::All, how: How::Command(words) })
    }

    /// Whether it is our server, which reports its final figures.
    pub fn is_ours(&self) -> bool {
        matches!(self.how, How::Ours { .. })
    }

    /// How many workers it is given for so many connections; `None` where it is no pool.
    pub fn workers(&self, connections: usize) -> Option<usize> {
        (self.at_once == AtOnce::OneAWorker).then_some(connections)
    }

    /// Starts it on `server_cpus`, and waits until it listens. This thread ends up on `client_cpus`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn start(
        &self,
        ours: &OurServer,
        connections: usize,
        (server_cpus, client_cpus): (&CpuList, &CpuList),
    ) -> Result<Server, String> {
        let (mut command, port) = self.command(ours, connections).map_err(|error| error.to_string())?;
        // A process group of its own: ^C in the terminal is ours, and all that it starts can be ended.
        command.process_group(0).stdin(Stdio::null());
        server_cpus.confine().map_err(|error| format!("processors {server_cpus}: {error}"))?;
        let spawned = command.spawn().map(Server::new);
        client_cpus.confine().map_err(|error| format!("processors {client_cpus}: {error}"))?;
        let mut server = spawned.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        server.address = match port {
            None => server.address_announced()?,
            Some(port) => server.listening_on(port)?,
        };
        Ok(server)
    }

    fn command(&self, ours: &OurServer, connections: usize) -> io::Result<(Command, Option<u16>)> {
        match &self.how {
            How::Ours { model, dispatch } => {
                let mut command = Command::new(&ours.program);
                command.args(["--model", model]);
                if let Some(dispatch) = dispatch {
                    command.args(["--dispatch", dispatch]);
                }
                if let Some(workers) = self.workers(connections) {
                    command.args(["--workers", &workers.to_string()]);
                }
                command.arg("tcp://127.0.0.1:0").stdout(Stdio::piped());
                Ok((command, None))
            }
            How::Command(words) => {
                let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
                let mut words: VecDeque<String> =
                    words.iter().map(|word| word.replace("{port}", &port.to_string())).collect();
                let mut command = Command::new(words.pop_front().unwrap_or_default());
                command.args(words).stdout(Stdio::null());
                Ok((command, Some(port)))
            }
        }
    }
}

/// The process groups of the servers that run.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every server that runs, and all that they started: the last act of an impatient end.
pub fn kill_all() {
    for &group in groups().iter() {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

/// A server that runs. Dropping it kills it, and all that it started.
pub struct Server {
    child: Child,
    lines: Option<Receiver<String>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    fn new(mut child: Child) -> Self {
        groups().insert(child.id().cast_signed());
        let lines = child.stdout.take().map(|stdout| {
            let (line, lines) = mpsc::channel();
            thread::spawn(move || {
                BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|text| line.send(text))
            });
            lines
        });
        Self { child, lines, address: (Ipv4Addr::LOCALHOST, 0).into() }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Our server's first line says where it listens.
    fn address_announced(&self) -> Result<SocketAddr, String> {
        let line = self.lines.as_ref().and_then(|lines| lines.recv_timeout(START).ok());
        let line = line.ok_or("it did not say that it listens")?;
        let said: Value = serde_json::from_str(&line).map_err(|error| format!("{line}: {error}"))?;
        match said["endpoint"].as_str().unwrap_or_default().parse()? {
            Endpoint::Tcp(address) => Ok(address),
            other => Err(format!("it listens on {other}")),
        }
    }

    /// Anybody else's shows in /proc/net/tcp. A connection to try it would be its first client.
    fn listening_on(&mut self, port: u16) -> Result<SocketAddr, String> {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended before it listened: {status}"));
            }
            let listens = |entry: &procfs::net::TcpNetEntry| {
                entry.state == TcpState::Listen && entry.local_address.port() == port
            };
            if procfs::net::tcp().unwrap_or_default().iter().any(listens) {
                return Ok((Ipv4Addr::LOCALHOST, port).into());
            }
            if procfs::net::tcp6().unwrap_or_default().iter().any(listens) {
                return Ok((Ipv4Addr::LOCALHOST, port).into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(format!("it does not listen on port {port}"))
    }

    /// Ends it with SIGTERM; returns its final figures, where it prints such.
    pub fn stop(mut self) -> Option<Value> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + STOP;
        let mut last = None;
        if let Some(lines) = &self.lines {
            // Ends when the last process that holds its stdout has ended.
            while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                last = Some(line);
            }
        }
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        serde_json::from_str(&last?).ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = self.child.id().cast_signed();
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let _ = self.child.wait();
        groups().remove(&group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_contender_is_a_name_and_a_command_with_a_port() {
        let contender = Contender::from_command("go=./go-echo --port {port}").unwrap();
        assert_eq!(contender.name, "go");
        for wrong in ["./go-echo {port}", "go=", "go=./go-echo", "=x {port}"] {
            assert!(Contender::from_command(wrong).unwrap_err().contains("{port}"), "{wrong}");
        }
    }
}
