//! The conformance suites: what every component of a kind must do.
//!
//! A component runs its suite in `tests/conformance.rs`. It says how to get hold of its server and with which properties
//! to open an instance ([`state::Harness`] and its siblings), and names the groups of cases that apply to it. Each case
//! becomes one test with a sentence for a name:
//!
//! ```
//! use outrigger_component_api::{Catalog, Properties};
//! use outrigger_testkit::suites::{Hold, properties, state};
//! # fn register(_: &mut Catalog) {}
//!
//! struct Redis;
//!
//! impl state::Harness for Redis {
//!     const TYPE: &'static str = "state.redis";
//!     const HABITS: state::Habits = state::Habits {
//!         required: &["redisHost"],
//!         strange_tag: "4711",
//!         ..state::Habits::STRICT
//!     };
//!
//!     fn register(catalog: &mut Catalog) {
//!         register(catalog);
//!     }
//!
//!     async fn start(_hold: Hold) -> Self {
//!         // Here: `RedisServer::shared()` or, for `Hold::Own`, a server and a proxy of the case's own.
//!         Self
//!     }
//!
//!     fn properties(&self) -> Properties {
//!         properties([("redisHost", "127.0.0.1:6379")])
//!     }
//! }
//!
//! outrigger_testkit::state_suite!(Redis: basic, etag, transactional, ttl, keys_like, faults);
//! ```
//!
//! A group that is not named is not run, and that is visible where it is not named: one test compares the named groups
//! with the features that an opened instance declares, and fails when they differ. What a store does differently from
//! the others, as the tables of the documentation allow, is a constant of its harness (`HABITS`), never a condition in
//! a case. To run a suite twice with different harnesses, put each call into a module of its own.
//!
//! | suite | macro | groups |
//! |---|---|---|
//! | [`state`] | `state_suite!` | `basic etag transactional ttl keys_like delete_with_prefix faults` |
//! | [`pubsub`] | `pubsub_suite!` | `basic serial parallel groups durable message_ttl wildcards refusal ack_deadline faults` |
//! | [`secrets`] | `secrets_suite!` | `basic multiple_values faults` |
//! | [`names`] | `names_suite!` | `basic departure` |
//!
//! Cases of the groups `faults` ask for [`Hold::Own`] and then use `Harness::server` and `Harness::proxy`; the properties
//! must lead through the proxy. All other cases ask for [`Hold::Shared`]: they use keys, topics and consumer ids of their
//! own, so that one server can serve all of them at once.
//!
//! [`open`] is for a component's further tests: it opens instances the way the sidecar does, from a catalog and properties.

pub mod names;
pub mod open;
pub mod pubsub;
pub mod secrets;
pub mod state;
mod supervised;

use std::future::Future;
use std::time::Duration;

use outrigger_component_api::{Properties, Property, PropertyValue};

/// A case that takes longer is broken.
const CASE_DEADLINE: Duration = Duration::from_secs(180);

/// What a case is going to do with the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Use it beside other cases.
    Shared,
    /// Stop, kill and cut off a server of its own, behind a proxy of its own.
    Own,
}

/// Properties from pairs whose values are computed.
pub fn properties<N: Into<String>, V: Into<String>>(
    pairs: impl IntoIterator<Item = (N, V)>,
) -> Properties {
    Properties(
        pairs
            .into_iter()
            .map(|(name, value)| Property {
                name: name.into(),
                value: PropertyValue::Text(value.into()),
            })
            .collect(),
    )
}

/// Runs one case to its end, on a runtime of its own.
///
/// # Panics
/// When it takes longer than three minutes.
#[doc(hidden)]
pub fn run(name: &str, case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async {
        // On the heap: some cases are large.
        let case = Box::pin(case);
        if tokio::time::timeout(CASE_DEADLINE, case).await.is_err() {
            panic!("the case `{name}` did not end within {CASE_DEADLINE:?}");
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

/// A name that no other case has.
pub(crate) fn unique(name: &str) -> String {
    let id = uuid::Uuid::new_v4().as_u64_pair().0;
    format!("{name}-{id:016x}")
}

/// One test for each case; used by the suites' macros.
#[doc(hidden)]
#[macro_export]
macro_rules! __cases {
    ($harness:ty, $suite:ident :: $group:ident, $($case:ident)+) => {
        $(
            #[test]
            fn $case() {
                $crate::suites::run(
                    stringify!($case),
                    $crate::suites::$suite::$group::$case::<$harness>(),
                );
            }
        )+
    };
}

#[cfg(test)]
pub(crate) mod tests {
    /// Every case of a module is in the list of its suite's macro; a case that is not would never run.
    pub(crate) fn assert_all_listed(list: &str, cases: &str) {
        let mut count = 0;
        for line in cases.lines() {
            if let Some(name) = line.trim_start().strip_prefix("pub async fn ") {
                let name = name.split(['<', '(']).next().unwrap_or(name);
                if name == "assert_groups" {
                    continue;
                }
                let is_listed = list.lines().any(|line| line.trim() == name);
                assert!(is_listed, "`{name}` is not listed");
                count += 1;
            }
        }
        assert!(count > 0, "no case found");
    }
}
