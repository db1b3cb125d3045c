//! What the death of one process costs the clients of others.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use arguments::Transport;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::{FDTarget, Process};

use super::{
    Check, Needs,
    client::{Client, PATIENCE},
    crowd::{Crowd, LINE},
    exam::{Exam, Examined, Stop},
    examinee::Examinee,
    explanation,
    words::{Words, words},
};
use crate::cost::Cost;

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
        "killed (SIGKILL) the process that serves one client, then each idle worker in turn, while others talked",
        "用 SIGKILL 杀死正在服务某个客户端的进程，再逐个杀死空闲的工作进程，其他客户端同时通信",
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
    Cost::await_rest(server.pid()?);
    let idle = workers(&server)?;
    let mut crowd = Crowd::gather(exam, &server, 8)?;
    let Some(victim) = held_by(&server, crowd.served[0].address()?)? else {
        return Err(Stop::Skip(Words::of("there are no worker processes", "没有工作进程")));
    };
    exam.saw("workers_at_rest", idle.len());
    let mut others = Vec::new();
    let mut own = Vec::new();
    for client in std::mem::take(&mut crowd.served) {
        let is_own = held_by(&server, client.address()?)? == Some(victim);
        if is_own { own.push(client) } else { others.push(client) }
    }
    let (its_own, of_others) = (own.len(), others.len());
    exam.saw("clients_of_the_killed", its_own);
    exam.saw("clients_of_others", of_others);
    kill_process(victim)?;
    for client in own {
        ended(exam, client)?;
    }
    for client in &mut others {
        client.echo(LINE)?;
    }
    exam.client(&server)?.echo(LINE)?;
    for pid in idle.iter().filter(|pid| **pid != victim) {
        kill_if_idle(&server, *pid, &others)?;
        exam.client(&server)?.echo(LINE).map_err(|stop| match stop {
            Stop::Late(_) => Stop::Late(words!(
                "after an idle worker ({pid}) was killed, a new client is not served",
                "杀死一个空闲的工作进程（{pid}）之后，新客户端得不到服务"
            )),
            other => other,
        })?;
    }
    for client in &mut others {
        client.echo(LINE)?;
    }
    drop(others);
    crowd.leave();
    let whole = || workers(&server).is_ok_and(|now| now.len() >= idle.len()).then_some(());
    if exam.within(PATIENCE, whole).is_none() {
        let (before, now) = (idle.len(), workers(&server)?.len());
        let patience = exam.scaled(PATIENCE);
        exam.saw("workers_later", now);
        return Err(Stop::Late(words!(
            "of {before} workers {now} are there {patience:.1?} after the last was killed",
            "原有 {before} 个工作进程，最后一个被杀 {patience:.1?} 之后只有 {now} 个"
        )));
    }
    exam.client(&server)?.echo(LINE)?;
    let killed = idle.len();
    Ok(words!(
        "{its_own} clients ended with their process, {of_others} went on; {killed} workers were killed, and replaced",
        "{its_own} 个客户端随其进程结束，{of_others} 个不受影响；{killed} 个工作进程先后被杀，并全部得到补充"
    ))
}

/// Its processes but the first.
fn workers(server: &Examinee<'_>) -> Result<BTreeSet<u32>, Stop> {
    let first = server.pid()?;
    Ok(server.living()?.into_iter().filter(|pid| *pid != first).collect())
}

/// Which of the workers has the other end of a client's connection.
fn held_by(server: &Examinee<'_>, client: SocketAddr) -> Result<Option<u32>, Stop> {
    let lists = [procfs::net::tcp(), procfs::net::tcp6()];
    let is_its =
        |remote: SocketAddr| remote.port() == client.port() && remote.ip().to_canonical() == client.ip();
    let mut entries = lists.into_iter().flatten().flatten();
    let Some(entry) = entries.find(|it| is_its(it.remote_address)) else { return Ok(None) };
    let holds = |pid: &u32| {
        let fds = Process::new(pid.cast_signed()).and_then(|process| process.fd());
        fds.into_iter()
            .flatten()
            .flatten()
            .any(|fd| matches!(fd.target, FDTarget::Socket(inode) if inode == entry.inode))
    };
    Ok(workers(server)?.into_iter().find(holds))
}

/// Kills a worker, unless it serves somebody by now.
fn kill_if_idle(server: &Examinee<'_>, pid: u32, others: &[Client<'_>]) -> Result<(), Stop> {
    for client in others {
        if held_by(server, client.address()?)? == Some(pid) {
            return Ok(());
        }
    }
    kill_process(pid)
}

fn kill_process(pid: u32) -> Result<(), Stop> {
    match kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(Stop::Harness(format!("kill {pid}: {error}"))),
    }
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
