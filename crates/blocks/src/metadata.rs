//! The metadata document: what this sidecar is, has and can do.
//!
//! Lists every accepted component, connected or not; the states behind it stand in `extended`, under keys of our own, so
//! that the document keeps Dapr's schema.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use outrigger_core::Metadata;
use outrigger_core::json::{Numbers, Style, Value, encode};
use outrigger_core::shown::shown;
use outrigger_lifecycle::connection::Status;
use outrigger_lifecycle::phase::Phase;
use outrigger_lifecycle::{Clock, Moment, gate};
use outrigger_resiliency::Resiliency;
use tokio::sync::watch;

use crate::component::AnyHandle;
use crate::pubsub::subscription::{Listed, Subscriptions};
use crate::registry::Registry;

const VERSION_KEY: &str = "daprRuntimeVersion";

/// Fixed facts about the app and how it is watched.
#[derive(Clone, Debug, Default)]
pub struct AppFacts {
    pub port: Option<u16>,
    pub protocol: String,
    pub channel_address: String,
    /// Zero: no limit.
    pub max_concurrency: i32,
    pub health: Option<HealthFacts>,
}

#[derive(Clone, Debug)]
pub struct HealthFacts {
    /// Empty for an app that speaks gRPC.
    pub path: String,
    pub interval: Duration,
    pub timeout: Duration,
    pub threshold: u32,
}

/// What of the document comes from resources that are no components.
pub trait Resources: std::fmt::Debug + Send + Sync {
    fn http_endpoints(&self) -> Vec<String>;

    fn resiliencies(&self) -> Vec<String>;
}

/// The metadata API.
#[derive(Debug)]
pub struct MetadataApi {
    pub app_id: String,
    /// The version of Dapr whose API this is.
    pub runtime_version: String,
    /// Our own.
    pub version: String,
    pub features: Vec<String>,
    pub app: AppFacts,
    pub registry: Arc<Registry>,
    pub subscriptions: Arc<Subscriptions>,
    pub resources: Arc<dyn Resources>,
    pub phase: watch::Receiver<Phase>,
    pub gate: watch::Receiver<gate::State>,
    pub clock: Clock,
    pub resiliency: Arc<Resiliency>,
    /// What users have put there.
    pub extended: Mutex<Metadata>,
}

/// The document, without a form.
#[derive(Clone, Debug)]
pub struct Document {
    pub id: String,
    pub runtime_version: String,
    pub features: Vec<String>,
    pub components: Vec<Component>,
    pub extended: Metadata,
    pub subscriptions: Vec<Listed>,
    pub http_endpoints: Vec<String>,
    pub resiliencies: Vec<String>,
    pub app: AppFacts,
    /// The app has not been ready yet, so it is not known what it hosts.
    pub initializing: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Component {
    pub name: String,
    pub type_name: String,
    pub version: String,
    pub capabilities: Vec<&'static str>,
}

/// Who reads the document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    Trusted,
    /// Whoever reaches the public port: states and classes, no texts of a broker or a database.
    Stranger,
}

impl MetadataApi {
    pub fn document(&self, reader: Reader) -> Document {
        let table = self.registry.table();
        let components = table
            .all
            .iter()
            .filter(|handle| !matches!(handle, AnyHandle::Names(_)));
        let component = |handle: &AnyHandle| Component {
            name: handle.info().name.to_string(),
            type_name: handle.info().type_name.clone(),
            version: handle.info().version.clone(),
            capabilities: handle.capabilities(),
        };
        let phase = *self.phase.borrow();
        Document {
            id: self.app_id.clone(),
            runtime_version: self.runtime_version.clone(),
            features: self.features.clone(),
            components: components.map(component).collect(),
            extended: self.extended(phase, reader),
            subscriptions: self.subscriptions.list(),
            http_endpoints: self.resources.http_endpoints(),
            resiliencies: self.resources.resiliencies(),
            app: self.app.clone(),
            initializing: matches!(phase, Phase::Starting | Phase::WaitingApp),
        }
    }

    /// Adds to the extended part. The version in it cannot be changed.
    pub fn set(&self, key: &str, value: &str) {
        if !key.is_empty() && key != VERSION_KEY && !key.starts_with("outrigger.dev/") {
            self.extended
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(key.to_owned(), value.to_owned());
        }
    }

    fn extended(&self, phase: Phase, reader: Reader) -> Metadata {
        let mut extended = self
            .extended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if !self.resiliency.is_empty() {
            let [closed, half_open, open] = self.resiliency.census();
            let counts = format!(r#"{{"closed":{closed},"half-open":{half_open},"open":{open}}}"#);
            extended.insert("outrigger.dev/breakers".to_owned(), counts);
        }
        extended.insert(VERSION_KEY.to_owned(), self.runtime_version.clone());
        extended.insert("outrigger.dev/version".to_owned(), self.version.clone());
        extended.insert("outrigger.dev/phase".to_owned(), phase.name().to_owned());
        extended.insert(
            "outrigger.dev/gate".to_owned(),
            self.gate.borrow().name().to_owned(),
        );
        extended.insert("outrigger.dev/components".to_owned(), self.states(reader));
        extended
    }

    /// The state of every component, compactly.
    fn states(&self, reader: Reader) -> String {
        let table = self.registry.table();
        let now = self.clock.now();
        let subscriptions = self.subscriptions.list();
        let known = table.all.iter().map(|handle| {
            let (info, status) = (handle.info(), handle.told());
            let mut members = vec![
                ("name", Value::string(info.name.as_str())),
                ("type", Value::String(info.full_type())),
                ("state", Value::string(status.state.name())),
                ("sinceMs", millis(now.since(status.since))),
                ("attempt", Value::integer(status.attempt)),
            ];
            if let Some(reason) = handle.reason() {
                members.push(("reason", Value::String(reason)));
            }
            members.extend(trouble(&status, now, reader));
            if let Some(at) = status
                .last_ok
                .max((handle.last_used() > Moment::START).then(|| handle.last_used()))
            {
                members.push(("lastOkMs", millis(now.since(at))));
            }
            if info.optional {
                members.push(("optional", Value::Bool(true)));
            }
            let own = subscriptions
                .iter()
                .filter(|listed| listed.plan.pubsub == info.name.as_str());
            let own: Vec<Value> = own
                .map(|listed| subscription_state(listed, reader))
                .collect();
            if !own.is_empty() {
                members.push(("subscriptions", Value::Array(own)));
            }
            if let Some(pending) = handle.pending() {
                let mut changed = vec![("state", Value::string(pending.status.state.name()))];
                changed.extend(trouble(&pending.status, now, reader));
                changed.push(("attempt", Value::integer(pending.status.attempt)));
                members.push(("pendingRevision", object(changed)));
            }
            object(members)
        });
        let rejected = table.rejected.iter().map(|rejected| {
            let mut members = vec![
                ("name", Value::string(rejected.name.as_str())),
                ("type", Value::String(rejected.full_type())),
                ("state", Value::string("rejected")),
                ("class", Value::string("CONFIG")),
            ];
            members.extend(text("message", &rejected.reason, reader));
            if rejected.optional {
                members.push(("optional", Value::Bool(true)));
            }
            object(members)
        });
        let all = Value::Array(known.chain(rejected).collect());
        String::from_utf8(encode(&all, Style::Ours, Numbers::Exact)).unwrap_or_default()
    }
}

fn millis(duration: Duration) -> Value {
    Value::integer(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

/// What stands in the way of a connection.
fn trouble(status: &Status, now: Moment, reader: Reader) -> Vec<(&'static str, Value)> {
    let mut members = Vec::new();
    if let Some(failure) = &status.failure {
        members.push(("class", Value::string(failure.class.name())));
        members.extend(text("message", &failure.message, reader));
    }
    if let Some(at) = status.next_attempt {
        members.push(("nextRetryMs", millis(at.since(now))));
    }
    members
}

/// Somebody else's words.
fn text(name: &'static str, words: &str, reader: Reader) -> Option<(&'static str, Value)> {
    (reader == Reader::Trusted).then(|| (name, Value::String(shown(words))))
}

fn subscription_state(listed: &Listed, reader: Reader) -> Value {
    let mut members = vec![
        ("topic", Value::string(listed.plan.topic.as_str())),
        ("state", Value::string(listed.status.state.name())),
        ("attempt", Value::integer(listed.status.attempt)),
    ];
    if let Some(error) = &listed.status.error {
        members.extend(text("error", error, reader));
    }
    object(members)
}

fn object(members: Vec<(&str, Value)>) -> Value {
    Value::Object(
        members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}
