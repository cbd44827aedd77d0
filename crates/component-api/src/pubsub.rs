//! Publish and subscribe.
//!
//! Delivery is at least once. The driver hands each message to a [`Handler`] and maps the [`Outcome`] to what its broker
//! understands; it never decides on its own that a message is done.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_core::Metadata;

use crate::{Component, ComponentError};

#[derive(Clone, Debug, Default)]
pub struct Publish {
    /// The broker's topic, with any namespace prefix.
    pub topic: String,
    /// Exactly what goes to the broker.
    pub data: Bytes,
    /// `None` where the API's caller gave no metadata at all, which some brokers show.
    pub metadata: Option<Metadata>,
    pub content_type: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    pub topic: String,
    /// The subscription's own metadata.
    pub metadata: Metadata,
}

/// A message as the broker gave it.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub topic: String,
    pub data: Bytes,
    /// `None` when it came with none: a bulk subscription tells its app the difference.
    pub metadata: Option<Metadata>,
    /// How often the broker has tried to deliver it, this time included; 1 where it does not tell.
    pub delivery: u32,
}

impl Message {
    /// One entry of the metadata.
    pub fn datum(&self, name: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(name).map(String::as_str)
    }
}

/// What became of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The app took it, or chose to drop it, or it lies in the dead letter topic.
    Done,
    /// It failed; the broker is to deliver it again.
    Retry(String),
    /// It failed for good by the user's own policy, and there is no dead letter topic.
    GaveUp(String),
    /// We are stopping, or the app is away: neither success nor failure, the message stays the broker's.
    Released,
}

#[async_trait]
pub trait Handler: Send + Sync + 'static {
    async fn handle(&self, message: Message) -> Outcome;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PubSubFeatures {
    /// The broker itself ends the life of messages.
    pub message_ttl: bool,
    pub subscribe_wildcards: bool,
    /// Subscriptions with one `consumerID` share the messages of a topic, so that a second one may begin before the first
    /// ends. Elsewhere each gets every message.
    pub consumer_groups: bool,
}

impl PubSubFeatures {
    /// The words of the metadata API.
    pub fn capabilities(self) -> Vec<&'static str> {
        let words = [
            (self.message_ttl, "MESSAGE_TTL"),
            (self.subscribe_wildcards, "SUBSCRIBE_WILDCARDS"),
        ];
        words
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, word)| word)
            .collect()
    }
}

#[async_trait]
pub trait PubSub: Component {
    fn features(&self) -> PubSubFeatures;

    /// Returns when the broker has the message, where the protocol can tell.
    ///
    /// # Errors
    /// A negative or missing confirmation is an error: success means confirmed.
    async fn publish(&self, request: Publish) -> Result<(), ComponentError>;

    /// Returns when the subscription is registered at the broker. Messages go to `handler`, at most as many at a time as
    /// the component's settings allow.
    ///
    /// # Errors
    /// When it could not be registered; the supervisor tries again.
    async fn subscribe(
        &self,
        request: Subscribe,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn Source>, ComponentError>;
}

/// A running subscription or input binding. Dropping it stops it without giving anything back.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Stops fetching; what is being handled goes on.
    async fn pause(&self);

    /// Fetches again after a pause.
    async fn resume(&self);

    /// Gives back what was fetched and not handed out, so that others can have it at once, its delivery count unchanged.
    /// What is being handled goes on, and is acknowledged as it ends. To be called after [`Source::pause`].
    async fn release(&self);

    /// Completes when the source died without being asked, with the reason.
    async fn ended(&self) -> ComponentError;

    /// Stops for good: pause, release, and let go of the broker's consumer. Handlers that still run are not waited for;
    /// what they return counts only if the broker can still be told.
    async fn close(&self);

    /// How many messages are being handled.
    fn in_flight(&self) -> usize;
}
