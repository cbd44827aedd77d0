//! What every state store must do.
//!
//! Groups: `basic` for all; `etag`, `transactional`, `ttl`, `keys_like` and `delete_with_prefix` for stores that declare
//! the feature of that name; `faults` for stores with a server. The numbers in the cases' docs are those of the
//! specification's list.
//!
//! Start at [`Harness`] and [`Habits`].

pub mod basic;
pub mod delete_with_prefix;
pub mod etag;
pub mod faults;
pub mod keys_like;
pub mod transactional;
pub mod ttl;

use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use outrigger_component_api::{
    Bytes, Catalog, ComponentError, Concurrency, Consistency, Delete, ErrorKind, Get, Metadata,
    Opener, Properties, Set, StateItem, StateStore, Value,
};

use crate::proxy::Proxy;
use crate::servers::Server;
use crate::suites::open::{Opened, Resource};
use crate::suites::{Hold, unique};

/// How to test one state store.
pub trait Harness: Sized + 'static {
    /// `state.redis`.
    const TYPE: &'static str;
    /// Where the store is known to differ.
    const HABITS: Habits = Habits::STRICT;

    fn register(catalog: &mut Catalog);

    /// Gets hold of a server that answers, or of whatever the store keeps its data in.
    fn start(hold: Hold) -> impl Future<Output = Self>;

    /// Properties of a valid resource. Two instances opened with them see the same data.
    fn properties(&self) -> Properties;

    /// Properties whose credentials the server refuses, after [`Hold::Own`]. `None` says that it never asks for any.
    fn wrong_credentials(&self) -> Option<Properties> {
        panic!("the group `faults` needs `Harness::wrong_credentials`");
    }

    /// The server, after [`Hold::Own`].
    fn server(&self) -> &dyn Server {
        panic!("the group `faults` needs `Harness::server`");
    }

    /// The proxy that the properties lead through, after [`Hold::Own`].
    fn proxy(&self) -> &Proxy {
        panic!("the group `faults` needs `Harness::proxy`");
    }
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Written,
    /// [`ErrorKind::EtagMismatch`].
    Mismatch,
    /// [`ErrorKind::EtagInvalid`].
    Invalid,
    /// Any other error.
    Refused,
}

/// Where state stores differ.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Properties without which the check must name them.
    pub required: &'static [&'static str],
    /// A tag of the right form that no value has.
    pub strange_tag: &'static str,
    /// A tag of the wrong form, and what a set and a delete with it give.
    pub malformed_tag: (&'static str, Verdict, Verdict),
    /// A set with a tag where there is no value.
    pub tagged_set_of_absent: Verdict,
    /// A delete with a tag where there is no value.
    pub tagged_delete_of_absent: Verdict,
    /// A first-write set without tag over a value that was written in the usual way.
    pub first_write_over_usual: Verdict,
    /// A first-write delete without tag of a value.
    pub first_write_delete: Verdict,
    /// A set with an empty key.
    pub empty_key: Verdict,
    /// The least and the most that `ttlInSeconds` may be; `None` for any number.
    pub ttl_limits: Option<(i64, i64)>,
    /// Writing without `ttlInSeconds` keeps the end that the value had.
    pub rewriting_keeps_ttl: bool,
    /// A transaction that fails leaves nothing behind.
    pub is_atomic: bool,
}

impl Habits {
    /// What most stores do, and what a new one should.
    pub const STRICT: Self = Self {
        required: &[],
        strange_tag: "00000000-0000-4000-8000-000000000000",
        malformed_tag: ("not a tag", Verdict::Mismatch, Verdict::Mismatch),
        tagged_set_of_absent: Verdict::Mismatch,
        tagged_delete_of_absent: Verdict::Mismatch,
        first_write_over_usual: Verdict::Mismatch,
        first_write_delete: Verdict::Written,
        empty_key: Verdict::Refused,
        ttl_limits: None,
        rewriting_keeps_ttl: false,
        is_atomic: true,
    };
}

/// One test for each case of the named groups; see [`crate::suites`].
#[macro_export]
macro_rules! state_suite {
    ($harness:ty: $($group:ident),+ $(,)?) => {
        #[test]
        fn the_tested_groups_are_those_of_the_declared_features() {
            $crate::suites::run(
                "the_tested_groups_are_those_of_the_declared_features",
                $crate::suites::state::assert_groups::<$harness>(&[$(stringify!($group)),+]),
            );
        }
        $($crate::__state_group!($harness, $group);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __state_group {
    ($harness:ty, basic) => {
        $crate::__cases!($harness, state::basic,
            a_valid_resource_is_ready_and_closes_without_leftovers
            each_required_property_is_named_when_it_is_missing
            json_comes_back_as_it_was_written
            bytes_come_back_as_they_were_written
            numbers_keep_every_digit
            a_value_may_change_its_form
            an_absent_key_is_no_error
            a_value_may_be_deleted_more_than_once
            an_empty_key_gets_its_verdict
            a_bulk_read_answers_for_every_key
            names_with_quotes_and_sql_are_only_names
            two_instances_see_the_same_values
            a_call_that_is_dropped_harms_no_other
            what_is_not_declared_is_unsupported
        );
    };
    ($harness:ty, etag) => {
        $crate::__cases!($harness, state::etag,
            every_write_gives_a_new_tag_on_which_all_reads_agree
            a_wrong_tag_changes_nothing
            a_malformed_tag_gets_its_verdict
            the_right_tag_serves_once
            a_tag_for_an_absent_key_gets_its_verdict
            of_two_first_writes_the_second_is_refused
            a_first_write_over_a_usual_one_gets_its_verdict
            a_first_write_with_a_stale_tag_loses
            a_first_write_delete_gets_its_verdict
            a_deleted_value_can_be_written_first_again
            fifty_increments_at_once_lose_none
        );
    };
    ($harness:ty, transactional) => {
        $crate::__cases!($harness, state::transactional,
            operations_are_applied_in_their_order
            of_several_operations_on_a_key_the_last_one_stays
            one_wrong_tag_fails_the_transaction
            right_tags_let_a_transaction_pass_and_change
            a_transaction_beyond_the_limit_is_refused
            an_empty_transaction_does_nothing
            a_bad_ttl_fails_the_transaction
            a_hundred_operations_fit
        );
    };
    ($harness:ty, ttl) => {
        $crate::__cases!($harness, state::ttl,
            a_value_lives_as_long_as_it_was_given
            a_ttl_that_is_no_number_changes_nothing
            a_ttl_out_of_range_gets_its_verdict
            the_end_of_a_value_is_told
            minus_one_and_zero_lift_the_end
            rewriting_without_ttl_does_as_the_store_is_known_to
            an_expired_value_counts_as_absent
            a_transaction_can_give_a_ttl
        );
    };
    ($harness:ty, keys_like) => {
        $crate::__cases!($harness, state::keys_like,
            patterns_match_as_in_sql
            pages_are_full_and_hold_every_key_once
            without_a_page_size_all_keys_come_at_once
            keys_that_go_between_two_pages_do_no_harm
            an_empty_pattern_is_refused
        );
    };
    ($harness:ty, delete_with_prefix) => {
        $crate::__cases!($harness, state::delete_with_prefix,
            only_keys_right_below_the_prefix_go
            a_prefix_gets_its_separator
            an_empty_prefix_is_refused
        );
    };
    ($harness:ty, faults) => {
        $crate::__cases!($harness, state::faults,
            a_server_that_comes_late_is_found
            a_server_that_hangs_gives_no_ping
            wrong_credentials_are_told_from_a_missing_server
            a_server_killed_under_load_loses_no_acknowledged_write
            connections_cut_under_load_lose_no_acknowledged_write
        );
    };
}

/// The named groups are exactly those of the features that an instance declares.
#[doc(hidden)]
pub async fn assert_groups<H: Harness>(groups: &[&str]) {
    let bench = Bench::<H>::open().await;
    let features = bench.features();
    let declared = [
        (true, "basic"),
        (features.etag, "etag"),
        (features.transactional, "transactional"),
        (features.ttl, "ttl"),
        (features.keys_like, "keys_like"),
        (features.delete_with_prefix, "delete_with_prefix"),
    ];
    for (is_declared, group) in declared {
        assert_eq!(
            groups.contains(&group),
            is_declared,
            "the group `{group}`: tested (left), declared (right)"
        );
    }
    bench.close().await;
}

/// An instance, and keys of its own.
struct Bench<H> {
    harness: H,
    opener: Opener<dyn StateStore>,
    store: Opened<dyn StateStore>,
    prefix: String,
}

impl<H: Harness> Bench<H> {
    async fn open() -> Self {
        let harness = H::start(Hold::Shared).await;
        let opener = opener::<H>(harness.properties());
        let store = Opened::ready(&opener).await;
        Self {
            harness,
            opener,
            store,
            prefix: format!("testkit||{}||", unique("case")),
        }
    }

    /// A key that only this case has.
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Writes and gives the new tag, where the store has tags.
    async fn put(&self, key: &str, json: &str) -> String {
        self.set(&put(key, json)).await.unwrap();
        self.read(key).await.unwrap().etag.unwrap_or_default()
    }

    async fn read(&self, key: &str) -> Option<StateItem> {
        self.get(&get(key)).await.unwrap()
    }

    /// The text of a value; panics when there is none.
    async fn text(&self, key: &str) -> String {
        let item = self.read(key).await;
        let item = item.unwrap_or_else(|| panic!("no value under {key:?}"));
        String::from_utf8(item.data.to_vec()).unwrap()
    }

    async fn close(self) {
        self.store.close().await;
        drop(self.harness);
    }
}

impl<H> Deref for Bench<H> {
    type Target = dyn StateStore;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

fn opener<H: Harness>(properties: Properties) -> Opener<dyn StateStore> {
    let resource = Resource {
        register: H::register,
        type_name: H::TYPE,
        properties,
    };
    resource
        .state_store()
        .unwrap_or_else(|findings| panic!("the harness's properties: {findings:?}"))
}

fn get(key: &str) -> Get {
    Get {
        key: key.to_owned(),
        ..Get::default()
    }
}

fn put(key: &str, json: &str) -> Set {
    let json = Bytes::copy_from_slice(json.as_bytes());
    put_value(key, Value::Json(json))
}

fn put_value(key: &str, value: Value) -> Set {
    Set {
        key: key.to_owned(),
        value,
        etag: None,
        concurrency: Concurrency::Unset,
        consistency: Consistency::Unset,
        metadata: Metadata::new(),
    }
}

fn delete(key: &str) -> Delete {
    Delete {
        key: key.to_owned(),
        etag: None,
        concurrency: Concurrency::Unset,
        consistency: Consistency::Unset,
        metadata: Metadata::new(),
    }
}

/// Options of sets and deletes, chained.
trait Options: Sized {
    fn tagged(self, tag: &str) -> Self;
    fn first_write(self) -> Self;
}

impl Options for Set {
    fn tagged(mut self, tag: &str) -> Self {
        self.etag = Some(tag.to_owned());
        self
    }

    fn first_write(mut self) -> Self {
        self.concurrency = Concurrency::FirstWrite;
        self
    }
}

impl Options for Delete {
    fn tagged(mut self, tag: &str) -> Self {
        self.etag = Some(tag.to_owned());
        self
    }

    fn first_write(mut self) -> Self {
        self.concurrency = Concurrency::FirstWrite;
        self
    }
}

fn living(mut set: Set, seconds: &str) -> Set {
    set.metadata
        .insert("ttlInSeconds".to_owned(), seconds.to_owned());
    set
}

#[track_caller]
fn assert_verdict(result: &Result<(), ComponentError>, expected: Verdict) {
    let found = match result.as_ref().map_err(|error| error.kind) {
        Ok(()) => Verdict::Written,
        Err(ErrorKind::EtagMismatch) => Verdict::Mismatch,
        Err(ErrorKind::EtagInvalid) => Verdict::Invalid,
        Err(_) => Verdict::Refused,
    };
    assert_eq!(found, expected, "{result:?}");
}

/// Long enough for a value that lives one second to be gone.
const EXPIRY: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use crate::suites::tests::assert_all_listed;

    #[test]
    fn every_case_is_listed_in_the_macro() {
        let list = include_str!("mod.rs");
        for cases in [
            include_str!("basic.rs"),
            include_str!("etag.rs"),
            include_str!("transactional.rs"),
            include_str!("ttl.rs"),
            include_str!("keys_like.rs"),
            include_str!("delete_with_prefix.rs"),
            include_str!("faults.rs"),
        ] {
            assert_all_listed(list, cases);
        }
    }
}
