//! What changes of a subscription, and of its component, look like to a broker and to the app.

use std::sync::Weak;

use bytes::Bytes;
use outrigger_component_api::{Component, ComponentName, Kind, PubSubFeatures, Publish, Subscribe};
use outrigger_core::AppId;
use outrigger_lifecycle::connection::Status as ConnectionStatus;
use outrigger_resiliency::Resiliency;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::Settings;
use tokio::sync::Semaphore;

use outrigger_lifecycle::connection;

use super::super::*;
use crate::about::About;
use crate::activity::Activity;
use crate::app::{
    AppSubscription, BulkDelivery, BulkVerdict, Delivery, Discovered, Probe, Verdict,
};
use crate::component::{Control, Info};
use crate::guard::Guard;
use crate::invoke::{Call, CallFailure, Reply};
use crate::pubsub::{Poison, Publisher};
use crate::registry::Table;
use crate::waiting::Patience;

/// A broker that writes down what it is told.
pub(super) struct Broker {
    name: &'static str,
    shares: bool,
    log: Arc<Mutex<Vec<String>>>,
    sources: Mutex<Vec<Weak<SourceState>>>,
    /// Topics' metadata that it refuses.
    refuses: Mutex<Option<String>>,
}

struct SourceState {
    name: String,
    handler: Arc<dyn Handler>,
    in_flight: Arc<std::sync::atomic::AtomicUsize>,
    is_paused: AtomicBool,
    log: Arc<Mutex<Vec<String>>>,
}

struct FakeSource(Arc<SourceState>);

impl SourceState {
    fn note(&self, what: &str) {
        note(&self.log, format!("{what} {}", self.name));
    }
}

fn note(log: &Mutex<Vec<String>>, line: String) {
    log.lock().unwrap().push(line);
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
        PubSubFeatures {
            consumer_groups: self.shares,
            ..PubSubFeatures::default()
        }
    }

    async fn publish(&self, _: Publish) -> Result<(), ComponentError> {
        Ok(())
    }

    async fn subscribe(
        &self,
        request: Subscribe,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn Source>, ComponentError> {
        let version = request.metadata.get("v").cloned().unwrap_or_default();
        let name = format!("{}/{version}", self.name);
        if self.refuses.lock().unwrap().as_ref() == Some(&version) {
            return Err(ComponentError::failed("refused"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        note(&self.log, format!("subscribe {name}"));
        let state = Arc::new(SourceState {
            name,
            handler,
            in_flight: Arc::default(),
            is_paused: AtomicBool::new(false),
            log: self.log.clone(),
        });
        self.sources.lock().unwrap().push(Arc::downgrade(&state));
        Ok(Box::new(FakeSource(state)))
    }
}

#[async_trait]
impl Source for FakeSource {
    async fn pause(&self) {
        self.0.is_paused.store(true, Ordering::SeqCst);
        self.0.note("pause");
    }

    async fn resume(&self) {
        self.0.is_paused.store(false, Ordering::SeqCst);
    }

    async fn release(&self) {}

    async fn ended(&self) -> ComponentError {
        std::future::pending().await
    }

    async fn close(&self) {
        self.0.note("close");
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::SeqCst)
    }
}

/// An app that takes a message with a permit, and remembers by which path it came.
struct FakeApp {
    permits: Semaphore,
    log: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl AppChannel for FakeApp {
    async fn invoke(&self, _: Call) -> Result<Reply, CallFailure> {
        Err(CallFailure::plain("not here"))
    }

    async fn deliver(&self, delivery: &Delivery) -> Verdict {
        note(&self.log, format!("deliver {}", delivery.path));
        self.permits.acquire().await.unwrap().forget();
        note(&self.log, format!("done {}", delivery.path));
        Verdict::Success
    }

    async fn deliver_bulk(&self, _: &BulkDelivery) -> BulkVerdict {
        BulkVerdict::All(Verdict::Success)
    }

    async fn subscriptions(&self) -> Discovered<Vec<AppSubscription>> {
        Discovered::None
    }

    async fn config(&self) -> Discovered<()> {
        Discovered::None
    }

    async fn probe(&self) -> Probe {
        Probe::Healthy
    }

    async fn readiness(&self) -> Result<(), String> {
        Ok(())
    }

    async fn accepts(&self) -> bool {
        true
    }
}

/// Subscriptions to one component.
pub(super) struct Bench {
    pub(super) subscriptions: Arc<Subscriptions>,
    pub(super) handle: Arc<Handle<dyn PubSub>>,
    app: Arc<FakeApp>,
    log: Arc<Mutex<Vec<String>>>,
    pub(super) clock: Clock,
    _gates: (
        watch::Sender<bool>,
        watch::Sender<bool>,
        watch::Sender<bool>,
    ),
}

impl Bench {
    pub(super) fn new() -> Self {
        let bench = Self::unread();
        let mut table = Table::default();
        table.pubsub.insert("bus".to_owned(), bench.handle.clone());
        bench.subscriptions.shared.registry.replace(table);
        bench
    }

    /// Resources have not been read yet.
    pub(super) fn unread() -> Self {
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::new(Settings::new("app")));
        let resiliency = Arc::new(Resiliency::new(String::new(), clock, metrics.clone()));
        let registry = Arc::new(Registry::default());
        let guard = Guard {
            metrics: metrics.clone(),
            patience: Patience {
                wait: Duration::from_secs(1),
            },
            resiliency: resiliency.clone(),
        };
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let app = Arc::new(FakeApp {
            permits: Semaphore::new(0),
            log: log.clone(),
        });
        let (pulls, streams, ending) = (
            watch::Sender::new(true),
            watch::Sender::new(true),
            watch::Sender::new(false),
        );
        let desk = Arc::new(Desk {
            publisher: Arc::new(Publisher {
                registry: registry.clone(),
                guard,
                app_id: AppId::from("app"),
                namespace: String::new(),
            }),
            metrics,
            namespace: String::new(),
            ending: ending.subscribe(),
            resiliency,
            clock,
            away: Box::new(|| {}),
            activity: Arc::new(Activity::new(clock)),
            poison: Poison::new(0),
        });
        let handle = component(clock);
        let subscriptions = Arc::new(Subscriptions::new(
            registry,
            desk,
            Some(app.clone()),
            clock,
            pulls.subscribe(),
            streams.subscribe(),
            Scope::root(),
        ));
        Self {
            subscriptions,
            handle,
            app,
            log,
            clock,
            _gates: (pulls, streams, ending),
        }
    }

    pub(super) fn broker(&self, name: &'static str, shares: bool) -> Arc<Broker> {
        Arc::new(Broker {
            name,
            shares,
            log: self.log.clone(),
            sources: Mutex::default(),
            refuses: Mutex::default(),
        })
    }

    /// Puts a broker where callers find it; what was there makes way.
    pub(super) fn install(&self, broker: &Arc<Broker>) {
        self.handle.retire();
        self.handle
            .install(broker.clone(), Arc::new(About::default()));
        self.handle.show(ready(self.clock));
    }

    fn want(&self, versions: &[&str]) {
        let plan = |version: &&str| {
            Arc::new(Plan {
                origin: Origin::Declarative,
                pubsub: "bus".to_owned(),
                topic: "topic".to_owned(),
                rules: Rules::single(&format!("/{version}")),
                dead_letter_topic: String::new(),
                metadata: Metadata::from([("v".to_owned(), (*version).to_owned())]),
                bulk: None,
                fingerprint: (*version).to_owned(),
            })
        };
        self.subscriptions
            .apply(versions.iter().map(plan).collect());
    }

    /// Hands a message to the newest source that fetches.
    pub(super) fn message(&self, broker: &Broker) {
        let sources = broker.sources.lock().unwrap();
        let alive = sources.iter().rev().filter_map(Weak::upgrade);
        let state = alive
            .into_iter()
            .find(|state| !state.is_paused.load(Ordering::SeqCst))
            .expect("a source that fetches");
        state.in_flight.fetch_add(1, Ordering::SeqCst);
        let task = async move {
            let message = Message {
                data: Bytes::from_static(br#"{"id":"1","data":1}"#),
                topic: "topic".to_owned(),
                ..Message::default()
            };
            let outcome = state.handler.handle(message).await;
            state.note(&format!("{outcome:?}"));
            state.in_flight.fetch_sub(1, Ordering::SeqCst);
        };
        self.subscriptions.scope.spawn_future("message", task);
    }

    /// What happened since the last question, once nothing happens any more.
    pub(super) async fn happened(&self) -> Vec<String> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    pub(super) fn listed(&self) -> (String, State, Option<String>) {
        let all = self.subscriptions.list();
        let only = all.first().expect("a subscription");
        (
            only.plan.fingerprint.clone(),
            only.status.state,
            only.status.error.clone(),
        )
    }
}

pub(super) fn component(clock: Clock) -> Arc<Handle<dyn PubSub>> {
    let info = Info {
        name: ComponentName::from("bus"),
        type_name: "pubsub.fake".to_owned(),
        version: "v1".to_owned(),
        kind: Kind::PubSub,
        optional: false,
    };
    let control: Control<dyn PubSub> = Control::new(info, clock, ready(clock));
    control.handle
}

pub(super) fn ready(clock: Clock) -> ConnectionStatus {
    ConnectionStatus {
        state: connection::State::Ready,
        since: clock.now(),
        attempt: 1,
        failure: None,
        next_attempt: None,
        kicked_at: None,
        down_since: None,
        last_ready: None,
        last_ok: None,
        ping_failures: 0,
        settled: true,
        was_ready: true,
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_subscription_stands_before_the_old_one_ends() {
    let bench = Bench::new();
    let broker = bench.broker("b", true);
    bench.install(&broker);
    bench.want(&["1"]);
    assert_eq!(bench.happened().await, ["subscribe b/1"]);
    bench.message(&broker);
    assert_eq!(bench.happened().await, ["deliver /1"]);
    bench.want(&["2"]);
    assert_eq!(bench.happened().await, ["subscribe b/2", "pause b/1"]);
    // What comes the new way waits until the app is through with the rest.
    bench.message(&broker);
    assert_eq!(bench.happened().await, [""; 0]);
    bench.app.permits.add_permits(2);
    assert_eq!(
        bench.happened().await,
        [
            "done /1",
            "Done b/1",
            "close b/1",
            "deliver /2",
            "done /2",
            "Done b/2"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn where_both_would_get_every_message_the_old_one_ends_first() {
    let bench = Bench::new();
    let broker = bench.broker("b", false);
    bench.install(&broker);
    bench.want(&["1"]);
    bench.happened().await;
    bench.message(&broker);
    bench.want(&["2"]);
    assert_eq!(bench.happened().await, ["deliver /1", "pause b/1"]);
    bench.app.permits.add_permits(1);
    assert_eq!(
        bench.happened().await,
        ["done /1", "Done b/1", "close b/1", "subscribe b/2"]
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_the_broker_refuses_is_told_and_the_old_one_delivers() {
    let bench = Bench::new();
    let broker = bench.broker("b", true);
    *broker.refuses.lock().unwrap() = Some("2".to_owned());
    bench.install(&broker);
    bench.want(&["1"]);
    bench.happened().await;
    bench.want(&["2"]);
    assert_eq!(bench.happened().await, [""; 0]);
    let error = Some("refused".to_owned());
    assert_eq!(bench.listed(), ("1".to_owned(), State::Active, error));
    // It is tried again, and takes over when it is let in.
    *broker.refuses.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        bench.happened().await,
        ["subscribe b/2", "pause b/1", "close b/1"]
    );
    assert_eq!(bench.listed(), ("2".to_owned(), State::Active, None));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_taken_back_was_none() {
    let bench = Bench::new();
    let broker = bench.broker("b", true);
    *broker.refuses.lock().unwrap() = Some("2".to_owned());
    bench.install(&broker);
    bench.want(&["1"]);
    bench.want(&["1"]);
    bench.happened().await;
    bench.want(&["2"]);
    bench.happened().await;
    bench.want(&["1"]);
    *broker.refuses.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(bench.happened().await, [""; 0], "nothing was restarted");
    assert_eq!(bench.listed(), ("1".to_owned(), State::Active, None));
}

#[tokio::test(start_paused = true)]
async fn many_changes_in_a_row_leave_one_subscription() {
    let bench = Bench::new();
    let broker = bench.broker("b", true);
    bench.install(&broker);
    bench.want(&["1"]);
    bench.happened().await;
    for version in ["2", "3", "4", "5"] {
        bench.want(&[version]);
    }
    let happened = bench.happened().await;
    let count = |what: &str| {
        happened
            .iter()
            .filter(|line| line.starts_with(what))
            .count()
    };
    assert_eq!(
        happened.last().map(String::as_str),
        Some("close b/1"),
        "{happened:?}"
    );
    assert_eq!(count("subscribe"), count("close"), "{happened:?}");
    assert_eq!(bench.listed(), ("5".to_owned(), State::Active, None));
}

#[tokio::test(start_paused = true)]
async fn a_changed_component_is_subscribed_to_before_the_old_one_ends() {
    let bench = Bench::new();
    let (old, new) = (bench.broker("old", true), bench.broker("new", true));
    bench.install(&old);
    bench.want(&["1"]);
    bench.happened().await;
    bench.message(&old);
    bench.install(&new);
    assert_eq!(
        bench.happened().await,
        ["deliver /1", "subscribe new/1", "pause old/1"]
    );
    assert_eq!(bench.listed(), ("1".to_owned(), State::Active, None));
    bench.message(&new);
    bench.app.permits.add_permits(2);
    assert_eq!(
        bench.happened().await,
        [
            "done /1",
            "Done old/1",
            "close old/1",
            "deliver /1",
            "done /1",
            "Done new/1"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_component_that_is_gone_finishes_what_the_app_has() {
    let bench = Bench::new();
    let broker = bench.broker("b", true);
    bench.install(&broker);
    bench.want(&["1"]);
    bench.happened().await;
    bench.message(&broker);
    bench.happened().await;
    bench.handle.retire();
    bench.handle.withdraw();
    bench.handle.show(ConnectionStatus {
        state: connection::State::Closing,
        ..ready(bench.clock)
    });
    assert_eq!(bench.happened().await, ["pause b/1"]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.app.permits.add_permits(1);
    assert_eq!(bench.happened().await, ["done /1", "Done b/1", "close b/1"]);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_does_not_end_is_not_waited_for_without_end() {
    let bench = Bench::new();
    let broker = bench.broker("b", true);
    bench.install(&broker);
    bench.want(&["1"]);
    bench.happened().await;
    bench.message(&broker);
    bench.happened().await;
    bench.want(&[]);
    assert_eq!(bench.happened().await, ["pause b/1"]);
    tokio::time::sleep(DRAIN_LIMIT).await;
    // What is cut off is the broker's again by then.
    assert_eq!(bench.happened().await, ["close b/1", "Released b/1"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_is_given_back_when_its_own_source_ends() {
    let bench = Bench::new();
    let broker = bench.broker("b", true);
    bench.install(&broker);
    bench.want(&["1"]);
    bench.happened().await;
    bench.message(&broker);
    bench.want(&["2"]);
    bench.happened().await;
    bench.message(&broker);
    bench.want(&["3"]);
    assert_eq!(
        bench.happened().await,
        ["subscribe b/3", "pause b/2", "Released b/2", "close b/2"]
    );
}
