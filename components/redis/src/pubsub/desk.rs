//! What a subscription has on its desk, as decisions: what waits, what is handed out, who may fetch more.
//!
//! Never: waits, sends or reads a clock. The tasks of `subscription.rs` watch it and act.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{Entry, Id};

/// So long nothing is handed out after an entry came back untouched, unless a pause comes first: whoever gave it back can
/// use no other either.
const REST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Desk {
    depth: usize,
    /// So long nobody else takes an entry that was let go.
    ours: Duration,
    waiting: VecDeque<Entry>,
    /// Ids that wait or are handed out: nobody else is to take them, least of all we ourselves.
    here: BTreeSet<Id>,
    handed_out: usize,
    /// Handed out and returned untouched, and when: they stay pending, and are given back with the others.
    let_go: VecDeque<(Id, Instant)>,
    /// Nothing is handed out before.
    rests_until: Option<Instant>,
    paused: bool,
    /// What is fetched is to be given back, even what arrives late.
    returning: bool,
    /// A read is under way; its entries are ours even if we no longer want them.
    reading: bool,
    claiming: bool,
}

impl Desk {
    /// A desk on which up to `depth` entries may wait before fetching stops. What was let go longer than `ours` ago may be
    /// in other hands.
    pub(super) fn new(depth: usize, ours: Duration) -> Self {
        Self {
            depth,
            ours,
            waiting: VecDeque::new(),
            here: BTreeSet::new(),
            handed_out: 0,
            let_go: VecDeque::new(),
            rests_until: None,
            paused: false,
            returning: false,
            reading: false,
            claiming: false,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Nothing is being fetched.
    pub(super) fn is_still(&self) -> bool {
        !self.reading && !self.claiming
    }

    pub(super) fn handed_out(&self) -> usize {
        self.handed_out
    }

    pub(super) fn has(&self, id: Id) -> bool {
        self.here.contains(&id)
    }

    /// How many entries wait or are handed out.
    pub(super) fn len(&self) -> usize {
        self.here.len()
    }

    pub(super) fn ids(&self) -> Vec<Id> {
        self.here.iter().copied().collect()
    }

    pub(super) fn pause(&mut self) {
        self.paused = true;
    }

    pub(super) fn resume(&mut self) {
        self.paused = false;
        self.returning = false;
        self.rests_until = None;
    }

    /// How many entries may be fetched now.
    pub(super) fn room(&self) -> usize {
        if self.paused {
            0
        } else {
            self.depth.saturating_sub(self.waiting.len())
        }
    }

    /// Begins a read of so many entries.
    pub(super) fn begin_read(&mut self) -> Option<usize> {
        let room = self.room();
        self.reading = room > 0;
        self.reading.then_some(room)
    }

    pub(super) fn end_read(&mut self) {
        self.reading = false;
    }

    /// Begins a claim of so many entries.
    pub(super) fn begin_claim(&mut self) -> Option<usize> {
        let room = self.room();
        self.claiming = room > 0;
        self.claiming.then_some(room)
    }

    pub(super) fn end_claim(&mut self) {
        self.claiming = false;
    }

    /// Puts fetched entries in line. Returns those that have to be given back at once.
    pub(super) fn take_in(&mut self, entries: Vec<Entry>) -> Vec<Id> {
        if self.returning {
            return entries
                .iter()
                .map(|entry| entry.id)
                .filter(|id| !self.here.contains(id))
                .collect();
        }
        for entry in entries {
            if self.here.insert(entry.id) {
                self.waiting.push_back(entry);
            }
        }
        Vec::new()
    }

    /// From when on there is something to hand out, as far as is known.
    pub(super) fn next_at(&self, now: Instant) -> Option<Instant> {
        let has_next = !self.paused && !self.waiting.is_empty();
        has_next.then(|| self.rests_until.unwrap_or(now))
    }

    /// Hands the oldest entry out.
    pub(super) fn hand_out(&mut self, now: Instant) -> Option<Entry> {
        if self.next_at(now).is_none_or(|at| at > now) {
            return None;
        }
        self.rests_until = None;
        let entry = self.waiting.pop_front()?;
        self.handed_out += 1;
        Some(entry)
    }

    /// What was handed out is settled, one way or another.
    pub(super) fn settle(&mut self, id: Id) {
        if self.here.remove(&id) {
            self.handed_out = self.handed_out.saturating_sub(1);
        }
    }

    /// What was handed out comes back untouched. True when it has to be given back at once.
    pub(super) fn let_go(&mut self, id: Id, now: Instant) -> bool {
        self.settle(id);
        if !self.paused {
            let is_lost = |(_, at): &(Id, Instant)| now.duration_since(*at) >= self.ours;
            while self.let_go.front().is_some_and(is_lost) {
                self.let_go.pop_front();
            }
            self.let_go.push_back((id, now));
            self.rests_until = Some(now + REST);
        }
        self.paused
    }

    /// Empties the line, for good as long as the pause lasts.
    pub(super) fn give_back(&mut self, now: Instant) -> Vec<Id> {
        self.returning = true;
        let mut ids: Vec<Id> = self.waiting.drain(..).map(|entry| entry.id).collect();
        for id in &ids {
            self.here.remove(id);
        }
        let (here, ours) = (&self.here, self.ours);
        ids.extend(
            self.let_go
                .drain(..)
                .filter(|(id, at)| now.duration_since(*at) < ours && !here.contains(id))
                .map(|(id, _)| id),
        );
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_component_api::Bytes;

    fn entry(number: u64) -> Entry {
        Entry {
            id: id(number),
            data: Bytes::new(),
            metadata: None,
            delivery: 1,
        }
    }

    fn id(number: u64) -> Id {
        Id { millis: 1, number }
    }

    const OURS: Duration = Duration::from_secs(1);

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn fetching_stops_when_the_line_is_full() {
        let mut desk = Desk::new(2, OURS);
        assert_eq!(desk.begin_read(), Some(2));
        assert!(!desk.is_still());
        desk.take_in(vec![entry(1), entry(2)]);
        desk.end_read();
        assert_eq!(desk.begin_read(), None);
        assert!(desk.is_still());
        assert_eq!(desk.hand_out(now()).map(|entry| entry.id), Some(id(1)));
        assert_eq!(desk.begin_claim(), Some(1));
        assert_eq!(desk.handed_out(), 1);
    }

    #[test]
    fn an_entry_is_never_on_the_desk_twice() {
        let mut desk = Desk::new(5, OURS);
        desk.take_in(vec![entry(1)]);
        desk.hand_out(now());
        desk.take_in(vec![entry(1), entry(2)]);
        assert_eq!(desk.hand_out(now()).map(|entry| entry.id), Some(id(2)));
        assert_eq!(desk.hand_out(now()), None);
        desk.settle(id(1));
        assert!(!desk.has(id(1)) && desk.has(id(2)));
    }

    #[test]
    fn a_pause_hands_nothing_out_and_fetches_nothing() {
        let mut desk = Desk::new(5, OURS);
        desk.take_in(vec![entry(1)]);
        desk.pause();
        assert_eq!(desk.next_at(now()), None);
        assert_eq!(desk.hand_out(now()), None);
        assert_eq!(desk.begin_read(), None);
        desk.resume();
        assert!(desk.next_at(now()).is_some());
    }

    #[test]
    fn what_is_given_back_is_not_ours_any_more() {
        let mut desk = Desk::new(5, OURS);
        desk.take_in(vec![entry(1), entry(2), entry(3)]);
        desk.hand_out(now());
        desk.pause();
        assert_eq!(desk.give_back(now()), [id(2), id(3)]);
        assert_eq!(desk.ids(), [id(1)]);
        assert_eq!(desk.handed_out(), 1);
        // A late answer goes back as well, but not what is still being handled.
        assert_eq!(desk.take_in(vec![entry(1), entry(4)]), [id(4)]);
        desk.resume();
        assert_eq!(desk.take_in(vec![entry(4)]), []);
        assert!(desk.next_at(now()).is_some());
    }

    #[test]
    fn what_came_back_untouched_goes_with_the_rest_while_it_is_ours() {
        let mut desk = Desk::new(5, OURS);
        let now = now();
        desk.take_in(vec![entry(1), entry(2), entry(3)]);
        for _ in 0..3 {
            desk.hand_out(now);
        }
        assert!(!desk.let_go(id(1), now));
        assert!(!desk.let_go(id(2), now + OURS));
        desk.pause();
        assert!(desk.let_go(id(3), now + OURS));
        assert_eq!(desk.handed_out(), 0);
        assert_eq!(desk.give_back(now + OURS), [id(2)]);
        assert_eq!(desk.give_back(now + OURS), []);
    }

    /// More may come back than fits on the desk, where a dead app refuses one after the other.
    #[test]
    fn all_that_came_back_untouched_goes_with_the_rest() {
        let mut desk = Desk::new(2, OURS);
        let now = now();
        for number in 0..10 {
            desk.take_in(vec![entry(number)]);
            desk.hand_out(now + REST);
            desk.let_go(id(number), now);
        }
        desk.pause();
        assert_eq!(desk.give_back(now).len(), 10);
    }

    #[test]
    fn nothing_is_handed_out_for_a_while_after_one_came_back_untouched() {
        let mut desk = Desk::new(5, OURS);
        let now = now();
        desk.take_in(vec![entry(1), entry(2), entry(3)]);
        desk.hand_out(now);
        desk.let_go(id(1), now);
        assert_eq!(desk.hand_out(now), None);
        let due = now + REST;
        assert_eq!(desk.next_at(now), Some(due));
        assert_eq!(desk.hand_out(due).map(|entry| entry.id), Some(id(2)));
        desk.let_go(id(2), due);
        desk.pause();
        assert_eq!(desk.next_at(due), None);
        desk.resume();
        assert_eq!(desk.hand_out(due).map(|entry| entry.id), Some(id(3)));
    }
}
