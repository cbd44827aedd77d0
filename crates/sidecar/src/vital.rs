//! Parts without which the sidecar is none.
//!
//! Owns: what becomes of the process when one of them fails by a fault of ours: it ends in order, to be started again.
//! Never: parts whose failure concerns one component, subscription or call. Start at [`vital`].

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use outrigger_blocks::StopRequest;
use tokio::sync::mpsc;

/// Does `work`; if that panics, asks for the end.
pub(crate) async fn vital(
    part: &'static str,
    end: mpsc::Sender<StopRequest>,
    work: impl Future<Output = ()>,
) {
    // Nothing of it is used after a panic, whose own words are on stderr already.
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        end.send(StopRequest::Broken(part)).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_panic_of_a_vital_part_asks_for_the_end() {
        let (end, mut asked) = mpsc::channel(1);
        vital("quiet", end.clone(), async {}).await;
        assert!(asked.try_recv().is_err());
        vital("loud", end, async { panic!("on purpose") }).await;
        assert!(matches!(asked.try_recv(), Ok(StopRequest::Broken("loud"))));
    }
}
