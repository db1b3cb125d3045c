//! What outlives its connection: a zombie, a descriptor, a thread, a process.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use arguments::Transport;
use procfs::process::{ProcState, Process};

use super::{
    Check, Needs,
    crowd::{Crowd, LINE},
    exam::{Exam, Examined, Stop},
    examinee::Examinee,
    explanation,
    words::{Words, words},
};
use crate::cost;

/// Children are not reaped.
pub static ZOMBIES: Check = Check {
    id: "zombies",
    transport: Transport::Tcp,
    needs: Needs::Pid,
    points: 4.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("children that have ended are reaped", "已结束的子进程都被回收"),
    done: Words::of(
        "ended up to 100 connections together, and looked for zombies a second later",
        "同时结束至多 100 个连接，一秒后检查僵尸进程",
    ),
    hint: Words::of(
        "signals do not queue: on SIGCHLD, call waitpid(-1, …, WNOHANG) until there is nobody left to reap",
        "信号不排队：收到 SIGCHLD 后要循环调用 waitpid(-1, …, WNOHANG)，直到没有可回收的子进程",
    ),
    explanation: explanation!("zombies"),
    look: zombies,
};

fn zombies(exam: &Exam<'_>) -> Examined {
    const PATIENCE: Duration = Duration::from_secs(1);
    let server = exam.server()?;
    let before = server.processes()?.len();
    let crowd = Crowd::gather(exam, &server, 100)?;
    let clients = crowd.served.len();
    let started = server.processes()?.len().saturating_sub(before);
    exam.saw("clients", clients);
    exam.saw("processes_started", started);
    crowd.leave();
    let zombies =
        || server.processes().map(|all| all.values().filter(|it| **it == ProcState::Zombie).count());
    if started == 0 && zombies()? == 0 {
        return Ok(words!(
            "it starts no process for a client ({clients} were served at once)",
            "它不为客户端创建进程（同时服务了 {clients} 个）"
        ));
    }
    // A child that has not ended yet is no zombie yet.
    exam.within(PATIENCE, || server.processes().is_ok_and(|all| all.len() <= before).then_some(()));
    let left = zombies()?;
    if left == 0 {
        return Ok(words!(
            "{started} children ended, and were reaped",
            "{started} 个子进程结束，并全部被回收"
        ));
    }
    exam.saw("zombies", left);
    let patience = exam.scaled(PATIENCE);
    exam.client(&server)?.echo(LINE)?;
    if exam.within(PATIENCE, || zombies().is_ok_and(|left| left <= 1).then_some(())).is_some() {
        return Err(Stop::Doubt(words!(
            "{left} of {started} children were zombies for {patience:.1?}, until the next client came",
            "{started} 个子进程中有 {left} 个在 {patience:.1?} 内一直是僵尸，直到下一个客户端到来"
        )));
    }
    Err(Stop::Late(words!(
        "{left} of {started} children are zombies {patience:.1?} after their clients left",
        "客户端离开 {patience:.1?} 之后，{started} 个子进程中有 {left} 个仍是僵尸"
    )))
}

/// A descriptor stays open.
pub static FD_LEAK: Check = Check {
    id: "fd-leak",
    transport: Transport::Tcp,
    needs: Needs::Pid,
    points: 4.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of("no descriptor outlives its connection", "连接结束后不遗留描述符"),
    done: Words::of(
        "counted its descriptors, served 200 connections one after the other, and counted again",
        "统计描述符数目，依次完成 200 个连接，再次统计",
    ),
    hint: Words::of(
        "close each client's socket on every path, errors too; after fork the parent closes its copy",
        "在每条路径上（包括出错时）都要关闭客户端的套接字；fork 之后父进程要关闭自己的那一份",
    ),
    explanation: explanation!("fd-leak"),
    look: |exam| {
        outlives(exam, &Words::of("descriptors", "描述符"), |server, first| {
            first.iter().filter_map(|pid| process(*pid)).map(|it| descriptors(server, it)).sum()
        })
    },
};

/// A thread does not end.
pub static THREAD_LEAK: Check = Check {
    id: "thread-leak",
    transport: Transport::Tcp,
    needs: Needs::Pid,
    points: 4.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of("no thread outlives its connection", "连接结束后不遗留线程"),
    done: Words::of(
        "counted its threads, served 200 connections one after the other, and counted again; then measured what is mapped",
        "统计线程数目，依次完成 200 个连接，再次统计；然后测量已映射的内存",
    ),
    hint: Words::of(
        "a thread has to return when its client leaves; join it or detach it (pthread_detach), or its stack stays",
        "客户端离开后线程必须返回；并且要 join 或 detach（pthread_detach），否则它的栈不会释放",
    ),
    explanation: explanation!("thread-leak"),
    look: |exam| {
        outlives(exam, &Words::of("threads", "线程"), |_, first| {
            let threads = |it: Process| it.tasks().map_or(0, |tasks| tasks.flatten().count());
            Ok(first.iter().filter_map(|pid| process(*pid)).map(threads).sum())
        })?;
        stacks_stay(exam)
    },
};

/// More than a conversation may leave mapped, and less than the stack of a thread: 8 MiB, where nobody says otherwise
/// (pthread_create(3)).
const STACK: u64 = 1 << 20;

/// A thread that has returned and was neither joined nor detached is none any more, but its stack is still mapped.
fn stacks_stay(exam: &Exam<'_>) -> Examined {
    const EACH: usize = 50;
    let server = exam.server()?;
    let first = server.living()?;
    let mapped = || -> u64 {
        let size = |it: Process| cost::of_the_living(it).stat().map_or(0, |stat| stat.vsize);
        first.iter().filter_map(|pid| process(*pid)).map(size).sum()
    };
    let serve = |times: usize| {
        (0..times).try_for_each(|_| exam.client(&server)?.patient_for(PATIENCE).echo(LINE))?;
        settled(exam, || Ok(mapped()))
    };
    let mut before = serve(CONNECTIONS / 2)?;
    // A heap grows now and then, and by much at once; what each connection leaves grows every time.
    let mut least = u64::MAX;
    for _ in 0..3 {
        let after = serve(EACH)?;
        least = least.min(after.saturating_sub(before) / EACH as u64);
        before = after;
    }
    exam.saw("bytes_mapped_by_each_connection", least);
    if least >= STACK {
        return Err(Stop::Late(words!(
            "its threads end, but with each connection it maps {least} bytes more: stacks of threads neither joined \
             nor detached",
            "线程都结束了，但每个连接之后它映射的内存都增加 {least} 字节：线程既没有 join 也没有 detach，栈没有释放"
        )));
    }
    Ok(Words::of("no thread outlives its connection, nor does its stack", "连接结束后，线程和它的栈都不遗留"))
}

/// A process does not end.
pub static PROCESS_LEAK: Check = Check {
    id: "process-leak",
    transport: Transport::Tcp,
    needs: Needs::Pid,
    points: 4.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of("no process outlives its connection", "连接结束后不遗留进程"),
    done: Words::of(
        "counted its processes, served 200 connections one after the other, and counted again",
        "统计进程数目，依次完成 200 个连接，再次统计",
    ),
    hint: Words::of(
        "the child must end when it has served its client: _exit after the conversation, or it goes on into the accept loop",
        "子进程服务完客户端就必须结束：会话之后调用 _exit，否则它会继续进入 accept 循环",
    ),
    explanation: explanation!("process-leak"),
    look: |exam| outlives(exam, &Words::of("processes", "进程"), |server, _| Ok(server.living()?.len())),
};

/// How many connections there are.
const CONNECTIONS: usize = 200;
/// For how long a server may be busy with putting away what connections have left.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether what is counted grows with connections. A pool may grow to its size, so the base is counted after as many
/// connections as there are later. `count` is asked of the server and of those of its processes that were there before.
fn outlives(
    exam: &Exam<'_>,
    what: &Words,
    count: impl Fn(&Examinee<'_>, &BTreeSet<u32>) -> Result<usize, Stop>,
) -> Examined {
    let server = exam.server()?;
    let first = server.living()?;
    let serve = || (0..CONNECTIONS).try_for_each(|_| exam.client(&server)?.patient_for(PATIENCE).echo(LINE));
    serve()?;
    let count = || count(&server, &first);
    let before = settled(exam, count)?;
    serve()?;
    // Others may talk to a server that was there before: a few more are no leak, one for every tenth connection is.
    let most = before + CONNECTIONS / 10;
    exam.within(PATIENCE, || count().is_ok_and(|now| now <= most).then_some(()));
    let after = count()?;
    exam.saw("connections", CONNECTIONS);
    exam.saw("count_before", before);
    exam.saw("count_after", after);
    let Words { en, zh } = what;
    if after > most {
        return Err(Stop::Late(words!(
            "{CONNECTIONS} connections came and went, and {en} went from {before} to {after}",
            "{CONNECTIONS} 个连接来去之后，{zh}从 {before} 个增加到 {after} 个"
        )));
    }
    Ok(words!(
        "{en}: {before} before {CONNECTIONS} connections, {after} after",
        "服务 {CONNECTIONS} 个连接之前有 {before} 个{zh}，之后 {after} 个"
    ))
}

/// What is counted once it has not changed for a moment: whoever was started for a client has then ended.
fn settled<N: Copy + PartialEq>(exam: &Exam<'_>, count: impl Fn() -> Result<N, Stop>) -> Result<N, Stop> {
    const MOMENT: Duration = Duration::from_millis(50);
    let (mut last, mut since) = (count()?, Instant::now());
    exam.within(PATIENCE, || {
        let now = count().ok()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() >= exam.scaled(MOMENT)).then_some(())
    });
    Ok(last)
}

fn process(pid: u32) -> Option<Process> {
    Process::new(pid.cast_signed()).ok()
}

/// How many a process has; none where it has just ended. They are listed, for the kernel's own count has those too that
/// threads which block in accept(2) have reserved.
fn descriptors(server: &Examinee<'_>, process: Process) -> Result<usize, Stop> {
    let pid = process.pid.cast_unsigned();
    match cost::of_the_living(process).fd().map(Iterator::count) {
        Err(procfs::ProcError::PermissionDenied(_)) if server.living()?.contains(&pid) => {
            Err(Stop::Skip(words!(
                "the descriptors of process {pid} may not be looked at: it is another user's",
                "无权查看进程 {pid} 的描述符：它属于其他用户"
            )))
        }
        count => Ok(count.unwrap_or(0)),
    }
}
