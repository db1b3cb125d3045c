//! Lesson 11: a deadlock, and its cure.
//!
//! The idea: two threads, two locks, two orders. Each holds what the other wants, and both wait for ever: no processor is
//! used, nothing is logged, nothing is wrong with either function when read alone. The cure is an order that all follow.
//!
//! Type, in two terminals:
//!     cargo run --example 11_deadlock
//!     ps -L -o tid,stat,wchan:20,comm -C 11_deadlock
//! And then: `cargo run --example 11_deadlock ordered`
//!
//! Predict before you run:
//!     1. What does `top` show of a program that is deadlocked? And of one in a busy loop?
//!     2. Can the program find out by itself that it is deadlocked? Can it get out?
//!     3. With four locks and four threads, each taking its own and then its neighbour's: which one must turn round?
//!
//! Read next: `server/src/shutdown.rs`: a server that waits for its workers does so with a deadline.
//!
//! What breaks: whoever waits without a deadline. A lock can be had in vain for another reason, too: its holder was
//! killed. Threads die together; processes do not, and lesson 7's lock would have to survive that (`server/src/lock.rs`).

use std::{
    env, fs, process,
    sync::{Barrier, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

/// What two transfers may take; they need microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

struct Account {
    number: usize,
    pounds: Mutex<i64>,
}

fn main() {
    let is_ordered = env::args().nth(1).is_some_and(|word| word == "ordered");
    let (done, both) = mpsc::channel();
    thread::spawn(move || {
        let accounts = [0, 1].map(|number| Account { number, pounds: Mutex::new(100) });
        let start = Barrier::new(2);
        thread::scope(|scope| {
            let (here, there) = (&accounts[0], &accounts[1]);
            scope.spawn(|| transfer(here, there, 10, is_ordered, &start));
            scope.spawn(|| transfer(there, here, 20, is_ordered, &start));
        });
        let _ = done.send(
            accounts.map(|account| account.pounds.into_inner().unwrap_or_else(PoisonError::into_inner)),
        );
    });
    match both.recv_timeout(PATIENCE) {
        Ok(pounds) => println!("both transfers are done: {pounds:?}"),
        Err(_) => {
            println!("deadlock: nobody was done within {PATIENCE:?}");
            sleepers();
            process::exit(1); // no other way out: a thread that waits for a lock cannot be told to stop
        }
    }
}

fn transfer(from: &Account, to: &Account, pounds: i64, is_ordered: bool, start: &Barrier) {
    let swapped = is_ordered && from.number > to.number;
    let (first, second) = if swapped { (to, from) } else { (from, to) };
    if is_ordered {
        start.wait(); // both at once, as on a bad day
    }
    let one = first.pounds.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{} -> {}: has the lock of {}", from.number, to.number, first.number);
    if !is_ordered {
        start.wait(); // each has its first lock: the bad day is certain
    }
    let other = second.pounds.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{} -> {}: has the lock of {} too", from.number, to.number, second.number);
    let (mut from, mut to) = if swapped { (other, one) } else { (one, other) };
    *from -= pounds;
    *to += pounds;
}

/// Where each thread sleeps in the kernel, but this one, which has 0; a third waits for the two transfers: /proc/self/task/TID/wchan (proc(5)). A lock that is had at once never enters
/// the kernel; one that is waited for is futex(2).
fn sleepers() {
    for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let sleeps_in = fs::read_to_string(thread.path().join("wchan")).unwrap_or_default();
        println!("thread {} sleeps in {sleeps_in}", thread.file_name().display());
    }
}
