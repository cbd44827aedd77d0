//! Opening, pinging, losing and closing connections.

use std::time::Duration;

use outrigger_component_api::{Class, ErrorKind, PubSub, Scope};
use outrigger_testkit::proxy::Proxy;
use outrigger_testkit::servers::{Rabbit, RabbitServer, Server as _};
use outrigger_testkit::suites::open::Opened;
use outrigger_testkit::{ports, wait};
use tokio::time::{Instant, timeout};

use crate::support::{
    Recorder, SOON, message, opener, publish, resource, shared, subscribe, to, unique,
};

/// The error of an attempt.
async fn refused<const N: usize>(url: &str, pairs: [(&str, &str); N]) -> ErrorKind {
    let attempt = Opened::attempt(&opener(url, pairs)).await;
    match attempt {
        Ok(_) => panic!("connected"),
        Err(error) => {
            for secret in ["hunter2", "wrong-pw"] {
                assert!(!error.message.contains(secret), "{error}");
            }
            error.kind
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_cannot_be_reached_is_a_passing_obstacle() {
    let transient = ErrorKind::Connection(Class::Transient);
    let nobody = format!("amqp://u:hunter2@127.0.0.1:{}", ports::free());
    assert_eq!(refused(&nobody, []).await, transient);
    let nowhere = "amqp://u:hunter2@name.invalid:5672";
    assert_eq!(refused(nowhere, []).await, transient);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_wrong_today_may_be_right_tomorrow() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    let auth = ErrorKind::Connection(Class::Auth);
    let url = format!("amqp://late:wrong-pw@{}", server.address());
    assert_eq!(refused(&url, []).await, auth);
    server.control(&["add_user", "late", "other"]).await;
    assert_eq!(refused(&url, []).await, auth);
    server
        .control(&["change_password", "late", "wrong-pw"])
        .await;
    // Known, but not allowed into the virtual host.
    assert_eq!(refused(&url, []).await, auth);
    server
        .control(&["set_permissions", "late", ".*", ".*", ".*"])
        .await;
    let pubsub = Opened::ready(&opener(&url, [])).await;
    publish(&pubsub, "t", &["1"]).await;
    pubsub.close().await;
    assert_eq!(refused(&format!("{url}/missing"), []).await, auth);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_login_mechanism_of_a_password_works() {
    let server = RabbitServer::shared().await;
    for mechanism in ["plain", "amqplain"] {
        let url = format!("{}?auth_mechanism={mechanism}", server.url());
        let pubsub = Opened::ready(&opener(&url, [])).await;
        pubsub.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_in_parts_serve_as_well_as_a_connection_string() {
    let address = RabbitServer::shared().await.address();
    let mut resource = resource(
        "",
        [
            ("hostname", address.as_str()),
            ("username", "guest"),
            ("password", "guest"),
            ("clientName", "tested"),
        ],
    );
    resource.properties.0.remove(0);
    let pubsub = Opened::ready(&resource.pubsub().unwrap()).await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_do_not_answer_are_passed_over() {
    let address = RabbitServer::shared().await.address();
    let silent = Proxy::to(&address).await;
    silent.hang();
    let closed = ports::free();
    let hosts = format!("127.0.0.1:{closed},{},{address}", silent.address());
    let opener = opener(&format!("amqp://guest:guest@{hosts}/"), []);
    let start = Instant::now();
    let pubsub = Opened::ready(&opener).await;
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    pubsub.close().await;
    // The next attempt begins where the last one succeeded.
    let start = Instant::now();
    let pubsub = Opened::ready(&opener).await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_needs_the_broker_itself() {
    let server = RabbitServer::shared().await;
    let proxy = Proxy::to(server.address()).await;
    let url = format!("amqp://guest:guest@{}", proxy.address());
    let pubsub = Opened::ready(&opener(&url, [])).await;
    let source = subscribe(&pubsub, to(&unique("ping")), &Recorder::done()).await;
    pubsub.ping().await.unwrap();
    proxy.hang();
    let silent = timeout(Duration::from_millis(500), pubsub.ping()).await;
    assert!(silent.is_err(), "{silent:?}");
    proxy.pass().await;
    wait::within("a ping", SOON, pubsub.ping()).await.unwrap();
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_either_connection_is_reported_and_ends_the_subscriptions() {
    let server = RabbitServer::shared().await;
    let proxy = Proxy::to(server.address()).await;
    let url = format!("amqp://guest:guest@{}", proxy.address());
    let mut pubsub = Opened::ready(&opener(&url, [])).await;
    let recorder = Recorder::shut();
    let topic = unique("lost");
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["1"]).await;
    recorder.got(1).await;
    proxy.cut().await;
    let start = Instant::now();
    let reason = wait::within("the loss", SOON, pubsub.lost()).await;
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(reason.kind, ErrorKind::Connection(Class::Transient));
    let reason = wait::within("the end", SOON, source.ended()).await;
    assert_eq!(reason.kind, ErrorKind::Connection(Class::Transient));
    for _ in 0..3 {
        let error = pubsub.publish(message(&topic, "2")).await.unwrap_err();
        assert!(error.doubts_connection(), "{error:?}");
        let error = pubsub.subscribe(to(&topic), Recorder::done()).await;
        assert!(error.map(|_| ()).unwrap_err().doubts_connection());
        assert!(pubsub.ping().await.unwrap_err().doubts_connection());
    }
    // The handler runs on, and its late acknowledgement bothers nobody.
    assert_eq!(source.in_flight(), 1);
    recorder.open();
    wait::until("the handler's end", SOON, async || source.in_flight() == 0).await;
    wait::within("close", Duration::from_secs(2), source.close()).await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_calls_while_the_connection_ends_gets_an_answer() {
    let server = RabbitServer::shared().await;
    let proxy = Proxy::to(server.address()).await;
    let url = format!("amqp://guest:guest@{}", proxy.address());
    let opener = opener(&url, []);
    for round in 0..60 {
        let pubsub = Opened::ready(&opener).await;
        let calls = Scope::root();
        for number in 0..50 {
            let component = pubsub.component();
            calls.spawn_future("calls", async move {
                // Each topic asks for a channel, a declaration and another channel.
                for call in 0.. {
                    let topic = format!("answered{}", (number + call) % 10);
                    let told = match call % 2 {
                        0 => component.ping().await,
                        _ => component.publish(message(&topic, "x")).await,
                    };
                    if told.is_err() {
                        return;
                    }
                }
            });
        }
        // At another moment each time.
        for _ in 0..round % 6 {
            pubsub.ping().await.unwrap();
        }
        proxy.cut().await;
        assert_eq!(
            calls.drained(Duration::from_secs(5)).await,
            Vec::<&str>::new()
        );
        pubsub.close().await;
        proxy.pass().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_was_asked_for_is_not_reported() {
    let mut pubsub = shared([]).await;
    let source = subscribe(&pubsub, to(&unique("asked")), &Recorder::done()).await;
    pubsub.component().close().await;
    let reported = timeout(Duration::from_millis(300), pubsub.lost()).await;
    assert!(reported.is_err(), "{reported:?}");
    drop(source);
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_falls_silent_is_noticed_by_its_heartbeats() {
    let server = RabbitServer::shared().await;
    let proxy = Proxy::to(server.address()).await;
    let url = format!("amqp://guest:guest@{}", proxy.address());
    let mut pubsub = Opened::ready(&opener(&url, [("heartBeat", "1s")])).await;
    proxy.hang();
    let start = Instant::now();
    let reason = wait::within("the loss", SOON, pubsub.lost()).await;
    assert_eq!(
        reason.kind,
        ErrorKind::Connection(Class::Timeout),
        "{reason}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    wait::within("close", Duration::from_secs(2), pubsub.component().close()).await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn close_does_not_wait_for_a_broker_that_is_silent() {
    let server = RabbitServer::shared().await;
    let proxy = Proxy::to(server.address()).await;
    let url = format!("amqp://guest:guest@{}", proxy.address());
    let pubsub = Opened::ready(&opener(&url, [])).await;
    let topic = unique("silent");
    let recorder = Recorder::done();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    proxy.hang();
    let component = pubsub.component();
    let publishing = component.publish(message(&topic, "1"));
    let closing = async {
        // The call is under way before the instance is closed.
        tokio::task::yield_now().await;
        wait::within("close", Duration::from_secs(2), component.close()).await;
    };
    let (told, ()) = wait::within("both", SOON, async { tokio::join!(publishing, closing) }).await;
    assert!(told.is_err());
    drop(source);
    pubsub.close().await;
}

/// The type is the only thing that the sidecar knows of us.
#[tokio::test(flavor = "multi_thread")]
async fn the_component_tells_that_the_broker_ends_the_life_of_messages() {
    let pubsub = shared([]).await;
    let component: &dyn PubSub = &*pubsub;
    assert_eq!(component.features().capabilities(), ["MESSAGE_TTL"]);
    pubsub.close().await;
}
