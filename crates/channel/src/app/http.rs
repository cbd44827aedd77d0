//! An app that speaks HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use outrigger_blocks::app::{
    AppChannel, AppSubscription, BulkDelivery, BulkEvent, BulkVerdict, Delivery, Discovered, Probe,
    Verdict,
};
use outrigger_blocks::fields::{self, API_TOKEN, TRACE_PARENT};
use outrigger_blocks::invoke::{Call, CallFailure, Reply, ReplyStatus};
use outrigger_core::cloud_event;
use outrigger_core::error::GrpcCode;
use outrigger_core::json::{Numbers, Style, Value, encode, parse_all};
use outrigger_core::trace::TraceContext;
use outrigger_core::{Body, BodyError};
use outrigger_lifecycle::Scope;
use outrigger_lifecycle::drain::Answer;
use outrigger_policy::Pushback;
use outrigger_telemetry::metrics::{Metrics, Sizes};
use outrigger_wire::Target;
use outrigger_wire::http1::{self, ClientError};
use outrigger_wire::http2::{self, Refused};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    BUSY_TIMEOUT, ONCE_MORE, READY_TIMEOUT, Settings, TELL_TIMEOUT, Turnstile, accepts, answers,
    has_gone, subscriptions,
};
use crate::url;

/// Connections to an HTTP/1.1 app.
const CONNECTIONS: usize = 1024;
/// An answer of one word, and what an app may write around it.
const BUSY_LIMIT: usize = 64 * 1024;
/// What the app answers to our own questions may be this long.
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Http1,
    /// HTTP/2 without TLS.
    H2c,
}

/// An app behind HTTP.
#[derive(Debug)]
pub struct HttpApp {
    transport: Transport,
    token: Option<HeaderValue>,
    settings: Settings,
    turnstile: Turnstile,
}

#[derive(Debug)]
enum Transport {
    Http1(http1::Client),
    Http2(http2::Client),
}

/// Which connection a request may use.
#[derive(Clone, Copy)]
enum Connection {
    Any,
    Fresh,
}

/// No answer.
pub(crate) struct Unanswered {
    pub why: String,
    /// The request did not leave us.
    pub unsent: bool,
    /// The connection ended under it.
    pub reset: bool,
    /// It had served before, and ended without a word.
    pub stale: bool,
    /// Nobody listened at the app's port right after that.
    pub gone: bool,
}

impl HttpApp {
    /// Makes no connection yet. `scope` owns what its connections need.
    ///
    /// # Errors
    /// When the address cannot be one.
    pub fn new(settings: Settings, protocol: Protocol, scope: &Scope) -> Result<Self, String> {
        let transport = match protocol {
            Protocol::Http1 => Transport::Http1(http1::Client::new(
                settings.target.clone(),
                CONNECTIONS,
                settings.max_head,
            )),
            Protocol::H2c => {
                let client = http2::Client::new(
                    settings.target.clone(),
                    http2::Settings::default(),
                    scope.clone(),
                );
                Transport::Http2(client.map_err(|refused| refusal(&refused))?)
            }
        };
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
            transport,
            token,
            settings,
            turnstile,
        })
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.settings.metrics
    }

    /// One request, counted; `label` is its path in the metrics.
    async fn send(
        &self,
        method: Method,
        target: PathAndQuery,
        headers: HeaderMap,
        body: Body,
        label: &str,
    ) -> Result<Response<Body>, Unanswered> {
        self.send_over(Connection::Any, method, target, headers, body, label)
            .await
    }

    async fn send_over(
        &self,
        connection: Connection,
        method: Method,
        target: PathAndQuery,
        mut headers: HeaderMap,
        body: Body,
        label: &str,
    ) -> Result<Response<Body>, Unanswered> {
        if let Some(token) = &self.token {
            headers.insert(API_TOKEN, token.clone());
        }
        let sent = body.length().unwrap_or(0);
        let verb = method.clone();
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from(target);
        *request.headers_mut() = headers;

        let permit = self.turnstile.enter().await;
        let started = Instant::now();
        let answer = self.transport.send(request, connection).await;
        let (status, received) = match &answer {
            Ok(answer) => (
                answer.status().as_u16(),
                announced(answer.headers(), answer.body()),
            ),
            Err(_) => (500, 0),
        };
        self.metrics().http_client(
            verb.as_str(),
            label,
            status,
            Sizes { sent, received },
            started.elapsed(),
        );
        answer.map(|answer| holding(answer, permit))
    }

    async fn ask(
        &self,
        method: Method,
        path: &'static str,
        label: &str,
        headers: HeaderMap,
    ) -> Result<(u16, Bytes), String> {
        let answer = self
            .send(
                method,
                PathAndQuery::from_static(path),
                headers,
                Body::EMPTY,
                label,
            )
            .await
            .map_err(|failure| failure.why)?;
        let status = answer.status().as_u16();
        let body = answer
            .into_body()
            .collect(ANSWER_LIMIT)
            .await
            .map_err(|error| error.to_string())?;
        Ok((status, body))
    }

    /// A question of ours that no turnstile delays. The app's token goes with it, as with whatever else we send.
    fn question(&self, path: &str) -> Result<Request<Body>, String> {
        let mut request = bare(path)?;
        if let Some(token) = &self.token {
            request.headers_mut().insert(API_TOKEN, token.clone());
        }
        Ok(request)
    }

    /// The status of an answer that comes within a limit.
    async fn status_of(&self, request: Request<Body>, limit: Duration) -> Result<u16, String> {
        let asking = async {
            let answer = self
                .transport
                .send(request, Connection::Any)
                .await
                .map_err(|failure| failure.why)?;
            let status = answer.status().as_u16();
            answer.into_body().collect(ANSWER_LIMIT).await.ok();
            Ok(status)
        };
        tokio::time::timeout(limit, asking)
            .await
            .unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
    }

    /// Hands a message to the app. Apps close idle connections, and may do so while a message is on its way. Messages are
    /// delivered at least once, so one that got no word of an answer goes out again, over a new connection.
    async fn hand_over(
        &self,
        target: PathAndQuery,
        headers: impl Fn() -> HeaderMap,
        body: Bytes,
        label: &str,
    ) -> Result<(u16, Bytes), Unanswered> {
        let post = |connection| {
            let (target, body) = (target.clone(), body.clone().into());
            self.send_over(connection, Method::POST, target, headers(), body, label)
        };
        let mut answer = post(Connection::Any).await;
        for _ in 0..ONCE_MORE {
            let Err(failure) = &mut answer else {
                break;
            };
            if !failure.stale && !failure.unsent {
                break;
            }
            // One that could not even be begun met an app that has just come back. Where nobody listens any more the app has
            // ended, and may have ended because of this message. It may be back before anybody looks again.
            if !accepts(&self.settings.target).await {
                failure.gone = true;
                break;
            }
            answer = Box::pin(post(Connection::Fresh)).await;
        }
        self.answered(answer?).await
    }

    /// What it means for a message that no answer came.
    async fn no_answer(&self, failure: Unanswered) -> Verdict {
        let broken = failure.unsent || failure.reset;
        let away = failure.gone || broken && has_gone(&self.settings.target).await;
        let why = format!(
            "error from app channel while sending pub/sub event to app: {}",
            failure.why
        );
        if away && failure.unsent {
            Verdict::Away(why)
        } else if away {
            Verdict::Crashed(why)
        } else {
            Verdict::Retry(why)
        }
    }

    async fn answered(&self, answer: Response<Body>) -> Result<(u16, Bytes), Unanswered> {
        let status = answer.status().as_u16();
        let cut = |error: BodyError| Unanswered {
            why: error.to_string(),
            unsent: false,
            reset: true,
            stale: false,
            gone: false,
        };
        answer
            .into_body()
            .collect(ANSWER_LIMIT)
            .await
            .map(|body| (status, body))
            .map_err(cut)
    }

    fn url(&self, target: &str) -> String {
        let scheme = if self.settings.target.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}{target}", self.settings.target.authority())
    }
}

impl Transport {
    async fn send(
        &self,
        request: Request<Body>,
        connection: Connection,
    ) -> Result<Response<Body>, Unanswered> {
        match self {
            Self::Http1(client) => {
                let answer = match connection {
                    Connection::Any => client.send(request).await,
                    Connection::Fresh => client.send_afresh(request).await,
                };
                answer.map_err(|error| Unanswered {
                    unsent: error.is_unsent(),
                    reset: matches!(error, ClientError::Closed(_) | ClientError::Stale(_)),
                    stale: matches!(error, ClientError::Stale(_)),
                    gone: false,
                    why: error.to_string(),
                })
            }
            Self::Http2(client) => {
                client
                    .send(request)
                    .await
                    .map_err(|(refused, unsent)| Unanswered {
                        why: refusal(&refused),
                        unsent,
                        reset: !unsent,
                        stale: false,
                        gone: false,
                    })
            }
        }
    }
}

pub(crate) fn refusal(refused: &Refused) -> String {
    match refused {
        Refused::Dial(why) | Refused::Lost(why) | Refused::Malformed(why) => why.clone(),
    }
}

/// The length of an answer, as far as it is known.
fn announced(headers: &HeaderMap, body: &Body) -> u64 {
    let header = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    header.or_else(|| body.length()).unwrap_or(0)
}

/// Keeps a place at the turnstile until the body has been read.
fn holding(answer: Response<Body>, permit: Option<OwnedSemaphorePermit>) -> Response<Body> {
    match permit {
        Some(permit) if matches!(answer.body(), Body::Stream { .. }) => answer.map(|body| {
            let length = body.length();
            Body::Stream {
                stream: Box::pin(Holding {
                    body,
                    _permit: permit,
                }),
                length,
            }
        }),
        _ => answer,
    }
}

struct Holding {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl futures_core::Stream for Holding {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.body.poll_next(context)
    }
}

/// An app that sends less than it announced has sent what it had.
pub(crate) struct Forgiving {
    pub body: Body,
    pub done: bool,
}

impl futures_core::Stream for Forgiving {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        if self.done {
            return std::task::Poll::Ready(None);
        }
        let piece = std::task::ready!(self.body.poll_next(context));
        std::task::Poll::Ready(match piece {
            Some(Err(BodyError::Cut(_))) => {
                self.done = true;
                None
            }
            piece => piece,
        })
    }
}

/// An answer of an HTTP server as a reply to a call.
pub(crate) fn reply(answer: Response<Body>) -> Reply {
    let (parts, body) = answer.into_parts();
    let mut headers = parts.headers;
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let announced = headers.contains_key(CONTENT_LENGTH);
    fields::strip_connection(&mut headers);
    let body = match body {
        Body::Stream {
            length: length @ Some(_),
            ..
        } if announced => Body::Stream {
            stream: Box::pin(Forgiving { body, done: false }),
            length,
        },
        body => body,
    };
    Reply {
        status: ReplyStatus::Http(parts.status.as_u16()),
        fields: headers,
        trailers: HeaderMap::new(),
        content_type,
        type_url: String::new(),
        body,
        pushback: Pushback::None,
    }
}

#[async_trait]
impl AppChannel for HttpApp {
    async fn invoke(&self, call: Call) -> Result<Reply, CallFailure> {
        if call.lacks_extension {
            return Err(CallFailure::coded(
                GrpcCode::InvalidArgument,
                "missing HTTP extension field",
            ));
        }
        let Some(verb) = call.verb else {
            return Err(CallFailure::coded(
                GrpcCode::InvalidArgument,
                "invalid HTTP verb",
            ));
        };
        let target = match url::target("", &call.method, &call.query) {
            Ok(target) => target,
            Err(why) => {
                return Err(CallFailure::plain(format!(
                    "parse {:?}: {why}",
                    self.url(&format!("/{}", call.method))
                )));
            }
        };
        let mut headers = call.fields;
        fields::into_http(&mut headers);
        if let Some(authority) = &call.authority {
            fields::add(&mut headers, "dapr-authority", authority);
        }
        if let Some(kind) = call
            .content_type
            .as_deref()
            .and_then(|kind| HeaderValue::from_str(kind).ok())
        {
            headers.insert(CONTENT_TYPE, kind);
        }
        let (name, shown) = (title(verb.as_str()), target.clone());
        match self
            .send(verb, target, headers, call.body, &call.method)
            .await
        {
            Ok(answer) => Ok(reply(answer)),
            Err(failure) => {
                let message = format!("{name} {:?}: {}", self.url(shown.as_str()), failure.why);
                Err(CallFailure {
                    unsent: failure.unsent,
                    ..CallFailure::plain(message)
                })
            }
        }
    }

    async fn deliver(&self, delivery: &Delivery) -> Verdict {
        let target = match route(&delivery.path) {
            Ok(target) => target,
            Err(why) => return Verdict::Retry(why),
        };
        let headers = || {
            let mut headers = HeaderMap::with_capacity(12);
            for (name, value) in delivery.metadata.iter() {
                if !is_left_out(name) {
                    fields::add(&mut headers, name, value);
                }
            }
            add_trace(&mut headers, delivery.trace_parent.as_deref());
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static(cloud_event::CONTENT_TYPE),
            );
            headers
        };
        let answer = self
            .hand_over(target, headers, delivery.data.clone(), &delivery.path)
            .await;
        match answer {
            Ok((status, body)) => answers::verdict(status, &body),
            Err(failure) => self.no_answer(failure).await,
        }
    }

    async fn deliver_bulk(&self, delivery: &BulkDelivery) -> BulkVerdict {
        let target = match route(&delivery.path) {
            Ok(target) => target,
            Err(why) => return BulkVerdict::All(Verdict::Retry(why)),
        };
        let headers = || {
            let mut headers = HeaderMap::with_capacity(6);
            for (name, value) in &delivery.metadata {
                fields::add(&mut headers, name, value);
            }
            add_trace(&mut headers, delivery.trace_parent.as_deref());
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers
        };
        let answer = self
            .hand_over(target, headers, bulk_body(delivery).into(), &delivery.path)
            .await;
        match answer {
            Ok((status, body)) => answers::bulk_verdict(status, &body),
            Err(failure) => BulkVerdict::All(self.no_answer(failure).await),
        }
    }

    async fn subscriptions(&self) -> Discovered<Vec<AppSubscription>> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields::add(&mut headers, "dapr-app-id", &self.settings.app_id);
        match self
            .ask(Method::GET, "/dapr/subscribe", "dapr/subscribe", headers)
            .await
        {
            Ok((200, body)) => match subscriptions::parse(&body) {
                Ok(list) => Discovered::Answer(list),
                Err(why) => Discovered::Failed(format!("GET /dapr/subscribe: {why}")),
            },
            Ok((404, _)) => Discovered::None,
            Ok((status, _)) => Discovered::Failed(format!(
                "app returned http status code {status} from subscription endpoint"
            )),
            Err(why) => Discovered::Failed(format!("GET /dapr/subscribe: {why}")),
        }
    }

    async fn config(&self) -> Discovered<()> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields::add(&mut headers, "dapr-app-id", &self.settings.app_id);
        match self
            .ask(Method::GET, "/dapr/config", "/dapr/config", headers)
            .await
        {
            Ok((200, _)) => Discovered::Answer(()),
            Ok((404, _)) => Discovered::None,
            Ok((status, _)) => Discovered::Failed(format!(
                "app returned http status code {status} from config endpoint"
            )),
            Err(why) => Discovered::Failed(format!("GET /dapr/config: {why}")),
        }
    }

    async fn probe(&self) -> Probe {
        let started = Instant::now();
        // Dapr: no token goes with it (pkg/channel/http/http_channel.go, HealthProbe).
        let outcome = match bare(&self.settings.health_path) {
            Ok(request) => self.status_of(request, self.settings.probe_timeout).await,
            Err(why) => Err(why),
        };
        let (status, probe) = match outcome {
            Ok(status @ 200..=299) => (status, Probe::Healthy),
            Ok(status) => (
                status,
                Probe::Unhealthy(format!("Health check failed with status code: {status}")),
            ),
            Err(why) => (500, Probe::Unhealthy(format!("Network error: {why}"))),
        };
        let metrics = self.metrics();
        if metrics.settings.enabled {
            let mut number = itoa::Buffer::new();
            let labels = [number.format(status)];
            metrics.http_healthprobes_completed_count.add(labels, 1);
            metrics
                .http_healthprobes_roundtrip_latency
                .observe(labels, started.elapsed().as_millis() as f64);
        }
        probe
    }

    async fn readiness(&self) -> Result<(), String> {
        let Some(path) = &self.settings.ready else {
            return Ok(());
        };
        match self.status_of(self.question(path)?, READY_TIMEOUT).await {
            Ok(200..=299) => Ok(()),
            Ok(status) => Err(format!("GET {path}: status {status}")),
            Err(why) => Err(format!("GET {path}: {why}")),
        }
    }

    async fn accepts(&self) -> bool {
        accepts(&self.settings.target).await
    }

    async fn busy(&self) -> Answer {
        let Some(path) = &self.settings.busy_path else {
            return Answer::Unsupported("no path is configured".to_owned());
        };
        let request = match self.question(path) {
            Ok(request) => request,
            Err(why) => return Answer::Unsupported(why),
        };
        let asking = async {
            let answer = match self.transport.send(request, Connection::Any).await {
                Ok(answer) => answer,
                Err(failure) if failure.unsent => return Answer::Refused,
                Err(failure) => return Answer::Failed(failure.why),
            };
            let status = answer.status().as_u16();
            match answer.into_body().collect(BUSY_LIMIT).await {
                Ok(body) => busy_answer(status, &body),
                Err(error) => Answer::Failed(error.to_string()),
            }
        };
        tokio::time::timeout(BUSY_TIMEOUT, asking)
            .await
            .unwrap_or_else(|_| Answer::Failed("no answer within a second".to_owned()))
    }

    async fn tell(&self, event: Bytes) -> Result<(), String> {
        let Some(path) = &self.settings.lifecycle_path else {
            return Err("no path is configured".to_owned());
        };
        let mut request = self.question(path)?;
        *request.method_mut() = Method::POST;
        *request.body_mut() = Body::Bytes(event);
        request.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/cloudevents+json"),
        );
        let telling = async {
            let answer = self
                .transport
                .send(request, Connection::Any)
                .await
                .map_err(|failure| failure.why)?;
            let status = answer.status();
            answer.into_body().collect(BUSY_LIMIT).await.ok();
            if status.is_success() {
                Ok(())
            } else {
                Err(format!("status {}", status.as_u16()))
            }
        };
        tokio::time::timeout(TELL_TIMEOUT, telling)
            .await
            .unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
    }
}

/// A question that nothing goes with.
fn bare(path: &str) -> Result<Request<Body>, String> {
    let path = PathAndQuery::try_from(format!("/{}", path.trim_start_matches('/')))
        .map_err(|error| error.to_string())?;
    let mut request = Request::new(Body::EMPTY);
    *request.uri_mut() = Uri::from(path);
    Ok(request)
}

/// What an app says that is asked whether it is busy.
fn busy_answer(status: u16, body: &[u8]) -> Answer {
    match status {
        200..=299 => {
            let said = parse_all(body).ok();
            match said.as_ref().and_then(|said| said.get("busy")) {
                Some(Value::Bool(busy)) => Answer::Said(*busy),
                _ => Answer::Unsupported("the answer holds no boolean `busy`".to_owned()),
            }
        }
        404 | 405 | 501 => Answer::Unsupported(format!("status {status}")),
        _ => Answer::Failed(format!("status {status}")),
    }
}

impl HttpApp {
    pub fn target(&self) -> &Target {
        &self.settings.target
    }
}

/// The trace of an event; one that is no trace reads as the zero one.
fn add_trace(headers: &mut HeaderMap, parent: Option<&str>) {
    let Some(parent) = parent else { return };
    let parent = TraceContext::parse(parent, None).map_or_else(
        || TraceContext::ZERO_HEADER.to_owned(),
        |context| context.header(),
    );
    if let Ok(parent) = HeaderValue::try_from(parent) {
        headers.insert(TRACE_PARENT, parent);
    }
}

/// A route may hold a query.
fn route(path: &str) -> Result<PathAndQuery, String> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    url::target("", path, query)
}

/// Message metadata that is not passed on as a header.
fn is_left_out(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(
        name.as_str(),
        "content-type"
            | "content-length"
            | "host"
            | "traceparent"
            | "grpc-trace-bin"
            | "destination-app-id"
    ) || name.ends_with("-bin")
        || fields::is_hop_by_hop(&name)
        || HeaderName::from_bytes(name.as_bytes()).is_err()
}

fn bulk_body(delivery: &BulkDelivery) -> Vec<u8> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let entry = |entry: &outrigger_blocks::app::BulkEntry| {
        let (event, content_type) = match &entry.event {
            BulkEvent::Cloud(event) => (Value::clone(event), cloud_event::CONTENT_TYPE),
            BulkEvent::Raw(bytes) => (
                Value::String(STANDARD.encode(bytes)),
                "application/octet-stream",
            ),
        };
        let metadata = entry.metadata.as_ref().map_or(Value::Null, Value::strings);
        Value::object([
            ("entryId", Value::string(entry.entry_id.as_str())),
            ("event", event),
            ("contentType", Value::string(content_type)),
            ("metadata", metadata),
        ])
    };
    let envelope = Value::object([
        ("id", Value::String(uuid::Uuid::new_v4().to_string())),
        (
            "entries",
            Value::Array(delivery.entries.iter().map(entry).collect()),
        ),
        ("metadata", Value::strings(&delivery.metadata)),
        ("topic", Value::string(&*delivery.topic)),
        ("pubsubname", Value::string(&*delivery.pubsub)),
        ("type", Value::string("com.dapr.event.sent.bulk")),
    ]);
    encode(&envelope, Style::Ours, Numbers::Exact)
}

/// As Go names the operation in its errors.
pub(crate) fn title(verb: &str) -> String {
    let mut chars = verb.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_string() + &chars.as_str().to_ascii_lowercase()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_busy_not_busy_cannot_say_or_fails() {
        assert_eq!(busy_answer(200, br#"{"busy": true}"#), Answer::Said(true));
        assert_eq!(
            busy_answer(200, br#"{"busy": false, "jobs": 0}"#),
            Answer::Said(false)
        );
        for nonsense in [
            &b"{\"busy\": \"yes\"}"[..],
            b"{}",
            b"[true]",
            b"<html>",
            b"",
        ] {
            assert!(matches!(busy_answer(200, nonsense), Answer::Unsupported(_)));
        }
        assert!(matches!(busy_answer(404, b""), Answer::Unsupported(_)));
        assert!(matches!(
            busy_answer(503, br#"{"busy": false}"#),
            Answer::Failed(_)
        ));
    }
}
