//! The server side: one task per stream.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{Request, Response};
use outrigger_core::{Body, BodyError};
use outrigger_lifecycle::{Scope, Stop};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Settings, send};
use crate::http1::Hangup;

/// Serves a connection until it ends. `stop` lets running requests finish and refuses new ones.
pub async fn serve<S, H, F>(
    io: S,
    settings: Settings,
    max_body: Option<u64>,
    stop: &Stop,
    handler: H,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let streams = Scope::root();
    run(io, settings, stop, &streams, move |request, respond| {
        exchange(handler.clone(), max_body, request, respond)
    })
    .await;
}

/// The accept loop of a connection, shared with gRPC: one task per stream.
pub(crate) async fn run<S, E, T>(
    io: S,
    settings: Settings,
    stop: &Stop,
    streams: &Scope,
    exchange: E,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Fn(Request<RecvStream>, SendResponse<Bytes>) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = settings.server().handshake::<_, Bytes>(io).await else {
        return;
    };
    let mut pings = connection.ping_pong();
    let mut stopping = false;
    // The peer is asked for a sign of life when it has been silent for long.
    let mut quiet = tokio::time::interval(Duration::from_secs(10));
    quiet.reset();
    let mut waiting: Option<u8> = None;
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    waiting = None;
                    streams.spawn_future("stream", exchange(request, respond));
                }
                Some(Err(_)) | None => return,
            },
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
            }
            _ = quiet.tick() => {
                if let Some(ping) = pings.as_mut() {
                    waiting = match waiting {
                        Some(rounds) if rounds >= 1 => return,
                        Some(rounds) => Some(rounds + 1),
                        None => ping.send_ping(h2::Ping::opaque()).is_ok().then_some(0),
                    };
                }
            }
            Some(_) = pong(&mut pings), if waiting.is_some() => waiting = None,
        }
    }
}

async fn pong(pings: &mut Option<h2::PingPong>) -> Option<h2::Pong> {
    match pings {
        Some(pings) => std::future::poll_fn(|context| pings.poll_pong(context))
            .await
            .ok(),
        None => None,
    }
}

async fn exchange<H, F>(
    handler: H,
    max_body: Option<u64>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) where
    H: Fn(Request<Body>) -> F,
    F: Future<Output = Response<Body>>,
{
    let (parts, stream) = request.into_parts();
    let length = parts
        .headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    let body = if stream.is_end_stream() {
        Body::EMPTY
    } else {
        Body::Stream {
            stream: Box::pin(Incoming {
                stream,
                allowed: max_body.unwrap_or(u64::MAX),
            }),
            length,
        }
    };
    let response = tokio::select! {
        biased;
        response = handler(Request::from_parts(parts, body)) => response,
        _ = std::future::poll_fn(|context| respond.poll_reset(context)) => return,
    };
    let (mut parts, mut body) = response.into_parts();
    if parts.extensions.get::<Hangup>().is_some() {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        return;
    }
    parts.headers.remove(CONNECTION);
    parts.headers.remove(TRANSFER_ENCODING);
    parts.extensions.clear();
    let empty = body.is_empty() || matches!(parts.status.as_u16(), 204 | 304);
    let Ok(mut stream) = respond.send_response(Response::from_parts(parts, ()), empty) else {
        return;
    };
    if empty {
        return;
    }
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => {
                if send(&mut stream, piece, false).await.is_err() {
                    return;
                }
            }
            Err(_) => {
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
                return;
            }
        }
    }
    send(&mut stream, Bytes::new(), true).await.ok();
}

/// A request body off a stream; capacity is given back as it is read.
struct Incoming {
    stream: RecvStream,
    allowed: u64,
}

impl futures_core::Stream for Incoming {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let piece = std::task::ready!(self.stream.poll_data(context));
        std::task::Poll::Ready(piece.map(|piece| {
            let piece = piece.map_err(|error| BodyError::Cut(error.to_string()))?;
            self.stream
                .flow_control()
                .release_capacity(piece.len())
                .ok();
            match self.allowed.checked_sub(piece.len() as u64) {
                Some(left) => {
                    self.allowed = left;
                    Ok(piece)
                }
                None => Err(BodyError::TooLarge),
            }
        }))
    }
}
