//! Policies of deliveries: what is tried again, what becomes a dead letter, what an open breaker holds back.
//!
//! Owns: rows 39 and 40 and the inbound half of row 42 of `resiliency.md` §16, its §10 and the delivery rows of its §5.2,
//! X12. On real Redis and RabbitMQ.
//! Start at any test; each is a story of its own. Every topic `t` has the dead letter topic `t-dead`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_e2e::{App, Component, GrpcApp, GrpcReply, Plan, Received, Reply, Sidecar, ms, s};
use outrigger_proto::Message as _;
use outrigger_proto::dapr::proto::runtime::v1::TopicEventResponse;
use outrigger_testkit::servers::{Rabbit, RabbitServer, Redis, RedisServer, Server as _};
use outrigger_testkit::wait;
use serde_json::{Value, json};

const ON_EVENT: &str = "/dapr.proto.runtime.v1.AppCallback/OnTopicEvent";

/// Topics of `bus`, each delivered to `/on/<topic>`.
fn topics(topics: &[&str]) -> Value {
    let entry = |topic: &&str| json!({"pubsubname": "bus", "topic": topic, "route": format!("/on/{topic}"), "deadLetterTopic": format!("{topic}-dead")});
    Value::Array(topics.iter().map(entry).collect())
}

/// An app that subscribes and answers deliveries as told: first, second, ...
async fn subscriber(
    list: Value,
    script: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
) -> App {
    App::counting(move |nth, asked| match asked.path.as_str() {
        "/dapr/subscribe" => Reply::json(&list),
        "/dapr/config" => Reply::status(404),
        _ => script(nth, asked),
    })
    .await
}

fn says(word: &str) -> Reply {
    Reply::json(&json!({"status": word}))
}

fn inbound(policies: &Value, slots: &Value) -> Value {
    json!({"policies": policies, "targets": {"components": {"bus": {"inbound": slots}}}})
}

async fn started(app: &App, bus: &Component, spec: &Value, topics: &[&str]) -> Sidecar {
    let sidecar = Plan::new("orders")
        .app(app.port())
        .with(bus)
        .policies(spec)
        .serving()
        .await;
    for topic in topics {
        sidecar.until_topic("bus", topic, "active", s(30)).await;
    }
    sidecar
}

/// How long a stream is.
async fn length(redis: &RedisServer, topic: &str) -> u64 {
    let answer = redis.command(&["XLEN", topic]).await.unwrap();
    answer.trim_start_matches(':').parse().unwrap()
}

/// How many messages of a topic were delivered and not acknowledged.
async fn pending(redis: &RedisServer, topic: &str) -> u64 {
    let answer = redis.command(&["XPENDING", topic, "orders"]).await.unwrap();
    let line = answer.lines().nth(1).unwrap_or_default().trim();
    line.trim_start_matches(':').parse().unwrap()
}

/// Row 39, first half.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_app_keeps_refusing_becomes_one_dead_letter() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = subscriber(topics(&["new"]), |_, _| says("RETRY")).await;
    let spec = inbound(
        &json!({"retries": {"r": {"duration": "10ms", "maxRetries": 4}}}),
        &json!({"retry": "r"}),
    );
    let bus = Component::redis_pubsub("bus", &redis.address());
    let sidecar = started(&app, &bus, &spec, &["new"]).await;
    sidecar.publish("bus", "new", "one").await.assert(204, "");
    wait::until("the dead letter", s(10), async || {
        length(&redis, "new-dead").await == 1
    })
    .await;
    wait::until("the acknowledgement", s(5), async || {
        pending(&redis, "new").await == 0
    })
    .await;
    assert_eq!(app.count("/on/new"), 5);
    sidecar.publish("bus", "new", "two").await.assert(204, "");
    wait::until("the dead letter", s(10), async || {
        length(&redis, "new-dead").await == 2
    })
    .await;
    assert_eq!(app.count("/on/new"), 10);
    let labels = [
        ("policy", "retry"),
        ("flow_direction", "inbound"),
        ("target", "Pubsub_bus"),
    ];
    sidecar
        .until_metric("dapr_resiliency_count", &labels, 2.0)
        .await;
    sidecar
        .until_metric("dapr_resiliency_activations_total", &labels, 2.0)
        .await;
    let line = "Error processing operation component[bus] input. Retrying in 10ms";
    sidecar.process.says(line, s(5)).await;
    let letter = redis
        .command(&["XRANGE", "new-dead", "-", "+"])
        .await
        .unwrap();
    assert!(
        letter.contains("\"one\"") && letter.contains("\"two\""),
        "{letter}"
    );
}

/// Row 39, second half, and every other answer that ends a delivery or does not (§5.2).
#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_an_http_app_is_taken_as_it_is_meant() {
    // Topic, deliveries, whether it becomes a dead letter.
    const TABLE: [(&str, usize, bool); 13] = [
        ("404", 1, true),
        ("DROP", 1, true),
        ("SUCCESS", 1, false),
        ("empty", 1, false),
        ("object", 1, false),
        ("text", 1, false),
        ("204", 1, false),
        ("RETRY", 3, true),
        ("lower", 3, true),
        ("unknown", 3, true),
        ("302", 3, true),
        ("500", 3, true),
        ("400", 1, true),
    ];
    let redis = RedisServer::launch(Redis::default()).await;
    let names = TABLE.map(|(name, ..)| name);
    let app = subscriber(topics(&names), |_, asked| {
        match asked.path.trim_start_matches("/on/") {
            "empty" => Reply::status(200),
            "object" => Reply::json(&json!({})),
            "text" => Reply::text("fine"),
            "lower" => says("retry"),
            "unknown" => says("PERHAPS"),
            word => match word.parse() {
                Ok(status) => Reply::status(status),
                Err(_) => says(word),
            },
        }
    })
    .await;
    let policies = json!({
        // 400 is not among them.
        "retries": {"r": {"duration": "10ms", "maxRetries": 2, "matching": {"httpStatusCodes": "300-399,500-599"}}},
        "circuitBreakers": {"b": {"trip": "totalFailures > 1000"}},
    });
    let slots = json!({"retry": "r", "circuitBreaker": "b"});
    let bus = Component::redis_pubsub("bus", &redis.address());
    let sidecar = started(&app, &bus, &inbound(&policies, &slots), &names).await;
    for (name, deliveries, dead) in TABLE {
        let before = sidecar.breaker("b-bus").await;
        sidecar.publish("bus", name, "x").await.assert(204, "");
        wait::until(format!("deliveries of {name}"), s(10), async || {
            app.count(&format!("/on/{name}")) == deliveries
        })
        .await;
        wait::until(
            format!("the acknowledgement of {name}"),
            s(10),
            async || pending(&redis, name).await == 0,
        )
        .await;
        assert_eq!(app.count(&format!("/on/{name}")), deliveries, "{name}");
        let letters = length(&redis, &format!("{name}-dead")).await;
        assert_eq!(letters, u64::from(dead), "dead letters of {name}");
        if matches!(name, "404" | "DROP") {
            let after = sidecar.breaker("b-bus").await;
            let successes = |seen: &Value| seen["counts"]["totalSuccesses"].as_u64().unwrap_or(0);
            assert_eq!(
                successes(&after),
                successes(&before) + 1,
                "{name} is a success: {after}"
            );
        }
    }
}

/// §5.2, gRPC apps.
#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_grpc_app_is_taken_as_it_is_meant() {
    const TABLE: [(&str, usize, bool); 6] = [
        ("success", 1, false),
        ("retry", 3, true),
        ("drop", 1, true),
        // Dapr: pkg/runtime/subscription/postman/grpc/grpc.go forgets it.
        ("unimplemented", 1, false),
        ("unavailable", 3, true),
        ("invalid", 1, true),
    ];
    let redis = RedisServer::launch(Redis::default()).await;
    let app = GrpcApp::start(|nth, called| {
        let answer = |status| GrpcReply::ok(TopicEventResponse { status }.encode_to_vec());
        if called.method != ON_EVENT {
            return GrpcReply::status(12, "no such method");
        }
        // They come one after the other: 1, 3, 1, 1, 3, 1.
        match nth {
            1 => answer(0),
            2..=4 => answer(1),
            5 => answer(2),
            6 => GrpcReply::status(12, "not here"),
            7..=9 => GrpcReply::status(14, "busy"),
            _ => GrpcReply::status(3, "bad"),
        }
    })
    .await;
    let retry = json!({"duration": "10ms", "maxRetries": 2, "matching": {"gRPCStatusCodes": "14"}});
    let spec = inbound(&json!({"retries": {"r": retry}}), &json!({"retry": "r"}));
    let mut plan = Plan::new("orders")
        .app(app.port())
        .flag("--app-protocol=grpc")
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .policies(&spec);
    for (name, ..) in TABLE {
        plan = plan.file(
            &format!("subscription-{name}.yaml"),
            format!("apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata:\n  name: {name}\nspec:\n  pubsubname: bus\n  topic: {name}\n  deadLetterTopic: {name}-dead\n  routes:\n    default: /on\n"),
        );
    }
    let sidecar = plan.serving().await;
    let mut expected = 0;
    for (name, deliveries, dead) in TABLE {
        sidecar.until_topic("bus", name, "active", s(15)).await;
        sidecar.publish("bus", name, "x").await.assert(204, "");
        expected += deliveries;
        wait::until(format!("deliveries of {name}"), s(10), async || {
            let seen = app.count(ON_EVENT);
            if seen == expected { Ok(()) } else { Err(seen) }
        })
        .await;
        wait::until(
            format!("the acknowledgement of {name}"),
            s(10),
            async || pending(&redis, name).await == 0,
        )
        .await;
        assert_eq!(app.count(ON_EVENT), expected, "{name}");
        let letters = length(&redis, &format!("{name}-dead")).await;
        assert_eq!(letters, u64::from(dead), "dead letters of {name}");
    }
}

/// An app that is ill until a test heals it.
async fn patient() -> (App, Arc<AtomicBool>) {
    let healed = Arc::new(AtomicBool::new(false));
    let own = Arc::clone(&healed);
    let app = subscriber(topics(&["new"]), move |_, _| {
        let healed = own.load(Ordering::SeqCst);
        Reply::status(if healed { 200 } else { 500 })
    });
    (app.await, healed)
}

/// Which of so many texts were delivered to a healed app is not told: how often each was.
fn times_of(app: &App, count: usize) -> Vec<usize> {
    let times = |nth: usize| app.deliveries("/on/new", &format!("m{nth}"));
    (0..count).map(times).collect()
}

fn breaker_spec(timeout: &str, extra: &Value) -> Value {
    let mut slots = json!({"retry": "r", "circuitBreaker": "b"});
    let more = extra.as_object().cloned().unwrap_or_default();
    slots.as_object_mut().unwrap().extend(more);
    let policies = json!({
        "retries": {"r": {"duration": "10ms", "maxRetries": -1}},
        "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 3", "timeout": timeout}},
    });
    inbound(&policies, &slots)
}

/// Row 40, on Redis.
#[tokio::test(flavor = "multi_thread")]
async fn redis_messages_wait_while_the_breaker_is_open_and_none_becomes_a_dead_letter() {
    let redis = RedisServer::launch(Redis::default()).await;
    let (app, healed) = patient().await;
    let bus = Component::redis_pubsub("bus", &redis.address());
    let sidecar = started(&app, &bus, &breaker_spec("1s", &json!({})), &["new"]).await;
    held_and_delivered(&sidecar, &app, &healed, async || {
        length(&redis, "new-dead").await
    })
    .await;
    wait::until("every acknowledgement", s(5), async || {
        pending(&redis, "new").await == 0
    })
    .await;
}

/// Row 40, on RabbitMQ.
#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_messages_wait_while_the_breaker_is_open_and_none_becomes_a_dead_letter() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    let (app, healed) = patient().await;
    let bus = Component::rabbit("bus", &rabbit.url());
    let sidecar = started(&app, &bus, &breaker_spec("1s", &json!({})), &["new"]).await;
    // A queue behind the topic of dead letters: Dapr's apps would subscribe to it.
    let letters = async || queued(&rabbit, "dead").await;
    held_and_delivered(&sidecar, &app, &healed, letters).await;
    wait::until("an empty queue", s(5), async || {
        queued(&rabbit, "new").await == 0
    })
    .await;
}

/// How many messages there are in queues whose names contain a word, delivered ones that are not acknowledged included.
async fn queued(rabbit: &RabbitServer, word: &str) -> u64 {
    let table = rabbit
        .control(&[
            "list_queues",
            "--quiet",
            "--no-table-headers",
            "name",
            "messages",
        ])
        .await;
    let of = table.lines().filter(|line| line.contains(word));
    of.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
        .sum()
}

async fn held_and_delivered(
    sidecar: &Sidecar,
    app: &App,
    healed: &AtomicBool,
    letters: impl AsyncFn() -> u64,
) {
    sidecar.publish("bus", "new", "m0").await.assert(204, "");
    sidecar.until_breaker("b-bus", "open", s(10)).await;
    let opened = app.count("/on/new");
    assert_eq!(opened, 3);
    for nth in 1..=10 {
        // The other direction has a breaker of its own.
        let answer = sidecar.publish("bus", "new", &format!("m{nth}")).await;
        answer.assert(204, "");
    }
    // Two rounds of one probe each, at most three.
    wait::never("a dead letter", ms(2_500), async || letters().await > 0).await;
    let probes = app.count("/on/new") - opened;
    assert!((1..=4).contains(&probes), "{probes} probes");
    healed.store(true, Ordering::SeqCst);
    wait::until("every message", s(15), async || {
        let times = times_of(app, 11);
        if times.iter().all(|times| *times >= 1) {
            Ok(())
        } else {
            Err(times)
        }
    })
    .await;
    sidecar.until_breaker("b-bus", "closed", s(5)).await;
    wait::until("the last deliveries", s(5), async || {
        sidecar.breaker("b-bus").await["counts"]["totalSuccesses"].as_u64() >= Some(10)
    })
    .await;
    assert_eq!(letters().await, 0);
    let healthy = app.count("/on/new") - opened - probes;
    assert!(
        healthy <= 12,
        "{healthy} deliveries of 11 messages after recovery"
    );
}

/// §10: the end of the sidecar releases what is held.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_held_back_when_the_sidecar_stops_are_still_there() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    let (app, healed) = patient().await;
    let bus = Component::rabbit("bus", &rabbit.url());
    let spec = breaker_spec("60s", &json!({}));
    let mut sidecar = started(&app, &bus, &spec, &["new"]).await;
    for nth in 0..5 {
        sidecar
            .publish("bus", "new", &format!("m{nth}"))
            .await
            .assert(204, "");
    }
    sidecar.until_breaker("b-bus", "open", s(10)).await;
    let (ended, took) = sidecar.stop(s(20)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(took < s(8), "{took:?}");
    assert_eq!(queued(&rabbit, "new").await, 5);
    assert_eq!(queued(&rabbit, "dead").await, 0);
    healed.store(true, Ordering::SeqCst);
    let before = app.count("/on/new");
    let _again = started(&app, &bus, &spec, &["new"]).await;
    wait::until("all five", s(10), async || {
        app.count("/on/new") == before + 5
    })
    .await;
    wait::until("an empty queue", s(5), async || {
        queued(&rabbit, "new").await == 0
    })
    .await;
}

/// §10: a retry that waits for its pause ends with the sidecar as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_waits_for_its_next_attempt_is_released_when_the_sidecar_stops() {
    let redis = RedisServer::launch(Redis::default()).await;
    let (app, _healed) = patient().await;
    let bus = Component::redis_pubsub("bus", &redis.address());
    let policies = json!({"retries": {"r": {"duration": "60s", "maxRetries": 5}}});
    let spec = inbound(&policies, &json!({"retry": "r"}));
    let mut sidecar = started(&app, &bus, &spec, &["new"]).await;
    sidecar.publish("bus", "new", "m0").await.assert(204, "");
    wait::until("the delivery", s(10), async || app.count("/on/new") == 1).await;
    let (ended, took) = sidecar.stop(s(20)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(took < s(8), "{took:?}");
    assert_eq!(app.count("/on/new"), 1);
    assert_eq!(length(&redis, "new-dead").await, 0);
    assert_eq!(pending(&redis, "new").await, 1);
}

/// §10: a dead letter that cannot be published is no reason to lose the message.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_kept_until_its_dead_letter_is_published() {
    let redis = RedisServer::launch(Redis::default()).await;
    redis
        .command(&["RPUSH", "new-dead", "no stream"])
        .await
        .unwrap();
    let (app, _healed) = patient().await;
    let bus = Component::redis_pubsub("bus", &redis.address())
        .set("processingTimeout", "1s")
        .set("redeliverInterval", "500ms");
    let policies = json!({"retries": {"r": {"duration": "10ms", "maxRetries": 1}}});
    let spec = inbound(&policies, &json!({"retry": "r"}));
    let sidecar = started(&app, &bus, &spec, &["new"]).await;
    sidecar.publish("bus", "new", "m0").await.assert(204, "");
    wait::until("a second round", s(10), async || app.count("/on/new") >= 4).await;
    assert_eq!(pending(&redis, "new").await, 1);
    redis.command(&["DEL", "new-dead"]).await.unwrap();
    wait::until("the dead letter", s(10), async || {
        length(&redis, "new-dead").await == 1
    })
    .await;
    wait::until("the acknowledgement", s(5), async || {
        pending(&redis, "new").await == 0
    })
    .await;
    drop(sidecar);
}

/// X12, as in Dapr.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_makes_dead_letters_where_that_is_wanted() {
    let redis = RedisServer::launch(Redis::default()).await;
    let (app, healed) = patient().await;
    let bus = Component::redis_pubsub("bus", &redis.address());
    let spec = breaker_spec("60s", &json!({"onOpen": "deadLetter"}));
    let sidecar = started(&app, &bus, &spec, &["new"]).await;
    sidecar.publish("bus", "new", "m0").await.assert(204, "");
    wait::until("the first dead letter", s(10), async || {
        length(&redis, "new-dead").await == 1
    })
    .await;
    healed.store(true, Ordering::SeqCst);
    for nth in 1..=3 {
        sidecar
            .publish("bus", "new", &format!("m{nth}"))
            .await
            .assert(204, "");
    }
    wait::until("the other dead letters", s(10), async || {
        length(&redis, "new-dead").await == 4
    })
    .await;
    assert_eq!(app.count("/on/new"), 3);
    wait::until("every acknowledgement", s(5), async || {
        pending(&redis, "new").await == 0
    })
    .await;
}

/// X12, back to the broker.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_gives_messages_back_where_that_is_wanted() {
    let redis = RedisServer::launch(Redis::default()).await;
    let (app, healed) = patient().await;
    let bus = Component::redis_pubsub("bus", &redis.address())
        .set("processingTimeout", "1s")
        .set("redeliverInterval", "500ms");
    let spec = breaker_spec("2s", &json!({"onOpen": "nack"}));
    let sidecar = started(&app, &bus, &spec, &["new"]).await;
    sidecar.publish("bus", "new", "m0").await.assert(204, "");
    sidecar.until_breaker("b-bus", "open", s(10)).await;
    for nth in 1..=3 {
        sidecar
            .publish("bus", "new", &format!("m{nth}"))
            .await
            .assert(204, "");
    }
    let rejections = [("target", "Pubsub_bus")];
    wait::until("rejections", s(5), async || {
        sidecar
            .metric("outrigger_resiliency_rejections_total", &rejections)
            .await
            >= 4.0
    })
    .await;
    assert_eq!(app.count("/on/new"), 3);
    healed.store(true, Ordering::SeqCst);
    wait::until("every message", s(20), async || {
        let times = times_of(&app, 4);
        if times.iter().all(|times| *times >= 1) {
            Ok(())
        } else {
            Err(times)
        }
    })
    .await;
    assert_eq!(length(&redis, "new-dead").await, 0);
    wait::until("every acknowledgement", s(10), async || {
        pending(&redis, "new").await == 0
    })
    .await;
}

/// Row 42, inbound: an entry without this direction has no policy for it, and defaults do not help out.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_for_the_other_direction_leaves_deliveries_without_policies() {
    let redis = RedisServer::launch(Redis::default()).await;
    let (app, _healed) = patient().await;
    let bus = Component::redis_pubsub("bus", &redis.address());
    let spec = json!({
        "policies": {"retries": {"DefaultRetryPolicy": {"duration": "10ms", "maxRetries": 3}}},
        "targets": {"components": {"bus": {"outbound": {"retry": "DefaultRetryPolicy"}}}},
    });
    let sidecar = started(&app, &bus, &spec, &["new"]).await;
    sidecar.publish("bus", "new", "m0").await.assert(204, "");
    wait::until("the dead letter", s(10), async || {
        length(&redis, "new-dead").await == 1
    })
    .await;
    assert_eq!(app.count("/on/new"), 1);
}

/// §4, inbound.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_takes_too_long_is_cut_and_tried_again() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = subscriber(topics(&["new"]), |nth, _| match nth {
        1 => Reply::status(200).after(s(20)),
        _ => Reply::status(200),
    })
    .await;
    let policies = json!({"timeouts": {"t": "300ms"}, "retries": {"r": {"duration": "10ms", "maxRetries": 1}}});
    let spec = inbound(&policies, &json!({"timeout": "t", "retry": "r"}));
    let bus = Component::redis_pubsub("bus", &redis.address());
    let sidecar = started(&app, &bus, &spec, &["new"]).await;
    sidecar.publish("bus", "new", "m0").await.assert(204, "");
    wait::until("the second attempt", s(10), async || {
        app.count("/on/new") == 2
    })
    .await;
    wait::until("the acknowledgement", s(5), async || {
        pending(&redis, "new").await == 0
    })
    .await;
    assert_eq!(length(&redis, "new-dead").await, 0);
    let labels = [("policy", "timeout"), ("flow_direction", "inbound")];
    sidecar
        .until_metric("dapr_resiliency_activations_total", &labels, 1.0)
        .await;
}

/// §5.5, bulk subscriptions.
#[tokio::test(flavor = "multi_thread")]
async fn only_entries_that_failed_are_delivered_again() {
    let redis = RedisServer::launch(Redis::default()).await;
    let list = json!([{
        "pubsubname": "bus", "topic": "new", "route": "/on/new", "deadLetterTopic": "new-dead",
        "bulkSubscribe": {"enabled": true, "maxMessagesCount": 2, "maxAwaitDurationMs": 5000},
    }]);
    let app = subscriber(list, |nth, asked| {
        let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let entries = body["entries"].as_array().cloned().unwrap_or_default();
        let status = |entry: &Value| {
            let is_second = entry["event"]["data"] == "two";
            let word = if is_second && nth < 3 {
                "RETRY"
            } else {
                "SUCCESS"
            };
            json!({"entryId": entry["entryId"], "status": word})
        };
        Reply::json(&json!({"statuses": entries.iter().map(status).collect::<Vec<_>>()}))
    })
    .await;
    let policies = json!({"retries": {"r": {"duration": "10ms", "maxRetries": 3}}});
    let spec = inbound(&policies, &json!({"retry": "r"}));
    let bus = Component::redis_pubsub("bus", &redis.address());
    let sidecar = started(&app, &bus, &spec, &["new"]).await;
    let entries = json!([
        {"entryId": "1", "event": "one", "contentType": "text/plain"},
        {"entryId": "2", "event": "two", "contentType": "text/plain"},
    ]);
    let published = sidecar
        .post("/v1.0/publish/bulk/bus/new", entries.to_string())
        .await;
    published.assert(204, "");
    wait::until("three deliveries", s(15), async || {
        app.count("/on/new") == 3
    })
    .await;
    wait::until("the acknowledgement", s(5), async || {
        pending(&redis, "new").await == 0
    })
    .await;
    let data_of = |asked: &Received| -> Vec<Value> {
        let body: Value = serde_json::from_slice(&asked.body).unwrap();
        let entries = body["entries"].as_array().unwrap();
        let data = entries.iter().map(|entry| entry["event"]["data"].clone());
        data.collect()
    };
    let delivered = |asked: &&Received| asked.path == "/on/new";
    let contents: Vec<Vec<Value>> = app
        .received()
        .iter()
        .filter(delivered)
        .map(data_of)
        .collect();
    assert_eq!(
        contents,
        [
            vec![json!("one"), json!("two")],
            vec![json!("two")],
            vec![json!("two")]
        ]
    );
    assert_eq!(length(&redis, "new-dead").await, 0);
}
