//! The app of a case: keeps what it is given and answers as the case wants.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_component_api::{Handler, Message, Outcome, async_trait};
use tokio::sync::watch;

use crate::wait;

/// What to do with a message.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Now(Outcome),
    After(Duration, Outcome),
    /// Not before [`Inbox::let_go`].
    Held(Outcome),
}

/// Decides by the message and by how often this text has come, from 1 on.
type Script = Box<dyn Fn(&Message, usize) -> Reply + Send + Sync>;

pub(super) struct Inbox {
    script: Script,
    received: Mutex<Vec<Message>>,
    done: Mutex<Vec<String>>,
    running: AtomicUsize,
    most: AtomicUsize,
    let_go: watch::Sender<bool>,
}

impl Inbox {
    pub(super) fn new(
        script: impl Fn(&Message, usize) -> Reply + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            received: Mutex::default(),
            done: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            let_go: watch::Sender::new(false),
        })
    }

    /// Takes every message at once.
    pub(super) fn taking() -> Arc<Self> {
        Self::new(|_, _| Reply::Now(Outcome::Done))
    }

    /// Takes every message, but only once it is let go.
    pub(super) fn holding() -> Arc<Self> {
        Self::new(|_, _| Reply::Held(Outcome::Done))
    }

    pub(super) fn let_go(&self) {
        self.let_go.send_replace(true);
    }

    /// The texts as they came, repetitions included.
    pub(super) fn texts(&self) -> Vec<String> {
        self.received().iter().map(text).collect()
    }

    /// The texts whose handling ended with `Done`.
    pub(super) fn done(&self) -> Vec<String> {
        lock(&self.done).clone()
    }

    /// How often each text came.
    pub(super) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for text in self.texts() {
            *counts.entry(text).or_insert(0) += 1;
        }
        counts
    }

    pub(super) fn received(&self) -> MutexGuard<'_, Vec<Message>> {
        lock(&self.received)
    }

    /// How many messages are being handled.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// How many messages have been handled at once at most.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// Waits until every one of these texts has come.
    pub(super) async fn has_all(&self, wanted: &[String], deadline: Duration) {
        let what = format!("{} messages", wanted.len());
        wait::until(what, deadline, async || {
            let counts = self.counts();
            let missing: Vec<&String> = wanted
                .iter()
                .filter(|text| !counts.contains_key(*text))
                .collect();
            match missing.first() {
                None => Ok(()),
                Some(first) => Err(format!("{} are missing, {first} too", missing.len())),
            }
        })
        .await;
    }

    /// Waits until this text has come this often.
    pub(super) async fn has(&self, text: &str, times: usize, deadline: Duration) {
        let what = format!("message {text:?} for the {times}. time");
        wait::until(what, deadline, async || {
            let count = self.counts().get(text).copied().unwrap_or(0);
            if count >= times { Ok(()) } else { Err(count) }
        })
        .await;
    }

    /// Waits until this many messages are being handled.
    pub(super) async fn runs(&self, wanted: usize) {
        let what = format!("{wanted} messages in work");
        wait::until(what, super::SOON, async || {
            let running = self.running();
            if running == wanted {
                Ok(())
            } else {
                Err(running)
            }
        })
        .await;
    }

    /// Checks that nothing more comes.
    pub(super) async fn stays_quiet(&self, period: Duration) {
        let before = self.texts().len();
        let what = "another message";
        wait::never(what, period, async || self.texts().len() > before).await;
    }
}

#[async_trait]
impl Handler for Inbox {
    async fn handle(&self, message: Message) -> Outcome {
        let running = Running::start(self);
        let text = text(&message);
        let nth = {
            let mut received = self.received();
            received.push(message.clone());
            received.iter().filter(|m| m.data == message.data).count()
        };
        let mut let_go = self.let_go.subscribe();
        let outcome = match (self.script)(&message, nth) {
            Reply::Now(outcome) => outcome,
            Reply::After(pause, outcome) => {
                tokio::time::sleep(pause).await;
                outcome
            }
            Reply::Held(outcome) => {
                let_go.wait_for(|let_go| *let_go).await.ok();
                outcome
            }
        };
        if outcome == Outcome::Done {
            lock(&self.done).push(text);
        }
        drop(running);
        outcome
    }
}

/// Counts one handler, also when it is dropped halfway.
struct Running<'a>(&'a Inbox);

impl<'a> Running<'a> {
    fn start(inbox: &'a Inbox) -> Self {
        let now = inbox.running.fetch_add(1, Ordering::SeqCst) + 1;
        inbox.most.fetch_max(now, Ordering::SeqCst);
        Self(inbox)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.data).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
