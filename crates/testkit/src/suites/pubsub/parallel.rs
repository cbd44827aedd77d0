//! Several messages at a time.

use std::time::Duration;

use outrigger_component_api::Outcome;

use super::{Bench, Harness, Inbox, QUIET, Reply};

/// P11, second half.
pub async fn as_many_messages_as_set_are_handled_at_once<H: Harness>() {
    let bench = Bench::<H>::with(|harness| harness.parallel(4)).await;
    let inbox = Inbox::holding();
    let source = bench.subscribe(&inbox).await;
    let texts = bench.send_many("m", 20).await;
    inbox.runs(4).await;
    assert_eq!(source.in_flight(), 4);
    inbox.stays_quiet(QUIET).await;
    inbox.let_go();
    inbox.has_all(&texts, super::SOON).await;
    source.close().await;
    bench.close().await;
}

/// P10.
pub async fn thousands_of_messages_never_exceed_the_limit<H: Harness>() {
    let bench = Bench::<H>::with(|harness| harness.parallel(8)).await;
    let inbox = Inbox::new(|_, _| Reply::After(Duration::from_millis(1), Outcome::Done));
    let source = bench.subscribe(&inbox).await;
    let texts = bench.send_many("m", 10_000).await;
    inbox.has_all(&texts, Duration::from_secs(60)).await;
    assert!(inbox.most() <= 8, "{} at once", inbox.most());
    assert!(inbox.most() > 1, "never two at once");
    source.close().await;
    bench.close().await;
}
