//! What carries a thread's bytes where the kernel is asked to do things and says when they are done: io_uring.
//!
//! All that a turn asks for is handed over together with the wait for what comes of it, in one system call. For a
//! connection one receive is under way at a time, into a buffer that the kernel takes when something has come, and
//! one send, from where the payload lies. A receive that is done is asked for anew when what it brought is handled:
//! so nothing is under way for a connection that has had its last answer, and it is closed at once.
//!
//! See also: io_uring_prep_recv(3), io_uring_prep_send(3), `MSG_WAITALL` in io_uring_enter(2).

use std::{
    io, mem,
    net::Shutdown,
    ops::Range,
    os::fd::{AsRawFd, RawFd},
    ptr,
    sync::Arc,
    thread,
    time::Duration,
};

use io_uring::{cqueue, opcode, squeue, types::Fd};
use mio::Interest;
use nix::libc;
use socket2::Socket;
use uring::{EVENTS, GROUP, MOST, Piece, Uring, refusal};

use super::{
    carrier::{Carrier, Event},
    pace::Sleep,
    payload::Payload,
};

/// How much one receive brings.
const BUFFER: usize = 64 * 1024;

/// How many bytes a socket surely takes at once that has none to send yet: a packet is taken whatever its room is.
const AT_ONCE: u32 = 1024;

/// An io_uring, and what is under way for each connection.
pub struct Ring {
    uring: Uring,
    payload: Arc<Payload>,
    /// By token.
    ports: Vec<Port>,
    /// What was received last: its buffer is given back when the next piece is asked for.
    held: Option<Piece>,
}

/// What is under way for one connection.
#[derive(Default)]
struct Port {
    fd: RawFd,
    /// How many connections its place has had: a completion that comes late is none of the next one's.
    turn: u16,
    receiving: bool,
    polling: bool,
    /// How many bytes are being sent, of which a completion will tell.
    sending: usize,
    /// How many bytes of what was sent have not come back.
    unanswered: usize,
    /// Whether it is to be told when the send is done.
    is_blocked: bool,
    /// Whether our FIN is to follow it.
    is_to_end: bool,
    /// What the last receive brought: nothing is the end of file.
    came: Option<io::Result<Option<Piece>>>,
    /// How a send failed.
    failed: Option<io::Error>,
}

impl Port {
    /// Whether a request may not have ended, or not have been handed over: also one that no completion tells of.
    fn is_under_way(&self) -> bool {
        self.receiving || self.polling || self.sending > 0 || self.unanswered > 0
    }
}

impl Ring {
    /// A ring that sends from this payload. It is the calling thread's.
    ///
    /// # Errors
    /// A sentence for the user, of the kind `Unsupported`: where the kernel refuses the ring, memory, or to be entered
    /// (io_uring_enter(2)), which a filter may do that lets it be made.
    pub fn new(payload: Arc<Payload>) -> io::Result<Self> {
        let entered = Uring::new(BUFFER, MOST).and_then(|mut uring| {
            uring.wait(Some(Duration::ZERO))?;
            Ok(uring)
        });
        let uring =
            entered.map_err(|error| io::Error::new(io::ErrorKind::Unsupported, unsupported(error)))?;
        Ok(Self { uring, payload, ports: Vec::new(), held: None })
    }

    /// The kernel takes nothing more: so every connection fails.
    fn fail(&mut self, error: &io::Error, events: &mut Vec<Event>) {
        for (token, port) in self.ports.iter_mut().enumerate() {
            port.failed = Some(io::Error::other(format!("io_uring_enter: {error}")));
            events.push(Event { token, is_writable: false, is_readable: true, is_last: false });
        }
        thread::sleep(Duration::from_millis(1)); // whoever waits again and again does not take the processor
    }

    fn port(&mut self, token: usize) -> &mut Port {
        if self.ports.len() <= token {
            self.ports.resize_with(token + 1, Port::default);
        }
        &mut self.ports[token]
    }

    fn ask(&mut self, op: Op, token: usize, entry: squeue::Entry) -> io::Result<()> {
        ask(&mut self.uring, entry, Tag { op, turn: self.ports[token].turn, token })
    }

    fn ask_to_receive(&mut self, token: usize) -> io::Result<()> {
        if mem::replace(&mut self.ports[token].receiving, true) {
            return Ok(());
        }
        let receive = opcode::Recv::new(Fd(self.ports[token].fd), ptr::null_mut(), 0).buf_group(GROUP);
        self.ask(Op::Receive, token, receive.build().flags(squeue::Flags::BUFFER_SELECT))
    }

    fn ask_for_the_end(&mut self, token: usize) -> io::Result<()> {
        let end = opcode::Shutdown::new(Fd(self.ports[token].fd), libc::SHUT_WR).build();
        self.ask(Op::Other, token, end.flags(squeue::Flags::SKIP_SUCCESS))
    }

    /// Takes note of what is done.
    ///
    /// # Errors
    /// Where the kernel does not take what has to be asked for because of it.
    fn settle(&mut self, done: &cqueue::Entry) -> io::Result<Option<Event>> {
        let Tag { op, turn, token } = Tag::from(done.user_data());
        let result = match done.result() {
            n @ 0.. => Ok(n.unsigned_abs() as usize),
            n => Err(io::Error::from_raw_os_error(-n)),
        };
        let filled = result.as_ref().map_or(0, |n| *n);
        let piece = cqueue::buffer_select(done.flags()).map(|n| self.uring.buffers.taken(n, filled));
        let piece = match piece {
            Some(empty) if filled == 0 => {
                self.uring.buffers.recycle(empty);
                None
            }
            piece => piece,
        };
        let Some(port) = self.ports.get_mut(token).filter(|port| port.turn == turn) else {
            piece.into_iter().for_each(|piece| self.uring.buffers.recycle(piece));
            return Ok(None); // it was an earlier connection's
        };
        let event = Event { token, is_writable: false, is_readable: false, is_last: false };
        Ok(match op {
            Op::Receive => {
                port.receiving = false;
                if done.result() == -libc::ENOBUFS {
                    self.uring.buffers.grow();
                    self.ask_to_receive(token)?;
                    return Ok(None);
                }
                port.unanswered = port.unanswered.saturating_sub(filled);
                port.came = Some(result.map(|_| piece));
                Some(Event { is_readable: true, ..event })
            }
            Op::Send => {
                let asked = mem::take(&mut port.sending);
                let is_blocked = mem::take(&mut port.is_blocked);
                let is_to_end = mem::take(&mut port.is_to_end);
                let sent = result.and_then(|n| match n == asked {
                    true => Ok(()),
                    false => Err(io::ErrorKind::BrokenPipe.into()), // what failed is told once, and was not to us
                });
                if let Err(error) = sent {
                    port.failed = Some(error);
                    return Ok(Some(Event { is_readable: true, ..event }));
                }
                if is_to_end {
                    self.ask_for_the_end(token)?;
                }
                is_blocked.then_some(Event { is_writable: true, ..event })
            }
            Op::Poll => {
                port.polling = false;
                Some(Event { is_writable: true, ..event })
            }
            Op::Other => None,
        })
    }
}

impl Carrier for Ring {
    fn watch(&mut self, socket: &Socket, token: usize, interest: Interest, _: bool) -> io::Result<()> {
        let port = self.port(token);
        port.fd = socket.as_raw_fd();
        if interest.is_readable() {
            return self.ask_to_receive(token);
        }
        if mem::replace(&mut port.polling, true) {
            return Ok(());
        }
        let poll = opcode::PollAdd::new(Fd(port.fd), libc::POLLOUT as u32).build();
        self.ask(Op::Poll, token, poll)
    }

    fn wait(&mut self, sleep: Sleep, events: &mut Vec<Event>) {
        let (Sleep::About(most) | Sleep::Until(_, most)) = sleep;
        if let Err(error) = self.uring.wait(Some(most)) {
            return self.fail(&error, events);
        }
        for _ in 0..EVENTS {
            let Some(done) = self.uring.done() else { break };
            match self.settle(&done) {
                Ok(event) => events.extend(event),
                Err(error) => return self.fail(&error, events),
            }
        }
    }

    fn send(&mut self, _: &Socket, token: usize, payload: &Payload, span: Range<usize>) -> io::Result<usize> {
        assert!(ptr::eq(payload, &*self.payload), "it sends from its own payload");
        let port = &mut self.ports[token];
        if let Some(error) = port.failed.take() {
            return Err(error);
        }
        if port.sending > 0 {
            port.is_blocked = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = self.payload.bytes(span);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let is_told = port.unanswered > 0 || length > AT_ONCE;
        port.unanswered += length as usize;
        let send = opcode::Send::new(Fd(port.fd), bytes.as_ptr(), length);
        let mut send = send.flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL).build();
        if is_told {
            port.sending = length as usize;
        } else {
            send = send.flags(squeue::Flags::SKIP_SUCCESS);
        }
        self.ask(Op::Send, token, send)?;
        Ok(length as usize)
    }

    fn receive(&mut self, _: &Socket, token: usize) -> io::Result<&[u8]> {
        self.held.take().into_iter().for_each(|piece| self.uring.buffers.recycle(piece));
        let port = &mut self.ports[token];
        match port.came.take() {
            Some(Ok(Some(piece))) => Ok(self.uring.buffers.bytes(self.held.insert(piece))),
            Some(Ok(None)) => Ok(&[]),
            Some(Err(error)) => Err(error),
            None => {
                if let Some(error) = port.failed.take() {
                    return Err(error);
                }
                self.ask_to_receive(token)?;
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    /// It is asked for anew, whatever it was.
    fn is_more(&self, _: usize) -> bool {
        true
    }

    fn half_close(&mut self, socket: &Socket, token: usize) -> io::Result<()> {
        let port = &mut self.ports[token];
        if port.sending > 0 {
            port.is_to_end = true;
            return Ok(());
        }
        if port.unanswered > 0 {
            self.uring.submit()?; // what no completion tells of leaves before our FIN
        }
        socket.shutdown(Shutdown::Write)
    }

    /// What is under way for it is handed over before its descriptor becomes another's, and ended: it would keep
    /// the connection open.
    fn close(&mut self, socket: Socket, token: usize) {
        let port = self.port(token);
        let (turn, is_under_way) = (port.turn, port.is_under_way());
        let next = Port { turn: turn.wrapping_add(1), ..Port::default() };
        if let Some(Ok(Some(piece))) = mem::replace(port, next).came {
            self.uring.buffers.recycle(piece);
        }
        if is_under_way {
            for op in [Op::Receive, Op::Send, Op::Poll] {
                let cancel = opcode::AsyncCancel::new(Tag { op, turn, token }.into()).build();
                let _ = self.ask(Op::Other, token, cancel);
            }
            let _ = self.uring.submit();
        }
        drop(socket);
    }
}

/// Why there is no ring, for the user.
fn unsupported(error: io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => "a ring for each thread is more memory than may be locked (ulimit -l)".into(),
        _ => refusal(error),
    }
}

#[allow(unsafe_code)]
fn ask(uring: &mut Uring, entry: squeue::Entry, tag: Tag) -> io::Result<()> {
    // SAFETY: the entry points to nothing, or to bytes of the payload, which the ring of the only caller holds, and
    // nobody writes to; they are dropped after the ring's own memory, which ends what is under way.
    unsafe { uring.ask(entry.user_data(tag.into())) }
}

/// Whose completion it is: the user data of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    op: Op,
    turn: u16,
    token: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Receive,
    Send,
    Poll,
    /// Nobody waits for it.
    Other,
}

impl From<Tag> for u64 {
    /// 8 bits, 16 bits, 40 bits.
    fn from(Tag { op, turn, token }: Tag) -> Self {
        (op as Self) << 56 | Self::from(turn) << 40 | token as Self
    }
}

impl From<u64> for Tag {
    fn from(data: u64) -> Self {
        let op = match data >> 56 {
            0 => Op::Receive,
            1 => Op::Send,
            2 => Op::Poll,
            _ => Op::Other,
        };
        Self { op, turn: (data >> 40) as u16, token: (data & ((1 << 40) - 1)) as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_again_by_its_user_data() {
        for op in [Op::Receive, Op::Send, Op::Poll, Op::Other] {
            for tag in [Tag { op, turn: u16::MAX, token: 7 }, Tag { op, turn: 0, token: (1 << 40) - 1 }] {
                assert_eq!(Tag::from(u64::from(tag)), tag);
            }
        }
    }
}
