//! A progress bar, on a terminal and only there.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr; it draws nothing where stderr is no terminal.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Fills by itself while `time` passes.
    pub fn of_time(what: &'static str, time: Duration) -> Self {
        let progress = Self::of_steps(what, time.as_millis() as u64 / 100);
        if !progress.bar.is_hidden() {
            let bar = progress.bar.clone();
            std::thread::spawn(move || {
                while !bar.is_finished() && bar.position() < bar.length().unwrap_or(0) {
                    std::thread::sleep(Duration::from_millis(100));
                    bar.inc(1);
                }
            });
        }
        progress
    }

    /// Fills step by step.
    pub fn of_steps(what: &'static str, steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {msg} {eta} left") {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        Self { bar }
    }

    /// What is being done now.
    pub fn doing(&self, what: String) {
        self.bar.set_message(what);
    }

    /// A step is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
