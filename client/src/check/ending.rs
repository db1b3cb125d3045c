//! How a server ends, and begins again.

use std::time::{Duration, Instant};

use arguments::Transport;
use nix::sys::signal::Signal;

use super::{
    Check, Needs,
    client::PATIENCE,
    crowd::{Crowd, LINE},
    exam::{Exam, Examined, Stop},
    examinee::Examinee,
    explanation,
    words::{Words, words},
};
use crate::{
    cost,
    listener::{self, StateFlags},
};

/// SO_REUSEADDR is not set.
pub static RESTART: Check = Check {
    id: "restart",
    transport: Transport::Tcp,
    needs: Needs::Spawned,
    points: 3.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(40),
    title: Words::of("it can be started again at once", "停止后可以立即重新启动"),
    done: Words::of(
        "ended it while connections were open, and started it again at once on the same port",
        "在连接仍打开时结束它，并立即在同一端口重新启动",
    ),
    hint: Words::of(
        "set SO_REUSEADDR before bind: connections that the server closed first keep the port in TIME_WAIT for a minute",
        "bind 之前设置 SO_REUSEADDR：由服务器先关闭的连接会让端口停留在 TIME_WAIT 一分钟",
    ),
    explanation: explanation!("restart"),
    look: restart,
};

fn restart(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let port = server.address(exam.transport())?.port();
    let crowd = Crowd::gather(exam, &server, 4)?;
    server.may_end();
    drop(server); // SIGKILL: the kernel closes for it, while its clients are still there
    for client in &crowd.served {
        client.hears_within(PATIENCE)?; // what a ring holds is closed a little later
    }
    drop(crowd);
    let closed = StateFlags::FIN_WAIT1 | StateFlags::FIN_WAIT2 | StateFlags::TIME_WAIT | StateFlags::CLOSING;
    let holding = || listener::ends(port, &closed).len();
    let sockets = exam.within(PATIENCE, || Some(holding()).filter(|sockets| *sockets > 0));
    let Some(sockets) = sockets else {
        return Err(Stop::Skip(Words::of(
            "no connection of the ended server is left in TIME_WAIT",
            "服务器结束后没有留下处于 TIME_WAIT 的连接",
        )));
    };
    exam.saw("sockets_in_time_wait", sockets);
    let began = Instant::now();
    let server = exam.server_again(port)?;
    let took = began.elapsed();
    exam.client(&server)?.echo(LINE)?;
    Ok(words!(
        "it listened again after {took:.1?}, with {sockets} connections in TIME_WAIT",
        "{took:.1?} 后重新开始监听，当时有 {sockets} 个连接处于 TIME_WAIT"
    ))
}

/// SIGTERM cuts answers.
pub static DRAIN: Check = Check {
    id: "drain",
    transport: Transport::Tcp,
    needs: Needs::Spawned,
    points: 4.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of("on SIGTERM it answers what was sent, then ends", "收到 SIGTERM 后先答完再结束"),
    done: Words::of(
        "stopped it, sent a line on up to 32 connections, sent SIGTERM, let it go on, read the answers, and closed",
        "暂停它，在至多 32 个连接上各发一行，发送 SIGTERM，让它继续运行，读取回应后关闭",
    ),
    hint: Words::of(
        "the handler of SIGTERM only sets a flag: stop accepting, let each conversation end, wait for children, exit(0)",
        "SIGTERM 的处理函数只设置标志：停止 accept，让每个会话正常结束，等待子进程，然后 exit(0)",
    ),
    explanation: explanation!("drain"),
    look: drain,
};

/// How many echoes are pending at most.
const PENDING: usize = 32;
/// How long a server may take to end once its clients have.
const END: Duration = Duration::from_secs(3);

fn drain(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    server.may_end();
    let mut first = exam.client(&server)?;
    first.echo(LINE)?;
    first.finish()?;
    first.hear_the_end().map_err(Stop::other("eof"))?;
    let mut crowd = Crowd::gather(exam, &server, PENDING - 1)?; // one more comes below
    // Echoes are pending for certain where the server stands still. Who takes going on for an error has another bug.
    server.freeze()?;
    server.thaw()?;
    let goes_on = crowd.echo().is_ok()
        && (crowd.joined_by_another(exam, &server).unwrap_or(false)
            || exam.within(Duration::from_millis(200), || server.ended()).is_none());
    if !goes_on {
        return Err(Stop::Unjudged(Words::of(
            "not judged: it does not go on after SIGSTOP and SIGCONT, see eintr, so no echo can be kept pending",
            "未作判断：它在 SIGSTOP 与 SIGCONT 之后不能继续（见 eintr），无法让回应处于待发状态",
        )));
    }
    server.freeze()?;
    let processes = server.living()?;
    crowd.served.iter_mut().try_for_each(|client| client.send(LINE))?;
    server.signal(Signal::SIGTERM)?;
    server.thaw()?;
    let began = Instant::now();
    let pending = crowd.served.len();
    exam.saw("echoes_pending", pending);
    let mut answered = 0;
    // Whoever waits for a turn has had no promise; all leave once they are answered.
    let answers = crowd.served.iter_mut().try_for_each(|client| {
        client.hear(LINE)?;
        answered += 1;
        Ok(())
    });
    exam.saw("echoes_received", answered);
    for client in crowd.served.iter().chain(&crowd.waiting) {
        let _ = client.finish();
    }
    answers.map_err(|stop| cut(exam, &server, stop, answered, pending))?;
    for client in &mut crowd.served {
        client.hear_the_end()?;
    }
    // What is sent to one who stands still any thread may get, and the one that waits for clients need not wake: so the
    // signal comes once more, to one who runs.
    let ended = || exam.within(END, || server.ended());
    let at_first = ended();
    if at_first.is_none() {
        server.signal(Signal::SIGTERM)?;
        exam.saw("sigterms_sent", 2);
    }
    let Some(status) = at_first.or_else(ended) else {
        let patience = exam.scaled(END);
        return Err(Stop::Late(words!(
            "it had not ended {patience:.0?} after SIGTERM and the last client's end",
            "SIGTERM 且最后一个客户端离开 {patience:.0?} 之后，它仍未结束"
        )));
    };
    let took = began.elapsed();
    if !status.success() {
        let Words { en, zh } = Words::of_end(status);
        return Err(Stop::Fault(words!(
            "all {pending} echoes came, but it did not end in order: {en}",
            "{pending} 个回应全部到达，但它没有正常结束：{zh}"
        )));
    }
    let orphans = || processes.iter().filter(|pid| cost::lives(**pid)).count();
    if exam.within(END, || (orphans() == 0).then_some(())).is_none() {
        let left = orphans();
        exam.saw("orphans", left);
        return Err(Stop::Late(words!(
            "it ended, but {left} of its processes still run",
            "它结束了，但仍有 {left} 个它的进程在运行"
        )));
    }
    Ok(words!(
        "{pending} pending echoes came, and it ended {took:.1?} after SIGTERM",
        "{pending} 个待发的回应全部到达，SIGTERM 之后 {took:.1?} 结束"
    ))
}

/// An answer did not come: what the server did instead.
fn cut(exam: &Exam<'_>, server: &Examinee<'_>, stop: Stop, answered: usize, pending: usize) -> Stop {
    let Some(status) = exam.within(END / 6, || server.ended()) else { return stop };
    let Words { en, zh } = Words::of_end(status);
    Stop::Fault(words!(
        "after SIGTERM {answered} of {pending} pending echoes came; it ended: {en}",
        "SIGTERM 之后，{pending} 个待发的回应只到达了 {answered} 个；它结束了：{zh}"
    ))
}
