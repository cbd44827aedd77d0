//! Which subscriptions are wanted: those of resources, and the app's own, which replace them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_blocks::Registry;
use outrigger_blocks::app::{AppSubscription, BulkOptions};
use outrigger_blocks::pubsub::{Origin, Plan, Rules, Subscriptions};
use outrigger_config::SubscriptionResource;
use tracing::{error, info};

use crate::discovery::Discovery;

const SCOPE: &str = "dapr.runtime.processor.subscription";

/// The wanted subscriptions, by origin.
pub(crate) struct Wanted {
    subscriptions: Arc<Subscriptions>,
    registry: Arc<Registry>,
    /// `--disable-init-endpoints subscribe` was not given.
    asks_app: bool,
    plans: Mutex<Plans>,
}

#[derive(Default)]
struct Plans {
    declarative: Vec<Arc<Plan>>,
    programmatic: Vec<Arc<Plan>>,
}

impl Wanted {
    pub(crate) fn new(
        subscriptions: Arc<Subscriptions>,
        registry: Arc<Registry>,
        asks_app: bool,
    ) -> Self {
        Self {
            subscriptions,
            registry,
            asks_app,
            plans: Mutex::default(),
        }
    }

    /// Takes over what resources say.
    pub(crate) fn declare(&self, resources: &[SubscriptionResource]) {
        let plans = resources.iter().filter_map(declared).collect();
        self.plans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .declarative = plans;
        self.apply();
    }

    fn apply(&self) {
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let merged = merge(&plans.declarative, &plans.programmatic);
        drop(plans);
        self.subscriptions.apply(merged);
    }
}

/// The app's own subscriptions replace declared ones of the same component and topic; of two in its list the last counts.
fn merge(declarative: &[Arc<Plan>], programmatic: &[Arc<Plan>]) -> Vec<Arc<Plan>> {
    let same = |a: &Plan, b: &Plan| a.pubsub == b.pubsub && a.topic == b.topic;
    let kept = declarative
        .iter()
        .filter(|plan| !programmatic.iter().any(|own| same(plan, own)));
    let mut merged: Vec<Arc<Plan>> = kept.cloned().collect();
    for plan in programmatic {
        merged.retain(|earlier| !same(earlier, plan));
        merged.push(plan.clone());
    }
    merged
}

impl Discovery for Wanted {
    fn wants_subscriptions(&self) -> bool {
        self.asks_app && !self.registry.table().pubsub.is_empty()
    }

    fn subscriptions(&self, list: Vec<AppSubscription>) {
        let plans: Vec<Arc<Plan>> = list.into_iter().filter_map(own).collect();
        let topics: Vec<&str> = plans.iter().map(|plan| plan.topic.as_str()).collect();
        if !topics.is_empty() {
            info!(target: SCOPE, "app is subscribed to the following topics: [{}]", topics.join(" "));
        }
        self.plans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .programmatic = plans;
        self.apply();
    }
}

fn declared(resource: &SubscriptionResource) -> Option<Arc<Plan>> {
    let rules: Vec<_> = resource
        .rules
        .iter()
        .map(|rule| (rule.expression.clone(), rule.path.clone()))
        .collect();
    let defaults = BulkOptions::default();
    let bulk = resource
        .bulk
        .filter(|bulk| bulk.enabled)
        .map(|bulk| BulkOptions {
            max_messages: bulk
                .max_messages
                .and_then(|count| usize::try_from(count).ok())
                .filter(|count| *count > 0)
                .unwrap_or(defaults.max_messages),
            max_await: bulk
                .max_await_ms
                .filter(|millis| *millis > 0)
                .map_or(defaults.max_await, |millis| {
                    Duration::from_millis(u64::from(millis))
                }),
        });
    let subscription = AppSubscription {
        pubsub: resource.pubsub.to_string(),
        topic: resource.topic.to_string(),
        rules,
        dead_letter_topic: resource
            .dead_letter_topic
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        metadata: resource.metadata.clone(),
        bulk,
    };
    plan(Origin::Declarative, subscription)
}

fn own(subscription: AppSubscription) -> Option<Arc<Plan>> {
    plan(Origin::Programmatic, subscription)
}

/// A subscription whose rules do not compile is left out; the others are not touched.
fn plan(origin: Origin, subscription: AppSubscription) -> Option<Arc<Plan>> {
    let fingerprint = format!("{origin:?} {subscription:?}");
    let AppSubscription {
        pubsub,
        topic,
        rules,
        dead_letter_topic,
        metadata,
        bulk,
    } = subscription;
    match Rules::compile(&rules) {
        Ok(rules) => Some(Arc::new(Plan {
            origin,
            pubsub,
            topic,
            rules,
            dead_letter_topic,
            metadata,
            bulk,
            fingerprint,
        })),
        Err(bad) => {
            error!(target: SCOPE, pubsub, topic, err = %bad, "subscription is left out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(origin: Origin, topic: &str, path: &str) -> Arc<Plan> {
        let rules = vec![(None, path.to_owned())];
        plan(
            origin,
            AppSubscription {
                pubsub: "p".into(),
                topic: topic.into(),
                rules,
                ..Default::default()
            },
        )
        .unwrap()
    }

    #[test]
    fn the_apps_own_list_replaces_what_resources_say_of_the_same_topic() {
        let declared = [
            of(Origin::Declarative, "a", "/da"),
            of(Origin::Declarative, "b", "/db"),
        ];
        let own = [
            of(Origin::Programmatic, "b", "/1"),
            of(Origin::Programmatic, "b", "/2"),
        ];
        let merged = merge(&declared, &own);
        let paths: Vec<String> = merged
            .iter()
            .map(|plan| plan.rules.list().next().unwrap().1.to_owned())
            .collect();
        assert_eq!(paths, ["/da", "/2"]);
    }

    #[test]
    fn a_bad_rule_costs_its_own_subscription_only() {
        let rules = vec![(Some("event.type ==".to_owned()), "/x".to_owned())];
        assert!(
            plan(
                Origin::Programmatic,
                AppSubscription {
                    pubsub: "p".into(),
                    topic: "t".into(),
                    rules,
                    ..Default::default()
                }
            )
            .is_none()
        );
    }
}
