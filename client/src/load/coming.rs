//! A connection that is being opened.

use std::{io, time::Instant};

use mio::Interest;
use nix::libc;
use socket2::Socket;

use super::{Plan, carrier::Carrier, socket::destination};

/// A connection that is being opened, for a place that had so many answers before.
pub struct Coming {
    /// Its number in the run.
    pub number: usize,
    /// Its socket.
    pub socket: Socket,
    /// When connect(2) was called first.
    pub begun: Instant,
    /// The answers that its place had so far.
    pub answers: u64,
    /// Whether the accept queue of a Unix-domain server was full, and nobody says when it is not (EAGAIN).
    is_to_knock_again: bool,
    /// Whether it is watched.
    pub is_watched: bool,
}

impl Coming {
    /// Begins to open connection `number`.
    ///
    /// # Errors
    /// Where the system refuses the socket, its address or the connection at once.
    pub fn begin(plan: &Plan, number: usize, answers: u64) -> io::Result<Self> {
        let socket = plan.socket.socket(&plan.endpoint, number)?;
        let begun = Instant::now();
        let mut coming = Self { number, socket, begun, answers, is_to_knock_again: false, is_watched: false };
        coming.knock(plan)?;
        Ok(coming)
    }

    fn knock(&mut self, plan: &Plan) -> io::Result<()> {
        let knocked = self.socket.connect(&destination(&plan.endpoint)?);
        let why = knocked.as_ref().err().and_then(io::Error::raw_os_error);
        self.is_to_knock_again = why == Some(libc::EAGAIN);
        if self.is_to_knock_again || why == Some(libc::EINPROGRESS) { Ok(()) } else { knocked }
    }

    /// Whether it is up; not yet, or how it failed.
    ///
    /// # Errors
    /// Why it will not come up.
    pub fn outcome(&mut self, plan: &Plan) -> io::Result<bool> {
        if self.is_to_knock_again {
            self.knock(plan)?;
        }
        let peer = match self.socket.peer_addr() {
            Ok(peer) => peer,
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                return self.socket.take_error()?.map_or(Ok(false), Err);
            }
            Err(error) => return Err(error),
        };
        // On loopback a socket may meet itself, when the port lies in the ephemeral range.
        if peer.as_socket().is_some() && self.socket.local_addr()?.as_socket() == peer.as_socket() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(true)
    }

    /// Has it watched for this; not where it is asked again and again, and what is watched is no news.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn watch(&mut self, carrier: &mut impl Carrier, token: usize, interest: Interest) -> io::Result<()> {
        if self.is_to_knock_again {
            return Ok(());
        }
        carrier.watch(&self.socket, token, interest, std::mem::replace(&mut self.is_watched, true))
    }
}
