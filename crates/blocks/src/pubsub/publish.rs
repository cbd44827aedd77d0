//! Publishing: permission, envelope, broker.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use outrigger_component_api::{self as api, ComponentError, PubSub};
use outrigger_core::cloud_event::{self, Publication, WrapError};
use outrigger_core::metadata::raw_payload;
use outrigger_core::{ApiError, AppId, Metadata};

use crate::component::{Handle, Instance};
use crate::errors::pubsub as told;
use crate::guard::{Guard, whole_millis};
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
        self.registry.loaded(self.guard.patience.wait).await?;
        if let Some(handle) = self.registry.pubsub(pubsub) {
            return Ok(Bus {
                publisher: self,
                handle,
            });
        }
        Err(self
            .registry
            .rejection(pubsub, "pubsub.")
            .unwrap_or_else(|| told::not_found(pubsub, metadata.cloned())))
    }
}

impl Bus<'_> {
    fn name(&self) -> &str {
        self.handle.info.name.as_str()
    }

    /// Publishes one message; returns when the broker has it.
    ///
    /// # Errors
    /// When it was refused, could not be wrapped, or the broker did not confirm it.
    pub async fn publish(&self, request: Publish) -> Result<(), PublishError> {
        let raw = self.is_raw(request.metadata.as_ref())?;
        let instance = self.publisher.guard.ready(&self.handle).await?;
        let mut metadata = request.metadata;
        let data = if raw {
            if request.raw_trace {
                let metadata = metadata.get_or_insert_default();
                metadata.insert("traceid".to_owned(), request.trace_parent);
                metadata.insert("tracestate".to_owned(), request.trace_state);
            }
            request.data
        } else {
            let empty = Metadata::new();
            self.wrap(
                &instance,
                &request.topic,
                &request.data,
                &request.content_type,
                metadata.as_ref().unwrap_or(&empty),
                &request.trace_parent,
                &request.trace_state,
            )?
        };
        self.check_topic(&instance, &request.topic)?;
        self.send(&instance, &request.topic, data, metadata, None)
            .await
            .map_err(
                |error| match self.publisher.guard.judge(&self.handle, error) {
                    crate::guard::Failed::Unavailable(error) => PublishError::Told(error),
                    crate::guard::Failed::Component(error) => {
                        told::publish(self.name(), &request.topic, &error.message).into()
                    }
                },
            )
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
        let instance = self
            .publisher
            .guard
            .ready(&self.handle)
            .await
            .map_err(|error| error.message)?;
        self.check_topic(&instance, topic)
            .map_err(|error| error.message)?;
        self.send(&instance, topic, data, metadata, None)
            .await
            .map_err(|error| {
                if error.doubts_connection() {
                    self.handle.suspect();
                }
                error.message
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
    ) -> Result<(), Result<BulkFailed, PublishError>> {
        let raw = self
            .is_raw(Some(metadata))
            .map_err(|error| Err(error.into()))?;
        let instance = self
            .publisher
            .guard
            .ready(&self.handle)
            .await
            .map_err(|error| Err(error.into()))?;
        if entries.is_empty() {
            return self
                .check_topic(&instance, topic)
                .map_err(|error| Err(error.into()));
        }
        let mut messages = Vec::with_capacity(entries.len());
        let empty = Metadata::new();
        for entry in entries {
            let data = if raw {
                entry.data
            } else {
                let metadata = entry.metadata.as_ref().unwrap_or(&empty);
                self.wrap(
                    &instance,
                    topic,
                    &entry.data,
                    &entry.content_type,
                    metadata,
                    &entry.trace_parent,
                    &entry.trace_state,
                )
                .map_err(Err)?
            };
            messages.push((entry.entry_id, data, entry.metadata, entry.content_type));
        }
        self.check_topic(&instance, topic)
            .map_err(|error| Err(error.into()))?;

        let started = Instant::now();
        let total = messages.len();
        let sends = messages
            .into_iter()
            .map(|(id, data, metadata, content_type)| {
                let request = self.request(&instance, topic, data, metadata, Some(content_type));
                let instance = instance.clone();
                async move { (id, instance.driver.publish(request).await) }
            });
        let outcomes: Vec<(String, Result<(), ComponentError>)> = futures_util::stream::iter(sends)
            .buffer_unordered(BULK_PARALLEL)
            .collect()
            .await;
        let failed: Vec<(String, ComponentError)> = outcomes
            .into_iter()
            .filter_map(|(id, outcome)| Some((id, outcome.err()?)))
            .collect();
        self.record_bulk(topic, failed.is_empty(), total - failed.len(), started);
        let Some((_, first)) = failed.first() else {
            self.handle.used();
            return Ok(());
        };
        if let Some((_, broken)) = failed.iter().find(|(_, error)| error.doubts_connection()) {
            self.handle.suspect();
            if failed.len() == total {
                return Err(Err(self.handle.lost(broken).into()));
            }
        }
        let error = Box::new(told::publish(self.name(), topic, &first.message));
        Err(Ok(BulkFailed {
            error,
            entries: failed
                .into_iter()
                .map(|(id, error)| (id, error.message))
                .collect(),
        }))
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
        instance: &Instance<dyn PubSub>,
        topic: &str,
        data: Bytes,
        metadata: Option<Metadata>,
        content_type: Option<String>,
    ) -> Result<(), ComponentError> {
        let started = Instant::now();
        let outcome = instance
            .driver
            .publish(self.request(instance, topic, data, metadata, content_type))
            .await;
        let metrics = &self.publisher.guard.metrics;
        if metrics.settings.enabled {
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
        if outcome.is_ok() {
            self.handle.used();
        }
        outcome
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
