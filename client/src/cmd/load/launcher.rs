//! Which of several generators this is: as `--rank` says, or as whoever started them says in the environment.

use std::{env, str::FromStr};

use log::warn;
use nix::unistd::{getppid, getuid};
use serde::{Deserialize, Serialize};

use crate::load::Rank;

/// A rank, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Which one.
    #[serde(flatten)]
    pub rank: Rank,
    /// The option or the variable that says so.
    pub by: String,
    /// The launcher's name for all that were started together, where it has one.
    #[serde(skip)]
    pub job: Option<String>,
    /// A name for them, where they are all on this host.
    #[serde(skip)]
    pub neighbours: Option<String>,
}

/// How one that starts several processes tells each which one it is.
struct Launcher {
    /// The variable without which it started nothing, where others of its variables are set elsewhere too.
    started: Option<&'static str>,
    /// The variables of the rank, and of how many there are.
    rank: &'static str,
    ranks: &'static str,
    /// Another variable of how many there are: where both are set, they agree.
    again: Option<&'static str>,
    /// The variable of how many there are on this host.
    here: Option<&'static str>,
    /// Those that name the job together; where there are none, its ranks are known by their parent.
    job: &'static [&'static str],
}

/// The innermost first: inside of a batch job of Slurm or a Job of Kubernetes the others may be at work.
const LAUNCHERS: [Launcher; 4] = [
    // Open MPI: https://docs.open-mpi.org/en/v5.0.x/tuning-apps/environment-var.html
    Launcher {
        started: None,
        rank: "OMPI_COMM_WORLD_RANK",
        ranks: "OMPI_COMM_WORLD_SIZE",
        again: None,
        here: Some("OMPI_COMM_WORLD_LOCAL_SIZE"),
        job: &["PMIX_NAMESPACE"],
    },
    // MPICH and its relatives; also srun --mpi=pmi2, which leaves out who is on this host
    Launcher {
        started: None,
        rank: "PMI_RANK",
        ranks: "PMI_SIZE",
        again: None,
        here: Some("MPI_LOCALNRANKS"),
        job: &[],
    },
    SLURM,
    // An Indexed Job of Kubernetes. It tells each of its pods the index and not of how many: its template has to
    // set that.
    Launcher {
        started: None,
        rank: "JOB_COMPLETION_INDEX",
        ranks: "JOB_COMPLETIONS",
        again: None,
        here: None,
        job: &[],
    },
];

/// srun(1), OUTPUT ENVIRONMENT VARIABLES. A batch script itself, which is one process, has SLURM_PROCID=0 and
/// SLURM_NTASKS of its job, but no step; where it was submitted from inside of a step it has inherited that step's
/// variables, and the two numbers of tasks differ. So they do in the shell of salloc, a step of one task.
const SLURM: Launcher = Launcher {
    started: Some("SLURM_STEP_ID"),
    rank: "SLURM_PROCID",
    ranks: "SLURM_NTASKS",
    again: Some("SLURM_STEP_NUM_TASKS"),
    here: Some("SLURM_STEP_TASKS_PER_NODE"),
    job: &["SLURM_JOB_ID", "SLURM_STEP_ID"],
};

impl Placed {
    /// As the option says.
    pub fn by_option(rank: Rank) -> Self {
        Self { rank, by: "--rank".into(), job: None, neighbours: None }
    }

    /// As the environment says, where it does.
    ///
    /// # Errors
    /// A sentence for the user, where it says what cannot be.
    pub fn by_environment() -> Result<Option<Self>, String> {
        let variable = |name: &str| env::var(name).ok();
        let placed = Self::by(variable)?;
        if let Some(sentence) = placed.is_none().then(|| unlaunched(variable)).flatten() {
            warn!("{sentence}");
        }
        Ok(placed)
    }

    fn by(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let mut told = LAUNCHERS.iter().filter_map(|launcher| launcher.place(&variable).transpose());
        let Some(innermost) = told.next().transpose()? else { return Ok(None) };
        // Another one that says the same rank started the same processes, and may know more of them.
        let same = told.flatten().find(|other| other.rank == innermost.rank);
        let (job, neighbours) = same.map_or((None, None), |same| (same.job, same.neighbours));
        Ok(Some(Self {
            job: innermost.job.or(job),
            neighbours: innermost.neighbours.or(neighbours),
            ..innermost
        }))
    }
}

impl Launcher {
    /// Which one this process is, where this launcher started it.
    fn place(&self, variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Placed>, String> {
        let Self { started, rank: name, ranks, again, here, job } = *self;
        if started.is_some_and(|started| variable(started).is_none()) {
            return Ok(None);
        }
        let (rank, of) = match (variable(name), variable(ranks)) {
            (None, None) => return Ok(None),
            (Some(rank), Some(of)) => (rank, of),
            (Some(rank), None) => {
                return Err(format!("{name}={rank}, but of how many? Set {ranks}, or say --rank"));
            }
            (None, Some(of)) => {
                return Err(format!("{ranks}={of}, but which one is this? Set {name}, or say --rank"));
            }
        };
        if let Some((again, other)) = again.and_then(|again| Some((again, variable(again)?)))
            && other != of
        {
            if other == "1" {
                return Ok(None); // of one, it is all
            }
            return Err(format!("{ranks}={of}, but {again}={other}; say --rank, like 0/1 for a load alone"));
        }
        let rank = Rank::new(number(name, &rank)?, number(ranks, &of)?)
            .map_err(|error| format!("{name}: {error}; --rank says otherwise"))?;
        let are_all_here = here.and_then(variable).is_some_and(|here| here == of);
        let names = job.iter().map(|name| variable(name)).collect::<Option<Vec<_>>>();
        let is_named = !job.is_empty();
        let neighbours = names.as_ref().filter(|_| are_all_here).map(|names| match is_named {
            true => format!("{}-{}", getuid(), names.join(".")),
            false => format!("{}-{}", getuid(), getppid()),
        });
        let job = names.filter(|_| is_named).map(|names| names.join("."));
        Ok(Some(Placed { rank, by: name.into(), job, neighbours }))
    }
}

/// What is to be said where a batch script of Slurm has several tasks, and srun started none of them.
fn unlaunched(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let Launcher { rank, ranks, .. } = SLURM;
    let tasks = variable(rank).and_then(|_| variable(ranks)).filter(|tasks| tasks != "1")?;
    Some(format!("{ranks}={tasks}, but srun has not started {tasks} of these: this one makes the whole load"))
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}={value} is no number; --rank says otherwise"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(variables: &[(&str, &str)]) -> Result<Option<Placed>, String> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Placed::by(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn every_launcher_tells_the_rank() {
        for Launcher { started, rank, ranks, .. } in LAUNCHERS {
            let started = started.map(|started| (started, "0"));
            let placed = placed(&[(rank, "2"), (ranks, "4")].into_iter().chain(started).collect::<Vec<_>>());
            let placed = placed.unwrap().unwrap();
            assert_eq!((placed.rank, placed.by.as_str()), (Rank { rank: 2, ranks: 4 }, rank));
            assert_eq!(placed.neighbours, None, "it is not known who is on this host");
        }
        assert_eq!(placed(&[]), Ok(None));
    }

    #[test]
    fn the_innermost_launcher_is_believed() {
        let of_slurm = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_STEP_ID", "0")];
        let of_mpi = [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4")];
        let placed = placed(&[&of_slurm[..], &of_mpi].concat()).unwrap().unwrap();
        assert_eq!(placed.rank, Rank { rank: 3, ranks: 4 });
    }

    #[test]
    fn neighbours_are_known_where_all_ranks_are_on_this_host() {
        let of = |local: &'static str| {
            let of_mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")];
            let on_host = [("OMPI_COMM_WORLD_LOCAL_SIZE", local), ("PMIX_NAMESPACE", "77.1")];
            placed(&[of_mpi, on_host].concat()).unwrap().unwrap().neighbours
        };
        assert!(of("4").is_some_and(|name| name.ends_with("77.1")));
        assert_eq!(of("2"), None);
    }

    #[test]
    fn a_batch_script_of_slurm_is_no_rank_until_srun_starts_one() {
        let script = [("SLURM_JOB_ID", "7"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")];
        assert_eq!(placed(&script), Ok(None));
        let said = |variables: &[(&str, &str)]| {
            unlaunched(|name| Some(variables.iter().find(|(known, _)| *known == name)?.1.to_owned()))
        };
        assert!(said(&script).is_some_and(|said| said.contains("SLURM_NTASKS=4") && said.contains("srun")));
        assert_eq!(said(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")]), None);
        let shell = [("SLURM_STEP_ID", "4294967290"), ("SLURM_STEP_NUM_TASKS", "1")];
        assert_eq!(placed(&[&script[..], &shell].concat()), Ok(None), "of salloc");
        let task = placed(&[&script[..], &[("SLURM_STEP_ID", "0")]].concat()).unwrap().unwrap();
        assert_eq!((task.rank, task.job.as_deref()), (Rank { rank: 0, ranks: 4 }, Some("7.0")));
    }

    #[test]
    fn srun_knows_of_the_ranks_that_it_tells_as_mpich_does_who_is_on_this_host() {
        let of_pmi = [("PMI_RANK", "1"), ("PMI_SIZE", "2")];
        let of_slurm = |rank| [("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "0"), ("SLURM_PROCID", rank)];
        let more = [("SLURM_NTASKS", "2"), ("SLURM_STEP_TASKS_PER_NODE", "2")];
        let same = placed(&[&of_pmi[..], &of_slurm("1"), &more].concat()).unwrap().unwrap();
        assert_eq!((same.rank, same.by.as_str()), (Rank { rank: 1, ranks: 2 }, "PMI_RANK"));
        assert!(same.neighbours.is_some_and(|name| name.ends_with("7.0")));
        // mpiexec of MPICH in a step of Slurm: a task of srun's starts several ranks.
        let other = placed(&[&of_pmi[..], &of_slurm("0"), &more].concat()).unwrap().unwrap();
        assert_eq!((other.rank.rank, other.job, other.neighbours), (1, None, None));
    }

    #[test]
    fn what_cannot_be_is_refused_in_one_line_that_says_what_to_do() {
        // As a batch script has it that was submitted from inside of a step.
        let inherited = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("SLURM_STEP_ID", "0")];
        let inherited = [&inherited[..], &[("SLURM_STEP_NUM_TASKS", "8")]].concat();
        for (variables, word) in [
            (&inherited[..], "SLURM_STEP_NUM_TASKS=8; say --rank"),
            (&[("OMPI_COMM_WORLD_RANK", "3")], "OMPI_COMM_WORLD_SIZE"),
            (&[("PMI_RANK", "3")], "PMI_SIZE"),
            (&[("PMI_SIZE", "4")], "PMI_RANK"),
            (&[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "3")], "SLURM_NTASKS"),
            (&[("JOB_COMPLETIONS", "4")], "JOB_COMPLETION_INDEX"),
            (&[("JOB_COMPLETION_INDEX", "3")][..], "JOB_COMPLETIONS"),
            (&[("PMI_RANK", "4"), ("PMI_SIZE", "4")], "--rank"),
            (&[("PMI_RANK", "first"), ("PMI_SIZE", "4")], "--rank"),
        ] {
            let said = placed(variables).unwrap_err();
            assert!(said.contains(word) && said.lines().count() == 1, "{said}");
        }
    }
}
