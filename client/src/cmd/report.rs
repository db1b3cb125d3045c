//! `report`: makes the page, the text, the rows and the charts again from stored results.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{EXIT_STATUS, Failure, Outcome, percent, print};
use crate::{
    compare::{
        results::{Folder, Run},
        table::folded,
    },
    report::{self, changes::Changes},
};

/// Make the report again from stored results.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub struct Report {
    /// The folder of a run, as compare --results made it; of several, the last one is shown, and what changed since
    /// the others
    #[arg(value_name = "RESULTS", required = true)]
    results: Vec<PathBuf>,

    /// Where the report goes [default: report, in the folder of the last run]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Fail, with status 1, where a figure of the last run is surely worse than in an earlier one by more than a share, like
    /// 'slower>5%'
    #[arg(long, value_name = "CONDITION", value_parser = slower)]
    fail_if: Option<f64>,

    /// Fail also where a figure may be so
    #[arg(long, requires = "fail_if")]
    fail_if_doubtful: bool,
}

/// `slower>5%`: a share.
fn slower(text: &str) -> Result<f64, String> {
    let share = text.trim().strip_prefix("slower").and_then(|rest| rest.trim().strip_prefix('>'));
    percent(share.ok_or_else(|| format!("{text:?}; write it like 'slower>5%'"))?.trim())
}

impl Report {
    /// Writes it, and says what it finds. The exit status is that of the run which it shows.
    pub fn run(self) -> Outcome {
        let read = self.results.iter().map(|path| Ok((name(path), Folder::at(path).read()?)));
        let mut runs = read.collect::<Result<Vec<_>, _>>().map_err(Failure::Usage)?;
        let Some(((_, run), path)) = runs.pop().zip(self.results.last()) else {
            unreachable!("one is required")
        };
        let folder = self.output.clone().unwrap_or_else(|| Folder::at(path).report());
        if self.fail_if.is_some() && runs.is_empty() {
            return Err(Failure::Usage(
                "--fail-if: of one run nothing is worse; name an earlier one before it".into(),
            ));
        }
        make(&run, &runs, &folder)?;
        if let Some(share) = self.fail_if {
            let changes =
                runs.iter().map(|(name, then)| Changes::between(name, &then.in_short(), &run.in_short()));
            let complaint = |changes: Changes| changes.complaint(share, self.fail_if_doubtful);
            if let Some(complaint) = changes.filter_map(complaint).next() {
                return Err(Failure::Failed(format!("--fail-if slower>{}%: {complaint}", 100.0 * share)));
            }
        }
        Ok(ExitCode::from(run.exit_status()))
    }
}

/// Writes the report of a run, with what changed since earlier ones, into a folder; says what it finds and where it is.
pub fn make(run: &Run, earlier: &[(String, Run)], folder: &Path) -> Result<(), Failure> {
    let written = report::write(run, earlier, folder).map_err(Failure::io(folder.display()))?;
    let findings: String = written
        .findings
        .iter()
        .map(|finding| format!("{}\n", folded(&finding.to_string(), "", "")))
        .collect();
    print(&format!("{findings}\nreport: {}\n", written.page.display()))
}

/// What an earlier run is called: its folder's own name, for where that lies is nobody's business.
fn name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or(path.into());
    whole.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}
