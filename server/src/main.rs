//! `echo-server`: one echo, served in every way Unix knows to serve many clients at once.
//!
//! ARCHITECTURE.md is the map of this house.

mod accept;
mod archive;
mod busy_poll;
mod cli;
#[cfg(target_os = "linux")]
mod completion;
mod config;
mod connection;
mod datagram;
mod exchange;
mod groups;
mod handoff;
mod idle;
mod lock;
mod mailbox;
mod model;
mod models;
mod pool;
mod process;
mod queue;
mod rate;
mod readiness;
mod repeats;
mod rights;
#[cfg(target_os = "linux")]
mod ring;
mod scoreboard;
mod seats;
mod session;
mod sessions;
mod shared;
mod shutdown;
mod socket;
mod stand_in;
mod startup;
mod status;

use std::{
    fmt::Display,
    io::{self, Write},
    os::fd::OwnedFd,
    process::ExitCode,
    sync::Arc,
};

use archive::Archive;
use arguments::{Endpoint, Endpoints, Transport};
use cli::{Cli, Command};
use comfy_table::{ContentArrangement, Table, presets};
use config::{Config, Settings};
use listenfd::ListenFd;
use model::{Context, Serve, Way};
use models::MODELS;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use process::{Children, Rank};
use rate::RateLimit;
use repeats::RepeatLimit;
use scoreboard::{Dropped, Identity, Scoreboard};
use seats::Seats;
use serde_json::{Value, json};
use shutdown::{SIGNALS, Shutdown};
use socket::{Datagrams, Listener, OwnPath, SocketOptions};
use startup::Startup;

fn main() -> ExitCode {
    process::default_faults();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let cli: Cli = arguments::parse();
    let _ = files::report_size_limits();
    let done = match cli.command {
        Some(Command::Models { json }) => Ok(said(list_models(json))),
        Some(Command::Status { of, form }) => status::show(&of, form).map(|text| said(say(&text))),
        None => Config::new(cli.serve).and_then(|config| {
            process::ignore_unused_signals();
            let servers = bind(&config)?;
            Ok(ExitCode::from(serve_all(servers, &config)))
        }),
    };
    done.unwrap_or_else(|sentence| {
        complain(sentence);
        ExitCode::from(2)
    })
}

/// How a command ends that has something to say.
fn said(done: io::Result<()>) -> ExitCode {
    done.map_or_else(|error| ExitCode::from(complain(error)), |()| ExitCode::SUCCESS)
}

/// What a model is lent, all on one port, and the way in which it serves it.
enum Socket {
    Streams(Vec<Listener>, &'static Way<Listener>),
    Datagrams(Vec<Datagrams>, &'static Way<Datagrams>),
}

impl Socket {
    fn dispatch(&self) -> &'static str {
        match self {
            Self::Streams(_, way) => way.dispatch,
            Self::Datagrams(_, way) => way.dispatch,
        }
    }

    fn path(&self) -> Option<OwnPath> {
        match self {
            Self::Streams(listeners, _) => listeners.first()?.path(),
            Self::Datagrams(..) => None,
        }
    }

    fn serve(self, ctx: &Context) -> io::Result<()> {
        match self {
            Self::Streams(listeners, way) => lend(&way.serve, listeners, Listener::try_clone, ctx),
            Self::Datagrams(sockets, way) => {
                let held = sockets.iter().map(Datagrams::try_clone).collect::<io::Result<Vec<_>>>()?;
                let served = lend(&way.serve, sockets, Datagrams::try_clone, ctx);
                let counted = held.iter().try_for_each(|one| exchange::count_the_rest(one, ctx.board.door()));
                ctx.board.nobody_answers();
                let drops = held.iter().map(Datagrams::kernel_drops).sum::<u64>()
                    + held.first().map_or(0, Datagrams::reserve_drops);
                ctx.board.door().dropped(Dropped::Kernel, drops);
                served.and(counted)
            }
        }
    }
}

/// Lends a model its sockets. Where each worker is to have one and there are fewer, as of a path, they share the first.
fn lend<S>(
    serve: &Serve<S>,
    mut sockets: Vec<S>,
    try_clone: fn(&S) -> io::Result<S>,
    ctx: &Context,
) -> io::Result<()> {
    match serve {
        Serve::One(serve) => serve(sockets.pop().ok_or(io::ErrorKind::InvalidInput)?, ctx),
        Serve::OneEach(serve) => {
            while sockets.len() < ctx.settings.workers {
                sockets.push(try_clone(&sockets[0])?);
            }
            serve(sockets, ctx)
        }
    }
}

/// A socket, and the endpoint that it really has.
type Bound = (Socket, Endpoint);

/// An endpoint to serve.
struct Server {
    socket: Socket,
    about: About,
}

/// Which server it is, and where it counts.
#[derive(Clone)]
struct About {
    endpoint: Endpoint,
    dispatch: &'static str,
    board: Arc<Scoreboard>,
}

/// The sockets that a service manager passed, and those of the endpoints that were typed; where there are
/// neither, the default ones. Each has its scoreboard.
fn bind(config: &Config) -> Result<Vec<Server>, String> {
    let mut bound = inherited(config)?;
    for endpoints in &config.endpoints {
        bound.extend(bind_each(endpoints, config)?);
    }
    if bound.is_empty() {
        let here = ([127, 0, 0, 1], 7007).into();
        let streams = config.streams.map(|_| Endpoint::Tcp(here));
        let datagrams = config.datagrams.map(|_| Endpoint::Udp(here));
        for endpoint in [streams, datagrams].into_iter().flatten() {
            bound.push(bind_one(&endpoint, config)?);
        }
    }
    if config.stats.is_some() && bound.len() > 1 {
        return Err("--stats is for one endpoint; name one, or give `status` the process".into());
    }
    let of_datagrams = bound.iter().filter(|(_, endpoint)| endpoint.transport() == Transport::Udp).count();
    match &config.groups {
        Some(_) if of_datagrams != 1 => return Err("--groups is for one udp:// endpoint; name one".into()),
        Some(plan) => {
            files::can_be_written(&plan.file).map_err(|error| format!("--groups {error}"))?;
            if config.stats.as_ref().is_some_and(|stats| files::are_one(stats, &plan.file)) {
                return Err("--stats and --groups name one file; choose another for one of them".into());
            }
        }
        None => {}
    }
    bound.into_iter().map(|bound| with_board(bound, config)).collect()
}

fn with_board((socket, endpoint): Bound, config: &Config) -> Result<Server, String> {
    let (stats, dispatch) = (config.stats.as_deref(), socket.dispatch());
    let isolate = (!config.model.isolates.is_empty()).then(|| config.settings.isolate.name().to_owned());
    let identity = Identity {
        endpoint: endpoint.to_string(),
        model: config.model.name.to_owned(),
        dispatch: dispatch.to_owned(),
        isolate,
        workers: config.settings.workers,
    };
    let board = Scoreboard::of(&identity, stats).map_err(|error| match stats {
        Some(_) => format!("--stats {error}"),
        None => format!("the scoreboard: {error}; choose fewer --workers"),
    })?;
    Ok(Server { socket, about: About { endpoint, dispatch, board: Arc::new(board) } })
}

/// LISTEN_FDS: sd_listen_fds(3).
fn inherited(config: &Config) -> Result<Vec<Bound>, String> {
    let mut passed = ListenFd::from_env();
    let mut bound = Vec::new();
    for n in 0..passed.len() {
        let usable = |error| {
            format!("LISTEN_FDS: socket {n}: {error}; pass listening stream sockets, and bound ones of UDP")
        };
        let streams = passed.take_tcp_listener(n).map(|socket| socket.map(OwnedFd::from));
        let streams =
            streams.or_else(|_| passed.take_unix_listener(n).map(|socket| socket.map(OwnedFd::from)));
        let any = streams.or_else(|_| passed.take_udp_socket(n).map(|socket| socket.map(OwnedFd::from)));
        let Some(fd) = any.map_err(usable)? else { continue };
        if getsockopt(&fd, sockopt::SockType).map_err(|errno| usable(errno.into()))? == SockType::Datagram {
            bound.push(inherited_datagrams(fd, config)?);
            continue;
        }
        let Some(way) = config.streams else {
            return Err("LISTEN_FDS: this dispatch is of datagrams; choose another".into());
        };
        if way.reuse_port() && !way.dispatch.is_empty() {
            return Err(format!(
                "LISTEN_FDS: one socket is passed; use another --dispatch than {}",
                way.dispatch
            ));
        }
        let listener = Listener::inherit(fd, config.sockets).map_err(usable)?;
        let endpoint = listener.endpoint().map_err(usable)?;
        bound.push((Socket::Streams(vec![listener], way), endpoint));
    }
    Ok(bound)
}

/// A socket of UDP that a service manager passed. It receives on after this server, so nobody who blocks in receiving could
/// be woken: it is for loops.
fn inherited_datagrams(fd: OwnedFd, config: &Config) -> Result<Bound, String> {
    let Some(way) = config.datagrams.filter(|_| config.model.is_loop) else {
        return Err("LISTEN_FDS: a socket of UDP is served by loops alone; choose --model event-loop".into());
    };
    let usable = |error| format!("LISTEN_FDS: {error}; pass bound sockets of UDP");
    // All workers share it.
    let arrivals = config.groups.is_some() && config.settings.workers > 1;
    let bursts = config.sockets.bursts || arrivals;
    let options = SocketOptions { listeners: 1, arrivals, bursts, ..config.sockets };
    let datagrams = Datagrams::inherit(fd, options).map_err(usable)?;
    let endpoint = Endpoint::Udp(datagrams.address().map_err(usable)?);
    Ok((Socket::Datagrams(vec![datagrams], way), endpoint))
}

/// How often one port is looked for that is free at each address of a name.
const TRIES: usize = 16;

/// Each address of a name, on one port, also where a free one was asked for. An address that this machine does not have, as
/// where a family is switched off, is left out unless there is no other.
fn bind_each(endpoints: &Endpoints, config: &Config) -> Result<Vec<Bound>, String> {
    if let [one] = endpoints.all() {
        return Ok(vec![bind_one(one, config)?]);
    }
    let (here, elsewhere): (Vec<&Endpoint>, Vec<&Endpoint>) =
        endpoints.all().iter().partition(|endpoint| socket::is_of_this_machine(endpoint));
    let (Some(first), others) = (here.first(), here.iter().skip(1)) else {
        return Ok(vec![bind_one(&endpoints.all()[0], config)?]);
    };
    for endpoint in elsewhere {
        log::warn!("{endpoint}: this machine has no such address; it is left out");
    }
    let is_any_port = first.port() == 0;
    let mut tries = 0..TRIES;
    loop {
        let bound = bind_one(first, config)?;
        let port = bound.1.port();
        let others = others.clone().map(|endpoint| bind_one(&endpoint.at_port(port), config));
        match others.collect::<Result<Vec<_>, _>>() {
            Ok(others) => return Ok([bound].into_iter().chain(others).collect()),
            Err(_) if is_any_port && tries.next().is_some() => {} // taken at another address
            Err(sentence) => return Err(sentence),
        }
    }
}

fn bind_one(endpoint: &Endpoint, config: &Config) -> Result<Bound, String> {
    let what_to_do = |error: &io::Error| match (error.kind(), endpoint) {
        (io::ErrorKind::AddrInUse, Endpoint::Unix(_)) => "stop what listens there, or choose another path",
        (_, Endpoint::Unix(_)) => "choose a path in a folder that can be written to, of at most 107 bytes",
        (io::ErrorKind::AddrInUse, _) => {
            "stop what listens there, or choose another port (0 takes a free one)"
        }
        _ if error.raw_os_error() == Some(nix::libc::EMFILE) => "raise ulimit -n, or use fewer --workers",
        (io::ErrorKind::PermissionDenied, _) => "choose a port from 1024 up, or ask for CAP_NET_BIND_SERVICE",
        _ => "choose an address of this machine",
    };
    let refused = |error: io::Error| match error.get_ref() {
        // It says itself what to do.
        Some(sentence) if error.kind() == io::ErrorKind::Unsupported => format!("{endpoint}: {sentence}"),
        _ => format!("{endpoint}: {error}; {}", what_to_do(&error)),
    };
    let unserved = || format!("{endpoint}: {} does not serve it", config.model.name);
    if let Endpoint::Udp(address) = endpoint {
        let way = config.datagrams.ok_or_else(unserved)?;
        let datagrams = Datagrams::bind(*address, way.sockets(config)).map_err(refused)?;
        let bound = Endpoint::Udp(datagrams[0].address().map_err(refused)?);
        return Ok((Socket::Datagrams(datagrams, way), bound));
    }
    let way = config.streams.ok_or_else(unserved)?;
    let one = matches!(endpoint, Endpoint::Unix(_));
    let options = if one { config.sockets } else { way.sockets(config) };
    let listeners = Listener::bind(endpoint, options).map_err(refused)?;
    let bound = listeners[0].endpoint().map_err(refused)?;
    Ok((Socket::Streams(listeners, way), bound))
}

/// What the servers of all endpoints have in common.
#[derive(Clone)]
struct Common {
    shutdown: Arc<Shutdown>,
    seats: Arc<Seats>,
    rate: Arc<RateLimit>,
    repeats: Arc<RepeatLimit>,
    archive: Option<Arc<Archive>>,
    startup: Arc<Startup>,
}

/// Serves one endpoint in this process, or several in a process each, so that a model that forks never
/// forks beside another's threads. Returns the exit status.
fn serve_all(mut servers: Vec<Server>, config: &Config) -> u8 {
    let mut prepare = || {
        let heard = SIGNALS.into_iter().filter(|&signal| process::is_heard(signal));
        let shutdown = Arc::new(Shutdown::on(heard)?);
        let announcement = Announcement::new(&servers, config);
        let common = Common {
            startup: Arc::new(Startup::new(servers.len(), Arc::clone(&shutdown), move || {
                announcement.say()
            })?),
            shutdown,
            seats: Arc::new(Seats::new(config.limits)?),
            rate: Arc::new(RateLimit::new(config.rate_limit)?),
            repeats: Arc::new(RepeatLimit::new(config.repeat_limit)?),
            archive: open_archive(&mut servers, config)?,
        };
        process::exit_at_the_second_signal().map(|()| common)
    };
    let common = match prepare() {
        Ok(common) => common,
        Err(error) => {
            complain(startup::sentence("it cannot start", &error, 1));
            return REFUSED;
        }
    };
    let abouts: Vec<About> = servers.iter().map(|server| server.about.clone()).collect();
    let (archive, startup) = (common.archive.clone(), Arc::clone(&common.startup));
    let mut status = match servers.len() {
        1 => serve(servers.remove(0), config, common),
        _ => supervise(servers, config, &common).unwrap_or_else(complain),
    };
    if startup.is_refused() {
        return REFUSED; // nothing was announced, nothing is kept
    }
    if let Some(Err(sentence)) = archive.map(|archive| archive.close()) {
        status = complain(sentence);
    }
    abouts.iter().try_for_each(|about| report(about, config)).map_or_else(complain, |()| status)
}

/// The exit status of a start that was refused.
const REFUSED: u8 = 2;

/// Where datagrams are kept, if they are to be. A SIGUSR1 that means nothing is answered in a line, and ends nothing.
fn open_archive(servers: &mut Vec<Server>, config: &Config) -> io::Result<Option<Arc<Archive>>> {
    let of_datagrams = servers.iter().find(|server| matches!(server.socket, Socket::Datagrams(..)));
    match (&config.groups, of_datagrams.map(|server| Arc::clone(&server.about.board))) {
        (Some(plan), Some(board)) => Archive::open(plan.clone(), board, || servers.clear()).map(Some),
        _ => process::answer_sigusr1(
            "echo-server: SIGUSR1: there are no groups to write; start it with --groups FILE\n",
        )
        .map(|()| None),
    }
}

/// Lends the model what it needs until the server is told to end. The model says when it can serve. Returns the exit
/// status.
fn serve(server: Server, config: &Config, common: Common) -> u8 {
    let Server { socket, about } = server;
    let _path = socket.path(); // removed when this is left
    let settings = Settings { port: about.endpoint.port(), ..config.settings.clone() };
    let Common { shutdown, seats, rate, repeats, archive, startup } = common;
    let board = Arc::clone(&about.board);
    let ctx = Context { settings, board, seats, rate, repeats, archive, shutdown, startup };
    about.board.begins();
    let served = socket.serve(&ctx);
    about.board.ends();
    match served {
        Ok(()) => 0,
        Err(error) if ctx.refuses_start(&about.endpoint.to_string(), &error) => REFUSED,
        Err(error) => complain(&error),
    }
}

/// A process for each endpoint. They share the shutdown descriptor, so they end together; and when one
/// ends by itself, the others are told to. This process holds their scoreboards, to report when all have ended.
fn supervise(mut servers: Vec<Server>, config: &Config, common: &Common) -> io::Result<u8> {
    let mut children = match Children::new() {
        Ok(none_yet) => none_yet,
        Err(error) => {
            common.startup.refuse(&startup::sentence("a process for each endpoint", &error, 1));
            return Ok(REFUSED);
        }
    };
    servers.reverse();
    while let Some(server) = servers.pop() {
        let about = server.about.clone();
        let forked = children.fork(Rank::Server, about.clone(), || {
            servers.clear();
            serve(server, config, common.clone())
        });
        if let Err(error) = forked {
            let what = format!("a process for {}", about.endpoint);
            common.startup.refuse(&startup::sentence(&what, &error, 1));
            break;
        }
    }
    let mut status = 0;
    while children.count() > 0 {
        for ended in children.wait(None) {
            let about = &ended.who;
            if !ended.is_well() && common.startup.is_announced() {
                status = 1;
            } else if !ended.is_well() {
                let how = ended.status;
                common
                    .startup
                    .refuse(&format!("the server of {} ended before it was ready: {how:?}", about.endpoint));
            }
            if ended.was_killed() {
                log::error!("the server of {} ended early: {:?}", about.endpoint, ended.status);
            }
            common.shutdown.request();
        }
    }
    Ok(status)
}

/// Says on stderr what is wrong, if anybody is there to read it. Returns the exit status.
fn complain(what: impl Display) -> u8 {
    let _ = writeln!(io::stderr(), "echo-server: {what}");
    1
}

/// What is said of all endpoints when they are served.
struct Announcement {
    abouts: Vec<About>,
    model: &'static str,
    workers: usize,
    isolate: Option<&'static str>,
}

impl Announcement {
    fn new(servers: &[Server], config: &Config) -> Self {
        Self {
            abouts: servers.iter().map(|server| server.about.clone()).collect(),
            model: config.model.name,
            workers: config.settings.workers,
            isolate: (!config.model.isolates.is_empty()).then(|| config.settings.isolate.name()),
        }
    }

    /// Says it, in whichever process or thread this is.
    fn say(&self) -> io::Result<()> {
        self.abouts.iter().try_for_each(|about| {
            say_line(&json!({
                "event": "listening",
                "endpoint": about.endpoint,
                "model": self.model,
                "dispatch": about.dispatch,
                "workers": self.workers,
                "isolate": self.isolate,
                "pid": about.board.pid(),
            }))
        })
    }
}

fn report(about: &About, config: &Config) -> io::Result<()> {
    let (all, workers) = about.board.figures();
    let mut line = json!({
        "event": "final",
        "endpoint": about.endpoint,
        "model": config.model.name,
        "dispatch": about.dispatch,
    });
    if let (Some(line), Ok(Value::Object(figures))) = (line.as_object_mut(), serde_json::to_value(all)) {
        line.extend(figures);
        line.insert("workers".into(), json!(workers));
    }
    say_line(&line)
}

/// On stdout, in one piece. A reader that has gone away does not stop the server; a full disk is an error.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::other(format!("stdout: {error}; send it elsewhere, or to /dev/null"))),
        Ok(()) => Ok(()),
    }
}

fn say_line(line: &Value) -> io::Result<()> {
    say(&format!("{line}\n"))
}

fn list_models(as_json: bool) -> io::Result<()> {
    if as_json {
        let models: Vec<_> = MODELS
            .iter()
            .map(|model| {
                let why_not = (model.supported)().err();
                json!({
                    "name": model.name,
                    "summary": model.summary,
                    "transports": model.transports().iter().map(|t| t.name()).collect::<Vec<_>>(),
                    "dispatches": {
                        "tcp": model.dispatches(Transport::Tcp),
                        "udp": model.dispatches(Transport::Udp),
                    },
                    "clients_at_once": model.at_once.name(),
                    "isolates": model.isolates.iter().map(|isolate| isolate.name()).collect::<Vec<_>>(),
                    "runs_here": why_not.is_none(),
                    "why_not": why_not,
                })
            })
            .collect();
        say_line(&json!({ "models": models }))
    } else {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["model", "transports", "dispatches", "what it is"]);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(80);
        for model in MODELS {
            let transports: Vec<&str> = model.transports().iter().map(|t| t.name()).collect();
            let what = match (model.supported)() {
                Ok(()) => model.summary.to_owned(),
                Err(why) => format!("{} (not here: {why})", model.summary),
            };
            let dispatches = model.all_dispatches().join(", ");
            table.add_row([model.name, &transports.join(", "), &dispatches, &what]);
        }
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 1));
        });
        say(&format!("{}\n", table.trim_fmt()))
    }
}
