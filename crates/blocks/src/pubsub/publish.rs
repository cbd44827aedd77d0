//! Publishing: permission, envelope, broker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use outrigger_component_api::{self as api, ComponentError, PubSub};
use outrigger_core::cloud_event::{self, Publication, WrapError};
use outrigger_core::metadata::raw_payload;
use outrigger_core::{ApiError, AppId, Metadata};
use outrigger_policy::Code;

use crate::component::{Handle, Instance};
use crate::errors::{policy, pubsub as told};
use crate::guard::{Codes, Failed, Guard, whole_millis};
use crate::invoke::Surface;
use crate::registry::Registry;

/// At most this many entries of one bulk publish are on their way at a time.
const BULK_PARALLEL: usize = 100;

/// The publish API.
#[derive(Debug)]
pub struct Publisher {
    pub registry: Arc<Registry>,
    pub guard: Guard,
    pub app_id: AppId,
    /// In front of topics of components that mention `{namespace}`.
    pub namespace: String,
}

/// One message to be published.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    pub topic: String,
    pub data: Bytes,
    pub content_type: String,
    /// `None`: the caller gave none at all, which some brokers show.
    pub metadata: Option<Metadata>,
    pub trace_parent: String,
    pub trace_state: String,
    /// Put into the metadata of a raw message, where the API does that.
    pub raw_trace: bool,
    pub surface: Surface,
}

/// One entry of a bulk publish, its event already as bytes.
#[derive(Clone, Debug, Default)]
pub struct BulkEntryIn {
    pub entry_id: String,
    pub data: Bytes,
    pub content_type: String,
    /// The entry's own metadata with the request's beneath; `None` when the entry has none of its own.
    pub metadata: Option<Metadata>,
    pub trace_parent: String,
    pub trace_state: String,
}

#[derive(Debug)]
pub enum PublishError {
    Told(Box<ApiError>),
    /// The body is the JSON word `null` under an event's content type; Dapr ends the connection without an answer.
    Hangup,
}

/// Some or all entries of a bulk publish failed.
#[derive(Debug)]
pub struct BulkFailed {
    pub error: Box<ApiError>,
    /// Entry id and what the broker said.
    pub entries: Vec<(String, String)>,
}

impl From<ApiError> for PublishError {
    fn from(error: ApiError) -> Self {
        Self::Told(Box::new(error))
    }
}

type Broker = Instance<dyn PubSub>;

/// A pub/sub component that was found.
#[derive(Clone, Debug)]
pub struct Bus<'a> {
    publisher: &'a Publisher,
    handle: Arc<Handle<dyn PubSub>>,
}

impl Publisher {
    /// Finds a component by name. `metadata` is shown in the refusal.
    ///
    /// # Errors
    /// When there is none of that name, or only a rejected one.
    pub async fn find(
        &self,
        pubsub: &str,
        metadata: Option<&Metadata>,
    ) -> Result<Bus<'_>, ApiError> {
        if let Some(handle) = self.registry.pubsub(pubsub) {
            return Ok(Bus {
                publisher: self,
                handle,
            });
        }
        if pubsub.is_empty() {
            return Err(told::name_empty(metadata.cloned()));
        }
        self.registry.loaded(self.guard.patience).await?;
        if let Some(handle) = self.registry.pubsub(pubsub) {
            return Ok(Bus {
                publisher: self,
                handle,
            });
        }
        Err(self
            .registry
            .refusal(&self.guard.metrics, pubsub, "pubsub.")
            .unwrap_or_else(|| told::not_found(pubsub, metadata.cloned())))
    }
}

impl Bus<'_> {
    fn name(&self) -> &str {
        self.handle.name.as_str()
    }

    /// Publishes one message; returns when the broker has it.
    ///
    /// # Errors
    /// When it was refused, could not be wrapped, or the broker did not confirm it.
    pub async fn publish(&self, request: Publish) -> Result<(), PublishError> {
        let raw = self.is_raw(request.metadata.as_ref())?;
        let mut request = request;
        let topic = std::mem::take(&mut request.topic);
        let (topic, surface) = (topic.as_str(), request.surface);
        let repeats = self.publisher.guard.repeats(&self.handle);
        // The event is made once: whoever gets it twice can tell by its id.
        let stage = Mutex::new(Stage::Asked(request));
        let send = |instance: Arc<Broker>| {
            let stage = &stage;
            async move {
                let (data, metadata) = self.outgoing(&instance, stage, topic, raw, repeats)?;
                self.check_topic(&instance, topic)?;
                self.send(&instance, topic, data, metadata).await
            }
        };
        let started = Instant::now();
        let outcome = self
            .publisher
            .guard
            .run(&self.handle, codes(surface), send)
            .await;
        let stage = stage.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Stage::Refused(error) = stage {
            return Err(error);
        }
        self.record(topic, &outcome, started);
        outcome.map_err(|failed| {
            failed
                .told(|error| told::publish(self.name(), topic, &error.message))
                .into()
        })
    }

    /// What the next attempt sends; it is kept only if there may be another one.
    fn outgoing(
        &self,
        instance: &Broker,
        stage: &Mutex<Stage>,
        topic: &str,
        raw: bool,
        repeats: bool,
    ) -> Result<(Bytes, Option<Metadata>), Failed> {
        let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        // The words are not shown: what was refused says itself why.
        let refused = || Failed::Refused(Box::new(told::name_empty(None)));
        let made = match std::mem::replace(&mut *stage, Stage::Gone) {
            Stage::Asked(request) => self.event(instance, request, topic, raw),
            Stage::Made(data, metadata) => Ok((data, metadata)),
            Stage::Refused(error) => Err(error),
            Stage::Gone => return Err(refused()),
        };
        match made {
            Ok((data, metadata)) => {
                if repeats {
                    *stage = Stage::Made(data.clone(), metadata.clone());
                }
                Ok((data, metadata))
            }
            Err(error) => {
                *stage = Stage::Refused(error);
                Err(refused())
            }
        }
    }

    /// What goes out for a request: its event, or its bytes as they are.
    fn event(
        &self,
        instance: &Broker,
        request: Publish,
        topic: &str,
        raw: bool,
    ) -> Result<(Bytes, Option<Metadata>), PublishError> {
        let mut metadata = request.metadata;
        if raw {
            if request.raw_trace {
                let metadata = metadata.get_or_insert_default();
                metadata.insert("traceid".to_owned(), request.trace_parent);
                metadata.insert("tracestate".to_owned(), request.trace_state);
            }
            return Ok((request.data, metadata));
        }
        let empty = Metadata::new();
        let data = self.wrap(
            instance,
            topic,
            &request.data,
            &request.content_type,
            metadata.as_ref().unwrap_or(&empty),
            &request.trace_parent,
            &request.trace_state,
        )?;
        Ok((data, metadata))
    }

    /// Publishes the bytes of a message to a dead letter topic.
    ///
    /// # Errors
    /// In words, for the log.
    pub async fn forward(
        &self,
        topic: &str,
        data: Bytes,
        metadata: Option<Metadata>,
    ) -> Result<(), String> {
        let send = |instance: Arc<Broker>| {
            let (data, metadata) = (data.clone(), metadata.clone());
            async move {
                self.check_topic(&instance, topic)?;
                self.send(&instance, topic, data, metadata).await
            }
        };
        let started = Instant::now();
        let outcome = self
            .publisher
            .guard
            .run(&self.handle, codes(Surface::Grpc), send)
            .await;
        self.record(topic, &outcome, started);
        outcome.map_err(|failed| {
            failed
                .told(|error| told::publish(self.name(), topic, &error.message))
                .message
        })
    }

    /// Publishes several messages; each stands for itself.
    ///
    /// # Errors
    /// The first reason why nothing was published at all, or which entries failed.
    pub async fn bulk_publish(
        &self,
        topic: &str,
        entries: Vec<BulkEntryIn>,
        metadata: &Metadata,
        surface: Surface,
    ) -> Result<(), Result<BulkFailed, PublishError>> {
        let raw = self
            .is_raw(Some(metadata))
            .map_err(|error| Err(error.into()))?;
        let started = Instant::now();
        let batch = BulkBatch::default();
        let send = |instance: Arc<Broker>| {
            let (batch, entries) = (&batch, &entries);
            async move {
                let messages = batch.messages(|| self.events(&instance, topic, entries, raw))?;
                self.check_topic(&instance, topic)?;
                let sends = messages.into_iter().map(|message| {
                    let (data, metadata) = (message.data.clone(), message.metadata.clone());
                    let kind = Some(message.content_type.clone());
                    let request = self.request(&instance, topic, data, metadata, kind);
                    let instance = instance.clone();
                    async move { (message, instance.driver.publish(request).await) }
                });
                let outcomes: Vec<(Outgoing, Result<(), ComponentError>)> =
                    futures_util::stream::iter(sends)
                        .buffer_unordered(BULK_PARALLEL)
                        .collect()
                        .await;
                batch.settle(outcomes)
            }
        };
        let outcome = self
            .publisher
            .guard
            .run(&self.handle, codes(surface), send)
            .await;
        let progress = batch.into_progress();
        if let Some(error) = progress.refused {
            return Err(Err(error));
        }
        let total = entries.len();
        let Err(failed) = outcome else {
            if total > 0 {
                self.record_bulk(topic, true, total, started);
            }
            return Ok(());
        };
        // Where no attempt was let through, nothing has been made yet.
        let unsent = |entry: &BulkEntryIn| Outgoing {
            entry_id: entry.entry_id.clone(),
            data: Bytes::new(),
            metadata: None,
            content_type: String::new(),
            error: None,
        };
        let pending = progress
            .pending
            .unwrap_or_else(|| entries.iter().map(unsent).collect());
        let failed = match failed {
            Failed::Component(error) => error,
            // Nothing has gone out: there is nothing to be said of single entries.
            Failed::Unavailable(error) | Failed::Refused(error) if pending.len() == total => {
                return Err(Err(PublishError::Told(error)));
            }
            Failed::Unavailable(error) | Failed::Refused(error) => {
                ComponentError::failed(&error.message)
            }
        };
        self.record_bulk(topic, false, total - pending.len(), started);
        // An entry's own words where it has some, else what ended all of them.
        let entries: Vec<(String, String)> = pending
            .into_iter()
            .map(|message| {
                let said = message.error.filter(|_| !is_of_policy(&failed));
                let said = said.unwrap_or_else(|| failed.message.clone());
                (message.entry_id, said)
            })
            .collect();
        let first = entries
            .first()
            .map_or(failed.message.as_str(), |(_, said)| said);
        let error = Box::new(told::publish(self.name(), topic, first));
        Err(Ok(BulkFailed { error, entries }))
    }

    /// What goes out for the entries of a bulk publish.
    fn events(
        &self,
        instance: &Broker,
        topic: &str,
        entries: &[BulkEntryIn],
        raw: bool,
    ) -> Result<Vec<Outgoing>, PublishError> {
        let empty = Metadata::new();
        let outgoing = |entry: &BulkEntryIn| {
            let data = if raw {
                entry.data.clone()
            } else {
                self.wrap(
                    instance,
                    topic,
                    &entry.data,
                    &entry.content_type,
                    entry.metadata.as_ref().unwrap_or(&empty),
                    &entry.trace_parent,
                    &entry.trace_state,
                )?
            };
            Ok(Outgoing {
                entry_id: entry.entry_id.clone(),
                data,
                metadata: entry.metadata.clone(),
                content_type: entry.content_type.clone(),
                error: None,
            })
        };
        entries.iter().map(outgoing).collect()
    }

    fn is_raw(&self, metadata: Option<&Metadata>) -> Result<bool, ApiError> {
        let Some(metadata) = metadata else {
            return Ok(false);
        };
        raw_payload(metadata)
            .map_err(|value| told::bad_metadata(self.name(), value, metadata.clone()))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of an envelope")]
    fn wrap(
        &self,
        instance: &Instance<dyn PubSub>,
        topic: &str,
        data: &Bytes,
        content_type: &str,
        metadata: &Metadata,
        trace_parent: &str,
        trace_state: &str,
    ) -> Result<Bytes, PublishError> {
        let publication = Publication {
            source: self.publisher.app_id.as_str(),
            topic,
            pubsub: self.name(),
            content_type,
            data,
            metadata,
            trace_parent,
            trace_state,
            sets_expiration: !instance.driver.features().message_ttl,
        };
        cloud_event::wrap(&publication).map_err(|error| match error {
            WrapError::Null => PublishError::Hangup,
            WrapError::NotAnEvent(cause) => told::not_an_event(
                self.name(),
                self.publisher.app_id.as_str(),
                &cause.to_string(),
            )
            .into(),
        })
    }

    fn check_topic(&self, instance: &Instance<dyn PubSub>, topic: &str) -> Result<(), ApiError> {
        if instance.about.access.may_publish(topic) {
            Ok(())
        } else {
            Err(told::forbidden(
                self.name(),
                topic,
                self.publisher.app_id.as_str(),
            ))
        }
    }

    fn request(
        &self,
        instance: &Instance<dyn PubSub>,
        topic: &str,
        data: Bytes,
        metadata: Option<Metadata>,
        content_type: Option<String>,
    ) -> api::Publish {
        let topic = if instance.about.namespaced {
            format!("{}{topic}", self.publisher.namespace)
        } else {
            topic.to_owned()
        };
        api::Publish {
            topic,
            data,
            metadata,
            content_type,
        }
    }

    async fn send(
        &self,
        instance: &Broker,
        topic: &str,
        data: Bytes,
        metadata: Option<Metadata>,
    ) -> Result<(), Failed> {
        let request = self.request(instance, topic, data, metadata, None);
        Ok(instance.driver.publish(request).await?)
    }

    fn record(&self, topic: &str, outcome: &Result<(), Failed>, started: Instant) {
        let metrics = &self.publisher.guard.metrics;
        // Who was not asked is not measured.
        let asked = !matches!(outcome, Err(Failed::Refused(_)));
        if metrics.settings.enabled && asked {
            let labels = [
                self.name(),
                &metrics.settings.namespace,
                if outcome.is_ok() { "true" } else { "false" },
                topic,
            ];
            metrics.pubsub_egress_count.add(labels, 1);
            metrics
                .pubsub_egress_latencies
                .observe(labels, whole_millis(started.elapsed()));
        }
    }

    fn record_bulk(&self, topic: &str, success: bool, published: usize, started: Instant) {
        let metrics = &self.publisher.guard.metrics;
        if metrics.settings.enabled {
            let labels = [
                self.name(),
                &metrics.settings.namespace,
                if success { "true" } else { "false" },
                topic,
            ];
            metrics.pubsub_bulk_egress_count.add(labels, 1);
            metrics
                .pubsub_bulk_egress_events
                .add(labels, published as u64);
            metrics
                .pubsub_bulk_egress_latencies
                .observe(labels, whole_millis(started.elapsed()));
        }
    }
}

/// A message between being asked for and being sent.
enum Stage {
    Asked(Publish),
    Made(Bytes, Option<Metadata>),
    Refused(PublishError),
    /// It was sent, and no attempt is to follow.
    Gone,
}

/// One entry of a bulk publish on its way.
#[derive(Clone)]
struct Outgoing {
    entry_id: String,
    data: Bytes,
    metadata: Option<Metadata>,
    content_type: String,
    /// What the broker said last.
    error: Option<String>,
}

/// A bulk publish: each attempt carries what has not gone out yet.
#[derive(Default)]
struct BulkBatch(Mutex<BulkProgress>);

#[derive(Default)]
struct BulkProgress {
    pending: Option<Vec<Outgoing>>,
    refused: Option<PublishError>,
}

impl BulkBatch {
    fn lock(&self) -> MutexGuard<'_, BulkProgress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn into_progress(self) -> BulkProgress {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next attempt carries; `make` is asked once. A copy stays, for attempts that do not come back.
    fn messages(
        &self,
        make: impl FnOnce() -> Result<Vec<Outgoing>, PublishError>,
    ) -> Result<Vec<Outgoing>, Failed> {
        let mut progress = self.lock();
        if progress.pending.is_none() {
            match make() {
                Ok(made) => progress.pending = Some(made),
                Err(error) => {
                    progress.refused = Some(error);
                    return Err(Failed::Refused(Box::new(told::name_empty(None))));
                }
            }
        }
        Ok(progress.pending.clone().unwrap_or_default())
    }

    /// Takes the outcomes of one attempt.
    fn settle(&self, outcomes: Vec<(Outgoing, Result<(), ComponentError>)>) -> Result<(), Failed> {
        let mut worst: Option<ComponentError> = None;
        let mut pending = Vec::new();
        for (mut message, outcome) in outcomes {
            if let Err(error) = outcome {
                message.error = Some(error.message.clone());
                pending.push(message);
                if worst.is_none() || error.doubts_connection() {
                    worst = Some(error);
                }
            }
        }
        self.lock().pending = Some(pending);
        worst.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Whether the last word was a policy's, and not the broker's.
fn is_of_policy(error: &ComponentError) -> bool {
    policy::is_rejection(&error.message) || error.message == policy::TIMED_OUT
}

/// Retries of publishing are matched on the broker's status, in the API's own protocol.
fn codes(surface: Surface) -> Codes {
    match surface {
        Surface::Http => |error| error.status.map(|code| Code::Http(code.to_http())),
        Surface::Grpc => |error| {
            error
                .status
                .map(|code| Code::Grpc(u16::from(code.number())))
        },
    }
}
