//! Who takes part in a comparison: a model of ours, or any program; and how it is started.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Command, Stdio},
};

use arguments::CpuList;
use serde::Deserialize;

use super::server::Server;

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
    /// Our server, with a model and whatever else it is told; and whether that is more than a dispatch.
    Ours { words: Vec<String>, has_options: bool },
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
        self.that_run().map(|model| Contender::ours(&model.name, model, None, &[])).collect()
    }

    /// The contenders that `text` means: a model (`fork`), a model and a dispatch (`thread-pool/queue`), or
    /// several: `all`, every model in every way; `classic`, those of the textbooks; `loops`, the others. What
    /// follows the first space is for the server (`thread-pool --workers 4`).
    ///
    /// # Errors
    /// A sentence for the user, with the names there are.
    pub fn contenders(&self, text: &str) -> Result<Vec<Contender>, String> {
        let mut words = text.split_whitespace();
        let who = words.next().unwrap_or_default();
        let options: Vec<&str> = words.collect();
        let is_classic = |model: &&Model| CLASSIC.contains(&model.name.as_str());
        let ways: Vec<(&Model, Option<&str>)> = match who {
            "all" => self.that_run().flat_map(Model::ways).collect(),
            "classic" => self.that_run().filter(is_classic).map(|model| (model, None)).collect(),
            "loops" => {
                self.that_run().filter(|model| !is_classic(model)).map(|model| (model, None)).collect()
            }
            one => vec![self.way(one)?],
        };
        let named = |(model, dispatch): (&Model, Option<&str>)| {
            let way = dispatch.map_or(model.name.clone(), |dispatch| format!("{}/{dispatch}", model.name));
            let name = [&[way.as_str()], &options[..]].concat().join(" ");
            Contender::ours(&name, model, dispatch, &options)
        };
        Ok(ways.into_iter().map(named).collect())
    }

    fn that_run(&self) -> impl Iterator<Item = &Model> {
        self.models.iter().filter(|model| model.why_not.is_none())
    }

    fn way<'a>(&'a self, name: &'a str) -> Result<(&'a Model, Option<&'a str>), String> {
        let (model, dispatch) = name.split_once('/').map_or((name, None), |(m, d)| (m, Some(d)));
        let Some(model) = self.models.iter().find(|m| m.name == model) else {
            let names: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
            let names = names.join(", ");
            return Err(format!("there is no contender {name:?}; there are {names}; all, classic, loops"));
        };
        if let Some(why) = &model.why_not {
            return Err(format!("{} cannot run here: {why}", model.name));
        }
        match dispatch {
            Some(wanted) if !model.dispatches.tcp.iter().any(|there| there == wanted) => {
                Err(format!("{} has no dispatch {wanted:?}; it has {:?}", model.name, model.dispatches.tcp))
            }
            _ => Ok((model, dispatch)),
        }
    }
}

/// The models of the textbooks, in their order (Stevens, UNPv1, chapter 30).
const CLASSIC: [&str; 5] = ["iterative", "fork", "prefork", "thread", "thread-pool"];

impl Model {
    /// With each of its dispatches; without one, where there is no choice.
    fn ways(&self) -> Vec<(&Self, Option<&str>)> {
        match &self.dispatches.tcp[..] {
            [] => vec![(self, None)],
            dispatches => dispatches.iter().map(|dispatch| (self, Some(dispatch.as_str()))).collect(),
        }
    }
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

    fn ours(name: &str, model: &Model, dispatch: Option<&str>, options: &[&str]) -> Self {
        let mut words = vec!["--model", &model.name];
        words.extend(dispatch.iter().flat_map(|dispatch| ["--dispatch", dispatch]));
        words.extend(options);
        let words = words.into_iter().map(Into::into).collect();
        let how = How::Ours { words, has_options: !options.is_empty() };
        Self { name: name.into(), at_once: model.clients_at_once, how }
    }

    /// Whether it is our server, which reports its final figures.
    pub fn is_ours(&self) -> bool {
        matches!(self.how, How::Ours { .. })
    }

    /// How many workers it is given for so many clients at once; `None` where it is no pool, or was told by its
    /// options.
    pub fn workers(&self, clients: usize) -> Option<usize> {
        let told = |word: &String| word == "--workers" || word.starts_with("--workers=");
        match &self.how {
            How::Ours { words, .. } if words.iter().any(told) => None,
            _ => (self.at_once == AtOnce::OneAWorker).then_some(clients),
        }
    }

    /// Starts it on `server_cpus` with so many workers, and waits until it listens. This thread ends up on `client_cpus`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn start(
        &self,
        ours: &OurServer,
        workers: Option<usize>,
        (server_cpus, client_cpus): (&CpuList, &CpuList),
    ) -> Result<Server, String> {
        let (mut command, port) = self.command(ours, workers).map_err(|error| error.to_string())?;
        server_cpus.confine().map_err(|error| format!("processors {server_cpus}: {error}"))?;
        let spawned = Server::spawn(&mut command);
        client_cpus.confine().map_err(|error| format!("processors {client_cpus}: {error}"))?;
        let mut server = spawned.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        match port {
            None => server.announces_itself()?,
            Some(port) => server.listens_on(port)?,
        }
        Ok(server)
    }

    /// Starts and ends it once, where it has options: one that its server refuses is found out before anything
    /// is measured.
    ///
    /// # Errors
    /// The server's own sentence.
    pub fn rehearse(&self, ours: &OurServer) -> Result<(), String> {
        if !matches!(self.how, How::Ours { has_options: true, .. }) {
            return Ok(());
        }
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", self.name);
        let (mut command, _) = self.command(ours, None).map_err(|error| named(&error))?;
        let server = Server::spawn(command.stderr(Stdio::piped())).map_err(|error| named(&error))?;
        server.ends_at_once().map_err(|sentence| named(&sentence))
    }

    fn command(&self, ours: &OurServer, workers: Option<usize>) -> io::Result<(Command, Option<u16>)> {
        match &self.how {
            How::Ours { words, .. } => {
                let mut command = Command::new(&ours.program);
                command.args(words);
                if let Some(workers) = workers {
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
            clients_at_once,
            dispatches: Dispatches { tcp: dispatches.iter().copied().map(Into::into).collect() },
            why_not: None,
        };
        let refused = Model { why_not: Some("a sandbox".into()), ..model("io-uring", AtOnce::All, &[]) };
        let pool = model("thread-pool", AtOnce::OneAWorker, &["accept", "queue"]);
        let models = vec![model("fork", AtOnce::All, &[]), pool, model("poll", AtOnce::All, &[]), refused];
        OurServer { program: "echo-server".into(), models }
    }

    #[test]
    fn one_word_may_mean_several_contenders_and_leaves_out_who_cannot_run() {
        let names = |text: &str| -> Vec<String> {
            ours().contenders(text).unwrap().into_iter().map(|contender| contender.name).collect()
        };
        assert_eq!(names("all"), ["fork", "thread-pool/accept", "thread-pool/queue", "poll"]);
        assert_eq!(names("classic"), ["fork", "thread-pool"]);
        assert_eq!(names("loops"), ["poll"]);
        assert_eq!(names("classic  --backlog 5"), ["fork --backlog 5", "thread-pool --backlog 5"]);
        assert!(ours().contenders("io-uring").unwrap_err().contains("a sandbox"));
    }

    #[test]
    fn a_pool_that_was_told_its_workers_is_given_no_others() {
        let workers = |text: &str| ours().contenders(text).unwrap()[0].workers(64);
        assert_eq!(workers("thread-pool/queue --backlog 5"), Some(64));
        assert_eq!(workers("thread-pool --workers 4"), None);
        assert_eq!(workers("thread-pool --workers=4"), None);
        assert_eq!(workers("fork"), None);
    }
}
