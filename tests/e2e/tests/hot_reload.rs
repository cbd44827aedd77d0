//! Resources that change while the sidecar serves: make before break.
//!
//! Owns: row A24 of `lifecycle.md` §9, and what else §4.9 says of changes on disk.
//! Start at any test; each is a story of its own. What is wrong from the beginning is in `resources.rs`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use outrigger_e2e::component::subscription;
use outrigger_e2e::{App, Calls, Component, Plan, Reply, Request, Sidecar, figure, ms, s};
use outrigger_testkit::servers::{RabbitServer, Redis, RedisServer, Server as _};
use outrigger_testkit::{ports, wait};
use serde_json::{Value, json};

/// For a change on disk to be noticed and taken over.
const NOTICED: std::time::Duration = s(10);

async fn redis() -> RedisServer {
    RedisServer::launch(Redis {
        arguments: ["--appendfsync", "everysec"].map(str::to_owned).to_vec(),
        ..Redis::default()
    })
    .await
}

/// Waits for the state of a changed definition; what is told of it.
async fn until_pending(sidecar: &Sidecar, component: &str, state: &str) -> Value {
    wait::until(
        format!("{component} pending {state}"),
        NOTICED,
        async || {
            let seen = sidecar.component(component).await;
            if seen["pendingRevision"]["state"] == state {
                Ok(seen["pendingRevision"].clone())
            } else {
                Err(seen)
            }
        },
    )
    .await
}

/// Waits until no changed definition waits for its turn.
async fn until_settled(sidecar: &Sidecar, component: &str) {
    wait::until(
        format!("{component} without a pending revision"),
        NOTICED,
        async || {
            let seen = sidecar.component(component).await;
            if seen["state"] == "ready" && seen["pendingRevision"].is_null() {
                Ok(())
            } else {
                Err(seen)
            }
        },
    )
    .await;
}

async fn pending_metric(sidecar: &Sidecar, component: &str) -> f64 {
    let name = "outrigger_component_revision_pending";
    sidecar.metric(name, &[("component", component)]).await
}

/// What health tells of a component that is well.
async fn health_of(sidecar: &Sidecar, component: &str) -> Value {
    let answer = sidecar.get("/v1.0/healthz/components").await;
    let all = answer.json();
    let items = all["componentsHealth"].as_array().unwrap().clone();
    let mut own = items
        .into_iter()
        .filter(|item| item["componentName"] == component);
    own.next().unwrap_or_default()
}

/// How many connections a server has, ours included.
async fn clients(redis: &RedisServer) -> usize {
    let list = redis.command(&["CLIENT", "LIST"]).await.unwrap();
    list.matches("laddr=").count()
}

/// A24.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_under_load_goes_from_one_address_to_another_and_no_call_fails() {
    let (old, new) = (redis().await, redis().await);
    let at = |address: &str| Component::redis_state("store", address);
    let mut sidecar = Plan::new("orders")
        .file("store.yaml", at(&old.address()).yaml())
        .serving()
        .await;
    sidecar.until("store", "ready", s(5)).await;
    let load = Calls::on_state(sidecar.ports.http, 8, "store");
    load.goes_on(200).await;

    // Values that no Redis can be opened with.
    let wrong = at(&old.address()).set("redisDB", "first").yaml();
    sidecar.write("store.yaml", &wrong);
    let seen = until_pending(&sidecar, "store", "rejected").await;
    assert_eq!(seen["class"], "CONFIG", "{seen}");
    let told = seen["message"].as_str().unwrap();
    assert!(
        told.contains("store.yaml:") && told.contains("redisDB"),
        "{told}"
    );
    let health = health_of(&sidecar, "store").await;
    assert_eq!(health["status"], "OK", "{health}");
    assert_eq!(health["pendingRevision"]["state"], "rejected", "{health}");
    assert!((pending_metric(&sidecar, "store").await - 1.0).abs() < f64::EPSILON);
    sidecar
        .get("/v1.0/healthz?components=true")
        .await
        .assert(204, "");
    load.goes_on(200).await;

    // An address at which nobody listens.
    let nowhere = format!("127.0.0.1:{}", ports::free());
    sidecar.write("store.yaml", at(&nowhere).yaml());
    let seen = until_pending(&sidecar, "store", "unavailable").await;
    assert_eq!(seen["class"], "TRANSIENT", "{seen}");
    assert!(seen["nextRetryMs"].is_u64(), "{seen}");
    load.goes_on(200).await;
    let again = wait::until("further attempts", s(20), async || {
        let seen = sidecar.component("store").await["pendingRevision"].clone();
        if seen["attempt"].as_u64() >= Some(3) {
            Ok(seen)
        } else {
            Err(seen)
        }
    })
    .await;

    // Another server.
    sidecar.write("store.yaml", at(&new.address()).yaml());
    until_settled(&sidecar, "store").await;
    assert!(pending_metric(&sidecar, "store").await.abs() < f64::EPSILON);
    load.goes_on(200).await;
    wait::until("the old connections closed", s(12), async || {
        let left = clients(&old).await;
        if left <= 1 { Ok(()) } else { Err(left) }
    })
    .await;
    let calls = load.ends_without_a_failure().await;
    assert_ne!(new.command(&["DBSIZE"]).await.unwrap(), ":0");
    sidecar.process.assert_alive();
    let warnings = sidecar.process.output();
    let warned = |text: &str| warnings.lines().filter(|line| line.contains(text)).count();
    assert_eq!(
        warned("the changed definition is rejected"),
        1,
        "{warnings}"
    );
    assert_eq!(
        warned("the changed definition cannot be used yet"),
        1,
        "{warnings}"
    );
    figure(
        "A24",
        format!(
            "{calls} calls, none failed; the address without a server was tried {} times",
            again["attempt"]
        ),
    );
}

/// Publishes numbers without a pause and remembers which of them were accepted.
struct Publishing {
    load: Calls,
    accepted: Arc<AtomicU64>,
}

impl Publishing {
    fn to(sidecar: &Sidecar, pubsub: &str, topic: &str) -> Self {
        let path = format!("/v1.0/publish/{pubsub}/{topic}");
        let accepted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&accepted);
        let load = Calls::on(
            sidecar.ports.http,
            4,
            move |number| Request::post(&path, number.to_string()),
            move |answer| {
                let is_accepted = answer.status == 204;
                count.fetch_add(u64::from(is_accepted), Ordering::Relaxed);
                is_accepted
            },
        );
        Self { load, accepted }
    }

    /// Ends it, and waits until everything has arrived; how many there were and how many came more than once.
    async fn all_arrived(self, deliveries: &Deliveries) -> (u64, u64) {
        let calls = self.load.ends_without_a_failure().await;
        let accepted = self.accepted.load(Ordering::Relaxed);
        assert_eq!(calls, accepted);
        wait::until("every message", s(60), async || {
            let seen = deliveries.lock().unwrap().len() as u64;
            if seen >= accepted {
                Ok(())
            } else {
                Err((seen, accepted))
            }
        })
        .await;
        let times = deliveries.lock().unwrap();
        assert!((0..accepted).all(|number| times.contains_key(&number)));
        let again = times.values().filter(|times| **times > 1).count() as u64;
        (accepted, again)
    }
}

/// How often each number was delivered.
type Deliveries = Arc<Mutex<HashMap<u64, u64>>>;

/// An app that takes numbers at any path below `/on`, each after a moment, and dead letters at `/dead`.
async fn counting_app(own: Value) -> (App, Deliveries) {
    let deliveries = Deliveries::default();
    let seen = Arc::clone(&deliveries);
    let app = App::start(move |asked| {
        if asked.path == "/dapr/subscribe" {
            return Reply::json(&own);
        }
        if asked.path.starts_with("/on/")
            && let Some(number) = asked.data().as_u64()
        {
            *seen.lock().unwrap().entry(number).or_default() += 1;
            return Reply::status(200).after(ms(5));
        }
        Reply::status(if asked.path == "/dapr/config" {
            404
        } else {
            200
        })
    })
    .await;
    (app, deliveries)
}

async fn a_bus_changes_under_load(row: &str, versions: &[Component]) {
    // Tests share a broker.
    let dead = format!("{row}-dead");
    let own = json!([
        {"pubsubname": "bus", "topic": row, "route": "/on/orders", "deadLetterTopic": dead},
        {"pubsubname": "bus", "topic": dead, "route": "/dead"},
    ]);
    let (app, deliveries) = counting_app(own).await;
    let mut sidecar = Plan::new(row)
        .app(app.port())
        .file("bus.yaml", versions[0].yaml())
        .serving()
        .await;
    sidecar.until_topic("bus", row, "active", s(20)).await;
    let publishing = Publishing::to(&sidecar, "bus", row);
    publishing.load.goes_on(100).await;
    let loaded = async || {
        let name = "dapr_runtime_component_loaded";
        sidecar.metric(name, &[]).await
    };
    for version in &versions[1..] {
        let before = loaded().await;
        sidecar.write("bus.yaml", version.yaml());
        wait::until("the changed component", NOTICED, async || {
            loaded().await > before
        })
        .await;
        publishing.load.goes_on(100).await;
    }
    let (accepted, again) = publishing.all_arrived(&deliveries).await;
    assert_eq!(app.count("/dead"), 0, "dead letters");
    sidecar.process.assert_alive();
    figure(
        row,
        format!(
            "{accepted} messages over {} changes, none lost, {again} delivered again, no dead letter",
            versions.len() - 1
        ),
    );
    assert_eq!(again, 0, "delivered again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_bus_changes_under_load_and_loses_nothing() {
    let redis = redis().await;
    let with = |concurrency: &str| {
        Component::redis_pubsub("bus", &redis.address()).set("concurrency", concurrency)
    };
    a_bus_changes_under_load("reload-redis", &[with("10"), with("5"), with("20")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rabbit_bus_changes_under_load_and_loses_nothing() {
    let rabbit = RabbitServer::shared().await;
    let with =
        |prefetch: &str| Component::rabbit("bus", &rabbit.url()).set("prefetchCount", prefetch);
    a_bus_changes_under_load("reload-rabbit", &[with("10"), with("5"), with("20")]).await;
}

/// A queue that the broker deletes with its last consumer is never without one.
#[tokio::test(flavor = "multi_thread")]
async fn a_rabbit_bus_whose_queue_goes_with_its_consumer_changes_and_loses_nothing() {
    let rabbit = RabbitServer::shared().await;
    let with = |prefetch: &str| {
        Component::new("bus", "pubsub.rabbitmq")
            .set("connectionString", &rabbit.url())
            .set("prefetchCount", prefetch)
    };
    a_bus_changes_under_load("reload-rabbit-auto", &[with("10"), with("5"), with("20")]).await;
}

/// What the broker tells of the consumers of a queue.
async fn consumers(rabbit: &RabbitServer, queue: &str) -> Vec<String> {
    let columns = ["queue_name", "consumer_tag", "channel_pid"];
    let list = rabbit
        .control(&[
            "list_consumers",
            "--quiet",
            columns[0],
            columns[1],
            columns[2],
        ])
        .await;
    let mut own: Vec<String> = list
        .lines()
        .filter(|line| line.starts_with(queue))
        .map(str::to_owned)
        .collect();
    own.sort();
    own
}

fn delivered_to(pubsub: &str, topic: &str, path: &str, metadata: &str) -> String {
    let text = subscription(pubsub, topic).replace(&format!("/on/{topic}"), path);
    format!("{text}{metadata}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_changes_under_load_and_those_beside_it_notice_nothing() {
    let rabbit = RabbitServer::shared().await;
    let (app, deliveries) = counting_app(json!([])).await;
    let mut sidecar = Plan::new("subscriptions")
        .app(app.port())
        .file("bus.yaml", Component::rabbit("bus", &rabbit.url()).yaml())
        .file(
            "changing.yaml",
            delivered_to("bus", "changing", "/on/one", ""),
        )
        .file("steady.yaml", subscription("bus", "steady"))
        .serving()
        .await;
    for topic in ["changing", "steady"] {
        sidecar.until_topic("bus", topic, "active", s(20)).await;
    }
    let steady = consumers(rabbit, "subscriptions-steady").await;
    assert_eq!(steady.len(), 1, "{steady:?}");
    let publishing = Publishing::to(&sidecar, "bus", "changing");
    publishing.load.goes_on(100).await;

    // Another route.
    sidecar.write(
        "changing.yaml",
        delivered_to("bus", "changing", "/on/two", ""),
    );
    wait::until("deliveries by the new route", NOTICED, async || {
        app.count("/on/two") > 0
    })
    .await;
    publishing.load.goes_on(100).await;
    let before = app.count("/on/one");
    publishing.load.goes_on(100).await;
    assert_eq!(app.count("/on/one"), before, "both are subscribed");

    // What the broker refuses: the queue is a classic one.
    let changing = consumers(rabbit, "subscriptions-changing").await;
    let quorum = "  metadata:\n    queueType: quorum\n";
    sidecar.write(
        "changing.yaml",
        delivered_to("bus", "changing", "/on/three", quorum),
    );
    let seen = wait::until("the refusal", NOTICED, async || {
        let seen = sidecar.subscription("bus", "changing").await;
        if seen["error"].is_null() {
            Err(seen)
        } else {
            Ok(seen)
        }
    })
    .await;
    assert_eq!(seen["state"], "active", "{seen}");
    publishing.load.goes_on(100).await;
    assert_eq!(app.count("/on/three"), 0);
    assert_eq!(consumers(rabbit, "subscriptions-changing").await, changing);

    // Back to what is in place: nothing is to be done.
    sidecar.write(
        "changing.yaml",
        delivered_to("bus", "changing", "/on/two", ""),
    );
    wait::until("no error", NOTICED, async || {
        let seen = sidecar.subscription("bus", "changing").await;
        if seen["error"].is_null() {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    assert_eq!(consumers(rabbit, "subscriptions-changing").await, changing);

    // One more, and one less.
    sidecar.write("more.yaml", subscription("bus", "more"));
    sidecar.until_topic("bus", "more", "active", NOTICED).await;
    std::fs::remove_file(sidecar.folder().join("more.yaml")).unwrap();
    wait::until("one subscription less", NOTICED, async || {
        sidecar.subscription("bus", "more").await.is_null()
    })
    .await;
    assert_eq!(consumers(rabbit, "subscriptions-more").await, [""; 0]);

    let (accepted, again) = publishing.all_arrived(&deliveries).await;
    assert_eq!(again, 0, "delivered again");
    assert_eq!(consumers(rabbit, "subscriptions-steady").await, steady);
    sidecar.process.assert_alive();
    figure(
        "reload-subscription",
        format!(
            "{accepted} messages over a change, a refused one and its return; none lost or delivered again; the consumer beside it is the same"
        ),
    );
}
