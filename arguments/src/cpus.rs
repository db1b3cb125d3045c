//! A set of processors, as taskset(1) writes them: `0`, `0,2`, `1-3`.

use std::{collections::BTreeSet, fmt, str::FromStr};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Processor numbers, counted from 0; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(BTreeSet<usize>);

impl CpuList {
    /// The processors that the calling thread may run on (sched_getaffinity(2)).
    ///
    /// # Errors
    /// Where the kernel refuses the question.
    pub fn allowed() -> nix::Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(0))?;
        Ok(Self((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()))
    }

    /// Confines the calling thread, and all that it starts from now on, to these processors
    /// (sched_setaffinity(2)).
    ///
    /// # Errors
    /// `EINVAL` where none of them exists or may be used.
    pub fn confine(&self) -> nix::Result<()> {
        let mut set = CpuSet::new();
        for &cpu in &self.0 {
            set.set(cpu)?;
        }
        sched_setaffinity(Pid::from_raw(0), &set)
    }

    /// The processor that worker number `n` gets: one after the other, and from the start again.
    #[must_use]
    pub fn nth(&self, n: usize) -> Self {
        Self(self.0.iter().nth(n % self.0.len()).into_iter().copied().collect())
    }

    /// How many processors these are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether all of them are in the other list.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Whether no processor is in both lists.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.is_disjoint(&other.0)
    }

    /// The first processors and the last `n`; where there are no more than `n`, both sides share all.
    #[must_use]
    pub fn split_last(&self, n: usize) -> (Self, Self) {
        if self.0.len() <= n {
            return (self.clone(), self.clone());
        }
        let at = self.0.len() - n;
        (Self(self.0.iter().take(at).copied().collect()), Self(self.0.iter().skip(at).copied().collect()))
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |word: &str| word.trim().parse::<usize>().map_err(|_| form(text));
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last || last >= CpuSet::count() {
                return Err(form(text));
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

fn form(text: &str) -> String {
    format!("{text:?} is no list of processors; write it like 0, 0,2 or 1-3")
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&words.join(","))
    }
}

impl serde::Serialize for CpuList {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for CpuList {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_commas_are_read() {
        assert_eq!("0,2-4".parse::<CpuList>().unwrap().to_string(), "0,2,3,4");
        for wrong in ["", "a", "3-1", "1-", "99999"] {
            assert!(wrong.parse::<CpuList>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_ones_are_split_off_and_one_alone_is_shared() {
        let split = |text: &str, n| {
            let (first, last) = text.parse::<CpuList>().unwrap().split_last(n);
            (first.to_string(), last.to_string())
        };
        assert_eq!(split("0-3", 1), ("0,1,2".into(), "3".into()));
        assert_eq!(split("5", 1), ("5".into(), "5".into()));
    }
}
