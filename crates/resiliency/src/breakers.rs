//! The breakers of one target, by what they protect.
//!
//! A table holds as many as it may; a full one forgets the closed breaker that was idle for longest, and one that is not
//! closed only if there is no closed one.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::{DefaultHashBuilder, HashTable};
use outrigger_lifecycle::Moment;
use outrigger_policy::breaker::{Admission, Breaker, Outcome, Rejection, State, Transition};

use crate::plan::BreakerRule;

/// Breakers with one definition.
pub(crate) struct Cells {
    pub rule: Arc<BreakerRule>,
    capacity: usize,
    hasher: DefaultHashBuilder,
    table: Mutex<Table>,
    open: AtomicUsize,
    half_open: AtomicUsize,
    /// An expression that fails is told once.
    told_failure: AtomicBool,
}

#[derive(Default)]
struct Table {
    entries: HashTable<Entry>,
    tick: u64,
}

struct Entry {
    key: Box<str>,
    cell: Arc<Cell>,
    used: u64,
}

/// One breaker that lives.
pub(crate) struct Cell {
    /// As it stands in logs.
    pub name: String,
    state: Mutex<Guarded>,
}

struct Guarded {
    breaker: Breaker,
    /// The last failure that counted.
    last: Option<Box<str>>,
    /// It is not in the table any more, and counts for nothing.
    evicted: bool,
}

/// What an operator sees of a breaker.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub name: String,
    pub state: State,
    pub counts: outrigger_policy::Counts,
    pub since: Moment,
    pub next_probe: Option<Moment>,
    pub last: Option<String>,
}

impl Cells {
    pub(crate) fn new(rule: Arc<BreakerRule>, capacity: usize) -> Self {
        Self {
            rule,
            capacity: capacity.max(1),
            hasher: DefaultHashBuilder::default(),
            table: Mutex::default(),
            open: AtomicUsize::new(0),
            half_open: AtomicUsize::new(0),
            told_failure: AtomicBool::new(false),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The breaker under a key, a closed one if there was none.
    pub(crate) fn cell(&self, key: &str, now: Moment, name: impl FnOnce() -> String) -> Arc<Cell> {
        let hash = self.hasher.hash_one(key);
        let mut table = self.lock();
        table.tick += 1;
        let tick = table.tick;
        if let Some(entry) = table.entries.find_mut(hash, |entry| *entry.key == *key) {
            entry.used = tick;
            return entry.cell.clone();
        }
        if table.entries.len() >= self.capacity {
            self.evict(&mut table);
        }
        let cell = Arc::new(Cell {
            name: name(),
            state: Mutex::new(Guarded {
                breaker: Breaker::new(now),
                last: None,
                evicted: false,
            }),
        });
        let entry = Entry {
            key: key.into(),
            cell: cell.clone(),
            used: tick,
        };
        table
            .entries
            .insert_unique(hash, entry, |entry| self.hasher.hash_one(&*entry.key));
        cell
    }

    fn evict(&self, table: &mut Table) {
        let victim = table
            .entries
            .iter()
            .map(|entry| (entry.cell.state() != State::Closed, entry.used))
            .min();
        let Some((_, used)) = victim else {
            return;
        };
        table.entries.retain(|entry| {
            if entry.used != used {
                return true;
            }
            let mut guarded = entry.cell.lock();
            guarded.evicted = true;
            self.count(guarded.breaker.state(), State::Closed);
            false
        });
    }

    fn follow(&self, evicted: bool, step: Transition) {
        if !evicted {
            self.count(step.from, step.to);
        }
    }

    /// The states of the breakers have changed by one.
    fn count(&self, from: State, to: State) {
        let of = |state| match state {
            State::Open => Some(&self.open),
            State::HalfOpen => Some(&self.half_open),
            State::Closed => None,
        };
        if let Some(count) = of(to) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(count) = of(from) {
            let less = |count: usize| count.checked_sub(1);
            count
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .ok();
        }
    }

    /// How many breakers there are in each state: closed, half-open, open.
    pub(crate) fn census(&self) -> [usize; 3] {
        let all = self.lock().entries.len();
        let (half, open) = (
            self.half_open.load(Ordering::Relaxed),
            self.open.load(Ordering::Relaxed),
        );
        [all.saturating_sub(half).saturating_sub(open), half, open]
    }

    /// The same with what time alone has changed.
    pub(crate) fn census_at(&self, now: Moment) -> [usize; 3] {
        let mut census = [0; 3];
        for entry in &self.lock().entries {
            let (state, _) = entry.cell.lock().breaker.seen(&self.rule.limits, now);
            let place = State::ALL.iter().position(|one| *one == state);
            if let Some(count) = place.and_then(|place| census.get_mut(place)) {
                *count += 1;
            }
        }
        census
    }

    /// The state that matters most.
    pub(crate) fn worst(&self) -> State {
        if self.open.load(Ordering::Relaxed) > 0 {
            State::Open
        } else if self.half_open.load(Ordering::Relaxed) > 0 {
            State::HalfOpen
        } else {
            State::Closed
        }
    }

    /// Asks to let a call through.
    pub(crate) fn admit(
        &self,
        cell: &Cell,
        now: Moment,
        mut told: impl FnMut(Transition),
    ) -> Result<(Admission, State), Rejection> {
        let mut guarded = cell.lock();
        let evicted = guarded.evicted;
        let admitted = guarded
            .breaker
            .admit(&self.rule.limits, now, &mut |step: Transition| {
                self.follow(evicted, step);
                told(step);
            });
        admitted.map(|admission| (admission, guarded.breaker.state()))
    }

    /// Takes an outcome; `why` tells of a failure.
    pub(crate) fn record(
        &self,
        cell: &Cell,
        admission: Admission,
        outcome: Outcome,
        now: Moment,
        why: Option<&str>,
        mut told: impl FnMut(Transition),
    ) -> Option<String> {
        let mut guarded = cell.lock();
        let mut broken = None;
        let evicted = guarded.evicted;
        if let Some(why) = why {
            guarded.last = Some(why.into());
        }
        let trips = |counts: &_| {
            self.rule.trip.holds(counts).unwrap_or_else(|error| {
                broken = Some(error);
                false
            })
        };
        guarded.breaker.record(
            &self.rule.limits,
            admission,
            outcome,
            now,
            trips,
            &mut |step: Transition| {
                self.follow(evicted, step);
                told(step);
            },
        );
        broken.filter(|_| !self.told_failure.swap(true, Ordering::Relaxed))
    }

    /// Closes breakers: the one of a name, or all.
    pub(crate) fn reset(
        &self,
        name: Option<&str>,
        now: Moment,
        mut told: impl FnMut(&str, Transition),
    ) -> usize {
        let cells: Vec<Arc<Cell>> = self
            .lock()
            .entries
            .iter()
            .map(|entry| entry.cell.clone())
            .filter(|cell| name.is_none_or(|name| cell.name == name))
            .collect();
        for cell in &cells {
            let mut guarded = cell.lock();
            let evicted = guarded.evicted;
            guarded.breaker.reset(now, &mut |step: Transition| {
                self.follow(evicted, step);
                told(&cell.name, step);
            });
        }
        cells.len()
    }

    /// Every breaker, as it is now.
    pub(crate) fn seen(&self, now: Moment) -> Vec<Seen> {
        let cells: Vec<Arc<Cell>> = self
            .lock()
            .entries
            .iter()
            .map(|entry| entry.cell.clone())
            .collect();
        let mut seen: Vec<Seen> = cells
            .iter()
            .map(|cell| {
                let guarded = cell.lock();
                let (state, next_probe) = guarded.breaker.seen(&self.rule.limits, now);
                Seen {
                    name: cell.name.clone(),
                    state,
                    counts: guarded.breaker.counts(),
                    since: guarded.breaker.since(),
                    next_probe,
                    last: guarded.last.as_deref().map(str::to_owned),
                }
            })
            .collect();
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        seen
    }
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> State {
        self.lock().breaker.state()
    }

    /// The last failure that counted.
    pub(crate) fn last(&self) -> Option<String> {
        self.lock().last.as_deref().map(str::to_owned)
    }

    /// How long until a rejected call is worth another try.
    pub(crate) fn retry_after(&self, rule: &BreakerRule, now: Moment) -> std::time::Duration {
        self.lock().breaker.retry_after(&rule.limits, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_policy::Codes;
    use outrigger_policy::breaker::Limits;
    use outrigger_policy::trip::Trip;

    use super::*;

    fn cells(capacity: usize) -> Cells {
        let rule = BreakerRule {
            limits: Limits {
                max_requests: 1,
                interval: None,
                timeout: Duration::from_secs(5),
            },
            trip: Trip::compile("consecutiveFailures >= 1").unwrap(),
            http: Codes::Every,
            grpc: Codes::Every,
            ignores_client_errors: false,
            counts_stream_errors: false,
            on_open: None,
        };
        Cells::new(Arc::new(rule), capacity)
    }

    fn call(cells: &Cells, key: &str, outcome: Outcome) -> bool {
        let cell = cells.cell(key, Moment::START, || key.to_owned());
        let Ok((admission, _)) = cells.admit(&cell, Moment::START, |_| {}) else {
            return false;
        };
        cells.record(&cell, admission, outcome, Moment::START, None, |_| {});
        true
    }

    #[test]
    fn a_full_table_forgets_closed_breakers_first() {
        let cells = cells(2);
        assert!(call(&cells, "a", Outcome::Failure));
        assert!(call(&cells, "b", Outcome::Success));
        assert!(call(&cells, "c", Outcome::Success));
        assert!(!call(&cells, "a", Outcome::Success), "it is still open");
        assert_eq!(cells.census(), [1, 0, 1]);
        assert!(call(&cells, "d", Outcome::Failure), "c is forgotten");
        assert_eq!(cells.census(), [0, 0, 2]);
        assert!(call(&cells, "e", Outcome::Success), "a is, at last");
        assert_eq!(cells.census(), [1, 0, 1]);
        assert!(!call(&cells, "d", Outcome::Success));
    }

    #[test]
    fn a_breaker_that_was_forgotten_counts_for_nothing() {
        let cells = cells(1);
        let old = cells.cell("a", Moment::START, || "a".to_owned());
        let (slow, _) = cells.admit(&old, Moment::START, |_| {}).unwrap();
        assert!(call(&cells, "b", Outcome::Success), "a is forgotten");
        cells.record(&old, slow, Outcome::Failure, Moment::START, None, |_| {});
        assert_eq!(cells.census(), [1, 0, 0]);
        assert_eq!(cells.worst(), State::Closed);
    }

    #[test]
    fn the_worst_state_is_told() {
        let cells = cells(10);
        assert_eq!(cells.worst(), State::Closed);
        call(&cells, "a", Outcome::Failure);
        call(&cells, "b", Outcome::Success);
        assert_eq!(cells.worst(), State::Open);
        assert_eq!(cells.reset(Some("a"), Moment::START, |_, _| {}), 1);
        assert_eq!(cells.worst(), State::Closed);
        assert_eq!(cells.seen(Moment::START).len(), 2);
    }
}
