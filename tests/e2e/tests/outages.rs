//! Rows of `lifecycle.md` §9 that take their time: servers that come late, go away, hang, refuse or lose a queue.
//!
//! Owns: A2, A8, A9, A11 to A14, A20 to A23, A26. They run side by side; most of the time they wait.
//! Start at any test; each is a story of its own. Rows with short bounds are in `measured.rs`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::time::{Duration, Instant};

use outrigger_e2e::component::subscription;
use outrigger_e2e::{App, Component, Plan, Sidecar, figure, ms, s};
use outrigger_testkit::proxy::{Direction, Proxy};
use outrigger_testkit::servers::{Rabbit, RabbitServer, Redis, RedisServer, Server};
use outrigger_testkit::{PrivateDir, ports, wait};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

fn nowhere() -> String {
    format!("127.0.0.1:{}", ports::free())
}

/// Until so long after `began`; the sidecar lives on.
async fn wait_until(began: Instant, after: Duration, sidecar: &mut Sidecar) {
    let left = after.saturating_sub(began.elapsed());
    wait::never("the end of the sidecar", left, async || {
        !sidecar.process.is_alive()
    })
    .await;
}

/// When the port accepts.
async fn accepting(address: &str) -> Instant {
    wait::until(format!("{address} accepting"), s(90), async || {
        TcpStream::connect(address).await
    })
    .await;
    Instant::now()
}

fn state_of(component: &Value) -> (&str, &str) {
    let text = |name: &str| component[name].as_str().unwrap_or_default();
    (text("state"), text("class"))
}

/// A2.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_up_a_minute_late_is_used_within_twelve_seconds() {
    let rabbit = RabbitServer::prepare(Rabbit::default());
    let app = App::subscribed(&[("bus", "new")]).await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::redis_state("store", &nowhere()))
        .with(&Component::rabbit("bus", &rabbit.url()))
        .serving()
        .await;
    wait_until(sidecar.process.started, s(60), &mut sidecar).await;
    let address = rabbit.address();
    let ((), accepted) = tokio::join!(rabbit.start(), accepting(&address));
    sidecar
        .until("bus", "ready", s(12).saturating_sub(accepted.elapsed()))
        .await;
    let ready = accepted.elapsed();
    let left = s(12).saturating_sub(accepted.elapsed());
    sidecar.until_topic("bus", "new", "active", left).await;
    let active = accepted.elapsed();
    sidecar.publish("bus", "new", "first").await.assert(204, "");
    let left = s(15).saturating_sub(accepted.elapsed());
    let delivered = wait::until("the delivery", left, async || app.delivered("first")).await;
    sidecar.process.assert_alive();
    let delivered = delivered - accepted;
    figure(
        "A2",
        format!(
            "after AMQP accepts: ready {ready:?}, topic active {active:?}, first delivery {delivered:?}"
        ),
    );
}

/// A8, first half.
#[tokio::test(flavor = "multi_thread")]
async fn in_strict_mode_a_store_that_is_down_ends_the_process_as_daprd_does() {
    let address = nowhere();
    let store = Component::redis_state("store", &address).init_timeout("2s");
    let mut sidecar = Plan::new("orders")
        .flag("--component-init-mode=strict")
        .with(&store)
        .start();
    let ended = sidecar.process.ended(s(10)).await;
    let took = ended.took;
    figure(
        "A8-exit",
        format!("exit {} after {took:?} with initTimeout 2s", ended.code),
    );
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(took <= s(4), "{took:?}");
    let line = "process component store error: [INIT_COMPONENT_FAILURE]: initialization error occurred for store (state.redis/v1)";
    assert!(ended.output.contains(line), "{}", ended.output);
    assert!(
        ended.output.contains("Fatal error from runtime"),
        "{}",
        ended.output
    );
}

/// A8, for one component only.
#[tokio::test(flavor = "multi_thread")]
async fn one_store_may_be_as_strict_as_daprd_among_others_that_are_waited_for() {
    let store = |name: &str| Component::redis_state(name, &nowhere()).init_timeout("2s");
    let strict = store("strict").annotate("init-mode", "strict");
    let mut sidecar = Plan::new("orders")
        .with(&store("other"))
        .with(&strict)
        .start();
    let ended = sidecar.process.ended(s(10)).await;
    assert_eq!(ended.code, 1, "{}", ended.output);
    let line = "process component strict error: [INIT_COMPONENT_FAILURE]";
    assert!(ended.output.contains(line), "{}", ended.output);
    let mut sidecar = Plan::new("orders")
        .flag("--component-init-mode=strict")
        .with(&store("waited-for").annotate("init-mode", "resilient"))
        .serving()
        .await;
    sidecar.until("waited-for", "unavailable", s(5)).await;
    sidecar.process.assert_alive();
}

/// A8, second half.
#[tokio::test(flavor = "multi_thread")]
async fn in_strict_mode_an_optional_store_that_is_down_is_waited_for() {
    let redis = RedisServer::prepare(Redis::default());
    let store = Component::redis_state("store", &redis.address()).ignore_errors();
    let mut sidecar = Plan::new("orders")
        .flag("--component-init-mode=strict")
        .with(&store)
        .serving()
        .await;
    let seen = sidecar.until("store", "unavailable", s(5)).await;
    assert_eq!(seen["optional"], true, "{seen}");
    wait_until(sidecar.process.started, s(15), &mut sidecar).await;
    redis.start().await;
    let up = Instant::now();
    sidecar.until("store", "ready", s(12)).await;
    figure("A8-stays", format!("ready {:?} after Redis", up.elapsed()));
    sidecar.assert_state_works("store").await;
    sidecar.process.assert_alive();
}

/// A9.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_never_ready_by_the_deadline_ends_the_process() {
    let mut sidecar = Plan::new("orders")
        .flag("--component-init-deadline=20s")
        .with(&Component::redis_state("store", &nowhere()))
        .start();
    let ended = sidecar.process.ended(s(30)).await;
    let took = ended.took;
    figure("A9", format!("exit {} after {took:?}", ended.code));
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(took >= s(20) && took <= s(22), "{took:?}\n{}", ended.output);
}

/// A11.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_tried_slowly_and_a_broker_that_is_set_right_is_used() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    rabbit.control(&["add_user", "shop", "other"]).await;
    rabbit
        .control(&["set_permissions", "shop", ".*", ".*", ".*"])
        .await;
    let url = format!("amqp://shop:secret@{}", rabbit.address());
    let mut sidecar = Plan::new("orders")
        .with(&Component::rabbit("bus", &url))
        .with(&Component::new("memory", "state.in-memory"))
        .serving()
        .await;
    let seen = sidecar.until("bus", "unavailable", s(10)).await;
    assert_eq!(state_of(&seen), ("unavailable", "AUTH"), "{seen}");
    let began = Instant::now();
    sidecar
        .publish("bus", "new", "x")
        .await
        .assert(503, "ERR_COMPONENT_NOT_READY");
    let refused = began.elapsed();
    assert!(refused <= ms(500), "no wait: {refused:?}");
    sidecar.assert_state_works("memory").await;

    wait_until(sidecar.process.started, s(45), &mut sidecar).await;
    let attempts = sidecar.component("bus").await["attempt"].as_u64().unwrap();
    rabbit.control(&["change_password", "shop", "secret"]).await;
    let fixed = Instant::now();
    assert!(attempts <= 6, "{attempts}");
    sidecar.until("bus", "ready", s(62)).await;
    figure(
        "A11",
        format!(
            "{attempts} attempts in 45 s, refused after {refused:?}, ready {:?} after the fix",
            fixed.elapsed()
        ),
    );
    sidecar.publish("bus", "new", "x").await.assert(204, "");
    sidecar.process.assert_alive();
}

/// A12.
#[tokio::test(flavor = "multi_thread")]
async fn components_wait_for_their_secret_store_and_the_others_do_not() {
    let redis = RedisServer::launch(Redis {
        password: Some("pass".to_owned()),
        ..Redis::default()
    })
    .await;
    let secrets = PrivateDir::new("secrets");
    let file = secrets.path().join("secrets.json");
    let needs = |name: &str| {
        Component::redis_state(name, &redis.address()).secret("redisPassword", "vault", "redis")
    };
    let mut sidecar = Plan::new("orders")
        .with(
            &Component::new("vault", "secretstores.local.file")
                .set("secretsFile", &file.display().to_string()),
        )
        .with(&needs("one"))
        .with(&needs("two"))
        .with(&needs("three"))
        .with(&Component::redis_state("free", &redis.address()).set("redisPassword", "pass"))
        .with(&Component::new("memory", "state.in-memory"))
        .start();
    sidecar.accepts().await;
    for name in ["free", "memory"] {
        sidecar
            .until(name, "ready", s(1).saturating_sub(sidecar.since_start()))
            .await;
    }
    let usable = sidecar.since_start();
    sidecar.until("vault", "unavailable", s(5)).await;
    while sidecar.since_start() < s(30) {
        for name in ["one", "two", "three"] {
            let seen = sidecar.component(name).await;
            assert_eq!(
                (&seen["state"], &seen["attempt"]),
                (&json!("pending"), &json!(0)),
                "{seen}"
            );
        }
        let next = sidecar.since_start() + s(1);
        wait_until(sidecar.process.started, next, &mut sidecar).await;
    }
    secrets.write("secrets.json", r#"{"redis": "pass"}"#);
    let up = Instant::now();
    for name in ["one", "two", "three"] {
        let seen = sidecar
            .until(name, "ready", s(12).saturating_sub(up.elapsed()))
            .await;
        assert!(
            seen["attempt"].as_u64() <= Some(1),
            "one attempt, with the secret: {seen}"
        );
    }
    figure(
        "A12",
        format!(
            "two usable after {usable:?}, three ready {:?} after the store",
            up.elapsed()
        ),
    );
    sidecar.assert_state_works("two").await;
    sidecar.process.assert_alive();
}

/// A13.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_asked_for_again_and_used_once_it_is_there() {
    let redis = RedisServer::launch(Redis {
        password: Some("pass".to_owned()),
        ..Redis::default()
    })
    .await;
    let secrets = PrivateDir::new("secrets");
    let file = secrets.write("secrets.json", r#"{"other": "x"}"#);
    let mut sidecar = Plan::new("orders")
        .with(
            &Component::new("vault", "secretstores.local.file")
                .set("secretsFile", &file.display().to_string()),
        )
        .with(&Component::redis_state("store", &redis.address()).secret(
            "redisPassword",
            "vault",
            "redis",
        ))
        .serving()
        .await;
    let seen = sidecar.until("store", "unavailable", s(5)).await;
    assert_eq!(seen["class"], "SECRET", "{seen}");
    let began = Instant::now();
    sidecar
        .get("/v1.0/state/store/key")
        .await
        .assert(503, "ERR_COMPONENT_NOT_READY");
    assert!(began.elapsed() < ms(500), "no wait: {:?}", began.elapsed());
    wait_until(sidecar.process.started, s(40), &mut sidecar).await;
    secrets.write("secrets.json", r#"{"other": "x", "redis": "pass"}"#);
    sidecar.reload();
    let fixed = Instant::now();
    sidecar.until("store", "ready", s(62)).await;
    figure(
        "A13",
        format!("class SECRET, ready {:?} after the key", fixed.elapsed()),
    );
    sidecar.assert_state_works("store").await;
    sidecar.process.assert_alive();
}

/// A14.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_appears_late_is_found_and_one_that_moves_is_followed() {
    let redis = RedisServer::launch(Redis::default()).await;
    let old = Proxy::to(redis.address()).await;
    let _new = relay(("127.0.0.2", old.port()), redis.address()).await;
    // The sidecar alone sees this table of hosts, in a mount namespace of its own.
    let tables = PrivateDir::new("hosts");
    let hosts = tables.write("hosts", "127.0.0.1 localhost\n");
    tables.write("nsswitch.conf", "hosts: files\n");
    let mount = format!(
        "mount --bind {0}/hosts /etc/hosts && mount --bind {0}/nsswitch.conf /etc/nsswitch.conf && exec \"$0\" \"$@\"",
        tables.path().display()
    );
    let mut sidecar = Plan::new("orders")
        .wrapped(&[
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            &mount,
        ])
        .with(&Component::redis_state(
            "store",
            &format!("redis.outrigger.test:{}", old.port()),
        ))
        .serving()
        .await;
    let seen = sidecar.until("store", "unavailable", s(8)).await;
    assert_eq!(seen["class"], "TRANSIENT", "{seen}");
    wait_until(sidecar.process.started, s(30), &mut sidecar).await;
    append(&hosts, "127.0.0.1 redis.outrigger.test\n");
    let added = Instant::now();
    sidecar.until("store", "ready", s(12)).await;
    let found = added.elapsed();
    sidecar.assert_state_works("store").await;

    std::fs::write(&hosts, "127.0.0.2 redis.outrigger.test\n").unwrap();
    old.cut().await;
    let off = Instant::now();
    sidecar.until("store", "unavailable", s(20)).await;
    sidecar
        .until("store", "ready", s(20).saturating_sub(off.elapsed()))
        .await;
    figure(
        "A14",
        format!(
            "TRANSIENT, ready {found:?} after the record, reconnected {:?} after the move",
            off.elapsed()
        ),
    );
    sidecar.assert_state_works("store").await;
    sidecar.process.assert_alive();
}

fn append(file: &std::path::Path, text: &str) {
    let old = std::fs::read_to_string(file).unwrap();
    // In place: another file of this name would not be the one that is mounted.
    std::fs::write(file, old + text).unwrap();
}

/// Passes on what comes to another address of this machine.
async fn relay(address: (&str, u16), target: String) -> JoinSet<()> {
    let listener = TcpListener::bind(address).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let target = target.clone();
            connections.spawn(async move {
                let mut server = TcpStream::connect(target).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    tasks
}

/// A20, RabbitMQ.
#[tokio::test(flavor = "multi_thread")]
async fn a_rabbitmq_that_freezes_is_noticed_and_used_again_when_it_goes_on() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    let bus = Component::rabbit("bus", &rabbit.url());
    // A publish waits 30 s for its confirmation.
    freeze_and_go_on("A20-rabbitmq", &rabbit, &bus, s(32)).await;
}

/// A20, Redis.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_freezes_is_noticed_and_used_again_when_it_goes_on() {
    let redis = RedisServer::launch(Redis::default()).await;
    let bus = Component::redis_pubsub("bus", &redis.address());
    freeze_and_go_on("A20-redis", &redis, &bus, s(5)).await;
}

async fn freeze_and_go_on(
    row: &str,
    server: &dyn Server,
    bus: &Component,
    publish_limit: Duration,
) {
    let app = App::subscribed(&[("bus", "new")]).await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .with(bus)
        .serving()
        .await;
    sidecar.until_topic("bus", "new", "active", s(10)).await;
    sidecar
        .publish("bus", "new", "before")
        .await
        .assert(204, "");
    wait::until("the delivery before", s(5), async || {
        app.delivered("before")
    })
    .await;

    server.pause();
    let frozen = Instant::now();
    let seen = wait::until("the loss", s(17), async || {
        let seen = sidecar.component("bus").await;
        // The first attempt may follow so soon that nobody sees the state before it.
        let is_lost = ["unavailable", "connecting"]
            .iter()
            .any(|state| seen["state"] == *state);
        if is_lost { Ok(seen) } else { Err(seen) }
    })
    .await;
    let noticed = frozen.elapsed();
    assert_eq!(seen["class"], "TIMEOUT", "{seen}");
    let began = Instant::now();
    let during = sidecar.publish("bus", "new", "during").await;
    let answered = began.elapsed();
    assert!(answered <= publish_limit, "{answered:?}");
    assert_eq!(during.status, 503, "{}", during.text());

    server.resume();
    let resumed = Instant::now();
    sidecar.until("bus", "ready", s(12)).await;
    let ready = resumed.elapsed();
    sidecar.until_topic("bus", "new", "active", s(12)).await;
    sidecar.publish("bus", "new", "after").await.assert(204, "");
    wait::until("the delivery after", s(15), async || app.delivered("after")).await;
    sidecar.process.assert_alive();
    figure(
        row,
        format!(
            "unavailable {noticed:?} after SIGSTOP, publish answered after {answered:?}, ready {ready:?} after SIGCONT"
        ),
    );
}

/// §8: what is measured of an idle store whose server freezes.
#[tokio::test(flavor = "multi_thread")]
async fn pings_without_an_answer_are_counted_by_class_and_the_time_without_a_store_once() {
    let redis = RedisServer::launch(Redis::default()).await;
    let sidecar = Plan::new("orders")
        .flag("--component-ping-interval=1s")
        .flag("--component-ping-timeout=500ms")
        .with(&Component::redis_state("store", &redis.address()))
        .serving()
        .await;
    sidecar.until("store", "ready", s(5)).await;
    let (pings, away) = (
        "outrigger_component_ping_failures_total",
        "outrigger_component_unavailable_seconds_total",
    );
    let store = ("component", "store");
    let before = sidecar.metric(away, &[store]).await;
    assert!(before < 1e-9, "{before}");
    redis.pause();
    let frozen = Instant::now();
    wait::until("the loss", s(10), async || {
        let seen = sidecar.component("store").await;
        if seen["state"] == "ready" {
            Err(seen)
        } else {
            Ok(())
        }
    })
    .await;
    let labels = [store, ("reason", "TIMEOUT")];
    sidecar.until_metric(pings, &labels, 2.0).await;
    redis.resume();
    sidecar.until("store", "ready", s(15)).await;
    let away = sidecar.metric(away, &[store]).await;
    let longest = frozen.elapsed().as_secs_f64();
    assert!(away > 0.0 && away < longest, "{away} of {longest}");
}

/// A20, a publish that the freeze meets on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_meets_a_frozen_broker_is_answered_in_time_and_not_lost_if_accepted() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    let app = App::subscribed(&[("bus", "new")]).await;
    let sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::rabbit("bus", &rabbit.url()))
        .serving()
        .await;
    sidecar.until_topic("bus", "new", "active", s(10)).await;
    rabbit.pause();
    let began = Instant::now();
    let answer = sidecar.publish("bus", "new", "during").await;
    let answered = began.elapsed();
    rabbit.resume();
    figure(
        "A20-publish",
        format!("answered {} after {answered:?}", answer.status),
    );
    assert!(answered <= s(32), "{answered:?}");
    assert!(
        answer.status >= 500,
        "a confirmation that nobody gave: {}",
        answer.status
    );
    sidecar.until("bus", "ready", s(12)).await;
    sidecar.publish("bus", "new", "after").await.assert(204, "");
    wait::until("the delivery after", s(15), async || app.delivered("after")).await;
}

/// A21.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_broker_times_out_or_connects_as_its_time_allows_and_disturbs_nobody() {
    // A login takes four round trips; the broker's own patience of ten seconds ends before.
    let configuration = "handshake_timeout = 60000".to_owned();
    let rabbit = RabbitServer::launch(Rabbit { configuration }).await;
    let slow = Proxy::to(rabbit.address()).await;
    slow.delay(Direction::ToServer, s(3));
    let url = format!("amqp://guest:guest@{}", slow.address());
    let mut sidecar = Plan::new("orders")
        .with(&Component::rabbit("hasty", &url).init_timeout("5s"))
        .with(&Component::rabbit("patient", &url).init_timeout("30s"))
        .with(&Component::new("memory", "state.in-memory"))
        .start();
    sidecar.accepts().await;
    sidecar.assert_state_works("memory").await;
    let works = sidecar.since_start();
    assert!(works <= s(1), "{works:?}");
    wait::until("a second attempt that timed out", s(25), async || {
        let seen = sidecar.component("hasty").await;
        assert_ne!(seen["state"], "ready", "{seen}");
        let is_again = seen["attempt"].as_u64() >= Some(2) && seen["class"] == "TIMEOUT";
        if is_again { Ok(()) } else { Err(seen) }
    })
    .await;
    sidecar
        .until(
            "patient",
            "ready",
            s(31).saturating_sub(sidecar.since_start()),
        )
        .await;
    figure(
        "A21",
        format!(
            "in-memory works after {works:?}, 30 s component ready after {:?}, 5 s one retries with TIMEOUT",
            sidecar.since_start()
        ),
    );
    sidecar.process.assert_alive();
}

/// A22.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_is_declared_again_and_its_siblings_notice_nothing() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    let topics = ["t1", "t2", "t3", "t4", "t5"];
    let app = App::subscribed(&topics.map(|topic| ("bus", topic))).await;
    let sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::rabbit("bus", &rabbit.url()))
        .serving()
        .await;
    for topic in topics {
        sidecar.until_topic("bus", topic, "active", s(15)).await;
    }
    let queues = rabbit.control(&["list_queues", "--quiet", "name"]).await;
    let queue = queues
        .lines()
        .find(|line| line.ends_with("t3"))
        .expect("a queue for t3")
        .to_owned();
    let mut left_active = Vec::new();
    let deletion = ["delete_queue", &queue];
    let (gap, _) = tokio::join!(
        outage_of(&sidecar, "t3", &mut left_active),
        rabbit.control(&deletion)
    );
    figure(
        "A22",
        format!("topic active again {gap:?} after it was seen retrying"),
    );
    assert_eq!(left_active, ["t3"]);
    assert!(gap <= s(2), "{gap:?}");
    assert_eq!(sidecar.component("bus").await["state"], "ready");
    for topic in topics {
        sidecar.publish("bus", topic, topic).await.assert(204, "");
        wait::until(format!("a delivery to {topic}"), s(5), async || {
            app.delivered(topic)
        })
        .await;
    }
}

/// How long this topic was not active; all topics that were not meanwhile.
async fn outage_of(sidecar: &Sidecar, topic: &str, left_active: &mut Vec<String>) -> Duration {
    let mut began = None;
    wait::until(format!("the outage of {topic}"), s(30), async || {
        let component = sidecar.component("bus").await;
        assert_eq!(component["state"], "ready", "{component}");
        let all = component["subscriptions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let away = |one: &&Value| one["state"] != "active";
        for one in all.iter().filter(away) {
            let name = one["topic"].as_str().unwrap().to_owned();
            if !left_active.contains(&name) {
                left_active.push(name);
            }
        }
        let is_away = all.iter().filter(away).any(|one| one["topic"] == topic);
        match (began, is_away) {
            (None, true) => began = Some(Instant::now()),
            (Some(began), false) => return Ok(began.elapsed()),
            _ => {}
        }
        Err(component)
    })
    .await
}

/// A23.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_forbidden_is_named_and_does_not_hold_up_another() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    rabbit.control(&["add_user", "shop", "secret"]).await;
    let allowed = "^(?!.*forbidden).*$";
    rabbit
        .control(&["set_permissions", "shop", allowed, allowed, allowed])
        .await;
    let url = format!("amqp://shop:secret@{}", rabbit.address());
    let app = App::subscribed(&[("bus", "forbidden"), ("bus", "fine")]).await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::rabbit("bus", &url))
        .start();
    sidecar.accepts().await;
    sidecar
        .until_topic(
            "bus",
            "fine",
            "active",
            s(2).saturating_sub(sidecar.since_start()),
        )
        .await;
    let active = sidecar.since_start();
    let seen = sidecar
        .until_topic("bus", "forbidden", "retrying", s(5))
        .await;
    assert!(
        seen["error"]
            .as_str()
            .is_some_and(|error| !error.is_empty()),
        "{seen}"
    );
    sidecar
        .publish("bus", "fine", "hello")
        .await
        .assert(204, "");
    wait::until("the delivery", s(5), async || app.delivered("hello")).await;
    assert_eq!(sidecar.component("bus").await["state"], "ready");
    sidecar.process.assert_alive();
    figure(
        "A23",
        format!(
            "the allowed topic is active after {active:?}; the other: {}",
            seen["error"]
        ),
    );
}

/// A26.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_whose_app_never_comes_serves_calls_and_pulls_nothing() {
    let redis = RedisServer::launch(Redis::default()).await;
    let mut sidecar = Plan::new("orders")
        .app(ports::free())
        .with(&Component::redis_state("store", &redis.address()))
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .file("subscription.yaml", subscription("bus", "new"))
        .serving()
        .await;
    sidecar.publish("bus", "new", "kept").await.assert(204, "");
    while sidecar.since_start() < s(120) {
        sidecar
            .get("/v1.0/healthz")
            .await
            .assert(500, "ERR_HEALTH_NOT_READY");
        sidecar.get("/v1.0/healthz/outbound").await.assert(204, "");
        sidecar.assert_state_works("store").await;
        assert_eq!(sidecar.subscription("bus", "new").await["state"], "idle");
        let next = sidecar.since_start() + s(5);
        wait_until(sidecar.process.started, next, &mut sidecar).await;
    }
    assert_eq!(redis.command(&["XLEN", "new"]).await.unwrap(), ":1");
    assert_eq!(
        redis.command(&["XINFO", "GROUPS", "new"]).await.unwrap(),
        "*0"
    );
    sidecar.process.assert_alive();
    figure(
        "A26",
        "alive for 120 s, healthz 500, outbound 204, state works, no consumer group",
    );
}
