//! Which of several generators this is: as `--rank` says, or as whoever started them says in the environment.

use std::{env, str::FromStr};

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
    /// A name for all who were started together, where they are all on this host.
    #[serde(skip)]
    pub neighbours: Option<String>,
}

/// How one that starts several processes tells each which one it is.
struct Launcher {
    /// The variables of the rank, and of how many there are.
    rank: &'static str,
    ranks: &'static str,
    /// The variable of how many there are on this host.
    here: Option<&'static str>,
    /// Those that name the job together; where there are none, its ranks are known by their parent.
    job: &'static [&'static str],
}

/// The innermost first: inside of a batch job of Slurm or a Job of Kubernetes the others may be at work.
const LAUNCHERS: [Launcher; 4] = [
    // Open MPI: https://docs.open-mpi.org/en/v5.0.x/tuning-apps/environment-var.html
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        ranks: "OMPI_COMM_WORLD_SIZE",
        here: Some("OMPI_COMM_WORLD_LOCAL_SIZE"),
        job: &["PMIX_NAMESPACE"],
    },
    // MPICH and its relatives
    Launcher { rank: "PMI_RANK", ranks: "PMI_SIZE", here: Some("MPI_LOCALNRANKS"), job: &[] },
    // srun(1), OUTPUT ENVIRONMENT VARIABLES
    Launcher {
        rank: "SLURM_PROCID",
        ranks: "SLURM_NTASKS",
        here: Some("SLURM_STEP_TASKS_PER_NODE"),
        job: &["SLURM_JOB_ID", "SLURM_STEP_ID"],
    },
    KUBERNETES,
];

/// An Indexed Job. It tells each of its pods the index and not of how many: its template has to set that.
const KUBERNETES: Launcher =
    Launcher { rank: "JOB_COMPLETION_INDEX", ranks: "JOB_COMPLETIONS", here: None, job: &[] };

impl Placed {
    /// As the option says.
    pub fn by_option(rank: Rank) -> Self {
        Self { rank, by: "--rank".into(), neighbours: None }
    }

    /// As the environment says, where it does.
    ///
    /// # Errors
    /// A sentence for the user, where it says what cannot be.
    pub fn by_environment() -> Result<Option<Self>, String> {
        Self::by(|name| env::var(name).ok())
    }

    fn by(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        for Launcher { rank: name, ranks, here, job } in LAUNCHERS {
            let (Some(rank), Some(of)) = (variable(name), variable(ranks)) else { continue };
            let rank = Rank::new(number(name, &rank)?, number(ranks, &of)?)
                .map_err(|error| format!("{name}: {error}; --rank says otherwise"))?;
            let are_all_here = here.and_then(&variable).is_some_and(|here| here == of);
            let job = job.iter().map(|name| variable(name)).collect::<Option<Vec<_>>>();
            let neighbours = job.filter(|_| are_all_here).map(|names| match names.is_empty() {
                true => format!("{}-{}", getuid(), getppid()),
                false => format!("{}-{}", getuid(), names.join(".")),
            });
            return Ok(Some(Self { rank, by: name.into(), neighbours }));
        }
        let Launcher { rank: name, ranks, .. } = KUBERNETES;
        match variable(name) {
            Some(index) => Err(format!("{name}={index}, but of how many? Set {ranks}, or say --rank")),
            None => Ok(None),
        }
    }
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
        for Launcher { rank, ranks, .. } in LAUNCHERS {
            let placed = placed(&[(rank, "2"), (ranks, "4")]).unwrap().unwrap();
            assert_eq!((placed.rank, placed.by.as_str()), (Rank { rank: 2, ranks: 4 }, rank));
            assert_eq!(placed.neighbours, None, "it is not known who is on this host");
        }
        assert_eq!(placed(&[]), Ok(None));
    }

    #[test]
    fn the_innermost_launcher_is_believed() {
        let of_slurm = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")];
        let of_mpi = [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4")];
        let placed = placed(&[of_slurm, of_mpi].concat()).unwrap().unwrap();
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
    fn what_cannot_be_is_refused_in_one_line_that_says_what_to_do() {
        for (variables, word) in [
            (&[("JOB_COMPLETION_INDEX", "3")][..], "JOB_COMPLETIONS"),
            (&[("PMI_RANK", "4"), ("PMI_SIZE", "4")], "--rank"),
            (&[("PMI_RANK", "first"), ("PMI_SIZE", "4")], "--rank"),
        ] {
            let said = placed(variables).unwrap_err();
            assert!(said.contains(word) && said.lines().count() == 1, "{said}");
        }
    }
}
