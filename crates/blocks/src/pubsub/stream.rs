//! Subscriptions over a stream: the app fetches its messages and answers each by the event's id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::deliver::Sink;
use crate::app::{Delivery, Verdict};

/// Events that may wait for the stream's reader.
const QUEUE: usize = 128;

/// Where the deliverer puts events, and waits for their answers.
pub(super) struct StreamSink {
    events: mpsc::Sender<Delivery>,
    answers: Answers,
}

/// The API's side of a stream.
pub struct Connection {
    pub events: mpsc::Receiver<Delivery>,
    answers: Answers,
}

/// Events under way, by id. An id may be under way more than once: the oldest is answered first.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<HashMap<String, Vec<oneshot::Sender<Verdict>>>>>);

pub(super) fn pair() -> (StreamSink, Connection) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let answers = Answers::default();
    (
        StreamSink {
            events: sender,
            answers: answers.clone(),
        },
        Connection {
            events: receiver,
            answers,
        },
    )
}

impl Connection {
    /// The app's answer to an event. Ids that are not under way are ignored.
    pub fn processed(&self, id: &str, verdict: Verdict) {
        let mut waiting = self
            .answers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = waiting.get_mut(id) {
            let answer = (!queue.is_empty()).then(|| queue.remove(0));
            if queue.is_empty() {
                waiting.remove(id);
            }
            drop(waiting);
            if let Some(answer) = answer {
                answer.send(verdict).ok();
            }
        }
    }

    /// How many events wait for an answer.
    pub fn under_way(&self) -> usize {
        self.answers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(Vec::len)
            .sum()
    }
}

impl Drop for Connection {
    /// Whoever still waits learns that no answer will come.
    fn drop(&mut self) {
        self.answers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

#[async_trait]
impl Sink for StreamSink {
    async fn deliver(&self, delivery: &Delivery) -> Verdict {
        let id = delivery
            .event
            .get("id")
            .and_then(outrigger_core::json::Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let (answer, verdict) = oneshot::channel();
        self.answers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id)
            .or_default()
            .push(answer);
        if self.events.send(delivery.clone()).await.is_err() {
            return Verdict::Away("the stream is closed".to_owned());
        }
        verdict
            .await
            .unwrap_or_else(|_| Verdict::Away("the stream is closed".to_owned()))
    }

    fn speaks_for_the_app(&self) -> bool {
        false
    }
}
