//! Rows of `lifecycle.md` §9 whose bounds are short, so that they need the machine to themselves.
//!
//! Owns: A1, A3 to A7, A15, A37. They run one after the other, each behind [`alone`].
//! Start at any test; each is a story of its own. Patient rows are in `outages.rs`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outrigger_e2e::component::subscription;
use outrigger_e2e::figures::{figure, quantile};
use outrigger_e2e::http::Pool;
use outrigger_e2e::load::everything_arrives;
use outrigger_e2e::{App, Component, Load, Plan, Request, Sidecar, binary, grpc, ms, s};
use outrigger_proto::dapr::proto::runtime::v1::PublishEventRequest;
use outrigger_testkit::proxy::Proxy;
use outrigger_testkit::servers::{Rabbit, RabbitServer, RedisServer, Server as _};
use outrigger_testkit::{ports, wait};
use tokio::net::TcpStream;
use tokio::sync::MutexGuard;
use tokio::task::JoinSet;

/// One at a time, and never while the binary is being built.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let turn = TURN.lock().await;
    binary::path();
    turn
}

fn nowhere() -> String {
    format!("127.0.0.1:{}", ports::free())
}

/// RabbitMQ pubsub and Redis state, both down.
fn both_down() -> Plan {
    Plan::new("orders")
        .with(&Component::redis_state("store", &nowhere()))
        .with(&Component::rabbit(
            "bus",
            &format!("amqp://guest:guest@{}", nowhere()),
        ))
        .with(&Component::new("memory", "state.in-memory"))
}

async fn accepts(port: u16) {
    wait::until(format!("port {port}"), s(5), async || {
        TcpStream::connect(("127.0.0.1", port)).await
    })
    .await;
}

/// A1.
#[tokio::test(flavor = "multi_thread")]
async fn with_everything_down_all_ports_accept_at_once_and_calls_are_served() {
    let _turn = alone().await;
    let mut sidecar = both_down().start();
    for port in sidecar.ports.all() {
        accepts(port).await;
    }
    let accepted = sidecar.since_start();
    assert!(accepted <= ms(500), "{accepted:?}");
    let served = sidecar.serves(s(10)).await;
    assert!(served <= s(10), "{served:?}");
    for name in ["store", "bus"] {
        let seen = sidecar.until(name, "unavailable", s(5)).await;
        assert_eq!(seen["class"], "TRANSIENT", "{seen}");
    }
    sidecar.assert_state_works("memory").await;
    sidecar.process.assert_alive();
    figure(
        "A1",
        format!("all ports accept after {accepted:?}, outbound 204 after {served:?}"),
    );
}

/// A3.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_to_a_broker_that_is_down_fails_in_time_and_says_when_to_come_again() {
    let _turn = alone().await;
    let sidecar = both_down().serving().await;
    let began = Instant::now();
    let answer = sidecar.publish("bus", "new", "hello").await;
    let (http, began) = (began.elapsed(), Instant::now());
    answer.assert(503, "ERR_COMPONENT_NOT_READY");
    let after: u64 = answer
        .header("retry-after")
        .expect("a hint")
        .parse()
        .unwrap();
    assert!((1..=30).contains(&after), "{after}");
    let details = answer.json()["details"].clone();
    let has = |name: &str| {
        let name = format!("type.googleapis.com/google.rpc.{name}");
        details
            .as_array()
            .unwrap()
            .iter()
            .any(|detail| detail["@type"] == name.as_str())
    };
    assert!(
        has("RetryInfo") && has("ErrorInfo") && has("ResourceInfo"),
        "{details}"
    );

    let refusal = publish_by_grpc(&sidecar, "bus").await.unwrap_err();
    let grpc = began.elapsed();
    assert_eq!(refusal.code, 14, "{refusal:?}");
    assert!(
        refusal.has("RetryInfo") && refusal.has("ErrorInfo"),
        "{refusal:?}"
    );
    assert!(http <= ms(2200) && grpc <= ms(2200), "{http:?} {grpc:?}");
    figure(
        "A3",
        format!("503 after {http:?}, Retry-After {after}; gRPC 14 after {grpc:?}"),
    );
}

async fn publish_by_grpc(sidecar: &Sidecar, pubsub: &str) -> Result<(), grpc::Refusal> {
    let request = PublishEventRequest {
        pubsub_name: pubsub.to_owned(),
        topic: "new".to_owned(),
        data: "hello".into(),
        ..PublishEventRequest::default()
    };
    grpc::call(
        sidecar.ports.grpc,
        "/dapr.proto.runtime.v1.Dapr/PublishEvent",
        &request,
        &[],
    )
    .await
}

/// A4.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_of_a_store_that_is_down_are_answered_in_time_and_hold_up_nobody() {
    let _turn = alone().await;
    let sidecar = both_down().serving().await;
    sidecar.assert_state_works("memory").await;
    let before = sidecar.process.memory();
    let (pool, over) = (
        Arc::new(Pool::to(sidecar.ports.http)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        callers.spawn(keep_asking(
            Arc::clone(&pool),
            "/v1.0/state/store/key",
            503,
            Arc::clone(&over),
        ));
    }
    let mut others = JoinSet::new();
    for path in [
        "/v1.0/healthz/outbound",
        "/v1.0/metadata",
        "/v1.0/state/memory/proof",
    ] {
        let status = if path.ends_with("outbound") { 204 } else { 200 };
        let pool = Arc::new(Pool::to(sidecar.ports.http));
        others.spawn(keep_asking(pool, path, status, Arc::clone(&over)));
    }
    let mut peak = before;
    let began = Instant::now();
    while began.elapsed() < s(30) {
        tokio::time::sleep(ms(250)).await;
        peak = peak.max(sidecar.process.memory());
    }
    over.store(true, Ordering::SeqCst);
    let slow: Vec<Duration> = callers.join_all().await.concat();
    let fast: Vec<Duration> = others.join_all().await.concat();
    let (worst, p99) = (*slow.iter().max().unwrap(), quantile(fast.clone(), 0.99));
    let grown = peak.saturating_sub(before);
    figure(
        "A4",
        format!(
            "{} gets, slowest {worst:?}; memory {before} KiB, at most +{grown} KiB; {} other calls, p99 {p99:?}",
            slow.len(),
            fast.len()
        ),
    );
    assert!(worst <= ms(2200), "{worst:?}");
    assert!(grown < 20 * 1024, "{grown} KiB");
    assert!(p99 < ms(50), "{p99:?}");
}

/// Asks again and again; how long each answer took.
async fn keep_asking(
    pool: Arc<Pool>,
    path: &'static str,
    status: u16,
    over: Arc<AtomicBool>,
) -> Vec<Duration> {
    let mut taken = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let began = Instant::now();
        let answer = pool.send(&Request::get(path)).await.unwrap();
        taken.push(began.elapsed());
        assert_eq!(answer.status, status, "{}", answer.text());
        // A pace, so that these calls do not become the load: not those of others, nor those that are refused at once.
        tokio::time::sleep(if status < 300 { ms(5) } else { ms(100) }).await;
    }
    taken
}

/// A5.
#[tokio::test(flavor = "multi_thread")]
async fn with_everything_up_calls_are_served_within_two_seconds_by_ready_components() {
    let _turn = alone().await;
    let (redis, rabbit) = (RedisServer::shared().await, RabbitServer::shared().await);
    let sidecar = Plan::new("orders")
        .with(&Component::redis_state("store", &redis.address()))
        .with(&Component::redis_pubsub("stream", &redis.address()))
        .with(&Component::rabbit("bus", &rabbit.url()))
        .with(&Component::new("memory", "state.in-memory"))
        .with(&Component::new("env", "secretstores.local.env"))
        .start();
    sidecar.accepts().await;
    let served = sidecar.serves(s(5)).await;
    let components = sidecar.components().await;
    assert!(served <= s(2), "{served:?}");
    assert_eq!(components.len(), 5);
    for component in components {
        assert_eq!(component["state"], "ready", "{component}");
    }
    figure(
        "A5",
        format!("outbound 204 after {served:?}, all five components ready"),
    );
}

/// A6.
#[tokio::test(flavor = "multi_thread")]
async fn state_works_at_once_and_as_fast_as_ever_while_the_broker_is_down() {
    let _turn = alone().await;
    let (redis, rabbit) = (RedisServer::shared().await, RabbitServer::shared().await);
    let with_bus = |url: &str| {
        Plan::new("orders")
            .with(&Component::redis_state("store", &redis.address()))
            .with(&Component::rabbit("bus", url))
    };
    let sidecar = with_bus(&format!("amqp://guest:guest@{}", nowhere())).start();
    sidecar.accepts().await;
    sidecar.assert_state_works("store").await;
    let works = sidecar.since_start();
    assert!(works <= s(1), "{works:?}");
    let healthy = with_bus(&rabbit.url()).serving().await;
    healthy.until("bus", "ready", s(10)).await;

    // In turns, so that what else happens on this machine meets both alike; the calmest round counts.
    let (mut up, mut down) = (Duration::MAX, Duration::MAX);
    for round in 1..=12 {
        let (a, b) = p99_in_turns(&healthy, &sidecar).await;
        (up, down) = (up.min(a), down.min(b));
        if round >= 3 && down <= up.mul_f64(1.1) {
            break;
        }
    }
    figure(
        "A6",
        format!(
            "state works after {works:?}; p99 {down:?} with the broker down, {up:?} with it up"
        ),
    );
    assert!(down <= up.mul_f64(1.1), "{down:?} against {up:?}");
}

async fn p99_in_turns(one: &Sidecar, other: &Sidecar) -> (Duration, Duration) {
    let pools = [Pool::to(one.ports.http), Pool::to(other.ports.http)];
    let mut taken = [Vec::new(), Vec::new()];
    let request = Request::get("/v1.0/state/store/proof");
    for turn in 0..1000 {
        let began = Instant::now();
        pools[turn % 2].send(&request).await.unwrap();
        taken[turn % 2].push(began.elapsed());
    }
    let [one, other] = taken;
    (quantile(one, 0.99), quantile(other, 0.99))
}

/// A7.
#[tokio::test(flavor = "multi_thread")]
async fn nineteen_black_holes_hold_up_neither_the_start_nor_the_good_component() {
    let _turn = alone().await;
    let redis = RedisServer::shared().await;
    let mut plan = Plan::new("orders").with(&Component::redis_state("good", &redis.address()));
    let mut holes = Vec::new();
    for number in 0..19 {
        let proxy = Proxy::to(nowhere()).await;
        proxy.hang();
        let name = format!(
            "{}-{number}",
            ["rabbitmq", "redis-pubsub", "redis-state"][number % 3]
        );
        plan = plan.with(&match number % 3 {
            0 => Component::rabbit(&name, &format!("amqp://guest:guest@{}", proxy.address())),
            1 => Component::redis_pubsub(&name, &proxy.address()),
            _ => Component::redis_state(&name, &proxy.address()),
        });
        holes.push(Hole {
            component: name,
            proxy,
        });
    }
    let sidecar = plan.start();
    sidecar.accepts().await;
    sidecar.assert_state_works("good").await;
    let works = sidecar.since_start();
    assert!(works <= s(1), "{works:?}");
    let (ends, served) = tokio::join!(attempts_end(&sidecar, &holes), sidecar.serves(s(12)));
    let times = ends.iter().map(|(_, at)| *at);
    let (first, last) = (times.clone().min().unwrap(), times.max().unwrap());
    figure(
        "A7",
        format!(
            "good one usable after {works:?}, first attempts end between {first:?} and {last:?}, outbound 204 after {served:?}"
        ),
    );
    assert!(served <= ms(10_500), "{served:?}");
    // From exec on; the process needs a moment of its own until it connects.
    let off: Vec<_> = ends
        .iter()
        .filter(|(_, at)| *at < ms(4800) || *at > ms(5200) + ms(250))
        .collect();
    assert!(
        off.is_empty(),
        "initTimeout is 5 s, but attempts ended: {off:?}"
    );
}

/// A port that accepts and then stays silent.
struct Hole {
    component: String,
    proxy: Proxy,
}

/// Nobody has or tries to get a second connection to any of them. They hang, and do not notice the end of one.
#[track_caller]
fn assert_one_socket_each(holes: &[Hole]) {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    // Number, local address, remote address, state. A table that changes may show a line twice.
    let open: HashSet<(&str, &str, &str)> = table
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some((words.next()?, words.next()?, words.next()?))
        })
        .filter(|(_, _, state)| ["01", "02"].contains(state))
        .collect();
    for hole in holes {
        let remote = format!(":{:04X}", hole.proxy.port());
        let is_there = |(_, address, _): &&(&str, &str, &str)| address.ends_with(&remote);
        let sockets: Vec<_> = open.iter().filter(is_there).collect();
        assert!(sockets.len() <= 1, "{}: {sockets:?}", hole.component);
    }
}

/// Waits until the first attempt of each has ended; which did when. Never has one more than one socket.
async fn attempts_end(sidecar: &Sidecar, holes: &[Hole]) -> Vec<(String, Duration)> {
    let began = sidecar.process.started;
    let mut ended: Vec<(String, Duration)> = Vec::new();
    wait::until("the end of all first attempts", s(12), async || {
        assert_one_socket_each(holes);
        for seen in sidecar.components().await {
            let name = seen["name"].as_str().unwrap().to_owned();
            if seen["state"] == "unavailable" && ended.iter().all(|(other, _)| *other != name) {
                assert_eq!(seen["class"], "TIMEOUT", "{seen}");
                let since = Duration::from_millis(seen["sinceMs"].as_u64().unwrap());
                ended.push((name, began.elapsed().saturating_sub(since)));
            }
        }
        if ended.len() == holes.len() {
            Ok(())
        } else {
            Err(ended.len())
        }
    })
    .await;
    ended
}

/// A37.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_sidecar_ends_cleanly_within_two_and_a_half_seconds() {
    let _turn = alone().await;
    let redis = RedisServer::shared().await;
    let app = App::subscribed(&[("stream", "new")]).await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::redis_state("store", &redis.address()))
        .with(&Component::redis_pubsub("stream", &redis.address()))
        .serving()
        .await;
    sidecar.until_topic("stream", "new", "active", s(10)).await;
    let (ended, took) = sidecar.stop(s(10)).await;
    figure("A37", format!("exit {} after {took:?}", ended.code));
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(took <= ms(2500), "{took:?}");
}

/// A15.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_under_load_loses_nothing_that_was_accepted() {
    let _turn = alone().await;
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    let app = App::start(|_| outrigger_e2e::Reply::status(200)).await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::rabbit("bus", &rabbit.url()))
        .file("subscription.yaml", subscription("bus", "new"))
        .serving()
        .await;
    sidecar.until_topic("bus", "new", "active", s(15)).await;

    let load = Load::start("id", sidecar.ports.http);
    wait::until("traffic", s(20), async || app.count("/on/new") > 1500).await;
    rabbit.kill().await;
    let died = Instant::now();
    let left = s(20).saturating_sub(died.elapsed());
    wait::never("the end of the sidecar", left, async || {
        !sidecar.process.is_alive()
    })
    .await;
    rabbit.start().await;
    let back = Instant::now();
    let first = wait::until("a delivery", s(12), async || {
        let received = app.received();
        received
            .iter()
            .rev()
            .find(|asked| asked.at > back)
            .map(|asked| asked.at - back)
    })
    .await;
    sidecar.until("bus", "ready", s(5)).await;
    let seen = app.count("/on/new");
    wait::until("traffic again", s(20), async || {
        app.count("/on/new") > seen + 1500
    })
    .await;
    let published = load.stop().await;
    let deliveries = everything_arrives(&app, &published.accepted).await;
    figure(
        "A15",
        format!(
            "{} accepted, {} refused with 503, {} odd; {deliveries} deliveries, {} duplicates, 0 lost; first delivery {first:?} after the return",
            published.accepted.len(),
            published.refused,
            published.odd.len(),
            deliveries - published.accepted.len().min(deliveries)
        ),
    );
    assert!(
        published.odd.is_empty(),
        "neither 503 nor 2xx: {} such as {:?}",
        published.odd.len(),
        &published.odd[..1]
    );
    assert!(published.refused > 0);
    sidecar.process.assert_alive();
}
