//! A relay between a load and a server, which does to known datagrams what a network may do, and worse; and says what
//! it has done. Nothing that it does depends on how fast anybody is: see [`Fate`].

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, poll};
use socket2::SockRef;

use crate::stage::stay_on_one_processor;

/// What becomes of a datagram. An *extra* is one that nobody waits for; it is sent just before an answer that is waited
/// for to the same client, so that the load cannot be over when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It does not reach the server.
    LostThere,
    /// Its answer does not reach the client.
    LostBack,
    /// Its answer comes twice: the second is an extra.
    Twice,
    /// Its answer is held until its client has sent another so much later that it must have been given up.
    Late,
    /// Its answer is held for a moment, which is short against the timeout.
    Delayed,
    /// Its answer is held until a later one of its client has come, or none has come for a moment.
    Overtaken,
    /// A bit of its answer is flipped: of the bytes, or of what it says of itself.
    Flipped(usize),
    /// So many bytes are left of its answer.
    Cut(usize),
    /// Its answer has so many bytes more.
    Grown(usize),
    /// Its answer is followed by a damaged one, which is an extra.
    DamagedTwice,
    /// Its answer is followed by an extra of a number that was not sent yet.
    NeverSent,
    /// Another run's datagram comes as an extra.
    OfAnotherRun,
    /// Another run's datagram comes instead of its answer.
    OfAnotherRunInstead,
    /// Its answer comes to another client too, as an extra.
    ToAnotherToo,
    /// Its answer comes to another client, as an extra, and not to its own.
    ToAnother,
    /// Its answer comes, and comes again in a later stretch of load; where there is none, it just passes.
    AgainMuchLater,
    /// Its answer comes in a later stretch of load alone; where there is none, it is lost.
    MuchLater,
}

use Fate::*;

/// Those that cost their client a timeout stand far from each other.
const FATES: [Fate; 26] = [
    LostThere,
    Twice,
    Flipped(60),
    Cut(30),
    Overtaken,
    MuchLater,
    Flipped(0),
    Delayed,
    OfAnotherRun,
    Grown(1),
    LostBack,
    AgainMuchLater,
    Flipped(8),
    NeverSent,
    Overtaken,
    Late,
    ToAnotherToo,
    Cut(4),
    Flipped(13),
    DamagedTwice,
    OfAnotherRunInstead,
    Flipped(17),
    Grown(100),
    Overtaken,
    Cut(24),
    ToAnother,
];

/// The fate of a client's datagram. Of five, four just pass; clients do not suffer the same at once.
fn fate(client: usize, number: u64) -> Option<Fate> {
    (number % 5 == 2).then(|| FATES[(number as usize / 5 + 7 * client) % FATES.len()])
}

/// Long enough to be overtaken in, and short against the timeout.
const MOMENT: Duration = Duration::from_millis(20);

/// What a relay is told of the load.
#[derive(Clone, Copy)]
pub struct Load {
    /// How long it waits for an answer.
    pub timeout: Duration,
    /// How many clients it begins with: when there are more, another stretch has begun.
    pub clients: usize,
}

/// What was done, by the names that a result has for it; and the fates that were met.
#[derive(Debug, Default)]
pub struct Deeds {
    pub counts: BTreeMap<&'static str, u64>,
    pub fates: BTreeSet<Fate>,
    /// Whether an answer that was to be in time may not have been: this machine was too busy.
    pub is_hurried: bool,
}

impl Deeds {
    fn add(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }
}

/// A relay that runs.
pub struct Relay {
    pub address: SocketAddr,
    /// How many datagrams have come from clients.
    pub heard: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Deeds>,
}

impl Relay {
    pub fn start(server: SocketAddr, load: Load) -> Self {
        let front = socket(server);
        let address = front.local_addr().unwrap();
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut at_work = AtWork {
            front,
            server,
            load,
            clients: Vec::new(),
            is_later: false,
            deeds: Deeds::default(),
            heard: Arc::clone(&heard),
        };
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            stay_on_one_processor();
            while !until.load(Relaxed) {
                at_work.turn();
            }
            at_work.deeds()
        });
        Self { address, heard, stop, thread }
    }

    /// Ends it, when the load is over; what it has done.
    pub fn end(self) -> Deeds {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

/// With room for all that a test sends, so that the kernel drops nothing.
fn socket(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((server.ip(), 0)).unwrap();
    SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// What a client's datagram says of itself: its number and its departure.
fn stamp(bytes: &[u8]) -> (u64, u64) {
    let part = |from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().unwrap());
    (part(0), part(16))
}

struct AtWork {
    front: UdpSocket,
    server: SocketAddr,
    load: Load,
    clients: Vec<Client>,
    /// Whether a later stretch of load has begun.
    is_later: bool,
    deeds: Deeds,
    heard: Arc<AtomicU64>,
}

struct Client {
    address: SocketAddr,
    /// Where the server knows it.
    behind: UdpSocket,
    /// When each of its datagrams came here, and what became of it: nothing, for the lost ones.
    sent: BTreeMap<u64, (Instant, Option<&'static str>)>,
    /// One more than the highest number that was answered.
    answered: u64,
    /// What nobody waits for, and as what it counts.
    extras: Vec<(&'static str, Vec<u8>)>,
    /// Answers that wait for a moment to be over; and those that wait no longer when a later one overtakes them.
    delayed: Vec<(Instant, Vec<u8>)>,
    to_be_overtaken: Vec<(Instant, Vec<u8>)>,
    /// Answers that wait to be too late.
    to_be_late: Vec<Vec<u8>>,
    /// The same for a later stretch; and what comes again then.
    much_later: Vec<Vec<u8>>,
    again_much_later: Vec<Vec<u8>>,
}

impl AtWork {
    fn turn(&mut self) {
        let mut sockets: Vec<_> =
            [&self.front].into_iter().chain(self.clients.iter().map(|client| &client.behind)).collect();
        let mut ready: Vec<_> =
            sockets.drain(..).map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        let _ = poll(&mut ready, 5u16);
        let mut room = vec![0; 1 << 16];
        while let Ok((length, from)) = self.front.recv_from(&mut room) {
            self.hear(from, &room[..length]);
        }
        for place in 0..self.clients.len() {
            while let Ok(length) = self.clients[place].behind.recv(&mut room) {
                self.answer(place, room[..length].to_vec());
            }
            let is_over = |(until, _): &mut (Instant, Vec<u8>)| *until <= Instant::now();
            let client = &mut self.clients[place];
            let mut due: Vec<_> = client.delayed.extract_if(.., is_over).collect();
            due.extend(client.to_be_overtaken.extract_if(.., is_over));
            due.into_iter().for_each(|(_, bytes)| self.deliver(place, stamp(&bytes).0, &bytes, "answered"));
        }
    }

    /// A client sends something.
    fn hear(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.heard.fetch_add(1, Relaxed);
        self.deeds.add("sent");
        let place = self.place(from);
        let (number, departed) = stamp(bytes);
        let client = &mut self.clients[place];
        let is_new = client.sent.insert(number, (Instant::now(), None)).is_none();
        assert!(is_new, "{from} has sent {number} twice");
        // What is held departed so long before this one that its time was over then, by the load's own clock.
        let timeout = self.load.timeout.as_nanos() as u64;
        let is_late = |held: &mut Vec<u8>| stamp(held).1 + timeout < departed;
        let mut late: Vec<_> = client.to_be_late.extract_if(.., is_late).collect();
        if self.is_later {
            late.append(&mut client.much_later);
            client.extras.extend(client.again_much_later.drain(..).map(|bytes| ("duplicated", bytes)));
        }
        for held in late {
            self.settle(place, stamp(&held).0, "late");
            self.send(place, &held);
        }
        match fate(place, number) {
            Some(LostThere) => drop(self.deeds.fates.insert(LostThere)),
            _ => drop(self.clients[place].behind.send(bytes).unwrap()),
        }
    }

    fn place(&mut self, from: SocketAddr) -> usize {
        if let Some(place) = self.clients.iter().position(|client| client.address == from) {
            return place;
        }
        let behind = socket(self.server);
        behind.connect(self.server).unwrap();
        self.is_later = self.clients.len() >= self.load.clients;
        self.clients.push(Client {
            address: from,
            behind,
            sent: BTreeMap::new(),
            answered: 0,
            extras: Vec::new(),
            delayed: Vec::new(),
            to_be_overtaken: Vec::new(),
            to_be_late: Vec::new(),
            much_later: Vec::new(),
            again_much_later: Vec::new(),
        });
        self.clients.len() - 1
    }

    /// The server answers a client.
    fn answer(&mut self, place: usize, mut bytes: Vec<u8>) {
        let another = (place + 1) % self.clients.len();
        let number = stamp(&bytes).0;
        let Some(fate) = fate(place, number) else { return self.deliver(place, number, &bytes, "answered") };
        self.deeds.fates.insert(fate);
        let client = &mut self.clients[place];
        match fate {
            LostThere => unreachable!("the server has not heard of it"),
            LostBack => {}
            Late => client.to_be_late.push(bytes),
            MuchLater if !self.is_later => client.much_later.push(bytes),
            MuchLater => {}
            Delayed => client.delayed.push((Instant::now() + MOMENT, bytes)),
            Overtaken => client.to_be_overtaken.push((Instant::now() + MOMENT, bytes)),
            OfAnotherRunInstead => {
                self.deeds.add("foreign");
                self.send(place, &of_another_run(bytes));
            }
            ToAnother => self.clients[another].extras.push(("foreign", bytes)),
            Flipped(at) => {
                bytes[at] ^= 0x20;
                self.deliver(place, number, &bytes, "wrong");
            }
            Cut(length) => self.deliver(place, number, &bytes[..length], "wrong"),
            Grown(more) => {
                bytes.extend_from_within(..more.min(bytes.len()));
                self.deliver(place, number, &bytes, "wrong");
            }
            Twice | DamagedTwice | NeverSent | OfAnotherRun | ToAnotherToo | AgainMuchLater => {
                self.deliver(place, number, &bytes, "answered");
                let client = &mut self.clients[place];
                match fate {
                    Twice => client.extras.push(("duplicated", bytes)),
                    AgainMuchLater if !self.is_later => client.again_much_later.push(bytes),
                    OfAnotherRun => client.extras.push(("foreign", of_another_run(bytes))),
                    ToAnotherToo => self.clients[another].extras.push(("foreign", bytes)),
                    DamagedTwice => {
                        *bytes.last_mut().unwrap() ^= 1;
                        client.extras.push(("wrong_unawaited", bytes));
                    }
                    NeverSent => {
                        (bytes[6], bytes[20]) = (1, !bytes[20]);
                        client.extras.push(("wrong_unawaited", bytes));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Gives a client what it waits for, and before that what it does not wait for.
    fn deliver(&mut self, place: usize, number: u64, bytes: &[u8], name: &'static str) {
        for (name, extra) in mem::take(&mut self.clients[place].extras) {
            self.deeds.add(name);
            self.send(place, &extra);
        }
        let since = self.settle(place, number, name);
        self.deeds.is_hurried |= since.elapsed() > self.load.timeout / 2;
        self.send(place, bytes);
        let client = &mut self.clients[place];
        if name == "answered" {
            if number < client.answered {
                self.deeds.add("reordered");
            }
            client.answered = client.answered.max(number + 1);
            for (_, overtaken) in mem::take(&mut client.to_be_overtaken) {
                self.deliver(place, stamp(&overtaken).0, &overtaken, "answered");
            }
        }
    }

    fn send(&mut self, place: usize, bytes: &[u8]) {
        self.deeds.add("received");
        assert_eq!(self.front.send_to(bytes, self.clients[place].address).unwrap(), bytes.len());
    }

    /// Says what became of one; when it came here.
    fn settle(&mut self, place: usize, number: u64, name: &'static str) -> Instant {
        let (since, outcome) = self.clients[place].sent.get_mut(&number).unwrap();
        assert_eq!(outcome.replace(name), None, "{number} is two things");
        self.deeds.add(name);
        *since
    }

    fn deeds(mut self) -> Deeds {
        let outcomes = self.clients.iter().flat_map(|client| client.sent.values());
        let lost = outcomes.filter(|(_, outcome)| outcome.is_none()).count() as u64;
        self.deeds.counts.insert("lost", lost);
        *self.deeds.counts.entry("wrong").or_default() +=
            self.deeds.counts.get("wrong_unawaited").copied().unwrap_or(0);
        self.deeds
    }
}

/// All of it is another's but its number and its client.
fn of_another_run(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[12..].iter_mut().for_each(|byte| *byte = !*byte);
    bytes
}
