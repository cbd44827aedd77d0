//! Requests to one target over kept connections.
//!
//! A connection belongs to one request at a time; its bytes are read by whoever waits for the answer, so a request costs
//! no task and no channel. An answer that came whole gives its connection back at once; a long one gives it back when
//! its body has been read.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use outrigger_core::{Body, BodyError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chunked::{Decoded, Decoder};
use super::head::{self, Framing};
use super::write;
use crate::io::{Connected, Target};

/// Request bodies up to this length are written together with the head.
const SMALL_BODY: usize = 16 * 1024;
/// Kept connections that were idle for longer are closed.
const IDLE: Duration = Duration::from_secs(90);
/// How many idle connections are kept.
const KEEP: usize = 1024;

/// Requests to one target.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    target: Target,
    host: HeaderValue,
    max_head: usize,
    dial_limit: Duration,
    idle: Mutex<VecDeque<(Kept, Instant)>>,
    /// Bounds open connections; requests beyond wait.
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct Kept {
    connection: Connected,
    buffer: BytesMut,
    /// An answer has come over it.
    has_served: bool,
    _room: OwnedSemaphorePermit,
}

impl Kept {
    /// It ended while nothing but a piece of an answer's head has come.
    fn ended(&self, error: io::Error) -> ClientError {
        match closed(error) {
            ClientError::Closed(why) if self.has_served && self.buffer.is_empty() => {
                ClientError::Stale(why)
            }
            error => error,
        }
    }
}

#[derive(Debug)]
pub enum ClientError {
    /// No connection could be made: the request did not leave us.
    Connect(io::Error),
    /// The connection ended before an answer.
    Closed(String),
    /// The same, before a byte of the answer, on a connection that had served before: the peer may have closed it for
    /// being idle while the request was on its way.
    Stale(String),
    /// The answer is no HTTP.
    Malformed(&'static str),
    /// Our own request body ended with an error.
    Body(BodyError),
}

impl ClientError {
    /// The request did not leave us: making it again cannot do it twice.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Closed(why) | Self::Stale(why) => f.write_str(why),
            Self::Malformed(why) => {
                write!(f, "net/http: HTTP/1.x transport connection broken: {why}")
            }
            Self::Body(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

impl Client {
    /// Makes no connection yet. `max_head` bounds the head of an answer.
    pub fn new(target: Target, max_connections: usize, max_head: usize) -> Self {
        let default_port = if target.tls.is_some() { 443 } else { 80 };
        let host = if target.port == default_port && !target.host.contains(':') {
            target.host.clone()
        } else {
            target.authority()
        };
        let host = HeaderValue::from_str(&host).unwrap_or(HeaderValue::from_static(""));
        let inner = Inner {
            target,
            host,
            max_head,
            dial_limit: Duration::from_secs(15),
            idle: Mutex::default(),
            room: Arc::new(Semaphore::new(
                max_connections.clamp(1, Semaphore::MAX_PERMITS),
            )),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub fn target(&self) -> &Target {
        &self.inner.target
    }

    /// Sends a request and waits for the head of the answer. The URI's path and query are what goes out.
    ///
    /// # Errors
    /// When no answer came.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection that it used.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, ClientError> {
        // What was sent is not sent again by itself, whatever its verb: that is for policies to decide.
        if let Some(kept) = self.take_idle() {
            return self.exchange(kept, request).await;
        }
        self.send_afresh(request).await
    }

    /// The same over a new connection, for a request that met a stale one.
    ///
    /// # Errors
    /// When no answer came.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection that it used.
    pub async fn send_afresh(&self, request: Request<Body>) -> Result<Response<Body>, ClientError> {
        // Rare and large: boxed, so that every request's future is small.
        let fresh = Box::pin(self.open()).await?;
        self.exchange(fresh, request).await
    }

    fn take_idle(&self) -> Option<Kept> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut idle = self
            .inner
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while let Some((kept, since)) = idle.pop_back() {
            if since.elapsed() > IDLE {
                // Those further to the front are older still.
                idle.clear();
                return None;
            }
            // Silence is what an idle connection has to say.
            if !kept.connection.stirred(&mut context) {
                return Some(kept);
            }
        }
        None
    }

    async fn open(&self) -> Result<Kept, ClientError> {
        let room = self.inner.room.clone();
        let permit = room
            .acquire_owned()
            .await
            .map_err(|_| ClientError::Connect(io::ErrorKind::NotConnected.into()))?;
        // While we waited for room, somebody may have finished.
        if self.inner.room.available_permits() == 0
            && let Some(kept) = self.take_idle()
        {
            return Ok(kept);
        }
        let connection = self
            .inner
            .target
            .connect(self.inner.dial_limit)
            .await
            .map_err(ClientError::Connect)?;
        Ok(Kept {
            connection,
            buffer: BytesMut::with_capacity(4096),
            has_served: false,
            _room: permit,
        })
    }

    async fn exchange(
        &self,
        mut kept: Kept,
        request: Request<Body>,
    ) -> Result<Response<Body>, ClientError> {
        let (parts, body) = request.into_parts();
        let mut out = BytesMut::with_capacity(
            512 + body.length().map_or(0, |length| {
                usize::try_from(length).unwrap_or(0).min(SMALL_BODY)
            }),
        );
        let chunked = self.write_head(&mut out, &parts, &body);
        let sending = match body {
            Body::Bytes(bytes) => {
                let written = if bytes.len() <= SMALL_BODY {
                    out.extend_from_slice(&bytes);
                    kept.connection.write_all(&out).await
                } else {
                    kept.connection.write_all_buf(&mut out.chain(bytes)).await
                };
                written.map_err(|error| kept.ended(error))?;
                None
            }
            stream => Some((stream, out)),
        };
        match sending {
            None => {
                let head = read_head(&mut kept, self.inner.max_head, &parts.method).await?;
                Ok(self.answer(kept, head))
            }
            Some((body, out)) => {
                self.exchange_streaming(kept, &parts.method, body, out, chunked)
                    .await
            }
        }
    }

    /// Sends a body in pieces; an answer that comes before its end is given out while the rest is still being sent.
    async fn exchange_streaming(
        &self,
        kept: Kept,
        method: &Method,
        body: Body,
        out: BytesMut,
        chunked: bool,
    ) -> Result<Response<Body>, ClientError> {
        let Kept {
            connection,
            buffer,
            has_served,
            _room,
        } = kept;
        let (reader, writer) = tokio::io::split(connection);
        let mut sending: Sending = Box::pin(send_body(writer, body, out, chunked));
        let mut reading = Reading { reader, buffer };
        let mut sent = None;
        let head = loop {
            tokio::select! {
                biased;
                head = reading.head(self.inner.max_head, method) => break head?,
                done = &mut sending, if sent.is_none() => match done {
                    Ok(writer) => sent = Some(writer),
                    Err(ClientError::Body(error)) => return Err(ClientError::Body(error)),
                    // The peer does not read on; it may still have said why.
                    Err(error) => {
                        let head = tokio::time::timeout(Duration::from_millis(500), reading.head(self.inner.max_head, method)).await;
                        break head.unwrap_or(Err(error))?;
                    }
                },
            }
        };
        if let Some(writer) = sent {
            let kept = Kept {
                connection: reading.reader.unsplit(writer),
                buffer: reading.buffer,
                has_served,
                _room,
            };
            return Ok(self.answer(kept, head));
        }
        let (parts, framing) = split_head(head.status, head.headers, head.framing);
        let stream = Duplex {
            reading,
            sending: Some(sending),
            decoder: Decoding::new(framing),
            _room,
        };
        Ok(Response::from_parts(
            parts,
            Body::Stream {
                stream: Box::pin(stream),
                length: framing_length(framing),
            },
        ))
    }

    fn write_head(&self, out: &mut BytesMut, parts: &http::request::Parts, body: &Body) -> bool {
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        for piece in [parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
        let host = parts.headers.get(HOST).unwrap_or(&self.inner.host);
        write::field(out, "host", host.as_bytes());
        if !parts.headers.contains_key(USER_AGENT) {
            write::field(out, "user-agent", b"outrigger");
        }
        write::fields(out, &parts.headers, is_ours);
        let length = body.length();
        match length {
            Some(0)
                if matches!(
                    parts.method,
                    Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::DELETE
                ) => {}
            Some(length) => write::field(
                out,
                "content-length",
                itoa::Buffer::new().format(length).as_bytes(),
            ),
            None => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        out.extend_from_slice(b"\r\n");
        length.is_none()
    }

    /// The answer with its body: whole if its bytes are here already.
    fn answer(&self, mut kept: Kept, head: head::ResponseHead) -> Response<Body> {
        let (parts, framing) = split_head(head.status, head.headers, head.framing);
        match framing {
            Framing::Length(length) if kept.buffer.len() as u64 >= length => {
                let body = kept
                    .buffer
                    .split_to(usize::try_from(length).unwrap_or(0))
                    .freeze();
                if head.keep_alive {
                    self.inner.keep(kept);
                }
                return Response::from_parts(parts, Body::Bytes(body));
            }
            Framing::Chunked => {
                // A short answer in chunks is usually here as well.
                if let Some(body) = whole_chunked(&mut kept.buffer) {
                    if head.keep_alive {
                        self.inner.keep(kept);
                    }
                    return Response::from_parts(parts, Body::Bytes(body));
                }
            }
            Framing::Length(_) | Framing::UntilClose => {}
        }
        let stream = Incoming {
            kept: Some(kept),
            decoder: Decoding::new(framing),
            keep_alive: head.keep_alive,
            client: self.inner.clone(),
        };
        Response::from_parts(
            parts,
            Body::Stream {
                stream: Box::pin(stream),
                length: framing_length(framing),
            },
        )
    }
}

/// A chunked body that lies whole in the buffer, taken out of it; the buffer is untouched otherwise.
fn whole_chunked(buffer: &mut BytesMut) -> Option<Bytes> {
    if !buffer.ends_with(b"0\r\n\r\n") {
        return None;
    }
    let mut decoder = Decoder::new();
    let mut rest = buffer.split();
    let untouched = rest.clone();
    let mut body: Option<BytesMut> = None;
    let mut first: Option<Bytes> = None;
    loop {
        match decoder.decode(&mut rest) {
            Ok(Decoded::Data(data)) => match (&mut body, first.take()) {
                (Some(body), _) => body.extend_from_slice(&data),
                (None, None) => first = Some(data),
                (None, Some(earlier)) => {
                    let mut joined = BytesMut::from(&earlier[..]);
                    joined.extend_from_slice(&data);
                    body = Some(joined);
                }
            },
            Ok(Decoded::End) => {
                *buffer = rest;
                return Some(body.map(BytesMut::freeze).or(first).unwrap_or_default());
            }
            Ok(Decoded::Partial) | Err(_) => {
                *buffer = untouched;
                return None;
            }
        }
    }
}

fn split_head(
    status: http::StatusCode,
    headers: http::HeaderMap,
    framing: Framing,
) -> (http::response::Parts, Framing) {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    parts.headers = headers;
    (parts, framing)
}

fn framing_length(framing: Framing) -> Option<u64> {
    match framing {
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::UntilClose => None,
    }
}

fn is_ours(name: &HeaderName) -> bool {
    *name == HOST || *name == CONNECTION || *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING
}

fn closed(error: io::Error) -> ClientError {
    ClientError::Closed(match error.kind() {
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        io::ErrorKind::BrokenPipe => "write: broken pipe".to_owned(),
        _ => error.to_string(),
    })
}

async fn read_head(
    kept: &mut Kept,
    limit: usize,
    method: &Method,
) -> Result<head::ResponseHead, ClientError> {
    loop {
        if let Some(head) = next_head(&mut kept.buffer, limit, method)? {
            return Ok(head);
        }
        kept.buffer.reserve(2048);
        match kept.connection.read_buf(&mut kept.buffer).await {
            Ok(0) => return Err(kept.ended(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Err(kept.ended(error)),
        }
    }
}

/// The next head that is not merely informational.
fn next_head(
    buffer: &mut BytesMut,
    limit: usize,
    method: &Method,
) -> Result<Option<head::ResponseHead>, ClientError> {
    loop {
        if buffer.is_empty() {
            return Ok(None);
        }
        match head::response(buffer, limit, method).map_err(ClientError::Malformed)? {
            Some(head)
                if head.status.is_informational()
                    && head.status != http::StatusCode::SWITCHING_PROTOCOLS => {}
            head => return Ok(head),
        }
    }
}

impl Inner {
    fn keep(&self, mut kept: Kept) {
        if !kept.buffer.is_empty() {
            return;
        }
        if kept.buffer.capacity() > 64 * 1024 {
            kept.buffer = BytesMut::with_capacity(4096);
        }
        kept.has_served = true;
        let now = Instant::now();
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest are used first, so those that a burst left behind would stay at the front for as long as there is
        // something to do.
        while idle.front_mut().is_some_and(|(oldest, since)| {
            now.saturating_duration_since(*since) > IDLE || oldest.connection.stirred(&mut context)
        }) || idle.len() >= KEEP
        {
            idle.pop_front();
        }
        idle.push_back((kept, now));
    }
}

/// Where in a body we are.
#[derive(Debug)]
enum Decoding {
    Left(u64),
    Chunks(Decoder),
    UntilClose,
    Done,
}

impl Decoding {
    fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Left(length),
            Framing::Chunked => Self::Chunks(Decoder::new()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// A piece of what is in the buffer; `Ok(None)` when more has to be read.
    fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, BodyError> {
        match self {
            Self::Left(left) if !buffer.is_empty() => {
                let take = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                *left -= take as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Some(buffer.split_to(take).freeze()))
            }
            Self::UntilClose if !buffer.is_empty() => Ok(Some(buffer.split().freeze())),
            Self::Chunks(decoder) => match decoder.decode(buffer) {
                Ok(Decoded::Data(data)) => Ok(Some(data)),
                Ok(Decoded::End) => {
                    *self = Self::Done;
                    Ok(None)
                }
                Ok(Decoded::Partial) => Ok(None),
                Err(_) => Err(BodyError::Cut("malformed chunked encoding".to_owned())),
            },
            Self::Left(_) | Self::UntilClose | Self::Done => Ok(None),
        }
    }

    /// What the end of the connection means here.
    fn at_eof(&self) -> Option<Result<Bytes, BodyError>> {
        match self {
            Self::UntilClose | Self::Done => None,
            Self::Left(_) | Self::Chunks(_) => {
                Some(Err(BodyError::Cut("unexpected EOF".to_owned())))
            }
        }
    }
}

/// The body of an answer whose request has been sent whole.
struct Incoming {
    kept: Option<Kept>,
    decoder: Decoding,
    keep_alive: bool,
    client: Arc<Inner>,
}

impl futures_core::Stream for Incoming {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // Taken for the length of this poll; what is not put back is closed.
        let Some(mut kept) = this.kept.take() else {
            return Poll::Ready(None);
        };
        loop {
            let piece = match this.decoder.take(&mut kept.buffer) {
                Ok(piece) => piece,
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            if matches!(this.decoder, Decoding::Done) {
                if this.keep_alive {
                    this.client.keep(kept);
                }
                return Poll::Ready(piece.map(Ok));
            }
            if let Some(piece) = piece {
                this.kept = Some(kept);
                return Poll::Ready(Some(Ok(piece)));
            }
            match poll_read(Pin::new(&mut kept.connection), &mut kept.buffer, context) {
                Poll::Pending => {
                    this.kept = Some(kept);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(this.decoder.at_eof()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Some(Err(BodyError::Cut(error.to_string()))));
                }
            }
        }
    }
}

fn poll_read<R: tokio::io::AsyncRead>(
    mut reader: Pin<&mut R>,
    buffer: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    buffer.reserve(16 * 1024);
    let length = buffer.len();
    // Spare room is filled with zeros once; that keeps this free of uninitialised memory.
    buffer.resize(length + 16 * 1024, 0);
    let mut room = ReadBuf::new(buffer.get_mut(length..).unwrap_or_default());
    let outcome = reader.as_mut().poll_read(context, &mut room);
    let read = room.filled().len();
    buffer.truncate(length + read);
    outcome.map_ok(|()| read)
}

type Reader = tokio::io::ReadHalf<Connected>;
type Writer = tokio::io::WriteHalf<Connected>;
type Sending = Pin<Box<dyn Future<Output = Result<Writer, ClientError>> + Send>>;

struct Reading {
    reader: Reader,
    buffer: BytesMut,
}

impl Reading {
    async fn head(
        &mut self,
        limit: usize,
        method: &Method,
    ) -> Result<head::ResponseHead, ClientError> {
        loop {
            if let Some(head) = next_head(&mut self.buffer, limit, method)? {
                return Ok(head);
            }
            self.buffer.reserve(2048);
            if self
                .reader
                .read_buf(&mut self.buffer)
                .await
                .map_err(closed)?
                == 0
            {
                return Err(ClientError::Closed("EOF".to_owned()));
            }
        }
    }
}

async fn send_body(
    mut writer: Writer,
    mut body: Body,
    mut out: BytesMut,
    chunked: bool,
) -> Result<Writer, ClientError> {
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(ClientError::Body)?;
        if piece.is_empty() {
            continue;
        }
        if chunked {
            write::chunk_size(&mut out, piece.len());
        }
        let end: &[u8] = if chunked { b"\r\n" } else { b"" };
        writer
            .write_all_buf(&mut out.split().chain(piece).chain(end))
            .await
            .map_err(closed)?;
    }
    if chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    if !out.is_empty() {
        writer.write_all(&out).await.map_err(closed)?;
    }
    Ok(writer)
}

/// The body of an answer that came before its request was sent whole: reading it drives the sending on.
struct Duplex {
    reading: Reading,
    sending: Option<Sending>,
    decoder: Decoding,
    _room: OwnedSemaphorePermit,
}

impl futures_core::Stream for Duplex {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(sending) = &mut this.sending
            && let Poll::Ready(done) = sending.as_mut().poll(context)
        {
            this.sending = None;
            if let Err(ClientError::Body(error)) = done {
                return Poll::Ready(Some(Err(error)));
            }
        }
        loop {
            match this.decoder.take(&mut this.reading.buffer) {
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                Ok(None) if matches!(this.decoder, Decoding::Done) => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(poll_read(
                Pin::new(&mut this.reading.reader),
                &mut this.reading.buffer,
                context
            )) {
                Ok(0) => {
                    let end = this.decoder.at_eof();
                    this.decoder = Decoding::Done;
                    return Poll::Ready(end);
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(BodyError::Cut(error.to_string())))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Answers each connection's requests with the given texts, one per request, after reading up to `\r\n\r\n` plus `body`.
    async fn server(
        answers: Vec<&'static str>,
        body: usize,
    ) -> (Client, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        #[expect(clippy::disallowed_methods, reason = "the test owns the task")]
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            for answer in answers {
                let mut got = Vec::new();
                while !got.windows(4).any(|four| four == b"\r\n\r\n")
                    || got.len()
                        < got.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4 + body
                {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).await.unwrap();
                    got.push(byte[0]);
                }
                seen.push(String::from_utf8(got).unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            seen
        });
        (Client::new(Target::plain("127.0.0.1", port), 8, 8192), task)
    }

    fn get(path: &str) -> Request<Body> {
        Request::builder()
            .uri(path)
            .header("x-one", "1")
            .body(Body::EMPTY)
            .unwrap()
    }

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(
            response
                .into_body()
                .collect(usize::MAX)
                .await
                .unwrap()
                .to_vec(),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn a_connection_serves_one_request_after_another() {
        let (client, task) = server(
            vec![
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nho\r\n1\r\n!\r\n0\r\n\r\n",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            ],
            0,
        )
        .await;
        assert_eq!(text(client.send(get("/a?b=c")).await.unwrap()).await, "hi");
        assert_eq!(text(client.send(get("/b")).await.unwrap()).await, "ho!");
        assert_eq!(client.send(get("/c")).await.unwrap().status(), 204);
        let seen = task.await.unwrap();
        assert!(seen[0].starts_with("GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:"));
        assert!(seen[0].contains("\r\nX-One: 1\r\n"));
    }

    #[tokio::test]
    async fn a_body_in_pieces_goes_out_in_chunks() {
        let (client, task) = server(
            vec!["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
            "3\r\nabc\r\n0\r\n\r\n".len(),
        )
        .await;
        let body = Body::stream(futures_util::stream::iter([Ok(Bytes::from_static(b"abc"))]));
        let request = Request::builder()
            .method("POST")
            .uri("/")
            .body(body)
            .unwrap();
        assert_eq!(client.send(request).await.unwrap().status(), 200);
        assert!(task.await.unwrap()[0].ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_as_unsent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = Client::new(Target::plain("127.0.0.1", port), 8, 8192)
            .send(get("/"))
            .await
            .unwrap_err();
        assert!(error.is_unsent());
        assert_eq!(
            error.to_string(),
            format!("dial tcp 127.0.0.1:{port}: connect: connection refused")
        );
    }

    /// Answers every request, on connections that live as long as `alive` says.
    async fn patient(
        alive: tokio::sync::watch::Receiver<usize>,
    ) -> (Client, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        #[expect(clippy::disallowed_methods, reason = "the test owns the task")]
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut alive = alive.clone();
                connections.spawn(async move {
                    let mut piece = [0; 4096];
                    loop {
                        tokio::select! {
                            _ = alive.wait_for(|first| *first > number) => return,
                            read = stream.read(&mut piece) => assert!(read.unwrap() > 0),
                        }
                        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        (Client::new(Target::plain("127.0.0.1", port), 8, 8192), task)
    }

    async fn burst(client: &Client) {
        let some = [(); 3].map(|()| client.send(get("/")));
        futures_util::future::join_all(some).await;
        assert_eq!(client.inner.idle.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn connections_that_a_burst_left_behind_grow_old_while_requests_go_on() {
        let (_alive, seen) = tokio::sync::watch::channel(0);
        let (client, task) = patient(seen).await;
        burst(&client).await;
        for (_, since) in client.inner.idle.lock().unwrap().iter_mut().take(2) {
            *since -= IDLE + Duration::from_secs(1);
        }
        client.send(get("/")).await.unwrap();
        assert_eq!(client.inner.idle.lock().unwrap().len(), 1);
        task.abort();
    }

    #[tokio::test]
    async fn connections_that_the_server_has_closed_are_let_go_while_requests_go_on() {
        let (alive, seen) = tokio::sync::watch::channel(0);
        let (client, task) = patient(seen).await;
        burst(&client).await;
        alive.send_replace(2);
        let let_go = async {
            while client.inner.idle.lock().unwrap().len() > 1 {
                client.send(get("/")).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), let_go)
            .await
            .unwrap();
        task.abort();
    }

    /// Answers a request on its first connection, says `last` to the next and closes; answers on the second one.
    async fn closing(last: &'static str) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        #[expect(clippy::disallowed_methods, reason = "the test owns the task")]
        tokio::spawn(async move {
            for answers in [
                &["HTTP/1.1 204 No Content\r\n\r\n", last][..],
                &["HTTP/1.1 204 No Content\r\n\r\n"],
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                for answer in answers {
                    let mut piece = [0; 4096];
                    assert!(stream.read(&mut piece).await.unwrap() > 0);
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        Client::new(Target::plain("127.0.0.1", port), 8, 8192)
    }

    #[tokio::test]
    async fn a_used_connection_that_ends_without_a_word_is_stale_and_a_fresh_one_serves() {
        let client = closing("").await;
        client.send(get("/")).await.unwrap();
        let stale = client.send(get("/")).await.unwrap_err();
        assert!(matches!(stale, ClientError::Stale(_)), "{stale:?}");
        assert!(!stale.is_unsent());
        assert_eq!(client.send_afresh(get("/")).await.unwrap().status(), 204);
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_an_answer_is_not_stale() {
        let client = closing("HTTP/1.1 20").await;
        client.send(get("/")).await.unwrap();
        let closed = client.send(get("/")).await.unwrap_err();
        assert!(matches!(closed, ClientError::Closed(_)), "{closed:?}");
    }

    #[tokio::test]
    async fn an_answer_cut_short_is_told() {
        let (client, task) =
            server(vec!["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi"], 0).await;
        let response = client.send(get("/")).await.unwrap();
        task.await.unwrap();
        assert_eq!(
            response.into_body().collect(100).await,
            Err(BodyError::Cut("unexpected EOF".into()))
        );
    }
}
