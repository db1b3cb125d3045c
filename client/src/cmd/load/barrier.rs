//! Where the ranks of a run meet, so that all begin at the same moment. Rank 0 listens; each of the others connects
//! when its own connections are up, introduces itself with what it was asked to do, and says that it is ready; when all
//! are, rank 0 says so to each, with the name of the run and the time. That message is the moment: the clocks of
//! different hosts do not matter, and the time that it tells is the time of all from then on. A staircase meets again
//! before each step. Who cannot load says so, and nobody does.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use log::warn;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

mod host;
mod roll;
mod words;

use host::Host;
pub use words::Introduction;
use words::{LINE, Report, Word};

use super::start::TICK;
use crate::{cmd::Failure, interrupt};

/// How long after the message all begin, so that none is still asleep when another takes the processors.
const HEAD_START: Duration = Duration::from_millis(50);

/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(1);

/// How soon it is asked whether another that says nothing lives, how often after that, and how many times.
const ALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// How often one that is early knocks: at first, and at last.
const KNOCK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// How long one that cannot load tries to say so to the others.
const FAREWELL: Duration = Duration::from_secs(3);

/// Where ranks meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// At an address of rank 0's.
    At(String),
    /// On this host, under a name that others do not use (unix(7), abstract sockets).
    Here(String),
}

impl Meeting {
    /// The addresses, of which a name may have several.
    fn addresses(&self) -> io::Result<Vec<SockAddr>> {
        match self {
            Self::At(address) => {
                let found: Vec<SockAddr> =
                    address.to_socket_addrs()?.map(<SockAddr as From<SocketAddr>>::from).collect();
                if found.is_empty() { Err(io::Error::other("it has no address")) } else { Ok(found) }
            }
            Self::Here(name) => Ok(vec![SockAddr::unix(format!("\0echo-client-{name}"))?]),
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
    own: Introduction,
    meeting: Meeting,
    patience: Duration,
    side: Side,
    /// Once all have met: the name of the run; and what time it was, at which moment.
    run: Option<String>,
    clock: (SystemTime, Instant),
}

enum Side {
    /// Rank 0's.
    Host(Host),
    /// Another's: the way to rank 0, once it was let in.
    Guest(Option<Link>),
    /// It has left.
    Gone,
}

impl Barrier {
    /// A rank's place, before the meeting: rank 0 listens from now on, as soon as the name of the place is known.
    /// Whoever does not come within `patience` is not waited for.
    ///
    /// # Errors
    /// Where the address is not rank 0's to listen at.
    pub fn new(
        own: Introduction,
        meeting: Meeting,
        patience: Duration,
        stop: &AtomicBool,
    ) -> Result<Self, Failure> {
        let refused = |error: io::Error| Failure::Usage(format!("--barrier: {meeting}: {error}"));
        let side = match own.rank {
            0 => {
                match listen_when_named(|| meeting.addresses(), &meeting, patience, stop).map_err(refused)? {
                    Some(listener) => Side::Host(Host::new(listener, own.clone()).map_err(refused)?),
                    None => Side::Gone,
                }
            }
            _ => Side::Guest(None),
        };
        Ok(Self { own, meeting, patience, side, run: None, clock: (SystemTime::now(), Instant::now()) })
    }

    /// The name of the run, once all have met.
    pub fn run(&self) -> Option<String> {
        self.run.clone()
    }

    /// What time it is by rank 0's clock, once all have met.
    pub fn now(&self) -> SystemTime {
        self.clock.0 + self.clock.1.elapsed()
    }

    /// Waits until all ranks are here, or `stop` is asked for: then it leaves.
    ///
    /// # Errors
    /// Who did not come, or has left, or cannot load; or why this one is not let in.
    pub fn pass(&mut self, stop: &Arc<AtomicBool>) -> Result<(), Failure> {
        let met = match &self.side {
            Side::Host(_) => self.gather(stop),
            Side::Guest(_) => self.go_there(stop),
            Side::Gone => Ok(()),
        };
        if interrupt::requested(stop) {
            self.side = Side::Gone;
            return Ok(());
        }
        if met.is_err() {
            self.side = Side::Gone;
        } else {
            thread::sleep(HEAD_START);
        }
        met
    }

    /// Leaves before the run has begun, and says why; waits a while for those that are to know.
    pub fn give_up(&mut self, why: &str, stop: &AtomicBool) {
        let until = Instant::now() + FAREWELL;
        let (own, meeting) = (&self.own, &self.meeting);
        match std::mem::replace(&mut self.side, Side::Gone) {
            _ if self.run.is_some() => {} // whoever is at the next meeting sees it
            Side::Host(mut host) => {
                host.dismiss(&format!("rank 0 of {} cannot load: {why}", own.ranks), until);
            }
            Side::Guest(link) => {
                let link = link.map_or_else(|| knock(own, meeting, until, stop).ok(), Some);
                let _ = link.map(|link| link.say(&Report::Cannot(why.into())));
            }
            Side::Gone => {}
        }
    }

    /// Rank 0 waits for the others, and lets all begin.
    fn gather(&mut self, stop: &AtomicBool) -> Result<(), Failure> {
        let Self { meeting, patience, side: Side::Host(host), run, clock, .. } = self else { return Ok(()) };
        let until = Instant::now() + *patience;
        let mut met = Ok(());
        while met.is_ok() && !host.is_complete() {
            if interrupt::requested(stop) {
                return Ok(());
            }
            met = if Instant::now() < until {
                host.attend(TICK)
            } else {
                let patience = humantime::format_duration(*patience).to_string();
                Err(host.absence(&meeting.to_string(), &patience))
            };
        }
        let name = run.get_or_insert_with(|| format!("{:016x}", rand::random::<u64>()));
        let now = clock.0 + clock.1.elapsed();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        met.and_then(|()| host.release(&Word::Go(since, name.clone()))).map_err(|sentence| {
            // Who comes a little later would look for this rank as long as its patience lasts.
            let now = Instant::now();
            host.dismiss(&sentence, if now < until { until.min(now + FAREWELL) } else { now });
            Failure::Harness(sentence)
        })
    }

    /// Another goes to rank 0, and waits for its word. Rank 0 keeps the time, as long as it lives.
    fn go_there(&mut self, stop: &AtomicBool) -> Result<(), Failure> {
        let Self { own, meeting, patience, side: Side::Guest(link), .. } = self else { return Ok(()) };
        let link = match link {
            Some(link) => link,
            None => {
                let came = knock(own, meeting, Instant::now() + *patience, stop);
                link.insert(came.map_err(|why| match why {
                    Unmet::Refused(sentence) => Failure::Usage(format!("--barrier: {meeting}: {sentence}")),
                    Unmet::Over(sentence) => Failure::Harness(sentence),
                    Unmet::Absent(error) => Failure::Harness(format!(
                        "rank 0 did not come to {meeting} within {} ({error})",
                        humantime::format_duration(*patience)
                    )),
                })?)
            }
        };
        let left = |_| Failure::Harness("rank 0 has left".into());
        let _ = link.say(&Report::Ready); // who has left may have said why
        match link.hear(None, stop).map_err(left)?.parse() {
            Ok(Word::Go(time, name)) => {
                if self.run.is_none() {
                    self.run = Some(name);
                    self.clock = (UNIX_EPOCH + time, Instant::now());
                }
                Ok(())
            }
            Ok(Word::Over(sentence) | Word::No(sentence)) => Err(Failure::Harness(sentence)),
            Ok(Word::Welcome) | Err(()) => {
                Err(Failure::Harness(format!("who listens at {meeting} is not rank 0")))
            }
        }
    }
}

/// Listens, as soon as the name of the place is known; nothing where `stop` is asked for before.
fn listen_when_named(
    mut addresses: impl FnMut() -> io::Result<Vec<SockAddr>>,
    meeting: &Meeting,
    patience: Duration,
    stop: &AtomicBool,
) -> io::Result<Option<Socket>> {
    let until = Instant::now() + patience;
    let mut is_told = false;
    loop {
        match addresses() {
            Ok(addresses) => return addresses.iter().map(listen).reduce(Result::or).transpose(),
            Err(error) if Instant::now() >= until => return Err(error),
            Err(error) if !is_told => warn!("--barrier: {meeting} is not there yet: {error}"),
            Err(_) => {}
        }
        is_told = true;
        if interrupt::requested(stop) {
            return Ok(None);
        }
        thread::sleep(KNOCK.1);
    }
}

fn listen(address: &SockAddr) -> io::Result<Socket> {
    let listener = Socket::new(address.domain(), Type::STREAM, None)?;
    if address.domain() != Domain::UNIX {
        listener.set_reuse_address(true)?; // the last run's connections may still linger
    }
    listener.bind(address)?;
    listener.listen(1024)?;
    Ok(listener)
}

/// Has the kernel find out when the host at the other end is gone.
fn stays_alive(socket: &Socket) -> io::Result<()> {
    let (time, interval, retries) = ALIVE;
    if socket.local_addr()?.domain() == Domain::UNIX {
        return Ok(());
    }
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries))
}

/// Why a rank did not meet the others.
enum Unmet {
    /// It is not one of them.
    Refused(String),
    /// There will be no run.
    Over(String),
    /// Rank 0 was not there in time.
    Absent(io::Error),
}

/// Goes to rank 0, as soon as that is there, and introduces itself. Whoever hangs up may be the last run's rank 0, or
/// has no room just now: it is tried again.
fn knock(own: &Introduction, meeting: &Meeting, until: Instant, stop: &AtomicBool) -> Result<Link, Unmet> {
    let (mut pause, longest) = KNOCK;
    loop {
        let heard = meeting.addresses().and_then(|addresses| {
            let mut link =
                addresses.iter().map(Link::to).reduce(Result::or).unwrap_or_else(|| unreachable!())?;
            link.say(own)?;
            let word = link.hear(Some(until), stop)?;
            Ok((link, word))
        });
        let why = match heard.map(|(link, word)| (link, word.parse())) {
            Ok((link, Ok(Word::Welcome))) => return Ok(link),
            Ok((_, Ok(Word::No(sentence)))) => return Err(Unmet::Refused(sentence)),
            Ok((_, Ok(Word::Over(sentence)))) => return Err(Unmet::Over(sentence)),
            Ok(_) => io::Error::other("who listens there is not rank 0"),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                io::Error::other("who listens there hangs up")
            }
            Err(error) => error,
        };
        if interrupt::requested(stop) || Instant::now() >= until {
            return Err(Unmet::Absent(why));
        }
        thread::sleep(pause);
        pause = (2 * pause).min(longest);
    }
}

/// The way to rank 0.
struct Link {
    socket: Socket,
    /// What was said since the last line.
    heard: Vec<u8>,
}

impl Link {
    fn to(address: &SockAddr) -> io::Result<Self> {
        let socket = Socket::new(address.domain(), Type::STREAM, None)?;
        socket.connect_timeout(address, CONNECTING)?;
        stays_alive(&socket)?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(Self { socket, heard: Vec::new() })
    }

    fn say(&self, what: &impl fmt::Display) -> io::Result<()> {
        (&self.socket).write_all(format!("{what}\n").as_bytes())
    }

    /// The next line, without its end.
    fn hear(&mut self, until: Option<Instant>, stop: &AtomicBool) -> io::Result<String> {
        loop {
            if let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let mut bytes = [0; LINE];
            match (&self.socket).read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.heard.extend(&bytes[..n]),
                Err(error) if !is_a_tick(&error) => return Err(error),
                Err(_) if interrupt::requested(stop) => return Err(io::ErrorKind::Interrupted.into()),
                Err(_) => {}
            }
            if self.heard.len() >= LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "who listens there says nothing"));
            }
        }
    }
}

/// Whether a wait has only come to its tick.
fn is_a_tick(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::TcpListener, thread::ScopedJoinHandle};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn here(name: &str) -> Meeting {
        Meeting::Here(format!("test-{}-{name}", std::process::id()))
    }

    /// Rank `rank` of so many who were asked for this.
    fn barrier(rank: usize, ranks: usize, size: &str, meeting: &Meeting, patience: Duration) -> Barrier {
        let asked = BTreeMap::from([("size".to_owned(), size.to_owned())]);
        let own = Introduction { rank, ranks, job: None, asked };
        Barrier::new(own, meeting.clone(), patience, &AtomicBool::new(false)).unwrap()
    }

    fn go(rank: usize, ranks: usize, meeting: &Meeting, patience: Duration) -> Result<Barrier, String> {
        let mut barrier = barrier(rank, ranks, "64", meeting, patience);
        barrier.pass(&Arc::default()).map_err(|failure| failure.to_string())?;
        Ok(barrier)
    }

    fn said(went: Result<Barrier, String>) -> String {
        went.map(drop).unwrap_err()
    }

    /// A way to rank 0 that nobody has said anything through.
    fn way(meeting: &Meeting) -> Link {
        let address = &meeting.addresses().unwrap()[0];
        let until = Instant::now() + PATIENCE;
        loop {
            match Link::to(address) {
                Ok(link) => return link,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            thread::sleep(KNOCK.0);
        }
    }

    /// Introduces itself as rank `rank` of 3, and is welcome.
    fn comes(rank: usize, meeting: &Meeting) -> Link {
        let own = barrier(rank, 3, "64", meeting, PATIENCE).own;
        let link = knock(&own, meeting, Instant::now() + PATIENCE, &AtomicBool::new(false));
        link.unwrap_or_else(|_| panic!("rank {rank} is welcome"))
    }

    fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
        thread.join().unwrap()
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
                    let (own, real) = (barrier.now(), SystemTime::now());
                    let off = real.duration_since(own).unwrap_or_else(|ahead| ahead.duration());
                    assert!(
                        off < Duration::from_millis(150),
                        "rank 0 has waited, its clock has not: {off:?}"
                    );
                    barrier.pass(&Arc::default()).unwrap(); // and once more
                    (begun, barrier.run().unwrap())
                })
            };
            let threads: Vec<_> = [0, 1, 2].map(go).into();
            threads.into_iter().map(joined).collect()
        });
        for (begun, run) in &met {
            assert!(*begun >= late, "nobody begins before all are there");
            assert_eq!(run, &met[0].1);
        }
    }

    #[test]
    fn a_rank_that_does_not_come_is_named_to_all_who_have() {
        let meeting = here("missing");
        let patience = Duration::from_secs(1);
        let heard = thread::scope(|scope| {
            let host = scope.spawn(|| said(go(0, 4, &meeting, patience)));
            let other = scope.spawn(|| said(go(1, 4, &meeting, PATIENCE)));
            [host, other].map(joined)
        });
        for said in heard {
            assert_eq!(said, "ranks 2, 3 of 4 did not come to this host within 1s");
        }
        let said = said(go(1, 2, &here("nobody"), Duration::from_millis(100)));
        assert!(said.starts_with("rank 0 did not come to this host within 100ms"), "{said}");
    }

    #[test]
    fn who_was_asked_for_something_else_is_not_let_in_and_told_why() {
        let meeting = here("strangers");
        thread::scope(|scope| {
            let host = scope.spawn(|| go(0, 2, &meeting, PATIENCE).map(drop));
            let mut stranger = way(&meeting);
            stranger.say(&"GET / HTTP/1.1").unwrap();
            let heard = stranger.hear(None, &AtomicBool::new(false)).unwrap();
            assert!(heard.contains("that is none"), "{heard}");
            let heard = said(go(1, 3, &meeting, PATIENCE));
            assert_eq!(heard, "--barrier: this host: rank 0 is of 2 ranks, not of 3");
            let other = barrier(1, 2, "99", &meeting, PATIENCE).pass(&Arc::default());
            assert!(
                matches!(&other, Err(Failure::Usage(why)) if why.contains("differ in size: 64 and 99")),
                "{other:?}"
            );
            go(1, 2, &meeting, PATIENCE).unwrap();
            joined(host).unwrap();
        });
    }

    #[test]
    fn silent_strangers_keep_nobody_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let meeting = Meeting::At(listener.local_addr().unwrap().to_string());
        drop(listener);
        thread::scope(|scope| {
            let host = scope.spawn(|| go(0, 2, &meeting, PATIENCE).map(drop));
            let strangers: Vec<Link> = (0..100).map(|_| way(&meeting)).collect();
            // One that never comes to the end of its line has gone as far as it gets.
            let endless = way(&meeting);
            let _ = (&endless.socket).write_all(&[b'x'; 4 * LINE]);
            let begun = Instant::now();
            go(1, 2, &meeting, PATIENCE).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            joined(host).unwrap();
            drop(strangers);
        });
    }

    #[test]
    fn a_newcomer_takes_the_place_of_a_rank_that_has_left() {
        let meeting = here("newcomer");
        thread::scope(|scope| {
            let host = scope.spawn(|| go(0, 3, &meeting, PATIENCE).map(drop));
            let first = comes(1, &meeting);
            first.say(&Report::Ready).unwrap();
            let heard = said(go(1, 3, &meeting, PATIENCE));
            assert_eq!(heard, "--barrier: this host: there is a rank 1 of 3 already");
            drop(first);
            let second = scope.spawn(|| go(1, 3, &meeting, PATIENCE).map(drop));
            go(2, 3, &meeting, PATIENCE).unwrap();
            joined(second).unwrap();
            joined(host).unwrap();
        });
    }

    #[test]
    fn a_rank_that_cannot_load_says_so_to_all() {
        for who in [0, 2] {
            let meeting = here(&format!("cannot-{who}"));
            let why = format!("rank {who} of 3 cannot load: nothing came up");
            thread::scope(|scope| {
                let others: Vec<_> = (0..3)
                    .filter(|&rank| rank != who)
                    .map(|rank| {
                        let meeting = &meeting;
                        scope.spawn(move || said(go(rank, 3, meeting, PATIENCE)))
                    })
                    .collect();
                let begun = Instant::now();
                let mut cannot = barrier(who, 3, "64", &meeting, PATIENCE);
                cannot.give_up("nothing came up", &AtomicBool::new(false));
                assert!(begun.elapsed() < 2 * FAREWELL);
                for other in others {
                    assert_eq!(joined(other), why);
                }
            });
        }
    }

    #[test]
    fn rank_0_listens_as_soon_as_the_name_of_the_place_is_known() {
        let mut asked = 0;
        let addresses = || {
            asked += 1;
            match asked {
                3 => here("named").addresses(),
                _ => Err(io::Error::other("no such name")),
            }
        };
        let stop = AtomicBool::new(false);
        assert!(listen_when_named(addresses, &here("named"), PATIENCE, &stop).unwrap().is_some());
        let never = || Err(io::Error::other("no such name"));
        let refused = listen_when_named(never, &here("never"), Duration::ZERO, &stop).unwrap_err();
        assert_eq!(refused.to_string(), "no such name");
    }

    #[test]
    fn an_address_without_a_port_is_refused() {
        assert_eq!("host:7100".parse(), Ok(Meeting::At("host:7100".into())));
        for wrong in ["", "7100", "host", "host:", "host:0", "host:99999"] {
            assert!(wrong.parse::<Meeting>().unwrap_err().contains("7100"), "{wrong}");
        }
    }
}
