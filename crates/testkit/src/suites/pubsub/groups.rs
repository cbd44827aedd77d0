//! Consumers that share the work, and groups that do not.

use std::collections::BTreeSet;

use super::{Bench, Harness, Inbox, QUIET, SOON, opener};
use crate::suites::open::Opened;
use crate::suites::unique;
use crate::wait;

/// P2.
pub async fn two_consumers_of_one_group_share_the_messages<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let (one, two) = (Inbox::taking(), Inbox::taking());
    let peer = bench.peer().await;
    let first = bench.subscribe(&one).await;
    let second = bench.subscribe_at(&*peer, &bench.topic, &two).await;
    let texts = bench.send_many("m", 100).await;
    wait::until("100 messages", SOON, async || {
        let count = one.texts().len() + two.texts().len();
        if count >= texts.len() {
            Ok(())
        } else {
            Err(count)
        }
    })
    .await;
    one.stays_quiet(QUIET).await;
    let mut all = one.texts();
    all.extend(two.texts());
    assert_eq!(all.len(), texts.len(), "some message came twice");
    let all: BTreeSet<String> = all.into_iter().collect();
    assert_eq!(all, texts.into_iter().collect());
    for source in [first, second] {
        source.close().await;
    }
    peer.close().await;
    bench.close().await;
}

/// A changed subscription begins before the old one ends, on the same connection.
pub async fn a_second_subscription_of_one_instance_takes_over_without_a_gap<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let (one, two) = (Inbox::taking(), Inbox::taking());
    let first = bench.subscribe(&one).await;
    let mut texts = bench.send_many("before", 20).await;
    let second = bench.subscribe(&two).await;
    texts.extend(bench.send_many("during", 50).await);
    first.pause().await;
    first.release().await;
    wait::until("no message in work", SOON, async || first.in_flight() == 0).await;
    first.close().await;
    texts.extend(bench.send_many("after", 20).await);
    wait::until("every message", SOON, async || {
        let count = one.texts().len() + two.texts().len();
        if count >= texts.len() {
            Ok(())
        } else {
            Err(count)
        }
    })
    .await;
    two.stays_quiet(QUIET).await;
    let mut all = one.texts();
    all.extend(two.texts());
    assert_eq!(all.len(), texts.len(), "some message came twice");
    let all: BTreeSet<String> = all.into_iter().collect();
    assert_eq!(all, texts.into_iter().collect());
    second.close().await;
    bench.close().await;
}

/// P3.
pub async fn two_groups_get_every_message<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let other = opener::<H>(bench.harness.properties(), &unique("other"));
    let other = Opened::ready(&other).await;
    let (one, two) = (Inbox::taking(), Inbox::taking());
    let first = bench.subscribe(&one).await;
    let second = bench.subscribe_at(&*other, &bench.topic, &two).await;
    let texts = bench.send_many("m", 50).await;
    for inbox in [&one, &two] {
        inbox.has_all(&texts, SOON).await;
        assert_eq!(inbox.texts().len(), texts.len(), "some message came twice");
    }
    for source in [first, second] {
        source.close().await;
    }
    other.close().await;
    bench.close().await;
}

/// What was fetched and not handed out goes to others at once, while the first consumer still handles what it has.
pub async fn what_a_paused_consumer_released_goes_to_its_peer<H: Harness>() {
    let bench = Bench::<H>::with(H::serial).await;
    let holding = Inbox::holding();
    let first = bench.subscribe(&holding).await;
    let texts = bench.send_many("m", 20).await;
    wait::until("a message in work", SOON, async || holding.running() > 0).await;
    first.pause().await;
    first.release().await;

    let (peer, taking) = (bench.peer().await, Inbox::taking());
    let second = bench.subscribe_at(&*peer, &bench.topic, &taking).await;
    let held = holding.texts();
    let rest: Vec<String> = texts
        .into_iter()
        .filter(|text| !held.contains(text))
        .collect();
    taking.has_all(&rest, SOON).await;
    if H::HABITS.counts_deliveries {
        let received = taking.received();
        assert!(received.iter().all(|message| message.delivery == 1));
    }
    holding.let_go();
    holding.runs(0).await;
    wait::until("no message in work", SOON, async || first.in_flight() == 0).await;
    taking.stays_quiet(QUIET).await;
    let twice = taking.texts();
    assert!(
        twice.iter().all(|text| !held.contains(text)),
        "in work, and handed out again: {twice:?}"
    );
    for source in [first, second] {
        source.close().await;
    }
    peer.close().await;
    bench.close().await;
}
