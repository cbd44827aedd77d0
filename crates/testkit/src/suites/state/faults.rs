//! Servers that are away, silent, killed and cut off.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_component_api::{Class, ErrorKind, Scope, StateStore};
use tokio::time::timeout;

use super::{Harness, get, opener, put};
use crate::suites::open::Opened;
use crate::suites::supervised::Supervised;
use crate::suites::{Hold, unique};
use crate::wait;

const WRITERS: usize = 8;
/// From the moment at which the server answers again.
const RECOVERY: Duration = Duration::from_secs(5);

/// S43.
pub async fn a_server_that_comes_late_is_found<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    let opener = opener::<H>(harness.properties());
    harness.proxy().refuse().await;
    harness.server().kill().await;
    let attempt = async {
        let opened = Opened::attempt(&opener).await?;
        opened.ping().await
    };
    if let Ok(result) = timeout(Duration::from_secs(10), attempt).await {
        let kind = result.expect_err("there is no server").kind;
        assert!(
            matches!(
                kind,
                ErrorKind::Connection(Class::Transient | Class::Timeout)
            ),
            "a missing server is no {kind:?}"
        );
    }
    let supervised = Supervised::start(opener);
    harness.server().start().await;
    harness.proxy().pass().await;
    let store = supervised.ready_within(Duration::from_secs(10)).await;
    let key = unique("late");
    store.set(&put(&key, "1")).await.unwrap();
    assert!(store.get(&get(&key)).await.unwrap().is_some());
    supervised.close().await;
}

pub async fn a_server_that_hangs_gives_no_ping<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    let opener = opener::<H>(harness.properties());
    let opened = Opened::ready(&opener).await;
    harness.proxy().hang();
    let ping = timeout(Duration::from_secs(3), opened.ping()).await;
    assert!(!matches!(ping, Ok(Ok(()))), "a ping without an answer");
    let attempt = async { Opened::attempt(&opener).await?.ping().await };
    let attempt = timeout(Duration::from_secs(3), attempt).await;
    assert!(!matches!(attempt, Ok(Ok(()))), "ready without an answer");
    wait::within("close", Duration::from_secs(5), opened.component().close()).await;
    harness.proxy().pass().await;
    Opened::ready(&opener).await.close().await;
}

pub async fn wrong_credentials_are_told_from_a_missing_server<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    let Some(properties) = harness.wrong_credentials() else {
        return;
    };
    let opener = opener::<H>(properties);
    let attempt = async { Opened::attempt(&opener).await?.ping().await };
    let error = wait::within("a refusal", Duration::from_secs(10), attempt).await;
    let kind = error.expect_err("the credentials are wrong").kind;
    assert_eq!(kind, ErrorKind::Connection(Class::Auth));
}

/// S42.
pub async fn a_server_killed_under_load_loses_no_acknowledged_write<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    let load = Load::start(Supervised::start(opener::<H>(harness.properties())));
    load.grows_by(200, Duration::from_secs(30)).await;
    harness.server().kill().await;
    load.suffers().await;
    harness.server().start().await;
    load.grows_by(100, RECOVERY).await;
    load.check().await;
}

/// S42.
pub async fn connections_cut_under_load_lose_no_acknowledged_write<H: Harness>() {
    let harness = H::start(Hold::Own).await;
    let load = Load::start(Supervised::start(opener::<H>(harness.properties())));
    load.grows_by(100, Duration::from_secs(30)).await;
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..15 {
        pace.tick().await;
        harness.proxy().reset().await;
    }
    load.grows_by(100, RECOVERY).await;
    load.check().await;
}

/// Writers that go on until they are told to stop, and remember what was acknowledged.
struct Load {
    shared: Arc<Shared>,
    writers: Scope,
}

struct Shared {
    supervised: Supervised<dyn StateStore>,
    prefix: String,
    acknowledged: Mutex<Vec<String>>,
    failed: AtomicUsize,
    stopped: AtomicBool,
    finished: AtomicUsize,
}

impl Load {
    fn start(supervised: Supervised<dyn StateStore>) -> Self {
        let shared = Arc::new(Shared {
            supervised,
            prefix: unique("load"),
            acknowledged: Mutex::default(),
            failed: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            finished: AtomicUsize::new(0),
        });
        let writers = Scope::root();
        for writer in 0..WRITERS {
            writers.spawn_future("testkit.writer", Arc::clone(&shared).write(writer));
        }
        Self { shared, writers }
    }

    fn acknowledged(&self) -> usize {
        self.shared.lock().len()
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
        let wanted = self.acknowledged() + more;
        let what = format!("{wanted} acknowledged writes");
        wait::until(what, deadline, async || {
            let count = self.acknowledged();
            assert_eq!(
                self.writers.running(),
                WRITERS,
                "a writer panicked, see above"
            );
            if count >= wanted { Ok(()) } else { Err(count) }
        })
        .await;
    }

    /// Ends the writers and reads what was acknowledged.
    async fn check(self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let left = self.writers.drained(Duration::from_secs(30)).await;
        assert!(left.is_empty(), "a writer hangs");
        assert_eq!(
            self.shared.finished.load(Ordering::SeqCst),
            WRITERS,
            "a writer panicked, see above"
        );
        let keys = self.shared.lock().clone();
        let store = self.shared.supervised.ready().await;
        let requests: Vec<_> = keys.iter().map(|key| get(key)).collect();
        for (key, found) in store.bulk_get(&requests, 10).await.unwrap() {
            assert!(
                found.unwrap().is_some(),
                "{key} was acknowledged and is lost"
            );
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(self: Arc<Self>, writer: usize) {
        let mut number = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            number += 1;
            let key = format!("{}-{writer}-{number}", self.prefix);
            let request = put(&key, "1");
            let write = |store: Arc<dyn StateStore>| async move { store.set(&request).await };
            match self.supervised.call("a write", write).await {
                Some(()) => self.lock().push(key),
                None => {
                    self.failed.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
    }
}
