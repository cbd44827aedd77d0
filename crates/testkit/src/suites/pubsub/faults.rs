//! Brokers that are away, silent, killed and cut off.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_component_api::{Class, ErrorKind, Metadata, PubSub, Scope, Stop, Subscribe};
use tokio::time::{sleep, timeout};

use super::{Harness, Inbox, SOON, opener, publication};
use crate::suites::open::Opened;
use crate::suites::supervised::Supervised;
use crate::suites::{Hold, unique};
use crate::wait;

const PUBLISHERS: usize = 4;
/// From the moment at which the broker answers again.
const RECOVERY: Duration = Duration::from_secs(5);

/// P21.
pub async fn a_broker_that_comes_late_is_found<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    harness.proxy().refuse().await;
    harness.server().kill().await;
    let opener = opener::<H>(harness.properties(), &unique("app"));
    let attempt = async { Opened::attempt(&opener).await?.ping().await };
    if let Ok(result) = timeout(Duration::from_secs(10), attempt).await {
        let kind = result.expect_err("there is no broker").kind;
        assert!(
            matches!(
                kind,
                ErrorKind::Connection(Class::Transient | Class::Timeout)
            ),
            "a missing broker is no {kind:?}"
        );
    }
    let load = Load::start(Supervised::start(opener), harness.subscription());
    harness.server().start().await;
    harness.proxy().pass().await;
    load.grows_by(10, Duration::from_secs(10)).await;
    load.check().await;
}

pub async fn a_broker_that_hangs_gives_no_ping<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    let opener = opener::<H>(harness.properties(), &unique("app"));
    let opened = Opened::ready(&opener).await;
    harness.proxy().hang();
    let ping = timeout(Duration::from_secs(3), opened.ping()).await;
    assert!(!matches!(ping, Ok(Ok(()))), "a ping without an answer");
    let attempt = async { Opened::attempt(&opener).await?.ping().await };
    let attempt = timeout(Duration::from_secs(3), attempt).await;
    assert!(!matches!(attempt, Ok(Ok(()))), "ready without an answer");
    let request = publication(&unique("topic"), b"a");
    let published = timeout(Duration::from_secs(3), opened.publish(request)).await;
    assert!(
        !matches!(published, Ok(Ok(()))),
        "success without an answer"
    );
    wait::within("close", Duration::from_secs(5), opened.component().close()).await;
    harness.proxy().pass().await;
    Opened::ready(&opener).await.close().await;
}

pub async fn wrong_credentials_are_told_from_a_missing_broker<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    let Some(properties) = harness.wrong_credentials() else {
        return;
    };
    let opener = opener::<H>(properties, &unique("app"));
    let attempt = async { Opened::attempt(&opener).await?.ping().await };
    let error = wait::within("a refusal", Duration::from_secs(10), attempt).await;
    let kind = error.expect_err("the credentials are wrong").kind;
    assert_eq!(kind, ErrorKind::Connection(Class::Auth));
}

/// Either the instance reports the loss, or the source ends on its own: somebody must wake up.
pub async fn a_subscription_whose_connection_dies_is_told<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    let opener = opener::<H>(harness.properties(), &unique("app"));
    let mut opened = Opened::ready(&opener).await;
    let request = Subscribe {
        topic: unique("topic"),
        metadata: harness.subscription(),
    };
    let component = opened.component();
    let source = component.subscribe(request, Inbox::taking()).await.unwrap();
    harness.proxy().cut().await;
    let told = async {
        tokio::select! {
            error = opened.lost() => error,
            error = source.ended() => error,
        }
    };
    let error = wait::within("word of the dead connection", SOON, told).await;
    assert!(error.doubts_connection(), "{error:?}");
    wait::within("close", Duration::from_secs(5), source.close()).await;
}

/// P19.
pub async fn a_broker_killed_under_load_loses_no_acknowledged_message<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    let opener = opener::<H>(harness.properties(), &unique("app"));
    let load = Load::start(Supervised::start(opener), harness.subscription());
    load.grows_by(200, Duration::from_secs(30)).await;
    harness.server().kill().await;
    load.suffers().await;
    harness.server().start().await;
    load.grows_by(100, RECOVERY).await;
    load.check().await;
}

/// P20.
pub async fn connections_cut_under_load_lose_no_acknowledged_message<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    let opener = opener::<H>(harness.properties(), &unique("app"));
    let load = Load::start(Supervised::start(opener), harness.subscription());
    load.grows_by(100, Duration::from_secs(30)).await;
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..50 {
        pace.tick().await;
        harness.proxy().reset().await;
    }
    load.grows_by(100, RECOVERY).await;
    load.check().await;
}

/// Publishers and a subscriber that go on through everything, and remember what was acknowledged.
struct Load {
    shared: Arc<Shared>,
    publishers: Scope,
    subscriber: Scope,
}

struct Shared {
    supervised: Supervised<dyn PubSub>,
    subscription: Metadata,
    topic: String,
    inbox: Arc<Inbox>,
    acknowledged: Mutex<Vec<String>>,
    is_subscribed: AtomicBool,
    failed: AtomicUsize,
    stopped: AtomicBool,
    finished: AtomicUsize,
}

impl Load {
    fn start(supervised: Supervised<dyn PubSub>, subscription: Metadata) -> Self {
        let shared = Arc::new(Shared {
            supervised,
            subscription,
            topic: unique("load"),
            inbox: Inbox::taking(),
            acknowledged: Mutex::default(),
            is_subscribed: AtomicBool::new(false),
            failed: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            finished: AtomicUsize::new(0),
        });
        let (publishers, subscriber) = (Scope::root(), Scope::root());
        for publisher in 0..PUBLISHERS {
            let task = Arc::clone(&shared).publish(publisher);
            publishers.spawn_future("testkit.publisher", task);
        }
        subscriber.spawn("testkit.subscriber", |stop| {
            Arc::clone(&shared).subscribe(stop)
        });
        Self {
            shared,
            publishers,
            subscriber,
        }
    }

    /// Waits until the outage is felt: a call failed, or the loss was noticed before any could.
    async fn suffers(&self) {
        wait::until(
            "a sign of the outage",
            Duration::from_secs(10),
            async || {
                self.shared.failed.load(Ordering::SeqCst) > 0 || !self.shared.supervised.is_ready()
            },
        )
        .await;
    }

    async fn grows_by(&self, more: usize, deadline: Duration) {
        let wanted = self.shared.lock().len() + more;
        let what = format!("{wanted} acknowledged messages");
        wait::until(what, deadline, async || {
            let running = self.publishers.running();
            assert_eq!(running, PUBLISHERS, "a publisher panicked, see above");
            let count = self.shared.lock().len();
            if count >= wanted { Ok(()) } else { Err(count) }
        })
        .await;
    }

    /// Ends the publishers and waits until the subscriber has what was acknowledged.
    async fn check(self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let left = self.publishers.drained(Duration::from_secs(30)).await;
        assert!(left.is_empty(), "a publisher hangs");
        let finished = self.shared.finished.load(Ordering::SeqCst);
        assert_eq!(finished, PUBLISHERS, "a publisher panicked, see above");
        let texts = self.shared.lock().clone();
        self.shared
            .inbox
            .has_all(&texts, Duration::from_secs(30))
            .await;
        let left = self.subscriber.close(SOON).await;
        assert!(left.is_empty(), "the subscriber hangs");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.subscriber.cancel();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish(self: Arc<Self>, publisher: usize) {
        let mut number = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            // What is published before the first subscription is nobody's, with most brokers.
            if !self.is_subscribed.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(10)).await;
                continue;
            }
            number += 1;
            let text = format!("{publisher}-{number}");
            let request = publication(&self.topic, text.as_bytes());
            let publish = |broker: Arc<dyn PubSub>| async move { broker.publish(request).await };
            match self.supervised.call("a publish", publish).await {
                Some(()) => self.lock().push(text),
                None => {
                    self.failed.fetch_add(1, Ordering::SeqCst);
                }
            }
            // Not as fast as possible: the cases are about outages, not about throughput.
            sleep(Duration::from_millis(1)).await;
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
    }

    async fn subscribe(self: Arc<Self>, stop: Stop) {
        while !stop.is_cancelled() {
            let broker = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                broker = self.supervised.ready() => broker,
            };
            let request = Subscribe {
                topic: self.topic.clone(),
                metadata: self.subscription.clone(),
            };
            let subscribing = broker.subscribe(request, self.inbox.clone());
            if let Ok(Ok(source)) = timeout(Duration::from_secs(5), subscribing).await {
                self.is_subscribed.store(true, Ordering::SeqCst);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    _ = source.ended() => {}
                    () = self.supervised.gone(&broker) => {}
                }
                timeout(Duration::from_secs(2), source.close()).await.ok();
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}
