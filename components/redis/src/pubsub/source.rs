//! The handle to a subscription: pause, release, close.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_component_api::{ComponentError, Source, async_trait};
use tokio::time::{Instant, timeout};

use super::desk::Desk;
use super::subscription::Shared;
use crate::client::Link;

/// The handle to a subscription.
pub(super) struct Running {
    pub shared: Arc<Shared>,
    /// Whence a blocked read can be woken.
    pub owner: Link,
    pub reader_id: Option<i64>,
}

impl Running {
    /// Ends a read that waits for messages. What it has fetched in the same moment still arrives.
    async fn wake_reader(&self) {
        if let Some(id) = self.reader_id {
            let mut command = redis::cmd("CLIENT");
            command.arg("UNBLOCK").arg(id).arg("TIMEOUT");
            let limit = self.shared.parts.client.write_limit();
            self.owner.send(&command, limit).await.ok();
        }
    }
}

#[async_trait]
impl Source for Running {
    async fn pause(&self) {
        let shared = &self.shared;
        shared.desk.send_modify(Desk::pause);
        let mut desk = shared.desk.subscribe();
        let deadline = Instant::now() + shared.parts.settings.block + PATIENCE;
        while !shared.life.is_cancelled()
            && shared.ended.borrow().is_none()
            && Instant::now() < deadline
        {
            if desk.borrow_and_update().is_still() {
                return;
            }
            if timeout(WAKE_AGAIN, self.wake_reader()).await.is_err() {
                continue;
            }
            timeout(WAKE_AGAIN, desk.wait_for(Desk::is_still))
                .await
                .ok();
        }
    }

    async fn resume(&self) {
        self.shared.desk.send_modify(Desk::resume);
    }

    async fn release(&self) {
        let shared = &self.shared;
        let mut ids = Vec::new();
        shared
            .desk
            .send_modify(|desk| ids = desk.give_back(Instant::now()));
        if !ids.is_empty() {
            shared.give_back(ids).await;
        }
    }

    async fn ended(&self) -> ComponentError {
        let mut ended = self.shared.ended.subscribe();
        let error = match ended.wait_for(Option::is_some).await {
            Ok(error) => error.clone(),
            Err(_) => None,
        };
        match error {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    async fn close(&self) {
        if !self.shared.life.is_cancelled() {
            self.pause().await;
            self.release().await;
            self.shared.life.cancel();
        }
    }

    fn in_flight(&self) -> usize {
        let handed_out = self.shared.desk.borrow().handed_out();
        // One has left the desk before the server knows, another has not begun yet.
        handed_out.max(self.shared.in_work.load(Ordering::Acquire))
    }
}

/// A wake-up that comes before the read has begun to wait is lost, so there is another one after this.
const WAKE_AGAIN: Duration = Duration::from_millis(100);

/// A stop waits so much longer than a read may wait for messages, then goes on without its answer.
const PATIENCE: Duration = Duration::from_secs(1);

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.life.cancel();
    }
}
