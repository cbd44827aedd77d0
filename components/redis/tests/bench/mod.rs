//! What the tests of this crate share: a real server, instances opened as the sidecar does, handlers that keep a record.

#![allow(
    dead_code,
    reason = "every test binary has this module and uses a part of it"
)]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail the test that called it"
)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_component_api::{
    Bytes, Concurrency, Consistency, Delete, Findings, Get, Handler, Message, Metadata, Outcome,
    PubSub, Publish, Scope, Set, Source, StateStore, Subscribe, Value, async_trait,
};
use outrigger_component_redis::register;
use outrigger_testkit::servers::RedisServer;
use outrigger_testkit::suites::open::{Opened, Resource};
use outrigger_testkit::suites::properties;
use outrigger_testkit::wait;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn address(server: &RedisServer) -> String {
    format!("127.0.0.1:{}", server.port())
}

pub(crate) fn resource(type_name: &'static str, host: &str, more: &[(&str, &str)]) -> Resource {
    let host = [("redisHost", host)];
    Resource {
        register,
        type_name,
        properties: properties(
            host.iter()
                .chain(more)
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        ),
    }
}

/// An opened state store.
pub(crate) async fn store(host: &str, more: &[(&str, &str)]) -> Opened<dyn StateStore> {
    let opener = checked(resource("state.redis", host, more).state_store());
    Opened::ready(&opener).await
}

/// An opened broker.
pub(crate) async fn broker(host: &str, more: &[(&str, &str)]) -> Opened<dyn PubSub> {
    let opener = checked(resource("pubsub.redis", host, more).pubsub());
    Opened::ready(&opener).await
}

pub(crate) fn checked<T>(checked: Result<T, Findings>) -> T {
    checked.unwrap_or_else(|findings| panic!("{findings:?}"))
}

/// A raw connection to the server, to look at what lies there.
pub(crate) async fn raw(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    raw_at(&format!("redis://{}", address(server))).await
}

pub(crate) async fn raw_at(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connected = client.get_multiplexed_async_connection_with_config(&patient);
    connected.await.unwrap()
}

/// Sends one command, given as words.
pub(crate) async fn ask<T: redis::FromRedisValue>(
    connection: &redis::aio::MultiplexedConnection,
    words: &[&str],
) -> T {
    attempt(connection, words)
        .await
        .unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

pub(crate) async fn attempt<T: redis::FromRedisValue>(
    connection: &redis::aio::MultiplexedConnection,
    words: &[&str],
) -> redis::RedisResult<T> {
    let (name, arguments) = words.split_first().unwrap();
    let mut command = redis::cmd(name);
    command.arg(arguments);
    command.query_async(&mut connection.clone()).await
}

/// A whole hash, its fields sorted: `data=x version=1`.
pub(crate) async fn hash(connection: &redis::aio::MultiplexedConnection, key: &str) -> String {
    let fields: std::collections::BTreeMap<String, String> =
        ask(connection, &["HGETALL", key]).await;
    let fields: Vec<String> = fields
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    fields.join(" ")
}

pub(crate) fn get(key: &str) -> Get {
    Get {
        key: key.to_owned(),
        ..Get::default()
    }
}

pub(crate) fn set(key: &str, value: &str) -> Set {
    Set {
        key: key.to_owned(),
        value: Value::Bytes(Bytes::copy_from_slice(value.as_bytes())),
        etag: None,
        concurrency: Concurrency::Unset,
        consistency: Consistency::Unset,
        metadata: Metadata::new(),
    }
}

pub(crate) fn delete(key: &str) -> Delete {
    Delete {
        key: key.to_owned(),
        etag: None,
        concurrency: Concurrency::Unset,
        consistency: Consistency::Unset,
        metadata: Metadata::new(),
    }
}

pub(crate) fn with_etag(set: Set, etag: &str) -> Set {
    Set {
        etag: Some(etag.to_owned()),
        ..set
    }
}

pub(crate) fn with(set: Set, name: &str, value: &str) -> Set {
    let mut metadata = set.metadata;
    metadata.insert(name.to_owned(), value.to_owned());
    Set { metadata, ..set }
}

pub(crate) fn first_write(set: Set) -> Set {
    Set {
        concurrency: Concurrency::FirstWrite,
        ..set
    }
}

/// What a handler does with a message.
pub(crate) type Decide = Box<dyn Fn(&Message) -> Decision + Send + Sync>;

pub(crate) enum Decision {
    Now(Outcome),
    /// Once the gate is opened.
    Later(Outcome),
}

/// A handler that keeps a record of what it was given.
pub(crate) struct Recorder {
    decide: Decide,
    seen: watch::Sender<Vec<Message>>,
    gate: watch::Sender<bool>,
    /// How many handlers run now, and the most that ever did.
    running: Mutex<(usize, usize)>,
}

impl Recorder {
    pub(crate) fn new(decide: impl Fn(&Message) -> Decision + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            decide: Box::new(decide),
            seen: watch::Sender::new(Vec::new()),
            gate: watch::Sender::new(false),
            running: Mutex::default(),
        })
    }

    /// Answers the same every time.
    pub(crate) fn always(outcome: Outcome) -> Arc<Self> {
        Self::new(move |_| Decision::Now(outcome.clone()))
    }

    /// Answers in this order, then `Done`.
    pub(crate) fn answering(outcomes: impl IntoIterator<Item = Outcome>) -> Arc<Self> {
        let outcomes: Mutex<VecDeque<Outcome>> = Mutex::new(outcomes.into_iter().collect());
        Self::new(move |_| {
            let next = outcomes.lock().unwrap().pop_front();
            Decision::Now(next.unwrap_or(Outcome::Done))
        })
    }

    /// Waits for the gate.
    pub(crate) fn gated(outcome: Outcome) -> Arc<Self> {
        Self::new(move |_| Decision::Later(outcome.clone()))
    }

    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.borrow().len()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.running.lock().unwrap().1
    }

    /// Payloads in order of arrival.
    pub(crate) fn payloads(&self) -> Vec<String> {
        let seen = self.seen.borrow();
        let text = |message: &Message| String::from_utf8_lossy(&message.data).into_owned();
        seen.iter().map(text).collect()
    }

    /// Waits for so many messages in all, and gives them.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> impl Future<Output = Vec<Message>> + '_ {
        let mut seen = self.seen.subscribe();
        async move {
            let what = format!("{count} messages");
            let all = seen.wait_for(|seen| seen.len() >= count);
            wait::within(what, SOON, all).await.unwrap().clone()
        }
    }
}

#[async_trait]
impl Handler for Recorder {
    async fn handle(&self, message: Message) -> Outcome {
        let decision = (self.decide)(&message);
        {
            let mut running = self.running.lock().unwrap();
            running.0 += 1;
            running.1 = running.1.max(running.0);
        }
        self.seen.send_modify(|seen| seen.push(message));
        let outcome = match decision {
            Decision::Now(outcome) => outcome,
            Decision::Later(outcome) => {
                let mut gate = self.gate.subscribe();
                gate.wait_for(|open| *open).await.ok();
                outcome
            }
        };
        self.running.lock().unwrap().0 -= 1;
        outcome
    }
}

pub(crate) async fn subscribe(
    broker: &Opened<dyn PubSub>,
    topic: &str,
    handler: &Arc<Recorder>,
) -> Box<dyn Source> {
    let request = Subscribe {
        topic: topic.to_owned(),
        metadata: Metadata::new(),
    };
    broker.subscribe(request, handler.clone()).await.unwrap()
}

pub(crate) fn message(topic: &str, data: &str) -> Publish {
    Publish {
        topic: topic.to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        metadata: None,
        content_type: None,
    }
}

pub(crate) async fn publish(broker: &Opened<dyn PubSub>, topic: &str, data: &str) {
    broker.publish(message(topic, data)).await.unwrap();
}

/// How many entries of the group wait for an acknowledgement.
pub(crate) async fn pending(
    connection: &redis::aio::MultiplexedConnection,
    topic: &str,
    group: &str,
) -> usize {
    let facts: Vec<redis::Value> = ask(connection, &["XPENDING", topic, group]).await;
    redis::from_redis_value(facts[0].clone()).unwrap()
}

/// Waits until so many entries of the group wait for an acknowledgement.
pub(crate) async fn pending_becomes(
    connection: &redis::aio::MultiplexedConnection,
    topic: &str,
    group: &str,
    count: usize,
) {
    let what = format!("{count} pending entries in {topic}");
    wait::until(what, SOON, async || {
        let seen = pending(connection, topic, group).await;
        if seen == count { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// Id, idle time in milliseconds and delivery count of every pending entry.
pub(crate) async fn pending_entries(
    connection: &redis::aio::MultiplexedConnection,
    topic: &str,
    group: &str,
) -> Vec<(String, u64, u32)> {
    let entries: Vec<(String, String, u64, u32)> =
        ask(connection, &["XPENDING", topic, group, "-", "+", "1000"]).await;
    entries
        .into_iter()
        .map(|(id, _, idle, count)| (id, idle, count))
        .collect()
}

/// Answers one command, given as words, in the form of the protocol.
pub(crate) type Answer = Box<dyn Fn(&[&str]) -> String + Send + Sync>;

/// A server that answers as no server that we can start does, and keeps every command.
pub(crate) struct StandIn {
    pub(crate) address: String,
    commands: Arc<Mutex<Vec<Vec<String>>>>,
    scope: Scope,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

impl StandIn {
    pub(crate) async fn launch(answer: impl Fn(&[&str]) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let commands = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(Box::new(answer));
        let scope = Scope::root();
        let (kept, connections) = (commands.clone(), scope.clone());
        scope.spawn("stand-in", |stop| async move {
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let serving = serve(stream, answer.clone(), kept.clone());
                connections.spawn("connection", |stop| async move {
                    stop.run_until_cancelled(serving).await;
                });
            }
        });
        Self {
            address,
            commands,
            scope,
        }
    }

    /// The commands with this name, without it, oldest first.
    pub(crate) fn commands(&self, name: &str) -> Vec<Vec<String>> {
        let commands = self.commands.lock().unwrap();
        let named = commands.iter().filter(|words| words[0] == name);
        named.map(|words| words[1..].to_vec()).collect()
    }
}

async fn serve(
    stream: TcpStream,
    answer: Arc<Answer>,
    commands: Arc<Mutex<Vec<Vec<String>>>>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let command = command(&mut stream).await?;
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let answer = match words.as_slice() {
            ["PING"] => "+PONG\r\n".to_owned(),
            ["INFO", ..] => bulk("# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"),
            words => answer(words),
        };
        commands.lock().unwrap().push(command);
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

pub(crate) fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

async fn command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let count = number(stream).await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = number(stream).await?;
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await.ok()?;
        word.truncate(length);
        words.push(String::from_utf8(word).ok()?);
    }
    Some(words)
}

async fn number(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.trim().get(1..)?.parse().ok()
}
