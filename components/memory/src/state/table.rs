//! The values, in shards.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use outrigger_component_api::{
    Bytes, ComponentError, Concurrency, Delete, ErrorKind, Metadata, Operation, Set, StateItem,
    ttl_in_seconds,
};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

/// A power of two. Enough that the threads of a sidecar rarely meet in one.
const SHARDS: usize = 64;

/// How many expired values one hold of a shard's lock removes.
const SWEPT_AT_ONCE: usize = 256;

/// All values of one component.
pub(crate) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    /// Every write takes the next one, so that keys have an order over all shards.
    next_index: AtomicU64,
    /// How many values can expire.
    ends: AtomicUsize,
    ends_exist: Notify,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Arc<str>, Entry>,
    /// The keys that can expire, the next one first. The index tells equal ends apart.
    ends: BTreeMap<(Instant, u64), Arc<str>>,
}

#[derive(Clone)]
struct Entry {
    data: Bytes,
    etag: Uuid,
    index: u64,
    end: Option<End>,
}

/// When a value ends: by the clock that decides, and by the one that callers are told.
#[derive(Clone, Copy)]
struct End {
    at: Instant,
    told: DateTime<Utc>,
}

impl End {
    /// The value stays up to and including this instant.
    fn has_passed(&self) -> bool {
        Instant::now() > self.at
    }
}

/// The shards that a transaction concerns, locked, in their order.
struct Held<'a> {
    shards: Vec<(usize, MutexGuard<'a, Shard>)>,
}

impl Held<'_> {
    /// The shard of a key; there for every key of the transaction.
    fn shard(&mut self, key: &str) -> Option<&mut Shard> {
        let number = shard_of(key);
        let place = self
            .shards
            .binary_search_by_key(&number, |(number, _)| *number)
            .ok()?;
        self.shards.get_mut(place).map(|(_, shard)| &mut **shard)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            next_index: AtomicU64::new(0),
            ends: AtomicUsize::new(0),
            ends_exist: Notify::new(),
        }
    }
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<StateItem> {
        let entry = self.shard(key).live(key)?.clone();
        // The lock is gone here: what follows is formatting.
        let metadata = entry.end.map_or_else(Metadata::new, |end| {
            let text = end.told.to_rfc3339_opts(SecondsFormat::Secs, true);
            Metadata::from([("ttlExpireTime".to_owned(), text)])
        });
        Some(StateItem {
            data: entry.data,
            etag: Some(entry.etag.to_string()),
            metadata,
        })
    }

    pub(crate) fn set(&self, request: &Set) -> Result<(), ComponentError> {
        let entry = self.entry(request)?;
        self.shard(&request.key).set(self, request, entry)
    }

    pub(crate) fn delete(&self, request: &Delete) -> Result<(), ComponentError> {
        self.shard(&request.key).delete(self, request)
    }

    /// All operations or none. Holds the locks of all shards concerned, taken in their order so that two transactions
    /// cannot wait for each other.
    pub(crate) fn transact(&self, operations: &[Operation]) -> Result<(), ComponentError> {
        let mut prepared = Vec::with_capacity(operations.len());
        for operation in operations {
            let entry = match operation {
                Operation::Set(set) => Some(self.entry(set)?),
                Operation::Delete(_) => None,
            };
            prepared.push((operation, entry));
        }
        let mut numbers: Vec<usize> = operations
            .iter()
            .map(|operation| shard_of(operation.key()))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut held = Held {
            shards: numbers
                .into_iter()
                .filter_map(|number| Some((number, lock(self.shards.get(number)?))))
                .collect(),
        };

        let mut undone = Vec::with_capacity(operations.len());
        for (operation, entry) in prepared {
            let key = operation.key();
            let Some(shard) = held.shard(key) else {
                continue;
            };
            let before = shard.entries.get(key).cloned();
            let applied = match (operation, entry) {
                (Operation::Set(set), Some(entry)) => shard.set(self, set, entry),
                (Operation::Set(_), None) => Ok(()),
                (Operation::Delete(delete), _) => shard.delete(self, delete),
            };
            if let Err(error) = applied {
                for (key, before) in undone.into_iter().rev() {
                    if let Some(shard) = held.shard(key) {
                        shard.replace(self, key, before);
                    }
                }
                return Err(error);
            }
            undone.push((key, before));
        }
        Ok(())
    }

    /// Removes keys that begin with `prefix` and have no `||` behind it. Not one step for all shards: a key that is written
    /// meanwhile may stay.
    pub(crate) fn delete_with_prefix(&self, prefix: &str) -> u64 {
        let mut count = 0;
        for shard in &self.shards {
            let mut shard = lock(shard);
            let gone: Vec<Arc<str>> = shard
                .entries
                .iter()
                .filter(|(key, entry)| {
                    entry.is_live()
                        && key
                            .strip_prefix(prefix)
                            .is_some_and(|rest| !rest.contains("||"))
                })
                .map(|(key, _)| Arc::clone(key))
                .collect();
            for key in gone {
                shard.replace(self, &key, None);
                count += 1;
            }
        }
        count
    }

    /// Live keys from an index on, in the order of their indexes.
    pub(crate) fn keys(&self, from: u64, matches: impl Fn(&str) -> bool) -> Vec<(u64, Arc<str>)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let fitting = shard
                .entries
                .iter()
                .filter(|(key, entry)| entry.index >= from && entry.is_live() && matches(key));
            found.extend(fitting.map(|(key, entry)| (entry.index, Arc::clone(key))));
        }
        found.sort_unstable_by_key(|(index, _)| *index);
        found
    }

    /// Completes when there is a value that can expire.
    pub(crate) async fn has_ends(&self) {
        loop {
            let change = self.ends_exist.notified();
            if self.ends.load(Ordering::SeqCst) > 0 {
                return;
            }
            change.await;
        }
    }

    /// Removes what has expired.
    pub(crate) fn sweep(&self) {
        for shard in &self.shards {
            while lock(shard).sweep(self) == SWEPT_AT_ONCE {}
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).entries.len())
            .sum()
    }

    #[cfg(test)]
    pub(crate) fn ends(&self) -> usize {
        let listed: usize = self.shards.iter().map(|shard| lock(shard).ends.len()).sum();
        assert_eq!(listed, self.ends.load(Ordering::SeqCst));
        listed
    }

    fn entry(&self, request: &Set) -> Result<Entry, ComponentError> {
        let seconds = ttl_in_seconds(&request.metadata)?;
        // Negative numbers mean the same as none; so does a time so far away that no clock can show it.
        let end = seconds.filter(|seconds| *seconds > 0).and_then(|seconds| {
            let ttl = Duration::from_secs(seconds.unsigned_abs());
            Some(End {
                at: Instant::now().checked_add(ttl)?,
                told: Utc::now().checked_add_signed(chrono::Duration::from_std(ttl).ok()?)?,
            })
        });
        Ok(Entry {
            data: request.value.bytes().clone(),
            etag: Uuid::new_v4(),
            index: self.next_index.fetch_add(1, Ordering::Relaxed),
            end,
        })
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let [first, ..] = &self.shards;
        lock(self.shards.get(shard_of(key)).unwrap_or(first))
    }
}

impl Entry {
    fn is_live(&self) -> bool {
        !self.end.is_some_and(|end| end.has_passed())
    }
}

impl Shard {
    fn live(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key).filter(|entry| entry.is_live())
    }

    fn set(&mut self, table: &Table, request: &Set, entry: Entry) -> Result<(), ComponentError> {
        self.permits(&request.key, request.etag.as_deref(), request.concurrency)?;
        self.replace(table, &request.key, Some(entry));
        Ok(())
    }

    fn delete(&mut self, table: &Table, request: &Delete) -> Result<(), ComponentError> {
        self.permits(&request.key, request.etag.as_deref(), request.concurrency)?;
        self.replace(table, &request.key, None);
        Ok(())
    }

    // Dapr: components-contrib/state/in-memory/in_memory.go has these texts; callers see them.
    fn permits(
        &self,
        key: &str,
        etag: Option<&str>,
        concurrency: Concurrency,
    ) -> Result<(), ComponentError> {
        let Some(etag) = etag.filter(|etag| !etag.is_empty()) else {
            return if concurrency == Concurrency::FirstWrite && self.live(key).is_some() {
                Err(mismatch("item already exists and no etag was passed"))
            } else {
                Ok(())
            };
        };
        let Some(entry) = self.live(key) else {
            let why = format!("state not exist or expired for key={key}");
            return Err(mismatch(&why));
        };
        let current = entry.etag.hyphenated();
        if etag == current.encode_lower(&mut Uuid::encode_buffer()) {
            return Ok(());
        }
        Err(mismatch(&format!(
            "state etag not match for key={key}: current={current}, expect={etag}"
        )))
    }

    /// Puts an entry in place of what is there, or removes it, and keeps the ends in step.
    fn replace(&mut self, table: &Table, key: &str, entry: Option<Entry>) {
        let before = match entry {
            None => self.entries.remove(key),
            Some(entry) => {
                let end = entry.end.map(|end| (end.at, entry.index));
                let before = match self.entries.get_mut(key) {
                    Some(slot) => Some(std::mem::replace(slot, entry)),
                    None => self.entries.insert(key.into(), entry),
                };
                if let (Some(end), Some((name, _))) = (end, self.entries.get_key_value(key)) {
                    self.ends.insert(end, Arc::clone(name));
                    table.ends.fetch_add(1, Ordering::SeqCst);
                    table.ends_exist.notify_waiters();
                }
                before
            }
        };
        if let Some(Entry {
            index,
            end: Some(end),
            ..
        }) = before
            && self.ends.remove(&(end.at, index)).is_some()
        {
            table.ends.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Removes some of what has expired and tells how much.
    fn sweep(&mut self, table: &Table) -> usize {
        let now = Instant::now();
        let gone: Vec<Arc<str>> = self
            .ends
            .range(..(now, 0))
            .take(SWEPT_AT_ONCE)
            .map(|(_, key)| Arc::clone(key))
            .collect();
        for key in &gone {
            self.replace(table, key, None);
        }
        gone.len()
    }
}

fn mismatch(why: &str) -> ComponentError {
    let prefix = ComponentError::etag_mismatch().message;
    ComponentError::new(ErrorKind::EtagMismatch, format!("{prefix}: {why}"))
}

/// Only spreads keys over shards; the map inside has its own, keyed hash.
fn shard_of(key: &str) -> usize {
    let mixed = key.bytes().fold(0_u32, |mixed, byte| {
        (mixed ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (mixed >> 16) as usize % SHARDS
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
