//! Messages outlive their consumers.

use outrigger_component_api::Outcome;

use super::{Bench, Harness, Inbox, QUIET, Reply, SOON};
use crate::suites::open::Opened;
use crate::wait;

pub async fn messages_wait_for_their_subscriber<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let inbox = Inbox::taking();
    let source = bench.subscribe(&inbox).await;
    bench.send("before").await;
    inbox.has("before", 1, SOON).await;
    source.close().await;
    let texts = bench.send_many("m", 20).await;
    let later = Inbox::taking();
    let source = bench.subscribe(&later).await;
    later.has_all(&texts, SOON).await;
    later.stays_quiet(QUIET).await;
    assert_eq!(later.texts().len(), texts.len());
    source.close().await;
    bench.close().await;
}

/// P7.
pub async fn the_message_of_a_consumer_that_vanished_goes_to_another<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let holding = Inbox::holding();
    let vanishing = bench.peer().await;
    let source = bench
        .subscribe_at(&*vanishing, &bench.topic, &holding)
        .await;
    bench.send("a").await;
    holding.runs(1).await;
    // No farewell to the broker, as when a process is killed.
    drop(source);
    drop(vanishing);
    let taking = Inbox::taking();
    let source = bench.subscribe(&taking).await;
    taking.has("a", 1, H::HABITS.takeover).await;
    source.close().await;
    bench.close().await;
}

/// P8.
pub async fn after_a_graceful_stop_nothing_is_lost_or_repeated<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let holding = Inbox::holding();
    let stopping = bench.peer().await;
    let source = bench.subscribe_at(&*stopping, &bench.topic, &holding).await;
    let texts = bench.send_many("m", 20).await;
    wait::until("a message in work", SOON, async || holding.running() > 0).await;
    source.pause().await;
    source.release().await;
    holding.let_go();
    wait::until("no message in work", SOON, async || source.in_flight() == 0).await;
    source.close().await;
    stopping.close().await;
    let first = holding.done();

    let taking = Inbox::taking();
    let next: Opened<_> = bench.peer().await;
    let source = bench.subscribe_at(&*next, &bench.topic, &taking).await;
    let rest: Vec<String> = texts
        .into_iter()
        .filter(|text| !first.contains(text))
        .collect();
    taking.has_all(&rest, SOON).await;
    taking.stays_quiet(H::HABITS.redelivery).await;
    assert_eq!(taking.texts().len(), rest.len(), "something came twice");
    source.close().await;
    next.close().await;
    bench.close().await;
}

/// P6, over a restart.
pub async fn a_message_given_up_stays_away_after_a_restart<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let refusing = Inbox::new(|_, _| Reply::Now(Outcome::GaveUp("on purpose".to_owned())));
    let first = bench.peer().await;
    let source = bench.subscribe_at(&*first, &bench.topic, &refusing).await;
    bench.send("bad").await;
    refusing.has("bad", 1, SOON).await;
    wait::until("no message in work", SOON, async || source.in_flight() == 0).await;
    source.close().await;
    first.close().await;

    let taking = Inbox::taking();
    let source = bench.subscribe(&taking).await;
    bench.send("good").await;
    taking.has("good", 1, SOON).await;
    taking.stays_quiet(H::HABITS.redelivery).await;
    assert_eq!(taking.texts(), ["good"]);
    source.close().await;
    bench.close().await;
}
