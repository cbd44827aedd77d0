//! What happens to the sidecar: every change of phase, gate, component, subscription, breaker and drain.
//!
//! Whoever changes tells it here, once; the history, the stream of events, the webhook and the app hear of it. Telling
//! never waits: who listens too slowly misses the oldest, and that is counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use outrigger_core::shown::shown;
use tokio::sync::broadcast;

/// Changes that a listener may be behind.
pub const QUEUE: usize = 1_000;
/// Things whose state is remembered. Breakers come and go; beyond this the oldest state of one is not known.
const MOST: usize = 20_000;
/// A count of refused calls that grows is told this often, and less often later.
pub const TALLY_EVERY: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    Process,
    Phase,
    Gate,
    Component,
    Subscription,
    Breaker,
    Drain,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Process,
        Self::Phase,
        Self::Gate,
        Self::Component,
        Self::Subscription,
        Self::Breaker,
        Self::Drain,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Phase => "phase",
            Self::Gate => "gate",
            Self::Component => "component",
            Self::Subscription => "subscription",
            Self::Breaker => "breaker",
            Self::Drain => "drain",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One change.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    pub at: SystemTime,
    pub kind: Kind,
    /// The component's name, `component/topic`, `target breaker`; empty for what there is once.
    pub subject: String,
    /// Empty when nothing is known of before.
    pub from: String,
    pub to: String,
    /// How long it had been as it was.
    pub after: Option<Duration>,
    /// Without credentials.
    pub cause: Option<String>,
    pub class: Option<String>,
    /// Calls that were refused since it went away.
    pub refused: Option<u64>,
}

impl Change {
    /// Nothing has changed but the number of calls that were refused. That is for the history, and for nobody else.
    pub fn is_tally(&self) -> bool {
        self.from == self.to
            && self.refused.is_some()
            && self.cause.is_none()
            && self.class.is_none()
    }
}

/// What is told of a change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    pub cause: Option<&'a str>,
    pub class: Option<&'a str>,
    pub refused: Option<u64>,
}

#[derive(Debug)]
struct State {
    name: String,
    class: Option<String>,
    since: Instant,
}

/// Calls that were refused by a component while it is away.
#[derive(Debug)]
struct Tally {
    count: u64,
    began: Instant,
    /// How many of them were told, and when.
    told: u64,
    told_at: Instant,
}

/// The longer something is away, the less often its count is told: an outage of a day is some hundred lines, and a history
/// that ends without a word has lost the last twentieth at most.
fn is_due(lasted: Duration, silent: Duration) -> bool {
    silent >= TALLY_EVERY.max(lasted / 20)
}

/// Takes changes in and hands them on.
#[derive(Debug)]
pub struct Journal {
    states: Mutex<HashMap<(Kind, String), State>>,
    tallies: Mutex<HashMap<String, Tally>>,
    sender: broadcast::Sender<Arc<Change>>,
}

impl Journal {
    pub fn new() -> Self {
        let (sender, _) = broadcast::channel(QUEUE);
        Self {
            states: Mutex::default(),
            tallies: Mutex::default(),
            sender,
        }
    }

    /// Something is `to` now. What was so before is no change, unless another obstacle stands in the way.
    pub fn change(&self, kind: Kind, subject: &str, to: &str, told: Told<'_>) {
        let (from, after) = {
            let mut states = self.lock();
            let key = (kind, subject.to_owned());
            let now = Instant::now();
            let class = told.class.map(str::to_owned);
            match states.get_mut(&key) {
                Some(state) if state.name == to => {
                    if class.is_none() || state.class == class {
                        return;
                    }
                    state.class = class;
                    (to.to_owned(), Some(now.duration_since(state.since)))
                }
                Some(state) => {
                    state.class = class;
                    let from = std::mem::replace(&mut state.name, to.to_owned());
                    let after = now.duration_since(std::mem::replace(&mut state.since, now));
                    (from, Some(after))
                }
                None => {
                    if states.len() < MOST {
                        let name = to.to_owned();
                        let since = now;
                        states.insert(key, State { name, class, since });
                    }
                    (String::new(), None)
                }
            }
        };
        self.tell(Change {
            at: SystemTime::now(),
            kind,
            subject: subject.to_owned(),
            from,
            to: to.to_owned(),
            after,
            cause: told.cause.map(shown),
            class: told.class.map(str::to_owned),
            refused: told.refused,
        });
    }

    /// What has no state: it happened.
    pub fn happened(&self, kind: Kind, subject: &str, what: &str, told: Told<'_>) {
        self.tell(Change {
            at: SystemTime::now(),
            kind,
            subject: subject.to_owned(),
            from: String::new(),
            to: what.to_owned(),
            after: None,
            cause: told.cause.map(shown),
            class: told.class.map(str::to_owned),
            refused: told.refused,
        });
    }

    /// It is there no more.
    pub fn forget(&self, kind: Kind, subject: &str) {
        self.lock().remove(&(kind, subject.to_owned()));
    }

    /// A component has refused more calls. How many it has refused since it went away.
    pub fn refused(&self, component: &str, more: u64) -> u64 {
        let mut tallies = self.tallies();
        if let Some(tally) = tallies.get_mut(component) {
            tally.count = tally.count.saturating_add(more);
            return tally.count;
        }
        if more > 0 {
            let now = Instant::now();
            let tally = Tally {
                count: more,
                began: now,
                told: 0,
                told_at: now,
            };
            tallies.insert(component.to_owned(), tally);
        }
        more
    }

    /// A component is there again, or no more: the next count begins with nothing.
    pub fn settle(&self, component: &str) {
        self.tallies().remove(component);
    }

    /// The counts as they are now, as changes that change nothing.
    pub fn tallies_now(&self) -> Vec<Change> {
        let counts: Vec<(String, u64)> = self
            .tallies()
            .iter()
            .map(|(component, tally)| (component.clone(), tally.count))
            .collect();
        counts
            .into_iter()
            .map(|(component, count)| self.tally(component, count))
            .collect()
    }

    /// Tells the counts that have grown: those that are due, or all at the end.
    pub fn tell_tallies(&self, is_end: bool) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (component, tally) in self.tallies().iter_mut() {
            let (lasted, silent) = (now - tally.began, now - tally.told_at);
            if tally.count > tally.told && (is_end || is_due(lasted, silent)) {
                (tally.told, tally.told_at) = (tally.count, now);
                due.push((component.clone(), tally.count));
            }
        }
        for (component, count) in due {
            self.tell(self.tally(component, count));
        }
    }

    fn tally(&self, component: String, count: u64) -> Change {
        let key = (Kind::Component, component);
        let (state, after) = match self.lock().get(&key) {
            Some(state) => (state.name.clone(), Some(state.since.elapsed())),
            None => (String::new(), None),
        };
        Change {
            at: SystemTime::now(),
            kind: key.0,
            subject: key.1,
            from: state.clone(),
            to: state,
            after,
            cause: None,
            class: None,
            refused: Some(count),
        }
    }

    /// For how long it has been as it is.
    pub fn lasted(&self, kind: Kind, subject: &str) -> Option<Duration> {
        let states = self.lock();
        let state = states.get(&(kind, subject.to_owned()))?;
        Some(state.since.elapsed())
    }

    /// All that is told from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Change>> {
        self.sender.subscribe()
    }

    fn tell(&self, change: Change) {
        // Without a listener there is nobody to tell.
        self.sender.send(Arc::new(change)).ok();
    }

    fn tallies(&self) -> std::sync::MutexGuard<'_, HashMap<String, Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Kind, String), State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_knows_what_was_before_and_what_is_no_change_is_not_told() {
        let journal = Journal::new();
        let mut heard = journal.listen();
        journal.change(Kind::Gate, "", "wait_port", Told::default());
        journal.change(Kind::Gate, "", "wait_port", Told::default());
        journal.change(Kind::Gate, "", "open", Told::default());
        let first = heard.try_recv().unwrap();
        assert_eq!((first.from.as_str(), first.to.as_str()), ("", "wait_port"));
        let second = heard.try_recv().unwrap();
        assert_eq!(
            (second.from.as_str(), second.to.as_str()),
            ("wait_port", "open")
        );
        assert!(second.after.is_some() && heard.try_recv().is_err());
        assert!(journal.lasted(Kind::Gate, "").is_some());
        journal.forget(Kind::Gate, "");
        assert!(journal.lasted(Kind::Gate, "").is_none());
    }

    #[test]
    fn another_obstacle_is_told_and_the_same_one_again_is_not() {
        let journal = Journal::new();
        let mut heard = journal.listen();
        let told = |class| Told {
            class: Some(class),
            ..Told::default()
        };
        for class in ["TRANSIENT", "TRANSIENT", "AUTH"] {
            journal.change(Kind::Component, "orders", "unavailable", told(class));
        }
        journal.change(Kind::Component, "orders", "unavailable", Told::default());
        let classes: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok())
            .map(|change| change.class.clone().unwrap())
            .collect();
        assert_eq!(classes, ["TRANSIENT", "AUTH"]);
    }

    #[test]
    fn refused_calls_are_counted_until_the_component_is_there_again() {
        let journal = Journal::new();
        journal.change(Kind::Component, "orders", "unavailable", Told::default());
        let mut heard = journal.listen();
        assert_eq!(journal.refused("orders", 0), 0);
        assert!(journal.tallies_now().is_empty());
        assert_eq!(journal.refused("orders", 2), 2);
        assert_eq!(journal.refused("orders", 1), 3);
        let counts = |told: Vec<Change>| -> Vec<_> {
            assert!(told.iter().all(Change::is_tally));
            told.iter()
                .map(|one| (one.to.clone(), one.refused))
                .collect()
        };
        let expected = [("unavailable".to_owned(), Some(3))];
        assert_eq!(counts(journal.tallies_now()), expected);
        assert!(heard.try_recv().is_err(), "who asks changes nothing");
        journal.tell_tallies(false);
        assert!(heard.try_recv().is_err(), "it is not due");
        journal.tell_tallies(true);
        assert_eq!(heard.try_recv().unwrap().refused, Some(3));
        journal.tell_tallies(true);
        assert!(heard.try_recv().is_err(), "it has not grown");
        journal.settle("orders");
        assert_eq!(journal.refused("orders", 1), 1);
    }

    #[test]
    fn a_long_outage_is_told_of_in_few_lines() {
        let (mut lines, mut told) = (0_u32, Duration::ZERO);
        for second in (0..86_400).step_by(2) {
            let now = Duration::from_secs(second);
            if is_due(now, now - told) {
                assert!(now - told <= TALLY_EVERY + now / 20, "{now:?}");
                (lines, told) = (lines + 1, now);
            }
        }
        assert!(lines < 200, "{lines}");
    }

    #[test]
    fn causes_are_told_without_credentials() {
        let journal = Journal::new();
        let mut heard = journal.listen();
        let told = Told {
            cause: Some("dial amqp://user:hunter2@host failed: password=hunter2"),
            ..Told::default()
        };
        journal.change(Kind::Component, "orders", "unavailable", told);
        let cause = heard.try_recv().unwrap().cause.clone().unwrap();
        assert!(!cause.contains("hunter2"), "{cause}");
    }
}
