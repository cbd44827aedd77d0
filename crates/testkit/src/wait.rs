//! Waiting for a condition, with a deadline and a last word.
//!
//! A test never sleeps for a guessed time: it says what it waits for and for how long at most. When the time is over it
//! fails with what it saw last, which is what a reader of the failure wants to know.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What one look at a condition gave: its value, or what there was to see instead.
pub trait Observed {
    type Value;

    /// # Errors
    /// What was seen in place of the value.
    fn observed(self) -> Result<Self::Value, String>;
}

impl Observed for bool {
    type Value = ();

    fn observed(self) -> Result<(), String> {
        if self {
            Ok(())
        } else {
            Err("false".to_owned())
        }
    }
}

impl<T> Observed for Option<T> {
    type Value = T;

    fn observed(self) -> Result<T, String> {
        self.ok_or_else(|| "none".to_owned())
    }
}

impl<T, E: Debug> Observed for Result<T, E> {
    type Value = T;

    fn observed(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Looks again and again until the condition holds, and gives its value.
///
/// # Panics
/// When `deadline` has passed, with the last observation. A look that does not end counts as one.
pub async fn until<O: Observed>(
    what: impl Display,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> O,
) -> O::Value {
    let end = Instant::now() + deadline;
    let mut last = "nothing".to_owned();
    loop {
        match timeout_at(end, look()).await.map(Observed::observed) {
            Ok(Ok(value)) => return value,
            Ok(Err(seen)) => last = seen,
            Err(_) => panic!(
                "no sign within {deadline:?} of: {what}; the last look did not end, the one before saw: {last}"
            ),
        }
        assert!(
            Instant::now() < end,
            "no sign within {deadline:?} of: {what}; last seen: {last}"
        );
        sleep(PAUSE).await;
    }
}

/// Checks that the condition does not come to hold within `period`.
///
/// # Panics
/// When it does.
pub async fn never<O: Observed>(
    what: impl Display,
    period: Duration,
    mut look: impl AsyncFnMut() -> O,
) {
    let end = Instant::now() + period;
    while Instant::now() < end {
        let seen = timeout_at(end, look()).await.map(Observed::observed);
        assert!(
            !matches!(seen, Ok(Ok(_))),
            "this must not happen, but did: {what}"
        );
        sleep(PAUSE).await;
    }
}

/// Awaits a future that must end in time.
///
/// # Panics
/// When it does not.
pub async fn within<T>(
    what: impl Display,
    deadline: Duration,
    future: impl Future<Output = T>,
) -> T {
    match timeout(deadline, future).await {
        Ok(value) => value,
        Err(_) => panic!("not done within {deadline:?}: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_value_is_given_as_soon_as_it_is_there() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(1), async || {
            looks += 1;
            (looks == 3).then_some("here")
        })
        .await;
        assert_eq!(value, "here");
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "no sign within 1s of: rain; last seen: \"sun\"")]
    async fn a_missed_deadline_tells_what_was_seen_last() {
        until("rain", Duration::from_secs(1), async || Err::<(), _>("sun")).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the last look did not end")]
    async fn a_look_that_hangs_does_not_hang_the_test() {
        until("rain", Duration::from_secs(1), async || {
            std::future::pending::<bool>().await
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "this must not happen, but did: rain")]
    async fn what_must_not_happen_is_noticed() {
        let mut looks = 0;
        never("rain", Duration::from_secs(1), async || {
            looks += 1;
            looks == 5
        })
        .await;
    }
}
