//! Messages arrive, failed ones again, and subscriptions begin and end.

use std::time::Duration;

use futures_util::future::join_all;
use outrigger_component_api::{Bytes, Outcome};
use tokio::time::timeout;

use super::{Bench, Harness, Inbox, QUIET, Reply, SOON, publication};
use crate::suites::open::{Resource, assert_requires};
use crate::suites::{Hold, unique};
use crate::wait;

pub async fn a_valid_resource_is_ready_and_closes_without_leftovers<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let source = bench.subscribe(&Inbox::taking()).await;
    bench.ping().await.unwrap();
    source.close().await;
    bench.close().await;
}

pub async fn each_required_property_is_named_when_it_is_missing<H: Harness>() {
    let harness = H::start(Hold::Shared).await;
    for name in H::HABITS.required {
        assert_requires(&harness.properties(), name, |properties| {
            let resource = Resource {
                register: H::register,
                type_name: H::TYPE,
                properties,
            };
            resource.pubsub().map(|_| ())
        });
    }
}

/// P1 and P18.
pub async fn every_message_arrives_as_it_was_sent<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let inbox = Inbox::taking();
    let source = bench.subscribe(&inbox).await;
    let mut payloads: Vec<Vec<u8>> = (0..100)
        .map(|i| format!("{{\"id\":\"{i}\",\"data\":\"ä\\u0000<&>\"}}").into_bytes())
        .collect();
    payloads.push((0..=255).collect());
    payloads.push(b"text".to_vec());
    payloads.push(vec![b'x'; 256 * 1024]);
    for (i, payload) in payloads.iter().enumerate() {
        let mut request = publication(&bench.topic, payload);
        if i % 2 == 0 {
            request.metadata = None;
        }
        bench.publish(request).await.unwrap();
    }
    wait::until("every message", SOON, async || {
        let count = inbox.received().len();
        if count == payloads.len() {
            Ok(())
        } else {
            Err(count)
        }
    })
    .await;
    inbox.stays_quiet(QUIET).await;
    let mut found: Vec<Bytes> = Vec::new();
    for message in inbox.received().iter() {
        assert_eq!(message.topic, bench.topic);
        assert!(message.delivery <= 1, "{}", message.delivery);
        found.push(message.data.clone());
    }
    found.sort();
    payloads.sort();
    assert!(found == payloads, "other bytes came than were sent");
    source.close().await;
    bench.close().await;
}

/// P14, as far as a component without bulk publish can have it.
pub async fn publishing_from_many_tasks_at_once_loses_nothing<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let inbox = Inbox::taking();
    let source = bench.subscribe(&inbox).await;
    let texts: Vec<String> = (0..200).map(|i| format!("m{i}")).collect();
    let sent = texts.iter().map(|text| bench.send(text));
    wait::within("200 publishes", SOON, join_all(sent)).await;
    inbox.has_all(&texts, SOON).await;
    source.close().await;
    bench.close().await;
}

/// P5.
pub async fn a_failed_message_comes_again_until_it_is_done<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let inbox = Inbox::new(|message, nth| {
        let is_bad = message.data.as_ref() == b"bad" && nth <= 2;
        Reply::Now(if is_bad {
            Outcome::Retry("on purpose".to_owned())
        } else {
            Outcome::Done
        })
    });
    let source = bench.subscribe(&inbox).await;
    for text in ["bad", "good"] {
        bench.send(text).await;
    }
    inbox.has("bad", 3, 2 * H::HABITS.redelivery).await;
    inbox.has("good", 1, SOON).await;
    inbox.stays_quiet(H::HABITS.redelivery).await;
    if H::HABITS.counts_deliveries {
        let received = inbox.received();
        let bad = received.iter().filter(|m| m.data.as_ref() == b"bad");
        assert_eq!(bad.map(|m| m.delivery).collect::<Vec<_>>(), [1, 2, 3]);
    }
    source.close().await;
    bench.close().await;
}

/// P6.
pub async fn a_message_given_up_does_not_come_again<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let inbox = Inbox::new(|_, _| Reply::Now(Outcome::GaveUp("on purpose".to_owned())));
    let source = bench.subscribe(&inbox).await;
    bench.send("bad").await;
    inbox.has("bad", 1, SOON).await;
    inbox.stays_quiet(H::HABITS.redelivery).await;
    source.close().await;
    bench.close().await;
}

/// P12.
pub async fn a_slow_topic_does_not_hold_another_up<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let (slow, fast) = (Inbox::holding(), Inbox::taking());
    let other = unique("topic");
    let first = bench.subscribe(&slow).await;
    let second = bench.subscribe_at(&*bench, &other, &fast).await;
    bench.send_many("slow", 50).await;
    for i in 0..50 {
        let text = format!("fast{i}");
        let request = publication(&other, text.as_bytes());
        bench.publish(request).await.unwrap();
    }
    let texts: Vec<String> = (0..50).map(|i| format!("fast{i}")).collect();
    fast.has_all(&texts, SOON).await;
    slow.let_go();
    let texts: Vec<String> = (0..50).map(|i| format!("slow{i}")).collect();
    slow.has_all(&texts, SOON).await;
    for source in [first, second] {
        source.close().await;
    }
    bench.close().await;
}

/// P9.
pub async fn the_end_of_one_subscription_leaves_the_others<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let (ending, staying) = (Inbox::taking(), Inbox::taking());
    let other = unique("topic");
    let first = bench.subscribe(&ending).await;
    let second = bench.subscribe_at(&*bench, &other, &staying).await;
    bench.send("a").await;
    ending.has("a", 1, SOON).await;
    first.close().await;
    first.close().await;
    let request = publication(&other, b"b");
    bench.publish(request).await.unwrap();
    staying.has("b", 1, SOON).await;
    bench.ping().await.unwrap();

    let again = Inbox::taking();
    let third = bench.subscribe(&again).await;
    bench.send("c").await;
    again.has("c", 1, SOON).await;
    assert_eq!(ending.texts(), ["a"], "a closed subscription got a message");
    for source in [second, third] {
        source.close().await;
    }
    bench.close().await;
}

pub async fn while_paused_nothing_is_handed_out<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let inbox = Inbox::taking();
    let source = bench.subscribe(&inbox).await;
    bench.send("before").await;
    inbox.has("before", 1, SOON).await;
    for round in 0..2 {
        source.pause().await;
        // What was being fetched just then may still come.
        inbox.stays_quiet(QUIET).await;
        let texts = bench.send_many(&format!("round{round}-"), 10).await;
        inbox.stays_quiet(QUIET).await;
        if round == 1 {
            source.release().await;
            inbox.stays_quiet(QUIET).await;
        }
        source.resume().await;
        inbox.has_all(&texts, H::HABITS.takeover).await;
    }
    source.close().await;
    bench.close().await;
}

pub async fn what_is_being_handled_is_counted<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let inbox = Inbox::holding();
    let source = bench.subscribe(&inbox).await;
    assert_eq!(source.in_flight(), 0);
    bench.send("a").await;
    inbox.runs(1).await;
    assert_eq!(source.in_flight(), 1);
    source.pause().await;
    assert_eq!(source.in_flight(), 1, "pausing ends no handler");
    inbox.let_go();
    wait::until("no message in work", SOON, async || {
        let count = source.in_flight();
        if count == 0 { Ok(()) } else { Err(count) }
    })
    .await;
    source.close().await;
    bench.close().await;
}

pub async fn closing_does_not_wait_for_handlers<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let inbox = Inbox::holding();
    let source = bench.subscribe(&inbox).await;
    bench.send("a").await;
    inbox.runs(1).await;
    wait::within("close", Duration::from_secs(2), source.close()).await;
    assert_eq!(inbox.running(), 1, "the handler goes on");
    inbox.let_go();
    inbox.runs(0).await;
    bench.close().await;
}

pub async fn a_subscription_that_was_closed_did_not_end_on_its_own<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let source = bench.subscribe(&Inbox::taking()).await;
    let ended = timeout(QUIET, source.ended()).await;
    assert!(ended.is_err(), "it runs, and ended: {ended:?}");
    source.close().await;
    let ended = timeout(QUIET, source.ended()).await;
    assert!(ended.is_err(), "it was closed, and ended: {ended:?}");
    bench.close().await;
}

/// P26.
pub async fn publishing_after_close_fails<H: Harness>() {
    let bench = Bench::<H>::open().await;
    bench.send("before").await;
    let broker = bench.broker.component();
    let request = publication(&bench.topic, b"after");
    bench.close().await;
    let published = wait::within("a refusal", SOON, broker.publish(request)).await;
    assert!(published.is_err());
}

pub async fn a_released_message_stays_with_the_broker<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let releasing = Inbox::new(|_, _| Reply::Now(Outcome::Released));
    let source = bench.subscribe(&releasing).await;
    bench.send("a").await;
    releasing.has("a", 1, SOON).await;
    source.pause().await;
    source.release().await;
    source.close().await;
    let taking = Inbox::taking();
    let source = bench.subscribe(&taking).await;
    taking.has("a", 1, H::HABITS.takeover).await;
    source.close().await;
    bench.close().await;
}

/// In the order of a graceful stop: pause, release, close; then somebody else comes.
pub async fn what_was_not_handed_out_is_given_back<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let holding = Inbox::holding();
    let source = bench.subscribe(&holding).await;
    let texts = bench.send_many("m", 30).await;
    wait::until("a message in work", SOON, async || holding.running() > 0).await;
    source.pause().await;
    source.release().await;
    holding.let_go();
    holding.runs(0).await;
    wait::until("no message in work", SOON, async || source.in_flight() == 0).await;
    source.close().await;
    let first = holding.done();

    let taking = Inbox::taking();
    let source = bench.subscribe(&taking).await;
    let rest: Vec<String> = texts
        .into_iter()
        .filter(|text| !first.contains(text))
        .collect();
    taking.has_all(&rest, SOON).await;
    taking.stays_quiet(QUIET).await;
    let twice: Vec<String> = taking.texts();
    assert!(
        twice.iter().all(|text| !first.contains(text)),
        "done, and handed out again: {twice:?} after {first:?}"
    );
    if H::HABITS.counts_deliveries {
        let received = taking.received();
        assert!(received.iter().all(|message| message.delivery == 1));
    }
    source.close().await;
    bench.close().await;
}
