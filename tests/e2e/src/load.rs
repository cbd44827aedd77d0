//! Five hundred messages a second, each with an id of its own, and what became of them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use outrigger_testkit::wait;
use serde_json::json;
use tokio::task::JoinSet;

use crate::http::Pool;
use crate::{App, Request, ms, s};

/// What became of what was published.
#[derive(Debug, Default)]
pub struct Published {
    pub accepted: HashSet<String>,
    pub refused: usize,
    /// Answers that are neither 2xx nor 503.
    pub odd: Vec<String>,
}

/// Publishes to the topic `new` of `bus` until it is stopped.
#[derive(Debug)]
pub struct Load {
    published: Arc<Mutex<Published>>,
    over: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Ids begin with `name`.
    pub fn start(name: &str, port: u16) -> Self {
        Self::at_most(name, port, usize::MAX)
    }

    /// The same for a broker that may be slower: no more than so many publishes wait for their answers.
    pub fn at_most(name: &str, port: u16, waiting: usize) -> Self {
        let (published, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        tasks.spawn(publish(
            name.to_owned(),
            port,
            waiting,
            Arc::clone(&published),
            Arc::clone(&over),
        ));
        Self {
            published,
            over,
            tasks,
        }
    }

    /// What was accepted and refused up to now, and the last answer that is neither.
    pub fn so_far(&self) -> (usize, usize, Option<String>) {
        let published = self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let odd = published.odd.last().cloned();
        (published.accepted.len(), published.refused, odd)
    }

    /// Waits for the last answers.
    ///
    /// # Panics
    /// When they do not come.
    pub async fn stop(mut self) -> Published {
        self.over.store(true, Ordering::SeqCst);
        wait::within("the last publishes", s(40), self.tasks.join_next()).await;
        let mut published = self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut published)
    }
}

async fn publish(
    name: String,
    port: u16,
    waiting: usize,
    published: Arc<Mutex<Published>>,
    over: Arc<AtomicBool>,
) {
    let (pool, mut under_way) = (Arc::new(Pool::to(port)), JoinSet::new());
    let mut pace = tokio::time::interval(ms(2));
    for number in 0.. {
        pace.tick().await;
        if over.load(Ordering::SeqCst) {
            break;
        }
        while under_way.try_join_next().is_some() {}
        if under_way.len() >= waiting {
            under_way.join_next().await;
        }
        let (pool, published) = (Arc::clone(&pool), Arc::clone(&published));
        let id = format!("{name}-{number}");
        under_way.spawn(async move {
            let path = "/v1.0/publish/bus/new";
            let answer = pool.send(&Request::post(path, json!(id).to_string())).await;
            let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    published.accepted.insert(id);
                }
                Ok(answer) if answer.status == 503 => published.refused += 1,
                Ok(answer) => published
                    .odd
                    .push(format!("{} {}", answer.status, answer.text())),
                Err(error) => published.odd.push(error.to_string()),
            }
        });
    }
    under_way.join_all().await;
}

/// Waits until everything accepted was delivered to `/on/new`; how many deliveries there were.
pub async fn everything_arrives(app: &App, accepted: &HashSet<String>) -> usize {
    wait::until("everything that was accepted", s(30), async || {
        let received = app.received();
        let events = received.iter().filter(|asked| asked.path == "/on/new");
        let seen: Vec<String> = events
            .filter_map(|asked| asked.data().as_str().map(str::to_owned))
            .collect();
        let distinct: HashSet<&String> = seen.iter().collect();
        let missing = accepted.iter().filter(|id| !distinct.contains(id)).count();
        if missing == 0 {
            Ok(seen.len())
        } else {
            Err(format!("{missing} missing"))
        }
    })
    .await
}
