//! Entries that were fetched and are not acknowledged: ours, and those that nobody works on any more.
//!
//! All replicas of an application share one consumer name, so a pending entry does not tell whose it is; only its idle
//! time does. Hence two habits: what lies on our desk is refreshed all the time, and a stop gives entries back with an
//! idle time that nothing else has.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::desk::Desk;
use super::entry::{self, Entry, Id, Pending};
use super::group::lock;
use super::subscription::{Shared, add, millis};
use crate::error::Failure;
use crate::settings::Redelivery;

/// How often the collector looks for entries that others gave back.
const LOOK: Duration = Duration::from_secs(1);

/// The idle time of an entry that was given back. Nothing else has it, so that whoever finds it knows that it was never
/// handed out, takes it at once, and does not count a delivery. It is above every processing timeout, so that others,
/// Dapr among them, take it in their next round.
pub(super) const GIVEN_BACK: Duration = Duration::from_secs(1_000 * 24 * 60 * 60);

/// With more pending entries than these, what others gave back is only found in the regular round.
const MOST_TO_LOOK_AT: u64 = 10_000;

/// How many ids go into one command.
const IDS_AT_ONCE: usize = 500;

impl Shared {
    /// Makes entries that were not handed out free for others at once, their delivery count unchanged.
    pub(super) async fn give_back(&self, ids: Vec<Id>) {
        let _keeping = self.keeping.lock().await;
        for some in ids.chunks(IDS_AT_ONCE) {
            let mut command = self.claim_command(Duration::ZERO, some);
            command.arg("IDLE").arg(millis(GIVEN_BACK)).arg("JUSTID");
            if let Err(failure) = self.write(&command).await {
                debug!(topic = self.parts.topic, error = %failure, "messages were not given back and wait for their time");
            }
        }
        let mut progress = lock(&self.parts.progress);
        for id in ids {
            progress.given_back(id);
        }
    }

    /// Resets the idle time of everything on the desk, until the subscription is over and the last handler is done.
    pub(super) async fn keep(&self) {
        let Some(redelivery) = self.parts.settings.redelivery else {
            return;
        };
        let stop = self.parts.scope.stop();
        let mut desk = self.desk.subscribe();
        loop {
            let over = async {
                self.life.cancelled().await;
                desk.wait_for(|desk| desk.handed_out() == 0).await.ok();
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = over => return,
                () = sleep(redelivery.idle / 3) => {}
            }
            let _keeping = self.keeping.lock().await;
            let ids = self.desk.borrow().ids();
            for some in ids.chunks(IDS_AT_ONCE) {
                let mut command = self.claim_command(Duration::ZERO, some);
                command.arg("JUSTID");
                if let Err(failure) = self.write(&command).await {
                    debug!(topic = self.parts.topic, error = %failure, "idle times were not refreshed");
                }
            }
        }
    }

    /// Claims what nobody works on, and at shorter intervals what was given back.
    pub(super) async fn collect(&self) {
        let work = async {
            let mut due = Instant::now();
            let interval = self.parts.settings.redelivery.map(|times| times.interval);
            loop {
                self.desk
                    .subscribe()
                    .wait_for(|desk| !desk.is_paused())
                    .await
                    .ok();
                let now = Instant::now();
                let done = match self.parts.settings.redelivery {
                    Some(Redelivery { interval, idle }) if due <= now => {
                        due = now + interval;
                        self.sweep(idle).await
                    }
                    _ => self.look().await,
                };
                if let Err(failure) = done {
                    // The reader finds the same obstacle and deals with it.
                    debug!(topic = self.parts.topic, error = %failure, "pending messages were not looked at");
                }
                sleep(interval.unwrap_or(LOOK).min(LOOK)).await;
            }
        };
        tokio::select! {
            biased;
            () = self.life.cancelled() => {}
            () = work => {}
        }
    }

    /// Takes what others gave back, if there may be any: when more is pending than lies on our own desk.
    async fn look(&self) -> Result<(), Failure> {
        if !self.can_filter.load(Ordering::Relaxed) {
            return Ok(());
        }
        let here = self.desk.borrow().len() as u64;
        let mut question = redis::cmd("XPENDING");
        question
            .arg(&self.parts.topic)
            .arg(&self.parts.settings.group);
        let pending = match self.ask(&question).await? {
            Value::Array(facts) => match facts.first() {
                Some(Value::Int(count)) => u64::try_from(*count).unwrap_or(0),
                _ => return Err(Failure::odd("XPENDING")),
            },
            _ => return Err(Failure::odd("XPENDING")),
        };
        if pending <= here || pending > MOST_TO_LOOK_AT {
            return Ok(());
        }
        self.sweep(GIVEN_BACK).await
    }

    /// Claims every pending entry that nobody has worked on for so long.
    async fn sweep(&self, idle: Duration) -> Result<(), Failure> {
        let page_size = self.parts.settings.queue_depth;
        let mut start = None;
        loop {
            let page = self.pending(idle, start, page_size).await?;
            start = page.last().map(|last| last.id.after());
            let is_last = page.len() < page_size;
            let mut overdue: Vec<Pending> = {
                let desk = self.desk.borrow();
                page.into_iter()
                    .filter(|entry| is_overdue(entry, idle))
                    .filter(|entry| !desk.has(entry.id))
                    .collect()
            };
            while !overdue.is_empty() {
                let room = self.turn(Desk::begin_claim).await;
                let rest = overdue.split_off(room.min(overdue.len()));
                match self.claim(idle, &overdue).await {
                    Ok(entries) => self.take_in(entries, Desk::end_claim).await,
                    Err(failure) => {
                        self.desk.send_modify(Desk::end_claim);
                        return Err(failure);
                    }
                }
                overdue = rest;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn pending(
        &self,
        idle: Duration,
        start: Option<Id>,
        count: usize,
    ) -> Result<Vec<Pending>, Failure> {
        let mut question = redis::cmd("XPENDING");
        question
            .arg(&self.parts.topic)
            .arg(&self.parts.settings.group);
        if self.can_filter.load(Ordering::Relaxed) {
            question.arg("IDLE").arg(millis(idle));
        }
        match start {
            None => question.arg("-"),
            Some(id) => question.arg(id.to_string()),
        };
        question.arg("+").arg(count);
        match self.ask(&question).await {
            // Before Redis 6.2.
            Err(failure) if failure.is("ERR") && self.can_filter.swap(false, Ordering::Relaxed) => {
                Box::pin(self.pending(idle, start, count)).await
            }
            answer => entry::of_pending(answer?),
        }
    }

    /// Takes entries over, unless somebody was faster. Those that the stream no longer has are acknowledged away.
    async fn claim(&self, idle: Duration, overdue: &[Pending]) -> Result<Vec<Entry>, Failure> {
        let mut lots: BTreeMap<Option<u32>, Vec<Id>> = BTreeMap::new();
        for entry in overdue {
            let was_given_back = is_overdue(entry, GIVEN_BACK);
            let keep_count = was_given_back.then_some(entry.deliveries);
            lots.entry(keep_count).or_default().push(entry.id);
        }
        let mut entries = Vec::with_capacity(overdue.len());
        for (keep_count, ids) in lots {
            let mut command = self.claim_command(idle, &ids);
            if let Some(count) = keep_count {
                command.arg("RETRYCOUNT").arg(count);
            }
            entries.extend(entry::of_list(self.write(&command).await?, "XCLAIM")?);
        }
        entries.sort_unstable_by_key(|entry| entry.id);
        for entry in &mut entries {
            let known = overdue.iter().find(|known| known.id == entry.id);
            entry.delivery = match known {
                Some(known) if is_overdue(known, GIVEN_BACK) => known.deliveries.max(1),
                Some(known) => known.deliveries.saturating_add(1),
                None => entry.delivery,
            };
        }
        let missing: Vec<Id> = overdue
            .iter()
            .map(|known| known.id)
            .filter(|id| !entries.iter().any(|entry| entry.id == *id))
            .collect();
        self.forget_deleted(&missing).await;
        Ok(entries)
    }

    async fn forget_deleted(&self, ids: &[Id]) {
        if ids.is_empty() {
            return;
        }
        let topic = self.parts.topic.as_bytes();
        let questions = ids.iter().map(|id| {
            let mut question = redis::cmd("XRANGE");
            let id = id.to_string();
            question.arg(topic).arg(&id).arg(&id);
            (topic, question)
        });
        let client = &self.parts.client;
        let answers = client.batch(questions.collect(), client.read_limit()).await;
        let deleted: Vec<Id> = ids
            .iter()
            .zip(answers)
            .filter(|(_, answer)| matches!(answer, Ok(Value::Array(found)) if found.is_empty()))
            .map(|(id, _)| *id)
            .collect();
        if !deleted.is_empty() {
            self.acknowledge(&deleted).await;
        }
    }

    fn claim_command(&self, idle: Duration, ids: &[Id]) -> Cmd {
        let group = &self.parts.settings.group;
        let mut command = redis::cmd("XCLAIM");
        command.arg(&self.parts.topic).arg(group).arg(group);
        command.arg(millis(idle));
        add(&mut command, ids);
        command
    }
}

fn is_overdue(entry: &Pending, idle: Duration) -> bool {
    u128::from(entry.idle_millis) >= idle.as_millis()
}
