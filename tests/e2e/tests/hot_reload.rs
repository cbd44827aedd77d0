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
use outrigger_e2e::http::Connection;
use outrigger_e2e::process::Signal;
use outrigger_e2e::{App, Calls, Component, Plan, Reply, Request, Sidecar, figure, ms, s};
use outrigger_testkit::servers::{RabbitServer, Redis, RedisServer, Server as _};
use outrigger_testkit::{PrivateDir, ports, wait};
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

fn memory(name: &str) -> Component {
    Component::new(name, "state.in-memory")
}

/// Waits until a store answers a read like this.
async fn until_read(sidecar: &Sidecar, store: &str, status: u16, code: &str) {
    let path = format!("/v1.0/state/{store}/key");
    wait::until(format!("{status} {code} of {store}"), NOTICED, async || {
        let answer = sidecar.get(&path).await;
        if (answer.status, answer.code().as_str()) == (status, code) {
            Ok(())
        } else {
            Err((answer.status, answer.text()))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn components_come_go_and_change_their_names_while_another_serves() {
    let redis = redis().await;
    let mut sidecar = Plan::new("names")
        .file(
            "steady.yaml",
            Component::redis_state("steady", &redis.address()).yaml(),
        )
        .file("one.yaml", memory("one").yaml())
        .serving()
        .await;
    sidecar.until("steady", "ready", s(5)).await;
    let load = Calls::on_state(sidecar.ports.http, 2, "steady");
    // Added.
    sidecar.write("two.yaml", memory("two").yaml());
    sidecar.until("two", "ready", NOTICED).await;
    sidecar.assert_state_works("two").await;
    // Renamed.
    sidecar.write("two.yaml", memory("three").yaml());
    sidecar.until("three", "ready", NOTICED).await;
    until_read(&sidecar, "two", 400, "ERR_STATE_STORE_NOT_FOUND").await;
    // Deleted, once as a file and once as a document.
    std::fs::remove_file(sidecar.folder().join("one.yaml")).unwrap();
    until_read(&sidecar, "one", 400, "ERR_STATE_STORE_NOT_FOUND").await;
    sidecar.write("two.yaml", "");
    until_read(&sidecar, "three", 400, "ERR_STATE_STORE_NOT_FOUND").await;
    // Of another kind under the same name, and back.
    sidecar.write(
        "two.yaml",
        Component::new("two", "secretstores.local.env").yaml(),
    );
    wait::until("the secret store", NOTICED, async || {
        let seen = sidecar.component("two").await;
        seen["type"]
            .as_str()
            .is_some_and(|name| name.starts_with("secretstores"))
            .then_some(())
            .ok_or(seen)
    })
    .await;
    sidecar.write("two.yaml", memory("two").yaml());
    until_read(&sidecar, "two", 204, "").await;
    // Only what was to be changed has changed.
    assert_eq!(clients(&redis).await, 2);
    load.ends_without_a_failure().await;
    sidecar.process.assert_alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_type_of_the_same_kind_takes_over_without_a_failed_call() {
    let redis = redis().await;
    let folder = PrivateDir::new("types");
    let file = folder.path().join("state.db").display().to_string();
    let sqlite = Component::new("store", "state.sqlite").set("connectionString", &file);
    let mut sidecar = Plan::new("types")
        .file("store.yaml", sqlite.yaml())
        .serving()
        .await;
    let load = Calls::on_state(sidecar.ports.http, 4, "store");
    sidecar.write(
        "store.yaml",
        Component::redis_state("store", &redis.address()).yaml(),
    );
    wait::until("the other type", NOTICED, async || {
        let seen = sidecar.component("store").await;
        if seen["type"] == "state.redis/v1" {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    load.goes_on(100).await;
    sidecar.write("store.yaml", sqlite.yaml());
    wait::until("the first type again", NOTICED, async || {
        let seen = sidecar.component("store").await;
        if seen["type"] == "state.sqlite/v1" {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    load.goes_on(100).await;
    load.ends_without_a_failure().await;
    sidecar.process.assert_alive();
}

/// A file belongs to one instance at a time: the old one is closed first, and calls wait for the new one meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_must_not_be_open_at_once_come_one_after_the_other() {
    let folder = PrivateDir::new("exclusive");
    let file = folder.path().join("state.db").display().to_string();
    let with = |timeout: &str| {
        Component::new("store", "state.sqlite")
            .set("connectionString", &file)
            .set("timeout", timeout)
    };
    let sidecar = Plan::new("exclusive")
        .file("store.yaml", with("10s").yaml())
        .serving()
        .await;
    sidecar.assert_state_works("store").await;
    let load = Calls::on_state(sidecar.ports.http, 4, "store");
    // What can be checked is checked before anything is closed.
    sidecar.write("store.yaml", with("ten").yaml());
    until_pending(&sidecar, "store", "rejected").await;
    load.goes_on(100).await;
    let loaded = async || sidecar.metric("dapr_runtime_component_loaded", &[]).await;
    let before = loaded().await;
    sidecar.write("store.yaml", with("20s").yaml());
    wait::until("the changed component", NOTICED, async || {
        loaded().await > before
    })
    .await;
    load.goes_on(100).await;
    load.ends_without_a_failure().await;
    let read = sidecar.get("/v1.0/state/store/proof").await;
    assert_eq!(read.text(), "\"kept\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_a_file_what_was_in_it_serves_on() {
    let redis = redis().await;
    let good = Component::redis_state("store", &redis.address());
    let mut sidecar = Plan::new("rubbish")
        .file(
            "both.yaml",
            format!("{}---\n{}", good.yaml(), memory("beside").yaml()),
        )
        .serving()
        .await;
    sidecar.until("store", "ready", s(5)).await;
    let load = Calls::on_state(sidecar.ports.http, 2, "store");
    let wrong = [
        // No YAML.
        format!(
            "{}---\n{}",
            good.yaml()
                .replace("metadata:\n    -", "metadata: [\n    -"),
            memory("beside").yaml()
        ),
        // No such type.
        good.yaml().replace("state.redis", "state.redsi"),
        // No such kind of resource.
        good.yaml().replace("kind: Component", "kind: Componennt"),
        // A secret of a store that does not exist.
        good.clone().secret("redisPassword", "vault", "key").yaml(),
        // No text at all.
        "\u{0}".to_owned(),
    ];
    for text in &wrong {
        sidecar.write("both.yaml", text);
        let seen = until_pending(&sidecar, "store", "rejected").await;
        assert!(
            seen["message"].as_str().unwrap().contains("both.yaml"),
            "{text}: {seen}"
        );
        load.goes_on(20).await;
        sidecar.write("both.yaml", good.yaml());
        until_settled(&sidecar, "store").await;
    }
    // Bytes that are no text.
    sidecar.write("both.yaml", [0xff, 0xfe]);
    until_pending(&sidecar, "store", "rejected").await;
    sidecar
        .get("/v1.0/healthz?components=true")
        .await
        .assert(204, "");
    sidecar.write("both.yaml", good.yaml());
    until_settled(&sidecar, "store").await;
    // The connection is the first one.
    assert_eq!(clients(&redis).await, 2);
    load.ends_without_a_failure().await;
    sidecar.process.assert_alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_was_wrong_from_the_beginning_follows_its_file() {
    let redis = redis().await;
    let sidecar = Plan::new("beginning")
        .file("store.yaml", Component::new("store", "state.redsi").yaml())
        .serving()
        .await;
    until_read(&sidecar, "store", 500, "ERR_COMPONENT_REJECTED").await;
    // An address at which nobody listens: nothing is worth keeping.
    let nowhere = format!("127.0.0.1:{}", ports::free());
    sidecar.write(
        "store.yaml",
        Component::redis_state("store", &nowhere).yaml(),
    );
    let seen = sidecar.until("store", "unavailable", NOTICED).await;
    assert!(seen["pendingRevision"].is_null(), "{seen}");
    sidecar.write(
        "store.yaml",
        Component::redis_state("store", &nowhere)
            .set("redisDB", "x")
            .yaml(),
    );
    let seen = sidecar.until("store", "rejected", NOTICED).await;
    assert!(seen["pendingRevision"].is_null(), "{seen}");
    sidecar.write(
        "store.yaml",
        Component::redis_state("store", &redis.address()).yaml(),
    );
    sidecar.until("store", "ready", NOTICED).await;
    sidecar.assert_state_works("store").await;
}

/// SIGHUP and the call of an operator try at once what would wait.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ready_can_be_tried_out_of_turn() {
    let (old, late) = (redis().await, RedisServer::prepare(Redis::default()));
    let sidecar = Plan::new("retry")
        .flag("--component-retry-base=60s")
        .flag("--component-retry-cap=60s")
        .file(
            "store.yaml",
            Component::redis_state("store", &old.address()).yaml(),
        )
        .file(
            "late.yaml",
            Component::redis_state("late", &late.address()).yaml(),
        )
        .serving()
        .await;
    sidecar.until("store", "ready", s(5)).await;
    sidecar.until("late", "unavailable", s(5)).await;
    sidecar.write(
        "store.yaml",
        Component::redis_state("store", &late.address()).yaml(),
    );
    until_pending(&sidecar, "store", "unavailable").await;
    let retry = async |name: &str| {
        let path = format!("/outrigger/v1/components/{name}/retry");
        sidecar.post(&path, "").await
    };
    retry("nobody").await.assert(404, "ERR_COMPONENT_NOT_FOUND");
    let before = sidecar.component("store").await["pendingRevision"]["attempt"].clone();
    retry("store").await.assert(202, "");
    wait::until("another attempt", s(5), async || {
        let seen = sidecar.component("store").await["pendingRevision"].clone();
        if seen["attempt"] == before {
            Err(seen)
        } else {
            Ok(())
        }
    })
    .await;
    late.start().await;
    retry("store").await.assert(202, "");
    until_settled(&sidecar, "store").await;
    // Its neighbour at the same server need not wait any longer.
    sidecar.until("late", "ready", s(5)).await;
    late.kill().await;
    sidecar.until("late", "unavailable", s(20)).await;
    late.start().await;
    sidecar.process.signal(Signal::HUP);
    sidecar.until("late", "ready", s(5)).await;
    sidecar.until("store", "ready", s(5)).await;
}

fn configuration(spec: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: config\nspec: {spec}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_changes_in_place_and_connections_stay() {
    let folder = PrivateDir::new("configuration");
    let file = folder.write("config.yaml", configuration("{}"));
    let mut sidecar = Plan::new("configured")
        .flag(&format!("--config={}", file.display()))
        .env("DAPR_SECRET", "value")
        .with(&memory("store"))
        .with(&Component::new("env", "secretstores.local.env"))
        .serving()
        .await;
    let load = Calls::on_state(sidecar.ports.http, 2, "store");
    let mut connection = Connection::open(sidecar.ports.http).await.unwrap();
    let mut until = async |path: &str, status: u16| {
        let request = Request::get(path);
        wait::until(format!("{status} of {path}"), NOTICED, async || {
            let answer = connection.send(&request).await;
            let answer = answer.expect("the connection of the beginning");
            if answer.status == status {
                Ok(())
            } else {
                Err((answer.status, answer.text()))
            }
        })
        .await;
    };
    let change = |spec: &str| folder.write("config.yaml", configuration(spec));
    until("/v1.0/metadata", 200).await;

    change("{api: {denied: [{name: metadata, version: v1.0, protocol: http}]}}");
    until("/v1.0/metadata", 404).await;
    change("{secrets: {scopes: [{storeName: env, defaultAccess: deny}]}}");
    until("/v1.0/metadata", 200).await;
    until("/v1.0/secrets/env/DAPR_SECRET", 403).await;
    change(
        "{components: {deny: [secretstores.local.env/v1]}, logging: {apiLogging: {enabled: true}}}",
    );
    until("/v1.0/secrets/env/DAPR_SECRET", 500).await;
    sidecar.process.says("HTTP API Called", NOTICED).await;

    // A file that has become wrong changes nothing.
    folder.write("config.yaml", "spec: [");
    sidecar
        .process
        .says("the one in force stays", NOTICED)
        .await;
    until("/v1.0/secrets/env/DAPR_SECRET", 500).await;

    // What cannot be changed in place is named, the rest applies.
    change(
        "{features: [{name: HotReload, enabled: false}], metrics: {enabled: false}, api: {denied: [{name: metadata, version: v1.0, protocol: http}]}}",
    );
    let line = sidecar
        .process
        .says("apply after a restart only", NOTICED)
        .await;
    assert!(
        line.contains("spec.features, spec.metrics.enabled"),
        "{line}"
    );
    until("/v1.0/metadata", 404).await;
    until("/v1.0/secrets/env/PATH", 200).await;
    load.ends_without_a_failure().await;
    sidecar.process.assert_alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_found_by_another_resolver_once_it_is_configured() {
    let folder = PrivateDir::new("resolvers");
    let names = |file: &str| {
        let path = folder.path().join(file).display().to_string();
        configuration(&format!(
            "{{nameResolution: {{component: sqlite, version: v1, configuration: {{connectionString: {path:?}}}}}}}"
        ))
    };
    let file = folder.write("config.yaml", names("one.db"));
    let app = App::start(|_| Reply::text("here")).await;
    let there = Plan::new("there")
        .app(app.port())
        .flag(&format!(
            "--config={}",
            folder.write("there.yaml", names("two.db")).display()
        ))
        .serving()
        .await;
    there.until_status("/v1.0/healthz", 204, s(10)).await;
    let sidecar = Plan::new("here")
        .flag(&format!("--config={}", file.display()))
        .with(&memory("store"))
        .serving()
        .await;
    let load = Calls::on_state(sidecar.ports.http, 2, "store");
    let call = "/v1.0/invoke/there/method/x";
    let answer = sidecar.get(call).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    // One that cannot be used changes nothing.
    folder.write(
        "config.yaml",
        configuration("{nameResolution: {component: nobody}}"),
    );
    sidecar
        .process
        .says("couldn't find name resolver", NOTICED)
        .await;
    folder.write("config.yaml", names("two.db"));
    sidecar.until_status(call, 200, s(60)).await;
    load.ends_without_a_failure().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_endpoints_change_in_place() {
    let server = |text: &'static str| App::start(move |_| Reply::text(text));
    let (one, two) = tokio::join!(server("one"), server("two"));
    let endpoint = |port: u16| {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {{name: shop}}\nspec: {{baseUrl: 'http://127.0.0.1:{port}'}}\n"
        )
    };
    let sidecar = Plan::new("endpoints")
        .file("endpoint.yaml", endpoint(one.port()))
        .file("other.yaml", endpoint(one.port()).replace("shop", "other"))
        .serving()
        .await;
    let path = "/v1.0/invoke/shop/method/x";
    let load = Calls::on(
        sidecar.ports.http,
        2,
        move |_| Request::get(path),
        |answer| answer.status == 200,
    );
    let until = async |text: &str| {
        wait::until(text, NOTICED, async || {
            let seen = sidecar.get(path).await.text();
            if seen == text { Ok(()) } else { Err(seen) }
        })
        .await;
    };
    until("one").await;
    sidecar.write("endpoint.yaml", endpoint(two.port()));
    until("two").await;
    for wrong in [
        endpoint(one.port()).replace("http://", "nothing"),
        "[".to_owned(),
    ] {
        sidecar.write("endpoint.yaml", wrong);
        sidecar.process.says("endpoint.yaml:", NOTICED).await;
        load.goes_on(20).await;
        until("two").await;
    }
    sidecar.write("endpoint.yaml", endpoint(one.port()));
    until("one").await;
    load.ends_without_a_failure().await;
    std::fs::remove_file(sidecar.folder().join("endpoint.yaml")).unwrap();
    wait::until("its end", NOTICED, async || {
        sidecar.get(path).await.status != 200
    })
    .await;
}

/// As many changes as somebody can make, under load.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_changes_in_ten_seconds_fail_no_call_and_leave_nothing_behind() {
    let (one, two) = (redis().await, redis().await);
    let with = |redis: &RedisServer, retries: u32| {
        Component::redis_state("store", &redis.address())
            .set("redisMaxRetries", &retries.to_string())
            .yaml()
    };
    let mut sidecar = Plan::new("thrash")
        .file("store.yaml", with(&one, 1))
        .serving()
        .await;
    sidecar.until("store", "ready", s(5)).await;
    let load = Calls::on_state(sidecar.ports.http, 8, "store");
    load.goes_on(500).await;
    let open = async || sidecar.metric("process_open_fds", &[]).await;
    let (files, memory) = (open().await, sidecar.process.memory());
    let wrong = Component::redis_state("store", &one.address())
        .set("redisDB", "x")
        .yaml();
    let nowhere = Component::redis_state("store", &format!("127.0.0.1:{}", ports::free())).yaml();
    let mut pace = tokio::time::interval(ms(200));
    for change in 0..50_u32 {
        pace.tick().await;
        match change % 5 {
            0 => sidecar.write("store.yaml", with(&two, change)),
            1 => sidecar.write("store.yaml", &wrong),
            2 => sidecar.write("store.yaml", with(&one, change)),
            3 => sidecar.write("store.yaml", &nowhere),
            // As editors do.
            _ => {
                sidecar.write("store.new", with(&one, 1));
                let at = |name: &str| sidecar.folder().join(name);
                std::fs::rename(at("store.new"), at("store.yaml")).unwrap();
            }
        }
        if change % 10 == 0 {
            sidecar.process.signal(Signal::HUP);
        }
    }
    sidecar.write("store.yaml", with(&two, 1));
    until_settled(&sidecar, "store").await;
    wait::until("all connections but one", s(15), async || {
        let left = (clients(&one).await, clients(&two).await);
        if left == (1, 2) { Ok(()) } else { Err(left) }
    })
    .await;
    let after = wait::until("no more files than before", s(5), async || {
        let after = open().await;
        if after <= files + 1.0 {
            Ok(after)
        } else {
            Err(after)
        }
    })
    .await;
    let calls = load.ends_without_a_failure().await;
    let grown = sidecar.process.memory().saturating_sub(memory);
    assert!(grown < 16 * 1024, "{grown} KiB more");
    sidecar.process.assert_alive();
    figure(
        "reload-thrash",
        format!(
            "50 changes, {calls} calls, none failed; {files} files open before, {after} after; {grown} KiB more memory"
        ),
    );
}

/// As daprd: a change that cannot be used ends the process, unless the component is optional.
#[tokio::test(flavor = "multi_thread")]
async fn in_strict_mode_a_change_that_cannot_be_used_ends_the_process() {
    let redis = redis().await;
    let nowhere = Component::redis_state("store", &format!("127.0.0.1:{}", ports::free()));
    for wrong in [
        nowhere.clone(),
        Component::redis_state("store", &redis.address()).set("redisDB", "x"),
        Component::new("store", "state.redsi"),
    ] {
        let mut sidecar = Plan::new("strict")
            .flag("--component-init-mode=strict")
            .file(
                "store.yaml",
                Component::redis_state("store", &redis.address()).yaml(),
            )
            .serving()
            .await;
        sidecar.until("store", "ready", s(5)).await;
        sidecar.write("store.yaml", wrong.clone().ignore_errors().yaml());
        let state = if wrong.yaml() == nowhere.yaml() {
            "unavailable"
        } else {
            "rejected"
        };
        until_pending(&sidecar, "store", state).await;
        sidecar.assert_state_works("store").await;
        sidecar.write("store.yaml", wrong.yaml());
        let ended = sidecar.process.ended(s(20)).await;
        assert_eq!(ended.code, 1, "{}", ended.output);
        let line = "Error processing component, daprd will exit gracefully: process component store error: [INIT_COMPONENT_FAILURE]";
        assert!(ended.output.contains(line), "{}", ended.output);
    }
}
