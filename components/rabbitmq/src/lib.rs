//! `pubsub.rabbitmq`: publish and subscribe over AMQP 0-9-1.
//!
//! Owns: everything between Dapr's pub/sub contract and a RabbitMQ broker. Topics are exchanges, subscriptions are
//! queues; both are declared as daprd declares them, so that sidecars of both kinds share them.
//! Never: keeps a connection alive, or retries; it connects, pings, reports a loss, closes.
//! Start at `pubsub.rs` for an instance, `publish.rs` and `subscribe.rs` for what it does, `topology.rs` and `message.rs`
//! for what is on the wire. Settings and caveats: README.md. Tests: in the modules, and tests/ with a real broker.

mod dial;
mod error;
mod feed;
mod handle;
mod kit;
mod link;
mod message;
mod outbound;
mod publish;
mod pubsub;
mod requeue;
mod settings;
mod spell;
mod subscribe;
mod tls;
mod topology;
mod transport;
mod uri;

use std::sync::Arc;

use outrigger_component_api::{Catalog, Findings, Opener, PubSub, Spec};

use crate::pubsub::Opening;
use crate::settings::Settings;

/// Adds the pub/sub component of RabbitMQ.
pub fn register(catalog: &mut Catalog) {
    catalog.pubsub("pubsub.rabbitmq", check);
}

fn check(spec: &Spec, findings: &mut Findings) -> Option<Opener<dyn PubSub>> {
    let settings = Settings::read(spec, findings)?;
    let opening = Arc::new(Opening::new(settings));
    Some(Arc::new(move |open| {
        Box::pin(pubsub::open(opening.clone(), open))
    }))
}
