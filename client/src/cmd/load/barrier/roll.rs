//! Who is at the barrier, as rank 0 knows: no socket in it. A rank comes, is ready, or says that it cannot load; one
//! that leaves before the run has begun leaves its place to another.

use std::collections::BTreeMap;

use super::words::{Introduction, Report};
use crate::load::Rank;

/// Which connection a rank speaks through.
pub type Token = u64;

/// Who is at the barrier.
pub struct Roll {
    own: Introduction,
    /// Those that are here, by rank.
    here: BTreeMap<usize, Place>,
    /// Whether the run has begun: nobody new is let in then.
    has_begun: bool,
    /// Why the last one was not let in, and who left.
    last_refusal: Option<String>,
}

struct Place {
    token: Token,
    is_ready: bool,
}

impl Roll {
    /// Rank 0 is here, and nobody else.
    pub fn new(own: Introduction) -> Self {
        Self { own, here: BTreeMap::new(), has_begun: false, last_refusal: None }
    }

    /// How many there are to be, rank 0 included.
    pub fn ranks(&self) -> usize {
        self.own.ranks
    }

    /// Which connection a rank speaks through that is here.
    pub fn token(&self, rank: usize) -> Option<Token> {
        self.here.get(&rank).map(|place| place.token)
    }

    /// Lets a rank in that is awaited.
    ///
    /// # Errors
    /// A sentence for whoever is not let in.
    pub fn introduce(&mut self, told: &Introduction, token: Token) -> Result<(), String> {
        let rank = told.rank;
        let refused = match self.own.difference(told) {
            Some(difference) => Some(difference),
            None if self.has_begun => Some("the run has begun".into()),
            None if rank == 0 || rank >= self.own.ranks || self.here.contains_key(&rank) => {
                Some(format!("there is a rank {rank} of {} already", self.own.ranks))
            }
            None => None,
        };
        if let Some(sentence) = refused {
            self.last_refusal = Some(sentence.clone());
            return Err(sentence);
        }
        self.here.insert(rank, Place { token, is_ready: false });
        Ok(())
    }

    /// Hears what a rank says that is here.
    ///
    /// # Errors
    /// Why there will be no run.
    pub fn hear(&mut self, rank: usize, report: Report) -> Result<(), String> {
        match report {
            Report::Ready => self.here.get_mut(&rank).into_iter().for_each(|place| place.is_ready = true),
            Report::Cannot(why) => {
                return Err(format!("rank {rank} of {} cannot load: {why}", self.own.ranks));
            }
        }
        Ok(())
    }

    /// A rank is gone.
    ///
    /// # Errors
    /// Why there will be no more of the run, where it has begun.
    pub fn leaves(&mut self, rank: usize) -> Result<(), String> {
        self.here.remove(&rank);
        let sentence = format!("rank {rank} of {} has left", self.own.ranks);
        if self.has_begun {
            return Err(sentence);
        }
        self.last_refusal = Some(sentence);
        Ok(())
    }

    /// Whether all are here and wait.
    pub fn is_complete(&self) -> bool {
        self.here.len() + 1 == self.own.ranks && self.here.values().all(|place| place.is_ready)
    }

    /// All begin; they meet again before the next step.
    pub fn begin(&mut self) {
        self.has_begun = true;
        self.here.values_mut().for_each(|place| place.is_ready = false);
    }

    /// Who did not come, and what else is known of that.
    pub fn absence(&self, place: &str, patience: &str) -> String {
        let is_missing = |rank: &usize| self.here.get(rank).is_none_or(|place| !place.is_ready);
        let missing: Vec<usize> = (1..self.own.ranks).filter(is_missing).collect();
        let why = self.last_refusal.as_ref().map_or(String::new(), |why| format!(" ({why})"));
        let (missing, ranks) = (Rank::list(&missing), self.own.ranks);
        format!("{missing} of {ranks} did not come to {place} within {patience}{why}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(rank: usize) -> Introduction {
        Introduction { rank, ranks: 3, job: None, asked: BTreeMap::new() }
    }

    fn ready(roll: &mut Roll, of: usize, token: Token) {
        roll.introduce(&rank(of), token).unwrap();
        roll.hear(of, Report::Ready).unwrap();
    }

    #[test]
    fn all_begin_when_each_is_there_and_ready() {
        let mut roll = Roll::new(rank(0));
        ready(&mut roll, 2, 10);
        roll.introduce(&rank(1), 11).unwrap();
        assert!(!roll.is_complete(), "rank 1 has not said so");
        roll.hear(1, Report::Ready).unwrap();
        assert!(roll.is_complete());
        roll.begin();
        assert!(!roll.is_complete(), "they meet again");
    }

    #[test]
    fn a_place_is_one_ranks_until_it_leaves() {
        let mut roll = Roll::new(rank(0));
        ready(&mut roll, 1, 10);
        for double in [0, 1, 3] {
            assert!(roll.introduce(&rank(double), 11).is_err(), "rank {double}");
        }
        roll.leaves(1).unwrap();
        ready(&mut roll, 1, 12);
        assert_eq!((roll.token(1), roll.token(2)), (Some(12), None));
        ready(&mut roll, 2, 13);
        assert!(roll.is_complete());
    }

    #[test]
    fn who_leaves_a_run_that_has_begun_ends_it_and_has_no_successor() {
        let mut roll = Roll::new(rank(0));
        ready(&mut roll, 1, 10);
        ready(&mut roll, 2, 11);
        roll.begin();
        assert_eq!(roll.leaves(1), Err("rank 1 of 3 has left".into()));
        assert_eq!(roll.introduce(&rank(1), 12), Err("the run has begun".into()));
    }

    #[test]
    fn who_is_not_there_is_named_with_what_is_known() {
        let mut roll = Roll::new(rank(0));
        assert_eq!(roll.absence("x", "1s"), "ranks 1, 2 of 3 did not come to x within 1s");
        ready(&mut roll, 1, 10);
        ready(&mut roll, 2, 11);
        roll.leaves(1).unwrap();
        assert_eq!(roll.absence("x", "1s"), "rank 1 of 3 did not come to x within 1s (rank 1 of 3 has left)");
        let said = roll.hear(2, Report::Cannot("nothing came up".into())).unwrap_err();
        assert_eq!(said, "rank 2 of 3 cannot load: nothing came up");
    }
}
