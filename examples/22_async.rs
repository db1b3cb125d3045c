//! Lesson 22: tasks on a runtime, and the call that blocks them all.
//!
//! The idea: lesson 21 on tokio, with one thread: a task a client, hundreds of bytes each. A task gives the thread back at
//! an `await`, and *only* there. A call that sleeps or computes instead keeps it, and no other task goes on.
//!
//! Type, in two terminals:
//!     cargo run --example 22_async
//!     cargo run --bin echo-client talk tcp://127.0.0.1:7007
//! And a second client in a third terminal. Say `nap` in one of them, then `block`, then `offload`, and talk in the other.
//!
//! Predict before you run:
//!     1. `nap` awaits a timer for a second, `block` sleeps for a second: does the other client notice?
//!     2. `offload` sleeps for a second as well, on another thread. Does the other client notice?
//!     3. How many threads has the process in each case?
//!
//! Read next: `server/src/models/async.rs`; `--work sleep:1ms` with and without `--offload`.
//!
//! What breaks: nothing says which call blocks: it compiles, and it works with one client. And which of all these models is
//! better is a guess until it is measured, rightly: lesson 23.

use std::{env, fs, io, thread, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task, time,
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".into());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (client, address) = listener.accept().await?;
        task::spawn(async move {
            match echo(client).await {
                Ok(bytes) => println!("{address} left after {bytes} bytes"),
                Err(error) => println!("{address} was lost: {error}"),
            }
        });
    }
}

/// The conversation of lesson 3, and three ways to let a client wait.
async fn echo(mut client: TcpStream) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let mut total = 0;
    loop {
        let n = client.read(&mut buffer).await?;
        match &buffer[..n] {
            [] => return Ok(total),
            b"nap\n" => time::sleep(SECOND).await,
            b"block\n" => thread::sleep(SECOND), // so does a name that is looked up, a file that is read, a lock
            b"offload\n" => task::spawn_blocking(|| thread::sleep(SECOND)).await?,
            _ => {}
        }
        if n > 1 && buffer[..n].ends_with(b"\n") {
            println!("{n} bytes, threads: {}", fs::read_dir("/proc/self/task")?.count());
        }
        client.write_all(&buffer[..n]).await?;
        total += n;
    }
}
