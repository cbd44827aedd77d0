//! Apps that close connections while a message is on its way.
//!
//! Owns: that the message is delivered over another connection, and that an app which really fails is not spared.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use outrigger_e2e::component::{subscription, with_dead_letters};
use outrigger_e2e::{App, Component, Plan, Received, Reply, Sidecar, s};
use outrigger_testkit::wait;

/// An app that treats messages as told, takes dead letters, and answers everything else with 404.
async fn app(treat: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) -> App {
    App::counting(move |nth, asked| match asked.path.as_str() {
        "/on/new" => treat(nth, asked),
        "/on/dead" => Reply::status(200),
        _ => Reply::status(404),
    })
    .await
}

async fn started(app: &App) -> Sidecar {
    let sidecar = Plan::new("orders")
        .app(app.port())
        .with(&Component::new("bus", "pubsub.in-memory"))
        .file("new.yaml", with_dead_letters("bus", "new", "dead"))
        .file("dead.yaml", subscription("bus", "dead"))
        .serving()
        .await;
    for topic in ["new", "dead"] {
        sidecar.until_topic("bus", topic, "active", s(15)).await;
    }
    sidecar
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_connection_the_app_closes_just_then_is_sent_over_another() {
    let app = app(|nth, _| {
        if nth == 2 {
            Reply::closing()
        } else {
            Reply::status(200)
        }
    })
    .await;
    let sidecar = started(&app).await;
    for text in ["one", "two"] {
        sidecar.publish("bus", "new", text).await.assert(204, "");
        wait::until(text, s(10), async || app.delivered(text)).await;
    }
    wait::until("two again", s(10), async || {
        app.deliveries("/on/new", "two") == 2
    })
    .await;
    sidecar.publish("bus", "new", "three").await.assert(204, "");
    wait::until("three", s(10), async || app.delivered("three")).await;
    assert_eq!(app.count("/on/dead"), 0);
    assert_eq!(app.count("/on/new"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_never_answers_a_message_gets_it_once_more_and_it_has_failed() {
    let app = app(|_, asked| {
        if asked.data() == "bad" {
            Reply::closing()
        } else {
            Reply::status(200)
        }
    })
    .await;
    let sidecar = started(&app).await;
    // So that there is a connection that has served.
    sidecar.publish("bus", "new", "good").await.assert(204, "");
    wait::until("good", s(10), async || app.delivered("good")).await;
    sidecar.publish("bus", "new", "bad").await.assert(204, "");
    wait::until("the dead letter", s(10), async || {
        app.deliveries("/on/dead", "bad") == 1
    })
    .await;
    assert_eq!(app.deliveries("/on/new", "bad"), 2);
}
