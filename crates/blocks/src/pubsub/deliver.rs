//! From a broker's message to an answer for the broker.
//!
//! Order: raw or event, expired, route, policies, app, verdict, dead letter. What the stop of the sidecar or the absence of the app
//! leaves undone is released: neither acknowledged nor failed, and never dead-lettered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_component_api::{Handler, Message, Outcome};
use outrigger_core::cloud_event::{self, is_binary};
use outrigger_core::json::{Numbers, Style, Value, encode, parse_all};
use outrigger_core::metadata::raw_payload;
use outrigger_core::{Metadata, json};
use outrigger_lifecycle::{Clock, Stop};
use outrigger_resiliency::Resiliency;
use outrigger_telemetry::Metrics;
use tokio::sync::watch;
use tracing::{debug, error, warn};

use super::poison::{Fingerprint, Poison};
use super::policy::{self, Delivered, Halt, Hold};
use super::publish::Publisher;
use super::subscription::Plan;
use crate::activity::{Activity, Tally};
use crate::app::{AppChannel, Delivery, Verdict};
use crate::guard::whole_millis;

/// A dead letter copy has its own time, whatever was left of the delivery's.
const DEAD_LETTER_LIMIT: Duration = Duration::from_secs(30);
/// Everything that logs deliveries speaks under this name.
pub(super) const SCOPE: &str = "dapr.runtime.processor.pubsub.subscription";

/// Who takes a subscription's messages.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    async fn deliver(&self, delivery: &Delivery) -> Verdict;

    /// Whether its absence says something about the app, and not only about this subscription.
    fn speaks_for_the_app(&self) -> bool;
}

/// The app behind its channel.
pub struct AppSink(pub Arc<dyn AppChannel>);

#[async_trait]
impl Sink for AppSink {
    async fn deliver(&self, delivery: &Delivery) -> Verdict {
        self.0.deliver(delivery).await
    }

    fn speaks_for_the_app(&self) -> bool {
        true
    }
}

/// What every delivery needs.
pub struct Desk {
    pub publisher: Arc<Publisher>,
    pub metrics: Arc<Metrics>,
    /// In front of topics of namespaced components.
    pub namespace: String,
    /// True once the sidecar is on its way out: what fails then is released.
    pub ending: watch::Receiver<bool>,
    pub resiliency: Arc<Resiliency>,
    pub clock: Clock,
    /// Told when the app turned out to be away.
    pub away: Box<dyn Fn() + Send + Sync>,
    pub activity: Arc<Activity>,
    pub poison: Poison,
}

/// Handles the messages of one subscription.
pub(super) struct Deliverer {
    pub desk: Arc<Desk>,
    pub plan: Arc<Plan>,
    pub sink: Arc<dyn Sink>,
    pub pubsub: Arc<str>,
    pub namespaced: bool,
    pub hold: Arc<Hold>,
    pub halt: Halt,
    /// The subscription has been let go: what is still unfinished is the broker's again.
    pub over: Stop,
    /// Told of each message that goes back.
    pub released: watch::Sender<u64>,
    pub tally: Arc<Tally>,
}

/// What became of a message, in the words of the metrics. Where there is no more to say, the two words are one.
struct Processed {
    status: &'static str,
    detail: &'static str,
}

const SUCCESS: Processed = Processed {
    status: "success",
    detail: "success",
};
const RETRY: Processed = Processed {
    status: "retry",
    detail: "retry",
};
const DROP: Processed = Processed {
    status: "drop",
    detail: "drop",
};
/// The app, or its rules, chose to drop it.
const DROP_CHOSEN: Processed = Processed {
    status: "drop",
    detail: "success",
};

#[async_trait]
impl Handler for Deliverer {
    async fn handle(&self, message: Message) -> Outcome {
        let outcome = {
            let _share = self.tally.begin(1);
            tokio::select! {
                biased;
                // The request to the app ends with this.
                () = self.over.cancelled() => self.released("deadline"),
                outcome = self.process(message) => outcome,
            }
        };
        if outcome == Outcome::Released {
            self.released.send_modify(|count| *count += 1);
        }
        outcome
    }
}

impl Deliverer {
    async fn process(&self, mut message: Message) -> Outcome {
        message
            .metadata
            .get_or_insert_default()
            .insert("pubsubName".to_owned(), self.pubsub.to_string());
        let topic: Arc<str> = self.topic_of(&message).into();
        let prepared = match self.prepare(&message, &topic) {
            Ok(prepared) => prepared,
            Err(reason) => {
                error!(target: SCOPE, pubsub = &*self.pubsub, topic = &*topic, error = reason, "cannot read the message");
                return self.fail(&message, &topic, reason, Outcome::Retry).await;
            }
        };
        if cloud_event::has_expired(&prepared.event) {
            warn!(target: SCOPE, pubsub = &*self.pubsub, topic = &*topic, id = event_id(&prepared.event), "dropping expired pub/sub event");
            self.record(&topic, &DROP, Duration::ZERO);
            self.copy_quietly(&message, &topic).await;
            return Outcome::Done;
        }
        let path = match self.plan.rules.choose(&prepared.event) {
            Ok(Some(path)) => path,
            Ok(None) => {
                debug!(target: SCOPE, pubsub = &*self.pubsub, topic = &*topic, id = event_id(&prepared.event), "no matching route for event");
                self.record(&topic, &DROP_CHOSEN, Duration::ZERO);
                self.copy_quietly(&message, &topic).await;
                return Outcome::Done;
            }
            Err(reason) => {
                error!(target: SCOPE, pubsub = &*self.pubsub, topic = &*topic, error = reason, "error finding matching route for event");
                return self.fail(&message, &topic, reason, Outcome::Retry).await;
            }
        };
        let delivery = Delivery {
            pubsub: self.pubsub.clone(),
            topic: topic.clone(),
            path,
            data: prepared.data,
            trace_parent: trace_of(&prepared.event),
            event: Arc::new(prepared.event),
            metadata: Arc::new(message.metadata.clone().unwrap_or_default()),
        };
        let fingerprint = || Fingerprint::of(&self.pubsub, &topic, &message.data);
        let turn = match self.halt.unless(self.desk.poison.turn(fingerprint)).await {
            Ok(turn) => turn,
            Err(why) => return self.released(why),
        };
        let started = Instant::now();
        let attempt = || self.sink.deliver(&delivery);
        let delivered =
            policy::deliver(&self.desk, &self.pubsub, &self.hold, &self.halt, attempt).await;
        drop(turn);
        match delivered {
            Delivered::Answer(Verdict::Crashed(reason))
            | Delivered::GaveUp(Verdict::Crashed(reason)) => {
                (self.desk.away)();
                match self.desk.poison.crashed(fingerprint()) {
                    None => self.away(&topic, &reason),
                    Some(times) => {
                        let reason = format!(
                            "the application has ended {times} times under this message: {reason}"
                        );
                        warn!(target: SCOPE, pubsub = &*self.pubsub, topic = &*topic, id = event_id(&delivery.event), reason, "the message counts as failed");
                        self.fail(&message, &topic, reason, Outcome::Retry).await
                    }
                }
            }
            Delivered::Answer(verdict) => {
                if !matches!(verdict, Verdict::Away(_)) {
                    self.desk.poison.cleared(fingerprint);
                }
                self.conclude(&message, &topic, verdict, started.elapsed(), Outcome::Retry)
                    .await
            }
            Delivered::GaveUp(verdict) => {
                self.conclude(
                    &message,
                    &topic,
                    verdict,
                    started.elapsed(),
                    Outcome::GaveUp,
                )
                .await
            }
            Delivered::Halted(why) => self.released(why),
            Delivered::Rejected { why, dead_letter } => {
                self.record(&topic, &RETRY, started.elapsed());
                if dead_letter {
                    self.fail(&message, &topic, why, Outcome::Retry).await
                } else {
                    Outcome::Retry(why)
                }
            }
        }
    }

    async fn conclude(
        &self,
        message: &Message,
        topic: &str,
        verdict: Verdict,
        elapsed: Duration,
        failed: fn(String) -> Outcome,
    ) -> Outcome {
        match verdict {
            Verdict::Success => {
                self.record(topic, &SUCCESS, elapsed);
                Outcome::Done
            }
            Verdict::Drop(reason) => {
                warn!(target: SCOPE, pubsub = &*self.pubsub, topic, reason, "message dropped");
                self.record(topic, &DROP_CHOSEN, elapsed);
                if self.plan.dead_letter_topic.is_empty() {
                    return Outcome::Done;
                }
                match self.copy(message, topic).await {
                    Ok(()) => Outcome::Done,
                    // The copy is the only thing left of it: rather deliver again than lose it.
                    Err(_) if self.is_ending() => Outcome::Released,
                    Err(cause) => Outcome::Retry(cause),
                }
            }
            Verdict::Forget(reason) => {
                warn!(target: SCOPE, pubsub = &*self.pubsub, topic, reason, "message dropped");
                self.record(topic, &DROP, elapsed);
                Outcome::Done
            }
            Verdict::Away(reason) | Verdict::Crashed(reason) => {
                if self.sink.speaks_for_the_app() {
                    (self.desk.away)();
                }
                self.away(topic, &reason)
            }
            Verdict::Retry(reason) | Verdict::Refused(_, reason) => {
                warn!(target: SCOPE, pubsub = &*self.pubsub, topic, reason, "delivery failed");
                self.record(topic, &RETRY, elapsed);
                self.fail(message, topic, reason, failed).await
            }
        }
    }

    /// The message cannot be delivered: to the dead letter topic, or back to the broker as `failed`.
    async fn fail(
        &self,
        message: &Message,
        topic: &str,
        reason: String,
        failed: fn(String) -> Outcome,
    ) -> Outcome {
        if self.is_ending() {
            return self.released("ending");
        }
        if self.plan.dead_letter_topic.is_empty() {
            return failed(reason);
        }
        match self.copy(message, topic).await {
            Ok(()) => {
                self.record(topic, &DROP, Duration::ZERO);
                Outcome::Done
            }
            Err(_) => Outcome::Retry(reason),
        }
    }

    /// The app is not there, so that the message goes back.
    fn away(&self, topic: &str, reason: &str) -> Outcome {
        debug!(target: SCOPE, pubsub = &*self.pubsub, topic, reason, "the app is away, message released");
        self.released("app_away")
    }

    /// The message goes back, neither done nor failed.
    fn released(&self, cause: &str) -> Outcome {
        self.desk
            .metrics
            .released_messages
            .add([&self.pubsub, cause], 1);
        Outcome::Released
    }

    fn is_ending(&self) -> bool {
        *self.desk.ending.borrow()
    }

    async fn copy_quietly(&self, message: &Message, topic: &str) {
        if !self.plan.dead_letter_topic.is_empty() {
            self.copy(message, topic).await.ok();
        }
    }

    /// Publishes the message as it came to the dead letter topic.
    async fn copy(&self, message: &Message, topic: &str) -> Result<(), String> {
        dead_letter(
            &self.desk,
            &self.pubsub,
            topic,
            &self.plan.dead_letter_topic,
            message.data.clone(),
            message.metadata.clone(),
        )
        .await
    }

    fn topic_of(&self, message: &Message) -> String {
        if self.namespaced {
            message.topic.replacen(&self.desk.namespace, "", 1)
        } else {
            message.topic.clone()
        }
    }

    fn prepare(&self, message: &Message, topic: &str) -> Result<Prepared, String> {
        if raw_payload(&self.plan.metadata).map_err(|value| {
            format!("rawPayload value must be a valid boolean: actual is '{value}'")
        })? {
            let text = |name: &str| message.datum(name);
            let event = cloud_event::raw(
                &message.data,
                topic,
                &self.pubsub,
                text("traceparent").or_else(|| text("traceid")),
                text("tracestate"),
            );
            let data = encode(&event, Style::Ours, Numbers::Exact).into();
            return Ok(Prepared { event, data });
        }
        if message.datum("content-type").is_some_and(is_binary) {
            return Ok(Prepared {
                event: binary_event(message),
                data: message.data.clone(),
            });
        }
        let mut event = parse_all(&message.data).map_err(|error| error.to_string())?;
        match &mut event {
            Value::Object(members) => add_traces(members, message),
            // Dapr hands the word on, and the app makes of it what it can.
            Value::Null => event = Value::Object(Vec::new()),
            other => {
                return Err(
                    json::JsonError::kind(other.kind(), "map[string]interface {}").to_string(),
                );
            }
        }
        Ok(Prepared {
            event,
            data: message.data.clone(),
        })
    }

    fn record(&self, topic: &str, processed: &Processed, elapsed: Duration) {
        let metrics = &self.desk.metrics;
        if metrics.settings.enabled {
            let labels = [
                &*self.pubsub,
                metrics.settings.namespace.as_str(),
                processed.status,
                topic,
                processed.detail,
            ];
            metrics.pubsub_ingress_count.add(labels, 1);
            if elapsed > Duration::ZERO {
                metrics
                    .pubsub_ingress_latencies
                    .observe(labels, whole_millis(elapsed));
            }
        }
    }
}

struct Prepared {
    event: Value,
    data: Bytes,
}

/// Publishes a copy to a dead letter topic.
pub(super) async fn dead_letter(
    desk: &Desk,
    pubsub: &str,
    topic: &str,
    dead_letter_topic: &str,
    data: Bytes,
    metadata: Option<Metadata>,
) -> Result<(), String> {
    let forward = async {
        let bus = desk
            .publisher
            .find(pubsub, None)
            .await
            .map_err(|error| error.message)?;
        bus.forward(dead_letter_topic, data, metadata).await
    };
    let outcome = tokio::time::timeout(DEAD_LETTER_LIMIT, forward)
        .await
        .unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
    if let Err(cause) = &outcome {
        error!(target: SCOPE, pubsub, topic, dead_letter_topic, error = cause, "error sending message to dead letter, origin topic and dead letter topic named");
    }
    outcome
}

/// An event in binary mode lies in the message's metadata.
fn binary_event(message: &Message) -> Value {
    let attribute = |(name, value): (&String, &String)| {
        Some((
            name.to_lowercase().strip_prefix("ce_")?.to_owned(),
            Value::string(value.as_str()),
        ))
    };
    let metadata = message.metadata.iter().flatten();
    let mut members: Vec<(String, Value)> = metadata.filter_map(attribute).collect();
    members.push((
        "data".to_owned(),
        Value::String(String::from_utf8_lossy(&message.data).into_owned()),
    ));
    members.push((
        "datacontenttype".to_owned(),
        Value::string(message.datum("content-type").unwrap_or_default()),
    ));
    Value::Object(members)
}

/// Trace attributes that the event lacks come from the message's metadata.
pub(super) fn add_traces(members: &mut Vec<(String, Value)>, message: &Message) {
    let lacks =
        |members: &[(String, Value)], name: &str| !members.iter().any(|(key, _)| key == name);
    if lacks(members, "traceid")
        && let Some(text) = message.datum("traceid")
    {
        members.push(("traceid".to_owned(), Value::string(text)));
    }
    if lacks(members, "traceparent")
        && let Some(text) = message.datum("traceparent")
    {
        members.push(("traceparent".to_owned(), Value::string(text)));
        match members.iter_mut().find(|(key, _)| key == "traceid") {
            Some(member) => member.1 = Value::string(text),
            None => members.push(("traceid".to_owned(), Value::string(text))),
        }
    }
    if lacks(members, "tracestate")
        && let Some(text) = message.datum("tracestate")
    {
        members.push(("tracestate".to_owned(), Value::string(text)));
    }
}

/// The event's trace: `traceparent`, else `traceid`; an empty text counts.
pub(super) fn trace_of(event: &Value) -> Option<String> {
    let attribute = |name| {
        event
            .get(name)
            .filter(|value| !value.is_null())
            .and_then(Value::as_str)
    };
    attribute("traceparent")
        .or_else(|| attribute("traceid"))
        .map(str::to_owned)
}

fn event_id(event: &Value) -> &str {
    event.get("id").and_then(Value::as_str).unwrap_or_default()
}
