//! One generator of several that make a load together, and its share of it: of the connections, and so of the
//! schedule and of the bytes, which are functions of a connection's number in the whole run.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Generator number `rank` of so many, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rank {
    /// Which one.
    pub rank: usize,
    /// Of how many.
    pub ranks: usize,
}

/// More are a slip of the finger.
const MOST: usize = 1 << 20;

impl Rank {
    /// The only one.
    pub const ALONE: Self = Self { rank: 0, ranks: 1 };

    /// One of so many.
    ///
    /// # Errors
    /// A sentence for the user, where there is no such one.
    pub fn new(rank: usize, ranks: usize) -> Result<Self, String> {
        match rank < ranks && ranks <= MOST {
            true => Ok(Self { rank, ranks }),
            false => Err(format!("there is no rank {rank} of {ranks}; the first is 0, like 0/4")),
        }
    }

    /// How many of the run's connections are its own: all are dealt out like cards.
    pub fn share(self, connections: usize) -> usize {
        connections.saturating_sub(self.rank).div_ceil(self.ranks)
    }

    /// Some of them for people: `rank 2`, `ranks 2, 3`.
    pub fn list(ranks: &[usize]) -> String {
        let numbers: Vec<String> = ranks.iter().map(ToString::to_string).collect();
        format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, numbers.join(", "))
    }
}

impl FromStr for Rank {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it like 0/4, for the first of four";
        let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        let (rank, ranks) = numbers.ok_or(FORM)?;
        Self::new(rank, ranks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_read_as_it_is_written() {
        assert_eq!("2/4".parse(), Ok(Rank { rank: 2, ranks: 4 }));
        for wrong in ["", "4", "4/4", "-1/4", "0/0", "a/b", "1/4/9", "0/99999999999"] {
            let said = wrong.parse::<Rank>().unwrap_err();
            assert!(said.contains("0/4") && said.lines().count() == 1, "{wrong}: {said}");
        }
    }

    #[test]
    fn all_connections_are_somebodys_share() {
        for (connections, ranks) in [(64, 4), (7, 3), (2, 3), (1, 1)] {
            let shares: Vec<usize> = (0..ranks).map(|rank| Rank { rank, ranks }.share(connections)).collect();
            assert_eq!(shares.iter().sum::<usize>(), connections, "{shares:?}");
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        }
    }
}
