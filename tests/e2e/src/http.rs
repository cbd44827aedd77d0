//! HTTP/1.1, as little of it as clients and apps of tests need.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;

/// No answer takes longer, unless a test says so.
const PATIENCE: Duration = Duration::from_secs(60);

/// A piece of a streamed body.
const PIECE: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn post(path: &str, body: impl AsRef<[u8]>) -> Self {
        let mut request = Self::new("POST", path);
        request.body = body.as_ref().to_vec();
        request.header("content-type", "application/json")
    }

    /// Adds a header, in place of one with this name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn head(&self, framing: &str) -> String {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n",
            self.method, self.path
        );
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text
    }
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Of the whole body, also where it was not kept.
    pub length: u64,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Panics
    /// When the body is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error code in the body; empty without one.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["errorCode"].as_str().unwrap_or_default().to_owned()
    }

    /// # Panics
    /// When it is another status or error code.
    #[track_caller]
    pub fn assert(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.code().as_str()),
            (status, code),
            "{}",
            self.text()
        );
    }
}

/// One connection, used for one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// # Errors
    /// When nobody accepts.
    pub async fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// # Errors
    /// When the connection breaks.
    pub async fn send(&mut self, request: &Request) -> io::Result<Answer> {
        let mut bytes = request
            .head(&format!("content-length: {}", request.body.len()))
            .into_bytes();
        bytes.extend_from_slice(&request.body);
        self.stream.write_all(&bytes).await?;
        self.answer(&request.method).await
    }

    /// Sends these very bytes and reads one answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<Answer> {
        // A server may answer and close before it has read everything.
        self.stream.write_all(bytes).await.ok();
        self.answer("").await
    }

    /// Sends a body of zeros in chunks; what comes back is counted, not kept.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn stream(&mut self, request: &Request, length: u64) -> io::Result<Answer> {
        let head = request.head("transfer-encoding: chunked");
        self.stream.write_all(head.as_bytes()).await?;
        write_zeros(self.stream.get_mut(), length).await?;
        self.answer(&request.method).await
    }

    async fn answer(&mut self, method: &str) -> io::Result<Answer> {
        loop {
            let (line, headers) = read_head(&mut self.stream).await?;
            let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
            let status = status.ok_or_else(|| io::Error::other(format!("no status: {line:?}")))?;
            if status == 100 {
                continue;
            }
            let empty = method == "HEAD" || matches!(status, 204 | 304);
            let framing = if empty {
                Framing::Length(0)
            } else {
                framing(&headers, Framing::UntilEnd)
            };
            let (body, length) = read_body(&mut self.stream, framing).await?;
            return Ok(Answer {
                status,
                headers,
                body,
                length,
            });
        }
    }
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// When nobody accepts, when the connection breaks, or when no answer comes within a minute.
pub async fn call(port: u16, request: &Request) -> io::Result<Answer> {
    let talk = async { Connection::open(port).await?.send(request).await };
    tokio::time::timeout(PATIENCE, talk).await?
}

/// Connections that are used again.
#[derive(Debug)]
pub struct Pool {
    port: u16,
    idle: Mutex<Vec<Connection>>,
    /// How many connections may be idle.
    kept: usize,
}

impl Pool {
    pub fn to(port: u16) -> Self {
        Self::keeping(usize::MAX, port)
    }

    /// A pool that closes connections when so many others are idle.
    pub fn keeping(kept: usize, port: u16) -> Self {
        Self {
            port,
            idle: Mutex::default(),
            kept,
        }
    }

    /// # Errors
    /// When nobody accepts, when the connection breaks, or when no answer comes within a minute.
    pub async fn send(&self, request: &Request) -> io::Result<Answer> {
        let idle = self.lock().pop();
        let talk = async {
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open(self.port).await?,
            };
            let answer = connection.send(request).await?;
            let mut idle = self.lock();
            if answer.header("connection") != Some("close") && idle.len() < self.kept {
                idle.push(connection);
            }
            drop(idle);
            Ok(answer)
        };
        tokio::time::timeout(PATIENCE, talk).await?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilEnd,
}

pub(crate) fn framing(headers: &[(String, String)], otherwise: Framing) -> Framing {
    let value = |name| {
        headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    };
    if value("transfer-encoding") == Some("chunked") {
        return Framing::Chunked;
    }
    match value("content-length").and_then(|text| text.parse().ok()) {
        Some(length) => Framing::Length(length),
        None => otherwise,
    }
}

/// The first line and the headers, their names in small letters.
pub(crate) async fn read_head(
    stream: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<(String, Vec<(String, String)>)> {
    let first = read_line(stream).await?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream).await?;
        match line.split_once(':') {
            Some((name, value)) => {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()))
            }
            None if line.is_empty() => return Ok((first, headers)),
            None => return Err(io::Error::other(format!("no header: {line:?}"))),
        }
    }
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// The beginning of a body, and the length of all of it.
pub(crate) async fn read_body(
    stream: &mut (impl AsyncBufRead + Unpin),
    framing: Framing,
) -> io::Result<(Vec<u8>, u64)> {
    let (mut kept, mut length) = (Vec::new(), 0);
    match framing {
        Framing::Length(expected) => {
            length = take(stream, expected, &mut kept).await?;
            if length < expected {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Framing::UntilEnd => length = take(stream, u64::MAX, &mut kept).await?,
        Framing::Chunked => loop {
            let line = read_line(stream).await?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if take(stream, size, &mut kept).await? < size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            length += size;
            read_line(stream).await?;
            if size == 0 {
                break;
            }
        },
    }
    Ok((kept, length))
}

/// Reads at most so many bytes and keeps the first of them; how many there were.
async fn take(
    stream: &mut (impl AsyncRead + Unpin),
    limit: u64,
    kept: &mut Vec<u8>,
) -> io::Result<u64> {
    const KEPT: usize = 8 << 20;
    let (mut piece, mut read) = (
        vec![0; PIECE.min(usize::try_from(limit).unwrap_or(PIECE))],
        0,
    );
    while read < limit {
        let wanted = piece
            .len()
            .min(usize::try_from(limit - read).unwrap_or(usize::MAX));
        let got = stream.read(&mut piece[..wanted]).await?;
        if got == 0 {
            break;
        }
        read += got as u64;
        if kept.len() < KEPT {
            kept.extend_from_slice(&piece[..got]);
        }
    }
    Ok(read)
}

/// A chunked body of zeros.
pub(crate) async fn write_zeros(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    let mut chunk = format!("{PIECE:x}\r\n").into_bytes();
    let start = chunk.len();
    chunk.resize(start + PIECE, 0);
    chunk.extend_from_slice(b"\r\n");
    for _ in 0..length / PIECE as u64 {
        stream.write_all(&chunk).await?;
    }
    let rest = usize::try_from(length % PIECE as u64).unwrap_or(0);
    if rest > 0 {
        stream.write_all(format!("{rest:x}\r\n").as_bytes()).await?;
        stream.write_all(&chunk[start..start + rest]).await?;
        stream.write_all(b"\r\n").await?;
    }
    stream.write_all(b"0\r\n\r\n").await
}
