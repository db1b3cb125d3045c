//! Whether a client gets in: when many come at once, and whichever address it knows; and whether answers come as fast as
//! the machine allows.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use arguments::Transport;
use nix::poll::{PollFd, PollFlags};
use socket2::{Domain, Socket, Type};

use super::{
    Check, Needs, calibration,
    client::Client,
    exam::{Exam, Examined, Stop},
    explanation,
    words::{Words, words},
};
use crate::listener;

/// The queue of those who have connected is tiny.
pub static BACKLOG: Check = Check {
    id: "backlog",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 2.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("200 clients at once wait for nobody", "200 个客户端同时连接也无需等待"),
    done: Words::of("began 200 connections at once", "同时发起 200 个连接"),
    hint: Words::of(
        "listen(fd, SOMAXCONN): a SYN that finds the queue full is dropped, and sent again after a second",
        "listen(fd, SOMAXCONN)：队列已满时 SYN 会被丢弃，一秒之后才重发",
    ),
    explanation: explanation!("backlog"),
    look: backlog,
};

/// How many come at once.
const CROWD: usize = 200;
/// A SYN is sent again after a second (RFC 6298, 2.1): the kernel's time, which no slow machine stretches. Who is not
/// in by now waits for that.
const NEARLY_A_SECOND: Duration = Duration::from_millis(800);
/// A queue as long as this is not tiny: libraries choose 100 and 128.
const DECENT: u32 = 100;
/// What is in no queue of [`DECENT`], where nobody was let in meanwhile, of [`CROWD`].
const MOST_WAITING: usize = CROWD - DECENT as usize;

fn backlog(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let address = server.address(exam.transport())?;
    let crowd: Vec<Socket> = (0..CROWD).map(|_| begin(address)).collect::<Result<_, _>>()?;
    let waiting = waiting(exam, &crowd, Instant::now() + NEARLY_A_SECOND)?;
    drop(crowd);
    exam.saw("clients_waiting", waiting);
    if waiting == 0 {
        return Ok(Words::of("200 clients got in at once", "200 个客户端都立即建立了连接"));
    }
    let queue = address.ip().is_loopback().then(|| listener::queue(address.port())).flatten();
    if let Some(length) = queue {
        exam.saw("queue_length", length);
    }
    let many_waited = words!(
        "{waiting} of 200 clients that came at once had to wait for a second",
        "同时到来的 200 个客户端中有 {waiting} 个要等一秒钟"
    );
    match queue {
        Some(length) if length >= DECENT => Ok(words!(
            "the queue holds {length}; this machine was busy",
            "队列长度为 {length}；这台机器当时较忙"
        )
        .and(&many_waited)),
        Some(length) => {
            Err(Stop::Late(words!("the queue holds {length}", "队列长度为 {length}").and(&many_waited)))
        }
        None if waiting > MOST_WAITING => Err(Stop::Late(many_waited)),
        None => Err(Stop::Doubt(many_waited)),
    }
}

/// Begins to connect, and does not wait.
fn begin(address: SocketAddr) -> Result<Socket, Stop> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)
        .map_err(Stop::harness("a socket for a client"))?;
    socket.set_nonblocking(true).map_err(Stop::harness("a client's socket"))?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(refused(&error)),
        _ => Ok(socket),
    }
}

/// How many have not been let in when it is time.
fn waiting(exam: &Exam<'_>, crowd: &[Socket], deadline: Instant) -> Result<usize, Stop> {
    let mut outside: Vec<&Socket> = crowd.iter().collect();
    while !outside.is_empty() {
        let mut asked: Vec<PollFd<'_>> =
            outside.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLOUT)).collect();
        if !exam.ready_by(&mut asked, deadline)? {
            break;
        }
        let is_in: Vec<bool> = asked.iter().map(|asked| asked.any().unwrap_or(false)).collect();
        for socket in outside.iter().zip(&is_in).filter_map(|(socket, is_in)| is_in.then_some(socket)) {
            if let Ok(Some(error)) = socket.take_error() {
                return Err(refused(&error));
            }
        }
        let mut is_in = is_in.into_iter();
        outside.retain(|_| !is_in.next().unwrap_or(false));
    }
    Ok(outside.len())
}

/// What the server's end says is the server's doing; that this machine has no port left, say, is not.
fn refused(error: &io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
            Stop::Fault(words!("a connection failed: {error}", "连接失败：{error}"))
        }
        _ => Stop::Harness(format!("connect: {error}")),
    }
}

/// Small answers wait for an acknowledgement.
pub static NAGLE: Check = Check {
    id: "nagle",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 1.0,
    is_quick: false,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("small answers do not wait 40 ms", "小的应答不会停顿 40 毫秒"),
    done: Words::of(
        "sent two short lines in two writes and read both, again and again on one connection",
        "在同一个连接上反复用两次 write 发送两个短行，再读取二者",
    ),
    hint: Words::of(
        "an answer in two writes waits for the delayed acknowledgement of the first: write once, or set TCP_NODELAY",
        "分两次写出的应答会等待前一次的延迟确认：合并成一次写出，或设置 TCP_NODELAY",
    ),
    explanation: explanation!("nagle"),
    look: nagle,
};

/// How many round trips are not counted: a young connection is acknowledged at once (tcp(7), TCP_QUICKACK).
const YOUNG: usize = 16;
/// How many are.
const COUNTED: usize = 15;
/// Just below the shortest delay of an acknowledgement, 40 ms.
const STALL: Duration = Duration::from_millis(35);
/// A round trip that takes so long without any delay says that the machine is too slow to see one.
const SLOW: Duration = Duration::from_millis(10);

fn nagle(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let mut client = exam.client(&server)?;
    let mut taken = Vec::with_capacity(YOUNG + COUNTED);
    for _ in 0..YOUNG + COUNTED {
        let began = Instant::now();
        client
            .send(b"one\n")
            .and_then(|()| client.send(b"two\n"))
            .and_then(|()| client.hear(b"one\ntwo\n"))
            .map_err(Stop::other("segments"))?;
        taken.push(began.elapsed());
    }
    client.leave();
    let counted = &mut taken[YOUNG..];
    counted.sort_unstable();
    let median = counted[COUNTED / 2];
    exam.saw("p50_ms", (median.as_secs_f64() * 1e5).round() / 100.0);
    if median < STALL {
        return Ok(words!(
            "half of the answers came within {median:.1?}",
            "一半的应答在 {median:.1?} 内返回"
        ));
    }
    let usual = calibration::round_trip().map_err(Stop::harness("an echo of our own"))?;
    exam.saw("usual_round_trip_ms", (usual.as_secs_f64() * 1e5).round() / 100.0);
    if usual > SLOW {
        return Err(Stop::Skip(words!(
            "this machine is too busy: any round trip takes {usual:.1?}",
            "这台机器太忙：任何一次往返都需要 {usual:.1?}"
        )));
    }
    Err(Stop::Doubt(words!(
        "half of the answers took {median:.1?} or more, where a round trip takes {usual:.1?}",
        "一半的应答用了 {median:.1?} 或更久，而一次往返只需 {usual:.1?}"
    )))
}

/// One of the two addresses of this machine is forgotten.
pub static DUAL_STACK: Check = Check {
    id: "dual-stack",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 1.0,
    is_quick: false,
    is_iteratives: false,
    limit: Duration::from_secs(15),
    title: Words::of("127.0.0.1 and ::1 are both served", "127.0.0.1 和 ::1 都得到服务"),
    done: Words::of("sent a line to 127.0.0.1, and one to ::1", "分别向 127.0.0.1 和 ::1 发送一行"),
    hint: Words::of(
        "a socket on :: without IPV6_V6ONLY takes both; an address may be a sockaddr_in6: use sockaddr_storage",
        "绑定 :: 且不设 IPV6_V6ONLY 的套接字接受两者；地址可能是 sockaddr_in6：使用 sockaddr_storage",
    ),
    explanation: explanation!("dual-stack"),
    look: dual_stack,
};

fn dual_stack(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let told = server.addresses(exam.transport());
    let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let are_told = told.iter().any(SocketAddr::is_ipv4) && told.iter().any(SocketAddr::is_ipv6);
    let addresses: Vec<SocketAddr> = if are_told {
        told
    } else {
        let address = server.address(exam.transport())?;
        if !address.ip().is_loopback() || !listener::takes_both(address.port()) {
            return Err(Stop::Skip(Words::of(
                "the server claims one family of addresses: it does not listen on ::",
                "服务器只声明支持一种地址族：它没有监听 ::",
            )));
        }
        both.map(|ip: IpAddr| (ip, address.port()).into()).to_vec()
    };
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return Err(Stop::Skip(Words::of("this machine has no IPv6", "这台机器没有 IPv6")));
    }
    for address in addresses {
        let echoed = Client::connect(exam, address).and_then(|mut client| {
            client.echo(b"hello\n")?;
            client.leave();
            Ok(())
        });
        echoed.map_err(|stop| match stop {
            Stop::Fault(seen) => Stop::Fault(words!("{address}", "{address}").and(&seen)),
            Stop::Late(seen) => Stop::Late(words!("{address}", "{address}").and(&seen)),
            stop => stop,
        })?;
    }
    Ok(Words::of("both answered", "二者都有应答"))
}
