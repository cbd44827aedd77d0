//! Brokers that restart again and again, lose a node, or hand over to another server, all under load.
//!
//! Owns: A16 to A18 of `lifecycle.md` §9. They run one after the other: each keeps the machine busy.
//! Start at any test; each is a story of its own.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use outrigger_e2e::component::subscription;
use outrigger_e2e::load::everything_arrives;
use outrigger_e2e::{
    App, Component, Load, Plan, Reply, Request, Sidecar, binary, figure, http, ms, s,
};
use outrigger_testkit::servers::{
    Rabbit, RabbitCluster, RabbitServer, Redis, RedisServer, Sentinel, Server as _,
};
use outrigger_testkit::wait;
use serde_json::json;
use tokio::sync::MutexGuard;

/// One at a time, and never while the binary is being built.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let turn = TURN.lock().await;
    binary::path();
    turn
}

async fn more_traffic(sidecar: &Sidecar, app: &App, load: &Load, messages: usize) {
    let before = app.count("/on/new");
    let what = format!("{messages} more messages");
    wait::until(what, s(120), async || {
        let seen = app.count("/on/new") - before;
        if seen >= messages {
            return Ok(());
        }
        // Whoever fails here wants to know which side stands still.
        let topic = sidecar.subscription("bus", "new").await;
        Err((seen, load.so_far(), topic))
    })
    .await;
}

/// Open files and memory in KiB of a sidecar that nobody calls. Connections of clients that are gone are noticed soon, and
/// memory goes back a little later; the least of a few seconds counts.
async fn footprint(sidecar: &Sidecar) -> (usize, u64) {
    let mut pace = tokio::time::interval(ms(200));
    let (mut files, mut memory) = (usize::MAX, u64::MAX);
    for _ in 0..20 {
        pace.tick().await;
        files = files.min(sidecar.process.descriptors());
        memory = memory.min(sidecar.process.memory());
    }
    (files, memory)
}

/// One outage under load: what was accepted, and how long after the return the first delivery came.
async fn outage(sidecar: &Sidecar, app: &App, rabbit: &RabbitServer, round: usize) -> Round {
    let load = Load::start(&format!("round{round}"), sidecar.ports.http);
    more_traffic(sidecar, app, &load, 1_000).await;
    rabbit.kill().await;
    rabbit.start().await;
    let back = Instant::now();
    let recovered = wait::until("a delivery", s(12), async || {
        app.last("/on/new")
            .filter(|at| *at > back)
            .map(|at| at - back)
    })
    .await;
    more_traffic(sidecar, app, &load, 1_000).await;
    let published = load.stop().await;
    assert!(published.odd.is_empty(), "{:?}", &published.odd[..1]);
    Round {
        accepted: published.accepted,
        refused: published.refused,
        recovered,
    }
}

struct Round {
    accepted: HashSet<String>,
    refused: usize,
    recovered: Duration,
}

/// A16, in short: a broker that is killed four times, the first time to get used to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_again_and_again_costs_no_message_no_file_and_no_memory() {
    let _turn = alone().await;
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    let app = App::start(|_| Reply::status(200)).await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        // Its connections are kept, as many as there ever were deliveries at a time.
        .flag("--app-max-concurrency=10")
        .with(&Component::rabbit("bus", &rabbit.url()))
        .file("subscription.yaml", subscription("bus", "new"))
        .serving()
        .await;
    sidecar.until_topic("bus", "new", "active", s(15)).await;
    let mut rounds = vec![outage(&sidecar, &app, &rabbit, 0).await];
    let (files, memory) = footprint(&sidecar).await;
    for round in 1..=3 {
        rounds.push(outage(&sidecar, &app, &rabbit, round).await);
    }
    let (files_after, memory_after) = footprint(&sidecar).await;
    let accepted: HashSet<String> = rounds
        .iter()
        .flat_map(|round| round.accepted.iter().cloned())
        .collect();
    let deliveries = everything_arrives(&app, &accepted).await;
    let slowest = rounds.iter().map(|round| round.recovered).max().unwrap();
    let refused: usize = rounds.iter().map(|round| round.refused).sum();
    figure(
        "A16",
        format!(
            "4 restarts: {} accepted, {refused} refused with 503, 0 lost, {} duplicates; first delivery at most {slowest:?} after the return; {files} files and {memory} KiB after the first, {files_after} and {memory_after} after the last",
            accepted.len(),
            deliveries - accepted.len()
        ),
    );
    sidecar.process.assert_alive();
    assert!(
        files_after.abs_diff(files) * 20 <= files,
        "{files} files, then {files_after}"
    );
    assert!(
        memory_after <= memory + memory / 20,
        "{memory} KiB, then {memory_after}"
    );
}

/// A17.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_the_node_we_are_connected_to_costs_no_message() {
    let _turn = alone().await;
    let cluster = RabbitCluster::launch(3).await;
    let list = json!([
        {"pubsubname": "bus", "topic": "new", "route": "/on/new", "deadLetterTopic": "new-dead", "metadata": {"queueType": "quorum"}},
        {"pubsubname": "bus", "topic": "new-dead", "route": "/on/new-dead", "metadata": {"queueType": "quorum"}},
    ]);
    let app = App::start(move |asked| match asked.path.as_str() {
        "/dapr/subscribe" => Reply::json(&list),
        "/dapr/config" => Reply::status(404),
        _ => Reply::status(200),
    })
    .await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::rabbit("bus", &cluster.url()))
        .serving()
        .await;
    for topic in ["new", "new-dead"] {
        sidecar.until_topic("bus", topic, "active", s(20)).await;
    }
    // Three nodes that all write to one disk.
    let load = Load::at_most("id", sidecar.ports.http, 100);
    more_traffic(&sidecar, &app, &load, 300).await;
    // Hosts are tried in their order, so this is the one; its queues are led there, too.
    cluster.nodes[0].kill().await;
    let died = Instant::now();
    let (ready, first) = wait::until("a delivery through another node", s(100), async || {
        let state = sidecar.component("bus").await["state"].clone();
        let ready = died.elapsed();
        let fresh = app.last("/on/new").filter(|at| *at > died + ms(500));
        match fresh {
            Some(at) if state == "ready" => Ok((ready, at - died)),
            _ => Err((
                state,
                load.so_far(),
                sidecar.subscription("bus", "new").await,
            )),
        }
    })
    .await;
    more_traffic(&sidecar, &app, &load, 300).await;
    let published = load.stop().await;
    let deliveries = everything_arrives(&app, &published.accepted).await;
    figure(
        "A17",
        format!(
            "ready {ready:?} and first delivery {first:?} after the kill; {} accepted, {} refused with 503, {} odd, 0 lost, {} duplicates",
            published.accepted.len(),
            published.refused,
            published.odd.len(),
            deliveries - published.accepted.len().min(deliveries)
        ),
    );
    assert!(published.odd.is_empty(), "{:?}", &published.odd[..1]);
    assert!(ready <= s(12), "{ready:?}");
    assert_eq!(app.count("/on/new-dead"), 0);
    // It was our node that died.
    sidecar
        .until_metric(
            "outrigger_component_reconnects_total",
            &[("component", "bus")],
            1.0,
        )
        .await;
    sidecar.process.assert_alive();
}

/// A18.
#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_at_the_new_primary_after_a_failover_and_never_reach_the_old_one() {
    let _turn = alone().await;
    let primary = RedisServer::launch(Redis {
        arguments: ["--repl-diskless-sync-delay", "0"]
            .map(str::to_owned)
            .into(),
        ..Redis::default()
    })
    .await;
    let replica = RedisServer::launch(Redis {
        replica_of: Some(primary.address()),
        ..Redis::default()
    })
    .await;
    let sentinel = Sentinel::launch(&primary).await;
    let store = |component: Component| {
        component
            .set("failover", "true")
            .set("sentinelMasterName", "main")
    };
    let app = App::start(|_| Reply::status(200)).await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .with(&store(Component::redis_state("store", &sentinel.address())))
        .with(&store(Component::redis_pubsub("bus", &sentinel.address())))
        .file("subscription.yaml", subscription("bus", "new"))
        .serving()
        .await;
    sidecar.until("store", "ready", s(10)).await;
    sidecar.until_topic("bus", "new", "active", s(10)).await;

    let mut writes = Writes::default();
    writes.keep_on(&sidecar, s(2)).await;
    assert!(writes.failed.is_empty(), "{:?}", writes.failed);
    primary.kill().await;
    let died = Instant::now();
    writes.until_one_succeeds(&sidecar, s(15)).await;
    let resumed = died.elapsed();
    writes.failed.clear();
    // The old one returns as what it was, and is told that it is not.
    primary.start().await;
    wait::until("a demotion", s(30), async || {
        let role = primary.command(&["ROLE"]).await.unwrap_or_default();
        if role.contains("slave") {
            Ok(())
        } else {
            Err(role)
        }
    })
    .await;
    writes.keep_on(&sidecar, s(5)).await;
    assert!(writes.failed.is_empty(), "{:?}", writes.failed);
    sidecar.publish("bus", "new", "after").await.assert(204, "");
    wait::until("the delivery", s(12), async || app.delivered("after")).await;
    let role = replica.command(&["ROLE"]).await.unwrap();
    assert!(role.contains("master"), "{role}");
    let last = format!("orders||{}", writes.count - 1);
    let held = replica.command(&["EXISTS", &last]).await.unwrap();
    assert_eq!(held, ":1");
    figure(
        "A18",
        format!(
            "writes resume {resumed:?} after the kill, of which the sentinel takes 2 s to notice; none of {} fails after that",
            writes.count
        ),
    );
    sidecar.process.assert_alive();
}

/// Fifty writes a second, one after the other.
#[derive(Default)]
struct Writes {
    count: usize,
    failed: Vec<String>,
}

impl Writes {
    async fn one(&mut self, sidecar: &Sidecar) -> bool {
        let item = json!([{"key": self.count.to_string(), "value": self.count}]);
        self.count += 1;
        let request = Request::post("/v1.0/state/store", item.to_string());
        let answer = http::call(sidecar.ports.http, &request).await.unwrap();
        if answer.status != 204 {
            self.failed
                .push(format!("{} {}", answer.status, answer.text()));
        }
        answer.status == 204
    }

    async fn keep_on(&mut self, sidecar: &Sidecar, time: Duration) {
        let (began, mut pace) = (Instant::now(), tokio::time::interval(ms(20)));
        while began.elapsed() < time {
            pace.tick().await;
            self.one(sidecar).await;
        }
    }

    async fn until_one_succeeds(&mut self, sidecar: &Sidecar, limit: Duration) {
        wait::until("a write", limit, async || self.one(sidecar).await).await;
    }
}
