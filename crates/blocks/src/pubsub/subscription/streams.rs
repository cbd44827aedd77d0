//! Subscriptions over streams: they outlive their component, and go over to the next one of its name.
//!
//! The app opened the stream and has no way to open it once more while it stands. So a component that is deleted leaves the
//! stream waiting, and one that comes back is subscribed to with the same sink. Only what no waiting can mend ends a stream:
//! a component that is rejected.

use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_lifecycle::connection;

use super::super::stream::{self, Connection};
use super::*;

/// A stream as it is kept: what runs for it now, and what a later runner needs.
pub(super) struct Streaming {
    pub(super) entry: Entry,
    sink: Arc<dyn Sink>,
    /// What the stream's owner looks at; told anew with every rebinding.
    current: watch::Sender<Current>,
}

/// What a stream hangs on.
#[derive(Clone)]
struct Current {
    handle: Option<Arc<Handle<dyn PubSub>>>,
    status: watch::Receiver<Status>,
}

impl Current {
    fn of(entry: &Entry) -> Self {
        Self {
            handle: entry.handle.clone(),
            status: entry.status.clone(),
        }
    }
}

/// An open stream; dropping it ends its subscription.
pub struct Stream {
    pub connection: Connection,
    watch: Watch,
    id: u64,
    owner: Arc<Subscriptions>,
}

/// Tells how the subscription of a stream does, whichever component it hangs on.
#[derive(Clone)]
pub struct Watch {
    pubsub: String,
    registry: Arc<Registry>,
    current: watch::Receiver<Current>,
}

impl Subscriptions {
    /// Opens a subscription over a stream. Its events wait until it stands.
    ///
    /// # Errors
    /// When resources have not been read in time, the component is unknown or rejected, or the topic is not allowed.
    pub async fn open_stream(
        self: &Arc<Self>,
        pubsub: &str,
        topic: &str,
        metadata: Metadata,
        dead_letter_topic: &str,
    ) -> Result<Stream, ApiError> {
        let registry = &self.shared.registry;
        let patience = self.shared.desk.publisher.guard.patience;
        registry.loaded(patience).await?;
        let Some(handle) = registry.pubsub(pubsub) else {
            return Err(registry
                .refusal(&self.shared.desk.metrics, pubsub, "pubsub.")
                .unwrap_or_else(|| errors::pubsub::not_found(pubsub, None)));
        };
        if handle.status().state == connection::State::Rejected {
            return Err(handle.not_ready());
        }
        if let Some(instance) = handle.instance()
            && !instance.about.access.may_subscribe(topic)
        {
            let message = format!(
                "failed to create subscription for {pubsub}: {}",
                not_allowed(pubsub, topic)
            );
            return Err(ApiError::legacy(
                403,
                GrpcCode::Unknown,
                "ERR_PUBSUB_FORBIDDEN",
                "pubsub",
                message,
            ));
        }
        let plan = Arc::new(Plan {
            origin: Origin::Streaming,
            pubsub: pubsub.to_owned(),
            topic: topic.to_owned(),
            rules: Rules::single("/"),
            dead_letter_topic: dead_letter_topic.to_owned(),
            metadata,
            bulk: None,
            fingerprint: String::new(),
        });
        let (sink, connection) = stream::pair();
        let sink: Arc<dyn Sink> = Arc::new(sink);
        let mut running = self.lock();
        let entry = self.stream_on(plan, Some(handle), sink.clone(), Vec::new());
        let (told, current) = watch::channel(Current::of(&entry));
        running.next_stream += 1;
        let id = running.next_stream;
        let streaming = Streaming {
            entry,
            sink,
            current: told,
        };
        running.streams.insert(id, streaming);
        // Resources may have changed since the component was looked up.
        self.rebind(&mut running.streams);
        drop(running);
        Ok(Stream {
            connection,
            watch: Watch {
                pubsub: pubsub.to_owned(),
                registry: registry.clone(),
                current,
            },
            id,
            owner: self.clone(),
        })
    }

    fn stream_on(
        &self,
        plan: Arc<Plan>,
        handle: Option<Arc<Handle<dyn PubSub>>>,
        sink: Arc<dyn Sink>,
        before: Vec<Entry>,
    ) -> Entry {
        let gate = self.shared.streams.clone();
        self.start(plan, handle, Some(sink), gate, before)
    }

    /// Every stream goes over to the component that has its name now.
    pub(super) fn rebind(&self, streams: &mut HashMap<u64, Streaming>) {
        for id in streams.keys().copied().collect::<Vec<_>>() {
            let Some(Streaming {
                mut entry,
                sink,
                current,
            }) = streams.remove(&id)
            else {
                continue;
            };
            let handle = self.shared.registry.pubsub(&entry.plan.pubsub);
            let is_other = !same_handle(entry.handle.as_ref(), handle.as_ref());
            if is_other {
                let plan = entry.plan.clone();
                entry = match back(entry, &plan, handle.as_ref()) {
                    Ok(entry) => entry,
                    Err(before) => self.stream_on(plan, handle.clone(), sink.clone(), before),
                };
            }
            // What has no component may be rejected by now.
            if is_other || handle.is_none() {
                current.send_replace(Current::of(&entry));
            }
            let streaming = Streaming {
                entry,
                sink,
                current,
            };
            streams.insert(id, streaming);
        }
    }
}

impl Stream {
    /// How its subscription does.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }
}

impl Watch {
    /// Waits until the subscription stands at the broker.
    pub async fn registered(&mut self) {
        loop {
            let mut status = self.current.borrow_and_update().status.clone();
            let active = async {
                let is_active = |status: &Status| status.state == State::Active;
                status.wait_for(is_active).await.is_ok()
            };
            tokio::select! {
                biased;
                true = active => return,
                // The next component, if there is one.
                changed = self.current.changed() => if changed.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Waits until the component is rejected, and cannot be waited for; what the app is to be told.
    pub async fn refused(&mut self) -> ApiError {
        loop {
            let handle = self.current.borrow_and_update().handle.clone();
            let rejection = match &handle {
                Some(_) => None,
                None => self.registry.rejection(&self.pubsub, "pubsub."),
            };
            if let Some(rejection) = rejection {
                return rejection;
            }
            tokio::select! {
                biased;
                error = rejected(handle.as_deref()) => return error,
                changed = self.current.changed() => if changed.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }
}

/// Waits until a component is rejected. One that closes may come back.
async fn rejected(handle: Option<&Handle<dyn PubSub>>) -> ApiError {
    if let Some(handle) = handle {
        let mut status = handle.watch();
        let is_rejected = status.wait_for(|status| status.state == connection::State::Rejected);
        if is_rejected.await.is_ok() {
            return handle.not_ready();
        }
    }
    std::future::pending().await
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(stream) = self.owner.lock().streams.remove(&self.id) {
            stream.entry.end();
        }
    }
}
