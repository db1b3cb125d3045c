//! How the groups of all workers become one file.
//!
//! Each worker keeps its own (`keeper`), behind a lock that nobody else wants. A process beside the server, the
//! archivist (`archivist`), gathers, merges and writes, so that whoever serves is not kept from it. SIGUSR1 asks for
//! the file: the archivist rings a bell for each keeper (eventfd(2)), and each sends a copy, which is memory with a
//! descriptor (memfd_create(2)) that travels over a socket. What a worker holds when it ends in order it sends
//! unasked; the archivist holds it from then on, for every later file.
//!
//! ```text
//! SIGUSR1, in any process ──pipe──▶ archivist ──bell n──▶ keeper n          (a clerk, or the worker's own loop)
//!                                   archivist ◀──letter, memory──── keeper n
//! main, when all have ended: closes ─letter─▶ archivist: the last file; ─▶ whether it was written
//! ```
//!
//! Everything here is made once, before the workers, and is the same in each of them, however it was forked.

mod archivist;
mod keeper;

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{AddressFamily, MsgFlags, SockFlag, SockType, setsockopt, socketpair, sockopt},
        time::TimeVal,
    },
    unistd::pipe2,
};
use signal_hook::{consts::SIGUSR1, low_level};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    groups::Bounds,
    process::{Children, Rank, bury},
    rights,
    scoreboard::{Dropped, Scoreboard},
    shared::Shared,
    shutdown::wait_readable,
};

use archivist::Archivist;
pub use keeper::Keeper;

/// How long a keeper waits at most for the archivist to take a letter. Hundreds find room before it has to wait.
const POSTED_WITHIN: Duration = Duration::from_secs(3);

/// What is to become of the groups.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The file that they are written to.
    pub file: PathBuf,
    /// What all workers together may hold.
    pub bounds: Bounds,
    /// How many workers keep groups at the same time.
    pub workers: usize,
}

/// Where the workers leave their groups.
pub struct Archive {
    office: Arc<Office>,
    /// The workers' end of the archivist's post, one for all.
    post: OwnedFd,
    /// The archivist's process.
    archivist: Option<u32>,
}

/// What the archivist and the keepers share.
struct Office {
    plan: Plan,
    board: Arc<Scoreboard>,
    /// Rung to ask for a copy; one for each worker.
    bells: Vec<EventFd>,
    /// How often copies were asked for: what an answer is an answer to.
    round: Shared<AtomicU64>,
}

impl Office {
    /// What the archivist held is gone with it, and nobody takes what the workers hold.
    fn loses_all(&self) {
        let workers = (0..self.plan.workers).map(|n| self.board.worker(n));
        for tally in workers.chain([self.board.door()]) {
            tally.dropped(Dropped::WorkerDied, tally.forgets());
        }
    }
}

/// A message to the archivist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Letter {
    what: u64,
    /// The number of the worker that sends it, and the process that it is or runs in.
    worker: u64,
    pid: u64,
    /// What `what` says.
    number: u64,
}

impl Letter {
    /// A worker begins to keep; its predecessor was killed with `number` messages.
    const BEGINS: u64 = 1;
    /// A copy of a worker's groups, asked for in round `number`.
    const COPY: u64 = 2;
    /// A worker ends, with `number` messages; its groups, where they could be copied.
    const ENDS: u64 = 3;
    /// All have ended.
    const CLOSES: u64 = 4;
}

impl Archive {
    /// Starts the archivist of a server that counts on `board`. It `lets_go`, in its own process, of what it need not
    /// hold: the server's sockets. From now on SIGUSR1 asks for the file.
    ///
    /// # Errors
    /// Where descriptors or memory ran out, or fork(2) is refused.
    ///
    /// # Panics
    /// Where another thread exists (`Children::new`).
    pub fn open(plan: Plan, board: Arc<Scoreboard>, lets_go: impl FnOnce()) -> io::Result<Arc<Self>> {
        let (archive, archivist, ask) = Self::of(plan, board)?;
        low_level::pipe::register(SIGUSR1, ask)?;
        let mut post = Some(archive.post);
        // Its end is seen on the post, and it is the last to end: nobody waits for it as one waits for a worker.
        let archivist = Children::new()?.fork(Rank::Worker, (), || {
            #[cfg(target_os = "linux")]
            let _ = nix::sys::prctl::set_name(c"archivist");
            drop(post.take()); // else the archivist would never find that everybody else has gone
            lets_go();
            u8::from(archivist.works().is_err())
        })?;
        let post = post.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Arc::new(Self { post, archivist: Some(archivist), ..archive }))
    }

    /// The workers' side, the archivist that has yet to begin, and what asks it for the file when it is written to.
    fn of(plan: Plan, board: Arc<Scoreboard>) -> io::Result<(Self, Archivist, File)> {
        let (mail, post) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&post, sockopt::SendTimeout, &TimeVal::new(POSTED_WITHIN.as_secs() as i64, 0))?;
        let (asked, ask) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let bell = |_| EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let bells = (0..plan.workers).map(bell).collect::<Result<_, _>>()?;
        board.keeps_groups();
        let office = Arc::new(Office { plan, board, bells, round: Shared::new(1)? });
        let archivist = Archivist::new(Arc::clone(&office), mail, asked.into());
        Ok((Self { office, post, archivist: None }, archivist, ask.into()))
    }

    /// The groups of worker number `n`, which begins to keep some, in the process that calls this. A process that is
    /// killed takes its own with it; how many messages those were its successor tells the archivist here.
    pub fn keeper(self: &Arc<Self>, n: usize) -> Keeper {
        Keeper::new(Arc::clone(self), n)
    }

    /// All workers have ended: has the file written a last time, and waits for that, which with a full and slow disk
    /// takes as long as it takes.
    ///
    /// # Errors
    /// A sentence, where it was not written.
    pub fn close(&self) -> Result<(), String> {
        let closes = Letter { what: Letter::CLOSES, worker: 0, pid: 0, number: 0 };
        let answer = self.send(closes, None::<File>).map_or_else(|_| Vec::new(), |()| self.answer());
        self.archivist.into_iter().for_each(bury); // it has nothing more to do
        match answer.split_first() {
            Some((_, [])) => Ok(()),
            Some((_, why)) => Err(format!("--groups {}", String::from_utf8_lossy(why))),
            None => {
                self.office.loses_all();
                let file = self.office.plan.file.display();
                Err(format!(
                    "--groups {file}: the archivist was killed; what was kept is lost, and not written"
                ))
            }
        }
    }

    /// What the archivist says when it has written the last file, which is also the last that it does; nothing where
    /// it has died.
    fn answer(&self) -> Vec<u8> {
        while wait_readable([Some(self.post.as_fd())], None) != [true] {}
        let mut answer = vec![0; 16 << 10];
        let received =
            rights::receive(&self.post, &mut [IoSliceMut::new(&mut answer)], MsgFlags::MSG_DONTWAIT);
        answer.truncate(received.map_or(0, |(length, _)| length));
        answer
    }

    /// Sends a letter, and with it a copy of groups.
    fn send(&self, letter: Letter, copy: Option<impl AsFd>) -> io::Result<()> {
        loop {
            match rights::send(&self.post, &[IoSlice::new(letter.as_bytes())], copy.as_ref()) {
                Err(Errno::EINTR) => {}
                sent => return Ok(sent?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, net::SocketAddr, path::Path, thread, time::Instant};

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    /// An archive whose archivist is a thread.
    struct Stage {
        archive: Arc<Archive>,
        archivist: Option<thread::JoinHandle<io::Result<()>>>,
        ask: File,
        folder: TempDir,
    }

    impl Stage {
        fn with(workers: usize) -> Self {
            Self::of(workers, "groups.json")
        }

        fn of(workers: usize, file: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let plan = Plan { file: folder.path().join(file), bounds: Bounds::default(), workers };
            let board = Arc::new(Scoreboard::new(workers).unwrap());
            let (archive, archivist, ask) = Archive::of(plan, board).unwrap();
            let archivist = archivist.that_waits(Duration::from_millis(300));
            let archivist = Some(thread::spawn(move || archivist.works()));
            Self { archive: Arc::new(archive), archivist, ask, folder }
        }

        fn path(&self) -> &Path {
            &self.archive.office.plan.file
        }

        /// Does what SIGUSR1 does.
        fn asks(&self) {
            let _ = (&self.ask).write(b"X");
        }

        fn rounds(&self) -> u64 {
            self.archive.office.round[0].load(std::sync::atomic::Ordering::SeqCst)
        }

        /// The file, once it says what is to be found in it.
        fn file_with(&self, found: impl Fn(&Value) -> bool) -> Value {
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                let file = fs::read_to_string(self.path()).unwrap_or_default();
                match serde_json::from_str(&file) {
                    Ok(file) if found(&file) => return file,
                    _ => assert!(Instant::now() < deadline, "waited for another file than this: {file:?}"),
                }
                thread::sleep(Duration::from_millis(5));
            }
        }

        fn closes(mut self) -> Value {
            self.archive.close().unwrap();
            self.archivist.take().unwrap().join().unwrap().unwrap();
            assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 1, "only the file is left");
            serde_json::from_str(&fs::read_to_string(self.path()).unwrap()).unwrap()
        }
    }

    fn client(n: u8) -> SocketAddr {
        ([127, 0, 0, n], 4242).into()
    }

    fn says(keeper: &Keeper, n: u8, at: u64, text: &str) {
        keeper.lock().keep(client(n), at, text.as_bytes());
    }

    /// What the file has of each client.
    fn said(file: &Value) -> Vec<(String, Vec<String>)> {
        let text = |message: &Value| message["text"].as_str().unwrap().to_owned();
        let said = |client: &Value| {
            let messages = client["messages"].as_array().unwrap().iter().map(text).collect();
            (client["address"].as_str().unwrap().to_owned(), messages)
        };
        file["clients"].as_array().unwrap().iter().map(said).collect()
    }

    fn one_said(n: u8, texts: &[&str]) -> (String, Vec<String>) {
        (client(n).to_string(), texts.iter().map(|&text| text.to_owned()).collect())
    }

    fn messages(file: &Value) -> usize {
        said(file).iter().map(|(_, messages)| messages.len()).sum()
    }

    #[test]
    fn what_is_asked_for_is_what_all_workers_hold() {
        let stage = Stage::with(2);
        let keepers = [0, 1].map(|n| stage.archive.keeper(n).with_clerk().unwrap());
        says(&keepers[0], 1, 10, "one");
        says(&keepers[1], 2, 20, "hello");
        says(&keepers[1], 1, 30, "two");
        says(&keepers[0], 1, 40, "three");
        stage.asks();
        let file = stage.file_with(|_| true);
        assert_eq!(said(&file), [one_said(1, &["one", "two", "three"]), one_said(2, &["hello"])]);
        assert_eq!(file["dropped"], json!({}));

        says(&keepers[1], 2, 50, "again");
        stage.asks();
        let file = stage.file_with(|file| messages(file) > 4);
        assert_eq!(said(&file)[1], one_said(2, &["hello", "again"]));
        drop(keepers);
        assert_eq!(stage.closes(), file);
    }

    #[test]
    fn a_worker_that_loops_answers_without_a_clerk() {
        let stage = Stage::with(1);
        let keeper = stage.archive.keeper(0);
        says(&keeper, 1, 1, "hello");
        keeper.answer();
        assert_eq!(wait_readable([Some(keeper.as_fd())], Some(Duration::ZERO)), [false]);
        stage.asks();
        wait_readable([Some(keeper.as_fd())], None);
        keeper.answer();
        assert_eq!(said(&stage.file_with(|_| true)), [one_said(1, &["hello"])]);
        assert_eq!(wait_readable([Some(keeper.as_fd())], Some(Duration::ZERO)), [false]);
    }

    #[test]
    fn a_storm_of_requests_ends_with_a_file_that_has_it_all() {
        let stage = Stage::with(3);
        let keepers = [0, 1, 2].map(|n| stage.archive.keeper(n).with_clerk().unwrap());
        for n in 0..3000 {
            says(&keepers[n % 3], 1 + n as u8 % 200, n as u64, "hello");
            (0..10).for_each(|_| stage.asks());
        }
        stage.file_with(|file| messages(file) == 3000);
        assert!(stage.rounds() < 3000, "requests are answered together: {} rounds", stage.rounds());
        drop(keepers);
        assert_eq!(messages(&stage.closes()), 3000);
    }

    #[test]
    fn copies_are_made_while_others_keep() {
        let stage = Stage::with(1);
        let keeper = stage.archive.keeper(0).with_clerk().unwrap();
        thread::scope(|scope| {
            for thread in 0..2 {
                let keeper = &keeper;
                scope.spawn(move || {
                    (0..20_000_u64).for_each(|n| says(keeper, (n % 50) as u8 * 2 + thread, n, "hello"))
                });
            }
            (0..20).for_each(|_| {
                stage.asks();
                thread::sleep(Duration::from_millis(1));
            });
        });
        stage.file_with(|_| true);
        drop(keeper);
        assert_eq!(messages(&stage.closes()), 40_000);
    }

    #[test]
    fn what_a_worker_held_that_ended_is_in_every_later_file() {
        let stage = Stage::with(2);
        for n in 0..3 {
            says(&stage.archive.keeper(1), 1, n, &format!("worker {n}"));
        }
        let last = stage.archive.keeper(1).with_clerk().unwrap();
        says(&last, 1, 9, "the last one");
        stage.asks();
        let all = [one_said(1, &["worker 0", "worker 1", "worker 2", "the last one"])];
        assert_eq!(said(&stage.file_with(|_| true)), all);
        drop(last);
        let file = stage.closes();
        assert_eq!((said(&file), file["clients"][0]["received_messages"].clone()), (all.to_vec(), json!(4)));
    }

    #[test]
    fn who_does_not_answer_is_missing_and_keeps_nobody_waiting() {
        let stage = Stage::with(2);
        let [silent, other] = [stage.archive.keeper(0), stage.archive.keeper(1).with_clerk().unwrap()];
        says(&silent, 1, 1, "unheard");
        says(&other, 2, 2, "heard");
        stage.asks();
        assert_eq!(said(&stage.file_with(|_| true)), [one_said(2, &["heard"])]);
        silent.answer(); // too late: it is no answer to what is asked next
        stage.asks();
        says(&silent, 1, 3, "and more");
        wait_readable([Some(silent.as_fd())], None);
        silent.answer();
        let file = stage.file_with(|file| messages(file) > 1);
        assert_eq!(said(&file), [one_said(1, &["unheard", "and more"]), one_said(2, &["heard"])]);
    }

    #[test]
    fn what_a_killed_worker_held_is_counted_as_lost() {
        let stage = Stage::with(2);
        for n in 0..2 {
            let killed = stage.archive.keeper(0);
            (0..=n).for_each(|at| says(&killed, 1, at, "lost"));
            std::mem::forget(killed);
        }
        let file = stage.closes();
        assert_eq!(file, json!({ "clients": [], "dropped": { "worker_died": 3 } }));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_a_sentence_at_the_end() {
        let stage = Stage::of(1, "nowhere/groups.json");
        let sentence = stage.archive.close().unwrap_err();
        assert!(sentence.starts_with(&format!("--groups {}: ", stage.path().display())), "{sentence}");
        assert!(sentence.contains("; choose"), "{sentence}");
    }

    #[test]
    fn an_archivist_that_died_is_a_sentence_at_the_end() {
        let plan = Plan { file: "groups.json".into(), bounds: Bounds::default(), workers: 1 };
        let board = Arc::new(Scoreboard::new(1).unwrap());
        let (archive, archivist, _ask) = Archive::of(plan, board).unwrap();
        drop(archivist);
        let archive = Arc::new(archive);
        says(&archive.keeper(0), 1, 1, "to nobody");
        let sentence = archive.close().unwrap_err();
        assert!(sentence.contains("the archivist was killed"), "{sentence}");
        let lost = archive.office.board.dropped(Dropped::WorkerDied);
        assert_eq!(lost, 1, "what nobody took is lost");
    }

    #[test]
    fn how_much_is_held_is_seen_from_outside() {
        let stage = Stage::with(1);
        let keeper = stage.archive.keeper(0);
        let board = &stage.archive.office.board;
        (0..3).for_each(|n| says(&keeper, n, 1, "hello"));
        drop(keeper);
        assert_eq!(board.worker(0).forgets(), 0, "it was handed over");
        let keeper = stage.archive.keeper(0);
        (0..3).for_each(|n| says(&keeper, n, 1, "hello"));
        assert_eq!(board.worker(0).forgets(), 3);
    }
}
