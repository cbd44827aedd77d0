//! What every call passes through, in order: allow list, token, trace, metrics, API log, verb or proxy.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Uri};
use outrigger_blocks::Blocks;
use outrigger_blocks::fields::{API_TOKEN, APP_ID, BAGGAGE, CALLEE_APP_ID, GRPC_TRACE};
use outrigger_channel::proxy::{Proxy, Side, timeout_of};
use outrigger_channel::trace::trace_of;
use outrigger_core::Secret;
use outrigger_core::error::{Detail, GrpcCode};
use outrigger_core::secret::equal_in_constant_time;
use outrigger_core::trace::{TraceContext, check_baggage};
use outrigger_lifecycle::Moment;
use outrigger_proto::Message;
use outrigger_resiliency::report::{self, Report, Wish};
use outrigger_telemetry::metrics::Sizes;
use outrigger_telemetry::span::{Kind, Span};
use outrigger_wire::grpc::{Exchange, Messages, Reply, Status, encode};
use tracing::info;

use crate::method::{Method, Rule};
use crate::{health, lifecycle, reflection, verbs};

const DAPR: &str = "/dapr.proto.runtime.v1.Dapr/";
const TASK_HUB: &str = "/TaskHubSidecarService/";
/// What reflection lists.
const SERVICES: &[&str] = &[
    "TaskHubSidecarService",
    "dapr.proto.runtime.v1.Dapr",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "outrigger.v1.Health",
    "outrigger.v1.Lifecycle",
];

/// What the user chose for the gRPC API.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `DAPR_API_TOKEN`.
    pub token: Option<Secret>,
    pub shape: Shape,
    /// Bytes of a message that we send.
    pub max_message: usize,
    /// `--resiliency-details`: every answer tells of its policies.
    pub tells_policies: bool,
}

/// What the Configuration chooses. May change while calls are served.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub allowed: Vec<Rule>,
    pub denied: Vec<Rule>,
    pub log: Option<ApiLog>,
}

/// The API log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApiLog {
    pub health_checks: bool,
}

/// The gRPC API.
pub struct Api {
    pub(crate) blocks: Arc<Blocks>,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) settings: Settings,
    shape: ArcSwap<Shape>,
}

/// A call under way.
pub(crate) struct Context {
    pub metadata: HeaderMap,
    pub target: Uri,
    pub span: Span,
    /// When the caller stops waiting.
    pub until: Option<Moment>,
    /// Of the reply.
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
}

impl Context {
    /// The trace as events show it; empty where there is none.
    pub(crate) fn trace(&self) -> (String, String) {
        let context = self.span.context();
        if context.is_valid() {
            (context.header(), context.state.clone())
        } else {
            (String::new(), String::new())
        }
    }
}

impl Api {
    pub fn new(blocks: Arc<Blocks>, proxy: Arc<Proxy>, settings: Settings) -> Self {
        let shape = ArcSwap::from_pointee(settings.shape.clone());
        Self {
            blocks,
            proxy,
            settings,
            shape,
        }
    }

    /// Calls that come from now on are served like this.
    pub fn reshape(&self, shape: Shape) {
        self.shape.store(Arc::new(shape));
    }

    /// Answers a call.
    pub async fn handle(&self, exchange: Exchange) {
        let path = exchange.path().to_owned();
        let method = path.strip_prefix(DAPR).and_then(Method::find);
        let (is_shown, log) = {
            let shape = self.shape.load();
            let is_shown = |method: Method| method.is_shown(&shape.allowed, &shape.denied);
            (method.is_none_or(is_shown), shape.log)
        };
        if !is_shown {
            return exchange.refuse(
                HeaderMap::new(),
                &http_status(
                    GrpcCode::Unimplemented,
                    "Not Implemented",
                    "501",
                    "requested endpoint is not available",
                ),
            );
        }
        let named = exchange.head.headers.contains_key(APP_ID)
            || exchange.head.headers.contains_key(CALLEE_APP_ID);
        if !named && matches!(path.as_str(), health::CHECK | health::WATCH) {
            return if path == health::CHECK {
                Box::pin(health::check(exchange, &self.blocks)).await
            } else {
                Box::pin(health::watch(exchange, &self.blocks)).await
            };
        }
        if !named && path == health::COMPONENTS {
            let is_trusted = self.may_enter(&exchange.head.headers).is_ok();
            return Box::pin(health::components(exchange, &self.blocks, is_trusted)).await;
        }
        if let Err(why) = self.may_enter(&exchange.head.headers) {
            return exchange.refuse(
                HeaderMap::new(),
                &http_status(GrpcCode::Unauthenticated, "Unauthorized", "401", why),
            );
        }

        if !named && path.starts_with(lifecycle::SERVICE) {
            // No work that the end would wait for: some of it waits for that end.
            return Box::pin(lifecycle::serve(exchange, &self.blocks)).await;
        }
        let streams = matches!(method, Some(Method::SubscribeTopicEventsAlpha1))
            || path.starts_with("/grpc.reflection.");
        let _running = (!streams).then(|| self.blocks.activity.begin());
        let started = Instant::now();
        let agent = log.and_then(|_| exchange.head.headers.get(USER_AGENT).cloned());
        let code = match method {
            // Boxed, so that the task of a call is small: it is moved while it is made.
            Some(method) => Box::pin(self.serve(exchange, method, &path, started)).await,
            None if matches!(path.as_str(), reflection::V1 | reflection::V1_ALPHA)
                && (named || !self.blocks.tracer.is_on()) =>
            {
                Box::pin(reflection::serve(exchange, SERVICES)).await;
                GrpcCode::Ok
            }
            None if path.starts_with(TASK_HUB) => task_hub(exchange),
            None => Box::pin(self.pass(exchange, &path, started)).await,
        };
        if log.is_some() {
            let useragent = agent
                .as_ref()
                .and_then(|agent| agent.to_str().ok())
                .unwrap_or_default();
            let duration = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(target: "dapr.runtime.grpc.api-info", method = path, code = code.name(), duration, useragent, "gRPC API Called");
        }
    }

    fn may_enter(&self, metadata: &HeaderMap) -> Result<(), &'static str> {
        let Some(token) = &self.settings.token else {
            return Ok(());
        };
        let Some(given) = metadata.get(API_TOKEN) else {
            return Err("missing api token in request metadata");
        };
        if equal_in_constant_time(given.as_bytes(), token.reveal().as_bytes()) {
            Ok(())
        } else {
            Err("authentication error: api token mismatch")
        }
    }

    /// A call of ours.
    async fn serve(
        &self,
        exchange: Exchange,
        method: Method,
        path: &str,
        started: Instant,
    ) -> GrpcCode {
        let limit = timeout_of(&exchange.head.headers);
        let Exchange {
            head,
            messages,
            reply,
            ..
        } = exchange;
        let mut context = Context {
            metadata: head.headers,
            target: head.uri,
            until: limit.map(|limit| self.blocks.invoke.clock.now() + limit),
            span: Span::passing(TraceContext::default()),
            headers: HeaderMap::new(),
            trailers: HeaderMap::new(),
        };
        if self.blocks.tracer.is_on() {
            if let Err(status) = echo_baggage(&context.metadata, &mut context.headers) {
                return finish(reply, context, &status);
            }
            // Dapr: `tracestate` is not taken from metadata.
            let came = trace_of(&context.metadata).map(|came| TraceContext {
                state: String::new(),
                ..came
            });
            context.span = self
                .blocks
                .tracer
                .start(came.as_ref(), Kind::Client, || path.to_owned());
            if method != Method::InvokeService {
                put_binary(&mut context.headers, context.span.context());
            }
        }
        match method {
            Method::SubscribeTopicEventsAlpha1 => {
                Box::pin(verbs::subscribe::serve(self, messages, reply, context)).await
            }
            Method::SubscribeActorEventsAlpha1
            | Method::EncryptAlpha1
            | Method::DecryptAlpha1
            | Method::SubscribeConfiguration
            | Method::SubscribeConfigurationAlpha1 => {
                let status = Box::pin(verbs::absent::stream(self, method, messages)).await;
                finish(reply, context, &status)
            }
            _ => {
                self.unary(method, path, messages, reply, context, limit, started)
                    .await
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a call, taken apart once"
    )]
    async fn unary(
        &self,
        method: Method,
        path: &str,
        mut messages: Messages,
        mut reply: Reply,
        mut context: Context,
        limit: Option<Duration>,
        started: Instant,
    ) -> GrpcCode {
        let traced = context.span.is_recording();
        let (outcome, report) = {
            let work = async {
                let request = only(&mut messages).await?;
                let received = request.len();
                verbs::call(self, &mut context, method, request)
                    .await
                    .map(|answer| (answer, received))
            };
            let wish = Wish {
                events: traced,
                full: self.settings.tells_policies,
            };
            let work = pin!(work);
            let idle = self.blocks.invoke.resiliency.is_empty();
            let mut work = pin!(async move {
                if idle {
                    (work.await, None)
                } else {
                    report::collected(wish, work).await
                }
            });
            let limited = async {
                match limit {
                    Some(limit) => {
                        let call = outrigger_blocks::waiting::within(limit, &mut work);
                        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
                            let late = Status::new(
                                GrpcCode::DeadlineExceeded,
                                "context deadline exceeded".to_owned(),
                            );
                            (Err(late), None)
                        })
                    }
                    None => work.await,
                }
            };
            tokio::select! {
                biased;
                outcome = limited => outcome,
                // Whoever hangs up cancels the call.
                () = reply.cancelled() => return GrpcCode::Cancelled,
            }
        };
        let mut outcome = outcome;
        if let Some(report) = report {
            self.tell(*report, &mut outcome, &mut context);
        }
        let outcome = outcome.and_then(|(answer, received)| {
            // The frame's prefix is no part of the message.
            let sent = answer.len().saturating_sub(5);
            if sent > self.settings.max_message {
                return Err(Status::new(
                    GrpcCode::ResourceExhausted,
                    format!(
                        "grpc: trying to send message larger than max ({sent} vs. {})",
                        self.settings.max_message
                    ),
                ));
            }
            Ok((answer, received, sent))
        });
        let (code, sizes) = outcome.as_ref().map_or_else(
            |status| (status.code, (0, 0)),
            |(_, received, sent)| (GrpcCode::Ok, (*received, *sent)),
        );
        let sizes = Sizes {
            received: sizes.0 as u64,
            sent: sizes.1 as u64,
        };
        self.blocks
            .metrics
            .grpc_server(path, code.name(), Some(sizes), started.elapsed());
        match outcome {
            Ok((answer, ..)) => {
                let Context {
                    mut span,
                    headers,
                    trailers,
                    ..
                } = context;
                let status = Status {
                    metadata: trailers,
                    ..Status::ok()
                };
                reply.unary(headers, answer, &status);
                if span.is_recording() {
                    span.attribute("dapr.api", || path.to_owned());
                    span.attribute("dapr.protocol", || "grpc".to_owned());
                }
                span.finish();
                GrpcCode::Ok
            }
            Err(status) => {
                if let Some(reason) = reason_of(&status) {
                    self.blocks.metrics.error(&reason, "grpc");
                }
                if context.span.is_recording() {
                    context.span.attribute("dapr.api", || path.to_owned());
                    context
                        .span
                        .attribute("dapr.protocol", || "grpc".to_owned());
                }
                finish(reply, context, &status)
            }
        }
    }

    /// Adds to an answer what policies have to say of it.
    fn tell<T>(&self, report: Report, outcome: &mut Result<T, Status>, context: &mut Context) {
        let fields = report.fields(self.settings.tells_policies, outcome.is_err());
        match outcome {
            Err(status) => status.metadata.extend(fields),
            Ok(_) => context.headers.extend(fields),
        }
        for event in report.events {
            context.span.event(event.name, event.at, event.attributes);
        }
    }

    /// A call of a user's service.
    async fn pass(&self, mut exchange: Exchange, path: &str, started: Instant) -> GrpcCode {
        let marked = exchange.head.headers.contains_key(APP_ID);
        let mut headers = HeaderMap::new();
        let mut span = None;
        if self.blocks.tracer.is_on() {
            if let Err(status) = echo_baggage(&exchange.head.headers, &mut headers) {
                exchange.refuse(HeaderMap::new(), &status);
                return status.code;
            }
            let came = trace_of(&exchange.head.headers);
            let own = exchange
                .head
                .headers
                .get(CALLEE_APP_ID)
                .or_else(|| exchange.head.headers.get(APP_ID))
                .is_some_and(|id| id.as_bytes() == self.blocks.app_id.as_str().as_bytes());
            let started = self.blocks.tracer.start(
                came.as_ref(),
                if own { Kind::Server } else { Kind::Client },
                || path.to_owned(),
            );
            span = Some(started);
        }
        let context = span
            .as_ref()
            .map(Span::context)
            .filter(|context| context.is_valid())
            .cloned();
        if let Some(context) = &context {
            outrigger_channel::trace::hand_down(&mut exchange.head.headers, context);
        }
        let wish = Wish {
            events: span.as_ref().is_some_and(Span::is_recording),
            full: self.settings.tells_policies,
        };
        let passing = self.proxy.pass(exchange, Side::Api, context.as_ref());
        let (code, report) = report::collected(wish, pin!(passing)).await;
        if let Some(mut span) = span {
            for event in report.into_iter().flat_map(|report| report.events) {
                span.event(event.name, event.at, event.attributes);
            }
            if code != GrpcCode::Ok {
                span.fail(|| code.name().to_owned());
            }
            span.finish();
        }
        if marked {
            self.blocks
                .metrics
                .grpc_server(path, code.name(), None, started.elapsed());
        }
        code
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

/// Reads the only request of a unary call.
async fn only(messages: &mut Messages) -> Result<Bytes, Status> {
    match messages.next().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Status::internal(
            "cardinality violation: received no request message from non-client-streaming RPC",
        )),
        Err(error) => Err(error.to_status()),
    }
}

/// Ends a call with a status behind its headers.
pub(crate) fn finish(mut reply: Reply, context: Context, status: &Status) -> GrpcCode {
    let Context {
        mut span,
        headers,
        trailers,
        ..
    } = context;
    let mut status = status.clone();
    status.metadata.extend(trailers);
    if !headers.is_empty() && !reply.has_begun() && reply.start(headers).is_err() {
        return GrpcCode::Cancelled;
    }
    reply.end(HeaderMap::new(), &status);
    if status.code != GrpcCode::Ok {
        span.fail(|| status.message.clone());
    }
    span.finish();
    status.code
}

/// Workflow workers greet first. Without a placement service there is nothing else for them.
fn task_hub(exchange: Exchange) -> GrpcCode {
    if exchange.path().ends_with("/Hello") {
        exchange.answer(HeaderMap::new(), &());
        return GrpcCode::Ok;
    }
    exchange.refuse(
        HeaderMap::new(),
        &Status::unavailable("placement service is not configured"),
    );
    GrpcCode::Unavailable
}

/// A framed answer.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    encode(message)
}

/// Baggage is checked, and goes back as it came.
fn echo_baggage(metadata: &HeaderMap, headers: &mut HeaderMap) -> Result<(), Status> {
    let Some(baggage) = metadata.get(BAGGAGE) else {
        return Ok(());
    };
    check_baggage(baggage.to_str().unwrap_or_default())
        .map_err(|error| Status::new(GrpcCode::InvalidArgument, error.to_string()))?;
    if !baggage.is_empty() {
        headers.insert(BAGGAGE, baggage.clone());
    }
    Ok(())
}

fn put_binary(headers: &mut HeaderMap, context: &TraceContext) {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    if let Ok(value) = HeaderValue::try_from(STANDARD_NO_PAD.encode(context.to_binary())) {
        headers.insert(GRPC_TRACE, value);
    }
}

/// A status that Dapr makes from one of HTTP.
pub(crate) fn http_status(code: GrpcCode, phrase: &str, number: &str, text: &str) -> Status {
    let mut cut = text.len().min(63);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let shown = text.get(..cut).unwrap_or_default().to_owned();
    let metadata = [
        ("http.code".to_owned(), number.to_owned()),
        ("http.error_message".to_owned(), shown),
    ]
    .into();
    let detail = Detail::ErrorInfo {
        reason: phrase.to_owned().into(),
        domain: "dapr.io",
        metadata: Some(metadata),
    };
    Status::new(code, phrase.to_owned()).with_details(&[detail])
}

/// The code of an error, for its counter.
fn reason_of(status: &Status) -> Option<String> {
    let rich = status.details.is_some().then(|| status.rich())?;
    let info = rich
        .details
        .iter()
        .find(|detail| detail.type_url.ends_with("ErrorInfo"))?;
    outrigger_proto::google::rpc::ErrorInfo::decode(info.value.clone())
        .ok()
        .map(|info| info.reason)
}
