//! The conformance suites of both building blocks, on a real Redis.

use outrigger_component_api::Properties;
use outrigger_testkit::proxy::Proxy;
use outrigger_testkit::servers::{Redis, RedisServer};
use outrigger_testkit::suites::{Hold, properties};

/// The server of one case: one that all share, or one of its own with a password, behind a proxy.
struct Site {
    host: String,
    own: Option<(RedisServer, Proxy)>,
}

const OWN: &str = "a case with faults has a server of its own";

impl Site {
    async fn start(hold: Hold) -> Self {
        match hold {
            Hold::Shared => Self {
                host: bench::address(RedisServer::shared().await),
                own: None,
            },
            Hold::Own => {
                let options = Redis {
                    password: Some("right".to_owned()),
                    ..Redis::default()
                };
                let server = RedisServer::launch(options).await;
                let proxy = Proxy::to(bench::address(&server)).await;
                Self {
                    host: proxy.address(),
                    own: Some((server, proxy)),
                }
            }
        }
    }

    fn with(&self, more: &[(&str, &str)]) -> Properties {
        let password = self.own.as_ref().map(|_| ("redisPassword", "right"));
        let is_given = |name: &str| more.iter().any(|(other, _)| *other == name);
        properties(
            [("redisHost", self.host.as_str())]
                .into_iter()
                .chain(password.filter(|(name, _)| !is_given(name)))
                .chain(more.iter().copied())
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
    }
}

mod bench;

mod state {
    use super::{OWN, Site};
    use outrigger_component_api::{Catalog, Properties};
    use outrigger_testkit::proxy::Proxy;
    use outrigger_testkit::servers::Server;
    use outrigger_testkit::suites::Hold;
    use outrigger_testkit::suites::state::{Habits, Harness, Verdict};

    struct Store(Site);

    impl Harness for Store {
        const TYPE: &'static str = "state.redis";
        const HABITS: Habits = Habits {
            strange_tag: "4711",
            malformed_tag: ("not a tag", Verdict::Invalid, Verdict::Mismatch),
            tagged_set_of_absent: Verdict::Written,
            tagged_delete_of_absent: Verdict::Written,
            first_write_over_usual: Verdict::Written,
            empty_key: Verdict::Written,
            rewriting_keeps_ttl: true,
            ..Habits::STRICT
        };

        fn register(catalog: &mut Catalog) {
            outrigger_component_redis::register(catalog);
        }

        async fn start(hold: Hold) -> Self {
            Self(Site::start(hold).await)
        }

        fn properties(&self) -> Properties {
            self.0.with(&[])
        }

        fn wrong_credentials(&self) -> Option<Properties> {
            Some(self.0.with(&[("redisPassword", "wrong")]))
        }

        fn server(&self) -> &dyn Server {
            &self.0.own.as_ref().expect(OWN).0
        }

        fn proxy(&self) -> &Proxy {
            &self.0.own.as_ref().expect(OWN).1
        }
    }

    outrigger_testkit::state_suite!(Store: basic, etag, transactional, ttl, keys_like, faults);
}

mod pubsub {
    use std::time::Duration;

    use super::{OWN, Site};
    use outrigger_component_api::{Bytes, Catalog, Properties, Publish};
    use outrigger_testkit::proxy::Proxy;
    use outrigger_testkit::servers::{RedisServer, Server};
    use outrigger_testkit::suites::Hold;
    use outrigger_testkit::suites::pubsub::{Habits, Harness};

    struct Broker(Site);

    /// A key that holds a text, so that nothing can be added to it.
    const NO_STREAM: &str = "no-stream";

    impl Harness for Broker {
        const TYPE: &'static str = "pubsub.redis";
        const HABITS: Habits = Habits {
            redelivery: Duration::from_secs(2),
            takeover: Duration::from_secs(3),
            counts_deliveries: true,
            ..Habits::USUAL
        };

        fn register(catalog: &mut Catalog) {
            outrigger_component_redis::register(catalog);
        }

        async fn start(hold: Hold) -> Self {
            if hold == Hold::Shared {
                let server = RedisServer::shared().await;
                let made = server.command(&["SET", NO_STREAM, "text"]).await;
                made.expect("the shared server answers");
            }
            Self(Site::start(hold).await)
        }

        fn properties(&self) -> Properties {
            self.0.with(&[
                ("processingTimeout", "500ms"),
                ("redeliverInterval", "200ms"),
            ])
        }

        fn serial(&self) -> Properties {
            self.0.with(&[("concurrency", "1")])
        }

        fn parallel(&self, most: usize) -> Properties {
            self.0.with(&[("concurrency", &most.to_string())])
        }

        fn refused(&self, _topic: &str) -> (Properties, Publish) {
            let request = Publish {
                topic: NO_STREAM.to_owned(),
                data: Bytes::from_static(b"x"),
                metadata: None,
                content_type: None,
            };
            (self.properties(), request)
        }

        fn impatient(&self) -> (Properties, Duration) {
            (self.properties(), Duration::from_millis(500))
        }

        fn wrong_credentials(&self) -> Option<Properties> {
            Some(self.0.with(&[("redisPassword", "wrong")]))
        }

        fn server(&self) -> &dyn Server {
            &self.0.own.as_ref().expect(OWN).0
        }

        fn proxy(&self) -> &Proxy {
            &self.0.own.as_ref().expect(OWN).1
        }
    }

    outrigger_testkit::pubsub_suite!(
        Broker: basic, serial, parallel, groups, durable, refusal, ack_deadline, faults
    );
}
