//! Lesson 24: work for a processor: one after another, by threads, by processes.
//!
//! The idea: waiting can be shared by any of the models; computing can be shared only by those that run in parallel. The
//! same jobs, three times: the same processor time, and less of the clock if there is a second processor. In Python the
//! middle line is no faster than the first: there one lock, the GIL, is held by whoever computes.
//!
//! Type, in two terminals:
//!     cargo run --example 24_cpu_bound
//!     top
//! (start the second first, `top -d 0.5`: the program is quick)
//!
//! Predict before you run:
//!     1. Two jobs, two processors: how long by threads, how long by processes, if one after another takes 1 s?
//!     2. Eight jobs by eight threads, on two processors?
//!     3. The jobs wait instead, for a second each: how long do eight take by threads, and by one event loop?
//!
//! Read next: `target/debug/echo-client compare --scenario cpu --models event-loop,thread,fork,cpython`.
//!
//! What breaks: more workers than processors do not compute faster, and with less than a whole job for each (Amdahl) not
//! even that many do. How many are enough when they *wait*? Lesson 25.
#![allow(unsafe_code)] // fork

use std::{hint::black_box, io, process, thread, time::Instant};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
        wait::wait,
    },
    unistd::{ForkResult, fork},
};

const STEPS: u64 = 300_000_000;

fn main() -> io::Result<()> {
    let jobs = thread::available_parallelism()?.get().max(2);
    println!("{jobs} jobs, {} processors", thread::available_parallelism()?);
    measure("one after another", || {
        (0..jobs).for_each(|_| job());
        Ok(())
    })?;
    measure("threads", || {
        thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(job))));
        Ok(())
    })?;
    measure("processes", || {
        for _ in 0..jobs {
            // SAFETY: the threads have ended; this one is alone, so nothing that the child inherits is locked.
            if let ForkResult::Child = unsafe { fork()? } {
                job();
                process::exit(0);
            }
        }
        (0..jobs).try_for_each(|_| wait().map(drop).map_err(io::Error::from))
    })
}

/// Something that only a processor can do, and no compiler beforehand.
fn job() {
    let mut state = 1_u64;
    for _ in 0..STEPS {
        state = black_box(state).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
}

fn measure(how: &str, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let (began, used) = (Instant::now(), cpu_s()?);
    work()?;
    let (took, used) = (began.elapsed().as_secs_f64(), cpu_s()? - used);
    println!("{how:18} {took:5.2} s by the clock, {used:5.2} s of processors");
    Ok(())
}

/// What this process and its children have had of the processors.
fn cpu_s() -> io::Result<f64> {
    let of = |who| getrusage(who).map(|usage| (usage.user_time() + usage.system_time()).num_microseconds());
    Ok((of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?) as f64 / 1e6)
}
