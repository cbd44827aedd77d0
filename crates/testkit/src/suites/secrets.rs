//! What every secret store must do.
//!
//! Groups: `basic` for all; `multiple_values` for stores, and settings of stores, whose secrets may have several entries;
//! `faults` for stores whose source can be away. Numbers in the cases' docs are those of the specification's list.
//!
//! Start at [`Harness`].

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use outrigger_component_api::{
    Catalog, Class, ErrorKind, Metadata, Opener, Properties, SecretStore, SecretValue,
};

use crate::suites::Hold;
use crate::suites::open::{Opened, Resource, assert_requires};
use crate::wait;

/// Names of secrets, with their entries.
pub type Secrets = BTreeMap<String, BTreeMap<String, String>>;

/// How to test one secret store.
pub trait Harness: Sized + 'static {
    /// `secretstores.local.file`.
    const TYPE: &'static str;
    /// Properties without which the check must name them.
    const REQUIRED: &'static [&'static str] = &[];
    /// What reading a secret gives that is not there.
    const MISSING: Missing = Missing::Error;

    fn register(catalog: &mut Catalog);

    /// Gets hold of a store with the secrets of [`Harness::secrets`].
    fn start(hold: Hold) -> impl Future<Output = Self>;

    fn properties(&self) -> Properties;

    /// Secrets that can be read one by one and in bulk; at least two.
    fn secrets(&self) -> Secrets;

    /// Names that exist and must not be readable.
    fn withheld(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether a bulk read may give more than [`Harness::secrets`].
    fn has_more(&self) -> bool {
        false
    }

    /// Takes the source of the secrets away, after [`Hold::Own`].
    fn leave(&self) -> impl Future<Output = ()> {
        async { panic!("the group `faults` needs `Harness::leave`") }
    }

    /// Brings it back.
    fn come_back(&self) -> impl Future<Output = ()> {
        async { panic!("the group `faults` needs `Harness::come_back`") }
    }
}

/// What reading a secret gives that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// An error with the text `secret <name> not found`.
    Error,
    /// A single empty text under the name.
    Empty,
    /// `None`.
    None,
}

/// One test for each case of the named groups; see [`crate::suites`].
#[macro_export]
macro_rules! secrets_suite {
    ($harness:ty: $($group:ident),+ $(,)?) => {
        #[test]
        fn the_tested_groups_are_those_of_the_declared_features() {
            $crate::suites::run(
                "the_tested_groups_are_those_of_the_declared_features",
                $crate::suites::secrets::assert_groups::<$harness>(&[$(stringify!($group)),+]),
            );
        }
        $($crate::__secrets_group!($harness, $group);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __secrets_group {
    ($harness:ty, basic) => {
        $crate::__cases!($harness, secrets::basic,
            a_valid_resource_is_ready_and_closes_without_leftovers
            each_required_property_is_named_when_it_is_missing
            every_secret_can_be_read
            a_bulk_read_gives_the_same_as_single_ones
            a_missing_secret_gets_its_answer
            what_is_withheld_cannot_be_read
            without_the_feature_every_secret_has_one_entry_of_its_own_name
        );
    };
    ($harness:ty, multiple_values) => {
        $crate::__cases!($harness, secrets::multiple_values,
            some_secret_has_several_entries
        );
    };
    ($harness:ty, faults) => {
        $crate::__cases!($harness, secrets::faults,
            a_source_that_comes_late_is_found
            a_source_that_is_gone_gives_no_ping
        );
    };
}

/// The named groups are exactly those of the features that an instance declares.
#[doc(hidden)]
pub async fn assert_groups<H: Harness>(groups: &[&str]) {
    let bench = Bench::<H>::open().await;
    assert!(groups.contains(&"basic"));
    assert_eq!(
        groups.contains(&"multiple_values"),
        bench.store.has_multiple_values(),
        "the group `multiple_values`: tested (left), declared (right)"
    );
    bench.close().await;
}

struct Bench<H> {
    harness: H,
    store: Opened<dyn SecretStore>,
}

impl<H: Harness> Bench<H> {
    async fn open() -> Self {
        let harness = H::start(Hold::Shared).await;
        let store = Opened::ready(&opener::<H>(harness.properties())).await;
        Self { harness, store }
    }

    async fn read(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let found = self.store.get(name, &Metadata::new()).await;
        found.unwrap().map(|value| plain(&value))
    }

    async fn bulk(&self) -> Secrets {
        let all = self.store.bulk_get(&Metadata::new()).await.unwrap();
        all.into_iter()
            .map(|(name, value)| (name, plain(&value)))
            .collect()
    }

    async fn close(self) {
        self.store.close().await;
    }
}

fn resource<H: Harness>(properties: Properties) -> Resource {
    Resource {
        register: H::register,
        type_name: H::TYPE,
        properties,
    }
}

fn opener<H: Harness>(properties: Properties) -> Opener<dyn SecretStore> {
    resource::<H>(properties)
        .secret_store()
        .unwrap_or_else(|findings| panic!("the harness's properties: {findings:?}"))
}

fn plain(value: &SecretValue) -> BTreeMap<String, String> {
    value
        .iter()
        .map(|(name, secret)| (name.clone(), secret.reveal().to_owned()))
        .collect()
}

/// For every store.
pub mod basic {
    use super::*;

    pub async fn a_valid_resource_is_ready_and_closes_without_leftovers<H: Harness>() {
        let bench = Bench::<H>::open().await;
        bench.store.ping().await.unwrap();
        bench.close().await;
    }

    pub async fn each_required_property_is_named_when_it_is_missing<H: Harness>() {
        let harness = H::start(Hold::Shared).await;
        for name in H::REQUIRED {
            assert_requires(&harness.properties(), name, |properties| {
                resource::<H>(properties).secret_store().map(|_| ())
            });
        }
    }

    /// C1 and C5.
    pub async fn every_secret_can_be_read<H: Harness>() {
        let bench = Bench::<H>::open().await;
        let secrets = bench.harness.secrets();
        assert!(secrets.len() > 1, "the harness has too few secrets");
        for (name, value) in secrets {
            assert_eq!(bench.read(&name).await, Some(value), "{name}");
        }
        bench.close().await;
    }

    /// C2.
    pub async fn a_bulk_read_gives_the_same_as_single_ones<H: Harness>() {
        let bench = Bench::<H>::open().await;
        let (mut bulk, secrets) = (bench.bulk().await, bench.harness.secrets());
        if bench.harness.has_more() {
            bulk.retain(|name, _| secrets.contains_key(name));
        }
        assert_eq!(bulk, secrets);
        bench.close().await;
    }

    /// C3.
    pub async fn a_missing_secret_gets_its_answer<H: Harness>() {
        let bench = Bench::<H>::open().await;
        let name = "testkit-no-such-secret";
        assert_missing::<H>(&bench, name).await;
        assert!(!bench.bulk().await.contains_key(name));
        bench.close().await;
    }

    /// C6.
    pub async fn what_is_withheld_cannot_be_read<H: Harness>() {
        let bench = Bench::<H>::open().await;
        let bulk = bench.bulk().await;
        for name in bench.harness.withheld() {
            assert_missing::<H>(&bench, &name).await;
            assert!(!bulk.contains_key(&name), "{name} is in a bulk read");
        }
        bench.close().await;
    }

    /// C4.
    pub async fn without_the_feature_every_secret_has_one_entry_of_its_own_name<H: Harness>() {
        let bench = Bench::<H>::open().await;
        if !bench.store.has_multiple_values() {
            for (name, value) in bench.bulk().await {
                let names: Vec<&String> = value.keys().collect();
                assert_eq!(names, [&name]);
            }
        }
        bench.close().await;
    }

    async fn assert_missing<H: Harness>(bench: &Bench<H>, name: &str) {
        let found = bench.store.get(name, &Metadata::new()).await;
        match H::MISSING {
            Missing::Error => {
                let error = found.expect_err("it is missing");
                assert_eq!(error.message, format!("secret {name} not found"));
                assert!(!error.doubts_connection(), "the store answered: {error:?}");
            }
            Missing::Empty => {
                let value = plain(&found.unwrap().expect("an empty text"));
                assert_eq!(value, BTreeMap::from([(name.to_owned(), String::new())]));
            }
            Missing::None => assert_eq!(found, Ok(None)),
        }
    }
}

/// For stores that declare it.
pub mod multiple_values {
    use super::*;

    /// C4.
    pub async fn some_secret_has_several_entries<H: Harness>() {
        let bench = Bench::<H>::open().await;
        let all = bench.bulk().await;
        assert!(all.values().any(|value| value.len() > 1), "{all:?}");
        bench.close().await;
    }
}

/// For stores whose source can be away.
pub mod faults {
    use super::*;

    pub async fn a_source_that_comes_late_is_found<H: Harness>() {
        let harness = H::start(Hold::Own).await;
        harness.leave().await;
        let opener = opener::<H>(harness.properties());
        let attempt = async { Opened::attempt(&opener).await?.ping().await };
        let attempt = wait::within("an attempt", Duration::from_secs(10), attempt).await;
        let kind = attempt.expect_err("the source is away").kind;
        assert!(
            matches!(
                kind,
                ErrorKind::Connection(Class::Transient | Class::Timeout)
            ),
            "a missing source is no {kind:?}"
        );
        harness.come_back().await;
        let store = Opened::ready(&opener).await;
        for (name, value) in harness.secrets() {
            let found = store.get(&name, &Metadata::new()).await.unwrap().unwrap();
            assert_eq!(plain(&found), value);
        }
        store.close().await;
    }

    pub async fn a_source_that_is_gone_gives_no_ping<H: Harness>() {
        let harness = H::start(Hold::Own).await;
        let store = Opened::ready(&opener::<H>(harness.properties())).await;
        harness.leave().await;
        let ping = wait::within("a ping", Duration::from_secs(5), store.ping()).await;
        let error = ping.expect_err("the source is away");
        assert!(error.doubts_connection(), "{error:?}");
        harness.come_back().await;
        wait::until("a ping", Duration::from_secs(10), async || {
            store.ping().await
        })
        .await;
        store.close().await;
    }
}

#[cfg(test)]
mod tests {
    use crate::suites::tests::assert_all_listed;

    #[test]
    fn every_case_is_listed_in_the_macro() {
        assert_all_listed(include_str!("secrets.rs"), include_str!("secrets.rs"));
    }
}
