//! What becomes of a stream while its component goes away, comes back, or is rejected.

use outrigger_core::error::GrpcCode;
use outrigger_lifecycle::connection;

use super::super::*;
use super::hand_over::{Bench, component, ready};
use crate::registry::{Rejected, Table};

async fn opened(bench: &Bench) -> Stream {
    let open = bench
        .subscriptions
        .open_stream("bus", "topic", Metadata::new(), "");
    open.await.expect("the component is there")
}

impl Bench {
    /// Resources name this component now, or none.
    fn has(&self, handle: Option<&Arc<Handle<dyn PubSub>>>, rejected: Vec<Rejected>) {
        let mut table = Table {
            rejected,
            ..Table::default()
        };
        if let Some(handle) = handle {
            table.pubsub.insert("bus".to_owned(), handle.clone());
        }
        self.subscriptions.shared.registry.replace(table);
        self.subscriptions.apply(Vec::new());
    }

    /// The component is deleted.
    fn delete(&self, rejected: Vec<Rejected>) {
        self.has(None, rejected);
        self.handle.retire();
        self.handle.withdraw();
        self.handle.show(connection::Status {
            state: connection::State::Closing,
            ..ready(self.clock)
        });
    }

    fn reject(&self) {
        self.handle.withdraw();
        self.handle.show(connection::Status {
            state: connection::State::Rejected,
            ..ready(self.clock)
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_over_to_the_component_that_comes_back() {
    let bench = Bench::new();
    let old = bench.broker("old", true);
    bench.install(&old);
    let mut stream = opened(&bench).await;
    stream.watch().registered().await;
    bench.happened().await;
    bench.delete(Vec::new());
    assert_eq!(bench.happened().await, ["pause old/", "close old/"]);
    assert_eq!(bench.listed().1, State::Idle);

    // Nothing of it is called a second time by an app that only waits.
    let (new, broker) = (component(bench.clock), bench.broker("new", true));
    new.install(broker.clone(), Arc::new(crate::about::About::default()));
    bench.has(Some(&new), Vec::new());
    stream.watch().registered().await;
    assert_eq!(bench.happened().await, ["subscribe new/"]);
    bench.message(&broker);
    let event = stream.connection.events.recv().await;
    assert_eq!(
        event.map(|event| event.topic.to_string()).as_deref(),
        Some("topic")
    );
    // What has not changed is left alone.
    bench.has(Some(&new), Vec::new());
    assert_eq!(bench.happened().await, [""; 0]);
    drop(stream);
    assert!(bench.happened().await.contains(&"close new/".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_told_of_the_rejection_of_its_component_before_it_stands_and_afterwards() {
    for stands in [false, true] {
        let bench = Bench::new();
        if stands {
            bench.install(&bench.broker("b", true));
        }
        let stream = opened(&bench).await;
        if stands {
            stream.watch().registered().await;
        }
        bench.reject();
        let error = stream.watch().refused().await;
        assert_eq!(error.grpc, GrpcCode::FailedPrecondition, "stands: {stands}");
        assert_eq!(error.tag, "ERR_COMPONENT_REJECTED");
    }
}

#[tokio::test(start_paused = true)]
async fn a_component_that_comes_back_as_a_rejected_one_ends_its_streams() {
    let bench = Bench::new();
    bench.install(&bench.broker("b", true));
    let stream = opened(&bench).await;
    bench.delete(Vec::new());
    let mut watch = stream.watch();
    let soon = tokio::time::timeout(Duration::from_secs(60), watch.refused()).await;
    assert!(soon.is_err(), "one that was deleted may come back");
    let rejected = Rejected {
        name: "bus".to_owned(),
        type_name: "pubsub.fake".to_owned(),
        version: "v1".to_owned(),
        optional: false,
        required: false,
        reason: "there is no such type".to_owned(),
    };
    bench.has(None, vec![rejected]);
    assert_eq!(watch.refused().await.grpc, GrpcCode::FailedPrecondition);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_opened_early_waits_a_moment_for_the_resources() {
    let open = |subscriptions: Arc<Subscriptions>| async move {
        let opened = subscriptions.open_stream("bus", "topic", Metadata::new(), "");
        opened.await.map(|_| ()).map_err(|error| error.tag)
    };
    let bench = Bench::unread();
    let told = open(bench.subscriptions.clone()).await;
    assert_eq!(told, Err("ERR_SIDECAR_STARTING".into()));
    let early = open(bench.subscriptions.clone());
    let read = async { bench.has(Some(&bench.handle), Vec::new()) };
    assert_eq!(tokio::join!(early, read).0, Ok(()));
}
