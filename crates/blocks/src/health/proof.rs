//! Live pings: who wants one, what the last one said, and what else only the supervisor knows of a connection.
//!
//! Askers share: while a ping is under way nobody starts another, and an outcome is good for [`SHARED_FOR`].
//! The supervisor of `outrigger-sidecar` pings; [`Handle::prove`](crate::Handle::prove) asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_lifecycle::Moment;
use outrigger_lifecycle::connection::Failure;
use tokio::sync::watch;

/// Whoever asks within this time after a ping is told its outcome: probes cannot load a server.
pub const SHARED_FOR: Duration = Duration::from_secs(1);

/// What a ping said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    /// When it ended.
    pub at: Moment,
    pub took: Duration,
    pub outcome: Result<(), Failure>,
}

/// The part of a handle that is about pings.
#[derive(Debug)]
pub struct Proofs {
    /// How often somebody asked. A counter cannot overflow as a queue can, and needs no room.
    asked: watch::Sender<u64>,
    last: watch::Sender<Option<Proof>>,
    /// Lazy, and nobody has needed the component yet.
    is_dormant: AtomicBool,
    /// The driver said that it has no ping.
    has_no_ping: AtomicBool,
    /// Secret stores that must be ready first.
    stores: ArcSwap<Vec<String>>,
}

impl Default for Proofs {
    fn default() -> Self {
        Self {
            asked: watch::Sender::new(0),
            last: watch::Sender::new(None),
            is_dormant: AtomicBool::new(false),
            has_no_ping: AtomicBool::new(false),
            stores: ArcSwap::default(),
        }
    }
}

impl Proofs {
    /// For the supervisor: changes whenever somebody wants a ping.
    pub fn wanted(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    pub fn last(&self) -> Option<Proof> {
        self.last.borrow().clone()
    }

    /// Whether the last ping was so recent that another one would say nothing new.
    pub fn is_fresh(&self, now: Moment) -> bool {
        let last = self.last.borrow();
        last.as_ref()
            .is_some_and(|proof| now.since(proof.at) < SHARED_FOR)
    }

    /// Only the supervisor tells.
    pub fn tell(&self, proof: Proof) {
        self.last.send_replace(Some(proof));
    }

    /// Waits for a ping that ended at `now` or less than [`SHARED_FOR`] before.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the ping goes on, for whoever else asked.
    pub(crate) async fn since(&self, now: Moment) {
        let mut last = self.last.subscribe();
        if self.is_fresh(now) {
            return;
        }
        self.asked.send_modify(|count| *count += 1);
        // The sender lives in self.
        last.changed().await.ok();
    }

    pub fn is_dormant(&self) -> bool {
        self.is_dormant.load(Ordering::Relaxed)
    }

    pub fn set_dormant(&self, is_dormant: bool) {
        self.is_dormant.store(is_dormant, Ordering::Relaxed);
    }

    pub fn has_ping(&self) -> bool {
        !self.has_no_ping.load(Ordering::Relaxed)
    }

    pub fn set_has_ping(&self, has_ping: bool) {
        self.has_no_ping.store(!has_ping, Ordering::Relaxed);
    }

    pub fn stores(&self) -> Arc<Vec<String>> {
        self.stores.load_full()
    }

    pub fn set_stores(&self, stores: Vec<String>) {
        self.stores.store(Arc::new(stores));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(at: u64) -> Proof {
        Proof {
            at: Moment::from_start(Duration::from_millis(at)),
            took: Duration::ZERO,
            outcome: Ok(()),
        }
    }

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    #[tokio::test(start_paused = true)]
    async fn a_recent_ping_is_shared_and_an_old_one_asks_for_another() {
        let proofs = Proofs::default();
        let mut wanted = proofs.wanted();
        proofs.tell(proof(1_000));
        proofs.since(at(1_999)).await;
        assert!(!wanted.has_changed().unwrap(), "nobody was asked");
        let (_, ()) = tokio::join!(proofs.since(at(2_000)), async {
            wanted.changed().await.unwrap();
            proofs.tell(proof(2_050));
        });
        assert_eq!(*wanted.borrow(), 1);
    }
}
