//! Which topics an application may publish to and subscribe to.

use std::collections::{HashMap, HashSet};

use crate::Metadata;
use crate::metadata::get_ignore_case;

/// The decision table of one pub/sub component, seen from one application.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicAccess {
    allowed: HashSet<String>,
    protected: HashSet<String>,
    publishing: Option<HashSet<String>>,
    subscription: Option<HashSet<String>>,
}

impl TopicAccess {
    /// Reads the component's `allowedTopics`, `protectedTopics`, `publishingScopes` and
    /// `subscriptionScopes`.
    pub fn read(properties: &Metadata, app_id: &str) -> Self {
        let text = |key| get_ignore_case(properties, key).unwrap_or_default();
        let scope = |key| scopes(text(key)).remove(app_id);
        Self {
            allowed: list(text("allowedTopics")),
            protected: list(text("protectedTopics")),
            publishing: scope("publishingScopes"),
            subscription: scope("subscriptionScopes"),
        }
    }

    pub fn may_publish(&self, topic: &str) -> bool {
        self.allows(topic, self.publishing.as_ref())
    }

    pub fn may_subscribe(&self, topic: &str) -> bool {
        self.allows(topic, self.subscription.as_ref())
    }

    fn allows(&self, topic: &str, scope: Option<&HashSet<String>>) -> bool {
        if !self.allowed.is_empty() && !self.allowed.contains(topic) {
            return false;
        }
        match scope {
            Some(topics) => topics.contains(topic),
            None => !self.protected.contains(topic),
        }
    }
}

/// `t1,t2`, blanks stripped, empty items left out.
fn list(text: &str) -> HashSet<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `app1=t1,t2;app2=`; items without a single `=` are left out.
fn scopes(text: &str) -> HashMap<String, HashSet<String>> {
    let mut out: HashMap<String, HashSet<String>> = HashMap::new();
    for item in text.split(';') {
        let mut parts = item.split('=');
        if let (Some(app), Some(topics), None) = (parts.next(), parts.next(), parts.next()) {
            out.insert(app.trim().to_owned(), list(topics));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(pairs: &[(&str, &str)]) -> TopicAccess {
        let properties = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        TopicAccess::read(&properties, "a")
    }

    #[test]
    fn nothing_said_allows_everything() {
        assert!(access(&[]).may_publish("t"));
    }

    #[test]
    fn allowed_topics_bound_everybody() {
        let access = access(&[("allowedTopics", "t1, t2"), ("publishingScopes", "a=t1,t3")]);
        assert!(access.may_publish("t1"));
        assert!(!access.may_publish("t2"), "not in the app's scope");
        assert!(!access.may_publish("t3"), "not allowed at all");
        assert!(access.may_subscribe("t2"));
    }

    #[test]
    fn an_empty_scope_forbids_and_another_apps_scope_does_not() {
        assert!(!access(&[("publishingScopes", "a=")]).may_publish("t"));
        assert!(access(&[("publishingScopes", "b=t")]).may_publish("t"));
    }

    #[test]
    fn a_protected_topic_needs_a_scope() {
        assert!(!access(&[("protectedTopics", "t")]).may_subscribe("t"));
        assert!(
            access(&[("PROTECTEDTOPICS", "t"), ("subscriptionscopes", " a = t ")])
                .may_subscribe("t")
        );
    }
}
