//! What carries the bytes of a thread's connections to the kernel and back.

use std::{io, ops::Range};

use mio::Interest;
use socket2::Socket;

use super::{pace::Sleep, payload::Payload};

/// What has happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose it is.
    pub token: usize,
    /// It is connected, or there is room again for what is sent.
    pub is_writable: bool,
    /// Bytes have come, or an end of file, or an error.
    pub is_readable: bool,
    /// Whether an end of file may be behind the bytes, and no event of its own.
    pub is_last: bool,
}

/// What carries the bytes of a thread's connections. It answers as sockets do that do not block.
pub trait Carrier {
    /// Watches a socket, which it may have `known` before: tells once when it is writable, or again and again when
    /// something has come, also what is there already.
    ///
    /// # Errors
    /// Where the system refuses.
    fn watch(&mut self, socket: &Socket, token: usize, interest: Interest, known: bool) -> io::Result<()>;

    /// Waits until something happens, or for so long. What has happened is put into `events`, which are empty. A
    /// signal may end it.
    fn wait(&mut self, sleep: Sleep, events: &mut Vec<Event>);

    /// Sends so much of a payload; returns how many bytes of it were taken charge of.
    ///
    /// # Errors
    /// Where the socket fails; `WouldBlock` where it takes nothing now.
    fn send(
        &mut self,
        socket: &Socket,
        token: usize,
        payload: &Payload,
        span: Range<usize>,
    ) -> io::Result<usize>;

    /// What has come, in pieces; nothing is the end of file.
    ///
    /// # Errors
    /// Where the socket has failed; `WouldBlock` where nothing more is there.
    fn receive(&mut self, socket: &Socket, token: usize) -> io::Result<&[u8]>;

    /// Whether a piece of so many bytes may have left some behind.
    fn is_more(&self, bytes: usize) -> bool;

    /// Says that nothing more will be sent (FIN), when all has been that was taken charge of.
    ///
    /// # Errors
    /// Where the socket fails.
    fn half_close(&mut self, socket: &Socket, token: usize) -> io::Result<()>;

    /// Closes a socket, whatever is still under way for it.
    fn close(&mut self, socket: Socket, token: usize);
}
