//! Subscriptions over streams while resources change: the app opens them once and waits.
//!
//! Owns: what §4.7 and §4.9 of `lifecycle.md` say of streams. How they end with the sidecar is in `stop.rs`.
//! Start at any test; each is a story of its own.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use outrigger_e2e::process::Signal;
use outrigger_e2e::{Component, Plan, Request, Sidecar, grpc, s};
use outrigger_proto::Message as _;
use outrigger_proto::dapr::proto::runtime::v1::subscribe_topic_events_request_alpha1::SubscribeTopicEventsRequestType as Asked;
use outrigger_proto::dapr::proto::runtime::v1::subscribe_topic_events_response_alpha1::SubscribeTopicEventsResponseType as Told;
use outrigger_proto::dapr::proto::runtime::v1::{
    SubscribeTopicEventsRequestAlpha1, SubscribeTopicEventsRequestInitialAlpha1,
    SubscribeTopicEventsRequestProcessedAlpha1, SubscribeTopicEventsResponseAlpha1,
    TopicEventRequest, TopicEventResponse,
};
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::{PrivateDir, ports, wait};

/// A stream that was asked for.
async fn stream(sidecar: &Sidecar) -> grpc::Stream {
    let method = "/dapr.proto.runtime.v1.Dapr/SubscribeTopicEventsAlpha1";
    let mut stream = grpc::Stream::open(sidecar.ports.grpc, method, &[]).await;
    let initial = SubscribeTopicEventsRequestInitialAlpha1 {
        pubsub_name: "bus".to_owned(),
        topic: "new".to_owned(),
        ..SubscribeTopicEventsRequestInitialAlpha1::default()
    };
    let request = SubscribeTopicEventsRequestAlpha1 {
        subscribe_topic_events_request_type: Some(Asked::InitialRequest(initial)),
    };
    stream.send(&request.encode_to_vec());
    stream
}

async fn told(stream: &mut grpc::Stream) -> Told {
    let message = wait::within("a message", s(15), stream.next())
        .await
        .unwrap();
    let response = SubscribeTopicEventsResponseAlpha1::decode(message).unwrap();
    response.subscribe_topic_events_response_type.unwrap()
}

async fn next_event(stream: &mut grpc::Stream) -> TopicEventRequest {
    match told(stream).await {
        Told::EventMessage(event) => event,
        Told::InitialResponse(_) => panic!("no event"),
    }
}

async fn event(stream: &mut grpc::Stream) -> String {
    text(&next_event(stream).await)
}

/// An event that the app has worked off.
async fn event_answered(stream: &mut grpc::Stream) -> String {
    let event = next_event(stream).await;
    let answer = SubscribeTopicEventsRequestProcessedAlpha1 {
        id: event.id.clone(),
        status: Some(TopicEventResponse::default()),
    };
    let request = SubscribeTopicEventsRequestAlpha1 {
        subscribe_topic_events_request_type: Some(Asked::EventProcessed(answer)),
    };
    assert!(stream.send(&request.encode_to_vec()));
    text(&event)
}

fn text(event: &TopicEventRequest) -> String {
    String::from_utf8(event.data.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_the_removal_of_its_component_and_goes_on_with_the_one_that_comes_back() {
    let sidecar = Plan::new("orders")
        .file("bus.yaml", Component::new("bus", "pubsub.in-memory").yaml())
        .serving()
        .await;
    let mut events = stream(&sidecar).await;
    assert!(matches!(told(&mut events).await, Told::InitialResponse(_)));
    sidecar.publish("bus", "new", "one").await.assert(204, "");
    assert_eq!(event(&mut events).await, r#""one""#);

    let away = PrivateDir::new("away");
    let (file, aside) = (
        sidecar.folder().join("bus.yaml"),
        away.path().join("bus.yaml"),
    );
    std::fs::rename(&file, &aside).unwrap();
    wait::until("the end of the component", s(20), async || {
        let answer = sidecar.publish("bus", "new", "lost").await;
        if answer.status == 404 {
            Ok(())
        } else {
            Err(answer.status)
        }
    })
    .await;
    std::fs::rename(&aside, &file).unwrap();
    sidecar.until_topic("bus", "new", "active", s(20)).await;
    sidecar.publish("bus", "new", "two").await.assert(204, "");
    assert_eq!(event(&mut events).await, r#""two""#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_waits_is_told_when_its_component_turns_out_to_be_wrong() {
    // The value of a secret is judged by the first attempt, and only once the store has it.
    let secrets = PrivateDir::new("secrets");
    let file = secrets.path().join("secrets.json");
    let vault = Component::new("vault", "secretstores.local.file")
        .set("secretsFile", &file.display().to_string());
    let redis = RedisServer::launch(Redis::default()).await;
    let bus = Component::redis_pubsub("bus", &redis.address()).secret("redisDB", "vault", "number");
    let sidecar = Plan::new("orders").with(&vault).with(&bus).serving().await;
    let events = stream(&sidecar).await;
    sidecar.until_topic("bus", "new", "idle", s(5)).await;
    secrets.write("secrets.json", r#"{"number": "first"}"#);
    let outcome = wait::within("the end", s(20), events.ended()).await;
    let rejected = 9;
    assert_eq!(outcome.code, rejected, "{outcome:?}");
    assert!(outcome.message.contains("rejected"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_waits_as_long_as_the_broker_is_away() {
    let address = format!("127.0.0.1:{}", ports::free());
    let sidecar = Plan::new("orders")
        .with(&Component::redis_pubsub("bus", &address))
        .serving()
        .await;
    let mut events = stream(&sidecar).await;
    sidecar.until("bus", "unavailable", s(10)).await;
    let early = tokio::time::timeout(s(3), events.next()).await;
    assert!(early.is_err(), "{early:?}");
}

/// An app whose stream is cut comes again a few times only, and a drain may take longer than that.
#[tokio::test(flavor = "multi_thread")]
async fn streams_outlive_a_drain_that_is_taken_back_and_end_with_the_sidecar() {
    let mut sidecar = Plan::new("orders")
        .with(&Component::new("bus", "pubsub.in-memory"))
        .serving()
        .await;
    let mut before = stream(&sidecar).await;
    assert!(matches!(told(&mut before).await, Told::InitialResponse(_)));
    sidecar.get("/outrigger/v1/drain").await.assert(200, "");
    let mut meanwhile = stream(&sidecar).await;
    let early = tokio::time::timeout(s(1), meanwhile.next()).await;
    assert!(early.is_err(), "{early:?}");
    let resume = Request::new("DELETE", "/outrigger/v1/drain");
    sidecar.call(resume).await.assert(200, "");
    assert!(matches!(
        told(&mut meanwhile).await,
        Told::InitialResponse(_)
    ));
    sidecar.publish("bus", "new", "after").await.assert(204, "");
    // What an app leaves unanswered stays in hand, and the end waits for it.
    for stream in [&mut before, &mut meanwhile] {
        assert_eq!(event_answered(stream).await, r#""after""#);
    }
    let late = stream(&sidecar).await;
    sidecar.process.signal(Signal::TERM);
    for stream in [before, meanwhile, late] {
        let outcome = wait::within("the end", s(10), stream.ended()).await;
        let unavailable = 14;
        assert_eq!(outcome.code, unavailable, "{outcome:?}");
    }
    assert_eq!(sidecar.process.ended(s(10)).await.code, 0);
}
