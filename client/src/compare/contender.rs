//! Who takes part in a comparison: a model of ours, or any program; and how it is started.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hasher},
    io::{self, BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use arguments::{CpuList, Endpoint, Transport};
use serde::{Deserialize, Serialize};

use super::{catalogue::Catalogue, textbook::OURS};
use crate::{reach, server::Server};

/// A server that can be started.
#[derive(Clone, Debug)]
pub struct Contender {
    /// As the tables call it; over UDP it ends with `@udp`, but for its options.
    pub name: String,
    /// What it is asked over.
    pub transport: Transport,
    /// How many clients it serves at once.
    pub at_once: AtOnce,
    /// Who in it serves the clients; `None` where nobody said so.
    pub style: Option<Style>,
    /// In which language it is written; empty where nobody said so.
    pub language: String,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    /// Our server, with a model and whatever else it is told.
    Ours { words: Vec<String> },
    /// Any program; `{port}` stands for its port, `{work}` for what a message costs, `{workers}` for how many it has,
    /// `{scratch}` for a folder. The folder in which it is run, if not in this one; and whether it was told what it
    /// is asked over.
    Command { words: Vec<String>, folder: Option<PathBuf>, is_told: bool },
    /// One that runs already, there.
    Runs(SocketAddr),
}

/// On what terms a contender is started.
pub struct Terms<'t> {
    /// How many workers it is given, where it is a pool and was not told.
    pub workers: Option<usize>,
    /// What a message costs besides the echo, as our `--work` has it, where it costs anything.
    pub work: Option<&'t str>,
    /// Where it may write: `{scratch}`.
    pub scratch: PathBuf,
    /// Its processors, where any server is started; else ours.
    pub server_cpus: Option<&'t CpuList>,
    /// Ours.
    pub client_cpus: &'t CpuList,
}

/// Who serves the clients that are there at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Style {
    /// Nobody: they wait for each other.
    #[serde(rename = "one at a time")]
    OneAtATime,
    /// One thread, with whoever is ready.
    #[serde(rename = "one loop")]
    OneLoop,
    /// Several such, in threads or processes.
    #[serde(rename = "loops")]
    Loops,
    /// A task each, which several threads run.
    #[serde(rename = "tasks")]
    Tasks,
    /// A thread each.
    #[serde(rename = "threads")]
    Threads,
    /// A process each.
    #[serde(rename = "processes")]
    Processes,
}

impl Style {
    /// That of one of our models; `None` of one that is newer than this.
    fn of_model(name: &str) -> Option<Self> {
        match name {
            "iterative" => Some(Self::OneAtATime),
            "fork" | "prefork" => Some(Self::Processes),
            "thread" | "thread-pool" => Some(Self::Threads),
            "select" | "poll" | "event-loop" => Some(Self::OneLoop),
            "multi-reactor" | "io-uring" => Some(Self::Loops),
            "async" => Some(Self::Tasks),
            _ => None,
        }
    }
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
    transports: Vec<String>,
    clients_at_once: AtOnce,
    dispatches: Dispatches,
    why_not: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Dispatches {
    #[serde(default)]
    tcp: Vec<String>,
    #[serde(default)]
    udp: Vec<String>,
}

/// Our server's program and its models; and beside them, who else is known by name.
pub struct OurServer {
    program: PathBuf,
    models: Vec<Model>,
    catalogue: Catalogue,
}

impl OurServer {
    /// Asks the program for its models. Unless told, it is the one beside this program, or in PATH.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn find(told: Option<PathBuf>, catalogue: Catalogue) -> Result<Self, String> {
        let beside = std::env::current_exe().ok().map(|me| me.with_file_name("echo-server"));
        let program = told.or(beside.filter(|path| path.exists())).unwrap_or_else(|| "echo-server".into());
        let asked = Command::new(&program).args(["models", "--json"]).output();
        let said = asked
            .map_err(|error| format!("{}: {error}; build it, or use --server PATH", program.display()))?;
        let models: Models = serde_json::from_slice(&said.stdout)
            .map_err(|error| format!("{} models --json: {error}", program.display()))?;
        Ok(Self { program, models: models.models, catalogue })
    }

    /// The contenders that `text` means: a model (`fork`), a model and a dispatch (`thread-pool/queue`), or
    /// several: `default`, every model in its default way; `all`, every model in every way; `main`, one of each kind;
    /// `classic`, those of the textbooks; `loops`, the others; or `none`; or those of the catalogue
    /// ([`Catalogue::contenders`]).
    /// `@udp` or `@tcp` behind it says over what, else it is `usual`. What follows the first space is for the server
    /// (`thread-pool --workers 4`).
    ///
    /// # Errors
    /// A sentence for the user, with the names there are.
    pub fn contenders(&self, text: &str, usual: Transport) -> Result<Vec<Contender>, String> {
        let mut words = text.split_whitespace();
        let (who, told) = told_transport(words.next().unwrap_or_default());
        let transport = told.unwrap_or(usual);
        let options: Vec<&str> = words.collect();
        if let Some(known) = self.catalogue.contenders(who, told, usual, &options) {
            return known;
        }
        let is_classic = |model: &&Model| CLASSIC.contains(&model.name.as_str());
        let ways: Vec<(&Model, Option<&str>)> = match who {
            "none" => vec![],
            "all" => self.that_run(transport).flat_map(|model| model.ways(transport)).collect(),
            "default" => self.that_run(transport).map(|model| (model, None)).collect(),
            "main" => {
                let main = self.that_run(transport).filter(|model| MAIN.contains(&model.name.as_str()));
                main.map(|model| (model, None)).collect()
            }
            "classic" => self.that_run(transport).filter(is_classic).map(|model| (model, None)).collect(),
            "loops" => {
                let others = self.that_run(transport).filter(|model| !is_classic(model));
                others.map(|model| (model, None)).collect()
            }
            one => vec![self.way(one, transport)?],
        };
        let ours = |(model, dispatch)| Contender::ours(model, dispatch, transport, &options);
        Ok(ways.into_iter().map(ours).collect())
    }

    /// What tells this program from another: a hash of all its bytes. `None` where it cannot be read.
    pub fn digest(&self) -> Option<String> {
        let mut hasher = DefaultHasher::new();
        hasher.write(&fs::read(&self.program).ok()?);
        Some(format!("{:016x}", hasher.finish()))
    }

    /// Whether a model is called so, over whatever.
    pub fn has_model(&self, name: &str) -> bool {
        self.models.iter().any(|model| model.name == told_transport(name).0)
    }

    fn that_run(&self, transport: Transport) -> impl Iterator<Item = &Model> {
        self.models.iter().filter(move |model| model.why_not.is_none() && model.serves(transport))
    }

    fn way<'a>(
        &'a self,
        name: &'a str,
        transport: Transport,
    ) -> Result<(&'a Model, Option<&'a str>), String> {
        let (model, dispatch) = name.split_once('/').map_or((name, None), |(m, d)| (m, Some(d)));
        let Some(model) = self.models.iter().find(|m| m.name == model) else {
            let names: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
            let names = names.join(", ");
            let others = self.catalogue.names().map(|name| format!(", {name}")).collect::<String>();
            return Err(format!(
                "there is no contender {name:?}; there are {names}; all, default, main, classic, loops, none{others}"
            ));
        };
        if let Some(why) = &model.why_not {
            return Err(format!("{} cannot run here: {why}", model.name));
        }
        if !model.serves(transport) {
            let serve =
                self.that_run(transport).map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
            let who = if serve.is_empty() { "no model of this server does" } else { &serve };
            return Err(format!("{} does not serve {}; who does: {who}", model.name, transport));
        }
        let dispatches = model.dispatches(transport);
        match dispatch {
            Some(wanted) if !dispatches.iter().any(|there| there == wanted) => {
                Err(format!("{} has no dispatch {wanted:?}; it has {dispatches:?}", model.name))
            }
            _ => Ok((model, dispatch)),
        }
    }
}

/// The models of the textbooks, in their order (Stevens, UNPv1, chapter 30).
const CLASSIC: [&str; 5] = ["iterative", "fork", "prefork", "thread", "thread-pool"];

/// One of each kind: `select` and `poll` are the event loop with another poller.
const MAIN: [&str; 9] = [
    "iterative",
    "fork",
    "prefork",
    "thread",
    "thread-pool",
    "event-loop",
    "multi-reactor",
    "async",
    "io-uring",
];

/// A name, and the transport that stands behind it.
pub(super) fn told_transport(word: &str) -> (&str, Option<Transport>) {
    match word.rsplit_once('@') {
        Some((who, "udp")) => (who, Some(Transport::Udp)),
        Some((who, "tcp")) => (who, Some(Transport::Tcp)),
        _ => (word, None),
    }
}

/// A contender's name, which says so where it is asked over UDP.
fn full_name(who: &str, transport: Transport) -> String {
    match transport {
        Transport::Tcp => who.into(),
        Transport::Udp => format!("{who}@udp"),
    }
}

/// A contender's name without where it writes: `event-loop --groups {scratch}/g.json` is `event-loop --groups` for people.
pub fn short_name(name: &str) -> String {
    let words = name.split_whitespace().filter_map(|word| match word.split_once('=') {
        Some((option, value)) if value.contains("{scratch}") => Some(option),
        _ => Some(word).filter(|word| !word.contains("{scratch}")),
    });
    words.collect::<Vec<_>>().join(" ")
}

impl Model {
    fn serves(&self, transport: Transport) -> bool {
        self.transports.iter().any(|name| name == transport.name())
    }

    fn dispatches(&self, transport: Transport) -> &[String] {
        match transport {
            Transport::Tcp => &self.dispatches.tcp,
            Transport::Udp => &self.dispatches.udp,
        }
    }

    /// With each of its dispatches; without one, where there is no choice.
    fn ways(&self, transport: Transport) -> Vec<(&Self, Option<&str>)> {
        match self.dispatches(transport) {
            [] => vec![(self, None)],
            dispatches => dispatches.iter().map(|dispatch| (self, Some(dispatch.as_str()))).collect(),
        }
    }
}

impl Contender {
    /// Reads `NAME=COMMAND {port}`, or `NAME@udp=COMMAND {port}`; or of one that runs already, `NAME=tcp://HOST:PORT` or
    /// `NAME=HOST:PORT`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn from_command(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it like 'go=./go-echo {port}'";
        let (name, command) = text.split_once('=').ok_or_else(|| format!("no name; {FORM}"))?;
        let port = command.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        let is_an_endpoint =
            (command.contains("://") || matches!(port, Some(Ok(_)))) && !command.contains([' ', '{']);
        if is_an_endpoint && !name.is_empty() {
            return Self::that_runs(name, command);
        }
        let words: Vec<String> = command.split_whitespace().map(Into::into).collect();
        if name.is_empty() || words.is_empty() || !command.contains("{port}") {
            return Err(format!("name, command or {{port}} is missing; {FORM}"));
        }
        Ok(Self::of_program(name, words))
    }

    /// One that was started by somebody else, at an endpoint.
    fn that_runs(name: &str, endpoint: &str) -> Result<Self, String> {
        let (transport, address) = match reach::endpoint(endpoint)? {
            Endpoint::Tcp(address) => (Transport::Tcp, address),
            Endpoint::Udp(address) => (Transport::Udp, address),
            Endpoint::Unix(_) => return Err(format!("{endpoint}: over tcp:// or udp:// alone")),
        };
        Ok(Self {
            name: full_name(told_transport(name).0, transport),
            transport,
            at_once: AtOnce::All,
            style: None,
            language: String::new(),
            how: How::Runs(address),
        })
    }

    /// Any program; behind its name stands what it serves, unless that is TCP. It is a pool where it wants to know how
    /// many `{workers}` it has.
    pub fn of_program(name: &str, words: Vec<String>) -> Self {
        let (who, told) = told_transport(name);
        let transport = told.unwrap_or(Transport::Tcp);
        let is_pool = words.iter().any(|word| word.contains("{workers}"));
        Self {
            name: full_name(who, transport),
            transport,
            at_once: if is_pool { AtOnce::OneAWorker } else { AtOnce::All },
            style: None,
            language: String::new(),
            how: How::Command { words, folder: None, is_told: told.is_some() },
        }
    }

    /// As the catalogue has it: whose style and language are known, which is run in its folder, and called by its options too.
    pub fn known(self, style: Style, language: &str, folder: &Path, options: &[&str]) -> Self {
        let How::Command { words, is_told, .. } = self.how else { return self };
        let how = How::Command { words, folder: Some(folder.to_owned()), is_told };
        let name = [&[self.name.as_str()], options].concat().join(" ");
        Self { name, style: Some(style), language: language.into(), how, ..self }
    }

    /// The same, over `usual` where it was not told over what.
    pub fn usually_over(self, usual: Transport) -> Self {
        match self.how {
            How::Command { is_told: false, .. } => {
                Self { name: full_name(&self.name, usual), transport: usual, ..self }
            }
            _ => self,
        }
    }

    /// Whether it is the one that is meant by `text`.
    pub fn is_called(&self, text: &str, usual: Transport) -> bool {
        let (who, told) = told_transport(text);
        self.name == full_name(who, told.unwrap_or(usual))
    }

    fn ours(model: &Model, dispatch: Option<&str>, transport: Transport, options: &[&str]) -> Self {
        let way = dispatch.map_or(model.name.clone(), |dispatch| format!("{}/{dispatch}", model.name));
        let name = [&[full_name(&way, transport).as_str()], options].concat().join(" ");
        // Over UDP every worker serves everybody.
        let at_once = if transport == Transport::Udp { AtOnce::All } else { model.clients_at_once };
        let mut words = vec!["--model", &model.name];
        words.extend(dispatch.iter().flat_map(|dispatch| ["--dispatch", dispatch]));
        words.extend(options);
        let words = words.into_iter().map(Into::into).collect();
        let how = How::Ours { words };
        let (style, language) = (Style::of_model(&model.name), OURS.into());
        Self { name, transport, at_once, style, language, how }
    }

    /// Whether it is our server, which reports its final figures.
    pub fn is_ours(&self) -> bool {
        matches!(self.how, How::Ours { .. })
    }

    /// How many workers it is given for so many clients at once; `None` where it is no pool, or was told by its
    /// options.
    pub fn workers(&self, clients: usize) -> Option<usize> {
        let (How::Ours { words } | How::Command { words, .. }) = &self.how else { return None };
        let told = |at: usize| match words[at].strip_prefix("--workers") {
            Some("") => words.get(at + 1).is_some_and(|value| value != "{workers}"),
            Some(rest) => rest.starts_with('='),
            None => false,
        };
        (self.at_once == AtOnce::OneAWorker && !(0..words.len()).any(told)).then_some(clients)
    }

    /// The command that it was made from.
    pub fn command_line(&self) -> Option<String> {
        match &self.how {
            How::Ours { .. } => None,
            How::Command { words, .. } => Some(words.join(" ")),
            How::Runs(address) => Some(format!("{}://{address}", self.transport)),
        }
    }

    /// Whether it runs already, so that its processes are not known.
    pub fn runs_already(&self) -> bool {
        matches!(self.how, How::Runs(_))
    }

    /// Whether it serves one client after the other.
    pub fn serves_one(&self) -> bool {
        self.at_once == AtOnce::One
    }

    /// Whether its messages can be made to cost something besides the echo.
    pub fn takes_work(&self) -> bool {
        match &self.how {
            How::Ours { .. } => true,
            How::Command { words, .. } => words.iter().any(|word| word.contains("{work}")),
            How::Runs(_) => false,
        }
    }

    /// Starts it on its processors, and waits until it listens. This thread ends up on the client's.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn start(&self, ours: &OurServer, terms: &Terms<'_>) -> Result<Server, String> {
        let (mut server, port) = self.launch(ours, terms, Stdio::inherit())?;
        self.await_listening(&mut server, port)?;
        Ok(server)
    }

    /// Starts it, has `serve` try it, and ends it: one that does not start, or is refused, is found out before anything is
    /// measured.
    ///
    /// # Errors
    /// A sentence for the user that names it.
    pub fn rehearse(
        &self,
        ours: &OurServer,
        terms: &Terms<'_>,
        serve: impl FnOnce(&Server) -> Result<(), String>,
    ) -> Result<(), String> {
        let tried = || {
            let (mut server, port) = self.launch(ours, terms, Stdio::piped())?;
            let said = server.stderr().map(LastLine::of);
            let served = self.await_listening(&mut server, port).and_then(|()| serve(&server));
            drop(server);
            served.map_err(|sentence| match said.and_then(LastLine::text) {
                Some(words) if self.is_ours() => words,
                Some(words) => format!("{sentence}; it said: {words}"),
                None => sentence,
            })
        };
        tried().map_err(|sentence| format!("{}: {sentence}", self.name))
    }

    /// Starts it on its processors; its port, where it was told one.
    fn launch(
        &self,
        ours: &OurServer,
        terms: &Terms<'_>,
        stderr: Stdio,
    ) -> Result<(Server, Option<u16>), String> {
        let client_cpus = terms.client_cpus;
        let server_cpus = terms.server_cpus.unwrap_or(client_cpus);
        if let How::Runs(address) = self.how {
            client_cpus.confine().map_err(|error| format!("processors {client_cpus}: {error}"))?;
            return Ok((Server::that_runs(self.transport, address), None));
        }
        let (mut command, port) = self.command(ours, terms).map_err(|error| error.to_string())?;
        server_cpus.confine().map_err(|error| format!("processors {server_cpus}: {error}"))?;
        let spawned = Server::spawn_with_an_account(command.stderr(stderr), self.transport);
        client_cpus.confine().map_err(|error| format!("processors {client_cpus}: {error}"))?;
        let server = spawned.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        Ok((server, port))
    }

    fn await_listening(&self, server: &mut Server, port: Option<u16>) -> Result<(), String> {
        match port {
            _ if self.runs_already() => Ok(()),
            None => server.announces_itself(),
            Some(port) => server.listens_on(port),
        }
    }

    fn command(&self, ours: &OurServer, terms: &Terms<'_>) -> io::Result<(Command, Option<u16>)> {
        let with_scratch =
            |word: &String| arguments::filled(word.as_ref(), "{scratch}", terms.scratch.as_os_str());
        match &self.how {
            How::Ours { words } => {
                let mut command = Command::new(&ours.program);
                command.args(words.iter().map(with_scratch));
                if let Some(workers) = terms.workers {
                    command.args(["--workers", &workers.to_string()]);
                }
                if let Some(work) = terms.work {
                    command.args(["--work", work]);
                }
                let endpoint = format!("{}://127.0.0.1:0", self.transport);
                command.arg(endpoint).stdout(Stdio::piped());
                Ok((command, None))
            }
            How::Command { words, folder, .. } => {
                let port = free_port(self.transport)?;
                let given = [
                    ("{port}", port.to_string()),
                    ("{work}", terms.work.unwrap_or("none").into()),
                    ("{workers}", terms.workers.unwrap_or(USUAL_WORKERS).to_string()),
                ];
                let filled = |word: &String| {
                    with_scratch(
                        &given.iter().fold(word.clone(), |word, (gap, what)| word.replace(gap, what)),
                    )
                };
                let mut words: VecDeque<OsString> = words.iter().map(filled).collect();
                let mut command = Command::new(words.pop_front().unwrap_or_default());
                command.args(words).stdout(Stdio::null());
                if let Some(folder) = folder {
                    command.current_dir(folder);
                }
                Ok((command, Some(port)))
            }
            How::Runs(address) => Err(io::Error::other(format!("it runs already, at {address}"))),
        }
    }
}

/// The last line that comes out of a pipe. What is behind it may stay open in a process that was left behind.
struct LastLine(Receiver<String>);

/// How long a line may take that is on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

impl LastLine {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (line, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|text| line.send(text))
        });
        Self(lines)
    }

    fn text(self) -> Option<String> {
        let lines = std::iter::from_fn(|| self.0.recv_timeout(ON_ITS_WAY).ok());
        lines.filter(|line| !line.trim().is_empty()).last()
    }
}

/// How many workers a pool has that is not told: as many as those of our server.
const USUAL_WORKERS: usize = 64;

/// A port that nobody has on 127.0.0.1.
fn free_port(transport: Transport) -> io::Result<u16> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let address = match transport {
        Transport::Tcp => TcpListener::bind(any)?.local_addr(),
        Transport::Udp => UdpSocket::bind(any)?.local_addr(),
    };
    Ok(address?.port())
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

    fn ours() -> OurServer {
        let model = |name: &str, clients_at_once, dispatches: &[&str]| Model {
            name: name.into(),
            transports: vec!["tcp".into(), "udp".into()],
            clients_at_once,
            dispatches: Dispatches {
                tcp: dispatches.iter().copied().map(Into::into).collect(),
                udp: vec!["shared".into()],
            },
            why_not: None,
        };
        let refused = Model { why_not: Some("a sandbox".into()), ..model("io-uring", AtOnce::All, &[]) };
        let pool = model("thread-pool", AtOnce::OneAWorker, &["accept", "queue"]);
        let streams_only = Model { transports: vec!["tcp".into()], ..model("poll", AtOnce::All, &[]) };
        let models = vec![model("fork", AtOnce::All, &[]), pool, streams_only, refused];
        OurServer { program: "echo-server".into(), models, catalogue: Catalogue::default() }
    }

    #[test]
    fn one_word_may_mean_several_contenders_and_leaves_out_who_cannot_run() {
        let names = |text: &str| -> Vec<String> {
            let meant = ours().contenders(text, Transport::Tcp).unwrap();
            meant.into_iter().map(|contender| contender.name).collect()
        };
        assert_eq!(names("all"), ["fork", "thread-pool/accept", "thread-pool/queue", "poll"]);
        assert_eq!(names("classic"), ["fork", "thread-pool"]);
        assert_eq!(names("loops"), ["poll"]);
        assert_eq!(names("classic  --backlog 5"), ["fork --backlog 5", "thread-pool --backlog 5"]);
        assert!(ours().contenders("io-uring", Transport::Tcp).unwrap_err().contains("a sandbox"));
    }

    #[test]
    fn what_a_contender_is_asked_over_stands_behind_its_name_or_is_usual() {
        let names = |text: &str, usual| -> Vec<String> {
            let meant = ours().contenders(text, usual).unwrap();
            assert!(meant.iter().all(|it| it.name.contains("@udp") == (it.transport == Transport::Udp)));
            meant.into_iter().map(|contender| contender.name).collect()
        };
        assert_eq!(names("fork@udp --drain 1s", Transport::Tcp), ["fork@udp --drain 1s"]);
        assert_eq!(names("fork@tcp", Transport::Udp), ["fork"]);
        assert_eq!(names("classic", Transport::Udp), ["fork@udp", "thread-pool@udp"]);
        assert_eq!(names("all@udp", Transport::Tcp), ["fork/shared@udp", "thread-pool/shared@udp"]);
        for (wrong, word) in [("poll", "who does: fork, thread-pool"), ("thread-pool/queue", "shared")] {
            assert!(ours().contenders(wrong, Transport::Udp).unwrap_err().contains(word), "{wrong}");
        }
        let mine = Contender::from_command("mine=./mine {port}").unwrap().usually_over(Transport::Udp);
        assert_eq!((mine.name.as_str(), mine.transport), ("mine@udp", Transport::Udp));
        assert!(mine.is_called("mine", Transport::Udp) && mine.is_called("mine@udp", Transport::Tcp));
        let told = Contender::from_command("mine@tcp=./mine {port}").unwrap().usually_over(Transport::Udp);
        assert_eq!((told.name.as_str(), told.transport), ("mine", Transport::Tcp));
    }

    #[test]
    fn a_short_name_has_no_word_of_where_it_writes() {
        for (name, short) in [
            ("thread-pool --workers 4", "thread-pool --workers 4"),
            ("event-loop --groups {scratch}/g.json", "event-loop --groups"),
            ("event-loop --groups={scratch}/g.json -v", "event-loop --groups -v"),
        ] {
            assert_eq!(short_name(name), short);
        }
    }

    #[test]
    fn a_pool_that_was_told_its_workers_is_given_no_others() {
        let workers = |text: &str| ours().contenders(text, Transport::Tcp).unwrap()[0].workers(64);
        assert_eq!(workers("thread-pool/queue --backlog 5"), Some(64));
        assert_eq!(workers("thread-pool --workers 4"), None);
        assert_eq!(workers("thread-pool --workers=4"), None);
        assert_eq!(workers("fork"), None);
        assert_eq!(workers("thread-pool@udp"), None);
    }
}
