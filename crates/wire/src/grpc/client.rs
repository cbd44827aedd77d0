//! The client side: one HTTP/2 connection to a target, opened on first use and again when it is gone.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use outrigger_core::error::GrpcCode;
use outrigger_lifecycle::Scope;
use outrigger_proto::Message;

use super::{Messages, Status, frame};
use crate::http2;
use crate::io::Target;

/// Calls to one target. Cheap calls share one connection.
#[derive(Debug)]
pub struct Channel {
    target: Target,
    authority: Authority,
    scheme: Scheme,
    settings: http2::Settings,
    max_message: usize,
    dial_limit: Duration,
    scope: Scope,
    state: Mutex<Option<SendRequest<Bytes>>>,
    /// One dial at a time; others wait for its outcome.
    dialling: tokio::sync::Mutex<()>,
}

/// Why a call did not get a reply from the other side.
#[derive(Clone, Debug)]
pub struct CallError {
    pub status: Status,
    /// The request did not leave us: making it again cannot do it twice.
    pub unsent: bool,
}

impl CallError {
    fn unsent(message: String) -> Self {
        Self { status: Status::unavailable(message), unsent: true }
    }
}

/// A call whose request is being sent.
pub struct Call {
    pub requests: SendStream<Bytes>,
    response: ResponseFuture,
    max_message: usize,
}

/// The reply of a call: headers, then messages, then a status.
#[derive(Debug)]
pub struct Replies {
    pub headers: HeaderMap,
    pub messages: Messages,
    /// The headers were all there is, and this is what they say.
    pub ended: Option<Status>,
}

impl Channel {
    /// Makes no connection yet.
    ///
    /// # Errors
    /// When the target cannot be an authority.
    pub fn new(target: Target, settings: http2::Settings, max_message: usize, scope: Scope) -> Result<Self, Status> {
        let authority = Authority::from_maybe_shared(target.authority()).map_err(|_| Status::internal(format!("invalid target {}", target.authority())))?;
        let scheme = if target.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Self {
            target,
            authority,
            scheme,
            settings,
            max_message,
            dial_limit: Duration::from_secs(15),
            scope,
            state: Mutex::new(None),
            dialling: tokio::sync::Mutex::new(()),
        })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    fn current(&self) -> Option<SendRequest<Bytes>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the connection; the next call opens a new one. Calls under way go on.
    pub fn forget(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn ready(&self) -> Result<SendRequest<Bytes>, CallError> {
        if let Some(sender) = self.current() {
            match sender.ready().await {
                Ok(sender) => return Ok(sender),
                Err(_) => self.forget(),
            }
        }
        let _turn = self.dialling.lock().await;
        if let Some(sender) = self.current()
            && let Ok(sender) = sender.ready().await
        {
            return Ok(sender);
        }
        let sender = self.dial().await?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        sender.ready().await.map_err(|error| CallError::unsent(format!("connection error: desc = {:?}", error.to_string())))
    }

    async fn dial(&self) -> Result<SendRequest<Bytes>, CallError> {
        let error = |error: String| CallError::unsent(format!("connection error: desc = \"transport: Error while dialing: {error}\""));
        let io = self.target.connect(self.dial_limit).await.map_err(|cause| error(cause.to_string()))?;
        let handshake = self.settings.client().handshake::<_, Bytes>(io);
        let (sender, mut connection) = tokio::time::timeout(self.dial_limit, handshake)
            .await
            .map_err(|_| error("handshake timed out".to_owned()))?
            .map_err(|cause| error(cause.to_string()))?;
        let pings = connection.ping_pong();
        self.scope.spawn("grpc.client", |stop| async move {
            let watch = keep_alive(pings);
            tokio::select! {
                _ = connection => {}
                () = watch => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(sender)
    }

    /// Begins a call. `headers` are the caller's metadata.
    ///
    /// # Errors
    /// When no connection could be made, or the stream was refused before it began.
    pub async fn start(&self, path: PathAndQuery, mut headers: HeaderMap) -> Result<Call, CallError> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(path);
        let uri = Uri::from_parts(uri).map_err(|error| CallError { status: Status::internal(error.to_string()), unsent: true })?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if !headers.contains_key(USER_AGENT) {
            headers.insert(USER_AGENT, HeaderValue::from_static("outrigger"));
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let mut sender = self.ready().await?;
        match sender.send_request(request, false) {
            Ok((response, requests)) => Ok(Call { requests, response, max_message: self.max_message }),
            Err(error) => {
                self.forget();
                Err(CallError::unsent(format!("connection error: desc = {:?}", error.to_string())))
            }
        }
    }

    /// A unary call with decoded messages. Returns the reply's headers too.
    ///
    /// # Errors
    /// The status of the other side, or why it was not reached.
    pub async fn unary<R: Message + Default>(&self, path: &'static str, headers: HeaderMap, request: &impl Message) -> Result<(HeaderMap, R), CallError> {
        let mut call = self.start(PathAndQuery::from_static(path), headers).await?;
        let sent = |status| CallError { status, unsent: false };
        call.requests.send_data(frame::encode(request), true).map_err(|error| sent(Status::unavailable(error.to_string())))?;
        let mut replies = call.replies().await?;
        let message = replies.only().await.map_err(sent)?;
        let reply = R::decode(message).map_err(|_| sent(Status::internal("grpc: failed to unmarshal the received message")))?;
        Ok((replies.headers, reply))
    }
}

impl Call {
    /// Waits for the reply's headers.
    ///
    /// # Errors
    /// When the connection or the stream ended before.
    pub async fn replies(self) -> Result<Replies, CallError> {
        let (replies, _requests) = self.split().await?;
        Ok(replies)
    }

    /// Waits for the reply's headers and keeps the way to send on.
    ///
    /// # Errors
    /// When the connection or the stream ended before.
    pub async fn split(self) -> Result<(Replies, SendStream<Bytes>), CallError> {
        let response = self.response.await.map_err(|error| CallError { unsent: error.reason() == Some(h2::Reason::REFUSED_STREAM), status: stream_status(&error) })?;
        let (parts, stream) = response.into_parts();
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let ended = if parts.status == http::StatusCode::OK && kind.is_some_and(|kind| kind.starts_with("application/grpc")) {
            stream.is_end_stream().then(|| Status::from_trailers(parts.headers.clone())).flatten()
        } else {
            Some(Status::from_trailers(parts.headers.clone()).unwrap_or_else(|| Status::from_http(parts.status.as_u16(), kind)))
        };
        Ok((Replies { headers: parts.headers, messages: Messages::new(stream, self.max_message), ended }, self.requests))
    }

    /// Waits for the headers without giving the call up.
    pub fn response(&mut self) -> &mut ResponseFuture {
        &mut self.response
    }
}

impl Replies {
    /// The only message of a unary reply.
    ///
    /// # Errors
    /// The status, unless it is OK.
    pub async fn only(&mut self) -> Result<Bytes, Status> {
        if let Some(status) = &self.ended {
            return Err(if status.code == GrpcCode::Ok { Status::internal("cardinality violation: received no response message from non-server-streaming RPC") } else { status.clone() });
        }
        let message = self.messages.next().await.map_err(|error| error.to_status())?;
        let status = self.status().await;
        match (message, status.code) {
            (Some(message), GrpcCode::Ok) => Ok(message),
            (None, GrpcCode::Ok) => Err(Status::internal("cardinality violation: received no response message from non-server-streaming RPC")),
            (_, _) => Err(status),
        }
    }

    /// The status at the end. Further messages are skipped.
    pub async fn status(&mut self) -> Status {
        if let Some(status) = &self.ended {
            return status.clone();
        }
        loop {
            match self.messages.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return error.to_status(),
            }
        }
        match self.messages.trailers().await {
            Ok(Some(trailers)) => Status::from_trailers(trailers).unwrap_or_else(|| Status::internal("server closed the stream without sending trailers")),
            Ok(None) => Status::internal("server closed the stream without sending trailers"),
            Err(error) => stream_status(&error),
        }
    }
}

/// What the end of a stream or connection means to its caller.
fn stream_status(error: &h2::Error) -> Status {
    match error.reason() {
        Some(h2::Reason::CANCEL) if error.is_remote() => Status::new(GrpcCode::Cancelled, "RST_STREAM closed stream. HTTP/2 error code: CANCEL".to_owned()),
        Some(reason) if error.is_reset() && reason != h2::Reason::REFUSED_STREAM => Status::internal(format!("stream terminated by RST_STREAM with error code: {}", reason.description())),
        _ => Status::unavailable(format!("error reading from server: {error}")),
    }
}

/// Completes when the peer does not answer pings any more.
async fn keep_alive(pings: Option<h2::PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let mut every = tokio::time::interval(Duration::from_secs(10));
    every.tick().await;
    loop {
        every.tick().await;
        let answer = pings.ping(h2::Ping::opaque());
        if !matches!(tokio::time::timeout(Duration::from_secs(5), answer).await, Ok(Ok(_))) {
            return;
        }
    }
}
