//! Whether one client is served well while another is there: silent, stuck, gone, or talking at the same time.

use std::{fs, io, os::fd::AsFd, time::Duration};

use arguments::Transport;
use nix::poll::{PollFd, PollFlags};

use super::{
    Check, Needs,
    client::{Client, NARROW, PATIENCE},
    conversation::{partial_write, unless_read_once},
    exam::{Exam, Examined, Stop},
    examinee::Examinee,
    explanation,
    words::{Words, words},
};
use crate::cost::Cost;

/// Who takes nothing for so long is taken to be full.
const STILL: Duration = Duration::from_millis(200);

/// A child keeps the socket of another client.
pub static INHERITED: Check = Check {
    id: "inherited",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 3.0,
    is_quick: false,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of(
        "a client's connection ends while others are connected",
        "其他客户端仍连接时，一个客户端的连接也能正常结束",
    ),
    done: Words::of(
        "connected A and then C, shut down A for writing, and waited for A's end while C stayed",
        "先后连接 A 和 C，对 A 执行 shutdown(SHUT_WR)，在 C 仍连接时等待 A 的结束",
    ),
    hint: Words::of(
        "fork copies every descriptor: close in the child what is not its client's, and in the parent the client's \
         socket right after the fork",
        "fork 会复制所有描述符：子进程要关闭不属于自己客户端的套接字，父进程在 fork 之后要立即关闭客户端的套接字",
    ),
    explanation: explanation!("inherited"),
    look: inherited,
};

fn inherited(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let mut alone = exam.client(&server)?;
    alone.echo(b"alone\n").and_then(|()| end(&mut alone)).map_err(Stop::other("eof"))?;
    drop(alone);
    let mut a = exam.client(&server)?;
    a.echo(b"A\n")?;
    let mut c = exam.client(&server)?;
    c.send(b"C\n")?;
    // Who serves one after the other does not answer C yet, and nobody inherits anything.
    let heard = c.hear_some(b"C\n", Duration::from_millis(500))?;
    exam.saw("c_was_served", heard > 0);
    match end(&mut a) {
        Err(Stop::Late(seen)) => {
            let with_c = Words::of(
                "A alone gets its end, but not while C is connected",
                "只有 A 时能等到结束，而 C 连接着时等不到",
            );
            return Err(Stop::Late(with_c.and(&seen)));
        }
        ended => ended?,
    }
    c.leave();
    Ok(Words::of("A's end came while C was connected", "C 仍连接时等到了 A 的结束"))
}

/// Our FIN, and the server's.
fn end(client: &mut Client<'_>) -> Result<(), Stop> {
    client.finish()?;
    client.hear_the_end()
}

/// A client that says nothing holds up the others.
pub static SILENT_CLIENT: Check = Check {
    id: "silent-client",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 8.0,
    is_quick: true,
    is_iteratives: true,
    limit: Duration::from_secs(15),
    title: Words::of("a silent client holds up nobody", "沉默的客户端不会妨碍其他客户端"),
    done: Words::of(
        "connected A, which said nothing, and then half a line; each time B connected and sent a line",
        "连接 A，先什么都不发送，再只发送半行；每次都由 B 连接并发送一行",
    ),
    hint: Words::of(
        "while one recv blocks nobody else is served: a process, a thread or a task for each client, or readiness",
        "一个 recv 阻塞时其他客户端都得不到服务：为每个客户端使用一个进程、线程或任务，或者使用就绪通知",
    ),
    explanation: explanation!("silent-client"),
    look: silent_client,
};

fn silent_client(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    for half_a_line in [&b""[..], b"half a "] {
        let mut a = exam.client(&server)?;
        a.send(half_a_line)?;
        let mut b = exam.client(&server)?.patient_for(Duration::from_secs(1));
        b.echo(b"anybody there?\n").map_err(behind("A was silent", "A 沉默时"))?;
        b.leave();
        a.leave_saying(if half_a_line.is_empty() { b"" } else { b"line\n" });
    }
    Ok(Words::of("B was served while A was silent", "A 沉默时 B 得到了服务"))
}

/// Says that B had to wait, and behind whom.
fn behind(en: &'static str, zh: &'static str) -> impl FnOnce(Stop) -> Stop {
    move |stop| match stop {
        Stop::Late(seen) => {
            Stop::Late(words!("B was not served while {en}", "{zh} B 没有得到服务").and(&seen))
        }
        stop => stop,
    }
}

/// A write to one client blocks the loop that serves all.
pub static STUCK_WRITER: Check = Check {
    id: "stuck-writer",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 6.0,
    is_quick: true,
    is_iteratives: true,
    limit: Duration::from_secs(20),
    title: Words::of("a client that does not read holds up nobody", "不读数据的客户端不会妨碍其他客户端"),
    done: Words::of(
        "A sent until nothing more was taken, and read nothing; then B connected and sent a line",
        "A 一直发送到对方不再接收，并且从不读取；随后 B 连接并发送一行",
    ),
    hint: Words::of(
        "a loop's sockets must not block: on a short write or EAGAIN keep the rest and wait until it is writable",
        "事件循环里的套接字不能阻塞：遇到短写或 EAGAIN 时保留剩余部分，等待可写",
    ),
    explanation: explanation!("stuck-writer"),
    look: stuck_writer,
};

fn stuck_writer(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let said = exam.text(1 << 20);
    let mut a = exam.client(&server)?;
    let taken = a.fill(&said, kernel_buffers(), STILL)?;
    exam.saw("bytes_taken_unread", taken);
    let mut b = exam.client(&server)?.patient_for(Duration::from_secs(1));
    b.echo(b"anybody there?\n").map_err(|stop| match stop {
        fault @ Stop::Fault(_) => Stop::other("crosstalk")(fault),
        late => behind("A did not read", "A 不读取时")(late),
    })?;
    b.leave();
    a.leave_saying(line_after(&said, taken));
    Ok(words!(
        "B was served while A had sent {taken} bytes and read none",
        "A 发送了 {taken} 字节而一个都没有读时，B 得到了服务"
    ))
}

/// What is missing of the line that was being said.
fn line_after(said: &[u8], taken: usize) -> &[u8] {
    let from = taken % said.len();
    &said[from..from.next_multiple_of(64)]
}

/// What a client does not read is kept without bound.
pub static BACKPRESSURE: Check = Check {
    id: "backpressure",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 6.0,
    is_quick: false,
    is_iteratives: false,
    limit: Duration::from_secs(60),
    title: Words::of(
        "who does not read is not read from for ever",
        "对不读取数据的客户端，服务器不会无限制地接收",
    ),
    done: Words::of(
        "sent and read nothing until nothing more was taken, then read all",
        "只发送不读取，直到对方不再接收，然后全部读完",
    ),
    hint: Words::of(
        "while bytes are owed to a client, read nothing from it: then its own send blocks",
        "还欠客户端数据时不要再从它那里读取：这样阻塞的就是它自己的 send",
    ),
    explanation: explanation!("backpressure"),
    look: backpressure,
};

/// How much a good server may keep for a client beside what the kernel does.
const KEPT: usize = 16 << 20;

fn backpressure(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let bound = kernel_buffers() + 2 * NARROW;
    let most = bound + KEPT;
    exam.saw("kernel_buffers_bytes", bound);
    let mut warm = exam.client(&server)?;
    warm.echo(b"hello\n")?;
    warm.leave();
    // A pool may still be growing.
    let _ = server.pid().map(Cost::await_rest);
    let memory = || server.pid().ok().and_then(Cost::pss_of_tree);
    let before = memory();
    let address = server.address(exam.transport())?;
    let mut client = Client::connect_narrowly(exam, address)?;
    let said = exam.text(1 << 20);
    let taken = client.fill(&said, most, STILL)?;
    exam.saw("bytes_taken_unread", taken);
    let grown = memory().zip(before).map(|(after, before)| after.saturating_sub(before));
    if let Some(grown) = grown {
        exam.saw("memory_growth_bytes", grown);
    }
    // A line more than was taken comes last, wherever the rest is kept; where it was thrown away, too early.
    let last = [line_after(&said, taken), &said[..64]].concat();
    let mut expected: Vec<u8> = said.iter().copied().cycle().take(taken).collect();
    expected.extend(&last);
    let read = client.exchange(&last, &expected);
    if taken >= most {
        // What did not come back was not kept: that is another bug.
        read.map_err(Stop::other("segments, partial-write"))?;
        let kept = words!(
            "{taken} bytes were taken and kept while nothing was read; all kernels' buffers hold {bound} at most",
            "在什么都没有读的情况下，服务器收下并保存了 {taken} 字节；内核缓冲区最多只能容纳 {bound} 字节"
        );
        // How much another machine's kernel keeps is not known here.
        return Err(if address.ip().is_loopback() { Stop::Fault(kept) } else { Stop::Doubt(kept) });
    }
    match read {
        // Whether that is so only where a client does not read is what another client shows.
        Err(stop @ (Stop::Fault(_) | Stop::Late(_))) => {
            let mut prompt = exam.client(&server)?;
            let echoed = said.chunks(64 << 10).take(8).try_for_each(|piece| prompt.echo(piece));
            echoed.map_err(Stop::other("segments, edge-trigger"))?;
            unless_read_once(exam, &server, stop)
                .or_else(|stop| partial_write(exam).map_err(Stop::other("partial-write")).and(Err(stop)))?;
        }
        read => read?,
    }
    client.leave();
    if let Some(grown) = grown.filter(|grown| *grown > MEMORY) {
        return Err(Stop::Fault(words!(
            "its memory grew by {grown} bytes while a client sent {taken} and read none",
            "一个客户端发送 {taken} 字节而不读取时，服务器的内存增长了 {grown} 字节"
        )));
    }
    Ok(words!(
        "it took {taken} bytes and then no more; once the client read, all came back",
        "服务器收下 {taken} 字节后不再接收；客户端开始读取后全部返回"
    ))
}

/// By so much a server's memory may grow for a client: a collector of garbage lets some lie about.
const MEMORY: u64 = 64 << 20;

/// The most that both kernels keep of what a client sends and does not read: in its own send buffer, and in the server's
/// two (tcp_wmem and tcp_rmem, tcp(7)). Another machine is taken to be like this one.
fn kernel_buffers() -> usize {
    let most = |name: &str, usual: usize| {
        let told = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
        told.split_whitespace().nth(2).and_then(|most| most.parse().ok()).unwrap_or(usual)
    };
    2 * most("tcp_wmem", 4 << 20) + most("tcp_rmem", 6 << 20)
}

/// What is one client's comes to another.
pub static CROSSTALK: Check = Check {
    id: "crosstalk",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 8.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(60),
    title: Words::of("each client gets its own bytes", "每个客户端只收到自己的字节"),
    done: Words::of(
        "up to 64 clients talked at the same time, each in a letter of its own; then some beside one that did not read",
        "最多 64 个客户端同时收发，每个只使用自己的一个字符；然后有一个只发不读，其他客户端继续收发",
    ),
    hint: Words::of(
        "a buffer, a length or a descriptor that is static, global or shared by threads: give each client its own",
        "静态、全局或被线程共享的缓冲区、长度、描述符：要让每个客户端各有一份",
    ),
    explanation: explanation!("crosstalk"),
    look: crosstalk,
};

/// A letter for each client.
const OWNERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-";
/// How many lines each of them sends.
const ROUNDS: usize = 25;
/// How long a client waits for its first answer before the next one comes. A server may be small, and serve some when
/// others have left.
const ARRIVAL: Duration = Duration::from_millis(20);
/// With so many who have not been answered no more come.
const WAITING: usize = 4;

fn crosstalk(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let mut streams: Vec<Stream<'_>> = Vec::new();
    for (n, owner) in OWNERS.iter().enumerate() {
        let mut line = vec![*owner; 64 + 4 * n];
        line.push(b'\n');
        let mut stream = Stream { client: exam.client(&server)?, line, heard: 0, rounds: 0 };
        stream.client.send(&stream.line)?;
        if stream.is_turned_away(ARRIVAL)? {
            break; // it has as many clients as it takes
        }
        stream.listen(exam, Duration::ZERO)?;
        streams.push(stream);
        if streams.iter().filter(|stream| stream.rounds == 0).count() == WAITING {
            break; // it is full: more would only wait, and its queue may be short
        }
    }
    let clients = streams.len();
    exam.saw("clients_at_once", clients);
    // From here on whoever has heard its line sends the next, and leaves after the last.
    let lines = clients * ROUNDS;
    while !streams.is_empty() {
        if !is_any_ready(exam, &streams)? {
            let waiting = streams.len();
            return Err(Stop::Late(words!(
                "{waiting} of {clients} clients waited for their lines, and none got any more",
                "{clients} 个客户端中有 {waiting} 个在等待自己的数据，却谁也没有再收到"
            )));
        }
        for stream in &mut streams {
            stream.listen(exam, Duration::ZERO)?;
        }
        streams.retain(|stream| stream.rounds < ROUNDS);
    }
    beside_a_deaf_one(exam, &server)?;
    Ok(words!(
        "{clients} clients got {lines} lines, each its own",
        "{clients} 个客户端共收到 {lines} 行，每行都是自己的"
    ))
}

/// What is kept for a client who does not read comes to no other, nor theirs to it.
fn beside_a_deaf_one(exam: &Exam<'_>, server: &Examinee<'_>) -> Result<(), Stop> {
    const MUCH: usize = 8 << 20;
    const OTHERS: usize = 4;
    let mut deaf = Client::connect_narrowly(exam, server.address(exam.transport())?)?;
    let taken = deaf.fill(&[b'#'; 1 << 16], MUCH, STILL)?;
    for _ in 0..OTHERS {
        let mut client = exam.client(server)?.patient_for(Duration::from_millis(500));
        match client.echo(b"nobody else's\n") {
            Err(Stop::Late(_)) => break, // it waits for the deaf one: that is another bug
            Err(Stop::Fault(seen)) => {
                let beside = Words::of(
                    "beside a client who does not read, another was not answered with its own",
                    "有一个客户端不读取数据时，另一个客户端收到的不是自己的数据",
                );
                return Err(Stop::Fault(beside.and(&seen)));
            }
            echoed => echoed?,
        }
        client.leave();
    }
    let (mut some, mut heard) = (vec![0; 1 << 16], 0);
    while heard < taken {
        // What is lost is another bug, and nobody else's.
        let Ok(Some(n @ 1..)) = deaf.read(&mut some, PATIENCE) else { break };
        if let Some(foreign) = some[..n].iter().find(|byte| **byte != b'#') {
            let got = char::from(*foreign);
            return Err(Stop::Fault(words!(
                "a client who had not read for a while received {got:?}, which it had not sent",
                "一个有一会儿没有读取数据的客户端收到了 {got:?}，而它并没有发送过"
            )));
        }
        heard += n;
    }
    deaf.leave();
    Ok(())
}

/// A client's stream of lines, each of one letter.
struct Stream<'e> {
    client: Client<'e>,
    line: Vec<u8>,
    heard: usize,
    rounds: usize,
}

impl Stream<'_> {
    /// Whether the server ends it, without a word, within (a scaled) `patience`.
    fn is_turned_away(&self, patience: Duration) -> Result<bool, Stop> {
        if !self.client.hears_within(patience)? {
            return Ok(false);
        }
        Ok(match self.client.stream().peek(&mut [0]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        })
    }

    /// Hears what comes of its line, and whose it is. After a whole line it sends the next one.
    fn listen(&mut self, exam: &Exam<'_>, patience: Duration) -> Result<(), Stop> {
        let mut some = vec![0; self.line.len()];
        let Some(n) = self.client.read(&mut some, patience)? else { return Ok(()) };
        let letter = char::from(self.line[0]);
        if n == 0 {
            return Err(Stop::Fault(words!(
                "the server closed the connection of client {letter:?} in the middle of its line",
                "服务器在客户端 {letter:?} 的一行中途关闭了它的连接"
            )));
        }
        let expected = self.line[self.heard..].iter().map(Some).chain(std::iter::repeat(None));
        if let Some((_, foreign)) = expected.zip(&some[..n]).find(|(own, got)| *own != Some(got)) {
            let got = char::from(*foreign);
            exam.saw("client", letter.to_string());
            exam.saw("received", String::from_utf8_lossy(&some[..n]).escape_debug().to_string());
            return Err(Stop::Fault(words!(
                "client {letter:?} received {got:?}, which it had not sent there",
                "客户端 {letter:?} 收到了 {got:?}，而它并没有在这个位置发送过"
            )));
        }
        self.heard += n;
        if self.heard < self.line.len() {
            return Ok(());
        }
        (self.heard, self.rounds) = (0, self.rounds + 1);
        if self.rounds < ROUNDS { self.client.send(&self.line) } else { Ok(()) }
    }
}

/// Waits until something comes to one of them; whether it does in time.
fn is_any_ready(exam: &Exam<'_>, streams: &[Stream<'_>]) -> Result<bool, Stop> {
    let mut asked: Vec<PollFd<'_>> =
        streams.iter().map(|stream| PollFd::new(stream.client.stream().as_fd(), PollFlags::POLLIN)).collect();
    exam.ready_by(&mut asked, exam.until(PATIENCE))
}
