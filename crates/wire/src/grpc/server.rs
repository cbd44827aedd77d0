//! The server side: one [`Exchange`] per call.

use std::future::Future;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use outrigger_lifecycle::{Scope, Stop};
use outrigger_proto::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{FrameError, Messages, Status, frame};
use crate::http2;

#[derive(Clone, Copy, Debug)]
pub struct ServerSettings {
    pub http2: http2::Settings,
    /// Bytes of one message.
    pub max_message: usize,
}

/// Serves a connection until it ends. `stop` lets running calls finish and refuses new ones.
pub async fn serve<S, H, F>(
    io: S,
    settings: ServerSettings,
    stop: &Stop,
    streams: &Scope,
    handler: H,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Exchange) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let exchange = |request: Request<RecvStream>, respond| {
        let (parts, stream) = request.into_parts();
        handler(Exchange {
            head: parts,
            messages: Messages::new(stream, settings.max_message),
            reply: Reply {
                respond,
                stream: None,
            },
            settings,
        })
    };
    http2::run(io, settings.http2, stop, streams, exchange).await;
}

/// A call under way: what came, and the way back.
pub struct Exchange {
    pub head: http::request::Parts,
    pub messages: Messages,
    pub reply: Reply,
    pub settings: ServerSettings,
}

/// The way back to the caller: headers once, messages, then the status.
pub struct Reply {
    respond: SendResponse<Bytes>,
    pub(super) stream: Option<SendStream<Bytes>>,
}

/// The caller is gone.
#[derive(Debug)]
pub struct Gone;

impl Exchange {
    /// `/package.Service/Method`.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Reads the only request of a unary call.
    ///
    /// # Errors
    /// The status to end the call with.
    pub async fn request<M: Message + Default>(&mut self) -> Result<M, Status> {
        let bytes = match self.messages.next().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                return Err(Status::internal(
                    "cardinality violation: received no request message from non-client-streaming RPC",
                ));
            }
            Err(error) => return Err(error.to_status()),
        };
        decode(bytes)
    }

    /// Answers with one message.
    pub fn answer(mut self, headers: HeaderMap, message: &impl Message) {
        self.reply
            .unary(headers, frame::encode(message), &Status::ok());
    }

    /// Ends the call with a status and nothing else.
    pub fn refuse(mut self, headers: HeaderMap, status: &Status) {
        self.reply.end(headers, status);
    }

    /// What the framing of a request that cannot be read deserves.
    pub fn frame_status(error: &FrameError) -> Status {
        error.to_status()
    }
}

/// Decodes a request.
///
/// # Errors
/// Go's words for bytes that are no such message.
pub fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes).map_err(|_| {
        Status::internal(
            "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data",
        )
    })
}

impl Reply {
    /// Sends headers, one framed message and the status at once.
    pub fn unary(&mut self, headers: HeaderMap, message: Bytes, status: &Status) {
        if self.start(headers).is_err() {
            return;
        }
        if let Some(stream) = &mut self.stream
            && stream.send_data(message, false).is_ok()
        {
            stream.send_trailers(status.to_trailers()).ok();
        }
    }

    /// Sends the headers, if that was not done yet.
    ///
    /// # Errors
    /// When the caller is gone.
    pub fn start(&mut self, headers: HeaderMap) -> Result<(), Gone> {
        if self.stream.is_none() {
            let mut response = Response::new(());
            *response.headers_mut() = headers;
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            self.stream = Some(
                self.respond
                    .send_response(response, false)
                    .map_err(|_| Gone)?,
            );
        }
        Ok(())
    }

    /// Sends headers as they came from elsewhere.
    pub(super) fn raw_head(&mut self, headers: HeaderMap, end: bool) -> Result<(), Gone> {
        let mut head = Response::new(());
        *head.headers_mut() = headers;
        self.stream = Some(self.respond.send_response(head, end).map_err(|_| Gone)?);
        Ok(())
    }

    /// Whether the caller has cancelled or gone away.
    pub(super) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(context).map(|_| ()),
            None => self.respond.poll_reset(context).map(|_| ()),
        }
    }

    /// Whether the reply has begun.
    pub fn has_begun(&self) -> bool {
        self.stream.is_some()
    }

    /// Sends a framed message of a stream, waiting for the caller's window.
    ///
    /// # Errors
    /// When the caller is gone.
    pub async fn send(&mut self, message: Bytes) -> Result<(), Gone> {
        match &mut self.stream {
            Some(stream) => http2::send(stream, message, false).await.map_err(|_| Gone),
            None => Err(Gone),
        }
    }

    /// Ends the call. Without headers before, the status is all that is sent.
    pub fn end(&mut self, headers: HeaderMap, status: &Status) {
        match &mut self.stream {
            Some(stream) => {
                stream.send_trailers(status.to_trailers()).ok();
            }
            None => {
                let mut response = Response::new(());
                *response.headers_mut() = headers;
                response.headers_mut().extend(status.to_trailers());
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                self.respond.send_response(response, true).ok();
            }
        }
    }

    /// Completes when the caller cancels or goes away.
    pub async fn cancelled(&mut self) {
        std::future::poll_fn(|context| self.poll_gone(context)).await;
    }

    /// Ends the call abruptly.
    pub fn reset(&mut self) {
        match &mut self.stream {
            Some(stream) => stream.send_reset(h2::Reason::CANCEL),
            None => self.respond.send_reset(h2::Reason::CANCEL),
        }
    }
}
