//! One running subscription.
//!
//! Four tasks around a [`Desk`]: the reader fetches new entries on a connection of its own, the collector claims pending
//! ones, the dispatcher hands out, the keeper tells the server that what is on the desk is still being worked on. Each
//! handler is a task of its own. An entry is acknowledged only after its handler said so.
//! Collector and keeper are in `pending.rs`, the handle that stops it all in `source.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use outrigger_component_api::{ComponentError, Handler, Message, Outcome, Scope, Source, Stop};
use redis::{Cmd, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::desk::Desk;
use super::entry::{self, Entry, Id};
use super::group::{self, Progress, lock};
use super::pending::GIVEN_BACK;
use super::source::Running;
use crate::client::{Client, Link};
use crate::error::Failure;
use crate::settings::PubSub as Settings;

/// Neither an answer without messages nor a lost group makes the reader ask more often than this.
const SHORTEST_ROUND: Duration = Duration::from_millis(50);

/// What a subscription is made of.
pub(super) struct Parts {
    pub client: Client,
    pub settings: Arc<Settings>,
    pub topic: String,
    pub handler: Arc<dyn Handler>,
    pub scope: Scope,
    pub progress: Arc<std::sync::Mutex<Progress>>,
}

/// What the tasks and the handle have in common.
pub(super) struct Shared {
    pub parts: Parts,
    pub desk: watch::Sender<Desk>,
    /// Why the reader ended, once it has.
    pub ended: watch::Sender<Option<ComponentError>>,
    /// Ends the tasks, but for handlers.
    pub life: Stop,
    /// Held while idle times are set, so that a refresh does not undo what a stop gave back.
    pub keeping: tokio::sync::Mutex<()>,
    /// XPENDING of this server can filter by idle time.
    pub can_filter: AtomicBool,
    /// Entries whose handlers run, or whose end the server is being told.
    pub in_work: AtomicUsize,
}

/// Creates the group, connects the reader and starts the tasks.
pub(super) async fn start(parts: Parts) -> Result<Box<dyn Source>, ComponentError> {
    let topic = parts.topic.as_bytes();
    let settings = &parts.settings;
    group::create(
        &parts.client,
        &parts.topic,
        &settings.group,
        &parts.progress,
    )
    .await
    .map_err(|failure| failure.during("redis streams"))?;
    let owner = parts.client.owner(topic).map_err(Failure::into_error)?;
    let reader = parts.client.dedicated(&owner).await?;
    // Where this is forbidden, a stop waits until the read that blocks has come back.
    let mut question = redis::cmd("CLIENT");
    question.arg("ID");
    let reader_id = match reader.send(&question, parts.client.read_limit()).await {
        Ok(Value::Int(id)) => Some(id),
        _ => None,
    };
    let ours = settings
        .redelivery
        .map_or(GIVEN_BACK, |times| times.idle / 2);
    let shared = Arc::new(Shared {
        desk: watch::Sender::new(Desk::new(settings.queue_depth, ours)),
        ended: watch::Sender::new(None),
        life: parts.scope.stop().child_token(),
        keeping: tokio::sync::Mutex::default(),
        can_filter: AtomicBool::new(true),
        in_work: AtomicUsize::new(0),
        parts,
    });
    let scope = &shared.parts.scope;
    let (a, b, c, d) = (
        shared.clone(),
        shared.clone(),
        shared.clone(),
        shared.clone(),
    );
    scope.spawn_future("pubsub.redis/reader", async move { a.read(&reader).await });
    scope.spawn_future("pubsub.redis/dispatcher", async move { b.dispatch().await });
    scope.spawn_future("pubsub.redis/collector", async move { c.collect().await });
    scope.spawn_future("pubsub.redis/keeper", async move { d.keep().await });
    Ok(Box::new(Running {
        shared,
        owner,
        reader_id,
    }))
}

impl Shared {
    async fn read(&self, link: &Link) {
        let error = tokio::select! {
            biased;
            () = self.life.cancelled() => return,
            error = self.read_until_failure(link) => error,
        };
        self.ended.send_replace(Some(error));
    }

    async fn read_until_failure(&self, link: &Link) -> ComponentError {
        let settings = &self.parts.settings;
        let grace = self.parts.client.read_limit();
        let limit = settings.block + grace.unwrap_or(Duration::from_secs(5));
        loop {
            let room = self.turn(Desk::begin_read).await;
            let mut command = redis::cmd("XREADGROUP");
            command
                .arg("GROUP")
                .arg(&settings.group)
                .arg(&settings.group);
            command.arg("COUNT").arg(room);
            command.arg("BLOCK").arg(millis(settings.block));
            command.arg("STREAMS").arg(&self.parts.topic).arg(">");
            let asked = Instant::now();
            let fetched = link
                .send(&command, Some(limit))
                .await
                .and_then(entry::of_read);
            let failure = match fetched {
                Ok(entries) => {
                    let is_early = entries.is_empty() && asked.elapsed() < SHORTEST_ROUND;
                    self.take_in(entries, Desk::end_read).await;
                    if is_early {
                        sleep(SHORTEST_ROUND).await;
                    }
                    continue;
                }
                Err(failure) => failure,
            };
            self.desk.send_modify(Desk::end_read);
            if !failure.is("NOGROUP") && !failure.is("UNBLOCKED") {
                return failure.during("redis streams");
            }
            warn!(topic = self.parts.topic, group = settings.group, error = %failure, "consumer group lost, creating it again");
            if let Err(failure) = self.create_group().await {
                return failure.during("redis streams");
            }
            sleep(SHORTEST_ROUND).await;
        }
    }

    async fn create_group(&self) -> Result<(), Failure> {
        let Parts {
            client,
            settings,
            topic,
            progress,
            ..
        } = &self.parts;
        group::create(client, topic, &settings.group, progress).await
    }

    /// Waits until the desk agrees to a fetch, and begins it.
    pub(super) async fn turn(&self, begin: fn(&mut Desk) -> Option<usize>) -> usize {
        let mut desk = self.desk.subscribe();
        loop {
            // The sender lives as long as we do.
            desk.wait_for(|desk| desk.room() > 0).await.ok();
            let mut room = None;
            self.desk.send_if_modified(|desk| {
                room = begin(desk);
                room.is_some()
            });
            if let Some(room) = room {
                return room;
            }
        }
    }

    /// Puts fetched entries on the desk and notes that the fetch is over.
    pub(super) async fn take_in(&self, entries: Vec<Entry>, end: fn(&mut Desk)) {
        let ids: Vec<Id> = entries.iter().map(|entry| entry.id).collect();
        let mut late = Vec::new();
        self.desk.send_modify(|desk| {
            late = desk.take_in(entries);
            if late.is_empty() {
                end(desk);
            }
        });
        {
            let mut progress = lock(&self.parts.progress);
            for id in ids {
                progress.taken(id);
            }
        }
        if !late.is_empty() {
            self.give_back(late).await;
            self.desk.send_modify(end);
        }
    }

    async fn dispatch(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(self.parts.settings.concurrency));
        let mut desk = self.desk.subscribe();
        loop {
            let permit = tokio::select! {
                biased;
                () = self.life.cancelled() => return,
                permit = permits.clone().acquire_owned() => permit,
            };
            // Nobody closes the semaphore.
            let Ok(permit) = permit else { return };
            let entry = loop {
                let mut next = None;
                self.desk.send_if_modified(|desk| {
                    next = desk.hand_out(Instant::now());
                    next.is_some()
                });
                if let Some(entry) = next {
                    break entry;
                }
                // What changed since the last look is seen here, or ends the wait.
                let due = desk.borrow_and_update().next_at(Instant::now());
                tokio::select! {
                    biased;
                    () = self.life.cancelled() => return,
                    _ = desk.changed() => {}
                    () = until(due) => {}
                }
            };
            let handling = self.clone().handle(entry, permit);
            self.parts
                .scope
                .spawn_future("pubsub.redis/handler", handling);
        }
    }

    async fn handle(self: Arc<Self>, entry: Entry, permit: OwnedSemaphorePermit) {
        let id = entry.id;
        self.in_work.fetch_add(1, Ordering::AcqRel);
        let held = Held { shared: &self, id };
        let message = Message {
            topic: self.parts.topic.clone(),
            data: entry.data,
            metadata: entry.metadata,
            delivery: entry.delivery,
        };
        match self.parts.handler.handle(message).await {
            Outcome::Done | Outcome::GaveUp(_) => self.acknowledge(&[id]).await,
            Outcome::Retry(reason) => {
                debug!(topic = self.parts.topic, id = %id, reason, "message stays pending");
            }
            Outcome::Released => {
                let mut is_stopping = false;
                self.desk
                    .send_modify(|desk| is_stopping = desk.let_go(id, Instant::now()));
                if is_stopping {
                    self.give_back(vec![id]).await;
                }
            }
        }
        drop(held);
        drop(permit);
    }

    pub(super) async fn acknowledge(&self, ids: &[Id]) {
        let mut command = redis::cmd("XACK");
        command
            .arg(&self.parts.topic)
            .arg(&self.parts.settings.group);
        add(&mut command, ids);
        match self.write(&command).await {
            Ok(_) => {
                let mut progress = lock(&self.parts.progress);
                for id in ids {
                    progress.acknowledged(*id);
                }
            }
            Err(failure) => {
                debug!(topic = self.parts.topic, error = %failure, "acknowledgement dropped, the message will come again");
            }
        }
    }

    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Failure> {
        let client = &self.parts.client;
        client
            .call(self.parts.topic.as_bytes(), command, client.read_limit())
            .await
    }

    pub(super) async fn write(&self, command: &Cmd) -> Result<Value, Failure> {
        let client = &self.parts.client;
        client
            .call(self.parts.topic.as_bytes(), command, client.write_limit())
            .await
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

pub(super) fn add(command: &mut Cmd, ids: &[Id]) {
    for id in ids {
        command.arg(id.to_string());
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An entry that is being handled; it leaves the desk even if its handler panics.
struct Held<'a> {
    shared: &'a Shared,
    id: Id,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.shared.desk.send_modify(|desk| desk.settle(self.id));
        self.shared.in_work.fetch_sub(1, Ordering::AcqRel);
    }
}
