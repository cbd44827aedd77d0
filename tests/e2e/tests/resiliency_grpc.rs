//! Policies of proxied gRPC calls: unary ones, streams that say so, and streams that do not.
//!
//! Owns: rows 27 to 32 of `resiliency.md` §16 and the rest of its §9, with X3's `countStreamErrors` and X6 for gRPC.
//! Start at any test; each is a story of its own. The peer is a server that a test scripts: what a sidecar sends to
//! another is the call as it is. `InvokeService` is in `resiliency_invoke.rs`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use outrigger_e2e::grpc::{self, Outcome, Stream};
use outrigger_e2e::{GrpcApp, GrpcReply, Peer, Registry, Sidecar, ms, s};
use outrigger_proto::Message as _;
use outrigger_testkit::wait;
use serde_json::{Value, json};

const METHOD: &str = "/shop.Orders/Place";
const OPEN: &str = "circuit breaker is open";

/// A sidecar that calls the app `far` under these policies, and what is in far's place.
async fn pair(
    spec: &Value,
    script: impl Fn(usize, &outrigger_e2e::grpc_app::Called) -> GrpcReply + Send + Sync + 'static,
) -> (Sidecar, Peer, Registry) {
    let registry = Registry::new();
    let peer = registry.peer("far", script).await;
    let near = registry.plan("near").policies(spec).serving().await;
    (near, peer, registry)
}

fn retries(retry: &Value) -> Value {
    json!({
        "policies": {"retries": {"r": retry}},
        "targets": {"apps": {"far": {"retry": "r"}}},
    })
}

async fn call(near: &Sidecar, message: &[u8]) -> Outcome {
    grpc::ask(near.ports.grpc, METHOD, message, &[("dapr-app-id", "far")]).await
}

async fn open(near: &Sidecar, headers: &[(&str, &str)]) -> Stream {
    let mut all = vec![("dapr-app-id", "far")];
    all.extend(headers);
    Stream::open(near.ports.grpc, METHOD, &all).await
}

#[track_caller]
fn assert_between(value: Duration, from: Duration, to: Duration) {
    assert!(
        value >= from && value <= to,
        "{value:?} of {from:?} to {to:?}"
    );
}

/// Row 27, first half.
#[tokio::test(flavor = "multi_thread")]
async fn a_unary_call_is_retried_for_the_listed_codes_alone() {
    let retry =
        json!({"duration": "10ms", "maxRetries": 3, "matching": {"gRPCStatusCodes": "1,2,5-7"}});
    let (near, peer, _registry) = pair(&retries(&retry), |_, called| {
        let code = called.field("code").unwrap().parse().unwrap();
        match code {
            0 => GrpcReply::ok("fine"),
            code => GrpcReply::status(code, "the app's own").field("own", "kept"),
        }
    })
    .await;
    for (code, attempts) in [
        (1, 4),
        (14, 1),
        (20, 1),
        (0, 1),
        (2, 4),
        (5, 4),
        (6, 4),
        (7, 4),
        (8, 1),
    ] {
        peer.clear();
        let headers = [("dapr-app-id", "far"), ("code", &*code.to_string())];
        let outcome = grpc::ask(near.ports.grpc, METHOD, b"order", &headers).await;
        assert_eq!(outcome.code, code, "{outcome:?}");
        let calls = peer.calls(METHOD);
        assert_eq!(calls.len(), attempts, "{code}");
        for call in calls {
            assert_eq!(call.messages, [b"order".as_slice()], "{code}");
        }
        if code != 0 {
            assert_eq!(
                (outcome.message.as_str(), outcome.field("own")),
                ("the app's own", Some("kept"))
            );
        }
        let told = (attempts == 4).then_some("retries-exhausted; attempts=4");
        assert_eq!(outcome.field("outrigger-resiliency"), told, "{code}");
    }
}

/// Row 27, second half.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_code_is_never_retried() {
    let retry = json!({"duration": "10ms", "maxRetries": 3});
    let (near, peer, _registry) = pair(&retries(&retry), |nth, _| match nth {
        1 => GrpcReply::status(20, "odd"),
        2..=4 => GrpcReply::status(3, "bad"),
        _ => GrpcReply::ok("fine"),
    })
    .await;
    call(&near, b"x").await.assert(20, "odd");
    assert_eq!(peer.count(METHOD), 1);
    let outcome = call(&near, b"x").await;
    outcome.assert(0, "");
    assert_eq!(outcome.messages, [b"fine".as_slice()]);
    assert_eq!(peer.count(METHOD), 5);
    near.process
        .says(
            "Recovered processing operation endpoint[far, far:/shop.Orders/Place] after 4 attempts",
            s(5),
        )
        .await;
}

/// Row 28.
#[tokio::test(flavor = "multi_thread")]
async fn a_unary_call_that_takes_too_long_is_cut() {
    let spec = json!({
        "policies": {"timeouts": {"t": "500ms"}, "retries": {"r": {"duration": "10ms", "maxRetries": 1}}},
        "targets": {"apps": {"far": {"timeout": "t"}, "twice": {"timeout": "t", "retry": "r"}}},
    });
    let (near, peer, registry) = pair(&spec, |_, _| GrpcReply::ok("late").after(s(5))).await;
    let twice = registry
        .peer("twice", |_, _| GrpcReply::ok("late").after(s(5)))
        .await;
    let began = Instant::now();
    let outcome = call(&near, b"x").await;
    outcome.assert(4, "context deadline exceeded");
    assert_between(began.elapsed(), ms(490), s(2));
    assert_eq!(
        outcome.field("outrigger-resiliency"),
        Some("timeout; attempts=1")
    );
    assert_eq!(peer.count(METHOD), 1);
    let headers = [("dapr-app-id", "twice")];
    let outcome = grpc::ask(near.ports.grpc, METHOD, b"x", &headers).await;
    outcome.assert(4, "context deadline exceeded");
    assert_eq!(twice.count(METHOD), 2);
}

/// The time that is left to the caller goes with each attempt.
#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_is_told_how_long_it_may_take() {
    let spec = json!({
        "policies": {"timeouts": {"t": "2s"}, "retries": {"r": {"duration": "300ms", "maxRetries": 2}}},
        "targets": {"apps": {"far": {"timeout": "t", "retry": "r"}}},
    });
    let (near, peer, _registry) = pair(&spec, |_, _| GrpcReply::status(14, "busy")).await;
    let headers = [("dapr-app-id", "far"), ("grpc-timeout", "3S")];
    grpc::ask(near.ports.grpc, METHOD, b"x", &headers)
        .await
        .assert(14, "busy");
    let calls = peer.calls(METHOD);
    assert_eq!(calls.len(), 3);
    let told: Vec<Duration> = calls
        .iter()
        .map(|called| timeout(called.field("grpc-timeout").unwrap()))
        .collect();
    // What is left of the caller's time, and not the policy's own: a call that turns out to be a stream would be cut by it.
    assert!(told[0] <= s(3) && told[0] > ms(2_000), "{told:?}");
    for pair in told.windows(2) {
        assert!(pair[1] + ms(290) <= pair[0], "{told:?}");
    }
    for called in &calls {
        assert_eq!(called.field("dapr-app-id"), None);
    }
}

fn timeout(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().unwrap();
    match unit {
        "n" => Duration::from_nanos(number),
        "u" => Duration::from_micros(number),
        "m" => Duration::from_millis(number),
        _ => Duration::from_secs(number),
    }
}

/// F9: an attempt that would begin after the caller has left is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_error_is_told_when_the_next_attempt_would_come_too_late() {
    let retry = json!({"duration": "5s", "maxRetries": 3});
    let (near, peer, _registry) =
        pair(&retries(&retry), |_, _| GrpcReply::status(14, "busy")).await;
    let headers = [("dapr-app-id", "far"), ("grpc-timeout", "2S")];
    let began = Instant::now();
    grpc::ask(near.ports.grpc, METHOD, b"x", &headers)
        .await
        .assert(14, "busy");
    assert!(began.elapsed() < ms(1_500), "{:?}", began.elapsed());
    assert_eq!(peer.count(METHOD), 1);
}

/// Row 29. Ten times the time-out stands for a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_its_policies_and_its_end_is_told_once() {
    for headers in [
        &[][..],
        &[("dapr-stream", "true")],
        &[("dapr-stream", "YES")],
    ] {
        let spec = json!({
            "policies": {
                "timeouts": {"t": "300ms"},
                "retries": {"r": {"duration": "10ms", "maxRetries": 3}},
                "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1"}},
            },
            "targets": {"apps": {"far": {"timeout": "t", "retry": "r", "circuitBreaker": "b"}}},
        });
        let (near, peer, _registry) = pair(&spec, |_, _| GrpcReply::echo()).await;
        let mut stream = open(&near, headers).await;
        let began = Instant::now();
        let (mut sent, mut pace) = (0_u32, tokio::time::interval(ms(20)));
        while began.elapsed() < s(3) {
            let message = sent.to_be_bytes();
            assert!(stream.send(&message), "message {sent}");
            let back = wait::within("an echo", s(5), stream.next()).await;
            assert_eq!(back.as_deref(), Some(message.as_slice()), "{headers:?}");
            sent += 1;
            pace.tick().await;
        }
        assert_eq!(peer.count(METHOD), 1, "{headers:?}");
        drop(peer);
        let outcome = wait::within("the end", s(10), stream.ended()).await;
        assert_ne!(outcome.code, 0, "{outcome:?}");
        let seen = near.breaker("far:/shop.Orders/Place").await;
        assert_eq!(seen["state"], "closed", "{headers:?} {seen}");
        assert_eq!(seen["counts"]["totalSuccesses"], 1, "{headers:?} {seen}");
        let retried = [("policy", "retry")];
        let count = near
            .metric("dapr_resiliency_activations_total", &retried)
            .await;
        assert!(count < 0.5, "{count}");
    }
}

/// F26: an unmarked stream with several messages in front is not retriable any more, but passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_two_messages_is_passed_on_and_not_repeated() {
    let retry = json!({"duration": "10ms", "maxRetries": 3});
    let (near, peer, _registry) =
        pair(&retries(&retry), |_, _| GrpcReply::status(14, "busy")).await;
    let mut stream = open(&near, &[]).await;
    assert!(stream.send(b"one"));
    assert!(stream.send(b"two"));
    stream.finish();
    let outcome = wait::within("the end", s(10), stream.ended()).await;
    outcome.assert(14, "busy");
    let calls = peer.calls(METHOD);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].messages, [b"one".as_slice(), b"two".as_slice()]);
}

/// F26: who has seen a message never sees it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_stream_that_fails_midway_is_not_begun_again() {
    let spec = json!({
        "policies": {
            "retries": {"r": {"duration": "10ms", "maxRetries": 3}},
            "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1"}},
        },
        "targets": {"apps": {"far": {"retry": "r", "circuitBreaker": "b"}}},
    });
    let (near, peer, _registry) = pair(&spec, |_, _| {
        GrpcReply::status(14, "lost").messages(&[b"one", b"two"])
    })
    .await;
    let outcome = call(&near, b"x").await;
    outcome.assert(14, "lost");
    assert_eq!(outcome.messages, [b"one".as_slice(), b"two".as_slice()]);
    assert_eq!(peer.count(METHOD), 1);
    assert_eq!(
        near.breaker("far:/shop.Orders/Place").await["state"],
        "closed"
    );
}

/// X3.
#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_may_count_streams_that_end_badly() {
    for headers in [&[][..], &[("dapr-stream", "1")]] {
        let spec = json!({
            "policies": {"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1", "countStreamErrors": true}}},
            "targets": {"apps": {"far": {"circuitBreaker": "b"}}},
        });
        let (near, peer, _registry) = pair(&spec, |_, _| {
            GrpcReply::status(14, "lost").messages(&[b"one", b"two"])
        })
        .await;
        let mut stream = open(&near, headers).await;
        stream.send(b"x");
        stream.finish();
        stream.ended().await.assert(14, "lost");
        let seen = near
            .until_breaker("far:/shop.Orders/Place", "open", s(5))
            .await;
        assert_eq!(seen["state"], "open", "{headers:?}");
        call(&near, b"x").await.assert(2, OPEN);
        assert_eq!(peer.count(METHOD), 1);
    }
}

/// Row 30; the time-out is a tenth of the wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_marked_stream_may_wait_long_for_its_first_event() {
    let spec = json!({
        "policies": {"timeouts": {"t": "300ms"}, "retries": {"r": {"duration": "10ms", "maxRetries": 3}}},
        "targets": {"apps": {"far": {"timeout": "t", "retry": "r"}}},
    });
    let (near, peer, _registry) = pair(&spec, |_, _| GrpcReply::ok("event").after(s(3))).await;
    let mut stream = open(&near, &[("dapr-stream", "on")]).await;
    stream.send(b"subscribe");
    stream.finish();
    let outcome = wait::within("the end", s(10), stream.ended()).await;
    outcome.assert(0, "");
    assert_eq!(outcome.messages, [b"event".as_slice()]);
    assert_eq!(peer.count(METHOD), 1);
}

/// Row 31.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_rejects_a_proxied_call() {
    for (style, code) in [("dapr", 2), ("precise", 14)] {
        let spec = json!({
            "errors": style,
            "policies": {"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 2", "timeout": "30s"}}},
            "targets": {"apps": {"far": {"circuitBreaker": "b"}}},
        });
        let (near, peer, _registry) = pair(&spec, |_, _| GrpcReply::status(13, "broken")).await;
        for _ in 0..2 {
            call(&near, b"x").await.assert(13, "broken");
        }
        for headers in [&[][..], &[("dapr-stream", "true")]] {
            let mut stream = open(&near, headers).await;
            stream.send(b"x");
            stream.finish();
            let outcome = stream.ended().await;
            assert_eq!(outcome.code, code, "{outcome:?}");
            if style == "dapr" {
                assert_eq!(outcome.message, OPEN);
            } else {
                assert!(outcome.message.contains(OPEN), "{outcome:?}");
            }
            assert_eq!(
                outcome.field("outrigger-resiliency"),
                Some("breaker-open; attempts=0")
            );
        }
        assert_eq!(peer.count(METHOD), 2);
        let other = [("dapr-app-id", "far")];
        let outcome = grpc::ask(near.ports.grpc, "/shop.Orders/Other", b"x", &other).await;
        outcome.assert(13, "broken");
    }
}

/// F29 of row 31.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_proxied_call_is_told_when_to_come_again() {
    let spec = json!({
        "policies": {"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1", "timeout": "30s"}}},
        "targets": {"apps": {"far": {"circuitBreaker": "b"}}},
    });
    let (near, _peer, _registry) = pair(&spec, |_, _| GrpcReply::status(13, "broken")).await;
    call(&near, b"x").await.assert(13, "broken");
    let outcome = call(&near, b"x").await;
    outcome.assert(2, OPEN);
    assert_eq!(outcome.field("retry-after"), Some("30"), "{outcome:?}");
}

/// Row 32: nobody listens there at first.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_call_waits_for_a_peer_that_comes_back() {
    for headers in [&[][..], &[("dapr-stream", "true")]] {
        let registry = Registry::new();
        let port = registry.vacancy("far").await;
        let near = registry.plan("near").serving().await;
        let began = Instant::now();
        let caller = async {
            let mut stream = open(&near, headers).await;
            stream.send(b"order");
            stream.finish();
            wait::within("the end", s(20), stream.ended()).await
        };
        let peer = async {
            let refused = "Error processing operation DaprBuiltInServiceRetries";
            near.process.says(refused, s(10)).await;
            GrpcApp::start_on(port, |_, _| GrpcReply::ok("fine")).await
        };
        let (outcome, peer) = tokio::join!(caller, peer);
        outcome.assert(0, "");
        let calls = peer.calls(METHOD);
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].messages, [b"order".as_slice()]);
        assert_between(began.elapsed(), ms(900), s(6));
    }
}

/// Row 32: a call that was sent is not sent again without a policy.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_call_that_was_answered_is_final_without_any_policy() {
    let (near, peer, _registry) =
        pair(&json!({}), |_, _| GrpcReply::status(14, "the app's own")).await;
    call(&near, b"x").await.assert(14, "the app's own");
    assert_eq!(peer.count(METHOD), 1);
}

/// Row 32: nobody comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_call_to_nobody_is_given_up_after_three_retries() {
    let registry = Registry::new();
    registry.vacancy("far").await;
    let near = registry.plan("near").serving().await;
    let began = Instant::now();
    let outcome = call(&near, b"x").await;
    assert_eq!(outcome.code, 14, "{outcome:?}");
    assert_between(began.elapsed(), ms(2_990), s(10));
}

/// F25: a name that is unknown is a failed attempt like any other.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_is_retried_and_judged() {
    let registry = Registry::new();
    let spec = json!({
        "policies": {
            "retries": {"r": {"duration": "10ms", "maxRetries": 2}},
            "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 3"}},
        },
        "targets": {"apps": {"far": {"retry": "r", "circuitBreaker": "b"}}},
    });
    let near = registry
        .registered(registry.plan("near").policies(&spec))
        .await;
    let outcome = call(&near, b"x").await;
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(
        outcome.message.contains("no host found with the given ID"),
        "{outcome:?}"
    );
    assert_eq!(
        outcome.field("outrigger-resiliency"),
        Some("retries-exhausted; attempts=3")
    );
    call(&near, b"x").await.assert(2, OPEN);
}

/// X6.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_server_that_asks_for_a_longer_pause_gets_it() {
    let retry_info = |seconds: u8| {
        // google.rpc.Status { code: 14, details: [Any { RetryInfo { retry_delay: Duration { seconds } } }] }
        let info = [0x0a, 2, 0x08, seconds];
        let url = b"type.googleapis.com/google.rpc.RetryInfo";
        let mut any = vec![0x0a, u8::try_from(url.len()).unwrap()];
        any.extend_from_slice(url);
        any.extend_from_slice(&[0x12, 4]);
        any.extend_from_slice(&info);
        let mut status = vec![0x08, 14, 0x1a, u8::try_from(any.len()).unwrap()];
        status.extend_from_slice(&any);
        assert!(outrigger_proto::google::rpc::Status::decode(status.as_slice()).is_ok());
        STANDARD_NO_PAD.encode(status)
    };
    let retry = json!({"duration": "10ms", "maxRetries": 1});
    let (near, peer, _registry) = pair(&retries(&retry), move |nth, called| {
        let busy = GrpcReply::status(14, "busy");
        match (called.method.as_str(), nth) {
            ("/x/Pushback", 1) => busy.field("grpc-retry-pushback-ms", "1500"),
            ("/x/Never", _) => busy.field("grpc-retry-pushback-ms", "-1"),
            ("/x/Long", _) => busy.field("grpc-retry-pushback-ms", "61000"),
            ("/x/Info", 1) => busy.field("grpc-status-details-bin", retry_info(1)),
            _ => GrpcReply::ok("fine"),
        }
    })
    .await;
    for (method, code, attempts, least) in [
        ("/x/Pushback", 0, 2, 1_490),
        ("/x/Info", 0, 2, 990),
        ("/x/Never", 14, 1, 0),
        ("/x/Long", 14, 1, 0),
        ("/x/Plain", 0, 1, 0),
    ] {
        let began = Instant::now();
        let headers = [("dapr-app-id", "far")];
        let outcome = grpc::ask(near.ports.grpc, method, b"x", &headers).await;
        assert_eq!(outcome.code, code, "{method} {outcome:?}");
        assert_between(began.elapsed(), ms(least), ms(least) + s(2));
        assert_eq!(peer.count(method), attempts, "{method}");
    }
}

/// X9.
#[tokio::test(flavor = "multi_thread")]
async fn a_marked_retry_tells_a_proxied_app_how_many_attempts_went_before() {
    let retry = json!({"duration": "10ms", "maxRetries": 2, "attemptMarker": true});
    let (near, peer, _registry) =
        pair(&retries(&retry), |_, _| GrpcReply::status(14, "busy")).await;
    call(&near, b"x").await.assert(14, "busy");
    let calls = peer.calls(METHOD);
    let markers: Vec<_> = calls
        .iter()
        .map(|called| called.field("grpc-previous-rpc-attempts"))
        .collect();
    assert_eq!(markers, [None, Some("1"), Some("2")]);
}

/// F8: a caller that leaves is no failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_call_whose_caller_leaves_counts_for_nothing() {
    let spec = json!({
        "policies": {
            "retries": {"r": {"duration": "10ms", "maxRetries": 3}},
            "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1"}},
        },
        "targets": {"apps": {"far": {"retry": "r", "circuitBreaker": "b"}}},
    });
    let (near, peer, _registry) = pair(&spec, |_, _| GrpcReply::ok("late").after(s(30))).await;
    let mut stream = open(&near, &[]).await;
    stream.send(b"x");
    stream.finish();
    wait::until("the call", s(5), async || peer.count(METHOD) == 1).await;
    drop(stream);
    let labels = [("target", "app_far"), ("outcome", "cancelled")];
    near.until_metric("outrigger_resiliency_attempts_total", &labels, 1.0)
        .await;
    let seen = near.breaker("far:/shop.Orders/Place").await;
    assert_eq!(
        (&seen["state"], &seen["counts"]["totalFailures"]),
        (&json!("closed"), &json!(0)),
        "{seen}"
    );
    assert_eq!(peer.count(METHOD), 1);
}

/// Policies live on the calling side: calls to the own app pass without.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_call_to_the_own_app_is_under_no_policy() {
    let app = GrpcApp::start(|_, called| match called.method.as_str() {
        METHOD => GrpcReply::status(14, "busy"),
        _ => GrpcReply::status(12, "no such method"),
    })
    .await;
    let retry = json!({"duration": "10ms", "maxRetries": 3});
    let registry = Registry::new();
    let far = registry
        .plan("far")
        .app(app.port())
        .flag("--app-protocol=grpc")
        .policies(&retries(&retry))
        .serving()
        .await;
    far.until_status("/v1.0/healthz", 204, s(15)).await;
    call(&far, b"x").await.assert(14, "busy");
    assert_eq!(app.count(METHOD), 1);
}

/// The whole way: two sidecars and an app.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_call_over_two_sidecars_is_retried_by_the_calling_one() {
    let app = GrpcApp::start(|nth, called| match (called.method.as_str(), nth) {
        (METHOD, 1 | 2) => GrpcReply::status(14, "busy"),
        (METHOD, _) => GrpcReply::ok("fine"),
        _ => GrpcReply::status(12, "no such method"),
    })
    .await;
    let registry = Registry::new();
    let far = registry
        .registered(
            registry
                .plan("far")
                .app(app.port())
                .flag("--app-protocol=grpc"),
        )
        .await;
    far.until_status("/v1.0/healthz", 204, s(15)).await;
    let retry = json!({"duration": "10ms", "maxRetries": 3});
    let near = registry
        .plan("near")
        .policies(&retries(&retry))
        .serving()
        .await;
    let outcome = call(&near, b"order").await;
    outcome.assert(0, "");
    assert_eq!(outcome.messages, [b"fine".as_slice()]);
    let calls = app.calls(METHOD);
    assert_eq!(calls.len(), 3);
    for call in calls {
        assert_eq!(call.messages, [b"order".as_slice()]);
    }
}
