//! Calls from the sidecars of other apps, on their way to our app.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Method};
use outrigger_blocks::fields::{CALLER_APP_ID, TRACE_PARENT};
use outrigger_blocks::invoke::{Call, CallFailure, Invoke, Reply, decimal, normalise_method};
use outrigger_core::Body;
use outrigger_core::error::GrpcCode;
use outrigger_core::trace::TraceContext;
use outrigger_proto::Message as _;
use outrigger_proto::dapr::proto::internals::v1 as internals;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::span::{Kind, Span, Tracer};
use outrigger_wire::grpc::{self, Exchange, Gone, Messages, Status};

use super::codec::{self, Malformed, Piece};
use super::pieces::Incoming;
use super::{CALL_LOCAL, CALL_LOCAL_STREAM};
use crate::trace::{put_trace, trace_of};

/// Who may call our app. Callers are known by their certificates only; without mTLS nobody is, and the default decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// No policy is configured.
    Open,
    Default {
        allow: bool,
    },
}

impl Access {
    /// # Errors
    /// With the text that the caller is told.
    pub fn check(self, metrics: &Metrics, operation: &str, verb: &str) -> Result<(), String> {
        match self {
            Self::Open => Ok(()),
            Self::Default { allow: true } => {
                metrics.acl_global_allowed.add(["", ""], 1);
                Ok(())
            }
            Self::Default { allow: false } => {
                metrics.acl_global_blocked.add(["", ""], 1);
                Err(format!(
                    "access control policy has denied access to id:  operation: {operation} verb: {verb}"
                ))
            }
        }
    }
}

/// Answers other sidecars.
pub struct PeerServer {
    pub invoke: Arc<Invoke>,
    /// May change while calls are served.
    pub access: Arc<ArcSwap<Access>>,
    /// The app speaks HTTP, so that its verbs count.
    pub app_is_http: bool,
    pub tracer: Tracer,
    /// Bytes of one piece of a body.
    pub piece: usize,
}

impl PeerServer {
    /// Whether a path is one of ours.
    pub fn serves(path: &str) -> bool {
        matches!(path, CALL_LOCAL | CALL_LOCAL_STREAM)
    }

    /// Answers one call.
    pub async fn answer(&self, exchange: Exchange) {
        if exchange.path() == CALL_LOCAL {
            Box::pin(self.call_local(exchange)).await
        } else {
            self.call_local_stream(exchange).await
        }
    }

    async fn call_local_stream(&self, exchange: Exchange) {
        let Exchange {
            head,
            mut messages,
            mut reply,
            ..
        } = exchange;
        let trace = trace_of(&head.headers);
        let request = match self.first(&mut messages).await {
            Ok(request) => request,
            Err(status) => return reply.end(HeaderMap::new(), &status),
        };
        let (call, caller, span) = match self.call(request, messages, trace.as_ref()) {
            Ok(call) => call,
            Err(status) => return reply.end(HeaderMap::new(), &status),
        };
        let answer = {
            let mut work = pin!(self.invoke.call_own_app(call));
            let mut gone = pin!(reply.cancelled());
            let first = poll_fn(|context| match work.as_mut().poll(context) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => gone.as_mut().poll(context).map(|()| None),
            });
            // Whoever hangs up cancels the call.
            let Some(answer) = first.await else { return };
            answer
        };
        finish(span, &answer);
        match answer {
            Ok(answer) => {
                self.sent(&caller, answer.status.number());
                if self.stream_back(&mut reply, answer).await.is_err() {
                    reply.reset();
                }
            }
            Err(failure) => {
                self.sent(&caller, u16::from(GrpcCode::Internal.number()));
                reply.end(HeaderMap::new(), &told(&failure));
            }
        }
    }

    /// Reads the message that says what is called.
    async fn first(&self, messages: &mut Messages) -> Result<codec::Request, Status> {
        if self.invoke.app.is_none() {
            return Err(Status::internal("app channel is not initialized"));
        }
        let message = match messages.next().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(Status::unknown("EOF")),
            Err(error) => return Err(error.to_status()),
        };
        codec::read_request(&message).map_err(|Malformed| {
            Status::internal(
                "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data",
            )
        })
    }

    /// The call to our app, with its caller.
    fn call(
        &self,
        request: codec::Request,
        messages: Messages,
        trace: Option<&TraceContext>,
    ) -> Result<(Call, String, Span), Status> {
        let lacking = || {
            Status::new(GrpcCode::InvalidArgument, "parsing InternalInvokeRequest error: request does not contain the required fields in the leading chunk".to_owned())
        };
        let codec::RequestHead {
            method,
            verb,
            lacks_extension,
            query,
            content_type,
            type_url,
            mut fields,
            authority,
            surface,
            length,
        } = request.head.ok_or_else(lacking)?;
        let method = self.admit(&method, verb.as_ref())?;
        let caller = self.received(&fields);
        let span = self.span(&mut fields, trace, &method);
        let whole = length.is_some_and(|length| {
            request
                .piece
                .as_ref()
                .map_or(0, |piece| piece.data.len() as u64)
                == length
        });
        let body = match request.piece {
            Some(piece) if whole && piece.number == 0 => Body::Bytes(piece.data),
            None if whole => Body::EMPTY,
            piece => {
                let mut incoming = Incoming::<Never>::new(messages, piece, later, "request", None);
                let mut context = Context::from_waker(Waker::noop());
                match incoming.poll_whole(&mut context) {
                    Some(bytes) => Body::Bytes(bytes),
                    None => Body::Stream {
                        stream: Box::pin(incoming),
                        length,
                    },
                }
            }
        };
        let call = Call {
            doubled_slash: false,
            until: None,
            method,
            verb,
            lacks_extension,
            query,
            fields,
            surface,
            authority,
            content_type,
            type_url,
            body,
        };
        Ok((call, caller, span))
    }

    /// Cleans the method once more and asks the policy.
    fn admit(&self, method: &str, verb: Option<&Method>) -> Result<String, Status> {
        let method = normalise_method(method).map_err(|reason| {
            Status::new(
                GrpcCode::InvalidArgument,
                format!("invalid method: {reason}"),
            )
        })?;
        let verb = verb
            .filter(|_| self.app_is_http)
            .map_or("NONE", Method::as_str);
        match self
            .access
            .load()
            .check(&self.invoke.metrics, &method, verb)
        {
            Ok(()) => Ok(method),
            Err(reason) => Err(Status::new(GrpcCode::PermissionDenied, reason)),
        }
    }

    /// The span of a call. The trace that goes on to the app is that of the call itself, if there is one.
    fn span(&self, fields: &mut HeaderMap, trace: Option<&TraceContext>, method: &str) -> Span {
        let mut span = self.tracer.start(trace, Kind::Server, || {
            format!("CallLocal/{}/{method}", self.invoke.app_id)
        });
        span.attribute("dapr.api", || CALL_LOCAL_STREAM.to_owned());
        span.attribute("dapr.protocol", || "grpc".to_owned());
        span.attribute("dapr.invoke_method", || method.to_owned());
        span.attribute("rpc.service", || "ServiceInvocation".to_owned());
        span.attribute("rpc.system", || "grpc".to_owned());
        if span.context().is_valid() {
            put_trace(fields, span.context());
        } else if self.tracer.is_on() && !fields.contains_key(TRACE_PARENT) {
            fields.insert(
                TRACE_PARENT,
                http::HeaderValue::from_static(TraceContext::ZERO_HEADER),
            );
        }
        span
    }

    async fn stream_back(&self, out: &mut grpc::Reply, mut answer: Reply) -> Result<(), Gone> {
        out.start(HeaderMap::new())?;
        let mut number = 0;
        let body = std::mem::replace(&mut answer.body, Body::EMPTY);
        match body {
            Body::Bytes(mut bytes) => {
                let first = bytes.split_to(bytes.len().min(self.piece));
                out.send(codec::response(
                    &answer,
                    (!first.is_empty()).then_some(&first[..]),
                ))
                .await?;
                while !bytes.is_empty() {
                    number += 1;
                    out.send(codec::piece(
                        &bytes.split_to(bytes.len().min(self.piece)),
                        number,
                    ))
                    .await?;
                }
            }
            mut stream => {
                // The head does not wait for the body, and takes along what is there.
                let ready = stream.poll_next(&mut Context::from_waker(Waker::noop()));
                let mut next = match ready {
                    Poll::Ready(Some(Ok(piece)))
                        if !piece.is_empty() && piece.len() <= self.piece =>
                    {
                        out.send(codec::response(&answer, Some(&piece[..]))).await?;
                        number = 1;
                        stream.next().await
                    }
                    ready => {
                        out.send(codec::response(&answer, None)).await?;
                        match ready {
                            Poll::Ready(piece) => piece,
                            Poll::Pending => stream.next().await,
                        }
                    }
                };
                while let Some(piece) = next {
                    let Ok(mut piece) = piece else {
                        out.end(
                            HeaderMap::new(),
                            &Status::unknown("the answer of the app broke off"),
                        );
                        return Ok(());
                    };
                    while !piece.is_empty() {
                        out.send(codec::piece(
                            &piece.split_to(piece.len().min(self.piece)),
                            number,
                        ))
                        .await?;
                        number += 1;
                    }
                    next = stream.next().await;
                }
            }
        }
        out.end(HeaderMap::new(), &Status::ok());
        Ok(())
    }

    /// The form without streams, for callers of old.
    async fn call_local(&self, mut exchange: Exchange) {
        let trace = trace_of(&exchange.head.headers);
        let outcome = self.call_local_whole(&mut exchange, trace.as_ref()).await;
        match outcome {
            Ok(response) => exchange.answer(HeaderMap::new(), &response),
            Err(status) => exchange.refuse(HeaderMap::new(), &status),
        }
    }

    async fn call_local_whole(
        &self,
        exchange: &mut Exchange,
        trace: Option<&TraceContext>,
    ) -> Result<internals::InternalInvokeResponse, Status> {
        if self.invoke.app.is_none() {
            return Err(Status::internal("app channel is not initialized"));
        }
        let request = exchange
            .request::<internals::InternalInvokeRequest>()
            .await?;
        let lacking = |what| {
            Status::new(
                GrpcCode::InvalidArgument,
                format!("parsing InternalInvokeRequest error: {what}"),
            )
        };
        let data = request
            .message
            .as_ref()
            .and_then(|message| message.data.as_ref())
            .map(|data| data.value.clone())
            .unwrap_or_default();
        let stream = internals::InternalInvokeRequestStream {
            request: Some(request),
            payload: None,
        };
        let read = codec::read_request(&stream.encode_to_vec().into())
            .map_err(|Malformed| lacking("proto: cannot parse invalid wire-format data"))?;
        let head = read.head.ok_or_else(|| lacking("Message field is nil"))?;
        let method = self.admit(&head.method, head.verb.as_ref())?;
        let mut fields = head.fields;
        let caller = self.received(&fields);
        let span = self.span(&mut fields, trace, &method);
        let call = Call {
            doubled_slash: false,
            until: None,
            method,
            verb: head.verb,
            lacks_extension: head.lacks_extension,
            query: head.query,
            fields,
            surface: head.surface,
            authority: head.authority,
            content_type: head.content_type,
            type_url: head.type_url,
            body: Body::Bytes(data),
        };
        let answer = self.invoke.call_own_app(call).await;
        finish(span, &answer);
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                self.sent(&caller, u16::from(GrpcCode::Internal.number()));
                return Err(told(&failure));
            }
        };
        self.sent(&caller, answer.status.number());
        let body = std::mem::replace(&mut answer.body, Body::EMPTY)
            .collect(usize::MAX)
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let encoded = codec::response(&answer, None).slice(codec::FRAME_PREFIX..);
        let mut response = internals::InternalInvokeResponseStream::decode(encoded)
            .ok()
            .and_then(|stream| stream.response)
            .unwrap_or_default();
        response
            .message
            .get_or_insert_default()
            .data
            .get_or_insert_default()
            .value = body;
        Ok(response)
    }

    fn received(&self, fields: &HeaderMap) -> String {
        let caller = fields
            .get(CALLER_APP_ID)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("unknown")
            .to_owned();
        self.invoke.metrics.invocation_req_recv.add([&caller], 1);
        caller
    }

    fn sent(&self, caller: &str, status: u16) {
        let mut number = [0; 5];
        self.invoke
            .metrics
            .invocation_res_sent
            .add([caller, decimal(status, &mut number)], 1);
    }
}

impl std::fmt::Debug for PeerServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerServer")
    }
}

fn finish(mut span: Span, answer: &Result<Reply, CallFailure>) {
    if let Err(failure) = answer {
        span.fail(|| failure.text());
    }
    span.finish();
}

type Never = std::future::Pending<()>;

fn later(message: &Bytes) -> Result<(Option<Piece>, bool), Malformed> {
    codec::read_request(message).map(|read| (read.piece, read.has_fields))
}

/// What a failure before the app's answer looks like to the calling sidecar. One that passes is UNAVAILABLE, so that its
/// built-in retries take it up.
fn told(failure: &CallFailure) -> Status {
    match &failure.told {
        Some(error) => Status::from(&**error),
        None => Status::internal(format!("error invoking app channel: {}", failure.text())),
    }
}
