//! Pings of the present connection, and the fresh one beside it when it is doubted.
//!
//! A doubted connection is pinged at once, and unless it answers right away a fresh one is opened meanwhile. One that
//! answers stays. In the place of one that does not comes the fresh one, and callers notice nothing; where neither answers
//! the component is unavailable.

use super::*;

/// For the present connection to answer before a fresh one is opened beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// The ping under way: who waits for it besides the machine, and since when it is under way.
#[derive(Default)]
pub(super) struct Live {
    is_asked: bool,
    since: Option<Instant>,
    /// The present connection is doubted: a fresh one may take its place.
    is_doubted: bool,
    /// Why the present one did not answer; the fresh one is still under way.
    failed: Option<Failure>,
}

impl<T: Component + ?Sized> Supervisor<T> {
    /// Somebody wants to know how the component does now.
    pub(super) fn asked(&mut self) {
        let is_under_way = self.live.is_asked || self.live.is_doubted || self.trial.is_some();
        let is_known = self.handle.proofs.is_fresh(self.shared.clock.now());
        if self.instance.is_none() || is_under_way || is_known {
            return;
        }
        self.live.is_asked = true;
        self.start_ping();
    }

    pub(super) fn start_ping(&mut self) {
        if self.ping.is_none() {
            self.live.since = Some(Instant::now());
            self.ping = Some(Box::pin(self.probe()));
        }
    }

    /// There is evidence against the present connection.
    pub(super) fn doubt(&mut self) {
        self.live.is_doubted = true;
        self.start_ping();
        if self.may_try() && self.trial.is_none() {
            let limit = self.both.serving().timing().ping_timeout;
            let limit = limit.saturating_sub(HEAD_START);
            let connecting = self.connect(&self.serving, limit);
            self.trial = Some(Box::pin(async move {
                tokio::time::sleep(HEAD_START).await;
                // Waiting for its turn among other attempts is no reason to know later.
                let trial = tokio::time::timeout(limit, connecting).await;
                trial.unwrap_or_else(|_| Err(Failure::new(Class::Timeout, "no turn in time")))
            }));
        }
    }

    /// A resolver announces this sidecar when it is opened, which is no way to ask how it does; and what is exclusive is
    /// open once.
    fn may_try(&self) -> bool {
        self.instance.is_some() && self.handle.kind != Kind::Names && !self.serving.exclusive
    }

    pub(super) fn pinged(&mut self, outcome: Result<(), Failure>) {
        self.ping = None;
        let Live {
            is_asked,
            since,
            is_doubted,
            ..
        } = std::mem::take(&mut self.live);
        let took = since.map(|since| since.elapsed()).unwrap_or_default();
        let failure = match outcome {
            Ok(()) => {
                self.end_trial();
                self.both.used(self.shared.clock.now());
                self.event(Event::Serving(Fact::Pinged(Ok(()))));
                self.prove(took, Ok(()));
                self.notice();
                return;
            }
            Err(failure) => failure,
        };
        let metrics = &self.shared.metrics;
        let labels = [self.name(), failure.class.name()];
        metrics.component_ping_failures.add(labels, 1);
        if is_doubted {
            match self.spare.take() {
                Some(spare) => self.renew(spare),
                // The fresh one decides.
                None if self.trial.is_some() => self.live.failed = Some(failure),
                None => self.fail(took, failure),
            }
            return;
        }
        self.event(Event::Serving(Fact::Pinged(Err(failure.clone()))));
        if !is_asked {
            return;
        }
        if self.may_try() {
            let limit = self.both.serving().timing().ping_timeout;
            self.trial = Some(Box::pin(self.connect(&self.serving, limit)));
        } else {
            self.event(Event::Serving(Fact::Suspected));
            self.prove(took, Err(failure));
        }
    }

    /// How the second try went, on a connection of its own.
    pub(super) fn tried(&mut self, outcome: Result<Connected<T>, Failure>) {
        self.trial = None;
        let failed = self.live.failed.take();
        match outcome {
            // The present one may answer yet; what is in hand there is worth more than a moment.
            Ok(connected) if self.live.is_doubted => self.spare = Some(connected),
            Ok(connected) if self.both.serving().status().state == State::Ready => {
                self.renew(connected);
            }
            Ok(connected) => self.let_go(connected),
            Err(_) if self.live.is_doubted => {}
            Err(failure) => match failed {
                Some(failed) => self.fail(Duration::ZERO, failed),
                None => {
                    self.event(Event::Serving(Fact::Lost(failure.clone())));
                    self.prove(Duration::ZERO, Err(failure));
                }
            },
        }
    }

    /// What a secret store holds may have changed: whoever failed on it tries at once.
    pub(super) fn notice(&mut self) {
        let Some(instance) = &mut self.instance else {
            return;
        };
        let revision = instance.driver.revision();
        if std::mem::replace(&mut instance.revision, revision) != revision
            && self.handle.kind == Kind::Secrets
        {
            let store = News::Store(self.name().to_owned());
            self.shared.neighbours.send(store).ok();
        }
    }

    /// Neither the present connection nor a fresh one answers.
    fn fail(&mut self, took: Duration, failure: Failure) {
        self.event(Event::Serving(Fact::Pinged(Err(failure.clone()))));
        self.prove(took, Err(failure));
    }

    /// A fresh connection takes the place of one that does not answer.
    fn renew(&mut self, connected: Connected<T>) {
        self.replace(connected);
        self.event(Event::Serving(Fact::Renewed));
        self.prove(Duration::ZERO, Ok(()));
        info!(target: SCOPE, component = self.name(), "a connection that did not answer was replaced");
    }

    /// Puts a fresh connection in the place of the present one. Callers notice nothing.
    fn replace(&mut self, connected: Connected<T>) {
        if let Some(old) = self.install(connected) {
            self.let_go(old);
        }
    }

    /// A fresh connection is not needed any more.
    pub(super) fn end_trial(&mut self) {
        self.trial = None;
        self.live.is_doubted = false;
        self.live.failed = None;
        if let Some(spare) = self.spare.take() {
            self.let_go(spare);
        }
    }

    /// Tells everybody who waits, after the status shows it.
    fn prove(&self, took: Duration, outcome: Result<(), Failure>) {
        self.handle.proofs.tell(Proof {
            at: self.shared.clock.now(),
            took,
            outcome,
        });
    }

    fn probe(&self) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let driver = self
            .instance
            .as_ref()
            .map(|instance| instance.driver.clone());
        let (metrics, limit, name, handle) = (
            self.shared.metrics.clone(),
            self.both.serving().timing().ping_timeout,
            self.name().to_owned(),
            self.handle.clone(),
        );
        async move {
            let Some(driver) = driver else {
                return Err(Failure::new(Class::Transient, "there is no connection"));
            };
            let started = Instant::now();
            let ping = AssertUnwindSafe(ping(&*driver, &handle)).catch_unwind();
            let outcome = match tokio::time::timeout(limit, ping).await {
                Ok(Ok(outcome)) => outcome.map_err(ComponentError::into_failure),
                Ok(Err(panic)) => Err(Failure::new(Class::Panic, panic_text(&*panic))),
                Err(_) => Err(Failure::new(
                    Class::Timeout,
                    format!("no answer to a ping within {} seconds", limit.as_secs_f64()),
                )),
            };
            metrics
                .component_ping_seconds
                .observe([&name], started.elapsed().as_secs_f64());
            outcome
        }
    }
}
