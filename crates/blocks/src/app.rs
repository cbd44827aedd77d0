//! The application, as the building blocks see it: something that can be called, asked and handed messages.
//!
//! `outrigger-channel` implements [`AppChannel`] for apps that speak HTTP and for those that speak gRPC.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_core::Metadata;
use outrigger_core::json::Value;
use outrigger_lifecycle::drain::Answer;
use outrigger_policy::Code;

use crate::invoke::{Call, CallFailure, Reply};

/// The app's answer to a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Success,
    /// Try again, by policy or by the broker.
    Retry(String),
    /// The same, for an answer whose status policies are matched on.
    Refused(Code, String),
    /// Do not try again; a copy goes to the dead letter topic.
    Drop(String),
    /// Do not try again, and leave no copy.
    Forget(String),
    /// The app could not be reached at all: it is away, and the message has not failed.
    Away(String),
    /// The app ended while it had the message.
    Crashed(String),
}

impl Verdict {
    /// Whether the message is still to be delivered.
    pub fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Retry(_) | Self::Refused(..) | Self::Away(_) | Self::Crashed(_)
        )
    }
}

/// A message on its way to the app.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub pubsub: Arc<str>,
    pub topic: Arc<str>,
    /// The route; `/` where the subscription has none.
    pub path: Arc<str>,
    /// What an HTTP app is sent.
    pub data: Bytes,
    /// The event, for apps that are sent its parts.
    pub event: Arc<Value>,
    /// The message's metadata, with `pubsubName`.
    pub metadata: Arc<Metadata>,
    /// The event's own trace, as it stands in it; empty text included.
    pub trace_parent: Option<String>,
}

/// Several messages on their way to the app at once.
#[derive(Clone, Debug)]
pub struct BulkDelivery {
    pub pubsub: Arc<str>,
    pub topic: Arc<str>,
    pub path: Arc<str>,
    pub metadata: Metadata,
    pub entries: Vec<BulkEntry>,
    /// The trace of the last event that has one.
    pub trace_parent: Option<String>,
}

#[derive(Clone, Debug)]
pub struct BulkEntry {
    pub entry_id: String,
    pub event: BulkEvent,
    pub metadata: Option<Metadata>,
}

#[derive(Clone, Debug)]
pub enum BulkEvent {
    Cloud(Arc<Value>),
    Raw(Bytes),
}

/// The app's answer to several messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BulkVerdict {
    /// By entry id; entries that are missing are to be tried again.
    Each(Vec<(String, Verdict)>),
    All(Verdict),
}

/// The answer to a question of discovery.
#[derive(Clone, PartialEq, Debug)]
pub enum Discovered<T> {
    Answer(T),
    /// The app has nothing to say, for good.
    None,
    /// Not answered: ask again.
    Failed(String),
}

/// One subscription of the app's own list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AppSubscription {
    pub pubsub: String,
    pub topic: String,
    /// Match expression (none is always true) and path, the default last.
    pub rules: Vec<(Option<String>, String)>,
    pub dead_letter_topic: String,
    pub metadata: Metadata,
    pub bulk: Option<BulkOptions>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BulkOptions {
    pub max_messages: usize,
    pub max_await: Duration,
}

impl Default for BulkOptions {
    fn default() -> Self {
        Self {
            max_messages: 100,
            max_await: Duration::from_secs(1),
        }
    }
}

/// What a health probe found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    Healthy,
    Unhealthy(String),
}

/// Calls to the app.
#[async_trait]
pub trait AppChannel: Send + Sync + 'static {
    /// An invocation.
    ///
    /// # Errors
    /// When the app gave no answer.
    async fn invoke(&self, call: Call) -> Result<Reply, CallFailure>;

    async fn deliver(&self, delivery: &Delivery) -> Verdict;

    async fn deliver_bulk(&self, delivery: &BulkDelivery) -> BulkVerdict;

    /// The app's own subscriptions.
    async fn subscriptions(&self) -> Discovered<Vec<AppSubscription>>;

    /// The app's configuration (hosted actors and the like); its content is of no use yet.
    async fn config(&self) -> Discovered<()>;

    async fn probe(&self) -> Probe;

    /// The readiness question of `--app-ready-path` or `--app-ready-grpc-service`.
    ///
    /// # Errors
    /// With what the app said instead.
    async fn readiness(&self) -> Result<(), String>;

    /// Whether the port accepts connections.
    async fn accepts(&self) -> bool;

    /// The question of `--app-busy-path`: whether there is work that nobody else sees.
    async fn busy(&self) -> Answer {
        Answer::Unsupported("the app is not asked".to_owned())
    }

    /// Tells the app what happens to its sidecar: a CloudEvent in JSON, for `--app-lifecycle-path`.
    ///
    /// # Errors
    /// When the app did not take it.
    async fn tell(&self, event: Bytes) -> Result<(), String> {
        let _ = event;
        Err("the app is not told".to_owned())
    }
}
