//! One conversation of the load: what was sent, what came back, and what is still owed.

use std::{collections::VecDeque, io};

use mio::Interest;
use socket2::Socket;

use super::{
    Plan,
    carrier::Carrier,
    coming::Coming,
    pace::Departure,
    payload::{Mismatch, Payload, TRACE},
    recorder::Fault,
    sizes::Sizes,
};

/// How many of a connection's bytes are searched for a stray one's home.
const SEARCHED: u64 = 64 * 1024;

/// What went wrong, and where.
#[derive(Debug)]
pub struct Complaint {
    /// The kind.
    pub fault: Fault,
    /// In words.
    pub what: String,
    /// The bytes that should not have come, where they may be another connection's.
    pub trace: Option<[u8; TRACE]>,
}

impl Complaint {
    /// One without a trace.
    pub fn new(fault: Fault, what: String) -> Self {
        Self { fault, what, trace: None }
    }
}

/// A connection, and how far its stream of bytes got in both directions.
pub struct Connection {
    /// Its number in the run, which is also its part of the payload.
    pub number: usize,
    /// Its place.
    token: usize,
    /// Its socket, and whether it is watched.
    socket: Socket,
    is_watched: bool,
    /// Answers in the measured time, those of the connections included that had this one's place before.
    pub answers: u64,
    /// When bytes last came, or were first awaited, in nanoseconds of the engine's clock.
    pub last_heard: u64,
    /// Whether the kernel took less than it was given: it is to say when there is room.
    pub blocked: bool,
    /// Whether our FIN follows the last message, and whether it has left.
    half_closes: bool,
    is_half_closed: bool,
    sizes: Sizes,
    /// How many messages have departed, and how many of them are answered.
    departed: u64,
    answered: u64,
    /// How many messages may still depart.
    left: usize,
    /// The end of what may be sent; bytes before it belong to messages that have departed.
    allowed: u64,
    sent: u64,
    received: u64,
    /// When each message departed that has no answer yet, and where in the stream it ends.
    departures: VecDeque<(Departure, u64)>,
    /// Where the first of them begins.
    begin: u64,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, all right.
    Bytes(usize),
    /// Nothing is there.
    Nothing,
    /// The server's end of file, and nothing is owed.
    End,
}

impl Connection {
    /// A connection that came up at a place.
    pub fn new(coming: Coming, token: usize, plan: &Plan) -> Self {
        let Coming { number, socket, answers, is_watched, .. } = coming;
        Self {
            number,
            token,
            socket,
            is_watched,
            answers,
            last_heard: 0,
            blocked: false,
            half_closes: plan.half_close,
            is_half_closed: false,
            sizes: plan.size.clone(),
            departed: 0,
            answered: 0,
            left: plan.churn.unwrap_or(usize::MAX),
            allowed: 0,
            sent: 0,
            received: 0,
            departures: VecDeque::with_capacity(plan.usual_depth()),
            begin: 0,
        }
    }

    /// Has it watched for this from now on.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn watch(&mut self, carrier: &mut impl Carrier, interest: Interest) -> io::Result<()> {
        let known = std::mem::replace(&mut self.is_watched, true);
        carrier.watch(&self.socket, self.token, interest, known)
    }

    /// Closes it.
    pub fn close(self, carrier: &mut impl Carrier) {
        carrier.close(self.socket, self.token);
    }

    /// Whether an answer is awaited, or the server's FIN after ours.
    pub fn is_waiting(&self) -> bool {
        !self.departures.is_empty() || self.is_half_closed
    }

    /// Whether our FIN has left.
    pub fn is_half_closed(&self) -> bool {
        self.is_half_closed
    }

    /// How many answers are awaited.
    pub fn awaits(&self) -> usize {
        self.departures.len()
    }

    /// Whether all its messages have departed.
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Lets `messages` more depart, as far as there are any left, and sends what the kernel takes.
    pub fn depart(
        &mut self,
        messages: usize,
        departure: Departure,
        carrier: &mut impl Carrier,
        payload: &Payload,
    ) -> Result<(), Complaint> {
        if self.departures.is_empty() {
            self.last_heard = departure.left;
        }
        let messages = messages.min(self.left);
        self.left -= messages;
        for _ in 0..messages {
            self.allowed += self.sizes.of(self.number, self.departed) as u64;
            self.departures.push_back((departure, self.allowed));
            self.departed += 1;
        }
        self.send(carrier, payload)
    }

    /// Sends what may be sent, until the kernel takes no more.
    pub fn send(&mut self, carrier: &mut impl Carrier, payload: &Payload) -> Result<(), Complaint> {
        self.blocked = false;
        while self.sent < self.allowed {
            let mut span = payload.span(self.number, self.sent);
            let most = usize::try_from(self.allowed - self.sent).unwrap_or(usize::MAX);
            span.end = span.end.min(span.start.saturating_add(most));
            match carrier.send(&self.socket, self.token, payload, span) {
                Ok(n) => self.sent += n as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(&error)),
            }
        }
        if self.half_closes && self.is_spent() { self.half_close(carrier) } else { Ok(()) }
    }

    /// Reads once, and compares what came with what was sent, where there is a `payload` to compare with.
    pub fn receive(
        &mut self,
        carrier: &mut impl Carrier,
        payload: Option<&Payload>,
    ) -> Result<Received, Complaint> {
        let bytes = match carrier.receive(&self.socket, self.token) {
            Ok([]) if self.received == self.allowed => return Ok(Received::End),
            // Who has heard our FIN owes what was sent before it; who has not may go between two answers.
            Ok([]) if self.received == self.begin && !self.is_half_closed => {
                return Err(self.closed_unanswered());
            }
            Ok([]) => return Err(self.short("the server closed")),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
            // Asked again at once: the edge that announced the bytes will not come again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return self.receive(carrier, payload);
            }
            Err(error) => return Err(self.lost(&error)),
        };
        let n = bytes.len();
        if self.received + n as u64 > self.sent {
            let more = self.received + n as u64 - self.sent;
            let at = self.place(self.sent);
            return Err(Complaint::new(
                Fault::Wrong,
                format!("{at}: {more} bytes came back that nobody sent"),
            ));
        }
        if let Some(payload) = payload {
            let checked = payload.check(self.number, self.received, bytes);
            checked.map_err(|mismatch| self.wrong(&mismatch))?;
        }
        self.received += n as u64;
        Ok(Received::Bytes(n))
    }

    /// The departure of the next message whose answer is complete, and its bytes, if there is one.
    pub fn next_answer(&mut self) -> Option<(Departure, u64)> {
        let (departure, end) = *self.departures.front().filter(|(_, end)| *end <= self.received)?;
        self.departures.pop_front();
        let bytes = end - self.begin;
        (self.begin, self.answered) = (end, self.answered + 1);
        Some((departure, bytes))
    }

    /// The departures of those whose answers are awaited.
    pub fn unanswered(&self) -> impl Iterator<Item = Departure> {
        self.departures.iter().map(|&(departure, _)| departure)
    }

    /// Where in this connection's stream `trace` stands, among the bytes that were on their way lately.
    pub fn find(&self, payload: &Payload, trace: &[u8]) -> Option<u64> {
        let longest = self.sizes.longest() as u64;
        let from = self.received.saturating_sub(2 * longest.min(SEARCHED));
        (from..self.sent.min(from + SEARCHED)).find(|&offset| payload.is_at(self.number, offset, trace))
    }

    /// No answer came in time.
    pub fn timed_out(&self) -> Complaint {
        if self.departures.is_empty() {
            return self.unclosed();
        }
        if self.received == self.begin {
            let at = self.place(self.received);
            return Complaint::new(Fault::Timeout, format!("{at}: no answer in time"));
        }
        self.short("nothing more came in time")
    }

    /// The server does not close.
    pub fn unclosed(&self) -> Complaint {
        let at = self.place(self.received);
        let what = format!("{at}: everything came back, but the server did not close after our FIN");
        Complaint::new(Fault::Unclosed, what)
    }

    /// Says that nothing more will be sent (FIN), once everything has been.
    pub fn half_close(&mut self, carrier: &mut impl Carrier) -> Result<(), Complaint> {
        if std::mem::replace(&mut self.is_half_closed, true) {
            return Ok(());
        }
        carrier.half_close(&self.socket, self.token).map_err(|error| self.lost(&error))
    }

    fn wrong(&self, mismatch: &Mismatch) -> Complaint {
        let Mismatch { offset, expected, got, trace } = *mismatch;
        let (at, bits) = (self.place(offset), (expected ^ got).count_ones());
        let what = format!("{at}: sent 0x{expected:02x}, got 0x{got:02x}, {bits} bit(s) changed");
        Complaint { fault: Fault::Wrong, what, trace }
    }

    fn closed_unanswered(&self) -> Complaint {
        let what = format!("{}: the server closed it without an answer", self.place(self.received));
        Complaint::new(Fault::Closed, what)
    }

    fn short(&self, why: &str) -> Complaint {
        let missing = self.allowed - self.received;
        let at = self.place(self.received);
        Complaint::new(Fault::Short, format!("{at}: {why}, and {missing} bytes did not come back"))
    }

    fn lost(&self, error: &io::Error) -> Complaint {
        Complaint::new(Fault::of_socket(error), format!("{}: {error}", self.place(self.received)))
    }

    fn place(&self, offset: u64) -> String {
        let complete = self.departures.iter().take_while(|(_, end)| *end <= offset).count();
        let message = self.answered + complete as u64;
        format!("connection {}, message {message}, byte {offset} of its stream", self.number)
    }
}
