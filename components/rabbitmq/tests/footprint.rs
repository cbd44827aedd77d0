//! What instances leave behind: no thread, no socket, no task. Alone in its process, because it counts.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail the test that called it"
)]

use std::time::Duration;

use outrigger_component_api::{Opener, Properties, PubSub};
use outrigger_testkit::servers::{RabbitServer, Server as _};
use outrigger_testkit::suites::open::{Opened, Resource};
use outrigger_testkit::wait;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

const SOON: Duration = Duration::from_secs(20);

fn opener(url: &str) -> Opener<dyn PubSub> {
    let resource = Resource {
        register: outrigger_component_rabbitmq::register,
        type_name: "pubsub.rabbitmq",
        properties: Properties::from([("connectionString", url)]),
    };
    resource
        .pubsub()
        .unwrap_or_else(|findings| panic!("{findings:?}"))
}

/// Threads that lapin runs in this process.
fn io_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| name.trim() == "lapin-io-loop")
        .count()
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

async fn no_thread_is_left() {
    wait::until("no thread left", SOON, async || match io_threads() {
        0 => Ok(()),
        threads => Err(threads),
    })
    .await;
}

/// Accepts, and says nothing.
async fn silent(attempts: usize) -> (String, impl Future<Output = Vec<TcpStream>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://u:p@{}", listener.local_addr().unwrap());
    let accepted = async move {
        let mut accepted = Vec::new();
        for _ in 0..attempts {
            accepted.push(listener.accept().await.unwrap().0);
        }
        accepted
    };
    (url, accepted)
}

async fn attempts_are_given_up() {
    let (url, accepted) = silent(10).await;
    let opener = opener(&url);
    let give_up = async {
        for _ in 0..10 {
            let attempt = Opened::attempt(&opener);
            let told = tokio::time::timeout(Duration::from_millis(100), attempt).await;
            assert!(told.is_err());
        }
    };
    let (accepted, ()) = tokio::join!(accepted, give_up);
    for mut stream in accepted {
        let mut bytes = Vec::new();
        wait::within(
            "the end of a connection",
            SOON,
            stream.read_to_end(&mut bytes),
        )
        .await
        .ok();
        assert_eq!(bytes, b"AMQP\0\0\x09\x01");
    }
    no_thread_is_left().await;
}

async fn instances_come_and_go(opener: &Opener<dyn PubSub>, farewell: bool) {
    for _ in 0..10 {
        let pubsub = Opened::ready(opener).await;
        assert_eq!(io_threads(), 1);
        if farewell {
            pubsub.close().await;
        } else {
            drop(pubsub);
        }
        no_thread_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_of_attempts_given_up_and_of_instances_closed_or_dropped() {
    attempts_are_given_up().await;
    let server = RabbitServer::shared().await;
    let opener = opener(&server.url());
    instances_come_and_go(&opener, true).await;
    let before = open_files();
    instances_come_and_go(&opener, true).await;
    instances_come_and_go(&opener, false).await;
    wait::until("as many open files as before", SOON, async || {
        let now = open_files();
        if now <= before {
            Ok(())
        } else {
            Err((before, now))
        }
    })
    .await;
    // A broker that freezes while we are connected.
    let pubsub = Opened::ready(&opener).await;
    server.pause();
    wait::within("close", Duration::from_secs(2), pubsub.component().close()).await;
    no_thread_is_left().await;
    server.resume();
    pubsub.close().await;
}
