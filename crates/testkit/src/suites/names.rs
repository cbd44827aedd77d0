//! What every name resolver must do.
//!
//! Groups: `basic` for all; `departure` for resolvers that keep a registry themselves, as mdns and sqlite do and a
//! DNS template does not. Numbers in the cases' docs are those of the specification's list.
//!
//! Start at [`Harness`] and [`Habits`].

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use outrigger_component_api::{
    AppId, Catalog, Instance, NameResolver, Namespace, Opener, Properties,
};

use crate::suites::open::{Opened, Resource};
use crate::suites::{Hold, unique};
use crate::{ports, wait};

/// How to test one name resolver.
pub trait Harness: Sized + 'static {
    /// `nameresolution.mdns`.
    const TYPE: &'static str;
    const HABITS: Habits = Habits::USUAL;

    fn register(catalog: &mut Catalog);

    /// Gets hold of whatever the resolver registers with.
    fn start(hold: Hold) -> impl Future<Output = Self>;

    /// Properties with which all instances find each other.
    fn properties(&self) -> Properties;

    /// The error of an id that nobody answers to, when callers compare it.
    fn unknown(&self, id: &str) -> Option<String> {
        let _ = id;
        None
    }
}

/// Where name resolvers differ.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// An instance that is there is found within this time.
    pub arrival: Duration,
    /// An instance that said goodbye is gone within this time.
    pub farewell: Duration,
    /// An instance that died silently is gone within this time.
    pub death: Duration,
}

impl Habits {
    pub const USUAL: Self = Self {
        arrival: Duration::from_secs(10),
        farewell: Duration::from_secs(5),
        death: Duration::from_secs(90),
    };
}

/// One test for each case of the named groups; see [`crate::suites`].
#[macro_export]
macro_rules! names_suite {
    ($harness:ty: $($group:ident),+ $(,)?) => {
        $($crate::__names_group!($harness, $group);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __names_group {
    ($harness:ty, basic) => {
        $crate::__cases!($harness, names::basic,
            a_resolver_is_ready_and_closes_without_leftovers
            an_app_finds_itself_and_its_peer
            an_id_is_found_as_it_is_written
            an_id_that_nobody_has_is_an_error_soon
            two_instances_of_an_app_are_both_found
            a_thousand_lookups_at_once_all_succeed
            an_address_that_cannot_be_reached_does_not_hide_the_app
        );
    };
    ($harness:ty, departure) => {
        $crate::__cases!($harness, names::departure,
            an_instance_that_says_goodbye_is_gone
            an_instance_that_dies_is_gone_in_the_end
        );
    };
}

const NAMESPACE: &str = "default";

/// One sidecar as the resolver sees it.
struct Peer {
    resolver: Opened<dyn NameResolver>,
    address: String,
}

impl Peer {
    async fn open<H: Harness>(harness: &H, id: &str) -> Self {
        let port = ports::free();
        let instance = Instance {
            app_id: AppId::from(id),
            namespace: Namespace::from(NAMESPACE),
            address: "127.0.0.1".to_owned(),
            http_port: ports::free(),
            internal_port: port,
            app_port: Some(ports::free()),
        };
        let resource = Resource {
            register: H::register,
            type_name: H::TYPE,
            properties: harness.properties(),
        };
        let opener: Opener<dyn NameResolver> = resource
            .name_resolver(&instance)
            .unwrap_or_else(|findings| panic!("the harness's properties: {findings:?}"));
        Self {
            resolver: Opened::ready(&opener).await,
            address: format!("127.0.0.1:{port}"),
        }
    }

    async fn addresses(&self, id: &str) -> Result<BTreeSet<String>, String> {
        let resolved = self.resolver.resolve(id, NAMESPACE).await;
        resolved
            .map(|resolved| resolved.addresses.into_iter().collect())
            .map_err(|error| error.message)
    }

    /// Asks until all of these were among the answers and, in one answer, nothing else.
    async fn finds<H: Harness>(&self, id: &str, wanted: &[&Self]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|peer| peer.address.clone()).collect();
        let mut seen = BTreeSet::new();
        let what = format!("{wanted:?} for {id}");
        wait::until(what, H::HABITS.arrival, async || {
            let found = self.addresses(id).await?;
            seen.extend(found.iter().cloned());
            if seen.is_superset(&wanted) && found.is_subset(&wanted) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
    }

    /// Asks until an answer lacks this address, and checks that it stays away.
    async fn loses(&self, id: &str, gone: &str, deadline: Duration) {
        let what = format!("an answer for {id} without {gone}");
        wait::until(what, deadline, async || match self.addresses(id).await {
            Ok(found) if found.contains(gone) => Err(found),
            Ok(_) | Err(_) => Ok(()),
        })
        .await;
        wait::never("its return", Duration::from_secs(2), async || {
            self.addresses(id)
                .await
                .is_ok_and(|found| found.contains(gone))
        })
        .await;
    }

    async fn close(self) {
        self.resolver.close().await;
    }
}

/// For every resolver.
pub mod basic {
    use super::*;

    pub async fn a_resolver_is_ready_and_closes_without_leftovers<H: Harness>() {
        let harness = H::start(Hold::Shared).await;
        let peer = Peer::open(&harness, &unique("app")).await;
        peer.resolver.ping().await.unwrap();
        peer.close().await;
    }

    /// N1.
    pub async fn an_app_finds_itself_and_its_peer<H: Harness>() {
        let harness = H::start(Hold::Shared).await;
        let (a, b) = (unique("a"), unique("b"));
        let first = Peer::open(&harness, &a).await;
        let second = Peer::open(&harness, &b).await;
        for peer in [&first, &second] {
            peer.finds::<H>(&a, &[&first]).await;
            peer.finds::<H>(&b, &[&second]).await;
        }
        first.close().await;
        second.close().await;
    }

    /// N7.
    pub async fn an_id_is_found_as_it_is_written<H: Harness>() {
        let harness = H::start(Hold::Shared).await;
        let id = unique("App-With-UPPER_case");
        let first = Peer::open(&harness, &id).await;
        let second = Peer::open(&harness, &unique("other")).await;
        second.finds::<H>(&id, &[&first]).await;
        first.close().await;
        second.close().await;
    }

    /// N5.
    pub async fn an_id_that_nobody_has_is_an_error_soon<H: Harness>() {
        let harness = H::start(Hold::Shared).await;
        let peer = Peer::open(&harness, &unique("app")).await;
        let id = unique("nobody");
        let asked = peer.addresses(&id);
        let answer = wait::within("an answer", Duration::from_secs(2), asked).await;
        let message = answer.expect_err("nobody has this id");
        if let Some(expected) = harness.unknown(&id) {
            assert_eq!(message, expected);
        }
        peer.close().await;
    }

    /// N2.
    pub async fn two_instances_of_an_app_are_both_found<H: Harness>() {
        let harness = H::start(Hold::Shared).await;
        let id = unique("app");
        let first = Peer::open(&harness, &id).await;
        let second = Peer::open(&harness, &id).await;
        let caller = Peer::open(&harness, &unique("caller")).await;
        caller.finds::<H>(&id, &[&first, &second]).await;
        for peer in [first, second, caller] {
            peer.close().await;
        }
    }

    /// N11.
    pub async fn a_thousand_lookups_at_once_all_succeed<H: Harness>() {
        let harness = H::start(Hold::Shared).await;
        let id = unique("app");
        let first = Peer::open(&harness, &id).await;
        let caller = Peer::open(&harness, &unique("caller")).await;
        // Announcements take their time; what is tested is the number.
        caller.finds::<H>(&id, &[&first]).await;
        let fresh = Peer::open(&harness, &unique("fresh")).await;
        let lookups = join_all((0..1000).map(|_| fresh.addresses(&id)));
        let answers = wait::within("1000 answers", Duration::from_secs(10), lookups).await;
        for answer in answers {
            assert_eq!(answer, Ok(BTreeSet::from([first.address.clone()])));
        }
        for peer in [first, caller, fresh] {
            peer.close().await;
        }
    }

    pub async fn an_address_that_cannot_be_reached_does_not_hide_the_app<H: Harness>() {
        let harness = H::start(Hold::Shared).await;
        let id = unique("app");
        let first = Peer::open(&harness, &id).await;
        let caller = Peer::open(&harness, &unique("caller")).await;
        caller.finds::<H>(&id, &[&first]).await;
        let address = first.address.clone();
        caller.resolver.unreachable(&id, NAMESPACE, &address).await;
        caller.finds::<H>(&id, &[&first]).await;
        first.close().await;
        caller.close().await;
    }
}

/// For resolvers that keep a registry.
pub mod departure {
    use super::*;

    /// N4.
    pub async fn an_instance_that_says_goodbye_is_gone<H: Harness>() {
        let harness = H::start(Hold::Shared).await;
        let id = unique("app");
        let first = Peer::open(&harness, &id).await;
        let second = Peer::open(&harness, &id).await;
        let caller = Peer::open(&harness, &unique("caller")).await;
        caller.finds::<H>(&id, &[&first, &second]).await;
        first.resolver.leave().await;
        let farewell = H::HABITS.farewell;
        caller.loses(&id, &first.address, farewell).await;
        caller.finds::<H>(&id, &[&second]).await;
        // Leaving the registry does not end the resolver's own look-ups.
        first.finds::<H>(&id, &[&second]).await;
        for peer in [first, second, caller] {
            peer.close().await;
        }
    }

    /// N3.
    pub async fn an_instance_that_dies_is_gone_in_the_end<H: Harness>() {
        let harness = H::start(Hold::Shared).await;
        let id = unique("app");
        let first = Peer::open(&harness, &id).await;
        let caller = Peer::open(&harness, &unique("caller")).await;
        caller.finds::<H>(&id, &[&first]).await;
        let address = first.address.clone();
        // No farewell, as when a process is killed.
        drop(first);
        caller.loses(&id, &address, H::HABITS.death).await;
        caller.close().await;
    }
}

#[cfg(test)]
mod tests {
    use crate::suites::tests::assert_all_listed;

    #[test]
    fn every_case_is_listed_in_the_macro() {
        assert_all_listed(include_str!("names.rs"), include_str!("names.rs"));
    }
}
