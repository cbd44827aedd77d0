//! Policies of calls to components: state and publishing.
//!
//! Owns: rows 37, 38 and 41, the outbound half of row 42, the component part of `resiliency.md` §12.
//! Start at any test; each is a story of its own. Deliveries are in `resiliency_delivery.rs`. A Redis that is alive and
//! refuses is made with values of another type under the keys that are asked for.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::time::Instant;

use outrigger_e2e::grpc;
use outrigger_e2e::{Answer, App, Component, Plan, Request, Sidecar, ms, s};
use outrigger_proto::Message as _;
use outrigger_proto::dapr::proto::runtime::v1::{GetStateRequest, PublishEventRequest};
use outrigger_testkit::proxy::Proxy;
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::wait;
use serde_json::{Value, json};

const OPEN: &str = "circuit breaker is open";
const ATTEMPTS: &str = "outrigger_resiliency_attempts_total";

/// How many attempts there were of calls to a target.
async fn attempts(sidecar: &Sidecar, target: &str) -> u64 {
    sidecar.metric(ATTEMPTS, &[("target", target)]).await as u64
}

/// Under this key no value can be read or written as state, and none published as a topic.
async fn spoil(redis: &RedisServer, key: &str) {
    let answer = redis.command(&["RPUSH", key, "a list"]).await.unwrap();
    assert_eq!(answer, ":1");
}

fn constant(max: u32) -> Value {
    json!({"duration": "10ms", "maxRetries": max})
}

fn outbound(name: &str, policies: &Value, slots: &Value) -> Value {
    json!({"policies": policies, "targets": {"components": {name: {"outbound": slots}}}})
}

async fn get_state(sidecar: &Sidecar, key: &str) -> grpc::Outcome {
    let request = GetStateRequest {
        store_name: "store".to_owned(),
        key: key.to_owned(),
        ..GetStateRequest::default()
    };
    let path = "/dapr.proto.runtime.v1.Dapr/GetState";
    grpc::ask(sidecar.ports.grpc, path, &request.encode_to_vec(), &[]).await
}

async fn publish(sidecar: &Sidecar, topic: &str) -> grpc::Outcome {
    let request = PublishEventRequest {
        pubsub_name: "bus".to_owned(),
        topic: topic.to_owned(),
        data: b"x".to_vec().into(),
        ..PublishEventRequest::default()
    };
    let path = "/dapr.proto.runtime.v1.Dapr/PublishEvent";
    grpc::ask(sidecar.ports.grpc, path, &request.encode_to_vec(), &[]).await
}

#[track_caller]
fn assert_rejected(answer: &Answer, status: u16, code: &str) {
    answer.assert(status, code);
    assert!(answer.text().contains(OPEN), "{}", answer.text());
    assert_eq!(
        answer.header("outrigger-resiliency"),
        Some("breaker-open; attempts=0")
    );
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

/// Calls of `store` have half a second.
fn hasty() -> Value {
    outbound(
        "store",
        &json!({"timeouts": {"short": "500ms"}}),
        &json!({"timeout": "short"}),
    )
}

/// A call that exceeds its time is evidence (`lifecycle.md` §4.6).
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_found_by_the_first_call_that_runs_out_of_time() {
    let redis = RedisServer::launch(Redis::default()).await;
    let sidecar = Plan::new("orders")
        .flag("--component-ping-interval=60s")
        .with(&Component::redis_state("store", &redis.address()))
        .policies(&hasty())
        .serving()
        .await;
    sidecar.until("store", "ready", s(5)).await;
    sidecar.assert_state_works("store").await;
    redis.pause();
    let began = Instant::now();
    let answer = sidecar.get("/v1.0/state/store/key").await;
    assert!(answer.status >= 500, "{answer:?}");
    sidecar.until("store", "unavailable", s(4)).await;
    let took = began.elapsed();
    redis.resume();
    assert!(took <= s(4), "{took:?}");
    sidecar.until("store", "ready", s(12)).await;
}

/// A doubted connection is replaced where a fresh one answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_went_dead_unnoticed_is_replaced_and_the_store_is_never_unavailable() {
    let redis = RedisServer::launch(Redis::default()).await;
    let proxy = Proxy::to(redis.address()).await;
    let sidecar = Plan::new("orders")
        .flag("--component-ping-interval=60s")
        .with(&Component::redis_state("store", &proxy.address()))
        .policies(&hasty())
        .serving()
        .await;
    sidecar.until("store", "ready", s(5)).await;
    sidecar.assert_state_works("store").await;
    proxy.strand();
    wait::until("a call that is answered", s(6), async || {
        let answer = sidecar.get("/v1.0/state/store/proof").await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer.status)
        }
    })
    .await;
    let seen = sidecar.component("store").await;
    assert_eq!(
        (&seen["state"], &seen["attempt"]),
        (&json!("ready"), &json!(1))
    );
    let output = sidecar.process.output();
    assert!(
        !output.contains("component lost its connection"),
        "{output}"
    );
}

/// Row 37, as far as an error without a status goes: the lists have nothing to match.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_fails_without_a_status_is_always_retried() {
    for matching in [
        json!({"httpStatusCodes": "429,500-599"}),
        json!({"httpStatusCodes": ",", "gRPCStatusCodes": ","}),
    ] {
        let redis = RedisServer::launch(Redis::default()).await;
        spoil(&redis, "bad").await;
        let retry = json!({"duration": "10ms", "maxRetries": 3, "matching": matching});
        let sidecar = Plan::new("orders")
            .with(&Component::redis_pubsub("bus", &redis.address()))
            .policies(&outbound(
                "bus",
                &json!({"retries": {"r": retry}}),
                &json!({"retry": "r"}),
            ))
            .serving()
            .await;
        let answer = sidecar.publish("bus", "bad", "x").await;
        answer.assert(500, "ERR_PUBSUB_PUBLISH_MESSAGE");
        assert_eq!(
            answer.header("outrigger-resiliency"),
            Some("retries-exhausted; attempts=4")
        );
        assert_eq!(attempts(&sidecar, "Pubsub_bus").await, 4);
        let outcome = publish(&sidecar, "bad").await;
        assert_eq!(outcome.code, 13, "{outcome:?}");
        assert_eq!(
            outcome.field("outrigger-resiliency"),
            Some("retries-exhausted; attempts=4")
        );
        assert_eq!(attempts(&sidecar, "Pubsub_bus").await, 8);
        let commands = redis.command(&["INFO", "commandstats"]).await.unwrap();
        assert!(commands.contains("cmdstat_xadd:calls=8,"), "{commands}");
        sidecar.publish("bus", "good", "x").await.assert(204, "");
        let once = [
            ("policy", "retry"),
            ("target", "Pubsub_bus"),
            ("flow_direction", "outbound"),
        ];
        sidecar
            .until_metric("dapr_resiliency_count", &once, 3.0)
            .await;
        sidecar
            .until_metric("dapr_resiliency_activations_total", &once, 2.0)
            .await;
        sidecar
            .process
            .says(
                "Error processing operation component[bus] output. Retrying in 10ms",
                s(5),
            )
            .await;
    }
}

/// Row 38, as far as a broker goes that refuses all entries: those of one call are tried again together.
#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_publish_that_fails_tells_of_every_entry() {
    let redis = RedisServer::launch(Redis::default()).await;
    spoil(&redis, "bad").await;
    let policies = json!({
        "retries": {"r": constant(2)},
        "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 3"}},
    });
    let slots = json!({"retry": "r", "circuitBreaker": "b"});
    let sidecar = Plan::new("orders")
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .policies(&outbound("bus", &policies, &slots))
        .serving()
        .await;
    let entries = json!([
        {"entryId": "a", "event": "one", "contentType": "text/plain"},
        {"entryId": "b", "event": "two", "contentType": "text/plain"},
    ]);
    let path = "/v1.0/publish/bulk/bus/bad";
    let answer = sidecar.post(path, entries.to_string()).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    let failed = answer.json()["failedEntries"].as_array().unwrap().clone();
    let ids: Vec<_> = failed
        .iter()
        .map(|entry| entry["entryId"].clone())
        .collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(attempts(&sidecar, "Pubsub_bus").await, 3);

    let answer = sidecar.post(path, entries.to_string()).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    let failed = answer.json()["failedEntries"].as_array().unwrap().clone();
    assert_eq!(failed.len(), 2, "{}", answer.text());
    for entry in failed {
        assert!(entry["error"].as_str().unwrap().contains(OPEN), "{entry}");
    }
    assert_eq!(attempts(&sidecar, "Pubsub_bus").await, 3);
}

/// Row 41, single items.
#[tokio::test(flavor = "multi_thread")]
async fn an_entity_tag_that_does_not_fit_is_final_and_no_failure() {
    let redis = RedisServer::launch(Redis::default()).await;
    let policies = json!({
        "retries": {"r": constant(3)},
        "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1"}},
    });
    let slots = json!({"retry": "r", "circuitBreaker": "b"});
    for component in [
        Component::redis_state("store", &redis.address()),
        Component::new("store", "state.in-memory"),
    ] {
        let sidecar = Plan::new("orders")
            .with(&component)
            .policies(&outbound("store", &policies, &slots))
            .serving()
            .await;
        let items = r#"[{"key":"k","value":"v"}]"#;
        sidecar
            .post("/v1.0/state/store", items)
            .await
            .assert(204, "");
        let stale = r#"[{"key":"k","value":"w","etag":"77"}]"#;
        let answer = sidecar.post("/v1.0/state/store", stale).await;
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert_eq!(attempts(&sidecar, "Statestore_store").await, 2);
        let delete = Request::new("DELETE", "/v1.0/state/store/k").header("if-match", "77");
        let answer = sidecar.call(delete).await;
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert_eq!(attempts(&sidecar, "Statestore_store").await, 3);
        let transaction = json!({"operations": [
            {"operation": "upsert", "request": {"key": "k", "value": "w", "etag": "77"}},
        ]});
        let answer = sidecar
            .post("/v1.0/state/store/transaction", transaction.to_string())
            .await;
        assert!(answer.status >= 400, "{}", answer.text());
        assert_eq!(attempts(&sidecar, "Statestore_store").await, 4);
        let seen = sidecar.breaker("b-store").await;
        assert_eq!(
            (&seen["state"], &seen["counts"]["totalFailures"]),
            (&json!("closed"), &json!(0)),
            "{seen}"
        );
    }
}

/// Row 41, a batch.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_may_succeed_is_saved_again() {
    let redis = RedisServer::launch(Redis::default()).await;
    let policies = json!({"retries": {"r": {"duration": "1500ms", "maxRetries": 3}}});
    let sidecar = Plan::new("orders")
        .with(&Component::redis_state("store", &redis.address()))
        .policies(&outbound("store", &policies, &json!({"retry": "r"})))
        .serving()
        .await;
    let first = r#"[{"key":"k1","value":"old"}]"#;
    sidecar
        .post("/v1.0/state/store", first)
        .await
        .assert(204, "");
    // For a while nobody may touch the second key.
    let keys = [
        "ACL",
        "SETUSER",
        "default",
        "resetkeys",
        "~orders||k1",
        "~orders||k3",
    ];
    redis.command(&keys).await.unwrap();
    let items = json!([
        {"key": "k1", "value": "new", "etag": "77"},
        {"key": "k2", "value": "new"},
        {"key": "k3", "value": "new"},
    ]);
    let heal = async {
        let labels = [("target", "Statestore_store"), ("outcome", "failure")];
        sidecar.until_metric(ATTEMPTS, &labels, 1.0).await;
        redis
            .command(&["ACL", "SETUSER", "default", "allkeys"])
            .await
            .unwrap();
    };
    let body = items.to_string();
    let (answer, ()) = tokio::join!(sidecar.post("/v1.0/state/store", body), heal);
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert_eq!(
        attempts(&sidecar, "Statestore_store").await,
        3,
        "one of the first save, two of the batch"
    );
    for (key, value, etag) in [
        ("k1", "\"old\"", "1"),
        ("k2", "\"new\"", "1"),
        ("k3", "\"new\"", "1"),
    ] {
        let read = sidecar.get(&format!("/v1.0/state/store/{key}")).await;
        assert_eq!(
            (read.text().as_str(), read.header("etag")),
            (value, Some(etag)),
            "{key}"
        );
    }
}

/// Row 42, outbound.
#[tokio::test(flavor = "multi_thread")]
async fn the_narrowest_default_applies() {
    let redis = RedisServer::launch(Redis::default()).await;
    spoil(&redis, "bad").await;
    spoil(&redis, "shop||bad").await;
    let app = App::answering(&[500]).await;
    let sidecar = Plan::new("shop")
        .app(app.port())
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .with(&Component::redis_state("store", &redis.address()))
        .policies(&json!({"policies": {"retries": {
            "DefaultRetryPolicy": constant(3),
            "DefaultComponentOutboundRetryPolicy": constant(2),
            "DefaultStatestoreComponentOutboundRetryPolicy": constant(1),
        }}}))
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(15)).await;
    sidecar
        .get("/v1.0/state/store/bad")
        .await
        .assert(500, "ERR_STATE_GET");
    assert_eq!(attempts(&sidecar, "Statestore_store").await, 2);
    let publish = sidecar.publish("bus", "bad", "x").await;
    publish.assert(500, "ERR_PUBSUB_PUBLISH_MESSAGE");
    assert_eq!(attempts(&sidecar, "Pubsub_bus").await, 3);
    let answer = sidecar.get("/v1.0/invoke/shop/method/a").await;
    assert_eq!(answer.status, 500);
    assert_eq!(app.count("/a"), 4);
    let target = sidecar.target_in("Statestore_store", "outbound").await;
    assert_eq!(
        target["retry"]["name"],
        "DefaultStatestoreComponentOutboundRetryPolicy"
    );
    assert_eq!(target["retry"]["origin"], "default policy");
    let inbound = sidecar.target_in("Statestore_store", "inbound").await;
    assert_eq!(inbound, Value::Null, "nothing comes from a state store");
}

/// §12, an open breaker in front of a store; each API has its own code.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_rejects_calls_of_a_store() {
    let redis = RedisServer::launch(Redis::default()).await;
    spoil(&redis, "orders||bad").await;
    let policies =
        json!({"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 2", "timeout": "2s"}}});
    let sidecar = Plan::new("orders")
        .with(&Component::redis_state("store", &redis.address()))
        .policies(&outbound(
            "store",
            &policies,
            &json!({"circuitBreaker": "b"}),
        ))
        .serving()
        .await;
    for _ in 0..2 {
        sidecar
            .get("/v1.0/state/store/bad")
            .await
            .assert(500, "ERR_STATE_GET");
    }
    let answer = sidecar.get("/v1.0/state/store/good").await;
    assert_rejected(&answer, 500, "ERR_STATE_GET");
    assert_eq!(answer.header("retry-after"), Some("2"));
    let save = sidecar
        .post("/v1.0/state/store", r#"[{"key":"k","value":1}]"#)
        .await;
    assert_rejected(&save, 500, "ERR_STATE_SAVE");
    let delete = sidecar
        .call(Request::new("DELETE", "/v1.0/state/store/k"))
        .await;
    assert_rejected(&delete, 500, "ERR_STATE_DELETE");
    let body = r#"{"operations":[{"operation":"delete","request":{"key":"k"}}]}"#;
    let transaction = sidecar.post("/v1.0/state/store/transaction", body).await;
    assert_rejected(&transaction, 500, "ERR_STATE_TRANSACTION");
    let bulk = sidecar
        .post("/v1.0/state/store/bulk", r#"{"keys":["a","b"]}"#)
        .await;
    assert_rejected(&bulk, 500, "ERR_STATE_BULK_GET");
    assert_eq!(bulk.json()["message"], OPEN);
    let outcome = get_state(&sidecar, "good").await;
    assert_eq!(outcome.code, 13, "{outcome:?}");
    assert!(outcome.message.contains(OPEN), "{outcome:?}");
    assert_eq!(
        outcome.field("outrigger-resiliency"),
        Some("breaker-open; attempts=0")
    );
    assert_eq!(attempts(&sidecar, "Statestore_store").await, 2);

    sidecar.until_breaker("b-store", "half-open", s(5)).await;
    let saved = sidecar
        .post("/v1.0/state/store", r#"[{"key":"k","value":1}]"#)
        .await;
    saved.assert(204, "");
    assert_eq!(sidecar.breaker("b-store").await["state"], "closed");
}

/// What the caller of an open breaker is told, for publishing; with statuses of its own too.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_rejects_publishing() {
    let redis = RedisServer::launch(Redis::default()).await;
    spoil(&redis, "bad").await;
    let rule = json!({"trip": "consecutiveFailures >= 1"});
    let sidecar = Plan::new("orders")
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .with(&Component::redis_pubsub("exact", &redis.address()))
        .policies(&json!({
            "policies": {"circuitBreakers": {"b": rule}},
            "targets": {"components": {
                "bus": {"outbound": {"circuitBreaker": "b"}},
                "exact": {"outbound": {"circuitBreaker": "b", "errors": "precise"}},
            }},
        }))
        .serving()
        .await;
    for bus in ["bus", "exact"] {
        let failed = sidecar.publish(bus, "bad", "x").await;
        failed.assert(500, "ERR_PUBSUB_PUBLISH_MESSAGE");
    }
    assert_rejected(
        &sidecar.publish("bus", "good", "x").await,
        500,
        "ERR_PUBSUB_PUBLISH_MESSAGE",
    );
    assert_rejected(
        &sidecar.publish("exact", "good", "x").await,
        503,
        "ERR_RESILIENCY_CIRCUIT_OPEN",
    );
    let outcome = publish(&sidecar, "good").await;
    assert_eq!(outcome.code, 13, "{outcome:?}");
    assert!(outcome.message.contains(OPEN), "{outcome:?}");
}

/// §4: a component that takes too long.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_too_long_is_cut_and_tried_again() {
    let redis = RedisServer::launch(Redis::default()).await;
    let policies = json!({"timeouts": {"t": "300ms"}, "retries": {"r": constant(2)}});
    let sidecar = Plan::new("orders")
        .with(&Component::redis_state("store", &redis.address()))
        .policies(&outbound(
            "store",
            &policies,
            &json!({"timeout": "t", "retry": "r"}),
        ))
        .serving()
        .await;
    sidecar.assert_state_works("store").await;
    redis.pause();
    let began = Instant::now();
    let answer = sidecar.get("/v1.0/state/store/proof").await;
    let took = began.elapsed();
    redis.resume();
    answer.assert(500, "ERR_STATE_GET");
    assert!(
        answer.text().contains("context deadline exceeded"),
        "{}",
        answer.text()
    );
    assert_eq!(
        answer.header("outrigger-resiliency"),
        Some("timeout; attempts=3")
    );
    assert!(took >= ms(900) && took < s(3), "{took:?}");
    let once = [("policy", "timeout"), ("target", "Statestore_store")];
    sidecar
        .until_metric("dapr_resiliency_activations_total", &once, 1.0)
        .await;
}

/// §6.2: a component that is away says nothing of what the breaker protects.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_no_failure_to_its_breaker() {
    let redis = RedisServer::launch(Redis::default()).await;
    let policies = json!({"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1"}}});
    let sidecar = Plan::new("orders")
        .with(&Component::redis_state("store", &redis.address()))
        .policies(&outbound(
            "store",
            &policies,
            &json!({"circuitBreaker": "b"}),
        ))
        .serving()
        .await;
    sidecar.assert_state_works("store").await;
    redis.stop().await;
    sidecar.until("store", "unavailable", s(30)).await;
    for _ in 0..3 {
        let answer = sidecar.get("/v1.0/state/store/proof").await;
        answer.assert(503, "ERR_COMPONENT_NOT_READY");
    }
    let seen = sidecar.breaker("b-store").await;
    assert_eq!(
        (&seen["state"], &seen["counts"]["totalFailures"]),
        (&json!("closed"), &json!(0)),
        "{seen}"
    );
    redis.start().await;
    sidecar.until("store", "ready", s(30)).await;
    wait::until("the store", s(5), async || {
        sidecar.get("/v1.0/state/store/proof").await.status == 200
    })
    .await;
}
