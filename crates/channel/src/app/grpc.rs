//! An app that speaks gRPC: Dapr's callback services.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use outrigger_blocks::app::{
    AppChannel, AppSubscription, BulkDelivery, BulkEvent, BulkOptions, BulkVerdict, Delivery,
    Discovered, Probe, Verdict,
};
use outrigger_blocks::fields::{self, API_TOKEN, TRACE_PARENT};
use outrigger_blocks::invoke::{Call, CallFailure, Reply, ReplyStatus};
use outrigger_blocks::pubsub::parts::parts;
use outrigger_core::error::GrpcCode;
use outrigger_core::trace::TraceContext;
use outrigger_core::{Body, Metadata};
use outrigger_lifecycle::Scope;
use outrigger_policy::Code;
use outrigger_proto::dapr::proto::common::v1 as common;
use outrigger_proto::dapr::proto::runtime::v1 as runtime;
use outrigger_proto::google::protobuf::Any;
use outrigger_proto::grpc::health::v1 as health;
use outrigger_proto::{Message, structure};
use outrigger_telemetry::metrics::Sizes;
use outrigger_wire::grpc::{self, CallError, Status};
use outrigger_wire::http2;

use super::{ONCE_MORE, READY_TIMEOUT, Settings, Turnstile, accepts, has_gone};
use crate::peer::codec::verb_number;
use crate::pushback;
use crate::trace::{add_trace, trace_in};

const ON_INVOKE: &str = "/dapr.proto.runtime.v1.AppCallback/OnInvoke";
const ON_TOPIC_EVENT: &str = "/dapr.proto.runtime.v1.AppCallback/OnTopicEvent";
const ON_BULK_TOPIC_EVENT: &str = "/dapr.proto.runtime.v1.AppCallback/OnBulkTopicEvent";
const ON_BULK_TOPIC_EVENT_ALPHA: &str =
    "/dapr.proto.runtime.v1.AppCallbackAlpha/OnBulkTopicEventAlpha1";
const LIST_TOPIC_SUBSCRIPTIONS: &str = "/dapr.proto.runtime.v1.AppCallback/ListTopicSubscriptions";
const HEALTH_CHECK: &str = "/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck";
const READY_CHECK: &str = "/grpc.health.v1.Health/Check";
/// For a question that the app should answer at once.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// An app behind gRPC.
#[derive(Debug)]
pub struct GrpcApp {
    channel: grpc::Channel,
    token: Option<HeaderValue>,
    settings: Settings,
    turnstile: Turnstile,
}

impl GrpcApp {
    /// Makes no connection yet. `scope` owns what its connection needs.
    ///
    /// # Errors
    /// When the address cannot be one.
    pub fn new(settings: Settings, scope: &Scope) -> Result<Self, String> {
        let channel = grpc::Channel::new(
            settings.target.clone(),
            http2::Settings::default(),
            settings.max_message,
            scope.clone(),
        )
        .map_err(|status| status.message)?;
        let token = settings
            .token
            .as_ref()
            .and_then(|token| HeaderValue::from_str(token.reveal()).ok())
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        let turnstile = Turnstile::new(settings.max_concurrency);
        Ok(Self {
            channel,
            token,
            settings,
            turnstile,
        })
    }

    /// The connection, for calls that are passed on as they are.
    pub fn channel(&self) -> &grpc::Channel {
        &self.channel
    }

    fn add_token(&self, headers: &mut HeaderMap) {
        if let Some(token) = &self.token {
            headers.insert(API_TOKEN, token.clone());
        }
    }

    async fn call<R: Message + Default>(
        &self,
        path: &'static str,
        headers: HeaderMap,
        request: &impl Message,
    ) -> Result<R, CallError> {
        let _permit = self.turnstile.enter().await;
        self.call_now(path, headers, request).await
    }

    /// A delivery. One that could not even be begun is made once more if the app is there: it has just come back. With an
    /// error, whether nobody listened at the app's port right after that.
    async fn hand_over<R: Message + Default>(
        &self,
        path: &'static str,
        headers: HeaderMap,
        request: &impl Message,
    ) -> Result<R, (CallError, bool)> {
        let mut answer = self.call(path, headers.clone(), request).await;
        for _ in 0..ONCE_MORE {
            if !matches!(&answer, Err(error) if error.unsent) {
                break;
            }
            if !accepts(&self.settings.target).await {
                return answer.map_err(|error| (error, true));
            }
            answer = self.call(path, headers.clone(), request).await;
        }
        answer.map_err(|error| (error, false))
    }

    async fn call_now<R: Message + Default>(
        &self,
        path: &'static str,
        headers: HeaderMap,
        request: &impl Message,
    ) -> Result<R, CallError> {
        let started = Instant::now();
        let outcome = self
            .channel
            .unary::<R>(path, headers, request)
            .await
            .map(|(_, reply)| reply);
        let (code, received) = match &outcome {
            Ok(reply) => (GrpcCode::Ok, reply.encoded_len()),
            Err(error) => (error.status.code, 0),
        };
        self.record(path, code, request.encoded_len(), received, started);
        outcome
    }

    fn record(&self, path: &str, code: GrpcCode, sent: usize, received: usize, started: Instant) {
        let sizes = Sizes {
            sent: sent as u64,
            received: received as u64,
        };
        self.settings
            .metrics
            .grpc_client(path, code.name(), Some(sizes), started.elapsed());
    }

    /// A question with a limit that no turnstile delays.
    async fn ask<R: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
        limit: Duration,
    ) -> Result<R, Status> {
        let asking = self.call_now(path, HeaderMap::new(), request);
        match tokio::time::timeout(limit, asking).await {
            Ok(outcome) => outcome.map_err(|error| error.status),
            Err(_) => Err(Status::new(
                GrpcCode::DeadlineExceeded,
                "context deadline exceeded".to_owned(),
            )),
        }
    }

    /// What it means for a message that the call failed.
    async fn failed(&self, id: &str, error: CallError, gone: bool) -> Verdict {
        let why = format!(
            "error returned from app while processing pub/sub event {id}: retriable error occurred: {}",
            error.status
        );
        let broken = error.unsent || error.status.code == GrpcCode::Unavailable;
        let lost = gone || broken && has_gone(&self.settings.target).await;
        if lost && error.unsent {
            Verdict::Away(why)
        } else if lost {
            Verdict::Crashed(why)
        } else {
            let code = u16::from(error.status.code.number());
            Verdict::Refused(Code::Grpc(code), why)
        }
    }
}

/// Metadata of messages as metadata of calls.
fn event_headers(metadata: &Metadata, trace: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(metadata.len() + 4);
    for (name, value) in metadata {
        let lower = name.to_ascii_lowercase();
        let ours = matches!(
            lower.as_str(),
            "content-type"
                | "content-length"
                | "te"
                | "host"
                | "user-agent"
                | "traceparent"
                | "grpc-trace-bin"
        ) || lower.starts_with(':')
            || lower.starts_with("grpc-");
        if !ours && !fields::is_hop_by_hop(&lower) {
            fields::add(&mut headers, &lower, value);
        }
    }
    if let Some(trace) = trace {
        add_trace(
            &mut headers,
            &TraceContext::parse(trace, None).unwrap_or_default(),
        );
    }
    headers
}

#[async_trait]
impl AppChannel for GrpcApp {
    async fn invoke(&self, call: Call) -> Result<Reply, CallFailure> {
        let _permit = self.turnstile.enter().await;
        let data = call
            .body
            .collect(usize::MAX)
            .await
            .map_err(|error| CallFailure::plain(error.to_string()))?;
        let trace = trace_in(&call.fields);
        let mut headers = call.fields;
        let had_trace = headers.contains_key(TRACE_PARENT);
        fields::into_metadata(&mut headers, call.surface);
        if had_trace {
            add_trace(&mut headers, &trace.unwrap_or_default());
        }
        self.add_token(&mut headers);
        let request = common::InvokeRequest {
            method: call.method,
            data: Some(Any {
                type_url: call.type_url,
                value: data,
            }),
            content_type: call.content_type.unwrap_or_default(),
            http_extension: (!call.lacks_extension).then(|| common::HttpExtension {
                verb: verb_number(call.verb.as_ref()),
                querystring: call.query,
            }),
        };
        let started = Instant::now();
        let sent = request.encoded_len();
        let outcome = self.invoke_once(headers, &request).await;
        let code = match &outcome.status {
            ReplyStatus::Grpc { code, .. } => *code,
            ReplyStatus::Http(_) => GrpcCode::Unknown,
        };
        self.record(
            ON_INVOKE,
            code,
            sent,
            outcome
                .body
                .length()
                .map_or(0, |length| usize::try_from(length).unwrap_or(0)),
            started,
        );
        Ok(outcome)
    }

    async fn deliver(&self, delivery: &Delivery) -> Verdict {
        let request = match topic_event(delivery) {
            Ok(request) => request,
            Err(why) => {
                return Verdict::Retry(format!(
                    "error returned from app while processing pub/sub event: {why}"
                ));
            }
        };
        let mut headers = event_headers(&delivery.metadata, delivery.trace_parent.as_deref());
        self.add_token(&mut headers);
        match self
            .hand_over::<runtime::TopicEventResponse>(ON_TOPIC_EVENT, headers, &request)
            .await
        {
            Ok(reply) => verdict(reply.status),
            Err((error, _)) if error.status.code == GrpcCode::Unimplemented => {
                Verdict::Forget(format!(
                    "non-retriable error returned from app while processing pub/sub event: {}",
                    error.status
                ))
            }
            Err((error, gone)) => self.failed(&request.id, error, gone).await,
        }
    }

    async fn deliver_bulk(&self, delivery: &BulkDelivery) -> BulkVerdict {
        let mut refused = Vec::new();
        let mut entries = Vec::with_capacity(delivery.entries.len());
        for entry in &delivery.entries {
            match bulk_event(&entry.event) {
                Ok(event) => entries.push(runtime::TopicEventBulkRequestEntry {
                    entry_id: entry.entry_id.clone(),
                    // Dapr: the driver's word alone, and none has one.
                    content_type: String::new(),
                    metadata: entry.metadata.clone().unwrap_or_default(),
                    event: Some(event),
                }),
                Err(why) => refused.push((entry.entry_id.clone(), Verdict::Retry(why))),
            }
        }
        let request = runtime::TopicEventBulkRequest {
            id: uuid::Uuid::new_v4().to_string(),
            entries,
            metadata: delivery.metadata.clone(),
            topic: delivery.topic.to_string(),
            pubsub_name: delivery.pubsub.to_string(),
            r#type: "com.dapr.event.sent.bulk".to_owned(),
            path: delivery.path.to_string(),
        };
        let headers = || {
            let mut headers = event_headers(&delivery.metadata, delivery.trace_parent.as_deref());
            self.add_token(&mut headers);
            headers
        };
        let mut answer = self
            .hand_over::<runtime::TopicEventBulkResponse>(ON_BULK_TOPIC_EVENT, headers(), &request)
            .await;
        if matches!(&answer, Err((error, _)) if error.status.code == GrpcCode::Unimplemented) {
            answer = self
                .call(ON_BULK_TOPIC_EVENT_ALPHA, headers(), &request)
                .await
                .map_err(|error| (error, false));
        }
        match answer {
            Ok(reply) => {
                let answered = reply
                    .statuses
                    .into_iter()
                    .map(|entry| (entry.entry_id, verdict(entry.status)));
                BulkVerdict::Each(refused.into_iter().chain(answered).collect())
            }
            Err((error, _)) if error.status.code == GrpcCode::Unimplemented => {
                BulkVerdict::All(Verdict::Forget(format!(
                    "non-retriable error returned from app while processing bulk pub/sub event: {}",
                    error.status
                )))
            }
            Err((error, gone)) => BulkVerdict::All(self.failed("", error, gone).await),
        }
    }

    async fn subscriptions(&self) -> Discovered<Vec<AppSubscription>> {
        match self
            .ask::<runtime::ListTopicSubscriptionsResponse>(
                LIST_TOPIC_SUBSCRIPTIONS,
                &(),
                QUESTION_TIMEOUT,
            )
            .await
        {
            Ok(reply) => {
                Discovered::Answer(reply.subscriptions.into_iter().map(subscription).collect())
            }
            Err(status) if status.code == GrpcCode::Unimplemented => Discovered::None,
            Err(status) => {
                Discovered::Failed(format!("error getting topic list from app: {status}"))
            }
        }
    }

    async fn config(&self) -> Discovered<()> {
        Discovered::None
    }

    async fn probe(&self) -> Probe {
        let started = Instant::now();
        let asking = self
            .channel
            .unary::<()>(HEALTH_CHECK, HeaderMap::new(), &());
        let outcome = match tokio::time::timeout(self.settings.probe_timeout, asking).await {
            Ok(outcome) => outcome.map(|_| ()).map_err(|error| error.status),
            Err(_) => Err(Status::new(
                GrpcCode::DeadlineExceeded,
                "context deadline exceeded".to_owned(),
            )),
        };
        let code = outcome
            .as_ref()
            .map_or_else(|status| status.code, |()| GrpcCode::Ok);
        let metrics = &self.settings.metrics;
        if metrics.settings.enabled {
            metrics
                .grpc_healthprobes_completed_count
                .add([code.name()], 1);
            metrics
                .grpc_healthprobes_roundtrip_latency
                .observe([code.name()], started.elapsed().as_millis() as f64);
        }
        match outcome {
            Ok(()) => Probe::Healthy,
            Err(status) => Probe::Unhealthy(format!("Health check failed: {status}")),
        }
    }

    async fn readiness(&self) -> Result<(), String> {
        use health::health_check_response::ServingStatus;

        let Some(service) = self.settings.ready.clone() else {
            return Ok(());
        };
        let request = health::HealthCheckRequest { service };
        let answer = self
            .ask::<health::HealthCheckResponse>(READY_CHECK, &request, READY_TIMEOUT)
            .await;
        let why = match answer {
            Ok(reply) => match ServingStatus::try_from(reply.status) {
                Ok(ServingStatus::Serving) => return Ok(()),
                Ok(other) => other.as_str_name().to_owned(),
                Err(_) => format!("status {}", reply.status),
            },
            Err(status) => status.to_string(),
        };
        Err(format!("{READY_CHECK} {:?}: {why}", request.service))
    }

    async fn accepts(&self) -> bool {
        accepts(&self.settings.target).await
    }
}

impl GrpcApp {
    /// An app's error is an answer.
    async fn invoke_once(&self, headers: HeaderMap, request: &common::InvokeRequest) -> Reply {
        let outcome = async {
            let failed = |error: CallError| error.status;
            let mut call = self
                .channel
                .start(PathAndQuery::from_static(ON_INVOKE), headers)
                .await
                .map_err(failed)?;
            call.requests
                .send_data(grpc::encode(request), true)
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let mut replies = call.replies().await.map_err(failed)?;
            let message = match &replies.ended {
                Some(_) => None,
                None => replies
                    .messages
                    .next()
                    .await
                    .map_err(|error| error.to_status())?,
            };
            let mut headers = std::mem::take(&mut replies.headers);
            if replies.ended.is_some() {
                // An answer without messages has its status among the headers.
                for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
                    headers.remove(name);
                }
            }
            let status = replies.status().await;
            Ok::<_, Status>((message, status, headers))
        };
        let (message, status, headers) = outcome
            .await
            .unwrap_or_else(|status| (None, status, HeaderMap::new()));
        let decoded = message
            .and_then(|bytes| common::InvokeResponse::decode(bytes).ok())
            .unwrap_or_default();
        let (data, type_url) = decoded.data.map_or_else(
            || (Bytes::new(), String::new()),
            |data| (data.value, data.type_url),
        );
        let pushback = pushback::of(&status.metadata, status.details.as_ref());
        Reply {
            status: ReplyStatus::Grpc {
                code: status.code,
                message: status.message,
                details: status.details,
            },
            fields: headers,
            pushback,
            trailers: status.metadata,
            content_type: (!decoded.content_type.is_empty()).then_some(decoded.content_type),
            type_url,
            body: Body::Bytes(data),
        }
    }
}

/// An event as gRPC receivers get it.
///
/// # Errors
/// When its data cannot be what its type says.
pub fn topic_event(delivery: &Delivery) -> Result<runtime::TopicEventRequest, String> {
    let parts = parts(&delivery.event)?;
    Ok(runtime::TopicEventRequest {
        id: parts.id.to_owned(),
        source: parts.source.to_owned(),
        r#type: parts.kind.to_owned(),
        spec_version: parts.spec_version.to_owned(),
        data_content_type: parts.data_content_type.to_owned(),
        data: parts.data,
        topic: delivery.topic.to_string(),
        pubsub_name: delivery.pubsub.to_string(),
        path: delivery.path.to_string(),
        extensions: Some(structure(parts.extensions)),
    })
}

fn bulk_event(event: &BulkEvent) -> Result<runtime::topic_event_bulk_request_entry::Event, String> {
    use runtime::topic_event_bulk_request_entry::Event;
    match event {
        BulkEvent::Raw(bytes) => Ok(Event::Bytes(bytes.clone())),
        BulkEvent::Cloud(event) => {
            let parts = parts(event)?;
            Ok(Event::CloudEvent(runtime::TopicEventCeRequest {
                id: parts.id.to_owned(),
                source: parts.source.to_owned(),
                r#type: parts.kind.to_owned(),
                spec_version: parts.spec_version.to_owned(),
                data_content_type: parts.data_content_type.to_owned(),
                data: parts.data,
                extensions: Some(structure(parts.extensions)),
            }))
        }
    }
}

/// The word of an app for one message.
pub fn verdict(status: i32) -> Verdict {
    use runtime::topic_event_response::TopicEventResponseStatus as Word;
    match Word::try_from(status) {
        Ok(Word::Success) => Verdict::Success,
        Ok(Word::Retry) => Verdict::Retry(
            "RETRY status returned from app while processing pub/sub event".to_owned(),
        ),
        Ok(Word::Drop) => {
            Verdict::Drop("DROP status returned from app while processing pub/sub event".to_owned())
        }
        Err(_) => Verdict::Retry(format!(
            "unknown status returned from app while processing pub/sub event, status: {status}"
        )),
    }
}

fn subscription(entry: runtime::TopicSubscription) -> AppSubscription {
    let mut rules = Vec::new();
    if let Some(routes) = entry.routes {
        rules.extend(routes.rules.into_iter().map(|rule| {
            let expression = rule.r#match.trim();
            (
                (!expression.is_empty()).then(|| expression.to_owned()),
                rule.path,
            )
        }));
        if !routes.default.is_empty() {
            rules.push((None, routes.default));
        }
    }
    if rules.is_empty() {
        rules.push((None, String::new()));
    }
    let bulk = entry
        .bulk_subscribe
        .filter(|bulk| bulk.enabled)
        .map(|bulk| {
            let defaults = BulkOptions::default();
            let positive = |number: i32| u64::try_from(number).ok().filter(|number| *number > 0);
            BulkOptions {
                max_messages: positive(bulk.max_messages_count)
                    .and_then(|number| usize::try_from(number).ok())
                    .unwrap_or(defaults.max_messages),
                max_await: positive(bulk.max_await_duration_ms)
                    .map_or(defaults.max_await, Duration::from_millis),
            }
        });
    AppSubscription {
        pubsub: entry.pubsub_name,
        topic: entry.topic,
        rules,
        dead_letter_topic: entry.dead_letter_topic,
        metadata: entry.metadata,
        bulk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_entry_without_routes_has_the_empty_path() {
        let plain = subscription(runtime::TopicSubscription {
            pubsub_name: "p".into(),
            topic: "t".into(),
            ..Default::default()
        });
        assert_eq!(plain.rules, [(None, String::new())]);
        assert_eq!(plain.bulk, None);
    }

    #[test]
    fn metadata_that_means_something_to_grpc_stays_behind() {
        let metadata: Metadata = [
            ("K", "v"),
            ("Content-Type", "x"),
            ("grpc-timeout", "1S"),
            ("pubsubName", "p"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let headers = event_headers(&metadata, Some(""));
        let mut names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["grpc-trace-bin", "k", "pubsubname", "traceparent"]);
        assert_eq!(headers["traceparent"], TraceContext::ZERO_HEADER);
    }

    #[test]
    fn an_unknown_word_is_a_retry() {
        assert!(matches!(verdict(7), Verdict::Retry(_)));
        assert_eq!(verdict(0), Verdict::Success);
    }
}
