//! One subscription to many topics.

use super::{Bench, Harness, Inbox, QUIET, SOON, publication};

/// P17.
pub async fn a_pattern_takes_every_topic_that_fits<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let inbox = Inbox::taking();
    let pattern = bench.harness.wildcard(&bench.topic);
    let source = bench.subscribe_at(&*bench, &pattern, &inbox).await;
    let fitting: Vec<String> = ["a", "b", "cd"]
        .iter()
        .map(|tail| format!("{}{tail}", bench.topic))
        .collect();
    for topic in fitting.iter().chain([&bench.topic, &"other".to_owned()]) {
        let request = publication(topic, topic.as_bytes());
        bench.publish(request).await.unwrap();
    }
    inbox.has_all(&fitting, SOON).await;
    inbox.stays_quiet(QUIET).await;
    assert_eq!(inbox.texts().len(), fitting.len(), "{:?}", inbox.texts());
    source.close().await;
    bench.close().await;
}
