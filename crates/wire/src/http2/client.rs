//! One HTTP/2 connection to a target, opened on first use and again when it is gone.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri};
use outrigger_core::{Body, BodyError};
use outrigger_lifecycle::Scope;

use super::{Settings, send};
use crate::io::Target;

/// Requests to one target. Cheap ones share one connection.
#[derive(Debug)]
pub struct Client {
    target: Target,
    authority: Authority,
    scheme: Scheme,
    settings: Settings,
    dial_limit: Duration,
    scope: Scope,
    state: Mutex<Option<SendRequest<Bytes>>>,
    /// One dial at a time; others wait for its outcome.
    dialling: tokio::sync::Mutex<()>,
}

/// Why a request did not get through. Unless said otherwise it did not leave us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No connection could be made.
    Dial(String),
    /// The connection ended before the request was on it.
    Lost(String),
    /// It cannot be expressed.
    Malformed(String),
}

/// A request whose body is being sent.
pub struct Started {
    pub response: ResponseFuture,
    pub requests: SendStream<Bytes>,
}

impl Client {
    /// Makes no connection yet.
    ///
    /// # Errors
    /// When the target cannot be an authority.
    pub fn new(target: Target, settings: Settings, scope: Scope) -> Result<Self, Refused> {
        let authority = Authority::from_maybe_shared(target.authority())
            .map_err(|_| Refused::Malformed(format!("invalid target {}", target.authority())))?;
        let scheme = if target.tls.is_some() {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        Ok(Self {
            target,
            authority,
            scheme,
            settings,
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
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets the connection; the next request opens a new one. Those under way go on.
    pub fn forget(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn ready(&self) -> Result<SendRequest<Bytes>, Refused> {
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
        sender
            .ready()
            .await
            .map_err(|error| Refused::Lost(error.to_string()))
    }

    async fn dial(&self) -> Result<SendRequest<Bytes>, Refused> {
        let io = self
            .target
            .connect(self.dial_limit)
            .await
            .map_err(|cause| Refused::Dial(cause.to_string()))?;
        let handshake = self.settings.client().handshake::<_, Bytes>(io);
        let (sender, mut connection) = tokio::time::timeout(self.dial_limit, handshake)
            .await
            .map_err(|_| Refused::Dial("handshake timed out".to_owned()))?
            .map_err(|cause| Refused::Dial(cause.to_string()))?;
        let pings = connection.ping_pong();
        self.scope.spawn("http2.client", |stop| async move {
            let watch = keep_alive(pings);
            tokio::select! {
                _ = connection => {}
                () = watch => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(sender)
    }

    /// Begins a request; `end` says that it has no body.
    ///
    /// # Errors
    /// When it did not get as far as the connection.
    pub async fn start(
        &self,
        method: Method,
        path: PathAndQuery,
        headers: HeaderMap,
        end: bool,
    ) -> Result<Started, Refused> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(path);
        let uri = Uri::from_parts(uri).map_err(|error| Refused::Malformed(error.to_string()))?;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let mut sender = self.ready().await?;
        match sender.send_request(request, end) {
            Ok((response, requests)) => Ok(Started { response, requests }),
            Err(error) => {
                self.forget();
                Err(Refused::Lost(error.to_string()))
            }
        }
    }

    /// Sends a whole request and waits for the head of the answer. A body that is a stream is sent while the answer is read.
    ///
    /// # Errors
    /// When no answer came, with a note whether the request left us.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, (Refused, bool)> {
        let (mut parts, body) = request.into_parts();
        for name in [HOST, CONNECTION, TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
        let path = parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/"));
        let empty = body.is_empty();
        if let Some(length) = body.length().filter(|length| *length > 0) {
            parts
                .headers
                .insert(http::header::CONTENT_LENGTH, length.into());
        }
        let Started { response, requests } = self
            .start(parts.method, path, parts.headers, empty)
            .await
            .map_err(|refused| (refused, true))?;
        if !empty {
            match body {
                Body::Bytes(bytes) => {
                    let mut requests = requests;
                    // A peer that answers early closes the stream; its answer is what counts.
                    send(&mut requests, bytes, true).await.ok();
                }
                Body::Stream { .. } => {
                    self.scope
                        .spawn_future("http2.request", pump(body, requests));
                }
            }
        }
        let response = response
            .await
            .map_err(|error| (Refused::Lost(error.to_string()), false))?;
        let (parts, stream) = response.into_parts();
        let length = parts
            .headers
            .get(http::header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        let body = if stream.is_end_stream() {
            Body::EMPTY
        } else {
            Body::Stream {
                stream: Box::pin(Incoming(stream)),
                length,
            }
        };
        Ok(Response::from_parts(parts, body))
    }
}

async fn pump(mut body: Body, mut requests: SendStream<Bytes>) {
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => {
                if send(&mut requests, piece, false).await.is_err() {
                    return;
                }
            }
            Err(_) => {
                requests.send_reset(h2::Reason::CANCEL);
                return;
            }
        }
    }
    requests.send_data(Bytes::new(), true).ok();
}

struct Incoming(RecvStream);

impl futures_core::Stream for Incoming {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = ready!(self.0.poll_data(context));
        Poll::Ready(piece.map(|piece| {
            let piece = piece.map_err(|error| BodyError::Cut(error.to_string()))?;
            self.0.flow_control().release_capacity(piece.len()).ok();
            Ok(piece)
        }))
    }
}

/// Completes when the peer does not answer pings any more.
async fn keep_alive(pings: Option<h2::PingPong>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    let mut every = tokio::time::interval(Duration::from_secs(10));
    every.tick().await;
    loop {
        every.tick().await;
        let answer = pings.ping(h2::Ping::opaque());
        if !matches!(
            tokio::time::timeout(Duration::from_secs(5), answer).await,
            Ok(Ok(_))
        ) {
            return;
        }
    }
}
