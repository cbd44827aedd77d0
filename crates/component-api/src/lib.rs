//! All that the author of a component sees.
//!
//! A component is one folder under `components/`. Its `register` function adds each type it offers to the [`Catalog`];
//! an entry has two steps. *Check* turns the resource's properties into settings, or names every fault; it does no I/O,
//! so that `outrigger check` can run it anywhere. *Open* connects once. Everything that makes a connection last
//! (retries, time-outs, pings, waiting callers, subscriptions that come back) is the supervisor's work, not the driver's:
//! a driver connects, pings, reports a loss, closes.
//!
//! The duties: `ping` makes an authenticated round trip on the path that real calls use; errors carry the class that
//! decides about retries ([`ComponentError`]); tasks are started in the scope of [`Open`] and end with it; a source of
//! messages can pause, and gives back what it has not delivered. The conformance suites of `outrigger-testkit` check
//! them for every implementation.

mod catalog;
mod component;
mod error;
mod names;
mod pubsub;
mod secrets;
mod settings;
mod state;

pub use async_trait::async_trait;
pub use bytes::Bytes;
pub use catalog::{Catalog, Check, Entry, Findings, Kind, Lookup, Opener};
pub use component::{Component, Identity, Loss, Open, Spec};
pub use error::{ComponentError, ErrorKind};
pub use names::{Instance, NameResolver, Resolved};
pub use outrigger_core::{
    AppId, ComponentName, Metadata, Namespace, Secret, TopicName, cloud_event, duration, json,
    metadata, secret,
};
pub use outrigger_lifecycle::connection::Class;
pub use outrigger_lifecycle::{Backoff, Scope, Stop};
pub use pubsub::{Handler, Message, Outcome, PubSub, PubSubFeatures, Publish, Source, Subscribe};
pub use secrets::{SecretStore, SecretValue};
pub use settings::{Fault, Key, Properties, Property, PropertyValue, Reader, Timespan};
pub use state::{
    Concurrency, Consistency, Delete, Get, JsonForm, KeysPage, Operation, Set, StateFeatures,
    StateItem, StateStore, Value, ttl_in_seconds,
};
