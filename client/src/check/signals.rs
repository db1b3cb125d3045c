//! What a signal does that has nothing to say to a server.

use std::time::Duration;

use arguments::Transport;
use nix::sys::signal::Signal;

use super::{
    Check, Needs,
    crowd::Crowd,
    exam::{Exam, Examined},
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
    let server = exam.server()?;
    server.pid()?;
    let mut sent = 0;
    let mut storm = || {
        for signal in [Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGURG] {
            server.signal_all(signal)?;
            sent += 1;
        }
        Ok(())
    };
    let stop_and_go = || server.freeze().and_then(|()| server.thaw());
    // At rest each process waits in the call that it waits for clients with; then in the one that it waits for bytes with.
    stop_and_go()?;
    (0..ROUNDS).try_for_each(|_| storm())?;
    let mut crowd = Crowd::gather(exam, &server, 4)?;
    for _ in 0..ROUNDS {
        storm()?;
        crowd.echo()?;
    }
    stop_and_go()?;
    crowd.echo()?;
    crowd.leave();
    exam.client(&server)?.echo(b"and still here\n")?;
    exam.saw("signals_to_each_process", sent);
    Ok(words!(
        "{sent} signals to each process, and two stops",
        "每个进程收到 {sent} 个信号、两次暂停，服务如常"
    ))
}
