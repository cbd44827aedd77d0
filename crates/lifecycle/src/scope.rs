//! Scopes own tasks.
//!
//! Scopes form a tree: process, sidecar, component, subscription. A task is started in a scope, gets the scope's
//! [`Stop`], and is awaited when the scope closes. Who is still there after the deadline is named.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Moment;

/// Tells a task that its scope is closing.
pub type Stop = CancellationToken;

/// Owner of tasks. Clones are handles to the same scope.
#[derive(Clone, Debug)]
pub struct Scope {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    stop: CancellationToken,
    tracker: TaskTracker,
    /// How many tasks of each name are running.
    running: Mutex<BTreeMap<&'static str, usize>>,
}

impl Scope {
    /// The root of a tree.
    pub fn root() -> Self {
        Self::with(CancellationToken::new())
    }

    /// A scope that is stopped with this one, and can be closed on its own. Its tasks are not awaited by the parent.
    pub fn child(&self) -> Self {
        Self::with(self.inner.stop.child_token())
    }

    fn with(stop: CancellationToken) -> Self {
        Self {
            inner: Arc::new(Inner {
                stop,
                tracker: TaskTracker::new(),
                running: Mutex::default(),
            }),
        }
    }

    /// Starts a task. It is expected to end soon after its [`Stop`] fires.
    pub fn spawn<F, T>(&self, name: &'static str, task: F) -> tokio::task::AbortHandle
    where
        F: FnOnce(Stop) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        let task = task(self.inner.stop.clone());
        self.spawn_future(name, task)
    }

    /// Starts a task that does not look at its [`Stop`] because it is short.
    pub fn spawn_future(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        let guard = Running {
            inner: self.inner.clone(),
            name,
        };
        *lock(&self.inner.running).entry(name).or_insert(0) += 1;
        // A task is moved several times while it is made: boxed, it is copied once.
        let task = Box::pin(task);
        let owned = async move {
            let _guard = guard;
            task.await;
        };
        self.inner.tracker.spawn(owned).abort_handle()
    }

    pub fn stop(&self) -> &Stop {
        &self.inner.stop
    }

    pub fn is_stopped(&self) -> bool {
        self.inner.stop.is_cancelled()
    }

    /// Tells every task of this scope and of its children to end, without waiting.
    pub fn cancel(&self) {
        self.inner.stop.cancel();
    }

    /// Tells every task to end and waits for those of this scope. Returns the names of those left behind.
    pub async fn close(&self, deadline: Duration) -> Vec<&'static str> {
        self.inner.stop.cancel();
        self.drained(deadline).await
    }

    /// Waits until no task runs, without telling any to end. Returns the names of those left behind.
    pub async fn drained(&self, deadline: Duration) -> Vec<&'static str> {
        self.inner.tracker.close();
        if tokio::time::timeout(deadline, self.inner.tracker.wait())
            .await
            .is_ok()
        {
            return Vec::new();
        }
        lock(&self.inner.running)
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(name, _)| *name)
            .collect()
    }

    /// How many tasks are running.
    pub fn running(&self) -> usize {
        self.inner.tracker.len()
    }
}

struct Running {
    inner: Arc<Inner>,
    name: &'static str,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(count) = lock(&self.inner.running).get_mut(self.name) {
            *count = count.saturating_sub(1);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns the runtime's time into the [`Moment`]s of the pure machines. Follows a paused clock in tests.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: tokio::time::Instant,
}

impl Clock {
    /// A clock whose moments count from now.
    pub fn start() -> Self {
        Self {
            start: tokio::time::Instant::now(),
        }
    }

    /// A clock whose moments count from an instant that lies before the runtime.
    pub fn since(start: Instant) -> Self {
        Self {
            start: tokio::time::Instant::from_std(start),
        }
    }

    pub fn now(&self) -> Moment {
        Moment::from_start(self.start.elapsed())
    }

    /// Sleeps until the moment; returns at once if it has passed.
    pub async fn until(&self, moment: Moment) {
        tokio::time::sleep_until(self.start + moment.distance_from_start()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn closing_a_scope_ends_its_tasks_and_those_of_its_children() {
        let scope = Scope::root();
        let child = scope.child();
        child.spawn("child", |stop| async move { stop.cancelled().await });
        scope.spawn("own", |stop| async move { stop.cancelled().await });
        assert_eq!(
            scope.close(Duration::from_secs(1)).await,
            Vec::<&str>::new()
        );
        assert_eq!(
            child.drained(Duration::from_secs(1)).await,
            Vec::<&str>::new()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_end_in_time_is_named() {
        let scope = Scope::root();
        scope.spawn("stubborn", |_| std::future::pending());
        assert_eq!(scope.close(Duration::from_secs(1)).await, ["stubborn"]);
    }
}
