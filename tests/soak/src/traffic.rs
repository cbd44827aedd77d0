//! The load, and what becomes of every single request.
//!
//! Owns: publishers, writers of state and callers at a steady pace; the [`Books`] that they and the apps fill.
//! Never: hurts anything. Start at [`Traffic::start`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outrigger_e2e::http::{Answer, Pool, Request};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::app::METHOD;
use crate::ledger::{Key, Messages, Told, Topic};
use crate::plan::{Node, Part};
use crate::world::RECEIVER;

/// A client waits so long for an answer. The longest bound of ours is that of a publish, 30 s.
const PATIENCE: Duration = Duration::from_secs(45);
/// Beyond so many requests under way the next ones are left out, one kind at one sidecar.
const MOST_UNDER_WAY: usize = 400;
/// Connections to a sidecar that may be idle.
const IDLE: usize = 8;
/// Keys that each caller writes at a time.
const WRITERS: usize = 5;
/// How long the effect of something that was hurt may be seen after it was healed: connections that break late.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Odd things beyond these are counted only.
const KEPT_ODD: usize = 50;

/// What is done again and again, and where. Each has to work again after a fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Activity {
    /// Through a caller's sidecar.
    Publish(Topic, Node),
    State(Node),
    Invoke(Node),
    /// At a receiver.
    Deliver(Topic, Node),
}

impl Activity {
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for node in Node::CALLERS {
            all.extend([Self::State(node), Self::Invoke(node)]);
            all.extend(Topic::ALL.map(|topic| Self::Publish(topic, node)));
        }
        for node in Node::RECEIVERS {
            all.extend(Topic::ALL.map(|topic| Self::Deliver(topic, node)));
        }
        all
    }

    /// What the counts are kept under.
    fn name(self) -> &'static str {
        match self {
            Self::Publish(Topic::Rabbit, _) => "publish rabbit",
            Self::Publish(Topic::Stream, _) => "publish stream",
            Self::State(_) => "state",
            Self::Invoke(_) => "invoke",
            Self::Deliver(..) => "deliver",
        }
    }
}

/// What was answered, and how often, under the name of an activity.
pub(crate) type Tally = BTreeMap<(&'static str, String), usize>;

/// Everything that was seen.
#[derive(Debug)]
pub(crate) struct Books {
    began: Instant,
    messages: [Mutex<Messages>; 2],
    /// When each activity succeeded: begin and end.
    successes: Mutex<BTreeMap<Activity, Vec<(Duration, Duration)>>>,
    tally: Mutex<Tally>,
    odd: Mutex<(usize, Vec<String>)>,
    disturbances: Mutex<Vec<Disturbance>>,
    pools: Mutex<BTreeMap<Node, Arc<Pool>>>,
    /// Keys that nobody writes any more.
    keys: Mutex<Vec<Key>>,
    /// Nothing is hurt, and everything has come back.
    calm: AtomicBool,
    refused_in_calm: Mutex<Vec<String>>,
}

/// A time in which a sidecar may leave clients without an answer.
#[derive(Debug)]
struct Disturbance {
    node: Node,
    from: Instant,
    to: Option<Instant>,
}

enum Fate {
    Good(Answer),
    Refused,
    Nothing,
}

impl Books {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            messages: Default::default(),
            successes: Mutex::default(),
            tally: Mutex::default(),
            odd: Mutex::default(),
            disturbances: Mutex::default(),
            pools: Mutex::default(),
            keys: Mutex::default(),
            calm: AtomicBool::new(false),
            refused_in_calm: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn messages(&self, topic: Topic) -> MutexGuard<'_, Messages> {
        let [rabbit, stream] = &self.messages;
        lock(match topic {
            Topic::Rabbit => rabbit,
            Topic::Stream => stream,
        })
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// How many odd things there were, and the first of them.
    pub(crate) fn odd(&self) -> (usize, Vec<String>) {
        lock(&self.odd).clone()
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        lock(&self.keys).clone()
    }

    pub(crate) fn set_calm(&self, calm: bool) {
        self.calm.store(calm, Ordering::SeqCst);
    }

    /// Refusals while there was no reason for any.
    pub(crate) fn refused_in_calm(&self) -> Vec<String> {
        lock(&self.refused_in_calm).clone()
    }

    /// When an activity that had begun after this moment first succeeded.
    pub(crate) fn success_after(&self, activity: Activity, moment: Duration) -> Option<Duration> {
        let successes = lock(&self.successes);
        let all = successes.get(&activity)?;
        // They are sorted by their ends.
        let first = all.partition_point(|(_, end)| *end < moment);
        let later = all.get(first..)?.iter();
        later
            .filter(|(begin, _)| *begin >= moment)
            .map(|(_, end)| *end)
            .next()
    }

    pub(crate) fn reconnect(&self, node: Node, port: u16) {
        let pool = Arc::new(Pool::keeping(IDLE, port));
        lock(&self.pools).insert(node, pool);
    }

    /// Nobody asks this sidecar for anything until it is connected again.
    pub(crate) fn disconnect(&self, node: Node) {
        lock(&self.pools).remove(&node);
    }

    fn is_connected(&self, node: Node) -> bool {
        lock(&self.pools).contains_key(&node)
    }

    /// Notes what is being hurt, or was healed.
    pub(crate) fn disturb(&self, parts: &[Part], begins: bool) {
        let mut disturbances = lock(&self.disturbances);
        let now = Instant::now();
        for part in parts {
            let (Part::Sidecar(node) | Part::ApiLink(node)) = *part else {
                continue;
            };
            if begins {
                disturbances.push(Disturbance {
                    node,
                    from: now,
                    to: None,
                });
            } else if let Some(open) = disturbances
                .iter_mut()
                .find(|one| one.node == node && one.to.is_none())
            {
                open.to = Some(now);
            }
        }
    }

    fn was_disturbed(&self, node: Node, since: Instant) -> bool {
        lock(&self.disturbances).iter().any(|one| {
            let over = one.to.is_some_and(|to| to + AFTERMATH < since);
            one.node == node && !over && one.from <= Instant::now()
        })
    }

    /// A line of a receiving app.
    pub(crate) fn app_says(&self, node: Node, line: &str) {
        let mut words = line.split(' ').rev();
        let number = words.next().and_then(|word| word.parse().ok());
        let topic = words.next();
        let topic = Topic::ALL.into_iter().find(|one| topic == Some(one.name()));
        let (Some(number), Some(topic)) = (number, topic) else {
            self.is_odd(format!("the app of {node:?} says {line:?}"));
            return;
        };
        if words.next() == Some("dead") {
            self.messages(topic).dead(number);
            return;
        }
        self.messages(topic).delivered(number);
        let now = self.now();
        self.succeeded(Activity::Deliver(topic, node), now);
    }

    fn succeeded(&self, activity: Activity, begin: Duration) {
        let mut successes = lock(&self.successes);
        let end = self.now();
        successes.entry(activity).or_default().push((begin, end));
    }

    fn count(&self, activity: Activity, what: &str) {
        let key = (activity.name(), what.to_owned());
        *lock(&self.tally).entry(key).or_default() += 1;
    }

    fn is_odd(&self, what: String) {
        let mut odd = lock(&self.odd);
        odd.0 += 1;
        if odd.1.len() < KEPT_ODD {
            odd.1.push(what);
        }
    }

    /// Sends a request, and judges what comes back. A refusal has a status that says "not now" and an error code.
    async fn ask(&self, activity: Activity, node: Node, request: &Request) -> Fate {
        let pool = lock(&self.pools).get(&node).cloned();
        let Some(pool) = pool else {
            return Fate::Nothing;
        };
        let (begin, since) = (self.now(), Instant::now());
        let answer = match timeout(PATIENCE, pool.send(request)).await {
            Ok(Ok(answer)) => answer,
            nothing => {
                let what = match nothing {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no answer within {PATIENCE:?}"),
                };
                if !self.was_disturbed(node, since) {
                    self.is_odd(format!(
                        "{activity:?} asked at {begin:.1?}, failed at {:.1?}: {what}",
                        self.now()
                    ));
                }
                self.count(activity, "nothing");
                return Fate::Nothing;
            }
        };
        if (200..300).contains(&answer.status) {
            self.succeeded(activity, begin);
            self.count(activity, "good");
            return Fate::Good(answer);
        }
        let code = answer.code();
        self.count(activity, &format!("{} {code}", answer.status));
        let told = || {
            format!(
                "{activity:?} asked at {begin:.1?}, answered at {:.1?}: {} {}",
                self.now(),
                answer.status,
                answer.text()
            )
        };
        if !matches!(answer.status, 500 | 503) || code.is_empty() {
            self.is_odd(told());
        }
        if self.calm.load(Ordering::SeqCst) {
            lock(&self.refused_in_calm).push(told());
        }
        Fate::Refused
    }

    async fn publish(&self, topic: Topic, node: Node) {
        let number = self.messages(topic).begin();
        let path = format!("/v1.0/publish/{0}-bus/{0}", topic.name());
        let request = Request::post(&path, number.to_string());
        let activity = Activity::Publish(topic, node);
        let told = match self.ask(activity, node, &request).await {
            Fate::Good(_) => Told::Accepted,
            Fate::Refused => Told::Refused,
            Fate::Nothing => Told::Nothing,
        };
        self.messages(topic).told(number, told);
    }

    async fn invoke(&self, node: Node, number: u64) {
        let path = format!("/v1.0/invoke/{RECEIVER}/method/{METHOD}");
        let request = Request::post(&path, number.to_string());
        if let Fate::Good(answer) = self.ask(Activity::Invoke(node), node, &request).await {
            let echo: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            if echo != json!({"echo": number.to_string()}) {
                self.is_odd(format!("call {number} was answered {}", answer.text()));
            }
        }
    }

    /// Writes a key again and again, reads it between, and takes another after a write with an uncertain end.
    async fn write(&self, writer: Node, lane: usize, pause: Duration, over: &AtomicBool) {
        for generation in 0.. {
            let mut key = Key::new(format!("{writer:?}-{lane}-{generation}"));
            let mut is_certain = true;
            while is_certain && !over.load(Ordering::SeqCst) {
                if !self.is_connected(writer) {
                    sleep(pause).await;
                    continue;
                }
                let value = key.next();
                let body = json!([{"key": key.name, "value": value}]).to_string();
                let request = Request::post("/v1.0/state/store", body);
                match self.ask(Activity::State(writer), writer, &request).await {
                    Fate::Good(_) => key.confirmed(value),
                    Fate::Refused | Fate::Nothing => is_certain = false,
                }
                let reader = Node::ALL.get(usize::try_from(value).unwrap_or(0) % 4);
                if let Some(reader) = reader {
                    self.read(&key, *reader).await;
                }
                sleep(pause).await;
            }
            lock(&self.keys).push(key);
            if over.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Reads a key through a sidecar. False when there was no answer to judge.
    pub(crate) async fn read(&self, key: &Key, node: Node) -> bool {
        let request = Request::get(&format!("/v1.0/state/store/{}", key.name));
        let Fate::Good(answer) = self.ask(Activity::State(node), node, &request).await else {
            return false;
        };
        let read = match answer.status {
            204 => None,
            _ => answer.text().parse().ok(),
        };
        if let Err(wrong) = key.check(read) {
            self.is_odd(format!("read through {node:?}: {wrong}"));
        }
        true
    }
}

/// The load, until it is told to end.
#[derive(Debug)]
pub(crate) struct Traffic {
    over: Arc<AtomicBool>,
    lanes: JoinSet<()>,
}

impl Traffic {
    /// `rate` messages a second over both topics and callers, a third as many calls, and writes besides.
    pub(crate) fn start(books: &Arc<Books>, rate: u32) -> Self {
        let (over, mut lanes) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        let messages = Duration::from_secs(4) / rate.max(1);
        let calls = Duration::from_secs(6) / rate.max(1);
        for node in Node::CALLERS {
            for topic in Topic::ALL {
                let publish = move |books: Arc<Books>, _| async move {
                    books.publish(topic, node).await;
                };
                lanes.spawn(steadily(
                    Arc::clone(books),
                    node,
                    Arc::clone(&over),
                    messages,
                    publish,
                ));
            }
            let invoke = move |books: Arc<Books>, number| async move {
                books.invoke(node, number).await;
            };
            lanes.spawn(steadily(
                Arc::clone(books),
                node,
                Arc::clone(&over),
                calls,
                invoke,
            ));
            for lane in 0..WRITERS {
                let (books, over) = (Arc::clone(books), Arc::clone(&over));
                lanes.spawn(async move { books.write(node, lane, messages * 4, &over).await });
            }
        }
        Self { over, lanes }
    }

    /// Asks for nothing more, and waits for the last answers.
    pub(crate) async fn end(mut self) {
        self.over.store(true, Ordering::SeqCst);
        while self.lanes.join_next().await.is_some() {}
    }
}

async fn steadily<F: Future<Output = ()> + Send + 'static>(
    books: Arc<Books>,
    node: Node,
    over: Arc<AtomicBool>,
    every: Duration,
    act: impl Fn(Arc<Books>, u64) -> F,
) {
    let (mut pace, mut under_way) = (interval(every), JoinSet::new());
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 0.. {
        pace.tick().await;
        if over.load(Ordering::SeqCst) {
            break;
        }
        while under_way.try_join_next().is_some() {}
        if under_way.len() < MOST_UNDER_WAY && books.is_connected(node) {
            under_way.spawn(act(Arc::clone(&books), number));
        }
    }
    under_way.join_all().await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_tells_what_arrived_where() {
        let books = Books::new();
        for _ in 0..3 {
            books.messages(Topic::Stream).begin();
        }
        books.app_says(Node::Receiver1, "stream 1");
        books.app_says(Node::Receiver1, "dead stream 2");
        books.app_says(Node::Receiver2, "nonsense");
        let counts = books.messages(Topic::Stream).counts();
        assert_eq!((counts.delivered, counts.dead), (1, vec![2]));
        assert_eq!(books.odd().0, 1);
        let delivered = Activity::Deliver(Topic::Stream, Node::Receiver1);
        assert!(books.success_after(delivered, Duration::ZERO).is_some());
        assert!(books.success_after(delivered, books.now()).is_none());
    }

    #[test]
    fn clients_may_be_left_without_an_answer_while_their_sidecar_is_hurt() {
        let books = Books::new();
        let asked = Instant::now();
        assert!(!books.was_disturbed(Node::Caller2, asked));
        books.disturb(&[Part::Sidecar(Node::Caller2)], true);
        assert!(books.was_disturbed(Node::Caller2, asked));
        assert!(!books.was_disturbed(Node::Caller1, asked));
        books.disturb(&[Part::Sidecar(Node::Caller2)], false);
        assert!(books.was_disturbed(Node::Caller2, asked));
        assert!(!books.was_disturbed(Node::Caller2, Instant::now() + AFTERMATH * 2));
    }
}
