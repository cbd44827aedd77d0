//! For tests: a caller, us, and the other side, which are real HTTP/2 peers joined in memory.
//!
//! The clock of such a test is paused: time passes only when nothing else can happen.

use std::future::{Future, poll_fn};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use outrigger_lifecycle::{Scope, Stop};
use tokio::sync::mpsc;

use super::{Call, Messages, Reply, ServerSettings, serve};
use crate::http2::Settings;

/// Of every message.
pub(super) const LIMIT: usize = 4 << 20;

/// In memory, between two peers.
const PIPE: usize = 64 * 1024;

pub(super) struct Scene {
    inbound: SendRequest<Bytes>,
    exchanges: mpsc::Receiver<(Messages, Reply)>,
    outbound: SendRequest<Bytes>,
    calls: mpsc::Receiver<Other>,
    caller_line: Scope,
    other_line: Scope,
}

/// Who calls us.
pub(super) struct Caller {
    pub(super) to: SendStream<Bytes>,
    pub(super) response: ResponseFuture,
}

/// Whom we call.
pub(super) struct Other {
    pub(super) requests: RecvStream,
    pub(super) respond: SendResponse<Bytes>,
}

/// All of a reply.
#[derive(Debug, PartialEq)]
pub(super) struct Heard {
    pub(super) headers: HeaderMap,
    pub(super) bytes: Vec<u8>,
    /// None where the headers are the trailers.
    pub(super) trailers: Option<HeaderMap>,
}

impl Scene {
    pub(super) async fn new() -> Self {
        let (caller_line, other_line) = (Scope::root(), Scope::root());
        let (near, far) = tokio::io::duplex(PIPE);
        let (arrived, exchanges) = mpsc::channel(1);
        caller_line.spawn_future("us", async move {
            let settings = ServerSettings {
                http2: Settings::default(),
                max_message: LIMIT,
            };
            serve(far, settings, &Stop::new(), &Scope::root(), |exchange| {
                let arrived = arrived.clone();
                async move {
                    arrived.send((exchange.messages, exchange.reply)).await.ok();
                }
            })
            .await;
        });
        let (inbound, line) = h2::client::handshake(near).await.unwrap();
        caller_line.spawn("caller", |stop| async move {
            tokio::select! {
                _ = line => {}
                () = stop.cancelled() => {}
            }
        });
        let (near, far) = tokio::io::duplex(PIPE);
        let (arrived, calls) = mpsc::channel(1);
        other_line.spawn("other side", |stop| async move {
            let mut line = h2::server::handshake(far).await.unwrap();
            loop {
                let accepted = tokio::select! {
                    accepted = line.accept() => accepted,
                    () = stop.cancelled() => return,
                };
                let Some(Ok((request, respond))) = accepted else {
                    return;
                };
                let requests = request.into_body();
                arrived.try_send(Other { requests, respond }).ok();
            }
        });
        let (outbound, line) = Settings::default().client().handshake(near).await.unwrap();
        other_line.spawn_future("our client", async move {
            line.await.ok();
        });
        Self {
            inbound,
            exchanges,
            outbound,
            calls,
            caller_line,
            other_line,
        }
    }

    /// A call to us.
    pub(super) async fn caller(&mut self) -> (Caller, Messages, Reply) {
        let mut inbound = self.inbound.clone().ready().await.unwrap();
        let (response, to) = inbound.send_request(request(), false).unwrap();
        let (messages, reply) = self.exchanges.recv().await.unwrap();
        (Caller { to, response }, messages, reply)
    }

    /// A call of ours.
    pub(super) async fn call(&mut self) -> (Call, Other) {
        let mut outbound = self.outbound.clone().ready().await.unwrap();
        let (response, requests) = outbound.send_request(request(), false).unwrap();
        let call = Call {
            requests,
            response,
            slot: None,
            max_message: LIMIT,
        };
        (call, self.calls.recv().await.unwrap())
    }

    pub(super) fn cut_caller(&self) {
        self.caller_line.cancel();
    }

    pub(super) fn cut_other(&self) {
        self.other_line.cancel();
    }
}

impl Caller {
    pub(super) fn send(&mut self, bytes: impl Into<Bytes>, last: bool) {
        self.to.send_data(bytes.into(), last).unwrap();
    }
}

impl Other {
    /// The next frame, and whether it is the last.
    pub(super) async fn frame(&mut self) -> (Bytes, bool) {
        let frame = self.requests.data().await.unwrap().unwrap();
        release(&mut self.requests, frame.len());
        (frame, self.requests.is_end_stream())
    }

    pub(super) async fn read_to_end(&mut self) -> Vec<u8> {
        read_to_end(&mut self.requests).await
    }

    pub(super) async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            bytes.extend_from_slice(&self.frame().await.0);
        }
        bytes
    }

    pub(super) fn begin(&mut self) -> SendStream<Bytes> {
        self.respond.send_response(head(&headers()), false).unwrap()
    }

    /// Ends the call with headers that are all there is.
    pub(super) fn end(&mut self, headers: &HeaderMap) {
        self.respond.send_response(head(headers), true).unwrap();
    }

    /// Waits until we have cancelled the call, to which nothing was replied.
    pub(super) async fn cancelled(mut self) {
        let reason = poll_fn(|context| self.respond.poll_reset(context)).await;
        assert_eq!(reason.unwrap(), Reason::CANCEL);
    }
}

/// Waits until we have cancelled a call to which a reply has begun.
pub(super) async fn cancelled(mut back: SendStream<Bytes>) {
    let reason = poll_fn(|context| back.poll_reset(context)).await;
    assert_eq!(reason.unwrap(), Reason::CANCEL);
}

pub(super) async fn hear(
    response: impl Future<Output = Result<Response<RecvStream>, h2::Error>>,
) -> Heard {
    let (head, mut body) = response.await.unwrap().into_parts();
    let headers = head.headers;
    if body.is_end_stream() {
        return Heard {
            headers,
            bytes: Vec::new(),
            trailers: None,
        };
    }
    Heard {
        headers,
        bytes: read_to_end(&mut body).await,
        trailers: body.trailers().await.unwrap(),
    }
}

/// What a test waits for; it must come.
pub(super) async fn soon<T>(waited: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(5);
    let came = tokio::time::timeout(limit, waited).await;
    came.expect("nothing moves any more")
}

/// Lets everything happen that can, and sees that this is not among it.
pub(super) async fn stays<T>(waited: impl Future<Output = T>) {
    let limit = Duration::from_secs(1);
    assert!(tokio::time::timeout(limit, waited).await.is_err());
}

pub(super) fn headers() -> HeaderMap {
    map(&[("content-type", "application/grpc"), ("x-from", "there")])
}

pub(super) fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &'static str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    fields.iter().map(field).collect()
}

pub(super) async fn read_to_end(stream: &mut RecvStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.unwrap();
        release(stream, piece.len());
        bytes.extend_from_slice(&piece);
    }
    bytes
}

fn release(stream: &mut RecvStream, length: usize) {
    stream.flow_control().release_capacity(length).unwrap();
}

fn request() -> Request<()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri("http://there/a.B/C");
    request
        .header(CONTENT_TYPE, "application/grpc")
        .body(())
        .unwrap()
}

fn head(headers: &HeaderMap) -> Response<()> {
    let mut head = Response::new(());
    *head.headers_mut() = headers.clone();
    head
}
