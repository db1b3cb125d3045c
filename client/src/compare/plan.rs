//! The plan of an experiment: all that decides what is run. It is kept with the results as TOML, and repeats them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use arguments::{CpuList, Transport};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    cell::Cell,
    comparison::LEAST_BLOCKS,
    contender::{Contender, OurServer},
    scenario::{Character, Clients, Depth, Drive, Point, Scenario},
};
use crate::saturation::{self, Bound};

/// An experiment. Each block of it runs every cell of every trial once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What the order of the cells and the bytes are made from.
    pub seed: u64,
    /// How often each cell is run; where there is a time, at most.
    pub blocks: usize,
    /// How long all of it may take: at each point there are blocks until all is decided, or the time is over.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "humantime_serde")]
    pub time: Option<Duration>,
    /// The smallest difference that matters, as a share: what is surely less is equal.
    #[serde(default = "usual_resolve")]
    pub resolve: f64,
    /// How long each is measured.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// How long it is loaded before that.
    #[serde(with = "humantime_serde")]
    pub warmup: Duration,
    /// Whether the servers' system calls are counted, after all that is timed.
    pub count_calls: bool,
    /// The client's processors.
    pub client_cpus: CpuList,
    /// The commands that are contenders, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub with: BTreeMap<String, String>,
    /// What is run.
    pub trial: Vec<Trial>,
}

/// A scenario: who is put to it, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What they are put to.
    pub scenario: Scenario,
    /// Who takes part.
    pub contenders: Vec<String>,
    /// How many connections there are, one number after the other.
    pub connections: Vec<usize>,
    /// How many bytes a message has, one number after the other.
    pub sizes: Vec<usize>,
    /// The processors of the servers that are started; where all run already, nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_cpus: Option<CpuList>,
    /// What a message costs the server besides the echo, as its `--work` has it.
    #[serde(default = "no_work", skip_serializing_if = "is_no_work")]
    pub work: String,
    /// On a schedule: how many messages a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Over UDP: how many datagrams leave in one system call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<usize>,
    /// How long 99 of 100 answers may take at a rate that counts as kept.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "humantime_serde")]
    pub p99: Option<Duration>,
}

/// What stands behind a contender's name where it takes part a second time, against itself.
pub const AGAIN: &str = " (again)";

fn usual_resolve() -> f64 {
    Depth::Usual.resolve()
}

fn no_work() -> String {
    "none".into()
}

fn is_no_work(work: &str) -> bool {
    work == "none"
}

impl Trial {
    /// The points at which its contenders are compared.
    pub fn points(&self) -> Vec<Point> {
        let character = self.scenario.character();
        let drive = if self.rate.is_some() { Drive::Open } else { Drive::Closed };
        let mut points = Vec::new();
        for &size in &self.sizes {
            for &beside in character.beside {
                points.extend(self.connections.iter().map(|&connections| Point {
                    drive,
                    beside,
                    size,
                    connections,
                }));
            }
        }
        if self.scenario == Scenario::Overload
            && let Some(&last) = points.last()
        {
            points.push(Point { drive: Drive::Search, ..last });
        }
        points
    }

    /// What is to hold at a rate that counts as kept.
    pub fn bound(&self) -> Bound {
        Bound::of_p99(self.p99.unwrap_or(P99))
    }

    /// What a message costs besides the echo, where it costs anything.
    pub fn work(&self) -> Option<&str> {
        (!is_no_work(&self.work)).then_some(self.work.as_str())
    }

    /// How many workers a contender is given for so many connections: a pool one for each client that must be
    /// served at once. Where they come and go, it has as many as it pleases.
    pub fn workers(&self, contender: &Contender, connections: usize) -> Option<usize> {
        match self.scenario.character().clients {
            Clients::Stay => contender.workers(self.scenario.at_once(connections)),
            Clients::Press | Clients::ComeAndGo => None,
        }
    }

    /// Why a contender is not even started for so many connections.
    pub fn excludes(&self, contender: &Contender, connections: usize) -> Option<&'static str> {
        if contender.serves_one() && self.scenario.at_once(connections) > 1 {
            return Some("one client at a time");
        }
        if contender.runs_already() && self.scenario.character().figure.is_the_servers_cost {
            return Some("it runs already, so nobody knows what it costs");
        }
        (self.work().is_some() && !contender.takes_work())
            .then_some("it does no work: its command has no {work}")
    }
}

/// One run of one contender: which one of a trial's, where, and in which block, from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn<'p> {
    /// In which block.
    pub block: usize,
    /// Of what.
    pub trial: &'p Trial,
    /// Who.
    pub contender: &'p str,
    /// Where.
    pub point: Point,
}

impl Plan {
    /// Reads it from a file.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn read(path: &Path) -> Result<Self, String> {
        let plan: Self = from_toml(path)?;
        plan.contradiction().map_or(Ok(plan), |sentence| Err(format!("{}: {sentence}", path.display())))
    }

    /// As it is kept.
    ///
    /// # Errors
    /// A sentence; where there is none it is a plan.
    pub fn to_toml(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|error| error.to_string())
    }

    /// What no plan may say.
    pub fn contradiction(&self) -> Option<String> {
        if self.trial.is_empty() || self.blocks == 0 || self.duration.is_zero() {
            return Some("there is nothing to run: trial, blocks and duration are needed".into());
        }
        if !(0.001..1.0).contains(&self.resolve) {
            return Some(format!("a difference of {} is to be seen; it may be 0.1% to 100%", self.resolve));
        }
        let mut scenarios: Vec<Scenario> = self.trial.iter().map(|trial| trial.scenario).collect();
        scenarios.sort_unstable();
        if let Some(twice) = scenarios.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("{} is there twice; put all of it into one trial", twice[0].name()));
        }
        self.trial.iter().find_map(Trial::contradiction)
    }

    /// Every contender of every trial, by its name.
    ///
    /// # Errors
    /// A sentence for the user, where one is not there.
    pub fn contenders(&self, ours: &OurServer) -> Result<BTreeMap<&str, Contender>, String> {
        let mut found = BTreeMap::new();
        for trial in &self.trial {
            for name in &trial.contenders {
                if !found.contains_key(name.as_str()) {
                    found.insert(name.as_str(), self.contender(ours, name)?);
                }
            }
        }
        Ok(found)
    }

    fn contender(&self, ours: &OurServer, name: &str) -> Result<Contender, String> {
        if let Some(first) = name.strip_suffix(AGAIN) {
            let mut contender = self.contender(ours, first)?;
            contender.name = name.into();
            return Ok(contender);
        }
        let who = || name.rsplit_once('@').and_then(|(who, _)| self.with.get(who));
        match self.with.get(name).or_else(who) {
            Some(command) => Contender::from_command(&format!("{name}={command}")),
            None => match &ours.contenders(name, Transport::Tcp)?[..] {
                [one] => Ok(one.clone()),
                several => Err(format!("{name:?} means {} contenders; name one", several.len())),
            },
        }
    }

    /// The points of all trials, in the order of block `block`, which chance draws: those who are compared with each other run
    /// one after the other, and take turns where they can.
    pub fn situations(&self, block: usize) -> Vec<(&Trial, Point)> {
        let points = |trial| Trial::points(trial).into_iter().map(move |point| (trial, point));
        let mut all: Vec<(&Trial, Point)> = self.trial.iter().flat_map(points).collect();
        all.shuffle(&mut self.chance(block));
        all
    }

    /// The turns of a block at a point, in an order of its own.
    pub fn turns<'p>(&'p self, block: usize, trial: &'p Trial, point: Point) -> Vec<Turn<'p>> {
        let mut turns: Vec<Turn<'_>> =
            trial.contenders.iter().map(|contender| Turn { block, trial, contender, point }).collect();
        turns.shuffle(&mut self.chance(block));
        turns
    }

    /// Those of them of which there is no cell yet.
    pub fn left<'p>(&'p self, block: usize, trial: &'p Trial, point: Point, cells: &[Cell]) -> Vec<Turn<'p>> {
        let mut turns = self.turns(block, trial, point);
        turns.retain(|turn| !cells.iter().any(|cell| cell.is_of(turn)));
        turns
    }

    /// What chance draws in a block; the same for the same seed.
    pub fn chance(&self, block: usize) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_add(block as u64))
    }

    /// Into how many slices a cell of a trial is cut.
    pub fn rounds(&self, trial: &Trial) -> usize {
        let slice = trial.scenario.character().slice;
        slice.map_or(1, |slice| self.duration.div_duration_f64(slice.measured).round().max(1.0) as usize)
    }

    /// Whose system calls are counted, and in what: in each scenario where a message costs the echo alone.
    pub fn counts(&self) -> Vec<(&Trial, &str)> {
        let trials = self.trial.iter().filter(|trial| self.count_calls && trial.scenario.is_of_calls());
        trials.flat_map(|trial| trial.contenders.iter().map(move |name| (trial, name.as_str()))).collect()
    }

    /// How long it takes, unless told.
    pub fn usual_time(&self, depth: Depth) -> Duration {
        let blocks = depth.blocks() as u32;
        let of_point = |(trial, point)| (self.estimate(trial, point) * blocks).max(depth.time());
        self.situations(1).into_iter().map(of_point).sum()
    }

    /// That it is shorter than it can be.
    pub fn too_little_time(&self) -> Option<String> {
        let least: Duration =
            self.situations(1).into_iter().map(|(trial, point)| self.estimate(trial, point)).sum();
        let least = Duration::from_secs((least * LEAST_BLOCKS as u32).as_secs() + 1);
        let time = self.time.filter(|time| *time < least)?;
        let (time, least) = (humantime::format_duration(time), humantime::format_duration(least));
        Some(format!(
            "--time {time}: {LEAST_BLOCKS} blocks of all that was asked for take about {least}; ask for less, or give more"
        ))
    }

    /// About how long a block at a point takes.
    pub fn estimate(&self, trial: &Trial, point: Point) -> Duration {
        let Character { slice, connect_rate, .. } = trial.scenario.character();
        let opening = point.connections as f64 / f64::from(*connect_rate);
        let measuring = match (point.drive, slice) {
            (Drive::Search, _) => {
                (self.warmup + saturation::length(trial.bound(), self.duration / TRIED_FOR)) * SEARCH
            }
            (_, None) => self.warmup + self.duration,
            (_, Some(slice)) => {
                let around = if trial.scenario.churn().is_some() { RESTING } else { AROUND_A_SLICE };
                (slice.lead_in + slice.measured + around) * self.rounds(trial) as u32
            }
        };
        let each = START_AND_STOP + Duration::from_secs_f64(2.0 * opening) + measuring;
        each * trial.contenders.len() as u32
    }
}

impl Trial {
    fn contradiction(&self) -> Option<String> {
        let name = self.scenario.name();
        if self.contenders.is_empty() || self.connections.is_empty() || self.sizes.is_empty() {
            return Some(format!("{name}: contenders, connections and sizes are needed"));
        }
        let mut names: Vec<&str> = self.contenders.iter().map(String::as_str).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("{name}: {} takes part twice; give one another name", pair[0]));
        }
        if self.connections.contains(&0) || self.burst == Some(0) {
            return Some(format!("{name}: connections and burst are 1 or more"));
        }
        for (what, numbers) in [("connections", &self.connections), ("sizes", &self.sizes)] {
            let mut seen = BTreeSet::new();
            if let Some(twice) = numbers.iter().find(|&&number| !seen.insert(number)) {
                return Some(format!("{name}: {what} has {twice} twice"));
            }
        }
        let amount = self.work.strip_prefix("cpu:").or_else(|| self.work.strip_prefix("sleep:"));
        let is_work = is_no_work(&self.work) || amount.is_some_and(|it| arguments::duration(it).is_ok());
        if !is_work {
            return Some(format!("{name}: work {:?}; write it like none, cpu:2ms or sleep:5ms", self.work));
        }
        let rate = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0));
        rate.map(|rate| format!("{name}: a rate of {rate} a second; it must be more than nothing"))
    }
}

/// What is in a file of TOML.
///
/// # Errors
/// A sentence for the user, with the file and the line.
pub fn from_toml<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| named(&error))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        named(&format!("line {line}: {}", error.message()))
    })
}

/// About how long it takes to start a server, to stop it, and to read what it used.
const START_AND_STOP: Duration = Duration::from_millis(120);

/// About how long it takes to read what a server has used, before and after a slice.
const AROUND_A_SLICE: Duration = Duration::from_millis(2);

/// The same where it is also waited for until the server rests.
const RESTING: Duration = Duration::from_millis(25);

/// How long 99 of 100 answers may take at a rate that counts as kept, unless told.
pub const P99: Duration = Duration::from_millis(10);

/// A rate of a search is tried for this part of a cell's time.
pub const TRIED_FOR: u32 = 2;

/// About how long it takes to count a contender's system calls.
pub const COUNTING: Duration = Duration::from_millis(800);

/// About how many stretches a search takes.
const SEARCH: u32 = 40;
