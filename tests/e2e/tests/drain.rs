//! Draining without ending, taking it back, ending after it; the app that is busy and the message that kills it.
//!
//! Owns: rows A31, A41 and A42 of `lifecycle.md` §9, its §6.3, §6.5 and T9.
//! Start at any test; each is a story of its own.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use outrigger_e2e::process::Signal;
use outrigger_e2e::{App, Component, Plan, Reply, Request, Sidecar, figure, grpc, http, ms, s};
use outrigger_proto::outrigger::v1::{
    DrainRequest, DrainResponse, ResumeRequest, StatusRequest, StatusResponse,
};
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::{ports, wait};
use serde_json::{Value, json};

fn topics() -> Value {
    json!([{"pubsubname": "bus", "topic": "new", "route": "/on/new"}])
}

/// An app that takes its time over each message.
async fn slow(time: std::time::Duration) -> App {
    App::start(move |asked| match asked.path.as_str() {
        "/dapr/subscribe" => Reply::json(&topics()),
        "/on/new" => Reply::status(200).after(time),
        _ => Reply::status(404),
    })
    .await
}

async fn started(app: &App, redis: &RedisServer, flags: &[&str]) -> Sidecar {
    let mut plan = Plan::new("orders")
        .app(app.port())
        .with(&Component::redis_pubsub("bus", &redis.address()))
        .with(&Component::redis_state("store", &redis.address()));
    for flag in flags {
        plan = plan.flag(flag);
    }
    let sidecar = plan.serving().await;
    sidecar.until_topic("bus", "new", "active", s(15)).await;
    sidecar
}

async fn until_taken(app: &App, count: usize) {
    wait::until("a delivery", s(10), async || app.count("/on/new") >= count).await;
}

async fn status(sidecar: &Sidecar) -> Value {
    sidecar.get("/outrigger/v1/status").await.json()
}

/// A41.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_the_message_in_hand_and_the_end_after_it_is_quick() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = slow(s(4)).await;
    let mut sidecar = started(&app, &redis, &[]).await;
    sidecar.publish("bus", "new", "one").await.assert(204, "");
    until_taken(&app, 1).await;
    let taken = app
        .received()
        .iter()
        .find(|asked| asked.path == "/on/new")
        .unwrap()
        .at;

    let meanwhile = async {
        wait::until("the drain", s(5), async || {
            let seen = status(&sidecar).await;
            if seen["phase"] == "draining" {
                Ok(seen)
            } else {
                Err(seen)
            }
        })
        .await
    };
    let asking = Request::get("/outrigger/v1/drain?wait=true&timeout=20s");
    let drain = http::call(sidecar.ports.http, &asking);
    let (drained, seen) = tokio::join!(drain, meanwhile);
    let (drained, took) = (drained.unwrap(), taken.elapsed());
    assert_eq!(seen["inflight"], json!({"pubsub/bus": 1}), "{seen}");
    assert_eq!(
        (&seen["drain"]["exits"], &seen["drain"]["cause"]),
        (&json!(false), &json!("drain")),
        "{seen}"
    );
    assert_eq!(drained.status, 200, "{}", drained.text());
    let told = drained.json();
    assert_eq!(
        (&told["phase"], &told["drained"], &told["inflight"]),
        (&json!("lingering"), &json!(true), &json!({})),
        "{told}"
    );
    assert!(
        took >= s(4),
        "answered {took:?} after the delivery, which takes 4 s"
    );

    sidecar.assert_state_works("store").await;
    sidecar
        .get("/v1.0/healthz")
        .await
        .assert(500, "ERR_HEALTH_NOT_READY");
    sidecar.get("/v1.0/healthz/outbound").await.assert(204, "");
    sidecar.publish("bus", "new", "two").await.assert(204, "");
    let (ended, end) = sidecar.stop(s(10)).await;
    figure(
        "A41",
        format!("drained {took:?} after the delivery; end {end:?} after the signal"),
    );
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(end <= s(3), "{end:?}");
    assert_eq!(
        app.count("/on/new"),
        1,
        "nothing is delivered while draining"
    );
}

/// A42.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_says_it_is_busy_is_waited_for() {
    let redis = RedisServer::launch(Redis::default()).await;
    let busy = Arc::new(AtomicBool::new(true));
    let told = busy.clone();
    let app = App::start(move |asked| match asked.path.as_str() {
        "/dapr/subscribe" => Reply::json(&topics()),
        "/busy" => Reply::json(&json!({"busy": told.load(Ordering::SeqCst)})),
        "/on/new" => Reply::status(200),
        _ => Reply::status(404),
    })
    .await;
    let sidecar = started(
        &app,
        &redis,
        &["--app-busy-path=/busy", "--drain-timeout=60s"],
    )
    .await;
    sidecar.publish("bus", "new", "one").await.assert(204, "");
    until_taken(&app, 1).await;
    assert_eq!(app.count("/busy"), 0, "nobody asks without a drain");
    sidecar.process.signal(Signal::TERM);
    wait::until("questions", s(10), async || app.count("/busy") >= 4).await;
    let seen = status(&sidecar).await;
    assert_eq!(
        (&seen["phase"], &seen["drain"]["busy"]),
        (&json!("draining"), &json!(true)),
        "{seen}"
    );
    busy.store(false, Ordering::SeqCst);
    let (free, mut sidecar) = (Instant::now(), sidecar);
    let ended = sidecar.process.ended(s(10)).await;
    let took = free.elapsed();
    figure(
        "A42",
        format!("end {took:?} after the app was no longer busy"),
    );
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(
        took <= ms(3_600),
        "one question a second, then the quiet second: {took:?}"
    );
}

/// §6.3: what is no answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_cannot_say_whether_it_is_busy_is_not_waited_for_and_one_that_fails_is() {
    let redis = RedisServer::shared().await;
    for (nonsense, line) in [
        (Reply::status(404), "status 404"),
        (Reply::text("<html>"), "no boolean"),
        (Reply::json(&json!({"busy": "very"})), "no boolean"),
    ] {
        let app = App::start(move |asked| match asked.path.as_str() {
            "/busy" => nonsense.clone(),
            _ => Reply::status(404),
        })
        .await;
        let mut sidecar = Plan::new("orders")
            .app(app.port())
            .flag("--app-busy-path=/busy")
            .with(&Component::redis_state("store", &redis.address()))
            .serving()
            .await;
        sidecar.until_status("/v1.0/healthz", 204, s(10)).await;
        let (ended, took) = sidecar.stop(s(10)).await;
        assert!(ended.output.contains(line), "{line}: {}", ended.output);
        assert!(
            ended.code == 0 && took <= s(4),
            "{took:?}: {}",
            ended.output
        );
    }
    let app = App::start(|asked| match asked.path.as_str() {
        "/busy" => Reply::status(500),
        _ => Reply::status(404),
    })
    .await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .flag("--app-busy-path=/busy")
        .flag("--drain-timeout=3s")
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(10)).await;
    let (ended, took) = sidecar.stop(s(10)).await;
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(took >= s(3) && took <= s(8), "{took:?}");
    // It said the same each second.
    let told = ended.output.matches("and counts as busy").count();
    assert_eq!(told, 1, "{}", ended.output);
}

/// An app that demands its token gets it with every question but the health probe, which is daprd's.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_demands_its_token_can_say_that_it_is_ready_and_not_busy() {
    let app = App::start(|asked| {
        let has_token = asked.values("dapr-api-token") == ["hush"];
        match asked.path.as_str() {
            "/healthz" if has_token => Reply::status(500),
            "/healthz" => Reply::status(200),
            _ if !has_token => Reply::status(401),
            "/busy" => Reply::json(&json!({"busy": false})),
            "/ready" => Reply::status(200),
            _ => Reply::status(404),
        }
    })
    .await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .env("APP_API_TOKEN", "hush")
        .flag("--app-ready-path=/ready")
        .flag("--app-busy-path=/busy")
        .flag("--enable-app-health-check")
        .flag("--drain-timeout=20s")
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(10)).await;
    let (ended, took) = sidecar.stop(s(15)).await;
    assert!(app.count("/busy") > 0, "{}", ended.output);
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(took <= s(5), "{took:?}");
}

/// T9, SIGUSR1.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_taken_back_and_messages_flow_again() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = slow(ms(0)).await;
    let sidecar = started(&app, &redis, &[]).await;
    sidecar.process.signal(Signal::USR1);
    wait::until("the drain", s(5), async || {
        status(&sidecar).await["phase"] == "lingering"
    })
    .await;
    assert_eq!(status(&sidecar).await["drain"]["cause"], "sigusr1");
    sidecar.publish("bus", "new", "held").await.assert(204, "");
    wait::never("a delivery", ms(1_500), async || app.count("/on/new") > 0).await;

    let resumed = sidecar
        .call(Request::new("DELETE", "/outrigger/v1/drain"))
        .await;
    assert_eq!(resumed.status, 200, "{}", resumed.text());
    assert_eq!(resumed.json()["phase"], "ready");
    until_taken(&app, 1).await;
    sidecar.get("/v1.0/healthz").await.assert(204, "");
    assert_eq!(status(&sidecar).await["drain"], Value::Null);
    // Without a drain there is nothing to take back, and nothing wrong with it.
    let again = sidecar
        .call(Request::new("DELETE", "/outrigger/v1/drain"))
        .await;
    assert_eq!(again.status, 200, "{}", again.text());

    // Once the end has been asked for, it is final.
    let mut sidecar = sidecar;
    sidecar.process.signal(Signal::TERM);
    sidecar.process.says("draining before the end", s(5)).await;
    let late = sidecar
        .call(Request::new("DELETE", "/outrigger/v1/drain"))
        .await;
    late.assert(409, "ERR_DRAIN_FINAL");
    let ended = sidecar.process.ended(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
}

/// Whoever waits for a drain that somebody else takes back is told so at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_taken_back_is_waited_for_no_longer() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = slow(s(4)).await;
    let sidecar = started(&app, &redis, &[]).await;
    sidecar
        .publish("bus", "new", "in hand")
        .await
        .assert(204, "");
    until_taken(&app, 1).await;
    let waiting = Request::new("POST", "/outrigger/v1/drain?wait=true&timeout=20s");
    let resuming = async {
        wait::until("the drain", s(5), async || {
            status(&sidecar).await["phase"] == "draining"
        })
        .await;
        let resume = Request::new("DELETE", "/outrigger/v1/drain");
        sidecar.call(resume).await.assert(200, "");
    };
    let (answer, ()) = tokio::join!(sidecar.call(waiting), resuming);
    answer.assert(409, "ERR_DRAIN_RESUMED");
}

/// §6.5: parameters, time-outs, shared drains, gRPC.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_is_told_so_and_goes_on() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = slow(s(5)).await;
    let sidecar = started(&app, &redis, &[]).await;
    for bad in [
        "wait=maybe",
        "timeout=soon",
        "timeout=-1s",
        "timeout=99999h",
        "wait=true&tiemout=5s",
    ] {
        let path = format!("/outrigger/v1/drain?{bad}");
        sidecar.get(&path).await.assert(400, "ERR_DRAIN_PARAMETER");
    }
    for wrong in ["PUT", "PATCH"] {
        let request = Request::new(wrong, "/outrigger/v1/drain");
        sidecar.call(request).await.assert(405, "");
    }
    assert_eq!(
        status(&sidecar).await["phase"],
        "ready",
        "a bad question begins nothing"
    );
    sidecar.publish("bus", "new", "one").await.assert(204, "");
    until_taken(&app, 1).await;
    let accepted = sidecar.post("/outrigger/v1/drain?wait=false", "").await;
    assert_eq!(
        (accepted.status, &accepted.json()["drained"]),
        (202, &json!(false))
    );
    let late = sidecar.get("/outrigger/v1/drain?timeout=300ms").await;
    let told = late.json();
    assert_eq!(
        (late.status, &told["drained"], &told["inflight"]),
        (504, &json!(false), &json!({"pubsub/bus": 1})),
        "{told}"
    );

    let port = sidecar.ports.grpc;
    let seen: StatusResponse = grpc::call(
        port,
        "/outrigger.v1.Lifecycle/Status",
        &StatusRequest {},
        &[],
    )
    .await
    .unwrap();
    assert_eq!(
        (seen.phase.as_str(), seen.drain.unwrap().id.as_str()),
        ("draining", "d-1")
    );
    let drained: DrainResponse = grpc::call(
        port,
        "/outrigger.v1.Lifecycle/Drain",
        &DrainRequest::default(),
        &[],
    )
    .await
    .unwrap();
    assert!(
        drained.drained && drained.phase == "lingering",
        "{drained:?}"
    );
    let resumed: DrainResponse = grpc::call(
        port,
        "/outrigger.v1.Lifecycle/Resume",
        &ResumeRequest {},
        &[],
    )
    .await
    .unwrap();
    assert_eq!(resumed.phase, "ready");
}

/// §6.5: the public port.
#[tokio::test(flavor = "multi_thread")]
async fn the_public_port_drains_only_when_it_is_told_to_and_for_those_with_the_token() {
    let sidecar = Plan::new("orders").serving().await;
    let call = async |sidecar: &Sidecar, request: Request| {
        http::call(sidecar.ports.public, &request).await.unwrap()
    };
    let path = "/outrigger/v1/drain?wait=false";
    assert_eq!(call(&sidecar, Request::get(path)).await.status, 404);
    let sidecar = Plan::new("orders")
        .flag("--prestop-on-public-port")
        .env("OUTRIGGER_PRESTOP_TOKEN", "open sesame")
        .env("DAPR_API_TOKEN", "of the api")
        .serving()
        .await;
    assert_eq!(call(&sidecar, Request::get(path)).await.status, 401);
    let wrong = Request::get(path).header("outrigger-prestop-token", "guess");
    assert_eq!(call(&sidecar, wrong).await.status, 401);
    let other =
        Request::get("/outrigger/v1/status").header("outrigger-prestop-token", "open sesame");
    assert_eq!(
        call(&sidecar, other).await.status,
        404,
        "nothing else is served there"
    );
    let right = Request::get(path).header("outrigger-prestop-token", "open sesame");
    assert_eq!(call(&sidecar, right).await.status, 202);
    // The API's own port asks for the API's token.
    let answer = http::call(sidecar.ports.http, &Request::get(path))
        .await
        .unwrap();
    assert_eq!(answer.status, 401);
    assert!(!sidecar.process.output().contains("sesame"));
}

/// Calls without an end of their own, from an app that never rests, hold up no drain.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_calls_all_the_time_is_drained_all_the_same() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = slow(ms(0)).await;
    let sidecar = started(&app, &redis, &[]).await;
    let over = Arc::new(AtomicBool::new(false));
    let (port, stop) = (sidecar.ports.http, over.clone());
    let mut calls = tokio::task::JoinSet::new();
    calls.spawn(async move {
        let request = Request::get("/v1.0/state/store/nothing");
        while !stop.load(Ordering::SeqCst) {
            http::call(port, &request).await.unwrap();
        }
    });
    let drained = sidecar.get("/outrigger/v1/drain?timeout=5s").await;
    assert_eq!(drained.status, 200, "{}", drained.text());
    over.store(true, Ordering::SeqCst);
    calls.join_all().await;
}

/// A31.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_crashes_the_app_each_time_becomes_a_dead_letter_and_the_others_arrive() {
    let redis = RedisServer::launch(Redis::default()).await;
    let crashes = Arc::new(AtomicUsize::new(0));
    let received: Arc<Mutex<Vec<String>>> = Arc::default();
    let port = ports::free();
    let run = async || {
        let (crashes, received) = (crashes.clone(), received.clone());
        let list = json!([
            {"pubsubname": "bus", "topic": "new", "route": "/on/new", "deadLetterTopic": "dead"}
        ]);
        App::start_on(port, move |asked| match asked.path.as_str() {
            "/dapr/subscribe" => Reply::json(&list),
            "/on/new" if asked.data() == "poison" => {
                crashes.fetch_add(1, Ordering::SeqCst);
                // What follows is the end of the whole app.
                Reply::status(200).after(s(60))
            }
            "/on/new" => {
                received.lock().unwrap().push(asked.data().to_string());
                Reply::status(200)
            }
            _ => Reply::status(404),
        })
        .await
    };
    let mut app = run().await;
    let bus = Component::redis_pubsub("bus", &redis.address())
        .set("processingTimeout", "1s")
        .set("redeliverInterval", "1s");
    let mut sidecar = Plan::new("orders").app(port).with(&bus).serving().await;
    sidecar.until_topic("bus", "new", "active", s(15)).await;
    sidecar
        .publish("bus", "new", "poison")
        .await
        .assert(204, "");
    for number in 0..20 {
        sidecar
            .publish("bus", "new", &format!("good-{number}"))
            .await
            .assert(204, "");
    }
    let dead = async || {
        let answer = redis.command(&["XLEN", "dead"]).await.unwrap();
        answer
            .trim_start_matches(':')
            .trim()
            .parse::<usize>()
            .unwrap()
    };
    let began = Instant::now();
    let mut handled = 0;
    while dead().await == 0 {
        assert!(began.elapsed() < s(60), "{}", sidecar.process.output());
        if crashes.load(Ordering::SeqCst) > handled {
            handled += 1;
            drop(app);
            wait::until("a closed gate", s(5), async || {
                status(&sidecar).await["gate"] != "open"
            })
            .await;
            app = run().await;
        }
        tokio::task::yield_now().await;
    }
    let times = crashes.load(Ordering::SeqCst);
    wait::until("the others", s(20), async || {
        let received = received.lock().unwrap();
        let distinct: HashSet<&String> = received.iter().collect();
        if distinct.len() == 20 {
            Ok(())
        } else {
            Err(distinct.len())
        }
    })
    .await;
    figure(
        "A31",
        format!(
            "dead letter after {times} crashes, {:?}; the other 20 arrived",
            began.elapsed()
        ),
    );
    assert_eq!((times, dead().await), (5, 1));
    sidecar.process.assert_alive();
    drop(app);
}

/// A preStop hook runs as well ahead of a restart of the app's container alone: then nobody asks for an end, and nobody
/// takes the drain back.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_has_drained_works_on_once_the_app_was_restarted() {
    let redis = RedisServer::launch(Redis::default()).await;
    let port = ports::free();
    let run = || {
        App::start_on(port, |asked| match asked.path.as_str() {
            "/dapr/subscribe" => Reply::json(&topics()),
            "/on/new" => Reply::status(200),
            _ => Reply::status(404),
        })
    };
    let app = run().await;
    let sidecar = started(&app, &redis, &["--prestop-on-public-port"]).await;
    let hook = Request::get("/outrigger/v1/drain?wait=true");
    let answer = http::call(sidecar.ports.public, &hook).await.unwrap();
    assert_eq!(answer.status, 200);
    sidecar.until_status("/v1.0/healthz", 500, s(2)).await;
    drop(app);
    wait::until("an app that is gone", s(5), async || {
        sidecar.gate().await != "open"
    })
    .await;
    let app = run().await;
    let back = sidecar.until_status("/v1.0/healthz", 204, s(5)).await;
    sidecar.publish("bus", "new", "after").await.assert(204, "");
    wait::until("a delivery", s(10), async || app.delivered("after")).await;
    figure(
        "prestop-restart",
        format!("ready {back:?} after the app was started again"),
    );
    // Somebody who asks for it himself decides how long it stays.
    let answer = http::call(sidecar.ports.public, &hook).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(sidecar.get("/outrigger/v1/drain").await.status, 200);
    drop(app);
    wait::until("an app that is gone", s(5), async || {
        sidecar.gate().await != "open"
    })
    .await;
    let _app = run().await;
    wait::never("a drain that was taken back", s(2), async || {
        status(&sidecar).await["phase"] == "ready"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_sidecar_in_kubernetes_has_left_nothing_behind_however_little_time_it_has() {
    for (grace, app) in [
        ("1", None),
        ("2", Some(App::start(|_| Reply::status(200)).await)),
        ("20", None),
    ] {
        let mut plan = Plan::new("orders")
            .flag("--mode=kubernetes")
            .flag(&format!("--dapr-graceful-shutdown-seconds={grace}"));
        if let Some(app) = &app {
            plan = plan.app(app.port());
        }
        let mut sidecar = plan.serving().await;
        if app.is_some() {
            sidecar.until_status("/v1.0/healthz", 204, s(5)).await;
        }
        let (ended, took) = sidecar.stop(s(10)).await;
        assert_eq!(ended.code, 0, "{grace}: {}", ended.output);
        assert!(took <= s(3), "{grace}: {took:?}");
    }
}

/// Counted from the signal, as Dapr does.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_blocked_for_as_long_as_is_said_and_no_longer() {
    let redis = RedisServer::launch(Redis::default()).await;
    let app = slow(s(3)).await;
    let flags = [
        "--dapr-block-shutdown-duration=5s",
        "--dapr-graceful-shutdown-seconds=20",
    ];
    let mut sidecar = started(&app, &redis, &flags).await;
    sidecar.publish("bus", "new", "slow").await.assert(204, "");
    until_taken(&app, 1).await;
    let (ended, took) = sidecar.stop(s(15)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(ended.output.contains("Block shutdown period expired"));
    assert!(took >= s(5) && took <= ms(6_500), "{took:?}");
    // An app that is gone needs no more time.
    let mut sidecar = started(&app, &redis, &flags).await;
    let hook = Request::post("/outrigger/v1/drain?wait=false", "");
    sidecar.call(hook).await.assert(202, "");
    sidecar.process.signal(Signal::TERM);
    drop(app);
    let ended = sidecar.process.ended(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
}

/// What was observed can be read while the sidecar lingers.
#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_drain_took_is_there_to_be_scraped() {
    let sidecar = Plan::new("orders").serving().await;
    sidecar.get("/outrigger/v1/drain").await.assert(200, "");
    sidecar
        .until_metric("outrigger_drain_seconds_count", &[("cause", "drain")], 1.0)
        .await;
}
