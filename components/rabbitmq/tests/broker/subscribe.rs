//! Subscriptions: how many messages are handled at a time, what becomes of them, pausing and giving back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::QueueDeleteOptions;
use lapin::types::AMQPValue;
use outrigger_component_api::{ErrorKind, Outcome};
use outrigger_testkit::servers::{Rabbit, RabbitServer, Server as _};
use outrigger_testkit::suites::open::Opened;
use outrigger_testkit::wait;
use tokio::time::Instant;

use crate::support::{
    Client, KEPT, Recorder, SOON, next, opener, pairs, publish, settled, shared, subscribe, table,
    tally, text, texts, to, unique, with,
};

/// Waits until a queue has that many ready messages. Quorum queues count a cancelled consumer that has messages in work.
async fn ready(client: &mut Client, queue: &str, expected: u32) {
    wait::until(
        format!("{queue} with {expected} ready"),
        SOON,
        async || match client.look(queue).await {
            Ok((ready, _)) if ready == expected => Ok(()),
            seen => Err(seen),
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_handled_beside_each_other_up_to_the_prefetch_count() {
    let topic = unique("parallel");
    let pubsub = shared([("prefetchCount", "5"), KEPT]).await;
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    for _ in 0..4 {
        publish(&pubsub, &topic, &["a", "b", "c", "d", "e"]).await;
    }
    recorder.got(5).await;
    let mut client = Client::shared().await;
    settled(&mut client, &format!("testkit-{topic}"), (15, 1)).await;
    assert_eq!(source.in_flight(), 5);
    recorder.open();
    recorder.got(20).await;
    wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    assert_eq!(recorder.most.load(Ordering::SeqCst), 5);
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_mode_is_one_after_the_other_and_in_order() {
    let topic = unique("single");
    let pubsub = shared([("concurrencyMode", "single")]).await;
    let recorder = Recorder::done();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    let texts: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    let all: Vec<_> = texts.iter().map(String::as_str).collect();
    publish(&pubsub, &topic, &all).await;
    recorder.got(200).await;
    assert_eq!(recorder.texts(), texts);
    assert_eq!(recorder.most.load(Ordering::SeqCst), 1);
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_message_is_dead_lettered_and_a_done_one_is_not() {
    let topic = unique("failing");
    let pubsub = shared([("enableDeadLetter", "true"), KEPT]).await;
    let recorder = Recorder::new(|message| match message.data.as_ref() {
        b"done" => Outcome::Done,
        b"given up" => Outcome::GaveUp("why".into()),
        b"panic" => panic!("the handler's own"),
        _ => Outcome::Retry("why".into()),
    });
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    let client = Client::shared().await;
    let mut dead = client.consume(&format!("dlq-testkit-{topic}")).await;
    publish(&pubsub, &topic, &["done", "given up", "failed", "panic"]).await;
    let mut lettered = texts(&mut dead, 3).await;
    lettered.sort();
    assert_eq!(lettered, ["failed", "given up", "panic"]);
    assert_eq!(recorder.count(), 4);
    wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_requeue_a_failed_message_comes_again_after_a_growing_rest() {
    let topic = unique("requeued");
    let pubsub = shared([
        ("requeueInFailure", "true"),
        ("enableDeadLetter", "1"),
        KEPT,
    ])
    .await;
    let recorder = Recorder::new(|message| match message.data.as_ref() {
        b"given up" => Outcome::GaveUp("why".into()),
        _ => Outcome::Retry("why".into()),
    });
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    let client = Client::shared().await;
    let mut dead = client.consume(&format!("dlq-testkit-{topic}")).await;
    publish(&pubsub, &topic, &["given up"]).await;
    assert_eq!(next(&mut dead).await.data, b"given up");

    let start = Instant::now();
    publish(&pubsub, &topic, &["stubborn"]).await;
    recorder.got(4).await;
    // 100, then 200 ms: the broker tells that it was delivered before.
    assert!(
        start.elapsed() >= Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
    let deliveries: Vec<_> = recorder.seen()[1..]
        .iter()
        .map(|seen| seen.delivery)
        .collect();
    assert_eq!(deliveries[..3], [1, 2, 2]);
    assert_eq!(source.in_flight(), 0, "a resting message is no work");
    let is_done = Arc::new(AtomicBool::new(false));
    let told = is_done.clone();
    recorder.answer(move |_| {
        told.store(true, Ordering::SeqCst);
        Outcome::Done
    });
    wait::until("success at last", SOON, async || {
        is_done.load(Ordering::SeqCst) && source.in_flight() == 0
    })
    .await;
    source.close().await;
    let mut client = Client::shared().await;
    settled(&mut client, &format!("testkit-{topic}"), (0, 0)).await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quorum_queues_tell_how_often_they_tried() {
    let topic = unique("counted");
    let pubsub = shared([("requeueInFailure", "true"), KEPT]).await;
    let recorder = Recorder::new(|message| match message.delivery {
        3 => Outcome::Done,
        _ => Outcome::Retry("why".into()),
    });
    let source = subscribe(&pubsub, with(&topic, [("queueType", "quorum")]), &recorder).await;
    publish(&pubsub, &topic, &["x"]).await;
    recorder.got(3).await;
    let deliveries: Vec<_> = recorder.seen().iter().map(|seen| seen.delivery).collect();
    assert_eq!(deliveries, [1, 2, 3]);
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_auto_ack_nothing_is_acknowledged_and_nothing_comes_again() {
    let topic = unique("unacked");
    let pubsub = shared([("autoAck", "true"), ("prefetchCount", "10"), KEPT]).await;
    let recorder = Recorder::new(|_| Outcome::Retry("why".into()));
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    let all: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    publish(&pubsub, &topic, &all).await;
    recorder.got(50).await;
    let most = recorder.most.load(Ordering::SeqCst);
    assert!(most <= 10, "{most} at a time");
    let mut client = Client::shared().await;
    settled(&mut client, &format!("testkit-{topic}"), (0, 1)).await;
    source.close().await;
    settled(&mut client, &format!("testkit-{topic}"), (0, 0)).await;
    assert_eq!(recorder.count(), 50);
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_arrive_with_their_properties_when_asked_for() {
    let topic = unique("foreign");
    let pubsub = shared([("publishMessagePropertiesToMetadata", "true")]).await;
    let recorder = Recorder::done();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    let client = Client::shared().await;
    let headers = table([
        ("h", text("v")),
        ("n", AMQPValue::LongInt(7)),
        ("f", AMQPValue::Double(0.5)),
    ]);
    let properties = BasicProperties::default()
        .with_content_type("text/x".into())
        .with_message_id("m".into())
        .with_headers(headers);
    client.send(&topic, b"\x00\xff", properties).await;
    let seen = recorder.got(1).await;
    assert_eq!(seen[0].data.as_ref(), b"\x00\xff");
    assert_eq!(seen[0].topic, topic);
    assert_eq!(
        seen[0].metadata.clone().unwrap(),
        pairs([
            ("metadata.contenttype", "text/x"),
            ("metadata.messageid", "m"),
            ("metadata.h", "v"),
            ("metadata.n", "7"),
            ("metadata.f", "0.5"),
        ])
    );
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subscribers_of_a_queue_share_it_and_two_queues_get_all() {
    let topic = unique("shared");
    let pubsub = shared([]).await;
    let other = shared([("consumerID", "other")]).await;
    let (one, two, three) = (Recorder::done(), Recorder::done(), Recorder::done());
    let sources = [
        subscribe(&pubsub, to(&topic), &one).await,
        subscribe(&pubsub, to(&topic), &two).await,
        subscribe(&other, to(&topic), &three).await,
    ];
    let all: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    publish(&pubsub, &topic, &all).await;
    three.got(100).await;
    wait::until("each message once", SOON, async || {
        one.count() + two.count() == 100
    })
    .await;
    let mut texts = one.texts();
    texts.extend(two.texts());
    assert!(tally(&texts).values().all(|count| *count == 1));
    assert!(one.count() > 0 && two.count() > 0);
    for source in sources {
        source.close().await;
    }
    other.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_paused_nothing_is_fetched_and_what_is_in_work_is_still_acknowledged() {
    let topic = unique("paused");
    let queue = format!("testkit-{topic}");
    let pubsub = shared([KEPT]).await;
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["1", "2"]).await;
    recorder.got(2).await;
    source.pause().await;
    source.pause().await;
    publish(&pubsub, &topic, &["3"]).await;
    let mut client = Client::shared().await;
    settled(&mut client, &queue, (1, 0)).await;
    recorder.open();
    wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    source.resume().await;
    source.resume().await;
    recorder.got(3).await;
    // Handlers of one subscription run side by side.
    let mut texts = recorder.texts();
    texts.sort();
    assert_eq!(texts, ["1", "2", "3"]);
    settled(&mut client, &queue, (0, 1)).await;
    source.close().await;
    settled(&mut client, &queue, (0, 0)).await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_and_not_handed_out_goes_back_at_once() {
    let topic = unique("released");
    let queue = format!("testkit-{topic}");
    let pubsub = shared([("concurrencyMode", "single"), KEPT]).await;
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    let all: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    publish(&pubsub, &topic, &all).await;
    recorder.got(1).await;
    let mut client = Client::shared().await;
    settled(&mut client, &queue, (0, 1)).await;
    source.pause().await;
    source.release().await;
    settled(&mut client, &queue, (99, 0)).await;
    // Another one takes over, in order.
    let peer = shared([("concurrencyMode", "single"), KEPT]).await;
    let heir = Recorder::done();
    let heirs = subscribe(&peer, to(&topic), &heir).await;
    heir.got(99).await;
    assert_eq!(heir.texts(), all[1..]);
    recorder.open();
    wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    source.close().await;
    heirs.close().await;
    settled(&mut client, &queue, (0, 0)).await;
    assert_eq!(heir.count() + recorder.count(), 100);
    peer.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_let_go_stays_the_brokers() {
    let topic = unique("letgo");
    let queue = format!("testkit-{topic}");
    let pubsub = shared([("enableDeadLetter", "true"), KEPT]).await;
    let recorder = Recorder::shut();
    recorder.answer(|_| Outcome::Released);
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["early", "late"]).await;
    recorder.got(2).await;
    let mut client = Client::shared().await;
    source.pause().await;
    recorder.let_pass(1);
    wait::until("one in work", SOON, async || source.in_flight() == 1).await;
    settled(&mut client, &queue, (0, 0)).await;
    source.release().await;
    settled(&mut client, &queue, (1, 0)).await;
    // Let go after the release: goes back without another one.
    recorder.let_pass(1);
    settled(&mut client, &queue, (2, 0)).await;
    recorder.answer(|_| Outcome::Done);
    recorder.open();
    source.resume().await;
    recorder.got(4).await;
    settled(&mut client, &queue, (0, 1)).await;
    assert_eq!(client.look(&format!("dlq-{queue}")).await, Ok((0, 0)));
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_message_does_not_rest_when_everything_is_given_back() {
    let topic = unique("restless");
    let queue = format!("testkit-{topic}");
    let pubsub = shared([
        ("requeueInFailure", "true"),
        ("enableDeadLetter", "1"),
        KEPT,
    ])
    .await;
    let recorder = Recorder::shut();
    recorder.answer(|_| Outcome::Retry("why".into()));
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    let mut client = Client::shared().await;
    // As if it had failed so often that it would rest for five seconds.
    let tired = BasicProperties::default()
        .with_headers(table([("x-delivery-count", AMQPValue::LongInt(50))]));
    client.send(&topic, b"early", tired.clone()).await;
    client.send(&topic, b"late", tired).await;
    recorder.got(2).await;
    recorder.let_pass(1);
    wait::until("one in work", SOON, async || source.in_flight() == 1).await;
    let start = Instant::now();
    source.pause().await;
    source.release().await;
    ready(&mut client, &queue, 1).await;
    recorder.let_pass(1);
    ready(&mut client, &queue, 2).await;
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(client.look(&format!("dlq-{queue}")).await, Ok((0, 0)));
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_the_only_consumer_of_an_auto_delete_queue_keeps_the_queue() {
    let topic = unique("fragile");
    let queue = format!("testkit-{topic}");
    let pubsub = shared([("prefetchCount", "2")]).await;
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["1", "2", "3", "4", "5"]).await;
    recorder.got(2).await;
    let mut client = Client::shared().await;
    settled(&mut client, &queue, (3, 1)).await;
    source.pause().await;
    source.release().await;
    publish(&pubsub, &topic, &["6"]).await;
    // One message lies with the consumer that keeps the queue.
    settled(&mut client, &queue, (3, 1)).await;
    recorder.open();
    wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    assert_eq!(recorder.count(), 2);
    source.resume().await;
    recorder.got(6).await;
    let mut all = recorder.texts();
    all.sort();
    assert_eq!(all, ["1", "2", "3", "4", "5", "6"]);
    settled(&mut client, &queue, (0, 1)).await;
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_auto_ack_fetched_before_a_pause_is_handed_out_after_it() {
    let topic = unique("fetched");
    let queue = format!("testkit-{topic}");
    let pubsub = shared([("autoAck", "true"), ("concurrencyMode", "single")]).await;
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["1", "2", "3", "4", "5"]).await;
    recorder.got(1).await;
    let mut client = Client::shared().await;
    settled(&mut client, &queue, (0, 1)).await;
    source.pause().await;
    source.release().await;
    publish(&pubsub, &topic, &["6", "7"]).await;
    // One lies with the consumer that keeps the queue, which does acknowledge.
    settled(&mut client, &queue, (1, 1)).await;
    recorder.open();
    wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    assert_eq!(recorder.count(), 1);
    source.resume().await;
    recorder.got(7).await;
    let mut all = recorder.texts();
    all.sort();
    assert_eq!(all, ["1", "2", "3", "4", "5", "6", "7"]);
    // Nothing is left unacknowledged that would come again.
    let peer = shared([]).await;
    let heir = Recorder::done();
    let heirs = subscribe(&peer, to(&topic), &heir).await;
    source.close().await;
    publish(&pubsub, &topic, &["8"]).await;
    heir.got(1).await;
    assert_eq!(heir.texts(), ["8"]);
    heirs.close().await;
    peer.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_on_an_auto_delete_queue_gets_what_a_paused_one_gives_back() {
    let topic = unique("handedover");
    let queue = format!("testkit-{topic}");
    let pubsub = shared([("concurrencyMode", "single")]).await;
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    let all: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    publish(&pubsub, &topic, &all).await;
    recorder.got(1).await;
    let mut client = Client::shared().await;
    settled(&mut client, &queue, (0, 1)).await;
    let peer = shared([]).await;
    let heir = Recorder::done();
    let heirs = subscribe(&peer, to(&topic), &heir).await;
    source.pause().await;
    source.release().await;
    heir.got(99).await;
    publish(&pubsub, &topic, &["new"]).await;
    heir.got(100).await;
    recorder.open();
    wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    source.close().await;
    settled(&mut client, &queue, (0, 1)).await;
    assert_eq!((recorder.count(), heir.count()), (1, 100));
    heirs.close().await;
    peer.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn close_returns_unfinished_messages_and_late_outcomes_are_dropped() {
    let topic = unique("unfinished");
    let queue = format!("testkit-{topic}");
    let pubsub = shared([("enableDeadLetter", "true"), KEPT]).await;
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["1", "2", "3"]).await;
    recorder.got(3).await;
    source.close().await;
    let mut client = Client::shared().await;
    settled(&mut client, &queue, (3, 0)).await;
    assert_eq!(source.in_flight(), 3, "handlers run on");
    recorder.answer(|_| Outcome::Retry("too late".into()));
    recorder.open();
    wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    settled(&mut client, &queue, (3, 0)).await;
    assert_eq!(client.look(&format!("dlq-{queue}")).await, Ok((0, 0)));
    source.close().await;
    source.pause().await;
    source.resume().await;
    pubsub.ping().await.unwrap();
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_source_lets_go_of_its_consumer() {
    let topic = unique("dropped");
    let queue = format!("testkit-{topic}");
    let pubsub = shared([KEPT]).await;
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["1"]).await;
    recorder.got(1).await;
    drop(source);
    let mut client = Client::shared().await;
    settled(&mut client, &queue, (1, 0)).await;
    recorder.open();
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_given_up_while_it_starts_leaves_no_consumer() {
    let topic = unique("givenup");
    let queue = format!("testkit-{topic}");
    let pubsub = shared([KEPT]).await;
    let mut client = Client::shared().await;
    for micros in (0..3_000).step_by(150) {
        let subscribing = pubsub.subscribe(to(&topic), Recorder::done());
        if let Ok(Ok(source)) =
            tokio::time::timeout(Duration::from_micros(micros), subscribing).await
        {
            source.close().await;
        }
    }
    let source = subscribe(&pubsub, to(&topic), &Recorder::done()).await;
    settled(&mut client, &queue, (0, 1)).await;
    source.close().await;
    pubsub.ping().await.unwrap();
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_ends_its_subscription_alone() {
    let (gone, stays) = (unique("deleted"), unique("stays"));
    let pubsub = shared([KEPT]).await;
    let (one, two) = (Recorder::done(), Recorder::done());
    let dead = subscribe(&pubsub, to(&gone), &one).await;
    let sibling = subscribe(&pubsub, to(&stays), &two).await;
    let mut client = Client::shared().await;
    let queue = format!("testkit-{gone}");
    let delete = client
        .channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
    delete.await.unwrap();
    let start = Instant::now();
    let reason = wait::within("the end of the subscription", SOON, dead.ended()).await;
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(reason.kind, ErrorKind::Failed);
    assert!(reason.message.contains(&queue), "{reason}");
    dead.close().await;
    // A second subscription declares everything again.
    let again = subscribe(&pubsub, to(&gone), &one).await;
    publish(&pubsub, &gone, &["1"]).await;
    publish(&pubsub, &stays, &["2"]).await;
    one.got(1).await;
    two.got(1).await;
    pubsub.ping().await.unwrap();
    settled(&mut client, &queue, (0, 1)).await;
    again.close().await;
    sibling.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_noticed_while_every_handler_is_busy() {
    let topic = unique("deletedbusy");
    let pubsub = shared([("concurrencyMode", "single"), KEPT]).await;
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["1", "2"]).await;
    recorder.got(1).await;
    let client = Client::shared().await;
    let queue = format!("testkit-{topic}");
    let delete = client
        .channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
    delete.await.unwrap();
    let reason = wait::within("the end of the subscription", SOON, source.ended()).await;
    assert_eq!(reason.kind, ErrorKind::Failed);
    assert!(reason.message.contains(&queue), "{reason}");
    assert_eq!(source.in_flight(), 1, "the handler runs on");
    recorder.open();
    wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    source.close().await;
    assert_eq!(recorder.texts(), ["1"]);
    pubsub.ping().await.unwrap();
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_deleted_during_a_pause_ends_the_subscription_when_it_resumes() {
    let topic = unique("deletedpaused");
    let pubsub = shared([]).await;
    let source = subscribe(&pubsub, to(&topic), &Recorder::done()).await;
    source.pause().await;
    let client = Client::shared().await;
    let queue = format!("testkit-{topic}");
    let delete = client
        .channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
    delete.await.unwrap();
    source.resume().await;
    let reason = wait::within("the end of the subscription", SOON, source.ended()).await;
    assert_eq!(reason.kind, ErrorKind::Failed);
    assert!(reason.message.contains("NOT_FOUND"), "{reason}");
    source.close().await;
    pubsub.ping().await.unwrap();
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_may_not_be_read_hurts_no_other() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    server.control(&["add_user", "limited", "pw"]).await;
    let rights = [
        "set_permissions",
        "limited",
        ".*",
        ".*",
        "^(testkit-)?good.*",
    ];
    server.control(&rights).await;
    let url = format!("amqp://limited:pw@{}", server.address());
    let pubsub = Opened::ready(&opener(&url, [])).await;
    let recorder = Recorder::done();
    let good = subscribe(&pubsub, to("good"), &recorder).await;
    for _ in 0..10 {
        let refused = pubsub.subscribe(to("bad"), Recorder::done()).await;
        let refused = refused.map(|_| ()).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Failed);
        for word in ["ACCESS_REFUSED", "`bad`"] {
            assert!(refused.message.contains(word), "{refused}");
        }
    }
    publish(&pubsub, "good", &["1"]).await;
    recorder.got(1).await;
    good.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_slower_than_the_brokers_patience_ends_its_own_subscription_only() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    // Channels that are opened from now on look at their messages ten times a second.
    let impatient = "application:set_env(rabbit, consumer_timeout, 500), \
                     application:set_env(rabbit, channel_tick_interval, 100).";
    server.control(&["eval", impatient]).await;
    let pubsub = Opened::ready(&opener(&server.url(), [("enableDeadLetter", "1"), KEPT])).await;
    let (slow, quick) = (Recorder::shut(), Recorder::done());
    let source = subscribe(&pubsub, to("slow"), &slow).await;
    let sibling = subscribe(&pubsub, to("quick"), &quick).await;
    publish(&pubsub, "slow", &["1"]).await;
    slow.got(1).await;
    let reason = wait::within("the end of the subscription", SOON, source.ended()).await;
    assert_eq!(reason.kind, ErrorKind::Failed, "{reason}");
    assert!(reason.message.contains("PRECONDITION_FAILED"), "{reason}");
    // Late, for a message that the broker has taken back.
    slow.answer(|_| Outcome::GaveUp("too late".into()));
    slow.open();
    wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    source.close().await;
    publish(&pubsub, "quick", &["2"]).await;
    quick.got(1).await;
    slow.answer(|_| Outcome::Done);
    let again = subscribe(&pubsub, to("slow"), &slow).await;
    slow.got(2).await;
    let mut client = Client::at(&server).await;
    settled(&mut client, "testkit-slow", (0, 1)).await;
    assert_eq!(client.look("dlq-testkit-slow").await, Ok((0, 0)));
    again.close().await;
    sibling.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_cannot_be_served_is_refused_without_asking_the_broker() {
    let topic = unique("refused");
    let pubsub = shared([]).await;
    for metadata in [
        ("queueType", "stream"),
        ("queueType", "quorum"),
        ("maxLen", "x"),
    ] {
        let refused = pubsub
            .subscribe(with(&topic, [metadata]), Recorder::done())
            .await;
        assert_eq!(refused.map(|_| ()).unwrap_err().kind, ErrorKind::Invalid);
    }
    pubsub.close().await;
}

/// `x-delivery-count` of a message on a quorum queue, after it was fetched and came back in some way.
async fn counted(queue: &str, came_back: impl AsyncFn(&str)) -> i64 {
    let client = Client::shared().await;
    came_back(queue).await;
    let mut consumer = client.consume(queue).await;
    count(&next(&mut consumer).await)
}

fn count(delivery: &Delivery) -> i64 {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        _ => 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_back_raises_the_count_of_a_quorum_queue_no_more_than_any_other_way_back() {
    let release = async |topic: &str, by_release: bool| {
        let pubsub = shared([("concurrencyMode", "single"), KEPT]).await;
        let recorder = Recorder::shut();
        let request = with(topic, [("queueType", "quorum"), ("queueName", topic)]);
        let source = subscribe(&pubsub, request, &recorder).await;
        publish(&pubsub, topic, &["in work", "held"]).await;
        let mut client = Client::shared().await;
        recorder.got(1).await;
        settled(&mut client, topic, (0, 1)).await;
        if by_release {
            source.pause().await;
            source.release().await;
            ready(&mut client, topic, 1).await;
            recorder.open();
            wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
            source.close().await;
        } else {
            drop(source);
            ready(&mut client, topic, 2).await;
            recorder.open();
        }
        pubsub.close().await;
    };
    let released = counted(&unique("counta"), async |queue| release(queue, true).await).await;
    let closed = counted(&unique("countb"), async |queue| release(queue, false).await).await;
    // RabbitMQ before 4.3 counts every way back; since then a nack does not count, a closed channel does.
    assert!(released <= closed && closed <= 1, "{released} {closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_topic_does_not_stall_another() {
    let (slow, fast) = (unique("slow"), unique("fast"));
    let pubsub = shared([("prefetchCount", "1")]).await;
    let (stuck, free) = (Recorder::shut(), Recorder::done());
    let sources = [
        subscribe(&pubsub, to(&slow), &stuck).await,
        subscribe(&pubsub, to(&fast), &free).await,
    ];
    publish(&pubsub, &slow, &["1", "2"]).await;
    stuck.got(1).await;
    let all = ["x"; 100];
    publish(&pubsub, &fast, &all).await;
    free.got(100).await;
    assert_eq!(stuck.count(), 1);
    stuck.open();
    for source in sources {
        source.close().await;
    }
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_messages_pass() {
    let topic = unique("many");
    let pubsub = Arc::new(shared([KEPT]).await);
    let recorder = Recorder::done();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    let all = (0..10_000)
        .map(|number| pubsub.publish(crate::support::message(&topic, number.to_string())));
    let published = futures_util::future::join_all(all);
    for told in wait::within("publishing", 3 * SOON, published).await {
        told.unwrap();
    }
    recorder.got(10_000).await;
    assert_eq!(tally(&recorder.texts()).len(), 10_000);
    source.close().await;
}
