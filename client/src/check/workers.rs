//! What the death of one process costs the clients of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use arguments::Transport;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

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
    cost::{self, Cost},
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
    let master = master(&server)?;
    let at_rest = workers(master);
    let mut crowd = Crowd::gather(exam, &server, 8)?;
    let clients = std::mem::take(&mut crowd.served);
    let holders = holders(&server, &clients)?;
    let victim = holders[0];
    if victim == master {
        return Err(Stop::Skip(Words::of("there are no worker processes", "没有工作进程")));
    }
    let (own, mut others): (Vec<_>, Vec<_>) =
        clients.into_iter().zip(&holders).partition(|(_, holder)| **holder == victim);
    let (its_own, of_others) = (own.len(), others.len());
    let workers_at_rest = at_rest.len();
    exam.saw("workers_at_rest", workers_at_rest);
    exam.saw("clients_of_the_killed", its_own);
    exam.saw("clients_of_others", of_others);
    kill_worker(exam, victim)?;
    own.into_iter().try_for_each(|(client, _)| ended(exam, client))?;
    others.iter_mut().try_for_each(|(client, _)| client.echo(LINE))?;
    exam.client(&server)?.echo(LINE)?;
    let idle: Vec<u32> = at_rest.into_iter().filter(|pid| !holders.contains(pid)).collect();
    for &pid in &idle {
        kill_worker(exam, pid)?;
        exam.client(&server)?.echo(LINE).map_err(|stop| match stop {
            Stop::Late(_) => Stop::Late(words!(
                "after an idle worker ({pid}) was killed, a new client is not served",
                "杀死一个空闲的工作进程（{pid}）之后，新客户端得不到服务"
            )),
            other => other,
        })?;
    }
    others.iter_mut().try_for_each(|(client, _)| client.echo(LINE))?;
    drop(others);
    crowd.leave();
    if workers_at_rest == 0 {
        return Ok(words!(
            "{its_own} client ended with its process, {of_others} others went on",
            "{its_own} 个客户端随其进程结束，另外 {of_others} 个不受影响"
        ));
    }
    let whole = || (workers(master).len() >= workers_at_rest).then_some(());
    if exam.within(PATIENCE, whole).is_none() {
        let now = workers(master).len();
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

/// The first of the server's own processes. What starts it (`run.sh`) is none of them: it has no listening socket, and one
/// child.
fn master(server: &Examinee<'_>) -> Result<u32, Stop> {
    let mut first = server.pid()?;
    let listening = sockets_at(Transport::Tcp, server.address(Transport::Tcp)?.port());
    let mut held = cost::sockets(first);
    let accepting: BTreeSet<u32> =
        listening.iter().filter_map(|inode| held.remove(inode)).flatten().collect();
    while !accepting.contains(&first)
        && let [only] = cost::children(first)[..]
    {
        first = only;
    }
    Ok(first)
}

/// All that descend from the master, and live.
fn workers(master: u32) -> BTreeSet<u32> {
    cost::pids(master).into_iter().skip(1).filter(|pid| cost::lives(*pid)).collect()
}

/// Which of its processes has the other end of each client's connection.
fn holders(server: &Examinee<'_>, clients: &[Client<'_>]) -> Result<Vec<u32>, Stop> {
    let port = server.address(Transport::Tcp)?.port();
    let lists = [procfs::net::tcp(), procfs::net::tcp6()];
    let ends: BTreeMap<u16, u64> = lists
        .into_iter()
        .flatten()
        .flatten()
        .filter(|it| it.local_address.port() == port)
        .map(|it| (it.remote_address.port(), it.inode))
        .collect();
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
