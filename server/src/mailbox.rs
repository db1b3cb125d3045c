//! A mailbox: where the datagrams of one client wait for who answers them, in another process or in another thread.
//! One side puts envelopes in and never waits, the other takes them out, in their order.
//!
//! To another process it is a pair of sockets that keep the bounds of messages (SOCK_SEQPACKET, unix(7)), so that no
//! envelope is joined with another; the kernel holds what waits. To another thread it is memory that both share: who
//! takes gets all that wait at once, and only who sleeps is woken.
//!
//! All mailboxes together have a bound too ([`ALL`]). In memory each has an even share of it to itself, and may hold more
//! as long as all of them hold less than that; so together they hold twice as much at most, and nobody can take
//! another's share. What the kernel holds is bounded for each mailbox, by an even share among those that there are.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, sendmsg, setsockopt, shutdown,
        socketpair, sockopt::SndBuf,
    },
    unistd::close,
};

use crate::{config::Isolate, datagram::Envelope};

/// How many bytes may wait in a mailbox: as many as in a socket that a client had to itself (net.core.rmem_default); the
/// longest envelope always finds room in an empty one. Of a socket the kernel makes it twice as much, for what itself
/// needs beside each envelope (SO_SNDBUF, socket(7)).
const MOST: usize = 212_992;

/// How many bytes may wait in all mailboxes together. (The memory that they lie in is up to twice as much.)
const ALL: usize = 64 << 20;

/// Who waits for envelopes holds no more memory than this.
const LITTLE: usize = 8 << 10;

/// Where envelopes are put in. When it is dropped, who takes them finds the end after the last.
pub enum Sender {
    /// To another process.
    Socket(OwnedFd),
    /// To another thread.
    Memory(Arc<Memory>),
}

/// Where they are taken out.
pub enum Mailbox {
    /// Of another process.
    Socket {
        /// The socket.
        socket: OwnedFd,
        /// The envelope that was taken last.
        taken: Vec<u8>,
    },
    /// Of another thread.
    Memory {
        /// What both share.
        memory: Arc<Memory>,
        /// The envelopes that were taken last, one behind the other.
        taken: Vec<u8>,
        /// How many bytes of them were read.
        read: usize,
    },
}

/// Why an envelope was not put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrySendError {
    /// Too much waits there.
    Full,
    /// Nobody takes envelopes there any more.
    Disconnected,
}

/// What all mailboxes hold together.
#[derive(Clone)]
pub struct Mailboxes {
    /// How many bytes wait in memory, with those that were taken and are not answered yet.
    held: Arc<AtomicUsize>,
    /// How many of them each may hold in any case.
    each: usize,
}

impl Mailboxes {
    /// Of `most` mailboxes.
    pub fn new(most: usize) -> Self {
        Self { held: Arc::default(), each: (ALL / most.max(1)).min(MOST) }
    }

    /// A mailbox for somebody who is a thread or a process; beside it there are so many `others`.
    ///
    /// # Errors
    /// Where descriptors ran out (socketpair(2)).
    pub fn add(&self, isolate: Isolate, others: usize) -> io::Result<(Sender, Mailbox)> {
        mailbox(isolate, self, others)
    }
}

/// How many bytes each of so many mailboxes may hold that the kernel keeps: the longest envelope in any case.
fn share(mailboxes: usize) -> usize {
    // The kernel makes it twice as much.
    (ALL / mailboxes.max(1) / 2).clamp(Envelope::LONGEST.div_ceil(2) + KERNELS_OWN, MOST)
}

/// What the kernel itself needs beside an envelope, at most.
const KERNELS_OWN: usize = 4 << 10;

fn mailbox(isolate: Isolate, all: &Mailboxes, others: usize) -> io::Result<(Sender, Mailbox)> {
    match isolate {
        Isolate::Processes => {
            let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
            let (sender, socket) = socketpair(AddressFamily::Unix, kind, None, flags)?;
            let _ = setsockopt(&sender, SndBuf, &share(others + 1)); // else it is net.core.wmem_default
            Ok((Sender::Socket(sender), Mailbox::Socket { socket, taken: Vec::new() }))
        }
        Isolate::Threads => {
            let memory = Arc::new(Memory::of(all.clone()));
            Ok((Sender::Memory(Arc::clone(&memory)), Mailbox::Memory { memory, taken: Vec::new(), read: 0 }))
        }
    }
}

impl Sender {
    /// Puts an envelope in; does not wait for room.
    ///
    /// # Errors
    /// Where it was not put in.
    pub fn try_send(&self, envelope: &Envelope<'_>) -> Result<(), TrySendError> {
        match self {
            Self::Socket(socket) => {
                let parts = envelope.parts().map(io::IoSlice::new);
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                match sendmsg::<()>(socket.as_raw_fd(), &parts, &[], flags, None) {
                    Ok(_) => Ok(()),
                    // ECONNRESET: it went, and left envelopes behind.
                    Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {
                        Err(TrySendError::Disconnected)
                    }
                    Err(_) => Err(TrySendError::Full),
                }
            }
            Self::Memory(memory) => memory.try_send(envelope),
        }
    }

    /// From now on it is one of so many. What waits in it is not lost.
    pub fn is_one_of(&self, mailboxes: usize) {
        if let Self::Socket(socket) = self {
            let _ = setsockopt(socket, SndBuf, &share(mailboxes));
        }
    }

    /// A forked child closes its copy of a sender that is its parent's, and never drops it.
    pub fn close_here(&self) {
        if let Self::Socket(socket) = self {
            let _ = close(socket.as_raw_fd());
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        match self {
            // The end is there at once, also while a child that was just forked holds a copy.
            Self::Socket(socket) => drop(shutdown(socket.as_raw_fd(), Shutdown::Write)),
            Self::Memory(memory) => {
                memory.state().closed = true;
                memory.filled.notify_one();
            }
        }
    }
}

impl Mailbox {
    /// Waits for the next envelope; `None` when the sender was dropped and all were taken.
    pub fn receive(&mut self) -> Option<Envelope<'_>> {
        match self {
            Self::Socket { socket, taken } => {
                if taken.is_empty() {
                    *taken = vec![0; Envelope::LONGEST];
                }
                let length = loop {
                    match recv(socket.as_raw_fd(), taken, MsgFlags::empty()) {
                        Err(Errno::EINTR) => {}
                        received => break received.ok()?,
                    }
                };
                Envelope::read(&taken[..length]).map(|(envelope, _)| envelope)
            }
            Self::Memory { memory, taken, read } => {
                if *read == taken.len() {
                    *read = 0;
                    memory.take_all(taken);
                }
                let (envelope, rest) = Envelope::read(&taken[*read..])?;
                *read = taken.len() - rest.len();
                Some(envelope)
            }
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        if let Self::Memory { memory, taken, .. } = self {
            let mut state = memory.state();
            state.disconnected = true;
            let left = std::mem::take(&mut state.envelopes);
            memory.all.held.fetch_sub(left.len() + taken.len(), Relaxed);
        }
    }
}

/// Envelopes in memory, one behind the other.
pub struct Memory {
    state: Mutex<State>,
    filled: Condvar,
    all: Mailboxes,
}

#[derive(Default)]
struct State {
    envelopes: Vec<u8>,
    /// Whether somebody sleeps until there are envelopes; to wake nobody would cost each envelope a system call.
    awaited: bool,
    /// Nothing more will be put in.
    closed: bool,
    /// Nothing more will be taken out.
    disconnected: bool,
}

impl Memory {
    fn of(all: Mailboxes) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), all }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_send(&self, envelope: &Envelope<'_>) -> Result<(), TrySendError> {
        let mut state = self.state();
        if state.disconnected {
            return Err(TrySendError::Disconnected);
        }
        let parts = envelope.parts();
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let (mine, all) = (state.envelopes.len() + length, self.all.held.load(Relaxed) + length);
        if mine > self.all.each && (mine > MOST || all > ALL) {
            return Err(TrySendError::Full);
        }
        self.all.held.fetch_add(length, Relaxed);
        parts.iter().for_each(|part| state.envelopes.extend_from_slice(part));
        let awaited = std::mem::take(&mut state.awaited);
        drop(state);
        if awaited {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Waits for envelopes, and takes all that are there, in place of those that were `taken` before; none when the
    /// sender was dropped.
    fn take_all(&self, taken: &mut Vec<u8>) {
        self.all.held.fetch_sub(taken.len(), Relaxed);
        taken.clear();
        let mut state = self.state();
        while state.envelopes.is_empty() && !state.closed {
            for kept in [&mut *taken, &mut state.envelopes] {
                if kept.capacity() > LITTLE {
                    *kept = Vec::new();
                }
            }
            state.awaited = true;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(taken, &mut state.envelopes);
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    const BOTH: [Isolate; 2] = [Isolate::Processes, Isolate::Threads];

    fn bytes(envelope: Option<Envelope<'_>>) -> Option<Vec<u8>> {
        envelope.map(|envelope| envelope.parts()[1].to_vec())
    }

    #[test]
    fn envelopes_come_out_as_they_were_put_in_and_then_the_end() {
        for isolate in BOTH {
            let (sender, mut mailbox) = Mailboxes::new(1).add(isolate, 0).unwrap();
            for text in [&b"one"[..], b"", b"three", &[7; 65_507]] {
                sender.try_send(&Envelope::of(text)).unwrap();
                if text == b"three" {
                    assert_eq!(bytes(mailbox.receive()), Some(b"one".to_vec()));
                }
            }
            drop(sender);
            for text in [&b""[..], b"three", &[7; 65_507]] {
                assert_eq!(bytes(mailbox.receive()).as_deref(), Some(text));
            }
            assert_eq!(bytes(mailbox.receive()), None);
            assert_eq!(bytes(mailbox.receive()), None);
        }
    }

    #[test]
    fn a_full_mailbox_refuses_and_has_room_again_when_envelopes_were_taken() {
        for isolate in BOTH {
            let (sender, mut mailbox) = Mailboxes::new(1).add(isolate, 0).unwrap();
            let envelope = [1; 1000];
            let fit = (0..).take_while(|_| sender.try_send(&Envelope::of(&envelope)).is_ok()).count();
            assert!((20..=2 * MOST / 1000).contains(&fit), "{fit}");
            assert_eq!(sender.try_send(&Envelope::of(&[2; 65_507])), Err(TrySendError::Full));
            (0..fit).for_each(|_| assert!(mailbox.receive().is_some()));
            sender.try_send(&Envelope::of(&[2; 65_507])).unwrap();
        }
    }

    #[test]
    fn where_nobody_takes_envelopes_any_more_none_is_put_in() {
        for isolate in BOTH {
            for waits in [false, true] {
                let (sender, mailbox) = Mailboxes::new(1).add(isolate, 0).unwrap();
                if waits {
                    sender.try_send(&Envelope::of(b"left behind")).unwrap();
                }
                drop(mailbox);
                assert_eq!(sender.try_send(&Envelope::of(b"too late")), Err(TrySendError::Disconnected));
                assert_eq!(sender.try_send(&Envelope::of(b"too late")), Err(TrySendError::Disconnected));
            }
        }
    }

    #[test]
    fn who_waits_is_woken_by_each_envelope_and_by_the_end() {
        for isolate in BOTH {
            let (sender, mut mailbox) = Mailboxes::new(1).add(isolate, 0).unwrap();
            thread::scope(|scope| {
                let taker = scope.spawn(move || {
                    let mut texts = Vec::new();
                    while let Some(text) = bytes(mailbox.receive()) {
                        texts.push(u32::from_ne_bytes(text.try_into().unwrap()));
                    }
                    texts
                });
                for n in 0..1000u32 {
                    while sender.try_send(&Envelope::of(&n.to_ne_bytes())).is_err() {
                        thread::yield_now();
                    }
                    if n % 100 == 0 {
                        thread::sleep(Duration::from_millis(1)); // so that it sleeps now and then
                    }
                }
                drop(sender);
                assert!(taker.join().unwrap().into_iter().eq(0..1000));
            });
        }
    }

    #[test]
    fn all_mailboxes_together_have_a_bound_and_each_has_its_share_of_it() {
        let (all, said) = (Mailboxes::new(4097), [7; 1400]);
        let fill =
            |sender: &Sender| (0..).take_while(|_| sender.try_send(&Envelope::of(&said)).is_ok()).count();
        let mailboxes: Vec<_> = (0..4096).map(|n| all.add(Isolate::Threads, n).unwrap()).collect();
        let taken: Vec<usize> = mailboxes.iter().map(|(sender, _)| fill(sender)).collect();
        let held = || all.held.load(Relaxed);
        assert!((ALL..=2 * ALL).contains(&held()), "{}", held());
        assert!(taken.iter().all(|&n| n >= 10), "the last got {:?}", taken.last());
        let (sender, mut mailbox) = all.add(Isolate::Threads, 4096).unwrap();
        sender.try_send(&Envelope::of(&said)).unwrap();
        assert_eq!(sender.try_send(&Envelope::of(&[7; 65_507])), Err(TrySendError::Full));
        drop(mailboxes);
        sender.try_send(&Envelope::of(&[7; 65_507])).unwrap();
        assert_eq!(bytes(mailbox.receive()).as_deref(), Some(&said[..]));
        drop((sender, mailbox));
        assert_eq!(held(), 0, "what was never taken is free again");
    }

    #[test]
    fn the_share_of_a_mailbox_that_the_kernel_keeps_has_room_for_the_longest() {
        for others in [0, 100, 1000, 1 << 20] {
            let (sender, _mailbox) = Mailboxes::new(1).add(Isolate::Processes, others).unwrap();
            for mailboxes in [1, 500, 1 << 20] {
                sender.is_one_of(mailboxes);
            }
            sender.try_send(&Envelope::of(&[7; 65_507])).unwrap();
        }
        assert!(1024 * 2 * share(1024) <= ALL + ALL / 4, "{}", share(1024));
    }
}
