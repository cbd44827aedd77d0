//! The consumer group of a topic, and how far we have come in it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use redis::Value;
use tracing::info;

use super::entry::Id;
use crate::client::Client;
use crate::error::Failure;

/// How far the entries of one topic are done.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Taken and not acknowledged.
    owed: BTreeSet<Id>,
    acknowledged: Option<Id>,
}

impl Progress {
    pub(super) fn taken(&mut self, id: Id) {
        self.owed.insert(id);
        if self.owed.len() > MOST_OWED {
            self.owed.pop_first();
        }
    }

    pub(super) fn acknowledged(&mut self, id: Id) {
        self.owed.remove(&id);
        self.acknowledged = self.acknowledged.max(Some(id));
    }

    /// Somebody else may take it now.
    pub(super) fn given_back(&mut self, id: Id) {
        self.owed.remove(&id);
    }

    /// The last id before which nothing of ours is open.
    fn mark(&self) -> Option<Id> {
        let acknowledged = self.acknowledged?;
        Some(match self.owed.first() {
            Some(owed) => acknowledged.min(owed.before()),
            None => acknowledged,
        })
    }
}

/// Failed messages are owed until they succeed; of more than these the oldest are forgotten.
const MOST_OWED: usize = 10_000;

/// The progress of every topic, kept from one connection to the next.
#[derive(Clone, Default)]
pub(super) struct Memory {
    topics: Arc<Mutex<HashMap<String, Arc<Mutex<Progress>>>>>,
}

impl Memory {
    pub(super) fn of(&self, topic: &str) -> Arc<Mutex<Progress>> {
        let mut topics = lock(&self.topics);
        topics.entry(topic.to_owned()).or_default().clone()
    }
}

/// Creates the group if it is missing, and the stream with it. A group that was lost begins where we were; otherwise, and
/// where the stream itself was lost, at its oldest entry.
pub(super) async fn create(
    client: &Client,
    topic: &str,
    group: &str,
    progress: &Mutex<Progress>,
) -> Result<(), Failure> {
    let mark = lock(progress).mark();
    let start = match mark {
        Some(mark) if reaches(client, topic, mark).await? => mark.to_string(),
        _ => "0".to_owned(),
    };
    let mut create = redis::cmd("XGROUP");
    create.arg("CREATE").arg(topic).arg(group);
    create.arg(&start).arg("MKSTREAM");
    match client
        .call(topic.as_bytes(), &create, client.write_limit())
        .await
    {
        Ok(_) => {
            info!(topic, group, start, "consumer group created");
            Ok(())
        }
        Err(failure) if failure.is("BUSYGROUP") => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Whether the stream has given out `id`. If not, it is another stream than the one we know.
async fn reaches(client: &Client, topic: &str, id: Id) -> Result<bool, Failure> {
    let mut question = redis::cmd("XINFO");
    question.arg("STREAM").arg(topic);
    let answer = client
        .call(topic.as_bytes(), &question, client.read_limit())
        .await;
    let facts = match answer {
        Ok(Value::Array(facts)) => facts,
        Ok(_) => return Err(Failure::odd("XINFO STREAM")),
        Err(Failure::Refused(_)) => return Ok(false),
        Err(failure) => return Err(failure),
    };
    let last = facts.chunks_exact(2).find_map(|fact| match fact {
        [Value::BulkString(name), Value::BulkString(value)] if name == b"last-generated-id" => {
            Id::read(value)
        }
        _ => None,
    });
    Ok(last.is_some_and(|last| id <= last))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(millis: u64) -> Id {
        Id { millis, number: 0 }
    }

    #[test]
    fn the_mark_stays_before_what_is_open() {
        let mut progress = Progress::default();
        assert_eq!(progress.mark(), None);
        for n in 1..=3 {
            progress.taken(id(n));
        }
        progress.acknowledged(id(3));
        assert_eq!(progress.mark(), Some(id(1).before()));
        progress.acknowledged(id(1));
        assert_eq!(progress.mark(), Some(id(2).before()));
        progress.acknowledged(id(2));
        assert_eq!(progress.mark(), Some(id(3)));
    }

    #[test]
    fn what_was_given_back_is_not_waited_for() {
        let mut progress = Progress::default();
        progress.taken(id(1));
        progress.taken(id(2));
        progress.acknowledged(id(2));
        progress.given_back(id(1));
        assert_eq!(progress.mark(), Some(id(2)));
    }

    #[test]
    fn what_is_owed_is_bounded() {
        let mut progress = Progress::default();
        for n in 0..20_000 {
            progress.taken(id(n));
        }
        assert_eq!(progress.owed.len(), MOST_OWED);
    }
}
