//! The building blocks: what Dapr's API means, whichever protocol asks.
//!
//! Each verb is written once here and called by both edges. A verb finds its component in the [`Registry`], goes to it
//! through the [`guard`], and has its errors in [`errors`].
//! Owns: state, publish and subscribe, invocation, secrets, metadata, health; how callers wait for components.
//! Never: knows HTTP or gRPC framing, a technology, a file or a port. What it calls outside it declares as traits
//! ([`app::AppChannel`], [`invoke::PeerClient`], [`invoke::EndpointClient`]), which `outrigger-channel` implements.
//! Start at [`state`] for a read from end to end, at [`pubsub::deliver`] for the way of a message.

pub mod about;
pub mod absent;
pub mod activity;
pub mod app;
pub mod component;
mod downtime;
pub mod drain;
pub mod errors;
pub mod events;
pub mod fields;
pub mod guard;
pub mod health;
pub mod invoke;
pub mod metadata;
pub mod pubsub;
pub mod registry;
pub mod resolve;
pub mod secrets;
pub mod state;
pub mod status;
pub mod waiting;

pub use about::{About, Origin};
pub use component::{AnyHandle, Control, Handle, InUse, Info, Instance, Pending, Signal};
pub use guard::Guard;
pub use registry::{Registry, Rejected, Table};
pub use waiting::Patience;

use std::sync::Arc;

use outrigger_core::{ApiError, AppId, Namespace};
use outrigger_resiliency::{ComponentKind, Flow, View};
use outrigger_telemetry::Metrics;
use outrigger_telemetry::history::Reader;
use outrigger_telemetry::span::Tracer;
use tokio::sync::oneshot;

/// Everything that the API edges call.
#[derive(Debug)]
pub struct Blocks {
    pub app_id: AppId,
    pub namespace: Namespace,
    pub registry: Arc<Registry>,
    pub state: state::State,
    pub publisher: Arc<pubsub::Publisher>,
    pub subscriptions: Arc<pubsub::Subscriptions>,
    pub secrets: secrets::Secrets,
    pub invoke: Arc<invoke::Invoke>,
    pub metadata: metadata::MetadataApi,
    pub health: health::Health,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
    pub activity: Arc<activity::Activity>,
    pub drains: drain::Drains,
    /// Or why none is kept.
    pub history: Result<Reader, String>,
}

impl Blocks {
    /// The policies in force, those of every component included, and the breakers that live.
    pub fn policies(&self) -> View {
        let resiliency = &self.invoke.resiliency;
        for handle in &self.registry.table().all {
            let info = handle.info();
            if let Some(kind) = ComponentKind::of_type(&info.type_name) {
                resiliency.component(info.name.as_str(), kind, Flow::Outbound);
                if kind.delivers() {
                    resiliency.component(info.name.as_str(), kind, Flow::Inbound);
                }
            }
        }
        resiliency.view()
    }
}

impl Blocks {
    /// Tries a component at once, if it is not ready; a changed definition that waits for its turn too.
    ///
    /// # Errors
    /// When there is no such component, or only a resource that cannot be tried as it is written.
    pub fn retry(&self, name: &str) -> Result<(), ApiError> {
        let table = self.registry.table();
        let mut own = table
            .all
            .iter()
            .filter(|handle| handle.name().as_str() == name)
            .peekable();
        if own.peek().is_none() {
            let rejected = self.registry.rejection(name, "");
            return Err(rejected.unwrap_or_else(|| errors::health::no_component(name)));
        }
        own.for_each(AnyHandle::retry);
        Ok(())
    }
}

/// What is asked of the sidecar's life, over the API where nothing else is said.
#[derive(Debug)]
pub enum StopRequest {
    Graceful,
    Forced,
    /// Drain, and stay.
    Drain(drain::Cause),
    /// Go on after a drain; told whether that was possible.
    Resume(oneshot::Sender<bool>),
    /// The app is gone for good.
    AppGone,
    /// So is the network.
    NetworkLost,
    /// This part of the sidecar failed by a fault of ours.
    Broken(&'static str),
}
