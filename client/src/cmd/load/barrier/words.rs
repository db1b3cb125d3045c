//! What ranks say to each other at the barrier, a line each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::summary::OWN;
use crate::load::Rank;

/// No line is longer.
pub const LINE: usize = 8192;

/// What a rank says first, with the version of what follows.
const BEGINS: &str = "echo-client barrier 2 ";

/// What any version of it begins with.
const ANY_VERSION: &str = "echo-client ";

/// A value that is longer is told as its digest.
const LONG: usize = 100;

/// How a rank introduces itself: with what all ranks of a run have in common, and which one it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Which one.
    pub rank: usize,
    /// Of how many.
    pub ranks: usize,
    /// The launcher's name for all that it started together, where it has one.
    pub job: Option<String>,
    /// The server, and the settings that are the same for all ranks, by name.
    pub asked: BTreeMap<String, String>,
}

impl Introduction {
    /// Of a rank that was asked to do this.
    pub fn new(rank: Rank, job: Option<String>, server: &str, settings: &Map<String, Value>) -> Self {
        let settings = settings.iter().filter(|(name, _)| !OWN.contains(&name.as_str()));
        let settings = settings.map(|(name, value)| (name.clone(), brief(value.to_string())));
        let asked = settings.chain([("the server".into(), brief(server.into()))]).collect();
        Self { rank: rank.rank, ranks: rank.ranks, job, asked }
    }

    /// Reads one.
    ///
    /// # Errors
    /// A sentence for whoever wrote it.
    pub fn read(line: &str) -> Result<Self, String> {
        match line.strip_prefix(BEGINS).map(serde_json::from_str::<Self>) {
            Some(Ok(told)) => Ok(told),
            _ if line.starts_with(ANY_VERSION) => {
                Err("this is another version of echo-client: all ranks have to be of the same".into())
            }
            _ => Err("here ranks of an echo-client load meet, and that is none".into()),
        }
    }

    /// What another does not have in common with this one, and should.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.ranks != other.ranks {
            return Some(format!("rank {} is of {} ranks, not of {}", self.rank, self.ranks, other.ranks));
        }
        if let (Some(job), Some(another)) = (&self.job, &other.job)
            && job != another
        {
            return Some(format!("rank {} is of job {job}, not of {another}", self.rank));
        }
        let names: BTreeSet<&String> = self.asked.keys().chain(other.asked.keys()).collect();
        let value = |of: &Self, name| of.asked.get(name).map_or("nothing".into(), String::clone);
        names.into_iter().find_map(|name| {
            let (own, theirs) = (value(self, name), value(other, name));
            (own != theirs).then(|| {
                format!("ranks {} and {} differ in {name}: {own} and {theirs}", self.rank, other.rank)
            })
        })
    }
}

impl fmt::Display for Introduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BEGINS}{}", serde_json::to_string(self).unwrap_or_default())
    }
}

/// A value that fits into a line.
fn brief(value: String) -> String {
    if value.len() <= LONG {
        return value;
    }
    let mut digest = DefaultHasher::new();
    value.hash(&mut digest);
    format!("{} bytes of digest {:016x}", value.len(), digest.finish())
}

/// What a rank that has introduced itself says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It waits for the others.
    Ready,
    /// It will not load, and why.
    Cannot(String),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Cannot(why) => write!(f, "cannot {}", on_one_line(why)),
        }
    }
}

impl FromStr for Report {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        match line.split_once(' ') {
            None if line == "ready" => Ok(Self::Ready),
            Some(("cannot", why)) => Ok(Self::Cannot(why.into())),
            _ => Err(()),
        }
    }
}

/// What rank 0 says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Who introduced itself belongs to the run, and waits with the others.
    Welcome,
    /// All begin now. The time since 1970 by rank 0's clock, and the name of the run.
    Go(Duration, String),
    /// Who introduced itself does not belong to the run, and why.
    No(String),
    /// There will be no run, and why.
    Over(String),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Welcome => f.write_str("welcome"),
            Self::Go(time, run) => write!(f, "go {} {run}", time.as_nanos()),
            Self::No(why) => write!(f, "no {}", on_one_line(why)),
            Self::Over(why) => write!(f, "over {}", on_one_line(why)),
        }
    }
}

impl FromStr for Word {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "welcome" => Ok(Self::Welcome),
            "no" => Ok(Self::No(rest.into())),
            "over" => Ok(Self::Over(rest.into())),
            "go" => {
                let (nanos, run) = rest.split_once(' ').ok_or(())?;
                Ok(Self::Go(Duration::from_nanos(nanos.parse().map_err(drop)?), run.into()))
            }
            _ => Err(()),
        }
    }
}

/// A sentence as part of a line.
fn on_one_line(sentence: &str) -> String {
    sentence.chars().take(LINE / 8).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rank(rank: usize, settings: Value) -> Introduction {
        let job = Some("7.0".into());
        Introduction::new(Rank { rank, ranks: 3 }, job, "tcp://[::1]:7", settings.as_object().unwrap())
    }

    #[test]
    fn what_is_said_is_heard() {
        let told = rank(1, json!({ "size": 64, "sources": vec!["127.0.0.1"; 5000], "threads": 2 }));
        let line = told.to_string();
        assert!(line.len() < LINE && !line.contains('\n'), "{line}");
        assert_eq!(Introduction::read(&line), Ok(told));
        for word in [
            Word::Welcome,
            Word::No("so it is".into()),
            Word::Over("rank 1 left".into()),
            Word::Go(Duration::from_nanos(17), "abc".into()),
        ] {
            assert_eq!(word.to_string().parse(), Ok(word));
        }
        for report in [Report::Ready, Report::Cannot("no connection came up".into())] {
            assert_eq!(report.to_string().parse(), Ok(report));
        }
        assert_eq!(Word::Over("a\nb".into()).to_string(), "over a b");
        assert!("go on".parse::<Word>().is_err() && "GET / HTTP/1.1".parse::<Report>().is_err());
    }

    #[test]
    fn a_line_that_is_not_understood_is_answered_by_a_sentence() {
        for (line, word) in [
            ("GET / HTTP/1.1", "that is none"),
            ("", "that is none"),
            ("echo-client rank 1/3", "another version"),
            ("echo-client barrier 3 {}", "another version"),
            ("echo-client barrier 2 {", "another version"),
        ] {
            let said = Introduction::read(line).unwrap_err();
            assert!(said.contains(word), "{line}: {said}");
        }
    }

    #[test]
    fn ranks_differ_in_what_they_were_asked_and_in_whose_they_are() {
        let own = rank(0, json!({ "size": 64, "threads": 2 }));
        assert_eq!(own.difference(&rank(1, json!({ "size": 64, "threads": 9 }))), None);
        let of_another = Introduction { job: Some("8.0".into()), ..rank(1, json!({ "size": 64 })) };
        assert_eq!(own.difference(&of_another).as_deref(), Some("rank 0 is of job 7.0, not of 8.0"));
        assert_eq!(own.difference(&Introduction { job: None, ..of_another }), None, "it has no launcher");
        let said = own.difference(&rank(1, json!({ "size": 99 }))).unwrap();
        assert_eq!(said, "ranks 0 and 1 differ in size: 64 and 99");
        let said = own.difference(&rank(1, json!({ "size": 64, "new": 1 }))).unwrap();
        assert_eq!(said, "ranks 0 and 1 differ in new: nothing and 1");
        let more = Introduction { ranks: 4, ..rank(1, json!({ "size": 64 })) };
        assert_eq!(own.difference(&more).as_deref(), Some("rank 0 is of 3 ranks, not of 4"));
    }
}
