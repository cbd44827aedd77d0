//! An application whose answers a test writes down, and which remembers what it was asked.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outrigger_testkit::ports;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::http::{Framing, framing, read_body, read_head, write_zeros};

/// What an app was asked.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Of the whole body, also where it was not kept.
    pub length: u64,
    pub at: Instant,
}

impl Received {
    /// What was published, if this is an event.
    pub fn data(&self) -> Value {
        let event: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        event["data"].clone()
    }

    /// Every value of a header.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(other, _)| other == name);
        of_name.map(|(_, value)| value.as_str()).collect()
    }
}

/// What an app answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
    /// So many zeros in place of the body.
    pub zeros: Option<u64>,
    pub headers: Vec<(&'static str, String)>,
    pub delay: Duration,
    pub course: Course,
}

/// How much of an answer is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Course {
    #[default]
    Whole,
    /// A longer body was promised; nothing follows, and the connection stays.
    Stalls,
    /// The connection is closed in place of an answer.
    Closes,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            content_type: "text/plain",
            body: Vec::new(),
            zeros: None,
            headers: Vec::new(),
            delay: Duration::ZERO,
            course: Course::Whole,
        }
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The answer takes its time.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The beginning of an answer that never ends.
    #[must_use]
    pub fn stalling(mut self) -> Self {
        self.course = Course::Stalls;
        self
    }

    /// No answer: the connection is closed.
    pub fn closing() -> Self {
        Self {
            course: Course::Closes,
            ..Self::status(200)
        }
    }

    pub fn json(value: &Value) -> Self {
        Self {
            content_type: "application/json",
            body: value.to_string().into_bytes(),
            ..Self::status(200)
        }
    }

    pub fn text(text: impl Into<Vec<u8>>) -> Self {
        Self {
            body: text.into(),
            ..Self::status(200)
        }
    }

    /// A long body, sent in chunks.
    pub fn zeros(length: u64) -> Self {
        Self {
            zeros: Some(length),
            ..Self::status(200)
        }
    }
}

type Script = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// A request whose caller went away before it was answered.
#[derive(Clone, Debug)]
pub struct Cut {
    pub path: String,
    pub at: Instant,
}

/// Listens on a port of this machine until it is dropped.
#[derive(Debug)]
pub struct App {
    port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    cuts: Arc<Mutex<Vec<Cut>>>,
    closing: watch::Sender<bool>,
    acceptor: JoinSet<()>,
}

/// What the connections of an app share.
#[derive(Clone)]
struct Desk {
    script: Script,
    /// Absent where nobody will look.
    received: Option<Arc<Mutex<Vec<Received>>>>,
    cuts: Arc<Mutex<Vec<Cut>>>,
    closing: watch::Receiver<bool>,
    /// How long a connection may be idle.
    idle: Duration,
}

/// How long a connection of a forgetful app may be idle.
const IDLE: Duration = Duration::from_secs(5);

impl App {
    /// An app that answers as told.
    pub async fn start(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(ports::free(), script).await
    }

    /// An app whose answer depends on how often a path was asked for: 1 the first time.
    pub async fn counting(
        script: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let counts: Mutex<HashMap<String, usize>> = Mutex::default();
        Self::start(move |asked| {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(asked.path.clone()).or_default();
            *count += 1;
            script(*count, asked)
        })
        .await
    }

    /// An app that answers every path with these statuses, one after the other, and with the last of them from then on.
    pub async fn answering(statuses: &'static [u16]) -> Self {
        Self::counting(|nth, _| {
            Reply::status(statuses[(nth - 1).min(statuses.len() - 1)]).with_body("from the app")
        })
        .await
    }

    /// # Panics
    /// When the port cannot be had.
    pub async fn start_on(
        port: u16,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(port, Arc::new(script), true).await
    }

    /// An app that does not remember what it was asked, for those that are asked for long. As most servers do, it closes
    /// connections that are idle.
    ///
    /// # Panics
    /// When the port cannot be had.
    pub async fn forgetful(
        port: u16,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(port, Arc::new(script), false).await
    }

    async fn listen(port: u16, script: Script, remembers: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.unwrap_or_else(|error| panic!("port {port}: {error}"));
        let received = Arc::default();
        let cuts = Arc::default();
        let closing = watch::Sender::new(false);
        let desk = Desk {
            script,
            received: remembers.then(|| Arc::clone(&received)),
            cuts: Arc::clone(&cuts),
            closing: closing.subscribe(),
            idle: if remembers { Duration::MAX } else { IDLE },
        };
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept(listener, desk));
        Self {
            port,
            received,
            cuts,
            closing,
            acceptor,
        }
    }

    /// Ends as a killed process does, without a word to anybody; everything it was asked.
    pub async fn kill(mut self) -> Vec<Received> {
        self.acceptor.shutdown().await;
        self.received().clone()
    }

    /// Ends as a well-behaved app does: takes no new connection, and answers what it was asked.
    pub async fn finish(&mut self) {
        self.closing.send_replace(true);
        while self.acceptor.join_next().await.is_some() {}
    }

    /// An app that takes what is published to these topics, each a pair of component and topic.
    pub async fn subscribed(topics: &[(&str, &str)]) -> Self {
        let list = subscriptions(topics);
        Self::start(move |asked| match asked.path.as_str() {
            "/dapr/subscribe" => Reply::json(&list),
            "/dapr/config" => Reply::status(404),
            _ => Reply::status(200),
        })
        .await
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything it was asked, for as long as nothing else is asked.
    pub fn received(&self) -> MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The requests whose callers did not wait for the answer.
    pub fn cuts(&self) -> Vec<Cut> {
        let cuts = self.cuts.lock();
        cuts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When a path was asked for last.
    pub fn last(&self, path: &str) -> Option<Instant> {
        let received = self.received();
        let mut latest = received.iter().rev();
        latest
            .find(|asked| asked.path == path)
            .map(|asked| asked.at)
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        self.received()
            .iter()
            .filter(|asked| asked.path == path)
            .count()
    }

    /// When a path was asked for, each time.
    pub fn times(&self, path: &str) -> Vec<Instant> {
        let received = self.received();
        let asked = received.iter().filter(|asked| asked.path == path);
        asked.map(|asked| asked.at).collect()
    }

    /// How often a text was delivered to a path.
    pub fn deliveries(&self, path: &str, text: &str) -> usize {
        let received = self.received();
        let meant = received
            .iter()
            .filter(|asked| asked.path == path && asked.data() == text);
        meant.count()
    }

    /// When this text was delivered first.
    pub fn delivered(&self, text: &str) -> Option<Instant> {
        let received = self.received();
        let mut found = received.iter().filter(|asked| asked.data() == text);
        found.next().map(|asked| asked.at)
    }
}

/// What `/dapr/subscribe` answers for these topics.
pub fn subscriptions(topics: &[(&str, &str)]) -> Value {
    let entry = |(pubsub, topic): &(&str, &str)| json!({"pubsubname": pubsub, "topic": topic, "route": format!("/on/{topic}")});
    Value::Array(topics.iter().map(entry).collect())
}

async fn accept(listener: TcpListener, mut desk: Desk) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = desk.closing.wait_for(|closing| *closing) => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { break };
        while connections.try_join_next().is_some() {}
        let desk = desk.clone();
        connections.spawn(async move { serve(stream, desk).await.ok() });
    }
    drop(listener);
    connections.join_all().await;
}

async fn serve(stream: TcpStream, mut desk: Desk) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let head = tokio::select! {
            biased;
            _ = desk.closing.wait_for(|closing| *closing) => return Ok(()),
            head = tokio::time::timeout(desk.idle, read_head(&mut stream)) => head?,
        };
        let (line, headers) = head?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let framing = framing(&headers, Framing::Length(0));
        let (body, length) = read_body(&mut stream, framing).await?;
        let asked = Received {
            method,
            path: path.clone(),
            headers,
            body,
            length,
            at: Instant::now(),
        };
        let reply = (desk.script)(&asked);
        if let Some(received) = &desk.received {
            let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
            received.push(asked);
        }
        if !stays(&mut stream, reply.delay).await {
            let at = Instant::now();
            let cuts = desk.cuts.lock();
            cuts.unwrap_or_else(PoisonError::into_inner)
                .push(Cut { path, at });
            return Ok(());
        }
        if reply.course == Course::Closes {
            return Ok(());
        }
        answer(stream.get_mut(), &reply).await?;
        if reply.course == Course::Stalls {
            // Until the other side gives up.
            return read_head(&mut stream).await.map(|_| ());
        }
    }
}

/// Lets time pass; false as soon as the caller has gone.
async fn stays(stream: &mut BufReader<TcpStream>, time: Duration) -> bool {
    tokio::select! {
        biased;
        () = tokio::time::sleep(time) => true,
        more = stream.fill_buf() => match more {
            Ok([]) | Err(_) => false,
            // The next request; nobody but a hurried caller sends it now.
            Ok(_) => {
                tokio::time::sleep(time).await;
                true
            }
        },
    }
}

async fn answer(stream: &mut TcpStream, reply: &Reply) -> io::Result<()> {
    let framing = match reply.zeros {
        Some(_) => "transfer-encoding: chunked".to_owned(),
        None if reply.course == Course::Stalls => {
            format!("content-length: {}", 2 * reply.body.len() + 1)
        }
        None => format!("content-length: {}", reply.body.len()),
    };
    let mut head = format!(
        "HTTP/1.1 {} X\r\ncontent-type: {}\r\n{framing}\r\n",
        reply.status, reply.content_type
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&reply.body);
    stream.write_all(&bytes).await?;
    match reply.zeros {
        Some(length) => write_zeros(stream, length).await,
        None => Ok(()),
    }
}
