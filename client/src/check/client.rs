//! A client of a stream whose server may do anything: nothing that it asks for lasts for ever.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags};
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    exam::{Exam, Stop},
    words::words,
};
use crate::listener;

/// A small receive buffer, in bytes (SO_RCVBUF, socket(7); the kernel doubles it).
pub const NARROW: usize = 32 << 10;

/// For how long a good server may let a client wait, on a machine that is not slow.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long who leaves waits for what still comes.
const LEAVE: Duration = Duration::from_millis(500);

/// How long a server may take to answer a little that comes, where there is room for the answer.
const ANSWERS: Duration = Duration::from_millis(200);

/// How many bytes are asked of the kernel at once.
const CHUNK: usize = 64 << 10;

/// A client that is connected. Dropping it closes its socket.
pub struct Client<'e> {
    exam: &'e Exam<'e>,
    stream: TcpStream,
    patience: Duration,
    sent: usize,
    heard: usize,
}

impl<'e> Client<'e> {
    /// Connects.
    ///
    /// # Errors
    /// [`Stop::Fault`] where the server refuses, [`Stop::Late`] where it does not answer.
    pub fn connect(exam: &'e Exam<'e>, address: SocketAddr) -> Result<Self, Stop> {
        Self::connect_by(exam, address, |_| Ok(()))
    }

    /// Connects with a small receive buffer: what it does not read soon fills those of the server.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_narrowly(exam: &'e Exam<'e>, address: SocketAddr) -> Result<Self, Stop> {
        Self::connect_by(exam, address, |socket| socket.set_recv_buffer_size(NARROW))
    }

    /// Connects by a socket that has been prepared: its options, its own address.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_by(
        exam: &'e Exam<'e>,
        address: SocketAddr,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> Result<Self, Stop> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)
            .map_err(Stop::harness("a socket for a client"))?;
        prepare(&socket).map_err(Stop::harness("a client's socket"))?;
        exam.awaits_room(address);
        let patience = exam.until(PATIENCE).saturating_duration_since(Instant::now());
        match socket.connect_timeout(&address.into(), patience.max(Duration::from_millis(1))) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(Stop::Late(words!(
                    "a connection was not established within {patience:.1?}",
                    "连接在 {patience:.1?} 内没有建立"
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(nobody_listens(exam, address));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                exam.suspects_death();
                return Err(Stop::Fault(words!(
                    "a connection was established, and reset at once",
                    "连接刚建立就被服务器复位（RST）"
                )));
            }
            Err(error) => return Err(Stop::Harness(format!("connect to {address}: {error}"))),
        }
        let stream = TcpStream::from(socket);
        // Where nobody listens, the kernel may choose that very port for ours, and then we would hear ourselves.
        if stream.local_addr().is_ok_and(|own| stream.peer_addr().is_ok_and(|peer| peer == own)) {
            return Err(nobody_listens(exam, address));
        }
        let prepared = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        prepared.map_err(Stop::harness("a client's socket"))?;
        Ok(Self { exam, stream, patience: PATIENCE, sent: 0, heard: 0 })
    }

    /// The same with another patience; it is stretched as the machine needs it.
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Its socket, which does not block.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Its own address.
    ///
    /// # Errors
    /// Where the kernel does not know it any more.
    pub fn address(&self) -> Result<SocketAddr, Stop> {
        self.stream.local_addr().map_err(Stop::harness("a client's address"))
    }

    /// Sends, and hears nothing meanwhile. A server that applies backpressure may wait for us: see [`Client::echo`].
    ///
    /// # Errors
    /// Where the server ends the connection, or takes nothing for too long.
    pub fn send(&mut self, said: &[u8]) -> Result<(), Stop> {
        self.exchange(said, &[])
    }

    /// Hears exactly this.
    ///
    /// # Errors
    /// Where something else comes, or less, or nothing for too long.
    pub fn hear(&mut self, expected: &[u8]) -> Result<(), Stop> {
        self.exchange(&[], expected)
    }

    /// Sends, and hears the same, both at once: whoever sends all of it first deadlocks against a server that applies
    /// backpressure.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::hear`].
    pub fn echo(&mut self, said: &[u8]) -> Result<(), Stop> {
        self.exchange(said, said)
    }

    /// The same with at most so many bytes under way. What is sent acknowledges what has come, so that a server which
    /// answers in small writes need not wait for a delayed acknowledgement each time (RFC 896; RFC 1122, 4.2.3.2).
    ///
    /// # Errors
    /// As [`Client::echo`].
    pub fn echo_steadily(&mut self, said: &[u8], under_way: usize) -> Result<(), Stop> {
        self.converse(said, said, under_way, false)
    }

    /// Sends all of one with our FIN right behind it, and hears all of the other, both at once.
    ///
    /// # Errors
    /// As [`Client::echo`].
    pub fn exchange_the_last(&mut self, said: &[u8], expected: &[u8]) -> Result<(), Stop> {
        self.converse(said, expected, usize::MAX, true)
    }

    /// Hears as much of this as comes within `patience`, and is content with less; how many bytes that was.
    ///
    /// # Errors
    /// Where something else comes, or the end.
    pub fn hear_some(&mut self, expected: &[u8], patience: Duration) -> Result<usize, Stop> {
        let mut some = vec![0; CHUNK.min(expected.len())];
        let Some(n) = self.read(&mut some, patience)? else { return Ok(0) };
        if n == 0 && !expected.is_empty() {
            return Err(self.ended_early(expected.len()));
        }
        self.compare(expected, &some[..n])?;
        self.heard += n;
        Ok(n)
    }

    /// Reads once what has come, or comes within `patience`: nothing, the end as 0 bytes, or some bytes.
    ///
    /// # Errors
    /// Where the server has broken the connection off.
    pub fn read(&self, buffer: &mut [u8], patience: Duration) -> Result<Option<usize>, Stop> {
        if !self.is_ready_within(PollFlags::POLLIN, patience)? {
            return Ok(None);
        }
        match (&self.stream).read(buffer) {
            Ok(n) => Ok(Some(n)),
            Err(error) => self.ignore_blocked(error).map(|()| None),
        }
    }

    /// Sends all of one, and hears all of the other, both at once.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::hear`].
    pub fn exchange(&mut self, said: &[u8], expected: &[u8]) -> Result<(), Stop> {
        self.converse(said, expected, usize::MAX, false)
    }

    /// Sends all of one, with our FIN behind it if that `is_all`, and hears all of the other. Never more than `most`
    /// bytes are sent that have not been heard.
    fn converse(&mut self, said: &[u8], expected: &[u8], most: usize, is_all: bool) -> Result<(), Stop> {
        let (mut to_send, mut to_hear) = (said, expected);
        let mut buffer = vec![0; CHUNK.min(expected.len().max(1))];
        while !to_send.is_empty() || !to_hear.is_empty() {
            let [sent, heard] = [said.len() - to_send.len(), expected.len() - to_hear.len()];
            let room = most.saturating_sub(sent.saturating_sub(heard)).min(to_send.len());
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::POLLOUT, room > 0);
            wanted.set(PollFlags::POLLIN, !to_hear.is_empty());
            if !self.is_ready(wanted)? {
                return Err(if room > 0 {
                    self.takes_no_more(sent, said.len())
                } else {
                    self.sends_no_more(expected.len())
                });
            }
            if room > 0 {
                match (&self.stream).write(&to_send[..room]) {
                    Ok(n) => {
                        (self.sent, to_send) = (self.sent + n, &to_send[n..]);
                        if is_all && to_send.is_empty() {
                            self.finish()?;
                        }
                    }
                    Err(error) => self.ignore_blocked(error)?,
                }
            }
            if !to_hear.is_empty() {
                let length = buffer.len().min(to_hear.len());
                match (&self.stream).read(&mut buffer[..length]) {
                    Ok(0) => return Err(self.ended_early(expected.len())),
                    Ok(n) => {
                        self.compare(&to_hear[..n], &buffer[..n])?;
                        (self.heard, to_hear) = (self.heard + n, &to_hear[n..]);
                    }
                    Err(error) => self.ignore_blocked(error)?,
                }
            }
        }
        Ok(())
    }

    /// Says that no more will come: our FIN (shutdown(2), SHUT_WR).
    ///
    /// # Errors
    /// Where the server has reset the connection.
    pub fn finish(&self) -> Result<(), Stop> {
        self.stream.shutdown(Shutdown::Write).or_else(|error| self.ignore_blocked(error))
    }

    /// Hears the server's FIN, and nothing before it.
    ///
    /// # Errors
    /// Where something else comes, or nothing for too long.
    pub fn hear_the_end(&mut self) -> Result<(), Stop> {
        loop {
            if !self.is_ready(PollFlags::POLLIN)? {
                return Err(self.no_end());
            }
            let mut more = [0; 64];
            match (&self.stream).read(&mut more) {
                Ok(0) => return Ok(()),
                Ok(n) => return Err(self.surplus(&more[..n])),
                Err(error) => self.ignore_blocked(error)?,
            }
        }
    }

    /// Ends the connection by a reset instead of a FIN (SO_LINGER of no time, socket(7)).
    pub fn reset(self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Sends `bytes` over and over, and reads nothing, until nothing more is taken for as long as `still`: both kernels'
    /// buffers are full then, and whatever the server keeps. Stops at `most` bytes. Returns how many were taken.
    ///
    /// # Errors
    /// Where the server ends the connection.
    pub fn fill(&mut self, bytes: &[u8], most: usize, still: Duration) -> Result<usize, Stop> {
        let mut taken = 0;
        while taken < most && self.is_ready_within(PollFlags::POLLOUT, still)? {
            let from = taken % bytes.len();
            match (&self.stream).write(&bytes[from..bytes.len().min(from + most - taken)]) {
                Ok(n) => taken += n,
                Err(error) => self.ignore_blocked(error)?,
            }
        }
        self.sent += taken;
        Ok(taken)
    }

    /// The same little by little, and no more once the server has read all and keeps some of it, for the kernels' buffers
    /// on the way back are full. Where the other end is not on this machine nobody knows that, and it is as much as is
    /// taken.
    ///
    /// # Errors
    /// As [`Client::fill`].
    pub fn fill_until_some_is_kept(&mut self, bytes: &[u8], still: Duration) -> Result<usize, Stop> {
        const LITTLE: usize = 16 << 10;
        let (here, there) = (self.address()?, self.peer()?);
        if listener::waiting(there, here).is_none() {
            return self.fill(bytes, bytes.len(), still);
        }
        let mut taken = 0;
        while taken < bytes.len() {
            let some = self.fill(&bytes[taken..], LITTLE.min(bytes.len() - taken), still)?;
            taken += some;
            let is_answered = || {
                let [unread_here, unsent] = listener::waiting(here, there)?;
                let [unread, answers] = listener::waiting(there, here)?;
                (unread + unsent == 0 && unread_here + answers >= taken).then_some(())
            };
            // Who has not answered it even now keeps it, or has not read it: it waits for its client.
            if some == 0 || self.exam.within(ANSWERS, is_answered).is_none() {
                break;
            }
        }
        Ok(taken)
    }

    /// Reads nothing until the server has read all that was sent, or for as long as `still`. What the kernels have taken
    /// it need not have seen, and has sent nothing of that in vain.
    ///
    /// # Errors
    /// Where an address is not known.
    pub fn lets_it_read_all(&self, still: Duration) -> Result<(), Stop> {
        let (here, there) = (self.address()?, self.peer()?);
        self.exam.within(still, || {
            let [unread, _] = listener::waiting(there, here)?;
            let [_, unsent] = listener::waiting(here, there)?;
            (unread + unsent == 0).then_some(())
        });
        Ok(())
    }

    fn peer(&self) -> Result<SocketAddr, Stop> {
        self.stream.peer_addr().map_err(Stop::harness("a server's address"))
    }

    /// Leaves as one leaves who is no trouble: sends the FIN, and takes whatever still comes, until the end, or until
    /// nothing comes any more, or more than is owed: that may have no end. To close a socket in which bytes wait would be
    /// a reset.
    pub fn leave(self) {
        self.leave_saying(&[]);
    }

    /// The same, with some last words.
    pub fn leave_saying(mut self, last: &[u8]) {
        let mut buffer = vec![0; CHUNK];
        let mut unsaid = last;
        if unsaid.is_empty() {
            let _ = self.finish();
        }
        while self.heard <= self.sent {
            let mut wanted = PollFlags::POLLIN;
            wanted.set(PollFlags::POLLOUT, !unsaid.is_empty());
            if !self.is_ready_within(wanted, LEAVE).unwrap_or(false) {
                return;
            }
            if !unsaid.is_empty() {
                let taken = (&self.stream).write(unsaid).unwrap_or(0);
                (self.sent, unsaid) = (self.sent + taken, &unsaid[taken..]);
                if unsaid.is_empty() {
                    let _ = self.finish();
                }
            }
            match self.read(&mut buffer, Duration::ZERO) {
                Ok(Some(0)) | Err(_) => return,
                Ok(n) => self.heard += n.unwrap_or(0),
            }
        }
    }

    /// Whether something comes within (a scaled) `patience`: bytes, or the end.
    ///
    /// # Errors
    /// Where poll(2) fails.
    pub fn hears_within(&self, patience: Duration) -> Result<bool, Stop> {
        self.is_ready_within(PollFlags::POLLIN, patience)
    }

    /// Waits for an end, whatever that is owed comes before it: the server's FIN, or a reset.
    ///
    /// # Errors
    /// Where it does not come, or more than is owed.
    pub fn see_the_end(&mut self) -> Result<(), Stop> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match self.read(&mut buffer, self.patience) {
                Ok(Some(0)) | Err(Stop::Fault(_)) => return Ok(()),
                Ok(Some(n)) if self.heard + n > self.sent => return Err(self.surplus(&buffer[..n])),
                Ok(Some(n)) => self.heard += n,
                Ok(None) => return Err(self.no_end()),
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Waits until the socket is ready; whether it is, within our patience.
    fn is_ready(&self, wanted: PollFlags) -> Result<bool, Stop> {
        self.is_ready_within(wanted, self.patience)
    }

    fn is_ready_within(&self, wanted: PollFlags, patience: Duration) -> Result<bool, Stop> {
        self.exam.ready_by(&mut [PollFd::new(self.stream.as_fd(), wanted)], self.exam.until(patience))
    }

    fn ignore_blocked(&self, error: io::Error) -> Result<(), Stop> {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
            _ => {
                let (sent, heard) = (self.sent, self.heard);
                self.exam.suspects_death();
                self.exam.saw("bytes_sent", sent);
                self.exam.saw("bytes_received", heard);
                Err(Stop::Fault(words!(
                    "the server broke the connection off after {sent} bytes sent and {heard} received: {error}",
                    "服务器在收到 {sent} 字节、返回 {heard} 字节之后断开了连接：{error}"
                )))
            }
        }
    }

    fn no_end(&self) -> Stop {
        let patience = self.exam.scaled(self.patience);
        Stop::Late(words!(
            "the end of the stream did not come within {patience:.1?}",
            "{patience:.1?} 内没有等到流的结束（EOF）"
        ))
    }

    fn surplus(&self, bytes: &[u8]) -> Stop {
        let shown = &bytes[..bytes.len().min(64)];
        self.exam.saw("surplus_bytes", String::from_utf8_lossy(shown).escape_debug().to_string());
        Stop::Fault(words!("bytes came that nobody had sent", "收到了没有人发送过的字节"))
    }

    fn takes_no_more(&self, sent: usize, to_send: usize) -> Stop {
        let patience = self.is_late();
        Stop::Late(words!(
            "the server took {sent} of {to_send} bytes, then nothing for {patience:.1?}",
            "{to_send} 字节中服务器只收了 {sent} 字节，此后 {patience:.1?} 内没有动静"
        ))
    }

    fn sends_no_more(&self, awaited: usize) -> Stop {
        let (all, heard, patience) = (self.sent, self.heard, self.is_late());
        Stop::Late(words!(
            "{heard} of {all} bytes came back, then nothing for {patience:.1?}; {awaited} were awaited",
            "{all} 字节中返回了 {heard} 字节，此后 {patience:.1?} 内没有动静（等待的是 {awaited} 字节）"
        ))
    }

    /// Keeps what was done until nothing happened any more; for how long that was waited.
    fn is_late(&self) -> Duration {
        self.exam.saw("bytes_sent", self.sent);
        self.exam.saw("bytes_received", self.heard);
        self.exam.scaled(self.patience)
    }

    fn ended_early(&self, awaited: usize) -> Stop {
        let (sent, heard) = (self.sent, self.heard);
        self.exam.suspects_death();
        self.exam.saw("bytes_sent", sent);
        self.exam.saw("bytes_received", heard);
        Stop::Fault(words!(
            "the server closed after {heard} of {sent} bytes, while {awaited} were awaited",
            "服务器在返回 {sent} 字节中的 {heard} 字节之后就关闭了连接（等待的是 {awaited} 字节）"
        ))
    }

    fn compare(&self, expected: &[u8], got: &[u8]) -> Result<(), Stop> {
        if expected.starts_with(got) {
            return Ok(()); // as memcmp(3) finds, which is faster
        }
        let Some(at) = expected.iter().zip(got).position(|(a, b)| a != b) else { return Ok(()) };
        let (offset, sent, back) = (self.heard + at, expected[at], got[at]);
        let near = |bytes: &[u8]| hex(&bytes[at..bytes.len().min(at + 16)]);
        self.exam.saw("offset", offset);
        self.exam.saw("expected", near(expected));
        self.exam.saw("received", near(got));
        Err(Stop::Fault(words!(
            "byte {offset} was sent as 0x{sent:02x} and came back as 0x{back:02x}",
            "第 {offset} 个字节发送的是 0x{sent:02x}，返回的却是 0x{back:02x}"
        )))
    }
}

fn nobody_listens(exam: &Exam<'_>, address: SocketAddr) -> Stop {
    exam.suspects_death();
    Stop::Fault(words!(
        "a connection was refused: nobody listens on {address} any more",
        "连接被拒绝：{address} 上已经没有进程在监听"
    ))
}

/// Bytes as people read them in a dump: `68 65 6c`.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, sync::atomic::AtomicBool, thread};

    use super::*;
    use crate::check::{
        CHECKS,
        target::{Source, Target},
    };

    /// Has a check look at nothing but what its client is told.
    fn with_an_exam<T>(look: impl FnOnce(&Exam<'_>) -> T) -> T {
        let target = Target::new(vec!["tcp://127.0.0.1:1".parse().unwrap()], Source::Address).unwrap();
        look(&Exam::new(&target, CHECKS[0], 1.0, 0, &AtomicBool::new(false)))
    }

    #[test]
    fn a_client_that_is_connected_to_itself_has_no_server() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let connected = with_an_exam(|exam| {
            Client::connect_by(exam, address, |socket| socket.bind(&address.into())).map(drop)
        });
        assert!(matches!(connected, Err(Stop::Fault(_))), "{connected:?}");
    }

    #[test]
    fn who_is_reset_at_once_does_not_take_that_for_a_fault_of_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let turns_away = thread::spawn(move || {
            listener.incoming().flatten().take(200).for_each(|client| {
                let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            });
        });
        with_an_exam(|exam| {
            for _ in 0..200 {
                let connected = Client::connect(exam, address).map(drop);
                assert!(matches!(connected, Ok(()) | Err(Stop::Fault(_))), "{connected:?}");
            }
        });
        turns_away.join().unwrap();
    }

    #[test]
    fn who_is_sent_bytes_without_an_end_leaves() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let floods = thread::spawn(move || {
            for _ in 0..2 {
                let (mut client, _) = listener.accept().unwrap();
                while client.write_all(b"without an end\n").is_ok() {}
            }
        });
        with_an_exam(|exam| {
            Client::connect(exam, address).unwrap().leave();
            let end = Client::connect(exam, address).unwrap().see_the_end();
            assert!(matches!(end, Err(Stop::Fault(_))), "{end:?}");
        });
        floods.join().unwrap();
    }
}
