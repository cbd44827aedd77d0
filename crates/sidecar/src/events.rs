//! Those who are told what happens: the history, the webhook, the app.
//!
//! Each has a task of its own and is behind on its own; who is too slow misses the oldest. Nothing waits for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_blocks::Blocks;
use outrigger_blocks::app::AppChannel;
use outrigger_blocks::events::event;
use outrigger_channel::webhook::Webhook;
use outrigger_lifecycle::{Stop, gate};
use outrigger_telemetry::Metrics;
use outrigger_telemetry::history::Writer;
use outrigger_telemetry::journal::{Change, Kind, TALLY_EVERY};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

const SCOPE: &str = "dapr.runtime";
/// Two events of one component lie this far apart.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;
/// Between the tries; doubles.
const AGAIN: Duration = Duration::from_millis(200);

/// Who is told.
pub(crate) enum Audience {
    Webhook(Webhook),
    App {
        channel: Arc<dyn AppChannel>,
        gate: watch::Receiver<gate::State>,
    },
}

impl Audience {
    fn name(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "--lifecycle-webhook-url",
            Self::App { .. } => "--app-lifecycle-path",
        }
    }

    /// Whether it can be told now.
    fn listens(&self) -> bool {
        match self {
            Self::Webhook(_) => true,
            Self::App { gate, .. } => *gate.borrow() == gate::State::Open,
        }
    }

    async fn send(&self, event: &[u8]) -> Result<(), String> {
        match self {
            Self::Webhook(webhook) => webhook.send(event.to_vec()).await,
            Self::App { channel, .. } => channel.tell(event.to_vec().into()).await,
        }
    }
}

/// What is held back of components that change often: the last change of each.
#[derive(Default)]
struct Held {
    sent: HashMap<String, Instant>,
    waiting: HashMap<String, (Instant, Change)>,
}

impl Held {
    /// The change, if it may go out now.
    fn admit(&mut self, change: &Change, now: Instant) -> Option<Change> {
        if change.kind != Kind::Component {
            return Some(change.clone());
        }
        let next = self.sent.get(&change.subject).map(|sent| *sent + PAUSE);
        match next {
            Some(next) if next > now => {
                let subject = change.subject.clone();
                let mut change = change.clone();
                // Of what was passed over, the beginning and the end are told.
                if let Some((_, waiting)) = self.waiting.remove(&subject) {
                    change.from = waiting.from;
                }
                self.waiting.insert(subject, (next, change));
                None
            }
            _ => {
                self.sent.insert(change.subject.clone(), now);
                Some(change.clone())
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|(due, _)| *due).min()
    }

    /// What was held back and may go out now.
    fn release(&mut self, now: Instant) -> Option<Change> {
        let subject = self
            .waiting
            .iter()
            .find(|(_, (due, _))| *due <= now)
            .map(|(subject, _)| subject.clone())?;
        let (_, change) = self.waiting.remove(&subject)?;
        self.sent.insert(subject, now);
        Some(change)
    }
}

/// Tells somebody, until the end and what was told by then.
pub(crate) struct Teller {
    pub audience: Audience,
    pub metrics: Arc<Metrics>,
    pub app_id: String,
    pub namespace: String,
}

impl Teller {
    pub(crate) async fn run(self, mut changes: Receiver<Arc<Change>>, stop: Stop) {
        let mut held = Held::default();
        let mut is_failing = false;
        loop {
            let due = held.due();
            let change = tokio::select! {
                biased;
                change = changes.recv() => match change {
                    Ok(change) if change.is_tally() => None,
                    Ok(change) => held.admit(&change, Instant::now()),
                    Err(RecvError::Lagged(missed)) => {
                        self.metrics.events_dropped.add([], missed);
                        None
                    }
                    Err(RecvError::Closed) => return,
                },
                () = async { match due { Some(due) => tokio::time::sleep_until(due).await, None => std::future::pending().await } } => held.release(Instant::now()),
                // Last: what has been told goes out first.
                () = stop.cancelled() => return,
            };
            if let Some(change) = change
                && self.audience.listens()
            {
                let tries = if stop.is_cancelled() { 1 } else { TRIES };
                self.tell(&change, tries, &mut is_failing).await;
            }
        }
    }

    async fn tell(&self, change: &Change, tries: u32, is_failing: &mut bool) {
        let event = event(change, &self.app_id, &self.namespace);
        let mut pause = AGAIN;
        for number in 1..=tries {
            match self.audience.send(&event).await {
                Ok(()) => {
                    *is_failing = false;
                    return;
                }
                Err(why) if number == tries => {
                    self.metrics.events_dropped.add([], 1);
                    if !std::mem::replace(is_failing, true) {
                        warn!(target: SCOPE, audience = self.audience.name(), err = why, "an event could not be delivered and is dropped");
                    }
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }
}

/// Writes down how many calls were refused by what is away, before the process can end without a word.
pub(crate) async fn tally(blocks: Arc<Blocks>, stop: Stop) {
    let mut due = tokio::time::interval(TALLY_EVERY);
    loop {
        let is_end = tokio::select! {
            biased;
            () = stop.cancelled() => true,
            _ = due.tick() => false,
        };
        blocks.count_refused();
        blocks.metrics.journal.tell_tallies(is_end);
        if is_end {
            return;
        }
    }
}

/// Keeps the history, until the end and what was told by then.
pub(crate) async fn keep(
    writer: Writer,
    mut changes: Receiver<Arc<Change>>,
    metrics: Arc<Metrics>,
    stop: Stop,
) {
    loop {
        let change = tokio::select! {
            biased;
            change = changes.recv() => change,
            () = stop.cancelled() => break,
        };
        match change {
            Ok(change) => {
                if !writer.write(Change::clone(&change)) {
                    metrics.events_dropped.add([], 1);
                }
            }
            Err(RecvError::Lagged(missed)) => metrics.events_dropped.add([], missed),
            Err(RecvError::Closed) => break,
        }
    }
    // The disk is waited for elsewhere than on the runtime's threads.
    tokio::task::spawn_blocking(move || writer.close())
        .await
        .ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(from: &str, to: &str) -> Change {
        Change {
            at: std::time::SystemTime::now(),
            kind: Kind::Component,
            subject: "orders".to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            after: None,
            cause: None,
            class: None,
            refused: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_component_that_flaps_is_told_of_once_a_second_from_beginning_to_end() {
        let mut held = Held::default();
        let now = Instant::now();
        assert!(held.admit(&change("ready", "unavailable"), now).is_some());
        assert!(
            held.admit(&change("unavailable", "connecting"), now)
                .is_none()
        );
        assert!(held.admit(&change("connecting", "ready"), now).is_none());
        assert_eq!(held.due(), Some(now + PAUSE));
        assert!(held.release(now).is_none());
        let told = held.release(now + PAUSE).unwrap();
        assert_eq!(
            (told.from.as_str(), told.to.as_str()),
            ("unavailable", "ready")
        );
        assert!(
            held.admit(&change("ready", "unavailable"), now + 3 * PAUSE)
                .is_some()
        );
        let phase = Change {
            kind: Kind::Phase,
            ..change("starting", "ready")
        };
        assert!(held.admit(&phase, now).is_some() && held.admit(&phase, now).is_some());
    }
}
