//! A terminal that a program draws on as a whole, and gives back as it was: also where it panics. Signals are the
//! program's business.

use std::{
    io::{self, IsTerminal},
    mem::ManuallyDrop,
    os::fd::AsFd,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::{
        cursor::Show,
        event::{self, Event, KeyCode, KeyEvent, KeyModifiers},
        execute,
    },
};

/// The terminal, taken until this is dropped.
pub struct Screen {
    /// It is not dropped, but given back: where it is gone, its drop complains to it, and panics that nobody hears.
    terminal: ManuallyDrop<DefaultTerminal>,
}

/// What the user does.
pub enum Input {
    /// A key is pressed.
    Key(KeyEvent),
    /// Something else that is to be seen: the terminal has another size, perhaps.
    Other,
}

impl Screen {
    /// Whether there is a terminal to draw on.
    ///
    /// # Errors
    /// Why there is none.
    pub fn exists() -> Result<(), &'static str> {
        if io::stdout().is_terminal() { Ok(()) } else { Err("it draws on a terminal, and stdout is none") }
    }

    /// Takes the terminal: its other screen, without a cursor, and keys as they are pressed.
    ///
    /// # Errors
    /// A sentence, where there is none or it refuses.
    pub fn take() -> Result<Self, String> {
        Self::exists()?;
        Ok(Self { terminal: ManuallyDrop::new(ratatui::try_init().map_err(said)?) })
    }

    /// Draws all of it, in the size that it has now; what changed since is written.
    ///
    /// # Errors
    /// A sentence, where it takes no more.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<(), String> {
        self.terminal.draw(draw).map(|_| ()).map_err(said)
    }

    /// What the user does next, where that is soon enough.
    ///
    /// # Errors
    /// A sentence, where the terminal is gone.
    pub fn input(&mut self, wait: Duration) -> Result<Option<Input>, String> {
        is_there(Duration::ZERO)?;
        if !event::poll(Duration::ZERO).map_err(said)? {
            is_there(wait)?;
            if !event::poll(Duration::ZERO).map_err(said)? {
                return Ok(None);
            }
        }
        Ok(Some(match event::read().map_err(said)? {
            Event::Key(key) => Input::Key(key),
            _ => Input::Other,
        }))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back, also for who exits without dropping anything.
pub fn give_back() {
    // One that takes no more is not to be had back.
    let _ = ratatui::try_restore();
    let _ = execute!(io::stdout(), Show);
}

/// Whether a key is to end what is seen: q, escape, ^C.
pub fn ends(key: KeyEvent) -> bool {
    interrupts(key) || [KeyCode::Char('q'), KeyCode::Esc].contains(&key.code)
}

/// Whether it is ^C, which a terminal that was taken makes no signal of.
pub fn interrupts(key: KeyEvent) -> bool {
    key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c')
}

/// Waits until something is typed, a signal comes (another size is one) or so long. Who asks crossterm 0.29 for the keys of
/// a terminal that is gone never hears of it again (its issue 793), so it is asked of the kernel (poll(2)).
fn is_there(wait: Duration) -> Result<(), String> {
    let stdout = io::stdout();
    let mut terminal = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
    let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    match poll(&mut terminal, wait) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(said(error.into())),
    }
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    match terminal[0].revents() {
        Some(told) if told.intersects(gone) => Err("the terminal is gone".into()),
        _ => Ok(()),
    }
}

fn said(error: io::Error) -> String {
    format!("the terminal: {error}")
}
