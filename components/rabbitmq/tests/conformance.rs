//! The pub/sub suite at a real RabbitMQ, once with classic and once with quorum queues.
//!
//! Queues stay when nobody uses them, and failed messages come again: with the defaults both would be lost, as they are
//! with daprd, and most cases could not see anything.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a helper that fails must fail the test that called it"
)]

use std::time::Duration;

use outrigger_component_api::{Bytes, Catalog, Metadata, Properties, Publish};
use outrigger_testkit::proxy::Proxy;
use outrigger_testkit::servers::{Rabbit, RabbitServer, Server};
use outrigger_testkit::suites::pubsub::{Habits, Harness};
use outrigger_testkit::suites::{Hold, properties};

/// A broker, behind a proxy when it is the case's own.
struct Broker {
    url: String,
    own: Option<(RabbitServer, Proxy)>,
}

impl Broker {
    async fn start(hold: Hold) -> Self {
        match hold {
            Hold::Shared => Self {
                url: RabbitServer::shared().await.url(),
                own: None,
            },
            Hold::Own => {
                let server = RabbitServer::launch(Rabbit::default()).await;
                let proxy = Proxy::to(server.address()).await;
                Self {
                    url: format!("amqp://guest:guest@{}", proxy.address()),
                    own: Some((server, proxy)),
                }
            }
        }
    }

    fn properties(&self, more: &[(&str, &str)]) -> Properties {
        let mut all = vec![
            ("connectionString", self.url.as_str()),
            ("deletedWhenUnused", "false"),
            ("requeueInFailure", "true"),
        ];
        all.extend(more);
        properties(all)
    }

    fn own(&self) -> &(RabbitServer, Proxy) {
        self.own.as_ref().unwrap()
    }
}

/// A harness of its own for each kind of queue.
macro_rules! harness {
    ($name:ident, $queue_type:literal) => {
        struct $name(Broker);

        impl Harness for $name {
            const TYPE: &'static str = "pubsub.rabbitmq";
            const HABITS: Habits = Habits {
                // The first failures rest for 100 and 200 ms.
                redelivery: Duration::from_secs(2),
                takeover: Duration::from_secs(5),
                ..Habits::USUAL
            };

            fn register(catalog: &mut Catalog) {
                outrigger_component_rabbitmq::register(catalog);
            }

            async fn start(hold: Hold) -> Self {
                Self(Broker::start(hold).await)
            }

            fn properties(&self) -> Properties {
                self.0.properties(&[])
            }

            fn subscription(&self) -> Metadata {
                Metadata::from([("queueType".to_owned(), $queue_type.to_owned())])
            }

            fn serial(&self) -> Properties {
                self.0.properties(&[("concurrencyMode", "single")])
            }

            fn parallel(&self, most: usize) -> Properties {
                let most = most.to_string();
                self.0.properties(&[("prefetchCount", most.as_str())])
            }

            /// The exchange is there already, of another kind.
            fn refused(&self, topic: &str) -> (Properties, Publish) {
                let request = Publish {
                    topic: topic.to_owned(),
                    data: Bytes::from_static(b"refused"),
                    ..Publish::default()
                };
                (self.0.properties(&[("exchangeKind", "direct")]), request)
            }

            fn wrong_credentials(&self) -> Option<Properties> {
                let url = self.0.url.replace("guest:guest", "guest:wrong");
                Some(properties([("connectionString", url)]))
            }

            fn server(&self) -> &dyn Server {
                &self.0.own().0
            }

            fn proxy(&self) -> &Proxy {
                &self.0.own().1
            }
        }
    };
}

mod classic {
    use super::*;

    harness!(Classic, "classic");

    outrigger_testkit::pubsub_suite!(
        Classic: basic, serial, parallel, groups, durable, message_ttl, refusal, faults
    );
}

/// Without `faults`: a quorum queue of a single node of RabbitMQ 3.10 that is killed in the queue's first seconds has no
/// leader ever after, whoever the client is. tests/broker/faults.rs has quorum queues under orderly restarts.
mod quorum {
    use super::*;

    harness!(Quorum, "quorum");

    outrigger_testkit::pubsub_suite!(
        Quorum: basic, serial, parallel, groups, durable, message_ttl, refusal
    );
}
