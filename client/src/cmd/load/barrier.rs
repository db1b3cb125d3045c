//! Where the ranks of a run meet, so that all begin at the same moment. Rank 0 listens; each of the others connects
//! when its own connections are up, and says a line; when all have, rank 0 says one to each, with the name of the run
//! and the time. That message is the moment: the clocks of different hosts do not matter, and the time that it tells
//! is the time of all from then on. A staircase meets again before each step.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read, Write},
    net::ToSocketAddrs,
    str::FromStr,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::start::TICK;
use crate::{interrupt, load::Rank};

/// How long after the message all begin, so that none is still asleep when another takes the processors.
const HEAD_START: Duration = Duration::from_millis(50);

/// How long one that connects has to say who it is: it may be anybody.
const INTRODUCTION: Duration = Duration::from_secs(1);

/// How long rank 0's word may take, while it lives: it keeps the time.
const FOREVER: Duration = Duration::from_secs(366 * 24 * 3600);

/// How soon it is asked whether rank 0 lives, and how often after that.
const ALIVE: Duration = Duration::from_secs(10);

/// How often one that is early knocks.
const KNOCK: Duration = Duration::from_millis(20);

/// No line is longer.
const LINE: usize = 1024;

/// Where ranks meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// At an address of rank 0's.
    At(String),
    /// On this host, under a name that others do not use (unix(7), abstract sockets).
    Here(String),
}

impl Meeting {
    fn address(&self) -> io::Result<SockAddr> {
        match self {
            Self::At(address) => {
                let found = address.to_socket_addrs()?.next();
                found.map(SockAddr::from).ok_or_else(|| io::Error::other("it has no address"))
            }
            Self::Here(name) => SockAddr::unix(format!("\0echo-client-{name}")),
        }
    }
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => f.write_str(address),
            Self::Here(_) => f.write_str("this host"),
        }
    }
}

impl FromStr for Meeting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        match port {
            Some(1..) => Ok(Self::At(text.into())),
            _ => Err("write it like 192.0.2.7:7100, an address of rank 0's and a port".into()),
        }
    }
}

/// A rank's place at the meeting.
pub struct Barrier {
    rank: Rank,
    meeting: Meeting,
    patience: Duration,
    side: Side,
    /// Once all have met: the name of the run; and what time it was, at which moment.
    run: Option<String>,
    clock: (SystemTime, Instant),
}

enum Side {
    /// Rank 0's: the others by their numbers.
    Host { listener: Socket, guests: BTreeMap<usize, Socket> },
    /// Another's: the way to rank 0.
    Guest(Option<Socket>),
}

impl Barrier {
    /// A rank's place, before the meeting: rank 0 listens from now on. Whoever does not come within `patience` is
    /// not waited for.
    ///
    /// # Errors
    /// Where the address is not rank 0's to listen at.
    pub fn new(rank: Rank, meeting: Meeting, patience: Duration) -> io::Result<Self> {
        let side = match rank.rank {
            0 => Side::Host { listener: listen(&meeting.address()?)?, guests: BTreeMap::new() },
            _ => Side::Guest(None),
        };
        Ok(Self { rank, meeting, patience, side, run: None, clock: (SystemTime::now(), Instant::now()) })
    }

    /// The name of the run, once all have met.
    pub fn run(&self) -> Option<String> {
        self.run.clone()
    }

    /// What time it is by rank 0's clock, once all have met.
    pub fn now(&self) -> SystemTime {
        self.clock.0 + self.clock.1.elapsed()
    }

    /// Waits until all ranks are here, or `stop` is asked for.
    ///
    /// # Errors
    /// Who did not come, or has left.
    pub fn pass(&mut self, stop: &Arc<AtomicBool>) -> io::Result<()> {
        let until = Instant::now() + self.patience;
        let met = match &self.side {
            Side::Host { .. } => self.gather(until, stop).and_then(|()| self.release()),
            Side::Guest(_) => self.go_there(until, stop),
        };
        match met {
            Ok(()) => thread::sleep(HEAD_START),
            Err(_) if interrupt::requested(stop) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Rank 0 waits for the others. Those that have come are told of one that does not.
    fn gather(&mut self, until: Instant, stop: &Arc<AtomicBool>) -> io::Result<()> {
        let Self { rank, meeting, patience, side: Side::Host { listener, guests }, .. } = self else {
            return Ok(());
        };
        // Those that met before meet again.
        for (number, guest) in guests.iter() {
            hear(guest, until, stop).map_err(|error| absent(&format!("rank {number}"), &error))?;
        }
        while guests.len() + 1 < rank.ranks {
            match listener.accept() {
                Ok((guest, _)) => introduce(guest, *rank, guests, stop),
                Err(error) if is_a_tick(&error) => {}
                Err(error) => return Err(error),
            }
            if interrupt::requested(stop) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if Instant::now() >= until {
                let missing: Vec<usize> =
                    (1..rank.ranks).filter(|number| !guests.contains_key(number)).collect();
                let (missing, patience) = (Rank::list(&missing), humantime::format_duration(*patience));
                let sentence =
                    format!("{missing} of {} did not come to {meeting} within {patience}", rank.ranks);
                guests.values().for_each(|guest| drop(say(guest, &format!("no {sentence}"))));
                return Err(io::Error::new(io::ErrorKind::TimedOut, sentence));
            }
        }
        Ok(())
    }

    /// Rank 0 lets all begin.
    fn release(&mut self) -> io::Result<()> {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = self.run.get_or_insert_with(|| format!("{:016x}", rand::random::<u64>()));
        let line = format!("go {} {name}", since.as_nanos());
        let Side::Host { guests, .. } = &self.side else { return Ok(()) };
        guests.iter().try_for_each(|(number, guest)| {
            say(guest, &line).map_err(|error| absent(&format!("rank {number}"), &error))
        })
    }

    /// Another goes to rank 0, and waits for its word. Rank 0 keeps the time, as long as it lives.
    fn go_there(&mut self, until: Instant, stop: &Arc<AtomicBool>) -> io::Result<()> {
        let Self { rank, meeting, patience, side: Side::Guest(way), .. } = self else { return Ok(()) };
        let way = match way {
            Some(way) => way,
            None => way.insert(knock(meeting, *patience, until, stop)?),
        };
        let left = |error: io::Error| absent("rank 0", &error);
        say(way, &format!("{INTRODUCES}{}/{}", rank.rank, rank.ranks)).map_err(left)?;
        let word = hear(way, Instant::now() + FOREVER, stop).map_err(left)?;
        if let Some(sentence) = word.strip_prefix("no ") {
            return Err(io::Error::other(sentence.to_owned()));
        }
        let mut words = word.split(' ').skip(1);
        let time = words.next().and_then(|nanos| nanos.parse().ok()).map(Duration::from_nanos);
        let (Some(time), Some(name)) = (time, words.next()) else {
            return Err(io::Error::other(format!("who listens at {meeting} is not rank 0")));
        };
        if self.run.is_none() {
            self.run = Some(name.to_owned());
            self.clock = (UNIX_EPOCH + time, Instant::now());
        }
        Ok(())
    }
}

/// What a rank says of itself begins with this.
const INTRODUCES: &str = "echo-client rank ";

fn listen(address: &SockAddr) -> io::Result<Socket> {
    let listener = Socket::new(address.domain(), Type::STREAM, None)?;
    if address.domain() != Domain::UNIX {
        listener.set_reuse_address(true)?; // the last run's connections may still linger
    }
    listener.bind(address)?;
    listener.listen(1024)?;
    listener.set_read_timeout(Some(TICK))?; // of accept(2): see socket(7)
    Ok(listener)
}

/// Lets a rank in that is awaited, and nobody else.
fn introduce(guest: Socket, rank: Rank, guests: &mut BTreeMap<usize, Socket>, stop: &Arc<AtomicBool>) {
    let Ok(line) = hear(&guest, Instant::now() + INTRODUCTION, stop) else { return };
    let Some(Ok(told)) = line.strip_prefix(INTRODUCES).map(str::parse::<Rank>) else { return };
    let Rank { rank: number, ranks } = told;
    let refused = match () {
        () if ranks != rank.ranks => Some(format!("no rank 0 is of {}, and not of {ranks}", rank.ranks)),
        () if number == 0 || guests.contains_key(&number) => {
            Some(format!("no rank {number} is here already"))
        }
        () => None,
    };
    match refused {
        Some(sentence) => drop(say(&guest, &sentence)),
        None => drop(guests.insert(number, guest)),
    }
}

/// Connects to rank 0, as soon as that listens.
fn knock(
    meeting: &Meeting,
    patience: Duration,
    until: Instant,
    stop: &Arc<AtomicBool>,
) -> io::Result<Socket> {
    loop {
        let knocked = meeting.address().and_then(|address| {
            let socket = Socket::new(address.domain(), Type::STREAM, None)?;
            socket.connect_timeout(&address, INTRODUCTION)?;
            if address.domain() != Domain::UNIX {
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(ALIVE).with_interval(ALIVE))?;
            }
            Ok(socket)
        });
        let why = match knocked {
            Ok(socket) => return Ok(socket),
            Err(why) => why,
        };
        if interrupt::requested(stop) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if Instant::now() >= until {
            let patience = humantime::format_duration(patience);
            let sentence = format!("rank 0 did not come to {meeting} within {patience} ({why})");
            return Err(io::Error::new(io::ErrorKind::TimedOut, sentence));
        }
        thread::sleep(KNOCK);
    }
}

fn say(mut socket: &Socket, line: &str) -> io::Result<()> {
    socket.write_all(format!("{line}\n").as_bytes())
}

/// The next line, without its end.
fn hear(mut socket: &Socket, until: Instant, stop: &Arc<AtomicBool>) -> io::Result<String> {
    socket.set_read_timeout(Some(TICK))?;
    let mut line = Vec::new();
    while line.len() < LINE {
        let mut byte = [0];
        match socket.read(&mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte == *b"\n" => return Ok(String::from_utf8_lossy(&line).into_owned()),
            Ok(_) => line.push(byte[0]),
            Err(error) if !is_a_tick(&error) => return Err(error),
            Err(_) if interrupt::requested(stop) => return Err(io::ErrorKind::Interrupted.into()),
            Err(_) => {}
        }
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Whether a wait has only come to its tick.
fn is_a_tick(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn absent(who: &str, error: &io::Error) -> io::Error {
    let what = match error.kind() {
        io::ErrorKind::TimedOut => "does not come",
        _ => "has left",
    };
    io::Error::other(format!("{who} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn here(name: &str) -> Meeting {
        Meeting::Here(format!("test-{}-{name}", std::process::id()))
    }

    fn go(rank: usize, ranks: usize, meeting: &Meeting, patience: Duration) -> io::Result<Barrier> {
        let mut barrier = Barrier::new(Rank { rank, ranks }, meeting.clone(), patience)?;
        barrier.pass(&Arc::default())?;
        Ok(barrier)
    }

    #[test]
    fn all_ranks_begin_together_under_one_name_and_by_one_clock() {
        let meeting = here("together");
        let late = Instant::now() + Duration::from_millis(300);
        let met: Vec<_> = thread::scope(|scope| {
            let go = |rank| {
                let meeting = &meeting;
                scope.spawn(move || {
                    if rank == 2 {
                        thread::sleep(late - Instant::now()); // the others wait for it
                    }
                    let mut barrier = go(rank, 3, meeting, PATIENCE).unwrap();
                    let begun = Instant::now();
                    barrier.pass(&Arc::default()).unwrap(); // and once more
                    (begun, barrier.run().unwrap(), barrier.now())
                })
            };
            let threads: Vec<_> = [0, 1, 2].map(go).into();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (begun, run, _) in &met {
            assert!(*begun >= late, "nobody begins before all are there");
            assert_eq!(run, &met[0].1);
        }
    }

    #[test]
    fn a_rank_that_does_not_come_is_named_to_all_who_have() {
        let meeting = here("missing");
        let patience = Duration::from_millis(300);
        let said = thread::scope(|scope| {
            let threads = [0, 1].map(|rank| {
                let meeting = &meeting;
                scope.spawn(move || go(rank, 4, meeting, patience).map(drop).unwrap_err().to_string())
            });
            threads.map(|thread| thread.join().unwrap())
        });
        for said in said {
            assert_eq!(said, "ranks 2, 3 of 4 did not come to this host within 300ms");
        }
        let said = go(1, 2, &here("nobody"), patience).map(drop).unwrap_err().to_string();
        assert!(said.starts_with("rank 0 did not come"), "{said}");
    }

    #[test]
    fn strangers_and_doubles_are_not_let_in() {
        let meeting = here("strangers");
        thread::scope(|scope| {
            let host = scope.spawn(|| go(0, 2, &meeting, PATIENCE).map(drop));
            let stop = Arc::default();
            let stranger = knock(&meeting, PATIENCE, Instant::now() + PATIENCE, &stop).unwrap();
            say(&stranger, "GET / HTTP/1.1").unwrap();
            let said = go(1, 3, &meeting, PATIENCE).map(drop).unwrap_err().to_string();
            assert_eq!(said, "rank 0 is of 2, and not of 3");
            go(1, 2, &meeting, PATIENCE).unwrap();
            host.join().unwrap().unwrap();
        });
    }

    #[test]
    fn an_address_without_a_port_is_refused() {
        assert_eq!("host:7100".parse(), Ok(Meeting::At("host:7100".into())));
        for wrong in ["", "7100", "host", "host:", "host:0", "host:99999"] {
            assert!(wrong.parse::<Meeting>().unwrap_err().contains("7100"), "{wrong}");
        }
    }
}
