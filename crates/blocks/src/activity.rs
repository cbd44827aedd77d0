//! Which calls are under way, since when there are none, and what has been handed to the app: what the way down waits for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_lifecycle::{Clock, Moment};

/// Calls of the API and of peers, and work in the app's hands. Health checks and open streams are no calls: they never end.
#[derive(Debug)]
pub struct Activity {
    clock: Clock,
    running: AtomicUsize,
    /// Milliseconds from the process's start to the end of the last call.
    last_end: AtomicU64,
    tallies: Mutex<BTreeMap<(Kind, String), Arc<Tally>>>,
    /// Calls for the app, from itself and from peers.
    invocations: Arc<Tally>,
}

/// What is handed to the app.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Bulk,
    Invoke,
    PubSub,
    Stream,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Invoke => "invoke",
            Self::PubSub => "pubsub",
            Self::Stream => "stream",
        }
    }
}

/// How much of one kind is in the app's hands.
#[derive(Debug, Default)]
pub struct Tally(AtomicUsize);

/// A share of it; dropped when it has ended.
#[derive(Debug)]
pub struct Share {
    tally: Arc<Tally>,
    count: usize,
}

impl Tally {
    pub fn begin(self: &Arc<Self>, count: usize) -> Share {
        self.0.fetch_add(count, Ordering::Relaxed);
        Share {
            tally: self.clone(),
            count,
        }
    }

    fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.tally.0.fetch_sub(self.count, Ordering::Relaxed);
    }
}

/// A call under way; dropped when it has ended.
#[derive(Debug)]
pub struct Running(Arc<Activity>);

impl Activity {
    pub fn new(clock: Clock) -> Self {
        let invocations = Arc::new(Tally::default());
        let tallies = BTreeMap::from([((Kind::Invoke, String::new()), invocations.clone())]);
        Self {
            clock,
            running: AtomicUsize::new(0),
            last_end: AtomicU64::new(0),
            tallies: Mutex::new(tallies),
            invocations,
        }
    }

    /// A call begins.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// When the last call ended; the process's start if there was none.
    pub fn last_end(&self) -> Moment {
        Moment::from_start(Duration::from_millis(self.last_end.load(Ordering::Relaxed)))
    }

    /// The tally of what a component hands to the app.
    pub fn tally(&self, kind: Kind, component: &str) -> Arc<Tally> {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies
            .entry((kind, component.to_owned()))
            .or_default()
            .clone()
    }

    /// A call for the app begins.
    pub fn invocation(&self) -> Share {
        self.invocations.begin(1)
    }

    /// What is in the app's hands, without what is not.
    pub fn in_hand(&self) -> Vec<(Kind, String, usize)> {
        let mut all = self.all();
        all.retain(|(_, _, count)| *count > 0);
        all
    }

    /// Every tally, zeros included.
    pub fn all(&self) -> Vec<(Kind, String, usize)> {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let all = tallies
            .iter()
            .map(|((kind, component), tally)| (*kind, component.clone(), tally.now()));
        all.collect()
    }

    /// How much is in the app's hands altogether.
    pub fn in_flight(&self) -> usize {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.values().map(|tally| tally.now()).sum()
    }
}

/// `pubsub/orders=3 invoke=1`, for the log.
pub fn table(in_hand: &[(Kind, String, usize)]) -> String {
    let cell = |(kind, component, count): &(Kind, String, usize)| {
        format!("{}={count}", label(*kind, component))
    };
    in_hand.iter().map(cell).collect::<Vec<_>>().join(" ")
}

/// `pubsub/orders`, or `invoke` where no component has to do with it.
pub fn label(kind: Kind, component: &str) -> String {
    if component.is_empty() {
        kind.name().to_owned()
    } else {
        format!("{}/{component}", kind.name())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let now = self.0.clock.now().distance_from_start().as_millis();
        self.0
            .last_end
            .store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_hand_is_told_by_kind_and_component_and_gone_when_it_ends() {
        let activity = Activity::new(Clock::start());
        let orders = activity.tally(Kind::PubSub, "orders");
        let shares = [orders.begin(1), orders.begin(2), activity.invocation()];
        assert_eq!(activity.in_flight(), 4);
        assert_eq!(table(&activity.in_hand()), "invoke=1 pubsub/orders=3");
        drop(shares);
        assert_eq!(activity.in_flight(), 0);
        assert!(activity.in_hand().is_empty());
        assert!(Arc::ptr_eq(
            &orders,
            &activity.tally(Kind::PubSub, "orders")
        ));
    }
}
