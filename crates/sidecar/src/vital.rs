//! Parts without which the sidecar is none.
//!
//! Owns: what becomes of the process when one of them fails by a fault of ours: it ends in order, to be started again.
//! Never: parts whose failure concerns one component, subscription or call. Start at [`vital`].

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use outrigger_blocks::StopRequest;
use outrigger_lifecycle::{Scope, Stop};
use tokio::sync::mpsc;

/// Starts a task; if it panics, it asks for the end.
pub(crate) fn vital<T>(
    scope: &Scope,
    part: &'static str,
    end: &mpsc::Sender<StopRequest>,
    task: impl FnOnce(Stop) -> T,
) where
    T: Future<Output = ()> + Send + 'static,
{
    let end = end.clone();
    scope.spawn(part, |stop| {
        // Nothing of it is used after a panic, whose own words are on stderr already.
        let task = AssertUnwindSafe(task(stop)).catch_unwind();
        async move {
            if task.await.is_err() {
                end.send(StopRequest::Broken(part)).await.ok();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_panic_of_a_vital_part_asks_for_the_end() {
        let (end, mut asked) = mpsc::channel(1);
        let scope = Scope::root();
        vital(&scope, "quiet", &end, |_| async {});
        vital(&scope, "loud", &end, |_| async { panic!("on purpose") });
        drop(end);
        let told = asked.recv().await;
        assert!(
            matches!(told, Some(StopRequest::Broken("loud"))),
            "{told:?}"
        );
        assert!(asked.recv().await.is_none());
    }
}
