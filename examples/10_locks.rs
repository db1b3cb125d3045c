//! Lesson 10: four ways to count.
//!
//! The idea: `n += 1` is three steps, read, add, write, and between any two of them another thread may do the same. A
//! lock lets one in at a time; an atomic makes the three steps one; and shards give everybody a counter of their own,
//! added up by whoever asks.
//!
//! Type, in two terminals:
//!     cargo run --example 10_locks
//!     top -H
//! (start the second first, `top -d 0.5`: the program is quick)
//!
//! Predict before you run:
//!     1. Four threads add one ten million times each, without a lock. What is the sum, and is it the same twice?
//!     2. Which of the other three is the slowest, and by how much?
//!     3. Would one processor be enough to lose something?
//!
//! Read next: `server/src/scoreboard.rs` (sharded: a slot a worker), `server/src/lock.rs` (a lock between processes).
//!
//! What breaks: two locks, taken in two orders: lesson 11.

use std::{
    hint::black_box,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

const THREADS: u64 = 4;
const EACH: u64 = 10_000_000;

fn main() {
    let racy = AtomicU64::new(0);
    count("racy", |_| racy.store(black_box(racy.load(Relaxed)) + 1, Relaxed), || racy.load(Relaxed));

    let locked = Mutex::new(0);
    let lock = || locked.lock().unwrap_or_else(PoisonError::into_inner);
    count("locked", |_| *lock() += 1, || *lock());

    let atomic = AtomicU64::new(0);
    let fetch_add = |n: &AtomicU64| {
        n.fetch_add(1, Relaxed);
    };
    count("atomic", |_| fetch_add(&atomic), || atomic.load(Relaxed));

    let shards = [const { Shard(AtomicU64::new(0)) }; THREADS as usize];
    let sum = || shards.iter().map(|shard| shard.0.load(Relaxed)).sum();
    count("sharded", |thread| fetch_add(&shards[thread].0), sum);
}

/// A cache line of its own for each counter: on one line, the processors would pass it to and fro as if it were one.
#[repr(align(64))]
struct Shard(AtomicU64);

/// Has all threads add one, and compares with what it should be.
fn count(how: &str, add: impl Fn(usize) + Sync, sum: impl Fn() -> u64) {
    let began = Instant::now();
    thread::scope(|scope| {
        for thread in 0..THREADS as usize {
            let add = &add;
            scope.spawn(move || (0..EACH).for_each(|_| add(thread)));
        }
    });
    let (took, sum, should) = (began.elapsed(), sum(), THREADS * EACH);
    let lost = should - sum;
    println!(
        "{how:8} {sum:>10} of {should}, lost {:>5.1} %, {:>6.1} ns each",
        lost as f64 * 100.0 / should as f64,
        took.as_nanos() as f64 / should as f64,
    );
}
