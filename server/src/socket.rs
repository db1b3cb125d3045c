//! Listeners and their options. socket2 lives here.

use std::{
    io,
    net::{self, SocketAddr, TcpListener},
    os::fd::AsFd,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// What can be chosen about the sockets of a server; the same for every model.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// How many connections the accept queue holds (listen(2)).
    pub backlog: i32,
    /// TCP_NODELAY: answers leave at once (tcp(7)).
    pub nodelay: bool,
}

/// A bound and listening TCP socket; port 0 becomes a free one.
///
/// TCP_NODELAY is set on the listener: on Linux an accepted socket inherits it, which saves a system call
/// a connection. SO_REUSEADDR lets a server start again beside the TIME_WAIT of its last run (socket(7)).
///
/// # Errors
/// What socket(2), bind(2) and listen(2) report, `EADDRINUSE` above all.
pub fn listen(address: SocketAddr, options: SocketOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // The system's default differs between systems; [::] is for both families here.
        socket.set_only_v6(false)?;
    }
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// Ends listening for everyone who holds the socket: who is blocked in accept(2) on it gets `EINVAL`, and
/// new clients are refused. What is still in the accept queue is reset, so it should be empty.
pub fn stop_listening(listener: &impl AsFd) {
    let _ = SockRef::from(listener).shutdown(net::Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_accepted_socket_inherits_nodelay_from_its_listener() {
        for nodelay in [true, false] {
            let options = SocketOptions { backlog: 8, nodelay };
            let listener = listen("127.0.0.1:0".parse().unwrap(), options).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!(listener.accept().unwrap().0.nodelay().unwrap(), nodelay);
        }
    }

    #[test]
    fn a_listener_that_stopped_refuses_and_wakes_who_waits() {
        let options = SocketOptions { backlog: 8, nodelay: true };
        let listener = listen("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| listener.accept());
            while !waiting.is_finished() {
                stop_listening(&listener);
                std::thread::yield_now();
            }
            let error = waiting.join().unwrap().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(nix::libc::EINVAL));
        });
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
