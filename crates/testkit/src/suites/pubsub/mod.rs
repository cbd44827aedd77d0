//! What every message broker must do.
//!
//! | group | for brokers |
//! |---|---|
//! | `basic` | all |
//! | `serial` | that can hand out one message at a time, in order: [`Harness::serial`] |
//! | `parallel` | that can hand out several at once: [`Harness::parallel`] |
//! | `groups` | that declare that consumers with one `consumerID` share the messages |
//! | `durable` | that keep messages while nobody is subscribed |
//! | `message_ttl`, `wildcards` | that declare the feature |
//! | `refusal` | that can refuse a publish: [`Harness::refused`] |
//! | `ack_deadline` | that hand a message to another consumer when the first takes too long: [`Harness::impatient`] |
//! | `faults` | with a server |
//!
//! The suite adds `consumerID` to the harness's properties, as the runtime does. Numbers in the cases' docs are those of
//! the specification's list. Start at [`Harness`] and [`Habits`].

pub mod ack_deadline;
pub mod basic;
pub mod durable;
pub mod faults;
pub mod groups;
mod inbox;
pub mod message_ttl;
pub mod parallel;
pub mod refusal;
pub mod serial;
pub mod wildcards;

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use outrigger_component_api::{
    Bytes, Catalog, Metadata, Opener, Properties, Property, PropertyValue, PubSub, Publish, Source,
    Subscribe,
};

use crate::proxy::Proxy;
use crate::servers::Server;
use crate::suites::open::{Opened, Resource};
use crate::suites::{Hold, unique};
use crate::wait;
use inbox::{Inbox, Reply};

/// How to test one message broker.
pub trait Harness: Sized + 'static {
    /// `pubsub.redis`.
    const TYPE: &'static str;
    /// Where the broker is known to differ.
    const HABITS: Habits = Habits::USUAL;

    fn register(catalog: &mut Catalog);

    /// Gets hold of a server that answers.
    fn start(hold: Hold) -> impl Future<Output = Self>;

    /// Properties of a valid resource, without `consumerID`. Failed messages should come again soon.
    fn properties(&self) -> Properties;

    /// Metadata of each subscription.
    fn subscription(&self) -> Metadata {
        Metadata::new()
    }

    /// Properties with which one message is handled at a time.
    fn serial(&self) -> Properties {
        self.properties()
    }

    /// Properties with which up to `most` messages are handled at a time.
    fn parallel(&self, most: usize) -> Properties {
        panic!("the group `parallel` needs `Harness::parallel` for {most}");
    }

    /// A topic to subscribe to that takes every topic with this beginning.
    fn wildcard(&self, beginning: &str) -> String {
        format!("{beginning}*")
    }

    /// Properties and a publish that the server refuses under them. Called after a subscription to `topic`, by which the
    /// refusal may come about, as with a queue that is full.
    fn refused(&self, topic: &str) -> (Properties, Publish) {
        panic!("the group `refusal` needs `Harness::refused` for {topic}");
    }

    /// Properties with a time after which a message that is being handled may go to another consumer, and that time.
    fn impatient(&self) -> (Properties, Duration) {
        panic!("the group `ack_deadline` needs `Harness::impatient`");
    }

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

/// Where message brokers differ.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Properties without which the check must name them.
    pub required: &'static [&'static str],
    /// With the harness's properties, a message that failed comes again within this time.
    pub redelivery: Duration,
    /// With the harness's properties, the messages of a consumer that vanished reach another within this time.
    pub takeover: Duration,
    /// `Message::delivery` is exact.
    pub counts_deliveries: bool,
}

impl Habits {
    pub const USUAL: Self = Self {
        required: &[],
        redelivery: Duration::from_secs(6),
        takeover: Duration::from_secs(10),
        counts_deliveries: false,
    };
}

/// One test for each case of the named groups; see [`crate::suites`].
#[macro_export]
macro_rules! pubsub_suite {
    ($harness:ty: $($group:ident),+ $(,)?) => {
        #[test]
        fn the_tested_groups_are_those_of_the_declared_features() {
            $crate::suites::run(
                "the_tested_groups_are_those_of_the_declared_features",
                $crate::suites::pubsub::assert_groups::<$harness>(&[$(stringify!($group)),+]),
            );
        }
        $($crate::__pubsub_group!($harness, $group);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __pubsub_group {
    ($harness:ty, basic) => {
        $crate::__cases!($harness, pubsub::basic,
            a_valid_resource_is_ready_and_closes_without_leftovers
            each_required_property_is_named_when_it_is_missing
            every_message_arrives_as_it_was_sent
            publishing_from_many_tasks_at_once_loses_nothing
            a_failed_message_comes_again_until_it_is_done
            a_message_given_up_does_not_come_again
            a_slow_topic_does_not_hold_another_up
            the_end_of_one_subscription_leaves_the_others
            while_paused_nothing_is_handed_out
            what_is_being_handled_is_counted
            closing_does_not_wait_for_handlers
            a_subscription_that_was_closed_did_not_end_on_its_own
            publishing_after_close_fails
            a_released_message_stays_with_the_broker
            what_was_not_handed_out_is_given_back
        );
    };
    ($harness:ty, serial) => {
        $crate::__cases!($harness, pubsub::serial,
            messages_come_one_at_a_time_and_in_order
        );
    };
    ($harness:ty, parallel) => {
        $crate::__cases!($harness, pubsub::parallel,
            as_many_messages_as_set_are_handled_at_once
            thousands_of_messages_never_exceed_the_limit
        );
    };
    ($harness:ty, groups) => {
        $crate::__cases!($harness, pubsub::groups,
            two_consumers_of_one_group_share_the_messages
            a_second_subscription_of_one_instance_takes_over_without_a_gap
            two_groups_get_every_message
            what_a_paused_consumer_released_goes_to_its_peer
        );
    };
    ($harness:ty, durable) => {
        $crate::__cases!($harness, pubsub::durable,
            messages_wait_for_their_subscriber
            the_message_of_a_consumer_that_vanished_goes_to_another
            after_a_graceful_stop_nothing_is_lost_or_repeated
            a_message_given_up_stays_away_after_a_restart
        );
    };
    ($harness:ty, message_ttl) => {
        $crate::__cases!($harness, pubsub::message_ttl,
            a_message_that_nobody_fetched_in_time_is_gone
        );
    };
    ($harness:ty, wildcards) => {
        $crate::__cases!($harness, pubsub::wildcards,
            a_pattern_takes_every_topic_that_fits
        );
    };
    ($harness:ty, refusal) => {
        $crate::__cases!($harness, pubsub::refusal,
            a_refused_publish_is_an_error
        );
    };
    ($harness:ty, ack_deadline) => {
        $crate::__cases!($harness, pubsub::ack_deadline,
            a_slow_handler_is_not_run_twice
        );
    };
    ($harness:ty, faults) => {
        $crate::__cases!($harness, pubsub::faults,
            a_broker_that_comes_late_is_found
            a_broker_that_hangs_gives_no_ping
            wrong_credentials_are_told_from_a_missing_broker
            a_subscription_whose_connection_dies_is_told
            a_broker_killed_under_load_loses_no_acknowledged_message
            connections_cut_under_load_lose_no_acknowledged_message
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
        (features.message_ttl, "message_ttl"),
        (features.subscribe_wildcards, "wildcards"),
        (features.consumer_groups, "groups"),
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

/// An instance, with a topic and a consumer id of its own.
struct Bench<H> {
    harness: H,
    opener: Opener<dyn PubSub>,
    broker: Opened<dyn PubSub>,
    consumer: String,
    topic: String,
}

impl<H: Harness> Bench<H> {
    async fn open() -> Self {
        Self::with(H::properties).await
    }

    async fn with(properties: impl FnOnce(&H) -> Properties) -> Self {
        let harness = H::start(Hold::Shared).await;
        let consumer = unique("app");
        let opener = opener::<H>(properties(&harness), &consumer);
        let broker = Opened::ready(&opener).await;
        Self {
            harness,
            opener,
            broker,
            consumer,
            topic: unique("topic"),
        }
    }

    /// One more instance of the same resource, with the same consumer id.
    async fn peer(&self) -> Opened<dyn PubSub> {
        Opened::ready(&self.opener).await
    }

    /// Subscribes this instance to the case's topic.
    async fn subscribe(&self, inbox: &Arc<Inbox>) -> Box<dyn Source> {
        self.subscribe_at(&*self.broker, &self.topic, inbox).await
    }

    async fn subscribe_at(
        &self,
        broker: &dyn PubSub,
        topic: &str,
        inbox: &Arc<Inbox>,
    ) -> Box<dyn Source> {
        let request = Subscribe {
            topic: topic.to_owned(),
            metadata: self.harness.subscription(),
        };
        let subscribed = broker.subscribe(request, inbox.clone());
        wait::within("a subscription", Duration::from_secs(10), subscribed)
            .await
            .unwrap()
    }

    /// Publishes a text to the case's topic.
    async fn send(&self, text: &str) {
        let request = publication(&self.topic, text.as_bytes());
        self.publish(request).await.unwrap();
    }

    /// Publishes `<name>0`, `<name>1`… and gives the texts.
    async fn send_many(&self, name: &str, count: usize) -> Vec<String> {
        let texts: Vec<String> = (0..count).map(|i| format!("{name}{i}")).collect();
        for text in &texts {
            self.send(text).await;
        }
        texts
    }

    async fn close(self) {
        self.broker.close().await;
        drop(self.harness);
    }
}

impl<H> Deref for Bench<H> {
    type Target = dyn PubSub;

    fn deref(&self) -> &Self::Target {
        &*self.broker
    }
}

fn opener<H: Harness>(mut properties: Properties, consumer: &str) -> Opener<dyn PubSub> {
    properties.0.push(Property {
        name: "consumerID".to_owned(),
        value: PropertyValue::Text(consumer.to_owned()),
    });
    let resource = Resource {
        register: H::register,
        type_name: H::TYPE,
        properties,
    };
    resource
        .pubsub()
        .unwrap_or_else(|findings| panic!("the harness's properties: {findings:?}"))
}

fn publication(topic: &str, data: &[u8]) -> Publish {
    Publish {
        topic: topic.to_owned(),
        data: Bytes::copy_from_slice(data),
        metadata: Some(Metadata::new()),
        content_type: None,
    }
}

/// For what takes no more than a round trip or a few.
const SOON: Duration = Duration::from_secs(10);

/// How long to watch for what must not happen.
const QUIET: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use crate::suites::tests::assert_all_listed;

    #[test]
    fn every_case_is_listed_in_the_macro() {
        let list = include_str!("mod.rs");
        for cases in [
            include_str!("basic.rs"),
            include_str!("serial.rs"),
            include_str!("parallel.rs"),
            include_str!("groups.rs"),
            include_str!("durable.rs"),
            include_str!("message_ttl.rs"),
            include_str!("wildcards.rs"),
            include_str!("refusal.rs"),
            include_str!("ack_deadline.rs"),
            include_str!("faults.rs"),
        ] {
            assert_all_listed(list, cases);
        }
    }
}
