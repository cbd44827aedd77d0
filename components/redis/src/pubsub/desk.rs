//! What a subscription has on its desk, as decisions: what waits, what is handed out, who may fetch more.
//!
//! Never: waits, sends or reads a clock. The tasks of `subscription.rs` watch it and act.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{Entry, Id};

#[derive(Debug)]
pub(super) struct Desk {
    depth: usize,
    waiting: VecDeque<Entry>,
    /// Ids that wait or are handed out: nobody else is to take them, least of all we ourselves.
    here: BTreeSet<Id>,
    handed_out: usize,
    /// Handed out and returned untouched, and when: they stay pending, and are given back with the others.
    let_go: VecDeque<(Id, Instant)>,
    paused: bool,
    /// What is fetched is to be given back, even what arrives late.
    returning: bool,
    /// A read is under way; its entries are ours even if we no longer want them.
    reading: bool,
    claiming: bool,
}

impl Desk {
    /// A desk on which up to `depth` entries may wait before fetching stops.
    pub(super) fn new(depth: usize) -> Self {
        Self {
            depth,
            waiting: VecDeque::new(),
            here: BTreeSet::new(),
            handed_out: 0,
            let_go: VecDeque::new(),
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

    pub(super) fn has_next(&self) -> bool {
        !self.paused && !self.waiting.is_empty()
    }

    /// Hands the oldest entry out.
    pub(super) fn hand_out(&mut self) -> Option<Entry> {
        if self.paused {
            return None;
        }
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
            self.let_go.push_back((id, now));
            if self.let_go.len() > self.depth {
                self.let_go.pop_front();
            }
        }
        self.paused
    }

    /// Empties the line, for good as long as the pause lasts. What was let go longer than `ours` ago may be in other
    /// hands by now.
    pub(super) fn give_back(&mut self, now: Instant, ours: Duration) -> Vec<Id> {
        self.returning = true;
        let mut ids: Vec<Id> = self.waiting.drain(..).map(|entry| entry.id).collect();
        for id in &ids {
            self.here.remove(id);
        }
        let here = &self.here;
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

    #[test]
    fn fetching_stops_when_the_line_is_full() {
        let mut desk = Desk::new(2);
        assert_eq!(desk.begin_read(), Some(2));
        assert!(!desk.is_still());
        desk.take_in(vec![entry(1), entry(2)]);
        desk.end_read();
        assert_eq!(desk.begin_read(), None);
        assert!(desk.is_still());
        assert_eq!(desk.hand_out().map(|entry| entry.id), Some(id(1)));
        assert_eq!(desk.begin_claim(), Some(1));
        assert_eq!(desk.handed_out(), 1);
    }

    #[test]
    fn an_entry_is_never_on_the_desk_twice() {
        let mut desk = Desk::new(5);
        desk.take_in(vec![entry(1)]);
        desk.hand_out();
        desk.take_in(vec![entry(1), entry(2)]);
        assert_eq!(desk.hand_out().map(|entry| entry.id), Some(id(2)));
        assert_eq!(desk.hand_out(), None);
        desk.settle(id(1));
        assert!(!desk.has(id(1)) && desk.has(id(2)));
    }

    #[test]
    fn a_pause_hands_nothing_out_and_fetches_nothing() {
        let mut desk = Desk::new(5);
        desk.take_in(vec![entry(1)]);
        desk.pause();
        assert!(!desk.has_next());
        assert_eq!(desk.hand_out(), None);
        assert_eq!(desk.begin_read(), None);
        desk.resume();
        assert!(desk.has_next());
    }

    #[test]
    fn what_is_given_back_is_not_ours_any_more() {
        let mut desk = Desk::new(5);
        desk.take_in(vec![entry(1), entry(2), entry(3)]);
        desk.hand_out();
        desk.pause();
        assert_eq!(desk.give_back(Instant::now(), OURS), [id(2), id(3)]);
        assert_eq!(desk.ids(), [id(1)]);
        assert_eq!(desk.handed_out(), 1);
        // A late answer goes back as well, but not what is still being handled.
        assert_eq!(desk.take_in(vec![entry(1), entry(4)]), [id(4)]);
        desk.resume();
        assert_eq!(desk.take_in(vec![entry(4)]), []);
        assert!(desk.has_next());
    }
    #[test]
    fn what_came_back_untouched_goes_with_the_rest_while_it_is_ours() {
        let mut desk = Desk::new(5);
        let now = Instant::now();
        desk.take_in(vec![entry(1), entry(2), entry(3)]);
        for _ in 0..3 {
            desk.hand_out();
        }
        assert!(!desk.let_go(id(1), now));
        assert!(!desk.let_go(id(2), now + OURS));
        desk.pause();
        assert!(desk.let_go(id(3), now + OURS));
        assert_eq!(desk.handed_out(), 0);
        assert_eq!(desk.give_back(now + OURS, OURS), [id(2)]);
        assert_eq!(desk.give_back(now + OURS, OURS), []);
    }
}
