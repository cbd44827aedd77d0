//! Calls without a pause, and what became of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use outrigger_testkit::wait;
use tokio::task::JoinSet;

use crate::http::{Answer, Connection, Request};
use crate::s;

/// Callers, each on one connection that it keeps for ever.
#[derive(Debug)]
pub struct Calls {
    callers: JoinSet<()>,
    is_over: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Calls {
    /// So many callers; each asks for what `request` makes of the number of the call, and `is_good` judges the answer.
    /// A connection that breaks is a failure, too.
    pub fn on(
        port: u16,
        callers: usize,
        request: impl Fn(u64) -> Request + Send + Sync + 'static,
        is_good: impl Fn(&Answer) -> bool + Send + Sync + 'static,
    ) -> Self {
        let mut load = Self {
            callers: JoinSet::new(),
            is_over: Arc::default(),
            calls: Arc::default(),
            failures: Arc::default(),
        };
        let (request, is_good) = (Arc::new(request), Arc::new(is_good));
        for _ in 0..callers {
            let (request, is_good) = (Arc::clone(&request), Arc::clone(&is_good));
            let (is_over, calls) = (Arc::clone(&load.is_over), Arc::clone(&load.calls));
            let failures = Arc::clone(&load.failures);
            load.callers.spawn(async move {
                let failed = |what: String| {
                    let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                    failures.push(what);
                };
                let mut connection = match Connection::open(port).await {
                    Ok(connection) => connection,
                    Err(error) => return failed(error.to_string()),
                };
                while !is_over.load(Ordering::Relaxed) {
                    let request = request(calls.fetch_add(1, Ordering::Relaxed));
                    let sent = tokio::time::timeout(s(60), connection.send(&request)).await;
                    match sent {
                        Ok(Ok(answer)) if is_good(&answer) => {}
                        Ok(Ok(answer)) => failed(format!(
                            "{} {}: {} {}",
                            request.method,
                            request.path,
                            answer.status,
                            answer.text()
                        )),
                        Ok(Err(error)) => return failed(error.to_string()),
                        Err(_) => return failed("no answer within a minute".to_owned()),
                    }
                }
            });
        }
        load
    }

    /// Values written to a state store and read again.
    pub fn on_state(port: u16, callers: usize, store: &str) -> Self {
        let path = format!("/v1.0/state/{store}");
        let request = move |number: u64| {
            if number.is_multiple_of(2) {
                let key = number % 64;
                Request::post(&path, format!(r#"[{{"key":"k{key}","value":{number}}}]"#))
            } else {
                Request::get(&format!("{path}/k{}", number % 64))
            }
        };
        Self::on(port, callers, request, |answer| {
            matches!(answer.status, 200 | 204)
        })
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Waits until so many further calls have been made.
    pub async fn goes_on(&self, calls: u64) {
        let wanted = self.calls() + calls;
        wait::until(format!("{calls} further calls"), s(30), async || {
            let made = self.calls();
            if made >= wanted { Ok(()) } else { Err(made) }
        })
        .await;
    }

    /// Ends it; how many calls there were.
    ///
    /// # Panics
    /// When one of them failed.
    pub async fn ends_without_a_failure(mut self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        while self.callers.join_next().await.is_some() {}
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let first: Vec<&String> = failures.iter().take(5).collect();
        assert!(
            failures.is_empty(),
            "{} of {} calls failed, such as {first:#?}",
            failures.len(),
            self.calls()
        );
        self.calls()
    }
}
