//! Declarations, compared with those of daprd 1.18.2 at the same broker.

use lapin::ExchangeKind;
use lapin::types::AMQPValue;
use outrigger_component_api::ErrorKind;
use outrigger_testkit::servers::RabbitServer;
use serde_json::{Value, json};

use crate::support::{
    Client, KEPT, Recorder, message, publish, shared, subscribe, table, text, to, unique, with,
};

/// One of the broker's own lists, reduced to the rows where `name` is `value`.
async fn listed(list: &[&str], name: &str, value: &str) -> Vec<Value> {
    let mut command = vec!["-q", "--formatter", "json"];
    command.extend(list);
    let printed = RabbitServer::shared().await.control(&command).await;
    let rows: Vec<Value> = serde_json::from_str(printed.trim()).unwrap();
    rows.into_iter().filter(|row| row[name] == value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_subscription_declares_what_daprd_declares() {
    let topic = unique("topology");
    let pubsub = shared([("consumerID", "a")]).await;
    let source = subscribe(&pubsub, to(&topic), &Recorder::done()).await;
    let queue = format!("a-{topic}");
    assert_eq!(
        listed(
            &[
                "list_exchanges",
                "name",
                "type",
                "durable",
                "auto_delete",
                "internal",
                "arguments"
            ],
            "name",
            &topic
        )
        .await,
        [json!({
            "name": topic, "type": "fanout", "durable": true, "auto_delete": true, "internal": false, "arguments": []
        })]
    );
    assert_eq!(
        listed(
            &[
                "list_queues",
                "name",
                "durable",
                "auto_delete",
                "exclusive",
                "arguments",
                "consumers"
            ],
            "name",
            &queue
        )
        .await,
        [json!({
            "name": queue, "durable": true, "auto_delete": true, "exclusive": false,
            "arguments": [["x-queue-type", "longstr", "classic"]], "consumers": 1
        })]
    );
    assert_eq!(
        listed(
            &[
                "list_bindings",
                "source_name",
                "destination_name",
                "routing_key",
                "arguments"
            ],
            "source_name",
            &topic
        )
        .await,
        [json!({
            "source_name": topic, "destination_name": queue, "routing_key": "", "arguments": []
        })]
    );
    let consumers = listed(
        &[
            "list_consumers",
            "queue_name",
            "consumer_tag",
            "ack_required",
            "prefetch_count",
            "arguments",
        ],
        "queue_name",
        &queue,
    )
    .await;
    assert_eq!(consumers.len(), 1);
    let tag = consumers[0]["consumer_tag"].as_str().unwrap();
    assert_eq!(tag.len(), queue.len() + 37);
    assert!(tag.starts_with(&format!("{queue}-")), "{tag}");
    assert_eq!(consumers[0]["ack_required"], true);
    // daprd: 0, which has no limit.
    assert_eq!(consumers[0]["prefetch_count"], 256);
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_declares_the_exchange_and_nothing_else() {
    let topic = unique("alone");
    let pubsub = shared([]).await;
    publish(&pubsub, &topic, &["1"]).await;
    let mut client = Client::shared().await;
    client
        .exchange(&topic, ExchangeKind::Fanout, true, true)
        .await
        .unwrap();
    assert!(client.look(&format!("testkit-{topic}")).await.is_err());
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_objects_and_arguments_are_equal_to_daprds() {
    let topic = unique("dead");
    let queue = format!("team-{topic}");
    let pubsub = shared([
        ("consumerID", "team"),
        ("enableDeadLetter", "true"),
        ("maxLen", "10"),
        ("maxLenBytes", "1000"),
        KEPT,
    ])
    .await;
    let request = with(
        &topic,
        [
            ("maxPriority", "300"),
            ("singleActiveConsumer", "true"),
            ("maxLen", "5"),
        ],
    );
    let source = subscribe(&pubsub, request, &Recorder::done()).await;
    // Equal declarations succeed; one that differs closes the channel.
    let client = Client::shared().await;
    let (dlx, dlq) = (format!("dlx-{queue}"), format!("dlq-{queue}"));
    client
        .exchange(&topic, ExchangeKind::Fanout, true, false)
        .await
        .unwrap();
    client
        .exchange(&dlx, ExchangeKind::Fanout, true, false)
        .await
        .unwrap();
    client
        .declare(
            &dlq,
            true,
            false,
            table([
                ("x-queue-mode", text("lazy")),
                ("x-max-length", AMQPValue::LongLongInt(10)),
                ("x-max-length-bytes", AMQPValue::LongLongInt(1000)),
            ]),
        )
        .await
        .unwrap();
    client
        .declare(
            &queue,
            true,
            false,
            table([
                ("x-dead-letter-exchange", text(&dlx)),
                ("x-max-length", AMQPValue::LongInt(5)),
                ("x-max-length-bytes", AMQPValue::LongInt(1000)),
                ("x-max-priority", AMQPValue::LongInt(255)),
                ("x-queue-type", text("classic")),
                ("x-single-active-consumer", AMQPValue::Boolean(true)),
            ]),
        )
        .await
        .unwrap();
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_queue_is_declared_as_one() {
    let topic = unique("quorum");
    let pubsub = shared([KEPT]).await;
    let recorder = Recorder::done();
    let source = subscribe(&pubsub, with(&topic, [("queueType", "quorum")]), &recorder).await;
    let client = Client::shared().await;
    let arguments = table([("x-queue-type", text("quorum"))]);
    client
        .declare(&format!("testkit-{topic}"), true, false, arguments)
        .await
        .unwrap();
    publish(&pubsub, &topic, &["1"]).await;
    assert_eq!(recorder.got(1).await[0].data, "1");
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_routing_key_is_bound_as_it_is_written() {
    let topic = unique("keys");
    let pubsub = shared([("exchangeKind", "topic")]).await;
    let recorder = Recorder::done();
    let request = with(&topic, [("routingKey", "a.*, b.#"), ("queueName", &topic)]);
    let source = subscribe(&pubsub, request, &recorder).await;
    let mut keys: Vec<_> = listed(
        &["list_bindings", "source_name", "routing_key"],
        "source_name",
        &topic,
    )
    .await
    .into_iter()
    .map(|row| row["routing_key"].as_str().unwrap().to_owned())
    .collect();
    keys.sort();
    assert_eq!(keys, [" b.#", "a.*"]);
    for key in ["b.x", "a.x"] {
        let mut routed = message(&topic, key);
        routed.metadata = Some(crate::support::pairs([("routingKey", key)]));
        pubsub.publish(routed).await.unwrap();
    }
    recorder.got(1).await;
    assert_eq!(recorder.texts(), ["a.x"], "a space belongs to the key");
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_names_the_argument_and_leaves_siblings_alone() {
    let (bad, good) = (unique("conflict"), unique("fine"));
    let client = Client::shared().await;
    let queue = format!("testkit-{bad}");
    client
        .declare(
            &queue,
            true,
            true,
            table([("x-max-length", AMQPValue::LongInt(3))]),
        )
        .await
        .unwrap();
    let pubsub = shared([]).await;
    let recorder = Recorder::done();
    let sibling = subscribe(&pubsub, to(&good), &recorder).await;
    let refused = pubsub
        .subscribe(to(&bad), Recorder::done())
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Failed);
    for word in ["PRECONDITION_FAILED", "x-max-length", &queue] {
        assert!(refused.message.contains(word), "{refused}");
    }
    pubsub.ping().await.unwrap();
    publish(&pubsub, &good, &["1"]).await;
    recorder.got(1).await;
    sibling.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_to_an_exchange_of_another_kind_fails_and_changes_nothing() {
    let topic = unique("direct");
    let client = Client::shared().await;
    client
        .exchange(&topic, ExchangeKind::Direct, true, false)
        .await
        .unwrap();
    let pubsub = shared([]).await;
    let refused = pubsub.publish(message(&topic, "1")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Failed);
    assert!(
        refused.message.contains("inequivalent arg 'type'"),
        "{refused}"
    );
    client
        .exchange(&topic, ExchangeKind::Direct, true, false)
        .await
        .unwrap();
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_subscriber_takes_an_auto_delete_queue_along() {
    let topic = unique("vanishing");
    let pubsub = shared([]).await;
    let source = subscribe(&pubsub, to(&topic), &Recorder::done()).await;
    let mut client = Client::shared().await;
    let queue = format!("testkit-{topic}");
    assert_eq!(client.look(&queue).await.unwrap(), (0, 1));
    source.close().await;
    assert!(client.look(&queue).await.unwrap_err().contains("NOT_FOUND"));
    pubsub.close().await;
}
