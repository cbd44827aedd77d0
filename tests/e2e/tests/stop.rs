//! The end of a sidecar with work in hand: what is finished, what goes back, what the app may still ask, and the exit code.
//!
//! Owns: A32 to A36, A38 to A40 of `lifecycle.md` §9, and its §6. A37 is in `measured.rs`.
//! Start at any test; each is a story of its own.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use outrigger_e2e::process::Signal;
use outrigger_e2e::{
    App, Bus, Component, Plan, Received, Registry, Reply, Request, Sidecar, figure, grpc, http, ms,
    s,
};
use outrigger_proto::Message as _;
use outrigger_proto::dapr::proto::runtime::v1::subscribe_topic_events_request_alpha1::SubscribeTopicEventsRequestType as Asked;
use outrigger_proto::dapr::proto::runtime::v1::subscribe_topic_events_response_alpha1::SubscribeTopicEventsResponseType as Told;
use outrigger_proto::dapr::proto::runtime::v1::{
    ShutdownRequest, SubscribeTopicEventsRequestAlpha1, SubscribeTopicEventsRequestInitialAlpha1,
    SubscribeTopicEventsRequestProcessedAlpha1, SubscribeTopicEventsResponseAlpha1,
    TopicEventResponse,
};
use outrigger_testkit::servers::Server as _;
use outrigger_testkit::wait;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The topic `new` of `bus`, with a dead letter topic that is subscribed to as well.
fn with_letters() -> Value {
    json!([
        {"pubsubname": "bus", "topic": "new", "route": "/on/new", "deadLetterTopic": "new-dead"},
        {"pubsubname": "bus", "topic": "new-dead", "route": "/on/new-dead"},
    ])
}

/// An app that takes so long for a message that says `slow`, and no time for others.
async fn app_with(slow: Reply) -> App {
    App::start(move |asked| match asked.path.as_str() {
        "/dapr/subscribe" => Reply::json(&with_letters()),
        "/dapr/config" => Reply::status(404),
        "/on/new" if asked.data() == "slow" => slow.clone(),
        _ => Reply::status(200),
    })
    .await
}

async fn subscribed(plan: Plan, app: &App, bus: &Component) -> Sidecar {
    let sidecar = plan.app(app.port()).with(bus).serving().await;
    for topic in ["new", "new-dead"] {
        sidecar.until_topic("bus", topic, "active", s(15)).await;
    }
    sidecar
}

/// One that publishes and gets nothing.
async fn publisher(bus: &Bus) -> Sidecar {
    let sidecar = Plan::new("shop").with(&bus.component()).serving().await;
    sidecar.until("bus", "ready", s(10)).await;
    sidecar
}

async fn publish(sidecar: &Sidecar, text: &str) {
    sidecar.publish("bus", "new", text).await.assert(204, "");
}

async fn until_left(bus: &Bus, count: u64) {
    wait::until(format!("{count} left"), s(10), async || {
        let left = bus.left("new").await;
        if left == count { Ok(()) } else { Err(left) }
    })
    .await;
}

/// How often each text was delivered.
fn deliveries<'a>(received: impl IntoIterator<Item = &'a Received>) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for asked in received.into_iter().filter(|asked| asked.path == "/on/new") {
        let text = asked.data().as_str().unwrap_or_default().to_owned();
        *times.entry(text).or_default() += 1;
    }
    times
}

/// A32, on RabbitMQ.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_work_on_rabbitmq_is_finished_and_acknowledged_and_no_other_is_begun() {
    finished_and_no_more(&Bus::rabbit().await).await;
}

/// A32, on Redis.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_work_on_redis_is_finished_and_acknowledged_and_no_other_is_begun() {
    finished_and_no_more(&Bus::redis().await).await;
}

async fn finished_and_no_more(bus: &Bus) {
    const WORK: Duration = s(6);
    let app = app_with(Reply::status(200).after(WORK)).await;
    let plan = Plan::new("orders").flag("--drain-timeout=30s");
    let mut sidecar = subscribed(plan, &app, &bus.component()).await;
    let shop = publisher(bus).await;
    publish(&shop, "slow").await;
    let begun = wait::until("the delivery", s(5), async || app.delivered("slow")).await;
    publish(&shop, "early").await;
    wait::until("the other delivery", s(5), async || app.delivered("early")).await;

    sidecar.process.signal(Signal::TERM);
    let told = Instant::now();
    let mut late = 0;
    let mut pace = tokio::time::interval(ms(50));
    while begun.elapsed() < WORK - s(1) {
        if told.elapsed() > ms(200) {
            publish(&shop, &format!("late{late}")).await;
            late += 1;
        }
        let health = sidecar.get("/v1.0/healthz").await;
        if told.elapsed() > s(1) {
            health.assert(500, "ERR_HEALTH_NOT_READY");
            assert!(health.text().contains("drain"), "{}", health.text());
        }
        sidecar.get("/v1.0/healthz/outbound").await.assert(204, "");
        pace.tick().await;
    }
    let ended = sidecar.process.ended(s(10)).await;
    let (took, over) = (told.elapsed(), begun.elapsed().saturating_sub(WORK));
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(app.cuts().is_empty(), "{:?}", app.cuts());
    let after = app.times("/on/new");
    let after = after.iter().filter(|at| **at > told + s(1)).count();
    assert_eq!(after, 0, "delivered more than a second after the signal");
    let got = deliveries(app.received().iter());
    assert_eq!((got["slow"], got["early"]), (1, 1), "{got:?}");
    let got_late = got.len() - 2;
    let left = u64::try_from(late - got_late).unwrap();
    until_left(bus, left).await;
    figure(
        &format!("A32-{}", bus.name()),
        format!(
            "acknowledged, exit 0 {took:?} after SIGTERM, {over:?} after the answer; {got_late} of {late} later messages were still delivered"
        ),
    );
    assert!(over <= s(3), "{over:?}");
    // What is left is delivered to the next one, and nothing else.
    let again = subscribed(Plan::new("orders"), &app, &bus.component()).await;
    wait::until("the rest", s(10), async || {
        deliveries(app.received().iter()).len() == late + 2
    })
    .await;
    until_left(bus, 0).await;
    assert_eq!(app.deliveries("/on/new", "slow"), 1);
    assert_eq!(app.count("/on/new-dead"), 0);
    drop(again);
}

/// A33, on RabbitMQ.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_not_done_at_the_deadline_is_cancelled_and_a_peer_on_rabbitmq_gets_it() {
    cancelled_at_the_deadline(&Bus::rabbit().await).await;
}

/// A33, on Redis.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_not_done_at_the_deadline_is_cancelled_and_a_peer_on_redis_gets_it() {
    cancelled_at_the_deadline(&Bus::redis().await).await;
}

async fn cancelled_at_the_deadline(bus: &Bus) {
    const DEADLINE: Duration = s(4);
    let app = app_with(Reply::status(200).after(s(60))).await;
    let plan = Plan::new("orders").flag("--drain-timeout=4s");
    let mut sidecar = subscribed(plan, &app, &bus.component()).await;
    publish(&sidecar, "slow").await;
    wait::until("the delivery", s(5), async || app.delivered("slow")).await;
    let quick = app_with(Reply::status(200)).await;
    let peer = subscribed(Plan::new("orders"), &quick, &bus.component()).await;

    sidecar.process.signal(Signal::TERM);
    let told = Instant::now();
    wait::never(
        "the end, or another delivery",
        DEADLINE - ms(300),
        async || {
            !sidecar.process.is_alive() || quick.count("/on/new") > 0 || !app.cuts().is_empty()
        },
    )
    .await;
    let cut = wait::until("the end of the request", s(2), async || {
        app.cuts().first().map(|cut| cut.at - told)
    })
    .await;
    let ended = sidecar.process.ended(s(6)).await;
    let took = told.elapsed();
    assert_eq!(ended.code, 1, "{}", ended.output);
    let at_peer = wait::until("the peer", s(5), async || quick.delivered("slow")).await - told;
    until_left(bus, 0).await;
    figure(
        &format!("A33-{}", bus.name()),
        format!(
            "with 4 s: request cancelled after {cut:?}, at the peer after {at_peer:?}, exit 1 after {took:?}"
        ),
    );
    assert_eq!(quick.count("/on/new"), 1);
    assert_eq!(quick.count("/on/new-dead") + app.count("/on/new-dead"), 0);
    assert_eq!(bus.letters("new-dead").await, 0);
    assert!(cut <= DEADLINE + ms(500), "{cut:?}");
    assert!(took <= DEADLINE + s(5), "{took:?}");
    drop(peer);
}

/// A34, on RabbitMQ.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_the_message_comes_again_on_rabbitmq() {
    insisted(&Bus::rabbit().await).await;
}

/// A34, on Redis.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_the_message_comes_again_on_redis() {
    insisted(&Bus::redis().await).await;
}

async fn insisted(bus: &Bus) {
    let app = app_with(Reply::status(200).after(s(30))).await;
    // So that what a cut connection leaves is found soon.
    let component = match bus {
        Bus::Rabbit(_) => bus.component(),
        Bus::Redis(_) => bus
            .component()
            .set("processingTimeout", "2s")
            .set("redeliverInterval", "1s"),
    };
    let mut sidecar = subscribed(Plan::new("orders"), &app, &component).await;
    publish(&sidecar, "slow").await;
    wait::until("the delivery", s(5), async || app.delivered("slow")).await;
    sidecar.process.signal(Signal::TERM);
    wait::never("an end", s(2), async || !sidecar.process.is_alive()).await;
    sidecar.process.signal(Signal::TERM);
    let insisted = Instant::now();
    let ended = sidecar.process.ended(s(5)).await;
    let took = insisted.elapsed();
    assert_eq!(ended.code, 1, "{}", ended.output);
    figure(
        &format!("A34-{}", bus.name()),
        format!("exit 1 {took:?} after the second signal"),
    );
    assert!(took <= ms(500), "{took:?}");
    let quick = app_with(Reply::status(200)).await;
    let _again = subscribed(Plan::new("orders"), &quick, &component).await;
    wait::until("the message", s(10), async || quick.delivered("slow")).await;
    until_left(bus, 0).await;
    assert_eq!(quick.count("/on/new-dead"), 0);
}

/// A35, on RabbitMQ.
#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_sent_ahead_reaches_a_peer_at_once_when_the_sidecar_stops() {
    sent_ahead(&Bus::rabbit().await).await;
}

/// A35, on Redis.
#[tokio::test(flavor = "multi_thread")]
async fn what_redis_sent_ahead_reaches_a_peer_at_once_when_the_sidecar_stops() {
    sent_ahead(&Bus::redis().await).await;
}

async fn sent_ahead(bus: &Bus) {
    const COUNT: usize = 100;
    let app = app_with(Reply::status(200).after(s(5))).await;
    let mut sidecar = subscribed(Plan::new("orders"), &app, &bus.handing_out(1)).await;
    publish(&sidecar, "slow").await;
    for nth in 1..COUNT {
        publish(&sidecar, &format!("m{nth}")).await;
    }
    wait::until("the delivery", s(5), async || app.delivered("slow")).await;
    let quick = app_with(Reply::status(200)).await;
    let _peer = subscribed(Plan::new("orders"), &quick, &bus.component()).await;
    wait::never("a message at the peer", s(1), async || {
        quick.count("/on/new") > 0
    })
    .await;

    sidecar.process.signal(Signal::TERM);
    let told = Instant::now();
    wait::until("99 at the peer", s(3), async || {
        let count = quick.count("/on/new");
        if count == COUNT - 1 {
            Ok(())
        } else {
            Err(count)
        }
    })
    .await;
    let moved = told.elapsed();
    let ended = sidecar.process.ended(s(15)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    until_left(bus, 0).await;
    let received: Vec<Received> = {
        let (here, there) = (app.received(), quick.received());
        here.iter().chain(there.iter()).cloned().collect()
    };
    let times = deliveries(&received);
    figure(
        &format!("A35-{}", bus.name()),
        format!(
            "99 messages at the peer {moved:?} after SIGTERM, each of {} delivered once",
            times.len()
        ),
    );
    assert_eq!(times.len(), COUNT);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    assert_eq!(app.count("/on/new"), 1);
    assert_eq!(quick.count("/on/new-dead"), 0);
    assert_eq!(bus.letters("new-dead").await, 0);
}

/// A36.
#[tokio::test(flavor = "multi_thread")]
async fn in_kubernetes_an_app_can_publish_until_it_is_gone_and_the_sidecar_follows_it() {
    const HANDLES_FOR: Duration = s(3);
    const ENDS_AFTER: Duration = s(6);
    let bus = Bus::rabbit().await;
    let app = app_with(Reply::status(200).after(HANDLES_FOR)).await;
    let plan = Plan::new("orders").flag("--mode=kubernetes");
    let mut sidecar = subscribed(plan, &app, &bus.component()).await;
    publish(&sidecar, "slow").await;
    wait::until("the delivery", s(5), async || app.delivered("slow")).await;
    sidecar.process.signal(Signal::TERM);
    let told = Instant::now();
    // While it handles, and then as long as its own end takes.
    let mut published = 0;
    let mut pace = tokio::time::interval(ms(20));
    while told.elapsed() < ENDS_AFTER {
        let path = "/v1.0/publish/bus/other";
        let answer = http::call(sidecar.ports.http, &Request::post(path, "\"x\"")).await;
        let answer = answer.unwrap_or_else(|error| panic!("after {:?}: {error}", told.elapsed()));
        assert_eq!(
            answer.status,
            204,
            "{:?}: {}",
            told.elapsed(),
            answer.text()
        );
        published += 1;
        pace.tick().await;
    }
    let received = app.kill().await;
    let gone = Instant::now();
    let ended = sidecar.process.ended(s(10)).await;
    let took = gone.elapsed();
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert_eq!(deliveries(&received)["slow"], 1);
    until_left(&bus, 0).await;
    figure(
        "A36",
        format!("{published} publishes accepted, the sidecar is gone {took:?} after the app"),
    );
    assert!(took <= s(3), "{took:?}");
}

/// A38.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_app_that_are_under_way_get_their_answers_and_new_ones_are_refused() {
    let registry = Registry::new();
    let app = App::start(|asked| match asked.path.as_str() {
        "/long" => Reply::text("the answer").after(s(5)),
        _ => Reply::status(404),
    })
    .await;
    let mut orders = registry
        .registered(registry.plan("orders").app(app.port()))
        .await;
    let near = registry.registered(registry.plan("near")).await;
    wait::until("the peer", s(15), async || {
        near.get("/v1.0/invoke/orders/method/other").await.status == 404
    })
    .await;
    let (http_port, grpc_port) = (orders.ports.http, orders.ports.grpc);
    let path = "/v1.0/invoke/orders/method/long";
    let mut calls = JoinSet::new();
    calls.spawn(async move {
        let answer = http::call(http_port, &Request::post(path, ""))
            .await
            .unwrap();
        (
            "HTTP",
            answer.status == 200 && answer.text() == "the answer",
        )
    });
    calls.spawn(async move {
        let outcome = grpc::invoke(grpc_port, "orders", "long").await;
        let text = String::from_utf8_lossy(&outcome.messages.concat()).into_owned();
        ("gRPC", outcome.code == 0 && text.contains("the answer"))
    });
    let peer = near.ports.http;
    calls.spawn(async move {
        let answer = http::call(peer, &Request::post(path, "")).await.unwrap();
        (
            "peer",
            answer.status == 200 && answer.text() == "the answer",
        )
    });
    wait::until("three calls", s(5), async || app.count("/long") == 3).await;
    orders.process.signal(Signal::TERM);
    let told = Instant::now();
    wait::until("the end's beginning", s(1), async || {
        orders.get("/v1.0/healthz").await.status == 500
    })
    .await;
    let refused = orders.get("/v1.0/invoke/orders/method/other").await;
    refused.assert(503, "ERR_SIDECAR_DRAINING");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let outcome = grpc::invoke(grpc_port, "orders", "other").await;
    assert_eq!(outcome.code, 14, "{outcome:?}");
    for (way, fine) in calls.join_all().await {
        assert!(fine, "{way}");
    }
    let answered = told.elapsed();
    let ended = orders.process.ended(s(5)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert_eq!(app.count("/other"), 1);
    figure(
        "A38",
        format!(
            "answers {answered:?} and exit 0 {:?} after SIGTERM",
            told.elapsed()
        ),
    );
}

/// §6.1: one deadline for calls, whatever their protocol.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_not_done_at_the_deadline_are_cut_and_the_exit_code_says_so() {
    let app = App::start(|asked| match asked.path.as_str() {
        "/long" => Reply::status(200).after(s(60)),
        _ => Reply::status(404),
    })
    .await;
    let mut sidecar = Plan::new("orders")
        .app(app.port())
        .flag("--dapr-graceful-shutdown-seconds=2")
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(5)).await;
    let (http_port, grpc_port) = (sidecar.ports.http, sidecar.ports.grpc);
    let mut calls = JoinSet::new();
    calls.spawn(async move {
        let request = Request::post("/v1.0/invoke/orders/method/long", "");
        http::call(http_port, &request).await.is_err()
    });
    calls.spawn(async move {
        let outcome = grpc::invoke(grpc_port, "orders", "long").await;
        outcome.code != 0
    });
    wait::until("two calls", s(5), async || app.count("/long") == 2).await;
    let (ended, took) = sidecar.stop(s(15)).await;
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert_eq!(calls.join_all().await, [true, true]);
    assert_eq!(app.cuts().len(), 2, "the app is told, too");
    figure("calls-cut", format!("exit 1 after {took:?} with 2 s"));
    assert!(took >= s(2) && took <= s(7), "{took:?}");
}

/// §6.2, step 3.
#[tokio::test(flavor = "multi_thread")]
async fn in_kubernetes_peers_are_let_in_for_three_seconds_more() {
    let registry = Registry::new();
    let app = App::start(|asked| match asked.path.as_str() {
        "/long" => Reply::status(200).after(s(6)),
        _ => Reply::status(200),
    })
    .await;
    let plan = registry.plan("orders").flag("--mode=kubernetes");
    let mut orders = registry.registered(plan.app(app.port())).await;
    let near = registry.registered(registry.plan("near")).await;
    let path = "/v1.0/invoke/orders/method/other";
    wait::until("the peer", s(15), async || {
        near.get(path).await.status == 200
    })
    .await;
    let http_port = orders.ports.http;
    let mut calls = JoinSet::new();
    calls.spawn(async move {
        let path = "/v1.0/invoke/orders/method/long";
        http::call(http_port, &Request::get(path)).await.unwrap()
    });
    wait::until("the call", s(5), async || app.count("/long") == 1).await;
    orders.process.signal(Signal::TERM);
    let told = Instant::now();
    let closed = wait::until("a refusal", s(5), async || {
        let answer = orders.get(path).await;
        if answer.status == 503 {
            Ok(told.elapsed())
        } else {
            Err(answer.status)
        }
    })
    .await;
    assert!(closed >= ms(2_900) && closed <= ms(3_400), "{closed:?}");
    assert_eq!(calls.join_next().await.unwrap().unwrap().status, 200);
    app.kill().await;
    assert_eq!(orders.process.ended(s(5)).await.code, 0);
}

/// A39.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fails_while_the_sidecar_stops_is_neither_retried_nor_dead_lettered() {
    for bus in [Bus::redis().await, Bus::rabbit().await] {
        let app = app_with(Reply::status(500).after(s(2))).await;
        let spec = json!({
            "policies": {"retries": {"r": {"duration": "100ms", "maxRetries": 10}}},
            "targets": {"components": {"bus": {"inbound": {"retry": "r"}}}},
        });
        let plan = Plan::new("orders").policies(&spec);
        let mut sidecar = subscribed(plan, &app, &bus.component()).await;
        publish(&sidecar, "slow").await;
        wait::until("attempt 1", s(5), async || app.delivered("slow")).await;
        let (ended, took) = sidecar.stop(s(10)).await;
        assert_eq!(ended.code, 0, "{}", ended.output);
        assert_eq!(app.count("/on/new"), 1, "{}", bus.name());
        assert!(took >= s(1) && took <= s(6), "{took:?}");
        assert_eq!(bus.left("new").await, 1, "{}", bus.name());
        assert_eq!(bus.letters("new-dead").await, 0, "{}", bus.name());
        let quick = app_with(Reply::status(200)).await;
        let _again = subscribed(Plan::new("orders"), &quick, &bus.component()).await;
        wait::until("the message", s(5), async || quick.delivered("slow")).await;
        until_left(&bus, 0).await;
    }
}

/// A40.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_ends_the_sidecar_gently_or_at_once() {
    for by_grpc in [false, true] {
        for force in [false, true] {
            // What is cut off comes again, which is no part of the next round.
            let bus = Bus::redis().await;
            let app = app_with(Reply::status(200).after(s(3))).await;
            let plan = Plan::new("orders");
            let mut sidecar = subscribed(plan, &app, &bus.component()).await;
            publish(&sidecar, "slow").await;
            wait::until("the delivery", s(5), async || app.delivered("slow")).await;
            let header: &[(&str, &str)] = if force {
                &[("dapr-force-shutdown", "true")]
            } else {
                &[]
            };
            let asked = Instant::now();
            if by_grpc {
                let method = "/dapr.proto.runtime.v1.Dapr/Shutdown";
                let port = sidecar.ports.grpc;
                let answer = grpc::call(port, method, &ShutdownRequest {}, header).await;
                let (): () = answer.unwrap();
            } else {
                let mut request = Request::post("/v1.0/shutdown", "");
                for (name, value) in header {
                    request = request.header(name, value);
                }
                sidecar.call(request).await.assert(204, "");
            }
            let answered = asked.elapsed();
            let ended = sidecar.process.ended(s(10)).await;
            let took = asked.elapsed();
            let way = if by_grpc { "grpc" } else { "http" };
            figure(
                &format!("A40-{way}{}", if force { "-force" } else { "" }),
                format!(
                    "answered after {answered:?}, exit {} after {took:?}",
                    ended.code
                ),
            );
            assert!(answered <= ms(500), "{answered:?}");
            if force {
                assert_eq!(ended.code, 1, "{}", ended.output);
                // Alone it is some 20 ms; other tests run beside this one.
                assert!(took - answered <= ms(600), "{took:?}");
            } else {
                assert_eq!(ended.code, 0, "{}", ended.output);
                assert!(app.cuts().is_empty() && took >= s(2), "drained: {took:?}");
                assert_eq!(bus.left("new").await, 0);
            }
        }
    }
}

/// §3.2: streams while work is finished.
#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_subscription_gets_no_new_events_and_its_answers_still_count_until_it_is_closed()
 {
    let bus = Bus::redis().await;
    let mut sidecar = Plan::new("orders").with(&bus.component()).serving().await;
    let shop = publisher(&bus).await;
    let mut stream = events(&sidecar, "new").await;
    publish(&shop, "first").await;
    publish(&shop, "second").await;
    let (first, second) = (event(&mut stream).await, event(&mut stream).await);
    sidecar.process.signal(Signal::TERM);
    wait::until("the end's beginning", s(1), async || {
        sidecar.get("/v1.0/healthz").await.status == 500
    })
    .await;
    publish(&shop, "late").await;
    let silence = tokio::time::timeout(s(2), stream.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    assert!(sidecar.process.is_alive(), "two answers are missing");
    stream.send(&processed(&first, 0));
    wait::until("the acknowledgement", s(5), async || {
        bus.left("new").await == 2
    })
    .await;
    assert!(sidecar.process.is_alive(), "one answer is missing");
    stream.send(&processed(&second, 0));
    let outcome = tokio::time::timeout(s(5), stream.ended()).await.unwrap();
    assert_eq!(outcome.code, 14, "{outcome:?}");
    let ended = sidecar.process.ended(s(5)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert_eq!(bus.left("new").await, 1, "the late one");
    // A stream whose app does not answer.
    let mut sidecar = Plan::new("orders")
        .flag("--drain-timeout=2s")
        .with(&bus.component())
        .serving()
        .await;
    let mut stream = events(&sidecar, "new").await;
    event(&mut stream).await;
    let (ended, took) = sidecar.stop(s(10)).await;
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(took >= s(2) && took <= s(7), "{took:?}");
    let outcome = tokio::time::timeout(s(5), stream.ended()).await.unwrap();
    assert_eq!(outcome.code, 14, "{outcome:?}");
    assert_eq!(bus.left("new").await, 1);
}

/// A stream of events that stands.
async fn events(sidecar: &Sidecar, topic: &str) -> grpc::Stream {
    let method = "/dapr.proto.runtime.v1.Dapr/SubscribeTopicEventsAlpha1";
    let mut stream = grpc::Stream::open(sidecar.ports.grpc, method, &[]).await;
    let initial = SubscribeTopicEventsRequestInitialAlpha1 {
        pubsub_name: "bus".to_owned(),
        topic: topic.to_owned(),
        ..SubscribeTopicEventsRequestInitialAlpha1::default()
    };
    stream.send(&request(Asked::InitialRequest(initial)));
    assert!(matches!(told(&mut stream).await, Told::InitialResponse(_)));
    stream
}

fn request(asked: Asked) -> Vec<u8> {
    let request = SubscribeTopicEventsRequestAlpha1 {
        subscribe_topic_events_request_type: Some(asked),
    };
    request.encode_to_vec()
}

async fn told(stream: &mut grpc::Stream) -> Told {
    let message = wait::within("a message", s(10), stream.next())
        .await
        .unwrap();
    let response = SubscribeTopicEventsResponseAlpha1::decode(message).unwrap();
    response.subscribe_topic_events_response_type.unwrap()
}

/// The id of the next event.
async fn event(stream: &mut grpc::Stream) -> String {
    match told(stream).await {
        Told::EventMessage(event) => event.id,
        Told::InitialResponse(_) => panic!("no event"),
    }
}

fn processed(id: &str, status: i32) -> Vec<u8> {
    request(Asked::EventProcessed(
        SubscribeTopicEventsRequestProcessedAlpha1 {
            id: id.to_owned(),
            status: Some(TopicEventResponse { status }),
        },
    ))
}

/// §6.2 for bulk subscriptions, on both.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_work_is_finished_and_what_was_gathered_for_the_next_goes_to_a_peer_at_once() {
    for bus in [Bus::rabbit().await, Bus::redis().await] {
        let app = bulk_app(s(4), 10).await;
        let bulk_plan = || Plan::new("orders").with(&bus.component());
        let mut sidecar = bulk_plan().app(app.port()).serving().await;
        sidecar.until_topic("bus", "new", "active", s(15)).await;
        for nth in 0..15 {
            publish(&sidecar, &format!("m{nth}")).await;
        }
        wait::until("a batch", s(5), async || app.count("/on/new") == 1).await;
        let quick = bulk_app(ms(0), 1).await;
        let peer = bulk_plan().app(quick.port()).serving().await;
        peer.until_topic("bus", "new", "active", s(15)).await;
        wait::never("a batch at the peer", s(1), async || {
            quick.count("/on/new") > 0
        })
        .await;
        sidecar.process.signal(Signal::TERM);
        let told = Instant::now();
        wait::until("the rest at the peer", s(3), async || {
            entries(&quick.received()) == 5
        })
        .await;
        let moved = told.elapsed();
        let ended = sidecar.process.ended(s(10)).await;
        assert_eq!(ended.code, 0, "{}", ended.output);
        assert_eq!(entries(&app.received()), 10);
        until_left(&bus, 0).await;
        figure(
            &format!("bulk-stop-{}", bus.name()),
            format!("five gathered messages at the peer {moved:?} after SIGTERM, ten acknowledged"),
        );
        assert_eq!(entries(&quick.received()), 5);
    }
}

/// §6.4: bulk deliveries at the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_not_done_at_the_deadline_goes_to_a_peer() {
    for bus in [Bus::rabbit().await, Bus::redis().await] {
        let app = bulk_app(s(60), 3).await;
        let plan = Plan::new("orders").flag("--drain-timeout=2s");
        let mut sidecar = plan.with(&bus.component()).app(app.port()).serving().await;
        sidecar.until_topic("bus", "new", "active", s(15)).await;
        for nth in 0..3 {
            publish(&sidecar, &format!("m{nth}")).await;
        }
        wait::until("a batch", s(5), async || app.count("/on/new") == 1).await;
        let quick = bulk_app(ms(0), 1).await;
        let plan = Plan::new("orders").with(&bus.component());
        let peer = plan.app(quick.port()).serving().await;
        peer.until_topic("bus", "new", "active", s(15)).await;
        let (ended, took) = sidecar.stop(s(10)).await;
        assert_eq!(ended.code, 1, "{}", ended.output);
        assert!(took <= s(7), "{took:?}");
        assert_eq!(app.cuts().len(), 1);
        wait::until("all three at the peer", s(5), async || {
            entries(&quick.received()) == 3
        })
        .await;
        until_left(&bus, 0).await;
    }
}

/// An app with a bulk subscription that takes so long for each batch.
async fn bulk_app(time: Duration, batch: usize) -> App {
    let list = json!([{
        "pubsubname": "bus", "topic": "new", "route": "/on/new",
        "bulkSubscribe": {"enabled": true, "maxMessagesCount": batch, "maxAwaitDurationMs": 60_000},
    }]);
    App::start(move |asked| match asked.path.as_str() {
        "/dapr/subscribe" => Reply::json(&list),
        "/dapr/config" => Reply::status(404),
        _ => {
            let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
            let entries = body["entries"].as_array().cloned().unwrap_or_default();
            let status = |entry: &Value| json!({"entryId": entry["entryId"], "status": "SUCCESS"});
            let statuses: Vec<Value> = entries.iter().map(status).collect();
            Reply::json(&json!({"statuses": statuses})).after(time)
        }
    })
    .await
}

/// How many messages came in batches.
fn entries(received: &[Received]) -> usize {
    let of = received.iter().filter(|asked| asked.path == "/on/new");
    let count = |asked: &Received| {
        let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        body["entries"].as_array().map_or(0, Vec::len)
    };
    of.map(count).sum()
}

/// P7: nothing is waited for without a bound, not even the broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_frozen_does_not_hold_up_the_end() {
    for bus in [Bus::rabbit().await, Bus::redis().await] {
        let app = app_with(Reply::status(200)).await;
        let plan = Plan::new("orders").flag("--drain-timeout=5s");
        let mut sidecar = subscribed(plan, &app, &bus.component()).await;
        publish(&sidecar, "before").await;
        wait::until("the delivery", s(5), async || app.delivered("before")).await;
        match &bus {
            Bus::Rabbit(rabbit) => rabbit.pause(),
            Bus::Redis(redis) => redis.pause(),
        }
        let live = "/v1.0/healthz/components/bus?live=true&timeout=200ms";
        wait::until("silence", s(5), async || {
            sidecar.get(live).await.status == 500
        })
        .await;
        let (ended, took) = sidecar.stop(s(20)).await;
        figure(
            &format!("frozen-stop-{}", bus.name()),
            format!("exit {} after {took:?} with 5 s", ended.code),
        );
        assert!(took <= s(10), "{took:?}");
        if matches!(bus, Bus::Rabbit(_)) {
            let told = "what is acknowledged from now on may be delivered again";
            assert!(ended.output.contains(told), "{}", ended.output);
        }
    }
}

/// P6: an app that dies while the sidecar stops is waited for no longer, and what it had goes back.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_dies_while_the_sidecar_stops_leaves_its_message_to_a_peer() {
    let bus = Bus::rabbit().await;
    let app = app_with(Reply::status(200).after(s(60))).await;
    let mut sidecar = subscribed(Plan::new("orders"), &app, &bus.component()).await;
    publish(&sidecar, "slow").await;
    wait::until("the delivery", s(5), async || app.delivered("slow")).await;
    sidecar.process.signal(Signal::TERM);
    wait::until("the end's beginning", s(1), async || {
        sidecar.get("/v1.0/healthz").await.status == 500
    })
    .await;
    app.kill().await;
    let gone = Instant::now();
    let ended = sidecar.process.ended(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(gone.elapsed() <= s(3), "{:?}", gone.elapsed());
    let quick = app_with(Reply::status(200)).await;
    let _again = subscribed(Plan::new("orders"), &quick, &bus.component()).await;
    wait::until("the message", s(5), async || quick.delivered("slow")).await;
    until_left(&bus, 0).await;
    assert_eq!(quick.count("/on/new-dead"), 0);
}
