//! Awkward clients: connections beside those of the load that do not behave, to see what the others pay. A thread of
//! their own drives them all, each at beats of its own; nothing of theirs is in the load's latencies, counts or errors.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    io::{self, Read, Write},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arguments::Endpoint;
use clap::{ArgGroup, Args, builder::RangedU64ValueParser};
use mio::{Interest, Waker};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::{
    Fault, Plan, Rank,
    carrier::{Carrier, Event},
    coming::Coming,
    meter::{TICK, thread_cpu},
    opening::Opening,
    pace::Sleep,
    readiness::Readiness,
};

/// How many clients are awkward, and how.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[command(group(ArgGroup::new("awkward").multiple(true).args(["stall", "dribble", "reset", "silent"])))]
pub struct Mix {
    /// Beside the connections, N more that send as much as the kernel takes, and never read
    #[arg(long, value_name = "N", default_value = "0", value_parser = how_many())]
    pub stall: usize,

    /// Beside the connections, N more that send a byte at a time
    #[arg(long, value_name = "N", default_value = "0", value_parser = how_many())]
    pub dribble: usize,

    /// Beside the connections, N more that send half of a message and reset the connection, again and again
    #[arg(long, value_name = "N", default_value = "0", value_parser = how_many())]
    pub reset: usize,

    /// Beside the connections, N more that say nothing
    #[arg(long, value_name = "N", default_value = "0", value_parser = how_many())]
    pub silent: usize,

    /// How often each of --dribble sends a byte, and each of --reset resets
    #[arg(long = "awkward-every", value_name = "DURATION", default_value = "10ms")]
    #[arg(value_parser = beat, requires = "awkward")]
    #[serde(rename = "every_s", serialize_with = "super::plan::as_seconds")]
    pub every: Duration,
}

fn how_many() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=1 << 20)
}

/// The poll's timeout counts in milliseconds.
fn beat(text: &str) -> Result<Duration, String> {
    let every = arguments::duration(text)?;
    if every < Duration::from_millis(1) { Err("1ms or longer".into()) } else { Ok(every) }
}

impl Mix {
    /// How many there are in all.
    pub fn count(&self) -> usize {
        self.each().map(|(_, n)| n).iter().sum()
    }

    /// The option that asks for any, where one does.
    pub fn option(&self) -> Option<&'static str> {
        self.each().into_iter().find(|&(_, n)| n > 0).map(|(manner, _)| manner.option())
    }

    /// Those of one generator.
    pub fn share(&self, rank: Rank) -> Self {
        let Self { stall, dribble, reset, silent, every } = *self;
        let [stall, dribble, reset, silent] = [stall, dribble, reset, silent].map(|n| rank.share(n));
        Self { stall, dribble, reset, silent, every }
    }

    fn each(&self) -> [(Manner, usize); 4] {
        [
            (Manner::Stall, self.stall),
            (Manner::Dribble, self.dribble),
            (Manner::Reset, self.reset),
            (Manner::Silent, self.silent),
        ]
    }
}

/// How a client is awkward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manner {
    /// It sends whenever the kernel takes anything, and never reads.
    Stall,
    /// It sends a byte a beat, and reads what comes.
    Dribble,
    /// It sends half of a message; a beat later it resets the connection and opens another.
    Reset,
    /// It says nothing, and reads what comes.
    Silent,
}

impl Manner {
    /// How it is asked for.
    pub fn option(self) -> &'static str {
        match self {
            Self::Stall => "--stall",
            Self::Dribble => "--dribble",
            Self::Reset => "--reset",
            Self::Silent => "--silent",
        }
    }

    fn reads(self) -> bool {
        matches!(self, Self::Dribble | Self::Silent)
    }
}

/// What became of the clients of one manner, up to the end of the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How many were asked for.
    pub asked: usize,
    /// How many connections came up.
    pub opened: u64,
    /// How many were connected at the end.
    pub connected: u64,
    /// How many connections were refused.
    pub refused: u64,
    /// How many could not be opened, or were lost, for another reason.
    pub failed: u64,
    /// How many the server closed.
    pub closed_by_server: u64,
    /// How many it reset.
    pub reset_by_server: u64,
    /// How many we reset in the middle of a message, with those that were connected at the end.
    pub reset_by_us: u64,
    /// The bytes that the kernel took.
    pub bytes_sent: u64,
    /// The bytes that came back and were read.
    pub bytes_back: u64,
}

/// What became of the awkward clients.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Conduct {
    /// By their manner.
    #[serde(flatten)]
    pub counts: BTreeMap<Manner, Counts>,
    /// The CPU time of their thread, in seconds.
    pub cpu_s: f64,
}

impl Counts {
    fn merge(&mut self, other: &Self) {
        self.asked += other.asked;
        self.opened += other.opened;
        self.connected += other.connected;
        self.refused += other.refused;
        self.failed += other.failed;
        self.closed_by_server += other.closed_by_server;
        self.reset_by_server += other.reset_by_server;
        self.reset_by_us += other.reset_by_us;
        self.bytes_sent += other.bytes_sent;
        self.bytes_back += other.bytes_back;
    }
}

impl Conduct {
    /// Of all manners.
    pub fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        self.counts.values().for_each(|counts| sum.merge(counts));
        sum
    }

    /// Adds another rank's.
    pub fn merge(&mut self, other: &Self) {
        for (&manner, counts) in &other.counts {
            self.counts.entry(manner).or_default().merge(counts);
        }
        self.cpu_s += other.cpu_s;
    }
}

/// The awkward clients of a run, while they are there.
pub struct Awkward {
    leave: Arc<AtomicBool>,
    waker: Waker,
    thread: JoinHandle<Conduct>,
}

/// Under this token their poll hears that they are to leave.
const LEAVE: usize = usize::MAX - 1;

impl Awkward {
    /// Lets those of `plan` come, where it has any; returns when each has come up, was turned away, or has been waited
    /// for long enough. `stop` ends the waiting.
    ///
    /// # Errors
    /// Where the system refuses the thread or the poller.
    pub fn gather(plan: &Plan, stop: &Arc<AtomicBool>) -> io::Result<Option<Self>> {
        let plan = Plan { awkward: plan.awkward.share(plan.rank), ..plan.clone() };
        if plan.awkward.count() == 0 {
            return Ok(None);
        }
        let readiness = Readiness::new()?;
        let waker = readiness.waker(LEAVE)?;
        let (crowd, stop) = (Crowd::new(plan, readiness), Arc::clone(stop));
        let leave = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&leave);
        let (gathering, gathered) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("awkward".into())
            .spawn(move || crowd.run(gathering, &stop, &told))?;
        let _ = gathered.recv(); // nothing is said: the other end is dropped when all are there
        Ok(Some(Self { leave, waker, thread }))
    }

    /// Sends them away. What became of them.
    pub fn dismiss(self) -> Conduct {
        self.leave.store(true, Relaxed);
        let _ = self.waker.wake(); // else they look up after a tick
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What they say; nobody checks it.
const WORDS: &[u8] = &[b'?'; 64 * 1024];

/// How much one that stalls sends at a beat: it fills what the kernel has for it in a few, and a server that takes
/// everything and never minds does not keep this machine busy with that.
const BURST: usize = 1 << 20;

struct Client {
    manner: Manner,
    state: State,
    /// Whether it has neither come up nor been turned away so far.
    is_expected: bool,
}

enum State {
    /// It has not come yet, or is gone.
    Away,
    Coming(Coming),
    /// It is up. The kernel may be `full`, and says when it is not.
    Connected {
        socket: Socket,
        full: bool,
    },
}

/// The awkward clients, by their places.
struct Crowd {
    plan: Plan,
    readiness: Readiness,
    /// What has happened, and is not handled.
    events: Vec<Event>,
    clients: Vec<Client>,
    /// Whose turn is when; who only waits has none.
    turns: BinaryHeap<Reverse<(Instant, usize)>>,
    /// How many are expected.
    expected: usize,
    counts: BTreeMap<Manner, Counts>,
}

impl Crowd {
    fn new(plan: Plan, readiness: Readiness) -> Self {
        let asked = plan.awkward.each().into_iter().filter(|&(_, n)| n > 0);
        let counts =
            asked.clone().map(|(manner, asked)| (manner, Counts { asked, ..Counts::default() })).collect();
        let client = |manner| Client { manner, state: State::Away, is_expected: true };
        let clients: Vec<_> =
            asked.flat_map(|(manner, n)| std::iter::repeat_with(move || client(manner)).take(n)).collect();
        let (turns, expected) = (BinaryHeap::new(), clients.len());
        Self { plan, readiness, events: Vec::new(), clients, turns, expected, counts }
    }

    /// They come, behave as they do until they are told to `leave`, and part. `gathering` is dropped when all are there.
    fn run(mut self, gathering: Sender<()>, stop: &AtomicBool, leave: &AtomicBool) -> Conduct {
        let (end, begun) = (self.clients.len(), Instant::now());
        let opening = Opening { first: 0, end, lanes: 1, per_second: self.plan.connect_rate };
        self.turns.extend((0..end).map(|place| Reverse((begun + opening.due(place), place))));
        let deadline = begun + opening.due(end) + self.plan.timeout;
        let mut gathering = Some(gathering);
        while !leave.load(Relaxed) {
            self.take_turns();
            if self.expected == 0 || stop.load(Relaxed) || Instant::now() >= deadline {
                gathering.take();
            }
            self.wait();
            self.hear();
        }
        for client in self.clients.iter().filter(|client| matches!(client.state, State::Connected { .. })) {
            self.counts.entry(client.manner).or_default().connected += 1;
        }
        let mut conduct = Conduct { counts: self.counts.clone(), cpu_s: thread_cpu().as_secs_f64() };
        self.part();
        for (manner, counts) in &mut conduct.counts {
            // What was still on its way has come, and who was in the middle of a message has been reset.
            let Counts { bytes_back, reset_by_us, .. } = self.counts[manner];
            *counts = Counts { bytes_back, reset_by_us, ..*counts };
        }
        conduct
    }

    fn take_turns(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((_, place))) = self.turns.peek().filter(|Reverse((due, _))| *due <= now) {
            self.turns.pop();
            self.turn(place);
        }
    }

    /// What one does at its beat.
    fn turn(&mut self, place: usize) {
        let Client { manner, ref state, is_expected } = self.clients[place];
        match (state, manner) {
            (State::Away, Manner::Reset) => self.come(place),
            (State::Away, _) if is_expected => self.come(place),
            (State::Coming(_), _) => self.look_at(place),
            (State::Connected { .. }, Manner::Stall) => self.fill(place),
            (State::Connected { .. }, Manner::Dribble) => self.say(place, 1),
            (State::Connected { .. }, Manner::Reset) => {
                self.reset(place);
                self.come(place);
            }
            (State::Away | State::Connected { .. }, _) => {} // whom the server has ended stays away
        }
    }

    /// Its next turn is a beat from now.
    fn schedule(&mut self, place: usize) {
        self.turns.push(Reverse((Instant::now() + self.plan.awkward.every, place)));
    }

    fn come(&mut self, place: usize) {
        match Coming::begin(&self.plan, place, 0) {
            Ok(coming) => {
                self.clients[place].state = State::Coming(coming);
                self.look_at(place);
            }
            Err(error) => self.turned_away(place, &error),
        }
    }

    /// One that is coming may be up.
    fn look_at(&mut self, place: usize) {
        let Self { plan, readiness, clients, .. } = self;
        let State::Coming(coming) = &mut clients[place].state else { return };
        // Nobody says when the accept queue of a Unix-domain server has room again: it is asked at each beat.
        let knocks = matches!(plan.endpoint, Endpoint::Unix(_));
        let outcome = coming.outcome(plan).and_then(|up| {
            coming.watch(readiness, place, Interest::READABLE | Interest::WRITABLE)?;
            Ok(up)
        });
        match outcome {
            Ok(true) => self.welcome(place),
            Ok(false) if knocks => self.schedule(place),
            Ok(false) => {}
            Err(error) => self.turned_away(place, &error),
        }
    }

    /// One is up.
    fn welcome(&mut self, place: usize) {
        let State::Coming(coming) = std::mem::replace(&mut self.clients[place].state, State::Away) else {
            return;
        };
        self.clients[place].state = State::Connected { socket: coming.socket, full: false };
        let counts = self.counts(place);
        counts.opened += 1;
        let number = counts.opened;
        self.expect_no_more(place);
        match self.clients[place].manner {
            Manner::Stall => self.fill(place),
            Manner::Dribble => self.say(place, 1),
            Manner::Reset => {
                let message = self.plan.size.of(place, number);
                self.say(place, (message / 2).clamp(1, WORDS.len()));
            }
            Manner::Silent => {}
        }
    }

    fn turned_away(&mut self, place: usize, error: &io::Error) {
        let counts = self.counts(place);
        match error.kind() {
            io::ErrorKind::ConnectionRefused => counts.refused += 1,
            _ => counts.failed += 1,
        }
        self.expect_no_more(place);
        self.clients[place].state = State::Away;
        if self.clients[place].manner == Manner::Reset {
            self.schedule(place);
        }
    }

    fn expect_no_more(&mut self, place: usize) {
        self.expected -= usize::from(std::mem::take(&mut self.clients[place].is_expected));
    }

    /// Sends so many bytes, as far as the kernel takes them, and has another turn.
    fn say(&mut self, place: usize, bytes: usize) {
        match self.send(place, &WORDS[..bytes]) {
            Ok(_) => self.schedule(place),
            Err(error) => self.ended(place, Some(&error)),
        }
    }

    /// Sends as much as the kernel takes. When that is nothing more, it rests until there is room again.
    fn fill(&mut self, place: usize) {
        let mut sent = 0;
        while sent < BURST {
            match self.send(place, WORDS) {
                Ok(0) => return,
                Ok(n) => sent += n,
                Err(error) => return self.ended(place, Some(&error)),
            }
        }
        self.schedule(place);
    }

    /// How many bytes the kernel took; none where it is full.
    fn send(&mut self, place: usize, bytes: &[u8]) -> io::Result<usize> {
        let State::Connected { socket, full } = &mut self.clients[place].state else { return Ok(0) };
        let sent = match socket.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            sent => sent?,
        };
        *full = sent < bytes.len();
        self.counts(place).bytes_sent += sent as u64;
        Ok(sent)
    }

    /// Closes with a RST instead of a FIN (SO_LINGER, socket(7)).
    fn reset(&mut self, place: usize) {
        let State::Connected { socket, .. } = std::mem::replace(&mut self.clients[place].state, State::Away)
        else {
            return;
        };
        match socket.set_linger(Some(Duration::ZERO)) {
            Ok(()) => self.counts(place).reset_by_us += 1,
            Err(_) => self.counts(place).failed += 1,
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let next = self.turns.peek().map_or(TICK, |Reverse((due, _))| due.saturating_duration_since(now));
        self.readiness.wait(Sleep::About(next.min(TICK)), &mut self.events);
    }

    /// Handles the events of one wait.
    fn hear(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..).filter(|event| event.token != LEAVE) {
            let place = event.token;
            match self.clients[place].state {
                State::Away => {}
                State::Coming(_) => self.look_at(place),
                State::Connected { .. } => self.heard(place, event),
            }
        }
        self.events = events;
    }

    /// The kernel says something of one that is up.
    fn heard(&mut self, place: usize, event: Event) {
        let Client { manner, ref mut state, .. } = self.clients[place];
        let State::Connected { socket, full } = state else { return };
        if let Some(error) = socket.take_error().ok().flatten() {
            return self.ended(place, Some(&error));
        }
        let has_room_again = event.is_writable && std::mem::take(full) && manner == Manner::Stall;
        match () {
            () if manner.reads() && event.is_readable => self.read(place),
            () if event.is_last => self.ended(place, None),
            () if has_room_again => self.schedule(place),
            () => {}
        }
    }

    /// Reads all that is there.
    fn read(&mut self, place: usize) {
        let mut scratch = [0; 4096];
        loop {
            let State::Connected { socket, .. } = &mut self.clients[place].state else { return };
            match socket.read(&mut scratch) {
                Ok(0) => return self.ended(place, None),
                Ok(n) => self.counts(place).bytes_back += n as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.ended(place, Some(&error)),
            }
        }
    }

    /// The server has ended a connection, or it is lost: by its FIN, where that is no `error`.
    fn ended(&mut self, place: usize, error: Option<&io::Error>) {
        self.clients[place].state = State::Away;
        let counts = self.counts(place);
        match error.map(Fault::of_socket) {
            None => counts.closed_by_server += 1,
            Some(Fault::Reset) => counts.reset_by_server += 1,
            Some(_) => counts.failed += 1,
        }
    }

    /// They leave, each in its manner: who has read everything says so with a FIN, and waits for the server's.
    fn part(&mut self) {
        self.turns.clear();
        for place in 0..self.clients.len() {
            let Client { manner, ref mut state, .. } = self.clients[place];
            match state {
                State::Connected { .. } if manner == Manner::Reset => self.reset(place),
                State::Connected { socket, .. }
                    if manner.reads() && socket.shutdown(Shutdown::Write).is_ok() => {}
                _ => *state = State::Away,
            }
        }
        let deadline = Instant::now() + self.plan.timeout;
        let is_up = |client: &Client| matches!(client.state, State::Connected { .. });
        while self.clients.iter().any(is_up) && Instant::now() < deadline {
            self.wait();
            self.hear();
        }
    }

    fn counts(&mut self, place: usize) -> &mut Counts {
        self.counts.entry(self.clients[place].manner).or_default()
    }
}
