//! Draining: asking for it, waiting for it, taking it back.
//!
//! The sidecar's life does it; here is what the API has to do with it. There is one drain at a time, and all who ask share it.

use std::time::Duration;

use outrigger_core::duration::{format_go, parse_go};
use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_lifecycle::Moment;
use outrigger_lifecycle::phase::Phase;
use tokio::sync::{mpsc, oneshot, watch};

use crate::activity::{Kind, label};
use crate::{Blocks, StopRequest};

/// Who gives no time-out waits this long.
pub const USUAL_WAIT: Duration = Duration::from_secs(25);
/// Nobody can wait longer.
pub const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// The loop that answers is never busy for long.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Why there is a drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    Signal,
    Api,
    /// The drain endpoint or command.
    Drain,
    /// The drain endpoint on the public port: a hook ahead of the end, or of a restart, of a container.
    PreStop,
    UserSignal,
    Child,
    /// The app's port has been closed for as long as `--exit-when-app-exits` says.
    App,
    /// The network namespace is dead.
    Network,
    Fatal,
    Forced,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Api => "api",
            Self::Drain => "drain",
            Self::PreStop => "prestop",
            Self::UserSignal => "sigusr1",
            Self::Child => "child",
            Self::App => "app",
            Self::Network => "network",
            Self::Fatal => "fatal",
            Self::Forced => "forced",
        }
    }
}

/// A drain under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drain {
    /// Counted from 1.
    pub number: u32,
    pub cause: Cause,
    pub since: Moment,
    /// The process ends after it.
    pub exits: bool,
    pub drained: bool,
    /// When it was.
    pub drained_at: Option<Moment>,
    /// None: as long as it takes.
    pub deadline: Option<Moment>,
    /// What the app says; none where it does not tell.
    pub busy: Option<bool>,
}

impl Drain {
    pub fn id(&self) -> String {
        format!("d-{}", self.number)
    }
}

/// What the API asks of the sidecar's life.
#[derive(Debug)]
pub struct Drains {
    pub requests: mpsc::Sender<StopRequest>,
    pub view: watch::Receiver<Option<Drain>>,
}

/// How far a drain is.
#[derive(Clone, Debug)]
pub struct Progress {
    pub phase: Phase,
    pub drained: bool,
    pub in_hand: Vec<(Kind, String, usize)>,
    /// What the app says of work that nobody else sees; none where it does not tell.
    pub busy: Option<bool>,
    pub duration: Duration,
}

impl Progress {
    /// By `kind` or `kind/component`.
    pub fn in_flight(&self) -> impl Iterator<Item = (String, usize)> {
        self.in_hand
            .iter()
            .map(|(kind, component, count)| (label(*kind, component), *count))
    }
}

/// How somebody waits for a drain; none if he does not.
pub type Wait = Option<Duration>;

/// Reads `wait` and `timeout`.
///
/// # Errors
/// With the parameter that cannot be used.
pub fn wait_of(wait: Option<&str>, timeout: Option<&str>) -> Result<Wait, ApiError> {
    let waits = match wait {
        None | Some("true" | "1" | "") => true,
        Some("false" | "0") => false,
        Some(other) => return Err(bad("wait", other, "true or false")),
    };
    let timeout = match timeout {
        None => USUAL_WAIT,
        Some(text) => parse_go(text)
            .filter(|time| time.nanoseconds >= 0)
            .map(|time| time.clamped())
            .filter(|time| *time <= LONGEST_WAIT)
            .ok_or_else(|| bad("timeout", text, "a duration such as 25s, up to 24h"))?,
    };
    Ok(waits.then_some(timeout))
}

/// A parameter that a drain does not have.
pub fn unknown(name: &str) -> ApiError {
    let name: String = name.chars().take(64).collect();
    refused(format!(
        "parameter {name:?} is not known; known are wait and timeout"
    ))
}

fn bad(name: &str, found: &str, expected: &str) -> ApiError {
    let found: String = found.chars().take(64).collect();
    refused(format!(
        "parameter {name}: found {found:?}, expected {expected}"
    ))
}

fn refused(why: String) -> ApiError {
    ApiError::legacy(
        400,
        GrpcCode::InvalidArgument,
        "ERR_DRAIN_PARAMETER",
        "common",
        why,
    )
}

fn is_final() -> ApiError {
    ApiError::legacy(
        409,
        GrpcCode::FailedPrecondition,
        "ERR_DRAIN_FINAL",
        "common",
        "the sidecar is ending: the drain cannot be taken back".to_owned(),
    )
}

fn taken_back() -> ApiError {
    ApiError::legacy(
        409,
        GrpcCode::Aborted,
        "ERR_DRAIN_RESUMED",
        "common",
        "the drain was taken back: the sidecar works on".to_owned(),
    )
}

impl Blocks {
    /// Begins a drain, or joins the one under way, and waits for it.
    ///
    /// # Errors
    /// When it is taken back while it is waited for.
    ///
    /// # Cancel safety
    /// May be dropped; the drain goes on.
    pub async fn drain(&self, wait: Wait, cause: Cause) -> Result<Progress, ApiError> {
        let mut view = self.drains.view.clone();
        // One that a hook began becomes that of whoever asks for it himself.
        let is_news = view
            .borrow()
            .is_none_or(|drain| drain.cause == Cause::PreStop && cause != Cause::PreStop);
        if is_news {
            let request = StopRequest::Drain(cause);
            self.drains.requests.send(request).await.ok();
            let begun = view.wait_for(Option::is_some);
            tokio::time::timeout(ANSWER_LIMIT, begun).await.ok();
        }
        if let Some(limit) = wait {
            let done = view.wait_for(|drain| drain.is_none_or(|drain| drain.drained));
            if let Ok(Ok(seen)) = tokio::time::timeout(limit, done).await
                && seen.is_none()
            {
                return Err(taken_back());
            }
        }
        Ok(self.progress())
    }

    /// Takes a drain back; without one nothing changes.
    ///
    /// # Errors
    /// When the sidecar is ending.
    pub async fn resume(&self) -> Result<Progress, ApiError> {
        if self.drains.view.borrow().is_some() {
            let (answer, outcome) = oneshot::channel();
            let request = StopRequest::Resume(answer);
            self.drains.requests.send(request).await.ok();
            match tokio::time::timeout(ANSWER_LIMIT, outcome).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false) | Err(_)) | Err(_) => return Err(is_final()),
            }
        } else if self.health.phase.borrow().is_ending() {
            return Err(is_final());
        }
        Ok(self.progress())
    }

    pub fn progress(&self) -> Progress {
        let drain = *self.drains.view.borrow();
        let now = self.invoke.clock.now();
        Progress {
            phase: *self.health.phase.borrow(),
            drained: drain.is_some_and(|drain| drain.drained),
            in_hand: self.activity.in_hand(),
            busy: drain.and_then(|drain| drain.busy),
            duration: drain.map_or(Duration::ZERO, |drain| {
                drain.drained_at.unwrap_or(now).since(drain.since)
            }),
        }
    }
}

/// What is left of the time, for people.
pub fn budget(limit: Option<Duration>) -> String {
    limit.map_or_else(|| "no limit".to_owned(), format_go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_refused_by_name() {
        assert_eq!(wait_of(None, None).unwrap(), Some(USUAL_WAIT));
        assert_eq!(wait_of(Some("false"), Some("3s")).unwrap(), None);
        assert_eq!(
            wait_of(Some("true"), Some("1m30s")).unwrap(),
            Some(Duration::from_secs(90))
        );
        for (wait, timeout, named) in [
            (Some("yes"), None, "wait"),
            (None, Some("-1s"), "timeout"),
            (None, Some("soon"), "timeout"),
            (None, Some("9999h"), "timeout"),
        ] {
            let error = wait_of(wait, timeout).unwrap_err();
            assert!(error.message.contains(named), "{}", error.message);
        }
    }
}
