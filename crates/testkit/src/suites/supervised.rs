//! Keeps an instance open, in the simplest way in which the sidecar's supervisor could.
//!
//! Cases with faults need somebody who opens a new instance after a loss; the real supervisor is not this crate's to know.

use std::sync::Arc;
use std::time::Duration;

use outrigger_component_api::{Component, ComponentError, Opener, Scope, Stop};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::open::Opened;
use crate::wait;

const ATTEMPT: Duration = Duration::from_secs(5);
const PING: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Supervised<T: ?Sized> {
    current: watch::Receiver<Current<T>>,
    scope: Scope,
}

enum Current<T: ?Sized> {
    Ready(Arc<T>),
    Absent(String),
}

impl<T: ?Sized + Component> Supervised<T> {
    pub(crate) fn start(opener: Opener<T>) -> Self {
        let (sender, current) = watch::channel(Current::Absent("not tried yet".to_owned()));
        let scope = Scope::root();
        scope.spawn("testkit.supervised", |stop| supervise(opener, sender, stop));
        Self { current, scope }
    }

    /// The instance of the moment, as soon as there is one.
    pub(crate) async fn ready(&self) -> Arc<T> {
        self.ready_within(Duration::from_secs(30)).await
    }

    /// # Panics
    /// When there is none in time, with the reason.
    pub(crate) async fn ready_within(&self, deadline: Duration) -> Arc<T> {
        let mut current = self.current.clone();
        let found = timeout(
            deadline,
            current.wait_for(|current| matches!(current, Current::Ready(_))),
        )
        .await;
        if let Ok(Ok(found)) = &found
            && let Current::Ready(instance) = &**found
        {
            return Arc::clone(instance);
        }
        drop(found);
        match &*self.current.borrow() {
            Current::Ready(instance) => Arc::clone(instance),
            Current::Absent(why) => panic!("no instance within {deadline:?}: {why}"),
        }
    }

    /// Calls the instance of the moment. `None` when an outage kept the call from succeeding.
    ///
    /// # Panics
    /// When the answer does not come in time, or is an error that does not say that trying again may help.
    pub(crate) async fn call<R, F>(&self, what: &str, call: impl FnOnce(Arc<T>) -> F) -> Option<R>
    where
        F: Future<Output = Result<R, ComponentError>>,
    {
        let instance = self.ready().await;
        let called = call(Arc::clone(&instance));
        match wait::within(what, Duration::from_secs(10), called).await {
            Ok(value) => Some(value),
            // An instance that was closed under the call's feet may refuse it in any way.
            Err(error) if error.doubts_connection() || !self.is_current(&instance) => {
                sleep(Duration::from_millis(20)).await;
                None
            }
            Err(error) => panic!("{what}: an outage is no {:?}: {error}", error.kind),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(&*self.current.borrow(), Current::Ready(_))
    }

    fn is_current(&self, instance: &Arc<T>) -> bool {
        matches!(&*self.current.borrow(), Current::Ready(current) if Arc::ptr_eq(instance, current))
    }

    /// Completes when this instance is not the one of the moment any more.
    pub(crate) async fn gone(&self, instance: &Arc<T>) {
        let mut current = self.current.clone();
        let is_other = |current: &Current<T>| match current {
            Current::Ready(other) => !Arc::ptr_eq(instance, other),
            Current::Absent(_) => true,
        };
        // Fails only when the supervising task has ended, and the instance with it.
        current.wait_for(is_other).await.ok();
    }

    pub(crate) async fn close(self) {
        let left = self.scope.close(Duration::from_secs(10)).await;
        assert!(left.is_empty(), "{left:?}");
    }
}

impl<T: ?Sized> Drop for Supervised<T> {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

async fn supervise<T: ?Sized + Component>(
    opener: Opener<T>,
    current: watch::Sender<Current<T>>,
    stop: Stop,
) {
    while !stop.is_cancelled() {
        let attempt = async {
            let opened = Opened::attempt(&opener).await?;
            opened.ping().await?;
            Ok::<_, ComponentError>(opened)
        };
        let why = match timeout(ATTEMPT, attempt).await {
            Ok(Ok(mut opened)) => {
                let component = opened.component();
                current.send_replace(Current::Ready(Arc::clone(&component)));
                let why = tokio::select! {
                    biased;
                    () = stop.cancelled() => "stopped".to_owned(),
                    error = opened.lost() => error.to_string(),
                    why = silence(&*component) => why,
                };
                current.send_replace(Current::Absent(why.clone()));
                timeout(PING, component.close()).await.ok();
                why
            }
            Ok(Err(error)) => format!("{error:?}"),
            Err(_) => format!("an attempt took more than {ATTEMPT:?}"),
        };
        current.send_replace(Current::Absent(why));
        sleep(PAUSE).await;
    }
}

/// Ends when two pings in a row have failed.
async fn silence<T: ?Sized + Component>(component: &T) -> String {
    let mut failures = 0;
    loop {
        sleep(Duration::from_millis(500)).await;
        match timeout(PING, component.ping()).await {
            Ok(Ok(())) => failures = 0,
            Ok(Err(error)) => {
                failures += 1;
                if failures == 2 {
                    return error.to_string();
                }
            }
            Err(_) => {
                failures += 1;
                if failures == 2 {
                    return "no answer to a ping".to_owned();
                }
            }
        }
    }
}
