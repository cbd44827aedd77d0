//! The terminal: taken, drawn on, listened to, and given back whatever happens.
//!
//! Owns: raw mode and the other screen; signals that end the program; the order of giving back.
//! Start at [`Terminal::take`]. A panic gives it back before its message is printed.

use std::io::{self, Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossterm::cursor::{Hide, Show};
use crossterm::event::{self, KeyEvent};
use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// Why the screen is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    ByKey,
    BySignal(u8),
    /// A thread panicked, and has said so.
    Broken,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Key(KeyEvent),
    Resized,
    End(Ended),
}

pub(super) struct Terminal {
    inner: ratatui::Terminal<CrosstermBackend<Stdout>>,
    /// The last signal, or zero.
    signal: Arc<AtomicUsize>,
    is_broken: Arc<AtomicBool>,
}

impl Terminal {
    pub(super) fn take() -> Result<Self, String> {
        let why = |error: io::Error| format!("this terminal cannot be used: {error}");
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            let value = usize::try_from(number).unwrap_or_default();
            signal_hook::flag::register_usize(number, Arc::clone(&signal), value).map_err(why)?;
        }
        let is_broken = Arc::new(AtomicBool::new(false));
        let before = std::panic::take_hook();
        let flag = Arc::clone(&is_broken);
        std::panic::set_hook(Box::new(move |panic| {
            give_back(&mut io::stdout());
            flag.store(true, Ordering::Release);
            before(panic);
        }));
        // From here on, `drop` gives it back.
        let taken = Self {
            inner: ratatui::Terminal::new(CrosstermBackend::new(io::stdout())).map_err(why)?,
            signal,
            is_broken,
        };
        enable_raw_mode().map_err(why)?;
        IS_TAKEN.store(true, Ordering::Release);
        execute!(io::stdout(), EnterAlternateScreen, Hide).map_err(why)?;
        Ok(taken)
    }

    pub(super) fn draw(&mut self, paint: impl FnOnce(&mut Buffer)) -> Result<(), String> {
        let drawn = self.inner.draw(|frame| paint(frame.buffer_mut()));
        drawn
            .map(|_| ())
            .map_err(|error| format!("cannot write to the terminal: {error}"))
    }

    /// What happens next, if it does soon.
    pub(super) fn wait(&self, limit: Duration) -> Result<Option<Event>, String> {
        if let Some(ended) = self.ended() {
            return Ok(Some(Event::End(ended)));
        }
        let why = |error: io::Error| format!("cannot read from the terminal: {error}");
        if !event::poll(limit).map_err(why)? {
            return Ok(self.ended().map(Event::End));
        }
        Ok(match event::read().map_err(why)? {
            event::Event::Key(key) => Some(Event::Key(key)),
            event::Event::Resize(..) => Some(Event::Resized),
            _ => None,
        })
    }

    fn ended(&self) -> Option<Ended> {
        if self.is_broken.load(Ordering::Acquire) {
            return Some(Ended::Broken);
        }
        match self.signal.load(Ordering::Acquire) {
            0 => None,
            signal => Some(Ended::BySignal(u8::try_from(signal).unwrap_or(u8::MAX))),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back(&mut io::stdout());
    }
}

/// Whether there is something to give back. There is one terminal.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// As it was before. Done twice, it would move the cursor to where it was once.
fn give_back(out: &mut impl Write) {
    if !IS_TAKEN.swap(false, Ordering::AcqRel) {
        return;
    }
    execute!(out, LeaveAlternateScreen, Show).ok();
    disable_raw_mode().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_back_once() {
        IS_TAKEN.store(true, Ordering::Release);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        give_back(&mut first);
        give_back(&mut second);
        assert_eq!(String::from_utf8_lossy(&first), "\u{1b}[?1049l\u{1b}[?25h");
        assert!(second.is_empty());
    }
}
