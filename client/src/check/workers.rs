//! What the death of one process costs the clients of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use arguments::Transport;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::{ProcState, Process};

use super::{
    Check, Needs,
    client::{Client, PATIENCE},
    crowd::{Crowd, LINE},
    exam::{Exam, Examined, Stop},
    examinee::Examinee,
    explanation,
    words::{Words, words},
};
use crate::{
    cost,
    listener::{self, StateFlags},
    server::sockets_at,
};

/// One worker's death hurts others.
pub static WORKER_KILLED: Check = Check {
    id: "worker-killed",
    transport: Transport::Tcp,
    needs: Needs::Spawned,
    points: 3.0,
    is_quick: false,
    is_iteratives: false,
    limit: Duration::from_secs(60),
    title: Words::of("a worker's death costs its own clients alone", "工作进程之死只影响它自己的客户端"),
    done: Words::of(
        "killed (SIGKILL) the process that serves one client, then all idle workers, while others talked",
        "用 SIGKILL 杀死正在服务某个客户端的进程，再杀死所有空闲的工作进程，其他客户端同时通信",
    ),
    hint: Words::of(
        "the parent waits for its workers and starts another for each that died; a lock between processes has to be robust",
        "父进程要等待工作进程，死一个补一个；进程间的锁必须是健壮的（robust）",
    ),
    explanation: explanation!("worker-killed"),
    look: worker_killed,
};

fn worker_killed(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    exam.client(&server)?.echo(LINE)?;
    let before = who_rests(exam, &server)?;
    let mut crowd = Crowd::gather(exam, &server, 8)?;
    let clients = std::mem::take(&mut crowd.served);
    let holders = holders(&server, &clients)?;
    let victim = holders[0];
    if victim == server.pid()? {
        return Err(Stop::Skip(Words::of("there are no worker processes", "没有工作进程")));
    }
    let Some(trade) = Trade::of(&server, victim)? else {
        return Err(Stop::Skip(Words::of("the worker processes may not be looked at", "无权查看工作进程")));
    };
    let at_rest: BTreeSet<u32> = before.into_iter().filter(|pid| trade.is_followed_by(*pid)).collect();
    let (own, mut others): (Vec<_>, Vec<_>) =
        clients.into_iter().zip(&holders).partition(|(_, holder)| **holder == victim);
    let (its_own, of_others) = (own.len(), others.len());
    let workers_at_rest = at_rest.len();
    exam.saw("workers_at_rest", workers_at_rest);
    exam.saw("clients_of_the_killed", its_own);
    exam.saw("clients_of_others", of_others);
    let is_the_only_one = workers_at_rest == 1 && at_rest.contains(&victim);
    if is_the_only_one {
        server.may_end();
    }
    kill_worker(exam, victim)?;
    if is_the_only_one && exam.within(PATIENCE / 4, || server.ended()).is_some() {
        return Err(Stop::Skip(Words::of(
            "one process serves all clients, and the server ends with it",
            "所有客户端都由同一个进程服务，服务器随它一起结束",
        )));
    }
    own.into_iter().try_for_each(|(client, _)| ended(exam, client))?;
    others.iter_mut().try_for_each(|(client, _)| client.echo(LINE))?;
    // Where there are fewer workers than clients, one waited for a place and has it now: it is wanted for another.
    std::mem::take(&mut crowd.waiting).into_iter().for_each(Client::leave);
    exam.client(&server)?.echo(LINE)?;
    // All who are idle, those who have come for others too, before another client comes: with each that is served a lock
    // goes to the next, and would be out of our way. Once they rest, one has it for certain.
    let at_rest_now = who_rests(exam, &server)?;
    let is_idle = |pid: &u32| trade.is_followed_by(*pid) && !holders.contains(pid);
    let idle: Vec<u32> = at_rest_now.into_iter().filter(|pid| workers_at_rest > 0 && is_idle(pid)).collect();
    idle.iter().try_for_each(|&pid| kill_worker(exam, pid))?;
    let killed = idle.len();
    exam.client(&server)?.echo(LINE).map_err(|stop| match stop {
        Stop::Late(_) => Stop::Late(words!(
            "after {killed} idle workers were killed, a new client is not served",
            "杀死 {killed} 个空闲的工作进程之后，新客户端得不到服务"
        )),
        other => other,
    })?;
    others.iter_mut().try_for_each(|(client, _)| client.echo(LINE))?;
    drop(others);
    crowd.leave();
    if workers_at_rest == 0 {
        return Ok(words!(
            "{its_own} client ended with its process, {of_others} others went on",
            "{its_own} 个客户端随其进程结束，另外 {of_others} 个不受影响"
        ));
    }
    let there = || {
        let now = workers(&server)?;
        Ok(now.into_iter().filter(|pid| trade.is_followed_by(*pid)).count())
    };
    let whole = || there().is_ok_and(|now: usize| now >= workers_at_rest).then_some(());
    if exam.within(PATIENCE, whole).is_none() {
        let now = there()?;
        let patience = exam.scaled(PATIENCE);
        exam.saw("workers_later", now);
        return Err(Stop::Late(words!(
            "of {workers_at_rest} workers {now} are there {patience:.1?} after the last was killed",
            "原有 {workers_at_rest} 个工作进程，最后一个被杀 {patience:.1?} 之后只有 {now} 个"
        )));
    }
    exam.client(&server)?.echo(LINE)?;
    let killed = 1 + idle.len();
    Ok(words!(
        "{its_own} clients ended with their process, {of_others} went on; {killed} workers were killed, and replaced",
        "{its_own} 个客户端随其进程结束，{of_others} 个不受影响；{killed} 个工作进程先后被杀，并全部得到补充"
    ))
}

/// Its processes but the first.
fn workers(server: &Examinee<'_>) -> Result<BTreeSet<u32>, Stop> {
    let of_its_own: BTreeSet<u32> = cost::pids(server.pid()?).into_iter().skip(1).collect();
    Ok(server.living()?.intersection(&of_its_own).copied().collect())
}

/// The same, once all that are to be there are: each of its processes sleeps, and for a moment none has come or gone.
fn who_rests(exam: &Exam<'_>, server: &Examinee<'_>) -> Result<BTreeSet<u32>, Stop> {
    const MOMENT: Duration = Duration::from_millis(50);
    let (mut last, mut since) = (workers(server)?, Instant::now());
    exam.within(PATIENCE, || {
        let now = workers(server).ok()?;
        let all_sleep = server.processes().is_ok_and(|all| !all.values().any(|it| *it == ProcState::Running));
        if now != last || !all_sleep {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() >= exam.scaled(MOMENT)).then_some(())
    });
    Ok(last)
}

/// What tells a worker from another process that the server has started: a logger, a manager of shared memory.
struct Trade {
    program: PathBuf,
    words: Vec<String>,
    sockets: BTreeSet<u64>,
}

impl Trade {
    /// That of a worker; `None` where it may not be looked at.
    fn of(server: &Examinee<'_>, worker: u32) -> Result<Option<Self>, Stop> {
        let sockets = sockets_at(Transport::Tcp, server.address(Transport::Tcp)?.port());
        let process = Process::new(worker.cast_signed()).map(cost::of_the_living);
        let told = process.and_then(|it| Ok(Self { program: it.exe()?, words: it.cmdline()?, sockets }));
        Ok(told.ok())
    }

    /// Whether a process runs the same program, and listens or was started by the same words.
    fn is_followed_by(&self, pid: u32) -> bool {
        let Ok(process) = Process::new(pid.cast_signed()).map(cost::of_the_living) else { return false };
        let listens = || {
            cost::sockets(pid).iter().any(|(inode, held)| self.sockets.contains(inode) && held.contains(&pid))
        };
        process.exe().is_ok_and(|program| program == self.program)
            && (process.cmdline().is_ok_and(|words| words == self.words) || listens())
    }
}

/// Which of its processes has the other end of each client's connection.
fn holders(server: &Examinee<'_>, clients: &[Client<'_>]) -> Result<Vec<u32>, Stop> {
    let port = server.address(Transport::Tcp)?.port();
    let ends: BTreeMap<u16, u64> =
        listener::ends(port, &StateFlags::all()).iter().map(|it| (it.peer, it.inode)).collect();
    let held = cost::sockets(server.pid()?);
    let holder = |client: &Client<'_>| {
        let inode = ends.get(&client.address()?.port());
        let mut pids = inode.and_then(|inode| held.get(inode)).into_iter().flatten();
        match (pids.next(), pids.next()) {
            (Some(pid), None) => Ok(*pid),
            _ => Err(Stop::Skip(Words::of(
                "which process serves a client cannot be told: not exactly one has its connection, see inherited",
                "无法判断哪个进程在服务某个客户端：持有该连接的进程不是恰好一个，见 inherited",
            ))),
        }
    };
    clients.iter().map(holder).collect()
}

/// Kills a worker, and waits until it has died: who dies in accept(2) may take a client along that comes meanwhile.
fn kill_worker(exam: &Exam<'_>, pid: u32) -> Result<(), Stop> {
    match kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL) {
        Ok(()) => {}
        Err(nix::Error::ESRCH) => return Ok(()), // it has retired
        Err(error) => return Err(Stop::Harness(format!("kill {pid}: {error}"))),
    }
    exam.within(PATIENCE, || (!cost::lives(pid)).then_some(()));
    Ok(())
}

/// A client whose process was killed hears the end, or a reset.
fn ended(exam: &Exam<'_>, client: Client<'_>) -> Result<(), Stop> {
    if client.hears_within(PATIENCE)? {
        client.leave();
        return Ok(());
    }
    let patience = exam.scaled(PATIENCE);
    Err(Stop::Late(words!(
        "the client of a killed process does not see the end of its connection within {patience:.1?}",
        "进程被杀 {patience:.1?} 之后，它的客户端仍看不到连接结束"
    )))
}
