//! Component health over both APIs, with real servers: what is OK, what is not, who is told how much, how soon.
//!
//! Owns: rows A48 to A51 of `lifecycle.md` §9, and of A20 and A23 what health says.
//! Start at any test; each is a story of its own. What makes a status is decided, and tested, in
//! `crates/blocks/src/health`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_e2e::grpc::{self, Refusal};
use outrigger_e2e::{Answer, App, Component, Plan, Request, Sidecar, figure, http, ms, s};
use outrigger_proto::Message as _;
use outrigger_proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use outrigger_proto::outrigger::v1::{GetComponentHealthRequest, GetComponentHealthResponse};
use outrigger_testkit::servers::{Rabbit, RabbitServer, Redis, RedisServer, Server};
use outrigger_testkit::{PrivateDir, ports, wait};
use serde_json::Value;
use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;

/// Stories that measure tenths of a second read; those that keep the machine busy write, and run alone among them.
static QUIET: RwLock<()> = RwLock::const_new(());

const ALL: &str = "/v1.0/healthz?components=true";
const LIVE: &str = "/v1.0/healthz?components=true&live=true";

fn nowhere() -> String {
    format!("127.0.0.1:{}", ports::free())
}

/// Unused, so that nothing is known of it.
fn lazy(name: &str) -> String {
    Component::new(name, "state.in-memory").yaml().replace(
        &format!("name: {name}\n"),
        &format!("name: {name}\n  annotations: {{outrigger.dev/init: lazy}}\n"),
    )
}

async fn timed(sidecar: &Sidecar, path: &str) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = sidecar.get(path).await;
    (answer, began.elapsed())
}

/// Name, status and code of every entry.
fn entries(answer: &Answer) -> Vec<[String; 3]> {
    let body = answer.json();
    let items = body["componentsHealth"].as_array().expect("an array");
    let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    let entry = |item| ["componentName", "status", "errorCode"].map(|name| text(item, name));
    items.iter().map(entry).collect()
}

/// Every entry has the members that it must have, and none of another type.
fn assert_valid(answer: &Answer) {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = answer.json();
    for item in body["componentsHealth"].as_array().unwrap() {
        assert!(item["componentName"].is_string() && item["type"].is_string());
        match item["status"].as_str() {
            Some("NOT_OK") => assert!(item["message"].is_string() && item["errorCode"].is_string()),
            Some("UNDEFINED") => {
                assert!(item["message"].is_null() && item["errorCode"].is_string());
            }
            Some("OK") => assert!(item["errorCode"].is_null()),
            other => panic!("{other:?}"),
        }
        for time in ["since", "checkedAt", "lastOkAt"] {
            let time = &item[time];
            assert!(
                time.is_null() || time.as_str().is_some_and(|time| time.ends_with('Z')),
                "{item}"
            );
        }
    }
}

async fn ask(
    sidecar: &Sidecar,
    request: GetComponentHealthRequest,
) -> Result<GetComponentHealthResponse, Refusal> {
    let method = "/outrigger.v1.Health/GetComponentHealthAlpha1";
    grpc::call(sidecar.ports.grpc, method, &request, &[]).await
}

/// Code, and how many entries are listed.
async fn by_grpc(sidecar: &Sidecar) -> (i32, usize) {
    match ask(sidecar, GetComponentHealthRequest::default()).await {
        Ok(list) => (0, list.components_health.len()),
        Err(refusal) => {
            let (url, value) = &refusal.details[0];
            assert!(url.ends_with("/outrigger.v1.GetComponentHealthResponse"));
            let list = GetComponentHealthResponse::decode(value.as_slice()).unwrap();
            (refusal.code, list.components_health.len())
        }
    }
}

/// What `grpc.health.v1` says of a service.
async fn serving(sidecar: &Sidecar, service: &str) -> Result<i32, i32> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let method = "/grpc.health.v1.Health/Check";
    let answer = grpc::call::<HealthCheckResponse>(sidecar.ports.grpc, method, &request, &[]).await;
    answer
        .map(|answer| answer.status)
        .map_err(|refusal| refusal.code)
}

/// A48.
#[tokio::test(flavor = "multi_thread")]
async fn when_everything_is_fine_that_is_told_at_once_and_live_within_two_seconds() {
    let _quiet = QUIET.read().await;
    let redis = RedisServer::launch(Redis::default()).await;
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    let folder = PrivateDir::new("health");
    let secrets = folder.write("secrets.json", "{}");
    let file = folder.path().join("names.db");
    let configuration = folder.write("config.yaml", outrigger_e2e::component::names_in(&file));
    let sidecar = Plan::new("orders")
        .flag(&format!("--config={}", configuration.display()))
        .with(&Component::redis_state("redis", &redis.address()))
        .with(&Component::redis_pubsub("streams", &redis.address()))
        .with(&Component::rabbit("rabbit", &rabbit.url()))
        .with(&Component::new("sqlite", "state.sqlite").set(
            "connectionString",
            &folder.path().join("state.db").display().to_string(),
        ))
        .with(&Component::new("memory", "state.in-memory"))
        .with(&Component::new("bus", "pubsub.in-memory"))
        .with(&Component::new("env", "secretstores.local.env"))
        .with(
            &Component::new("file", "secretstores.local.file")
                .set("secretsFile", &secrets.display().to_string()),
        )
        .serving()
        .await;
    sidecar.until_status(ALL, 204, s(10)).await;
    let (answer, cached) = timed(&sidecar, ALL).await;
    assert_eq!((answer.status, answer.text().as_str()), (204, ""));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(cached <= ms(50), "{cached:?}");
    wait::never("an early look", ms(1_100), async || false).await;
    let (answer, live) = timed(&sidecar, LIVE).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert!(live <= ms(2_100), "{live:?}");
    assert_eq!(by_grpc(&sidecar).await, (0, 0));

    // A driver without a ping would be UNDEFINED.
    let path = "/v1.0/healthz?include=components,nameresolution&verbose=true";
    let answer = sidecar.get(path).await;
    assert_eq!(answer.status, 200);
    assert_valid(&answer);
    let all = entries(&answer);
    assert_eq!(all.len(), 8);
    assert!(all.iter().all(|[_, status, _]| status == "OK"), "{all:?}");
    let names = &answer.json()["nameresolutionHealth"][0];
    assert_eq!(names["status"], "OK", "{names}");
    figure(
        "A48",
        format!("204 after {cached:?}, live after {live:?}, 8 components"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_of_ours_about_health_is_kept_by_anybody_whatever_it_says() {
    let sidecar = Plan::new("orders")
        .app(ports::free())
        .with(&Component::redis_state("down", &nowhere()))
        .serving()
        .await;
    sidecar.until("down", "unavailable", s(10)).await;
    for (path, status) in [
        // The app is away: healthz itself is not well.
        (ALL, 500),
        ("/v1.0/healthz?components=perhaps", 400),
        ("/v1.0/healthz?for=component:down&timeout=100ms", 500),
        ("/v1.0/healthz?for=component:missing", 400),
        ("/v1.0/healthz/components?timeout=soon", 400),
        ("/v1.0/healthz/components/down", 500),
        ("/v1.0/healthz/components/missing", 404),
    ] {
        let answer = sidecar.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let kept = answer.header("cache-control");
        assert_eq!(kept, Some("no-store"), "{path}");
    }
    // Dapr's own question has Dapr's own answer.
    let plain = sidecar.get("/v1.0/healthz").await;
    assert_eq!((plain.status, plain.header("cache-control")), (500, None));
}

/// A49.
#[tokio::test(flavor = "multi_thread")]
async fn each_mixture_of_components_has_its_status_its_list_and_its_code() {
    let fine = Component::new("a-fine", "state.in-memory");
    let down = Component::redis_state("b-down", &nowhere());
    let unused = lazy("c-unused");
    let down_entry = ["b-down", "NOT_OK", "ERR_COMPONENT_UNAVAILABLE"].map(str::to_owned);
    let unused_entry =
        ["c-unused", "UNDEFINED", "ERR_COMPONENT_NOT_INITIALIZED"].map(str::to_owned);
    for (has_fine, has_down, has_unused, status, code) in [
        (false, false, false, 204, 0),
        (true, false, false, 204, 0),
        (true, true, false, 500, 2),
        (true, true, true, 500, 2),
        (false, true, true, 500, 2),
        (false, false, true, 405, 12),
        (true, false, true, 200, 0),
    ] {
        let mut plan = Plan::new("orders");
        if has_fine {
            plan = plan.with(&fine);
        }
        if has_down {
            plan = plan.with(&down);
        }
        if has_unused {
            plan = plan.file("unused.yaml", &unused);
        }
        let sidecar = plan.serving().await;
        let mut expected = Vec::new();
        if has_down {
            sidecar.until("b-down", "unavailable", s(5)).await;
            expected.push(down_entry.clone());
        }
        if has_unused {
            expected.push(unused_entry.clone());
        }
        let answer = sidecar.get(ALL).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("allow"), (status == 405).then_some("GET"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        if status == 204 {
            assert!(answer.body.is_empty());
        } else {
            assert_valid(&answer);
            assert_eq!(entries(&answer), expected);
        }
        assert_eq!(by_grpc(&sidecar).await, (code, expected.len()));
        // Dapr's own question has Dapr's own answer.
        let plain = sidecar.get("/v1.0/healthz").await;
        assert_eq!((plain.status, plain.body.len()), (204, 0));
    }
    figure(
        "A49",
        "seven mixtures over HTTP and gRPC: 204, 500, 405, 200; 0, 2, 12, 0",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_component_is_told_alone_and_grpc_health_says_the_same() {
    let sidecar = Plan::new("orders")
        .with(&Component::new("fine", "state.in-memory"))
        .with(&Component::redis_state("down", &nowhere()).ignore_errors())
        .with(&Component::new("wrong", "state.nosuch"))
        .file("unused.yaml", lazy("unused"))
        .serving()
        .await;
    sidecar.until("down", "unavailable", s(5)).await;
    for (name, status, code) in [
        ("fine", 204, ""),
        ("down", 500, "ERR_COMPONENT_UNAVAILABLE"),
        ("wrong", 500, "ERR_COMPONENT_REJECTED"),
        ("unused", 405, "ERR_COMPONENT_NOT_INITIALIZED"),
    ] {
        let answer = sidecar
            .get(&format!("/v1.0/healthz/components/{name}"))
            .await;
        assert_eq!(answer.status, status, "{name}");
        if status != 204 {
            let [[entry, _, told]] = entries(&answer).try_into().expect("one entry");
            assert_eq!((entry.as_str(), told.as_str()), (name, code));
        }
    }
    sidecar
        .get("/v1.0/healthz/components/other")
        .await
        .assert(404, "ERR_COMPONENT_NOT_FOUND");
    // UNKNOWN is 0, SERVING is 1, NOT_SERVING is 2; NOT_FOUND is 5.
    for (service, expected) in [
        ("component:fine", Ok(1)),
        ("component:down", Ok(2)),
        ("component:wrong", Ok(2)),
        ("component:unused", Ok(0)),
        ("component:other", Err(5)),
        ("", Ok(1)),
        ("outbound", Ok(1)),
    ] {
        assert_eq!(serving(&sidecar, service).await, expected, "{service}");
    }

    let everything = sidecar.get("/v1.0/healthz/components").await;
    assert_eq!(everything.status, 200);
    assert_valid(&everything);
    let names: Vec<String> = entries(&everything)
        .into_iter()
        .map(|[name, ..]| name)
        .collect();
    assert_eq!(names, ["down", "wrong", "unused", "fine"]);
    assert_eq!(everything.json()["phase"], "ready");

    // What is optional counts, unless somebody does not want that.
    std::fs::remove_file(sidecar.folder().join("component-2.yaml")).unwrap();
    sidecar.reload();
    let path = "/v1.0/healthz?components=true&ignoreOptional=true";
    sidecar.until_status(path, 200, s(5)).await;
    let answer = sidecar.get(ALL).await;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.json()["componentsHealth"][0]["optional"], true);

    // Asked for live, what nobody has used yet is started.
    let live = "/v1.0/healthz/components/unused?live=true";
    assert_eq!(sidecar.get(live).await.status, 204);
    assert_eq!(sidecar.component("unused").await["state"], "ready");
}

/// A50.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_dies_and_returns_is_told_in_time_idle_and_under_load() {
    let _alone = QUIET.write().await;
    let redis = RedisServer::launch(Redis::default()).await;
    let sidecar = Plan::new("orders")
        .with(&Component::redis_state("store", &redis.address()))
        .serving()
        .await;
    sidecar.until_status(ALL, 204, s(5)).await;
    let gone = async |limit: Duration| {
        redis.kill().await;
        let died = Instant::now();
        sidecar.until_status(ALL, 500, limit).await;
        let told = died.elapsed();
        assert!(told <= limit, "{told:?}");
        redis.start().await;
        let back = Instant::now();
        sidecar.until_status(ALL, 204, s(12)).await;
        (told, back.elapsed())
    };
    let (idle, back) = gone(s(17)).await;
    let mut load = JoinSet::new();
    let port = sidecar.ports.http;
    let (stop, stopped) = watch::channel(false);
    for _ in 0..8 {
        let stopped = stopped.clone();
        load.spawn(async move {
            while !*stopped.borrow() {
                http::call(port, &Request::get("/v1.0/state/store/key"))
                    .await
                    .ok();
            }
        });
    }
    let (loaded, again) = gone(s(1)).await;
    stop.send_replace(true);
    load.join_all().await;
    figure(
        "A50",
        format!(
            "500 after {idle:?} idle and {loaded:?} under load, 204 {back:?} and {again:?} after the return"
        ),
    );
}

/// A20, health.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_not_ok_in_time_and_live_questions_end_within_their_budget() {
    let redis = RedisServer::launch(Redis::default()).await;
    frozen(
        "A20-health-redis",
        &redis,
        &Component::redis_pubsub("bus", &redis.address()),
    )
    .await;
}

/// A20, health.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_rabbitmq_is_not_ok_in_time_and_live_questions_end_within_their_budget() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    frozen(
        "A20-health-rabbitmq",
        &rabbit,
        &Component::rabbit("bus", &rabbit.url()),
    )
    .await;
}

async fn frozen(row: &str, server: &dyn Server, bus: &Component) {
    let _quiet = QUIET.read().await;
    let (cached, live) = (
        Plan::new("orders").with(bus).serving().await,
        Plan::new("orders").with(bus).serving().await,
    );
    cached.until_status(ALL, 204, s(10)).await;
    live.until_status(ALL, 204, s(10)).await;
    // A success of a moment ago is shared with whoever asks.
    wait::never("an early look", ms(1_100), async || false).await;
    server.pause();
    let paused = Instant::now();
    for (timeout, limit) in [("100ms", ms(200)), ("1s", ms(1_100)), ("3s", ms(3_100))] {
        let (answer, took) = timed(&live, &format!("{LIVE}&timeout={timeout}")).await;
        assert!(took <= limit, "{timeout}: {took:?}");
        assert_eq!(answer.status, 500, "{timeout}");
        let [[_, status, code]] = entries(&answer).try_into().unwrap();
        assert_eq!(status, "NOT_OK");
        assert!(
            ["ERR_PING_TIMEOUT", "ERR_COMPONENT_UNAVAILABLE"].contains(&code.as_str()),
            "{code}"
        );
    }
    let asked = paused.elapsed();
    let left = s(17).saturating_sub(paused.elapsed());
    cached.until_status(ALL, 500, left).await;
    let told = paused.elapsed();
    let item = cached.get(ALL).await.json()["componentsHealth"][0].clone();
    assert_eq!(item["class"], "TIMEOUT", "{item}");
    server.resume();
    let resumed = Instant::now();
    cached.until_status(ALL, 204, s(12)).await;
    live.until_status(ALL, 204, s(12)).await;
    figure(
        row,
        format!(
            "live 500 three times within {asked:?}, 500 from the background after {told:?}, 204 {:?} after",
            resumed.elapsed()
        ),
    );
}

/// A23, health.
#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_topic_makes_its_component_not_ok_and_is_named() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    rabbit.control(&["add_user", "shop", "secret"]).await;
    let allowed = "^(?!.*forbidden).*$";
    rabbit
        .control(&["set_permissions", "shop", allowed, allowed, allowed])
        .await;
    let url = format!("amqp://shop:secret@{}", rabbit.address());
    let app = App::subscribed(&[("bus", "forbidden"), ("bus", "fine")]).await;
    let sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::rabbit("bus", &url))
        .serving()
        .await;
    sidecar.until_topic("bus", "fine", "active", s(5)).await;
    sidecar
        .until_topic("bus", "forbidden", "retrying", s(5))
        .await;
    let answer = sidecar.get(ALL).await;
    assert_eq!(answer.status, 500);
    let item = &answer.json()["componentsHealth"][0];
    assert_eq!(item["errorCode"], "ERR_SUBSCRIPTION_NOT_ACTIVE", "{item}");
    let message = item["message"].as_str().unwrap();
    assert!(
        message.starts_with("subscription to topic forbidden is "),
        "{message}"
    );
    assert!(!message.contains("topic fine"), "{message}");
    assert_eq!(item["state"], "ready");
    let status = |target: &str| format!("/v1.0/healthz?for=subscription:bus/{target}");
    assert_eq!(sidecar.get(&status("fine")).await.status, 204);
    let waiting = sidecar.get(&status("forbidden")).await;
    waiting.assert(500, "ERR_HEALTH_NOT_READY");
    assert!(waiting.text().contains("[subscription:bus/forbidden]"));
    sidecar
        .get(&status("other"))
        .await
        .assert(400, "ERR_HEALTH_TARGET_UNKNOWN");
    // One that is paused is no failure: with the broker's permission back, it is active again.
    rabbit
        .control(&["set_permissions", "shop", ".*", ".*", ".*"])
        .await;
    sidecar.until_status(ALL, 204, s(15)).await;
    figure("A23-health", message);
}

/// 7.6.
#[tokio::test(flavor = "multi_thread")]
async fn a_rabbitmq_that_takes_no_messages_is_not_ok_and_keeps_its_connection() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    let sidecar = Plan::new("orders")
        .with(&Component::rabbit("bus", &rabbit.url()))
        .serving()
        .await;
    sidecar.until_status(ALL, 204, s(10)).await;
    rabbit
        .control(&["set_vm_memory_high_watermark", "0.0001"])
        .await;
    // A broker tells those who publish.
    wait::until("a refusal", s(10), async || {
        let answer = sidecar.publish("bus", "new", "x").await;
        if answer.status == 204 {
            Err(answer.status)
        } else {
            Ok(())
        }
    })
    .await;
    sidecar.until_status(ALL, 500, s(5)).await;
    let item = sidecar.get(LIVE).await.json()["componentsHealth"][0].clone();
    assert_eq!(
        (&item["errorCode"], &item["state"]),
        (&Value::from("ERR_PING_FAILED"), &Value::from("ready")),
        "{item}"
    );
    rabbit
        .control(&["set_vm_memory_high_watermark", "0.8"])
        .await;
    sidecar.until_status(ALL, 204, s(10)).await;
    figure("7.6-blocked", item["message"].to_string());
}

/// A51, sharing.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_that_ask_live_load_a_server_with_a_ping_a_second() {
    let _alone = QUIET.write().await;
    let redis = RedisServer::launch(Redis::default()).await;
    let sidecar = Plan::new("orders")
        .with(&Component::redis_state("store", &redis.address()))
        .serving()
        .await;
    sidecar.until_status(ALL, 204, s(5)).await;
    let pings = async || {
        let stats = redis.command(&["INFO", "commandstats"]).await.unwrap();
        let line = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_ping:"))
            .unwrap_or_else(|| panic!("{stats}"))
            .to_owned();
        let calls = line.split_once("calls=").unwrap().1;
        calls.split_once(',').unwrap().0.parse::<u64>().unwrap()
    };
    let before = pings().await;
    let began = Instant::now();
    let (period, port) = (s(10), sidecar.ports.http);
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        clients.spawn(async move {
            let client = http::Pool::to(port);
            let mut worst = Duration::ZERO;
            let mut count = 0_u32;
            let mut ticks = tokio::time::interval(ms(100));
            while began.elapsed() < period {
                ticks.tick().await;
                let asked = Instant::now();
                let answer = client.send(&Request::get(LIVE)).await.unwrap();
                assert_eq!(answer.status, 204, "{}", answer.text());
                worst = worst.max(asked.elapsed());
                count += 1;
            }
            (count, worst)
        });
    }
    let told = clients.join_all().await;
    let took = began.elapsed();
    let sent = pings().await - before;
    let asked: u32 = told.iter().map(|(count, _)| count).sum();
    let worst = told.iter().map(|(_, worst)| *worst).max().unwrap();
    assert!(sent <= took.as_secs() + 1, "{sent} in {took:?}");
    assert!(sent >= 5, "{sent}: live questions ask the server");
    figure(
        "A51-sharing",
        format!("{asked} live answers in {took:?} from {sent} pings; the slowest took {worst:?}"),
    );
}

/// Forwards to a server; connections made before [`Firewall::forget`] then stay open and silent.
struct Firewall {
    port: u16,
    /// Connections made in earlier ages are forgotten.
    age: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

impl Firewall {
    async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let age = watch::Sender::new(0);
        let current = age.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let mut server = TcpStream::connect(&target).await.unwrap();
                let mut age = current.subscribe();
                connections.spawn(async move {
                    let mut client = client;
                    let (mut from_client, mut to_client) = client.split();
                    let (mut from_server, mut to_server) = server.split();
                    tokio::select! {
                        _ = copy(&mut from_client, &mut to_server) => {}
                        _ = copy(&mut from_server, &mut to_client) => {}
                        _ = age.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self {
            port,
            age,
            _tasks: tasks,
        }
    }

    fn forget(&self) {
        self.age.send_modify(|age| *age += 1);
    }
}

/// A51, idle connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_firewall_that_forgets_idle_connections_makes_no_component_fail() {
    let _quiet = QUIET.read().await;
    let redis = RedisServer::launch(Redis::default()).await;
    let firewall = Firewall::before(redis.address()).await;
    let address = format!("127.0.0.1:{}", firewall.port);
    let sidecar = Arc::new(
        Plan::new("orders")
            .with(&Component::redis_state("store", &address))
            .serving()
            .await,
    );
    sidecar.until_status(ALL, 204, s(5)).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        wait::never("an early look", ms(1_100), async || false).await;
        firewall.forget();
        let (answer, took) = timed(&sidecar, LIVE).await;
        assert_eq!(answer.status, 204, "the second try: {}", answer.text());
        assert!(took <= ms(3_100), "{took:?}");
        told.push(took);
        // Calls use the connection that answered.
        sidecar.assert_state_works("store").await;
        assert_eq!(sidecar.component("store").await["state"], "ready");
    }
    figure(
        "A51-firewall",
        format!("204 on the second try after {told:?}"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_the_public_port_see_statuses_and_codes_only() {
    let sidecar = Plan::new("orders")
        .env("DAPR_API_TOKEN", "token")
        .with(&Component::redis_state("down", &nowhere()))
        .with(&Component::rabbit(
            "bus",
            &format!("amqp://shop:hunter2@{}", nowhere()),
        ))
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(10)).await;
    let trusted = async |path: &str| {
        let request = Request::get(path).header("dapr-api-token", "token");
        sidecar.call(request).await
    };
    let public = async |path: &str| {
        http::call(sidecar.ports.public, &Request::get(path))
            .await
            .unwrap()
    };
    wait::until("both failures", s(5), async || {
        let all = entries(&trusted(ALL).await);
        all.iter()
            .all(|[.., code]| code == "ERR_COMPONENT_UNAVAILABLE")
            .then_some(())
            .ok_or("not yet")
    })
    .await;
    for path in [
        ALL,
        "/v1.0/healthz/components",
        "/v1.0/healthz/components/bus",
    ] {
        let told = trusted(path).await;
        assert_valid(&told);
        assert!(told.text().contains("message"), "{path}");
        assert!(!told.text().contains("hunter2"), "{}", told.text());
        let wrong = Request::get(path).header("dapr-api-token", "wrong");
        for answer in [
            sidecar.get(path).await,
            sidecar.call(wrong).await,
            public(path).await,
        ] {
            assert_eq!(answer.status, told.status, "{path}");
            assert_eq!(entries(&answer), entries(&told), "{path}");
            let body = answer.json();
            let members = body["componentsHealth"][0].as_object().unwrap();
            let known = ["componentName", "errorCode", "status", "type"];
            assert!(
                members.keys().all(|name| known.contains(&name.as_str())),
                "{members:?}"
            );
        }
    }
    let states = async |answer: http::Answer| {
        answer.json()["extended"]["outrigger.dev/components"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let told = states(trusted("/v1.0/metadata").await).await;
    assert!(
        told.contains(r#""message":"#) && !told.contains("hunter2"),
        "{told}"
    );
    let told = states(public("/v1.0/metadata").await).await;
    assert!(
        told.contains(r#""class":"TRANSIENT""#) && !told.contains(r#""message":"#),
        "{told}"
    );
    // Only health is open.
    let secret = sidecar.get("/v1.0/secrets/env/..%2f..%2fhealthz").await;
    assert_eq!(secret.status, 401);
    let refusal = ask(&sidecar, GetComponentHealthRequest::default())
        .await
        .unwrap_err();
    let list = GetComponentHealthResponse::decode(refusal.details[0].1.as_slice()).unwrap();
    let entry = &list.components_health[0];
    assert_eq!((entry.message.as_str(), entry.state.as_str()), ("", ""));
    assert_eq!(entry.error_code, "ERR_COMPONENT_UNAVAILABLE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_question_is_told_what_is_wrong_with_it_and_daprs_own_are_as_they_were() {
    let _quiet = QUIET.read().await;
    let sidecar = Plan::new("orders")
        .with(&Component::new("fine", "state.in-memory"))
        .serving()
        .await;
    let long = "x".repeat(2_000);
    for (query, code) in [
        ("components=maybe", "ERR_HEALTH_PARAMETER_INVALID"),
        ("components=", "ERR_HEALTH_PARAMETER_INVALID"),
        ("components=true&live=2", "ERR_HEALTH_PARAMETER_INVALID"),
        ("components=true&timeout=0s", "ERR_HEALTH_PARAMETER_INVALID"),
        (
            "components=true&timeout=9999999h",
            "ERR_HEALTH_PARAMETER_INVALID",
        ),
        (
            "components=true&timeout=%00",
            "ERR_HEALTH_PARAMETER_INVALID",
        ),
        ("include=brokers", "ERR_HEALTH_INCLUDE_UNKNOWN"),
        ("include=components,", "ERR_HEALTH_INCLUDE_UNKNOWN"),
        (long.as_str(), ""),
        ("for=everything", "ERR_HEALTH_TARGET_UNKNOWN"),
        ("for=component:other", "ERR_HEALTH_TARGET_UNKNOWN"),
        ("for=subscription:fine/x", "ERR_HEALTH_TARGET_UNKNOWN"),
        ("for=app", "ERR_HEALTH_TARGET_UNKNOWN"),
        ("for=outbound&include=app", "ERR_HEALTH_PARAMETER_INVALID"),
    ] {
        let (answer, took) = timed(&sidecar, &format!("/v1.0/healthz?{query}")).await;
        answer.assert(if code.is_empty() { 204 } else { 400 }, code);
        assert!(took <= ms(500), "{query}: {took:?}");
    }
    for (query, status, code) in [
        ("appid=orders", 204, ""),
        ("appid=other", 500, "ERR_HEALTH_APPID_NOT_MATCH"),
        (
            "appid=other&components=true",
            500,
            "ERR_HEALTH_APPID_NOT_MATCH",
        ),
        ("components=false&live=nonsense", 204, ""),
        ("for=component:fine,outbound", 204, ""),
        ("include=controlplane", 405, ""),
        ("include=components,controlplane", 200, ""),
    ] {
        let answer = sidecar.get(&format!("/v1.0/healthz?{query}")).await;
        answer.assert(status, code);
    }
    for request in [
        GetComponentHealthRequest {
            include: vec!["brokers".to_owned()],
            ..GetComponentHealthRequest::default()
        },
        GetComponentHealthRequest {
            timeout: Some(outrigger_proto::google::protobuf::Duration {
                seconds: -1,
                nanos: 0,
            }),
            ..GetComponentHealthRequest::default()
        },
    ] {
        let refusal = ask(&sidecar, request).await.unwrap_err();
        assert_eq!(refusal.code, 3, "{refusal:?}");
    }
    let component = GetComponentHealthRequest {
        component: "other".to_owned(),
        ..GetComponentHealthRequest::default()
    };
    assert_eq!(ask(&sidecar, component).await.unwrap_err().code, 5);
}

/// 004: components are not looked at while the sidecar itself is not ready; the list answers all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_not_ready_says_that_and_the_list_answers_all_the_same() {
    let sidecar = Plan::new("orders")
        .app(ports::free())
        .with(&Component::new("fine", "state.in-memory"))
        .serving()
        .await;
    sidecar.get(ALL).await.assert(500, "ERR_HEALTH_NOT_READY");
    let everything = sidecar.get("/v1.0/healthz/components").await;
    assert_eq!(everything.status, 200);
    assert_eq!(everything.json()["phase"], "waiting_app");
    assert_eq!(everything.json()["gate"], "wait_port");
    let fine = sidecar.get("/v1.0/healthz/components/fine").await;
    assert_eq!(fine.status, 204);
    let waiting = sidecar.get("/v1.0/healthz?for=app,outbound").await;
    waiting.assert(500, "ERR_HEALTH_NOT_READY");
    assert!(waiting.text().contains("[app]"), "{}", waiting.text());
}
