//! HTTP/2 connections to a target: one, opened on first use and again when it is gone, and more when a peer lets only so
//! many streams onto each.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// Connections to one target. Beyond, requests wait for a place on one of them.
const MOST_LANES: usize = 16;

/// For the first pong.
const GREETING_LIMIT: Duration = Duration::from_secs(1);

/// Requests to one target. Cheap ones share one connection.
#[derive(Debug)]
pub struct Client {
    target: Target,
    authority: Authority,
    scheme: Scheme,
    settings: Settings,
    dial_limit: Duration,
    scope: Scope,
    lanes: Mutex<Vec<Lane>>,
    /// One dial at a time; others wait for its outcome.
    dialling: tokio::sync::Mutex<()>,
}

/// A connection, and how many streams are on it.
#[derive(Clone, Debug)]
struct Lane {
    sender: SendRequest<Bytes>,
    busy: Arc<AtomicUsize>,
}

/// A stream's place on its connection, to be held until the stream has ended.
#[derive(Debug)]
pub struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lane {
    fn new(sender: SendRequest<Bytes>) -> Self {
        Self {
            sender,
            busy: Arc::default(),
        }
    }

    fn is_full(&self) -> bool {
        self.busy.load(Ordering::Relaxed) >= self.sender.current_max_send_streams()
    }

    fn take(&self) -> (SendRequest<Bytes>, Slot) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), Slot(self.busy.clone()))
    }
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
    pub slot: Slot,
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
            lanes: Mutex::default(),
            dialling: tokio::sync::Mutex::new(()),
        })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on a connection that has one, or on the emptiest if there are connections enough.
    fn place(&self) -> Option<(SendRequest<Bytes>, Slot)> {
        let lanes = self.lanes();
        let free = lanes.iter().find(|lane| !lane.is_full());
        let crowded = || {
            (lanes.len() >= MOST_LANES)
                .then(|| {
                    lanes
                        .iter()
                        .min_by_key(|lane| lane.busy.load(Ordering::Relaxed))
                })
                .flatten()
        };
        free.or_else(crowded).map(Lane::take)
    }

    /// Forgets all connections; the next request opens a new one. Those under way go on.
    pub fn forget(&self) {
        self.lanes().clear();
    }

    fn forget_lane(&self, slot: &Slot) {
        self.lanes()
            .retain(|lane| !Arc::ptr_eq(&lane.busy, &slot.0));
    }

    /// A place on a connection that is alive.
    async fn standing(&self) -> Option<(SendRequest<Bytes>, Slot)> {
        while let Some((sender, slot)) = self.place() {
            match sender.ready().await {
                Ok(sender) => return Some((sender, slot)),
                Err(_) => self.forget_lane(&slot),
            }
        }
        None
    }

    async fn ready(&self) -> Result<(SendRequest<Bytes>, Slot), Refused> {
        if let Some(place) = self.standing().await {
            return Ok(place);
        }
        let _turn = self.dialling.lock().await;
        if let Some(place) = self.standing().await {
            return Ok(place);
        }
        // Rare and large: boxed, so that every request's future is small.
        let lane = Lane::new(Box::pin(self.dial()).await?);
        let (sender, slot) = lane.take();
        self.lanes().push(lane);
        match sender.ready().await {
            Ok(sender) => Ok((sender, slot)),
            Err(error) => {
                self.forget_lane(&slot);
                Err(Refused::Lost(error.to_string()))
            }
        }
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
        let mut pings = connection.ping_pong();
        let (greeted, greeting) = tokio::sync::oneshot::channel();
        self.scope.spawn("http2.client", |stop| async move {
            let watch = async move {
                if let Some(pings) = &mut pings {
                    let pong = pings.ping(h2::Ping::opaque());
                    tokio::time::timeout(GREETING_LIMIT, pong).await.ok();
                }
                greeted.send(()).ok();
                keep_alive(pings).await;
            };
            tokio::select! {
                _ = connection => {}
                () = watch => {}
                () = stop.cancelled() => {}
            }
        });
        // The peer's settings come ahead of its first pong: until then it is not known how many streams it takes, and those
        // beyond would be refused.
        greeting.await.ok();
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
        let (mut sender, slot) = self.ready().await?;
        match sender.send_request(request, end) {
            Ok((response, requests)) => Ok(Started {
                response,
                requests,
                slot,
            }),
            Err(error) => {
                self.forget_lane(&slot);
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
        let Started {
            response,
            requests,
            slot,
        } = self
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
                stream: Box::pin(Incoming {
                    stream,
                    _slot: slot,
                }),
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

struct Incoming {
    stream: RecvStream,
    _slot: Slot,
}

impl futures_core::Stream for Incoming {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = ready!(self.stream.poll_data(context));
        Poll::Ready(piece.map(|piece| {
            let piece = piece.map_err(|error| BodyError::Cut(error.to_string()))?;
            self.stream
                .flow_control()
                .release_capacity(piece.len())
                .ok();
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;
    use tokio::sync::Barrier;

    use super::*;

    /// Answers every request when all have come.
    async fn serve(listener: TcpListener, scope: Scope, all: Arc<Barrier>, streams: u32) {
        while let Ok((io, _)) = listener.accept().await {
            let (all, requests) = (all.clone(), scope.clone());
            scope.spawn_future("server", async move {
                let mut server = h2::server::Builder::new();
                server.max_concurrent_streams(streams);
                let mut connection = server.handshake::<_, Bytes>(io).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let all = all.clone();
                    requests.spawn_future("request", async move {
                        all.wait().await;
                        respond.send_response(Response::new(()), true).ok();
                    });
                }
            });
        }
    }

    #[tokio::test]
    async fn a_peer_that_lets_few_streams_onto_a_connection_gets_more_connections() {
        const REQUESTS: usize = 7;
        let scope = Scope::root();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = Target {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            tls: None,
        };
        let all = Arc::new(Barrier::new(REQUESTS + 1));
        scope.spawn_future("listener", serve(listener, scope.clone(), all.clone(), 2));
        let client = Arc::new(Client::new(target, Settings::default(), scope.clone()).unwrap());
        // The first connection's limit is known once an answer has come.
        let first = client.send(Request::new(Body::EMPTY));
        let (first, _) = tokio::join!(first, async {
            for _ in 0..REQUESTS {
                let all = all.clone();
                scope.spawn_future("waiter", async move {
                    all.wait().await;
                });
            }
        });
        assert_eq!(first.unwrap().status(), 200);
        let (done, mut answers) = tokio::sync::mpsc::channel(REQUESTS + 1);
        for _ in 0..=REQUESTS {
            let (client, done) = (client.clone(), done.clone());
            scope.spawn_future("client", async move {
                let answer = client.send(Request::new(Body::EMPTY)).await;
                done.send(answer.is_ok()).await.ok();
            });
        }
        for _ in 0..=REQUESTS {
            let answer = tokio::time::timeout(Duration::from_secs(20), answers.recv()).await;
            assert_eq!(answer.unwrap(), Some(true));
        }
        assert!(client.lanes().len() >= 4);
    }
}
