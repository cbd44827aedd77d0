//! The client side: calls on an HTTP/2 connection.

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};
use outrigger_core::error::GrpcCode;
use outrigger_lifecycle::Scope;
use outrigger_proto::Message;

use super::{Messages, Status, frame};
use crate::http2::{self, Refused, Slot};
use crate::io::Target;

/// Calls to one target. Cheap calls share one connection.
#[derive(Debug)]
pub struct Channel {
    client: http2::Client,
    max_message: usize,
}

/// Why a call did not get a reply from the other side.
#[derive(Clone, Debug)]
pub struct CallError {
    pub status: Status,
    /// The request did not leave us: making it again cannot do it twice.
    pub unsent: bool,
}

impl CallError {
    /// In the words of Go's gRPC.
    fn refused(refused: &Refused) -> Self {
        let status = match refused {
            Refused::Dial(why) => Status::unavailable(format!(
                "connection error: desc = \"transport: Error while dialing: {why}\""
            )),
            Refused::Lost(why) => Status::unavailable(format!("connection error: desc = {why:?}")),
            Refused::Malformed(why) => Status::internal(why),
        };
        Self {
            status,
            unsent: true,
        }
    }
}

/// A call whose request is being sent.
pub struct Call {
    pub requests: SendStream<Bytes>,
    pub(super) response: ResponseFuture,
    /// On a connection whose places are counted.
    pub(super) slot: Option<Slot>,
    pub(super) max_message: usize,
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
    pub fn new(
        target: Target,
        settings: http2::Settings,
        max_message: usize,
        scope: Scope,
    ) -> Result<Self, Status> {
        let client = http2::Client::new(target, settings, scope)
            .map_err(|refused| CallError::refused(&refused).status)?;
        Ok(Self {
            client,
            max_message,
        })
    }

    pub fn target(&self) -> &Target {
        self.client.target()
    }

    /// Forgets the connection; the next call opens a new one. Calls under way go on.
    pub fn forget(&self) {
        self.client.forget();
    }

    /// Begins a call. `headers` are the caller's metadata; a content type that stands in them stays.
    ///
    /// # Errors
    /// When no connection could be made, or the stream was refused before it began.
    pub async fn start(
        &self,
        path: PathAndQuery,
        mut headers: HeaderMap,
    ) -> Result<Call, CallError> {
        headers
            .entry(CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static("outrigger"));
        let started = self
            .client
            .start(Method::POST, path, headers, false)
            .await
            .map_err(|refused| CallError::refused(&refused))?;
        Ok(Call {
            requests: started.requests,
            response: started.response,
            slot: Some(started.slot),
            max_message: self.max_message,
        })
    }

    /// A unary call with decoded messages. Returns the reply's headers too.
    ///
    /// # Errors
    /// The status of the other side, or why it was not reached.
    pub async fn unary<R: Message + Default>(
        &self,
        path: &'static str,
        headers: HeaderMap,
        request: &impl Message,
    ) -> Result<(HeaderMap, R), CallError> {
        let mut call = self.start(PathAndQuery::from_static(path), headers).await?;
        let sent = |status| CallError {
            status,
            unsent: false,
        };
        call.requests
            .send_data(frame::encode(request), true)
            .map_err(|error| sent(Status::unavailable(error.to_string())))?;
        let mut replies = call.replies().await?;
        let message = replies.only().await.map_err(sent)?;
        let reply = R::decode(message).map_err(|_| {
            sent(Status::internal(
                "grpc: failed to unmarshal the received message",
            ))
        })?;
        Ok((replies.headers, reply))
    }
}

impl Call {
    /// Waits for the reply's headers.
    ///
    /// # Errors
    /// When the connection or the stream ended before.
    pub async fn replies(self) -> Result<Replies, CallError> {
        // Dropping the way to send would cancel a call that is still sending.
        let (_requests, replies) = self.halves();
        replies.await
    }

    /// The way to send on, and the reply's headers when they come.
    pub fn halves(
        self,
    ) -> (
        SendStream<Bytes>,
        impl Future<Output = Result<Replies, CallError>> + Send + use<>,
    ) {
        let (response, slot, max_message) = (self.response, self.slot, self.max_message);
        let replies = async move {
            let response = response.await.map_err(|error| CallError {
                unsent: error.reason() == Some(h2::Reason::REFUSED_STREAM),
                status: stream_status(&error),
            })?;
            let (parts, stream) = response.into_parts();
            let kind = parts
                .headers
                .get(CONTENT_TYPE)
                .and_then(|value| value.to_str().ok());
            let ended = if parts.status == http::StatusCode::OK
                && kind.is_some_and(|kind| kind.starts_with("application/grpc"))
            {
                stream
                    .is_end_stream()
                    .then(|| Status::from_trailers(parts.headers.clone()))
                    .flatten()
            } else {
                Some(
                    Status::from_trailers(parts.headers.clone())
                        .unwrap_or_else(|| Status::from_http(parts.status.as_u16(), kind)),
                )
            };
            Ok(Replies {
                headers: parts.headers,
                messages: Messages::holding(stream, max_message, slot),
                ended,
            })
        };
        (self.requests, replies)
    }
}

impl Replies {
    /// The only message of a unary reply.
    ///
    /// # Errors
    /// The status, unless it is OK.
    pub async fn only(&mut self) -> Result<Bytes, Status> {
        if let Some(status) = &self.ended {
            return Err(if status.code == GrpcCode::Ok {
                Status::internal(
                    "cardinality violation: received no response message from non-server-streaming RPC",
                )
            } else {
                status.clone()
            });
        }
        let message = self
            .messages
            .next()
            .await
            .map_err(|error| error.to_status())?;
        let status = self.status().await;
        match (message, status.code) {
            (Some(message), GrpcCode::Ok) => Ok(message),
            (None, GrpcCode::Ok) => Err(Status::internal(
                "cardinality violation: received no response message from non-server-streaming RPC",
            )),
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
            Ok(Some(trailers)) => Status::from_trailers(trailers).unwrap_or_else(|| {
                Status::internal("server closed the stream without sending trailers")
            }),
            Ok(None) => Status::internal("server closed the stream without sending trailers"),
            Err(error) => stream_status(&error),
        }
    }
}

/// What the end of a stream or connection means to its caller.
pub(super) fn stream_status(error: &h2::Error) -> Status {
    match error.reason() {
        Some(h2::Reason::CANCEL) if error.is_remote() => Status::new(
            GrpcCode::Cancelled,
            "RST_STREAM closed stream. HTTP/2 error code: CANCEL".to_owned(),
        ),
        Some(reason) if error.is_reset() && reason != h2::Reason::REFUSED_STREAM => {
            Status::internal(format!(
                "stream terminated by RST_STREAM with error code: {}",
                reason.description()
            ))
        }
        _ => Status::unavailable(format!("error reading from server: {error}")),
    }
}
