//! What is examined: a command that we start, a process that runs, or an address and nothing more.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{SocketAddr, UdpSocket},
    process::{Command, Stdio},
    str::FromStr,
    time::Duration,
};

use arguments::{Endpoint, Transport};
use procfs::process::{FDInfo, FDTarget};
use socket2::{Domain, Socket, Type};

use super::{
    Needs,
    exam::{Exam, Stop},
    examinee::{Confinement, Examinee, Tail},
    words::{Words, words},
};
use crate::{
    cost, reach,
    server::{Server, is_bound, sockets_at},
};

/// How long a server may take until it listens, on a machine that is not slow.
const START: Duration = Duration::from_secs(10);
/// How long the last words of a server that has ended may be on their way.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How soon a server ends whose port somebody else has.
const ENDS: Duration = Duration::from_secs(1);
/// How long a port may stay taken by the server that was just ended: TIME_WAIT lasts a minute (tcp(7)).
const FREED: Duration = Duration::from_secs(65);
/// What stands for the port in an endpoint and in a command.
const GAP: &str = "{port}";

/// Where a server is to listen: an endpoint whose port may be open, `tcp://127.0.0.1:{port}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    fn is_open(&self) -> bool {
        self.0.contains(GAP)
    }

    /// The endpoint, with a port in the place of the gap.
    fn with(&self, port: u16) -> Result<Endpoint, String> {
        self.0.replace(GAP, &port.to_string()).parse()
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pattern = Self(text.into());
        let endpoint = pattern.with(1).map_err(|fault| match text.split_once("://") {
            Some(_) => fault,
            None => "an endpoint is like tcp://127.0.0.1:7007; a command stands behind --, like -- ./server {port}"
                .into(),
        });
        match endpoint? {
            Endpoint::Unix(_) => Err("only tcp:// and udp:// endpoints are checked".into()),
            endpoint if endpoint.port() == 0 => Err("port 0 is nobody's; give its port, or {port}".into()),
            // Of a name that address where somebody is.
            _ if !pattern.is_open() => Ok(Self(reach::endpoint(text)?.to_string())),
            _ => Ok(pattern),
        }
    }
}

/// Where the server comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// It runs, somewhere.
    Address,
    /// It runs here, as this process.
    Pid(u32),
    /// We start it, afresh for each check: its words, and whom it runs as under which limits.
    Command(Vec<String>, Confinement),
}

/// What is examined.
pub struct Target {
    endpoints: Vec<Pattern>,
    source: Source,
    /// Whether it ever came up.
    came_up: Cell<bool>,
    /// What it looked like when it did not, at the first time.
    refusal: RefCell<Option<Words>>,
}

impl Target {
    /// A target that makes sense.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn new(mut endpoints: Vec<Pattern>, source: Source) -> Result<Self, String> {
        let given = endpoints.len();
        if let Source::Command(words, _) = &source {
            if endpoints.is_empty() {
                endpoints = vec![Pattern(format!("tcp://127.0.0.1:{GAP}"))];
            }
            let is_told = words.iter().any(|word| word.contains(GAP));
            if endpoints.iter().any(Pattern::is_open) && !is_told {
                return Err(format!(
                    "on which port does it listen? Write {GAP} in the command, or give the endpoint before it, \
                     like tcp://127.0.0.1:7007 -- ./server"
                ));
            }
        } else if given == 0 {
            return Err(
                "what is to be checked? Give an endpoint, like tcp://127.0.0.1:7007, or a command, like \
                        -- ./server {port}"
                    .into(),
            );
        } else if endpoints.iter().any(Pattern::is_open) {
            return Err(format!("{GAP} is for a server that is started; give its port"));
        }
        let kind = |pattern: &Pattern| match pattern.with(1) {
            Ok(Endpoint::Tcp(address)) => Some((Transport::Tcp, address.is_ipv4())),
            Ok(Endpoint::Udp(address)) => Some((Transport::Udp, address.is_ipv4())),
            _ => None,
        };
        for (n, pattern) in endpoints.iter().enumerate() {
            if let Some((transport, is_ipv4)) = kind(pattern)
                && endpoints[..n].iter().any(|other| kind(other) == Some((transport, is_ipv4)))
            {
                let family = if is_ipv4 { "IPv4" } else { "IPv6" };
                return Err(format!(
                    "two endpoints of {transport} and {family}; check them one after the other"
                ));
            }
        }
        Ok(Self { endpoints, source, came_up: Cell::default(), refusal: RefCell::default() })
    }

    /// Whether anybody is there, as far as that can be seen without being a client; and nobody where a server is to be
    /// started.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn is_there(&self) -> Result<(), String> {
        if self.is_started() {
            let told = self.endpoints.iter().filter(|pattern| !pattern.is_open());
            return told.map(|pattern| pattern.with(0)).try_for_each(|endpoint| {
                let endpoint = endpoint?;
                if is_bound(endpoint.transport(), endpoint.port()) {
                    return Err(format!("{endpoint} is in use; end who listens there, or use {GAP}"));
                }
                Ok(())
            });
        }
        if let Source::Pid(pid) = self.source
            && procfs::process::Process::new(pid.cast_signed()).is_err()
        {
            return Err(format!("--pid: there is no process {pid}"));
        }
        for pattern in &self.endpoints {
            let endpoint = pattern.with(0)?;
            if is_heard_of(&endpoint) == Some(false) {
                return Err(format!("nobody listens on {endpoint}; start the server first"));
            }
            if let Source::Pid(pid) = self.source
                && holds(pid, &endpoint) == Some(false)
            {
                return Err(format!(
                    "--pid: process {pid} does not listen on {endpoint}; ss -tulnp says who does"
                ));
            }
        }
        Ok(())
    }

    /// Whether the server is asked over it.
    pub fn serves(&self, transport: Transport) -> bool {
        self.endpoints.iter().any(|pattern| pattern.with(1).is_ok_and(|it| it.transport() == transport))
    }

    /// The most that can be had of it.
    pub fn offers(&self) -> Needs {
        match self.source {
            Source::Address => Needs::BlackBox,
            Source::Pid(_) => Needs::Pid,
            Source::Command(..) => Needs::Root,
        }
    }

    /// As results call it.
    pub fn name(&self) -> String {
        match &self.source {
            Source::Command(words, _) => words.join(" "),
            Source::Address | Source::Pid(_) => {
                self.endpoints.iter().map(|pattern| pattern.0.as_str()).collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// Whether each check has a server of its own.
    pub fn is_started(&self) -> bool {
        matches!(self.source, Source::Command(..))
    }

    /// The server: started, or the one that runs.
    ///
    /// # Errors
    /// [`Stop::Fault`] where it does not start.
    pub fn examinee<'e>(&self, exam: &'e Exam<'e>, confinement: &Confinement) -> Result<Examinee<'e>, Stop> {
        match &self.source {
            Source::Address => Ok(Examinee::that_runs(exam, None, self.at(0)?)),
            Source::Pid(pid) => Ok(Examinee::that_runs(exam, Some(*pid), self.at(0)?)),
            Source::Command(words, usual) if *confinement == Confinement::default() => {
                self.started(exam, words, usual)
            }
            // Who cannot run within limits of ours may run without them.
            Source::Command(words, usual) => {
                let port = self.port()?;
                self.await_free(exam, port)?;
                self.start(exam, words, &confinement.over(usual), self.at(port)?)?.map_err(Refusal::stop)
            }
        }
    }

    /// A server that was started, once more: on that port, and at once.
    ///
    /// # Errors
    /// [`Stop::Fault`] where it does not come up there.
    pub fn again<'e>(&self, exam: &'e Exam<'e>, port: u16) -> Result<Examinee<'e>, Stop> {
        match &self.source {
            Source::Command(words, usual) => {
                self.start(exam, words, usual, self.at(port)?)?.map_err(Refusal::stop)
            }
            Source::Address | Source::Pid(_) => {
                Err(Stop::Harness("only a server that is started can be started again".into()))
            }
        }
    }

    fn at(&self, port: u16) -> Result<Vec<Endpoint>, Stop> {
        self.endpoints
            .iter()
            .map(|pattern| pattern.with(port))
            .collect::<Result<_, _>>()
            .map_err(Stop::Harness)
    }

    /// A port that is free just now may be taken in the next moment, so a server that does not come up is started
    /// once more elsewhere; on a port that was told, once nobody has it any more: not everybody waits for that (see the
    /// check `restart`). One that does not come up at all is not started again for every check.
    fn started<'e>(
        &self,
        exam: &'e Exam<'e>,
        words: &[String],
        confinement: &Confinement,
    ) -> Result<Examinee<'e>, Stop> {
        if let Some(refusal) = &*self.refusal.borrow() {
            return Err(Stop::Fault(refusal.clone()));
        }
        let mut refusal = None;
        for _ in 0..2 {
            let port = self.port()?;
            let endpoints = self.at(port)?;
            if endpoints.iter().any(|it| is_bound(it.transport(), it.port())) {
                self.await_free(exam, port)?;
            }
            let was_free = self.chooses_ports() || endpoints.iter().all(is_free);
            match self.start(exam, words, confinement, endpoints)? {
                Ok(examinee) => {
                    self.came_up.set(true);
                    return Ok(examinee);
                }
                Err(Refusal { why, has_ended }) => {
                    refusal = Some(why);
                    if !was_free {
                        self.await_free(exam, port)?;
                    } else if !has_ended {
                        break;
                    }
                }
            }
        }
        let refusal = refusal.unwrap_or_else(|| Words::of("it did not start", "服务器没有启动"));
        if !self.came_up.get() {
            self.refusal.replace(Some(refusal.clone()));
        }
        Err(Stop::Fault(refusal))
    }

    /// Starts it once; why it did not come up is its own fault.
    fn start<'e>(
        &self,
        exam: &'e Exam<'e>,
        words: &[String],
        confinement: &Confinement,
        endpoints: Vec<Endpoint>,
    ) -> Result<Result<Examinee<'e>, Refusal>, Stop> {
        let port = endpoints.first().map_or(0, Endpoint::port).to_string();
        let words: Vec<String> = words.iter().map(|word| word.replace(GAP, &port)).collect();
        let mut command = confinement.command(&words);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let transport = endpoints.first().map_or(Transport::Tcp, Endpoint::transport);
        let spawned = Server::spawn(&mut command, transport);
        let mut server = spawned.map_err(|error| Stop::Harness(format!("{}: {error}", words[0])))?;
        if let Some(Endpoint::Tcp(address) | Endpoint::Udp(address)) = endpoints.first() {
            server.address = *address;
        }
        let tail = server.stderr().map(Tail::of);
        let is_up = |endpoint: &Endpoint| is_bound(endpoint.transport(), endpoint.port());
        let came_up = exam.within(START, || {
            let is_up = endpoints.iter().all(is_up);
            server.gave_up().map(Err).or(is_up.then_some(Ok(())))
        });
        // A port that was free may be somebody else's by now.
        let is_its_own = || {
            let held = server.pid().map(cost::sockets).unwrap_or_default();
            let has =
                |at: &Endpoint| sockets_at(at.transport(), at.port()).iter().any(|it| held.contains_key(it));
            endpoints.iter().all(has)
        };
        let came_up = match came_up {
            Some(Ok(())) if !is_its_own() => Some(exam.within(ENDS, || server.ended()).map_or(Ok(()), Err)),
            came_up => came_up,
        };
        if matches!(came_up, Some(Err(_))) {
            // Who has ended has said its last words; they may still be on their way.
            exam.within(LAST_WORDS, || tail.as_ref().is_none_or(Tail::is_complete).then_some(()));
        }
        let said = tail.as_ref().map_or(String::new(), Tail::text);
        let last = said.lines().last().unwrap_or_default();
        let (why, has_ended) = match came_up {
            Some(Ok(())) => return Ok(Ok(Examinee::started(exam, server, tail, endpoints))),
            Some(Err(status)) => {
                let Words { en, zh } = Words::of_end(status);
                let why = words!(
                    "the server ended before it listened: {en}. {last}",
                    "服务器还没有开始监听就结束了：{zh}。{last}"
                );
                (why, true)
            }
            None => {
                let patience = exam.scaled(START);
                let why = words!(
                    "the server did not listen on port {port} within {patience:.0?}",
                    "服务器在 {patience:.0?} 内没有监听端口 {port}"
                );
                (why, false)
            }
        };
        if !said.is_empty() {
            exam.saw("stderr", said);
        }
        Ok(Err(Refusal { why, has_ended }))
    }

    /// A port for the next server: one that is free, or the one that was told.
    fn port(&self) -> Result<u16, Stop> {
        if self.chooses_ports() {
            return free_port().map_err(Stop::harness("a free port"));
        }
        Ok(self.at(0)?.first().map_or(0, Endpoint::port))
    }

    /// Whether each server gets a port of its own.
    fn chooses_ports(&self) -> bool {
        self.endpoints.iter().any(Pattern::is_open)
    }

    /// Waits until nobody has that port any more, if it was told.
    fn await_free(&self, exam: &Exam<'_>, port: u16) -> Result<(), Stop> {
        if self.chooses_ports() {
            return Ok(());
        }
        let endpoints = self.at(port)?;
        let freed = exam.beforehand(FREED, || endpoints.iter().all(is_free).then_some(()));
        freed.ok_or_else(|| Stop::Harness(format!("port {port} is in use; end who has it, or use {GAP}")))
    }
}

/// Why a server did not come up.
struct Refusal {
    why: Words,
    /// It gave up itself, perhaps because its port was taken.
    has_ended: bool,
}

impl Refusal {
    /// It is the server's fault.
    fn stop(self) -> Stop {
        Stop::Fault(self.why)
    }
}

/// Whether somebody has a socket there; `None` of another machine.
pub fn is_heard_of(endpoint: &Endpoint) -> Option<bool> {
    match endpoint {
        Endpoint::Tcp(address) | Endpoint::Udp(address) if address.ip().is_loopback() => {
            Some(is_bound(endpoint.transport(), address.port()))
        }
        _ => None,
    }
}

/// Whether a process, or one that it has started, has a socket there; `None` where that is not to be seen.
fn holds(pid: u32, endpoint: &Endpoint) -> Option<bool> {
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    if network(&pid.to_string())? != network("self")? {
        return None; // a container, to which somebody else here hands on what comes
    }
    let sockets = sockets_at(endpoint.transport(), endpoint.port());
    if sockets.is_empty() {
        return None;
    }
    let mut is_there = false;
    for process in cost::tree(pid) {
        let holds = |fd: FDInfo| matches!(fd.target, FDTarget::Socket(inode) if sockets.contains(&inode));
        is_there |= process.fd().ok()?.flatten().any(holds);
    }
    Some(is_there)
}

/// Whether a server that does not set SO_REUSEADDR could bind it.
fn is_free(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None);
            socket.and_then(|socket| socket.bind(&(*address).into())).is_ok()
        }
        Endpoint::Udp(address) => UdpSocket::bind(address).is_ok(),
        Endpoint::Unix(_) => true,
    }
}

/// A port that neither TCP nor UDP uses just now.
fn free_port() -> io::Result<u16> {
    loop {
        // Bound without SO_REUSEADDR, which std sets: a port with connections in TIME_WAIT is not free to everybody.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address.port());
        }
    }
}

impl Confinement {
    /// The command that starts this under the limits: by this very program, also where its file was replaced meanwhile.
    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        let parent = format!("--parent={}", std::process::id());
        command.arg("confined").arg(parent).args(self.options()).arg("--").args(words);
        command
    }
}
