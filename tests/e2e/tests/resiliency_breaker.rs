//! Circuit breakers of service invocation: when they open, whom they let through, what callers and operators see.
//!
//! Owns: rows 15 to 19 and 21 to 24 of `resiliency.md` §16, F29, X3, X5, X7 and the page and the metrics of X2.
//! Start at any test; each is a story of its own. Row 20 is a matter of clocks alone: `crates/resiliency/src/tests.rs`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use outrigger_e2e::grpc;
use outrigger_e2e::{Answer, App, Plan, Reply, Request, Sidecar, ms, s};
use outrigger_testkit::wait;
use serde_json::{Value, json};

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

/// One breaker `b` for the app.
fn breaker(breaker: &Value) -> Value {
    json!({
        "policies": {"circuitBreakers": {"b": breaker}},
        "targets": {"apps": {"shop": {"circuitBreaker": "b"}}},
    })
}

async fn call(shop: &Sidecar, method: &str) -> Answer {
    shop.get(&format!("/v1.0/invoke/shop/method/{method}"))
        .await
}

/// Calls a method so often, and is answered by the app each time.
async fn fails(shop: &Sidecar, method: &str, times: usize) {
    for nth in 1..=times {
        let answer = call(shop, method).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (500, "from the app"),
            "call {nth} of {method}"
        );
    }
}

#[track_caller]
fn assert_rejected(answer: &Answer, why: &str) {
    answer.assert(500, "ERR_DIRECT_INVOKE");
    let message = answer.json()["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(message.contains(why), "{message}");
}

const OPEN: &str = "circuit breaker is open";

/// An app whose status a test changes as it goes.
async fn switched(initial: u16) -> (App, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(initial));
    let own = Arc::clone(&status);
    let app =
        App::start(move |_| Reply::status(own.load(Ordering::SeqCst)).with_body("from the app"));
    (app.await, status)
}

/// The state for which the gauge is 1, and that it is one alone.
async fn gauge(shop: &Sidecar) -> &'static str {
    let mut found = Vec::new();
    for status in ["closed", "half-open", "open", "unknown"] {
        let labels = [
            ("target", "app_shop"),
            ("status", status),
            ("policy", "circuitbreaker"),
        ];
        let value = shop.metric("dapr_resiliency_cb_state", &labels).await;
        if value > 0.5 {
            found.push(status);
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

/// Row 15.
#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_rejects_probes_and_closes() {
    let (app, status) = switched(500).await;
    let shop = shop(
        &app,
        &breaker(&json!({"trip": "consecutiveFailures >= 3", "timeout": "5s"})),
    )
    .await;
    fails(&shop, "a", 3).await;
    let opened = Instant::now();
    assert_eq!(gauge(&shop).await, "open");
    let answer = call(&shop, "a").await;
    assert_rejected(&answer, OPEN);
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(
        answer.header("outrigger-resiliency"),
        Some("breaker-open; attempts=0")
    );
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("failed to invoke, id: shop, err: "),
        "{message}"
    );
    assert!(message.ends_with(OPEN), "{message}");
    assert_eq!(app.count("/a"), 3);
    assert_eq!(
        shop.metric(
            "outrigger_resiliency_rejections_total",
            &[("target", "app_shop")]
        )
        .await as u64,
        1
    );

    let outcome = grpc::invoke(shop.ports.grpc, "shop", "a").await;
    outcome.assert(2, OPEN);
    assert_eq!(
        outcome.field("outrigger-resiliency"),
        Some("breaker-open; attempts=0")
    );
    assert_eq!(app.count("/a"), 3);

    let seen = shop.breaker("shop:a").await;
    assert_eq!(seen["state"], "open", "{seen}");
    let next = seen["nextProbeMs"].as_u64().unwrap();
    assert!((1..=5_000).contains(&next), "{seen}");
    assert!(
        seen["lastError"].as_str().unwrap().contains("500"),
        "{seen}"
    );

    shop.until_breaker("shop:a", "half-open", s(7)).await;
    let waited = opened.elapsed();
    assert!(waited > ms(4_500), "{waited:?}");
    status.store(200, Ordering::SeqCst);
    assert_eq!(call(&shop, "a").await.status, 200);
    // A success counts once the answer has been passed on to its end.
    shop.until_breaker("shop:a", "closed", s(2)).await;
    // The gauge shows a half-open state for a second, so that it is seen.
    wait::until("the gauge", s(5), async || gauge(&shop).await == "closed").await;
    assert_eq!(app.count("/a"), 4);
    let steps = |from: &str, to: &str| {
        format!("Circuit breaker \\\"shop:a\\\" changed state from {from} to {to}")
    };
    shop.process.says(&steps("half-open", "closed"), s(5)).await;
    let output = shop.process.output();
    for (from, to) in [
        ("closed", "open"),
        ("open", "half-open"),
        ("half-open", "closed"),
    ] {
        assert_eq!(
            output.matches(&steps(from, to)).count(),
            1,
            "{from} {to}: {output}"
        );
        let labels = [
            ("policy", "circuitbreaker"),
            ("status", to),
            ("target", "app_shop"),
        ];
        shop.until_metric("dapr_resiliency_activations_total", &labels, 1.0)
            .await;
    }
}

/// F29, beside what row 15 asks for: the end of the message stays as it is in Dapr.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_names_the_last_real_failure() {
    let app = App::answering(&[507]).await;
    let shop = shop(&app, &breaker(&json!({"trip": "consecutiveFailures >= 1"}))).await;
    call(&shop, "a").await;
    let answer = call(&shop, "a").await;
    assert_rejected(&answer, OPEN);
    // The message stays as clients compare it; a field of its own has the rest.
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with(OPEN), "{message}");
    let last = answer
        .header("outrigger-last-error")
        .unwrap_or_default()
        .to_owned();
    assert!(last.contains("507"), "{last}");
}

/// Row 16.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_expression_the_sixth_failure_in_a_row_opens() {
    let app = App::answering(&[500]).await;
    let shop = shop(&app, &breaker(&json!({}))).await;
    fails(&shop, "a", 5).await;
    assert_eq!(shop.breaker("shop:a").await["state"], "closed");
    fails(&shop, "a", 1).await;
    let seen = shop.breaker("shop:a").await;
    assert_eq!(seen["state"], "open");
    assert!(seen["nextProbeMs"].as_u64().unwrap() > 55_000, "{seen}");
    assert_rejected(&call(&shop, "a").await, OPEN);
}

/// F29, gRPC: the field is metadata there.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_tells_grpc_callers_when_to_come_again() {
    let app = App::answering(&[500]).await;
    let shop = shop(
        &app,
        &breaker(&json!({"trip": "consecutiveFailures >= 1", "timeout": "30s"})),
    )
    .await;
    call(&shop, "a").await;
    let outcome = grpc::invoke(shop.ports.grpc, "shop", "a").await;
    outcome.assert(2, OPEN);
    assert_eq!(outcome.field("retry-after"), Some("30"), "{outcome:?}");
}

/// Row 17.
#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_is_judged_and_a_rejection_ends_the_retries() {
    let app = App::answering(&[500]).await;
    let shop = shop(
        &app,
        &json!({
            "policies": {
                "retries": {"r": {"duration": "10ms", "maxRetries": 5}},
                "circuitBreakers": {"b": {"trip": "consecutiveFailures > 15"}},
            },
            "targets": {"apps": {"shop": {"retry": "r", "circuitBreaker": "b"}}},
        }),
    )
    .await;
    fails(&shop, "a", 2).await;
    assert_eq!(app.count("/a"), 12);
    let answer = call(&shop, "a").await;
    assert_rejected(&answer, OPEN);
    assert_eq!(
        answer.header("outrigger-resiliency"),
        Some("breaker-open; attempts=4")
    );
    assert_eq!(app.count("/a"), 16);
}

/// Opens `/a` after three failures; a probe may be made 300 ms later.
async fn half_open(app: &App, max_requests: u32) -> Sidecar {
    let rule =
        json!({"trip": "consecutiveFailures >= 3", "timeout": "1s", "maxRequests": max_requests});
    let shop = shop(app, &breaker(&rule)).await;
    fails(&shop, "a", 3).await;
    shop.until_breaker("shop:a", "half-open", s(5)).await;
    shop
}

/// Row 18, first part.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_breaker_lets_one_probe_through() {
    let app = App::counting(|nth, asked| match (asked.path.as_str(), nth) {
        ("/a", 1..=3) => Reply::status(500).with_body("from the app"),
        ("/a", _) => Reply::status(200).after(ms(900)),
        _ => Reply::status(404),
    })
    .await;
    let shop = half_open(&app, 1).await;
    let (one, other) = tokio::join!(call(&shop, "a"), call(&shop, "a"));
    let (good, bad) = if one.status == 200 {
        (one, other)
    } else {
        (other, one)
    };
    assert_eq!(good.status, 200);
    assert_rejected(&bad, "too many requests");
    assert_eq!(
        bad.header("outrigger-resiliency"),
        Some("breaker-half-open; attempts=0")
    );
    assert!(bad.header("retry-after").is_some());
    assert_eq!(app.count("/a"), 4);
    shop.until_breaker("shop:a", "closed", s(2)).await;
}

/// Row 18, second part.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_breaker_closes_when_all_its_probes_succeed() {
    let (app, status) = switched(500).await;
    let shop = half_open(&app, 3).await;
    status.store(200, Ordering::SeqCst);
    for successes in [1, 2] {
        assert_eq!(call(&shop, "a").await.status, 200);
        wait::until("the success", s(2), async || {
            let seen = shop.breaker("shop:a").await;
            assert_eq!(seen["state"], "half-open", "{seen}");
            seen["counts"]["consecutiveSuccesses"] == successes
        })
        .await;
    }
    assert_eq!(call(&shop, "a").await.status, 200);
    shop.until_breaker("shop:a", "closed", s(2)).await;
}

/// Row 18, third part.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_fails_opens_again_for_the_whole_time() {
    let (app, status) = switched(500).await;
    let shop = half_open(&app, 3).await;
    status.store(200, Ordering::SeqCst);
    assert_eq!(call(&shop, "a").await.status, 200);
    status.store(500, Ordering::SeqCst);
    let began = Instant::now();
    assert_eq!(call(&shop, "a").await.text(), "from the app");
    assert_rejected(&call(&shop, "a").await, OPEN);
    shop.until_breaker("shop:a", "half-open", s(5)).await;
    assert!(began.elapsed() >= ms(990), "{:?}", began.elapsed());
    assert_eq!(app.count("/a"), 5);
}

/// Row 19.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_never_returns_counts_as_a_failure() {
    let app = App::counting(|nth, asked| match (asked.path.as_str(), nth) {
        ("/a", 1..=3) => Reply::status(500).with_body("from the app"),
        ("/a", _) => Reply::status(200).after(s(50)),
        _ => Reply::status(404),
    })
    .await;
    let shop = half_open(&app, 1).await;
    let request = Request::get("/v1.0/invoke/shop/method/a");
    let probe = outrigger_e2e::http::call(shop.ports.http, &request);
    let others = async {
        wait::until("the probe", s(5), async || app.count("/a") == 4).await;
        let began = Instant::now();
        assert_rejected(&call(&shop, "a").await, "too many requests");
        wait::until("the probe's end", s(5), async || {
            let answer = call(&shop, "a").await;
            answer.text().contains(OPEN)
        })
        .await;
        let took = began.elapsed();
        assert!(took >= ms(900), "after the breaker's own time: {took:?}");
        assert_eq!(app.count("/a"), 4);
        // The next round has a probe of its own.
        shop.until_breaker("shop:a", "half-open", s(5)).await;
    };
    tokio::select! {
        answer = probe => panic!("{answer:?}"),
        () = others => {}
    }
}

/// Row 21.
#[tokio::test(flavor = "multi_thread")]
async fn an_expression_is_asked_after_failures_only() {
    let (app, status) = switched(200).await;
    let shop = shop(&app, &breaker(&json!({"trip": "requests > 4"}))).await;
    for _ in 0..10 {
        assert_eq!(call(&shop, "a").await.status, 200);
    }
    assert_eq!(shop.breaker("shop:a").await["state"], "closed");
    status.store(500, Ordering::SeqCst);
    fails(&shop, "a", 1).await;
    assert_rejected(&call(&shop, "a").await, OPEN);
}

/// Row 22.
#[tokio::test(flavor = "multi_thread")]
async fn an_expression_that_fails_never_opens_and_says_so_once() {
    for (trip, load_warning) in [
        ("nosuch > 1", true),
        ("totalFailures * 1.0 / requests > 0.5", false),
    ] {
        let app = App::answering(&[500]).await;
        let shop = shop(&app, &breaker(&json!({"trip": trip}))).await;
        fails(&shop, "a", 100).await;
        assert_eq!(shop.breaker("shop:a").await["state"], "closed", "{trip}");
        let output = shop.process.output();
        let broken = output
            .matches("the expression of a circuit breaker fails")
            .count();
        assert_eq!(broken, 1, "{output}");
        let mut warnings = output
            .lines()
            .filter(|line| line.contains("level=warn") && line.contains("nosuch"));
        assert_eq!(warnings.next().is_some(), load_warning, "{output}");
    }
}

/// Row 23.
#[tokio::test(flavor = "multi_thread")]
async fn each_path_has_a_breaker_of_its_own() {
    let app = App::answering(&[500]).await;
    let shop = shop(&app, &breaker(&json!({"trip": "consecutiveFailures >= 3"}))).await;
    fails(&shop, "a", 3).await;
    fails(&shop, "b", 1).await;
    assert_rejected(&call(&shop, "a").await, OPEN);
    assert_rejected(&call(&shop, "a/").await, OPEN);
    assert_rejected(&call(&shop, "a?x=1").await, OPEN);
    let answer = shop.post("/v1.0/invoke/shop/method/a", "{}").await;
    assert_rejected(&answer, OPEN);
    let answer = call(&shop, "/a").await;
    assert_eq!(
        answer.text(),
        "from the app",
        "a doubled slash is another breaker"
    );
    assert_eq!(
        (app.count("/a") + app.count("//a"), app.count("/b")),
        (4, 1)
    );
}

/// §6.4: an HTTPEndpoint is one thing, a URL is as many as it has paths.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_has_one_breaker_and_a_url_one_for_each_path() {
    let app = App::answering(&[500]).await;
    let url = format!("http://127.0.0.1:{}", app.port());
    let endpoint = format!(
        "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata:\n  name: partner\nspec:\n  baseUrl: {url}\n"
    );
    let spec = json!({
        "policies": {"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 3"}}},
        "targets": {"apps": {"partner": {"circuitBreaker": "b"}, &*url: {"circuitBreaker": "b"}}},
    });
    let shop = Plan::new("shop")
        .file("endpoint.yaml", endpoint)
        .policies(&spec)
        .serving()
        .await;
    let call = async |target: &str, method: &str| {
        shop.get(&format!("/v1.0/invoke/{target}/method/{method}"))
            .await
    };
    for method in ["a", "b", "c"] {
        assert_eq!(call("partner", method).await.text(), "from the app");
        assert_eq!(call(&url, method).await.text(), "from the app");
    }
    assert_rejected(&call("partner", "d").await, OPEN);
    assert_eq!(
        shop.breaker(&format!("partner:{url}")).await["state"],
        "open"
    );
    for _ in 0..2 {
        assert_eq!(call(&url, "a").await.text(), "from the app");
    }
    assert_rejected(&call(&url, "a").await, OPEN);
    assert_eq!(shop.breaker(&format!("{url}/a")).await["state"], "open");
    assert_eq!(call(&url, "b").await.text(), "from the app");
}

/// §8: the other ways to write a call are under the same policies.
#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_address_an_app_is_under_its_policies() {
    let app = App::answering(&[500]).await;
    let shop = shop(&app, &breaker(&json!({"trip": "consecutiveFailures >= 3"}))).await;
    fails(&shop, "a", 1).await;
    let by_header = || Request::get("/a").header("dapr-app-id", "shop");
    // `dapr-app-id:shop`.
    let by_login = || Request::get("/a").header("authorization", "Basic ZGFwci1hcHAtaWQ6c2hvcA==");
    assert_eq!(shop.call(by_header()).await.text(), "from the app");
    assert_eq!(shop.call(by_login()).await.text(), "from the app");
    for request in [by_header(), by_login()] {
        assert_rejected(&shop.call(request).await, OPEN);
    }
    assert_rejected(&call(&shop, "a").await, OPEN);
    assert_eq!(app.count("/a"), 3);
}

/// Row 24.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_is_not_forgotten_for_others() {
    let app = App::answering(&[500]).await;
    let mut spec = breaker(&json!({"trip": "consecutiveFailures >= 3"}));
    spec["targets"]["apps"]["shop"]["circuitBreakerCacheSize"] = json!(2);
    let shop = shop(&app, &spec).await;
    fails(&shop, "a", 3).await;
    fails(&shop, "b", 1).await;
    fails(&shop, "c", 1).await;
    assert_rejected(&call(&shop, "a").await, OPEN);
    let target = shop.target("app_shop").await;
    assert_eq!(target["breakers"].as_array().unwrap().len(), 2, "{target}");
}

/// X3.
#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_may_count_some_failures_only() {
    let app = App::start(|asked| {
        let status = asked
            .path
            .rsplit('/')
            .next()
            .and_then(|word| word.parse().ok());
        Reply::status(status.unwrap_or(404))
    })
    .await;
    let rule = |extra: Value| {
        let mut rule = json!({"trip": "consecutiveFailures >= 1"});
        rule.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        rule
    };
    let shop = shop(
        &app,
        &json!({
            "policies": {"circuitBreakers": {
                "clients": rule(json!({"ignoreClientErrors": true})),
                "listed": rule(json!({"matching": {"httpStatusCodes": "500-502"}})),
            }},
            "targets": {"apps": {"shop": {"methods": [
                {"match": "/clients/*", "circuitBreaker": "clients"},
                {"match": "/listed/*", "circuitBreaker": "listed"},
            ]}}},
        }),
    )
    .await;
    for (method, opens) in [
        ("clients/400", false),
        ("clients/404", false),
        ("clients/408", true),
        ("clients/429", true),
        ("clients/500", true),
        ("listed/500", true),
        ("listed/503", false),
        ("listed/404", false),
    ] {
        call(&shop, method).await;
        let state = &shop.breaker(&format!("shop:{method}")).await["state"];
        let expected = if opens { "open" } else { "closed" };
        assert_eq!(state, expected, "{method}");
    }
}

/// X5.
#[tokio::test(flavor = "multi_thread")]
async fn methods_have_policies_of_their_own() {
    let app = App::answering(&[500]).await;
    let shop = shop(
        &app,
        &json!({
            "policies": {
                "retries": {"none": {"maxRetries": 0}, "two": {"duration": "10ms", "maxRetries": 2}},
                "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 3"}},
            },
            "targets": {"apps": {"shop": {
                "retry": "none",
                "circuitBreaker": "b",
                "methods": [
                    {"match": "/orders/*", "verbs": ["POST"], "retry": "two", "breakerKey": "pattern"},
                    {"match": "/orders/*", "verbs": ["GET"], "breakerKey": "path"},
                    {"match": "/items/*", "breakerKey": "pattern"},
                    {"match": "/all/*", "breakerKey": "app"},
                    {"match": "/more/*", "breakerKey": "app"},
                    {"match": "/own/*", "breakerKey": "path"},
                ],
            }}},
        }),
    )
    .await;
    // The retry of the entry, one breaker for the pattern.
    let post = async |method: &str| {
        shop.post(&format!("/v1.0/invoke/shop/method/{method}"), "{}")
            .await
    };
    assert_eq!(post("orders/1").await.status, 500);
    assert_eq!(app.count("/orders/1"), 3);
    assert_rejected(&post("orders/2").await, OPEN);
    assert_eq!(app.count("/orders/2"), 0);

    // The app's retry is inherited; another verb is another entry.
    fails(&shop, "orders/3", 1).await;
    assert_eq!(app.count("/orders/3"), 1);
    for method in ["items/3", "items/4", "items/5"] {
        fails(&shop, method, 1).await;
        assert_eq!(app.count(&format!("/{method}")), 1);
    }
    assert_rejected(&call(&shop, "items/6").await, OPEN);

    // One breaker for everything below an entry.
    fails(&shop, "all/1", 1).await;
    fails(&shop, "all/2", 1).await;
    fails(&shop, "all/3", 1).await;
    assert_rejected(&call(&shop, "all/4").await, OPEN);

    // One for each path.
    fails(&shop, "own/1", 3).await;
    fails(&shop, "own/2", 1).await;
    assert_rejected(&call(&shop, "own/1").await, OPEN);

    // What matches none.
    fails(&shop, "else", 3).await;
    assert_rejected(&call(&shop, "else").await, OPEN);
}

/// X5: one breaker for the app is one, whichever entry leads to it.
#[tokio::test(flavor = "multi_thread")]
async fn methods_share_one_breaker_for_the_app() {
    let app = App::answering(&[500]).await;
    let shop = shop(
        &app,
        &json!({
            "policies": {"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 3"}}},
            "targets": {"apps": {"shop": {
                "circuitBreaker": "b",
                "methods": [
                    {"match": "/all/*", "breakerKey": "app"},
                    {"match": "/more/*", "breakerKey": "app"},
                ],
            }}},
        }),
    )
    .await;
    fails(&shop, "all/1", 1).await;
    fails(&shop, "all/2", 1).await;
    fails(&shop, "more/1", 1).await;
    assert_rejected(&call(&shop, "more/2").await, OPEN);
    assert_rejected(&call(&shop, "all/3").await, OPEN);
}

/// X7, over HTTP and by `InvokeService`.
#[tokio::test(flavor = "multi_thread")]
async fn precise_errors_have_statuses_of_their_own() {
    let app = App::start(|asked| match asked.path.as_str() {
        "/slow" => Reply::status(200).after(s(3)),
        _ => Reply::status(500),
    })
    .await;
    let shop = shop(
        &app,
        &json!({
            "errors": "precise",
            "policies": {
                "timeouts": {"t": "300ms"},
                "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1", "timeout": "30s"}},
            },
            "targets": {"apps": {"shop": {
                "circuitBreaker": "b",
                "methods": [{"match": "/slow", "timeout": "t"}],
            }}},
        }),
    )
    .await;
    call(&shop, "a").await;
    let answer = call(&shop, "a").await;
    answer.assert(503, "ERR_RESILIENCY_CIRCUIT_OPEN");
    assert_eq!(answer.header("retry-after"), Some("30"));
    let outcome = grpc::invoke(shop.ports.grpc, "shop", "a").await;
    assert_eq!(outcome.code, 14, "{outcome:?}");
    assert!(outcome.message.contains(OPEN), "{outcome:?}");

    let answer = call(&shop, "slow").await;
    answer.assert(504, "ERR_RESILIENCY_TIMEOUT");
    assert_eq!(
        answer.header("outrigger-resiliency"),
        Some("timeout; attempts=1")
    );
    assert_eq!(
        shop.reset_breakers(&json!({"breaker": "shop:slow"})).await,
        1
    );
    let outcome = grpc::invoke(shop.ports.grpc, "shop", "slow").await;
    assert_eq!(outcome.code, 4, "{outcome:?}");
}

/// X2: the page, and closing by hand.
#[tokio::test(flavor = "multi_thread")]
async fn breakers_are_shown_and_closed_by_hand() {
    let app = App::answering(&[500]).await;
    let shop = shop(
        &app,
        &json!({
            "policies": {
                "timeouts": {"t": "5s"},
                "retries": {"r": {"duration": "10ms", "maxRetries": 0, "matching": {"httpStatusCodes": "500,502-504"}}},
                "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 2", "maxRequests": 2, "interval": "8s", "timeout": "30s"}},
            },
            "targets": {"apps": {"shop": {"timeout": "t", "retry": "r", "circuitBreaker": "b"}}},
        }),
    )
    .await;
    let target = shop.target("app_shop").await;
    assert_eq!(
        target["breakers"],
        json!([]),
        "named targets are there before they are used"
    );
    assert_eq!(
        (&target["flow"], &target["named"]),
        (&json!("outbound"), &json!(true))
    );
    assert_eq!(target["timeout"]["value"], "5s");
    assert_eq!(target["timeout"]["origin"], "target app shop");
    assert_eq!(target["timeout"]["resource"], "policies");
    assert_eq!(target["retry"]["httpStatusCodes"], "500,502-504");
    let rule = &target["circuitBreaker"];
    assert_eq!(
        (
            &rule["trip"],
            &rule["maxRequests"],
            &rule["interval"],
            &rule["timeout"]
        ),
        (
            &json!("consecutiveFailures >= 2"),
            &json!(2),
            &json!("8s"),
            &json!("30s")
        )
    );
    assert!(
        rule["place"]
            .as_str()
            .unwrap()
            .contains("resiliency.yaml:1"),
        "{rule}"
    );
    let view = shop.resiliency().await;
    assert_eq!(view["resources"], json!(["policies"]));
    assert_eq!(view["refused"], json!([]));
    assert_eq!(
        view["builtIn"]["DaprBuiltInServiceRetries"]["maxRetries"],
        3
    );
    assert_eq!(
        shop.metadata().await["resiliencies"],
        json!([{"name": "policies"}])
    );

    fails(&shop, "a", 2).await;
    fails(&shop, "b", 2).await;
    fails(&shop, "c", 1).await;
    let open = [("target", "app_shop"), ("state", "open")];
    let closed = [("target", "app_shop"), ("state", "closed")];
    shop.until_metric("outrigger_resiliency_breakers", &open, 2.0)
        .await;
    assert_eq!(
        shop.breaker("shop:c").await["counts"],
        json!({"requests": 1, "totalSuccesses": 0, "totalFailures": 1, "consecutiveSuccesses": 0, "consecutiveFailures": 1})
    );
    assert_eq!(gauge(&shop).await, "open", "the worst");
    assert_eq!(
        shop.reset_breakers(&json!({"target": "app_shop", "breaker": "shop:a"}))
            .await,
        1
    );
    assert_eq!(gauge(&shop).await, "open", "the worst, still");
    fails(&shop, "a", 1).await;
    assert_rejected(&call(&shop, "b").await, OPEN);
    assert_eq!(
        shop.reset_breakers(&json!({"target": "app_other"})).await,
        0
    );
    assert_eq!(shop.reset_breakers(&json!({})).await, 3);
    assert_eq!(gauge(&shop).await, "closed");
    fails(&shop, "b", 1).await;
    shop.until_metric("outrigger_resiliency_breakers", &open, 0.0)
        .await;
    shop.until_metric("outrigger_resiliency_breakers", &closed, 3.0)
        .await;
    let bad = shop
        .post("/outrigger/v1/resiliency/reset", r#"{"braker": "x"}"#)
        .await;
    bad.assert(400, "ERR_MALFORMED_REQUEST");
}

/// X2: who has no token sees nothing and closes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_breakers_is_protected_by_the_token() {
    let app = App::answering(&[500]).await;
    let shop = Plan::new("shop")
        .app(app.port())
        .env("DAPR_API_TOKEN", "secret")
        .policies(&breaker(&json!({})))
        .serving()
        .await;
    let page = "/outrigger/v1/resiliency";
    let reset = "/outrigger/v1/resiliency/reset";
    assert_eq!(shop.get(page).await.status, 401);
    assert_eq!(shop.post(reset, "").await.status, 401);
    let with = |request: Request| request.header("dapr-api-token", "secret");
    assert_eq!(shop.call(with(Request::get(page))).await.status, 200);
    assert_eq!(shop.call(with(Request::post(reset, ""))).await.status, 200);
}

/// X2: labels never contain paths.
#[tokio::test(flavor = "multi_thread")]
async fn no_series_names_a_path() {
    let app = App::answering(&[500]).await;
    let shop = shop(
        &app,
        &json!({
            "policies": {
                "timeouts": {"t": "5s"},
                "retries": {"r": {"duration": "1ms", "maxRetries": 1}},
                "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 2"}},
            },
            "targets": {"apps": {"shop": {"timeout": "t", "retry": "r", "circuitBreaker": "b"}}},
        }),
    )
    .await;
    call(&shop, "customer-4711").await;
    assert_rejected(&call(&shop, "customer-4711").await, OPEN);
    let page = shop.scraped().await;
    let of_policies = page.lines().filter(|line| line.contains("resiliency"));
    let naming: Vec<_> = of_policies.filter(|line| line.contains("4711")).collect();
    assert!(naming.is_empty(), "{naming:?}");
    for name in [
        "dapr_resiliency_loaded",
        "dapr_resiliency_count",
        "dapr_resiliency_activations_total",
        "dapr_resiliency_cb_state",
        "outrigger_resiliency_attempts_total",
        "outrigger_resiliency_retry_delay_seconds_count",
        "outrigger_resiliency_breakers",
        "outrigger_resiliency_rejections_total",
        "outrigger_resiliency_config_errors",
    ] {
        assert!(page.contains(name), "{name} in\n{page}");
    }
}

/// Counts per state are in the metadata as well.
#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_tells_how_many_breakers_are_open() {
    let app = App::answering(&[500]).await;
    let shop = shop(&app, &breaker(&json!({"trip": "consecutiveFailures >= 2"}))).await;
    fails(&shop, "a", 2).await;
    fails(&shop, "b", 1).await;
    let metadata = shop.metadata().await;
    let extended = metadata["extended"].as_object().unwrap();
    let told: Vec<_> = extended
        .iter()
        .filter(|(name, _)| name.contains("breaker") || name.contains("resiliency"))
        .collect();
    assert!(!told.is_empty(), "nothing of breakers in {metadata}");
    let text = format!("{told:?}");
    assert!(text.contains("open"), "{text}");
}

/// Most calls are rejected at once: an open breaker answers without waiting for anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_takes_no_time() {
    let app = App::start(|asked| match asked.path.as_str() {
        "/a" => Reply::status(500).after(ms(300)),
        _ => Reply::status(404),
    })
    .await;
    let shop = Plan::new("shop")
        .app(app.port())
        .policies(&breaker(&json!({"trip": "consecutiveFailures >= 1"})))
        .serving()
        .await;
    shop.until_status("/v1.0/healthz", 204, s(15)).await;
    call(&shop, "a").await;
    let began = Instant::now();
    for _ in 0..10 {
        assert_rejected(&call(&shop, "a").await, OPEN);
    }
    let took: Duration = began.elapsed();
    assert!(took < s(2), "{took:?}");
    assert_eq!(app.count("/a"), 1);
}
