//! Several attempts at one goal.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::stream::StreamExt as _;
use outrigger_component_api::{Class, ComponentError, ErrorKind};

pub(super) type Attempt<'a, T> = BoxFuture<'a, Result<T, ComponentError>>;

/// How long an attempt has the field to itself.
const HEAD_START: Duration = Duration::from_millis(250);

/// Runs attempts until one succeeds. The next begins when the one before has failed, or is slow; so one address that
/// swallows every packet does not keep the others waiting. `None` without attempts.
///
/// When all fail, the error has the words of all of them, and the class of the one that says most: a refused login before
/// an unreachable server before silence.
pub(super) async fn first<T>(attempts: Vec<Attempt<'_, T>>) -> Option<Result<T, ComponentError>> {
    let mut waiting = attempts.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failures: Vec<ComponentError> = Vec::new();
    running.push(waiting.next()?);
    loop {
        let outcome = tokio::select! {
            biased;
            outcome = running.next() => outcome,
            () = tokio::time::sleep(HEAD_START) => {
                running.extend(waiting.next());
                continue;
            }
        };
        match outcome {
            Some(Ok(found)) => return Some(Ok(found)),
            Some(Err(error)) => {
                if !failures.contains(&error) {
                    failures.push(error);
                }
                running.extend(waiting.next());
            }
            None => return together(failures).map(Err),
        }
    }
}

fn together(failures: Vec<ComponentError>) -> Option<ComponentError> {
    let kind = failures.iter().max_by_key(|error| weight(error))?.kind;
    let texts: Vec<String> = failures.into_iter().map(|error| error.message).collect();
    Some(ComponentError::new(kind, texts.join("; ")))
}

fn weight(error: &ComponentError) -> u8 {
    match error.kind {
        ErrorKind::Connection(Class::Auth | Class::Config) => 2,
        ErrorKind::Connection(Class::Timeout) => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(number: u8) -> Attempt<'static, u8> {
        Box::pin(async move { Ok(number) })
    }

    fn refused() -> Attempt<'static, u8> {
        Box::pin(async { Err(ComponentError::transient("refused")) })
    }

    fn silent() -> Attempt<'static, u8> {
        Box::pin(std::future::pending())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_or_failing_attempt_gives_way() {
        let start = tokio::time::Instant::now();
        let found = first(vec![silent(), refused(), ready(3), ready(4)]).await;
        assert_eq!(found, Some(Ok(3)));
        assert_eq!(start.elapsed(), HEAD_START);
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_are_told_and_the_most_telling_classes_them() {
        let timeout: Attempt<'_, u8> = Box::pin(async { Err(ComponentError::timeout("late")) });
        let login: Attempt<'_, u8> = Box::pin(async { Err(ComponentError::auth("WRONGPASS")) });
        let found = first(vec![timeout, login, refused()]).await;
        let told = ComponentError::auth("late; WRONGPASS; refused");
        assert_eq!(found, Some(Err(told)));
        let twice = first::<u8>(vec![refused(), refused()]).await;
        assert_eq!(twice, Some(Err(ComponentError::transient("refused"))));
        assert_eq!(first(Vec::<Attempt<'_, u8>>::new()).await, None);
    }
}
