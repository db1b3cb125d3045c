//! `report`: makes the page, the text, the rows and the charts again from stored results.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Failure, Outcome, print};
use crate::report::{self, Stored};

/// Make the report again from stored results.
#[derive(Debug, Args)]
pub struct Report {
    /// The folder of a run, as compare --results made it
    #[arg(value_name = "RESULTS")]
    results: PathBuf,

    /// Where the report goes [default: report, in the folder of the run]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Report {
    /// Writes it, and says what it finds.
    pub fn run(self) -> Outcome {
        let stored = Stored::read(&self.results).map_err(Failure::Usage)?;
        let folder = self.output.unwrap_or_else(|| self.results.join("report"));
        let written = report::write(&stored, &folder).map_err(Failure::io(folder.display()))?;
        let findings: String = written.findings.iter().map(|finding| format!("{finding}\n")).collect();
        print(&format!("{findings}\nreport: {}\n", written.page.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}
