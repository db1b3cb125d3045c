//! What a server does when the system has no more to give: descriptors, processes.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use arguments::Transport;
use nix::unistd::geteuid;
use procfs::process::{Process, all_processes};

use super::{
    Check, Needs,
    client::{Client, PATIENCE},
    crowd::{Crowd, LINE},
    exam::{Exam, Examined, Stop},
    examinee::{Confinement, Examinee},
    explanation, rest,
    words::{Words, words},
};
use crate::cost::{self, Cost};

/// A full table of descriptors makes the listener ready for ever.
pub static EMFILE_SPIN: Check = Check {
    id: "emfile-spin",
    transport: Transport::Tcp,
    needs: Needs::Spawned,
    points: 3.0,
    is_quick: false,
    is_iteratives: false,
    limit: Duration::from_secs(40),
    title: Words::of("out of descriptors, it does not spin", "描述符用尽时不会空转"),
    done: Words::of(
        "lowered RLIMIT_NOFILE, connected more clients than fit, and measured its CPU time",
        "降低 RLIMIT_NOFILE，连接超出容量的客户端，并测量它的 CPU 时间",
    ),
    hint: Words::of(
        "when accept fails with EMFILE the client stays in the queue and the listener stays ready: pause accepting",
        "accept 因 EMFILE 失败时，客户端仍在队列中，监听套接字一直就绪：应暂停 accept 一会儿",
    ),
    explanation: explanation!("emfile-spin"),
    look: emfile_spin,
};

/// Who ran out of descriptors once does not serve again.
pub static EMFILE_RECOVER: Check = Check {
    id: "emfile-recover",
    transport: Transport::Tcp,
    needs: Needs::Spawned,
    points: 3.0,
    is_quick: false,
    is_iteratives: false,
    limit: Duration::from_secs(40),
    title: Words::of("out of descriptors, it serves on, and recovers", "描述符用尽时继续服务，并能恢复"),
    done: Words::of(
        "lowered RLIMIT_NOFILE, connected more clients than fit, talked to the first ones, and let most of them leave",
        "降低 RLIMIT_NOFILE，连接超出容量的客户端，与先来者继续通信，再让其中大部分离开",
    ),
    hint: Words::of(
        "EMFILE is no reason to end or to stop listening: wait a moment, or until a client leaves, and accept again",
        "EMFILE 不是退出或停止监听的理由：稍等片刻，或等到有客户端离开，再重新 accept",
    ),
    explanation: explanation!("emfile-recover"),
    look: emfile_recover,
};

/// How many descriptors are left to clients.
const ROOM: usize = 24;
/// What part of a processor a server may use that can accept nobody.
const BUSY: f64 = 0.2;

fn emfile_spin(exam: &Exam<'_>) -> Examined {
    let server = narrow(exam)?;
    // Who dies of it does not spin; that it died is the other check's.
    server.may_end();
    let gathered = exhausted(exam, &server);
    let share = if gathered.is_ok() { rest::share(exam, &server, BUSY)? } else { 0.0 };
    let dying = if gathered.is_ok() { Duration::ZERO } else { PATIENCE / 4 };
    if exam.within(dying, || server.death()).is_some() {
        return Err(Stop::Masked(Words::of(
            "not judged: it died when its descriptors ran out, see emfile-recover",
            "未作判断：描述符用尽时它死了，见 emfile-recover",
        )));
    }
    let crowd = match gathered? {
        Ok(crowd) => crowd,
        Err(why_not) => return Ok(why_not),
    };
    exam.saw("cpu_share", rest::round(share));
    if share < BUSY {
        return Ok(words!(
            "out of descriptors it used {share:.3} of a processor",
            "描述符用尽时它用掉了 {share:.3} 个处理器"
        ));
    }
    // Is it the shortage, or is it as busy with clients who say nothing?
    let Crowd { mut served, waiting, .. } = crowd;
    served.truncate(served.len() / 2);
    waiting.into_iter().for_each(Client::leave);
    let without = rest::share(exam, &server, BUSY)?;
    exam.saw("cpu_share_with_room", rest::round(without));
    if without >= share / 2.0 {
        return Ok(words!(
            "out of descriptors it used {share:.2} of a processor, and {without:.2} without: see idle-cpu",
            "描述符用尽时它用掉 {share:.2} 个处理器，不缺描述符时也用掉 {without:.2} 个：见 idle-cpu"
        ));
    }
    Err(Stop::Fault(words!(
        "out of descriptors it used {share:.2} of a processor",
        "描述符用尽时它用掉了 {share:.2} 个处理器"
    )))
}

/// So many of those who take its last descriptors stay, or have waited and come in for others.
const STAY: usize = 8;

fn emfile_recover(exam: &Exam<'_>) -> Examined {
    let server = narrow(exam)?;
    let mut crowd = match exhausted(exam, &server)? {
        Ok(crowd) => crowd,
        Err(why_not) => return Ok(why_not),
    };
    crowd.echo()?;
    let clients = crowd.served.len();
    // Whoever waits has a turn before the new one, so more leave than wait.
    let held = fullest(&server)?;
    crowd.served.truncate(2);
    // Who is turned away while the first ones are still being closed comes again.
    let deadline = exam.until(PATIENCE);
    let served = loop {
        match exam.client(&server).and_then(|mut client| client.echo(LINE)) {
            Err(Stop::Fault(_)) if Instant::now() < deadline && server.death().is_none() => {
                exam.pass(Duration::from_millis(20));
            }
            served => break served,
        }
    };
    let keeps_them = || server.death().is_none() && fullest(&server).is_ok_and(|now| now + STAY > held);
    served.map_err(|stop| match stop {
        Stop::Late(_) | Stop::Fault(_) if keeps_them() => Stop::other("fd-leak")(stop),
        Stop::Late(_) => {
            let patience = exam.scaled(PATIENCE);
            Stop::Late(words!(
                "{clients} clients had all its descriptors; {patience:.1?} after most left, a new one is not served",
                "{clients} 个客户端占满了它的描述符；大部分离开 {patience:.1?} 之后，新客户端仍得不到服务"
            ))
        }
        other => other,
    })?;
    crowd.echo()?;
    crowd.leave(); // who had to wait may have an answer unread: to drop it would be a reset
    Ok(words!(
        "{clients} clients had all its descriptors, and were served; a new one was when most had left",
        "{clients} 个客户端占满了它的描述符，并一直得到服务；大部分离开后，新客户端也得到服务"
    ))
}

/// The server, with few more descriptors than it has at rest.
fn narrow<'e>(exam: &'e Exam<'e>) -> Result<Examinee<'e>, Stop> {
    let server = exam.server()?;
    exam.client(&server)?.echo(LINE)?; // what is opened for the first client alone is open now
    let limits = server.pids()?.into_iter().filter_map(limit_with_room);
    let Some(limit) = limits.max() else {
        return Err(Stop::Skip(Words::of("its descriptors may not be looked at", "无权查看它的描述符")));
    };
    drop(server);
    exam.saw("descriptors_limit", limit);
    let confinement = Confinement { descriptors: Some(limit), ..Confinement::default() };
    exam.server_under(&confinement).map_err(|stop| does_not_start(stop, "RLIMIT_NOFILE"))
}

/// Who cannot even start under a limit of ours is not to blame.
fn does_not_start(stop: Stop, limit: &'static str) -> Stop {
    match stop {
        Stop::Fault(why) => {
            let Words { en, zh } = why;
            Stop::Skip(words!(
                "it does not start under a lower {limit}: {en}",
                "降低 {limit} 之后它无法启动：{zh}"
            ))
        }
        other => other,
    }
}

/// The limit under which a process could have so many more descriptors: numbers that are free below it. Those that it
/// inherited may have high numbers.
fn limit_with_room(pid: u32) -> Option<u64> {
    let fds = cost::of_the_living(Process::new(pid.cast_signed()).ok()?).fd().ok()?;
    let taken: BTreeSet<u64> = fds.flatten().map(|fd| u64::from(fd.fd.cast_unsigned())).collect();
    (0..).filter(|number| !taken.contains(number)).nth(ROOM)
}

/// Clients that have all the descriptors of one of its processes, and some more that wait; or why that cannot be.
fn exhausted<'e>(exam: &'e Exam<'e>, server: &Examinee<'_>) -> Result<Result<Crowd<'e>, Words>, Stop> {
    const MOST: usize = 512;
    const WAITING: usize = 4;
    let at_rest = fullest(server)?;
    let mut crowd = Crowd::gather(exam, server, ROOM + 8)?;
    let grown = |crowd: &Crowd<'_>| {
        let clients = crowd.served.len();
        exam.saw("clients_served", clients);
        fullest(server).map(|now| (clients, now.saturating_sub(at_rest)))
    };
    let (clients, more) = grown(&crowd)?;
    if more < ROOM / 3 {
        return Ok(Err(words!(
            "its descriptors do not run out: with {clients} clients no process has more than {more} more",
            "它的描述符不会用尽：服务 {clients} 个客户端时，每个进程至多多用 {more} 个"
        )));
    }
    // Clients of several processes fill them one after the other.
    while crowd.waiting.len() + crowd.outside + crowd.refused < WAITING && crowd.served.len() < MOST {
        crowd.joined_by_another(exam, server)?;
    }
    let (clients, more) = grown(&crowd)?;
    exam.saw("clients_waiting", crowd.waiting.len() + crowd.outside);
    exam.saw("clients_turned_away", crowd.refused);
    if more < ROOM / 2 {
        return Ok(Err(words!(
            "its descriptors do not run out: it serves no more than {clients} clients at once",
            "它的描述符不会用尽：它同时至多服务 {clients} 个客户端"
        )));
    }
    Ok(Ok(crowd))
}

/// How many descriptors the process has that has most. They are listed, for the kernel's own count has those too that
/// threads which block in accept(2) have reserved.
fn fullest(server: &Examinee<'_>) -> Result<usize, Stop> {
    let count =
        |pid: u32| Some(cost::of_the_living(Process::new(pid.cast_signed()).ok()?).fd().ok()?.count());
    Ok(server.pids()?.into_iter().filter_map(count).max().unwrap_or(0))
}

/// A fork or a thread that is refused takes all with it.
pub static FORK_REFUSED: Check = Check {
    id: "fork-refused",
    transport: Transport::Tcp,
    needs: Needs::Spawned,
    points: 3.0,
    is_quick: false,
    is_iteratives: false,
    limit: Duration::from_secs(40),
    title: Words::of("refused a process, it loses one client", "无法创建进程时只损失一个客户端"),
    done: Words::of(
        "ran it as another user with a low RLIMIT_NPROC, and connected more clients than it may have processes",
        "以另一个用户、较低的 RLIMIT_NPROC 运行它，连接的客户端多于允许的进程数",
    ),
    hint: Words::of(
        "fork and pthread_create fail with EAGAIN: close that client's socket, and go on accepting",
        "fork 与 pthread_create 会因 EAGAIN 失败：关闭这个客户端的套接字，然后继续 accept",
    ),
    explanation: explanation!("fork-refused"),
    look: fork_refused,
};

fn fork_refused(exam: &Exam<'_>) -> Examined {
    const CLIENTS: usize = 6;
    let Some(user) = nobody_else() else {
        return Err(Stop::Skip(Words::of(
            "needs root: to run the server as a user who has no other process",
            "需要 root 权限：以一个没有其他进程的用户运行服务器",
        )));
    };
    let confinement = Confinement { user: Some((user, user)), ..Confinement::default() };
    let server = exam.server_under(&confinement).map_err(|stop| match stop {
        Stop::Fault(why) => {
            let Words { en, zh } = why;
            Stop::Skip(words!("it does not run as another user: {en}", "它无法以其他用户运行：{zh}"))
        }
        other => other,
    })?;
    let _ = server.pid().map(Cost::await_rest);
    let at_rest = server.cost()?.threads;
    // One that was started by root to become somebody else cannot, and serves nobody.
    let crowd = Crowd::gather(exam, &server, CLIENTS).map_err(|stop| match stop {
        Stop::Fault(why) | Stop::Late(why) => {
            let Words { en, zh } = why;
            Stop::Skip(words!(
                "it does not serve as another user: {en}",
                "它以其他用户运行时不提供服务：{zh}"
            ))
        }
        other => other,
    })?;
    let served = crowd.served.len();
    let with_clients = server.cost()?.threads;
    exam.saw("threads_at_rest", at_rest);
    exam.saw("threads_with_clients", with_clients);
    if with_clients < at_rest + served || served < 2 {
        return Ok(words!(
            "it starts neither a process nor a thread for a client ({served} were served at once)",
            "它不为客户端创建进程或线程（同时服务了 {served} 个）"
        ));
    }
    crowd.leave();
    // On a machine that has no time for it a pool seems to be at rest while it still grows; and what it has grown to stays.
    let has_rest = || server.cost().is_ok_and(|cost| cost.threads < at_rest + served).then_some(());
    if exam.within(PATIENCE, has_rest).is_none() {
        return Ok(words!(
            "it keeps its processes and threads when clients leave ({served} were served at once)",
            "客户端离开后它仍保留其进程和线程（同时服务了 {served} 个）"
        ));
    }
    drop(server);
    let limit = (at_rest + CLIENTS) as u64;
    exam.saw("processes_limit", limit);
    // Somebody else once more: threads of the first one may still be dying, and would count.
    let user = nobody_else().unwrap_or(user);
    let confinement = Confinement { processes: Some(limit), user: Some((user, user)), ..confinement };
    let server = exam.server_under(&confinement).map_err(|stop| does_not_start(stop, "RLIMIT_NPROC"))?;
    let mut crowd = Crowd::gather(exam, &server, 3 * CLIENTS)?;
    for _ in 0..2 {
        crowd.joined_by_another(exam, &server)?;
    }
    let (served, turned_away) = (crowd.served.len(), crowd.refused);
    let waiting = crowd.waiting.len() + crowd.outside;
    exam.saw("clients_served", served);
    exam.saw("clients_turned_away", turned_away);
    exam.saw("clients_waiting", waiting);
    if turned_away + waiting == 0 {
        return Ok(words!(
            "no process was refused: {served} clients were served at once",
            "没有出现创建失败：同时服务了 {served} 个客户端"
        ));
    }
    crowd.echo()?;
    // Who is not closed may be waiting for a process that is free.
    crowd.served.clear();
    for client in &mut crowd.waiting {
        if !client.hears_within(PATIENCE)? {
            let patience = exam.scaled(PATIENCE);
            return Err(Stop::Late(words!(
                "a client for whom there was no process is neither closed nor served {patience:.1?} after the others left",
                "没有进程为其服务的客户端，在其他客户端离开 {patience:.1?} 之后既未关闭也未得到服务"
            )));
        }
    }
    crowd.leave();
    let has_rest = || server.cost().is_ok_and(|cost| cost.threads <= at_rest).then_some(());
    let rests = exam.within(PATIENCE, has_rest).is_some();
    // Also of those that have ended a process may be left for a moment, which counts.
    let newcomer = || exam.client(&server).and_then(|mut client| client.echo(LINE));
    if exam.within(PATIENCE, || newcomer().ok()).is_none() {
        let served = newcomer();
        // Those of clients who have left take the place of new ones: that is another bug.
        if rests { served? } else { served.map_err(Stop::other("zombies, thread-leak, process-leak"))? }
    }
    Ok(words!(
        "{served} clients were served, {turned_away} closed and {waiting} made to wait; then a new one was served",
        "{served} 个客户端得到服务，{turned_away} 个被关闭，{waiting} 个等待；之后新客户端得到服务"
    ))
}

/// A user whose processes would all be the server's, if we may run it as one.
fn nobody_else() -> Option<u32> {
    if !geteuid().is_root() {
        return None;
    }
    let used = users()?;
    // Numbers that systems leave to nobody; another examiner begins elsewhere.
    let (first, count) = (61_184, 4000);
    let ours = std::process::id() % count;
    (0..count).map(|n| first + (ours + n) % count).find(|uid| !used.contains(uid))
}

/// The users who have processes, also such as have ended and are not yet gone.
fn users() -> Option<Vec<u32>> {
    let user = |process: Process| Some(process.status().ok()?.ruid);
    Some(all_processes().ok()?.flatten().filter_map(user).collect())
}
