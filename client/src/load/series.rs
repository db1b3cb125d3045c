//! A stretch of load as a series: what was seen in each second of the measured time, over all threads.

use std::{collections::VecDeque, io, time::Duration};

use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2Serializer},
};

use super::{
    Onlooker,
    recorder::{Interval, Punctuality, Window},
};

/// A second of the measured time, or the last part of one.
#[derive(Clone)]
pub struct Second {
    /// When it began, counted from the end of the warm-up.
    pub begin: Duration,
    /// How long it was.
    pub length: Duration,
    /// The answers that came in it.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The latency of those that were recorded in it: in the last one also of those that came later.
    pub latency: Packed,
    /// The messages that were given up in it.
    pub lost_in_flight: u64,
    /// In an open loop: how its schedule was kept.
    pub kept: Option<Kept>,
}

/// How a schedule was kept in a second.
#[derive(Clone)]
pub struct Kept {
    /// The departures that were due and taken up.
    pub due: u64,
    /// Those that were dropped.
    pub dropped: u64,
    /// How late each left.
    pub lateness: Packed,
    /// How long each answer took from when its message left.
    pub service: Packed,
}

/// A histogram in few bytes, in HdrHistogram's own form (V2): there are as many as seconds.
#[derive(Clone)]
pub struct Packed(Vec<u8>);

impl Packed {
    /// Packs a histogram.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        let written = V2Serializer::new().serialize(histogram, &mut bytes);
        written.unwrap_or_else(|error| unreachable!("it is written to memory: {error}"));
        Self(bytes)
    }

    /// The histogram.
    pub fn histogram(&self) -> Histogram<u64> {
        let read = Deserializer::new().deserialize(&mut io::Cursor::new(&self.0));
        read.unwrap_or_else(|error| unreachable!("it was written by us: {error}"))
    }
}

impl Second {
    /// What was seen in a second that began at `begin`.
    pub fn of(interval: &Interval, begin: Duration, length: Duration) -> Self {
        let kept = |kept: &Punctuality| Kept {
            due: kept.due,
            dropped: kept.dropped,
            lateness: Packed::of(&kept.lateness),
            service: Packed::of(&kept.service),
        };
        Self {
            begin,
            length,
            messages: interval.messages,
            bytes: interval.bytes,
            latency: Packed::of(&interval.latency),
            lost_in_flight: interval.lost_in_flight,
            kept: interval.punctuality.as_ref().map(kept),
        }
    }

    /// What was seen in it.
    pub fn interval(&self) -> Interval {
        let punctuality = |kept: &Kept| Punctuality {
            due: kept.due,
            dropped: kept.dropped,
            lateness: kept.lateness.histogram(),
            service: kept.service.histogram(),
        };
        Interval {
            messages: self.messages,
            bytes: self.bytes,
            latency: self.latency.histogram(),
            lost_in_flight: self.lost_in_flight,
            punctuality: self.kept.as_ref().map(punctuality),
            ..Interval::new()
        }
    }

    /// Adds what another generator saw in its second of this number.
    pub fn merge(&mut self, other: &Self) {
        let mut both = self.interval();
        both.merge(&other.interval());
        *self = Self::of(&both, self.begin.min(other.begin), self.length.max(other.length));
    }
}

/// Puts together what the threads saw: their seconds as they end, and each thread's rest.
pub struct Gathering {
    threads: usize,
    /// How long a part of the series is: a second, unless told.
    interval: Duration,
    all: Window,
    /// Those of the series that have not ended for every thread, the next one first: for how many they have, and what
    /// these saw.
    open: VecDeque<(usize, Interval)>,
    /// The seconds in which threads have come to their end.
    ends: Vec<usize>,
}

impl Gathering {
    /// Of so many threads, in parts that are so long.
    pub fn new(threads: usize, interval: Duration) -> Self {
        Self { threads, interval, all: Window::new(), open: VecDeque::new(), ends: Vec::new() }
    }

    /// Second number `second` has ended for a thread that goes on; of one that has ended for all, `onlooker` is told.
    pub fn second(&mut self, second: usize, seen: &Interval, onlooker: &mut dyn Onlooker) {
        let open = self.open(second);
        open.0 += 1;
        open.1.merge(seen);
        while let Some((threads, _)) = self.open.front() {
            let next = self.all.series.len();
            let ended = self.ends.iter().filter(|&&end| end <= next).count();
            if threads + ended < self.threads {
                break;
            }
            self.close(self.interval, onlooker);
        }
    }

    /// A thread has come to its end.
    pub fn rest(&mut self, mut window: Window) {
        let (second, rest) = window.cut();
        self.ends.push(second);
        self.open(second).1.merge(&rest);
        self.all.merge(window);
    }

    /// What all saw.
    pub fn whole(mut self, onlooker: &mut dyn Onlooker) -> Window {
        while !self.open.is_empty() {
            let left = self.all.measured.saturating_sub(self.begin());
            let length = if self.open.len() == 1 { left } else { self.interval };
            self.close(length, onlooker);
        }
        self.all
    }

    fn open(&mut self, second: usize) -> &mut (usize, Interval) {
        // A thread that fell behind the others' end has its last words in the last second that is open.
        let at = second.saturating_sub(self.all.series.len());
        while self.open.len() <= at {
            self.open.push_back((0, Interval::new()));
        }
        &mut self.open[at]
    }

    fn begin(&self) -> Duration {
        self.interval * self.all.series.len() as u32
    }

    fn close(&mut self, length: Duration, onlooker: &mut dyn Onlooker) {
        let Some((_, interval)) = self.open.pop_front() else { return };
        self.all.series.push(Second::of(&interval, self.begin(), length));
        self.all.put(&interval);
        onlooker.second(&interval, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Nobody;

    fn interval(samples: &[u64]) -> Interval {
        let mut interval = Interval::new();
        samples.iter().for_each(|&ns| interval.latency.saturating_record(ns));
        interval.messages = samples.len() as u64;
        interval
    }

    fn rest(second: usize, samples: &[u64]) -> Window {
        let mut window = Window::new();
        (0..second).for_each(|_| drop(window.cut()));
        window.put(&interval(samples));
        window.measured = Duration::from_millis(2500);
        window
    }

    #[test]
    fn the_series_holds_every_sample_once_whoever_comes_first() {
        let mut gathering = Gathering::new(2, Duration::from_secs(1));
        gathering.second(0, &interval(&[1_000]), &mut Nobody);
        gathering.second(1, &interval(&[2_000, 3_000]), &mut Nobody);
        gathering.second(0, &interval(&[4_000]), &mut Nobody);
        assert_eq!(gathering.all.series.len(), 1, "a second is closed when it has ended for all");
        gathering.second(1, &interval(&[5_000]), &mut Nobody);
        gathering.rest(rest(2, &[6_000]));
        gathering.rest(rest(2, &[]));
        let window = gathering.whole(&mut Nobody);
        let seconds: Vec<_> =
            window.series.iter().map(|second| (second.messages, second.length.as_millis())).collect();
        assert_eq!(seconds, [(2, 1000), (3, 1000), (1, 500)]);
        assert_eq!((window.messages, window.latency.len()), (6, 6));
        let mut sum = Interval::new().latency;
        window.series.iter().for_each(|second| sum.add(second.latency.histogram()).unwrap());
        assert_eq!(sum, window.latency);
    }

    #[test]
    fn a_thread_that_ends_early_keeps_no_second_open() {
        let mut gathering = Gathering::new(2, Duration::from_secs(1));
        gathering.rest(rest(0, &[1_000]));
        gathering.second(0, &interval(&[2_000]), &mut Nobody);
        gathering.second(1, &interval(&[3_000]), &mut Nobody);
        gathering.rest(rest(2, &[4_000]));
        let window = gathering.whole(&mut Nobody);
        let seconds: Vec<u64> = window.series.iter().map(|second| second.messages).collect();
        assert_eq!(seconds, [2, 1, 1]);
    }
}
