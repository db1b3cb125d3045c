//! What goes on, on a terminal and only there.

use std::{fmt, io};

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use terminal_size::{Width, terminal_size_of};

/// A line on stderr; it draws nothing where stderr is no terminal.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar that fills step by step.
    pub fn of_steps(what: &'static str, steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:20}] {wide_msg} {left}") {
            bar.set_style(style.with_key("left", left));
        }
        bar.set_prefix(what);
        Self { bar }
    }

    /// Words alone; none where nobody would see them.
    pub fn of_words() -> Option<Self> {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        (!bar.is_hidden()).then_some(Self { bar })
    }

    /// How long a line is on this terminal now.
    pub fn columns(&self) -> usize {
        terminal_size_of(io::stderr()).map_or(80, |(Width(columns), _)| columns.into())
    }

    /// What is being done now.
    pub fn doing(&self, what: String) {
        self.bar.set_message(what);
    }

    /// So many steps are done.
    pub fn steps(&self, steps: u64) {
        self.bar.inc(steps);
    }

    /// Takes it away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// How much longer it will take, once that can be guessed.
fn left(state: &ProgressState, line: &mut dyn fmt::Write) {
    if state.pos() > 0 {
        let _ = write!(line, "{:#} left", HumanDuration(state.eta()));
    }
}
