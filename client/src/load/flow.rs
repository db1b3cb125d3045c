//! One client's datagrams: which are on their way, which were given up, and what each that comes back is.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    net::UdpSocket,
    os::fd::AsRawFd,
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, recv, recvmsg, setsockopt,
        sockopt::{UdpGroSegment, UdpGsoSegment},
    },
};

use super::{
    Plan,
    datagram::{Format, Stamp},
    pace::Departure,
    socket::destination,
};

/// How many that were given up are remembered, to know them when they come after all.
const REMEMBERED: usize = 4096;

/// What the kernel counts a small datagram as, in a socket's buffer, beside its bytes.
const OVERHEAD: usize = 1024;

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
    /// One that was given up, and when it had left, where that is still known.
    Late { departure: Option<Departure> },
    /// One that had come before.
    Duplicate,
    /// One of ours, changed; and whether it is known which, so that it is awaited no longer.
    Wrong { what: String, settled: bool },
    /// One that is not ours.
    Foreign { what: String },
}

/// What is received into.
#[derive(Default)]
pub struct Room {
    bytes: Vec<u8>,
    control: Vec<u8>,
}

impl Room {
    /// Room for the longest datagram and the longest burst.
    pub fn new() -> Self {
        Self { bytes: vec![0; 1 << 16], control: cmsg_space!(i32) }
    }
}

/// A client: a socket of its own, connected to the server, and its datagrams.
pub struct Flow {
    /// Its number in the run.
    pub number: usize,
    /// Its socket. It blocks when the kernel has no room for what is sent; receiving does not wait.
    pub socket: UdpSocket,
    /// Answers in the measured time.
    pub answers: u64,
    takes_bursts: bool,
    next: u64,
    /// One more than the highest number that came back.
    heard: u64,
    /// Those on their way, in the order of their departure.
    awaited: VecDeque<Sent>,
    /// Those that were given up, the oldest first.
    given_up: VecDeque<Sent>,
    /// Below this number it is not remembered which ones were given up.
    forgotten: u64,
}

impl Flow {
    /// A client that has sent nothing.
    ///
    /// # Errors
    /// Where the system refuses the socket, its address or the destination; and where it is its own destination,
    /// as may happen on loopback where nobody serves.
    pub fn open(plan: &Plan, number: usize) -> io::Result<Self> {
        let socket = plan.socket.socket(&plan.endpoint, number)?;
        let room = plan.usual_depth() * (2 * plan.size.longest() + OVERHEAD);
        if plan.socket.receive_buffer.is_none() && socket.recv_buffer_size()? < room {
            socket.set_recv_buffer_size(room)?; // as far as net.core.rmem_max allows
        }
        let server = destination(&plan.endpoint)?;
        socket.connect(&server)?;
        if socket.local_addr()?.as_socket() == server.as_socket() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if plan.burst.is_some() {
            setsockopt(&socket, UdpGsoSegment, &i32::try_from(plan.size.longest()).unwrap_or_default())?;
            setsockopt(&socket, UdpGroSegment, &true)?;
        }
        Ok(Self {
            number,
            socket: socket.into(),
            answers: 0,
            takes_bursts: plan.burst.is_some(),
            next: 0,
            heard: 0,
            awaited: VecDeque::with_capacity(plan.usual_depth()),
            given_up: VecDeque::new(),
            forgotten: 0,
        })
    }

    /// How many are on their way.
    pub fn awaits(&self) -> usize {
        self.awaited.len()
    }

    /// Sends `datagrams` in one system call. They are on their way from then on, also where the kernel
    /// refuses them: so a refusal costs their timeout, and is no busy loop.
    ///
    /// # Errors
    /// Where the kernel refuses them, or reports what became of earlier ones (ICMP).
    pub fn depart(
        &mut self,
        datagrams: usize,
        departure: Departure,
        format: &Format,
        room: &mut [u8],
    ) -> io::Result<()> {
        let mut end = 0;
        for _ in 0..datagrams {
            let stamp = self.stamp(self.next, departure.left, format);
            let begin = end;
            end += format.size_of(stamp.client, stamp.number);
            format.write(stamp, &mut room[begin..end]);
            self.awaited.push_back(Sent { number: self.next, departure });
            self.next += 1;
        }
        self.send(&room[..end])
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What is reported is of an earlier one (ICMP): this one has not been sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return self.socket.send(bytes).and(Err(error));
                }
                done => return done.map(drop),
            }
        }
    }

    /// Receives a datagram, or a burst that the kernel has joined: the bytes, and how many of them each has, the
    /// last one perhaps fewer.
    ///
    /// # Errors
    /// Where nothing is there, or an ICMP error is reported.
    pub fn receive<'r>(&self, room: &'r mut Room) -> io::Result<impl Iterator<Item = &'r [u8]> + use<'r>> {
        let Room { bytes, control } = room;
        let (length, segment) = if self.takes_bursts {
            self.receive_burst(bytes, control)?
        } else {
            let n = recv(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT)?;
            (n, n)
        };
        let bytes = &bytes[..length];
        let step = segment.max(1);
        Ok((0..length.max(1)).step_by(step).map(move |from| &bytes[from..length.min(from + step)]))
    }

    /// The kernel says beside a joined burst how long its datagrams were (UDP_GRO, udp(7)).
    fn receive_burst(&self, bytes: &mut [u8], control: &mut [u8]) -> Result<(usize, usize), Errno> {
        let mut parts = [IoSliceMut::new(bytes)];
        let fd = self.socket.as_raw_fd();
        let burst = recvmsg::<()>(fd, &mut parts, Some(control), MsgFlags::MSG_DONTWAIT)?;
        let segment = burst.cmsgs()?.find_map(|beside| match beside {
            ControlMessageOwned::UdpGroSegments(segment) => usize::try_from(segment).ok(),
            _ => None,
        });
        Ok((burst.bytes, segment.unwrap_or(burst.bytes)))
    }

    /// Says what a datagram is that came back. One that was awaited is awaited no longer.
    pub fn judge(&mut self, got: &[u8], format: &Format) -> Arrival {
        let said = Stamp::of(got).number;
        let mask = format.mask(got);
        match self.position(said, mask) {
            Some(at) => self.judge_awaited(at, got, format),
            None => self.judge_unawaited(said, mask, got, format),
        }
    }

    fn judge_awaited(&mut self, at: usize, got: &[u8], format: &Format) -> Arrival {
        let Sent { number, departure } = self.awaited[at];
        let sent = self.stamp(number, departure.left, format);
        match format.check(sent, got) {
            Ok(()) => {
                self.awaited.remove(at);
                let in_order = number >= self.heard;
                self.heard = self.heard.max(number + 1);
                Arrival::Answer { departure, in_order }
            }
            Err(_) if !format.is_of(sent.client, got) && !format.is_with_another_name(sent, got) => {
                self.foreign(got, format)
            }
            Err(difference) => {
                self.awaited.remove(at);
                Arrival::Wrong { what: format!("{}: {difference}", self.place(number)), settled: true }
            }
        }
    }

    fn judge_unawaited(&mut self, said: u64, mask: u64, got: &[u8], format: &Format) -> Arrival {
        let client = self.client();
        if !format.is_of(client, got) {
            return self.foreign(got, format);
        }
        let is_whole = mask == u64::MAX;
        if is_whole && said >= self.next {
            let what = format!("connection {}: message {said} came back, which was never sent", self.number);
            return Arrival::Wrong { what, settled: false };
        }
        let claimed = Stamp { client, run: format.run, ..Stamp::of(got) };
        let checked = if is_whole || got.len() != format.size_of(client, said) {
            format.check(claimed, got)
        } else {
            Ok(())
        };
        if let Err(difference) = checked {
            let what = format!("{}: {difference}", self.place(said));
            return Arrival::Wrong { what, settled: false };
        }
        match self.given_up.iter().position(|sent| sent.number & mask == said) {
            Some(at) => Arrival::Late { departure: self.given_up.remove(at).map(|sent| sent.departure) },
            None if is_whole && said < self.forgotten => Arrival::Late { departure: None },
            None => Arrival::Duplicate,
        }
    }

    /// Whether one is on its way that left before `bound`.
    pub fn is_overdue(&self, bound: u64) -> bool {
        self.awaited.front().is_some_and(|sent| sent.departure.left < bound)
    }

    /// Gives up the oldest that is on its way, where it left before `bound`.
    pub fn give_up(&mut self, bound: u64) -> Option<Sent> {
        let sent = self.awaited.front().copied().filter(|sent| sent.departure.left < bound)?;
        self.awaited.pop_front();
        if self.given_up.len() == REMEMBERED {
            self.forgotten = self.given_up.pop_front().map_or(0, |oldest| oldest.number + 1);
        }
        self.given_up.push_back(sent);
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

    fn client(&self) -> u32 {
        self.number as u32
    }

    fn place(&self, number: u64) -> String {
        format!("connection {}, message {number}", self.number)
    }

    /// Its socket as /proc/net/udp names it.
    pub fn inode(&self) -> Option<libc::ino_t> {
        nix::sys::stat::fstat(&self.socket).ok().map(|stat| stat.st_ino)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use arguments::Endpoint;
    use proptest::prelude::*;

    use super::*;
    use crate::load::{Mix, Pace, Sizes, SocketOptions, payload::Payload};

    /// A client, and the server that its datagrams go to.
    fn stage(size: usize, depth: usize) -> (Flow, UdpSocket, Format) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
        let plan = Plan {
            endpoint: Endpoint::Udp(server.local_addr().unwrap()),
            socket: SocketOptions::default(),
            connections: 1,
            size: Sizes::fixed(size),
            pace: Pace::Closed { pipeline: depth, think: Duration::ZERO },
            burst: None,
            churn: None,
            half_close: false,
            threads: 1,
            connect_rate: 1,
            timeout: Duration::from_secs(1),
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
        flow.depart(1, Departure::at(now), format, &mut bytes).unwrap();
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
                    false if n < given_up => Arrival::Late { departure: Some(Departure::at(n as u64)) },
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
        assert_eq!(flow.judge(b"", &format), Arrival::Late { departure: Some(Departure::at(6)) });
        assert_eq!(flow.judge(b"", &format), Arrival::Duplicate);
    }

    #[test]
    fn what_was_never_sent_is_wrong_and_settles_nothing() {
        let (mut flow, server, format) = stage(64, 1);
        let mut future = depart(&mut flow, &server, &format, 1);
        future[0] = 1;
        let wrong = flow.judge(&future, &format);
        assert!(
            matches!(&wrong, Arrival::Wrong { what, settled: false } if what.contains("never sent")),
            "{wrong:?}"
        );
        assert_eq!(flow.awaits(), 1);
    }
}
