//! One message at a time.

use std::time::Duration;

use outrigger_component_api::Outcome;

use super::{Bench, Harness, Inbox, Reply, SOON};

/// P11, first half.
pub async fn messages_come_one_at_a_time_and_in_order<H: Harness>() {
    let bench = Bench::<H>::with(H::serial).await;
    let inbox = Inbox::new(|_, _| Reply::After(Duration::from_millis(5), Outcome::Done));
    let source = bench.subscribe(&inbox).await;
    let texts = bench.send_many("m", 100).await;
    inbox.has_all(&texts, SOON).await;
    assert_eq!(inbox.texts(), texts);
    assert_eq!(inbox.most(), 1);
    source.close().await;
    bench.close().await;
}
