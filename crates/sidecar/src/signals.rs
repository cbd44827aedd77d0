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
    /// Of no meaning to us; without a handler they would end the process.
    _ignored: Vec<Signal>,
}

/// USR2, ALRM, XCPU, VTALRM, PROF, IO, PWR.
const IGNORED: [i32; 7] = [12, 14, 24, 26, 27, 29, 30];

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
            // The numbers are those of Linux; where one cannot be had it stays as it is.
            _ignored: IGNORED
                .iter()
                .filter_map(|number| signal(SignalKind::from_raw(*number)).ok())
                .collect(),
        })
    }

    /// Those of the end alone: whoever listens beside somebody else hears of the same.
    ///
    /// # Errors
    /// When handlers cannot be installed.
    pub(crate) fn of_the_end() -> io::Result<EndSignals> {
        Ok(EndSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits until the process is told to stop; the signal's name.
    pub(crate) async fn stopped(&mut self) -> &'static str {
        loop {
            if let Told::Stop(name) = self.next().await {
                return name;
            }
        }
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

/// What tells the process to end.
pub(crate) struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(crate) async fn stopped(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
