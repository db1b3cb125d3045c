//! A client of datagrams, whose server may do anything and whose network may lose them: nothing is waited for for ever,
//! and what is not answered is asked again before it is called lost.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags},
    sys::socket::{setsockopt, sockopt::UdpGsoSegment},
};
use socket2::{Domain, Socket, Type};

use super::{
    exam::{Exam, Stop},
    words::words,
};

/// For how long an answer is waited for, on a machine that is not slow.
pub const PATIENCE: Duration = Duration::from_millis(400);

/// How often something is asked before it is called lost.
const TRIES: u32 = 5;

/// Room for the longest datagram.
const ROOM: usize = 1 << 16;

/// A client of datagrams. It hears whoever sends to it, since a server that answers from another address has a check
/// of its own. Dropping it closes its socket.
pub struct Peer<'e> {
    exam: &'e Exam<'e>,
    socket: UdpSocket,
    server: SocketAddr,
}

/// A datagram that came.
pub struct Heard {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Where it was sent from.
    pub from: SocketAddr,
}

impl<'e> Peer<'e> {
    /// A client of that server, at a port of its own.
    ///
    /// # Errors
    /// [`Stop::Harness`] where this machine has no socket for it.
    pub fn of(exam: &'e Exam<'e>, server: SocketAddr) -> Result<Self, Stop> {
        let here = (everywhere(server), 0).into();
        Self::at(exam, here, server).map_err(Stop::harness("a socket for datagrams"))
    }

    /// The same at an address and port that are told. Also a port that somebody has who lets others in (SO_REUSEADDR,
    /// SO_REUSEPORT: socket(7)) at an address that is not his.
    ///
    /// # Errors
    /// Those of bind(2): somebody has that port, or it is not for everybody.
    pub fn at(exam: &'e Exam<'e>, here: SocketAddr, server: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, None)?;
        if here.port() != 0 {
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
        }
        socket.bind(&here.into())?;
        socket.set_nonblocking(true)?;
        Ok(Self { exam, socket: socket.into(), server })
    }

    /// Sends a datagram. What the kernel does not take is lost, like what the network loses.
    ///
    /// # Errors
    /// [`Stop::Harness`] where there is no way to the server.
    pub fn say(&self, datagram: &[u8]) -> Result<(), Stop> {
        use io::ErrorKind::{HostUnreachable, NetworkUnreachable, PermissionDenied};
        match self.socket.send_to(datagram, self.server) {
            Err(error) if matches!(error.kind(), HostUnreachable | NetworkUnreachable | PermissionDenied) => {
                Err(Stop::Harness(format!("send to {}: {error}", self.server)))
            }
            _ => Ok(()),
        }
    }

    /// Sends datagrams of one length as one piece, which the kernel cuts (UDP_SEGMENT, udp(7)), if it can.
    ///
    /// # Errors
    /// As [`Peer::say`].
    pub fn say_in_one_piece(&self, datagrams: &[u8], each: usize) -> Result<(), Stop> {
        let cut = i32::try_from(each).unwrap_or(i32::MAX);
        if setsockopt(&self.socket, UdpGsoSegment, &cut).is_err() {
            return datagrams.chunks(each).try_for_each(|datagram| self.say(datagram));
        }
        let said = self.say(datagrams);
        let _ = setsockopt(&self.socket, UdpGsoSegment, &0);
        said
    }

    /// Hears the next datagram, whoever sent it; `None` where none comes in time.
    ///
    /// # Errors
    /// [`Stop::Harness`].
    pub fn hear(&self, patience: Duration) -> Result<Option<Heard>, Stop> {
        Ok(hear_any(self.exam, [self], patience)?.map(|(_, heard)| heard))
    }

    /// Asks, several times if need be, and hears the first that comes; `None` where nothing does.
    ///
    /// # Errors
    /// As [`Peer::say`].
    pub fn ask(&self, datagram: &[u8]) -> Result<Option<Heard>, Stop> {
        for _ in 0..TRIES {
            self.say(datagram)?;
            if let Some(heard) = self.hear(PATIENCE)? {
                return Ok(Some(heard));
            }
        }
        Ok(None)
    }

    /// Asks, several times if need be, and hears the same. What comes beside it is not looked at: that a server is there
    /// at all is all that this says.
    ///
    /// # Errors
    /// [`Stop::Late`] where it never comes.
    pub fn echo(&self, datagram: &[u8]) -> Result<(), Stop> {
        let (length, mut others) = (datagram.len(), 0);
        for _ in 0..TRIES {
            self.say(datagram)?;
            let deadline = self.exam.until(PATIENCE);
            while let Some(heard) = self.hear(PATIENCE)? {
                if heard.bytes == datagram {
                    return Ok(());
                }
                others += 1;
                if Instant::now() > deadline {
                    break;
                }
            }
        }
        self.exam.saw("datagrams_sent", TRIES);
        self.exam.saw("other_datagrams_received", others);
        let patience = self.exam.scaled(PATIENCE);
        Err(Stop::Late(words!(
            "a datagram of {length} bytes, sent {TRIES} times, did not come back, each time within {patience:.1?}",
            "一个 {length} 字节的数据报发送了 {TRIES} 次，每次等待 {patience:.1?}，都没有返回"
        )))
    }
}

/// Every address of this machine, of the family of `server`.
fn everywhere(server: SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Whether nobody has that port at that address: the kernel tells a connected socket so (ECONNREFUSED, udp(7)), on one
/// machine before send(2) returns.
///
/// # Errors
/// [`Stop::Harness`].
pub fn is_refused(server: SocketAddr) -> Result<bool, Stop> {
    let socket = UdpSocket::bind((everywhere(server), 0))
        .and_then(|socket| socket.connect(server).map(|()| socket))
        .map_err(Stop::harness("a connected socket for datagrams"))?;
    let _ = socket.send(b"is anybody there?\n");
    Ok(socket.take_error().ok().flatten().is_some())
}

/// The next datagram that comes to any of them, and to which; `None` where none comes in time.
///
/// # Errors
/// [`Stop::Harness`].
pub fn hear_any<'p, 'e: 'p>(
    exam: &Exam<'_>,
    peers: impl IntoIterator<Item = &'p Peer<'e>>,
    patience: Duration,
) -> Result<Option<(usize, Heard)>, Stop> {
    let peers: Vec<&Peer<'_>> = peers.into_iter().collect();
    let deadline = exam.until(patience);
    let mut buffer = vec![0; ROOM];
    loop {
        let mut asked: Vec<_> =
            peers.iter().map(|peer| PollFd::new(peer.socket.as_fd(), PollFlags::POLLIN)).collect();
        if !exam.ready_by(&mut asked, deadline)? {
            return Ok(None);
        }
        let ready: Vec<usize> = (0..peers.len()).filter(|&n| asked[n].any().unwrap_or(false)).collect();
        for n in ready {
            // An error of the socket's is a datagram that was lost (udp(7)); reading it takes it away.
            if let Ok((length, from)) = peers[n].socket.recv_from(&mut buffer)
                && exam.may_be_of(peers[n].server, from)
            {
                return Ok(Some((n, Heard { bytes: buffer[..length].to_vec(), from })));
            }
        }
    }
}
