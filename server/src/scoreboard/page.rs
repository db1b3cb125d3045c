//! What lies on the page and where, so that it can be read from outside.
//!
//! The page is a file. The server maps it and counts; whoever wants to know copies it with read(2), which sees
//! what the mapping holds, and which no truncation can turn into a signal, as it can with mmap(2). Nobody waits
//! for anybody: a copy is no snapshot, but each of its figures was true while it was made.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arguments::Transport;
use files::Draft;
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
    time::{ClockId, clock_gettime},
};
use procfs::process::Process;
use serde::Serialize;
use zerocopy::FromBytes;

use super::{Figures, Tally, WorkerFigures, figures};
use crate::shared::Shared;

/// The page: a header, then a tally for each worker.
pub type Page = Shared<Tally, Header>;

/// Which server counts on a page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Where it listens.
    pub endpoint: String,
    /// Its model.
    pub model: String,
    /// How its pool gets the connections; empty where there is only one way.
    pub dispatch: String,
    /// What its workers are, where there is a choice.
    pub isolate: Option<String>,
    /// How many there are.
    #[serde(skip)]
    pub workers: usize,
}

/// What the figures of a page are of.
#[derive(Clone, Copy)]
pub struct Served {
    /// What comes.
    pub transport: Transport,
    /// Whether it is kept by client address.
    pub keeps_groups: bool,
}

/// The first bytes of every page.
const MAGIC: u64 = u64::from_ne_bytes(*b"echopage");
/// The number of this order of things on it; a change of [`Header`] or [`Tally`] is another.
const LAYOUT: u32 = 3;

/// What begins the page: which server it is, and what belongs to no worker.
#[derive(FromBytes)]
#[repr(C, align(128))]
pub struct Header {
    magic: AtomicU64,
    layout: AtomicU32,
    /// How many bytes this is, and each tally: a second look at the layout.
    sizes: [AtomicU32; 2],
    workers: AtomicU32,
    endpoint: Text<128>,
    model: Text<32>,
    dispatch: Text<32>,
    isolate: Text<32>,
    /// The process that serves; 0 before it begins.
    pid: AtomicU32,
    /// Where that number is one: the two halves of the boot's, and the namespace's; all 0 where that is not known.
    numbers: [AtomicU64; 3],
    /// When the process was started, in ticks since the machine was booted; 0 where that is not known.
    started: AtomicU64,
    /// When it began: nanoseconds since 1970, and since the machine was booted.
    began: [AtomicU64; 2],
    /// When it ended, in nanoseconds since the machine was booted; 0 before.
    ended: AtomicU64,
    /// How many places had a worker that was ready to serve.
    pub ready: AtomicU32,
    /// 1: what comes is kept by client address.
    groups: AtomicU32,
    /// How many clients wait in the queue of a pool.
    pub queued: AtomicU64,
    /// The second of the monotonic clock in which something was last said that may be said once a second.
    pub last_said: AtomicI64,
    /// The tally of an acceptor that is no worker.
    pub door: Tally,
}

/// A short text, without the zeroes that follow it.
#[derive(FromBytes)]
#[repr(transparent)]
struct Text<const N: usize>([AtomicU8; N]);

impl<const N: usize> Text<N> {
    fn set(&self, text: &str) {
        self.0.iter().zip(text.bytes()).for_each(|(place, byte)| place.store(byte, Relaxed));
    }

    fn get(&self) -> String {
        let bytes: Vec<u8> =
            self.0.iter().map(|byte| byte.load(Relaxed)).take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Header {
    /// The sizes that this program knows.
    const SIZES: [u32; 2] = [size_of::<Self>() as u32, size_of::<Tally>() as u32];

    fn describes(&self, identity: &Identity) {
        self.endpoint.set(&identity.endpoint);
        self.model.set(&identity.model);
        self.dispatch.set(&identity.dispatch);
        self.isolate.set(identity.isolate.as_deref().unwrap_or_default());
        self.workers.store(identity.workers as u32, Relaxed);
        self.sizes.iter().zip(Self::SIZES).for_each(|(place, size)| place.store(size, Relaxed));
        self.layout.store(LAYOUT, Relaxed);
        self.magic.store(MAGIC, Relaxed);
    }

    /// What comes is kept by client address.
    pub fn keeps_groups(&self) {
        self.groups.store(1, Relaxed);
    }

    /// What the figures are of.
    pub fn served(&self) -> Served {
        let transport = if self.endpoint.get().starts_with("udp:") { Transport::Udp } else { Transport::Tcp };
        Served { transport, keeps_groups: self.groups.load(Relaxed) == 1 }
    }

    /// This process begins to serve.
    pub fn begins(&self) {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.began[0].store(unix.as_nanos() as u64, Relaxed);
        self.began[1].store(since_boot().as_nanos() as u64, Relaxed);
        let numbers = Numbers::here().unwrap_or_default();
        self.numbers.iter().zip(numbers.0).for_each(|(place, number)| place.store(number, Relaxed));
        let own = Process::myself().and_then(|process| process.stat());
        self.started.store(own.map_or(0, |own| own.starttime), Relaxed);
        self.pid.store(std::process::id(), Relaxed);
    }

    /// The process that serves; 0 before it begins.
    pub fn pid(&self) -> u32 {
        self.pid.load(Relaxed)
    }

    /// The server has ended.
    pub fn ends(&self) {
        self.ended.store(since_boot().as_nanos() as u64, Relaxed);
    }
}

/// What the number of a process is one of: a boot of a machine, and in it a namespace (pid_namespaces(7)). Elsewhere the
/// same number is another process, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers([u64; 3]);

impl Numbers {
    /// Those by which this process knows others; `None` where /proc does not tell, or has those of another namespace.
    pub fn here() -> Option<Self> {
        let own = fs::read_link("/proc/self").ok()?;
        if own != Path::new(&std::process::id().to_string()) {
            return None;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let boot = u128::from_str_radix(&boot.trim().replace('-', ""), 16).ok()?;
        let namespace = fs::metadata("/proc/self/ns/pid").ok()?.ino();
        Some(Self([(boot >> 64) as u64, boot as u64, namespace]))
    }
}

/// The clock by which the kernel notes when a process was started (proc_pid_stat(5)).
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Makes the page, and the file in which it lies: one that only a process which holds it leads to
/// (memfd_create(2)), or `stats`.
///
/// The file `stats` appears whole under its name, in place of what was there. It stays when the server has
/// ended: its last figures are worth most when nobody was there to see them.
///
/// # Errors
/// Where the file cannot be made or mapped.
pub fn lay(identity: &Identity, stats: Option<&Path>) -> io::Result<(Page, File)> {
    let Some(path) = stats else {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"echo-server-stats", flags)?);
        let page = Page::in_file(&file, identity.workers)?;
        // Whoever opens it through /proc cannot truncate it under the server.
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
        page.head().describes(identity);
        return Ok((page, file));
    };
    let draft = Draft::new(path)?;
    let page = draft.fill(|file| Page::in_file(file, identity.workers))?;
    page.head().describes(identity);
    Ok((page, draft.persist()?))
}

/// A copy of a page.
pub struct Copied {
    header: Header,
    workers: Vec<Tally>,
}

impl Copied {
    /// Whether `file` begins as a page does.
    pub fn is_a_page(file: &File) -> bool {
        let mut first = [0; size_of::<u64>()];
        file.read_exact_at(&mut first, 0).is_ok() && u64::from_ne_bytes(first) == MAGIC
    }

    /// Copies the page in `file`.
    ///
    /// # Errors
    /// A sentence for the user, where it is none that this program can read.
    pub fn read(file: &File) -> Result<Self, String> {
        if !Self::is_a_page(file) {
            return Err("is no page of an echo-server; name what --stats named, or its process".into());
        }
        let cut_short = || "the page is cut short; start its server again".to_owned();
        let mut head = vec![0; size_of::<Header>()];
        file.read_exact_at(&mut head, 0).ok().ok_or_else(cut_short)?;
        let header = Header::read_from_bytes(&head).ok().ok_or_else(cut_short)?;
        let sizes = header.sizes.each_ref().map(|size| size.load(Relaxed));
        if (header.layout.load(Relaxed), sizes) != (LAYOUT, Header::SIZES) {
            return Err("is the page of another version of echo-server; use that one's status".into());
        }
        // The number of workers is only believed where they are there.
        let rest = header.workers.load(Relaxed) as usize * size_of::<Tally>();
        let there = file.metadata().map_or(0, |metadata| metadata.len());
        let mut tallies = vec![0; rest.min(there as usize)];
        file.read_exact_at(&mut tallies, head.len() as u64).ok().ok_or_else(cut_short)?;
        let workers = tallies.chunks(size_of::<Tally>()).map(Tally::read_from_bytes);
        let workers = workers.collect::<Result<_, _>>().ok().ok_or_else(cut_short)?;
        Ok(Self { header, workers })
    }

    /// Which server it is.
    pub fn identity(&self) -> Identity {
        Identity {
            endpoint: self.header.endpoint.get(),
            model: self.header.model.get(),
            dispatch: self.header.dispatch.get(),
            isolate: Some(self.header.isolate.get()).filter(|isolate| !isolate.is_empty()),
            workers: self.workers.len(),
        }
    }

    /// The process that serves; 0 before it begins.
    pub fn pid(&self) -> u32 {
        self.header.pid.load(Relaxed)
    }

    /// Whether each place had a worker that was ready to serve.
    pub fn is_ready(&self) -> bool {
        self.header.ready.load(Relaxed) as usize >= self.workers.len()
    }

    /// What its number is one of, if that is known.
    pub fn numbers(&self) -> Option<Numbers> {
        let numbers = Numbers(self.header.numbers.each_ref().map(|number| number.load(Relaxed)));
        (numbers != Numbers::default()).then_some(numbers)
    }

    /// When that process was started, in ticks since the machine was booted.
    pub fn started(&self) -> u64 {
        self.header.started.load(Relaxed)
    }

    /// When the server began, since 1970.
    pub fn began(&self) -> Duration {
        Duration::from_nanos(self.header.began[0].load(Relaxed))
    }

    /// When the server began, since the machine was booted.
    fn began_since_boot(&self) -> Duration {
        Duration::from_nanos(self.header.began[1].load(Relaxed))
    }

    /// How long it has run, or ran.
    pub fn uptime(&self) -> Duration {
        let now = self.ended().unwrap_or_else(since_boot);
        match self.pid() {
            0 => Duration::ZERO,
            _ => now.saturating_sub(self.began_since_boot()),
        }
    }

    /// When it ended in order, since the machine was booted.
    pub fn ended(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.header.ended.load(Relaxed))).filter(|ended| !ended.is_zero())
    }

    /// How many clients wait in the queue of a pool.
    pub fn queued(&self) -> u64 {
        self.header.queued.load(Relaxed)
    }

    /// The whole server's figures, and each worker's.
    pub fn figures(&self) -> (Figures, Vec<WorkerFigures>) {
        figures(&self.header.door, &self.workers, self.header.served())
    }
}
