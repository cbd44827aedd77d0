//! Replicas that are restarted in turn under load: nothing is lost, nothing is done twice, nothing becomes a dead letter.
//!
//! Owns: the short form of row A47 of `lifecycle.md` §9; `cargo xtask soak --rolling` runs the row in its full size.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use outrigger_e2e::rolling::{Broker, Rolling};
use outrigger_e2e::{figure, ms, s};

async fn roll(broker: Broker, row: &str) {
    let rolling = Rolling {
        broker,
        replicas: 4,
        messages: 160,
        work: ms(300),
        at_a_time: 1,
        every: s(2),
        seed: 47,
    };
    let outcome = rolling.run().await;
    figure(row, &outcome);
    assert_eq!(outcome.faults(), Vec::<String>::new(), "{outcome}");
    assert!(outcome.stops.len() >= 4, "{outcome}");
}

/// A47.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_on_rabbitmq_that_restart_in_turn_do_every_message_once() {
    roll(Broker::RabbitMq, "A47-rabbitmq").await;
}

/// A47.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_on_redis_streams_that_restart_in_turn_do_every_message_once() {
    roll(Broker::RedisStreams, "A47-redis").await;
}
