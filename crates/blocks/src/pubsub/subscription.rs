//! Subscriptions as supervised children: each runs, fails and comes back on its own.
//!
//! [`Subscriptions`] holds what is wanted (resources, the app's own list, streams) and starts one runner for each. A runner
//! drives the machine of [`outrigger_lifecycle::subscription`]: it subscribes while the component is ready and messages may
//! flow, pauses while they may not, and subscribes anew after an outage.
//!
//! A subscription that changes gets a new runner beside the old one, which delivers until the new one stands at the broker;
//! where a broker would give both every message, the old one ends first. A runner whose component makes way for a changed
//! one does the same with its source. Whoever makes way stops fetching, gives back, finishes what the app has, and closes;
//! only then is anything handed out that came the new way.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_component_api::{
    ComponentError, Handler, Message, Outcome, PubSub, Source, Subscribe,
};
use outrigger_core::Metadata;
use outrigger_lifecycle::subscription::{Action, Event, Machine, State, Status};
use outrigger_lifecycle::{Clock, Moment, Scope, Stop};
use outrigger_telemetry::journal::{self, Told};
use tokio::sync::watch;
use tracing::{info, warn};

use super::bulk::{BulkDesk, BulkHandler};
use super::deliver::{AppSink, Deliverer, Desk, SCOPE, Sink};
use super::policy::{Halt, Hold};
use super::route::Rules;
use crate::activity::Kind;
use crate::app::{AppChannel, BulkOptions};
use crate::component::{Handle, Instance};
use crate::errors;
use crate::registry::Registry;

mod runner;
mod streams;

use runner::Runner;
pub use streams::Stream;
use streams::Streaming;

/// A broker has this long to register a subscription.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Each step of letting go has this long.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// For the app to finish what a source that makes way has handed out. Its connection is cut a moment later.
const DRAIN_LIMIT: Duration = Duration::from_secs(9);
/// How often what the app has is counted meanwhile.
const COUNT_EVERY: Duration = Duration::from_millis(10);

/// A message that was released while the gate stayed open goes back after this.
const STRAY_LIMIT: Duration = Duration::from_millis(500);

/// Where a subscription was asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    Declarative,
    Programmatic,
    Streaming,
}

impl Origin {
    /// The word of the metadata API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Declarative => "DECLARATIVE",
            Self::Programmatic => "PROGRAMMATIC",
            Self::Streaming => "STREAMING",
        }
    }
}

/// What is subscribed to, and what is to become of its messages.
#[derive(Debug)]
pub struct Plan {
    pub origin: Origin,
    pub pubsub: String,
    pub topic: String,
    pub rules: Rules,
    pub dead_letter_topic: String,
    pub metadata: Metadata,
    pub bulk: Option<BulkOptions>,
    /// Equal texts are equal subscriptions.
    pub fingerprint: String,
}

/// A subscription as the metadata API shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub plan: Arc<Plan>,
    pub status: Status,
}

/// All subscriptions of the sidecar.
pub struct Subscriptions {
    shared: Arc<Shared>,
    scope: Scope,
    running: Mutex<Running>,
}

struct Shared {
    registry: Arc<Registry>,
    desk: Arc<Desk>,
    app: Option<Arc<dyn AppChannel>>,
    clock: Clock,
    /// Messages may flow to the app.
    pulls: watch::Receiver<bool>,
    /// Events may flow over streams.
    streams: watch::Receiver<bool>,
    /// Everything ends.
    stop: Stop,
}

#[derive(Default)]
struct Running {
    /// Subscriptions of the app, in their order; at most one per component and topic.
    app: Vec<Entry>,
    streams: HashMap<u64, Streaming>,
    next_stream: u64,
}

struct Entry {
    plan: Arc<Plan>,
    /// The component that the runner uses; none while there is no such component.
    handle: Option<Arc<Handle<dyn PubSub>>>,
    status: watch::Receiver<Status>,
    place: Place,
    /// Earlier definitions of the same topic. They deliver until this one does.
    before: Vec<Entry>,
}

/// How a runner is told to make way, and tells that it has.
#[derive(Clone)]
struct Place {
    scope: Scope,
    /// Fires when everything has been let go of.
    over: Stop,
    /// Another definition has taken its place, and speaks for the topic.
    has_successor: Arc<AtomicBool>,
}

impl Entry {
    fn is(&self, plan: &Plan, handle: Option<&Arc<Handle<dyn PubSub>>>) -> bool {
        self.plan.fingerprint == plan.fingerprint && same_handle(self.handle.as_ref(), handle)
    }

    fn is_active(&self) -> bool {
        self.status.borrow().state == State::Active && !self.place.scope.is_stopped()
    }

    /// Ends it, and whatever it was to take the place of.
    fn end(&self) {
        self.place.scope.cancel();
        self.before.iter().for_each(Self::end);
    }

    /// What is true of the topic: as long as an earlier definition delivers, that is what there is.
    fn listed(&self) -> Listed {
        let status = self.status.borrow().clone();
        let earlier = self.before.iter().find(|earlier| earlier.is_active());
        match earlier {
            Some(earlier) if status.state != State::Active => Listed {
                plan: earlier.plan.clone(),
                status: Status {
                    error: status.error,
                    ..earlier.status.borrow().clone()
                },
            },
            _ => Listed {
                plan: self.plan.clone(),
                status,
            },
        }
    }
}

impl Subscriptions {
    pub fn new(
        registry: Arc<Registry>,
        desk: Arc<Desk>,
        app: Option<Arc<dyn AppChannel>>,
        clock: Clock,
        pulls: watch::Receiver<bool>,
        streams: watch::Receiver<bool>,
        scope: Scope,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                registry,
                desk,
                app,
                clock,
                pulls,
                streams,
                stop: scope.stop().clone(),
            }),
            scope,
            running: Mutex::default(),
        }
    }

    /// Makes the app's subscriptions be exactly these. What has not changed runs on undisturbed and keeps its place in the
    /// list, ahead of what has; otherwise the order is the given one. Without an app they are only listed. Streams go over to
    /// whatever component has their name now.
    pub fn apply(&self, plans: Vec<Arc<Plan>>) {
        let sink = self
            .shared
            .app
            .clone()
            .map(|app| -> Arc<dyn Sink> { Arc::new(AppSink(app)) });
        let mut running = self.lock();
        let mut known: Vec<(usize, Entry)> = running.app.drain(..).enumerate().collect();
        let mut next = Vec::new();
        for (at, plan) in plans.into_iter().enumerate() {
            let handle = self.shared.registry.pubsub(&plan.pubsub);
            let start = |before| {
                let pulls = self.shared.pulls.clone();
                self.start(plan.clone(), handle.clone(), sink.clone(), pulls, before)
            };
            let is_meant = |(_, entry): &(usize, Entry)| {
                entry.plan.pubsub == plan.pubsub && entry.plan.topic == plan.topic
            };
            let found = known.iter().position(is_meant);
            next.push(match found.map(|found| known.swap_remove(found)) {
                Some((place, entry)) if entry.is(&plan, handle.as_ref()) => ((false, place), entry),
                Some((_, entry)) => match back(entry, &plan, handle.as_ref()) {
                    Ok(entry) => ((true, at), entry),
                    Err(before) => ((true, at), start(before)),
                },
                None => ((true, at), start(Vec::new())),
            });
        }
        next.sort_by_key(|(order, _)| *order);
        running.app = next.into_iter().map(|(_, entry)| entry).collect();
        self.rebind(&mut running.streams);
        drop(running);
        for (_, gone) in known {
            gone.end();
        }
    }

    /// Every subscription, those of the app first.
    pub fn list(&self) -> Vec<Listed> {
        let running = self.lock();
        let mut streams: Vec<_> = running.streams.iter().collect();
        streams.sort_by_key(|(id, _)| **id);
        running
            .app
            .iter()
            .chain(streams.into_iter().map(|(_, stream)| &stream.entry))
            .map(Entry::listed)
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(
        &self,
        plan: Arc<Plan>,
        handle: Option<Arc<Handle<dyn PubSub>>>,
        sink: Option<Arc<dyn Sink>>,
        gate: watch::Receiver<bool>,
        before: Vec<Entry>,
    ) -> Entry {
        let place = Place {
            scope: self.scope.child(),
            over: Stop::new(),
            has_successor: Arc::default(),
        };
        let machine = Machine::new(self.shared.clock.now());
        let (status, seen) = watch::channel(machine.status().clone());
        match (&handle, sink) {
            (Some(handle), Some(sink)) => {
                let runner = Runner {
                    shared: self.shared.clone(),
                    plan: plan.clone(),
                    handle: handle.clone(),
                    sink,
                    gate,
                    home: self.scope.clone(),
                    place: place.clone(),
                    before: before.iter().map(|entry| entry.place.clone()).collect(),
                    machine,
                    status,
                    subscribed: None,
                    retired: Vec::new(),
                    hold: Arc::new(watch::channel(None).0),
                    released: watch::Sender::new(0),
                    stray_since: None,
                };
                // The runner outlives its own scope's cancellation by the time that letting go takes.
                let stop = place.scope.stop().clone();
                self.scope
                    .spawn_future("pubsub.subscription", runner.run(stop));
            }
            (handle, _) => {
                if handle.is_none() {
                    warn!(target: SCOPE, pubsub = plan.pubsub, topic = plan.topic, "no pub/sub component of this name: the subscription waits for one");
                }
                before.iter().for_each(Entry::end);
                place.over.cancel();
            }
        }
        Entry {
            plan,
            handle,
            status: seen,
            place,
            before,
        }
    }
}

/// The definition that is wanted, if it is one that has not made way yet; else those that a new one follows.
fn back(
    mut entry: Entry,
    plan: &Plan,
    handle: Option<&Arc<Handle<dyn PubSub>>>,
) -> Result<Entry, Vec<Entry>> {
    let mut before = std::mem::take(&mut entry.before);
    let wanted = before
        .iter()
        .position(|earlier| earlier.is(plan, handle) && !earlier.place.scope.is_stopped());
    if let Some(wanted) = wanted {
        let wanted = before.swap_remove(wanted);
        entry.end();
        before.iter().for_each(Entry::end);
        wanted.place.has_successor.store(false, Ordering::Relaxed);
        return Ok(wanted);
    }
    before.retain(|earlier| !earlier.place.over.is_cancelled());
    // What does not deliver, or belongs to another component, has nothing to wait for.
    if !entry.is_active() || !same_handle(entry.handle.as_ref(), handle) {
        entry.place.scope.cancel();
    }
    before.push(entry);
    for earlier in &before {
        // One that only waits for a component shows nothing in its place.
        let has_successor = handle.is_some();
        earlier
            .place
            .has_successor
            .store(has_successor, Ordering::Relaxed);
    }
    Err(before)
}

impl std::fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscriptions({})", self.lock().app.len())
    }
}

fn same_handle(a: Option<&Arc<Handle<dyn PubSub>>>, b: Option<&Arc<Handle<dyn PubSub>>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn not_allowed(pubsub: &str, topic: &str) -> String {
    format!("subscription to topic '{topic}' on pubsub '{pubsub}' is not allowed")
}

#[cfg(test)]
mod tests;
