//! `echo-server`: one echo, served in every way Unix knows to serve many clients at once.
//!
//! ARCHITECTURE.md is the map of this house.

mod accept;
#[allow(dead_code)] // nobody leaves anything yet
mod archive;
mod busy_poll;
mod cli;
#[cfg(target_os = "linux")]
mod completion;
mod config;
mod connection;
#[allow(dead_code)] // nobody keeps anything yet
mod groups;
mod handoff;
mod idle;
mod lock;
mod model;
mod models;
mod pool;
mod process;
mod queue;
mod readiness;
mod rights;
#[cfg(target_os = "linux")]
mod ring;
mod scoreboard;
mod seats;
mod session;
mod shared;
mod shutdown;
mod socket;
mod status;

use std::{
    io::{self, Write},
    os::fd::OwnedFd,
    process::ExitCode,
    sync::Arc,
};

use arguments::{Endpoint, Transport};
use cli::{Cli, Command};
use comfy_table::{ContentArrangement, Table, presets};
use config::Config;
use listenfd::ListenFd;
use model::Context;
use models::MODELS;
use process::{Children, Rank};
use scoreboard::{Identity, Scoreboard};
use seats::Seats;
use serde_json::{Value, json};
use shutdown::Shutdown;
use socket::{Listener, SocketOptions};

fn main() -> ExitCode {
    process::default_faults();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let cli: Cli = arguments::parse();
    let done = match cli.command {
        Some(Command::Models { json }) => Ok(list_models(json)),
        Some(Command::Status { of, form }) => status::show(&of, form).map(|text| {
            say(&text);
            ExitCode::SUCCESS
        }),
        None => Config::new(cli.serve).and_then(|config| {
            let servers = bind(&config)?;
            Ok(ExitCode::from(serve_all(servers, &config)))
        }),
    };
    done.unwrap_or_else(|sentence| {
        eprintln!("echo-server: {sentence}");
        ExitCode::from(2)
    })
}

/// A listener, and the endpoint that it really has.
type Bound = (Listener, Endpoint);

/// An endpoint to serve.
struct Server {
    listener: Listener,
    endpoint: Endpoint,
    board: Arc<Scoreboard>,
}

/// The sockets that a service manager passed, and those of the endpoints that were typed; where there are
/// neither, the default. Each has its scoreboard.
fn bind(config: &Config) -> Result<Vec<Server>, String> {
    let mut bound = inherited(config)?;
    for endpoint in &config.endpoints {
        bound.push(bind_one(endpoint, config)?);
    }
    if bound.is_empty() {
        bound.push(bind_one(&Endpoint::Tcp(([127, 0, 0, 1], 7007).into()), config)?);
    }
    if config.stats.is_some() && bound.len() > 1 {
        return Err("--stats is for one endpoint; leave it out, and give `status` the process".into());
    }
    bound.into_iter().map(|bound| with_board(bound, config)).collect()
}

fn with_board((listener, endpoint): Bound, config: &Config) -> Result<Server, String> {
    let stats = config.stats.as_deref();
    let board = Scoreboard::of(&identity(&endpoint, config), stats).map_err(|error| match stats {
        Some(path) => format!("--stats {}: {error}; choose a file that can be written", path.display()),
        None => format!("the scoreboard: {error}; choose fewer --workers"),
    })?;
    Ok(Server { listener, endpoint, board: Arc::new(board) })
}

fn identity(endpoint: &Endpoint, config: &Config) -> Identity {
    let isolate = (!config.model.isolates.is_empty()).then(|| config.settings.isolate.name().to_owned());
    Identity {
        endpoint: endpoint.to_string(),
        model: config.model.name.to_owned(),
        dispatch: config.way.dispatch.to_owned(),
        isolate,
        workers: config.settings.workers,
    }
}

/// LISTEN_FDS: sd_listen_fds(3).
fn inherited(config: &Config) -> Result<Vec<Bound>, String> {
    let mut passed = ListenFd::from_env();
    let mut bound = Vec::new();
    for n in 0..passed.len() {
        let usable = |error| format!("LISTEN_FDS: socket {n}: {error}; pass listening stream sockets");
        let tcp = passed.take_tcp_listener(n).map(|socket| socket.map(OwnedFd::from));
        let unix = |_| passed.take_unix_listener(n).map(|socket| socket.map(OwnedFd::from));
        let Some(fd) = tcp.or_else(unix).map_err(usable)? else { continue };
        if config.way.reuse_port && !config.way.dispatch.is_empty() {
            return Err(format!(
                "LISTEN_FDS: one socket is passed; use another --dispatch than {}",
                config.way.dispatch
            ));
        }
        let listener =
            Listener::inherit(fd, SocketOptions { listeners: 1, ..config.sockets }).map_err(usable)?;
        let endpoint = listener.endpoint().map_err(usable)?;
        bound.push((listener, endpoint));
    }
    Ok(bound)
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
    let listeners = if matches!(endpoint, Endpoint::Unix(_)) { 1 } else { config.sockets.listeners };
    let listener = Listener::bind(endpoint, SocketOptions { listeners, ..config.sockets })
        .map_err(|error| format!("{endpoint}: {error}; {}", what_to_do(&error)))?;
    let endpoint = listener.endpoint().map_err(|error| format!("{endpoint}: {error}"))?;
    Ok((listener, endpoint))
}

/// Serves one endpoint in this process, or several in a process each, so that a model that forks never
/// forks beside another's threads. Returns the exit status.
fn serve_all(mut servers: Vec<Server>, config: &Config) -> u8 {
    let mut serve = || {
        let shutdown = Arc::new(Shutdown::on_signals()?);
        process::exit_at_the_second_signal()?;
        let seats = Arc::new(Seats::new(config.limits)?); // of all endpoints together
        match servers.len() {
            1 => serve_one(servers.remove(0), config, seats, shutdown),
            _ => supervise(std::mem::take(&mut servers), config, &seats, &shutdown),
        }
    };
    serve().unwrap_or_else(|error| complain(&error))
}

fn serve_one(server: Server, config: &Config, seats: Arc<Seats>, shutdown: Arc<Shutdown>) -> io::Result<u8> {
    let (endpoint, board) = (server.endpoint.clone(), Arc::clone(&server.board));
    serve(server, config, seats, shutdown)?;
    report(&endpoint, config, &board);
    Ok(0)
}

/// Announces the endpoint, and lends the model what it needs until the server is told to end.
fn serve(server: Server, config: &Config, seats: Arc<Seats>, shutdown: Arc<Shutdown>) -> io::Result<()> {
    let Server { listener, endpoint, board } = server;
    let _path = listener.path(); // removed when this is left
    let ctx = Context { settings: config.settings.clone(), board: Arc::clone(&board), seats, shutdown };
    board.begins();
    announce(&endpoint, config);
    let served = (config.way.serve)(listener, &ctx);
    board.ends();
    served
}

/// A process for each endpoint. They share the shutdown descriptor, so they end together; and when one
/// ends by itself, the others are told to. This process holds their scoreboards, and reports when they have
/// ended: two processes that wrote long lines into one pipe would mix them up.
fn supervise(
    mut servers: Vec<Server>,
    config: &Config,
    seats: &Arc<Seats>,
    shutdown: &Arc<Shutdown>,
) -> io::Result<u8> {
    let mut children = Children::new()?;
    servers.reverse();
    while let Some(server) = servers.pop() {
        children.fork(Rank::Server, (server.endpoint.clone(), Arc::clone(&server.board)), || {
            servers.clear();
            let served = serve(server, config, Arc::clone(seats), Arc::clone(shutdown));
            served.map_or_else(|error| complain(&error), |()| 0)
        })?;
    }
    let mut status = 0;
    while children.count() > 0 {
        for ended in children.wait(None) {
            let (endpoint, board) = &ended.who;
            if !ended.is_well() {
                log::error!("the server of {endpoint} ended early: {:?}", ended.status);
                status = 1;
            }
            report(endpoint, config, board);
            shutdown.request();
        }
    }
    Ok(status)
}

fn complain(error: &io::Error) -> u8 {
    eprintln!("echo-server: {error}");
    1
}

fn announce(endpoint: &Endpoint, config: &Config) {
    say_line(&json!({
        "event": "listening",
        "endpoint": endpoint,
        "model": config.model.name,
        "dispatch": config.way.dispatch,
        "workers": config.settings.workers,
        "isolate": (!config.model.isolates.is_empty()).then(|| config.settings.isolate.name()),
        "pid": std::process::id(),
    }));
}

fn report(endpoint: &Endpoint, config: &Config, board: &Scoreboard) {
    let (all, workers) = board.figures();
    let mut line = json!({
        "event": "final",
        "endpoint": endpoint,
        "model": config.model.name,
        "dispatch": config.way.dispatch,
    });
    if let (Some(line), Ok(Value::Object(figures))) = (line.as_object_mut(), serde_json::to_value(all)) {
        line.extend(figures);
        line.insert("workers".into(), json!(workers));
    }
    say_line(&line);
}

/// On stdout, in one piece. A reader that has gone away does not stop the server.
fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn say_line(line: &Value) {
    say(&format!("{line}\n"));
}

fn list_models(as_json: bool) -> ExitCode {
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
        say_line(&json!({ "models": models }));
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
            let dispatches = model.dispatches(Transport::Tcp).join(", ");
            table.add_row([model.name, &transports.join(", "), &dispatches, &what]);
        }
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 1));
        });
        let _ = writeln!(io::stdout(), "{}", table.trim_fmt());
    }
    ExitCode::SUCCESS
}
