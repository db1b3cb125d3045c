//! stub
use super::Outcome;
use clap::Args;
#[derive(Debug, Args)]
pub struct Compare {}
impl Compare {
    pub fn run(self) -> Outcome {
        Ok(std::process::ExitCode::SUCCESS)
    }
}
