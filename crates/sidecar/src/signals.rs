//! Signals, as events.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the process is told by signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Stop(&'static str),
    Reload,
    Dump,
    Drain,
}

/// Listens for all of them.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
    first_user: Signal,
}

impl Signals {
    /// # Errors
    /// When handlers cannot be installed.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            first_user: signal(SignalKind::user_defined1())?,
        })
    }

    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(crate) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop("terminated"),
            _ = self.interrupt.recv() => Told::Stop("interrupt"),
            _ = self.hangup.recv() => Told::Reload,
            _ = self.quit.recv() => Told::Dump,
            _ = self.first_user.recv() => Told::Drain,
        }
    }
}
