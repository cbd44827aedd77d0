//! Looks: gathers what is known, pings where that is asked for or overdue, and lets `judge` decide.
//!
//! Every look ends within its budget: who has not answered by then is judged as such.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use outrigger_core::ApiError;
use outrigger_lifecycle::Moment;
use outrigger_lifecycle::connection::State;
use outrigger_lifecycle::gate;

use super::judge::{self, Facts, Item, Reading, Report, Standing, Subject, Subscription, Verdict};
use super::question::{Effort, Question, Target};
use crate::Blocks;
use crate::component::AnyHandle;
use crate::errors::health as told;
use crate::errors::{component, invoke};
use crate::registry::Table;

impl Blocks {
    /// Answers a question about health.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn examine(&self, question: &Question) -> Report {
        let (table, names) = (self.registry.table(), self.invoke.resolver.handle());
        let names = names.map(AnyHandle::Names);
        let asks = |subject| question.subjects.contains(&subject);
        let components = table.all.iter().filter(|_| asks(Subject::Components));
        let components = components.filter(|handle| !matches!(handle, AnyHandle::Names(_)));
        let handles: Vec<&AnyHandle> = components
            .chain(names.iter().filter(|_| asks(Subject::NameResolution)))
            .collect();
        let asked = self.prove(&handles, question.effort).await;
        let mut components: Vec<Item> = if asks(Subject::Components) {
            rejected(&table).collect()
        } else {
            Vec::new()
        };
        let mut resolvers = Vec::new();
        for (handle, asked_at) in handles.into_iter().zip(asked) {
            let item = judge::judge(&self.facts(handle, asked_at), self.health_now());
            match handle {
                AnyHandle::Names(_) => resolvers.push(item),
                _ => components.push(item),
            }
        }
        let groups = question.subjects.iter().map(|subject| {
            let items = match subject {
                Subject::Components => std::mem::take(&mut components),
                Subject::NameResolution => std::mem::take(&mut resolvers),
                Subject::App => self.app_health().into_iter().collect(),
                // Neither is there yet, so nobody can say.
                Subject::Actors | Subject::ControlPlane => vec![Item::plain(
                    subject.name(),
                    subject.name(),
                    Standing::Undefined,
                    Some(judge::NO_PING),
                    None,
                )],
            };
            (*subject, items)
        });
        judge::report(groups.collect(), question.reading)
    }

    /// The health of one component, and of whatever else has its name. A rejected definition speaks only where no other
    /// one runs.
    ///
    /// # Errors
    /// When there is no such component, or it is not known yet.
    pub async fn examine_one(&self, name: &str, effort: Effort) -> Result<Report, ApiError> {
        let table = self.registry.table();
        let handles: Vec<&AnyHandle> = handles_of(&table, name).collect();
        let mut items: Vec<Item> = rejected(&table)
            .filter(|item| handles.is_empty() && item.name == name)
            .collect();
        let asked = self.prove(&handles, effort).await;
        let found = handles.into_iter().zip(asked);
        items.extend(found.map(|(handle, asked_at)| {
            judge::judge(&self.facts(handle, asked_at), self.health_now())
        }));
        if items.is_empty() {
            return Err(if self.registry.is_loaded() {
                told::no_component(name)
            } else {
                component::starting()
            });
        }
        Ok(judge::report(
            vec![(Subject::Components, items)],
            Reading::default(),
        ))
    }

    /// Whether everything that is named is ready.
    ///
    /// # Errors
    /// With the names of what is not, or of something that is not there at all.
    pub async fn await_targets(&self, targets: &[Target], effort: Effort) -> Result<(), ApiError> {
        let mut missing = Vec::new();
        for found in join_all(targets.iter().map(|target| self.is_there(target, effort))).await {
            missing.extend(found?);
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(invoke::not_ready(&missing))
        }
    }

    /// The name of a target that is not ready.
    async fn is_there(&self, target: &Target, effort: Effort) -> Result<Option<String>, ApiError> {
        let is_ready = match target {
            Target::Outbound => self.health.outbound().is_ok(),
            Target::App => match *self.metadata.gate.borrow() {
                gate::State::Absent => {
                    return Err(told::unknown_target("app", "this sidecar has no app"));
                }
                gate => gate == gate::State::Open,
            },
            Target::Component(name) => match self.examine_one(name, effort).await {
                Ok(report) => report.verdict == Verdict::Fine,
                Err(_) if !self.registry.is_loaded() => false,
                Err(error) => {
                    return Err(told::unknown_target(&target.name(), &error.message));
                }
            },
            Target::Subscription { pubsub, topic } => {
                // Before the list is looked at, so that it cannot come in between.
                let may_still_come = self.may_still_come(pubsub);
                let all = self.subscriptions.list();
                let mut own = all
                    .iter()
                    .filter(|listed| listed.plan.pubsub == *pubsub && listed.plan.topic == *topic);
                match own.next() {
                    Some(listed) => {
                        listed.status.state == outrigger_lifecycle::subscription::State::Active
                    }
                    None if may_still_come => false,
                    None => {
                        let why = "there is no such subscription";
                        return Err(told::unknown_target(&target.name(), why));
                    }
                }
            }
        };
        Ok((!is_ready).then(|| target.name()))
    }

    /// An app says what it subscribes to when its gate opens, not before, and may take its time.
    fn may_still_come(&self, pubsub: &str) -> bool {
        let is_told = *self.metadata.gate.borrow() == gate::State::Absent
            || self.health.topics_told.load(Ordering::Acquire);
        let is_known = self.registry.pubsub(pubsub).is_some()
            || self.registry.rejection(pubsub, "pubsub.").is_some();
        !self.registry.is_loaded() || (is_known && !is_told)
    }

    /// Pings those that are to be pinged, side by side and within the budget. When that was, where it was done.
    async fn prove(&self, handles: &[&AnyHandle], effort: Effort) -> Vec<Option<Moment>> {
        let one = async |handle: &AnyHandle| {
            let now = self.health_now();
            let needs = effort.live || judge::is_stale(&self.facts(handle, None), now);
            if !needs {
                return None;
            }
            tokio::time::timeout(effort.budget, handle.prove())
                .await
                .ok();
            Some(now)
        };
        join_all(handles.iter().map(|handle| one(handle))).await
    }

    fn facts(&self, handle: &AnyHandle, asked_at: Option<Moment>) -> Facts {
        let (info, status, proofs) = (handle.info(), handle.status(), handle.proofs());
        let missing = |store: &&String| {
            let store = self.registry.secrets(store);
            store.is_none_or(|store| store.status().state != State::Ready)
        };
        let missing_stores = match status.state {
            State::Pending => proofs.stores().iter().filter(missing).cloned().collect(),
            _ => Vec::new(),
        };
        let subscriptions = match handle {
            AnyHandle::PubSub(_) => self.subscriptions_of(info.name.as_str()),
            _ => Vec::new(),
        };
        Facts {
            name: info.name.to_string(),
            block: info.kind.prefix().to_owned(),
            full_type: info.full_type(),
            optional: info.optional,
            last_used: handle.last_used(),
            waiters: handle.waiters(),
            is_dormant: proofs.is_dormant(),
            has_ping: proofs.has_ping(),
            missing_stores,
            proof: proofs.last(),
            asked_at,
            impediment: handle.impediment(),
            subscriptions,
            pending: handle.pending(),
            status,
        }
    }

    fn subscriptions_of(&self, pubsub: &str) -> Vec<Subscription> {
        let all = self.subscriptions.list().into_iter();
        let own = all.filter(|listed| listed.plan.pubsub == pubsub);
        own.map(|listed| Subscription {
            topic: listed.plan.topic.clone(),
            state: listed.status.state,
            attempt: listed.status.attempt,
            error: listed.status.error,
        })
        .collect()
    }

    /// What the gate knows of the app; nothing where there is none.
    fn app_health(&self) -> Option<Item> {
        let gate = *self.metadata.gate.borrow();
        let (code, message) = match gate {
            gate::State::Absent => return None,
            gate::State::Open => (None, None),
            gate::State::Closed => (
                Some("ERR_APP_UNHEALTHY"),
                Some("the app does not answer its health probe well"),
            ),
            gate::State::WaitPort => (
                Some("ERR_APP_NOT_READY"),
                Some("the app does not listen on its port"),
            ),
            gate::State::WaitReady => (
                Some("ERR_APP_NOT_READY"),
                Some("the app does not say that it is ready"),
            ),
            gate::State::WaitHealth => (
                Some("ERR_APP_NOT_READY"),
                Some("the app has not passed its first health probe"),
            ),
            gate::State::Discover => (
                Some("ERR_APP_NOT_READY"),
                Some("the app has not said what it subscribes to"),
            ),
        };
        let standing = if code.is_none() {
            Standing::Ok
        } else {
            Standing::NotOk
        };
        Some(Item::plain(
            self.app_id.as_str(),
            "app",
            standing,
            code,
            message.map(str::to_owned),
        ))
    }

    fn health_now(&self) -> Moment {
        self.metadata.clock.now()
    }
}

fn rejected(table: &Table) -> impl Iterator<Item = Item> {
    table.rejected.iter().map(Item::rejected)
}

fn handles_of<'a>(table: &'a Table, name: &'a str) -> impl Iterator<Item = &'a AnyHandle> {
    let all = table.all.iter();
    all.filter(move |handle| handle.name().as_str() == name)
}
