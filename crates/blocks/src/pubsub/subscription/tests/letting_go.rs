//! A runner beside a driver that writes down what it is told.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use outrigger_component_api::{
    Component, Kind as ComponentKind, Message, Outcome, PubSubFeatures, Publish,
};
use outrigger_core::{AppId, ComponentName};
use outrigger_lifecycle::Scope;
use outrigger_lifecycle::connection::{self, Timing};
use outrigger_resiliency::Resiliency;
use outrigger_telemetry::metrics::{Metrics, Settings};

use super::super::*;
use crate::about::About;
use crate::activity::Activity;
use crate::component::{Control, Info};
use crate::guard::Guard;
use crate::pubsub::{Poison, Publisher};
use crate::registry::Table;
use crate::waiting::Patience;

/// What the driver was told, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn note(&self, word: &'static str) {
        self.0.lock().unwrap().push(word);
    }

    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[derive(Default)]
struct Broker {
    log: Log,
    handler: Mutex<Option<Arc<dyn Handler>>>,
    in_work: Arc<AtomicUsize>,
}

impl Broker {
    /// Hands a message out; its outcome is noted when it comes.
    fn hand_out(&self, scope: &Scope) {
        let handler = self.handler.lock().unwrap().clone().unwrap();
        let (log, in_work) = (self.log.clone(), self.in_work.clone());
        in_work.fetch_add(1, Ordering::SeqCst);
        scope.spawn_future("handler", async move {
            let message = Message {
                topic: "t".into(),
                data: br#"{"id":"1","data":1}"#.as_slice().into(),
                metadata: None,
                delivery: 1,
            };
            log.note(match handler.handle(message).await {
                Outcome::Released => "released",
                _ => "other",
            });
            in_work.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

struct Running {
    log: Log,
    in_work: Arc<AtomicUsize>,
}

#[async_trait]
impl Component for Broker {
    async fn ping(&self) -> Result<(), ComponentError> {
        Ok(())
    }

    async fn close(&self) {}
}

#[async_trait]
impl PubSub for Broker {
    fn features(&self) -> PubSubFeatures {
        PubSubFeatures::default()
    }

    async fn publish(&self, _: Publish) -> Result<(), ComponentError> {
        Ok(())
    }

    async fn subscribe(
        &self,
        _: Subscribe,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn Source>, ComponentError> {
        *self.handler.lock().unwrap() = Some(handler);
        Ok(Box::new(Running {
            log: self.log.clone(),
            in_work: self.in_work.clone(),
        }))
    }
}

#[async_trait]
impl Source for Running {
    async fn pause(&self) {
        self.log.note("pause");
    }

    async fn resume(&self) {
        self.log.note("resume");
    }

    async fn release(&self) {
        self.log.note("release");
    }

    async fn ended(&self) -> ComponentError {
        std::future::pending().await
    }

    async fn close(&self) {
        self.log.note("close");
    }

    fn in_flight(&self) -> usize {
        self.in_work.load(Ordering::SeqCst)
    }
}

/// One subscription over a stream that stands, and all that moves it.
struct Stage {
    broker: Arc<Broker>,
    gate: watch::Sender<bool>,
    _ending: watch::Sender<bool>,
    scope: Scope,
    stream: Stream,
    _control: Control<dyn PubSub>,
}

async fn stage() -> Stage {
    let clock = Clock::start();
    let metrics = Arc::new(Metrics::new(Settings::new("a")));
    let resiliency = Arc::new(Resiliency::new("", clock, metrics.clone()));
    let timing = Timing::default();
    let info = Info {
        name: ComponentName::new("bus"),
        type_name: "pubsub.test".to_owned(),
        version: "v1".to_owned(),
        kind: ComponentKind::PubSub,
        optional: false,
    };
    let status = connection::Machine::new(timing, clock.now())
        .status()
        .clone();
    let control: Control<dyn PubSub> = Control::new(info, clock, status);
    let broker = Arc::new(Broker::default());
    let driver: Arc<dyn PubSub> = broker.clone();
    drop(control.handle.install(driver, Arc::new(About::default())));
    let registry = Arc::new(Registry::default());
    registry.replace(Table {
        pubsub: [("bus".to_owned(), control.handle.clone())].into(),
        ..Table::default()
    });
    let guard = Guard {
        metrics: metrics.clone(),
        patience: Patience {
            wait: Duration::ZERO,
        },
        resiliency: resiliency.clone(),
    };
    let (ending, ending_seen) = watch::channel(false);
    let desk = Desk {
        publisher: Arc::new(Publisher {
            registry: registry.clone(),
            guard,
            app_id: AppId::new("a"),
            namespace: String::new(),
        }),
        metrics,
        namespace: String::new(),
        ending: ending_seen,
        resiliency,
        clock,
        away: Box::new(|| {}),
        activity: Arc::new(Activity::new(clock)),
        poison: Poison::new(0),
    };
    let (gate, open) = watch::channel(true);
    let scope = Scope::root();
    let subscriptions = Arc::new(Subscriptions::new(
        registry,
        Arc::new(desk),
        None,
        clock,
        watch::channel(false).1,
        open,
        scope.clone(),
    ));
    let stream = subscriptions
        .open_stream("bus", "t", Metadata::new(), "")
        .await
        .unwrap();
    stream.watch().registered().await;
    broker.log.take();
    Stage {
        broker,
        gate,
        _ending: ending,
        scope,
        stream,
        _control: control,
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_released_goes_back_even_if_the_gate_was_shut_for_a_moment_only() {
    let stage = stage().await;
    stage.gate.send_replace(false);
    let handler = stage.broker.handler.lock().unwrap().clone().unwrap();
    let message = Message {
        topic: "t".into(),
        data: "{}".into(),
        metadata: None,
        delivery: 1,
    };
    assert_eq!(handler.handle(message).await, Outcome::Released);
    // The runner has not had its turn, and sees an open gate as before.
    stage.gate.send_replace(true);
    tokio::time::sleep(STRAY_LIMIT * 2).await;
    assert_eq!(stage.broker.log.take(), ["pause", "release", "resume"]);
    tokio::time::sleep(STRAY_LIMIT * 10).await;
    assert!(stage.broker.log.take().is_empty(), "once is enough");
}

#[tokio::test(start_paused = true)]
async fn what_a_pause_has_given_back_is_not_looked_for_again() {
    let stage = stage().await;
    stage.gate.send_replace(false);
    stage.broker.hand_out(&stage.scope);
    tokio::time::sleep(COUNT_EVERY).await;
    assert_eq!(stage.broker.log.take(), ["pause", "release", "released"]);
    tokio::time::sleep(STRAY_LIMIT * 10).await;
    assert!(stage.broker.log.take().is_empty());
    stage.gate.send_replace(true);
    tokio::time::sleep(STRAY_LIMIT * 10).await;
    assert_eq!(stage.broker.log.take(), ["resume"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_wanted_any_more_finishes_what_it_has_in_hand() {
    let stage = stage().await;
    // Somebody else's work, which the end of the stream does not end.
    stage.broker.in_work.fetch_add(1, Ordering::SeqCst);
    drop(stage.stream);
    tokio::time::sleep(DRAIN_LIMIT / 2).await;
    assert_eq!(stage.broker.log.take(), ["pause", "release"]);
    stage.broker.in_work.fetch_sub(1, Ordering::SeqCst);
    tokio::time::sleep(COUNT_EVERY * 2).await;
    assert_eq!(stage.broker.log.take(), ["close"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_wanted_any_more_does_not_wait_for_ever() {
    let stage = stage().await;
    stage.broker.in_work.fetch_add(1, Ordering::SeqCst);
    drop(stage.stream);
    tokio::time::sleep(DRAIN_LIMIT + COUNT_EVERY).await;
    assert_eq!(stage.broker.log.take(), ["pause", "release", "close"]);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_everything_the_broker_has_its_messages_back_before_work_is_cut_off() {
    let stage = stage().await;
    stage.broker.hand_out(&stage.scope);
    tokio::time::sleep(COUNT_EVERY).await;
    assert_eq!(stage.stream.connection.under_way(), 1);
    let left = stage.scope.close(STOP_LIMIT).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(stage.broker.log.take(), ["close", "released"]);
}
