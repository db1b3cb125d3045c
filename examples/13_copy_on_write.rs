//! Lesson 13: fork copies nothing, until somebody writes.
//!
//! The idea: after `fork` parent and child see the same pages, marked read-only in both. The first to write to a page gets
//! a copy of that page. So forking a large process costs its page tables, and a child that only reads shares all.
//!
//! Type, in two terminals:
//!     cargo run --example 13_copy_on_write
//!     less /proc/self/smaps
//!
//! Predict before you run:
//!     1. The parent has 64 MiB. After fork, how much has the child of its own? How much do both have together?
//!     2. The child writes one byte into every page of a half. Now?
//!     3. It writes one byte to each megabyte of the other half. How much is copied: 32 bytes, or how many?
//!
//! Read next: what `compare --scenario idle` measures: PSS, the share that a process pays of what it shares.
//!
//! What breaks: adding up RSS, as `top` shows it, counts shared pages once a process. And whoever counts references in its
//! objects, as CPython does, writes to them by reading.
#![allow(unsafe_code)] // fork

use std::{collections::BTreeMap, fs, io, time::Instant};

use nix::{
    sys::wait::wait,
    unistd::{ForkResult, SysconfVar, fork, sysconf},
};

const MIB: usize = 1 << 20;
const LENGTH: usize = 64 * MIB;

fn main() -> io::Result<()> {
    let mut memory = vec![1_u8; LENGTH]; // ones: pages of zeroes alone would not be there yet
    tell("parent, alone", &memory)?;
    let began = Instant::now();
    // SAFETY: this process has one thread, so nothing that the child inherits is locked.
    let forked = unsafe { fork()? };
    match forked {
        ForkResult::Child => {
            println!("fork took {} us for {} MiB", began.elapsed().as_micros(), LENGTH / MIB);
            tell("child, has written nothing", &memory)?;
            let page =
                sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096);
            touch(&mut memory[..LENGTH / 2], page);
            tell("child, a byte a page of a half", &memory)?;
            touch(&mut memory[LENGTH / 2..], MIB);
            tell("child, a byte a MiB of the rest", &memory)
        }
        ForkResult::Parent { .. } => {
            wait()?;
            tell("parent, alone again", &memory)
        }
    }
}

/// Writes one byte every so often.
fn touch(memory: &mut [u8], step: usize) {
    memory.iter_mut().step_by(step).for_each(|byte| *byte = 2);
}

/// What /proc/self/smaps (proc(5)) says of the mapping that holds this memory.
fn tell(who: &str, memory: &[u8]) -> io::Result<()> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let place = memory[LENGTH / 2..].as_ptr().addr();
    let holds = |line: &str| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let bounds = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
        Some(bounds.contains(&place))
    };
    let mut mib: BTreeMap<&str, f64> = BTreeMap::new();
    for line in smaps.lines().skip_while(|line| holds(line) != Some(true)).skip(1) {
        let Some((name, kib)) = line.split_once(':') else { break };
        let Some(kib) = kib.trim().strip_suffix(" kB") else { break };
        mib.insert(name, kib.parse::<f64>().map_err(io::Error::other)? / 1024.0);
    }
    let of = |names: &[&str]| names.iter().filter_map(|name| mib.get(name)).sum::<f64>();
    println!(
        "{who:32} resident {:5.1}  shared {:5.1}  private {:5.1}  PSS {:5.1} MiB",
        of(&["Rss"]),
        of(&["Shared_Clean", "Shared_Dirty"]),
        of(&["Private_Clean", "Private_Dirty"]),
        of(&["Pss"]),
    );
    Ok(())
}
