//! A program in a terminal of its own: what is on the screen, and the keys.

use std::{
    io::{Read, Write},
    num::NonZero,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use super::{PATIENCE, within};

/// A program in a terminal of its own.
pub struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Who draws what the program writes, until its end.
    drawing: JoinHandle<()>,
    mode: String,
}

fn size(cols: u16, rows: u16) -> PtySize {
    PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }
}

fn cells(n: u16) -> NonZero<u16> {
    NonZero::new(n).expect("a size")
}

impl Terminal {
    /// Starts `program` in a terminal of so many columns and lines.
    pub fn start(program: &Path, args: &[&str], (cols, rows): (u16, u16)) -> Self {
        let pair = native_pty_system().openpty(size(cols, rows)).expect("a terminal");
        let mut command = CommandBuilder::new(program);
        command.args(args);
        command.env("TERM", "xterm-256color");
        let mode = format!("{:?}", pair.master.get_termios());
        let child = pair.slave.spawn_command(command).expect("it starts");
        drop(pair.slave);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(rows), cells(cols), 0)));
        let mut output = pair.master.try_clone_reader().expect("its output");
        let drawn = Arc::clone(&screen);
        let drawing = thread::spawn(move || {
            let (mut bytes, mut ends) = ([0; 4096], 0);
            // The kernel may report the other side's end just before the last that it wrote (n_tty_read).
            while ends < 2 {
                match output.read(&mut bytes) {
                    Ok(n @ 1..) => drawn.lock().expect("no panic").process(&bytes[..n]),
                    _ => ends += 1,
                }
            }
        });
        let keys = pair.master.take_writer().expect("its keys");
        Self { child, master: pair.master, keys, screen, drawing, mode }
    }

    fn parser(&self) -> MutexGuard<'_, vt100::Parser> {
        self.screen.lock().expect("no panic")
    }

    pub fn pid(&self) -> i32 {
        self.child.process_id().expect("its number").cast_signed()
    }

    /// The text on the screen.
    pub fn contents(&self) -> String {
        self.parser().screen().contents()
    }

    #[track_caller]
    pub fn shows(&self, word: &str) {
        self.comes_to(&format!("{word:?} on the screen"), |screen| screen.contains(word).then_some(()));
    }

    /// Looks at the screen again and again, until it is as is asked for.
    #[track_caller]
    pub fn comes_to<T>(&self, what: &str, mut ask: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.contents();
            if let Some(answer) = ask(&screen) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}\n{screen}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether the program has taken the terminal as a whole.
    pub fn is_taken(&self) -> bool {
        self.parser().screen().alternate_screen()
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("it listens");
    }

    pub fn resize(&self, cols: u16, rows: u16) {
        self.master.resize(size(cols, rows)).expect("another size");
        self.parser().screen_mut().set_size(cells(rows), cells(cols));
    }

    /// Its end, with this status; the terminal is as it was. Returns what is on the screen then.
    #[track_caller]
    pub fn ends(mut self, code: u32) -> String {
        let status = within(PATIENCE, "its end", || self.child.try_wait().expect("a child of ours"));
        assert_eq!(status.exit_code(), code, "{}", self.contents());
        within(PATIENCE, "all that it wrote", || self.drawing.is_finished().then_some(()));
        within(PATIENCE, "the terminal as it was", || {
            let parser = self.parser();
            (!parser.screen().alternate_screen() && !parser.screen().hide_cursor()).then_some(())
        });
        assert_eq!(format!("{:?}", self.master.get_termios()), self.mode);
        let contents = self.contents();
        assert!(!contents.contains("panicked"), "{contents}");
        contents
    }
}
