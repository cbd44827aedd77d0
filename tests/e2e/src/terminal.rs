//! The program under test in a terminal of its own, and what it shows there.
//!
//! A pseudo-terminal carries the bytes, an emulator makes a screen of them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_testkit::wait;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use vt100::{Parser, Screen};

use crate::binary;

/// A program in a terminal. Killed when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    /// Where keys go in and the screen comes out.
    outside: File,
    /// Where the program is; held, so that its settings outlive it.
    inside: File,
    before: String,
    parser: Arc<Mutex<Emulator>>,
}

struct Emulator(Parser);

impl std::fmt::Debug for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.screen().contents())
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn some(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a screen has a size")
}

impl Terminal {
    /// Starts the binary. `leader` is this package's program `with-terminal`.
    ///
    /// # Panics
    /// When there is no terminal to be had.
    pub fn start(leader: &Path, arguments: &[&str], columns: u16, rows: u16) -> Self {
        let outside = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&outside).unwrap();
        unlockpt(&outside).unwrap();
        let name = ptsname(&outside, Vec::new()).unwrap();
        let inside = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        tcsetwinsize(&inside, size(columns, rows)).unwrap();
        let before = modes(&inside);
        let end = || Stdio::from(OwnedFd::from(inside.try_clone().unwrap()));
        let child = Command::new(leader)
            .arg(binary::path())
            .args(arguments)
            .env_clear()
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {leader:?}: {error}"));
        let emulator = Emulator(Parser::new(some(rows), some(columns), 0));
        let parser = Arc::new(Mutex::new(emulator));
        let outside = File::from(outside);
        let reading = (outside.try_clone().unwrap(), Arc::clone(&parser));
        // Ends when nobody has the inside any more.
        std::thread::spawn(move || {
            let (mut outside, parser) = reading;
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = outside.read(&mut bytes) {
                lock(&parser).0.process(&bytes[..read]);
            }
        });
        Self {
            child,
            outside,
            inside,
            before,
            parser,
        }
    }

    /// The screen as it is now.
    pub fn screen(&self) -> Screen {
        lock(&self.parser).0.screen().clone()
    }

    /// Its rows, without blanks at their ends.
    pub fn rows(&self) -> Vec<String> {
        let screen = self.screen();
        let (_, columns) = screen.size();
        let rows = screen.rows(0, columns.get());
        rows.map(|row| row.trim_end().to_owned()).collect()
    }

    /// Waits until the screen is as `is` wants it.
    pub async fn shows(&self, what: &str, is: impl Fn(&[String]) -> bool) -> Vec<String> {
        wait::until(what, Duration::from_secs(20), async || {
            let rows = self.rows();
            if is(&rows) {
                Ok(rows)
            } else {
                Err(format!("\n{}", rows.join("\n")))
            }
        })
        .await
    }

    /// Waits until a text is on the screen.
    pub async fn says(&self, text: &str) -> Vec<String> {
        self.shows(text, |rows| rows.iter().any(|row| row.contains(text)))
            .await
    }

    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.outside.write_all(keys.as_bytes()).unwrap();
    }

    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) {
        lock(&self.parser).0.set_size(some(rows), some(columns));
        tcsetwinsize(&self.outside, size(columns, rows)).unwrap();
    }

    /// # Panics
    /// When the program has ended.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process has an id"), signal).unwrap();
    }

    /// Waits for the end; the exit code, 128 and more for a signal.
    pub async fn ended(&mut self) -> i32 {
        let child = &mut self.child;
        let status = wait::until("the end", Duration::from_secs(20), async || {
            child.try_wait().unwrap()
        })
        .await;
        let signal = status.signal().map(|signal| 128 + signal);
        status.code().or(signal).unwrap_or(-1)
    }

    /// Fails unless everything is as it was before the program started.
    ///
    /// # Panics
    /// When it is not.
    pub async fn assert_given_back(&self) {
        wait::until("the usual screen", Duration::from_secs(5), async || {
            let screen = self.screen();
            !screen.alternate_screen() && !screen.hide_cursor()
        })
        .await;
        assert_eq!(modes(&self.inside), self.before, "the terminal's modes");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn lock(parser: &Mutex<Emulator>) -> MutexGuard<'_, Emulator> {
    parser.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Echo, lines, signals and the like.
fn modes(terminal: &File) -> String {
    let Termios {
        input_modes,
        output_modes,
        local_modes,
        ..
    } = tcgetattr(terminal).unwrap();
    format!("{input_modes:?} {output_modes:?} {local_modes:?}")
}
