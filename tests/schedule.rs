//! The schedule of all tests: many run at once that wait, and few that load the machine or measure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::stage::ROOT;

/// How many run at once: most of a test is waiting.
const AT_ONCE: usize = 12;

/// How many of them at most load the machine or measure.
const BUSY_AT_ONCE: usize = 4;

/// A test.
#[derive(Clone)]
pub struct Test {
    /// A sentence, and what it is about.
    pub name: String,
    /// Whether it loads the machine for a while, or measures times.
    pub is_busy: bool,
    /// Whether it takes much longer than most.
    pub is_long: bool,
    /// Whether `make test` leaves it to `make test-all`.
    pub is_extra: bool,
    /// How it is made; or the reason why it cannot be made here.
    pub made: Result<Arc<dyn Fn() -> Result<(), Failed> + Send + Sync>, String>,
}

impl Test {
    /// One that mostly waits.
    pub fn new(name: String, make: impl Fn() -> Result<(), Failed> + Send + Sync + 'static) -> Self {
        Self { name, is_busy: false, is_long: false, is_extra: false, made: Ok(Arc::new(make)) }
    }

    /// It cannot be made here.
    pub fn that_cannot_run(name: String, why: String) -> Self {
        Self { name, is_busy: false, is_long: false, is_extra: false, made: Err(why) }
    }
}

/// How many that failed beside others are made again alone: more have one cause, and it is not the crowd.
const AGAIN: usize = 5;

/// Runs those that the command line asks for, and exits. Who fails beside others is made once more, alone: that decides, and
/// both are told.
pub fn run(mut tests: Vec<Test>) -> ! {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    spread(&mut tests);
    let seen = Arc::new(Seen::default());
    let trials = |tests: &[Test]| tests.iter().cloned().map(|test| trial(test, &seen)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials(&tests));
    let failed = std::mem::take(&mut *seen.failed.lock().unwrap());
    let made = conclusion.num_passed + conclusion.num_failed;
    if made > 0 {
        seen.write_times();
    }
    // A few that were asked for by name were no crowd.
    if failed.is_empty() || failed.len() > AGAIN || made <= AT_ONCE as u64 {
        conclusion.exit()
    }
    println!("made again, alone: {}", failed.iter().cloned().collect::<Vec<_>>().join(", "));
    tests.retain(|test| failed.contains(&test.name));
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials(&tests)).exit()
}

/// The tests of one sentence, or of one module, are short of the same: they are spread evenly over the time, and the long
/// ones over its first part, so that nobody waits for the last of them.
fn spread(tests: &mut [Test]) {
    const FIRST_PART: f64 = 0.7;
    let group = |test: &Test| test.name.split("::").next().unwrap_or_default().to_owned();
    let mut all = HashMap::<_, f64>::new();
    tests.iter().filter(|test| !test.is_extra).for_each(|test| *all.entry(group(test)).or_default() += 1.0);
    let mut before = HashMap::<_, f64>::new();
    let mut begins = |test: &Test| {
        let all = all.get(&group(test)).copied().unwrap_or(1.0);
        let before = before.entry(group(test)).or_default();
        let place = *before / all * if test.is_long { FIRST_PART } else { 1.0 };
        *before += if test.is_extra { 0.0 } else { 1.0 };
        (place * 1e6) as u64
    };
    tests.sort_by_cached_key(|test| begins(test));
}

fn trial(test: Test, seen: &Arc<Seen>) -> Trial {
    let (seen, name) = (Arc::clone(seen), test.name.clone());
    let made = move || {
        let make = match test.made {
            Ok(make) => make,
            Err(why) => return Ok(Completion::ignored_with(why)),
        };
        let _slot = test.is_busy.then(|| seen.slots.take());
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| make()));
        seen.times.lock().unwrap().insert(name.clone(), began.elapsed());
        if !matches!(outcome, Ok(Ok(()))) {
            seen.failed.lock().unwrap().insert(name);
        }
        outcome.unwrap_or_else(|panic| resume_unwind(panic)).map(|()| Completion::Completed)
    };
    Trial::ignorable_test(test.name, made).with_ignored_flag(test.is_extra)
}

/// What all tests share.
#[derive(Default)]
struct Seen {
    slots: Slots,
    /// How long each took, for `target/tests.tsv`.
    times: Mutex<BTreeMap<String, Duration>>,
    failed: Mutex<BTreeSet<String>>,
}

impl Seen {
    fn write_times(&self) {
        let times = self.times.lock().unwrap();
        let lines: String =
            times.iter().map(|(name, took)| format!("{:.2}\t{name}\n", took.as_secs_f64())).collect();
        let file = Path::new(ROOT).join("target/tests.tsv");
        if let Err(error) = fs::write(&file, lines) {
            eprintln!("{}: {error}", file.display());
        }
    }
}

/// Who is busy.
#[derive(Default)]
struct Slots {
    taken: Mutex<usize>,
    one_is_free: Condvar,
}

struct Slot<'a>(&'a Slots);

impl Slots {
    fn take(&self) -> Slot<'_> {
        let free = self.one_is_free.wait_while(self.taken.lock().unwrap(), |taken| *taken == BUSY_AT_ONCE);
        *free.unwrap() += 1;
        Slot(self)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap() -= 1;
        self.0.one_is_free.notify_one();
    }
}
