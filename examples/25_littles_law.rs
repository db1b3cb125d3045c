//! Lesson 25: producer and consumer, and how long the queue gets.
//!
//! The idea: Little's law: in a queue that is stable, the number inside is the rate of arrival times the time that each
//! stays: L = lambda W. Whatever the order, whatever the distribution. Waiting grows without bound as the load nears what
//! the consumer can do; beyond it there is no queue length that would be enough.
//!
//! Type, in two terminals:
//!     cargo run --example 25_littles_law
//!     cargo run --bin echo-server -- --model thread-pool --dispatch queue --workers 2 --queue 16 --work sleep:1ms
//! The second has such a queue. It says its pid; with that, in a third and a fourth:
//!     target/debug/echo-server status PID --watch
//!     cargo run --bin echo-client load tcp://127.0.0.1:7007 --connections 8 --churn 1
//!
//! Predict before you run:
//!     1. The consumer is busy for half of the time. How many are inside, on the average? At 80 %? At 95 %?
//!     2. At 120 %: how many after one second, two, ten?
//!     3. A second consumer at the same queue, or a second queue with its consumer: which waits less?
//!
//! Read next: `server/src/queue.rs`; how `compare` checks its own figures by this law, in METHODOLOGY.md.
//!
//! What breaks: a queue without bound hides an overload until the memory is full. A bound makes it a decision: wait, or
//! refuse (lesson 9).

use std::{
    sync::{
        atomic::{AtomicI64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rand_distr::{Distribution, Exp1};

/// What serving one takes.
const SERVICE: Duration = Duration::from_millis(2);
/// For how long the producer produces.
const RUN: Duration = Duration::from_secs(2);

fn main() {
    println!("load   arrivals/s   W, ms   lambda W   L, looked at   most inside");
    [0.5, 0.8, 0.95, 1.2].into_iter().for_each(measure);
}

fn measure(load: f64) {
    let inside = AtomicI64::new(0); // in the queue, or being served
    let (put, get) = mpsc::channel();
    let began = Instant::now();
    let (mut sum, mut looks, mut most) = (0, 0, 0);
    let stays: Vec<Duration> = thread::scope(|scope| {
        scope.spawn(|| produce(put, SERVICE.div_f64(load), began, &inside));
        let consumer = scope.spawn(|| consume(get, &inside));
        while !consumer.is_finished() {
            thread::sleep(Duration::from_millis(1));
            let now = inside.load(Relaxed);
            (sum, looks, most) = (sum + now, looks + 1, most.max(now));
        }
        consumer.join().unwrap_or_default()
    });
    let (count, time) = (stays.len() as f64, began.elapsed().as_secs_f64());
    let (rate, stay) = (count / time, stays.iter().sum::<Duration>().as_secs_f64() / count);
    let looked_at = sum as f64 / f64::from(looks);
    println!(
        "{load:4.2}   {rate:10.0}   {:5.1}   {:8.1}   {looked_at:12.1}   {most:11}",
        stay * 1000.0,
        rate * stay
    );
}

/// Puts in one after the other, at random (Poisson) around one every `gap`.
fn produce(put: mpsc::Sender<Instant>, gap: Duration, began: Instant, inside: &AtomicI64) {
    let mut due = began;
    while due < began + RUN {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        inside.fetch_add(1, Relaxed);
        let _ = put.send(Instant::now());
        let gaps: f64 = Exp1.sample(&mut rand::rng());
        due += gap.mul_f64(gaps);
    }
}

/// Serves one after the other; how long each stayed.
fn consume(get: mpsc::Receiver<Instant>, inside: &AtomicI64) -> Vec<Duration> {
    let mut free = Instant::now();
    let serve = |came: Instant| {
        // Sleeping takes a little longer than it should, which is not to add up.
        free = free.max(came) + SERVICE;
        thread::sleep(free.saturating_duration_since(Instant::now()));
        inside.fetch_sub(1, Relaxed);
        came.elapsed()
    };
    get.into_iter().map(serve).collect()
}
