//! Resources as a user writes them.

use std::fmt::Write as _;

/// A Component, on the way to its YAML.
#[derive(Clone, Debug)]
pub struct Component {
    name: String,
    type_name: String,
    annotations: String,
    /// Lines of `spec` beside type, version and metadata.
    spec: String,
    metadata: String,
    store: Option<String>,
}

impl Component {
    pub fn new(name: &str, type_name: &str) -> Self {
        Self {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            annotations: String::new(),
            spec: String::new(),
            metadata: String::new(),
            store: None,
        }
    }

    pub fn redis_state(name: &str, address: &str) -> Self {
        Self::new(name, "state.redis").set("redisHost", address)
    }

    pub fn redis_pubsub(name: &str, address: &str) -> Self {
        Self::new(name, "pubsub.redis").set("redisHost", address)
    }

    /// Queues that outlive their consumers, and failed messages that come again.
    pub fn rabbit(name: &str, url: &str) -> Self {
        Self::new(name, "pubsub.rabbitmq")
            .set("connectionString", url)
            .set("durable", "true")
            .set("deletedWhenUnused", "false")
            .set("requeueInFailure", "true")
    }

    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        write!(
            self.metadata,
            "    - name: {name}\n      value: {value:?}\n"
        )
        .ok();
        self
    }

    /// One of ours: `outrigger.dev/<name>`.
    #[must_use]
    pub fn annotate(mut self, name: &str, value: &str) -> Self {
        if self.annotations.is_empty() {
            self.annotations.push_str("  annotations:\n");
        }
        writeln!(self.annotations, "    outrigger.dev/{name}: {value:?}").ok();
        self
    }

    /// A property whose value is a secret of a store.
    #[must_use]
    pub fn secret(mut self, name: &str, store: &str, key: &str) -> Self {
        let line =
            format!("    - name: {name}\n      secretKeyRef: {{name: {key:?}, key: {key:?}}}\n");
        self.metadata.push_str(&line);
        self.store = Some(store.to_owned());
        self
    }

    #[must_use]
    pub fn init_timeout(mut self, value: &str) -> Self {
        writeln!(self.spec, "  initTimeout: {value}").ok();
        self
    }

    #[must_use]
    pub fn ignore_errors(mut self) -> Self {
        self.spec.push_str("  ignoreErrors: true\n");
        self
    }

    pub fn yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: {}\n{}spec:\n  type: {}\n  version: v1\n{}",
            self.name, self.annotations, self.type_name, self.spec
        );
        if self.metadata.is_empty() {
            text.push_str("  metadata: []\n");
        } else {
            write!(text, "  metadata:\n{}", self.metadata).ok();
        }
        if let Some(store) = &self.store {
            write!(text, "auth:\n  secretStore: {store}\n").ok();
        }
        text
    }
}

/// A Subscription to a topic, delivered to `/on/<topic>`.
pub fn subscription(pubsub: &str, topic: &str) -> String {
    format!(
        "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata:\n  name: {pubsub}-{topic}\nspec:\n  pubsubname: {pubsub}\n  topic: {topic}\n  routes:\n    default: /on/{topic}\n"
    )
}

/// The same, with a topic for what cannot be delivered.
pub fn with_dead_letters(pubsub: &str, topic: &str, dead_letter_topic: &str) -> String {
    let text = subscription(pubsub, topic);
    format!("{text}  deadLetterTopic: {dead_letter_topic}\n")
}

/// A Configuration by which sidecars that share a file find each other.
pub fn names_in(file: &std::path::Path) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: config\nspec:\n  nameResolution:\n    component: sqlite\n    version: v1\n    configuration:\n      connectionString: {:?}\n",
        file.display().to_string()
    )
}
