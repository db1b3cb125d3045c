//! The clock of one stretch of load, and its cost.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

use super::{Window, engine::Order, pauses::Watch};

/// How often the connections are looked through for answers that are late, and the world for a ^C.
pub const TICK: Duration = Duration::from_millis(100);

/// What a thread is doing with its connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The connections are opened; what comes is heard later.
    Opening,
    /// An answer is followed by the next message. Its latency is recorded once the warm-up is over.
    Loading { measuring: bool },
    /// Answers are waited for; nothing new departs.
    Ending,
    /// Everything was sent, FIN included.
    HalfClosed,
}

/// The clock of one stretch of load, and its cost.
pub struct Meter {
    order: Order,
    tick: Duration,
    /// When the measured time began, and what the thread had used and waited for until then.
    measuring_since: Option<(Instant, Duration, Option<Duration>)>,
    /// When the next second of the measured time is over.
    next_second: Instant,
    next_tick: Instant,
    /// Whether the measured time has begun.
    has_begun: bool,
    /// Whether the thread runs when it wants to.
    watch: Watch,
}

impl Meter {
    /// Of a stretch that begins. An answer that is late is given up soon after: within a quarter of its time.
    pub fn begins(order: Order, timeout: Duration) -> Self {
        let tick = (timeout / 4).clamp(Duration::from_millis(1), TICK);
        let (next_second, next_tick) = (order.begin, order.begin + tick);
        Self {
            order,
            tick,
            measuring_since: None,
            next_second,
            next_tick,
            has_begun: false,
            watch: Watch::begins(),
        }
    }

    /// What follows `phase` at `now`: the warm-up is followed by the measured time, and that by the end; where it
    /// was `stopped`, the end is now.
    pub fn next(&mut self, mut phase: Phase, now: Instant, stopped: bool, window: &mut Window) -> Phase {
        if phase == (Phase::Loading { measuring: false }) && self.is_warm(now) {
            self.begin_to_measure(now);
            phase = Phase::Loading { measuring: true };
        }
        if matches!(phase, Phase::Loading { .. }) && (stopped || self.is_over(now)) {
            self.end(now, window);
            phase = Phase::Ending;
        }
        phase
    }

    fn is_warm(&self, now: Instant) -> bool {
        now >= self.order.begin + self.order.warmup
    }

    /// A thread that was kept from beginning to measure measures as long as the others do.
    fn is_over(&self, now: Instant) -> bool {
        self.measuring_since.is_some_and(|(since, ..)| now >= since + self.order.duration)
    }

    /// How long a thread may sleep.
    pub fn until_next(&self, now: Instant) -> Duration {
        let next = match self.measuring_since {
            None => self.order.begin + self.order.warmup,
            Some((since, ..)) => since + self.order.duration,
        };
        match next.saturating_duration_since(now) {
            Duration::ZERO => self.tick, // it is over; the last answers are waited for
            left => left.min(self.tick),
        }
    }

    fn begin_to_measure(&mut self, now: Instant) {
        self.measuring_since = Some((now, thread_cpu(), thread_wait()));
        self.has_begun = true;
        self.next_second = now + self.order.interval;
    }

    /// The measured time is over.
    pub fn end(&mut self, now: Instant, window: &mut Window) {
        self.read(now, window);
        self.measuring_since = None;
    }

    /// What the measured time has cost so far.
    fn read(&self, now: Instant, window: &mut Window) {
        let Some((since, cpu, wait)) = self.measuring_since else { return };
        window.measured = now - since;
        window.cpu = thread_cpu().saturating_sub(cpu);
        let share = |time: Duration| time.as_secs_f64() / window.measured.as_secs_f64().max(1e-9);
        window.busiest_thread = share(window.cpu);
        let waited = thread_wait().zip(wait).map(|(now, then)| now.saturating_sub(then));
        window.busiest_demand = waited.map(|waited| share(window.cpu + waited));
    }

    /// Whether a second of the measured time is over; what it has cost so far stands in `window` then.
    pub fn second(&mut self, now: Instant, window: &mut Window) -> bool {
        // The last one is over when all is.
        let is_one =
            self.measuring_since.is_some_and(|(since, ..)| self.next_second < since + self.order.duration);
        let is_over = is_one && now >= self.next_second;
        if is_over {
            self.next_second += self.order.interval;
            self.read(now, window);
        }
        is_over
    }

    /// Notes for how long the thread was stopped between two looks at the clock, where it was to sleep for no longer than
    /// `asleep`. From the beginning of the measured time to the last answer a pause is in the figures.
    pub fn watch(&mut self, [from, to]: [Instant; 2], asleep: Duration, window: &mut Window) {
        let pause = self.watch.pause(from, to, asleep);
        if self.has_begun {
            window.stopped = pause.map(|pause| window.stopped.unwrap_or_default() + pause);
        }
    }

    /// Whether a tick has passed.
    pub fn tick(&mut self, now: Instant) -> bool {
        let ticked = now >= self.next_tick;
        if ticked {
            self.next_tick = now + self.tick;
        }
        ticked
    }
}

/// The CPU time that the calling thread has used (clock_gettime(2)).
pub fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// How long the calling thread has been ready to run and had no processor: the second number of its schedstat
/// (Documentation/scheduler/sched-stats.rst), where the kernel tells.
fn thread_wait() -> Option<Duration> {
    let told = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// A duration as the engine counts.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
