//! The Subscription resource, both versions in one shape.

use outrigger_core::{ComponentName, Metadata, Namespace, TopicName};

use crate::diagnostic::{Diagnostic, Place};
use crate::expression;
use crate::fingerprint::Fingerprint;
use crate::load::Compile;
use crate::read::{Field, Object};
use crate::resource::{Header, fingerprint};
use crate::yaml::Node;

/// A checked Subscription: its expressions compile.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionResource {
    pub name: String,
    pub namespace: Option<Namespace>,
    pub pubsub: ComponentName,
    pub topic: TopicName,
    /// In the order in which they are tried; the default comes last.
    pub rules: Vec<RouteRule>,
    pub dead_letter_topic: Option<TopicName>,
    pub metadata: Metadata,
    /// `spec.bulkSubscribe`; absent when it is not enabled.
    pub bulk: Option<BulkSettings>,
    /// App ids; empty means every app.
    pub scopes: Vec<String>,
    pub place: Place,
    /// Where `spec.pubsubname` stands.
    pub pubsub_place: Place,
    pub fingerprint: Fingerprint,
}

/// Where an event goes if an expression holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// A CEL expression over `event`, trimmed; absent means that the rule always holds.
    pub expression: Option<String>,
    pub path: String,
}

/// How messages are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkSettings {
    pub enabled: bool,
    /// `maxMessagesCount`; absent means the component's default.
    pub max_messages: Option<u32>,
    /// `maxAwaitDurationMs`; absent means the component's default.
    pub max_await_ms: Option<u32>,
}

impl SubscriptionResource {
    /// Reads a document whose kind and header are known; `second` says that it is v2alpha1.
    pub(crate) fn read(
        document: &Object<'_>,
        root: &Node,
        header: Header,
        second: bool,
        compile: Compile<'_>,
    ) -> Self {
        header.check_name(document, false);
        let spec = document.required_object("spec");
        let spec = spec.as_ref();
        let required =
            |name: &'static str| spec.map(|spec| spec.required(name)).unwrap_or_default();
        let rules = match spec {
            Some(spec) if second => spec
                .object("routes")
                .map(|routes| routing(&routes, compile))
                .unwrap_or_default(),
            Some(spec) => spec
                .word("route")
                .map(|path| RouteRule {
                    expression: None,
                    path,
                })
                .into_iter()
                .collect(),
            None => Vec::new(),
        };
        let resource = Self {
            name: header.name,
            namespace: header.namespace,
            pubsub: required("pubsubname").into(),
            topic: required("topic").into(),
            rules,
            dead_letter_topic: spec
                .and_then(|spec| spec.word("deadLetterTopic"))
                .map(TopicName::from),
            metadata: spec
                .and_then(|spec| spec.text_map("metadata"))
                .unwrap_or_default(),
            bulk: spec
                .and_then(|spec| spec.object("bulkSubscribe"))
                .and_then(|bulk| bulk_settings(&bulk)),
            scopes: header.scopes,
            pubsub_place: spec
                .and_then(|spec| spec.field("pubsubname"))
                .map_or_else(|| header.name_place.clone(), |field| field.place()),
            place: header.name_place,
            fingerprint: fingerprint(root),
        };
        if let Some(spec) = spec {
            if resource.rules.is_empty() {
                spec.reader().tell(no_route(spec, second));
            }
            spec.finish_with(|name| match (second, name) {
                (true, "route") => Some("v2alpha1 has `routes`, with `rules` and `default`"),
                (false, "routes") => {
                    Some("v1alpha1 has `route`; for `routes` write `apiVersion: dapr.io/v2alpha1`")
                }
                _ => None,
            });
        }
        document.finish();
        resource
    }
}

fn no_route(spec: &Object<'_>, second: bool) -> Diagnostic {
    let expected = if second {
        "`routes.rules` or `routes.default`"
    } else {
        "a `route`"
    };
    Diagnostic::warning(
        "CFG-ROUTE",
        spec.place(),
        "the subscription has no route, its messages are dropped",
    )
    .expected(expected)
}

fn routing(routes: &Object<'_>, compile: Compile<'_>) -> Vec<RouteRule> {
    let mut rules = Vec::new();
    for rule in routes
        .list("rules")
        .unwrap_or_default()
        .iter()
        .filter_map(Field::object)
    {
        let expression = rule
            .field("match")
            .and_then(|field| expression::read(&field, compile));
        rules.push(RouteRule {
            expression,
            path: rule.text("path").unwrap_or_default(),
        });
        rule.finish();
    }
    rules.extend(routes.word("default").map(|path| RouteRule {
        expression: None,
        path,
    }));
    routes.finish();
    rules
}

fn bulk_settings(bulk: &Object<'_>) -> Option<BulkSettings> {
    // Dapr: zero and less mean the default.
    let count = |name| {
        bulk.integer(name)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| *number > 0)
    };
    let settings = BulkSettings {
        enabled: bulk.boolean("enabled").unwrap_or(false),
        max_messages: count("maxMessagesCount"),
        max_await_ms: count("maxAwaitDurationMs"),
    };
    bulk.finish();
    settings.enabled.then_some(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{load_text, resource, told};

    fn rule(expression: Option<&str>, path: &str) -> RouteRule {
        RouteRule {
            expression: expression.map(str::to_owned),
            path: path.to_owned(),
        }
    }

    #[test]
    fn both_versions_have_one_shape() {
        let first = resource(
            "Subscription",
            "s",
            "  pubsubname: p\n  topic: t\n  route: /r\n  deadLetterTopic: d\n  metadata: {rawPayload: true, count: 5}\n  bulkSubscribe: {enabled: true, maxMessagesCount: 10, maxAwaitDurationMs: 0}\n",
        );
        let subscription = load_text(&first).subscriptions.remove(0);
        assert_eq!(
            (subscription.pubsub.as_str(), subscription.topic.as_str()),
            ("p", "t")
        );
        assert_eq!(subscription.rules, [rule(None, "/r")]);
        assert_eq!(
            subscription.dead_letter_topic.as_ref().unwrap().as_str(),
            "d"
        );
        assert_eq!(
            subscription.metadata,
            Metadata::from([
                ("count".into(), "5".into()),
                ("rawPayload".into(), "true".into())
            ])
        );
        assert_eq!(
            subscription.bulk,
            Some(BulkSettings {
                enabled: true,
                max_messages: Some(10),
                max_await_ms: None
            })
        );

        let second = resource("Subscription", "s", "  pubsubname: p\n  topic: t\n  routes:\n    rules:\n    - {match: ' event.type == \"x\" ', path: /x}\n    - {path: /all}\n    default: /d\n").replace("v1alpha1", "v2alpha1");
        let subscription = load_text(&second).subscriptions.remove(0);
        assert_eq!(
            subscription.rules,
            [
                rule(Some("event.type == \"x\""), "/x"),
                rule(None, "/all"),
                rule(None, "/d")
            ]
        );
        assert_eq!(subscription.bulk, None);
    }

    #[test]
    fn an_expression_that_does_not_compile_rejects_its_subscription_only() {
        let bad = resource("Subscription", "s", "  pubsubname: p\n  topic: t\n  routes:\n    rules:\n    - match: \"event.bad == 1\"\n      path: /x\n").replace("v1alpha1", "v2alpha1");
        let good = resource(
            "Subscription",
            "g",
            "  pubsubname: p\n  topic: t\n  route: /r\n",
        );
        let loaded = load_text(&format!("{bad}---\n{good}"));
        assert_eq!(loaded.subscriptions.len(), 1);
        assert_eq!(
            (
                loaded.rejected[0].name.as_str(),
                loaded.rejected[0].kind.name()
            ),
            ("s", "Subscription")
        );
        assert!(loaded.rejected[0].reason.contains("no `bad` here"));
        assert_eq!(
            told(&loaded.diagnostics),
            ["CFG-EXPRESSION 10:21 spec.routes.rules[0].match"]
        );
    }

    #[test]
    fn of_two_for_one_topic_or_name_the_first_counts() {
        let one = |name: &str, topic: &str| {
            resource(
                "Subscription",
                name,
                &format!("  {{pubsubname: p, topic: {topic}, route: /{name}}}\n"),
            )
        };
        let text = [
            one("a", "t"),
            one("b", "t"),
            one("a", "u"),
            one("''", "v"),
            one("''", "w"),
        ]
        .join("---\n");
        let loaded = load_text(&text);
        let kept: Vec<_> = loaded
            .subscriptions
            .iter()
            .map(|s| (s.name.as_str(), s.topic.as_str()))
            .collect();
        assert_eq!(kept, [("a", "t"), ("", "v"), ("", "w")]);
        assert_eq!(loaded.rejected, []);
        assert_eq!(
            loaded
                .diagnostics
                .iter()
                .filter(|told| told.code == "CFG-DUPLICATE")
                .count(),
            2
        );
    }
}
