//! Whether the bytes of one client come back: all, in order, unchanged, in time, and with an end.

use std::time::Duration;

use arguments::Transport;

use super::{
    Check, Needs,
    exam::{Exam, Examined},
    explanation,
    words::{Words, words},
};

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
    let all: Vec<u8> = (0..=255).collect();
    client.echo(&all)?;
    client.echo(b"\0\r\r\n\0\x04\x1a")?;
    client.echo(b"\r")?;
    let mut long = exam.noise(1 << 20);
    long.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = 0);
    client.echo(&long)?;
    let count = all.len() + 8 + long.len();
    Ok(words!("{count} bytes of all values came back", "包含所有取值的 {count} 个字节全部返回"))
}

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
        "sent 8 MiB, then shutdown(SHUT_WR), then read until the end",
        "发送 8 MiB，然后 shutdown(SHUT_WR)，再一直读到流的结束",
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
    let said = exam.text(8 << 20);
    let mut client = exam.client(&server)?;
    client.echo_to_the_end(&said)?;
    for _ in 0..20 {
        // Data and FIN in one breath: the end of the stream has no event of its own.
        exam.client(&server)?.echo_to_the_end(b"last words\n")?;
    }
    let count = said.len();
    Ok(words!("{count} bytes and then the end came back", "{count} 字节全部返回，随后是流的结束"))
}
