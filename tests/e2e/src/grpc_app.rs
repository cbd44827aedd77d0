//! A gRPC server whose answers a test writes down: an app, or, with the protocol between sidecars, a peer.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use outrigger_testkit::ports;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::grpc::{frame, unframe};

/// A call that came in.
#[derive(Clone, Debug)]
pub struct Called {
    /// `/package.Service/Method`.
    pub method: String,
    pub headers: HeaderMap,
    /// What was sent so far.
    pub messages: Vec<Bytes>,
    pub at: Instant,
}

impl Called {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// How a call is answered.
#[derive(Clone, Debug)]
pub struct GrpcReply {
    code: u16,
    message: String,
    messages: Vec<Vec<u8>>,
    fields: Vec<(&'static str, String)>,
    delay: Duration,
    echoes: bool,
}

impl GrpcReply {
    /// OK with one message.
    pub fn ok(message: impl Into<Vec<u8>>) -> Self {
        Self {
            messages: vec![message.into()],
            ..Self::status(0, "")
        }
    }

    /// A status and nothing else.
    pub fn status(code: u16, message: &str) -> Self {
        Self {
            code,
            message: message.to_owned(),
            messages: Vec::new(),
            fields: Vec::new(),
            delay: Duration::ZERO,
            echoes: false,
        }
    }

    /// Sends every message back at once, and ends when the caller does.
    pub fn echo() -> Self {
        Self {
            echoes: true,
            ..Self::status(0, "")
        }
    }

    /// Messages in front of the status.
    #[must_use]
    pub fn messages(mut self, messages: &[&[u8]]) -> Self {
        self.messages = messages.iter().map(|message| message.to_vec()).collect();
        self
    }

    /// A field beside the status.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Nothing comes before, not even the head.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(self.code));
        if !self.message.is_empty() {
            let message = self.message.as_str().try_into();
            trailers.insert("grpc-message", message.expect("a plain text"));
        }
        for (name, value) in &self.fields {
            let value = value.as_str().try_into().expect("a plain text");
            trailers.append(HeaderName::from_static(name), value);
        }
        trailers
    }
}

type Script = Arc<dyn Fn(usize, &Called) -> GrpcReply + Send + Sync>;

/// Listens on a port of this machine until it is dropped, with all its connections.
#[derive(Debug)]
pub struct GrpcApp {
    port: u16,
    called: Arc<Mutex<Vec<Called>>>,
    _tasks: JoinSet<()>,
}

/// What all connections share.
#[derive(Clone)]
struct Shared {
    called: Arc<Mutex<Vec<Called>>>,
    counts: Arc<Mutex<HashMap<String, usize>>>,
    script: Script,
}

impl GrpcApp {
    /// A server whose answer depends on how often a method was called: 1 the first time. No message has come by then.
    pub async fn start(
        script: impl Fn(usize, &Called) -> GrpcReply + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(ports::free(), script).await
    }

    /// # Panics
    /// When the port cannot be had.
    pub async fn start_on(
        port: u16,
        script: impl Fn(usize, &Called) -> GrpcReply + Send + Sync + 'static,
    ) -> Self {
        // Sidecars write down the address of this machine, not that of the loopback.
        let listener = TcpListener::bind(("0.0.0.0", port)).await;
        let listener = listener.unwrap_or_else(|error| panic!("port {port}: {error}"));
        let called: Arc<Mutex<Vec<Called>>> = Arc::default();
        let shared = Shared {
            called: Arc::clone(&called),
            counts: Arc::default(),
            script: Arc::new(script),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared));
        Self {
            port,
            called,
            _tasks: tasks,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every call of a method so far.
    pub fn calls(&self, method: &str) -> Vec<Called> {
        let called = lock(&self.called);
        let of_method = called.iter().filter(|called| called.method == method);
        of_method.cloned().collect()
    }

    /// Every method that was called, in order.
    pub fn methods(&self) -> Vec<String> {
        let called = lock(&self.called);
        called.iter().map(|called| called.method.clone()).collect()
    }

    pub fn count(&self, method: &str) -> usize {
        self.calls(method).len()
    }

    /// Forgets what was called.
    pub fn clear(&self) {
        lock(&self.called).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let shared = shared.clone();
        connections.spawn(async move { serve(stream, &shared).await.ok() });
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = h2::server::handshake(stream)
        .await
        .map_err(io::Error::other)?;
    let mut calls = JoinSet::new();
    while let Some(request) = connection.accept().await {
        let (request, respond) = request.map_err(io::Error::other)?;
        let (head, body) = request.into_parts();
        let called = Called {
            method: head.uri.path().to_owned(),
            headers: head.headers,
            messages: Vec::new(),
            at: Instant::now(),
        };
        let nth = {
            let mut counts = lock(&shared.counts);
            let count = counts.entry(called.method.clone()).or_default();
            *count += 1;
            *count
        };
        let reply = (shared.script)(nth, &called);
        let place = {
            let mut all = lock(&shared.called);
            all.push(called);
            all.len() - 1
        };
        let kept = Arc::clone(&shared.called);
        calls.spawn(async move {
            let note = |message: &Bytes| {
                if let Some(called) = lock(&kept).get_mut(place) {
                    called.messages.push(message.clone());
                }
            };
            answer(body, respond, &reply, note).await.ok();
        });
    }
    Ok(())
}

async fn answer(
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
    reply: &GrpcReply,
    mut note: impl FnMut(&Bytes),
) -> Result<(), h2::Error> {
    let head = || Response::builder().header("content-type", "application/grpc");
    let mut echo = None;
    if reply.echoes {
        let head = head().body(()).expect("it is valid");
        echo = Some(respond.send_response(head, false)?);
    }
    let mut read = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        read.extend_from_slice(&piece);
        while let Some(message) = unframe(&mut read) {
            note(&message);
            if let Some(echo) = &mut echo {
                echo.send_data(frame(&message), false)?;
            }
        }
    }
    tokio::time::sleep(reply.delay).await;
    if let Some(mut echo) = echo {
        return echo.send_trailers(reply.trailers());
    }
    if reply.messages.is_empty() {
        let mut head = head().body(()).expect("it is valid");
        head.headers_mut().extend(reply.trailers());
        return respond.send_response(head, true).map(|_| ());
    }
    let head = head().body(()).expect("it is valid");
    let mut sender = respond.send_response(head, false)?;
    for message in &reply.messages {
        sender.send_data(frame(message), false)?;
    }
    sender.send_trailers(reply.trailers())
}
