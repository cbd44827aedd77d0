//! What the tests with a real broker share: instances of the component, handlers that record, a client of our own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use outrigger_component_api::{
    Handler, Message, Metadata, Opener, Outcome, Properties, PubSub, Publish, Source, Subscribe,
    async_trait,
};
use outrigger_testkit::servers::RabbitServer;
use outrigger_testkit::suites::open::{Opened, Resource};
use outrigger_testkit::suites::properties;
use outrigger_testkit::wait;
use tokio::sync::{Notify, Semaphore};

/// Long enough for a broker on a busy machine; reached only by a failing test.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A name that no other test uses.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{name}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn resource<const N: usize>(url: &str, pairs: [(&str, &str); N]) -> Resource {
    let mut all = properties([("connectionString", url)]);
    all.0.extend(Properties::from(pairs).0);
    Resource {
        register: outrigger_component_rabbitmq::register,
        type_name: "pubsub.rabbitmq",
        properties: all,
    }
}

pub(crate) fn opener<const N: usize>(url: &str, pairs: [(&str, &str); N]) -> Opener<dyn PubSub> {
    resource(url, pairs)
        .pubsub()
        .unwrap_or_else(|findings| panic!("{findings:?}"))
}

/// An instance on the shared broker.
pub(crate) async fn shared<const N: usize>(pairs: [(&str, &str); N]) -> Opened<dyn PubSub> {
    let server = RabbitServer::shared().await;
    Opened::ready(&opener(&server.url(), pairs)).await
}

/// Queues and exchanges that stay when nobody uses them.
pub(crate) const KEPT: (&str, &str) = ("deletedWhenUnused", "false");

pub(crate) fn message(topic: &str, data: impl Into<Vec<u8>>) -> Publish {
    Publish {
        topic: topic.to_owned(),
        data: data.into().into(),
        metadata: Some(Metadata::new()),
        content_type: None,
    }
}

pub(crate) fn to(topic: &str) -> Subscribe {
    with(topic, [])
}

pub(crate) fn with<const N: usize>(topic: &str, metadata: [(&str, &str); N]) -> Subscribe {
    Subscribe {
        topic: topic.to_owned(),
        metadata: pairs(metadata),
    }
}

pub(crate) fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Metadata {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

type Answer = Box<dyn Fn(&Message) -> Outcome + Send + Sync>;

/// Records what it is given, and answers what it is told to. While it is shut, it keeps what it has in work.
pub(crate) struct Recorder {
    seen: Mutex<Vec<Message>>,
    answer: Mutex<Answer>,
    arrived: Notify,
    gate: Semaphore,
    pub(crate) running: AtomicUsize,
    pub(crate) most: AtomicUsize,
}

const OPEN: usize = 1_000_000;

impl Recorder {
    pub(crate) fn new(answer: impl Fn(&Message) -> Outcome + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::default(),
            answer: Mutex::new(Box::new(answer)),
            arrived: Notify::new(),
            gate: Semaphore::new(OPEN),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    /// Succeeds at once.
    pub(crate) fn done() -> Arc<Self> {
        Self::new(|_| Outcome::Done)
    }

    /// Succeeds as soon as it is opened.
    pub(crate) fn shut() -> Arc<Self> {
        let recorder = Self::done();
        recorder.gate.forget_permits(OPEN);
        recorder
    }

    pub(crate) fn open(&self) {
        self.gate.add_permits(OPEN);
    }

    /// Lets that many messages finish.
    pub(crate) fn let_pass(&self, count: usize) {
        self.gate.add_permits(count);
    }

    pub(crate) fn answer(&self, answer: impl Fn(&Message) -> Outcome + Send + Sync + 'static) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(answer);
    }

    pub(crate) fn seen(&self) -> Vec<Message> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        let text = |message: &Message| String::from_utf8_lossy(&message.data).into_owned();
        self.seen().iter().map(text).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Waits for that many messages and gives them.
    #[track_caller]
    pub(crate) fn got(self: &Arc<Self>, count: usize) -> impl Future<Output = Vec<Message>> {
        let this = self.clone();
        async move {
            wait::until(format!("{count} messages"), SOON, async || {
                let seen = this.count();
                if seen >= count { Ok(()) } else { Err(seen) }
            })
            .await;
            this.seen()
        }
    }
}

#[async_trait]
impl Handler for Recorder {
    async fn handle(&self, message: Message) -> Outcome {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(message.clone());
        self.arrived.notify_waiters();
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        answer(&message)
    }
}

pub(crate) async fn subscribe(
    pubsub: &Opened<dyn PubSub>,
    request: Subscribe,
    handler: &Arc<Recorder>,
) -> Box<dyn Source> {
    let subscribed = pubsub.subscribe(request, handler.clone());
    wait::within("subscribing", SOON, subscribed)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"))
}

/// Publishes and insists on success.
pub(crate) async fn publish(pubsub: &Opened<dyn PubSub>, topic: &str, texts: &[&str]) {
    for text in texts {
        wait::within("publishing", SOON, pubsub.publish(message(topic, *text)))
            .await
            .unwrap_or_else(|error| panic!("{error:?}"));
    }
}

/// Another program at the same broker.
pub(crate) struct Client {
    _connection: Connection,
    pub(crate) channel: Channel,
}

impl Client {
    pub(crate) async fn at(server: &RabbitServer) -> Self {
        let connection = Connection::connect(&server.url(), ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self {
            _connection: connection,
            channel,
        }
    }

    pub(crate) async fn shared() -> Self {
        Self::at(RabbitServer::shared().await).await
    }

    /// A fresh channel, after a refusal closed the last one.
    pub(crate) async fn reopen(&mut self) {
        self.channel = self._connection.create_channel().await.unwrap();
    }

    /// A queue that gets a copy of everything published to a topic whose exchange is there.
    pub(crate) async fn tap(&self, topic: &str) -> Consumer {
        self.tap_with(topic, "").await
    }

    pub(crate) async fn tap_with(&self, topic: &str, routing_key: &str) -> Consumer {
        let queue = unique("tap");
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let table = FieldTable::default();
        self.channel
            .queue_declare(queue.as_str().into(), options, table.clone())
            .await
            .unwrap();
        self.channel
            .queue_bind(
                queue.as_str().into(),
                topic.into(),
                routing_key.into(),
                QueueBindOptions::default(),
                table.clone(),
            )
            .await
            .unwrap();
        self.consume(&queue).await
    }

    /// Takes messages from a queue, acknowledged as they are sent.
    pub(crate) async fn consume(&self, queue: &str) -> Consumer {
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        self.channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default())
            .await
            .unwrap()
    }

    /// Declares a durable queue and binds it to a topic.
    pub(crate) async fn queue(&self, queue: &str, topic: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(queue.into(), options, arguments)
            .await
            .unwrap();
        self.channel
            .queue_bind(
                queue.into(),
                topic.into(),
                "".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
    }

    pub(crate) async fn exchange(
        &self,
        name: &str,
        kind: ExchangeKind,
        durable: bool,
        auto_delete: bool,
    ) -> lapin::Result<()> {
        let options = ExchangeDeclareOptions {
            durable,
            auto_delete,
            ..ExchangeDeclareOptions::default()
        };
        self.channel
            .exchange_declare(name.into(), kind, options, FieldTable::default())
            .await
    }

    pub(crate) async fn declare(
        &self,
        name: &str,
        durable: bool,
        auto_delete: bool,
        arguments: FieldTable,
    ) -> lapin::Result<()> {
        let options = QueueDeclareOptions {
            durable,
            auto_delete,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(name.into(), options, arguments)
            .await
            .map(|_| ())
    }

    /// Ready messages and consumers of a queue; an error when it is not there.
    pub(crate) async fn look(&mut self, queue: &str) -> Result<(u32, u32), String> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let looked = self
            .channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await;
        match looked {
            Ok(queue) => Ok((queue.message_count(), queue.consumer_count())),
            Err(error) => {
                self.reopen().await;
                Err(error.to_string())
            }
        }
    }

    /// Publishes as a foreign program would.
    pub(crate) async fn send(&self, exchange: &str, data: &[u8], properties: BasicProperties) {
        self.channel
            .basic_publish(
                exchange.into(),
                "".into(),
                BasicPublishOptions::default(),
                data,
                properties,
            )
            .await
            .unwrap();
    }
}

/// Waits until a queue has that many ready messages and consumers.
pub(crate) async fn settled(client: &mut Client, queue: &str, expected: (u32, u32)) {
    wait::until(format!("{queue} with {expected:?}"), SOON, async || {
        let seen = client.look(queue).await;
        if seen == Ok(expected) {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
}

/// The next message of a consumer.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    wait::within("a message", SOON, consumer.next())
        .await
        .unwrap()
        .unwrap()
}

/// The next messages of a consumer, as texts.
pub(crate) async fn texts(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        texts.push(String::from_utf8_lossy(&delivery.data).into_owned());
    }
    texts
}

pub(crate) fn table<const N: usize>(arguments: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(name.into(), value);
    }
    table
}

pub(crate) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// How often each text was seen.
pub(crate) fn tally(texts: &[String]) -> BTreeMap<&str, usize> {
    let mut tally = BTreeMap::new();
    for text in texts {
        *tally.entry(text.as_str()).or_default() += 1;
    }
    tally
}
