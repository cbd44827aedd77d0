//! Messages that end on their own.

use std::time::Duration;

use outrigger_component_api::Metadata;

use super::{Bench, Harness, Inbox, QUIET, SOON, publication};

/// P16.
pub async fn a_message_that_nobody_fetched_in_time_is_gone<H: Harness>() {
    let bench = Bench::<H>::open().await;
    // The broker has to know the subscription, or it keeps nothing for it.
    let inbox = Inbox::taking();
    let source = bench.subscribe(&inbox).await;
    bench.send("before").await;
    inbox.has("before", 1, SOON).await;
    source.close().await;

    let living = |text: &str, seconds: &str| {
        let mut request = publication(&bench.topic, text.as_bytes());
        let ttl = ("ttlInSeconds".to_owned(), seconds.to_owned());
        request.metadata = Some(Metadata::from([ttl]));
        request
    };
    bench.publish(living("short", "1")).await.unwrap();
    bench.publish(living("long", "100")).await.unwrap();
    // The time has to pass; there is nothing to look at meanwhile.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let later = Inbox::taking();
    let source = bench.subscribe(&later).await;
    later.has("long", 1, SOON).await;
    later.stays_quiet(QUIET).await;
    assert_eq!(later.texts(), ["long"]);
    source.close().await;
    bench.close().await;
}
