//! Messages inside one process.
//!
//! A publish puts the message into the queue of every subscription whose topic fits and returns; it waits only while one
//! of them is full. Each subscription has a worker that hands out one message at a time, in order. A message that failed
//! is handed out again after a second, three times at most. One that nobody subscribed to is gone.
//!
//! Owns: topics, queues, repetition. Never: looks into a message.
//! Start at [`Broker`]; the rules of a queue are in `queue.rs`. Tests: below, and the conformance suite.

mod exchange;
mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_component_api::{
    Component, ComponentError, Handler, Message, Outcome, PubSub, PubSubFeatures, Publish, Scope,
    Source, Stop, Subscribe, async_trait,
};
use tracing::warn;

pub(crate) use exchange::Exchange;
use queue::{Item, Queue, Settled};

/// One instance over an exchange.
pub(crate) struct Broker {
    exchange: Arc<Exchange>,
    scope: Scope,
    is_closed: AtomicBool,
}

impl Broker {
    pub(crate) fn open(exchange: Arc<Exchange>, scope: Scope) -> Self {
        Self {
            exchange,
            scope,
            is_closed: AtomicBool::new(false),
        }
    }

    fn open_or_error(&self) -> Result<(), ComponentError> {
        if self.is_closed.load(Ordering::SeqCst) || self.scope.is_stopped() {
            // Dapr: components-contrib/pubsub/in-memory/in-memory.go
            return Err(ComponentError::invalid("component is closed"));
        }
        Ok(())
    }
}

#[async_trait]
impl Component for Broker {
    async fn ping(&self) -> Result<(), ComponentError> {
        self.open_or_error()
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.scope.cancel();
    }
}

#[async_trait]
impl PubSub for Broker {
    fn features(&self) -> PubSubFeatures {
        PubSubFeatures {
            message_ttl: false,
            subscribe_wildcards: true,
            consumer_groups: false,
        }
    }

    async fn publish(&self, request: Publish) -> Result<(), ComponentError> {
        self.open_or_error()?;
        let item = Item::new(request.data, request.metadata);
        for (queue, item) in self.exchange.offer(&request.topic, &item) {
            queue.push(item).await;
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        request: Subscribe,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn Source>, ComponentError> {
        self.open_or_error()?;
        let queue = self.exchange.subscribe(&request.topic);
        let subscription = Subscription {
            exchange: Arc::clone(&self.exchange),
            queue: Arc::clone(&queue),
            topic: request.topic,
        };
        let worker = Worker {
            subscription: subscription.clone(),
            handler,
        };
        self.scope
            .spawn("pubsub.in-memory.subscription", |stop| worker.run(stop));
        Ok(Box::new(Consumer { subscription }))
    }
}

#[derive(Clone)]
struct Subscription {
    exchange: Arc<Exchange>,
    queue: Arc<Queue>,
    /// What was subscribed to, a pattern perhaps. Messages carry it, as in Dapr: apps find their handler by it.
    topic: String,
}

impl Subscription {
    /// Takes no more messages; those in the queue wait for the next subscription to the topic.
    fn end(&self, was_asked: bool) {
        self.exchange.unsubscribe(&self.topic, &self.queue);
        let left = self.queue.close(was_asked);
        self.exchange.park(&self.topic, left);
    }
}

/// The handle that the caller of `subscribe` holds.
struct Consumer {
    subscription: Subscription,
}

#[async_trait]
impl Source for Consumer {
    async fn pause(&self) {
        self.subscription.queue.pause();
    }

    async fn resume(&self) {
        self.subscription.queue.resume();
    }

    /// Nothing is fetched ahead of the queue, which is this broker's own.
    async fn release(&self) {}

    async fn ended(&self) -> ComponentError {
        self.subscription.queue.died().await;
        ComponentError::transient("component is closed")
    }

    async fn close(&self) {
        self.subscription.end(true);
    }

    fn in_flight(&self) -> usize {
        usize::from(self.subscription.queue.is_busy())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.subscription.end(true);
    }
}

struct Worker {
    subscription: Subscription,
    handler: Arc<dyn Handler>,
}

impl Worker {
    async fn run(self, stop: Stop) {
        // Acts on every way out, a panic of the handler included.
        let worker = Ending(self);
        let Worker {
            subscription,
            handler,
        } = &worker.0;
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = subscription.queue.next() => next,
            };
            let Some(item) = next else { return };
            let message = Message {
                topic: subscription.topic.clone(),
                data: item.data,
                metadata: item.metadata.as_deref().cloned(),
                delivery: item.delivery,
            };
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                outcome = handler.handle(message) => outcome,
            };
            worker.settle(outcome);
        }
    }
}

struct Ending(Worker);

impl Ending {
    fn settle(&self, outcome: Outcome) {
        let Subscription {
            exchange,
            queue,
            topic,
        } = &self.0.subscription;
        let failure = match &outcome {
            Outcome::Done | Outcome::Released => None,
            Outcome::Retry(why) | Outcome::GaveUp(why) => Some(why.clone()),
        };
        match queue.settle(outcome) {
            Settled::Kept => {}
            Settled::Gone => {
                if let Some(error) = failure {
                    warn!(component = %exchange.component(), topic, error, "message dropped after its last attempt");
                }
            }
            Settled::Left(item) => exchange.give_back(topic, queue, item),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let subscription = &self.0.subscription;
        subscription.end(false);
        if let Settled::Left(item) = subscription.queue.settle(Outcome::Released) {
            subscription
                .exchange
                .give_back(&subscription.topic, &subscription.queue, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::time::Duration;

    use outrigger_component_api::{Bytes, ComponentName};
    use tokio::sync::Semaphore;
    use tokio::time::{Instant, timeout};

    const SOON: Duration = Duration::from_millis(10);

    /// Keeps what it is given and answers as it was told to, with `Done` in the end.
    struct App {
        received: Mutex<Vec<(Message, Instant)>>,
        answers: Mutex<Vec<Outcome>>,
        /// A message is handled only with a permit.
        permits: Semaphore,
    }

    impl App {
        fn answering(answers: impl IntoIterator<Item = Outcome>) -> Arc<Self> {
            let mut answers: Vec<Outcome> = answers.into_iter().collect();
            answers.reverse();
            Arc::new(Self {
                received: Mutex::default(),
                answers: Mutex::new(answers),
                permits: Semaphore::new(1_000_000),
            })
        }

        fn stuck() -> Arc<Self> {
            let app = Self::answering([]);
            app.permits.forget_permits(1_000_000);
            app
        }

        fn texts(&self) -> Vec<String> {
            let received = self.received.lock().unwrap();
            let text = |message: &Message| String::from_utf8(message.data.to_vec()).unwrap();
            received.iter().map(|(message, _)| text(message)).collect()
        }
    }

    #[async_trait]
    impl Handler for App {
        async fn handle(&self, message: Message) -> Outcome {
            let now = Instant::now();
            self.received.lock().unwrap().push((message, now));
            self.permits.acquire().await.unwrap().forget();
            self.answers.lock().unwrap().pop().unwrap_or(Outcome::Done)
        }
    }

    struct Bus {
        exchange: Arc<Exchange>,
        broker: Broker,
        scope: Scope,
    }

    impl Bus {
        fn new() -> Self {
            let exchange = Arc::new(Exchange::new(ComponentName::from("bus")));
            Self::over(exchange)
        }

        fn over(exchange: Arc<Exchange>) -> Self {
            let scope = Scope::root();
            let broker = Broker::open(Arc::clone(&exchange), scope.clone());
            Self {
                exchange,
                broker,
                scope,
            }
        }

        async fn publish(&self, topic: &str, text: &str) -> Result<(), ComponentError> {
            let request = Publish {
                topic: topic.to_owned(),
                data: Bytes::copy_from_slice(text.as_bytes()),
                ..Publish::default()
            };
            self.broker.publish(request).await
        }

        async fn subscribe(&self, topic: &str, app: &Arc<App>) -> Box<dyn Source> {
            let request = Subscribe {
                topic: topic.to_owned(),
                ..Subscribe::default()
            };
            self.broker.subscribe(request, app.clone()).await.unwrap()
        }
    }

    async fn settled() {
        tokio::time::sleep(SOON).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_message_comes_again_after_a_second_and_three_times_at_most() {
        let (bus, retry) = (Bus::new(), || Outcome::Retry("no".to_owned()));
        let app = App::answering([retry(), Outcome::Done, retry(), retry(), retry()]);
        let _source = bus.subscribe("t", &app).await;
        let start = Instant::now();
        for text in ["bad", "good"] {
            bus.publish("t", text).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let seen: Vec<(u64, u32)> = app
            .received
            .lock()
            .unwrap()
            .iter()
            .map(|(message, at)| ((*at - start).as_secs(), message.delivery))
            .collect();
        assert_eq!(app.texts(), ["bad", "good", "bad", "bad", "bad"]);
        assert_eq!(seen, [(0, 1), (0, 1), (1, 2), (2, 3), (3, 4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn publishing_waits_only_while_a_queue_is_full() {
        let (bus, app) = (Bus::new(), App::stuck());
        let _source = bus.subscribe("t", &app).await;
        for i in 0..1024 {
            bus.publish("t", &i.to_string()).await.unwrap();
        }
        assert!(timeout(SOON, bus.publish("t", "1024")).await.is_err());
        let (waiting, ()) = tokio::join!(bus.publish("t", "1024"), async {
            settled().await;
            app.permits.add_permits(1);
        });
        waiting.unwrap();
        app.permits.add_permits(2000);
        settled().await;
        let expected: Vec<String> = (0..=1024).map(|i| i.to_string()).collect();
        assert_eq!(app.texts(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_that_waits_is_let_go_when_the_subscription_ends() {
        let (bus, app) = (Bus::new(), App::stuck());
        let source = bus.subscribe("t", &app).await;
        for _ in 0..1024 {
            bus.publish("t", "x").await.unwrap();
        }
        let both = async { tokio::join!(bus.publish("t", "x"), source.close()) };
        let (waiting, ()) = timeout(SOON, both).await.unwrap();
        waiting.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_message_comes_first_and_with_the_same_count() {
        let (bus, app) = (Bus::new(), App::answering([Outcome::Released]));
        let source = bus.subscribe("t", &app).await;
        for text in ["a", "b"] {
            bus.publish("t", text).await.unwrap();
        }
        settled().await;
        assert_eq!(app.texts(), ["a"], "no hot loop");
        source.pause().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(app.texts(), ["a"]);
        source.resume().await;
        settled().await;
        assert_eq!(app.texts(), ["a", "a", "b"]);
        let received = app.received.lock().unwrap();
        assert!(received.iter().all(|(message, _)| message.delivery == 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_closed_subscription_leaves_waits_for_the_next_one_to_its_topic() {
        let (bus, first, second) = (Bus::new(), App::stuck(), App::answering([]));
        let source = bus.subscribe("t", &first).await;
        for text in ["a", "b", "c"] {
            bus.publish("t", text).await.unwrap();
        }
        settled().await;
        source.close().await;
        assert_eq!(bus.exchange.topics(), Vec::<String>::new());
        bus.publish("t", "nobody").await.unwrap();
        let _other = bus.subscribe("other", &second).await;
        let _source = bus.subscribe("t", &second).await;
        settled().await;
        assert_eq!(second.texts(), ["b", "c"]);
        // The first handler still runs; what it leaves goes on too.
        first.answers.lock().unwrap().push(Outcome::Released);
        first.permits.add_permits(1);
        settled().await;
        assert_eq!(second.texts(), ["b", "c", "a"]);
        assert_eq!(source.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_outlive_an_instance() {
        let (bus, first, second) = (Bus::new(), App::stuck(), App::answering([]));
        let source = bus.subscribe("t", &first).await;
        for text in ["a", "b"] {
            bus.publish("t", text).await.unwrap();
        }
        settled().await;
        bus.broker.close().await;
        assert_eq!(source.ended().await.message, "component is closed");
        assert!(bus.scope.close(SOON).await.is_empty());
        assert!(bus.publish("t", "c").await.is_err());

        let next = Bus::over(bus.exchange);
        let _source = next.subscribe("t", &second).await;
        settled().await;
        let texts: BTreeMap<String, ()> = second.texts().into_iter().map(|t| (t, ())).collect();
        assert!(texts.contains_key("a") && texts.contains_key("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_panics_ends_its_source_only() {
        struct Panics;
        #[async_trait]
        impl Handler for Panics {
            async fn handle(&self, _: Message) -> Outcome {
                panic!("on purpose");
            }
        }
        let (bus, app) = (Bus::new(), App::answering([]));
        let request = Subscribe {
            topic: "t".to_owned(),
            ..Subscribe::default()
        };
        let dying = bus.broker.subscribe(request, Arc::new(Panics)).await;
        let _source = bus.subscribe("t", &app).await;
        bus.publish("t", "a").await.unwrap();
        timeout(SOON, dying.unwrap().ended()).await.unwrap();
        bus.publish("t", "b").await.unwrap();
        settled().await;
        assert_eq!(app.texts(), ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn patterns_take_at_least_one_character_more() {
        let bus = Bus::new();
        let topics = ["a*", "*", "a", "ab", "a*b"];
        let apps: Vec<Arc<App>> = topics.iter().map(|_| App::answering([])).collect();
        let mut sources = Vec::new();
        for (topic, app) in topics.iter().zip(&apps) {
            sources.push(bus.subscribe(topic, app).await);
        }
        for topic in ["a", "ab", "b", "a*b"] {
            bus.publish(topic, topic).await.unwrap();
        }
        settled().await;
        let received: Vec<Vec<String>> = apps.iter().map(|app| app.texts()).collect();
        assert_eq!(
            received,
            [
                vec!["ab", "a*b"],
                vec!["a", "ab", "b", "a*b"],
                vec!["a"],
                vec!["ab"],
                vec!["a*b"],
            ]
        );
        let (message, _) = apps[0].received.lock().unwrap()[0].clone();
        assert_eq!(message.topic, "a*", "apps find their handler by it");
    }
}
