//! Whether a call waits for a component that is not ready, and for how long. Decisions over given states; no clock is read.
//!
//! A call waits only where waiting may help: an attempt is under way, or one comes before the call's time is over. The time
//! is the shortest of the operator's, the policy's and what the caller itself has left.
//! Start at [`may_come`]. Who waits is [`Handle::ready`](crate::Handle::ready). Tests: below.

use std::future::Future;
use std::time::Duration;

use outrigger_lifecycle::Moment;
use outrigger_lifecycle::connection::{State, Status};
use tokio::sync::watch;
use tokio::time::Instant;

/// So long before its deadline a caller is answered: the answer needs time on its way.
const MARGIN: Duration = Duration::from_millis(100);

tokio::task_local! {
    /// When the caller of this task's call stops listening.
    static DEADLINE: Instant;
}

/// Runs a call whose caller listens for so long.
pub async fn within<F: Future>(limit: Duration, call: F) -> F::Output {
    // So far away that it is none.
    match Instant::now().checked_add(limit) {
        Some(deadline) => DEADLINE.scope(deadline, call).await,
        None => call.await,
    }
}

/// How long callers wait for a component that is not ready.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub wait: Duration,
}

impl Patience {
    /// The same for the call of this task, whose caller may have less time.
    #[must_use]
    pub fn of_caller(self) -> Self {
        let left = |deadline: &Instant| {
            let left = deadline.saturating_duration_since(Instant::now());
            left.saturating_sub(MARGIN)
        };
        let left = DEADLINE.try_with(left).unwrap_or(self.wait);
        Self {
            wait: self.wait.min(left),
        }
    }
}

/// A secret store that a component waits for.
#[derive(Clone, Debug)]
pub struct Need {
    pub store: String,
    /// How the store does; nothing where there is no such store.
    pub status: Option<watch::Receiver<Status>>,
}

impl Need {
    /// How the store does now.
    pub(crate) fn seen(&mut self) -> Option<Status> {
        let status = self.status.as_mut()?;
        Some(status.borrow_and_update().clone())
    }

    /// Waits until that changes.
    pub(crate) async fn changed(&mut self) {
        if let Some(status) = &mut self.status
            && status.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// What a component that is pending waits for, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Obstacle<'a> {
    /// Nothing: its first attempt is about to begin.
    None,
    Store(Option<&'a Status>),
}

/// Whether the component may be ready by `until`, as things look at `now`.
pub(crate) fn may_come(
    status: &Status,
    obstacle: Obstacle<'_>,
    now: Moment,
    until: Moment,
) -> bool {
    match status.state {
        State::Ready | State::Connecting => true,
        State::Unavailable => is_tried(status, now, until),
        State::Pending => match obstacle {
            Obstacle::None => until > now,
            Obstacle::Store(None) => false,
            Obstacle::Store(Some(store)) => match store.state {
                State::Ready | State::Connecting => true,
                State::Unavailable => is_tried(store, now, until),
                State::Pending | State::Rejected | State::Closing => false,
            },
        },
        State::Rejected | State::Closing => false,
    }
}

/// Whether an attempt that may well succeed comes by `until`: on its own, or because somebody needs it now.
fn is_tried(status: &Status, now: Moment, until: Moment) -> bool {
    let is_fast = status
        .failure
        .as_ref()
        .is_none_or(|failure| failure.class.is_fast());
    let is_due = status.next_attempt.is_some_and(|due| due <= until);
    is_fast && (is_due || status.takes_kick(now))
}

#[cfg(test)]
mod tests;
