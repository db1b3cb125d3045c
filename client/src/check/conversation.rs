//! Whether the bytes of one client come back: all, in order, unchanged, in time, and with an end.

use std::{thread, time::Duration};

use arguments::Transport;

use super::{
    Check, Needs,
    client::{Client, PATIENCE},
    exam::{Exam, Examined, Stop},
    examinee::Examinee,
    explanation,
    words::{Words, words},
};

/// How much is sent where it is to be more than all buffers on the way hold.
const LONG: usize = 8 << 20;

/// So long a server gets to meet a FIN while its client reads nothing.
const FIN_ARRIVES: Duration = Duration::from_millis(50);

/// How long is waited for something that may come, and need not.
const BREATH: Duration = Duration::from_millis(1);

/// Text is assumed, or a delimiter.
pub static BYTES: Check = Check {
    id: "bytes",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 5.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("every byte value comes back unchanged", "任何取值的字节都原样返回"),
    done: Words::of(
        "sent all 256 byte values, a lone CR and NUL, and 1 MiB without a newline",
        "发送全部 256 种字节值、单独的 CR 与 NUL，以及 1 MiB 不含换行的数据",
    ),
    hint: Words::of(
        "a stream is bytes: no decoding, no readline, no strlen; send as many bytes as recv returned",
        "流就是字节：不要解码，不要按行读取，不要用 strlen；recv 返回多少字节就发送多少字节",
    ),
    explanation: explanation!("bytes"),
    look: bytes,
};

fn bytes(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let mut client = exam.client(&server)?;
    // The newline comes last: who takes a receive for a message has another bug.
    let all: Vec<u8> = (b'\n' + 1..=255).chain(0..=b'\n').collect();
    let awkward = b"\0\r\r\0\x04\x1a\r\n";
    client.echo(&all)?;
    client.echo(awkward)?;
    client.echo(b"\r")?;
    let mut long = exam.noise(1 << 20);
    long.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = 0);
    // Little at a time: who reads too little of much that comes at once has another bug.
    client.echo_steadily(&long, 512)?;
    let count = all.len() + awkward.len() + 1 + long.len();
    Ok(words!("{count} bytes of all values came back", "包含所有取值的 {count} 个字节全部返回"))
}

/// What every check of streams takes for granted: whoever says a line hears it, and may say another.
pub fn two_lines(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    say_two_lines(exam, &server)
}

/// The same of this server.
pub fn say_two_lines(exam: &Exam<'_>, server: &Examinee<'_>) -> Examined {
    let mut client = exam.client(server)?;
    client.echo(b"a line\n")?;
    client.echo(b"and another\n")?;
    client.leave();
    Ok(Words::of("two lines came back", "两行都返回了"))
}

/// Whoever has served some clients, one after the other, is there for the next.
pub fn is_there_for_the_next(exam: &Exam<'_>) -> Examined {
    const CLIENTS: usize = 3;
    let server = exam.server()?;
    for _ in 0..CLIENTS {
        say_two_lines(exam, &server)?;
        exam.within(ENDS, || server.death());
    }
    Ok(Words::of("it serves one client after the other", "它能依次服务多个客户端"))
}

/// Who ends when a client has left does so by then.
const ENDS: Duration = Duration::from_millis(20);

/// One receive is taken for one message.
pub static SEGMENTS: Check = Check {
    id: "segments",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 4.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(15),
    title: Words::of("where a message is cut makes no difference", "消息在哪里被切开都没有影响"),
    done: Words::of(
        "sent four lines a byte at a time, then 500 lines in a single write",
        "先逐个字节发送四行，再用一次 write 发送 500 行",
    ),
    hint: Words::of(
        "TCP keeps no boundaries: a recv may return half a message or many; echo all n bytes that it returned",
        "TCP 不保留消息边界：一次 recv 可能返回半条消息，也可能返回许多条；它返回的 n 个字节要全部送回",
    ),
    explanation: explanation!("segments"),
    look: segments,
};

fn segments(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let mut client = exam.client(&server)?;
    let said = exam.text(256);
    let mut heard = 0;
    for (at, byte) in said.iter().enumerate() {
        client.send(&[*byte])?;
        heard += client.hear_some(&said[heard..=at], BREATH)?;
    }
    client.hear(&said[heard..])?;
    // All of them together are shorter than the smallest buffer that anybody reads into.
    let lines: Vec<u8> = exam.text(500).into_iter().flat_map(|letter| [letter, b'\n']).collect();
    at_once(&mut client, &lines)?;
    client.leave();
    Ok(Words::of(
        "all came back, sent a byte at a time and 500 lines at once",
        "逐字节发送的内容和一次写出的 500 行都全部返回",
    ))
}

/// Sends all of them in one write. Where some are held back until more comes, and then come by the dozen, the server reads
/// as much as it has room for, though not all there is: that is another bug.
fn at_once(client: &mut Client<'_>, lines: &[u8]) -> Result<(), Stop> {
    const ONE_MORE: &[u8] = b"+\n";
    const DOZEN: usize = 12 * ONE_MORE.len();
    client.send(lines)?;
    let all = [lines, ONE_MORE].concat();
    let mut heard = 0;
    while heard < lines.len() {
        match client.hear_some(&all[heard..], PATIENCE)? {
            0 => {
                let late = client.hear(&lines[heard..]);
                client.send(ONE_MORE)?;
                let held_back = client.hear_some(&all[heard..], PATIENCE)?;
                return if held_back > DOZEN { late.map_err(Stop::other("edge-trigger")) } else { late };
            }
            n => heard += n,
        }
    }
    Ok(())
}

/// The rest of a short write is lost.
pub static PARTIAL_WRITE: Check = Check {
    id: "partial-write",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 8.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("nothing is lost where send takes less than all", "send 只收下一部分时也不丢失数据"),
    done: Words::of(
        "sent up to 8 MiB through a small receive buffer and did not read until nothing more was taken, then read all",
        "用很小的接收缓冲区发送最多 8 MiB，直到对方不再接收才开始读，然后全部读完",
    ),
    hint: Words::of(
        "look at what send returns: less than asked, or EAGAIN, means keep the rest and send it when the socket is \
         writable again",
        "检查 send 的返回值：少于请求的字节数或 EAGAIN 时，要保留剩余部分，等套接字可写时再发送",
    ),
    explanation: explanation!("partial-write"),
    look: partial_write,
};

/// Looks for a write that lost its rest.
pub fn partial_write(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    who_hurries_is_answered(exam, &server)?;
    let said = exam.text(LONG);
    let taken = who_reads_late_gets_all(exam, &server, &said)
        .or_else(|stop| unless_read_once(exam, &server, stop))?;
    let count = said.len();
    Ok(words!(
        "{count} bytes came back, although nothing was read until {taken} were taken",
        "虽然在服务器收下 {taken} 字节之前什么都没有读，{count} 字节仍然全部返回"
    ))
}

/// A client that does not read before it has sent what is taken, and then all of it: how many bytes were taken unread.
fn who_reads_late_gets_all(exam: &Exam<'_>, server: &Examinee<'_>, said: &[u8]) -> Result<usize, Stop> {
    let mut client = Client::connect_narrowly(exam, server.address(exam.transport())?)?;
    // One line is kept back: where the rest of a short write was lost, it comes too early.
    let most = said.len() - 64;
    let taken = client.fill(said, most, STILL)?;
    exam.saw("bytes_taken_unread", taken);
    if taken == most {
        client.lets_it_read_all(STILL)?;
    }
    client.exchange(&said[taken..], said)?;
    client.leave();
    Ok(taken)
}

/// Who takes nothing for so long is taken to be full.
const STILL: Duration = Duration::from_millis(150);

/// What comes in modest pieces is echoed at once: else the server has a bug that needs no full buffers.
fn who_hurries_is_answered(exam: &Exam<'_>, server: &Examinee<'_>) -> Result<(), Stop> {
    let mut client = exam.client(server)?;
    let said = exam.text(BURST);
    said.chunks(64 << 10)
        .try_for_each(|piece| client.echo(piece))
        .map_err(Stop::other("segments, edge-trigger"))?;
    client.leave();
    Ok(())
}

/// Who is late also with a burst that its client reads all the while does not read to the end what an event tells of: it has
/// that bug, and of another nothing can be said.
pub fn unless_read_once<T>(exam: &Exam<'_>, server: &Examinee<'_>, stop: Stop) -> Result<T, Stop> {
    if let Stop::Late(_) = &stop {
        let mut prompt = exam.client(server)?;
        if let Err(Stop::Late(_)) = (0..4).try_for_each(|_| prompt.echo(&exam.text(BURST))) {
            return Err(Stop::other("edge-trigger")(stop));
        }
        prompt.leave();
    }
    Err(stop)
}

/// More than any buffer that a server reads into.
const BURST: usize = 512 << 10;

/// What is still owed when the client's FIN comes is lost.
pub static HALF_CLOSE: Check = Check {
    id: "half-close",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 5.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of(
        "after the client's FIN it gets all that it is owed",
        "客户端发送 FIN 之后仍能收到全部数据",
    ),
    done: Words::of(
        "sent 8 MiB, then shutdown(SHUT_WR), then read until the end; the same when it had read all and could send no more; \
         and 20 times a line with the FIN behind it",
        "发送 8 MiB，然后 shutdown(SHUT_WR)，再一直读到流的结束；在它全部读入而无法继续发送时再做一次；另有 20 次发送一行并紧跟 FIN",
    ),
    hint: Words::of(
        "recv returning 0 means that the client sends no more, not that it has gone: send what is left, then close",
        "recv 返回 0 表示客户端不再发送，而不是它已离开：先把剩余的数据发完，再关闭",
    ),
    explanation: explanation!("half-close"),
    look: half_close,
};

fn half_close(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let said = exam.text(LONG);
    // The same without a FIN: what is lost already then is no fault of the end.
    who_reads_late_gets_all(exam, &server, &said).map_err(Stop::other("partial-write, edge-trigger"))?;
    let mut client = exam.client(&server)?;
    // As much as is taken before anything is read: so the FIN comes, if it can, while most is owed.
    let taken = client.fill(&said, LONG, STILL)?;
    exam.saw("bytes_taken_unread", taken);
    if taken == LONG {
        client.finish()?;
        thread::sleep(exam.scaled(FIN_ARRIVES));
        client.hear(&said)?;
    } else {
        client.exchange_the_last(&said[taken..], &said)?;
    }
    match client.hear_the_end() {
        Err(Stop::Late(_)) => {} // nothing is lost; that there is no end is what `eof` says
        ended => ended?,
    }
    // A FIN that comes when the server has read all, and could not send all of it.
    let mut client = Client::connect_narrowly(exam, server.address(exam.transport())?)?;
    let taken = client.fill_until_some_is_kept(&said, STILL)?;
    exam.saw("bytes_taken_before_the_fin", taken);
    client.finish()?;
    thread::sleep(exam.scaled(FIN_ARRIVES));
    client.hear(&said[..taken])?;
    client.leave();
    for _ in 0..20 {
        // Data and FIN in one breath.
        exam.client(&server)?.exchange_the_last(b"last words\n", b"last words\n")?;
    }
    let count = said.len();
    Ok(words!(
        "{count} bytes came back after the FIN, and last words that came together with it",
        "发送 FIN 之后 {count} 字节全部返回，与 FIN 同时到达的最后几个字节也返回了"
    ))
}

/// The connection is never closed.
pub static EOF: Check = Check {
    id: "eof",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 3.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of("the client's FIN is answered by the server's", "收到客户端的 FIN 之后服务器也发送 FIN"),
    done: Words::of(
        "shutdown(SHUT_WR) after a line was echoed, without a word, and right behind a line; each time waited for the end",
        "分别在一行回显之后、什么都没发送时、以及紧跟在一行之后 shutdown(SHUT_WR)，每次都等待流的结束",
    ),
    hint: Words::of(
        "recv returning 0 is the end: leave the loop and close the socket, in every process that holds it",
        "recv 返回 0 就是流的结束：退出循环并关闭套接字，持有它的每个进程都要关闭",
    ),
    explanation: explanation!("eof"),
    look: eof,
};

fn eof(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let second = Duration::from_secs(1);
    let mut after_a_line = exam.client(&server)?.patient_for(second);
    after_a_line.echo(b"hello\n")?;
    after_a_line.finish()?;
    after_a_line.hear_the_end()?;
    drop(after_a_line);
    let mut without_a_word = exam.client(&server)?.patient_for(second);
    without_a_word.finish()?;
    without_a_word.hear_the_end()?;
    drop(without_a_word);
    for _ in 0..20 {
        // The end of the stream comes together with the last bytes, and has no event of its own.
        let mut in_one_breath = exam.client(&server)?.patient_for(second);
        in_one_breath.send(b"last words\n")?;
        in_one_breath.finish()?;
        in_one_breath.see_the_end().or_else(|stop| unless_read_once(exam, &server, stop))?;
    }
    Ok(Words::of("the end came after each FIN", "每次发送 FIN 之后都等到了流的结束"))
}

/// Of what an event tells of, one receive's worth is read.
pub static EDGE_TRIGGER: Check = Check {
    id: "edge-trigger",
    transport: Transport::Tcp,
    needs: Needs::BlackBox,
    points: 4.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("a burst larger than any buffer is read to its end", "超过缓冲区大小的突发数据会被读完"),
    done: Words::of(
        "sent 512 KiB at once and then nothing, eight times, and read all the while",
        "一次发送 512 KiB，然后保持安静，共八次，同时一直在读",
    ),
    hint: Words::of(
        "an edge comes once: read until EAGAIN before you wait again, or use level-triggered events",
        "边沿只通知一次：再次等待之前要一直读到 EAGAIN，或者使用水平触发",
    ),
    explanation: explanation!("edge-trigger"),
    look: edge_trigger,
};

fn edge_trigger(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let mut client = exam.client(&server)?;
    let burst = exam.text(BURST);
    for _ in 0..8 {
        match client.echo(&burst) {
            // Changed or cut off, and not held back: that is another bug.
            Err(fault @ Stop::Fault(_)) => return Err(Stop::other("segments, bytes")(fault)),
            echoed => echoed?,
        }
    }
    client.leave();
    Ok(Words::of("eight bursts of 512 KiB came back", "八次 512 KiB 的突发数据全部返回"))
}
