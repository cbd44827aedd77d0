//! What happened, told later and at once: the history, the stream of events, the webhook, the app.
//!
//! Owns: history and §7.7 of `lifecycle.md`.
//! Start at any test; each is a story of its own.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use outrigger_e2e::process::Signal;
use outrigger_e2e::{App, Component, Plan, Reply, Sidecar, figure, s};
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::{PrivateDir, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn plan(folder: &PrivateDir, redis: &RedisServer) -> Plan {
    Plan::new("orders")
        .flag(&format!("--state-dir={}", folder.path().display()))
        .with(&Component::redis_state("store", &redis.address()))
}

async fn history(sidecar: &Sidecar, query: &str) -> Value {
    let answer = sidecar.get(&format!("/outrigger/v1/history{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn of_kind<'a>(list: &'a Value, kind: &str) -> Vec<&'a Value> {
    let all = list.as_array().unwrap();
    all.iter().filter(|entry| entry["kind"] == kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_with_its_length_its_cause_and_its_victims_even_after_a_kill() {
    let (folder, redis) = (
        PrivateDir::new("history"),
        RedisServer::launch(Redis::default()).await,
    );
    let mut sidecar = plan(&folder, &redis).serving().await;
    sidecar.until("store", "ready", s(10)).await;
    redis.kill().await;
    sidecar.until("store", "unavailable", s(20)).await;
    for _ in 0..3 {
        let refused = sidecar.get("/v1.0/state/store/key").await;
        refused.assert(503, "ERR_COMPONENT_NOT_READY");
    }
    redis.start().await;
    sidecar.until("store", "ready", s(20)).await;

    let told = wait::until("the outage", s(5), async || {
        let told = history(&sidecar, "").await;
        let over = of_kind(&told["outages"], "component")
            .iter()
            .any(|outage| outage["durationMs"].is_u64());
        if over { Ok(told) } else { Err(told) }
    })
    .await;
    let outages = of_kind(&told["outages"], "component");
    assert_eq!(outages.len(), 1, "{told}");
    let outage = outages[0];
    assert_eq!(
        (&outage["subject"], &outage["refused"]),
        (&json!("store"), &json!(3)),
        "{outage}"
    );
    assert!(outage["cause"].as_str().unwrap().len() > 5, "{outage}");
    assert!(outage["durationMs"].as_u64().unwrap() > 1_000, "{outage}");
    let recovery = &told["recovery"][0];
    assert_eq!(
        (&recovery["component"], &recovery["count"]),
        (&json!("store"), &json!(1))
    );
    assert_eq!(recovery["p95Ms"], outage["durationMs"]);
    assert!(!of_kind(&told["changes"], "phase").is_empty(), "{told}");
    figure(
        "history",
        format!("outage of {} ms, 3 calls refused", outage["durationMs"]),
    );

    // Dead without a word; the next one tells of it.
    sidecar.process.signal(Signal::KILL);
    sidecar.process.ended(s(5)).await;
    let mut sidecar = plan(&folder, &redis).serving().await;
    let told = history(&sidecar, "?since=1h&limit=1000").await;
    let process = of_kind(&told["outages"], "process");
    assert_eq!(process.len(), 1, "{told}");
    assert!(
        process[0]["durationMs"].is_u64()
            && process[0]["cause"]
                .as_str()
                .unwrap()
                .contains("without a word"),
        "{told}"
    );
    assert_eq!(
        of_kind(&told["outages"], "component").len(),
        1,
        "what was before is still known"
    );

    let (ended, _) = sidecar.stop(s(10)).await;
    assert_eq!(ended.code, 0);
    let sidecar = plan(&folder, &redis).serving().await;
    let told = history(&sidecar, "").await;
    let process = of_kind(&told["outages"], "process");
    assert_eq!(process.len(), 2, "{told}");
    assert!(
        process[1]["cause"].as_str().unwrap().contains("signal"),
        "{told}"
    );
    let drains = of_kind(&told["changes"], "drain");
    let steps: Vec<&str> = drains
        .iter()
        .map(|change| change["to"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["started", "finished"], "{told}");
}

/// Waits for the outages of a kind that are told of.
async fn until_outages(
    sidecar: &Sidecar,
    what: &str,
    is_wanted: impl Fn(&[&Value]) -> bool,
) -> Value {
    wait::until(what, s(15), async || {
        let told = history(sidecar, "").await;
        if is_wanted(&of_kind(&told["outages"], "component")) {
            Ok(told)
        } else {
            Err(told)
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_calls_are_told_while_a_component_is_away_and_survive_a_kill() {
    let (folder, redis) = (
        PrivateDir::new("history-refused"),
        RedisServer::launch(Redis::default()).await,
    );
    let hook = App::start(|_| Reply::status(204)).await;
    let webhook = format!(
        "--lifecycle-webhook-url=http://127.0.0.1:{}/hook",
        hook.port()
    );
    let mut sidecar = plan(&folder, &redis).flag(&webhook).serving().await;
    sidecar.until("store", "ready", s(10)).await;
    redis.kill().await;
    sidecar.until("store", "unavailable", s(20)).await;
    let refuse = async |sidecar: &Sidecar| {
        let refused = sidecar.get("/v1.0/state/store/key").await;
        refused.assert(503, "ERR_COMPONENT_NOT_READY");
    };
    for _ in 0..3 {
        refuse(&sidecar).await;
    }
    // At once: nobody has to wait for a line.
    let told = history(&sidecar, "").await;
    let outages = of_kind(&told["outages"], "component");
    assert_eq!(outages.len(), 1, "{told}");
    assert_eq!(
        (&outages[0]["refused"], &outages[0]["to"]),
        (&json!(3), &Value::Null),
        "{told}"
    );
    let file = folder.path().join("orders.history.jsonl");
    wait::until("the count in the file", s(10), async || {
        let text = std::fs::read_to_string(&file).unwrap();
        if text.contains(r#""refused":3"#) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    sidecar.process.signal(Signal::KILL);
    sidecar.process.ended(s(5)).await;

    // The next process counts for itself; what was down ended with the one before.
    let mut sidecar = plan(&folder, &redis).flag(&webhook).serving().await;
    sidecar.until("store", "unavailable", s(10)).await;
    refuse(&sidecar).await;
    let told = until_outages(&sidecar, "both outages", |outages| outages.len() == 2).await;
    let outages = of_kind(&told["outages"], "component");
    let refused: Vec<_> = outages.iter().map(|outage| &outage["refused"]).collect();
    assert_eq!(refused, [&json!(3), &json!(1)], "{told}");
    assert!(outages[0]["to"].is_string() && outages[1]["to"].is_null());
    assert_eq!(told["recovery"], json!([]), "nothing has come back: {told}");
    redis.start().await;
    let told = until_outages(&sidecar, "the return", |outages| {
        outages.iter().all(|outage| outage["to"].is_string())
    })
    .await;
    let outages = of_kind(&told["outages"], "component");
    assert_eq!((outages.len(), &outages[1]["refused"]), (2, &json!(1)));
    assert_eq!(told["recovery"][0]["count"], 1, "{told}");

    // A count alone is told to nobody.
    let (ended, _) = sidecar.stop(s(10)).await;
    assert_eq!(ended.code, 0);
    let events: Vec<Value> = hook
        .received()
        .iter()
        .map(|asked| serde_json::from_slice(&asked.body).unwrap())
        .collect();
    let of_store = || events.iter().filter(|event| event["subject"] == "store");
    assert!(of_store().count() > 1, "{events:?}");
    for event in of_store() {
        assert_ne!(event["data"]["from"], event["data"]["to"], "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_is_taken_away_is_no_outage_that_goes_on() {
    let (folder, redis) = (
        PrivateDir::new("history-gone"),
        RedisServer::launch(Redis::default()).await,
    );
    let keeps = format!("--state-dir={}", folder.path().display());
    let store = Component::redis_state("store", &redis.address()).yaml();
    let mut sidecar = Plan::new("orders")
        .flag(&keeps)
        .file("store.yaml", &store)
        .serving()
        .await;
    sidecar.until("store", "ready", s(10)).await;
    redis.kill().await;
    sidecar.until("store", "unavailable", s(20)).await;
    until_outages(&sidecar, "the outage", |outages| outages.len() == 1).await;
    std::fs::remove_file(sidecar.folder().join("store.yaml")).unwrap();
    sidecar.reload();
    let told = until_outages(&sidecar, "the end of the outage", |outages| {
        outages.len() == 1 && outages[0]["to"].is_string()
    })
    .await;
    let changes = of_kind(&told["changes"], "component");
    let mut own = changes.iter().filter(|change| change["subject"] == "store");
    assert_eq!(own.next_back().unwrap()["to"], "closing", "{told}");
    assert_eq!(told["recovery"], json!([]), "{told}");
    // One of its name has no past.
    sidecar.write("store.yaml", &store);
    sidecar.reload();
    sidecar.until("store", "unavailable", s(10)).await;
    let told = until_outages(&sidecar, "the second outage", |outages| outages.len() == 2).await;
    let outages = of_kind(&told["outages"], "component");
    assert!(outages[1]["to"].is_null(), "{told}");

    // Renamed while nobody looked.
    sidecar.process.signal(Signal::KILL);
    sidecar.process.ended(s(5)).await;
    let sidecar = Plan::new("orders")
        .flag(&keeps)
        .with(&Component::redis_state("renamed", &redis.address()))
        .serving()
        .await;
    sidecar.until("renamed", "unavailable", s(10)).await;
    let told = until_outages(&sidecar, "the third outage", |outages| outages.len() == 3).await;
    let outages = of_kind(&told["outages"], "component");
    let lasting: Vec<_> = outages
        .iter()
        .filter(|outage| outage["to"].is_null())
        .map(|outage| &outage["subject"])
        .collect();
    assert_eq!(lasting, [&json!("renamed")], "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_folder_there_is_no_history_and_a_folder_that_cannot_be_used_stops_nothing() {
    let sidecar = Plan::new("orders").serving().await;
    let off = sidecar.get("/outrigger/v1/history").await;
    off.assert(404, "ERR_HISTORY_OFF");
    for bad in [
        "since=yesterday",
        "since=-1h",
        "limit=many",
        "limit=-1",
        "component=store",
        "since=1h&Limit=5",
    ] {
        let path = format!("/outrigger/v1/history?{bad}");
        sidecar
            .get(&path)
            .await
            .assert(400, "ERR_HISTORY_PARAMETER");
    }
    let sidecar = Plan::new("orders")
        .flag("--state-dir=/proc/nowhere")
        .serving()
        .await;
    sidecar.process.says("/proc/nowhere", s(5)).await;
    sidecar
        .get("/outrigger/v1/history")
        .await
        .assert(404, "ERR_HISTORY_OFF");
    sidecar.get("/v1.0/healthz").await.assert(204, "");
}

/// The stream of events as text, until it holds this.
async fn until_told(stream: &mut TcpStream, seen: &mut String, text: &str) {
    let mut buffer = [0; 4096];
    while !seen.contains(text) {
        let read = wait::within(text, s(20), stream.read(&mut buffer))
            .await
            .unwrap();
        assert!(read > 0, "the stream ended before {text:?}: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_streamed_and_sent_to_the_webhook_and_the_app_as_cloud_events() {
    let redis = RedisServer::launch(Redis::default()).await;
    let hook = App::start(|_| Reply::status(204)).await;
    let app = App::start(|_| Reply::status(404)).await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .flag("--app-lifecycle-path=/sidecar")
        .flag(&format!(
            "--lifecycle-webhook-url=http://127.0.0.1:{}/hook",
            hook.port()
        ))
        .with(&Component::redis_state("store", &redis.address()))
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(10)).await;
    let mut stream = TcpStream::connect(("127.0.0.1", sidecar.ports.http))
        .await
        .unwrap();
    stream
        .write_all(b"GET /outrigger/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut seen = String::new();
    until_told(&mut stream, &mut seen, ": listening").await;
    redis.kill().await;
    until_told(&mut stream, &mut seen, r#""to":"unavailable""#).await;
    assert!(
        seen.contains("event: dev.outrigger.component.state_changed"),
        "{seen}"
    );
    redis.start().await;

    let told = |app: &App, path: &str, kind: &str| {
        let received = app.received();
        let events = received.iter().filter(|asked| asked.path == path);
        let events: Vec<Value> = events
            .map(|asked| serde_json::from_slice(&asked.body).unwrap())
            .collect();
        events
            .into_iter()
            // Name resolution is told of, too.
            .filter(|event: &Value| event["type"] == kind && event["subject"] != "mdns")
            .collect::<Vec<_>>()
    };
    let kind = "dev.outrigger.component.state_changed";
    wait::until("the recovery at the webhook", s(30), async || {
        let events = told(&hook, "/hook", kind);
        let is_back = events
            .last()
            .is_some_and(|event| event["data"]["to"] == "ready");
        if is_back && events.len() > 1 {
            Ok(())
        } else {
            Err(format!("{events:?}"))
        }
    })
    .await;
    let events = told(&hook, "/hook", kind);
    for event in &events {
        assert_eq!(
            (&event["specversion"], &event["source"], &event["subject"]),
            (
                &json!("1.0"),
                &json!("/outrigger/default/orders"),
                &json!("store")
            ),
            "{event}"
        );
    }
    wait::until("the app's events", s(10), async || {
        !told(&app, "/sidecar", kind).is_empty()
    })
    .await;
    {
        let received = hook.received();
        assert_eq!(
            received[0].values("content-type"),
            ["application/cloudevents+json"]
        );
    }
    let (ended, _) = sidecar.stop(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert_eq!(told(&hook, "/hook", "dev.outrigger.drain.started").len(), 1);
    assert_eq!(
        told(&hook, "/hook", "dev.outrigger.drain.finished").len(),
        1
    );
    until_told(&mut stream, &mut seen, "dev.outrigger.drain.finished").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_hangs_or_is_gone_delays_nothing() {
    let hook = App::start(|_| Reply::status(204).after(s(60))).await;
    for url in [
        format!("http://127.0.0.1:{}/hook", hook.port()),
        "http://127.0.0.1:9/hook".to_owned(),
    ] {
        let mut sidecar = Plan::new("orders")
            .flag(&format!("--lifecycle-webhook-url={url}"))
            .serving()
            .await;
        assert!(sidecar.since_start() < s(5), "{:?}", sidecar.since_start());
        let (ended, took) = sidecar.stop(s(10)).await;
        assert_eq!(ended.code, 0, "{}", ended.output);
        assert!(took < s(5), "{took:?}");
    }
}

/// §7.7: one line says what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_once_at_the_start_what_is_not_as_it_should_be() {
    let nowhere = format!("127.0.0.1:{}", outrigger_testkit::ports::free());
    let sidecar = Plan::new("orders")
        .with(&Component::redis_state("store", &nowhere))
        .with(&Component::new("odd", "state.redsi"))
        .serving()
        .await;
    let line = sidecar
        .process
        .says("not everything is as it should be", s(5))
        .await;
    assert!(
        line.contains("store unavailable") && line.contains("odd rejected"),
        "{line}"
    );
    let sidecar = Plan::new("orders").serving().await;
    sidecar.process.says("every component is ready", s(5)).await;
}
