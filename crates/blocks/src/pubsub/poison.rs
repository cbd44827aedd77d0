//! Messages under which the app crashes.
//!
//! A delivery that ends with the app's end says nothing of the message, once. A message under which it ends again and
//! again is to be blamed. Whoever was in the app's hands when it ended is a suspect; suspects are delivered one at a time,
//! so that the innocent are cleared.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// Suspects that are remembered. Beyond that the oldest is forgotten.
const MOST: usize = 10_000;

/// The suspects of all subscriptions.
#[derive(Debug)]
pub struct Poison {
    /// Crashes that make a message a failed one; 0: none do.
    limit: u32,
    /// There are suspects: nobody looks further while there are none.
    has_suspects: AtomicBool,
    suspects: Mutex<Suspects>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Suspects {
    crashes: HashMap<u64, u32>,
    order: VecDeque<u64>,
}

/// A message as it is known here: the same bytes of the same topic are the same message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    pub(super) fn of(pubsub: &str, topic: &str, data: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        (pubsub, topic, data).hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Poison {
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            has_suspects: AtomicBool::new(false),
            suspects: Mutex::default(),
            turn: Arc::default(),
        }
    }

    /// A suspect's turn; nothing for all others. To be held while it is delivered.
    pub(super) async fn turn(
        &self,
        fingerprint: impl FnOnce() -> Fingerprint,
    ) -> Option<OwnedMutexGuard<()>> {
        if !self.has_suspects.load(Ordering::Relaxed) {
            return None;
        }
        let Fingerprint(key) = fingerprint();
        let is_suspect = self.lock().crashes.contains_key(&key);
        if is_suspect {
            Some(self.turn.clone().lock_owned().await)
        } else {
            None
        }
    }

    /// The app ended under it. How often that has happened now, if it counts as failed therefore.
    pub(super) fn crashed(&self, fingerprint: Fingerprint) -> Option<u32> {
        if self.limit == 0 {
            return None;
        }
        let Fingerprint(key) = fingerprint;
        let mut suspects = self.lock();
        let count = {
            let count = suspects.crashes.entry(key).or_insert(0);
            *count = count.saturating_add(1);
            *count
        };
        if count == 1 {
            suspects.order.push_back(key);
            if suspects.order.len() > MOST
                && let Some(oldest) = suspects.order.pop_front()
            {
                suspects.crashes.remove(&oldest);
            }
        }
        self.has_suspects.store(true, Ordering::Relaxed);
        (count >= self.limit).then_some(count)
    }

    /// The app has answered: whatever it said, it lives.
    pub(super) fn cleared(&self, fingerprint: impl FnOnce() -> Fingerprint) {
        if !self.has_suspects.load(Ordering::Relaxed) {
            return;
        }
        let Fingerprint(key) = fingerprint();
        let mut suspects = self.lock();
        if suspects.crashes.remove(&key).is_some() {
            suspects.order.retain(|known| *known != key);
            self.has_suspects
                .store(!suspects.crashes.is_empty(), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: usize) -> Fingerprint {
        Fingerprint::of("p", "t", number.to_string().as_bytes())
    }

    #[test]
    fn the_fifth_crash_is_a_failure_and_an_answer_clears() {
        let poison = Poison::new(5);
        for _ in 0..4 {
            assert_eq!(poison.crashed(message(1)), None);
        }
        poison.crashed(message(2));
        poison.cleared(|| message(2));
        assert_eq!(poison.crashed(message(1)), Some(5));
        assert_eq!(
            poison.crashed(message(1)),
            Some(6),
            "and so is every later one"
        );
        assert_eq!(poison.crashed(message(2)), None);
        assert_eq!(Poison::new(0).crashed(message(1)), None);
    }

    #[tokio::test]
    async fn suspects_take_turns_and_others_do_not_wait() {
        let poison = Poison::new(5);
        assert!(poison.turn(|| message(1)).await.is_none());
        poison.crashed(message(1));
        poison.crashed(message(2));
        let first = poison.turn(|| message(1)).await;
        assert!(first.is_some());
        assert!(poison.turn(|| message(3)).await.is_none());
        let second = poison.turn(|| message(2));
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.is_some());
    }

    #[test]
    fn suspects_are_bounded() {
        let poison = Poison::new(2);
        for number in 0..=MOST {
            poison.crashed(message(number));
        }
        assert_eq!(poison.lock().crashes.len(), MOST);
        assert_eq!(poison.crashed(message(0)), None, "the oldest is forgotten");
        for number in 0..=MOST {
            poison.cleared(|| message(number));
        }
        assert!(!poison.has_suspects.load(Ordering::Relaxed));
    }
}
