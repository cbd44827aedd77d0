//! Retries and time-outs of service invocation, over HTTP and by `InvokeService`.
//!
//! Owns: rows 1 to 5, 9, 10, 12 to 14, 25, 26, 33, 43, 46 and 48 of `resiliency.md` §16, and X4, X6, X8, X9, X13, X14.
//! Start at any test; each is a story of its own. A sidecar that calls its own app is under the same policies as one that
//! calls another's, so there is a second one only where that matters. Breakers are in `resiliency_breaker.rs`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::time::{Duration, Instant, SystemTime};

use outrigger_e2e::grpc;
use outrigger_e2e::http::Connection;
use outrigger_e2e::peers::{self, CALL};
use outrigger_e2e::{
    App, GrpcApp, GrpcReply, Peer, Plan, Registry, Reply, Request, Sidecar, ms, s,
};
use outrigger_testkit::wait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ON_INVOKE: &str = "/dapr.proto.runtime.v1.AppCallback/OnInvoke";

/// A sidecar that calls its own app under these policies.
async fn shop(app: &App, spec: &Value) -> Sidecar {
    let sidecar = Plan::new("shop")
        .app(app.port())
        .policies(spec)
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(15)).await;
    sidecar
}

/// One retry policy `r` for the app `id`.
fn retries(id: &str, retry: &Value) -> Value {
    json!({
        "policies": {"retries": {"r": retry}},
        "targets": {"apps": {id: {"retry": "r"}}},
    })
}

fn constant(duration: &str, max: i32) -> Value {
    json!({"policy": "constant", "duration": duration, "maxRetries": max})
}

fn path(id: &str, method: &str) -> String {
    format!("/v1.0/invoke/{id}/method/{method}")
}

/// Between one and the next.
fn gaps(times: &[Instant]) -> Vec<Duration> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn peer_times(peer: &Peer) -> Vec<Instant> {
    peer.calls(CALL).iter().map(|called| called.at).collect()
}

#[track_caller]
fn assert_between(value: Duration, from: Duration, to: Duration) {
    assert!(
        value >= from && value <= to,
        "{value:?} of {from:?} to {to:?}"
    );
}

/// Row 1, first half; X13 beside it.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_sidecar_is_tried_again_after_a_second_without_any_policy() {
    let registry = Registry::new();
    let peer = registry
        .peer("far", |nth, _| match nth {
            1 | 2 => peers::unavailable(),
            _ => peers::answered(200, b"hello"),
        })
        .await;
    let near = registry.plan("near").serving().await;
    let answer = near.get(&path("far", "a")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let times = peer_times(&peer);
    assert_eq!(times.len(), 3);
    for gap in gaps(&times) {
        assert_between(gap, ms(990), s(3));
    }
}

/// Row 1, second half, over both APIs.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_stays_unreachable_is_given_up_after_three_retries() {
    let registry = Registry::new();
    let peer = registry.peer("far", |_, _| peers::unavailable()).await;
    let near = registry.plan("near").serving().await;
    let began = Instant::now();
    let answer = near.get(&path("far", "a")).await;
    assert_between(began.elapsed(), ms(2_990), s(8));
    answer.assert(500, "ERR_DIRECT_INVOKE");
    let text = answer.text();
    assert!(
        text.contains("failed to invoke target far after 3 retries. Error: rpc error: code = Unavailable desc = nobody is here"),
        "{text}"
    );
    assert_eq!(peer.count(CALL), 4);

    peer.clear();
    let outcome = grpc::invoke(near.ports.grpc, "far", "a").await;
    assert_eq!(outcome.code, 13, "{outcome:?}");
    assert!(
        outcome.message.starts_with("failed to invoke, id: far"),
        "{outcome:?}"
    );
    assert_eq!(peer.count(CALL), 4);
}

/// Row 2.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_app_or_of_its_sidecar_is_final_without_any_policy() {
    let registry = Registry::new();
    let peer = registry
        .peer("far", |nth, _| match nth {
            1 => peers::answered(500, b"the app's own"),
            _ => GrpcReply::status(13, "the app is down"),
        })
        .await;
    let near = registry.plan("near").serving().await;
    let answer = near.get(&path("far", "a")).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (500, "the app's own")
    );
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("outrigger-resiliency"), None);
    assert_eq!(peer.count(CALL), 1);
    let answer = near.get(&path("far", "a")).await;
    answer.assert(500, "ERR_DIRECT_INVOKE");
    assert_eq!(peer.count(CALL), 2);
}

/// Row 3, first half.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_returned_as_it_is_once_retries_are_exhausted() {
    let app = App::answering(&[400]).await;
    let shop = shop(&app, &retries("shop", &constant("10ms", 3))).await;
    let answer = shop.get(&path("shop", "a")).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (400, "from the app")
    );
    assert_eq!(
        answer.header("outrigger-resiliency"),
        Some("retries-exhausted; attempts=4")
    );
    assert_eq!(app.count("/a"), 4);
    let labels = [
        ("policy", "retry"),
        ("target", "app_shop"),
        ("name", "policies"),
        ("flow_direction", "outbound"),
        ("status", ""),
    ];
    shop.until_metric("dapr_resiliency_count", &labels, 1.0)
        .await;
    shop.until_metric("dapr_resiliency_activations_total", &labels, 1.0)
        .await;
    shop.until_metric(
        "outrigger_resiliency_attempts_total",
        &[("target", "app_shop"), ("outcome", "failure")],
        4.0,
    )
    .await;
    shop.until_metric(
        "outrigger_resiliency_retry_delay_seconds_count",
        &[("target", "app_shop")],
        3.0,
    )
    .await;
    let warned = shop
        .process
        .output()
        .matches("Error processing operation endpoint[shop, shop:a]. Retrying in 10ms")
        .count();
    assert_eq!(warned, 1, "{}", shop.process.output());
    let exhausted = shop
        .process
        .says("Gave up on endpoint[shop, shop:a]", s(5))
        .await;
    assert!(exhausted.contains("attempts=4"), "{exhausted}");
}

/// Row 3, second half; F29 tells nothing of a success unless it is asked.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_recovers_is_answered_for_and_that_is_told_once() {
    let app = App::answering(&[500, 500, 200]).await;
    let shop = shop(&app, &retries("shop", &constant("10ms", 3))).await;
    let answer = shop.get(&path("shop", "a")).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "from the app")
    );
    assert_eq!(answer.header("outrigger-resiliency"), None);
    assert_eq!(app.count("/a"), 3);
    shop.process
        .says(
            "Recovered processing operation endpoint[shop, shop:a] after 3 attempts",
            s(5),
        )
        .await;
    let output = shop.process.output();
    assert_eq!(output.matches("Recovered processing").count(), 1);
    assert_eq!(output.matches("Error processing operation").count(), 1);
    let labels = [("policy", "retry"), ("target", "app_shop")];
    shop.until_metric("dapr_resiliency_count", &labels, 1.0)
        .await;
    shop.until_metric("dapr_resiliency_activations_total", &labels, 1.0)
        .await;
}

/// Row 3 by `InvokeService`, to an HTTP app.
#[tokio::test(flavor = "multi_thread")]
async fn invoke_service_is_retried_like_http() {
    let app = App::counting(|nth, asked| match (asked.path.as_str(), nth) {
        ("/a", 1 | 2) => Reply::status(503),
        ("/a", _) => Reply::text("here"),
        _ => Reply::status(404),
    })
    .await;
    let shop = shop(&app, &retries("shop", &constant("10ms", 3))).await;
    let outcome = grpc::invoke(shop.ports.grpc, "shop", "a").await;
    outcome.assert(0, "");
    assert_eq!(app.count("/a"), 3);
    let outcome = grpc::invoke(shop.ports.grpc, "shop", "b").await;
    assert_eq!(
        (outcome.code, outcome.message.as_str()),
        (5, "Not Found"),
        "{outcome:?}"
    );
    assert_eq!(app.count("/b"), 4);
    assert_eq!(
        outcome.field("outrigger-resiliency"),
        Some("retries-exhausted; attempts=4")
    );
}

/// Row 4.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_entry_switches_the_built_in_retry_off() {
    let registry = Registry::new();
    let (no_retry, only_timeout) = (
        registry.peer("far", |_, _| peers::unavailable()).await,
        registry.peer("slow", |_, _| peers::unavailable()).await,
    );
    let near = registry
        .plan("near")
        .policies(&json!({
            "policies": {
                "timeouts": {"t": "5s"},
                "retries": {"none": {"maxRetries": 0}},
            },
            "targets": {"apps": {"far": {"retry": "none"}, "slow": {"timeout": "t"}}},
        }))
        .serving()
        .await;
    for (id, peer) in [("far", &no_retry), ("slow", &only_timeout)] {
        let answer = near.post(&path(id, "a"), "body").await;
        answer.assert(500, "ERR_DIRECT_INVOKE");
        assert_eq!(peer.count(CALL), 1, "{id}");
        let outcome = grpc::invoke(near.ports.grpc, id, "a").await;
        assert_ne!(outcome.code, 0);
        assert_eq!(peer.count(CALL), 2, "{id}");
    }
}

/// Row 5.
#[tokio::test(flavor = "multi_thread")]
async fn a_default_retry_multiplies_with_the_built_in_one() {
    let registry = Registry::new();
    let peer = registry.peer("far", |_, _| peers::unavailable()).await;
    let near = registry
        .plan("near")
        .policies(&json!({"policies": {"retries": {"DefaultAppRetryPolicy": constant("10ms", 3)}}}))
        .serving()
        .await;
    let began = Instant::now();
    let answer = near.get(&path("far", "a")).await;
    assert_between(began.elapsed(), ms(12_000), s(25));
    answer.assert(500, "ERR_DIRECT_INVOKE");
    assert_eq!(peer.count(CALL), 16);
}

/// Row 9.
#[tokio::test(flavor = "multi_thread")]
async fn only_listed_statuses_are_retried_and_lost_connections_always() {
    let registry = Registry::new();
    let peer = registry.peer("far", |_, _| peers::unavailable()).await;
    let app = App::start(|asked| {
        let status = asked.path.trim_start_matches('/').parse();
        Reply::status(status.unwrap_or(404))
    })
    .await;
    let retry = json!({
        "duration": "10ms",
        "maxRetries": 3,
        "matching": {"httpStatusCodes": "429,500-599"},
    });
    let shop = registry
        .plan("shop")
        .app(app.port())
        .policies(&json!({
            "policies": {"retries": {"r": retry}},
            "targets": {"apps": {"shop": {"retry": "r"}, "far": {"retry": "r"}}},
        }))
        .serving()
        .await;
    shop.until_status("/v1.0/healthz", 204, s(15)).await;
    for (status, attempts) in [(503, 4), (404, 1), (429, 4), (428, 1), (302, 1)] {
        let answer = shop.get(&path("shop", &status.to_string())).await;
        assert_eq!(answer.status, status);
        assert_eq!(app.count(&format!("/{status}")), attempts, "{status}");
    }
    let answer = shop.get(&path("far", "a")).await;
    answer.assert(500, "ERR_DIRECT_INVOKE");
    assert_eq!(peer.count(CALL), 4);
}

/// Row 9 by `InvokeService`: the HTTP list, because the app speaks HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn invoke_service_matches_the_status_of_an_http_app() {
    let app = App::start(|asked| match asked.path.as_str() {
        "/busy" => Reply::status(503),
        _ => Reply::status(404),
    })
    .await;
    let retry = json!({
        "duration": "10ms",
        "maxRetries": 3,
        "matching": {"httpStatusCodes": "500-599", "gRPCStatusCodes": "5"},
    });
    let shop = shop(&app, &retries("shop", &retry)).await;
    let busy = grpc::invoke(shop.ports.grpc, "shop", "busy").await;
    let missing = grpc::invoke(shop.ports.grpc, "shop", "missing").await;
    assert_eq!((busy.code, missing.code), (14, 5), "{busy:?} {missing:?}");
    assert_eq!((app.count("/busy"), app.count("/missing")), (4, 1));
}

/// Row 10.
#[tokio::test(flavor = "multi_thread")]
async fn the_two_lists_are_independent_and_an_empty_one_matches_nothing() {
    for (matching, attempts) in [
        (json!({"gRPCStatusCodes": "14"}), 4),
        (json!({"httpStatusCodes": ","}), 1),
        (json!({"httpStatusCodes": ""}), 4),
    ] {
        let app = App::answering(&[500]).await;
        let retry = json!({"duration": "10ms", "maxRetries": 3, "matching": matching});
        let shop = shop(&app, &retries("shop", &retry)).await;
        assert_eq!(shop.get(&path("shop", "a")).await.status, 500);
        assert_eq!(app.count("/a"), attempts, "{matching}");
    }
}

/// Row 12, over both APIs.
#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_has_its_own_time() {
    let app = App::start(|asked| match asked.path.as_str() {
        "/a" | "/b" => Reply::status(200).after(s(3)),
        _ => Reply::status(404),
    })
    .await;
    let spec = json!({
        "policies": {"timeouts": {"t": "500ms"}, "retries": {"r": constant("10ms", 2)}},
        "targets": {"apps": {"shop": {"timeout": "t", "retry": "r"}}},
    });
    let sidecar = shop(&app, &spec).await;
    let began = Instant::now();
    let answer = sidecar.get(&path("shop", "a")).await;
    let took = began.elapsed();
    answer.assert(500, "ERR_DIRECT_INVOKE");
    assert!(
        answer.text().contains("context deadline exceeded"),
        "{}",
        answer.text()
    );
    assert_eq!(
        answer.header("outrigger-resiliency"),
        Some("timeout; attempts=3")
    );
    assert_between(took, ms(1_520), s(3));
    let times = app.times("/a");
    assert_eq!(times.len(), 3);
    for gap in gaps(&times) {
        assert_between(gap, ms(500), ms(1_200));
    }
    for policy in ["timeout", "retry"] {
        let labels = [("policy", policy), ("target", "app_shop")];
        sidecar
            .until_metric("dapr_resiliency_activations_total", &labels, 1.0)
            .await;
        sidecar
            .until_metric("dapr_resiliency_count", &labels, 1.0)
            .await;
    }

    let outcome = grpc::invoke(sidecar.ports.grpc, "shop", "b").await;
    outcome.assert(4, "context deadline exceeded");
    assert_eq!(
        outcome.field("outrigger-resiliency"),
        Some("timeout; attempts=3")
    );
    assert_eq!(app.count("/b"), 3);
}

/// Row 13.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_ends_the_retries_and_is_no_failure() {
    let app = App::answering(&[500]).await;
    let shop = shop(
        &app,
        &json!({
            "policies": {
                "retries": {"r": constant("1s", 10)},
                "circuitBreakers": {"b": {"trip": "consecutiveFailures > 15"}},
            },
            "targets": {"apps": {"shop": {"retry": "r", "circuitBreaker": "b"}}},
        }),
    )
    .await;
    let call = Request::get(&path("shop", "a"));
    let left = tokio::time::timeout(ms(2_500), outrigger_e2e::http::call(shop.ports.http, &call));
    assert!(left.await.is_err(), "there must be no answer yet");
    assert_eq!(app.count("/a"), 3);
    wait::never("a fourth attempt", s(2), async || app.count("/a") > 3).await;
    let seen = shop.breaker("shop:a").await;
    assert_eq!(seen["counts"]["totalFailures"], 3, "{seen}");
    assert_eq!(seen["counts"]["requests"], 3, "{seen}");
}

/// F8, while an attempt is under way: neither the breaker nor the metric of time-outs counts it.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_caller_leaves_counts_for_nothing() {
    let app = App::start(|asked| match asked.path.as_str() {
        "/a" => Reply::status(500).after(s(20)),
        _ => Reply::status(404),
    })
    .await;
    let spec = json!({
        "policies": {
            "timeouts": {"t": "30s"},
            "retries": {"r": constant("10ms", 3)},
            "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1"}},
        },
        "targets": {"apps": {"shop": {"timeout": "t", "retry": "r", "circuitBreaker": "b"}}},
    });
    let shop = shop(&app, &spec).await;
    let call = Request::get(&path("shop", "a"));
    let left = tokio::time::timeout(ms(500), outrigger_e2e::http::call(shop.ports.http, &call));
    assert!(left.await.is_err(), "there must be no answer yet");
    let labels = [("target", "app_shop"), ("outcome", "cancelled")];
    shop.until_metric("outrigger_resiliency_attempts_total", &labels, 1.0)
        .await;
    let seen = shop.breaker("shop:a").await;
    assert_eq!(seen["state"], "closed", "{seen}");
    assert_eq!(seen["counts"]["totalFailures"], 0, "{seen}");
    let timeouts = [("policy", "timeout")];
    let counted = shop
        .metric("dapr_resiliency_activations_total", &timeouts)
        .await;
    assert!(counted < 0.5, "{counted}");
}

/// Row 14.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stalls_is_aborted_and_never_asked_for_again() {
    let app = App::start(|asked| match asked.path.as_str() {
        "/a" => Reply::text("half of it").stalling(),
        _ => Reply::status(404),
    })
    .await;
    let shop = shop(
        &app,
        &json!({
            "policies": {"timeouts": {"t": "1s"}, "retries": {"r": constant("10ms", 3)}},
            "targets": {"apps": {"shop": {"timeout": "t", "retry": "r"}}},
        }),
    )
    .await;
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", shop.ports.http))
        .await
        .unwrap();
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        path("shop", "a")
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // A reset is as good as an end.
    wait::within("the end of the answer", s(10), reading)
        .await
        .ok();
    let took = began.elapsed();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("half of it"), "{text}");
    assert!(
        !text.contains("\r\n0\r\n"),
        "it must not look whole: {text}"
    );
    assert_between(took, ms(990), s(4));
    assert_eq!(app.count("/a"), 1);
    wait::never("a second request", ms(500), async || app.count("/a") > 1).await;
    let labels = [("policy", "timeout"), ("target", "app_shop")];
    shop.until_metric("dapr_resiliency_activations_total", &labels, 1.0)
        .await;
}

/// Row 25.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_is_sent_once_and_still_judged() {
    let app = App::answering(&[500]).await;
    let shop = shop(
        &app,
        &json!({
            "policies": {
                "retries": {"r": constant("10ms", 3)},
                "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 3", "timeout": "30s"}},
            },
            "targets": {"apps": {"shop": {"retry": "r", "circuitBreaker": "b"}}},
        }),
    )
    .await;
    let request = Request::new("POST", &path("shop", "a"));
    for nth in 1..=3 {
        let mut connection = Connection::open(shop.ports.http).await.unwrap();
        let answer = connection.stream(&request, 1000).await.unwrap();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (500, "from the app")
        );
        assert_eq!(
            answer.header("outrigger-resiliency"),
            Some("body-not-buffered; attempts=1")
        );
        assert_eq!(app.count("/a"), nth);
    }
    let mut connection = Connection::open(shop.ports.http).await.unwrap();
    let answer = connection.stream(&request, 1000).await.unwrap();
    answer.assert(500, "ERR_DIRECT_INVOKE");
    assert!(
        answer.text().contains("circuit breaker is open"),
        "{}",
        answer.text()
    );
    assert_eq!(app.count("/a"), 3);
}

/// Row 25 with the built-in retry: it does not apply either.
#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_retry_leaves_a_chunked_body_alone() {
    let registry = Registry::new();
    let peer = registry.peer("far", |_, _| peers::unavailable()).await;
    let near = registry.plan("near").serving().await;
    let mut connection = Connection::open(near.ports.http).await.unwrap();
    let request = Request::new("POST", &path("far", "a"));
    let answer = connection.stream(&request, 1000).await.unwrap();
    answer.assert(500, "ERR_DIRECT_INVOKE");
    assert_eq!(peer.count(CALL), 1);
}

/// Row 26, over two real sidecars.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_sent_again_to_the_byte_and_its_fields_are_clean() {
    let registry = Registry::new();
    let app = App::answering(&[500, 500, 200]).await;
    let _far = registry
        .registered(registry.plan("far").app(app.port()))
        .await;
    let near = registry
        .plan("near")
        .policies(&retries("far", &constant("10ms", 3)))
        .serving()
        .await;
    let body: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 251) as u8).collect();
    let answer = near.post(&path("far", "a"), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = app.received();
    let attempts: Vec<_> = received.iter().filter(|asked| asked.path == "/a").collect();
    assert_eq!(attempts.len(), 3);
    for attempt in attempts {
        assert_eq!(attempt.length, 1 << 20);
        assert!(attempt.body == body, "other bytes");
        for name in ["x-forwarded-for", "x-forwarded-host", "forwarded"] {
            let values = attempt.values(name);
            assert_eq!(values.len(), 1, "{name}: {values:?}");
            assert!(!values[0].contains(','), "{name}: {values:?}");
        }
        assert!(attempt.values("outrigger-attempt").is_empty());
    }
}

/// Row 26 beyond the bound of `--max-body-size`.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_to_be_kept_is_sent_once() {
    let app = App::answering(&[500]).await;
    let shop = Plan::new("shop")
        .app(app.port())
        .flag("--max-body-size=64Mi")
        .policies(&retries("shop", &constant("10ms", 3)))
        .serving()
        .await;
    shop.until_status("/v1.0/healthz", 204, s(15)).await;
    let answer = shop.post(&path("shop", "a"), vec![7; (16 << 20) + 1]).await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.header("outrigger-resiliency"),
        Some("body-not-buffered; attempts=1")
    );
    assert_eq!(app.count("/a"), 1);
    let answer = shop.post(&path("shop", "b"), vec![7; 16 << 20]).await;
    assert_eq!(answer.status, 500);
    assert_eq!(app.count("/b"), 4);
}

/// Row 33, over both APIs.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_grpc_app_is_a_failure_that_is_retried() {
    let app = GrpcApp::start(|nth, called| match (called.method.as_str(), nth) {
        (ON_INVOKE, 1 | 2 | 4 | 5) => GrpcReply::status(14, "busy"),
        (ON_INVOKE, _) => GrpcReply::ok(Vec::new()),
        _ => GrpcReply::status(12, "no such method"),
    })
    .await;
    let shop = Plan::new("shop")
        .app(app.port())
        .flag("--app-protocol=grpc")
        .policies(&retries("shop", &constant("10ms", 3)))
        .serving()
        .await;
    shop.until_status("/v1.0/healthz", 204, s(15)).await;
    let answer = shop.get(&path("shop", "a")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(app.count(ON_INVOKE), 3);
    let outcome = grpc::invoke(shop.ports.grpc, "shop", "a").await;
    outcome.assert(0, "");
    assert_eq!(app.count(ON_INVOKE), 6);
}

/// Row 33: the gRPC list applies, and what is given up is told as it came.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_grpc_app_is_matched_by_the_grpc_list() {
    let app = GrpcApp::start(|_, called| match called.method.as_str() {
        ON_INVOKE => GrpcReply::status(14, "busy"),
        _ => GrpcReply::status(12, "no such method"),
    })
    .await;
    let retry = json!({
        "duration": "10ms",
        "maxRetries": 3,
        "matching": {"gRPCStatusCodes": "1,2"},
    });
    let shop = Plan::new("shop")
        .app(app.port())
        .flag("--app-protocol=grpc")
        .policies(&retries("shop", &retry))
        .serving()
        .await;
    shop.until_status("/v1.0/healthz", 204, s(15)).await;
    let answer = shop.get(&path("shop", "a")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json(), json!({"code": 14, "message": "busy"}));
    assert_eq!(app.count(ON_INVOKE), 1);
    let outcome = grpc::invoke(shop.ports.grpc, "shop", "a").await;
    outcome.assert(14, "busy");
    assert_eq!(app.count(ON_INVOKE), 2);
}

/// Row 43, but for the pauses.
#[tokio::test(flavor = "multi_thread")]
async fn an_override_of_the_built_in_retry_has_a_floor_of_three() {
    for (given, attempts) in [(1, 4), (-1, 4), (10, 11)] {
        let registry = Registry::new();
        let peer = registry.peer("far", |_, _| peers::unavailable()).await;
        let near = registry
            .plan("near")
            .policies(&json!({"policies": {"retries": {
                "DaprBuiltInServiceRetries": constant("10ms", given),
                "DaprBuiltInActorNotFoundRetries": constant("10ms", 10),
            }}}))
            .serving()
            .await;
        let answer = near.get(&path("far", "a")).await;
        answer.assert(500, "ERR_DIRECT_INVOKE");
        assert_eq!(peer.count(CALL), attempts, "maxRetries: {given}");
        let output = near.process.output();
        let reset = "Attempted override of DaprBuiltInServiceRetries did not meet minimum retry count, resetting to 3.";
        assert_eq!(output.contains(reset), given < 3, "{output}");
        let ignored = "Attempted to override protected policy DaprBuiltInActorNotFoundRetries";
        assert!(output.contains(ignored), "{output}");
    }
}

/// Row 43, the pauses.
#[tokio::test(flavor = "multi_thread")]
async fn an_override_without_a_duration_pauses_for_five_seconds() {
    let registry = Registry::new();
    let peer = registry.peer("far", |_, _| peers::unavailable()).await;
    let near = registry
        .plan("near")
        .policies(
            &json!({"policies": {"retries": {"DaprBuiltInServiceRetries": {"maxRetries": 3}}}}),
        )
        .serving()
        .await;
    near.get(&path("far", "a"))
        .await
        .assert(500, "ERR_DIRECT_INVOKE");
    let times = peer_times(&peer);
    assert_eq!(times.len(), 4);
    for gap in gaps(&times) {
        assert_between(gap, ms(4_990), s(8));
    }
}

/// Row 46, over both APIs.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_for_an_app_is_found_with_the_sidecars_own_namespace_behind_it() {
    let registry = Registry::new();
    let peer = registry.peer("far", |_, _| peers::unavailable()).await;
    let near = registry
        .plan("near")
        .env("NAMESPACE", "home")
        .policies(&retries("far", &json!({"maxRetries": 0})))
        .serving()
        .await;
    for (id, attempts) in [("far", 1), ("far.home", 1), ("far.away", 4)] {
        peer.clear();
        near.get(&path(id, "a"))
            .await
            .assert(500, "ERR_DIRECT_INVOKE");
        assert_eq!(peer.count(CALL), attempts, "{id}");
        peer.clear();
        grpc::invoke(near.ports.grpc, id, "a").await;
        assert_eq!(peer.count(CALL), attempts, "{id} by gRPC");
    }
}

/// Row 48, first half, and the rest of X6 over HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_a_longer_pause_gets_it() {
    let app = App::counting(|nth, asked| {
        let busy = |status| Reply::status(status);
        match (asked.path.as_str(), nth) {
            ("/seconds", 1) => busy(503).header("retry-after", "3"),
            ("/date", 1) => {
                let at = SystemTime::now() + s(3);
                busy(429).header("retry-after", http_date(at))
            }
            ("/shorter", 1) => busy(503).header("retry-after", "0"),
            ("/other", 1) => busy(500).header("retry-after", "30"),
            ("/never", _) => busy(503).header("retry-after", "61"),
            _ => Reply::status(200),
        }
    })
    .await;
    let shop = shop(&app, &retries("shop", &constant("1s", 1))).await;
    let call = async |method: &str| {
        let answer = shop.get(&path("shop", method)).await;
        let times = app.times(&format!("/{method}"));
        (answer, gaps(&times))
    };
    let (seconds, date, shorter, other, never) = tokio::join!(
        call("seconds"),
        call("date"),
        call("shorter"),
        call("other"),
        call("never")
    );
    for (answer, gaps) in [&seconds, &date, &shorter, &other] {
        assert_eq!((answer.status, gaps.len()), (200, 1));
    }
    assert_between(seconds.1[0], ms(2_990), s(6));
    // A date has no fractions of a second.
    assert_between(date.1[0], ms(1_900), s(6));
    assert_between(shorter.1[0], ms(990), s(3));
    assert_between(other.1[0], ms(990), s(3));
    assert_eq!((never.0.status, never.1.len()), (503, 0));
    assert_eq!(never.0.header("retry-after"), Some("61"));
}

/// As HTTP writes it.
fn http_date(at: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    format!(
        "{}, {:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS[usize::try_from(days % 7).unwrap()],
        day + 1,
        MONTHS[month],
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Row 48, second half; X8.
#[tokio::test(flavor = "multi_thread")]
async fn retries_end_when_their_budget_is_spent() {
    let app = App::answering(&[503]).await;
    let retry = json!({
        "duration": "1ms",
        "maxRetries": 3,
        "budget": {"ratio": 0.2, "minPerSecond": 0},
    });
    let shop = shop(&app, &retries("shop", &retry)).await;
    let mut spent = 0;
    for _ in 0..100 {
        let answer = shop.get(&path("shop", "a")).await;
        assert_eq!(answer.status, 503);
        let told = answer.header("outrigger-resiliency").unwrap_or_default();
        spent += usize::from(told.starts_with("budget-exhausted; "));
    }
    let hits = app.count("/a");
    assert!(hits > 100 && hits <= 120, "{hits} hits of 100 calls");
    assert!(spent >= 80, "{spent}");
}

/// X4, the exponential back-off.
#[tokio::test(flavor = "multi_thread")]
async fn an_exponential_back_off_grows_as_it_is_told() {
    let app = App::answering(&[500]).await;
    let retry = json!({
        "policy": "exponential",
        "initialInterval": "100ms",
        "multiplier": 2,
        "randomizationFactor": 0,
        "maxInterval": "400ms",
        "maxRetries": 4,
        "maxElapsedTime": "0s",
    });
    let shop = shop(&app, &retries("shop", &retry)).await;
    assert_eq!(shop.get(&path("shop", "a")).await.status, 500);
    let gaps = gaps(&app.times("/a"));
    assert_eq!(gaps.len(), 4);
    for (gap, base) in gaps.iter().zip([100, 200, 400, 400]) {
        assert_between(*gap, ms(base), ms(base + 300));
    }
}

/// X4: with a limit, the next pause is not begun if it would end too late.
#[tokio::test(flavor = "multi_thread")]
async fn an_exponential_back_off_gives_up_in_time() {
    let app = App::answering(&[500]).await;
    let retry = json!({
        "policy": "exponential",
        "initialInterval": "100ms",
        "multiplier": 10,
        "randomizationFactor": 0,
        "maxInterval": "60s",
        "maxElapsedTime": "900ms",
    });
    let shop = shop(&app, &retries("shop", &retry)).await;
    let began = Instant::now();
    assert_eq!(shop.get(&path("shop", "a")).await.status, 500);
    assert!(began.elapsed() < ms(900), "{:?}", began.elapsed());
    assert_eq!(app.count("/a"), 2);
}

/// X4, jitter of both kinds.
#[tokio::test(flavor = "multi_thread")]
async fn jitter_stays_within_its_bounds_and_is_not_always_the_same() {
    let app = App::answering(&[500]).await;
    let shop = shop(
        &app,
        &json!({
            "policies": {"retries": {
                "even": {"duration": "200ms", "maxRetries": 8, "jitter": 0.5},
                "wild": {"policy": "exponential", "initialInterval": "200ms", "multiplier": 1, "randomizationFactor": 0.5, "maxRetries": 8},
            }},
            "targets": {"apps": {"shop": {"retry": "even", "methods": [{"match": "/wild", "retry": "wild"}]}}},
        }),
    )
    .await;
    let (even, wild) = (path("shop", "even"), path("shop", "wild"));
    tokio::join!(shop.get(&even), shop.get(&wild));
    for name in ["/even", "/wild"] {
        let gaps = gaps(&app.times(name));
        assert_eq!(gaps.len(), 8);
        for gap in &gaps {
            assert_between(*gap, ms(100), ms(600));
        }
        let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
        assert!(*most - *least > ms(10), "{gaps:?}");
    }
}

/// X9.
#[tokio::test(flavor = "multi_thread")]
async fn a_marked_retry_tells_the_app_which_attempt_it_is() {
    let app = App::answering(&[500]).await;
    let retry = json!({"duration": "10ms", "maxRetries": 2, "attemptMarker": true});
    let shop = shop(&app, &retries("shop", &retry)).await;
    shop.get(&path("shop", "a")).await;
    let received = app.received();
    let attempts: Vec<_> = received.iter().filter(|asked| asked.path == "/a").collect();
    let markers: Vec<_> = attempts
        .iter()
        .map(|asked| asked.values("outrigger-attempt"))
        .collect();
    assert_eq!(markers, [vec![], vec!["2"], vec!["3"]]);
}

/// X9, gRPC.
#[tokio::test(flavor = "multi_thread")]
async fn a_marked_retry_tells_a_grpc_app_how_many_attempts_went_before() {
    let app = GrpcApp::start(|_, called| match called.method.as_str() {
        ON_INVOKE => GrpcReply::status(14, "busy"),
        _ => GrpcReply::status(12, "no such method"),
    })
    .await;
    let retry = json!({"duration": "10ms", "maxRetries": 2, "attemptMarker": true});
    let shop = Plan::new("shop")
        .app(app.port())
        .flag("--app-protocol=grpc")
        .policies(&retries("shop", &retry))
        .serving()
        .await;
    shop.until_status("/v1.0/healthz", 204, s(15)).await;
    grpc::invoke(shop.ports.grpc, "shop", "a")
        .await
        .assert(14, "busy");
    let calls = app.calls(ON_INVOKE);
    let markers: Vec<_> = calls
        .iter()
        .map(|called| called.field("grpc-previous-rpc-attempts"))
        .collect();
    assert_eq!(markers, [None, Some("1"), Some("2")]);
}

/// X13.
#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_retry_can_be_switched_off_or_made_less() {
    for (built_in, attempts) in [(json!("off"), 1), (json!(0), 1), (json!(1), 2)] {
        let registry = Registry::new();
        let peer = registry.peer("far", |_, _| peers::unavailable()).await;
        let near = registry
            .plan("near")
            .policies(&json!({"builtin": {"service": built_in}}))
            .serving()
            .await;
        near.get(&path("far", "a"))
            .await
            .assert(500, "ERR_DIRECT_INVOKE");
        assert_eq!(peer.count(CALL), attempts, "{built_in}");
        peer.clear();
        grpc::invoke(near.ports.grpc, "far", "a").await;
        assert_eq!(peer.count(CALL), attempts, "{built_in} by gRPC");
    }
}

/// X14, over both APIs: between attempts, and in the middle of one.
#[tokio::test(flavor = "multi_thread")]
async fn all_attempts_together_have_a_total_time() {
    let app = App::counting(|nth, asked| match (asked.path.as_str(), nth) {
        ("/slow", 2..) => Reply::status(500).after(s(20)),
        ("/dapr/config" | "/dapr/subscribe", _) => Reply::status(404),
        _ => Reply::status(500),
    })
    .await;
    let shop = shop(
        &app,
        &json!({
            "policies": {"retries": {"r": constant("400ms", -1)}},
            "targets": {"apps": {"shop": {"retry": "r", "totalTimeout": "1s"}}},
        }),
    )
    .await;
    let began = Instant::now();
    let answer = shop.get(&path("shop", "a")).await;
    // The pause after the third attempt would end too late.
    assert_between(began.elapsed(), ms(800), s(2));
    assert_eq!((answer.status, answer.text().as_str()), (500, ""));
    assert_eq!(app.count("/a"), 3);

    let began = Instant::now();
    let answer = shop.get(&path("shop", "slow")).await;
    assert_between(began.elapsed(), ms(990), s(3));
    answer.assert(500, "ERR_DIRECT_INVOKE");
    assert!(
        answer.text().contains("context deadline exceeded"),
        "{}",
        answer.text()
    );
    assert_eq!(app.count("/slow"), 2);

    let outcome = grpc::invoke(shop.ports.grpc, "shop", "b").await;
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert_eq!(app.count("/b"), 3);
}

/// F18.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_avoids_the_address_that_has_just_failed() {
    let registry = Registry::new();
    let (one, other) = (
        registry.peer("far", |_, _| peers::unavailable()).await,
        registry.peer("far", |_, _| peers::unavailable()).await,
    );
    let near = registry
        .plan("near")
        .policies(&retries("far", &constant("10ms", 1)))
        .serving()
        .await;
    for nth in 1..=5 {
        near.get(&path("far", "a"))
            .await
            .assert(500, "ERR_DIRECT_INVOKE");
        assert_eq!((one.count(CALL), other.count(CALL)), (nth, nth));
    }
}

/// F16: a callee that refuses is not asked again.
#[tokio::test(flavor = "multi_thread")]
async fn a_denial_by_the_other_sidecar_is_final() {
    let registry = Registry::new();
    let peer = registry
        .peer("far", |_, _| GrpcReply::status(7, "access denied"))
        .await;
    let near = registry
        .plan("near")
        .policies(&retries("far", &constant("10ms", 3)))
        .serving()
        .await;
    let answer = near.get(&path("far", "a")).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(peer.count(CALL), 1);
    let outcome = grpc::invoke(near.ports.grpc, "far", "a").await;
    assert_ne!(outcome.code, 0);
    assert_eq!(peer.count(CALL), 2);
}

/// `--resiliency-details`.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_tells_of_its_policies_where_that_is_wanted() {
    let app = App::counting(|nth, asked| match (asked.path.as_str(), nth) {
        ("/a", 1) => Reply::status(500),
        ("/a", _) => Reply::status(200),
        _ => Reply::status(404),
    })
    .await;
    let spec = json!({
        "policies": {
            "timeouts": {"t": "5s"},
            "retries": {"r": constant("10ms", 3)},
            "circuitBreakers": {"b": {}},
        },
        "targets": {"apps": {"shop": {"timeout": "t", "retry": "r", "circuitBreaker": "b"}}},
    });
    let shop = Plan::new("shop")
        .app(app.port())
        .flag("--resiliency-details")
        .policies(&spec)
        .serving()
        .await;
    shop.until_status("/v1.0/healthz", 204, s(15)).await;
    let told = "none; attempts=2/4; retry=r; timeout=t; breaker=b; state=closed; target=app_shop";
    let answer = shop.get(&path("shop", "a")).await;
    assert_eq!(
        (answer.status, answer.header("outrigger-resiliency")),
        (200, Some(told))
    );
    let told = told.replace("attempts=2", "attempts=1");
    let outcome = grpc::invoke(shop.ports.grpc, "shop", "a").await;
    outcome.assert(0, "");
    assert_eq!(outcome.field("outrigger-resiliency"), Some(&*told));
}
