//! One connection to the broker.
//!
//! Owns: the connection's life signs, its end.
//! Never: tries again. A link that ended stays ended; its owner reports that and is replaced.
//! Start at [`Link::ended`]. Tests: tests/broker/connection.rs.

use std::sync::OnceLock;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{Channel, Connection, Event};
use outrigger_component_api::{ComponentError, Scope};
use tokio::sync::{oneshot, watch};

use crate::error;
use crate::transport::{LAST_WORDS, Signs};

/// A broker that does not answer our farewell in this time is left without.
const FAREWELL: Duration = Duration::from_millis(800);

/// A connection that we are logged in on. Dropping it cuts it off.
pub(crate) struct Link {
    connection: Connection,
    signs: Signs,
    /// Why it ended, once that is known.
    end: OnceLock<ComponentError>,
    /// The broker takes no messages from us.
    blocked: watch::Sender<bool>,
}

impl Link {
    pub(crate) fn new(connection: Connection, signs: Signs) -> Self {
        Self {
            connection,
            signs,
            end: OnceLock::new(),
            blocked: watch::Sender::new(false),
        }
    }

    /// Waits for the broker's answer, or for the connection's end.
    ///
    /// # Errors
    /// What `asking` failed with, or that the connection is gone.
    pub(crate) async fn answer<T>(
        &self,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> lapin::Result<T> {
        self.signs.answer(asking).await
    }

    /// # Errors
    /// When the connection is dead, or has no channel left.
    pub(crate) async fn channel(&self) -> Result<Channel, ComponentError> {
        self.answer(self.connection.create_channel())
            .await
            .map_err(|cause| self.blame(&cause, "opening a channel"))
    }

    /// The broker takes no messages from us at the moment: it is short of memory or disk.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Completes when no confirmation is to be expected any more: the connection is gone, or the broker has taken no
    /// messages for `patience`. Needs somebody to wait for [`Link::ended`].
    pub(crate) async fn stalled(&self, patience: Duration) {
        let blocked = async {
            let mut blocked = self.blocked.subscribe();
            loop {
                // The sender lives in self.
                blocked.wait_for(|blocked| *blocked).await.ok();
                let unblocked = blocked.wait_for(|blocked| !*blocked);
                if tokio::time::timeout(patience, unblocked).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.signs.ended() => {}
            () = blocked => {}
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.connection.status().connected() && !self.signs.gone.is_cancelled()
    }

    /// Opens and closes a channel: the broker has to answer twice, to somebody who is logged in.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) async fn ping(&self) -> Result<(), ComponentError> {
        // A blocked connection is written to by nobody; its heartbeats tell whether it lives.
        if self.is_blocked() && self.is_alive() {
            return Ok(());
        }
        let channel = self.channel().await?;
        let closed = self.answer(channel.close(200, "OK".into())).await;
        closed.map_err(|cause| self.blame(&cause, "closing a channel"))
    }

    /// The error of a call. When the connection is gone, why it went says more than how the call noticed.
    pub(crate) fn blame(&self, cause: &lapin::Error, doing: &str) -> ComponentError {
        let told = error::call(cause, doing);
        match self.end.get() {
            Some(end) if told.doubts_connection() => {
                ComponentError::new(end.kind, format!("{doing}: {}", end.message))
            }
            _ => told,
        }
    }

    /// Completes when the connection has ended, with the reason.
    pub(crate) async fn ended(&self) -> ComponentError {
        let mut events = std::pin::pin!(self.connection.events_listener());
        // A channel's end is told there too; it leaves the connection as it is.
        let mut cause = std::pin::pin!(async {
            while let Some(event) = events.next().await {
                match event {
                    Event::Error(cause) if !self.connection.status().connected() => {
                        return Some(cause);
                    }
                    Event::ConnectionBlocked(_) => {
                        self.blocked.send_replace(true);
                    }
                    Event::ConnectionUnblocked => {
                        self.blocked.send_replace(false);
                    }
                    _ => {}
                }
            }
            None
        });
        let told = tokio::select! {
            biased;
            cause = &mut cause => cause,
            // The socket is gone; lapin tells why a moment later.
            () = self.signs.gone.cancelled() => {
                tokio::time::timeout(LAST_WORDS, &mut cause).await.ok().flatten()
            }
        };
        let reason = match told {
            Some(cause) => error::connection(&cause, "the connection ended"),
            None => ComponentError::transient("the connection ended"),
        };
        self.end.get_or_init(|| reason).clone()
    }

    /// Completes when the connection is gone, with the reason as far as [`Link::ended`] has learnt it.
    pub(crate) async fn lost(&self) -> ComponentError {
        self.signs.ended().await;
        self.reason()
    }

    /// Why the connection is gone, as far as that is known.
    pub(crate) fn reason(&self) -> ComponentError {
        let unknown = || ComponentError::transient("the connection ended");
        self.end.get().cloned().unwrap_or_else(unknown)
    }

    /// Takes leave of the broker, or leaves without when it does not answer. Idempotent.
    pub(crate) async fn close(&self) {
        let farewell = self.answer(self.connection.close(200, "OK".into()));
        tokio::time::timeout(FAREWELL, farewell).await.ok();
        self.signs.cut.cancel();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.signs.cut.cancel();
    }
}

/// Does `work` to its end, even when the caller leaves. lapin takes the broker's answer to a request that nobody waits
/// for any longer for a fault of the whole connection, if it is a refusal.
pub(crate) async fn to_the_end<T: Send + 'static>(
    scope: &Scope,
    work: impl Future<Output = Result<T, ComponentError>> + Send + 'static,
) -> Result<T, ComponentError> {
    let (done, result) = oneshot::channel();
    scope.spawn_future("pubsub.rabbitmq/request", async move {
        done.send(work.await).ok();
    });
    let stopped = || ComponentError::transient("the connection is being closed");
    result.await.unwrap_or_else(|_| Err(stopped()))
}
