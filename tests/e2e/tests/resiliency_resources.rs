//! Resiliency resources: what is refused, what is merged, what a reload changes, and the example that is shipped.
//!
//! Owns: rows 11, 44, 45 and 47 of `resiliency.md` §16, its §1.1 and §2, X10.
//! Start at any test; each is a story of its own.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use outrigger_e2e::policies::resource;
use outrigger_e2e::{App, Component, Plan, Received, Reply, Sidecar, grpc, ms, s};
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::wait;
use serde_json::{Value, json};

const OPEN: &str = "circuit breaker is open";
const ERRORS: &str = "outrigger_resiliency_config_errors";

fn path(method: &str) -> String {
    format!("/v1.0/invoke/shop/method/{method}")
}

/// Retries so often for the app `shop`, under this name of a policy.
fn retry(name: &str, max: u32) -> Value {
    json!({
        "policies": {"retries": {name: {"duration": "10ms", "maxRetries": max}}},
        "targets": {"apps": {"shop": {"retry": name}}},
    })
}

async fn ready(plan: Plan) -> Sidecar {
    let sidecar = plan.serving().await;
    sidecar.until_status("/v1.0/healthz", 204, s(15)).await;
    sidecar
}

/// How often the app was asked by one call.
async fn attempts(sidecar: &Sidecar, app: &App) -> usize {
    let before = app.count("/a");
    sidecar.get(&path("a")).await;
    app.count("/a") - before
}

/// Row 11.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_resource_is_refused_as_a_whole_and_its_siblings_apply() {
    let http = |codes: &str| json!({"policies": {"retries": {"r": {"matching": {"httpStatusCodes": codes}}}}});
    let trip = |trip: &str| json!({"policies": {"circuitBreakers": {"b": {"trip": trip}}}});
    let bad: Vec<(&str, Value)> = vec![
        ("space", http("500, 502")),
        ("above", http("600")),
        ("below", http("99")),
        ("reversed", http("20-10")),
        ("three", http("1-2-3")),
        (
            "grpc",
            json!({"policies": {"retries": {"r": {"matching": {"gRPCStatusCodes": "17"}}}}}),
        ),
        (
            "scope",
            json!({
                "policies": {"circuitBreakers": {"b": {}}},
                "targets": {"actors": {"cat": {"circuitBreaker": "b"}}},
            }),
        ),
        (
            "odd-scope",
            json!({
                "policies": {"circuitBreakers": {"b": {}}},
                "targets": {"actors": {"cat": {"circuitBreaker": "b", "circuitBreakerScope": "cat"}}},
            }),
        ),
        ("syntax", trip("consecutiveFailures >")),
        ("function", trip("foo() > 1")),
        (
            "duration",
            json!({"policies": {"timeouts": {"t": "5 sec"}}}),
        ),
        ("empty", json!({"policies": {"timeouts": {"t": ""}}})),
        (
            "policy",
            json!({"policies": {"retries": {"r": {"policy": "linear"}}}}),
        ),
        (
            "requests",
            json!({"policies": {"circuitBreakers": {"b": {"maxRequests": -1}}}}),
        ),
        (
            "app-cache",
            json!({"targets": {"apps": {"shop": {"circuitBreakerCacheSize": -1}}}}),
        ),
        (
            "actor-cache",
            json!({"targets": {"actors": {"cat": {"circuitBreakerCacheSize": -1}}}}),
        ),
        ("list", json!({"policies": {"retries": [{"name": "r"}]}})),
        // What is good about it does not apply either.
        (
            "half",
            json!({
                "policies": {
                    "timeouts": {"DefaultTimeoutPolicy": "1ms"},
                    "retries": {"good": {"duration": "10ms", "maxRetries": 7}},
                    "circuitBreakers": {"bad": {"timeout": "soon", "trip": "nonsense("}},
                },
                "targets": {"apps": {"shop": {"retry": "good"}}},
            }),
        ),
    ];
    let app = App::start(|asked| match asked.path.as_str() {
        "/a" => Reply::status(500).after(ms(50)),
        _ => Reply::status(404),
    })
    .await;
    let mut plan = Plan::new("shop")
        .app(app.port())
        .file("a-good.yaml", resource("a-good", &retry("two", 2)))
        .file(
            "z-good.yaml",
            resource("z-good", &json!({"policies": {"timeouts": {"t": "1s"}}})),
        )
        .file(
            "y-broken.yaml",
            "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: broken\n",
        );
    for (name, spec) in &bad {
        plan = plan.file(&format!("m-{name}.yaml"), resource(name, spec));
    }
    let sidecar = plan.start();
    let took = sidecar.serves(s(15)).await;
    assert!(took < s(4), "{took:?}");
    sidecar.until_status("/v1.0/healthz", 204, s(15)).await;
    let view = sidecar.resiliency().await;
    assert_eq!(view["resources"], json!(["a-good", "z-good"]), "{view}");
    let refused = view["refused"].as_array().unwrap();
    let output = sidecar.process.output();
    for (name, _) in &bad {
        let one = refused.iter().find(|one| one["name"] == *name);
        let one = one.unwrap_or_else(|| panic!("{name} of {view}"));
        assert!(!one["reasons"].as_array().unwrap().is_empty(), "{one}");
        assert!(
            one["place"]
                .as_str()
                .unwrap()
                .contains(&format!("m-{name}.yaml:")),
            "{one}"
        );
        assert_eq!(one["lastGoodInForce"], false, "{one}");
        // What has a wrong shape cannot be parsed, in Dapr's words; everything else is a policy that cannot be read.
        let is_told = |line: &&str| {
            line.contains("level=error")
                && (line.contains(&format!("Could not read resiliency policy {name}:"))
                    || line.contains("Could not parse resiliency file")
                        && line.contains(&format!("m-{name}.yaml")))
        };
        assert_eq!(
            output.lines().filter(is_told).count(),
            1,
            "{name} is told once: {output}"
        );
    }
    let half = refused.iter().find(|one| one["name"] == "half").unwrap();
    assert_eq!(
        half["reasons"].as_array().unwrap().len(),
        2,
        "all that is wrong: {half}"
    );
    assert!(sidecar.metric(ERRORS, &[]).await >= bad.len() as f64);
    sidecar
        .until_metric("dapr_resiliency_loaded", &[], 2.0)
        .await;
    assert_eq!(
        sidecar.metadata().await["resiliencies"],
        json!([{"name": "a-good"}, {"name": "z-good"}])
    );
    assert_eq!(attempts(&sidecar, &app).await, 3);
}

/// §1.1: whoever wants it may have the start end.
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_sidecar_does_not_start_with_a_refused_resource() {
    let bad = json!({"policies": {"timeouts": {"t": "soon"}}});
    let mut sidecar = Plan::new("shop")
        .flag("--resiliency-strict")
        .policies(&bad)
        .start();
    let ended = sidecar.process.ended(s(15)).await;
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(ended.output.contains("resiliency.yaml"), "{}", ended.output);
}

/// F3.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_nobody_defines_means_none_and_is_told() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = App::answering(&[500]).await;
    let spec = json!({
        "targets": {
            "apps": {"shop": {"retry": "gone", "timeout": "gone", "circuitBreaker": "gone"}},
            "components": {"store": {"outbound": {"circuitBreaker": "gone"}}},
        },
    });
    let mut sidecar = ready(
        Plan::new("shop")
            .app(app.port())
            .with(&Component::redis_state("store", &redis.address()))
            .policies(&spec),
    )
    .await;
    assert_eq!(attempts(&sidecar, &app).await, 1);
    sidecar.assert_state_works("store").await;
    sidecar.process.assert_alive();
    let output = sidecar.process.output();
    let told = |line: &&str| line.contains("level=error") && line.contains("gone");
    assert!(output.lines().filter(told).count() >= 4, "{output}");
}

/// F1 and the laxness of §1: what is unknown is told, numbers are milliseconds, names of fields are not case-sensitive.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_told_and_numbers_are_milliseconds() {
    let app = App::answering(&[500]).await;
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: lax\nspec:\n  policies:\n    Retries:\n      r:\n        DURATION: 10\n        maxretries: 2\n        colour: red\n    timeouts:\n      t: 5000\n  targets:\n    apps:\n      shop:\n        retry: r\n        timeout: t\n";
    let sidecar = ready(Plan::new("shop").app(app.port()).file("lax.yaml", text)).await;
    let began = Instant::now();
    assert_eq!(attempts(&sidecar, &app).await, 3);
    assert!(began.elapsed() < s(3));
    assert_eq!(sidecar.target("app_shop").await["timeout"]["value"], "5s");
    let output = sidecar.process.output();
    let told = |line: &&str| line.contains("level=warn") && line.contains("colour");
    assert_eq!(output.lines().filter(told).count(), 1, "{output}");
}

/// Row 44; F4 beside it.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_file_wins_and_those_of_other_apps_do_not_count() {
    let app = App::answering(&[500]).await;
    let scoped = |name: &str, scopes: Value, max: u32| {
        json!({
            "apiVersion": "dapr.io/v1alpha1",
            "kind": "Resiliency",
            "metadata": {"name": name},
            "scopes": scopes,
            "spec": retry("r1", max),
        })
        .to_string()
    };
    let two = format!(
        "{}\n---\n{}\n",
        resource("first", &json!({"policies": {"timeouts": {"t": "1s"}}})),
        resource(
            "second",
            &json!({"policies": {"timeouts": {"DefaultAppTimeoutPolicy": "7s"}}})
        )
    );
    let sidecar = ready(
        Plan::new("shop")
            .app(app.port())
            .file("a.yaml", scoped("a", json!([]), 1))
            .file("b.YML", scoped("b", json!(["other", "shop"]), 2))
            .file("c.yaml", scoped("c", json!(["other"]), 5))
            .file("d.yaml", two)
            .file("e.txt", scoped("e", json!([]), 6))
            .file(
                "f.yaml",
                resource("f", &retry("r1", 9)).replace("dapr.io/v1alpha1", "dapr.io/v9"),
            ),
    )
    .await;
    let view = sidecar.resiliency().await;
    assert_eq!(view["resources"], json!(["a", "b", "first", "second"]));
    assert_eq!(attempts(&sidecar, &app).await, 3);
    assert_eq!(sidecar.target("app_shop").await["retry"]["resource"], "b");
    for name in ["a", "b", "first", "second"] {
        sidecar
            .until_metric("dapr_resiliency_loaded", &[("name", name)], 1.0)
            .await;
    }
    let output = sidecar.process.output();
    let told = |line: &&str| line.contains("level=warn") && line.contains("r1");
    assert!(
        output.lines().filter(told).count() >= 1,
        "a name twice is told: {output}"
    );
}

/// §2: in a namespace of its own, a sidecar leaves the resources of others alone.
#[tokio::test(flavor = "multi_thread")]
async fn resources_of_another_namespace_do_not_count() {
    let app = App::answering(&[500]).await;
    let of = |name: &str, namespace: &str, max: u32| {
        resource(name, &retry("r1", max)).replace(
            &format!("{{\"name\":\"{name}\"}}"),
            &format!("{{\"name\":\"{name}\",\"namespace\":\"{namespace}\"}}"),
        )
    };
    let sidecar = ready(
        Plan::new("shop")
            .app(app.port())
            .env("NAMESPACE", "home")
            .file("a.yaml", of("a", "home", 1))
            .file("b.yaml", of("b", "away", 2)),
    )
    .await;
    assert_eq!(sidecar.resiliency().await["resources"], json!(["a"]));
    assert_eq!(attempts(&sidecar, &app).await, 2);
    sidecar
        .until_metric("dapr_resiliency_loaded", &[("namespace", "home")], 1.0)
        .await;
}

fn breaker(trip: &str, other: &str) -> Value {
    json!({
        "policies": {
            "timeouts": {"other": other},
            "circuitBreakers": {"b": {"trip": trip, "timeout": "60s"}},
        },
        "targets": {"apps": {"shop": {"circuitBreaker": "b"}}},
    })
}

/// Row 45.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_breakers_that_have_not_changed_and_disturbs_no_call() {
    let app = App::start(|asked| match asked.path.as_str() {
        "/slow" => Reply::text("done").after(s(3)),
        "/a" => Reply::status(500),
        _ => Reply::status(404),
    })
    .await;
    let mut sidecar = ready(
        Plan::new("shop")
            .app(app.port())
            .policies(&breaker("consecutiveFailures >= 2", "1s")),
    )
    .await;
    for _ in 0..2 {
        sidecar.get(&path("a")).await;
    }
    assert!(sidecar.get(&path("a")).await.text().contains(OPEN));
    let slow = path("slow");
    let reloads = async {
        wait::until("the slow call", s(5), async || app.count("/slow") == 1).await;
        let applied = "resiliency policies changed and apply from now on";
        sidecar.write(
            "resiliency.yaml",
            resource("policies", &breaker("consecutiveFailures >= 2", "2s")),
        );
        sidecar.reload();
        sidecar.process.says(applied, s(5)).await;
        assert_eq!(sidecar.breaker("shop:a").await["state"], "open");
        assert!(sidecar.get(&path("a")).await.text().contains(OPEN));
        assert_eq!(app.count("/a"), 2);

        sidecar.write(
            "resiliency.yaml",
            resource("policies", &breaker("consecutiveFailures >= 3", "2s")),
        );
        sidecar.reload();
        wait::until("the new expression", s(5), async || {
            let target = sidecar.target("app_shop").await;
            target["circuitBreaker"]["trip"] == "consecutiveFailures >= 3"
        })
        .await;
        assert_eq!(sidecar.breaker("shop:a").await, Value::Null);
        for _ in 0..3 {
            assert_eq!(sidecar.get(&path("a")).await.text(), "");
        }
        assert!(sidecar.get(&path("a")).await.text().contains(OPEN));
        assert_eq!(app.count("/a"), 5);
    };
    let (answer, ()) = tokio::join!(sidecar.get(&slow), reloads);
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    assert_eq!(app.count("/slow"), 1);
    sidecar.process.assert_alive();
    let output = sidecar.process.output();
    assert_eq!(
        output.matches("dapr initialized.").count(),
        1,
        "no restart: {output}"
    );
}

/// F6: a call that waits for its next attempt ends under the policies with which it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_way_keeps_its_policies_over_a_reload() {
    let app = App::answering(&[500]).await;
    let slow = |duration: &str| {
        json!({
            "policies": {"retries": {"r": {"duration": duration, "maxRetries": 2}}},
            "targets": {"apps": {"shop": {"retry": "r"}}},
        })
    };
    let sidecar = ready(Plan::new("shop").app(app.port()).policies(&slow("1s"))).await;
    let reload = async {
        wait::until("the first attempt", s(5), async || app.count("/a") == 1).await;
        sidecar.write("resiliency.yaml", resource("policies", &json!({})));
        sidecar.reload();
        let applied = "resiliency policies changed and apply from now on";
        sidecar.process.says(applied, s(5)).await;
    };
    let began = Instant::now();
    let url = path("a");
    let (answer, ()) = tokio::join!(sidecar.get(&url), reload);
    assert_eq!(answer.status, 500);
    assert!(began.elapsed() >= ms(1_990), "{:?}", began.elapsed());
    assert_eq!(app.count("/a"), 3);
    assert_eq!(attempts(&sidecar, &app).await, 1);
}

/// §2: a bad update keeps the last good version; a file that is gone takes its policies along.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_update_leaves_the_last_good_version_in_force() {
    let app = App::answering(&[500]).await;
    let sidecar = ready(
        Plan::new("shop")
            .app(app.port())
            .file("a.yaml", resource("a", &retry("one", 1)))
            .file(
                "b.yaml",
                resource("b", &json!({"policies": {"timeouts": {"t": "1s"}}})),
            ),
    )
    .await;
    assert_eq!(attempts(&sidecar, &app).await, 2);
    for (bad, name) in [
        (
            resource(
                "a",
                &json!({"policies": {"retries": {"one": {"policy": "linear"}}}}),
            ),
            "a",
        ),
        (
            "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: a\n".to_owned(),
            "",
        ),
    ] {
        sidecar.write("a.yaml", &bad);
        sidecar.reload();
        let refused = wait::until("the refusal", s(5), async || {
            let refused = sidecar.resiliency().await["refused"].clone();
            if refused[0]["name"] == name {
                Ok(refused)
            } else {
                Err((name, refused))
            }
        })
        .await;
        assert_eq!(refused.as_array().unwrap().len(), 1, "{refused}");
        assert_eq!(refused[0]["lastGoodInForce"], true, "{refused}");
        assert!(
            refused[0]["place"].as_str().unwrap().contains("a.yaml"),
            "{refused}"
        );
        assert!(
            !refused[0]["reasons"].as_array().unwrap().is_empty(),
            "{refused}"
        );
        sidecar.until_metric(ERRORS, &[], 1.0).await;
        assert_eq!(sidecar.resiliency().await["resources"], json!(["a", "b"]));
        assert_eq!(attempts(&sidecar, &app).await, 2);
    }
    sidecar.write("a.yaml", resource("a", &retry("one", 4)));
    sidecar.reload();
    sidecar.until_metric(ERRORS, &[], 0.0).await;
    wait::until("the new version", s(5), async || {
        attempts(&sidecar, &app).await == 5
    })
    .await;
    assert_eq!(sidecar.resiliency().await["refused"], json!([]));

    std::fs::remove_file(sidecar.folder().join("a.yaml")).unwrap();
    sidecar.reload();
    wait::until("the file's end", s(5), async || {
        sidecar.resiliency().await["resources"] == json!(["b"])
    })
    .await;
    assert_eq!(attempts(&sidecar, &app).await, 1);
}

/// §2: the same where nothing of the file can be made out any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_turns_to_rubbish_leaves_the_last_good_version_in_force() {
    let app = App::answering(&[500]).await;
    let sidecar = ready(
        Plan::new("shop")
            .app(app.port())
            .file("a.yaml", resource("a", &retry("one", 1)))
            .file(
                "b.yaml",
                resource("b", &json!({"policies": {"timeouts": {"t": "1s"}}})),
            ),
    )
    .await;
    sidecar.write("a.yaml", "kind: [");
    // The other file shows when everything has been read.
    let other = json!({"policies": {"timeouts": {"t": "2s"}}});
    sidecar.write("b.yaml", resource("c", &other));
    sidecar.reload();
    let resources = wait::until("the reload", s(5), async || {
        let resources = sidecar.resiliency().await["resources"].clone();
        let has = |name: &str| resources.as_array().unwrap().contains(&json!(name));
        if has("c") {
            Ok(resources)
        } else {
            Err(resources)
        }
    })
    .await;
    assert_eq!(resources, json!(["a", "c"]));
    assert_eq!(attempts(&sidecar, &app).await, 2);
    let refused = sidecar.resiliency().await["refused"].clone();
    assert_eq!(refused[0]["lastGoodInForce"], true, "{refused}");
}

/// §14: what Dapr does not know may stand in an annotation.
#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_adds_to_what_dapr_knows() {
    let app = App::answering(&[500]).await;
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: noted\n  annotations:\n    outrigger.dev/resiliency: |\n      policies:\n        retries:\n          r:\n            attemptMarker: true\n            duration: 10ms\nspec:\n  policies:\n    retries:\n      r:\n        maxRetries: 1\n        duration: 60s\n  targets:\n    apps:\n      shop:\n        retry: r\n";
    let sidecar = ready(Plan::new("shop").app(app.port()).file("noted.yaml", text)).await;
    let began = Instant::now();
    assert_eq!(attempts(&sidecar, &app).await, 2);
    assert!(began.elapsed() < s(10), "the annotation counts");
    let received = app.received();
    let markers: Vec<_> = received
        .iter()
        .filter(|asked| asked.path == "/a")
        .map(|asked| asked.values("outrigger-attempt"))
        .collect();
    assert_eq!(markers, [vec![], vec!["2"]]);
}

/// Row 47.
#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_asked_for_again_when_the_app_resets() {
    let list = json!([{"pubsubname": "bus", "topic": "new", "route": "/on/new"}]);
    let app = App::counting(move |nth, asked| match (asked.path.as_str(), nth) {
        ("/dapr/subscribe", 1..=3) => Reply::closing(),
        ("/dapr/subscribe", _) => Reply::json(&list),
        ("/on/new", _) => Reply::status(200),
        _ => Reply::status(404),
    })
    .await;
    let sidecar = Plan::new("shop")
        .app(app.port())
        .with(&Component::new("bus", "pubsub.in-memory"))
        .serving()
        .await;
    wait::until("four attempts", s(15), async || {
        app.count("/dapr/subscribe") == 4
    })
    .await;
    let times = app.times("/dapr/subscribe");
    for (pair, base) in times.windows(2).zip([500, 750, 1000]) {
        let gap = pair[1] - pair[0];
        assert!(gap >= ms(base / 2 - 10), "{gap:?} for {base} ms");
        assert!(gap <= ms(base * 3 / 2 + 500), "{gap:?} for {base} ms");
    }
    sidecar.until_topic("bus", "new", "active", s(5)).await;
    sidecar.publish("bus", "new", "x").await.assert(204, "");
    wait::until("the delivery", s(5), async || app.delivered("x")).await;
}

/// Row 47: the retry can be redefined. After it the sidecar asks on at its own pace (`lifecycle.md` 5.2).
#[tokio::test(flavor = "multi_thread")]
async fn the_pauses_between_questions_for_subscriptions_can_be_chosen() {
    let app = App::start(|asked| match asked.path.as_str() {
        "/dapr/subscribe" => Reply::closing(),
        _ => Reply::status(404),
    })
    .await;
    let spec = json!({"policies": {"retries": {
        "DaprBuiltInInitializationRetries": {"duration": "50ms", "maxRetries": 6},
    }}});
    let _sidecar = Plan::new("shop")
        .app(app.port())
        .with(&Component::new("bus", "pubsub.in-memory"))
        .policies(&spec)
        .serving()
        .await;
    wait::until("eight attempts", s(15), async || {
        app.count("/dapr/subscribe") >= 8
    })
    .await;
    let times = app.times("/dapr/subscribe");
    let gaps: Vec<Duration> = times
        .windows(2)
        .take(7)
        .map(|pair| pair[1] - pair[0])
        .collect();
    for gap in &gaps[..6] {
        assert!(*gap >= ms(40) && *gap < ms(450), "{gaps:?}");
    }
    assert!(
        gaps[6] >= ms(450),
        "the seventh begins a new round: {gaps:?}"
    );
}

fn example() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/resiliency/resources")
}

/// The example that is shipped, target by target.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_applies_to_each_of_its_targets() {
    let app = App::counting(|nth, asked| match (asked.path.as_str(), nth) {
        ("/dapr/subscribe", _) => Reply::json(&json!([
            {"pubsubname": "pubsub", "topic": "orders", "route": "/on/orders", "deadLetterTopic": "orders-dead"},
            {"pubsubname": "pubsub", "topic": "orders-dead", "route": "/on/dead"},
        ])),
        ("/flaky", 1 | 2) => Reply::status(503),
        ("/flaky" | "/on/dead", _) => Reply::status(200),
        ("/slow", _) => Reply::status(200).after(s(30)),
        ("/missing", _) => Reply::status(404),
        ("/broken" | "/on/orders", _) => Reply::status(500),
        ("/payments/1", 1) => Reply::status(503),
        ("/payments/1", _) => Reply::status(200),
        _ => Reply::status(404),
    })
    .await;
    let mut plan = Plan::new("shop").app(app.port());
    for entry in std::fs::read_dir(example()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        plan = plan.file(&name, std::fs::read(entry.path()).unwrap());
    }
    let sidecar = ready(plan).await;
    sidecar
        .until_topic("pubsub", "orders", "active", s(10))
        .await;
    let output = sidecar.process.output();
    let bad = |line: &&str| line.contains("level=error") || line.contains("CFG-");
    let told: Vec<_> = output.lines().filter(bad).collect();
    assert!(told.is_empty(), "{told:?}");
    let view = sidecar.resiliency().await;
    assert_eq!(view["refused"], json!([]));

    // The app: retries of what is listed, a time for each attempt, a breaker for each path.
    assert_eq!(sidecar.get(&path("flaky")).await.status, 200);
    assert_eq!(app.count("/flaky"), 3);
    assert_eq!(sidecar.get(&path("missing")).await.status, 404);
    assert_eq!(app.count("/missing"), 1);
    let began = Instant::now();
    let slow = sidecar.get(&path("slow")).await;
    assert_eq!(slow.status, 500, "{}", slow.text());
    assert!(
        slow.header("outrigger-resiliency")
            .unwrap()
            .starts_with("timeout;"),
        "{slow:?}"
    );
    assert!(began.elapsed() < s(15), "{:?}", began.elapsed());
    let mut rejected = None;
    for _ in 0..10 {
        let answer = sidecar.get(&path("broken")).await;
        if answer.text().contains(OPEN) {
            rejected = Some(answer);
            break;
        }
    }
    let rejected = rejected.expect("the breaker opens");
    assert!(rejected.header("retry-after").is_some());
    sidecar.until_breaker("shop:broken", "open", s(1)).await;

    // A method of its own.
    assert_eq!(sidecar.get(&path("payments/1")).await.status, 200);
    assert_eq!(app.count("/payments/1"), 2);
    let marked = |asked: &&Received| {
        asked.path == "/payments/1" && asked.values("outrigger-attempt") == ["2"]
    };
    assert_eq!(app.received().iter().filter(marked).count(), 1);

    // Components.
    sidecar.assert_state_works("statestore").await;
    let store = sidecar.target("Statestore_statestore").await;
    for slot in ["timeout", "retry", "circuitBreaker"] {
        assert_eq!(
            store[slot]["origin"], "target component statestore, outbound",
            "{store}"
        );
    }
    let bus = sidecar.target("Pubsub_pubsub").await;
    assert_eq!(
        bus["retry"]["origin"], "target component pubsub, outbound",
        "{bus}"
    );
    let tries = sidecar.target_in("Pubsub_pubsub", "inbound").await["retry"]["maxRetries"]
        .as_u64()
        .unwrap();
    sidecar
        .publish("pubsub", "orders", "x")
        .await
        .assert(204, "");
    wait::until("the dead letter", s(15), async || {
        app.count("/on/dead") == 1
    })
    .await;
    assert_eq!(app.count("/on/orders") as u64, tries + 1);

    // Actors are listed; nothing hosts them yet.
    let actor = sidecar.target("actor_cart").await;
    for slot in ["timeout", "retry", "circuitBreaker"] {
        assert_eq!(actor[slot]["origin"], "target actor cart", "{actor}");
    }

    // An app that nobody names has the defaults.
    let before = Instant::now();
    let other = grpc::invoke(sidecar.ports.grpc, "nobody", "a").await;
    assert_ne!(other.code, 0);
    let took: Duration = before.elapsed();
    assert!(took < s(30), "{took:?}");
    let other = sidecar.target("app_nobody").await;
    assert_eq!(other["timeout"]["origin"], "default policy", "{other}");
}
