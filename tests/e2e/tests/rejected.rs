//! Components that are rejected before they get a handle: they count as any other that is not there.
//!
//! Owns: what `lifecycle.md` says of them in §3.4 (readiness), §4.5 (strict, deadline, optional), §7 and §8. That other
//! resources do not suffer is in `resources.rs`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use outrigger_e2e::{Component, Plan, Sidecar, s};
use outrigger_testkit::{PrivateDir, ports, wait};
use serde_json::{Value, json};

const READY: &str = "/v1.0/healthz";
const OUTBOUND: &str = "/v1.0/healthz/outbound";

fn memory(name: &str) -> Component {
    Component::new(name, "state.in-memory")
}

fn typo(name: &str) -> Component {
    Component::new(name, "state.redsi")
}

fn required(component: &Component) -> Component {
    component.clone().annotate("required", "true")
}

/// A component whose secret is in another one.
fn needs(name: &str, store: &str) -> Component {
    Component::new(name, "secretstores.local.file").secret("secretsFile", store, "file")
}

/// A component that is no list where it should be one.
fn misshapen(component: &Component) -> String {
    component.yaml().replace("metadata: []", "metadata: 5")
}

/// Every way of being rejected early, but for files that do not parse; the names are those of the ways.
fn rejects(mark: impl Fn(Component) -> Component) -> [(&'static str, String); 6] {
    [
        ("unknown-type", mark(typo("unknown-type")).yaml()),
        ("no-store", mark(needs("no-store", "nowhere")).yaml()),
        ("twice", mark(memory("twice")).yaml()),
        ("circle", mark(needs("circle", "round")).yaml()),
        ("round", mark(needs("round", "circle")).yaml()),
        ("bad-form", misshapen(&mark(memory("bad-form")))),
    ]
}

/// With a good component that comes first, and has a name that one of the others has, too.
fn beside(files: &[(&str, String)]) -> Plan {
    let mut plan = Plan::new("orders").file("a.yaml", memory("twice").yaml());
    for (name, text) in files {
        plan = plan.file(&format!("b-{name}.yaml"), text);
    }
    plan
}

/// The sidecar as far as it comes.
async fn settled(plan: Plan) -> Sidecar {
    let sidecar = plan.start();
    sidecar.process.says("dapr initialized", s(15)).await;
    sidecar
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_component_that_is_rejected_early_keeps_the_sidecar_from_being_ready() {
    let files = rejects(|component| required(&component));
    let sidecar = settled(beside(&files)).await;
    let answer = sidecar.get(READY).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    for (name, _) in &files {
        // The first definition of that name works.
        let is_missed = *name != "twice";
        assert_eq!(
            answer.text().contains(name),
            is_missed,
            "{name}: {}",
            answer.text()
        );
    }
    let works = "/v1.0/healthz/components/twice";
    assert_eq!(sidecar.get(works).await.status, 204);
    let named = "/v1.0/healthz?for=component:twice";
    assert_eq!(sidecar.get(named).await.status, 204);
    let listed = sidecar.get("/v1.0/healthz/components").await;
    assert!(
        listed.text().contains("defined a second time"),
        "{}",
        listed.text()
    );
    assert_eq!(sidecar.get(OUTBOUND).await.status, 204);
    for (name, _) in &files {
        sidecar.write(&format!("b-{name}.yaml"), required(&memory(name)).yaml());
    }
    sidecar.write("a.yaml", "");
    sidecar.reload();
    sidecar.until_status(READY, 204, s(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_demands_all_components_waits_for_rejected_ones_too() {
    let files = rejects(|component| component);
    let plan = beside(&files)
        .flag("--readiness-requires=all")
        .flag("--outbound-ready=all-ready");
    let sidecar = settled(plan).await;
    let answer = sidecar.get(READY).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert_eq!(sidecar.get(OUTBOUND).await.status, 500);
    let text = answer.text();
    for (name, _) in &files {
        assert_eq!(text.contains(name), *name != "twice", "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_component_counts_for_nothing_however_it_is_annotated_and_rejected() {
    let files = rejects(|component| required(&component).ignore_errors());
    let away = Component::redis_state("away", &format!("127.0.0.1:{}", ports::free()));
    let plan = beside(&files)
        .with(&required(&away).ignore_errors())
        .flag("--readiness-requires=required")
        .flag("--component-init-mode=strict")
        .flag("--component-init-deadline=1s");
    let mut sidecar = settled(plan).await;
    sidecar.until("away", "unavailable", s(5)).await;
    assert_eq!(sidecar.get(READY).await.status, 204);
    let seen = sidecar.component("unknown-type").await;
    assert_eq!(seen["optional"], true, "{seen}");
    let counted = sidecar.get("/v1.0/healthz?components=true").await;
    let left_out = "/v1.0/healthz?components=true&ignoreOptional=true";
    assert_eq!(counted.status, 500);
    let answer = sidecar.get(left_out).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    wait::until("the time after the deadline", s(5), async || {
        let status = sidecar.get("/outrigger/v1/status").await.json();
        status["uptimeMs"].as_u64() > Some(1_500)
    })
    .await;
    sidecar.process.assert_alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_strict_mode_every_rejection_of_a_component_ends_the_process() {
    for (name, text) in rejects(|component| component) {
        let files = match name {
            "circle" | "round" => rejects(|component| component)[3..5].to_vec(),
            _ => vec![(name, text)],
        };
        let mut sidecar = beside(&files).flag("--component-init-mode=strict").start();
        let ended = sidecar.process.ended(s(10)).await;
        assert_eq!(ended.code, 1, "{name}: {}", ended.output);
        let line = "[INIT_COMPONENT_FAILURE]: initialization error occurred for ";
        assert!(ended.output.contains(line), "{name}: {}", ended.output);
    }
    // daprd only warns of what is no YAML.
    let broken = [("broken", "[".to_owned())];
    let mut sidecar = settled(beside(&broken).flag("--component-init-mode=strict")).await;
    sidecar.process.assert_alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_is_still_rejected_at_the_deadline_ends_the_process() {
    let deadline = "--component-init-deadline=1s";
    let files = [("type", typo("type").yaml())];
    let mut sidecar = beside(&files).flag(deadline).start();
    let ended = sidecar.process.ended(s(10)).await;
    assert_eq!(ended.code, 1, "{}", ended.output);
    let line = "component type is not ready after 1 seconds";
    assert!(ended.output.contains(line), "{}", ended.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_early_is_told_in_full_and_measured() {
    let files = [("type", typo("type").yaml())];
    let sidecar = settled(beside(&files)).await;
    let seen = sidecar.component("type").await;
    assert_eq!(seen["type"], "state.redsi/v1", "{seen}");
    let health = sidecar.get("/v1.0/healthz?components=true").await.json();
    let item = &health["componentsHealth"][0];
    assert_eq!(item["componentType"], "state.redsi/v1", "{health}");
    let answer = sidecar.get("/v1.0/state/type/key").await;
    answer.assert(500, "ERR_COMPONENT_REJECTED");
    let told = answer.json();
    assert_eq!(told["details"][0]["metadata"]["type"], "state.redsi/v1");
    assert_eq!(told["details"][1]["resource_type"], "state", "{told}");

    let of = |state| {
        [
            ("component", "type"),
            ("type", "state.redsi"),
            ("state", state),
        ]
    };
    let states = "outrigger_component_state";
    sidecar.until_metric(states, &of("rejected"), 1.0).await;
    let calls = [("component", "type"), ("code", "ERR_COMPONENT_REJECTED")];
    let refused = "outrigger_component_rejected_calls_total";
    sidecar.until_metric(refused, &calls, 1.0).await;

    // A second definition of the same type shares the series of the first.
    sidecar.write("c.yaml", memory("twice").yaml());
    sidecar.write("b-type.yaml", "");
    sidecar.reload();
    sidecar.until_metric(states, &of("rejected"), 0.0).await;
    let twice = |state| [("component", "twice"), ("state", state)];
    sidecar.until_metric(states, &twice("rejected"), 1.0).await;
    sidecar.until_metric(states, &twice("ready"), 1.0).await;
    sidecar.write("c.yaml", "");
    sidecar.reload();
    sidecar.until_metric(states, &twice("rejected"), 0.0).await;
    sidecar.until_metric(states, &twice("ready"), 1.0).await;
}

/// Beside rejected components: what the metrics show of those that have not changed yet, and of those that never come.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_show_what_has_not_changed_yet_and_for_how_long_a_server_is_away() {
    let nowhere = format!("127.0.0.1:{}", ports::free());
    let sidecar = Plan::new("orders")
        .with(&memory("good"))
        .with(&memory("parked").annotate("init", "lazy"))
        .with(&Component::redis_state("away", &nowhere))
        .serving()
        .await;
    let gate = [("state", "absent")];
    sidecar.until_metric("outrigger_app_gate", &gate, 1.0).await;
    let parked = [("component", "parked"), ("state", "pending")];
    let states = "outrigger_component_state";
    sidecar.until_metric(states, &parked, 1.0).await;
    let away = "outrigger_component_unavailable_seconds_total";
    wait::until("the outage to grow", s(10), async || {
        let seen = sidecar.metric(away, &[("component", "away")]).await;
        if seen > 0.5 { Ok(()) } else { Err(seen) }
    })
    .await;
    let page = sidecar.scraped().await;
    let clean = format!("{away}{{app_id=\"orders\",component=\"good\"}} 0\n");
    assert!(page.contains(&clean), "{page}");
    let status = sidecar.get("/outrigger/v1/status").await;
    let seen: Vec<Value> = serde_json::from_value(status.json()["components"].clone()).unwrap();
    let types: Vec<&Value> = seen.iter().map(|one| &one["type"]).collect();
    let expected = json!(["state.redis/v1", "state.in-memory/v1", "state.in-memory/v1"]);
    assert_eq!(json!(types), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_is_counted_as_one_error() {
    let folder = PrivateDir::new("errors");
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: config\nspec:\n  metrics:\n    enabled: true\n    recordErrorCodes: true\n";
    let configuration = folder.write("config.yaml", text);
    let sidecar = Plan::new("orders")
        .flag(&format!("--config={}", configuration.display()))
        .flag("--component-wait=0s")
        .with(&Component::redis_state(
            "store",
            &format!("127.0.0.1:{}", ports::free()),
        ))
        .serving()
        .await;
    let answer = sidecar.get("/v1.0/state/store/key").await;
    answer.assert(503, "ERR_COMPONENT_NOT_READY");
    let code = [("error_code", "ERR_COMPONENT_NOT_READY")];
    sidecar
        .until_metric("dapr_error_code_total", &code, 1.0)
        .await;
}
