//! Bulk subscriptions: messages are gathered, the app gets them in one call, and each has an answer of its own.
//!
//! A batch goes out when it is full, or when its first message has waited long enough. The driver does not know of
//! batches: every message it hands out waits here for its own outcome.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use outrigger_component_api::{Handler, Message, Outcome};
use outrigger_core::cloud_event;
use outrigger_core::json::{Value, parse_all};
use outrigger_core::metadata::raw_payload;
use outrigger_lifecycle::{Scope, Stop};
use outrigger_policy::Failure;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use super::deliver::{Desk, SCOPE, dead_letter, trace_of};
use super::poison::Fingerprint;
use super::policy::{self, Delivered, Halt, Hold, Judge};
use super::subscription::Plan;
use crate::activity::Tally;
use crate::app::{
    AppChannel, BulkDelivery, BulkEntry, BulkEvent, BulkOptions, BulkVerdict, Verdict,
};
use crate::guard::whole_millis;

/// Gathers the messages of one bulk subscription.
pub(super) struct BulkHandler {
    queue: mpsc::Sender<Waiting>,
}

struct Waiting {
    message: Message,
    done: oneshot::Sender<Outcome>,
}

pub(super) struct BulkDesk {
    pub desk: Arc<Desk>,
    pub plan: Arc<Plan>,
    pub app: Arc<dyn AppChannel>,
    pub pubsub: Arc<str>,
    pub options: BulkOptions,
    pub hold: Arc<Hold>,
    pub halt: Halt,
    /// The subscription has been let go: what is still unfinished is the broker's again.
    pub over: Stop,
    /// Told of each message that goes back.
    pub released: watch::Sender<u64>,
    pub tally: Arc<Tally>,
}

impl BulkHandler {
    /// Starts gathering in `scope`. The queue holds one batch; drivers wait while it is full.
    pub(super) fn start(scope: &Scope, desk: BulkDesk) -> Self {
        let (queue, waiting) = mpsc::channel(desk.options.max_messages.max(1));
        let desk = Arc::new(desk);
        let batches = scope.clone();
        scope.spawn("pubsub.bulk", move |stop| async move {
            gather(desk, waiting, &batches, &stop).await
        });
        Self { queue }
    }
}

#[async_trait]
impl Handler for BulkHandler {
    async fn handle(&self, message: Message) -> Outcome {
        let (done, outcome) = oneshot::channel();
        if self.queue.send(Waiting { message, done }).await.is_err() {
            return Outcome::Released;
        }
        // A batch that is thrown away released its messages.
        outcome.await.unwrap_or(Outcome::Released)
    }
}

async fn gather(
    desk: Arc<BulkDesk>,
    mut waiting: mpsc::Receiver<Waiting>,
    scope: &Scope,
    stop: &outrigger_lifecycle::Stop,
) {
    loop {
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            first = waiting.recv() => first,
        };
        let Some(first) = first else { return };
        let mut batch = vec![first];
        let full = async {
            while batch.len() < desk.options.max_messages {
                match waiting.recv().await {
                    Some(next) => batch.push(next),
                    None => return,
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // What is gathered goes back at once, by way of its delivery.
            _ = desk.halt.halted() => {}
            _ = tokio::time::timeout(desk.options.max_await, full) => {}
        }
        let desk = desk.clone();
        scope.spawn_future("pubsub.bulk.batch", async move {
            let (messages, answers): (Vec<Message>, Vec<oneshot::Sender<Outcome>>) = batch
                .into_iter()
                .map(|waiting| (waiting.message, waiting.done))
                .unzip();
            for (answer, outcome) in answers.into_iter().zip(desk.process(messages).await) {
                answer.send(outcome).ok();
            }
        });
    }
}

/// An entry on its way through the batch.
struct Item {
    message: Message,
    entry_id: String,
    /// Decided already, without the app.
    verdict: Option<Verdict>,
    event: Option<BulkEvent>,
    /// If it fails it goes to the broker, whatever the subscription says of dead letters.
    goes_back: bool,
    /// A retry policy gave up on it.
    gave_up: bool,
    /// Nothing was to be handed out any more, for this reason.
    halted: Option<&'static str>,
}

/// Which entries of a batch are still to be delivered, and what was said of the others.
struct Pending {
    places: Vec<usize>,
    verdicts: HashMap<usize, Verdict>,
}

/// What policies make of one delivery of a batch.
struct BatchAnswer {
    /// One verdict for everything that was asked.
    whole: Option<Verdict>,
    /// Why it is to be delivered again.
    failure: Option<String>,
}

impl Judge for BatchAnswer {
    fn judged(&self) -> Option<Result<(), (Failure, String)>> {
        match (&self.whole, &self.failure) {
            (Some(whole), _) => whole.judged(),
            (None, Some(why)) => Some(Err((Failure::default(), why.clone()))),
            (None, None) => Some(Ok(())),
        }
    }

    fn timed_out() -> Self {
        Self {
            whole: Some(Verdict::timed_out()),
            failure: None,
        }
    }
}

impl Pending {
    /// Takes one answer: what succeeded is not delivered again.
    fn settle(&mut self, asked: &[usize], items: &[Item], answer: BulkVerdict) -> BatchAnswer {
        let each = match answer {
            BulkVerdict::All(verdict) => {
                return BatchAnswer {
                    whole: Some(verdict),
                    failure: None,
                };
            }
            BulkVerdict::Each(each) => each,
        };
        let mut failure = None;
        let mut open = Vec::new();
        for place in asked {
            let id = items.get(*place).map(|item| item.entry_id.as_str());
            let found = each.iter().find(|(known, _)| Some(known.as_str()) == id);
            let verdict = found.map_or_else(
                || Verdict::Retry("no status for this entry".to_owned()),
                |(_, verdict)| verdict.clone(),
            );
            if verdict.is_failure() {
                open.push(*place);
                if let Verdict::Retry(why) | Verdict::Refused(_, why) = &verdict {
                    failure.get_or_insert_with(|| why.clone());
                }
            }
            self.verdicts.insert(*place, verdict);
        }
        self.places = open;
        BatchAnswer {
            whole: None,
            failure,
        }
    }
}

impl BulkDesk {
    async fn process(&self, messages: Vec<Message>) -> Vec<Outcome> {
        let count = messages.len();
        let _share = self.tally.begin(count);
        tokio::select! {
            biased;
            // The request to the app ends with this.
            () = self.over.cancelled() => (0..count).map(|_| self.released("deadline")).collect(),
            outcomes = self.deliver(messages) => outcomes,
        }
    }

    /// The message goes back, neither done nor failed.
    fn released(&self, cause: &str) -> Outcome {
        let metrics = &self.desk.metrics;
        metrics.released_messages.add([&self.pubsub, cause], 1);
        self.released.send_modify(|count| *count += 1);
        Outcome::Released
    }

    async fn deliver(&self, messages: Vec<Message>) -> Vec<Outcome> {
        let mut items: Vec<Item> = Vec::with_capacity(messages.len());
        // One call per path, in the order of the paths.
        let mut groups: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        let raw = raw_payload(&self.plan.metadata).map_err(|value| {
            format!("rawPayload value must be a valid boolean: actual is '{value}'")
        });
        for message in messages {
            let mut item = Item {
                message,
                entry_id: uuid::Uuid::new_v4().to_string(),
                verdict: None,
                event: None,
                goes_back: false,
                gave_up: false,
                halted: None,
            };
            match self.prepare(&mut item, &raw).await {
                Ok(Some(path)) => groups.entry(path).or_default().push(items.len()),
                Ok(None) => {}
                Err(reason) => {
                    error!(target: SCOPE, pubsub = &*self.pubsub, topic = self.plan.topic, error = reason, "error deserializing one of the messages in bulk cloud event");
                    item.verdict = Some(Verdict::Retry(reason));
                }
            }
            items.push(item);
        }
        for (path, places) in groups {
            self.deliver_group(&path, &places, &mut items).await;
        }
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            outcomes.push(self.conclude(item).await);
        }
        outcomes
    }

    /// Decides what can be decided without the app; else the path to call.
    async fn prepare(
        &self,
        item: &mut Item,
        raw: &Result<bool, String>,
    ) -> Result<Option<Arc<str>>, String> {
        let (event, matched) = if raw.clone()? {
            // Dapr: rules of a raw bulk subscription see the bytes as one text.
            let text = Value::String(String::from_utf8_lossy(&item.message.data).into_owned());
            (BulkEvent::Raw(item.message.data.clone()), text)
        } else {
            let mut event = parse_all(&item.message.data).map_err(|error| error.to_string())?;
            if event.is_null() {
                event = Value::Object(Vec::new());
            }
            if event.as_object().is_none() {
                return Err(format!(
                    "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                    event.kind()
                ));
            }
            if cloud_event::has_expired(&event) {
                warn!(target: SCOPE, pubsub = &*self.pubsub, topic = self.plan.topic, "dropping expired pub/sub event");
                self.copy_quietly(&item.message).await;
                item.verdict = Some(Verdict::Forget("expired".to_owned()));
                return Ok(None);
            }
            (BulkEvent::Cloud(Arc::new(event.clone())), event)
        };
        match self.plan.rules.choose(&matched)? {
            Some(path) => {
                item.event = Some(event);
                Ok(Some(path))
            }
            None => {
                warn!(target: SCOPE, pubsub = &*self.pubsub, topic = self.plan.topic, "no matching route for event; skipping");
                self.copy_quietly(&item.message).await;
                item.verdict = Some(Verdict::Forget("no rule matches".to_owned()));
                Ok(None)
            }
        }
    }

    async fn deliver_group(&self, path: &Arc<str>, places: &[usize], items: &mut [Item]) {
        let started = Instant::now();
        let pending = Mutex::new(Pending {
            places: places.to_vec(),
            verdicts: HashMap::new(),
        });
        let attempt = || {
            let (pending, items) = (&pending, &*items);
            async move {
                let asked = pending
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .places
                    .clone();
                let delivery = self.delivery(path, &asked, items);
                let answer = self.app.deliver_bulk(&delivery).await;
                let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
                pending.settle(&asked, items, answer)
            }
        };
        let delivered =
            policy::deliver(&self.desk, &self.pubsub, &self.hold, &self.halt, attempt).await;
        let (mut goes_back, mut gave_up, mut halted) = (false, false, None);
        // What was not touched has the end's own verdict.
        let rest = match delivered {
            Delivered::Answer(batch) => batch.whole,
            Delivered::GaveUp(batch) => {
                gave_up = true;
                batch.whole
            }
            Delivered::Halted(why) => {
                halted = Some(why);
                Some(Verdict::Retry("nothing is handed out any more".to_owned()))
            }
            Delivered::Rejected { why, dead_letter } => {
                goes_back = !dead_letter;
                Some(Verdict::Retry(why))
            }
        };
        let elapsed = started.elapsed();
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut pending = pending.into_inner().unwrap_or_else(PoisonError::into_inner);
        for place in places {
            let Some(item) = items.get_mut(*place) else {
                continue;
            };
            let own = pending.verdicts.remove(place);
            let is_open = own.as_ref().is_none_or(Verdict::is_failure);
            let verdict = match (&rest, own) {
                (Some(rest), _) if is_open => rest.clone(),
                (_, Some(own)) => own,
                (_, None) => Verdict::Retry("no status for this entry".to_owned()),
            };
            *counts.entry(word(&verdict)).or_insert(0) += 1;
            item.verdict = Some(verdict);
            (item.goes_back, item.gave_up, item.halted) = (goes_back, gave_up, halted);
        }
        self.record(&counts, elapsed);
    }

    fn delivery(&self, path: &Arc<str>, places: &[usize], items: &[Item]) -> BulkDelivery {
        let entry = |place: &usize| {
            let item = items.get(*place)?;
            let event = item.event.clone()?;
            Some(BulkEntry {
                entry_id: item.entry_id.clone(),
                event,
                metadata: item.message.metadata.clone(),
            })
        };
        let entries: Vec<BulkEntry> = places.iter().filter_map(entry).collect();
        let trace_parent = entries.iter().rev().find_map(|entry| match &entry.event {
            BulkEvent::Cloud(event) => trace_of(event),
            BulkEvent::Raw(_) => None,
        });
        BulkDelivery {
            pubsub: self.pubsub.clone(),
            topic: self.plan.topic.as_str().into(),
            path: path.clone(),
            metadata: [("pubsubName".to_owned(), self.pubsub.to_string())].into(),
            entries,
            trace_parent,
        }
    }

    async fn conclude(&self, item: Item) -> Outcome {
        if let Some(why) = item.halted {
            return self.released(why);
        }
        let ending = *self.desk.ending.borrow();
        let has_copy = !self.plan.dead_letter_topic.is_empty() && !item.goes_back;
        match item.verdict.unwrap_or(Verdict::Success) {
            Verdict::Success | Verdict::Forget(_) => Outcome::Done,
            Verdict::Drop(_) if !has_copy => Outcome::Done,
            Verdict::Away(_) => self.away(),
            Verdict::Crashed(reason) => {
                let fingerprint =
                    Fingerprint::of(&self.pubsub, &self.plan.topic, &item.message.data);
                match self.desk.poison.crashed(fingerprint) {
                    None => self.away(),
                    Some(_) if ending => self.released("ending"),
                    Some(times) => {
                        (self.desk.away)();
                        warn!(target: SCOPE, pubsub = &*self.pubsub, topic = self.plan.topic, times, "the application has ended under this message: it counts as failed");
                        if !has_copy {
                            return Outcome::Retry(reason);
                        }
                        match self.copy(&item.message).await {
                            Ok(()) => Outcome::Done,
                            Err(_) => Outcome::Retry(reason),
                        }
                    }
                }
            }
            Verdict::Drop(reason) => match self.copy(&item.message).await {
                Ok(()) => Outcome::Done,
                Err(_) if ending => self.released("ending"),
                Err(_) => Outcome::Retry(reason),
            },
            Verdict::Retry(_) | Verdict::Refused(..) if ending => self.released("ending"),
            Verdict::Retry(reason) | Verdict::Refused(_, reason) if has_copy => {
                match self.copy(&item.message).await {
                    Ok(()) => Outcome::Done,
                    Err(_) => Outcome::Retry(reason),
                }
            }
            Verdict::Retry(reason) | Verdict::Refused(_, reason) if item.gave_up => {
                Outcome::GaveUp(reason)
            }
            Verdict::Retry(reason) | Verdict::Refused(_, reason) => Outcome::Retry(reason),
        }
    }

    /// The app is not there: the message goes back.
    fn away(&self) -> Outcome {
        (self.desk.away)();
        self.released("app_away")
    }

    async fn copy_quietly(&self, message: &Message) {
        if !self.plan.dead_letter_topic.is_empty() {
            self.copy(message).await.ok();
        }
    }

    async fn copy(&self, message: &Message) -> Result<(), String> {
        dead_letter(
            &self.desk,
            &self.pubsub,
            &self.plan.topic,
            &self.plan.dead_letter_topic,
            message.data.clone(),
            message.metadata.clone(),
        )
        .await
    }

    fn record(&self, counts: &BTreeMap<&'static str, u64>, elapsed: Duration) {
        let metrics = &self.desk.metrics;
        if !metrics.settings.enabled {
            return;
        }
        for (status, count) in counts {
            let labels = [
                &*self.pubsub,
                metrics.settings.namespace.as_str(),
                status,
                self.plan.topic.as_str(),
            ];
            metrics.pubsub_bulk_ingress_count.add(labels, 1);
            metrics.pubsub_bulk_ingress_events.add(labels, *count);
            metrics
                .pubsub_bulk_ingress_latencies
                .observe(labels, whole_millis(elapsed));
        }
    }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Success => "success",
        Verdict::Retry(_) | Verdict::Refused(..) | Verdict::Away(_) | Verdict::Crashed(_) => {
            "retry"
        }
        Verdict::Drop(_) | Verdict::Forget(_) => "drop",
    }
}
