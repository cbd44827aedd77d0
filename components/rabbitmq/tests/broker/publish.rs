//! Publishing: what is on the wire, what counts as success, and that topics do not hurt each other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::{ExchangeDeleteOptions, QueuePurgeOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, ExchangeKind};
use outrigger_component_api::{Class, ErrorKind, Scope};
use outrigger_testkit::proxy::{Direction, Proxy};
use outrigger_testkit::servers::{Rabbit, RabbitServer, Server as _};
use outrigger_testkit::suites::open::Opened;
use outrigger_testkit::wait;
use tokio::time::Instant;

use crate::support::{
    Client, KEPT, Recorder, SOON, message, next, opener, pairs, publish, shared, subscribe, table,
    text, texts, to, unique,
};

/// An instance whose connections go through a proxy of its own.
async fn proxied<const N: usize>(
    pairs: [(&str, &str); N],
) -> (Proxy, Opened<dyn outrigger_component_api::PubSub>) {
    let server = RabbitServer::shared().await;
    let proxy = Proxy::to(server.address()).await;
    let url = format!("amqp://guest:guest@{}", proxy.address());
    let pubsub = Opened::ready(&opener(&url, pairs)).await;
    (proxy, pubsub)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_looks_as_daprds_does() {
    let topic = unique("wire");
    let pubsub = shared([("ttlInSeconds", "50"), ("deliveryMode", "0"), KEPT]).await;
    publish(&pubsub, &topic, &["first, for the exchange"]).await;
    let client = Client::shared().await;
    let mut tap = client.tap(&topic).await;

    publish(&pubsub, &topic, &["plain"]).await;
    let plain = next(&mut tap).await;
    let expected = BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_expiration("50000".into());
    assert_eq!(plain.properties, expected);
    assert_eq!(
        (plain.exchange.as_str(), plain.routing_key.as_str()),
        (topic.as_str(), "")
    );
    assert_eq!(plain.data, b"plain");

    let mut full = message(&topic, "");
    full.metadata = Some(pairs([
        ("routingKey", "key"),
        ("ttlInSeconds", "100"),
        ("priority", "7"),
        ("contenttype", "application/json"),
        ("MESSAGEID", "m"),
        ("correlationId", "c"),
        ("type", "t"),
        ("anything", "else"),
    ]));
    pubsub.publish(full).await.unwrap();
    let full = next(&mut tap).await;
    let expected = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_expiration("100000".into())
        .with_priority(7)
        .with_message_id("m".into())
        .with_correlation_id("c".into())
        .with_type("t".into());
    assert_eq!(full.properties, expected);
    assert_eq!(full.routing_key.as_str(), "key");
    assert_eq!(full.data, b"");
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_persistent_unless_the_resource_says_otherwise() {
    let topic = unique("persistent");
    let pubsub = shared([KEPT]).await;
    publish(&pubsub, &topic, &["first"]).await;
    let client = Client::shared().await;
    let mut tap = client.tap(&topic).await;
    publish(&pubsub, &topic, &["second"]).await;
    assert_eq!(*next(&mut tap).await.properties.delivery_mode(), Some(2));
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_megabytes_arrive_as_they_were() {
    let topic = unique("large");
    let pubsub = shared([]).await;
    let recorder = Recorder::done();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    let data: Vec<u8> = (0..2_000_000_u32)
        .flat_map(u32::to_le_bytes)
        .take(2 << 20)
        .collect();
    pubsub.publish(message(&topic, data.clone())).await.unwrap();
    assert!(recorder.got(1).await[0].data == data);
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_is_pipelined() {
    let topic = unique("pipeline");
    let (proxy, pubsub) = proxied([KEPT]).await;
    publish(&pubsub, &topic, &["first"]).await;
    proxy.delay(Direction::ToClient, Duration::from_millis(100));
    let start = Instant::now();
    let all = (0..200).map(|number| pubsub.publish(message(&topic, number.to_string())));
    for told in wait::within("200 confirmations", SOON, join_all(all)).await {
        told.unwrap();
    }
    // One after the other they would take twenty seconds.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    proxy.pass().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_topic_keep_their_order() {
    let topic = unique("order");
    let pubsub = shared([KEPT]).await;
    publish(&pubsub, &topic, &["first"]).await;
    let client = Client::shared().await;
    let mut tap = client.tap(&topic).await;
    // Polled in this order, so queued in this order, and all under way at once.
    let all = (0..250).map(|number| pubsub.publish(message(&topic, number.to_string())));
    for told in tokio::task::unconstrained(join_all(all)).await {
        told.unwrap();
    }
    let expected: Vec<_> = (0..250).map(|number| number.to_string()).collect();
    assert_eq!(texts(&mut tap, 250).await, expected);
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_vanished_is_declared_again_for_the_same_message() {
    let topic = unique("vanished");
    let pubsub = shared([]).await;
    let first = subscribe(&pubsub, to(&topic), &Recorder::done()).await;
    publish(&pubsub, &topic, &["1"]).await;
    // The last consumer takes queue and exchange along.
    first.close().await;
    let all = (0..50).map(|number| pubsub.publish(message(&topic, number.to_string())));
    for told in join_all(all).await {
        told.unwrap();
    }
    let recorder = Recorder::done();
    let second = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["2"]).await;
    recorder.got(1).await;
    second.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_vanishes_under_load_costs_its_neighbours_nothing() {
    let (fragile, steady) = (unique("fragile"), unique("steady"));
    let mut pubsub = shared([KEPT]).await;
    publish(&pubsub, &fragile, &["first"]).await;
    let client = Client::shared().await;
    let load = Scope::root();
    let (taken, hurt) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    for number in 0..200 {
        let (topic, is_steady) = match number % 2 {
            0 => (steady.clone(), true),
            _ => (fragile.clone(), false),
        };
        let (component, taken, hurt) = (pubsub.component(), taken.clone(), hurt.clone());
        load.spawn("load", |stop| async move {
            while !stop.is_cancelled() {
                match component.publish(message(&topic, "x")).await {
                    Ok(()) => taken.fetch_add(1, Ordering::SeqCst),
                    // Declared again, and deleted again.
                    Err(error) if !is_steady && error.kind == ErrorKind::Failed => 0,
                    Err(_) => hurt.fetch_add(1, Ordering::SeqCst),
                };
            }
        });
    }
    for round in 1..=40 {
        wait::until("messages under way", SOON, async || {
            taken.load(Ordering::SeqCst) > round * 300
        })
        .await;
        let delete = client
            .channel
            .exchange_delete(fragile.as_str().into(), ExchangeDeleteOptions::default());
        delete.await.unwrap();
    }
    let left = load.close(SOON).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(hurt.load(Ordering::SeqCst), 0);
    let lost = tokio::time::timeout(Duration::from_millis(200), pubsub.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
    publish(&pubsub, &fragile, &["last"]).await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_broker_does_not_take_is_an_error() {
    let topic = unique("full");
    let pubsub = shared([KEPT]).await;
    publish(&pubsub, &topic, &["first"]).await;
    let client = Client::shared().await;
    let queue = unique("small");
    let arguments = table([
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", text("reject-publish")),
    ]);
    client.queue(&queue, &topic, arguments).await;
    publish(&pubsub, &topic, &["fits"]).await;
    let refused = pubsub.publish(message(&topic, "too much")).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Failed);
    assert!(refused.message.contains("did not take"), "{refused}");
    let mut consumer = client.consume(&queue).await;
    assert_eq!(texts(&mut consumer, 1).await, ["fits"]);
    pubsub.close().await;
}

/// A queue for which there is room for one message, and nobody's thanks for another.
async fn full_queue(client: &Client, topic: &str) -> String {
    let queue = unique("full");
    let arguments = table([
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", text("reject-publish")),
    ]);
    client.queue(&queue, topic, arguments).await;
    queue
}

/// As a cluster does that has just lost a node.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_taken_right_after_connecting_is_tried_again() {
    let topic = unique("settling");
    let earlier = shared([KEPT]).await;
    publish(&earlier, &topic, &["first"]).await;
    let client = Client::shared().await;
    let queue = full_queue(&client, &topic).await;
    publish(&earlier, &topic, &["fits"]).await;

    let pubsub = shared([KEPT]).await;
    let mut publishing = Box::pin(pubsub.publish(message(&topic, "waits")));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut publishing).await;
    assert!(early.is_err(), "{early:?}");
    let options = QueuePurgeOptions::default();
    let purged = client.channel.queue_purge(queue.as_str().into(), options);
    assert_eq!(purged.await.unwrap(), 1);
    let published = wait::within("room for the message", SOON, publishing).await;
    published.unwrap();
    let mut consumer = client.consume(&queue).await;
    assert_eq!(texts(&mut consumer, 1).await, ["waits"]);
    earlier.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_on_which_the_broker_takes_nothing_is_replaced() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    let topic = unique("stuck");
    let pubsub = Opened::ready(&opener(&server.url(), [KEPT])).await;
    publish(&pubsub, &topic, &["first"]).await;
    let client = Client::at(&server).await;
    full_queue(&client, &topic).await;
    publish(&pubsub, &topic, &["fits"]).await;
    let channels = || async {
        let listed = server.control(&["list_channels", "--quiet", "pid"]).await;
        let pids = listed.lines().filter(|line| line.starts_with('<'));
        pids.map(str::to_owned).collect::<BTreeSet<String>>()
    };
    // The publisher's and the client's.
    let before = channels().await;
    assert_eq!(before.len(), 2, "{before:?}");
    wait::until("another channel", SOON, async || {
        let refused = pubsub.publish(message(&topic, "too much")).await;
        assert_eq!(refused.unwrap_err().kind, ErrorKind::Failed);
        let after = channels().await;
        if after.len() == 2 && after != before {
            Ok(())
        } else {
            Err(after)
        }
    })
    .await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_messages_at_once_exactly_the_refused_ones_fail() {
    let topic = unique("sorted");
    let pubsub = shared([("exchangeKind", "direct"), KEPT]).await;
    publish(&pubsub, &topic, &["first"]).await;
    let client = Client::shared().await;
    let full = unique("full");
    let arguments = table([
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", text("reject-publish")),
    ]);
    client.queue(&full, &topic, arguments).await;
    publish(&pubsub, &topic, &["fits"]).await;
    let (load, wrong) = (Scope::root(), Arc::<AtomicUsize>::default());
    for task in 0..64 {
        let (component, topic, wrong) = (pubsub.component(), topic.clone(), wrong.clone());
        load.spawn_future("load", async move {
            for round in 0..50 {
                let is_full = (task + round) % 2 == 0;
                let mut request = message(&topic, "x");
                let key = if is_full { "" } else { "elsewhere" };
                request.metadata = Some(pairs([("routingKey", key)]));
                if component.publish(request).await.is_err() != is_full {
                    wrong.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
    }
    assert_eq!(load.drained(3 * SOON).await, Vec::<&str>::new());
    assert_eq!(wrong.load(Ordering::SeqCst), 0);
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_before_the_confirmation_is_an_error() {
    let topic = unique("unconfirmed");
    let (proxy, mut pubsub) = proxied([KEPT]).await;
    publish(&pubsub, &topic, &["first"]).await;
    // What we send arrives, what the broker answers does not.
    proxy.delay(Direction::ToClient, Duration::from_secs(60));
    let component = pubsub.component();
    let waiting = pubsub.scope().child();
    let (sender, told) = tokio::sync::oneshot::channel();
    let request = message(&topic, "lost");
    waiting.spawn_future("test", async move {
        sender.send(component.publish(request).await).ok();
    });
    let client = Client::shared().await;
    let mut tap = client.tap(&topic).await;
    // The broker has one more message, and nobody knows but we.
    wait::until("a message on its way", SOON, async || {
        client
            .send(&topic, b"probe", BasicProperties::default())
            .await;
        next(&mut tap).await;
        true
    })
    .await;
    proxy.cut().await;
    let told = wait::within("the end of the call", SOON, told)
        .await
        .unwrap();
    let error = told.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Connection(Class::Transient));
    let loss = wait::within("the loss", SOON, pubsub.lost()).await;
    assert_eq!(loss.kind, ErrorKind::Connection(Class::Transient));
    let after = pubsub.publish(message(&topic, "after")).await.unwrap_err();
    assert!(after.doubts_connection(), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_lose_patience_disturb_nobody() {
    let topic = unique("impatient");
    let (proxy, pubsub) = proxied([KEPT]).await;
    publish(&pubsub, &topic, &["first"]).await;
    let client = Client::shared().await;
    let queue = unique("patient");
    client.queue(&queue, &topic, table([])).await;
    proxy.delay(Direction::ToClient, Duration::from_millis(50));
    let hurried = (0..100).map(|number| {
        let request = message(&topic, format!("hurried {number}"));
        tokio::time::timeout(Duration::from_millis(number / 4), pubsub.publish(request))
    });
    let patient = (0..100).map(|number| pubsub.publish(message(&topic, number.to_string())));
    let (_, told) = tokio::join!(join_all(hurried), join_all(patient));
    for told in told {
        told.unwrap();
    }
    proxy.pass().await;
    publish(&pubsub, &topic, &["last"]).await;
    wait::until("no task of a dropped call", SOON, async || {
        let running = pubsub.scope().running();
        if running == 1 { Ok(()) } else { Err(running) }
    })
    .await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_nobody_waits_for_any_longer_still_count_as_under_way() {
    let topic = unique("abandoned");
    let (proxy, pubsub) = proxied([KEPT]).await;
    publish(&pubsub, &topic, &["first"]).await;
    let before = pubsub.scope().running();
    proxy.hang();
    let hurried = (0..1_000).map(|number| {
        let request = message(&topic, number.to_string());
        tokio::time::timeout(Duration::from_millis(100), pubsub.publish(request))
    });
    for told in join_all(hurried).await {
        assert!(told.is_err(), "{told:?}");
    }
    let kept = pubsub.scope().running() - before;
    assert!(kept <= 256, "{kept} messages are kept");
    proxy.pass().await;
    publish(&pubsub, &topic, &["last"]).await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_close_publishing_is_refused_for_good() {
    let topic = unique("closed");
    let pubsub = shared([]).await;
    let component = pubsub.component();
    pubsub.close().await;
    let refused = component.publish(message(&topic, "1")).await.unwrap_err();
    // Not the caller's fault: another driver is about to take its place.
    assert!(refused.doubts_connection());
    assert_eq!(refused.message, "component is closed");
    let refused = component.subscribe(to(&topic), Recorder::done()).await;
    assert!(refused.map(|_| ()).unwrap_err().doubts_connection());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_confirmations_messages_arrive_all_the_same() {
    let topic = unique("unasked");
    let pubsub = shared([("publisherConfirm", "false")]).await;
    let recorder = Recorder::done();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    for number in 0..100 {
        let request = message(&topic, number.to_string());
        pubsub.publish(request).await.unwrap();
    }
    recorder.got(100).await;
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_may_not_be_written_hurts_no_other() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    server.control(&["add_user", "limited", "pw"]).await;
    let rights = [
        "set_permissions",
        "limited",
        ".*",
        "^(testkit-)?good.*",
        ".*",
    ];
    server.control(&rights).await;
    let url = format!("amqp://limited:pw@{}", server.address());
    let pubsub = Opened::ready(&opener(&url, [])).await;
    let (bad, good) = (unique("bad"), unique("good"));
    let pubsub = Arc::new(pubsub);
    for round in 0..20 {
        let refused = pubsub.publish(message(&bad, "x"));
        let taken =
            (0..20).map(|number| pubsub.publish(message(&good, format!("{round} {number}"))));
        let (refused, taken) = tokio::join!(refused, join_all(taken));
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Failed);
        assert!(refused.message.contains("ACCESS_REFUSED"), "{refused}");
        for taken in taken {
            taken.unwrap();
        }
    }
    pubsub.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_may_not_be_written_hurts_none_of_those_that_share_its_channel() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    server.control(&["add_user", "limited", "pw"]).await;
    let rights = ["set_permissions", "limited", ".*", "^good.*", ".*"];
    server.control(&rights).await;
    let url = format!("amqp://limited:pw@{}", server.address());
    let mut pubsub = Opened::ready(&opener(&url, [])).await;
    // More topics than channels.
    let topics: Vec<_> = (0..40)
        .map(|number| match number {
            20 => unique("bad"),
            _ => unique("good"),
        })
        .collect();
    for round in 0..10 {
        let all = (0..200).map(|number| {
            let topic = &topics[number % topics.len()];
            let published = pubsub.publish(message(topic, format!("{round} {number}")));
            async move { (topic, published.await) }
        });
        for (topic, told) in wait::within("all answers", SOON, join_all(all)).await {
            match told {
                Ok(()) => assert!(topic.starts_with("good"), "{topic} was taken"),
                Err(refused) => {
                    assert_eq!(*topic, topics[20], "{refused}");
                    assert_eq!(refused.kind, ErrorKind::Failed);
                    assert!(refused.message.contains("ACCESS_REFUSED"), "{refused}");
                }
            }
        }
    }
    // As soon as it is allowed, it is taken.
    server
        .control(&["set_permissions", "limited", ".*", ".*", ".*"])
        .await;
    wait::until("the topic taken", SOON, async || {
        pubsub.publish(message(&topics[20], "at last")).await
    })
    .await;
    publish(&pubsub, &topics[20], &["again"]).await;
    let lost = tokio::time::timeout(Duration::from_millis(200), pubsub.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_short_of_memory_refuses_messages_and_goes_on_delivering() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    let topic = unique("blocked");
    let pubsub = Opened::ready(&opener(&server.url(), [KEPT])).await;
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["1", "2"]).await;
    server
        .control(&["set_vm_memory_high_watermark", "0.0001"])
        .await;
    let refused = wait::until("a refusal", SOON, async || {
        let told = pubsub.publish(message(&topic, "x")).await;
        told.err().ok_or("taken")
    })
    .await;
    assert_eq!(refused.kind, ErrorKind::Connection(Class::Transient));
    assert!(refused.message.contains("short of memory"), "{refused}");
    let start = Instant::now();
    assert!(pubsub.publish(message(&topic, "y")).await.is_err());
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the second one is refused at once"
    );
    pubsub.ping().await.unwrap();
    let told = pubsub.impediment().map(|error| error.message);
    assert_eq!(told, Some(refused.message));
    recorder.open();
    recorder.got(2).await;
    server
        .control(&["set_vm_memory_high_watermark", "0.8"])
        .await;
    wait::until("messages taken again", SOON, async || {
        pubsub.publish(message(&topic, "z")).await
    })
    .await;
    assert_eq!(pubsub.impediment(), None);
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_exchange_is_declared_as_written() {
    let client = Client::shared().await;
    for (word, kind) in [
        ("topic", ExchangeKind::Topic),
        ("direct", ExchangeKind::Direct),
        ("headers", ExchangeKind::Headers),
        ("fanout", ExchangeKind::Fanout),
    ] {
        let topic = unique(word);
        let pubsub = shared([("exchangeKind", word), ("durable", "false"), KEPT]).await;
        publish(&pubsub, &topic, &["1"]).await;
        client.exchange(&topic, kind, false, false).await.unwrap();
        pubsub.close().await;
    }
}
