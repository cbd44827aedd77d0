//! What every request passes through, in order: path, trace, metrics, CORS, token, API log, verb.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, RETRY_AFTER, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use outrigger_blocks::Blocks;
use outrigger_blocks::activity::Running;
use outrigger_blocks::fields::{API_TOKEN, BAGGAGE, TRACE_PARENT, TRACE_STATE};
use outrigger_core::error_code::reason_phrase;
use outrigger_core::secret::equal_in_constant_time;
use outrigger_core::trace::{TraceContext, check_baggage};
use outrigger_core::{Body, BodyError, Secret};
use outrigger_resiliency::report::{self, Report, Wish};
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::Sizes;
use outrigger_telemetry::span::{Kind, Span};
use outrigger_wire::http1::Streamed;
use tracing::info;

use crate::cors::Origins;
use crate::query::Query;
use crate::route::{INVOKE, Miss, Route, Rule, Table};
use crate::{path, reply, verbs};

/// What the user chose for the HTTP API.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `DAPR_API_TOKEN`.
    pub token: Option<Secret>,
    pub origins: Origins,
    pub shape: Shape,
    /// `--component-not-ready-status`, where it is not 503.
    pub not_ready_status: Option<u16>,
    /// `--resiliency-details`: every answer tells of its policies.
    pub tells_policies: bool,
}

/// What the Configuration chooses. May change while requests are served.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub allowed: Vec<Rule>,
    pub denied: Vec<Rule>,
    pub log: Option<ApiLog>,
}

/// The API log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApiLog {
    /// Name the operation in place of the path.
    pub obfuscate: bool,
    pub health_checks: bool,
}

/// The HTTP API.
#[derive(Debug)]
pub struct Api {
    pub(crate) blocks: Arc<Blocks>,
    pub(crate) settings: Settings,
    served: ArcSwap<Served>,
    /// Nobody who asks here has shown who they are.
    pub(crate) is_public: bool,
}

/// What is made of a [`Shape`].
#[derive(Debug)]
struct Served {
    table: Table,
    log: Option<ApiLog>,
}

impl Served {
    fn of(shape: &Shape) -> Self {
        Self {
            table: Table::new(&shape.allowed, &shape.denied),
            log: shape.log,
        }
    }
}

/// A request on its way to its verb.
pub(crate) struct Asked<'a> {
    pub head: &'a mut Parts,
    pub params: [&'a str; 4],
    pub body: Body,
    /// What is known of the request for logs and spans.
    pub trail: &'a mut Trail,
}

/// What a request turned out to be.
pub(crate) struct Trail {
    pub span: Span,
    pub route: &'static Route,
    /// The app that was called.
    pub target: Option<String>,
    /// Whoever asks may see more than statuses and codes.
    pub is_trusted: bool,
}

/// Whether a request may pass, and as whom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Trusted,
    /// To what is open to everybody.
    Stranger,
    Refused,
}

impl<'a> Asked<'a> {
    /// A parameter of the path.
    pub(crate) fn param(&self, place: usize) -> std::borrow::Cow<'a, str> {
        path::unescaped(self.params.get(place).copied().unwrap_or_default())
    }

    pub(crate) fn query(&self) -> Query<'_> {
        Query::parse(self.head.uri.query())
    }

    /// The whole body.
    pub(crate) async fn read(&mut self) -> Result<Bytes, BodyError> {
        std::mem::replace(&mut self.body, Body::EMPTY)
            .collect(usize::MAX)
            .await
    }
}

impl Api {
    pub fn new(blocks: Arc<Blocks>, settings: Settings) -> Self {
        let served = ArcSwap::from_pointee(Served::of(&settings.shape));
        Self {
            blocks,
            settings,
            served,
            is_public: false,
        }
    }

    /// Requests that come from now on are served like this.
    pub fn reshape(&self, shape: &Shape) {
        self.served.store(Arc::new(Served::of(shape)));
    }

    /// An API without protection, whose callers are strangers.
    pub(crate) fn for_strangers(blocks: Arc<Blocks>) -> Self {
        Self {
            is_public: true,
            ..Self::new(blocks, Settings::default())
        }
    }

    /// Answers a request. `peer` is where it comes from.
    pub async fn handle(&self, request: Request<Body>, peer: Option<SocketAddr>) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let uri = head.uri.clone();
        let shown = path::decoded(uri.path());
        // Dapr: no path with this word is traced; only our own health is no work in hand.
        let is_health = shown.contains("/healthz");
        let running =
            (!is_open(uri.path()) && !is_ours(uri.path())).then(|| self.blocks.activity.begin());
        let mut trail = Trail {
            span: Span::passing(TraceContext::default()),
            route: &INVOKE,
            target: None,
            is_trusted: false,
        };
        if is_health || !self.blocks.tracer.is_on() {
            return self
                .serve(&mut head, &shown, body, &mut trail, running)
                .await;
        }

        let baggage = head.headers.get(BAGGAGE).cloned();
        if let Some(Err(error)) = baggage
            .as_ref()
            .map(|text| check_baggage(text.to_str().unwrap_or_default()))
        {
            return reply::text(StatusCode::BAD_REQUEST, &error.to_string());
        }
        let came = incoming(&head.headers);
        trail.span = self
            .blocks
            .tracer
            .start(came.as_ref(), Kind::Client, || shown.clone().into_owned());
        hand_down(&mut head.headers, trail.span.context());
        let method = head.method.clone();

        let mut response = self
            .serve(&mut head, &shown, body, &mut trail, running)
            .await;

        let Trail {
            mut span,
            route,
            target,
            ..
        } = trail;
        let out = response.headers_mut();
        if !out.contains_key(TRACE_PARENT) {
            put_trace(out, span.context());
        }
        if let Some(baggage) = baggage {
            out.insert(BAGGAGE, baggage);
        }
        if span.is_recording() {
            describe(
                &mut span,
                route,
                target.as_deref(),
                &method,
                &uri,
                &shown,
                &head.headers,
                peer,
                response.status(),
            );
        }
        span.finish();
        response
    }

    /// Behind the trace: metrics, CORS, token, log.
    async fn serve(
        &self,
        head: &mut Parts,
        shown: &str,
        body: Body,
        trail: &mut Trail,
        running: Option<Running>,
    ) -> Response<Body> {
        let started = Instant::now();
        let method = head.method.clone();
        let received = head
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let log = self.served.load().log;
        let agent = log.and_then(|_| head.headers.get(USER_AGENT).cloned());
        let origin = self.settings.origins.is_on().then(|| head.headers.clone());

        let entry = self.entry(&method, head.uri.path(), &mut head.headers);
        trail.is_trusted = entry == Entry::Trusted && !self.is_public;
        let (mut response, logged) = match &origin {
            Some(headers) if Origins::is_preflight(&method, headers) => {
                (self.settings.origins.preflight(headers), false)
            }
            _ if entry == Entry::Refused => (
                reply::text(StatusCode::UNAUTHORIZED, "invalid api token"),
                false,
            ),
            _ => (self.answer(head, shown, body, trail).await, true),
        };
        if let Some(headers) = &origin
            && !Origins::is_preflight(&method, headers)
        {
            self.settings
                .origins
                .mark(&method, headers, response.headers_mut());
        }

        let log = log.filter(|log| logged && (log.health_checks || !trail.route.is_health_check()));
        let operation = log.map(|log| {
            if log.obfuscate {
                trail.operation()
            } else {
                format!("{method} {shown}")
            }
        });
        let done = Done {
            metrics: self.blocks.metrics.clone(),
            method,
            path: shown.to_owned(),
            status: response.status(),
            received,
            started,
            operation,
            agent,
            _running: running,
        };
        match response.body().length() {
            Some(sent) if matches!(response.body(), Body::Bytes(_)) => {
                done.record(sent);
                response
            }
            // What a stream amounts to is known at its end.
            _ => response.map(|body| {
                let length = body.length();
                Body::Stream {
                    stream: Box::pin(Counted {
                        body,
                        sent: 0,
                        done: Some(done),
                    }),
                    length,
                }
            }),
        }
    }

    /// Whether the token is right, or not asked for. It is for us alone and goes no further.
    /// What is judged is the path that will be routed: an escaped one may look like another.
    fn entry(&self, method: &Method, path: &str, headers: &mut HeaderMap) -> Entry {
        let Some(token) = &self.settings.token else {
            return Entry::Trusted;
        };
        let given = headers.remove(API_TOKEN);
        let right = given.is_some_and(|given| {
            equal_in_constant_time(given.as_bytes(), token.reveal().as_bytes())
        });
        if right {
            Entry::Trusted
        } else if *method == Method::GET && is_open(path) {
            Entry::Stranger
        } else {
            Entry::Refused
        }
    }

    /// The verb's answer, with what policies have to say of it.
    async fn answer(
        &self,
        head: &mut Parts,
        shown: &str,
        body: Body,
        trail: &mut Trail,
    ) -> Response<Body> {
        let wish = Wish {
            events: trail.span.is_recording(),
            full: self.settings.tells_policies,
        };
        let (mut response, report) = {
            let dispatched = pin!(self.dispatch(head, shown, body, trail));
            if self.blocks.invoke.resiliency.is_empty() {
                return dispatched.await;
            }
            report::collected(wish, dispatched).await
        };
        if let Some(report) = report {
            let failed = response.status().is_client_error() || response.status().is_server_error();
            tell(&report, wish.full, failed, response.headers_mut());
            for event in report.events {
                trail.span.event(event.name, event.at, event.attributes);
            }
        }
        response
    }

    async fn dispatch(
        &self,
        head: &mut Parts,
        shown: &str,
        body: Body,
        trail: &mut Trail,
    ) -> Response<Body> {
        let uri = head.uri.clone();
        let cleaned = path::clean(uri.path());
        let served = self.served.load();
        let (found, invokes) = (
            served.table.find(&head.method, &cleaned),
            served.table.invokes(),
        );
        drop(served);
        match found {
            Ok(matched) => {
                trail.route = matched.route;
                let asked = Asked {
                    head,
                    params: matched.params,
                    body,
                    trail,
                };
                self.finish(verbs::call(self, asked, matched.route.verb).await)
            }
            Err(Miss::OwnVerb(verbs)) => reply::not_allowed(&verbs),
            Err(_) if invokes => {
                let asked = Asked {
                    head,
                    params: [""; 4],
                    body,
                    trail,
                };
                self.finish(verbs::invoke::call(self, asked, shown).await)
            }
            Err(Miss::Path) => reply::not_found(),
            Err(Miss::Verb) => reply::not_allowed(&[]),
        }
    }

    /// The answer, and its place in the counter of errors where it is one.
    pub(crate) fn finish(&self, outcome: verbs::Outcome) -> Response<Body> {
        match outcome {
            Ok(response) => response,
            Err(error) => {
                self.blocks.metrics.error(&error.tag, error.category);
                let mut response = reply::error(&error);
                if let Some(status) = self
                    .settings
                    .not_ready_status
                    .and_then(|status| StatusCode::from_u16(status).ok())
                    && error.tag == "ERR_COMPONENT_NOT_READY"
                {
                    *response.status_mut() = status;
                }
                response
            }
        }
    }
}

/// Adds to an answer what policies have to say of it.
fn tell(report: &Report, full: bool, failed: bool, headers: &mut HeaderMap) {
    for (name, value) in report.fields(full, failed) {
        // Only when to come again may be the app's own word.
        if name == RETRY_AFTER {
            headers.entry(name).or_insert(value);
        } else {
            headers.insert(name, value);
        }
    }
}

/// A trace as events show it; empty where there is none.
pub(crate) fn trace_texts(context: &TraceContext) -> (String, String) {
    if context.is_valid() {
        (context.header(), context.state.clone())
    } else {
        (String::new(), String::new())
    }
}

/// Paths that ask for no token. What is judged is what will be routed.
/// Questions about the sidecar itself. They are no work that its end would wait for: some of them wait for that end.
fn is_ours(path: &str) -> bool {
    path.starts_with("/outrigger/")
}

fn is_open(path: &str) -> bool {
    let cleaned = path::clean(path);
    match cleaned
        .trim_matches('/')
        .strip_prefix("v1.0/healthz")
        .map(|rest| rest.trim_start_matches('/'))
    {
        Some("" | "outbound" | "live" | "components") => true,
        Some(rest) => rest
            .strip_prefix("components/")
            .is_some_and(|name| !name.is_empty() && !name.contains('/')),
        None => false,
    }
}

/// The trace that a request came with.
fn incoming(headers: &HeaderMap) -> Option<TraceContext> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    TraceContext::parse(text(TRACE_PARENT)?, text(TRACE_STATE))
}

/// What an app behind this request is told of the trace: ours if there is one, else what came, else that there is none.
fn hand_down(headers: &mut HeaderMap, context: &TraceContext) {
    if context.is_valid() {
        put_trace(headers, context);
    } else if !headers.contains_key(TRACE_PARENT) {
        headers.remove(TRACE_STATE);
        headers.insert(
            TRACE_PARENT,
            HeaderValue::from_static(TraceContext::ZERO_HEADER),
        );
    }
}

fn put_trace(headers: &mut HeaderMap, context: &TraceContext) {
    if !context.is_valid() {
        headers.insert(
            TRACE_PARENT,
            HeaderValue::from_static(TraceContext::ZERO_HEADER),
        );
        return;
    }
    if let Ok(parent) = HeaderValue::try_from(context.header()) {
        headers.insert(TRACE_PARENT, parent);
    }
    if !context.state.is_empty()
        && let Ok(state) = HeaderValue::from_str(&context.state)
    {
        headers.insert(TRACE_STATE, state);
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "everything that a span shows of a request"
)]
fn describe(
    span: &mut Span,
    route: &Route,
    target: Option<&str>,
    method: &Method,
    uri: &http::Uri,
    shown: &str,
    headers: &HeaderMap,
    peer: Option<SocketAddr>,
    status: StatusCode,
) {
    for (name, value) in headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("dapr-"))
    {
        span.copied(
            name.as_str(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        );
    }
    let statement = || format!("{method} {shown}");
    match route.group {
        "state" | "secrets" => {
            let store = shown.split('/').nth(3).unwrap_or_default().to_owned();
            span.attribute("db.system", || route.group.to_owned());
            span.attribute("db.connection_string", || route.group.to_owned());
            span.attribute("db.statement", statement);
            span.attribute("db.name", || store);
        }
        "bindings" => {
            let name = shown.split('/').nth(3).unwrap_or_default().to_owned();
            span.attribute("db.system", || "bindings".to_owned());
            span.attribute("db.connection_string", || "bindings".to_owned());
            span.attribute("db.statement", statement);
            span.attribute("db.name", || name);
        }
        "publish" => {
            let topic = shown.rsplit('/').next().unwrap_or_default().to_owned();
            span.attribute("messaging.system", || "pubsub".to_owned());
            span.attribute("messaging.destination.name", || topic);
        }
        "invoke" => {
            if let Some(target) = target {
                let app = target.split('/').next().unwrap_or_default().to_owned();
                span.attribute("rpc.service", || "ServiceInvocation".to_owned());
                span.attribute("net.peer.name", || app);
                span.rename(|| format!("CallLocal/{target}"));
            }
        }
        _ => {}
    }
    span.attribute("dapr.protocol", || "http".to_owned());
    span.attribute("dapr.api", statement);
    span.attribute("dapr.status_code", || status.as_u16().to_string());
    span.attribute("http.request.method", || method.to_string());
    span.attribute("url.full", || {
        uri.path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default()
    });
    if let Some(peer) = peer {
        span.attribute("server.address", || peer.ip().to_string());
        span.attribute("server.port", || peer.port().to_string());
    }
    if status.as_u16() >= 400 {
        span.fail(|| {
            format!(
                "Code({}): {}",
                status.as_u16(),
                reason_phrase(status.as_u16())
            )
        });
    }
}

impl Trail {
    /// The name of what was asked, without the parts that tell whose data it was.
    fn operation(&self) -> String {
        match &self.target {
            Some(target) if self.route.group == "invoke" => format!(
                "InvokeService/{}",
                target.split('/').next().unwrap_or_default()
            ),
            _ => self.route.name.to_owned(),
        }
    }
}

/// What is recorded of a request when its reply has gone out.
struct Done {
    metrics: Arc<Metrics>,
    method: Method,
    path: String,
    status: StatusCode,
    received: u64,
    started: Instant,
    operation: Option<String>,
    agent: Option<HeaderValue>,
    _running: Option<Running>,
}

impl Done {
    fn record(self, sent: u64) {
        let elapsed = self.started.elapsed();
        let status = self.status.as_u16();
        self.metrics.http_server(
            self.method.as_str(),
            &self.path,
            status,
            Sizes {
                received: self.received,
                sent,
            },
            elapsed,
        );
        if let Some(method) = self.operation {
            let agent = self.agent.as_ref().and_then(|agent| agent.to_str().ok());
            let duration = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            match agent {
                Some(useragent) => {
                    info!(target: "dapr.runtime.http-info", method, useragent, code = status, size = sent, duration, "HTTP API Called")
                }
                None => {
                    info!(target: "dapr.runtime.http-info", method, code = status, size = sent, duration, "HTTP API Called")
                }
            }
        }
    }
}

/// Counts a reply while it goes out.
struct Counted {
    body: Body,
    sent: u64,
    done: Option<Done>,
}

impl futures_core::Stream for Counted {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let piece = std::task::ready!(self.body.poll_next(context));
        if let Some(Ok(bytes)) = &piece {
            self.sent += bytes.len() as u64;
        }
        std::task::Poll::Ready(piece)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done.record(self.sent);
        }
    }
}

/// Marks a reply whose length is not told.
pub(crate) fn streamed(response: &mut Response<Body>) {
    response.extensions_mut().insert(Streamed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_itself_asks_for_no_token_however_the_path_is_written() {
        for path in [
            "/v1.0/healthz",
            "/v1.0/healthz/",
            "/v1.0//healthz/outbound",
            "/v1.0/state/../healthz/live",
            "/v1.0/healthz/components",
            "/v1.0/healthz/components/orders",
        ] {
            assert!(is_open(path), "{path}");
        }
        for path in [
            "/v1.0/healthz/outbound/../../secrets/env/bulk",
            "/v1.0/healthz/./../secrets/env/HOME",
            "/v1.0/healthz//../state/st/a",
            "/v1.0/healthz/x",
            "/v1.0/secrets/env/..%2f..%2fhealthz",
            "/v1.0/invoke/a/method/b%2f..%2f..%2f..%2f..%2fhealthz%2fcomponents%2fc",
            "/v1.0/healthzoutbound/x",
            "/v1.0/healthz/components/orders/x",
            "/v1.0/healthz/components/../../secrets/env/bulk",
            "/v1.0/invoke/a/method/healthz",
        ] {
            assert!(!is_open(path), "{path}");
        }
    }
}
