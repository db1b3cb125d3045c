//! One client's datagrams: which are on their way, which were given up, and what each that comes back is.

use std::{collections::VecDeque, io, net::UdpSocket};

use nix::{
    libc,
    sys::socket::{getsockopt, sockopt::GetStruct},
};
use roaring::RoaringTreemap;

use super::{
    Plan,
    batch::{Incoming, Outgoing, Way},
    datagram::{Difference, Format, Stamp},
    pace::Departure,
    socket::destination,
};

/// How many that were given up are looked through for one whose number is cut off.
const CUT_OFF: usize = 4096;

/// What the kernel counts a small datagram as, in a socket's buffer, beside its bytes.
const OVERHEAD: usize = 1024;

/// How large a buffer is asked for, at most.
const LARGEST_BUFFER: usize = 1 << 28;

/// A datagram that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Which one of its client's.
    pub number: u64,
    /// When.
    pub departure: Departure,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// One that was awaited, unchanged; and whether none came before it that had left after it.
    Answer { departure: Departure, in_order: bool },
    /// One that was given up; and whether that was in an earlier stretch of load.
    Late { is_of_before: bool },
    /// One that had come before.
    Duplicate,
    /// One of ours, changed; and when the one departed that was awaited, that it must have been, and that is awaited no
    /// longer.
    Wrong { what: String, settled: Option<Departure> },
    /// One that is not ours.
    Foreign { what: String },
}

/// A client: a socket of its own, connected to the server, and its datagrams.
pub struct Flow {
    /// Its number in the run.
    pub number: usize,
    /// Its socket. It blocks when the kernel has no room for what is sent; receiving does not wait.
    pub socket: UdpSocket,
    /// Answers in the measured time.
    pub answers: u64,
    way: Way,
    next: u64,
    /// The first one of this stretch of load.
    first: u64,
    /// One more than the highest number that came back.
    heard: u64,
    /// Those on their way, in the order of their departure.
    awaited: VecDeque<Sent>,
    /// Those that were given up and have not come after all.
    given_up: RoaringTreemap,
    /// How many the kernel has dropped because its socket was full, when that was last looked at.
    dropped: u32,
}

/// What a socket's memory is used for, and how many datagrams it was too full for (SO_MEMINFO, linux/sock_diag.h).
#[derive(Clone, Copy)]
struct MemoryInfo;

nix::getsockopt_impl!(MemoryInfo, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; 9], GetStruct<[u32; 9]>);

/// Which of these numbers it is (SK_MEMINFO_DROPS).
const DROPS: usize = 8;

impl Flow {
    /// A client that has sent nothing.
    ///
    /// # Errors
    /// Where the system refuses the socket, its address or the destination; and where it is its own destination,
    /// as may happen on loopback where nobody serves.
    pub fn open(plan: &Plan, number: usize) -> io::Result<Self> {
        let socket = plan.socket.socket(&plan.endpoint, number)?;
        let room = (plan.depth() * (2 * plan.size.longest() + OVERHEAD)).min(LARGEST_BUFFER);
        if plan.socket.receive_buffer.is_none() && socket.recv_buffer_size()? < room {
            socket.set_recv_buffer_size(room)?; // as far as net.core.rmem_max allows
        }
        let server = destination(&plan.endpoint)?;
        socket.connect(&server)?;
        if socket.local_addr()?.as_socket() == server.as_socket() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let socket = UdpSocket::from(socket);
        Ok(Self {
            number,
            way: Way::of(&socket, plan.depth(), plan.size.all()),
            socket,
            answers: 0,
            next: 0,
            first: 0,
            heard: 0,
            awaited: VecDeque::with_capacity(plan.usual_depth()),
            given_up: RoaringTreemap::new(),
            dropped: 0,
        })
    }

    /// A stretch of load begins; its answers are counted on from the one before, or anew.
    pub fn begin(&mut self, counts_on: bool) {
        self.answers = if counts_on { self.answers } else { 0 };
        self.first = self.next;
    }

    /// How many are on their way.
    pub fn awaits(&self) -> usize {
        self.awaited.len()
    }

    /// Writes its next datagram into `outgoing`. It is on its way from then on, also where the kernel refuses it: so a
    /// refusal costs its timeout, and is no busy loop.
    pub fn write(&mut self, departure: Departure, format: &Format, outgoing: &mut Outgoing) {
        let stamp = self.stamp(self.next, departure.left, format);
        format.write(stamp, outgoing.room(format.size_of(stamp.client, stamp.number)));
        self.awaited.push_back(Sent { number: self.next, departure });
        self.next += 1;
    }

    /// Sends what was written.
    pub fn send(&mut self, outgoing: &mut Outgoing, complain: impl FnMut(io::Error)) {
        outgoing.send(&self.socket, &mut self.way, complain);
    }

    /// Receives what has come, `most` pieces at most; says whether that may not have been all.
    ///
    /// # Errors
    /// Where nothing is there, or an ICMP error is reported.
    pub fn receive(&self, incoming: &mut Incoming, most: usize) -> io::Result<bool> {
        incoming.receive(&self.socket, self.way, most)
    }

    /// How many the kernel has dropped because its socket was full, since it was last asked; where it says. What it
    /// has joined into a piece (UDP_GRO) counts as one.
    pub fn dropped(&mut self) -> Option<u64> {
        let dropped = getsockopt(&self.socket, MemoryInfo).ok()?[DROPS];
        let before = std::mem::replace(&mut self.dropped, dropped);
        Some(dropped.wrapping_sub(before).into())
    }

    /// Says what a datagram is that came back. One that was awaited is awaited no longer.
    pub fn judge(&mut self, got: &[u8], format: &Format) -> Arrival {
        let said = Stamp::of(got).number;
        let mask = format.mask(got);
        let difference = match self.position(said, mask) {
            Some(at) => {
                let Sent { number, departure } = self.awaited[at];
                match format.check(self.stamp(number, departure.left, format), got) {
                    Ok(()) => return self.answer(at),
                    Err(difference) => Some(difference),
                }
            }
            None => match self.judge_unawaited(said, mask, got, format) {
                Ok(arrival) => return arrival,
                Err(difference) => difference,
            },
        };
        self.judge_changed(said, mask, got, format, difference)
    }

    fn answer(&mut self, at: usize) -> Arrival {
        let Sent { number, departure } = self.awaited[at];
        self.awaited.remove(at);
        let in_order = number >= self.heard;
        self.heard = self.heard.max(number + 1);
        Arrival::Answer { departure, in_order }
    }

    /// One that nobody waits for is held to all but its departure, which is not remembered. Where it differs from what
    /// was sent, the error says so; `None`, where nothing was.
    fn judge_unawaited(
        &mut self,
        said: u64,
        mask: u64,
        got: &[u8],
        format: &Format,
    ) -> Result<Arrival, Option<Difference>> {
        let is_whole = mask == u64::MAX;
        if is_whole && said >= self.next {
            return Err(None);
        }
        let claimed = Stamp { client: self.client(), run: format.run, ..Stamp::of(got) };
        if is_whole || got.len() != format.size_of(claimed.client, said) {
            format.check(claimed, got).map_err(Some)?;
        } else if !format.is_of(claimed.client, got) {
            return Err(None);
        }
        let late = match is_whole {
            true => self.given_up.contains(said).then_some(said),
            false => self.given_up.iter().take(CUT_OFF).find(|number| number & mask == said),
        };
        Ok(match late {
            Some(number) => {
                self.given_up.remove(number);
                Arrival::Late { is_of_before: number < self.first }
            }
            None => Arrival::Duplicate,
        })
    }

    /// One that is not what was sent: another's, or one of ours that was damaged.
    #[cold]
    fn judge_changed(
        &mut self,
        said: u64,
        mask: u64,
        got: &[u8],
        format: &Format,
        difference: Option<Difference>,
    ) -> Arrival {
        let is_ours = format.is_of(self.client(), got);
        let of_that_number = self.only(|sent| sent.number & mask == said);
        // One whose bytes are all right but for its number, or its name, is the one that they tell.
        let damaged = match is_ours {
            true => self.only(|sent| format.is_with_another_number(self.stamp_of(sent, format), got)),
            false => of_that_number
                .filter(|&at| format.is_with_another_name(self.stamp_of(&self.awaited[at], format), got)),
        };
        if !is_ours && damaged.is_none() {
            return self.foreign(got, format);
        }
        let settled = damaged.or(of_that_number);
        let sent = settled.and_then(|at| self.awaited.remove(at));
        let what = match (sent, difference) {
            (Some(sent), _) if damaged.is_some() => {
                let difference = format.check(self.stamp_of(&sent, format), got);
                let difference = difference.err().map_or(String::new(), |it| it.to_string());
                format!("{}: {difference}", self.place(sent.number))
            }
            (_, Some(difference)) => format!("{}: {difference}", self.place(said)),
            _ => format!("connection {}: message {said} came back, which was never sent", self.number),
        };
        Arrival::Wrong { what, settled: sent.map(|sent| sent.departure) }
    }

    /// The one that is on its way of which this is true, where there is no second one.
    fn only(&self, is_it: impl Fn(&Sent) -> bool) -> Option<usize> {
        let mut places = self.awaited.iter().enumerate().filter(|(_, sent)| is_it(sent));
        let (at, _) = places.next()?;
        places.next().is_none().then_some(at)
    }

    /// Whether one is on its way that left before `bound`.
    pub fn is_overdue(&self, bound: u64) -> bool {
        self.awaited.front().is_some_and(|sent| sent.departure.left < bound)
    }

    /// Gives up the oldest that is on its way, where it left before `bound`.
    pub fn give_up(&mut self, bound: u64) -> Option<Sent> {
        let sent = self.awaited.front().copied().filter(|sent| sent.departure.left < bound)?;
        self.awaited.pop_front();
        self.given_up.insert(sent.number);
        Some(sent)
    }

    /// Where among those on their way this number stands. They come in order, mostly.
    fn position(&self, number: u64, mask: u64) -> Option<usize> {
        match self.awaited.front() {
            Some(first) if first.number & mask == number => Some(0),
            _ if mask == u64::MAX => self.awaited.binary_search_by_key(&number, |sent| sent.number).ok(),
            _ => self.awaited.iter().position(|sent| sent.number & mask == number),
        }
    }

    fn foreign(&self, got: &[u8], format: &Format) -> Arrival {
        let Stamp { number, client, run, .. } = Stamp::of(got);
        let whose = match run == format.run {
            true => format!("connection {client}'s message {number}"),
            false => "a datagram that is not of this run".into(),
        };
        Arrival::Foreign { what: format!("connection {}: {whose} came back to it", self.number) }
    }

    fn stamp(&self, number: u64, departed: u64, format: &Format) -> Stamp {
        Stamp { number, client: self.client(), run: format.run, departed }
    }

    fn stamp_of(&self, sent: &Sent, format: &Format) -> Stamp {
        self.stamp(sent.number, sent.departure.left, format)
    }

    fn client(&self) -> u32 {
        self.number as u32
    }

    fn place(&self, number: u64) -> String {
        format!("connection {}, message {number}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use arguments::Endpoint;
    use proptest::prelude::*;

    use super::*;
    use crate::load::{Mix, Pace, Rank, Sizes, SocketOptions, payload::Payload};

    /// A client, and the server that its datagrams go to.
    fn stage(size: usize, depth: usize) -> (Flow, UdpSocket, Format) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
        let plan = Plan {
            means: super::super::Means::Mio,
            endpoint: Endpoint::Udp(server.local_addr().unwrap()),
            socket: SocketOptions::default(),
            connections: 1,
            rank: Rank::ALONE,
            size: Sizes::fixed(size),
            pace: Pace::Closed { pipeline: depth, think: Duration::ZERO },
            burst: None,
            churn: None,
            half_close: false,
            threads: 1,
            connect_rate: 1,
            timeout: Duration::from_secs(1),
            interval: Duration::from_secs(1),
            verify: true,
            seed: 1,
            awkward: Mix::default(),
        };
        let format =
            Format { run: 7, sizes: Sizes::fixed(size), verify: true, payload: Arc::new(Payload::new(1)) };
        (Flow::open(&plan, 0).unwrap(), server, format)
    }

    fn depart(flow: &mut Flow, server: &UdpSocket, format: &Format, now: u64) -> Vec<u8> {
        let mut bytes = vec![0; format.sizes.longest()];
        let mut outgoing = Outgoing::new(1, bytes.len());
        flow.write(Departure::at(now), format, &mut outgoing);
        flow.send(&mut outgoing, |error| panic!("{error}"));
        assert_eq!(server.recv(&mut bytes).unwrap(), format.sizes.longest());
        bytes
    }

    fn answer(departed: u64, in_order: bool) -> Arrival {
        Arrival::Answer { departure: Departure::at(departed), in_order }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        /// Each datagram may come never, once or several times, in any order, before or after it was given up.
        #[test]
        fn whatever_the_network_does_each_datagram_is_one_thing(
            size in 8usize..100,
            given_up in 0usize..20,
            arrivals in prop::collection::vec(0usize..20, 0..60),
        ) {
            let (mut flow, server, format) = stage(size, 20);
            let sent: Vec<Vec<u8>> = (0..20).map(|n| depart(&mut flow, &server, &format, n)).collect();
            let mut came = [false; 20];
            let (before, after) = arrivals.split_at(arrivals.len() / 2);
            let mut latest = 0;
            for &n in before {
                let expected = match came[n] {
                    false => answer(n as u64, n >= latest),
                    true => Arrival::Duplicate,
                };
                prop_assert_eq!(flow.judge(&sent[n], &format), expected);
                if !came[n] {
                    latest = latest.max(n + 1);
                }
                came[n] = true;
            }
            let lost = std::iter::from_fn(|| flow.give_up(given_up as u64)).count();
            prop_assert_eq!(lost, came[..given_up].iter().filter(|&&came| !came).count());
            for &n in after {
                let expected = match came[n] {
                    true => Arrival::Duplicate,
                    false if n < given_up => Arrival::Late { is_of_before: false },
                    false => answer(n as u64, n >= latest),
                };
                if matches!(expected, Arrival::Answer { .. }) {
                    latest = latest.max(n + 1);
                }
                prop_assert_eq!(flow.judge(&sent[n], &format), expected);
                came[n] = true;
            }
            prop_assert_eq!(flow.awaits(), came[given_up..].iter().filter(|&&came| !came).count());
        }
    }

    #[test]
    fn a_number_that_is_cut_off_still_tells_one_from_the_next() {
        let (mut flow, server, format) = stage(1, 1);
        for n in 0..600 {
            let sent = depart(&mut flow, &server, &format, n);
            assert_eq!(flow.judge(&sent, &format), answer(n, true));
            assert_eq!(flow.judge(&sent, &format), Arrival::Duplicate);
        }
    }

    #[test]
    fn empty_datagrams_are_answers_as_long_as_some_are_awaited() {
        let (mut flow, server, format) = stage(0, 2);
        for now in [5, 6] {
            depart(&mut flow, &server, &format, now);
        }
        assert_eq!(flow.judge(b"", &format), answer(5, true));
        assert_eq!(flow.give_up(9).map(|sent| sent.departure.left), Some(6));
        assert_eq!(flow.judge(b"", &format), Arrival::Late { is_of_before: false });
        assert_eq!(flow.judge(b"", &format), Arrival::Duplicate);
    }

    fn is_settled(arrival: &Arrival) -> bool {
        matches!(arrival, Arrival::Wrong { settled: Some(_), .. })
    }

    #[test]
    fn what_was_never_sent_is_wrong_and_settles_nothing() {
        let (mut flow, server, format) = stage(64, 1);
        let mut future = depart(&mut flow, &server, &format, 1);
        (future[0], future[16]) = (1, 2);
        let wrong = flow.judge(&future, &format);
        assert!(
            matches!(&wrong, Arrival::Wrong { what, settled: None } if what.contains("never sent")),
            "{wrong:?}"
        );
        assert_eq!(flow.awaits(), 1);
    }

    /// Whatever other number it says: one that is on its way, one that has come, one that was never sent.
    #[test]
    fn one_whose_number_is_damaged_is_the_one_that_its_other_bytes_tell() {
        for bit in 0..8 {
            let (mut flow, server, format) = stage(64, 8);
            let sent: Vec<_> = (0..8).map(|n| depart(&mut flow, &server, &format, 5 + n)).collect();
            assert_eq!(flow.judge(&sent[0], &format), answer(5, true));
            let mut damaged = sent[2].clone();
            damaged[0] ^= 1 << bit;
            let wrong = flow.judge(&damaged, &format);
            assert!(is_settled(&wrong) && format!("{wrong:?}").contains("message 2: byte 0"), "{wrong:?}");
            assert_eq!(flow.judge(&sent[2], &format), Arrival::Duplicate);
            for (n, sent) in sent.iter().enumerate().filter(|(n, _)| ![0, 2].contains(n)) {
                assert_eq!(flow.judge(sent, &format), answer(5 + n as u64, true));
            }
        }
    }

    #[test]
    fn one_that_is_cut_before_it_tells_which_it_is_settles_one_that_is_alone() {
        let (mut flow, server, format) = stage(64, 2);
        depart(&mut flow, &server, &format, 5);
        assert!(is_settled(&flow.judge(b"", &format)));
        depart(&mut flow, &server, &format, 6);
        depart(&mut flow, &server, &format, 7);
        assert!(!is_settled(&flow.judge(b"", &format)));
        assert_eq!(flow.awaits(), 2);
        assert!(is_settled(&flow.judge(&[2], &format)));
        assert_eq!(flow.give_up(9).map(|sent| sent.number), Some(1));
    }

    #[test]
    fn however_many_were_given_up_each_is_known_again_once_and_by_its_stretch() {
        let (mut flow, server, format) = stage(64, 1);
        let sent: Vec<_> = (0..10_000).map(|n| depart(&mut flow, &server, &format, n)).collect();
        for (n, sent) in sent.iter().enumerate().filter(|(n, _)| n % 2 == 1) {
            assert_eq!(flow.judge(sent, &format), answer(n as u64, true));
        }
        assert_eq!(std::iter::from_fn(|| flow.give_up(10_000)).count(), 5000);
        flow.begin(false);
        let last = depart(&mut flow, &server, &format, 10_000);
        assert_eq!(flow.give_up(10_001).map(|sent| sent.number), Some(10_000));
        assert_eq!(flow.judge(&last, &format), Arrival::Late { is_of_before: false });
        for (n, sent) in sent.iter().enumerate() {
            let first = if n % 2 == 1 { Arrival::Duplicate } else { Arrival::Late { is_of_before: true } };
            assert_eq!(flow.judge(sent, &format), first);
            assert_eq!(flow.judge(sent, &format), Arrival::Duplicate);
        }
    }

    #[test]
    fn what_a_socket_is_too_full_for_is_counted_once() {
        let (mut flow, server, format) = stage(64, 1);
        depart(&mut flow, &server, &format, 1);
        let client = flow.socket.local_addr().unwrap();
        (0..20_000).for_each(|_| assert_eq!(server.send_to(&[0; 64], client).unwrap(), 64));
        let dropped = flow.dropped().unwrap();
        let held = std::iter::from_fn(|| flow.receive(&mut Incoming::new(1), 1).ok()).count() as u64;
        assert_eq!((dropped + held, flow.dropped()), (20_000, Some(0)));
        assert!(dropped > 0);
    }
}
