//! A broker that dies, freezes, restarts or cannot be trusted.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use outrigger_component_api::{Class, ErrorKind, Opener, Outcome, PubSub, Scope};
use outrigger_testkit::proxy::Proxy;
use outrigger_testkit::servers::{Rabbit, RabbitServer, Server as _};
use outrigger_testkit::suites::open::Opened;
use outrigger_testkit::wait;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    Client, KEPT, Recorder, SOON, message, opener, publish, settled, subscribe, tally, to, unique,
    with,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_ends_says_so_and_the_loss_is_a_passing_one() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    for orderly in [true, false] {
        let mut pubsub = Opened::ready(&opener(&server.url(), [KEPT])).await;
        publish(&pubsub, "t", &["1"]).await;
        if orderly {
            let command = ["close_all_connections", "a test's own words"];
            server.control(&command).await;
        } else {
            server.kill().await;
        }
        let reason = wait::within("the loss", SOON, pubsub.lost()).await;
        assert_eq!(
            reason.kind,
            ErrorKind::Connection(Class::Transient),
            "{reason}"
        );
        if orderly {
            assert!(reason.message.contains("own words"), "{reason}");
        }
        let error = pubsub.publish(message("t", "2")).await.unwrap_err();
        assert!(error.doubts_connection());
        pubsub.close().await;
        server.start().await;
    }
}

/// Publishes numbers for as long as it runs, over whatever instance there is; remembers what was confirmed.
struct Load {
    confirmed: Arc<Mutex<BTreeSet<u64>>>,
    scope: Scope,
}

impl Load {
    fn start(pubsub: &Opened<dyn PubSub>, topic: &str, numbers: &Arc<AtomicU64>) -> Self {
        let (confirmed, scope) = (Arc::<Mutex<BTreeSet<u64>>>::default(), Scope::root());
        for _ in 0..20 {
            let (pubsub, topic) = (pubsub.component(), topic.to_owned());
            let (numbers, confirmed) = (numbers.clone(), confirmed.clone());
            scope.spawn("load", |stop| async move {
                while !stop.is_cancelled() {
                    let number = numbers.fetch_add(1, Ordering::SeqCst);
                    let told = pubsub.publish(message(&topic, number.to_string())).await;
                    match told {
                        Ok(()) => {
                            confirmed.lock().unwrap().insert(number);
                        }
                        Err(error) => {
                            assert!(error.doubts_connection(), "{error:?}");
                            return;
                        }
                    }
                }
            });
        }
        Self { confirmed, scope }
    }

    async fn end(self) -> BTreeSet<u64> {
        let left = self.scope.close(SOON).await;
        assert!(left.is_empty(), "{left:?}");
        std::mem::take(&mut self.confirmed.lock().unwrap())
    }
}

/// How a round ends.
#[derive(Clone, Copy)]
enum End {
    Killed,
    Stopped,
    Disconnected,
}

/// Publishes and consumes through every one of these ends; in the end every confirmed message has arrived.
async fn survives(queue_type: &str, ends: &[End]) {
    let server = RabbitServer::launch(Rabbit::default()).await;
    let opener: Opener<dyn PubSub> = opener(&server.url(), [KEPT]);
    let (topic, numbers) = (unique("load"), Arc::<AtomicU64>::default());
    let request = with(&topic, [("queueType", queue_type)]);
    let recorder = Recorder::done();
    let mut confirmed = BTreeSet::new();
    for end in ends {
        let mut pubsub = Opened::ready(&opener).await;
        let source = subscribe(&pubsub, request.clone(), &recorder).await;
        let load = Load::start(&pubsub, &topic, &numbers);
        let before = recorder.count();
        recorder.got(before + 500).await;
        match end {
            End::Killed => server.kill().await,
            End::Stopped => server.stop().await,
            End::Disconnected => {
                server.control(&["close_all_connections", "test"]).await;
            }
        }
        let reason = wait::within("the loss", SOON, pubsub.lost()).await;
        assert!(reason.doubts_connection(), "{reason:?}");
        confirmed.extend(load.end().await);
        source.close().await;
        pubsub.close().await;
        server.start().await;
    }
    let pubsub = Opened::ready(&opener).await;
    let source = subscribe(&pubsub, request, &recorder).await;
    wait::until("every confirmed message", SOON, async || {
        let texts = recorder.texts();
        let seen: BTreeSet<u64> = texts.iter().map(|text| text.parse().unwrap()).collect();
        match confirmed.difference(&seen).count() {
            0 => Ok(()),
            missing => Err((missing, confirmed.len())),
        }
    })
    .await;
    assert!(confirmed.len() > 500);
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_survives_every_way_of_a_brokers_end() {
    let ends = [End::Killed, End::Stopped, End::Disconnected, End::Killed];
    survives("classic", &ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_quorum_queue_confirmed_survives_restarts() {
    survives("quorum", &[End::Disconnected, End::Stopped]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_broker_holds_up_nobody_for_longer_than_they_want() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    let opener = opener(&server.url(), [KEPT]);
    let topic = unique("frozen");
    let pubsub = Opened::ready(&opener).await;
    let recorder = Recorder::done();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["1"]).await;
    recorder.got(1).await;
    server.pause();
    let short = Duration::from_millis(300);
    wait::until("silence", SOON, async || {
        timeout(short, pubsub.ping()).await.is_err()
    })
    .await;
    assert!(
        timeout(short, pubsub.publish(message(&topic, "2")))
            .await
            .is_err()
    );
    assert!(
        timeout(short, pubsub.subscribe(to(&topic), recorder.clone()))
            .await
            .is_err()
    );
    assert!(timeout(short, Opened::attempt(&opener)).await.is_err());
    let start = Instant::now();
    source.close().await;
    pubsub.close().await;
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
    server.resume();
    let pubsub = Opened::ready(&opener).await;
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["3"]).await;
    // The second one reached the broker or not; nobody was told that it did.
    wait::until("the third message", SOON, async || {
        recorder.texts().contains(&"3".to_owned())
    })
    .await;
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_starting_is_asked_again_until_it_is_there() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    let opener = opener(&server.url(), []);
    server.kill().await;
    let waiting = async {
        // Faster than the supervisor would.
        loop {
            let attempt = timeout(Duration::from_secs(5), Opened::attempt(&opener)).await;
            match attempt {
                Ok(Ok(pubsub)) => return pubsub,
                Ok(Err(error)) => assert!(
                    matches!(error.kind, ErrorKind::Connection(class) if class.is_fast()),
                    "{error:?}"
                ),
                Err(_) => {}
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let (pubsub, ()) = tokio::join!(waiting, server.start());
    publish(&pubsub, "t", &["1"]).await;
    pubsub.close().await;
}

/// How a connection is lost while messages are in work.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Cut,
    Closed,
    Killed,
    Frozen,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_of_losing_a_connection_fills_the_dead_letter_queue() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    for (requeue, losses) in [
        (
            "false",
            [Loss::Cut, Loss::Closed, Loss::Killed, Loss::Frozen].as_slice(),
        ),
        ("true", [Loss::Cut, Loss::Frozen].as_slice()),
    ] {
        for loss in losses {
            nothing_is_dead_lettered(&server, requeue, *loss).await;
        }
    }
}

async fn nothing_is_dead_lettered(server: &RabbitServer, requeue: &str, loss: Loss) {
    let proxy = Proxy::to(server.address()).await;
    let url = format!("amqp://guest:guest@{}", proxy.address());
    let pairs = [
        ("enableDeadLetter", "true"),
        ("requeueInFailure", requeue),
        ("concurrencyMode", "single"),
        KEPT,
    ];
    let mut pubsub = Opened::ready(&opener(&url, pairs)).await;
    let topic = unique("undead");
    let queue = format!("testkit-{topic}");
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    for number in 0..10 {
        publish(&pubsub, &topic, &[&number.to_string()]).await;
    }
    // One is in work, the others are fetched and wait.
    recorder.got(1).await;
    settled(&mut Client::at(server).await, &queue, (0, 1)).await;
    match loss {
        Loss::Cut => proxy.cut().await,
        Loss::Closed => {
            server.control(&["close_all_connections", "test"]).await;
        }
        Loss::Killed => server.kill().await,
        Loss::Frozen => server.pause(),
    }
    if !matches!(loss, Loss::Frozen) {
        wait::within("the loss", SOON, pubsub.lost()).await;
        wait::within("the end", SOON, source.ended()).await;
    }
    // The app is away too: the handler fails, and that comes too late for this connection.
    recorder.answer(|_| Outcome::Retry("the connection is gone".into()));
    if !matches!(loss, Loss::Frozen) {
        recorder.open();
        wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
    }
    source.pause().await;
    source.release().await;
    source.close().await;
    recorder.open();
    pubsub.close().await;
    match loss {
        Loss::Killed => server.start().await,
        Loss::Frozen => server.resume(),
        Loss::Cut | Loss::Closed => {}
    }
    let mut client = Client::at(server).await;
    settled(&mut client, &queue, (10, 0)).await;
    let dead = client.look(&format!("dlq-{queue}")).await;
    assert_eq!(dead, Ok((0, 0)), "{loss:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_freeze_costs_nothing() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    let mut pubsub = Opened::ready(&opener(&server.url(), [KEPT])).await;
    let topic = unique("short");
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    publish(&pubsub, &topic, &["a", "b", "c"]).await;
    recorder.got(3).await;
    server.pause();
    recorder.open();
    let published = (0..50).map(|number| pubsub.publish(message(&topic, number.to_string())));
    let thawing = async {
        // Acknowledgements are on their way, and nobody reads them yet.
        wait::until("nothing in work", SOON, async || source.in_flight() == 0).await;
        server.resume();
    };
    let (told, ()) = tokio::join!(join_all(published), thawing);
    for told in told {
        told.unwrap();
    }
    recorder.got(53).await;
    let mut client = Client::at(&server).await;
    settled(&mut client, &format!("testkit-{topic}"), (0, 1)).await;
    let texts = recorder.texts();
    assert!(tally(&texts).values().all(|count| *count == 1), "{texts:?}");
    let lost = timeout(Duration::from_millis(200), pubsub.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_during_a_freeze_takes_effect_when_the_broker_thaws() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    let pairs = [
        ("enableDeadLetter", "true"),
        ("concurrencyMode", "single"),
        KEPT,
    ];
    let pubsub = Opened::ready(&opener(&server.url(), pairs)).await;
    let topic = unique("thaw");
    let queue = format!("testkit-{topic}");
    let recorder = Recorder::shut();
    let source = subscribe(&pubsub, to(&topic), &recorder).await;
    for number in 0..10 {
        publish(&pubsub, &topic, &[&number.to_string()]).await;
    }
    recorder.got(1).await;
    let mut client = Client::at(&server).await;
    settled(&mut client, &queue, (0, 1)).await;
    server.pause();
    let start = Instant::now();
    source.pause().await;
    source.release().await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    server.resume();
    settled(&mut client, &queue, (9, 0)).await;
    source.resume().await;
    recorder.open();
    recorder.got(10).await;
    settled(&mut client, &queue, (0, 1)).await;
    let texts = recorder.texts();
    assert!(tally(&texts).values().all(|count| *count == 1), "{texts:?}");
    assert_eq!(client.look(&format!("dlq-{queue}")).await, Ok((0, 0)));
    source.close().await;
    pubsub.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restart_of_the_broker_takes_is_declared_again() {
    let server = RabbitServer::launch(Rabbit::default()).await;
    let opener = opener(&server.url(), [("durable", "false"), KEPT]);
    let topic = unique("transient");
    let queue = format!("testkit-{topic}");
    let recorder = Recorder::done();
    for round in 0..2 {
        let mut pubsub = Opened::ready(&opener).await;
        // Who publishes declares the exchange, who subscribes the rest.
        publish(&pubsub, &topic, &["nobody listens yet"]).await;
        let source = subscribe(&pubsub, to(&topic), &recorder).await;
        publish(&pubsub, &topic, &[&round.to_string()]).await;
        recorder.got(round + 1).await;
        settled(&mut Client::at(&server).await, &queue, (0, 1)).await;
        server.kill().await;
        wait::within("the loss", SOON, pubsub.lost()).await;
        source.close().await;
        pubsub.close().await;
        server.start().await;
        let gone = Client::at(&server).await.look(&queue).await;
        assert!(gone.unwrap_err().contains("NOT_FOUND"));
    }
    assert_eq!(recorder.texts(), ["0", "1"]);
}
