//! Lesson 23: an average hides, and a polite client hides more.
//!
//! The idea: a thousand questions a second, for two seconds, to a server that stands still once for 400 ms. Who asks the
//! next question when the last answer is back asks nothing while the server stands still: one bad sample, of 400 that
//! users would have had. That is coordinated omission. The cure: count from when each question was *due*.
//!
//! Type, in two terminals:
//!     cargo run --example 23_percentiles
//!     cargo run --bin echo-client load tcp://127.0.0.1:7007 --connections 1 --rate 1000 --duration 2s
//! The second needs a server (`18_backpressure`, say): stop that for a moment, by `kill -STOP` and `kill -CONT`. It goes on
//! asking meanwhile, so what the stop costs is seen in both of its lines, from leaving and from due.
//!
//! Predict before you run:
//!     1. The average of 2,000 answers of 0.1 ms, one of which took 400 ms?
//!     2. The 99th percentile, counted from when each was sent? From when it was due?
//!     3. One in a hundred is slow. A page asks a hundred questions. How many pages are slow?
//!
//! Read next: `client/src/load/schedule.rs` and `client/src/load/pace.rs`; METHODOLOGY.md.
//!
//! What breaks: a figure without its conditions. Who drove it, from when was it counted, how often, beside what?

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

const QUESTIONS: u32 = 2_000;
const GAP: Duration = Duration::from_millis(1);
const STALL: Duration = Duration::from_millis(400);

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = thread::spawn(move || serve(&listener));
    let mut client = TcpStream::connect(address)?;
    client.set_nodelay(true)?;
    // Of microseconds, from 1 to a minute, with three digits kept.
    let histogram = || Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).map_err(io::Error::other);
    let (mut from_sent, mut from_due) = (histogram()?, histogram()?);
    let began = Instant::now();
    for n in 0..QUESTIONS {
        let due = began + GAP * n;
        thread::sleep(due.saturating_duration_since(Instant::now())); // not at all, when it is late already
        let sent = Instant::now();
        client.write_all(b"?")?;
        client.read_exact(&mut [0])?;
        let answered = Instant::now();
        from_sent.saturating_record((answered - sent).as_micros() as u64);
        from_due.saturating_record((answered - due).as_micros() as u64);
    }
    drop(client);
    server.join().map_err(|_| io::Error::other("the server is gone"))??;
    println!("us                mean      p50      p90      p99    p99.9      max");
    for (from, histogram) in [("from sent", from_sent), ("from due", from_due)] {
        let of = |percent| histogram.value_at_percentile(percent);
        let (mean, max) = (histogram.mean(), histogram.max());
        println!("{from:12} {mean:9.0} {:8} {:8} {:8} {:8} {max:8}", of(50.0), of(90.0), of(99.0), of(99.9));
    }
    Ok(())
}

/// Echoes, and stands still once, in the middle.
fn serve(listener: &TcpListener) -> io::Result<()> {
    let (mut client, _) = listener.accept()?;
    for n in 0.. {
        let mut byte = [0];
        if client.read(&mut byte)? == 0 {
            break;
        }
        if n == QUESTIONS / 2 {
            thread::sleep(STALL); // a collector of garbage, a disk, a neighbour
        }
        client.write_all(&byte)?;
    }
    Ok(())
}
