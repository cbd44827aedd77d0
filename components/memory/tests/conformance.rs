//! The conformance suites against both types.

use std::time::Duration;

use outrigger_component_api::{Catalog, Properties};
use outrigger_component_memory::register;
use outrigger_testkit::suites::{Hold, pubsub, state};

struct Memory;

mod state_in_memory {
    use super::*;

    impl state::Harness for Memory {
        const TYPE: &'static str = "state.in-memory";
        const HABITS: state::Habits = state::Habits {
            empty_key: state::Verdict::Written,
            first_write_delete: state::Verdict::Mismatch,
            ..state::Habits::STRICT
        };

        fn register(catalog: &mut Catalog) {
            register(catalog);
        }

        async fn start(_: Hold) -> Self {
            Self
        }

        fn properties(&self) -> Properties {
            Properties::default()
        }
    }

    outrigger_testkit::state_suite!(Memory: basic, etag, transactional, ttl, keys_like, delete_with_prefix);
}

mod pubsub_in_memory {
    use super::*;

    impl pubsub::Harness for Memory {
        const TYPE: &'static str = "pubsub.in-memory";
        const HABITS: pubsub::Habits = pubsub::Habits {
            redelivery: Duration::from_secs(2),
            takeover: Duration::from_secs(2),
            counts_deliveries: true,
            ..pubsub::Habits::USUAL
        };

        fn register(catalog: &mut Catalog) {
            register(catalog);
        }

        async fn start(_: Hold) -> Self {
            Self
        }

        fn properties(&self) -> Properties {
            Properties::default()
        }
    }

    outrigger_testkit::pubsub_suite!(Memory: basic, serial, wildcards);
}
