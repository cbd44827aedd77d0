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

use outrigger_e2e::{Calls, Component, Plan, Sidecar, figure, s};
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::{ports, wait};
use serde_json::Value;

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
