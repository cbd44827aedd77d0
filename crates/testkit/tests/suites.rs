//! The suites themselves: a simple implementation passes them, and one with a flaw does not.

mod toy;

use std::time::Duration;

use outrigger_component_api::{Catalog, Properties};
use outrigger_testkit::proxy::Proxy;
use outrigger_testkit::servers::{Redis, RedisServer, Server};
use outrigger_testkit::suites::{Hold, properties, pubsub, state};

/// A toy on a Redis server of its own or on the shared one, with the flaw of this name.
struct Flawed<const FLAW: usize> {
    server: Option<RedisServer>,
    proxy: Option<Proxy>,
    address: String,
}

const NONE: usize = 0;
const LIES: usize = 1;
const PINGS_NOTHING: usize = 2;
const BLAMES_THE_RESOURCE: usize = 3;
const KEEPS_QUIET: usize = 4;
const NAMES: [&str; 5] = [
    "None",
    "Lies",
    "PingsNothing",
    "BlamesTheResource",
    "KeepsQuiet",
];

type Toy = Flawed<NONE>;

impl<const FLAW: usize> Flawed<FLAW> {
    async fn get(hold: Hold) -> Self {
        match hold {
            Hold::Shared => Self {
                server: None,
                proxy: None,
                address: RedisServer::shared().await.address(),
            },
            Hold::Own => {
                let server = RedisServer::launch(Redis::default()).await;
                let proxy = Proxy::to(server.address()).await;
                Self {
                    address: proxy.address(),
                    server: Some(server),
                    proxy: Some(proxy),
                }
            }
        }
    }

    fn all_properties(&self) -> Properties {
        let flaw = NAMES.get(FLAW).expect("a flaw has a name");
        properties([("address", self.address.as_str()), ("flaw", flaw)])
    }
}

mod state_toy {
    use super::*;

    impl<const FLAW: usize> state::Harness for Flawed<FLAW> {
        const TYPE: &'static str = "state.toy";
        const HABITS: state::Habits = state::Habits {
            required: &["address"],
            empty_key: state::Verdict::Written,
            ..state::Habits::STRICT
        };

        fn register(catalog: &mut Catalog) {
            toy::register(catalog);
        }

        async fn start(hold: Hold) -> Self {
            Self::get(hold).await
        }

        fn properties(&self) -> Properties {
            self.all_properties()
        }

        fn wrong_credentials(&self) -> Option<Properties> {
            None
        }

        fn server(&self) -> &dyn Server {
            self.server.as_ref().expect("a server of its own")
        }

        fn proxy(&self) -> &Proxy {
            self.proxy.as_ref().expect("a proxy of its own")
        }
    }

    outrigger_testkit::state_suite!(Toy: basic, faults);
}

mod pubsub_toy {
    use super::*;

    impl<const FLAW: usize> pubsub::Harness for Flawed<FLAW> {
        const TYPE: &'static str = "pubsub.toy";
        const HABITS: pubsub::Habits = pubsub::Habits {
            required: &["address"],
            redelivery: Duration::from_secs(1),
            takeover: Duration::from_secs(2),
            ..pubsub::Habits::USUAL
        };

        fn register(catalog: &mut Catalog) {
            toy::register(catalog);
        }

        async fn start(hold: Hold) -> Self {
            Self::get(hold).await
        }

        fn properties(&self) -> Properties {
            self.all_properties()
        }

        fn wrong_credentials(&self) -> Option<Properties> {
            None
        }

        fn server(&self) -> &dyn Server {
            self.server.as_ref().expect("a server of its own")
        }

        fn proxy(&self) -> &Proxy {
            self.proxy.as_ref().expect("a proxy of its own")
        }
    }

    outrigger_testkit::pubsub_suite!(Toy: basic, serial, durable, faults);
}

/// What the suites find.
mod flaws {
    use super::*;
    use outrigger_testkit::suites::run;

    #[test]
    #[should_panic(expected = "was acknowledged and is lost")]
    fn a_store_that_lies_is_found_out() {
        run(
            "lies",
            state::faults::connections_cut_under_load_lose_no_acknowledged_write::<Flawed<LIES>>(),
        );
    }

    #[test]
    #[should_panic(expected = "are missing")]
    fn a_broker_that_lies_is_found_out() {
        run(
            "lies",
            pubsub::faults::connections_cut_under_load_lose_no_acknowledged_message::<Flawed<LIES>>(
            ),
        );
    }

    #[test]
    #[should_panic(expected = "a ping without an answer")]
    fn a_ping_that_asks_nobody_is_found_out() {
        run(
            "pings nothing",
            state::faults::a_server_that_hangs_gives_no_ping::<Flawed<PINGS_NOTHING>>(),
        );
    }

    #[test]
    #[should_panic(expected = "a missing server is no Connection(Config)")]
    fn an_outage_that_is_taken_for_a_wrong_resource_is_found_out() {
        run(
            "blames",
            state::faults::a_server_that_comes_late_is_found::<Flawed<BLAMES_THE_RESOURCE>>(),
        );
    }

    #[test]
    #[should_panic(expected = "word of the dead connection")]
    fn a_loss_that_nobody_tells_is_found_out() {
        run(
            "keeps quiet",
            pubsub::faults::a_subscription_whose_connection_dies_is_told::<Flawed<KEEPS_QUIET>>(),
        );
    }
}
