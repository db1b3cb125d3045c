//! Whether a server outlives clients that leave without a word of goodbye.

use std::time::Duration;

use arguments::Transport;

use super::{
    Check, Needs,
    exam::{Exam, Examined, Stop},
    examinee::Examinee,
    explanation,
    words::{Words, words},
};

/// A reset ends the server.
pub static RESET: Check = Check {
    id: "reset",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 5.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of("a client's reset is that client's misfortune alone", "客户端的复位只影响它自己"),
    done: Words::of(
        "200 clients reset their connection, half of them after a line; after each another one sent a line",
        "200 个客户端复位（RST）了连接，其中一半先发送一行；每次之后都由另一个客户端发送一行",
    ),
    hint: Words::of(
        "recv and send may fail with ECONNRESET: close that client's socket and go on",
        "recv 和 send 可能以 ECONNRESET 失败：关闭这个客户端的套接字，继续服务",
    ),
    explanation: explanation!("reset"),
    look: reset,
};

fn reset(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    for n in 1..=200 {
        reset_by_one(exam, &server, n % 2 == 0)?;
        is_served_after(exam, &server, n)?;
    }
    Ok(Words::of("after 200 resets it still served", "200 次复位之后仍然正常服务"))
}

/// What everybody says here, the rude and who comes after them: a server that confuses clients has another bug.
const LINE: &[u8] = b"still there?\n";

/// Connects, may say a line, and resets. One line alone raises no SIGPIPE: the first error is ECONNRESET.
fn reset_by_one(exam: &Exam<'_>, server: &Examinee<'_>, says_a_line: bool) -> Result<(), Stop> {
    let mut client = exam.client(server)?;
    if says_a_line {
        client.send(LINE)?;
    }
    client.reset();
    Ok(())
}

/// A client that behaves is served as if nothing had been, and leaves with nothing unread.
fn is_served_after(exam: &Exam<'_>, server: &Examinee<'_>, resets: usize) -> Result<(), Stop> {
    let told = |seen: &Words| {
        words!(
            "after {resets} rude clients the next one was not served",
            "{resets} 个无礼的客户端之后，下一个没有得到服务"
        )
        .and(seen)
    };
    let echoed = exam.client(server).and_then(|mut client| client.echo(LINE));
    echoed.map_err(|stop| match stop {
        Stop::Fault(seen) => Stop::Fault(told(&seen)),
        Stop::Late(seen) => Stop::Late(told(&seen)),
        stop => stop,
    })
}

/// A signal that nobody handles ends the server.
pub static SIGPIPE: Check = Check {
    id: "sigpipe",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 6.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of(
        "writing to a client that has gone is survived",
        "向已经离开的客户端写数据不会让服务器退出",
    ),
    done: Words::of(
        "clients left while they were owed bytes: many small writes and a reset; a line, a FIN and a reset; a blocked \
         write and a close",
        "客户端在还有数据未收到时离开：许多小的写之后复位；一行加 FIN 再复位；让服务器阻塞在写上然后关闭",
    ),
    hint: Words::of(
        "ignore SIGPIPE (signal(SIGPIPE, SIG_IGN)) or send with MSG_NOSIGNAL, and take EPIPE for the end of that client",
        "忽略 SIGPIPE（signal(SIGPIPE, SIG_IGN)）或在 send 时使用 MSG_NOSIGNAL，把 EPIPE 当作这个客户端的结束",
    ),
    explanation: explanation!("sigpipe"),
    look: sigpipe,
};

/// How often each of them leaves so: more often than a pool has workers.
const TIMES: usize = 80;
/// Who takes nothing for so long is taken to be full.
const STILL: Duration = Duration::from_millis(100);
/// So long a server may take to die of a reset.
const SINKS_IN: Duration = Duration::from_millis(100);

fn sigpipe(exam: &Exam<'_>) -> Examined {
    a_reset_is_survived(exam)?;
    let server = exam.server()?;
    let said = LINE.repeat(1 << 16);
    for n in 1..=2 {
        let mut blocked = exam.client(&server)?;
        blocked.fill(&said, 16 << 20, STILL)?;
        drop(blocked); // with bytes unread, so this is a reset
        is_served_after(exam, &server, n)?;
    }
    for n in 3..3 + TIMES {
        let mut small_writes = exam.client(&server)?;
        // Who is quick may have reset already what is said here: that is no matter.
        let _ = said.chunks(LINE.len()).take(20).try_for_each(|line| small_writes.send(line));
        if n % 2 == 0 {
            let _ = small_writes.finish();
        }
        small_writes.reset();
        let mut line_and_fin = exam.client(&server)?;
        line_and_fin.send(LINE)?;
        line_and_fin.finish()?;
        line_and_fin.reset();
        is_served_after(exam, &server, n)?;
    }
    Ok(Words::of("it still served after each of them", "每次之后都仍然正常服务"))
}

/// Who dies of any reset has another bug.
fn a_reset_is_survived(exam: &Exam<'_>) -> Result<(), Stop> {
    let server = exam.server()?;
    server.may_end();
    for n in 1..=8 {
        reset_by_one(exam, &server, n % 2 == 0)
            .and_then(|()| is_served_after(exam, &server, n))
            .map_err(Stop::other("reset"))?;
    }
    // On a busy machine the thread that is to end the server may not have had its turn yet.
    match exam.within(SINKS_IN, || server.death()) {
        Some(death) => Err(Stop::other("reset")(Stop::Fault(death))),
        None => Ok(()),
    }
}
