//! What is logged: one warning about settings that lose messages, and never a secret. Alone in its process, because it
//! listens to everything at the most talkative level.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail the test that called it"
)]

use std::fmt;
use std::sync::{Arc, Mutex};

use outrigger_component_api::{Handler, Message, Outcome, Properties, Publish, Subscribe};
use outrigger_testkit::servers::{Rabbit, RabbitServer, Server as _};
use outrigger_testkit::suites::open::{Opened, Resource};
use outrigger_testkit::suites::properties;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry};

/// Every line, whoever wrote it.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

struct Line {
    level: Level,
    target: String,
    text: String,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

impl Lines {
    fn push(&self, metadata: &Metadata<'_>, text: Text) {
        self.0.lock().unwrap().push(Line {
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            text: text.0,
        });
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.push(event.metadata(), text);
    }

    fn on_new_span(&self, span: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        let mut text = Text(String::new());
        span.record(&mut text);
        self.push(span.metadata(), text);
    }
}

struct Silent;

#[outrigger_component_api::async_trait]
impl Handler for Silent {
    async fn handle(&self, _: Message) -> Outcome {
        Outcome::Retry("no".into())
    }
}

fn resource(properties: Properties) -> Resource {
    Resource {
        register: outrigger_component_rabbitmq::register,
        type_name: "pubsub.rabbitmq",
        properties,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_is_told_once_and_a_secret_never() {
    let lines = Lines::default();
    tracing::subscriber::set_global_default(Registry::default().with(lines.clone())).unwrap();
    let server = RabbitServer::launch(Rabbit::default()).await;
    server.control(&["add_user", "secretive", "hunter2"]).await;
    let rights = ["set_permissions", "secretive", ".*", ".*", ".*"];
    server.control(&rights).await;
    let opener = |password: &str| {
        let url = format!("amqp://secretive:{password}@{}", server.address());
        resource(properties([("connectionString", url)]))
            .pubsub()
            .unwrap()
    };
    let (right, wrong) = (opener("hunter2"), opener("hunter3"));
    for _ in 0..2 {
        let mut pubsub = Opened::ready(&right).await;
        let subscribe = Subscribe {
            topic: "t".into(),
            ..Subscribe::default()
        };
        let source = pubsub.subscribe(subscribe, Arc::new(Silent)).await.unwrap();
        let publish = Publish {
            topic: "t".into(),
            data: "payload".into(),
            ..Publish::default()
        };
        pubsub.publish(publish).await.unwrap();
        assert!(Opened::attempt(&wrong).await.is_err());
        server.kill().await;
        pubsub.lost().await;
        source.close().await;
        pubsub.close().await;
        assert!(Opened::attempt(&right).await.is_err());
        server.start().await;
    }

    let lines = lines.0.lock().unwrap();
    for line in lines.iter() {
        for secret in ["hunter2", "hunter3"] {
            assert!(
                !line.text.contains(secret),
                "{}: {}",
                line.target,
                line.text
            );
        }
        let by_lapin = line.target.starts_with("lapin");
        assert!(
            !by_lapin || line.level > Level::WARN,
            "{}: {}",
            line.target,
            line.text
        );
    }
    let warnings: Vec<_> = lines
        .iter()
        .filter(|line| line.level <= Level::WARN)
        .map(|line| line.text.as_str())
        .collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for warning in warnings {
        assert!(
            warning.contains("vanish with the last consumer"),
            "{warning}"
        );
    }
}
