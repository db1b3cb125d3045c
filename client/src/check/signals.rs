//! What a signal does that has nothing to say to a server.

use std::time::Duration;

use arguments::Transport;
use nix::sys::signal::Signal;

use super::{
    Check, Needs,
    crowd::Crowd,
    exam::{Exam, Examined, Stop},
    examinee::Examinee,
    explanation,
    words::{Words, words},
};

/// A signal is taken for an error.
pub static EINTR: Check = Check {
    id: "eintr",
    transport: Transport::Tcp,
    needs: Needs::Pid,
    points: 4.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("signals do not disturb it", "信号不会打扰服务"),
    done: Words::of(
        "stopped and continued all its processes, and sent them SIGCHLD, SIGWINCH and SIGURG while clients talked",
        "暂停并恢复它的全部进程，并在客户端通信期间不断发送 SIGCHLD、SIGWINCH 与 SIGURG",
    ),
    hint: Words::of(
        "a call that fails with EINTR was only interrupted: call it again; SA_RESTART does not help epoll_wait and poll",
        "系统调用因 EINTR 失败只是被打断：重新调用即可；SA_RESTART 对 epoll_wait 和 poll 不起作用",
    ),
    explanation: explanation!("eintr"),
    look: eintr,
};

/// How often each of them is sent.
const ROUNDS: usize = 25;

fn eintr(exam: &Exam<'_>) -> Examined {
    at_rest(exam)?;
    let server = exam.server()?;
    let mut sent = 0;
    let mut crowd = Crowd::gather(exam, &server, 4)?;
    for _ in 0..ROUNDS {
        sent += storm(&server)?;
        crowd.echo()?;
    }
    stop_and_go(&server)?;
    crowd.echo()?;
    crowd.leave();
    exam.client(&server)?.echo(b"and still here\n")?;
    exam.saw("signals_to_each_thread", sent);
    Ok(words!(
        "{sent} signals to each thread, and two stops",
        "每个线程收到 {sent} 个信号、两次暂停，服务如常"
    ))
}

/// Before there is a client each process waits in the call that it waits for clients with.
pub fn at_rest(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    server.pid()?;
    stop_and_go(&server)?;
    for _ in 0..ROUNDS {
        storm(&server)?;
    }
    exam.client(&server)?.echo(b"hello\n")?;
    server.may_end(); // that a client has left is no signal
    Ok(Words::of(
        "before its first client signals did not disturb it",
        "在第一个客户端到来之前，信号没有打扰它",
    ))
}

/// Signals that most ignore, to each thread; how many.
fn storm(server: &Examinee<'_>) -> Result<usize, Stop> {
    let signals = [Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGURG];
    signals.iter().try_for_each(|signal| server.signal_threads(*signal))?;
    Ok(signals.len())
}

fn stop_and_go(server: &Examinee<'_>) -> Result<(), Stop> {
    server.freeze().and_then(|()| server.thaw())
}
