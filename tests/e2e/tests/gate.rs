//! The gate in front of the app: when it opens, when it shuts, and what becomes of messages meanwhile.
//!
//! Owns: A25, A27 to A30 of `lifecycle.md` §9, its §5, and of its §1.3 what differs from daprd: probes that count, messages
//! of an unhealthy time.
//! Start at any test; each is a story of its own. The machine behind it is in `crates/lifecycle/src/gate.rs`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outrigger_e2e::app::subscriptions;
use outrigger_e2e::component::subscription;
use outrigger_e2e::{
    App, Bus, Component, GrpcApp, GrpcReply, Plan, Received, Reply, Sidecar, figure, ms, s,
};
use outrigger_proto::Message as _;
use outrigger_proto::dapr::proto::runtime::v1::{
    ListTopicSubscriptionsResponse, TopicEventResponse, TopicSubscription,
};
use outrigger_proto::grpc::health::v1::HealthCheckResponse;
use outrigger_testkit::proxy::Proxy;
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::{ports, wait};
use serde_json::{Value, json};

/// Topics of `bus`, each with a dead letter topic that is subscribed to as well.
fn with_letters(topics: &[&str]) -> Value {
    let entry = |topic: &&str| json!({"pubsubname": "bus", "topic": topic, "route": format!("/on/{topic}"), "deadLetterTopic": format!("{topic}-dead")});
    let letters = topics.iter().map(|topic| json!({"pubsubname": "bus", "topic": format!("{topic}-dead"), "route": format!("/on/{topic}-dead")}));
    Value::Array(topics.iter().map(entry).chain(letters).collect())
}

/// What an app answers that subscribes to this, and for the rest does as told.
fn subscribing(
    list: Value,
    script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
    move |asked| match asked.path.as_str() {
        "/dapr/subscribe" => Reply::json(&list),
        "/dapr/config" => Reply::status(404),
        _ => script(asked),
    }
}

/// Waits for a state of the gate.
async fn until_gate(sidecar: &Sidecar, what: impl Fn(&str) -> bool, limit: Duration) -> Instant {
    wait::until("the gate", limit, async || {
        let gate = sidecar.gate().await;
        if what(&gate) {
            Ok(Instant::now())
        } else {
            Err(gate)
        }
    })
    .await
}

/// How often each text was delivered to a path.
fn deliveries<'a>(
    received: impl IntoIterator<Item = &'a Received>,
    path: &str,
) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for asked in received.into_iter().filter(|asked| asked.path == path) {
        let text = asked.data().as_str().unwrap_or_default().to_owned();
        *times.entry(text).or_default() += 1;
    }
    times
}

async fn publish(sidecar: &Sidecar, topic: &str, count: usize) {
    for nth in 0..count {
        let answer = sidecar.publish("bus", topic, &format!("m{nth}")).await;
        answer.assert(204, "");
    }
}

/// A25.
#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_store_is_not_connected_to_before_its_first_call_and_is_tried_from_then_on() {
    let redis = RedisServer::launch(Redis::default()).await;
    // It accepts and stays silent, so that nobody can try it unseen.
    let proxy = Proxy::to(redis.address()).await;
    proxy.hang();
    let yaml = Component::redis_state("store", &proxy.address()).yaml();
    let named = "name: store\n";
    let lazy = yaml.replace(
        named,
        &format!("{named}  annotations: {{outrigger.dev/init: lazy}}\n"),
    );
    let sidecar = Plan::new("orders")
        .file("store.yaml", lazy)
        .with(&Component::new("memory", "state.in-memory"))
        .serving()
        .await;
    let served = sidecar.since_start();
    assert!(
        served <= s(2),
        "nothing is waited for, but served after {served:?}"
    );
    wait::never("a connection", s(2), async || proxy.connections() > 0).await;
    let seen = sidecar.component("store").await;
    assert_eq!(
        (&seen["state"], &seen["attempt"]),
        (&json!("pending"), &json!(0)),
        "{seen}"
    );
    let health = sidecar
        .get("/v1.0/healthz?components=true&verbose=true")
        .await;
    let items = health.json()["componentsHealth"].clone();
    let item = |name: &str| {
        let mut items = items.as_array().unwrap().iter();
        items.find(|item| item["componentName"] == name).cloned()
    };
    let store = item("store").unwrap();
    assert_eq!(
        (&store["status"], &store["errorCode"]),
        (&json!("UNDEFINED"), &json!("ERR_COMPONENT_NOT_INITIALIZED")),
        "{store}"
    );

    let began = Instant::now();
    let answer = sidecar.get("/v1.0/state/store/key").await;
    answer.assert(503, "ERR_COMPONENT_NOT_READY");
    let refused = began.elapsed();
    assert!(refused <= ms(2_200), "{refused:?}");
    assert!(proxy.connections() == 1, "the call asked for a connection");
    // Down in the other way.
    proxy.cut().await;
    sidecar.until("store", "unavailable", s(5)).await;
    proxy.pass().await;
    let up = Instant::now();
    sidecar.until("store", "ready", s(12)).await;
    sidecar.assert_state_works("store").await;
    figure(
        "A25",
        format!(
            "no socket before the first call, 503 after {refused:?}, works {:?} after Redis",
            up.elapsed()
        ),
    );
}

/// §8: keys of log lines.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_gate_and_component_is_a_line_that_tells_what_was_before() {
    let port = ports::free();
    let nowhere = format!("127.0.0.1:{}", ports::free());
    let sidecar = Plan::new("orders")
        .app(port)
        .flag("--log-as-json")
        .flag("--enable-app-health-check")
        .flag("--app-health-probe-interval=1")
        .flag("--app-health-threshold=1")
        .with(&Component::new("memory", "state.in-memory"))
        .with(&Component::redis_state("away", &nowhere))
        .with(&Component::new("typo", "state.redsi"))
        .serving()
        .await;
    sidecar.until("away", "unavailable", s(5)).await;
    let well = Arc::new(AtomicBool::new(true));
    let own = Arc::clone(&well);
    let answers =
        move |_: &Received| Reply::status(if own.load(Ordering::SeqCst) { 200 } else { 500 });
    let _app = App::start_on(port, subscribing(json!([]), answers)).await;
    until_gate(&sidecar, |gate| gate == "open", s(10)).await;
    well.store(false, Ordering::SeqCst);
    until_gate(&sidecar, |gate| gate == "closed", s(10)).await;
    // A line takes its way through a pipe.
    sidecar.process.says(r#""to":"closed""#, s(5)).await;
    let output = sidecar.process.output();
    let lines: Vec<Value> = output
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let told = |event: &str, component: Value| -> Vec<[String; 2]> {
        let own = lines.iter().filter(|line| {
            line["event"] == event && line["component"] == component && !line["to"].is_null()
        });
        own.map(|line| ["from", "to"].map(|key| line[key].as_str().unwrap_or("none").to_owned()))
            .collect()
    };
    let gate: Vec<String> = told("gate", Value::Null)
        .iter()
        .map(|ends| ends.join(" "))
        .collect();
    let expected = [
        "wait_port wait_health",
        "wait_health discover",
        "discover open",
        "open closed",
    ];
    assert_eq!(gate, expected);
    for (component, expected) in [
        ("memory", ["connecting", "ready"]),
        ("away", ["connecting", "unavailable"]),
        ("typo", ["pending", "rejected"]),
    ] {
        assert_eq!(told("component_state", json!(component)), [expected]);
    }
}

/// A27, HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn an_http_app_gets_only_readiness_questions_before_it_is_ready() {
    let redis = RedisServer::launch(Redis::default()).await;
    let port = ports::free();
    let sidecar = Plan::new("orders")
        .app(port)
        .flag("--app-ready-path=/ready")
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .serving()
        .await;
    // The group begins with the oldest message.
    publish(&sidecar, "new", 3).await;
    wait::never("an open gate", s(1), async || {
        sidecar.gate().await != "wait_port"
    })
    .await;

    let ready = Arc::new(AtomicBool::new(false));
    let own = Arc::clone(&ready);
    let list = subscriptions(&[("bus", "new")]);
    let script = subscribing(list, |_| Reply::status(200));
    let app = App::start_on(port, move |asked| match asked.path.as_str() {
        "/ready" if !own.load(Ordering::SeqCst) => Reply::status(503),
        _ => script(asked),
    })
    .await;
    wait::until("questions", s(8), async || app.count("/ready") >= 4).await;
    let answer = sidecar.get("/v1.0/invoke/orders/method/early").await;
    answer.assert(503, "ERR_APP_NOT_READY");
    assert_eq!(answer.header("retry-after"), Some("1"));
    sidecar
        .get("/v1.0/healthz")
        .await
        .assert(500, "ERR_HEALTH_NOT_READY");
    sidecar.get("/v1.0/healthz/outbound").await.assert(204, "");
    ready.store(true, Ordering::SeqCst);
    let since = Instant::now();
    let first = wait::until("the first delivery", s(2), async || app.delivered("m0")).await;
    wait::until("all of them", s(5), async || app.count("/on/new") == 3).await;
    let early: Vec<String> = app
        .received()
        .iter()
        .filter(|asked| asked.at < since && asked.path != "/ready")
        .map(|asked| asked.path.clone())
        .collect();
    assert!(early.is_empty(), "before it was ready: {early:?}");
    let asked = app.times("/ready");
    let pauses = asked.windows(2).map(|pair| pair[1] - pair[0]);
    let shortest = pauses.min().unwrap();
    assert!(shortest >= ms(900), "asked each second: {shortest:?}");
    let open = app.count("/ready");
    wait::never(
        "a question to an app that is ready",
        ms(1_500),
        async || app.count("/ready") > open,
    )
    .await;
    figure(
        "A27-http",
        format!(
            "{} readiness questions and nothing else, first delivery {:?} after it was ready",
            asked.len(),
            first - since
        ),
    );
}

const CHECK: &str = "/grpc.health.v1.Health/Check";
const LIST: &str = "/dapr.proto.runtime.v1.AppCallback/ListTopicSubscriptions";
const ON_EVENT: &str = "/dapr.proto.runtime.v1.AppCallback/OnTopicEvent";

/// A27, gRPC.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_app_gets_only_readiness_questions_before_it_is_serving() {
    let redis = RedisServer::launch(Redis::default()).await;
    let port = ports::free();
    let sidecar = Plan::new("orders")
        .app(port)
        .flag("--app-protocol=grpc")
        .flag("--app-ready-grpc-service=orders.v1")
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .serving()
        .await;
    publish(&sidecar, "new", 1).await;
    let ready = Arc::new(AtomicBool::new(false));
    let own = Arc::clone(&ready);
    let app = GrpcApp::start_on(port, move |_, called| match called.method.as_str() {
        CHECK => {
            let status = if own.load(Ordering::SeqCst) { 1 } else { 2 };
            GrpcReply::ok(HealthCheckResponse { status }.encode_to_vec())
        }
        LIST => {
            let subscription = TopicSubscription {
                pubsub_name: "bus".to_owned(),
                topic: "new".to_owned(),
                ..TopicSubscription::default()
            };
            let list = ListTopicSubscriptionsResponse {
                subscriptions: vec![subscription],
            };
            GrpcReply::ok(list.encode_to_vec())
        }
        ON_EVENT => GrpcReply::ok(TopicEventResponse { status: 0 }.encode_to_vec()),
        _ => GrpcReply::status(12, "unknown method"),
    })
    .await;
    wait::until("questions", s(8), async || app.count(CHECK) >= 4).await;
    let before = app.methods();
    assert!(
        before.iter().all(|method| method == CHECK),
        "before it was serving: {before:?}"
    );
    let question = app.calls(CHECK).remove(0);
    let message = question.messages.first().cloned().unwrap_or_default();
    let asked = outrigger_proto::grpc::health::v1::HealthCheckRequest::decode(message).unwrap();
    assert_eq!(asked.service, "orders.v1");
    ready.store(true, Ordering::SeqCst);
    let since = Instant::now();
    wait::until("the first delivery", s(2), async || {
        app.count(ON_EVENT) == 1
    })
    .await;
    let after = app.methods().split_off(before.len());
    let first_other = after.iter().find(|method| *method != CHECK).unwrap();
    assert!(first_other != ON_EVENT, "{after:?}");
    figure(
        "A27-grpc",
        format!(
            "{} readiness questions and nothing else, first delivery {:?} after it was serving",
            before.len(),
            since.elapsed()
        ),
    );
}

/// A28.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_cannot_tell_its_topics_yet_is_asked_again_and_can_be_called_meanwhile() {
    let redis = RedisServer::launch(Redis::default()).await;
    let list = subscriptions(&[("bus", "new")]);
    let app = App::counting(move |nth, asked| match asked.path.as_str() {
        "/dapr/subscribe" if nth <= 4 => Reply::status(503),
        "/dapr/subscribe" => Reply::json(&list),
        "/dapr/config" => Reply::status(404),
        _ => Reply::status(200),
    })
    .await;
    let sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .serving()
        .await;
    wait::until("two refusals", s(10), async || {
        app.count("/dapr/subscribe") >= 2
    })
    .await;
    let asked = app.count("/dapr/subscribe");
    let answer = sidecar.get("/v1.0/invoke/orders/method/work").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(asked < 5, "meanwhile");
    wait::until("the fifth question", s(25), async || {
        app.count("/dapr/subscribe") >= 5
    })
    .await;
    let told = app.times("/dapr/subscribe")[4];
    sidecar.until_topic("bus", "new", "active", s(10)).await;
    let applied = told.elapsed();
    publish(&sidecar, "new", 1).await;
    wait::until("the delivery", s(5), async || app.delivered("m0")).await;
    wait::never("one more question", s(1), async || {
        app.count("/dapr/subscribe") > 5
    })
    .await;
    figure(
        "A28",
        format!("asked five times, topic active {applied:?} after the first list"),
    );
}

/// §5.2: an app that never answers the questions gets its declared work all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_leaves_questions_open_gets_its_work_after_ten_seconds() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = App::start(|asked| match asked.path.as_str() {
        "/dapr/subscribe" | "/dapr/config" => Reply::status(200).after(s(60)),
        _ => Reply::status(200),
    })
    .await;
    let sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .file("declared.yaml", subscription("bus", "declared"))
        .serving()
        .await;
    let answer = sidecar.publish("bus", "declared", "m0").await;
    answer.assert(204, "");
    wait::until("the delivery", s(15), async || app.delivered("m0")).await;
    let took = sidecar.since_start();
    assert!(took >= s(10) && took <= s(12), "{took:?}");
    sidecar.get("/v1.0/healthz").await.assert(204, "");
}

/// §5.2, §7.2: what an app that takes its time for its list may still subscribe to is not unknown.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_unknown_only_after_the_app_has_told_its_list_which_alone_is_asked_for_again() {
    let redis = RedisServer::launch(Redis::default()).await;
    let tells = Arc::new(AtomicBool::new(false));
    let own = Arc::clone(&tells);
    let list = subscriptions(&[("bus", "new")]);
    let app = App::start(move |asked| match asked.path.as_str() {
        "/dapr/subscribe" if !own.load(Ordering::SeqCst) => Reply::status(503),
        "/dapr/subscribe" => Reply::json(&list),
        _ => Reply::status(200),
    })
    .await;
    let sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .serving()
        .await;
    let target = |topic: &str| format!("/v1.0/healthz?for=subscription:bus/{topic}");
    let waits = async || {
        let answer = sidecar.get(&target("new")).await;
        answer.assert(500, "ERR_HEALTH_NOT_READY");
    };
    waits().await;
    until_gate(&sidecar, |gate| gate == "open", s(15)).await;
    waits().await;
    // One more question behind the open gate.
    let asked = app.count("/dapr/subscribe");
    wait::until("another question", s(15), async || {
        app.count("/dapr/subscribe") > asked
    })
    .await;
    waits().await;
    assert!(asked <= 8, "four at once, then slower and slower: {asked}");
    assert_eq!(app.count("/dapr/config"), 1, "it was answered");
    let output = sidecar.process.output();
    let told = output.matches("did not tell its subscriptions").count();
    assert_eq!(told, 1, "{output}");
    tells.store(true, Ordering::SeqCst);
    sidecar.until_status(&target("new"), 204, s(20)).await;
    let unknown = sidecar.get(&target("other")).await;
    unknown.assert(400, "ERR_HEALTH_TARGET_UNKNOWN");
}

/// §5.1: an app that never says that it is ready is told of.
#[tokio::test(flavor = "multi_thread")]
async fn why_an_app_is_not_ready_is_told_every_ten_seconds() {
    let http = App::answering(&[401]).await;
    let waiting = Plan::new("orders")
        .app(http.port())
        .flag("--app-ready-path=/nope")
        .serving()
        .await;
    let grpc =
        GrpcApp::start(|_, _| GrpcReply::ok(HealthCheckResponse { status: 2 }.encode_to_vec()))
            .await;
    let other = Plan::new("others")
        .app(grpc.port())
        .flag("--app-protocol=grpc")
        .flag("--app-ready-grpc-service=orders.v1")
        .serving()
        .await;
    let line = "waiting for application to be ready";
    let told = waiting.process.says(line, s(15)).await;
    assert!(told.contains("/nope") && told.contains("401"), "{told}");
    let told = other.process.says(line, s(15)).await;
    assert!(
        told.contains("orders.v1") && told.contains("NOT_SERVING"),
        "{told}"
    );
    let asked = http.count("/nope");
    wait::until("three questions more", s(8), async || {
        http.count("/nope") >= asked + 3
    })
    .await;
    assert_eq!(waiting.process.output().matches(line).count(), 1);
}

/// §5.2: an app that comes back with another list.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_comes_back_is_asked_again_and_only_differences_are_applied() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = App::subscribed(&[("bus", "old"), ("bus", "kept")]).await;
    let port = app.port();
    let sidecar = Plan::new("orders")
        .app(port)
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .serving()
        .await;
    for topic in ["old", "kept"] {
        sidecar.until_topic("bus", topic, "active", s(10)).await;
    }
    app.kill().await;
    // Nothing else tells that it has gone.
    publish(&sidecar, "kept", 1).await;
    until_gate(&sidecar, |gate| gate != "open", s(5)).await;
    let app = App::start_on(
        port,
        subscribing(subscriptions(&[("bus", "kept"), ("bus", "added")]), |_| {
            Reply::status(200)
        }),
    )
    .await;
    sidecar.until_topic("bus", "added", "active", s(10)).await;
    assert_eq!(sidecar.subscription("bus", "old").await, Value::Null);
    wait::until("what waited", s(5), async || {
        app.deliveries("/on/kept", "m0") == 1
    })
    .await;
}

/// A29.
#[tokio::test(flavor = "multi_thread")]
async fn only_failed_probes_in_a_row_close_the_gate() {
    let redis = RedisServer::launch(Redis::default()).await;
    let ill = Arc::new(AtomicBool::new(false));
    let own = Arc::clone(&ill);
    let list = subscriptions(&[("bus", "new")]);
    let app = App::counting(move |nth, asked| match asked.path.as_str() {
        "/dapr/subscribe" => Reply::json(&list),
        "/dapr/config" => Reply::status(404),
        "/healthz" if own.load(Ordering::SeqCst) => Reply::status(500),
        "/healthz" if nth % 3 != 1 => Reply::status(500),
        _ => Reply::status(200),
    })
    .await;
    let sidecar = Plan::new("orders")
        .app(app.port())
        .flag("--enable-app-health-check")
        .flag("--app-health-probe-interval=1")
        .flag("--app-health-threshold=3")
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .serving()
        .await;
    sidecar.until_topic("bus", "new", "active", s(10)).await;
    // Ten failures, never three in a row.
    let probes = app.count("/healthz") + 16;
    wait::until("many probes", s(40), async || {
        let gate = sidecar.gate().await;
        assert_eq!(gate, "open", "after {} probes", app.count("/healthz"));
        app.count("/healthz") >= probes
    })
    .await;
    let output = sidecar.process.output();
    assert!(!output.contains("the application is away"), "{output}");
    sidecar.get("/v1.0/healthz").await.assert(204, "");
    // The same app, really ill.
    ill.store(true, Ordering::SeqCst);
    until_gate(&sidecar, |gate| gate == "closed", s(10)).await;
    let answer = sidecar.get("/v1.0/invoke/orders/method/work").await;
    answer.assert(500, "ERR_DIRECT_INVOKE");
    figure(
        "A29",
        format!("open through {probes} probes of which two of three failed"),
    );
}

/// §1.3: what counts as a good probe; §3.2: what is told before the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_late_or_redirected_is_no_good_one() {
    let redis = RedisServer::launch(Redis::default()).await;
    let (slow, elsewhere) = (
        Reply::status(200).after(ms(1_000)),
        Reply::status(302).header("location", "/fine"),
    );
    for bad in [slow, elsewhere] {
        let well = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&well);
        let script = subscribing(subscriptions(&[("bus", "new")]), |_| Reply::status(200));
        let app = App::start(move |asked| match asked.path.as_str() {
            "/healthz" if !own.load(Ordering::SeqCst) => bad.clone(),
            _ => script(asked),
        })
        .await;
        let sidecar = Plan::new("orders")
            .app(app.port())
            .flag("--enable-app-health-check")
            .flag("--app-health-probe-interval=1")
            .with(&Component::redis_pubsub("bus", &redis.address()))
            .serving()
            .await;
        wait::until("probes", s(10), async || app.count("/healthz") >= 3).await;
        sidecar
            .get("/v1.0/healthz")
            .await
            .assert(500, "ERR_HEALTH_NOT_READY");
        let answer = sidecar.get("/v1.0/invoke/orders/method/early").await;
        answer.assert(503, "ERR_APP_NOT_READY");
        assert_eq!(app.count("/dapr/subscribe") + app.count("/early"), 0);
        well.store(true, Ordering::SeqCst);
        sidecar.until_status("/v1.0/healthz", 204, s(15)).await;
    }
}

/// A30, on RabbitMQ.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_killed_loses_nothing_on_rabbitmq_and_makes_no_dead_letter() {
    killed_and_back(&Bus::rabbit().await).await;
}

/// A30, on Redis.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_killed_loses_nothing_on_redis_and_makes_no_dead_letter() {
    killed_and_back(&Bus::redis().await).await;
}

async fn killed_and_back(bus: &Bus) {
    const QUEUED: usize = 100;
    const IN_FLIGHT: usize = 5;
    let (port, list) = (ports::free(), with_letters(&["new"]));
    let slow = subscribing(list.clone(), |_| Reply::status(200).after(s(60)));
    let app = App::start_on(port, slow).await;
    let mut sidecar = Plan::new("orders")
        .app(port)
        .with(&bus.handing_out(IN_FLIGHT))
        .serving()
        .await;
    for topic in ["new", "new-dead"] {
        sidecar.until_topic("bus", topic, "active", s(15)).await;
    }
    publish(&sidecar, "new", QUEUED + IN_FLIGHT).await;
    wait::until("work in hand", s(5), async || {
        app.count("/on/new") == IN_FLIGHT
    })
    .await;
    let killed = Instant::now();
    let before = app.kill().await;
    let closed = until_gate(&sidecar, |gate| gate != "open", s(5)).await - killed;
    sidecar.until_topic("bus", "new", "idle", s(5)).await;
    sidecar.get("/v1.0/healthz").await.assert(204, "");
    sidecar.get("/v1.0/healthz/outbound").await.assert(204, "");
    // As long as a restart takes.
    wait::never("an open gate", s(5), async || {
        sidecar.gate().await == "open" || !sidecar.process.is_alive()
    })
    .await;

    let fast = subscribing(list, |_| Reply::status(200));
    let app = App::start_on(port, fast).await;
    let back = Instant::now();
    wait::until("every message", s(20), async || {
        let times = deliveries(app.received().iter(), "/on/new");
        if times.len() == QUEUED + IN_FLIGHT {
            Ok(())
        } else {
            Err(times.len())
        }
    })
    .await;
    let all = back.elapsed();
    wait::until("every acknowledgement", s(10), async || {
        let left = bus.left("new").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let times = deliveries(app.received().iter().chain(&before), "/on/new");
    let deliveries: usize = times.values().sum();
    figure(
        &format!("A30-{}", bus.name()),
        format!(
            "gate closed {closed:?} after the kill; {deliveries} deliveries of {} messages, the last {all:?} after the return",
            times.len()
        ),
    );
    assert_eq!(
        deliveries,
        QUEUED + 2 * IN_FLIGHT,
        "only what was in flight is delivered twice: {times:?}"
    );
    assert_eq!(app.count("/on/new-dead"), 0);
    assert_eq!(bus.letters("new-dead").await, 0);
    assert!(closed <= ms(300), "{closed:?}");
    sidecar.process.assert_alive();
}

/// §5.1: the port tells, not the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_while_the_port_is_open_is_a_failed_delivery_and_closes_no_gate() {
    let redis = RedisServer::launch(Redis::default()).await;
    let script = |asked: &Received| match asked.path.as_str() {
        "/on/new" => Reply::closing(),
        _ => Reply::status(200),
    };
    let app = App::start(subscribing(with_letters(&["new"]), script)).await;
    let sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .serving()
        .await;
    for topic in ["new", "new-dead"] {
        sidecar.until_topic("bus", topic, "active", s(10)).await;
    }
    publish(&sidecar, "new", 10).await;
    wait::until("every dead letter", s(10), async || {
        app.count("/on/new-dead") == 10
    })
    .await;
    // A connection that had served before may have been closed for its age: such a message goes out once more.
    let attempts = app.count("/on/new");
    assert!((10..=20).contains(&attempts), "{attempts}");
    assert_eq!(app.count("/on/new-dead"), 10);
    assert_eq!(app.count("/dapr/subscribe"), 1, "the gate was never shut");
    let output = sidecar.process.output();
    assert!(!output.contains("the application is away"), "{output}");
}

/// §5.1: what was released goes back even if the gate was shut for a moment only.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_an_app_that_is_away_for_a_moment_are_delivered_again() {
    // A broker that never asks for what it has sent.
    let bus = Bus::rabbit().await;
    let app = App::start(|_| Reply::status(200).after(ms(100))).await;
    let door = Proxy::to(format!("127.0.0.1:{}", app.port())).await;
    let sidecar = Plan::new("orders")
        .app(door.port())
        // Nothing is asked, so that the gate is shut for as short as can be.
        .flag("--disable-init-endpoints=config,subscribe")
        .file("subscription.yaml", subscription("bus", "new"))
        .with(&bus.handing_out(5))
        .serving()
        .await;
    sidecar.until_topic("bus", "new", "active", s(15)).await;
    for round in 1..=10 {
        let before = app.count("/on/new");
        for nth in 0..10 {
            let answer = sidecar
                .publish("bus", "new", &format!("{round}-{nth}"))
                .await;
            answer.assert(204, "");
        }
        wait::until("work in hand", s(10), async || {
            app.count("/on/new") > before
        })
        .await;
        door.cut().await;
        door.pass().await;
    }
    wait::until("every message", s(20), async || {
        let times = deliveries(app.received().iter(), "/on/new").len();
        if times == 100 { Ok(()) } else { Err(times) }
    })
    .await;
    // Long before a message that nobody knows of is looked for.
    wait::until("every acknowledgement", s(10), async || {
        let left = bus.left("new").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
}

/// An app whose health a test decides, which takes half a second for each message.
async fn moody(well: &Arc<AtomicBool>) -> App {
    let well = Arc::clone(well);
    let script = subscribing(subscriptions(&[("bus", "new")]), |_| {
        Reply::status(200).after(ms(500))
    });
    App::start(move |asked| match asked.path.as_str() {
        "/healthz" if !well.load(Ordering::SeqCst) => Reply::status(500),
        "/healthz" => Reply::status(200),
        _ => script(asked),
    })
    .await
}

fn probed(app: &App) -> Plan {
    Plan::new("orders")
        .app(app.port())
        .flag("--enable-app-health-check")
        .flag("--app-health-probe-interval=1")
        .flag("--app-health-threshold=1")
}

/// T4, on RabbitMQ.
#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_sent_ahead_goes_to_a_peer_when_the_gate_closes_and_nothing_more_to_the_app()
{
    sent_ahead(&Bus::rabbit().await).await;
}

/// T4, on Redis.
#[tokio::test(flavor = "multi_thread")]
async fn what_redis_sent_ahead_goes_to_a_peer_when_the_gate_closes_and_nothing_more_to_the_app() {
    sent_ahead(&Bus::redis().await).await;
}

async fn sent_ahead(bus: &Bus) {
    const COUNT: usize = 60;
    let well = Arc::new(AtomicBool::new(true));
    let app = moody(&well).await;
    let one = probed(&app).with(&bus.handing_out(1)).serving().await;
    one.until_topic("bus", "new", "active", s(15)).await;
    publish(&one, "new", COUNT).await;
    wait::until("a delivery", s(5), async || app.count("/on/new") >= 1).await;
    // It comes too late for what was sent ahead.
    let quick = App::subscribed(&[("bus", "new")]).await;
    let other = Plan::new("orders")
        .app(quick.port())
        .with(&bus.component())
        .serving()
        .await;
    other.until_topic("bus", "new", "active", s(15)).await;
    assert_eq!(quick.count("/on/new"), 0);

    well.store(false, Ordering::SeqCst);
    let closed = until_gate(&one, |gate| gate == "closed", s(5)).await;
    let rest = wait::until("everything at the peer", s(5), async || {
        let here = deliveries(app.received().iter(), "/on/new");
        let there = deliveries(quick.received().iter(), "/on/new");
        let both = here.keys().filter(|text| there.contains_key(*text)).count();
        assert_eq!(both, 0, "delivered twice");
        if here.len() + there.len() == COUNT {
            Ok(there.len())
        } else {
            Err((here.len(), there.len()))
        }
    })
    .await;
    let took = closed.elapsed();
    let late = app
        .times("/on/new")
        .iter()
        .filter(|at| **at > closed)
        .count();
    assert_eq!(late, 0, "handed out behind a closed gate");
    wait::until("every acknowledgement", s(10), async || {
        let left = bus.left("new").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    figure(
        &format!("T4-{}", bus.name()),
        format!("{rest} messages at the peer {took:?} after the gate closed, 0 duplicates"),
    );
    assert!(took <= s(3), "{took:?}");
}

/// §5.1: undelivered ones are released, those that wait for another attempt among them.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_waits_for_its_next_attempt_is_not_made_behind_a_closed_gate() {
    let redis = RedisServer::launch(Redis::default()).await;
    let well = Arc::new(AtomicBool::new(true));
    let own = Arc::clone(&well);
    let script = subscribing(with_letters(&["new"]), |_| Reply::status(500));
    let app = App::start(move |asked| match asked.path.as_str() {
        "/healthz" if own.load(Ordering::SeqCst) => Reply::status(200),
        "/on/new" | "/healthz" => Reply::status(500),
        _ => script(asked),
    })
    .await;
    let spec = json!({
        "policies": {"retries": {"r": {"duration": "500ms", "maxRetries": 1000}}},
        "targets": {"components": {"bus": {"inbound": {"retry": "r"}}}},
    });
    let sidecar = probed(&app)
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .policies(&spec)
        .serving()
        .await;
    sidecar.until_topic("bus", "new", "active", s(10)).await;
    publish(&sidecar, "new", 3).await;
    wait::until("attempts", s(5), async || app.count("/on/new") >= 6).await;
    well.store(false, Ordering::SeqCst);
    let closed = until_gate(&sidecar, |gate| gate == "closed", s(5)).await;
    let late = || {
        app.times("/on/new")
            .iter()
            .filter(|at| **at > closed)
            .count()
    };
    wait::never("an attempt", s(2), async || late() > 0).await;
    assert_eq!(
        sidecar.process.output().matches("delivery failed").count(),
        0
    );
    well.store(true, Ordering::SeqCst);
    wait::until("attempts again", s(5), async || late() >= 3).await;
    let length = redis.command(&["XLEN", "new-dead"]).await.unwrap();
    assert_eq!(length, ":0");
}

/// §1.3: the first message after daprd's stop is taken and left pending.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_the_app_is_unhealthy_is_delivered_once_when_it_is_well_again() {
    for bus in [Bus::redis().await, Bus::rabbit().await] {
        let well = Arc::new(AtomicBool::new(true));
        let app = moody(&well).await;
        let sidecar = probed(&app)
            .with(&bus.component())
            .file("declared.yaml", subscription("bus", "declared"))
            .serving()
            .await;
        for topic in ["new", "declared"] {
            sidecar.until_topic("bus", topic, "active", s(15)).await;
        }
        for round in 0..2 {
            well.store(false, Ordering::SeqCst);
            until_gate(&sidecar, |gate| gate == "closed", s(5)).await;
            sidecar.until_topic("bus", "declared", "idle", s(5)).await;
            for topic in ["new", "declared"] {
                let text = format!("{topic}{round}");
                let answer = sidecar.publish("bus", topic, &text).await;
                answer.assert(204, "");
            }
            wait::never("a delivery", s(1), async || {
                app.delivered(&format!("new{round}")).is_some()
            })
            .await;
            well.store(true, Ordering::SeqCst);
            for topic in ["new", "declared"] {
                let text = format!("{topic}{round}");
                wait::until("the delivery", s(10), async || app.delivered(&text)).await;
            }
        }
        wait::until("every acknowledgement", s(10), async || {
            bus.left("new").await + bus.left("declared").await == 0
        })
        .await;
        for topic in ["new", "declared"] {
            assert_eq!(app.count(&format!("/on/{topic}")), 2, "{}", bus.name());
        }
    }
}
