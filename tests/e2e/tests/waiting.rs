//! Calls to what is not ready: who waits, for how long, what they are told, and what is told of them.
//!
//! Owns: the bounded wait of §4.8 of `lifecycle.md` on the binary, and what keeps a component pending (§4.1).
//! Start at any test; each is a story of its own. The decisions are tested in `crates/blocks/src/waiting`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::time::Instant;

use outrigger_e2e::{Component, Plan, Request, Sidecar, grpc, http, ms, s};
use outrigger_proto::dapr::proto::runtime::v1::{GetStateRequest, GetStateResponse};
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::{PrivateDir, wait};
use tokio::net::TcpListener;

const DEADLINE_EXCEEDED: i32 = 4;
const UNAVAILABLE: i32 = 14;

/// A server that accepts and says nothing; a store there is being connected.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn get_state(sidecar: &Sidecar, timeout: &str) -> grpc::Refusal {
    let request = GetStateRequest {
        store_name: "store".to_owned(),
        key: "key".to_owned(),
        ..GetStateRequest::default()
    };
    let method = "/dapr.proto.runtime.v1.Dapr/GetState";
    let headers = [("grpc-timeout", timeout)];
    let answer: Result<GetStateResponse, _> =
        grpc::call(sidecar.ports.grpc, method, &request, &headers).await;
    answer.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_little_time_hears_in_time_what_is_wrong_and_when_to_come_again() {
    let (_server, address) = silent().await;
    let store = Component::redis_state("store", &address).init_timeout("60s");
    let sidecar = Plan::new("orders").with(&store).serving().await;
    sidecar.until("store", "connecting", s(5)).await;
    let began = Instant::now();
    let refusal = get_state(&sidecar, "1S").await;
    let took = began.elapsed();
    assert_ne!(refusal.code, DEADLINE_EXCEEDED, "{refusal:?}");
    assert_eq!(refusal.code, UNAVAILABLE, "{refusal:?}");
    assert!(refusal.has("RetryInfo"), "{refusal:?}");
    assert!(took >= ms(700) && took < s(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_counted_at_the_moment_of_the_question() {
    let (_server, address) = silent().await;
    let store = Component::redis_state("store", &address).init_timeout("60s");
    let sidecar = Plan::new("orders")
        .flag("--component-wait=5s")
        .with(&store)
        .serving()
        .await;
    sidecar.until("store", "connecting", s(5)).await;
    let waiters = async || {
        let name = "outrigger_component_waiters";
        sidecar.metric(name, &[("component", "store")]).await
    };
    let request = Request::get("/v1.0/state/store/key");
    let call = http::call(sidecar.ports.http, &request);
    let seen = wait::until("a waiter", s(4), async || {
        let seen = waiters().await;
        if seen > 0.5 { Ok(()) } else { Err(seen) }
    });
    let (answer, ()) = tokio::join!(call, seen);
    answer.unwrap().assert(503, "ERR_COMPONENT_NOT_READY");
    assert!(waiters().await < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_component_waits_for_is_told_to_callers_in_metadata_and_in_status() {
    let vault = Component::new("vault", "secretstores.local.file")
        .set("secretsFile", "/nowhere/secrets.json");
    let store =
        Component::redis_state("store", "127.0.0.1:1").secret("redisPassword", "vault", "redis");
    let sidecar = Plan::new("orders")
        .with(&vault)
        .with(&store)
        .with(&Component::new("unused", "state.in-memory").annotate("init", "lazy"))
        .serving()
        .await;
    // So far off that no call waits for it.
    wait::until("some attempts of the store", s(40), async || {
        let seen = sidecar.component("vault").await;
        let is_far = seen["nextRetryMs"].as_u64() > Some(4_000);
        if is_far { Ok(()) } else { Err(seen) }
    })
    .await;
    let answer = sidecar.get("/v1.0/state/store/key").await;
    answer.assert(503, "ERR_COMPONENT_NOT_READY");
    let body = answer.json();
    let told = body["message"].as_str().unwrap();
    let expected = "component store (state.redis/v1) is pending: waiting for secret store vault";
    assert!(told.starts_with(expected), "{body}");
    let details = &body["details"][0]["metadata"];
    assert_eq!(details["class"], "SECRET", "{body}");
    assert_ne!(details["nextRetryMs"], "0", "{body}");

    let seen = sidecar.component("store").await;
    assert_eq!(seen["reason"], "secretstore:vault", "{seen}");
    assert_eq!(seen["class"], "SECRET", "{seen}");
    assert_eq!(sidecar.component("unused").await["reason"], "lazy");
    let status = sidecar.get("/outrigger/v1/status").await.json();
    let all = status["components"].as_array().unwrap();
    let store = all.iter().find(|one| one["name"] == "store").unwrap();
    assert_eq!(store["reason"], "secretstore:vault", "{store}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_appears_in_its_file_is_used_at_once() {
    let redis = RedisServer::launch(Redis {
        password: Some("pass".to_owned()),
        ..Redis::default()
    })
    .await;
    let secrets = PrivateDir::new("secrets");
    let file = secrets.write("secrets.json", r#"{"other": "x"}"#);
    let vault = Component::new("vault", "secretstores.local.file")
        .set("secretsFile", &file.display().to_string());
    let store =
        Component::redis_state("store", &redis.address()).secret("redisPassword", "vault", "redis");
    let sidecar = Plan::new("orders")
        .flag("--component-ping-interval=2s")
        .with(&vault)
        .with(&store)
        .serving()
        .await;
    wait::until("a next attempt that is far off", s(60), async || {
        let seen = sidecar.component("store").await;
        let is_far = seen["class"] == "SECRET" && seen["nextRetryMs"].as_u64() > Some(9_000);
        if is_far { Ok(()) } else { Err(seen) }
    })
    .await;
    secrets.write("secrets.json", r#"{"other": "x", "redis": "pass"}"#);
    sidecar.until("store", "ready", s(5)).await;
    sidecar.assert_state_works("store").await;
}
