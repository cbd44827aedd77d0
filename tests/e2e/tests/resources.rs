//! Resources that are wrong: what the sidecar says of them, and that everything else goes on.
//!
//! Owns: row A10 of `lifecycle.md` §9, and the part of "Bad input" that comes in files; `outrigger check` on the same.
//! Start at any test; each is a story of its own. Requests that are wrong are in `bad_input.rs`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::time::Instant;

use outrigger_e2e::{App, Component, Plan, Process, Reply, Sidecar, figure, grpc, ms, s};
use outrigger_proto::dapr::proto::runtime::v1::{GetStateRequest, GetStateResponse};
use outrigger_testkit::servers::{RedisServer, Server as _};
use outrigger_testkit::{PrivateDir, wait};
use serde_json::{Value, json};

/// A sidecar with a good component and these files.
async fn beside_a_good_one(files: &[(&str, &str)]) -> Sidecar {
    let mut plan = Plan::new("orders").with(&Component::new("memory", "state.in-memory"));
    for (name, text) in files {
        plan = plan.file(name, text);
    }
    plan.serving().await
}

/// The component whose name or message has this text is rejected; what is told of it.
async fn rejected(sidecar: &Sidecar, text: &str) -> Value {
    wait::until(format!("a rejection of {text}"), s(5), async || {
        let all = sidecar.components().await;
        let found = all
            .iter()
            .find(|one| one["state"] == "rejected" && one.to_string().contains(text))
            .cloned();
        found.ok_or(all)
    })
    .await
}

/// Calls are refused at once, with the codes of a component that will not start like this.
async fn assert_refused_at_once(sidecar: &Sidecar, store: &str) {
    let began = Instant::now();
    let answer = sidecar.get(&format!("/v1.0/state/{store}/key")).await;
    answer.assert(500, "ERR_COMPONENT_REJECTED");
    assert!(answer.text().contains(store), "{}", answer.text());
    let request = GetStateRequest {
        store_name: store.to_owned(),
        key: "key".to_owned(),
        ..GetStateRequest::default()
    };
    let answer: Result<GetStateResponse, _> = grpc::call(
        sidecar.ports.grpc,
        "/dapr.proto.runtime.v1.Dapr/GetState",
        &request,
        &[],
    )
    .await;
    assert_eq!(answer.unwrap_err().code, 9);
    assert!(began.elapsed() < ms(500), "{:?}", began.elapsed());
}

async fn check(files: &[(&str, &str)]) -> (i32, String) {
    let folder = PrivateDir::new("check");
    for (name, text) in files {
        folder.write(name, text);
    }
    let ended = Process::run(&["check", &folder.path().display().to_string()]).await;
    (ended.code, ended.output)
}

/// What `check` says of one file has all of these.
async fn assert_told(file: (&str, &str), parts: &[&str]) {
    let (code, output) = check(&[file]).await;
    assert_eq!(code, 1, "{output}");
    for part in parts {
        assert!(output.contains(part), "no {part:?} in:\n{output}");
    }
}

const BROKEN: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: broken\nspec:\n  type: [state.in-memory\n";

/// A10.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_accepted_is_rejected_by_name_and_starts_once_the_file_is_right() {
    let redis = RedisServer::shared().await;
    let locked =
        Component::redis_state("locked", &redis.address()).secret("redisPassword", "vault", "key");
    let good = |name: &str| Component::new(name, "state.in-memory").yaml();
    let mut sidecar = Plan::new("orders")
        .file("a-good.yaml", good("memory"))
        .file("typo.yaml", Component::new("typo", "state.redsi").yaml())
        .file("broken.yaml", BROKEN)
        .file("twice-1.yaml", good("twice"))
        .file(
            "twice-2.yaml",
            Component::new("twice", "state.redis").yaml(),
        )
        .file("locked.yaml", locked.yaml())
        .serving()
        .await;
    for name in ["memory", "twice"] {
        sidecar.assert_state_works(name).await;
    }
    assert!(
        rejected(&sidecar, "typo").await["message"]
            .as_str()
            .unwrap()
            .contains("state.redis")
    );
    assert!(
        rejected(&sidecar, "broken.yaml").await["name"]
            .as_str()
            .unwrap()
            .contains("broken.yaml:")
    );
    rejected(&sidecar, "twice").await;
    assert!(
        rejected(&sidecar, "locked").await["message"]
            .as_str()
            .unwrap()
            .contains("vault")
    );
    for name in ["typo", "locked"] {
        assert_refused_at_once(&sidecar, name).await;
    }
    let attempts_of_rejected = async || {
        let metrics =
            outrigger_e2e::http::call(sidecar.ports.metrics, &outrigger_e2e::Request::get("/"))
                .await;
        let text = metrics.unwrap().text();
        let is_one = |line: &&str| {
            line.starts_with("outrigger_component_attempts_total")
                && ["typo", "locked"].iter().any(|name| line.contains(name))
        };
        let lines = text
            .lines()
            .filter(is_one)
            .filter(|line| !line.ends_with(" 0") && !line.ends_with(" 1"));
        lines.count() > 0
    };
    wait::never("a second attempt", s(3), attempts_of_rejected).await;

    sidecar.write("typo.yaml", good("typo"));
    sidecar.write("broken.yaml", good("broken"));
    sidecar.write("twice-2.yaml", good("other"));
    sidecar.write(
        "vault.yaml",
        Component::new("vault", "secretstores.local.env").yaml(),
    );
    sidecar.reload();
    let fixed = Instant::now();
    for name in ["typo", "broken", "other", "locked"] {
        sidecar
            .until(name, "ready", s(5).saturating_sub(fixed.elapsed()))
            .await;
    }
    let ready = fixed.elapsed();
    figure(
        "A10",
        format!("all four rejected and refused with 500 / 9; ready {ready:?} after the fix"),
    );
    for name in ["memory", "twice", "typo", "broken", "other", "locked"] {
        sidecar.assert_state_works(name).await;
    }
    sidecar.process.assert_alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_yaml_is_named_with_its_place_and_hurts_no_other_file() {
    assert_told(
        ("broken.yaml", BROKEN),
        &["error[CFG-YAML]", "broken.yaml:"],
    )
    .await;
    let sidecar = beside_a_good_one(&[("broken.yaml", BROKEN)]).await;
    rejected(&sidecar, "broken.yaml:").await;
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_document_beside_a_broken_one_in_the_same_file_is_used() {
    let text = format!(
        "{}---\n{BROKEN}",
        Component::new("first", "state.in-memory").yaml()
    );
    let sidecar = beside_a_good_one(&[("both.yaml", &text)]).await;
    rejected(&sidecar, "both.yaml:").await;
    for name in ["memory", "first"] {
        sidecar.assert_state_works(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_wrong_type_are_told_all_at_once() {
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: wrong\nspec:\n  type: state.in-memory\n  version: [v1]\n  ignoreErrors: perhaps\n  metadata: none\n";
    let parts = [
        "error[CFG-TYPE]",
        "wrong.yaml:7:12 (spec.version)",
        "wrong.yaml:8:17 (spec.ignoreErrors)",
        "wrong.yaml:9:13 (spec.metadata)",
    ];
    assert_told(("wrong.yaml", text), &parts).await;
    let sidecar = beside_a_good_one(&[("wrong.yaml", text)]).await;
    rejected(&sidecar, "wrong").await;
    assert_refused_at_once(&sidecar, "wrong").await;
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_type_is_told_with_the_nearest_known_one() {
    let text = Component::new("typo", "state.redsi").yaml();
    assert_told(
        ("typo.yaml", &text),
        &[
            "error[CFG-UNKNOWN-TYPE]",
            "typo.yaml:6:9",
            "state.redsi",
            "state.redis",
        ],
    )
    .await;
    let sidecar = beside_a_good_one(&[("typo.yaml", &text)]).await;
    assert_refused_at_once(&sidecar, "typo").await;
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_version_is_told_and_refused() {
    let text = Component::new("future", "state.in-memory")
        .yaml()
        .replace("version: v1", "version: v9");
    assert_told(("future.yaml", &text), &["future.yaml:", "v9"]).await;
    let sidecar = beside_a_good_one(&[("future.yaml", &text)]).await;
    assert!(
        rejected(&sidecar, "future").await["message"]
            .as_str()
            .unwrap()
            .contains("v9")
    );
    assert_refused_at_once(&sidecar, "future").await;
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_components_of_one_name_the_first_serves_and_the_second_is_rejected() {
    let text = Component::new("memory", "state.redis").yaml();
    let sidecar = beside_a_good_one(&[("second.yaml", &text)]).await;
    let seen = rejected(&sidecar, "memory").await;
    assert!(
        seen["message"].as_str().unwrap().contains("second time"),
        "{seen}"
    );
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_a_store_that_does_not_exist_is_told_offline_and_refused() {
    let text = Component::new("locked", "state.redis")
        .set("redisHost", "localhost")
        .secret("redisPassword", "vault", "key")
        .yaml();
    assert_told(
        ("locked.yaml", &text),
        &["error[CFG-SECRET-STORE]", "vault"],
    )
    .await;
    let sidecar = beside_a_good_one(&[("locked.yaml", &text)]).await;
    assert_refused_at_once(&sidecar, "locked").await;
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_keeps_a_component_away_and_a_call_for_one_says_so() {
    let secrets = PrivateDir::new("secrets");
    let file = secrets.write("secrets.json", r#"{"present": "x"}"#);
    let vault = Component::new("vault", "secretstores.local.file")
        .set("secretsFile", &file.display().to_string());
    let sidecar = Plan::new("orders")
        .with(&Component::new("memory", "state.in-memory"))
        .with(&vault)
        .with(
            &Component::new("store", "state.redis")
                .set("redisHost", "localhost")
                .secret("redisPassword", "vault", "absent"),
        )
        .serving()
        .await;
    let seen = sidecar.until("store", "unavailable", s(5)).await;
    assert_eq!(seen["class"], "SECRET");
    assert!(
        seen["message"].as_str().unwrap().contains("absent"),
        "{seen}"
    );
    let answer = sidecar.get("/v1.0/secrets/vault/absent").await;
    answer.assert(500, "ERR_SECRET_GET");
    assert!(answer.text().contains("absent"));
    sidecar
        .get("/v1.0/secrets/nowhere/x")
        .await
        .assert(401, "ERR_SECRET_STORE_NOT_FOUND");
    assert_eq!(
        sidecar.get("/v1.0/secrets/vault/present").await.json(),
        json!({"present": "x"})
    );
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duration_that_cannot_be_read_is_told_with_its_place() {
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: slow\nspec:\n  policies:\n    timeouts:\n      fast: 5 sec\n";
    assert_told(
        ("slow.yaml", text),
        &[
            "error[CFG-DURATION]",
            "slow.yaml:8:13 (spec.policies.timeouts.fast)",
            "5 sec",
        ],
    )
    .await;
    let sidecar = beside_a_good_one(&[("slow.yaml", text)]).await;
    let line = sidecar.process.says("`fast` is not a duration", s(5)).await;
    assert!(
        line.contains("slow.yaml:8:13"),
        "the log does not say where: {line}"
    );
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_with_a_bad_duration_among_its_properties_is_rejected_and_one_with_a_bad_init_timeout_is_not()
 {
    let redis = RedisServer::shared().await;
    let bad = Component::redis_state("bad", &redis.address()).set("dialTimeout", "soon");
    let lenient = Component::redis_state("lenient", &redis.address()).init_timeout("soon");
    let sidecar =
        beside_a_good_one(&[("bad.yaml", &bad.yaml()), ("lenient.yaml", &lenient.yaml())]).await;
    let seen = sidecar.until("bad", "rejected", s(5)).await;
    assert!(
        seen["message"].as_str().unwrap().contains("dialTimeout"),
        "{seen}"
    );
    assert_refused_at_once(&sidecar, "bad").await;
    sidecar.process.says("initTimeout", s(5)).await;
    sidecar.until("lenient", "ready", s(5)).await;
    sidecar.assert_state_works("memory").await;
}

/// A Subscription with one rule.
fn ruled(topic: &str, rule: &str) -> String {
    format!(
        "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata:\n  name: {topic}\nspec:\n  pubsubname: bus\n  topic: {topic}\n  routes:\n    rules:\n    - match: {rule:?}\n      path: /on/{topic}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_does_not_parse_leaves_out_its_subscription_alone() {
    assert_told(
        ("rule.yaml", &ruled("bad", "event.type == (")),
        &["error[CFG-EXPRESSION]", "rule.yaml:10:"],
    )
    .await;
    let list = json!([
        {"pubsubname": "bus", "topic": "listed-bad", "routes": {"rules": [{"match": "event.type ===", "path": "/x"}]}},
        {"pubsubname": "bus", "topic": "listed-good", "route": "/on/listed-good"},
    ]);
    let app = App::start(move |asked| match asked.path.as_str() {
        "/dapr/subscribe" => Reply::json(&list),
        _ => Reply::status(200),
    })
    .await;
    let sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::new("bus", "pubsub.in-memory"))
        .file("bad.yaml", ruled("bad", "event.type == ("))
        .file(
            "good.yaml",
            ruled("good", "event.type == 'com.dapr.event.sent'"),
        )
        .serving()
        .await;
    for topic in ["good", "listed-good"] {
        sidecar.until_topic("bus", topic, "active", s(5)).await;
        sidecar.publish("bus", topic, topic).await.assert(204, "");
        wait::until("the delivery", s(5), async || app.delivered(topic)).await;
    }
    let line = sidecar
        .process
        .says("the expression does not compile", s(5))
        .await;
    assert!(
        line.contains("bad.yaml:10:"),
        "the log does not say where: {line}"
    );
    for topic in ["bad", "listed-bad"] {
        assert_ne!(sidecar.subscription("bus", topic).await["state"], "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_utf8_is_named_with_its_line_and_hurts_no_other() {
    let folder = PrivateDir::new("check");
    folder.write("binary.yaml", b"kind: Component\n# \xff\xfe\n");
    let ended = Process::run(&["check", &folder.path().display().to_string()]).await;
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(
        ended.output.contains("binary.yaml") && ended.output.contains("line 2"),
        "{}",
        ended.output
    );
    let sidecar = Plan::new("orders")
        .with(&Component::new("memory", "state.in-memory"))
        .file("binary.yaml", b"kind: Component\n# \xff\xfe\n")
        .serving()
        .await;
    rejected(&sidecar, "binary.yaml").await;
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_a_folder_that_is_gone_leaves_everything_as_it_is() {
    let mut sidecar = beside_a_good_one(&[]).await;
    let hidden = sidecar.folder().with_extension("away");
    std::fs::rename(sidecar.folder(), &hidden).unwrap();
    sidecar.reload();
    sidecar.process.says("resources cannot be read", s(5)).await;
    sidecar.assert_state_works("memory").await;
    std::fs::rename(&hidden, sidecar.folder()).unwrap();
    sidecar.write(
        "more.yaml",
        Component::new("more", "state.in-memory").yaml(),
    );
    sidecar.reload();
    sidecar.until("more", "ready", s(5)).await;
    sidecar.process.assert_alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_every_fault_of_every_file_and_says_nothing_of_good_ones() {
    let (good, typo) = (
        Component::new("good", "state.in-memory").yaml(),
        Component::new("typo", "state.redsi").yaml(),
    );
    let (code, output) = check(&[
        ("good.yaml", &good),
        ("typo.yaml", &typo),
        ("broken.yaml", BROKEN),
        ("twice.yaml", &good),
    ])
    .await;
    assert_eq!(code, 1);
    for part in [
        "CFG-UNKNOWN-TYPE",
        "typo.yaml:6:9",
        "CFG-YAML",
        "broken.yaml:",
        "CFG-DUPLICATE",
        "twice.yaml:",
    ] {
        assert!(output.contains(part), "no {part:?} in:\n{output}");
    }
    let (code, output) = check(&[("good.yaml", &good)]).await;
    assert_eq!((code, output.contains("error")), (0, false), "{output}");
}
