//! Publishes that the server refuses.

use super::{Bench, Harness, Inbox, SOON, opener};
use crate::suites::open::Opened;
use crate::wait;

/// P23.
pub async fn a_refused_publish_is_an_error<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let inbox = Inbox::holding();
    let source = bench.subscribe(&inbox).await;
    let (properties, request) = bench.harness.refused(&bench.topic);
    let opener = opener::<H>(properties, &bench.consumer);
    let other = Opened::ready(&opener).await;
    let published = wait::until("a refusal", SOON, async || {
        // A server may take some before it refuses, until its limit is reached.
        other.publish(request.clone()).await.err()
    })
    .await;
    assert!(!published.message.is_empty());
    other.ping().await.unwrap();
    inbox.let_go();
    source.close().await;
    other.close().await;
    bench.close().await;
}
