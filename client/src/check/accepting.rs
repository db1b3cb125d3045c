//! What a server makes of a client that is lost before it is accepted.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use arguments::Transport;

use super::{
    Check, Needs,
    crowd::LINE,
    exam::{Exam, Examined, Stop},
    examinee::Confinement,
    explanation,
    words::{Words, words},
};

/// One client's error ends them all.
pub static ACCEPT_ERROR: Check = Check {
    id: "accept-error",
    transport: Transport::Tcp,
    needs: Needs::Root,
    points: 3.0,
    is_quick: false,
    is_iteratives: false,
    limit: Duration::from_secs(40),
    title: Words::of("an accept that fails costs nobody else", "accept 失败不影响其他客户端"),
    done: Words::of(
        "had the second accept fail by strace: with ECONNABORTED, with EPROTO, with ENETDOWN",
        "用 strace 让第二次 accept 失败：分别为 ECONNABORTED、EPROTO、ENETDOWN",
    ),
    hint: Words::of(
        "these are errors of a connection that is gone, not of the listener: accept again (accept(2), Error handling)",
        "这些错误属于已经消失的连接，而不是监听套接字：再次 accept 即可（见 accept(2) 的 Error handling）",
    ),
    explanation: explanation!("accept-error"),
    look: accept_error,
};

/// What accept(2) tells of a connection, and not of the listener.
const ERRORS: [&str; 3] = ["ECONNABORTED", "EPROTO", "ENETDOWN"];
/// How many clients come at most until somebody has accepted twice.
const CLIENTS: usize = 200;
/// How strace marks a call that it made to fail.
const INJECTED: &str = "(INJECTED)";

fn accept_error(exam: &Exam<'_>) -> Examined {
    let journal = Journal::new();
    if let Some(why) = journal.why_not() {
        return Err(Stop::Skip(words!("strace cannot be used: {why}", "无法使用 strace：{why}")));
    }
    for error in ERRORS {
        exam.saw("injected", error);
        let confinement = Confinement { behind: journal.strace(error), ..Confinement::default() };
        let server = exam.server_under(&confinement)?;
        // The second accept of whoever accepts: of one at the latest when the second client comes, of one among many when
        // it is its turn again.
        for n in 1..=CLIENTS {
            exam.client(&server)?.echo(LINE).map_err(|stop| match stop {
                Stop::Late(_) => Stop::Late(words!(
                    "after an accept failed with {error}, client {n} was not served",
                    "accept 因 {error} 失败之后，第 {n} 个客户端没有得到服务"
                )),
                other => other,
            })?;
            let accepts = journal.text();
            if n >= 4 && (accepts.is_empty() || accepts.contains(INJECTED)) {
                break;
            }
        }
        let accepts = journal.text();
        if accepts.is_empty() {
            return Err(Stop::Skip(Words::of(
                "it does not accept by a system call of its own, so none can be made to fail",
                "它不是通过 accept 系统调用接受连接的，因此无法注入失败",
            )));
        }
        if !accepts.contains(INJECTED) {
            return Err(Stop::Skip(words!(
                "none of those who accept did so twice for {CLIENTS} clients, so none could be made to fail",
                "{CLIENTS} 个客户端中，没有哪个线程或进程 accept 过两次，因此无法注入失败"
            )));
        }
    }
    let count = ERRORS.len();
    Ok(words!("{count} kinds of failed accepts cost nobody", "{count} 种 accept 失败都没有影响任何客户端"))
}

/// What strace writes down; removed when this is dropped.
struct Journal(PathBuf);

impl Journal {
    fn new() -> Self {
        // A name that nobody knows before: servers that are examined may write there too.
        Self(std::env::temp_dir().join(format!("echo-client-accepts-{:016x}", rand::random::<u64>())))
    }

    /// Why strace(1) cannot trace here.
    fn why_not(&self) -> Option<String> {
        let mut strace = Command::new("strace");
        strace.args(&self.strace(ERRORS[0])[1..]).arg("true").stdin(Stdio::null());
        match strace.output() {
            Ok(output) if output.status.success() => {
                let _ = fs::remove_file(&self.0);
                None
            }
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// The words that start strace so that the second accept of each thread fails.
    fn strace(&self, error: &str) -> Vec<String> {
        let inject = format!("inject=accept,accept4:error={error}:when=2");
        let words = ["strace", "-f", "-qq", "-e", "trace=accept,accept4", "-e", &inject, "-o"];
        words.into_iter().map(str::to_owned).chain([self.0.display().to_string()]).collect()
    }

    /// The calls so far.
    fn text(&self) -> String {
        fs::read(&self.0).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
