//! `echo-server status`: what a server has done and does, read from outside.
//!
//! The counters are copied from its page; whether its processes live, what waits at its sockets, and which
//! datagrams were dropped there, is asked of the kernel (proc(5)).

mod prometheus;
mod sockets;
mod table;
mod watch;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

use nix::{errno::Errno, libc::O_NONBLOCK, sys::signal::kill, unistd::Pid};
use procfs::{
    ProcError,
    process::{Process, Stat},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    cli::Form,
    scoreboard::{Copied, Dropped, Figures, Identity, Numbers, Stage, WorkerFigures},
};

/// What there is to say of the servers that `of` names, a file or a process; nothing where it was shown live.
///
/// # Errors
/// A sentence for the user, where it names none.
pub fn show(of: &OsStr, form: Form) -> Result<String, String> {
    let pages = pages(of)?;
    if form.watch {
        return watch::run(&pages).map(|()| String::new());
    }
    let all = read(&pages)?;
    match form {
        Form { json: true, .. } => Ok(all.iter().map(|status| format!("{}\n", json!(status))).collect()),
        Form { prometheus: true, .. } => prometheus::text(&all),
        _ => Ok(all.iter().map(table::text).collect::<Vec<_>>().join("\n")),
    }
}

/// A page, and what it is called.
struct Page {
    name: String,
    file: File,
}

/// The page in a file; or, of a number, those that a process holds.
fn pages(of: &OsStr) -> Result<Vec<Page>, String> {
    let pages = match of.to_str().and_then(|of| of.parse().ok()) {
        Some(pid) => pages_of(pid),
        None => open(Path::new(of)).map(|file| vec![file]).map_err(|error| error.to_string()),
    };
    let name = of.display().to_string();
    let named = |file| Page { name: name.clone(), file };
    pages
        .map(|files| files.into_iter().map(named).collect())
        .map_err(|sentence| format!("{name}: {sentence}"))
}

/// Opens a file for reading, without waiting for whoever should write into it (fifo(7)).
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)
}

/// The pages that a process holds: that of the server that it is, or of those that it is the parent or a
/// worker of. They are found among its open files by how they begin (proc_pid_fd(5)).
fn pages_of(pid: i32) -> Result<Vec<File>, String> {
    let held = Process::new(pid).and_then(|process| process.fd()).map_err(|error| match error {
        ProcError::NotFound(_) => "there is no such process; name one, or a file".to_owned(),
        ProcError::PermissionDenied(_) => "the process is another user's; ask as that user".to_owned(),
        error => error.to_string(),
    })?;
    let mut pages = BTreeMap::new();
    for fd in held.flatten() {
        let path = format!("/proc/{pid}/fd/{}", fd.fd);
        let Ok(there) = fs::metadata(&path) else { continue };
        let file = there.is_file().then(|| open(path.as_ref()).ok()).flatten();
        pages.extend(file.filter(Copied::is_a_page).map(|file| (there.ino(), file)));
    }
    if pages.is_empty() {
        return Err("the process has no scoreboard; is it an echo-server?".into());
    }
    let is_its_own = |file: &File| Copied::read(file).is_ok_and(|page| page.pid().cast_signed() == pid);
    match pages.values().find(|file| is_its_own(file)) {
        Some(own) => Ok(vec![own.try_clone().map_err(|error| error.to_string())?]),
        None => Ok(pages.into_values().collect()),
    }
}

fn read(pages: &[Page]) -> Result<Vec<Status>, String> {
    let status = |page: &Page| match Copied::read(&page.file) {
        Ok(copied) => Ok(Status::new(&copied)),
        Err(sentence) => Err(format!("{}: {sentence}", page.name)),
    };
    pages.iter().map(status).collect()
}

/// A server as it is now; as JSON, its figures have the names of the final ones.
#[derive(Clone, Debug, Serialize)]
struct Status {
    event: &'static str,
    #[serde(flatten)]
    identity: Identity,
    pid: u32,
    /// `None` where it cannot be known from here whether the process lives.
    state: Option<State>,
    started_unix_s: f64,
    /// `None` where it is not known until when it ran.
    uptime_s: Option<f64>,
    /// Clients in the queue of a pool.
    queued: u64,
    /// Clients that the kernel holds until they are accepted; `None` where it does not tell.
    accept_queue: Option<u64>,
    /// Bytes of memory that the datagrams take which the kernel holds until they are received.
    receive_queue: Option<u64>,
    #[serde(flatten)]
    figures: Figures,
    workers: Vec<Worker>,
    /// When this was read.
    #[serde(skip)]
    read: Instant,
}

/// What a server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Starting,
    Running,
    Ended,
    /// It is no more, and has not said so.
    Gone,
}

/// A worker as it is now.
#[derive(Clone, Debug, Serialize)]
struct Worker {
    n: usize,
    /// `None` where it cannot be known from here whether it lives.
    state: Option<Doing>,
    #[serde(flatten)]
    told: WorkerFigures,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Doing {
    Starting,
    Idle,
    Serving,
    Gone,
}

impl Status {
    fn new(page: &Copied) -> Self {
        let (identity, pid) = (page.identity(), page.pid());
        let seen = page.numbers().filter(|&numbers| Some(numbers) == Numbers::here()).and_then(|_| look(pid));
        // Who has the number of the server, and was started at another time, is another process.
        let server = seen.clone().flatten().filter(|stat| stat.starttime == page.started());
        let state = match (pid, page.ended(), &seen, &server) {
            (0, ..) => Some(State::Starting),
            (_, Some(_), ..) => Some(State::Ended),
            (_, None, None, _) => None,
            (_, None, _, Some(_)) if !page.is_ready() => Some(State::Starting),
            (_, None, _, Some(_)) => Some(State::Running),
            (_, None, _, None) => Some(State::Gone),
        };
        let is_timed = matches!(state, Some(State::Starting | State::Running | State::Ended));
        let (mut figures, workers) = page.figures();
        let inbox = server.as_ref().and_then(|server| sockets::inbox(server, &identity));
        // On the page only when the server has ended; until then the sockets know.
        let kernel = inbox.map_or(0, |inbox| inbox.dropped);
        if let Some(datagrams) = figures.udp.as_mut().filter(|_| kernel > 0) {
            let counted = datagrams.dropped.entry(Dropped::Kernel.name()).or_default();
            *counted = kernel.max(*counted);
        }
        let worker = |(n, told): (usize, WorkerFigures)| {
            let lives = server.is_some() && (told.pid == pid || is_child(told.pid, pid));
            Worker { n, state: state.map(|_| Doing::of(&told, lives)), told }
        };
        Self {
            event: "status",
            pid,
            state,
            started_unix_s: seconds(page.began()),
            uptime_s: is_timed.then(|| seconds(page.uptime())),
            queued: page.queued(),
            accept_queue: server.as_ref().and_then(|server| sockets::accept_queue(server, &identity)),
            receive_queue: inbox.map(|inbox| inbox.waiting),
            figures,
            workers: workers.into_iter().enumerate().map(worker).collect(),
            identity,
            read: Instant::now(),
        }
    }

    /// `None` where that cannot be known.
    fn is_running(&self) -> Option<bool> {
        self.state.map(|state| state == State::Running)
    }
}

impl Doing {
    fn of(told: &WorkerFigures, lives: bool) -> Self {
        match (told.stage, lives, told.figures.active) {
            _ if told.pid == 0 => Self::Starting,
            (_, false, _) | (Stage::Ended, ..) => Self::Gone,
            (Stage::Starting, ..) => Self::Starting,
            (Stage::Ready, _, 0) => Self::Idle,
            (Stage::Ready, ..) => Self::Serving,
        }
    }
}

/// With milliseconds, and no digits that say nothing.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

/// The process of that number, if there is one that has not ended; `None` where there is one that is hidden from us
/// (proc(5), hidepid).
fn look(pid: u32) -> Option<Option<Stat>> {
    let pid = pid.cast_signed();
    match Process::new(pid).and_then(|process| process.stat()) {
        Ok(stat) => Some((!['Z', 'X'].contains(&stat.state)).then_some(stat)),
        Err(_) if kill(Pid::from_raw(pid), None) == Err(Errno::EPERM) => None,
        Err(_) => Some(None),
    }
}

fn is_child(pid: u32, parent: u32) -> bool {
    look(pid).flatten().is_some_and(|stat| stat.ppid == parent.cast_signed())
}
