//! Handlers that take longer than the broker likes.

use outrigger_component_api::Outcome;

use super::{Bench, Harness, Inbox, Reply, SOON};

/// P24. Neither here nor at a peer.
pub async fn a_slow_handler_is_not_run_twice<H: Harness>() {
    let bench = Bench::<H>::with(|harness| harness.impatient().0).await;
    let (_, deadline) = bench.harness.impatient();
    let slow = move || Inbox::new(move |_, _| Reply::After(3 * deadline, Outcome::Done));
    let (one, two) = (slow(), slow());
    let peer = bench.peer().await;
    let first = bench.subscribe(&one).await;
    let second = bench.subscribe_at(&*peer, &bench.topic, &two).await;
    bench.send("a").await;
    crate::wait::until("the message", SOON, async || {
        one.running() + two.running() > 0
    })
    .await;
    // Until the handler is done, and then long enough for a late repetition.
    one.stays_quiet(5 * deadline).await;
    assert_eq!(one.texts().len() + two.texts().len(), 1);
    for source in [first, second] {
        source.close().await;
    }
    peer.close().await;
    bench.close().await;
}
