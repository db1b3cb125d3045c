//! A plan with choices left open, as it is typed on a command line or written by hand: what is not said is as usual.

use std::{collections::BTreeMap, path::Path, time::Duration};

use arguments::CpuList;
use log::warn;
use serde::Deserialize;

use super::{
    contender::{Contender, OurServer},
    plan::{AGAIN, P99, Plan, Trial, from_toml},
    scenario::{Depth, Scenario},
};

/// A plan with choices left open. What a plan says, it may say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Draft {
    /// As in [`Plan::seed`].
    pub seed: Option<u64>,
    /// As in [`Plan::blocks`].
    pub blocks: Option<usize>,
    /// As in [`Plan::time`].
    #[serde(with = "humantime_serde")]
    pub time: Option<Duration>,
    /// As in [`Plan::resolve`].
    pub resolve: Option<f64>,
    /// As in [`Plan::duration`].
    #[serde(with = "humantime_serde")]
    pub duration: Option<Duration>,
    /// As in [`Plan::warmup`].
    #[serde(with = "humantime_serde")]
    pub warmup: Option<Duration>,
    /// As in [`Plan::count_calls`].
    pub count_calls: Option<bool>,
    /// As in [`Plan::client_cpus`].
    pub client_cpus: Option<CpuList>,
    /// As in [`Plan::with`]. Where a trial says nobody, these take part too.
    pub with: BTreeMap<String, String>,
    /// As in [`Plan::trial`].
    pub trial: Vec<DraftTrial>,
}

/// A trial with choices left open.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftTrial {
    /// As in [`Trial::scenario`].
    pub scenario: Scenario,
    /// Who takes part, also sets (`classic`); nobody here: who usually does.
    #[serde(default)]
    pub contenders: Vec<String>,
    /// As in [`Trial::connections`].
    #[serde(default)]
    pub connections: Vec<usize>,
    /// As in [`Trial::sizes`].
    #[serde(default)]
    pub sizes: Vec<usize>,
    /// As in [`Trial::server_cpus`].
    #[serde(default)]
    pub server_cpus: Option<CpuList>,
    /// As in [`Trial::work`].
    #[serde(default)]
    pub work: Option<String>,
    /// As in [`Trial::rate`].
    #[serde(default)]
    pub rate: Option<f64>,
    /// As in [`Trial::burst`].
    #[serde(default)]
    pub burst: Option<usize>,
    /// As in [`Trial::p99`].
    #[serde(default, with = "humantime_serde")]
    pub p99: Option<Duration>,
}

/// More blocks than these there are never.
const MOST_BLOCKS: usize = 1000;

impl Draft {
    /// Reads it from a file.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn read(path: &Path) -> Result<Self, String> {
        from_toml(path)
    }

    /// Makes every choice that was left open.
    ///
    /// # Errors
    /// A sentence for the user: what cannot be, or who is not there.
    pub fn settle(&self, ours: &OurServer, depth: Depth) -> Result<Plan, String> {
        let allowed = CpuList::allowed().map_err(|error| format!("processors: {error}"))?;
        let (servers, of_client) = allowed.split_last((allowed.count() / 4).max(1));
        let told = self.trial.iter().filter_map(|trial| trial.server_cpus.as_ref()).chain(&self.client_cpus);
        for list in told {
            list.confine()
                .and_then(|()| allowed.confine())
                .map_err(|error| format!("CPU {list}: {error}; see nproc(1) for what there is"))?;
        }
        let usual = |on_all: bool| if on_all { allowed.clone() } else { servers.clone() };
        let trial = |trial: &DraftTrial| -> Result<Trial, String> {
            if trial.rate.is_some() && trial.scenario.character().rate.is_none() {
                return Err(format!("--rate: {} has no schedule; stall has", trial.scenario.name()));
            }
            let on_all = trial.scenario.character().on_all_cpus;
            let (contenders, is_started) = self.contenders(trial, ours, depth)?;
            Ok(trial.settle(contenders, depth, is_started.then(|| usual(on_all))))
        };
        let trials: Vec<Trial> = self.trial.iter().map(trial).collect::<Result<_, _>>()?;
        // Where no server is started, nobody needs the others.
        let client = if trials.iter().any(|trial| trial.server_cpus.is_some()) { of_client } else { allowed };
        let mut plan = Plan {
            seed: self.seed.unwrap_or(1),
            blocks: self.blocks.unwrap_or(MOST_BLOCKS),
            time: self.time,
            resolve: self.resolve.unwrap_or(depth.resolve()),
            duration: self.duration.unwrap_or(depth.duration()),
            warmup: self.warmup.unwrap_or(depth.warmup()),
            count_calls: self.count_calls.unwrap_or(true),
            client_cpus: self.client_cpus.clone().unwrap_or(client),
            with: self.with.clone(),
            trial: trials,
        };
        if let Some(contradiction) = plan.contradiction() {
            return Err(contradiction);
        }
        if let Some(too_little) = plan.too_little_time() {
            return Err(too_little);
        }
        if self.blocks.is_none() && self.time.is_none() {
            plan.time = Some(plan.usual_time(depth));
        }
        Ok(plan)
    }

    /// The names of who takes part; and whether any of them is started.
    fn contenders(
        &self,
        trial: &DraftTrial,
        ours: &OurServer,
        depth: Depth,
    ) -> Result<(Vec<String>, bool), String> {
        let usual = trial.scenario.usual();
        let with =
            self.with.iter().map(|(name, command)| Contender::from_command(&format!("{name}={command}")));
        let with = with.map(|other| Ok(other?.usually_over(usual)));
        let with: Vec<Contender> = with.collect::<Result<_, String>>()?;
        if let Some(other) = with.iter().find(|other| ours.has_model(&other.name)) {
            return Err(format!("--with {}: a model of ours is called so; choose another name", other.name));
        }
        let named = |text: &str| -> Result<Vec<String>, String> {
            if let Some(other) = with.iter().find(|other| other.is_called(text, usual)) {
                return Ok(vec![other.name.clone()]);
            }
            Ok(ours.contenders(text, usual)?.into_iter().map(|contender| contender.name).collect())
        };
        let mut names = Vec::new();
        for text in &trial.contenders {
            match text.strip_suffix(AGAIN) {
                None => names.extend(named(text)?),
                Some(first) => names.extend(named(first)?.into_iter().map(|name| name + AGAIN)),
            }
        }
        if trial.contenders.is_empty() {
            // Who is not there does not take part.
            let all = trial.scenario.contenders(depth).iter();
            let left_out = |sentence: &String| warn!("{}: left out: {sentence}", trial.scenario.name());
            names.extend(all.flat_map(|text| named(text).inspect_err(left_out).unwrap_or_default()));
            names.extend(with.iter().map(|other| other.name.clone()));
        }
        match names.is_empty() {
            true => Err("nobody takes part; name a program, like --with 'mine=./my-server {port}'".into()),
            false => {
                let first = |name: &str| name.strip_suffix(AGAIN).unwrap_or(name).to_owned();
                let runs = |name: &String| with.iter().any(|it| it.name == first(name) && it.runs_already());
                let is_started = !names.iter().all(runs);
                Ok((names, is_started))
            }
        }
    }
}

impl DraftTrial {
    fn settle(&self, contenders: Vec<String>, depth: Depth, server_cpus: Option<CpuList>) -> Trial {
        let character = self.scenario.character();
        let or =
            |told: &[usize], usual: &[usize]| if told.is_empty() { usual.to_vec() } else { told.to_vec() };
        Trial {
            scenario: self.scenario,
            contenders,
            connections: or(&self.connections, character.connections[depth as usize]),
            sizes: or(&self.sizes, character.sizes[depth as usize]),
            server_cpus: server_cpus.map(|usual| self.server_cpus.clone().unwrap_or(usual)),
            work: self.work.clone().unwrap_or(character.work.into()),
            rate: character.rate.map(|usual| self.rate.unwrap_or(usual)),
            burst: self.burst,
            p99: (self.scenario == Scenario::Overload).then(|| self.p99.unwrap_or(P99)),
        }
    }
}
