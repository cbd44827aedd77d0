//! What is told of a component: in its handle, the log, the metrics and the journal.

use outrigger_core::shown::shown;

use super::*;

impl<T: Component + ?Sized> Supervisor<T> {
    pub(super) fn count_attempt(&self, is_success: bool) {
        let result = if is_success { "success" } else { "failure" };
        let attempts = &self.shared.metrics.component_attempts;
        attempts.add([self.name(), result], 1);
    }

    pub(super) fn count_failure(&self, info: &Info, failure: &Failure) {
        let reason = if failure.class == Class::Config {
            "config"
        } else {
            "init"
        };
        self.shared
            .metrics
            .component_init_fail
            .add([info.type_name.as_str(), reason, self.name()], 1);
    }

    /// A definition is ready for the first time.
    pub(super) fn loaded(&self, from: State) {
        let info = &self.serving.info;
        // Dapr does not count name resolution among the components.
        if info.kind != Kind::Names {
            let metrics = &self.shared.metrics;
            metrics.component_init.add([info.type_name.as_str()], 1);
            metrics.component_loaded.add([], 1);
        }
        let (component, component_type) = (info.name.as_str(), info.full_type());
        info!(target: SCOPE, component, component_type, event = "component_state", from = from.name(), to = "ready", "Component loaded: {component} ({component_type})");
    }

    /// Whoever waits for the same server, or for this store, need not wait any longer.
    pub(super) fn spread(&self) {
        if let Some(server) = self.serving.recipe.server() {
            self.shared.neighbours.send(News::Server(server)).ok();
        }
        if self.handle.kind == Kind::Secrets {
            let store = News::Store(self.name().to_owned());
            self.shared.neighbours.send(store).ok();
        }
    }

    /// Its values were judged without an attempt.
    pub(super) fn faulty(&self, definition: &Definition<T>, fault: &Failure) {
        self.count_failure(&definition.info, fault);
        self.give_up(definition, fault);
    }

    /// As Dapr does, if that is wanted: the process ends.
    pub(super) fn give_up(&self, definition: &Definition<T>, failure: &Failure) {
        let info = &definition.info;
        if definition.vital {
            let name = info.name.as_str();
            self.shared
                .give_up(name, &info.full_type(), &failure.message);
        }
    }

    pub(super) fn show(&self) {
        let pending = self.both.heir().map(|status| Pending {
            full_type: self
                .heir
                .as_ref()
                .map(|heir| heir.info.full_type())
                .unwrap_or_default(),
            status: status.clone(),
        });
        let was_pending = self.handle.pending().is_some();
        if pending.is_some() || was_pending {
            self.shared
                .metrics
                .component_revision_pending
                .set([self.name()], f64::from(u8::from(pending.is_some())));
        }
        self.handle.show_pending(pending);
        self.handle.show(self.both.serving().status().clone());
    }

    /// Tells of the change, and of the calls that were refused since it went away.
    pub(super) fn journal(&self, status: &Status) {
        let journal = &self.shared.metrics.journal;
        let refused = journal.refused(self.name(), self.handle.take_refused());
        // What once failed is no reason for what is ready or under way.
        let failure = match status.state {
            State::Unavailable | State::Rejected | State::Pending => status.failure.as_ref(),
            State::Connecting | State::Ready | State::Closing => None,
        };
        let told = journal::Told {
            cause: failure.map(|failure| failure.message.as_str()),
            class: failure.map(|failure| failure.class.name()),
            refused: (refused > 0).then_some(refused),
        };
        journal.change(
            journal::Kind::Component,
            self.name(),
            status.state.name(),
            told,
        );
        if matches!(status.state, State::Ready | State::Closing) {
            journal.settle(self.name());
        }
    }

    /// It is no more. One of its name that comes later has no past.
    pub(super) fn journal_end(&self) {
        self.journal(self.both.serving().status());
        let journal = &self.shared.metrics.journal;
        journal.forget(journal::Kind::Component, self.name());
    }

    /// `from` is the state that was left.
    pub(super) fn tell(&self, told: Told, from: State) {
        let (info, from) = (&self.serving.info, from.name());
        let (component, component_type) = (info.name.as_str(), info.full_type());
        match told {
            // That it was loaded has been told.
            Told::Connected { outage: None, .. } => {}
            Told::Connected {
                attempt,
                outage: Some(outage),
            } => {
                info!(target: SCOPE, component, component_type, event = "component_state", from, to = "ready", attempt, outage_ms = millis(outage), "component is ready again");
            }
            Told::Failing {
                failure,
                attempt,
                elapsed,
                next,
            } => {
                warn!(
                    target: SCOPE,
                    component,
                    component_type,
                    event = "component_state",
                    from,
                    to = "unavailable",
                    class = failure.class.name(),
                    err = shown(&failure.message),
                    attempt,
                    outage_ms = millis(elapsed),
                    next_retry_ms = millis(next),
                    "component is unavailable, trying again"
                );
            }
            Told::Lost { failure } => {
                warn!(target: SCOPE, component, component_type, event = "component_state", from, to = "unavailable", class = failure.class.name(), err = shown(&failure.message), "component lost its connection");
            }
            Told::Rejected { failure } => {
                error!(target: SCOPE, component, component_type, event = "component_state", from, to = "rejected", class = failure.class.name(), err = shown(&failure.message), "component rejected");
            }
        }
    }
}

impl<T: ?Sized> Supervisor<T> {
    /// What keeps a changed definition from its turn. The one that serves is not concerned.
    pub(super) fn tell_heir(&self, told: Told) {
        let component = self.handle.name.as_str();
        let heir = self.heir.as_ref();
        let component_type = heir.map(|heir| heir.info.full_type()).unwrap_or_default();
        match told {
            Told::Failing {
                failure,
                attempt,
                elapsed,
                next,
            } => {
                warn!(
                    target: SCOPE,
                    component,
                    component_type,
                    event = "component_revision",
                    to = "unavailable",
                    class = failure.class.name(),
                    err = shown(&failure.message),
                    attempt,
                    outage_ms = millis(elapsed),
                    next_retry_ms = millis(next),
                    "the changed definition cannot be used yet, trying again; the old one serves on"
                );
            }
            Told::Rejected { failure } => {
                warn!(target: SCOPE, component, component_type, event = "component_revision", to = "rejected", class = failure.class.name(), err = shown(&failure.message), "the changed definition is rejected; the old one serves on");
            }
            Told::Connected { .. } | Told::Lost { .. } => {}
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
