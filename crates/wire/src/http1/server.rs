//! One server connection.
//!
//! A single task reads a head, runs the handler, writes the answer, and begins again. A body that is small and of known
//! length is read before the handler runs, so that the usual request needs neither channel nor second task; any other
//! body is fed to the handler through a channel of two pieces while it runs. Whoever hangs up while the handler works
//! cancels it.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, TRANSFER_ENCODING};
use http::{HeaderName, Method, Request, Response, Version};
use outrigger_core::{Body, BodyError};
use outrigger_lifecycle::Stop;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::chunked::{Decoded, Decoder};
use super::head::{self, Framing, Refusal, RequestHead, has_token};
use super::{h2c, write};
use crate::http2;
use crate::io::{Connected, Rewind};

/// Bodies up to this length are read before the handler runs.
const SMALL_BODY: u64 = 64 * 1024;
/// Answers up to this length are written together with their head.
const SMALL_ANSWER: usize = 16 * 1024;
/// What a handler left unread is thrown away up to this much, to keep the connection.
const DISCARD: usize = 256 * 1024;
/// A read buffer that grew beyond this is given back between requests.
const KEEP_BUFFER: usize = 64 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Bytes of request line and fields.
    pub max_head: usize,
    /// For a head to arrive, from its first byte on.
    pub head_timeout: Duration,
    /// Bytes of a request body; `None` for no limit.
    pub max_body: Option<u64>,
    /// Whether HTTP/2 is spoken on the same port.
    pub h2c: bool,
    pub http2: http2::Settings,
}

/// Put into an answer's extensions: the body goes out in chunks although its length is known.
#[derive(Clone, Copy, Debug)]
pub struct Streamed;

/// Put into an answer's extensions: the connection ends without an answer.
#[derive(Clone, Copy, Debug)]
pub struct Hangup;

/// Serves a connection until it ends. `stop` closes it between requests.
pub async fn serve<H, F>(connection: Connected, settings: &ServerSettings, stop: &Stop, handler: H)
where
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut server = Server {
        connection,
        buffer: BytesMut::with_capacity(4096),
        out: BytesMut::with_capacity(1024),
        settings,
        handler,
    };
    let mut stopped = pin!(stop.cancelled());
    loop {
        let idle = server.buffer.is_empty();
        let read = tokio::select! {
            biased;
            read = server.read_head() => read,
            // A head under way is waited for; silence is not.
            () = &mut stopped, if idle => return,
        };
        let next = match read {
            Ok(Start::Head(head)) => server.exchange(*head, stop).await,
            Ok(Start::Http2) => Ok(Next::Http2(server.buffer.split().freeze())),
            Ok(Start::Refused(refusal)) => {
                server.refuse(refusal).await.ok();
                return;
            }
            Ok(Start::Closed) | Err(_) => return,
        };
        match next {
            Ok(Next::Request) => {}
            Ok(Next::Http2(first)) => {
                http2::serve(
                    Rewind::new(first, server.connection),
                    settings.http2,
                    settings.max_body,
                    stop,
                    server.handler,
                )
                .await;
                return;
            }
            Ok(Next::Close) => {
                linger(&mut server.connection).await;
                return;
            }
            Err(_) => return,
        }
    }
}

struct Server<'a, H> {
    connection: Connected,
    buffer: BytesMut,
    out: BytesMut,
    settings: &'a ServerSettings,
    handler: H,
}

enum Start {
    Head(Box<RequestHead>),
    Http2,
    Refused(Refusal),
    Closed,
}

enum Next {
    Request,
    Close,
    /// Goes on as HTTP/2, these bytes first.
    Http2(Bytes),
}

impl<H, F> Server<'_, H>
where
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    async fn read_head(&mut self) -> io::Result<Start> {
        if self.buffer.capacity() > KEEP_BUFFER && self.buffer.is_empty() {
            self.buffer = BytesMut::with_capacity(4096);
        }
        if let Some(start) = self.parse_head() {
            return Ok(start);
        }
        self.buffer.reserve(1024);
        if self.connection.read_buf(&mut self.buffer).await? == 0 {
            return Ok(Start::Closed);
        }
        if let Some(start) = self.parse_head() {
            return Ok(start);
        }
        // Only a head that comes in pieces needs a clock.
        let limit = self.settings.head_timeout;
        let rest = async {
            loop {
                self.buffer.reserve(1024);
                if self.connection.read_buf(&mut self.buffer).await? == 0 {
                    return Ok(Start::Closed);
                }
                if let Some(start) = self.parse_head() {
                    return Ok(start);
                }
            }
        };
        tokio::time::timeout(limit, rest)
            .await
            .unwrap_or(Ok(Start::Closed))
    }

    fn parse_head(&mut self) -> Option<Start> {
        if self.buffer.is_empty() {
            return None;
        }
        if self.settings.h2c
            && self.buffer.starts_with(
                PREFACE
                    .get(..self.buffer.len().min(PREFACE.len()))
                    .unwrap_or_default(),
            )
        {
            return (self.buffer.len() >= PREFACE.len()).then_some(Start::Http2);
        }
        match head::request(&mut self.buffer, self.settings.max_head) {
            Ok(Some(head)) => Some(Start::Head(Box::new(head))),
            Ok(None) => None,
            Err(refusal) => Some(Start::Refused(refusal)),
        }
    }

    async fn exchange(&mut self, head: RequestHead, stop: &Stop) -> io::Result<Next> {
        let about = About {
            http10: head.version == Version::HTTP_10,
            is_head: head.method == Method::HEAD,
            keep_alive: head.keep_alive,
        };
        if head.method == Method::OPTIONS && head.uri.path() == "*" {
            return self.answer(about, Response::new(Body::EMPTY), stop).await;
        }
        let expects = head
            .headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let framing = head.framing;
        let upgrade = self.settings.h2c && !about.http10 && h2c::is_asked_for(&head.headers);
        let mut request = Request::new(Body::EMPTY);
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.version_mut() = head.version;
        *request.headers_mut() = head.headers;

        let limit = self.settings.max_body.unwrap_or(u64::MAX);
        match framing {
            Framing::Length(length) if length <= SMALL_BODY.min(limit) => {
                if expects && length > 0 {
                    self.connection
                        .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                        .await?;
                }
                *request.body_mut() = self
                    .small_body(usize::try_from(length).unwrap_or(usize::MAX))
                    .await?;
                if upgrade {
                    return self.upgrade(request).await;
                }
                let response = {
                    let mut work = pin!((self.handler)(request));
                    tokio::select! {
                        biased;
                        response = &mut work => response,
                        () = hung_up(&mut self.connection, &mut self.buffer, self.settings.max_head) => return Err(io::ErrorKind::ConnectionReset.into()),
                    }
                };
                self.answer(about, response, stop).await
            }
            framing => {
                self.exchange_streaming(request, framing, limit, expects, about, stop)
                    .await
            }
        }
    }

    /// Reads a body that fits the buffer.
    async fn small_body(&mut self, length: usize) -> io::Result<Body> {
        if length == 0 {
            return Ok(Body::EMPTY);
        }
        if self.buffer.len() < length {
            self.buffer.reserve(length - self.buffer.len());
        }
        while self.buffer.len() < length {
            if self.connection.read_buf(&mut self.buffer).await? == 0 {
                let cut = BodyError::Cut("unexpected EOF".to_owned());
                return Ok(Body::stream(futures_util::stream::iter([Err(cut)])));
            }
        }
        Ok(Body::Bytes(self.buffer.split_to(length).freeze()))
    }

    /// Runs the handler while its body is still arriving.
    async fn exchange_streaming(
        &mut self,
        mut request: Request<Body>,
        framing: Framing,
        limit: u64,
        expects: bool,
        about: About,
        stop: &Stop,
    ) -> io::Result<Next> {
        let (sender, receiver) = mpsc::channel(2);
        let length = match framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        };
        *request.body_mut() = Body::Stream {
            stream: Box::pin(ReceiverStream(receiver)),
            length,
        };
        if expects {
            self.connection
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await?;
        }
        let (mut reader, mut writer) = tokio::io::split(&mut self.connection);
        let mut pump = pin!(pump(&mut reader, &mut self.buffer, framing, limit, sender));
        let out = &mut self.out;
        // Whoever answers ahead of the end of a body that cannot be read has to say that nothing follows.
        let is_spoilt = AtomicBool::new(length.is_some_and(|length| length > limit));
        let work = async {
            let response = (self.handler)(request).await;
            let about = About {
                keep_alive: about.keep_alive && !is_spoilt.load(Ordering::Relaxed),
                ..about
            };
            write_response(&mut writer, out, about, response, stop).await
        };
        let mut work = pin!(work);
        let mut body_done = None;
        let answered = loop {
            tokio::select! {
                biased;
                answered = &mut work => break answered?,
                done = &mut pump, if body_done.is_none() => match done {
                    // The client is gone: nobody waits for the answer.
                    Pumped::Cut => return Err(io::ErrorKind::UnexpectedEof.into()),
                    done => {
                        if matches!(done, Pumped::Broken) {
                            is_spoilt.store(true, Ordering::Relaxed);
                        }
                        body_done = Some(done);
                    }
                },
            }
        };
        if body_done.is_none() {
            // The handler did not want the rest: a short one is thrown away, a long one ends the connection.
            body_done = tokio::time::timeout(Duration::from_millis(500), pump)
                .await
                .ok();
        }
        Ok(if answered && matches!(body_done, Some(Pumped::All)) {
            Next::Request
        } else {
            Next::Close
        })
    }

    async fn upgrade(&mut self, request: Request<Body>) -> io::Result<Next> {
        self.connection
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            )
            .await?;
        let first = tokio::time::timeout(
            self.settings.head_timeout,
            h2c::opening(&mut self.connection, &mut self.buffer, request),
        )
        .await;
        first
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map(Next::Http2)
    }

    async fn answer(
        &mut self,
        about: About,
        response: Response<Body>,
        stop: &Stop,
    ) -> io::Result<Next> {
        let keep =
            write_response(&mut self.connection, &mut self.out, about, response, stop).await?;
        Ok(if keep { Next::Request } else { Next::Close })
    }

    async fn refuse(&mut self, refusal: Refusal) -> io::Result<()> {
        self.out.clear();
        write::status_line(&mut self.out, false, refusal.status, refusal.detail);
        self.out.extend_from_slice(
            b"Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n",
        );
        let mut line = BytesMut::new();
        write::status_line(&mut line, false, refusal.status, refusal.detail);
        // The body repeats the status line without its version.
        self.out
            .extend_from_slice(line.get(9..line.len() - 2).unwrap_or_default());
        self.connection.write_all(&self.out).await?;
        linger(&mut self.connection).await;
        Ok(())
    }
}

/// What of a request decides the form of its answer.
#[derive(Clone, Copy)]
struct About {
    http10: bool,
    is_head: bool,
    keep_alive: bool,
}

/// Completes when the client closes its side. Bytes of a pipelined request are kept, up to a limit.
async fn hung_up(connection: &mut Connected, buffer: &mut BytesMut, limit: usize) {
    while buffer.len() < limit {
        buffer.reserve(1024);
        match connection.read_buf(buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    std::future::pending().await
}

enum Pumped {
    /// The body ended, and the next request may follow.
    All,
    /// It was too large, broken, or not wanted: nothing more can be read from this connection.
    Broken,
    /// The client went away.
    Cut,
}

/// Feeds the body to the handler. Once the handler has dropped its end, the rest is discarded.
async fn pump(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    framing: Framing,
    limit: u64,
    sender: mpsc::Sender<Result<Bytes, BodyError>>,
) -> Pumped {
    let mut chunks = Decoder::new();
    let mut left = match framing {
        Framing::Length(length) => length,
        Framing::Chunked | Framing::UntilClose => u64::MAX,
    };
    let (mut allowed, mut discarded) = (limit, 0);
    loop {
        let piece = match framing {
            Framing::Chunked => match chunks.decode(buffer) {
                Ok(Decoded::Data(data)) => Some(data),
                Ok(Decoded::End) => return Pumped::All,
                Ok(Decoded::Partial) => None,
                Err(_) => {
                    sender
                        .send(Err(BodyError::Cut(
                            "http: invalid byte in chunk length".to_owned(),
                        )))
                        .await
                        .ok();
                    return Pumped::Broken;
                }
            },
            Framing::Length(_) | Framing::UntilClose => {
                if left == 0 {
                    return Pumped::All;
                }
                let take = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                left -= take as u64;
                (take > 0).then(|| buffer.split_to(take).freeze())
            }
        };
        let Some(mut piece) = piece else {
            // Read in large steps: every piece costs a turn of the handler.
            buffer.reserve(32 * 1024);
            match reader.read_buf(buffer).await {
                Ok(0) | Err(_) => {
                    sender
                        .send(Err(BodyError::Cut("unexpected EOF".to_owned())))
                        .await
                        .ok();
                    return Pumped::Cut;
                }
                Ok(_) => continue,
            }
        };
        if piece.len() as u64 > allowed {
            piece.truncate(usize::try_from(allowed).unwrap_or(usize::MAX));
            if !piece.is_empty() {
                sender.send(Ok(piece)).await.ok();
            }
            sender.send(Err(BodyError::TooLarge)).await.ok();
            return Pumped::Broken;
        }
        allowed -= piece.len() as u64;
        let length = piece.len();
        if sender.send(Ok(piece)).await.is_err() {
            discarded += length;
            if discarded > DISCARD {
                return Pumped::Broken;
            }
        }
    }
}

/// Writes an answer. True when the connection can be used again.
async fn write_response(
    writer: &mut (impl AsyncWrite + Unpin),
    out: &mut BytesMut,
    about: About,
    response: Response<Body>,
    stop: &Stop,
) -> io::Result<bool> {
    let (parts, body) = response.into_parts();
    let has_marks = !parts.extensions.is_empty();
    if has_marks && parts.extensions.get::<Hangup>().is_some() {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let streamed = has_marks && parts.extensions.get::<Streamed>().is_some();
    let status = parts.status.as_u16();
    let bodiless = about.is_head || status < 200 || matches!(status, 204 | 304);
    let length = match &body {
        Body::Bytes(bytes) if !streamed || bytes.is_empty() => Some(bytes.len() as u64),
        Body::Stream { length, .. } if !streamed => *length,
        Body::Bytes(_) | Body::Stream { .. } => None,
    };
    let chunked = length.is_none() && !about.http10;
    let keep =
        about.keep_alive && !stop.is_cancelled() && (bodiless || length.is_some() || chunked);

    out.clear();
    out.reserve(256);
    write::status_line(out, about.http10, status, "");
    write::fields(out, &parts.headers, is_ours);
    write::date(out);
    if status >= 200 && status != 204 {
        match length {
            Some(length) if status != 304 || length > 0 => write::field(
                out,
                "content-length",
                itoa::Buffer::new().format(length).as_bytes(),
            ),
            _ => {}
        }
    }
    if !keep && !about.http10 {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if keep && about.http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    if chunked && !bodiless {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if bodiless {
        writer.write_all(out).await?;
        return Ok(keep);
    }
    match body {
        Body::Bytes(bytes) if chunked => write_chunk(writer, out, bytes, true).await?,
        Body::Bytes(bytes) => write_piece(writer, out, bytes).await?,
        Body::Stream { .. } => write_stream(writer, out, body, chunked).await?,
    }
    Ok(keep)
}

/// Pieces go out as they come.
async fn write_stream(
    writer: &mut (impl AsyncWrite + Unpin),
    out: &mut BytesMut,
    mut body: Body,
    chunked: bool,
) -> io::Result<()> {
    // The head leaves at once if the first piece is not there yet.
    let ready = futures_util::poll!(pin!(body.next()));
    let mut piece = match ready {
        std::task::Poll::Ready(piece) => piece,
        std::task::Poll::Pending => {
            writer.write_all(out).await?;
            out.clear();
            body.next().await
        }
    };
    while let Some(bytes) = piece {
        let bytes = bytes.map_err(|cut| io::Error::new(io::ErrorKind::UnexpectedEof, cut))?;
        if !bytes.is_empty() {
            if chunked {
                write_chunk(writer, out, bytes, false).await?
            } else {
                write_piece(writer, out, bytes).await?
            }
        }
        piece = body.next().await;
    }
    if chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    if !out.is_empty() {
        writer.write_all(out).await?;
        out.clear();
    }
    Ok(())
}

async fn write_chunk(
    writer: &mut (impl AsyncWrite + Unpin),
    out: &mut BytesMut,
    bytes: Bytes,
    last: bool,
) -> io::Result<()> {
    write::chunk_size(out, bytes.len());
    let end: &[u8] = if last { b"\r\n0\r\n\r\n" } else { b"\r\n" };
    if bytes.len() <= SMALL_ANSWER {
        out.extend_from_slice(&bytes);
        out.extend_from_slice(end);
        writer.write_all(out).await?;
    } else {
        writer
            .write_all_buf(&mut out.split().chain(bytes).chain(end))
            .await?;
    }
    out.clear();
    Ok(())
}

async fn write_piece(
    writer: &mut (impl AsyncWrite + Unpin),
    out: &mut BytesMut,
    bytes: Bytes,
) -> io::Result<()> {
    if bytes.len() <= SMALL_ANSWER {
        out.extend_from_slice(&bytes);
        writer.write_all(out).await?;
    } else {
        writer.write_all_buf(&mut out.split().chain(bytes)).await?;
    }
    out.clear();
    Ok(())
}

/// Fields that the connection decides about.
fn is_ours(name: &HeaderName) -> bool {
    *name == CONNECTION || *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING || *name == DATE
}

/// Closes our side and reads what still comes for a moment, so that the answer is not lost to a reset.
async fn linger(connection: &mut Connected) {
    if connection.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 1024];
    let drain = async { while matches!(connection.read(&mut rest).await, Ok(read) if read > 0) {} };
    tokio::time::timeout(Duration::from_millis(500), drain)
        .await
        .ok();
}

pub(super) struct ReceiverStream(mpsc::Receiver<Result<Bytes, BodyError>>);

impl futures_core::Stream for ReceiverStream {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// Whether a field asks for a change of protocol.
pub(super) fn asks_upgrade(headers: &http::HeaderMap, protocol: &[u8]) -> bool {
    let connection = headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| has_token(value, b"upgrade"));
    connection
        && headers
            .get_all(http::header::UPGRADE)
            .iter()
            .any(|value| has_token(value, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    fn settings() -> ServerSettings {
        ServerSettings {
            max_head: 8192,
            head_timeout: Duration::from_secs(10),
            max_body: Some(1 << 20),
            h2c: true,
            http2: http2::Settings::default(),
        }
    }

    /// Echoes the body under the request's path; `/hang` never answers, `/stream` answers in chunks.
    async fn echo(request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/hang" {
            std::future::pending::<()>().await;
        }
        let body = match request.into_body().collect(usize::MAX).await {
            Ok(body) => body,
            Err(error) => {
                return Response::builder()
                    .status(500)
                    .body(error.to_string().into())
                    .unwrap();
            }
        };
        let mut response = Response::new(Body::from(Bytes::from(format!(
            "{path}:{}",
            String::from_utf8_lossy(&body)
        ))));
        if path == "/stream" {
            response.extensions_mut().insert(Streamed);
        }
        response
    }

    async fn connect() -> (TcpStream, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = listener.accept().await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "the test owns the task")]
        let task = tokio::spawn(async move {
            serve(Connected::Tcp(server), &settings(), &Stop::new(), echo).await
        });
        (client, task)
    }

    async fn talk(send: &[u8]) -> String {
        let (mut client, _task) = connect().await;
        client.write_all(send).await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        let text = String::from_utf8(got).unwrap();
        text.lines()
            .filter(|line| !line.starts_with("Date:"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[tokio::test]
    async fn pipelined_requests_are_answered_in_order() {
        let got = talk(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhiGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert_eq!(
            got,
            "HTTP/1.1 200 OK\nContent-Length: 5\n\n/a:hiHTTP/1.1 200 OK\nContent-Length: 3\nConnection: close\n\n/b:"
        );
    }

    #[tokio::test]
    async fn chunked_bodies_come_whole_and_go_in_chunks() {
        let got = talk(b"POST /stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET /z HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert_eq!(
            got,
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nd\n/stream:abcde\n0\n\nHTTP/1.1 200 OK\nContent-Length: 3\nConnection: close\n\n/z:"
        );
    }

    #[tokio::test]
    async fn an_oversized_body_is_told_to_the_handler() {
        let mut send = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n".to_vec();
        send.extend_from_slice(&vec![b'x'; 2_000_000]);
        assert!(talk(&send).await.ends_with("stream too large"));
    }

    #[tokio::test]
    async fn a_refused_head_is_answered_and_the_connection_closed() {
        assert_eq!(
            talk(b"GET / HTTP/1.1\r\n\r\n").await,
            "HTTP/1.1 400 Bad Request: missing required Host header\nContent-Type: text/plain; charset=utf-8\nConnection: close\n\n400 Bad Request: missing required Host header"
        );
    }

    #[tokio::test]
    async fn hanging_up_cancels_the_handler() {
        let (mut client, task) = connect().await;
        client
            .write_all(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        drop(client);
        tokio::time::timeout(Duration::from_secs(5), task)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn one_continue_is_sent_before_the_body() {
        let (mut client, _task) = connect().await;
        client
            .write_all(
                b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
            )
            .await
            .unwrap();
        let mut first = [0; 25];
        client.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"hi").await.unwrap();
        let mut rest = [0; 15];
        client.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"HTTP/1.1 200 OK");
    }
}
