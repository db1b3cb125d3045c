//! What a server uses of the machine while it has nothing to do.

use std::time::Duration;

use arguments::Transport;
use socket2::Socket;

use super::{
    Check, Needs,
    client::Client,
    crowd::Crowd,
    exam::{Exam, Examined, Stop},
    examinee::Examinee,
    explanation,
    words::{Words, words},
};

/// A loop that never sleeps.
pub static IDLE_CPU: Check = Check {
    id: "idle-cpu",
    transport: Transport::Tcp,
    needs: Needs::Pid,
    points: 4.0,
    is_quick: false,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("it sleeps while it has nothing to do", "无事可做时它在睡眠"),
    done: Words::of(
        "left connections idle, half-closed, and full of bytes that nobody reads, and measured its CPU time",
        "让连接空闲、半关闭，以及塞满数据却不读取，并测量它的 CPU 时间",
    ),
    hint: Words::of(
        "ask for writability only while bytes are owed, for readability only while they can be taken and recv has not returned 0",
        "只有欠着数据时才关注可写事件；暂时收不下数据时，以及 recv 返回 0 之后，不要关注可读事件",
    ),
    explanation: explanation!("idle-cpu"),
    look: idle_cpu,
};

/// What part of a processor a server may use that has nothing to do.
const IDLE: f64 = 0.05;

fn idle_cpu(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    server.pid()?;
    let quiet = Crowd::gather(exam, &server, 4)?;
    let ended = Crowd::gather(exam, &server, 2);
    if let Ok(ended) = &ended {
        ended.served.iter().try_for_each(Client::finish)?;
    }
    let idle = share(exam, &server, IDLE)?;
    exam.saw("cpu_share_idle", round(idle));
    if idle >= IDLE {
        return Err(Stop::Fault(words!(
            "with idle connections it used {idle:.2} of a processor",
            "连接空闲时它用掉了 {idle:.2} 个处理器"
        )));
    }
    quiet.leave();
    drop(ended);
    let unread = [deaf(exam, &server)?, deaf(exam, &server)?];
    let stuck = share(exam, &server, IDLE)?;
    unread.into_iter().for_each(Client::leave);
    exam.saw("cpu_share_stuck", round(stuck));
    if stuck >= IDLE {
        // Or is it still at work on what it was sent?
        return Err(Stop::Late(words!(
            "with clients who do not read it used {stuck:.2} of a processor",
            "客户端不读取数据时，它用掉了 {stuck:.2} 个处理器"
        )));
    }
    let most = idle.max(stuck);
    Ok(words!("{most:.3} of a processor at most", "至多 {most:.3} 个处理器"))
}

/// A client that sends until nothing more is taken, and reads nothing.
fn deaf<'e>(exam: &'e Exam<'e>, server: &Examinee<'_>) -> Result<Client<'e>, Stop> {
    let prepare = |socket: &Socket| socket.set_recv_buffer_size(4096);
    let mut client = Client::connect_by(exam, server.address(exam.transport())?, prepare)?;
    client.fill(&exam.text(256 << 10), 4 << 20, Duration::from_millis(50))?;
    Ok(client)
}

/// What part of a processor the server wants; looked at again where it is `much`, for it may have been busy with
/// what came before.
pub fn share(exam: &Exam<'_>, server: &Examinee<'_>, much: f64) -> Result<f64, Stop> {
    const SPAN: Duration = Duration::from_millis(400);
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        let before = server.demand()?;
        exam.pass(SPAN);
        least = least.min(server.demand()?.since(&before));
        if least < much {
            break;
        }
    }
    Ok(least)
}

/// A share as evidence shows it.
pub fn round(share: f64) -> f64 {
    (share * 1000.0).round() / 1000.0
}
